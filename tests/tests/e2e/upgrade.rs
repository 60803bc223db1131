//! A whole cluster is replaced, node by node, under a running call: what an operator does for a new version.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::{Cluster, Nginx, Scenario, blocking_until, nginx_configuration};

/// How long a scenario may take for one of its parts.
const PART: Duration = Duration::from_secs(180);
/// How long a signal node's clients may take to be at another.
const LEFT_WITHIN: Duration = Duration::from_secs(10);
/// How many sessions a signal node leads to rooms on other nodes.
const LED: &str = "tureen_link_sessions{side=\"gateway\"}";

/// What nginx passes to, read from the cluster itself.
fn front(cluster: &Cluster, port: &str) -> Result<String> {
    nginx_configuration(["--redis", &cluster.redis.url(), "--port", port])
}

#[test]
fn every_node_of_a_cluster_is_replaced_under_a_call() -> Result<()> {
    let mut cluster = Cluster::start(2, 2)?;
    let old: BTreeSet<String> = cluster.names().into_iter().collect();
    let nginx = Nginx::start_with(|port| front(&cluster, port))?;
    let port = nginx.address().port().to_string();
    let mut scenario = Scenario::start("drain", &format!("http://{}", nginx.address()), &json!({}))?;
    let said = scenario.heard(PART).with_context(|| cluster.logs())?;
    let room = said["room"].as_str().context("a room")?.to_owned();
    let (first_owner, first_epoch) = (cluster.owner(&room)?.context("an owner")?, cluster.epoch(&room)?);
    ensure!(old.contains(&first_owner), "{first_owner} is not of this cluster");

    // Media nodes: the new one joins, the old one is drained, and ended when it is empty.
    for (old, new) in [("m1", "m3"), ("m2", "m4")] {
        cluster.add(new, "media")?;
        cluster.wait_assembled()?;
        let begun = Instant::now();
        let (went_well, said) = cluster.drain(old, &["--deadline", "40s"])?;
        ensure!(went_well, "tureen drain {old}: {said}\n{}", cluster.logs());
        cluster.stop(old)?;
        println!("{new} for {old} after {:.1} s", begun.elapsed().as_secs_f64());
    }
    // Signal nodes: nginx learns of the new one and forgets the old one, which is then ended.
    for (old, new) in [("s1", "s3"), ("s2", "s4")] {
        cluster.add(new, "signal")?;
        cluster.wait_assembled()?;
        let leaves: SocketAddr = cluster.node(old).authority().parse()?;
        let configuration = front(&cluster, &port)?;
        let server = format!("server {leaves}");
        ensure!(configuration.contains(&server), "nginx would not know {old}:\n{configuration}");
        let kept: Vec<_> = configuration.lines().filter(|line| !line.contains(&server)).collect();
        nginx.reload(&kept.join("\n"))?;
        let begun = Instant::now();
        cluster.stop(old)?;
        println!("{new} for {old} after {:.1} s", begun.elapsed().as_secs_f64());
    }
    let now: BTreeSet<String> = cluster.names().into_iter().collect();
    ensure!(old.is_disjoint(&now), "not all nodes are new: {now:?}");
    let owner = cluster.owner(&room)?.context("an owner")?;
    ensure!(
        now.contains(&owner) && cluster.epoch(&room)? > first_epoch,
        "{owner} must have it under a higher epoch"
    );
    let both = || Ok(sessions(&cluster)? >= 2.0);
    blocking_until(LEFT_WITHIN, "both are back at a new signal node", both)
        .with_context(|| cluster.logs())?;

    scenario.tell(&json!({}))?;
    scenario.finish(PART).with_context(|| cluster.logs())?;
    Ok(())
}

/// Sessions that the cluster's signal nodes lead.
fn sessions(cluster: &Cluster) -> Result<f64> {
    let signals = cluster.names().into_iter().filter(|name| name.starts_with('s'));
    signals.map(|name| Ok(cluster.node(&name).metric(LED)?.unwrap_or(0.0))).sum()
}
