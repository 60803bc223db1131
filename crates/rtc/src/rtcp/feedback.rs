//! Feedback about streams: NACK, PLI (RFC 4585), FIR (RFC 5104) and REMB (draft-alvestrand-rmcat-remb),
//! as they are read.

use super::{ssrcs, take_feedback_ssrcs};
use crate::rtp::{Bitrate, SeqNo, Ssrc};

/// Packets that a receiver misses.
#[derive(Clone, Debug)]
pub struct Nack<'a> {
    /// Who misses them.
    pub sender_ssrc: Ssrc,
    /// The stream that they belong to.
    pub media_ssrc: Ssrc,
    entries: &'a [[u8; 4]],
}

impl<'a> Nack<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Option<Self> {
        let (sender_ssrc, media_ssrc, rest) = take_feedback_ssrcs(body)?;
        let (entries, odd) = rest.as_chunks::<4>();
        (odd.is_empty() && !entries.is_empty()).then_some(Self { sender_ssrc, media_ssrc, entries })
    }

    /// The entries as they are on the wire: a number, and a bit for each of the 16 that follow it.
    pub fn entries(&self) -> impl Iterator<Item = (SeqNo, u16)> + use<'a> {
        self.entries
            .iter()
            .map(|&[p0, p1, b0, b1]| (SeqNo(u16::from_be_bytes([p0, p1])), u16::from_be_bytes([b0, b1])))
    }

    /// The missing sequence numbers. Up to 17 an entry: what is done for each has to be bounded elsewhere.
    pub fn sequences(&self) -> impl Iterator<Item = SeqNo> + use<'a> {
        self.entries().flat_map(|(first, following)| {
            let later = (0..16_u16).filter(move |bit| following & (1 << bit) != 0);
            std::iter::once(first).chain(later.map(move |bit| first.plus(bit.saturating_add(1))))
        })
    }
}

/// A receiver that cannot decode asks for a key frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pli {
    /// Who asks.
    pub sender_ssrc: Ssrc,
    /// The stream that it means.
    pub media_ssrc: Ssrc,
}

impl Pli {
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        let (sender_ssrc, media_ssrc, _) = take_feedback_ssrcs(body)?;
        Some(Self { sender_ssrc, media_ssrc })
    }
}

/// Key frames demanded of one or several streams.
#[derive(Clone, Debug)]
pub struct Fir<'a> {
    /// Who demands them.
    pub sender_ssrc: Ssrc,
    entries: &'a [[u8; 8]],
}

/// One stream of a FIR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirEntry {
    /// The stream.
    pub ssrc: Ssrc,
    /// The command's number: a repeated one repeats the command, and is to be obeyed once.
    pub command: u8,
}

impl<'a> Fir<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Option<Self> {
        let (sender_ssrc, _, rest) = take_feedback_ssrcs(body)?;
        let (entries, odd) = rest.as_chunks::<8>();
        (odd.is_empty() && !entries.is_empty()).then_some(Self { sender_ssrc, entries })
    }

    /// The streams.
    pub fn entries(&self) -> impl Iterator<Item = FirEntry> + use<'a> {
        self.entries.iter().map(|&[s0, s1, s2, s3, command, _, _, _]| FirEntry {
            ssrc: Ssrc(u32::from_be_bytes([s0, s1, s2, s3])),
            command,
        })
    }
}

/// What a receiver believes that it can take in all.
#[derive(Clone, Debug)]
pub struct Remb<'a> {
    /// Who says so.
    pub sender_ssrc: Ssrc,
    /// The rate; one that does not fit 64 bits is the largest that does.
    pub bitrate: Bitrate,
    sources: &'a [u8],
}

impl<'a> Remb<'a> {
    pub(super) fn is(body: &[u8]) -> bool {
        body.get(8..12) == Some(b"REMB")
    }

    pub(super) fn parse(body: &'a [u8]) -> Option<Self> {
        let (sender_ssrc, _, rest) = take_feedback_ssrcs(body)?;
        let (&[_, _, _, _, count, high, m1, m0], rest) = rest.split_first_chunk::<8>()?;
        let exponent = u32::from(high >> 2);
        let mantissa = u64::from(u32::from_be_bytes([0, high & 0x03, m1, m0]));
        let bitrate = if mantissa == 0 || exponent <= mantissa.leading_zeros() {
            mantissa.checked_shl(exponent).unwrap_or(0)
        } else {
            u64::MAX
        };
        let sources = rest.get(..usize::from(count).saturating_mul(4))?;
        Some(Self { sender_ssrc, bitrate: Bitrate(bitrate), sources })
    }

    /// The streams that share the rate.
    pub fn ssrcs(&self) -> impl Iterator<Item = Ssrc> + 'a {
        ssrcs(self.sources)
    }
}
