//! A worker in the test's own process, driven through its channel's bytes and real sockets on loopback.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use mio::{Events, Poll};
use worker::settings::Settings;
use worker::transport::TransportKind;
use worker::worker::Worker;
use worker_protocol::framing::{self, Decoder, Encoder};
use worker_protocol::wire::request::Method;
use worker_protocol::wire::rtp_parameters as rtp;
use worker_protocol::wire::{
    message, notification, request, response, router, transport, worker as worker_wire,
};

/// How long a test waits for something that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Harness {
    pub(crate) worker: Worker,
    poll: Poll,
    encoder: Encoder,
    decoder: Decoder,
    next_id: u32,
    /// Whether Producers number their packets in mediasoup's header extension.
    pub(crate) numbers_packets: bool,
    /// Whether Consumers leave out packets that say no more than that silence goes on.
    pub(crate) ignores_dtx: bool,
    pub(crate) notifications: Vec<notification::Notification>,
    responses: Vec<response::Response>,
    readable: Vec<worker::table::SocketIdx>,
    /// When requests come, where that is not now.
    pub(crate) virtual_now: Option<Instant>,
}

impl Harness {
    pub(crate) fn new() -> Self {
        let poll = Poll::new().unwrap();
        let registry = poll.registry().try_clone().unwrap();
        let mut worker = Worker::new(&Settings::default(), registry, 1, "test").unwrap();
        worker.announce();
        Self {
            worker,
            poll,
            encoder: Encoder::default(),
            decoder: Decoder::default(),
            next_id: 0,
            numbers_packets: false,
            ignores_dtx: false,
            notifications: Vec::new(),
            responses: Vec::new(),
            readable: Vec::new(),
            virtual_now: None,
        }
    }

    /// One turn of the event loop; waits at most 20 ms for something to happen.
    pub(crate) fn turn(&mut self) {
        let now = Instant::now();
        let timeout = self.worker.timers.next_deadline().map_or(Duration::from_millis(20), |deadline| {
            deadline.saturating_duration_since(now).min(Duration::from_millis(20))
        });
        let mut events = Events::with_capacity(64);
        let timeout = if self.readable.is_empty() { timeout } else { Duration::ZERO };
        self.poll.poll(&mut events, Some(timeout)).unwrap();
        let now = Instant::now();
        for event in &events {
            let Some(socket) = self.worker.sockets.by_token(event.token()) else { continue };
            if event.is_writable() {
                self.worker.sockets.flush_socket(socket);
            }
            if event.is_readable() && !self.readable.contains(&socket) {
                self.readable.push(socket);
            }
        }
        let sockets = std::mem::take(&mut self.readable);
        self.readable = sockets.into_iter().filter(|socket| self.worker.read_socket(*socket, now)).collect();
        self.worker.fire_timers(now);
        self.worker.end_turn(now);
        self.take_messages();
    }

    /// One turn at a time of the test's choosing. Loopback delivers before a send returns, so what was sent is there.
    pub(crate) fn turn_at(&mut self, now: Instant) {
        let transports = self.worker.transports.iter();
        let sockets: Vec<_> = transports
            .filter_map(|(_, transport)| match &transport.kind {
                TransportKind::Plain(plain) => Some(plain.sockets()),
                _ => None,
            })
            .flatten()
            .collect();
        for socket in sockets {
            while self.worker.read_socket(socket, now) {}
        }
        self.worker.fire_timers(now);
        self.worker.end_turn(now);
        self.take_messages();
    }

