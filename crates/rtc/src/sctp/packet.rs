//! Packets and chunks as bytes (RFC 9260 section 3, RFC 3758 section 3, RFC 6525 section 4): reads what lies in a
//! datagram, without copying, and writes. What it means is the association's business.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::crc32c;

/// Ports, verification tag, checksum.
pub(super) const HEADER_LEN: usize = 12;
/// Type, flags, length.
const CHUNK_HEADER_LEN: usize = 4;
/// What DATA has before what it carries.
pub(super) const DATA_OVERHEAD: usize = 16;

/// Chunk types, by the RFCs' names.
pub(super) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const INIT: u8 = 1;
    pub(crate) const INIT_ACK: u8 = 2;
    pub(crate) const SACK: u8 = 3;
    pub(crate) const HEARTBEAT: u8 = 4;
    pub(crate) const HEARTBEAT_ACK: u8 = 5;
    pub(crate) const ABORT: u8 = 6;
    pub(crate) const SHUTDOWN: u8 = 7;
    pub(crate) const SHUTDOWN_ACK: u8 = 8;
    pub(crate) const COOKIE_ECHO: u8 = 10;
    pub(crate) const COOKIE_ACK: u8 = 11;
    pub(crate) const SHUTDOWN_COMPLETE: u8 = 14;
    pub(crate) const RECONFIG: u8 = 130;
    pub(crate) const FORWARD_TSN: u8 = 192;
}

/// DATA flags.
pub(super) const FLAG_END: u8 = 1;
pub(super) const FLAG_BEGIN: u8 = 2;
pub(super) const FLAG_UNORDERED: u8 = 4;
pub(super) const FLAG_IMMEDIATE: u8 = 8;

const PARAMETER_COOKIE: u16 = 7;
const PARAMETER_EXTENSIONS: u16 = 0x8008;
const PARAMETER_FORWARD_TSN: u16 = 0xc000;

/// Bytes read from the front.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }
}

/// The fixed header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) source_port: u16,
    pub(super) destination_port: u16,
    pub(super) tag: u32,
}

/// Header and chunks of a packet whose checksum is right.
pub(super) fn parse(packet: &[u8]) -> Option<(Header, Chunks<'_>)> {
    let mut reader = Reader(packet);
    let covered_before = packet.get(..8)?;
    let header = Header { source_port: reader.u16()?, destination_port: reader.u16()?, tag: reader.u32()? };
    let checksum = u32::from_le_bytes(reader.take(4)?.try_into().ok()?);
    if checksum != checksum_of(covered_before, reader.0) || reader.0.is_empty() {
        return None;
    }
    Some((header, Chunks(reader)))
}

fn checksum_of(before: &[u8], after: &[u8]) -> u32 {
    let remainder = crc32c::update(u32::MAX, before);
    !crc32c::update(crc32c::update(remainder, &[0; 4]), after)
}

/// The chunks of a packet. Ends early at one that does not fit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chunks<'a>(Reader<'a>);

/// One chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk<'a> {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) value: &'a [u8],
}

impl<'a> Iterator for Chunks<'a> {
    type Item = Chunk<'a>;

    fn next(&mut self) -> Option<Chunk<'a>> {
        let (kind, flags, len) = (self.0.u8()?, self.0.u8()?, self.0.u16()?);
        let value = self.0.take(usize::from(len).checked_sub(CHUNK_HEADER_LEN)?)?;
        skip_padding(&mut self.0, value.len());
        Some(Chunk { kind, flags, value })
    }
}

/// Values are padded to four bytes; the last one may lack its padding.
fn skip_padding(reader: &mut Reader<'_>, len: usize) {
    let padding = len.wrapping_neg() & 3;
    reader.0 = reader.0.get(padding..).unwrap_or_default();
}

/// Type and value of parameters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parameters<'a>(pub(super) Reader<'a>);

