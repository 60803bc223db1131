//! PlainTransports through `media`'s handles, with ffmpeg at both ends and a Chromium that watches.

use std::time::Duration;

use anyhow::{Result, ensure};
use media::WebRtcListen;
use ortc::SrtpCryptoSuite;
use tests::{Publisher, Recorder};

use crate::stage::{HERTZ, RGB, Stage};

/// Long enough for a browser to see a key frame and to watch for its four seconds.
const SECONDS: u32 = 10;

#[tokio::test(flavor = "multi_thread")]
async fn ffmpeg_publishes_rtp_that_chromium_sees_and_another_ffmpeg_records() -> Result<()> {
    broadcast(None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn ffmpeg_publishes_srtp_that_chromium_sees_and_another_ffmpeg_records() -> Result<()> {
    broadcast(Some(SrtpCryptoSuite::AesCm128HmacSha1_80)).await
}

async fn broadcast(srtp: Option<SrtpCryptoSuite>) -> Result<()> {
    let stage = Stage::new().await?;
    let inlets = stage.inlets(srtp).await?;
    let listen = WebRtcListen::Server(stage.server.clone());
    let mut viewer = stage.viewer(&[&inlets.video, &inlets.audio], listen, "actpass").await?;
    let outlets = [stage.outlet(srtp, &inlets.video).await?, stage.outlet(srtp, &inlets.audio).await?];
    let [video_out, audio_out] = &outlets;
    let recorder = Recorder::start(&video_out.end, &audio_out.end)?;
    for outlet in &outlets {
        outlet.consumer.resume().await?;
    }

    let publisher = inlets.publish(SECONDS)?;
    tokio::task::spawn_blocking(move || viewer.scenario.finish(Duration::from_secs(40))).await??;
    tokio::task::spawn_blocking(move || publisher.sent(Duration::from_secs(20))).await??;
    // A turn of the worker between two answers: what was in its sockets is in the recorder's.
    for outlet in outlets.iter().chain(&outlets) {
        outlet.transport.stats().await?;
    }
    let recording = tokio::task::spawn_blocking(move || recorder.finish()).await??;
    println!("{recording:?}");
    ensure!(recording.frames == Publisher::frames(SECONDS), "{recording:?}");
    let near = recording.rgb.iter().zip(RGB).all(|(is, should)| is.abs_diff(should) < 12);
    ensure!(near, "the colour is another: {recording:?}");
    ensure!((recording.hertz - f64::from(HERTZ)).abs() < 5.0, "the tone is another: {recording:?}");
    ensure!((recording.sound_seconds - f64::from(SECONDS)).abs() < 0.2, "{recording:?}");
    stage.worker.close().await;
    Ok(())
}
