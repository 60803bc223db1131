//! What was sent and is not acknowledged: repeats, congestion control, giving up (RFC 9260 sections 6.3 and 7, RFC 3758
//! section 3.5).
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::MAX_PACKET;
use super::packet::{DATA_OVERHEAD, Data, FLAG_BEGIN, FLAG_END, FLAG_UNORDERED, Sack};
use super::queue::Fragment;
use super::receiver::{first, unwrap};

/// Chunks in flight at most: five megabytes of whole packets.
const MAX_CHUNKS: usize = 4096;
/// Largest congestion window.
const MAX_CWND: usize = 4 * 1024 * 1024;
/// RFC 9260 section 7.2.1 asks for 4,380 bytes at most; dcSCTP, which browsers run, begins with ten packets.
const INITIAL_CWND: usize = 10 * MAX_PACKET;
/// New data that goes out between two acknowledgements at most (RFC 9260 section 6.1 rule D): a window that is free at
/// once after a pause would overflow the peer's socket, whose buffer counts a datagram double.
const MAX_BURST: usize = 32 * MAX_PACKET;
const MIN_CWND: usize = 4 * MAX_PACKET;
/// Reports of a chunk as missing that make it lost (RFC 9260 section 7.2.4).
const MISSING_REPORTS: u8 = 3;
/// Streams that one FORWARD TSN tells of; the rest follows with the next.
const MAX_SKIPPED: usize = 200;

const RTO_INITIAL: Duration = Duration::from_millis(500);
const RTO_MIN: Duration = Duration::from_millis(400);
const RTO_MAX: Duration = Duration::from_secs(60);
/// Least of four times the variance: peers delay acknowledgements by up to 200 ms.
const RTT_MARGIN: Duration = Duration::from_millis(220);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Flying,
    Lost,
    Acked,
    Abandoned,
}

#[derive(Debug)]
struct Sent {
    stream: u16,
    ssn: u16,
    ppid: u32,
    flags: u8,
    message: u64,
    data: Arc<[u8]>,
    range: Range<usize>,
    sent_at: Instant,
    retransmits: u16,
    missing: u8,
    fate: Fate,
    expires: Option<Instant>,
    max_retransmits: Option<u16>,
}

impl Sent {
    fn wire_len(&self) -> usize {
        DATA_OVERHEAD + self.range.len().next_multiple_of(4)
    }

    /// Whether it is not to be repeated any more.
    fn is_over(&self, now: Instant) -> bool {
        self.max_retransmits.is_some_and(|most| self.retransmits >= most)
            || self.expires.is_some_and(|at| at <= now)
    }
}

/// What a SACK changed.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Something was acknowledged that was not.
    pub(super) acked: bool,
    /// Streams and messages that were given up.
    pub(super) abandoned: Vec<(u16, u64)>,
}

/// The sending half of an association.
#[derive(Debug)]
pub(super) struct Outstanding {
    /// Everything up to here is acknowledged.
    acked: u64,
    sent: VecDeque<Sent>,
    /// TSNs that are to be repeated.
    lost: BTreeSet<u64>,
    /// Bytes on the way.
    flight: usize,
    /// New bytes since the last acknowledgement.
    burst: usize,
    cwnd: usize,
    ssthresh: usize,
    partial: usize,
    peer_window: usize,
    /// Fast recovery lasts until this is acknowledged.
    recovery: Option<u64>,
    /// A repeat may go out whatever the window says.
    fast: bool,
    /// Up to here the peer need not wait.
    advanced: u64,
    forward_due: bool,
    forward_tsn: bool,
    smoothed: Option<(Duration, Duration)>,
    rto: Duration,
    /// When what is on the way counts as lost.
    pub(super) timer: Option<Instant>,
}

impl Outstanding {
    pub(super) fn new(local_tsn: u32, peer_window: u32, forward_tsn: bool) -> Self {
        let acked = first(local_tsn) - 1;
        Self {
            acked,
            sent: VecDeque::new(),
            lost: BTreeSet::new(),
            flight: 0,
            burst: 0,
            cwnd: INITIAL_CWND,
            ssthresh: MAX_CWND,
            partial: 0,
            peer_window: peer_window as usize,
            recovery: None,
            fast: false,
            advanced: acked,
            forward_due: false,
            forward_tsn,
            smoothed: None,
            rto: RTO_INITIAL,
            timer: None,
        }
    }

