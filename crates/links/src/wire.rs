//! The messages between nodes, and where they go. [`Hello`] and [`Welcome`] stay readable for every version; what else
//! is said is agreed on by them.

use cluster::lease::{Epoch, Term};
use cluster::node::{Incarnation, NodeId};
use host::{FromClient, Resumed, ToClient};
use room::{Comer, RoomId, SessionId};
use serde::{Deserialize, Serialize};

use crate::error::{OpenRefused, Policy};

/// The version of what nodes say to each other. Nodes of another version are refused.
pub const PROTOCOL: u32 = 3;

/// Where each kind of message goes.
pub(crate) mod path {
    pub(crate) const HELLO: &str = "/tureen.Links/Hello";
    pub(crate) const PING: &str = "/tureen.Links/Ping";
    pub(crate) const ASK: &str = "/tureen.Links/Ask";
    pub(crate) const FENCED: &str = "/tureen.Links/Fenced";
    pub(crate) const SESSION: &str = "/tureen.Links/Session";
    pub(crate) const SITE: &str = "/tureen.Links/Site";
    pub(crate) const HAND_OVER: &str = "/tureen.Links/HandOver";
}

/// The first thing that is said on a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) protocol: u32,
    pub(crate) cluster: String,
    pub(crate) node: NodeId,
    pub(crate) incarnation: Incarnation,
}

/// The answer to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Welcome {
    Here { node: NodeId, incarnation: Incarnation },
    Refused(Policy),
}

/// Asks a media node to have a room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ask {
    pub(crate) room: RoomId,
    pub(crate) floor: Option<Term>,
}

/// Tells an owner that somebody has seen a higher term.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fenced {
    pub(crate) room: RoomId,
    pub(crate) newest: Term,
}

/// A place in a room, asked of the node that has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenSession {
    /// Which room.
    pub room: RoomId,
    /// For whom.
    pub comer: Comer,
    /// The term under which the node has the room, as far as the asker knows.
    pub term: Term,
    /// Whether the client can come back to its session when its connection breaks.
    #[serde(default)]
    pub stays: bool,
    /// The session that it has and comes back to.
    #[serde(default)]
    pub resume: Option<Resume>,
    /// The session that came to the node with its room, and is carried on.
    #[serde(default)]
    pub attach: Option<SessionId>,
}

/// A session that a client wants back.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// What it was given to prove that the session is its own.
    pub token: String,
    /// It has all messages up to this number.
    pub received: u64,
}

/// The token is a secret: nothing of it is shown.
impl std::fmt::Debug for Resume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resume").field("received", &self.received).finish_non_exhaustive()
    }
}

/// What goes up a session's stream, from the gateway to the room.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Up {
    /// First, and only then.
    Open(OpenSession),
    Say(FromClient),
}

/// What comes down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Down {
    /// First, if the session is opened.
    Opened {
        session: SessionId,
        epoch: Epoch,
        /// By which its client can come back to it.
        #[serde(default)]
        token: Option<String>,
        /// What its client finds that came back to it.
        #[serde(default)]
        resumed: Option<Resumed>,
    },
    /// First and last, if not.
    Refused(OpenRefused),
    /// The room speaks, under this term of the node at this end.
    Say { epoch: Epoch, message: ToClient },
    /// The room hung up without a word: the client does not keep up. Last.
    TooSlow,
}
