//! A WebRtcTransport: ICE lite, DTLS and SRTP towards one browser, on sockets of its own or of a WebRtcServer.

mod connect;
pub mod create;

use std::time::{Duration, Instant};

use rtc::dtls::{DtlsError, DtlsRole, DtlsState, DtlsTransport};
use rtc::ice::{IceServer, IceState, Protocol as IceProtocol, Tuple};
use rtc::rtp::DatagramKind;
use rtc::stun::StunMessage;
use worker_protocol::wire::{transport as base, web_rtc_transport as wire};

use super::dump::tuple;
use super::{Path, TransportKind};
use crate::sockets::{SocketKind, Sockets};
use crate::table::{Index, SocketIdx, TransportIdx, WebRtcServerIdx};
use crate::timers::TimerKey;
use crate::web_rtc_server::ListenEntry;
use crate::worker::Worker;

/// A STUN response fits.
const STUN_RESPONSE: usize = 256;

/// How long a path stays with the transport that proved last that its peer is there. Browsers check more often, or send
/// SRTP or SRTCP.
const PATH_TENURE: Duration = Duration::from_secs(5);

/// Whose a path is.
#[derive(Debug, Clone, Copy)]
pub struct PathOwner {
    /// The transport.
    pub transport: TransportIdx,
    /// When it granted a STUN request on the path last.
    granted_at: Instant,
}

/// What a WebRtcTransport has besides.
#[derive(Debug)]
pub struct WebRtc {
    server: Option<WebRtcServerIdx>,
    /// Its own sockets, where it uses no server's.
    entries: Vec<ListenEntry>,
    candidates: Vec<wire::IceCandidate>,
    ice: IceServer,
    dtls: DtlsTransport,
    dtls_role: wire::DtlsRole,
    connect_called: bool,
    timer: TimerKey,
}

impl WebRtc {
    /// What `transport.dump()` answers.
    pub fn dump(&self, base: Box<base::Dump>, worker: &Worker) -> wire::DumpResponse {
        wire::DumpResponse {
            base,
            ice_role: wire::IceRole::Controlled,
            ice_parameters: Box::new(wire::IceParameters {
                username_fragment: self.ice.username_fragment().to_owned(),
                password: self.ice.password().to_owned(),
                ice_lite: true,
            }),
            ice_candidates: self.candidates.clone(),
            ice_state: ice_state(self.ice.state()),
            ice_selected_tuple: self.selected_tuple(worker),
            dtls_parameters: Box::new(wire::DtlsParameters {
                fingerprints: worker.fingerprints.clone(),
                role: self.dtls_role,
            }),
            dtls_state: dtls_state(self.dtls.state()),
        }
    }

    /// What `transport.getStats()` answers.
    pub fn stats(&self, base: Box<base::Stats>, worker: &Worker) -> wire::GetStatsResponse {
        wire::GetStatsResponse {
            base,
            ice_role: wire::IceRole::Controlled,
            ice_state: ice_state(self.ice.state()),
            ice_selected_tuple: self.selected_tuple(worker),
            dtls_state: dtls_state(self.dtls.state()),
        }
    }

    /// Where its DTLS association stands.
    pub fn dtls_state(&self) -> DtlsState {
        self.dtls.state()
    }

    /// Hands application data to DTLS; [`Worker::transmit_dtls`] sends it.
    ///
    /// # Errors
    /// Where there is no association.
    pub fn send_application_data(&mut self, data: &[u8], now: Instant) -> Result<(), DtlsError> {
        self.dtls.send(data, now)
    }

    fn selected_tuple(&self, worker: &Worker) -> Option<Box<base::Tuple>> {
        let path = path_of(self.ice.selected_tuple()?);
        let announced = self.announced_address(path.socket, worker);
        Some(Box::new(tuple(&worker.sockets, path, announced)))
    }

    fn announced_address<'w>(&'w self, socket: SocketIdx, worker: &'w Worker) -> Option<&'w str> {
        let listener = match worker.sockets.get(socket).map(|socket| &socket.kind) {
            Some(SocketKind::TcpConnection(connection)) => connection.listener,
            _ => socket,
        };
        let entries = match self.server {
            Some(server) => &worker.web_rtc_servers.get(server)?.entries,
            None => &self.entries,
        };
        entries.iter().find(|entry| entry.socket == listener)?.announced_address.as_deref()
    }
}

/// A path as ICE counts it.
fn tuple_of(path: Path, sockets: &Sockets) -> Tuple {
    let tcp =
        sockets.get(path.socket).is_some_and(|socket| matches!(socket.kind, SocketKind::TcpConnection(_)));
    Tuple {
        protocol: if tcp { IceProtocol::Tcp } else { IceProtocol::Udp },
        local: path.socket.to_usize(),
        remote: path.remote,
    }
}

