//! RFC 4571: datagrams on a TCP connection, each after a 16-bit length. Knows no socket.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

/// A frame that holds no datagram that anybody sends: empty, or longer than the caller has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadFrame;

/// Cuts what was read off a connection into datagrams.
#[derive(Debug, Default)]
pub struct FrameReader {
    received: Vec<u8>,
    /// Where in `received` the next frame begins.
    read_at: usize,
}

impl FrameReader {
    /// Adds bytes as they came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(bytes);
    }

    /// Copies the next whole frame out and returns its length; `None` until more bytes come. Where none is left, what
    /// was read makes room, once.
    ///
    /// # Errors
    /// [`BadFrame`]; the stream cannot be followed any further.
    pub fn next_frame(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, BadFrame> {
        let waiting = self.received.get(self.read_at..).unwrap_or_default();
        if let Some((prefix, rest)) = waiting.split_first_chunk::<2>() {
            let len = usize::from(u16::from_be_bytes(*prefix));
            let space = buffer.get_mut(..len).filter(|space| !space.is_empty()).ok_or(BadFrame)?;
            if let Some(frame) = rest.get(..len) {
                space.copy_from_slice(frame);
                self.read_at = self.read_at.saturating_add(len).saturating_add(2);
                return Ok(Some(len));
            }
        }
        self.received.drain(..self.read_at.min(self.received.len()));
        self.read_at = 0;
        Ok(None)
    }

    /// Bytes that are kept for frames to come.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.received.len().saturating_sub(self.read_at)
    }
}
