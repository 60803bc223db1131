//! Sending: the arena of one loop turn.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use super::batch::MAX_DATAGRAM;
use super::sys::{self, Outgoing};

/// Bytes that may wait for a socket whose buffer is full. Half a second of a gigabit is more than any real-time receiver
/// still wants: beyond it the oldest datagrams are dropped.
pub const MAX_QUEUED_BYTES: usize = 8 * 1024 * 1024;

/// Bytes of memory that an empty queue keeps for the next turn.
pub(super) const MAX_IDLE_BYTES: usize = 16 * 1024 * 1024;

/// What a flush did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlushReport {
    /// Datagrams that the kernel took.
    pub sent: u64,
    /// Datagrams that the kernel refused (unreachable, forbidden, too long), which are gone.
    pub refused: u64,
    /// Datagrams dropped as the oldest of too many.
    pub dropped: u64,
    /// Datagrams that wait because the socket's buffer is full.
    pub waiting: usize,
}

/// Datagrams to be sent with the next flush, their bytes end to end in one arena.
#[derive(Debug, Default)]
pub struct SendQueue {
    arena: Vec<u8>,
    entries: Vec<Entry>,
    /// Where the next datagram begins.
    end: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    start: usize,
    len: usize,
    destination: SocketAddr,
}

impl SendQueue {
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
        let len = len.min(self.arena.len() - self.end);
        self.entries.push(Entry { start: self.end, len, destination });
        self.end += len;
    }

    /// Queues a copy of `bytes`.
    pub fn push(&mut self, bytes: &[u8], destination: SocketAddr) {
        self.reserve(bytes.len()).copy_from_slice(bytes);
        self.commit(bytes.len(), destination);
    }

    /// Datagrams that wait.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.end
    }

    #[cfg(test)]
    pub(super) fn allocated_bytes(&self) -> usize {
        self.arena.capacity()
    }

    /// Hands everything to the kernel. One datagram's error loses that datagram only. Where the socket's buffer is full
    /// the rest waits for the next flush, in order, within [`MAX_QUEUED_BYTES`].
    pub fn flush(&mut self, socket: &UdpSocket) -> FlushReport {
        self.flush_with(|datagrams| sys::send_batch(socket, datagrams))
    }

    pub(super) fn flush_with(
        &mut self,
        mut send: impl FnMut(&mut dyn Iterator<Item = Outgoing<'_>>) -> io::Result<usize>,
    ) -> FlushReport {
        let mut report = FlushReport::default();
        let mut done = 0;
        while done < self.entries.len() {
            let arena = &self.arena;
            let mut datagrams = self.entries[done..].iter().map(|entry| Outgoing {
                bytes: &arena[entry.start..entry.start + entry.len],
                destination: entry.destination,
            });
            match send(&mut datagrams) {
                Ok(sent) => {
                    report.sent += sent as u64;
                    done += sent.max(1);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    report.refused += 1;
                    done += 1;
                }
            }
        }
        self.keep_from(done, &mut report);
        report
    }

    /// Moves what is left to the arena's front, without the oldest where it is too much.
    fn keep_from(&mut self, mut first: usize, report: &mut FlushReport) {
        while first < self.entries.len() && self.end - self.entries[first].start > MAX_QUEUED_BYTES {
            first += 1;
            report.dropped += 1;
        }
        match self.entries.get(first).map(|entry| entry.start) {
            None => {
                self.entries.clear();
                self.end = 0;
                // One busy turn must not cost its memory for ever.
                if self.arena.len() > MAX_IDLE_BYTES {
                    self.arena.truncate(MAX_IDLE_BYTES);
                    self.arena.shrink_to_fit();
                    self.entries.shrink_to(MAX_IDLE_BYTES / MAX_DATAGRAM);
                }
            }
            Some(0) => {}
            Some(shift) => {
                self.arena.copy_within(shift..self.end, 0);
                self.entries.drain(..first);
                for entry in &mut self.entries {
                    entry.start -= shift;
                }
                self.end -= shift;
            }
        }
        report.waiting = self.entries.len();
    }
}
