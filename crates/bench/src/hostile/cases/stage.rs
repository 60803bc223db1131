//! What every case needs: a worker whose counters can be read, a Router, bystanders, and a look at the process from
//! outside.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::bystanders::{BystanderReport, Bystanders};
use crate::channel::Worker;
use crate::router::Router;

/// The worker writes its counters once a second.
const COUNTERS_DEADLINE: Duration = Duration::from_secs(20);
/// How long descriptors may take to be given back, beyond what the case itself waits for.
const RELEASE_DEADLINE: Duration = Duration::from_secs(30);

/// Figures by name.
pub type Figures = BTreeMap<&'static str, u64>;

/// The stage.
#[derive(Debug)]
pub(super) struct Stage {
    /// The Router under attack.
    pub(super) router: Router,
    /// What is to be told.
    pub(super) figures: Figures,
    bystanders: Bystanders,
    counters: PathBuf,
    _folder: Folder,
    descriptors: usize,
}

/// A folder of ours that goes when we go.
#[derive(Debug)]
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Stage {
    pub(super) fn new(worker: &Path) -> Result<Self> {
        let name = format!("tureen-hostile-{}-{:08x}", std::process::id(), rand::random::<u32>());
        let folder = Folder(std::env::temp_dir().join(name));
        fs::create_dir(&folder.0).with_context(|| format!("cannot make {}", folder.0.display()))?;
        let counters = folder.0.join("counters.json");
        let path = counters.to_str().context("the folder for temporary files has a strange name")?;
        let worker = Worker::spawn(worker, &["--logLevel=none"], &[("TUREEN_WORKER_COUNTERS", path)])?;
        let mut router = Router::new(worker, true)?;
        let bystanders = Bystanders::start(&mut router)?;
        let mut stage =
            Self { router, figures: Figures::new(), bystanders, counters, _folder: folder, descriptors: 0 };
        stage.descriptors = stage.descriptors_now()?;
        Ok(stage)
    }

    /// Ends the bystanders' call and looks whether the worker holds more descriptors than before.
    pub(super) fn finish(mut self) -> Result<(Figures, BystanderReport)> {
        ensure!(self.router.worker.is_alive(), "the worker died");
        let deadline = Instant::now() + RELEASE_DEADLINE;
        while self.descriptors_now()? > self.descriptors {
            ensure!(
                Instant::now() < deadline,
                "{} descriptors were open before, {} are now",
                self.descriptors,
                self.descriptors_now()?
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        let bystanders = self.bystanders.finish()?;
        self.figures.insert("descriptors_after", self.descriptors as u64);
        Ok((self.figures, bystanders))
    }

    /// A counter of the worker's as it was written last.
    pub(super) fn counter(&self, name: &str) -> Result<u64> {
        let text = match fs::read_to_string(&self.counters) {
            Ok(text) => text,
            // It is written a second after the start.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(error.into()),
        };
        let all: BTreeMap<String, u64> = serde_json::from_str(&text).context("the counters are JSON")?;
        all.get(name).copied().with_context(|| format!("there is no counter {name}"))
    }

    /// Waits until a counter has reached a value, and takes it among the figures.
    pub(super) fn expect_counter(&mut self, name: &'static str, at_least: u64) -> Result<u64> {
        self.expect_within(name, at_least, COUNTERS_DEADLINE)
    }

    /// The same, with another patience.
    pub(super) fn expect_within(
        &mut self,
        name: &'static str,
        at_least: u64,
        patience: Duration,
    ) -> Result<u64> {
        let deadline = Instant::now() + patience;
        loop {
            let value = self.counter(name)?;
            if value >= at_least {
                self.figures.insert(name, value);
                return Ok(value);
            }
            if Instant::now() >= deadline {
                bail!("{name} is {value}, and at least {at_least} were caused");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until a counter has sunk to a value.
    pub(super) fn expect_at_most(
        &mut self,
        name: &'static str,
        at_most: u64,
        patience: Duration,
    ) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let value = self.counter(name)?;
            if value <= at_most {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!("{name} is still {value} after {patience:?}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The worker's resident memory in kB.
    pub(super) fn memory_kb(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.router.worker.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches("kB").trim().parse()?)
    }

    /// Open descriptors of the worker.
    pub(super) fn descriptors_now(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.router.worker.pid()))?.count())
    }
}
