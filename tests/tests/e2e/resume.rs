//! Sessions go on when what carries them breaks: media and signaling of real browsers.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use serde_json::json;
use tests::{Cluster, Nginx, Scenario};

/// How long a scenario may take for one of its parts.
const PART: Duration = Duration::from_secs(120);
/// How many sessions a signal node leads to rooms on other nodes.
const LED: &str = "tureen_link_sessions{side=\"gateway\"}";

#[test]
fn a_killed_signal_node_is_no_gap_and_sessions_go_on_at_another() -> Result<()> {
    let mut cluster = Cluster::start(2, 1)?;
    let upstreams: Vec<_> = ["s1", "s2"]
        .map(|name| cluster.node(name).authority().parse())
        .into_iter()
        .collect::<Result<_, _>>()?;
    let nginx = Nginx::start(&upstreams)?;
    let mut scenario = Scenario::start("signal-kill", &format!("http://{}", nginx.address()), &json!({}))?;
    scenario.heard(PART).with_context(|| cluster.node("m1").log_tail())?;
    let mut led = Vec::new();
    for name in ["s1", "s2"] {
        if cluster.node(name).metric(LED)?.is_some_and(|sessions| sessions > 0.0) {
            led.push(name);
        }
    }
    assert_eq!(led.len(), 1, "nginx leads a room's clients to one signal node");
    cluster.kill(led[0])?;
    let killed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_millis();
    scenario.tell(&json!({ "killed": u64::try_from(killed)? }))?;
    scenario.finish(PART).with_context(|| cluster.node("m1").log_tail())?;
    let resumed = cluster.node("m1").metric("tureen_room_events_total{event=\"resumed\"}")?;
    assert_eq!(resumed, Some(2.0), "both came back to their sessions");
    Ok(())
}
