//! Hostile bytes against everything that listens, while bystanders talk: nothing may die, nobody may notice.
//!
//! Everything random comes from a seed, which the report repeats. Attackers pace themselves by answers, never by the
//! clock: what is tested is what the bytes do, not how many of them a machine can take.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rtc::srtp::Profile;
use serde::Serialize;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

pub mod cases;
pub mod channel;
pub mod insider;
pub mod messages;
pub mod mutate;
pub mod outsider;

use crate::endpoint::Identity;
use crate::party::Party;
use crate::peer::{self, Peer, Seat};
use crate::protoo::{Incoming, Protoo};
use crate::router::{Media, RemoteTransport};
use crate::server::Server;
use crate::source::{Shape, StreamCheck};
use insider::{Insider, Streams};
use messages::Outcome;
use mutate::Mutator;
use outsider::{Account, Outsiders};

/// How long media may take to begin to flow.
const MEDIA_DEADLINE: Duration = Duration::from_secs(20);
/// Rooms that are opened to find every worker's port: placement spreads them, though not evenly.
const PROBES_PER_WORKER: usize = 8;
/// The storm that a misbehaving receiver makes.
const KEY_FRAME_REQUESTS: usize = 10_000;
/// A publisher is asked for a key frame at most this often, however many want one …
const KEY_FRAME_INTERVAL: Duration = Duration::from_secs(1);
/// … but for a few at once, since those who join together should not wait for each other.
const KEY_FRAME_BURST: f64 = 3.0;
/// The least part of its frames that a bystander must get: the rest is what a busy machine was late to send.
const LEAST_SHARE: f64 = 0.5;
/// How long counters may take to be told.
const COUNTERS_DEADLINE: Duration = Duration::from_secs(5);

/// What to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long the attacks last.
    pub duration: Duration,
    /// What everything random comes from.
    pub seed: u64,
}

/// What was seen. There is a report only where nothing went wrong.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Replays the attack.
    pub seed: u64,
    /// The processes that lived through it: the server, then its workers.
    pub pids: Vec<u32>,
    /// UDP ports that were attacked.
    pub ports: Vec<SocketAddr>,
    /// What unauthenticated sockets sent, and what they got back.
    pub unauthenticated: Account,
    /// Handshakes that were broken on the way.
    pub vandalized_handshakes: usize,
    /// Rounds of garbage in valid SRTP.
    pub insider_rounds: u64,
    /// Hostile protoo sessions.
    pub messages: Outcome,
    /// Requests that named somebody else's things, or came at the wrong time. All were refused.
    pub out_of_place: u64,
    /// Key frames that a receiver asked for, and how often the publisher was asked.
    pub key_frame_requests: [u64; 2],
    /// Packets that the bystanders got meanwhile. None was missing, none damaged.
    pub bystanders_received: u64,
    /// What two peers in the room of a misbehaving one got of each other: neither was anything missing or damaged.
    pub victims_received: u64,
    /// Counters that rose, by how much.
    pub counters: BTreeMap<String, f64>,
}

