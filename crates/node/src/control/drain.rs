//! A node that gives up its rooms. Each is written down and offered to another node, which claims it and goes on with it; who is
//! in it does not notice, and its media here become a site of the other's room ([`Control::offer`]).
//!
//! Where that cannot be, the lease is released and another node asked to claim it, and the room's task runs on
//! here without it. Once the claim is known everywhere, no signal node takes a word of this one about the room any more, and
//! clients come to the new owner; the media that they sent and received here goes on until they have taken it up there, or
//! the drain's deadline.

use std::collections::VecDeque;
use std::time::Instant;

use cluster::keeper::{Action, Event};
use cluster::lease::{Lease, Term};
use cluster::node::{Node as Identity, NodeId};
use cluster::placement::Candidate;
use host::Prepared;
use links::{HandOver, HandedOver};
use room::RoomId;
use store::Drain;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::{Control, Input};

/// Rooms that are handed over in each interval of pings, so that neither the store nor the others are overrun.
const HANDED_AT_ONCE: usize = 32;

/// Requests to drain that are remembered: each is said again for some seconds at most.
const REMEMBERED: usize = 64;

/// Nodes that one room is offered to, one after the other, before its clients have to join again.
const HEIRS: usize = 3;

/// Requests to drain that were heard, the last first.
#[derive(Debug, Default)]
pub(super) struct Requests(VecDeque<u64>);

impl Requests {
    /// Whether it is heard for the first time. What has no number is each time.
    fn is_new(&mut self, request: Option<u64>) -> bool {
        let Some(request) = request else { return true };
        if self.0.contains(&request) {
            return false;
        }
        self.0.push_front(request);
        self.0.truncate(REMEMBERED);
        true
    }
}

/// A room of another node, on its way here.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) prepared: Box<Prepared>,
    pub(super) answer: oneshot::Sender<Result<Term, String>>,
}

/// What is left of a node that drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remaining {
    /// Rooms that it still owns.
    pub owned: usize,
    /// Rooms that are another's, or about to be, whose media runs out here.
    pub running_out: usize,
    /// Sites of other nodes' rooms, which those rooms' peers leave one after the other.
    pub edges: usize,
    /// Whether another node could take rooms.
    pub can_move: bool,
}

/// A room that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Handed {
    /// Its lease is being released, or another node asked to claim it.
    UnderWay,
    /// The store did not release it.
    Unreleased(Term),
    /// Nobody has claimed it yet.
    Homeless,
    /// Another node has it.
    Moved,
}

impl Control {
    /// The store says so. What is said again is not heard again, so that a drain that was cancelled stays so.
    pub(super) fn asked_to_drain(&mut self, drain: &Drain) {
        let own = self.settings.identity.incarnation;
        if drain.incarnation.is_some_and(|meant| meant != own) {
            return;
        }
        let is_new = self.drain_requests.is_new(drain.request);
        if is_new && self.draining.is_none() {
            self.drain(Instant::now().checked_add(drain.within));
        }
    }

    /// Begins to drain until then, at once, or not any more.
    pub(super) fn drain(&mut self, until: Option<Instant>) {
        match until {
            Some(_) => info!("draining: rooms go to other nodes"),
            None => info!("not draining any more"),
        }
        self.draining = until;
        self.homeless.clear();
        self.standing.send_modify(|standing| standing.draining = until.is_some());
        self.hand_over();
    }

    /// Gives up some rooms, and looks after those that were.
    pub(super) fn hand_over(&mut self) {
        let now = Instant::now();
        if let Some(host) = &self.host {
            self.handed.retain(|room, handed| *handed != Handed::Moved || host.has(room));
        }
        let again = self.handed.iter().filter(|(_, handed)| **handed != Handed::Moved);
        let again: Vec<_> = again.map(|(room, handed)| (room.clone(), handed.clone())).collect();
        for (room, handed) in again {
            match handed {
                Handed::Unreleased(term) => self.release(room, term),
                Handed::Homeless => self.rehome(room),
                Handed::UnderWay | Handed::Moved => {}
            }
        }
        if self.draining.is_some_and(|until| now >= until) {
            // Whoever is still here comes back elsewhere.
            let owned: Vec<_> = self.keeper.owned().map(|(room, _)| room.clone()).collect();
            owned.iter().chain(self.handed.keys()).for_each(|room| self.close(room));
            return;
        }
        let drains = self.draining.is_some() && self.store_answers;
        if !(drains || self.must_give_up(now)) || !self.others(now).any(|other| !other.full) {
            return;
        }
        let has = |room: &RoomId| self.host.as_ref().is_some_and(|host| host.has(room));
        // What is not here would only be released, which takes the store.
        let owned = self.keeper.owned().map(|(room, _)| room).filter(|room| self.store_answers || has(room));
        let some: Vec<_> = owned.take(HANDED_AT_ONCE).cloned().collect();
        for room in some {
            let is_here = self.host.as_ref().is_some_and(|host| host.has(&room));
            let event = if is_here { Event::HandOver(room) } else { Event::Ended(room) };
            for action in self.keeper.handle(event, &mut self.view, now) {
                match action {
                    Action::Offer { room, lease } => self.offer(room, lease, Vec::new()),
                    Action::Release { room, term } => self.release(room, term),
                    other => self.carry_out(other),
                }
            }
        }
    }

