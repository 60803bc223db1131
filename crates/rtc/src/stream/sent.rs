//! What a consumer remembers of the packets it sent: where each came from and how its header was written,
//! 10 bytes a packet and no payload; 15 where repeats go out under their own numbers, without a repair stream.
//!
//! A repeat is made anew from the producer's stored packet and this record. Everything that may differ from
//! packet to packet is in it, so that a repeat under its own sequence number (no RTX) is byte for byte what
//! went out first: an AEAD must never see one nonce with two plaintexts.

use arrayvec::ArrayVec;
use std::any::Any;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Packets whose records are allocated together. What is remembered grows and moves on by so many: nothing is ever copied
/// to a larger place, which would leave a hole of every size it once had.
const BLOCK: u64 = 16;
/// So many blocks at most: 2 s of 1,280 packets/s.
const MAX_BLOCKS: usize = 160;
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

/// The latest sent packets of one outgoing stream, by sequence number.
#[derive(Clone, Debug)]
pub struct SentMap {
    /// Packets older than this are not repeated.
    window: Duration,
    start: Instant,
    newest: Option<u64>,
    /// Consecutive blocks, each from a multiple of its length on; the last holds the newest packet.
    blocks: VecDeque<Box<Block>>,
    /// The first number of the first block.
    first: u64,
    /// Whether a repeat carries the stamps of the packet: else they are not kept.
    keeps_stamps: bool,
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
    /// When it was sent last, in ticks since the start of the map, wrapping after 262 s.
    sent_at: u16,
    codec: [u8; 3],
    /// Wide enough that no number comes again while a packet with it is in the ring: each rewrite is made for a packet.
    rewrite: u16,
    /// Whether the slot is taken, the marker, the padding, and how often it was repeated.
    state: u8,
}

/// What the header extensions of one packet said: a repair stream's packets get stamps of their own.
#[derive(Clone, Copy, Debug, Default)]
#[repr(Rust, packed)]
struct Stamps {
    transport_seq: u16,
    abs_send_time: [u8; 3],
}

#[derive(Clone, Debug, Default)]
struct Block {
    entries: [Entry; BLOCK as usize],
    /// There from the first stamps on that are kept.
    stamps: Option<Box<[Stamps; BLOCK as usize]>>,
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

impl Block {
    /// Forgets the packets, and keeps the memory. Stamps without an entry mean nothing.
    const fn clear(&mut self) {
        self.entries = [Entry::EMPTY; BLOCK as usize];
    }
}

impl Entry {
    const EMPTY: Self = Self { origin_delta: 0, sent_at: 0, codec: [0; 3], rewrite: 0, state: 0 };
}

impl SentMap {
    /// `window`: how long a packet may be repeated. `keeps_stamps`: whether it then goes out under its own number, with
    /// the very header that it had; a packet of a repair stream has a header of its own.
    #[must_use]
    pub const fn new(window: Duration, keeps_stamps: bool, now: Instant) -> Self {
        Self {
            window,
            keeps_stamps,
            start: now,
            newest: None,
            blocks: VecDeque::new(),
            first: 0,
            rewrites: ArrayVec::new_const(),
            newest_rewrite: 0,
        }
    }

    /// Changes how long a packet may be repeated.
    pub const fn set_window(&mut self, window: Duration) {
        self.window = window;
    }

    /// Remembers a packet that goes out. `false` when it was sent before (do not send it again: receivers
    /// would drop it) or lies before all that is remembered.
    pub fn insert(&mut self, packet: &SentPacket, now: Instant) -> bool {
        if self.newest.is_none_or(|newest| packet.seq > newest) {
            self.advance(packet.seq, now);
        }
        if self.entry(packet.seq).is_none_or(|entry| entry.state & PRESENT != 0) {
            return false;
        }
        let (rewrite, origin_delta) = self.rewrite_of(packet);
        let entry = Entry {
            origin_delta,
            sent_at: self.tick(now),
            codec: packet.codec,
            rewrite,
            state: PRESENT
                | if packet.marker { MARKER } else { 0 }
                | packet.padding.min(MAX_PADDING) << PADDING_SHIFT,
        };
        let stamps = self.keeps_stamps.then(|| {
            let [_, high, middle, low] = packet.abs_send_time.to_be_bytes();
            Stamps { transport_seq: packet.transport_seq, abs_send_time: [high, middle, low] }
        });
        self.place_mut(packet.seq).is_some_and(|(block, at)| {
            block.entries[at] = entry;
            if let Some(stamps) = stamps {
                block.stamps.get_or_insert_default()[at] = stamps;
            }
            true
        })
    }

    /// Shows the memory that the next packet will be remembered in, so that it can be fetched ahead.
    pub fn show_next(&self, show: impl FnOnce(&[u8])) {
        // Behind the last block comes the first, as a rule.
        let next = self.newest.and_then(|newest| {
            self.entry(newest.wrapping_add(1)).or_else(|| self.blocks.front().map(|block| &block.entries[0]))
        });
        if let Some(entry) = next {
            show(std::slice::from_ref(&entry.state));
        }
    }

    /// Shows what [`SentMap::show_next`] looks at.
    pub fn show_index<'s>(&'s self, show: impl FnOnce(&'s dyn Any)) {
        let (front, back) = self.blocks.as_slices();
        if let Some(last) = back.last().or(front.last()) {
            show(last);
        }
    }

