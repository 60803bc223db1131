//! Records what a real sender sends: joins its room as a listener, lets it find its rate, asks for a key frame, and
//! writes down every packet of its video from there on (see [`crate::recording`]).
//!
//! The stream comes through the server's worker, which forwards each packet in the turn in which it came. Times are
//! the kernel's times of arrival.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rtc::codec::vp8::Descriptor;
use rtc::rtcp;
use rtc::rtp::Ssrc;
use rtc::srtp::Profile;
use serde_json::{Value, json};

use crate::arrival::{self, ArrivalReader};
use crate::endpoint::{Endpoint, Identity};
use crate::forward::client::Client;
use crate::peer::{capabilities, connect_transport, open_transport};
use crate::protoo::{Incoming, Protoo};
use crate::recording::{RecordedPacket, Recording};
use crate::router::RemoteTransport;

/// How long a handshake, or a key frame that was asked for, may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the socket is looked at; times of arrival are the kernel's.
const TURN: Duration = Duration::from_millis(2);

/// What to record.
#[derive(Debug, Clone)]
pub struct Options {
    /// The server's WebSocket URL.
    pub url: String,
    /// The room, in which one peer sends video.
    pub room: String,
    /// How long the sender has to find its rate.
    pub warm_up: Duration,
    /// How long to record.
    pub duration: Duration,
    /// The picture that the sender must not have fallen below.
    pub size: [u16; 2],
}

/// Records the first video that is offered.
///
/// # Errors
/// Where the server refuses, no video comes, packets were lost, or the picture has another size.
pub async fn run(options: &Options) -> Result<Recording> {
    let identity = Identity::new(&Profile::PREFERENCE)?;
    let url = format!("{}?roomId={}&peerId=recorder", options.url, options.room);
    let (mut protoo, mut incoming) = Protoo::connect(&url).await?;
    protoo.request("getRouterRtpCapabilities", json!({})).await?;
    let remote = open_transport(&protoo.asker(), false).await?;
    connect_transport(&protoo.asker(), &identity, &remote.id).await?;
    let mut client = tokio::task::spawn_blocking(move || connect(&identity, &remote))
        .await
        .context("the connecting thread panicked")??;
    let device = json!({ "flag": "bench", "name": "tureen-bench", "version": env!("CARGO_PKG_VERSION") });
    let join = json!({ "displayName": "recorder", "device": device, "rtpCapabilities": capabilities() });
    protoo.request("join", join).await?;
    let ssrc = loop {
        match tokio::time::timeout(PATIENCE, incoming.recv()).await.context("no video was offered")? {
            Some(Incoming::Request { id, method, data }) => {
                protoo.answers().accept(id).await;
                if method == "newConsumer" && data["kind"] == "video" {
                    break video_ssrc(&data)?;
                }
            }
            Some(Incoming::Notification { .. }) => {}
            Some(Incoming::Closed(reason)) => bail!("the server closed the session: {reason:?}"),
            None => bail!("the server closed the session"),
        }
    };
    let answers = protoo.answers();
    let drain = tokio::spawn(async move {
        while let Some(event) = incoming.recv().await {
            if let Incoming::Request { id, .. } = event {
                answers.accept(id).await;
            }
        }
    });
    let options = options.clone();
    let recording = tokio::task::spawn_blocking(move || record(&mut client, ssrc, &options)).await;
    drain.abort();
    protoo.close().await;
    recording.map_err(|_| anyhow!("the recorder panicked"))?
}

fn connect(identity: &Identity, remote: &RemoteTransport) -> Result<Client> {
    let local = if remote.address.is_ipv6() { "[::1]:0" } else { "127.0.0.1:0" };
    let socket = UdpSocket::bind(local).context("cannot bind a loopback socket")?;
    let mut endpoint = Endpoint::new(identity, remote, Instant::now())?;
    endpoint.connect_blocking(&socket, PATIENCE)?;
    arrival::prepare(&socket)?;
    let client = Client::new(socket, endpoint);
    client.widen_buffer()?;
    Ok(client)
}

