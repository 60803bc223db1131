#![expect(clippy::arithmetic_side_effects, reason = "an overflow fails the test, as it should")]

use super::*;
use proptest::prelude::*;
use std::time::Duration;

/// V=2, X, one CSRC, marker, PT 111; one-byte extension: id 1 "ab", a padding byte, id 3 audio level.
const ONE_BYTE: &[u8] = &[
    0x91, 0xef, 0x12, 0x34, 0x00, 0x01, 0x02, 0x03, 0xde, 0xad, 0xbe, 0xef, // fixed
    0x00, 0x00, 0x00, 0x07, // CSRC
    0xbe, 0xde, 0x00, 0x02, 0x11, b'a', b'b', 0x00, 0x30, 0xa8, 0x00, 0x00, // extension
    0x55, 0x66,
];

/// V=2, P, X, PT 96; two-byte extension: id 20 empty, id 2 transport-wide number; 3 bytes of padding.
const TWO_BYTE: &[u8] = &[
    0xb0, 0x60, 0xff, 0xff, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x02, // fixed
    0x10, 0x00, 0x00, 0x02, 0x14, 0x00, 0x02, 0x02, 0xab, 0xcd, 0x00, 0x00, // extension
    0x77, 0x00, 0x00, 0x03,
];

#[test]
fn one_byte_extension_is_read() {
    let header = RtpHeader::parse(ONE_BYTE).unwrap();
    assert!(header.marker);
    assert_eq!(header.payload_type, 111);
    assert_eq!(header.sequence, SeqNo(0x1234));
    assert_eq!(header.timestamp, 0x0001_0203);
    assert_eq!(header.ssrc, Ssrc(0xdead_beef));
    assert_eq!(header.csrcs(ONE_BYTE), &[0, 0, 0, 7]);
    assert_eq!(header.payload(ONE_BYTE), &[0x55, 0x66]);
    let ids = ExtensionIds { mid: 1, ssrc_audio_level: 3, ..ExtensionIds::default() };
    assert_eq!(ids.read_mid(&header, ONE_BYTE), Some("ab"));
    let level = ids.read_audio_level(&header, ONE_BYTE).unwrap();
    assert!(level.voice);
    assert_eq!(level.dbov(), -40);
    assert_eq!(ids.read_rid(&header, ONE_BYTE), None);
}

#[test]
fn two_byte_extension_and_padding_are_read() {
    let header = RtpHeader::parse(TWO_BYTE).unwrap();
    assert_eq!(header.padding_len, 3);
    assert_eq!(header.payload(TWO_BYTE), &[0x77]);
    assert_eq!(header.extension(TWO_BYTE, 20), Some(&[][..]));
    let ids = ExtensionIds { transport_wide_cc: 2, ..ExtensionIds::default() };
    assert_eq!(ids.read_transport_wide_cc(&header, TWO_BYTE), Some(0xabcd));
    assert_eq!(header.elements(TWO_BYTE).count(), 2);
}

#[test]
fn wrong_packets_are_refused_by_name() {
    assert_eq!(RtpHeader::parse(&ONE_BYTE[..11]), Err(RtpError::Truncated));
    assert_eq!(RtpHeader::parse(&ONE_BYTE[..20]), Err(RtpError::Truncated));
    let mut packet = ONE_BYTE.to_vec();
    packet[0] = 0x51;
    assert_eq!(RtpHeader::parse(&packet), Err(RtpError::Version));
    let mut packet = TWO_BYTE.to_vec();
    *packet.last_mut().unwrap() = 0;
    assert_eq!(RtpHeader::parse(&packet), Err(RtpError::Padding));
    *packet.last_mut().unwrap() = 5;
    assert_eq!(RtpHeader::parse(&packet), Err(RtpError::Padding));
    assert_eq!(RtpHeader::parse_ignoring_padding(&packet).unwrap().payload_len, 4);
    assert_eq!(RtpHeader::parse(&vec![0x80; 65_536]), Err(RtpError::TooLong));
}

#[test]
fn element_past_the_block_ends_the_iteration() {
    let mut packet = ONE_BYTE.to_vec();
    packet[20] = 0x1f; // 16 bytes where 7 are left
    let header = RtpHeader::parse(&packet).unwrap();
    assert_eq!(header.elements(&packet).count(), 0);
}

