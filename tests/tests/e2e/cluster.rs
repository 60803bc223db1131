//! Several nodes with one Redis: rooms are found wherever they run, and survive what dies. Peers are synthetic, with real
//! ICE, DTLS and SRTP; each pair of a room's peers must have each other's audio and video.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bench::endpoint::Identity;
use bench::peer::Peer;
use bench::source::Shape;
use rtc::srtp::Profile;
use tests::{Cluster, kill, runtime, until};

const SHAPES: [Shape; 2] = [Shape::AUDIO, Shape::THIN_VIDEO];
/// How long streams may take to move once everybody is in.
const MEDIA: Duration = Duration::from_secs(10);

fn identity() -> Result<Arc<Identity>> {
    Ok(Arc::new(Identity::new(&Profile::PREFERENCE)?))
}

/// Two peers in a room, through different signal nodes, who receive each other.
async fn pair(cluster: &Cluster, identity: &Arc<Identity>, room: &str) -> Result<[Peer; 2]> {
    let mut first = Peer::join(&cluster.seat("s1", room, "a"), identity, &SHAPES).await?;
    let mut second = Peer::join(&cluster.seat("s2", room, "b"), identity, &SHAPES).await?;
    first.wait_for_media(2, 5, MEDIA).await.context("a receives b")?;
    second.wait_for_media(2, 5, MEDIA).await.context("b receives a")?;
    Ok([first, second])
}

#[test]
fn peers_of_different_signal_nodes_share_rooms_on_all_media_nodes() -> Result<()> {
    let cluster = Cluster::start(2, 3)?;
    let identity = identity()?;
    runtime()?.block_on(async {
        let mut peers = Vec::new();
        let mut owners = BTreeSet::new();
        for number in 0..12 {
            let room = format!("room-{number}");
            peers.push(pair(&cluster, &identity, &room).await.with_context(|| room.clone())?);
            owners.extend(cluster.owner(&room)?);
        }
        ensure!(owners.len() == 3, "twelve rooms are on {owners:?} only");
        for peer in peers.into_iter().flatten() {
            peer.leave().await;
        }
        let released = || Ok(cluster.owner("room-0")?.is_none());
        until(Duration::from_secs(20), "the lease of an empty room is released", released).await
    })
}

#[test]
fn a_killed_media_node_loses_no_room() -> Result<()> {
    let mut cluster = Cluster::start(2, 3)?;
    let identity = identity()?;
    runtime()?.block_on(async {
        let [mut first, mut second] = pair(&cluster, &identity, "r").await?;
        let (owner, epoch) = (cluster.owner("r")?.context("an owner")?, cluster.epoch("r")?);
        cluster.kill(&owner)?;
        let killed = Instant::now();
        first.closed().await;
        second.closed().await;
        let peers = pair(&cluster, &identity, "r").await.context("after the node's death")?;
        let back = killed.elapsed();
        println!("media again {:.2} s after the kill of {owner}", back.as_secs_f64());
        let heir = cluster.owner("r")?.context("an heir")?;
        ensure!(heir != owner, "{owner} is dead and has the room");
        ensure!(cluster.epoch("r")? > epoch, "epochs must rise");
        ensure!(back < Duration::from_secs(3), "{back:?}");
        drop(peers);
        Ok(())
    })
}

