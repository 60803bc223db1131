//! What a peer receives: one check for each stream, which goes on where another consumer takes the place of its first one
//! (docs/clients.md, "Media that moves within a session").
//!
//! Of several consumers of one stream the call page shows the newest, as soon as that has brought something. What the one shown
//! brings is what arrives here; the others only fill gaps that it has left.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::source::StreamCheck;

/// All that a peer receives, by whichever of its transports.
#[derive(Debug, Default)]
pub struct Reception {
    state: Mutex<State>,
    progress: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// By the SSRC of each stream's first consumer.
    streams: HashMap<u32, Stream>,
    /// The stream of each later consumer's SSRC, and of each consumer's id.
    by_ssrc: HashMap<u32, u32>,
    by_id: HashMap<String, u32>,
    /// Producers of others that they have replaced by new ones.
    replaced: HashSet<String>,
}

#[derive(Debug)]
struct Stream {
    check: StreamCheck,
    /// Whose packets are shown.
    shown: u32,
    /// The consumers that there are, in the order of their offers.
    consumers: Vec<Consumer>,
    /// When it last brought something new, and the longest pause since it was asked last.
    last: Option<Instant>,
    pause: Duration,
}

/// How all streams of a peer do.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    /// Packets received so far, repeats not counted.
    pub received: u64,
    /// Numbers left out so far.
    pub missing: u64,
    /// Streams that there are and that have brought something within [`Tally::RECENT`].
    pub flowing: usize,
    /// The longest pause of a stream that there is, one that lasts included, since the tally before this one.
    pub pause: Duration,
}

impl Tally {
    /// Streams here bring something ten times in it.
    pub const RECENT: Duration = Duration::from_secs(1);
}

#[derive(Debug)]
struct Consumer {
    id: String,
    ssrc: u32,
    producer: String,
    transport: String,
}

impl Stream {
    fn of(ssrc: u32) -> Self {
        let check = StreamCheck::default();
        Self { check, shown: ssrc, consumers: Vec::new(), last: None, pause: Duration::ZERO }
    }

    /// A consumer whose producer has not been replaced, and of those the last. They come in any order.
    fn newest(&self, replaced: &HashSet<String>) -> Option<u32> {
        let current = self.consumers.iter().rfind(|consumer| !replaced.contains(&consumer.producer));
        current.or(self.consumers.last()).map(|consumer| consumer.ssrc)
    }
}

impl Reception {
    /// Takes note of what `newConsumer` says; whether it begins a stream.
    pub fn offered(&self, data: &Value) -> bool {
        let text = |name: &str| data[name].as_str().unwrap_or_default().to_owned();
        let Some(ssrc) = data["rtpParameters"]["encodings"][0]["ssrc"].as_u64() else { return false };
        let ssrc = ssrc as u32;
        let (id, producer, transport) = (text("id"), text("producerId"), text("transportId"));
        let mut state = self.state();
        let replaced = data["replaces"].as_str().and_then(|replaced| {
            let stream = *state.by_id.get(replaced)?;
            let consumers = state.streams.get(&stream).map_or(&[][..], |stream| &stream.consumers);
            let before = consumers.iter().find(|consumer| consumer.id == replaced);
            Some((stream, before.map(|before| before.producer.clone())))
        });
        let key = replaced.as_ref().map_or(ssrc, |(stream, _)| *stream);
        if let Some((_, Some(before))) = replaced.filter(|(_, before)| before.as_ref() != Some(&producer)) {
            state.replaced.insert(before);
        }
        state.by_ssrc.insert(ssrc, key);
        state.by_id.insert(id.clone(), key);
        let stream = state.streams.entry(key).or_insert_with(|| Stream::of(ssrc));
        stream.consumers.push(Consumer { id, ssrc, producer, transport });
        key == ssrc
    }

