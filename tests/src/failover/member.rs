//! Somebody in a call who comes back after harm, as mediasoup-demo's client does or as web/client does, listens all the time, and
//! asks the server something all the time.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bench::endpoint::Identity;
use bench::line;
use bench::peer::{Migrations, Moves, Peer, Seat};
use bench::protoo::{Asker, Protoo};
use bench::reception::Tally;
use bench::source::Shape;
use clap::ValueEnum;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How finely silence is seen.
const LOOK: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// web/client: how soon a join that failed is tried again, at first and at most, and what a join may take.
const REJOIN_FIRST: Duration = Duration::from_millis(200);
const REJOIN_MOST: Duration = Duration::from_secs(4);
const JOIN_DEADLINE: Duration = Duration::from_secs(8);
/// web/client: the room has moved, and how long the old node's media is kept after that.
const MOVED: u16 = 4009;
const MOVED_FOR: Duration = Duration::from_secs(5);

/// How somebody comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Client {
    /// As mediasoup-demo's: at once when the WebSocket ends, then after 1, 2, 4, 8 s, each time with new transports.
    Demo,
    /// As web/client: the session goes on over another connection; where it does not, a join anew; its media goes elsewhere within
    /// the session when it is asked to; and where the room has moved, the old media stays until the new is there.
    Own,
}

/// What somebody does in a call.
#[derive(Debug, Clone)]
pub struct Habits {
    /// How it comes back.
    pub client: Client,
    /// What it sends.
    pub shapes: Vec<Shape>,
    /// How soon after an answer the next question follows.
    pub ask_every: Duration,
}

/// What somebody heard since the last mark.
#[derive(Debug, Clone)]
pub struct Heard {
    /// Packets so far, of all sessions.
    pub received: u64,
    /// Numbers left out, of all sessions.
    pub missing: u64,
    /// The longest time without a packet since the mark, one that lasts included.
    pub longest: Duration,
    /// The longest pause of any one stream since the mark, in sessions that last.
    pub pause: Duration,
    /// Streams that move.
    pub flowing: usize,
    /// The longest time from a question to the next answer since the mark, one that lasts included.
    pub unanswered: Duration,
    /// Questions since the mark that were refused, or not answered as their session ended.
    pub refused: u64,
    /// When the last join after the mark was done.
    pub joined_again: Option<Instant>,
    /// How often the session went on over another connection since the mark.
    pub resumed: u32,
    /// How often its media went elsewhere within the session since the mark.
    pub migrated: u32,
    /// How often it could not.
    pub not_migrated: u32,
    /// When it did so last.
    pub migrated_at: Option<Instant>,
    /// Where its media is now.
    pub media: Option<SocketAddr>,
    last: Instant,
    /// The first question that was not answered.
    asked: Option<Instant>,
    /// When the last long silence ended.
    disturbed: Option<Instant>,
}

impl Heard {
    fn new(now: Instant) -> Self {
        Self {
            received: 0,
            missing: 0,
            longest: Duration::ZERO,
            pause: Duration::ZERO,
            flowing: 0,
            unanswered: Duration::ZERO,
            refused: 0,
            joined_again: None,
            resumed: 0,
            migrated: 0,
            not_migrated: 0,
            migrated_at: None,
            media: None,
            last: now,
            asked: None,
            disturbed: None,
        }
    }

    /// How long no silence was longer than `pause`.
    pub fn undisturbed_for(&self, pause: Duration) -> Duration {
        if self.last.elapsed() > pause {
            return Duration::ZERO;
        }
        self.disturbed.map_or(Duration::MAX, |at| at.elapsed())
    }

    fn asked(&mut self) {
        self.asked.get_or_insert_with(Instant::now);
    }

    fn answered(&mut self) {
        if let Some(asked) = self.asked.take() {
            self.unanswered = self.unanswered.max(asked.elapsed());
        }
    }
}

/// A peer for as long as it likes to be there.
pub struct Member {
    heard: Arc<Mutex<Heard>>,
    received: watch::Receiver<u64>,
    sessions: watch::Receiver<u32>,
    leave: watch::Sender<bool>,
    sends: usize,
    task: JoinHandle<()>,
}

impl Member {
    /// Joins, and comes back whenever its session ends.
    pub fn start(habits: Habits, seat: Seat, identity: &Arc<Identity>) -> Self {
        let heard = Arc::new(Mutex::new(Heard::new(Instant::now())));
        let (counter, received) = watch::channel(0);
        let (joined, sessions) = watch::channel(0);
        let (leave, left) = watch::channel(false);
        let (identity, sends) = (Arc::clone(identity), habits.shapes.len());
        let life = Life { habits, seat, heard: Arc::clone(&heard), counter, joined, left, identity };
        Self { heard, received, sessions, leave, sends, task: tokio::spawn(life.run()) }
    }

    /// Begins to measure.
    pub fn mark(&self) {
        let mut heard = locked(&self.heard);
        (heard.longest, heard.pause, heard.unanswered) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        (heard.joined_again, heard.resumed, heard.refused, heard.disturbed) = (None, 0, 0, None);
        (heard.migrated, heard.not_migrated, heard.migrated_at) = (0, 0, None);
    }

