//! WebRtcTransports: ICE, DTLS and SRTP with a client made of the same protocol state, over UDP and TCP.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Instant;

use rtc::certificate::{Certificate, Fingerprint, FingerprintAlgorithm};
use rtc::dtls::{DtlsContext, DtlsEvent, DtlsRole, DtlsTimers, DtlsTransport, MTU};
use rtc::rtp::{DatagramKind, RtpHeader, Ssrc};
use rtc::srtp::{SrtpReceiver, SrtpSender};
use rtc::stun::{Class, IntegrityKey, Method as StunMethod, StunBuilder, StunMessage};
use worker_protocol::wire::request::{self, Method};
use worker_protocol::wire::rtp_parameters::MediaKind;
use worker_protocol::wire::{notification, response, router, transport, web_rtc_transport as wire, worker};

use crate::harness::*;

const TIMERS: DtlsTimers = DtlsTimers {
    prepare_context: net::dtls_timers::prepare_context,
    prepare_connection: net::dtls_timers::prepare_connection,
    set_now: net::dtls_timers::set_now,
    timeout: net::dtls_timers::timeout,
    handle_timeout: net::dtls_timers::handle_timeout,
};

/// The client's end of the path.
enum Link {
    Udp(UdpSocket, SocketAddr),
    Tcp(TcpStream, Vec<u8>),
}

impl Link {
    fn send(&mut self, datagram: &[u8]) {
        match self {
            Self::Udp(socket, to) => {
                socket.send_to(datagram, *to).unwrap();
            }
            Self::Tcp(stream, _) => {
                let len = u16::try_from(datagram.len()).unwrap().to_be_bytes();
                stream.write_all(&[&len, datagram].concat()).unwrap();
            }
        }
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        match self {
            Self::Udp(socket, _) => receive(socket),
            Self::Tcp(stream, received) => {
                let mut buffer = [0; 4096];
                if let Ok(len) = stream.read(&mut buffer) {
                    received.extend_from_slice(&buffer[..len]);
                }
                let len = usize::from(u16::from_be_bytes(*received.first_chunk()?));
                if received.len() < 2 + len {
                    return None;
                }
                let frame = received[2..2 + len].to_vec();
                received.drain(..2 + len);
                Some(frame)
            }
        }
    }
}

/// A browser's side of one transport.
struct Client {
    link: Link,
    username_fragment: String,
    password: String,
    dtls: DtlsTransport,
    srtp: Option<(SrtpSender, SrtpReceiver)>,
    media: Vec<Vec<u8>>,
    responses: usize,
}

impl Client {
    fn binding_request(&mut self, nominate: bool) {
        let mut datagram = [0; 512];
        let mut builder = StunBuilder::new(&mut datagram, Class::Request, StunMethod::BINDING, &[7; 12])
            .username(&self.username_fragment, "client")
            .priority(1)
            .ice_controlling(1);
        if nominate {
            builder = builder.use_candidate();
        }
        let len = builder.finish(Some(&IntegrityKey::new(&self.password))).unwrap();
        self.link.send(&datagram[..len]);
    }

    fn step(&mut self) {
        let now = Instant::now();
        while let Some(mut datagram) = self.link.receive() {
            match DatagramKind::of(&datagram) {
                DatagramKind::Stun => {
                    let message = StunMessage::parse(&datagram).unwrap();
                    assert_eq!(message.class(), Class::SuccessResponse);
                    self.responses += 1;
                }
                DatagramKind::Dtls => self.dtls.handle_datagram(&datagram, now),
                DatagramKind::Rtp => {
                    let (_, receiver) = self.srtp.as_mut().expect("media comes after the handshake");
                    let len = receiver.unprotect_rtp(&mut datagram).unwrap();
                    self.media.push(datagram[..len].to_vec());
                }
                _ => {}
            }
        }
        self.dtls.handle_timeout(now);
        while let Some(event) = self.dtls.poll_event() {
            if let DtlsEvent::Connected(connection) = event {
                let keys = connection.srtp.expect("SRTP is negotiated");
                self.srtp = Some((
                    SrtpSender::new(keys.profile, &keys.local_key, &keys.local_salt).unwrap(),
                    SrtpReceiver::new(keys.profile, &keys.remote_key, &keys.remote_salt).unwrap(),
                ));
            }
        }
        let mut datagram = [0; MTU];
        while let Some(len) = self.dtls.poll_transmit(&mut datagram) {
            self.link.send(&datagram[..len]);
        }
    }

