//! CPU per forwarded packet of a worker.
//!
//! One or more publishers send a stream each to N receivers, each of which has a transport of its own and a consumer
//! per stream. Windows of forwarding and of bare sending take turns; the bare sender sends datagrams of the sizes that
//! were just forwarded, each to every receiver, one `sendto` a datagram. A third window sends them bare at the worker's times
//! ([`super::floor`]). Receivers do not read: their buffers are full,
//! and the kernel drops what is sent to them after doing all of its work, cutting a run of segments included. A few are
//! read and checked; with [`Hearing::All`] every one is.
//!
//! Feedback comes from the thread that reads all receivers, on the other core: the kernel does the work of sending it
//! there, and the worker pays for reading it, authenticating it and what it makes of it. Arrivals are those of the
//! kernel's stamps, so that reading each five milliseconds does not look like jitter.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use rtc::srtp::Profile;
use serde::Serialize;

use super::floor;
use super::listeners::{Listener, Listening};
use super::publishers::Publishers;
use super::stage::Stage;
use crate::recording::Recording;
use crate::router::Media;
use crate::sendto::SendtoCost;
use crate::source::{Shape, Source};

/// How many receivers are read and checked.
const CHECKED: usize = 4;
/// Sends before anything is measured, so that tables and buffers have their size.
const WARM_UP: Duration = Duration::from_secs(2);
/// A window of forwarding; after it comes a window of bare sending.
const WINDOW: Duration = Duration::from_secs(1);
/// The first publisher's SSRC; the next are ten apart.
const PUBLISHER_SSRC: u32 = 1_000;
/// The first consumer's SSRC.
const CONSUMER_SSRC: u32 = 100_000;

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// One publisher: 30 frames/s of 6 x 1,100 B.
    Video,
    /// One publisher: what Chromium sent of 1280x720 in VP8, packet by packet at its time.
    Chromium,
    /// One publisher: 50 packets/s of 100 B.
    Audio,
    /// Six publishers of such audio. Each begins each window at a moment of its own within 20 ms, drawn anew (from a
    /// fixed seed): the figure is a mean over phases, not the luck of one draw.
    Speakers,
}

/// Who reads what is forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hearing {
    /// Four receivers read, the others' buffers are full.
    Few,
    /// All receivers read.
    All,
    /// All receivers read and answer with transport-cc feedback, each at an interval of its own from 50 to 100 ms.
    AllWithFeedback,
}

/// What to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// The worker's executable.
    pub worker: PathBuf,
    /// The streams.
    pub content: Content,
    /// Receivers.
    pub receivers: usize,
    /// Windows of one second.
    pub windows: usize,
    /// The SRTP profile that receivers negotiate.
    pub profile: Profile,
    /// Whether consumers carry transport-wide sequence numbers.
    pub transport_cc: bool,
    /// Who reads.
    pub hearing: Hearing,
}

/// What came out.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The worker's executable.
    pub worker: PathBuf,
    /// What was sent.
    pub content: &'static str,
    /// Receivers.
    pub receivers: usize,
    /// Streams that each of them received.
    pub streams: usize,
    /// The negotiated profile.
    pub profile: &'static str,
    /// Whether consumers carried transport-wide sequence numbers.
    pub transport_cc: bool,
    /// Transport-cc feedback packets that receivers sent.
    pub feedback_packets: u64,
    /// Packets that the worker was to forward in the measured windows.
    pub forwarded: u64,
    /// Bytes of a datagram on average, as checked receivers got them.
    pub datagram_bytes: f64,
    /// The worker's CPU time a forwarded packet.
    pub worker_ns: f64,
    /// The bare `sendto`'s CPU time a datagram.
    pub sendto_ns: f64,
    /// The first in units of the second.
    pub units: f64,
    /// What the kernel alone costs a datagram at these times, in these runs.
    pub floor_ns: f64,
    /// That in the same units.
    pub floor_units: f64,
    /// Numbers that checked receivers missed.
    pub missing: u64,
    /// Packets whose payload was not what was sent.
    pub damaged: u64,
    /// Packets that checked receivers got in all.
    pub checked: u64,
}

impl Content {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Video => "video",
            Self::Chromium => "chromium",
            Self::Audio => "audio",
            Self::Speakers => "speakers",
        }
    }

    fn media(self) -> Media {
        match self {
            Self::Video | Self::Chromium => Media::Video,
            Self::Audio | Self::Speakers => Media::Audio,
        }
    }

    /// How many streams there are, and within what time they begin.
    fn streams(self) -> (usize, Duration) {
        match self {
            Self::Video | Self::Chromium | Self::Audio => (1, Duration::ZERO),
            Self::Speakers => (6, Shape::AUDIO.interval()),
        }
    }

    fn source(self, ssrc: u32) -> Result<Source> {
        let payload_type = self.media().payload_type();
        Ok(match self {
            Self::Video => Source::new(Shape::VIDEO, ssrc, payload_type, None),
            Self::Audio | Self::Speakers => Source::new(Shape::AUDIO, ssrc, payload_type, None),
            Self::Chromium => Source::replay(Arc::new(Recording::chromium_vp8_720p()?), ssrc, payload_type),
        })
    }
}

impl Report {
    /// Whether every checked packet arrived whole: only then the figure means something.
    pub fn is_valid(&self) -> bool {
        self.missing == 0 && self.damaged == 0 && self.checked > 0
    }
}

