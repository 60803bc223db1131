use super::*;
use crate::rtcp::{Packet, parse};
use std::collections::BTreeMap;
use testkit::{
    clock::VirtualClock,
    link::{LinkProfile, LossyLink},
};

fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

/// Polls until nothing is due; returns the parsed statuses: number and arrival in microseconds.
fn feedback(generator: &mut TransportFeedbackGenerator, now: Instant) -> Vec<(u16, Option<i64>)> {
    let mut statuses = Vec::new();
    let mut out = Vec::new();
    while generator.poll_feedback(now, &mut out) {
        assert!(out.len() <= 1_200, "{} bytes", out.len());
        assert!(out.len().is_multiple_of(4));
        for packet in parse(&out) {
            let Ok(Packet::TransportFeedback(feedback)) = packet else { panic!("{packet:?}") };
            statuses.extend(feedback.packets().map(|status| (status.sequence.0, status.arrival_us)));
        }
        out.clear();
    }
    statuses
}

#[test]
fn reports_arrivals_and_gaps_every_hundred_milliseconds() {
    let start = Instant::now();
    let mut generator = TransportFeedbackGenerator::new(Ssrc(0));
    assert_eq!(generator.next_timeout(), None);
    generator.record(65_534, Ssrc(1), start);
    generator.record(0, Ssrc(1), start + ms(10));
    generator.record(0, Ssrc(1), start + ms(11));
    assert!(feedback(&mut generator, start + ms(99)).is_empty());
    assert_eq!(generator.next_timeout(), Some(start + ms(100)));
    let statuses = feedback(&mut generator, start + ms(100));
    assert_eq!(statuses, [(65_534, Some(0)), (65_535, None), (0, Some(10_000))]);
    assert_eq!(generator.next_timeout(), None);
    assert!((generator.packet_loss() - 1.0 / 3.0).abs() < 0.01);
}

#[test]
fn gap_between_two_feedback_packets_is_reported() {
    let start = Instant::now();
    let mut generator = TransportFeedbackGenerator::new(Ssrc(0));
    generator.record(10, Ssrc(1), start);
    feedback(&mut generator, start + ms(100));
    generator.record(12, Ssrc(1), start + ms(150));
    let statuses = feedback(&mut generator, start + ms(250));
    assert_eq!(
        statuses.iter().map(|status| (status.0, status.1.is_some())).collect::<Vec<_>>(),
        [(11, false), (12, true)]
    );
}

#[test]
fn late_packet_is_reported_again_with_what_follows() {
    let start = Instant::now();
    let mut generator = TransportFeedbackGenerator::new(Ssrc(0));
    for seq in [1, 2, 4, 5] {
        generator.record(seq, Ssrc(1), start);
    }
    feedback(&mut generator, start + ms(100));
    generator.record(3, Ssrc(1), start + ms(120));
    let statuses = feedback(&mut generator, start + ms(220));
    assert_eq!(statuses.iter().map(|status| status.0).collect::<Vec<_>>(), [3, 4, 5]);
    assert!(statuses.iter().all(|status| status.1.is_some()));
}

#[test]
fn arrivals_too_far_apart_for_one_packet_take_two() {
    let start = Instant::now();
    let mut generator = TransportFeedbackGenerator::new(Ssrc(0));
    generator.record(1, Ssrc(1), start);
    generator.record(2, Ssrc(1), start + Duration::from_secs(20));
    let statuses = feedback(&mut generator, start + Duration::from_secs(21));
    assert_eq!(statuses, [(1, Some(0)), (2, Some(20_000_000))]);
}

#[test]
fn jump_over_half_the_circle_starts_anew() {
    let start = Instant::now();
    let mut generator = TransportFeedbackGenerator::new(Ssrc(0));
    generator.record(1, Ssrc(1), start);
    generator.record(30_000, Ssrc(1), start + ms(1));
    let statuses = feedback(&mut generator, start + ms(200));
    assert_eq!(statuses.iter().map(|status| status.0).collect::<Vec<_>>(), [30_000]);
}

/// Over three turns of the number, lossy and reordered: what arrived is reported as arrived, at its time.
#[test]
fn every_arrival_is_reported_at_its_time() {
    for seed in 0..5 {
        let profile = LinkProfile {
            loss: 0.05,
            duplication: 0.01,
            reorder: 0.1,
            reorder_delay: ms(30),
            ..LinkProfile::perfect(ms(20))
        };
        let mut link = LossyLink::new(profile, seed);
        let mut clock = VirtualClock::new();
        let mut generator = TransportFeedbackGenerator::new(Ssrc(0));
        let mut arrived = BTreeMap::new();
        let mut reported = BTreeMap::new();
        let mut first_arrival = None;
        let mut sent = 0_u64;
        let mut extender = SequenceExtender::new();
        while sent < 150_000 || generator.next_timeout().is_some() {
            let now = clock.now();
            for _ in 0..if sent < 150_000 { 5 } else { 0 } {
                link.send(65_536 + sent, now);
                sent += 1;
            }
            while let Some((_, seq)) = link.receive(now) {
                let first = *first_arrival.get_or_insert(now);
                arrived.entry(seq).or_insert((now - first).as_micros() as i64);
                generator.record(seq as u16, Ssrc(1), now);
            }
            for (seq, at) in feedback(&mut generator, now) {
                let seq = extender.extend(seq);
                if let Some(at) = at {
                    reported.insert(seq, at);
                }
            }
            clock.advance(ms(1));
        }
        assert_eq!(arrived.len(), reported.len(), "seed {seed}");
        for (seq, at) in &arrived {
            assert!((reported[seq] - at).abs() < 250, "seed {seed}: {seq} {} {at}", reported[seq]);
        }
        let loss = generator.packet_loss();
        assert!((0.01..0.12).contains(&loss), "{loss}");
    }
}

#[test]
fn an_outage_wider_than_a_feedback_packet_does_not_stop_the_feedback() {
    for gap in [MAX_STATUSES - 1, MAX_STATUSES, MAX_STATUSES + 1, 3 * MAX_STATUSES] {
        let start = Instant::now();
        let mut generator = TransportFeedbackGenerator::new(Ssrc(0));
        generator.record(100, Ssrc(1), start);
        assert_eq!(feedback(&mut generator, start + ms(100)).len(), 1);
        let after = 101 + gap as u16;
        let mut out = Vec::new();
        generator.record(after, Ssrc(1), start + ms(10_000));
        assert!(generator.poll_feedback(start + ms(10_100), &mut out), "gap of {gap}");
        assert!(!generator.poll_feedback(start + ms(10_100), &mut out), "gap of {gap}");
        assert!(generator.packet_loss().is_finite());
        generator.record(after + 1, Ssrc(1), start + ms(10_150));
        let next = feedback(&mut generator, start + ms(10_300));
        assert_eq!(next.first().map(|(seq, _)| *seq), Some(after + 1), "gap of {gap}");
    }
}
