//! `recvmmsg` and `sendmmsg`, as safe functions over slices.
#![expect(unsafe_code, reason = "system calls that the standard library does not have")]

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;

use super::queue::{MAX_SEGMENTS, Outgoing};

/// Messages a system call. Beyond 32 to 64 a call costs no less per datagram.
pub(super) const BATCH: usize = 64;

/// What was received into one buffer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received {
    /// Bytes of the datagram.
    pub(super) len: usize,
    /// Who sent it; `None` for an address family that is neither IPv4 nor IPv6.
    pub(super) source: Option<SocketAddr>,
    /// Whether the datagram was longer than the buffer.
    pub(super) truncated: bool,
}

/// Receives up to [`BATCH`] datagrams, one into each `chunk` bytes of `buffers`, without waiting. What came is in the
/// first elements of `received`; their number is returned.
pub(super) fn recv_batch(
    socket: &UdpSocket,
    buffers: &mut [u8],
    chunk: usize,
    received: &mut [Received; BATCH],
) -> io::Result<usize> {
    let mut names = [const { MaybeUninit::<libc::sockaddr_storage>::uninit() }; BATCH];
    let mut vectors = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH];
    // SAFETY: `mmsghdr` consists of integers and raw pointers, for all of which zero is a valid value.
    let mut headers: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
    let mut count = 0;
    for (((buffer, name), vector), header) in
        buffers.chunks_exact_mut(chunk).zip(&mut names).zip(&mut vectors).zip(&mut headers)
    {
        vector.iov_base = buffer.as_mut_ptr().cast();
        vector.iov_len = buffer.len();
        header.msg_hdr.msg_name = name.as_mut_ptr().cast();
        header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        header.msg_hdr.msg_iov = vector;
        header.msg_hdr.msg_iovlen = 1;
        count += 1;
    }
    // SAFETY: the first `count` headers point to `count` distinct names, vectors and buffers, all of which outlive the
    // call and are borrowed mutably here; the lengths beside them are those of what they point to.
    let result = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            count,
            libc::MSG_DONTWAIT,
            std::ptr::null_mut(),
        )
    };
    let filled = usize::try_from(result).map_err(|_| io::Error::last_os_error())?;
    for ((header, name), received) in headers.iter().zip(&names).zip(received.iter_mut()).take(filled) {
        received.len = header.msg_len as usize;
        received.truncated = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
        received.source = address(name, header.msg_hdr.msg_namelen);
    }
    Ok(filled)
}

/// Pieces that one call gathers its messages from.
const PIECES: usize = 4 * BATCH;

/// A control message that carries a `u16`: header and value, as `CMSG_SPACE` has it.
type SegmentControl = [u64; 3];

const _: () = {
    // SAFETY: only computes a size.
    assert!(unsafe { libc::CMSG_SPACE(size_of::<u16>() as u32) } as usize == size_of::<SegmentControl>());
};

/// Sends the first of `messages`, at most [`BATCH`], without waiting. Returns how many the kernel took; an error
/// concerns the first of them, of which none was taken then.
pub(super) fn send_batch<'a>(
    socket: &UdpSocket,
    messages: impl Iterator<Item = Outgoing<'a>>,
) -> io::Result<usize> {
    let mut names = [const { MaybeUninit::<libc::sockaddr_in6>::uninit() }; BATCH];
    let mut controls = [SegmentControl::default(); BATCH];
    let mut vectors = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; PIECES];
    let mut free = &mut vectors[..];
    // SAFETY: as in `recv_batch`.
    let mut headers: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
    let mut count = 0;
    for (((outgoing, name), control), header) in messages.zip(&mut names).zip(&mut controls).zip(&mut headers)
    {
        let pieces = outgoing.pieces.count();
        // A run is never longer than all the room, so that the first message always fits.
        const { assert!(MAX_SEGMENTS as usize <= PIECES) };
        if pieces > free.len() {
            break;
        }
        let (taken, rest) = free.split_at_mut(pieces);
        free = rest;
        for (vector, piece) in taken.iter_mut().zip(outgoing.pieces) {
            vector.iov_base = piece.as_ptr().cast_mut().cast();
            vector.iov_len = piece.len();
        }
        header.msg_hdr.msg_namelen = write_address(outgoing.destination, name);
        header.msg_hdr.msg_name = name.as_mut_ptr().cast();
        header.msg_hdr.msg_iov = taken.as_mut_ptr();
        header.msg_hdr.msg_iovlen = taken.len();
        if let Some(segment) = outgoing.segment {
            header.msg_hdr.msg_control = control.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = size_of::<SegmentControl>();
            write_segment(&mut header.msg_hdr, segment);
        }
        count += 1;
    }
    if count == 0 {
        return Ok(0);
    }
    // SAFETY: the first `count` headers point to initialized names, vectors and control messages, and those to the bytes
    // of `messages`, all of which outlive the call; `sendmmsg` only reads what the vectors point to, in spite of their
    // mutable type.
    let result =
        unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, libc::MSG_DONTWAIT) };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Says in a message's control room how long its datagrams are.
