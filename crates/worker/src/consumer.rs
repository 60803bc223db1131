//! A Consumer: what one endpoint gets of a Producer, and its part of the requests.

pub mod allocation;
mod datagram;
pub mod egress;
pub mod layers;
pub mod notify;
pub mod packed;
pub mod svc;

use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use rtc::rtp::ExtensionIds;
use rtc::sequence::SeqMapper;
use rtc::stream::send::SendStream;
use rtc::stream::{RtxParams, Ssrc, StreamParams};
use worker_protocol::wire::{consumer as wire, rtp_parameters as rtp, transport};

use crate::consumer::allocation::Patience;
use crate::consumer::layers::{Forwarding, Layers, Simulcast};
use crate::consumer::packed::{Mid, Streams};
use crate::consumer::svc::Svc;
use crate::error::{RequestError, RequestResult};
use crate::params::{Codec, CodecKind, Encoding, RtpParameters, parse_encoding};
use crate::producer::stats;
use crate::producer::type_name;
use crate::table::{ConsumerIdx, ProducerIdx, TransportIdx};
use crate::transport::bwe::PROBATION_SSRC;
use crate::worker::{Deferred, Worker};

/// A Consumer. What every packet that goes out looks at lies side by side here, in a few cache lines and, of hundreds of
/// Consumers, in a few pages; everything else is in [`ConsumerRest`], which it dereferences to.
#[derive(Debug)]
pub struct Consumer {
    /// Where its media goes.
    pub transport: TransportIdx,
    /// Audio or video.
    pub kind: rtp::MediaKind,
    /// Whether the driver paused it.
    pub paused: bool,
    /// Whether its Producer is paused.
    pub producer_paused: bool,
    /// Whether its Transport can send.
    pub transport_connected: bool,
    /// Silence is not forwarded.
    pub ignore_dtx: bool,
    /// Which trace events are wanted.
    pub traces: ConsumerTraces,
    /// Bit per payload type that the peer can decode.
    pub payload_types: u128,
    /// The header extension ids that it negotiated.
    pub ids: ExtensionIds,
    /// The MID that its packets carry, empty for none.
    pub mid: Mid,
    /// Which stream of the Producer is forwarded, and how much of it.
    pub forwarding: Forwarding,
    /// What it sends: one stream, or as many as the Producer has for a pipe.
    pub streams: Streams,
    /// When the last sender report went out.
    pub last_rtcp_at: Option<Instant>,
    rest: Box<ConsumerRest>,
}

/// What a Consumer has beside what its packets need.
#[derive(Debug)]
pub struct ConsumerRest {
    /// Its id.
    pub id: String,
    /// Where its media comes from.
    pub producer: ProducerIdx,
    /// That Producer's id.
    pub producer_id: String,
    /// What kind of Consumer this is.
    pub stream_type: rtp::Type,
    /// What the peer expects.
    pub parameters: RtpParameters,
    /// The Producer's encodings as the Router knows them.
    pub consumable: Vec<rtp::RtpEncodingParameters>,
    /// Who is served first when bandwidth is short.
    pub priority: u8,
    /// Which SSRC of the Router each consumable encoding has.
    pub mapped_ssrcs: Vec<u32>,
    /// When it may climb to higher layers.
    pub patience: Patience,
}

impl Deref for Consumer {
    type Target = ConsumerRest;

    fn deref(&self) -> &ConsumerRest {
        &self.rest
    }
}

impl DerefMut for Consumer {
    fn deref_mut(&mut self) -> &mut ConsumerRest {
        &mut self.rest
    }
}

/// One stream that is sent.
#[derive(Debug)]
pub struct ConsumerStream {
    /// Its SSRC.
    pub ssrc: u32,
    /// Its repair stream, where negotiated.
    pub rtx: Option<RtxParams>,
    /// Counts, reports, repeats.
    pub send: SendStream,
    /// The Producer's sequence numbers to ours; what comes out is the SRTP index too.
    pub sequence: SeqMapper,
    /// Whether the next packet must be one that a decoder can start with.
    pub sync_required: bool,
}

