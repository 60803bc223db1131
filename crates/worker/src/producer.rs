//! A Producer: one track that enters the Router, with a receive stream per encoding, and its part of the requests.

pub mod elements;
pub mod held;
pub mod ingest;
pub mod layering;
pub mod stats;

use std::time::{Duration, Instant};

use rtc::codec::vp9::SpatialDependency;
use rtc::rtp::VideoOrientation;
use rtc::stream::key_frame::KeyFrameRequests;
use rtc::stream::recv::RecvStream;
use rtc::stream::store::{PacketStore, StoreLimits};
use worker_protocol::wire::{notification, producer as wire, rtp_parameters as rtp, transport};

use self::held::Hold;
use crate::error::{RequestError, RequestResult};
use crate::params::{CodecKind, RtpParameters};
use crate::producer::elements::OwnElements;
use crate::producer::layering::{Activity, LayerSource};
use crate::table::{ConsumerIdx, ProducerIdx, RouterIdx, RtpObserverIdx, TransportIdx};
use crate::timers::TimerKey;
use crate::worker::{Timer, Worker};

/// A Producer.
#[derive(Debug)]
pub struct Producer {
    /// Its id.
    pub id: String,
    /// The Transport that it came by.
    pub transport: TransportIdx,
    /// The Router that it entered.
    pub router: RouterIdx,
    /// Audio or video.
    pub kind: rtp::MediaKind,
    /// One stream, simulcast, or layers in one stream.
    pub stream_type: rtp::Type,
    /// What the peer sends.
    pub parameters: RtpParameters,
    /// How that is named inside the Router.
    pub mapping: rtp::RtpMapping,
    /// The payload type inside the Router of each received one.
    pub mapped_payload_types: [Option<u8>; 128],
    /// Whether the driver paused it.
    pub paused: bool,
    /// The streams received so far, in the order in which they appeared.
    pub streams: Vec<ProducerStream>,
    /// Who gets what it receives.
    pub consumers: Vec<ConsumerIdx>,
    /// How many of them may ask for packets again.
    pub nack_consumers: usize,
    /// Who watches its audio levels.
    pub observers: Vec<RtpObserverIdx>,
    /// Packets without a number get one, in mediasoup's own header extension.
    pub numbers_packets: bool,
    /// Which trace events are wanted.
    pub traces: ProducerTraces,
    /// How the picture is to be turned, as far as known.
    pub video_orientation: Option<VideoOrientation>,
    /// The least time between two key frame requests.
    pub key_frame_request_delay: Duration,
    /// When NACK, key frame requests or inactivity want attention.
    pub timer: TimerKey,
    /// When the last receiver report went out.
    pub last_rtcp_at: Option<Instant>,
    /// Packets that its Consumers are about to get.
    pub hold: Hold,
}

/// One received stream.
#[derive(Debug)]
pub struct ProducerStream {
    /// Its place among the encodings.
    pub encoding_idx: u8,
    /// Its SSRC.
    pub ssrc: u32,
    /// Its SSRC inside the Router.
    pub mapped_ssrc: u32,
    /// What it carries.
    pub codec: CodecKind,
    /// What its packets go out with in place of what they came with.
    pub elements: OwnElements,
    /// How its layers are read.
    pub layers: LayerSource,
    /// How its spatial layers depend on each other.
    pub dependency: SpatialDependency,
    /// Which of its spatial layers flow.
    pub activity: Activity,
    /// Counts, asks again, scores.
    pub recv: RecvStream,
    /// What Consumers may ask for again.
    pub store: PacketStore,
    /// One key frame request at a time.
    pub key_frames: KeyFrameRequests,
    /// Since when it has been received without a silence.
    pub active_since: Instant,
}

/// Which trace events are wanted.
#[derive(Debug, Clone, Copy, Default)]
#[expect(missing_docs, reason = "the schema's names")]
pub struct ProducerTraces {
    pub rtp: bool,
    pub key_frame: bool,
    pub nack: bool,
    pub pli: bool,
    pub fir: bool,
    pub sr: bool,
}

impl ProducerTraces {
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
                wire::TraceEventType::Sr => traces.sr = true,
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
            (self.sr, wire::TraceEventType::Sr),
        ]
        .into_iter()
        .filter_map(|(wanted, event)| wanted.then_some(event))
        .collect()
    }
}

