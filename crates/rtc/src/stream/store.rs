//! The latest packets of one producer stream, plaintext, kept once for all its consumers.
//!
//! Packets lie one after another in an arena that is used as a ring and grows while packets that may still be
//! asked for would be overwritten, up to a limit; once it has its size nothing is allocated. The oldest
//! packet goes first: by age, by number and by bytes.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// First size of an arena.
const MIN_ARENA_BYTES: usize = 16 * 1024;
/// First size of an index.
const MIN_INDEX: usize = 64;

/// What a store may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreLimits {
    /// Packets.
    pub packets: usize,
    /// Bytes of the arena.
    pub bytes: usize,
    /// Age of a packet.
    pub age: Duration,
}

impl StoreLimits {
    /// Two seconds of video, up to 16 Mbit/s.
    pub const VIDEO: Self = Self { packets: 4096, bytes: 4 << 20, age: Duration::from_secs(2) };
    /// One second of audio, up to 2 Mbit/s.
    pub const AUDIO: Self = Self { packets: 512, bytes: 256 << 10, age: Duration::from_secs(1) };
}

/// A packet in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredPacket<'a> {
    /// Its extended sequence number.
    pub seq: u64,
    /// When it arrived.
    pub arrived_at: Instant,
    /// The whole plaintext packet.
    pub bytes: &'a [u8],
    payload_start: usize,
    payload_end: usize,
}

impl<'a> StoredPacket<'a> {
    /// The RTP header with its extensions, as the publisher sent it.
    #[must_use]
    pub fn header(&self) -> &'a [u8] {
        &self.bytes[..self.payload_start]
    }

    /// The payload, without padding.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[self.payload_start..self.payload_end]
    }
}

/// Packets by extended sequence number.
#[derive(Clone, Debug)]
pub struct PacketStore {
    limits: StoreLimits,
    arena: Vec<u8>,
    /// In order of arrival, which is their order in the arena.
    records: VecDeque<Record>,
    /// Number of the first of `records`; counts all that were ever dropped, wrapping.
    first_record: u32,
    /// Record number by sequence number modulo the length (a power of two). A slot whose record is gone or is
    /// of another packet is free.
    index: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    seq: u64,
    arrived_at: Instant,
    offset: u32,
    len: u16,
    payload_start: u16,
    payload_end: u16,
}

impl PacketStore {
    /// An empty store; it allocates with the first packet.
    #[must_use]
    pub const fn new(limits: StoreLimits) -> Self {
        Self { limits, arena: Vec::new(), records: VecDeque::new(), first_record: 0, index: Vec::new() }
    }

    /// Stores a packet. `payload` is the range of its payload, without padding. `false` when it is stored
    /// already, or when it or its ranges are out of bounds.
    pub fn insert(&mut self, seq: u64, packet: &[u8], payload: std::ops::Range<usize>, now: Instant) -> bool {
        let (Ok(len), Ok(payload_start), Ok(payload_end)) =
            (u16::try_from(packet.len()), u16::try_from(payload.start), u16::try_from(payload.end))
        else {
            return false;
        };
        if payload_start > payload_end || payload_end > len || packet.len() > self.limits.bytes || len == 0 {
            return false;
        }
        self.expire(now);
        if self.find(seq).is_some() {
            return false;
        }
        while self.records.len() >= self.limits.packets.max(1) {
            self.drop_oldest();
        }
        self.fit_index(seq);
        let offset = self.make_room(packet.len());
        self.arena[offset..offset + packet.len()].copy_from_slice(packet);
        let number = self.first_record.wrapping_add(self.records.len() as u32);
        self.records.push_back(Record {
            seq,
            arrived_at: now,
            offset: offset as u32,
            len,
            payload_start,
            payload_end,
        });
        let slot = self.index_slot(seq);
        self.index[slot] = number;
        true
    }

