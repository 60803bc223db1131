//! A `tureen serve` of a test's own, on ports that the kernel picks; its log kept; ended with its owner.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{Namespace, Network, binaries, proc};

/// From start to the line that names the address.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// From SIGTERM to the end.
const ENDS_WITHIN: Duration = Duration::from_secs(15);
/// How much of the log a failed test shows.
const TAIL_LINES: usize = 60;

/// How a server is to be started.
#[derive(Debug, Default)]
pub struct ServerOptions {
    arguments: Vec<OsString>,
    environment: Vec<(String, String)>,
    worker: Option<PathBuf>,
    network: bool,
    namespace: Option<String>,
}

impl ServerOptions {
    /// One more argument of `tureen serve`.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// A setting and its value.
    #[must_use]
    pub fn set(self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.arg(name).arg(value)
    }

    /// A setting and its value, unless it is set.
    #[must_use]
    pub fn set_default(self, name: &str, value: impl AsRef<OsStr>) -> Self {
        if self.arguments.iter().any(|argument| argument == name) { self } else { self.set(name, value) }
    }

    /// A setting that has no flag, as `TUREEN_…` in the environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Another worker than the one of this tree.
    #[must_use]
    pub fn worker(mut self, binary: PathBuf) -> Self {
        self.worker = Some(binary);
        self
    }

    /// Runs in a network's server namespace, at [`Network::SERVER`], which its clients reach.
    #[must_use]
    pub fn in_network(mut self, network: &Network) -> Self {
        self.network = true;
        self.namespace = Some(network.server().name().to_owned());
        self
    }

    /// Runs in a namespace, on its loopback.
    #[must_use]
    pub fn in_namespace(self, namespace: &Namespace) -> Self {
        self.in_namespace_named(namespace.name())
    }

    /// As [`Self::in_namespace`], by the namespace's name.
    #[must_use]
    pub fn in_namespace_named(mut self, name: &str) -> Self {
        self.namespace = Some(name.to_owned());
        self
    }

    /// Starts it and waits until it names its address.
    pub fn start(self) -> Result<Server> {
        let mut server = self.spawn()?;
        server.url = server.wait_for_log(READY_WITHIN, url)?;
        Ok(server)
    }

    /// Starts it and does not wait: for a server that is not expected to come up.
    pub fn spawn(self) -> Result<Server> {
        let binary = binaries::tureen()?;
        let mut command = match &self.namespace {
            Some(name) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name]).arg(&binary);
                command
            }
            None => Command::new(&binary),
        };
        let worker = match self.worker {
            Some(worker) => worker,
            None => binaries::tureen_worker()?,
        };
        command.arg("serve").arg("--worker-bin").arg(worker);
        let host = if self.network { Network::SERVER.to_string() } else { "127.0.0.1".to_owned() };
        if !self.arguments.iter().any(|argument| argument == "--listen") {
            command.arg("--listen").arg(format!("{host}:0"));
        }
        if self.network {
            command.args(["--insecure-listen-anywhere", "--insecure-no-tokens"]);
        }
        command.args(&self.arguments);
        let child = command
            .env("NO_COLOR", "1")
            .envs(self.environment)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        Server::follow(child)
    }
}

/// A running server. Dropping it sends SIGTERM, waits, and kills what is left.
#[derive(Debug)]
pub struct Server {
    child: Child,
    url: String,
    log: Arc<Log>,
    readers: Vec<std::thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Log {
    state: Mutex<LogState>,
    grown: Condvar,
}

#[derive(Debug, Default)]
struct LogState {
    lines: Vec<String>,
    ended: usize,
}

impl Server {
    /// One with the default settings and a worker.
    pub fn start() -> Result<Self> {
        Self::options().start()
    }

    /// How to start one otherwise.
    pub fn options() -> ServerOptions {
        ServerOptions::default()
    }

    /// The page's address, without a slash at the end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// `host:port` of the page.
    pub fn authority(&self) -> &str {
        self.url.split_once("://").map_or("", |(_, rest)| rest)
    }

