//! One Router in a measured worker: creates transports, producers and consumers over the channel.
//!
//! Everything is asked for as mediasoup's own library would ask, so that any worker can be measured.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use worker_protocol::wire::rtp_parameters::{
    CodecMapping, EncodingMapping, MediaKind, RtcpFeedback, RtcpParameters, RtpCodecParameters,
    RtpEncodingParameters, RtpHeaderExtensionParameters, RtpHeaderExtensionUri, RtpMapping, RtpParameters,
    Rtx, Type,
};
use worker_protocol::wire::srtp_parameters::{SrtpCryptoSuite, SrtpParameters};
use worker_protocol::wire::web_rtc_transport::{
    DtlsParameters, DtlsRole, Fingerprint, FingerprintAlgorithm, Listen, ListenServer, WebRtcTransportOptions,
};
use worker_protocol::wire::{
    consumer, plain_transport, producer, request, response, router, transport, web_rtc_transport,
    worker as worker_wire,
};
use worker_protocol::wire::{request::Method, transport::Protocol};

use crate::channel::{Ask, Worker};

/// Ids of the header extensions, the same for what is sent and what is received.
pub mod extension_id {
    /// `urn:ietf:params:rtp-hdrext:sdes:mid`
    pub const MID: u8 = 1;
    /// `abs-send-time`
    pub const ABS_SEND_TIME: u8 = 4;
    /// transport-wide congestion control
    pub const TRANSPORT_CC: u8 = 5;
}

/// What is sent: VP8 video or Opus audio, with RTX beside video.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    /// VP8, 90 kHz, with NACK, PLI and RTX.
    Video,
    /// Opus, 48 kHz.
    Audio,
}

impl Media {
    /// The payload type on both sides.
    pub fn payload_type(self) -> u8 {
        if self == Self::Video { 101 } else { 100 }
    }

    fn kind(self) -> MediaKind {
        if self == Self::Video { MediaKind::Video } else { MediaKind::Audio }
    }
}

/// Where a transport's peer finds the worker, and with which credentials.
#[derive(Debug, Clone)]
pub struct RemoteTransport {
    /// The transport's id.
    pub id: String,
    /// The worker's UDP address.
    pub address: SocketAddr,
    /// ICE user name fragment of the worker.
    pub username_fragment: String,
    /// ICE password of the worker.
    pub password: String,
    /// SHA-256 fingerprint of the worker's certificate.
    pub fingerprint: String,
}

impl RemoteTransport {
    /// What the worker answered to the request for a transport of this id.
    ///
    /// # Errors
    /// An answer without a UDP candidate.
    pub fn of(id: String, answer: Option<response::Body>) -> Result<Self> {
        let Some(response::Body::WebRtcTransportDumpResponse(dump)) = answer else {
            bail!("the worker answered createWebRtcTransport with another body")
        };
        let candidate = dump.ice_candidates.iter().find(|c| c.protocol == Protocol::Udp);
        let candidate = candidate.context("the worker offers no UDP candidate")?;
        let ip: IpAddr = candidate.address.parse().context("the candidate's address is no IP address")?;
        let mut fingerprints = dump.dtls_parameters.fingerprints.iter();
        let fingerprint = fingerprints.find(|f| f.algorithm == FingerprintAlgorithm::Sha256);
        let fingerprint = fingerprint.context("the worker announces no SHA-256 fingerprint")?;
        Ok(Self {
            id,
            address: SocketAddr::new(ip, candidate.port),
            username_fragment: dump.ice_parameters.username_fragment.clone(),
            password: dump.ice_parameters.password.clone(),
            fingerprint: fingerprint.value.clone(),
        })
    }
}

/// A Router and its WebRtcServer on 127.0.0.1.
#[derive(Debug)]
pub struct Router {
    /// The worker that has it.
    pub worker: Worker,
    next_id: u32,
    transport_cc: bool,
}

const ROUTER: &str = "router";
const SERVER: &str = "webrtc-server";

impl Router {
    /// Creates a Router and a WebRtcServer with one UDP socket on a free port. With `transport_cc`, consumers carry
    /// transport-wide sequence numbers.
    ///
    /// # Errors
    /// The worker's refusal.
    pub fn new(mut worker: Worker, transport_cc: bool) -> Result<Self> {
        let server = worker_wire::CreateWebRtcServerRequest {
            web_rtc_server_id: SERVER.into(),
            listen_infos: Some(vec![listen_info()]),
        };
        let body = request::Body::WorkerCreateWebRtcServerRequest(Box::new(server));
        worker.request(Method::WorkerCreateWebRtcServer, "", Some(body))?;
        let body = worker_wire::CreateRouterRequest { router_id: ROUTER.into() };
        let body = request::Body::WorkerCreateRouterRequest(Box::new(body));
        worker.request(Method::WorkerCreateRouter, "", Some(body))?;
        Ok(Self { worker, next_id: 0, transport_cc })
    }

