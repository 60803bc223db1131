//! RTCP (RFC 3550, section 6; feedback RFC 4585 and 5104; reduced-size RFC 5506): reading compound
//! packets without copying them, and writing packets to the end of a buffer that the caller keeps.
//!
//! It keeps no state: round trips, loss and intervals belong to `stream`.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod feedback;
mod ntp;
mod report;
mod transport_feedback;
mod write;

pub use feedback::{Fir, FirEntry, Nack, Pli, Remb};
pub use ntp::{NtpTime, compact_delay, round_trip};
pub use report::{
    Bye, DlrrReport, DlrrReports, ReceiverReport, ReportBlock, ReportBlocks, Sdes, SdesChunk, SdesItem,
    SenderInfo, SenderReport, Xr, XrBlock,
};
pub use transport_feedback::{
    PacketStatus, TICK_US, TransportFeedback, TransportFeedbackHeader, write_transport_feedback,
};
pub use write::{
    MAX_REPORT_BLOCKS, write_bye, write_fir, write_nack, write_pli, write_receiver_report, write_remb,
    write_sdes_cname, write_sender_report, write_xr_dlrr, write_xr_rrtr,
};

use crate::rtp::Ssrc;

const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const SOURCE_DESCRIPTION: u8 = 202;
const BYE: u8 = 203;
const TRANSPORT_LAYER_FEEDBACK: u8 = 205;
const PAYLOAD_SPECIFIC_FEEDBACK: u8 = 206;
const EXTENDED_REPORT: u8 = 207;

const FORMAT_NACK: u8 = 1;
const FORMAT_TRANSPORT_CC: u8 = 15;
const FORMAT_PLI: u8 = 1;
const FORMAT_FIR: u8 = 4;
const FORMAT_APPLICATION: u8 = 15;

/// Why a compound packet could not be read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RtcpError {
    /// The datagram does not start with an RTCP packet.
    #[error("not an RTCP packet")]
    NotRtcp,
    /// A packet's length field goes past the datagram's end.
    #[error("RTCP packet is longer than its datagram")]
    Truncated,
    /// The padding count is zero or larger than the packet.
    #[error("RTCP padding count is wrong")]
    Padding,
    /// A packet of this type does not hold what its counts promise.
    #[error("RTCP packet of type {packet_type} is malformed")]
    Malformed {
        /// The packet type field.
        packet_type: u8,
    },
}

