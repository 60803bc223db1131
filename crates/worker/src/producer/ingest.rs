//! A packet's way through its Producer: its stream (RFC 8852 where only the RID tells), the receive statistics, the
//! store, and on to the Consumers.

use std::time::Instant;

use rtc::codec;
use rtc::rtp::{RtpError, RtpHeader, Ssrc, rtx};
use rtc::stream::RtxParams;
use rtc::stream::key_frame::KeyFrameRequests;
use rtc::stream::recv::{IncomingPacket, RecvEvent, RecvStream, Verdict};
use rtc::stream::store::PacketStore;
use worker_protocol::wire::{notification, producer as wire, rtp_parameters as rtp};

use super::elements::OwnElements;
use super::layering::{Activity, LayerSource};
use super::{Producer, ProducerStream};
use crate::consumer::egress::Incoming;
use crate::consumer::stream_params;
use crate::params::CodecKind;
use crate::table::{ProducerIdx, TransportIdx};
use crate::worker::Worker;

/// What became of a received packet, for the Transport's statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ingest {
    /// It was of a media stream.
    Media,
    /// It was of a repair stream.
    Retransmission,
    /// It belongs to no stream.
    Discarded,
}

/// Which stream a packet belongs to.
#[derive(Debug, Clone, Copy)]
struct Found {
    position: usize,
    rtx: bool,
    new: bool,
}

impl CodecKind {
    /// The codec as the payload inspection knows it.
    pub fn payload_kind(self) -> codec::CodecKind {
        match self {
            Self::Opus => codec::CodecKind::Opus,
            Self::MultiOpus => codec::CodecKind::MultiOpus,
            Self::Vp8 => codec::CodecKind::Vp8,
            Self::Vp9 => codec::CodecKind::Vp9,
            Self::H264 => codec::CodecKind::H264,
            Self::Av1 => codec::CodecKind::Av1,
            Self::Rtx => codec::CodecKind::Rtx,
            Self::OtherAudio | Self::Complementary | Self::OtherFeature => codec::CodecKind::OtherAudio,
        }
    }
}

impl Producer {
    fn find_stream(&self, ssrc: u32) -> Option<Found> {
        self.streams.iter().enumerate().find_map(|(position, stream)| {
            if stream.ssrc == ssrc {
                return Some(Found { position, rtx: false, new: false });
            }
            let rtx = stream.recv.params().rtx.is_some_and(|rtx| rtx.ssrc == Ssrc(ssrc));
            rtx.then_some(Found { position, rtx: true, new: false })
        })
    }

    /// The stream of an SSRC that was not seen before, if the packet tells which it is.
    fn learn_stream(&mut self, header: &RtpHeader, packet: &[u8], now: Instant) -> Option<Found> {
        let ssrc = header.ssrc.0;
        let ids = &self.parameters.extensions;
        let rid = ids.read_rid(header, packet).or_else(|| ids.read_rrid(header, packet));
        let encodings = &self.parameters.encodings;
        let single = encodings.len() == 1;
        let (encoding_idx, rtx) = encodings.iter().enumerate().find_map(|(index, encoding)| {
            let media = encoding.payload_type == header.payload_type;
            let rtx = self
                .parameters
                .rtx_codec(encoding)
                .is_some_and(|rtx| rtx.payload_type == header.payload_type);
            let by_ssrc = (media && encoding.ssrc == Some(ssrc)) || (rtx && encoding.rtx_ssrc == Some(ssrc));
            let by_rid = rid.is_some() && encoding.rid.as_deref() == rid;
            let by_being_alone = single && encoding.ssrc.is_none() && encoding.rid.is_none() && rid.is_none();
            ((media || rtx) && (by_ssrc || by_rid || by_being_alone)).then_some((index, rtx))
        })?;
        let known = self.streams.iter().position(|stream| usize::from(stream.encoding_idx) == encoding_idx);
        match (known, rtx) {
            // A second media SSRC for one encoding is refused: the first one is followed until the Producer closes.
            (Some(_), false) | (None, true) => None,
            (Some(position), true) => {
                let stream = &mut self.streams[position];
                if stream.recv.params().rtx.is_some() {
                    return None;
                }
                stream.recv.set_rtx(RtxParams { ssrc: Ssrc(ssrc), payload_type: header.payload_type });
                Some(Found { position, rtx: true, new: false })
            }
            (None, false) => {
                self.create_stream(encoding_idx, ssrc, now);
                Some(Found { position: self.streams.len() - 1, rtx: false, new: true })
            }
        }
    }

