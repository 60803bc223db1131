//! The store's contract, and the choice between the two that keep it.

use cluster::lease::{Confirmation, Conflict, Lease, Term};
use cluster::node::{Counts, Incarnation, Load, Node, NodeId};
use room::RoomId;
use serde_json::Value;
use tokio::sync::broadcast;

use crate::memory::MemoryStore;
use crate::redis::{RedisSettings, RedisStore};
use crate::types::{Member, Registered, RoomFacts, RoomState, Round, StateConflict, Swept};
use crate::{StoreError, StoreEvent};

/// What the nodes of a cluster share. Clones share one connection.
///
/// Each change is one atomic step. An answer comes within about a second, or [`StoreError::Timeout`] does; while there is
/// no connection, [`StoreError::Away`] comes at once. After either of a change, whether it took place is not known.
#[derive(Debug, Clone)]
pub enum Store {
    /// In this process' memory: a cluster of one, and tests.
    Memory(MemoryStore),
    /// In Redis.
    Redis(RedisStore),
}

impl Store {
    /// A store in this process' memory. Clones of it share what it holds.
    pub fn memory() -> Self {
        Self::Memory(MemoryStore::new())
    }

    /// A store in Redis.
    ///
    /// # Errors
    /// [`StoreError`] when there is no connection within five seconds, or the user may not do what is needed.
    pub async fn redis(settings: RedisSettings) -> Result<Self, StoreError> {
        RedisStore::connect(settings).await.map(Self::Redis)
    }

    /// A room's lease, and who has registered since the memory that says so began.
    ///
    /// # Errors
    /// [`StoreError`], when the store cannot be asked or its answer not be read.
    pub async fn read(&self, room: &RoomId) -> Result<(Option<Lease>, Registered), StoreError> {
        match self {
            Self::Memory(store) => Ok(store.read(room)),
            Self::Redis(store) => store.read(room).await,
        }
    }

