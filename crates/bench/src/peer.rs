//! A synthetic participant: joins a room over protoo's classic dialect, publishes audio and video, receives whatever
//! the server offers, and leaves with or without goodbye.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::sync::mpsc::{self, Receiver};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::endpoint::Identity;
use crate::link::Link;
use crate::migration;
use crate::protoo::{Answers, Asker, Incoming, Protoo};
use crate::reception::{Reception, Tally};
use crate::router::{self, RemoteTransport};
use crate::source::{Shape, Source, StreamCheck};

/// How long ICE and DTLS may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// What a client does whose media cannot stay where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moves {
    /// It is sent away and joins again, as mediasoup-demo's client.
    ByJoiningAgain,
    /// It takes its media elsewhere within its session, as web/client (docs/clients.md).
    InSession,
}

/// A participant that is in the room.
#[derive(Debug)]
pub struct Peer {
    protoo: Protoo,
    media: Holder,
    consumers: watch::Receiver<Vec<u32>>,
    migrations: watch::Receiver<Migrations>,
    dispatcher: JoinHandle<Option<u16>>,
}

/// How often a peer took its media elsewhere within its session.
#[derive(Debug, Clone, Copy, Default)]
pub struct Migrations {
    /// How often it did.
    pub done: u32,
    /// How often it could not.
    pub failed: u32,
}

/// What a peer sends and receives, for all its tasks.
#[derive(Debug)]
pub(crate) struct Media {
    pub(crate) identity: Arc<Identity>,
    pub(crate) reception: Arc<Reception>,
    pub(crate) links: Mutex<Links>,
}

/// A peer's transports and what it sends.
#[derive(Debug, Default)]
pub(crate) struct Links {
    /// Where it publishes something.
    pub(crate) send: Option<Link>,
    /// There until the peer has left.
    pub(crate) receive: Option<Link>,
    pub(crate) published: Vec<Published>,
    /// Requests for key frames on transports that are gone.
    pub(crate) key_frame_requests: u64,
}

/// A producer.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    pub(crate) shape: Shape,
    pub(crate) begun: Instant,
    pub(crate) id: String,
}

impl Media {
    pub(crate) fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().expect("no one panics while holding this lock")
    }
}

/// The peer's own: its sockets are closed with it, whatever its tasks still do.
#[derive(Debug)]
struct Holder(Arc<Media>);

impl Drop for Holder {
    fn drop(&mut self) {
        drop(std::mem::take(&mut *self.0.links()));
    }
}

/// The server's ids of what a peer has.
#[derive(Debug, Clone, Default)]
pub struct Held {
    /// Its transports: the one it sends on, where it sends, then the one it receives on.
    pub transports: Vec<String>,
    /// Its producers.
    pub producers: Vec<String>,
    /// Its consumers.
    pub consumers: Vec<String>,
}

/// Where to join, and as whom.
#[derive(Debug, Clone)]
pub struct Seat {
    /// The server's WebSocket URL, for example `ws://127.0.0.1:4443/`, or `ws://127.0.0.1:4443/?token=…`.
    pub url: String,
    /// The room.
    pub room_id: String,
    /// The peer.
    pub peer_id: String,
}

impl Seat {
    /// The address of a session here.
    #[must_use]
    pub fn address(&self) -> String {
        let joint = if self.url.contains('?') { '&' } else { '?' };
        format!("{}{joint}roomId={}&peerId={}", self.url, self.room_id, self.peer_id)
    }
}

impl Peer {
    /// Joins: session, transports, `join`, a producer for each shape. Who has no shape to send has no transport for it, either.
    ///
    /// # Errors
    /// Whatever the server refuses, and ICE or DTLS not done within 10 s.
    pub async fn join(seat: &Seat, identity: &Arc<Identity>, shapes: &[Shape]) -> Result<Self> {
        Self::enter(seat, identity, shapes, Protoo::connect(&seat.address()).await?).await
    }

    /// As [`Peer::join`], in a session that was opened at [`Seat::address`].
    ///
    /// # Errors
    /// As there.
    pub async fn enter(
        seat: &Seat,
        identity: &Arc<Identity>,
        shapes: &[Shape],
        session: (Protoo, Receiver<Incoming>),
    ) -> Result<Self> {
        Self::enter_as(Moves::ByJoiningAgain, seat, identity, shapes, session).await
    }