    fn create_stream(&mut self, encoding_idx: usize, ssrc: u32, now: Instant) {
        let encoding = &self.parameters.encodings[encoding_idx];
        let codec = self.parameters.codec(encoding);
        let rtx = self
            .parameters
            .rtx_codec(encoding)
            .zip(encoding.rtx_ssrc.filter(|ssrc| *ssrc != 0))
            .map(|(codec, ssrc)| RtxParams { ssrc: Ssrc(ssrc), payload_type: codec.payload_type });
        let params = stream_params(codec, encoding, encoding_idx, ssrc, &self.parameters.cname, rtx);
        let mapped_ssrc = self.mapping.encodings.get(encoding_idx).map_or(0, |encoding| encoding.mapped_ssrc);
        let mut recv = RecvStream::new(params, self.stream_type == rtp::Type::Simulcast, now);
        if self.paused {
            recv.pause();
        }
        let stream = ProducerStream {
            encoding_idx: u8::try_from(encoding_idx).unwrap_or(u8::MAX),
            ssrc,
            mapped_ssrc,
            codec: codec.kind,
            elements: OwnElements::new(self.numbers_packets),
            layers: LayerSource::new(&self.parameters, encoding),
            dependency: encoding.dependency,
            activity: Activity::default(),
            recv,
            store: PacketStore::new(self.store_limits()),
            key_frames: KeyFrameRequests::new(self.key_frame_request_delay),
            active_since: now,
        };
        self.streams.push(stream);
    }
}

impl Worker {
    /// A plaintext packet of a Producer.
    pub fn producer_rtp(
        &mut self,
        index: ProducerIdx,
        packet: &mut [u8],
        header: RtpHeader,
        now: Instant,
    ) -> Ingest {
        let producer = &mut self.producers[index];
        let found =
            producer.find_stream(header.ssrc.0).or_else(|| producer.learn_stream(&header, packet, now));
        let Some(found) = found else {
            self.counters.rtp_no_stream += 1;
            return Ingest::Discarded;
        };
        let result = if found.rtx { Ingest::Retransmission } else { Ingest::Media };
        let stream = &mut producer.streams[found.position];
        let (packet, header, repair) = if found.rtx {
            let payload_type = stream.recv.params().payload_type;
            let restored = rtx::restore(packet, &header, Ssrc(stream.ssrc), payload_type)
                .and_then(|media| Ok((RtpHeader::parse(media)?, media)));
            match restored {
                Ok((media_header, media)) => {
                    (media, media_header, Some((header.sequence.0, header.payload_type)))
                }
                Err(RtpError::RtxEmpty) => {
                    self.counters.rtx_empty += 1;
                    return result;
                }
                Err(_) => {
                    self.counters.rtp_malformed += 1;
                    return Ingest::Discarded;
                }
            }
        } else {
            (packet, header, None)
        };
        let packet: &[u8] = packet;
        let payload = header.payload(packet);
        let look = stream.layers.read(stream.codec, &header, packet, payload);
        let info = look.info;
        let incoming = IncomingPacket {
            seq: header.sequence.0,
            timestamp: header.timestamp,
            len: packet.len(),
            payload_len: payload.len(),
            key_frame: info.key_frame,
            spatial_layer: info.spatial_layer,
            temporal_layer: info.temporal_layer,
        };
        let verdict = match repair {
            None => stream.recv.receive(&incoming, now),
            Some((rtx_seq, payload_type)) => stream.recv.receive_rtx(rtx_seq, payload_type, &incoming, now),
        };
        let accepted = match verdict {
            Verdict::Accepted(accepted) => accepted,
            refused => {
                match refused {
                    Verdict::Duplicate => self.counters.rtp_duplicates += 1,
                    Verdict::TooOld => self.counters.rtp_too_old += 1,
                    _ => self.counters.rtp_invalid += 1,
                }
                if found.new {
                    self.new_stream(index, now);
                }
                return result;
            }
        };
        if info.key_frame {
            stream.key_frames.key_frame_received(now);
        } else if found.new && !producer.paused && producer.kind == rtp::MediaKind::Video {
            // The packets before this one may have been lost, the key frame among them.
            stream.key_frames.force();
        }
        let next = [stream.recv.next_timeout(), stream.key_frames.next_timeout()].into_iter().flatten().min();
        let encoding = stream.encoding_idx;
        let paused = producer.paused;
        let timer = producer.timer;
        if found.new {
            self.new_stream(index, now);
            self.timers.set_no_later_than(timer, now);
        } else if let Some(next) = next {
            self.timers.set_no_later_than(timer, next);
        }
        if accepted.restarted {
            self.release(index, now);
            self.restart_consumers(index, encoding, now);
        }
        self.take_stream_events(index, found.position, now);
        if paused {
            return result;
        }
        let producer = &mut self.producers[index];
        let Some(payload_type) = producer.mapped_payload_types[usize::from(header.payload_type & 0x7f)]
        else {
            self.counters.rtp_unmapped_payload_type += 1;
            return Ingest::Discarded;
        };
        let stream = &mut producer.streams[found.position];
        if producer.nack_consumers > 0 && !payload.is_empty() {
            let start = usize::from(header.header_len);
            stream.store.insert(accepted.seq, packet, start..start + payload.len(), now);
        }
        let forwarded = producer.parameters.extensions.forwarded(&header, packet);
        let other_layers = stream.activity.note(info.spatial_layer, header.timestamp);
        let incoming = Incoming {
            packet,
            header,
            payload,
            evening: 0,
            evened: payload,
            encoding: stream.encoding_idx,
            seq: accepted.seq,
            newest: accepted.newest,
            payload_type,
            info,
            descriptor: look.vp8,
            layering: look.layering,
            announces: look.announces,
            values: stream.elements.values(accepted.seq, &forwarded),
            forwarded,
        };
        if other_layers {
            self.spatial_layers_changed(index, now);
        }
        self.notify_video_orientation(index, &incoming);
        self.trace_producer_rtp(index, &incoming, found.rtx, now);
        self.hold(index, found.position, &incoming, now);
        self.observe(index, &incoming, now);
        result
    }

