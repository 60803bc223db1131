//! Browser scenarios: tests/browser/NAME.mjs, run by Node, one JSON line of measurements on stdout.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{Namespace, Server, binaries, proc};

/// Runs one scenario against a server's page and returns what it measured. Its talk goes to stderr.
///
/// `args` are its options, an object. A scenario that fails, or that is not done within the deadline, is an error;
/// the browsers it started end with it.
pub fn run_scenario(name: &str, server: &Server, args: &Value, deadline: Duration) -> Result<Value> {
    run(Command::new(binaries::node()), name, server, args, deadline)
}

/// As [`run_scenario`], with Node itself in a namespace: for a browser that is driven over a socket, which would not
/// be reached from outside.
pub fn run_scenario_in(
    namespace: &Namespace,
    name: &str,
    server: &Server,
    args: &Value,
    deadline: Duration,
) -> Result<Value> {
    run(namespace.command(binaries::node()), name, server, args, deadline)
}

fn run(node: Command, name: &str, server: &Server, args: &Value, deadline: Duration) -> Result<Value> {
    let mut scenario = Scenario::spawn(node, name, server.url(), args)?;
    scenario.finish(deadline).with_context(|| format!("the server's log ends:\n{}", server.log_tail()))
}

/// A scenario that runs, and may talk with its test on the way. Dropping it ends it and its browsers.
#[derive(Debug)]
pub struct Scenario {
    name: String,
    child: Child,
    stdin: ChildStdin,
    lines: mpsc::Receiver<String>,
}

impl Scenario {
    /// Starts one. `url` is the page's address; a scenario without a page takes any.
    pub fn start(name: &str, url: &str, args: &Value) -> Result<Self> {
        Self::spawn(Command::new(binaries::node()), name, url, args)
    }

    /// As [`Scenario::start`], on this Node.
    pub fn start_with(node: &Path, name: &str, url: &str, args: &Value) -> Result<Self> {
        Self::spawn(Command::new(node), name, url, args)
    }

    fn spawn(mut node: Command, name: &str, url: &str, args: &Value) -> Result<Self> {
        let folder = binaries::root().join("tests/browser");
        let script = folder.join(format!("{name}.mjs"));
        if !script.is_file() {
            bail!("there is no scenario {}", script.display());
        }
        if !folder.join("node_modules").is_dir() {
            bail!("the scenarios' packages are missing: run `npm ci` in {}", folder.display());
        }
        let mut child = node
            .arg(&script)
            .current_dir(&folder)
            .env("TUREEN_URL", url)
            .env("TUREEN_SCENARIO_ARGS", args.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start node")?;
        let stdin = child.stdin.take().context("stdin is piped")?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            for line in lines.filter(|line| line.starts_with('{')) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { name: name.to_owned(), child, stdin, lines })
    }

    /// What it says next.
    pub fn heard(&mut self, within: Duration) -> Result<Value> {
        let said = self.line(within)?;
        if said["ok"] == false {
            bail!("scenario {} failed: {}", self.name, said["error"].as_str().unwrap_or("for no reason"));
        }
        Ok(said)
    }

    /// Says something to it.
    pub fn tell(&mut self, message: &Value) -> Result<()> {
        writeln!(self.stdin, "{message}").with_context(|| format!("scenario {} does not listen", self.name))
    }

    /// Waits for what it measured; one that fails, or is not done in time, is an error.
    pub fn finish(&mut self, within: Duration) -> Result<Value> {
        let measured = self.heard(within)?;
        if measured["ok"] != true {
            bail!("scenario {} printed something else than its end: {measured}", self.name);
        }
        eprintln!("{measured}");
        // It has closed its browsers when it is gone.
        let status = self.child.wait()?;
        if !status.success() {
            bail!("scenario {} ended with {status}", self.name);
        }
        Ok(measured)
    }

    fn line(&mut self, within: Duration) -> Result<Value> {
        match self.lines.recv_timeout(within) {
            Ok(line) => serde_json::from_str(&line)
                .with_context(|| format!("scenario {} printed no JSON: {line}", self.name)),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                bail!("scenario {} says nothing within {} s", self.name, within.as_secs())
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                bail!("scenario {} ended without a word", self.name)
            }
        }
    }
}

impl Drop for Scenario {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            for browser in proc::children(self.child.id()).unwrap_or_default() {
                let _ = proc::kill(browser, "KILL");
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
