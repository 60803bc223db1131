//! A room is on its way to another node when one of the two dies or falls silent: whichever way it ends, one node has the room
//! afterwards, everybody in it has media again in time, nobody was answered twice, and nothing is left anywhere else.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bench::endpoint::Identity;
use bench::peer::{Moves, Peer, Seat};
use bench::protoo::{Incoming, Protoo};
use bench::source::Shape;
use rtc::srtp::Profile;
use serde_json::json;
use testkit::gate::{Gate, Hold};
use tests::failover::{Client, Habits, Member};
use tests::{Cluster, Draining, Nginx, Redis, kill, runtime, until};
use tokio::task::{JoinHandle, block_in_place};

/// How long anything that is waited for may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Packets of a stream that count as moving.
const MOVING: u64 = 5;
/// How soon after an answer somebody asks the next question.
const ASK_EVERY: Duration = Duration::from_millis(50);
const LOOK: Duration = Duration::from_millis(50);
/// How long everybody must hear everybody before a call is as it was: longer than it takes to see that a stream stands still.
const SETTLED: Duration = Duration::from_secs(2);
/// Who may have the room: it begins in Europe, where there are three, and one peer's media is in the US.
const HOMES: [&str; 3] = ["m1", "m3", "m5"];
const MEDIA: [&str; 4] = ["m1", "m2", "m3", "m5"];
/// Who is in each room, how they come back, and through whom they come in.
const PEOPLE: [(&str, Client, &str); 3] =
    [("ann", Client::Own, "s1"), ("bob", Client::Own, "s2"), ("carl", Client::Demo, "s1")];

/// How far the room is on its way.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// The new node was offered the room, and its claim is on the way to the store.
    Offered,
    /// The store has given the room to the new node, which has not heard of it.
    Claimed,
    /// The new node goes on with the room; sessions and sites are on their way to it.
    Taken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Old,
    New,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    /// The process dies, and its workers with it: its ports refuse.
    Kill,
    /// The machine hangs: its ports take connections, and nobody answers. Later it goes on as if nothing had been.
    Stop,
}

#[test]
fn a_room_outlives_the_death_of_either_side_of_its_move() -> Result<()> {
    each(
        Harm::Kill,
        &[
            (Side::Old, Moment::Offered),
            (Side::Old, Moment::Claimed),
            (Side::Old, Moment::Taken),
            (Side::New, Moment::Offered),
            (Side::New, Moment::Claimed),
            (Side::New, Moment::Taken),
        ],
    )
}

#[test]
fn a_room_outlives_the_silence_of_either_side_of_its_move() -> Result<()> {
    each(
        Harm::Stop,
        &[
            (Side::Old, Moment::Offered),
            (Side::Old, Moment::Taken),
            (Side::New, Moment::Offered),
            (Side::New, Moment::Claimed),
        ],
    )
}

/// The client's connection is cut as its room begins to move, and once more when the room is where it went. Both times it comes back
/// by another signal node, with the token that the first owner made, and finds its session as it was. Its media moves within it, as
/// the old owner is asked to be empty: who cannot do that is sent away as soon as the room has gone.
#[test]
fn a_session_whose_connection_is_cut_in_its_room_s_move_is_resumed() -> Result<()> {
    let mut cluster = Cluster::start(4, 2)?;
    let fronts = ["s2", "s3", "s4"];
    let upstreams: Result<Vec<SocketAddr>> =
        fronts.iter().map(|name| Ok(cluster.node(name).authority().parse()?)).collect();
    let nginx = Nginx::start(&upstreams?)?;
    let runtime = runtime()?;
    let resumed = runtime.block_on(async {
        let identity = Arc::new(Identity::new(&Profile::PREFERENCE)?);
        let join = async |url: String, peer: &str| {
            let seat = Seat { url, room_id: "cut".to_owned(), peer_id: peer.to_owned() };
            let session = Protoo::connect_resumable(&seat.address()).await?;
            Peer::enter_as(Moves::InSession, &seat, &identity, &[Shape::AUDIO], session).await
        };
        let mut ann = join(cluster.websocket_url("s1"), "ann").await?;
        let mut bob = join(format!("ws://{}/", nginx.address()), "bob").await?;
        for peer in [&mut ann, &mut bob] {
            peer.wait_for_media(1, MOVING, PATIENCE).await?;
        }
        let owner = cluster.owner("cut")?.context("an owner")?;
        let heir = if owner == "m1" { "m2" } else { "m1" };

        let drain = Draining::begin(&cluster, &owner)?;
        cut(&mut cluster, &fronts)?;
        until(PATIENCE, "bob is back", || Ok(bob.resumed() == 1)).await?;
        until(PATIENCE, "the room has moved", || Ok(cluster.owner("cut")?.as_deref() == Some(heir))).await?;
        goes_on(&mut ann, &mut bob).await.context("cut in the move")?;
        cut(&mut cluster, &fronts)?;
        until(PATIENCE, "bob is back again", || Ok(bob.resumed() == 2)).await?;
        goes_on(&mut ann, &mut bob).await.context("cut after the move")?;
        for peer in [&ann, &bob] {
            until(PATIENCE, "its media is where the room is", || Ok(peer.migrations().done == 1)).await?;
        }
        goes_on(&mut ann, &mut bob).await.context("after its media has moved")?;
        ensure!(bob.resumed() == 2 && ann.resumed() == 0, "somebody else was cut off");
        drop(drain);
        for peer in [ann, bob] {
            peer.leave().await;
        }
        Ok(())
    });
    resumed.with_context(|| cluster.logs())
}

