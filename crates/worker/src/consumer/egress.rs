//! From a Producer's packet to its Consumers' datagrams: who gets it, under which numbers, written into the send
//! arena. Nothing here allocates, locks, logs or formats per packet.

use std::time::Instant;

use arrayvec::ArrayVec;
use net::prefetch::{prefetch, prefetch_behind};
use rtc::codec::layers::Layering;
use rtc::codec::{PayloadInfo, vp8};
use rtc::rtp::{
    EgressHeader, ExtensionKind, ForwardedElements, RtpHeader, SeqNo, Ssrc, abs_send_time_from_epoch, rtx,
    write_header,
};
use rtc::srtp::EXPANDED_KEY_BYTES;
use rtc::stream::send::{OutgoingPacket, Repeat};
use rtc::stream::sent::SentPacket;
use worker_protocol::wire::{consumer as wire, notification};

use super::layers::{Forwarding, Step};
use super::{Consumer, ConsumerStream};
use crate::clock::Clock;
use crate::counters::Counters;
use crate::outbox::Outbox;
use crate::producer::ProducerStream;
use crate::producer::elements::Values;
use crate::producer::held::HeldPacket;
use crate::sockets::Sockets;
use crate::table::{ConsumerIdx, ProducerIdx, Table, TransportIdx};
use crate::transport::{MediaSent, Transport, TransportKind};
use crate::worker::Worker;

/// Packets that are forwarded to one Consumer after the other at a time: as many as one message takes.
pub const BATCH: usize = 32;

/// The longest header that is written: twelve bytes, fifteen sources, and extensions.
const MAX_HEADER: usize = 512;

/// A Producer's packet on its way to the Consumers.
#[derive(Debug)]
pub struct Incoming<'p> {
    /// The whole plaintext packet.
    pub packet: &'p [u8],
    /// Its header.
    pub header: RtpHeader,
    /// Its payload, without padding.
    pub payload: &'p [u8],
    /// Bytes of padding with which it is as long as its neighbours, for receivers to whom that is no matter.
    pub evening: u8,
    /// The payload with those behind it.
    pub evened: &'p [u8],
    /// Which encoding it is of.
    pub encoding: u8,
    /// Its extended sequence number.
    pub seq: u64,
    /// Whether no newer packet came before.
    pub newest: bool,
    /// Its payload type inside the Router.
    pub payload_type: u8,
    /// What its payload says.
    pub info: PayloadInfo,
    /// Its VP8 descriptor.
    pub descriptor: Option<vp8::Descriptor>,
    /// Its frame in a layered stream.
    pub layering: Layering,
    /// It announces what packets before it could not be read without.
    pub announces: bool,
    /// Header extensions that are passed on.
    pub forwarded: ForwardedElements<'p>,
    /// Values that take the place of some of these.
    pub values: Values,
}

/// What else a packet caused at a Consumer, done once all have got it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Other layers are forwarded now.
    LayersChanged,
    /// A stream was started with this packet: packets behind it that came earlier can follow.
    Started {
        /// The extended sequence number of the packet.
        seq: u64,
    },
    /// This packet tells how others that came before it are to be read: they can follow.
    Announced {
        /// The extended sequence number of the packet.
        seq: u64,
    },
}

/// What the writing of datagrams needs of the worker.
struct Egress<'w> {
    sockets: &'w mut Sockets,
    outbox: &'w mut Outbox,
    counters: &'w mut Counters,
    payload: &'w mut Vec<u8>,
    clock: Clock,
    now: Instant,
}

/// What a Consumer decided about a packet.
#[derive(Debug, Clone, Copy)]
pub struct Admission {
    /// Which of its streams it goes out on.
    pub stream: usize,
    /// Its extended sequence number there.
    pub seq: u64,
    /// What is added to its timestamp.
    pub timestamp_offset: u32,
    /// VP8 picture numbers, where they are rewritten.
    pub picture: Option<vp8::Picture>,
    /// The marker bit that it gets.
    pub marker: bool,
    /// What else it caused.
    pub effect: Option<Effect>,
}

