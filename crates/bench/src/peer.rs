//! A synthetic participant: joins a room over protoo's classic dialect, publishes audio and video, receives whatever
//! the server offers, and leaves with or without goodbye.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::endpoint::Identity;
use crate::link::Link;
use crate::protoo::{Incoming, Protoo};
use crate::router::{Media, RemoteTransport};
use crate::source::{Shape, Source, StreamCheck};

/// How long ICE and DTLS may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// Streams that a peer receives, by SSRC.
pub type Streams = Arc<Mutex<HashMap<u32, StreamCheck>>>;

/// A participant that is in the room.
#[derive(Debug)]
pub struct Peer {
    protoo: Protoo,
    /// Where it publishes something.
    send: Option<Link>,
    receive: Link,
    streams: Streams,
    consumers: watch::Receiver<Vec<u32>>,
    held: Arc<Mutex<Held>>,
    dispatcher: JoinHandle<()>,
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

impl Peer {
    /// Joins: session, transports, `join`, a producer for each shape. Who has no shape to send has no transport for it, either.
    ///
    /// # Errors
    /// Whatever the server refuses, and ICE or DTLS not done within 10 s.
    pub async fn join(seat: &Seat, identity: &Arc<Identity>, shapes: &[Shape]) -> Result<Self> {
        let joint = if seat.url.contains('?') { '&' } else { '?' };
        let url = format!("{}{joint}roomId={}&peerId={}", seat.url, seat.room_id, seat.peer_id);
        let (mut protoo, mut incoming) = Protoo::connect(&url).await?;
        protoo.request("getRouterRtpCapabilities", json!({})).await?;
        let streams = Streams::default();
        let send = if shapes.is_empty() {
            None
        } else {
            Some(open(&mut protoo, identity, true, &Streams::default()).await?)
        };
        let receive = open(&mut protoo, identity, false, &streams).await?;
        // What arrives before the answer to `join` waits in the queue.
        let device = json!({ "flag": "bench", "name": "tureen-bench", "version": env!("CARGO_PKG_VERSION") });
        let join =
            json!({ "displayName": seat.peer_id, "device": device, "rtpCapabilities": capabilities() });
        protoo.request("join", join).await?;
        for link in send.iter().chain([&receive]) {
            link.wait_connected(CONNECT_DEADLINE).await.context("ICE or DTLS did not come about")?;
        }

        let mut held = Held {
            transports: send.iter().chain([&receive]).map(|link| link.transport_id().to_owned()).collect(),
            ..Held::default()
        };
        for (send, (i, &shape)) in send.iter().cycle().zip(shapes.iter().enumerate()) {
            let ssrc = rand::random::<u32>() & 0x7fff_fffe;
            let parameters = rtp_parameters(shape.media, ssrc, i);
            let kind = if shape.media == Media::Video { "video" } else { "audio" };
            let data = json!({ "transportId": send.transport_id(), "kind": kind, "rtpParameters": parameters, "appData": {} });
            let answer = protoo.request("produce", data).await?;
            held.producers.extend(answer["id"].as_str().map(str::to_owned));
            send.add_source(Source::new(shape, ssrc, shape.media.payload_type(), None)).await?;
        }

        let (consumer_list, consumers) = watch::channel(Vec::new());
        let answers = protoo.answers();
        let held = Arc::new(Mutex::new(held));
        let noted = Arc::clone(&held);
        let dispatcher = tokio::spawn(async move {
            while let Some(event) = incoming.recv().await {
                match event {
                    Incoming::Request { id, method, data } if method == "newConsumer" => {
                        if let Some(ssrc) = data["rtpParameters"]["encodings"][0]["ssrc"].as_u64() {
                            consumer_list.send_modify(|list| list.push(ssrc as u32));
                        }
                        if let Some(id) = data["id"].as_str() {
                            let mut held = noted.lock().expect("no one panics while holding this lock");
                            held.consumers.push(id.to_owned());
                        }
                        answers.accept(id).await;
                    }
                    Incoming::Request { id, .. } => answers.accept(id).await,
                    Incoming::Notification { .. } => {}
                    Incoming::Closed(_) => return,
                }
            }
        });
        Ok(Self { protoo, send, receive, streams, consumers, held, dispatcher })
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
        loop {
            let changed = self.receive.progress();
            let flowing = {
                let streams = self.streams.lock().expect("no one panics while holding this lock");
                list.iter().filter(|ssrc| streams.get(ssrc).is_some_and(|s| s.received >= packets)).count()
            };
            if flowing >= count {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if tokio::time::timeout(left, changed).await.is_err() {
                bail!("{flowing} of {count} streams move after {patience:?}");
            }
        }
    }

    /// What was received so far, by SSRC.
    pub fn streams(&self) -> HashMap<u32, StreamCheck> {
        self.streams.lock().expect("no one panics while holding this lock").clone()
    }

    /// The ids of what this peer has.
    pub fn held(&self) -> Held {
        self.held.lock().expect("no one panics while holding this lock").clone()
    }

    /// How often the server asked this peer for a key frame so far.
    pub fn key_frame_requests(&self) -> u64 {
        self.send.as_ref().map_or(0, Link::key_frame_requests)
    }

    /// Waits until the server, or its end, has closed the WebSocket.
    pub async fn closed(&mut self) {
        // Ended by a panic, it is over as well.
        let _ = (&mut self.dispatcher).await;
    }

    /// Whether the WebSocket is closed.
    pub fn is_closed(&self) -> bool {
        self.dispatcher.is_finished()
    }

    /// The protoo session, for requests beyond joining.
    pub fn protoo(&mut self) -> &mut Protoo {
        &mut self.protoo
    }

    /// Leaves as a well-behaved client does: a close frame; the server closes the transports.
    pub async fn leave(self) {
        let Self { protoo, send, receive, dispatcher, .. } = self;
        protoo.close().await;
        drop((send, receive));
        dispatcher.abort();
    }

    /// Vanishes: TCP and UDP sockets are dropped without a word.
    pub fn vanish(self) {
        self.dispatcher.abort();
    }
}

async fn open(protoo: &mut Protoo, identity: &Arc<Identity>, sends: bool, streams: &Streams) -> Result<Link> {
    let remote = open_transport(protoo, sends).await?;
    let link = Link::open(identity, &remote, Arc::clone(streams)).await?;
    connect_transport(protoo, identity, &remote.id).await?;
    Ok(link)
}

/// Asks for a transport to send or to receive on.
pub(crate) async fn open_transport(protoo: &mut Protoo, sends: bool) -> Result<RemoteTransport> {
    let request = json!({ "forceTcp": false, "producing": sends, "consuming": !sends });
    let answer = protoo.request("createWebRtcTransport", request).await?;
    remote_transport(&answer)
}

/// Tells the server who will come to a transport.
pub(crate) async fn connect_transport(protoo: &mut Protoo, identity: &Identity, id: &str) -> Result<()> {
    let fingerprints = json!([{ "algorithm": "sha-256", "value": identity.fingerprint() }]);
    let dtls = json!({ "role": "client", "fingerprints": fingerprints });
    protoo.request("connectWebRtcTransport", json!({ "transportId": id, "dtlsParameters": dtls })).await?;
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
pub(crate) fn rtp_parameters(media: Media, ssrc: u32, mid: usize) -> Value {
    let payload_type = media.payload_type();
    let (codecs, encoding) = match media {
        Media::Audio => (
            json!([{ "mimeType": "audio/opus", "payloadType": payload_type, "clockRate": 48000, "channels": 2,
                     "parameters": { "useinbandfec": 1 }, "rtcpFeedback": [] }]),
            json!({ "ssrc": ssrc }),
        ),
        Media::Video => (
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
