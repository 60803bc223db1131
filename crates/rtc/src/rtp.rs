//! RTP packets (RFC 3550, section 5; header extensions RFC 8285): where the parts of a received packet lie,
//! and the writing of a new header for each consumer. Packets stay in the caller's buffers: a parsed
//! header is a handful of offsets, nothing is copied and nothing allocated.
//!
//! It knows no stream state: order, loss and layers belong to `sequence`, `stream` and `codec`.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod demultiplex;
mod extension;
pub mod rtx;
mod write;

pub use crate::sequence::SeqNo;
pub use demultiplex::{DatagramKind, is_rtcp};
pub use extension::{
    AudioLevel, Element, Elements, ExtensionIds, ExtensionKind, ForwardedElements, VideoOrientation,
    abs_send_time_from_epoch,
};
pub use write::{EgressHeader, WrittenHeader, write_header};

/// The length of a header without CSRCs and extensions.
pub const FIXED_HEADER_LEN: usize = 12;

/// A synchronization source (RFC 3550, section 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ssrc(pub u32);

impl From<u32> for Ssrc {
    fn from(value: u32) -> Self {
        Self(value)
    }
}

impl From<Ssrc> for u32 {
    fn from(value: Ssrc) -> Self {
        value.0
    }
}

impl std::fmt::Display for Ssrc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A rate in bits per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bitrate(pub u64);

impl Bitrate {
    /// Bits per second.
    #[must_use]
    pub const fn bps(self) -> u64 {
        self.0
    }
}

impl std::fmt::Display for Bitrate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bit/s", self.0)
    }
}

/// Why a packet is not RTP, or why a header could not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RtpError {
    /// The packet ends within its header.
    #[error("RTP packet is shorter than its header")]
    Truncated,
    /// The packet is longer than a datagram can be.
    #[error("RTP packet is longer than 65,535 bytes")]
    TooLong,
    /// The version is not 2.
    #[error("RTP version is not 2")]
    Version,
    /// The padding count is zero or reaches into the header.
    #[error("RTP padding count is wrong")]
    Padding,
    /// The buffer that was given to write into is too small.
    #[error("buffer is too small for the RTP packet")]
    BufferTooSmall,
    /// An extension element has id 0, more than 255 bytes, or there are too many elements.
    #[error("RTP header extension element cannot be written")]
    Element,
    /// A repair packet carries no original sequence number (a probe made of padding).
    #[error("RTX packet carries no original sequence number")]
    RtxEmpty,
}

/// How the elements of the header extension are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtensionForm {
    /// One-byte element headers, profile 0xBEDE (RFC 8285, section 4.2).
    OneByte,
    /// Two-byte element headers, profile 0x100 with any application bits (RFC 8285, section 4.3).
    TwoByte,
    /// Another profile, whose content is opaque.
    Other(u16),
}

/// The header extension block: where its elements lie, without the profile and length fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtensionBlock {
    /// The layout of the elements.
    pub form: ExtensionForm,
    /// Offset of the first element in the packet.
    pub offset: u16,
    /// Bytes of elements, padding included.
    pub len: u16,
}

/// A parsed header: the fixed fields, and where in the packet the rest lies.
///
/// The accessors that take the packet expect the very bytes that were parsed; other bytes give other
/// answers, never a panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RtpHeader {
    /// The marker bit: for video the last packet of a frame, for audio the first of a talk spurt.
    pub marker: bool,
    /// The payload type, 7 bits.
    pub payload_type: u8,
    /// The sequence number.
    pub sequence: SeqNo,
    /// The media timestamp, in units of the codec's clock rate.
    pub timestamp: u32,
    /// The sender's source.
    pub ssrc: Ssrc,
    /// How many contributing sources follow the fixed fields.
    pub csrc_count: u8,
    /// The header extension, if there is one.
    pub extension: Option<ExtensionBlock>,
    /// The length of the whole header, which is where the payload starts.
    pub header_len: u16,
    /// Bytes of payload, without padding.
    pub payload_len: u16,
    /// Bytes of padding, its count byte included.
    pub padding_len: u8,
}

