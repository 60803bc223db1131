//! Which layers a Consumer wants, aims at and gets. The choice is by preference and by what the Producer sends.

use std::time::{Duration, Instant};

use rtc::codec::layers::{Layering, Selection, Selector, Target};
use rtc::codec::vp8;
use worker_protocol::wire::consumer as wire;

use super::ConsumerStream;
use super::egress::{Admission, Effect, Incoming, admission, require_sync};
use super::svc::Svc;
use crate::producer::ProducerStream;
use crate::table::ConsumerIdx;
use crate::worker::Worker;

/// A spatial and a temporal layer; -1 for none, as the schema has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layers {
    /// Spatial layer.
    pub spatial: i16,
    /// Temporal layer.
    pub temporal: i16,
}

impl Layers {
    /// No layer.
    pub const NONE: Self = Self { spatial: -1, temporal: -1 };

    /// What was asked for, within what there is.
    pub fn clamped(asked: &wire::ConsumerLayers, most: Self) -> Self {
        Self {
            spatial: i16::from(asked.spatial_layer).min(most.spatial),
            temporal: asked.temporal_layer.map_or(most.temporal, |layer| i16::from(layer).min(most.temporal)),
        }
    }

    /// As the schema carries layers that exist.
    pub fn to_wire(self) -> wire::ConsumerLayers {
        wire::ConsumerLayers {
            spatial_layer: u8::try_from(self.spatial).unwrap_or(0),
            temporal_layer: u8::try_from(self.temporal).ok(),
        }
    }
}

/// How a Consumer picks from its Producer's streams.
#[derive(Debug)]
pub enum Forwarding {
    /// The only stream, as it is.
    Simple,
    /// One of several streams at a time, some of its temporal layers.
    Simulcast(Box<Simulcast>),
    /// Some of the layers of the only stream.
    Svc(Box<Svc>),
    /// All streams, each as it is.
    Pipe,
}

impl Forwarding {
    /// What the driver prefers.
    pub fn preferred(&self) -> Layers {
        match self {
            Self::Simple | Self::Pipe => Layers::NONE,
            Self::Simulcast(simulcast) => simulcast.preferred,
            Self::Svc(svc) => svc.preferred,
        }
    }

    /// What is being switched to.
    pub fn target(&self) -> Layers {
        match self {
            Self::Simple | Self::Pipe => Layers::NONE,
            Self::Simulcast(simulcast) => simulcast.target,
            Self::Svc(svc) => svc.target,
        }
    }

    /// What is being forwarded.
    pub fn current(&self) -> Layers {
        match self {
            Self::Simple | Self::Pipe => Layers::NONE,
            Self::Simulcast(simulcast) => simulcast.current,
            Self::Svc(svc) => svc.current(),
        }
    }

    /// Whether the driver hears of layers.
    pub fn has_layers(&self) -> bool {
        matches!(self, Self::Simulcast(_) | Self::Svc(_))
    }

    /// Whether packets get other picture numbers than they came with.
    pub fn rewrites_pictures(&self) -> bool {
        match self {
            Self::Simulcast(simulcast) => simulcast.rewriter.is_some(),
            Self::Svc(svc) => svc.rewrites_pictures(),
            Self::Simple | Self::Pipe => false,
        }
    }

    /// The encoding that is being forwarded, where it is one.
    pub fn current_encoding(&self) -> Option<u8> {
        match self {
            Self::Simple | Self::Svc(_) => Some(0),
            Self::Simulcast(simulcast) => u8::try_from(simulcast.current.spatial).ok(),
            Self::Pipe => None,
        }
    }
}

/// A Consumer of simulcast.
#[derive(Debug)]
pub struct Simulcast {
    /// What the driver prefers.
    pub preferred: Layers,
    /// What there is at most.
    pub most: Layers,
    /// What is being switched to.
    pub target: Layers,
    /// What is being forwarded.
    pub current: Layers,
    /// Numbers VP8's pictures and spares temporal layers.
    rewriter: Option<vp8::Rewriter>,
    /// Spares the temporal layers of other codecs, where the stream tells them.
    frames: Selector,
    /// The encoding whose timestamps go out as they are; the others are aligned to it.
    reference: Option<u8>,
    /// What is added to the current stream's timestamps.
    timestamp_offset: u32,
    /// The newest timestamp sent, and when.
    newest: Option<(u32, Instant)>,
    /// Whether the newest packet ended a frame.
    frame_ended: bool,
    /// Whether it descends because the link carries no more.
    gives_way: bool,
}

