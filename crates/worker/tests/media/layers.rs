//! Layered streams through a worker in this process, by what Chromium sent; and header extensions that a worker writes or
//! passes on.

use rtc::clock_offset::{ClockOffset, capture_time};
use rtc::codec::vp9::Descriptor;
use rtc::rtcp;
use rtc::rtp::{RtpHeader, SeqNo, Ssrc, is_rtcp};
use worker_protocol::wire::request::{self, Method};
use worker_protocol::wire::rtp_parameters::{self as rtp, MediaKind};
use worker_protocol::wire::{consumer, response};

use crate::forwarding::{Call, SINK, SOURCE};
use crate::harness::*;

const VP9_KEY: &str = include_str!("../../../rtc/src/codec/captures/vp9-l3t3-key.txt");

fn vp9(payload_type: u8) -> rtp::RtpCodecParameters {
    rtp::RtpCodecParameters { mime_type: "video/VP9".to_owned(), ..vp8(payload_type) }
}

fn layered(ssrc: u32) -> rtp::RtpEncodingParameters {
    rtp::RtpEncodingParameters { scalability_mode: Some("L3T3_KEY".to_owned()), ..encoding(ssrc, None) }
}

/// The packets of a capture, as their publisher sent them but for what the frames show.
fn captured(text: &str) -> Vec<Vec<u8>> {
    text.lines()
        .map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let mut packet = vec![0x80, 96 | u8::from(fields[2] == "1") << 7];
            packet.extend_from_slice(&fields[0].parse::<u16>().unwrap().to_be_bytes());
            packet.extend_from_slice(&fields[1].parse::<u32>().unwrap().to_be_bytes());
            packet.extend_from_slice(&SOURCE.to_be_bytes());
            let digits: Vec<u8> = fields[4].chars().map(|digit| digit.to_digit(16).unwrap() as u8).collect();
            packet.extend(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]));
            packet
        })
        .collect()
}

fn current_layers(harness: &mut Harness) -> (i16, i16) {
    let Some(response::Body::ConsumerDumpResponse(dump)) =
        harness.request(Method::ConsumerDump, "consumer", None)
    else {
        panic!("no dump")
    };
    (dump.data.current_spatial_layer.unwrap(), dump.data.current_temporal_layer.unwrap())
}

#[test]
fn a_consumer_of_key_only_layers_gets_one_of_them_without_gaps() {
    for (spatial, temporal) in [(0, 0), (0, 2), (1, 1), (2, 2)] {
        let Call { mut harness, publisher, publisher_at, subscriber, .. } = Call::new();
        let source = parameters(vec![vp9(96)], vec![layered(SOURCE)]);
        harness.produce("in", "producer", MediaKind::Video, source);
        let sink = parameters(vec![vp9(97)], vec![layered(SINK)]);
        harness.consume("out", "consumer", "producer", MediaKind::Video, sink, 1);
        let layers = consumer::ConsumerLayers { spatial_layer: spatial, temporal_layer: Some(temporal) };
        let body = consumer::SetPreferredLayersRequest { preferred_layers: Box::new(layers) };
        let body = request::Body::ConsumerSetPreferredLayersRequest(Box::new(body));
        harness.request(Method::ConsumerSetPreferredLayers, "consumer", Some(body));

        let packets = captured(VP9_KEY);
        let expected: Vec<Descriptor> = packets
            .iter()
            .map(|packet| Descriptor::parse(&packet[12..]).unwrap())
            .filter(|descriptor| {
                let layers = descriptor.layers.unwrap();
                layers.temporal <= temporal
                    && (layers.spatial == spatial
                        || (!descriptor.inter_predicted && layers.spatial <= spatial))
            })
            .collect();
        for packet in &packets {
            publisher.send_to(packet, publisher_at).unwrap();
        }
        let mut previous: Option<SeqNo> = None;
        for wanted in &expected {
            let datagram =
                harness.wait("an RTP packet", |_| receive(&subscriber).filter(|datagram| !is_rtcp(datagram)));
            let header = RtpHeader::parse(&datagram).unwrap();
            if let Some(previous) = previous {
                assert_eq!(header.sequence, previous.next());
            }
            previous = Some(header.sequence);
            let descriptor = Descriptor::parse(header.payload(&datagram)).unwrap();
            assert_eq!(&descriptor, wanted, "at {spatial}:{temporal}");
            let ends = wanted.end && wanted.layers.unwrap().spatial == spatial;
            assert_eq!(header.marker, ends, "the marker is on the last packet of what is forwarded");
        }
        assert_eq!(harness.counter("rtp_forwarded"), expected.len() as u64);
        assert_eq!(current_layers(&mut harness), (i16::from(spatial), i16::from(temporal)));
    }
}

