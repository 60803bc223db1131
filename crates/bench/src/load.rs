//! Many peers in rooms of mixed size against a running deployment, and whether every stream that should move does.
//!
//! The phases are the brief's: what one server should carry, what several, what all of it. A peer is a real one: a
//! WebSocket, ICE, DTLS, SRTP that it decrypts and checks. Rooms are debates: a few publish, all others watch.

mod plan;
mod report;

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rtc::srtp::Profile;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::cpu;
use crate::endpoint::Identity;
use crate::peer::{Peer, Seat};
use crate::server;
use crate::source::{Shape, StreamCheck};

pub use plan::{Place, Plan, Room};
pub use report::{Process, Report};

/// How long streams may take to move once everybody is in.
const MEDIA_DEADLINE: Duration = Duration::from_secs(60);
/// Attempts of one join: as many as a protoo client makes that was never connected.
const JOIN_ATTEMPTS: u32 = 10;
/// The pause before the second attempt; it doubles, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

/// How many people there are, by the brief.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Phase {
    /// 100 to 500 people.
    #[value(name = "phase-1", alias = "1")]
    One,
    /// 500 to 2,000 people.
    #[value(name = "phase-2", alias = "2")]
    Two,
    /// 2,000 people and more.
    #[value(name = "phase-3", alias = "3")]
    Three,
}

impl Phase {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::One => "phase-1",
            Self::Two => "phase-2",
            Self::Three => "phase-3",
        }
    }

    /// How many people it is about.
    pub fn range(self) -> std::ops::RangeInclusive<usize> {
        match self {
            Self::One => 100..=500,
            Self::Two => 500..=2_000,
            Self::Three => 2_000..=10_000,
        }
    }

    /// How many there are unless said otherwise.
    pub fn usual_peers(self) -> usize {
        match self {
            Self::One => 300,
            Self::Two => 1_000,
            Self::Three => 2_000,
        }
    }

    /// Packets a second of each stream unless said otherwise: so few that two cores carry both ends of every stream, and
    /// each is still known to move.
    fn usual_rate(self) -> u32 {
        match self {
            Self::One => 10,
            Self::Two => 4,
            Self::Three => 2,
        }
    }
}

/// What load to make.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// How many people: the brief's phase-1 (100-500), phase-2 (500-2,000), phase-3 (2,000 and more)
    #[arg(long, value_enum, default_value = "phase-1")]
    pub phase: Phase,
    /// Peers [default: 300, 1,000 or 2,000 by phase]
    #[arg(long, value_name = "COUNT")]
    pub peers: Option<usize>,
    /// Packets a second of each stream [default: 10, 4 or 2 by phase]
    #[arg(long, value_name = "PACKETS", value_parser = clap::value_parser!(u32).range(1..=50))]
    pub rate: Option<u32>,
    /// Joins under way at the same time
    #[arg(long, value_name = "COUNT", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=500))]
    pub at_once: u16,
    /// How long streams are watched
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u16).range(2..=600))]
    pub seconds: u16,
    /// The order of joins
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

impl Options {
    /// What a phase is usually run with.
    pub fn of(phase: Phase) -> Self {
        Self { phase, peers: None, rate: None, at_once: 16, seconds: 10, seed: 1 }
    }
}

/// A process whose CPU and memory are measured.
#[derive(Debug, Clone)]
pub struct Watched {
    /// What it is.
    pub name: String,
    /// Its id.
    pub pid: u32,
}

