//! From a Producer's packet to its Consumers: who gets it, under which numbers, and in what order they are served. Writing
//! it is `datagram`'s. Nothing here allocates, locks, logs or formats per packet.

use std::time::Instant;

use arrayvec::ArrayVec;
use net::prefetch::{prefetch, prefetch_behind};
use rtc::codec::layers::Layering;
use rtc::codec::{PayloadInfo, vp8};
use rtc::rtp::{ForwardedElements, RtpHeader};
use rtc::srtp::EXPANDED_KEY_BYTES;
use rtc::stream::send::Repeat;

use super::datagram::Egress;
use super::layers::{Forwarding, Step};
use super::{Consumer, ConsumerStream};
use crate::producer::ProducerStream;
use crate::producer::elements::Values;
use crate::producer::held::HeldPacket;
use crate::table::{ConsumerIdx, ProducerIdx, Table, TransportIdx};
use crate::transport::{MediaSent, Transport};
use crate::worker::Worker;

/// Packets that are forwarded to one Consumer after the other at a time: as many as one message takes.
pub const BATCH: usize = 32;

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
const AHEAD: [usize; 4] = [8, 5, 3, 2];

/// Fetches the state of the Consumers that come next, so that it is at hand when it is their turn. It is what costs most
/// where nothing has touched it since the frame before: more than its lines, the addresses of its pages.
#[inline]
fn fetch_ahead(
    consumers: &Table<ConsumerIdx, Consumer>,
    transports: &Table<TransportIdx, Transport>,
    order: &[ConsumerIdx],
    at: usize,
) {
    let [consumer, transport, behind, entry] = AHEAD.map(|ahead| order.get(at + ahead).copied());
    if let Some(index) = consumer {
        consumers.prefetch(index);
    }
    if let Some(consumer) = transport.and_then(|index| consumers.get(index)) {
        transports.prefetch(consumer.transport);
        consumer.streams.iter().take(1).for_each(|stream| stream.send.show_index(prefetch));
    }
    if let Some(transport) =
        behind.and_then(|index| consumers.get(index)).and_then(|consumer| transports.get(consumer.transport))
    {
        if let Some(srtp) = &transport.srtp {
            srtp.send.show_keys(prefetch, |key| prefetch_behind(key, EXPANDED_KEY_BYTES));
        }
        transport.bwe.iter().for_each(|bwe| bwe.estimator.show_hot(prefetch));
    }
    let Some(consumer) = entry.and_then(|index| consumers.get(index)) else { return };
    consumer.streams.iter().take(1).for_each(|stream| stream.send.show_next(prefetch));
    if let Some(bwe) = transports.get(consumer.transport).and_then(|transport| transport.bwe.as_ref()) {
        bwe.estimator.show_next(prefetch);
    }
}

impl Consumer {
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
