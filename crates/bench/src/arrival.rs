//! Receiving with the kernel's own time of arrival.
//!
//! A datagram is stamped when the kernel puts it into the socket, which on loopback happens within its sender's system
//! call: how late the reader wakes up does not show.

use std::io::{self, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;

/// The longest datagram that anybody sends here.
const MAX_DATAGRAM: usize = 2_048;

/// Reads sockets that [`prepare`] has seen, one datagram at a time.
#[derive(Debug)]
pub struct ArrivalReader {
    datagram: Vec<u8>,
    control: Vec<u8>,
}

/// Makes a socket non-blocking and lets the kernel stamp what it receives.
///
/// # Errors
/// What the kernel answered.
pub fn prepare(socket: &UdpSocket) -> Result<()> {
    setsockopt(socket, sockopt::ReceiveTimestampns, &true).context("the kernel stamps no datagrams")?;
    socket.set_nonblocking(true).context("a socket stays blocking")
}

/// Now, by the clock of the stamps: nanoseconds since 1970.
pub fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

impl ArrivalReader {
    /// A reader, for as many sockets as one likes.
    pub fn new() -> Self {
        Self { datagram: vec![0; MAX_DATAGRAM], control: cmsg_space!(TimeSpec) }
    }

    /// The next datagram and when it arrived, in nanoseconds since 1970; `None` where there is none.
    ///
    /// # Errors
    /// Where the socket fails.
    pub fn receive(&mut self, socket: &UdpSocket) -> Result<Option<(&mut [u8], u64)>> {
        let mut parts = [IoSliceMut::new(&mut self.datagram)];
        let flags = MsgFlags::empty();
        let received = match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut self.control), flags) {
            Ok(received) => received,
            Err(error) => {
                return match io::Error::from(error).kind() {
                    io::ErrorKind::WouldBlock
                    | io::ErrorKind::Interrupted
                    | io::ErrorKind::ConnectionRefused => Ok(None),
                    _ => Err(error).context("cannot receive"),
                };
            }
        };
        let bytes = received.bytes;
        let stamp =
            received.cmsgs().context("a control message was cut")?.find_map(|message| match message {
                ControlMessageOwned::ScmTimestampns(time) => Some(time),
                _ => None,
            });
        let arrival = stamp
            .map_or_else(now_ns, |time| u64::try_from(Duration::from(time).as_nanos()).unwrap_or(u64::MAX));
        Ok(Some((self.datagram.get_mut(..bytes).unwrap_or_default(), arrival)))
    }
}

impl Default for ArrivalReader {
    fn default() -> Self {
        Self::new()
    }
}
