//! The names of things. Ids that clients choose are checked here, once; after that their type is the proof.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest room or peer id, in bytes. Long enough for any UUID, e-mail address or meeting title.
const MAX_CLIENT_ID_BYTES: usize = 128;

/// Why an id from outside was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Nothing, or nothing but spaces.
    #[error("{what} is empty: give 1 to 128 bytes")]
    Empty {
        /// Which id it was to be.
        what: &'static str,
    },
    /// More than 128 bytes.
    #[error("{what} has {bytes} bytes: at most 128 are allowed")]
    TooLong {
        /// Which id it was to be.
        what: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// A character that has no place in a key, a path or a log line.
    #[error("{what} contains {found:?}: control characters and any of {{}}/\\\"<> are not allowed")]
    Character {
        /// Which id it was to be.
        what: &'static str,
        /// The first offending character.
        found: char,
    },
}

fn check(what: &'static str, text: &str) -> Result<(), IdError> {
    if text.trim().is_empty() {
        return Err(IdError::Empty { what });
    }
    if text.len() > MAX_CLIENT_ID_BYTES {
        return Err(IdError::TooLong { what, bytes: text.len() });
    }
    // Braces are a hash tag in Redis Cluster keys; slash and the rest would need escaping in paths and in HTML.
    let bad = |c: char| {
        c.is_control()
            || (c.is_whitespace() && c != ' ')
            || matches!(c, '{' | '}' | '/' | '\\' | '"' | '<' | '>')
    };
    match text.chars().find(|&c| bad(c)) {
        Some(found) => Err(IdError::Character { what, found }),
        None => Ok(()),
    }
}

macro_rules! text_id {
    ($(#[$meta:meta])* $name:ident) => {
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        $(#[$meta])*
        pub struct $name(Arc<str>);

        impl $name {
            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

macro_rules! client_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        text_id!($(#[$doc])* #[serde(try_from = "String")] $name);

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                Self::parse(&text)
            }
        }

        impl $name {
            /// Checks an id that a client chose: 1 to 128 bytes, no control characters, none of `{}/\"<>`.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                check($what, text)?;
                Ok(Self(text.into()))
            }
        }
    };
}

macro_rules! media_id {
    ($(#[$doc:meta])* $name:ident) => {
        text_id!($(#[$doc])* $name);

        impl $name {
            /// Wraps an id; one that names nothing simply finds nothing.
            pub fn new(text: impl Into<Arc<str>>) -> Self {
                Self(text.into())
            }
        }
    };
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub struct $name(pub u64);
    };
}

client_id!(
    /// A room's name, chosen by whoever opens it.
    RoomId, "roomId"
);
client_id!(
    /// A peer's name within its room, chosen by the client.
    PeerId, "peerId"
);
media_id!(
    /// A WebRtcTransport, as the worker knows it.
    TransportId
);
media_id!(
    /// A Producer, as the worker knows it.
    ProducerId
);
media_id!(
    /// A Consumer, as the worker knows it.
    ConsumerId
);
media_id!(
    /// A DataProducer, as the worker knows it.
    DataProducerId
);
media_id!(
    /// A DataConsumer, as the worker knows it.
    DataConsumerId
);
media_id!(
    /// Where nodes and clients are, as the operator names it.
    Region
);
number_id!(
    /// A router of a room, never reused within the room's life.
    SiteId
);
number_id!(
    /// One connection of one client, never reused within a server's life. A peer that reconnects has a new one.
    SessionId
);
number_id!(
    /// A client's request, unique among its session's unanswered ones.
    RequestId
);
number_id!(
    /// A question of the server to a client.
    AskId
);
number_id!(
    /// A piece of work given to the media side.
    OpId
);

impl RequestId {
    /// Set in what no client waits for. Clients' own numbers stay below 2^53.
    const UNANSWERED: u64 = 1 << 63;

    /// A request whose answer nobody waits for: a client's notification.
    pub fn unanswered(number: u64) -> Self {
        Self(number | Self::UNANSWERED)
    }

    /// Whether nobody waits for its answer.
    pub fn is_unanswered(self) -> bool {
        self.0 & Self::UNANSWERED != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_take_any_script_and_refuse_what_would_break_a_key() {
        for good in ["a", "Room 7", "会議室", "x@example.org", "a-b_c.d~e:f"] {
            assert_eq!(RoomId::parse(good).map(|id| id.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", "   ", "a{b}", "a/b", "<b>", "line\nbreak", "tab\t", "a\u{2028}b", "nul\0"] {
            assert!(PeerId::parse(bad).is_err(), "{bad:?}");
        }
        assert!(PeerId::parse(&"x".repeat(128)).is_ok());
        assert_eq!(PeerId::parse(&"x".repeat(129)), Err(IdError::TooLong { what: "peerId", bytes: 129 }));
    }
}