/// What a simulcast packet goes out with.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// What is added to its timestamp.
    pub timestamp_offset: u32,
    /// Its picture numbers.
    pub picture: Option<vp8::Picture>,
    /// What else it caused.
    pub effect: Option<Effect>,
}

/// A frame's time at 30 per second, in ms: how far a switched stream's first frame lies behind the last one at least.
const FRAME_MS: u64 = 33;

/// A link that has become too narrow for what it is sent has a full queue. So long it may drain before a key frame is asked
/// for, which would lose packets to it and have to wait for their repeats behind it; at least, and at most.
const DRAIN: (Duration, Duration) = (Duration::from_millis(150), Duration::from_millis(800));
/// So much of its stream's time a key frame takes in bits.
const KEY_FRAME: Duration = Duration::from_millis(400);

/// Sender reports that lie this far apart in time are not used together: one of the two streams stands still.
const MAX_REPORT_DISTANCE_S: u64 = 60;

impl Simulcast {
    /// Nothing is forwarded yet.
    pub fn new(preferred: Layers, most: Layers, vp8: bool) -> Self {
        Self {
            preferred,
            most,
            target: Layers::NONE,
            current: Layers::NONE,
            rewriter: vp8.then(vp8::Rewriter::new),
            frames: Selector::new(),
            reference: None,
            timestamp_offset: 0,
            newest: None,
            frame_ended: true,
            gives_way: false,
        }
    }

    /// What it is sent has become too much for its link.
    pub fn give_way(&mut self) {
        self.gives_way = true;
    }

    /// Whether and how a packet goes out.
    pub fn admit(
        &mut self,
        stream: &mut ConsumerStream,
        incoming: &Incoming<'_>,
        streams: &[ProducerStream],
        payload_types: u128,
        now: Instant,
    ) -> Option<Admission> {
        let layer = i16::from(incoming.encoding);
        if self.target == Layers::NONE {
            return None;
        }
        let known = payload_types >> incoming.payload_type & 1 == 1 && !incoming.payload.is_empty();
        let switching =
            layer == self.target.spatial && (layer != self.current.spatial || stream.sync_required);
        if switching && known && incoming.info.key_frame {
            return self.switch(stream, incoming, streams, now);
        }
        if layer != self.current.spatial || stream.sync_required {
            return None;
        }
        let picture = if known { self.picture(incoming) } else { None };
        let Some(picture) = picture else {
            stream.sequence.drop_input(incoming.seq);
            return None;
        };
        let before = self.current.temporal;
        self.current.temporal = self.current_temporal_layer();
        let effect = (before != self.current.temporal).then_some(Effect::LayersChanged);
        self.note_sent(incoming, now);
        admission(stream, incoming, Step { timestamp_offset: self.timestamp_offset, picture, effect })
    }

    /// Goes over to another stream, or starts the same one again, with a key frame.
    fn switch(
        &mut self,
        stream: &mut ConsumerStream,
        incoming: &Incoming<'_>,
        streams: &[ProducerStream],
        now: Instant,
    ) -> Option<Admission> {
        let clock_rate = stream.send.params().clock_rate;
        if std::mem::take(&mut self.gives_way) && self.target.spatial < self.current.spatial {
            // The queue is full: repeats of the larger pictures would keep those of the key frame out.
            stream.send.forget_sent();
        }
        self.timestamp_offset = self.align(incoming, streams, clock_rate, now);
        if let Some(rewriter) = &mut self.rewriter {
            rewriter.sync();
        }
        self.frames.restart();
        self.aim_temporal();
        let picture = self.picture(incoming)?;
        // A gap of one number tells the receiver that the frame before was not finished.
        stream.sequence.sync(incoming.seq.saturating_sub(u64::from(!self.frame_ended)));
        stream.sync_required = false;
        self.current = Layers { spatial: self.target.spatial, temporal: self.current_temporal_layer() };
        self.note_sent(incoming, now);
        let effect = Some(Effect::Started { seq: incoming.seq });
        admission(stream, incoming, Step { timestamp_offset: self.timestamp_offset, picture, effect })
    }

