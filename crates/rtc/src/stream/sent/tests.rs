use super::*;
use testkit::random::Random;

const WINDOW: Duration = Duration::from_secs(2);
const RTT: Duration = Duration::from_millis(50);

fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

fn packet(seq: u64, origin_seq: u64) -> SentPacket {
    SentPacket {
        seq,
        origin: 1,
        origin_seq,
        timestamp_offset: 0xdead_beef,
        codec: [seq as u8, 2, 3],
        transport_seq: (seq as u16).wrapping_mul(3),
        abs_send_time: (seq as u32 * 7) & 0xff_ffff,
        marker: seq.is_multiple_of(3),
        padding: (seq % 4) as u8,
    }
}

#[test]
fn entry_is_small() {
    assert_eq!(size_of::<Entry>(), 10);
    assert_eq!(size_of::<Stamps>(), 5);
}

#[test]
fn request_returns_what_was_sent() {
    let now = Instant::now();
    let mut map = SentMap::new(WINDOW, true, now);
    for seq in 0..40 {
        assert!(map.insert(&packet(65_520 + seq, 90_000 + seq * 2), now));
    }
    for seq in 0..40 {
        let expected = Lookup::Repeat { packet: packet(65_520 + seq, 90_000 + seq * 2), first: true };
        assert_eq!(map.request((65_520 + seq) as u16, RTT, RTT, now), expected, "over the wrap");
    }
    assert_eq!(map.request(100, RTT, RTT, now), Lookup::Unknown);
}

#[test]
fn without_stamps_everything_else_is_returned() {
    let now = Instant::now();
    let mut map = SentMap::new(WINDOW, false, now);
    for seq in 0..40 {
        assert!(map.insert(&packet(1_000 + seq, 90_000 + seq), now));
    }
    for seq in 1_000..1_040 {
        let packet = SentPacket { transport_seq: 0, abs_send_time: 0, ..packet(seq, 89_000 + seq) };
        assert_eq!(map.request(seq as u16, RTT, RTT, now), Lookup::Repeat { packet, first: true });
    }
    assert!(map.allocated_bytes() < 40 * 15);
}

#[test]
fn not_twice_within_a_round_trip_and_ten_times_in_all() {
    let start = Instant::now();
    let mut map = SentMap::new(WINDOW, true, start);
    map.insert(&packet(70_000, 70_000), start);
    let mut repeats = 0;
    for step in 0..1_000 {
        if matches!(map.request(70_000_u64 as u16, RTT, RTT, start + ms(step)), Lookup::Repeat { .. }) {
            repeats += 1;
            assert_eq!(map.request(70_000_u64 as u16, RTT, RTT, start + ms(step)), Lookup::Refused);
        }
    }
    assert_eq!(repeats, u64::from(MAX_REPEATS));
}

#[test]
fn second_repeat_may_come_sooner_than_those_after_it() {
    let start = Instant::now();
    let mut map = SentMap::new(WINDOW, true, start);
    map.insert(&packet(70_000, 70_000), start);
    let mut repeats = Vec::new();
    for step in 0..600 {
        let answer = map.request(70_000_u64 as u16, ms(60), ms(120), start + ms(step));
        if matches!(answer, Lookup::Repeat { .. }) {
            repeats.push(step);
        }
    }
    assert_eq!(repeats, [0, 60, 180, 300, 420, 540]);
}

#[test]
fn packets_older_than_the_window_are_unknown() {
    let start = Instant::now();
    let mut map = SentMap::new(WINDOW, true, start);
    map.insert(&packet(70_000, 70_000), start);
    map.insert(&packet(70_001, 70_001), start + ms(1_900));
    assert_eq!(map.request(70_000_u64 as u16, RTT, RTT, start + ms(2_100)), Lookup::Unknown);
    assert!(matches!(map.request(70_001_u64 as u16, RTT, RTT, start + ms(2_100)), Lookup::Repeat { .. }));
}

#[test]
fn packet_sent_before_is_refused_and_a_filled_gap_is_not() {
    let now = Instant::now();
    let mut map = SentMap::new(WINDOW, true, now);
    assert!(map.insert(&packet(70_000, 70_000), now));
    assert!(map.insert(&packet(70_002, 70_002), now));
    assert!(map.insert(&packet(70_001, 70_001), now));
    assert!(!map.insert(&packet(70_001, 70_001), now));
    assert_eq!(map.request(69_999_u64 as u16, RTT, RTT, now), Lookup::Unknown);
}

#[test]
fn layer_switches_keep_each_packets_own_rewrite() {
    let now = Instant::now();
    let mut map = SentMap::new(WINDOW, true, now);
    let mut sent = Vec::new();
    for seq in 0..60_u64 {
        let mut packet = packet(70_000 + seq, 0);
        packet.origin = (seq / 10 % 3) as u8;
        packet.timestamp_offset = (seq / 10 * 1_000) as u32;
        packet.origin_seq = 65_536 + u64::from(packet.origin) * 200_000 + seq;
        map.insert(&packet, now);
        sent.push(packet);
    }
    for packet in sent {
        let expected = Lookup::Repeat { packet, first: true };
        assert_eq!(map.request(packet.seq as u16, RTT, RTT, now), expected);
    }
}

#[test]
fn a_second_of_video_takes_little_and_less_with_a_repair_stream() {
    for (keeps_stamps, most) in [(true, 3_500), (false, 2_400)] {
        let start = Instant::now();
        let mut map = SentMap::new(ms(1_000), keeps_stamps, start);
        let mut settled = 0;
        for seq in 0..10_000_u64 {
            // 180 packets a second: 30 frames of 6 packets.
            let now = start + ms(seq * 1_000 / 180);
            map.insert(&packet(70_000 + seq, 70_000 + seq), now);
            if seq == 1_000 {
                settled = map.allocated_bytes();
            }
        }
        assert!(settled <= most, "{settled}");
        assert_eq!(map.allocated_bytes(), settled, "no allocation once it has its size");
    }
}

#[test]
fn wide_jumps_and_random_order_never_return_a_wrong_packet() {
    for seed in 0..50 {
        let mut random = Random::new(seed);
        let start = Instant::now();
        let mut map = SentMap::new(WINDOW, true, start);
        let mut model = std::collections::HashMap::new();
        let mut seq = 65_536;
        for step in 0..5_000 {
            let now = start + ms(step);
            seq += if random.chance(0.001) { random.below(10_000) } else { random.below(3) };
            let actual = seq - random.below(30);
            let origin_seq = actual + random.below(3) * 50_000;
            let packet = packet(actual, origin_seq);
            if map.insert(&packet, now) {
                model.insert(actual, packet);
            }
            let asked = seq - random.below(2_000).min(seq);
            if let Lookup::Repeat { packet, .. } = map.request(asked as u16, RTT, RTT, now) {
                assert_eq!(Some(&packet), model.get(&packet.seq), "seed {seed} step {step}");
                assert_eq!(packet.seq, asked);
            }
        }
    }
}

#[test]
fn many_rewrites_later_an_old_packet_is_unknown_and_not_another() {
    let now = Instant::now();
    let mut map = SentMap::new(WINDOW, true, now);
    for seq in 0..=256_u64 {
        let mut packet = packet(70_000 + seq, 70_000 + seq);
        packet.timestamp_offset = seq as u32;
        assert!(map.insert(&packet, now));
    }
    assert_eq!(map.request(70_000_u64 as u16, RTT, RTT, now), Lookup::Unknown);
}
