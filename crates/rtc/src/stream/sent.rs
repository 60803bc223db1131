//! What a consumer remembers of the packets it sent: where each came from and how its header was written,
//! 15 bytes a packet and no payload.
//!
//! A repeat is made anew from the producer's stored packet and this record. Everything that may differ from
//! packet to packet is in it, so that a repeat under its own sequence number (no RTX) is byte for byte what
//! went out first: an AEAD must never see one nonce with two plaintexts.

use arrayvec::ArrayVec;
use std::time::{Duration, Instant};

/// The ring grows by this many packets…
const GROWTH: usize = 64;
/// …to this many at most: 2 s of 1,280 packets/s.
const MAX_PACKETS: usize = 2560;
/// Rewrites (layer switches, mostly) that packets still in the ring may refer to.
const MAX_REWRITES: usize = 8;
/// Resolution of send times.
const TICK_MS: u64 = 4;
const TICK: Duration = Duration::from_millis(TICK_MS);
/// How often one packet is repeated at most.
const MAX_REPEATS: u8 = 10;

/// Where a sent packet came from and how it was rewritten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SentPacket {
    /// Extended sequence number under which it went out.
    pub seq: u64,
    /// Which of the producer's streams it came from (index of the encoding).
    pub origin: u8,
    /// Its extended sequence number there: the key of the packet store.
    pub origin_seq: u64,
    /// What was added to its timestamp (wrapping).
    pub timestamp_offset: u32,
    /// What the codec's rewriting needs to do the same again (of VP8: picture id and TL0PICIDX).
    pub codec: [u8; 3],
    /// Its transport-wide sequence number, zero without one.
    pub transport_seq: u16,
    /// Its absolute send time (24 bits), zero without one.
    pub abs_send_time: u32,
    /// The marker bit as sent.
    pub marker: bool,
    /// Bytes of padding behind the payload, at most [`MAX_PADDING`].
    pub padding: u8,
}

/// Padding that can be remembered.
pub const MAX_PADDING: u8 = 3;

/// Ring of the latest sent packets of one outgoing stream, by sequence number.
#[derive(Clone, Debug)]
pub struct SentMap {
    /// Packets older than this are not repeated.
    window: Duration,
    start: Instant,
    newest: Option<u64>,
    /// The slot of a packet is its sequence number modulo the length.
    entries: Vec<Entry>,
    rewrites: ArrayVec<Rewrite, MAX_REWRITES>,
    /// Identity of the last of `rewrites`; those before have the preceding ones.
    newest_rewrite: u16,
}

/// What consecutive packets share.
#[derive(Clone, Copy, Debug)]
struct Rewrite {
    origin: u8,
    timestamp_offset: u32,
    /// Origins are kept relative to this one.
    origin_base: u64,
}

/// Packed: there are hundreds of it for each consumer.
#[derive(Clone, Copy, Debug, Default)]
#[repr(Rust, packed)]
struct Entry {
    origin_delta: i16,
    transport_seq: u16,
    /// When it was sent last, in ticks since the start of the map, wrapping after 262 s.
    sent_at: u16,
    codec: [u8; 3],
    abs_send_time: [u8; 3],
    /// Wide enough that no number comes again while a packet with it is in the ring: each rewrite is made for a packet.
    rewrite: u16,
    /// Whether the slot is taken, the marker, the padding, and how often it was repeated.
    state: u8,
}

const PRESENT: u8 = 0x80;
const MARKER: u8 = 0x40;
const PADDING_SHIFT: u32 = 4;
const REPEATS: u8 = 0x0f;

const _: () =
    assert!(MAX_REPEATS <= REPEATS && (MAX_PADDING << PADDING_SHIFT) & (PRESENT | MARKER | REPEATS) == 0);

