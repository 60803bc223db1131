//! Which packets to ask for again (RFC 4585, section 6.2.1), and when.
//!
//! A gap is asked for after a short delay that lets reordered packets come by themselves, and then
//! again a little more than every round trip until it is filled or given up. Works on extended sequence numbers; telling
//! duplicates is the caller's.
//!
//! Over a long way each request goes out twice, a moment apart: where packets are lost, requests are as well, and each
//! that is costs a whole round trip more, which is what freezes a picture. A sender that counts round trips repeats once.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Packets waited for at once; past it a key frame is cheaper than the repairs.
const MAX_PENDING: usize = 1000;
/// A packet so far behind the newest is of no use to anybody.
const MAX_AGE: u64 = 10_000;
/// Requests for one packet.
const MAX_TRIES: u8 = 10;
/// Round trip assumed until one is measured.
const DEFAULT_RTT: Duration = Duration::from_millis(100);
/// Least time between two requests for one packet: on a local link the round trip is shorter than the time
/// that a busy sender takes.
const MIN_RETRY_INTERVAL: Duration = Duration::from_millis(40);
/// Added to the round trip between two requests for one packet, with an eighth of it: a sender's pacer, its timers and
/// a path's jitter.
const RETRY_MARGIN: Duration = Duration::from_millis(10);
/// Round trips that are long enough to ask twice.
const LONG_WAY: Duration = Duration::from_millis(50);
/// Between asking and asking once more: apart enough not to be lost together, and within any sender's round trip.
const ASK_TWICE_AFTER: Duration = Duration::from_millis(10);
/// Greatest time between two requests for one packet.
const MAX_RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Key frames remembered, to drop what precedes them when too much is pending.
const MAX_KEY_FRAMES: usize = 32;
/// mediasoup's delay between seeing a gap and asking.
pub const DEFAULT_DELAY: Duration = Duration::from_millis(10);

/// What a packet meant for the packets that are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NackOutcome {
    /// Nothing was missing before it, or what is missing is now noted.
    Noted,
    /// It was missing, and no request had gone out for it yet.
    Reordered,
    /// It had been asked for.
    Recovered,
    /// Too much is missing: everything pending was dropped, a key frame has to be asked for.
    KeyFrameNeeded,
}

#[derive(Clone, Copy, Debug)]
struct Missing {
    seq: u64,
    due: Instant,
    tries: u8,
    /// The next request is the last one's second copy.
    again: bool,
}

/// The missing packets of one incoming stream.
#[derive(Clone, Debug)]
pub struct NackGenerator {
    delay: Duration,
    rtt: Option<Duration>,
    newest: Option<u64>,
    /// In order of sequence number.
    missing: VecDeque<Missing>,
    key_frames: VecDeque<u64>,
    /// Not later than the earliest `due`.
    next_due: Option<Instant>,
    given_up: u64,
}

impl NackGenerator {
    /// `delay`: from noticing a gap to asking for it.
    #[must_use]
    pub const fn new(delay: Duration) -> Self {
        Self {
            delay,
            rtt: None,
            newest: None,
            missing: VecDeque::new(),
            key_frames: VecDeque::new(),
            next_due: None,
            given_up: 0,
        }
    }

    /// A packet that was not received before, whichever way it came.
    pub fn received(&mut self, seq: u64, key_frame: bool, now: Instant) -> NackOutcome {
        let Some(newest) = self.newest else {
            self.newest = Some(seq);
            self.note_key_frame(seq, key_frame);
            return NackOutcome::Noted;
        };
        if seq <= newest {
            return match self.missing.binary_search_by_key(&seq, |missing| missing.seq) {
                Ok(index) => match self.missing.remove(index) {
                    Some(missing) if missing.tries > 0 => NackOutcome::Recovered,
                    _ => NackOutcome::Reordered,
                },
                Err(_) => NackOutcome::Noted,
            };
        }
        self.note_key_frame(seq, key_frame);
        self.newest = Some(seq);
        self.drop_older_than(seq.saturating_sub(MAX_AGE));
        if seq == newest + 1 {
            return NackOutcome::Noted;
        }
        self.add(newest + 1, seq, now)
    }

