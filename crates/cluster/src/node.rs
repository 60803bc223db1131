//! A node: one running `tureen`, its identity, where it is and how much it can carry.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest node or region name, in bytes: a DNS label's.
const MAX_NAME_BYTES: usize = 63;

/// Why a node's or region's name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no name for a {what}: 1 to 63 of a-z, A-Z, 0-9, '.', '_' and '-' are")]
pub struct NameError {
    what: &'static str,
    text: String,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let good = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
                if text.is_empty() || text.len() > MAX_NAME_BYTES || !text.bytes().all(good) {
                    return Err(NameError { what: $what, text: text.to_owned() });
                }
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A node's name, unique in the cluster and kept over restarts. Part of a key: 1 to 63 of letters, digits, `.`, `_`, `-`.
    NodeId, "node"
);
name!(
    /// Where a node is: what lies close together has one name.
    Region, "region"
);

/// One life of a node: milliseconds since 1970 when it started. A node that restarts has a higher one, and what its
/// earlier life said or held does not count any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

/// What a node does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roles {
    /// Takes clients' WebSockets.
    pub signal: bool,
    /// Runs rooms and their workers.
    pub media: bool,
    /// Answers operators and decides about scaling.
    pub control: bool,
}

/// What a node can carry. The brief's figures are the defaults of `tureen serve`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// Its share of rooms relative to others': cores given to workers.
    pub weight: u32,
    /// WebRtcTransports that it takes in.
    pub transports: u32,
    /// Producers and consumers, together, that it takes in.
    pub streams: u32,
}

/// How busy a node is, measured. Each in thousandths of what the node can do, so that they compare; above 1000 it is
/// overloaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// The busiest worker's CPU.
    pub cpu: u16,
    /// Packets a second sent.
    pub packets: u16,
    /// Bits a second sent.
    pub egress: u16,
    /// How late its event loop runs, in the mean: 1000 is the latency that the node promises.
    pub lag: u16,
}

impl Load {
    /// What is scarcest.
    pub fn highest(self) -> u16 {
        self.cpu.max(self.packets).max(self.egress).max(self.lag)
    }
}

/// The brief's counters, as `server:{id}:metrics` holds them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the field's nouns, counted")]
pub struct Counts {
    pub workers: u32,
    pub routers: u32,
    pub transports: u32,
    pub producers: u32,
    pub consumers: u32,
    pub rooms: u32,
    pub peers: u32,
}

/// What a node says of itself when it registers, and again with each beat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub id: NodeId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// What it does.
    pub roles: Roles,
    /// Where it is.
    pub region: Region,
    /// Where other nodes reach it.
    pub link: SocketAddr,
    /// Where clients, or an nginx before it, reach it; `None` when it takes none.
    #[serde(default)]
    pub clients: Option<SocketAddr>,
    /// What it can carry.
    pub capacity: Capacity,
    /// It takes no new rooms and gives up those that it has.
    pub draining: bool,
    /// It has as many sessions, rooms or transports as it may: it takes no new rooms, and keeps those that it has.
    #[serde(default)]
    pub full: bool,
    /// The version of what nodes say to each other.
    pub protocol: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_in_keys() {
        for good in ["m1", "media-3.eu_west", "X"] {
            assert_eq!(good.parse::<NodeId>().map(|id| id.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", "a b", "a:b", "{a}", "ä", &"x".repeat(64)] {
            assert!(bad.parse::<Region>().is_err(), "{bad:?}");
        }
        assert!(serde_json::from_str::<NodeId>("\"a:b\"").is_err());
    }
}
