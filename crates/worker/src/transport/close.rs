//! Making and closing Transports, and the two moments that concern all that is on one: connected, disconnected.

use std::time::{Duration, Instant};

use super::sctp::Sctp;
use super::{Transport, TransportKind, TransportOptions};
use crate::table::{RouterIdx, TransportIdx};
use crate::worker::{Handler, Timer, Worker};

/// How often a Transport looks whether reports are due: half of video's interval.
pub const RTCP_INTERVAL: Duration = Duration::from_millis(500);

/// Reports of all Transports are due at multiples of this, and leave up to as much earlier with what goes out anyway:
/// hundreds of Transports must not wake the worker hundreds of times a second, each for a packet or none. Longer than
/// from one frame of video to the next.
pub const RTCP_STEP: Duration = Duration::from_millis(40);

impl Worker {
    /// Adds a Transport to its Router.
    pub fn insert_transport(
        &mut self,
        router: RouterIdx,
        id: String,
        kind: TransportKind,
        options: TransportOptions,
    ) -> TransportIdx {
        let index = self.transports.next_index();
        let rtcp_timer = self.timers.create(Timer::Rtcp(index));
        let sctp = options.sctp.map(|configured| {
            let timer = self.timers.create(Timer::Sctp(index));
            Box::new(Sctp::new(&options, configured, timer))
        });
        let mut transport = Transport::new(id.clone(), router, kind, options, rtcp_timer);
        transport.sctp = sctp;
        self.transports.insert(transport);
        self.relief.grown(self.transports.len());
        self.routers[router].transports.push(index);
        self.register(id, Handler::Transport(index));
        index
    }

    /// Closes a Transport with its Producers (whose Consumers are told) and Consumers.
    pub fn close_transport(&mut self, index: TransportIdx) {
        while let Some(producer) =
            self.transports.get(index).and_then(|transport| transport.producers.last().copied())
        {
            self.close_producer(producer);
        }
        while let Some(consumer) =
            self.transports.get(index).and_then(|transport| transport.consumers.last().copied())
        {
            self.close_consumer(consumer);
        }
        while let Some(producer) =
            self.transports.get(index).and_then(|transport| transport.data_producers.last().copied())
        {
            self.close_data_producer(producer);
        }
        while let Some(consumer) =
            self.transports.get(index).and_then(|transport| transport.data_consumers.last().copied())
        {
            self.close_data_consumer(consumer);
        }
        self.close_sctp(index, Instant::now());
        self.close_web_rtc(index);
        let Some(transport) = self.transports.remove(index) else { return };
        self.timers.remove(transport.rtcp_timer);
        if let Some(feedback) = &transport.feedback {
            self.timers.remove(feedback.timer);
        }
        if let Some(bwe) = &transport.bwe {
            self.timers.remove(bwe.timer);
        }
        self.handlers.remove(&transport.id);
        match &transport.kind {
            TransportKind::Plain(plain) => {
                for socket in plain.sockets() {
                    self.sockets.close(socket);
                }
            }
            TransportKind::Pipe(pipe) => self.sockets.close(pipe.socket()),
            TransportKind::WebRtc(_) | TransportKind::Direct => {}
        }
        if let Some(router) = self.routers.get_mut(transport.router) {
            router.transports.retain(|other| *other != index);
        }
        self.transport_gone(Instant::now());
    }

    /// Media can go out from now on.
    pub fn transport_connected(&mut self, index: TransportIdx, now: Instant) {
        let Some(transport) = self.transports.get_mut(index) else { return };
        transport.connected = true;
        let due = self.clock.next_step(now + RTCP_INTERVAL, RTCP_STEP);
        self.timers.set_no_later_than(transport.rtcp_timer, due);
        for consumer in transport.consumers.clone() {
            self.consumer_transport_connected(consumer, now);
        }
        self.may_connect_sctp(index, now);
    }

    /// Media cannot go out any more.
    pub fn transport_disconnected(&mut self, index: TransportIdx) {
        let Some(transport) = self.transports.get_mut(index) else { return };
        if !std::mem::replace(&mut transport.connected, false) {
            return;
        }
        self.timers.set(transport.rtcp_timer, None);
        for consumer in transport.consumers.clone() {
            self.consumer_transport_disconnected(consumer);
        }
    }
}
