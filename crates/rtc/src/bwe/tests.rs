//! The estimator over a virtual link, with the receiver that the worker has for its publishers.

use std::time::{Duration, Instant};

use testkit::link::{LinkProfile, LossyLink};
use testkit::random::Random;

use super::*;
use crate::rtcp::{self, Packet};
use crate::rtp::Ssrc;
use crate::twcc::TransportFeedbackGenerator;

const FRAME: Duration = Duration::from_millis(33);
const PACKET: usize = 1_200;

/// One sender, one link there and one back, one receiver.
struct Path {
    now: Instant,
    estimator: BandwidthEstimator,
    there: LossyLink<(u16, usize)>,
    back: LossyLink<Vec<u8>>,
    receiver: TransportFeedbackGenerator,
    seq: u16,
    next_frame: Instant,
    delivered: u64,
    padding: u64,
    random: Random,
}

impl Path {
    fn new(there: LinkProfile, back: LinkProfile, seed: u64) -> Self {
        println!("seed {seed}");
        let now = Instant::now();
        Self {
            now,
            estimator: BandwidthEstimator::new(BweMode::TransportWide, Bitrate(600_000), now),
            there: LossyLink::new(there, seed),
            back: LossyLink::new(back, seed + 1),
            receiver: TransportFeedbackGenerator::new(Ssrc(0)),
            seq: 0,
            next_frame: now,
            delivered: 0,
            padding: 0,
            random: Random::new(seed + 2),
        }
    }

    fn send(&mut self, bytes: usize) {
        self.seq = self.seq.wrapping_add(1);
        self.estimator.sent(self.seq, bytes, self.now);
        self.there.send_sized((self.seq, bytes), bytes, self.now);
    }

    /// Lets time pass in steps of a millisecond; `source` is the bitrate sent at a moment.
    fn run(&mut self, time: Duration, mut source: impl FnMut(&mut Self) -> u64) {
        let end = self.now + time;
        let mut ticks = 0_u32;
        while self.now < end {
            if self.now >= self.next_frame {
                self.next_frame += FRAME;
                // Frames differ in size, by up to a third of the mean.
                let share = 667 + self.random.below(667);
                let mut frame = (source(self) * share / 8_000 * 33 / 1000) as usize;
                while frame > 0 {
                    let bytes = frame.min(PACKET);
                    frame -= bytes;
                    self.send(bytes.max(60));
                }
            }
            while let Some(bytes) = self.estimator.poll_probe(self.now) {
                self.padding += bytes as u64;
                self.send(bytes);
            }
            while let Some((at, (seq, bytes))) = self.there.receive(self.now) {
                self.delivered += bytes as u64;
                self.receiver.record(seq, Ssrc(1), at);
            }
            let mut packet = Vec::new();
            while self.receiver.poll_feedback(self.now, &mut packet) {
                self.back.send(std::mem::take(&mut packet), self.now);
            }
            while let Some((_, packet)) = self.back.receive(self.now) {
                for packet in rtcp::parse(&packet) {
                    let Ok(Packet::TransportFeedback(feedback)) = packet else {
                        panic!("only feedback is sent")
                    };
                    self.estimator.on_feedback(&feedback, self.now);
                }
            }
            if ticks.is_multiple_of(500) {
                self.estimator.handle_timeout(self.now);
            }
            ticks += 1;
            self.now += Duration::from_millis(1);
        }
    }

    fn estimate(&self) -> u64 {
        self.estimator.estimate().0
    }

    /// Bit/s that arrived while `run` ran.
    fn goodput(&mut self, time: Duration, source: impl FnMut(&mut Self) -> u64) -> u64 {
        let before = self.delivered;
        self.run(time, source);
        ((self.delivered - before) as f64 * 8.0 / time.as_secs_f64()) as u64
    }
}

fn link(rate: u64, delay_ms: u64) -> LinkProfile {
    let queue_bytes = (rate / 8 * 300 / 1000) as usize;
    LinkProfile { rate, queue_bytes, ..LinkProfile::perfect(Duration::from_millis(delay_ms)) }
}

fn secs(value: u64) -> Duration {
    Duration::from_secs(value)
}

/// Sends what the estimate allows, up to 4 Mbit/s.
fn greedy(path: &mut Path) -> u64 {
    path.estimate().min(4_000_000)
}

fn demand(most: u64) -> Demand {
    Demand { next: Bitrate(most), most: Bitrate(most) }
}