/// Whether a packet that is asked for can be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Repeat it; `first` tells whether for the first time.
    Repeat {
        /// The packet.
        packet: SentPacket,
        /// Whether it was not repeated before.
        first: bool,
    },
    /// Never sent, or too long ago.
    Unknown,
    /// Repeated within the last round trip, or as often as one packet may be.
    Refused,
}

impl SentMap {
    /// `window`: how long a packet may be repeated.
    #[must_use]
    pub const fn new(window: Duration, now: Instant) -> Self {
        Self {
            window,
            start: now,
            newest: None,
            entries: Vec::new(),
            rewrites: ArrayVec::new_const(),
            newest_rewrite: 0,
        }
    }

    /// Remembers a packet that goes out. `false` when it was sent before (do not send it again: receivers
    /// would drop it) or lies before all that is remembered.
    pub fn insert(&mut self, packet: &SentPacket, now: Instant) -> bool {
        if self.entries.is_empty() {
            self.entries = vec![Entry::default(); GROWTH];
        }
        let newest = self.newest.unwrap_or(packet.seq);
        if packet.seq > newest || self.newest.is_none() {
            self.advance(newest, packet.seq, now);
        } else if newest - packet.seq >= self.entries.len() as u64 {
            return false;
        }
        let slot = self.slot(packet.seq);
        if self.entries[slot].state & PRESENT != 0 {
            return false;
        }
        let (rewrite, origin_delta) = self.rewrite_of(packet);
        let [_, high, middle, low] = packet.abs_send_time.to_be_bytes();
        self.entries[slot] = Entry {
            origin_delta,
            transport_seq: packet.transport_seq,
            sent_at: self.tick(now),
            codec: packet.codec,
            abs_send_time: [high, middle, low],
            rewrite,
            state: PRESENT
                | if packet.marker { MARKER } else { 0 }
                | packet.padding.min(MAX_PADDING) << PADDING_SHIFT,
        };
        true
    }

    /// Shows the memory that the next packet will be remembered in, so that it can be fetched ahead.
    pub fn show_next(&self, show: impl FnOnce(&[u8])) {
        let Some(newest) = self.newest.filter(|_| !self.entries.is_empty()) else { return };
        let entry = &self.entries[self.slot(newest + 1)];
        show(std::slice::from_ref(&entry.state));
    }

    /// The packet that a NACK asks for; when it is to be repeated, the repeat is counted as sent now.
    pub fn request(&mut self, seq: u16, rtt: Duration, now: Instant) -> Lookup {
        let Some(newest) = self.newest else { return Lookup::Unknown };
        let behind = u64::from((newest as u16).wrapping_sub(seq));
        if behind >= self.entries.len() as u64 || behind > newest {
            return Lookup::Unknown;
        }
        let seq = newest - behind;
        let tick = self.tick(now);
        let slot = self.slot(seq);
        let entry = self.entries[slot];
        let repeats = entry.state & REPEATS;
        let age = TICK * u32::from(tick.wrapping_sub(entry.sent_at));
        if entry.state & PRESENT == 0 || age > self.window {
            return Lookup::Unknown;
        }
        if repeats >= MAX_REPEATS || (repeats > 0 && age < rtt) {
            return Lookup::Refused;
        }
        let from_newest = usize::from(self.newest_rewrite.wrapping_sub(entry.rewrite));
        let Some(rewrite) = self.rewrites.iter().rev().nth(from_newest) else { return Lookup::Unknown };
        let [high, middle, low] = entry.abs_send_time;
        let packet = SentPacket {
            seq,
            origin: rewrite.origin,
            origin_seq: rewrite.origin_base.wrapping_add_signed(i64::from(entry.origin_delta)),
            timestamp_offset: rewrite.timestamp_offset,
            codec: entry.codec,
            transport_seq: entry.transport_seq,
            abs_send_time: u32::from_be_bytes([0, high, middle, low]),
            marker: entry.state & MARKER != 0,
            padding: entry.state >> PADDING_SHIFT & MAX_PADDING,
        };
        self.entries[slot].state += 1;
        self.entries[slot].sent_at = tick;
        Lookup::Repeat { packet, first: repeats == 0 }
    }

