//! Memory that a crowd leaves behind. glibc keeps what is freed for whoever comes next and gives little of it back by itself:
//! after 20,000 transports a worker would hold their 400 MB for good. Where many transports have become few, it is asked to.

use std::time::{Duration, Instant};

use crate::timers::{TimerKey, Timers};
use crate::worker::{Timer, Worker};

/// Fewer transports than this leave too little to be worth it: some 20 kB each.
const WORTH_IT: usize = 1_000;

/// From the fall to the giving back, so that the rest of a crowd that leaves is gone, too.
const DELAY: Duration = Duration::from_secs(2);

/// When to give memory back.
#[derive(Debug)]
pub struct Relief {
    /// The most transports since memory was given back.
    most: usize,
    timer: TimerKey,
}

impl Relief {
    /// Nothing to give back yet.
    pub fn new(timers: &mut Timers<Timer>) -> Self {
        Self { most: 0, timer: timers.create(Timer::Relief) }
    }

    /// There are so many transports now.
    pub fn grown(&mut self, now: usize) {
        self.most = self.most.max(now);
    }

    /// Whether half of them and many are gone.
    fn is_worth_it(&self, now: usize) -> bool {
        self.most.saturating_sub(now) >= WORTH_IT.max(self.most / 2)
    }
}

impl Worker {
    /// A Transport is no more.
    pub fn transport_gone(&mut self, now: Instant) {
        if self.relief.is_worth_it(self.transports.len()) {
            self.timers.set_no_later_than(self.relief.timer, now + DELAY);
        }
    }

    /// Gives memory back, on a thread that ends with that: 400 MB take some 70 ms. Meanwhile packets are forwarded, which
    /// takes no memory from the allocator, and requests wait.
    pub fn give_memory_back(&mut self) {
        self.relief.most = self.transports.len();
        let spawned =
            std::thread::Builder::new().name("relief".to_owned()).spawn(net::process::give_memory_back);
        match spawned {
            Ok(_detached) => self.counters.memory_given_back += 1,
            Err(error) => self.outbox.error(|| format!("memory cannot be given back: {error}")),
        }
    }
}
