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
    repeat_now: net::dtls_timers::repeat_now,
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

/// A transport on the server, and a client that has not connected to it, with its certificate's fingerprint.
fn create(harness: &mut Harness, id: &str, tcp: bool) -> (Client, wire::Fingerprint) {
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
    let theirs =
        dump.dtls_parameters.fingerprints.iter().find(|f| f.algorithm == wire::FingerprintAlgorithm::Sha256);
    let value = theirs.unwrap().value.clone();
    let now = Instant::now();
    client.dtls.set_remote_fingerprint(Fingerprint { algorithm: FingerprintAlgorithm::Sha256, value }, now);
    (client, fingerprint)
}

fn connect(harness: &mut Harness, id: &str, fingerprint: wire::Fingerprint, role: wire::DtlsRole) {
    let parameters = wire::DtlsParameters { fingerprints: vec![fingerprint], role };
    let body = wire::ConnectRequest { dtls_parameters: Box::new(parameters) };
    let body = request::Body::WebRtcTransportConnectRequest(Box::new(body));
    harness.request(Method::WebRtcTransportConnect, id, Some(body));
}

fn find_path(harness: &mut Harness, client: &mut Client) {
    client.binding_request(true);
    harness.wait("a STUN response", |_| {
        client.step();
        (client.responses > 0).then_some(())
    });
}

fn shake_hands(harness: &mut Harness, id: &str, client: &mut Client, role: DtlsRole) {
    client.dtls.start(role, Instant::now()).unwrap();
    harness.wait("DTLS", |harness| {
        client.step();
        let told = harness.notifications.iter().any(|notification| {
            notification.handler_id == id
                && matches!(&notification.body, Some(notification::Body::WebRtcTransportDtlsStateChangeNotification(body))
                    if body.dtls_state == wire::DtlsState::Connected)
        });
        (client.srtp.is_some() && told).then_some(())
    });
}