impl Producer {
    /// The stream of this encoding, if it has been received.
    pub fn stream(&self, encoding_idx: u8) -> Option<&ProducerStream> {
        self.streams.iter().find(|stream| stream.encoding_idx == encoding_idx)
    }

    /// The stream of this encoding, if it has been received.
    pub fn stream_mut(&mut self, encoding_idx: u8) -> Option<&mut ProducerStream> {
        self.streams.iter_mut().find(|stream| stream.encoding_idx == encoding_idx)
    }

    /// The scores of all encodings, 0 for those not received.
    pub fn scores(&self) -> Vec<u8> {
        (0..self.parameters.encodings.len())
            .map(|index| {
                self.streams
                    .iter()
                    .find(|stream| usize::from(stream.encoding_idx) == index)
                    .map_or(0, |stream| stream.recv.score())
            })
            .collect()
    }

    /// What the store of a stream may hold.
    pub fn store_limits(&self) -> StoreLimits {
        match self.kind {
            rtp::MediaKind::Audio => StoreLimits::AUDIO,
            rtp::MediaKind::Video => StoreLimits::VIDEO,
        }
    }

    /// What `producer.dump()` answers.
    pub fn dump(&self) -> wire::DumpResponse {
        let mut streams: Vec<_> = self.streams.iter().collect();
        streams.sort_by_key(|stream| stream.encoding_idx);
        wire::DumpResponse {
            id: self.id.clone(),
            kind: self.kind,
            type_: self.stream_type,
            rtp_parameters: Box::new(self.parameters.wire.unpack()),
            rtp_mapping: Box::new(self.mapping.clone()),
            rtp_streams: streams
                .into_iter()
                .map(|stream| stats::dump_stream(stream.recv.params(), stream.recv.score()))
                .collect(),
            trace_event_types: self.traces.dump(),
            paused: self.paused,
        }
    }
}

impl Worker {
    /// Answers `transport.produce()`.
    pub fn produce(
        &mut self,
        transport: TransportIdx,
        request: transport::ProduceRequest,
    ) -> RequestResult<transport::ProduceResponse> {
        let parameters = RtpParameters::parse(*request.rtp_parameters)?;
        let stream_type = parameters.stream_type()?;
        let first = parameters.encodings.first().expect("parse() refuses parameters without encodings");
        let codec = parameters.codec(first);
        if !codec.kind.is_valid_for(stream_type) {
            return Err(RequestError::type_error(format!(
                "{} codec not supported for {}",
                codec.mime_type,
                type_name(stream_type)
            )));
        }
        let mapping = *request.rtp_mapping;
        check_mapping(&parameters, &mapping)?;
        let router = self.transports[transport].router;
        if self.routers[router].producers.contains_key(&request.producer_id) {
            return Err(RequestError::error(format!(
                "Producer already present in the Router [producerId:{}]",
                request.producer_id
            )));
        }
        let mut mapped_payload_types = [None; 128];
        for codec in &mapping.codecs {
            if let Some(slot) = mapped_payload_types.get_mut(usize::from(codec.payload_type)) {
                *slot = Some(codec.mapped_payload_type);
            }
        }
        let now = Instant::now();
        let index = self.producers.next_index();
        self.transports[transport].listener.add(index, &parameters)?;
        self.learn_extensions(transport, &parameters);
        let timer = self.timers.create(Timer::Producer(index));
        let producer = Producer {
            id: request.producer_id.clone(),
            transport,
            router,
            kind: request.kind,
            stream_type,
            parameters,
            mapping,
            mapped_payload_types,
            paused: request.paused,
            streams: Vec::new(),
            consumers: Vec::new(),
            nack_consumers: 0,
            observers: Vec::new(),
            numbers_packets: request.enable_mediasoup_packet_id_header_extension,
            traces: ProducerTraces::default(),
            video_orientation: None,
            key_frame_request_delay: Duration::from_millis(u64::from(request.key_frame_request_delay)),
            timer,
            last_rtcp_at: None,
            hold: Hold::new(now),
        };
        self.producers.insert(producer);
        self.transports[transport].producers.push(index);
        self.routers[router].producers.insert(request.producer_id, index);
        self.start_transport_feedback(transport, index);
        self.expect_reports(transport, now);
        Ok(transport::ProduceResponse { type_: stream_type })
    }