    /// Has another node go on with a room, one of those that have not been asked yet. What is not known to have gone well goes on
    /// here, without its lease.
    fn offer(&mut self, room: RoomId, lease: Lease, mut asked: Vec<NodeId>) {
        let heir = self.heir(&room, &asked);
        let (Some(heir), Some(host)) = (heir, self.host.clone()) else {
            self.give_up(room, lease.term);
            return;
        };
        asked.push(heir.id.clone());
        self.handed.insert(room.clone(), Handed::UnderWay);
        let (links, store) = (self.links.clone(), self.store.clone());
        self.beside(async move {
            let term = &lease.term;
            let under = (term.epoch.0, term.node.as_str().to_owned());
            let Some(handing) = host.hand_over(&room, under).await else {
                return Input::NotMoved { room, lease, asked: Vec::new() };
            };
            let offer = HandOver { room: room.clone(), lease: lease.clone(), moving: handing.moving.clone() };
            match links.hand_over(&heir, offer).await {
                Ok(HandedOver::Taken(new)) => {
                    handing.moved(new.epoch.0, new.node.as_str().to_owned());
                    return Input::Rehomed { room, moved: true };
                }
                Ok(HandedOver::Refused(why)) => {
                    warn!(%room, heir = %heir.id, why, "the other node does not take the room as it is");
                }
                Err(error) => {
                    warn!(%room, heir = %heir.id, %error, "it is not known whether the other node took the room");
                }
            }
            // Where the store is known to hold another lease, nobody else could claim it either.
            let is_taken =
                store.read(&room).await.is_ok_and(|(held, _)| held.as_ref() != Some(&lease));
            let asked = if is_taken { Vec::new() } else { asked };
            Input::NotMoved { room, lease, asked }
        });
    }

    /// Who is to have a room next, of those that were not asked.
    fn heir(&self, room: &RoomId, asked: &[NodeId]) -> Option<Identity> {
        if asked.len() >= HEIRS {
            return None;
        }
        let now = Instant::now();
        let mut candidates = self.candidates(now);
        // Who does not reach the store cannot claim it.
        let may_claim = |id: &NodeId| !asked.contains(id) && self.view.reaches_store(id, now);
        candidates.retain(|candidate| may_claim(&candidate.id));
        let chosen = self.choose(room, &candidates).ok()?;
        Some(self.members.borrow().members.get(&chosen)?.node.clone())
    }

    /// A room was offered, and goes on here. Another may take it, by replacing the very lease that the first was to replace: so
    /// whenever the first one's claim comes about, only one of them has the room. Where nobody was asked it cannot move.
    pub(super) fn not_moved(&mut self, room: RoomId, lease: Lease, asked: Vec<NodeId>) {
        if self.draining.is_none() && self.parted.is_none() {
            info!(%room, "the node drains no more: it keeps the room");
            self.handed.remove(&room);
            self.keep(Event::Stays { room, lease });
        } else if asked.is_empty() {
            self.give_up(room, lease.term);
        } else {
            self.offer(room, lease, asked);
        }
    }

    /// No node goes on with a room: its clients join again.
    fn give_up(&mut self, room: RoomId, term: Term) {
        metrics::counter!("tureen_cluster_rooms_not_moved_total").increment(1);
        self.release(room, term);
    }

