//! Whether a queue builds up on the way: the one-way delay's trend (draft-ietf-rmcat-gcc-02, sections 5.2 to 5.4, with
//! the straight line through the latest samples that libwebrtc has in place of the draft's Kalman filter).
//!
//! Packets are taken in groups of what left together, so that a burst's own length is not taken for delay.

/// What leaves within this time is one group: the draft's burst time.
const GROUP_US: i64 = 5_000;
/// What arrives back to back belongs to the group before it, up to this length.
const LONGEST_BURST_US: i64 = 100_000;
/// Samples that the line is laid through: two thirds of a second of video at 30 frames/s.
const WINDOW: usize = 20;
/// Weight of the past in the smoothed delay.
const SMOOTHING: f64 = 0.9;
/// From the line's slope to the quantity that the threshold is compared with.
const GAIN: f64 = 4.0;
/// Samples beyond which more of them do not make the slope weigh more.
const MOST_SAMPLES: u32 = 60;
/// The draft's threshold: where it starts, its bounds, and its rates of change per ms, up and down.
const FIRST_THRESHOLD: f64 = 12.5;
const THRESHOLD: (f64, f64) = (6.0, 600.0);
const THRESHOLD_UP: f64 = 0.0087;
const THRESHOLD_DOWN: f64 = 0.039;
/// An excursion this far above the threshold is no queue but an accident, and does not move the threshold.
const OUTLIER: f64 = 15.0;
/// The trend must lie above the threshold for so long.
const OVERUSE_MS: f64 = 10.0;
/// Groups in a row that arrive before their predecessors: the receiver's clock was set.
const MOST_REORDERED: u8 = 3;

/// What the trend tells of the path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Usage {
    /// No queue builds up or drains.
    #[default]
    Normal,
    /// A queue builds up.
    Over,
    /// A queue drains.
    Under,
}

#[derive(Clone, Copy, Debug)]
struct Group {
    first_sent: i64,
    last_sent: i64,
    first_arrival: i64,
    last_arrival: i64,
}

/// Watches the delay of one path.
#[derive(Clone, Debug)]
pub(super) struct DelayTrend {
    previous: Option<Group>,
    current: Option<Group>,
    reordered: u8,
    samples: u32,
    first_arrival: i64,
    /// Sum of all delay variations, in ms.
    delay: f64,
    smoothed: f64,
    /// Arrival and smoothed delay, in ms; a ring.
    points: [(f64, f64); WINDOW],
    slope: f64,
    threshold: f64,
    adapted_at: Option<i64>,
    /// For how long the trend has lain above the threshold, in ms, and for how many samples.
    over: Option<(f64, u32)>,
    usage: Usage,
}

impl DelayTrend {
    pub(super) const fn new() -> Self {
        Self {
            previous: None,
            current: None,
            reordered: 0,
            samples: 0,
            first_arrival: 0,
            delay: 0.0,
            smoothed: 0.0,
            points: [(0.0, 0.0); WINDOW],
            slope: 0.0,
            threshold: FIRST_THRESHOLD,
            adapted_at: None,
            over: None,
            usage: Usage::Normal,
        }
    }

    pub(super) const fn usage(&self) -> Usage {
        self.usage
    }

    /// Forgets all but the threshold: what comes next is not comparable with what was.
    pub(super) const fn restart(&mut self) {
        *self = Self { threshold: self.threshold, ..Self::new() };
    }

    /// A packet arrived; both times in microseconds, each of its own clock.
    pub(super) fn arrived(&mut self, sent: i64, arrival: i64) {
        let Some(current) = &mut self.current else {
            self.current = Some(Group {
                first_sent: sent,
                last_sent: sent,
                first_arrival: arrival,
                last_arrival: arrival,
            });
            return;
        };
        if sent < current.first_sent {
            return;
        }
        let queued = arrival - current.last_arrival < sent - current.last_sent;
        let burst = queued
            && arrival - current.last_arrival <= GROUP_US
            && arrival - current.first_arrival < LONGEST_BURST_US;
        if sent - current.first_sent <= GROUP_US || burst {
            current.last_sent = current.last_sent.max(sent);
            current.last_arrival = current.last_arrival.max(arrival);
            return;
        }
        let complete = *current;
        *current = Group { first_sent: sent, last_sent: sent, first_arrival: arrival, last_arrival: arrival };
        if let Some(previous) = self.previous.replace(complete) {
            let arrival_us = complete.last_arrival - previous.last_arrival;
            if arrival_us < 0 {
                self.reordered += 1;
                if self.reordered >= MOST_REORDERED {
                    self.restart();
                }
                return;
            }
            self.reordered = 0;
            self.sample(arrival_us, complete.last_sent - previous.last_sent, complete.last_arrival);
        }
    }

