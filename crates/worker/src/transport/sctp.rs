//! The SCTP association of a Transport: who carries its packets, what its events mean for the driver and for data.
//!
//! Packets and messages only mark the association as touched; at the end of the event loop's turn it says what it has to
//! say, so that acknowledgements and messages share packets.

use std::time::Instant;

use rtc::dtls::DtlsState;
use rtc::sctp::{self, SctpAssociation, SctpCounts, SctpEnd, SctpEvent, SctpState};
use rustc_hash::FxHashMap;
use worker_protocol::wire::common::Uint16String;
use worker_protocol::wire::{data_consumer, notification, sctp_association as wire, transport};

use super::{SctpOptions, TransportKind, TransportOptions};
use crate::settings::LogTag;
use crate::table::{DataConsumerIdx, DataProducerIdx, TransportIdx};
use crate::timers::TimerKey;
use crate::worker::Worker;

/// What a Transport with SCTP has.
#[derive(Debug)]
pub struct Sctp {
    /// The association with the peer.
    pub association: SctpAssociation,
    /// Whether streams are data channels, which are closed by resetting them.
    pub is_data_channel: bool,
    /// Whose messages come on a stream.
    pub producers: FxHashMap<u16, DataProducerIdx>,
    /// Who sends on a stream.
    pub consumers: FxHashMap<u16, DataConsumerIdx>,
    /// When the association wants attention.
    pub timer: TimerKey,
    /// Whether it is among those that are serviced at the end of the turn.
    touched: bool,
}

impl Sctp {
    /// An association that waits.
    pub fn new(options: &TransportOptions, configured: SctpOptions, timer: TimerKey) -> Self {
        let association = SctpAssociation::new(sctp::SctpOptions {
            max_send_message_size: options.max_send_message_size as usize,
            max_receive_message_size: options.max_receive_message_size as usize,
            send_buffer_size: configured.send_buffer_size as usize,
            per_stream_send_queue_limit: configured.per_stream_send_queue_limit as usize,
            max_receiver_window: configured.max_receiver_window_buffer_size as usize,
            default_low_threshold: configured.default_low_threshold as usize,
        });
        Self {
            association,
            is_data_channel: configured.is_data_channel,
            producers: FxHashMap::default(),
            consumers: FxHashMap::default(),
            timer,
            touched: false,
        }
    }

    /// Where it stands, as the schema has it.
    pub fn state(&self) -> wire::SctpState {
        wire_state(self.association.state())
    }

    /// What both sides agreed on.
    pub fn capabilities(&self) -> wire::SctpNegotiatedCapabilities {
        let (outbound, inbound) = self.association.negotiated_streams();
        wire::SctpNegotiatedCapabilities {
            negotiated_max_outbound_streams: outbound,
            negotiated_max_inbound_streams: inbound,
        }
    }

    /// Which DataProducer's messages come on which stream.
    pub fn listener(&self, id: impl Fn(DataProducerIdx) -> String) -> transport::SctpListener {
        let entries = self.producers.iter();
        transport::SctpListener {
            stream_id_table: entries
                .map(|(stream, producer)| Uint16String { key: *stream, value: id(*producer) })
                .collect(),
        }
    }
}

fn wire_state(state: SctpState) -> wire::SctpState {
    match state {
        SctpState::New => wire::SctpState::New,
        SctpState::Connecting => wire::SctpState::Connecting,
        SctpState::Connected => wire::SctpState::Connected,
        SctpState::Failed => wire::SctpState::Failed,
        SctpState::Closed => wire::SctpState::Closed,
    }
}

impl Worker {
    /// Something was asked of a Transport's association: it is serviced at the end of the turn.
    pub fn touch_sctp(&mut self, index: TransportIdx) {
        let Some(sctp) = self.transports.get_mut(index).and_then(|transport| transport.sctp.as_mut()) else {
            return;
        };
        if !std::mem::replace(&mut sctp.touched, true) {
            self.touched_sctp.push(index);
        }
    }

