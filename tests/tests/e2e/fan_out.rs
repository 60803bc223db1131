//! One who sends and an audience in many regions: a producer goes from node to node as a tree, nobody sends it to more than
//! `limits.router.fan_out` others, and the sender is not asked for more key frames as the audience grows. A node that hands it
//! on is drained: those behind it have it another way before.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bench::endpoint::Identity;
use bench::peer::{Moves, Peer, Seat};
use bench::protoo::Protoo;
use bench::source::Shape;
use tests::{Cluster, listening, runtime};

use super::regions::metric;

const PATIENCE: Duration = Duration::from_secs(30);
const SHAPES: [Shape; 2] = [Shape::AUDIO, Shape::THIN_VIDEO];
const MOVING: u64 = 5;
/// The room begins at the first; the others are its edges.
const NODES: [&str; 5] = ["n1", "n2", "n3", "n4", "n5"];
const FAN_OUT: usize = 2;
/// Who joins at each edge at once, after one is at each.
const MORE: usize = 4;

#[test]
fn a_producer_goes_to_four_edges_as_a_tree_and_is_asked_for_few_key_frames() -> Result<()> {
    let cluster = regions_of(&NODES, FAN_OUT)?;
    runtime()?.block_on(tree(&cluster)).with_context(|| {
        let logs = NODES.map(|name| format!("{name}:\n{}", cluster.node(name).log_tail()));
        logs.join("\n")
    })
}

/// A cluster with a region of each node's own.
fn regions_of(nodes: &[&str], fan_out: usize) -> Result<Cluster> {
    let mut cluster = Cluster::start_with(0, 0, move |name, options| {
        options.set("--region", name).env("TUREEN_LIMITS__ROUTER__FAN_OUT", &fan_out.to_string())
    })?;
    for name in nodes {
        cluster.add(name, "signal,media")?;
    }
    cluster.wait_assembled()?;
    Ok(cluster)
}

#[test]
fn a_relay_that_drains_costs_those_behind_it_not_a_packet() -> Result<()> {
    let cluster = regions_of(&NODES[..4], 1)?;
    runtime()?.block_on(chain(&cluster)).with_context(|| cluster.logs())
}

/// Each node has the sender from the one before it; the first of those that hand it on is drained.
async fn chain(cluster: &Cluster) -> Result<()> {
    let identity = Arc::new(Identity::of_all_profiles()?);
    let [home, relay, behind @ ..] = [NODES[0], NODES[1], NODES[2], NODES[3]];
    let sender = Peer::join(&seat(cluster, home, "sender"), &identity, &SHAPES).await?;
    let mut viewers = Vec::new();
    for node in [relay, behind[0], behind[1]] {
        let seat = seat(cluster, node, &format!("viewer-{node}"));
        let session = Protoo::connect(&seat.address()).await?;
        let mut viewer = Peer::enter_as(Moves::InSession, &seat, &identity, &[], session).await?;
        viewer.wait_for_media(SHAPES.len(), MOVING, PATIENCE).await?;
        viewers.push(viewer);
    }
    let last = seat(cluster, behind[1], "plain");
    let mut plain = Peer::join(&last, &identity, &[]).await?;
    plain.wait_for_media(SHAPES.len(), MOVING, PATIENCE).await?;
    metric(cluster, home, "tureen_pipes", 3.0).await?;
    for node in [relay, behind[0]] {
        let pipes = pipe_sockets(cluster, node)?.saturating_sub(pipe_sockets(cluster, home)?);
        ensure!(pipes == 1, "{node} has {pipes} ends of pipes more than {home}: they are no chain");
    }
    let before: Vec<_> = viewers.iter().map(|viewer| viewer.held().consumers).collect();

    let (went_well, said) = cluster.drain(relay, &["--deadline", "30s"])?;
    ensure!(went_well, "tureen drain: {said}");
    println!("{said}");
    // What comes to a plain client comes as new streams.
    plain.wait_for_media(2 * SHAPES.len(), MOVING, PATIENCE).await?;
    for (viewer, before) in viewers.iter().zip(before) {
        let (streams, now) = (viewer.streams(), viewer.held().consumers);
        println!("{streams:?}");
        ensure!(!viewer.is_closed() && streams.len() == SHAPES.len());
        ensure!(
            now.len() == before.len() && now.iter().all(|id| !before.contains(id)),
            "{before:?}: {now:?}"
        );
        ensure!(streams.values().all(|stream| stream.missing + stream.damaged == 0), "something was lost");
    }
    let moved: Vec<_> = viewers.iter().map(|viewer| viewer.migrations().done).collect();
    ensure!(moved == [1, 0, 0], "who was at {relay} leaves it, and nobody else: {moved:?}");
    // Two who replace, and the plain client.
    let behind_it = (SHAPES.len() * 3) as f64;
    metric(cluster, home, "tureen_room_events_total{event=\"rerouted\"}", behind_it).await?;
    metric(cluster, relay, "tureen_routers", 0.0).await?;
    for viewer in &mut viewers {
        let slowest = viewer.streams().values().map(|stream| stream.received).min();
        let further = slowest.context("it has received something")? + MOVING;
        viewer.wait_for_media(SHAPES.len(), further, PATIENCE).await.context("afterwards")?;
        ensure!(
            viewer.streams().values().all(|stream| stream.missing + stream.damaged == 0),
            "lost afterwards"
        );
    }
    for peer in viewers.into_iter().chain([plain, sender]) {
        peer.leave().await;
    }
    metric(cluster, home, "tureen_pipes", 0.0).await
}

