//! Many joins, each a real one (ICE, DTLS, a producer of each kind, consumers of what the others send), then leaving:
//! half of them say goodbye, half vanish. Afterwards nothing may be left of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use rtc::srtp::Profile;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::endpoint::Identity;
use crate::peer::{Peer, Seat};
use crate::server::Server;
use crate::source::Shape;

/// Peers in a room.
const ROOM_SIZE: usize = 4;
/// How long media may take to reach everyone in a room.
const MEDIA_DEADLINE: Duration = Duration::from_secs(20);
/// A vanished peer is noticed by its WebSocket; this is far beyond the server's patience with it.
const GONE_DEADLINE: Duration = Duration::from_secs(60);

/// What to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// Joins in all; rounded up to whole rooms.
    pub count: usize,
    /// Rooms that are filled at the same time.
    pub rooms_at_once: usize,
}

/// What was seen.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Joins that succeeded: every one of them received what the others in its room sent.
    pub joins: usize,
    /// Of those, how many left without goodbye.
    pub vanished: usize,
    /// Joins a second.
    pub joins_per_second: f64,
    /// From opening the WebSocket to both transports connected and both producers made, ms.
    pub join_p50_ms: f64,
    /// The same, 99th percentile.
    pub join_p99_ms: f64,
    /// Descriptors of server and workers together, before the first join and after the last leave.
    pub descriptors: [usize; 2],
    /// Resident memory of server and workers together, kB: after each tenth of the joins.
    pub resident_kb: Vec<u64>,
    /// Growth of resident memory over the second half of the joins, kB a join.
    pub growth_kb_per_join: f64,
}

/// Runs the joins and checks that nothing is left.
///
/// # Errors
/// The first join that fails, or what is left afterwards.
pub async fn run(server: &Server, options: &Options) -> Result<Report> {
    let identity = Arc::new(Identity::new(&Profile::PREFERENCE)?);
    let rooms = options.count.div_ceil(ROOM_SIZE);
    // The first room warms up what is made once: caches, lazily bound sockets.
    room(server, &identity, "warm-up").await?;
    wait_until_empty(server).await?;
    let before = total_descriptors(server)?;
    let tenth = rooms.div_ceil(10).max(1);

    let mut latencies = Histogram::<u64>::new(3)?;
    let mut resident_kb = vec![total_resident(server)?];
    let (mut started, mut joins) = (0, 0);
    let start = Instant::now();
    let mut running = JoinSet::new();
    while started < rooms || !running.is_empty() {
        while started < rooms && running.len() < options.rooms_at_once {
            let (server, identity, name) =
                (server.clone(), Arc::clone(&identity), format!("joins-{started}"));
            running.spawn(async move {
                room(&server, &identity, &name).await.with_context(|| format!("room {name}"))
            });
            started += 1;
        }
        let Some(done) = running.join_next().await else { break };
        for latency in done.context("a room's task panicked")?? {
            latencies.record(u64::try_from(latency.as_micros())?)?;
            joins += 1;
        }
        if (joins / ROOM_SIZE).is_multiple_of(tenth) {
            resident_kb.push(total_resident(server)?);
        }
    }
    let elapsed = start.elapsed();
    wait_until_empty(server).await?;
    let held = server
        .wait_for_held(GONE_DEADLINE, |held| held.values().map(|h| h.descriptors).sum::<usize>() <= before)
        .await;
    let after = held.context("descriptors are left over")?.values().map(|h| h.descriptors).sum();

    let half = resident_kb.len() / 2;
    let grown = resident_kb
        .last()
        .zip(resident_kb.get(half))
        .map_or(0.0, |(&last, &middle)| last as f64 - middle as f64);
    Ok(Report {
        joins,
        vanished: joins / 2,
        joins_per_second: joins as f64 / elapsed.as_secs_f64(),
        join_p50_ms: latencies.value_at_quantile(0.5) as f64 / 1000.0,
        join_p99_ms: latencies.value_at_quantile(0.99) as f64 / 1000.0,
        descriptors: [before, after],
        growth_kb_per_join: grown / (joins as f64 / 2.0).max(1.0),
        resident_kb,
    })
}

/// One room's life: all join, all receive from all others, every other one leaves properly, the rest vanish.
async fn room(server: &Server, identity: &Arc<Identity>, name: &str) -> Result<Vec<Duration>> {
    let shapes = [Shape::AUDIO, Shape::THIN_VIDEO];
    let mut peers = Vec::with_capacity(ROOM_SIZE);
    let mut latencies = Vec::with_capacity(ROOM_SIZE);
    for i in 0..ROOM_SIZE {
        let seat = Seat { url: server.websocket_url(), room_id: name.into(), peer_id: format!("{name}-{i}") };
        let start = Instant::now();
        peers.push(
            Peer::join(&seat, identity, &shapes)
                .await
                .with_context(|| format!("join of {}", seat.peer_id))?,
        );
        latencies.push(start.elapsed());
    }
    let expected = (ROOM_SIZE - 1) * shapes.len();
    for peer in &mut peers {
        peer.wait_for_media(expected, 5, MEDIA_DEADLINE).await?;
        let streams = peer.streams();
        ensure!(streams.values().all(|s| s.damaged == 0), "a payload arrived damaged: {streams:?}");
    }
    for (i, peer) in peers.into_iter().enumerate() {
        if i % 2 == 0 {
            peer.leave().await;
        } else {
            peer.vanish();
        }
    }
    Ok(latencies)
}

async fn wait_until_empty(server: &Server) -> Result<()> {
    let gauges =
        ["tureen_rooms", "tureen_peers", "tureen_transports", "tureen_producers", "tureen_consumers"];
    server.wait_for_metrics(&gauges, 0.0, GONE_DEADLINE).await.context("something is left of those who left")
}

fn total_descriptors(server: &Server) -> Result<usize> {
    Ok(server.held()?.values().map(|h| h.descriptors).sum())
}

fn total_resident(server: &Server) -> Result<u64> {
    Ok(server.held()?.values().map(|h| h.resident_kb).sum())
}
