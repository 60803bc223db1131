//! Two associations over a link in virtual time.

use std::time::{Duration, Instant};

use testkit::clock::VirtualClock;
use testkit::link::{LinkProfile, LossyLink};

use super::packet::{Data, FLAG_BEGIN, FLAG_END, FLAG_UNORDERED, Header, PacketWriter, kind};
use super::*;

mod hostile;

const RELIABLE: Delivery = Delivery { ordered: true, max_life_time_ms: None, max_retransmits: None };
const UNORDERED: Delivery = Delivery { ordered: false, max_life_time_ms: None, max_retransmits: None };
const ONCE: Delivery = Delivery { ordered: false, max_life_time_ms: None, max_retransmits: Some(0) };

/// Two ends and what lies between them.
struct Pair {
    clock: VirtualClock,
    ends: [SctpAssociation; 2],
    /// `links[0]` carries what `ends[0]` sends.
    links: [LossyLink<Vec<u8>>; 2],
    events: [Vec<SctpEvent>; 2],
    counts: [SctpCounts; 2],
}

impl Pair {
    fn new(profile: LinkProfile, options: SctpOptions) -> Self {
        Self {
            clock: VirtualClock::new(),
            ends: [SctpAssociation::new(options), SctpAssociation::new(options)],
            links: [LossyLink::new(profile, 1), LossyLink::new(profile, 2)],
            events: [Vec::new(), Vec::new()],
            counts: [SctpCounts::default(); 2],
        }
    }

    /// With an association, over a link that only delays.
    fn connected(options: SctpOptions) -> Self {
        let mut pair = Self::new(LinkProfile::perfect(Duration::from_millis(10)), options);
        let now = pair.now();
        pair.ends[0].connect(now);
        pair.run(Duration::from_secs(1));
        assert_eq!(pair.states(), [SctpState::Connected; 2]);
        pair.events = [Vec::new(), Vec::new()];
        pair
    }

    fn now(&self) -> Instant {
        self.clock.now()
    }

    fn states(&self) -> [SctpState; 2] {
        [self.ends[0].state(), self.ends[1].state()]
    }

    fn drain(&mut self) {
        let now = self.clock.now();
        for (index, end) in self.ends.iter_mut().enumerate() {
            while let Some(packet) = end.poll_transmit(now) {
                assert!(packet.len() <= MAX_PACKET);
                self.links[index].send(packet, now);
            }
            self.events[index].extend(std::iter::from_fn(|| end.poll_event()));
            add(&mut self.counts[index], end.take_counts());
        }
    }

    fn run(&mut self, length: Duration) {
        let until = self.now() + length;
        loop {
            self.drain();
            let wakes = self.ends.iter().filter_map(SctpAssociation::next_timeout);
            let arrivals = self.links.iter().filter_map(LossyLink::next_delivery);
            let Some(next) = wakes.chain(arrivals).min().filter(|next| *next <= until) else { break };
            self.clock.advance_to(next);
            let now = self.clock.now();
            for index in 0..2 {
                while let Some((_, packet)) = self.links[index].receive(now) {
                    self.ends[1 - index].handle_packet(&packet, now);
                    self.drain();
                }
                self.ends[index].handle_timeout(now);
            }
        }
        self.clock.advance_to(until);
        self.drain();
    }

    fn send(&mut self, from: usize, stream: u16, data: &[u8], delivery: Delivery) -> Result<(), SendError> {
        let now = self.now();
        self.ends[from].send(message(stream, data, delivery), now)
    }

    fn received(&self, at: usize) -> Vec<(u16, &[u8])> {
        let messages = self.events[at].iter().filter_map(|event| match event {
            SctpEvent::Message { stream, data, .. } => Some((*stream, data.as_slice())),
            _ => None,
        });
        messages.collect()
    }
}

fn message(stream: u16, data: &[u8], delivery: Delivery) -> OutgoingMessage {
    OutgoingMessage { stream, ppid: 51, data: data.into(), delivery }
}

fn add(sum: &mut SctpCounts, new: SctpCounts) {
    sum.malformed += new.malformed;
    sum.wrong_tag += new.wrong_tag;
    sum.inits += new.inits;
    sum.cookies_refused += new.cookies_refused;
    sum.data_dropped += new.data_dropped;
    sum.data_duplicate += new.data_duplicate;
    sum.messages_abandoned += new.messages_abandoned;
    sum.retransmissions += new.retransmissions;
    sum.violations += new.violations;
}

