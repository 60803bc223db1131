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
/// What leaves within this time of the packet before it is of one train with it: a frame, as an encoder's pacer spreads it.
const TRAIN_GAP_US: i64 = 10_000;
/// So long trains must have taken to tell a rate…
const LEAST_TRAIN_US: i64 = 60_000;
/// …beyond which older ones are not looked at.
const TRAINS_US: i64 = 150_000;
/// A queue that grew by so much within what is looked back on is no jitter.
const FAST_GROWTH_US: i64 = 200_000;
/// Half of the time that the least delay is looked for in.
const BASE_US: i64 = 4_000_000;
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
    /// The packet before, of this batch or an earlier one: sent, arrived.
    before: Option<(i64, i64)>,
    /// What came in trains but for each one's first packet, and how long that took.
    train_bytes: u64,
    train_us: i64,
    least_delay: i64,
}

impl Batch {
    /// Adds a packet.
    pub(super) fn add(&mut self, len: u16, sent: i64, arrival: i64) {
        if self.packets == 0 {
            self.first_len = u64::from(len);
            (self.first_sent, self.last_sent) = (sent, sent);
            (self.first_arrival, self.last_arrival) = (arrival, arrival);
            self.least_delay = arrival - sent;
        }
        if let Some((before_sent, before_arrival)) = self.before {
            let gap = sent - before_sent;
            if (0..=TRAIN_GAP_US).contains(&gap) {
                self.train_bytes += u64::from(len);
                self.train_us += (arrival - before_arrival).max(gap);
            }
        }
        self.before = Some((sent, arrival));
        self.least_delay = self.least_delay.min(arrival - sent);
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
    train_bytes: u64,
    train_us: i64,
    least_delay: i64,
}

/// The least delay of the last seconds, in two halves, so that it follows a path that has become longer.
#[derive(Clone, Copy, Debug)]
struct Base {
    since: i64,
    least: i64,
    before: i64,
}

/// The acknowledged bitrate of one transport.
#[derive(Clone, Debug, Default)]
pub(super) struct Throughput {
    parts: ArrayVec<Part, MOST_BATCHES>,
    /// The newest packet acknowledged: sent, arrived.
    end: Option<(i64, i64)>,
    base: Option<Base>,
}

impl Throughput {
    /// The next feedback packet's, still empty. `follows`: no feedback was lost between it and the last one.
    pub(super) fn batch(&self, follows: bool) -> Batch {
        Batch { before: self.end.filter(|_| follows), ..Batch::default() }
    }

    /// Bit/s of the latest trains of packets: what the link carries while it is busy, however little is sent on it. With others
    /// on the link it is too much, as they may come in between the trains. A receiver may claim any, as with
    /// [`Self::queued_bitrate`].
    pub(super) fn train_bitrate(&self) -> Option<u64> {
        let (mut bytes, mut us) = (0_u64, 0_i64);
        for part in self.parts.iter().rev() {
            if us >= TRAINS_US {
                break;
            }
            bytes += part.train_bytes;
            us += part.train_us;
        }
        (us >= LEAST_TRAIN_US).then(|| bytes.saturating_mul(8_000_000) / us.unsigned_abs().max(1))
    }

    /// How much longer than the quickest of the last seconds the quickest of the latest packets took: what waits on the way even
    /// where a train begins.
    pub(super) fn standing_queue_us(&self) -> Option<i64> {
        let (latest, base) = (self.latest_delay()?, self.base?);
        Some(latest - base.least.min(base.before))
    }

    fn latest_delay(&self) -> Option<i64> {
        let mut us = 0;
        let latest = self.parts.iter().rev().take_while(|part| {
            let looked_at = us < LEAST_US;
            us += part.sent_us.max(part.arrival_us);
            looked_at
        });
        latest.map(|part| part.least_delay).min()
    }