/// A transport on the server, and a client that has connected to it.
fn join(harness: &mut Harness, id: &str, tcp: bool) -> Client {
    let (mut client, fingerprint) = create(harness, id, tcp);
    connect(harness, id, fingerprint, wire::DtlsRole::Client);
    find_path(harness, &mut client);
    shake_hands(harness, id, &mut client, DtlsRole::Client);
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

#[test]
fn a_forged_source_takes_no_path_from_a_peer_that_is_there() {
    let mut harness = Harness::new();
    server(&mut harness);
    let mut victim = join(&mut harness, "victim", false);
    let (mut intruder, _) = create(&mut harness, "intruder", false);
    let Link::Udp(socket, at) = &victim.link else { panic!("the victim uses UDP") };
    intruder.link = Link::Udp(socket.try_clone().unwrap(), *at);
    intruder.binding_request(true);
    harness
        .wait("the request to be counted", |harness| (harness.counter("paths_contested") > 0).then_some(()));
    harness.produce(
        "victim",
        "producer",
        MediaKind::Video,
        parameters(vec![vp8(96)], vec![encoding(1, None)]),
    );
    victim.send_rtp(&vp8_packet(1, 96, 1, 0, 0, true));
    harness.wait("the victim's media", |harness| {
        harness.worker.producers.iter().any(|(_, producer)| !producer.streams.is_empty()).then_some(())
    });
    assert_eq!(harness.counter("srtp_authentication_failed") + harness.counter("early_media"), 0);
}

#[test]
fn without_keys_nothing_leaves() {
    let mut harness = Harness::new();
    server(&mut harness);
    let mut publisher = join(&mut harness, "in", false);
    let mut subscriber = join(&mut harness, "out", false);
    harness.produce("in", "producer", MediaKind::Video, parameters(vec![vp8(96)], vec![encoding(1, None)]));
    let sink = parameters(vec![vp8(97)], vec![encoding(2, None)]);
    harness.consume("out", "consumer", "producer", MediaKind::Video, sink, 1);
    let index = harness.worker.transports.iter().find(|(_, transport)| transport.id == "out").unwrap().0;
    harness.worker.transports[index].srtp = None;
    publisher.send_rtp(&vp8_packet(1, 96, 1, 0, 0, true));
    harness.wait("a refusal", |harness| (harness.counter("egress_unprotected") > 0).then_some(()));
    harness.worker.send_rtcp(index, &[0x80, 201, 0, 1, 0, 0, 0, 1], Instant::now());
    harness.worker.flush();
    assert_eq!(harness.counter("egress_unprotected"), 2);
    let left = std::iter::from_fn(|| subscriber.link.receive());
    assert_eq!(left.filter(|datagram| DatagramKind::of(datagram) != DatagramKind::Dtls).count(), 0);
}

#[test]
fn a_closed_server_leaves_no_connection_behind() {
    let mut harness = Harness::new();
    server(&mut harness);
    let (mut client, _) = create(&mut harness, "transport", true);
    harness.wait("the connection", |harness| harness.worker.sockets.has_connections().then_some(()));
    let body = worker::CloseWebRtcServerRequest { web_rtc_server_id: "server".to_owned() };
    let body = request::Body::WorkerCloseWebRtcServerRequest(Box::new(body));
    client.binding_request(true);
    harness.request(Method::WorkerWebRtcServerClose, "", Some(body));
    assert!(harness.worker.sockets.is_empty());
    harness.turn();
}

#[test]
fn a_frame_that_holds_no_datagram_ends_its_connection() {
    let mut harness = Harness::new();
    server(&mut harness);
    for frame in [&[0, 0][..], &[0xff, 0xff, 1]] {
        let (client, _) = create(&mut harness, &format!("transport {frame:?}"), true);
        harness.wait("the connection", |harness| harness.worker.sockets.has_connections().then_some(()));
        let Link::Tcp(mut stream, _) = client.link else { panic!("the client uses TCP") };
        stream.write_all(frame).unwrap();
        harness.wait("the end", |harness| (!harness.worker.sockets.has_connections()).then_some(()));
        drop(stream);
    }
    assert_eq!(harness.worker.sockets.counters.tcp_malformed, 2);
    assert_eq!(harness.counter("datagrams_received"), 0);
}

#[test]
fn before_connect_nobody_decides_who_begins_dtls() {
    let mut harness = Harness::new();
    server(&mut harness);
    for (id, role, ours) in [
        ("active", wire::DtlsRole::Client, DtlsRole::Client),
        ("passive", wire::DtlsRole::Server, DtlsRole::Server),
    ] {
        let (mut client, fingerprint) = create(&mut harness, id, false);
        find_path(&mut harness, &mut client);
        connect(&mut harness, id, fingerprint, role);
        shake_hands(&mut harness, id, &mut client, ours);
    }
}

#[test]
fn a_client_may_begin_dtls_before_connect() {
    let mut harness = Harness::new();
    server(&mut harness);
    let (mut client, fingerprint) = create(&mut harness, "transport", false);
    find_path(&mut harness, &mut client);
    client.dtls.start(DtlsRole::Client, Instant::now()).unwrap();
    client.step();
    harness.wait("the server to begin", |harness| {
        harness
            .notifications
            .iter()
            .any(|notification| {
                matches!(&notification.body, Some(notification::Body::WebRtcTransportDtlsStateChangeNotification(body))
                    if body.dtls_state == wire::DtlsState::Connecting)
            })
            .then_some(())
    });
    connect(&mut harness, "transport", fingerprint, wire::DtlsRole::Client);
    harness.wait("DTLS", |_| {
        client.step();
        client.srtp.is_some().then_some(())
    });
}

#[test]
fn a_queue_that_is_full_leaves_before_the_turn_ends() {
    let mut harness = Harness::new();
    server(&mut harness);
    let client = join(&mut harness, "transport", false);
    let path = harness.worker.transports.iter().next().unwrap().1.path.unwrap();
    while !harness.worker.sockets.is_full() {
        harness.worker.sockets.send(path, &[0xff; 1200]);
    }
    let Link::Udp(socket, at) = &client.link else { panic!("the client uses UDP") };
    socket.send_to(&[0xff], at).unwrap();
    // Loopback delivers before the send call returns.
    harness.worker.read_socket(path.socket, Instant::now());
    assert!(!harness.worker.sockets.is_full());
}
