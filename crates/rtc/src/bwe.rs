//! Bandwidth estimation towards a receiver: how much a transport may send.
//!
//! From transport-wide feedback (draft-holmer-rmcat-transport-wide-cc-extensions-01) the estimate follows the delay's
//! trend, the loss, and the results of probes (after draft-ietf-rmcat-gcc-02; terms as in RFC 8888). Where only REMB is
//! negotiated, the receiver estimates, and loss has its say.
//!
//! Calls: [`BandwidthEstimator::sent`] for each packet that carries a transport-wide number, which writes it into a
//! ring and no more; [`BandwidthEstimator::on_feedback`] for each feedback packet, which is one pass over it;
//! [`BandwidthEstimator::handle_timeout`] about twice a second. What could be used beyond the estimate is told with
//! [`BandwidthEstimator::set_demand`]; then [`BandwidthEstimator::poll_probe`] asks for padding now and then.
//!
//! A receiver can say what it likes: the estimate stays within its limits and never exceeds by much what was really
//! sent, no report is longer than a fixed number of packets to us, and each packet is acknowledged once.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod control;
mod loss;
mod probe;
mod sent;
mod throughput;
mod trend;

use std::any::Any;
use std::time::{Duration, Instant};

use crate::rtcp::{PacketStatus, TransportFeedback};
use crate::rtp::{Bitrate, SeqNo};
use control::RateControl;
use loss::LossControl;
use probe::{ProbeResult, Prober};
use sent::SentRing;
use throughput::{Batch, Throughput};
use trend::{DelayTrend, Usage};

/// Packets of one feedback packet that are looked at. A receiver reports at least every 250 ms, so that this is some
/// 16,000 packets/s.
const MOST_STATUSES: usize = 4096;
/// A receiver's clock that steps by more than this was set: nothing before is comparable.
const CLOCK_STEP_US: i64 = 5_000_000;
/// The reference time of feedback wraps after so long.
const ARRIVAL_PERIOD_US: i64 = (1 << 24) * 64_000;
/// What a receiver that used to report says nothing of for so long is taken for congested…
const SILENCE_US: i64 = 1_500_000;
/// …and gets this share of what it got, each time.
const SILENCE_SHARE: f64 = 0.8;
/// After the delay took the rate down, so long nothing is probed.
const PROBE_AFTER_DECREASE_US: i64 = 3_000_000;
/// A cluster goes this much above what is wanted: some is kept for what is not media of a layer.
const PROBE_MARGIN: f64 = 1.15;
/// Where so many times what was known arrives, the next cluster comes soon.
const FOUND_MORE: f64 = 1.5;
/// And no further above the estimate than this at once, unless the next step is out of reach otherwise.
const PROBE_FACTOR: (f64, f64) = (2.0, 3.0);
/// Round trip assumed until there is feedback, in microseconds.
const DEFAULT_RTT_US: i64 = 100_000;
/// A queue that grew by so much since it was noticed…
const QUEUE_GROWTH_US: i64 = 10_000;
/// …or that is so long where a train of packets begins, is not of that train. A path that becomes longer by less, as when a call
/// goes another way, costs nothing.
const STANDING_QUEUE_US: i64 = 50_000;
/// Rate of RTCP's loss reports that REMB is combined with.
const REMB_LOSS: (f32, f32) = (0.02, 0.10);

/// Who measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BweMode {
    /// We do, from transport-wide feedback.
    TransportWide,
    /// The receiver does, and tells the result.
    Remb,
}

/// What could be made use of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// With this much, more would be sent than now; zero where nothing is left to wish for.
    pub next: Bitrate,
    /// With this much, everything that anybody wants would be sent.
    pub most: Bitrate,
}

/// Estimates the bandwidth of one transport.
#[derive(Clone, Debug)]
pub struct BandwidthEstimator {
    mode: BweMode,
    start: Instant,
    sent: SentRing,
    next_seq: u16,
    sent_at: Option<i64>,
    trend: DelayTrend,
    throughput: Throughput,
    control: RateControl,
    loss: LossControl,
    prober: Prober,
    demand: Demand,
    limits: (u64, u64),
    remb: Option<f64>,
    /// The last arrival, as it came and counted on over the wraps.
    arrival: Option<(i64, i64)>,
    newest_reported: Option<u16>,
    feedback_at: Option<i64>,
    rtt_us: Option<i64>,
    /// What stood in the queue when the trend noticed it.
    noticed_queue_us: Option<i64>,
}

