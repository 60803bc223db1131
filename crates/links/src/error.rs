//! Why a node could not be asked, and why it said no.

use cluster::keeper::Refusal;
use cluster::lease::Term;
use cluster::node::{Incarnation, NodeId};
use host::{ConnectError, NotResumed};
use serde::{Deserialize, Serialize};

/// Why another node could not be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Nobody listens at its address: the process is dead. This was found out just now, for this very request.
    #[error("nobody listens at the node's address: its process is dead")]
    Refused,
    /// No answer in time.
    #[error("the node does not answer")]
    Silent,
    /// The connection ended, or could not be made, for a reason that proves nothing.
    #[error("the way to the node is broken: {0}")]
    Broken(String),
    /// An attempt failed a moment ago, and the next has to wait.
    #[error("the node could not be reached a moment ago")]
    Resting,
    /// One of the two does not want the other.
    #[error(transparent)]
    Policy(#[from] Policy),
    /// So many sessions go to this node already.
    #[error("{0} sessions go to this node, which is the limit")]
    Sessions(u32),
}

/// Why one node does not want another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Policy {
    /// TLS failed: it is of another authority, expired, or not there.
    #[error("wrong certificate: {0}")]
    Certificate(String),
    /// The certificate is another node's.
    #[error("wrong certificate: it is for {names:?}, and not for node {node}")]
    Name {
        /// Who it says it is.
        node: NodeId,
        /// Whom the certificate names.
        names: Vec<String>,
    },
    /// At the other end is another node than was asked for.
    #[error("wrong node: {found} answers where {wanted} should")]
    Node {
        /// Who was asked for.
        wanted: NodeId,
        /// Who answered.
        found: NodeId,
    },
    /// It is of another cluster.
    #[error("wrong cluster: {theirs:?} and not {ours:?}")]
    Cluster {
        /// That of the node that refuses.
        ours: String,
        /// The other's.
        theirs: String,
    },
    /// It speaks another version.
    #[error("wrong protocol version: {theirs} and not {ours}; run the same version of tureen on all nodes")]
    Protocol {
        /// That of the node that refuses.
        ours: u32,
        /// The other's.
        theirs: u32,
    },
    /// It is an earlier life of a node that has been seen in a later one.
    #[error("stale incarnation: {} says it is life {}, and {} has been seen", node, theirs.0, seen.0)]
    Incarnation {
        /// Which node.
        node: NodeId,
        /// What it says.
        theirs: Incarnation,
        /// The latest that was seen.
        seen: Incarnation,
    },
    /// Without TLS, beyond loopback.
    #[error("no TLS: links beyond loopback need certificates (see tureen cert)")]
    Plaintext,
    /// It speaks before it said who it is.
    #[error("no hello: a link begins with one")]
    Hello,
}

impl Policy {
    /// One word, for counters.
    pub(crate) fn why(&self) -> &'static str {
        match self {
            Self::Certificate(_) => "certificate",
            Self::Name { .. } => "certificate_name",
            Self::Node { .. } => "node",
            Self::Cluster { .. } => "cluster",
            Self::Protocol { .. } => "protocol",
            Self::Incarnation { .. } => "incarnation",
            Self::Plaintext => "plaintext",
            Self::Hello => "hello",
        }
    }
}

impl LinkError {
    /// One word, for counters.
    pub(crate) fn why(&self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Silent => "silent",
            Self::Broken(_) => "broken",
            Self::Resting => "resting",
            Self::Policy(policy) => policy.why(),
            Self::Sessions(_) => "sessions",
        }
    }
}

/// Why a node does not open a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum OpenRefused {
    /// It does not have the room under the term asked for.
    #[error("stale term: the room is not here, or under another term")]
    NotHere {
        /// The highest term that it knows of.
        newest: Option<Term>,
    },
    /// It may not let anybody in now.
    #[error(transparent)]
    NotNow(Refusal),
    /// It has no place.
    #[error(transparent)]
    Full(ConnectError),
    /// The client cannot have back the session that it wants.
    #[error(transparent)]
    NotResumed(NotResumed),
}

/// Why a session was not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The node could not be asked.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// It said no.
    #[error(transparent)]
    Refused(#[from] OpenRefused),
}