impl Worker {
    /// Gives packets that one Producer received, and that lie in `arena`, to all of its Consumers: to one after the other
    /// all of them, so that what goes to one peer forms a run, and what belongs to one Consumer is touched once.
    pub fn forward(&mut self, index: ProducerIdx, packets: &[HeldPacket], arena: &[u8], now: Instant) {
        for (chunk, first) in packets.chunks(BATCH).zip((0..).step_by(BATCH)) {
            self.forward_chunk(index, chunk, first, arena, now);
            // What a packet caused may follow only when all Consumers have got it, and before the next chunk.
            let mut effects = std::mem::take(&mut self.scratch.effects);
            for (consumer, effect, place) in effects.drain(..) {
                let Some(packet) = packets.get(place) else { continue };
                let later = packets.get(place + 1..).unwrap_or_default();
                self.apply_effect(index, packet.position, consumer, effect, later, now);
            }
            self.scratch.effects = effects;
        }
    }

    fn forward_chunk(
        &mut self,
        index: ProducerIdx,
        chunk: &[HeldPacket],
        first: usize,
        arena: &[u8],
        now: Instant,
    ) {
        let producer = &self.producers[index];
        let batch: ArrayVec<Incoming<'_>, BATCH> =
            chunk.iter().filter_map(|packet| packet.incoming(producer, arena)).collect();
        let mut egress = Egress {
            sockets: &mut self.sockets,
            outbox: &mut self.outbox,
            counters: &mut self.counters,
            payload: &mut self.scratch.payload,
            clock: self.clock,
            now,
        };
        for (at, &consumer_idx) in producer.consumers.iter().enumerate() {
            fetch_ahead(&self.consumers, &self.transports, &producer.consumers, at);
            let Some(consumer) = self.consumers.get_mut(consumer_idx) else { continue };
            if !consumer.is_active() {
                continue;
            }
            let Some(transport) = self.transports.get_mut(consumer.transport) else { continue };
            let mut sent = MediaSent::default();
            for (incoming, place) in batch.iter().zip(first..) {
                let Some(admission) = consumer.admit(incoming, &producer.streams, now) else { continue };
                egress.forward_one(consumer, transport, incoming, &admission, &mut sent);
                if let Some(effect) = admission.effect {
                    self.scratch.effects.push((consumer_idx, effect, place));
                }
            }
            transport.media_sent(&sent, now);
            egress.counters.rtp_forwarded += sent.packets;
            if egress.sockets.is_full() {
                egress.sockets.flush();
            }
        }
    }

    fn apply_effect(
        &mut self,
        producer: ProducerIdx,
        position: usize,
        consumer: ConsumerIdx,
        effect: Effect,
        later: &[HeldPacket],
        now: Instant,
    ) {
        match effect {
            Effect::LayersChanged => {
                self.notify_consumer_layers(consumer);
                self.notify_consumer_score(consumer);
            }
            Effect::Started { seq } => {
                if self.consumers[consumer].forwarding.has_layers() {
                    self.notify_consumer_layers(consumer);
                    self.notify_consumer_score(consumer);
                }
                self.forward_early_packets(producer, position, consumer, seq, later, now);
            }
            Effect::Announced { seq } => {
                self.forward_early_packets(producer, position, consumer, seq, later, now);
            }
        }
    }

    /// Packets of a key frame may overtake its first one. A Consumer that starts with it got none of them, but they are
    /// stored. Those of `later` came after it.
    fn forward_early_packets(
        &mut self,
        producer: ProducerIdx,
        position: usize,
        consumer: ConsumerIdx,
        first: u64,
        later: &[HeldPacket],
        now: Instant,
    ) {
        let producer = &self.producers[producer];
        let stream = &producer.streams[position];
        let Some(newest) = stream.recv.newest_seq() else { return };
        let Some(consumer) = self.consumers.get_mut(consumer) else { return };
        let Some(transport) = self.transports.get_mut(consumer.transport) else { return };
        let mut egress = Egress {
            sockets: &mut self.sockets,
            outbox: &mut self.outbox,
            counters: &mut self.counters,
            payload: &mut self.scratch.payload,
            clock: self.clock,
            now,
        };
        // A key frame of more packets than this in disorder is not worth the search.
        let mut sent = MediaSent::default();
        for seq in first + 1..=newest.min(first + 64) {
            if later.iter().any(|packet| packet.position == position && packet.seq == seq) {
                continue;
            }
            let Some(stored) = stream.store.get(seq) else { continue };
            let Some(incoming) = restore(producer, stream, stored.bytes, seq) else { continue };
            if let Some(admission) = consumer.admit(&incoming, &producer.streams, now) {
                egress.forward_one(consumer, transport, &incoming, &admission, &mut sent);
            }
        }
        transport.media_sent(&sent, now);
        egress.counters.rtp_forwarded += sent.packets;
    }

