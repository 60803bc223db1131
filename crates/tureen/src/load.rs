//! How busy this node is, measured between two beats: its busiest worker's CPU, what its workers send, and how late this
//! process' own event loop runs.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cluster::node::Load;
use media::WorkerStatus;
use serde::{Deserialize, Serialize};

use crate::worker_counters::WorkerCounters;

/// How often the event loop is asked how late it is.
const LAG_EVERY: Duration = Duration::from_millis(50);
/// Lateness at which signaling on this node would be felt by people: counts as full.
const LAG_FULL: Duration = Duration::from_millis(100);

/// What this node can send. 0: not known, and not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NodeLimits {
    /// Datagrams a second.
    pub(crate) packets_per_second: u64,
    /// Bits a second.
    pub(crate) egress_bps: u64,
}

/// Measures from one call to the next.
#[derive(Debug)]
pub(crate) struct LoadMeter {
    limits: NodeLimits,
    counters: Arc<WorkerCounters>,
    lag: Arc<Lag>,
    last: Mutex<Last>,
}

/// How late the event loop ran, added up since it was last asked.
#[derive(Debug, Default)]
struct Lag {
    late_us: AtomicU64,
    samples: AtomicU64,
}

impl Lag {
    fn note(&self, late: Duration) {
        self.late_us.fetch_add(u64::try_from(late.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.samples.fetch_add(1, Ordering::Relaxed);
    }

    /// The mean since the last call. Not the worst: one pause among forty samples is no load, and a node that counted as busy for
    /// it would send a room's peers to another region.
    fn take(&self) -> Duration {
        let (late, samples) =
            (self.late_us.swap(0, Ordering::Relaxed), self.samples.swap(0, Ordering::Relaxed));
        Duration::from_micros(late.checked_div(samples).unwrap_or(0))
    }
}

#[derive(Debug, Default)]
struct Last {
    at: Option<Instant>,
    /// CPU time of each worker process so far, in nanoseconds.
    cpu_ns: HashMap<u32, u64>,
    /// Datagrams and bytes sent by each so far.
    sent: HashMap<u32, Sent>,
}

/// What a worker has sent.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sent {
    pub(crate) datagrams: u64,
    pub(crate) bytes: u64,
}

impl Sent {
    fn since(self, earlier: &Self) -> Self {
        Self {
            datagrams: self.datagrams.saturating_sub(earlier.datagrams),
            bytes: self.bytes.saturating_sub(earlier.bytes),
        }
    }

    fn and(self, other: Self) -> Self {
        Self { datagrams: self.datagrams + other.datagrams, bytes: self.bytes + other.bytes }
    }
}

impl LoadMeter {
    /// Begins to watch the event loop. Must be called within a tokio runtime.
    pub(crate) fn start(limits: NodeLimits, counters: Arc<WorkerCounters>) -> Self {
        let lag = Arc::new(Lag::default());
        let watched = Arc::downgrade(&lag);
        tokio::spawn(async move {
            loop {
                let due = Instant::now() + LAG_EVERY;
                tokio::time::sleep_until(due.into()).await;
                let Some(lag) = watched.upgrade() else { return };
                lag.note(due.elapsed());
            }
        });
        Self { limits, counters, lag, last: Mutex::default() }
    }

    /// The load since the last call; of the first call, what the event loop's lateness says.
    pub(crate) fn measure(&self, workers: &[WorkerStatus]) -> Load {
        let now = Instant::now();
        let pids = || workers.iter().filter_map(|worker| worker.pid);
        let cpu_ns: HashMap<u32, u64> = pids().filter_map(|pid| Some((pid, cpu_ns(pid)?))).collect();
        let sent: HashMap<u32, Sent> =
            pids().filter_map(|pid| Some((pid, self.counters.sent(pid)?))).collect();
        // A plain value, whole at every instruction.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let lag = thousandths(self.lag.take().as_secs_f64(), LAG_FULL.as_secs_f64());
        let mut load = Load { lag, ..Load::default() };
        if let Some(seconds) = last.at.map(|at| now.saturating_duration_since(at).as_secs_f64()) {
            // A worker that was not there at the last call has had less than a beat's time.
            let busiest = cpu_ns.iter().filter_map(|(pid, ns)| ns.checked_sub(*last.cpu_ns.get(pid)?)).max();
            load.cpu = thousandths(busiest.unwrap_or(0) as f64 / 1e9, seconds);
            let grown = sent.iter().filter_map(|(pid, sent)| Some(sent.since(last.sent.get(pid)?)));
            let Sent { datagrams, bytes } = grown.fold(Sent::default(), Sent::and);
            let NodeLimits { packets_per_second, egress_bps } = self.limits;
            load.packets = thousandths(datagrams as f64, packets_per_second as f64 * seconds);
            load.egress = thousandths(bytes as f64 * 8.0, egress_bps as f64 * seconds);
        }
        *last = Last { at: Some(now), cpu_ns, sent };
        load
    }
}

/// A part in thousandths of a whole; 0 of a whole that is not known.
fn thousandths(part: f64, whole: f64) -> u16 {
    if whole <= 0.0 { 0 } else { (part / whole * 1000.0).round().min(f64::from(u16::MAX)) as u16 }
}

/// CPU time that a process of one thread has had (`/proc/PID/schedstat`, its first number).
fn cpu_ns(pid: u32) -> Option<u64> {
    std::fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_thousandths_and_unknown_wholes_count_nothing() {
        assert_eq!(thousandths(0.5, 2.0), 250);
        assert_eq!(thousandths(3.0, 2.0), 1500);
        assert_eq!(thousandths(3.0, 0.0), 0);
        assert_eq!(thousandths(1e12, 1.0), u16::MAX);
    }

    #[test]
    fn one_pause_is_no_load_and_lateness_that_lasts_is() {
        let lag = Lag::default();
        assert_eq!(lag.take(), Duration::ZERO);
        lag.note(Duration::from_millis(800));
        (0..39).for_each(|_| lag.note(Duration::from_millis(1)));
        assert_eq!(lag.take(), Duration::from_micros(20_975));
        (0..20).for_each(|_| lag.note(Duration::from_millis(100)));
        assert_eq!(lag.take(), LAG_FULL);
    }

    #[test]
    fn this_process_has_had_cpu_time() {
        assert!(cpu_ns(std::process::id()).is_some_and(|ns| ns > 0));
        assert_eq!(cpu_ns(u32::MAX), None);
    }
}
