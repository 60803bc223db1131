//! Networks that part, with namespaces: three media nodes, each on a machine of its own, one of which a signal node shares; the
//! other signal node, Redis and the callers are at the hub between them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bench::endpoint::Identity;
use bench::peer::Peer;
use bench::source::Shape;
use rtc::srtp::Profile;
use tests::{Cluster, Namespace, Network, blocking_until, machine_address, runtime};
use tokio::runtime::Runtime;

const SHAPES: [Shape; 2] = [Shape::AUDIO, Shape::THIN_VIDEO];
const MEDIA: Duration = Duration::from_secs(15);
/// How long the nodes may take to do what they do when they are parted.
const PATIENCE: Duration = Duration::from_secs(20);
/// The node whose machine is parted from others, and who has the room when that happens.
const OWNER: &str = "m1";

/// What an owner does that is cut off with some of its clients: it lets nobody in, for it cannot know that the room is still its
/// own; and it is not, for the others have claimed it. When the network heals, one owner is left.
#[test]
fn an_owner_that_is_cut_off_lets_nobody_in_and_the_room_lives_elsewhere() -> Result<()> {
    in_a_call(|call| {
        let Call { pair, runtime, identity, cluster, machine: island, room, epoch } = call;
        island.cut(&["iifname up0", "oifname up0"])?;
        let cut = Instant::now();
        let again = runtime.block_on(async {
            for peer in pair {
                peer.closed().await;
            }
            join_both(cluster, identity, room).await.context("after the cut")
        })?;
        println!("media again {:.2} s after the owner was cut off", cut.elapsed().as_secs_f64());
        let heir = cluster.owner(room)?.context("an heir")?;
        ensure!(heir != OWNER, "who is cut off has the room");
        let heirs = cluster.epoch(room)?.context("an epoch")?;
        ensure!(heirs > *epoch, "epochs rise: {epoch}, then {heirs}");

        // Whoever is on the island with the old owner is not let in.
        let inside = cluster.seat("s1", room, "c");
        let joined = island
            .within(|| Ok(tests::runtime()?.block_on(Peer::join(&inside, identity, &SHAPES)).map(drop)))?;
        ensure!(joined.is_err(), "the fenced owner let somebody in");

        island.restore()?;
        let healed = Instant::now();
        cluster.wait_assembled()?;
        println!("all hear all {:.2} s after the cut was mended", healed.elapsed().as_secs_f64());
        ensure!(cluster.owner(room)?.as_ref() == Some(&heir), "the loser took the room back");
        ensure!(cluster.epoch(room)? == Some(heirs), "the heir's epoch stays");
        // By the signal node of the island, too, the room is the heir's: the new peer hears those who are there.
        runtime.block_on(async {
            let mut late = Peer::join(&cluster.seat("s1", room, "d"), identity, &SHAPES).await?;
            late.wait_for_media(4, 5, MEDIA).await.context("through the island's signal node")
        })?;
        drop(again);
        Ok(())
    })
}

/// Parted from one other node, an owner keeps its room and its calls, and lets peers in: a majority hears it.
#[test]
fn an_owner_that_is_parted_from_one_node_keeps_its_room() -> Result<()> {
    in_a_call(|call| {
        let Call { cluster, machine, room, epoch, .. } = &*call;
        let other = machine_address(Some(2));
        machine.cut(&[&format!("ip saddr {other}"), &format!("ip daddr {other}")])?;
        blocking_until(PATIENCE, "the owner hears one node less", || {
            Ok(cluster.node(OWNER).metric("tureen_cluster_nodes_linked")? == Some(3.0))
        })?;
        let before = call.packets();
        call.late_peer("s2").context("while parted")?;
        call.goes_on(before)?;
        machine.restore()?;
        cluster.wait_assembled()?;
        ensure!(cluster.owner(room)?.as_deref() == Some(OWNER), "somebody else has the room");
        ensure!(cluster.epoch(room)? == Some(*epoch), "an owner that keeps its room keeps its epoch");
        Ok(())
    })
}

