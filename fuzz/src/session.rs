//! A worker in this process, driven through its channel's bytes with a time of our own.

use std::time::Instant;

use mio::Poll;
use worker::settings::Settings;
use worker::worker::Worker;
use worker_protocol::framing::{self, Decoder, Encoder, PREFIX_BYTES};
use worker_protocol::wire::request::{Body, Method, Request};
use worker_protocol::wire::rtp_parameters::{
    CodecMapping, EncodingMapping, MediaKind, Parameter, RtcpFeedback, RtcpParameters, RtpCodecParameters,
    RtpEncodingParameters, RtpHeaderExtensionParameters, RtpHeaderExtensionUri, RtpMapping, RtpParameters,
    Rtx, Type, Value,
};
use worker_protocol::wire::{
    message, notification, response, router, transport, web_rtc_transport, worker as wire,
};

/// The WebRtcServer's id.
pub const SERVER: &str = "server";
/// The Router's id.
pub const ROUTER: &str = "router";
/// SSRC inside the Router of the first encoding.
const MAPPED_SSRC: u32 = 0x1000_0000;
/// Of the header extensions that producers send with.
pub const EXTENSIONS: [(RtpHeaderExtensionUri, u8); 6] = [
    (RtpHeaderExtensionUri::Mid, 1),
    (RtpHeaderExtensionUri::RtpStreamId, 2),
    (RtpHeaderExtensionUri::RepairRtpStreamId, 3),
    (RtpHeaderExtensionUri::AbsSendTime, 4),
    (RtpHeaderExtensionUri::TransportWideCcDraft01, 5),
    (RtpHeaderExtensionUri::SsrcAudioLevel, 6),
];

/// A worker and the two ends of its channel.
pub struct Session {
    /// The worker.
    pub worker: Worker,
    /// What it told unasked, since this was looked at last.
    pub notifications: Vec<notification::Notification>,
    responses: Vec<response::Response>,
    encoder: Encoder,
    decoder: Decoder,
    next_id: u32,
    _poll: Poll,
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

impl Session {
    /// A worker without objects.
    #[must_use]
    pub fn new() -> Self {
        let poll = Poll::new().expect("epoll");
        let registry = poll.registry().try_clone().expect("a second handle");
        let worker =
            Worker::new(&Settings::default(), registry, 1, "fuzz").expect("default settings are right");
        Self {
            worker,
            notifications: Vec::new(),
            responses: Vec::new(),
            encoder: Encoder::default(),
            decoder: Decoder::default(),
            next_id: 0,
            _poll: poll,
        }
    }

    /// Hands the worker one message without its prefix.
    pub fn deliver(&mut self, message: &[u8], now: Instant) {
        self.worker.handle_message(message, now);
        self.hear();
    }

    /// Ends a turn of the event loop: timers, and what was decided leaves.
    pub fn turn(&mut self, now: Instant) {
        self.worker.fire_timers(now);
        self.worker.end_turn(now);
        self.hear();
    }

    /// Reads what the worker wrote.
    pub fn hear(&mut self) {
        let pending = std::mem::take(&mut self.worker.outbox.pending);
        self.decoder.push(&pending);
        while let Some(bytes) = self.decoder.poll().expect("the worker frames rightly") {
            let message = framing::read(bytes).and_then(|message| Ok(message::Message::try_from(message)?));
            match message.expect("the worker writes what can be read").data {
                message::Body::Response(response) => self.responses.push(*response),
                message::Body::Notification(notification) => self.notifications.push(*notification),
                _ => {}
            }
        }
    }

    /// The bytes of a request, prefix included, under the next id.
    pub fn encode(&mut self, method: Method, handler: &str, body: Option<Body>) -> Vec<u8> {
        self.next_id += 1;
        let request = Request { id: self.next_id, method, handler_id: handler.to_owned(), body };
        let mut bytes = Vec::new();
        self.encoder.append(message::Message { data: message::Body::Request(Box::new(request)) }, &mut bytes);
        bytes
    }

    /// Asks, and returns the answer: every request has exactly one.
    ///
    /// # Errors
    /// The worker's reason.
    pub fn request(
        &mut self,
        method: Method,
        handler: &str,
        body: Option<Body>,
        now: Instant,
    ) -> Result<Option<response::Body>, String> {
        self.responses.clear();
        let bytes = self.encode(method, handler, body);
        self.deliver(&bytes[PREFIX_BYTES..], now);
        assert_eq!(self.responses.len(), 1, "{method:?} has one answer");
        let response = self.responses.remove(0);
        assert_eq!(response.id, self.next_id);
        if response.accepted { Ok(response.body) } else { Err(response.reason.unwrap_or_default()) }
    }

