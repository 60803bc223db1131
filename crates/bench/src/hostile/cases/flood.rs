//! TCP connections to the worker's ICE-TCP port, more than it takes: silent ones, half frames, a byte at a time, frames
//! of nothing. The limit holds, what proves nothing is closed, and every descriptor comes back.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use worker_protocol::wire::request::{self, Method};
use worker_protocol::wire::{response, transport, worker as wire};

use super::stage::Stage;

/// Connections that a worker takes at most.
const LIMIT: u64 = 4096;
/// A connection that shows no valid request within ten seconds is closed; the sweep comes some seconds later at most.
const UNPROVEN: Duration = Duration::from_secs(30);
/// Descriptors that this process wants besides.
const SPARE: usize = 200;

/// The WebRtcServer with the port that is flooded.
const SERVER: &str = "tcp-server";

/// Opens `size` connections, a quarter of each kind.
pub(super) fn run(stage: &mut Stage, size: usize) -> Result<()> {
    let address = listen(stage)?;
    let before = stage.descriptors_now()?;
    let size = size.min(descriptor_limit()?.saturating_sub(SPARE));
    let mut connections = Vec::with_capacity(size);
    let started = Instant::now();
    for index in 0..size {
        let mut stream = TcpStream::connect(address).with_context(|| format!("connection {index}"))?;
        stream.set_nonblocking(true)?;
        // What is refused is reset, perhaps before it could be written to.
        let _ = match index % 4 {
            0 => stream.write(&[]),
            // Half of a frame: what it announces never comes.
            1 => stream.write(&[0x03, 0xe8, 0, 1, 0, 84]),
            2 => stream.write(&[0]),
            // A frame of nothing, which nobody sends.
            _ => stream.write(&[0, 0]),
        };
        connections.push(stream);
    }
    stage.figures.insert("connections", size as u64);
    stage.figures.insert("connected_in_ms", u64::try_from(started.elapsed().as_millis())?);
    let malformed = (size / 4) as u64;
    if (size as u64) > LIMIT + malformed {
        stage.expect_counter("tcp_refused", 1)?;
    }
    stage.expect_counter("tcp_malformed", 1)?;
    let most = stage.descriptors_now()?.saturating_sub(before) as u64;
    stage.figures.insert("descriptors_at_once", most);
    ensure!(most <= LIMIT, "{most} connections are held, {LIMIT} are allowed");
    stage.figures.insert("memory_flooded_kb", stage.memory_kb()?);

    // The slow ones go on, a byte at a time, until they are closed like all others.
    let deadline = Instant::now() + UNPROVEN;
    let mut rounds = 0_u64;
    while !connections.is_empty() {
        ensure!(Instant::now() < deadline, "{} connections that prove nothing stay open", connections.len());
        rounds += 1;
        let slow = rounds.is_multiple_of(5);
        connections.retain_mut(|stream| !is_closed(stream, slow));
        std::thread::sleep(Duration::from_millis(100));
    }
    stage.figures.insert("closed_after_ms", u64::try_from(started.elapsed().as_millis())?);
    let body = wire::CloseWebRtcServerRequest { web_rtc_server_id: SERVER.into() };
    let body = request::Body::WorkerCloseWebRtcServerRequest(Box::new(body));
    stage.router.worker.request(Method::WorkerWebRtcServerClose, "", Some(body))?;
    Ok(())
}

/// Whether the worker closed a connection. `write` adds a byte.
fn is_closed(stream: &mut TcpStream, write: bool) -> bool {
    if write && stream.write(&[7]).is_err_and(|error| error.kind() != ErrorKind::WouldBlock) {
        return true;
    }
    let mut byte = [0];
    match stream.read(&mut byte) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
    }
}

/// A WebRtcServer with a TCP listener; its address.
fn listen(stage: &mut Stage) -> Result<SocketAddr> {
    let info = transport::ListenInfo {
        protocol: transport::Protocol::Tcp,
        ip: "127.0.0.1".into(),
        ..transport::ListenInfo::default()
    };
    let body =
        wire::CreateWebRtcServerRequest { web_rtc_server_id: SERVER.into(), listen_infos: Some(vec![info]) };
    let body = request::Body::WorkerCreateWebRtcServerRequest(Box::new(body));
    let worker = &mut stage.router.worker;
    worker.request(Method::WorkerCreateWebRtcServer, "", Some(body))?;
    match worker.request(Method::WebRtcServerDump, SERVER, None)? {
        Some(response::Body::WebRtcServerDumpResponse(dump)) => {
            let tcp = dump.tcp_servers.first().context("a TCP server was asked for")?;
            Ok(SocketAddr::new(tcp.ip.parse()?, tcp.port))
        }
        _ => bail!("the worker answered webRtcServer.dump with another body"),
    }
}

/// Descriptors that this process may have.
fn descriptor_limit() -> Result<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits")?;
    let line = limits.lines().find(|line| line.starts_with("Max open files")).context("no such limit")?;
    Ok(line.split_whitespace().nth(3).and_then(|soft| soft.parse().ok()).unwrap_or(1024))
}
