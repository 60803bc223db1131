//! A server for a measurement: `tureen serve` in release, followed until it names its address, ended with its owner.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{process, workspace};

/// How long a started server may take to name its address, and then to answer.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Server {
    child: Child,
    authority: String,
    log: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts it and waits for its address. Its log goes to our stderr.
    pub(crate) fn start(arguments: &[String]) -> Result<Self> {
        let mut child = process::command(workspace::target()?.join("release/tureen"))
            .arg("serve")
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start the server")?;
        let stderr = child.stderr.take().context("stderr is piped")?;
        let (sender, lines) = mpsc::channel();
        let log = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                eprintln!("    {line}");
                // Once the address is known nobody listens any more.
                let _ = sender.send(line);
            }
        });
        let mut server = Self { child, authority: String::new(), log: Some(log) };
        loop {
            let line = lines.recv_timeout(PATIENCE).context("the server named no address")?;
            if line.contains("https://") {
                bail!("measured over plain HTTP only; leave --tls-cert and --tls-key out");
            }
            if let Some(named) = authority(&line) {
                server.authority = named.to_owned();
                return Ok(server);
            }
        }
    }

    /// `host:port`.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks for the page; anything else than the page is an error.
    pub(crate) fn page(&self) -> Result<()> {
        let authority = &self.authority;
        let address =
            authority.to_socket_addrs()?.next().with_context(|| format!("{authority} is no address"))?;
        let mut connection = TcpStream::connect_timeout(&address, PATIENCE)?;
        connection.set_read_timeout(Some(PATIENCE))?;
        write!(connection, "GET / HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer);
        if !answer.starts_with("HTTP/1.1 200") || !answer.contains("<script") {
            bail!("no page at {authority}: {}", answer.lines().next().unwrap_or("an empty answer"));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        process::succeeds(process::command("kill").arg("-TERM").arg(self.pid().to_string()));
        let _ = self.child.wait();
        if let Some(log) = self.log.take() {
            let _ = log.join();
        }
    }
}

/// `host:port` of the first http URL in a line.
fn authority(line: &str) -> Option<&str> {
    let rest = &line[line.find("http://")? + "http://".len()..];
    let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || ".:[]-".contains(c))).unwrap_or(rest.len());
    Some(&rest[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authority_is_what_follows_the_scheme() {
        assert_eq!(authority("INFO listening on http://127.0.0.1:4443/ now"), Some("127.0.0.1:4443"));
        assert_eq!(authority("http://[::1]:80"), Some("[::1]:80"));
        assert_eq!(authority("nothing here"), None);
    }
}