    /// What it has heard since then.
    pub fn heard(&self) -> Heard {
        let mut heard = locked(&self.heard).clone();
        heard.longest = heard.longest.max(heard.last.elapsed());
        let waits = heard.asked.map_or(Duration::ZERO, |asked| asked.elapsed());
        heard.unanswered = heard.unanswered.max(waits);
        heard
    }

    /// Waits until it is in the room.
    ///
    /// # Errors
    /// That has not come about within that time.
    pub async fn joins(&self, within: Duration) -> Result<()> {
        let mut sessions = self.sessions.clone();
        let joined = tokio::time::timeout(within, sessions.wait_for(|count| *count > 0)).await;
        joined.context("no place in the room in time")?.context("the peer's task ended")?;
        Ok(())
    }

    /// Waits until so many packets have come in all.
    ///
    /// # Errors
    /// That has not come about within that time.
    pub async fn hears(&self, packets: u64, within: Duration) -> Result<()> {
        let mut received = self.received.clone();
        let heard = tokio::time::timeout(within, received.wait_for(|count| *count >= packets)).await;
        heard.context("no sound in time")?.context("the peer's task ended")?;
        Ok(())
    }

    /// How many streams it sends.
    pub fn sends(&self) -> usize {
        self.sends
    }

    /// Has it leave.
    pub fn leaves(&self) {
        // One that ended by itself has left.
        let _ = self.leave.send(true);
    }

    /// Waits until it has left.
    pub async fn left(self) {
        let _ = self.task.await;
    }

    /// Leaves.
    pub async fn leave(self) {
        self.leaves();
        self.left().await;
    }
}

struct Life {
    habits: Habits,
    seat: Seat,
    heard: Arc<Mutex<Heard>>,
    counter: watch::Sender<u64>,
    joined: watch::Sender<u32>,
    left: watch::Receiver<bool>,
    identity: Arc<Identity>,
}

impl Life {
    async fn run(self) {
        let (mut unreached, mut refused) = (0, 0);
        let mut ears = Ears::default();
        while !*self.left.borrow() {
            let Some(joined) = self.listening(&mut ears, self.join()).await else { return };
            let peer = match joined {
                Ok(peer) => peer,
                Err(failed) => {
                    let again = match failed {
                        Failed::Unreached => &mut unreached,
                        Failed::Refused => &mut refused,
                    };
                    *again += 1;
                    let pause = tokio::time::sleep(self.pause(failed, *again));
                    if self.listening(&mut ears, pause).await.is_none() {
                        return;
                    }
                    continue;
                }
            };
            (unreached, refused) = (0, 0);
            {
                let mut heard = locked(&self.heard);
                if *self.joined.borrow() > 0 {
                    heard.joined_again = Some(Instant::now());
                }
                heard.media = Some(peer.media_address());
            }
            self.joined.send_modify(|sessions| *sessions += 1);
            // Dropped when the session is over.
            let (_session, over) = watch::channel(());
            let session = *self.joined.borrow();
            tokio::spawn(ask(peer.asker(), session, self.habits.ask_every, Arc::clone(&self.heard), over));
            ears.begin(peer);
            if !self.session(&mut ears).await {
                return;
            }
        }
    }

    async fn join(&self) -> Result<Peer, Failed> {
        let address = self.seat.address();
        let shapes = &self.habits.shapes;
        match self.habits.client {
            Client::Demo => {
                let session = Protoo::connect(&address).await.map_err(|_| Failed::Unreached)?;
                let entered = Peer::enter(&self.seat, &self.identity, shapes, session).await;
                entered.map_err(|_| Failed::Refused)
            }
            Client::Own => {
                let session = Protoo::connect_resumable(&address).await.map_err(|_| Failed::Unreached)?;
                let entered = Peer::enter_as(Moves::InSession, &self.seat, &self.identity, shapes, session);
                let entered = tokio::time::timeout(JOIN_DEADLINE, entered).await;
                entered.map_err(|_| Failed::Refused)?.map_err(|_| Failed::Refused)
            }
        }
    }

    /// How long to wait before one more attempt.
    fn pause(&self, failed: Failed, times: u32) -> Duration {
        let doubled = |first: Duration, most: Duration| (first * 2_u32.saturating_pow(times - 1)).min(most);
        match (self.habits.client, failed) {
            (Client::Demo, _) => doubled(Duration::from_secs(1), LONGEST_PAUSE),
            (Client::Own, Failed::Unreached) => line::pause(times),
            (Client::Own, Failed::Refused) => doubled(REJOIN_FIRST, REJOIN_MOST),
        }
    }

    /// Listens until the session ends; false when the peer has left.
    async fn session(&self, ears: &mut Ears) -> bool {
        let mut look = tokio::time::interval(LOOK);
        while let Some(peer) = &mut ears.peer {
            let code = tokio::select! {
                code = peer.closed() => Some(code),
                _ = look.tick() => None,
            };
            self.note(ears);
            if let Some(code) = code {
                ears.end(self.habits.client == Client::Own && code == Some(MOVED));
            } else if *self.left.borrow() {
                if let Some(peer) = ears.peer.take() {
                    peer.leave().await;
                }
                return false;
            }
        }
        true
    }