/// Measures one worker.
///
/// # Errors
/// Where the worker refuses something, a handshake fails, or the machine has only one core.
pub fn run(options: &Options) -> Result<Report> {
    super::on_a_thread(|| measure(options))
}

fn measure(options: &Options) -> Result<Report> {
    let mut stage = Stage::new(&options.worker, options.profile, options.transport_cc)?;
    let media = options.content.media();
    let (stream_count, phases) = options.content.streams();
    let rtx = |ssrc| (media == Media::Video).then_some(ssrc + 1);
    let mut streams = Vec::new();
    let mut producers = Vec::new();
    for i in 0..stream_count {
        let (client, transport) = stage.connect()?;
        let ssrc = PUBLISHER_SSRC + 10 * i as u32;
        producers.push((stage.router.produce(&transport, media, ssrc, rtx(ssrc))?, ssrc));
        streams.push((client, options.content.source(ssrc)?));
    }
    let mut addresses: Vec<SocketAddr> = Vec::with_capacity(options.receivers);
    let mut deaf = Vec::new();
    let mut checked = Vec::new();
    for i in 0..options.receivers {
        let (client, transport) = stage.connect()?;
        addresses.push(client.address()?);
        let ssrc_of = |stream: usize| CONSUMER_SSRC + 2 * (i * stream_count + stream) as u32;
        for (stream, (producer, producer_ssrc)) in producers.iter().enumerate() {
            let ssrc = ssrc_of(stream);
            stage.router.consume(&transport, producer, media, *producer_ssrc, ssrc, rtx(ssrc))?;
        }
        if options.hearing != Hearing::Few || is_checked(i, options.receivers) {
            client.widen_buffer()?;
            let mut listener = Listener::new(client, (0..stream_count).map(ssrc_of))?;
            if options.hearing == Hearing::AllWithFeedback {
                listener.give_feedback(i as f64 / options.receivers as f64);
            }
            checked.push(listener);
        } else {
            client.shrink_buffer()?;
            deaf.push(client);
        }
    }

    let listening = Listening::start(checked, stage.other_core)?;
    let mut publishers = Publishers::new(streams, phases);
    publishers.send_for(WARM_UP, &mut Vec::new())?;
    let overhead = overhead(options.transport_cc, options.profile);
    let mut worker_cpu = Duration::ZERO;
    let mut bare = SendtoCost::default();
    let mut floor = SendtoCost::default();
    let mut packets = 0;
    for _ in 0..options.windows {
        let mut departures = Vec::new();
        let before = stage.worker_time()?;
        publishers.send_for(WINDOW, &mut departures)?;
        worker_cpu += stage.worker_time()?.saturating_sub(before);
        packets += departures.len();
        departures.iter_mut().for_each(|departure| departure.size += overhead);
        let sizes: Vec<_> = departures.iter().map(|departure| departure.size).collect();
        bare.add(stage.bare_window(&addresses, &sizes)?);
        floor.add(stage.on_worker_core(|| floor::window(&addresses, &departures))?);
    }
    let listeners = listening.finish()?;
    drop(deaf);

    let forwarded = (packets * options.receivers) as u64;
    let worker_ns = worker_cpu.as_nanos() as f64 / forwarded as f64;
    let mut report = Report {
        worker: options.worker.clone(),
        content: options.content.name(),
        receivers: options.receivers,
        streams: stream_count,
        profile: options.profile.name(),
        transport_cc: options.transport_cc,
        feedback_packets: listeners.iter().map(Listener::feedback_packets).sum(),
        forwarded,
        datagram_bytes: 0.0,
        worker_ns,
        sendto_ns: bare.ns_per_datagram(),
        units: worker_ns / bare.ns_per_datagram(),
        floor_ns: floor.ns_per_datagram(),
        floor_units: floor.ns_per_datagram() / bare.ns_per_datagram(),
        missing: 0,
        damaged: 0,
        checked: 0,
    };
    let sent: Vec<u64> = publishers.sent().map(|(_, packets)| packets).collect();
    let mut bytes = 0;
    for listener in &listeners {
        bytes += listener.bytes;
        let mut ssrcs: Vec<_> = listener.streams.iter().collect();
        ssrcs.sort_by_key(|(ssrc, _)| **ssrc);
        for ((_, stream), sent) in ssrcs.into_iter().zip(&sent) {
            report.missing += sent.saturating_sub(stream.received);
            report.damaged += stream.damaged;
            report.checked += stream.received;
        }
    }
    ensure!(report.checked > 0, "nothing was received");
    report.datagram_bytes = bytes as f64 / report.checked as f64;
    Ok(report)
}

/// Whether receiver `i` is one of the few that are checked: the last of each quarter, as late as any in the order in
/// which consumers were made.
pub(super) fn is_checked(i: usize, receivers: usize) -> bool {
    (i + 1) * CHECKED / receivers > i * CHECKED / receivers
}

/// What forwarding adds to a payload: fixed header, one-byte extensions as the consumer writes them, tag.
pub(super) fn overhead(transport_cc: bool, profile: Profile) -> usize {
    // MID "0" (2 B), abs-send-time (4 B), transport-cc (3 B), padded to words, behind the extension's own word.
    let extensions = 2 + 4 + if transport_cc { 3 } else { 0 };
    12 + 4 + usize::next_multiple_of(extensions, 4) + profile.rtp_overhead()
}