    /// What is written beside a room's lease.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn facts(&self, room: &RoomId) -> Result<Option<RoomFacts>, StoreError> {
        match self {
            Self::Memory(store) => Ok(store.facts(room)),
            Self::Redis(store) => store.facts(room).await,
        }
    }

    /// Changes a room's lease as [`cluster::lease::claim`] says.
    ///
    /// # Errors
    /// [`StoreError`], when it is not known whether that happened; within, [`Conflict`] when it did not.
    pub async fn claim(
        &self,
        room: &RoomId,
        seen: Option<&Lease>,
        new: &Lease,
        facts: &RoomFacts,
    ) -> Result<Result<(), Conflict>, StoreError> {
        match self {
            Self::Memory(store) => Ok(store.claim(room, seen, new, facts)),
            Self::Redis(store) => store.claim(room, seen, new, facts).await,
        }
    }

    /// Confirms a lease as [`cluster::lease::confirm`] says, and what is known beside it. Who has registered is said always
    /// in the five minutes after a loss of memory, and later now and then: the set may be empty.
    ///
    /// # Errors
    /// As [`Self::claim`].
    pub async fn confirm(
        &self,
        room: &RoomId,
        own: &Lease,
        facts: &RoomFacts,
    ) -> Result<Result<(Confirmation, Registered), Conflict>, StoreError> {
        match self {
            Self::Memory(store) => Ok(store.confirm(room, own, facts)),
            Self::Redis(store) => store.confirm(room, own, facts).await,
        }
    }

    /// Releases a lease as [`cluster::lease::release`] says. The room's state stays for [`crate::STATE_LIFE`].
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn release(&self, room: &RoomId, term: &Term) -> Result<(), StoreError> {
        match self {
            Self::Memory(store) => {
                store.release(room, term);
                Ok(())
            }
            Self::Redis(store) => store.release(room, term).await,
        }
    }

    /// Begins a round of confirmations. To be called before the first of them is sent.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn begin_round(&self) -> Result<Round, StoreError> {
        match self {
            Self::Memory(store) => Ok(store.begin_round()),
            Self::Redis(store) => store.begin_round().await,
        }
    }

    /// Says that this node has confirmed all that it has since `round` began, each with success: from now on
    /// [`Self::read`] and [`Self::confirm`] name it. A claim whose answer is on its way is something that it has.
    ///
    /// # Errors
    /// [`StoreError::Replaced`] to an older life; else as [`Self::read`].
    pub async fn registered(&self, node: &Node, round: &Round) -> Result<(), StoreError> {
        match self {
            Self::Memory(store) => store.registered(node, round),
            Self::Redis(store) => store.registered(node, round).await,
        }
    }

    /// Registers this node, or says that it lives: what it is, how busy it is, what it counts.
    ///
    /// # Errors
    /// [`StoreError::Replaced`] to an older life and to one that has said goodbye; else as [`Self::read`].
    pub async fn beat(&self, node: &Node, load: &Load, counts: &Counts) -> Result<(), StoreError> {
        match self {
            Self::Memory(store) => store.beat(node, load, counts),
            Self::Redis(store) => store.beat(node, load, counts).await,
        }
    }

    /// Says goodbye for a life of a node and those before it. An older life's goodbye does nothing.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn deregister(&self, id: &NodeId, incarnation: Incarnation) -> Result<(), StoreError> {
        match self {
            Self::Memory(store) => {
                store.deregister(id, incarnation);
                Ok(())
            }
            Self::Redis(store) => store.deregister(id, incarnation).await,
        }
    }

    /// All nodes that have registered, silent ones included for [`crate::MEMBER_LIFE`], and as long those that said
    /// goodbye. In order of their names.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn members(&self) -> Result<Vec<Member>, StoreError> {
        match self {
            Self::Memory(store) => Ok(store.members()),
            Self::Redis(store) => store.members().await,
        }
    }

    /// A room's durable state.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn room_state(&self, room: &RoomId) -> Result<Option<RoomState>, StoreError> {
        match self {
            Self::Memory(store) => Ok(store.room_state(room)),
            Self::Redis(store) => store.room_state(room).await,
        }
    }

    /// Replaces a room's durable state if its version is still `seen` (0: there is none); returns the new version. While
    /// nobody has the room it stays for [`crate::STATE_LIFE`].
    ///
    /// # Errors
    /// As [`Self::claim`]; [`StoreError::TooLarge`].
    pub async fn set_room_state(
        &self,
        room: &RoomId,
        seen: u64,
        value: &Value,
    ) -> Result<Result<u64, StateConflict>, StoreError> {
        match self {
            Self::Memory(store) => store.set_room_state(room, seen, value),
            Self::Redis(store) => store.set_room_state(room, seen, value).await,
        }
    }

    /// Deletes leases whose owner `is_dead`: rooms of nodes that died and whose clients never came back. Each is deleted
    /// only if it is still what was judged. Nothing else deletes a lease that its owner does not release.
    ///
    /// # Errors
    /// As [`Self::read`]; some may have been deleted.
    pub async fn sweep(&self, is_dead: impl Fn(&Lease) -> bool) -> Result<Swept, StoreError> {
        match self {
            Self::Memory(store) => Ok(store.sweep(is_dead)),
            Self::Redis(store) => store.sweep(is_dead).await,
        }
    }

    /// Tells all nodes of an event, this one included. A hint: nobody is told if the store is away.
    pub async fn publish(&self, event: &StoreEvent) {
        match self {
            Self::Memory(store) => store.publish(event),
            Self::Redis(store) => store.publish(event).await,
        }
    }

    /// Events from now on. Claims, releases, first beats and goodbyes tell of themselves.
    pub fn events(&self) -> broadcast::Receiver<StoreEvent> {
        match self {
            Self::Memory(store) => store.events(),
            Self::Redis(store) => store.events(),
        }
    }
}
