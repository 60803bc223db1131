//! ActiveSpeakerObserver: who speaks, by the algorithm of I. Volfin and I. Cohen ("Dominant Speaker Identification for
//! Multipoint Videoconferencing", Computer Speech & Language 27(4), 2013), with the constants of Jitsi's
//! implementation, which mediasoup's observer has too.
//!
//! Levels (RFC 6464) stand for 20 ms each. How active somebody is, is judged over three spans: the newest level, the
//! newest block of five levels, and a second as a whole. Somebody becomes dominant when he is clearly more active than
//! the present dominant speaker over all three; a cough is not enough, and silence dethrones nobody.
//!
//! Pure state: told of levels, pauses and ends of intervals, it answers with who became dominant.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rtc::rtp::AudioLevel;
use worker_protocol::wire::active_speaker_observer as wire;

use super::Event;
use crate::table::ProducerIdx;

/// The shortest and the longest interval, in ms; what is asked for is brought between them.
const INTERVAL_MS: (u16, u16) = (100, 5000);
/// Levels that are looked back on: one second.
const LEVELS: usize = 50;
/// Blocks of levels in it.
const BLOCKS: usize = 10;
/// Levels in a block.
const BLOCK: usize = LEVELS / BLOCKS;
/// The time that one level stands for.
const STEP: Duration = Duration::from_millis(20);
/// Time without a packet after which the level is taken for none at all.
const IDLE: Duration = Duration::from_millis(40);
/// The loudest level; the quietest is 0.
const MAX_LEVEL: u8 = 127;
/// Units that the range of levels is cut into.
const UNITS: u8 = 13;
/// Width of a unit.
const UNIT: u8 = MAX_LEVEL.div_ceil(UNITS);
/// Units above which a level counts for its block.
const BLOCK_THRESHOLD: u8 = 7;
/// Levels above which a block counts for the whole: all of them must.
const WHOLE_THRESHOLD: usize = 4;
/// How much more active (natural logarithm of the scores' quotient) somebody must be over each span, shortest first.
const MARGINS: [f64; 3] = [3.0, 2.0, 0.0];
/// The rates of the exponential distribution that a silent one's activity has, by span.
const SILENCE_RATES: [f64; 3] = [0.78, 24.0, 47.0];
/// The score of no activity at all; logarithms need something above zero.
const LEAST_SCORE: f64 = 1e-10;
/// Levels after which the noise floor is estimated anew: 15 s.
const FLOOR_WINDOW: u32 = 750;

/// The state of an ActiveSpeakerObserver.
#[derive(Debug)]
pub struct ActiveSpeakerObserver {
    interval: Duration,
    speakers: BTreeMap<ProducerIdx, Speaker>,
    dominant: Option<ProducerIdx>,
}

impl ActiveSpeakerObserver {
    /// An observer of nobody yet.
    pub fn new(options: &wire::ActiveSpeakerObserverOptions) -> Self {
        let interval_ms = options.interval.clamp(INTERVAL_MS.0, INTERVAL_MS.1);
        Self {
            interval: Duration::from_millis(u64::from(interval_ms)),
            speakers: BTreeMap::new(),
            dominant: None,
        }
    }

    /// How often it compares.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// Watches a Producer; `false` if it is watched already.
    pub fn add_producer(&mut self, producer: ProducerIdx, paused: bool, now: Instant) -> bool {
        if self.speakers.contains_key(&producer) {
            return false;
        }
        self.speakers.insert(producer, Speaker::new(paused, now));
        true
    }

    /// Watches a Producer no more. If it was the dominant one, the others are compared at once.
    pub fn remove_producer(&mut self, producer: ProducerIdx) -> Option<Event> {
        self.speakers.remove(&producer)?;
        if self.dominant != Some(producer) {
            return None;
        }
        self.dominant = None;
        self.elect()
    }

    /// A Producer was paused: it cannot become dominant, though it stays so until another one does.
    pub fn pause_producer(&mut self, producer: ProducerIdx) {
        if let Some(speaker) = self.speakers.get_mut(&producer) {
            speaker.paused = true;
        }
    }

    /// A Producer goes on.
    pub fn resume_producer(&mut self, producer: ProducerIdx) {
        if let Some(speaker) = self.speakers.get_mut(&producer) {
            speaker.paused = false;
        }
    }

    /// A packet of a Producer said how loud it is. Whether its sender takes it for voice is not asked: senders differ
    /// too much in that.
    pub fn audio_level(&mut self, producer: ProducerIdx, level: AudioLevel, now: Instant) {
        if let Some(speaker) = self.speakers.get_mut(&producer) {
            speaker.push(MAX_LEVEL.saturating_sub(level.minus_dbov), now);
        }
    }

