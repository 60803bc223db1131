//! Somebody wants to take up a room's site that is not his: the node that has the site refuses him, says why, and the room goes on.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bench::endpoint::Identity;
use bench::peer::{Moves, Peer};
use bench::protoo::Protoo;
use bench::source::Shape;
use cluster::fence::Stale;
use cluster::lease::{Epoch, Term};
use cluster::node::Node;
use links::{Believe, LinkSettings, Links, Me, OpenSite, Security, SiteError, SiteRefused};
use room::{RoomId, SiteId};
use tests::{Cluster, Redis, kill, runtime, undisturbed, until};

use super::regions::metric;

const PATIENCE: Duration = Duration::from_secs(30);
const ROOM: &str = "adopted";
/// A room of two regions has two sites, and a third on its way to another owner.
const SITES: std::ops::Range<u64> = 0..4;
const REFUSED: &str = "tureen_link_sites_refused_total";

/// Whoever speaks is believed: the test speaks to nobody else.
struct Credulous;

impl Believe for Credulous {
    fn believe(&self, _: &RoomId, _: &Term) -> Result<(), Stale> {
        Ok(())
    }
}

#[test]
fn who_takes_up_a_site_that_is_not_his_is_refused_and_harms_nobody() -> Result<()> {
    let nodes = ["m1", "m2", "m3", "s1", "s2"];
    let cluster = Cluster::of(Redis::start()?, &nodes, |name, options| {
        options.set("--region", if name.ends_with('2') { "us" } else { "eu" })
    })?;
    runtime()?.block_on(refused(&cluster)).with_context(|| cluster.logs())
}

async fn refused(cluster: &Cluster) -> Result<()> {
    let identity = Arc::new(Identity::of_all_profiles()?);
    let join = async |signal: &str, peer: &str| {
        let seat = cluster.seat(signal, ROOM, peer);
        let session = Protoo::connect_resumable(&seat.address()).await?;
        Peer::enter_as(Moves::InSession, &seat, &identity, &[Shape::AUDIO], session).await
    };
    let peers = [join("s1", "ann").await?, join("s2", "bob").await?];
    undisturbed(&peers).await.context("before")?;
    let old = cluster.owner(ROOM)?.context("an owner")?;
    let old_epoch = Epoch(cluster.epoch(ROOM)?.context("an epoch")?);
    // The edge's site is parked, and taken up by the next owner.
    let (drained, said) = tokio::task::block_in_place(|| cluster.drain(&old, &["--deadline", "30s"]))?;
    ensure!(drained, "tureen drain: {said}");
    let owner = cluster.owner(ROOM)?.context("an owner")?;
    let epoch = Epoch(cluster.epoch(ROOM)?.context("an epoch")?);
    ensure!(owner != old && epoch > old_epoch, "the room must have moved");
    undisturbed(&peers).await.context("moved")?;

    let edge = registered(cluster, "m2")?;
    // Only the old owner is spoken for, which has nothing there any more: a node's new connection ends what an earlier one carried.
    // It stands still meanwhile, lest its own next connection end ours.
    let Node { id, incarnation, .. } = registered(cluster, &old)?;
    let process = cluster.node(&old).pid();
    kill(process, "STOP")?;
    let ask = async |room: &str, of: &str, epoch, site| {
        let me = Me { id: id.clone(), incarnation, cluster: "tureen".to_owned() };
        let links = Links::new(me, Security::plaintext(), LinkSettings::default(), Arc::new(Credulous));
        let term = Term { epoch, node: of.parse()? };
        let open = OpenSite { room: RoomId::parse(room)?, site, term, adopt: true };
        match links.open_site(&edge, open).await {
            Err(SiteError::Refused(why)) => Ok(why),
            other => bail!("{other:?}"),
        }
    };
    for site in SITES.map(SiteId) {
        let newest = Term { epoch, node: owner.parse()? };
        let stale = ask(ROOM, &old, old_epoch, site).await.context("under the term before")?;
        ensure!(stale == SiteRefused::Stale { newest }, "a stale term: {stale:?}");
        let unknown = ask("nowhere", &old, epoch, site).await.context("of another room")?;
        ensure!(unknown == SiteRefused::NotThere, "{site:?} of another room: {unknown:?}");
    }
    // Whoever says it, it is the room's owner's to say.
    let others = ask(ROOM, &owner, epoch, SiteId(2)).await.context("in another's name")?;
    ensure!(others == SiteRefused::NotNow, "in another's name: {others:?}");
    kill(process, "CONT")?;

    for (why, count) in [("stale", 4.0), ("not_there", 4.0), ("not_now", 1.0)] {
        metric(cluster, "m2", &format!("{REFUSED}{{why=\"{why}\"}}"), count).await?;
    }
    let told = |word: &str| {
        let log = cluster.node("m2").log();
        log.iter().filter(|line| line.contains("a room's site is refused") && line.contains(word)).count()
    };
    until(PATIENCE, "the log says so", || {
        Ok(told("the room has another owner") == 4 && told("taken up already") == 4)
    })
    .await?;
    undisturbed(&peers).await.context("after")?;
    ensure!(cluster.owner(ROOM)?.as_deref() == Some(&*owner), "the room stays where it is");
    let lost = cluster.node(&owner).metric("tureen_far_sites_total{result=\"lost\"}")?;
    ensure!(lost.is_none(), "{lost:?} sites were lost");
    for peer in peers {
        peer.leave().await;
    }
    metric(cluster, "m2", "tureen_transports", 0.0).await
}

/// What a node says of itself in the store.
fn registered(cluster: &Cluster, name: &str) -> Result<Node> {
    let found = cluster.redis.command(&["HGET", &format!("server:{name}"), "node"])?;
    Ok(serde_json::from_str(found.first().context("registered")?)?)
}
