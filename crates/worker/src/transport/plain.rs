//! A PlainTransport: RTP over UDP to a peer that the driver names, or (comedia) that sends first.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use rtc::rtp::DatagramKind;
use worker_protocol::wire::transport as base;
use worker_protocol::wire::{notification, plain_transport as wire};

use super::dump::tuple;
use super::srtp::{LocalKey, profile};
use super::{Path, Transport, TransportKind, TransportOptions};
use crate::error::{RequestError, RequestResult};
use crate::sockets::{SocketOwner, Sockets};
use crate::table::{RouterIdx, SocketIdx, TransportIdx};
use crate::web_rtc_server::ListenEntry;
use crate::worker::Worker;

/// The source port that SCTP packets begin with.
pub const SCTP_PORT: [u8; 2] = rtc::sctp::DEFAULT_PORT.to_be_bytes();

/// What a PlainTransport has besides.
#[derive(Debug)]
pub struct Plain {
    entry: ListenEntry,
    rtcp_entry: Option<ListenEntry>,
    comedia: bool,
    /// Comedia learnt the peer from RTCP alone, which it may send from another port than its RTP.
    learnt_by_rtcp: bool,
    key: Option<LocalKey>,
    connect_called: bool,
    /// Where RTCP goes, when not where RTP goes.
    pub rtcp_path: Option<Path>,
}

impl Plain {
    /// Whether RTCP shares the socket of RTP.
    pub fn rtcp_mux(&self) -> bool {
        self.rtcp_entry.is_none()
    }

    /// Its sockets.
    pub fn sockets(&self) -> Vec<SocketIdx> {
        [Some(&self.entry), self.rtcp_entry.as_ref()]
            .into_iter()
            .flatten()
            .map(|entry| entry.socket)
            .collect()
    }

    /// What `transport.dump()` answers.
    pub fn dump(
        &self,
        base: Box<base::Dump>,
        transport: &Transport,
        sockets: &Sockets,
    ) -> wire::DumpResponse {
        wire::DumpResponse {
            base,
            rtcp_mux: self.rtcp_mux(),
            comedia: self.comedia,
            tuple: Box::new(entry_tuple(sockets, &self.entry, transport.path)),
            rtcp_tuple: self
                .rtcp_entry
                .as_ref()
                .map(|entry| Box::new(entry_tuple(sockets, entry, self.rtcp_path))),
            srtp_parameters: self.key.as_ref().map(|key| Box::new(key.parameters())),
        }
    }

    /// What `transport.getStats()` answers.
    pub fn stats(
        &self,
        base: Box<base::Stats>,
        transport: &Transport,
        sockets: &Sockets,
    ) -> wire::GetStatsResponse {
        wire::GetStatsResponse {
            base,
            rtcp_mux: self.rtcp_mux(),
            comedia: self.comedia,
            tuple: Box::new(entry_tuple(sockets, &self.entry, transport.path)),
            rtcp_tuple: self.connected_rtcp_tuple(sockets),
        }
    }

    fn connected_rtcp_tuple(&self, sockets: &Sockets) -> Option<Box<base::Tuple>> {
        let entry = self.rtcp_entry.as_ref().filter(|_| self.rtcp_path.is_some())?;
        Some(Box::new(entry_tuple(sockets, entry, self.rtcp_path)))
    }
}

/// A listener's tuple, with its peer where there is one.
pub fn entry_tuple(sockets: &Sockets, entry: &ListenEntry, path: Option<Path>) -> base::Tuple {
    let announced = entry.announced_address.as_deref();
    if let Some(path) = path {
        return tuple(sockets, path, announced);
    }
    let local = sockets.local(entry.socket);
    base::Tuple {
        local_address: announced.map_or_else(|| local.ip().to_string(), str::to_owned),
        local_port: local.port(),
        remote_ip: None,
        remote_port: 0,
        protocol: base::Protocol::Udp,
    }
}

