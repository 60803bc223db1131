//! Who sends into the measured worker: one thread that sends every stream's packets when they are due.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::client::Client;
use crate::arrival::{self, ArrivalReader};
use crate::source::Source;

/// Phases are drawn from this seed, the same in every run.
const SEED: u64 = 1;

/// One stream and who sends it.
#[derive(Debug)]
struct Publisher {
    client: Client,
    source: Source,
    /// When the stream began, had it never paused.
    start: Instant,
}

/// A packet that was sent.
#[derive(Debug, Clone, Copy)]
pub struct Departure {
    /// When, from the beginning on.
    pub at: Duration,
    /// Whose it was.
    pub stream: usize,
    /// Bytes: here of its payload.
    pub size: usize,
}

/// All streams.
#[derive(Debug)]
pub struct Publishers {
    all: Vec<Publisher>,
    /// Up to where a stream's phase is drawn anew when sending resumes.
    phases: Duration,
    speed: f64,
    random: StdRng,
    reader: ArrivalReader,
}

impl Publishers {
    /// Streams that begin together after each pause, or each at a moment of its own within `phases`.
    pub fn new(streams: Vec<(Client, Source)>, phases: Duration) -> Self {
        let start = Instant::now();
        let publisher = |(client, source)| Publisher { client, source, start };
        Self {
            all: streams.into_iter().map(publisher).collect(),
            phases,
            speed: 1.0,
            random: StdRng::seed_from_u64(SEED),
            reader: ArrivalReader::new(),
        }
    }

    /// From now on every stream sends this many times as many frames a second as it was made for.
    pub fn set_speed(&mut self, speed: f64) {
        self.speed = speed;
    }

    /// SSRC and packets sent so far, by stream.
    pub fn sent(&self) -> impl Iterator<Item = (u32, u64)> {
        self.all.iter().map(|publisher| (publisher.source.ssrc(), publisher.source.packets()))
    }

    /// Sends for `duration` from now on what the streams have for such a time; appends each packet to
    /// `departures`. Packets carry the time of sending by the clock of [`arrival`].
    ///
    /// # Errors
    /// Where a socket fails.
    pub fn send_for(&mut self, duration: Duration, departures: &mut Vec<Departure>) -> Result<()> {
        let begin = Instant::now();
        let end = begin + duration;
        for publisher in &mut self.all {
            // Streams go on where they paused.
            let phase = self.phases.mul_f64(self.random.random::<f64>() / self.speed);
            let sent = publisher.source.due().div_f64(self.speed);
            publisher.start = begin.checked_sub(sent).unwrap_or(begin) + phase;
        }
        loop {
            let due_at = |publisher: &Publisher| publisher.start + publisher.source.due().div_f64(self.speed);
            let next = self.all.iter_mut().enumerate().min_by_key(|(_, publisher)| due_at(publisher));
            let Some((stream, publisher)) = next else { break };
            let due = due_at(publisher);
            if due >= end {
                break;
            }
            thread::sleep(due.saturating_duration_since(Instant::now()));
            publisher.client.turn(&mut self.reader, |_, _| {})?;
            if publisher.client.endpoint.take_key_frame_request(publisher.source.ssrc()) {
                publisher.source.request_key_frame();
            }
            for mut packet in publisher.source.frame() {
                departures.push(Departure { at: begin.elapsed(), stream, size: packet.payload.len() });
                packet.stamp(arrival::now_ns());
                publisher.client.send_rtp(&packet)?;
            }
        }
        thread::sleep(end.saturating_duration_since(Instant::now()));
        for publisher in &mut self.all {
            publisher.client.turn(&mut self.reader, |_, _| {})?;
        }
        Ok(())
    }
}
