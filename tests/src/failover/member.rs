//! Somebody in a call who comes back as mediasoup-demo's client does: at once when the WebSocket ends, and where that fails
//! after 1, 2, 4, 8 s, each time with new transports.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bench::endpoint::Identity;
use bench::peer::{Peer, Seat};
use bench::source::Shape;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How finely silence is seen.
const LOOK: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// What somebody heard since the last mark.
#[derive(Debug, Clone)]
pub(super) struct Heard {
    /// Packets so far, of all sessions.
    pub(super) received: u64,
    /// Numbers left out, of all sessions.
    pub(super) missing: u64,
    /// The longest time without a packet since the mark, one that lasts included.
    pub(super) longest: Duration,
    /// When the last join after the mark was done.
    pub(super) joined_again: Option<Instant>,
    last: Instant,
    /// When the last long silence ended.
    disturbed: Option<Instant>,
}

impl Heard {
    /// How long no silence was longer than `pause`.
    pub(super) fn undisturbed_for(&self, pause: Duration) -> Duration {
        if self.last.elapsed() > pause {
            return Duration::ZERO;
        }
        self.disturbed.map_or(Duration::MAX, |at| at.elapsed())
    }
}

/// A peer for as long as it likes to be there.
pub(super) struct Member {
    heard: Arc<Mutex<Heard>>,
    received: watch::Receiver<u64>,
    leave: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Member {
    pub(super) fn start(url: String, room: &str, peer: &str, identity: &Arc<Identity>) -> Self {
        let now = Instant::now();
        let heard = Heard {
            received: 0,
            missing: 0,
            longest: Duration::ZERO,
            joined_again: None,
            last: now,
            disturbed: None,
        };
        let heard = Arc::new(Mutex::new(heard));
        let (counter, received) = watch::channel(0);
        let (leave, left) = watch::channel(false);
        let seat = Seat { url, room_id: room.to_owned(), peer_id: peer.to_owned() };
        let life = Life { heard: Arc::clone(&heard), counter, left, identity: Arc::clone(identity) };
        Self { heard, received, leave, task: tokio::spawn(life.run(seat)) }
    }

    /// Begins to measure.
    pub(super) fn mark(&self) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        (heard.longest, heard.joined_again, heard.disturbed) = (Duration::ZERO, None, None);
    }

    pub(super) fn heard(&self) -> Heard {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone();
        heard.longest = heard.longest.max(heard.last.elapsed());
        heard
    }

    /// Waits until so many packets have come in all.
    pub(super) async fn hears(&self, packets: u64, within: Duration) -> Result<()> {
        let mut received = self.received.clone();
        let heard = tokio::time::timeout(within, received.wait_for(|count| *count >= packets)).await;
        heard.context("no sound in time")?.context("the peer's task ended")?;
        Ok(())
    }

    pub(super) async fn leave(self) {
        // One that ended by itself has left.
        let _ = self.leave.send(true);
        let _ = self.task.await;
    }
}

struct Life {
    heard: Arc<Mutex<Heard>>,
    counter: watch::Sender<u64>,
    left: watch::Receiver<bool>,
    identity: Arc<Identity>,
}

impl Life {
    async fn run(mut self, seat: Seat) {
        let mut pause = Duration::ZERO;
        let mut sessions = 0;
        while !*self.left.borrow() {
            let mut left = self.left.clone();
            let joined = tokio::select! {
                joined = Peer::join(&seat, &self.identity, &[Shape::AUDIO]) => joined,
                _ = left.wait_for(|left| *left) => return,
            };
            let Ok(peer) = joined else {
                pause = if pause.is_zero() { Duration::from_secs(1) } else { (pause * 2).min(LONGEST_PAUSE) };
                tokio::time::sleep(pause).await;
                continue;
            };
            pause = Duration::ZERO;
            sessions += 1;
            if sessions > 1 {
                let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
                heard.joined_again = Some(Instant::now());
            }
            self.listen(peer).await;
        }
    }

    /// Until the session ends, or the peer leaves.
    async fn listen(&mut self, mut peer: Peer) {
        let (mut received, mut missing) = (0, 0);
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                () = peer.closed() => return,
                _ = look.tick() => {}
            }
            if *self.left.borrow() {
                return peer.leave().await;
            }
            let streams = peer.streams();
            let now_received: u64 = streams.values().map(|stream| stream.received).sum();
            let now_missing: u64 = streams.values().map(|stream| stream.missing).sum();
            if now_received == received {
                continue;
            }
            let now = Instant::now();
            let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            let silent = now - heard.last;
            if silent > super::PAUSE {
                heard.disturbed = Some(now);
            }
            heard.longest = heard.longest.max(silent);
            heard.last = now;
            heard.received += now_received - received;
            heard.missing = (heard.missing + now_missing).saturating_sub(missing);
            (received, missing) = (now_received, now_missing);
            let total = heard.received;
            drop(heard);
            self.counter.send_replace(total);
        }
    }
}
