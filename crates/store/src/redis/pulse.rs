//! Whether the store can be reached, and what it tells: what all links have in common.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use redis::{RedisError, Value};
use tokio::sync::{Notify, broadcast, watch};

use crate::{EVENT_QUEUE, StoreError, StoreEvent};

/// The state of all links.
#[derive(Debug)]
pub(super) struct Pulse {
    links: Mutex<BTreeMap<String, bool>>,
    connected: watch::Sender<bool>,
    /// Why the last attempt to connect failed.
    failure: Mutex<Option<StoreError>>,
    events: broadcast::Sender<StoreEvent>,
    /// A link came or went.
    pub(super) changed: Notify,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self {
            links: Mutex::default(),
            connected: watch::Sender::new(false),
            failure: Mutex::default(),
            events: broadcast::Sender::new(EVENT_QUEUE),
            changed: Notify::new(),
        }
    }

    fn links(&self) -> MutexGuard<'_, BTreeMap<String, bool>> {
        self.links.lock().expect("nobody panics while holding this lock")
    }

    /// There is a link, not up yet.
    pub(super) fn add(&self, name: &str) {
        let mut links = self.links();
        links.insert(name.to_owned(), false);
        self.settle(&links);
    }

    /// A link is up, or not. One that was forgotten meanwhile stays so.
    pub(super) fn set(&self, name: &str, up: bool) {
        let mut links = self.links();
        if let Some(state) = links.get_mut(name) {
            *state = up;
            self.settle(&links);
        }
    }

    /// A link is none of the store's any more.
    pub(super) fn forget(&self, name: &str) {
        let mut links = self.links();
        links.remove(name);
        self.settle(&links);
    }

    /// Reached is the store of which every part is.
    fn settle(&self, links: &BTreeMap<String, bool>) {
        let now = !links.is_empty() && links.values().all(|up| *up);
        let changed = self.connected.send_if_modified(|before| std::mem::replace(before, now) != now);
        if changed {
            self.tell(if now { StoreEvent::Connected } else { StoreEvent::Disconnected });
        }
        self.changed.notify_one();
    }

    /// An attempt to connect failed.
    pub(super) fn failed(&self, error: &RedisError) {
        let failure = if error.is_io_error() {
            StoreError::Unreachable(error.to_string())
        } else {
            StoreError::Refused(error.to_string())
        };
        *self.failure.lock().expect("nobody panics while holding this lock") = Some(failure);
    }

    /// Why.
    pub(super) fn failure(&self) -> Option<StoreError> {
        self.failure.lock().expect("nobody panics while holding this lock").clone()
    }

    pub(super) fn connected(&self) -> watch::Receiver<bool> {
        self.connected.subscribe()
    }

    /// A message arrived on a link. All parts of a Cluster say the same; one is listened to.
    pub(super) fn heard(&self, name: &str, data: &[Value]) {
        let listened = self.links().iter().find(|(_, up)| **up).is_some_and(|(first, _)| first == name);
        let Some(Value::BulkString(text)) = data.last().filter(|_| listened) else { return };
        if let Some(event) = std::str::from_utf8(text).ok().and_then(StoreEvent::from_wire) {
            self.tell(event);
        }
    }

    pub(super) fn tell(&self, event: StoreEvent) {
        // Nobody may be listening.
        let _ = self.events.send(event);
    }

    pub(super) fn events(&self) -> broadcast::Receiver<StoreEvent> {
        self.events.subscribe()
    }
}
