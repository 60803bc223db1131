//! SCTP for data channels: one association with one peer (RFC 9260), without a socket or a clock.
//!
//! With partial reliability (RFC 3758) and stream reset (RFC 6525), which data channels need (RFC 8831); without
//! multihoming, authentication and interleaving, which they do not. Whoever carries the packets (DTLS, or bare UDP
//! between routers) is no business of this module, nor is what a message means: DCEP (RFC 8832) is signaled elsewhere, so
//! its messages are messages like others.
//!
//! Nothing that a peer sends makes the association remember more than its window and [`MAX_GAPS`]: handshakes are answered
//! without memory (the cookie carries it), fragments and messages that wait for others cost their overhead too, and the
//! work per packet does not grow with what is stored but by its logarithm.

mod association;
mod cookie;
mod crc32c;
mod outstanding;
mod packet;
mod queue;
mod receiver;
mod reset;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use association::SctpAssociation;

/// Largest packet that is sent: with DTLS around it, it fits in [`crate::dtls::MTU`].
pub const MAX_PACKET: usize = 1160;

/// The port of data channels where none is signaled (RFC 8841 section 5).
pub const DEFAULT_PORT: u16 = 5000;

/// Gaps remembered between the TSNs that came. DATA that would make one more is dropped; the peer repeats it.
pub const MAX_GAPS: usize = 1024;

/// What an association is made with. Sizes are bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SctpOptions {
    /// Longest message that is sent.
    pub max_send_message_size: usize,
    /// Longest message that is taken; a longer one ends the association.
    pub max_receive_message_size: usize,
    /// What may wait to be sent, all streams together, counted with the overhead of each message.
    pub send_buffer_size: usize,
    /// What may wait to be sent on one stream.
    pub per_stream_send_queue_limit: usize,
    /// What may wait for its missing parts.
    pub max_receiver_window: usize,
    /// At how much waiting a stream's [`SctpEvent::BufferedAmountLow`] comes where nothing else is set.
    pub default_low_threshold: usize,
}

impl Default for SctpOptions {
    fn default() -> Self {
        Self {
            max_send_message_size: 256 * 1024,
            max_receive_message_size: 256 * 1024,
            send_buffer_size: 2_000_000,
            per_stream_send_queue_limit: 2_000_000,
            max_receiver_window: 5 * 1024 * 1024,
            default_low_threshold: 0,
        }
    }
}

/// Where an association stands, as its user sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "mediasoup's names")]
pub enum SctpState {
    #[default]
    New,
    Connecting,
    Connected,
    Failed,
    Closed,
}

/// Why an association ended or did not come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum SctpEnd {
    #[error("the peer does not answer")]
    Timeout,
    #[error("aborted by the peer")]
    Aborted,
    #[error("shut down by the peer")]
    ShutDown,
    #[error("the peer broke the protocol")]
    Violation,
    #[error("the peer sent more than it may")]
    Resources,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SctpEvent {
    /// The handshake began.
    Connecting,
    /// Messages flow.
    Connected,
    /// The peer began anew; what was on the way is lost, and streams count from zero.
    Restarted,
    /// The handshake failed.
    Failed(SctpEnd),
    /// The association ended.
    Closed(SctpEnd),
    /// A whole message came.
    Message {
        /// Its stream.
        stream: u16,
        /// Its payload protocol identifier.
        ppid: u32,
        /// What it says.
        data: Vec<u8>,
    },
    /// The peer reset its outgoing streams: these, or all (`None`).
    StreamsReset(Option<Vec<u16>>),
    /// What waits on a stream fell to its threshold.
    BufferedAmountLow(u16),
}

/// How a message is to be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// In the order of sending.
    pub ordered: bool,
    /// Milliseconds after which it is given up.
    pub max_life_time_ms: Option<u16>,
    /// Repeats after which it is given up.
    pub max_retransmits: Option<u16>,
}

/// A message to be sent. What it says is shared by all who are sent it.
#[derive(Debug, Clone)]
pub struct OutgoingMessage {
    /// Its stream.
    pub stream: u16,
    /// Its payload protocol identifier.
    pub ppid: u32,
    /// What it says; not empty.
    pub data: Arc<[u8]>,
    /// How it is to be delivered.
    pub delivery: Delivery,
}

/// Why a message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum SendError {
    #[error("a message cannot be empty (WebRTC has payload protocol identifiers for that)")]
    Empty,
    #[error("longer than the longest message that may be sent")]
    TooLong,
    #[error("the send buffer is full")]
    BufferFull,
    #[error("the association is closed")]
    Closed,
}

/// What was dropped or went wrong since it was taken last ([`SctpAssociation::take_counts`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SctpCounts {
    /// Packets that could not be parsed, checksum included.
    pub malformed: u64,
    /// Packets of another association, or of none.
    pub wrong_tag: u64,
    /// INITs that were answered.
    pub inits: u64,
    /// Cookies that were forged, stale or of the past.
    pub cookies_refused: u64,
    /// DATA that there was no room for.
    pub data_dropped: u64,
    /// DATA that had come before.
    pub data_duplicate: u64,
    /// Messages given up by the rules of their stream.
    pub messages_abandoned: u64,
    /// Packets with DATA sent again.
    pub retransmissions: u64,
    /// Associations that we ended because of what the peer sent.
    pub violations: u64,
}
