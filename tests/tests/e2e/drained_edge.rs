//! A node that only has some peers' media of another node's room is drained: those peers take their media to another node of
//! their region within their sessions, and who cannot do that joins again there.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bench::endpoint::Identity;
use bench::peer::Peer;
use bench::protoo::{Asker, Protoo};
use bench::source::Shape;
use serde_json::json;
use tests::{Cluster, Scenario, runtime, tureen};

const PATIENCE: Duration = Duration::from_secs(20);
/// How long a scenario may take for one of its parts.
const PART: Duration = Duration::from_secs(120);
/// "Another node has the room, or your media's node ends: join again."
const MOVED: u16 = 4009;

/// The first of each kind is in one region, all others in another.
fn two_regions() -> Result<Cluster> {
    Cluster::start_with(2, 3, |name, options| {
        options.set("--region", if name.ends_with('1') { "eu" } else { "us" })
    })
}

#[test]
fn a_drained_edge_s_browser_takes_its_media_to_another_node_without_a_gap() -> Result<()> {
    let cluster = two_regions()?;
    let runtime = runtime()?;
    let options = json!({ "otherUrl": cluster.node("s2").url(), "inSession": true });
    let mut scenario = Scenario::start("drain", cluster.node("s1").url(), &options)?;
    let said = scenario.heard(PART).with_context(|| cluster.logs())?;
    let room = said["room"].as_str().context("a room")?.to_owned();
    let owner = cluster.owner(&room)?.context("an owner")?;
    let (edge, _) = edge_and_other(&cluster, &owner)?;
    println!("{owner} has the room, and {edge} the media of one of them");

    // Somebody else asks things all the while.
    let url = format!("{}?roomId={room}&peerId=asker", cluster.websocket_url("s1"));
    let asking = runtime.block_on(async {
        let (mut protoo, incoming) = Protoo::connect(&url).await?;
        protoo.request("getRouterRtpCapabilities", json!({})).await?;
        protoo.request("join", json!({ "displayName": "asker" })).await?;
        let asked = tokio::spawn(ask(protoo.asker()));
        anyhow::Ok((protoo, incoming, asked))
    })?;
    let begun = Instant::now();
    let (went_well, said) = cluster.drain(&edge, &["--deadline", "30s"])?;
    ensure!(went_well, "tureen drain: {said}\n{}", cluster.logs());
    println!("{edge} drained in {:.1} s: {said}", begun.elapsed().as_secs_f64());
    let (protoo, _incoming, asked) = asking;
    runtime.block_on(async {
        protoo.close().await;
        let (count, failed) = asked.await?;
        println!("{count} requests answered meanwhile");
        // The last one is the connection's end.
        ensure!(count > 10 && failed.contains("clos"), "{count} were answered, then {failed}");
        Ok(())
    })?;
    scenario.tell(&json!({}))?;
    scenario.finish(PART).with_context(|| cluster.logs())?;
    ensure!(cluster.owner(&room)?.as_ref() == Some(&owner), "the room stays where it is");
    let events =
        |event: &str| cluster.node(&owner).metric(&format!("tureen_room_events_total{{event=\"{event}\"}}"));
    assert_eq!(events("migrated")?, Some(1.0));
    assert_eq!(events("joined")?, Some(3.0), "two people and the asker, once each");
    assert_eq!(events("migration_overdue")?.unwrap_or_default(), 0.0);
    Ok(())
}

/// Changes a name again and again until it cannot: how often it could, and why not any more.
async fn ask(asker: Asker) -> (u32, String) {
    let mut count = 0;
    loop {
        let name = json!({ "displayName": format!("asker {count}") });
        if let Err(error) = asker.request("changeDisplayName", name).await {
            return (count, format!("{error:#}"));
        }
        count += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Of the media nodes but the room's owner, the one with a router, and the other one.
fn edge_and_other(cluster: &Cluster, owner: &str) -> Result<(String, String)> {
    let mut others: Vec<String> =
        cluster.names().into_iter().filter(|name| name.starts_with('m') && name != owner).collect();
    let second = others.pop().context("three media nodes")?;
    let first = others.pop().context("three media nodes")?;
    let has_one = |name: &str| anyhow::Ok(cluster.node(name).metric("tureen_routers")? == Some(1.0));
    match (has_one(&first)?, has_one(&second)?) {
        (true, false) => Ok((first, second)),
        (false, true) => Ok((second, first)),
        both => bail!("one of them has a site of the room, not {both:?}"),
    }
}

#[test]
fn who_cannot_migrate_joins_again_at_another_node_of_the_region() -> Result<()> {
    let cluster = two_regions()?;
    runtime()?.block_on(sent_away(&cluster)).with_context(|| cluster.logs())
}

async fn sent_away(cluster: &Cluster) -> Result<()> {
    let identity = Arc::new(Identity::of_all_profiles()?);
    let mut ann = join(cluster, &identity, "s1", "ann").await?;
    let mut bob = join(cluster, &identity, "s2", "bob").await?;
    bob.wait_for_media(2, 5, PATIENCE).await?;
    ann.wait_for_media(2, 5, PATIENCE).await?;
    let owner = cluster.owner("drained")?.context("an owner")?;
    let (edge, other) = edge_and_other(cluster, &owner)?;

    let mut command = Command::new(tureen()?);
    command.args(["drain", &edge, "--redis", &cluster.redis.url(), "--deadline", "30s"]);
    let drained = tokio::task::spawn_blocking(move || command.output());
    let code = tokio::time::timeout(PATIENCE, bob.closed()).await.context("bob is not sent away")?;
    ensure!(code == Some(MOVED), "bob was sent away with {code:?}");
    let mut again = join(cluster, &identity, "s2", "bob").await?;
    again.wait_for_media(2, 5, PATIENCE).await?;
    ann.wait_for_media(4, 5, PATIENCE).await?;
    let drained = drained.await??;
    let said = String::from_utf8_lossy(&drained.stderr);
    ensure!(drained.status.success(), "tureen drain: {said}");
    println!("{said}");
    ensure!(!ann.is_closed(), "ann's media was never there");
    ensure!(cluster.node(&edge).metric("tureen_routers")? == Some(0.0), "{edge} is empty");
    ensure!(cluster.node(&other).metric("tureen_routers")? == Some(1.0), "bob's media is at {other}");
    ann.leave().await;
    again.leave().await;
    Ok(())
}

async fn join(cluster: &Cluster, identity: &Arc<Identity>, signal: &str, peer: &str) -> Result<Peer> {
    let seat = cluster.seat(signal, "drained", peer);
    let shapes = [Shape::AUDIO, Shape::THIN_VIDEO];
    Peer::join(&seat, identity, &shapes).await.with_context(|| format!("join of {peer}"))
}
