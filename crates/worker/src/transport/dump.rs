//! Transports as dumps and statistics show them.

use std::time::Instant;

use rustc_hash::FxHashMap;
use worker_protocol::wire::common::Uint32String;
use worker_protocol::wire::transport as wire;
use worker_protocol::wire::{direct_transport, response, sctp_parameters};

use super::{Path, TransportKind};
use crate::sockets::{SocketKind, Sockets};
use crate::table::{ConsumerIdx, TransportIdx};
use crate::worker::Worker;

/// The SCTP port of data channels (RFC 8841), which mediasoup uses throughout.
const SCTP_PORT: u16 = 5000;

/// A path as the schema carries it; `announced` replaces our own address.
pub fn tuple(sockets: &Sockets, path: Path, announced: Option<&str>) -> wire::Tuple {
    let socket = sockets.get(path.socket);
    let local = socket.map(|socket| socket.local);
    let udp = socket.is_none_or(|socket| matches!(socket.kind, SocketKind::Udp(_)));
    wire::Tuple {
        local_address: announced
            .map(str::to_owned)
            .or_else(|| local.map(|local| local.ip().to_string()))
            .unwrap_or_default(),
        local_port: local.map_or(0, |local| local.port()),
        remote_ip: Some(path.remote.ip().to_canonical().to_string()),
        remote_port: path.remote.port(),
        protocol: if udp { wire::Protocol::Udp } else { wire::Protocol::Tcp },
    }
}

impl Worker {
    /// The part of a dump that all transports share.
    pub fn dump_transport_base(&self, index: TransportIdx) -> wire::Dump {
        let transport = &self.transports[index];
        let consumer_ids = |table: &FxHashMap<u32, ConsumerIdx>| {
            table
                .iter()
                .map(|(ssrc, consumer)| Uint32String {
                    key: *ssrc,
                    value: self.consumers[*consumer].id.clone(),
                })
                .collect()
        };
        let ids = &transport.recv_extensions;
        let some = |id: u8| Some(id).filter(|id| *id != 0);
        let options = &transport.options;
        let traces = [
            (transport.traces.probation, wire::TraceEventType::Probation),
            (transport.traces.bwe, wire::TraceEventType::Bwe),
        ];
        wire::Dump {
            id: transport.id.clone(),
            direct: options.direct,
            producer_ids: transport.producers.iter().map(|index| self.producers[*index].id.clone()).collect(),
            consumer_ids: transport.consumers.iter().map(|index| self.consumers[*index].id.clone()).collect(),
            map_ssrc_consumer_id: consumer_ids(&transport.ssrc_consumers),
            map_rtx_ssrc_consumer_id: consumer_ids(&transport.rtx_ssrc_consumers),
            data_producer_ids: transport
                .data_producers
                .iter()
                .map(|index| self.data_producers[*index].id.clone())
                .collect(),
            data_consumer_ids: transport
                .data_consumers
                .iter()
                .map(|index| self.data_consumers[*index].id.clone())
                .collect(),
            recv_rtp_header_extensions: Box::new(wire::RecvRtpHeaderExtensions {
                mid: some(ids.mid),
                rid: some(ids.rid),
                rrid: some(ids.rrid),
                abs_send_time: some(ids.abs_send_time),
                transport_wide_cc01: some(ids.transport_wide_cc),
            }),
            rtp_listener: Box::new(transport.listener.dump(|producer| self.producers[producer].id.clone())),
            max_send_message_size: options.max_send_message_size,
            max_receive_message_size: options.max_receive_message_size,
            sctp_parameters: options.sctp.map(|sctp| {
                Box::new(sctp_parameters::SctpParameters {
                    port: SCTP_PORT,
                    max_send_message_size: options.max_send_message_size,
                    max_receive_message_size: options.max_receive_message_size,
                    send_buffer_size: sctp.send_buffer_size,
                    per_stream_send_queue_limit: sctp.per_stream_send_queue_limit,
                    max_receiver_window_buffer_size: sctp.max_receiver_window_buffer_size,
                    is_data_channel: sctp.is_data_channel,
                })
            }),
            sctp_state: transport.sctp.as_ref().map(|sctp| sctp.state()),
            sctp_negotiated_capabilities: transport.sctp.as_ref().map(|sctp| Box::new(sctp.capabilities())),
            sctp_listener: transport
                .sctp
                .as_ref()
                .map(|sctp| Box::new(sctp.listener(|producer| self.data_producers[producer].id.clone()))),
            trace_event_types: traces
                .into_iter()
                .filter_map(|(wanted, event)| wanted.then_some(event))
                .collect(),
        }
    }

