//! Sessions that outlive their connection: how a client says which one is its own, and why it does not get it.

use room::{AskId, PeerId, RoomId, SessionId};
use serde::{Deserialize, Serialize};
use token::{ResumeClaims, Secret};

use crate::moving::Key;

/// What a client finds that is back in its session. All that it missed follows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumed {
    /// Whether it had joined.
    pub joined: bool,
    /// The questions to it whose answers have not been heard.
    pub asks: Vec<AskId>,
}

/// Why a client does not have its session back. It joins again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum NotResumed {
    /// The node that has the room did not make this token, or not in this life.
    #[error("wrong token: this node's process did not make it")]
    Token,
    /// The token is for another room.
    #[error("wrong token: it is for another room")]
    OtherRoom,
    /// The token is for another peer.
    #[error("wrong token: it is for another peer")]
    OtherPeer,
    /// The room has had another owner since.
    #[error("stale term: the room has moved since the token was made")]
    StaleTerm,
    /// The room stands still, on its way to another node.
    #[error("the room moves to another node just now")]
    Moving,
    /// The session has ended.
    #[error("the session is over: its client was away for too long, or its place was taken")]
    Gone,
    /// The client missed more than was kept.
    #[error("what the client missed is not kept any more")]
    Missed,
    /// The node that has the room does not answer.
    #[error("the node that has the session cannot be reached")]
    Unreachable,
}

impl NotResumed {
    /// One word, for counters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::OtherRoom => "other_room",
            Self::OtherPeer => "other_peer",
            Self::StaleTerm => "stale_term",
            Self::Moving => "moving",
            Self::Gone => "gone",
            Self::Missed => "missed",
            Self::Unreachable => "unreachable",
        }
    }
}

/// Makes and reads the tokens of this process' sessions. Its secret lives as long as they do, and goes with rooms that move.
#[derive(Debug)]
pub(crate) struct Passes(Option<Key>);

impl Passes {
    pub(crate) fn new() -> Self {
        let key = |secret| Key { epoch: 0, node: String::new(), secret };
        Self(Secret::random_bytes().map(key))
    }

    /// `None` where the system had no randomness to give: then clients join again.
    pub(crate) fn sign(
        &self,
        room: RoomId,
        peer: PeerId,
        session: SessionId,
        (epoch, node): (u64, String),
    ) -> Option<String> {
        let secret = self.0.as_ref()?.secret()?;
        token::sign_resume(&ResumeClaims { room, peer, session, epoch, node }, &secret).ok()
    }

    pub(crate) fn read(&self, token: &str) -> Result<ResumeClaims, NotResumed> {
        self.0.as_ref().map_or(Err(NotResumed::Token), |key| key.read(token))
    }

    /// The key of the tokens that are made under this term.
    pub(crate) fn key(&self, (epoch, node): (u64, String)) -> Option<Key> {
        Some(Key { epoch, node, secret: self.0.as_ref()?.secret })
    }
}

impl Key {
    /// A token that was made with it.
    pub(crate) fn read(&self, token: &str) -> Result<ResumeClaims, NotResumed> {
        let secret = self.secret().ok_or(NotResumed::Token)?;
        token::verify_resume(token, &secret).map_err(|_| NotResumed::Token)
    }

    fn secret(&self) -> Option<Secret> {
        // Of the right length, it is one.
        Secret::new(&self.secret).ok()
    }
}
