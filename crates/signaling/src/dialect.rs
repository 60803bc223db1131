//! mediasoup-demo's vocabulary, in its two spellings, to and from the room's messages. Replies carry the superset of
//! both wherever both can live in one object; only where they cannot is the dialect looked at. Fields that are not
//! known are ignored.

mod incoming;
mod outgoing;

pub(crate) use incoming::parse_request;
pub(crate) use outgoing::{notification, reply, server_request, version};

/// Which spelling a client speaks. It shows in its first createWebRtcTransport.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// mediasoup-demo until 2024; Android, Flutter, C++, Python.
    #[default]
    Classic,
    /// mediasoup-demo from October 2025.
    TypeScript,
}

/// A request that could not be understood or is not served here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct DialectError {
    /// For `errorCode`, by HTTP's meanings.
    pub(crate) code: u16,
    /// For `errorReason`.
    pub(crate) reason: String,
}

#[cfg(test)]
mod tests;
