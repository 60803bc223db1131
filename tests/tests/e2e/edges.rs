//! Rooms that have an edge, a site on a node of another region: what of them is lost with which node, and who notices.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bench::endpoint::Identity;
use bench::peer::Peer;
use serde_json::json;
use tests::{Cluster, Scenario, kill, runtime};

use super::regions::{join, metric, receives, stream_counts};

/// How long a scenario may take for one of its parts.
const PART: Duration = Duration::from_secs(120);
/// Packets of a stream that count as going on.
const GOES_ON: u64 = 20;

#[test]
fn chromium_of_two_regions_share_a_room_and_a_killed_edge_is_no_gap_for_the_others() -> Result<()> {
    let mut cluster = two_regions()?;
    // Somebody is there before the browsers load the machine, so that the room is where it belongs.
    let runtime = runtime()?;
    let identity = Arc::new(Identity::of_all_profiles()?);
    let seat = cluster.seat("s1", "wide", "first");
    let first = runtime.block_on(Peer::join(&seat, &identity, &[]))?;
    ensure!(cluster.owner("wide")?.as_deref() == Some("m1"), "a room begins in the region of its first peer");
    let args = json!({ "room": "wide", "far": cluster.node("s2").url() });
    let mut scenario = Scenario::start("regions", cluster.node("s1").url(), &args)?;
    scenario.heard(PART).with_context(|| cluster.logs())?;
    let (edge, _) = edges(&cluster).with_context(|| cluster.logs())?;
    cluster.kill(edge)?;
    scenario.tell(&json!({}))?;
    scenario.finish(PART).with_context(|| cluster.logs())?;
    ensure!(cluster.owner("wide")?.as_deref() == Some("m1"), "the room stays where it is");
    let opened = cluster.node("m1").metric("tureen_far_sites_total{result=\"opened\"}")?;
    ensure!(opened == Some(2.0), "blue must have come back to the other node of its region: {opened:?}");
    runtime.block_on(first.leave());
    Ok(())
}

/// A machine that hangs, its worker with it: its port takes connections, and nobody answers. Thawed, it thinks that it still has
/// the peers.
#[test]
fn a_frozen_edge_is_replaced_and_has_nothing_when_it_thaws() -> Result<()> {
    let cluster = two_regions()?;
    let result = runtime()?.block_on(async {
        let identity = Arc::new(Identity::of_all_profiles()?);
        let [mut ann, carl, mut bob] = three(&cluster, &identity).await?;
        let (edge, other) = edges(&cluster)?;
        let frozen = cluster.node(edge);
        let machine: Vec<u32> = frozen.workers()?.into_iter().chain([frozen.pid()]).collect();
        let before = stream_counts(&ann);
        for process in &machine {
            kill(*process, "STOP")?;
        }
        let stopped = Instant::now();
        bob.closed().await;
        let mut bob = join(&cluster, &identity, "s2", "bob").await.context("elsewhere")?;
        receives(&mut bob, 4).await?;
        println!("{edge} froze, its peer has media again after {:.2} s", stopped.elapsed().as_secs_f64());
        metric(&cluster, other, "tureen_transports", 3.0).await.context("two of the peer's and a pipe's")?;
        receives(&mut ann, 6).await?;
        goes_on_without_a_gap(&ann, &before, 2).await.context("what was not on the edge")?;

        let before = stream_counts(&ann);
        for process in &machine {
            kill(*process, "CONT")?;
        }
        cluster.wait_assembled()?;
        for left in ["tureen_routers", "tureen_transports", "tureen_producers", "tureen_consumers"] {
            metric(&cluster, edge, left, 0.0).await.context("the thawed node has given all up")?;
        }
        // Nothing that it says about the site changes the room.
        goes_on_without_a_gap(&ann, &before, 4).await.context("Carl, and Bob where he is now")?;
        metric(&cluster, "m1", "tureen_peers", 3.0).await?;
        metric(&cluster, "m1", "tureen_pipes", 1.0).await?;
        ensure!(!ann.is_closed() && !carl.is_closed() && !bob.is_closed(), "a session ended");
        leave_nothing(&cluster, [ann, carl, bob]).await
    });
    result.with_context(|| cluster.logs())
}

