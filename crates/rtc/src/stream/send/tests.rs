use super::*;
use crate::rtp::Ssrc;
use crate::stream::{
    RtxParams,
    recv::{IncomingPacket, RecvStream, Verdict},
};
use std::collections::{BTreeMap, BTreeSet};
use testkit::{
    clock::VirtualClock,
    link::{LinkProfile, LossyLink},
};

fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

fn params(rtx: bool) -> StreamParams {
    let rtx = rtx.then_some(RtxParams { ssrc: Ssrc(2), payload_type: 97 });
    StreamParams { use_nack: true, rtx, ..StreamParams::new(Ssrc(1), 96, "video/VP8", 90_000) }
}

fn outgoing(seq: u64) -> OutgoingPacket {
    OutgoingPacket {
        sent: SentPacket { seq, origin_seq: seq, ..Default::default() },
        timestamp: (seq as u32).wrapping_mul(900),
        len: 1_000,
        payload_len: 980,
    }
}

#[test]
fn sender_report_extrapolates_the_timeline_and_stops_in_silence() {
    let now = Instant::now();
    let mut stream = SendStream::new(params(true), 0, now);
    let wall = NtpTime(77);
    assert_eq!(stream.sender_report(wall, now), None);
    for seq in 70_000..70_010 {
        stream.sent(&outgoing(seq), now);
    }
    let report = stream.sender_report(wall, now + ms(100)).unwrap();
    assert_eq!((report.ssrc, report.ntp), (Ssrc(1), wall));
    assert_eq!((report.packet_count, report.octet_count), (10, 9_800));
    assert_eq!(report.rtp_timestamp, (70_009_u32).wrapping_mul(900) + 9_000);
    assert_eq!(stream.sender_report(wall, now + ms(2_001)), None);
}

#[test]
fn receiver_report_gives_round_trip_loss_and_score() {
    let now = Instant::now();
    let mut stream = SendStream::new(params(true), 0, now);
    for seq in 70_000..70_100 {
        stream.sent(&outgoing(seq), now);
    }
    let sent_at = NtpTime::from_unix(Duration::from_secs(1_000));
    let block = ReportBlock {
        ssrc: Ssrc(1),
        fraction_lost: 128,
        cumulative_lost: 50,
        last_sr: sent_at.compact(),
        delay_since_last_sr: compact_delay(ms(500)),
        ..Default::default()
    };
    stream.on_receiver_report(&block, NtpTime::from_unix(ms(1_000_580)), now);
    let rtt = stream.rtt().unwrap().as_millis();
    assert!((79..=81).contains(&rtt), "{rtt}");
    let change = stream.poll_score_change().unwrap();
    assert_eq!(change, ScoreChange { score: 1, previous: 10 });
    assert_eq!(stream.stats(now).base.packets_lost, 50);
}

#[test]
fn repeats_have_consecutive_rtx_numbers_over_the_wrap() {
    let now = Instant::now();
    let mut stream = SendStream::new(params(true), 65_535, now);
    for seq in 70_000..70_010 {
        stream.sent(&outgoing(seq), now);
    }
    let mut repeats = Vec::new();
    stream.on_nack([70_003_u64 as u16, 70_004_u64 as u16], usize::MAX, now, &mut repeats);
    let numbers: Vec<_> = repeats.iter().map(|repeat| (repeat.packet.seq, repeat.rtx_seq)).collect();
    assert_eq!(numbers, [(70_003, Some(65_535)), (70_004, Some(65_536))]);
    let stats = stream.stats(now).base;
    assert_eq!((stats.nack_count, stats.nack_packet_count), (1, 2));
    assert_eq!((stats.packets_retransmitted, stats.packets_repaired), (2, 2));
}

#[test]
fn receiver_that_asks_for_everything_all_the_time_gets_little_more_than_was_sent() {
    let start = Instant::now();
    let mut stream = SendStream::new(params(true), 0, start);
    let mut repeats = Vec::new();
    for step in 0..10_000_u64 {
        let now = start + ms(step * 5);
        let seq = 70_000 + step;
        stream.sent(&outgoing(seq), now);
        stream.on_nack((0..17).map(|back| (seq - step.min(back * 7)) as u16), usize::MAX, now, &mut repeats);
    }
    assert!(repeats.len() <= 10_000 + INITIAL_REPEAT_CREDIT as usize, "{}", repeats.len());
    assert!(stream.repeats_refused() > 10_000);
}

