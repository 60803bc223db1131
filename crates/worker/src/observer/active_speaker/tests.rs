//! Conversations on virtual time: a packet per Producer and 20 ms, a comparison every 300 ms.

use super::*;
use crate::table::Index;

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;

/// Levels as they are received, in -dBov.
const SPEECH: u8 = 20;
const SHOUT: u8 = 5;
const MURMUR: u8 = 110;
const SILENCE: u8 = 127;

fn idx(index: usize) -> ProducerIdx {
    ProducerIdx::from_usize(index)
}

struct Conversation {
    observer: ActiveSpeakerObserver,
    now: Instant,
    next_interval: Instant,
    /// Who became dominant, in order.
    dominant: Vec<usize>,
}

impl Conversation {
    fn of(producers: &[usize]) -> Self {
        let observer = ActiveSpeakerObserver::new(&wire::ActiveSpeakerObserverOptions { interval: 300 });
        let now = Instant::now();
        let next_interval = now + observer.interval();
        let mut conversation = Self { observer, now, next_interval, dominant: Vec::new() };
        for producer in producers {
            assert!(conversation.observer.add_producer(idx(*producer), false, now));
        }
        conversation
    }

    fn note(&mut self, event: Option<Event>) {
        match event {
            Some(Event::DominantSpeaker(producer)) => self.dominant.push(producer.to_usize()),
            Some(other) => panic!("{other:?} is no event of this observer"),
            None => {}
        }
    }

    /// `ms` pass, in which those named send these levels and the others nothing.
    fn pass(&mut self, ms: u64, levels: &[(usize, u8)]) {
        let end = self.now + Duration::from_millis(ms);
        while self.now < end {
            self.now += STEP;
            for (producer, minus_dbov) in levels {
                let level = AudioLevel { voice: false, minus_dbov: *minus_dbov };
                self.observer.audio_level(idx(*producer), level, self.now);
            }
            if self.now >= self.next_interval {
                self.next_interval += self.observer.interval();
                let event = self.observer.handle_timeout(self.now);
                self.note(event);
            }
        }
    }

    /// Everybody is quiet for a while, from which the noise floors are known.
    fn warm_up(&mut self, producers: &[usize]) {
        let levels: Vec<_> = producers.iter().map(|producer| (*producer, MURMUR)).collect();
        self.pass(600, &levels);
    }

    fn remove(&mut self, producer: usize) {
        let event = self.observer.remove_producer(idx(producer));
        self.note(event);
    }
}

#[test]
fn nobody_is_dominant_where_nobody_is() {
    let mut room = Conversation::of(&[]);
    room.pass(1000, &[]);
    assert_eq!(room.dominant, []);
}

#[test]
fn the_only_one_is_dominant_and_that_is_told_once() {
    let mut room = Conversation::of(&[A]);
    room.pass(3000, &[]);
    assert_eq!(room.dominant, [A]);
}

#[test]
fn who_speaks_takes_over_and_silence_dethrones_nobody() {
    let mut room = Conversation::of(&[A, B, C]);
    room.warm_up(&[A, B, C]);
    assert_eq!(room.dominant, [A], "somebody is dominant from the start");
    room.pass(3000, &[(A, MURMUR), (B, SPEECH), (C, MURMUR)]);
    assert_eq!(room.dominant, [A, B]);
    room.pass(5000, &[(A, MURMUR), (B, MURMUR), (C, MURMUR)]);
    assert_eq!(room.dominant, [A, B]);
    room.pass(3000, &[(A, MURMUR), (B, MURMUR), (C, SPEECH)]);
    assert_eq!(room.dominant, [A, B, C]);
}

#[test]
fn a_change_takes_more_than_a_word_and_less_than_a_sentence() {
    let mut room = Conversation::of(&[A, B]);
    room.warm_up(&[A, B]);
    room.pass(3000, &[(A, SPEECH), (B, MURMUR)]);
    let start = room.now;
    while room.dominant == [A] {
        room.pass(20, &[(A, MURMUR), (B, SPEECH)]);
        assert!(room.now - start < Duration::from_secs(2));
    }
    assert_eq!(room.dominant, [A, B]);
    assert!(room.now - start > Duration::from_millis(500), "after {:?}", room.now - start);
}

#[test]
fn a_cough_does_not_take_over() {
    let mut room = Conversation::of(&[A, B]);
    room.warm_up(&[A, B]);
    for _ in 0..10 {
        room.pass(1940, &[(A, SPEECH), (B, MURMUR)]);
        room.pass(60, &[(A, SPEECH), (B, SHOUT)]);
    }
    assert_eq!(room.dominant, [A]);
}

#[test]
fn two_who_speak_at_once_do_not_alternate() {
    let mut room = Conversation::of(&[A, B]);
    room.warm_up(&[A, B]);
    room.pass(10_000, &[(A, SPEECH), (B, SPEECH)]);
    assert_eq!(room.dominant, [A]);
}

#[test]
fn steady_noise_is_not_speech() {
    let mut room = Conversation::of(&[A, B]);
    // A fan at -40 dBov from the first packet on: loud, and no louder than itself.
    room.pass(5000, &[(A, MURMUR), (B, 40)]);
    assert_eq!(room.dominant, [A]);
    room.pass(2000, &[(A, MURMUR), (B, SPEECH)]);
    assert_eq!(room.dominant, [A, B], "speech over the fan is");
}

