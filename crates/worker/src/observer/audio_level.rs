//! AudioLevelObserver: how loud its Producers are, averaged over an interval, the loudest first.
//!
//! Pure state: told of levels (RFC 6464), pauses and ends of intervals, it answers with what the driver is to hear. A
//! Producer that sent too little in an interval is not judged by it.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use rtc::rtp::AudioLevel;
use worker_protocol::wire::audio_level_observer as wire;

use super::Event;
use crate::error::{RequestError, RequestResult};
use crate::table::ProducerIdx;

/// Packets without which a Producer's average is not taken for its level.
const MIN_PACKETS: u32 = 10;

/// The shortest and the longest interval, in ms; what is asked for is brought between them.
const INTERVAL_MS: (u16, u16) = (250, 5000);

/// The state of an AudioLevelObserver.
#[derive(Debug)]
pub struct AudioLevelObserver {
    max_entries: usize,
    threshold_dbov: i8,
    interval: Duration,
    /// Whether the driver knows that nobody is loud.
    silence: bool,
    tallies: BTreeMap<ProducerIdx, Tally>,
}

/// What one Producer's packets said in the current interval.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    /// Sum of the levels, in -dBov. 5 s hold far fewer packets than it would take to overflow.
    sum: u32,
    packets: u32,
}

impl Tally {
    /// The average in dBov, if there is enough to take it from. Fractions are cut off towards 0, the loud side.
    fn average_dbov(self) -> Option<i8> {
        if self.packets < MIN_PACKETS {
            return None;
        }
        let average = i8::try_from(self.sum / self.packets).expect("an average of 7 bit values fits 7 bits");
        Some(-average)
    }
}

impl AudioLevelObserver {
    /// An observer of nobody yet.
    ///
    /// # Errors
    /// `TypeError` for a threshold above 0 dBov, which nothing can reach.
    pub fn new(options: &wire::AudioLevelObserverOptions) -> RequestResult<Self> {
        if options.threshold > 0 {
            return Err(RequestError::type_error(format!("invalid threshold value {}", options.threshold)));
        }
        Ok(Self {
            max_entries: usize::from(options.max_entries),
            threshold_dbov: options.threshold,
            interval: Duration::from_millis(u64::from(options.interval.clamp(INTERVAL_MS.0, INTERVAL_MS.1))),
            silence: true,
            tallies: BTreeMap::new(),
        })
    }

    /// How often it says something.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// Watches a Producer. One that is watched already stays as it is.
    pub fn add_producer(&mut self, producer: ProducerIdx) {
        self.tallies.entry(producer).or_default();
    }

    /// Watches a Producer no more.
    pub fn remove_producer(&mut self, producer: ProducerIdx) {
        self.tallies.remove(&producer);
    }

    /// A Producer was paused: what it said before is not of this interval any more. Nothing comes from it until it is
    /// resumed, so that it needs no mark.
    pub fn pause_producer(&mut self, producer: ProducerIdx) {
        if let Some(tally) = self.tallies.get_mut(&producer) {
            *tally = Tally::default();
        }
    }

    /// A packet of a Producer said how loud it is.
    pub fn audio_level(&mut self, producer: ProducerIdx, level: AudioLevel) {
        if let Some(tally) = self.tallies.get_mut(&producer) {
            tally.sum = tally.sum.saturating_add(u32::from(level.minus_dbov));
            tally.packets = tally.packets.saturating_add(1);
        }
    }

    /// The observer was paused: the interval is thrown away, and whoever was loud is no longer.
    pub fn pause(&mut self) -> Option<Event> {
        self.reset();
        self.fall_silent()
    }

    /// The interval ended: volumes if anybody is loud enough, silence when that ends.
    pub fn handle_timeout(&mut self) -> Option<Event> {
        let mut volumes: Vec<(ProducerIdx, i8)> = self
            .tallies
            .iter()
            .filter_map(|(producer, tally)| Some((*producer, tally.average_dbov()?)))
            .filter(|(_, dbov)| *dbov >= self.threshold_dbov)
            .collect();
        self.reset();
        if volumes.is_empty() {
            return self.fall_silent();
        }
        volumes.sort_by_key(|(_, dbov)| Reverse(*dbov));
        volumes.truncate(self.max_entries);
        self.silence = false;
        Some(Event::Volumes(volumes))
    }

    fn reset(&mut self) {
        for tally in self.tallies.values_mut() {
            *tally = Tally::default();
        }
    }

