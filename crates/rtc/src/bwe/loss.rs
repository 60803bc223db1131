//! The rate that loss allows (after draft-ietf-rmcat-gcc-02, section 6), for links whose queues are too short to show as
//! delay.
//!
//! Loss above a tenth brings the rate down, never below what arrives. A link that loses by chance loses its share
//! whatever the rate: where loss stays as it was although we send less, that share is taken for the link's own and
//! counts no more.

/// What loss is measured over.
const WINDOW_US: i64 = 1_000_000;
/// With fewer packets nothing is concluded.
const LEAST_PACKETS: u32 = 20;
/// Loss above the link's own that takes the rate down.
const HIGH: f64 = 0.10;
/// Loss above the link's own below which the limit is lifted again.
const LOW: f64 = 0.05;
/// Growth of the limit per window while loss is low.
const INCREASE: f64 = 1.3;
/// A link's own loss is not believed to be higher.
const MOST_OWN: f64 = 0.25;
/// Sent rate, relative to before, at which a lower rate is a test of what causes the loss.
const LESS: f64 = 0.9;
/// Loss, relative to before, that counts as unchanged.
const UNCHANGED: f64 = 0.7;
/// Reports that are averaged for the statistics, as mediasoup averages them.
const HISTORY: usize = 24;

/// Loss and rate when the limit was first applied.
#[derive(Clone, Copy, Debug)]
struct Before {
    loss: f64,
    sent: f64,
    estimate: f64,
}

/// The loss of one path.
#[derive(Clone, Debug, Default)]
pub(super) struct LossControl {
    received: u32,
    lost: u32,
    since: Option<i64>,
    limit: Option<f64>,
    /// The share that the link loses by itself.
    own: f64,
    before: Option<Before>,
    /// Loss of the latest feedback packets, newest last in time.
    history: [f32; HISTORY],
    reports: usize,
}

impl LossControl {
    /// What one feedback packet said.
    pub(super) fn report(&mut self, received: u32, lost: u32, late: u32, now_us: i64) {
        self.received = self.received.saturating_add(received);
        // A packet that was missing and came after all was not lost.
        self.lost = self.lost.saturating_add(lost).saturating_sub(late);
        self.since.get_or_insert(now_us);
        if received + lost > 0 {
            if let Some(entry) = self.history.get_mut(self.reports % HISTORY) {
                *entry = lost as f32 / (received + lost) as f32;
            }
            self.reports = self.reports.wrapping_add(1);
        }
    }

    /// The limit, after the window if it ended: `estimate` is what would be sent without it, `acknowledged` what
    /// arrives.
    pub(super) fn update(&mut self, estimate: u64, acknowledged: Option<u64>, now_us: i64) -> Option<u64> {
        let since = *self.since.get_or_insert(now_us);
        let packets = self.received.saturating_add(self.lost);
        if now_us - since < WINDOW_US || packets < LEAST_PACKETS {
            return self.limit();
        }
        let loss = f64::from(self.lost) / f64::from(packets);
        (self.received, self.lost, self.since) = (0, 0, Some(now_us));
        if let Some(acknowledged) = acknowledged {
            self.conclude(loss, estimate as f64, acknowledged as f64);
        }
        self.limit()
    }

    fn conclude(&mut self, loss: f64, estimate: f64, acknowledged: f64) {
        let sent = acknowledged / (1.0 - loss).max(0.05);
        if let Some(before) = self.before
            && sent < LESS * before.sent
        {
            if loss > UNCHANGED * before.loss {
                self.own = loss.min(MOST_OWN);
                self.limit = Some(self.limit.unwrap_or(0.0).max(before.estimate));
            }
            self.before = None;
        }
        // What the link loses by itself may get less.
        self.own = self.own.min(loss.max(self.own * 0.8));
        let excess = loss - self.own;
        let current = self.limit.map_or(estimate, |limit| limit.min(estimate));
        if excess > HIGH {
            self.before.get_or_insert(Before { loss, sent, estimate: current });
            let lower = current * (1.0 - 0.5 * excess);
            // A queue that drops half of everything is no matter of small steps.
            let lower = if excess > 0.3 { lower.min(acknowledged) } else { lower };
            self.limit = Some(lower.max(acknowledged.min(current)));
        } else if excess < LOW
            && let Some(limit) = self.limit
        {
            let raised = limit * INCREASE;
            self.limit = (raised < 2.0 * estimate).then_some(raised);
        }
    }

    /// What loss allows at the moment; `None` for no limit.
    pub(super) fn limit(&self) -> Option<u64> {
        self.limit.map(|limit| limit as u64)
    }

    /// A probe got through at this rate.
    pub(super) fn allow(&mut self, bitrate: u64) {
        self.limit = self.limit.map(|limit| limit.max(bitrate as f64));
    }

    /// Average of the latest reports, the newer ones weighing more.
    pub(super) fn average(&self) -> f64 {
        let known = self.reports.min(HISTORY);
        let (mut sum, mut weights) = (0.0, 0.0);
        for age in 0..known {
            let entry = self.history.get((self.reports - 1 - age) % HISTORY).copied().unwrap_or(0.0);
            let weight = (known - age) as f64;
            sum += weight * f64::from(entry);
            weights += weight;
        }
        if weights > 0.0 { sum / weights } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets `seconds` pass on a link that loses a share by chance, and above `rate` everything.
    fn limit_after(seconds: i64, own_loss: f64, rate: f64) -> u64 {
        let mut control = LossControl::default();
        let mut sent = 2_000_000.0_f64;
        for second in 0..=seconds {
            let passed = sent.min(rate);
            let arrived = passed * (1.0 - own_loss);
            let packets = (sent / 8_000.0) as u32;
            let received = (arrived / 8_000.0) as u32;
            control.report(received, packets - received, 0, second * WINDOW_US);
            let limit = control.update(2_000_000, Some(arrived as u64), second * WINDOW_US);
            sent = limit.unwrap_or(2_000_000).min(2_000_000) as f64;
        }
        sent as u64
    }

    #[test]
    fn an_overrun_link_takes_the_rate_down_at_once() {
        let limit = limit_after(4, 0.0, 500_000.0);
        assert!((450_000..800_000).contains(&limit), "{limit}");
    }

    #[test]
    fn chance_does_not_keep_it_down() {
        assert_eq!(limit_after(20, 0.08, f64::MAX), 2_000_000);
        assert_eq!(limit_after(20, 0.2, f64::MAX), 2_000_000);
    }

    #[test]
    fn the_average_weighs_the_latest_report_most() {
        let mut control = LossControl::default();
        control.report(10, 0, 0, 0);
        control.report(5, 5, 0, 1);
        assert!((control.average() - 1.0 / 3.0).abs() < 1e-6);
    }
}
