//! Binding the sockets of listeners: an explicit port, a port range, or the worker's own range.
//!
//! Range bindings remember which ports this worker holds, so that a full range is noticed without a system call per
//! port; a port that another process holds is found out by trying.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use rustc_hash::FxHashMap;
use socket2::{Domain, Protocol as IpProtocol, Socket, Type};
use worker_protocol::wire::transport::{ListenInfo, Protocol};

use crate::error::{RequestError, RequestResult};

/// Connections that may wait in a TCP listener's queue.
const TCP_BACKLOG: i32 = 512;

/// Which ports of which ranges this worker holds.
#[derive(Debug, Default)]
pub struct PortManager {
    ranges: FxHashMap<RangeKey, Rc<RefCell<Range>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct RangeKey {
    tcp: bool,
    ip: IpAddr,
    min: u16,
    max: u16,
}

#[derive(Debug)]
struct Range {
    taken: Vec<bool>,
    /// Where the next search starts.
    cursor: usize,
}

/// A port of a range; it returns when this is dropped.
#[derive(Debug)]
pub struct PortLease {
    range: Rc<RefCell<Range>>,
    offset: usize,
}

impl Drop for PortLease {
    fn drop(&mut self) {
        if let Some(taken) = self.range.borrow_mut().taken.get_mut(self.offset) {
            *taken = false;
        }
    }
}

/// A bound socket that listens (TCP) or can receive (UDP), non-blocking.
#[derive(Debug)]
pub struct Bound {
    /// The socket itself.
    pub socket: Socket,
    /// The address it is bound to.
    pub local: SocketAddr,
    /// Its place in a range, if it was taken from one.
    pub lease: Option<PortLease>,
}

impl PortManager {
    /// Binds what `info` asks for; without port and range, in `default_range`.
    ///
    /// # Errors
    /// `TypeError` for something that is no IP address, `Error` when it cannot be bound.
    pub fn bind(&mut self, info: &ListenInfo, default_range: (u16, u16)) -> RequestResult<Bound> {
        let ip: IpAddr =
            info.ip.parse().map_err(|_| RequestError::type_error(format!("invalid IP '{}'", info.ip)))?;
        let range = (info.port_range.min, info.port_range.max);
        let bound = if range.0 != 0 && range.1 != 0 {
            self.bind_in_range(info, ip, range)?
        } else if info.port != 0 {
            let socket = bind_socket(info, SocketAddr::new(ip, info.port)).map_err(|error| {
                RequestError::error(format!(
                    "bind failed [protocol:{}, ip:{ip}, port:{}]: {error}",
                    protocol_name(info),
                    info.port
                ))
            })?;
            Bound { socket, local: SocketAddr::new(ip, info.port), lease: None }
        } else {
            self.bind_in_range(info, ip, default_range)?
        };
        set_buffer_sizes(&bound.socket, info)
            .map_err(|error| RequestError::error(format!("setting socket buffer sizes failed: {error}")))?;
        Ok(bound)
    }

    fn bind_in_range(
        &mut self,
        info: &ListenInfo,
        ip: IpAddr,
        (min, max): (u16, u16),
    ) -> RequestResult<Bound> {
        if max < min {
            return Err(RequestError::type_error("maxPort cannot be less than minPort"));
        }
        let key = RangeKey { tcp: info.protocol == Protocol::Tcp, ip, min, max };
        let size = usize::from(max - min) + 1;
        let range = self.ranges.entry(key).or_insert_with(|| {
            let start = getrandom::u32().unwrap_or(0) as usize % size;
            Rc::new(RefCell::new(Range { taken: vec![false; size], cursor: start }))
        });
        let mut state = range.borrow_mut();
        for _ in 0..size {
            state.cursor = (state.cursor + 1) % size;
            let offset = state.cursor;
            if state.taken.get(offset).copied().unwrap_or(true) {
                continue;
            }
            let port = min + u16::try_from(offset).expect("a range of ports has at most 2^16 of them");
            let local = SocketAddr::new(ip, port);
            match bind_socket(info, local) {
                Ok(socket) => {
                    if let Some(taken) = state.taken.get_mut(offset) {
                        *taken = true;
                    }
                    let lease = PortLease { range: Rc::clone(range), offset };
                    return Ok(Bound { socket, local, lease: Some(lease) });
                }
                // Another process has this port; any other error would meet every port of the range.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => {
                    return Err(RequestError::error(format!(
                        "bind failed [protocol:{}, ip:{ip}, port:{port}]: {error}",
                        protocol_name(info)
                    )));
                }
            }
        }
        Err(RequestError::error(format!(
            "no more available ports [protocol:{}, ip:{ip}, range:{min}-{max}]",
            protocol_name(info)
        )))
    }
}

fn protocol_name(info: &ListenInfo) -> &'static str {
    match info.protocol {
        Protocol::Udp => "udp",
        Protocol::Tcp => "tcp",
    }
}

fn bind_socket(info: &ListenInfo, local: SocketAddr) -> io::Result<Socket> {
    let domain = Domain::for_address(local);
    let tcp = info.protocol == Protocol::Tcp;
    let socket = if tcp {
        Socket::new(domain, Type::STREAM, Some(IpProtocol::TCP))?
    } else {
        Socket::new(domain, Type::DGRAM, Some(IpProtocol::UDP))?
    };
    socket.set_nonblocking(true)?;
    if local.is_ipv6() && info.flags.ipv6_only {
        socket.set_only_v6(true)?;
    }
    if tcp {
        // A worker that takes over from a dead one must not wait for the old connections to fade.
        socket.set_reuse_address(true)?;
    } else if info.flags.udp_reuse_port {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&local.into())?;
    if tcp {
        socket.listen(TCP_BACKLOG)?;
    }
    Ok(socket)
}

fn set_buffer_sizes(socket: &Socket, info: &ListenInfo) -> io::Result<()> {
    if info.send_buffer_size != 0 {
        socket.set_send_buffer_size(info.send_buffer_size as usize)?;
    }
    if info.recv_buffer_size != 0 {
        socket.set_recv_buffer_size(info.recv_buffer_size as usize)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(protocol: Protocol, ip: &str, port: u16, range: (u16, u16)) -> ListenInfo {
        let mut info = ListenInfo { protocol, ip: ip.to_owned(), port, ..ListenInfo::default() };
        info.port_range.min = range.0;
        info.port_range.max = range.1;
        info
    }

    #[test]
    fn a_range_is_used_up_and_given_back() {
        let mut ports = PortManager::default();
        let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let range = info(Protocol::Udp, "127.0.0.1", 0, (free, free));
        let first = ports.bind(&range, (0, 0)).unwrap();
        assert_eq!(first.local.port(), free);
        let error = ports.bind(&range, (0, 0)).unwrap_err();
        assert!(error.to_string().contains("no more available ports"), "{error}");
        drop(first);
        ports.bind(&range, (0, 0)).unwrap();
    }

    #[test]
    fn a_port_in_use_is_an_error_and_no_ip_a_type_error() {
        let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = holder.local_addr().unwrap().port();
        let mut ports = PortManager::default();
        let error = ports.bind(&info(Protocol::Tcp, "127.0.0.1", port, (0, 0)), (0, 0)).unwrap_err();
        assert!(matches!(error, RequestError::Error(_)), "{error}");
        let error = ports.bind(&info(Protocol::Udp, "chicken", 1, (0, 0)), (0, 0)).unwrap_err();
        assert!(matches!(error, RequestError::Type(_)), "{error}");
    }
}