    /// Another feedback packet. `follows`: no feedback was lost between this and the last one.
    pub(super) fn add(&mut self, batch: &Batch, follows: bool) {
        if batch.packets == 0 {
            return;
        }
        let own = Part {
            bytes: batch.bytes - batch.first_len,
            sent_us: batch.last_sent - batch.first_sent,
            arrival_us: batch.last_arrival - batch.first_arrival,
            train_bytes: batch.train_bytes,
            train_us: batch.train_us,
            least_delay: batch.least_delay,
        };
        let part = match self.end {
            // What was acknowledged in between is unknown: the batch stands for itself.
            Some(_) if !follows => own,
            Some((sent, arrival)) => {
                let part = Part {
                    bytes: batch.bytes,
                    sent_us: (batch.last_sent - sent).max(0),
                    arrival_us: (batch.last_arrival - arrival).max(0),
                    ..own
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
        let base = self.base.get_or_insert(Base {
            since: batch.first_sent,
            least: batch.least_delay,
            before: batch.least_delay,
        });
        if batch.first_sent - base.since >= BASE_US {
            *base = Base { since: batch.first_sent, least: batch.least_delay, before: base.least };
        }
        base.least = base.least.min(batch.least_delay);
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
        let us = span(&self.parts);
        (us >= LEAST_US).then(|| rate(&self.parts, us))
    }

    /// Bit/s of what came while a queue built up, by the receiver's clock: what the link carries, even where less was sent in
    /// the end. Of the newest packets alone where that is more: if little was sent and then a burst, the burst tells.
    ///
    /// A receiver may claim any; it is for taking the rate down only.
    pub(super) fn queued_bitrate(&self) -> Option<u64> {
        let us = self.parts.iter().map(|part| part.arrival_us).sum::<i64>();
        let whole = (us >= LEAST_US).then(|| rate(&self.parts, us));
        self.latest_bitrate().max(whole)
    }

    /// Bit/s of the newest packets alone. Where they come out of a queue, it is the link's, however fast the link was before.
    pub(super) fn latest_bitrate(&self) -> Option<u64> {
        (0..self.parts.len())
            .rev()
            .filter_map(|from| self.parts.get(from..))
            .find(|parts| span(parts) >= LEAST_US)
            .map(|parts| rate(parts, span(parts)))
    }

    /// Whether what came lately came so much more slowly than it was sent that a queue grew which no jitter makes: the link has
    /// become narrow. The trend needs frames for that, which take their time on such a link.
    pub(super) fn is_queue_growing_fast(&self) -> bool {
        let (sent, arrival) = self
            .parts
            .iter()
            .fold((0, 0), |(sent, arrival), part| (sent + part.sent_us, arrival + part.arrival_us));
        arrival - sent >= FAST_GROWTH_US && 2 * arrival >= 3 * sent
    }

    /// Forgets everything.
    pub(super) fn restart(&mut self) {
        *self = Self::default();
    }
}

fn rate(parts: &[Part], us: i64) -> u64 {
    let bytes: u64 = parts.iter().map(|part| part.bytes).sum();
    bytes.saturating_mul(8_000_000) / us.unsigned_abs().max(1)
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
        let (all, latest) = (throughput.bitrate().unwrap(), throughput.queued_bitrate().unwrap());
        assert!(all < 250_000 && (300_000..520_000).contains(&latest), "{all} {latest}");
    }

    #[test]
    fn trains_tell_what_the_link_carries_and_their_first_packets_what_stands_in_the_queue() {
        // Frames of ten packets, 67 ms apart: 1.5 Mbit/s over a link of 3, whose delay grows by 25 ms on the way.
        let (mut throughput, mut free) = (Throughput::default(), 0);
        let frame = |throughput: &mut Throughput, number: i64, free: &mut i64, packet_us: i64, delay: i64| {
            let mut batch = throughput.batch(true);
            for packet in 0..10 {
                let sent = number * 67_000 + packet * 1_000;
                *free = sent.max(*free) + packet_us;
                batch.add(1250, sent, *free + delay);
            }
            throughput.add(&batch, true);
        };
        for number in 0..30 {
            frame(&mut throughput, number, &mut free, 3_333, if number < 15 { 0 } else { 25_000 });
        }
        let (all, trains) = (throughput.bitrate().unwrap(), throughput.train_bitrate().unwrap());
        assert!(all < 1_700_000 && (2_900_000..3_100_000).contains(&trains), "{all} {trains}");
        assert_eq!(
            throughput.standing_queue_us(),
            Some(25_000),
            "the way is longer, and nothing waits on it"
        );
        for number in 30..36 {
            frame(&mut throughput, number, &mut free, 10_000, 25_000);
        }
        let (queue_us, trains) =
            (throughput.standing_queue_us().unwrap(), throughput.train_bitrate().unwrap());
        assert!(queue_us > 100_000 && (950_000..1_100_000).contains(&trains), "{queue_us} {trains}");
    }

    #[test]
    fn a_link_that_falls_to_a_tenth_is_noticed_within_frames_and_jitter_is_not() {
        // Frames of six packets, 33 ms apart: 1.8 Mbit/s, over a link that then takes 33 ms a packet.
        let noticed = |jitter_us: i64, packet_us: i64| {
            let (mut throughput, mut free) = (Throughput::default(), 0);
            (0..60_i64).find_map(|number| {
                let mut batch = throughput.batch(true);
                for _ in 0..6 {
                    let sent = number * 33_000;
                    free =
                        free.max(sent + number % 3 * jitter_us) + if number < 30 { 1_000 } else { packet_us };
                    batch.add(1250, sent, free);
                }
                throughput.add(&batch, true);
                throughput.is_queue_growing_fast().then(|| (number, throughput.latest_bitrate()))
            })
        };
        assert_eq!(noticed(40_000, 1_000), None);
        let (number, bitrate) = noticed(0, 33_333).expect("noticed");
        let bitrate = bitrate.unwrap();
        assert!((30..33).contains(&number) && (270_000..330_000).contains(&bitrate), "{number} {bitrate}");
    }

    #[test]
    fn a_slower_link_is_seen_and_a_faster_one_not_believed() {
        let slower = measured(2.0, false);
        assert!((490_000..=510_000).contains(&slower), "{slower}");
        let faster = measured(0.001, false);
        assert!(faster <= 1_010_000, "{faster}");
    }
}
