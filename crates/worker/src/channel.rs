//! The channel's two pipes: bytes in become messages, messages out become bytes. Nothing here blocks.
//!
//! [`ChannelReader`] owns the pipe from the driver, [`ChannelWriter`] the pipe to it. What is written is decided
//! elsewhere ([`crate::outbox`]).

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use worker_protocol::framing::{Decoder, FramingError};

/// Bytes taken off the pipe by one read.
const READ_BYTES: usize = 64 * 1024;

/// Why the channel cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// Reading or writing failed.
    #[error("channel failed: {0}")]
    Io(#[from] io::Error),
    /// The driver does not speak the protocol.
    #[error(transparent)]
    Framing(#[from] FramingError),
}

/// The pipe from the driver.
#[derive(Debug)]
pub struct ChannelReader {
    pipe: File,
    decoder: Decoder,
    buffer: Vec<u8>,
    ended: bool,
}

impl ChannelReader {
    /// Takes over the descriptor, which becomes non-blocking.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            pipe: non_blocking(fd)?,
            decoder: Decoder::default(),
            buffer: vec![0; READ_BYTES],
            ended: false,
        })
    }

    /// Reads everything that is there. Messages are then in [`ChannelReader::poll`].
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn fill(&mut self) -> Result<(), ChannelError> {
        while !self.ended {
            match self.pipe.read(&mut self.buffer) {
                Ok(0) => self.ended = true,
                Ok(read) => self.decoder.push(self.buffer.get(..read).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The driver's end of a socket pair resets when it dies with bytes unread.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => self.ended = true,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The next whole message.
    ///
    /// # Errors
    /// [`FramingError::TooLong`].
    pub fn poll(&mut self) -> Result<Option<&[u8]>, ChannelError> {
        Ok(self.decoder.poll()?)
    }

    /// Whether the driver closed the pipe.
    pub fn ended(&self) -> bool {
        self.ended
    }
}

impl AsRawFd for ChannelReader {
    fn as_raw_fd(&self) -> RawFd {
        self.pipe.as_raw_fd()
    }
}

/// The pipe to the driver.
#[derive(Debug)]
pub struct ChannelWriter {
    pipe: File,
}

impl ChannelWriter {
    /// Takes over the descriptor, which becomes non-blocking.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self { pipe: non_blocking(fd)? })
    }

    /// Writes as much as the pipe takes and removes it from `pending`.
    ///
    /// # Errors
    /// What the kernel answered; `BrokenPipe` when the driver is gone.
    pub fn write(&mut self, pending: &mut Vec<u8>) -> io::Result<()> {
        let mut written = 0;
        let result = loop {
            let Some(rest) = pending.get(written..).filter(|rest| !rest.is_empty()) else { break Ok(()) };
            match self.pipe.write(rest) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        pending.drain(..written.min(pending.len()));
        result
    }
}

impl AsRawFd for ChannelWriter {
    fn as_raw_fd(&self) -> RawFd {
        self.pipe.as_raw_fd()
    }
}

/// FIONBIO, which `UnixStream` uses, works on any descriptor; `File` then reads and writes pipes and sockets alike.
fn non_blocking(fd: OwnedFd) -> io::Result<File> {
    let stream = UnixStream::from(fd);
    stream.set_nonblocking(true)?;
    Ok(File::from(OwnedFd::from(stream)))
}
