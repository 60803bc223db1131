//! The store that many machines share: Redis, or what speaks its protocol and runs Lua.
//!
//! Each change is one script on keys of one slot ([`scripts`]). One connection a server carries questions, answers and
//! events ([`link`]); which server has which key is [`fleet`]'s. Nothing waits for a connection: who asks while there is
//! none is told at once.
//!
//! **What the store forgets.** Each answer about a room carries the identity of the memory that it came from: the server
//! process, its replication history, how often it was flushed, read in the same atomic step as the lease. A restart, with
//! or without an old snapshot, a failover, a flush, a slot that moves to another server: each changes the identity. A node
//! that has confirmed all that it has since it saw an identity says so ([`Store::registered`](crate::Store::registered)),
//! in another key, on any server. Whoever reads "no lease" with identity M, and finds there that a node has registered
//! with M, knows: that node's confirmations came after M began, M lasts, so the node does not have this room. It does not
//! matter in which order lease and registrations are read, how old the registrations are, or that they lie elsewhere: that
//! a node had confirmed all within M stays true as long as M lasts, and a registration that is lost is only missing.

mod fleet;
mod link;
mod nodes;
mod pulse;
mod scripts;
mod settings;
mod slot;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cluster::lease::{Confirmation, Conflict, Epoch, Lease, Term};
use cluster::node::{Incarnation, Node, NodeId};
use futures_util::future::join;
use redis::{FromRedisValue, Value};
use room::RoomId;
use tokio::sync::broadcast;
use tokio::time::timeout;

pub use settings::{Host, RedisSettings, Secret, SettingsError, Topology};

use crate::types::{
    MemoryId, Registered, RoomFacts, RoomState, Round, ServerFacts, StateConflict, Swept, check_size,
};
use crate::{STATE_LIFE, StoreError, StoreEvent};
use fleet::Fleet;
use link::CHANNEL;
use pulse::Pulse;
use scripts::{Compiled, Scripts};

/// How long the first connection may take.
const FIRST_CONNECTION: Duration = Duration::from_secs(5);
/// Which memories each node has registered with.
const REGISTERED: &str = "registered";
/// How long after a memory was lost every confirmation says who has registered.
const ALERT: Duration = Duration::from_secs(300);
/// How many confirmations there are to one that does, later. Telling a memory takes a server 50 us, five times what the
/// rest of a confirmation does, and only who doubts his lease after a loss wants to know.
const SELDOM: u64 = 16;
/// Keys that one step of a sweep looks at.
const SWEEP_STEP: usize = 500;

/// A connection to Redis. Clones share it.
#[derive(Clone)]
pub struct RedisStore(Arc<Inner>);

struct Inner {
    fleet: Arc<Fleet>,
    pulse: Arc<Pulse>,
    scripts: Scripts,
    /// The memories that answers came from lately.
    memories: Mutex<BTreeSet<MemoryId>>,
    /// Who had registered with which memories when last looked at.
    registrations: Mutex<BTreeMap<NodeId, BTreeSet<MemoryId>>>,
    /// When a memory was last found lost, or a lease in it.
    lost_at: Mutex<Instant>,
    confirmations: AtomicU64,
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("servers", &self.0.fleet.names()).finish_non_exhaustive()
    }
}

fn room_key(room: &RoomId) -> String {
    format!("room:{room}")
}

/// In the room's slot. Room ids may hold `:` but no braces, so that no room's key is another's state.
fn state_key(room: &RoomId) -> String {
    format!("{{room:{room}}}:state")
}

fn corrupt(key: &str, why: impl fmt::Display) -> StoreError {
    StoreError::Corrupt { key: key.to_owned(), why: why.to_string() }
}

fn read_as<T: FromRedisValue>(key: &str, value: Value) -> Result<T, StoreError> {
    redis::from_redis_value(value).map_err(|error| corrupt(key, error))
}

fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}

/// A lease as the scripts give and take it: epoch, node, incarnation; empty for none.
fn lease_texts(lease: Option<&Lease>) -> [String; 3] {
    lease.map_or_else(Default::default, |Lease { term, incarnation }| {
        [term.epoch.0.to_string(), term.node.to_string(), incarnation.0.to_string()]
    })
}

fn parse_lease(key: &str, texts: &[String]) -> Result<Option<Lease>, StoreError> {
    let [epoch, node, incarnation] = texts else { return Err(corrupt(key, "not the fields of a lease")) };
    if epoch.is_empty() {
        return Ok(None);
    }
    let number = |text: &String| text.parse::<u64>().map_err(|error| corrupt(key, error));
    let term =
        Term { epoch: Epoch(number(epoch)?), node: node.parse().map_err(|error| corrupt(key, error))? };
    Ok(Some(Lease { term, incarnation: Incarnation(number(incarnation)?) }))
}