    /// As [`Peer::enter`], as a client that does this when its media cannot stay.
    ///
    /// # Errors
    /// As there.
    pub async fn enter_as(
        moves: Moves,
        seat: &Seat,
        identity: &Arc<Identity>,
        shapes: &[Shape],
        (protoo, incoming): (Protoo, Receiver<Incoming>),
    ) -> Result<Self> {
        let asker = protoo.asker();
        asker.request("getRouterRtpCapabilities", json!({})).await?;
        let reception = Arc::new(Reception::default());
        let send =
            if shapes.is_empty() { None } else { Some(open(&asker, identity, true, &reception).await?) };
        let receive = open(&asker, identity, false, &reception).await?;
        // What arrives before the answer to `join` waits in the queue.
        let device = json!({ "flag": "bench", "name": "tureen-bench", "version": env!("CARGO_PKG_VERSION") });
        let mut join =
            json!({ "displayName": seat.peer_id, "device": device, "rtpCapabilities": capabilities() });
        if moves == Moves::InSession {
            join["migrate"] = json!(true);
        }
        asker.request("join", join).await?;
        for link in send.iter().chain([&receive]) {
            link.wait_connected(CONNECT_DEADLINE).await.context("ICE or DTLS did not come about")?;
        }
        let mut published = Vec::new();
        for (send, (mid, &shape)) in send.iter().cycle().zip(shapes.iter().enumerate()) {
            let (id, ssrc) = produce(&asker, send, shape, mid, None).await?;
            let begun = Instant::now();
            send.add_source(Source::new(shape, ssrc, shape.media.payload_type(), None), begun).await?;
            published.push(Published { shape, begun, id });
        }

        let links = Mutex::new(Links { send, receive: Some(receive), published, key_frame_requests: 0 });
        let media = Arc::new(Media { identity: Arc::clone(identity), reception, links });
        let (migrate, migrations) = migration::start(asker, &media);
        let (consumer_list, consumers) = watch::channel(Vec::new());
        let dispatcher = Dispatcher {
            incoming,
            answers: protoo.answers(),
            reception: Arc::clone(&media.reception),
            consumer_list,
            migrate,
        };
        let dispatcher = tokio::spawn(dispatcher.run());
        Ok(Self { protoo, media: Holder(media), consumers, migrations, dispatcher })
    }

