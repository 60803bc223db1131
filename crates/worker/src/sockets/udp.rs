//! A UDP socket of the worker: what is to leave through it, and what the poll is told about it.
//!
//! Each message that has left frees its place in the kernel's send buffer, and that wakes whoever watches the socket, even
//! who only asked whether it can be read: some 200 ns each, and an event for each turn where writability was asked for.
//! So a socket that sends much is not watched until the turn ends, and its writability only while something waits.

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, RawFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use net::udp::{FlushReport, RecvBatch, RunHint, SendQueue};

use crate::transport::Path;

/// Messages from which on a flush goes unwatched. It takes two system calls a turn, of a few microseconds each where nothing
/// of them is in the caches.
const UNWATCHED_FROM: usize = 32;

/// A UDP socket and what is to leave through it.
#[derive(Debug)]
pub struct Udp {
    socket: UdpSocket,
    queue: SendQueue,
    token: Option<Token>,
    watched: Watched,
    /// Whether the next flush is due to look at it.
    pub dirty: bool,
}

/// What wakes the poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watched {
    Nothing,
    Readable,
    /// Something waits for room.
    ReadableAndWritable,
}

impl Udp {
    /// A socket that nobody watches yet. `offload`: whether the kernel may cut runs of datagrams, where it can.
    pub fn new(socket: UdpSocket, offload: bool) -> Self {
        let queue = if offload { SendQueue::for_socket(&socket) } else { SendQueue::default() };
        Self { socket, queue, token: None, watched: Watched::Nothing, dirty: false }
    }

    /// Its descriptor.
    pub fn raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Has the poll say under this token when the socket can be read.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn watch(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.token = Some(token);
        self.set_watched(registry, Watched::Readable)
    }

    /// Receives one batch of datagrams.
    ///
    /// # Errors
    /// As [`RecvBatch::receive`].
    pub fn receive(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        batch.receive(&self.socket)
    }

    /// As [`SendQueue::reserve`].
    pub fn reserve(&mut self, len: usize) -> &mut [u8] {
        self.queue.reserve(len)
    }

    /// As [`SendQueue::commit_to`].
    pub fn commit_to(&mut self, len: usize, path: Path, run: &mut RunHint) {
        self.queue.commit_to(len, path.remote, run);
    }

    /// Hands everything queued to the kernel; what it does not take now waits for the socket to be writable. Afterwards it may
    /// want to be settled.
    pub fn flush(&mut self, registry: &Registry) -> FlushReport {
        self.dirty = false;
        if self.queue.messages() >= UNWATCHED_FROM {
            // Watched or not, the datagrams leave.
            let _ = self.set_watched(registry, Watched::Nothing);
        }
        if self.queue.is_empty() { FlushReport::default() } else { self.queue.flush(&self.socket) }
    }

    /// Whether what is watched is what should be.
    pub fn is_settled(&self) -> bool {
        self.token.is_none() || self.watched == self.wanted()
    }

    /// Has the socket watched again, for what is awaited now.
    ///
    /// # Errors
    /// Where the kernel is short of memory: to be tried again, as nothing tells meanwhile what comes.
    pub fn settle(&mut self, registry: &Registry) -> io::Result<()> {
        self.set_watched(registry, self.wanted())
    }

    fn wanted(&self) -> Watched {
        if self.queue.is_empty() { Watched::Readable } else { Watched::ReadableAndWritable }
    }

    /// Both beginning to watch and asking for more says at once what is there already: nothing is missed in between.
    fn set_watched(&mut self, registry: &Registry, wanted: Watched) -> io::Result<()> {
        let Some(token) = self.token.filter(|_| wanted != self.watched) else { return Ok(()) };
        let fd = self.socket.as_raw_fd();
        let mut source = SourceFd(&fd);
        let interest = match wanted {
            Watched::Nothing => None,
            Watched::Readable => Some(Interest::READABLE),
            Watched::ReadableAndWritable => Some(Interest::READABLE | Interest::WRITABLE),
        };
        match (self.watched, interest) {
            (_, None) => registry.deregister(&mut source)?,
            (Watched::Nothing, Some(interest)) => registry.register(&mut source, token, interest)?,
            (_, Some(interest)) => registry.reregister(&mut source, token, interest)?,
        }
        self.watched = wanted;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mio::{Events, Poll};

    use super::*;
    use crate::table::{Index, SocketIdx};

    const TOKEN: Token = Token(7);

    struct Setup {
        poll: Poll,
        udp: Udp,
        peer: UdpSocket,
        path: Path,
    }

    fn setup() -> Setup {
        let poll = Poll::new().unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        peer.connect(socket.local_addr().unwrap()).unwrap();
        let path = Path { socket: SocketIdx::from_usize(0), remote: peer.local_addr().unwrap() };
        let mut udp = Udp::new(socket, false);
        udp.watch(poll.registry(), TOKEN).unwrap();
        Setup { poll, udp, peer, path }
    }

    impl Setup {
        fn queue(&mut self, datagrams: usize) {
            for _ in 0..datagrams {
                self.udp.reserve(100).fill(1);
                self.udp.commit_to(100, self.path, &mut RunHint::default());
            }
        }

        fn flush(&mut self) -> FlushReport {
            let report = self.udp.flush(self.poll.registry());
            self.udp.settle(self.poll.registry()).unwrap();
            assert!(self.udp.is_settled());
            report
        }

        /// Readable and writable events that are there already.
        fn events(&mut self) -> (usize, usize) {
            let mut events = Events::with_capacity(8);
            self.poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
            let count = |wanted: fn(&mio::event::Event) -> bool| events.iter().filter(|e| wanted(e)).count();
            (count(mio::event::Event::is_readable), count(mio::event::Event::is_writable))
        }
    }

    #[test]
    fn what_was_sent_wakes_nobody() {
        let mut setup = setup();
        for datagrams in [1, UNWATCHED_FROM - 1, UNWATCHED_FROM, 3 * UNWATCHED_FROM] {
            setup.queue(datagrams);
            assert_eq!(setup.flush().sent, datagrams as u64);
            assert_eq!(setup.events(), (0, 0), "{datagrams} datagrams");
        }
    }

    #[test]
    fn what_arrives_around_a_flush_is_seen() {
        let mut setup = setup();
        let mut batch = RecvBatch::new();
        for datagrams in [1, 3 * UNWATCHED_FROM] {
            // Before it, seen only after it.
            setup.peer.send(b"before").unwrap();
            setup.queue(datagrams);
            setup.flush();
            assert_eq!(setup.events(), (1, 0), "{datagrams} datagrams");
            assert_eq!(setup.udp.receive(&mut batch).unwrap(), 1);
            assert_eq!(setup.events(), (0, 0));
            // And after it.
            setup.peer.send(b"after").unwrap();
            assert_eq!(setup.events(), (1, 0), "{datagrams} datagrams");
            assert_eq!(setup.udp.receive(&mut batch).unwrap(), 1);
        }
    }

    #[test]
    fn room_is_waited_for_only_while_something_waits() {
        let mut setup = setup();
        let registry = setup.poll.registry().try_clone().unwrap();
        setup.udp.set_watched(&registry, Watched::ReadableAndWritable).unwrap();
        assert_eq!(setup.events(), (0, 1));
        assert_eq!(setup.flush(), FlushReport::default());
        setup.queue(1);
        setup.flush();
        assert_eq!(setup.events(), (0, 0));
    }
}
