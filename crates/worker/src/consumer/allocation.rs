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

/// Rungs of a spatial layer that lies above another one. Less than half of its frames a second are worse than all those of
/// the one below it, and cost more.
const RUNGS_ABOVE: usize = 2;
/// And so are fewer frames a second than this.
const LEAST_FRAME_RATE: f64 = 12.0;

/// A stream above another one is measured for so long…
const UNMEASURED: Duration = Duration::from_millis(500);
/// …and until then taken to cost so much: to switch up to it and down again takes two key frames.
const UNMEASURED_BITRATE: u64 = 2_000_000;

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
            let first = ladder.len();
            push_temporal_layers(&mut ladder, stream, 0, Layers { spatial, temporal: top }, now);
            let unmeasured = now.saturating_duration_since(stream.active_since) < UNMEASURED;
            for rung in ladder.iter_mut().skip(first).filter(|_| first > 0 && unmeasured) {
                rung.bitrate = rung.bitrate.max(UNMEASURED_BITRATE);
            }
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
    if first > 0 {
        let above = ladder.len() - first;
        let frames = stream.layer_frame_rates(spatial_in_stream, now);
        let too_few =
            |rung: &Rung| frames.is_some_and(|frames| frames.of(rung.layers.temporal) < LEAST_FRAME_RATE);
        let rungs = ladder.get(first..).unwrap_or_default().iter().enumerate();
        let spared = rungs
            .take_while(|(place, rung)| place + 1 < above && (place + RUNGS_ABOVE < above || too_few(rung)));
        let spared = spared.count();
        ladder.drain(first..first + spared);
    }
    if let Some(last) = ladder.get_mut(first..).and_then(<[Rung]>::last_mut) {
        last.layers.temporal = top.temporal;
    } else if !ladder.is_full() {
        // It is alive but not measured yet, and is taken to cost no less than what lies below it.
        let bitrate = ladder.last().map_or(0, |below| below.bitrate);
        ladder.push(Rung { layers: top, bitrate });
    }
}

/// Frames a second of temporal layers, of which each doubles them: so all encoders have it.
#[derive(Debug, Clone, Copy)]
struct FrameRates {
    whole: f64,
    top: i16,
}

impl FrameRates {
    fn of(self, temporal: i16) -> f64 {
        self.whole / f64::from(1_u16 << (self.top - temporal).clamp(0, 15))
    }
}

impl ProducerStream {
    /// The frames a second of a spatial layer's temporal layers, where any are measured.
    fn layer_frame_rates(&mut self, spatial: u8, now: Instant) -> Option<FrameRates> {
        let whole = self.recv.frame_rate()?;
        let layers = self.recv.params().temporal_layers;
        let top = (0..layers).rev().find(|temporal| self.layer_bitrate(spatial, *temporal, now) > 0)?;
        Some(FrameRates { whole, top: top.into() })
    }

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
/// What is being forwarded may exceed its share by this much of its bitrate before it is given up: a queue that built up
/// once takes the estimate to 0.85 of what arrives, and is not yet a reason to show less.
const KEEP_SLACK: f64 = 0.16;
/// The same for the base, below which there is only nothing.
const KEEP_BASE_SLACK: f64 = 0.30;
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
    /// Until when it stays within its spatial layer…
    stream_until: Option<Instant>,
    /// …and until when below the temporal layer that it gave up.
    temporal_until: Option<Instant>,
    hold: Option<Duration>,
    /// When it climbed to another spatial layer and has not fallen since.
    climbed_at: Option<Instant>,
}

/// What a Consumer must not climb to yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Another spatial layer.
    pub spatial: bool,
    /// More of the one that it has.
    pub temporal: bool,
}

impl Patience {
    /// What it must not climb to yet.
    pub fn held(&self, now: Instant) -> Held {
        let until = |until: Option<Instant>| until.is_some_and(|until| now < until);
        Held { spatial: until(self.stream_until), temporal: until(self.temporal_until) }
    }

