//! From the sockets to the Producers: who a datagram belongs to, what it is, and its way until it is a plaintext RTP
//! packet of a known Producer.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use net::udp::RecvBatch;
use rtc::rtp::RtpHeader;
use rtc::srtp::SrtpError;

use crate::producer::ingest::Ingest;
use crate::sockets::{SocketKind, SocketOwner};
use crate::table::{ProducerIdx, SocketIdx, TransportIdx};
use crate::transport::{Path, TransportKind};
use crate::worker::Worker;

/// Batches that one socket may take in a turn before the others, the timers and the channel get theirs.
const BATCHES_PER_TURN: usize = 4;

/// Reads that one TCP connection may take in a turn.
const READS_PER_TURN: usize = 8;

/// How long a TCP connection may exist without having shown a valid STUN request.
const UNPROVEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections that one listener may accept in a turn.
const ACCEPTS_PER_TURN: usize = 32;

impl Worker {
    /// Takes a socket's share of a turn; `true` where there may be more.
    pub fn read_socket(&mut self, index: SocketIdx, now: Instant) -> bool {
        match self.sockets.get(index).map(|socket| &socket.kind) {
            Some(SocketKind::Udp(_)) => self.read_udp(index, now),
            Some(SocketKind::TcpListener(_)) => {
                for _ in 0..ACCEPTS_PER_TURN {
                    let Some(connection) = self.sockets.accept(index, now) else { return false };
                    // It may have sent already, before anybody watched it.
                    self.read_connection(connection, now);
                    self.watch_connections(now);
                }
                true
            }
            Some(SocketKind::TcpConnection(_)) => self.read_connection(index, now),
            None => false,
        }
    }

    fn read_udp(&mut self, index: SocketIdx, now: Instant) -> bool {
        let Some(mut batch) = self.scratch.batch.take() else { return false };
        let mut more = true;
        for _ in 0..BATCHES_PER_TURN {
            let received = self.sockets.receive(index, &mut batch);
            for position in 0..received {
                if let Some((datagram, remote)) = batch.datagram(position) {
                    self.datagram(index, remote, datagram, now);
                }
            }
            if received < RecvBatch::CAPACITY {
                more = false;
                break;
            }
        }
        self.scratch.batch = Some(batch);
        more
    }

    fn read_connection(&mut self, index: SocketIdx, now: Instant) -> bool {
        let mut frame = std::mem::take(&mut self.scratch.frame);
        let mut more = true;
        for _ in 0..READS_PER_TURN {
            more = self.sockets.read_connection(index);
            while let Some((len, remote)) = self.sockets.next_frame(index, &mut frame) {
                if let Some(datagram) = frame.get_mut(..len) {
                    self.datagram(index, remote, datagram, now);
                }
            }
            if !more {
                break;
            }
        }
        self.scratch.frame = frame;
        if self.sockets.is_broken(index) {
            self.close_connection(index, now);
            return false;
        }
        more
    }

    /// Sees to it that connections that prove nothing are closed.
    fn watch_connections(&mut self, now: Instant) {
        self.timers.set_no_later_than(self.connections_timer, now + UNPROVEN_TIMEOUT);
    }

    /// Closes the connections by which no STUN request came that a transport took: each holds a descriptor.
    pub fn close_unproven_connections(&mut self, now: Instant) {
        let Some(limit) = now.checked_sub(UNPROVEN_TIMEOUT) else { return };
        for path in self.sockets.connections_before(limit) {
            if !self.tuples.contains_key(&path) {
                self.sockets.close(path.socket);
            }
        }
        if self.sockets.has_connections() {
            self.watch_connections(now);
        }
    }

    /// Closes a TCP connection, which is a path less for whoever used it.
    fn close_connection(&mut self, index: SocketIdx, now: Instant) {
        let remote = match self.sockets.get(index).map(|socket| &socket.kind) {
            Some(SocketKind::TcpConnection(connection)) => connection.remote,
            _ => return,
        };
        let path = Path { socket: index, remote };
        if let Some(owner) = self.tuples.get(&path) {
            self.remove_web_rtc_path(owner.transport, path, now);
        }
        self.sockets.close(index);
    }