impl<'a> Iterator for Parameters<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let (kind, len) = (self.0.u16()?, self.0.u16()?);
        let value = self.0.take(usize::from(len).checked_sub(4)?)?;
        skip_padding(&mut self.0, value.len());
        Some((kind, value))
    }
}

/// INIT and INIT ACK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Init<'a> {
    pub(super) tag: u32,
    pub(super) window: u32,
    pub(super) outbound_streams: u16,
    pub(super) inbound_streams: u16,
    pub(super) tsn: u32,
    pub(super) cookie: Option<&'a [u8]>,
    pub(super) forward_tsn: bool,
    pub(super) reconfig: bool,
}

impl<'a> Init<'a> {
    /// One without a tag, or without streams in either direction, is none (RFC 9260 section 3.3.2).
    pub(super) fn parse(value: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(value);
        let mut init = Self {
            tag: reader.u32()?,
            window: reader.u32()?,
            outbound_streams: reader.u16()?,
            inbound_streams: reader.u16()?,
            tsn: reader.u32()?,
            cookie: None,
            forward_tsn: false,
            reconfig: false,
        };
        if init.tag == 0 || init.outbound_streams == 0 || init.inbound_streams == 0 {
            return None;
        }
        for (parameter, value) in Parameters(reader) {
            match parameter {
                PARAMETER_COOKIE => init.cookie = Some(value),
                PARAMETER_FORWARD_TSN => init.forward_tsn = true,
                PARAMETER_EXTENSIONS => {
                    init.forward_tsn |= value.contains(&kind::FORWARD_TSN);
                    init.reconfig |= value.contains(&kind::RECONFIG);
                }
                _ => {}
            }
        }
        Some(init)
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.tag.to_be_bytes());
        out.extend(self.window.to_be_bytes());
        out.extend(self.outbound_streams.to_be_bytes());
        out.extend(self.inbound_streams.to_be_bytes());
        out.extend(self.tsn.to_be_bytes());
        if self.forward_tsn {
            write_parameter(out, PARAMETER_FORWARD_TSN, &[]);
        }
        write_parameter(out, PARAMETER_EXTENSIONS, &[kind::RECONFIG, kind::FORWARD_TSN]);
        if let Some(cookie) = self.cookie {
            write_parameter(out, PARAMETER_COOKIE, cookie);
        }
    }
}

/// DATA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Data<'a> {
    pub(super) flags: u8,
    pub(super) tsn: u32,
    pub(super) stream: u16,
    pub(super) ssn: u16,
    pub(super) ppid: u32,
    pub(super) payload: &'a [u8],
}

impl<'a> Data<'a> {
    /// `None` for one that carries nothing, too: RFC 9260 section 3.3.1 forbids it.
    pub(super) fn parse(chunk: Chunk<'a>) -> Option<Self> {
        let mut reader = Reader(chunk.value);
        let (tsn, stream) = (reader.u32()?, reader.u16()?);
        let (ssn, ppid) = (reader.u16()?, reader.u32()?);
        if reader.0.is_empty() {
            return None;
        }
        Some(Self { flags: chunk.flags, tsn, stream, ssn, ppid, payload: reader.0 })
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        write_chunk(out, kind::DATA, self.flags, |out| {
            out.extend(self.tsn.to_be_bytes());
            out.extend(self.stream.to_be_bytes());
            out.extend(self.ssn.to_be_bytes());
            out.extend(self.ppid.to_be_bytes());
            out.extend_from_slice(self.payload);
        });
    }
}

/// SACK. Of the duplicates that it reports nothing is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sack<'a> {
    pub(super) cumulative: u32,
    pub(super) window: u32,
    gaps: &'a [u8],
}

impl<'a> Sack<'a> {
    pub(super) fn parse(value: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(value);
        let (cumulative, window) = (reader.u32()?, reader.u32()?);
        let (gaps, _duplicates) = (reader.u16()?, reader.u16()?);
        let gaps = reader.take(usize::from(gaps).checked_mul(4)?)?;
        Some(Self { cumulative, window, gaps })
    }