/// Lets everybody join, watches all streams for a while, and lets everybody leave. `url` is the WebSocket URL without query;
/// `watched` is asked once everybody is in.
///
/// # Errors
/// A join that fails ten times, a stream that does not move, a packet that arrives changed, a session that ends.
pub async fn run(
    url: &str,
    options: &Options,
    watched: impl FnOnce() -> Result<Vec<Watched>>,
) -> Result<Report> {
    let phase = options.phase;
    let count = options.peers.unwrap_or(phase.usual_peers());
    ensure!(phase.range().contains(&count), "{} has {:?} peers, not {count}", phase.name(), phase.range());
    let rate = options.rate.unwrap_or(phase.usual_rate());
    let plan = Plan::new(count);
    let mut places = plan.places();
    places.shuffle(&mut StdRng::seed_from_u64(options.seed));
    eprintln!(
        "{}: {count} peers in {} rooms of {} to {}, {} publish; {} streams of {rate} packets/s, seed {}",
        phase.name(),
        plan.rooms.len(),
        plan.rooms.last().map_or(0, |room| room.peers),
        plan.rooms.first().map_or(0, |room| room.peers),
        plan.publishers(),
        plan.streams(),
        options.seed
    );

    let mut joined = join_all(url, places, rate, options.at_once.into()).await?;
    let everybody_in = Instant::now();
    let streams = plan.streams();
    for (at, member) in joined.members.iter_mut().enumerate() {
        let left = MEDIA_DEADLINE.saturating_sub(everybody_in.elapsed());
        let expected = member.expected;
        member
            .peer
            .wait_for_media(expected, 2, left)
            .await
            .with_context(|| format!("{} ({at} others have all they should)", member.name))?;
    }
    let all_moving = everybody_in.elapsed();
    eprintln!("all {streams} streams move {:.1} s after the last join", all_moving.as_secs_f64());

    let watched = watched()?;
    let (cpu_before, began) = (cpu_times(&watched)?, Instant::now());
    let before: Vec<Snapshot> = joined.members.iter().map(|member| Snapshot::of(&member.peer)).collect();
    tokio::time::sleep(Duration::from_secs(options.seconds.into())).await;
    let (cpu_after, window) = (cpu_times(&watched)?, began.elapsed());
    let processes = processes(&watched, &cpu_before, &cpu_after, window)?;

    let mut report = Report {
        scenario: phase.name().to_owned(),
        peers: count,
        rooms: plan.rooms.len(),
        largest_room: plan.rooms.first().map_or(0, |room| room.peers),
        publishers: plan.publishers(),
        packets_per_second_a_stream: rate,
        joins_per_second: count as f64 / joined.took.as_secs_f64(),
        join_p50_ms: joined.latencies.value_at_quantile(0.5) as f64 / 1000.0,
        join_p99_ms: joined.latencies.value_at_quantile(0.99) as f64 / 1000.0,
        joins_repeated: joined.repeated,
        all_moving_after_s: all_moving.as_secs_f64(),
        window_s: window.as_secs_f64(),
        streams_expected: streams,
        streams_moving: 0,
        packets_received: 0,
        packets_lost: 0,
        packets_damaged: 0,
        processes,
    };
    // Half of what was sent is a stream that moves: the window's edges cut a packet off, and a busy machine some more.
    let least = (u64::from(rate) * u64::from(options.seconds) / 2).max(1);
    let mut still = Vec::new();
    for (member, before) in joined.members.iter().zip(&before) {
        ensure!(!member.peer.is_closed(), "the session of {} ended", member.name);
        let moved = before.compared(&Snapshot::of(&member.peer));
        let moving = moved.received.iter().filter(|received| **received >= least).count();
        report.streams_moving += moving;
        report.packets_received += moved.received.iter().sum::<u64>();
        report.packets_lost += moved.lost;
        report.packets_damaged += moved.damaged;
        if moving != member.expected {
            still.push(format!("{}: {moving} of {}", member.name, member.expected));
        }
    }
    eprintln!("leaving …");
    let mut leaving = JoinSet::new();
    for member in joined.members {
        leaving.spawn(member.peer.leave());
    }
    leaving.join_all().await;
    if !still.is_empty() {
        still.truncate(10);
        bail!("not every stream moves: {}\n{}", still.join(", "), report.to_text());
    }
    ensure!(report.packets_damaged == 0, "packets arrived changed\n{}", report.to_text());
    Ok(report)
}

/// Somebody who is in.
struct Member {
    name: String,
    peer: Peer,
    /// How many streams must come.
    expected: usize,
}

struct Joined {
    members: Vec<Member>,
    latencies: Histogram<u64>,
    took: Duration,
    repeated: u32,
}

