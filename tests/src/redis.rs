//! A redis-server of a test's own: on a free port of loopback, nothing on disk, killed with its owner.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// From start to the line that says that it listens.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// A port that was free may be taken before redis-server comes to it.
const START_ATTEMPTS: usize = 5;

/// A running redis-server.
#[derive(Debug)]
pub struct Redis {
    address: SocketAddr,
    child: Child,
}

impl Redis {
    /// Starts one.
    pub fn start() -> Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST)
    }

    /// Starts one at an address that others reach, without a password: in a namespace of the test's own.
    pub fn start_at(ip: Ipv4Addr) -> Result<Self> {
        let mut last = None;
        for _ in 0..START_ATTEMPTS {
            let address = TcpListener::bind((ip, 0))?.local_addr()?;
            match spawn(address) {
                Ok(child) => return Ok(Self { address, child }),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no attempt was made")?)
    }

    /// Where it is, as `--redis` wants it.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Kills it as the kernel would for want of memory.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts it again at the same address, with nothing in it.
    pub fn restart(&mut self) -> Result<()> {
        self.child = spawn(self.address)?;
        Ok(())
    }

    /// Runs one command and returns the answer's lines as they come, arrays flattened.
    pub fn command(&self, words: &[&str]) -> Result<Vec<String>> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(READY_WITHIN))?;
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        stream.write_all(request.as_bytes())?;
        let mut lines = Vec::new();
        read_reply(&mut BufReader::new(stream), &mut lines)?;
        Ok(lines)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One reply of the protocol's second version.
fn read_reply(stream: &mut impl BufRead, lines: &mut Vec<String>) -> Result<()> {
    let mut head = String::new();
    stream.read_line(&mut head)?;
    let head = head.trim_end();
    let Some((kind, rest)) = head.split_at_checked(1) else { bail!("redis-server closed the connection") };
    match kind {
        "+" | ":" => lines.push(rest.to_owned()),
        "-" => bail!("redis-server says {rest}"),
        "$" if rest == "-1" => {}
        "$" => {
            let mut text = vec![0; rest.parse::<usize>()? + 2];
            stream.read_exact(&mut text)?;
            text.truncate(text.len() - 2);
            lines.push(String::from_utf8(text)?);
        }
        "*" => {
            for _ in 0..rest.parse::<i64>()?.max(0) {
                read_reply(stream, lines)?;
            }
        }
        _ => bail!("no reply of redis-server's: {head:?}"),
    }
    Ok(())
}

fn spawn(address: SocketAddr) -> Result<Child> {
    let mut child = Command::new("redis-server")
        .args(["--bind", &address.ip().to_string(), "--port", &address.port().to_string()])
        .args(["--save", "", "--appendonly", "no", "--daemonize", "no", "--protected-mode", "no"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start redis-server: `cargo xtask test` installs it")?;
    let stdout = child.stdout.take().context("stdout is piped")?;
    let (sender, ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut said = String::new();
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if line.contains("Ready to accept connections") {
                let _ = sender.send(Ok(()));
            }
            said.push_str(&line);
        }
        let _ = sender.send(Err(said));
    });
    let begun = Instant::now();
    match ready.recv_timeout(READY_WITHIN) {
        Ok(Ok(())) => Ok(child),
        other => {
            let _ = child.kill();
            let _ = child.wait();
            ensure!(begun.elapsed() < READY_WITHIN, "redis-server does not come up");
            bail!("redis-server ended: {other:?}")
        }
    }
}