/// One packet of a compound.
#[derive(Clone, Debug)]
pub enum Packet<'a> {
    /// Sender report (RFC 3550, section 6.4.1).
    SenderReport(SenderReport<'a>),
    /// Receiver report (RFC 3550, section 6.4.2).
    ReceiverReport(ReceiverReport<'a>),
    /// Source description (RFC 3550, section 6.5).
    Sdes(Sdes<'a>),
    /// Goodbye (RFC 3550, section 6.6).
    Bye(Bye<'a>),
    /// Generic negative acknowledgement (RFC 4585, section 6.2.1).
    Nack(Nack<'a>),
    /// Picture loss indication (RFC 4585, section 6.3.1).
    Pli(Pli),
    /// Full intra request (RFC 5104, section 4.3.1).
    Fir(Fir<'a>),
    /// Receiver estimated maximum bitrate, draft-alvestrand-rmcat-remb.
    Remb(Remb<'a>),
    /// Transport-wide congestion control feedback, draft-holmer-rmcat-transport-wide-cc-extensions-01.
    TransportFeedback(TransportFeedback<'a>),
    /// Extended report (RFC 3611).
    Xr(Xr<'a>),
    /// Well-formed, but of no use here.
    Unknown {
        /// The packet type field.
        packet_type: u8,
        /// The five bits of count or format.
        count: u8,
        /// What follows the first four bytes, without padding.
        body: &'a [u8],
    },
}

/// Iterates over the packets of a datagram. Bytes after the last packet that are no RTCP header end it
/// quietly; anything else that does not fit is an error, after which it ends.
#[derive(Clone, Debug)]
pub struct Packets<'a> {
    rest: &'a [u8],
    is_first: bool,
}

/// The packets of a plaintext compound (or reduced-size) datagram.
#[must_use]
pub const fn parse(datagram: &[u8]) -> Packets<'_> {
    Packets { rest: datagram, is_first: true }
}

impl<'a> Iterator for Packets<'a> {
    type Item = Result<Packet<'a>, RtcpError>;

    fn next(&mut self) -> Option<Self::Item> {
        let is_first = std::mem::replace(&mut self.is_first, false);
        let &[first @ 128..=191, packet_type @ 192..=223, l0, l1, ref after @ ..] = self.rest else {
            self.rest = &[];
            return is_first.then_some(Err(RtcpError::NotRtcp));
        };
        let len = usize::from(u16::from_be_bytes([l0, l1])).saturating_mul(4);
        let Some((body, rest)) = after.split_at_checked(len) else {
            self.rest = &[];
            return Some(Err(RtcpError::Truncated));
        };
        let packet = unpadded(first, body).and_then(|body| Packet::parse(packet_type, first & 0x1f, body));
        self.rest = if packet.is_ok() { rest } else { &[] };
        Some(packet)
    }
}

/// RFC 3550 has the count a multiple of four. libwebrtc's transport-wide feedback fills up to a word with one to three
/// bytes and counts these alone: three of four of its reports at low rates.
fn unpadded(first: u8, body: &[u8]) -> Result<&[u8], RtcpError> {
    if first & 0x20 == 0 {
        return Ok(body);
    }
    let count = body.last().copied().unwrap_or(0);
    if count == 0 {
        return Err(RtcpError::Padding);
    }
    let len = body.len().checked_sub(usize::from(count)).ok_or(RtcpError::Padding)?;
    body.get(..len).ok_or(RtcpError::Padding)
}

impl<'a> Packet<'a> {
    fn parse(packet_type: u8, count: u8, body: &'a [u8]) -> Result<Self, RtcpError> {
        let parsed = match (packet_type, count) {
            (SENDER_REPORT, _) => SenderReport::parse(count, body).map(Packet::SenderReport),
            (RECEIVER_REPORT, _) => ReceiverReport::parse(count, body).map(Packet::ReceiverReport),
            (SOURCE_DESCRIPTION, _) => Sdes::parse(count, body).map(Packet::Sdes),
            (BYE, _) => Bye::parse(count, body).map(Packet::Bye),
            (TRANSPORT_LAYER_FEEDBACK, FORMAT_NACK) => Nack::parse(body).map(Packet::Nack),
            (TRANSPORT_LAYER_FEEDBACK, FORMAT_TRANSPORT_CC) => {
                TransportFeedback::parse(body).map(Packet::TransportFeedback)
            }
            (PAYLOAD_SPECIFIC_FEEDBACK, FORMAT_PLI) => Pli::parse(body).map(Packet::Pli),
            (PAYLOAD_SPECIFIC_FEEDBACK, FORMAT_FIR) => Fir::parse(body).map(Packet::Fir),
            (PAYLOAD_SPECIFIC_FEEDBACK, FORMAT_APPLICATION) if Remb::is(body) => {
                Remb::parse(body).map(Packet::Remb)
            }
            (EXTENDED_REPORT, _) => Xr::parse(body).map(Packet::Xr),
            _ => Some(Packet::Unknown { packet_type, count, body }),
        };
        parsed.ok_or(RtcpError::Malformed { packet_type })
    }
}

/// Takes a 32-bit number off the front.
fn take_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (chunk, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*chunk), rest))
}

/// Takes the two sources that every feedback packet starts with.
fn take_feedback_ssrcs(body: &[u8]) -> Option<(Ssrc, Ssrc, &[u8])> {
    let (sender, rest) = take_u32(body)?;
    let (media, rest) = take_u32(rest)?;
    Some((Ssrc(sender), Ssrc(media), rest))
}

/// Iterates over a list of sources.
fn ssrcs(bytes: &[u8]) -> impl Iterator<Item = Ssrc> + '_ {
    bytes.as_chunks::<4>().0.iter().map(|chunk| Ssrc(u32::from_be_bytes(*chunk)))
}

#[cfg(test)]
mod tests;
