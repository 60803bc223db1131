//! What a Consumer could get, what each step of it costs, and how far the Consumers of one Transport climb together:
//! ladders, and the giving out of bandwidth by them.
//!
//! How much there is to give out is the Transport's business (`transport/bwe.rs`). Where nothing estimates that, its
//! Consumers take their highest rung.

use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use rtc::codec::vp9::SpatialDependency;
use rtc::rate::RateCounter;

use super::layers::{Forwarding, Layers, Simulcast};
use super::svc::Svc;
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
            Self::Svc(svc) => svc.ladder(streams, now),
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

impl Svc {
    /// The spatial layers that flow, up to the preferred one; where none of these does, the lowest one that does.
    fn ladder(&self, streams: &mut [ProducerStream], now: Instant) -> Ladder {
        let mut ladder = Ladder::new();
        let Some(stream) = streams.first_mut() else { return ladder };
        for spatial in 0..=self.most.spatial {
            if spatial > self.preferred.spatial && !ladder.is_empty() {
                break;
            }
            let in_stream = u8::try_from(spatial).unwrap_or(0);
            if !stream.activity.flows(in_stream) {
                continue;
            }
            let top = self.preferred.temporal.min(self.most.temporal);
            push_temporal_layers(&mut ladder, stream, in_stream, Layers { spatial, temporal: top }, now);
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

impl ProducerStream {
    /// Bit/s of these layers with all that they need in every picture; of a stream that is younger than the window of its counters, what it will come to.
    pub fn layer_bitrate(&mut self, spatial: u8, temporal: u8, now: Instant) -> u64 {
        let lowest = match self.dependency {
            SpatialDependency::Full => 0,
            SpatialDependency::KeyOnly => spatial,
        };
        let measured = self.recv.target_bitrate(lowest, spatial, temporal, now);
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

/// A step up must leave this share of the new rung's bitrate free, so that the first larger frame does not undo it.
const CLIMB_MARGIN: f64 = 0.10;
/// What is being forwarded may exceed its share by this much of its bitrate before it is given up.
const KEEP_SLACK: f64 = 0.08;
/// How long a Consumer that had to step down to another stream does not climb again; each failed attempt doubles it.
const HOLD: Duration = Duration::from_secs(4);
/// The longest such time.
const MAX_HOLD: Duration = Duration::from_secs(64);
/// A climb that lasted so long was no failed attempt.
const LASTING: Duration = Duration::from_secs(20);
/// How long it does not climb again where only temporal layers were given up: that costs no key frame.
const TEMPORAL_HOLD: Duration = Duration::from_secs(2);

/// A Consumer's patience: who fell is not to climb at once, and who fell again right after climbing even less.
#[derive(Debug, Clone, Copy, Default)]
pub struct Patience {
    held_until: Option<Instant>,
    hold: Option<Duration>,
    climbed_at: Option<Instant>,
}

impl Patience {
    /// Whether it must not climb yet.
    pub fn is_held(&self, now: Instant) -> bool {
        self.held_until.is_some_and(|until| now < until)
    }

    /// It went from one rung to another because of bandwidth.
    pub fn moved(&mut self, from: Layers, to: Layers, now: Instant) {
        let below = (to.spatial, to.temporal) < (from.spatial, from.temporal);
        if !below {
            self.climbed_at = Some(now);
        } else if to.spatial == from.spatial {
            self.held_until = self.held_until.max(Some(now + TEMPORAL_HOLD));
        } else {
            let lasted = self.climbed_at.is_none_or(|at| now.saturating_duration_since(at) >= LASTING);
            let hold = self.hold.filter(|_| !lasted).map_or(HOLD, |hold| (hold * 2).min(MAX_HOLD));
            self.hold = Some(hold);
            self.held_until = Some(now + hold);
        }
    }
}

/// A Consumer that takes part when bandwidth is given out.
#[derive(Debug)]
pub struct Share {
    /// Who it is.
    pub consumer: ConsumerIdx,
    /// How many steps at a time it may take, and how early in a round.
    pub priority: u8,
    /// What it could get.
    pub ladder: Ladder,
    /// The rung that it aims at now.
    pub current: Option<usize>,
    /// Whether it must not go above that.
    pub held: bool,
    /// The rung that it is given.
    pub rung: Option<usize>,
}

/// What giving out came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Plan {
    /// Bit/s of all rungs given.
    pub spent: u64,
    /// Bit/s with which somebody would climb; 0 where nobody can or may.
    pub next: u64,
    /// Bit/s with which everybody would have the highest rung.
    pub most: u64,
}

impl Share {
    /// The layers of the rung that it is given.
    pub fn layers(&self) -> Layers {
        self.rung.and_then(|rung| self.ladder.get(rung)).map_or(Layers::NONE, |rung| rung.layers)
    }

    /// Where `target` is on a ladder: its highest rung that is not above it.
    pub fn place(ladder: &Ladder, target: Layers) -> Option<usize> {
        let height = |layers: Layers| (layers.spatial, layers.temporal);
        ladder.iter().rposition(|rung| height(rung.layers) <= height(target))
    }

    fn cost(&self, rung: Option<usize>) -> u64 {
        rung.and_then(|rung| self.ladder.get(rung)).map_or(0, |rung| rung.bitrate)
    }

    /// The next step up: its rung, what it takes more than the present one, and what has to be free for it.
    fn step(&self) -> Option<(usize, u64, i64)> {
        let rung = self.rung.map_or(0, |rung| rung + 1);
        let bitrate = self.ladder.get(rung)?.bitrate;
        let more = bitrate.saturating_sub(self.cost(self.rung));
        let margin = if self.current.is_some_and(|current| rung <= current) {
            -(bitrate as f64 * KEEP_SLACK)
        } else {
            bitrate as f64 * CLIMB_MARGIN
        };
        Some((rung, more, more.cast_signed().saturating_add(margin as i64)))
    }

    fn may_climb(&self) -> bool {
        let next = self.rung.map_or(0, |rung| rung + 1);
        !self.held || self.current.is_some_and(|current| next <= current)
    }
}

/// Gives out `budget` bit/s, as mediasoup does: first the base of everybody, then round by round, those of high
/// priority first and with as many steps a round as their priority says.
pub fn allocate(shares: &mut [Share], budget: u64) -> Plan {
    shares.sort_by_key(|share| std::cmp::Reverse(share.priority));
    for share in &mut *shares {
        share.rung = None;
    }
    let mut left = i64::try_from(budget).unwrap_or(i64::MAX);
    let mut base = true;
    loop {
        let mut climbed = false;
        for share in &mut *shares {
            for _ in 0..(if base { 1 } else { share.priority }) {
                let Some((rung, more, needed)) = share.step() else { break };
                if needed > left || !share.may_climb() {
                    break;
                }
                share.rung = Some(rung);
                left = left.saturating_sub(more.cast_signed());
                climbed = true;
            }
        }
        if !climbed {
            break;
        }
        base = false;
    }
    let spent = shares.iter().map(|share| share.cost(share.rung)).sum::<u64>();
    let next = shares.iter().filter(|share| share.may_climb()).filter_map(Share::step);
    let next = next.map(|(_, _, needed)| spent.saturating_add_signed(needed)).min().unwrap_or(0);
    let most = shares.iter().filter_map(|share| share.ladder.iter().map(|rung| rung.bitrate).max()).sum();
    Plan { spent, next, most }
}

impl Worker {
    /// Aims a Consumer anew: its preference, its Producer's streams or its activity changed.
    pub fn update_layers(&mut self, index: ConsumerIdx, now: Instant) {
        let Some(consumer) = self.consumers.get_mut(index) else { return };
        if !consumer.is_active() {
            consumer.patience = Patience::default();
            self.aim(index, Layers::NONE, now);
        } else if consumer.is_adaptive() && self.transports[consumer.transport].bwe.is_some() {
            let transport = consumer.transport;
            self.distribute_bitrate(transport, now);
        } else {
            let streams = &mut self.producers[consumer.producer].streams;
            let top =
                consumer.forwarding.ladder(streams, now).last().map_or(Layers::NONE, |rung| rung.layers);
            self.aim(index, top, now);
        }
    }
}
