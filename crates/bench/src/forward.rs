//! CPU per forwarded packet of a worker, in units of a bare `sendto` (see [`crate::sendto`]).
//!
//! One publisher sends one stream to N receivers, each with a transport and a consumer of its own. The worker and the
//! bare sender are pinned to one core and take turns on it, window by window, so that both see the same machine; the
//! publisher and the checkers live on another. Receivers do not read: their buffers are full, and the kernel drops
//! what is sent to them after doing all of its work. A few are read, decrypted and checked number by number: a figure
//! in which they missed anything is marked as not valid.

use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rtc::srtp::Profile;
use serde::Serialize;

use crate::channel::Worker;
use crate::cpu;
use crate::endpoint::{Endpoint, Identity};
use crate::router::{Media, Router};
use crate::sendto::{Sendto, SendtoCost};
use crate::source::{Shape, Source, StreamCheck};

/// How many receivers are read and checked.
const CHECKED: usize = 4;
/// Sends before anything is measured, so that tables and buffers have their size.
const WARM_UP: Duration = Duration::from_secs(2);
/// A window of forwarding; after it comes a window of bare sending.
const WINDOW: Duration = Duration::from_secs(1);
const PUBLISHER_SSRC: u32 = 1_000;

/// What to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// The worker's executable.
    pub worker: PathBuf,
    /// Receivers.
    pub receivers: usize,
    /// Windows of one second.
    pub windows: usize,
    /// The stream.
    pub shape: Shape,
    /// The SRTP profile that receivers negotiate.
    pub profile: Profile,
    /// Whether consumers carry transport-wide sequence numbers.
    pub transport_cc: bool,
}

/// What came out.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The worker's executable.
    pub worker: PathBuf,
    /// `video` or `audio`.
    pub media: &'static str,
    /// Receivers.
    pub receivers: usize,
    /// The negotiated profile.
    pub profile: &'static str,
    /// Whether consumers carried transport-wide sequence numbers.
    pub transport_cc: bool,
    /// Packets that the worker was to forward in the measured windows.
    pub forwarded: u64,
    /// Bytes of one datagram, as a checked receiver got it.
    pub datagram_bytes: usize,
    /// The worker's CPU time a forwarded packet.
    pub worker_ns: f64,
    /// The bare `sendto`'s CPU time a datagram.
    pub sendto_ns: f64,
    /// The first in units of the second.
    pub units: f64,
    /// Numbers that checked receivers missed.
    pub missing: u64,
    /// Packets whose payload was not what was sent.
    pub damaged: u64,
    /// Packets that checked receivers got in all.
    pub checked: u64,
}

impl Report {
    /// Whether every checked packet arrived whole: only then the figure means something.
    pub fn is_valid(&self) -> bool {
        self.missing == 0 && self.damaged == 0 && self.checked > 0
    }
}

struct Receiver {
    socket: UdpSocket,
    endpoint: Endpoint,
}

/// Measures one worker.
///
/// # Errors
/// Where the worker refuses something, a handshake fails, or the machine has only one core.
pub fn run(options: &Options) -> Result<Report> {
    // On a thread of its own, so that the pinning ends with it.
    thread::scope(|scope| {
        scope.spawn(|| measure(options)).join().map_err(|_| anyhow::anyhow!("the measurement panicked"))?
    })
}