#[test]
fn paused_stream_repeats_nothing_of_before() {
    let now = Instant::now();
    let mut stream = SendStream::new(params(true), 0, now);
    stream.sent(&outgoing(70_000), now);
    stream.pause();
    let mut repeats = Vec::new();
    stream.on_nack([70_000_u64 as u16], usize::MAX, now, &mut repeats);
    assert!(repeats.is_empty());
}

/// What the links of the simulation carry.
#[derive(Clone, Debug)]
enum Wire {
    Media(u64),
    Rtx { rtx_seq: u16, original: u64 },
    Nack(Vec<u16>),
}

struct Outcome {
    sent: BTreeSet<u64>,
    accepted: BTreeMap<u64, u32>,
    asked: u64,
    lost_on_the_way: u64,
}

/// Four seconds of 500 packets/s from a `SendStream` to a `RecvStream`, NACKs back, over lossy links.
fn simulate(rtx: bool, there: LinkProfile, back: LinkProfile, first_seq: u64, seed: u64) -> Outcome {
    let mut clock = VirtualClock::new();
    let mut forward = LossyLink::new(there, seed);
    let mut backward = LossyLink::new(back, !seed);
    let mut sender = SendStream::new(params(rtx), 65_000, clock.now());
    let mut receiver = RecvStream::new(params(rtx), false, clock.now());
    let mut outcome =
        Outcome { sent: BTreeSet::new(), accepted: BTreeMap::new(), asked: 0, lost_on_the_way: 0 };
    let incoming = |seq: u64| IncomingPacket {
        seq: seq as u16,
        timestamp: seq as u32 * 180,
        len: 1_000,
        payload_len: 980,
        ..Default::default()
    };
    let mut repeats = Vec::new();
    while clock.elapsed() < Duration::from_secs(8) {
        let now = clock.now();
        let step = clock.elapsed().as_millis() as u64;
        if step.is_multiple_of(2) && step < 4_000 {
            let seq = first_seq + step / 2;
            assert!(sender.sent(&outgoing(seq), now));
            outcome.sent.insert(seq);
            // The ends are sent safely: nobody can miss what is before the first or after the last.
            let profile = if step == 0 || step >= 3_990 { LinkProfile::perfect(there.delay) } else { there };
            forward.set_profile(profile);
            forward.send(Wire::Media(seq), now);
        }
        forward.set_profile(there);
        while let Some((at, wire)) = forward.receive(now) {
            let verdict = match wire {
                Wire::Media(seq) => receiver.receive(&incoming(seq), at),
                Wire::Rtx { rtx_seq, original } => receiver.receive_rtx(rtx_seq, 97, &incoming(original), at),
                Wire::Nack(_) => unreachable!("NACKs go the other way"),
            };
            match verdict {
                Verdict::Accepted(accepted) => {
                    *outcome.accepted.entry(accepted.seq).or_default() += 1;
                }
                Verdict::Duplicate => {}
                other => panic!("seed {seed}: {other:?}"),
            }
        }
        let mut asked = Vec::new();
        receiver.poll_nack(now, &mut asked);
        if !asked.is_empty() {
            outcome.asked += asked.len() as u64;
            backward.send(Wire::Nack(asked), now);
        }
        while let Some((at, wire)) = backward.receive(now) {
            let Wire::Nack(seqs) = wire else { unreachable!("only NACKs go back") };
            repeats.clear();
            sender.on_nack(seqs, usize::MAX, at, &mut repeats);
            for repeat in &repeats {
                let wire = match repeat.rtx_seq {
                    Some(rtx_seq) => Wire::Rtx { rtx_seq: rtx_seq as u16, original: repeat.packet.seq },
                    None => Wire::Media(repeat.packet.seq),
                };
                forward.send(wire, at);
            }
        }
        clock.advance(ms(1));
    }
    outcome.lost_on_the_way = forward.lost();
    outcome
}

