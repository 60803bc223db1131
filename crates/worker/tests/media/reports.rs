//! Extended reports (RFC 3611): by them who only receives, and who only sends, learns the round trip.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rtc::rtcp::{self, DlrrReport, NtpTime, Packet, XrBlock};
use rtc::rtp::Ssrc;
use worker_protocol::wire::request::Method;
use worker_protocol::wire::rtp_parameters::MediaKind;
use worker_protocol::wire::{response, rtp_stream};

use crate::forwarding::{Call, SINK, SOURCE};
use crate::harness::*;

/// A call in which one packet was forwarded.
fn call() -> Call {
    let mut call = Call::new();
    let source = parameters(vec![vp8(96)], vec![encoding(SOURCE, None)]);
    call.harness.produce("in", "producer", MediaKind::Video, source);
    let sink = parameters(vec![vp8(97)], vec![encoding(SINK, None)]);
    call.harness.consume("out", "consumer", "producer", MediaKind::Video, sink, 1);
    call.publish(&vp8_packet(SOURCE, 96, 1, 1000, 1, true));
    call.next_rtp();
    call
}

/// The first block that `wanted` takes of the extended reports that come here.
fn next_block<T>(
    call: &mut Call,
    socket: &std::net::UdpSocket,
    wanted: impl Fn(Ssrc, XrBlock<'_>) -> Option<T>,
) -> T {
    let socket = socket.try_clone().unwrap();
    call.harness.wait("an extended report", |_| {
        let datagram = receive(&socket)?;
        rtcp::parse(&datagram).find_map(|packet| match packet {
            Ok(Packet::Xr(xr)) => xr.blocks().find_map(|block| wanted(xr.ssrc, block)),
            _ => None,
        })
    })
}

#[test]
fn a_receiver_s_reference_time_is_answered_with_the_time_that_has_passed() {
    let mut call = call();
    let reference = NtpTime(0x1122_3344_5566_7788);
    let mut report = Vec::new();
    rtcp::write_receiver_report(&mut report, Ssrc(9), &[]);
    rtcp::write_xr_rrtr(&mut report, Ssrc(9), reference);
    let asked = std::time::Instant::now();
    call.answer(&report);
    let subscriber = call.subscriber.try_clone().unwrap();
    let answer = next_block(&mut call, &subscriber, |from, block| match block {
        XrBlock::DelaySinceLastRr(mut reports) => reports.next().map(|report| (from, report)),
        _ => None,
    });
    let waited = rtcp::compact_delay(asked.elapsed());
    let (from, DlrrReport { last_rr, delay_since_last_rr, .. }) = answer;
    assert_eq!((from, last_rr), (Ssrc(SINK), reference.compact()));
    assert!(delay_since_last_rr <= waited, "{delay_since_last_rr} of {waited}");
}

#[test]
fn a_publisher_s_answer_to_our_reference_time_is_its_round_trip() {
    /// So long ago the publisher pretends to have been asked.
    const AWAY: Duration = Duration::from_millis(300);
    let mut call = call();
    let publisher = call.publisher.try_clone().unwrap();
    let (from, reference) = next_block(&mut call, &publisher, |from, block| match block {
        XrBlock::ReceiverReferenceTime(time) => Some((from, time)),
        _ => None,
    });
    let wall = NtpTime::from_unix(SystemTime::now().duration_since(UNIX_EPOCH).unwrap());
    let skew = wall.compact().wrapping_sub(reference.compact()).cast_signed().unsigned_abs();
    assert!(skew < 20 << 16, "our reference time is the wall clock's, {skew}");
    let earlier = reference.compact().wrapping_sub(rtcp::compact_delay(AWAY));
    let mut report = Vec::new();
    rtcp::write_receiver_report(&mut report, Ssrc(SOURCE), &[]);
    let answer = DlrrReport { ssrc: from, last_rr: earlier, delay_since_last_rr: 0 };
    let stranger = DlrrReport { ssrc: Ssrc(77), last_rr: 1, delay_since_last_rr: 0 };
    rtcp::write_xr_dlrr(&mut report, Ssrc(SOURCE), &[stranger, answer]);
    call.publish(&report);
    let round_trip_ms = call.harness.wait("a round trip", |harness| {
        let Some(response::Body::ProducerGetStatsResponse(stats)) =
            harness.request(Method::ProducerGetStats, "producer", None)
        else {
            panic!("no statistics")
        };
        let rtp_stream::StatsData::RecvStats(received) = &stats.stats[0].data else { panic!("not received") };
        let rtp_stream::StatsData::BaseStats(base) = &received.base.data else { panic!("no base") };
        (base.round_trip_time > 0.0).then_some(base.round_trip_time)
    });
    assert!(round_trip_ms >= 300.0, "{round_trip_ms} ms");
}
