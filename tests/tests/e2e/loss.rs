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

/// The longest that a picture may stand still when its viewer's link falls to a sixth. It was 3.5 s; without other load it is
/// some 0.6 s, and the simulation by seed holds it below 1 s (`crates/worker/tests/media/bandwidth.rs`).
const LONGEST_STILL_MS: f64 = 1500.0;

#[test]
fn a_link_that_falls_does_not_stop_the_picture() -> Result<()> {
    let measured = Case::fall().run(&[Call::Server])?;
    let (wide, narrow) = (&measured["server"]["wide"], &measured["server"]["narrow"]);
    assert!(figure(wide, "width")? > 640.0, "the highest stream was there to be lost: {wide}");
    let lost = narrow["linkLoss"][1].as_f64().context("the link counts")?;
    assert!(lost > 0.0, "the link was too narrow: {narrow}");
    assert!(figure(narrow, "width")? <= 640.0, "a lower stream comes: {narrow}");
    assert!(figure(narrow, "fps")? > 2.0, "{narrow}");
    let still = figure(narrow, "longestGapMs")?;
    assert!(still <= LONGEST_STILL_MS, "the picture stood still for {still} ms: {narrow}");
    Ok(())
}