    /// Turns until `done` has something.
    pub(crate) fn wait<T>(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(value) = done(self) {
                return value;
            }
            assert!(Instant::now() < deadline, "timed out waiting for {what}");
            self.turn();
        }
    }

    fn take_messages(&mut self) {
        let pending = std::mem::take(&mut self.worker.outbox.pending);
        self.decoder.push(&pending);
        while let Some(bytes) = self.decoder.poll().unwrap() {
            match message::Message::try_from(framing::read(bytes).unwrap()).unwrap().data {
                message::Body::Response(response) => self.responses.push(*response),
                message::Body::Notification(notification) => self.notifications.push(*notification),
                _ => {}
            }
        }
    }

    pub(crate) fn send(&mut self, data: message::Body) {
        let mut bytes = Vec::new();
        self.encoder.append(message::Message { data }, &mut bytes);
        let now = self.virtual_now.unwrap_or_else(Instant::now);
        self.worker.handle_message(&bytes[framing::PREFIX_BYTES..], now);
        self.worker.flush();
        self.take_messages();
    }

    pub(crate) fn try_request(
        &mut self,
        method: Method,
        handler: &str,
        body: Option<request::Body>,
    ) -> Result<Option<response::Body>, String> {
        self.next_id += 1;
        let id = self.next_id;
        self.send(message::Body::Request(Box::new(request::Request {
            id,
            method,
            handler_id: handler.to_owned(),
            body,
        })));
        let position =
            self.responses.iter().position(|response| response.id == id).expect("each request is answered");
        let response = self.responses.remove(position);
        if response.accepted {
            Ok(response.body)
        } else {
            Err(format!("{}: {}", response.error.unwrap_or_default(), response.reason.unwrap_or_default()))
        }
    }

    pub(crate) fn request(
        &mut self,
        method: Method,
        handler: &str,
        body: Option<request::Body>,
    ) -> Option<response::Body> {
        self.try_request(method, handler, body).unwrap_or_else(|error| panic!("{method:?}: {error}"))
    }

    pub(crate) fn router(&mut self, id: &str) {
        let body = worker_wire::CreateRouterRequest { router_id: id.to_owned() };
        self.request(
            Method::WorkerCreateRouter,
            "",
            Some(request::Body::WorkerCreateRouterRequest(Box::new(body))),
        );
    }

    pub(crate) fn plain_transport(&mut self, router: &str, id: &str, comedia: bool) -> SocketAddr {
        let options = worker_protocol::wire::plain_transport::PlainTransportOptions {
            base: Box::default(),
            listen_info: Box::new(listen_info(transport::Protocol::Udp)),
            rtcp_listen_info: None,
            rtcp_mux: true,
            comedia,
            enable_srtp: false,
            srtp_crypto_suite: None,
        };
        let body =
            router::CreatePlainTransportRequest { transport_id: id.to_owned(), options: Box::new(options) };
        let response = self.request(
            Method::RouterCreatePlainTransport,
            router,
            Some(request::Body::RouterCreatePlainTransportRequest(Box::new(body))),
        );
        let Some(response::Body::PlainTransportDumpResponse(dump)) = response else { panic!("{response:?}") };
        SocketAddr::new(dump.tuple.local_address.parse().unwrap(), dump.tuple.local_port)
    }

    pub(crate) fn connect_plain(&mut self, id: &str, peer: SocketAddr) {
        let body = worker_protocol::wire::plain_transport::ConnectRequest {
            ip: Some(peer.ip().to_string()),
            port: Some(peer.port()),
            rtcp_port: None,
            srtp_parameters: None,
        };
        let body = request::Body::PlainTransportConnectRequest(Box::new(body));
        self.request(Method::PlainTransportConnect, id, Some(body));
    }

    pub(crate) fn produce(
        &mut self,
        transport: &str,
        id: &str,
        kind: rtp::MediaKind,
        parameters: rtp::RtpParameters,
    ) {
        self.try_produce(transport, id, kind, parameters).unwrap();
    }

    pub(crate) fn try_produce(
        &mut self,
        transport: &str,
        id: &str,
        kind: rtp::MediaKind,
        parameters: rtp::RtpParameters,
    ) -> Result<Option<response::Body>, String> {
        let encodings = parameters
            .encodings
            .iter()
            .zip(0..)
            .map(|(encoding, index)| rtp::EncodingMapping {
                rid: encoding.rid.clone(),
                ssrc: encoding.ssrc,
                mapped_ssrc: MAPPED_SSRC + index,
            })
            .collect();
        let codecs = parameters
            .codecs
            .iter()
            .map(|codec| rtp::CodecMapping {
                payload_type: codec.payload_type,
                mapped_payload_type: codec.payload_type + 1,
            })
            .collect();
        let body = transport::ProduceRequest {
            producer_id: id.to_owned(),
            kind,
            rtp_parameters: Box::new(parameters),
            rtp_mapping: Box::new(rtp::RtpMapping { codecs, encodings }),
            paused: false,
            key_frame_request_delay: 0,
            enable_mediasoup_packet_id_header_extension: self.numbers_packets,
        };
        let body = request::Body::TransportProduceRequest(Box::new(body));
        self.try_request(Method::TransportProduce, transport, Some(body))
    }

    pub(crate) fn consume(
        &mut self,
        transport: &str,
        id: &str,
        producer: &str,
        kind: rtp::MediaKind,
        parameters: rtp::RtpParameters,
        encodings: u32,
    ) {
        self.try_consume(transport, id, producer, kind, parameters, encodings).unwrap();
    }

    pub(crate) fn try_consume(
        &mut self,
        transport: &str,
        id: &str,
        producer: &str,
        kind: rtp::MediaKind,
        parameters: rtp::RtpParameters,
        encodings: u32,
    ) -> Result<Option<response::Body>, String> {
        let mode = parameters.encodings.first().and_then(|encoding| encoding.scalability_mode.clone());
        let body = transport::ConsumeRequest {
            consumer_id: id.to_owned(),
            producer_id: producer.to_owned(),
            kind,
            rtp_parameters: Box::new(parameters),
            type_: if encodings > 1 { rtp::Type::Simulcast } else { rtp::Type::Simple },
            consumable_rtp_encodings: (0..encodings)
                .map(|index| rtp::RtpEncodingParameters {
                    ssrc: Some(MAPPED_SSRC + index),
                    scalability_mode: mode.clone().filter(|_| encodings == 1),
                    ..rtp::RtpEncodingParameters::default()
                })
                .collect(),
            paused: false,
            preferred_layers: None,
            ignore_dtx: self.ignores_dtx,
        };
        let body = request::Body::TransportConsumeRequest(Box::new(body));
        self.try_request(Method::TransportConsume, transport, Some(body))
    }

    pub(crate) fn close(&mut self) {
        self.worker.close();
    }

    pub(crate) fn counter(&self, name: &str) -> u64 {
        self.worker.counters.entries().find(|(known, _)| *known == name).expect("a counter of this name").1
    }
}

