//! The store of a cluster of one, and of tests: in this process' memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use cluster::lease::{self, Confirmation, Conflict, Lease, Term};
use cluster::node::{Counts, Incarnation, Load, Node, NodeId};
use room::RoomId;
use serde_json::Value;
use tokio::sync::broadcast;
use tokio::time::Instant;

use crate::types::{
    Member, MemoryId, Registered, RoomFacts, RoomState, Round, StateConflict, Swept, check_size,
};
use crate::{EVENT_QUEUE, MEMBER_LIFE, METRICS_LIFE, STATE_LIFE, StoreError, StoreEvent};

/// What one process remembers. Clones share it.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    held: Arc<Mutex<Held>>,
    events: broadcast::Sender<StoreEvent>,
}

#[derive(Debug, Default)]
struct Held {
    /// How often everything was forgotten: which memory this is.
    memory: u64,
    rooms: HashMap<RoomId, Option<Lease>>,
    facts: HashMap<RoomId, RoomFacts>,
    states: HashMap<RoomId, KeptState>,
    nodes: BTreeMap<NodeId, Known>,
    registered: BTreeMap<NodeId, (Incarnation, BTreeSet<MemoryId>)>,
}

#[derive(Debug)]
struct KeptState {
    state: RoomState,
    /// Until when, once nobody has the room.
    until: Option<Instant>,
}

#[derive(Debug)]
struct Known {
    node: Node,
    load: Load,
    counts: Counts,
    beat_at: Instant,
    left: bool,
}

impl Held {
    fn memory_id(&self) -> MemoryId {
        MemoryId(self.memory.to_string())
    }

    fn registered(&self) -> Registered {
        let now = self.memory_id();
        let known = self.registered.iter().filter(|(_, (_, memories))| memories.contains(&now));
        known.map(|(node, _)| node.clone()).collect()
    }

    /// A room has an owner again: its state stays.
    fn keep_state(&mut self, room: &RoomId) {
        if let Some(kept) = self.states.get_mut(room) {
            kept.until = None;
        }
    }

    fn forget_room(&mut self, room: &RoomId) {
        self.rooms.remove(room);
        self.facts.remove(room);
        if let Some(kept) = self.states.get_mut(room) {
            kept.until = Some(Instant::now() + STATE_LIFE);
        }
    }

    fn drop_stale(&mut self) {
        let now = Instant::now();
        self.states.retain(|_, kept| kept.until.is_none_or(|until| now < until));
        self.nodes.retain(|_, known| now < known.beat_at + MEMBER_LIFE);
    }
}

impl MemoryStore {
    pub(crate) fn new() -> Self {
        Self { held: Arc::default(), events: broadcast::Sender::new(EVENT_QUEUE) }
    }

    /// Forgets everything, as a flushed Redis does.
    pub fn forget_everything(&self) {
        {
            let mut held = self.lock();
            *held = Held { memory: held.memory + 1, ..Held::default() };
        }
        self.tell(StoreEvent::MemoryLost);
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().expect("nobody panics while holding this lock")
    }

    fn tell(&self, event: StoreEvent) {
        // Nobody may be listening.
        let _ = self.events.send(event);
    }

    pub(crate) fn read(&self, room: &RoomId) -> (Option<Lease>, Registered) {
        let held = self.lock();
        (held.rooms.get(room).cloned().flatten(), held.registered())
    }

    pub(crate) fn facts(&self, room: &RoomId) -> Option<RoomFacts> {
        self.lock().facts.get(room).cloned()
    }

    pub(crate) fn claim(
        &self,
        room: &RoomId,
        seen: Option<&Lease>,
        new: &Lease,
        facts: &RoomFacts,
    ) -> Result<(), Conflict> {
        {
            let mut held = self.lock();
            lease::claim(held.rooms.entry(room.clone()).or_default(), seen, new.clone())?;
            held.facts.insert(room.clone(), facts.clone());
            held.keep_state(room);
        }
        self.tell(StoreEvent::RoomClaimed(room.clone(), new.term.clone()));
        Ok(())
    }

    pub(crate) fn confirm(
        &self,
        room: &RoomId,
        own: &Lease,
        facts: &RoomFacts,
    ) -> Result<(Confirmation, Registered), Conflict> {
        let mut held = self.lock();
        let found = lease::confirm(held.rooms.entry(room.clone()).or_default(), own)?;
        held.facts.insert(room.clone(), facts.clone());
        held.keep_state(room);
        Ok((found, held.registered()))
    }

