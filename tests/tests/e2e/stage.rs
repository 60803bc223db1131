//! A worker with a Router that a test holds itself, through `media`'s handles, without a server.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use media::{
    Consumer, ConsumerOptions, EventReceiver, ListenInfo, PlainRemote, PlainTransport, PlainTransportOptions,
    Producer, ProducerOptions, Router, RouterOptions, WebRtcListen, WebRtcServer, WebRtcTransport,
    WebRtcTransportOptions, Worker, WorkerSettings, event_queue,
};
use ortc::{
    DtlsParameters, DtlsRole, MediaKind, RtpCapabilities, RtpParameters, SrtpCryptoSuite, SrtpParameters,
    TransportProtocol,
};
use serde_json::json;
use tests::{Publisher, Recorder, RtpEnd, Scenario, tureen_worker};

/// The colour and the tone of the voice `red` of tests/browser, which the viewer looks for.
pub(crate) const RGB: [u8; 3] = [190, 40, 40];
pub(crate) const HERTZ: u32 = 440;
/// Key and salt of both ffmpegs (30 bytes).
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwd";

/// A worker with a Router, held by the test itself.
pub(crate) struct Stage {
    pub(crate) worker: Worker,
    pub(crate) server: WebRtcServer,
    router: Router,
    _events: EventReceiver,
}

/// Two PlainTransports that a publisher feeds.
pub(crate) struct Inlets {
    pub(crate) video: Producer,
    pub(crate) audio: Producer,
    video_end: RtpEnd,
    audio_end: RtpEnd,
    _transports: [PlainTransport; 2],
}

impl Inlets {
    /// Starts the publisher: `RGB` and `HERTZ`.
    pub(crate) fn publish(&self, seconds: u32) -> Result<Publisher> {
        Publisher::start(RGB, HERTZ, seconds, &self.video_end, &self.audio_end)
    }
}

/// A PlainTransport to a recorder, with what it sends.
pub(crate) struct Outlet {
    pub(crate) transport: PlainTransport,
    pub(crate) consumer: Consumer,
    pub(crate) end: RtpEnd,
}

/// A Chromium that watches, with what it receives by.
pub(crate) struct Viewer {
    pub(crate) scenario: Scenario,
    pub(crate) transport: WebRtcTransport,
    _consumers: Vec<Consumer>,
}

impl Stage {
    pub(crate) async fn new() -> Result<Self> {
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

    /// What a publishing ffmpeg needs: where it sends to, and what Consumers may ask for.
    pub(crate) async fn inlets(&self, srtp: Option<SrtpCryptoSuite>) -> Result<Inlets> {
        let (video_in, video_end) = self.ingest(srtp, 101).await?;
        let (audio_in, audio_end) = self.ingest(srtp, 100).await?;
        let video = produce(&video_in, MediaKind::Video, "video/VP8", 101, Publisher::VIDEO_SSRC).await?;
        let audio = produce(&audio_in, MediaKind::Audio, "audio/opus", 100, Publisher::AUDIO_SSRC).await?;
        Ok(Inlets { video, audio, video_end, audio_end, _transports: [video_in, audio_in] })
    }

    /// A PlainTransport to a recorder's port, and a paused Consumer on it.
    pub(crate) async fn outlet(&self, srtp: Option<SrtpCryptoSuite>, producer: &Producer) -> Result<Outlet> {
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

    /// A Chromium that receives these, connected; its scenario runs on. `setup` is its choice of a DTLS role, as SDP
    /// has it: of both (`actpass`) it takes the client's, of `active` it can only be the server.
    pub(crate) async fn viewer(
        &self,
        producers: &[&Producer],
        listen: WebRtcListen,
        setup: &str,
    ) -> Result<Viewer> {
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
            "setup": setup,
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
        let ours = transport.connect(&dtls).await?;
        let expected = if dtls.role == DtlsRole::Server { DtlsRole::Client } else { DtlsRole::Server };
        ensure!(ours == expected, "the other is {:?}, and so are we", dtls.role);
        for consumer in &consumers {
            consumer.resume().await?;
        }
        scenario.tell(&json!({ "connected": true }))?;
        Ok(Viewer { scenario, transport, _consumers: consumers })
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

pub(crate) fn loopback(protocol: TransportProtocol) -> ListenInfo {
    ListenInfo::new(protocol, [127, 0, 0, 1].into(), 0)
}
