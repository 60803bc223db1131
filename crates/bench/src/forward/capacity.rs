//! How many video packets a second a worker forwards on one core before it loses any, and what latency it adds at half
//! that load.
//!
//! Ten publishers of 6 x 1,100 B a frame, each frame at moments of its own, 200 receivers with a consumer of each.
//! The frame rate is raised by 5% a step, from a fifth of what bare `sendto` reaches on the worker's core (a second divided
//! by the CPU time of one). A step lasts two seconds; it is passed when eight receivers, spread over the order in which they
//! were made, got every packet. A step that fails is tried three times, lest a hiccup of the machine be taken for the
//! worker's limit; the figure is the rate, as sent, of the last step that was passed. What is lost before the worker,
//! because it does not empty its socket in time, counts like what is lost in it.
//!
//! Latency is from just before the publisher's `sendto` to the kernel's stamp in the receiver's socket, by one clock: the
//! time in which the receivers' thread wakes up is not in it, every wait in the worker is.
//!
//! Both figures are about time, so the worker and the bench run at the highest priority where that is permitted.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;
use rtc::srtp::Profile;
use serde::Serialize;

use super::client::Client;
use super::fan_out::overhead;
use super::listeners::{Listener, Listening};
use super::publishers::Publishers;
use super::stage::{IN_FLIGHT, Stage};
use crate::router::Media;
use crate::sendto::SendtoCost;
use crate::source::{Shape, Source};

const STREAMS: usize = 10;
/// Receivers that read and are checked.
const CHECKED: usize = 8;
/// Each step is so many times the one before; the first, in shares of what bare sending reaches.
const STEP: f64 = 1.05;
const FIRST_STEP: f64 = 0.2;
const STEP_TIME: Duration = Duration::from_secs(2);
const TRIES: usize = 3;
/// How long latency is measured.
const LATENCY_TIME: Duration = Duration::from_secs(10);
/// Datagrams of a bare window to each receiver.
const BARE: usize = 100;
const PRODUCER_SSRC: u32 = 1_000;
const CONSUMER_SSRC: u32 = 100_000;

/// What to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// The worker's executable.
    pub worker: PathBuf,
    /// Receivers.
    pub receivers: usize,
    /// The SRTP profile that receivers negotiate.
    pub profile: Profile,
}

/// What came out.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The worker's executable.
    pub worker: PathBuf,
    /// Receivers.
    pub receivers: usize,
    /// Whether the highest priority was permitted.
    pub preferred: bool,
    /// Datagrams a second that bare `sendto` reaches.
    pub sendto_per_second: f64,
    /// Packets a second that were forwarded without a loss.
    pub packets_per_second: f64,
    /// The second in units of the first.
    pub units: f64,
    /// The share of its core that the worker used at that rate.
    pub core_share: f64,
    /// The rate at which latency was measured.
    pub latency_packets_per_second: f64,
    /// Median latency, in milliseconds.
    pub latency_p50_ms: f64,
    /// 99th percentile.
    pub latency_p99_ms: f64,
    /// Packets that checked receivers missed while latency was measured.
    pub missing: u64,
}

/// Measures one worker.
///
/// # Errors
/// Where the worker refuses something, or loses packets at the lowest load.
pub fn run(options: &Options) -> Result<Report> {
    super::on_a_thread(|| measure(options))
}

struct Run {
    stage: Stage,
    publishers: Publishers,
    listeners: Vec<Listener>,
    receivers: usize,
    /// Full buffers: nobody reads.
    _deaf: Vec<Client>,
}

struct Step {
    packets_per_second: f64,
    core_share: f64,
    missing: u64,
}

fn measure(options: &Options) -> Result<Report> {
    let mut stage = Stage::new(&options.worker, options.profile, false)?;
    let mut producers = Vec::new();
    let mut streams = Vec::new();
    for i in 0..STREAMS {
        let (client, transport) = stage.connect()?;
        let ssrc = PRODUCER_SSRC + 10 * i as u32;
        producers.push((stage.router.produce(&transport, Media::Video, ssrc, Some(ssrc + 1))?, ssrc));
        streams.push((client, Source::new(Shape::VIDEO, ssrc, Media::Video.payload_type(), None)));
    }
    let mut addresses: Vec<SocketAddr> = Vec::with_capacity(options.receivers);
    let mut deaf = Vec::new();
    let mut listeners = Vec::new();
    for i in 0..options.receivers {
        let (client, transport) = stage.connect()?;
        addresses.push(client.address()?);
        let ssrc_of = |stream: usize| CONSUMER_SSRC + 2 * (i * STREAMS + stream) as u32;
        let mut asks = Vec::new();
        for (stream, (producer, producer_ssrc)) in producers.iter().enumerate() {
            let ssrc = ssrc_of(stream);
            let rtx = Some(ssrc + 1);
            let video = Media::Video;
            asks.push(stage.router.consume_ask(&transport, producer, video, *producer_ssrc, ssrc, rtx).1);
        }
        stage.router.worker.pipeline(asks, IN_FLIGHT)?;
        if (i + 1) * CHECKED / options.receivers > i * CHECKED / options.receivers {
            client.widen_buffer()?;
            listeners.push(Listener::new(client, (0..STREAMS).map(ssrc_of))?);
        } else {
            client.shrink_buffer()?;
            deaf.push(client);
        }
    }
    let preferred = stage.prefer();
    let publishers = Publishers::new(streams, Shape::VIDEO.interval());
    let mut run = Run { stage, publishers, listeners, receivers: options.receivers, _deaf: deaf };
    search(options, &mut run, &addresses, preferred)
}