/// Kills the signal node that carries the one session of those behind the front.
fn cut(cluster: &mut Cluster, fronts: &[&str]) -> Result<()> {
    let live = cluster.names();
    let carries = |name: &&&str| {
        let carried = || cluster.node(name).metric("tureen_link_sessions{side=\"gateway\"}");
        live.iter().any(|live| live == *name) && carried().is_ok_and(|carried| carried == Some(1.0))
    };
    let front = *fronts.iter().find(carries).context("no signal node carries bob's session")?;
    cluster.kill(front)?;
    Ok(())
}

/// Both are asked something and answer; no packet of either was lost.
async fn goes_on(ann: &mut Peer, bob: &mut Peer) -> Result<()> {
    for peer in [ann, bob] {
        peer.protoo().request("changeDisplayName", json!({ "displayName": "still here" })).await?;
        let before: u64 = peer.streams().values().map(|stream| stream.received).sum();
        peer.wait_for_media(1, before + MOVING, PATIENCE).await?;
        ensure!(!peer.is_closed(), "a session ended");
        let streams = peer.streams();
        ensure!(streams.len() == 1, "media went elsewhere: {streams:?}");
        ensure!(streams.values().all(|stream| stream.missing == 0), "a packet was lost: {streams:?}");
    }
    Ok(())
}

/// One cluster for all cases: after each it is made whole.
fn each(harm: Harm, cases: &[(Side, Moment)]) -> Result<()> {
    let redis = Redis::start()?;
    let target = redis.url().trim_start_matches("redis://").to_owned();
    let gates: BTreeMap<_, _> = HOMES.map(|home| (home, Gate::new(target.clone()))).into();
    let to = gates.clone();
    let nodes = ["m1", "m2", "m3", "m5", "s1", "s2"];
    let mut cluster = Cluster::of(redis, &nodes, move |name, options| {
        let options = match to.get(name) {
            Some(gate) => options.set("--redis", format!("redis://{}", gate.address())),
            None => options,
        };
        options.set("--region", if name.ends_with('2') { "us" } else { "eu" })
    })?;
    let identity = Arc::new(Identity::new(&Profile::PREFERENCE)?);
    let runtime = runtime()?;
    for (number, (side, moment)) in cases.iter().enumerate() {
        let case = Case { harm, side: *side, moment: *moment, room: format!("moving-{number}") };
        let result = runtime.block_on(case.run(&mut cluster, &gates, &identity));
        result.with_context(|| format!("{case:?}\n{}", cluster.logs()))?;
    }
    runtime.block_on(nothing_is_left(&cluster)).with_context(|| cluster.logs())
}

#[derive(Debug)]
struct Case {
    harm: Harm,
    side: Side,
    moment: Moment,
    room: String,
}

