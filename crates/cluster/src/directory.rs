//! How a signal node finds the owner of a room, and whom it believes about it.
//!
//! What is known is used first; the store is asked when nothing is known or the owner is silent; placement decides whom
//! to ask to take a room that nobody has, and whom next where that one is full. Every message of an owner passes the [`Fence`].

use std::collections::HashMap;
use std::time::Instant;

use room::RoomId;

use crate::fence::{Fence, Stale};
use crate::keeper::{Answer, Refusal};
use crate::lease::{Lease, Term};
use crate::neighbourhood::Neighbourhood;
use crate::node::NodeId;

/// How many nodes are asked, one after the other, before the client is told to try again.
const MAX_HOPS: u8 = 4;

/// Where to go with a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Its room is there.
    Owner(Term),
    /// Ask the store for the lease, then call [`Directory::read`].
    Read,
    /// Ask this node to have the room, then call [`Directory::answered`].
    Ask {
        /// Whom.
        node: NodeId,
        /// The highest term that this node has seen of the room.
        floor: Option<Term>,
    },
    /// Nobody can have it now.
    NotNow(Refusal),
}

/// The rooms that this signal node has to do with.
#[derive(Debug, Default)]
pub struct Directory {
    fence: Fence,
    searches: HashMap<RoomId, Search>,
}

/// A room that is looked for.
#[derive(Debug, Default)]
struct Search {
    hops: u8,
    /// Who was asked, and has no place.
    full: Vec<NodeId>,
}

impl Directory {
    /// Where a room is, as far as is known.
    pub fn find(&mut self, room: &RoomId, others: &Neighbourhood, now: Instant) -> Step {
        match self.fence.newest(room) {
            Some(term) if !others.is_suspect(&term.node, now) => Step::Owner(term.clone()),
            _ => self.search(room),
        }
    }

    /// Looks for a room's owner anew, whatever is known: the one who was known turned a peer away.
    pub fn search(&mut self, room: &RoomId) -> Step {
        self.searches.insert(room.clone(), Search::default());
        Step::Read
    }

    /// The store answered ([`Step::Read`]); `None` when it did not in time. `place` names the node that should have the
    /// room, among those that are not suspected, or says why nobody should.
    pub fn read(
        &mut self,
        room: &RoomId,
        found: Option<Option<Lease>>,
        place: impl FnOnce() -> Result<NodeId, Refusal>,
        others: &Neighbourhood,
        now: Instant,
    ) -> Step {
        let held = match found {
            None => return self.end_search(room, Refusal::StoreAway),
            Some(held) => held,
        };
        // A store that forgot may say less than this node knows.
        let believed =
            held.filter(|lease| self.fence.newest(room).is_none_or(|newest| lease.term >= *newest));
        let node = match believed {
            Some(lease) if !others.is_suspect(&lease.term.node, now) => Ok(lease.term.node),
            _ => place(),
        };
        match node {
            Ok(node) => Step::Ask { node, floor: self.fence.newest(room).cloned() },
            Err(why) => self.end_search(room, why),
        }
    }

    /// The node that was asked ([`Step::Ask`]) answered; `None` when it did not in time. `place` is as in [`Self::read`], but for
    /// those who say that they are full.
    pub fn answered(
        &mut self,
        room: &RoomId,
        asked: &NodeId,
        answer: Option<Answer>,
        place: impl FnOnce(&[NodeId]) -> Result<NodeId, Refusal>,
    ) -> Step {
        let Some(search) = self.searches.get_mut(room) else { return Step::NotNow(Refusal::Conflict) };
        search.hops += 1;
        let many = search.hops > MAX_HOPS;
        match answer {
            Some(Answer::NotNow(Refusal::Full)) => {
                search.full.push(asked.clone());
                match place(&search.full) {
                    Ok(_) if many => self.end_search(room, Refusal::Busy),
                    Ok(node) => Step::Ask { node, floor: self.fence.newest(room).cloned() },
                    Err(why) => self.end_search(room, why),
                }
            }
            Some(Answer::Here(term)) => {
                self.searches.remove(room);
                match self.fence.pass(room, &term) {
                    Ok(()) => Step::Owner(term),
                    Err(Stale { .. }) => Step::NotNow(Refusal::Conflict),
                }
            }
            Some(Answer::Elsewhere(lease)) if !many => {
                Step::Ask { node: lease.term.node, floor: self.fence.newest(room).cloned() }
            }
            Some(Answer::Elsewhere(_)) => self.end_search(room, Refusal::Conflict),
            Some(Answer::NotNow(why)) => self.end_search(room, why),
            None => self.end_search(room, Refusal::CutOff),
        }
    }

    /// An owner says something about a room: whether it is to be believed.
    ///
    /// # Errors
    /// [`Stale`]: tell it so ([`crate::keeper::Event::Fenced`]).
    pub fn accept(&mut self, room: &RoomId, term: &Term, others: &mut Neighbourhood) -> Result<(), Stale> {
        others.note_epoch(term.epoch);
        self.fence.pass(room, term)
    }

    /// The highest term seen of a room.
    pub fn newest(&self, room: &RoomId) -> Option<&Term> {
        self.fence.newest(room)
    }

    /// Forgets rooms without sessions here, once there are too many.
    pub fn forget_unused(&mut self, is_used: impl Fn(&RoomId) -> bool) {
        self.fence.forget_unused(is_used);
    }

    fn end_search(&mut self, room: &RoomId, why: Refusal) -> Step {
        self.searches.remove(room);
        Step::NotNow(why)
    }
}