    /// Appends the sequence numbers to ask for now, in order. All that are due go together, so that one NACK
    /// packet carries them.
    pub fn poll(&mut self, now: Instant, out: &mut Vec<u16>) {
        if self.next_due.is_none_or(|due| now < due) {
            return;
        }
        let retry_at = now + self.retry_interval();
        let asks_twice = self.rtt.is_some_and(|rtt| rtt >= LONG_WAY);
        let mut next_due: Option<Instant> = None;
        let mut given_up = 0;
        self.missing.retain_mut(|missing| {
            if missing.due <= now {
                if !missing.again {
                    if missing.tries >= MAX_TRIES {
                        given_up += 1;
                        return false;
                    }
                    missing.tries += 1;
                }
                out.push(missing.seq as u16);
                missing.again = asks_twice && !missing.again;
                missing.due = if missing.again { now + ASK_TWICE_AFTER } else { retry_at };
            }
            next_due = Some(next_due.map_or(missing.due, |due| due.min(missing.due)));
            true
        });
        self.given_up += given_up;
        self.next_due = next_due;
    }

    /// When to poll next.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        if self.missing.is_empty() { None } else { self.next_due }
    }

    /// The round trip to the sender was measured.
    pub const fn set_rtt(&mut self, rtt: Duration) {
        self.rtt = Some(rtt);
    }

    /// Forgets the stream: it was paused or restarted.
    pub fn reset(&mut self) {
        self.newest = None;
        self.missing.clear();
        self.key_frames.clear();
        self.next_due = None;
    }

    /// Packets waited for.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.missing.len()
    }

    /// Packets that never came, however often they were asked for, or that were dropped for a key frame.
    #[must_use]
    pub const fn given_up(&self) -> u64 {
        self.given_up
    }

    /// A round trip and what it varies by. libwebrtc, and mediasoup with it, refuses to repeat a packet within the round
    /// trip that it knows after the last time: asked again a moment too early, it lets the next chance pass by.
    fn retry_interval(&self) -> Duration {
        let rtt = self.rtt.unwrap_or(DEFAULT_RTT);
        (rtt + rtt / 8 + RETRY_MARGIN).clamp(MIN_RETRY_INTERVAL, MAX_RETRY_INTERVAL)
    }

    /// Notes the gap `from..to`.
    fn add(&mut self, from: u64, to: u64, now: Instant) -> NackOutcome {
        let gap = usize::try_from(to - from).unwrap_or(usize::MAX);
        while self.missing.len().saturating_add(gap) > MAX_PENDING && self.drop_before_key_frame() {}
        if self.missing.len().saturating_add(gap) > MAX_PENDING {
            self.given_up += self.missing.len() as u64 + gap as u64;
            self.missing.clear();
            self.next_due = None;
            return NackOutcome::KeyFrameNeeded;
        }
        let due = now + self.delay;
        self.missing.extend((from..to).map(|seq| Missing { seq, due, tries: 0, again: false }));
        self.next_due = Some(self.next_due.map_or(due, |next| next.min(due)));
        NackOutcome::Noted
    }

    fn note_key_frame(&mut self, seq: u64, key_frame: bool) {
        if !key_frame {
            return;
        }
        if self.key_frames.len() == MAX_KEY_FRAMES {
            self.key_frames.pop_front();
        }
        self.key_frames.push_back(seq);
    }

    /// Drops what precedes the oldest key frame that anything precedes.
    fn drop_before_key_frame(&mut self) -> bool {
        while let Some(key_frame) = self.key_frames.pop_front() {
            if self.drop_older_than(key_frame) {
                return true;
            }
        }
        false
    }

    fn drop_older_than(&mut self, seq: u64) -> bool {
        let keep_from = self.missing.partition_point(|missing| missing.seq < seq);
        self.missing.drain(..keep_from);
        self.given_up += keep_from as u64;
        keep_from > 0
    }
}

#[cfg(test)]
mod tests;