impl Case {
    async fn run(
        &self,
        cluster: &mut Cluster,
        gates: &BTreeMap<&str, Gate>,
        identity: &Arc<Identity>,
    ) -> Result<()> {
        // Whoever comes first has the room begin in his region.
        let listener = Listener::start(cluster.websocket_url("s1"), &self.room);
        until(PATIENCE, "the room is open", || Ok(cluster.owner(&self.room)?.is_some())).await?;
        let members = PEOPLE.map(|(name, client, signal)| {
            let habits = Habits { client, shapes: vec![Shape::AUDIO], ask_every: ASK_EVERY };
            Member::start(habits, cluster.seat(signal, &self.room, name), identity)
        });
        all_hear_all(&members, Duration::ZERO).await.context("before")?;
        let owner = cluster.owner(&self.room)?.context("an owner")?;
        let epoch = cluster.epoch(&self.room)?;

        let hold = match self.moment {
            Moment::Offered => Some(Hold::Questions),
            Moment::Claimed => Some(Hold::Answers),
            Moment::Taken => None,
        };
        let others: Vec<_> = HOMES.into_iter().filter(|home| *home != owner).collect();
        if let Some(hold) = hold {
            others.iter().for_each(|home| gates[home].shut_at(hold, &format!("room:{}", self.room)));
        }
        let drain = Draining::begin(cluster, &owner)?;
        let heir = block_in_place(|| self.heir(cluster, gates, &others))?;
        if let Moment::Claimed = self.moment {
            until(PATIENCE, "the store gives the room to the new node", || {
                Ok(cluster.owner(&self.room)?.as_deref() == Some(heir))
            })
            .await?;
        }
        let (harmed, spared) = match self.side {
            Side::Old => (owner.as_str(), heir),
            Side::New => (heir, owner.as_str()),
        };
        members.iter().for_each(Member::mark);
        let machine: Vec<u32> = {
            let node = cluster.node(harmed);
            node.workers()?.into_iter().chain([node.pid()]).collect()
        };
        let begun = Instant::now();
        match self.harm {
            Harm::Kill => drop(block_in_place(|| cluster.kill(harmed))?),
            Harm::Stop => machine.iter().try_for_each(|process| kill(*process, "STOP"))?,
        }
        gates.values().for_each(Gate::open);
        drop(drain);
        let mut now_at = None;
        let claimed = until(PATIENCE, "another node that lives has the room", || {
            now_at = cluster.owner(&self.room)?.filter(|now| *now != owner && now != harmed);
            Ok(now_at.is_some())
        });
        claimed.await?;
        let (claimed, now_at) = (begun.elapsed(), now_at.unwrap_or_default());
        all_hear_all(&members, SETTLED).await.context("after")?;
        let back = begun.elapsed() - SETTLED;
        let silent = members.each_ref().map(|member| member.heard().longest);
        println!(
            "{:?} of the {:?} node, {harmed}, when the room was {:?}: {now_at}'s after {claimed:.2?}, all as before after {back:.2?}, silence {silent:.2?}",
            self.harm, self.side, self.moment
        );
        for ((name, client, _), silent) in PEOPLE.iter().zip(silent) {
            let limit = self.limit(*client);
            ensure!(silent <= limit, "{name} heard nothing for {silent:.2?}, which may take {limit:?}");
        }
        if self.harm == Harm::Stop {
            machine.iter().try_for_each(|process| kill(*process, "CONT"))?;
        }
        // The drained one, where it lives, has its rooms taken from it, or is told to stay.
        if self.harm == Harm::Kill {
            block_in_place(|| cluster.add(harmed, "media"))?;
        }
        let drained = if self.side == Side::Old { harmed } else { spared };
        if self.harm == Harm::Stop || self.side == Side::New {
            let cancelled = block_in_place(|| cluster.drain(drained, &["--cancel"]))?;
            ensure!(cancelled.0, "tureen drain --cancel: {}", cancelled.1);
        }
        block_in_place(|| cluster.wait_assembled())?;
        all_hear_all(&members, SETTLED).await.context("when all nodes are back")?;
        ensure!(cluster.epoch(&self.room)? > epoch, "epochs rise");
        self.one_owner(cluster).await?;
        listener.stop().await?;
        for member in members {
            member.leave().await;
        }
        Ok(())
    }

