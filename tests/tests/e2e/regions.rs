//! A room whose peers are in two regions: each has its media on a node near it, media crosses once and only where it is
//! received, and who loses a region loses only that.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bench::endpoint::Identity;
use bench::peer::Peer;
use bench::protoo::{Incoming, Protoo};
use bench::source::{Shape, StreamCheck};
use serde_json::json;
use tests::{Cluster, runtime, until};
use tokio::sync::mpsc::Receiver;

const PATIENCE: Duration = Duration::from_secs(20);
/// What each peer sends.
const SHAPES: [Shape; 2] = [Shape::AUDIO, Shape::THIN_VIDEO];
/// Packets of a stream that count as moving.
const MOVING: u64 = 5;

#[test]
fn a_room_in_two_regions_pipes_what_is_watched_and_outlives_the_loss_of_one() -> Result<()> {
    let mut cluster = Cluster::start_with(2, 2, |name, options| {
        options.set("--region", if name.ends_with('1') { "eu" } else { "us" })
    })?;
    runtime()?.block_on(two_regions(&mut cluster)).with_context(|| cluster.logs())
}

async fn two_regions(cluster: &mut Cluster) -> Result<()> {
    let identity = Arc::new(Identity::of_all_profiles()?);
    let mut ann = join(cluster, &identity, "s1", "ann").await?;
    ensure!(cluster.owner("wide")?.as_deref() == Some("m1"), "a room begins in the region of its first peer");
    let mut carl = join(cluster, &identity, "s1", "carl").await?;
    receives(&mut ann, 2).await?;
    metric(cluster, "m1", "tureen_room_further_routers", 0.0).await?;

    // Somebody is there who receives nothing: nothing is brought to that region.
    let (deaf, _incoming) = deaf(cluster, "s2").await?;
    metric(cluster, "m1", "tureen_room_further_routers", 1.0).await?;
    metric(cluster, "m2", "tureen_transports", 1.0).await.context("the edge has the peer's transport")?;
    metric(cluster, "m2", "tureen_producers", 0.0).await?;
    metric(cluster, "m1", "tureen_piped_producers", 0.0).await?;

    // Two who receive: each producer crosses once for both.
    let mut bob = join(cluster, &identity, "s2", "bob").await?;
    let mut dora = join(cluster, &identity, "s2", "dora").await?;
    for peer in [&mut ann, &mut bob, &mut carl, &mut dora] {
        receives(peer, 6).await?;
    }
    metric(cluster, "m1", "tureen_pipes", 1.0).await?;
    metric(cluster, "m1", "tureen_piped_producers", 8.0).await?;
    metric(cluster, "m2", "tureen_producers", 8.0).await.context("four of its own, four from over there")?;

    // Nobody receives there any more.
    bob.leave().await;
    dora.leave().await;
    metric(cluster, "m1", "tureen_piped_producers", 0.0).await?;
    metric(cluster, "m1", "tureen_pipes", 0.0).await?;
    metric(cluster, "m2", "tureen_producers", 0.0).await?;
    deaf.close().await;
    metric(cluster, "m2", "tureen_routers", 0.0).await.context("a site that serves nobody ends")?;

    let mut bob = join(cluster, &identity, "s2", "bob").await?;
    receives(&mut bob, 4).await?;
    receives(&mut ann, 8).await?;
    let before = stream_counts(&ann);
    cluster.kill("m2")?;
    let killed = Instant::now();
    bob.closed().await;
    println!("the edge's peer knows after {:.2} s", killed.elapsed().as_secs_f64());
    let mut again = join(cluster, &identity, "s2", "bob").await.context("at the owner, now")?;
    receives(&mut again, 4).await?;
    println!("it has media again after {:.2} s", killed.elapsed().as_secs_f64());
    // Ann has received Carl all the time, and has Bob back.
    receives(&mut ann, 10).await?;
    let after = ann.streams();
    let going_on = before.iter().filter(|(ssrc, received)| after[ssrc].received > **received + MOVING);
    let going_on: Vec<_> = going_on.map(|(ssrc, _)| after[ssrc].clone()).collect();
    ensure!(going_on.len() == 2, "{} of Carl's two streams went on", going_on.len());
    ensure!(going_on.iter().all(|stream| stream.missing == 0), "there is a gap: {going_on:?}");
    ensure!(!ann.is_closed() && !carl.is_closed(), "who is elsewhere stays");
    metric(cluster, "m1", "tureen_pipes", 0.0).await?;
    for peer in [ann, carl, again] {
        peer.leave().await;
    }
    for left in ["tureen_rooms", "tureen_transports", "tureen_producers", "tureen_consumers"] {
        metric(cluster, "m1", left, 0.0).await.context("something is left of the room")?;
    }
    Ok(())
}

/// A peer that says that it can receive nothing, with one transport.
async fn deaf(cluster: &Cluster, signal: &str) -> Result<(Protoo, Receiver<Incoming>)> {
    let url = format!("{}?roomId=wide&peerId=deaf", cluster.websocket_url(signal));
    let (mut protoo, incoming) = Protoo::connect(&url).await?;
    protoo.request("getRouterRtpCapabilities", json!({})).await?;
    let transport = json!({ "producing": false, "consuming": true, "forceTcp": false });
    protoo.request("createWebRtcTransport", transport).await?;
    protoo
        .request("join", json!({ "displayName": "deaf", "device": { "name": "x", "version": "1" } }))
        .await?;
    Ok((protoo, incoming))
}

pub(super) async fn join(
    cluster: &Cluster,
    identity: &Arc<Identity>,
    signal: &str,
    peer: &str,
) -> Result<Peer> {
    let seat = cluster.seat(signal, "wide", peer);
    Peer::join(&seat, identity, &SHAPES).await.with_context(|| format!("join of {peer}"))
}

pub(super) async fn receives(peer: &mut Peer, streams: usize) -> Result<()> {
    peer.wait_for_media(streams, MOVING, PATIENCE).await?;
    ensure!(peer.streams().values().all(|stream| stream.damaged == 0), "a payload arrived damaged");
    Ok(())
}

pub(super) fn stream_counts(peer: &Peer) -> HashMap<u32, u64> {
    let count = |(ssrc, stream): (u32, StreamCheck)| (ssrc, stream.received);
    peer.streams().into_iter().map(count).collect()
}

/// Waits until a node's metric has a value.
pub(super) async fn metric(cluster: &Cluster, node: &str, name: &str, value: f64) -> Result<()> {
    let mut now = None;
    let waited = until(PATIENCE, "a metric has its value", || {
        now = cluster.node(node).metric(name)?;
        Ok(now == Some(value))
    });
    waited.await.with_context(|| format!("{name} of {node} is {now:?}, not {value}"))
}
