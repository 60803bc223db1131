//! Networks that part, with namespaces: three media nodes, each on a machine of its own, one of which a signal node shares; the
//! other signal node, Redis and the callers are at the hub between them.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bench::endpoint::Identity;
use bench::peer::{Peer, Seat};
use bench::source::Shape;
use rtc::srtp::Profile;
use tests::{Cluster, Network, Redis, ServerOptions, tureen};
use tokio::runtime::Runtime;

const SHAPES: [Shape; 2] = [Shape::AUDIO, Shape::THIN_VIDEO];
const MEDIA: Duration = Duration::from_secs(15);
/// The node whose machine is parted from others, and who has the room when that happens.
const OWNER: &str = "m1";

/// What an owner does that is cut off with some of its clients: it lets nobody in, for it cannot know that the room is still its
/// own; and it is not, for the others have claimed it. When the network heals, one owner is left.
#[test]
fn an_owner_that_is_cut_off_lets_nobody_in_and_the_room_lives_elsewhere() -> Result<()> {
    let network = Network::new(3)?;
    network.server().within(|| {
        let cluster = parted_cluster(&network)?;
        let (runtime, identity) = (runtime()?, Arc::new(Identity::new(&Profile::PREFERENCE)?));
        let island = &network.clients()[0];
        let (room, mut pair) = runtime.block_on(room_of(&cluster, &identity, OWNER))?;
        let epoch = cluster.epoch(&room)?.context("an epoch")?;

        island.cut(&["iifname up0", "oifname up0"])?;
        let cut = Instant::now();
        let again = runtime.block_on(async {
            for peer in &mut pair {
                peer.closed().await;
            }
            join_both(&cluster, &identity, &room).await.context("after the cut")
        })?;
        println!("media again {:.2} s after the owner was cut off", cut.elapsed().as_secs_f64());
        let heir = cluster.owner(&room)?.context("an heir")?;
        ensure!(heir != OWNER, "who is cut off has the room");
        let heirs = cluster.epoch(&room)?.context("an epoch")?;
        ensure!(heirs > epoch, "epochs rise: {epoch}, then {heirs}");

        // Whoever is on the island with the old owner is not let in.
        let inside = seat(&cluster, "s1", &room, "c");
        let joined = island
            .within(|| Ok(self::runtime()?.block_on(Peer::join(&inside, &identity, &SHAPES)).map(drop)))?;
        ensure!(joined.is_err(), "the fenced owner let somebody in");

        island.restore()?;
        let healed = Instant::now();
        cluster.wait_assembled()?;
        println!("all hear all {:.2} s after the cut was mended", healed.elapsed().as_secs_f64());
        ensure!(cluster.owner(&room)?.as_ref() == Some(&heir), "the loser took the room back");
        ensure!(cluster.epoch(&room)? == Some(heirs), "the heir's epoch stays");
        // By the signal node of the island, too, the room is the heir's: the new peer hears those who are there.
        runtime.block_on(async {
            let mut late = Peer::join(&seat(&cluster, "s1", &room, "d"), &identity, &SHAPES).await?;
            late.wait_for_media(4, 5, MEDIA).await.context("through the island's signal node")
        })?;
        drop(again);
        Ok(())
    })
}