    fn next_tsn(&self) -> u64 {
        self.acked + 1 + self.sent.len() as u64
    }

    /// The TSN that was used last.
    pub(super) fn last_tsn(&self) -> u32 {
        (self.next_tsn() - 1) as u32
    }

    /// The retransmission timeout as it is.
    pub(super) fn rto(&self) -> Duration {
        self.rto
    }

    /// Whether a new chunk with so many bytes may go out now.
    pub(super) fn may_send(&self, len: usize) -> bool {
        self.lost.is_empty()
            && self.sent.len() < MAX_CHUNKS
            && (self.flight == 0
                || (self.flight < self.cwnd && self.burst < MAX_BURST && len <= self.peer_window))
    }

    /// A fragment goes out for the first time.
    pub(super) fn send(&mut self, fragment: Fragment, out: &mut Vec<u8>, now: Instant) {
        let mut flags = 0;
        if fragment.range.start == 0 {
            flags |= FLAG_BEGIN;
        }
        if fragment.range.end == fragment.data.len() {
            flags |= FLAG_END;
        }
        if !fragment.ordered {
            flags |= FLAG_UNORDERED;
        }
        let tsn = self.next_tsn();
        let sent = Sent {
            stream: fragment.stream,
            ssn: fragment.ssn,
            ppid: fragment.ppid,
            flags,
            message: fragment.message,
            data: fragment.data,
            range: fragment.range,
            sent_at: now,
            retransmits: 0,
            missing: 0,
            fate: Fate::Flying,
            expires: fragment.expires.filter(|_| self.forward_tsn),
            max_retransmits: fragment.max_retransmits.filter(|_| self.forward_tsn),
        };
        write(&sent, tsn, out);
        if self.flight == 0 {
            self.burst = 0;
        }
        self.burst += sent.wire_len();
        self.flight += sent.wire_len();
        self.peer_window = self.peer_window.saturating_sub(sent.range.len());
        self.sent.push_back(sent);
        self.start_timer(now);
    }

    /// Writes what is to be repeated and fits; `true` if there was something.
    pub(super) fn repeat(&mut self, out: &mut Vec<u8>, room: usize, now: Instant) -> bool {
        let mut left = room;
        let mut any = false;
        while let Some(&tsn) = self.lost.first() {
            if !self.fast && self.flight >= self.cwnd {
                break;
            }
            let Some(sent) = self.sent.get_mut((tsn - self.acked - 1) as usize) else {
                self.lost.pop_first();
                continue;
            };
            let len = sent.wire_len();
            if len > left {
                break;
            }
            sent.fate = Fate::Flying;
            sent.retransmits = sent.retransmits.saturating_add(1);
            sent.sent_at = now;
            write(sent, tsn, out);
            self.lost.pop_first();
            self.flight += len;
            left -= len;
            any = true;
        }
        // Only the first packet of a fast retransmission goes beyond the window.
        self.fast = false;
        if any {
            self.start_timer(now);
        }
        any
    }

    fn start_timer(&mut self, now: Instant) {
        if self.timer.is_none() {
            self.timer = now.checked_add(self.rto);
        }
    }

    /// Takes an acknowledgement. One that is old, or acknowledges what was not sent, is ignored.
    pub(super) fn acknowledge(&mut self, sack: Sack<'_>, now: Instant) -> Progress {
        let mut progress = Progress::default();
        let cumulative = unwrap(self.acked, sack.cumulative);
        if cumulative < self.acked || cumulative >= self.next_tsn() {
            return progress;
        }
        self.burst = 0;
        let window_was_full = self.flight + MAX_PACKET > self.cwnd;
        let advanced = cumulative > self.acked;
        let mut bytes = 0;
        while self.acked < cumulative {
            let Some(sent) = self.sent.pop_front() else { break };
            self.acked += 1;
            bytes += self.settle(&sent, self.acked, now);
        }
        let (highest, highest_new) = self.settle_blocks(sack, &mut bytes, now);
        progress.acked = bytes > 0 || advanced;
        if self.recovery.is_some_and(|exit| exit <= self.acked) {
            self.recovery = None;
        }
        self.grow(bytes, advanced, window_was_full);
        self.peer_window = (sack.window as usize).saturating_sub(self.flight);
        // RFC 9260 section 7.2.4: in recovery, each advance counts for all that is missing.
        let missing_before = if self.recovery.is_some() && advanced { highest } else { highest_new };
        self.count_missing(missing_before, now, &mut progress);
        if advanced {
            self.timer = None;
        }
        self.after_change(now);
        progress
    }

