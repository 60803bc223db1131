//! The unit of every forwarding figure: the CPU time of one bare, unconnected `sendto`.
//!
//! It sends datagrams of the size that the worker's receivers get, to the same addresses in the same order, from the
//! same core, and does nothing else: no encryption, no header, no batching.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cpu;

/// What a window of bare sending cost.
#[derive(Debug, Clone, Copy, Default)]
pub struct SendtoCost {
    /// Datagrams handed to the kernel.
    pub datagrams: u64,
    /// CPU time of the sending thread.
    pub cpu: Duration,
}

impl SendtoCost {
    /// Adds another window.
    pub fn add(&mut self, other: Self) {
        self.datagrams += other.datagrams;
        self.cpu += other.cpu;
    }

    /// Nanoseconds a datagram; zero before anything was sent.
    pub fn ns_per_datagram(&self) -> f64 {
        if self.datagrams == 0 { 0.0 } else { self.cpu.as_nanos() as f64 / self.datagrams as f64 }
    }
}

/// Sends bare datagrams from one unconnected socket.
#[derive(Debug)]
pub struct Sendto {
    socket: UdpSocket,
    payload: Vec<u8>,
}

impl Sendto {
    /// A sender of datagrams of up to `size` bytes.
    ///
    /// # Errors
    /// Where no loopback socket can be bound.
    pub fn new(size: usize) -> Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0").context("cannot bind a loopback socket")?;
        // Neither STUN, DTLS nor RTP by its first byte: whoever reads it takes it for nothing.
        Ok(Self { socket, payload: vec![0xff; size] })
    }

    /// Sends a datagram of each of `sizes` to each of `addresses`, size after size, on the calling thread, and says what
    /// that cost.
    ///
    /// # Errors
    /// Where the kernel refuses a datagram, or a size is above what [`Sendto::new`] was told.
    pub fn window(&self, addresses: &[SocketAddr], sizes: &[usize]) -> Result<SendtoCost> {
        let before = cpu::thread_time()?;
        for &size in sizes {
            let datagram = self.payload.get(..size).context("a datagram is longer than was said")?;
            for address in addresses {
                self.socket
                    .send_to(datagram, address)
                    .with_context(|| format!("cannot send to {address}"))?;
            }
        }
        let cpu = cpu::thread_time()?.saturating_sub(before);
        Ok(SendtoCost { datagrams: (sizes.len() * addresses.len()) as u64, cpu })
    }
}
