//! `tureen drain`, as whoever runs it sees it: it drains the life of a node that it found, and `--cancel` leaves a room that is on
//! its way where it was.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bench::endpoint::Identity;
use bench::peer::Peer;
use bench::protoo::Protoo;
use bench::source::Shape;
use serde_json::json;
use testkit::gate::{Gate, Hold};
use tests::{Cluster, Draining, Redis, kill, runtime, undisturbed, until};
use tokio::task::block_in_place;

const PATIENCE: Duration = Duration::from_secs(30);
/// As many as a room is offered to, one after the other, and who has it.
const HOMES: [&str; 4] = ["m1", "m2", "m3", "m4"];

/// The node does not hear it, and is started anew meanwhile: the new life has nothing to do with what was asked of the old one.
#[test]
fn a_node_that_is_started_anew_under_its_name_is_not_drained() -> Result<()> {
    let redis = Redis::start()?;
    let gate = Gate::new(redis.url().trim_start_matches("redis://").to_owned());
    let anew = Arc::new(AtomicBool::new(false));
    let (way, is_anew) = (format!("redis://{}", gate.address()), Arc::clone(&anew));
    let mut cluster = Cluster::of(redis, &["m1", "s1"], move |name, options| {
        match name == "m1" && is_anew.load(Ordering::Relaxed) {
            true => options.set("--redis", &way),
            false => options,
        }
    })?;
    // The new one is there, and the store does not know it yet.
    let old = cluster.take("m1");
    anew.store(true, Ordering::Relaxed);
    gate.shut_at(Hold::Questions, "server:m1");
    cluster.add("m1", "media")?;
    ensure!(gate.is_shut_within(PATIENCE), "the new node must register");

    let machine: Vec<u32> = old.workers()?.into_iter().chain([old.pid()]).collect();
    machine.iter().try_for_each(|process| kill(*process, "STOP"))?;
    let mut draining = Draining::begin(&cluster, "m1")?;
    draining.finds("m1")?;
    gate.open();
    let (well, said) = draining.end()?;
    machine.iter().try_for_each(|process| kill(*process, "KILL"))?;
    drop(old);
    ensure!(!well && said.contains("m1 was started anew"), "it says {said}\n{}", cluster.logs());
    let told = cluster.node("m1").log();
    ensure!(!told.iter().any(|line| line.contains("draining")), "{}", cluster.logs());
    // A node that drains takes no room.
    let seat = cluster.seat("s1", "new", "ann");
    let joined = runtime()?.block_on(async {
        let (ann, _incoming) = Protoo::connect(&seat.address()).await?;
        ann.close().await;
        anyhow::Ok(())
    });
    joined.with_context(|| cluster.logs())
}

/// All who are offered the room do not reach the store, one after the other; then the drain is cancelled.
#[test]
fn a_room_on_its_way_stays_when_the_drain_is_cancelled() -> Result<()> {
    let redis = Redis::start()?;
    let target = redis.url().trim_start_matches("redis://").to_owned();
    let gates: BTreeMap<_, _> = HOMES.map(|home| (home, Gate::new(target.clone()))).into();
    let to = gates.clone();
    let nodes: Vec<_> = HOMES.into_iter().chain(["s1"]).collect();
    let mut cluster = Cluster::of(redis, &nodes, move |name, options| match to.get(name) {
        Some(gate) => options.set("--redis", format!("redis://{}", gate.address())),
        None => options,
    })?;
    let result = runtime()?.block_on(cancelled(&cluster, &gates));
    let result = result.with_context(|| cluster.logs());
    // What they asked of the store is never to come there.
    for home in HOMES {
        cluster.kill(home)?;
    }
    result
}

async fn cancelled(cluster: &Cluster, gates: &BTreeMap<&str, Gate>) -> Result<()> {
    let identity = Arc::new(Identity::of_all_profiles()?);
    let join = async |name: &str| {
        let seat = cluster.seat("s1", "kept", name);
        Peer::join(&seat, &identity, &[Shape::AUDIO]).await
    };
    let peers = [join("ann").await?, join("bob").await?];
    undisturbed(&peers).await.context("before")?;
    let owner = cluster.owner("kept")?.context("an owner")?;
    let epoch = cluster.epoch("kept")?;

    let others: Vec<_> = HOMES.into_iter().filter(|home| *home != owner).collect();
    others.iter().for_each(|home| gates[home].shut_at(Hold::Questions, "room:kept"));
    let mut draining = Draining::begin(cluster, &owner)?;
    block_in_place(|| draining.finds(&owner))?;
    let is_offered = || others.iter().any(|home| gates[home].is_shut_within(Duration::from_millis(1)));
    until(PATIENCE, "the room is on its way", || Ok(is_offered())).await?;
    // Asked while the room stands still; answered wherever it goes on.
    let asker = peers[0].asker();
    let asking = tokio::spawn(async move {
        asker.request("changeDisplayName", json!({ "displayName": "still here" })).await
    });
    let heard = block_in_place(|| draining.says())?;
    ensure!(heard.starts_with(&format!("{owner}: 1 rooms")), "it says {heard}");
    let (cancelled, said) = block_in_place(|| cluster.drain(&owner, &["--cancel"]))?;
    ensure!(cancelled, "tureen drain --cancel: {said}");
    let (well, said) = block_in_place(|| draining.end())?;
    ensure!(!well && said.contains("somebody has cancelled this"), "tureen drain: {said}");
    let stays = |line: &str| line.contains("it keeps the room room=kept").then_some(());
    block_in_place(|| cluster.node(&owner).wait_for_log(PATIENCE, stays))?;

    asking.await?.context("what was asked meanwhile")?;
    undisturbed(&peers).await.context("after")?;
    ensure!(cluster.owner("kept")? == Some(owner.clone()) && cluster.epoch("kept")? == epoch, "it has moved");
    let carl = join("carl").await.context("who comes now")?;
    undisturbed(&peers).await.context("with a third")?;
    for counter in ["tureen_cluster_rooms_not_moved_total", "tureen_cluster_rooms_lost_total"] {
        let counted = cluster.node(&owner).metric(counter)?;
        ensure!(counted.is_none_or(|counted| counted == 0.0), "{counter} is {counted:?}");
    }
    carl.leave().await;
    for peer in peers {
        peer.leave().await;
    }
    Ok(())
}
