//! A room that outgrows a worker spreads over two of them: media crosses both ways, and the death of one worker takes
//! along only those who were there.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bench::endpoint::Identity;
use bench::peer::{Peer, Seat};
use bench::server::Server as Watched;
use bench::source::Shape;
use serde_json::json;
use tests::{Server, kill, runtime};

const PATIENCE: Duration = Duration::from_secs(20);
const GONE: Duration = Duration::from_secs(60);
/// What each peer sends.
const SHAPES: [Shape; 2] = [Shape::AUDIO, Shape::THIN_VIDEO];
/// Packets of a stream that count as moving.
const MOVING: u64 = 5;

#[test]
fn a_room_spreads_over_two_workers_and_outlives_the_death_of_one() -> Result<()> {
    let server = Server::options()
        .set("--workers", "2")
        // Two peers and a pipe.
        .env("TUREEN_LIMITS__ROUTER__TRANSPORTS", "5")
        .start()?;
    let watched = Watched { address: server.authority().to_owned(), pid: server.pid() };
    runtime()?.block_on(spread(&server, &watched)).with_context(|| server.log_tail())
}

async fn spread(server: &Server, watched: &Watched) -> Result<()> {
    let identity = Arc::new(Identity::of_all_profiles()?);
    let mut peers = Vec::new();
    for n in 0..4 {
        peers.push(join(watched, &identity, n).await?);
    }
    for peer in &mut peers {
        receives(peer, 6).await?;
    }
    watched.wait_for_metrics(&["tureen_room_further_routers", "tureen_pipes"], 1.0, PATIENCE).await?;
    watched.wait_for_metrics(&["tureen_piped_producers"], 8.0, PATIENCE).await?;

    let victim = *server.workers()?.first().context("there are workers")?;
    kill(victim, "KILL")?;
    watched.wait_for_metrics(&["tureen_peers"], 2.0, PATIENCE).await?;
    let (mut there, mut gone) = (Vec::new(), Vec::new());
    for (n, mut peer) in peers.into_iter().enumerate() {
        match peer.protoo().request("changeDisplayName", json!({ "displayName": "still here" })).await {
            Ok(_) => there.push((n, peer)),
            Err(_) => {
                peer.vanish();
                gone.push(n);
            }
        }
    }
    ensure!(gone == [0, 1] || gone == [2, 3], "{gone:?} lost their worker");
    for n in gone {
        let mut peer = join(watched, &identity, n).await?;
        peer.wait_for_media(4, MOVING, PATIENCE).await.context("what the survivors send")?;
        there.push((n, peer));
    }
    for (_, peer) in &mut there[..2] {
        // What it had before, and what those who came back send.
        receives(peer, 10).await?;
    }
    for (_, peer) in &mut there[2..] {
        receives(peer, 6).await?;
    }
    for (_, peer) in there {
        peer.leave().await;
    }
    let left = ["tureen_rooms", "tureen_transports", "tureen_producers", "tureen_consumers", "tureen_pipes"];
    watched.wait_for_metrics(&left, 0.0, GONE).await.context("something is left of the room")
}

async fn join(watched: &Watched, identity: &Arc<Identity>, n: usize) -> Result<Peer> {
    let (room_id, peer_id) = ("wide".to_owned(), format!("peer{n}"));
    let seat = Seat { url: watched.websocket_url(), room_id, peer_id };
    Peer::join(&seat, identity, &SHAPES).await.with_context(|| format!("join of {n}"))
}

async fn receives(peer: &mut Peer, streams: usize) -> Result<()> {
    peer.wait_for_media(streams, MOVING, PATIENCE).await?;
    ensure!(peer.streams().values().all(|stream| stream.damaged == 0), "a payload arrived damaged");
    Ok(())
}
