//! SSRC, MID and RID that two publishers, or two Producers of one, have in common: whose packet is whose.

use rtc::rtp::RtpHeader;
use worker_protocol::wire::rtp_parameters as rtp;
use worker_protocol::wire::rtp_parameters::MediaKind;

use crate::harness::*;

/// Header extensions by which packets tell their names.
const MID: u8 = 1;
const RID: u8 = 2;

/// Publishers and one subscriber for each Consumer, on plain transports.
struct Call {
    harness: Harness,
    subscribers: Vec<(u32, std::net::UdpSocket)>,
}

struct Publisher {
    socket: std::net::UdpSocket,
    at: std::net::SocketAddr,
}

impl Publisher {
    fn send(&self, packet: &[u8]) {
        self.socket.send_to(packet, self.at).unwrap();
    }
}

impl Call {
    fn new() -> Self {
        let mut harness = Harness::new();
        harness.router("router");
        Self { harness, subscribers: Vec::new() }
    }

    fn publisher(&mut self, transport: &str) -> Publisher {
        Publisher { socket: socket(), at: self.harness.plain_transport("router", transport, true) }
    }

    /// A subscriber to all of one Producer, under this SSRC.
    fn subscribe(&mut self, producer: &str, ssrc: u32, encodings: u32) {
        let (socket, transport) = (socket(), format!("to {producer}"));
        self.harness.plain_transport("router", &transport, false);
        self.harness.connect_plain(&transport, socket.local_addr().unwrap());
        let mut sink = parameters(vec![vp8(97)], vec![encoding(ssrc, None)]);
        if encodings > 1 {
            sink.encodings[0].scalability_mode = Some(format!("L{encodings}T1"));
        }
        self.harness.consume(
            &transport,
            &format!("of {producer}"),
            producer,
            MediaKind::Video,
            sink,
            encodings,
        );
        self.subscribers.push((ssrc, socket));
    }

    /// The timestamps' owners: what each subscriber has got once this many packets in all have come.
    fn arrived(&mut self, count: usize) -> Vec<Vec<u32>> {
        let mut got = vec![Vec::new(); self.subscribers.len()];
        let subscribers: Vec<_> =
            self.subscribers.iter().map(|(ssrc, socket)| (*ssrc, socket.try_clone().unwrap())).collect();
        self.harness.wait("packets", |_| {
            for ((ssrc, socket), got) in subscribers.iter().zip(&mut got) {
                while let Some(datagram) = receive(socket) {
                    if rtc::rtp::is_rtcp(&datagram) {
                        continue;
                    }
                    let header = RtpHeader::parse(&datagram).unwrap();
                    assert_eq!(header.ssrc.0, *ssrc);
                    // The mark lies in the payload, which nobody changes.
                    got.push(u32::from(*datagram.last().unwrap()));
                }
            }
            (got.iter().map(Vec::len).sum::<usize>() >= count).then_some(())
        });
        got
    }
}

fn names(mid: Option<&str>, codecs: u8, encodings: Vec<rtp::RtpEncodingParameters>) -> rtp::RtpParameters {
    let extension =
        |uri, id| rtp::RtpHeaderExtensionParameters { uri, id, encrypt: false, parameters: Some(Vec::new()) };
    rtp::RtpParameters {
        mid: mid.map(str::to_owned),
        header_extensions: vec![
            extension(rtp::RtpHeaderExtensionUri::Mid, MID),
            extension(rtp::RtpHeaderExtensionUri::RtpStreamId, RID),
        ],
        ..parameters(vec![vp8(codecs)], encodings)
    }
}

fn rid(name: &str) -> rtp::RtpEncodingParameters {
    rtp::RtpEncodingParameters { rid: Some(name.to_owned()), ..rtp::RtpEncodingParameters::default() }
}

/// A key frame in one packet that carries these names (RFC 8285, one-byte form) and ends in `mark`.
fn packet(ssrc: u32, payload_type: u8, seq: u16, elements: &[(u8, &str)], mark: u8) -> Vec<u8> {
    let mut plain = vp8_packet(ssrc, payload_type, seq, u32::from(seq) * 3_000, seq, true);
    let payload = plain.split_off(12);
    let mut extension = Vec::new();
    for (id, value) in elements {
        extension.push(id << 4 | (value.len() as u8 - 1));
        extension.extend_from_slice(value.as_bytes());
    }
    extension.resize(extension.len().next_multiple_of(4), 0);
    if !extension.is_empty() {
        plain[0] |= 0x10;
        plain.extend_from_slice(&[0xbe, 0xde, 0, (extension.len() / 4) as u8]);
    }
    plain.extend_from_slice(&extension);
    plain.extend_from_slice(&payload);
    *plain.last_mut().unwrap() = mark;
    plain
}