/// Attacks a running server.
///
/// # Errors
/// Whatever should not have happened: a process that died, a bystander who missed something, more bytes out than in
/// before authentication, a request granted that should not be, a publisher asked for too many key frames.
pub async fn run(server: &Server, options: &Options) -> Result<Report> {
    let url = server.websocket_url();
    let identity = Arc::new(Identity::new(&Profile::PREFERENCE)?);
    let workers = server.workers()?;
    ensure!(!workers.is_empty(), "process {} has no workers", server.pid);
    let bystanders = Talkers::start(&url, "hostile-bystanders", &identity).await?;
    let victims = Talkers::start(&url, "hostile-victims", &identity).await?;
    let mut intruder = Intruder::join(&url, "hostile-victims", &identity, 4).await?;
    let probes = find_ports(&url, workers.len(), &identity).await?;
    let ports: Vec<SocketAddr> = probes.iter().map(|probe| probe.remote.address).collect();

    // The call runs by now, so that workers have had something to count.
    let counters_before = counters(server).await?;
    let end = Instant::now() + options.duration;
    let mut outsiders = Vec::new();
    for (i, probe) in probes.iter().enumerate() {
        let (identity, remote) = (Arc::clone(&identity), probe.remote.clone());
        let seed = options.seed + 1_000 * i as u64;
        outsiders.push(spawn_blocking(move || attack_port(&identity, &remote, seed, end)));
    }
    let insiders = intruder.misbehave(options.seed, end);
    let handshakes = vandalize(&url, &identity, options.seed, end);
    let frames = messages::attack(&url, options.seed, end);
    let (messages, insider_rounds, vandalized_handshakes) = tokio::try_join!(frames, insiders, handshakes)?;
    let mut unauthenticated = Account::default();
    for attack in outsiders {
        unauthenticated.add(&attack.await.context("an attack panicked")??);
    }
    let mut out_of_place = messages::use_wrong_order(&url).await?;
    for victim in &victims.peers {
        out_of_place += messages::use_foreign_ids(&mut intruder.protoo, &victim.held()).await?;
    }
    let key_frame_requests = intruder.ask_for_key_frames(&victims.peers, options.seed).await?;

    let bystanders_received = bystanders.check().context("the bystanders noticed")?;
    let victims_received = victims.check().context("those in the intruder's room noticed")?;
    ensure!(server.workers()? == workers, "workers were {workers:?} and are {:?}", server.workers()?);
    server.held().context("the server is gone")?;
    let counters = wait_for_counters(server, &counters_before).await?;
    Ok(Report {
        seed: options.seed,
        pids: std::iter::once(server.pid).chain(workers).collect(),
        ports,
        unauthenticated,
        vandalized_handshakes,
        insider_rounds,
        messages,
        out_of_place,
        key_frame_requests,
        bystanders_received,
        victims_received,
        counters,
    })
}

/// Two peers who talk with each other, and should not notice anything.
struct Talkers {
    peers: Vec<Peer>,
    /// What each received of the other when it began. What an intruder sends them later is not their call.
    before: Vec<HashMap<u32, StreamCheck>>,
    since: Instant,
}

impl Talkers {
    async fn start(url: &str, room: &str, identity: &Arc<Identity>) -> Result<Self> {
        let shapes = [Shape::AUDIO, Shape::THIN_VIDEO];
        let mut peers = Vec::new();
        for i in 0..2 {
            let seat = Seat { url: url.into(), room_id: room.into(), peer_id: format!("{room}-{i}") };
            peers.push(Peer::join(&seat, identity, &shapes).await?);
        }
        for peer in &mut peers {
            peer.wait_for_media(shapes.len(), 5, MEDIA_DEADLINE)
                .await
                .with_context(|| format!("in {room}"))?;
        }
        let before = peers.iter().map(Peer::streams).collect();
        Ok(Self { peers, before, since: Instant::now() })
    }

    /// Everything that was sent meanwhile has come, unharmed, and in about the time that it should take. Returns how
    /// many packets it was.
    fn check(&self) -> Result<u64> {
        let per_second = 2 * (Shape::AUDIO.packets_per_second() + Shape::THIN_VIDEO.packets_per_second());
        let expected = self.since.elapsed().as_secs_f64() * f64::from(per_second);
        let mut received = 0;
        for (peer, before) in self.peers.iter().zip(&self.before) {
            let now = peer.streams();
            for (ssrc, before) in before {
                let stream = now.get(ssrc).context("a stream is gone")?;
                ensure!(stream.missing == 0 && stream.damaged == 0, "stream {ssrc} was broken: {stream:?}");
                ensure!(stream.received > before.received, "stream {ssrc} stalled: {stream:?}");
                received += stream.received - before.received;
            }
        }
        ensure!(
            received as f64 > LEAST_SHARE * expected,
            "a call stalled: {received} packets of about {expected:.0}"
        );
        Ok(received)
    }
}

/// A transport of ours on a worker, with the session that holds it.
struct Probe {
    remote: RemoteTransport,
    _session: Protoo,
    _incoming: mpsc::Receiver<Incoming>,
}