    pub(crate) fn release(&self, room: &RoomId, term: &Term) {
        {
            let mut held = self.lock();
            let Some(lease) = held.rooms.get_mut(room) else { return };
            lease::release(lease, term);
            if lease.is_some() {
                return;
            }
            held.forget_room(room);
        }
        self.tell(StoreEvent::RoomReleased(room.clone(), term.clone()));
    }

    pub(crate) fn begin_round(&self) -> Round {
        Round { memories: BTreeSet::from([self.lock().memory_id()]) }
    }

    pub(crate) fn registered(&self, node: &Node, round: &Round) -> Result<(), StoreError> {
        let mut held = self.lock();
        if let Some((newest, _)) = held.registered.get(&node.id)
            && *newest > node.incarnation
        {
            return Err(StoreError::Replaced { newest: *newest });
        }
        held.registered.insert(node.id.clone(), (node.incarnation, round.memories.clone()));
        Ok(())
    }

    pub(crate) fn beat(&self, node: &Node, load: &Load, counts: &Counts) -> Result<(), StoreError> {
        let came = {
            let mut held = self.lock();
            let before = held.nodes.get(&node.id);
            if let Some(known) = before {
                let newest = known.node.incarnation;
                if newest > node.incarnation || (newest == node.incarnation && known.left) {
                    return Err(StoreError::Replaced { newest });
                }
            }
            let came = before.is_none_or(|known| known.node.incarnation != node.incarnation);
            let known = Known {
                node: node.clone(),
                load: *load,
                counts: *counts,
                beat_at: Instant::now(),
                left: false,
            };
            held.nodes.insert(node.id.clone(), known);
            came
        };
        if came {
            self.tell(StoreEvent::NodeCame(node.id.clone()));
        }
        Ok(())
    }

    pub(crate) fn deregister(&self, id: &NodeId, incarnation: Incarnation) {
        {
            let mut held = self.lock();
            match held.nodes.get_mut(id) {
                Some(known) if !known.left && known.node.incarnation <= incarnation => known.left = true,
                _ => return,
            }
            held.registered.remove(id);
        }
        self.tell(StoreEvent::NodeLeft(id.clone()));
    }

    pub(crate) fn members(&self) -> Vec<Member> {
        let mut held = self.lock();
        held.drop_stale();
        let member = |known: &Known| {
            let silent = known.beat_at.elapsed();
            Member {
                node: known.node.clone(),
                load: known.load,
                counts: (silent < METRICS_LIFE && !known.left).then_some(known.counts),
                silent,
                left: known.left,
            }
        };
        held.nodes.values().map(member).collect()
    }

    pub(crate) fn room_state(&self, room: &RoomId) -> Option<RoomState> {
        let mut held = self.lock();
        held.drop_stale();
        held.states.get(room).map(|kept| kept.state.clone())
    }

    pub(crate) fn set_room_state(
        &self,
        room: &RoomId,
        seen: u64,
        value: &Value,
    ) -> Result<Result<u64, StateConflict>, StoreError> {
        check_size(value)?;
        let mut held = self.lock();
        held.drop_stale();
        let before = held.states.get(room).map(|kept| kept.state.clone());
        if before.as_ref().map_or(0, |state| state.version) != seen {
            return Ok(Err(StateConflict(before)));
        }
        let version = seen + 1;
        let owned = held.rooms.get(room).is_some_and(Option::is_some);
        let until = (!owned).then(|| Instant::now() + STATE_LIFE);
        let state = RoomState { version, value: value.clone() };
        held.states.insert(room.clone(), KeptState { state, until });
        Ok(Ok(version))
    }

    pub(crate) fn sweep(&self, is_dead: impl Fn(&Lease) -> bool) -> Swept {
        let mut held = self.lock();
        let dead = |lease: &Option<Lease>| lease.clone().filter(|lease| is_dead(lease));
        let found: Vec<(RoomId, Lease)> =
            held.rooms.iter().filter_map(|(room, lease)| Some((room.clone(), dead(lease)?))).collect();
        for (room, _) in &found {
            held.forget_room(room);
        }
        Swept { leases: found.into_iter().map(|(_, lease)| lease).collect() }
    }

    pub(crate) fn publish(&self, event: &StoreEvent) {
        if event.to_wire().is_some() {
            self.tell(event.clone());
        }
    }

    pub(crate) fn events(&self) -> broadcast::Receiver<StoreEvent> {
        self.events.subscribe()
    }
}