/// SSRC inside the Router of the first encoding.
pub(crate) const MAPPED_SSRC: u32 = 0x1000_0000;

pub(crate) fn listen_info(protocol: transport::Protocol) -> transport::ListenInfo {
    transport::ListenInfo { protocol, ip: "127.0.0.1".to_owned(), ..transport::ListenInfo::default() }
}

pub(crate) fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

pub(crate) fn receive(socket: &UdpSocket) -> Option<Vec<u8>> {
    let mut buffer = [0; 2048];
    let (len, _) = socket.recv_from(&mut buffer).ok()?;
    Some(buffer[..len].to_vec())
}

pub(crate) fn feedback(kind: &str, parameter: &str) -> rtp::RtcpFeedback {
    rtp::RtcpFeedback { type_: kind.to_owned(), parameter: Some(parameter.to_owned()) }
}

pub(crate) fn vp8(payload_type: u8) -> rtp::RtpCodecParameters {
    rtp::RtpCodecParameters {
        mime_type: "video/VP8".to_owned(),
        payload_type,
        clock_rate: 90_000,
        channels: None,
        parameters: None,
        rtcp_feedback: Some(vec![feedback("nack", ""), feedback("nack", "pli")]),
    }
}

pub(crate) fn rtx(payload_type: u8, apt: u8) -> rtp::RtpCodecParameters {
    rtp::RtpCodecParameters {
        mime_type: "video/rtx".to_owned(),
        payload_type,
        clock_rate: 90_000,
        channels: None,
        parameters: Some(vec![rtp::Parameter {
            name: "apt".to_owned(),
            value: rtp::Value::Integer32(Box::new(rtp::Integer32 { value: i32::from(apt) })),
        }]),
        rtcp_feedback: None,
    }
}

pub(crate) fn parameters(
    codecs: Vec<rtp::RtpCodecParameters>,
    encodings: Vec<rtp::RtpEncodingParameters>,
) -> rtp::RtpParameters {
    rtp::RtpParameters {
        mid: Some("0".to_owned()),
        codecs,
        header_extensions: Vec::new(),
        encodings,
        rtcp: Box::new(rtp::RtcpParameters { cname: Some("test".to_owned()), reduced_size: true }),
        msid: None,
    }
}

pub(crate) fn encoding(ssrc: u32, rtx: Option<u32>) -> rtp::RtpEncodingParameters {
    rtp::RtpEncodingParameters {
        ssrc: Some(ssrc),
        rtx: rtx.map(|ssrc| Box::new(rtp::Rtx { ssrc })),
        ..rtp::RtpEncodingParameters::default()
    }
}

/// A VP8 packet: one frame of one packet, with a 15-bit picture id.
pub(crate) fn vp8_packet(
    ssrc: u32,
    payload_type: u8,
    seq: u16,
    timestamp: u32,
    picture: u16,
    key: bool,
) -> Vec<u8> {
    let mut packet = vec![0x80, 0x80 | payload_type];
    packet.extend_from_slice(&seq.to_be_bytes());
    packet.extend_from_slice(&timestamp.to_be_bytes());
    packet.extend_from_slice(&ssrc.to_be_bytes());
    let [high, low] = picture.to_be_bytes();
    packet.extend_from_slice(&[0x90, 0x80, 0x80 | high, low, u8::from(!key)]);
    packet.extend_from_slice(&[0xab; 100]);
    packet
}
