//! Keeps a node registered, and its view of the others fresh.
//!
//! It beats every [`Timing::beat`] and looks at who is registered then; events only make it look sooner. Its view is of
//! who belongs to the cluster, not of who is healthy: a member leaves it by a goodbye or after a day's silence, never
//! because the store forgot it or cannot be reached. Whom to suspect is [`cluster::neighbourhood`]'s to say.

use std::collections::BTreeMap;
use std::time::Duration;

use cluster::lease::{Epoch, Lease};
use cluster::node::{Counts, Incarnation, Load, Node, NodeId};
use cluster::timing::Timing;
use rand::RngExt as _;
use tokio::sync::{broadcast, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::{MEMBER_LIFE, Store, StoreError, StoreEvent};

/// Between two looks that events ask for: however many nodes come at once.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// Between two sweeps of leases whose owners are no more.
const SWEEP: Duration = Duration::from_secs(3600);
/// How long the store's memory must have lasted before who is missing in it counts as gone: many beats of every node.
const SWEEP_QUIET: Duration = Duration::from_secs(600);
/// How long the goodbye may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// Who belongs to the cluster, as far as this node knows.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// All members, this node included once it has registered.
    pub members: BTreeMap<NodeId, Known>,
    /// Whether the store answered when it was asked last.
    pub store: bool,
    /// Another process has this node's name and a later incarnation, or this node was told goodbye by an operator: this one
    /// must end.
    pub replaced: Option<Incarnation>,
    /// The highest epoch of a lease that was swept away: claims must be above it.
    pub swept: Epoch,
}

/// A member.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    /// What it said of itself.
    pub node: Node,
    /// How busy it was.
    pub load: Load,
    /// Its counters, unless it has been silent for [`crate::METRICS_LIFE`].
    pub counts: Option<Counts>,
    /// When it beat last, by this node's clock.
    pub beat_at: Instant,
}

/// A node's registration, kept by a task. Dropping it ends the task without a goodbye, as a crash does.
#[derive(Debug)]
pub struct Membership {
    view: watch::Receiver<View>,
    node: watch::Sender<Node>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Drop for Membership {
    fn drop(&mut self) {
        if self.stop.is_some() {
            self.task.abort();
        }
    }
}

impl Membership {
    /// Registers a node and keeps it registered. `measure` is called with each beat: how busy the node is, what it counts.
    pub fn start(
        store: Store,
        node: Node,
        timing: Timing,
        measure: impl FnMut() -> (Load, Counts) + Send + 'static,
    ) -> Self {
        let (view_sender, view) =
            watch::channel(View { members: BTreeMap::new(), store: false, replaced: None, swept: Epoch(0) });
        let (node, node_receiver) = watch::channel(node);
        let (stop, stopped) = oneshot::channel();
        let events = store.events();
        let registrar = Registrar {
            store,
            node: node_receiver,
            timing,
            measure,
            view: view_sender,
            steady_since: Instant::now(),
        };
        let task = tokio::spawn(registrar.run(events, stopped));
        Self { view, node, stop: Some(stop), task }
    }

    /// The view, and each change of it.
    pub fn view(&self) -> watch::Receiver<View> {
        self.view.clone()
    }

    /// Changes what this node says of itself, at once: that it drains, or what it can carry.
    pub fn update(&self, change: impl FnOnce(&mut Node)) {
        self.node.send_modify(change);
    }

    /// As [`Self::update`], for somebody else: it outlives this.
    pub fn updates(&self) -> impl Fn(&dyn Fn(&mut Node)) + Send + 'static {
        let node = self.node.clone();
        move |change| node.send_modify(|node| change(node))
    }

    /// Says goodbye and ends. Takes two seconds at most; a store that is away is not told.
    pub async fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            // It may have ended already, replaced.
            let _ = stop.send(());
        }
        if let Err(error) = (&mut self.task).await {
            tracing::error!(%error, "the membership's task failed");
        }
    }
}

struct Registrar<M> {
    store: Store,
    node: watch::Receiver<Node>,
    timing: Timing,
    measure: M,
    view: watch::Sender<View>,
    /// Since when the store's memory has not been lost, nor the store.
    steady_since: Instant,
}

/// What to do next.
enum Next {
    Beat,
    Look,
    Nothing,
}

