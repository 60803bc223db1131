//! WebRtcTransports as `tureen serve` does not make them, and an application of `media` may: ports of their own, and the
//! client's part in DTLS. A Chromium watches what an ffmpeg publishes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use media::WebRtcListen;
use ortc::TransportProtocol;

use crate::stage::{Stage, loopback};

const SECONDS: u32 = 10;

#[tokio::test(flavor = "multi_thread")]
async fn a_transport_with_ports_of_its_own_reaches_chromium() -> Result<()> {
    let stage = Stage::new().await?;
    let listen = [TransportProtocol::Udp, TransportProtocol::Tcp].map(loopback);
    watched(&stage, WebRtcListen::Individual(listen.into()), "actpass").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transport_that_is_dtls_client_reaches_chromium() -> Result<()> {
    let stage = Stage::new().await?;
    watched(&stage, WebRtcListen::Server(stage.server.clone()), "active").await
}

async fn watched(stage: &Stage, listen: WebRtcListen, setup: &str) -> Result<()> {
    let inlets = stage.inlets(None).await?;
    let mut viewer = stage.viewer(&[&inlets.video, &inlets.audio], listen, setup).await?;
    let publisher = inlets.publish(SECONDS)?;
    let candidates = viewer.transport.beginning().ice_candidates.clone();
    let (_viewer, seen) = tokio::task::spawn_blocking(move || {
        let seen = viewer.scenario.finish(Duration::from_secs(40));
        (viewer, seen)
    })
    .await?;
    let seen = seen?;
    ensure!(seen["role"] == if setup == "active" { "server" } else { "client" }, "{seen}");
    let port = seen["port"].as_u64().context("a port")?;
    let used = candidates.iter().find(|candidate| u64::from(candidate.port) == port);
    ensure!(used.is_some_and(|used| used.protocol == TransportProtocol::Udp), "{seen}: {candidates:?}");
    drop(publisher);
    stage.worker.close().await;
    Ok(())
}
