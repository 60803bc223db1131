#![expect(clippy::arithmetic_side_effects, reason = "an overflow fails the test, as it should")]

use super::*;
use crate::rtp::{Bitrate, SeqNo};
use proptest::prelude::*;
use std::time::Duration;

fn only(bytes: &[u8]) -> Packet<'_> {
    let mut packets = parse(bytes);
    let packet = packets.next().unwrap().unwrap();
    assert!(packets.next().is_none());
    packet
}

/// A sender report of source 1 with one block about source 2, and a description after it.
const COMPOUND: &[u8] = &[
    0x81, 200, 0, 12, 0, 0, 0, 1, // SR, 1 block, SSRC 1
    0xe0, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 5, 0, 0, 2, 0, // NTP, RTP, packets, octets
    0, 0, 0, 2, 0x40, 0xff, 0xff, 0xfe, 0, 1, 0, 7, 0, 0, 0, 9, 0x11, 0x22, 0x33, 0x44, 0, 1, 0,
    0, // block
    0x81, 202, 0, 3, 0, 0, 0, 1, 1, 3, b'a', b'b', b'c', 0, 0, 0, // SDES, CNAME
];

#[test]
fn compound_of_report_and_description_is_read() {
    let mut packets = parse(COMPOUND);
    let Packet::SenderReport(report) = packets.next().unwrap().unwrap() else { panic!("no sender report") };
    assert_eq!(report.info.ssrc, Ssrc(1));
    assert_eq!(report.info.ntp, NtpTime(0xe000_0000_8000_0000));
    assert_eq!(report.info.ntp.compact(), 0x0000_8000);
    assert_eq!(
        (report.info.rtp_timestamp, report.info.packet_count, report.info.octet_count),
        (0x1000, 5, 512)
    );
    let blocks: Vec<_> = report.blocks.collect();
    let expected = ReportBlock {
        ssrc: Ssrc(2),
        fraction_lost: 64,
        cumulative_lost: -2,
        highest_sequence: 65_543,
        jitter: 9,
        last_sr: 0x1122_3344,
        delay_since_last_sr: 65_536,
    };
    assert_eq!(blocks, [expected]);
    let Packet::Sdes(sdes) = packets.next().unwrap().unwrap() else { panic!("no description") };
    let chunk = sdes.chunks().next().unwrap();
    assert_eq!((chunk.ssrc, chunk.cname()), (Ssrc(1), Some("abc")));
    assert!(packets.next().is_none());
}

#[test]
fn written_compound_has_the_same_bytes() {
    let mut packets = parse(COMPOUND);
    let Some(Ok(Packet::SenderReport(report))) = packets.next() else { panic!("no sender report") };
    let blocks: Vec<_> = report.blocks.collect();
    let mut out = Vec::new();
    write_sender_report(&mut out, &report.info, &blocks);
    write_sdes_cname(&mut out, Ssrc(1), "abc");
    assert_eq!(out, COMPOUND);
}

#[test]
fn trailing_bytes_that_are_no_packet_end_quietly() {
    let bytes = [COMPOUND, &[0, 1, 2, 3, 4]].concat();
    assert_eq!(parse(&bytes).filter(Result::is_ok).count(), 2);
    assert_eq!(parse(&bytes).filter(Result::is_err).count(), 0);
}

#[test]
fn wrong_packets_are_errors_by_name() {
    let first = |bytes: &[u8]| parse(bytes).next().unwrap().map(|_| ());
    assert_eq!(first(&[]), Err(RtcpError::NotRtcp));
    assert_eq!(first(&[0x80, 96, 0, 0]), Err(RtcpError::NotRtcp));
    assert_eq!(first(&[0x80, 201, 0, 2, 0, 0, 0, 1]), Err(RtcpError::Truncated));
    assert_eq!(first(&[0x81, 201, 0, 1, 0, 0, 0, 1]), Err(RtcpError::Malformed { packet_type: 201 }));
    assert_eq!(first(&[0xa0, 201, 0, 1, 0, 0, 0, 8]), Err(RtcpError::Padding));
    assert_eq!(first(&[0xa0, 201, 0, 2, 0, 0, 0, 1, 0, 0, 0, 4]), Ok(()));
    let mut packets = parse(&[0x81, 201, 0, 1, 0, 0, 0, 1, 0x80, 201, 0, 1, 0, 0, 0, 1]);
    assert!(packets.next().unwrap().is_err());
    assert!(packets.next().is_none(), "nothing after an error");
}

