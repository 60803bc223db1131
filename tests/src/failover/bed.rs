//! A cluster with a front, and what is done to it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bench::endpoint::Identity;
use bench::peer::Seat;
use rtc::srtp::Profile;
use testkit::proxy;
use testkit::redis::{Clustered, Server as RedisServer, Watched};
use tokio::task::block_in_place;

use super::crowd::{self, Places};
use super::member::{Client, Heard, Member};
use super::{Case, DRAINED_WITHIN, Extent, Outcome, PAUSE, ms};
use crate::{Cluster, Network, Nginx, proc};

/// How long a call is watched before harm.
const CONTROL: Duration = Duration::from_secs(3);
/// How long a room is watched after harm, at the least.
const WATCHED: Duration = Duration::from_secs(5);
/// How long nothing may be missing before an outage is called over.
const SETTLED: Duration = Duration::from_secs(2);
/// An outage that is not over by then is not going to be.
const OVER_WITHIN: Duration = Duration::from_secs(40);
/// How late answers are in [`Case::RedisLate`].
const LATE: Duration = Duration::from_millis(200);
const SIGNALS: [&str; 2] = ["s1", "s2"];
const MEDIA: [&str; 3] = ["m1", "m2", "m3"];

/// A store in trouble.
enum Trouble {
    None,
    Sentinel(Watched),
    Cluster(Clustered),
    Late { _server: RedisServer },
}

/// What is to be made good after a run.
enum Broken {
    Nothing,
    /// A node is gone, which had this role.
    Node(String, &'static str),
    /// A node is cut off.
    Network(String),
    /// A node takes no rooms.
    Drained(String),
}

/// Where runs of one case follow each other.
pub(super) struct Bed<'a> {
    case: Case,
    client: Client,
    extent: Extent,
    /// Where media nodes have machines of their own.
    network: Option<&'a Network>,
    cluster: Cluster,
    nginx: Nginx,
    trouble: Trouble,
    identity: Arc<Identity>,
    runs: usize,
}

impl<'a> Bed<'a> {
    /// Starts it; with a network, each media node on a machine of its own, from the network's hub.
    pub(super) fn start(
        case: Case,
        client: Client,
        extent: Extent,
        network: Option<&'a Network>,
    ) -> Result<Self> {
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
        // Then the room is in one, and who comes in through the other has his media there.
        let region = move |name: &str| match case {
            Case::EdgeDrain if !name.ends_with('1') => "us",
            _ => "eu",
        };
        let workers = if case == Case::WorkerKill { "2" } else { "1" };
        let adjust = move |name: &str, node: crate::ServerOptions| {
            let node = node.set("--workers", workers).set("--log", "info,signaling=debug");
            let node = node.set("--region", region(name));
            if let Some(url) = &url { node.set("--redis", url) } else { node }
        };
        let cluster = match network {
            None => Cluster::start_with(SIGNALS.len(), MEDIA.len(), adjust)?,
            Some(network) => {
                Cluster::start_on_machines(network, SIGNALS.len(), MEDIA.len(), machine_of, adjust)?
            }
        };
        let upstreams: Result<Vec<_>> =
            SIGNALS.into_iter().map(|name| Ok(cluster.node(name).authority().parse()?)).collect();
        let nginx = Nginx::start(&upstreams?)?;
        let identity = Arc::new(Identity::new(&Profile::PREFERENCE)?);
        Ok(Self { case, client, extent, network, cluster, nginx, trouble, identity, runs: 0 })
    }

    fn join(&self, room: &str, number: usize) -> Member {
        let url = match self.case {
            Case::EdgeDrain => self.cluster.websocket_url(SIGNALS[number.min(1)]),
            _ => format!("ws://{}/", self.nginx.address()),
        };
        let seat = Seat { url, room_id: room.to_owned(), peer_id: format!("p{number}") };
        Member::start(crowd::habits(self.case, self.client, number), seat, &self.identity)
    }

    /// One run: a call, the harm, and what came of it.
    pub(super) async fn run(&mut self) -> Result<Outcome> {
        self.runs += 1;
        let room = format!("{}-{}", self.case.name(), self.runs);
        let members =
            crowd::gather(self.case.people(self.extent), OVER_WITHIN, |number| self.join(&room, number))
                .await
                .context("before the harm")?;
        let outcome = if self.case.spares_calls() {
            self.spare(&room, &members).await?
        } else {
            self.interrupt(&room, &members).await?
        };
        for member in &members {
            member.leaves();
        }
        for member in members {
            member.left().await;
        }
        Ok(outcome)
    }