/// Parted from one other node, or from Redis alone, an owner keeps its room and its calls: a majority hears it. Parted from one
/// node, it lets peers in, too.
#[test]
fn an_owner_that_is_parted_from_one_node_or_from_redis_keeps_its_room() -> Result<()> {
    let network = Network::new(3)?;
    network.server().within(|| {
        let cluster = parted_cluster(&network)?;
        let (runtime, identity) = (runtime()?, Arc::new(Identity::new(&Profile::PREFERENCE)?));
        let machine = &network.clients()[0];
        let (room, pair) = runtime.block_on(room_of(&cluster, &identity, OWNER))?;
        let epoch = cluster.epoch(&room)?;

        let other = at(2);
        let from_redis = cluster.redis.port();
        for (number, cut) in [
            [format!("ip saddr {other}"), format!("ip daddr {other}")],
            [format!("tcp sport {from_redis}"), format!("tcp dport {from_redis}")],
        ]
        .iter()
        .enumerate()
        {
            machine.cut(&cut.each_ref().map(String::as_str))?;
            if number == 0 {
                until("the owner hears one node less", || {
                    Ok(cluster.node(OWNER).metric("tureen_cluster_nodes_linked")? == Some(3.0))
                })?;
            } else {
                until("the store hears the owner no more", || {
                    let metrics = cluster.redis.command(&["EXISTS", &format!("server:{OWNER}:metrics")])?;
                    Ok(metrics == ["0"])
                })?;
            }
            if number == 0 {
                runtime.block_on(async {
                    let seat = seat(&cluster, "s2", &room, "late");
                    let mut late = Peer::join(&seat, &identity, &SHAPES).await.context("while parted")?;
                    late.wait_for_media(4, 5, MEDIA).await?;
                    late.leave().await;
                    Ok::<_, anyhow::Error>(())
                })?;
            }
            let packets = |peer: &Peer| peer.streams().values().map(|stream| stream.received).sum::<u64>();
            let before = pair.each_ref().map(packets);
            until("both still hear each other", || {
                Ok(pair.iter().zip(before).all(|(peer, before)| packets(peer) > before + 100))
            })?;
            ensure!(pair.iter().all(|peer| !peer.is_closed()), "a session ended");
            machine.restore()?;
            cluster.wait_assembled()?;
            ensure!(cluster.owner(&room)?.as_deref() == Some(OWNER), "somebody else has the room");
            ensure!(cluster.epoch(&room)? == epoch, "an owner that keeps its room keeps its epoch");
        }
        Ok(())
    })
}

/// m1 and s1 on the first machine, m2 and m3 on machines of their own, s2 and Redis at the hub, where the caller must be.
fn parted_cluster(network: &Network) -> Result<Cluster> {
    let folder = tempfile::tempdir()?;
    let certificates = folder.path().to_str().context("UTF-8")?.to_owned();
    make_certificate(&["ca", "--out", &certificates])?;
    for name in ["m1", "m2", "m3", "s1", "s2"] {
        let san = address_of(name).to_string();
        make_certificate(&["node", name, "--ca", &certificates, "--out", &certificates, "--san", &san])?;
    }
    let machines: Vec<String> = network.clients().iter().map(|machine| machine.name().to_owned()).collect();
    let adjust = move |name: &str, node: ServerOptions| {
        let ip = address_of(name);
        let node = match machine_of(name) {
            Some(number) => node.in_namespace_named(&machines[number - 1]),
            None => node,
        };
        node.set("--listen", format!("{ip}:0"))
            .set("--link-listen", format!("{ip}:0"))
            .set("--link-tls-dir", folder.path())
            .arg("--insecure-listen-anywhere")
            .arg("--insecure-no-tokens")
    };
    Cluster::start_on(Redis::start_at(Network::SERVER)?, 2, 3, adjust)
}

/// The number of the machine that a node is on; the hub has none.
fn machine_of(name: &str) -> Option<usize> {
    match name {
        "m1" | "s1" => Some(1),
        "m2" => Some(2),
        "m3" => Some(3),
        _ => None,
    }
}

fn at(machine: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 231, u8::try_from(machine).expect("few machines"), 2)
}

fn address_of(name: &str) -> Ipv4Addr {
    machine_of(name).map_or(Network::SERVER, at)
}

fn make_certificate(arguments: &[&str]) -> Result<()> {
    let made = Command::new(tureen()?).arg("cert").args(arguments).output()?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Ok(())
}

fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

fn seat(cluster: &Cluster, signal: &str, room: &str, peer: &str) -> Seat {
    Seat { url: cluster.websocket_url(signal), room_id: room.to_owned(), peer_id: peer.to_owned() }
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
    let mut first = Peer::join(&seat(cluster, "s2", room, "a"), identity, &SHAPES).await?;
    let mut second = Peer::join(&seat(cluster, "s2", room, "b"), identity, &SHAPES).await?;
    first.wait_for_media(2, 5, MEDIA).await?;
    second.wait_for_media(2, 5, MEDIA).await?;
    Ok([first, second])
}

fn until(what: &str, so: impl Fn() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !so()? {
        ensure!(begun.elapsed() < Duration::from_secs(20), "not in time: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