    /// Begins the handshake where packets can go and there is something to be said or heard. Before that the peer may
    /// not have begun: a browser without a data channel would not answer.
    pub fn may_connect_sctp(&mut self, index: TransportIdx, now: Instant) {
        let Some(transport) = self.transports.get_mut(index) else { return };
        let carried = match &transport.kind {
            TransportKind::WebRtc(web_rtc) => web_rtc.dtls_state() == DtlsState::Connected,
            TransportKind::Plain(_) | TransportKind::Pipe(_) => true,
            TransportKind::Direct => false,
        };
        let wanted = !transport.data_producers.is_empty() || !transport.data_consumers.is_empty();
        let wanted = wanted && transport.path.is_some();
        if let Some(sctp) = &mut transport.sctp
            && carried
            && wanted
        {
            sctp.association.connect(now);
            self.touch_sctp(index);
        }
    }

    /// A packet for a Transport's association.
    pub fn receive_sctp(&mut self, index: TransportIdx, packet: &[u8], now: Instant) {
        let Some(sctp) = self.transports.get_mut(index).and_then(|transport| transport.sctp.as_mut()) else {
            self.counters.sctp_ignored += 1;
            return;
        };
        sctp.association.handle_packet(packet, now);
        self.handle_sctp_events(index, now);
        self.touch_sctp(index);
    }

    /// A Transport's association wants attention.
    pub fn sctp_timeout(&mut self, index: TransportIdx, now: Instant) {
        if let Some(sctp) = self.transports.get_mut(index).and_then(|transport| transport.sctp.as_mut()) {
            sctp.association.handle_timeout(now);
            self.touch_sctp(index);
        }
    }

    /// Everything that associations have to say this turn.
    pub fn service_sctp(&mut self, now: Instant) {
        // A message that one received may be for another to send.
        while let Some(index) = self.touched_sctp.pop() {
            self.handle_sctp_events(index, now);
            self.transmit_sctp(index, now);
            self.handle_sctp_events(index, now);
            let Some(sctp) = self.transports.get_mut(index).and_then(|transport| transport.sctp.as_mut())
            else {
                continue;
            };
            sctp.touched = false;
            let next = sctp.association.next_timeout();
            let timer = sctp.timer;
            add_counts(&mut self.counters, sctp.association.take_counts());
            self.timers.set(timer, next);
        }
    }

    /// Sends what an association has to send, by what carries its Transport.
    fn transmit_sctp(&mut self, index: TransportIdx, now: Instant) {
        loop {
            let Some(transport) = self.transports.get_mut(index) else { return };
            let Some(packet) = transport.sctp.as_mut().and_then(|sctp| sctp.association.poll_transmit(now))
            else {
                return;
            };
            match &mut transport.kind {
                TransportKind::WebRtc(web_rtc) => {
                    if web_rtc.send_application_data(&packet, now).is_err() {
                        self.counters.sctp_unsent += 1;
                    }
                    self.transmit_dtls(index, now);
                }
                TransportKind::Plain(_) | TransportKind::Pipe(_) => {
                    let Some(path) = transport.path else {
                        self.counters.sctp_unsent += 1;
                        continue;
                    };
                    self.sockets.send(path, &packet);
                    transport.data_sent(packet.len(), now);
                }
                TransportKind::Direct => {}
            }
            if self.sockets.is_full() {
                self.flush();
            }
        }
    }

    /// Ends a Transport's association: the peer is told while something still carries it.
    pub fn close_sctp(&mut self, index: TransportIdx, now: Instant) {
        let Some(sctp) = self.transports.get_mut(index).and_then(|transport| transport.sctp.as_mut()) else {
            return;
        };
        sctp.association.close();
        self.transmit_sctp(index, now);
        if let Some(sctp) = self.transports.get_mut(index).and_then(|transport| transport.sctp.take()) {
            self.timers.remove(sctp.timer);
        }
    }

