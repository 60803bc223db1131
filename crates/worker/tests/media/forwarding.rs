//! Media through a worker in this process: what Consumers get, what publishers are asked for, what is repeated.

use rtc::codec::vp8::Descriptor;
use rtc::rtcp::{self, Packet};
use rtc::rtp::{RtpHeader, SeqNo, Ssrc, is_rtcp};
use worker_protocol::wire::request::{self, Method};
use worker_protocol::wire::rtp_parameters::MediaKind;
use worker_protocol::wire::{consumer, notification};

use crate::harness::*;

pub(crate) const SOURCE: u32 = 111;
pub(crate) const SINK: u32 = 222;
const SINK_RTX: u32 = 333;

/// A publisher and a subscriber, each with a plain transport.
pub(crate) struct Call {
    pub(crate) harness: Harness,
    pub(crate) publisher: std::net::UdpSocket,
    pub(crate) publisher_at: std::net::SocketAddr,
    pub(crate) subscriber: std::net::UdpSocket,
    pub(crate) subscriber_at: std::net::SocketAddr,
}

impl Call {
    pub(crate) fn new() -> Self {
        let mut harness = Harness::new();
        harness.router("router");
        let (publisher, subscriber) = (socket(), socket());
        let publisher_at = harness.plain_transport("router", "in", true);
        let subscriber_at = harness.plain_transport("router", "out", false);
        harness.connect_plain("out", subscriber.local_addr().unwrap());
        Self { harness, publisher, publisher_at, subscriber, subscriber_at }
    }

    pub(crate) fn publish(&self, packet: &[u8]) {
        self.publisher.send_to(packet, self.publisher_at).unwrap();
    }

    /// Something of the subscriber's, RTCP mostly.
    pub(crate) fn answer(&self, packet: &[u8]) {
        self.subscriber.send_to(packet, self.subscriber_at).unwrap();
    }

    pub(crate) fn next_rtp(&mut self) -> Vec<u8> {
        let subscriber = self.subscriber.try_clone().unwrap();
        self.harness.wait("an RTP packet", |_| receive(&subscriber).filter(|datagram| !is_rtcp(datagram)))
    }

    pub(crate) fn next_request(&mut self) -> u32 {
        let publisher = self.publisher.try_clone().unwrap();
        self.harness.wait("a PLI", |_| {
            let datagram = receive(&publisher)?;
            rtcp::parse(&datagram).find_map(|packet| match packet {
                Ok(Packet::Pli(pli)) => Some(pli.media_ssrc.0),
                _ => None,
            })
        })
    }

    pub(crate) fn nack(&mut self, seq: SeqNo) {
        let mut rtcp = Vec::new();
        rtcp::write_nack(&mut rtcp, Ssrc(9), Ssrc(SINK), [seq]);
        self.answer(&rtcp);
    }
}

#[test]
fn a_simple_consumer_starts_with_a_key_frame_and_gets_everything_after_it() {
    let mut call = Call::new();
    call.harness.produce(
        "in",
        "producer",
        MediaKind::Video,
        parameters(vec![vp8(96)], vec![encoding(SOURCE, None)]),
    );
    call.harness.consume(
        "out",
        "consumer",
        "producer",
        MediaKind::Video,
        parameters(vec![vp8(97)], vec![encoding(SINK, None)]),
        1,
    );
    call.publish(&vp8_packet(SOURCE, 96, 65_530, 1000, 1, false));
    assert_eq!(call.next_request(), SOURCE, "a stream that starts without a key frame is asked for one");
    for step in 0..20_u16 {
        call.publish(&vp8_packet(
            SOURCE,
            96,
            65_531_u16.wrapping_add(step),
            2000 + u32::from(step),
            2 + step,
            step == 0,
        ));
    }
    let mut previous: Option<SeqNo> = None;
    for step in 0..20_u16 {
        let datagram = call.next_rtp();
        let header = RtpHeader::parse(&datagram).unwrap();
        assert_eq!((header.ssrc, header.payload_type), (Ssrc(SINK), 97));
        assert_eq!(header.timestamp, 2000 + u32::from(step));
        if let Some(previous) = previous {
            assert_eq!(header.sequence, previous.next());
        }
        previous = Some(header.sequence);
        let descriptor = Descriptor::parse(header.payload(&datagram)).unwrap();
        assert_eq!(descriptor.picture_id, Some(2 + step), "a simple consumer's payload is the producer's");
    }
    assert_eq!(call.harness.counter("rtp_forwarded"), 20);
}