    fn send_rtp(&mut self, packet: &[u8]) {
        let (sender, _) = self.srtp.as_ref().expect("media goes after the handshake");
        let header = RtpHeader::parse(packet).unwrap();
        let (head, payload) = packet.split_at(usize::from(header.header_len));
        let mut datagram = [0; 2048];
        let len = sender.protect_rtp(head, payload, u64::from(header.sequence.0), &mut datagram).unwrap();
        self.link.send(&datagram[..len]);
    }
}

/// A server on loopback with a UDP socket and a TCP listener.
fn server(harness: &mut Harness) {
    let infos = vec![listen_info(transport::Protocol::Udp), listen_info(transport::Protocol::Tcp)];
    let body = worker::CreateWebRtcServerRequest {
        web_rtc_server_id: "server".to_owned(),
        listen_infos: Some(infos),
    };
    let body = request::Body::WorkerCreateWebRtcServerRequest(Box::new(body));
    harness.request(Method::WorkerCreateWebRtcServer, "", Some(body));
    harness.router("router");
}

/// A transport on the server, and a client that has connected to it.
fn join(harness: &mut Harness, id: &str, tcp: bool) -> Client {
    let listen = wire::ListenServer { web_rtc_server_id: "server".to_owned() };
    let options = wire::WebRtcTransportOptions {
        base: Box::default(),
        listen: wire::Listen::ListenServer(Box::new(listen)),
        enable_udp: true,
        enable_tcp: true,
        prefer_udp: false,
        prefer_tcp: false,
        ice_consent_timeout: 30,
    };
    let body =
        router::CreateWebRtcTransportRequest { transport_id: id.to_owned(), options: Box::new(options) };
    let body = request::Body::RouterCreateWebRtcTransportRequest(Box::new(body));
    let response = harness.request(Method::RouterCreateWebRtcTransportWithServer, "router", Some(body));
    let Some(response::Body::WebRtcTransportDumpResponse(dump)) = response else { panic!("{response:?}") };
    let protocol = if tcp { transport::Protocol::Tcp } else { transport::Protocol::Udp };
    let candidate = dump.ice_candidates.iter().find(|candidate| candidate.protocol == protocol).unwrap();
    let at = SocketAddr::new(candidate.address.parse().unwrap(), candidate.port);
    let link = if tcp {
        let stream = TcpStream::connect(at).unwrap();
        stream.set_nonblocking(true).unwrap();
        Link::Tcp(stream, Vec::new())
    } else {
        Link::Udp(socket(), at)
    };
    let certificate = Certificate::generate().unwrap();
    let context = DtlsContext::new(&certificate, TIMERS).unwrap();
    let mut client = Client {
        link,
        username_fragment: dump.ice_parameters.username_fragment.clone(),
        password: dump.ice_parameters.password.clone(),
        dtls: DtlsTransport::new(&context),
        srtp: None,
        media: Vec::new(),
        responses: 0,
    };
    let ours =
        certificate.fingerprints().into_iter().find(|f| f.algorithm == FingerprintAlgorithm::Sha256).unwrap();
    let fingerprint = wire::Fingerprint { algorithm: wire::FingerprintAlgorithm::Sha256, value: ours.value };
    let parameters = wire::DtlsParameters { fingerprints: vec![fingerprint], role: wire::DtlsRole::Client };
    let body = wire::ConnectRequest { dtls_parameters: Box::new(parameters) };
    let body = request::Body::WebRtcTransportConnectRequest(Box::new(body));
    harness.request(Method::WebRtcTransportConnect, id, Some(body));
    let theirs =
        dump.dtls_parameters.fingerprints.iter().find(|f| f.algorithm == wire::FingerprintAlgorithm::Sha256);
    let value = theirs.unwrap().value.clone();
    let now = Instant::now();
    client.dtls.set_remote_fingerprint(Fingerprint { algorithm: FingerprintAlgorithm::Sha256, value }, now);
    client.binding_request(true);
    harness.wait("a STUN response", |_| {
        client.step();
        (client.responses > 0).then_some(())
    });
    client.dtls.start(DtlsRole::Client, Instant::now()).unwrap();
    harness.wait("DTLS", |harness| {
        client.step();
        let told = harness.notifications.iter().any(|notification| {
            notification.handler_id == id
                && matches!(&notification.body, Some(notification::Body::WebRtcTransportDtlsStateChangeNotification(body))
                    if body.dtls_state == wire::DtlsState::Connected)
        });
        (client.srtp.is_some() && told).then_some(())
    });
    client
}

