//! One connected peer of a measurement: a socket that never blocks, and its end of the transport.

use std::net::{SocketAddr, UdpSocket};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::arrival::ArrivalReader;
use crate::endpoint::{Endpoint, ReceivedRtp};
use crate::source::Packet;

/// The longest datagram that anybody sends here.
const MAX_DATAGRAM: usize = 2_048;

/// A connected peer.
#[derive(Debug)]
pub struct Client {
    socket: UdpSocket,
    /// Its end of the transport.
    pub endpoint: Endpoint,
    out: Vec<u8>,
}

impl Client {
    /// Takes over a socket that [`crate::arrival::prepare`] has seen, and the endpoint that connected over it.
    pub fn new(socket: UdpSocket, endpoint: Endpoint) -> Self {
        Self { socket, endpoint, out: Vec::with_capacity(MAX_DATAGRAM) }
    }

    /// Where the worker sends to.
    ///
    /// # Errors
    /// Where the kernel does not tell.
    pub fn address(&self) -> Result<SocketAddr> {
        self.socket.local_addr().context("a socket has no address")
    }

    /// Leaves so small a receive buffer that it is always full: the kernel drops what comes, after doing all of its
    /// work.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn shrink_buffer(&self) -> Result<()> {
        socket2::SockRef::from(&self.socket).set_recv_buffer_size(1).context("cannot shrink a receive buffer")
    }

    /// Asks for as large a receive buffer as the kernel allows.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn widen_buffer(&self) -> Result<()> {
        socket2::SockRef::from(&self.socket)
            .set_recv_buffer_size(4 << 20)
            .context("cannot widen a receive buffer")
    }

    /// Reads what has arrived, does what is due, never waits. `on_rtp` is told of RTP in the clear and of its time of
    /// arrival (see [`crate::arrival`]). Returns how many datagrams there were.
    ///
    /// # Errors
    /// Where the socket or DTLS fails.
    pub fn turn(
        &mut self,
        reader: &mut ArrivalReader,
        mut on_rtp: impl FnMut(ReceivedRtp<'_>, u64),
    ) -> Result<usize> {
        let mut datagrams = 0;
        while let Some((datagram, arrival)) = reader.receive(&self.socket)? {
            datagrams += 1;
            self.endpoint.handle_datagram(Instant::now(), datagram, |rtp| on_rtp(rtp, arrival));
        }
        let now = Instant::now();
        if now >= self.endpoint.next_timeout() {
            self.endpoint.handle_timeout(now)?;
        }
        while self.endpoint.poll_transmit(now, &mut self.out) {
            self.socket.send_to(&self.out, self.endpoint.remote()).context("cannot send")?;
        }
        Ok(datagrams)
    }

    /// Protects and sends one packet of a source.
    ///
    /// # Errors
    /// Before the endpoint is connected, or where the socket fails.
    pub fn send_rtp(&mut self, packet: &Packet) -> Result<()> {
        self.endpoint.send_rtp(&self.socket, &packet.header, &packet.payload, packet.index)
    }

    /// Protects and sends one compound RTCP packet.
    ///
    /// # Errors
    /// As [`Client::send_rtp`].
    pub fn send_rtcp(&mut self, plain: &[u8]) -> Result<()> {
        let remote = self.endpoint.remote();
        self.socket.send_to(self.endpoint.protect_rtcp(plain)?, remote).context("cannot send")?;
        Ok(())
    }
}
