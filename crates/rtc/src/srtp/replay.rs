//! The replay window of RFC 3711 section 3.3.2: which packet indexes of one stream were accepted.

use super::SrtpError;

/// Words of 64 indexes; a power of two.
const WORDS: u64 = 16;

/// How far behind the highest accepted index a packet may be. RFC 3711 asks for 64 at least; a repeat asked
/// for by NACK in a high-rate stream comes hundreds of packets late. One word less than the ring holds, as
/// the newest word is only partly in use.
pub(super) const WINDOW: u64 = (WORDS - 1) * 64;

/// Highest accepted index, and a ring of bits for the indexes below it.
#[derive(Clone)]
pub(super) struct ReplayWindow {
    highest: u64,
    bits: [u64; WORDS as usize],
}

impl ReplayWindow {
    /// A window whose first accepted index is `index`.
    pub(super) fn starting_at(index: u64) -> Self {
        let mut window = Self { highest: index, bits: [0; WORDS as usize] };
        window.set(index);
        window
    }

    pub(super) fn highest(&self) -> u64 {
        self.highest
    }

    /// Whether a packet of this index may be accepted.
    pub(super) fn check(&self, index: u64) -> Result<(), SrtpError> {
        if index > self.highest {
            return Ok(());
        }
        if self.highest.saturating_sub(index) >= WINDOW {
            return Err(SrtpError::TooOld);
        }
        let word = self.bits.get(Self::slot(index)).copied().unwrap_or(u64::MAX);
        if word & Self::bit(index) != 0 { Err(SrtpError::Replayed) } else { Ok(()) }
    }

    /// Notes an authentic packet. Only after [`Self::check`] said yes.
    pub(super) fn accept(&mut self, index: u64) {
        if index > self.highest {
            let (old, new) = (self.highest >> 6, index >> 6);
            // A jump of a whole ring or more clears every word, once.
            for word in old.saturating_add(1)..=new.min(old.saturating_add(WORDS)) {
                if let Some(slot) = self.bits.get_mut((word % WORDS) as usize) {
                    *slot = 0;
                }
            }
            self.highest = index;
        }
        self.set(index);
    }

    fn set(&mut self, index: u64) {
        if let Some(slot) = self.bits.get_mut(Self::slot(index)) {
            *slot |= Self::bit(index);
        }
    }

    fn slot(index: u64) -> usize {
        ((index >> 6) % WORDS) as usize
    }

    fn bit(index: u64) -> u64 {
        1 << (index & 63)
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "test arithmetic on small numbers")]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_set_of_all_accepted(
            start in 0_u64..1 << 40,
            steps in proptest::collection::vec(-1_500_i64..1_500, 1..400),
        ) {
            let mut window = ReplayWindow::starting_at(start);
            let mut accepted = HashSet::from([start]);
            let mut highest = start;
            for step in steps {
                let index = highest.saturating_add_signed(step);
                let expected = if index + WINDOW <= highest {
                    Err(SrtpError::TooOld)
                } else if accepted.contains(&index) {
                    Err(SrtpError::Replayed)
                } else {
                    Ok(())
                };
                prop_assert_eq!(window.check(index), expected);
                if expected.is_ok() {
                    window.accept(index);
                    accepted.insert(index);
                    highest = highest.max(index);
                }
            }
        }
    }
}