impl Worker {
    /// Answers `router.createPlainTransport()`.
    pub fn create_plain_transport(
        &mut self,
        router: RouterIdx,
        id: String,
        options: wire::PlainTransportOptions,
    ) -> RequestResult<TransportIdx> {
        let base = TransportOptions::parse(&options.base)?;
        if options.listen_info.protocol != base::Protocol::Udp {
            return Err(RequestError::type_error("unsupported listen protocol"));
        }
        let rtcp_info = (!options.rtcp_mux)
            .then(|| options.rtcp_listen_info.map_or_else(|| (*options.listen_info).clone(), |info| *info));
        if rtcp_info.as_ref().is_some_and(|info| info.protocol != base::Protocol::Udp) {
            return Err(RequestError::type_error("unsupported RTCP listen protocol"));
        }
        let infos: Vec<_> = [Some(*options.listen_info), rtcp_info].into_iter().flatten().collect();
        let key = if options.enable_srtp {
            let suite = options
                .srtp_crypto_suite
                .ok_or_else(|| RequestError::type_error("missing srtpCryptoSuite"))?;
            Some(LocalKey::generate(profile(suite))?)
        } else {
            None
        };
        let index = self.transports.next_index();
        let mut entries = self.open_entries(&infos, SocketOwner::Transport(index))?.into_iter();
        let entry = entries.next().expect("open_entries() opens as many as it was given");
        let plain = Plain {
            entry,
            rtcp_entry: entries.next(),
            comedia: options.comedia,
            learnt_by_rtcp: false,
            key,
            connect_called: false,
            rtcp_path: None,
        };
        Ok(self.insert_transport(router, id, TransportKind::Plain(Box::new(plain)), base))
    }

    /// Answers `plainTransport.connect()`.
    pub fn connect_plain_transport(
        &mut self,
        index: TransportIdx,
        request: &wire::ConnectRequest,
    ) -> RequestResult<wire::ConnectResponse> {
        let transport = &mut self.transports[index];
        let TransportKind::Plain(plain) = &mut transport.kind else {
            return Err(RequestError::error("not a PlainTransport"));
        };
        if plain.connect_called {
            return Err(RequestError::error("connect() already called"));
        }
        let srtp = match (&mut plain.key, &request.srtp_parameters) {
            (None, Some(_)) => {
                return Err(RequestError::type_error("invalid srtpParameters (SRTP not enabled)"));
            }
            (Some(_), None) => return Err(RequestError::type_error("missing srtpParameters (SRTP enabled)")),
            (Some(key), Some(remote)) => Some(key.connect(remote)?),
            (None, None) => None,
        };
        if !plain.comedia {
            let ip = parse_ip(request.ip.as_deref().ok_or_else(|| RequestError::type_error("missing ip"))?)?;
            let port = request.port.ok_or_else(|| RequestError::type_error("missing port"))?;
            plain.rtcp_path = match (&plain.rtcp_entry, request.rtcp_port) {
                (None, Some(_)) => {
                    return Err(RequestError::type_error("cannot set rtcpPort with rtcpMux enabled"));
                }
                (Some(_), None) => {
                    return Err(RequestError::type_error(
                        "missing rtcpPort (required with rtcpMux disabled)",
                    ));
                }
                (Some(entry), Some(port)) => {
                    Some(Path { socket: entry.socket, remote: SocketAddr::new(ip, port) })
                }
                (None, None) => None,
            };
            transport.path = Some(Path { socket: plain.entry.socket, remote: SocketAddr::new(ip, port) });
        }
        plain.connect_called = true;
        transport.srtp = srtp;
        let response = wire::ConnectResponse {
            tuple: transport.path.map(|path| Box::new(entry_tuple(&self.sockets, &plain.entry, Some(path)))),
            rtcp_tuple: plain.connected_rtcp_tuple(&self.sockets),
            srtp_parameters: plain.key.as_ref().map(|key| Box::new(key.parameters())),
        };
        Ok(response)
    }