#[test]
fn capture_time_and_packet_number_are_written_and_repeated_alike() {
    let Call { mut harness, publisher, publisher_at, subscriber, subscriber_at } = Call::new();
    harness.numbers_packets = true;
    let extension = |uri, id| rtp::RtpHeaderExtensionParameters { uri, id, encrypt: false, parameters: None };
    let uris = [rtp::RtpHeaderExtensionUri::AbsCaptureTime, rtp::RtpHeaderExtensionUri::MediasoupPacketId];
    let mut source = parameters(vec![vp8(96)], vec![encoding(SOURCE, None)]);
    source.header_extensions = vec![extension(uris[0], 3)];
    harness.produce("in", "producer", MediaKind::Video, source);
    let mut sink = parameters(vec![vp8(97)], vec![encoding(SINK, None)]);
    sink.header_extensions = vec![extension(uris[0], 10), extension(uris[1], 12)];
    harness.consume("out", "consumer", "producer", MediaKind::Video, sink, 1);

    let captured_at = 0x0123_4567_89ab_cdef_u64.to_be_bytes();
    let mut numbers = Vec::new();
    for seq in 1..=2 {
        let plain = vp8_packet(SOURCE, 96, seq, 1000, seq, true);
        let mut packet = plain[..12].to_vec();
        packet[0] |= 0x10;
        packet.extend_from_slice(&[0xbe, 0xde, 0, 3, 0x37]);
        packet.extend_from_slice(&captured_at);
        packet.extend_from_slice(&[0; 3]);
        packet.extend_from_slice(&plain[12..]);
        publisher.send_to(&packet, publisher_at).unwrap();
        let next = |harness: &mut Harness| {
            harness.wait("an RTP packet", |_| receive(&subscriber).filter(|datagram| !is_rtcp(datagram)))
        };
        let first = next(&mut harness);
        let header = RtpHeader::parse(&first).unwrap();
        let expected = capture_time(&captured_at, ClockOffset::default()).unwrap();
        assert_eq!(header.extension(&first, 10), Some(expected.as_slice()));
        numbers.push(u32::from_be_bytes(header.extension(&first, 12).unwrap().try_into().unwrap()));
        let mut nack = Vec::new();
        rtcp::write_nack(&mut nack, Ssrc(9), Ssrc(SINK), [header.sequence]);
        subscriber.send_to(&nack, subscriber_at).unwrap();
        assert_eq!(next(&mut harness), first, "a repeat is the same datagram");
    }
    assert_eq!(numbers[1], numbers[0].wrapping_add(1));
}

#[test]
fn the_playout_delay_is_passed_on_under_the_receiver_s_id() {
    let mut call = Call::new();
    let extension = |id| rtp::RtpHeaderExtensionParameters {
        uri: rtp::RtpHeaderExtensionUri::PlayoutDelay,
        id,
        encrypt: false,
        parameters: None,
    };
    let mut source = parameters(vec![vp8(96)], vec![encoding(SOURCE, None)]);
    source.header_extensions = vec![extension(3)];
    call.harness.produce("in", "producer", MediaKind::Video, source);
    let mut sink = parameters(vec![vp8(97)], vec![encoding(SINK, None)]);
    sink.header_extensions = vec![extension(11)];
    call.harness.consume("out", "consumer", "producer", MediaKind::Video, sink, 1);

    // At least 100 ms, at most 800, in units of 10 ms and 12 bits each.
    let bounds = [0x00, 0xa0, 0x50];
    let plain = vp8_packet(SOURCE, 96, 1, 1000, 1, true);
    let mut packet = plain[..12].to_vec();
    packet[0] |= 0x10;
    packet.extend_from_slice(&[0xbe, 0xde, 0, 1, 3 << 4 | 2]);
    packet.extend_from_slice(&bounds);
    packet.extend_from_slice(&plain[12..]);
    call.publish(&packet);
    let forwarded = call.next_rtp();
    let header = RtpHeader::parse(&forwarded).unwrap();
    assert_eq!(header.extension(&forwarded, 11), Some(bounds.as_slice()));
}
