//! What Chromium can send besides VP8, each codec in a call with its layers asked for, down and up.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use tests::{Server, run_scenario};

fn call(options: &Value) -> Result<()> {
    let server = Server::start()?;
    run_scenario("codec", &server, options, Duration::from_secs(120))?;
    Ok(())
}

#[test]
fn h264_simulcast_layers_arrive_as_asked_for() -> Result<()> {
    call(&json!({ "codec": "h264" }))
}

#[test]
fn vp9_layers_that_share_key_frames_arrive_as_asked_for() -> Result<()> {
    call(&json!({ "codec": "vp9", "scalability": "L3T3_KEY" }))
}

#[test]
fn vp9_layers_on_top_of_each_other_arrive_as_asked_for() -> Result<()> {
    call(&json!({ "codec": "vp9", "scalability": "L3T3" }))
}

#[test]
fn av1_layers_on_top_of_each_other_arrive_as_asked_for() -> Result<()> {
    call(&json!({ "codec": "av1", "scalability": "L3T3" }))
}

#[test]
fn av1_temporal_layers_arrive_as_asked_for() -> Result<()> {
    call(&json!({ "codec": "av1", "scalability": "L1T3", "temporal": true }))
}
