//! Data over SCTP between workers, and against who is none.

use std::net::SocketAddr;
use std::time::Instant;

use rtc::sctp::{Delivery, OutgoingMessage, SctpAssociation, SctpEvent, SctpOptions, SctpState};
use worker_protocol::wire::request::Method;
use worker_protocol::wire::{
    data_consumer, data_producer, direct_transport, message, notification, pipe_transport, plain_transport,
    request, response, router, sctp_association, sctp_parameters, transport,
};

use crate::harness::{Harness, PATIENCE, listen_info, receive, socket};

const BASE: transport::Options = transport::Options {
    direct: false,
    initial_available_outgoing_bitrate: None,
    enable_sctp: true,
    max_send_message_size: 262_144,
    max_receive_message_size: 262_144,
    sctp_send_buffer_size: 2_000_000,
    sctp_per_stream_send_queue_limit: 2_000_000,
    sctp_max_receiver_window_buffer_size: 5_242_880,
    sctp_default_stream_buffered_amount_low_threshold: 0,
    is_data_channel: false,
};

fn stream(stream_id: u16) -> Option<Box<sctp_parameters::SctpStreamParameters>> {
    Some(Box::new(sctp_parameters::SctpStreamParameters {
        stream_id,
        ordered: Some(true),
        max_packet_life_time: None,
        max_retransmits: None,
    }))
}

fn direct_transport(harness: &mut Harness, id: &str) {
    let base = transport::Options { direct: true, enable_sctp: false, ..BASE };
    let options = direct_transport::DirectTransportOptions { base: Box::new(base) };
    let body =
        router::CreateDirectTransportRequest { transport_id: id.to_owned(), options: Box::new(options) };
    let body = request::Body::RouterCreateDirectTransportRequest(Box::new(body));
    harness.request(Method::RouterCreateDirectTransport, "r", Some(body));
}

fn pipe_transport(harness: &mut Harness, id: &str) -> SocketAddr {
    let options = pipe_transport::PipeTransportOptions {
        base: Box::new(BASE),
        listen_info: Box::new(listen_info(transport::Protocol::Udp)),
        enable_rtx: false,
        enable_srtp: false,
    };
    let body = router::CreatePipeTransportRequest { transport_id: id.to_owned(), options: Box::new(options) };
    let body = request::Body::RouterCreatePipeTransportRequest(Box::new(body));
    let response = harness.request(Method::RouterCreatePipeTransport, "r", Some(body));
    let Some(response::Body::PipeTransportDumpResponse(dump)) = response else { panic!("{response:?}") };
    SocketAddr::new(dump.tuple.local_address.parse().unwrap(), dump.tuple.local_port)
}

fn connect_pipe(harness: &mut Harness, id: &str, peer: SocketAddr) {
    let body = pipe_transport::ConnectRequest {
        ip: peer.ip().to_string(),
        port: Some(peer.port()),
        srtp_parameters: None,
    };
    harness.request(
        Method::PipeTransportConnect,
        id,
        Some(request::Body::PipeTransportConnectRequest(Box::new(body))),
    );
}

fn produce(harness: &mut Harness, transport: &str, id: &str, type_: data_producer::Type) {
    let body = transport::ProduceDataRequest {
        data_producer_id: id.to_owned(),
        type_,
        sctp_stream_parameters: stream(0),
        label: Some("l".to_owned()),
        protocol: None,
        paused: false,
    };
    let body = request::Body::TransportProduceDataRequest(Box::new(body));
    harness.request(Method::TransportProduceData, transport, Some(body));
}

fn consume(
    harness: &mut Harness,
    transport: &str,
    (id, producer): (&str, &str),
    type_: data_consumer::Type,
    subchannels: Option<Vec<u16>>,
) {
    let body = transport::ConsumeDataRequest {
        data_consumer_id: id.to_owned(),
        data_producer_id: producer.to_owned(),
        type_,
        sctp_stream_parameters: stream(0),
        label: Some("l".to_owned()),
        protocol: None,
        paused: false,
        subchannels,
    };
    let body = request::Body::TransportConsumeDataRequest(Box::new(body));
    harness.request(Method::TransportConsumeData, transport, Some(body));
}

fn say(harness: &mut Harness, producer: &str, data: &[u8], subchannels: Option<Vec<u16>>) {
    let body = data_producer::SendNotification {
        ppid: 53,
        data: data.to_vec(),
        subchannels,
        required_subchannel: None,
        ignored_subchannel: None,
    };
    harness.send(message::Body::Notification(Box::new(notification::Notification {
        handler_id: producer.to_owned(),
        event: notification::Event::DataProducerSend,
        body: Some(notification::Body::DataProducerSendNotification(Box::new(body))),
    })));
}

/// What a direct DataConsumer was sent.
fn heard(harness: &Harness, consumer: &str) -> Vec<Vec<u8>> {
    let of = |told: &&notification::Notification| told.handler_id == consumer;
    harness
        .notifications
        .iter()
        .filter(of)
        .filter_map(|told| match &told.body {
            Some(notification::Body::DataConsumerMessageNotification(body)) => Some(body.data.clone()),
            _ => None,
        })
        .collect()
}

fn is_connected(harness: &Harness, transport: &str) -> bool {
    harness.notifications.iter().any(|told| {
        told.handler_id == transport
            && matches!(&told.body, Some(notification::Body::TransportSctpStateChangeNotification(body))
                if body.sctp_state == sctp_association::SctpState::Connected)
    })
}