    /// Sends again what a receiver asked for.
    pub fn repeat(&mut self, index: ConsumerIdx, position: usize, repeats: &[Repeat], now: Instant) {
        let Some(consumer) = self.consumers.get_mut(index) else { return };
        let Some(producer) = self.producers.get(consumer.producer) else { return };
        let Some(transport) = self.transports.get_mut(consumer.transport) else { return };
        let mut egress = Egress {
            sockets: &mut self.sockets,
            outbox: &mut self.outbox,
            counters: &mut self.counters,
            payload: &mut self.scratch.payload,
            clock: self.clock,
            now,
        };
        for repeat in repeats {
            let stream = producer.stream(repeat.packet.origin);
            let incoming = stream.and_then(|stream| {
                let stored = stream.store.get(repeat.packet.origin_seq)?;
                restore(producer, stream, stored.bytes, repeat.packet.origin_seq)
            });
            match incoming {
                Some(incoming) => egress.repeat_one(consumer, position, transport, &incoming, repeat),
                None => egress.counters.repeats_gone += 1,
            }
        }
    }
}

/// Looks at a stored packet again, as it was looked at when it came.
fn restore<'p>(
    producer: &crate::producer::Producer,
    stream: &ProducerStream,
    packet: &'p [u8],
    seq: u64,
) -> Option<Incoming<'p>> {
    let header = RtpHeader::parse(packet).ok()?;
    let payload = header.payload(packet);
    let found = stream.layers.look(stream.codec, &header, packet, payload);
    let forwarded = producer.parameters.extensions.forwarded(&header, packet);
    Some(Incoming {
        packet,
        header,
        payload,
        evening: 0,
        evened: payload,
        encoding: stream.encoding_idx,
        seq,
        newest: false,
        payload_type: producer.mapped_payload_types[usize::from(header.payload_type & 0x7f)]?,
        info: found.info,
        descriptor: found.vp8,
        layering: found.layering,
        announces: found.announces,
        values: stream.elements.values(seq, &forwarded),
        forwarded,
    })
}

/// How far ahead of its turn each part of a Consumer's state is fetched: what leads to it comes before it.
const AHEAD: [usize; 5] = [8, 5, 3, 2, 1];

/// Fetches the state of the Consumers that come next, so that it is at hand when it is their turn. It is what costs most
/// where nothing has touched it since the frame before.
#[inline]
fn fetch_ahead(
    consumers: &Table<ConsumerIdx, Consumer>,
    transports: &Table<TransportIdx, Transport>,
    order: &[ConsumerIdx],
    at: usize,
) {
    let [slot, consumer, stream, transport, entry] = AHEAD.map(|ahead| order.get(at + ahead).copied());
    if let Some(index) = slot {
        consumers.prefetch(index);
    }
    if let Some(consumer) = consumer.and_then(|index| consumers.get(index)) {
        prefetch(&consumer.transport);
        prefetch(&consumer.streams);
        prefetch(&consumer.forwarding);
        prefetch(&consumer.payload_types);
        prefetch(&consumer.ids);
        prefetch(&consumer.mid);
        prefetch(&consumer.paused);
    }
    if let Some(consumer) = stream.and_then(|index| consumers.get(index)) {
        transports.prefetch(consumer.transport);
        consumer.streams.first().into_iter().for_each(prefetch);
        prefetch(consumer.mid.as_str());
    }
    if let Some(transport) = transport
        .and_then(|index| consumers.get(index))
        .and_then(|consumer| transports.get(consumer.transport))
    {
        prefetch(&transport.path);
        prefetch(&transport.run);
        prefetch(&transport.kind);
        transport.srtp.iter().for_each(|srtp| prefetch(&srtp.send));
        transport.bwe.iter().for_each(|bwe| bwe.estimator.show_hot(prefetch));
        prefetch(&transport.stats.send);
        prefetch(&transport.stats.rtp_send);
    }
    let Some(consumer) = entry.and_then(|index| consumers.get(index)) else { return };
    if let Some(stream) = consumer.streams.first() {
        stream.send.show_next(prefetch);
    }
    if let Some(transport) = transports.get(consumer.transport) {
        if let Some(srtp) = &transport.srtp {
            srtp.send.show_keys(prefetch, |key| prefetch_behind(key, EXPANDED_KEY_BYTES));
        }
        transport.bwe.iter().for_each(|bwe| bwe.estimator.show_next(prefetch));
    }
}

