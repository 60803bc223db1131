//! Data messages between real clients, beside their media.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tests::{Server, python as interpreter, root};

/// Two peers, both directions, the longest messages and a picture.
const DEADLINE: Duration = Duration::from_secs(110);

/// Runs tests/python/NAME.py and returns the JSON line that it ends with.
fn python(name: &str, arguments: &[&str]) -> Result<Value> {
    let script = root().join("tests/python").join(format!("{name}.py"));
    let mut child = Command::new(interpreter()?)
        .arg(script)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start Python")?;
    let stdout = child.stdout.take().context("stdout is piped")?;
    let (sender, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(std::io::read_to_string(stdout)));
    let started = Instant::now();
    let said = ended.recv_timeout(DEADLINE);
    if said.is_err() {
        child.kill()?;
    }
    child.wait()?;
    let said = said.with_context(|| format!("{name}.py is not done after {:?}", started.elapsed()))??;
    let line = said.lines().last().with_context(|| format!("{name}.py said nothing"))?;
    let said: Value = serde_json::from_str(line).with_context(|| format!("{name}.py said {line}"))?;
    if said["ok"] != true {
        bail!("{name}.py: {}", said["error"]);
    }
    println!("{line}");
    Ok(said)
}

#[test]
fn pymediasoup_peers_exchange_messages_and_media() -> Result<()> {
    let server = Server::start()?;
    let url = format!("ws://{}", server.authority());
    let said = python("peers", &[&url, "python"])
        .with_context(|| format!("the log ends:\n{}", server.log_tail()))?;
    let directions = said["directions"].as_array().context("both directions are told of")?;
    ensure!(directions.len() == 2, "{said}");
    ensure!(directions.iter().all(|one| one["messages"].as_u64() > Some(600)), "{said}");
    Ok(())
}
