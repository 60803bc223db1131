//! Where an incoming sequence number belongs: RFC 3550, appendix A.1, with a window of those seen.
//!
//! Tells new, reordered, duplicate and impossible packets apart and counts how many were expected. Differs
//! from the appendix in one point: when the sender restarts its numbering, the extended number goes on upwards
//! (to the next turn with the right low bits), so that it never repeats within a stream.

/// Packets ahead that are still a gap and not a jump (RFC 3550's MAX_DROPOUT).
const MAX_DROPOUT: u16 = 3000;
/// Packets behind that are still reordering (more than RFC 3550's MAX_MISORDER of 100: repairs come late).
const MAX_MISORDER: u16 = 1500;
/// Bits of the window of seen numbers: a power of two, not less than `MAX_MISORDER`.
const WINDOW: u64 = 2048;
/// Numbers start on turn one, so that what precedes the first packet has a place.
const TURN: u64 = 1 << 16;

/// The place of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Newer than everything before.
    Newest(u64),
    /// Older than the newest, not seen before.
    Reordered(u64),
    /// The first of a new numbering: the sender restarted.
    Restarted(u64),
    /// Seen before.
    Duplicate,
    /// Older than the window.
    TooOld,
    /// So far ahead that it is taken for an error unless its successor follows.
    Jump,
}

/// Sequence number state of one incoming SSRC.
#[derive(Clone, Debug)]
pub(super) struct Placement {
    started: bool,
    base: u64,
    highest: u64,
    expected_before_restart: u64,
    /// The number that, if it comes next, proves that the sender restarted.
    restart_candidate: Option<u16>,
    seen: [u64; (WINDOW / 64) as usize],
}

impl Placement {
    pub(super) const fn new() -> Self {
        Self {
            started: false,
            base: TURN,
            highest: TURN,
            expected_before_restart: 0,
            restart_candidate: None,
            seen: [0; (WINDOW / 64) as usize],
        }
    }

    /// Places a packet and remembers it.
    pub(super) fn place(&mut self, seq: u16) -> Place {
        if !self.started {
            self.started = true;
            self.base = TURN | u64::from(seq);
            self.highest = self.base;
            self.mark(self.highest);
            return Place::Newest(self.highest);
        }
        let ahead = seq.wrapping_sub(self.highest as u16);
        if ahead == 0 {
            return Place::Duplicate;
        }
        if ahead < MAX_DROPOUT {
            self.restart_candidate = None;
            let extended = self.highest + u64::from(ahead);
            for skipped in self.highest + 1..extended {
                self.unmark(skipped);
            }
            self.highest = extended;
            self.mark(extended);
            return Place::Newest(extended);
        }
        let behind = ahead.wrapping_neg();
        if behind < MAX_MISORDER {
            return self.place_behind(behind);
        }
        if self.restart_candidate == Some(seq) {
            return Place::Restarted(self.restart(seq));
        }
        self.restart_candidate = Some(seq.wrapping_add(1));
        if behind < 0x8000 { Place::TooOld } else { Place::Jump }
    }

    /// Places a packet that a repair stream brought back: such a packet never restarts the numbering, because
    /// repairs of old packets come in sequence too.
    pub(super) fn place_repaired(&mut self, seq: u16) -> Place {
        if !self.started {
            return Place::Jump;
        }
        let candidate = self.restart_candidate.take();
        let place = self.place(seq);
        self.restart_candidate = candidate;
        place
    }

    /// The newest number.
    pub(super) const fn highest(&self) -> u64 {
        self.highest
    }

    /// The newest number as receiver reports carry it: turns counted from zero, 32 bits.
    pub(super) const fn highest_for_report(&self) -> u32 {
        ((self.highest - TURN) & 0xffff_ffff) as u32
    }

    /// Packets that the sender must have sent, from the first seen to the newest, over all restarts.
    pub(super) const fn expected(&self) -> u64 {
        if !self.started {
            return 0;
        }
        self.expected_before_restart + self.highest - self.base + 1
    }