/// Ten seconds at 3 Mbit/s, ten at 0.5, twenty at 3 again; what was seen in each second: estimate and goodput.
fn falls_and_recovers(there: LinkProfile, back: LinkProfile, seed: u64) -> Vec<(u64, u64)> {
    let mut path = Path::new(there, back, seed);
    path.estimator.set_demand(demand(4_000_000), path.now);
    let mut seconds = Vec::new();
    for second in 0..40 {
        match second {
            10 => path.there.set_profile(LinkProfile {
                rate: 500_000,
                queue_bytes: (there.queue_bytes / 6).max(4_000),
                ..there
            }),
            20 => path.there.set_profile(there),
            _ => {}
        }
        let goodput = path.goodput(secs(1), greedy);
        seconds.push((path.estimate(), goodput));
    }
    let shown: Vec<_> = seconds.iter().map(|(estimate, _)| estimate / 1000).collect();
    println!("kbit/s estimated each second: {shown:?}, padding {} kB", path.padding / 1000);
    seconds
}

/// Mean goodput of some of the seconds, in bit/s.
fn mean(seconds: &[(u64, u64)]) -> u64 {
    seconds.iter().map(|(_, goodput)| goodput).sum::<u64>() / seconds.len() as u64
}

#[test]
fn the_estimate_follows_a_link_that_falls_and_recovers() {
    let ms = Duration::from_millis;
    let plain = link(3_000_000, 50);
    let cases = [
        ("plain", plain, 0.85, 8),
        ("100 ms each way", link(3_000_000, 100), 0.80, 10),
        ("2% lost", LinkProfile { loss: 0.02, ..plain }, 0.80, 8),
        ("5% lost", LinkProfile { loss: 0.05, ..plain }, 0.80, 8),
        ("10% lost", LinkProfile { loss: 0.10, ..plain }, 0.70, 10),
        ("5% lost in bursts", LinkProfile { loss: 0.05, loss_run: 6.0, ..plain }, 0.70, 12),
        ("30 ms of jitter", LinkProfile { jitter: ms(30), ..plain }, 0.60, 12),
        ("reordered", LinkProfile { reorder: 0.02, reorder_delay: ms(30), ..plain }, 0.80, 8),
        ("a queue of 21 ms", LinkProfile { queue_bytes: 8_000, ..plain }, 0.60, 18),
    ];
    for (name, there, share, recovered_within) in cases {
        for seed in [1, 2, 3] {
            println!("-- {name}");
            let seconds = falls_and_recovers(there, LinkProfile::perfect(there.delay), seed);
            let steady = mean(&seconds[4..10]) as f64 / (3_000_000.0 * (1.0 - there.loss));
            assert!(steady > share, "{name}, seed {seed}: {steady:.2} of the link used");
            // From the second second on nothing is sent that the fallen link does not carry.
            let fallen = &seconds[12..20];
            assert!(
                fallen.iter().all(|(estimate, _)| *estimate < 650_000),
                "{name}, seed {seed}: {fallen:?}"
            );
            let low = mean(fallen) as f64 / (500_000.0 * (1.0 - there.loss));
            assert!(low > 0.65, "{name}, seed {seed}: {low:.2} of the fallen link used");
            let back = seconds[20..].iter().position(|(estimate, _)| *estimate > 1_800_000);
            let back = back.unwrap_or_else(|| panic!("{name}, seed {seed}: it never came back"));
            println!("{name}: {steady:.2} used, fallen {low:.2}, back after {} s", back + 1);
            assert!(back < recovered_within, "{name}, seed {seed}: back after {back} s");
        }
    }
}

#[test]
fn feedback_that_is_lost_now_and_then_changes_little() {
    let back = LinkProfile { loss: 0.3, ..LinkProfile::perfect(Duration::from_millis(50)) };
    for seed in [1, 2, 3] {
        let seconds = falls_and_recovers(link(3_000_000, 50), back, seed);
        assert!(mean(&seconds[4..10]) > 2_200_000, "{}", mean(&seconds[4..10]));
        assert!(seconds[13..20].iter().all(|(estimate, _)| *estimate < 700_000));
    }
}

#[test]
fn silence_brings_the_rate_down_and_its_end_up_again() {
    let (there, back) = (link(3_000_000, 50), LinkProfile::perfect(Duration::from_millis(50)));
    let mut path = Path::new(there, back, 1);
    path.estimator.set_demand(demand(2_500_000), path.now);
    path.run(secs(10), greedy);
    let before = path.estimate();
    path.back.set_profile(LinkProfile { loss: 1.0, ..back });
    path.run(secs(5), greedy);
    assert!(path.estimate() < before / 3, "{} of {before}", path.estimate());
    path.back.set_profile(back);
    path.run(secs(6), greedy);
    assert!(path.estimate() > before / 2, "{} of {before}", path.estimate());
}

