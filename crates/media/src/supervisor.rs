//! A pool of workers that are kept alive, each with a WebRtcServer on ports of its own.
//!
//! A worker that dies, or lives but answers no more, is started again: at once, then with growing delays, and in a crash loop only every half a
//! minute. The pool never hands out a worker that is known to be dead. It does not know rooms: who lost a Router hears
//! it as [`crate::MediaEvent::WorkerDied`] and asks for another place.

mod settings;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::{
    sync::{broadcast, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

pub use self::settings::{ListenAddress, PoolError, PoolSettings};
use crate::{
    channel::lock,
    crash_budget::{CrashBudget, Respawn},
    error::WorkerExit,
    object::ObjectCounts,
    web_rtc_server::WebRtcServer,
    worker::Worker,
};

/// How long [`WorkerPool::place`] waits for a worker when none is alive: several starts fit into it.
const PLACE_DEADLINE: Duration = Duration::from_secs(5);

/// How often a worker is asked for a sign of life.
const PULSE_INTERVAL: Duration = Duration::from_secs(1);

/// How long it may take to give one. A turn of its event loop takes a millisecond or two; who needs seconds carries no
/// call any more.
const PULSE_PATIENCE: Duration = Duration::from_secs(3);

/// Events kept for a slow subscriber; workers do not die faster than that.
const EVENTS: usize = 256;

/// A worker with its sockets: where a room's Router is made.
#[derive(Debug, Clone)]
pub struct Placed {
    /// Which of the pool's.
    pub index: usize,
    /// The worker.
    pub worker: Worker,
    /// Its sockets.
    pub web_rtc_server: WebRtcServer,
    cpu: Arc<watch::Sender<u32>>,
}

impl Placed {
    /// How much of a core the worker uses, in thousandths, over the last seconds, and how that changes.
    #[must_use]
    pub fn cpu_permille(&self) -> watch::Receiver<u32> {
        self.cpu.subscribe()
    }
}

/// Where one would like to be placed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PlacementHint {
    /// Here, unless it bears far more than the others.
    pub prefer: Option<usize>,
    /// Not here, unless there is no other.
    pub avoid: Option<usize>,
}

/// What happens in a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoolEvent {
    /// A worker ended unasked.
    WorkerDied {
        /// Which.
        index: usize,
        /// Its process.
        pid: u32,
        /// How.
        exit: WorkerExit,
        /// What it held.
        lost: ObjectCounts,
    },
    /// A worker took a dead one's place.
    WorkerRespawned {
        /// Which.
        index: usize,
        /// Its process.
        pid: u32,
        /// How long there was none.
        absent: Duration,
    },
    /// Starting it again has not helped: it rests.
    CrashLooping {
        /// Which.
        index: usize,
        /// Until the next try.
        pause: Duration,
    },
}

/// How a worker of a pool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum WorkerState {
    /// It serves.
    Running,
    /// It died, and will be back soon.
    Respawning,
    /// It died too often, and is tried again now and then.
    CrashLooping,
    /// The pool is closed.
    Closed,
}

/// What there is to know of a worker of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerStatus {
    /// Which.
    pub index: usize,
    /// How it is.
    pub state: WorkerState,
    /// Its process, while it runs.
    pub pid: Option<u32>,
    /// How often it died.
    pub deaths: u64,
    /// What it holds.
    pub objects: ObjectCounts,
    /// How much of a core it uses, in thousandths, over the last seconds.
    pub cpu_permille: u32,
}

/// The pool. Clones are handles of the same one; [`WorkerPool::close`] ends it.
#[derive(Debug, Clone)]
pub struct WorkerPool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: PoolSettings,
    slots: Vec<Mutex<Slot>>,
    /// Grows whenever a slot changes, for those who wait.
    changes: watch::Sender<u64>,
    events: broadcast::Sender<PoolEvent>,
    closing: watch::Sender<bool>,
    supervisors: Mutex<JoinSet<()>>,
    next_tie: AtomicUsize,
}

#[derive(Debug)]
struct Slot {
    state: WorkerState,
    placed: Option<Placed>,
    deaths: u64,
}

