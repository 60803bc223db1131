//! The worker's sockets: UDP sockets, TCP listeners and TCP connections, each owned by a WebRtcServer or a Transport.
//!
//! UDP datagrams to be sent are queued in one arena and leave with [`Sockets::flush`], once a turn of the event
//! loop, or earlier where they are many.
//! TCP carries the same datagrams, each after a 16-bit length (RFC 4571, as RFC 6544 wants for ICE).

pub mod udp;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Instant;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use net::udp::{RecvBatch, RunHint};
use worker_protocol::wire::transport::{ListenInfo, Protocol};

use crate::error::{RequestError, RequestResult};
use crate::frames::{BadFrame, FrameReader};
use crate::ports::{PortLease, PortManager};
use crate::sockets::udp::Udp;
use crate::table::{Index, SocketIdx, Table, TransportIdx, WebRtcServerIdx};
use crate::transport::Path;

/// The first token that is a socket's; those below belong to the event loop.
pub const FIRST_TOKEN: usize = 16;

/// Bytes that may wait for a slow TCP peer. More than this is seconds of video: new packets are dropped.
const TCP_BACKLOG_BYTES: usize = 256 * 1024;

/// Bytes queued from which a turn flushes before its end: what a turn receives may be sent to a thousand. As much stays in
/// the second-level cache until the kernel copies it, and the first receivers do not wait for the last.
const FLUSH_BYTES: usize = 256 * 1024;

/// The environment variable that, set to 0, has every datagram leave as a message of its own: for a network card that
/// cuts runs badly, and for tests whose packet filter drops what it takes for one packet.
const OFFLOAD_VARIABLE: &str = "TUREEN_WORKER_GSO";

/// TCP connections of one worker; each costs a descriptor, of which a process has a limited number.
const MAX_CONNECTIONS: usize = 4096;

/// Sockets that lists have room for from the beginning: what first happens in the middle of a call must not allocate there.
const TYPICAL_SOCKETS: usize = 16;

/// The longest datagram that a frame holds.
const MAX_FRAME: usize = 65_535;

/// Who gets what a socket receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketOwner {
    /// The transports of a server, to be told apart.
    WebRtcServer(WebRtcServerIdx),
    /// One transport.
    Transport(TransportIdx),
}

/// One socket.
#[derive(Debug)]
pub struct Socket {
    /// What it is.
    pub kind: SocketKind,
    /// Whom it serves.
    pub owner: SocketOwner,
    /// The address it is bound to.
    pub local: SocketAddr,
    /// Keeps a port of a range taken while the socket lives.
    _lease: Option<PortLease>,
}

/// What a socket is.
#[derive(Debug)]
pub enum SocketKind {
    /// Datagrams from and to anybody.
    Udp(Box<Udp>),
    /// Accepts connections.
    TcpListener(TcpListener),
    /// Framed datagrams from and to one peer.
    TcpConnection(Box<TcpConnection>),
}

/// A connection that a TCP listener accepted.
#[derive(Debug)]
pub struct TcpConnection {
    stream: TcpStream,
    /// The peer.
    pub remote: SocketAddr,
    /// The listener that accepted it.
    pub listener: SocketIdx,
    received: FrameReader,
    pending: Vec<u8>,
    /// Where the datagram that is being written begins in `pending`.
    reserved_at: usize,
    /// Whether the next flush is due to look at it.
    dirty: bool,
    broken: bool,
    accepted_at: Instant,
}

/// What happened to datagrams that could not be sent or received.
#[derive(Debug, Default, Clone, Copy)]
pub struct SocketCounters {
    /// Datagrams that a slow TCP peer left no room for.
    pub tcp_backlog_drops: u64,
    /// TCP connections closed for a frame that is empty or too long.
    pub tcp_malformed: u64,
    /// TCP connections refused because there are too many.
    pub tcp_refused: u64,
    /// Times a readable socket failed.
    pub receive_errors: u64,
    /// Datagrams that the kernel refused.
    pub send_errors: u64,
    /// Datagrams dropped as the oldest of too many that the kernel did not take.
    pub send_overflow: u64,
    /// Datagrams that the kernel took.
    pub datagrams_sent: u64,
    /// Bytes in them, without those of UDP and IP.
    pub octets_sent: u64,
    /// Messages in which it took them.
    pub messages_sent: u64,
    /// Runs of datagrams that it did not take as one message.
    pub runs_refused: u64,
}

