//! Messages that wait to be sent: a queue per stream, served in turn, a message at a time (RFC 8260 section 3.2 calls it
//! the round-robin scheduler).
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::{OutgoingMessage, SctpEvent, SctpOptions, SendError};

/// What a message costs beside its bytes.
const MESSAGE_COST: usize = 64;

/// A message that waits.
#[derive(Debug)]
struct Waiting {
    id: u64,
    ppid: u32,
    data: Arc<[u8]>,
    sent: usize,
    ssn: u16,
    ordered: bool,
    expires: Option<Instant>,
    max_retransmits: Option<u16>,
}

/// An outgoing stream.
#[derive(Debug)]
struct OutStream {
    queue: VecDeque<Waiting>,
    /// Payload bytes in the queue.
    buffered: usize,
    low_threshold: usize,
    next_ssn: u16,
    /// A reset is on the way: nothing new is sent until the peer has answered.
    resetting: bool,
    /// Whether it is among those that are served in turn.
    in_turn: bool,
}

/// A fragment that is sent now.
#[derive(Debug)]
pub(super) struct Fragment {
    pub(super) stream: u16,
    pub(super) ssn: u16,
    pub(super) ppid: u32,
    pub(super) message: u64,
    pub(super) data: Arc<[u8]>,
    pub(super) range: Range<usize>,
    pub(super) ordered: bool,
    pub(super) expires: Option<Instant>,
    pub(super) max_retransmits: Option<u16>,
}

/// All outgoing streams.
#[derive(Debug, Default)]
pub(super) struct SendQueue {
    streams: FxHashMap<u16, OutStream>,
    turns: VecDeque<u16>,
    /// The stream whose message is partly sent: the rest goes first, since fragments follow one another.
    current: Option<u16>,
    /// Payload bytes and overhead of all that waits.
    cost: usize,
    next_id: u64,
}

impl SendQueue {
    fn stream(&mut self, id: u16, default_low_threshold: usize) -> &mut OutStream {
        self.streams.entry(id).or_insert_with(|| OutStream {
            queue: VecDeque::new(),
            buffered: 0,
            low_threshold: default_low_threshold,
            next_ssn: 0,
            resetting: false,
            in_turn: false,
        })
    }

    pub(super) fn push(
        &mut self,
        message: OutgoingMessage,
        options: &SctpOptions,
        now: Instant,
    ) -> Result<(), SendError> {
        let len = message.data.len();
        let full = self.cost >= options.send_buffer_size;
        let id = self.next_id;
        let stream = self.stream(message.stream, options.default_low_threshold);
        if full || stream.buffered >= options.per_stream_send_queue_limit {
            return Err(SendError::BufferFull);
        }
        let life_time = message.delivery.max_life_time_ms;
        stream.queue.push_back(Waiting {
            id,
            ppid: message.ppid,
            data: message.data,
            sent: 0,
            ssn: 0,
            ordered: message.delivery.ordered,
            expires: life_time.and_then(|life| now.checked_add(Duration::from_millis(u64::from(life)))),
            max_retransmits: message.delivery.max_retransmits,
        });
        stream.buffered += len;
        let turn = !stream.in_turn && !stream.resetting;
        stream.in_turn |= turn;
        if turn {
            self.turns.push_back(message.stream);
        }
        self.cost += len + MESSAGE_COST;
        self.next_id += 1;
        Ok(())
    }

    /// Payload bytes that wait on a stream.
    pub(super) fn buffered(&self, stream: u16) -> usize {
        self.streams.get(&stream).map_or(0, |stream| stream.buffered)
    }

    pub(super) fn low_threshold(&self, stream: u16, default: usize) -> usize {
        self.streams.get(&stream).map_or(default, |stream| stream.low_threshold)
    }

    pub(super) fn set_low_threshold(&mut self, id: u16, bytes: usize, events: &mut VecDeque<SctpEvent>) {
        let stream = self.stream(id, bytes);
        let before = std::mem::replace(&mut stream.low_threshold, bytes);
        if stream.buffered > before && stream.buffered <= bytes {
            events.push_back(SctpEvent::BufferedAmountLow(id));
        }
    }

    /// How long the next fragment would be, expired messages having been dropped.
    pub(super) fn next_len(
        &mut self,
        now: Instant,
        abandoned: &mut u64,
        events: &mut VecDeque<SctpEvent>,
    ) -> Option<usize> {
        loop {
            let id = match self.current {
                Some(id) => id,
                None => *self.turns.front()?,
            };
            let stream = self.streams.get_mut(&id)?;
            let Some(front) = stream.queue.front() else {
                stream.in_turn = false;
                self.turns.pop_front();
                continue;
            };
            if front.sent == 0 && front.expires.is_some_and(|at| at <= now) {
                *abandoned += 1;
                self.drop_front(id, events);
                continue;
            }
            return Some(front.data.len() - front.sent);
        }
    }

