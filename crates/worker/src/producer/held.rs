//! Packets between their Producer and its Consumers: they are held until the turn has read what came, or a little longer
//! while a frame is evidently incomplete, so that a receiver gets the packets of a frame in one run.
//!
//! A run of six costs what two or three single datagrams do, which is worth waiting for where many receive. What it costs
//! is time: never more than [`MAX_HOLD`], and nothing where waiting has brought nothing lately.

use std::time::{Duration, Instant};

use rtc::codec::{PayloadInfo, vp8};
use rtc::rtp::RtpHeader;
use worker_protocol::wire::rtp_parameters as rtp;

use super::Producer;
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

/// Bytes of padding that even out a frame's packets at most. Encoders cut frames into parts that differ by one.
pub const MAX_EVENING: usize = 3;

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
    start: usize,
    len: usize,
    header: RtpHeader,
    encoding: u8,
    newest: bool,
    payload_type: u8,
    info: PayloadInfo,
    descriptor: Option<vp8::Descriptor>,
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
        Some(Incoming {
            packet,
            header: self.header,
            payload: self.header.payload(packet),
            encoding: self.encoding,
            seq: self.seq,
            newest: self.newest,
            payload_type: self.payload_type,
            info: self.info,
            descriptor: self.descriptor,
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
            start: self.held.arena.len(),
            len: incoming.packet.len(),
            header: incoming.header,
            encoding: incoming.encoding,
            newest: incoming.newest,
            payload_type: incoming.payload_type,
            info: incoming.info,
            descriptor: incoming.descriptor,
        });
        self.held.arena.extend_from_slice(incoming.packet);
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
        let packets = producer.hold.release();
        let arena = std::mem::take(&mut self.held.arena);
        self.forward(index, &packets, &arena, now);
        self.held.arena = arena;
        if let Some(producer) = self.producers.get_mut(index) {
            let mut packets = packets;
            packets.clear();
            producer.hold.packets = packets;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold_with(hold: &mut Hold, packets: usize, complete: bool, now: Instant) {
        for packet in 0..packets {
            hold.note(0, true, complete && packet + 1 == packets, now);
            hold.packets.push(HeldPacket {
                position: 0,
                seq: packet as u64,
                start: 0,
                len: 0,
                header: RtpHeader::parse(&[0x80; 12]).unwrap(),
                encoding: 0,
                newest: true,
                payload_type: 0,
                info: PayloadInfo::default(),
                descriptor: None,
            });
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