    /// Takes note of `consumerClosed`.
    pub fn closed(&self, id: &str) {
        let state = &mut *self.state();
        let Some(stream) = state.by_id.get(id).and_then(|stream| state.streams.get_mut(stream)) else {
            return;
        };
        stream.consumers.retain(|consumer| consumer.id != id);
        let is_shown = stream.consumers.iter().any(|consumer| consumer.ssrc == stream.shown);
        if let Some(newest) = stream.newest(&state.replaced).filter(|_| !is_shown) {
            stream.shown = newest;
        }
    }

    /// Takes note of a payload that came in the clear.
    pub fn received(&self, ssrc: u32, payload: &[u8]) {
        let state = &mut *self.state();
        let key = state.by_ssrc.get(&ssrc).copied().unwrap_or(ssrc);
        let stream = state.streams.entry(key).or_insert_with(|| Stream::of(ssrc));
        if ssrc != stream.shown && stream.newest(&state.replaced) == Some(ssrc) {
            stream.shown = ssrc;
        }
        let before = stream.check.received;
        if ssrc == stream.shown {
            stream.check.note(payload);
        } else {
            stream.check.fill(payload);
        }
        if stream.check.received > before {
            let now = Instant::now();
            let last = stream.last.replace(now);
            stream.pause = stream.pause.max(last.map_or(Duration::ZERO, |last| now - last));
        }
    }

    /// Tells whoever waits that something was received.
    pub fn progressed(&self) {
        self.progress.notify_waiters();
    }