async fn join_all(url: &str, places: Vec<Place>, rate: u32, at_once: usize) -> Result<Joined> {
    let identity = Arc::new(Identity::new(&Profile::PREFERENCE)?);
    let gate = Arc::new(Semaphore::new(at_once));
    let count = places.len();
    let began = Instant::now();
    let mut joining = JoinSet::new();
    for place in places {
        let (url, identity, gate) = (url.to_owned(), Arc::clone(&identity), Arc::clone(&gate));
        joining.spawn(async move {
            let _turn = gate.acquire_owned().await.context("the gate is never closed")?;
            join(&url, &identity, &place, rate).await.with_context(|| format!("join of {}", place.name()))
        });
    }
    let mut joined = Joined {
        members: Vec::with_capacity(count),
        latencies: Histogram::new(3)?,
        took: Duration::ZERO,
        repeated: 0,
    };
    let mut progress = Progress::default();
    while let Some(done) = joining.join_next().await {
        let (member, latency, attempts) = done.context("a join's task panicked")??;
        joined.latencies.record(u64::try_from(latency.as_micros())?)?;
        joined.members.push(member);
        joined.repeated += attempts - 1;
        let (there, took) = (joined.members.len(), began.elapsed());
        progress.say(there == count, || {
            format!("{there} of {count} joined, {:.0} a second", there as f64 / took.as_secs_f64())
        });
    }
    joined.took = began.elapsed();
    Ok(joined)
}

/// Joins as often as it takes, and says how long the successful attempt took and which it was.
async fn join(
    url: &str,
    identity: &Arc<Identity>,
    place: &Place,
    rate: u32,
) -> Result<(Member, Duration, u32)> {
    let seat = Seat { url: url.to_owned(), room_id: place.room.clone(), peer_id: place.name() };
    let thin = |shape: Shape| Shape { frames_per_second: rate, packets_per_frame: 1, ..shape };
    let shapes: Vec<Shape> = place.publishes.iter().copied().map(thin).collect();
    let mut pause = FIRST_PAUSE;
    let mut attempt = 1;
    loop {
        let began = Instant::now();
        match Peer::join(&seat, identity, &shapes).await {
            Ok(peer) => {
                let member = Member { name: place.name(), peer, expected: place.receives };
                return Ok((member, began.elapsed(), attempt));
            }
            Err(error) if attempt == JOIN_ATTEMPTS => return Err(error),
            Err(_) => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        attempt += 1;
    }
}

/// What a peer had received at a moment.
struct Snapshot(std::collections::HashMap<u32, StreamCheck>);

struct Moved {
    received: Vec<u64>,
    lost: u64,
    damaged: u64,
}

impl Snapshot {
    fn of(peer: &Peer) -> Self {
        Self(peer.streams())
    }

    fn compared(&self, later: &Self) -> Moved {
        let mut moved = Moved { received: Vec::new(), lost: 0, damaged: 0 };
        for (ssrc, after) in &later.0 {
            let before = self.0.get(ssrc).cloned().unwrap_or_default();
            moved.received.push(after.received - before.received);
            moved.lost += after.missing.saturating_sub(before.missing);
            moved.damaged += after.damaged;
        }
        moved
    }
}

fn cpu_times(watched: &[Watched]) -> Result<Vec<Duration>> {
    watched
        .iter()
        .map(|process| {
            cpu::process_time(process.pid).with_context(|| format!("{} died under the load", process.name))
        })
        .collect()
}

/// What each process took.
fn processes(
    watched: &[Watched],
    before: &[Duration],
    after: &[Duration],
    window: Duration,
) -> Result<Vec<Process>> {
    watched
        .iter()
        .zip(before.iter().zip(after))
        .map(|(process, (before, after))| {
            Ok(Process {
                name: process.name.clone(),
                cpu_percent: (*after - *before).as_secs_f64() / window.as_secs_f64() * 100.0,
                resident_mb: server::held(process.pid)?.resident_kb as f64 / 1024.0,
            })
        })
        .collect()
}

/// Says how far it is: on a terminal in one line, else a line now and then.
#[derive(Default)]
struct Progress {
    last: Option<Instant>,
}

impl Progress {
    fn say(&mut self, done: bool, text: impl FnOnce() -> String) {
        let terminal = std::io::stderr().is_terminal();
        let pause = Duration::from_millis(if terminal { 200 } else { 3_000 });
        if !done && self.last.is_some_and(|last| last.elapsed() < pause) {
            return;
        }
        self.last = Some(Instant::now());
        if terminal && !done {
            eprint!("\r{}   ", text());
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("{}{}", if terminal { "\r" } else { "" }, text());
        }
    }
}