    /// Listens to what there is until something is done; `None` when the peer leaves meanwhile.
    async fn listening<T>(&self, ears: &mut Ears, done: impl Future<Output = T>) -> Option<T> {
        let mut left = self.left.clone();
        let mut look = tokio::time::interval(LOOK);
        tokio::pin!(done);
        loop {
            tokio::select! {
                result = &mut done => return Some(result),
                _ = look.tick() => self.note(ears),
                _ = left.wait_for(|left| *left) => return None,
            }
        }
    }

    fn note(&self, ears: &mut Ears) {
        let now = Instant::now();
        let Noted { packets, missing, flowing, pause, resumed, migrated, not_migrated } =
            ears.since_last(now);
        let mut heard = locked(&self.heard);
        heard.flowing = flowing;
        heard.pause = heard.pause.max(pause);
        heard.resumed += resumed;
        heard.migrated += migrated;
        heard.not_migrated += not_migrated;
        if migrated > 0 {
            heard.migrated_at = Some(now);
        }
        heard.media = ears.peer.as_ref().map(Peer::media_address).or(heard.media);
        if packets == 0 {
            return;
        }
        let silent = now - heard.last;
        if silent > super::PAUSE {
            heard.disturbed = Some(now);
        }
        heard.longest = heard.longest.max(silent);
        heard.last = now;
        heard.received += packets;
        heard.missing = heard.missing.saturating_add_signed(missing);
        let total = heard.received;
        drop(heard);
        self.counter.send_replace(total);
    }
}

/// Why there is no session.
#[derive(Clone, Copy)]
enum Failed {
    Unreached,
    Refused,
}

/// What somebody listens to: the session's media, and for a while that of the one before, where the room has moved.
#[derive(Default)]
struct Ears {
    peer: Option<Peer>,
    old: Option<(Peer, Instant)>,
    /// What is counted already: packets, numbers left out, and how often the session went on.
    counted: (u64, u64),
    resumed: u32,
    migrations: Migrations,
}

/// What happened since it was looked last.
struct Noted {
    packets: u64,
    /// Numbers left out; fewer, where one came late.
    missing: i64,
    /// Of the session's streams: how many move, and the longest pause of one.
    flowing: usize,
    pause: Duration,
    resumed: u32,
    migrated: u32,
    not_migrated: u32,
}

impl Ears {
    fn begin(&mut self, peer: Peer) {
        self.peer = Some(peer);
        (self.resumed, self.migrations) = (0, Migrations::default());
    }

    fn end(&mut self, keep: bool) {
        let peer = self.peer.take().filter(|_| keep);
        self.old = peer.map(|peer| (peer, Instant::now() + MOVED_FOR));
        self.counted = self.counts(Tally::default());
    }

    fn since_last(&mut self, now: Instant) -> Noted {
        let current = self.peer.as_ref().map(Peer::tally).unwrap_or_default();
        let sum = self.counts(current);
        let packets = sum.0 - self.counted.0;
        let missing = sum.1.cast_signed() - self.counted.1.cast_signed();
        let resumed = self.peer.as_ref().map_or(0, Peer::resumed);
        let again = resumed - self.resumed.min(resumed);
        self.resumed = resumed;
        let migrations = self.peer.as_ref().map_or(self.migrations, Peer::migrations);
        let before = std::mem::replace(&mut self.migrations, migrations);
        self.counted = sum;
        if self.old.as_ref().is_some_and(|(_, until)| now >= *until) {
            self.old = None;
            self.counted = (current.received, current.missing);
        }
        Noted {
            packets,
            missing,
            flowing: current.flowing,
            pause: current.pause,
            resumed: again,
            migrated: migrations.done - before.done,
            not_migrated: migrations.failed - before.failed,
        }
    }

    /// What came in the session, and in the one before.
    fn counts(&self, current: Tally) -> (u64, u64) {
        let old = self.old.as_ref().map(|(peer, _)| peer.tally()).unwrap_or_default();
        (current.received + old.received, current.missing + old.missing)
    }
}

/// Asks one question after the other, until the session is over: to be called by its number and the question's.
async fn ask(
    asker: Asker,
    session: u32,
    every: Duration,
    heard: Arc<Mutex<Heard>>,
    mut over: watch::Receiver<()>,
) {
    for number in 1_u64.. {
        let name = json!({ "displayName": format!("{session}.{number}") });
        locked(&heard).asked();
        let answered = tokio::select! {
            answer = asker.request("changeDisplayName", name) => answer.is_ok(),
            _ = over.changed() => false,
        };
        if answered {
            locked(&heard).answered();
        } else {
            locked(&heard).refused += 1;
        }
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            _ = over.changed() => {
                // It would have asked.
                locked(&heard).asked();
                return;
            }
        }
    }
}

fn locked(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}
