//! A room, a worker and all nodes that are full: who comes is told what is full, who is there notices nothing, one line in
//! the log tells the operator, and there is place again when somebody leaves. Some nodes that are full: rooms begin at others.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bench::endpoint::Identity;
use bench::peer::Peer;
use bench::protoo::{Incoming, Protoo};
use bench::source::Shape;
use serde_json::json;
use tests::{Cluster, runtime, undisturbed};

use super::regions::metric;

const PATIENCE: Duration = Duration::from_secs(20);
/// How many are turned away each time.
const TURNED_AWAY: usize = 5;
/// "The room is full": a client does not come back by itself.
const FINAL: u16 = 4000;

/// One signal and two media nodes.
fn cluster(limits: &'static [(&'static str, &'static str)]) -> Result<Cluster> {
    Cluster::start_with(1, 2, move |_, options| {
        limits.iter().fold(options, |options, (name, value)| options.env(name, value))
    })
}

async fn pair(cluster: &Cluster, identity: &Arc<Identity>, room: &str) -> Result<[Peer; 2]> {
    let mut ann = Peer::join(&cluster.seat("s1", room, "ann"), identity, &[Shape::AUDIO]).await?;
    let mut bob = Peer::join(&cluster.seat("s1", room, "bob"), identity, &[Shape::AUDIO]).await?;
    ann.wait_for_media(1, 5, PATIENCE).await?;
    bob.wait_for_media(1, 5, PATIENCE).await?;
    Ok([ann, bob])
}

/// Each node's lines about something that is full.
fn told(cluster: &Cluster) -> Vec<String> {
    let all = cluster.names().into_iter().flat_map(|name| cluster.node(&name).log());
    all.filter(|line| line.contains("full: ")).collect()
}

#[test]
fn who_comes_to_a_full_room_is_told_so_and_comes_in_when_somebody_has_left() -> Result<()> {
    let cluster = cluster(&[("TUREEN_LIMITS__ROOM__PEERS_PER_ROOM", "2")])?;
    runtime()?.block_on(full_room(&cluster)).with_context(|| cluster.logs())
}

async fn full_room(cluster: &Cluster) -> Result<()> {
    let identity = Arc::new(Identity::of_all_profiles()?);
    let there = pair(cluster, &identity, "small").await?;
    let owner = cluster.owner("small")?.context("an owner")?;
    for n in 0..TURNED_AWAY {
        let (_protoo, mut incoming) =
            Protoo::connect(&cluster.seat("s1", "small", &format!("late{n}")).address()).await?;
        let closed = tokio::time::timeout(PATIENCE, incoming.recv()).await?;
        ensure!(matches!(closed, Some(Incoming::Closed(Some(FINAL)))), "late{n} is told {closed:?}");
    }
    let event = "tureen_room_events_total{event=\"room_full\"}";
    metric(cluster, &owner, event, TURNED_AWAY as f64).await?;
    let told = told(cluster);
    ensure!(told.len() == 1 && told[0].contains("peers_per_room"), "the operator is told {told:?}");
    undisturbed(&there).await?;
    let [ann, bob] = there;
    bob.leave().await;
    metric(cluster, &owner, "tureen_peers", 1.0).await?;
    let late = Peer::join(&cluster.seat("s1", "small", "late"), &identity, &[]).await?;
    late.leave().await;
    ann.leave().await;
    Ok(())
}

#[test]
fn a_full_worker_refuses_transports_and_leaves_those_that_it_has_alone() -> Result<()> {
    let cluster = cluster(&[("TUREEN_LIMITS__TRANSPORTS_PER_WORKER", "4")])?;
    runtime()?.block_on(full_worker(&cluster)).with_context(|| cluster.logs())
}

async fn full_worker(cluster: &Cluster) -> Result<()> {
    let identity = Arc::new(Identity::of_all_profiles()?);
    let there = pair(cluster, &identity, "busy").await?;
    let owner = cluster.owner("busy")?.context("an owner")?;
    let (mut late, _incoming) = Protoo::connect(&cluster.seat("s1", "busy", "late").address()).await?;
    late.request("getRouterRtpCapabilities", json!({})).await?;
    let create = json!({ "forceTcp": false, "producing": false, "consuming": true });
    for _ in 0..TURNED_AWAY {
        let error =
            late.request("createWebRtcTransport", create.clone()).await.err().context("a fifth one")?;
        let error = format!("{error:#}");
        ensure!(error.contains("503") && error.contains("its limit of 4 transports"), "{error}");
        ensure!(error.contains("try again"), "what to do: {error}");
    }
    let refused = "tureen_media_refused_total{what=\"transports\"}";
    metric(cluster, &owner, refused, TURNED_AWAY as f64).await?;
    let told = told(cluster);
    ensure!(told.len() == 1 && told[0].contains("transports_per_worker"), "the operator is told {told:?}");
    undisturbed(&there).await?;
    let [ann, bob] = there;
    bob.leave().await;
    metric(cluster, &owner, "tureen_transports", 2.0).await?;
    late.request("createWebRtcTransport", create).await.context("there is place again")?;
    late.close().await;
    ann.leave().await;
    Ok(())
}

