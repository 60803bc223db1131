//! What went out under which transport-wide number: a ring that every packet is written into, and that feedback reads.

/// First size of the ring, in packets: two seconds of one video stream.
const FIRST_SLOTS: usize = 256;
/// Largest size: two seconds of some 40 Mbit/s.
const MOST_SLOTS: usize = 8192;
/// A packet is not awaited for longer.
const AWAITED_US: u32 = 2_000_000;
/// Set in a slot's length once the packet was reported missing; it may still arrive.
const MISSING: u16 = 0x8000;

/// A packet that was sent and not yet reported as received.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slot {
    /// Microseconds since the start of the estimator, wrapping after 71 minutes.
    sent_us: u32,
    seq: u16,
    /// Bytes; zero where nothing is awaited.
    len: u16,
}

/// The packets that feedback may speak of. Grows while packets would be forgotten that are awaited, then never again.
#[derive(Clone, Debug, Default)]
pub(super) struct SentRing {
    slots: Box<[Slot]>,
}

/// What feedback learns about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    /// How long ago it was sent, in microseconds.
    pub(super) age_us: u32,
    /// Its bytes.
    pub(super) len: u16,
    /// Whether it had been reported missing.
    pub(super) was_missing: bool,
}

impl SentRing {
    /// Where a packet with this number is written.
    pub(super) fn slot(&self, seq: u16) -> Option<&Slot> {
        self.slots.get(usize::from(seq) & self.slots.len().wrapping_sub(1))
    }

    /// A packet goes out.
    pub(super) fn insert(&mut self, seq: u16, bytes: usize, now_us: u32) {
        let len = u16::try_from(bytes).unwrap_or(u16::MAX).clamp(1, MISSING - 1);
        let slot = Slot { sent_us: now_us, seq, len };
        let mask = self.slots.len().wrapping_sub(1);
        match self.slots.get_mut(usize::from(seq) & mask) {
            Some(place) if place.len == 0 || now_us.wrapping_sub(place.sent_us) > AWAITED_US => *place = slot,
            _ => self.insert_growing(slot),
        }
    }

    #[cold]
    fn insert_growing(&mut self, slot: Slot) {
        if self.slots.len() < MOST_SLOTS {
            let len = (self.slots.len() * 2).max(FIRST_SLOTS);
            let mut grown = vec![Slot::default(); len].into_boxed_slice();
            for old in self.slots.iter().filter(|old| old.len != 0) {
                if let Some(place) = grown.get_mut(usize::from(old.seq) & (len - 1)) {
                    *place = *old;
                }
            }
            self.slots = grown;
        }
        let mask = self.slots.len().wrapping_sub(1);
        if let Some(place) = self.slots.get_mut(usize::from(slot.seq) & mask) {
            *place = slot;
        }
    }

    /// The packet arrived: it is not awaited any longer.
    pub(super) fn take(&mut self, seq: u16, now_us: u32) -> Option<Sent> {
        let slot = self.awaited(seq, now_us)?;
        let sent = Sent {
            age_us: now_us.wrapping_sub(slot.sent_us),
            len: slot.len & !MISSING,
            was_missing: slot.len & MISSING != 0,
        };
        slot.len = 0;
        Some(sent)
    }

    /// The packet is reported missing. `true` where that is news.
    pub(super) fn miss(&mut self, seq: u16, now_us: u32) -> bool {
        let Some(slot) = self.awaited(seq, now_us) else { return false };
        let news = slot.len & MISSING == 0;
        slot.len |= MISSING;
        news
    }

    fn awaited(&mut self, seq: u16, now_us: u32) -> Option<&mut Slot> {
        let mask = self.slots.len().wrapping_sub(1);
        let slot = self.slots.get_mut(usize::from(seq) & mask)?;
        let young = now_us.wrapping_sub(slot.sent_us) <= AWAITED_US;
        (slot.seq == seq && slot.len != 0 && young).then_some(slot)
    }

    /// Bytes of memory held beyond the struct itself.
    pub(super) fn allocated_bytes(&self) -> usize {
        size_of_val(&*self.slots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_taken_once_and_may_arrive_after_it_was_missed() {
        let mut ring = SentRing::default();
        ring.insert(65_535, 1200, 1000);
        ring.insert(0, 100, 1500);
        assert!(ring.miss(65_535, 2000));
        assert!(!ring.miss(65_535, 2000));
        assert_eq!(ring.take(65_535, 2000), Some(Sent { age_us: 1000, len: 1200, was_missing: true }));
        assert_eq!(ring.take(65_535, 2000), None);
        assert_eq!(ring.take(0, 2000), Some(Sent { age_us: 500, len: 100, was_missing: false }));
        assert_eq!(ring.take(1, 2000), None);
    }

    #[test]
    fn it_grows_only_for_packets_that_are_awaited_and_only_so_far() {
        let mut ring = SentRing::default();
        for seq in 0..60_000_u32 {
            // 100 packets/s: after 2 s nobody waits for them.
            ring.insert(seq as u16, 1000, seq * 10_000);
        }
        assert_eq!(ring.slots.len(), FIRST_SLOTS);
        for seq in 0..60_000_u32 {
            ring.insert(seq as u16, 1000, (u32::MAX - 1000).wrapping_add(seq));
        }
        assert_eq!(ring.slots.len(), MOST_SLOTS);
        assert!(ring.take(59_999, 60_000).is_some());
    }
}