fn facts_texts(facts: &RoomFacts) -> [String; 3] {
    let server = serde_json::to_string(&facts.server).expect("names, addresses and numbers are JSON");
    [facts.room_type.clone(), server, facts.created_ms.to_string()]
}

impl RedisStore {
    /// Connects.
    ///
    /// # Errors
    /// [`StoreError`] when there is no connection within five seconds, or the user may not do what is needed.
    pub(crate) async fn connect(settings: RedisSettings) -> Result<Self, StoreError> {
        // Whoever came first has chosen; rustls is built with one provider only.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        if matches!(settings.topology, Topology::Cluster(_)) && settings.database != 0 {
            return Err(StoreError::Refused(SettingsError::ClusterDatabase.to_string()));
        }
        let pulse = Arc::new(Pulse::new());
        let fleet = Fleet::start(settings, &pulse);
        let store = Self(Arc::new(Inner {
            fleet,
            pulse,
            scripts: Scripts::new(),
            memories: Mutex::default(),
            registrations: Mutex::default(),
            lost_at: Mutex::new(Instant::now()),
            confirmations: AtomicU64::new(0),
        }));
        let mut connected = store.0.pulse.connected();
        if timeout(FIRST_CONNECTION, connected.wait_for(|up| *up)).await.is_err() {
            return Err(store.0.pulse.failure().unwrap_or(StoreError::Away));
        }
        store.begin_round().await?;
        Ok(store)
    }

    /// Asks a script, whose answer is a list of texts.
    async fn ask(
        &self,
        script: &Compiled,
        keys: &[&str],
        arguments: &[&str],
    ) -> Result<Vec<String>, StoreError> {
        let key = keys.first().copied().unwrap_or_default();
        let answer = self.0.fleet.ask(key, script.ask(keys, arguments)).await?;
        read_as(key, answer)
    }

    /// Takes note of the memory that an answer came from.
    fn note_memory(&self, memory: &MemoryId) {
        let new = {
            let mut memories = self.0.memories.lock().expect("nobody panics while holding this lock");
            memories.insert(memory.clone())
        };
        if new {
            self.lost();
            self.0.pulse.tell(StoreEvent::MemoryLost);
        }
    }

    fn lost(&self) {
        *self.0.lost_at.lock().expect("nobody panics while holding this lock") = Instant::now();
    }

    /// Whether the next confirmation is to say who has registered.
    fn looks(&self) -> bool {
        let lost_at = *self.0.lost_at.lock().expect("nobody panics while holding this lock");
        let number = self.0.confirmations.fetch_add(1, Ordering::Relaxed);
        lost_at.elapsed() < ALERT || number.is_multiple_of(SELDOM)
    }

    fn registered_with(&self, memory: &MemoryId) -> Registered {
        let registrations = self.0.registrations.lock().expect("nobody panics while holding this lock");
        let with = registrations.iter().filter(|(_, memories)| memories.contains(memory));
        with.map(|(node, _)| node.clone()).collect()
    }

    async fn fetch_registrations(&self) -> Result<(), StoreError> {
        let mut command = redis::cmd("HGETALL");
        command.arg(REGISTERED);
        let answer = self.0.fleet.ask(REGISTERED, command).await?;
        let found: BTreeMap<String, String> = read_as(REGISTERED, answer)?;
        let parsed = found.into_iter().filter_map(|(node, text)| {
            // The incarnation, then the memories. What cannot be read is nobody's registration.
            let memories = text.split(' ').skip(1).map(|id| MemoryId(id.to_owned())).collect();
            Some((node.parse().ok()?, memories))
        });
        *self.0.registrations.lock().expect("nobody panics while holding this lock") = parsed.collect();
        Ok(())
    }

    pub(crate) async fn read(&self, room: &RoomId) -> Result<(Option<Lease>, Registered), StoreError> {
        let key = room_key(room);
        let keys = [key.as_str()];
        let (answer, fetched) =
            join(self.ask(&self.0.scripts.read, &keys, &[]), self.fetch_registrations()).await;
        fetched?;
        let answer = answer?;
        let [memory, lease @ ..] = answer.as_slice() else { return Err(corrupt(&key, "an empty answer")) };
        let memory = MemoryId(memory.clone());
        self.note_memory(&memory);
        Ok((parse_lease(&key, lease)?, self.registered_with(&memory)))
    }

    pub(crate) async fn facts(&self, room: &RoomId) -> Result<Option<RoomFacts>, StoreError> {
        let key = room_key(room);
        let mut command = redis::cmd("HMGET");
        command.arg(&key).arg(&["type", "server", "created"]);
        let found: (Option<String>, Option<String>, Option<String>) =
            read_as(&key, self.0.fleet.ask(&key, command).await?)?;
        let (Some(room_type), Some(server), Some(created)) = found else { return Ok(None) };
        let server: ServerFacts = serde_json::from_str(&server).map_err(|error| corrupt(&key, error))?;
        let created_ms = created.parse().map_err(|error| corrupt(&key, error))?;
        Ok(Some(RoomFacts { room_type, server, created_ms }))
    }

    pub(crate) async fn claim(
        &self,
        room: &RoomId,
        seen: Option<&Lease>,
        new: &Lease,
        facts: &RoomFacts,
    ) -> Result<Result<(), Conflict>, StoreError> {
        let (key, state) = (room_key(room), state_key(room));
        let [seen_epoch, seen_node, seen_incarnation] = lease_texts(seen);
        let [epoch, node, incarnation] = lease_texts(Some(new));
        let [room_type, server, created] = facts_texts(facts);
        let message = StoreEvent::RoomClaimed(room.clone(), new.term.clone()).to_wire().unwrap_or_default();
        let arguments = [
            &seen_epoch,
            &seen_node,
            &seen_incarnation,
            &epoch,
            &node,
            &incarnation,
            &room_type,
            &server,
            &created,
            CHANNEL,
            &message,
        ];
        let answer = self.ask(&self.0.scripts.claim, &[&key, &state], &arguments).await?;
        match answer.as_slice() {
            [ok] if ok == "ok" => Ok(Ok(())),
            [_, held @ ..] => Ok(Err(Conflict(parse_lease(&key, held)?))),
            [] => Err(corrupt(&key, "an empty answer")),
        }
    }

    pub(crate) async fn confirm(
        &self,
        room: &RoomId,
        own: &Lease,
        facts: &RoomFacts,
    ) -> Result<Result<(Confirmation, Registered), Conflict>, StoreError> {
        let (key, state) = (room_key(room), state_key(room));
        let [epoch, node, incarnation] = lease_texts(Some(own));
        let [room_type, server, created] = facts_texts(facts);
        let look = if self.looks() { "1" } else { "0" };
        let arguments = [&*epoch, &node, &incarnation, &room_type, &server, &created, look];
        let answer = self.ask(&self.0.scripts.confirm, &[&key, &state], &arguments).await?;
        let (found, memory) = match answer.as_slice() {
            [kept, memory] if kept == "kept" => (Confirmation::Kept, memory),
            [restored, memory] if restored == "restored" => {
                self.lost();
                (Confirmation::Restored, memory)
            }
            [_, held @ ..] => return Ok(Err(Conflict(parse_lease(&key, held)?))),
            [] => return Err(corrupt(&key, "an empty answer")),
        };
        if memory.is_empty() {
            return Ok(Ok((found, Registered::new())));
        }
        let memory = MemoryId(memory.clone());
        self.note_memory(&memory);
        Ok(Ok((found, self.registered_with(&memory))))
    }

    pub(crate) async fn release(&self, room: &RoomId, term: &Term) -> Result<(), StoreError> {
        self.delete_lease(room, term, None).await.map(drop)
    }

    /// Deletes a lease if it is still this one; says whether it was.
    async fn delete_lease(
        &self,
        room: &RoomId,
        term: &Term,
        incarnation: Option<Incarnation>,
    ) -> Result<bool, StoreError> {
        let (key, state) = (room_key(room), state_key(room));
        let incarnation = incarnation.map(|incarnation| incarnation.0.to_string()).unwrap_or_default();
        let message = StoreEvent::RoomReleased(room.clone(), term.clone()).to_wire().unwrap_or_default();
        let epoch = term.epoch.0.to_string();
        let arguments = [&*epoch, term.node.as_str(), &incarnation, &millis(STATE_LIFE), CHANNEL, &message];
        let answer = self.ask(&self.0.scripts.release, &[&key, &state], &arguments).await?;
        Ok(answer.first().is_some_and(|word| word == "ok"))
    }

    pub(crate) async fn begin_round(&self) -> Result<Round, StoreError> {
        let question = self.0.scripts.memory.ask(&[], &[]);
        let (answers, fetched) = join(self.0.fleet.ask_each(&question), self.fetch_registrations()).await;
        fetched?;
        let mut memories = BTreeSet::new();
        for answer in answers? {
            let texts: Vec<String> = read_as("INFO", answer)?;
            memories.extend(texts.into_iter().map(MemoryId));
        }
        let lost = {
            let mut known = self.0.memories.lock().expect("nobody panics while holding this lock");
            let lost = !known.is_empty() && !memories.is_subset(&known);
            known.clone_from(&memories);
            lost
        };
        if lost {
            self.lost();
            self.0.pulse.tell(StoreEvent::MemoryLost);
        }
        Ok(Round { memories })
    }

    pub(crate) async fn registered(&self, node: &Node, round: &Round) -> Result<(), StoreError> {
        let memories: Vec<&str> = round.memories.iter().map(|memory| memory.0.as_str()).collect();
        let incarnation = node.incarnation.0.to_string();
        let arguments = [node.id.as_str(), &incarnation, &memories.join(" ")];
        let answer = self.ask(&self.0.scripts.register, &[REGISTERED], &arguments).await?;
        accepted(REGISTERED, &answer)?;
        let mut registrations = self.0.registrations.lock().expect("nobody panics while holding this lock");
        registrations.insert(node.id.clone(), round.memories.clone());
        Ok(())
    }

    pub(crate) async fn room_state(&self, room: &RoomId) -> Result<Option<RoomState>, StoreError> {
        let key = state_key(room);
        let mut command = redis::cmd("HMGET");
        command.arg(&key).arg(&["version", "value"]);
        let (version, value): (Option<String>, Option<String>) =
            read_as(&key, self.0.fleet.ask(&key, command).await?)?;
        parse_state(&key, &version.unwrap_or_default(), &value.unwrap_or_default())
    }

    pub(crate) async fn set_room_state(
        &self,
        room: &RoomId,
        seen: u64,
        value: &serde_json::Value,
    ) -> Result<Result<u64, StateConflict>, StoreError> {
        let text = check_size(value)?;
        let (key, room) = (state_key(room), room_key(room));
        let next = seen.saturating_add(1);
        let arguments = [&*seen.to_string(), &next.to_string(), &text, &millis(STATE_LIFE)];
        let answer = self.ask(&self.0.scripts.set_state, &[&key, &room], &arguments).await?;
        match answer.as_slice() {
            [_] => Ok(Ok(next)),
            [_, version, value] => Ok(Err(StateConflict(parse_state(&key, version, value)?))),
            _ => Err(corrupt(&key, "not a state")),
        }
    }

    pub(crate) async fn sweep(&self, is_dead: impl Fn(&Lease) -> bool) -> Result<Swept, StoreError> {
        let mut swept = Swept::default();
        for server in self.0.fleet.names() {
            let mut cursor = "0".to_owned();
            loop {
                let mut command = redis::cmd("SCAN");
                command.arg(&cursor).arg("MATCH").arg("room:*").arg("COUNT").arg(SWEEP_STEP);
                let answer = self.0.fleet.ask_server(&server, command).await?;
                let (next, keys): (String, Vec<String>) = read_as("SCAN", answer)?;
                for room in keys.iter().filter_map(|key| RoomId::parse(key.strip_prefix("room:")?).ok()) {
                    // What another program wrote there is not ours to delete.
                    let Ok((Some(lease), _)) = self.read_lease(&room).await else { continue };
                    if is_dead(&lease)
                        && self.delete_lease(&room, &lease.term, Some(lease.incarnation)).await?
                    {
                        swept.leases.push(lease);
                    }
                }
                if next == "0" {
                    break;
                }
                cursor = next;
            }
        }
        Ok(swept)
    }

    async fn read_lease(&self, room: &RoomId) -> Result<(Option<Lease>, MemoryId), StoreError> {
        let key = room_key(room);
        let answer = self.ask(&self.0.scripts.read, &[&key], &[]).await?;
        let [memory, lease @ ..] = answer.as_slice() else { return Err(corrupt(&key, "an empty answer")) };
        Ok((parse_lease(&key, lease)?, MemoryId(memory.clone())))
    }

    pub(crate) async fn publish(&self, event: &StoreEvent) {
        let Some(message) = event.to_wire() else { return };
        let mut command = redis::cmd("PUBLISH");
        command.arg(CHANNEL).arg(message);
        if let Err(error) = self.0.fleet.ask(CHANNEL, command).await {
            tracing::debug!(%error, "a hint was not published");
        }
    }

    pub(crate) fn events(&self) -> broadcast::Receiver<StoreEvent> {
        self.0.pulse.events()
    }
}

/// Reads the answer to a change that an older life may not make.
fn accepted(key: &str, answer: &[String]) -> Result<(), StoreError> {
    match answer {
        [ok] if ok == "ok" => Ok(()),
        [_, newest] => {
            let newest = newest.parse().map_err(|error| corrupt(key, error))?;
            Err(StoreError::Replaced { newest: Incarnation(newest) })
        }
        _ => Err(corrupt(key, "an answer of another shape")),
    }
}

fn parse_state(key: &str, version: &str, value: &str) -> Result<Option<RoomState>, StoreError> {
    if version.is_empty() {
        return Ok(None);
    }
    let version = version.parse().map_err(|error| corrupt(key, error))?;
    let value = serde_json::from_str(value).map_err(|error| corrupt(key, error))?;
    Ok(Some(RoomState { version, value }))
}