    /// The server's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A metric without labels, by name; `None` when the server does not have it.
    pub fn metric(&self, name: &str) -> Result<Option<f64>> {
        let mut stream = TcpStream::connect(self.authority()).context("the server does not answer")?;
        let request =
            format!("GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.authority());
        stream.write_all(request.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map(|value| Ok(value.trim().parse()?)).transpose()
    }

    /// The worker processes that run now.
    pub fn workers(&self) -> Result<BTreeSet<u32>> {
        proc::children(self.pid())
    }

    /// Waits for a line of the log, old or new, that `wanted` takes something from.
    pub fn wait_for_log<T>(&self, within: Duration, wanted: impl Fn(&str) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + within;
        let mut seen = 0;
        let mut state = self.log.locked();
        loop {
            if let Some(found) = state.lines.iter().skip(seen).find_map(|line| wanted(line)) {
                return Ok(found);
            }
            seen = state.lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            let ended = state.ended == 2;
            if ended || left.is_zero() {
                drop(state);
                let why = if ended { "the server ended before" } else { "in time came no" };
                bail!("{why} the line waited for; its log:\n{}", self.log_tail());
            }
            state = self.log.grown.wait_timeout(state, left).expect("no thread panics with the log locked").0;
        }
    }

    /// All lines so far.
    pub fn log(&self) -> Vec<String> {
        self.log.locked().lines.clone()
    }

    /// The last lines, for the message of a failed test.
    pub fn log_tail(&self) -> String {
        let lines = self.log();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    /// Waits until it ends by itself.
    pub fn wait(mut self, within: Duration) -> Result<ExitStatus> {
        self.ended(within)?.with_context(|| format!("still running after {} s", within.as_secs()))
    }

    /// Sends SIGTERM and waits for a clean end.
    pub fn stop(mut self) -> Result<ExitStatus> {
        proc::kill(self.pid(), "TERM")?;
        self.ended(ENDS_WITHIN)?.with_context(|| {
            format!("SIGTERM did not end it within {} s:\n{}", ENDS_WITHIN.as_secs(), self.log_tail())
        })
    }

    fn follow(mut child: Child) -> Result<Self> {
        let log = Arc::new(Log::default());
        let stdout = child.stdout.take().context("stdout is piped")?;
        let stderr = child.stderr.take().context("stderr is piped")?;
        let readers = vec![read(stdout, Arc::clone(&log)), read(stderr, Arc::clone(&log))];
        Ok(Self { child, url: String::new(), log, readers })
    }

    /// Its exit status, once both its outputs are at their end, or None after `within`.
    fn ended(&mut self, within: Duration) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + within;
        let mut state = self.log.locked();
        while state.ended < 2 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            state = self.log.grown.wait_timeout(state, left).expect("no thread panics with the log locked").0;
        }
        drop(state);
        Ok(Some(self.child.wait()?))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let workers = self.workers().unwrap_or_default();
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = proc::kill(self.pid(), "TERM");
            if !matches!(self.ended(ENDS_WITHIN), Ok(Some(_))) {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
        for worker in workers.into_iter().filter(|worker| proc::alive(*worker)) {
            let _ = proc::kill(worker, "KILL");
        }
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        if std::thread::panicking() {
            eprintln!("the server's log ends:\n{}", self.log_tail());
        }
    }
}

impl Log {
    fn locked(&self) -> MutexGuard<'_, LogState> {
        self.state.lock().expect("no thread panics with the log locked")
    }
}

fn read(output: impl Read + Send + 'static, log: Arc<Log>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            log.locked().lines.push(line);
            log.grown.notify_all();
        }
        log.locked().ended += 1;
        log.grown.notify_all();
    })
}

/// The first URL in a line, without its path.
fn url(line: &str) -> Option<String> {
    let start = line.find("http://").or_else(|| line.find("https://"))?;
    let rest = &line[start..];
    let authority = rest.find("://")? + "://".len();
    let ends = |c: char| !(c.is_ascii_alphanumeric() || ".:[]-".contains(c));
    let end = rest[authority..].find(ends).map_or(rest.len(), |len| authority + len);
    Some(rest[..end].trim_end_matches('.').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_of_a_log_line_ends_before_the_words_after_it() {
        assert_eq!(
            url("INFO open http://127.0.0.1:4443/ in a browser").as_deref(),
            Some("http://127.0.0.1:4443")
        );
        assert_eq!(url("listening on https://[::1]:4443").as_deref(), Some("https://[::1]:4443"));
        assert_eq!(url("starting"), None);
    }
}