    fn place_behind(&mut self, behind: u16) -> Place {
        // Right after a start on a low number the place below may lie before turn zero.
        let Some(extended) = self.highest.checked_sub(u64::from(behind)) else { return Place::TooOld };
        if extended < self.base {
            // Before the first packet that was seen: reordered at the start, unless a restart lies between.
            if self.expected_before_restart != 0 {
                return Place::TooOld;
            }
            for skipped in extended + 1..self.base {
                self.unmark(skipped);
            }
            self.base = extended;
            self.mark(extended);
            return Place::Reordered(extended);
        }
        if self.is_marked(extended) {
            return Place::Duplicate;
        }
        self.mark(extended);
        Place::Reordered(extended)
    }

    fn restart(&mut self, seq: u16) -> u64 {
        self.expected_before_restart = self.expected();
        let mut extended = (self.highest & !0xffff) | u64::from(seq);
        if extended <= self.highest {
            extended += TURN;
        }
        self.base = extended;
        self.highest = extended;
        self.restart_candidate = None;
        self.seen = [0; (WINDOW / 64) as usize];
        self.mark(extended);
        extended
    }

    const fn slot(extended: u64) -> (usize, u64) {
        let bit = extended % WINDOW;
        ((bit / 64) as usize, 1 << (bit % 64))
    }

    fn mark(&mut self, extended: u64) {
        let (word, bit) = Self::slot(extended);
        self.seen[word] |= bit;
    }

    fn unmark(&mut self, extended: u64) {
        let (word, bit) = Self::slot(extended);
        self.seen[word] &= !bit;
    }

    fn is_marked(&self, extended: u64) -> bool {
        let (word, bit) = Self::slot(extended);
        self.seen[word] & bit != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrap_goes_on_upwards() {
        let mut placement = Placement::new();
        assert_eq!(placement.place(65_534), Place::Newest(TURN + 65_534));
        assert_eq!(placement.place(65_535), Place::Newest(TURN + 65_535));
        assert_eq!(placement.place(1), Place::Newest(2 * TURN + 1));
        assert_eq!(placement.place(0), Place::Reordered(2 * TURN));
        assert_eq!(placement.place(65_535), Place::Duplicate);
        assert_eq!(placement.highest_for_report(), 0x1_0001);
        assert_eq!(placement.expected(), 4);
    }

    #[test]
    fn packets_before_the_first_are_counted_as_expected() {
        let mut placement = Placement::new();
        assert_eq!(placement.place(0), Place::Newest(TURN));
        assert_eq!(placement.place(65_535), Place::Reordered(TURN - 1));
        assert_eq!(placement.place(65_535), Place::Duplicate);
        assert_eq!(placement.expected(), 2);
    }

    #[test]
    fn one_stray_number_is_no_restart_and_two_in_a_row_are() {
        let mut placement = Placement::new();
        placement.place(100);
        placement.place(101);
        assert_eq!(placement.place(30_000), Place::Jump);
        assert_eq!(placement.place(102), Place::Newest(TURN + 102));
        assert_eq!(placement.place(30_000), Place::Jump);
        assert_eq!(placement.place(30_001), Place::Restarted(TURN + 30_001));
        assert_eq!(placement.place(30_003), Place::Newest(TURN + 30_003));
        assert_eq!(placement.expected(), 3 + 3);
    }

    #[test]
    fn restart_on_a_lower_number_takes_the_next_turn() {
        let mut placement = Placement::new();
        placement.place(40_000);
        assert_eq!(placement.place(20_000), Place::TooOld);
        assert_eq!(placement.place(20_001), Place::Restarted(2 * TURN + 20_001));
        assert_eq!(placement.place(20_000), Place::TooOld, "nothing before the restart is waited for");
    }

    #[test]
    fn repaired_packets_in_a_row_never_restart() {
        let mut placement = Placement::new();
        placement.place(10_000);
        for seq in 7_000..7_100 {
            assert_eq!(placement.place_repaired(seq), Place::TooOld);
        }
        assert_eq!(placement.place(10_001), Place::Newest(TURN + 10_001));
    }

    #[test]
    fn skipped_numbers_are_not_taken_for_seen_a_window_later() {
        let mut placement = Placement::new();
        for seq in 0..WINDOW as u16 {
            placement.place(seq);
        }
        assert_eq!(placement.place(WINDOW as u16 + 10), Place::Newest(TURN + WINDOW + 10));
        assert_eq!(placement.place(WINDOW as u16 + 4), Place::Reordered(TURN + WINDOW + 4));
        assert_eq!(placement.place(WINDOW as u16 + 4), Place::Duplicate);
    }
}
