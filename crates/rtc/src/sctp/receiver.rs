//! What came: which TSNs, and messages put together from their fragments (RFC 9260 section 6, RFC 3758 section 3.6).
//!
//! Fragments that follow one another are kept as one run, found by its first TSN, so that neither their order nor their
//! number costs more than a look-up each. All that waits counts against the window, with its overhead.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, VecDeque};

use rustc_hash::FxHashMap;

use super::packet::{Data, FLAG_BEGIN, FLAG_END, FLAG_UNORDERED, ForwardTsn};
use super::{MAX_GAPS, SctpEnd, SctpEvent, SctpOptions};

/// What a run costs beside its bytes.
const RUN_COST: usize = 128;
/// What a message costs beside its bytes that waits for an earlier one.
const WAITING_COST: usize = 64;
/// How far beyond the window the one chunk may go that everything else waits for.
const SLACK: usize = 64 * 1024;
/// How far a TSN may be ahead: what a SACK can report.
const MAX_AHEAD: u64 = 65_535;
/// Blocks of a SACK.
const MAX_BLOCKS: usize = 64;

/// The unwrapped number that is nearest to `near` and ends in `wrapped`.
pub(super) fn unwrap(near: u64, wrapped: u32) -> u64 {
    let distance = wrapped.wrapping_sub(near as u32) as i32;
    near.wrapping_add_signed(i64::from(distance))
}

/// The first unwrapped number of an association whose peer begins with this TSN. Far from zero, so that nothing is below.
pub(super) fn first(tsn: u32) -> u64 {
    (1 << 32) + u64::from(tsn)
}

/// Whether `number` comes before `other` in a circle of 16 bits.
fn before(number: u16, other: u16) -> bool {
    (number.wrapping_sub(other) as i16) < 0
}

/// What became of DATA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    New,
    Duplicate,
    NoRoom,
}

/// Fragments of one message that follow one another.
#[derive(Debug)]
struct Run {
    last: u64,
    stream: u16,
    ssn: u16,
    ppid: u32,
    unordered: bool,
    begins: bool,
    ends: bool,
    bytes: VecDeque<u8>,
}

impl Run {
    fn continues_as(&self, next: &Self) -> bool {
        !self.ends
            && !next.begins
            && (self.stream, self.unordered) == (next.stream, next.unordered)
            && (self.unordered || self.ssn == next.ssn)
    }

    /// Puts what follows behind; the shorter is moved.
    fn append(&mut self, mut next: Self) {
        self.last = next.last;
        self.ends = next.ends;
        if next.bytes.len() <= self.bytes.len() {
            self.bytes.append(&mut next.bytes);
        } else {
            while let Some(byte) = self.bytes.pop_back() {
                next.bytes.push_front(byte);
            }
            self.bytes = next.bytes;
        }
    }
}

/// An incoming stream.
#[derive(Debug, Default)]
struct InStream {
    next_ssn: u16,
    /// Whole messages that came before an earlier one.
    waiting: BTreeMap<u16, (u32, Vec<u8>)>,
}

/// The receiving half of an association.
#[derive(Debug)]
pub(super) struct Receiver {
    /// Everything up to here came.
    cumulative: u64,
    /// What came beyond: first and last of each block.
    blocks: BTreeMap<u64, u64>,
    runs: BTreeMap<u64, Run>,
    streams: FxHashMap<u16, InStream>,
    buffered: usize,
    window: usize,
    max_message: usize,
}

impl Receiver {
    pub(super) fn new(peer_tsn: u32, options: &SctpOptions) -> Self {
        Self {
            cumulative: first(peer_tsn) - 1,
            blocks: BTreeMap::new(),
            runs: BTreeMap::new(),
            streams: FxHashMap::default(),
            buffered: 0,
            window: options.max_receiver_window,
            max_message: options.max_receive_message_size,
        }
    }

    /// Whether something is missing before what came.
    pub(super) fn has_gaps(&self) -> bool {
        !self.blocks.is_empty()
    }

    /// Whether this TSN and all before it came.
    pub(super) fn has_all_until(&self, tsn: u32) -> bool {
        unwrap(self.cumulative, tsn) <= self.cumulative
    }

