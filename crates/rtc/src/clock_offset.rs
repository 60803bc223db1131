//! How far a sender's wall clock is from ours, by its RTCP sender reports: what abs-capture-time needs when a stream
//! is passed on, for its clock offset is that between the capturing system and whoever sends.
//!
//! Each report gives a sample, the difference of the clocks plus the time that it took to arrive; half the round trip is
//! taken off, and the median of the newest samples is what counts.

use arrayvec::ArrayVec;
use std::time::Duration;

use crate::rtcp::NtpTime;

/// Samples that the median is taken of.
const WINDOW: usize = 7;
/// Fewer samples give no offset.
const LEAST: usize = 3;

/// A difference of wall clocks in 32.32 fixed-point seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClockOffset(pub i64);

/// The offset of one sender's clock.
#[derive(Clone, Debug, Default)]
pub struct ClockOffsetEstimator {
    samples: ArrayVec<i64, WINDOW>,
    newest: Option<NtpTime>,
}

impl ClockOffsetEstimator {
    /// Takes a report that says `theirs`, at `ours` by our clock. All reports of one datagram are one sample.
    pub fn on_sender_report(&mut self, theirs: NtpTime, ours: NtpTime, rtt: Option<Duration>) {
        if theirs.0 == 0 || self.newest == Some(ours) {
            return;
        }
        self.newest = Some(ours);
        let half_way = NtpTime::from_unix(rtt.unwrap_or_default() / 2).0.wrapping_sub(EPOCH);
        let sample = ours.0.wrapping_sub(theirs.0).wrapping_sub(half_way).cast_signed();
        if self.samples.is_full() {
            self.samples.remove(0);
        }
        self.samples.push(sample);
    }

    /// Our clock minus theirs; `None` before there are enough reports.
    #[must_use]
    pub fn offset(&self) -> Option<ClockOffset> {
        if self.samples.len() < LEAST {
            return None;
        }
        let mut sorted = self.samples.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().map(ClockOffset)
    }
}

/// The Unix epoch as NTP time.
const EPOCH: u64 = 2_208_988_800 << 32;

/// The value of an abs-capture-time element as it is passed on: the capture time stays, the clock offset becomes that
/// against our clock, and the long form is always used. `None` for a value of neither form.
#[must_use]
pub fn capture_time(value: &[u8], offset: ClockOffset) -> Option<[u8; 16]> {
    let (time, rest) = value.split_first_chunk::<8>()?;
    let theirs = match rest {
        [] => 0,
        rest => i64::from_be_bytes(rest.try_into().ok()?),
    };
    let mut out = [0; 16];
    let (first, second) = out.split_at_mut(8);
    first.copy_from_slice(time);
    second.copy_from_slice(&theirs.wrapping_sub(offset.0).to_be_bytes());
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(value: f64) -> i64 {
        (value * 4_294_967_296.0) as i64
    }

    #[test]
    fn the_median_of_the_reports_rejects_a_late_one() {
        let mut estimator = ClockOffsetEstimator::default();
        for (at, late) in [(0, 0.0), (1, 2.5), (2, 0.0)] {
            assert_eq!(estimator.offset(), None);
            let theirs = NtpTime((1_000 + at) << 32);
            let ours = NtpTime(theirs.0.wrapping_add_signed(seconds(-300.0 + 0.05 + late)));
            estimator.on_sender_report(theirs, ours, Some(Duration::from_millis(100)));
            estimator.on_sender_report(theirs, ours, None);
        }
        let offset = estimator.offset().unwrap().0;
        assert!((offset - seconds(-300.0)).abs() < seconds(0.001), "{offset}");
    }

    #[test]
    fn the_capture_time_is_passed_on_against_our_clock() {
        let offset = ClockOffset(5 << 32);
        let short = capture_time(&7_u64.to_be_bytes(), offset).unwrap();
        assert_eq!(short[..8], 7_u64.to_be_bytes());
        assert_eq!(short[8..], (-5_i64 << 32).to_be_bytes());
        let long = capture_time(&short, ClockOffset(-(5 << 32))).unwrap();
        assert_eq!(long[8..], [0; 8], "there and back");
        assert_eq!(capture_time(&[0; 9], offset), None);
        assert_eq!(capture_time(&[], offset), None);
    }
}
