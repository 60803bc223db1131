//! Sessions go on when what carries them breaks: media and signaling of real browsers.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use bench::protoo::{Incoming, Protoo};
use serde_json::json;
use tests::{Cluster, Nginx, Scenario, runtime};

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

#[test]
fn a_drained_node_s_call_goes_to_another_without_a_gap() -> Result<()> {
    let cluster = Cluster::start(1, 2)?;
    let mut scenario = Scenario::start("drain", cluster.node("s1").url(), &json!({}))?;
    let said = scenario.heard(PART).with_context(|| cluster.node("s1").log_tail())?;
    let room = said["room"].as_str().context("a room")?.to_owned();
    let (owner, epoch) = (cluster.owner(&room)?.context("an owner")?, cluster.epoch(&room)?);

    let begun = Instant::now();
    let drained = cluster.drain(&owner, &["--deadline", "30s"])?;
    ensure!(drained.0, "tureen drain: {}", drained.1);
    println!("{owner} drained in {:.1} s: {}", begun.elapsed().as_secs_f64(), drained.1);
    let heir = cluster.owner(&room)?.context("an heir")?;
    ensure!(heir != owner && cluster.epoch(&room)? > epoch, "{heir} must have it under a higher epoch");
    scenario.tell(&json!({}))?;
    let log = || format!("{}\n{}", cluster.node(&owner).log_tail(), cluster.node(&heir).log_tail());
    scenario.finish(PART).with_context(log)?;

    // It takes nothing while it drains, and again afterwards; who is not there cannot be drained.
    let cancelled = cluster.drain(&owner, &["--cancel"])?;
    ensure!(cancelled.0, "tureen drain --cancel: {}", cancelled.1);
    ensure!(!cluster.drain("nobody", &[])?.0, "nobody was drained");
    Ok(())
}

/// A room keeps a client's place for 15 s that is only away.
#[test]
fn who_can_come_back_and_leaves_has_left_at_once() -> Result<()> {
    const LEAVERS: usize = 16;
    const LEFT_WITHIN: Duration = Duration::from_secs(6);
    let cluster = Cluster::start(1, 1)?;
    let url = |peer: &str| format!("{}?roomId=left&peerId={peer}", cluster.websocket_url("s1"));
    let runtime = runtime()?;
    runtime.block_on(async {
        let join = |protoo: &Protoo| {
            let asker = protoo.asker();
            async move {
                asker.request("getRouterRtpCapabilities", json!({})).await?;
                asker.request("join", json!({ "displayName": "x" })).await
            }
        };
        let (stays, mut told) = Protoo::connect(&url("stays")).await?;
        join(&stays).await?;
        let mut leavers = Vec::new();
        for number in 0..LEAVERS {
            let (leaver, incoming) = Protoo::connect_resumable(&url(&format!("leaver-{number}"))).await?;
            join(&leaver).await?;
            leavers.push((leaver, incoming));
        }
        for (leaver, _incoming) in leavers {
            leaver.close().await;
        }
        let mut left = 0;
        let all = async {
            while left < LEAVERS {
                match told.recv().await {
                    Some(Incoming::Notification { method, .. }) => {
                        left += usize::from(method == "peerClosed")
                    }
                    Some(_) => {}
                    None => break,
                }
            }
        };
        let in_time = tokio::time::timeout(LEFT_WITHIN, all).await.is_ok();
        ensure!(in_time && left == LEAVERS, "{left} of {LEAVERS} have left\n{}", cluster.logs());
        stays.close().await;
        Ok(())
    })
}
