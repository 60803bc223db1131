//! Memory that a worker takes for its objects: the growth of its resident set over N of them, divided by N.
//!
//! The resident set (`Rss` of `/proc/PID/smaps_rollup`) is what a machine has to have. It counts what malloc holds back
//! of freed memory, which is why objects are made by the hundred, in the order of a real call: transports, their
//! handshakes, then consumers; what one step frees, the next may use. A few of everything are made before, so that code
//! and tables that are made once are not counted.
//!
//! "In traffic" is after ten seconds of it: consumers remember what they sent, and a producer's store of packets, which
//! they share, is full before they are made.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use rtc::srtp::Profile;
use serde::Serialize;

use super::client::Client;
use super::publishers::Publishers;
use super::stage::{IN_FLIGHT, Stage};
use crate::router::Media;
use crate::source::{Shape, Source};

/// Objects of each kind that are made before anything is measured.
const WARM_UP: usize = 20;
/// Traffic before consumers are weighed.
const TRAFFIC: Duration = Duration::from_secs(10);
/// The first consumer's SSRC.
const CONSUMER_SSRC: u32 = 100_000;

/// What to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// The worker's executable.
    pub worker: PathBuf,
    /// Objects of each kind.
    pub objects: usize,
    /// The SRTP profile that receivers negotiate.
    pub profile: Profile,
}

/// What came out, in bytes, of each kind for one object.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The worker's executable.
    pub worker: PathBuf,
    /// Objects of each kind.
    pub objects: usize,
    /// A worker with a Router and a WebRtcServer, nothing else.
    pub idle_worker: u64,
    /// A WebRtcTransport that nobody has connected to.
    pub transport_before_handshake: f64,
    /// The same after ICE and DTLS.
    pub transport_after_handshake: f64,
    /// A video consumer with RTX, in traffic.
    pub video_consumer: f64,
    /// An audio consumer, in traffic.
    pub audio_consumer: f64,
}

/// A stream that consumers are made of.
struct Produced {
    media: Media,
    producer: String,
    ssrc: u32,
}

/// Measures one worker.
///
/// # Errors
/// Where the worker refuses something or a handshake fails.
pub fn run(options: &Options) -> Result<Report> {
    super::on_a_thread(|| measure(options))
}

fn measure(options: &Options) -> Result<Report> {
    let mut stage = Stage::new(&options.worker, options.profile, false)?;
    let idle_worker = resident(stage.pid)?;
    let (video, video_stream) = publish(&mut stage, Shape::VIDEO, 1_000)?;
    let (audio, audio_stream) = publish(&mut stage, Shape::AUDIO, 2_000)?;
    let mut publishers = Publishers::new(vec![video_stream, audio_stream], Duration::ZERO);
    let mut next_ssrc = CONSUMER_SSRC;
    let mut clients = Vec::new();

    let warm_up = connect(&mut stage, WARM_UP, &mut clients)?.transports;
    consume(&mut stage, &warm_up, &video, &mut next_ssrc)?;
    consume(&mut stage, &warm_up, &audio, &mut next_ssrc)?;
    publishers.send_for(TRAFFIC, &mut Vec::new())?;

    let before = resident(stage.pid)?;
    let Connected { transports, created } = connect(&mut stage, options.objects, &mut clients)?;
    let connected = resident(stage.pid)?;
    consume(&mut stage, &transports, &video, &mut next_ssrc)?;
    publishers.send_for(TRAFFIC, &mut Vec::new())?;
    let with_video = resident(stage.pid)?;
    consume(&mut stage, &transports, &audio, &mut next_ssrc)?;
    publishers.send_for(TRAFFIC, &mut Vec::new())?;
    let with_audio = resident(stage.pid)?;

    let each = |from: u64, to: u64| (to as f64 - from as f64) / options.objects as f64;
    Ok(Report {
        worker: options.worker.clone(),
        objects: options.objects,
        idle_worker,
        transport_before_handshake: each(before, created),
        transport_after_handshake: each(before, connected),
        video_consumer: each(connected, with_video),
        audio_consumer: each(with_video, with_audio),
    })
}

fn publish(stage: &mut Stage, shape: Shape, ssrc: u32) -> Result<(Produced, (Client, Source))> {
    let media = shape.media;
    let (client, transport) = stage.connect()?;
    let producer = stage.router.produce(&transport, media, ssrc, rtx(media, ssrc))?;
    let source = Source::new(shape, ssrc, media.payload_type(), None);
    Ok((Produced { media, producer, ssrc }, (client, source)))
}

fn rtx(media: Media, ssrc: u32) -> Option<u32> {
    (media == Media::Video).then_some(ssrc + 1)
}

struct Connected {
    transports: Vec<String>,
    /// The worker's resident set before the first handshake.
    created: u64,
}

/// Transports with peers that do not read.
fn connect(stage: &mut Stage, count: usize, clients: &mut Vec<Client>) -> Result<Connected> {
    let waiting = stage.transports(count)?;
    let created = resident(stage.pid)?;
    for remote in &waiting {
        let client = stage.handshake(remote)?;
        client.shrink_buffer()?;
        clients.push(client);
    }
    Ok(Connected { transports: waiting.into_iter().map(|remote| remote.id).collect(), created })
}

fn consume(stage: &mut Stage, transports: &[String], of: &Produced, next_ssrc: &mut u32) -> Result<()> {
    let mut asks = Vec::with_capacity(transports.len());
    for transport in transports {
        let ssrc = *next_ssrc;
        *next_ssrc += 2;
        let rtx = rtx(of.media, ssrc);
        asks.push(stage.router.consume_ask(transport, &of.producer, of.media, of.ssrc, ssrc, rtx).1);
    }
    stage.router.worker.pipeline(asks, IN_FLIGHT)?;
    Ok(())
}

/// The resident set of a process, in bytes.
fn resident(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).context("no Rss")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().context("Rss is no number")?;
    Ok(kib * 1_024)
}