/// A tuple as the sockets know it.
fn path_of(tuple: Tuple) -> Path {
    Path { socket: SocketIdx::from_usize(tuple.local), remote: tuple.remote }
}

fn ice_state(state: IceState) -> wire::IceState {
    match state {
        IceState::New => wire::IceState::New,
        IceState::Connected => wire::IceState::Connected,
        IceState::Completed => wire::IceState::Completed,
        IceState::Disconnected => wire::IceState::Disconnected,
    }
}

fn dtls_state(state: DtlsState) -> wire::DtlsState {
    match state {
        DtlsState::New => wire::DtlsState::New,
        DtlsState::Connecting => wire::DtlsState::Connecting,
        DtlsState::Connected => wire::DtlsState::Connected,
        DtlsState::Failed => wire::DtlsState::Failed,
        DtlsState::Closed => wire::DtlsState::Closed,
    }
}

impl Worker {
    /// A datagram on a server's socket: its transport is known by the path, or its first STUN request says which.
    pub fn server_datagram(
        &mut self,
        server: WebRtcServerIdx,
        path: Path,
        datagram: &mut [u8],
        now: Instant,
    ) {
        let index = if DatagramKind::of(datagram) == DatagramKind::Stun {
            let Ok(message) = StunMessage::parse(datagram) else {
                self.counters.stun_malformed += 1;
                return;
            };
            // The fragment comes before the path: a client may come again from the address of a transport that is gone
            // for it and not yet for us.
            let Some(server) = self.web_rtc_servers.get(server) else { return };
            let named = message
                .local_username_fragment()
                .and_then(|fragment| server.username_fragments.get(fragment).copied());
            let Some(index) = named.or_else(|| self.tuples.get(&path).map(|owner| owner.transport)) else {
                self.counters.stun_unknown_username += 1;
                return;
            };
            index
        } else {
            let Some(index) = self.tuples.get(&path).map(|owner| owner.transport) else {
                self.counters.stray_datagrams += 1;
                return;
            };
            index
        };
        let Some(transport) = self.transports.get_mut(index) else { return };
        transport.data_received(datagram.len(), now);
        self.web_rtc_datagram(index, path, datagram, now);
    }

    /// A datagram for a WebRtcTransport.
    pub fn web_rtc_datagram(&mut self, index: TransportIdx, path: Path, datagram: &mut [u8], now: Instant) {
        match DatagramKind::of(datagram) {
            DatagramKind::Rtp => self.web_rtc_media(index, path, datagram, false, now),
            DatagramKind::Rtcp => self.web_rtc_media(index, path, datagram, true, now),
            DatagramKind::Stun => self.web_rtc_stun(index, path, datagram, now),
            DatagramKind::Dtls => {
                let tuple = tuple_of(path, &self.sockets);
                let TransportKind::WebRtc(web_rtc) = &mut self.transports[index].kind else { return };
                // Only here: DTLS answers with more than it is asked, which a forged source must not make use of.
                if !web_rtc.ice.is_valid_tuple(&tuple) {
                    self.counters.dtls_unvalidated_path += 1;
                    return;
                }
                web_rtc.dtls.handle_datagram(datagram, now);
                self.start_dtls(index, now);
                self.drain_web_rtc(index, now);
            }
            _ => self.counters.unknown_datagrams += 1,
        }
    }

    fn web_rtc_media(
        &mut self,
        index: TransportIdx,
        path: Path,
        datagram: &mut [u8],
        rtcp: bool,
        now: Instant,
    ) {
        let transport = &self.transports[index];
        if transport.srtp.is_none() {
            self.counters.early_media += 1;
            return;
        }
        // The selected path is what nearly all media comes by.
        if transport.path != Some(path) {
            let TransportKind::WebRtc(web_rtc) = &transport.kind else { return };
            if !web_rtc.ice.is_valid_tuple(&tuple_of(path, &self.sockets)) {
                self.counters.foreign_datagrams += 1;
                return;
            }
        }
        let Some(len) = self.unprotect(index, datagram, rtcp) else { return };
        self.transports[index].secured = Some((path, now));
        let Some(plaintext) = datagram.get_mut(..len) else { return };
        if rtcp {
            self.receive_rtcp(index, plaintext, now);
        } else {
            self.receive_rtp(index, plaintext, now);
        }
    }

