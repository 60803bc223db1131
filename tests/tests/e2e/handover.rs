//! A room moves to another node with all who are in it: every request is answered once, all news come once and in order, no
//! WebSocket closes, and packets keep flowing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bench::endpoint::Identity;
use bench::peer::Peer;
use bench::protoo::{Incoming, Protoo};
use bench::source::Shape;
use serde_json::json;
use tests::{Cluster, runtime, until};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(20);
/// What each peer sends.
const SHAPES: [Shape; 2] = [Shape::AUDIO, Shape::THIN_VIDEO];
/// Packets of a stream that count as moving.
const MOVING: u64 = 5;
/// Between two requests of the one who talks.
const TALK_EVERY: Duration = Duration::from_millis(20);
const ROOM: &str = "moving";

#[test]
fn a_room_moves_with_all_who_are_in_it_and_no_message_is_lost() -> Result<()> {
    // Who has media has it in the US, on m2; the room is in Europe, on m1 or m3, and moves to the other.
    let cluster = Cluster::start_with(2, 3, |name, options| {
        options.set("--region", if name.ends_with('2') { "us" } else { "eu" })
    })?;
    runtime()?.block_on(moves(&cluster)).with_context(|| {
        let logs =
            cluster.names().into_iter().map(|name| format!("{name}:\n{}", cluster.node(&name).log_tail()));
        logs.collect::<Vec<_>>().join("\n")
    })
}

async fn moves(cluster: &Cluster) -> Result<()> {
    let identity = Arc::new(Identity::of_all_profiles()?);
    let talker = Talker::join(cluster, "s1").await?;
    let mut listener = Listener::join(cluster, "s2").await?;
    let mut peers = Vec::new();
    for name in ["ann", "bob"] {
        let seat = cluster.seat("s2", ROOM, name);
        peers.push(Peer::join(&seat, &identity, &SHAPES).await.with_context(|| format!("join of {name}"))?);
    }
    for peer in &mut peers {
        peer.wait_for_media(2, MOVING, PATIENCE).await?;
    }
    listener.names_from(1).await?;
    let first = listener.names.borrow()[0].clone();

    let (owner, epoch) = (cluster.owner(ROOM)?.context("an owner")?, cluster.epoch(ROOM)?);
    let before: Vec<_> = peers.iter().map(counts).collect();
    let other = if owner == "m1" { "m3" } else { "m1" };
    let moved = "tureen_cluster_rooms_taken_over_total";
    let drained = tokio::task::block_in_place(|| cluster.drain(&owner, &["--deadline", "30s"]))?;
    ensure!(drained.0, "tureen drain: {}", drained.1);
    let taken_over = || Ok(cluster.node(other).metric(moved)? == Some(1.0));
    until(PATIENCE, "the other node has taken the room over", taken_over).await?;
    ensure!(cluster.owner(ROOM)?.as_deref() == Some(other) && cluster.epoch(ROOM)? > epoch, "not {other}'s");
    // It goes on for a while, at the new owner.
    let said = listener.names.borrow().len();
    listener.names_from(said + 50).await?;
    for (peer, before) in peers.iter_mut().zip(before) {
        ensure!(!peer.is_closed(), "a WebSocket was closed");
        let after = peer.streams();
        for (ssrc, received) in before {
            let stream = &after[&ssrc];
            ensure!(stream.received > received + MOVING, "stream {ssrc} stands still: {stream:?}");
            ensure!(stream.missing == 0 && stream.damaged == 0, "stream {ssrc} has a gap: {stream:?}");
        }
        peer.protoo().request("changeDisplayName", json!({ "displayName": "still here" })).await?;
    }
    let Talked { answered, slowest } = talker.stop().await?;
    println!("{answered} requests, the slowest answered after {slowest:?}");
    // The listener has heard each name, once and in order.
    listener.last_is(&format!("name {}", answered - 1)).await?;
    let names = listener.names.borrow().clone();
    let first: usize = first.trim_start_matches("name ").parse()?;
    let expected: Vec<_> = (first..answered).map(|number| format!("name {number}")).collect();
    ensure!(names == expected, "{names:?}");
    ensure!(!listener.reader.is_finished(), "the listener's WebSocket was closed");
    // Nobody's last words are taken for those of one who does not know that his time is over.
    for name in cluster.names() {
        let log = cluster.node(&name).log();
        let stale = log.iter().find(|line| line.contains("stale"));
        ensure!(stale.is_none(), "{name}: {stale:?}");
    }
    for peer in peers {
        peer.leave().await;
    }
    Ok(())
}