#[test]
fn id_fifteen_ends_a_one_byte_block() {
    let mut packet = ONE_BYTE.to_vec();
    packet[24] = 0xf0;
    let header = RtpHeader::parse(&packet).unwrap();
    assert_eq!(header.elements(&packet).map(|element| element.id).collect::<Vec<_>>(), [1]);
}

#[test]
fn orientation_and_send_time_are_read() {
    let mut packet = ONE_BYTE.to_vec();
    packet[20..28].copy_from_slice(&[0x10, 0b1101, 0x22, 1, 2, 3, 0, 0]);
    let header = RtpHeader::parse(&packet).unwrap();
    let ids = ExtensionIds { video_orientation: 1, abs_send_time: 2, ..ExtensionIds::default() };
    let orientation = ids.read_video_orientation(&header, &packet).unwrap();
    assert_eq!(orientation, VideoOrientation { back_camera: true, flip: true, rotation_degrees: 90 });
    assert_eq!(ids.read_abs_send_time(&header, &packet), Some(0x01_0203));
    assert_eq!(abs_send_time_from_epoch(Duration::from_millis(64_500)), 1 << 17);
}

#[test]
fn datagrams_are_sorted_by_their_first_bytes() {
    let of = |bytes: &[u8]| DatagramKind::of(bytes);
    assert_eq!(of(&[0, 1]), DatagramKind::Stun);
    assert_eq!(of(&[22, 254]), DatagramKind::Dtls);
    assert_eq!(of(&[0x80, 0x60]), DatagramKind::Rtp);
    assert_eq!(of(&[0x80, 0xe0]), DatagramKind::Rtp, "marker with payload type 96");
    assert_eq!(of(&[0x80, 200]), DatagramKind::Rtcp);
    assert_eq!(of(&[0x8f, 206]), DatagramKind::Rtcp);
    assert_eq!(of(&[64]), DatagramKind::TurnChannel);
    assert_eq!(of(&[16]), DatagramKind::Zrtp);
    assert_eq!(of(&[255]), DatagramKind::Unknown);
    assert_eq!(of(&[]), DatagramKind::Unknown);
}

#[test]
fn uris_name_their_kinds() {
    for kind in ExtensionKind::ALL {
        assert_eq!(ExtensionKind::from_uri(kind.uri()), Some(kind));
        let mut ids = ExtensionIds::default();
        ids.set(kind, 9);
        assert_eq!(ids.id(kind), 9);
        assert_eq!(ExtensionKind::ALL.into_iter().filter(|&other| ids.id(other) != 0).count(), 1);
    }
    assert_eq!(ExtensionKind::from_uri("urn:nothing"), None);
}

fn egress<'a>(ids: &'a ExtensionIds, forwarded: &'a [(ExtensionKind, &'a [u8])]) -> EgressHeader<'a> {
    EgressHeader {
        padding: false,
        marker: true,
        payload_type: 101,
        sequence: SeqNo(0xfffe),
        timestamp: 0x0a0b_0c0d,
        ssrc: Ssrc(0x0102_0304),
        csrcs: &[],
        ids,
        mid: "0",
        forwarded,
    }
}

#[test]
fn header_for_a_consumer_has_its_bytes() {
    let received_ids = ExtensionIds { mid: 1, ssrc_audio_level: 3, ..ExtensionIds::default() };
    let received = RtpHeader::parse(ONE_BYTE).unwrap();
    let forwarded = received_ids.forwarded(&received, ONE_BYTE);
    assert_eq!(forwarded.as_slice(), &[(ExtensionKind::SsrcAudioLevel, &[0xa8][..])]);
    let ids = ExtensionIds {
        mid: 1,
        abs_send_time: 4,
        transport_wide_cc: 5,
        ssrc_audio_level: 10,
        ..ExtensionIds::default()
    };
    let mut out = [0xff; 64];
    let written = write_header(&mut out, &egress(&ids, &forwarded)).unwrap();
    written.stamp_abs_send_time(&mut out, 0x11_2233);
    written.stamp_transport_wide_cc(&mut out, 0x4455);
    let expected = [
        0x90, 0xe5, 0xff, 0xfe, 0x0a, 0x0b, 0x0c, 0x0d, 0x01, 0x02, 0x03, 0x04, //
        0xbe, 0xde, 0x00, 0x03, 0x10, b'0', 0x42, 0x11, 0x22, 0x33, 0x51, 0x44, 0x55, 0xa0, 0xa8, 0x00,
    ];
    assert_eq!(&out[..written.len], &expected);
}

