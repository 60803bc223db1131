//! The people of a call: what each does, how they come, and where their media is.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bench::source::Shape;

use super::Case;
use super::member::{Client, Habits, Member};
use crate::{Cluster, proc};

/// How many come at once.
const COME: usize = 8;
/// How soon after an answer somebody asks anew who asks all the time.
const ASKS_OFTEN: Duration = Duration::from_millis(50);
/// In a crowd, where every question is news for all others, the rest ask so often.
const ASKS: Duration = Duration::from_secs(2);
/// In a crowd, so many ask all the time and send video, and so many send sound.
const LIVELY: usize = 2;
const SPEAKERS: usize = 30;
/// Ten packets a second: what counts is whether a stream moves.
const THIN_AUDIO: Shape = Shape { frames_per_second: 10, ..Shape::AUDIO };

/// What somebody does.
pub(super) fn habits(case: Case, client: Client, number: usize) -> Habits {
    if case != Case::CrowdDrain {
        return Habits { client, shapes: vec![Shape::AUDIO], ask_every: ASKS_OFTEN };
    }
    let is_lively = number < LIVELY;
    let shapes = match number {
        _ if is_lively => vec![THIN_AUDIO, Shape::THIN_VIDEO],
        _ if number < SPEAKERS => vec![THIN_AUDIO],
        _ => Vec::new(),
    };
    Habits { client, shapes, ask_every: if is_lively { ASKS_OFTEN } else { ASKS } }
}

/// Has so many come, the first before the others, and waits until all hear all.
pub(super) async fn gather(
    people: usize,
    within: Duration,
    join: impl Fn(usize) -> Member,
) -> Result<Vec<Member>> {
    let deadline = Instant::now() + within;
    let mut members: Vec<Member> = Vec::new();
    for number in 0..people {
        members.push(join(number));
        if number == 0 || members.len().is_multiple_of(COME) {
            for member in members.iter().rev().take(COME) {
                member.joins(deadline.saturating_duration_since(Instant::now())).await?;
            }
        }
    }
    loop {
        match what_stands_still(&members) {
            None => return Ok(members),
            Some(still) => ensure!(Instant::now() < deadline, "{still}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Whose streams do not move, but should, if anybody's.
pub(super) fn what_stands_still(members: &[Member]) -> Option<String> {
    let all: usize = members.iter().map(Member::sends).sum();
    let mut still = members.iter().enumerate().filter_map(|(number, member)| {
        let (flowing, expected) = (member.heard().flowing, all - member.sends());
        (flowing != expected).then(|| format!("{flowing} of {expected} streams move at p{number}"))
    });
    still.next()
}

/// Where members' media is.
pub(super) struct Places<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) nodes: &'a [&'a str],
}

impl Places<'_> {
    /// The nodes where some members' media is, and the workers that carry it: the processes whose sockets it goes to.
    pub(super) fn all(&self, members: &[Member]) -> Result<Vec<(String, u32)>> {
        let mut workers = Vec::new();
        for node in self.nodes {
            for worker in self.cluster.node(node).workers()? {
                workers.push(((*node).to_owned(), worker, udp(worker)?));
            }
        }
        let mut places = Vec::new();
        for member in members {
            let media = member.heard().media.context("not joined")?;
            let place = workers.iter().find(|(_, _, bound)| bound.iter().any(|bound| takes(*bound, media)));
            let (node, worker, _) = place.with_context(|| format!("no worker is at {media}"))?;
            places.push((node.clone(), *worker));
        }
        places.sort();
        places.dedup();
        Ok(places)
    }

    /// The same, where it must be one.
    pub(super) fn one(&self, members: &[Member]) -> Result<(String, u32)> {
        match self.all(members)?.as_slice() {
            [place] => Ok(place.clone()),
            places => bail!("they are at several workers: {places:?}"),
        }
    }
}

/// Where a process takes datagrams.
fn udp(pid: u32) -> Result<Vec<SocketAddr>> {
    let sockets = proc::listening(pid)?;
    Ok(sockets.iter().filter(|socket| socket.protocol == "udp").map(|socket| socket.address).collect())
}

/// Whether what is bound there takes what is sent to an address.
fn takes(bound: SocketAddr, address: SocketAddr) -> bool {
    bound.port() == address.port() && (bound.ip() == address.ip() || bound.ip().is_unspecified())
}
