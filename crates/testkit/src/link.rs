//! A one-way link that loses (singly or in bursts), duplicates, delays, reorders and throttles, by seed and without a
//! clock of its own: simulations run it in virtual time, end-to-end tests between real sockets.

use crate::random::Random;
use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

/// How a link treats what is sent on it. The default does nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LinkProfile {
    /// Share that is lost, 0 to 1.
    pub loss: f64,
    /// Mean number of packets lost in a row (Gilbert's model); up to 1 each is lost or not by itself.
    pub loss_run: f64,
    /// Share that arrives twice.
    pub duplication: f64,
    /// Share that is held back by up to `reorder_delay`, so that what follows overtakes it.
    pub reorder: f64,
    /// The longest such delay.
    pub reorder_delay: Duration,
    /// Delay of everything.
    pub delay: Duration,
    /// Each packet takes up to this much longer, in no case overtaking the one before.
    pub jitter: Duration,
    /// Bits per second that leave the queue; zero for no limit.
    pub rate: u64,
    /// Bytes that may wait for their turn; what comes on top is dropped. Without a rate nothing waits.
    pub queue_bytes: usize,
}

impl LinkProfile {
    /// A link that only delays.
    #[must_use]
    pub const fn perfect(delay: Duration) -> Self {
        Self {
            loss: 0.0,
            loss_run: 1.0,
            duplication: 0.0,
            reorder: 0.0,
            reorder_delay: Duration::ZERO,
            delay,
            jitter: Duration::ZERO,
            rate: 0,
            queue_bytes: 0,
        }
    }
}

/// What became of everything that was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Given to the link.
    pub offered: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Dropped because the queue was full.
    pub overflowed: u64,
    /// Sent on a second time.
    pub duplicated: u64,
    /// Bytes that passed the queue.
    pub bytes: u64,
}

/// A one-way link that carries `T`.
#[derive(Debug)]
pub struct LossyLink<T> {
    profile: LinkProfile,
    random: Random,
    losing: bool,
    /// What waits for its turn: the item, its bytes, when it came.
    queue: VecDeque<(T, usize, Instant)>,
    queued_bytes: usize,
    /// When the item that left the queue last had left it whole.
    free_at: Option<Instant>,
    /// The latest delivery of an item that was not held back.
    last_delivery: Option<Instant>,
    /// By time of delivery, then in order of sending.
    in_flight: BTreeMap<(Instant, u64), T>,
    serial: u64,
    counters: LinkCounters,
}

impl<T: Clone> LossyLink<T> {
    /// The same seed and the same calls give the same deliveries.
    #[must_use]
    pub const fn new(profile: LinkProfile, seed: u64) -> Self {
        Self {
            profile,
            random: Random::new(seed),
            losing: false,
            queue: VecDeque::new(),
            queued_bytes: 0,
            free_at: None,
            last_delivery: None,
            in_flight: BTreeMap::new(),
            serial: 0,
            counters: LinkCounters { offered: 0, lost: 0, overflowed: 0, duplicated: 0, bytes: 0 },
        }
    }

    /// Changes what the link does from now on; what waits in the queue leaves it at the new rate.
    pub const fn set_profile(&mut self, profile: LinkProfile) {
        self.profile = profile;
    }

    /// Sends one item that takes no room.
    pub fn send(&mut self, item: T, now: Instant) {
        self.send_sized(item, 0, now);
    }

    /// Sends one item of so many bytes.
    pub fn send_sized(&mut self, item: T, bytes: usize, now: Instant) {
        self.advance(now);
        self.counters.offered += 1;
        let duplicate = self.random.chance(self.profile.duplication);
        if self.loses() {
            self.counters.lost += 1;
            return;
        }
        if self.profile.rate == 0 && self.queue.is_empty() {
            self.counters.bytes += bytes as u64;
            if duplicate {
                self.counters.duplicated += 1;
                self.fly(item.clone(), now);
            }
            self.fly(item, now);
            return;
        }
        for copy in 0..=u8::from(duplicate) {
            if self.queued_bytes + bytes > self.profile.queue_bytes {
                self.counters.overflowed += 1;
                return;
            }
            self.counters.duplicated += u64::from(copy);
            self.queued_bytes += bytes;
            self.queue.push_back((item.clone(), bytes, now));
        }
        self.advance(now);
    }

