//! What ICE and DTLS have to tell, passed on: to the look-ups, the driver, the peer, and the media.

use std::time::Instant;

use rtc::dtls::{DtlsConnection, DtlsEvent, DtlsFailure, DtlsState, MTU};
use rtc::ice::{IceEvent, IceState};
use rtc::srtp::{SrtpReceiver, SrtpSender};
use worker_protocol::wire::{notification, web_rtc_transport as wire};

use super::{dtls_state, ice_state, path_of};
use crate::settings::LogTag;
use crate::sockets::SocketKind;
use crate::table::TransportIdx;
use crate::transport::TransportKind;
use crate::transport::srtp::Srtp;
use crate::worker::Worker;

impl Worker {
    /// Takes out everything that ICE and DTLS have to tell or send, and sets their timer.
    pub fn drain_web_rtc(&mut self, index: TransportIdx, now: Instant) {
        loop {
            let Some(TransportKind::WebRtc(web_rtc)) = self.transports.get_mut(index).map(|t| &mut t.kind)
            else {
                return;
            };
            if let Some(event) = web_rtc.ice.poll_event() {
                self.on_ice_event(index, event, now);
            } else if let Some(event) = web_rtc.dtls.poll_event() {
                self.transmit_dtls(index, now);
                self.on_dtls_event(index, event, now);
            } else {
                break;
            }
        }
        self.transmit_dtls(index, now);
        let Some(TransportKind::WebRtc(web_rtc)) = self.transports.get(index).map(|t| &t.kind) else {
            return;
        };
        let next = [web_rtc.ice.next_timeout(), web_rtc.dtls.next_timeout()].into_iter().flatten().min();
        self.timers.set(web_rtc.timer, next);
    }

    fn on_ice_event(&mut self, index: TransportIdx, event: IceEvent, now: Instant) {
        let transport = &mut self.transports[index];
        let TransportKind::WebRtc(web_rtc) = &mut transport.kind else { return };
        let server = web_rtc.server.and_then(|server| self.web_rtc_servers.get_mut(server));
        match event {
            IceEvent::UsernameFragmentAdded(fragment) => {
                if let Some(server) = server {
                    server.username_fragments.insert(fragment, index);
                }
            }
            IceEvent::UsernameFragmentRemoved(fragment) => {
                if let Some(server) = server {
                    server.username_fragments.remove(&fragment);
                }
            }
            // Its path is claimed with each granted request.
            IceEvent::TupleAdded(_) => {}
            IceEvent::TupleRemoved(tuple) => {
                let path = path_of(tuple);
                if self.tuples.get(&path).is_some_and(|owner| owner.transport == index) {
                    self.tuples.remove(&path);
                }
                if transport.path == Some(path) {
                    transport.path = None;
                }
                let connection = self.sockets.get(path.socket).map(|socket| &socket.kind);
                if matches!(connection, Some(SocketKind::TcpConnection(_))) {
                    self.sockets.close(path.socket);
                }
            }
            IceEvent::TupleSelected(tuple) => {
                transport.path = Some(path_of(tuple));
                self.notify_selected_tuple(index);
            }
            IceEvent::StateChanged(state) => self.on_ice_state(index, state, now),
        }
    }

    fn notify_selected_tuple(&mut self, index: TransportIdx) {
        let transport = &self.transports[index];
        let TransportKind::WebRtc(web_rtc) = &transport.kind else { return };
        let Some(tuple) = web_rtc.selected_tuple(self) else { return };
        let id = transport.id.clone();
        let body = wire::IceSelectedTupleChangeNotification { tuple };
        self.notify(
            &id,
            notification::Event::WebRtcTransportIceSelectedTupleChange,
            Some(notification::Body::WebRtcTransportIceSelectedTupleChangeNotification(Box::new(body))),
        );
    }

    fn on_ice_state(&mut self, index: TransportIdx, state: IceState, now: Instant) {
        let id = self.transports[index].id.clone();
        self.outbox.debug(LogTag::Ice, || format!("ICE {state:?} [transportId:{id}]"));
        let body = wire::IceStateChangeNotification { ice_state: ice_state(state) };
        self.notify(
            &id,
            notification::Event::WebRtcTransportIceStateChange,
            Some(notification::Body::WebRtcTransportIceStateChangeNotification(Box::new(body))),
        );
        if Self::has_ice_path(state) {
            self.start_dtls(index, now);
            let transport = &self.transports[index];
            let TransportKind::WebRtc(web_rtc) = &transport.kind else { return };
            if web_rtc.dtls.state() == DtlsState::Connected
                && transport.srtp.is_some()
                && !transport.connected
            {
                self.transport_connected(index, now);
            }
        } else if state == IceState::Disconnected {
            self.transports[index].path = None;
            self.transport_disconnected(index);
        }
    }