    /// A datagram for a PlainTransport.
    pub fn plain_datagram(&mut self, index: TransportIdx, path: Path, datagram: &mut [u8], now: Instant) {
        let rtcp = match DatagramKind::of(datagram) {
            DatagramKind::Rtp => false,
            DatagramKind::Rtcp => true,
            // SCTP begins with its port, 5000, which no other protocol here begins with.
            _ if datagram.starts_with(&SCTP_PORT) => return self.plain_sctp(index, path, datagram, now),
            _ => {
                self.counters.unknown_datagrams += 1;
                return;
            }
        };
        let transport = &mut self.transports[index];
        let TransportKind::Plain(plain) = &mut transport.kind else { return };
        if plain.key.is_some() && transport.srtp.is_none() {
            self.counters.early_media += 1;
            return;
        }
        let apart = rtcp && !plain.rtcp_mux();
        let mut known = if apart { plain.rtcp_path } else { transport.path };
        // ffmpeg, for one, reports first and sends its media from the port beside. The first media says where the peer
        // is; no report of the same host may keep it out.
        if !rtcp && plain.learnt_by_rtcp && known.is_some_and(|known| known.remote.ip() == path.remote.ip()) {
            known = None;
        }
        if known.is_some_and(|known| known != path) || (known.is_none() && !plain.comedia) {
            self.counters.foreign_datagrams += 1;
            return;
        }
        let Some(len) = self.unprotect(index, datagram, rtcp) else { return };
        if known.is_none() {
            // Comedia: who sends first (and, with SRTP, proves to have the key) is the peer.
            self.learn_plain_peer(index, path, rtcp, now);
        }
        let Some(plaintext) = datagram.get_mut(..len) else { return };
        if rtcp {
            self.receive_rtcp(index, plaintext, now);
        } else {
            self.receive_rtp(index, plaintext, now);
        }
    }

    /// SCTP goes where RTP goes.
    fn plain_sctp(&mut self, index: TransportIdx, path: Path, datagram: &[u8], now: Instant) {
        let transport = &self.transports[index];
        let TransportKind::Plain(plain) = &transport.kind else { return };
        if transport.sctp.is_none() {
            self.counters.sctp_ignored += 1;
            return;
        }
        match transport.path {
            Some(known) if known == path => {}
            None if plain.comedia => self.learn_plain_peer(index, path, false, now),
            _ => {
                self.counters.foreign_datagrams += 1;
                return;
            }
        }
        self.receive_sctp(index, datagram, now);
    }

    fn learn_plain_peer(&mut self, index: TransportIdx, path: Path, rtcp: bool, now: Instant) {
        let transport = &mut self.transports[index];
        let TransportKind::Plain(plain) = &mut transport.kind else { return };
        if rtcp && !plain.rtcp_mux() {
            plain.rtcp_path = Some(path);
            let Some(tuple) = plain.connected_rtcp_tuple(&self.sockets) else { return };
            let body = wire::RtcpTupleNotification { tuple };
            self.outbox.notify(
                &transport.id,
                notification::Event::PlainTransportRtcpTuple,
                Some(notification::Body::PlainTransportRtcpTupleNotification(Box::new(body))),
            );
            return;
        }
        plain.learnt_by_rtcp = rtcp;
        if transport.path == Some(path) {
            return;
        }
        transport.path = Some(path);
        let tuple = Box::new(entry_tuple(&self.sockets, &plain.entry, Some(path)));
        self.outbox.notify(
            &transport.id,
            notification::Event::PlainTransportTuple,
            Some(notification::Body::PlainTransportTupleNotification(Box::new(wire::TupleNotification {
                tuple,
            }))),
        );
        self.transport_connected(index, now);
    }
}

/// An IP address that a driver gave.
pub fn parse_ip(text: &str) -> RequestResult<IpAddr> {
    text.parse().map_err(|_| RequestError::type_error(format!("invalid IP '{text}'")))
}
