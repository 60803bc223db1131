//! Header extension elements that go out with other values than they came with: the capture time, whose clock offset
//! is against the sender's clock, and mediasoup's packet number, which the first Router adds.
//!
//! What a packet gets must be the same whenever it is written, repeats included: one SRTP nonce never sees two
//! plaintexts. So both depend on nothing but the packet's number in its stream.

use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use rtc::clock_offset::{ClockOffset, ClockOffsetEstimator, capture_time};
use rtc::rtcp::NtpTime;
use rtc::rtp::{ExtensionKind, ForwardedElements};

/// Offsets that packets in the store may have been sent with: at [`LEAST_INTERVAL`] they reach further back than it does.
const MAX_OFFSETS: usize = 16;

/// The offset changes no more often than this.
const LEAST_INTERVAL: Duration = Duration::from_millis(500);

/// A smaller change of the offset is noise: a millisecond, in 32.32 fixed-point seconds.
const LEAST_CHANGE: u64 = (1 << 32) / 1000;

/// Names (CNAME) that one Transport keeps offsets of.
const MAX_NAMES: usize = 32;

/// What the packets of one stream get.
#[derive(Debug, Default)]
pub struct OwnElements {
    /// Added to a packet's number in the stream, where packets are numbered.
    packet_ids: Option<u32>,
    /// From which packet on which offset holds.
    offsets: ArrayVec<(u64, ClockOffset), MAX_OFFSETS>,
    /// What held before the first of these.
    before: ClockOffset,
    changed_at: Option<Instant>,
}

/// The values that one packet goes out with.
#[derive(Debug, Clone, Copy, Default)]
pub struct Values {
    capture_time: Option<[u8; 16]>,
    packet_id: Option<[u8; 4]>,
}

impl OwnElements {
    /// `number_packets`: packets that came without a number get one.
    pub fn new(number_packets: bool) -> Self {
        let first = || getrandom::u32().unwrap_or(1);
        Self { packet_ids: number_packets.then(first), ..Self::default() }
    }

    /// The sender's clock was found to be this far from ours; it holds from the packet `first` on.
    pub fn set_offset(&mut self, offset: ClockOffset, first: u64, now: Instant) {
        let newest = self.offsets.last().map_or(self.before, |newest| newest.1);
        let recent = self.changed_at.is_some_and(|at| now.saturating_duration_since(at) < LEAST_INTERVAL);
        if recent || newest.0.abs_diff(offset.0) < LEAST_CHANGE {
            return;
        }
        self.changed_at = Some(now);
        if self.offsets.is_full() {
            self.before = self.offsets.remove(0).1;
        }
        self.offsets.push((first, offset));
    }

    /// The values of a packet, by its extended number and what came in it.
    pub fn values(&self, seq: u64, came: &ForwardedElements<'_>) -> Values {
        let mut values = Values::default();
        let mut numbered = false;
        for (kind, value) in came {
            match kind {
                ExtensionKind::AbsCaptureTime => {
                    let held = self.offsets.iter().rev().find(|(first, _)| seq >= *first);
                    values.capture_time = capture_time(value, held.map_or(self.before, |held| held.1));
                }
                ExtensionKind::MediasoupPacketId => numbered = true,
                _ => {}
            }
        }
        if let Some(first) = self.packet_ids.filter(|_| !numbered) {
            values.packet_id = Some(first.wrapping_add((seq & u64::from(u32::MAX)) as u32).to_be_bytes());
        }
        values
    }
}

impl Values {
    /// Whether what came goes out as it is.
    pub fn is_empty(&self) -> bool {
        self.capture_time.is_none() && self.packet_id.is_none()
    }

    /// What came, with these values in their places.
    pub fn put<'p>(&'p self, came: &ForwardedElements<'p>) -> ForwardedElements<'p> {
        let mut out = ForwardedElements::new();
        for &(kind, value) in came {
            let own = self.capture_time.as_ref().filter(|_| kind == ExtensionKind::AbsCaptureTime);
            out.push((kind, own.map_or(value, |own| own.as_slice())));
        }
        if let Some(id) = &self.packet_id {
            // There is room: this kind is not among those that came.
            let _ = out.try_push((ExtensionKind::MediasoupPacketId, id.as_slice()));
        }
        out
    }
}

/// How far the clocks of a Transport's senders are from ours; streams of one CNAME come from one machine.
#[derive(Debug, Default)]
pub struct SenderClocks {
    by_name: Vec<(String, ClockOffsetEstimator)>,
}

impl SenderClocks {
    /// Takes a sender report, and tells the offset where it is known.
    pub fn on_sender_report(
        &mut self,
        cname: &str,
        theirs: NtpTime,
        ours: NtpTime,
        rtt: Option<Duration>,
    ) -> Option<ClockOffset> {
        let position = match self.by_name.iter().position(|(name, _)| name == cname) {
            Some(position) => position,
            None if self.by_name.len() < MAX_NAMES => {
                self.by_name.push((cname.to_owned(), ClockOffsetEstimator::default()));
                self.by_name.len() - 1
            }
            None => return None,
        };
        let (_, estimator) = self.by_name.get_mut(position)?;
        estimator.on_sender_report(theirs, ours, rtt);
        estimator.offset()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_has_the_same_values_whenever_it_is_written() {
        let start = Instant::now();
        let mut elements = OwnElements::new(true);
        let time = [1; 8];
        let came: ForwardedElements<'_> =
            [(ExtensionKind::AbsCaptureTime, time.as_slice())].into_iter().collect();
        let mut first = Vec::new();
        for step in 0..20_u64 {
            first.push(elements.values(step * 100, &came));
            let offset = ClockOffset((step as i64 + 1) << 32);
            elements.set_offset(offset, step * 100 + 1, start + LEAST_INTERVAL * step as u32);
        }
        for (step, values) in (0..20_u64).zip(&first).skip(20 - MAX_OFFSETS) {
            let again = elements.values(step * 100, &came);
            assert_eq!(again.capture_time, values.capture_time, "packet {}", step * 100);
            assert_eq!(again.packet_id, values.packet_id);
        }
        assert_ne!(first[0].packet_id, first[1].packet_id);
    }

    #[test]
    fn offsets_do_not_change_for_noise_nor_too_often() {
        let now = Instant::now();
        let mut elements = OwnElements::default();
        elements.set_offset(ClockOffset(1), 1, now);
        assert!(elements.offsets.is_empty());
        elements.set_offset(ClockOffset(1 << 32), 1, now);
        elements.set_offset(ClockOffset(2 << 32), 2, now + LEAST_INTERVAL / 2);
        assert_eq!(elements.offsets.len(), 1);
    }

    #[test]
    fn a_number_that_came_stays() {
        let elements = OwnElements::new(true);
        let id = [9; 4];
        let came: ForwardedElements<'_> =
            [(ExtensionKind::MediasoupPacketId, id.as_slice())].into_iter().collect();
        assert!(elements.values(7, &came).is_empty());
        let none = ForwardedElements::new();
        let values = elements.values(7, &none);
        assert_eq!(values.put(&none).len(), 1);
        assert!(OwnElements::new(false).values(7, &none).is_empty());
    }
}