#[test]
fn nack_names_every_missing_packet() {
    let bytes = [0x81, 205, 0, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0xff, 0xff, 0x80, 0x01];
    let Packet::Nack(nack) = only(&bytes) else { panic!("no NACK") };
    assert_eq!((nack.sender_ssrc, nack.media_ssrc), (Ssrc(1), Ssrc(2)));
    assert_eq!(nack.sequences().collect::<Vec<_>>(), [SeqNo(0xffff), SeqNo(0), SeqNo(15)]);
    let mut out = Vec::new();
    write_nack(&mut out, Ssrc(1), Ssrc(2), [SeqNo(0xffff), SeqNo(0), SeqNo(15)]);
    assert_eq!(out, bytes);
    write_nack(&mut out, Ssrc(1), Ssrc(2), []);
    assert_eq!(out, bytes, "nothing is written for nothing");
}

#[test]
fn key_frame_requests_have_their_bytes() {
    let mut out = Vec::new();
    write_pli(&mut out, Ssrc(1), Ssrc(2));
    assert_eq!(out, [0x81, 206, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2]);
    let Packet::Pli(pli) = only(&out) else { panic!("no PLI") };
    assert_eq!(pli, Pli { sender_ssrc: Ssrc(1), media_ssrc: Ssrc(2) });
    out.clear();
    let entry = FirEntry { ssrc: Ssrc(2), command: 7 };
    write_fir(&mut out, Ssrc(1), &[entry]);
    assert_eq!(out, [0x84, 206, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 7, 0, 0, 0]);
    let Packet::Fir(fir) = only(&out) else { panic!("no FIR") };
    assert_eq!(fir.entries().collect::<Vec<_>>(), [entry]);
}

#[test]
fn remb_has_its_bytes() {
    // 1,000,000 = 250,000 * 2^2.
    let bytes =
        [0x8f, 206, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0, b'R', b'E', b'M', b'B', 1, 0x0b, 0xd0, 0x90, 0, 0, 0, 2];
    let Packet::Remb(remb) = only(&bytes) else { panic!("no REMB") };
    assert_eq!(remb.bitrate, Bitrate(1_000_000));
    assert_eq!(remb.ssrcs().collect::<Vec<_>>(), [Ssrc(2)]);
    let mut out = Vec::new();
    write_remb(&mut out, Ssrc(1), Bitrate(1_000_000), &[Ssrc(2)]);
    assert_eq!(out, bytes);
    let mut absurd = bytes;
    absurd[17] = 0xff;
    let Packet::Remb(remb) = only(&absurd) else { panic!("no REMB") };
    assert_eq!(remb.bitrate, Bitrate(u64::MAX));
}

#[test]
fn goodbye_and_extended_reports_are_read_back() {
    let mut out = Vec::new();
    write_bye(&mut out, &[Ssrc(1), Ssrc(2)]);
    assert_eq!(out, [0x82, 203, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2]);
    let Packet::Bye(bye) = only(&out) else { panic!("no goodbye") };
    assert_eq!(bye.ssrcs().collect::<Vec<_>>(), [Ssrc(1), Ssrc(2)]);
    assert_eq!(bye.reason, None);
    out.clear();
    write_xr_rrtr(&mut out, Ssrc(1), NtpTime(0x0102_0304_0506_0708));
    assert_eq!(out, [0x80, 207, 0, 4, 0, 0, 0, 1, 4, 0, 0, 2, 1, 2, 3, 4, 5, 6, 7, 8]);
    let Packet::Xr(xr) = only(&out) else { panic!("no extended report") };
    assert!(matches!(
        xr.blocks().next(),
        Some(XrBlock::ReceiverReferenceTime(NtpTime(0x0102_0304_0506_0708)))
    ));
    out.clear();
    let report = DlrrReport { ssrc: Ssrc(9), last_rr: 3, delay_since_last_rr: 4 };
    write_xr_dlrr(&mut out, Ssrc(1), &[report]);
    let Packet::Xr(xr) = only(&out) else { panic!("no extended report") };
    let Some(XrBlock::DelaySinceLastRr(mut reports)) = xr.blocks().next() else { panic!("no DLRR") };
    assert_eq!(reports.next(), Some(report));
    assert_eq!(reports.next(), None);
}

