//! What goes into a [`super::RecvStream`] with a packet, and what comes out of it.

use std::time::Instant;

use super::super::{NtpTime, ScoreChange};

/// What the stream has to know of a packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct IncomingPacket {
    /// Sequence number; of a repaired packet, the original one.
    pub seq: u16,
    /// RTP timestamp.
    pub timestamp: u32,
    /// Bytes of the whole RTP packet, header and padding included, after decryption.
    pub len: usize,
    /// Bytes of payload, without padding; zero for a packet that only pads.
    pub payload_len: usize,
    /// Whether a key frame starts here.
    pub key_frame: bool,
    /// Spatial layer inside the stream (SVC).
    pub spatial_layer: u8,
    /// Temporal layer.
    pub temporal_layer: u8,
}

/// What to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// New: store and forward it.
    Accepted(Accepted),
    /// Received before.
    Duplicate,
    /// Too far behind the newest packet.
    TooOld,
    /// Its sequence number fits nowhere, or its payload type is not the repair stream's.
    Invalid,
}

impl Verdict {
    /// The place of an accepted packet.
    #[must_use]
    pub const fn accepted(self) -> Option<Accepted> {
        match self {
            Self::Accepted(accepted) => Some(accepted),
            _ => None,
        }
    }
}

/// The place of an accepted packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Extended sequence number: never repeats in a stream, low 16 bits as sent; starts on turn one (at
    /// 65,536 or above), as [`crate::sequence::SequenceExtender`] does.
    pub seq: u64,
    /// Whether no newer packet came before it.
    pub newest: bool,
    /// Whether it was repaired: brought by the repair stream, or by a retransmission that was asked for.
    pub repaired: bool,
    /// Whether the sender restarted its numbering with it.
    pub restarted: bool,
}

/// What happened to the stream besides packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecvEvent {
    /// The score moved.
    Score(ScoreChange),
    /// So much is lost that only a key frame helps.
    KeyFrameNeeded,
}

/// The feedback message with which to ask for a key frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFrameRequest {
    /// Picture loss indication (RFC 4585, section 6.3.1).
    Pli,
    /// Full intra request (RFC 5104, section 4.3.1) with its command sequence number.
    Fir(u8),
}

/// A sender report as it was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderReportMapping {
    /// The sender's wall clock.
    pub ntp: NtpTime,
    /// The same instant on the RTP timeline.
    pub rtp_timestamp: u32,
    /// When the report arrived.
    pub received_at: Instant,
}