fn write_segment(header: &mut libc::msghdr, segment: u16) {
    // SAFETY: the control room is aligned for and has the size of one message with a `u16` (asserted above), so that the
    // first message exists and its data lies within the room.
    unsafe {
        let message = libc::CMSG_FIRSTHDR(header);
        (*message).cmsg_level = libc::SOL_UDP;
        (*message).cmsg_type = libc::UDP_SEGMENT;
        (*message).cmsg_len = libc::CMSG_LEN(size_of::<u16>() as u32) as usize;
        libc::CMSG_DATA(message).cast::<u16>().write_unaligned(segment);
    }
}

/// Whether the kernel knows segmentation offload (Linux 4.18).
pub(super) fn can_segment(socket: &UdpSocket) -> bool {
    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `value` and the written length to `len`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw mut value).cast(),
            &raw mut len,
        )
    };
    result == 0
}

/// Whether an error says that a path does not take runs: EIO from a device that cannot checksum them, EINVAL from a
/// kernel or a destination that does not know them, EMSGSIZE where a datagram needs fragments.
pub(super) fn refuses_segments(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE))
}

/// Writes an address the way the kernel wants it; returns its length.
fn write_address(address: SocketAddr, name: &mut MaybeUninit<libc::sockaddr_in6>) -> libc::socklen_t {
    match address {
        SocketAddr::V4(address) => {
            const { assert!(size_of::<libc::sockaddr_in>() <= size_of::<libc::sockaddr_in6>()) };
            const { assert!(align_of::<libc::sockaddr_in>() <= align_of::<libc::sockaddr_in6>()) };
            let value = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: `name` is large enough and aligned for a `sockaddr_in`, as asserted above.
            unsafe { name.as_mut_ptr().cast::<libc::sockaddr_in>().write(value) };
            size_of::<libc::sockaddr_in>() as libc::socklen_t
        }
        SocketAddr::V6(address) => {
            name.write(libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: address.port().to_be(),
                sin6_flowinfo: address.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                sin6_scope_id: address.scope_id(),
            });
            size_of::<libc::sockaddr_in6>() as libc::socklen_t
        }
    }
}

/// Reads an address that the kernel wrote.
fn address(name: &MaybeUninit<libc::sockaddr_storage>, len: libc::socklen_t) -> Option<SocketAddr> {
    let len = len as usize;
    if len < size_of::<libc::sa_family_t>() {
        return None;
    }
    // SAFETY: the kernel wrote `len` bytes, which hold at least the family; every address begins with it on Linux.
    let family = unsafe { (*name.as_ptr().cast::<libc::sockaddr>()).sa_family };
    match i32::from(family) {
        libc::AF_INET if len >= size_of::<libc::sockaddr_in>() => {
            // SAFETY: by its family and length the kernel wrote a whole `sockaddr_in`; storage is aligned for any address.
            let v4 = unsafe { &*name.as_ptr().cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddr::new(IpAddr::V4(ip), u16::from_be(v4.sin_port)))
        }
        libc::AF_INET6 if len >= size_of::<libc::sockaddr_in6>() => {
            // SAFETY: by its family and length the kernel wrote a whole `sockaddr_in6`; storage is aligned for any address.
            let v6 = unsafe { &*name.as_ptr().cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            let port = u16::from_be(v6.sin6_port);
            Some(SocketAddr::V6(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id)))
        }
        _ => None,
    }
}