#[test]
fn header_without_elements_has_no_extension_block() {
    let ids = ExtensionIds::default();
    let mut out = [0; 12];
    let written = write_header(&mut out, &egress(&ids, &[])).unwrap();
    assert_eq!(written, WrittenHeader { len: 12, abs_send_time: None, transport_wide_cc: None });
    assert_eq!(out[0], 0x80);
    assert_eq!(write_header(&mut out[..11], &egress(&ids, &[])), Err(RtpError::BufferTooSmall));
}

#[test]
fn large_ids_and_long_values_take_the_two_byte_form() {
    let ids = ExtensionIds { mid: 15, dependency_descriptor: 2, ..ExtensionIds::default() };
    let value = [7; 17];
    let mut out = [0; 64];
    let written =
        write_header(&mut out, &egress(&ids, &[(ExtensionKind::DependencyDescriptor, &value)])).unwrap();
    let header = RtpHeader::parse(&out[..written.len]).unwrap();
    assert_eq!(header.extension.unwrap().form, ExtensionForm::TwoByte);
    assert_eq!(ids.read_mid(&header, &out), Some("0"));
    assert_eq!(header.extension(&out, 2), Some(&value[..]));
}

#[test]
fn repair_packet_becomes_the_media_packet_again() {
    let mut packet = ONE_BYTE[..28].to_vec();
    packet.extend_from_slice(&rtx::osn(SeqNo(0x7788)));
    packet.extend_from_slice(&[1, 2, 3]);
    let header = RtpHeader::parse(&packet).unwrap();
    let media = rtx::restore(&mut packet, &header, Ssrc(5), 96).unwrap();
    let restored = RtpHeader::parse(media).unwrap();
    assert_eq!(restored.sequence, SeqNo(0x7788));
    assert_eq!(restored.ssrc, Ssrc(5));
    assert_eq!(restored.payload_type, 96);
    assert_eq!(restored.marker, header.marker);
    assert_eq!(restored.timestamp, header.timestamp);
    assert_eq!(restored.payload(media), &[1, 2, 3]);
    assert_eq!(restored.extension(media, 1), Some(&b"ab"[..]));
}

#[test]
fn repair_probe_of_padding_is_told_apart() {
    let mut packet = vec![0xa0, 0x61, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 3];
    let header = RtpHeader::parse(&packet).unwrap();
    assert_eq!(rtx::restore(&mut packet, &header, Ssrc(5), 96), Err(RtpError::RtxEmpty));
}

/// Bytes that look enough like RTP to get past the first checks.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let any_bytes = prop::collection::vec(any::<u8>(), 0..200);
    (any_bytes, any::<bool>(), 0_u8..64, any::<bool>()).prop_map(|(mut bytes, rtp, first, one_byte)| {
        if rtp && bytes.len() > 16 {
            bytes[0] = 0x80 | first;
            let at = 12 + usize::from(first & 0x0f) * 4;
            if bytes.len() > at + 4 {
                let profile: [u8; 2] = if one_byte { [0xbe, 0xde] } else { [0x10, 0x00] };
                bytes[at..at + 2].copy_from_slice(&profile);
                bytes[at + 2] = 0;
                bytes[at + 3] %= 32;
            }
        }
        bytes
    })
}

