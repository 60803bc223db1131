//! How the server can be reached: loopback only by default, TLS when told, and a clean end.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use tests::{Certificate, Server, listening};

/// One GET over plain HTTP; returns the whole answer.
fn get(server: &Server, path: &str) -> Result<String> {
    let mut connection = TcpStream::connect(server.authority())?;
    connection.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(connection, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", server.authority())?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[test]
fn without_tls_everything_is_bound_to_loopback_and_the_log_says_so() -> Result<()> {
    let server = Server::start()?;
    let mut sockets = listening(server.pid())?;
    for worker in server.workers()? {
        sockets.extend(listening(worker)?);
    }
    assert!(sockets.iter().any(|socket| socket.protocol == "tcp"), "the page is served: {sockets:?}");
    assert!(sockets.iter().any(|socket| socket.protocol == "udp"), "media is received: {sockets:?}");
    let open: Vec<_> = sockets.iter().filter(|socket| !socket.address.ip().is_loopback()).collect();
    assert!(open.is_empty(), "reachable from outside: {open:?}");
    server.wait_for_log(Duration::from_secs(5), |line| line.contains("loopback").then_some(()))?;
    Ok(())
}

#[test]
fn the_page_is_served_from_the_binary() -> Result<()> {
    let server = Server::start()?;
    let answer = get(&server, "/")?;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("<script"), "a page with a script: {answer}");
    Ok(())
}

#[test]
fn sigterm_ends_the_server_and_its_workers() -> Result<()> {
    let server = Server::start()?;
    let workers = server.workers()?;
    assert!(!workers.is_empty());
    let status = server.stop()?;
    assert!(status.success(), "a clean end: {status}");
    for worker in workers {
        assert!(!tests::alive(worker), "worker {worker} outlives its server");
    }
    Ok(())
}

#[test]
fn the_page_is_served_over_tls_with_the_given_certificate() -> Result<()> {
    let certificate = Certificate::new()?;
    let server = Server::options()
        .set("--tls-cert", certificate.path())
        .set("--tls-key", certificate.key())
        .start()?;
    assert!(server.url().starts_with("https://"), "{}", server.url());
    let port = server.authority().rsplit_once(':').context("an address with a port")?.1;
    let mut client = Command::new("openssl")
        .args(["s_client", "-quiet", "-verify_return_error", "-servername", "localhost"])
        .args(["-connect", &format!("127.0.0.1:{port}")])
        .arg("-CAfile")
        .arg(certificate.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start openssl: apt-get install openssl")?;
    let mut stdin = client.stdin.take().context("stdin is piped")?;
    stdin.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    client.stdout.take().context("stdout is piped")?.read_to_string(&mut answer)?;
    drop(stdin);
    client.wait()?;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:.200}");
    Ok(())
}

#[test]
fn an_unknown_setting_is_refused_before_anything_is_bound() -> Result<()> {
    let server = Server::options().arg("--no-such-setting").spawn()?;
    let status = server.wait(Duration::from_secs(10))?;
    assert!(!status.success());
    Ok(())
}