impl WorkerPool {
    /// Starts all workers, and waits until they listen.
    ///
    /// # Errors
    /// [`PoolError`]: when one does not start, all are ended.
    pub async fn start(settings: PoolSettings) -> Result<Self, PoolError> {
        if settings.listen.is_empty() {
            return Err(PoolError::NoListenAddress);
        }
        let count = settings.worker_count();
        let mut starting = JoinSet::new();
        for index in 0..count {
            let settings = settings.clone();
            starting.spawn(async move { start_worker(&settings, index).await });
        }
        let mut placed = Vec::with_capacity(count);
        while let Some(started) = starting.join_next().await {
            // Dropping the others ends them.
            placed.push(started.expect("starting a worker neither panics nor is aborted")?);
        }
        placed.sort_by_key(|placed| placed.index);
        let slots = placed
            .iter()
            .map(|placed| {
                Mutex::new(Slot { state: WorkerState::Running, placed: Some(placed.clone()), deaths: 0 })
            })
            .collect();
        let pool = Self(Arc::new(Inner {
            settings,
            slots,
            changes: watch::Sender::new(0),
            events: broadcast::Sender::new(EVENTS),
            closing: watch::Sender::new(false),
            supervisors: Mutex::default(),
            next_tie: AtomicUsize::new(0),
        }));
        let mut supervisors = lock(&pool.0.supervisors);
        for first in placed {
            supervisors.spawn(supervise(Arc::clone(&pool.0), first));
        }
        drop(supervisors);
        Ok(pool)
    }

    /// How many workers there are, alive or not.
    #[must_use]
    pub fn size(&self) -> usize {
        self.0.slots.len()
    }

    /// The live worker that bears least. When none is alive, waits a few seconds for one.
    ///
    /// # Errors
    /// [`PoolError::NoWorker`].
    pub async fn place(&self) -> Result<Placed, PoolError> {
        self.place_near(PlacementHint::default()).await
    }

    /// As [`WorkerPool::place`], with a wish.
    ///
    /// # Errors
    /// [`PoolError::NoWorker`].
    pub async fn place_near(&self, hint: PlacementHint) -> Result<Placed, PoolError> {
        let mut changes = self.0.changes.subscribe();
        let waiting = async {
            loop {
                changes.mark_unchanged();
                if let Some(placed) = self.0.choose(hint, &[]) {
                    return Ok(placed);
                }
                if !self.0.may_recover() || changes.changed().await.is_err() {
                    return Err(PoolError::NoWorker);
                }
            }
        };
        timeout(PLACE_DEADLINE, waiting).await.unwrap_or(Err(PoolError::NoWorker))
    }

    /// The live worker that bears least and is none of these. With none to avoid, waits as [`WorkerPool::place`].
    ///
    /// # Errors
    /// [`PoolError::NoOtherWorker`], [`PoolError::NoWorker`].
    pub async fn place_apart(&self, from: &[usize]) -> Result<Placed, PoolError> {
        if from.is_empty() {
            return self.place().await;
        }
        self.0.choose(PlacementHint::default(), from).ok_or(PoolError::NoOtherWorker)
    }

    /// What happens from now on.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<PoolEvent> {
        self.0.events.subscribe()
    }

    /// How the workers are.
    #[must_use]
    pub fn status(&self) -> Vec<WorkerStatus> {
        let status = |(index, slot): (usize, &Mutex<Slot>)| {
            let slot = lock(slot);
            let worker = slot.placed.as_ref().map(|placed| &placed.worker);
            WorkerStatus {
                index,
                state: slot.state,
                pid: worker.map(Worker::pid),
                deaths: slot.deaths,
                objects: worker.map(Worker::object_counts).unwrap_or_default(),
                cpu_permille: slot.placed.as_ref().map_or(0, |placed| *placed.cpu.borrow()),
            }
        };
        self.0.slots.iter().enumerate().map(status).collect()
    }

    /// Whether workers run, and each holds as many transports as it may.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let most = self.0.settings.worker.transports;
        let mut running =
            self.0.slots.iter().filter_map(|slot| Some(lock(slot).placed.as_ref()?.worker.clone()));
        let mut some = false;
        running.all(|worker| {
            some = true;
            worker.object_counts().transports >= most
        }) && some
    }

    /// Ends all workers in order, and waits for it.
    pub async fn close(&self) {
        self.0.closing.send_replace(true);
        let mut supervisors = std::mem::take(&mut *lock(&self.0.supervisors));
        while supervisors.join_next().await.is_some() {}
    }
}