#[test]
fn who_sends_little_keeps_his_estimate_and_gets_no_more() {
    let (there, back) = (link(5_000_000, 20), LinkProfile::perfect(Duration::from_millis(20)));
    let mut path = Path::new(there, back, 1);
    path.estimator.set_demand(demand(2_000_000), path.now);
    path.run(secs(10), |path| path.estimate().min(2_000_000));
    let before = path.estimate();
    assert!(before >= 2_000_000, "{before}");
    // Everybody has what he wants, and then next to nothing is sent.
    path.estimator.set_demand(Demand::default(), path.now);
    let padding = path.padding;
    path.run(secs(60), |_| 50_000);
    path.run(secs(20), |_| 0);
    assert_eq!(path.estimate(), before);
    assert_eq!(path.padding, padding, "nobody wants more, so nothing is probed");
}

#[test]
fn traffic_of_others_is_made_room_for_and_its_end_noticed() {
    let (there, back) = (link(3_000_000, 30), LinkProfile::perfect(Duration::from_millis(30)));
    let mut path = Path::new(there, back, 1);
    path.estimator.set_demand(demand(3_000_000), path.now);
    path.run(secs(10), greedy);
    // Half of the link goes to somebody who takes it and does not ask.
    path.there.set_profile(link(1_500_000, 30));
    path.run(secs(3), greedy);
    let shared = path.goodput(secs(10), greedy);
    assert!((1_000_000..=1_500_000).contains(&shared), "{shared}");
    path.there.set_profile(there);
    path.run(secs(8), greedy);
    let alone = path.goodput(secs(5), greedy);
    assert!(alone > 2_200_000, "{alone}");
}

/// A feedback packet with whatever in it.
fn feedback_bytes(random: &mut Random, honest: bool, base: u16) -> Vec<u8> {
    let count = random.below(if honest { 40 } else { 3000 }) as usize + 1;
    let deltas: Vec<_> = (0..count)
        .map(|_| (!random.chance(0.1)).then(|| if honest { 4 } else { (random.next() & 0xffff) as i16 }))
        .collect();
    let header = rtcp::TransportFeedbackHeader {
        base_sequence: SeqNo(if honest { base } else { (random.next() & 0xffff) as u16 }),
        reference_time: ((random.next() & 0xff_ffff) as i32) << 8 >> 8,
        ..Default::default()
    };
    let mut bytes = Vec::new();
    rtcp::write_transport_feedback(&mut bytes, &header, &deltas);
    bytes
}

#[test]
fn lies_move_the_estimate_no_further_than_what_was_sent() {
    for seed in 0..20 {
        println!("seed {seed}");
        let mut random = Random::new(seed);
        let start = Instant::now();
        let mut estimator = BandwidthEstimator::new(BweMode::TransportWide, Bitrate(600_000), start);
        estimator.set_limits(Bitrate(30_000), Bitrate(u64::MAX), start);
        estimator.set_demand(demand(u64::MAX), start);
        let mut seq = 0_u16;
        for ms in 0..20_000_u64 {
            let now = start + Duration::from_millis(ms);
            // 1 Mbit/s is sent, padding included.
            if ms % 8 == 0 {
                seq = seq.wrapping_add(1);
                estimator.sent(seq, 1000, now);
            }
            while estimator.poll_probe(now).is_some() {
                seq = seq.wrapping_add(1);
                estimator.sent(seq, 1000, now);
            }
            if ms % 50 == 0 {
                let honest = random.chance(0.5);
                let bytes = feedback_bytes(&mut random, honest, seq.wrapping_sub(10));
                for packet in rtcp::parse(&bytes) {
                    if let Ok(Packet::TransportFeedback(feedback)) = packet {
                        estimator.on_feedback(&feedback, now);
                    }
                }
                estimator.handle_timeout(now);
            }
            let estimate = estimator.estimate().0;
            assert!((30_000..4_000_000).contains(&estimate), "{estimate} after {ms} ms");
        }
    }
}

#[test]
fn remb_is_taken_at_its_word_within_limits_and_less_loss() {
    let start = Instant::now();
    let mut estimator = BandwidthEstimator::new(BweMode::Remb, Bitrate(600_000), start);
    estimator.set_limits(Bitrate(100_000), Bitrate(2_000_000), start);
    estimator.on_remb(Bitrate(1_500_000), start);
    assert_eq!(estimator.estimate(), Bitrate(1_500_000));
    estimator.on_remb(Bitrate(u64::MAX), start);
    assert_eq!(estimator.estimate(), Bitrate(2_000_000));
    estimator.on_loss(0.25);
    assert_eq!(estimator.estimate(), Bitrate(1_750_000));
    for _ in 0..3 {
        estimator.on_loss(0.0);
    }
    assert_eq!(estimator.estimate(), Bitrate(2_000_000));
    estimator.on_remb(Bitrate(0), start);
    assert_eq!(estimator.estimate(), Bitrate(100_000));
}
