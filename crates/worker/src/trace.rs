//! Trace events: what a driver that asks for them hears about single packets. Nothing here runs unless asked for.

use std::time::Instant;

use rtc::rtcp::SenderInfo;
use rtc::rtp::ExtensionIds;
use rtc::stream::recv::KeyFrameRequest;
use rtc::stream::sent::SentPacket;
use worker_protocol::wire::{common, consumer, notification, producer, rtp_packet};

use crate::consumer::Consumer;
use crate::consumer::egress::Incoming;
use crate::outbox::Outbox;
use crate::table::{ConsumerIdx, ProducerIdx};
use crate::worker::Worker;

fn dump_packet(incoming: &Incoming<'_>) -> Box<rtp_packet::Dump> {
    let header = &incoming.header;
    Box::new(rtp_packet::Dump {
        payload_type: header.payload_type,
        sequence_number: header.sequence.0,
        timestamp: header.timestamp,
        marker: header.marker,
        ssrc: header.ssrc.0,
        is_key_frame: incoming.info.key_frame,
        size: incoming.packet.len() as u64,
        payload_size: incoming.payload.len() as u64,
        spatial_layer: incoming.info.spatial_layer,
        temporal_layer: incoming.info.temporal_layer,
        mid: None,
        rid: None,
        rrid: None,
        wide_sequence_number: None,
    })
}

/// What a received packet says of itself in its header extensions.
fn dump_received(ids: &ExtensionIds, incoming: &Incoming<'_>) -> Box<rtp_packet::Dump> {
    let (header, packet) = (&incoming.header, incoming.packet);
    let mut dump = dump_packet(incoming);
    dump.mid = ids.read_mid(header, packet).map(str::to_owned);
    dump.rid = ids.read_rid(header, packet).map(str::to_owned);
    dump.rrid = ids.read_rrid(header, packet).map(str::to_owned);
    dump.wide_sequence_number = ids.read_transport_wide_cc(header, packet);
    dump
}

/// A packet that a Consumer sent.
pub fn consumer_rtp(
    outbox: &mut Outbox,
    timestamp: u64,
    consumer: &Consumer,
    incoming: &Incoming<'_>,
    sent: &SentPacket,
    is_rtx: bool,
) {
    let mut rtp_packet = dump_packet(incoming);
    rtp_packet.sequence_number = (sent.seq & 0xffff) as u16;
    rtp_packet.timestamp = incoming.header.timestamp.wrapping_add(sent.timestamp_offset);
    let stream = if consumer.streams.len() > 1 { usize::from(sent.origin) } else { 0 };
    rtp_packet.ssrc = consumer.streams.get(stream).map_or(0, |stream| stream.ssrc);
    rtp_packet.marker = sent.marker;
    rtp_packet.mid = (consumer.ids.mid != 0 && !consumer.mid.is_empty()).then(|| consumer.mid.to_string());
    rtp_packet.wide_sequence_number = (consumer.ids.transport_wide_cc != 0).then_some(sent.transport_seq);
    rtp_packet.payload_type = incoming.payload_type;
    let (kind, info) = if consumer.traces.key_frame && incoming.info.key_frame {
        let info = consumer::KeyFrameTraceInfo { rtp_packet, is_rtx };
        (consumer::TraceEventType::KeyFrame, consumer::TraceInfo::KeyFrameTraceInfo(Box::new(info)))
    } else if consumer.traces.rtp {
        let info = consumer::RtpTraceInfo { rtp_packet, is_rtx };
        (consumer::TraceEventType::Rtp, consumer::TraceInfo::RtpTraceInfo(Box::new(info)))
    } else {
        return;
    };
    notify_consumer(outbox, consumer, timestamp, kind, common::TraceDirection::Out, Some(info));
}

fn notify_consumer(
    outbox: &mut Outbox,
    consumer: &Consumer,
    timestamp: u64,
    type_: consumer::TraceEventType,
    direction: common::TraceDirection,
    info: Option<consumer::TraceInfo>,
) {
    let body = consumer::TraceNotification { type_, timestamp, direction, info };
    outbox.notify_media(
        &consumer.id,
        notification::Event::ConsumerTrace,
        notification::Body::ConsumerTraceNotification(Box::new(body)),
    );
}

impl Worker {
    fn notify_producer_trace(
        &mut self,
        index: ProducerIdx,
        type_: producer::TraceEventType,
        direction: common::TraceDirection,
        info: Option<producer::TraceInfo>,
        now: Instant,
    ) {
        let body = producer::TraceNotification { type_, timestamp: self.clock.unix_ms(now), direction, info };
        self.outbox.notify_media(
            &self.producers[index].id,
            notification::Event::ProducerTrace,
            notification::Body::ProducerTraceNotification(Box::new(body)),
        );
    }