    /// A WebRtcTransport on the WebRtcServer.
    ///
    /// # Errors
    /// The worker's refusal, or an answer without a UDP candidate.
    pub fn web_rtc_transport(&mut self) -> Result<RemoteTransport> {
        let (id, ask) = self.web_rtc_transport_ask();
        let answer = self.ask(ask)?;
        RemoteTransport::of(id, answer)
    }

    /// The request for a WebRtcTransport, and its id.
    pub fn web_rtc_transport_ask(&mut self) -> (String, Ask) {
        let id = self.id("transport");
        let options = WebRtcTransportOptions {
            base: Box::new(transport_options()),
            listen: Listen::ListenServer(Box::new(ListenServer { web_rtc_server_id: SERVER.into() })),
            enable_udp: true,
            enable_tcp: false,
            prefer_udp: false,
            prefer_tcp: false,
            ice_consent_timeout: 0,
        };
        let body =
            router::CreateWebRtcTransportRequest { transport_id: id.clone(), options: Box::new(options) };
        let body = request::Body::RouterCreateWebRtcTransportRequest(Box::new(body));
        let method = Method::RouterCreateWebRtcTransportWithServer;
        (id, Ask { method, handler_id: ROUTER.into(), body: Some(body) })
    }

    /// Tells a WebRtcTransport its peer's certificate; the peer is the DTLS client.
    ///
    /// # Errors
    /// The worker's refusal.
    pub fn connect_web_rtc(&mut self, transport_id: &str, sha256_fingerprint: &str) -> Result<()> {
        self.ask(Self::connect_web_rtc_ask(transport_id, sha256_fingerprint))?;
        Ok(())
    }

    /// The request of [`Router::connect_web_rtc`].
    pub fn connect_web_rtc_ask(transport_id: &str, sha256_fingerprint: &str) -> Ask {
        let fingerprint =
            Fingerprint { algorithm: FingerprintAlgorithm::Sha256, value: sha256_fingerprint.to_owned() };
        let dtls = DtlsParameters { fingerprints: vec![fingerprint], role: DtlsRole::Client };
        let body = web_rtc_transport::ConnectRequest { dtls_parameters: Box::new(dtls) };
        let body = request::Body::WebRtcTransportConnectRequest(Box::new(body));
        Ask { method: Method::WebRtcTransportConnect, handler_id: transport_id.to_owned(), body: Some(body) }
    }

    /// A PlainTransport that sends to `remote`, under SRTP where a suite is named. Returns its id and the key (key and
    /// salt, base64) that the worker sends with.
    ///
    /// # Errors
    /// The worker's refusal; a worker without PlainTransport says so.
    pub fn plain_transport(
        &mut self,
        remote: SocketAddr,
        suite: Option<SrtpCryptoSuite>,
        remote_key_base64: &str,
    ) -> Result<(String, Option<String>)> {
        let id = self.id("transport");
        let options = plain_transport::PlainTransportOptions {
            base: Box::new(transport_options()),
            listen_info: Box::new(listen_info()),
            rtcp_listen_info: None,
            rtcp_mux: true,
            comedia: false,
            enable_srtp: suite.is_some(),
            srtp_crypto_suite: suite,
        };
        let body =
            router::CreatePlainTransportRequest { transport_id: id.clone(), options: Box::new(options) };
        let body = request::Body::RouterCreatePlainTransportRequest(Box::new(body));
        self.worker.request(Method::RouterCreatePlainTransport, ROUTER, Some(body))?;
        let srtp_parameters = suite.map(|crypto_suite| {
            Box::new(SrtpParameters { crypto_suite, key_base64: remote_key_base64.into() })
        });
        let connect = plain_transport::ConnectRequest {
            ip: Some(remote.ip().to_string()),
            port: Some(remote.port()),
            rtcp_port: None,
            srtp_parameters,
        };
        let body = request::Body::PlainTransportConnectRequest(Box::new(connect));
        let answer = self.worker.request(Method::PlainTransportConnect, &id, Some(body))?;
        let Some(response::Body::PlainTransportConnectResponse(answer)) = answer else {
            bail!("the worker answered plainTransport.connect with another body")
        };
        Ok((id, answer.srtp_parameters.map(|p| p.key_base64)))
    }