    /// A chunk is acknowledged; returns its bytes if it was on the way.
    fn settle(&mut self, sent: &Sent, tsn: u64, now: Instant) -> usize {
        match sent.fate {
            Fate::Flying => {
                self.flight = self.flight.saturating_sub(sent.wire_len());
                if sent.retransmits == 0 {
                    self.measure(now.saturating_duration_since(sent.sent_at));
                }
            }
            Fate::Lost => {
                self.lost.remove(&tsn);
            }
            Fate::Acked | Fate::Abandoned => return 0,
        }
        sent.range.len()
    }

    /// Marks what the blocks acknowledge. Returns how many chunks lie before the end of the last block, and before the end
    /// of what is acknowledged newly.
    fn settle_blocks(&mut self, sack: Sack<'_>, bytes: &mut usize, now: Instant) -> (usize, usize) {
        let (mut reach, mut newest) = (0, 0);
        for (start, end) in sack.blocks() {
            let (start, end) = (usize::from(start), usize::from(end).min(self.sent.len()));
            // Blocks come in order and do not overlap; others would only cost time.
            if start <= reach || end < start {
                break;
            }
            reach = end;
            for index in start - 1..end {
                let Some(sent) = self.sent.get_mut(index) else { break };
                let len = sent.wire_len();
                let fate = match sent.fate {
                    Fate::Abandoned | Fate::Acked => continue,
                    fate => fate,
                };
                sent.fate = Fate::Acked;
                *bytes += sent.range.len();
                let fresh = (sent.retransmits == 0).then_some(sent.sent_at);
                newest = index + 1;
                if fate == Fate::Lost {
                    self.lost.remove(&(self.acked + 1 + index as u64));
                } else {
                    self.flight = self.flight.saturating_sub(len);
                    if let Some(sent_at) = fresh {
                        self.measure(now.saturating_duration_since(sent_at));
                    }
                }
            }
        }
        (reach, newest)
    }

    /// RFC 9260 section 7.2.
    fn grow(&mut self, bytes: usize, advanced: bool, window_was_full: bool) {
        if !advanced || self.recovery.is_some() {
            return;
        }
        if self.cwnd <= self.ssthresh {
            if window_was_full {
                self.cwnd += bytes.min(MAX_PACKET);
            }
        } else {
            self.partial += bytes;
            if self.partial >= self.cwnd {
                self.partial -= self.cwnd;
                if window_was_full {
                    self.cwnd += MAX_PACKET;
                }
            }
        }
        self.cwnd = self.cwnd.min(MAX_CWND);
        if self.sent.is_empty() {
            self.partial = 0;
        }
    }

    fn count_missing(&mut self, chunks: usize, now: Instant, progress: &mut Progress) {
        let mut index = 0;
        while index < chunks {
            let tsn = self.acked + 1 + index as u64;
            if let Some(sent) = self.sent.get_mut(index)
                && sent.fate == Fate::Flying
                && sent.missing < MISSING_REPORTS
            {
                // Counted once only: what is lost again waits for the timer.
                sent.missing += 1;
                if sent.missing == MISSING_REPORTS {
                    self.lose(tsn, now, progress);
                    if self.recovery.is_none() {
                        self.ssthresh = (self.cwnd / 2).max(MIN_CWND);
                        self.cwnd = self.ssthresh;
                        self.partial = 0;
                        self.recovery = Some(self.next_tsn() - 1);
                        self.fast = true;
                    }
                }
            }
            index += 1;
        }
    }