    /// A packet that a Producer received.
    pub fn trace_producer_rtp(
        &mut self,
        index: ProducerIdx,
        incoming: &Incoming<'_>,
        is_rtx: bool,
        now: Instant,
    ) {
        let traces = self.producers[index].traces;
        let ids = &self.producers[index].parameters.extensions;
        let (kind, info) = if traces.key_frame && incoming.info.key_frame {
            let info = producer::KeyFrameTraceInfo { rtp_packet: dump_received(ids, incoming), is_rtx };
            (producer::TraceEventType::KeyFrame, producer::TraceInfo::KeyFrameTraceInfo(Box::new(info)))
        } else if traces.rtp {
            let info = producer::RtpTraceInfo { rtp_packet: dump_received(ids, incoming), is_rtx };
            (producer::TraceEventType::Rtp, producer::TraceInfo::RtpTraceInfo(Box::new(info)))
        } else {
            return;
        };
        self.notify_producer_trace(index, kind, common::TraceDirection::In, Some(info), now);
    }

    /// A NACK that a Producer sent.
    pub fn trace_producer_nack(&mut self, index: ProducerIdx, now: Instant) {
        if self.producers[index].traces.nack {
            let kind = producer::TraceEventType::Nack;
            self.notify_producer_trace(index, kind, common::TraceDirection::Out, None, now);
        }
    }

    /// A key frame request that a Producer sent.
    pub fn trace_producer_key_frame_request(
        &mut self,
        index: ProducerIdx,
        ssrc: u32,
        request: KeyFrameRequest,
        now: Instant,
    ) {
        let traces = self.producers[index].traces;
        let (wanted, kind, info) = match request {
            KeyFrameRequest::Pli => (
                traces.pli,
                producer::TraceEventType::Pli,
                producer::TraceInfo::PliTraceInfo(Box::new(producer::PliTraceInfo { ssrc })),
            ),
            KeyFrameRequest::Fir(_) => (
                traces.fir,
                producer::TraceEventType::Fir,
                producer::TraceInfo::FirTraceInfo(Box::new(producer::FirTraceInfo { ssrc })),
            ),
        };
        if wanted {
            self.notify_producer_trace(index, kind, common::TraceDirection::Out, Some(info), now);
        }
    }

    /// A sender report that a Producer received.
    pub fn trace_producer_sender_report(&mut self, index: ProducerIdx, info: &SenderInfo, now: Instant) {
        if !self.producers[index].traces.sr {
            return;
        }
        let body = producer::SrTraceInfo {
            ssrc: info.ssrc.0,
            ntp_sec: (info.ntp.0 >> 32) as u32,
            ntp_frac: (info.ntp.0 & u64::from(u32::MAX)) as u32,
            rtp_ts: info.rtp_timestamp,
            packet_count: info.packet_count,
            octet_count: info.octet_count,
        };
        let info = Some(producer::TraceInfo::SrTraceInfo(Box::new(body)));
        self.notify_producer_trace(
            index,
            producer::TraceEventType::Sr,
            common::TraceDirection::In,
            info,
            now,
        );
    }

    /// A NACK that a Consumer received.
    pub fn trace_consumer_nack(&mut self, index: ConsumerIdx, now: Instant) {
        let consumer = &self.consumers[index];
        if consumer.traces.nack {
            let (timestamp, kind) = (self.clock.unix_ms(now), consumer::TraceEventType::Nack);
            notify_consumer(&mut self.outbox, consumer, timestamp, kind, common::TraceDirection::In, None);
        }
    }

    /// A key frame request that a Consumer received.
    pub fn trace_consumer_key_frame_request(
        &mut self,
        index: ConsumerIdx,
        ssrc: u32,
        request: KeyFrameRequest,
        now: Instant,
    ) {
        let consumer = &self.consumers[index];
        let (wanted, kind, info) = match request {
            KeyFrameRequest::Pli => (
                consumer.traces.pli,
                consumer::TraceEventType::Pli,
                consumer::TraceInfo::PliTraceInfo(Box::new(consumer::PliTraceInfo { ssrc })),
            ),
            KeyFrameRequest::Fir(_) => (
                consumer.traces.fir,
                consumer::TraceEventType::Fir,
                consumer::TraceInfo::FirTraceInfo(Box::new(consumer::FirTraceInfo { ssrc })),
            ),
        };
        if wanted {
            let timestamp = self.clock.unix_ms(now);
            notify_consumer(
                &mut self.outbox,
                consumer,
                timestamp,
                kind,
                common::TraceDirection::In,
                Some(info),
            );
        }
    }
}