    /// A Producer of one stream; returns its id.
    ///
    /// # Errors
    /// The worker's refusal.
    pub fn produce(
        &mut self,
        transport_id: &str,
        media: Media,
        ssrc: u32,
        rtx_ssrc: Option<u32>,
    ) -> Result<String> {
        let (id, ask) = self.produce_ask(transport_id, media, ssrc, rtx_ssrc);
        self.ask(ask)?;
        Ok(id)
    }

    /// The request of [`Router::produce`], and the Producer's id.
    pub fn produce_ask(
        &mut self,
        transport_id: &str,
        media: Media,
        ssrc: u32,
        rtx_ssrc: Option<u32>,
    ) -> (String, Ask) {
        let id = self.id("producer");
        let codecs = media_codecs(media, rtx_ssrc.is_some());
        let mapped = codecs
            .iter()
            .map(|c| CodecMapping { payload_type: c.payload_type, mapped_payload_type: c.payload_type });
        let body = transport::ProduceRequest {
            producer_id: id.clone(),
            kind: media.kind(),
            rtp_mapping: Box::new(RtpMapping {
                codecs: mapped.collect(),
                encodings: vec![EncodingMapping {
                    rid: None,
                    ssrc: Some(ssrc),
                    mapped_ssrc: mapped_ssrc(ssrc),
                }],
            }),
            rtp_parameters: Box::new(RtpParameters {
                mid: None,
                codecs,
                header_extensions: self.extensions(),
                encodings: vec![encoding(ssrc, rtx_ssrc)],
                rtcp: Box::new(RtcpParameters { cname: Some(format!("bench-{ssrc}")), reduced_size: true }),
                msid: None,
            }),
            paused: false,
            key_frame_request_delay: 0,
            enable_mediasoup_packet_id_header_extension: false,
        };
        let body = request::Body::TransportProduceRequest(Box::new(body));
        let method = Method::TransportProduce;
        (id, Ask { method, handler_id: transport_id.to_owned(), body: Some(body) })
    }

    /// A Consumer, not paused, of a Producer whose stream is `producer_ssrc`; it sends on `ssrc`. Returns its id.
    ///
    /// # Errors
    /// The worker's refusal.
    pub fn consume(
        &mut self,
        transport_id: &str,
        producer_id: &str,
        media: Media,
        producer_ssrc: u32,
        ssrc: u32,
        rtx_ssrc: Option<u32>,
    ) -> Result<String> {
        let (id, ask) = self.consume_ask(transport_id, producer_id, media, producer_ssrc, ssrc, rtx_ssrc);
        self.ask(ask)?;
        Ok(id)
    }

    /// The request of [`Router::consume`], and the Consumer's id.
    pub fn consume_ask(
        &mut self,
        transport_id: &str,
        producer_id: &str,
        media: Media,
        producer_ssrc: u32,
        ssrc: u32,
        rtx_ssrc: Option<u32>,
    ) -> (String, Ask) {
        let id = self.id("consumer");
        let body = transport::ConsumeRequest {
            consumer_id: id.clone(),
            producer_id: producer_id.into(),
            kind: media.kind(),
            rtp_parameters: Box::new(RtpParameters {
                mid: Some("0".into()),
                codecs: media_codecs(media, rtx_ssrc.is_some()),
                header_extensions: self.extensions(),
                encodings: vec![encoding(ssrc, rtx_ssrc)],
                rtcp: Box::new(RtcpParameters {
                    cname: Some(format!("bench-{producer_ssrc}")),
                    reduced_size: true,
                }),
                msid: None,
            }),
            type_: Type::Simple,
            consumable_rtp_encodings: vec![encoding(mapped_ssrc(producer_ssrc), None)],
            paused: false,
            preferred_layers: None,
            ignore_dtx: false,
        };
        let body = request::Body::TransportConsumeRequest(Box::new(body));
        let method = Method::TransportConsume;
        (id, Ask { method, handler_id: transport_id.to_owned(), body: Some(body) })
    }

    /// The Producer's statistics, as the worker reports them.
    ///
    /// # Errors
    /// The worker's refusal.
    pub fn producer_stats(&mut self, id: &str) -> Result<producer::GetStatsResponse> {
        match self.worker.request(Method::ProducerGetStats, id, None)? {
            Some(response::Body::ProducerGetStatsResponse(stats)) => Ok(*stats),
            _ => bail!("the worker answered producer.getStats with another body"),
        }
    }

    /// The Consumer's statistics, as the worker reports them.
    ///
    /// # Errors
    /// The worker's refusal.
    pub fn consumer_stats(&mut self, id: &str) -> Result<consumer::GetStatsResponse> {
        match self.worker.request(Method::ConsumerGetStats, id, None)? {
            Some(response::Body::ConsumerGetStatsResponse(stats)) => Ok(*stats),
            _ => bail!("the worker answered consumer.getStats with another body"),
        }
    }