#[test]
fn transport_feedback_is_read() {
    // Base 5, 7 packets, reference time -1, count 3; a run of 2 small; a two-bit vector: none, large,
    // none, small, none.
    let bytes = [
        0x8f, 205, 0, 6, 0, 0, 0, 1, 0, 0, 0, 2, 0, 5, 0, 7, 0xff, 0xff, 0xff, 3, //
        0x20, 0x02, 0xc8, 0x40, 4, 8, 0xff, 0xfe, // two chunks, the first deltas
    ];
    let bytes = [&bytes[..], &[12, 0, 0, 0]].concat();
    let mut bytes = bytes;
    bytes[3] = 7;
    let Packet::TransportFeedback(feedback) = only(&bytes) else { panic!("no feedback") };
    assert_eq!(feedback.header.base_sequence, SeqNo(5));
    assert_eq!((feedback.header.reference_time, feedback.header.feedback_count), (-1, 3));
    let arrivals: Vec<_> = feedback.packets().map(|status| (status.sequence.0, status.arrival_us)).collect();
    let expected = [
        (5, Some(-63_000)),
        (6, Some(-61_000)),
        (7, None),
        (8, Some(-61_500)),
        (9, None),
        (10, Some(-58_500)),
        (11, None),
    ];
    assert_eq!(arrivals, expected);
}

#[test]
fn transport_feedback_that_fills_a_word_as_libwebrtc_does_is_read() {
    // One packet, one delta of a byte, and a byte of padding that counts itself.
    let bytes = [0xaf, 205, 0, 5, 0, 0, 0, 1, 0, 0, 0, 2, 0, 5, 0, 1, 0, 0, 0, 3, 0x20, 0x01, 4, 1];
    let Packet::TransportFeedback(feedback) = only(&bytes) else { panic!("no feedback") };
    let arrivals: Vec<_> = feedback.packets().map(|status| (status.sequence.0, status.arrival_us)).collect();
    assert_eq!(arrivals, [(5, Some(1_000))]);
}

#[test]
fn transport_feedback_that_promises_too_much_is_refused() {
    let bytes = [0x8f, 205, 0, 5, 0, 0, 0, 1, 0, 0, 0, 2, 0, 5, 0, 200, 0, 0, 0, 3, 0x20, 200, 1, 1];
    assert_eq!(parse(&bytes).next().unwrap().map(|_| ()), Err(RtcpError::Malformed { packet_type: 205 }));
}

#[test]
fn transport_feedback_takes_the_shortest_chunks() {
    let header = TransportFeedbackHeader { base_sequence: SeqNo(9), ..TransportFeedbackHeader::default() };
    let chunk_bytes = |deltas: &[Option<i16>]| {
        let mut out = Vec::new();
        write_transport_feedback(&mut out, &header, deltas);
        out[20..22].to_vec()
    };
    assert_eq!(chunk_bytes(&[Some(1); 20]), [0x20, 20]);
    assert_eq!(chunk_bytes(&[None; 300]), [0x01, 0x2c]);
    assert_eq!(chunk_bytes(&[Some(1), None, Some(1)]), [0xa8, 0x00]);
    assert_eq!(chunk_bytes(&[Some(1), None, Some(-1)]), [0xd2, 0x00]);
}

#[test]
fn ntp_time_is_unix_time_moved() {
    let time = NtpTime::from_unix(Duration::new(1, 500_000_000));
    assert_eq!(time.0, (2_208_988_801 << 32) | 0x8000_0000);
    assert_eq!(time.to_unix(), Duration::new(1, 500_000_000));
    let after_the_wrap = Duration::from_secs(3_000_000_000);
    assert_eq!(NtpTime::from_unix(after_the_wrap).to_unix(), after_the_wrap);
    assert_eq!(compact_delay(Duration::from_millis(1500)), 98_304);
}