    fn sample(&mut self, arrival_us: i64, sent_us: i64, at: i64) {
        if self.samples == 0 {
            self.first_arrival = at;
        }
        let sent_ms = sent_us as f64 / 1000.0;
        self.delay += arrival_us as f64 / 1000.0 - sent_ms;
        self.smoothed = SMOOTHING * self.smoothed + (1.0 - SMOOTHING) * self.delay;
        let at_ms = (at - self.first_arrival) as f64 / 1000.0;
        if let Some(point) = self.points.get_mut(self.samples as usize % WINDOW) {
            *point = (at_ms, self.smoothed);
        }
        self.samples = self.samples.saturating_add(1);
        let before = self.slope;
        if self.samples as usize >= WINDOW {
            self.slope = slope(&self.points).unwrap_or(before);
        }
        self.judge(before, sent_ms, at);
    }

    fn judge(&mut self, slope_before: f64, sent_ms: f64, at: i64) {
        if self.samples < 2 {
            return;
        }
        let trend = f64::from(self.samples.min(MOST_SAMPLES)) * self.slope * GAIN;
        if trend > self.threshold {
            // The first sample above it may have crossed it half way.
            let (for_ms, count) =
                self.over.map_or((sent_ms / 2.0, 1), |(ms, count)| (ms + sent_ms, count + 1));
            self.over = Some((for_ms, count));
            if for_ms > OVERUSE_MS && count > 1 && self.slope >= slope_before {
                self.over = Some((0.0, 0));
                self.usage = Usage::Over;
            }
        } else {
            self.over = None;
            self.usage = if trend < -self.threshold { Usage::Under } else { Usage::Normal };
        }
        self.adapt(trend, at);
    }

    /// Follows the trend's usual size, so that a path with jitter or with loss-driven flows on it does not starve us.
    fn adapt(&mut self, trend: f64, at: i64) {
        let since = at - self.adapted_at.replace(at).unwrap_or(at);
        let size = trend.abs();
        if size > self.threshold + OUTLIER {
            return;
        }
        let rate = if size < self.threshold { THRESHOLD_DOWN } else { THRESHOLD_UP };
        let ms = (since as f64 / 1000.0).clamp(0.0, 100.0);
        self.threshold += rate * (size - self.threshold) * ms;
        self.threshold = self.threshold.clamp(THRESHOLD.0, THRESHOLD.1);
    }
}

/// Slope of the straight line with the least squares; `None` where all points share one time.
fn slope(points: &[(f64, f64); WINDOW]) -> Option<f64> {
    let count = points.len() as f64;
    let mean_x = points.iter().map(|point| point.0).sum::<f64>() / count;
    let mean_y = points.iter().map(|point| point.1).sum::<f64>() / count;
    let (numerator, denominator) = points.iter().fold((0.0, 0.0), |(n, d), (x, y)| {
        // Not `mul_add`: on a processor that is only known to be an x86-64 each would be a call into libm.
        let x = x - mean_x;
        (n + x * (y - mean_y), d + x * x)
    });
    (denominator > 0.0).then(|| numerator / denominator)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `count` packets, one each 10 ms, whose delay grows by `growth_us` from each to the next.
    fn usages(growth_us: i64, count: i64) -> Vec<Usage> {
        let mut trend = DelayTrend::new();
        (0..count)
            .map(|packet| {
                trend.arrived(packet * 10_000, 1_000_000 + packet * (10_000 + growth_us));
                trend.usage()
            })
            .collect()
    }

    #[test]
    fn a_growing_queue_is_overuse_and_a_steady_path_is_not() {
        assert!(usages(0, 500).iter().all(|usage| *usage == Usage::Normal));
        let growing = usages(1_000, 60);
        let first = growing.iter().position(|usage| *usage == Usage::Over).expect("overuse is noticed");
        assert!(first < 40, "noticed with packet {first}, at 10 ms each");
        assert!(usages(-1_000, 60).contains(&Usage::Under));
    }

    #[test]
    fn a_burst_is_one_group() {
        let mut trend = DelayTrend::new();
        // Frames of ten packets that leave at once and arrive a millisecond apart: no trend.
        for frame in 0..100 {
            for packet in 0..10 {
                trend.arrived(frame * 33_000, 50_000 + frame * 33_000 + packet * 1_000);
                assert_eq!(trend.usage(), Usage::Normal);
            }
        }
    }

    #[test]
    fn arrivals_from_anywhere_in_time_do_no_harm() {
        let mut trend = DelayTrend::new();
        for packet in 0..1000_i64 {
            trend.arrived(packet * 6_000, (packet * 0x1234_5678_9abc) % 1_000_000_000_000);
        }
        assert!(trend.threshold.is_finite() && trend.slope.is_finite());
    }
}
