//! The rate that the delay allows: additive increase, multiplicative decrease (draft-ietf-rmcat-gcc-02, section 5.5).

use super::trend::Usage;

/// What is left of the acknowledged bitrate when a queue builds up.
const DECREASE: f64 = 0.85;
/// Growth per second far from the rate at which queues built up.
const INCREASE: f64 = 1.08;
/// The estimate may exceed what is acknowledged by this factor, so that a sender with little to send proves nothing.
const HEADROOM: f64 = 1.5;
/// And by so much, so that one that sends next to nothing can start.
const HEADROOM_BITS: f64 = 10_000.0;
/// How fast the known capacity follows a new sample, and the bounds of its relative variance.
const CAPACITY_WEIGHT: f64 = 0.05;
const CAPACITY_VARIANCE: (f64, f64) = (0.4, 2.5);
/// The least additive growth, in bit/s per second.
const LEAST_GROWTH: f64 = 4_000.0;
/// Bits of a full packet.
const PACKET_BITS: f64 = 9_600.0;
/// Frames per second assumed for the mean size of packets.
const FRAMES: f64 = 30.0;
/// Time between two decreases: a round trip within these bounds, in microseconds.
const DECREASE_INTERVAL_US: (i64, i64) = (50_000, 300_000);

/// The rate at which queues built up lately.
#[derive(Clone, Copy, Debug)]
struct Capacity {
    kbps: f64,
    /// Variance in kbit/s, relative to the mean.
    variance: f64,
}

impl Capacity {
    fn deviation(self) -> f64 {
        (self.variance * self.kbps).sqrt()
    }

    fn update(&mut self, kbps: f64) {
        self.kbps += CAPACITY_WEIGHT * (kbps - self.kbps);
        let error = (self.kbps - kbps).powi(2) / self.kbps.max(1.0);
        self.variance += CAPACITY_WEIGHT * (error - self.variance);
        self.variance = self.variance.clamp(CAPACITY_VARIANCE.0, CAPACITY_VARIANCE.1);
    }
}

/// The delay-based rate of one path.
#[derive(Clone, Debug)]
pub(super) struct RateControl {
    bitrate: f64,
    capacity: Option<Capacity>,
    changed_at: Option<i64>,
    decreased_at: Option<i64>,
    outgrown: bool,
}

impl RateControl {
    pub(super) const fn new(bitrate: u64) -> Self {
        Self {
            bitrate: bitrate as f64,
            capacity: None,
            changed_at: None,
            decreased_at: None,
            outgrown: false,
        }
    }

    pub(super) const fn bitrate(&self) -> u64 {
        self.bitrate as u64
    }

    /// When it went down last.
    pub(super) const fn decreased_at(&self) -> Option<i64> {
        self.decreased_at
    }

    /// Whether, since the last call, more arrived than the rate at which queues built up: the link is another one now.
    pub(super) const fn take_outgrown(&mut self) -> bool {
        std::mem::replace(&mut self.outgrown, false)
    }

    /// A probe, or a limit from outside, tells better.
    pub(super) fn set(&mut self, bitrate: u64, now_us: i64) {
        self.bitrate = bitrate as f64;
        self.changed_at = Some(now_us);
        // What a probe found above the known capacity is a new one.
        self.capacity =
            self.capacity.filter(|known| bitrate as f64 / 1000.0 <= known.kbps + 3.0 * known.deviation());
    }

    /// What the latest feedback says. `held`: something else forbids growth.
    pub(super) fn update(
        &mut self,
        usage: Usage,
        acknowledged: Option<u64>,
        held: bool,
        rtt_us: i64,
        now_us: i64,
    ) {
        let since_us = now_us - self.changed_at.unwrap_or(now_us);
        match usage {
            Usage::Over => {
                if let Some(acknowledged) = acknowledged {
                    self.decrease(acknowledged as f64, rtt_us, now_us);
                }
            }
            // While a queue drains, what is acknowledged is the link's rate and not ours.
            Usage::Under => self.changed_at = Some(now_us),
            Usage::Normal => {
                if !held {
                    self.increase(acknowledged.map(|rate| rate as f64), since_us, rtt_us);
                }
                self.changed_at = Some(now_us);
            }
        }
    }

    fn decrease(&mut self, acknowledged: f64, rtt_us: i64, now_us: i64) {
        let interval = rtt_us.clamp(DECREASE_INTERVAL_US.0, DECREASE_INTERVAL_US.1);
        let recent = self.decreased_at.is_some_and(|at| now_us - at < interval);
        if recent && acknowledged > 0.5 * self.bitrate {
            return;
        }
        let kbps = acknowledged / 1000.0;
        let mut lower = DECREASE * acknowledged;
        match &mut self.capacity {
            Some(known) => {
                // The acknowledged rate swings with the frames' sizes; the mean of what queued up does less.
                if lower > self.bitrate {
                    lower = DECREASE * known.kbps * 1000.0;
                }
                if (kbps - known.kbps).abs() > 3.0 * known.deviation() {
                    *known = Capacity { kbps, variance: CAPACITY_VARIANCE.0 };
                } else {
                    known.update(kbps);
                }
            }
            None => self.capacity = Some(Capacity { kbps, variance: CAPACITY_VARIANCE.0 }),
        }
        self.bitrate = self.bitrate.min(lower);
        self.decreased_at = Some(now_us);
        self.changed_at = Some(now_us);
    }

    fn increase(&mut self, acknowledged: Option<f64>, since_us: i64, rtt_us: i64) {
        let seconds = (since_us as f64 / 1e6).clamp(0.0, 1.0);
        if let (Some(known), Some(acknowledged)) = (self.capacity, acknowledged)
            && acknowledged / 1000.0 > known.kbps + 3.0 * known.deviation()
        {
            self.capacity = None;
            self.outgrown = true;
        }
        let grown = match self.capacity {
            Some(known) if self.bitrate / 1000.0 > known.kbps - 3.0 * known.deviation() => {
                // About one packet per response time.
                let frame = self.bitrate / FRAMES;
                let packet = frame / (frame / PACKET_BITS).ceil().max(1.0);
                let response = rtt_us as f64 / 1e6 + 0.1;
                self.bitrate + (packet / response).max(LEAST_GROWTH) * seconds
            }
            _ => self.bitrate * INCREASE.powf(seconds) + 1000.0 * seconds,
        };
        let most = acknowledged.map_or(self.bitrate, |rate| HEADROOM * rate + HEADROOM_BITS);
        self.bitrate = grown.min(most).max(self.bitrate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_falls_below_what_arrives_and_climbs_back_slowly() {
        let mut control = RateControl::new(2_000_000);
        control.update(Usage::Over, Some(1_000_000), false, 50_000, 1_000_000);
        assert_eq!(control.bitrate(), 850_000);
        for step in 1..=50 {
            control.update(Usage::Normal, Some(900_000), false, 50_000, 1_000_000 + step * 100_000);
        }
        assert!((1_000_000..1_250_000).contains(&control.bitrate()), "{}", control.bitrate());
    }

    #[test]
    fn little_to_send_proves_little() {
        let mut control = RateControl::new(600_000);
        for step in 0..1000 {
            control.update(Usage::Normal, Some(100_000), false, 50_000, step * 100_000);
        }
        assert_eq!(control.bitrate(), 600_000);
        for step in 1000..2000 {
            control.update(Usage::Normal, Some(500_000), false, 50_000, step * 100_000);
        }
        assert_eq!(control.bitrate(), 760_000);
    }
}