    /// Closes a Producer: its Consumers are told and close too.
    pub fn close_producer(&mut self, index: ProducerIdx) {
        let Some(producer) = self.producers.get_mut(index) else { return };
        for consumer in std::mem::take(&mut producer.consumers) {
            let id = self.consumers[consumer].id.clone();
            self.notify(&id, notification::Event::ConsumerProducerClose, None);
            self.forget_consumer(consumer);
        }
        for observer in std::mem::take(&mut self.producers[index].observers) {
            self.observer_lost_producer(observer, index);
        }
        let Some(producer) = self.producers.remove(index) else { return };
        self.timers.remove(producer.timer);
        self.handlers.remove(&producer.id);
        if let Some(transport) = self.transports.get_mut(producer.transport) {
            transport.producers.retain(|other| *other != index);
            transport.listener.remove(index);
            if let Some(srtp) = &mut transport.srtp {
                for stream in &producer.streams {
                    srtp.recv.remove_ssrc(stream.ssrc);
                    if let Some(rtx) = stream.recv.params().rtx {
                        srtp.recv.remove_ssrc(rtx.ssrc.0);
                    }
                }
            }
        }
        if let Some(router) = self.routers.get_mut(producer.router) {
            router.producers.remove(&producer.id);
        }
    }

    /// Answers `producer.pause()`.
    pub fn pause_producer(&mut self, index: ProducerIdx) {
        let producer = &mut self.producers[index];
        if std::mem::replace(&mut producer.paused, true) {
            return;
        }
        for stream in &mut producer.streams {
            stream.recv.pause();
            stream.key_frames.cancel();
            stream.store.clear();
        }
        for consumer in producer.consumers.clone() {
            self.consumer_producer_paused(consumer);
        }
        for observer in self.producers[index].observers.clone() {
            self.observer_producer_paused(observer, index);
        }
    }

    /// Answers `producer.resume()`.
    pub fn resume_producer(&mut self, index: ProducerIdx, now: Instant) {
        let producer = &mut self.producers[index];
        if !std::mem::replace(&mut producer.paused, false) {
            return;
        }
        for stream in &mut producer.streams {
            stream.recv.resume(now);
            if producer.kind == rtp::MediaKind::Video {
                stream.key_frames.force();
            }
        }
        for consumer in producer.consumers.clone() {
            self.consumer_producer_resumed(consumer, now);
        }
        for observer in self.producers[index].observers.clone() {
            self.observer_producer_resumed(observer, index);
        }
        self.service_producer(index, now);
    }
}

/// mediasoup's word for a type.
pub fn type_name(kind: rtp::Type) -> &'static str {
    match kind {
        rtp::Type::Simple => "simple",
        rtp::Type::Simulcast => "simulcast",
        rtp::Type::Svc => "svc",
        rtp::Type::Pipe => "pipe",
    }
}

fn check_mapping(parameters: &RtpParameters, mapping: &rtp::RtpMapping) -> RequestResult<()> {
    for encoding in &mapping.encodings {
        let named = encoding.ssrc.is_some() || encoding.rid.is_some();
        if mapping.encodings.len() > 1 && !named {
            return Err(RequestError::type_error(
                "wrong entry in rtpMapping.encodings (missing ssrc or rid)",
            ));
        }
        if mapping.encodings.len() == 1 && !named && parameters.mid.is_none() {
            return Err(RequestError::type_error(
                "wrong entry in rtpMapping.encodings (missing ssrc or rid, or rtpParameters.mid)",
            ));
        }
        if encoding.mapped_ssrc == 0 {
            return Err(RequestError::type_error("wrong entry in rtpMapping.encodings (missing mappedSsrc)"));
        }
    }
    if parameters.encodings.len() != mapping.encodings.len() {
        return Err(RequestError::type_error(
            "rtpParameters.encodings size does not match rtpMapping.encodings size",
        ));
    }
    if parameters.encodings.len() > MAX_ENCODINGS {
        return Err(RequestError::type_error("too many encodings"));
    }
    Ok(())
}

/// Simulcast has three or four streams; this many fit every index that is kept of them.
const MAX_ENCODINGS: usize = 32;
