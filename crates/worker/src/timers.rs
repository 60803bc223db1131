//! The event loop's timers: a heap of deadlines, each belonging to one target, set again and again at no cost.
//!
//! A timer that is moved or cleared leaves its old heap entry behind; it is recognised by its version and thrown away
//! when it surfaces. The heap is rebuilt when such leftovers outnumber the living.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use slab::Slab;

/// Names a timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TimerKey(u32);

#[derive(Debug)]
struct Timer<T> {
    target: T,
    deadline: Option<Instant>,
    version: u64,
}

/// All timers of a loop. `T` is what comes out when one is due.
#[derive(Debug)]
pub struct Timers<T> {
    timers: Slab<Timer<T>>,
    heap: BinaryHeap<Reverse<(Instant, u64, u32)>>,
    version: u64,
}

/// Heaps below this size are not worth rebuilding.
const REBUILD_FROM: usize = 1024;

impl<T: Copy> Default for Timers<T> {
    fn default() -> Self {
        Self { timers: Slab::new(), heap: BinaryHeap::new(), version: 0 }
    }
}

impl<T: Copy> Timers<T> {
    /// A timer that is not set yet.
    pub fn create(&mut self, target: T) -> TimerKey {
        let key = self.timers.insert(Timer { target, deadline: None, version: 0 });
        TimerKey(u32::try_from(key).expect("timers are bounded far below 2^32"))
    }

    /// Forgets a timer. Its key must not be used any more.
    pub fn remove(&mut self, key: TimerKey) {
        self.timers.try_remove(key.0 as usize);
    }

    /// Sets the timer, in place of what it was set to.
    pub fn set(&mut self, key: TimerKey, deadline: Option<Instant>) {
        let Some(timer) = self.timers.get_mut(key.0 as usize) else { return };
        if timer.deadline == deadline {
            return;
        }
        timer.deadline = deadline;
        if let Some(deadline) = deadline {
            self.version += 1;
            timer.version = self.version;
            self.heap.push(Reverse((deadline, self.version, key.0)));
            if self.heap.len() > REBUILD_FROM && self.heap.len() > 4 * self.timers.len() {
                self.rebuild();
            }
        }
    }

    /// Sets the timer unless it is set to something earlier.
    pub fn set_no_later_than(&mut self, key: TimerKey, deadline: Instant) {
        let current = self.deadline(key);
        if current.is_none_or(|current| deadline < current) {
            self.set(key, Some(deadline));
        }
    }

    /// What a timer is set to.
    pub fn deadline(&self, key: TimerKey) -> Option<Instant> {
        self.timers.get(key.0 as usize).and_then(|timer| timer.deadline)
    }

    /// The earliest deadline of all.
    pub fn next_deadline(&mut self) -> Option<Instant> {
        while let Some(&Reverse((deadline, version, key))) = self.heap.peek() {
            if is_current(&self.timers, version, key) {
                return Some(deadline);
            }
            self.heap.pop();
        }
        None
    }

    /// Takes one timer that is due; it is then no longer set. `lead` says how long before its deadline a target may come, where
    /// the loop is awake anyway: it then needs no wake-up of its own.
    pub fn poll(&mut self, now: Instant, lead: impl Fn(T) -> Duration) -> Option<T> {
        while let Some(&Reverse((deadline, version, key))) = self.heap.peek() {
            if !is_current(&self.timers, version, key) {
                self.heap.pop();
                continue;
            }
            let target = self.timers[key as usize].target;
            if deadline > now && deadline > now + lead(target) {
                return None;
            }
            self.heap.pop();
            let timer = &mut self.timers[key as usize];
            timer.deadline = None;
            return Some(timer.target);
        }
        None
    }

    fn rebuild(&mut self) {
        let timers = &self.timers;
        self.heap.retain(|&Reverse((_, version, key))| is_current(timers, version, key));
    }
}

/// Whether a heap entry is what its timer was set to last.
fn is_current<T>(timers: &Slab<Timer<T>>, version: u64, key: u32) -> bool {
    timers.get(key as usize).is_some_and(|timer| timer.version == version && timer.deadline.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn punctual<T>(_: T) -> Duration {
        Duration::ZERO
    }

    #[test]
    fn the_last_setting_counts() {
        let mut timers = Timers::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let (a, b) = (timers.create('a'), timers.create('b'));
        timers.set(a, Some(at(10)));
        timers.set(b, Some(at(20)));
        timers.set(a, Some(at(30)));
        assert_eq!(timers.next_deadline(), Some(at(20)));
        assert_eq!(timers.poll(at(15), punctual), None);
        assert_eq!(timers.poll(at(25), punctual), Some('b'));
        timers.set(a, None);
        assert_eq!(timers.poll(at(100), punctual), None);
        assert_eq!(timers.next_deadline(), None);
    }

    #[test]
    fn who_may_come_early_comes_with_others() {
        let mut timers = Timers::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let (a, b) = (timers.create('a'), timers.create('b'));
        timers.set(a, Some(at(10)));
        timers.set(b, Some(at(20)));
        let lead = |target: char| Duration::from_millis(if target == 'b' { 10 } else { 0 });
        assert_eq!(timers.poll(at(9), lead), None);
        assert_eq!(timers.poll(at(10), lead), Some('a'));
        assert_eq!(timers.poll(at(10), lead), Some('b'));
        timers.set(b, Some(at(40)));
        assert_eq!(timers.poll(at(29), lead), None);
        assert_eq!(timers.next_deadline(), Some(at(40)));
    }

    #[test]
    fn a_key_used_again_does_not_inherit_a_deadline() {
        let mut timers = Timers::default();
        let start = Instant::now();
        let old = timers.create('o');
        timers.set(old, Some(start));
        timers.remove(old);
        let _new = timers.create('n');
        assert_eq!(timers.poll(start + Duration::from_secs(1), punctual), None);
    }

    #[test]
    fn leftovers_do_not_pile_up() {
        let mut timers = Timers::default();
        let start = Instant::now();
        let key = timers.create(());
        for ms in 0..100_000 {
            timers.set(key, Some(start + Duration::from_millis(ms)));
        }
        assert!(timers.heap.len() <= REBUILD_FROM + 1);
        assert_eq!(timers.poll(start + Duration::from_secs(200), punctual), Some(()));
    }
}
