//! What is put into the store and comes out of it, beside leases.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use cluster::lease::Lease;
use cluster::node::{Counts, Load, Node, NodeId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{MAX_STATE_BYTES, StoreError};

/// What `room:<id>` holds beside the lease: for people and other programs to read, the cluster does not decide by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomFacts {
    /// The room's type, as configured.
    pub room_type: String,
    /// Where it runs.
    pub server: ServerFacts,
    /// When it was opened: milliseconds since 1970.
    pub created_ms: u64,
}

/// The `server` field of `room:<id>`, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerFacts {
    /// The owner's name.
    pub server_id: NodeId,
    /// Where clients reach its media.
    pub ip: IpAddr,
    /// Where other nodes or clients reach it.
    pub port: u16,
    /// How busy it was, in thousandths ([`Load::highest`]).
    pub load: u16,
}

/// One memory of the store, or of one of its shards: from when a process started or was flushed until it ends, is flushed
/// or stops being the one that is asked. Never the same twice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MemoryId(pub(crate) String);

/// The beginning of a round of confirmations: the store's memories of that moment. A node that then confirms all that it
/// has, each with success, is registered with these memories ([`crate::Store::registered`]): as long as one of them lasts,
/// what the node had is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    pub(crate) memories: BTreeSet<MemoryId>,
}

/// Who has registered with the memory that an answer came from. May lack somebody who just did, never name one who did not.
pub type Registered = BTreeSet<NodeId>;

/// A node as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What it said of itself with its last beat.
    pub node: Node,
    /// How busy it said it was.
    pub load: Load,
    /// Its counters; `None` when it has not beaten for [`crate::METRICS_LIFE`].
    pub counts: Option<Counts>,
    /// How long ago its last beat was, by the store's clock.
    pub silent: Duration,
    /// It said goodbye. Only this ends a membership; one who is merely missing was forgotten by the store.
    pub left: bool,
}

/// What of a room outlives its owner: type, locks, bans, roles, as the room writes them.
#[derive(Debug, Clone, PartialEq)]
pub struct RoomState {
    /// Rises by one with each change; the first is 1.
    pub version: u64,
    /// The state.
    pub value: Value,
}

/// Another changed the state first: what the store holds instead.
#[derive(Debug, Clone, PartialEq)]
pub struct StateConflict(pub Option<RoomState>);

/// What a sweep found ([`crate::Store::sweep`]).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swept {
    /// Leases of nodes that are no more, now deleted. Take note of their epochs.
    pub leases: Vec<Lease>,
}

/// The state as it is stored.
///
/// # Errors
/// [`StoreError::TooLarge`].
pub(crate) fn check_size(value: &Value) -> Result<String, StoreError> {
    let text = value.to_string();
    if text.len() > MAX_STATE_BYTES {
        return Err(StoreError::TooLarge { bytes: text.len() });
    }
    Ok(text)
}
