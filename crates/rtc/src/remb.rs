//! Receiver estimated maximum bit rate (draft-alvestrand-rmcat-remb-03): what publishers are told to keep to.
//!
//! Two uses. With transport-wide feedback the publisher estimates by itself, and REMB only carries the limit
//! that the application set (`setMaxIncomingBitrate`). Without it, REMB carries our estimate too.
//!
//! The estimate is a simple one, based on received rate and loss and not on delay: while little is lost, a
//! publisher may send half as much again as is received; a loss over 10% takes the estimate below the
//! received rate in proportion to the loss. It lets a publisher probe upwards by half each second and stops
//! one that overruns its link; it notices a queue that builds up only when that queue overflows.

use crate::{rate::RateCounter, rtp::Bitrate};
use std::time::{Duration, Instant};

/// Time between reports of the estimate.
const ESTIMATE_INTERVAL: Duration = Duration::from_secs(1);
/// Time between reports of the limit alone.
const LIMIT_INTERVAL: Duration = Duration::from_millis(1500);
/// Reports that the limit was lifted: each may be lost.
const UNLIMITED_REPORTS: u8 = 4;
/// No estimate is lower: audio must pass.
const MIN_ESTIMATE: u64 = 64_000;
/// An estimate is not lower while little is lost: a publisher that starts or resumes must be able to.
const START_ESTIMATE: u64 = 600_000;
/// Loss below which the estimate grows, and above which it falls.
const LOW_LOSS: f32 = 0.02;
const HIGH_LOSS: f32 = 0.10;

/// What the reports carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RembMode {
    /// Our estimate, capped by the limit.
    Estimate,
    /// The limit, while there is one.
    LimitOnly,
}

/// Makes the REMB reports of one transport.
#[derive(Clone, Debug)]
pub struct RembGenerator {
    mode: RembMode,
    limit: Option<Bitrate>,
    unlimited_reports: u8,
    received: RateCounter,
    estimate: u64,
    loss: f32,
    last_report: Option<Instant>,
    /// Whether anything arrived since the last report.
    active: bool,
}

impl RembGenerator {
    /// Reports nothing until a packet arrives or the limit changes.
    #[must_use]
    pub fn new(mode: RembMode) -> Self {
        Self {
            mode,
            limit: None,
            unlimited_reports: 0,
            received: RateCounter::default(),
            estimate: START_ESTIMATE,
            loss: 0.0,
            last_report: None,
            active: false,
        }
    }

    /// An RTP packet of `len` bytes arrived.
    pub fn record(&mut self, len: usize, now: Instant) {
        self.received.add(len, now);
        self.active = true;
    }

    /// Share of packets lost since it was last told, 0 to 1: the worst of the transport's streams.
    pub const fn set_loss(&mut self, loss: f32) {
        self.loss = loss;
    }

    /// Limits what publishers may send; `None` lifts the limit, which they are told four times.
    pub fn set_max_incoming_bitrate(&mut self, limit: Option<Bitrate>) {
        let limit = limit.filter(|limit| limit.0 > 0);
        if self.limit == limit {
            return;
        }
        self.unlimited_reports = if limit.is_none() { UNLIMITED_REPORTS } else { 0 };
        self.limit = limit;
        // The change is reported with the next poll.
        self.last_report = None;
    }

    /// The bit rate to report now, if it is time. A lifted limit in [`RembMode::LimitOnly`] is reported as
    /// zero, which mediasoup and libwebrtc take for none.
    pub fn poll(&mut self, now: Instant) -> Option<Bitrate> {
        let interval = match self.mode {
            RembMode::Estimate => ESTIMATE_INTERVAL,
            RembMode::LimitOnly => LIMIT_INTERVAL,
        };
        if self.last_report.is_some_and(|at| now.saturating_duration_since(at) < interval) {
            return None;
        }
        let report = match self.mode {
            RembMode::Estimate if self.active => {
                self.update(now);
                let limit = self.limit.map_or(u64::MAX, |limit| limit.0);
                Some(Bitrate(self.estimate.min(limit)))
            }
            RembMode::LimitOnly if self.unlimited_reports > 0 => {
                self.unlimited_reports -= 1;
                Some(Bitrate(0))
            }
            RembMode::LimitOnly if self.active || self.last_report.is_none() => self.limit,
            _ => None,
        }?;
        self.active = false;
        self.last_report = Some(now);
        Some(report)
    }

    /// What we tell publishers at the moment; `None` when they are not limited.
    #[must_use]
    pub fn available_bitrate(&self) -> Option<Bitrate> {
        match self.mode {
            RembMode::Estimate => {
                Some(Bitrate(self.estimate.min(self.limit.map_or(u64::MAX, |limit| limit.0))))
            }
            RembMode::LimitOnly => self.limit,
        }
    }

    fn update(&mut self, now: Instant) {
        let received = self.received.bitrate(now);
        if self.loss > HIGH_LOSS {
            let share = f64::from(1.0 - self.loss.min(1.0) / 2.0);
            self.estimate = ((received as f64 * share) as u64).max(MIN_ESTIMATE);
        } else if self.loss < LOW_LOSS {
            self.estimate = (received + received / 2).max(START_ESTIMATE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    /// One second of `bitrate` in 10 ms steps.
    fn flow(remb: &mut RembGenerator, bitrate: u64, from: Instant) -> Instant {
        for step in 0..100 {
            remb.record((bitrate / 800) as usize, from + ms(step * 10));
        }
        from + ms(1000)
    }

    #[test]
    fn estimate_grows_with_what_is_received_and_falls_with_loss() {
        let mut now = Instant::now();
        let mut remb = RembGenerator::new(RembMode::Estimate);
        assert_eq!(remb.poll(now), None, "nothing to say before a packet");
        now = flow(&mut remb, 2_000_000, now);
        let estimate = remb.poll(now).unwrap().0;
        assert!((2_800_000..=3_100_000).contains(&estimate), "{estimate}");
        assert_eq!(remb.poll(now + ms(500)), None);
        now = flow(&mut remb, 2_000_000, now);
        remb.set_loss(0.2);
        let estimate = remb.poll(now).unwrap().0;
        assert!((1_700_000..=1_850_000).contains(&estimate), "{estimate}");
    }

    #[test]
    fn limit_caps_the_estimate() {
        let mut remb = RembGenerator::new(RembMode::Estimate);
        remb.set_max_incoming_bitrate(Some(Bitrate(500_000)));
        let now = flow(&mut remb, 2_000_000, Instant::now());
        assert_eq!(remb.poll(now), Some(Bitrate(500_000)));
    }

    #[test]
    fn lifted_limit_is_told_four_times() {
        let mut now = Instant::now();
        let mut remb = RembGenerator::new(RembMode::LimitOnly);
        assert_eq!(remb.poll(now), None);
        remb.set_max_incoming_bitrate(Some(Bitrate(800_000)));
        assert_eq!(remb.poll(now), Some(Bitrate(800_000)));
        remb.set_max_incoming_bitrate(None);
        let mut zeros = 0;
        for _ in 0..10 {
            zeros += u32::from(remb.poll(now) == Some(Bitrate(0)));
            now += ms(1500);
        }
        assert_eq!(zeros, 4);
    }
}