    fn handle_sctp_events(&mut self, index: TransportIdx, now: Instant) {
        while let Some(sctp) = self.transports.get_mut(index).and_then(|transport| transport.sctp.as_mut())
            && let Some(event) = sctp.association.poll_event()
        {
            match event {
                SctpEvent::Message { stream, ppid, data } => match sctp.producers.get(&stream).copied() {
                    Some(producer) => self.sctp_data(producer, ppid, data, now),
                    None => self.counters.data_no_producer += 1,
                },
                SctpEvent::Connecting => self.notify_sctp_state(index, wire::SctpState::Connecting, None),
                SctpEvent::Connected => {
                    let negotiated = Box::new(sctp.capabilities());
                    let id = self.transports[index].id.clone();
                    let body = transport::SctpNegotiatedCapabilitiesNotification {
                        negotiated_capabilities: Some(negotiated),
                    };
                    self.notify(
                        &id,
                        notification::Event::TransportSctpNegotiatedCapabilities,
                        Some(notification::Body::TransportSctpNegotiatedCapabilitiesNotification(Box::new(
                            body,
                        ))),
                    );
                    self.notify_sctp_state(index, wire::SctpState::Connected, None);
                }
                SctpEvent::Failed(end) => self.notify_sctp_state(index, wire::SctpState::Failed, Some(end)),
                SctpEvent::Closed(end) => self.notify_sctp_state(index, wire::SctpState::Closed, Some(end)),
                SctpEvent::Restarted => {
                    let id = &self.transports[index].id;
                    self.outbox
                        .debug(LogTag::Sctp, || format!("the SCTP peer began anew [transportId:{id}]"));
                }
                SctpEvent::StreamsReset(streams) => self.detach_data_consumers(index, streams),
                SctpEvent::BufferedAmountLow(stream) => {
                    let Some(consumer) = sctp.consumers.get(&stream) else { continue };
                    let amount = u32::try_from(sctp.association.buffered_amount(stream)).unwrap_or(u32::MAX);
                    let body = data_consumer::BufferedAmountLowNotification { buffered_amount: amount };
                    self.outbox.notify_media(
                        &self.data_consumers[*consumer].id,
                        notification::Event::DataConsumerBufferedAmountLow,
                        notification::Body::DataConsumerBufferedAmountLowNotification(Box::new(body)),
                    );
                }
            }
        }
    }

    fn notify_sctp_state(&mut self, index: TransportIdx, state: wire::SctpState, end: Option<SctpEnd>) {
        let id = self.transports[index].id.clone();
        if let Some(end) = end {
            self.outbox
                .debug(LogTag::Sctp, || format!("the SCTP association ended: {end} [transportId:{id}]"));
        }
        let body = transport::SctpStateChangeNotification { sctp_state: state };
        self.notify(
            &id,
            notification::Event::TransportSctpStateChange,
            Some(notification::Body::TransportSctpStateChangeNotification(Box::new(body))),
        );
    }

    /// The peer closed data channels: nothing can reach it there any more, and our half is closed in turn (RFC 8831
    /// section 6.7). The DataConsumers stay until the driver closes them: it would not learn of their end.
    fn detach_data_consumers(&mut self, index: TransportIdx, streams: Option<Vec<u16>>) {
        let Some(sctp) = self.transports.get_mut(index).and_then(|transport| transport.sctp.as_mut()) else {
            return;
        };
        if !sctp.is_data_channel {
            return;
        }
        let streams = streams.unwrap_or_else(|| sctp.consumers.keys().copied().collect());
        for stream in streams {
            if let Some(consumer) = sctp.consumers.remove(&stream) {
                sctp.association.reset_stream(stream);
                self.data_consumers[consumer].detach();
            }
        }
    }
}

fn add_counts(counters: &mut crate::counters::Counters, counts: SctpCounts) {
    counters.sctp_malformed += counts.malformed;
    counters.sctp_wrong_tag += counts.wrong_tag;
    counters.sctp_inits += counts.inits;
    counters.sctp_cookies_refused += counts.cookies_refused;
    counters.sctp_data_dropped += counts.data_dropped;
    counters.sctp_data_duplicate += counts.data_duplicate;
    counters.sctp_messages_abandoned += counts.messages_abandoned;
    counters.sctp_retransmissions += counts.retransmissions;
    counters.sctp_violations += counts.violations;
}
