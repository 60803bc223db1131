//! How much of everything a room holds.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The limits of one room. Reaching one gives the client an error that names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Peers connected to one room. One worker carries a room; 200 talking peers are beyond what a core forwards,
    /// so the default leaves room for large quiet audiences and stops accidents.
    pub peers_per_room: usize,
    /// Whether a connection may take the place of another of the same peer id that has shown no key, as protoo's clients
    /// do when they reconnect. Where not, they wait until the older one has been silent for too long.
    pub replace_without_key: bool,
    /// Producers of one peer: microphone, camera, screen, its audio, and as many again for a client that replaces
    /// rather than closes.
    pub producers_per_peer: usize,
    /// Transports of one broadcaster: one a medium, in each direction, and as many again.
    pub transports_per_broadcaster: usize,
    /// Data producers of one peer: a chat, a bot, and what an application adds.
    pub data_producers_per_peer: usize,
    /// Data consumers of one peer; data producers beyond it are not forwarded to that peer.
    pub data_consumers_per_peer: usize,
    /// Consumers of one peer; producers beyond it are not forwarded to that peer.
    pub consumers_per_peer: usize,
    /// Bytes of a display name.
    pub display_name_bytes: usize,
    /// Bytes of an `appData` object, as JSON. It is repeated to every receiver.
    pub app_data_bytes: usize,
    /// Requests waiting for the room's router, over all sessions.
    pub deferred_requests: usize,
    /// Of each of its routers. Set by the host, for all rooms alike.
    #[serde(skip)]
    pub router: RouterLimits,
    /// How long a peer whose connection broke keeps its place, in milliseconds, if its client can come back to it.
    pub resume_ms: u64,
    /// Messages that are kept for a client that can come back, until it says that it has them.
    pub resume_messages: usize,
    /// How long a peer may take to move its media from a site that drains to another, in milliseconds. It is below any
    /// drain's deadline: who has not done it by then joins again, while there is still time.
    pub migrate_ms: u64,
    /// How long an empty room keeps its router, in milliseconds, so that a reload or a re-join finds it again.
    pub linger_ms: u64,
}

/// How much one router bears before a room takes another one, on another worker or node. Who would fill a router that is
/// full is given the one that bears least when the room may have no more of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RouterLimits {
    /// Transports.
    pub transports: usize,
    /// Producers and consumers together.
    pub streams: usize,
    /// Other sites that one site sends one producer to. Beyond it they get it from each other.
    pub fan_out: usize,
    /// Routers of one room, over all nodes; one on each worker at most.
    pub per_room: usize,
}

impl Default for RouterLimits {
    /// What mediasoup's users have found a core to bear.
    fn default() -> Self {
        Self { transports: 500, streams: 2000, fan_out: 8, per_room: 64 }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            peers_per_room: 500,
            replace_without_key: true,
            producers_per_peer: 8,
            transports_per_broadcaster: 8,
            data_producers_per_peer: 8,
            data_consumers_per_peer: 1024,
            consumers_per_peer: 1024,
            display_name_bytes: 256,
            app_data_bytes: 4096,
            deferred_requests: 2048,
            router: RouterLimits::default(),
            resume_ms: 15_000,
            resume_messages: 4096,
            migrate_ms: 10_000,
            linger_ms: 3000,
        }
    }
}

impl Limits {
    pub(crate) fn linger(&self) -> Duration {
        Duration::from_millis(self.linger_ms)
    }

    pub(crate) fn migrate(&self) -> Duration {
        Duration::from_millis(self.migrate_ms)
    }

    pub(crate) fn resume(&self) -> Duration {
        Duration::from_millis(self.resume_ms)
    }
}