    /// The picture numbers of a packet that goes out, where its codec has any; `None` when it does not go out.
    fn picture(&mut self, incoming: &Incoming<'_>) -> Option<Option<vp8::Picture>> {
        match &mut self.rewriter {
            Some(rewriter) => rewriter.process(incoming.descriptor.as_ref()?).map(Some),
            None => match &incoming.layering {
                Layering::Frame(frame) => {
                    let selection = self.frames.select(frame, incoming.header.timestamp);
                    matches!(selection, Selection::Forward { .. }).then_some(None)
                }
                Layering::Plain | Layering::Unknown => Some(None),
            },
        }
    }

    /// Takes the temporal layer that is aimed at over to what picks the frames.
    fn aim_temporal(&mut self) {
        let temporal = u8::try_from(self.target.temporal).unwrap_or(0);
        if let Some(rewriter) = &mut self.rewriter {
            rewriter.set_target_temporal_layer(temporal);
        }
        self.frames.set_target(Some(Target { spatial: 0, temporal }));
    }

    fn current_temporal_layer(&self) -> i16 {
        match &self.rewriter {
            Some(rewriter) => i16::from(rewriter.current_temporal_layer()),
            None => self.frames.current().map_or(self.most.temporal, |current| current.temporal.into()),
        }
    }

    fn note_sent(&mut self, incoming: &Incoming<'_>, now: Instant) {
        let timestamp = incoming.header.timestamp.wrapping_add(self.timestamp_offset);
        let newer = self.newest.is_none_or(|(newest, _)| timestamp.wrapping_sub(newest).cast_signed() >= 0);
        if newer {
            self.newest = Some((timestamp, now));
        }
        if incoming.newest {
            self.frame_ended = incoming.header.marker;
        }
    }

    /// What must be added to the timestamps of the stream that starts now, so that they go on where those before were:
    /// by the sender reports of both streams where there are any, else by the time that has passed.
    fn align(
        &mut self,
        incoming: &Incoming<'_>,
        streams: &[ProducerStream],
        clock_rate: u32,
        now: Instant,
    ) -> u32 {
        let timestamp = incoming.header.timestamp;
        let Some((newest, sent_at)) = self.newest else {
            self.reference = Some(incoming.encoding);
            return 0;
        };
        let elapsed_us =
            u64::try_from(now.saturating_duration_since(sent_at).as_micros()).unwrap_or(u64::MAX);
        let elapsed = ticks(elapsed_us, clock_rate);
        let by_reports = self.offset_by_reports(incoming.encoding, streams, clock_rate);
        let offset = by_reports.unwrap_or_else(|| newest.wrapping_add(elapsed).wrapping_sub(timestamp));
        if by_reports.is_none() {
            self.reference = None;
        }
        // Whatever the reports say, a receiver's frames must not go back in time.
        let least = newest.wrapping_add(ticks(FRAME_MS * 1000, clock_rate));
        let aligned = timestamp.wrapping_add(offset);
        if aligned.wrapping_sub(newest).cast_signed() <= 0 {
            return least.wrapping_sub(timestamp);
        }
        offset
    }

    fn offset_by_reports(&self, encoding: u8, streams: &[ProducerStream], clock_rate: u32) -> Option<u32> {
        let reference = self.reference?;
        if reference == encoding {
            return Some(0);
        }
        let report = |encoding: u8| {
            streams
                .iter()
                .find(|stream| stream.encoding_idx == encoding)
                .and_then(|stream| stream.recv.sender_report())
        };
        let (reference, ours) = (report(reference)?, report(encoding)?);
        // NTP time is 32.32 fixed point; the distance fits 64 bits signed.
        let distance = ours.ntp.0.wrapping_sub(reference.ntp.0).cast_signed();
        if distance.unsigned_abs() >> 32 > MAX_REPORT_DISTANCE_S {
            return None;
        }
        let distance = (i128::from(distance) * i128::from(clock_rate)) >> 32;
        let in_reference = reference.rtp_timestamp.wrapping_add(distance as u32);
        Some(in_reference.wrapping_sub(ours.rtp_timestamp))
    }
}