fn lossy(loss: f64) -> LinkProfile {
    LinkProfile {
        loss,
        duplication: 0.02,
        reorder: 0.1,
        reorder_delay: Duration::from_millis(30),
        delay: Duration::from_millis(25),
        ..LinkProfile::default()
    }
}

/// Bytes that tell where they belong.
fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|position| (position.wrapping_mul(31) ^ seed.wrapping_mul(97)) as u8).collect()
}

#[test]
fn one_side_connects_and_both_are_connected() {
    let pair = Pair::connected(SctpOptions::default());
    assert_eq!(pair.ends[0].negotiated_streams(), (65_535, 65_535));
    assert_eq!(pair.counts[1].inits, 1);
}

#[test]
fn both_sides_connect_at_once_and_one_association_comes_of_it() {
    for seed in 0..200 {
        let mut pair = Pair::new(lossy(0.2), SctpOptions::default());
        pair.links = [LossyLink::new(lossy(0.2), seed), LossyLink::new(lossy(0.2), seed + 1000)];
        let now = pair.now();
        pair.ends[0].connect(now);
        pair.ends[1].connect(now);
        pair.send(0, 1, b"there", RELIABLE).unwrap();
        pair.send(1, 1, b"and back", RELIABLE).unwrap();
        pair.run(Duration::from_secs(60));
        assert_eq!(pair.states(), [SctpState::Connected; 2], "seed {seed}");
        assert_eq!(pair.received(1), [(1, &b"there"[..])], "seed {seed}");
        assert_eq!(pair.received(0), [(1, &b"and back"[..])], "seed {seed}");
    }
}

#[test]
fn handshake_that_nobody_answers_fails() {
    let mut pair = Pair::new(LinkProfile { loss: 1.0, ..lossy(1.0) }, SctpOptions::default());
    let now = pair.now();
    pair.ends[0].connect(now);
    pair.run(Duration::from_secs(600));
    assert_eq!(pair.events[0], [SctpEvent::Connecting, SctpEvent::Failed(SctpEnd::Timeout)]);
    assert_eq!(pair.ends[0].state(), SctpState::Failed);
}

#[test]
fn messages_of_all_sizes_arrive_in_order_despite_loss() {
    for (seed, loss) in [(1, 0.0), (2, 0.05), (3, 0.1), (4, 0.2)] {
        let mut pair = Pair::connected(SctpOptions::default());
        pair.links = [LossyLink::new(lossy(loss), seed), LossyLink::new(lossy(loss), seed + 9)];
        let sizes = [1, 2, 3, 1131, 1132, 1133, 5000, 65_536, 262_144, 7];
        let sent: Vec<Vec<u8>> = sizes.iter().enumerate().map(|(seed, len)| pattern(*len, seed)).collect();
        for data in &sent {
            pair.send(0, 5, data, RELIABLE).unwrap();
        }
        pair.run(Duration::from_secs(120));
        let received: Vec<&[u8]> = pair.received(1).into_iter().map(|(_, data)| data).collect();
        assert!(received == sent, "loss {loss}: {} of {} came", received.len(), sent.len());
        assert!(loss == 0.0 || pair.counts[0].retransmissions > 0);
    }
}

#[test]
fn unordered_messages_all_arrive_despite_loss() {
    let mut pair = Pair::connected(SctpOptions::default());
    pair.links[0].set_profile(lossy(0.1));
    let mut sent: Vec<Vec<u8>> = (0..200).map(|seed| pattern(seed * 37 + 1, seed)).collect();
    for data in &sent {
        pair.send(0, 3, data, UNORDERED).unwrap();
    }
    pair.run(Duration::from_secs(120));
    let mut received: Vec<Vec<u8>> = pair.received(1).into_iter().map(|(_, data)| data.to_vec()).collect();
    sent.sort();
    received.sort();
    assert!(received == sent);
}