#[test]
fn a_mid_or_ssrc_that_is_taken_is_refused_and_its_owner_goes_on() {
    let mut call = Call::new();
    let publisher = call.publisher("in");
    call.harness.produce("in", "first", MediaKind::Video, names(Some("0"), 96, vec![encoding(11, Some(12))]));
    call.subscribe("first", 100, 1);
    for (mid, encodings) in [
        ("0", vec![encoding(21, Some(22))]),
        ("1", vec![encoding(11, None)]),
        ("1", vec![encoding(12, None)]),
        ("1", vec![encoding(21, Some(11))]),
        ("1", vec![encoding(21, None), encoding(21, None)]),
    ] {
        let second = names(Some(mid), 96, encodings);
        call.harness.try_produce("in", "second", MediaKind::Video, second).unwrap_err();
        // Nothing of the refused one is left behind: what is its own is nobody's.
        let nobodys = call.harness.counter("rtp_no_producer");
        publisher.send(&packet(21, 96, 1, &[], 9));
        publisher.send(&packet(22, 96, 1, &[(MID, "1")], 9));
        call.harness
            .wait("two strays", |harness| (harness.counter("rtp_no_producer") == nobodys + 2).then_some(()));
    }
    publisher.send(&packet(11, 96, 1, &[(MID, "0")], 1));
    assert_eq!(call.arrived(1), [[1]]);
    call.harness.produce("in", "second", MediaKind::Video, names(Some("1"), 96, vec![encoding(21, None)]));
}

#[test]
fn the_same_names_on_two_transports_are_two_publishers() {
    let mut call = Call::new();
    let publishers = [call.publisher("a"), call.publisher("b")];
    for (transport, producer, ssrc) in [("a", "first", 100), ("b", "second", 200)] {
        let rids = names(Some("0"), 96, vec![rid("r0"), rid("r1")]);
        call.harness.produce(transport, producer, MediaKind::Video, rids);
        call.subscribe(producer, ssrc, 2);
    }
    for seq in 0..10 {
        for (publisher, mark) in publishers.iter().zip([1, 2]) {
            // One SSRC, one MID, one RID: all that differs is where it comes from.
            publisher.send(&packet(7, 96, 65_530_u16.wrapping_add(seq), &[(MID, "0"), (RID, "r1")], mark));
        }
        // Loopback delivers at once; each key frame is shown, being of the best layer that comes.
        call.harness.turn();
    }
    let got = call.arrived(20);
    assert_eq!(got, [vec![1; 10], vec![2; 10]]);
}

#[test]
fn producers_of_one_transport_may_share_rids_under_different_mids() {
    let mut call = Call::new();
    let publisher = call.publisher("in");
    for (producer, mid, ssrc) in [("camera", "0", 100), ("screen", "1", 200)] {
        let rids = names(Some(mid), 96, vec![rid("r0"), rid("r1")]);
        call.harness.produce("in", producer, MediaKind::Video, rids);
        call.subscribe(producer, ssrc, 2);
    }
    for seq in 0..10 {
        publisher.send(&packet(31, 96, seq, &[(MID, "0"), (RID, "r1")], 1));
        publisher.send(&packet(32, 96, seq, &[(MID, "1"), (RID, "r1")], 2));
        call.harness.turn();
    }
    assert_eq!(call.arrived(20), [vec![1; 10], vec![2; 10]]);
    // An SSRC that has an owner keeps it, whatever name it claims later.
    publisher.send(&packet(31, 96, 10, &[(MID, "1"), (RID, "r1")], 1));
    assert_eq!(call.arrived(1), [vec![1], vec![]]);
    // A second SSRC for a RID that has one is not mixed with it.
    let refused = call.harness.counter("rtp_no_stream");
    publisher.send(&packet(33, 96, 500, &[(MID, "0"), (RID, "r1")], 3));
    call.harness.wait("a refusal", |harness| (harness.counter("rtp_no_stream") > refused).then_some(()));
    publisher.send(&packet(31, 96, 11, &[], 1));
    assert_eq!(call.arrived(1), [vec![1], vec![]]);
}

#[test]
fn without_a_mid_a_rid_that_is_taken_is_refused() {
    let mut call = Call::new();
    let publisher = call.publisher("in");
    call.harness.produce("in", "first", MediaKind::Video, names(None, 96, vec![rid("r0"), rid("r1")]));
    call.subscribe("first", 100, 2);
    let second = names(None, 96, vec![rid("r1"), rid("r2")]);
    call.harness.try_produce("in", "second", MediaKind::Video, second).unwrap_err();
    let nobodys = call.harness.counter("rtp_no_producer");
    publisher.send(&packet(2, 96, 0, &[(RID, "r2")], 9));
    call.harness.wait("a stray", |harness| (harness.counter("rtp_no_producer") > nobodys).then_some(()));
    publisher.send(&packet(1, 96, 0, &[(RID, "r1")], 1));
    assert_eq!(call.arrived(1), [[1]]);
}

#[test]
fn invented_ssrcs_under_a_known_mid_replace_nobody_elses() {
    let mut call = Call::new();
    let publisher = call.publisher("in");
    call.harness.produce("in", "first", MediaKind::Video, names(Some("0"), 96, vec![encoding(11, None)]));
    call.harness.produce("in", "second", MediaKind::Video, names(Some("1"), 96, vec![encoding(21, None)]));
    call.subscribe("first", 100, 1);
    call.subscribe("second", 200, 1);
    publisher.send(&packet(11, 96, 0, &[], 1));
    publisher.send(&packet(21, 96, 0, &[], 2));
    assert_eq!(call.arrived(2), [[1], [2]]);
    for ssrc in 1_000..3_000 {
        publisher.send(&packet(ssrc, 96, 0, &[(MID, "1")], 3));
        if ssrc % 50 == 0 {
            call.harness.turn();
        }
    }
    call.harness.wait("all of them", |harness| (harness.counter("rtp_no_stream") == 2_000).then_some(()));
    publisher.send(&packet(11, 96, 1, &[], 1));
    publisher.send(&packet(21, 96, 1, &[], 2));
    assert_eq!(call.arrived(2), [[1], [2]]);
}