#[test]
fn round_trip_is_what_is_left_after_the_peers_delay() {
    let sent = NtpTime::from_unix(Duration::from_secs(1_000));
    let arrival = NtpTime::from_unix(Duration::from_millis(1_000_350));
    let delay = compact_delay(Duration::from_millis(250));
    let measured = round_trip(arrival, sent.compact(), delay).unwrap();
    assert!(measured.abs_diff(Duration::from_millis(100)) < Duration::from_micros(40), "{measured:?}");
    assert_eq!(round_trip(arrival, 0, 0), None);
    assert_eq!(round_trip(sent, arrival.compact(), 0), None);
}

/// Reads everything that there is in a datagram.
fn exhaust(bytes: &[u8]) -> usize {
    parse(bytes)
        .map(|packet| match packet {
            Err(_) => 0,
            Ok(Packet::SenderReport(report)) => report.blocks.count(),
            Ok(Packet::ReceiverReport(report)) => report.blocks.count(),
            Ok(Packet::Sdes(sdes)) => {
                sdes.chunks().map(|chunk| chunk.items().count() + chunk.cname().map_or(0, str::len)).sum()
            }
            Ok(Packet::Bye(bye)) => bye.ssrcs().count(),
            Ok(Packet::Nack(nack)) => nack.sequences().count(),
            Ok(Packet::Pli(_)) => 1,
            Ok(Packet::Fir(fir)) => fir.entries().count(),
            Ok(Packet::Remb(remb)) => remb.ssrcs().count(),
            Ok(Packet::TransportFeedback(feedback)) => {
                assert_eq!(feedback.packets().count(), usize::from(feedback.status_count));
                usize::from(feedback.status_count)
            }
            Ok(Packet::Xr(xr)) => xr
                .blocks()
                .map(|block| match block {
                    XrBlock::DelaySinceLastRr(reports) => reports.count(),
                    XrBlock::ReceiverReferenceTime(_) | XrBlock::Other { .. } => 1,
                })
                .sum(),
            Ok(Packet::Unknown { body, .. }) => body.len(),
        })
        .sum()
}

fn any_delta() -> impl Strategy<Value = Option<i16>> {
    prop_oneof![Just(None), (0_i16..256).prop_map(Some), any::<i16>().prop_map(Some)]
}

