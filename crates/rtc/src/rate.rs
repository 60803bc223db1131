//! Windowed bit rate of a flow, in a fixed number of buckets: no allocation, no clock.
//!
//! Owns counting only; who is counted, and what the rate decides, is the caller's.

use std::time::{Duration, Instant};

/// Buckets a window is cut into. The window the counter spans overshoots by less than one of them.
const BUCKETS: usize = 25;

/// Counts bytes over a sliding window and tells their rate in bits per second.
///
/// `now` is expected not to go back; a step back is counted into the newest bucket.
#[derive(Clone, Debug)]
pub struct RateCounter {
    buckets: [u32; BUCKETS],
    bucket_width: Duration,
    newest: usize,
    newest_start: Option<Instant>,
    in_window: u64,
    total_bytes: u64,
    total_packets: u64,
}

impl RateCounter {
    /// One second: the default window.
    pub const SECOND: Duration = Duration::from_secs(1);
    /// The window of media streams, as mediasoup reports their `bitrate`.
    pub const MEDIA: Duration = Duration::from_millis(2500);

    /// A counter over `window`, of which 25 ms is the shortest that makes sense (shorter ones are widened).
    #[must_use]
    pub fn new(window: Duration) -> Self {
        let bucket_width = (window / BUCKETS as u32).max(Duration::from_millis(1));
        Self {
            buckets: [0; BUCKETS],
            bucket_width,
            newest: 0,
            newest_start: None,
            in_window: 0,
            total_bytes: 0,
            total_packets: 0,
        }
    }

    /// Counts one packet of `bytes`.
    pub fn add(&mut self, bytes: usize, now: Instant) {
        self.add_batch(bytes, 1, now);
    }

    /// Counts `packets` at once, of `bytes` together.
    pub fn add_batch(&mut self, bytes: usize, packets: u64, now: Instant) {
        self.slide(now);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let bucket = &mut self.buckets[self.newest];
        let before = *bucket;
        *bucket = bucket.saturating_add(bytes);
        self.in_window += u64::from(*bucket - before);
        self.total_bytes += u64::from(bytes);
        self.total_packets += packets;
    }

    /// Bits per second over the window that ends at `now`.
    pub fn bitrate(&mut self, now: Instant) -> u64 {
        self.slide(now);
        let window_us = self.bucket_width.as_micros() as u64 * BUCKETS as u64;
        (self.in_window * 8_000_000 + window_us / 2) / window_us
    }

    /// Bytes counted since the counter was made; [`RateCounter::reset`] leaves them.
    #[must_use]
    pub const fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// Packets counted since the counter was made; [`RateCounter::reset`] leaves them.
    #[must_use]
    pub const fn total_packets(&self) -> u64 {
        self.total_packets
    }

    /// Forgets the window, not the totals.
    pub fn reset(&mut self) {
        self.buckets = [0; BUCKETS];
        self.in_window = 0;
        self.newest_start = None;
    }

    /// Makes the bucket of `now` the newest one, dropping those that left the window.
    fn slide(&mut self, now: Instant) {
        let Some(start) = self.newest_start else {
            self.newest_start = Some(now);
            return;
        };
        let elapsed = now.saturating_duration_since(start);
        if elapsed < self.bucket_width {
            return;
        }
        // Mostly one step or two, so that counting them is faster than a division.
        let mut steps = 0;
        let mut covered = self.bucket_width;
        while covered <= elapsed && steps < BUCKETS {
            steps += 1;
            covered += self.bucket_width;
        }
        if steps >= BUCKETS {
            self.buckets = [0; BUCKETS];
            self.in_window = 0;
            self.newest_start = Some(now);
            return;
        }
        for _ in 0..steps {
            self.newest = (self.newest + 1) % BUCKETS;
            self.in_window -= u64::from(self.buckets[self.newest]);
            self.buckets[self.newest] = 0;
        }
        // Whole buckets only: jumping to `now` would stretch the window and overstate the rate.
        self.newest_start = Some(start + self.bucket_width * steps as u32);
    }
}

impl Default for RateCounter {
    fn default() -> Self {
        Self::new(Self::SECOND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    #[test]
    fn steady_flow_reads_its_rate() {
        let start = Instant::now();
        let mut rate = RateCounter::default();
        for packet in 0..200 {
            rate.add(1250, start + ms(packet * 10));
        }
        let measured = rate.bitrate(start + ms(1995));
        assert!((950_000..=1_000_000).contains(&measured), "{measured}");
        assert_eq!(rate.total_bytes(), 250_000);
        assert_eq!(rate.total_packets(), 200);
    }

    #[test]
    fn silence_for_a_window_reads_zero() {
        let start = Instant::now();
        for window in [RateCounter::SECOND, RateCounter::MEDIA] {
            let mut rate = RateCounter::new(window);
            rate.add(1000, start);
            assert!(rate.bitrate(start + window / 2) > 0);
            assert_eq!(rate.bitrate(start + window), 0);
            rate.add(1000, start + ms(86_400_000));
            assert_eq!(
                rate.bitrate(start + ms(86_400_000)),
                8_000_000_000 / window.as_micros() as u64 * 1000 / 1000
            );
        }
    }

    #[test]
    fn time_that_steps_back_counts_into_the_newest_bucket() {
        let start = Instant::now() + ms(10_000);
        let mut rate = RateCounter::default();
        rate.add(125, start);
        rate.add(125, start - ms(5_000));
        assert_eq!(rate.bitrate(start), 2_000);
    }
}