#[test]
fn when_all_nodes_are_full_a_join_is_refused_and_calls_go_on() -> Result<()> {
    let cluster = cluster(&[("TUREEN_LIMITS__SESSIONS", "2")])?;
    runtime()?.block_on(full_nodes(&cluster)).with_context(|| cluster.logs())
}

async fn full_nodes(cluster: &Cluster) -> Result<()> {
    let identity = Arc::new(Identity::of_all_profiles()?);
    let there = pair(cluster, &identity, "first").await?;
    for n in 0..TURNED_AWAY {
        let answer = handshake(cluster, &format!("roomId=first&peerId=late{n}"))?;
        ensure!(answer.starts_with("HTTP/1.1 503"), "late{n} is answered {answer}");
        let says = answer.contains("its limit of 2 sessions") && answer.contains("try again later");
        ensure!(says, "late{n} is answered {answer}");
    }
    let refused = "tureen_signaling_refused_total{why=\"sessions\"}";
    metric(cluster, "s1", refused, TURNED_AWAY as f64).await?;
    let told = told(cluster);
    ensure!(told.len() == 1 && told[0].contains("limits.sessions"), "the operator is told {told:?}");
    undisturbed(&there).await?;
    let [ann, bob] = there;
    let owner = cluster.owner("first")?.context("an owner")?;
    bob.leave().await;
    metric(cluster, &owner, "tureen_sessions", 1.0).await?;
    let late = Peer::join(&cluster.seat("s1", "first", "late"), &identity, &[]).await?;
    late.leave().await;
    ann.leave().await;
    Ok(())
}

#[test]
fn rooms_begin_where_there_are_sessions_left() -> Result<()> {
    runtime()?.block_on(new_rooms("TUREEN_LIMITS__SESSIONS", "tureen_sessions"))
}

#[test]
fn rooms_begin_where_there_are_rooms_left() -> Result<()> {
    runtime()?.block_on(new_rooms("TUREEN_LIMITS__ROOMS", "tureen_rooms"))
}

/// As many rooms begin at once as all nodes together may have, and then another. Each room is one client's.
async fn new_rooms(limit: &'static str, counted: &str) -> Result<()> {
    const NODES: usize = 3;
    const EACH: usize = 4;
    let cluster = Cluster::start_with(1, NODES, move |_, options| options.env(limit, &EACH.to_string()))?;
    begin_rooms(&cluster, NODES * EACH, counted).await.with_context(|| cluster.logs())
}

async fn begin_rooms(cluster: &Cluster, count: usize, counted: &str) -> Result<()> {
    let media: Vec<_> = cluster.names().into_iter().filter(|name| name.starts_with('m')).collect();
    let comes = |room: usize| {
        let address = cluster.seat("s1", &format!("room{room}"), "ann").address();
        // All at once: each begins now.
        let coming = tokio::spawn(async move { Protoo::connect(&address).await });
        async move { coming.await?.with_context(|| format!("the first of room {room}")) }
    };
    let coming: Vec<_> = (0..count).map(comes).collect();
    let mut there = Vec::new();
    for one in coming {
        there.push(one.await?);
    }
    for node in &media {
        metric(cluster, node, counted, (count / media.len()) as f64).await?;
    }
    let full = "tureen_cluster_nodes_full";
    metric(cluster, "s1", full, media.len() as f64).await?;
    let answer = handshake(cluster, "roomId=another&peerId=ann")?;
    ensure!(answer.starts_with("HTTP/1.1 503"), "another room is answered {answer}");
    ensure!(answer.contains("all media nodes of this cluster are full: try again later"), "{answer}");
    metric(cluster, "s1", "tureen_signaling_refused_total{why=\"full\"}", 1.0).await?;
    if counted == "tureen_rooms" {
        let bob = cluster.seat("s1", "room0", "bob").address();
        let (bob, _incoming) = Protoo::connect(&bob).await.context("a room that is there")?;
        bob.close().await;
    }
    let (ann, _incoming) = there.swap_remove(count / 2);
    ann.close().await;
    metric(cluster, "s1", full, (media.len() - 1) as f64).await?;
    let another = comes(count).await?;
    metric(cluster, "s1", full, media.len() as f64).await?;
    drop((another, there));
    Ok(())
}

/// What the signal node answers to the opening of a WebSocket that it does not take.
fn handshake(cluster: &Cluster, query: &str) -> Result<String> {
    let authority = cluster.node("s1").authority();
    let mut connection = TcpStream::connect(authority)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    write!(
        connection,
        "GET /?{query} HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: protoo\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    // As far as the text goes: the connection may stay open.
    while !String::from_utf8_lossy(&answer).contains("later") {
        match connection.read(&mut part)? {
            0 => break,
            count => answer.extend_from_slice(&part[..count]),
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
