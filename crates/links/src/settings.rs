//! The clocks and limits of links. Those of a cluster's nodes need not be equal.

use std::time::Duration;

use cluster::node::{Incarnation, NodeId};

/// Who a node says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Me {
    /// Its name; its certificate has it as a DNS name.
    pub id: NodeId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// The cluster's name: nodes of another are refused.
    pub cluster: String,
}

/// The clocks and limits of a node's links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkSettings {
    /// Between two HTTP/2 pings on a connection.
    pub keep_alive: Duration,
    /// How long the answer may take, until the connection counts as broken.
    pub keep_alive_timeout: Duration,
    /// How long TCP may take to connect, and how long the handshakes of TLS and of our protocol may take, each.
    pub handshake: Duration,
    /// How long a node may take to answer a ping.
    pub ping: Duration,
    /// How long a node may take to answer anything else.
    pub answer: Duration,
    /// The rest after a first failed attempt to connect; doubles with each, by chance between half and all of it.
    pub rest: Duration,
    /// The longest rest.
    pub longest_rest: Duration,
    /// Sessions on one connection.
    pub sessions: u32,
    /// Connections that a server takes in at once.
    pub connections: usize,
    /// Bytes of one session that may be on their way to a gateway. Times the sessions of a connection, that is what a
    /// node sets aside at worst.
    pub session_window: u32,
    /// Bytes of one message from a gateway to a room. A gateway takes frames of 256 kB from clients.
    pub message_up: usize,
    /// Bytes of one message from a room. The longest is the list of who is there already.
    pub message_down: usize,
}

impl Default for LinkSettings {
    fn default() -> Self {
        Self {
            keep_alive: Duration::from_millis(500),
            keep_alive_timeout: Duration::from_millis(1_000),
            handshake: Duration::from_millis(1_000),
            ping: Duration::from_millis(1_000),
            answer: Duration::from_secs(3),
            rest: Duration::from_millis(100),
            longest_rest: Duration::from_millis(1_000),
            sessions: 10_000,
            connections: 1_024,
            session_window: 64 * 1024,
            message_up: 1024 * 1024,
            message_down: 8 * 1024 * 1024,
        }
    }
}

/// The window of a whole connection: the most that HTTP/2 knows (RFC 9113 section 6.9.1). What is on its way is limited
/// per session; a connection's limit beside that would let sessions that are not read stop all others.
pub(crate) const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
/// Streams of a connection beside those of sessions: pings and questions.
pub(crate) const OTHER_STREAMS: u32 = 64;
/// Bytes that HTTP/2 holds of one stream until they are sent.
pub(crate) const SEND_BUFFER: usize = 32 * 1024;