/// All sockets of a worker.
#[derive(Debug)]
pub struct Sockets {
    table: Table<SocketIdx, Socket>,
    registry: Registry,
    ports: PortManager,
    connections: usize,
    /// Sockets with something to flush.
    dirty: Vec<SocketIdx>,
    /// UDP sockets that the poll is to be told of.
    unsettled: Vec<SocketIdx>,
    /// Bytes queued since the last flush.
    queued: usize,
    /// Whether the kernel may cut runs of datagrams, where it can.
    offload: bool,
    /// What went wrong.
    pub counters: SocketCounters,
}

impl Sockets {
    /// No sockets yet; they will wake the poll of this registry.
    pub fn new(registry: Registry) -> Self {
        Self {
            table: Table::default(),
            registry,
            ports: PortManager::default(),
            connections: 0,
            dirty: Vec::with_capacity(TYPICAL_SOCKETS),
            unsettled: Vec::with_capacity(TYPICAL_SOCKETS),
            queued: 0,
            offload: std::env::var_os(OFFLOAD_VARIABLE).is_none_or(|value| value != "0"),
            counters: SocketCounters::default(),
        }
    }

    /// Opens what `info` asks for and watches it.
    ///
    /// # Errors
    /// As [`PortManager::bind`].
    pub fn open(
        &mut self,
        info: &ListenInfo,
        default_range: (u16, u16),
        owner: SocketOwner,
    ) -> RequestResult<SocketIdx> {
        let bound = self.ports.bind(info, default_range)?;
        let kind = match info.protocol {
            Protocol::Udp => SocketKind::Udp(Box::new(Udp::new(bound.socket.into(), self.offload))),
            Protocol::Tcp => SocketKind::TcpListener(bound.socket.into()),
        };
        self.insert(Socket { kind, owner, local: bound.local, _lease: bound.lease })
            .map_err(|error| RequestError::error(format!("watching the socket failed: {error}")))
    }

    fn insert(&mut self, mut socket: Socket) -> io::Result<SocketIdx> {
        let index = self.table.next_index();
        let token = Token(FIRST_TOKEN + index.to_usize());
        let fd = socket.raw_fd();
        let mut source = SourceFd(&fd);
        match &mut socket.kind {
            SocketKind::Udp(udp) => udp.watch(&self.registry, token)?,
            SocketKind::TcpConnection(_) => {
                self.registry.register(&mut source, token, Interest::READABLE | Interest::WRITABLE)?;
            }
            SocketKind::TcpListener(_) => self.registry.register(&mut source, token, Interest::READABLE)?,
        }
        Ok(self.table.insert(socket))
    }

    /// Closes a socket. Datagrams queued for it are lost unless flushed before.
    pub fn close(&mut self, index: SocketIdx) {
        let Some(socket) = self.table.remove(index) else { return };
        if matches!(socket.kind, SocketKind::TcpConnection(_)) {
            self.connections -= 1;
        }
        // Closing the descriptor ends the watching too; this only fails where that already happened.
        let _ = self.registry.deregister(&mut SourceFd(&socket.raw_fd()));
        self.dirty.retain(|dirty| *dirty != index);
        self.unsettled.retain(|unsettled| *unsettled != index);
    }

    /// The socket, while it is open.
    pub fn get(&self, index: SocketIdx) -> Option<&Socket> {
        self.table.get(index)
    }

    /// The socket that an event's token names, while it is open.
    pub fn by_token(&self, token: Token) -> Option<SocketIdx> {
        let index = SocketIdx::from_usize(token.0.checked_sub(FIRST_TOKEN)?);
        self.table.get(index).map(|_| index)
    }

    /// The address a socket is bound to.
    pub fn local(&self, index: SocketIdx) -> SocketAddr {
        self.table[index].local
    }

    /// How many sockets are open.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether no socket is open.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Queues a copy of `bytes`.
    pub fn send(&mut self, path: Path, bytes: &[u8]) {
        if let Some(space) =
            self.reserve(path.socket, bytes.len()).and_then(|space| space.get_mut(..bytes.len()))
        {
            space.copy_from_slice(bytes);
            self.commit(path, bytes.len());
        }
    }

    /// Room for a datagram of at most `len` bytes, to be written and then committed; `None` where a TCP peer is too
    /// far behind, or the socket is gone.
    pub fn reserve(&mut self, socket: SocketIdx, len: usize) -> Option<&mut [u8]> {
        match &mut self.table.get_mut(socket)?.kind {
            SocketKind::Udp(udp) => Some(udp.reserve(len)),
            SocketKind::TcpConnection(connection) => {
                if connection.has_room(len) {
                    return Some(connection.reserve(len));
                }
                self.counters.tcp_backlog_drops += 1;
                None
            }
            SocketKind::TcpListener(_) => None,
        }
    }

