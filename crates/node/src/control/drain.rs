//! A node that gives up its rooms: each lease is released and another node asked to claim it, and the room's task runs on
//! here without it. Once the claim is known everywhere, no signal node takes a word of this one about the room any more, and
//! clients come to the new owner; the media that they sent and received here goes on until they have taken it up there, or
//! the drain's deadline.

use std::time::Instant;

use cluster::keeper::{Action, Event};
use cluster::lease::Term;
use room::RoomId;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::{Control, Input};

/// Rooms that are handed over in each interval of pings, so that neither the store nor the others are overrun.
const HANDED_AT_ONCE: usize = 32;

/// What is left of a node that drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remaining {
    /// Rooms that it still owns.
    pub owned: usize,
    /// Rooms that are another's, or about to be, whose media runs out here.
    pub running_out: usize,
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
    /// Begins to drain until then, at once, or not any more.
    pub(super) fn drain(&mut self, until: Option<Instant>) {
        match until {
            Some(_) => info!("draining: rooms go to other nodes"),
            None => info!("not draining any more"),
        }
        self.draining = until;
        self.is_draining.send_replace(until.is_some());
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
        let Some(until) = self.draining else { return };
        if now >= until {
            // Whoever is still here comes back elsewhere.
            let owned: Vec<_> = self.keeper.owned().map(|(room, _)| room.clone()).collect();
            owned.iter().chain(self.handed.keys()).for_each(|room| self.close(room));
            return;
        }
        if !self.store_answers || !self.can_move(now) {
            return;
        }
        let some: Vec<_> = self.keeper.owned().take(HANDED_AT_ONCE).map(|(room, _)| room.clone()).collect();
        for room in some {
            for action in self.keeper.handle(Event::Ended(room), &mut self.view, now) {
                match action {
                    Action::Release { room, term } => self.release(room, term),
                    other => self.carry_out(other),
                }
            }
        }
    }

    fn release(&mut self, room: RoomId, term: Term) {
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
            self.handed.insert(room, Handed::Moved);
        } else {
            warn!(%room, "no other node took the room: asking again");
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
            can_move: self.can_move(Instant::now()),
        }
    }

    fn can_move(&self, now: Instant) -> bool {
        let me = &self.settings.identity.id;
        self.candidates(now).iter().any(|candidate| candidate.available && candidate.id != *me)
    }
}