    /// Another node offers a room of its own.
    pub(super) fn offered(&mut self, room: RoomId, lease: Lease, offer: Offer) {
        let now = Instant::now();
        let leaves = self.draining.is_some() || self.handed.contains_key(&room);
        let full = self.is_full();
        let actions = if leaves || full || self.offers.contains_key(&room) {
            Vec::new()
        } else {
            self.keeper.handle(Event::Offered { room: room.clone(), lease }, &mut self.view, now)
        };
        if actions.is_empty() {
            let why = match (leaves, full) {
                (true, _) => "the node drains, too",
                (false, true) => "the node is full",
                (false, false) => "the node is about to have the room",
            };
            let _ = offer.answer.send(Err(why.to_owned()));
            return;
        }
        self.offers.insert(room, offer);
        for action in actions {
            self.carry_out(action);
        }
    }

    /// A room that was claimed is this node's. If it was offered, it goes on here.
    pub(super) fn arrive(&mut self, room: &RoomId, term: &Term) {
        let (Some(Offer { prepared, answer }), Some(host)) = (self.offers.remove(room), &self.host) else {
            return;
        };
        let under = (term.epoch.0, term.node.as_str().to_owned());
        let restored = host.restore(*prepared, under).map_err(|error| error.to_string());
        match &restored {
            Ok(()) => {
                info!(%room, epoch = term.epoch.0, "the room goes on here");
                metrics::counter!("tureen_cluster_rooms_taken_over_total").increment(1);
            }
            Err(why) => warn!(%room, why, "the room cannot go on here: its clients join again"),
        }
        let _ = answer.send(restored.map(|()| term.clone()));
    }

    pub(super) fn release(&mut self, room: RoomId, term: Term) {
        self.handed.insert(room.clone(), Handed::UnderWay);
        let store = self.store.clone();
        self.beside(async move {
            let released = store.release(&room, &term).await.is_ok();
            Input::Released { room, term, released }
        });
    }

    pub(super) fn released(&mut self, room: RoomId, term: Term, released: bool) {
        if released {
            info!(%room, epoch = term.epoch.0, "the room's lease is given up");
            self.rehome(room);
        } else {
            self.handed.insert(room, Handed::Unreleased(term));
        }
    }

    /// Has another node claim a room; its claim ends the sessions of this one's term everywhere.
    fn rehome(&mut self, room: RoomId) {
        self.handed.insert(room.clone(), Handed::UnderWay);
        let (answer, found) = oneshot::channel();
        self.find(room.clone(), true, answer);
        self.beside(async move { Input::Rehomed { room, moved: matches!(found.await, Ok(Ok(_))) } });
    }

    pub(super) fn rehomed(&mut self, room: RoomId, moved: bool) {
        if moved {
            metrics::counter!("tureen_cluster_rooms_handed_over_total").increment(1);
            info!(%room, "another node has the room");
            self.homeless.remove(&room);
            self.handed.insert(room, Handed::Moved);
        } else {
            // Once for a drain, however often it is asked.
            if self.homeless.insert(room.clone()) {
                warn!(%room, "no other node took the room: asking again until one does");
            }
            self.handed.insert(room, Handed::Homeless);
        }
    }

    pub(super) fn remaining(&self) -> Remaining {
        let host = self.host.as_ref();
        let runs = |room: &RoomId| host.is_some_and(|host| host.has(room));
        let running_out = self.handed.iter().filter(|(room, handed)| **handed != Handed::Moved || runs(room));
        Remaining {
            owned: self.keeper.owned().count(),
            running_out: running_out.count(),
            edges: self.sites.as_ref().map_or(0, |sites| sites.taken.count()),
            can_move: self.others(Instant::now()).next().is_some(),
        }
    }

    /// Who else could claim rooms.
    fn others(&self, now: Instant) -> impl Iterator<Item = Candidate> {
        let me = &self.settings.identity.id;
        let others = self.candidates(now).into_iter().filter(|other| other.available && other.id != *me);
        others.filter(move |other| self.view.reaches_store(&other.id, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Between a command's first word and its next a drain may be cancelled: that word is not a drain anew.
    #[test]
    fn a_request_to_drain_is_heard_once_however_often_it_is_said() {
        let mut requests = Requests::default();
        assert!(requests.is_new(Some(7)));
        assert!(!requests.is_new(Some(7)));
        assert!(requests.is_new(Some(8)) && !requests.is_new(Some(7)));
        // Commands of an earlier version do not number theirs.
        assert!(requests.is_new(None) && requests.is_new(None));
        for other in 100..200 {
            assert!(requests.is_new(Some(other)));
        }
        assert_eq!(requests.0.len(), REMEMBERED);
        assert!(!requests.is_new(Some(199)));
    }
}