    fn web_rtc_stun(&mut self, index: TransportIdx, path: Path, datagram: &[u8], now: Instant) {
        let tuple = tuple_of(path, &self.sockets);
        let Ok(message) = StunMessage::parse(datagram) else {
            self.counters.stun_malformed += 1;
            return;
        };
        let TransportKind::WebRtc(web_rtc) = &mut self.transports[index].kind else { return };
        let mut response = [0; STUN_RESPONSE];
        let before = web_rtc.ice.stats().requests;
        let len = web_rtc.ice.handle_message(&message, tuple, now, &mut response);
        if web_rtc.ice.stats().requests == before {
            self.counters.stun_refused += 1;
        } else {
            self.claim_path(index, path, now);
        }
        if let Some(response) = len.and_then(|len| response.get(..len)) {
            self.sockets.send(path, response);
            self.transports[index].data_sent(response.len(), now);
        }
        self.drain_web_rtc(index, now);
    }

    /// A transport granted a request on a path: what else comes there is its own, unless that is the path of another
    /// whose peer is there. A request proves who sent it, not from where: its source may be forged.
    fn claim_path(&mut self, index: TransportIdx, path: Path, now: Instant) {
        if let Some(owner) = self.tuples.get(&path).filter(|owner| owner.transport != index) {
            let fresh = |at: Instant| now.saturating_duration_since(at) < PATH_TENURE;
            let secured = self.transports.get(owner.transport).map(|transport| transport.secured);
            let kept = secured.is_some_and(|secured| {
                fresh(owner.granted_at) || secured.is_some_and(|(by, at)| by == path && fresh(at))
            });
            if kept {
                self.counters.paths_contested += 1;
                return;
            }
        }
        self.tuples.insert(path, PathOwner { transport: index, granted_at: now });
    }

    /// ICE and DTLS of a transport, when they are due.
    pub fn service_web_rtc(&mut self, index: TransportIdx, now: Instant) {
        let Some(transport) = self.transports.get_mut(index) else { return };
        let TransportKind::WebRtc(web_rtc) = &mut transport.kind else { return };
        web_rtc.ice.handle_timeout(now);
        web_rtc.dtls.handle_timeout(now);
        self.drain_web_rtc(index, now);
    }

    /// A path is no more: its TCP connection closed.
    pub fn remove_web_rtc_path(&mut self, index: TransportIdx, path: Path, now: Instant) {
        let tuple = tuple_of(path, &self.sockets);
        let Some(transport) = self.transports.get_mut(index) else { return };
        let TransportKind::WebRtc(web_rtc) = &mut transport.kind else { return };
        web_rtc.ice.remove_tuple(&tuple, now);
        self.drain_web_rtc(index, now);
    }

    /// Says goodbye, and takes a transport out of the look-ups.
    pub fn close_web_rtc(&mut self, index: TransportIdx) {
        let now = Instant::now();
        let Some(transport) = self.transports.get_mut(index) else { return };
        let TransportKind::WebRtc(web_rtc) = &mut transport.kind else { return };
        web_rtc.dtls.close(now);
        let path = transport.path;
        self.transmit_dtls(index, now);
        if path.is_some() {
            self.flush();
        }
        self.quietly(|worker| {
            let Some(transport) = worker.transports.get_mut(index) else { return };
            if let TransportKind::WebRtc(web_rtc) = &mut transport.kind {
                web_rtc.ice.close();
            }
            worker.drain_web_rtc(index, now);
        });
        let Some(transport) = self.transports.get_mut(index) else { return };
        let TransportKind::WebRtc(web_rtc) = &mut transport.kind else { return };
        self.timers.remove(web_rtc.timer);
        if let Some(server) = web_rtc.server.and_then(|server| self.web_rtc_servers.get_mut(server)) {
            server.transports.retain(|other| *other != index);
        }
        for entry in std::mem::take(&mut web_rtc.entries) {
            for connection in self.sockets.connections_of(entry.socket) {
                self.sockets.close(connection);
            }
            self.sockets.close(entry.socket);
        }
    }

    /// Whether ICE has a path.
    fn has_ice_path(state: IceState) -> bool {
        matches!(state, IceState::Connected | IceState::Completed)
    }

    /// Our role in the handshake, once it can begin.
    fn may_start_dtls(web_rtc: &mut WebRtc) -> Option<DtlsRole> {
        if web_rtc.dtls.role().is_some() || !Self::has_ice_path(web_rtc.ice.state()) {
            return None;
        }
        match web_rtc.dtls_role {
            wire::DtlsRole::Client => Some(DtlsRole::Client),
            // Before connect() nothing says who begins, unless the peer has: its certificate is checked when the
            // fingerprint is known.
            wire::DtlsRole::Auto if !web_rtc.dtls.has_client_hello() => None,
            wire::DtlsRole::Auto | wire::DtlsRole::Server => {
                web_rtc.dtls_role = wire::DtlsRole::Server;
                Some(DtlsRole::Server)
            }
        }
    }
}
