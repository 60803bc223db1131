//! Sending: the arena of one loop turn, and the runs that its datagrams form.
//!
//! A run is what the kernel takes as one message and cuts into datagrams itself (UDP segmentation offload): one
//! destination, datagrams of one length, the last perhaps shorter. Where its datagrams do not lie side by side, the
//! message gathers them.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use super::batch::MAX_DATAGRAM;
use super::sys;

/// Bytes that may wait for a socket whose buffer is full. Half a second of a gigabit is more than any real-time receiver
/// still wants: beyond it the oldest datagrams are dropped.
pub const MAX_QUEUED_BYTES: usize = 8 * 1024 * 1024;

/// Bytes of memory that an empty queue keeps for the next turn.
pub(super) const MAX_IDLE_BYTES: usize = 16 * 1024 * 1024;

/// Datagrams of one run. The kernel takes 64; past 16 another one saves nothing, and a receiver's path should not get
/// more of one sender in one piece.
pub(super) const MAX_SEGMENTS: u16 = 32;

/// Bytes of one run: with headers of IP and UDP it must stay below 64 KiB.
const MAX_RUN_BYTES: usize = 65_000;

/// Destinations to which the kernel refused a run. When there are more, the socket sends no runs at all.
const MAX_REFUSED_DESTINATIONS: usize = 64;

/// What a flush did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlushReport {
    /// Datagrams that the kernel took.
    pub sent: u64,
    /// Bytes in them, without those of UDP and IP.
    pub octets: u64,
    /// Messages in which it took them: fewer than datagrams where there were runs.
    pub messages: u64,
    /// Datagrams that the kernel refused (unreachable, forbidden, too long), which are gone.
    pub refused: u64,
    /// Runs that the kernel refused as such; their datagrams went one by one.
    pub runs_refused: u64,
    /// Datagrams dropped as the oldest of too many.
    pub dropped: u64,
    /// Datagrams that wait because the socket's buffer is full.
    pub waiting: usize,
}

/// Where the latest run to one destination is, as its owner remembers it: lets datagrams join a run that others were
/// queued behind. A stale one does no harm.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunHint {
    turn: u32,
    run: u32,
}

/// Datagrams to be sent with the next flush, their bytes end to end in one arena.
#[derive(Debug, Default)]
pub struct SendQueue {
    arena: Vec<u8>,
    datagrams: Vec<Datagram>,
    runs: Vec<Run>,
    /// Where the next datagram begins.
    end: usize,
    /// Counts flushes, so that hints of an earlier one are recognised. Hints begin at zero, this one above.
    turn: u32,
    /// Whether the kernel cuts runs for this socket.
    segments: bool,
    /// Destinations that must have datagrams one by one.
    refused: Vec<SocketAddr>,
    /// Arena and datagrams of before, for compaction.
    spare: (Vec<u8>, Vec<Datagram>),
}

#[derive(Clone, Copy, Debug)]
struct Datagram {
    start: u32,
    len: u32,
    /// The next one of its run.
    next: u32,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    destination: SocketAddr,
    first: u32,
    last: u32,
    /// Length of all datagrams but the last.
    segment: u32,
    bytes: u32,
    count: u16,
    /// A shorter datagram ended it.
    closed: bool,
}

/// One message: a datagram, or a run of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outgoing<'a> {
    pub(super) destination: SocketAddr,
    /// Length of its datagrams, where it is a run.
    pub(super) segment: Option<u16>,
    pub(super) pieces: Pieces<'a>,
}

/// The bytes of a message, in as few pieces as they lie in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pieces<'a> {
    arena: &'a [u8],
    datagrams: &'a [Datagram],
    next: u32,
}

const NONE: u32 = u32::MAX;

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let first = self.datagrams.get(self.next as usize)?;
        let mut end = first.start + first.len;
        self.next = first.next;
        while let Some(following) = self.datagrams.get(self.next as usize).filter(|next| next.start == end) {
            end += following.len;
            self.next = following.next;
        }
        Some(&self.arena[first.start as usize..end as usize])
    }
}