    /// It went from one rung to another because of bandwidth.
    pub fn moved(&mut self, from: Layers, to: Layers, now: Instant) {
        if (to.spatial, to.temporal) >= (from.spatial, from.temporal) {
            if to.spatial > from.spatial {
                self.climbed_at = Some(now);
            }
        } else if to.spatial == from.spatial {
            self.temporal_until = Some(now + TEMPORAL_HOLD);
        } else {
            // Who falls by two layers in two steps failed once.
            let failed = self.climbed_at.take().map(|at| now.saturating_duration_since(at) < LASTING);
            let hold = match (self.hold, failed) {
                (Some(hold), Some(true)) => (hold * 2).min(MAX_HOLD),
                (Some(hold), None) => hold,
                _ => HOLD,
            };
            self.hold = Some(hold);
            self.stream_until = Some(now + hold);
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
    /// What above that it must not go to yet.
    pub held: Held,
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

    /// What the rung that it is given takes, in bit/s.
    pub fn bitrate(&self) -> u64 {
        self.cost(self.rung)
    }

    fn cost(&self, rung: Option<usize>) -> u64 {
        rung.and_then(|rung| self.ladder.get(rung)).map_or(0, |rung| rung.bitrate)
    }

    /// The next step up: its rung, what it takes more than the present one, and what has to be free for it.
    fn step(&self) -> Option<(usize, u64, i64)> {
        let rung = self.rung.map_or(0, |rung| rung + 1);
        let bitrate = self.ladder.get(rung)?.bitrate;
        let more = bitrate.saturating_sub(self.cost(self.rung));
        let margin = match self.current {
            Some(_) if rung == 0 => -KEEP_BASE_SLACK,
            Some(current) if rung <= current => -KEEP_SLACK,
            _ => CLIMB_MARGIN,
        };
        let margin = (bitrate as f64 * margin) as i64;
        Some((rung, more, more.cast_signed().saturating_add(margin)))
    }

    fn may_climb(&self) -> bool {
        let next = self.rung.map_or(0, |rung| rung + 1);
        let Some(current) = self.current else {
            // Nothing at all is shown: the base is not waited for, what lies above it is.
            return next == 0 || !self.held.spatial;
        };
        let spatial = |rung: usize| self.ladder.get(rung).map(|rung| rung.layers.spatial);
        next <= current
            || if spatial(next) == spatial(current) { !self.held.temporal } else { !self.held.spatial }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A Consumer at `current` of a ladder with these bitrates in kbit/s.
    fn share(number: usize, priority: u8, kbps: &[u64], current: Option<usize>) -> Share {
        let ladder = kbps
            .iter()
            .zip(0..)
            .map(|(kbps, spatial)| Rung { layers: Layers { spatial, temporal: 0 }, bitrate: kbps * 1000 })
            .collect();
        let consumer = crate::table::Index::from_usize(number);
        Share { consumer, priority, ladder, current, held: Held::default(), rung: None }
    }

    fn rungs(shares: &[Share]) -> Vec<Option<usize>> {
        let mut shares: Vec<_> = shares.iter().collect();
        shares.sort_by_key(|share| crate::table::Index::to_usize(share.consumer));
        shares.into_iter().map(|share| share.rung).collect()
    }

    #[test]
    fn everybody_gets_the_base_before_anybody_gets_more() {
        let mut shares = [
            share(0, 1, &[100, 500], None),
            share(1, 255, &[100, 500], None),
            share(2, 1, &[100, 500], None),
        ];
        allocate(&mut shares, 400_000);
        assert_eq!(rungs(&shares), [Some(0), Some(0), Some(0)]);
        let plan = allocate(&mut shares, 800_000);
        assert_eq!(rungs(&shares), [Some(0), Some(1), Some(0)], "the higher priority climbs first");
        assert_eq!(plan, Plan { spent: 700_000, next: 1_150_000, most: 1_500_000 });
    }

    #[test]
    fn priority_is_the_number_of_steps_at_a_time() {
        let kbps = [100, 200, 300, 400];
        let mut shares = [share(0, 1, &kbps, None), share(1, 3, &kbps, None)];
        allocate(&mut shares, 540_000);
        assert_eq!(rungs(&shares), [Some(0), Some(3)]);
    }

    #[test]
    fn what_is_forwarded_is_kept_with_less_than_it_took_to_get_there() {
        for (current, budget, expected) in [
            (Some(0), 540_000, Some(0)),
            (Some(0), 550_000, Some(1)),
            (Some(1), 430_000, Some(1)),
            (Some(1), 410_000, Some(0)),
            (Some(0), 75_000, Some(0)),
            (Some(0), 60_000, None),
            (None, 100_000, None),
            (None, 110_000, Some(0)),
        ] {
            let mut shares = [share(0, 1, &[100, 500], current)];
            allocate(&mut shares, budget);
            assert_eq!(rungs(&shares), [expected], "{budget} bit/s from {current:?}");
        }
    }

    #[test]
    fn who_is_held_stays_and_is_not_probed_for() {
        let mut shares = [share(0, 1, &[100, 500], Some(0))];
        shares[0].held = Held { spatial: true, temporal: false };
        let plan = allocate(&mut shares, 5_000_000);
        assert_eq!(rungs(&shares), [Some(0)]);
        assert_eq!(plan.next, 0);
    }

    #[test]
    fn a_higher_stream_that_takes_less_is_no_obstacle() {
        let mut shares = [share(0, 1, &[300, 200, 900], Some(0))];
        let plan = allocate(&mut shares, 400_000);
        assert_eq!(rungs(&shares), [Some(1)]);
        assert_eq!(plan.spent, 200_000);
    }

    #[test]
    fn who_is_held_from_other_streams_gets_all_frames_of_the_one_he_has() {
        let layers = [(0, 0), (0, 1), (0, 2), (1, 2)];
        let mut shares = [share(0, 1, &[60, 90, 150, 500], Some(0))];
        for (rung, (spatial, temporal)) in shares[0].ladder.iter_mut().zip(layers) {
            rung.layers = Layers { spatial, temporal };
        }
        shares[0].held = Held { spatial: true, temporal: false };
        allocate(&mut shares, 5_000_000);
        assert_eq!(rungs(&shares), [Some(2)]);
        shares[0].held = Held { spatial: false, temporal: true };
        allocate(&mut shares, 5_000_000);
        assert_eq!(rungs(&shares), [Some(0)]);
        (shares[0].current, shares[0].held) = (None, Held { spatial: true, temporal: true });
        allocate(&mut shares, 70_000);
        assert_eq!(rungs(&shares), [Some(0)], "nothing at all is worse than a switch");
    }

    #[test]
    fn a_fall_by_two_streams_in_two_steps_is_one_failure() {
        let layers = |spatial| Layers { spatial, temporal: 0 };
        let mut patience = Patience::default();
        let now = Instant::now();
        patience.moved(layers(0), layers(2), now);
        let fell = now + Duration::from_secs(3);
        patience.moved(layers(2), layers(1), fell);
        patience.moved(layers(1), layers(0), fell);
        assert!(!patience.held(fell + HOLD).spatial);
    }

    #[test]
    fn patience_grows_with_each_climb_that_did_not_last() {
        let (low, high) = (Layers { spatial: 0, temporal: 0 }, Layers { spatial: 1, temporal: 0 });
        let mut now = Instant::now();
        let mut patience = Patience::default();
        let mut holds = Vec::new();
        for _ in 0..7 {
            patience.moved(low, high, now);
            now += Duration::from_secs(3);
            patience.moved(high, low, now);
            let fell = now;
            while patience.held(now).spatial {
                now += Duration::from_secs(1);
            }
            holds.push((now - fell).as_secs());
        }
        assert_eq!(holds, [4, 8, 16, 32, 64, 64, 64]);
        patience.moved(low, high, now);
        now += LASTING;
        patience.moved(high, low, now);
        assert!(patience.held(now).spatial && !patience.held(now + HOLD).spatial);
    }
}
