//! Reports, source descriptions, goodbyes (RFC 3550, section 6) and extended reports (RFC 3611), as
//! they are read.

use super::{NtpTime, ssrcs, take_u32};
use crate::rtp::Ssrc;

/// Bytes of a report block.
const BLOCK_LEN: usize = 24;

/// What a receiver says about one source that it hears.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReportBlock {
    /// The source reported on.
    pub ssrc: Ssrc,
    /// Loss since the last report, in 1/256.
    pub fraction_lost: u8,
    /// Loss since the beginning, 24 bits; negative when there were more duplicates than losses.
    pub cumulative_lost: i32,
    /// Highest sequence number received, with the count of turns in the upper half.
    pub highest_sequence: u32,
    /// Interarrival jitter in timestamp units.
    pub jitter: u32,
    /// LSR: the middle bits of the last sender report's NTP time, 0 if there was none.
    pub last_sr: u32,
    /// DLSR: how long ago that was, in 1/65,536 s.
    pub delay_since_last_sr: u32,
}

impl ReportBlock {
    fn from_bytes(bytes: &[u8; BLOCK_LEN]) -> Self {
        let word =
            |index: usize| bytes.as_chunks::<4>().0.get(index).map_or(0, |chunk| u32::from_be_bytes(*chunk));
        let [fraction_lost, ..] = word(1).to_be_bytes();
        Self {
            ssrc: Ssrc(word(0)),
            fraction_lost,
            // Shifted up and down again, the sign of the 24 bits is kept.
            cumulative_lost: (word(1) << 8).cast_signed() >> 8,
            highest_sequence: word(2),
            jitter: word(3),
            last_sr: word(4),
            delay_since_last_sr: word(5),
        }
    }

    pub(super) fn to_bytes(self) -> [u8; BLOCK_LEN] {
        let [_, l0, l1, l2] = self.cumulative_lost.clamp(-0x80_0000, 0x7f_ffff).to_be_bytes();
        let words = [
            self.ssrc.0,
            u32::from_be_bytes([self.fraction_lost, l0, l1, l2]),
            self.highest_sequence,
            self.jitter,
            self.last_sr,
            self.delay_since_last_sr,
        ];
        let mut bytes = [0; BLOCK_LEN];
        for (slot, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *slot = word.to_be_bytes();
        }
        bytes
    }
}

/// The report blocks of a report.
#[derive(Clone, Debug)]
pub struct ReportBlocks<'a> {
    rest: &'a [u8],
}

impl<'a> ReportBlocks<'a> {
    /// Takes `count` blocks; what follows is a profile-specific extension, and is left alone.
    fn parse(count: u8, body: &'a [u8]) -> Option<Self> {
        let len = usize::from(count).saturating_mul(BLOCK_LEN);
        Some(Self { rest: body.get(..len)? })
    }
}

impl Iterator for ReportBlocks<'_> {
    type Item = ReportBlock;

    fn next(&mut self) -> Option<ReportBlock> {
        let (block, rest) = self.rest.split_first_chunk::<BLOCK_LEN>()?;
        self.rest = rest;
        Some(ReportBlock::from_bytes(block))
    }
}

/// What a sender says about its own stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SenderInfo {
    /// The sender's source.
    pub ssrc: Ssrc,
    /// Wall clock when the report was sent.
    pub ntp: NtpTime,
    /// The same moment in the stream's timestamps.
    pub rtp_timestamp: u32,
    /// Packets sent so far.
    pub packet_count: u32,
    /// Payload bytes sent so far.
    pub octet_count: u32,
}

/// A sender report.
#[derive(Clone, Debug)]
pub struct SenderReport<'a> {
    /// What the sender says about its own stream.
    pub info: SenderInfo,
    /// What it says about those that it hears.
    pub blocks: ReportBlocks<'a>,
}

impl<'a> SenderReport<'a> {
    pub(super) fn parse(count: u8, body: &'a [u8]) -> Option<Self> {
        let (ssrc, rest) = take_u32(body)?;
        let (ntp, rest) = rest.split_first_chunk::<8>()?;
        let (rtp_timestamp, rest) = take_u32(rest)?;
        let (packet_count, rest) = take_u32(rest)?;
        let (octet_count, rest) = take_u32(rest)?;
        let ntp = NtpTime(u64::from_be_bytes(*ntp));
        let info = SenderInfo { ssrc: Ssrc(ssrc), ntp, rtp_timestamp, packet_count, octet_count };
        Some(Self { info, blocks: ReportBlocks::parse(count, rest)? })
    }
}

/// A receiver report.
#[derive(Clone, Debug)]
pub struct ReceiverReport<'a> {
    /// Who reports.
    pub ssrc: Ssrc,
    /// What it says about those that it hears.
    pub blocks: ReportBlocks<'a>,
}

impl<'a> ReceiverReport<'a> {
    pub(super) fn parse(count: u8, body: &'a [u8]) -> Option<Self> {
        let (ssrc, rest) = take_u32(body)?;
        Some(Self { ssrc: Ssrc(ssrc), blocks: ReportBlocks::parse(count, rest)? })
    }
}

/// Source descriptions.
#[derive(Clone, Debug)]
pub struct Sdes<'a> {
    remaining: u8,
    rest: &'a [u8],
}

impl<'a> Sdes<'a> {
    pub(super) fn parse(count: u8, body: &'a [u8]) -> Option<Self> {
        // Walked once to the end, so that iterating cannot fail.
        let mut rest = body;
        for _ in 0..count {
            rest = SdesChunk::take(rest)?.1;
        }
        Some(Self { remaining: count, rest: body })
    }