/// Parted from Redis alone, an owner cannot know for long that the room is still its own: it hands it to a node that can, with
/// all who are in it, and peers are let in there. Their media stays where it is, and stays there when the cut is mended.
#[test]
fn an_owner_that_is_parted_from_redis_alone_hands_its_room_on() -> Result<()> {
    in_a_call(|call| {
        let Call { cluster, machine, room, epoch, .. } = &*call;
        let redis = cluster.redis.port();
        machine.cut(&[&format!("tcp sport {redis}"), &format!("tcp dport {redis}")])?;
        let cut = Instant::now();
        let before = call.packets();
        let taken_over = || {
            let others =
                ["m2", "m3"].map(|node| cluster.node(node).metric("tureen_cluster_rooms_taken_over_total"));
            let [m2, m3] = others;
            Ok(m2?.unwrap_or(0.0) + m3?.unwrap_or(0.0) == 1.0)
        };
        blocking_until(PATIENCE, "another node has taken over the room", taken_over)?;
        println!(
            "another node has the room {:.2} s after its owner was parted from Redis",
            cut.elapsed().as_secs_f64()
        );
        let heir = cluster.owner(room)?.context("an heir")?;
        ensure!(heir != OWNER, "who does not reach Redis has the room");
        ensure!(cluster.epoch(room)? > Some(*epoch), "epochs rise");
        call.late_peer("s2").context("while parted")?;
        call.goes_on(before)?;

        machine.restore()?;
        cluster.wait_assembled()?;
        call.goes_on(call.packets())?;
        ensure!(cluster.owner(room)?.as_ref() == Some(&heir), "the loser took the room back");
        // By the signal node that did not reach Redis either, too.
        call.late_peer("s1").context("after the cut was mended")
    })
}

/// Two peers who came by the hub, in a room of [`OWNER`]'s.
struct Call<'a> {
    pair: [Peer; 2],
    runtime: Runtime,
    identity: Arc<Identity>,
    cluster: Cluster,
    /// The owner's.
    machine: &'a Namespace,
    room: String,
    epoch: u64,
}

/// What is to be seen when the network parts: all of it at the hub.
fn in_a_call(test: impl FnOnce(&mut Call<'_>) -> Result<()> + Send) -> Result<()> {
    let network = Network::new(3)?;
    network.server().within(|| test(&mut Call::begin(&network)?))
}

impl<'a> Call<'a> {
    /// m1 and s1 on the first machine, m2 and m3 on machines of their own, s2 and Redis at the hub.
    fn begin(network: &'a Network) -> Result<Self> {
        let machine_of = |name: &str| match name {
            "m1" | "s1" => Some(1),
            "m2" => Some(2),
            "m3" => Some(3),
            _ => None,
        };
        let cluster = Cluster::start_on_machines(network, 2, 3, machine_of, |_, node| node)?;
        let (runtime, identity) = (runtime()?, Arc::new(Identity::new(&Profile::PREFERENCE)?));
        let (room, pair) = runtime.block_on(room_of(&cluster, &identity, OWNER))?;
        let epoch = cluster.epoch(&room)?.context("an epoch")?;
        Ok(Self { pair, runtime, identity, cluster, machine: &network.clients()[0], room, epoch })
    }

    fn packets(&self) -> [u64; 2] {
        self.pair.each_ref().map(|peer| peer.streams().values().map(|stream| stream.received).sum())
    }

    /// Both have heard each other since then, in the sessions that they had, and nothing was lost on the way.
    fn goes_on(&self, before: [u64; 2]) -> Result<()> {
        blocking_until(PATIENCE, "both still hear each other", || {
            Ok(self.packets().into_iter().zip(before).all(|(now, before)| now > before + 100))
        })?;
        ensure!(self.pair.iter().all(|peer| !peer.is_closed()), "a session ended");
        ensure!(
            self.pair.iter().all(|peer| peer.streams().values().all(|stream| stream.missing == 0)),
            "packets are missing"
        );
        Ok(())
    }

    /// Somebody joins, hears both, and leaves.
    fn late_peer(&self, signal: &str) -> Result<()> {
        self.runtime.block_on(async {
            let seat = self.cluster.seat(signal, &self.room, "late");
            let mut late = Peer::join(&seat, &self.identity, &SHAPES).await?;
            late.wait_for_media(4, 5, MEDIA).await?;
            late.leave().await;
            Ok(())
        })
    }
}

/// A room that this node has, with two peers who came by the hub.
async fn room_of(cluster: &Cluster, identity: &Arc<Identity>, owner: &str) -> Result<(String, [Peer; 2])> {
    const ATTEMPTS: usize = 64;
    for number in 0..ATTEMPTS {
        let room = format!("room-{number}");
        let pair = join_both(cluster, identity, &room).await?;
        if cluster.owner(&room)?.as_deref() == Some(owner) {
            return Ok((room, pair));
        }
        for peer in pair {
            peer.leave().await;
        }
    }
    anyhow::bail!("{owner} has none of {ATTEMPTS} rooms")
}

async fn join_both(cluster: &Cluster, identity: &Arc<Identity>, room: &str) -> Result<[Peer; 2]> {
    let mut first = Peer::join(&cluster.seat("s2", room, "a"), identity, &SHAPES).await?;
    let mut second = Peer::join(&cluster.seat("s2", room, "b"), identity, &SHAPES).await?;
    first.wait_for_media(2, 5, MEDIA).await?;
    second.wait_for_media(2, 5, MEDIA).await?;
    Ok([first, second])
}
