//! How a media node gets, keeps and gives up rooms.
//!
//! An owner takes peers in and changes a room only while it has the authority to:
//! - it and a majority have heard each other without a break since before the store last confirmed the lease, and that
//!   was lately, or the store is away for all whom it hears;
//! - or the store confirms the lease now, for this one admission.
//!
//! Another may claim its room only when the owner is condemned ([`Neighbourhood::is_condemned`]): half of all members or
//! more have not heard it for so long that it cannot have a majority and knows it. The first rule then does not hold
//! until the store has confirmed the lease again; the second looks at the very lease that the claimant changed. A room that the store does not know may be
//! claimed only when no node can have it ([`Neighbourhood::can_have_no_owner`]). What is left is a store that forgets a
//! claim: it comes back with its owner's next beat, and who has seen its term refuses the lower one ([`crate::fence`]).

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use room::RoomId;
use serde::{Deserialize, Serialize};

use crate::lease::{Confirmation, Conflict, Epoch, Lease, Term};
use crate::neighbourhood::Neighbourhood;
use crate::node::{Incarnation, NodeId};
use crate::timing::Timing;

/// Admissions of one room that wait for the store. More are refused: clients try again.
const MAX_WAITING: usize = 256;

/// Who waits for an admission: a number of the caller's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// A signal node asks this node to have a room.
    Ask {
        /// Who asks.
        from: NodeId,
        /// Which room.
        room: RoomId,
        /// The highest term that it has seen of it.
        floor: Option<Term>,
    },
    /// A peer wants in, or something that everybody will see is to change.
    Admit {
        /// Where.
        room: RoomId,
        /// Who waits for the answer.
        ticket: Ticket,
    },
    /// The store's answer to [`Action::Read`]; `None` when it did not answer in time.
    Read {
        /// Which room.
        room: RoomId,
        /// What it holds, and which nodes have registered since its memory began, after they had confirmed what they have.
        found: Option<(Option<Lease>, BTreeSet<NodeId>)>,
    },
    /// The store's answer to [`Action::Claim`].
    Claimed {
        /// Which room.
        room: RoomId,
        /// `None` when it did not answer in time; whether it took place is then unknown.
        result: Option<Result<(), Conflict>>,
    },
    /// The store's answer to [`Action::Confirm`].
    Confirmed {
        /// Which room.
        room: RoomId,
        /// Which term was to be confirmed.
        term: Term,
        /// When it was asked: what it says held at some time since then.
        asked_at: Instant,
        /// What it found, and which nodes have registered since its memory began; `None` when it did not answer in time.
        result: Option<Result<(Confirmation, BTreeSet<NodeId>), Conflict>>,
    },
    /// Somebody has seen a higher term of a room.
    Fenced {
        /// Which room.
        room: RoomId,
        /// That term.
        newest: Term,
    },
    /// The room's last peer left, and the room is over.
    Ended(RoomId),
    /// The room is to go to another node with all who are in it. From now on it is not this one's, but for the store.
    HandOver(RoomId),
    /// The room that was to go to another node stays here, as far as this node knows.
    Stays {
        /// Which.
        room: RoomId,
        /// Under which it had it.
        lease: Lease,
    },
    /// Its owner offers this node a room.
    Offered {
        /// Which.
        room: RoomId,
        /// Under which it has it: the store must still hold it.
        lease: Lease,
    },
    /// Whether this node has as much as it may: then it claims no room that nobody has.
    Full(bool),
    /// [`Timing::beat`] has passed, or the store is back.
    Beat,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Ask the store for a lease.
    Read(RoomId),
    /// Change it, as [`crate::lease::claim`] says.
    Claim {
        /// Which room.
        room: RoomId,
        /// What the store must still hold.
        seen: Option<Lease>,
        /// What it shall hold.
        new: Lease,
    },
    /// Confirm it, as [`crate::lease::confirm`] says.
    Confirm {
        /// Which room.
        room: RoomId,
        /// What the store shall hold.
        own: Lease,
    },
    /// Release it, as [`crate::lease::release`] says.
    Release {
        /// Which room.
        room: RoomId,
        /// Whose time is over.
        term: Term,
    },
    /// Offer another node the room.
    Offer {
        /// Which room.
        room: RoomId,
        /// The lease that the other replaces.
        lease: Lease,
    },
    /// Answer a signal node that asked.
    Answer {
        /// To whom.
        to: NodeId,
        /// About which room.
        room: RoomId,
        /// What.
        answer: Answer,
    },
    /// The room is this node's: run it under this term.
    Open {
        /// Which room.
        room: RoomId,
        /// Under which term.
        term: Term,
    },
    /// The room is another's: end it here; its clients find the new owner.
    StepDown {
        /// Which room.
        room: RoomId,
    },
    /// Whoever waited may come in.
    Admitted {
        /// Who.
        ticket: Ticket,
        /// Where.
        room: RoomId,
        /// Under which term.
        term: Term,
    },
    /// Whoever waited may not come in now.
    Refused {
        /// Who.
        ticket: Ticket,
        /// Why.
        why: Refusal,
    },
}

