//! What a Consumer could get, and what each step of it costs: the ladder that bandwidth is given out by.
//!
//! A ladder says nothing of what may be spent; that is the Transport's business. Where nothing estimates the bandwidth
//! of a Transport, its Consumers take their highest rung.

use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use rtc::rate::RateCounter;

use super::layers::{Forwarding, Layers, Simulcast};
use crate::producer::ProducerStream;
use crate::table::ConsumerIdx;
use crate::worker::Worker;

/// Eight spatial layers with eight temporal ones each: no stream has more (see `params`).
pub const MAX_RUNGS: usize = 64;

/// Rates of a stream that is younger than this are not scaled up: its first key frame alone says nothing.
const YOUNGEST: Duration = Duration::from_millis(250);

/// One step of what a Consumer could get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rung {
    /// The layers to aim at.
    pub layers: Layers,
    /// What they take together with all that they depend on, in bit/s. Of simulcast that is the one stream.
    pub bitrate: u64,
}

/// From the least that makes a picture up to the preferred layers; empty where the Producer sends nothing usable.
///
/// Rungs ascend in layers. Their bitrates mostly do too, but a publisher may send a higher stream at a lower rate.
pub type Ladder = ArrayVec<Rung, MAX_RUNGS>;

impl Forwarding {
    /// What a Consumer could get of what its Producer sends at the moment. Layers that are announced but do not flow
    /// are left out; the top rung of each spatial layer names the preferred temporal layer, so that those which start
    /// later pass without another decision.
    pub fn ladder(&self, streams: &mut [ProducerStream], now: Instant) -> Ladder {
        match self {
            Self::Simulcast(simulcast) => simulcast.ladder(streams, now),
            Self::Svc { most, .. } => whole_stream(streams, *most, now),
            Self::Simple | Self::Pipe => Ladder::new(),
        }
    }
}

impl Simulcast {
    /// The streams up to the preferred one; where none of these is alive, the lowest one that is.
    fn ladder(&self, streams: &mut [ProducerStream], now: Instant) -> Ladder {
        let mut ladder = Ladder::new();
        for spatial in 0..=self.most.spatial {
            if spatial > self.preferred.spatial && !ladder.is_empty() {
                break;
            }
            let stream = streams
                .iter_mut()
                .find(|stream| i16::from(stream.encoding_idx) == spatial && stream.recv.score() > 0);
            let Some(stream) = stream else { continue };
            let top = self.preferred.temporal.min(self.most.temporal);
            push_temporal_layers(&mut ladder, stream, 0, Layers { spatial, temporal: top }, now);
        }
        ladder
    }
}

/// Adds the rungs of one spatial layer, whose place in its stream is `spatial_in_stream`; `top` is the highest of them.
pub fn push_temporal_layers(
    ladder: &mut Ladder,
    stream: &mut ProducerStream,
    spatial_in_stream: u8,
    top: Layers,
    now: Instant,
) {
    let first = ladder.len();
    for temporal in 0..=top.temporal {
        let bitrate = stream.layer_bitrate(spatial_in_stream, u8::try_from(temporal).unwrap_or(0), now);
        if bitrate > 0 && !ladder.is_full() {
            ladder.push(Rung { layers: Layers { spatial: top.spatial, temporal }, bitrate });
        }
    }
    if let Some(last) = ladder.get_mut(first..).and_then(<[Rung]>::last_mut) {
        last.layers.temporal = top.temporal;
    } else if !ladder.is_full() {
        // It is alive but not measured yet, and is taken to cost no less than what lies below it.
        let bitrate = ladder.last().map_or(0, |below| below.bitrate);
        ladder.push(Rung { layers: top, bitrate });
    }
}

/// The one rung of a stream that is forwarded as it comes.
fn whole_stream(streams: &mut [ProducerStream], layers: Layers, now: Instant) -> Ladder {
    let rungs = streams.iter_mut().take(1).map(|stream| Rung { layers, bitrate: stream.bitrate(now) });
    rungs.collect()
}

impl ProducerStream {
    /// Bit/s of these layers and those below them in the stream, as [`rtc::stream::recv::RecvStream::layer_bitrate`]; of
    /// a stream that is younger than the window of its counters, what it will come to.
    pub fn layer_bitrate(&mut self, spatial: u8, temporal: u8, now: Instant) -> u64 {
        let measured = self.recv.layer_bitrate(spatial, temporal, now);
        self.scaled(measured, now)
    }

    /// Bit/s of the whole stream, in the same way.
    pub fn bitrate(&mut self, now: Instant) -> u64 {
        let measured = self.recv.bitrate(now);
        self.scaled(measured, now)
    }

    fn scaled(&self, measured: u64, now: Instant) -> u64 {
        let age = now.saturating_duration_since(self.active_since).max(YOUNGEST);
        if age >= RateCounter::MEDIA {
            return measured;
        }
        let (window, age) = (RateCounter::MEDIA.as_millis() as u64, age.as_millis() as u64);
        measured.saturating_mul(window) / age
    }
}

impl Worker {
    /// Aims a Consumer anew: its preference, its Producer's streams or its activity changed.
    pub fn update_layers(&mut self, index: ConsumerIdx, now: Instant) {
        let Some(consumer) = self.consumers.get_mut(index) else { return };
        let target = if consumer.is_active() {
            let streams = &mut self.producers[consumer.producer].streams;
            consumer.forwarding.ladder(streams, now).last().map_or(Layers::NONE, |rung| rung.layers)
        } else {
            Layers::NONE
        };
        self.aim(index, target, now);
    }
}
