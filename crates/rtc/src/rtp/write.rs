//! The header that a consumer's packet gets: new identity and numbers, the consumer's own extension
//! identifiers, room for what is stamped at send time. Written straight into the caller's send buffer.

use super::{ExtensionIds, ExtensionKind, RtpError, SeqNo, Ssrc};
use arrayvec::ArrayVec;

/// Everything that a consumer's header is made of.
#[derive(Clone, Copy, Debug)]
pub struct EgressHeader<'a> {
    /// The marker bit.
    pub marker: bool,
    /// Whether padding follows the payload.
    pub padding: bool,
    /// The payload type, 7 bits.
    pub payload_type: u8,
    /// The sequence number.
    pub sequence: SeqNo,
    /// The media timestamp.
    pub timestamp: u32,
    /// The consumer's source.
    pub ssrc: Ssrc,
    /// Contributing sources as they are on the wire (`RtpHeader::csrcs`): at most 15, four bytes each.
    pub csrcs: &'a [u8],
    /// The consumer's identifiers. Where `abs_send_time` or `transport_wide_cc` is not 0, room for it is
    /// left, zeroed, and its offset returned.
    pub ids: &'a ExtensionIds,
    /// The media section's identifier, written where `ids.mid` is not 0 and this is not empty.
    pub mid: &'a str,
    /// Elements of the received packet to pass on, those whose identifier in `ids` is not 0.
    pub forwarded: &'a [(ExtensionKind, &'a [u8])],
}

/// Where things lie in a header that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrittenHeader {
    /// The length of the header: the payload starts here.
    pub len: usize,
    /// Offset of the three bytes of the absolute send time.
    pub abs_send_time: Option<usize>,
    /// Offset of the two bytes of the transport-wide sequence number.
    pub transport_wide_cc: Option<usize>,
}

impl WrittenHeader {
    /// Stores the absolute send time (24 bits) where room was left for it. To be done before the packet
    /// is encrypted: the header is authenticated.
    pub fn stamp_abs_send_time(&self, header: &mut [u8], value: u32) {
        let [_, a, b, c] = value.to_be_bytes();
        stamp(header, self.abs_send_time, &[a, b, c]);
    }

    /// Stores the transport-wide sequence number where room was left for it, before the packet is encrypted.
    pub fn stamp_transport_wide_cc(&self, header: &mut [u8], value: u16) {
        stamp(header, self.transport_wide_cc, &value.to_be_bytes());
    }
}

fn stamp(header: &mut [u8], offset: Option<usize>, value: &[u8]) {
    let Some(offset) = offset else { return };
    if let Some(slot) = header.get_mut(offset..offset.saturating_add(value.len())) {
        slot.copy_from_slice(value);
    }
}

/// Writes a header to the start of `out`. The extension block, if any element is to be written, has the
/// one-byte form where every identifier is at most 14 and every value 1 to 16 bytes long, the two-byte
/// form otherwise.
///
/// # Errors
/// [`RtpError::BufferTooSmall`]; [`RtpError::Element`] when a value is longer than 255 bytes or `csrcs`
/// is no list of at most 15.
pub fn write_header(out: &mut [u8], header: &EgressHeader<'_>) -> Result<WrittenHeader, RtpError> {
    let csrc_count = header.csrcs.len() / 4;
    if csrc_count > 15 || !header.csrcs.len().is_multiple_of(4) {
        return Err(RtpError::Element);
    }
    let elements = chosen_elements(header)?;
    let has_extension = !elements.is_empty();
    let mut writer = Writer { out, at: 0 };
    let first = 0x80 | (u8::from(header.padding) << 5) | (u8::from(has_extension) << 4) | (csrc_count as u8);
    writer.put(&[first, (u8::from(header.marker) << 7) | (header.payload_type & 0x7f)])?;
    writer.put(&header.sequence.0.to_be_bytes())?;
    writer.put(&header.timestamp.to_be_bytes())?;
    writer.put(&header.ssrc.0.to_be_bytes())?;
    writer.put(header.csrcs)?;
    let mut written = WrittenHeader { len: writer.at, abs_send_time: None, transport_wide_cc: None };
    if has_extension {
        write_elements(&mut writer, &elements, &mut written)?;
        written.len = writer.at;
    }
    Ok(written)
}

struct Chosen<'a> {
    kind: ExtensionKind,
    id: u8,
    value: &'a [u8],
}

/// Room for every kind once.
type ChosenElements<'a> = ArrayVec<Chosen<'a>, 12>;

fn chosen_elements<'a>(header: &EgressHeader<'a>) -> Result<ChosenElements<'a>, RtpError> {
    let own: [(ExtensionKind, &[u8]); 3] = [
        (ExtensionKind::Mid, header.mid.as_bytes()),
        (ExtensionKind::AbsSendTime, &[0; 3]),
        (ExtensionKind::TransportWideCc, &[0; 2]),
    ];
    let mut chosen = ChosenElements::new();
    let all = own.into_iter().chain(header.forwarded.iter().copied());
    for (kind, value) in all {
        let id = header.ids.id(kind);
        if id == 0 || (kind == ExtensionKind::Mid && value.is_empty()) {
            continue;
        }
        if value.len() > 255 || chosen.try_push(Chosen { kind, id, value }).is_err() {
            return Err(RtpError::Element);
        }
    }
    Ok(chosen)
}

fn write_elements(
    writer: &mut Writer<'_>,
    elements: &[Chosen<'_>],
    written: &mut WrittenHeader,
) -> Result<(), RtpError> {
    let one_byte = elements.iter().all(|element| element.id <= 14 && (1..=16).contains(&element.value.len()));
    let element_header_len = if one_byte { 1 } else { 2 };
    let len = elements.iter().fold(0_usize, |len, element| {
        len.saturating_add(element.value.len()).saturating_add(element_header_len)
    });
    let words = len.div_ceil(4);
    let profile: u16 = if one_byte { 0xbede } else { 0x1000 };
    writer.put(&profile.to_be_bytes())?;
    writer.put(&u16::try_from(words).map_err(|_| RtpError::Element)?.to_be_bytes())?;
    for element in elements {
        let value_len = element.value.len() as u8;
        if one_byte {
            writer.put(&[(element.id << 4) | value_len.wrapping_sub(1)])?;
        } else {
            writer.put(&[element.id, value_len])?;
        }
        match element.kind {
            ExtensionKind::AbsSendTime => written.abs_send_time = Some(writer.at),
            ExtensionKind::TransportWideCc => written.transport_wide_cc = Some(writer.at),
            _ => {}
        }
        writer.put(element.value)?;
    }
    let padding = words.saturating_mul(4).saturating_sub(len);
    writer.put([0; 3].get(..padding).unwrap_or_default())
}

struct Writer<'o> {
    out: &'o mut [u8],
    at: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), RtpError> {
        let end = self.at.saturating_add(bytes.len());
        self.out.get_mut(self.at..end).ok_or(RtpError::BufferTooSmall)?.copy_from_slice(bytes);
        self.at = end;
        Ok(())
    }
}