    /// What a SACK says.
    pub(super) fn write_sack(&self, out: &mut Vec<u8>) {
        out.extend((self.cumulative as u32).to_be_bytes());
        let window = self.window.saturating_sub(self.buffered);
        out.extend(u32::try_from(window).unwrap_or(u32::MAX).to_be_bytes());
        let offsets = self.blocks.iter().map_while(|(first, last)| {
            let offset = |tsn: &u64| u16::try_from(tsn - self.cumulative).ok();
            Some((offset(first)?, offset(last)?))
        });
        let blocks: Vec<(u16, u16)> = offsets.take(MAX_BLOCKS).collect();
        out.extend((blocks.len() as u16).to_be_bytes());
        out.extend([0; 2]);
        for (first, last) in blocks {
            out.extend(first.to_be_bytes());
            out.extend(last.to_be_bytes());
        }
    }

    /// Takes one chunk, and what it completes to `events`.
    ///
    /// # Errors
    /// Where the peer sends what it may not; the association ends.
    pub(super) fn data(
        &mut self,
        data: Data<'_>,
        events: &mut VecDeque<SctpEvent>,
    ) -> Result<Taken, SctpEnd> {
        let tsn = unwrap(self.cumulative, data.tsn);
        if tsn <= self.cumulative || self.block_of(tsn) {
            return Ok(Taken::Duplicate);
        }
        let cost = data.payload.len() + RUN_COST;
        if tsn - self.cumulative > MAX_AHEAD {
            return Ok(Taken::NoRoom);
        }
        if self.buffered + cost > self.window {
            // What everything waits for is let in all the same, or nothing would go on.
            if tsn != self.cumulative + 1 {
                return Ok(Taken::NoRoom);
            }
            if self.buffered + cost > self.window + SLACK {
                return Err(SctpEnd::Resources);
            }
        }
        if !self.note(tsn) {
            return Ok(Taken::NoRoom);
        }
        let unordered = data.flags & FLAG_UNORDERED != 0;
        if !unordered
            && self.streams.get(&data.stream).is_some_and(|stream| before(data.ssn, stream.next_ssn))
        {
            return Ok(Taken::Duplicate);
        }
        let run = Run {
            last: tsn,
            stream: data.stream,
            ssn: data.ssn,
            ppid: data.ppid,
            unordered,
            begins: data.flags & FLAG_BEGIN != 0,
            ends: data.flags & FLAG_END != 0,
            bytes: data.payload.iter().copied().collect(),
        };
        self.join(tsn, run, events)?;
        Ok(Taken::New)
    }

    fn block_of(&self, tsn: u64) -> bool {
        self.blocks.range(..=tsn).next_back().is_some_and(|(_, last)| *last >= tsn)
    }

    /// Notes that a TSN came; `false` where that would be a gap too many.
    fn note(&mut self, tsn: u64) -> bool {
        if tsn == self.cumulative + 1 {
            self.cumulative = tsn;
            self.absorb();
            return true;
        }
        let after = self.blocks.remove(&(tsn + 1));
        if let Some((_, last)) = self.blocks.range_mut(..tsn).next_back()
            && *last + 1 == tsn
        {
            *last = after.unwrap_or(tsn);
            return true;
        }
        if after.is_none() && self.blocks.len() >= MAX_GAPS {
            return false;
        }
        self.blocks.insert(tsn, after.unwrap_or(tsn));
        true
    }

    /// Blocks that the cumulative TSN has reached are part of it.
    fn absorb(&mut self) {
        while let Some(block) = self.blocks.first_entry()
            && *block.key() <= self.cumulative + 1
        {
            self.cumulative = self.cumulative.max(block.remove());
        }
    }

    /// Joins a fragment with its neighbours; a whole message is delivered.
    fn join(&mut self, tsn: u64, run: Run, events: &mut VecDeque<SctpEvent>) -> Result<(), SctpEnd> {
        let (mut start, mut joined) = (tsn, run);
        let previous = self.runs.range(..tsn).next_back().map(|(first, run)| (*first, run.last, run));
        if let Some((first, last, run)) = previous
            && last + 1 == tsn
            && run.continues_as(&joined)
            && let Some(mut run) = self.take(first)
        {
            run.append(joined);
            (start, joined) = (first, run);
        }
        if let Some(next) = self.runs.get(&(joined.last + 1))
            && joined.continues_as(next)
            && let Some(next) = self.take(joined.last + 1)
        {
            joined.append(next);
        }
        if joined.bytes.len() > self.max_message {
            return Err(SctpEnd::Violation);
        }
        if joined.begins && joined.ends {
            self.complete(joined, events);
        } else {
            self.buffered += joined.bytes.len() + RUN_COST;
            self.runs.insert(start, joined);
        }
        Ok(())
    }