fn search(options: &Options, run: &mut Run, addresses: &[SocketAddr], preferred: bool) -> Result<Report> {
    let sizes = vec![Shape::VIDEO.payload_bytes + overhead(false, options.profile); BARE];
    let mut bare = SendtoCost::default();
    for _ in 0..5 {
        bare.add(run.stage.bare_window(addresses, &sizes)?);
    }
    run.step(10_000.0, STEP_TIME)?; // Tables and buffers get their size, key frames are asked for.
    let mut share = FIRST_STEP;
    let mut passed: Option<Step> = None;
    loop {
        bare.add(run.stage.bare_window(addresses, &sizes)?);
        let rate = share * 1e9 / bare.ns_per_datagram();
        let mut step = run.step(rate, STEP_TIME)?;
        for _ in 1..TRIES {
            if step.missing > 0 {
                step = run.step(rate, STEP_TIME)?;
            }
        }
        eprintln!(
            "  {:.0} packets/s ({share:.3} of bare): {} missing, {:.0}% of the core",
            step.packets_per_second,
            step.missing,
            step.core_share * 100.0
        );
        if step.missing > 0 {
            break;
        }
        ensure!(step.packets_per_second > 0.9 * rate, "the bench itself cannot send faster than this");
        passed = Some(step);
        share *= STEP;
    }
    ensure!(passed.is_some(), "packets were lost at the lowest load already");
    let passed = passed.unwrap_or(Step { packets_per_second: 0.0, core_share: 0.0, missing: 0 });

    run.listeners.iter_mut().for_each(|listener| listener.latency.reset());
    let half = run.step(passed.packets_per_second / 2.0, LATENCY_TIME)?;
    let mut latency = Histogram::<u64>::new(3)?;
    for listener in &run.listeners {
        latency.add(&listener.latency)?;
    }
    let sendto_per_second = 1e9 / bare.ns_per_datagram();
    Ok(Report {
        worker: options.worker.clone(),
        receivers: options.receivers,
        preferred,
        sendto_per_second,
        packets_per_second: passed.packets_per_second,
        units: passed.packets_per_second / sendto_per_second,
        core_share: passed.core_share,
        latency_packets_per_second: half.packets_per_second,
        latency_p50_ms: latency.value_at_quantile(0.5) as f64 / 1e6,
        latency_p99_ms: latency.value_at_quantile(0.99) as f64 / 1e6,
        missing: half.missing,
    })
}

impl Run {
    /// Sends so that the worker has `rate` packets to forward a second.
    fn step(&mut self, rate: f64, time: Duration) -> Result<Step> {
        let nominal = f64::from(Shape::VIDEO.packets_per_second()) * (STREAMS * self.receivers) as f64;
        self.publishers.set_speed(rate / nominal);
        let received_before = self.received();
        let listening = Listening::start(std::mem::take(&mut self.listeners), self.stage.other_core)?;
        let mut departures = Vec::new();
        let cpu = self.stage.worker_time()?;
        let begin = Instant::now();
        self.publishers.send_for(time, &mut departures)?;
        let elapsed = begin.elapsed().as_secs_f64();
        let cpu = self.stage.worker_time()?.saturating_sub(cpu);
        self.listeners = listening.finish()?;
        let expected = (departures.len() * self.listeners.len()) as u64;
        Ok(Step {
            packets_per_second: (departures.len() * self.receivers) as f64 / elapsed,
            core_share: cpu.as_secs_f64() / elapsed,
            missing: expected.saturating_sub(self.received() - received_before),
        })
    }

    fn received(&self) -> u64 {
        self.listeners
            .iter()
            .flat_map(|listener| listener.streams.values())
            .map(|stream| stream.received)
            .sum()
    }
}
