//! Packets between their Producer and its Consumers: they are held until the turn has read what came, or a little longer
//! while a frame is evidently incomplete, so that a receiver gets the packets of a frame in one run.
//!
//! A run of six costs what two or three single datagrams do, which is worth waiting for where many receive. What it costs
//! is time: never more than [`MAX_HOLD`], and nothing where waiting has brought nothing lately.

use std::time::{Duration, Instant};

use rtc::codec::layers::Layering;
use rtc::codec::{PayloadInfo, vp8};
use rtc::rtp::RtpHeader;
use rtc::stream::sent::MAX_PADDING;
use worker_protocol::wire::rtp_parameters as rtp;

use super::Producer;
use super::elements::Values;
use crate::consumer::egress::{BATCH, Incoming};
use crate::table::ProducerIdx;
use crate::worker::Worker;

/// How long a packet is held at most.
pub const MAX_HOLD: Duration = Duration::from_millis(1);

/// How long the next packet of a frame is waited for. A publisher's burst comes faster than that, a paced one slower.
const NEXT_PACKET: Duration = Duration::from_micros(300);

/// Consumers from which on waiting is worth its price, two wake-ups of a few microseconds.
const MIN_AUDIENCE: usize = 8;

/// Packets that one Producer holds at most.
const MAX_PACKETS: usize = BATCH;

/// Bytes that are held at most, of all Producers together.
const MAX_BYTES: usize = 1024 * 1024;

/// How many frames are not waited for after waiting was in vain too often.
const RESIGNED_FRAMES: i16 = 64;

/// How much confidence successful waiting builds up at most.
const MAX_CONFIDENCE: i16 = 8;

/// Bytes of padding that even out a frame's packets at most. Senders cut frames into parts that differ by one.
const MAX_EVENING: usize = MAX_PADDING as usize;

/// The bytes of everything that is held.
#[derive(Debug, Default)]
pub struct Held {
    arena: Vec<u8>,
    /// Producers that hold packets, some perhaps twice or no more.
    waiting: Vec<ProducerIdx>,
}

/// A packet that is held.
#[derive(Debug, Clone, Copy)]
pub struct HeldPacket {
    /// Which of the Producer's streams it is of.
    pub position: usize,
    /// Its extended sequence number.
    pub seq: u64,
    /// Bytes of padding with which it is as long as its neighbours.
    evening: u8,
    start: usize,
    len: usize,
    header: RtpHeader,
    encoding: u8,
    newest: bool,
    payload_type: u8,
    info: PayloadInfo,
    descriptor: Option<vp8::Descriptor>,
    layering: Layering,
    announces: bool,
    values: Values,
}

/// What a Producer holds, and for how long.
#[derive(Debug)]
pub struct Hold {
    /// In order of arrival.
    pub packets: Vec<HeldPacket>,
    /// Bit per stream whose frame is not complete yet.
    incomplete: u32,
    first_at: Instant,
    last_at: Instant,
    /// Packets there were when waiting began; 0 before.
    waited_from: usize,
    /// Above zero while waiting has paid; below zero it counts the frames until it is tried again.
    confidence: i16,
}

impl Hold {
    /// Holds nothing.
    pub fn new(now: Instant) -> Self {
        Self {
            packets: Vec::new(),
            incomplete: 0,
            first_at: now,
            last_at: now,
            waited_from: 0,
            confidence: MAX_CONFIDENCE / 2,
        }
    }

    fn note(&mut self, position: usize, newest: bool, ends_frame: bool, now: Instant) {
        if self.packets.is_empty() {
            self.first_at = now;
        }
        self.last_at = now;
        let bit = 1_u32.checked_shl(u32::try_from(position).unwrap_or(u32::MAX)).unwrap_or(0);
        if ends_frame || !newest {
            self.incomplete &= !bit;
        } else {
            self.incomplete |= bit;
        }
    }

    /// Until when to wait; `None` for no longer.
    fn wait_until(&mut self, now: Instant) -> Option<Instant> {
        if self.incomplete == 0 || self.packets.len() >= MAX_PACKETS {
            return None;
        }
        let until = (self.last_at + NEXT_PACKET).min(self.first_at + MAX_HOLD);
        if self.waited_from == 0 {
            if self.confidence <= 0 {
                self.confidence += 1;
                return None;
            }
            self.waited_from = self.packets.len();
        }
        (now < until).then_some(until)
    }

    /// The packets leave: learns whether waiting for them has paid.
    fn release(&mut self) -> Vec<HeldPacket> {
        if self.waited_from > 0 {
            if self.packets.len() > self.waited_from {
                self.confidence = (self.confidence + 1).min(MAX_CONFIDENCE);
            } else {
                self.confidence -= 1;
                if self.confidence == 0 {
                    self.confidence = -RESIGNED_FRAMES;
                }
            }
        }
        self.waited_from = 0;
        self.incomplete = 0;
        std::mem::take(&mut self.packets)
    }
}