fn video_ssrc(offer: &Value) -> Result<u32> {
    let parameters = &offer["rtpParameters"];
    let codec = parameters["codecs"][0]["mimeType"].as_str().unwrap_or_default();
    ensure!(codec.eq_ignore_ascii_case("video/VP8"), "the video is {codec}, not VP8");
    let ssrc = parameters["encodings"][0]["ssrc"].as_u64().context("an offered stream has an SSRC")?;
    Ok(u32::try_from(ssrc)?)
}

/// One packet as it came.
struct Arrived {
    arrival_ns: u64,
    sequence: u16,
    timestamp: u32,
    marker: bool,
    payload_bytes: usize,
    /// The descriptor and what of the VP8 header follows it.
    head: Vec<u8>,
}

fn record(client: &mut Client, ssrc: u32, options: &Options) -> Result<Recording> {
    let mut reader = ArrivalReader::new();
    let mut arrived: Vec<Arrived> = Vec::new();
    let begin = Instant::now();
    let mut asked = false;
    loop {
        client.turn(&mut reader, |rtp, arrival_ns| {
            if rtp.ssrc == ssrc {
                arrived.push(Arrived {
                    arrival_ns,
                    sequence: rtp.sequence,
                    timestamp: rtp.timestamp,
                    marker: rtp.marker,
                    payload_bytes: rtp.payload.len(),
                    head: rtp.payload.get(..16).unwrap_or(rtp.payload).to_vec(),
                });
            }
        })?;
        if begin.elapsed() < options.warm_up {
            arrived.clear();
        } else if !asked {
            asked = true;
            let mut pli = Vec::new();
            rtcp::write_pli(&mut pli, Ssrc(1), Ssrc(ssrc));
            client.send_rtcp(&pli)?;
        } else if let Some(key) = arrived.iter().position(is_key_frame) {
            arrived.drain(..key);
            let recorded = arrived.last().map_or(0, |last| last.arrival_ns - arrived[0].arrival_ns);
            if u128::from(recorded) >= options.duration.as_nanos() {
                return recording(&arrived, options);
            }
        } else {
            ensure!(begin.elapsed() < options.warm_up + PATIENCE, "no key frame came");
        }
        std::thread::sleep(TURN);
    }
}

fn is_key_frame(packet: &Arrived) -> bool {
    Descriptor::parse(&packet.head).is_some_and(|descriptor| descriptor.key_frame)
}

fn recording(arrived: &[Arrived], options: &Options) -> Result<Recording> {
    let mut packets = Vec::new();
    let mut timestamp = arrived[0].timestamp;
    for (i, packet) in arrived.iter().enumerate() {
        let expected = arrived[0].sequence.wrapping_add(i as u16);
        ensure!(packet.sequence == expected, "a packet was lost or came late: the machine is too busy");
        if packet.payload_bytes == 0 {
            continue; // A probe made of padding.
        }
        let descriptor = Descriptor::parse(&packet.head).context("a payload without VP8 descriptor")?;
        ensure!(
            descriptor.long_picture_id && descriptor.len == 4,
            "a descriptor that a replay does not write: {:02x?}",
            packet.head
        );
        let starts_frame = descriptor.start && descriptor.partition == 0;
        if descriptor.key_frame {
            let size = picture_size(packet, usize::from(descriptor.len))?;
            ensure!(size == options.size, "the sender fell to {}x{}: too busy a machine", size[0], size[1]);
        }
        let ticks = packet.timestamp.wrapping_sub(timestamp);
        timestamp = packet.timestamp;
        packets.push(RecordedPacket {
            at: Duration::from_micros((packet.arrival_ns - arrived[0].arrival_ns) / 1_000),
            payload_bytes: u16::try_from(packet.payload_bytes)?,
            starts_frame,
            starts_key_frame: descriptor.key_frame,
            marker: packet.marker,
            ticks: if starts_frame { ticks } else { 0 },
        });
    }
    let whole = packets.iter().rposition(|packet| packet.marker).context("not one whole frame came")?;
    packets.truncate(whole + 1);
    Recording::new(packets)
}

/// Width and height, from a key frame's header (RFC 6386, section 9.1).
fn picture_size(packet: &Arrived, offset: usize) -> Result<[u16; 2]> {
    let header = packet.head.get(offset..offset + 10).context("a key frame without header")?;
    let field = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]) & 0x3fff;
    Ok([field(6), field(8)])
}