    /// The packet with this extended sequence number.
    #[must_use]
    pub fn get(&self, seq: u64) -> Option<StoredPacket<'_>> {
        let record = self.find(seq)?;
        let offset = record.offset as usize;
        Some(StoredPacket {
            seq,
            arrived_at: record.arrived_at,
            bytes: self.arena.get(offset..offset + usize::from(record.len))?,
            payload_start: usize::from(record.payload_start),
            payload_end: usize::from(record.payload_end),
        })
    }

    /// Drops what is too old: to be called now and then while nothing arrives.
    pub fn expire(&mut self, now: Instant) {
        while let Some(oldest) = self.records.front()
            && now.saturating_duration_since(oldest.arrived_at) > self.limits.age
        {
            self.drop_oldest();
        }
    }

    /// Drops everything and gives the memory back: the producer is paused or its stream restarted.
    pub fn clear(&mut self) {
        *self = Self::new(self.limits);
    }

    /// Packets held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether no packet is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Bytes of memory held beyond the struct itself.
    #[must_use]
    pub fn allocated_bytes(&self) -> usize {
        self.arena.capacity()
            + self.records.capacity() * size_of::<Record>()
            + self.index.capacity() * size_of::<u32>()
    }

    fn find(&self, seq: u64) -> Option<&Record> {
        let number = *self.index.get(self.index_slot(seq))?;
        let record = self.records.get(number.wrapping_sub(self.first_record) as usize)?;
        (record.seq == seq).then_some(record)
    }

    fn index_slot(&self, seq: u64) -> usize {
        // Never reached with an empty index but by `find`, whose look-up then fails.
        seq as usize & self.index.len().wrapping_sub(1)
    }

    fn drop_oldest(&mut self) {
        if self.records.pop_front().is_some() {
            self.first_record = self.first_record.wrapping_add(1);
        }
    }

    /// Keeps two held packets from sharing a slot of the index, by growing it or by dropping the other one.
    fn fit_index(&mut self, seq: u64) {
        if self.index.is_empty() {
            self.reindex(MIN_INDEX);
        }
        loop {
            let number = self.index[self.index_slot(seq)];
            let Some(held) = self.records.get(number.wrapping_sub(self.first_record) as usize) else {
                return;
            };
            // A record that is in another slot: this one is free, its number has only been used again.
            if held.seq & (self.index.len() as u64 - 1) != seq & (self.index.len() as u64 - 1) {
                return;
            }
            // Sequence numbers may be sparse: twice the packets is what gaps and reordering need.
            if self.index.len() >= self.limits.packets.max(MIN_INDEX).next_power_of_two() * 2 {
                return;
            }
            self.reindex(self.index.len() * 2);
        }
    }

    fn reindex(&mut self, len: usize) {
        self.index = vec![self.first_record.wrapping_sub(1); len];
        for position in 0..self.records.len() {
            let slot = self.index_slot(self.records[position].seq);
            self.index[slot] = self.first_record.wrapping_add(position as u32);
        }
    }

    /// An offset with room for `len` bytes. Grows the arena or drops the oldest packets.
    fn make_room(&mut self, len: usize) -> usize {
        loop {
            if let Some(offset) = self.free_offset(len) {
                return offset;
            }
            if self.arena.len() < self.limits.bytes {
                self.grow_arena(len);
            } else {
                self.drop_oldest();
            }
        }
    }

    fn free_offset(&self, len: usize) -> Option<usize> {
        let (Some(oldest), Some(newest)) = (self.records.front(), self.records.back()) else {
            return (len <= self.arena.len()).then_some(0);
        };
        let start = oldest.offset as usize;
        let end = newest.offset as usize + usize::from(newest.len);
        if newest.offset as usize >= start {
            // Held packets lie in one piece; what follows them is free, and what precedes them.
            if self.arena.len() - end >= len {
                return Some(end);
            }
            return (start >= len).then_some(0);
        }
        (start - end >= len).then_some(end)
    }

    fn grow_arena(&mut self, len: usize) {
        let held: usize = self.records.iter().map(|record| usize::from(record.len)).sum();
        let size = (self.arena.len() * 2)
            .max(MIN_ARENA_BYTES)
            .max((held + len).next_power_of_two())
            .min(self.limits.bytes);
        let mut grown = Vec::with_capacity(size);
        for record in &mut self.records {
            let offset = record.offset as usize;
            record.offset = grown.len() as u32;
            grown.extend_from_slice(&self.arena[offset..offset + usize::from(record.len)]);
        }
        grown.resize(size, 0);
        self.arena = grown;
    }
}

#[cfg(test)]
mod tests;