impl SendQueue {
    /// A queue that makes use of what the kernel can do for `socket`.
    pub fn for_socket(socket: &UdpSocket) -> Self {
        Self { segments: sys::can_segment(socket), ..Self::default() }
    }

    /// Room for a datagram of at most `len` bytes, directly behind the one committed last. What it holds is undefined
    /// (bytes of an earlier turn); nothing is queued until [`SendQueue::commit`].
    pub fn reserve(&mut self, len: usize) -> &mut [u8] {
        let end = self.end + len;
        if self.arena.len() < end {
            self.arena.resize(end, 0);
        }
        &mut self.arena[self.end..end]
    }

    /// Queues the first `len` bytes of what was reserved last. More than was reserved is cut to it.
    pub fn commit(&mut self, len: usize, destination: SocketAddr) {
        let mut hint = RunHint { turn: self.turn, run: (self.runs.len() as u32).wrapping_sub(1) };
        self.commit_to(len, destination, &mut hint);
    }

    /// As [`SendQueue::commit`]; the datagram joins the run that `hint` remembers, where it fits. Datagrams with one hint
    /// stay in order, those with different hints need not, even to one destination.
    pub fn commit_to(&mut self, len: usize, destination: SocketAddr, hint: &mut RunHint) {
        let len = len.min(self.arena.len() - self.end);
        let index = self.datagrams.len() as u32;
        self.datagrams.push(Datagram { start: self.end as u32, len: len as u32, next: NONE });
        self.end += len;
        if self.segments
            && hint.turn == self.turn
            && let Some(run) = self.runs.get_mut(hint.run as usize)
            && run.takes(len, destination)
        {
            self.datagrams[run.last as usize].next = index;
            run.last = index;
            run.count += 1;
            run.bytes += len as u32;
            run.closed = len < run.segment as usize;
            return;
        }
        *hint = RunHint { turn: self.turn, run: self.runs.len() as u32 };
        self.runs.push(Run {
            destination,
            first: index,
            last: index,
            segment: len as u32,
            bytes: len as u32,
            count: 1,
            closed: len == 0 || self.refused.contains(&destination),
        });
    }

    /// Queues a copy of `bytes`.
    pub fn push(&mut self, bytes: &[u8], destination: SocketAddr) {
        self.reserve(bytes.len()).copy_from_slice(bytes);
        self.commit(bytes.len(), destination);
    }

    /// Datagrams that wait.
    pub fn len(&self) -> usize {
        self.datagrams.len()
    }

    /// Messages in which they leave: fewer where there are runs.
    pub fn messages(&self) -> usize {
        self.runs.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.end
    }

    #[cfg(test)]
    pub(super) fn allocated_bytes(&self) -> usize {
        self.arena.capacity()
    }

    /// Hands everything to the kernel. One datagram's error loses that datagram only; a run that is refused goes datagram
    /// by datagram. Where the socket's buffer is full the rest waits for the next flush, in order, within
    /// [`MAX_QUEUED_BYTES`].
    pub fn flush(&mut self, socket: &UdpSocket) -> FlushReport {
        self.flush_with(|messages| sys::send_batch(socket, messages))
    }