impl Consumer {
    /// Whether its receiver may get packets with a little padding: browsers skip it; what the other end of a pipe or a
    /// plain transport makes of it is not ours to say.
    fn takes_padding(&self, transport: &Transport) -> bool {
        matches!(transport.kind, TransportKind::WebRtc(_)) && !matches!(self.forwarding, Forwarding::Pipe)
    }

    /// Whether and how a packet goes out.
    fn admit(
        &mut self,
        incoming: &Incoming<'_>,
        streams: &[ProducerStream],
        now: Instant,
    ) -> Option<Admission> {
        let position = match &mut self.forwarding {
            Forwarding::Pipe => usize::from(incoming.encoding),
            Forwarding::Simple => 0,
            Forwarding::Svc(svc) => {
                let stream = self.streams.first_mut()?;
                return svc.admit(stream, incoming, self.payload_types);
            }
            Forwarding::Simulcast(simulcast) => {
                let stream = self.streams.first_mut()?;
                return simulcast.admit(stream, incoming, streams, self.payload_types, now);
            }
        };
        let stream = self.streams.get_mut(position)?;
        if self.payload_types >> incoming.payload_type & 1 == 0 || incoming.payload.is_empty() {
            stream.sequence.drop_input(incoming.seq);
            return None;
        }
        let mut effect = None;
        if stream.sync_required {
            let codec = streams.iter().find(|stream| stream.encoding_idx == incoming.encoding)?.codec;
            if codec.has_key_frames() && !incoming.info.key_frame {
                return None;
            }
            stream.sync_required = false;
            stream.sequence.sync(incoming.seq);
            effect = Some(Effect::Started { seq: incoming.seq });
        } else if self.ignore_dtx && incoming.info.dtx {
            stream.sequence.drop_input(incoming.seq);
            return None;
        }
        let seq = stream.sequence.map(incoming.seq)?;
        Some(Admission {
            stream: position,
            seq,
            timestamp_offset: 0,
            picture: None,
            marker: incoming.header.marker,
            effect,
        })
    }
}