/// A process that hangs answers nobody, and its port still takes connections: silence, and no proof of death.
#[test]
fn a_frozen_media_node_is_replaced_and_steps_down_when_it_thaws() -> Result<()> {
    let cluster = Cluster::start(2, 3)?;
    let identity = identity()?;
    runtime()?.block_on(async {
        let [mut first, mut second] = pair(&cluster, &identity, "r").await?;
        let owner = cluster.owner("r")?.context("an owner")?;
        let frozen = cluster.node(&owner);
        kill(frozen.pid(), "STOP")?;
        let stopped = Instant::now();
        first.closed().await;
        second.closed().await;
        let _peers = pair(&cluster, &identity, "r").await.context("after the node froze")?;
        let back = stopped.elapsed();
        println!("media again {:.2} s after {owner} froze", back.as_secs_f64());
        ensure!(back < Duration::from_secs(5), "{back:?}");
        let heir = cluster.owner("r")?.context("an heir")?;
        ensure!(heir != owner, "{owner} is frozen and has the room");
        kill(frozen.pid(), "CONT")?;
        frozen.wait_for_log(Duration::from_secs(10), |line| {
            line.contains("another node has the room now").then_some(())
        })?;
        cluster.wait_assembled()?;
        ensure!(cluster.owner("r")?.as_ref() == Some(&heir), "who thaws takes nothing back");
        Ok(())
    })
}

#[test]
fn a_killed_signal_node_is_replaced_by_another() -> Result<()> {
    let mut cluster = Cluster::start(2, 1)?;
    let identity = identity()?;
    runtime()?.block_on(async {
        let [mut first, second] = pair(&cluster, &identity, "r").await?;
        let before = second.streams().values().map(|stream| stream.received).sum::<u64>();
        cluster.kill("s1")?;
        first.closed().await;
        let mut again = Peer::join(&cluster.seat("s2", "r", "a"), &identity, &SHAPES).await?;
        again.wait_for_media(2, 5, MEDIA).await?;
        ensure!(second.streams().values().map(|stream| stream.received).sum::<u64>() >= before);
        Ok(())
    })
}

#[test]
fn redis_may_die_and_forget_while_calls_go_on() -> Result<()> {
    let mut cluster = Cluster::start(2, 2)?;
    let identity = identity()?;
    runtime()?.block_on(async {
        let peers = pair(&cluster, &identity, "r").await?;
        let (owner, epoch) =
            (cluster.owner("r")?.context("an owner")?, cluster.epoch("r")?.context("an epoch")?);
        cluster.redis.kill()?;
        let mut third = Peer::join(&cluster.seat("s1", "r", "c"), &identity, &SHAPES)
            .await
            .context("a room that is known takes peers in without the store")?;
        third.wait_for_media(4, 5, MEDIA).await?;
        // Broadcasters ask over HTTP whether there is such a room.
        let s1 = cluster.node("s1").authority().parse()?;
        for (room, status) in [("r", "200"), ("nobody-s", "404")] {
            let answer = super::front::get(s1, &format!("/rooms/{room}"))?;
            ensure!(answer.split(' ').nth(1) == Some(status), "room {room} without the store: {answer:.300}");
        }
        cluster.redis.restart()?;
        let returned = Instant::now();
        let known = || Ok(cluster.owner("r").ok().flatten().as_ref() == Some(&owner));
        until(Duration::from_secs(5), "the store knows the room again", known).await?;
        println!("the store knows the room again {:.2} s after its return", returned.elapsed().as_secs_f64());
        ensure!(cluster.epoch("r")? == Some(epoch), "an owner that keeps its room keeps its epoch");

        cluster.redis.command(&["FLUSHALL"])?;
        let mut fourth = Peer::join(&cluster.seat("s2", "r", "d"), &identity, &SHAPES).await?;
        fourth.wait_for_media(6, 5, MEDIA).await.context("after FLUSHALL")?;
        let known = || Ok(cluster.epoch("r")?.is_some());
        until(Duration::from_secs(5), "FLUSHALL is made good", known).await?;
        ensure!(cluster.epoch("r")? >= Some(epoch), "epochs never go back");
        ensure!(cluster.owner("r")?.as_ref() == Some(&owner));
        // A new room, too.
        let _new = pair(&cluster, &identity, "new").await.context("a new room after FLUSHALL")?;
        drop(peers);
        Ok(())
    })
}