/// Opens rooms until every worker's port is known. Ports that placement does not show are not attacked.
async fn find_ports(url: &str, workers: usize, identity: &Identity) -> Result<Vec<Probe>> {
    let mut seen = BTreeSet::new();
    let mut probes = Vec::new();
    for i in 0..workers * PROBES_PER_WORKER {
        let url = format!("{url}?roomId=hostile-probe-{i}&peerId=probe");
        let (session, incoming) = Protoo::connect(&url).await?;
        let remote = peer::open_transport(&session.asker(), true).await?;
        if seen.insert(remote.address) {
            peer::connect_transport(&session.asker(), identity, &remote.id).await?;
            probes.push(Probe { remote, _session: session, _incoming: incoming });
        } else {
            session.close().await;
        }
        if seen.len() == workers {
            break;
        }
    }
    Ok(probes)
}

/// What outsiders do to one port until `end`.
fn attack_port(identity: &Identity, remote: &RemoteTransport, seed: u64, end: Instant) -> Result<Account> {
    let mut party = Party::new(identity, remote)?;
    party.endpoint.record();
    party.handshake().context("before the attack")?;
    let templates = insider::templates(&mut party, 1_000)?;
    let mut outsiders = Outsiders::new(remote, templates, seed)?;
    while Instant::now() < end {
        outsiders.round()?;
    }
    Ok(outsiders.account())
}

/// Breaks handshakes until `end`, two a session: that is how many transports a peer may have.
async fn vandalize(url: &str, identity: &Arc<Identity>, seed: u64, end: Instant) -> Result<usize> {
    let mut count = 0;
    while Instant::now() < end {
        let url = format!("{url}?roomId=hostile-handshakes&peerId=vandal");
        let (session, _incoming) = Protoo::connect(&url).await?;
        for sends in [true, false] {
            let remote = peer::open_transport(&session.asker(), sends).await?;
            peer::connect_transport(&session.asker(), identity, &remote.id).await?;
            let identity = Arc::clone(identity);
            let mut mutator = Mutator::new(seed + count as u64);
            spawn_blocking(move || insider::vandalized_handshake(&identity, &remote, &mut mutator)).await??;
            count += 1;
        }
        session.close().await;
    }
    Ok(count)
}

/// A peer that was let in and should not have been.
struct Intruder {
    protoo: Protoo,
    sender: Option<Insider>,
    receiver: Option<Insider>,
    _incoming: mpsc::Receiver<Incoming>,
}

impl Intruder {
    /// Joins, publishes, and waits for `consumers` consumers.
    async fn join(url: &str, room: &str, identity: &Arc<Identity>, consumers: usize) -> Result<Self> {
        let url = format!("{url}?roomId={room}&peerId=intruder");
        let (mut protoo, mut incoming) = Protoo::connect(&url).await?;
        let mut parties = Vec::new();
        for sends in [true, false] {
            let remote = peer::open_transport(&protoo.asker(), sends).await?;
            peer::connect_transport(&protoo.asker(), identity, &remote.id).await?;
            let identity = Arc::clone(identity);
            parties.push(
                spawn_blocking(move || {
                    let mut party = Party::new(&identity, &remote)?;
                    party.handshake()?;
                    Ok::<_, anyhow::Error>((party, remote))
                })
                .await??,
            );
        }
        let device = json!({ "flag": "bench", "name": "bench", "version": "1" });
        let join =
            json!({ "displayName": "intruder", "device": device, "rtpCapabilities": peer::capabilities() });
        protoo.request("join", join).await?;
        let [(sender, send_remote), (receiver, receive_remote)] =
            <[_; 2]>::try_from(parties).map_err(|_| anyhow::anyhow!("two transports were made"))?;
        let producer = 40_000;
        let parameters = peer::rtp_parameters(Media::Video, producer, 0);
        let data = json!({ "transportId": sender.transport_id, "kind": "video", "rtpParameters": parameters, "appData": {} });
        protoo.request("produce", data).await?;
        let mut videos = Vec::new();
        let mut offered = 0;
        while offered < consumers {
            let event = tokio::time::timeout(MEDIA_DEADLINE, incoming.recv()).await;
            match event.context("the intruder was offered too few consumers")? {
                Some(Incoming::Request { id, method, data }) => {
                    protoo.accept(id, json!({})).await?;
                    if method == "newConsumer" {
                        offered += 1;
                        if data["kind"] == "video" {
                            videos.extend(data["rtpParameters"]["encodings"][0]["ssrc"].as_u64());
                        }
                    }
                }
                Some(Incoming::Notification { .. }) => {}
                Some(Incoming::Closed(code)) => bail!("the intruder's session was closed with {code:?}"),
                None => bail!("the intruder's session ended"),
            }
        }
        let consumer = videos.first().copied().context("no video was offered")? as u32;
        let streams = Streams { producer, consumer };
        Ok(Self {
            protoo,
            sender: Some(Insider::new(sender, &send_remote, streams, 1)?),
            receiver: Some(Insider::new(receiver, &receive_remote, streams, 2)?),
            _incoming: incoming,
        })
    }