#[test]
fn messages_without_repeats_are_given_up_and_the_rest_goes_on() {
    let mut pair = Pair::connected(SctpOptions::default());
    pair.links[0].set_profile(lossy(0.2));
    for seed in 0..300 {
        pair.send(0, 3, &pattern(3000, seed), ONCE).unwrap();
        pair.run(Duration::from_millis(20));
    }
    pair.links[0].set_profile(LinkProfile::perfect(Duration::from_millis(10)));
    pair.run(Duration::from_secs(10));
    pair.send(0, 3, b"last", RELIABLE).unwrap();
    pair.run(Duration::from_secs(10));
    let received = pair.received(1);
    assert_eq!(received.last(), Some(&(3, &b"last"[..])));
    assert!((60..280).contains(&received.len()), "{} came", received.len());
    // Some arrive that were given up already: the link holds packets back.
    let accounted = pair.counts[0].messages_abandoned + received.len() as u64;
    assert!((301..330).contains(&accounted), "{accounted}");
    assert_eq!(pair.counts[0].retransmissions, 0);
}

#[test]
fn message_past_its_life_time_is_not_sent() {
    let mut pair = Pair::connected(SctpOptions::default());
    let short = Delivery { ordered: false, max_life_time_ms: Some(100), max_retransmits: None };
    pair.send(0, 1, &pattern(200_000, 0), RELIABLE).unwrap();
    pair.links[0].set_profile(LinkProfile { loss: 1.0, ..LinkProfile::perfect(Duration::ZERO) });
    pair.send(0, 2, b"late", short).unwrap();
    pair.run(Duration::from_secs(2));
    pair.links[0].set_profile(LinkProfile::perfect(Duration::from_millis(10)));
    pair.run(Duration::from_secs(30));
    assert_eq!(pair.received(1).iter().map(|(stream, _)| *stream).collect::<Vec<_>>(), [1]);
    assert_eq!(pair.counts[0].messages_abandoned, 1);
}

#[test]
fn small_message_overtakes_a_long_one_of_another_stream() {
    let mut pair = Pair::connected(SctpOptions::default());
    for _ in 0..4 {
        pair.send(0, 1, &pattern(200_000, 1), RELIABLE).unwrap();
    }
    pair.send(0, 2, b"quick", RELIABLE).unwrap();
    pair.run(Duration::from_secs(30));
    let streams: Vec<u16> = pair.received(1).iter().map(|(stream, _)| *stream).collect();
    assert_eq!(streams, [1, 2, 1, 1, 1]);
}

#[test]
fn buffers_are_limited_and_their_ebb_is_told() {
    let options = SctpOptions { send_buffer_size: 300_000, ..SctpOptions::default() };
    let mut pair = Pair::connected(options);
    pair.ends[0].set_buffered_amount_low_threshold(1, 50_000);
    for seed in 0..3 {
        pair.send(0, 1, &pattern(100_000, seed), RELIABLE).unwrap();
    }
    assert_eq!(pair.send(0, 1, b"more", RELIABLE), Err(SendError::BufferFull));
    assert_eq!(pair.ends[0].buffered_amount(1), 300_000);
    pair.run(Duration::from_secs(10));
    assert_eq!(pair.events[0], [SctpEvent::BufferedAmountLow(1)]);
    assert_eq!(pair.ends[0].buffered_amount(1), 0);
    assert_eq!(pair.received(1).len(), 3);

    let options = SctpOptions { per_stream_send_queue_limit: 1000, ..SctpOptions::default() };
    let mut pair = Pair::new(LinkProfile::perfect(Duration::ZERO), options);
    pair.send(0, 1, &[1; 1000], RELIABLE).unwrap();
    assert_eq!(pair.send(0, 1, &[1; 1], RELIABLE), Err(SendError::BufferFull));
    pair.send(0, 2, &[1; 1], RELIABLE).unwrap();
    assert_eq!(pair.send(0, 2, &[], RELIABLE), Err(SendError::Empty));
    assert_eq!(pair.send(0, 2, &vec![1; 300_000], RELIABLE), Err(SendError::TooLong));
}

#[test]
fn stream_is_reset_and_used_again() {
    for loss in [0.0, 0.2] {
        let mut pair = Pair::connected(SctpOptions::default());
        pair.links = [LossyLink::new(lossy(loss), 7), LossyLink::new(lossy(loss), 8)];
        pair.send(0, 7, b"one", RELIABLE).unwrap();
        pair.send(0, 8, b"other", RELIABLE).unwrap();
        pair.run(Duration::from_secs(20));
        pair.ends[0].reset_stream(7);
        pair.send(0, 7, b"two", RELIABLE).unwrap();
        pair.run(Duration::from_secs(60));
        assert!(pair.events[1].contains(&SctpEvent::StreamsReset(Some(vec![7]))), "loss {loss}");
        let seven: Vec<&[u8]> =
            pair.received(1).into_iter().filter(|(stream, _)| *stream == 7).map(|(_, data)| data).collect();
        assert_eq!(seven, [&b"one"[..], b"two"], "loss {loss}");
    }
}