    /// Queues the first `len` bytes of what was reserved last.
    pub fn commit(&mut self, path: Path, len: usize) {
        self.commit_to(path, len, &mut RunHint::default());
    }

    /// As [`Sockets::commit`], for media: it joins the run that `run` remembers, where it fits.
    pub fn commit_to(&mut self, path: Path, len: usize, run: &mut RunHint) {
        let Some(socket) = self.table.get_mut(path.socket) else { return };
        self.queued += len;
        let dirty = match &mut socket.kind {
            SocketKind::Udp(udp) => {
                udp.commit_to(len, path, run);
                &mut udp.dirty
            }
            SocketKind::TcpConnection(connection) => {
                connection.commit(len);
                &mut connection.dirty
            }
            SocketKind::TcpListener(_) => return,
        };
        if !std::mem::replace(dirty, true) {
            self.dirty.push(path.socket);
        }
    }

    /// Whether so much is queued that it should not wait for the end of the turn.
    pub fn is_full(&self) -> bool {
        self.queued > FLUSH_BYTES
    }

    /// Hands everything queued to the kernel. What it does not take now waits for the socket to be writable.
    pub fn flush(&mut self) {
        self.queued = 0;
        while let Some(index) = self.dirty.pop() {
            self.flush_socket(index);
        }
    }

    /// The end of a turn: flushes, and sees to it that the poll wakes for what each socket waits for.
    pub fn end_turn(&mut self) {
        self.flush();
        let (table, registry, counters) = (&mut self.table, &self.registry, &mut self.counters);
        self.unsettled.retain(|index| {
            let Some(SocketKind::Udp(udp)) = table.get_mut(*index).map(|socket| &mut socket.kind) else {
                return false;
            };
            // Where the kernel refuses, timers bring the next turn, which tries again.
            let refused = udp.settle(registry).is_err();
            counters.receive_errors += u64::from(refused);
            refused
        });
    }

    /// Hands on what waits in one socket.
    pub fn flush_socket(&mut self, index: SocketIdx) {
        match self.table.get_mut(index).map(|socket| &mut socket.kind) {
            Some(SocketKind::Udp(udp)) => {
                let report = udp.flush(&self.registry);
                let is_settled = udp.is_settled();
                self.counters.datagrams_sent += report.sent;
                self.counters.octets_sent += report.octets;
                self.counters.messages_sent += report.messages;
                self.counters.runs_refused += report.runs_refused;
                self.counters.send_errors += report.refused;
                self.counters.send_overflow += report.dropped;
                if !is_settled && !self.unsettled.contains(&index) {
                    self.unsettled.push(index);
                }
            }
            Some(SocketKind::TcpConnection(connection)) => {
                connection.dirty = false;
                connection.write();
            }
            Some(SocketKind::TcpListener(_)) | None => {}
        }
    }

