//! A peer that sends what it likes: the association stays within its limits, and says what it dropped.

use testkit::random::Random;

use super::*;

/// A peer that completed its handshake and then writes packets by hand.
struct Insider {
    victim: SctpAssociation,
    now: Instant,
    tag: u32,
    tsn: u32,
}

impl Insider {
    fn new() -> Self {
        let now = Instant::now();
        let mut victim = SctpAssociation::new(SctpOptions::default());
        let mut honest = SctpAssociation::new(SctpOptions::default());
        honest.connect(now);
        let mut tag = 0;
        let mut tsn = 0;
        for _ in 0..3 {
            while let Some(packet) = honest.poll_transmit(now) {
                // INIT's first TSN lies behind tag, window and stream counts.
                if packet[12] == kind::INIT {
                    tsn = u32::from_be_bytes(packet[28..32].try_into().unwrap());
                } else {
                    tag = u32::from_be_bytes(packet[4..8].try_into().unwrap());
                }
                victim.handle_packet(&packet, now);
            }
            while let Some(packet) = victim.poll_transmit(now) {
                honest.handle_packet(&packet, now);
            }
        }
        while victim.poll_event().is_some() {}
        victim.take_counts();
        assert_eq!(victim.state(), SctpState::Connected);
        Self { victim, now, tag, tsn }
    }

    fn writer(&self) -> PacketWriter {
        PacketWriter::new(Header { source_port: 5000, destination_port: 5000, tag: self.tag })
    }

    fn deliver(&mut self, writer: PacketWriter) -> usize {
        self.victim.handle_packet(&writer.finish(), self.now);
        while self.victim.poll_transmit(self.now).is_some() {}
        std::iter::from_fn(|| self.victim.poll_event()).count()
    }

    /// One fragment a chunk, as many chunks as fit into a packet.
    fn fragments(&mut self, tsns: impl Iterator<Item = u32>, flags: u8, stream: u16) {
        let mut writer = self.writer();
        for offset in tsns {
            let tsn = self.tsn.wrapping_add(offset);
            Data { flags, tsn, stream, ssn: 0, ppid: 51, payload: &[7] }.write(writer.bytes());
            if writer.room() < 24 {
                let full = std::mem::replace(&mut writer, self.writer());
                self.deliver(full);
            }
        }
        if !writer.is_empty() {
            self.deliver(writer);
        }
    }
}

#[test]
fn flood_of_inits_leaves_nothing_behind() {
    let now = Instant::now();
    let mut victim = SctpAssociation::new(SctpOptions::default());
    let mut random = Random::new(5);
    for _ in 0..10_000 {
        let mut peer = SctpAssociation::new(SctpOptions::default());
        peer.connect(now);
        let mut init = peer.poll_transmit(now).unwrap();
        if random.chance(0.1) {
            let position = random.below(init.len() as u64) as usize;
            init[position] ^= 1 << random.below(8);
        }
        victim.handle_packet(&init, now);
        while victim.poll_transmit(now).is_some() {}
    }
    assert_eq!(victim.state(), SctpState::New);
    let counts = victim.take_counts();
    assert_eq!(counts.inits + counts.malformed + counts.wrong_tag, 10_000);
    assert!(counts.inits > 8_000 && counts.malformed > 500, "{counts:?}");
    assert!(victim.peer_is_none());
}

#[test]
fn fragments_without_beginning_or_end_are_limited_by_their_cost() {
    let mut insider = Insider::new();
    // Every second TSN: no two are joined, and each is a gap.
    insider.fragments((0..200_000).map(|count| count * 2 % 65_000), 0, 1);
    let counts = insider.victim.take_counts();
    assert!(counts.data_dropped > 50_000, "{counts:?}");
    assert!(insider.victim.buffered() <= MAX_GAPS * 130);
    assert_eq!(insider.victim.state(), SctpState::Connected);
}

#[test]
fn message_of_sixty_thousand_fragments_is_put_together_in_any_order() {
    for backwards in [false, true] {
        let mut insider = Insider::new();
        let started = Instant::now();
        const COUNT: u32 = 60_000;
        if backwards {
            // All but the first, from the last to the second; the last gap closes it.
            insider.fragments(std::iter::once(COUNT - 1), FLAG_UNORDERED | FLAG_END, 1);
            insider.fragments((1..COUNT - 1).rev(), FLAG_UNORDERED, 1);
        } else {
            insider.fragments(std::iter::once(0), FLAG_UNORDERED | FLAG_BEGIN, 1);
            insider.fragments(1..COUNT - 1, FLAG_UNORDERED, 1);
        }
        let mut writer = insider.writer();
        let (offset, flags) = if backwards { (0, FLAG_BEGIN) } else { (COUNT - 1, FLAG_END) };
        let tsn = insider.tsn.wrapping_add(offset);
        Data { flags: flags | FLAG_UNORDERED, tsn, stream: 1, ssn: 0, ppid: 51, payload: &[7] }
            .write(writer.bytes());
        insider.victim.handle_packet(&writer.finish(), insider.now);
        let message = std::iter::from_fn(|| insider.victim.poll_event()).next();
        assert!(
            matches!(&message, Some(SctpEvent::Message { data, .. }) if data.len() == COUNT as usize),
            "backwards: {backwards}"
        );
        assert_eq!(insider.victim.buffered(), 0);
        // A tenth of a second does in a debug build; work that grows with what is stored would take minutes.
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    }
}

