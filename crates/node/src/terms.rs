//! The newest term of each room that this node has sessions with: who watches it learns of a new owner at once, and what
//! an older owner still says is not believed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cluster::fence::Stale;
use cluster::lease::Term;
use links::Believe;
use room::RoomId;
use tokio::sync::watch;

/// Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Terms(Arc<Mutex<HashMap<RoomId, watch::Sender<Term>>>>);

impl Terms {
    /// Takes note of a term that was met; sessions under a lower one end.
    pub(crate) fn saw(&self, room: &RoomId, term: &Term) {
        if let Some(newest) = self.all().get(room) {
            raise(newest, term);
        }
    }

    /// As [`Self::saw`], for a new session, which watches what comes after.
    pub(crate) fn watch(&self, room: &RoomId, term: &Term) -> watch::Receiver<Term> {
        let mut all = self.all();
        let newest = all.entry(room.clone()).or_insert_with(|| watch::Sender::new(term.clone()));
        raise(newest, term);
        newest.subscribe()
    }

    /// Whether this node has sessions with a room.
    pub(crate) fn has(&self, room: &RoomId) -> bool {
        self.all().contains_key(room)
    }

    /// Forgets rooms that no session watches any more.
    pub(crate) fn forget_unwatched(&self) {
        self.all().retain(|_, newest| newest.receiver_count() > 0);
    }

    fn all(&self) -> MutexGuard<'_, HashMap<RoomId, watch::Sender<Term>>> {
        // A plain map, whole at every instruction.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Believe for Terms {
    fn believe(&self, room: &RoomId, term: &Term) -> Result<(), Stale> {
        match self.all().get(room) {
            Some(newest) if *newest.borrow() > *term => Err(Stale { newest: newest.borrow().clone() }),
            Some(newest) => {
                raise(newest, term);
                Ok(())
            }
            None => Ok(()),
        }
    }
}

fn raise(newest: &watch::Sender<Term>, term: &Term) {
    newest.send_if_modified(|newest| {
        let higher = *term > *newest;
        if higher {
            newest.clone_from(term);
        }
        higher
    });
}

#[cfg(test)]
mod tests {
    use cluster::lease::Epoch;

    use super::*;

    fn term(epoch: u64) -> Term {
        Term { epoch: Epoch(epoch), node: "m1".parse().expect("name") }
    }

    #[test]
    fn sessions_learn_of_higher_terms_and_lower_ones_are_not_believed() {
        let (terms, room) = (Terms::default(), RoomId::parse("r").expect("id"));
        assert_eq!(terms.believe(&room, &term(1)), Ok(()), "nothing is known yet");
        let watched = terms.watch(&room, &term(3));
        assert_eq!(terms.believe(&room, &term(2)), Err(Stale { newest: term(3) }));
        assert_eq!(*watched.borrow(), term(3));
        terms.saw(&room, &term(2));
        assert_eq!(*watched.borrow(), term(3));
        assert_eq!(terms.believe(&room, &term(4)), Ok(()));
        assert_eq!(*watched.borrow(), term(4));
        drop(watched);
        terms.forget_unwatched();
        assert!(!terms.has(&room));
    }
}
