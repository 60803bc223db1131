//! Loss and jitter of an incoming stream, as receiver reports tell them (RFC 3550, section 6.4.1), and its frames a second.

use std::time::Instant;

/// Loss as reports tell it (RFC 3550, appendix A.3).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LossReport {
    expected: u64,
    received: u64,
    pub(super) fraction: u8,
    /// What was lost here.
    pub(super) cumulative: i32,
    /// What was reported: greater where a worse loss of consumers was reported instead.
    reported: i32,
}

/// What one report says of loss.
pub(super) struct ReportedLoss {
    pub(super) fraction: u8,
    pub(super) cumulative: i32,
}

impl LossReport {
    pub(super) fn report(&mut self, expected: u64, received: u64, worst_remote_fraction: u8) -> ReportedLoss {
        /// The greatest loss that 24 signed bits can tell.
        const MAX_LOST: i32 = 0x7f_ffff;
        let expected_interval = expected - self.expected;
        let lost_interval = expected_interval.saturating_sub(received - self.received);
        self.expected = expected;
        self.received = received;
        self.fraction = ((lost_interval << 8) / expected_interval.max(1)).min(255) as u8;
        let before = self.cumulative;
        let lost = expected.saturating_sub(received);
        self.cumulative = i32::try_from(lost).unwrap_or(MAX_LOST).min(MAX_LOST);
        let mut fraction = self.fraction;
        let mut added = self.cumulative - before;
        if worst_remote_fraction > fraction {
            fraction = worst_remote_fraction;
            added = ((u64::from(worst_remote_fraction) * expected_interval) >> 8) as i32;
        }
        self.reported = self.reported.saturating_add(added).clamp(0, MAX_LOST);
        ReportedLoss { fraction, cumulative: self.reported }
    }
}

/// Interarrival jitter (RFC 3550, section 6.4.1 and appendix A.8).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Jitter {
    first: Option<Instant>,
    transit: u32,
    /// In 1/16 of a timestamp unit.
    scaled: u64,
}

impl Jitter {
    pub(super) fn add(&mut self, timestamp: u32, clock_rate: u32, now: Instant) {
        if clock_rate == 0 {
            return;
        }
        let started = self.first.is_some();
        let first = *self.first.get_or_insert(now);
        let elapsed_us = now.saturating_duration_since(first).as_micros() as u64;
        let arrival = (elapsed_us.wrapping_mul(u64::from(clock_rate)) / 1_000_000) as u32;
        let transit = arrival.wrapping_sub(timestamp);
        let difference = u64::from(transit.wrapping_sub(self.transit).cast_signed().unsigned_abs());
        self.transit = transit;
        if started {
            self.scaled = (self.scaled + difference).saturating_sub((self.scaled + 8) >> 4);
        }
    }

    pub(super) fn value(self) -> u32 {
        u32::try_from(self.scaled >> 4).unwrap_or(u32::MAX)
    }
}

/// Frames a second, by their timestamps.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FrameRate {
    /// Mean distance of frames, in 1/8 of a timestamp unit; zero until there were two.
    scaled: u32,
}

impl FrameRate {
    /// A frame so many timestamp units after the one before it.
    pub(super) fn add(&mut self, distance: u32, clock_rate: u32) {
        // A pause is no distance of frames.
        if distance == 0 || distance > clock_rate {
            return;
        }
        self.scaled =
            if self.scaled == 0 { distance << 3 } else { self.scaled - (self.scaled >> 3) + distance };
    }

    pub(super) fn value(self, clock_rate: u32) -> Option<f64> {
        (self.scaled > 0).then(|| f64::from(clock_rate) * 8.0 / f64::from(self.scaled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_a_second_are_those_of_the_timestamps_whatever_pauses() {
        let mut rate = FrameRate::default();
        assert_eq!(rate.value(90_000), None);
        for distance in [3000, 3000, 0, 3000, 90_001, 3000] {
            rate.add(distance, 90_000);
        }
        assert_eq!(rate.value(90_000), Some(30.0));
        for _ in 0..40 {
            rate.add(6000, 90_000);
        }
        let fps = rate.value(90_000).unwrap();
        assert!((14.9..15.2).contains(&fps), "{fps}");
    }
}
