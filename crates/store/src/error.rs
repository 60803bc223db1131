//! Why the store did not do what it was asked.

use cluster::node::Incarnation;

/// Why the store did not do what it was asked. None of these carries a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There is no connection now. Nothing was sent; it reconnects by itself.
    #[error("the store cannot be reached")]
    Away,
    /// The first connection did not come about, and why.
    #[error("the store cannot be reached: {0}")]
    Unreachable(String),
    /// No answer in time. Whether the change took place is not known.
    #[error("the store does not answer")]
    Timeout,
    /// A later life of this node has registered, or this one has said goodbye: two processes have one name.
    #[error("a node of this name has registered with incarnation {}: give each node its own name", .newest.0)]
    Replaced {
        /// The life that counts.
        newest: Incarnation,
    },
    /// The store answered with an error.
    #[error("the store refused: {0}")]
    Refused(String),
    /// What is stored was not written by us, or by a later version.
    #[error("{key} holds something else than expected ({why}): repair or delete it")]
    Corrupt {
        /// Where.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// More than [`crate::MAX_STATE_BYTES`].
    #[error("the room's state has {bytes} bytes as JSON: at most {} are allowed", crate::MAX_STATE_BYTES)]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
}