impl RtpHeader {
    /// Parses a plaintext packet.
    ///
    /// # Errors
    /// [`RtpError`] says what does not fit RFC 3550's layout.
    pub fn parse(packet: &[u8]) -> Result<Self, RtpError> {
        let mut header = Self::parse_ignoring_padding(packet)?;
        if packet.first().is_some_and(|first| first & 0x20 != 0) {
            let padding_len = packet.last().copied().unwrap_or(0);
            if padding_len == 0 {
                return Err(RtpError::Padding);
            }
            header.padding_len = padding_len;
            header.payload_len =
                header.payload_len.checked_sub(u16::from(padding_len)).ok_or(RtpError::Padding)?;
        }
        Ok(header)
    }

    /// Parses the header of a packet whose payload may still be encrypted: padding, which lies at its
    /// end, counts as payload.
    ///
    /// # Errors
    /// As [`RtpHeader::parse`], but never [`RtpError::Padding`].
    pub fn parse_ignoring_padding(packet: &[u8]) -> Result<Self, RtpError> {
        let packet_len = u16::try_from(packet.len()).map_err(|_| RtpError::TooLong)?;
        let &[first, second, s0, s1, t0, t1, t2, t3, r0, r1, r2, r3] =
            packet.first_chunk::<FIXED_HEADER_LEN>().ok_or(RtpError::Truncated)?;
        if first >> 6 != 2 {
            return Err(RtpError::Version);
        }
        let csrc_count = first & 0x0f;
        let mut header_len =
            (FIXED_HEADER_LEN as u16).saturating_add(u16::from(csrc_count).saturating_mul(4));
        let mut extension = None;
        if first & 0x10 != 0 {
            let &[p0, p1, l0, l1] = packet
                .get(usize::from(header_len)..)
                .and_then(<[u8]>::first_chunk::<4>)
                .ok_or(RtpError::Truncated)?;
            let offset = header_len.saturating_add(4);
            let len = u16::from_be_bytes([l0, l1]).checked_mul(4).ok_or(RtpError::Truncated)?;
            let form = match u16::from_be_bytes([p0, p1]) {
                0xbede => ExtensionForm::OneByte,
                profile if profile & 0xfff0 == 0x1000 => ExtensionForm::TwoByte,
                profile => ExtensionForm::Other(profile),
            };
            extension = Some(ExtensionBlock { form, offset, len });
            header_len = offset.checked_add(len).ok_or(RtpError::Truncated)?;
        }
        let payload_len = packet_len.checked_sub(header_len).ok_or(RtpError::Truncated)?;
        Ok(Self {
            marker: second & 0x80 != 0,
            payload_type: second & 0x7f,
            sequence: SeqNo(u16::from_be_bytes([s0, s1])),
            timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
            ssrc: Ssrc(u32::from_be_bytes([r0, r1, r2, r3])),
            csrc_count,
            extension,
            header_len,
            payload_len,
            padding_len: 0,
        })
    }

    /// The payload without padding.
    #[must_use]
    pub fn payload<'p>(&self, packet: &'p [u8]) -> &'p [u8] {
        let start = usize::from(self.header_len);
        packet.get(start..start.saturating_add(usize::from(self.payload_len))).unwrap_or_default()
    }

    /// The payload without padding, to be changed in place.
    #[must_use]
    pub fn payload_mut<'p>(&self, packet: &'p mut [u8]) -> &'p mut [u8] {
        let start = usize::from(self.header_len);
        packet.get_mut(start..start.saturating_add(usize::from(self.payload_len))).unwrap_or_default()
    }

    /// The contributing sources as they are on the wire, four bytes each.
    #[must_use]
    pub fn csrcs<'p>(&self, packet: &'p [u8]) -> &'p [u8] {
        let len = usize::from(self.csrc_count).saturating_mul(4);
        packet.get(FIXED_HEADER_LEN..FIXED_HEADER_LEN.saturating_add(len)).unwrap_or_default()
    }

    /// The header extension's elements in the order of the packet.
    #[must_use]
    pub fn elements<'p>(&self, packet: &'p [u8]) -> Elements<'p> {
        let Some(block) = self.extension else { return Elements::none() };
        let start = usize::from(block.offset);
        let bytes = packet.get(start..start.saturating_add(usize::from(block.len))).unwrap_or_default();
        Elements::new(block.form, bytes)
    }

    /// The value of the first element with this id; an id of 0 (no such extension negotiated) finds none.
    #[must_use]
    pub fn extension<'p>(&self, packet: &'p [u8], id: u8) -> Option<&'p [u8]> {
        if id == 0 {
            return None;
        }
        self.elements(packet).find(|element| element.id == id).map(|element| element.value)
    }
}

#[cfg(test)]
mod tests;