fn ticks(us: u64, clock_rate: u32) -> u32 {
    let ticks = u128::from(us) * u128::from(clock_rate) / 1_000_000;
    // Timestamps wrap: the lower 32 bits are what counts.
    (ticks & u128::from(u32::MAX)) as u32
}

impl Worker {
    /// Aims a Consumer at layers of its ladder, or at none.
    pub fn aim(&mut self, index: ConsumerIdx, target: Layers, now: Instant) {
        let Some(consumer) = self.consumers.get_mut(index) else { return };
        if target == consumer.forwarding.target() {
            return;
        }
        let simulcast = match &mut consumer.forwarding {
            Forwarding::Simulcast(simulcast) => simulcast,
            Forwarding::Svc(svc) => {
                let has_left = target.spatial < svc.current().spatial
                    && consumer.streams.iter().any(|stream| stream.sync_required);
                let (needs_key_frame, producer) = (svc.aim(target), consumer.producer);
                if target == Layers::NONE {
                    require_sync(&mut consumer.streams);
                    self.notify_consumer_layers(index);
                } else if has_left {
                    let at = now + self.drain(index, target, now);
                    self.request_key_frame_at(producer, 0, at, now);
                } else if needs_key_frame {
                    self.request_key_frame(producer, 0, now);
                }
                return;
            }
            Forwarding::Simple | Forwarding::Pipe => return,
        };
        simulcast.target = target;
        if target == Layers::NONE {
            simulcast.current = Layers::NONE;
            require_sync(&mut consumer.streams);
            self.notify_consumer_layers(index);
            return;
        }
        if target.spatial == simulcast.current.spatial {
            simulcast.aim_temporal();
            if consumer.streams.iter().any(|stream| stream.sync_required) {
                // It was left, and nothing else has begun yet.
                let (producer, encoding) = (consumer.producer, u8::try_from(target.spatial).unwrap_or(0));
                self.request_key_frame(producer, encoding, now);
            }
        } else {
            // Until the lower stream's key frame comes, the present one goes on, with as little as it can.
            if target.spatial < simulcast.current.spatial
                && let Some(rewriter) = &mut simulcast.rewriter
            {
                rewriter.set_target_temporal_layer(0);
            }
            let has_left = target.spatial < simulcast.current.spatial
                && consumer.streams.iter().any(|stream| stream.sync_required);
            let (producer, encoding) = (consumer.producer, u8::try_from(target.spatial).unwrap_or(0));
            let at = if has_left { now + self.drain(index, target, now) } else { now };
            self.request_key_frame_at(producer, encoding, at, now);
        }
    }

    /// How long a full queue takes until it has room for the key frame of these layers.
    fn drain(&mut self, index: ConsumerIdx, layers: Layers, now: Instant) -> Duration {
        let consumer = &self.consumers[index];
        let Some(bwe) = &self.transports[consumer.transport].bwe else { return DRAIN.0 };
        let estimate = bwe.estimator.estimate().0.max(1);
        let spatial = u8::try_from(layers.spatial).unwrap_or(0);
        let producer = &mut self.producers[consumer.producer];
        let bitrate = match consumer.forwarding {
            Forwarding::Svc(_) => {
                let temporal = u8::try_from(layers.temporal).unwrap_or(0);
                producer.stream_mut(0).map(|stream| stream.layer_bitrate(spatial, temporal, now))
            }
            _ => producer.stream_mut(spatial).map(|stream| stream.bitrate(now)),
        };
        KEY_FRAME.mul_f64((bitrate.unwrap_or(0) as f64 / estimate as f64).min(10.0)).clamp(DRAIN.0, DRAIN.1)
    }

    /// Stops what is being forwarded before the lower stream or layer that is aimed at has begun with a key frame: not even
    /// the least of it fits the link any more, and the key frame would have to wait behind it, and behind its repeats. Layers
    /// that all pictures need one another for could go down at once; but of what was sent before, the queue has lost some by
    /// then, and no later picture is decoded without its repeats.
    pub fn leave_stream(&mut self, index: ConsumerIdx) {
        let Some(consumer) = self.consumers.get_mut(index) else { return };
        require_sync(&mut consumer.streams);
        consumer.streams.iter_mut().for_each(|stream| stream.send.forget_sent());
        self.counters.streams_left += 1;
    }