impl HeldPacket {
    /// The packet as it was when it came.
    pub fn incoming<'p>(&self, producer: &Producer, arena: &'p [u8]) -> Option<Incoming<'p>> {
        let packet = arena.get(self.start..self.start + self.len)?;
        let payload_at = self.start + usize::from(self.header.header_len);
        let evened = payload_at + usize::from(self.header.payload_len) + usize::from(self.evening);
        Some(Incoming {
            packet,
            evening: self.evening,
            evened: arena.get(payload_at..evened)?,
            header: self.header,
            payload: self.header.payload(packet),
            encoding: self.encoding,
            seq: self.seq,
            newest: self.newest,
            payload_type: self.payload_type,
            info: self.info,
            descriptor: self.descriptor,
            layering: self.layering,
            announces: self.announces,
            values: self.values,
            forwarded: producer.parameters.extensions.forwarded(&self.header, packet),
        })
    }
}

impl Worker {
    /// Holds a packet until [`Worker::forward_held`].
    pub fn hold(&mut self, index: ProducerIdx, position: usize, incoming: &Incoming<'_>, now: Instant) {
        let producer = &mut self.producers[index];
        if producer.hold.packets.is_empty() {
            self.held.waiting.push(index);
        }
        let ends_frame = producer.kind != rtp::MediaKind::Video || incoming.header.marker;
        producer.hold.note(position, incoming.newest, ends_frame, now);
        producer.hold.packets.push(HeldPacket {
            position,
            seq: incoming.seq,
            evening: 0,
            start: self.held.arena.len(),
            len: incoming.packet.len(),
            header: incoming.header,
            encoding: incoming.encoding,
            newest: incoming.newest,
            payload_type: incoming.payload_type,
            info: incoming.info,
            descriptor: incoming.descriptor,
            layering: incoming.layering,
            announces: incoming.announces,
            values: incoming.values,
        });
        self.held.arena.extend_from_slice(incoming.packet);
        self.held.arena.extend_from_slice(&[0; MAX_EVENING]);
    }

    /// Forwards what is held and not worth waiting with; to be called when the turn has read what came.
    pub fn forward_held(&mut self, now: Instant) {
        if self.held.waiting.is_empty() {
            return;
        }
        let full = self.held.arena.len() > MAX_BYTES;
        let mut waiting = std::mem::take(&mut self.held.waiting);
        let mut next: Option<Instant> = None;
        waiting.retain(|&index| {
            let Some(producer) = self.producers.get_mut(index) else { return false };
            if producer.hold.packets.is_empty() {
                return false;
            }
            let worth = !full && producer.consumers.len() >= MIN_AUDIENCE;
            if worth && let Some(until) = producer.hold.wait_until(now) {
                next = Some(next.map_or(until, |next| next.min(until)));
                return true;
            }
            self.release(index, now);
            false
        });
        if waiting.is_empty() {
            self.held.arena.clear();
        }
        self.held.waiting = waiting;
        self.timers.set(self.held_timer, next);
    }

    /// Forwards what a Producer holds, however incomplete.
    pub fn release(&mut self, index: ProducerIdx, now: Instant) {
        let Some(producer) = self.producers.get_mut(index) else { return };
        let mut packets = producer.hold.release();
        let mut arena = std::mem::take(&mut self.held.arena);
        if producer.kind == rtp::MediaKind::Video {
            even_out(&mut packets, &mut arena);
        }
        self.forward(index, &packets, &arena, now);
        self.held.arena = arena;
        if let Some(producer) = self.producers.get_mut(index) {
            packets.clear();
            producer.hold.packets = packets;
        }
    }
}