    /// A chunk will not arrive: it is repeated, or its message given up.
    fn lose(&mut self, tsn: u64, now: Instant, progress: &mut Progress) {
        let index = (tsn - self.acked - 1) as usize;
        let Some(sent) = self.sent.get_mut(index) else { return };
        if sent.fate == Fate::Flying {
            self.flight = self.flight.saturating_sub(sent.wire_len());
        }
        if !sent.is_over(now) {
            sent.fate = Fate::Lost;
            self.lost.insert(tsn);
            return;
        }
        sent.fate = Fate::Lost;
        let (stream, message) = (sent.stream, sent.message);
        progress.abandoned.push((stream, message));
        let mut from = index;
        while from > 0 && self.sent.get(from - 1).is_some_and(|sent| sent.message == message) {
            from -= 1;
        }
        while let Some(sent) = self.sent.get_mut(from).filter(|sent| sent.message == message) {
            if sent.fate == Fate::Flying {
                self.flight = self.flight.saturating_sub(sent.wire_len());
            }
            sent.fate = Fate::Abandoned;
            self.lost.remove(&(self.acked + 1 + from as u64));
            from += 1;
        }
    }

    /// Nothing was heard for too long: all that is on the way is lost. What was acknowledged only in a block is so again,
    /// for the peer may have thrown it away (RFC 9260 section 6.2.1).
    pub(super) fn time_out(&mut self, now: Instant) -> Progress {
        let mut progress = Progress::default();
        self.timer = None;
        self.rto = (self.rto * 2).min(RTO_MAX);
        self.ssthresh = (self.cwnd / 2).max(MIN_CWND);
        self.cwnd = MAX_PACKET;
        self.partial = 0;
        self.recovery = None;
        for index in 0..self.sent.len() {
            let tsn = self.acked + 1 + index as u64;
            let fate = self.sent.get(index).map(|sent| sent.fate);
            if matches!(fate, Some(Fate::Flying | Fate::Acked)) {
                self.lose(tsn, now, &mut progress);
            }
        }
        self.flight = 0;
        self.after_change(now);
        progress
    }

    /// How far the peer may skip, and the timer.
    fn after_change(&mut self, now: Instant) {
        self.advanced = self.advanced.max(self.acked);
        while let Some(sent) = self.sent.get((self.advanced - self.acked) as usize)
            && sent.fate == Fate::Abandoned
        {
            self.advanced += 1;
        }
        self.forward_due = self.advanced > self.acked;
        if self.sent.is_empty() {
            self.timer = None;
        } else {
            self.start_timer(now);
        }
    }

    /// Whether the peer is to be told what it need not wait for.
    pub(super) fn forward_due(&self) -> bool {
        self.forward_due
    }

    /// What a FORWARD TSN says.
    pub(super) fn write_forward_tsn(&mut self, out: &mut Vec<u8>, now: Instant) {
        let mut skipped: Vec<(u16, u16)> = Vec::new();
        let mut until = self.acked;
        for sent in self.sent.iter().take((self.advanced - self.acked) as usize) {
            if sent.flags & FLAG_UNORDERED == 0 {
                let full = skipped.len() == MAX_SKIPPED;
                match skipped.iter_mut().find(|(stream, _)| *stream == sent.stream) {
                    Some((_, ssn)) => *ssn = sent.ssn,
                    None if full => break,
                    None => skipped.push((sent.stream, sent.ssn)),
                }
            }
            until += 1;
        }
        out.extend((until as u32).to_be_bytes());
        for (stream, ssn) in skipped {
            out.extend(stream.to_be_bytes());
            out.extend(ssn.to_be_bytes());
        }
        self.forward_due = false;
        self.start_timer(now);
    }

    /// RFC 9260 section 6.3.1.
    fn measure(&mut self, rtt: Duration) {
        let (smoothed, variance) = match self.smoothed {
            None => (rtt, rtt / 2),
            Some((smoothed, variance)) => {
                ((smoothed * 7 + rtt) / 8, (variance * 3 + smoothed.abs_diff(rtt)) / 4)
            }
        };
        self.smoothed = Some((smoothed, variance));
        self.rto = (smoothed + (variance * 4).max(RTT_MARGIN)).clamp(RTO_MIN, RTO_MAX);
    }
}

fn write(sent: &Sent, tsn: u64, out: &mut Vec<u8>) {
    let payload = sent.data.get(sent.range.clone()).unwrap_or_default();
    Data { flags: sent.flags, tsn: tsn as u32, stream: sent.stream, ssn: sent.ssn, ppid: sent.ppid, payload }
        .write(out);
}