    /// Harm that a call may notice.
    async fn interrupt(&mut self, room: &str, members: &[Member]) -> Result<Outcome> {
        for member in members {
            member.mark();
        }
        let before = Counted::of(members);
        tokio::time::sleep(CONTROL).await;
        let control_lost = before.lost_until(Counted::of(members));
        let control = members.iter().map(|member| self.silence(&member.heard())).max().unwrap_or_default();
        let owner = self.cluster.owner(room)?.with_context(|| format!("nobody has {room}"))?;
        // Whose media it is, where, and in which process.
        let touched = if self.case == Case::EdgeDrain { &members[1..] } else { members };
        let (place, worker) = self.places().one(touched).with_context(|| room.to_owned())?;
        ensure!(
            (place == owner) != (self.case == Case::EdgeDrain),
            "{room} is {owner}'s, its media at {place}"
        );
        let signal = self.signal_of(room)?;
        for member in members {
            member.mark();
        }
        let (before, harmed) = (Counted::of(members), Instant::now());
        let broken = match self.case {
            Case::WorkerKill => {
                proc::kill(worker, "KILL")?;
                Broken::Nothing
            }
            Case::MediaNodeKill => {
                self.cluster.kill(&owner)?;
                Broken::Node(owner.clone(), "media")
            }
            Case::MediaNodeCutOff => {
                self.machine(&owner)?.cut(&["iifname up0", "oifname up0"])?;
                Broken::Network(owner.clone())
            }
            Case::SignalNodeKill => {
                self.cluster.kill(&signal)?;
                Broken::Node(signal, "signal")
            }
            Case::Drain | Case::EdgeDrain | Case::CrowdDrain => {
                let deadline = format!("{}s", DRAINED_WITHIN.as_secs());
                let drained = block_in_place(|| self.cluster.drain(&place, &["--deadline", &deadline]))?;
                ensure!(drained.0, "tureen drain: {}", drained.1);
                Broken::Drained(place.clone())
            }
            _ => bail!("{:?} interrupts no call", self.case),
        };
        let drained = self.case.drains().then(|| harmed.elapsed());
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let settled = members.iter().all(|member| member.heard().undisturbed_for(PAUSE) >= SETTLED);
            let moving = crowd::what_stands_still(members);
            if settled && moving.is_none() && harmed.elapsed() >= WATCHED {
                break;
            }
            let still = moving.unwrap_or_default();
            ensure!(harmed.elapsed() < OVER_WITHIN, "{room}: the call is not as it was. {still}");
        }
        let lost = before.lost_until(Counted::of(members));
        let heard: Vec<Heard> = members.iter().map(Member::heard).collect();
        if self.case.drains() {
            let heir = self.cluster.owner(room)?.context("nobody has the room after the drain")?;
            ensure!(heir != place, "{place} was drained and has {room}");
            let now = self.places().all(touched)?;
            ensure!(now.iter().all(|(node, _)| *node != place), "{place} was drained and has media: {now:?}");
            let routers = self.cluster.node(&place).metric("tureen_routers")?;
            ensure!(routers == Some(0.0), "{place} was drained and has routers: {routers:?}");
        }
        // As this client does when what harms it is its own affair.
        let noticed = |member: &Heard| match (self.case.drains(), self.client) {
            (true, Client::Own) => member.migrated > 0 && member.joined_again.is_none(),
            _ => member.joined_again.is_some() || member.resumed > 0,
        };
        let theirs = &heard[members.len() - touched.len()..];
        ensure!(
            theirs.iter().all(noticed),
            "{room}: it did not go as it should with these clients: {heard:?}"
        );
        block_in_place(|| self.mend(broken))?;
        let longest = |of: fn(&Heard) -> Duration| ms(heard.iter().map(of).max().unwrap_or_default());
        let again = heard.iter().filter_map(|heard| heard.joined_again).max();
        let migrated = heard.iter().filter_map(|heard| heard.migrated_at).max();
        Ok(Outcome {
            silent_ms: ms(heard.iter().map(|heard| self.silence(heard)).max().unwrap_or_default()),
            control_silent_ms: ms(control),
            unanswered_ms: longest(|heard| heard.unanswered),
            refused: heard.iter().map(|heard| heard.refused).sum(),
            joined_again_ms: again.map(|at| ms(at.saturating_duration_since(harmed))),
            resumed: heard.iter().map(|heard| heard.resumed).sum(),
            migrated: heard.iter().map(|heard| heard.migrated).sum(),
            migrated_ms: migrated.map(|at| ms(at.saturating_duration_since(harmed))),
            drained_ms: drained.map(ms),
            lost_ppm: lost,
            control_lost_ppm: control_lost,
            ..Outcome::default()
        })
    }

    /// How long somebody heard nothing; of sessions that must last, anything that is to be heard.
    fn silence(&self, heard: &Heard) -> Duration {
        let lasts = self.case.drains() && self.client == Client::Own;
        if lasts { heard.longest.max(heard.pause) } else { heard.longest }
    }

    /// The cluster is as it was before the harm.
    fn mend(&mut self, broken: Broken) -> Result<()> {
        match broken {
            Broken::Nothing => return Ok(()),
            Broken::Network(name) => self.machine(&name)?.restore()?,
            Broken::Drained(name) => {
                let cancelled = self.cluster.drain(&name, &["--cancel"])?;
                ensure!(cancelled.0, "tureen drain --cancel: {}", cancelled.1);
            }
            Broken::Node(name, role) => {
                self.cluster.add(&name, role)?;
                if role == "signal" {
                    let mut arguments = vec!["--port".to_owned(), self.nginx.address().port().to_string()];
                    for signal in SIGNALS {
                        arguments
                            .extend(["--upstream".into(), self.cluster.node(signal).authority().to_owned()]);
                    }
                    self.nginx.reload(&crate::nginx_configuration(arguments.iter().map(String::as_str))?)?;
                }
            }
        }
        self.cluster.wait_assembled()
    }

    /// Harm that a call must not notice: what was lost, beside what was lost before.
    async fn spare(&mut self, room: &str, members: &[Member]) -> Result<Outcome> {
        let away = self.extent.away;
        for member in members {
            member.mark();
        }
        let before = Counted::of(members);
        tokio::time::sleep(away).await;
        let control = before.lost_until(Counted::of(members));
        let longest = |members: &[Member]| members.iter().map(|member| member.heard().longest).max();
        let control_silent = longest(members).unwrap_or_default();
        for member in members {
            member.mark();
        }
        let (before, harmed) = (Counted::of(members), Instant::now());
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
        let third = self.join(room, 2);
        third.hears(1, OVER_WITHIN).await.context("a known room takes peers in")?;
        let known_room = harmed.elapsed();
        let opened = if self.case.promotes() { Some(self.opens(harmed).await?) } else { None };
        tokio::time::sleep(away.saturating_sub(harmed.elapsed())).await;
        let opened = match &self.trouble {
            Trouble::None => {
                self.cluster.redis.restart()?;
                Some(self.opens(Instant::now()).await?)
            }
            Trouble::Sentinel(_) | Trouble::Cluster(_) => opened,
            Trouble::Late { .. } => Some(self.opens(Instant::now()).await?),
        };
        let lost = before.lost_until(Counted::of(members));
        third.leave().await;
        let heard: Vec<Heard> = members.iter().map(Member::heard).collect();
        let ended = heard.iter().any(|heard| heard.joined_again.is_some() || heard.resumed > 0);
        ensure!(!ended, "{room}: a session ended");
        Ok(Outcome {
            silent_ms: ms(longest(members).unwrap_or_default()),
            control_silent_ms: ms(control_silent),
            unanswered_ms: ms(heard.iter().map(|heard| heard.unanswered).max().unwrap_or_default()),
            refused: heard.iter().map(|heard| heard.refused).sum(),
            lost_ppm: lost,
            control_lost_ppm: control,
            known_room_ms: Some(ms(known_room)),
            new_room_ms: opened.map(ms),
            ..Outcome::default()
        })
    }

    /// How long after `since` somebody hears somebody in a room that nobody knew.
    async fn opens(&mut self, since: Instant) -> Result<Duration> {
        self.runs += 1;
        let room = format!("new-{}", self.runs);
        let [one, other] = [self.join(&room, 0), self.join(&room, 1)];
        one.hears(1, OVER_WITHIN).await.context("a new room")?;
        other.hears(1, OVER_WITHIN).await.context("a new room")?;
        let took = since.elapsed();
        one.leave().await;
        other.leave().await;
        Ok(took)
    }

    fn places(&self) -> Places<'_> {
        Places { cluster: &self.cluster, nodes: &MEDIA }
    }

    /// The signal node that has a room's sessions.
    fn signal_of(&self, room: &str) -> Result<String> {
        let room = format!("room={room}");
        let here = |name: &&str| {
            let log = self.cluster.node(name).log();
            log.iter().any(|line| line.contains("session opened") && line.contains(&room))
        };
        let name = SIGNALS.into_iter().find(here).context("no signal node has the room")?;
        Ok(name.to_owned())
    }

    fn machine(&self, node: &str) -> Result<&'a crate::Namespace> {
        let network = self.network.context("all nodes are on one machine")?;
        let number = machine_of(node).with_context(|| format!("{node} has no machine of its own"))?;
        Ok(&network.clients()[usize::from(number) - 1])
    }
}

/// The number of the machine that a node has to itself.
fn machine_of(node: &str) -> Option<u8> {
    let number = MEDIA.iter().position(|name| *name == node)?;
    u8::try_from(number + 1).ok()
}

/// What came so far, and what did not.
struct Counted {
    received: u64,
    missing: u64,
}

impl Counted {
    fn of(members: &[Member]) -> Self {
        let heard = members.iter().map(Member::heard);
        heard.fold(Self { received: 0, missing: 0 }, |sum, heard| Self {
            received: sum.received + heard.received,
            missing: sum.missing + heard.missing,
        })
    }

    /// What was lost from now until then, in millionths.
    fn lost_until(&self, then: Self) -> u64 {
        let missing = then.missing.saturating_sub(self.missing);
        missing * 1_000_000 / (then.received - self.received + missing).max(1)
    }
}