    /// The packet that a NACK asks for; when it is to be repeated, the repeat is counted as sent now. Refused within
    /// `rtt` after the last repeat, and within `first_wait` after the first.
    pub fn request(&mut self, seq: u16, first_wait: Duration, rtt: Duration, now: Instant) -> Lookup {
        let Some(newest) = self.newest else { return Lookup::Unknown };
        let behind = u64::from((newest as u16).wrapping_sub(seq));
        let Some(seq) = newest.checked_sub(behind) else { return Lookup::Unknown };
        let tick = self.tick(now);
        let Some((block, at)) = self.place(seq) else { return Lookup::Unknown };
        let entry = block.entries[at];
        let stamps = block.stamps.as_ref().map_or_else(Stamps::default, |stamps| stamps[at]);
        let repeats = entry.state & REPEATS;
        let age = TICK * u32::from(tick.wrapping_sub(entry.sent_at));
        if entry.state & PRESENT == 0 || age > self.window {
            return Lookup::Unknown;
        }
        let wait = match repeats {
            0 => Duration::ZERO,
            1 => first_wait,
            _ => rtt,
        };
        if repeats >= MAX_REPEATS || age < wait {
            return Lookup::Refused;
        }
        let from_newest = usize::from(self.newest_rewrite.wrapping_sub(entry.rewrite));
        let Some(rewrite) = self.rewrites.iter().rev().nth(from_newest) else { return Lookup::Unknown };
        let [high, middle, low] = stamps.abs_send_time;
        let packet = SentPacket {
            seq,
            origin: rewrite.origin,
            origin_seq: rewrite.origin_base.wrapping_add_signed(i64::from(entry.origin_delta)),
            timestamp_offset: rewrite.timestamp_offset,
            codec: entry.codec,
            transport_seq: stamps.transport_seq,
            abs_send_time: u32::from_be_bytes([0, high, middle, low]),
            marker: entry.state & MARKER != 0,
            padding: entry.state >> PADDING_SHIFT & MAX_PADDING,
        };
        if let Some((block, at)) = self.place_mut(seq) {
            block.entries[at].state += 1;
            block.entries[at].sent_at = tick;
        }
        Lookup::Repeat { packet, first: repeats == 0 }
    }

    /// Forgets all packets (the consumer was paused), and frees their memory.
    pub fn clear(&mut self) {
        self.newest = None;
        self.blocks = VecDeque::new();
        self.rewrites.clear();
    }

    /// Bytes of memory held beyond the struct itself.
    #[must_use]
    pub fn allocated_bytes(&self) -> usize {
        let stamps = self.blocks.iter().filter(|block| block.stamps.is_some()).count();
        self.blocks.len() * size_of::<Block>()
            + stamps * size_of::<[Stamps; BLOCK as usize]>()
            + self.blocks.capacity() * size_of::<Box<Block>>()
    }

    fn entry(&self, seq: u64) -> Option<&Entry> {
        self.place(seq).map(|(block, at)| &block.entries[at])
    }

    /// The block of a number, and its place in there, which is below the block's length.
    fn place(&self, seq: u64) -> Option<(&Block, usize)> {
        let at = seq.checked_sub(self.first)?;
        Some((self.blocks.get((at / BLOCK) as usize)?, (at % BLOCK) as usize))
    }

    fn place_mut(&mut self, seq: u64) -> Option<(&mut Block, usize)> {
        let at = seq.checked_sub(self.first)?;
        Some((self.blocks.get_mut((at / BLOCK) as usize)?, (at % BLOCK) as usize))
    }

    fn tick(&self, now: Instant) -> u16 {
        const TICKS_PER_SECOND: u64 = 1000 / TICK_MS;
        let since = now.saturating_duration_since(self.start);
        let within = since.subsec_nanos() / (TICK_MS as u32 * 1_000_000);
        (since.as_secs() * TICKS_PER_SECOND + u64::from(within)) as u16
    }

    /// Makes `seq` the newest. A new block takes the place of the first where that is old enough, or there are too many.
    fn advance(&mut self, seq: u64, now: Instant) {
        let block = seq - seq % BLOCK;
        let distance = block.saturating_sub(self.first) / BLOCK;
        let is_jump = distance >= (self.blocks.len() + MAX_BLOCKS) as u64;
        if self.newest.is_none() || is_jump {
            self.blocks.truncate(1);
            self.blocks.iter_mut().for_each(|block| block.clear());
            self.first = block;
        }
        self.newest = Some(seq);
        while self.first + self.blocks.len() as u64 * BLOCK <= block {
            let is_full = self.blocks.len() >= MAX_BLOCKS;
            let is_free = is_full || self.blocks.front().is_some_and(|first| self.is_forgotten(first, now));
            match if is_free { self.blocks.pop_front() } else { None } {
                Some(mut reused) => {
                    reused.clear();
                    self.blocks.push_back(reused);
                    self.first += BLOCK;
                }
                None => self.blocks.push_back(Box::default()),
            }
        }
    }

    /// Whether nothing in the block may be repeated any more.
    fn is_forgotten(&self, block: &Block, now: Instant) -> bool {
        let tick = self.tick(now);
        let age = |entry: &Entry| TICK * u32::from(tick.wrapping_sub(entry.sent_at));
        block.entries.iter().all(|entry| entry.state & PRESENT == 0 || age(entry) > self.window)
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