    fn take(&mut self, first: u64) -> Option<Run> {
        let run = self.runs.remove(&first)?;
        self.buffered = self.buffered.saturating_sub(run.bytes.len() + RUN_COST);
        Some(run)
    }

    /// Delivers a whole message, in its turn if it has one.
    fn complete(&mut self, run: Run, events: &mut VecDeque<SctpEvent>) {
        let data = Vec::from(run.bytes);
        if run.unordered {
            events.push_back(SctpEvent::Message { stream: run.stream, ppid: run.ppid, data });
            return;
        }
        let stream = self.streams.entry(run.stream).or_default();
        if before(run.ssn, stream.next_ssn) {
            return;
        }
        self.buffered += data.len() + WAITING_COST;
        if let Some((_, replaced)) = stream.waiting.insert(run.ssn, (run.ppid, data)) {
            self.buffered = self.buffered.saturating_sub(replaced.len() + WAITING_COST);
        }
        self.deliver(run.stream, events);
    }

    /// Delivers what waits on a stream as far as nothing is missing.
    fn deliver(&mut self, id: u16, events: &mut VecDeque<SctpEvent>) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        while let Some((ppid, data)) = stream.waiting.remove(&stream.next_ssn) {
            stream.next_ssn = stream.next_ssn.wrapping_add(1);
            self.buffered = self.buffered.saturating_sub(data.len() + WAITING_COST);
            events.push_back(SctpEvent::Message { stream: id, ppid, data });
        }
    }

    /// The peer gave up what is missing up to a TSN.
    pub(super) fn forward(&mut self, forward: ForwardTsn<'_>, events: &mut VecDeque<SctpEvent>) {
        let tsn = unwrap(self.cumulative, forward.cumulative);
        if tsn <= self.cumulative {
            return;
        }
        self.cumulative = tsn;
        self.absorb();
        // A message whose beginning is gone will never be whole; one that goes on beyond may.
        let beyond = self.runs.split_off(&(tsn + 1));
        let mut kept = std::mem::replace(&mut self.runs, beyond);
        kept.retain(|_, run| {
            let keep = run.begins && run.last > tsn;
            if !keep {
                self.buffered = self.buffered.saturating_sub(run.bytes.len() + RUN_COST);
            }
            keep
        });
        self.runs.append(&mut kept);
        for (id, ssn) in forward.skipped() {
            let stream = self.streams.entry(id).or_default();
            if before(ssn, stream.next_ssn) {
                continue;
            }
            let next = stream.next_ssn;
            let mut whole: Vec<u16> =
                stream.waiting.keys().copied().filter(|waiting| !before(ssn, *waiting)).collect();
            whole.sort_by_key(|waiting| waiting.wrapping_sub(next));
            for waiting in whole {
                if let Some((ppid, data)) = stream.waiting.remove(&waiting) {
                    self.buffered = self.buffered.saturating_sub(data.len() + WAITING_COST);
                    events.push_back(SctpEvent::Message { stream: id, ppid, data });
                }
            }
            stream.next_ssn = ssn.wrapping_add(1);
            self.deliver(id, events);
        }
    }

    /// The peer begins streams anew: these, or all.
    pub(super) fn reset(&mut self, streams: Option<&[u16]>) {
        let all: Vec<u16>;
        let streams = match streams {
            Some(streams) => streams,
            None => {
                all = self.streams.keys().copied().collect();
                &all
            }
        };
        for id in streams {
            if let Some(stream) = self.streams.remove(id) {
                let waiting: usize = stream.waiting.values().map(|(_, data)| data.len() + WAITING_COST).sum();
                self.buffered = self.buffered.saturating_sub(waiting);
            }
        }
    }

    /// What waits, in bytes with its overhead.
    #[cfg(test)]
    pub(super) fn buffered(&self) -> usize {
        self.buffered
    }
}
