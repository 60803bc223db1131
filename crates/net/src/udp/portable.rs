//! The same as [`RecvBatch`](super::RecvBatch) and [`SendQueue::flush`] with the standard library's calls, one datagram
//! each: for systems without `recvmmsg` and `sendmmsg`, and as the measure of what batching gives.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use super::{FlushReport, MAX_DATAGRAM, SendQueue};

/// Receives one datagram into `buffer`, which should have [`MAX_DATAGRAM`] bytes and one more, so that a longer datagram
/// can be told; such a one is dropped.
///
/// # Errors
/// As the system's receive; `WouldBlock` where nothing waits (the socket is non-blocking).
pub fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Option<(usize, SocketAddr)>> {
    let (len, source) = socket.recv_from(buffer)?;
    Ok((len <= MAX_DATAGRAM).then_some((len, source)))
}

/// Hands everything queued to the kernel, one system call a datagram.
pub fn flush(queue: &mut SendQueue, socket: &UdpSocket) -> FlushReport {
    queue.split_all();
    queue.flush_with(|messages| match messages.next() {
        Some(mut outgoing) => {
            let bytes = outgoing.pieces.next().unwrap_or_default();
            socket.send_to(bytes, outgoing.destination).map(|_| 1)
        }
        None => Ok(0),
    })
}
