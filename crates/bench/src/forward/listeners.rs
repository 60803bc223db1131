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

use super::client::Client;
use crate::arrival::ArrivalReader;
use crate::cpu;
use crate::source::StreamCheck;

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
}

/// Listeners at work.
#[derive(Debug)]
pub struct Listening {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<Listener>>>,
}

impl Listener {
    /// A listener to these SSRCs.
    pub fn new(client: Client, ssrcs: impl IntoIterator<Item = u32>) -> Self {
        let streams = ssrcs.into_iter().map(|ssrc| (ssrc, StreamCheck::default())).collect();
        Self { client, streams, bytes: 0 }
    }

    fn turn(&mut self, reader: &mut ArrivalReader) -> Result<bool> {
        let Self { client, streams, bytes } = self;
        let mut heard = false;
        client.turn(reader, |rtp, _arrival| {
            heard = true;
            // Repair streams carry probes and repeats: neither is media that was sent.
            if let Some(stream) = streams.get_mut(&rtp.ssrc) {
                stream.note(rtp.payload);
                *bytes += rtp.datagram_bytes as u64;
            }
        })?;
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