/// Which trace events are wanted.
#[derive(Debug, Clone, Copy, Default)]
#[expect(missing_docs, reason = "the schema's names")]
pub struct ConsumerTraces {
    pub rtp: bool,
    pub key_frame: bool,
    pub nack: bool,
    pub pli: bool,
    pub fir: bool,
}

impl ConsumerTraces {
    /// From the schema's list.
    pub fn parse(events: &[wire::TraceEventType]) -> Self {
        let mut traces = Self::default();
        for event in events {
            match event {
                wire::TraceEventType::KeyFrame => traces.key_frame = true,
                wire::TraceEventType::Fir => traces.fir = true,
                wire::TraceEventType::Nack => traces.nack = true,
                wire::TraceEventType::Pli => traces.pli = true,
                wire::TraceEventType::Rtp => traces.rtp = true,
            }
        }
        traces
    }

    /// To the schema's list.
    pub fn dump(self) -> Vec<wire::TraceEventType> {
        [
            (self.rtp, wire::TraceEventType::Rtp),
            (self.key_frame, wire::TraceEventType::KeyFrame),
            (self.nack, wire::TraceEventType::Nack),
            (self.pli, wire::TraceEventType::Pli),
            (self.fir, wire::TraceEventType::Fir),
        ]
        .into_iter()
        .filter_map(|(wanted, event)| wanted.then_some(event))
        .collect()
    }
}

impl Consumer {
    /// Whether packets go out.
    pub fn is_active(&self) -> bool {
        self.transport_connected && !self.paused && !self.producer_paused
    }

    /// Whether it can do with less bandwidth: it picks among layers of video.
    pub fn is_adaptive(&self) -> bool {
        self.kind == rtp::MediaKind::Video && self.forwarding.has_layers()
    }

    /// Whether any of its streams may ask for packets again.
    pub fn uses_nack(&self) -> bool {
        self.streams.iter().any(|stream| stream.send.params().use_nack)
    }

    /// The stream with this media or repair SSRC.
    pub fn stream_mut(&mut self, ssrc: u32) -> Option<&mut ConsumerStream> {
        self.streams
            .iter_mut()
            .find(|stream| stream.ssrc == ssrc || stream.rtx.is_some_and(|rtx| rtx.ssrc.0 == ssrc))
    }

    /// What `consumer.dump()` answers.
    pub fn dump(&self) -> wire::DumpResponse {
        let preferred = self.forwarding.preferred();
        let target = self.forwarding.target();
        let current = self.forwarding.current();
        wire::DumpResponse {
            data: Box::new(wire::ConsumerDump {
                base: Box::new(wire::BaseConsumerDump {
                    id: self.id.clone(),
                    type_: self.stream_type,
                    producer_id: self.producer_id.clone(),
                    kind: self.kind,
                    rtp_parameters: Box::new(self.parameters.wire.unpack()),
                    consumable_rtp_encodings: self.consumable.clone(),
                    supported_codec_payload_types: (0..128)
                        .filter(|pt| self.payload_types >> pt & 1 == 1)
                        .collect(),
                    trace_event_types: self.traces.dump(),
                    paused: self.paused,
                    producer_paused: self.producer_paused,
                    priority: self.priority,
                }),
                rtp_streams: self
                    .streams
                    .iter()
                    .map(|stream| stats::dump_stream(stream.send.params(), stream.send.score()))
                    .collect(),
                preferred_spatial_layer: Some(preferred.spatial),
                target_spatial_layer: Some(target.spatial),
                current_spatial_layer: Some(current.spatial),
                preferred_temporal_layer: Some(preferred.temporal),
                target_temporal_layer: Some(target.temporal),
                current_temporal_layer: Some(current.temporal),
            }),
        }
    }
}

