//! A one-way link in virtual time that loses, duplicates, delays and reorders, by seed.

use crate::random::Random;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// How a link treats what is sent on it.
#[derive(Clone, Copy, Debug)]
pub struct LinkProfile {
    /// Share that is lost, 0 to 1.
    pub loss: f64,
    /// Share that arrives twice.
    pub duplication: f64,
    /// Share that is held back by up to `reorder_delay`, so that what follows overtakes it.
    pub reorder: f64,
    /// The longest such delay.
    pub reorder_delay: Duration,
    /// Delay of everything.
    pub delay: Duration,
}

impl LinkProfile {
    /// A link that only delays.
    #[must_use]
    pub const fn perfect(delay: Duration) -> Self {
        Self { loss: 0.0, duplication: 0.0, reorder: 0.0, reorder_delay: Duration::ZERO, delay }
    }
}

/// A one-way link that carries `T`.
#[derive(Debug)]
pub struct LossyLink<T> {
    profile: LinkProfile,
    random: Random,
    /// By time of delivery, then in order of sending.
    in_flight: BTreeMap<(Instant, u64), T>,
    sent: u64,
    lost: u64,
}

impl<T: Clone> LossyLink<T> {
    /// The same seed and the same calls give the same deliveries.
    #[must_use]
    pub const fn new(profile: LinkProfile, seed: u64) -> Self {
        Self { profile, random: Random::new(seed), in_flight: BTreeMap::new(), sent: 0, lost: 0 }
    }

    /// Changes what the link does from now on.
    pub const fn set_profile(&mut self, profile: LinkProfile) {
        self.profile = profile;
    }

    /// Sends one item.
    pub fn send(&mut self, item: T, now: Instant) {
        let copies = 1 + u32::from(self.random.chance(self.profile.duplication));
        if self.random.chance(self.profile.loss) {
            self.lost += 1;
            return;
        }
        for _ in 0..copies {
            let mut at = now + self.profile.delay;
            if self.random.chance(self.profile.reorder) {
                let longest = self.profile.reorder_delay.as_micros() as u64;
                at += Duration::from_micros(self.random.below(longest + 1));
            }
            self.sent += 1;
            self.in_flight.insert((at, self.sent), item.clone());
        }
    }

    /// When the next item arrives.
    #[must_use]
    pub fn next_delivery(&self) -> Option<Instant> {
        self.in_flight.first_key_value().map(|((at, _), _)| *at)
    }

    /// The next item that has arrived by `now`, and when it did.
    pub fn receive(&mut self, now: Instant) -> Option<(Instant, T)> {
        let entry = self.in_flight.first_entry()?;
        let at = entry.key().0;
        (at <= now).then(|| (at, entry.remove()))
    }

    /// Items lost so far.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_gives_the_same_deliveries() {
        let start = Instant::now();
        let run = |seed| {
            let profile = LinkProfile {
                loss: 0.1,
                duplication: 0.05,
                reorder: 0.2,
                reorder_delay: Duration::from_millis(30),
                delay: Duration::from_millis(10),
            };
            let mut link = LossyLink::new(profile, seed);
            for item in 0..1000_u64 {
                link.send(item, start + Duration::from_millis(item));
            }
            std::iter::from_fn(|| link.receive(start + Duration::from_secs(9))).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        let delivered = run(3).len();
        assert!((880..=1000).contains(&delivered), "{delivered}");
    }

    #[test]
    fn nothing_arrives_early() {
        let start = Instant::now();
        let mut link = LossyLink::new(LinkProfile::perfect(Duration::from_millis(10)), 0);
        link.send('a', start);
        assert_eq!(link.receive(start + Duration::from_millis(9)), None);
        assert_eq!(link.next_delivery(), Some(start + Duration::from_millis(10)));
        assert!(link.receive(start + Duration::from_millis(10)).is_some());
    }
}
