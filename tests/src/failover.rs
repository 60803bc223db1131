//! What people notice when a part of a cluster dies: the time without sound, and the packets that never come.
//!
//! Two or three peers talk in one room through nginx and signal nodes, and do what mediasoup-demo's client does: whoever's
//! WebSocket ends connects again at once and joins anew.

mod member;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bench::endpoint::Identity;
use clap::ValueEnum;
use rtc::srtp::Profile;
use serde::Serialize;
use testkit::proxy;
use testkit::redis::{Clustered, Server as RedisServer, Watched};

use crate::{Cluster, Nginx, proc};
use member::{Heard, Member};

/// How long a room is watched after harm, at the least.
const WATCHED: Duration = Duration::from_secs(5);
/// How long nothing may be missing before an outage is called over.
const SETTLED: Duration = Duration::from_secs(2);
/// An outage that is not over by then is not going to be.
const OVER_WITHIN: Duration = Duration::from_secs(40);
/// Sound comes every 20 ms: a pause that is longer than this is one.
const PAUSE: Duration = Duration::from_millis(200);
/// How long workers are compared to tell which of them has the room.
const BUSY_FOR: Duration = Duration::from_millis(400);
/// How late answers are in [`Case::RedisLate`].
const LATE: Duration = Duration::from_millis(200);

/// What dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Case {
    /// The worker that has the room, by SIGKILL.
    WorkerKill,
    /// The media node that has the room, with its workers.
    MediaNodeKill,
    /// The signal node that the room's clients are at.
    SignalNodeKill,
    /// Redis is killed, and comes back empty.
    RedisAway,
    /// The master behind Sentinels.
    SentinelFailover,
    /// The master of a Redis Cluster that has the room's key.
    ClusterFailover,
    /// Redis answers 200 ms late, from the beginning.
    RedisLate,
}

impl Case {
    /// Whether it is about Redis: running calls must not notice.
    pub fn spares_calls(self) -> bool {
        matches!(self, Self::RedisAway | Self::SentinelFailover | Self::ClusterFailover | Self::RedisLate)
    }

    /// Whether a replica takes a master's place.
    pub fn promotes(self) -> bool {
        matches!(self, Self::SentinelFailover | Self::ClusterFailover)
    }

    /// Its name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// What one run measured.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Outcome {
    /// The longest time without a packet of sound, over all who listened before the harm.
    pub silent_ms: u64,
    /// From the harm until the last of those whose WebSocket ended had joined again; zero where none ended.
    pub joined_again_ms: u64,
    /// Packets lost during the harm, in millionths of those sent.
    pub lost_ppm: u64,
    /// The same in as long a time before it.
    pub control_lost_ppm: u64,
    /// How long somebody took to join the known room while Redis was harmed.
    pub known_room_ms: Option<u64>,
    /// From Redis' return (for a failover: from the master's death) until a room that nobody knew was opened.
    pub new_room_ms: Option<u64>,
}

/// A store in trouble.
enum Trouble {
    None,
    Sentinel(Watched),
    Cluster(Clustered),
    Late { _server: RedisServer },
}

/// A cluster with a front, on which runs of one case follow each other.
pub struct Bed {
    case: Case,
    cluster: Cluster,
    nginx: Nginx,
    trouble: Trouble,
    identity: Arc<Identity>,
    runs: usize,
}

impl Bed {
    /// Starts it.
    pub fn start(case: Case) -> Result<Self> {
        let (trouble, url) = match case {
            Case::SentinelFailover => {
                let watched = Watched::start();
                let url = watched.url();
                (Trouble::Sentinel(watched), Some(url))
            }
            Case::ClusterFailover => {
                let clustered = Clustered::start();
                let url = clustered.url();
                (Trouble::Cluster(clustered), Some(url))
            }
            Case::RedisLate => {
                let server = RedisServer::start(&[]);
                let url = format!("redis://{}", proxy::late(server.host(), LATE));
                (Trouble::Late { _server: server }, Some(url))
            }
            _ => (Trouble::None, None),
        };
        let workers = if case == Case::WorkerKill { "2" } else { "1" };
        let cluster = Cluster::start_with(2, 3, move |_, node| {
            let node = node.set("--workers", workers).set("--log", "info,signaling=debug");
            if let Some(url) = &url { node.set("--redis", url) } else { node }
        })?;
        let upstreams: Result<Vec<_>> =
            ["s1", "s2"].into_iter().map(|name| Ok(cluster.node(name).authority().parse()?)).collect();
        let nginx = Nginx::start(&upstreams?)?;
        let identity = Arc::new(Identity::new(&Profile::PREFERENCE)?);
        Ok(Self { case, cluster, nginx, trouble, identity, runs: 0 })
    }