    /// The interval ended: all are compared.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Event> {
        for speaker in self.speakers.values_mut() {
            if now.saturating_duration_since(speaker.heard_at) > IDLE {
                speaker.push(0, now);
            }
        }
        self.elect()
    }

    /// Looks for the dominant speaker; an event if it is another one than before.
    fn elect(&mut self) -> Option<Event> {
        let reference = match self.dominant {
            Some(dominant) => dominant,
            // Somebody must be compared with, and is dominant if nobody surpasses him: who is not muted, if possible.
            None => *self.speakers.iter().min_by_key(|(_, speaker)| speaker.paused)?.0,
        };
        let elected = self.challenger(reference).unwrap_or(reference);
        if self.dominant.replace(elected) == Some(elected) {
            return None;
        }
        Some(Event::DominantSpeaker(elected))
    }

    /// Who is clearly more active than `reference`; of several, the one who is most so in the middle span.
    fn challenger(&self, reference: ProducerIdx) -> Option<ProducerIdx> {
        let ours = self.speakers.get(&reference)?.scores();
        let mut found = None;
        let mut best = f64::NEG_INFINITY;
        for (producer, speaker) in &self.speakers {
            if *producer == reference || speaker.paused {
                continue;
            }
            let theirs = speaker.scores();
            let lead: [f64; 3] = std::array::from_fn(|span| (theirs[span] / ours[span]).ln() - MARGINS[span]);
            if lead.iter().all(|lead| *lead > 0.0) && lead[1] > best {
                best = lead[1];
                found = Some(*producer);
            }
        }
        found
    }
}

/// What is known of one Producer.
#[derive(Debug)]
struct Speaker {
    paused: bool,
    /// The last levels, a ring.
    levels: [u8; LEVELS],
    /// Where the next level goes.
    next: usize,
    heard_at: Instant,
    floor: NoiseFloor,
}

impl Speaker {
    fn new(paused: bool, now: Instant) -> Self {
        Self { paused, levels: [0; LEVELS], next: 0, heard_at: now, floor: NoiseFloor::default() }
    }

    /// A level is taken to have held since the one before, as far as is looked back: packets may last longer than a
    /// step, or be left out in silence.
    fn push(&mut self, level: u8, now: Instant) {
        let elapsed = now.saturating_duration_since(self.heard_at);
        self.heard_at = now;
        let steps =
            usize::try_from(elapsed.as_millis() / STEP.as_millis()).unwrap_or(LEVELS).clamp(1, LEVELS);
        for _ in 0..steps {
            self.levels[self.next] = level;
            self.next = (self.next + 1) % LEVELS;
        }
        self.floor.push(level);
    }

    /// How active he is over each span, shortest first.
    fn scores(&self) -> [f64; 3] {
        let noise = self.floor.noise();
        let units = |back: usize| {
            let level = self.levels[(self.next + LEVELS - 1 - back) % LEVELS];
            if level < noise { 0 } else { level / UNIT }
        };
        let loud_levels =
            |block: usize| (0..BLOCK).filter(|step| units(block * BLOCK + step) > BLOCK_THRESHOLD).count();
        let loud_blocks = (0..BLOCKS).filter(|block| loud_levels(*block) > WHOLE_THRESHOLD).count();
        [
            score(usize::from(units(0)), usize::from(UNITS), SILENCE_RATES[0]),
            score(loud_levels(0), BLOCK, SILENCE_RATES[1]),
            score(loud_blocks, BLOCKS, SILENCE_RATES[2]),
        ]
    }
}

/// The quietest level but silence itself, which rises slowly where everything got louder.
#[derive(Debug, Default)]
struct NoiseFloor {
    /// 0 while only silence came.
    level: u8,
    /// The quietest of the current window, 0 before it began.
    window_min: u8,
    window_len: u32,
}

impl NoiseFloor {
    fn push(&mut self, level: u8) {
        if level == 0 {
            return;
        }
        if self.level == 0 || level < self.level {
            *self = Self { level, ..Self::default() };
            return;
        }
        self.window_min = if self.window_min == 0 { level } else { self.window_min.min(level) };
        self.window_len += 1;
        if self.window_len >= FLOOR_WINDOW {
            // The geometric mean of two 7 bit values has 7 bits.
            let mean = (u32::from(self.level) * u32::from(self.window_min)).isqrt();
            *self = Self { level: u8::try_from(mean).unwrap_or(MAX_LEVEL), ..Self::default() };
        }
    }

    /// Levels below this are noise. Where it would leave nothing, the floor is loud speech and not noise at all.
    fn noise(&self) -> u8 {
        let noise = self.level + UNIT;
        if noise > MAX_LEVEL { 0 } else { noise }
    }
}

/// The logarithm of how much better speech explains that `active` of `of` parts are active than silence does: speech
/// makes each active with probability 1/2, in silence their number is distributed exponentially.
fn score(active: usize, of: usize, silence_rate: f64) -> f64 {
    let (active, of) = (f64_of(active), f64_of(of));
    let speech = ln_binomial(of, active) - of * std::f64::consts::LN_2;
    let silence = silence_rate.ln() - silence_rate * active;
    (speech - silence).max(LEAST_SCORE)
}

/// The logarithm of the number of ways to choose `k` of `n`.
fn ln_binomial(n: f64, k: f64) -> f64 {
    let mut product = 1.0;
    let mut step = 0.0;
    while step < k {
        product *= (n - step) / (step + 1.0);
        step += 1.0;
    }
    product.ln()
}

/// Counts here are below 64.
fn f64_of(count: usize) -> f64 {
    f64::from(u8::try_from(count).unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests;