async fn tree(cluster: &Cluster) -> Result<()> {
    let identity = Arc::new(Identity::of_all_profiles()?);
    let [home, edges @ ..] = NODES;
    let sender = Peer::join(&seat(cluster, home, "sender"), &identity, &SHAPES).await?;
    ensure!(cluster.owner("stage")?.as_deref() == Some(home), "a room begins in its first peer's region");
    let alone = pipe_sockets(cluster, home)?;

    let first = edges.map(|edge| (edge, format!("first-{edge}")));
    let (mut audience, asked_by_few, _) = arrive(cluster, &identity, &sender, &first).await?;
    let branches = (SHAPES.len() * edges.len()) as f64;
    metric(cluster, home, "tureen_piped_producers", branches).await?;
    metric(cluster, home, "tureen_pipes", edges.len() as f64)
        .await
        .context("each edge hangs on one other")?;
    for edge in edges {
        metric(cluster, edge, "tureen_producers", SHAPES.len() as f64).await.context("each once")?;
    }
    for node in NODES {
        let pipes = pipe_sockets(cluster, node)?.saturating_sub(alone);
        // Those that it sends to, and but for the first the one that it hangs on.
        let most = if node == home { FAN_OUT } else { FAN_OUT + 1 };
        println!("{node} has {pipes} ends of pipes");
        ensure!((1..=most).contains(&pipes), "{node} has {pipes} ends of pipes, of {most} at most");
    }

    let more = edges.iter().flat_map(|edge| (0..MORE).map(move |n| (*edge, format!("more-{n}-{edge}"))));
    let (late, asked_by_many, took) = arrive(cluster, &identity, &sender, &more.collect::<Vec<_>>()).await?;
    metric(cluster, home, "tureen_piped_producers", branches).await.context("nothing is sent twice")?;
    println!(
        "key frames asked for: {asked_by_few} by {}, {asked_by_many} by {} in {took:?}",
        first.len(),
        late.len()
    );
    // One a second is what a producer is asked for, whoever wants it.
    ensure!(
        asked_by_many <= 2 * asked_by_few.max(2) + took.as_secs(),
        "key frame requests grow with the audience"
    );
    for peer in audience.iter().chain(&late) {
        ensure!(peer.streams().values().all(|stream| stream.damaged == 0), "a payload arrived damaged");
    }

    audience.extend(late);
    for peer in audience {
        peer.leave().await;
    }
    metric(cluster, home, "tureen_pipes", 0.0).await?;
    sender.leave().await;
    for node in NODES {
        for left in ["tureen_rooms", "tureen_routers", "tureen_transports", "tureen_producers"] {
            metric(cluster, node, left, 0.0).await.context("something is left of the room")?;
        }
    }
    Ok(())
}

/// All come at once, and receive the sender: they, how many key frames it was asked for until all had one, and how long that took.
async fn arrive(
    cluster: &Cluster,
    identity: &Arc<Identity>,
    sender: &Peer,
    who: &[(&str, String)],
) -> Result<(Vec<Peer>, u64, Duration)> {
    let (before, begun) = (sender.key_frame_requests(), Instant::now());
    let coming = who.iter().map(|(edge, peer)| {
        let (seat, identity) = (seat(cluster, edge, peer), Arc::clone(identity));
        tokio::spawn(async move {
            let mut peer = Peer::join(&seat, &identity, &[]).await?;
            peer.wait_for_media(SHAPES.len(), MOVING, PATIENCE).await?;
            Ok::<_, anyhow::Error>(peer)
        })
    });
    let mut there = Vec::new();
    for coming in coming.collect::<Vec<_>>() {
        there.push(coming.await?.context("one of the audience")?);
    }
    let asked = sender.key_frame_requests() - before;
    Ok((there, asked, begun.elapsed()))
}

fn seat(cluster: &Cluster, node: &str, peer: &str) -> Seat {
    cluster.seat(node, "stage", peer)
}

/// How many UDP sockets a node's worker has: each end of a pipe has its own.
fn pipe_sockets(cluster: &Cluster, node: &str) -> Result<usize> {
    let mut sockets = 0;
    for worker in cluster.node(node).workers()? {
        sockets += listening(worker)?.iter().filter(|socket| socket.protocol == "udp").count();
    }
    Ok(sockets)
}
