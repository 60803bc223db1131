//! Damage to bytes: what transmission faults, fuzzers and attackers do to a valid message, from a seed.

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

/// The longest message that a mutation makes: a datagram may not exceed this.
const MAX_BYTES: usize = 1_400;

/// Values at which parsers tend to be wrong.
const EDGES: [u8; 8] = [0, 1, 0x3f, 0x7f, 0x80, 0xbe, 0xfe, 0xff];

/// A seeded source of damaged and random messages. The same seed gives the same messages.
#[derive(Debug)]
pub struct Mutator(StdRng);

impl Mutator {
    /// A mutator of this seed.
    pub fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// A number below `bound`; zero where that is zero.
    pub fn below(&mut self, bound: usize) -> usize {
        if bound == 0 { 0 } else { self.0.random_range(0..bound) }
    }

    /// One of these; `None` where there is none.
    pub fn pick<'t, T>(&mut self, of: &'t [T]) -> Option<&'t T> {
        of.get(self.below(of.len()))
    }

    /// Random bytes, `least` to `most` of them.
    pub fn random(&mut self, least: usize, most: usize) -> Vec<u8> {
        let len = least + self.below(most.saturating_sub(least) + 1);
        let mut bytes = vec![0; len];
        self.0.fill_bytes(&mut bytes);
        bytes
    }

    /// A 32-bit number.
    pub fn number(&mut self) -> u32 {
        self.0.random()
    }

    /// `template` with one to four faults in it; it may also come out as it was.
    pub fn mutate(&mut self, template: &[u8]) -> Vec<u8> {
        let mut bytes = template.to_vec();
        for _ in 0..=self.below(4) {
            self.damage(&mut bytes);
        }
        bytes.truncate(MAX_BYTES);
        bytes
    }

    fn damage(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len());
        let rest = bytes.len() - at;
        match self.below(9) {
            // Single bits, single bytes.
            0 | 1 => {
                let bit = self.below(8);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << bit;
                }
            }
            2 => {
                let edge = EDGES[self.below(EDGES.len())];
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = edge;
                }
            }
            // Lengths and counts: 16 bits that say too much, too little, or nearly all.
            3 => {
                let len = bytes.len() as u16;
                let values = [0, 1, 0xffff, 0x7fff, len, len.wrapping_sub(4), len.wrapping_add(1)];
                let value = values[self.below(values.len())];
                let at = at & !1;
                if let Some(slot) = bytes.get_mut(at..at + 2) {
                    slot.copy_from_slice(&value.to_be_bytes());
                }
            }
            // Cut, lengthened, a piece missing, a piece twice, a piece from elsewhere.
            4 => bytes.truncate(at),
            5 => bytes.extend(self.random(1, 64)),
            6 => {
                let count = self.below(rest.min(32) + 1);
                bytes.drain(at..at + count);
            }
            7 => {
                let piece = bytes[at..at + self.below(rest.min(64) + 1)].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                let piece = self.random(1, 16);
                let count = piece.len().min(rest);
                if let (Some(slot), Some(piece)) = (bytes.get_mut(at..at + count), piece.get(..count)) {
                    slot.copy_from_slice(piece);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_does_the_same_damage_and_most_of_it_shows() {
        let template: Vec<u8> = (0..100).collect();
        let messages = |seed| -> Vec<Vec<u8>> {
            let mut mutator = Mutator::new(seed);
            (0..500).map(|_| mutator.mutate(&template)).collect()
        };
        let once = messages(7);
        assert_eq!(once, messages(7));
        assert_ne!(once, messages(8));
        assert!(once.iter().filter(|message| **message != template).count() > 450);
        assert!(Mutator::new(1).mutate(&[]).len() <= MAX_BYTES);
    }
}
