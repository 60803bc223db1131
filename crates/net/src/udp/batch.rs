//! Receiving: the buffers of one batch.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use super::sys::{self, BATCH, Received};

/// The longest datagram taken, in bytes: above any path's MTU that WebRTC traffic meets. Longer ones are dropped.
pub const MAX_DATAGRAM: usize = 2_048;

/// Room for one batch of datagrams, reused by every socket of a loop.
#[derive(Debug)]
pub struct RecvBatch {
    buffers: Box<[u8]>,
    received: [Received; BATCH],
    filled: usize,
    /// Datagrams dropped because they were longer than [`MAX_DATAGRAM`], or from no IP address.
    pub dropped: u64,
}

impl Default for RecvBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl RecvBatch {
    /// Datagrams that one batch takes at most.
    pub const CAPACITY: usize = BATCH;

    /// Empty buffers.
    pub fn new() -> Self {
        Self {
            buffers: vec![0; BATCH * MAX_DATAGRAM].into_boxed_slice(),
            received: [Received { len: 0, source: None, truncated: false }; BATCH],
            filled: 0,
            dropped: 0,
        }
    }

    /// Takes what waits in `socket`, up to [`RecvBatch::CAPACITY`] datagrams, in place of the batch before. Returns their
    /// number; a full batch may have left more behind.
    ///
    /// # Errors
    /// What the kernel says: `WouldBlock` where nothing waits; else an error of an earlier send (an ICMP answer), after
    /// which the socket is as good as before.
    pub fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        self.filled = 0;
        self.filled = sys::recv_batch(socket, &mut self.buffers, MAX_DATAGRAM, &mut self.received)?;
        Ok(self.filled)
    }

    /// The `index`-th datagram of the batch and its source; `None` past the end, and for one that was dropped.
    pub fn datagram(&mut self, index: usize) -> Option<(&mut [u8], SocketAddr)> {
        let received = self.received.get(..self.filled)?.get(index)?;
        let (Some(source), false) = (received.source, received.truncated) else {
            self.dropped += 1;
            return None;
        };
        let start = index * MAX_DATAGRAM;
        Some((self.buffers.get_mut(start..start + received.len)?, source))
    }
}