impl Inner {
    fn choose(&self, hint: PlacementHint, apart_from: &[usize]) -> Option<Placed> {
        let alive: Vec<(Placed, usize)> = self
            .slots
            .iter()
            .filter_map(|slot| lock(slot).placed.clone())
            .filter(|placed| placed.worker.is_running() && !apart_from.contains(&placed.index))
            .map(|placed| {
                let load = load(placed.worker.object_counts(), *placed.cpu.borrow());
                (placed, load)
            })
            .collect();
        let loads: Vec<(usize, usize)> = alive.iter().map(|(placed, load)| (placed.index, *load)).collect();
        let chosen = choose_index(&loads, hint, self.next_tie.fetch_add(1, Ordering::Relaxed))?;
        alive.into_iter().map(|(placed, _)| placed).find(|placed| placed.index == chosen)
    }

    /// Whether waiting may help: some worker is not in a crash loop.
    fn may_recover(&self) -> bool {
        self.slots
            .iter()
            .any(|slot| matches!(lock(slot).state, WorkerState::Running | WorkerState::Respawning))
    }

    fn set(&self, index: usize, change: impl FnOnce(&mut Slot)) {
        if let Some(slot) = self.slots.get(index) {
            change(&mut lock(slot));
            self.changes.send_modify(|changes| *changes += 1);
        }
    }

    fn tell(&self, event: PoolEvent) {
        // Nobody may be listening.
        let _ = self.events.send(event);
    }
}

/// What a worker bears, in streams: what it was given, and what that costs it as measured. A core that is used up counts as
/// the 2,000 streams that a core bears at best. Counts know at once of what was placed a moment ago, measurements know a
/// thumbnail from a full picture. An empty Router counts for those who will fill it, so that rooms opened together are
/// spread.
fn load(counts: ObjectCounts, cpu_permille: u32) -> usize {
    let measured = 2 * usize::try_from(cpu_permille).unwrap_or(usize::MAX / 4);
    counts.consumers + counts.transports + 2 * counts.producers + 8 * counts.routers + measured
}

/// The least loaded of these (index, load) pairs; of equals, they take turns.
fn choose_index(loads: &[(usize, usize)], hint: PlacementHint, turn: usize) -> Option<usize> {
    let others: Vec<_> = loads.iter().filter(|(index, _)| Some(*index) != hint.avoid).copied().collect();
    let candidates = if others.is_empty() { loads } else { &others };
    let least = candidates.iter().map(|(_, load)| *load).min()?;
    if let Some((index, load)) = candidates.iter().find(|(index, _)| Some(*index) == hint.prefer)
        && *load <= least.saturating_mul(2).saturating_add(64)
    {
        return Some(*index);
    }
    let equals: Vec<usize> =
        candidates.iter().filter(|(_, load)| *load == least).map(|(index, _)| *index).collect();
    equals.get(turn % equals.len().max(1)).copied()
}

async fn start_worker(settings: &PoolSettings, index: usize) -> Result<Placed, PoolError> {
    let listen = settings.listen_infos(index)?;
    let worker = Worker::spawn(&settings.worker).await?;
    let web_rtc_server =
        worker.create_web_rtc_server(&listen).await.map_err(|source| PoolError::Listen { index, source })?;
    Ok(Placed { index, worker, web_rtc_server, cpu: Arc::new(watch::Sender::new(0)) })
}