    /// A sender numbers a stream anew: what follows belongs to nothing that Consumers got before, so that they start
    /// over with a key frame.
    fn restart_consumers(&mut self, index: ProducerIdx, encoding: u8, now: Instant) {
        for consumer in self.producers[index].consumers.clone() {
            let consumer = &mut self.consumers[consumer];
            let streams = match consumer.forwarding.current_encoding() {
                Some(current) if current == encoding => consumer.streams.first_mut(),
                Some(_) => None,
                None => consumer.streams.get_mut(usize::from(encoding)),
            };
            if let Some(stream) = streams {
                stream.sync_required = true;
            }
        }
        self.request_key_frame(index, encoding, now);
    }

    /// Other spatial layers of a stream flow than before: what Consumers can get has changed.
    fn spatial_layers_changed(&mut self, index: ProducerIdx, now: Instant) {
        if self.producers[index].stream_type != rtp::Type::Svc {
            return;
        }
        for consumer in self.producers[index].consumers.clone() {
            self.update_layers(consumer, now);
        }
    }

    /// A stream appeared: Consumers may have waited for it.
    fn new_stream(&mut self, index: ProducerIdx, now: Instant) {
        for consumer in self.producers[index].consumers.clone() {
            self.notify_consumer_score(consumer);
            self.update_layers(consumer, now);
        }
    }

    /// Passes on what a stream noticed by itself.
    fn take_stream_events(&mut self, index: ProducerIdx, position: usize, now: Instant) {
        while let Some(event) =
            self.producers[index].streams.get_mut(position).and_then(|s| s.recv.poll_event())
        {
            match event {
                RecvEvent::KeyFrameNeeded => {
                    let producer = &mut self.producers[index];
                    if !producer.paused {
                        producer.streams[position].key_frames.request(now);
                        self.timers.set_no_later_than(producer.timer, now);
                    }
                }
                RecvEvent::Score(change) => {
                    if change.previous == 0 {
                        self.producers[index].streams[position].active_since = now;
                    }
                    let alive_changed = (change.score == 0) != (change.previous == 0);
                    for consumer in self.producers[index].consumers.clone() {
                        self.notify_consumer_score(consumer);
                        if alive_changed {
                            self.update_layers(consumer, now);
                        }
                    }
                    self.notify_producer_score(index);
                }
            }
        }
    }

