//! How much arrives: bytes that feedback acknowledges, by the receiver's clock or by ours, whichever took longer.
//!
//! A receiver that lies about its arrival times cannot claim more than we sent in the time in which we sent it.

use arrayvec::ArrayVec;

/// What is looked back on.
const WINDOW_US: i64 = 500_000;
/// No rate is told of less.
const LEAST_US: i64 = 100_000;
/// A pause this long is no part of any rate.
const PAUSE_US: i64 = 500_000;
/// Feedback packets come every 50 to 250 ms; a receiver that sends more of them has a shorter window.
const MOST_BATCHES: usize = 24;

/// What one feedback packet acknowledged.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Batch {
    pub(super) bytes: u64,
    pub(super) first_len: u64,
    pub(super) first_sent: i64,
    pub(super) last_sent: i64,
    pub(super) first_arrival: i64,
    pub(super) last_arrival: i64,
    pub(super) packets: u32,
}

impl Batch {
    /// Adds a packet.
    pub(super) fn add(&mut self, len: u16, sent: i64, arrival: i64) {
        if self.packets == 0 {
            self.first_len = u64::from(len);
            (self.first_sent, self.last_sent) = (sent, sent);
            (self.first_arrival, self.last_arrival) = (arrival, arrival);
        }
        self.packets += 1;
        self.bytes += u64::from(len);
        self.first_sent = self.first_sent.min(sent);
        self.last_sent = self.last_sent.max(sent);
        self.first_arrival = self.first_arrival.min(arrival);
        self.last_arrival = self.last_arrival.max(arrival);
    }
}

#[derive(Clone, Copy, Debug)]
struct Part {
    bytes: u64,
    sent_us: i64,
    arrival_us: i64,
}

/// The acknowledged bitrate of one transport.
#[derive(Clone, Debug, Default)]
pub(super) struct Throughput {
    parts: ArrayVec<Part, MOST_BATCHES>,
    /// The newest packet acknowledged: sent, arrived.
    end: Option<(i64, i64)>,
}

impl Throughput {
    /// Another feedback packet. `follows`: no feedback was lost between this and the last one.
    pub(super) fn add(&mut self, batch: &Batch, follows: bool) {
        if batch.packets == 0 {
            return;
        }
        let own = Part {
            bytes: batch.bytes - batch.first_len,
            sent_us: batch.last_sent - batch.first_sent,
            arrival_us: batch.last_arrival - batch.first_arrival,
        };
        let part = match self.end {
            // What was acknowledged in between is unknown: the batch stands for itself.
            Some(_) if !follows => own,
            Some((sent, arrival)) => {
                let part = Part {
                    bytes: batch.bytes,
                    sent_us: (batch.last_sent - sent).max(0),
                    arrival_us: (batch.last_arrival - arrival).max(0),
                };
                if part.sent_us.max(part.arrival_us) > own.sent_us.max(own.arrival_us) + PAUSE_US {
                    self.parts.clear();
                    own
                } else {
                    part
                }
            }
            None => own,
        };
        let (sent, arrival) = self.end.unwrap_or((batch.last_sent, batch.last_arrival));
        self.end = Some((batch.last_sent.max(sent), batch.last_arrival.max(arrival)));
        if self.parts.is_full() {
            self.parts.remove(0);
        }
        self.parts.push(part);
        while self.parts.len() > 1 && span(self.parts.get(1..).unwrap_or_default()) >= WINDOW_US {
            self.parts.remove(0);
        }
    }

    /// Bit/s; `None` until there is enough to tell.
    pub(super) fn bitrate(&self) -> Option<u64> {
        let us = u64::try_from(span(&self.parts)).unwrap_or(0);
        let bytes: u64 = self.parts.iter().map(|part| part.bytes).sum();
        (us >= LEAST_US.unsigned_abs()).then(|| bytes.saturating_mul(8_000_000) / us)
    }

    /// Bit/s of the newest packets alone, as many as it takes to tell. Where little was sent and then a burst, this is what
    /// the link made of the burst, and the other is no more than what there was to send.
    pub(super) fn latest_bitrate(&self) -> Option<u64> {
        let from = (0..self.parts.len()).rev();
        let parts = from.filter_map(|from| self.parts.get(from..)).find(|parts| span(parts) >= LEAST_US)?;
        let bytes: u64 = parts.iter().map(|part| part.bytes).sum();
        Some(bytes.saturating_mul(8_000_000) / span(parts).unsigned_abs())
    }

    /// Forgets everything.
    pub(super) fn restart(&mut self) {
        *self = Self::default();
    }
}

fn span(parts: &[Part]) -> i64 {
    let (sent, arrival) = parts
        .iter()
        .fold((0_i64, 0_i64), |(sent, arrival), part| (sent + part.sent_us, arrival + part.arrival_us));
    sent.max(arrival)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packets of 1,250 bytes, one each 10 ms, in batches of ten; `stretch` is what arrival times are multiplied with.
    fn measured(stretch: f64, lost_feedback: bool) -> u64 {
        let mut throughput = Throughput::default();
        for batch_number in 0..20 {
            let mut batch = Batch::default();
            for packet in 0..10 {
                let sent = (batch_number * 10 + packet) * 10_000;
                batch.add(1250, sent, (sent as f64 * stretch) as i64);
            }
            let lost = lost_feedback && batch_number % 2 == 1;
            if !lost {
                throughput.add(&batch, !lost_feedback);
            }
        }
        throughput.bitrate().expect("two seconds are enough")
    }

    #[test]
    fn a_steady_flow_reads_its_rate_feedback_lost_or_not() {
        for lost in [false, true] {
            let rate = measured(1.0, lost);
            assert!((990_000..=1_010_000).contains(&rate), "{rate}");
        }
    }

    #[test]
    fn a_burst_after_little_tells_what_the_link_carries() {
        let mut throughput = Throughput::default();
        // 100 kbit/s, then 10,000 bytes at once, over a link of 500 kbit/s.
        for step in 0..10 {
            let mut batch = Batch::default();
            batch.add(1250, step * 100_000, step * 100_000);
            throughput.add(&batch, true);
        }
        let mut batch = Batch::default();
        for packet in 0..8 {
            batch.add(1250, 1_000_000, 1_000_000 + packet * 20_000);
        }
        throughput.add(&batch, true);
        let (all, latest) = (throughput.bitrate().unwrap(), throughput.latest_bitrate().unwrap());
        assert!(all < 250_000 && (300_000..520_000).contains(&latest), "{all} {latest}");
    }

    #[test]
    fn a_slower_link_is_seen_and_a_faster_one_not_believed() {
        let slower = measured(2.0, false);
        assert!((490_000..=510_000).contains(&slower), "{slower}");
        let faster = measured(0.001, false);
        assert!(faster <= 1_010_000, "{faster}");
    }
}