#[test]
fn message_longer_than_allowed_ends_the_association() {
    let mut insider = Insider::new();
    let payload = [7; 1100];
    let mut ended = false;
    for offset in 0..300 {
        let mut writer = insider.writer();
        let flags = if offset == 0 { FLAG_BEGIN } else { 0 };
        let tsn = insider.tsn.wrapping_add(offset);
        Data { flags, tsn, stream: 1, ssn: 0, ppid: 51, payload: &payload }.write(writer.bytes());
        insider.victim.handle_packet(&writer.finish(), insider.now);
        if let Some(SctpEvent::Closed(end)) = insider.victim.poll_event() {
            assert_eq!(end, SctpEnd::Violation);
            ended = true;
            break;
        }
    }
    assert!(ended);
    assert_eq!(insider.victim.take_counts().violations, 1);
    let abort = insider.victim.poll_transmit(insider.now).unwrap();
    assert_eq!(abort[12], kind::ABORT);
}

#[test]
fn messages_that_wait_for_an_earlier_one_are_limited_by_the_window() {
    let mut insider = Insider::new();
    let payload = [7; 1100];
    for offset in 0..20_000_u32 {
        let mut writer = insider.writer();
        let tsn = insider.tsn.wrapping_add(offset);
        // Sequence number 0 never comes on any of the streams.
        let (stream, ssn) = ((offset % 60_000) as u16, 1);
        Data { flags: FLAG_BEGIN | FLAG_END, tsn, stream, ssn, ppid: 51, payload: &payload }
            .write(writer.bytes());
        insider.deliver(writer);
    }
    assert!(insider.victim.buffered() <= SctpOptions::default().max_receiver_window + 128 * 1024);
    assert_eq!(insider.victim.take_counts().violations, 1);
}

#[test]
fn acknowledgement_of_what_was_not_sent_is_ignored() {
    let mut insider = Insider::new();
    for (cumulative, blocks) in [(0_u32, 0_u16), (1 << 31, 0), (77, 200), (u32::MAX, 280)] {
        let mut writer = insider.writer();
        writer.chunk(kind::SACK, 0, |out| {
            out.extend(cumulative.to_be_bytes());
            out.extend(1_000_000_u32.to_be_bytes());
            out.extend(blocks.to_be_bytes());
            out.extend([0; 2]);
            for _ in 0..blocks {
                out.extend([0, 1, 0xff, 0xff]);
            }
        });
        insider.deliver(writer);
    }
    assert_eq!(insider.victim.state(), SctpState::Connected);
    insider.victim.send(message(1, b"still", RELIABLE), insider.now).unwrap();
    assert!(insider.victim.poll_transmit(insider.now).is_some());
}

#[test]
fn mutated_conversation_breaks_nothing() {
    let mut sums = SctpCounts::default();
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let mut pair = Pair::connected(SctpOptions::default());
        for round in 0..30 {
            let _ = pair.send(round % 2, (round % 5) as u16, &pattern(1 + round * 211, round), RELIABLE);
            if round % 7 == 0 {
                pair.ends[round % 2].reset_stream((round % 5) as u16);
            }
            let now = pair.now();
            for index in 0..2 {
                while let Some(packet) = pair.ends[index].poll_transmit(now) {
                    let mut packet = packet;
                    if random.chance(0.3) {
                        mutate(&mut packet, &mut random);
                    }
                    pair.ends[1 - index].handle_packet(&packet, now);
                }
            }
            pair.clock.advance(Duration::from_millis(random.below(1500)));
            let now = pair.now();
            for index in 0..2 {
                pair.ends[index].handle_timeout(now);
                while pair.ends[index].poll_event().is_some() {}
                add(&mut sums, pair.ends[index].take_counts());
                assert!(pair.ends[index].buffered() <= 6 * 1024 * 1024);
            }
        }
    }
    assert!(sums.malformed > 0 && sums.wrong_tag > 0 && sums.data_duplicate > 0, "{sums:?}");
}

/// Changes bytes of the chunks and mends the checksum, so that what lies behind it is reached.
fn mutate(packet: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(4) {
        let position = random.below(packet.len() as u64) as usize;
        match random.below(4) {
            0 => packet[position] ^= 1 << random.below(8),
            1 => packet[position] = random.next() as u8,
            2 if packet.len() > 20 => packet.truncate(position.max(16)),
            _ => {
                let copied = packet[position.max(12)..].to_vec();
                packet.extend(copied);
            }
        }
    }
    if random.chance(0.9) {
        packet[8..12].fill(0);
        let checksum = !crc32c::update(u32::MAX, packet);
        packet[8..12].copy_from_slice(&checksum.to_le_bytes());
    }
}