fn measure(options: &Options) -> Result<Report> {
    let cores = cpu::allowed_cores()?;
    let (&measured_core, &other_core) = match cores.as_slice() {
        [first, .., last] => (last, first),
        _ => bail!("two cores are needed: one for the worker, one for who feeds it"),
    };
    cpu::pin_current_thread(other_core)?;
    let worker = Worker::spawn(&options.worker, &["--logLevel=error"], &[])?;
    let pid = worker.pid();
    cpu::pin_process(pid, measured_core)?;

    let mut router = Router::new(worker, options.transport_cc)?;
    let identity = Arc::new(Identity::new(&[options.profile])?);
    let media = options.shape.media;
    let rtx = (media == Media::Video).then_some(PUBLISHER_SSRC + 1);
    let (publisher, publisher_transport) = connect(&mut router, &identity)?;
    let producer = router.produce(&publisher_transport, media, PUBLISHER_SSRC, rtx)?;
    let mut receivers = Vec::with_capacity(options.receivers);
    for i in 0..options.receivers {
        let (receiver, transport) = connect(&mut router, &identity)?;
        let ssrc = 100_000 + 2 * i as u32;
        router.consume(&transport, &producer, media, PUBLISHER_SSRC, ssrc, rtx.map(|_| ssrc + 1))?;
        receivers.push(receiver);
    }
    ensure!(
        receivers.iter().all(|r| r.endpoint.profile() == Some(options.profile)),
        "another SRTP profile came out"
    );
    let addresses: Vec<SocketAddr> =
        receivers.iter().map(|r| r.socket.local_addr()).collect::<Result<_, _>>()?;
    let checked = receivers.split_off(options.receivers.saturating_sub(CHECKED));
    for receiver in &receivers {
        shrink_buffer(&receiver.socket)?;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let checkers: Vec<_> = checked
        .into_iter()
        .map(|receiver| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || check(receiver, &stop))
        })
        .collect();

    let source = Source::new(options.shape, PUBLISHER_SSRC, media.payload_type(), None);
    let mut publisher = Publisher { receiver: publisher, source, next_frame: Instant::now() };
    publisher.send_for(WARM_UP)?;
    let size = datagram_size(options);
    let mut worker_cpu = Duration::ZERO;
    let mut bare = SendtoCost::default();
    let packets_before = publisher.source.packets();
    for _ in 0..options.windows {
        let before = cpu::process_time(pid)?;
        publisher.send_for(WINDOW)?;
        worker_cpu += cpu::process_time(pid)?.saturating_sub(before);
        bare.add(bare_window(size, &addresses, options.shape.packets_per_second() as usize, measured_core)?);
        publisher.next_frame = Instant::now();
    }
    let packets = publisher.source.packets() - packets_before;
    // The checkers stop once they have seen the last packet, or have waited for it in vain.
    stop.store(true, Ordering::Release);
    let mut report = Report {
        worker: options.worker.clone(),
        media: if media == Media::Video { "video" } else { "audio" },
        receivers: options.receivers,
        profile: options.profile.name(),
        transport_cc: options.transport_cc,
        forwarded: packets * options.receivers as u64,
        datagram_bytes: size,
        worker_ns: 0.0,
        sendto_ns: bare.ns_per_datagram(),
        units: 0.0,
        missing: 0,
        damaged: 0,
        checked: 0,
    };
    let last = publisher.source.packets();
    for checker in checkers {
        let outcome = checker.join().map_err(|_| anyhow::anyhow!("a checker panicked"))??;
        report.missing += outcome.stream.missing + last.saturating_sub(outcome.stream.highest());
        report.damaged += outcome.stream.damaged;
        report.checked += outcome.stream.received;
        ensure!(
            outcome.datagram_bytes == size,
            "datagrams have {} bytes, the bare sender sent {size}",
            outcome.datagram_bytes
        );
    }
    report.worker_ns = worker_cpu.as_nanos() as f64 / report.forwarded as f64;
    report.units = report.worker_ns / report.sendto_ns;
    Ok(report)
}

/// A new transport, its peer connected to it.
fn connect(router: &mut Router, identity: &Arc<Identity>) -> Result<(Receiver, String)> {
    let remote = router.web_rtc_transport()?;
    let socket = UdpSocket::bind("127.0.0.1:0").context("cannot bind a loopback socket")?;
    router.connect_web_rtc(&remote.id, identity.fingerprint())?;
    let mut endpoint = Endpoint::new(identity, &remote, Instant::now())?;
    endpoint
        .connect_blocking(&socket, Duration::from_secs(5))
        .context("a synthetic peer could not connect")?;
    Ok((Receiver { socket, endpoint }, remote.id))
}

