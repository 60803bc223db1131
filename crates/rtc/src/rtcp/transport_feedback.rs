//! Transport-wide congestion control feedback (draft-holmer-rmcat-transport-wide-cc-extensions-01,
//! section 3.1): for each of a run of transport-wide sequence numbers, whether and when the packet
//! came.

use super::write::write_packet;
use super::{FORMAT_TRANSPORT_CC, TRANSPORT_LAYER_FEEDBACK, take_feedback_ssrcs};
use crate::rtp::{SeqNo, Ssrc};

/// Microseconds of one tick of an arrival delta.
pub const TICK_US: i64 = 250;

/// Microseconds of one unit of the reference time.
const REFERENCE_US: i64 = 64_000;

const LONGEST_RUN: usize = 0x1fff;
const ONE_BIT_SYMBOLS: usize = 14;
const TWO_BIT_SYMBOLS: usize = 7;

/// The fixed part of a feedback packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransportFeedbackHeader {
    /// Who reports.
    pub sender_ssrc: Ssrc,
    /// A stream of those reported on; of no meaning, as the numbers span the transport.
    pub media_ssrc: Ssrc,
    /// The first transport-wide number reported on.
    pub base_sequence: SeqNo,
    /// When the first delta starts, in units of 64 ms of the reporter's clock, 24 bits, signed.
    pub reference_time: i32,
    /// The number of this feedback packet, to tell lost ones.
    pub feedback_count: u8,
}

/// A received feedback packet. What it promises is there: iterating cannot fail.
#[derive(Clone, Debug)]
pub struct TransportFeedback<'a> {
    /// The fixed part.
    pub header: TransportFeedbackHeader,
    /// How many numbers are reported on.
    pub status_count: u16,
    chunks: &'a [[u8; 2]],
    deltas: &'a [u8],
}

/// What a feedback packet says about one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketStatus {
    /// The packet's transport-wide number.
    pub sequence: SeqNo,
    /// When it came, in microseconds of the reporter's clock (which wraps after 2^24 * 64 ms); `None`
    /// if it did not.
    pub arrival_us: Option<i64>,
}

/// The status symbols of the draft.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Symbol {
    NotReceived = 0,
    SmallDelta = 1,
    LargeDelta = 2,
}

impl Symbol {
    fn from_bits(bits: u16) -> Option<Self> {
        match bits & 0x03 {
            0 => Some(Self::NotReceived),
            1 => Some(Self::SmallDelta),
            2 => Some(Self::LargeDelta),
            _ => None,
        }
    }

    fn of(delta: Option<i16>) -> Self {
        match delta {
            None => Self::NotReceived,
            Some(0..=255) => Self::SmallDelta,
            Some(_) => Self::LargeDelta,
        }
    }

    fn delta_len(self) -> usize {
        match self {
            Self::NotReceived => 0,
            Self::SmallDelta => 1,
            Self::LargeDelta => 2,
        }
    }
}

/// A decoded chunk: symbols to come, in the order of the packet numbers.
#[derive(Clone, Copy)]
enum Chunk {
    Run {
        symbol: u16,
        left: u16,
    },
    /// The symbols' bits, the next one topmost.
    Vector {
        bits: u16,
        width: u16,
        left: u16,
    },
}

impl Chunk {
    fn from_bytes(bytes: [u8; 2]) -> Self {
        let word = u16::from_be_bytes(bytes);
        if word & 0x8000 == 0 {
            Self::Run { symbol: (word >> 13) & 0x03, left: word & 0x1fff }
        } else if word & 0x4000 == 0 {
            Self::Vector { bits: word << 2, width: 1, left: ONE_BIT_SYMBOLS as u16 }
        } else {
            Self::Vector { bits: word << 2, width: 2, left: TWO_BIT_SYMBOLS as u16 }
        }
    }

    fn next_bits(&mut self) -> Option<u16> {
        match self {
            Self::Run { symbol, left } => {
                *left = left.checked_sub(1)?;
                Some(*symbol)
            }
            Self::Vector { bits, width, left } => {
                *left = left.checked_sub(1)?;
                let top = if *width == 1 { *bits >> 15 } else { *bits >> 14 };
                *bits = bits.checked_shl(u32::from(*width)).unwrap_or(0);
                Some(top)
            }
        }
    }
}