/// What a signal node learns that asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The room is here.
    Here(Term),
    /// The room is another's, and that one lives as far as this node knows.
    Elsewhere(Lease),
    /// Nobody can have it now.
    NotNow(Refusal),
}

/// Why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The store does not answer.
    #[error("the store does not answer: rooms that are not running yet must wait")]
    StoreAway,
    /// The store does not know the room, but it may have forgotten it: not all media nodes have registered with it, or not
    /// all are heard.
    #[error(
        "the store does not know the room, and not all media nodes have been heard since it lost its memory"
    )]
    Rebuilding,
    /// This node is cut off, and may have been replaced.
    #[error("this node is cut off from the cluster")]
    CutOff,
    /// This node does not have the room.
    #[error("the room is not here")]
    NotHere,
    /// Another was quicker.
    #[error("another node has just claimed the room")]
    Conflict,
    /// Too many wait already.
    #[error("too many wait for the store")]
    Overloaded,
    /// This node has as much as it may, or all have.
    #[error("no media node has place for another room")]
    Full,
    /// Those who are not full have too much to do at this moment, or too many had to be asked.
    #[error("all media nodes with place for another room are too busy")]
    Busy,
}

impl Refusal {
    /// A label for counters.
    pub fn name(self) -> &'static str {
        match self {
            Self::StoreAway => "store_away",
            Self::Rebuilding => "rebuilding",
            Self::CutOff => "cut_off",
            Self::NotHere => "not_here",
            Self::Conflict => "conflict",
            Self::Overloaded => "overloaded",
            Self::Full => "full",
            Self::Busy => "busy_nodes",
        }
    }
}

/// The rooms of a media node, and what it is about to do about others.
#[derive(Debug)]
pub struct Keeper {
    me: NodeId,
    incarnation: Incarnation,
    timing: Timing,
    rooms: HashMap<RoomId, Hosting>,
    full: bool,
}

#[derive(Debug)]
enum Hosting {
    /// On the way to a claim.
    Wanted { askers: Vec<NodeId>, floor: Option<Term>, new: Option<(Lease, Instant)> },
    /// Ours.
    Owned(Owned),
}

#[derive(Debug)]
struct Owned {
    lease: Lease,
    /// When the store was asked for the last confirmation that counts; `None` before there is one.
    confirmed_at: Option<Instant>,
    /// The store had forgotten the room while this node had no majority: another may have claimed it and been forgotten,
    /// too. No confirmation counts until nobody can have it.
    doubtful: bool,
    waiting: Vec<(Ticket, Instant)>,
}

impl Owned {
    /// Whether this node and a majority have heard each other without a break since before the last confirmation.
    fn is_unbroken(&self, others: &Neighbourhood, now: Instant) -> bool {
        let since = others.majority_since(now);
        since.zip(self.confirmed_at).is_some_and(|(since, confirmed_at)| since <= confirmed_at)
    }
}

impl Keeper {
    /// A node without rooms.
    pub fn new(me: NodeId, incarnation: Incarnation, timing: Timing) -> Self {
        Self { me, incarnation, timing, rooms: HashMap::new(), full: false }
    }

    /// The term under which this node has a room.
    pub fn term(&self, room: &RoomId) -> Option<&Term> {
        match self.rooms.get(room)? {
            Hosting::Owned(owned) => Some(&owned.lease.term),
            Hosting::Wanted { .. } => None,
        }
    }

