//! What the nodes of a cluster share: who has which room, who is there, and what of a room outlives its owner.
//!
//! Two stores, one contract ([`Store`]): the memory of a single process, and Redis, standalone, behind Sentinels or as a
//! Cluster. What a lease's change means is [`cluster::lease`]'s to say; each store applies it as one atomic step. The
//! store decides nothing and proves nothing: it can forget ([`Round`]), and whoever believes it fences terms.
//!
//! Keys and fields are in docs/store.md.

pub mod membership;

mod error;
mod event;
mod memory;
mod redis;
mod store;
mod types;

pub use error::StoreError;
pub use event::{Drain, StoreEvent};
pub use memory::MemoryStore;
pub use redis::{Host, RedisSettings, RedisStore, Secret, SettingsError, Topology};
pub use store::Store;
pub use types::{
    Member, MemoryId, Registered, RoomFacts, RoomState, Round, ServerFacts, StateConflict, Swept,
};

use std::time::Duration;

/// How long a node's counters stay after its last beat.
pub const METRICS_LIFE: Duration = Duration::from_secs(10);

/// How long a node that fell silent stays a member. It counts in every majority until then, or else a cut-off part would
/// take itself for the whole; an operator who knows better says goodbye in its name ([`Store::deregister`]).
pub const MEMBER_LIFE: Duration = Duration::from_secs(24 * 3600);

/// How long a room's durable state stays after the room was released.
pub const STATE_LIFE: Duration = Duration::from_secs(24 * 3600);

/// The largest durable state of a room, as JSON, in bytes: thousands of bans.
pub const MAX_STATE_BYTES: usize = 256 * 1024;

/// Events that a slow receiver may be behind before it loses the oldest. They are hints: who lags polls.
const EVENT_QUEUE: usize = 1_024;
