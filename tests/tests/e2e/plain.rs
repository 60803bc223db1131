//! PlainTransports through `media`'s handles, with ffmpeg at both ends and a Chromium that watches.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use media::{
    Consumer, ConsumerOptions, EventReceiver, ListenInfo, PlainRemote, PlainTransport, PlainTransportOptions,
    Producer, ProducerOptions, Router, RouterOptions, WebRtcListen, WebRtcServer, WebRtcTransport,
    WebRtcTransportOptions, Worker, WorkerSettings, event_queue,
};
use ortc::{
    DtlsParameters, MediaKind, RtpCapabilities, RtpParameters, SrtpCryptoSuite, SrtpParameters,
    TransportProtocol,
};
use serde_json::json;
use tests::{Publisher, Recorder, RtpEnd, Scenario, tureen_worker};

/// The colour and the tone of the voice `red` of tests/browser.
const RGB: [u8; 3] = [190, 40, 40];
const HERTZ: u32 = 440;
/// Long enough for a browser to see a key frame and to watch for its four seconds.
const SECONDS: u32 = 10;
/// Key and salt of both ffmpegs (30 bytes).
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwd";

#[tokio::test(flavor = "multi_thread")]
async fn ffmpeg_publishes_rtp_that_chromium_sees_and_another_ffmpeg_records() -> Result<()> {
    broadcast(None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn ffmpeg_publishes_srtp_that_chromium_sees_and_another_ffmpeg_records() -> Result<()> {
    broadcast(Some(SrtpCryptoSuite::AesCm128HmacSha1_80)).await
}

async fn broadcast(srtp: Option<SrtpCryptoSuite>) -> Result<()> {
    let stage = Stage::new().await?;
    let (video_in, video_end) = stage.ingest(srtp, 101).await?;
    let (audio_in, audio_end) = stage.ingest(srtp, 100).await?;
    let video = produce(&video_in, MediaKind::Video, "video/VP8", 101, Publisher::VIDEO_SSRC).await?;
    let audio = produce(&audio_in, MediaKind::Audio, "audio/opus", 100, Publisher::AUDIO_SSRC).await?;

    let mut viewer = stage.viewer(&[&video, &audio], WebRtcListen::Server(stage.server.clone())).await?;
    let outlets = [stage.outlet(srtp, &video).await?, stage.outlet(srtp, &audio).await?];
    let [video_out, audio_out] = &outlets;
    let recorder = Recorder::start(&video_out.end, &audio_out.end)?;
    for outlet in &outlets {
        outlet.consumer.resume().await?;
    }

    let publisher = Publisher::start(RGB, HERTZ, SECONDS, &video_end, &audio_end)?;
    tokio::task::spawn_blocking(move || viewer.scenario.finish(Duration::from_secs(40))).await??;
    tokio::task::spawn_blocking(move || publisher.sent(Duration::from_secs(20))).await??;
    // A turn of the worker between two answers: what was in its sockets is in the recorder's.
    for outlet in outlets.iter().chain(&outlets) {
        outlet.transport.stats().await?;
    }
    let recording = tokio::task::spawn_blocking(move || recorder.finish()).await??;
    println!("{recording:?}");
    ensure!(recording.frames == Publisher::frames(SECONDS), "{recording:?}");
    let near = recording.rgb.iter().zip(RGB).all(|(is, should)| is.abs_diff(should) < 12);
    ensure!(near, "the colour is another: {recording:?}");
    ensure!((recording.hertz - f64::from(HERTZ)).abs() < 5.0, "the tone is another: {recording:?}");
    ensure!((recording.sound_seconds - f64::from(SECONDS)).abs() < 0.2, "{recording:?}");
    stage.worker.close().await;
    Ok(())
}

/// A worker with a Router, held by the test itself.
struct Stage {
    worker: Worker,
    server: WebRtcServer,
    router: Router,
    _events: EventReceiver,
}

/// A PlainTransport to a recorder, with what it sends.
struct Outlet {
    transport: PlainTransport,
    consumer: Consumer,
    end: RtpEnd,
}

/// A Chromium that watches, with what it receives by.
struct Viewer {
    scenario: Scenario,
    _transport: WebRtcTransport,
    _consumers: Vec<Consumer>,
}

impl Stage {
    async fn new() -> Result<Self> {
        let worker = Worker::spawn(&WorkerSettings::new(tureen_worker()?)).await?;
        let server = worker.create_web_rtc_server(&[loopback(TransportProtocol::Udp)]).await?;
        let (events, _events) = event_queue(1024);
        let media_codecs = ortc::default_media_codecs();
        let router = worker.create_router(RouterOptions { id: None, media_codecs, events }).await?;
        Ok(Self { worker, server, router, _events })
    }

    /// A PlainTransport that learns the publisher's address from its first packet: RTP and RTCP on one port, or, with
    /// SRTP, on two.
    async fn ingest(
        &self,
        srtp: Option<SrtpCryptoSuite>,
        payload_type: u8,
    ) -> Result<(PlainTransport, RtpEnd)> {
        let options = PlainTransportOptions {
            comedia: true,
            rtcp_listen: srtp.map(|_| loopback(TransportProtocol::Udp)),
            srtp,
            ..PlainTransportOptions::new(loopback(TransportProtocol::Udp))
        };
        let transport = self.router.create_plain_transport(options).await?;
        let key = srtp.map(|crypto_suite| SrtpParameters { crypto_suite, key_base64: KEY.to_owned() });
        if key.is_some() {
            let remote = PlainRemote { srtp_parameters: key, ..PlainRemote::default() };
            transport.connect(&remote).await?;
        }
        let beginning = transport.beginning();
        let port = beginning.tuple.local_port;
        let rtcp_port = beginning.rtcp_tuple.as_ref().map_or(port, |tuple| tuple.local_port);
        let end = RtpEnd { port, rtcp_port, payload_type, srtp_key: srtp.map(|_| KEY.to_owned()) };
        Ok((transport, end))
    }

    /// A PlainTransport to a recorder's port, and a paused Consumer on it.
    async fn outlet(&self, srtp: Option<SrtpCryptoSuite>, producer: &Producer) -> Result<Outlet> {
        let options = PlainTransportOptions {
            rtcp_listen: Some(loopback(TransportProtocol::Udp)),
            srtp,
            ..PlainTransportOptions::new(loopback(TransportProtocol::Udp))
        };
        let transport = self.router.create_plain_transport(options).await?;
        let port = Recorder::free_port()?;
        let remote = PlainRemote {
            ip: Some([127, 0, 0, 1].into()),
            port: Some(port),
            rtcp_port: Some(port + 1),
            srtp_parameters: srtp
                .map(|crypto_suite| SrtpParameters { crypto_suite, key_base64: KEY.to_owned() }),
        };
        transport.connect(&remote).await?;
        // A recorder understands no header extension and asks for nothing again.
        let mut capabilities = self.router.rtp_capabilities().clone();
        capabilities.header_extensions.clear();
        for codec in &mut capabilities.codecs {
            codec.rtcp_feedback.clear();
        }
        let options = ConsumerOptions {
            enable_rtx: Some(false),
            ..ConsumerOptions::new(producer.id().clone(), Arc::new(capabilities))
        };
        let consumer = transport.consume(options).await?;
        let payload_type = consumer.rtp_parameters().codecs.first().context("a codec")?.payload_type;
        let srtp_key = transport.beginning().srtp_parameters.as_ref().map(|ours| ours.key_base64.clone());
        Ok(Outlet { transport, consumer, end: RtpEnd { port, rtcp_port: port + 1, payload_type, srtp_key } })
    }

    /// A Chromium that receives these, connected; its scenario runs on.
    async fn viewer(&self, producers: &[&Producer], listen: WebRtcListen) -> Result<Viewer> {
        let transport = self.router.create_web_rtc_transport(WebRtcTransportOptions::new(listen)).await?;
        let capabilities: Arc<RtpCapabilities> = Arc::new(self.router.rtp_capabilities().clone());
        let mut consumers = Vec::new();
        for producer in producers {
            let options = ConsumerOptions::new(producer.id().clone(), Arc::clone(&capabilities));
            consumers.push(transport.consume(options).await?);
        }
        let beginning = transport.beginning();
        let args = json!({
            "voice": "red",
            "transport": {
                "iceParameters": beginning.ice_parameters,
                "iceCandidates": beginning.ice_candidates,
                "dtlsParameters": beginning.dtls_parameters,
            },
            "consumers": consumers.iter().map(|consumer| json!({
                "kind": consumer.kind(), "rtpParameters": consumer.rtp_parameters(),
            })).collect::<Vec<_>>(),
        });
        let mut scenario = Scenario::start("viewer", "http://127.0.0.1:9", &args)?;
        let answer = scenario.heard(Duration::from_secs(20))?;
        let dtls: DtlsParameters = serde_json::from_value(answer["dtlsParameters"].clone())?;
        transport.connect(&dtls).await?;
        for consumer in &consumers {
            consumer.resume().await?;
        }
        scenario.tell(&json!({ "connected": true }))?;
        Ok(Viewer { scenario, _transport: transport, _consumers: consumers })
    }
}

async fn produce(
    transport: &PlainTransport,
    kind: MediaKind,
    mime_type: &str,
    payload_type: u8,
    ssrc: u32,
) -> Result<Producer> {
    let (clock_rate, channels) = if kind == MediaKind::Audio { (48_000, Some(2)) } else { (90_000, None) };
    let mut codec = json!({ "mimeType": mime_type, "payloadType": payload_type, "clockRate": clock_rate });
    if let Some(channels) = channels {
        codec["channels"] = json!(channels);
    }
    let rtp_parameters: RtpParameters = serde_json::from_value(json!({
        "codecs": [codec], "encodings": [{ "ssrc": ssrc }], "rtcp": { "cname": "ffmpeg" }
    }))?;
    Ok(transport.produce(ProducerOptions::new(kind, rtp_parameters)).await?)
}

fn loopback(protocol: TransportProtocol) -> ListenInfo {
    ListenInfo::new(protocol, [127, 0, 0, 1].into(), 0)
}
