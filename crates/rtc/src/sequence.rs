//! RTP sequence numbers: their circular order (RFC 1982), their extension to 64 bits, and the map from the
//! numbers that a producer sends to those that one consumer receives.
//!
//! Nothing here reads packets: it only counts. Every operation is total, whatever numbers come in.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod mapper;

pub use mapper::{Mapper, SeqMapper};

/// An RTP sequence number (RFC 3550, section 5.1).
///
/// The numbers lie on a circle of 65,536, so there is no `Ord`: [`SeqNo::is_newer_than`] and
/// [`SeqNo::distance_from`] compare two of them by the shorter way round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SeqNo(pub u16);

impl SeqNo {
    /// The number `count` steps later.
    #[must_use]
    pub const fn plus(self, count: u16) -> Self {
        Self(self.0.wrapping_add(count))
    }

    /// The number `count` steps earlier.
    #[must_use]
    pub const fn minus(self, count: u16) -> Self {
        Self(self.0.wrapping_sub(count))
    }

    /// The number that follows this one.
    #[must_use]
    pub const fn next(self) -> Self {
        self.plus(1)
    }

    /// Steps from `other` to this number by the shorter way round: positive when this one is newer. Exactly
    /// half a circle apart (undefined in RFC 1982) counts as older.
    #[must_use]
    pub const fn distance_from(self, other: Self) -> i16 {
        self.0.wrapping_sub(other.0).cast_signed()
    }

    /// Whether this number follows `other` on the shorter way round.
    #[must_use]
    pub const fn is_newer_than(self, other: Self) -> bool {
        self.distance_from(other) > 0
    }

    /// Whether this number precedes `other` on the shorter way round.
    #[must_use]
    pub const fn is_older_than(self, other: Self) -> bool {
        self.distance_from(other) < 0
    }

    /// The low 16 bits of an extended number.
    #[must_use]
    pub const fn from_extended(extended: u64) -> Self {
        Self((extended & 0xffff) as u16)
    }
}

impl From<u16> for SeqNo {
    fn from(value: u16) -> Self {
        Self(value)
    }
}

impl From<SeqNo> for u16 {
    fn from(value: SeqNo) -> Self {
        value.0
    }
}

impl std::fmt::Display for SeqNo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Unwraps counters of `BITS` bits (8, 15, 16, …, at most 32) to 64 bits: each value is taken to lie on the
/// nearest turn to the newest value seen.
///
/// The first value lies on turn one, not zero, so that values which precede it have a place below it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwrapper<const BITS: u32> {
    newest: Option<u64>,
}

/// Unwraps RTP sequence numbers (16 bits) to 64 bits. The low 16 bits stay what they were.
pub type SequenceExtender = Unwrapper<16>;

impl<const BITS: u32> Unwrapper<BITS> {
    const TURN: u64 = 1 << BITS;
    const MASK: u64 = Self::TURN.wrapping_sub(1);
    const HALF: u64 = 1 << BITS.wrapping_sub(1);

    /// An unwrapper that has seen nothing.
    #[must_use]
    pub const fn new() -> Self {
        const { assert!(BITS >= 2 && BITS <= 32, "counters of 2 to 32 bits") };
        Self { newest: None }
    }

    /// The extended value; it becomes the newest if it is ahead of what was seen.
    pub fn extend(&mut self, value: impl Into<u64>) -> u64 {
        let extended = self.peek(value);
        if self.newest.is_none_or(|newest| extended > newest) {
            self.newest = Some(extended);
        }
        extended
    }

    /// The extended value, without remembering it.
    #[must_use]
    pub fn peek(&self, value: impl Into<u64>) -> u64 {
        let value = value.into() & Self::MASK;
        let Some(newest) = self.newest else { return Self::TURN | value };
        let ahead = value.wrapping_sub(newest) & Self::MASK;
        let behind = newest.wrapping_sub(value) & Self::MASK;
        if ahead < Self::HALF || behind > newest {
            newest.saturating_add(ahead)
        } else {
            newest.saturating_sub(behind)
        }
    }

    /// The newest extended value seen.
    #[must_use]
    pub const fn newest(&self) -> Option<u64> {
        self.newest
    }

    /// The newest value as a receiver report carries it: turns counted from zero, in 32 bits (RFC 3550,
    /// section 6.4.1).
    #[must_use]
    pub fn newest_for_report(&self) -> u32 {
        let newest = self.newest.unwrap_or(Self::TURN).wrapping_sub(Self::TURN);
        (newest & 0xffff_ffff) as u32
    }
}

impl From<SeqNo> for u64 {
    fn from(value: SeqNo) -> Self {
        u64::from(value.0)
    }
}

#[cfg(test)]
mod tests;
