//! Transport-wide feedback: what is written for a run of packets is what is read of it, and the generator reports every
//! arrival exactly as often as it must (draft-holmer-rmcat-transport-wide-cc-extensions-01).

use std::time::{Duration, Instant};

use rtc::rtcp::{
    self, Packet, TICK_US, TransportFeedback, TransportFeedbackHeader, write_transport_feedback,
};
use rtc::rtp::{SeqNo, Ssrc};
use rtc::twcc::TransportFeedbackGenerator;

use crate::input::Input;

/// Reference times are in these, and 24 bits of them wrap.
const REFERENCE_US: i64 = 64_000;

/// The first byte chooses: arbitrary bytes behind a valid head, a list of deltas, or arrivals for the generator.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.below(3) {
        0 => {
            let body = input.take(65_000);
            let padded = body.len().next_multiple_of(4);
            let mut packet = vec![0x8f, 205];
            packet.extend_from_slice(&((padded / 4) as u16).to_be_bytes());
            packet.extend_from_slice(body);
            packet.resize(4 + padded, 0);
            if let Some(Ok(Packet::TransportFeedback(feedback))) = rtcp::parse(&packet).next() {
                rewritten(&feedback);
            }
        }
        1 => deltas(&mut input),
        _ => generated(&mut input),
    }
}

/// What was read says the same when it is written anew.
pub(crate) fn rewritten(feedback: &TransportFeedback<'_>) {
    let statuses: Vec<_> = feedback.packets().collect();
    assert_eq!(statuses.len(), usize::from(feedback.status_count), "iterating cannot fail");
    let mut at_us = i64::from(feedback.header.reference_time) * REFERENCE_US;
    let deltas: Vec<Option<i16>> = statuses
        .iter()
        .map(|status| {
            let arrival_us = status.arrival_us?;
            let ticks = (arrival_us - at_us) / TICK_US;
            at_us = arrival_us;
            Some(i16::try_from(ticks).expect("a delta has 16 bits"))
        })
        .collect();
    let mut out = Vec::new();
    write_transport_feedback(&mut out, &feedback.header, &deltas);
    let again = only(&out);
    assert_eq!(again.header, feedback.header);
    assert!(again.packets().eq(statuses));
}

fn only(bytes: &[u8]) -> TransportFeedback<'_> {
    match rtcp::parse(bytes).next() {
        Some(Ok(Packet::TransportFeedback(feedback))) => feedback,
        other => panic!("no feedback packet: {other:?}"),
    }
}

/// Any list of deltas comes back.
fn deltas(input: &mut Input<'_>) {
    let header = TransportFeedbackHeader {
        sender_ssrc: Ssrc(input.u32()),
        media_ssrc: Ssrc(input.u32()),
        base_sequence: SeqNo(input.u16()),
        reference_time: (input.u32() as i32) >> 8,
        feedback_count: input.u8(),
    };
    let mut deltas = Vec::new();
    while !input.is_empty() && deltas.len() < 20_000 {
        let kind = input.u8();
        let delta = match kind & 3 {
            0 => None,
            1 => Some(i16::from(input.u8())),
            2 => Some(input.u16().cast_signed()),
            _ => Some(1),
        };
        let run = if kind & 4 == 0 { 1 } else { usize::from(kind >> 3) * 40 };
        deltas.extend(std::iter::repeat_n(delta, run));
    }
    let mut out = Vec::new();
    write_transport_feedback(&mut out, &header, &deltas);
    if out.len() > 4 * 0xffff {
        return;
    }
    let feedback = only(&out);
    assert_eq!(feedback.header, header);
    let mut sequence = header.base_sequence;
    let mut at_us = i64::from(header.reference_time) * REFERENCE_US;
    let mut expected = deltas.iter();
    for status in feedback.packets() {
        let delta = expected.next().expect("no more statuses than deltas");
        assert_eq!(status.sequence, sequence);
        sequence = sequence.next();
        if let Some(ticks) = delta {
            at_us += i64::from(*ticks) * TICK_US;
        }
        assert_eq!(status.arrival_us, delta.map(|_| at_us));
    }
    assert!(expected.next().is_none());
}

/// Arrivals in any order and at any time: the reports parse, no number is told as received that was not, and the times
/// between packets are right to a tick each.
fn generated(input: &mut Input<'_>) {
    let start = Instant::now();
    let mut now = start;
    let mut generator = TransportFeedbackGenerator::new(Ssrc(1));
    let mut arrivals: Vec<(u16, Duration)> = Vec::new();
    let mut sequence = input.u16();
    let mut out = Vec::new();
    while !input.is_empty() && arrivals.len() < 4000 {
        let step = input.u8();
        match step & 3 {
            0 => sequence = sequence.wrapping_add(1),
            1 => sequence = sequence.wrapping_add(u16::from(step >> 2)),
            2 => sequence = sequence.wrapping_sub(u16::from(step >> 2)),
            _ => sequence = input.u16(),
        }
        now += Duration::from_micros(u64::from(input.u8()) * u64::from(step >> 2) * 10);
        generator.record(sequence, Ssrc(2), now);
        arrivals.push((sequence, now - start));
        if step & 0x80 != 0 || generator.next_timeout().is_some_and(|due| due <= now) {
            while generator.poll_feedback(now, &mut out) {
                told(&out, &arrivals);
                out.clear();
            }
        }
    }
    now += Duration::from_secs(1);
    for _ in 0..4096 {
        if !generator.poll_feedback(now, &mut out) {
            return;
        }
        told(&out, &arrivals);
        out.clear();
    }
    panic!("the generator never comes to an end");
}

fn told(bytes: &[u8], arrivals: &[(u16, Duration)]) {
    assert!(bytes.len() <= 1200, "a feedback packet of {} bytes is no datagram", bytes.len());
    for status in only(bytes).packets() {
        if status.arrival_us.is_some() {
            let known = arrivals.iter().any(|(sequence, _)| *sequence == status.sequence.0);
            assert!(known, "{:?} never came", status.sequence);
        }
    }
}