impl Egress<'_> {
    fn forward_one(
        &mut self,
        consumer: &mut Consumer,
        transport: &mut Transport,
        incoming: &Incoming<'_>,
        admission: &Admission,
        tally: &mut MediaSent,
    ) {
        let picture = admission.picture.unwrap_or_default();
        let [high, low] = picture.picture_id.to_be_bytes();
        let sent = SentPacket {
            seq: admission.seq,
            origin: incoming.encoding,
            origin_seq: incoming.seq,
            timestamp_offset: admission.timestamp_offset,
            codec: [high, low, picture.tl0_picture_index],
            transport_seq: if consumer.ids.transport_wide_cc == 0 {
                0
            } else {
                transport.next_transport_seq()
            },
            abs_send_time: if consumer.ids.abs_send_time == 0 {
                0
            } else {
                abs_send_time_from_epoch(self.clock.unix(self.now))
            },
            marker: admission.marker,
            padding: if consumer.takes_padding(transport) { incoming.evening } else { 0 },
        };
        let payload_len = incoming.payload.len();
        let outgoing = OutgoingPacket {
            sent,
            timestamp: incoming.header.timestamp.wrapping_add(sent.timestamp_offset),
            len: usize::from(incoming.header.header_len) + payload_len + usize::from(sent.padding),
            payload_len,
        };
        let Some(stream) = consumer.streams.get_mut(admission.stream) else { return };
        if !stream.send.sent(&outgoing, self.now) {
            self.counters.egress_late += 1;
            return;
        }
        let target = Target {
            ssrc: stream.ssrc,
            payload_type: incoming.payload_type,
            index: sent.seq,
            osn: None,
            rewrites_picture: admission.picture.is_some(),
        };
        if let Some((plain, written)) = self.transmit(consumer, transport, incoming, &sent, target) {
            tally.packets += 1;
            tally.plain_bytes += plain;
            tally.datagram_bytes += written;
            if consumer.ids.transport_wide_cc != 0 {
                transport.note_sent(sent.transport_seq, plain, self.now);
            }
        }
        if consumer.traces.rtp || consumer.traces.key_frame {
            self.trace(consumer, incoming, &sent, false);
        }
    }

    fn repeat_one(
        &mut self,
        consumer: &Consumer,
        position: usize,
        transport: &mut Transport,
        incoming: &Incoming<'_>,
        repeat: &Repeat,
    ) {
        let Some(stream) = consumer.streams.get(position) else { return };
        let rewrites_picture = consumer.forwarding.rewrites_pictures();
        let mut sent = repeat.packet;
        let target = match (repeat.rtx_seq, stream.rtx) {
            (Some(rtx_seq), Some(rtx)) => {
                // A packet of its own: it gets its own stamps, and needs no neighbours' length.
                sent.padding = 0;
                if consumer.ids.transport_wide_cc != 0 {
                    sent.transport_seq = transport.next_transport_seq();
                }
                if consumer.ids.abs_send_time != 0 {
                    sent.abs_send_time = abs_send_time_from_epoch(self.clock.unix(self.now));
                }
                Target {
                    ssrc: rtx.ssrc.0,
                    payload_type: rtx.payload_type,
                    index: rtx_seq,
                    osn: Some(SeqNo::from_extended(sent.seq)),
                    rewrites_picture,
                }
            }
            // The very packet again, stamps included: its SRTP index was used with these bytes and no others.
            _ => Target {
                ssrc: stream.ssrc,
                payload_type: incoming.payload_type,
                index: sent.seq,
                osn: None,
                rewrites_picture,
            },
        };
        if let Some((plain, written)) = self.transmit(consumer, transport, incoming, &sent, target) {
            transport.stats.rtx_send.add(plain, self.now);
            transport.data_sent(written, self.now);
            transport.bwe.iter_mut().for_each(|bwe| bwe.repeats.spend(written));
            if consumer.ids.transport_wide_cc != 0 && target.osn.is_some() {
                transport.note_sent(sent.transport_seq, plain, self.now);
            }
        }
        if consumer.traces.rtp || consumer.traces.key_frame {
            self.trace(consumer, incoming, &sent, target.osn.is_some());
        }
    }

    /// Writes one datagram; returns the lengths of the plaintext packet and of the datagram.
    fn transmit(
        &mut self,
        consumer: &Consumer,
        transport: &mut Transport,
        incoming: &Incoming<'_>,
        sent: &SentPacket,
        target: Target,
    ) -> Option<(usize, usize)> {
        let mut header = [0; MAX_HEADER];
        let header = build_header(&mut header, consumer, incoming, sent, &target)?;
        let payload = rewritten_payload(self.payload, incoming, sent, &target);
        let plain_len = header.len() + payload.len();
        let Some(path) = transport.path else {
            if matches!(transport.kind, TransportKind::Direct) {
                let mut data = Vec::with_capacity(plain_len);
                data.extend_from_slice(header);
                data.extend_from_slice(payload);
                self.outbox.notify_media(
                    &consumer.id,
                    notification::Event::ConsumerRtp,
                    notification::Body::ConsumerRtpNotification(Box::new(wire::RtpNotification { data })),
                );
                return Some((plain_len, plain_len));
            }
            return None;
        };
        let written = match &transport.srtp {
            Some(srtp) => {
                let space =
                    self.sockets.reserve(path.socket, plain_len + srtp.send.profile().rtp_overhead())?;
                match srtp.send.protect_rtp(header, payload, target.index, space) {
                    Ok(written) => written,
                    Err(_) => {
                        self.counters.egress_errors += 1;
                        return None;
                    }
                }
            }
            None if matches!(transport.kind, TransportKind::WebRtc(_)) => {
                self.counters.egress_unprotected += 1;
                return None;
            }
            None => {
                let space = self.sockets.reserve(path.socket, plain_len)?;
                space.get_mut(..header.len())?.copy_from_slice(header);
                space.get_mut(header.len()..plain_len)?.copy_from_slice(payload);
                plain_len
            }
        };
        self.sockets.commit_to(path, written, &mut transport.run);
        Some((plain_len, written))
    }

    fn trace(&mut self, consumer: &Consumer, incoming: &Incoming<'_>, sent: &SentPacket, is_rtx: bool) {
        crate::trace::consumer_rtp(
            self.outbox,
            self.clock.unix_ms(self.now),
            consumer,
            incoming,
            sent,
            is_rtx,
        );
    }
}

