//! A room that moves: the node that has it gives it to another, which claims it and goes on with it. One question, one
//! answer; whoever does not hear the answer does not know, and leaves it to the store.

use std::time::Duration;

use cluster::lease::{Lease, Term};
use host::Moving;
use room::RoomId;
use serde::{Deserialize, Serialize};

use crate::settings::LinkSettings;

/// How long the answer may take: the other node reads the room, and has the store change its lease.
pub(crate) const ANSWER: Duration = Duration::from_secs(5);
/// Bytes of a room, as text within text.
const MESSAGE: usize = 96 * 1024 * 1024;

/// A room, offered to another node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandOver {
    /// Which.
    pub room: RoomId,
    /// Under which the asker has it; the store holds it until the other's claim.
    pub lease: Lease,
    /// The room itself.
    pub moving: Moving,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HandedOver {
    /// The other node has it, under this term.
    Taken(Term),
    /// It does not want it, for this reason. Nothing has changed.
    Refused(String),
}

/// As other messages are, but longer.
pub(crate) fn settings(settings: LinkSettings) -> LinkSettings {
    LinkSettings { message_up: MESSAGE, ..settings }
}