    /// Answers `consumer.setPreferredLayers()`.
    pub fn set_preferred_layers(
        &mut self,
        index: ConsumerIdx,
        asked: &wire::ConsumerLayers,
    ) -> wire::SetPreferredLayersResponse {
        let preferred_layers = match &mut self.consumers[index].forwarding {
            Forwarding::Simple | Forwarding::Pipe => None,
            Forwarding::Svc(svc) => {
                svc.preferred = Layers::clamped(asked, svc.most);
                Some(svc.preferred)
            }
            Forwarding::Simulcast(simulcast) => {
                simulcast.preferred = Layers::clamped(asked, simulcast.most);
                Some(simulcast.preferred)
            }
        };
        self.deferred.push(crate::worker::Deferred::ConsumerLayers(index));
        wire::SetPreferredLayersResponse {
            preferred_layers: preferred_layers.map(|layers| Box::new(layers.to_wire())),
        }
    }

    /// A Consumer's Transport can send.
    pub fn consumer_transport_connected(&mut self, index: ConsumerIdx, now: Instant) {
        let Some(consumer) = self.consumers.get_mut(index) else { return };
        if std::mem::replace(&mut consumer.transport_connected, true) {
            return;
        }
        if consumer.is_active() {
            self.consumer_started(index, now);
        }
    }

    /// A Consumer's Transport cannot send any more.
    pub fn consumer_transport_disconnected(&mut self, index: ConsumerIdx) {
        let Some(consumer) = self.consumers.get_mut(index) else { return };
        let was_active = consumer.is_active();
        consumer.transport_connected = false;
        if was_active {
            self.consumer_stopped(index);
        }
    }

    /// A Consumer's Producer was paused.
    pub fn consumer_producer_paused(&mut self, index: ConsumerIdx) {
        let Some(consumer) = self.consumers.get_mut(index) else { return };
        let was_active = consumer.is_active();
        if std::mem::replace(&mut consumer.producer_paused, true) {
            return;
        }
        let id = consumer.id.clone();
        if was_active {
            self.consumer_stopped(index);
        }
        self.outbox.notify(&id, worker_protocol::wire::notification::Event::ConsumerProducerPause, None);
    }

    /// A Consumer's Producer goes on.
    pub fn consumer_producer_resumed(&mut self, index: ConsumerIdx, now: Instant) {
        let Some(consumer) = self.consumers.get_mut(index) else { return };
        if !std::mem::replace(&mut consumer.producer_paused, false) {
            return;
        }
        let id = consumer.id.clone();
        if consumer.is_active() {
            self.consumer_started(index, now);
        }
        self.outbox.notify(&id, worker_protocol::wire::notification::Event::ConsumerProducerResume, None);
    }

    /// A Consumer became active: it starts with a key frame, which is asked for.
    pub fn consumer_started(&mut self, index: ConsumerIdx, now: Instant) {
        let consumer = &mut self.consumers[index];
        require_sync(&mut consumer.streams);
        let transport = consumer.transport;
        self.expect_reports(transport, now);
        self.request_consumer_key_frames(index, now);
        self.update_layers(index, now);
    }

    /// A Consumer stopped being active.
    pub fn consumer_stopped(&mut self, index: ConsumerIdx) {
        let consumer = &mut self.consumers[index];
        for stream in &mut consumer.streams {
            stream.send.pause();
        }
        self.update_layers(index, Instant::now());
    }

    /// Asks for what a Consumer could start with.
    pub fn request_consumer_key_frames(&mut self, index: ConsumerIdx, now: Instant) {
        let consumer = &self.consumers[index];
        let producer = consumer.producer;
        match &consumer.forwarding {
            Forwarding::Simple | Forwarding::Svc(_) => self.request_key_frame(producer, 0, now),
            Forwarding::Simulcast(simulcast) => {
                let (target, current) = (simulcast.target.spatial, simulcast.current.spatial);
                for layer in [target, current] {
                    if let Ok(encoding) = u8::try_from(layer) {
                        self.request_key_frame(producer, encoding, now);
                    }
                }
            }
            Forwarding::Pipe => {
                for encoding in 0..consumer.streams.len() {
                    self.request_key_frame(producer, u8::try_from(encoding).unwrap_or(u8::MAX), now);
                }
            }
        }
    }
}
