//! Who receives from the measured worker and reads: one thread that empties every socket each few milliseconds.
//!
//! Nobody ever waits in a read, so the worker's send never wakes a reader up, which would be charged to the worker: a
//! datagram costs it the same as one to a socket whose reader is busy. Sockets do not use UDP GRO: a run of segments is
//! cut into datagrams by the kernel, within the worker's system call.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use hdrhistogram::Histogram;
use rtc::rtp::Ssrc;
use rtc::twcc::TransportFeedbackGenerator;

use super::client::Client;
use crate::arrival::{self, ArrivalReader};
use crate::cpu;
use crate::source::{self, StreamCheck};

/// A receiver reports at Chromium's pace: every 50 to 100 ms, each at an interval of its own.
const FASTEST_FEEDBACK: Duration = Duration::from_millis(50);
/// How often sockets are emptied.
const TURN: Duration = Duration::from_millis(5);
/// Longer than a worker could hold a packet: after so long a quiet, all that comes has come.
const QUIET: Duration = Duration::from_millis(300);

/// One receiver that reads.
#[derive(Debug)]
pub struct Listener {
    client: Client,
    /// By SSRC, what came.
    pub streams: HashMap<u32, StreamCheck>,
    /// Bytes of datagrams with media.
    pub bytes: u64,
    /// From the time in a packet to its arrival, in nanoseconds.
    pub latency: Histogram<u64>,
    feedback: Option<Feedback>,
}

/// Reports of arrivals, as transport-wide congestion control wants them.
#[derive(Debug)]
struct Feedback {
    generator: TransportFeedbackGenerator,
    /// How much earlier than the generator's own interval a report goes out.
    lead: Duration,
    /// One moment by both clocks.
    zero: (Instant, u64),
    packets: u64,
    out: Vec<u8>,
}

/// Listeners at work.
#[derive(Debug)]
pub struct Listening {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<Listener>>>,
}

impl Listener {
    /// A listener to these SSRCs.
    ///
    /// # Errors
    /// Where no histogram can be had.
    pub fn new(client: Client, ssrcs: impl IntoIterator<Item = u32>) -> Result<Self> {
        let streams = ssrcs.into_iter().map(|ssrc| (ssrc, StreamCheck::default())).collect();
        Ok(Self { client, streams, bytes: 0, latency: Histogram::new(3)?, feedback: None })
    }

    /// From now on arrivals are reported to the worker. `place` from 0 to 1 says where between 50 and 100 ms this
    /// listener's interval lies.
    pub fn give_feedback(&mut self, place: f64) {
        let slowest = rtc::twcc::FEEDBACK_INTERVAL;
        self.feedback = Some(Feedback {
            generator: TransportFeedbackGenerator::new(Ssrc(1)),
            lead: (slowest - FASTEST_FEEDBACK).mul_f64(1.0 - place),
            zero: (Instant::now(), arrival::now_ns()),
            packets: 0,
            out: Vec::new(),
        });
    }

    /// How many feedback packets went out.
    pub fn feedback_packets(&self) -> u64 {
        self.feedback.as_ref().map_or(0, |feedback| feedback.packets)
    }

    fn turn(&mut self, reader: &mut ArrivalReader) -> Result<bool> {
        let Self { client, streams, bytes, latency, feedback } = self;
        let mut heard = false;
        client.turn(reader, |rtp, arrival| {
            heard = true;
            if let (Some(feedback), Some(sequence)) = (feedback.as_mut(), rtp.transport_seq) {
                let (instant, ns) = feedback.zero;
                let at = instant + Duration::from_nanos(arrival.saturating_sub(ns));
                feedback.generator.record(sequence, Ssrc(rtp.ssrc), at);
            }
            // Repair streams carry probes and repeats: neither is media that was sent.
            let Some(stream) = streams.get_mut(&rtp.ssrc) else { return };
            stream.note(rtp.payload);
            *bytes += rtp.datagram_bytes as u64;
            if let Some(sent) = source::stamp(rtp.payload) {
                // It grows as needed; what it cannot hold is longer than anybody lives.
                let _ = latency.record(arrival.saturating_sub(sent));
            }
        })?;
        if let Some(feedback) = feedback {
            let Feedback { generator, lead, packets, out, .. } = feedback;
            out.clear();
            while generator.poll_feedback(Instant::now() + *lead, out) {
                client.send_rtcp(out)?;
                *packets += 1;
                out.clear();
            }
        }
        Ok(heard)
    }
}

impl Listening {
    /// Starts a thread on this core that reads until told to stop.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn start(listeners: Vec<Listener>, core: usize) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("listeners".into())
            .spawn(move || listen(listeners, core, &told))
            .context("cannot start a thread")?;
        Ok(Self { stop, thread })
    }

    /// Waits until nothing comes any more, and gives the listeners back.
    ///
    /// # Errors
    /// Where a socket failed meanwhile.
    pub fn finish(self) -> Result<Vec<Listener>> {
        self.stop.store(true, Ordering::Release);
        self.thread.join().map_err(|_| anyhow!("the listeners panicked"))?
    }
}

fn listen(mut listeners: Vec<Listener>, core: usize, stop: &AtomicBool) -> Result<Vec<Listener>> {
    cpu::pin_current_thread(core)?;
    let mut reader = ArrivalReader::new();
    let mut heard_last = Instant::now();
    loop {
        let begin = Instant::now();
        for listener in &mut listeners {
            if listener.turn(&mut reader)? {
                heard_last = begin;
            }
        }
        if stop.load(Ordering::Acquire) && heard_last.elapsed() > QUIET {
            return Ok(listeners);
        }
        thread::sleep((begin + TURN).saturating_duration_since(Instant::now()));
    }
}