impl BandwidthEstimator {
    /// Starts with an assumption.
    #[must_use]
    pub fn new(mode: BweMode, initial: Bitrate, now: Instant) -> Self {
        Self {
            mode,
            start: now,
            sent: SentRing::default(),
            next_seq: 0,
            sent_at: None,
            trend: DelayTrend::new(),
            throughput: Throughput::default(),
            control: RateControl::new(initial.0),
            loss: LossControl::default(),
            prober: Prober::new(),
            demand: Demand::default(),
            limits: (0, u64::MAX),
            remb: None,
            arrival: None,
            newest_reported: None,
            feedback_at: None,
            rtt_us: None,
            noticed_queue_us: None,
        }
    }

    /// Who measures.
    #[must_use]
    pub const fn mode(&self) -> BweMode {
        self.mode
    }

    /// Shows what [`Self::sent`] will touch in here, so that it can be fetched ahead.
    pub fn show_hot(&self, mut show: impl FnMut(&dyn Any)) {
        show(&self.start);
        show(&self.sent);
        show(&self.next_seq);
        show(&self.sent_at);
        show(self.prober.hot());
    }

    /// Shows the memory that the next packet will be written into.
    pub fn show_next(&self, show: impl FnOnce(&dyn Any)) {
        if let Some(slot) = self.sent.slot(self.next_seq) {
            show(slot);
        }
    }

    /// A packet of `bytes` goes out under this transport-wide number. They must be consecutive.
    pub fn sent(&mut self, seq: u16, bytes: usize, now: Instant) {
        let now_us = self.us(now);
        // The lower 32 bits: what is awaited is younger than their wrap.
        self.sent.insert(seq, bytes, (now_us & 0xffff_ffff) as u32);
        self.next_seq = seq.wrapping_add(1);
        self.sent_at = Some(now_us);
        if self.prober.is_sending() {
            self.prober.sent(seq, bytes);
        }
    }

    /// The receiver's report.
    pub fn on_feedback(&mut self, feedback: &TransportFeedback<'_>, now: Instant) {
        if self.mode != BweMode::TransportWide {
            return;
        }
        let now_us = self.us(now);
        let base = feedback.header.base_sequence;
        let follows = self.newest_reported.is_some_and(|newest| base.distance_from(SeqNo(newest)) <= 1);
        let mut pass =
            Pass { now_us, batch: self.throughput.batch(follows), lost: 0, late: 0, newest_age_us: u32::MAX };
        for status in feedback.packets().take(MOST_STATUSES) {
            self.packet_status(status, &mut pass);
        }
        self.loss.report(pass.batch.packets, pass.lost, pass.late, now_us);
        if pass.batch.packets == 0 && pass.lost == 0 {
            return;
        }
        self.feedback_at = Some(now_us);
        self.throughput.add(&pass.batch, follows);
        if pass.newest_age_us != u32::MAX {
            let sample = i64::from(pass.newest_age_us);
            self.rtt_us = Some(self.rtt_us.map_or(sample, |rtt| (rtt * 7 + sample) / 8));
        }
        self.update(now_us);
    }

    fn packet_status(&mut self, status: PacketStatus, pass: &mut Pass) {
        let seq = status.sequence.0;
        let now = (pass.now_us & 0xffff_ffff) as u32;
        let Some(arrival) = status.arrival_us else {
            if self.sent.miss(seq, now) {
                pass.lost += 1;
                self.prober.missing(seq);
            }
            return;
        };
        let arrival = self.unwrap_arrival(arrival, pass.now_us);
        let Some(packet) = self.sent.take(seq, now) else { return };
        let sent_at = pass.now_us - i64::from(packet.age_us);
        if self.newest_reported.is_none_or(|newest| SeqNo(seq).is_newer_than(SeqNo(newest))) {
            self.newest_reported = Some(seq);
        }
        pass.late += u32::from(packet.was_missing);
        pass.newest_age_us = pass.newest_age_us.min(packet.age_us);
        pass.batch.add(packet.len, sent_at, arrival);
        self.prober.acknowledged(seq, &packet, sent_at, arrival);
        self.trend.arrived(sent_at, arrival);
    }

    /// Counts the receiver's clock on over its wraps. A step of it ends all comparisons.
    fn unwrap_arrival(&mut self, raw: i64, now_us: i64) -> i64 {
        let Some((last_raw, last)) = self.arrival else {
            self.arrival = Some((raw, raw));
            return raw;
        };
        let step =
            (raw - last_raw + ARRIVAL_PERIOD_US / 2).rem_euclid(ARRIVAL_PERIOD_US) - ARRIVAL_PERIOD_US / 2;
        let silent_us = now_us - self.feedback_at.unwrap_or(now_us);
        if step.abs() > CLOCK_STEP_US.saturating_add(silent_us) {
            self.trend.restart();
            self.throughput.restart();
        }
        let arrival = last.saturating_add(step);
        self.arrival = Some((raw, arrival));
        arrival
    }