impl<'a> TransportFeedback<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Option<Self> {
        let (sender_ssrc, media_ssrc, rest) = take_feedback_ssrcs(body)?;
        let (&[b0, b1, c0, c1, t2, t1, t0, feedback_count], rest) = rest.split_first_chunk::<8>()?;
        let status_count = u16::from_be_bytes([c0, c1]);
        // The first chunk and deltas are told apart by counting; both are checked here, once.
        let mut statuses = 0_usize;
        let mut chunk_count = 0_usize;
        let mut deltas_len = 0_usize;
        for &bytes in rest.as_chunks::<2>().0 {
            if statuses >= usize::from(status_count) {
                break;
            }
            chunk_count = chunk_count.saturating_add(1);
            let mut chunk = Chunk::from_bytes(bytes);
            while statuses < usize::from(status_count)
                && let Some(bits) = chunk.next_bits()
            {
                deltas_len = deltas_len.saturating_add(Symbol::from_bits(bits)?.delta_len());
                statuses = statuses.saturating_add(1);
            }
        }
        let (chunks, deltas) = rest.split_at_checked(chunk_count.saturating_mul(2))?;
        if statuses != usize::from(status_count) || deltas.len() < deltas_len {
            return None;
        }
        let header = TransportFeedbackHeader {
            sender_ssrc,
            media_ssrc,
            base_sequence: SeqNo(u16::from_be_bytes([b0, b1])),
            reference_time: i32::from_be_bytes([t2, t1, t0, 0]) >> 8,
            feedback_count,
        };
        Some(Self { header, status_count, chunks: chunks.as_chunks::<2>().0, deltas })
    }

    /// The packets reported on, in the order of their numbers.
    pub fn packets(&self) -> impl Iterator<Item = PacketStatus> + use<'a> {
        let symbols = self.chunks.iter().flat_map(|&bytes| {
            let mut chunk = Chunk::from_bytes(bytes);
            std::iter::from_fn(move || chunk.next_bits())
        });
        let mut sequence = self.header.base_sequence;
        let mut deltas = self.deltas;
        let mut arrival_us = i64::from(self.header.reference_time).saturating_mul(REFERENCE_US);
        symbols.take(usize::from(self.status_count)).map_while(move |bits| {
            let ticks = match Symbol::from_bits(bits)? {
                Symbol::NotReceived => None,
                Symbol::SmallDelta => {
                    let (&ticks, rest) = deltas.split_first()?;
                    deltas = rest;
                    Some(i64::from(ticks))
                }
                Symbol::LargeDelta => {
                    let (&ticks, rest) = deltas.split_first_chunk::<2>()?;
                    deltas = rest;
                    Some(i64::from(i16::from_be_bytes(ticks)))
                }
            };
            let status = PacketStatus {
                sequence,
                arrival_us: ticks.map(|ticks| {
                    arrival_us = arrival_us.saturating_add(ticks.saturating_mul(TICK_US));
                    arrival_us
                }),
            };
            sequence = sequence.next();
            Some(status)
        })
    }
}

/// Writes a feedback packet. `deltas` has one entry for each number from the base on: for packets that
/// came the ticks ([`TICK_US`]) since the last one that came (for the first: since the reference time),
/// `None` for the others. At most 65,535 entries are written; the caller keeps the packet within what
/// its transport carries.
pub fn write_transport_feedback(out: &mut Vec<u8>, header: &TransportFeedbackHeader, deltas: &[Option<i16>]) {
    let deltas = deltas.get(..usize::from(u16::MAX)).unwrap_or(deltas);
    write_packet(out, usize::from(FORMAT_TRANSPORT_CC), TRANSPORT_LAYER_FEEDBACK, |out| {
        out.extend_from_slice(&header.sender_ssrc.0.to_be_bytes());
        out.extend_from_slice(&header.media_ssrc.0.to_be_bytes());
        out.extend_from_slice(&header.base_sequence.0.to_be_bytes());
        out.extend_from_slice(&(deltas.len() as u16).to_be_bytes());
        let [_, t2, t1, t0] = header.reference_time.to_be_bytes();
        out.extend_from_slice(&[t2, t1, t0, header.feedback_count]);
        let mut rest = deltas;
        while !rest.is_empty() {
            let (chunk, taken) = next_chunk(rest);
            out.extend_from_slice(&chunk.to_be_bytes());
            rest = rest.get(taken..).unwrap_or_default();
        }
        for ticks in deltas.iter().flatten() {
            match u8::try_from(*ticks) {
                Ok(small) => out.push(small),
                Err(_) => out.extend_from_slice(&ticks.to_be_bytes()),
            }
        }
    });
}

/// The chunk that covers most of what comes next, and how many packets that is.
fn next_chunk(deltas: &[Option<i16>]) -> (u16, usize) {
    let first = deltas.first().map_or(Symbol::NotReceived, |&delta| Symbol::of(delta));
    let run = deltas.iter().take(LONGEST_RUN).take_while(|&&delta| Symbol::of(delta) == first).count();
    let narrow = deltas
        .iter()
        .take(ONE_BIT_SYMBOLS)
        .take_while(|&&delta| Symbol::of(delta) != Symbol::LargeDelta)
        .count();
    let narrow_fits = narrow == deltas.len().min(ONE_BIT_SYMBOLS);
    let vector_len = deltas.len().min(if narrow_fits { ONE_BIT_SYMBOLS } else { TWO_BIT_SYMBOLS });
    if run >= vector_len {
        return (((first as u16) << 13) | run as u16, run);
    }
    let (flags, width, capacity) =
        if narrow_fits { (0x8000_u16, 1_u32, ONE_BIT_SYMBOLS) } else { (0xc000, 2, TWO_BIT_SYMBOLS) };
    let mut bits = 0_u16;
    for index in 0..capacity {
        let symbol = deltas.get(index).map_or(Symbol::NotReceived, |&delta| Symbol::of(delta));
        bits = bits.checked_shl(width).unwrap_or(0) | symbol as u16;
    }
    (flags | bits, vector_len)
}