    /// Closes a transport and all that it carries.
    ///
    /// # Errors
    /// The worker's refusal.
    pub fn close_transport(&mut self, id: &str) -> Result<()> {
        ensure!(!id.is_empty(), "a transport has an id");
        self.ask(Self::close_transport_ask(id))?;
        Ok(())
    }

    /// The request of [`Router::close_transport`].
    pub fn close_transport_ask(id: &str) -> Ask {
        let body = router::CloseTransportRequest { transport_id: id.into() };
        let body = request::Body::RouterCloseTransportRequest(Box::new(body));
        Ask { method: Method::RouterCloseTransport, handler_id: ROUTER.into(), body: Some(body) }
    }

    fn ask(&mut self, ask: Ask) -> Result<Option<response::Body>> {
        self.worker.request(ask.method, &ask.handler_id, ask.body)
    }

    fn id(&mut self, what: &str) -> String {
        self.next_id += 1;
        format!("{what}-{}", self.next_id)
    }

    fn extensions(&self) -> Vec<RtpHeaderExtensionParameters> {
        let mut uris = vec![
            (RtpHeaderExtensionUri::Mid, extension_id::MID),
            (RtpHeaderExtensionUri::AbsSendTime, extension_id::ABS_SEND_TIME),
        ];
        if self.transport_cc {
            uris.push((RtpHeaderExtensionUri::TransportWideCcDraft01, extension_id::TRANSPORT_CC));
        }
        let build = |(uri, id)| RtpHeaderExtensionParameters { uri, id, encrypt: false, parameters: None };
        uris.into_iter().map(build).collect()
    }
}

/// The SSRC under which the Router knows a Producer's stream.
fn mapped_ssrc(ssrc: u32) -> u32 {
    ssrc ^ 0x5000_0000
}

fn encoding(ssrc: u32, rtx_ssrc: Option<u32>) -> RtpEncodingParameters {
    RtpEncodingParameters {
        ssrc: Some(ssrc),
        rid: None,
        codec_payload_type: None,
        rtx: rtx_ssrc.map(|ssrc| Box::new(Rtx { ssrc })),
        dtx: false,
        scalability_mode: None,
        max_bitrate: None,
    }
}

fn media_codecs(media: Media, rtx: bool) -> Vec<RtpCodecParameters> {
    let feedback = |type_: &str, parameter: Option<&str>| RtcpFeedback {
        type_: type_.into(),
        parameter: Some(parameter.unwrap_or_default().into()),
    };
    let payload_type = media.payload_type();
    let codec =
        |mime_type: &str, payload_type, clock_rate, channels, rtcp_feedback, parameters| RtpCodecParameters {
            mime_type: mime_type.into(),
            payload_type,
            clock_rate,
            channels,
            parameters: Some(parameters),
            rtcp_feedback: Some(rtcp_feedback),
        };
    if media == Media::Audio {
        return vec![codec("audio/opus", payload_type, 48_000, Some(2), vec![], vec![])];
    }
    let feedback = vec![feedback("nack", None), feedback("nack", Some("pli")), feedback("ccm", Some("fir"))];
    let mut codecs = vec![codec("video/VP8", payload_type, 90_000, None, feedback, vec![])];
    if rtx {
        let apt = worker_protocol::wire::rtp_parameters::Parameter {
            name: "apt".into(),
            value: worker_protocol::wire::rtp_parameters::Value::Integer32(Box::new(
                worker_protocol::wire::rtp_parameters::Integer32 { value: i32::from(payload_type) },
            )),
        };
        codecs.push(codec("video/rtx", payload_type + 1, 90_000, None, vec![], vec![apt]));
    }
    codecs
}

fn transport_options() -> transport::Options {
    transport::Options {
        direct: false,
        initial_available_outgoing_bitrate: Some(100_000_000),
        enable_sctp: false,
        max_send_message_size: 262_144,
        max_receive_message_size: 262_144,
        sctp_send_buffer_size: 262_144,
        sctp_per_stream_send_queue_limit: 262_144,
        sctp_max_receiver_window_buffer_size: 262_144,
        sctp_default_stream_buffered_amount_low_threshold: 0,
        is_data_channel: false,
    }
}

fn listen_info() -> transport::ListenInfo {
    transport::ListenInfo {
        protocol: Protocol::Udp,
        ip: "127.0.0.1".into(),
        announced_address: None,
        expose_internal_ip: false,
        port: 0,
        port_range: Box::new(transport::PortRange { min: 0, max: 0 }),
        flags: Box::new(transport::SocketFlags { ipv6_only: false, udp_reuse_port: false }),
        send_buffer_size: 0,
        recv_buffer_size: 0,
    }
}