#[test]
fn two_workers_that_connect_at_once_exchange_messages() {
    let (mut here, mut there) = (Harness::new(), Harness::new());
    let mut addresses = Vec::new();
    for harness in [&mut here, &mut there] {
        harness.router("r");
        direct_transport(harness, "direct");
        addresses.push(pipe_transport(harness, "pipe"));
    }
    // Each side has something to say and something to hear before either knows where the other is: both begin.
    for (harness, peer) in [(&mut here, addresses[1]), (&mut there, addresses[0])] {
        produce(harness, "direct", "own", data_producer::Type::Direct);
        consume(harness, "pipe", ("out", "own"), data_consumer::Type::Sctp, None);
        produce(harness, "pipe", "in", data_producer::Type::Sctp);
        consume(harness, "direct", ("all", "in"), data_consumer::Type::Direct, Some(vec![1]));
        consume(harness, "direct", ("none", "in"), data_consumer::Type::Direct, Some(vec![2]));
        connect_pipe(harness, "pipe", peer);
    }
    let deadline = Instant::now() + PATIENCE;
    while !(is_connected(&here, "pipe") && is_connected(&there, "pipe")) {
        assert!(Instant::now() < deadline, "no association");
        here.turn();
        there.turn();
    }
    assert!(here.counter("sctp_inits") + there.counter("sctp_inits") >= 1);
    let long: Vec<u8> = (0..200_000).map(|position| (position % 251) as u8).collect();
    let said = [b"first".to_vec(), long, b"last".to_vec()];
    for data in &said {
        say(&mut here, "own", data, Some(vec![1, 7]));
        say(&mut there, "own", data, None);
    }
    say(&mut here, "own", b"for others", Some(vec![3]));
    let deadline = Instant::now() + PATIENCE;
    while heard(&there, "all").len() < 3 || heard(&here, "all").len() < 3 {
        assert!(
            Instant::now() < deadline,
            "{} and {} came",
            heard(&there, "all").len(),
            heard(&here, "all").len()
        );
        here.turn();
        there.turn();
    }
    assert!(heard(&there, "all") == said && heard(&here, "all") == said);
    assert!(heard(&there, "none").is_empty(), "subchannels cross the pipe");
    // What was for everybody is not for who asked for a subchannel only if it names some.
    assert_eq!(heard(&here, "none").len(), 3);
}

#[test]
fn strangers_to_an_association_cost_nothing_and_disturb_nobody() {
    let mut harness = Harness::new();
    harness.router("r");
    direct_transport(&mut harness, "direct");
    let options = plain_transport::PlainTransportOptions {
        base: Box::new(BASE),
        listen_info: Box::new(listen_info(transport::Protocol::Udp)),
        rtcp_listen_info: None,
        rtcp_mux: true,
        comedia: true,
        enable_srtp: false,
        srtp_crypto_suite: None,
    };
    let body =
        router::CreatePlainTransportRequest { transport_id: "plain".to_owned(), options: Box::new(options) };
    let body = request::Body::RouterCreatePlainTransportRequest(Box::new(body));
    let response = harness.request(Method::RouterCreatePlainTransport, "r", Some(body));
    let Some(response::Body::PlainTransportDumpResponse(dump)) = response else { panic!("{response:?}") };
    let address = SocketAddr::new(dump.tuple.local_address.parse().unwrap(), dump.tuple.local_port);
    produce(&mut harness, "plain", "in", data_producer::Type::Sctp);
    consume(&mut harness, "direct", ("all", "in"), data_consumer::Type::Direct, None);

    let (peer, stranger) = (socket(), socket());
    let mut association = SctpAssociation::new(SctpOptions::default());
    association.connect(Instant::now());
    let mut spoilt_at = 0;
    let mut floods = 0;
    let deadline = Instant::now() + PATIENCE;
    let mut sent = false;
    while heard(&harness, "all").is_empty() {
        assert!(Instant::now() < deadline, "the message did not come");
        let now = Instant::now();
        while let Some(packet) = association.poll_transmit(now) {
            peer.send_to(&packet, address).unwrap();
            // The same, spoilt: from the peer's own address.
            let mut spoilt = packet.clone();
            spoilt_at = (spoilt_at + 37) % spoilt.len();
            spoilt[spoilt_at] ^= 4;
            peer.send_to(&spoilt, address).unwrap();
        }
        if floods < 50 && association.state() == SctpState::Connected {
            for _ in 0..20 {
                let mut other = SctpAssociation::new(SctpOptions::default());
                other.connect(now);
                let init = other.poll_transmit(now).unwrap();
                peer.send_to(&init, address).unwrap();
                stranger.send_to(&init, address).unwrap();
            }
            floods += 1;
        }
        if floods == 50 && !std::mem::replace(&mut sent, true) {
            let delivery = Delivery { ordered: true, max_life_time_ms: None, max_retransmits: None };
            let data = b"still here"[..].into();
            association.send(OutgoingMessage { stream: 0, ppid: 51, data, delivery }, now).unwrap();
        }
        harness.turn();
        let now = Instant::now();
        while let Some(packet) = receive(&peer) {
            association.handle_packet(&packet, now);
        }
        association.handle_timeout(now);
        while let Some(event) = association.poll_event() {
            assert!(!matches!(event, SctpEvent::Closed(_) | SctpEvent::Failed(_)), "{event:?}");
        }
    }
    assert_eq!(heard(&harness, "all"), [b"still here"]);
    assert!(harness.counter("sctp_inits") >= 500, "each is answered, none is kept");
    assert!(harness.counter("foreign_datagrams") >= 500, "a stranger's are not even looked at");
    assert!(harness.counter("sctp_malformed") > 0);
}
