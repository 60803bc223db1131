//! What a measurement watches of a running server: its processes, their descriptors and memory, its metrics.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How often a condition is looked at again. The condition is the event; this is only how fine it is seen.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A server under test.
#[derive(Debug, Clone)]
pub struct Server {
    /// `host:port` of its HTTP side (without TLS).
    pub address: String,
    /// Its process id; its workers are that process' children.
    pub pid: u32,
}

/// What one process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Open descriptors.
    pub descriptors: usize,
    /// Resident memory, kB.
    pub resident_kb: u64,
}

impl Server {
    /// The WebSocket URL that clients join through.
    pub fn websocket_url(&self) -> String {
        format!("ws://{}/", self.address)
    }

    /// The process ids of the workers, in ascending order.
    ///
    /// # Errors
    /// Where `/proc` cannot be read.
    pub fn workers(&self) -> Result<Vec<u32>> {
        let mut children = Vec::new();
        for entry in fs::read_dir("/proc").context("cannot read /proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
            // A process may be gone between the listing and the reading.
            let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
            // pid (comm) state ppid …: comm may hold spaces and brackets, so read from its last bracket.
            let Some((_, rest)) = stat.rsplit_once(')') else { continue };
            let mut fields = rest.split_whitespace();
            if fields.next() != Some("Z") && fields.next().and_then(|f| f.parse().ok()) == Some(self.pid) {
                children.push(pid);
            }
        }
        children.sort_unstable();
        Ok(children)
    }

    /// What the server and each of its workers hold, by process id.
    ///
    /// # Errors
    /// Where a process is gone.
    pub fn held(&self) -> Result<BTreeMap<u32, Held>> {
        let mut pids = self.workers()?;
        pids.push(self.pid);
        pids.into_iter().map(|pid| Ok((pid, held(pid)?))).collect()
    }

    /// Every sample of `/metrics`, by its name with labels.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn metrics(&self) -> Result<BTreeMap<String, f64>> {
        let body = self.get("/metrics").await?;
        let samples =
            body.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
        Ok(samples.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
    }

    /// The sum over labels of a metric; zero where it was never touched.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let matches =
            |sample: &str| sample == name || sample.strip_prefix(name).is_some_and(|s| s.starts_with('{'));
        Ok(self.metrics().await?.iter().filter(|(sample, _)| matches(sample)).map(|(_, value)| value).sum())
    }

    /// Waits until the sum of the metrics' values is `wanted`.
    ///
    /// # Errors
    /// What they are when `patience` is over.
    pub async fn wait_for_metrics(&self, names: &[&str], wanted: f64, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let mut values = Vec::new();
            for name in names {
                values.push((*name, self.metric(name).await?));
            }
            if values.iter().all(|(_, value)| (value - wanted).abs() < 0.5) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("after {patience:?} not all metrics are {wanted}: {values:?}");
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits until `held` is as `accept`s it.
    ///
    /// # Errors
    /// What is held when `patience` is over.
    pub async fn wait_for_held(
        &self,
        patience: Duration,
        accept: impl Fn(&BTreeMap<u32, Held>) -> bool,
    ) -> Result<BTreeMap<u32, Held>> {
        let deadline = Instant::now() + patience;
        loop {
            let held = self.held()?;
            if accept(&held) {
                return Ok(held);
            }
            if Instant::now() > deadline {
                bail!("after {patience:?} the processes still hold {held:?}");
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn get(&self, path: &str) -> Result<String> {
        let address = &self.address;
        let mut stream =
            TcpStream::connect(address).await.with_context(|| format!("no server at {address}"))?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").context("the server's answer has no body")?;
        if !head.starts_with("HTTP/1.1 200") {
            bail!("{path} answered {}", head.lines().next().unwrap_or_default());
        }
        Ok(body.to_owned())
    }
}

/// What one process holds.
pub(crate) fn held(pid: u32) -> Result<Held> {
    let directory = PathBuf::from(format!("/proc/{pid}"));
    let gone = || format!("process {pid} is gone");
    let descriptors = fs::read_dir(directory.join("fd")).with_context(gone)?.count();
    let status = fs::read_to_string(directory.join("status")).with_context(gone)?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident_kb = resident.and_then(|rest| rest.split_whitespace().next()).and_then(|kb| kb.parse().ok());
    Ok(Held {
        descriptors,
        resident_kb: resident_kb.with_context(|| format!("process {pid} tells no VmRSS"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_holds_descriptors_and_memory() {
        let held = held(std::process::id()).unwrap();
        assert!(held.descriptors >= 3 && held.resident_kb > 100, "{held:?}");
    }
}
