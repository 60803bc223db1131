//! A PipeTransport: RTP between two Routers, every stream as it is, optionally with SRTP and RTX.

use std::net::SocketAddr;
use std::time::Instant;

use rtc::rtp::DatagramKind;
use rtc::srtp::Profile;
use worker_protocol::wire::srtp_parameters::SrtpCryptoSuite;
use worker_protocol::wire::{pipe_transport as wire, transport as base};

use super::plain::{SCTP_PORT, entry_tuple, parse_ip};
use super::srtp::LocalKey;
use super::{Path, Transport, TransportKind, TransportOptions};
use crate::error::{RequestError, RequestResult};
use crate::sockets::{SocketOwner, Sockets};
use crate::table::{RouterIdx, SocketIdx, TransportIdx};
use crate::web_rtc_server::ListenEntry;
use crate::worker::Worker;

/// SSRCs that one pipe may carry: a whole Router's Producers, with RTX.
const MAX_SSRCS: usize = 16 * 1024;

/// What a PipeTransport has besides.
#[derive(Debug)]
pub struct Pipe {
    entry: ListenEntry,
    rtx: bool,
    key: Option<LocalKey>,
}

impl Pipe {
    /// Its socket.
    pub fn socket(&self) -> SocketIdx {
        self.entry.socket
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
            tuple: Box::new(entry_tuple(sockets, &self.entry, transport.path)),
            rtx: self.rtx,
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
        wire::GetStatsResponse { base, tuple: Box::new(entry_tuple(sockets, &self.entry, transport.path)) }
    }
}

impl Worker {
    /// Answers `router.createPipeTransport()`.
    pub fn create_pipe_transport(
        &mut self,
        router: RouterIdx,
        id: String,
        options: wire::PipeTransportOptions,
    ) -> RequestResult<TransportIdx> {
        let base = TransportOptions::parse(&options.base)?;
        if options.listen_info.protocol != base::Protocol::Udp {
            return Err(RequestError::type_error("unsupported listen protocol"));
        }
        let key = if options.enable_srtp { Some(LocalKey::generate(Profile::AeadAes256Gcm)?) } else { None };
        let index = self.transports.next_index();
        let entry = self
            .open_entries(&[*options.listen_info], SocketOwner::Transport(index))?
            .pop()
            .expect("open_entries() opens as many as it was given");
        let pipe = Pipe { entry, rtx: options.enable_rtx, key };
        Ok(self.insert_transport(router, id, TransportKind::Pipe(Box::new(pipe)), base))
    }

    /// Answers `pipeTransport.connect()`.
    pub fn connect_pipe_transport(
        &mut self,
        index: TransportIdx,
        request: &wire::ConnectRequest,
    ) -> RequestResult<wire::ConnectResponse> {
        let transport = &mut self.transports[index];
        let TransportKind::Pipe(pipe) = &mut transport.kind else {
            return Err(RequestError::error("not a PipeTransport"));
        };
        if transport.path.is_some() {
            return Err(RequestError::error("connect() already called"));
        }
        let srtp = match (&mut pipe.key, &request.srtp_parameters) {
            (None, Some(_)) => {
                return Err(RequestError::type_error("invalid srtpParameters (SRTP not enabled)"));
            }
            (Some(_), None) => return Err(RequestError::type_error("missing srtpParameters (SRTP enabled)")),
            (Some(_), Some(remote)) if remote.crypto_suite != SrtpCryptoSuite::AeadAes256Gcm => {
                return Err(RequestError::type_error("invalid/unsupported srtpParameters.cryptoSuite"));
            }
            (Some(key), Some(remote)) => Some(key.connect(remote)?),
            (None, None) => None,
        };
        let ip = parse_ip(&request.ip)?;
        let port = request.port.ok_or_else(|| RequestError::type_error("missing port"))?;
        transport.path = Some(Path { socket: pipe.entry.socket, remote: SocketAddr::new(ip, port) });
        transport.srtp = srtp.map(|mut srtp| {
            *srtp.recv = srtp.recv.with_max_ssrcs(MAX_SSRCS);
            srtp
        });
        Ok(wire::ConnectResponse { tuple: Box::new(entry_tuple(&self.sockets, &pipe.entry, transport.path)) })
    }

    /// A datagram for a PipeTransport.
    pub fn pipe_datagram(&mut self, index: TransportIdx, path: Path, datagram: &mut [u8], now: Instant) {
        let rtcp = match DatagramKind::of(datagram) {
            DatagramKind::Rtp => false,
            DatagramKind::Rtcp => true,
            _ if datagram.starts_with(&SCTP_PORT) => {
                if self.transports[index].path == Some(path) {
                    self.receive_sctp(index, datagram, now);
                } else {
                    self.counters.foreign_datagrams += 1;
                }
                return;
            }
            _ => {
                self.counters.unknown_datagrams += 1;
                return;
            }
        };
        if self.transports[index].path != Some(path) {
            self.counters.foreign_datagrams += 1;
            return;
        }
        let Some(len) = self.unprotect(index, datagram, rtcp) else { return };
        let Some(plaintext) = datagram.get_mut(..len) else { return };
        if rtcp {
            self.receive_rtcp(index, plaintext, now);
        } else {
            self.receive_rtp(index, plaintext, now);
        }
    }
}