    fn datagram(&mut self, socket: SocketIdx, remote: SocketAddr, datagram: &mut [u8], now: Instant) {
        self.counters.datagrams_received += 1;
        let Some(owner) = self.sockets.get(socket).map(|socket| socket.owner) else { return };
        let path = Path { socket, remote };
        match owner {
            SocketOwner::WebRtcServer(server) => {
                self.server_datagram(server, path, datagram, now);
            }
            SocketOwner::Transport(index) => {
                let Some(transport) = self.transports.get_mut(index) else { return };
                transport.data_received(datagram.len(), now);
                match transport.kind {
                    TransportKind::WebRtc(_) => self.web_rtc_datagram(index, path, datagram, now),
                    TransportKind::Plain(_) => self.plain_datagram(index, path, datagram, now),
                    TransportKind::Pipe(_) => self.pipe_datagram(index, path, datagram, now),
                    TransportKind::Direct => {}
                }
            }
        }
        if self.sockets.is_full() {
            self.flush();
        }
    }

    /// Decrypts in place what came over SRTP; what came without is as it is. Returns the plaintext's length.
    pub fn unprotect(&mut self, index: TransportIdx, datagram: &mut [u8], rtcp: bool) -> Option<usize> {
        let Some(srtp) = &mut self.transports[index].srtp else { return Some(datagram.len()) };
        let result =
            if rtcp { srtp.recv.unprotect_rtcp(datagram) } else { srtp.recv.unprotect_rtp(datagram) };
        match result {
            Ok(len) => Some(len),
            Err(error) => {
                match error {
                    SrtpError::Authentication => self.counters.srtp_authentication_failed += 1,
                    SrtpError::Replayed | SrtpError::TooOld => self.counters.srtp_replayed += 1,
                    _ => self.counters.srtp_errors += 1,
                }
                None
            }
        }
    }

    /// A plaintext RTP packet of a Transport.
    pub fn receive_rtp(&mut self, index: TransportIdx, packet: &mut [u8], now: Instant) {
        let Ok(header) = RtpHeader::parse(packet) else {
            self.counters.rtp_malformed += 1;
            return;
        };
        let len = packet.len();
        self.note_for_feedback(index, &header, packet, now);
        let Some(producer) = self.find_producer(index, &header, packet) else {
            self.counters.rtp_no_producer += 1;
            return;
        };
        let outcome = self.producer_rtp(producer, packet, header, now);
        let stats = &mut self.transports[index].stats;
        match outcome {
            Ingest::Media => stats.rtp_recv.add(len, now),
            Ingest::Retransmission => stats.rtx_recv.add(len, now),
            Ingest::Discarded => {}
        }
    }

    fn find_producer(
        &mut self,
        index: TransportIdx,
        header: &RtpHeader,
        packet: &[u8],
    ) -> Option<ProducerIdx> {
        let transport = &mut self.transports[index];
        transport.listener.find_ssrc(header.ssrc.0).or_else(|| {
            let ids = &transport.recv_extensions;
            let mid = ids.read_mid(header, packet);
            let rid = ids.read_rid(header, packet).or_else(|| ids.read_rrid(header, packet));
            transport.listener.find_by_ids(header.ssrc.0, mid, rid)
        })
    }

    /// RTP that the driver hands in for a Producer of a DirectTransport.
    pub fn direct_rtp(&mut self, producer: ProducerIdx, packet: &mut [u8], now: Instant) {
        let index = self.producers[producer].transport;
        let transport = &mut self.transports[index];
        if !matches!(transport.kind, TransportKind::Direct) {
            self.counters.rtp_malformed += 1;
            return;
        }
        transport.data_received(packet.len(), now);
        self.receive_rtp(index, packet, now);
        // What sounds in the driver's program comes one by one: nothing is to be waited for.
        self.release(producer, now);
    }

    /// RTCP that the driver hands in for a DirectTransport.
    pub fn direct_rtcp(&mut self, index: TransportIdx, packet: &mut [u8], now: Instant) {
        let transport = &mut self.transports[index];
        if !matches!(transport.kind, TransportKind::Direct) {
            self.counters.rtcp_malformed += 1;
            return;
        }
        transport.data_received(packet.len(), now);
        self.receive_rtcp(index, packet, now);
    }
}