#[test]
fn peer_that_begins_anew_is_taken_back() {
    let mut pair = Pair::connected(SctpOptions::default());
    pair.send(0, 1, b"before", RELIABLE).unwrap();
    pair.send(1, 1, b"before too", RELIABLE).unwrap();
    pair.run(Duration::from_secs(1));
    pair.ends[0] = SctpAssociation::new(SctpOptions::default());
    let now = pair.now();
    pair.ends[0].connect(now);
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.states(), [SctpState::Connected; 2]);
    assert!(pair.events[1].contains(&SctpEvent::Restarted));
    pair.send(0, 1, b"after", RELIABLE).unwrap();
    pair.send(1, 1, b"after too", RELIABLE).unwrap();
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.received(1).last(), Some(&(1, &b"after"[..])));
    assert_eq!(pair.received(0).last(), Some(&(1, &b"after too"[..])));
}

#[test]
fn silent_peer_is_given_up() {
    let mut pair = Pair::connected(SctpOptions::default());
    pair.links[0].set_profile(LinkProfile { loss: 1.0, ..lossy(1.0) });
    pair.send(0, 1, b"hello?", RELIABLE).unwrap();
    pair.run(Duration::from_secs(1200));
    assert_eq!(pair.events[0], [SctpEvent::BufferedAmountLow(1), SctpEvent::Closed(SctpEnd::Timeout)]);
}

#[test]
fn idle_association_stays() {
    let mut pair = Pair::connected(SctpOptions::default());
    pair.run(Duration::from_secs(3600));
    assert_eq!(pair.states(), [SctpState::Connected; 2]);
    pair.links[0].set_profile(LinkProfile { loss: 1.0, ..lossy(1.0) });
    pair.links[1].set_profile(LinkProfile { loss: 1.0, ..lossy(1.0) });
    pair.run(Duration::from_secs(3600));
    assert_eq!(pair.states(), [SctpState::Closed; 2], "heartbeats tell that the peer is gone");
}

#[test]
fn close_tells_the_peer() {
    let mut pair = Pair::connected(SctpOptions::default());
    pair.ends[0].close();
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.events[1], [SctpEvent::Closed(SctpEnd::Aborted)]);
    assert_eq!(pair.send(0, 1, b"no", RELIABLE), Err(SendError::Closed));
}

#[test]
fn messages_sent_before_the_handshake_arrive_after_it() {
    let mut pair = Pair::new(LinkProfile::perfect(Duration::from_millis(10)), SctpOptions::default());
    pair.send(1, 4, b"early", RELIABLE).unwrap();
    let now = pair.now();
    pair.ends[0].connect(now);
    pair.run(Duration::from_secs(2));
    assert_eq!(pair.received(0), [(4, &b"early"[..])]);
}

#[test]
fn window_that_has_grown_is_not_sent_at_once() {
    let mut pair = Pair::connected(SctpOptions::default());
    for seed in 0..4 {
        pair.send(0, 1, &pattern(250_000, seed), RELIABLE).unwrap();
        pair.run(Duration::from_secs(5));
    }
    assert_eq!(pair.received(1).len(), 4);
    pair.send(0, 1, &pattern(250_000, 4), RELIABLE).unwrap();
    let now = pair.now();
    let burst = std::iter::from_fn(|| pair.ends[0].poll_transmit(now)).count();
    assert!((20..=33).contains(&burst), "{burst} packets left without an answer to any");
}

#[test]
fn throughput_fills_the_link() {
    let mut pair = Pair::connected(SctpOptions {
        send_buffer_size: 64_000_000,
        per_stream_send_queue_limit: 64_000_000,
        ..SctpOptions::default()
    });
    for seed in 0..80 {
        pair.send(0, 1, &pattern(250_000, seed), RELIABLE).unwrap();
    }
    // 20 MB with 20 ms there and back: slow start and growth take their time, no more.
    pair.run(Duration::from_secs(12));
    assert_eq!(pair.received(1).len(), 80);
}