    /// Completes when something more was received than at the time of the call.
    pub fn progress(&self) -> Notified<'_> {
        self.progress.notified()
    }

    /// Whether what is shown of every stream comes by this transport.
    pub fn is_all_at(&self, transport: &str) -> bool {
        let there = |stream: &Stream| {
            let mut shown = stream.consumers.iter().filter(|consumer| consumer.ssrc == stream.shown);
            shown.all(|consumer| consumer.transport == transport)
        };
        self.state().streams.values().all(there)
    }

    /// What was received so far, by the SSRC of each stream's first consumer.
    pub fn streams(&self) -> HashMap<u32, StreamCheck> {
        self.state().streams.iter().map(|(ssrc, stream)| (*ssrc, stream.check.clone())).collect()
    }

    /// How all streams do.
    pub fn tally(&self) -> Tally {
        let now = Instant::now();
        let mut tally = Tally::default();
        for stream in self.state().streams.values_mut() {
            tally.received += stream.check.received;
            tally.missing += stream.check.missing;
            let pause = std::mem::take(&mut stream.pause);
            let Some(last) = stream.last.filter(|_| !stream.consumers.is_empty()) else { continue };
            tally.flowing += usize::from(now - last < Tally::RECENT);
            tally.pause = tally.pause.max(pause).max(now - last);
        }
        tally
    }

    /// The ids of the consumers that there are.
    pub fn consumers(&self) -> Vec<String> {
        let state = self.state();
        state
            .streams
            .values()
            .flat_map(|stream| &stream.consumers)
            .map(|consumer| consumer.id.clone())
            .collect()
    }

    /// How many of these streams have brought so many packets.
    pub fn count(&self, streams: &[u32], at_least: u64) -> usize {
        let state = self.state();
        let brought = |ssrc: &&u32| state.streams.get(ssrc).is_some_and(|s| s.check.received >= at_least);
        streams.iter().filter(brought).count()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no one panics while holding this lock")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::source::{Shape, Source};

    /// Packets of one stream, however it comes.
    struct Stage {
        reception: Reception,
        payloads: Vec<Vec<u8>>,
    }

    impl Stage {
        fn new() -> Self {
            let mut source = Source::new(Shape::AUDIO, 1, 100, None);
            let payloads = (0..32).flat_map(|_| source.frame()).map(|packet| packet.payload).collect();
            Self { reception: Reception::default(), payloads }
        }

        /// `number` counts from one.
        fn come(&self, ssrc: u32, number: usize) {
            self.reception.received(ssrc, &self.payloads[number - 1]);
        }

        fn offer(&self, ssrc: u32, producer: &str, transport: &str, replaces: Option<u32>) -> bool {
            let mut data = json!({
                "id": format!("c{ssrc}"), "producerId": producer, "transportId": transport,
                "rtpParameters": { "encodings": [{ "ssrc": ssrc }] },
            });
            if let Some(replaced) = replaces {
                data["replaces"] = json!(format!("c{replaced}"));
            }
            self.reception.offered(&data)
        }

        /// Of the only stream.
        fn counted(&self) -> (u64, u64) {
            let streams = self.reception.streams();
            assert_eq!(streams.len(), 1, "{streams:?}");
            streams.values().next().map(|check| (check.received, check.missing)).unwrap()
        }
    }

    #[test]
    fn a_stream_goes_on_over_what_replaces_it_and_its_gaps_are_seen() {
        let stage = Stage::new();
        assert!(stage.offer(1, "p", "old", None));
        stage.come(1, 1);
        assert!(!stage.offer(2, "p", "new", Some(1)));
        assert!(!stage.reception.is_all_at("new"), "it has brought nothing yet");
        stage.come(1, 2);
        stage.come(2, 5);
        assert!(stage.reception.is_all_at("new"));
        assert_eq!(stage.counted(), (3, 2));
        stage.come(1, 3);
        stage.come(1, 6);
        assert_eq!(stage.counted(), (4, 1), "what replaces it stands still, and that shows");
        stage.reception.closed("c1");
        stage.come(2, 7);
        assert_eq!(stage.counted(), (5, 2));
    }

    #[test]
    fn a_pause_ends_with_a_new_packet_of_the_consumer_that_is_shown() {
        let stage = Stage::new();
        stage.offer(1, "p", "old", None);
        assert_eq!((stage.reception.tally().flowing, stage.reception.tally().pause), (0, Duration::ZERO));
        stage.come(1, 1);
        stage.offer(2, "p", "new", Some(1));
        stage.come(2, 2);
        let stood = Instant::now();
        while stood.elapsed() < Duration::from_millis(2) {
            stage.come(1, 3);
            stage.come(2, 2);
        }
        let tally = stage.reception.tally();
        assert!(tally.pause >= Duration::from_millis(2), "{tally:?}");
        assert_eq!((tally.received, tally.missing, tally.flowing), (2, 0, 1));
        stage.come(2, 3);
        stage.reception.closed("c1");
        stage.reception.closed("c2");
        let tally = stage.reception.tally();
        assert_eq!((tally.flowing, tally.pause), (0, Duration::ZERO), "what is closed does not pause");
    }

    #[test]
    fn the_newest_is_shown_when_both_move_in_whatever_order() {
        let stage = Stage::new();
        stage.offer(1, "p", "old", None);
        stage.come(1, 1);
        // What the sender sends anew; then what it sent before and what it sends anew, at the new place.
        stage.offer(2, "q", "old", Some(1));
        stage.come(2, 2);
        stage.offer(3, "p", "new", Some(1));
        stage.come(3, 3);
        stage.offer(4, "q", "new", Some(2));
        assert!(!stage.reception.is_all_at("new"), "3 is shown, whose producer has been replaced");
        stage.come(2, 3);
        stage.come(4, 4);
        assert!(stage.reception.is_all_at("new"));
        for closed in ["c1", "c3", "c2"] {
            stage.reception.closed(closed);
        }
        stage.come(4, 5);
        assert_eq!(stage.counted(), (5, 0));
        assert_eq!(stage.reception.consumers(), ["c4"]);
    }

    #[test]
    fn what_is_closed_before_it_was_replaced_leaves_the_rest() {
        let stage = Stage::new();
        stage.offer(1, "p", "old", None);
        stage.come(1, 1);
        stage.offer(2, "q", "old", Some(1));
        stage.reception.closed("c1");
        stage.come(2, 2);
        assert_eq!(stage.counted(), (2, 0));
        stage.reception.closed("c2");
        assert!(stage.reception.is_all_at("new"), "nothing is received, wherever");
    }
}
