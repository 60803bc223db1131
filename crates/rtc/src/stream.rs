//! One SSRC in either direction: what is counted, asked for again, repeated and reported about it.
//!
//! These are pure state machines. They take `now`, read no clock, open no socket and write no packet: the
//! owner parses what arrives, calls them, and serialises what they ask for. RFC 3550 (appendix A.1, A.3 and
//! A.8) governs the counting, RFC 4585 the feedback, RFC 4588 the repair streams; scores and the fields of
//! the statistics are those that mediasoup reports.

pub mod key_frame;
pub mod nack;
mod placement;
pub mod recv;
pub mod score;
pub mod send;
pub mod sent;
pub mod store;

pub use crate::rtcp::{NtpTime, ReportBlock, SenderInfo};
pub use crate::rtp::Ssrc;
use std::time::Duration;

/// The repair stream (RFC 4588) beside a media stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RtxParams {
    /// Its own SSRC.
    pub ssrc: Ssrc,
    /// The payload type of the `rtx` codec.
    pub payload_type: u8,
}

/// What negotiation settled about one media stream. The same in both directions; the fields are those of
/// `rtp_stream.Params` on the worker channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamParams {
    /// Index of the encoding (simulcast layer) within its producer or consumer.
    pub encoding_idx: u32,
    /// SSRC of the media packets.
    pub ssrc: Ssrc,
    /// Payload type of the media codec.
    pub payload_type: u8,
    /// For example `video/VP8`.
    pub mime_type: String,
    /// Ticks of the RTP timestamp in a second; zero switches jitter off.
    pub clock_rate: u32,
    /// The RtpStreamId (RFC 8852), empty without one.
    pub rid: String,
    /// The canonical name for SDES.
    pub cname: String,
    /// The repair stream, when one was negotiated.
    pub rtx: Option<RtxParams>,
    /// Whether generic NACK was negotiated.
    pub use_nack: bool,
    /// Whether PLI was negotiated.
    pub use_pli: bool,
    /// Whether FIR was negotiated. PLI goes first where both were.
    pub use_fir: bool,
    /// Whether Opus' in-band error correction was negotiated.
    pub use_in_band_fec: bool,
    /// Whether discontinuous transmission was negotiated: the windows that detect silence are then longer.
    pub use_dtx: bool,
    /// Spatial layers inside this one stream (SVC); at least 1.
    pub spatial_layers: u8,
    /// Temporal layers; at least 1.
    pub temporal_layers: u8,
}

impl StreamParams {
    /// A plain stream without feedback: set what was negotiated on top of it.
    #[must_use]
    pub fn new(ssrc: Ssrc, payload_type: u8, mime_type: &str, clock_rate: u32) -> Self {
        Self {
            encoding_idx: 0,
            ssrc,
            payload_type,
            mime_type: mime_type.to_owned(),
            clock_rate,
            rid: String::new(),
            cname: String::new(),
            rtx: None,
            use_nack: false,
            use_pli: false,
            use_fir: false,
            use_in_band_fec: false,
            use_dtx: false,
            spatial_layers: 1,
            temporal_layers: 1,
        }
    }

    /// Whether this is video, by its MIME type.
    #[must_use]
    pub fn is_video(&self) -> bool {
        self.mime_type.get(..6).is_some_and(|top| top.eq_ignore_ascii_case("video/"))
    }

    /// How long a packet may still be repeated: 2 s of video, 1 s of audio, as mediasoup keeps them.
    #[must_use]
    pub fn retransmission_window(&self) -> Duration {
        if self.is_video() { Duration::from_secs(2) } else { Duration::from_secs(1) }
    }
}

/// The round trip that a report block or a DLRR block tells; `None` also when it is beyond belief.
fn round_trip(arrival: NtpTime, last_report: u32, delay: u32) -> Option<Duration> {
    /// Nobody waits a minute; a greater value is a peer's error or a forgery.
    const LONGEST: Duration = Duration::from_secs(60);
    crate::rtcp::round_trip(arrival, last_report, delay).filter(|&rtt| rtt <= LONGEST)
}

/// The counters that both directions report (`rtp_stream.BaseStats`, without what [`StreamParams`] holds).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BaseStats {
    /// Packets lost in total: expected less received, never repaired by it.
    pub packets_lost: i32,
    /// Loss since the previous report, in 1/256.
    pub fraction_lost: u8,
    /// Interarrival jitter in timestamp units.
    pub jitter: u32,
    /// Packets whose sequence number fitted nowhere.
    pub packets_discarded: u64,
    /// Packets that came or went again.
    pub packets_retransmitted: u64,
    /// Packets that a retransmission replaced.
    pub packets_repaired: u64,
    /// NACK packets.
    pub nack_count: u64,
    /// Sequence numbers that those asked for.
    pub nack_packet_count: u64,
    /// Picture loss indications.
    pub pli_count: u64,
    /// Full intra requests.
    pub fir_count: u64,
    /// Packets of the repair stream that were useless.
    pub rtx_packets_discarded: u64,
    /// Round trip time in milliseconds; zero while unknown.
    pub round_trip_time_ms: f32,
    /// 0 (dead) to 10 (perfect).
    pub score: u8,
}

/// Statistics of one direction (`rtp_stream.RecvStats` and `rtp_stream.SendStats`; the layers of a received
/// stream are asked for with [`recv::RecvStream::layer_bitrate`]).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StreamStats {
    /// What both directions have.
    pub base: BaseStats,
    /// Packets, repaired ones included.
    pub packet_count: u64,
    /// Bytes of whole RTP packets.
    pub byte_count: u64,
    /// Bits per second.
    pub bitrate: u64,
}

/// A score that moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScoreChange {
    /// The score now.
    pub score: u8,
    /// The score before.
    pub previous: u8,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_trip_beyond_belief_is_ignored() {
        let sent = NtpTime::from_unix(Duration::from_secs(1_000));
        let after = |ms: u64| NtpTime::from_unix(Duration::from_millis(1_000_000 + ms));
        assert_eq!(round_trip(after(250), sent.compact(), 0), Some(Duration::from_millis(250)));
        assert_eq!(round_trip(after(70_000), sent.compact(), 0), None);
        assert_eq!(round_trip(after(250), 0, 0), None);
    }
}