impl Worker {
    /// Answers `transport.consume()`.
    pub fn consume(
        &mut self,
        transport: TransportIdx,
        request: transport::ConsumeRequest,
        now: Instant,
    ) -> RequestResult<transport::ConsumeResponse> {
        let index = self.consumers.next_index();
        let router = self.transports[transport].router;
        let producer =
            self.routers[router].producers.get(&request.producer_id).copied().ok_or_else(|| {
                RequestError::not_found(format!("Producer not found [producerId:{}]", request.producer_id))
            })?;
        let mut consumer = build_consumer(request, transport, producer, now)?;
        consumer.producer_paused = self.producers[producer].paused;
        let ssrcs: Vec<u32> =
            consumer.parameters.encodings.iter().filter_map(|encoding| encoding.ssrc).collect();
        let rtx_ssrcs: Vec<u32> =
            consumer.parameters.encodings.iter().filter_map(|encoding| encoding.rtx_ssrc).collect();
        let target = &self.transports[transport];
        let mut all: Vec<u32> = ssrcs.iter().chain(&rtx_ssrcs).copied().collect();
        // Two streams with one SSRC under one SRTP key would use its nonces twice.
        let taken = |ssrc: &u32| {
            target.ssrc_consumers.contains_key(ssrc)
                || target.rtx_ssrc_consumers.contains_key(ssrc)
                || (*ssrc == PROBATION_SSRC && target.bwe.is_some())
        };
        if let Some(ssrc) = all.iter().find(|ssrc| taken(ssrc)) {
            return Err(RequestError::type_error(format!("ssrc {ssrc} is used by another Consumer")));
        }
        all.sort_unstable();
        if all.array_windows().any(|[one, next]| one == next) {
            return Err(RequestError::type_error("an ssrc is used twice in rtpParameters"));
        }
        let source = &mut self.producers[producer];
        source.consumers.push(index);
        source.nack_consumers += usize::from(consumer.uses_nack());
        let target = &mut self.transports[transport];
        target.consumers.push(index);
        target.ssrc_consumers.extend(ssrcs.into_iter().map(|ssrc| (ssrc, index)));
        target.rtx_ssrc_consumers.extend(rtx_ssrcs.into_iter().map(|ssrc| (ssrc, index)));
        let connected = target.connected;
        let preferred = consumer.forwarding.preferred();
        let response = transport::ConsumeResponse {
            paused: consumer.paused,
            producer_paused: consumer.producer_paused,
            score: Box::new(notify::score(&consumer, source)),
            preferred_layers: (preferred.spatial > -1 && preferred.temporal > -1)
                .then(|| Box::new(preferred.to_wire())),
        };
        self.consumers.insert(consumer);
        self.start_bwe(transport, index, now);
        self.expect_reports(transport, now);
        if connected {
            // The driver must know the Consumer before it hears of its layers.
            self.deferred.push(Deferred::ConsumerConnected(index));
        }
        Ok(response)
    }

    /// Closes a Consumer whose Producer goes on.
    pub fn close_consumer(&mut self, index: ConsumerIdx) {
        let Some(consumer) = self.consumers.get(index) else { return };
        if let Some(producer) = self.producers.get_mut(consumer.producer) {
            producer.consumers.retain(|other| *other != index);
            producer.nack_consumers -= usize::from(consumer.uses_nack());
        }
        self.forget_consumer(index);
    }

    /// Removes a Consumer from everything but its Producer.
    pub fn forget_consumer(&mut self, index: ConsumerIdx) {
        let Some(consumer) = self.consumers.remove(index) else { return };
        self.handlers.remove(&consumer.id);
        if let Some(transport) = self.transports.get_mut(consumer.transport) {
            transport.consumers.retain(|other| *other != index);
            transport.ssrc_consumers.retain(|_, other| *other != index);
            transport.rtx_ssrc_consumers.retain(|_, other| *other != index);
        }
    }

