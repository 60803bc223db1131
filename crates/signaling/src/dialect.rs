//! mediasoup-demo's vocabulary, in its two spellings, to and from the room's messages. Replies carry the superset of
//! both wherever both can live in one object; only where they cannot is the dialect looked at. Fields that are not
//! known are ignored.

mod incoming;
mod outgoing;

pub(crate) use incoming::{answer_without_room, parse_request};
pub(crate) use outgoing::{notification, reply, server_request, versions};

/// Which spelling a client speaks. It shows in the URL, in its first createWebRtcTransport, or in that it changes things
/// by notification. What shows first counts: nobody changes his tongue within a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// It has not shown yet: what is said must suit both.
    #[default]
    Unknown,
    /// mediasoup-demo until 2024; Android, Flutter, C++, Python.
    Classic,
    /// mediasoup-demo from October 2025.
    TypeScript,
}

impl Dialect {
    /// What the query string of the WebSocket's URL shows: only the newer web application asks about pipes.
    pub(crate) fn of_query(query: &str) -> Self {
        let newer = query.split('&').any(|pair| pair.split('=').next() == Some("usePipeTransports"));
        if newer { Self::TypeScript } else { Self::Unknown }
    }

    pub(crate) fn learn(&mut self, shown: Self) {
        if *self == Self::Unknown {
            *self = shown;
        }
    }
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
