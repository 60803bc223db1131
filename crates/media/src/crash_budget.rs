//! When a worker that died is started again. Pure: time and chance are handed in.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// So many deaths within [`WINDOW`] are a crash loop.
const DEATHS: usize = 5;
/// See [`DEATHS`].
const WINDOW: Duration = Duration::from_secs(60);
/// A worker that ran so long was healthy: what was before is forgotten.
const HEALTHY: Duration = Duration::from_secs(60);
/// The second start waits about so long; each further one twice as long. The first does not wait.
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// No start waits longer, but in a crash loop.
const MAX_DELAY: Duration = Duration::from_secs(5);
/// The time between starts in a crash loop.
const PAUSE: Duration = Duration::from_secs(30);

/// When to start again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Respawn {
    /// After this long; zero is at once.
    After(Duration),
    /// After this long, because starting again has not helped.
    CrashLooping(Duration),
}

/// The deaths of one worker.
#[derive(Debug, Default)]
pub(crate) struct CrashBudget {
    recent: VecDeque<Instant>,
    in_a_row: u32,
    looping: bool,
}

impl CrashBudget {
    /// It died, having run for `ran` (zero where it did not start). `jitter`, from 0 to 1, keeps workers from
    /// starting in step.
    pub(crate) fn died(&mut self, now: Instant, ran: Duration, jitter: f64) -> Respawn {
        if ran >= HEALTHY {
            *self = Self::default();
        }
        self.recent.retain(|death| now.saturating_duration_since(*death) < WINDOW);
        self.recent.push_back(now);
        self.looping |= self.recent.len() >= DEATHS;
        let earlier = self.in_a_row;
        self.in_a_row = earlier.saturating_add(1);
        if self.looping {
            return Respawn::CrashLooping(PAUSE);
        }
        let Some(doublings) = earlier.checked_sub(1) else { return Respawn::After(Duration::ZERO) };
        let full = FIRST_DELAY.saturating_mul(2_u32.saturating_pow(doublings)).min(MAX_DELAY);
        Respawn::After(full.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INSTANTLY: Duration = Duration::from_millis(10);

    #[test]
    fn the_first_start_is_immediate_and_later_ones_wait_longer() {
        let mut budget = CrashBudget::default();
        let now = Instant::now();
        assert_eq!(budget.died(now, INSTANTLY, 1.0), Respawn::After(Duration::ZERO));
        assert_eq!(budget.died(now, INSTANTLY, 1.0), Respawn::After(Duration::from_millis(100)));
        assert_eq!(budget.died(now, INSTANTLY, 1.0), Respawn::After(Duration::from_millis(200)));
        assert_eq!(budget.died(now, INSTANTLY, 0.0), Respawn::After(Duration::from_millis(200)));
    }

    #[test]
    fn the_fifth_death_within_a_minute_is_a_crash_loop_until_a_healthy_run() {
        let mut budget = CrashBudget::default();
        let mut now = Instant::now();
        for _ in 0..4 {
            assert!(matches!(budget.died(now, INSTANTLY, 0.5), Respawn::After(_)));
            now += Duration::from_secs(10);
        }
        assert_eq!(budget.died(now, INSTANTLY, 0.5), Respawn::CrashLooping(PAUSE));
        now += Duration::from_secs(300);
        assert_eq!(budget.died(now, Duration::from_secs(20), 0.5), Respawn::CrashLooping(PAUSE));
        now += Duration::from_secs(100);
        assert_eq!(budget.died(now, Duration::from_secs(60), 0.5), Respawn::After(Duration::ZERO));
    }

    #[test]
    fn rare_deaths_are_no_crash_loop() {
        let mut budget = CrashBudget::default();
        let mut now = Instant::now();
        for _ in 0..20 {
            let Respawn::After(delay) = budget.died(now, Duration::from_secs(20), 1.0) else {
                panic!("a crash loop")
            };
            assert!(delay <= MAX_DELAY);
            now += Duration::from_secs(20);
        }
    }
}
