//! Trace events: of every kind that a driver may ask for, what happened is told, once, with the way it went and what it was
//! about; of what was not asked for, nothing.

use rtc::rtcp::{self, FirEntry, NtpTime, SenderInfo};
use rtc::rtp::{RtpHeader, SeqNo, Ssrc};
use worker_protocol::wire::common::TraceDirection;
use worker_protocol::wire::request::{self, Method};
use worker_protocol::wire::rtp_parameters::{self as rtp, MediaKind};
use worker_protocol::wire::{consumer, notification, producer};

use crate::forwarding::{Call, SINK, SOURCE};
use crate::harness::*;

/// A stream whose publisher understands one way of being asked for a key frame only.
fn asked_by(kind: &str, parameter: &str) -> rtp::RtpParameters {
    let feedback = vec![feedback("nack", ""), feedback(kind, parameter)];
    let codec = rtp::RtpCodecParameters { rtcp_feedback: Some(feedback), ..vp8(96) };
    parameters(vec![codec], vec![encoding(SOURCE, None)])
}

fn call(source: rtp::RtpParameters) -> Call {
    let mut call = Call::new();
    call.harness.produce("in", "producer", MediaKind::Video, source);
    let sink = parameters(vec![vp8(97)], vec![encoding(SINK, None)]);
    call.harness.consume("out", "consumer", "producer", MediaKind::Video, sink, 1);
    call
}

fn trace_producer(call: &mut Call, events: &[producer::TraceEventType]) {
    let body = producer::EnableTraceEventRequest { events: events.to_vec() };
    let body = request::Body::ProducerEnableTraceEventRequest(Box::new(body));
    call.harness.request(Method::ProducerEnableTraceEvent, "producer", Some(body));
}

fn trace_consumer(call: &mut Call, events: &[consumer::TraceEventType]) {
    let body = consumer::EnableTraceEventRequest { events: events.to_vec() };
    let body = request::Body::ConsumerEnableTraceEventRequest(Box::new(body));
    call.harness.request(Method::ConsumerEnableTraceEvent, "consumer", Some(body));
}

/// Waits for so many traces of the Producer, and takes all that there are.
fn of_producer(call: &mut Call, count: usize) -> Vec<producer::TraceNotification> {
    of(call, count, |body| match body {
        notification::Body::ProducerTraceNotification(trace) => Some((**trace).clone()),
        _ => None,
    })
}

fn of_consumer(call: &mut Call, count: usize) -> Vec<consumer::TraceNotification> {
    of(call, count, |body| match body {
        notification::Body::ConsumerTraceNotification(trace) => Some((**trace).clone()),
        _ => None,
    })
}

fn of<T>(call: &mut Call, count: usize, one: impl Fn(&notification::Body) -> Option<T>) -> Vec<T> {
    let traces = call.harness.wait("traces", |harness| {
        let bodies = harness.notifications.iter().filter_map(|notification| notification.body.as_ref());
        let traces: Vec<T> = bodies.filter_map(&one).collect();
        (traces.len() >= count).then_some(traces)
    });
    call.harness.notifications.clear();
    traces
}

#[test]
fn a_producer_tells_of_packets_key_frames_and_sender_reports() {
    let mut call = call(asked_by("nack", "pli"));
    call.publish(&vp8_packet(SOURCE, 96, 1, 1000, 1, true));
    call.next_rtp();
    assert!(of_producer(&mut call, 0).is_empty(), "nobody asked yet");

    use producer::{TraceEventType, TraceInfo};
    trace_producer(&mut call, &[TraceEventType::Rtp, TraceEventType::KeyFrame, TraceEventType::Sr]);
    call.publish(&vp8_packet(SOURCE, 96, 2, 4000, 2, false));
    call.publish(&vp8_packet(SOURCE, 96, 3, 7000, 3, true));
    let info = SenderInfo {
        ssrc: Ssrc(SOURCE),
        ntp: NtpTime(0x0102_0304_0506_0708),
        rtp_timestamp: 7000,
        packet_count: 3,
        octet_count: 345,
    };
    let mut report = Vec::new();
    rtcp::write_sender_report(&mut report, &info, &[]);
    call.publish(&report);
    let traces = of_producer(&mut call, 3);
    assert!(traces.iter().all(|trace| trace.direction == TraceDirection::In && trace.timestamp > 0));
    let [first, second, third] = traces.as_slice() else { panic!("{traces:?}") };
    let Some(TraceInfo::RtpTraceInfo(rtp)) = &first.info else { panic!("{first:?}") };
    assert_eq!(first.type_, TraceEventType::Rtp);
    let packet = &rtp.rtp_packet;
    assert_eq!((packet.ssrc, packet.sequence_number, packet.timestamp), (SOURCE, 2, 4000));
    assert_eq!((packet.payload_type, packet.marker, packet.is_key_frame), (96, true, false));
    let whole = vp8_packet(SOURCE, 96, 2, 4000, 2, false).len() as u64;
    assert_eq!((packet.size, packet.payload_size, rtp.is_rtx), (whole, whole - 12, false));
    let Some(TraceInfo::KeyFrameTraceInfo(key)) = &second.info else { panic!("{second:?}") };
    assert_eq!(second.type_, TraceEventType::KeyFrame);
    assert!(key.rtp_packet.is_key_frame && key.rtp_packet.sequence_number == 3);
    let Some(TraceInfo::SrTraceInfo(report)) = &third.info else { panic!("{third:?}") };
    assert_eq!(third.type_, TraceEventType::Sr);
    assert_eq!((report.ssrc, report.ntp_sec, report.ntp_frac), (SOURCE, 0x0102_0304, 0x0506_0708));
    assert_eq!((report.rtp_ts, report.packet_count, report.octet_count), (7000, 3, 345));

    trace_producer(&mut call, &[]);
    call.publish(&vp8_packet(SOURCE, 96, 4, 9000, 4, true));
    while RtpHeader::parse(&call.next_rtp()).unwrap().timestamp != 9000 {}
    assert!(of_producer(&mut call, 0).is_empty(), "nobody asks any more");
}

