//! Repair streams (RFC 4588, section 4): a repeated packet carries the original sequence number before
//! its payload.

use super::{RtpError, RtpHeader, SeqNo, Ssrc};

/// Bytes that the original sequence number takes before the payload.
pub const OSN_LEN: usize = 2;

/// The original sequence number as it goes before the repeated payload.
#[must_use]
pub const fn osn(original: SeqNo) -> [u8; OSN_LEN] {
    original.0.to_be_bytes()
}

/// The original sequence number that a received repair packet carries.
#[must_use]
pub fn original_sequence(header: &RtpHeader, packet: &[u8]) -> Option<SeqNo> {
    header.payload(packet).first_chunk().copied().map(u16::from_be_bytes).map(SeqNo)
}

/// Turns a received repair packet into the media packet that it repeats, in place: the header moves up
/// over the original sequence number, its SSRC, payload type and sequence number become the media
/// stream's. The media packet is the end of `packet`.
///
/// # Errors
/// [`RtpError::RtxEmpty`] when there is no original sequence number: senders probe for bandwidth with such
/// packets. `packet` is then unchanged.
pub fn restore<'p>(
    packet: &'p mut [u8],
    header: &RtpHeader,
    media_ssrc: Ssrc,
    media_payload_type: u8,
) -> Result<&'p mut [u8], RtpError> {
    let original = original_sequence(header, packet).ok_or(RtpError::RtxEmpty)?;
    let header_len = usize::from(header.header_len);
    packet.copy_within(..header_len, OSN_LEN);
    let media = packet.get_mut(OSN_LEN..).ok_or(RtpError::Truncated)?;
    let [_, second, s0, s1, _, _, _, _, r0, r1, r2, r3, ..] = media else { return Err(RtpError::Truncated) };
    *second = (*second & 0x80) | (media_payload_type & 0x7f);
    [*s0, *s1] = original.0.to_be_bytes();
    [*r0, *r1, *r2, *r3] = media_ssrc.0.to_be_bytes();
    Ok(media)
}