impl<M: FnMut() -> (Load, Counts) + Send> Registrar<M> {
    async fn run(mut self, mut events: broadcast::Receiver<StoreEvent>, mut stopped: oneshot::Receiver<()>) {
        let beat = self.timing.beat;
        let share = |of: Duration| of.mul_f64(rand::rng().random());
        // At once, and then at an instant of its own: nodes that start together do not beat together.
        let mut next_beat = Instant::now() + share(beat);
        let mut sweep_at = Instant::now() + SWEEP + share(SWEEP);
        let mut next = Next::Beat;
        loop {
            match next {
                Next::Beat => {
                    self.beat().await;
                    if self.view.borrow().replaced.is_some() {
                        return;
                    }
                    self.look().await;
                }
                Next::Look => {
                    sleep(LOOK_PAUSE).await;
                    self.look().await;
                }
                Next::Nothing => {}
            }
            let now = Instant::now();
            while next_beat <= now {
                next_beat += beat;
            }
            next = tokio::select! {
                _ = &mut stopped => break,
                () = sleep_until(next_beat) => Next::Beat,
                changed = self.node.changed() => {
                    if changed.is_err() { break } else { Next::Beat }
                }
                event = events.recv() => match event {
                    Ok(event) => self.heard(&event),
                    Err(broadcast::error::RecvError::Lagged(_)) => Next::Look,
                    Err(broadcast::error::RecvError::Closed) => break,
                },
                () = sleep_until(sweep_at) => {
                    sweep_at = Instant::now() + SWEEP + share(SWEEP);
                    self.sweep().await;
                    Next::Nothing
                }
            };
        }
        self.say_goodbye().await;
    }

    fn heard(&mut self, event: &StoreEvent) -> Next {
        match event {
            StoreEvent::Connected | StoreEvent::MemoryLost => {
                self.steady_since = Instant::now();
                Next::Beat
            }
            StoreEvent::Disconnected => {
                self.steady_since = Instant::now();
                self.store_answers(false);
                Next::Nothing
            }
            StoreEvent::NodeCame(_) | StoreEvent::NodeLeft(_) => Next::Look,
            StoreEvent::RoomClaimed(..)
            | StoreEvent::RoomReleased(..)
            | StoreEvent::Drain(..)
            | StoreEvent::DrainCancelled(_) => Next::Nothing,
        }
    }

    async fn beat(&mut self) {
        let node = self.node.borrow_and_update().clone();
        let (load, counts) = (self.measure)();
        match self.store.beat(&node, &load, &counts).await {
            Ok(()) => self.store_answers(true),
            Err(StoreError::Replaced { newest }) => {
                tracing::error!(node = %node.id, newest = newest.0, "this node was replaced by another of its name");
                self.view.send_modify(|view| view.replaced = Some(newest));
            }
            Err(error) => self.failed(&error),
        }
    }

    async fn look(&mut self) {
        let members = match self.store.members().await {
            Ok(members) => members,
            Err(error) => return self.failed(&error),
        };
        let now = Instant::now();
        self.view.send_if_modified(|view| {
            let before = view.clone();
            view.store = true;
            for member in members {
                let id = member.node.id.clone();
                let known = view.members.get(&id).map(|known| known.node.incarnation);
                let newest = known.is_none_or(|known| known <= member.node.incarnation);
                if member.left {
                    if newest {
                        view.members.remove(&id);
                    }
                } else if newest {
                    let beat_at = now.checked_sub(member.silent).unwrap_or(now);
                    let known =
                        Known { node: member.node, load: member.load, counts: member.counts, beat_at };
                    view.members.insert(id, known);
                }
            }
            view.members.retain(|_, known| now < known.beat_at + MEMBER_LIFE);
            *view != before
        });
    }

    fn failed(&self, error: &StoreError) {
        match error {
            StoreError::Away | StoreError::Timeout => {}
            // Of another kind than the links' own: they do not log it.
            error => tracing::warn!(%error, "the store does not do as it should"),
        }
        self.store_answers(false);
    }

    fn store_answers(&self, answers: bool) {
        self.view.send_if_modified(|view| std::mem::replace(&mut view.store, answers) != answers);
    }

    async fn sweep(&mut self) {
        if self.steady_since.elapsed() < SWEEP_QUIET {
            return;
        }
        let members = self.view.borrow().members.clone();
        let is_dead = |lease: &Lease| {
            // A later life of its owner has nothing of what the earlier one had.
            members.get(&lease.term.node).is_none_or(|known| known.node.incarnation > lease.incarnation)
        };
        match self.store.sweep(is_dead).await {
            Ok(swept) if swept.leases.is_empty() => {}
            Ok(swept) => {
                tracing::info!(leases = swept.leases.len(), "leases of nodes that are no more were deleted");
                let highest = swept.leases.iter().map(|lease| lease.term.epoch).max().unwrap_or(Epoch(0));
                self.view.send_modify(|view| view.swept = view.swept.max(highest));
            }
            Err(error) => self.failed(&error),
        }
    }

    async fn say_goodbye(&mut self) {
        let (id, incarnation) = {
            let node = self.node.borrow();
            (node.id.clone(), node.incarnation)
        };
        match timeout(GOODBYE, self.store.deregister(&id, incarnation)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the store was not told goodbye"),
            Err(_) => tracing::warn!("the store was not told goodbye in time"),
        }
    }
}

#[cfg(test)]
mod tests;