/// The bytes of a full-size datagram: fixed header, one-byte extensions as the consumer writes them, payload, tag.
fn datagram_size(options: &Options) -> usize {
    // MID "0" (2 B), abs-send-time (4 B), transport-cc (3 B), padded to words, behind the extension's own word.
    let extensions = 2 + 4 + if options.transport_cc { 3 } else { 0 };
    12 + 4
        + usize::next_multiple_of(extensions, 4)
        + options.shape.payload_bytes
        + options.profile.rtp_overhead()
}

/// Bare sending runs on a thread of its own on the worker's core, while the worker has nothing to do.
fn bare_window(size: usize, addresses: &[SocketAddr], rounds: usize, core: usize) -> Result<SendtoCost> {
    thread::scope(|scope| {
        let window = scope.spawn(|| {
            cpu::pin_current_thread(core)?;
            Sendto::new(size)?.window(addresses, rounds)
        });
        window.join().map_err(|_| anyhow::anyhow!("the bare sender panicked"))?
    })
}

/// Leaves a receiver's buffer so small that it is always full.
fn shrink_buffer(socket: &UdpSocket) -> Result<()> {
    socket2::SockRef::from(socket).set_recv_buffer_size(1).context("cannot shrink a receive buffer")
}

struct Publisher {
    receiver: Receiver,
    source: Source,
    next_frame: Instant,
}

impl Publisher {
    /// Sends frames at their rate for `duration`, answering PLIs in between.
    fn send_for(&mut self, duration: Duration) -> Result<()> {
        let end = self.next_frame + duration;
        let interval = duration_of_frame(&self.source);
        let Receiver { socket, endpoint } = &mut self.receiver;
        while self.next_frame < end {
            endpoint.serve_until(socket, self.next_frame, |_| {})?;
            if endpoint.take_key_frame_request(self.source.ssrc()) {
                self.source.request_key_frame();
            }
            for packet in self.source.frame() {
                endpoint.send_rtp(socket, &packet.header, &packet.payload, packet.index)?;
            }
            self.next_frame += interval;
        }
        endpoint.serve_until(socket, end, |_| {})
    }
}

fn duration_of_frame(source: &Source) -> Duration {
    Duration::from_secs(1) / source.shape().frames_per_second
}

struct Outcome {
    stream: StreamCheck,
    datagram_bytes: usize,
}

/// Reads one receiver until told to stop and nothing comes any more.
fn check(mut receiver: Receiver, stop: &AtomicBool) -> Result<Outcome> {
    let mut outcome = Outcome { stream: StreamCheck::default(), datagram_bytes: 0 };
    // Quiet for longer than the worker could hold a packet, after the last was sent: all that comes has come.
    const QUIET: Duration = Duration::from_millis(300);
    loop {
        let before = outcome.stream.received;
        receiver.endpoint.serve_until(&receiver.socket, Instant::now() + QUIET, |rtp| {
            outcome.stream.note(rtp.payload);
            outcome.datagram_bytes = rtp.datagram_bytes;
        })?;
        if stop.load(Ordering::Acquire) && outcome.stream.received == before {
            return Ok(outcome);
        }
    }
}

/// Stock mediasoup-worker's figure for a comparable case, in units of a bare `sendto`, as `docs/performance.md` quotes
/// it: it was measured on another day, so only the ratio is given.
pub fn stock_units(media: Media) -> &'static str {
    match media {
        Media::Video => "2.6-2.9",
        Media::Audio => "3.0-3.3",
    }
}

/// Whether a path is an executable file, with a message that says what to do where it is not.
///
/// # Errors
/// Where there is no such file.
pub fn worker_exists(path: &Path) -> Result<()> {
    ensure!(
        path.is_file(),
        "there is no worker at {}: build it with `cargo build --release -p worker`",
        path.display()
    );
    Ok(())
}