fn media_crosses(tcp: bool) {
    let mut harness = Harness::new();
    server(&mut harness);
    let mut publisher = join(&mut harness, "in", false);
    let mut subscriber = join(&mut harness, "out", tcp);
    harness.produce("in", "producer", MediaKind::Video, parameters(vec![vp8(96)], vec![encoding(1, None)]));
    let sink = parameters(vec![vp8(97)], vec![encoding(2, None)]);
    harness.consume("out", "consumer", "producer", MediaKind::Video, sink, 1);
    for step in 0..50_u16 {
        publisher.send_rtp(&vp8_packet(1, 96, 1 + step, u32::from(step) * 3000, step, step == 0));
    }
    harness.wait("all packets", |_| {
        subscriber.step();
        (subscriber.media.len() == 50).then_some(())
    });
    let headers: Vec<_> = subscriber.media.iter().map(|packet| RtpHeader::parse(packet).unwrap()).collect();
    for (before, after) in headers.iter().zip(&headers[1..]) {
        assert_eq!(after.sequence, before.sequence.next());
        assert_eq!((after.ssrc, after.payload_type), (Ssrc(2), 97));
    }
    drop(subscriber);
    harness.close();
    assert!(harness.worker.sockets.is_empty() && harness.worker.tuples.is_empty());
}

#[test]
fn media_crosses_over_udp() {
    media_crosses(false);
}

#[test]
fn media_crosses_to_a_subscriber_over_tcp() {
    media_crosses(true);
}

#[test]
fn a_tcp_connection_that_closes_disconnects_its_transport() {
    let mut harness = Harness::new();
    server(&mut harness);
    let client = join(&mut harness, "transport", true);
    let sockets = harness.worker.sockets.len();
    drop(client);
    harness.wait("disconnection", |harness| {
        let disconnected = harness.notifications.iter().any(|notification| {
            matches!(&notification.body, Some(notification::Body::WebRtcTransportIceStateChangeNotification(body))
                if body.ice_state == wire::IceState::Disconnected)
        });
        (disconnected && harness.worker.sockets.len() == sockets - 1).then_some(())
    });
    assert!(harness.worker.tuples.is_empty());
}

#[test]
fn after_an_ice_restart_old_credentials_are_good_until_the_new_are_used() {
    let mut harness = Harness::new();
    server(&mut harness);
    let mut client = join(&mut harness, "transport", false);
    let response = harness.request(Method::TransportRestartIce, "transport", None);
    let Some(response::Body::TransportRestartIceResponse(restarted)) = response else {
        panic!("{response:?}")
    };
    for old in [true, false] {
        if !old {
            client.username_fragment.clone_from(&restarted.username_fragment);
            client.password.clone_from(&restarted.password);
        }
        let before = client.responses;
        client.binding_request(true);
        harness.wait("a STUN response", |_| {
            client.step();
            (client.responses > before).then_some(())
        });
    }
    let fragments = harness.worker.web_rtc_servers.iter().next().unwrap().1.username_fragments.len();
    assert_eq!(fragments, 1, "the old fragment is forgotten with the first use of the new");
}

#[test]
fn a_closed_transport_says_goodbye_and_is_forgotten() {
    let mut harness = Harness::new();
    server(&mut harness);
    let mut client = join(&mut harness, "transport", false);
    let body = router::CloseTransportRequest { transport_id: "transport".to_owned() };
    let body = request::Body::RouterCloseTransportRequest(Box::new(body));
    harness.request(Method::RouterCloseTransport, "router", Some(body));
    harness.wait("close_notify", |_| {
        client.step();
        (client.dtls.state() == rtc::dtls::DtlsState::Closed).then_some(())
    });
    assert!(harness.worker.tuples.is_empty() && harness.worker.transports.is_empty());
    let server = harness.worker.web_rtc_servers.iter().next().unwrap().1;
    assert!(server.transports.is_empty() && server.username_fragments.is_empty());
}
