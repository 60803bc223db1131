//! The receiving side of transport-wide congestion control: records when packets arrive and reports it
//! (draft-holmer-rmcat-transport-wide-cc-extensions-01). The sender's estimate is not made here.
//!
//! A feedback packet goes out every 100 ms while packets arrive. A packet that comes after it was reported
//! missing is reported again, with what follows it, if it is not older than half a second.

use crate::{
    rtcp::{TransportFeedbackHeader, write_transport_feedback},
    rtp::Ssrc,
    sequence::{SeqNo, SequenceExtender},
};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Time between feedback packets.
pub const FEEDBACK_INTERVAL: Duration = Duration::from_millis(100);
/// How long an arrival may be reported again.
const LATE_WINDOW: Duration = Duration::from_millis(500);
/// Arrivals and gaps remembered: half a second of 16,000 packets/s. A wider jump starts anew.
const MAX_SPAN: usize = 8192;
/// Packets that one feedback packet reports on: 20 bytes of header, at worst two bytes of delta each and a
/// chunk for seven, so that it fits in 1,200 bytes with room for SRTCP.
const MAX_STATUSES: usize = 480;
/// Microseconds of a delta's unit and of the reference time's.
const TICK_US: u64 = 250;
const REFERENCE_TICKS: u64 = 64_000 / TICK_US;
/// Feedback packets whose loss counts.
const LOSS_HISTORY: usize = 24;

/// Records arrivals on one transport and makes its feedback packets.
#[derive(Clone, Debug)]
pub struct TransportFeedbackGenerator {
    sender_ssrc: Ssrc,
    media_ssrc: Ssrc,
    extender: SequenceExtender,
    start: Option<Instant>,
    /// Ticks of arrival of `first` and its successors.
    arrivals: VecDeque<Option<u64>>,
    first: u64,
    /// The first number that the next feedback packet reports on.
    next: u64,
    due: Option<Instant>,
    feedback_count: u8,
    loss: LossAverage,
    deltas: Vec<Option<i16>>,
}

impl TransportFeedbackGenerator {
    /// Feedback will come from `sender_ssrc` (mediasoup uses 0).
    #[must_use]
    pub fn new(sender_ssrc: Ssrc) -> Self {
        Self {
            sender_ssrc,
            media_ssrc: Ssrc::default(),
            extender: SequenceExtender::new(),
            start: None,
            arrivals: VecDeque::new(),
            first: 0,
            next: 0,
            due: None,
            feedback_count: 0,
            loss: LossAverage::default(),
            deltas: Vec::new(),
        }
    }

    /// A packet with this transport-wide sequence number arrived on this stream.
    pub fn record(&mut self, transport_seq: u16, media_ssrc: Ssrc, now: Instant) {
        self.media_ssrc = media_ssrc;
        let start = *self.start.get_or_insert(now);
        let tick = now.saturating_duration_since(start).as_micros() as u64 / TICK_US;
        let seq = self.extender.extend(transport_seq);
        if self.arrivals.is_empty() {
            // After a feedback packet was all reported, what comes next may lie beyond a gap.
            if self.first == 0 || seq < self.next || seq - self.next > MAX_SPAN as u64 {
                self.next = seq;
            }
            self.first = self.next;
        }
        if seq < self.first {
            if !self.reach_back(seq) {
                return;
            }
        } else if seq - self.first >= MAX_SPAN as u64 {
            self.arrivals.clear();
            self.first = seq;
            self.next = seq;
        }
        let index = (seq - self.first) as usize;
        if index >= self.arrivals.len() {
            self.arrivals.resize(index + 1, None);
        }
        if self.arrivals[index].is_some() {
            return;
        }
        self.arrivals[index] = Some(tick);
        self.next = self.next.min(seq);
        self.due.get_or_insert(now + FEEDBACK_INTERVAL);
    }

