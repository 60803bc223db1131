use super::*;

fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

/// Between two requests for one packet.
fn nack_interval(rtt: Duration) -> Duration {
    rtt * 9 / 8 + ms(10)
}

/// A generator without delay that has seen `first`.
fn started(first: u64, now: Instant) -> NackGenerator {
    let mut nack = NackGenerator::new(Duration::ZERO);
    nack.received(first, false, now);
    nack
}

fn asked(nack: &mut NackGenerator, now: Instant) -> Vec<u16> {
    let mut out = Vec::new();
    nack.poll(now, &mut out);
    out
}

#[test]
fn gap_is_asked_for_and_its_packets_are_recovered() {
    let now = Instant::now();
    let mut nack = started(70_000, now);
    assert_eq!(nack.received(70_004, false, now), NackOutcome::Noted);
    assert_eq!(asked(&mut nack, now), [70_001, 70_002, 70_003].map(|seq: u64| seq as u16));
    assert!(asked(&mut nack, now).is_empty(), "not twice at once");
    assert_eq!(nack.received(70_002, false, now), NackOutcome::Recovered);
    assert_eq!(
        asked(&mut nack, now + nack_interval(DEFAULT_RTT)),
        [70_001, 70_003].map(|seq: u64| seq as u16)
    );
}

#[test]
fn sequence_wrap_generates_no_nack() {
    let now = Instant::now();
    let mut nack = started(65_536 + 65_530, now);
    for seq in 65_531..65_560 {
        nack.received(65_536 + seq, false, now);
        assert!(asked(&mut nack, now).is_empty());
    }
    assert_eq!(nack.next_timeout(), None);
}

#[test]
fn gap_over_the_wrap_is_asked_for_in_order() {
    let now = Instant::now();
    let mut nack = started(65_536 + 65_534, now);
    nack.received(2 * 65_536 + 2, false, now);
    assert_eq!(asked(&mut nack, now), [65_535, 0, 1]);
}

#[test]
fn packet_reordered_within_the_delay_is_not_asked_for() {
    let now = Instant::now();
    let mut nack = NackGenerator::new(DEFAULT_DELAY);
    nack.received(70_000, false, now);
    nack.received(70_002, false, now);
    assert!(asked(&mut nack, now).is_empty());
    assert_eq!(nack.next_timeout(), Some(now + DEFAULT_DELAY));
    assert_eq!(nack.received(70_001, false, now + ms(9)), NackOutcome::Reordered);
    assert_eq!(nack.next_timeout(), None);
    assert!(asked(&mut nack, now + ms(50)).is_empty());
}

/// libwebrtc repeats nothing within its round trip and 5 ms of the last time, counted from when a paced repeat left it.
/// Asked again after exactly a round trip, it refuses; the next chance is another round trip later.
#[test]
fn asks_again_when_a_sender_that_counts_round_trips_repeats_again() {
    for rtt in [ms(1), ms(40), ms(100), ms(400)] {
        for pacing in [ms(0), ms(5)] {
            let start = Instant::now();
            let mut nack = started(70_000, start);
            nack.set_rtt(rtt);
            nack.received(70_002, false, start);
            let mut repeated_at: Vec<Instant> = Vec::new();
            let mut asked_times = 0;
            // Over a long way, twice at a time.
            let copies = if rtt >= ms(50) { 2 } else { 1 };
            while let Some(at) = nack.next_timeout().filter(|_| repeated_at.len() < 3) {
                if asked(&mut nack, at).is_empty() {
                    continue;
                }
                asked_times += 1;
                let there = at + rtt / 2;
                if repeated_at.last().is_none_or(|last| there >= *last + rtt + ms(5)) {
                    repeated_at.push(there + pacing);
                }
            }
            // The third is answered before its copy goes out.
            assert_eq!(asked_times, 3 * copies - (copies - 1), "none in vain at {rtt:?}, {pacing:?}");
            let took = repeated_at[1] - repeated_at[0];
            assert!(
                took <= ms(50).max(rtt * 5 / 4 + ms(10) + ASK_TWICE_AFTER),
                "and no later than needed: {took:?} at {rtt:?}"
            );
        }
    }
}

#[test]
fn asks_ten_times_somewhat_over_a_round_trip_apart_and_gives_up() {
    let start = Instant::now();
    let mut nack = started(70_000, start);
    nack.set_rtt(ms(30));
    nack.received(70_002, false, start);
    let mut times = Vec::new();
    while let Some(at) = nack.next_timeout() {
        if !asked(&mut nack, at).is_empty() {
            times.push(at - start);
        }
    }
    assert_eq!(times, (0..10).map(|attempt| nack_interval(ms(30)) * attempt).collect::<Vec<_>>());
    assert_eq!(nack.given_up(), 1);
}

#[test]
fn over_a_long_way_each_request_goes_out_twice_unless_it_is_answered() {
    let start = Instant::now();
    let mut nack = started(70_000, start);
    nack.set_rtt(ms(100));
    nack.received(70_003, false, start);
    let mut times = Vec::new();
    while let Some(at) = nack.next_timeout() {
        for seq in asked(&mut nack, at) {
            times.push((seq, at - start));
        }
        if at == start {
            assert_eq!(nack.received(70_001, false, at + ms(5)), NackOutcome::Recovered);
        }
    }
    let [first, second] = [70_001_u64, 70_002].map(|seq| seq as u16);
    assert_eq!(times[..2], [(first, ms(0)), (second, ms(0))]);
    // A round trip, an eighth and 10 ms after the copy.
    let attempts = (0..10).map(|attempt| (nack_interval(ms(100)) + ASK_TWICE_AFTER) * attempt);
    let expected = attempts.flat_map(|at| [(second, at), (second, at + ASK_TWICE_AFTER)]);
    assert_eq!(times[2..], expected.skip(1).collect::<Vec<_>>());
    assert_eq!(nack.given_up(), 1);
}

#[test]
fn too_wide_a_gap_wants_a_key_frame() {
    let now = Instant::now();
    let mut nack = started(70_000, now);
    assert_eq!(nack.received(70_000 + 1_002, false, now), NackOutcome::KeyFrameNeeded);
    assert_eq!(nack.pending(), 0);
    assert_eq!(nack.received(71_003, false, now), NackOutcome::Noted);
}

#[test]
fn full_list_drops_what_a_key_frame_made_useless_first() {
    let now = Instant::now();
    let mut nack = started(70_000, now);
    nack.received(70_700, false, now);
    nack.received(70_701, true, now);
    assert_eq!(nack.received(71_202, false, now), NackOutcome::Noted);
    assert_eq!(nack.pending(), 500, "only what follows the key frame is waited for");
    assert_eq!(nack.given_up(), 699);
}
