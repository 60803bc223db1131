//! The two ends that BoringSSL reads datagrams from and writes datagrams to.

use std::collections::VecDeque;
use std::io::{Error, ErrorKind, Read, Result, Write};

/// Datagrams that may wait to be sent. The longest flight (a certificate chain of 16 kB) has less than 20; a
/// caller who does not poll loses the newest, as the network would.
const MAX_OUTGOING: usize = 32;

/// One datagram in, some out. A write is a datagram.
#[derive(Debug, Default)]
pub(super) struct DatagramLink {
    pub(super) incoming: Option<Vec<u8>>,
    pub(super) outgoing: VecDeque<Vec<u8>>,
    /// Datagrams lost because [`MAX_OUTGOING`] waited.
    pub(super) dropped: u64,
}

impl Read for DatagramLink {
    fn read(&mut self, out: &mut [u8]) -> Result<usize> {
        let datagram = self.incoming.take().ok_or_else(|| Error::from(ErrorKind::WouldBlock))?;
        // What is longer than BoringSSL's buffer is no record of a peer's: cut as recv would cut it.
        let len = datagram.len().min(out.len());
        if let (Some(to), Some(from)) = (out.get_mut(..len), datagram.get(..len)) {
            to.copy_from_slice(from);
        }
        Ok(len)
    }
}

impl Write for DatagramLink {
    fn write(&mut self, datagram: &[u8]) -> Result<usize> {
        if self.outgoing.len() < MAX_OUTGOING {
            self.outgoing.push_back(datagram.to_vec());
        } else {
            self.dropped = self.dropped.saturating_add(1);
        }
        Ok(datagram.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}