    /// The rooms that this node has.
    pub fn owned(&self) -> impl Iterator<Item = (&RoomId, &Term)> {
        self.rooms.iter().filter_map(|(room, hosting)| match hosting {
            Hosting::Owned(owned) => Some((room, &owned.lease.term)),
            Hosting::Wanted { .. } => None,
        })
    }

    /// How many rooms this node has or is about to have: those that it owns, and those whose claims are on their way.
    pub fn count(&self) -> usize {
        let is_claimed = |hosting: &&Hosting| !matches!(hosting, Hosting::Wanted { new: None, .. });
        self.rooms.values().filter(is_claimed).count()
    }

    /// Takes what happened; says what is to be done, in order.
    pub fn handle(&mut self, event: Event, others: &mut Neighbourhood, now: Instant) -> Vec<Action> {
        match event {
            Event::Ask { from, room, floor } => self.asked(from, room, floor),
            Event::Admit { room, ticket } => self.admit(room, ticket, others, now),
            Event::Read { room, found } => self.read(room, found, others, now),
            Event::Claimed { room, result } => self.claimed(room, result),
            Event::Confirmed { room, term, asked_at, result } => {
                self.confirmed(&room, &term, asked_at, result, others, now)
            }
            Event::Fenced { room, newest } => self.fenced(&room, &newest),
            Event::Ended(room) => self.ended(room),
            Event::HandOver(room) => self.hand_over(room),
            Event::Stays { room, lease } => self.stays(room, lease),
            Event::Offered { room, lease } => self.offered(room, lease, others, now),
            Event::Full(full) => {
                self.full = full;
                Vec::new()
            }
            Event::Beat => self.beat(),
        }
    }

    fn asked(&mut self, from: NodeId, room: RoomId, floor: Option<Term>) -> Vec<Action> {
        let mut actions = Vec::new();
        if let Some(term) = self.term(&room) {
            if floor.as_ref().is_none_or(|floor| term >= floor) {
                let answer = Answer::Here(term.clone());
                return vec![Action::Answer { to: from, room, answer }];
            }
            // Somebody else had it since.
            self.rooms.remove(&room);
            actions.push(Action::StepDown { room: room.clone() });
        }
        match self.rooms.entry(room.clone()).or_insert_with(|| {
            actions.push(Action::Read(room));
            Hosting::Wanted { askers: Vec::new(), floor: None, new: None }
        }) {
            Hosting::Wanted { askers, floor: highest, .. } => {
                *highest = floor.max(highest.take());
                if !askers.contains(&from) {
                    askers.push(from);
                }
            }
            Hosting::Owned(_) => {}
        }
        actions
    }

    fn read(
        &mut self,
        room: RoomId,
        found: Option<(Option<Lease>, BTreeSet<NodeId>)>,
        others: &mut Neighbourhood,
        now: Instant,
    ) -> Vec<Action> {
        let Some(Hosting::Wanted { floor, new, .. }) = self.rooms.get_mut(&room) else { return Vec::new() };
        if new.is_some() {
            return Vec::new();
        }
        let Some((seen, registered)) = found else {
            return self.give_up(&room, &Answer::NotNow(Refusal::StoreAway));
        };
        match &seen {
            None if !others.can_have_no_owner(&registered, now) => {
                return self.give_up(&room, &Answer::NotNow(Refusal::Rebuilding));
            }
            Some(lease) if lease.term.node != self.me && !others.is_condemned(&lease.term.node, now) => {
                return self.give_up(&room, &Answer::Elsewhere(lease.clone()));
            }
            // What the store holds for its own comes back to it, full or not: nobody else could have it.
            seen if self.full && seen.as_ref().is_none_or(|lease| lease.term.node != self.me) => {
                return self.give_up(&room, &Answer::NotNow(Refusal::Full));
            }
            _ => {}
        }
        for term in seen.iter().map(|lease| &lease.term).chain(&*floor) {
            others.note_epoch(term.epoch);
        }
        let term = Term { epoch: Epoch(others.highest_epoch().0 + 1), node: self.me.clone() };
        others.note_epoch(term.epoch);
        let lease = Lease { term, incarnation: self.incarnation };
        *new = Some((lease.clone(), now));
        vec![Action::Claim { room, seen, new: lease }]
    }

