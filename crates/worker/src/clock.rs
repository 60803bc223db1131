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

    /// `now` on the NTP time scale.
    pub fn ntp(&self, now: Instant) -> NtpTime {
        NtpTime::from_unix(self.unix(now))
    }
}