    /// The chunks, one a source.
    pub fn chunks(&self) -> impl Iterator<Item = SdesChunk<'a>> + use<'a> {
        let mut rest = self.rest;
        (0..self.remaining).map_while(move |_| {
            let (chunk, after) = SdesChunk::take(rest)?;
            rest = after;
            Some(chunk)
        })
    }
}

/// The description of one source.
#[derive(Clone, Debug)]
pub struct SdesChunk<'a> {
    /// The source.
    pub ssrc: Ssrc,
    items: &'a [u8],
}

/// One item of a description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SdesItem<'a> {
    /// What the item is: 1 is CNAME.
    pub kind: u8,
    /// Its text, UTF-8 by specification.
    pub value: &'a [u8],
}

impl<'a> SdesChunk<'a> {
    /// Takes one chunk off the front: source, items, then zero bytes up to the next word.
    fn take(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (ssrc, items) = take_u32(bytes)?;
        let mut len = 0_usize;
        while *items.get(len)? != 0 {
            let value_len = usize::from(*items.get(len.saturating_add(1))?);
            len = len.saturating_add(2).saturating_add(value_len);
        }
        let padded = len.saturating_add(1).next_multiple_of(4);
        let chunk = Self { ssrc: Ssrc(ssrc), items: items.get(..len)? };
        Some((chunk, items.get(padded..)?))
    }

    /// The items.
    pub fn items(&self) -> impl Iterator<Item = SdesItem<'a>> + use<'a> {
        let mut rest = self.items;
        std::iter::from_fn(move || {
            let &[kind, len, ref after @ ..] = rest else { return None };
            let (value, after) = after.split_at_checked(usize::from(len))?;
            rest = after;
            Some(SdesItem { kind, value })
        })
    }

    /// The canonical name, where it is text.
    #[must_use]
    pub fn cname(&self) -> Option<&'a str> {
        let item = self.items().find(|item| item.kind == 1)?;
        std::str::from_utf8(item.value).ok()
    }
}

/// A goodbye.
#[derive(Clone, Debug)]
pub struct Bye<'a> {
    sources: &'a [u8],
    /// The reason that was given, if any.
    pub reason: Option<&'a [u8]>,
}

impl<'a> Bye<'a> {
    pub(super) fn parse(count: u8, body: &'a [u8]) -> Option<Self> {
        let (sources, rest) = body.split_at_checked(usize::from(count).saturating_mul(4))?;
        let reason = match rest.split_first() {
            Some((&len, text)) => Some(text.get(..usize::from(len))?),
            None => None,
        };
        Some(Self { sources, reason })
    }

    /// The sources that leave.
    pub fn ssrcs(&self) -> impl Iterator<Item = Ssrc> + 'a {
        ssrcs(self.sources)
    }
}

/// An extended report.
#[derive(Clone, Debug)]
pub struct Xr<'a> {
    /// Who reports.
    pub ssrc: Ssrc,
    blocks: &'a [u8],
}

/// A block of an extended report.
#[derive(Clone, Debug)]
pub enum XrBlock<'a> {
    /// Receiver reference time (RFC 3611, section 4.4): a receiver's wall clock.
    ReceiverReferenceTime(NtpTime),
    /// Delay since the last receiver reference time (RFC 3611, section 4.5), the answer to it.
    DelaySinceLastRr(DlrrReports<'a>),
    /// Another block.
    Other {
        /// The block type field.
        block_type: u8,
        /// The block's content.
        body: &'a [u8],
    },
}

/// The reports of a DLRR block.
#[derive(Clone, Debug)]
pub struct DlrrReports<'a>(&'a [u8]);

/// What a DLRR block says to one receiver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DlrrReport {
    /// The receiver that had sent its reference time.
    pub ssrc: Ssrc,
    /// The middle bits of that time, 0 if there was none.
    pub last_rr: u32,
    /// How long ago it came, in 1/65,536 s.
    pub delay_since_last_rr: u32,
}

impl Iterator for DlrrReports<'_> {
    type Item = DlrrReport;

    fn next(&mut self) -> Option<DlrrReport> {
        let (ssrc, rest) = take_u32(self.0)?;
        let (last_rr, rest) = take_u32(rest)?;
        let (delay_since_last_rr, rest) = take_u32(rest)?;
        self.0 = rest;
        Some(DlrrReport { ssrc: Ssrc(ssrc), last_rr, delay_since_last_rr })
    }
}

impl<'a> Xr<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Option<Self> {
        let (ssrc, blocks) = take_u32(body)?;
        let mut rest = blocks;
        while !rest.is_empty() {
            rest = take_xr_block(rest)?.1;
        }
        Some(Self { ssrc: Ssrc(ssrc), blocks })
    }

    /// The blocks.
    pub fn blocks(&self) -> impl Iterator<Item = XrBlock<'a>> + use<'a> {
        let mut rest = self.blocks;
        std::iter::from_fn(move || {
            let (block, after) = take_xr_block(rest)?;
            rest = after;
            Some(block)
        })
    }
}

fn take_xr_block(bytes: &[u8]) -> Option<(XrBlock<'_>, &[u8])> {
    let (&[block_type, _, l0, l1], rest) = bytes.split_first_chunk::<4>()?;
    let len = usize::from(u16::from_be_bytes([l0, l1])).saturating_mul(4);
    let (body, rest) = rest.split_at_checked(len)?;
    let block = match (block_type, body.first_chunk::<8>()) {
        (4, Some(ntp)) => XrBlock::ReceiverReferenceTime(NtpTime(u64::from_be_bytes(*ntp))),
        (5, _) => XrBlock::DelaySinceLastRr(DlrrReports(body)),
        _ => XrBlock::Other { block_type, body },
    };
    Some((block, rest))
}