    fn update(&mut self, now_us: i64) {
        let acknowledged = self.throughput.bitrate();
        // A queue that builds up, or overflows, shows what the link carries, even behind little: no reason to go below.
        let carried = acknowledged.max(self.throughput.queued_bitrate());
        let limit = self.loss.update(self.control.bitrate(), carried, now_us);
        let held = limit.is_some_and(|limit| limit < self.control.bitrate());
        let rtt_us = self.rtt_us.unwrap_or(DEFAULT_RTT_US);
        let growing = self.throughput.is_queue_growing_fast();
        let usage = if growing { Usage::Over } else { self.trend.usage() };
        if usage != Usage::Over {
            self.noticed_queue_us = None;
        }
        let arrived = match usage {
            Usage::Over if growing => self.throughput.latest_bitrate(),
            Usage::Over if self.queue_stands() => carried,
            Usage::Over => carried.max(self.throughput.train_bitrate()),
            Usage::Normal | Usage::Under => acknowledged,
        };
        self.control.update(usage, arrived, held, rtt_us, now_us);
        if self.control.take_outgrown() {
            self.prober.rate(true);
        }
        self.conclude_probe(now_us);
        self.start_probe(now_us);
    }

    /// Whether a queue is there even where a train of packets begins, or went on growing since the trend noticed it. One that
    /// empties between the trains is their own: the link carries them, if not all at once.
    fn queue_stands(&mut self) -> bool {
        let Some(queue_us) = self.throughput.standing_queue_us() else { return true };
        let noticed_us = *self.noticed_queue_us.get_or_insert(queue_us);
        queue_us - noticed_us >= QUEUE_GROWTH_US || queue_us >= STANDING_QUEUE_US
    }

    fn conclude_probe(&mut self, now_us: i64) {
        match self.prober.conclude(self.newest_reported, now_us) {
            Some(ProbeResult::Carried { bitrate, tried }) => {
                let before = self.estimate().0;
                if bitrate > before && self.trend.usage() != Usage::Over {
                    self.control.set(bitrate.max(self.control.bitrate()), now_us);
                    self.loss.allow(bitrate);
                }
                // Less than was tried, of which the link may lose a part by itself, can still be much more than was known.
                let found =
                    bitrate as f64 >= 0.85 * tried as f64 || bitrate as f64 >= FOUND_MORE * before as f64;
                self.prober.rate(found || self.estimate().0 >= self.demand.next.0);
            }
            Some(ProbeResult::Useless) => self.prober.rate(false),
            // Feedback gets lost too, which says nothing of the link there.
            Some(ProbeResult::Unreported) | None => {}
        }
    }

    /// Starts a cluster where more could be used than is known to fit.
    fn start_probe(&mut self, now_us: i64) {
        let estimate = self.estimate().0;
        let Demand { next, most } = self.demand;
        let settled = self.control.decreased_at().is_none_or(|at| now_us - at >= PROBE_AFTER_DECREASE_US);
        // Without any feedback there is nobody to answer.
        let answers = self.feedback_at.is_some() || self.mode == BweMode::Remb;
        if next.0 == 0 || estimate >= next.0 || !answers || !settled || self.trend.usage() != Usage::Normal {
            return;
        }
        if !self.prober.is_ready(now_us) {
            return;
        }
        let wanted = (most.0 as f64 * PROBE_MARGIN).min(estimate as f64 * PROBE_FACTOR.0);
        let bitrate = wanted.max(next.0 as f64 * PROBE_MARGIN).min(estimate as f64 * PROBE_FACTOR.1);
        let bitrate = (bitrate as u64).min(self.limits.1);
        if bitrate > estimate {
            self.prober.start(bitrate, self.next_seq, now_us);
        }
    }

    /// The receiver's own estimate.
    pub fn on_remb(&mut self, bitrate: Bitrate, now: Instant) {
        if self.mode == BweMode::Remb {
            let now_us = self.us(now);
            self.feedback_at = Some(now_us);
            self.control.set(bitrate.0.min(self.limits.1), now_us);
            self.prober.conclude(None, now_us);
            self.start_probe(now_us);
        }
    }

