//! The score of a stream, 0 (dead) to 10 (perfect): mediasoup's measure, which applications show and act on.
//!
//! Each report interval gives one value from what was delivered, lost and repaired in it; the score is their
//! average, weighted linearly so that the latest of 24 counts most.

use super::ScoreChange;
use std::time::{Duration, Instant};

/// Intervals that count.
const HISTORY: usize = 24;
/// Intervals last at least this long, however often the peer reports.
const MIN_INTERVAL: Duration = Duration::from_millis(400);
/// The best score.
pub const MAX_SCORE: u8 = 10;

/// What happened in one interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Interval {
    /// Packets received (or, for a sender, sent), repairs not counted.
    pub(super) delivered: u64,
    /// Packets lost at first; not more than `delivered`.
    pub(super) lost: u64,
    /// Packets that a retransmission replaced; not more than `lost`.
    pub(super) repaired: u64,
    /// Retransmissions, useless ones included.
    pub(super) retransmitted: u64,
}

impl Interval {
    /// Score of the interval: the share delivered to the fourth power, where a repaired packet counts the
    /// more as lost the more of them there were and the more retransmissions they took.
    pub(super) fn score(self) -> u8 {
        if self.delivered == 0 {
            return 0;
        }
        let delivered = self.delivered as f64;
        let lost = self.lost.min(self.delivered) as f64;
        let repaired = (self.repaired as f64).min(lost);
        let mut weight = (1.0 + repaired / delivered).powi(-4);
        if self.retransmitted > 0 {
            weight *= (repaired / self.retransmitted as f64).min(1.0);
        }
        // Whole packets, rounded down, as mediasoup counts them.
        let missing = (lost - repaired * weight).floor();
        (((delivered - missing) / delivered).powi(4) * f64::from(MAX_SCORE)).round() as u8
    }
}

/// The running score of a stream.
#[derive(Clone, Debug)]
pub(super) struct Score {
    current: u8,
    /// Announced last; what a pending change is measured against.
    announced: u8,
    history: [u8; HISTORY],
    len: usize,
    /// When the last interval ended.
    interval_end: Option<Instant>,
}

impl Score {
    /// Starts at `initial`, without announcing it.
    pub(super) const fn new(initial: u8) -> Self {
        Self { current: initial, announced: initial, history: [0; HISTORY], len: 0, interval_end: None }
    }

    pub(super) const fn current(&self) -> u8 {
        self.current
    }

    /// Whether a report that came now ends an interval.
    pub(super) fn ends_interval(&mut self, now: Instant) -> bool {
        let ends = self.interval_end.is_none_or(|end| now.saturating_duration_since(end) >= MIN_INTERVAL);
        if ends {
            self.interval_end = Some(now);
        }
        ends
    }

    /// Adds an interval's score.
    pub(super) fn push(&mut self, score: u8) {
        if self.len == HISTORY {
            self.history.copy_within(1.., 0);
            self.len -= 1;
        }
        self.history[self.len] = score.min(MAX_SCORE);
        self.len += 1;
        let (mut sum, mut weights) = (0_u32, 0_u32);
        for (weight, &score) in (1_u32..).zip(&self.history[..self.len]) {
            sum += weight * u32::from(score);
            weights += weight;
        }
        // Rounded to the nearest.
        self.current = ((sum + weights / 2) / weights) as u8;
    }

    /// Forgets the history and sets the score.
    pub(super) fn reset(&mut self, score: u8) {
        self.len = 0;
        self.current = score;
    }

    /// The change since the last call, if there was one.
    pub(super) fn take_change(&mut self) -> Option<ScoreChange> {
        if self.current == self.announced {
            return None;
        }
        let change = ScoreChange { score: self.current, previous: self.announced };
        self.announced = self.current;
        Some(change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_lowers_and_repair_restores() {
        let score = |lost, repaired, retransmitted| {
            Interval { delivered: 100, lost, repaired, retransmitted }.score()
        };
        assert_eq!(score(0, 0, 0), 10);
        assert_eq!(score(10, 0, 0), 7);
        assert_eq!(score(50, 0, 0), 1);
        assert_eq!(score(100, 0, 0), 0);
        assert_eq!(score(5, 5, 5), 10);
        assert!(score(20, 20, 20) > score(20, 10, 20), "more repaired is better");
        assert!(score(20, 20, 20) > score(20, 20, 80), "more retransmissions for the same are worse");
    }

    #[test]
    fn impossible_figures_stay_in_range() {
        for delivered in [0, 1, 7] {
            for lost in [0, 3, u64::MAX] {
                for repaired in [0, 2, u64::MAX] {
                    let interval = Interval { delivered, lost, repaired, retransmitted: 1 };
                    assert!(interval.score() <= MAX_SCORE, "{interval:?}");
                }
            }
        }
    }

    #[test]
    fn latest_interval_weighs_most() {
        let mut score = Score::new(10);
        for value in [1, 2, 3, 4] {
            score.push(value);
        }
        assert_eq!(score.current(), 3);
        assert_eq!(score.take_change(), Some(ScoreChange { score: 3, previous: 10 }));
        assert_eq!(score.take_change(), None);
        for _ in 0..100 {
            score.push(10);
        }
        assert_eq!(score.current(), 10);
    }
}
