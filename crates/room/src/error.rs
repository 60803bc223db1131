//! What a client is told when its request fails.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::event::MediaFailure;

/// A refused request. The text says what to do; [`RoomError::code`] is what protoo carries as `errorCode`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum RoomError {
    /// A request that needs `join` came before it.
    #[error("not joined yet: send join first")]
    NotJoined,
    /// A second `join` in one session.
    #[error("already joined: one join per connection")]
    AlreadyJoined,
    /// No such thing, or it is another peer's.
    #[error("no {what} with id {id:?} belongs to this peer")]
    NotFound {
        /// The kind of thing, as the client names it.
        what: Cow<'static, str>,
        /// The id as sent, cut to a printable length.
        id: String,
    },
    /// No such thing in the room.
    #[error("no {what} with id {id:?} is in this room")]
    NotHere {
        /// The kind of thing, as the client names it.
        what: Cow<'static, str>,
        /// The id as sent, cut to a printable length.
        id: String,
    },
    /// One send and one receive transport a peer; this would be another.
    #[error(
        "this peer already has a {direction} transport ({id}): reuse it, or restartIce if its network changed"
    )]
    TransportExists {
        /// `send` or `receive`.
        direction: Cow<'static, str>,
        /// The one there is.
        id: String,
    },
    /// The transport was created for the other direction.
    #[error("transport {id} was created for receiving: create one with producing:true and produce on that")]
    NotASendTransport {
        /// The transport named.
        id: String,
    },
    /// The room's policy does not let this role send this.
    #[error("role {role:?} may not produce {kind} of source {source_name:?} in this room")]
    NotAllowed {
        /// The peer's role.
        role: String,
        /// audio or video.
        kind: Cow<'static, str>,
        /// The source it declared.
        source_name: String,
    },
    /// A limit of the server's configuration.
    #[error("{what}: the limit is {limit}")]
    Limit {
        /// What there is too much of.
        what: Cow<'static, str>,
        /// The most allowed.
        limit: usize,
    },
    /// What the client sent does not fit the media it names.
    #[error("{0}")]
    Invalid(String),
    /// Not built (yet), or switched off here.
    #[error("{0}")]
    Unsupported(Cow<'static, str>),
    /// The media side cannot answer now.
    #[error("{0}: try again, or reconnect")]
    Unavailable(String),
    /// A fault of ours.
    #[error("internal error: {0}")]
    Internal(String),
}

impl RoomError {
    /// The number for `errorCode`, with HTTP's meanings: protoo has none of its own.
    pub fn code(&self) -> u16 {
        match self {
            Self::NotJoined | Self::AlreadyJoined | Self::TransportExists { .. } => 409,
            Self::NotFound { .. } | Self::NotHere { .. } => 404,
            Self::NotAllowed { .. } => 403,
            Self::Limit { .. } => 429,
            Self::NotASendTransport { .. } | Self::Invalid(_) => 400,
            Self::Unsupported(_) => 501,
            Self::Unavailable(_) => 503,
            Self::Internal(_) => 500,
        }
    }

    /// A [`RoomError::NotFound`] with the id cut to a length that fits a log line.
    pub(crate) fn not_found(what: &'static str, id: &str) -> Self {
        Self::NotFound { what: what.into(), id: id.chars().take(64).collect() }
    }

    /// A [`RoomError::NotHere`], cut likewise.
    pub(crate) fn not_here(what: &'static str, id: &str) -> Self {
        Self::NotHere { what: what.into(), id: id.chars().take(64).collect() }
    }
}

impl From<MediaFailure> for RoomError {
    fn from(failure: MediaFailure) -> Self {
        match failure {
            MediaFailure::Refused(reason) => Self::Invalid(reason),
            MediaFailure::Unavailable(reason) => Self::Unavailable(reason),
            MediaFailure::Internal(reason) => Self::Internal(reason),
        }
    }
}