    /// Asks for the end of every Router, and with `servers` of every WebRtcServer.
    pub fn clear(&mut self, servers: bool, now: Instant) {
        while let Some(router) = self.worker.routers.first() {
            let body = wire::CloseRouterRequest { router_id: self.worker.routers[router].id.clone() };
            let body = Body::WorkerCloseRouterRequest(Box::new(body));
            self.request(Method::WorkerCloseRouter, "", Some(body), now).expect("it is there");
        }
        while let Some(server) = self.worker.web_rtc_servers.first().filter(|_| servers) {
            let web_rtc_server_id = self.worker.web_rtc_servers[server].id.clone();
            let body = wire::CloseWebRtcServerRequest { web_rtc_server_id };
            let body = Body::WorkerCloseWebRtcServerRequest(Box::new(body));
            self.request(Method::WorkerWebRtcServerClose, "", Some(body), now).expect("it is there");
        }
        self.worker.flush();
        self.notifications.clear();
    }

    /// Objects, paths, sockets: nothing is left when everything is closed.
    pub fn assert_empty(&self, servers: usize) {
        let worker = &self.worker;
        assert_eq!(worker.transports.len(), 0, "transports");
        assert_eq!(worker.producers.len(), 0, "producers");
        assert_eq!(worker.consumers.len(), 0, "consumers");
        assert_eq!(worker.data_producers.len(), 0, "data producers");
        assert_eq!(worker.data_consumers.len(), 0, "data consumers");
        assert_eq!(worker.observers.len(), 0, "observers");
        assert_eq!(worker.tuples.len(), 0, "paths");
        assert_eq!(worker.sockets.len(), servers, "sockets");
        assert_eq!(worker.handlers.len(), servers, "ids");
    }
}

/// `worker.createRouter`.
#[must_use]
pub fn create_router() -> (Method, &'static str, Option<Body>) {
    let body = wire::CreateRouterRequest { router_id: ROUTER.into() };
    (Method::WorkerCreateRouter, "", Some(Body::WorkerCreateRouterRequest(Box::new(body))))
}

/// `worker.createWebRtcServer` with one UDP socket on loopback.
#[must_use]
pub fn create_server() -> (Method, &'static str, Option<Body>) {
    let body = wire::CreateWebRtcServerRequest {
        web_rtc_server_id: SERVER.into(),
        listen_infos: Some(vec![listen_info()]),
    };
    (Method::WorkerCreateWebRtcServer, "", Some(Body::WorkerCreateWebRtcServerRequest(Box::new(body))))
}

fn listen_info() -> transport::ListenInfo {
    transport::ListenInfo {
        protocol: transport::Protocol::Udp,
        ip: "127.0.0.1".into(),
        ..transport::ListenInfo::default()
    }
}

/// `router.createWebRtcTransport` on the WebRtcServer.
#[must_use]
pub fn create_web_rtc_transport(id: &str) -> (Method, &'static str, Option<Body>) {
    let options = web_rtc_transport::WebRtcTransportOptions {
        base: Box::new(options(false)),
        listen: web_rtc_transport::Listen::ListenServer(Box::new(web_rtc_transport::ListenServer {
            web_rtc_server_id: SERVER.into(),
        })),
        enable_udp: true,
        enable_tcp: false,
        prefer_udp: false,
        prefer_tcp: false,
        ice_consent_timeout: 30,
    };
    let body = router::CreateWebRtcTransportRequest { transport_id: id.into(), options: Box::new(options) };
    let body = Body::RouterCreateWebRtcTransportRequest(Box::new(body));
    (Method::RouterCreateWebRtcTransportWithServer, ROUTER, Some(body))
}

/// `router.createDirectTransport`.
#[must_use]
pub fn create_direct_transport(id: &str) -> (Method, &'static str, Option<Body>) {
    let options =
        worker_protocol::wire::direct_transport::DirectTransportOptions { base: Box::new(options(true)) };
    let body = router::CreateDirectTransportRequest { transport_id: id.into(), options: Box::new(options) };
    (
        Method::RouterCreateDirectTransport,
        ROUTER,
        Some(Body::RouterCreateDirectTransportRequest(Box::new(body))),
    )
}

fn options(direct: bool) -> transport::Options {
    transport::Options {
        direct,
        initial_available_outgoing_bitrate: Some(1_000_000),
        max_send_message_size: 262_144,
        max_receive_message_size: 262_144,
        ..transport::Options::default()
    }
}

/// `transport.produce` of Opus, or of VP8 with `encodings` streams.
#[must_use]
pub fn produce(
    id: &str,
    kind: MediaKind,
    mid: &str,
    encodings: Vec<RtpEncodingParameters>,
) -> (Method, Option<Body>) {
    let codecs = codecs(kind, 96);
    let mapped = |codec: &RtpCodecParameters| CodecMapping {
        payload_type: codec.payload_type,
        mapped_payload_type: codec.payload_type + 10,
    };
    let encoding_mapping = |(encoding, index): (&RtpEncodingParameters, u32)| EncodingMapping {
        rid: encoding.rid.clone(),
        ssrc: encoding.ssrc,
        mapped_ssrc: mapped_ssrc(id, index),
    };
    let body = transport::ProduceRequest {
        producer_id: id.into(),
        kind,
        rtp_mapping: Box::new(RtpMapping {
            codecs: codecs.iter().map(mapped).collect(),
            encodings: encodings.iter().zip(0..).map(encoding_mapping).collect(),
        }),
        rtp_parameters: Box::new(parameters(Some(mid), codecs, encodings)),
        paused: false,
        key_frame_request_delay: 0,
        enable_mediasoup_packet_id_header_extension: false,
    };
    (Method::TransportProduce, Some(Body::TransportProduceRequest(Box::new(body))))
}

/// `transport.consume` of such a Producer.
#[must_use]
pub fn consume(id: &str, producer: &str, kind: MediaKind, streams: u32, ssrc: u32) -> (Method, Option<Body>) {
    let rtx = (kind == MediaKind::Video).then_some(ssrc + 1);
    let consumable = |index| RtpEncodingParameters {
        ssrc: Some(mapped_ssrc(producer, index)),
        ..RtpEncodingParameters::default()
    };
    let mut sent = encoding(Some(ssrc), rtx, None);
    sent.scalability_mode = (streams > 1).then(|| format!("S{streams}T3"));
    let body = transport::ConsumeRequest {
        consumer_id: id.into(),
        producer_id: producer.into(),
        kind,
        rtp_parameters: Box::new(parameters(Some("0"), codecs(kind, 106), vec![sent])),
        type_: if streams > 1 { Type::Simulcast } else { Type::Simple },
        consumable_rtp_encodings: (0..streams).map(consumable).collect(),
        paused: false,
        preferred_layers: None,
        ignore_dtx: false,
    };
    (Method::TransportConsume, Some(Body::TransportConsumeRequest(Box::new(body))))
}

fn mapped_ssrc(producer: &str, index: u32) -> u32 {
    MAPPED_SSRC + (producer.len() as u32) * 16 + index
}

/// One stream of a Producer or Consumer.
#[must_use]
pub fn encoding(ssrc: Option<u32>, rtx: Option<u32>, rid: Option<&str>) -> RtpEncodingParameters {
    RtpEncodingParameters {
        ssrc,
        rid: rid.map(Into::into),
        rtx: rtx.map(|ssrc| Box::new(Rtx { ssrc })),
        ..RtpEncodingParameters::default()
    }
}

fn parameters(
    mid: Option<&str>,
    codecs: Vec<RtpCodecParameters>,
    encodings: Vec<RtpEncodingParameters>,
) -> RtpParameters {
    let extension = |(uri, id)| RtpHeaderExtensionParameters { uri, id, encrypt: false, parameters: None };
    RtpParameters {
        mid: mid.map(Into::into),
        codecs,
        header_extensions: EXTENSIONS.into_iter().map(extension).collect(),
        encodings,
        rtcp: Box::new(RtcpParameters { cname: Some("fuzz".into()), reduced_size: true }),
        msid: None,
    }
}

fn codecs(kind: MediaKind, payload_type: u8) -> Vec<RtpCodecParameters> {
    let feedback = |type_: &str, parameter: &str| RtcpFeedback {
        type_: type_.into(),
        parameter: Some(parameter.into()),
    };
    let codec = |mime_type: &str, payload_type, clock_rate, channels, parameters| RtpCodecParameters {
        mime_type: mime_type.into(),
        payload_type,
        clock_rate,
        channels,
        parameters: Some(parameters),
        rtcp_feedback: Some(vec![
            feedback("nack", ""),
            feedback("nack", "pli"),
            feedback("ccm", "fir"),
            feedback("transport-cc", ""),
        ]),
    };
    if kind == MediaKind::Audio {
        return vec![codec("audio/opus", payload_type + 4, 48_000, Some(2), vec![])];
    }
    let apt = Parameter {
        name: "apt".into(),
        value: Value::Integer32(Box::new(worker_protocol::wire::rtp_parameters::Integer32 {
            value: i32::from(payload_type),
        })),
    };
    vec![
        codec("video/VP8", payload_type, 90_000, None, vec![]),
        codec("video/rtx", payload_type + 1, 90_000, None, vec![apt]),
    ]
}