    /// Accepts one connection, which becomes a socket of its own.
    pub fn accept(&mut self, listener: SocketIdx, now: Instant) -> Option<SocketIdx> {
        let socket = self.table.get(listener)?;
        let SocketKind::TcpListener(tcp) = &socket.kind else { return None };
        let (owner, local) = (socket.owner, socket.local);
        loop {
            let (stream, remote) = match tcp.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        self.counters.receive_errors += 1;
                    }
                    return None;
                }
            };
            if self.connections >= MAX_CONNECTIONS || stream.set_nonblocking(true).is_err() {
                self.counters.tcp_refused += 1;
                continue;
            }
            // Media is late enough without Nagle; where it cannot be switched off, it still works.
            let _ = stream.set_nodelay(true);
            let local = stream.local_addr().unwrap_or(local);
            let connection = Box::new(TcpConnection {
                stream,
                remote,
                listener,
                received: FrameReader::default(),
                pending: Vec::new(),
                reserved_at: 0,
                dirty: false,
                broken: false,
                accepted_at: now,
            });
            self.connections += 1;
            return match self.insert(Socket {
                kind: SocketKind::TcpConnection(connection),
                owner,
                local,
                _lease: None,
            }) {
                Ok(index) => Some(index),
                Err(_) => {
                    self.connections -= 1;
                    self.counters.receive_errors += 1;
                    None
                }
            };
        }
    }

    /// Receives one batch of UDP datagrams; 0 where none wait.
    pub fn receive(&mut self, index: SocketIdx, batch: &mut RecvBatch) -> usize {
        let Some(SocketKind::Udp(udp)) = self.table.get(index).map(|socket| &socket.kind) else { return 0 };
        // An ICMP error of an earlier send surfaces once and must not stop the reading; a bound keeps a broken socket
        // from spinning.
        for _ in 0..16 {
            match udp.receive(batch) {
                Ok(received) => return received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return 0,
                Err(_) => self.counters.receive_errors += 1,
            }
        }
        0
    }

    /// Reads what a TCP peer sent; [`Sockets::next_frame`] then has the datagrams. `true` where more may wait.
    pub fn read_connection(&mut self, index: SocketIdx) -> bool {
        match self.table.get_mut(index).map(|socket| &mut socket.kind) {
            Some(SocketKind::TcpConnection(connection)) => connection.read(),
            _ => false,
        }
    }

    /// Takes one whole datagram off a TCP connection.
    pub fn next_frame(&mut self, index: SocketIdx, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
        let SocketKind::TcpConnection(connection) = &mut self.table.get_mut(index)?.kind else { return None };
        match connection.next_frame(buffer) {
            Ok(len) => Some((len?, connection.remote)),
            Err(BadFrame) => {
                connection.broken = true;
                self.counters.tcp_malformed += 1;
                None
            }
        }
    }

    /// Whether a TCP connection ended or failed, so that it must be closed.
    pub fn is_broken(&self, index: SocketIdx) -> bool {
        matches!(&self.table.get(index).map(|socket| &socket.kind), Some(SocketKind::TcpConnection(connection)) if connection.broken)
    }

    /// Whether there are TCP connections at all.
    pub fn has_connections(&self) -> bool {
        self.connections > 0
    }

    /// The connections accepted before `limit`, with the paths that they are.
    pub fn connections_before(&self, limit: Instant) -> Vec<Path> {
        self.table
            .iter()
            .filter_map(|(index, socket)| match &socket.kind {
                SocketKind::TcpConnection(connection) if connection.accepted_at < limit => {
                    Some(Path { socket: index, remote: connection.remote })
                }
                _ => None,
            })
            .collect()
    }

    /// The connections that a listener accepted.
    pub fn connections_of(&self, listener: SocketIdx) -> Vec<SocketIdx> {
        self.table
            .iter()
            .filter(|(_, socket)| {
                matches!(&socket.kind, SocketKind::TcpConnection(connection) if connection.listener == listener)
            })
            .map(|(index, _)| index)
            .collect()
    }
}

impl Socket {
    fn raw_fd(&self) -> RawFd {
        match &self.kind {
            SocketKind::Udp(udp) => udp.raw_fd(),
            SocketKind::TcpListener(listener) => listener.as_raw_fd(),
            SocketKind::TcpConnection(connection) => connection.stream.as_raw_fd(),
        }
    }
}

impl TcpConnection {
    fn has_room(&self, len: usize) -> bool {
        !self.broken && len <= MAX_FRAME && self.pending.len() + len <= TCP_BACKLOG_BYTES
    }

    fn reserve(&mut self, len: usize) -> &mut [u8] {
        self.reserved_at = self.pending.len();
        self.pending.resize(self.reserved_at + 2 + len, 0);
        &mut self.pending[self.reserved_at + 2..]
    }

    fn commit(&mut self, len: usize) {
        let prefix = u16::try_from(len).unwrap_or(0).to_be_bytes();
        self.pending.truncate(self.reserved_at + 2 + len);
        if let Some(slot) = self.pending.get_mut(self.reserved_at..self.reserved_at + 2) {
            slot.copy_from_slice(&prefix);
        }
    }

    fn write(&mut self) {
        let mut written = 0;
        while let Some(rest) = self.pending.get(written..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(0) => {
                    self.broken = true;
                    break;
                }
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.broken = true;
                    break;
                }
            }
        }
        self.pending.drain(..written);
    }

    /// One read; `true` where more may wait.
    fn read(&mut self) -> bool {
        if self.broken {
            return false;
        }
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => {
                self.broken = true;
                false
            }
            Ok(read) => {
                self.received.push(buffer.get(..read).unwrap_or_default());
                true
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(_) => {
                self.broken = true;
                false
            }
        }
    }

    fn next_frame(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, BadFrame> {
        if self.broken { Ok(None) } else { self.received.next_frame(buffer) }
    }
}