    pub(super) fn flush_with(
        &mut self,
        mut send: impl FnMut(&mut dyn Iterator<Item = Outgoing<'_>>) -> io::Result<usize>,
    ) -> FlushReport {
        let mut report = FlushReport::default();
        let mut done = 0;
        while done < self.runs.len() {
            let (arena, datagrams) = (&self.arena[..], &self.datagrams[..]);
            let mut messages = self.runs[done..].iter().map(|run| Outgoing {
                destination: run.destination,
                segment: (run.count > 1).then_some(run.segment as u16),
                pieces: Pieces { arena, datagrams, next: run.first },
            });
            match send(&mut messages) {
                Ok(taken) => {
                    let taken = taken.max(1).min(self.runs.len() - done);
                    for run in &self.runs[done..done + taken] {
                        report.sent += u64::from(run.count);
                        report.octets += u64::from(run.bytes);
                    }
                    report.messages += taken as u64;
                    done += taken;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if self.runs[done].count > 1 => {
                    report.runs_refused += 1;
                    if sys::refuses_segments(&error) {
                        self.refuse(self.runs[done].destination);
                    }
                    self.split(done);
                }
                Err(_) => {
                    report.refused += 1;
                    done += 1;
                }
            }
        }
        self.keep_from(done, &mut report);
        report
    }

    /// Makes each datagram a message of its own.
    pub(super) fn split_all(&mut self) {
        for run in (0..self.runs.len()).rev() {
            self.split(run);
        }
    }

    /// Exchanges a run for its datagrams.
    fn split(&mut self, at: usize) {
        let run = self.runs[at];
        let mut next = run.first;
        let mut parts = Vec::with_capacity(usize::from(run.count));
        while let Some(datagram) = self.datagrams.get_mut(next as usize) {
            let (index, len) = (next, datagram.len);
            next = std::mem::replace(&mut datagram.next, NONE);
            parts.push(Run {
                first: index,
                last: index,
                segment: len,
                bytes: len,
                count: 1,
                closed: true,
                ..run
            });
        }
        self.runs.splice(at..=at, parts);
    }

    /// No more runs to this destination: its path does not take them.
    fn refuse(&mut self, destination: SocketAddr) {
        if self.refused.len() >= MAX_REFUSED_DESTINATIONS {
            self.segments = false;
        } else if !self.refused.contains(&destination) {
            self.refused.push(destination);
        }
    }

    /// Moves what is left to the arena's front, without the oldest where it is too much.
    fn keep_from(&mut self, mut first: usize, report: &mut FlushReport) {
        self.turn = self.turn.wrapping_add(1).max(1);
        let mut bytes: usize = self.runs[first..].iter().map(|run| run.bytes as usize).sum();
        while bytes > MAX_QUEUED_BYTES {
            bytes -= self.runs[first].bytes as usize;
            report.dropped += u64::from(self.runs[first].count);
            first += 1;
        }
        if first == self.runs.len() {
            self.datagrams.clear();
            self.runs.clear();
            self.end = 0;
            // One busy turn must not cost its memory for ever.
            if self.arena.len() > MAX_IDLE_BYTES {
                self.arena.truncate(MAX_IDLE_BYTES);
                self.arena.shrink_to_fit();
                self.datagrams.shrink_to(MAX_IDLE_BYTES / MAX_DATAGRAM);
                self.runs.shrink_to(MAX_IDLE_BYTES / MAX_DATAGRAM);
                self.spare = <(Vec<u8>, Vec<Datagram>)>::default();
            }
        } else if first > 0 {
            self.compact(first);
        }
        report.waiting = self.datagrams.len();
    }

    /// Copies the runs from `first` on to a fresh arena: they may lie anywhere in the old one.
    fn compact(&mut self, first: usize) {
        self.runs.drain(..first);
        let (mut arena, mut datagrams) = std::mem::take(&mut self.spare);
        arena.clear();
        datagrams.clear();
        for run in &mut self.runs {
            let mut next = run.first;
            run.first = datagrams.len() as u32;
            while let Some(old) = self.datagrams.get(next as usize) {
                let start = arena.len() as u32;
                arena.extend_from_slice(&self.arena[old.start as usize..(old.start + old.len) as usize]);
                datagrams.push(Datagram { start, len: old.len, next: datagrams.len() as u32 + 1 });
                next = old.next;
            }
            run.last = datagrams.len() as u32 - 1;
            datagrams[run.last as usize].next = NONE;
            run.closed = true;
        }
        self.end = arena.len();
        self.spare =
            (std::mem::replace(&mut self.arena, arena), std::mem::replace(&mut self.datagrams, datagrams));
    }
}

impl Run {
    /// Whether a datagram of `len` bytes may follow.
    fn takes(&self, len: usize, destination: SocketAddr) -> bool {
        !self.closed
            && len <= self.segment as usize
            && len > 0
            && self.count < MAX_SEGMENTS
            && self.bytes as usize + len <= MAX_RUN_BYTES
            && self.destination == destination
    }
}