    /// When to call [`Self::receive`] next: an item arrives then, or may.
    #[must_use]
    pub fn next_delivery(&self) -> Option<Instant> {
        let arrival = self.in_flight.first_key_value().map(|((at, _), _)| *at);
        let departure =
            self.queue.front().map(|(_, _, came)| self.free_at.map_or(*came, |free| free.max(*came)));
        [arrival, departure].into_iter().flatten().min()
    }

    /// The next item that has arrived by `now`, and when it did.
    pub fn receive(&mut self, now: Instant) -> Option<(Instant, T)> {
        self.advance(now);
        let entry = self.in_flight.first_entry()?;
        let at = entry.key().0;
        (at <= now).then(|| (at, entry.remove()))
    }

    /// Items lost so far.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.counters.lost
    }

    /// What became of everything so far.
    #[must_use]
    pub const fn counters(&self) -> LinkCounters {
        self.counters
    }

    /// Whether the next item is lost. A run of losses ends with probability 1 / its mean length, and starts as often
    /// as makes their share what the profile says.
    fn loses(&mut self) -> bool {
        let LinkProfile { loss, loss_run, .. } = self.profile;
        if loss_run <= 1.0 || loss <= 0.0 || loss >= 1.0 {
            self.losing = false;
            return self.random.chance(loss);
        }
        let turn = if self.losing { 1.0 / loss_run } else { loss / ((1.0 - loss) * loss_run) };
        self.losing ^= self.random.chance(turn);
        self.losing
    }

    /// Moves from the queue onto the wire what has begun to leave by `now`.
    fn advance(&mut self, now: Instant) {
        while let Some((item, bytes, came)) = self.queue.pop_front() {
            let begins = self.free_at.map_or(came, |free| free.max(came));
            if begins > now {
                self.queue.push_front((item, bytes, came));
                return;
            }
            let bits = bytes as u64 * 8;
            let takes = match self.profile.rate {
                0 => Duration::ZERO,
                rate => Duration::from_nanos(bits.saturating_mul(1_000_000_000) / rate),
            };
            self.queued_bytes -= bytes;
            self.counters.bytes += bytes as u64;
            self.free_at = Some(begins + takes);
            self.fly(item, begins + takes);
        }
    }

    fn fly(&mut self, item: T, departed: Instant) {
        let LinkProfile { delay, jitter, reorder, reorder_delay, .. } = self.profile;
        let up_to = |random: &mut Random, longest: Duration| {
            Duration::from_micros(random.below(longest.as_micros() as u64 + 1))
        };
        let mut at = departed + delay;
        if !jitter.is_zero() {
            at += up_to(&mut self.random, jitter);
            at = self.last_delivery.map_or(at, |last| last.max(at));
            self.last_delivery = Some(at);
        }
        if self.random.chance(reorder) {
            at += up_to(&mut self.random, reorder_delay);
        }
        self.serial += 1;
        self.in_flight.insert((at, self.serial), item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    /// Sends `count` items of 1,250 bytes (10,000 bits), one every `interval`; returns what arrived when, in order of
    /// arrival, and what the link counted.
    fn carried(
        profile: LinkProfile,
        count: u64,
        interval: Duration,
        seed: u64,
    ) -> (Vec<(Duration, u64)>, LinkCounters) {
        let start = Instant::now();
        let mut link = LossyLink::new(profile, seed);
        let mut arrived = Vec::new();
        for item in 0..count {
            let now = start + interval * u32::try_from(item).unwrap();
            while let Some((at, item)) = link.receive(now) {
                arrived.push((at - start, item));
            }
            link.send_sized(item, 1250, now);
        }
        while let Some(next) = link.next_delivery() {
            while let Some((at, item)) = link.receive(next) {
                arrived.push((at - start, item));
            }
        }
        (arrived, link.counters())
    }

    #[test]
    fn same_seed_gives_the_same_deliveries() {
        let profile = LinkProfile {
            loss: 0.1,
            loss_run: 2.0,
            duplication: 0.05,
            reorder: 0.2,
            reorder_delay: ms(30),
            delay: ms(10),
            jitter: ms(5),
            rate: 20_000_000,
            queue_bytes: 100_000,
        };
        let run = |seed| carried(profile, 1000, ms(1), seed);
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        let delivered = run(3).0.len();
        assert!((850..=1020).contains(&delivered), "{delivered}");
    }

    #[test]
    fn nothing_arrives_early() {
        let start = Instant::now();
        let mut link = LossyLink::new(LinkProfile::perfect(ms(10)), 0);
        link.send('a', start);
        assert_eq!(link.receive(start + ms(9)), None);
        assert_eq!(link.next_delivery(), Some(start + ms(10)));
        assert!(link.receive(start + ms(10)).is_some());
    }

    #[test]
    fn bursts_lose_the_share_they_should_in_runs_of_the_length_they_should() {
        let profile = LinkProfile { loss: 0.05, loss_run: 6.0, ..LinkProfile::default() };
        // Some 8,000 runs, so that one standard deviation is about 1.5%.
        let mut link = LossyLink::new(profile, 7);
        let (mut runs, mut last, now) = (0_u32, 0, Instant::now());
        for item in 1..=1_000_000 {
            link.send(item, now);
            while let Some((_, item)) = link.receive(now) {
                runs += u32::from(item != last + 1);
                last = item;
            }
        }
        let share = link.lost() as f64 / 1e6;
        assert!((0.0475..0.0525).contains(&share), "{share}");
        let mean = link.lost() as f64 / f64::from(runs);
        assert!((5.7..6.3).contains(&mean), "{mean}");
    }

    #[test]
    fn jitter_delays_but_keeps_the_order() {
        let profile = LinkProfile { jitter: ms(20), ..LinkProfile::perfect(ms(50)) };
        let (arrived, _) = carried(profile, 1000, ms(3), 7);
        assert!(arrived.iter().map(|(_, item)| *item).eq(0..1000));
        let delays: Vec<_> = arrived.iter().map(|(at, item)| *at - ms(3) * *item as u32).collect();
        assert!(delays.iter().all(|delay| (ms(50)..=ms(70)).contains(delay)));
        assert!(delays.iter().any(|delay| *delay < ms(55)) && delays.iter().any(|delay| *delay > ms(65)));
    }

    #[test]
    fn rate_is_kept_and_the_queue_is_bounded() {
        // Offered 10 Mbit/s for a second; 2 Mbit/s pass, and four items wait.
        let profile = LinkProfile { rate: 2_000_000, queue_bytes: 5000, ..LinkProfile::default() };
        let (arrived, counters) = carried(profile, 1000, ms(1), 7);
        assert!((200..=206).contains(&arrived.len()), "{}", arrived.len());
        assert_eq!(counters.overflowed, 1000 - arrived.len() as u64);
        assert!(arrived.windows(2).all(|pair| pair[1].0 - pair[0].0 >= ms(5)));
        let waited = arrived.iter().map(|(at, item)| *at - ms(*item)).max().unwrap();
        assert!((ms(20)..=ms(25)).contains(&waited), "{waited:?}");
    }

    #[test]
    fn what_waits_leaves_at_a_new_rate() {
        let start = Instant::now();
        let profile = LinkProfile { rate: 100_000, queue_bytes: 100_000, ..LinkProfile::default() };
        let mut link = LossyLink::new(profile, 7);
        for item in 0..10 {
            link.send_sized(item, 1250, start);
        }
        link.set_profile(LinkProfile { rate: 10_000_000, ..profile });
        let mut last = start;
        while let Some(next) = link.next_delivery() {
            while let Some((at, _)) = link.receive(next) {
                last = at;
            }
        }
        assert_eq!(last - start, ms(100 + 9), "the first had begun to leave at the old rate");
    }
}
