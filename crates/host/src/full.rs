//! What an operator reads when something is full: once a minute for each kind of limit, however many are refused. The
//! counters have all of them.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A limit that stays reached is worth no more lines than that.
const EVERY: Duration = Duration::from_secs(60);

/// One kind of limit, of this process.
#[derive(Debug)]
pub(crate) struct Full(Mutex<Option<Instant>>);

/// Sessions of this node.
pub(crate) static SESSIONS: Full = Full::new();
/// Rooms of this node.
pub(crate) static ROOMS: Full = Full::new();
/// Peers of a room.
pub(crate) static ROOM: Full = Full::new();
/// Routers of a room: each has what it is to bear.
pub(crate) static ROUTERS: Full = Full::new();
/// Objects of a worker.
pub(crate) static WORKER: Full = Full::new();

impl Full {
    const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Whether it is time for a line in the log.
    pub(crate) fn is_news(&self, now: Instant) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| now.saturating_duration_since(last) < EVERY) {
            return false;
        }
        *last = Some(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_told_of_once_a_minute() {
        let (full, begun) = (Full::new(), Instant::now());
        let told = (0..150).filter(|s| full.is_news(begun + Duration::from_secs(*s))).collect::<Vec<_>>();
        assert_eq!(told, [0, 60, 120]);
    }
}