    /// Answers `consumer.pause()`.
    pub fn pause_consumer(&mut self, index: ConsumerIdx) {
        let was_active = self.consumers[index].is_active();
        self.consumers[index].paused = true;
        if was_active {
            self.consumer_stopped(index);
        }
    }

    /// Answers `consumer.resume()`.
    pub fn resume_consumer(&mut self, index: ConsumerIdx, now: Instant) {
        let consumer = &mut self.consumers[index];
        if std::mem::replace(&mut consumer.paused, false) && consumer.is_active() {
            self.consumer_started(index, now);
        }
    }

    /// Answers `consumer.getStats()`.
    pub fn consumer_stats(&mut self, index: ConsumerIdx, now: Instant) -> wire::GetStatsResponse {
        let timestamp = self.clock.unix_ms(now);
        let consumer = &mut self.consumers[index];
        let mut all: Vec<_> = consumer
            .streams
            .iter_mut()
            .map(|stream| {
                let counted = stream.send.stats(now);
                stats::send_stats(stream.send.params(), &counted, timestamp)
            })
            .collect();
        if let Some(encoding) = consumer.forwarding.current_encoding()
            && let Some(stream) = self.producers[consumer.producer].stream_mut(encoding)
        {
            all.push(stats::recv_stats(stream, timestamp, now));
        }
        wire::GetStatsResponse { stats: all }
    }
}

fn build_consumer(
    request: transport::ConsumeRequest,
    transport: TransportIdx,
    producer: ProducerIdx,
    now: Instant,
) -> RequestResult<Consumer> {
    let pipe = request.type_ == rtp::Type::Pipe;
    let parameters = RtpParameters::parse(*request.rtp_parameters)?;
    for encoding in &parameters.encodings {
        if encoding.ssrc.is_none() {
            return Err(RequestError::type_error("invalid encoding in rtpParameters (missing ssrc)"));
        }
        if encoding.rtx_ssrc == Some(0) {
            return Err(RequestError::type_error("invalid encoding in rtpParameters (missing rtx.ssrc)"));
        }
    }
    let consumable = request.consumable_rtp_encodings;
    let sources: Vec<Encoding> = consumable.iter().map(|encoding| parse_encoding(encoding, 0)).collect();
    let Some(first_source) = sources.first() else {
        return Err(RequestError::type_error("empty consumableRtpEncodings"));
    };
    if sources.iter().any(|encoding| encoding.ssrc.is_none()) {
        return Err(RequestError::type_error("wrong encoding in consumableRtpEncodings (missing ssrc)"));
    }
    if pipe && sources.len() != parameters.encodings.len() {
        return Err(RequestError::type_error(
            "number of rtpParameters.encodings and consumableRtpEncodings do not match",
        ));
    }
    let stream_type = if pipe {
        rtp::Type::Pipe
    } else if sources.len() > 1 {
        rtp::Type::Simulcast
    } else if first_source.spatial_layers > 1 || first_source.temporal_layers > 1 {
        rtp::Type::Svc
    } else {
        rtp::Type::Simple
    };
    let encoding = parameters.encodings.first().expect("parse() refuses parameters without encodings");
    let codec = parameters.codec(encoding);
    if !codec.kind.is_valid_for(stream_type) {
        return Err(RequestError::type_error(format!(
            "{} codec not supported for {}",
            codec.mime_type,
            type_name(stream_type)
        )));
    }
    let most = Layers {
        spatial: i16::from(encoding.spatial_layers) - 1,
        temporal: i16::from(encoding.temporal_layers) - 1,
    };
    let preferred = request.preferred_layers.as_deref().map_or(most, |layers| Layers::clamped(layers, most));
    let forwarding = match stream_type {
        rtp::Type::Simple => Forwarding::Simple,
        rtp::Type::Pipe => Forwarding::Pipe,
        rtp::Type::Simulcast => {
            if usize::from(encoding.spatial_layers) != sources.len() {
                return Err(RequestError::type_error(
                    "encoding.spatialLayers does not match number of consumableRtpEncodings",
                ));
            }
            Forwarding::Simulcast(Box::new(Simulcast::new(preferred, most, codec.kind == CodecKind::Vp8)))
        }
        rtp::Type::Svc => Forwarding::Svc(Box::new(Svc::new(preferred, most, codec.kind))),
    };
    let payload_types = parameters
        .codecs
        .iter()
        .filter(|codec| codec.kind.is_media() && codec.payload_type < 128)
        .fold(0, |bits, codec| bits | 1_u128 << codec.payload_type);
    let sent = if pipe { parameters.encodings.len() } else { 1 };
    let streams = parameters
        .encodings
        .iter()
        .take(sent)
        .enumerate()
        .map(|(position, encoding)| build_stream(&parameters, position, encoding, now))
        .collect();
    Ok(Consumer {
        transport,
        kind: request.kind,
        paused: request.paused,
        producer_paused: false,
        transport_connected: false,
        ignore_dtx: request.ignore_dtx,
        traces: ConsumerTraces::default(),
        payload_types,
        ids: parameters.extensions,
        mid: Mid::new(parameters.mid.as_deref().unwrap_or_default()),
        forwarding,
        streams,
        last_rtcp_at: None,
        rest: Box::new(ConsumerRest {
            id: request.consumer_id,
            producer,
            producer_id: request.producer_id,
            stream_type,
            priority: 1,
            mapped_ssrcs: sources.iter().filter_map(|encoding| encoding.ssrc).collect(),
            patience: Patience::default(),
            parameters,
            consumable,
        }),
    })
}