#[test]
fn a_repeat_without_rtx_is_the_same_datagram() {
    let mut call = Call::new();
    call.harness.produce(
        "in",
        "producer",
        MediaKind::Video,
        parameters(vec![vp8(96)], vec![encoding(SOURCE, None)]),
    );
    call.harness.consume(
        "out",
        "consumer",
        "producer",
        MediaKind::Video,
        parameters(vec![vp8(97)], vec![encoding(SINK, None)]),
        1,
    );
    call.publish(&vp8_packet(SOURCE, 96, 1, 1000, 1, true));
    let first = call.next_rtp();
    call.nack(RtpHeader::parse(&first).unwrap().sequence);
    assert_eq!(call.next_rtp(), first);
}

#[test]
fn a_repeat_with_rtx_carries_the_original_number() {
    let mut call = Call::new();
    let source = parameters(vec![vp8(96), rtx(98, 96)], vec![encoding(SOURCE, Some(112))]);
    call.harness.produce("in", "producer", MediaKind::Video, source);
    let sink = parameters(vec![vp8(97), rtx(99, 97)], vec![encoding(SINK, Some(SINK_RTX))]);
    call.harness.consume("out", "consumer", "producer", MediaKind::Video, sink, 1);
    call.publish(&vp8_packet(SOURCE, 96, 1, 1000, 1, true));
    let first = call.next_rtp();
    let header = RtpHeader::parse(&first).unwrap();
    call.nack(header.sequence);
    let mut repeat = call.next_rtp();
    let repeat_header = RtpHeader::parse(&repeat).unwrap();
    assert_eq!((repeat_header.ssrc, repeat_header.payload_type), (Ssrc(SINK_RTX), 99));
    let restored = rtc::rtp::rtx::restore(&mut repeat, &repeat_header, Ssrc(SINK), 97).unwrap();
    assert_eq!(restored, first);
}

#[test]
fn what_is_missing_is_asked_for_and_repaired_by_rtx() {
    let mut call = Call::new();
    let source = parameters(vec![vp8(96), rtx(98, 96)], vec![encoding(SOURCE, Some(112))]);
    call.harness.produce("in", "producer", MediaKind::Video, source);
    let sink = parameters(vec![vp8(97)], vec![encoding(SINK, None)]);
    call.harness.consume("out", "consumer", "producer", MediaKind::Video, sink, 1);
    call.publish(&vp8_packet(SOURCE, 96, 1, 1000, 1, true));
    call.publish(&vp8_packet(SOURCE, 96, 3, 3000, 3, false));
    let publisher = call.publisher.try_clone().unwrap();
    let missing = call.harness.wait("a NACK", |_| {
        let datagram = receive(&publisher)?;
        rtcp::parse(&datagram).find_map(|packet| match packet {
            Ok(Packet::Nack(nack)) => Some(nack.sequences().collect::<Vec<_>>()),
            _ => None,
        })
    });
    assert_eq!(missing, [SeqNo(2)]);
    // The repair: SSRC and payload type of RTX, the original sequence number before the payload.
    let lost = vp8_packet(SOURCE, 96, 2, 2000, 2, false);
    let mut repair = vp8_packet(112, 98, 7, 2000, 2, false);
    repair.splice(12.., [&[0, 2][..], &lost[12..]].concat());
    call.publish(&repair);
    let mut received: Vec<_> = (0..3).map(|_| call.next_rtp()).collect();
    received.sort_by_key(|datagram| RtpHeader::parse(datagram).unwrap().timestamp);
    let pictures: Vec<_> = received
        .iter()
        .map(|datagram| {
            let header = RtpHeader::parse(datagram).unwrap();
            Descriptor::parse(header.payload(datagram)).unwrap().picture_id.unwrap()
        })
        .collect();
    assert_eq!(pictures, [1, 2, 3]);
}

