//! A `tureen serve` of a test's own, on a port that the kernel picks. Ends with its owner.

use std::future::Future;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) struct Server {
    child: Child,
    pub(crate) authority: String,
}

/// The worker that was built with this server, or the one that `TUREEN_TEST_WORKER_BIN` names.
fn worker() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("TUREEN_TEST_WORKER_BIN") {
        return Ok(path.into());
    }
    let path = PathBuf::from(env!("CARGO_BIN_EXE_tureen")).with_file_name("tureen-worker");
    if !path.is_file() {
        bail!("there is no {}: cargo build -p worker", path.display());
    }
    Ok(path)
}

impl Server {
    pub(crate) async fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tureen"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--worker-bin"]).arg(worker()?).args(arguments);
        if !arguments.contains(&"--workers") {
            command.args(["--workers", "1"]);
        }
        command.envs(environment.iter().copied()).env("NO_COLOR", "1");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(child.stderr.take().context("stderr is piped")?).lines();
        let authority = tokio::time::timeout(DEADLINE, async {
            while let Some(line) = lines.next_line().await? {
                eprintln!("{line}");
                if let Some((_, rest)) = line.split_once("http://") {
                    return Ok(rest.split('/').next().unwrap_or_default().to_owned());
                }
            }
            bail!("the server ended before it named its address")
        })
        .await
        .context("no address in time")??;
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                eprintln!("{line}");
            }
        });
        Ok(Self { child, authority })
    }

    /// One plain GET; the whole answer.
    pub(crate) async fn get(&self, path: &str) -> Result<String> {
        self.request("GET", path, &[], "").await
    }

    /// One plain request with further header lines and a body, which may be empty; the whole answer.
    pub(crate) async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[&str],
        body: &str,
    ) -> Result<String> {
        let mut connection = TcpStream::connect(&self.authority).await?;
        let length = format!("Content-Length: {}", body.len());
        let host = format!("Host: {}", self.authority);
        let first = format!("{method} {path} HTTP/1.1");
        let mut lines = vec![&first, &host, "Connection: close", &length];
        lines.extend(headers);
        let request = format!("{}\r\n\r\n{body}", lines.join("\r\n"));
        connection.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        tokio::time::timeout(DEADLINE, connection.read_to_end(&mut answer)).await??;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    pub(crate) async fn metrics(&self) -> Result<String> {
        self.get("/metrics").await
    }

    fn pid(&self) -> Result<u32> {
        self.child.id().context("the server has ended")
    }

    /// The worker processes that run now.
    pub(crate) fn workers(&self) -> Result<Vec<u32>> {
        let parent = self.pid()?;
        let mut children = Vec::new();
        for entry in std::fs::read_dir("/proc")? {
            let Ok(pid) = entry?.file_name().to_string_lossy().parse::<u32>() else { continue };
            let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
            let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
            let mut fields = after_name.split_whitespace();
            let (state, ppid) = (fields.next(), fields.next());
            if ppid == Some(&parent.to_string()) && state != Some("Z") {
                children.push(pid);
            }
        }
        Ok(children)
    }

    pub(crate) fn terminate(&self) -> Result<()> {
        signal(self.pid()?, "TERM")
    }

    pub(crate) async fn ended(&mut self) -> Result<ExitStatus> {
        Ok(tokio::time::timeout(DEADLINE, self.child.wait()).await.context("still running")??)
    }
}

pub(crate) fn kill(pid: u32) -> Result<()> {
    signal(pid, "KILL")
}

/// It lives on, but does nothing.
pub(crate) fn stop(pid: u32) -> Result<()> {
    signal(pid, "STOP")
}

fn signal(pid: u32, name: &str) -> Result<()> {
    let status = std::process::Command::new("kill").args(["-s", name, &pid.to_string()]).status()?;
    if status.success() { Ok(()) } else { bail!("kill: {status}") }
}

/// Asks again and again until it is so: for what the server tells nobody.
pub(crate) async fn eventually<F, A>(what: &str, so: F) -> Result<()>
where
    F: Fn() -> A,
    A: Future<Output = Result<bool>>,
{
    let started = Instant::now();
    let mut pause = tokio::time::interval(Duration::from_millis(20));
    while started.elapsed() < DEADLINE {
        pause.tick().await;
        if so().await? {
            return Ok(());
        }
    }
    bail!("not so in time: {what}")
}