proptest! {
    #[test]
    fn no_bytes_panic(mut bytes in hostile(), id: u8) {
        let _ = DatagramKind::of(&bytes);
        if let Ok(header) = RtpHeader::parse_ignoring_padding(&bytes) {
            prop_assert_eq!(usize::from(header.header_len) + usize::from(header.payload_len), bytes.len());
        }
        if let Ok(header) = RtpHeader::parse(&bytes) {
            let _ = header.extension(&bytes, id);
            let ids = ExtensionIds {
                mid: 1, rid: 2, rrid: 3, abs_send_time: 4, transport_wide_cc: 5, ssrc_audio_level: 6,
                dependency_descriptor: 7, video_orientation: 8, time_offset: 9, abs_capture_time: 10,
                playout_delay: 11, mediasoup_packet_id: 12,
            };
            let _ = ids.read_mid(&header, &bytes);
            let _ = ids.read_rid(&header, &bytes);
            let _ = ids.read_rrid(&header, &bytes);
            let _ = ids.read_audio_level(&header, &bytes);
            let _ = ids.read_transport_wide_cc(&header, &bytes);
            let _ = ids.read_abs_send_time(&header, &bytes);
            let _ = ids.read_video_orientation(&header, &bytes);
            let _ = ids.forwarded(&header, &bytes);
            // Another packet's header is no licence to read past the end.
            let _ = header.payload(&bytes[..bytes.len() / 2]);
            let _ = header.elements(&bytes[..bytes.len() / 2]).count();
            let _ = rtx::restore(&mut bytes, &header, Ssrc(1), 2);
        }
    }

    #[test]
    fn what_is_written_is_read_back(
        marker: bool, payload_type in 0_u8..128, sequence: u16, timestamp: u32, ssrc: u32,
        csrcs in prop::collection::vec(any::<[u8; 4]>(), 0..16),
        mid in "[a-z0-9]{0,20}",
        mid_id in 0_u8..2,
        send_time_id in prop_oneof![Just(0), Just(2_u8)],
        level_id in 4_u8..17,
        descriptor_id in 17_u8..255,
        level: u8,
        descriptor in prop::collection::vec(any::<u8>(), 0..255),
        with_descriptor: bool,
    ) {
        let ids = ExtensionIds {
            mid: mid_id,
            abs_send_time: send_time_id,
            transport_wide_cc: 3,
            ssrc_audio_level: level_id,
            dependency_descriptor: if with_descriptor { descriptor_id } else { 0 },
            ..ExtensionIds::default()
        };
        let level = [level];
        let forwarded = [
            (ExtensionKind::SsrcAudioLevel, &level[..]),
            (ExtensionKind::DependencyDescriptor, &descriptor[..]),
        ];
        let csrcs = csrcs.concat();
        let egress = EgressHeader {
            padding: false,
            marker,
            payload_type,
            sequence: SeqNo(sequence),
            timestamp,
            ssrc: Ssrc(ssrc),
            csrcs: &csrcs,
            ids: &ids,
            mid: &mid,
            forwarded: &forwarded,
        };
        let mut out = [0xaa; 512];
        let written = write_header(&mut out, &egress).unwrap();
        written.stamp_transport_wide_cc(&mut out, 0x1234);
        written.stamp_abs_send_time(&mut out, 0x56_789a);
        let packet = &out[..written.len];
        let header = RtpHeader::parse(packet).unwrap();
        prop_assert_eq!(usize::from(header.header_len), written.len);
        prop_assert_eq!((header.marker, header.payload_type), (marker, payload_type));
        prop_assert_eq!(header.sequence, SeqNo(sequence));
        prop_assert_eq!((header.timestamp, header.ssrc), (timestamp, Ssrc(ssrc)));
        prop_assert_eq!(header.csrcs(packet), &csrcs[..]);
        let expected_mid = Some(&mid[..]).filter(|mid| mid_id != 0 && !mid.is_empty());
        prop_assert_eq!(ids.read_mid(&header, packet), expected_mid);
        prop_assert_eq!(ids.read_transport_wide_cc(&header, packet), Some(0x1234));
        prop_assert_eq!(ids.read_abs_send_time(&header, packet), (send_time_id != 0).then_some(0x56_789a));
        prop_assert_eq!(header.extension(packet, ids.ssrc_audio_level), Some(&level[..]));
        let expected_descriptor = with_descriptor.then_some(&descriptor[..]);
        prop_assert_eq!(header.extension(packet, ids.dependency_descriptor), expected_descriptor);
    }
}