    /// The next fragment, at most `len` bytes of what [`Self::next_len`] told of.
    pub(super) fn take(&mut self, len: usize, events: &mut VecDeque<SctpEvent>) -> Option<Fragment> {
        let id = match self.current {
            Some(id) => id,
            None => *self.turns.front()?,
        };
        let stream = self.streams.get_mut(&id)?;
        let front = stream.queue.front_mut()?;
        if front.sent == 0 && front.ordered {
            front.ssn = stream.next_ssn;
            stream.next_ssn = stream.next_ssn.wrapping_add(1);
        }
        let end = front.data.len().min(front.sent + len);
        let fragment = Fragment {
            stream: id,
            ssn: front.ssn,
            ppid: front.ppid,
            message: front.id,
            data: front.data.clone(),
            range: front.sent..end,
            ordered: front.ordered,
            expires: front.expires,
            max_retransmits: front.max_retransmits,
        };
        let taken = end - front.sent;
        front.sent = end;
        let whole = end == front.data.len();
        self.release(id, taken, events);
        if whole {
            self.finish_front(id);
        } else {
            self.current = Some(id);
        }
        Some(fragment)
    }

    /// A message leaves the queue; the next turn is another stream's.
    fn finish_front(&mut self, id: u16) {
        if self.current == Some(id) {
            self.current = None;
        }
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.queue.pop_front();
        self.cost = self.cost.saturating_sub(MESSAGE_COST);
        let goes_on = !stream.queue.is_empty() && !stream.resetting;
        let was_in_turn = std::mem::replace(&mut stream.in_turn, goes_on);
        if was_in_turn {
            self.turns.retain(|other| *other != id);
        }
        if goes_on {
            self.turns.push_back(id);
        }
    }

    fn drop_front(&mut self, id: u16, events: &mut VecDeque<SctpEvent>) {
        let left = self
            .streams
            .get(&id)
            .and_then(|stream| stream.queue.front())
            .map_or(0, |front| front.data.len() - front.sent);
        self.finish_front(id);
        self.release(id, left, events);
    }

    fn release(&mut self, id: u16, bytes: usize, events: &mut VecDeque<SctpEvent>) {
        self.cost = self.cost.saturating_sub(bytes);
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let before = stream.buffered;
        stream.buffered = before.saturating_sub(bytes);
        if before > stream.low_threshold && stream.buffered <= stream.low_threshold {
            events.push_back(SctpEvent::BufferedAmountLow(id));
        }
    }

    /// A message was given up of which a part is sent: what is left of it is not sent.
    pub(super) fn give_up(&mut self, id: u16, message: u64, events: &mut VecDeque<SctpEvent>) {
        let front = self.streams.get(&id).and_then(|stream| stream.queue.front());
        if front.is_some_and(|front| front.id == message) {
            self.drop_front(id, events);
        }
    }

    /// Begins the end of a stream: what is not begun is dropped, nothing new is sent until [`Self::reset_done`].
    pub(super) fn prepare_reset(&mut self, id: u16, events: &mut VecDeque<SctpEvent>) {
        let partly_sent = self.current == Some(id);
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.resetting = true;
        let kept = usize::from(partly_sent);
        let dropped: usize = stream.queue.iter().skip(kept).map(|message| message.data.len()).sum();
        let count = stream.queue.len().saturating_sub(kept);
        stream.queue.truncate(kept);
        self.cost = self.cost.saturating_sub(count * MESSAGE_COST);
        if !partly_sent && std::mem::take(&mut stream.in_turn) {
            self.turns.retain(|other| *other != id);
        }
        self.release(id, dropped, events);
    }

    /// Whether no message of a stream is partly sent.
    pub(super) fn may_reset(&self, id: u16) -> bool {
        self.current != Some(id)
    }

    /// The peer has answered: the stream begins anew, or goes on where it was refused.
    pub(super) fn reset_done(&mut self, id: u16, performed: bool) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.resetting = false;
        if performed {
            stream.next_ssn = 0;
            if stream.queue.is_empty() {
                self.streams.remove(&id);
                return;
            }
        }
        if !stream.queue.is_empty() && !std::mem::replace(&mut stream.in_turn, true) {
            self.turns.push_back(id);
        }
    }

    /// The association begins anew: what was partly sent is lost, streams count from zero.
    pub(super) fn restart(&mut self, events: &mut VecDeque<SctpEvent>) {
        if let Some(id) = self.current {
            self.drop_front(id, events);
        }
        let resetting: Vec<u16> = self
            .streams
            .iter_mut()
            .filter_map(|(id, stream)| {
                stream.next_ssn = 0;
                stream.resetting.then_some(*id)
            })
            .collect();
        for id in resetting {
            self.reset_done(id, true);
        }
    }

    /// Nothing is sent any more.
    pub(super) fn clear(&mut self) {
        self.streams.clear();
        self.turns.clear();
        self.current = None;
        self.cost = 0;
    }
}