prop_compose! {
    fn any_block()(
        (ssrc, fraction_lost) in any::<(u32, u8)>(),
        cumulative_lost in -0x80_0000..0x80_0000,
        (highest_sequence, jitter, last_sr, delay_since_last_sr) in any::<(u32, u32, u32, u32)>(),
    ) -> ReportBlock {
        ReportBlock {
            ssrc: Ssrc(ssrc),
            fraction_lost,
            cumulative_lost,
            highest_sequence,
            jitter,
            last_sr,
            delay_since_last_sr,
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        exhaust(&bytes);
    }

    #[test]
    fn no_packet_body_panics(
        first in 0x80_u8..0xc0,
        packet_type in 200_u8..208,
        body in prop::collection::vec(any::<u8>(), 0..160),
    ) {
        let words = body.len() / 4;
        let mut bytes = vec![first, packet_type, 0, words as u8];
        bytes.extend_from_slice(&body);
        exhaust(&bytes);
        // Formats that are read, each with the same body.
        for (count, packet_type) in [(1, 205), (15, 205), (1, 206), (4, 206), (15, 206)] {
            bytes[0] = 0x80 | count;
            bytes[1] = packet_type;
            exhaust(&bytes);
            if bytes.len() > 16 && packet_type == 206 {
                bytes[12..16].copy_from_slice(b"REMB");
                exhaust(&bytes);
            }
        }
    }

    #[test]
    fn reports_read_back(
        (ssrc, ntp, rtp_timestamp) in any::<(u32, u64, u32)>(),
        (packet_count, octet_count) in any::<(u32, u32)>(),
        blocks in prop::collection::vec(any_block(), 0..70),
    ) {
        let (ssrc, ntp) = (Ssrc(ssrc), NtpTime(ntp));
        let info = SenderInfo { ssrc, ntp, rtp_timestamp, packet_count, octet_count };
        let mut out = Vec::new();
        write_sender_report(&mut out, &info, &blocks);
        let Packet::SenderReport(report) = only(&out) else { panic!("no sender report") };
        prop_assert_eq!(report.info, info);
        prop_assert_eq!(report.blocks.collect::<Vec<_>>(), &blocks[..blocks.len().min(MAX_REPORT_BLOCKS)]);
        out.clear();
        write_receiver_report(&mut out, ssrc, &blocks);
        let mut read = Vec::new();
        for packet in parse(&out) {
            let Ok(Packet::ReceiverReport(report)) = packet else { panic!("no receiver report") };
            prop_assert_eq!(report.ssrc, ssrc);
            read.extend(report.blocks);
        }
        prop_assert_eq!(read, blocks);
    }

    #[test]
    fn nack_reads_back(start: u16, steps in prop::collection::vec(1_u16..40, 1..60)) {
        let mut sequence = SeqNo(start);
        let mut wanted = Vec::new();
        for step in steps {
            sequence = sequence.plus(step);
            wanted.push(sequence);
        }
        let mut out = Vec::new();
        write_nack(&mut out, Ssrc(1), Ssrc(2), wanted.iter().copied());
        let Packet::Nack(nack) = only(&out) else { panic!("no NACK") };
        prop_assert_eq!(nack.sequences().collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn remb_reads_back_within_its_precision(
        bitrate: u64,
        sources in prop::collection::vec(any::<u32>(), 0..10),
    ) {
        let sources: Vec<_> = sources.into_iter().map(Ssrc).collect();
        let mut out = Vec::new();
        write_remb(&mut out, Ssrc(1), Bitrate(bitrate), &sources);
        let Packet::Remb(remb) = only(&out) else { panic!("no REMB") };
        prop_assert!(remb.bitrate.0 <= bitrate && bitrate - remb.bitrate.0 <= bitrate >> 17);
        prop_assert_eq!(remb.ssrcs().collect::<Vec<_>>(), sources);
    }

    #[test]
    fn description_reads_back(ssrc: u32, cname in "[ -~]{0,255}") {
        let mut out = Vec::new();
        write_sdes_cname(&mut out, Ssrc(ssrc), &cname);
        let Packet::Sdes(sdes) = only(&out) else { panic!("no description") };
        let chunk = sdes.chunks().next().unwrap();
        prop_assert_eq!((chunk.ssrc, chunk.cname()), (Ssrc(ssrc), Some(&cname[..])));
    }

    #[test]
    fn transport_feedback_reads_back(
        base: u16,
        reference_time in -0x80_0000..0x80_0000,
        feedback_count: u8,
        runs in prop::collection::vec((any_delta(), 1_usize..30), 1..40),
    ) {
        let deltas: Vec<_> =
            runs.into_iter().flat_map(|(delta, count)| std::iter::repeat_n(delta, count)).collect();
        let header = TransportFeedbackHeader {
            sender_ssrc: Ssrc(1),
            media_ssrc: Ssrc(2),
            base_sequence: SeqNo(base),
            reference_time,
            feedback_count,
        };
        let mut out = Vec::new();
        write_transport_feedback(&mut out, &header, &deltas);
        let Packet::TransportFeedback(feedback) = only(&out) else { panic!("no feedback") };
        prop_assert_eq!(feedback.header, header);
        let mut arrival_us = i64::from(reference_time) * 64_000;
        let mut sequence = SeqNo(base);
        let mut count = 0;
        for (status, delta) in feedback.packets().zip(&deltas) {
            let expected = delta.map(|ticks| { arrival_us += i64::from(ticks) * TICK_US; arrival_us });
            prop_assert_eq!(status, PacketStatus { sequence, arrival_us: expected });
            sequence = sequence.next();
            count += 1;
        }
        prop_assert_eq!(count, deltas.len());
    }

    #[test]
    fn ntp_time_reads_back(seconds in 0_u64..4_000_000_000, nanos in 0_u32..1_000_000_000) {
        let time = Duration::new(seconds, nanos);
        prop_assert_eq!(NtpTime::from_unix(time).to_unix(), time);
    }
}
