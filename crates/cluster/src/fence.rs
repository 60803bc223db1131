//! Whom a signal node or an edge believes: never a lower term than one that it has seen.
//!
//! The store replicates asynchronously and can forget; an owner can be cut off and not know it. So every message of an
//! owner carries its term, and whoever receives it looks here first.

use std::collections::HashMap;

use room::RoomId;

use crate::lease::Term;

/// Rooms remembered at most. A term is some hundred bytes: a few megabytes.
const MAX_ROOMS: usize = 50_000;

/// A message of an owner whose time is over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("stale term: {} owns the room since epoch {}", newest.node, newest.epoch.0)]
pub struct Stale {
    /// The highest term seen.
    pub newest: Term,
}

/// The highest term seen of each room.
#[derive(Debug, Default)]
pub struct Fence {
    newest: HashMap<RoomId, Term>,
}

impl Fence {
    /// Takes note of a term, and says whether who acts under it is to be believed.
    ///
    /// # Errors
    /// [`Stale`] when a higher term was seen.
    pub fn pass(&mut self, room: &RoomId, term: &Term) -> Result<(), Stale> {
        match self.newest.get_mut(room) {
            Some(newest) if *newest > *term => Err(Stale { newest: newest.clone() }),
            Some(newest) => {
                newest.clone_from(term);
                Ok(())
            }
            None => {
                self.newest.insert(room.clone(), term.clone());
                Ok(())
            }
        }
    }

    /// The highest term seen.
    pub fn newest(&self, room: &RoomId) -> Option<&Term> {
        self.newest.get(room)
    }

    /// Forgets rooms that `is_used` does not know once there are more than the limit. A forgotten room's next owner is
    /// believed at his word, so rooms with sessions here are never forgotten.
    pub fn forget_unused(&mut self, is_used: impl Fn(&RoomId) -> bool) {
        if self.newest.len() > MAX_ROOMS {
            self.newest.retain(|room, _| is_used(room));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::Epoch;

    fn term(epoch: u64, node: &str) -> Term {
        Term { epoch: Epoch(epoch), node: node.parse().expect("name") }
    }

    #[test]
    fn terms_only_rise() {
        let room = RoomId::parse("r").expect("id");
        let mut fence = Fence::default();
        assert_eq!(fence.newest(&room), None);
        assert_eq!(fence.pass(&room, &term(3, "b")), Ok(()));
        assert_eq!(fence.pass(&room, &term(3, "b")), Ok(()));
        assert_eq!(fence.pass(&room, &term(3, "a")), Err(Stale { newest: term(3, "b") }));
        assert_eq!(fence.pass(&room, &term(4, "a")), Ok(()));
        assert_eq!(fence.pass(&room, &term(3, "b")), Err(Stale { newest: term(4, "a") }));
        assert_eq!(fence.newest(&room), Some(&term(4, "a")));
    }

    #[test]
    fn beyond_the_limit_only_unused_rooms_are_forgotten() {
        let mut fence = Fence::default();
        let room = |i: usize| RoomId::parse(&format!("r{i}")).expect("id");
        for i in 0..=MAX_ROOMS {
            fence.pass(&room(i), &term(1, "a")).expect("first");
        }
        fence.forget_unused(|asked| *asked == room(7));
        assert_eq!(fence.newest(&room(7)), Some(&term(1, "a")));
        assert_eq!(fence.newest(&room(8)), None);
    }
}