fn counts(peer: &Peer) -> HashMap<u32, u64> {
    peer.streams().into_iter().map(|(ssrc, stream)| (ssrc, stream.received)).collect()
}

/// Joins as one that neither sends nor receives media.
async fn join(cluster: &Cluster, signal: &str, peer: &str) -> Result<(Protoo, mpsc::Receiver<Incoming>)> {
    let url = format!("{}?roomId={ROOM}&peerId={peer}", cluster.websocket_url(signal));
    let (mut protoo, incoming) = Protoo::connect(&url).await?;
    protoo.request("getRouterRtpCapabilities", json!({})).await?;
    let device = json!({ "name": "x", "version": "1" });
    protoo.request("join", json!({ "displayName": peer, "device": device })).await?;
    Ok((protoo, incoming))
}

/// Asks something every few milliseconds, as an unmodified client, and does not wait for the answers.
struct Talker {
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<Talked>>,
}

/// What came of it: every request was answered, and with success.
struct Talked {
    answered: usize,
    slowest: Duration,
}

impl Talker {
    async fn join(cluster: &Cluster, signal: &str) -> Result<Self> {
        let (mut protoo, mut incoming) = join(cluster, signal, "talker").await?;
        let (stop, mut stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            let mut talked = Talked { answered: 0, slowest: Duration::ZERO };
            while !*stopped.borrow_and_update() {
                let name = format!("name {}", talked.answered);
                let asked = Instant::now();
                protoo.request("changeDisplayName", json!({ "displayName": name })).await?;
                talked.answered += 1;
                talked.slowest = talked.slowest.max(asked.elapsed());
                while let Ok(event) = incoming.try_recv() {
                    ensure!(!matches!(event, Incoming::Closed(_)), "the talker's WebSocket was closed");
                }
                tokio::time::sleep(TALK_EVERY).await;
            }
            protoo.close().await;
            Ok(talked)
        });
        Ok(Self { stop, task })
    }

    async fn stop(self) -> Result<Talked> {
        let _ = self.stop.send(true);
        self.task.await?
    }
}

/// Hears the names that the talker takes.
struct Listener {
    _protoo: Protoo,
    names: watch::Receiver<Vec<String>>,
    reader: JoinHandle<()>,
}

impl Listener {
    async fn join(cluster: &Cluster, signal: &str) -> Result<Self> {
        let (protoo, mut incoming) = join(cluster, signal, "listener").await?;
        let (heard, names) = watch::channel(Vec::new());
        let reader = tokio::spawn(async move {
            while let Some(event) = incoming.recv().await {
                match event {
                    Incoming::Notification { method, data } if method == "peerDisplayNameChanged" => {
                        let name = data["displayName"].as_str().unwrap_or_default().to_owned();
                        if data["peerId"] == "talker" {
                            heard.send_modify(|names: &mut Vec<String>| names.push(name));
                        }
                    }
                    Incoming::Closed(_) => return,
                    _ => {}
                }
            }
        });
        Ok(Self { _protoo: protoo, names, reader })
    }

    async fn last_is(&mut self, name: &str) -> Result<()> {
        let heard = self.names.wait_for(|names| names.last().is_some_and(|last| last == name));
        tokio::time::timeout(PATIENCE, heard).await.context("the last name does not come")??;
        Ok(())
    }

    async fn names_from(&mut self, count: usize) -> Result<()> {
        let heard = self.names.wait_for(|names| names.len() >= count);
        tokio::time::timeout(PATIENCE, heard).await.context("names do not come")??;
        Ok(())
    }
}
