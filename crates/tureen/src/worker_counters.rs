//! What the media workers count, brought into this process' metrics.
//!
//! tureen-worker writes its counters into a folder that it is told in its environment, a file a process, once a second;
//! they are read when metrics are asked for. A stock mediasoup-worker writes none, and then there are none.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;

use anyhow::{Context, Result};
use media::WorkerStatus;
use metrics::{counter, describe_counter, describe_gauge, gauge};
use tempfile::TempDir;

use crate::load::Sent;

/// The variable that names the folder to a worker.
const VARIABLE: &str = "TUREEN_WORKER_COUNTERS";

/// What begins with this in a worker's file is how many objects of a kind it has; all else only grows.
const NOW: &str = "now_";

/// The counters of all workers, summed up over the processes that followed one another in a place.
#[derive(Debug)]
pub(crate) struct WorkerCounters {
    folder: TempDir,
    seen: Mutex<HashMap<usize, Seen>>,
}

/// What was read last of one place in the pool.
#[derive(Debug, Default)]
struct Seen {
    pid: u32,
    values: BTreeMap<String, u64>,
}

impl WorkerCounters {
    /// Makes the folder; it is removed when this is dropped.
    pub(crate) fn new() -> Result<Self> {
        describe_counter!(
            "tureen_worker_events_total",
            "What media workers did, dropped or refused, by event."
        );
        describe_gauge!("tureen_worker_objects", "What media workers have now, by kind.");
        let folder = tempfile::Builder::new().prefix("tureen-counters-").tempdir();
        let folder = folder.context("cannot make a folder for the workers' counters")?;
        Ok(Self { folder, seen: Mutex::default() })
    }

    /// What a worker must find in its environment.
    pub(crate) fn environment(&self) -> (String, String) {
        (VARIABLE.to_owned(), self.folder.path().display().to_string())
    }

    /// Reads what has been written since the last time.
    pub(crate) fn collect(&self, workers: &[WorkerStatus]) {
        let mut seen = self.seen.lock().expect("no one panics while holding this lock");
        for worker in workers {
            let Some(pid) = worker.pid else { continue };
            // Not written yet, or a worker that writes none.
            let Some(values) = fs::read(self.file(pid)).ok().and_then(|bytes| parse(&bytes)) else {
                continue;
            };
            let last = seen.entry(worker.index).or_default();
            if last.pid != pid {
                let _ = fs::remove_file(self.file(last.pid));
                *last = Seen { pid, values: BTreeMap::new() };
            }
            for (event, value) in &values {
                let place = worker.index.to_string();
                if let Some(kind) = event.strip_prefix(NOW) {
                    // Exact below 2^53 objects.
                    gauge!("tureen_worker_objects", "worker" => place, "kind" => kind.to_owned())
                        .set(*value as f64);
                    continue;
                }
                let grown = value.saturating_sub(last.values.get(event).copied().unwrap_or(0));
                counter!("tureen_worker_events_total", "worker" => place, "event" => event.clone())
                    .increment(grown);
            }
            last.values = values;
        }
    }

    /// What a worker process has sent so far, as of the last second; `None` when it writes no counters.
    pub(crate) fn sent(&self, pid: u32) -> Option<Sent> {
        let values = parse(&fs::read(self.file(pid)).ok()?)?;
        Some(Sent { datagrams: *values.get("datagrams_sent")?, bytes: *values.get("octets_sent")? })
    }

    fn file(&self, pid: u32) -> PathBuf {
        self.folder.path().join(format!("{pid}.json"))
    }
}

fn parse(bytes: &[u8]) -> Option<BTreeMap<String, u64>> {
    serde_json::from_slice(bytes).ok()
}