#[test]
fn a_microphone_at_its_limit_still_speaks() {
    let mut room = Conversation::of(&[A, B]);
    room.pass(3000, &[(A, MURMUR), (B, 0)]);
    assert_eq!(room.dominant, [B]);
}

#[test]
fn the_noise_floor_rises_with_a_room_that_stays_louder() {
    let mut floor = NoiseFloor::default();
    floor.push(10);
    for _ in 0..FLOOR_WINDOW {
        floor.push(90);
    }
    assert_eq!(floor.level, 30);
    floor.push(0);
    assert_eq!(floor.level, 30, "silence is not noise");
    floor.push(12);
    assert_eq!(floor.level, 12, "it falls at once");
}

#[test]
fn who_stops_sending_is_silent() {
    let mut room = Conversation::of(&[A, B]);
    room.warm_up(&[A, B]);
    room.pass(3000, &[(A, SPEECH), (B, MURMUR)]);
    // A's packets end in the middle of a loud word, as with DTX or a broken network.
    room.pass(3000, &[(B, SPEECH)]);
    assert_eq!(room.dominant, [A, B]);
}

#[test]
fn packets_of_sixty_ms_fill_the_time_they_stand_for() {
    let mut room = Conversation::of(&[A, B]);
    room.warm_up(&[A, B]);
    for _ in 0..50 {
        room.pass(40, &[(A, MURMUR)]);
        room.pass(20, &[(A, MURMUR), (B, SPEECH)]);
    }
    assert_eq!(room.dominant, [A, B]);
}

#[test]
fn the_paused_do_not_become_dominant() {
    let mut room = Conversation::of(&[A, B]);
    room.warm_up(&[A, B]);
    room.observer.pause_producer(idx(B));
    room.pass(3000, &[(A, MURMUR), (B, SPEECH)]);
    assert_eq!(room.dominant, [A]);
    room.observer.resume_producer(idx(B));
    room.pass(3000, &[(A, MURMUR), (B, SPEECH)]);
    assert_eq!(room.dominant, [A, B]);
}

#[test]
fn whoever_is_not_muted_is_the_first_dominant_one() {
    let mut room = Conversation::of(&[]);
    assert!(room.observer.add_producer(idx(A), true, room.now));
    assert!(room.observer.add_producer(idx(B), false, room.now));
    room.pass(1000, &[(B, SILENCE)]);
    assert_eq!(room.dominant, [B]);
}

#[test]
fn the_dominant_ones_successor_is_told_at_once() {
    let mut room = Conversation::of(&[A, B, C]);
    room.warm_up(&[A, B, C]);
    room.pass(3000, &[(A, MURMUR), (B, MURMUR), (C, SPEECH)]);
    assert_eq!(room.dominant, [A, C]);
    room.pass(1400, &[(A, MURMUR), (B, SPEECH), (C, SPEECH)]);
    room.remove(A);
    assert_eq!(room.dominant, [A, C], "somebody else left");
    room.remove(C);
    assert_eq!(room.dominant, [A, C, B]);
    room.remove(B);
    assert_eq!(room.dominant, [A, C, B], "nobody is left");
    room.remove(B);
}

#[test]
fn nobody_is_added_twice() {
    let mut room = Conversation::of(&[A]);
    assert!(!room.observer.add_producer(idx(A), false, room.now));
}

#[test]
fn after_a_long_pause_of_the_observer_everybody_can_be_dominant() {
    let mut room = Conversation::of(&[A, B]);
    room.warm_up(&[A, B]);
    room.now += Duration::from_secs(2 * 60 * 60);
    room.next_interval = room.now + room.observer.interval();
    room.pass(3000, &[(A, MURMUR), (B, SPEECH)]);
    assert_eq!(room.dominant, [A, B]);
}

#[test]
fn the_interval_is_bounded() {
    let interval = |asked| {
        ActiveSpeakerObserver::new(&wire::ActiveSpeakerObserverOptions { interval: asked }).interval()
    };
    assert_eq!(interval(0), Duration::from_millis(100));
    assert_eq!(interval(300), Duration::from_millis(300));
    assert_eq!(interval(u16::MAX), Duration::from_secs(5));
}

#[test]
fn scores_follow_the_published_formula_and_are_never_zero() {
    let spans =
        [(usize::from(UNITS), SILENCE_RATES[0]), (BLOCK, SILENCE_RATES[1]), (BLOCKS, SILENCE_RATES[2])];
    for (of, rate) in spans {
        assert!(score(0, of, rate) > 0.0, "no activity has a logarithm too");
        for active in 0..=of {
            assert!(score(active, of, rate).is_finite());
        }
    }
    // 5 of 5 at rate 24: ln 1 - 5 ln 2 - ln 24 + 5 * 24.
    assert!((score(5, 5, 24.0) - 113.356).abs() < 0.001);
    // 10 of 13 at rate 0.78: ln 286 - 13 ln 2 - ln 0.78 + 10 * 0.78.
    assert!((score(10, 13, 0.78) - 4.694).abs() < 0.001);
}