    /// The node that is about to have the room, and is as far as it is to be.
    fn heir<'a>(
        &self,
        cluster: &Cluster,
        gates: &BTreeMap<&str, Gate>,
        others: &[&'a str],
    ) -> Result<&'a str> {
        let until = Instant::now() + PATIENCE;
        let arrived = |home: &&str| match self.moment {
            Moment::Taken => {
                let log = cluster.node(home).log();
                let here = format!("the room goes on here room={}", self.room);
                log.iter().any(|line| line.contains(&here))
            }
            Moment::Offered | Moment::Claimed => gates[home].is_shut_within(Duration::from_millis(1)),
        };
        loop {
            if let Some(heir) = others.iter().find(|home| arrived(home)) {
                return Ok(heir);
            }
            ensure!(Instant::now() < until, "nobody is offered the room");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// How long somebody may hear nobody.
    fn limit(&self, client: Client) -> Duration {
        Duration::from_secs(match (self.harm, client) {
            (Harm::Kill, Client::Own) => 3,
            (Harm::Kill, Client::Demo) => 6,
            // Known after a second, condemned after three quarters more, and found by two signal nodes in turn.
            (Harm::Stop, Client::Own) => 5,
            (Harm::Stop, Client::Demo) => 8,
        })
    }

    /// All are in one room of one node, which the store names; no other node has a session of it.
    async fn one_owner(&self, cluster: &Cluster) -> Result<()> {
        let all = (PEOPLE.len() + 1) as f64;
        let mut found = String::new();
        let one = until(PATIENCE, "one node has the room, with all who are in it", || {
            let owner = cluster.owner(&self.room)?;
            let mut right = owner.is_some();
            found = format!("the store says {owner:?}; sessions:");
            for node in MEDIA {
                let sessions = cluster.node(node).metric("tureen_link_sessions{side=\"room\"}")?;
                let expected = if owner.as_deref() == Some(node) { all } else { 0.0 };
                right &= sessions.unwrap_or_default() == expected;
                found = format!("{found} {node} {sessions:?}");
            }
            Ok(right)
        });
        one.await.with_context(|| found.clone())
    }
}

/// Waits until everybody hears both others, and has for so long.
async fn all_hear_all(members: &[Member], so_long: Duration) -> Result<()> {
    let mut since = None;
    let all = until(PATIENCE, "everybody hears both others", || {
        let hears = |member: &Member| member.heard().flowing == members.len() - 1;
        if members.iter().all(hears) {
            Ok(since.get_or_insert_with(Instant::now).elapsed() >= so_long)
        } else {
            since = None;
            Ok(false)
        }
    });
    all.await.with_context(|| {
        let streams: Vec<_> = members.iter().map(|member| member.heard().flowing).collect();
        format!("they hear {streams:?} streams")
    })
}

async fn nothing_is_left(cluster: &Cluster) -> Result<()> {
    for node in MEDIA {
        for left in
            ["tureen_rooms", "tureen_peers", "tureen_routers", "tureen_transports", "tureen_producers"]
        {
            let none =
                until(PATIENCE, "nothing is left", || Ok(cluster.node(node).metric(left)? == Some(0.0)));
            none.await.with_context(|| format!("{left} of {node}"))?;
        }
    }
    Ok(())
}

/// By which numbers somebody went, in order: of the session, and within it.
type Names = BTreeMap<String, Vec<(u64, u64)>>;

/// Somebody without media who hears by which numbers the others go, so that it sees what comes twice, or late.
struct Listener {
    heard: Arc<Mutex<Names>>,
    task: JoinHandle<()>,
}

impl Listener {
    fn start(url: String, room: &str) -> Self {
        let heard = Arc::new(Mutex::new(Names::new()));
        let (names, url) = (Arc::clone(&heard), format!("{url}?roomId={room}&peerId=listener"));
        let task = tokio::spawn(async move {
            loop {
                // Whatever ends it, it comes back.
                if listen(&url, &names).await.is_err() {
                    tokio::time::sleep(LOOK).await;
                }
            }
        });
        Self { heard, task }
    }

    async fn stop(self) -> Result<()> {
        self.task.abort();
        let _ = self.task.await;
        let heard = self.heard.lock().expect("nobody panics with it");
        ensure!(heard.len() == PEOPLE.len(), "of {:?} only", heard.keys());
        for (peer, names) in &*heard {
            let twice = names.windows(2).find(|pair| pair[1] <= pair[0]);
            ensure!(twice.is_none(), "{peer} was heard to say {twice:?}");
        }
        Ok(())
    }
}

async fn listen(url: &str, heard: &Mutex<Names>) -> Result<()> {
    let (mut protoo, mut incoming) = Protoo::connect(url).await?;
    protoo.request("getRouterRtpCapabilities", json!({})).await?;
    let device = json!({ "name": "x", "version": "1" });
    protoo.request("join", json!({ "displayName": "listener", "device": device })).await?;
    while let Some(event) = incoming.recv().await {
        match event {
            Incoming::Notification { method, data } if method == "peerDisplayNameChanged" => {
                let name = data["displayName"].as_str().and_then(|name| name.split_once('.'));
                let (session, number) = name.context("a name of two numbers")?;
                let name = (session.parse()?, number.parse()?);
                let peer = data["peerId"].as_str().context("a peer")?.to_owned();
                heard.lock().expect("nobody panics with it").entry(peer).or_default().push(name);
            }
            Incoming::Closed(_) => break,
            _ => {}
        }
    }
    Ok(())
}
