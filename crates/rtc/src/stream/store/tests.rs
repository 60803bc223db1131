use super::*;
use testkit::random::Random;

fn packet(seq: u64, len: usize) -> Vec<u8> {
    (0..len).map(|position| (seq as usize * 31 + position) as u8).collect()
}

#[test]
fn returns_what_was_stored_with_its_ranges() {
    let now = Instant::now();
    let mut store = PacketStore::new(StoreLimits::VIDEO);
    assert_eq!(store.get(0), None);
    let bytes = packet(70_000, 100);
    assert!(store.insert(70_000, &bytes, 12..90, now));
    let stored = store.get(70_000).unwrap();
    assert_eq!(stored.bytes, bytes);
    assert_eq!(stored.header(), &bytes[..12]);
    assert_eq!(stored.payload(), &bytes[12..90]);
    assert_eq!(stored.arrived_at, now);
    assert!(!store.insert(70_000, &bytes, 12..90, now), "stored already");
    assert_eq!(store.get(70_000 + 65_536), None, "same low bits, another packet");
    assert_eq!(store.get(70_000 + 64), None, "same slot of the index, another packet");
}

#[test]
fn refuses_ranges_that_lie_outside() {
    let now = Instant::now();
    let mut store = PacketStore::new(StoreLimits::VIDEO);
    #[expect(clippy::reversed_empty_ranges, reason = "that is what is refused")]
    for range in [12..11, 0..21, 21..21] {
        assert!(!store.insert(1, &[0; 20], range, now));
    }
    assert!(!store.insert(1, &[], 0..0, now));
    assert!(!store.insert(1, &vec![0; 70_000], 0..10, now));
}

#[test]
fn old_packets_go() {
    let start = Instant::now();
    let mut store = PacketStore::new(StoreLimits::VIDEO);
    store.insert(1, &packet(1, 50), 12..50, start);
    store.insert(2, &packet(2, 50), 12..50, start + Duration::from_millis(1500));
    store.insert(3, &packet(3, 50), 12..50, start + Duration::from_millis(2001));
    assert_eq!(store.get(1), None);
    assert!(store.get(2).is_some());
    store.expire(start + Duration::from_secs(9));
    assert!(store.is_empty());
}

#[test]
fn steady_flow_settles_at_a_size_and_stays_in_its_limits() {
    let start = Instant::now();
    let mut store = PacketStore::new(StoreLimits::VIDEO);
    let mut settled = 0;
    for seq in 0..20_000_u64 {
        let now = start + Duration::from_millis(seq * 5);
        assert!(store.insert(seq, &packet(seq, 1100), 12..1100, now));
        if seq == 2_000 {
            settled = store.allocated_bytes();
        }
        if seq > 500 {
            assert_eq!(store.get(seq - 399).unwrap().bytes, packet(seq - 399, 1100));
        }
    }
    assert_eq!(store.allocated_bytes(), settled, "no allocation once it has its size");
    assert!(settled < 1 << 20, "{settled}");
}

#[test]
fn byte_limit_drops_the_oldest() {
    let now = Instant::now();
    let limits = StoreLimits { packets: 4096, bytes: 20_000, age: Duration::from_secs(2) };
    let mut store = PacketStore::new(limits);
    for seq in 0..500 {
        assert!(store.insert(seq, &packet(seq, 1000), 12..1000, now));
        assert!(store.arena.len() <= limits.bytes);
    }
    assert!((18..=20).contains(&store.len()), "{}", store.len());
    assert_eq!(store.get(499).unwrap().bytes, packet(499, 1000));
}

/// Against a plain map: whatever is got is what was inserted, and nothing within all limits is missing.
#[test]
fn random_sizes_gaps_and_order_agree_with_a_map() {
    for seed in 0..30 {
        let mut random = Random::new(seed);
        let start = Instant::now();
        let limits = StoreLimits { packets: 200, bytes: 100_000, age: Duration::from_millis(800) };
        let mut store = PacketStore::new(limits);
        let mut model: std::collections::BTreeMap<u64, (Vec<u8>, Instant)> = Default::default();
        let mut seq = 65_536 + random.below(65_536);
        for step in 0..3_000_u64 {
            let now = start + Duration::from_millis(step * 7);
            seq += 1 + random.below(3);
            let actual = if random.chance(0.2) { seq - random.below(40).min(seq) } else { seq };
            let len = 12 + random.below(1_300) as usize;
            let bytes = packet(actual + step, len);
            if store.insert(actual, &bytes, 12..len, now) {
                model.insert(actual, (bytes, now));
            }
            let asked = seq - random.below(300).min(seq);
            if let Some(found) = store.get(asked) {
                let (bytes, at) = &model[&asked];
                assert_eq!((found.bytes, found.arrived_at), (&bytes[..], *at), "seed {seed} step {step}");
            }
            let recent = seq - random.below(20);
            if let Some((bytes, at)) = model.get(&recent)
                && now - *at < Duration::from_millis(140)
            {
                let found = store.get(recent).map(|found| found.bytes.to_vec());
                assert_eq!(found.as_ref(), Some(bytes), "seed {seed} step {step}: lost a young packet");
            }
        }
    }
}