    /// Begins the handshake, if it can begin and has not.
    pub fn start_dtls(&mut self, index: TransportIdx, now: Instant) {
        let transport = &mut self.transports[index];
        let TransportKind::WebRtc(web_rtc) = &mut transport.kind else { return };
        let Some(role) = Self::may_start_dtls(web_rtc) else { return };
        match web_rtc.dtls.start(role, now) {
            Ok(()) => {
                let id = transport.id.clone();
                self.outbox.debug(LogTag::Dtls, || format!("DTLS starts as {role:?} [transportId:{id}]"));
                self.notify_dtls_state(index, DtlsState::Connecting, None);
            }
            Err(error) => {
                self.counters.dtls_errors += 1;
                self.outbox.error(|| format!("DTLS cannot start: {error}"));
            }
        }
    }

    fn notify_dtls_state(&mut self, index: TransportIdx, state: DtlsState, remote_cert: Option<String>) {
        let id = self.transports[index].id.clone();
        let body = wire::DtlsStateChangeNotification { dtls_state: dtls_state(state), remote_cert };
        self.notify(
            &id,
            notification::Event::WebRtcTransportDtlsStateChange,
            Some(notification::Body::WebRtcTransportDtlsStateChangeNotification(Box::new(body))),
        );
    }

    fn on_dtls_event(&mut self, index: TransportIdx, event: DtlsEvent, now: Instant) {
        match event {
            DtlsEvent::Connected(connection) => self.on_dtls_connected(index, *connection, now),
            DtlsEvent::Failed(failure) => {
                match failure {
                    DtlsFailure::Timeout => self.counters.dtls_timeouts += 1,
                    _ => self.counters.dtls_errors += 1,
                }
                let id = self.transports[index].id.clone();
                self.outbox.warn(LogTag::Dtls, || format!("DTLS failed: {failure} [transportId:{id}]"));
                self.notify_dtls_state(index, DtlsState::Failed, None);
            }
            DtlsEvent::Closed => {
                self.notify_dtls_state(index, DtlsState::Closed, None);
                self.transport_disconnected(index);
            }
            DtlsEvent::ApplicationData(data) => self.receive_sctp(index, &data, now),
        }
    }

    fn on_dtls_connected(&mut self, index: TransportIdx, connection: DtlsConnection, now: Instant) {
        let transport = &mut self.transports[index];
        if let Some(keys) = &connection.srtp {
            let send = SrtpSender::new(keys.profile, &keys.local_key, &keys.local_salt);
            let recv = SrtpReceiver::new(keys.profile, &keys.remote_key, &keys.remote_salt);
            match (send, recv) {
                (Ok(send), Ok(recv)) => transport.srtp = Some(Srtp { send, recv: Box::new(recv) }),
                (Err(error), _) | (_, Err(error)) => {
                    self.outbox.error(|| format!("SRTP cannot start: {error}"));
                    return;
                }
            }
        }
        let id = transport.id.clone();
        let (version, profile) = (connection.version, connection.srtp.as_ref().map(|keys| keys.profile));
        self.outbox
            .debug(LogTag::Dtls, || format!("{version} connected, SRTP {profile:?} [transportId:{id}]"));
        self.notify_dtls_state(index, DtlsState::Connected, Some(connection.remote_certificate));
        let transport = &self.transports[index];
        let TransportKind::WebRtc(web_rtc) = &transport.kind else { return };
        if Self::has_ice_path(web_rtc.ice.state()) && transport.srtp.is_some() {
            self.transport_connected(index, now);
        }
        // Data needs no SRTP: a peer without media has none.
        self.may_connect_sctp(index, now);
    }

    /// Sends what DTLS has to say to the selected path.
    pub fn transmit_dtls(&mut self, index: TransportIdx, now: Instant) {
        let Some(transport) = self.transports.get_mut(index) else { return };
        let TransportKind::WebRtc(web_rtc) = &mut transport.kind else { return };
        let mut datagram = [0; MTU];
        while let Some(len) = web_rtc.dtls.poll_transmit(&mut datagram) {
            let (Some(path), Some(datagram)) = (transport.path, datagram.get(..len)) else { continue };
            self.sockets.send(path, datagram);
            transport.sent.add(len, now);
        }
    }
}