#[test]
fn a_producer_tells_what_it_asks_its_publisher_for() {
    use producer::{TraceEventType, TraceInfo};
    let all = [TraceEventType::Nack, TraceEventType::Pli, TraceEventType::Fir];
    for (feedback, wanted) in [(("nack", "pli"), TraceEventType::Pli), (("ccm", "fir"), TraceEventType::Fir)]
    {
        let mut call = call(asked_by(feedback.0, feedback.1));
        trace_producer(&mut call, &all);
        // No key frame: one is asked for.
        call.publish(&vp8_packet(SOURCE, 96, 1, 1000, 1, false));
        let [asked] = of_producer(&mut call, 1).try_into().unwrap();
        assert_eq!((asked.type_, asked.direction), (wanted, TraceDirection::Out));
        match asked.info {
            Some(TraceInfo::PliTraceInfo(pli)) => {
                assert_eq!((pli.ssrc, wanted), (SOURCE, TraceEventType::Pli))
            }
            Some(TraceInfo::FirTraceInfo(fir)) => {
                assert_eq!((fir.ssrc, wanted), (SOURCE, TraceEventType::Fir))
            }
            other => panic!("{other:?}"),
        }
        call.publish(&vp8_packet(SOURCE, 96, 2, 2000, 2, true));
        call.publish(&vp8_packet(SOURCE, 96, 4, 4000, 4, false));
        let missing = of_producer(&mut call, 1).remove(0);
        assert_eq!((missing.type_, missing.direction), (TraceEventType::Nack, TraceDirection::Out));
        assert!(missing.info.is_none());
    }
}

#[test]
fn a_consumer_tells_what_it_sends_and_what_it_is_asked_for() {
    use consumer::{TraceEventType, TraceInfo};
    let mut call = call(asked_by("nack", "pli"));
    let all = [
        TraceEventType::Rtp,
        TraceEventType::KeyFrame,
        TraceEventType::Nack,
        TraceEventType::Pli,
        TraceEventType::Fir,
    ];
    trace_consumer(&mut call, &all);
    call.publish(&vp8_packet(SOURCE, 96, 1, 1000, 1, true));
    call.publish(&vp8_packet(SOURCE, 96, 2, 4000, 2, false));
    let sent = [call.next_rtp(), call.next_rtp()].map(|datagram| RtpHeader::parse(&datagram).unwrap());
    let [key, delta] = of_consumer(&mut call, 2).try_into().unwrap();
    assert_eq!((key.type_, key.direction), (TraceEventType::KeyFrame, TraceDirection::Out));
    assert_eq!((delta.type_, delta.direction), (TraceEventType::Rtp, TraceDirection::Out));
    let Some(TraceInfo::KeyFrameTraceInfo(key)) = key.info else { panic!("{key:?}") };
    let Some(TraceInfo::RtpTraceInfo(delta)) = delta.info else { panic!("{delta:?}") };
    for (packet, header) in [&key.rtp_packet, &delta.rtp_packet].into_iter().zip(&sent) {
        let told = (packet.ssrc, packet.sequence_number, packet.timestamp, packet.payload_type);
        assert_eq!(told, (SINK, header.sequence.0, header.timestamp, 97), "as it was sent");
    }

    let lost: SeqNo = sent[1].sequence;
    call.nack(lost);
    call.next_rtp();
    let [asked, repeat] = of_consumer(&mut call, 2).try_into().unwrap();
    assert_eq!((asked.type_, asked.direction), (TraceEventType::Nack, TraceDirection::In));
    assert!(asked.info.is_none());
    let Some(TraceInfo::RtpTraceInfo(repeat)) = repeat.info else { panic!("{repeat:?}") };
    assert_eq!((repeat.rtp_packet.sequence_number, repeat.is_rtx), (lost.0, false), "no stream for repeats");

    let mut pli = Vec::new();
    rtcp::write_pli(&mut pli, Ssrc(9), Ssrc(SINK));
    call.answer(&pli);
    let mut fir = Vec::new();
    rtcp::write_fir(&mut fir, Ssrc(9), &[FirEntry { ssrc: Ssrc(SINK), command: 7 }]);
    call.answer(&fir);
    let [pli, fir] = of_consumer(&mut call, 2).try_into().unwrap();
    assert_eq!((pli.type_, pli.direction), (TraceEventType::Pli, TraceDirection::In));
    assert_eq!((fir.type_, fir.direction), (TraceEventType::Fir, TraceDirection::In));
    let Some(TraceInfo::PliTraceInfo(pli)) = pli.info else { panic!("{pli:?}") };
    let Some(TraceInfo::FirTraceInfo(fir)) = fir.info else { panic!("{fir:?}") };
    assert_eq!((pli.ssrc, fir.ssrc), (SINK, SINK));
}