#[test]
fn a_room_whose_owner_dies_comes_back_where_its_edge_was_or_beside_it() -> Result<()> {
    let mut cluster = two_regions()?;
    let result = runtime()?.block_on(async {
        let identity = Arc::new(Identity::of_all_profiles()?);
        let mut peers = three(&cluster, &identity).await?;
        let epoch = cluster.epoch("wide")?;
        cluster.kill("m1")?;
        let killed = Instant::now();
        for peer in &mut peers {
            peer.closed().await;
        }
        let mut peers = three(&cluster, &identity).await.context("after the owner's death")?;
        println!("all have media again {:.2} s after the owner's death", killed.elapsed().as_secs_f64());
        ensure!(cluster.epoch("wide")? > epoch, "epochs must rise");
        for peer in &mut peers {
            receives(peer, 4).await?;
        }
        // The dead owner's site is no more: all are at one router, with two transports each.
        let heir = cluster.owner("wide")?.context("an heir")?;
        let other = if heir == "m2" { "m3" } else { "m2" };
        for (name, value) in [("tureen_routers", 1.0), ("tureen_transports", 6.0), ("tureen_producers", 6.0)]
        {
            metric(&cluster, &heir, name, value).await?;
            metric(&cluster, other, name, 0.0).await?;
        }
        leave_nothing(&cluster, peers).await
    });
    result.with_context(|| cluster.logs())
}

/// s1 and m1 in one region; s2, m2 and m3 in the other.
fn two_regions() -> Result<Cluster> {
    Cluster::start_with(2, 3, |name, options| {
        options
            .set("--log", "info,node=debug,host=debug,room=debug,links=debug,signaling=debug")
            .set("--region", if name.ends_with('1') { "eu" } else { "us" })
    })
}

/// Ann and Carl in the first region, where the room begins, Bob in the second; all receive each other.
async fn three(cluster: &Cluster, identity: &Arc<Identity>) -> Result<[Peer; 3]> {
    let mut ann = join(cluster, identity, "s1", "ann").await?;
    let mut carl = join(cluster, identity, "s1", "carl").await?;
    let mut bob = join(cluster, identity, "s2", "bob").await?;
    for peer in [&mut ann, &mut carl, &mut bob] {
        receives(peer, 4).await?;
    }
    Ok([ann, carl, bob])
}

/// Of the second region's nodes, the one that is an edge, and the other.
fn edges(cluster: &Cluster) -> Result<(&'static str, &'static str)> {
    for (name, other) in [("m2", "m3"), ("m3", "m2")] {
        if cluster.node(name).metric("tureen_transports")?.is_some_and(|transports| transports > 0.0) {
            return Ok((name, other));
        }
    }
    bail!("nobody is on an edge")
}

/// So many of the streams from before go on, and nothing of them is missing.
async fn goes_on_without_a_gap(peer: &Peer, before: &HashMap<u32, u64>, streams: usize) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let now = peer.streams();
        let moving = before.iter().filter(|(ssrc, received)| now[ssrc].received >= **received + GOES_ON);
        let moving: Vec<_> = moving.map(|(ssrc, _)| &now[ssrc]).collect();
        if moving.len() >= streams {
            ensure!(moving.len() == streams, "{} streams go on, not {streams}", moving.len());
            ensure!(moving.iter().all(|stream| stream.missing == 0), "there is a gap: {moving:?}");
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{} of {streams} streams go on", moving.len());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// All leave, and no node has anything of the room.
async fn leave_nothing(cluster: &Cluster, peers: [Peer; 3]) -> Result<()> {
    for peer in peers {
        peer.leave().await;
    }
    for node in cluster.names().iter().filter(|name| name.starts_with('m')) {
        for left in ["tureen_rooms", "tureen_routers", "tureen_transports", "tureen_producers"] {
            metric(cluster, node, left, 0.0).await.context("something is left of the room")?;
        }
    }
    Ok(())
}