    fn claimed(&mut self, room: RoomId, result: Option<Result<(), Conflict>>) -> Vec<Action> {
        let Some(Hosting::Wanted { new: Some(_), .. }) = self.rooms.get(&room) else { return Vec::new() };
        match result {
            // A claim that took place unheard is found by the next who reads: it is ours, and claimed anew.
            None => self.give_up(&room, &Answer::NotNow(Refusal::StoreAway)),
            Some(Err(Conflict(Some(lease)))) if lease.term.node != self.me => {
                self.give_up(&room, &Answer::Elsewhere(lease))
            }
            Some(Err(Conflict(_))) => self.give_up(&room, &Answer::NotNow(Refusal::Conflict)),
            Some(Ok(())) => {
                let Some(Hosting::Wanted { askers, new: Some((lease, asked_at)), .. }) =
                    self.rooms.remove(&room)
                else {
                    return Vec::new();
                };
                let term = lease.term.clone();
                let owned =
                    Owned { lease, confirmed_at: Some(asked_at), doubtful: false, waiting: Vec::new() };
                self.rooms.insert(room.clone(), Hosting::Owned(owned));
                let mut actions = vec![Action::Open { room: room.clone(), term: term.clone() }];
                actions.extend(askers.into_iter().map(|to| Action::Answer {
                    to,
                    room: room.clone(),
                    answer: Answer::Here(term.clone()),
                }));
                actions
            }
        }
    }

    fn give_up(&mut self, room: &RoomId, answer: &Answer) -> Vec<Action> {
        let Some(Hosting::Wanted { askers, .. }) = self.rooms.remove(room) else { return Vec::new() };
        let answer = |to| Action::Answer { to, room: room.clone(), answer: answer.clone() };
        askers.into_iter().map(answer).collect()
    }

    fn admit(&mut self, room: RoomId, ticket: Ticket, others: &Neighbourhood, now: Instant) -> Vec<Action> {
        let Some(Hosting::Owned(owned)) = self.rooms.get_mut(&room) else {
            return vec![Action::Refused { ticket, why: Refusal::NotHere }];
        };
        let is_fresh = |at| now.saturating_duration_since(at) < self.timing.confirmed;
        let lately = owned.confirmed_at.is_some_and(is_fresh);
        let unbroken = owned.is_unbroken(others, now);
        if unbroken && (lately || others.store_is_away(now)) {
            return vec![Action::Admitted { ticket, room, term: owned.lease.term.clone() }];
        }
        if owned.waiting.len() >= MAX_WAITING {
            return vec![Action::Refused { ticket, why: Refusal::Overloaded }];
        }
        owned.waiting.push((ticket, now));
        vec![Action::Confirm { room, own: owned.lease.clone() }]
    }

    fn confirmed(
        &mut self,
        room: &RoomId,
        term: &Term,
        asked_at: Instant,
        result: Option<Result<(Confirmation, BTreeSet<NodeId>), Conflict>>,
        others: &mut Neighbourhood,
        now: Instant,
    ) -> Vec<Action> {
        let Some(Hosting::Owned(owned)) = self.rooms.get_mut(room) else { return Vec::new() };
        if owned.lease.term != *term {
            return Vec::new();
        }
        let (found, registered) = match result {
            Some(Ok(answer)) => answer,
            Some(Err(_)) => return self.step_down(room, Refusal::NotHere),
            None => return refuse(owned, asked_at, Refusal::CutOff),
        };
        let unbroken = owned.is_unbroken(others, now);
        match found {
            Confirmation::Restored if !unbroken => owned.doubtful = true,
            Confirmation::Kept if owned.doubtful => {
                owned.doubtful = !others.can_have_no_owner(&registered, now);
            }
            _ => {}
        }
        if owned.doubtful {
            return refuse(owned, asked_at, Refusal::Rebuilding);
        }
        owned.confirmed_at = owned.confirmed_at.max(Some(asked_at));
        // Whoever came after the question was asked needs an answer of his own.
        let served = owned.waiting.extract_if(.., |(_, since)| *since <= asked_at);
        served
            .map(|(ticket, _)| Action::Admitted { ticket, room: room.clone(), term: term.clone() })
            .collect()
    }