    /// Waits until `count` consumers exist and each has brought at least `packets` packets.
    ///
    /// # Errors
    /// Which streams are silent when `patience` is over.
    pub async fn wait_for_media(&mut self, count: usize, packets: u64, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        let list = tokio::time::timeout(patience, self.consumers.wait_for(|list| list.len() >= count))
            .await
            .with_context(|| format!("fewer than {count} consumers were offered"))??
            .clone();
        let reception = &self.media.0.reception;
        loop {
            let changed = reception.progress();
            let flowing = reception.count(&list, packets);
            if flowing >= count {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if tokio::time::timeout(left, changed).await.is_err() {
                bail!("{flowing} of {count} streams move after {patience:?}");
            }
        }
    }

    /// What was received so far, by the SSRC of each stream's first consumer.
    pub fn streams(&self) -> HashMap<u32, StreamCheck> {
        self.media.0.reception.streams()
    }

    /// How all its streams do.
    pub fn tally(&self) -> Tally {
        self.media.0.reception.tally()
    }

    /// The ids of what this peer has.
    pub fn held(&self) -> Held {
        let links = self.media.0.links();
        let transports = links.send.iter().chain(&links.receive).map(|link| link.transport_id().to_owned());
        Held {
            transports: transports.collect(),
            producers: links.published.iter().map(|published| published.id.clone()).collect(),
            consumers: self.media.0.reception.consumers(),
        }
    }

    /// How often the server asked this peer for a key frame so far.
    pub fn key_frame_requests(&self) -> u64 {
        let links = self.media.0.links();
        links.key_frame_requests + links.send.as_ref().map_or(0, Link::key_frame_requests)
    }

    /// How often it took its media elsewhere within its session.
    pub fn migrations(&self) -> Migrations {
        *self.migrations.borrow()
    }

    /// Waits until the server, or its end, has closed the WebSocket; of a session that can be resumed, until it is over. The close
    /// code, where there was one.
    pub async fn closed(&mut self) -> Option<u16> {
        // Ended by a panic, it is over as well.
        (&mut self.dispatcher).await.ok().flatten()
    }

    /// Where the server receives what this peer sends, and sends what it receives.
    ///
    /// # Panics
    /// Never: a peer has transports until it has left.
    pub fn media_address(&self) -> SocketAddr {
        self.media.0.links().receive.as_ref().expect("it has not left").remote()
    }

    /// Whether the WebSocket is closed.
    pub fn is_closed(&self) -> bool {
        self.dispatcher.is_finished()
    }

    /// A handle that asks the server while this peer listens.
    pub fn asker(&self) -> Asker {
        self.protoo.asker()
    }

    /// How often its session went on over another connection.
    pub fn resumed(&self) -> u32 {
        self.protoo.resumed()
    }

    /// The protoo session, for requests beyond joining.
    pub fn protoo(&mut self) -> &mut Protoo {
        &mut self.protoo
    }

    /// Leaves as a well-behaved client does: a close frame; the server closes the transports.
    pub async fn leave(self) {
        let Self { protoo, media, dispatcher, .. } = self;
        protoo.close().await;
        drop(media);
        dispatcher.abort();
    }

    /// Vanishes: TCP and UDP sockets are dropped without a word.
    pub fn vanish(self) {
        self.dispatcher.abort();
    }
}

/// Does what the server asks and tells.
struct Dispatcher {
    incoming: Receiver<Incoming>,
    answers: Answers,
    reception: Arc<Reception>,
    /// The SSRC of each stream's first consumer.
    consumer_list: watch::Sender<Vec<u32>>,
    migrate: mpsc::Sender<Duration>,
}

impl Dispatcher {
    async fn run(mut self) -> Option<u16> {
        while let Some(event) = self.incoming.recv().await {
            match event {
                Incoming::Request { id, method, data } if method == "newConsumer" => {
                    let ssrc = data["rtpParameters"]["encodings"][0]["ssrc"].as_u64();
                    if let (true, Some(ssrc)) = (self.reception.offered(&data), ssrc) {
                        self.consumer_list.send_modify(|list| list.push(ssrc as u32));
                    }
                    self.answers.accept(id).await;
                }
                Incoming::Request { id, .. } => self.answers.accept(id).await,
                Incoming::Notification { method, data } => match method.as_str() {
                    "consumerClosed" => {
                        self.reception.closed(data["consumerId"].as_str().unwrap_or_default());
                    }
                    "migrate" => {
                        let within = Duration::from_millis(data["withinMs"].as_u64().unwrap_or_default());
                        // One after the other; a server that asks faster is not served.
                        let _ = self.migrate.try_send(within);
                    }
                    _ => {}
                },
                Incoming::Closed(code) => return code,
            }
        }
        None
    }
}

/// Makes a transport.
pub(crate) async fn open(
    asker: &Asker,
    identity: &Arc<Identity>,
    sends: bool,
    reception: &Arc<Reception>,
) -> Result<Link> {
    let remote = open_transport(asker, sends).await?;
    let link = Link::open(identity, &remote, Arc::clone(reception)).await?;
    connect_transport(asker, identity, &remote.id).await?;
    Ok(link)
}

/// Announces a stream on a transport, perhaps in the place of a producer: the new producer's id, and its SSRC.
pub(crate) async fn produce(
    asker: &Asker,
    send: &Link,
    shape: Shape,
    mid: usize,
    replaces: Option<&str>,
) -> Result<(String, u32)> {
    let ssrc = rand::random::<u32>() & 0x7fff_fffe;
    let parameters = rtp_parameters(shape.media, ssrc, mid);
    let kind = if shape.media == router::Media::Video { "video" } else { "audio" };
    let mut data = json!({ "transportId": send.transport_id(), "kind": kind, "rtpParameters": parameters, "appData": {} });
    if let Some(replaced) = replaces {
        data["replaces"] = json!(replaced);
    }
    let answer = asker.request("produce", data).await?;
    Ok((answer["id"].as_str().context("a producer without an id")?.to_owned(), ssrc))
}

/// Asks for a transport to send or to receive on.
pub(crate) async fn open_transport(asker: &Asker, sends: bool) -> Result<RemoteTransport> {
    let request = json!({ "forceTcp": false, "producing": sends, "consuming": !sends });
    let answer = asker.request("createWebRtcTransport", request).await?;
    remote_transport(&answer)
}

/// Tells the server who will come to a transport.
pub(crate) async fn connect_transport(asker: &Asker, identity: &Identity, id: &str) -> Result<()> {
    let fingerprints = json!([{ "algorithm": "sha-256", "value": identity.fingerprint() }]);
    let dtls = json!({ "role": "client", "fingerprints": fingerprints });
    asker.request("connectWebRtcTransport", json!({ "transportId": id, "dtlsParameters": dtls })).await?;
    Ok(())
}

fn remote_transport(answer: &Value) -> Result<RemoteTransport> {
    let candidates =
        answer["iceCandidates"].as_array().context("createWebRtcTransport answered no candidates")?;
    let candidate =
        candidates.iter().find(|c| c["protocol"] == "udp").context("the server offers no UDP candidate")?;
    let ip = candidate["address"]
        .as_str()
        .or_else(|| candidate["ip"].as_str())
        .context("a candidate has no address")?;
    let port =
        candidate["port"].as_u64().and_then(|p| u16::try_from(p).ok()).context("a candidate has no port")?;
    let text =
        |value: &Value, what: &str| value.as_str().map(str::to_owned).with_context(|| format!("no {what}"));
    let fingerprints = answer["dtlsParameters"]["fingerprints"].as_array().context("no DTLS fingerprints")?;
    let fingerprint =
        fingerprints.iter().find(|f| f["algorithm"] == "sha-256").context("no SHA-256 fingerprint")?;
    Ok(RemoteTransport {
        id: text(&answer["id"], "transport id")?,
        address: (ip.parse::<std::net::IpAddr>().context("a candidate's address is no IP address")?, port)
            .into(),
        username_fragment: text(&answer["iceParameters"]["usernameFragment"], "ICE user name fragment")?,
        password: text(&answer["iceParameters"]["password"], "ICE password")?,
        fingerprint: text(&fingerprint["value"], "fingerprint value")?,
    })
}

/// What a synthetic peer can receive: Opus and VP8 with RTX.
pub(crate) fn capabilities() -> Value {
    json!({
        "codecs": [
            { "kind": "audio", "mimeType": "audio/opus", "preferredPayloadType": 100, "clockRate": 48000, "channels": 2,
              "parameters": {}, "rtcpFeedback": [{ "type": "transport-cc", "parameter": "" }] },
            { "kind": "video", "mimeType": "video/VP8", "preferredPayloadType": 101, "clockRate": 90000,
              "parameters": {}, "rtcpFeedback": feedback() },
            { "kind": "video", "mimeType": "video/rtx", "preferredPayloadType": 102, "clockRate": 90000,
              "parameters": { "apt": 101 }, "rtcpFeedback": [] }
        ],
        "headerExtensions": [
            { "kind": "audio", "uri": "urn:ietf:params:rtp-hdrext:sdes:mid", "preferredId": 1 },
            { "kind": "video", "uri": "urn:ietf:params:rtp-hdrext:sdes:mid", "preferredId": 1 }
        ]
    })
}

fn feedback() -> Value {
    json!([{ "type": "nack", "parameter": "" }, { "type": "nack", "parameter": "pli" }, { "type": "ccm", "parameter": "fir" }])
}

/// What a synthetic peer sends.
pub(crate) fn rtp_parameters(media: router::Media, ssrc: u32, mid: usize) -> Value {
    let payload_type = media.payload_type();
    let (codecs, encoding) = match media {
        router::Media::Audio => (
            json!([{ "mimeType": "audio/opus", "payloadType": payload_type, "clockRate": 48000, "channels": 2,
                     "parameters": { "useinbandfec": 1 }, "rtcpFeedback": [] }]),
            json!({ "ssrc": ssrc }),
        ),
        router::Media::Video => (
            json!([
                { "mimeType": "video/VP8", "payloadType": payload_type, "clockRate": 90000, "parameters": {},
                  "rtcpFeedback": feedback() },
                { "mimeType": "video/rtx", "payloadType": payload_type + 1, "clockRate": 90000,
                  "parameters": { "apt": payload_type }, "rtcpFeedback": [] }
            ]),
            json!({ "ssrc": ssrc, "rtx": { "ssrc": ssrc + 1 } }),
        ),
    };
    json!({ "mid": mid.to_string(), "codecs": codecs, "headerExtensions": [], "encodings": [encoding],
            "rtcp": { "cname": format!("bench-{ssrc}"), "reducedSize": true } })
}