    /// Forgets all packets (the consumer was paused); keeps the memory.
    pub fn clear(&mut self) {
        self.newest = None;
        self.entries.fill(Entry::default());
        self.rewrites.clear();
    }

    /// Bytes of memory held beyond the struct itself.
    #[must_use]
    pub fn allocated_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>()
    }

    fn slot(&self, seq: u64) -> usize {
        (seq % self.entries.len() as u64) as usize
    }

    fn tick(&self, now: Instant) -> u16 {
        const TICKS_PER_SECOND: u64 = 1000 / TICK_MS;
        let since = now.saturating_duration_since(self.start);
        let within = since.subsec_nanos() / (TICK_MS as u32 * 1_000_000);
        (since.as_secs() * TICKS_PER_SECOND + u64::from(within)) as u16
    }

    /// Makes `seq` the newest: frees the slots up to it, and grows first if that would forget a packet that
    /// may still be asked for.
    fn advance(&mut self, newest: u64, seq: u64, now: Instant) {
        let steps = seq - newest;
        let mut len = self.entries.len() as u64;
        // The usual case, in one look at the slot: the next packet takes the place of one that is old enough, or of none.
        if steps == 1 {
            let slot = self.slot(seq);
            let oldest = self.entries[slot];
            let age = TICK * u32::from(self.tick(now).wrapping_sub(oldest.sent_at));
            if oldest.state & PRESENT == 0 || age > self.window || self.entries.len() >= MAX_PACKETS {
                self.entries[slot] = Entry::default();
                self.newest = Some(seq);
                return;
            }
        }
        if self.newest.is_some() && steps < len {
            let oldest_forgotten = self.entries[self.slot(seq)];
            let age = TICK * u32::from(self.tick(now).wrapping_sub(oldest_forgotten.sent_at));
            if oldest_forgotten.state & PRESENT != 0 && age <= self.window && self.entries.len() < MAX_PACKETS
            {
                self.grow(newest);
                len = self.entries.len() as u64;
            }
        }
        // Numbers that were skipped may be filled later; their slots must not hold older packets.
        for skipped in (seq - steps.min(len - 1))..=seq {
            let slot = self.slot(skipped);
            if self.newest.is_none() || skipped > newest {
                self.entries[slot] = Entry::default();
            }
        }
        self.newest = Some(seq);
    }

    fn grow(&mut self, newest: u64) {
        let old_len = self.entries.len() as u64;
        let new_len = (self.entries.len() + GROWTH).min(MAX_PACKETS);
        let mut grown = vec![Entry::default(); new_len];
        for seq in (newest + 1).saturating_sub(old_len)..=newest {
            grown[(seq % new_len as u64) as usize] = self.entries[self.slot(seq)];
        }
        self.entries = grown;
    }

    /// The identity of the rewrite that the packet shares, made if there is none, and its origin within it.
    fn rewrite_of(&mut self, packet: &SentPacket) -> (u16, i16) {
        let delta = |base: u64| i16::try_from(packet.origin_seq.wrapping_sub(base).cast_signed()).ok();
        for (back, rewrite) in (0_u16..).zip(self.rewrites.iter().rev()) {
            if rewrite.origin == packet.origin
                && rewrite.timestamp_offset == packet.timestamp_offset
                && let Some(delta) = delta(rewrite.origin_base)
            {
                return (self.newest_rewrite.wrapping_sub(back), delta);
            }
        }
        if self.rewrites.is_full() {
            self.rewrites.remove(0);
        }
        self.rewrites.push(Rewrite {
            origin: packet.origin,
            timestamp_offset: packet.timestamp_offset,
            origin_base: packet.origin_seq,
        });
        self.newest_rewrite = self.newest_rewrite.wrapping_add(1);
        (self.newest_rewrite, 0)
    }
}

#[cfg(test)]
mod tests;