/// Keeps one worker alive until the pool closes.
async fn supervise(pool: Arc<Inner>, first: Placed) {
    let index = first.index;
    let mut closing = pool.closing.subscribe();
    let mut budget = CrashBudget::default();
    let mut placed = first;
    loop {
        let started = Instant::now();
        let exit = tokio::select! {
            exit = ended(&placed) => exit,
            () = until_closing(&mut closing) => {
                pool.set(index, |slot| {
                    slot.state = WorkerState::Closed;
                    slot.placed = None;
                });
                placed.worker.close().await;
                return;
            }
        };
        let died = Instant::now();
        let (pid, lost) = (placed.worker.pid(), placed.worker.lost());
        pool.set(index, |slot| {
            slot.state = WorkerState::Respawning;
            slot.placed = None;
            slot.deaths += 1;
        });
        tracing::error!(
            index, pid, %exit, routers = lost.routers, transports = lost.transports, producers = lost.producers,
            consumers = lost.consumers, "a media worker died; its rooms move to another"
        );
        pool.tell(PoolEvent::WorkerDied { index, pid, exit, lost });
        drop(placed);
        let respawned = tokio::select! {
            respawned = respawn(&pool, index, &mut budget, died - started) => respawned,
            () = until_closing(&mut closing) => {
                pool.set(index, |slot| slot.state = WorkerState::Closed);
                return;
            }
        };
        let absent = died.elapsed();
        let pid = respawned.worker.pid();
        pool.set(index, |slot| {
            slot.state = WorkerState::Running;
            slot.placed = Some(respawned.clone());
        });
        tracing::info!(
            index,
            pid,
            absent_ms = absent.as_millis(),
            "a media worker took the dead one's place"
        );
        pool.tell(PoolEvent::WorkerRespawned { index, pid, absent });
        placed = respawned;
    }
}

/// Waits for a worker's end, and brings it about where the process lives but answers no more: to its rooms that is the
/// same, and the rest of the way is that of any death.
async fn ended(Placed { worker, index, cpu, .. }: &Placed) -> WorkerExit {
    let silence = async {
        let mut before = None;
        loop {
            sleep(PULSE_INTERVAL).await;
            // A refusal is a sign of life, too.
            let Ok(usage) = timeout(PULSE_PATIENCE, worker.resource_usage()).await else { return };
            let Ok(usage) = usage else { continue };
            let used = Duration::from_millis(usage.ru_utime + usage.ru_stime);
            let now = Instant::now();
            if let Some((at, used_before)) = before.replace((now, used)) {
                measure(cpu, now - at, used.saturating_sub(used_before));
            }
        }
    };
    tokio::select! {
        exit = worker.exited() => exit,
        () = silence => {
            tracing::error!(index, pid = worker.pid(), "a media worker runs but does not answer: killing it");
            worker.kill();
            worker.exited().await
        }
    }
}

/// Half of what is told is new each time: a burst of a second is no load, three of them are.
fn measure(cpu: &watch::Sender<u32>, passed: Duration, used: Duration) {
    let permille = (used.as_secs_f64() / passed.as_secs_f64() * 1000.0) as u32;
    cpu.send_modify(|smoothed| *smoothed = (*smoothed + permille) / 2);
}

async fn until_closing(closing: &mut watch::Receiver<bool>) {
    // The sender lives as long as the pool, which the caller holds.
    let _ = closing.wait_for(|closing| *closing).await;
}

/// Tries until one runs.
async fn respawn(pool: &Inner, index: usize, budget: &mut CrashBudget, mut ran: Duration) -> Placed {
    loop {
        match budget.died(Instant::now(), ran, rand::random()) {
            Respawn::After(delay) => sleep(delay).await,
            Respawn::CrashLooping(pause) => {
                pool.set(index, |slot| slot.state = WorkerState::CrashLooping);
                tracing::error!(
                    index,
                    pause_s = pause.as_secs(),
                    binary = %pool.settings.worker.binary.display(),
                    "a media worker keeps dying and is left alone for a while. What it said last is above, on lines of \
                     target `worker`; raise the worker's log level for more. Settings to check: worker binary, media \
                     listen addresses and ports, DTLS certificate and key files"
                );
                pool.tell(PoolEvent::CrashLooping { index, pause });
                sleep(pause).await;
            }
        }
        match start_worker(&pool.settings, index).await {
            Ok(placed) => return placed,
            Err(error) => {
                tracing::error!(index, %error, "a media worker did not start");
                ran = Duration::ZERO;
            }
        }
    }
}

#[cfg(test)]
mod tests;