    fn fenced(&mut self, room: &RoomId, newest: &Term) -> Vec<Action> {
        match self.term(room) {
            Some(term) if term < newest => self.step_down(room, Refusal::NotHere),
            _ => Vec::new(),
        }
    }

    fn step_down(&mut self, room: &RoomId, why: Refusal) -> Vec<Action> {
        let Some(Hosting::Owned(owned)) = self.rooms.remove(room) else { return Vec::new() };
        let refused = owned.waiting.into_iter().map(|(ticket, _)| Action::Refused { ticket, why });
        refused.chain([Action::StepDown { room: room.clone() }]).collect()
    }

    fn ended(&mut self, room: RoomId) -> Vec<Action> {
        let Some(Hosting::Owned(owned)) = self.rooms.get(&room) else { return Vec::new() };
        if !owned.waiting.is_empty() {
            // Somebody is on the way in.
            return Vec::new();
        }
        let term = owned.lease.term.clone();
        self.rooms.remove(&room);
        vec![Action::Release { room, term }]
    }

    /// Nobody is let in any more, and nothing confirmed: the one to whom the room is offered replaces the lease in one step, or
    /// it stays until it is released. In between nobody else can have it while this node lives. Who waits for the store to
    /// confirm the lease asks where the room is then.
    fn hand_over(&mut self, room: RoomId) -> Vec<Action> {
        match self.rooms.remove(&room) {
            Some(Hosting::Owned(owned)) if !owned.doubtful => {
                let refused = |(ticket, _)| Action::Refused { ticket, why: Refusal::NotHere };
                let refused = owned.waiting.into_iter().map(refused);
                refused.chain([Action::Offer { room, lease: owned.lease }]).collect()
            }
            Some(other) => {
                self.rooms.insert(room, other);
                Vec::new()
            }
            None => Vec::new(),
        }
    }

    /// Its lease was not confirmed meanwhile, and whoever was offered the room may have it: nobody is let in before the store has
    /// answered.
    fn stays(&mut self, room: RoomId, lease: Lease) -> Vec<Action> {
        if self.rooms.contains_key(&room) {
            return Vec::new();
        }
        let owned = Owned { lease: lease.clone(), confirmed_at: None, doubtful: false, waiting: Vec::new() };
        self.rooms.insert(room.clone(), Hosting::Owned(owned));
        vec![Action::Confirm { room, own: lease }]
    }

    /// Nothing, where this node has the room already, or is on the way to it.
    fn offered(
        &mut self,
        room: RoomId,
        lease: Lease,
        others: &mut Neighbourhood,
        now: Instant,
    ) -> Vec<Action> {
        if self.rooms.contains_key(&room) {
            return Vec::new();
        }
        let new = self.next_lease(&[&lease.term], others);
        let floor = Some(lease.term.clone());
        let wanted = Hosting::Wanted { askers: Vec::new(), floor, new: Some((new.clone(), now)) };
        self.rooms.insert(room.clone(), wanted);
        vec![Action::Claim { room, seen: Some(lease), new }]
    }

    /// A lease above these, and above all that is known.
    fn next_lease(&self, above: &[&Term], others: &mut Neighbourhood) -> Lease {
        for term in above {
            others.note_epoch(term.epoch);
        }
        let term = Term { epoch: Epoch(others.highest_epoch().0 + 1), node: self.me.clone() };
        others.note_epoch(term.epoch);
        Lease { term, incarnation: self.incarnation }
    }

    fn beat(&self) -> Vec<Action> {
        self.rooms
            .iter()
            .filter_map(|(room, hosting)| match hosting {
                Hosting::Owned(owned) => {
                    Some(Action::Confirm { room: room.clone(), own: owned.lease.clone() })
                }
                Hosting::Wanted { .. } => None,
            })
            .collect()
    }
}

/// Turns away those who waited for the answer to a question.
fn refuse(owned: &mut Owned, asked_at: Instant, why: Refusal) -> Vec<Action> {
    let refused = owned.waiting.extract_if(.., |(_, since)| *since <= asked_at);
    refused.map(|(ticket, _)| Action::Refused { ticket, why }).collect()
}
