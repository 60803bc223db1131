//! Time that passes when a test says so.

use std::time::{Duration, Instant};

/// A clock for code that takes `now`.
#[derive(Clone, Copy, Debug)]
pub struct VirtualClock {
    start: Instant,
    now: Instant,
}

impl VirtualClock {
    /// Starts now; only differences between instants matter to what is tested.
    #[must_use]
    pub fn new() -> Self {
        let start = Instant::now();
        Self { start, now: start }
    }

    /// The virtual now.
    #[must_use]
    pub const fn now(&self) -> Instant {
        self.now
    }

    /// Virtual time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// Lets time pass.
    pub fn advance(&mut self, by: Duration) {
        self.now += by;
    }

    /// Lets time pass until `at`; never back.
    pub fn advance_to(&mut self, at: Instant) {
        self.now = self.now.max(at);
    }
}

impl Default for VirtualClock {
    fn default() -> Self {
        Self::new()
    }
}
