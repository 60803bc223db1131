//! PlainTransports and PipeTransports: what a socket sends into one comes out of another, on this worker or the next.

use std::net::{Ipv4Addr, UdpSocket};

use media::{
    Consumer, ListenInfo, PipeTransport, PipeTransportOptions, PlainRemote, PlainTransport,
    PlainTransportOptions,
};

use super::*;

const SSRC: u32 = 0x0101_0101;
const PAYLOAD_TYPE: u8 = 96;
const PATIENCE: Duration = Duration::from_secs(5);

fn listen() -> ListenInfo {
    ListenInfo::new(TransportProtocol::Udp, Ipv4Addr::LOCALHOST.into(), 0)
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn port(socket: &UdpSocket) -> u16 {
    socket.local_addr().unwrap().port()
}

/// An Opus packet.
fn rtp(sequence: u16) -> Vec<u8> {
    let mut packet = vec![0x80, PAYLOAD_TYPE];
    packet.extend(sequence.to_be_bytes());
    packet.extend((u32::from(sequence) * 960).to_be_bytes());
    packet.extend(SSRC.to_be_bytes());
    packet.extend(format!("sound {sequence}").bytes());
    packet
}

/// A sender report of the same stream, before its first packet.
fn sender_report() -> Vec<u8> {
    let mut packet = vec![0x80, 200, 0, 6];
    packet.extend(SSRC.to_be_bytes());
    packet.extend([0xee, 0, 0, 0, 0, 0, 0, 0]);
    packet.extend([0; 12]);
    packet
}

fn opus_without_mid() -> RtpParameters {
    serde_json::from_value(json!({
        "codecs": [{ "mimeType": "audio/opus", "payloadType": PAYLOAD_TYPE, "clockRate": 48000, "channels": 2 }],
        "encodings": [{ "ssrc": SSRC }],
        "rtcp": { "cname": "a socket" }
    }))
    .unwrap()
}

async fn comedia(router: &Router) -> PlainTransport {
    let options = PlainTransportOptions { comedia: true, ..PlainTransportOptions::new(listen()) };
    router.create_plain_transport(options).await.unwrap()
}

/// A Producer that a plain socket feeds, and that socket.
async fn fed_producer(router: &Router) -> (PlainTransport, Producer, UdpSocket) {
    let transport = comedia(router).await;
    let producer =
        transport.produce(ProducerOptions::new(MediaKind::Audio, opus_without_mid())).await.unwrap();
    let publisher = socket();
    publisher.connect((Ipv4Addr::LOCALHOST, transport.beginning().tuple.local_port)).unwrap();
    (transport, producer, publisher)
}

/// A Consumer that sends to a plain socket, and that socket.
async fn outlet(router: &Router, producer: &ProducerId) -> (PlainTransport, Consumer, UdpSocket) {
    let transport = router.create_plain_transport(PlainTransportOptions::new(listen())).await.unwrap();
    let recorder = socket();
    let remote = PlainRemote {
        ip: Some(Ipv4Addr::LOCALHOST.into()),
        port: Some(port(&recorder)),
        ..PlainRemote::default()
    };
    transport.connect(&remote).await.unwrap();
    let options =
        ConsumerOptions { paused: false, ..ConsumerOptions::new(producer.clone(), capabilities(router)) };
    let consumer = transport.consume(options).await.unwrap();
    (transport, consumer, recorder)
}

/// The next RTP packet that a socket receives: payload type, SSRC and payload.
fn received(socket: &UdpSocket) -> (u8, u32, Vec<u8>) {
    let mut buffer = [0; 2048];
    loop {
        let len = socket.recv(&mut buffer).expect("a packet in time");
        let packet = &buffer[..len];
        if (192..=223).contains(&packet[1]) {
            continue;
        }
        let extension = if packet[0] & 0x10 == 0 {
            0
        } else {
            4 + 4 * usize::from(u16::from_be_bytes([packet[14], packet[15]]))
        };
        let ssrc = u32::from_be_bytes(packet[8..12].try_into().unwrap());
        return (packet[1] & 0x7f, ssrc, packet[12 + extension..].to_vec());
    }
}

#[tokio::test]
async fn rtp_in_comes_out_with_the_consumers_names() {
    let stage = Stage::new().await;
    let (inlet, producer, publisher) = fed_producer(&stage.router).await;
    let (_outlet, consumer, recorder) = outlet(&stage.router, producer.id()).await;
    for sequence in 1..=3 {
        publisher.send(&rtp(sequence)).unwrap();
    }
    let parameters = consumer.rtp_parameters();
    let expected = (parameters.codecs[0].payload_type, parameters.encodings[0].ssrc.unwrap());
    for sequence in 1..=3 {
        let (payload_type, ssrc, payload) = received(&recorder);
        assert_eq!((payload_type, ssrc), expected);
        assert_eq!(payload, format!("sound {sequence}").into_bytes());
    }
    let tuple = inlet.stats().await.unwrap().tuple.unwrap();
    assert_eq!(tuple.remote_port, Some(port(&publisher)), "comedia learns who sends");
    stage.worker.close().await;
}

/// ffmpeg sends a report first, from another port than its RTP.
#[tokio::test]
async fn a_report_from_another_port_does_not_shut_out_the_media_behind_it() {
    let stage = Stage::new().await;
    let (inlet, producer, publisher) = fed_producer(&stage.router).await;
    let (_outlet, _consumer, recorder) = outlet(&stage.router, producer.id()).await;
    let reporter = socket();
    let to = (Ipv4Addr::LOCALHOST, inlet.beginning().tuple.local_port);
    reporter.send_to(&sender_report(), to).unwrap();
    publisher.send(&rtp(1)).unwrap();
    assert_eq!(received(&recorder).2, b"sound 1");
    // Whose media it is, is settled now: another's is not taken.
    let stranger = socket();
    let mut foreign = rtp(2);
    foreign.extend(b", forged");
    stranger.send_to(&foreign, to).unwrap();
    publisher.send(&rtp(2)).unwrap();
    assert_eq!(received(&recorder).2, b"sound 2");
    assert_eq!(inlet.stats().await.unwrap().tuple.unwrap().remote_port, Some(port(&publisher)));
    stage.worker.close().await;
}

#[tokio::test]
async fn rtcp_apart_goes_to_the_port_of_its_own() {
    let stage = Stage::new().await;
    let (_inlet, producer, publisher) = fed_producer(&stage.router).await;
    let options =
        PlainTransportOptions { rtcp_listen: Some(listen()), ..PlainTransportOptions::new(listen()) };
    let transport = stage.router.create_plain_transport(options).await.unwrap();
    let (recorder, reports) = (socket(), socket());
    let remote = PlainRemote {
        ip: Some(Ipv4Addr::LOCALHOST.into()),
        port: Some(port(&recorder)),
        rtcp_port: Some(port(&reports)),
        ..PlainRemote::default()
    };
    transport.connect(&remote).await.unwrap();
    let options = ConsumerOptions {
        paused: false,
        ..ConsumerOptions::new(producer.id().clone(), capabilities(&stage.router))
    };
    let consumer = transport.consume(options).await.unwrap();
    publisher.send(&rtp(1)).unwrap();
    assert_eq!(received(&recorder).2, b"sound 1");
    let mut buffer = [0; 2048];
    // Within its interval, 5 s at most, a sender report of the Consumer's stream comes; to the other port.
    reports.set_read_timeout(Some(PATIENCE * 2)).unwrap();
    let len = reports.recv(&mut buffer).expect("a report in time");
    assert_eq!(buffer[1], 200, "a sender report: {:?}", &buffer[..len]);
    let ssrc = consumer.rtp_parameters().encodings[0].ssrc.unwrap();
    assert_eq!(buffer[4..8], ssrc.to_be_bytes());
    stage.worker.close().await;
}

#[tokio::test]
async fn a_producer_is_piped_to_the_next_worker() {
    piped(false).await;
}

#[tokio::test]
async fn a_producer_is_piped_to_the_next_worker_over_srtp() {
    piped(true).await;
}

async fn piped(srtp: bool) {
    let (origin, edge) = (Stage::new().await, Stage::new().await);
    let (_inlet, producer, publisher) = fed_producer(&origin.router).await;
    let (here, there) = (pipe_end(&origin.router, srtp).await, pipe_end(&edge.router, srtp).await);
    connect(&here, &there).await;
    connect(&there, &here).await;
    let across = here.pipe(producer.id()).await.unwrap();
    let options = ProducerOptions {
        id: Some(producer.id().clone()),
        ..ProducerOptions::new(MediaKind::Audio, across.rtp_parameters().clone())
    };
    let arrived = there.produce(options).await.unwrap();
    let (_outlet, _consumer, recorder) = outlet(&edge.router, arrived.id()).await;
    for sequence in 1..=3 {
        publisher.send(&rtp(sequence)).unwrap();
        assert_eq!(received(&recorder).2, format!("sound {sequence}").into_bytes());
    }
    let stats = arrived.stats().await.unwrap();
    assert_eq!(stats.iter().map(|stream| stream.packet_count).sum::<u64>(), 3, "{stats:?}");
    origin.worker.close().await;
    edge.worker.close().await;
}

async fn pipe_end(router: &Router, srtp: bool) -> PipeTransport {
    let options = PipeTransportOptions {
        id: None,
        listen: listen(),
        enable_rtx: false,
        enable_srtp: srtp,
        enable_sctp: false,
    };
    let transport = router.create_pipe_transport(options).await.unwrap();
    assert_eq!(transport.beginning().srtp_parameters.is_some(), srtp);
    transport
}

async fn connect(from: &PipeTransport, to: &PipeTransport) {
    let beginning = to.beginning();
    from.connect(Ipv4Addr::LOCALHOST.into(), beginning.tuple.local_port, beginning.srtp_parameters.as_ref())
        .await
        .unwrap();
}
