//! The two times of a worker: the monotonic one that everything is computed with, and the wall clock behind it that
//! reports and statistics show.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rtc::stream::NtpTime;

/// Ties the monotonic clock to the wall clock once, so that later steps of the wall clock disturb nothing.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
    start_unix: Duration,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            start_unix: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        }
    }
}

impl Clock {
    /// Time since the Unix epoch at `now`.
    pub fn unix(&self, now: Instant) -> Duration {
        self.start_unix + now.saturating_duration_since(self.start)
    }

    /// Milliseconds since the Unix epoch at `now`.
    pub fn unix_ms(&self, now: Instant) -> u64 {
        u64::try_from(self.unix(now).as_millis()).unwrap_or(u64::MAX)
    }

    /// The first moment from `at` on that is a multiple of `step` after the clock's start: what is due at such moments
    /// shares a wake-up.
    pub fn next_step(&self, at: Instant, step: Duration) -> Instant {
        let since = at.saturating_duration_since(self.start).as_micros();
        let step = step.as_micros().max(1);
        let micros = u64::try_from(since.div_ceil(step) * step).unwrap_or(u64::MAX);
        self.start.checked_add(Duration::from_micros(micros)).unwrap_or(at)
    }

    /// `now` on the NTP time scale.
    pub fn ntp(&self, now: Instant) -> NtpTime {
        NtpTime::from_unix(self.unix(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_within_a_step_is_due_together() {
        let clock = Clock::default();
        let step = Duration::from_millis(20);
        let at = |micros| clock.start + Duration::from_micros(micros);
        for (due, shared) in [(0, 0), (1, 20_000), (19_999, 20_000), (20_000, 20_000), (20_001, 40_000)] {
            assert_eq!(clock.next_step(at(due), step), at(shared));
        }
    }
}
