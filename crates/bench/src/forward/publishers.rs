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
    is_active: bool,
}

/// All streams.
#[derive(Debug)]
pub struct Publishers {
    all: Vec<Publisher>,
    /// Up to where a stream's phase is drawn anew when sending resumes.
    phases: Duration,
    random: StdRng,
    reader: ArrivalReader,
}

impl Publishers {
    /// Streams that begin together after each pause, or each at a moment of its own within `phases`.
    pub fn new(streams: Vec<(Client, Source)>, phases: Duration) -> Self {
        let start = Instant::now();
        let publisher = |(client, source)| Publisher { client, source, start, is_active: true };
        Self {
            all: streams.into_iter().map(publisher).collect(),
            phases,
            random: StdRng::seed_from_u64(SEED),
            reader: ArrivalReader::new(),
        }
    }

    /// Only the first `count` streams send from now on.
    pub fn activate(&mut self, count: usize) {
        for (i, publisher) in self.all.iter_mut().enumerate() {
            publisher.is_active = i < count;
        }
    }

    /// SSRC and packets sent so far, by stream.
    pub fn sent(&self) -> impl Iterator<Item = (u32, u64)> {
        self.all.iter().map(|publisher| (publisher.source.ssrc(), publisher.source.packets()))
    }

    /// Sends for `duration` from now on what the active streams have for such a time; appends the length of each
    /// payload to `sizes`. Packets carry the time of sending by the clock of [`arrival`].
    ///
    /// # Errors
    /// Where a socket fails.
    pub fn send_for(&mut self, duration: Duration, sizes: &mut Vec<usize>) -> Result<()> {
        let begin = Instant::now();
        let end = begin + duration;
        for publisher in &mut self.all {
            // Streams go on where they paused.
            let phase = self.phases.mul_f64(self.random.random::<f64>());
            publisher.start = begin.checked_sub(publisher.source.due()).unwrap_or(begin) + phase;
        }
        loop {
            let active = self.all.iter_mut().filter(|publisher| publisher.is_active);
            let next = active.min_by_key(|publisher| publisher.start + publisher.source.due());
            let Some(publisher) = next else { break };
            let due = publisher.start + publisher.source.due();
            if due >= end {
                break;
            }
            thread::sleep(due.saturating_duration_since(Instant::now()));
            publisher.client.turn(&mut self.reader, |_, _| {})?;
            if publisher.client.endpoint.take_key_frame_request(publisher.source.ssrc()) {
                publisher.source.request_key_frame();
            }
            for mut packet in publisher.source.frame() {
                sizes.push(packet.payload.len());
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