    /// First and last of each block, as offsets from the cumulative TSN.
    pub(super) fn blocks(&self) -> impl Iterator<Item = (u16, u16)> + 'a {
        let mut reader = Reader(self.gaps);
        std::iter::from_fn(move || Some((reader.u16()?, reader.u16()?)))
    }
}

/// FORWARD TSN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ForwardTsn<'a> {
    pub(super) cumulative: u32,
    skipped: &'a [u8],
}

impl<'a> ForwardTsn<'a> {
    pub(super) fn parse(value: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(value);
        Some(Self { cumulative: reader.u32()?, skipped: reader.0 })
    }

    /// Stream and last skipped sequence number.
    pub(super) fn skipped(&self) -> impl Iterator<Item = (u16, u16)> + 'a {
        let mut reader = Reader(self.skipped);
        std::iter::from_fn(move || Some((reader.u16()?, reader.u16()?)))
    }
}

/// Appends a parameter, padded.
pub(super) fn write_parameter(out: &mut Vec<u8>, parameter: u16, value: &[u8]) {
    out.extend(parameter.to_be_bytes());
    out.extend(u16::try_from(value.len().saturating_add(4)).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(value);
    pad(out);
}

/// Appends a chunk, padded.
pub(super) fn write_chunk(out: &mut Vec<u8>, chunk: u8, flags: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([chunk, flags, 0, 0]);
    fill(out);
    let len = u16::try_from(out.len().saturating_sub(start)).unwrap_or(u16::MAX);
    if let Some(field) = out.get_mut(start.saturating_add(2)..start.saturating_add(4)) {
        field.copy_from_slice(&len.to_be_bytes());
    }
    pad(out);
}

/// The header is a multiple of four, so that the packet's length tells what is missing.
fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

/// A packet that is being written.
#[derive(Debug)]
pub(super) struct PacketWriter(Vec<u8>);

impl PacketWriter {
    pub(super) fn new(header: Header) -> Self {
        let mut out = Vec::with_capacity(super::MAX_PACKET);
        out.extend(header.source_port.to_be_bytes());
        out.extend(header.destination_port.to_be_bytes());
        out.extend(header.tag.to_be_bytes());
        out.extend([0; 4]);
        Self(out)
    }

    pub(super) fn chunk(&mut self, chunk: u8, flags: u8, fill: impl FnOnce(&mut Vec<u8>)) {
        write_chunk(&mut self.0, chunk, flags, fill);
    }

    /// Where chunks that are written already go.
    pub(super) fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }

    /// Bytes left.
    pub(super) fn room(&self) -> usize {
        super::MAX_PACKET.saturating_sub(self.0.len())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.len() <= HEADER_LEN
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        let checksum = !crc32c::update(u32::MAX, &self.0);
        if let Some(field) = self.0.get_mut(8..12) {
            field.copy_from_slice(&checksum.to_le_bytes());
        }
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_reads_as_written() {
        let header = Header { source_port: 5000, destination_port: 5001, tag: 7 };
        let mut writer = PacketWriter::new(header);
        let data = Data { flags: FLAG_BEGIN, tsn: 9, stream: 1, ssn: 2, ppid: 51, payload: b"hello" };
        data.write(writer.bytes());
        writer.chunk(kind::COOKIE_ACK, 0, |_| {});
        let mut packet = writer.finish();
        let (read, chunks) = parse(&packet).unwrap();
        let chunks: Vec<_> = chunks.collect();
        assert_eq!(read, header);
        assert_eq!(Data::parse(chunks[0]), Some(data));
        assert_eq!((chunks[1].kind, chunks[1].value), (kind::COOKIE_ACK, &[][..]));
        packet[20] ^= 1;
        assert!(parse(&packet).is_none());
    }

    #[test]
    fn data_that_carries_nothing_is_no_data() {
        assert_eq!(Data::parse(Chunk { kind: kind::DATA, flags: 3, value: &[0; 12] }), None);
    }
}