    /// Garbage in valid SRTP on both transports until `end`, then NACK storms. Returns the rounds.
    async fn misbehave(&mut self, seed: u64, end: Instant) -> Result<u64> {
        let (mut sender, mut receiver) = self.take(seed)?;
        let (sender, receiver, rounds) = spawn_blocking(move || {
            let mut rounds = 0;
            while Instant::now() < end {
                sender.round()?;
                receiver.round()?;
                receiver.nack_storm(16)?;
                rounds += 2;
            }
            Ok::<_, anyhow::Error>((sender, receiver, rounds))
        })
        .await
        .context("an insider panicked")??;
        (self.sender, self.receiver) = (Some(sender), Some(receiver));
        Ok(rounds)
    }

    /// The key frame storm: how often it asked, and how often its publisher was asked.
    async fn ask_for_key_frames(&mut self, victims: &[Peer], seed: u64) -> Result<[u64; 2]> {
        let asked = || victims.iter().map(Peer::key_frame_requests).sum::<u64>();
        let before = asked();
        let start = Instant::now();
        let (sender, mut receiver) = self.take(seed)?;
        let receiver = spawn_blocking(move || {
            receiver.key_frame_storm(KEY_FRAME_REQUESTS)?;
            Ok::<_, anyhow::Error>(receiver)
        })
        .await
        .context("an insider panicked")??;
        (self.sender, self.receiver) = (Some(sender), Some(receiver));
        let intervals = start.elapsed().as_secs_f64() / KEY_FRAME_INTERVAL.as_secs_f64();
        let reached = asked() - before;
        ensure!(
            reached as f64 <= KEY_FRAME_BURST + intervals,
            "a publisher was asked for {reached} key frames within {intervals:.1} intervals of {KEY_FRAME_INTERVAL:?}"
        );
        Ok([KEY_FRAME_REQUESTS as u64, reached])
    }

    fn take(&mut self, seed: u64) -> Result<(Insider, Insider)> {
        let (mut sender, mut receiver) = self
            .sender
            .take()
            .zip(self.receiver.take())
            .context("an attack that failed took the insiders along")?;
        sender.reseed(seed);
        receiver.reseed(seed + 1);
        Ok((sender, receiver))
    }
}

/// What the server and, through it, its workers count.
async fn counters(server: &Server) -> Result<BTreeMap<String, f64>> {
    let mut all = server.metrics().await?;
    all.retain(|name, _| name.contains("_total"));
    Ok(all)
}

/// Waits until the attack shows in the counters; returns those that rose. A stock worker counts nothing: then the
/// server's own are all there is.
async fn wait_for_counters(server: &Server, before: &BTreeMap<String, f64>) -> Result<BTreeMap<String, f64>> {
    let deadline = Instant::now() + COUNTERS_DEADLINE;
    loop {
        let mut risen = counters(server).await?;
        let mut wanted = vec!["tureen_signaling_errors_total"];
        if risen.keys().any(|name| name.starts_with("tureen_worker_events_total")) {
            wanted.extend(["stun_malformed", "stun_refused", "stray_datagrams", "dtls_errors"]);
            wanted.extend(["rtcp_malformed", "rtp_malformed", "rtp_no_producer", "srtp_errors"]);
        }
        for (name, value) in &mut risen {
            *value -= before.get(name).copied().unwrap_or(0.0);
        }
        risen.retain(|_, rise| *rise > 0.0);
        let is_missing = |part: &&str| !risen.keys().any(|name| name.contains(part));
        let missing: Vec<&str> = wanted.iter().copied().filter(|part| is_missing(part)).collect();
        if missing.is_empty() {
            return Ok(risen);
        }
        ensure!(Instant::now() < deadline, "these counters did not rise: {missing:?}; these did: {risen:#?}");
        // Workers write theirs once a second: the condition is the event, this is how fine it is seen.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