#[test]
fn simulcast_switches_on_key_frames_without_a_seam() {
    let mut call = Call::new();
    let source = parameters(vec![vp8(96)], vec![encoding(1, None), encoding(2, None)]);
    call.harness.produce("in", "producer", MediaKind::Video, source);
    let mut sink = parameters(vec![vp8(97)], vec![encoding(SINK, None)]);
    sink.encodings[0].scalability_mode = Some("L2T1".to_owned());
    call.harness.consume("out", "consumer", "producer", MediaKind::Video, sink, 2);
    // Both layers start with a key frame; the preferred (upper) one is shown.
    call.publish(&vp8_packet(2, 96, 500, 900_000, 77, true));
    call.publish(&vp8_packet(1, 96, 100, 10_000, 10, true));
    let mut headers = Vec::new();
    let mut pictures = Vec::new();
    let take = |call: &mut Call, headers: &mut Vec<RtpHeader>, pictures: &mut Vec<u16>| {
        let datagram = call.next_rtp();
        let header = RtpHeader::parse(&datagram).unwrap();
        pictures.push(Descriptor::parse(header.payload(&datagram)).unwrap().picture_id.unwrap());
        headers.push(header);
    };
    take(&mut call, &mut headers, &mut pictures);
    call.harness.wait("layers", |harness| {
        harness
            .notifications
            .iter()
            .any(|notification| notification.event == notification::Event::ConsumerLayersChange)
            .then_some(())
    });
    call.publish(&vp8_packet(2, 96, 501, 903_000, 78, true));
    take(&mut call, &mut headers, &mut pictures);
    // Now the lower layer is wanted: nothing changes until its key frame comes.
    let layers = consumer::ConsumerLayers { spatial_layer: 0, temporal_layer: None };
    let body = consumer::SetPreferredLayersRequest { preferred_layers: Box::new(layers) };
    call.harness.request(
        Method::ConsumerSetPreferredLayers,
        "consumer",
        Some(request::Body::ConsumerSetPreferredLayersRequest(Box::new(body))),
    );
    while call.next_request() != 1 {}
    call.publish(&vp8_packet(1, 96, 101, 13_000, 11, false));
    call.publish(&vp8_packet(2, 96, 502, 906_000, 79, false));
    take(&mut call, &mut headers, &mut pictures);
    call.publish(&vp8_packet(1, 96, 102, 16_000, 12, true));
    take(&mut call, &mut headers, &mut pictures);
    call.publish(&vp8_packet(2, 96, 503, 909_000, 80, false));
    call.publish(&vp8_packet(1, 96, 103, 19_000, 13, false));
    take(&mut call, &mut headers, &mut pictures);
    for (before, after) in headers.iter().zip(&headers[1..]) {
        assert_eq!(after.sequence, before.sequence.next());
        assert!(after.timestamp.wrapping_sub(before.timestamp).cast_signed() > 0, "{headers:?}");
        assert_eq!(after.ssrc, Ssrc(SINK));
    }
    for (before, after) in pictures.iter().zip(&pictures[1..]) {
        assert_eq!(*after, before + 1, "{pictures:?}");
    }
    let steps = headers[4].timestamp.wrapping_sub(headers[3].timestamp);
    assert_eq!(steps, 3_000, "within a layer the distance is the publisher's");
}

#[test]
fn a_paused_consumer_gets_nothing_and_goes_on_without_a_gap() {
    let mut call = Call::new();
    call.harness.produce(
        "in",
        "producer",
        MediaKind::Video,
        parameters(vec![vp8(96)], vec![encoding(SOURCE, None)]),
    );
    let sink = parameters(vec![vp8(97)], vec![encoding(SINK, None)]);
    call.harness.consume("out", "consumer", "producer", MediaKind::Video, sink, 1);
    call.publish(&vp8_packet(SOURCE, 96, 1, 1000, 1, true));
    let first = RtpHeader::parse(&call.next_rtp()).unwrap();
    call.harness.request(Method::ConsumerPause, "consumer", None);
    call.publish(&vp8_packet(SOURCE, 96, 2, 2000, 2, true));
    call.harness.wait("the packet to be received", |harness| {
        (harness.counter("datagrams_received") >= 2).then_some(())
    });
    call.harness.request(Method::ConsumerResume, "consumer", None);
    assert_eq!(call.next_request(), SOURCE);
    call.publish(&vp8_packet(SOURCE, 96, 3, 3000, 3, true));
    let second = RtpHeader::parse(&call.next_rtp()).unwrap();
    assert_eq!(second.sequence, first.sequence.next());
    assert_eq!(second.timestamp, 3000);
}

#[test]
fn when_a_transport_closes_nothing_is_left_of_it() {
    let mut call = Call::new();
    let before = call.harness.worker.sockets.len();
    call.harness.produce(
        "in",
        "producer",
        MediaKind::Video,
        parameters(vec![vp8(96)], vec![encoding(SOURCE, None)]),
    );
    let sink = parameters(vec![vp8(97)], vec![encoding(SINK, None)]);
    call.harness.consume("out", "consumer", "producer", MediaKind::Video, sink, 1);
    let body = worker_protocol::wire::router::CloseTransportRequest { transport_id: "in".to_owned() };
    let body = request::Body::RouterCloseTransportRequest(Box::new(body));
    call.harness.request(Method::RouterCloseTransport, "router", Some(body));
    let closed = call.harness.notifications.iter().any(|notification| {
        notification.event == notification::Event::ConsumerProducerClose
            && notification.handler_id == "consumer"
    });
    assert!(closed, "the consumer's driver is told");
    assert_eq!(call.harness.worker.sockets.len(), before - 1);
    assert!(call.harness.worker.producers.is_empty() && call.harness.worker.consumers.is_empty());
    assert_eq!(call.harness.worker.handlers.len(), 2, "the router and the other transport");
    call.harness.close();
    assert!(call.harness.worker.sockets.is_empty() && call.harness.worker.handlers.len() <= 1);
}