fn lossy(loss: f64) -> LinkProfile {
    LinkProfile {
        loss,
        duplication: 0.02,
        reorder: 0.05,
        reorder_delay: ms(8),
        ..LinkProfile::perfect(ms(20))
    }
}

#[test]
fn every_lost_packet_is_recovered_exactly_once() {
    for seed in 0..30 {
        for rtx in [true, false] {
            // Close below the wrap of the sequence number, so that each run crosses it.
            let outcome = simulate(rtx, lossy(0.1), lossy(0.1), 65_536 + 65_000, seed);
            assert!(outcome.lost_on_the_way > 100, "seed {seed}");
            let accepted: BTreeSet<u64> = outcome.accepted.keys().copied().collect();
            assert_eq!(accepted, outcome.sent, "seed {seed} rtx {rtx}");
            assert!(outcome.accepted.values().all(|&times| times == 1), "seed {seed} rtx {rtx}");
        }
    }
}

#[test]
fn reordering_within_the_delay_causes_no_nack() {
    for seed in 0..20 {
        let there = LinkProfile {
            reorder: 0.3,
            reorder_delay: ms(8),
            duplication: 0.05,
            ..LinkProfile::perfect(ms(20))
        };
        let outcome = simulate(true, there, LinkProfile::perfect(ms(20)), 65_536 + 64_500, seed);
        assert_eq!(outcome.asked, 0, "seed {seed}");
        assert_eq!(outcome.accepted.len(), outcome.sent.len(), "seed {seed}");
    }
}

#[test]
fn nacks_stay_in_proportion_to_the_loss() {
    for seed in 0..20 {
        let outcome = simulate(true, lossy(0.05), LinkProfile::perfect(ms(20)), 65_536, seed);
        // Each loss is asked for once; a lost repeat again.
        let bound = outcome.lost_on_the_way * 13 / 10;
        assert!(
            outcome.asked <= bound,
            "seed {seed}: {} asked, {} lost",
            outcome.asked,
            outcome.lost_on_the_way
        );
    }
}

#[test]
fn reports_in_a_row_are_scored_once() {
    let now = Instant::now();
    let mut stream = SendStream::new(params(true), 0, now);
    let mut changes = 0;
    for step in 0..100_u64 {
        let now = now + ms(step);
        stream.sent(&outgoing(70_000 + step), now);
        let cumulative_lost = if step % 2 == 0 { 50 } else { 0 };
        let block = ReportBlock { ssrc: Ssrc(1), cumulative_lost, ..Default::default() };
        stream.on_receiver_report(&block, NtpTime::default(), now);
        changes += usize::from(stream.poll_score_change().is_some());
    }
    assert_eq!(changes, 1);
}

/// Chromium asks every 100 ms when it only receives. At a round trip of 110 ms, what it asks for the second time is
/// repeated at once unless much is lost, and then not before a round trip has passed.
#[test]
fn receiver_that_does_not_know_the_round_trip_is_repeated_to_in_time() {
    for (fraction_lost, expected) in [(12, [0, 100, 300]), (64, [0, 200, 400])] {
        let start = Instant::now();
        let wall = NtpTime(1 << 40);
        let mut stream = SendStream::new(params(true), 0, start);
        let rtt = NtpTime((110 << 32) / 1000).compact();
        let last_sr = wall.compact() - rtt;
        let block = ReportBlock { ssrc: Ssrc(1), fraction_lost, last_sr, ..Default::default() };
        stream.on_receiver_report(&block, wall, start);
        assert!(stream.rtt().is_some_and(|rtt| rtt > ms(105) && rtt < ms(115)), "{:?}", stream.rtt());
        stream.sent(&outgoing(70_000), start);
        let mut repeated = Vec::new();
        for at in (0..500).step_by(100) {
            let mut repeats = Vec::new();
            stream.on_nack([70_000_u64 as u16], usize::MAX, start + ms(at), &mut repeats);
            if !repeats.is_empty() {
                repeated.push(at);
            }
        }
        assert_eq!(repeated, expected, "at {fraction_lost}/256 lost");
    }
}