/// Redis loses everything again and again while people join: rooms that go on, and rooms that have just begun.
#[test]
fn redis_forgets_everything_while_people_join() -> Result<()> {
    const ROOMS: usize = 8;
    let cluster = Cluster::start(2, 3)?;
    let identity = identity()?;
    runtime()?.block_on(async {
        let mut rooms = Vec::new();
        for number in 0..ROOMS {
            let room = format!("old-{number}");
            let people = Vec::from(pair(&cluster, &identity, &room).await?);
            let (owner, epoch) = (cluster.owner(&room)?, cluster.epoch(&room)?.context("an epoch")?);
            rooms.push((room, people, owner, epoch));
        }
        let mut new = Vec::new();
        for (number, (room, people, ..)) in rooms.iter_mut().enumerate() {
            if number % 3 == 0 {
                cluster.redis.command(&["FLUSHALL"])?;
            }
            let begun = format!("new-{number}");
            let (here, there) = if number % 2 == 0 { ("s1", "s2") } else { ("s2", "s1") };
            let seats = [
                cluster.seat(here, room, "late"),
                cluster.seat(there, &begun, "a"),
                cluster.seat(there, &begun, "b"),
            ];
            let [late, first, second] = seats.each_ref().map(|seat| Peer::join(seat, &identity, &SHAPES));
            let (late, first, second) = tokio::join!(late, first, second);
            people.push(late.with_context(|| format!("late in {room}"))?);
            new.push((begun, [first.context("the first in a room")?, second.context("the second")?]));
        }
        cluster.redis.command(&["FLUSHALL"])?;
        let flushed = Instant::now();
        let all_known = || {
            let old = rooms.iter().map(|(room, ..)| room);
            let known = old.chain(new.iter().map(|(room, _)| room)).map(|room| cluster.owner(room));
            Ok(known.collect::<Result<Vec<_>>>()?.iter().all(Option::is_some))
        };
        until(Duration::from_secs(5), "the store knows all rooms again", all_known).await?;
        println!("{} rooms known again after {:.2?}", rooms.len() + new.len(), flushed.elapsed());
        for (room, people, owner, epoch) in &mut rooms {
            ensure!(cluster.owner(room)? == *owner, "{room} has gone elsewhere");
            ensure!(cluster.epoch(room)? >= Some(*epoch), "epochs never go back");
            for peer in people {
                peer.wait_for_media(4, 1, MEDIA).await.with_context(|| room.clone())?;
                let before = peer.streams();
                let all_move = || {
                    let now = peer.streams();
                    Ok(before.iter().all(|(ssrc, was)| now[ssrc].received > was.received))
                };
                until(MEDIA, "all streams go on", all_move).await.with_context(|| room.clone())?;
                ensure!(!peer.is_closed(), "a session of {room} ended");
            }
        }
        for (room, people) in &mut new {
            for peer in people {
                peer.wait_for_media(2, 20, MEDIA).await.with_context(|| room.clone())?;
            }
        }
        Ok(())
    })
}

#[test]
fn a_stopped_media_node_hands_its_rooms_over() -> Result<()> {
    let mut cluster = Cluster::start(2, 2)?;
    let identity = identity()?;
    runtime()?.block_on(async {
        let [mut first, mut second] = pair(&cluster, &identity, "r").await?;
        let owner = cluster.owner("r")?.context("an owner")?;
        cluster.stop(&owner)?;
        first.closed().await;
        second.closed().await;
        let _peers = pair(&cluster, &identity, "r").await?;
        ensure!(cluster.owner("r")?.is_some_and(|heir| heir != owner));
        Ok(())
    })
}

#[test]
fn of_two_processes_with_one_name_the_older_ends() -> Result<()> {
    let mut cluster = Cluster::start(1, 2)?;
    let older = cluster.take("m1");
    cluster.add("m1", "media")?;
    let status = older.wait(Duration::from_secs(15))?;
    ensure!(!status.success(), "it must say that something was wrong");
    cluster.wait_assembled()
}