    fn fall_silent(&mut self) -> Option<Event> {
        let told = std::mem::replace(&mut self.silence, true);
        (!told).then_some(Event::Silence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Index;

    const A: usize = 0;
    const B: usize = 1;
    const C: usize = 2;

    struct Room(AudioLevelObserver);

    impl Room {
        fn new(max_entries: u16, threshold: i8, producers: &[usize]) -> Self {
            let options = wire::AudioLevelObserverOptions { max_entries, threshold, interval: 1000 };
            let mut observer = AudioLevelObserver::new(&options).unwrap();
            for producer in producers {
                observer.add_producer(ProducerIdx::from_usize(*producer));
            }
            Self(observer)
        }

        fn hear(&mut self, producer: usize, minus_dbov: u8, packets: usize) {
            for _ in 0..packets {
                let level = AudioLevel { voice: true, minus_dbov };
                self.0.audio_level(ProducerIdx::from_usize(producer), level);
            }
        }

        fn end_interval(&mut self) -> Option<Event> {
            self.0.handle_timeout()
        }
    }

    fn volumes(of: &[(usize, i8)]) -> Option<Event> {
        Some(Event::Volumes(
            of.iter().map(|(index, dbov)| (ProducerIdx::from_usize(*index), *dbov)).collect(),
        ))
    }

    #[test]
    fn the_loudest_come_first_and_no_more_than_asked_for() {
        let mut room = Room::new(2, -80, &[A, B, C]);
        room.hear(A, 60, 50);
        room.hear(B, 20, 50);
        room.hear(C, 40, 50);
        assert_eq!(room.end_interval(), volumes(&[(B, -20), (C, -40)]));
    }

    #[test]
    fn a_level_at_the_threshold_counts_and_one_below_does_not() {
        let mut room = Room::new(9, -50, &[A, B]);
        room.hear(A, 50, 50);
        room.hear(B, 51, 50);
        assert_eq!(room.end_interval(), volumes(&[(A, -50)]));
    }

    #[test]
    fn levels_are_averaged() {
        let mut room = Room::new(1, -80, &[A]);
        room.hear(A, 10, 25);
        room.hear(A, 41, 25);
        assert_eq!(room.end_interval(), volumes(&[(A, -25)]));
    }

    #[test]
    fn nine_packets_are_too_few_to_judge_by_and_ten_are_enough() {
        let mut room = Room::new(1, -80, &[A]);
        room.hear(A, 10, 9);
        assert_eq!(room.end_interval(), None);
        room.hear(A, 10, 10);
        assert_eq!(room.end_interval(), volumes(&[(A, -10)]));
    }

    #[test]
    fn silence_is_told_once_and_only_after_volumes() {
        let mut room = Room::new(1, -80, &[A]);
        assert_eq!(room.end_interval(), None, "it starts silent");
        room.hear(A, 10, 50);
        assert!(matches!(room.end_interval(), Some(Event::Volumes(_))));
        room.hear(A, 127, 50);
        assert_eq!(room.end_interval(), Some(Event::Silence), "too quiet is silent");
        assert_eq!(room.end_interval(), None);
    }

    #[test]
    fn pausing_the_observer_ends_what_was_loud_and_forgets_the_interval() {
        let mut room = Room::new(1, -80, &[A]);
        room.hear(A, 10, 50);
        assert_eq!(room.0.pause(), None, "the driver has heard nothing yet");
        assert_eq!(room.end_interval(), None, "the interval was forgotten");
        room.hear(A, 10, 50);
        assert!(matches!(room.end_interval(), Some(Event::Volumes(_))));
        assert_eq!(room.0.pause(), Some(Event::Silence));
    }

    #[test]
    fn a_paused_producer_is_not_judged_by_what_came_before() {
        let mut room = Room::new(2, -80, &[A, B]);
        room.hear(A, 10, 40);
        room.hear(B, 20, 40);
        room.0.pause_producer(ProducerIdx::from_usize(A));
        assert_eq!(room.end_interval(), volumes(&[(B, -20)]));
        room.hear(A, 30, 40);
        assert_eq!(room.end_interval(), volumes(&[(A, -30)]));
    }

    #[test]
    fn who_left_is_not_heard_and_who_is_added_twice_counts_once() {
        let mut room = Room::new(2, -80, &[A]);
        room.hear(A, 10, 9);
        room.0.add_producer(ProducerIdx::from_usize(A));
        room.hear(A, 10, 1);
        assert_eq!(room.end_interval(), volumes(&[(A, -10)]), "adding again changes nothing");
        room.0.remove_producer(ProducerIdx::from_usize(A));
        room.hear(A, 10, 50);
        assert_eq!(room.end_interval(), Some(Event::Silence));
    }

    #[test]
    fn options_are_checked_and_the_interval_is_bounded() {
        let options =
            |threshold, interval| wire::AudioLevelObserverOptions { max_entries: 1, threshold, interval };
        assert!(matches!(AudioLevelObserver::new(&options(1, 1000)), Err(RequestError::Type(_))));
        assert!(AudioLevelObserver::new(&options(0, 1000)).is_ok());
        let interval = |asked| AudioLevelObserver::new(&options(-80, asked)).unwrap().interval();
        assert_eq!(interval(0), Duration::from_millis(250));
        assert_eq!(interval(800), Duration::from_millis(800));
        assert_eq!(interval(u16::MAX), Duration::from_secs(5));
    }
}