/// The identity that a datagram gets.
#[derive(Debug, Clone, Copy)]
struct Target {
    ssrc: u32,
    payload_type: u8,
    /// Extended sequence number of that SSRC, which is the SRTP index.
    index: u64,
    /// The original sequence number, for RTX.
    osn: Option<SeqNo>,
    rewrites_picture: bool,
}

fn build_header<'o>(
    out: &'o mut [u8; MAX_HEADER],
    consumer: &Consumer,
    incoming: &Incoming<'_>,
    sent: &SentPacket,
    target: &Target,
) -> Option<&'o [u8]> {
    let rewritten;
    let forwarded: &[(ExtensionKind, &[u8])] = if incoming.values.is_empty() {
        &incoming.forwarded
    } else {
        rewritten = incoming.values.put(&incoming.forwarded);
        &rewritten
    };
    let written = write_header(
        out,
        &EgressHeader {
            marker: sent.marker,
            padding: sent.padding > 0,
            payload_type: target.payload_type,
            sequence: SeqNo::from_extended(target.index),
            timestamp: incoming.header.timestamp.wrapping_add(sent.timestamp_offset),
            ssrc: Ssrc(target.ssrc),
            csrcs: incoming.header.csrcs(incoming.packet),
            ids: &consumer.ids,
            mid: &consumer.mid,
            forwarded,
        },
    )
    .ok()?;
    written.stamp_abs_send_time(out, sent.abs_send_time);
    written.stamp_transport_wide_cc(out, sent.transport_seq);
    out.get(..written.len)
}

/// The payload as it goes out: the received one, unless its descriptor is rewritten or an original sequence number goes
/// before it.
fn rewritten_payload<'o>(
    buffer: &'o mut Vec<u8>,
    incoming: &Incoming<'o>,
    sent: &SentPacket,
    target: &Target,
) -> &'o [u8] {
    let descriptor = incoming.descriptor.as_ref().filter(|_| target.rewrites_picture);
    let as_it_came = descriptor.is_none() && target.osn.is_none();
    if as_it_came && sent.padding == 0 {
        return incoming.payload;
    }
    if as_it_came && sent.padding == incoming.evening {
        return incoming.evened;
    }
    buffer.clear();
    if let Some(osn) = target.osn {
        buffer.extend_from_slice(&rtx::osn(osn));
    }
    match descriptor {
        Some(descriptor) => {
            let [high, low, tl0_picture_index] = sent.codec;
            let picture = vp8::Picture { picture_id: u16::from_be_bytes([high, low]), tl0_picture_index };
            let mut written = [0; vp8::MAX_DESCRIPTOR_LEN];
            let len = descriptor.write(incoming.payload, picture, &mut written);
            buffer.extend_from_slice(written.get(..len).unwrap_or_default());
            buffer.extend_from_slice(incoming.payload.get(usize::from(descriptor.len)..).unwrap_or_default());
        }
        None => buffer.extend_from_slice(incoming.payload),
    }
    if let Some(zeros) = sent.padding.checked_sub(1) {
        buffer.resize(buffer.len() + usize::from(zeros), 0);
        buffer.push(sent.padding);
    }
    buffer
}

/// A stream, for a Consumer that starts or goes on.
pub fn require_sync(streams: &mut [ConsumerStream]) {
    for stream in streams {
        stream.sync_required = true;
    }
}

/// What a step of simulcast means for a packet.
pub fn admission(stream: &mut ConsumerStream, incoming: &Incoming<'_>, step: Step) -> Option<Admission> {
    let seq = stream.sequence.map(incoming.seq)?;
    Some(Admission {
        stream: 0,
        seq,
        timestamp_offset: step.timestamp_offset,
        picture: step.picture,
        marker: incoming.header.marker,
        effect: step.effect,
    })
}
