//! What is promised of calls over bad links; all cases, with a comparison, are `cargo xtask bench loss`.

use anyhow::{Context, Result};
use serde_json::Value;
use tests::loss::{Call, Case};

/// Runs a case through the server only; the clean phase and the bad one.
fn run(name: &str) -> Result<(Value, Value)> {
    let measured = Case::named(name)?.run(&[Call::Server])?;
    let phase = |phase: &str| measured["server"][phase].clone();
    Ok((phase("clean"), phase("bad")))
}

fn figure(of: &Value, name: &str) -> Result<f64> {
    of[name].as_f64().with_context(|| format!("no figure `{name}` in {of}"))
}

/// `way` is the direction of the media over the bad link: 0 up, 1 down.
fn keeps_its_frame_rate(name: &str, way: usize) -> Result<()> {
    let (clean, bad) = run(name)?;
    let lost = bad["linkLoss"][way].as_f64().context("the link counts")?;
    assert!((0.03..0.07).contains(&lost), "the link lost {lost}");
    assert!(figure(&bad, "repeatsUp")? + figure(&bad, "repeatsDown")? > 20.0, "losses are repaired: {bad}");
    let (before, after) = (figure(&clean, "fps")?, figure(&bad, "fps")?);
    assert!(after >= before * 0.9, "{after} frames/s, {before} before");
    Ok(())
}

#[test]
fn a_publisher_that_loses_5_percent_at_50_ms_keeps_its_frame_rate() -> Result<()> {
    keeps_its_frame_rate("up-loss-5-50ms", 0)
}

#[test]
fn a_subscriber_that_loses_5_percent_at_50_ms_keeps_his_frame_rate() -> Result<()> {
    keeps_its_frame_rate("down-loss-5-50ms", 1)
}