/// Gives packets of a stream that are nearly of one length the padding that makes them so: a run takes only its last
/// datagram shorter than the others.
fn even_out(packets: &mut [HeldPacket], arena: &mut [u8]) {
    let mut from = 0;
    while let Some(&first) = packets.get(from) {
        let len = |packet: &HeldPacket| usize::from(packet.header.payload_len);
        let alike = |packet: &&HeldPacket| packet.position == first.position && len(packet) > 0;
        let (mut least, mut most, mut to) = (len(&first), len(&first), from + 1);
        while let Some(next) = packets.get(to).filter(alike)
            && most.max(len(next)) - least.min(len(next)) <= MAX_EVENING
        {
            (least, most) = (least.min(len(next)), most.max(len(next)));
            to += 1;
        }
        // The last one may stay shorter, unless one that is shorter still is to follow it.
        let ends = packets.get(to).filter(alike).is_none_or(|next| len(next) > most);
        let uneven = if ends { to - 1 } else { to };
        for packet in packets.get_mut(from..uneven).unwrap_or_default() {
            let missing = most - len(packet);
            let end = packet.start + usize::from(packet.header.header_len) + len(packet);
            if let Some(padding) = arena.get_mut(end..end + missing)
                && let Ok(count) = u8::try_from(missing)
                && len(packet) > 0
            {
                // RFC 3550, section 5.1: the last byte says how many there are.
                padding.fill(0);
                padding.iter_mut().last().into_iter().for_each(|last| *last = count);
                packet.evening = count;
            }
        }
        from = to;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packets of one stream with payloads of these lengths, and what evening them out gave.
    fn evened(lens: &[usize]) -> Vec<usize> {
        let mut arena = Vec::new();
        let mut packets = Vec::new();
        for len in lens {
            let start = arena.len();
            arena.extend_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            arena.resize(start + 12 + len, 0x55);
            packets.push(held(start, 12 + len, RtpHeader::parse(&arena[start..]).unwrap()));
            arena.extend_from_slice(&[0; MAX_EVENING]);
        }
        even_out(&mut packets, &mut arena);
        for packet in &packets {
            let end = packet.start + packet.len;
            assert!(arena[packet.start + 12..end].iter().all(|byte| *byte == 0x55));
            if packet.evening > 0 {
                assert_eq!(arena[end + usize::from(packet.evening) - 1], packet.evening);
            }
        }
        packets.iter().zip(lens).map(|(packet, len)| len + usize::from(packet.evening)).collect()
    }

    #[test]
    fn parts_of_a_frame_get_one_length_and_the_last_may_be_shorter() {
        assert_eq!(evened(&[1100, 1100, 1101, 1101]), [1101, 1101, 1101, 1101]);
        assert_eq!(evened(&[1101, 1101, 1100]), [1101, 1101, 1100]);
        assert_eq!(evened(&[1101, 1100, 900]), [1101, 1101, 900]);
        assert_eq!(evened(&[1100, 1101, 1300, 1299, 1299]), [1101, 1101, 1300, 1300, 1299]);
        assert_eq!(evened(&[500, 504, 700]), [500, 504, 700]);
        assert_eq!(evened(&[0, 1, 2]), [0, 2, 2]);
        assert_eq!(evened(&[7]), [7]);
    }

    fn held(start: usize, len: usize, header: RtpHeader) -> HeldPacket {
        HeldPacket {
            position: 0,
            seq: 0,
            evening: 0,
            start,
            len,
            header,
            encoding: 0,
            newest: true,
            payload_type: 0,
            info: PayloadInfo::default(),
            descriptor: None,
            layering: Layering::Plain,
            announces: false,
            values: Values::default(),
        }
    }

    fn hold_with(hold: &mut Hold, packets: usize, complete: bool, now: Instant) {
        for packet in 0..packets {
            hold.note(0, true, complete && packet + 1 == packets, now);
            hold.packets.push(held(0, 0, RtpHeader::parse(&[0x80; 76]).unwrap()));
        }
    }

    #[test]
    fn a_complete_frame_is_not_held() {
        let now = Instant::now();
        let mut hold = Hold::new(now);
        hold_with(&mut hold, 3, true, now);
        assert_eq!(hold.wait_until(now), None);
    }

    #[test]
    fn an_incomplete_frame_waits_for_the_next_packet_and_never_longer_than_the_limit() {
        let start = Instant::now();
        let mut hold = Hold::new(start);
        let mut now = start;
        loop {
            hold_with(&mut hold, 1, false, now);
            let Some(until) = hold.wait_until(now) else { break };
            assert!(until <= start + MAX_HOLD && until <= now + NEXT_PACKET);
            now += Duration::from_micros(100);
        }
        assert!(now <= start + MAX_HOLD + Duration::from_micros(100));
        assert!(hold.packets.len() > 8);
    }

    #[test]
    fn waiting_in_vain_is_given_up_and_tried_again() {
        let now = Instant::now();
        let mut hold = Hold::new(now);
        let mut waited = 0;
        for _ in 0..200 {
            hold_with(&mut hold, 1, false, now);
            waited += u32::from(hold.wait_until(now).is_some());
            hold.release();
        }
        assert!((5..=10).contains(&waited), "{waited}");
        // The rest comes in time again: confidence returns.
        let mut waited = 0;
        for _ in 0..200 {
            hold_with(&mut hold, 1, false, now);
            if hold.wait_until(now).is_some() {
                waited += 1;
                hold_with(&mut hold, 1, true, now);
            }
            hold.release();
        }
        assert!(waited > 100, "{waited}");
    }
}