    /// When to poll next; `None` while nothing waits to be reported.
    #[must_use]
    pub const fn next_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// Appends one feedback packet if it is time for one. Call until it returns `false`: more may be due when
    /// many packets came or their arrivals lie far apart.
    pub fn poll_feedback(&mut self, now: Instant, out: &mut Vec<u8>) -> bool {
        if self.due.is_none_or(|due| now < due) {
            return false;
        }
        let end = self.first + self.arrivals.len() as u64;
        let Some((gap, reference)) = self.first_waiting() else {
            self.due = None;
            return false;
        };
        if gap >= MAX_STATUSES {
            // An outage wider than a packet can tell of. What no feedback covers counts as lost with the sender, too.
            self.next += gap as u64;
        }
        let base = self.next;
        self.deltas.clear();
        let mut previous = reference * REFERENCE_TICKS;
        let mut received = 0_usize;
        let mut used = 0;
        for arrival in self.arrivals.range((base - self.first) as usize..).take(MAX_STATUSES) {
            let delta = match arrival {
                None => None,
                Some(tick) => {
                    let difference = tick.cast_signed() - previous.cast_signed();
                    // Too far apart for one packet: the next one has its own reference time.
                    let Ok(delta) = i16::try_from(difference) else { break };
                    previous = *tick;
                    Some(delta)
                }
            };
            self.deltas.push(delta);
            if delta.is_some() {
                received += 1;
                used = self.deltas.len();
            }
        }
        // What is missing at the end is for the next packet to tell.
        self.deltas.truncate(used);
        let header = TransportFeedbackHeader {
            sender_ssrc: self.sender_ssrc,
            media_ssrc: self.media_ssrc,
            base_sequence: SeqNo::from_extended(base),
            // 24 bits signed: the sign is that of bit 23.
            reference_time: ((reference as u32) << 8).cast_signed() >> 8,
            feedback_count: self.feedback_count,
        };
        write_transport_feedback(out, &header, &self.deltas);
        self.feedback_count = self.feedback_count.wrapping_add(1);
        self.loss.push((used - received) as f32 / used as f32);
        self.next = base + used as u64;
        if self.next >= end {
            self.due = None;
        }
        self.forget_old(now);
        true
    }

    /// Share of packets lost on the way here, 0 to 1: over the last 24 feedback packets, the latest counting
    /// most.
    #[must_use]
    pub fn packet_loss(&self) -> f32 {
        self.loss.value()
    }

    /// The transport was disconnected: forgets what was not reported.
    pub fn reset(&mut self) {
        self.arrivals.clear();
        self.extender = SequenceExtender::new();
        self.first = 0;
        self.next = 0;
        self.due = None;
    }

    /// How many numbers are missing before the first arrival that waits to be reported, and that arrival's time in the
    /// units of a reference time (64 ms).
    fn first_waiting(&self) -> Option<(usize, u64)> {
        let from = (self.next - self.first) as usize;
        if from >= self.arrivals.len() {
            return None;
        }
        let mut waiting = self.arrivals.range(from..).enumerate();
        waiting.find_map(|(gap, arrival)| arrival.map(|tick| (gap, tick / REFERENCE_TICKS)))
    }

    /// Makes room for a packet that precedes all that are remembered.
    fn reach_back(&mut self, seq: u64) -> bool {
        let missing = (self.first - seq) as usize;
        if missing + self.arrivals.len() > MAX_SPAN {
            return false;
        }
        for _ in 0..missing {
            self.arrivals.push_front(None);
        }
        self.first = seq;
        true
    }

    /// Forgets what was reported and is too old to be reported again.
    fn forget_old(&mut self, now: Instant) {
        let Some(start) = self.start else { return };
        let elapsed = now.saturating_duration_since(start).saturating_sub(LATE_WINDOW);
        let oldest = elapsed.as_micros() as u64 / TICK_US;
        while self.first < self.next
            && self.arrivals.front().is_some_and(|arrival| arrival.is_none_or(|tick| tick < oldest))
        {
            self.arrivals.pop_front();
            self.first += 1;
        }
    }
}

/// Average of the latest losses, weighted linearly.
#[derive(Clone, Debug, Default)]
struct LossAverage {
    history: [f32; LOSS_HISTORY],
    len: usize,
}

impl LossAverage {
    fn push(&mut self, loss: f32) {
        if self.len == LOSS_HISTORY {
            self.history.copy_within(1.., 0);
            self.len -= 1;
        }
        self.history[self.len] = loss;
        self.len += 1;
    }

    fn value(&self) -> f32 {
        let (mut sum, mut weights) = (0.0, 0.0);
        for (weight, loss) in (1_u8..).zip(&self.history[..self.len]) {
            sum += f32::from(weight) * loss;
            weights += f32::from(weight);
        }
        if weights > 0.0 { sum / weights } else { 0.0 }
    }
}

#[cfg(test)]
mod tests;
