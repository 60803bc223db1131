//! Sessions that outlive their connection: how a client says which one is its own, and why it does not get it.

use room::{AskId, PeerId, RoomId, SessionId};
use serde::{Deserialize, Serialize};
use token::{ResumeClaims, Secret, TokenError};

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
            Self::Gone => "gone",
            Self::Missed => "missed",
            Self::Unreachable => "unreachable",
        }
    }
}

/// Makes and reads the tokens of this process' sessions. Its secret lives as long as they do.
#[derive(Debug)]
pub(crate) struct Passes(Option<Secret>);

impl Passes {
    pub(crate) fn new() -> Self {
        Self(Secret::random())
    }

    /// `None` where the system had no randomness to give: then clients join again.
    pub(crate) fn sign(
        &self,
        room: RoomId,
        peer: PeerId,
        session: SessionId,
        (epoch, node): (u64, String),
    ) -> Option<String> {
        token::sign_resume(&ResumeClaims { room, peer, session, epoch, node }, self.0.as_ref()?).ok()
    }

    pub(crate) fn read(&self, token: &str) -> Result<ResumeClaims, NotResumed> {
        let read = |secret| token::verify_resume(token, secret);
        let claims = self.0.as_ref().map_or(Err(TokenError::Signature), read);
        claims.map_err(|_| NotResumed::Token)
    }
}
