//! Browser scenarios: tests/browser/NAME.mjs, run by Node, one JSON line of measurements on stdout.

use std::io::Read;
use std::process::{Child, Command, Stdio};
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

fn run(mut node: Command, name: &str, server: &Server, args: &Value, deadline: Duration) -> Result<Value> {
    let folder = binaries::root().join("tests/browser");
    let script = folder.join(format!("{name}.mjs"));
    if !script.is_file() {
        bail!("there is no scenario {}", script.display());
    }
    if !folder.join("node_modules").is_dir() {
        bail!("the scenarios' packages are missing: run `npm ci` in {}", folder.display());
    }
    let child = node
        .arg(&script)
        .current_dir(&folder)
        .env("TUREEN_URL", server.url())
        .env("TUREEN_SCENARIO_ARGS", args.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start node")?;
    let (success, printed) = finish(child, deadline).with_context(|| format!("scenario {name}"))?;
    let line = printed
        .lines()
        .rfind(|line| line.starts_with('{'))
        .with_context(|| format!("{name} measured nothing"))?;
    let measured: Value =
        serde_json::from_str(line).with_context(|| format!("{name} printed no JSON: {line}"))?;
    if !success || measured["ok"] != true {
        bail!(
            "scenario {name} failed: {}\n{}",
            measured["error"].as_str().unwrap_or(line),
            server.log_tail()
        );
    }
    println!("{line}");
    Ok(measured)
}

/// Waits for the end of stdout, which is the end of the process; past the deadline it and its children are killed.
fn finish(mut child: Child, deadline: Duration) -> Result<(bool, String)> {
    let mut stdout = child.stdout.take().context("stdout is piped")?;
    let (sender, ended) = mpsc::channel();
    std::thread::spawn(move || {
        let mut printed = String::new();
        let outcome = stdout.read_to_string(&mut printed).map(|_| printed);
        let _ = sender.send(outcome);
    });
    match ended.recv_timeout(deadline) {
        Ok(printed) => Ok((child.wait()?.success(), printed?)),
        Err(_) => {
            for browser in proc::children(child.id())? {
                let _ = proc::kill(browser, "KILL");
            }
            child.kill()?;
            child.wait()?;
            bail!("not done within {} s", deadline.as_secs())
        }
    }
}