    /// A receiver report's loss, 0 to 1: it counts where nothing better tells, about once a second.
    pub fn on_loss(&mut self, fraction: f32) {
        if self.mode != BweMode::Remb {
            return;
        }
        let estimate = self.control.bitrate() as f64;
        let before = self.remb.unwrap_or(estimate);
        let after = if fraction > REMB_LOSS.1 {
            before.min(estimate) * (1.0 - 0.5 * f64::from(fraction.clamp(0.0, 1.0)))
        } else if fraction < REMB_LOSS.0 {
            before * 1.08 + 1000.0
        } else {
            before
        };
        self.remb = (after < estimate).then_some(after);
    }

    /// To be called about twice a second: notices that nothing is heard any more.
    pub fn handle_timeout(&mut self, now: Instant) {
        let now_us = self.us(now);
        self.conclude_probe(now_us);
        let (Some(sent_at), Some(feedback_at)) = (self.sent_at, self.feedback_at) else { return };
        if now_us - feedback_at > SILENCE_US {
            // Nothing was measured for so long that what was measured last says nothing of now.
            self.trend.restart();
        }
        self.start_probe(now_us);
        let patience = SILENCE_US.max(3 * self.rtt_us.unwrap_or(DEFAULT_RTT_US));
        if self.mode == BweMode::TransportWide
            && sent_at - feedback_at > patience
            && now_us - sent_at < SILENCE_US
        {
            let less = (self.estimate().0 as f64 * SILENCE_SHARE) as u64;
            self.control.set(less.max(self.limits.0), now_us);
        }
    }

    /// What could be made use of. A new wish may be probed for at once.
    pub fn set_demand(&mut self, demand: Demand, now: Instant) {
        let before = std::mem::replace(&mut self.demand, demand);
        if before != demand {
            self.start_probe(self.us(now));
        }
    }

    /// The least and the most that the estimate may be.
    pub fn set_limits(&mut self, least: Bitrate, most: Bitrate, now: Instant) {
        self.limits = (least.0, most.0.max(least.0));
        if self.control.bitrate() > self.limits.1 {
            self.control.set(self.limits.1, self.us(now));
        }
    }

    /// What may be sent.
    #[must_use]
    pub fn estimate(&self) -> Bitrate {
        let loss = self.loss.limit().unwrap_or(u64::MAX);
        let remb = self.remb.map_or(u64::MAX, |bitrate| bitrate as u64);
        Bitrate(self.control.bitrate().min(loss).min(remb).clamp(self.limits.0, self.limits.1))
    }

    /// What arrives, in bit/s, as far as feedback tells.
    #[must_use]
    pub fn acknowledged(&self) -> Option<Bitrate> {
        self.throughput.bitrate().map(Bitrate)
    }

    /// The round trip, queues and the wait for feedback included.
    #[must_use]
    pub fn round_trip(&self) -> Option<Duration> {
        self.rtt_us.and_then(|us| u64::try_from(us).ok()).map(Duration::from_micros)
    }

    /// Whether a queue builds up at the moment.
    #[must_use]
    pub fn is_overused(&self) -> bool {
        self.trend.usage() == Usage::Over
    }

    /// Share of packets lost, 0 to 1, averaged over the latest reports.
    #[must_use]
    pub fn packet_loss(&self) -> f64 {
        self.loss.average()
    }

    /// The length of a padding packet that is to go out now. It must then be told to [`Self::sent`]. Call until there is
    /// none: a few per call.
    pub fn poll_probe(&mut self, now: Instant) -> Option<usize> {
        let now_us = self.us(now);
        self.prober.poll(now_us)
    }

    /// When to call [`Self::poll_probe`] next; `None` while nothing is probed.
    #[must_use]
    pub fn next_probe(&self) -> Option<Instant> {
        let us = u64::try_from(self.prober.next_us()?).unwrap_or(0);
        self.start.checked_add(Duration::from_micros(us))
    }

    /// Bytes of memory held beyond the struct itself.
    #[must_use]
    pub fn allocated_bytes(&self) -> usize {
        self.sent.allocated_bytes()
    }

    fn us(&self, now: Instant) -> i64 {
        let since = now.saturating_duration_since(self.start);
        (since.as_secs().cast_signed())
            .saturating_mul(1_000_000)
            .saturating_add(i64::from(since.subsec_micros()))
    }
}

/// What one pass over a feedback packet gathers.
struct Pass {
    now_us: i64,
    batch: Batch,
    lost: u32,
    late: u32,
    newest_age_us: u32,
}

#[cfg(test)]
mod tests;