    /// The part of the statistics that all transports share.
    pub fn transport_stats_base(&mut self, index: TransportIdx, now: Instant) -> wire::Stats {
        let timestamp = self.clock.unix_ms(now);
        let transport = &mut self.transports[index];
        let bitrates = transport.bitrates;
        let bwe = transport.bwe.as_mut().map(|bwe| bwe.stats(now));
        let (bytes_sent, send_bitrate) = (transport.sent.total_bytes(), transport.sent.bitrate(now));
        let media_sent = (transport.media_sent.total_bytes(), transport.media_sent.bitrate(now));
        let some = |bitrate: u64| Some(bitrate).filter(|bitrate| *bitrate != 0);
        wire::Stats {
            transport_id: transport.id.clone(),
            timestamp,
            sctp_state: transport.sctp.as_ref().map(|sctp| sctp.state()),
            bytes_received: transport.stats.recv.total_bytes(),
            recv_bitrate: transport.stats.recv.bitrate(now),
            bytes_sent,
            send_bitrate,
            rtp_bytes_received: transport.stats.rtp_recv.total_bytes(),
            rtp_recv_bitrate: transport.stats.rtp_recv.bitrate(now),
            rtp_bytes_sent: media_sent.0,
            rtp_send_bitrate: media_sent.1,
            rtx_bytes_received: transport.stats.rtx_recv.total_bytes(),
            rtx_recv_bitrate: transport.stats.rtx_recv.bitrate(now),
            rtx_bytes_sent: transport.stats.rtx_send.total_bytes(),
            rtx_send_bitrate: transport.stats.rtx_send.bitrate(now),
            probation_bytes_sent: bwe.map_or(0, |bwe| bwe.probation_bytes),
            probation_send_bitrate: bwe.map_or(0, |bwe| bwe.probation_bitrate),
            available_outgoing_bitrate: bwe.map(|bwe| bwe.available_bitrate),
            available_incoming_bitrate: None,
            max_incoming_bitrate: some(bitrates.max_incoming),
            max_outgoing_bitrate: some(bitrates.max_outgoing),
            min_outgoing_bitrate: some(bitrates.min_outgoing),
            rtp_packet_loss_received: None,
            rtp_packet_loss_sent: bwe.map(|bwe| bwe.packet_loss),
        }
    }

    /// Answers `transport.dump()`, and what creating one answers.
    pub fn dump_transport(&self, index: TransportIdx) -> response::Body {
        let base = Box::new(self.dump_transport_base(index));
        let transport = &self.transports[index];
        match &transport.kind {
            TransportKind::WebRtc(web_rtc) => {
                response::Body::WebRtcTransportDumpResponse(Box::new(web_rtc.dump(base, self)))
            }
            TransportKind::Plain(plain) => response::Body::PlainTransportDumpResponse(Box::new(plain.dump(
                base,
                transport,
                &self.sockets,
            ))),
            TransportKind::Pipe(pipe) => {
                response::Body::PipeTransportDumpResponse(Box::new(pipe.dump(base, transport, &self.sockets)))
            }
            TransportKind::Direct => {
                response::Body::DirectTransportDumpResponse(Box::new(direct_transport::DumpResponse { base }))
            }
        }
    }

    /// Answers `transport.getStats()`.
    pub fn transport_stats(&mut self, index: TransportIdx, now: Instant) -> response::Body {
        let base = Box::new(self.transport_stats_base(index, now));
        let transport = &self.transports[index];
        match &transport.kind {
            TransportKind::WebRtc(web_rtc) => {
                response::Body::WebRtcTransportGetStatsResponse(Box::new(web_rtc.stats(base, self)))
            }
            TransportKind::Plain(plain) => response::Body::PlainTransportGetStatsResponse(Box::new(
                plain.stats(base, transport, &self.sockets),
            )),
            TransportKind::Pipe(pipe) => response::Body::PipeTransportGetStatsResponse(Box::new(pipe.stats(
                base,
                transport,
                &self.sockets,
            ))),
            TransportKind::Direct => response::Body::DirectTransportGetStatsResponse(Box::new(
                direct_transport::GetStatsResponse { base },
            )),
        }
    }
}