fn build_stream(
    parameters: &RtpParameters,
    position: usize,
    encoding: &Encoding,
    now: Instant,
) -> ConsumerStream {
    let codec = parameters.codec(encoding);
    let ssrc = encoding.ssrc.unwrap_or(0);
    let rtx = parameters
        .rtx_codec(encoding)
        .zip(encoding.rtx_ssrc)
        .map(|(codec, ssrc)| RtxParams { ssrc: Ssrc(ssrc), payload_type: codec.payload_type });
    let params = stream_params(codec, encoding, position, ssrc, &parameters.cname, rtx);
    // RFC 3550, section 5.1 wants random starts; the upper half is left out so that no receiver sees the rollover
    // counter change before it has settled on it.
    let random = getrandom::u32().unwrap_or(0x1234_5678);
    let first = u64::from(random & 0x7fff).max(1);
    let first_rtx = u16::try_from(random >> 17).unwrap_or(1);
    ConsumerStream {
        ssrc,
        rtx,
        send: SendStream::new(params, first_rtx, now),
        sequence: SeqMapper::new(first),
        sync_required: false,
    }
}

/// A stream's parameters, of either direction.
pub fn stream_params(
    codec: &Codec,
    encoding: &Encoding,
    position: usize,
    ssrc: u32,
    cname: &str,
    rtx: Option<RtxParams>,
) -> StreamParams {
    StreamParams {
        encoding_idx: u32::try_from(position).unwrap_or(u32::MAX),
        rid: encoding.rid.clone().unwrap_or_default(),
        cname: cname.to_owned(),
        rtx,
        use_nack: codec.use_nack,
        use_pli: codec.use_pli,
        use_fir: codec.use_fir,
        use_in_band_fec: codec.use_in_band_fec,
        use_dtx: codec.use_dtx || encoding.dtx,
        spatial_layers: encoding.spatial_layers,
        temporal_layers: encoding.temporal_layers,
        ..StreamParams::new(Ssrc(ssrc), codec.payload_type, &codec.mime_type, codec.clock_rate)
    }
}

/// How often reports of a stream go out.
pub fn rtcp_interval(kind: rtp::MediaKind) -> Duration {
    match kind {
        rtp::MediaKind::Audio => Duration::from_secs(5),
        rtp::MediaKind::Video => Duration::from_secs(1),
    }
}