    /// NACK, key frame requests and inactivity of a Producer's streams, when they are due.
    pub fn service_producer(&mut self, index: ProducerIdx, now: Instant) {
        let Some(producer) = self.producers.get_mut(index) else { return };
        let (transport, timer) = (producer.transport, producer.timer);
        let mut nacks = std::mem::take(&mut self.scratch.nacks);
        let mut next: Option<Instant> = None;
        for position in 0..self.producers[index].streams.len() {
            let producer = &mut self.producers[index];
            let paused = producer.paused;
            let stream = &mut producer.streams[position];
            stream.recv.handle_timeout(now);
            nacks.clear();
            stream.recv.poll_nack(now, &mut nacks);
            let ssrc = stream.ssrc;
            let request =
                if !paused && stream.key_frames.poll(now) { stream.recv.request_key_frame() } else { None };
            let due =
                [stream.recv.next_timeout(), stream.key_frames.next_timeout()].into_iter().flatten().min();
            next = [next, due].into_iter().flatten().min();
            if !nacks.is_empty() {
                self.send_nack(transport, ssrc, &nacks, now);
                self.trace_producer_nack(index, now);
            }
            if let Some(request) = request {
                self.send_key_frame_request(transport, ssrc, request, now);
                self.trace_producer_key_frame_request(index, ssrc, request, now);
            }
            self.take_stream_events(index, position, now);
        }
        self.scratch.nacks = nacks;
        // A deadline in the past would fire again within this very turn.
        self.timers.set(timer, next.map(|next| next.max(now + MIN_INTERVAL)));
    }

    /// A Consumer needs a key frame of this encoding.
    pub fn request_key_frame(&mut self, index: ProducerIdx, encoding: u8, now: Instant) {
        self.request_key_frame_at(index, encoding, now, now);
    }

    /// Asks at that time, or sooner where others do.
    pub fn request_key_frame_at(&mut self, index: ProducerIdx, encoding: u8, at: Instant, now: Instant) {
        let Some(producer) = self.producers.get_mut(index) else { return };
        if producer.paused || producer.kind != rtp::MediaKind::Video {
            return;
        }
        let timer = producer.timer;
        if let Some(stream) = producer.stream_mut(encoding) {
            if at > now {
                stream.key_frames.request_at(at);
            } else {
                stream.key_frames.request(now);
            }
            self.timers.set_no_later_than(timer, at);
        }
    }

    fn notify_producer_score(&mut self, index: ProducerIdx) {
        let producer = &self.producers[index];
        let mut streams: Vec<_> = producer.streams.iter().collect();
        streams.sort_by_key(|stream| stream.encoding_idx);
        let scores = streams
            .into_iter()
            .map(|stream| wire::Score {
                encoding_idx: u32::from(stream.encoding_idx),
                ssrc: stream.ssrc,
                rid: Some(stream.recv.params().rid.clone()).filter(|rid| !rid.is_empty()),
                score: stream.recv.score(),
            })
            .collect();
        self.outbox.notify_media(
            &producer.id,
            notification::Event::ProducerScore,
            notification::Body::ProducerScoreNotification(Box::new(wire::ScoreNotification { scores })),
        );
    }

    fn notify_video_orientation(&mut self, index: ProducerIdx, incoming: &Incoming<'_>) {
        let producer = &mut self.producers[index];
        if producer.parameters.extensions.video_orientation == 0 {
            return;
        }
        let read = producer.parameters.extensions.read_video_orientation(&incoming.header, incoming.packet);
        let Some(orientation) = read.filter(|read| producer.video_orientation != Some(*read)) else { return };
        producer.video_orientation = Some(orientation);
        let body = wire::VideoOrientationChangeNotification {
            camera: orientation.back_camera,
            flip: orientation.flip,
            rotation: orientation.rotation_degrees,
        };
        self.outbox.notify_media(
            &producer.id,
            notification::Event::ProducerVideoOrientationChange,
            notification::Body::ProducerVideoOrientationChangeNotification(Box::new(body)),
        );
    }

    /// Takes a Producer's transport-wide header extensions over to its Transport.
    pub fn learn_extensions(&mut self, transport: TransportIdx, parameters: &crate::params::RtpParameters) {
        let ids = &parameters.extensions;
        let ours = &mut self.transports[transport].recv_extensions;
        for (our, theirs) in [
            (&mut ours.mid, ids.mid),
            (&mut ours.rid, ids.rid),
            (&mut ours.rrid, ids.rrid),
            (&mut ours.abs_send_time, ids.abs_send_time),
            (&mut ours.transport_wide_cc, ids.transport_wide_cc),
        ] {
            if theirs != 0 {
                *our = theirs;
            }
        }
    }
}

/// Streams are looked at no more often than this.
const MIN_INTERVAL: std::time::Duration = std::time::Duration::from_millis(1);
