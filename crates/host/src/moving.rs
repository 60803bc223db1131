//! A room that goes on at another node: what of it is written down here and read there.
//!
//! At the moment when it is frozen the room's state stands still. What its clients had said until then, and what its sites have
//! told since, is written down behind it, in order ([`Late`]), and is the first that happens where it goes on: so nothing is
//! done twice, and nothing is lost. Both ends of each session take part: a gateway answers [`Move::Freeze`] with
//! [`FromClient::Held`], after which it says nothing until it hears how it went.

use room::{Outgoing, SessionId, SiteId, Snapshot, SnapshotError};
use serde::{Deserialize, Serialize};

use crate::session::{FromClient, ToClient};
use crate::site::SiteNews;

/// What those who carry sessions are told of a room that moves. No client hears of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Move {
    /// Say no more, answer [`FromClient::Held`], and wait. The room says nothing either.
    Freeze,
    /// The room stays: go on.
    Stay,
    /// Go on there, under this term.
    To {
        /// Its epoch.
        epoch: u64,
        /// Its node.
        node: String,
    },
}

/// A room, written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moving {
    /// Of what is written.
    pub version: u32,
    /// How many sessions it has.
    pub sessions: usize,
    text: String,
}

/// Why a room that was written down is not taken up.
#[derive(Debug, thiserror::Error)]
pub enum NotRestored {
    /// It was written by another version of this program.
    #[error(transparent)]
    Version(#[from] SnapshotError),
    /// It is not what it should be.
    #[error("the room's snapshot cannot be read: {0}")]
    Text(#[from] serde_json::Error),
    /// This node has a room of this name.
    #[error("the room is open here already")]
    Open,
    /// This node has no place for it.
    #[error(transparent)]
    Full(#[from] crate::host::ConnectError),
}

/// What is in [`Moving`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Written<S = Snapshot> {
    pub(crate) room: S,
    pub(crate) seats: Vec<WrittenSeat>,
    pub(crate) late: Vec<Late>,
    /// The keys under which the tokens of its sessions were made.
    pub(crate) keys: Vec<Key>,
    /// The node that had it.
    pub(crate) from: String,
}

/// The room's end of a session.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WrittenSeat {
    pub(crate) session: SessionId,
    /// What is kept for a client that can come back.
    pub(crate) line: Option<Outgoing<ToClient>>,
    /// It is away.
    pub(crate) away: bool,
}

/// What happened after the room stood still.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Late {
    Said(SessionId, FromClient),
    News(SiteId, SiteNews),
    Left(SessionId),
    Away(SessionId),
}

/// What the tokens of sessions were signed with under one term of their room.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Key {
    pub(crate) epoch: u64,
    pub(crate) node: String,
    pub(crate) secret: [u8; 32],
}

/// It is a secret: nothing of it is shown.
impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("epoch", &self.epoch).field("node", &self.node).finish_non_exhaustive()
    }
}

impl Moving {
    pub(crate) fn write(written: &Written<&Snapshot>) -> serde_json::Result<Self> {
        let text = serde_json::to_string(written)?;
        Ok(Self { version: Snapshot::VERSION, sessions: written.seats.len(), text })
    }

    pub(crate) fn read(&self) -> Result<Written, NotRestored> {
        if self.version != Snapshot::VERSION {
            return Err(SnapshotError::Version(self.version).into());
        }
        Ok(serde_json::from_str(&self.text)?)
    }

    /// How long it is, in bytes.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }
}
