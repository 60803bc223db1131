//! The worker's CPU time for a request, with 50 in flight, in units of a bare `sendto` of a video datagram.
//!
//! Rounds of N createWebRtcTransport, connect (the answer to which needs no handshake: nobody comes), produce (VP8 with
//! RTX, one on each transport) and consume (of one producer, one on each transport). A round ends with the transports
//! closed; the first is not counted.

use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use rtc::srtp::Profile;
use serde::Serialize;

use super::fan_out::overhead;
use super::stage::{IN_FLIGHT, Stage};
use crate::channel::Ask;
use crate::router::{Media, RemoteTransport, Router};
use crate::sendto::SendtoCost;
use crate::source::Shape;

/// Counted rounds.
const ROUNDS: usize = 4;
/// Sockets that the bare sender sends to, and datagrams to each a round.
const BARE: (usize, usize) = (200, 200);
const PRODUCER_SSRC: u32 = 1_000;

/// What to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// The worker's executable.
    pub worker: PathBuf,
    /// Requests of each kind a round.
    pub requests: usize,
}

/// What came out.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The worker's executable.
    pub worker: PathBuf,
    /// Requests of each kind in all.
    pub requests: usize,
    /// The bare `sendto`'s CPU time.
    pub sendto_ns: f64,
    /// Units of it for createWebRtcTransport, connect, produce, consume.
    pub units: [f64; 4],
    /// The worker's CPU time for each of them, in nanoseconds.
    pub worker_ns: [f64; 4],
}

/// Measures one worker.
///
/// # Errors
/// Where the worker refuses something.
pub fn run(options: &Options) -> Result<Report> {
    super::on_a_thread(|| measure(options))
}

fn measure(options: &Options) -> Result<Report> {
    let profile = Profile::AeadAes256Gcm;
    let mut stage = Stage::new(&options.worker, profile, false)?;
    let (publisher, transport) = stage.connect()?;
    let producer = stage.router.produce(&transport, Media::Video, PRODUCER_SSRC, Some(PRODUCER_SSRC + 1))?;
    let sockets: Vec<UdpSocket> =
        (0..BARE.0).map(|_| UdpSocket::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    for socket in &sockets {
        socket2::SockRef::from(socket).set_recv_buffer_size(1).context("cannot shrink a receive buffer")?;
    }
    let addresses: Vec<SocketAddr> = sockets.iter().map(UdpSocket::local_addr).collect::<Result<_, _>>()?;
    let sizes = vec![Shape::VIDEO.payload_bytes + overhead(false, profile); BARE.1];

    let mut bare = SendtoCost::default();
    let mut total = [Duration::ZERO; 4];
    for round in 0..=ROUNDS {
        let times = one_round(&mut stage, options.requests, &producer)?;
        if round > 0 {
            total.iter_mut().zip(times).for_each(|(total, time)| *total += time);
            bare.add(stage.bare_window(&addresses, &sizes)?);
        }
    }
    drop(publisher);
    let requests = ROUNDS * options.requests;
    let worker_ns = total.map(|time| time.as_nanos() as f64 / requests as f64);
    Ok(Report {
        worker: options.worker.clone(),
        requests,
        sendto_ns: bare.ns_per_datagram(),
        units: worker_ns.map(|ns| ns / bare.ns_per_datagram()),
        worker_ns,
    })
}

fn one_round(stage: &mut Stage, count: usize, producer: &str) -> Result<[Duration; 4]> {
    let (ids, create): (Vec<_>, Vec<_>) = (0..count).map(|_| stage.router.web_rtc_transport_ask()).unzip();
    let begin = stage.worker_time()?;
    let answers = stage.router.worker.pipeline(create, IN_FLIGHT)?;
    let created = stage.worker_time()? - begin;
    let transports: Vec<RemoteTransport> = ids
        .into_iter()
        .zip(answers)
        .map(|(id, answer)| RemoteTransport::of(id, answer))
        .collect::<Result<_>>()?;

    let fingerprint = stage.fingerprint().to_owned();
    let connect = transports.iter().map(|t| Router::connect_web_rtc_ask(&t.id, &fingerprint)).collect();
    let connected = cost(stage, connect)?;

    let ssrc = |i: usize| 1_000_000 + 2 * i as u32;
    let mut asks = Vec::with_capacity(count);
    for (i, transport) in transports.iter().enumerate() {
        let (_, ask) = stage.router.produce_ask(&transport.id, Media::Video, ssrc(i), Some(ssrc(i) + 1));
        asks.push(ask);
    }
    let produced = cost(stage, asks)?;

    let mut asks = Vec::with_capacity(count);
    for (i, transport) in transports.iter().enumerate() {
        let rtx = Some(ssrc(i) + 1);
        let (_, ask) =
            stage.router.consume_ask(&transport.id, producer, Media::Video, PRODUCER_SSRC, ssrc(i), rtx);
        asks.push(ask);
    }
    let consumed = cost(stage, asks)?;
    for transport in &transports {
        stage.router.close_transport(&transport.id)?;
    }
    Ok([created, connected, produced, consumed])
}

fn cost(stage: &mut Stage, asks: Vec<Ask>) -> Result<Duration> {
    let before = stage.worker_time()?;
    stage.router.worker.pipeline(asks, IN_FLIGHT)?;
    Ok(stage.worker_time()?.saturating_sub(before))
}