    fn join(&self, room: &str, peer: &str) -> Member {
        Member::start(format!("ws://{}/", self.nginx.address()), room, peer, &self.identity)
    }

    /// One run: a call, the harm, and what came of it. `away` is how long Redis is gone, or slowness lasts.
    pub async fn run(&mut self, away: Duration) -> Result<Outcome> {
        self.runs += 1;
        let room = format!("{}-{}", self.case.name(), self.runs);
        let members = [self.join(&room, "a"), self.join(&room, "b")];
        for member in &members {
            member.hears(1, OVER_WITHIN).await.context("before the harm")?;
        }
        let outcome = if self.case.spares_calls() {
            self.spare(&room, &members, away).await?
        } else {
            self.interrupt(&room, &members).await?
        };
        for member in members {
            member.leave().await;
        }
        Ok(outcome)
    }

    /// Harm that a call may notice.
    async fn interrupt(&mut self, room: &str, members: &[Member]) -> Result<Outcome> {
        for member in members {
            member.mark();
        }
        let mut harmed = Instant::now();
        let gone = match self.case {
            Case::WorkerKill => {
                let owner = self.owner(room)?;
                // Of two workers, the one that has the room is the one that sends.
                proc::kill(busiest(&self.cluster.node(&owner).workers()?).await?, "KILL")?;
                harmed = Instant::now();
                None
            }
            Case::MediaNodeKill => {
                let owner = self.owner(room)?;
                self.cluster.kill(&owner)?;
                Some((owner, "media"))
            }
            Case::SignalNodeKill => {
                let here = |name: &&str| {
                    let room = format!("room={room}");
                    self.cluster
                        .node(name)
                        .log()
                        .iter()
                        .any(|line| line.contains("session opened") && line.contains(&room))
                };
                let name = ["s1", "s2"].into_iter().find(here).context("no signal node has the room")?;
                self.cluster.kill(name)?;
                Some((name.to_owned(), "signal"))
            }
            _ => bail!("{:?} interrupts no call", self.case),
        };
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let settled = members.iter().all(|member| member.heard().undisturbed_for(PAUSE) >= SETTLED);
            if settled && harmed.elapsed() >= WATCHED {
                break;
            }
            ensure!(harmed.elapsed() < OVER_WITHIN, "{room}: the call is not as it was");
        }
        let heard: Vec<Heard> = members.iter().map(Member::heard).collect();
        let silent = heard.iter().map(|heard| heard.longest).max().unwrap_or_default();
        let again = heard.iter().filter_map(|heard| heard.joined_again);
        let again = again.map(|at| at.saturating_duration_since(harmed)).max().unwrap_or_default();
        ensure!(!again.is_zero(), "{room}: nobody was interrupted, so what died was not theirs");
        if let Some((name, role)) = gone {
            self.restart(&name, role)?;
        }
        Ok(Outcome { silent_ms: ms(silent), joined_again_ms: ms(again), ..Outcome::default() })
    }

    /// A node that was killed comes back where it was.
    fn restart(&mut self, name: &str, role: &str) -> Result<()> {
        self.cluster.add(name, role)?;
        if role == "signal" {
            let mut arguments = vec!["--port".to_owned(), self.nginx.address().port().to_string()];
            for signal in ["s1", "s2"] {
                arguments.extend(["--upstream".into(), self.cluster.node(signal).authority().to_owned()]);
            }
            self.nginx.reload(&crate::nginx_configuration(arguments.iter().map(String::as_str))?)?;
        }
        self.cluster.wait_assembled()
    }

    /// Harm that a call must not notice: what was lost, beside what was lost before.
    async fn spare(&mut self, room: &str, members: &[Member], away: Duration) -> Result<Outcome> {
        let control = lost_within(members, away).await;
        for member in members {
            member.mark();
        }
        let harmed = Instant::now();
        match &mut self.trouble {
            Trouble::None => self.cluster.redis.kill()?,
            Trouble::Sentinel(watched) => {
                let master = watched
                    .servers
                    .iter_mut()
                    .find(|server| server.cli(&["role"]).starts_with("master"))
                    .context("no master")?;
                master.kill();
            }
            Trouble::Cluster(clustered) => clustered.master_of(&format!("room:{room}")).kill(),
            Trouble::Late { .. } => {}
        }
        let third = self.join(room, "c");
        third.hears(1, OVER_WITHIN).await.context("a known room takes peers in")?;
        let known_room = harmed.elapsed();
        let opened = if self.case.promotes() { Some(self.opens(harmed).await?) } else { None };
        let left = away.saturating_sub(harmed.elapsed());
        let lost = if left.is_zero() { Lost::default() } else { lost_within(members, left).await };
        let opened = match &self.trouble {
            Trouble::None => {
                self.cluster.redis.restart()?;
                Some(self.opens(Instant::now()).await?)
            }
            Trouble::Sentinel(_) | Trouble::Cluster(_) => opened,
            Trouble::Late { .. } => Some(self.opens(Instant::now()).await?),
        };
        third.leave().await;
        let heard: Vec<Heard> = members.iter().map(Member::heard).collect();
        ensure!(heard.iter().all(|heard| heard.joined_again.is_none()), "{room}: a session ended");
        Ok(Outcome {
            silent_ms: ms(heard.iter().map(|heard| heard.longest).max().unwrap_or_default()),
            joined_again_ms: 0,
            lost_ppm: lost.ppm(),
            control_lost_ppm: control.ppm(),
            known_room_ms: Some(ms(known_room)),
            new_room_ms: opened.map(ms),
        })
    }

    /// How long after `since` somebody hears somebody in a room that nobody knew.
    async fn opens(&mut self, since: Instant) -> Result<Duration> {
        self.runs += 1;
        let room = format!("new-{}", self.runs);
        let [one, other] = [self.join(&room, "a"), self.join(&room, "b")];
        one.hears(1, OVER_WITHIN).await.context("a new room")?;
        other.hears(1, OVER_WITHIN).await.context("a new room")?;
        let took = since.elapsed();
        one.leave().await;
        other.leave().await;
        Ok(took)
    }

    fn owner(&self, room: &str) -> Result<String> {
        self.cluster.owner(room)?.with_context(|| format!("nobody has {room}"))
    }
}

/// Of some processes, the one that spends the most CPU now.
async fn busiest(pids: &BTreeSet<u32>) -> Result<u32> {
    let times =
        || -> Result<Vec<Duration>> { pids.iter().map(|pid| bench::cpu::process_time(*pid)).collect() };
    let before = times()?;
    tokio::time::sleep(BUSY_FOR).await;
    let spent = times()?.into_iter().zip(before).map(|(after, before)| after - before);
    Ok(spent.zip(pids.iter().copied()).max().context("no worker runs")?.1)
}

#[derive(Default)]
struct Lost {
    received: u64,
    lost: u64,
}

impl Lost {
    fn ppm(&self) -> u64 {
        self.lost * 1_000_000 / (self.received + self.lost).max(1)
    }
}

async fn lost_within(members: &[Member], time: Duration) -> Lost {
    let sum = || {
        members
            .iter()
            .map(Member::heard)
            .fold((0, 0), |(received, lost), heard| (received + heard.received, lost + heard.missing))
    };
    let before = sum();
    tokio::time::sleep(time).await;
    let after = sum();
    Lost { received: after.0 - before.0, lost: after.1.saturating_sub(before.1) }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
