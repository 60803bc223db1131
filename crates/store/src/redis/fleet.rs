//! Which server has which key: one for all, or a Cluster's map of slots, kept fresh.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use rand::RngExt as _;
use redis::{ErrorKind, RedisError, RedisResult, ServerErrorKind, Value};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::link::{Link, PATIENCE, Target, connect_briefly, deadline};
use super::pulse::Pulse;
use super::scripts::Question;
use super::settings::{Host, RedisSettings, Topology};
use super::slot;
use crate::StoreError;

/// Between two looks at a Cluster's map when all is well.
const CALM: Duration = Duration::from_secs(5);
/// And while a part is missing.
const ALARM: Duration = Duration::from_millis(200);

/// A map of servers, by slots.
#[derive(Default)]
struct Map {
    /// First slot, last slot, the name of the link.
    ranges: Vec<(u16, u16, String)>,
    links: BTreeMap<String, Arc<Link>>,
}

impl Map {
    fn link(&self, slot: u16) -> Option<&Arc<Link>> {
        let (_, _, name) = self.ranges.iter().find(|(first, last, _)| (*first..=*last).contains(&slot))?;
        self.links.get(name)
    }
}

/// All servers.
pub(super) struct Fleet {
    map: watch::Sender<Arc<Map>>,
    /// The map may be wrong.
    doubt: Arc<Notify>,
    surveyor: OnceLock<JoinHandle<()>>,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if let Some(task) = self.surveyor.get() {
            task.abort();
        }
    }
}

impl Fleet {
    /// Begins to connect.
    pub(super) fn start(settings: RedisSettings, pulse: &Arc<Pulse>) -> Arc<Self> {
        let settings = Arc::new(settings);
        let target = match &settings.topology {
            Topology::Standalone(host) => Target::Fixed(host.clone()),
            Topology::Sentinel { hosts, master } => {
                Target::Master { sentinels: hosts.clone(), name: master.clone() }
            }
            Topology::Cluster(seeds) => return Self::start_cluster(seeds.clone(), &settings, pulse),
        };
        let name = match &target {
            Target::Fixed(host) => host.to_string(),
            Target::Master { name, .. } => name.clone(),
        };
        let link = Link::start(name.clone(), target, settings, Arc::clone(pulse));
        let map = Map { ranges: vec![(0, slot::LAST, name.clone())], links: [(name, Arc::new(link))].into() };
        Arc::new(Self {
            map: watch::Sender::new(Arc::new(map)),
            doubt: Arc::default(),
            surveyor: OnceLock::new(),
        })
    }

    fn start_cluster(seeds: Vec<Host>, settings: &Arc<RedisSettings>, pulse: &Arc<Pulse>) -> Arc<Self> {
        let fleet = Arc::new(Self {
            map: watch::Sender::default(),
            doubt: Arc::default(),
            surveyor: OnceLock::new(),
        });
        let (settings, pulse) = (Arc::clone(settings), Arc::clone(pulse));
        fleet.surveyor.get_or_init(|| tokio::spawn(survey(Arc::downgrade(&fleet), seeds, settings, pulse)));
        fleet
    }

    /// Asks whoever has a key; follows it where it moves.
    pub(super) async fn ask(&self, key: &str, question: impl Into<Question>) -> Result<Value, StoreError> {
        let question = question.into();
        let slot = slot::of(key);
        match timeout(PATIENCE, self.ask_slot(slot, &question)).await {
            Ok(answer) => answer,
            Err(_) => Err(StoreError::Timeout),
        }
    }

    async fn ask_slot(&self, slot: u16, question: &Question) -> Result<Value, StoreError> {
        let mut map = self.map.subscribe();
        loop {
            let current = map.borrow_and_update().clone();
            let Some(link) = current.link(slot) else {
                self.doubt.notify_one();
                return Err(StoreError::Away);
            };
            let Some(mut answer) = link.ask(question, false).await else { return Err(StoreError::Away) };
            if let Err(error) = &answer
                && error.kind() == ErrorKind::Server(ServerErrorKind::Ask)
                && let Some((name, _)) = error.redirect_node()
                && let Some(link) = current.links.get(name)
            {
                let Some(redirected) = link.ask(question, true).await else { return Err(StoreError::Away) };
                answer = redirected;
            }
            match answer {
                Ok(value) => return Ok(value),
                Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::Moved) => {
                    // The map is older than the Cluster: look again, and ask again when it is new.
                    self.doubt.notify_one();
                    let _ = timeout(ALARM, map.changed()).await;
                }
                Err(error) => return Err(told(&error)),
            }
        }
    }

    /// Asks every server that has keys of its own.
    pub(super) async fn ask_each(&self, question: &Question) -> Result<Vec<Value>, StoreError> {
        let map = self.map.borrow().clone();
        if map.links.is_empty() {
            return Err(StoreError::Away);
        }
        let asked = map.links.values().map(|link| async {
            match timeout(PATIENCE, link.ask(question, false)).await {
                Ok(Some(answer)) => answer.map_err(|error| told(&error)),
                Ok(None) => Err(StoreError::Away),
                Err(_) => Err(StoreError::Timeout),
            }
        });
        futures_util::future::join_all(asked).await.into_iter().collect()
    }

    /// The names of the servers that have keys of their own.
    pub(super) fn names(&self) -> Vec<String> {
        self.map.borrow().links.keys().cloned().collect()
    }

    /// Asks one of them.
    pub(super) async fn ask_server(
        &self,
        name: &str,
        question: impl Into<Question>,
    ) -> Result<Value, StoreError> {
        let link = self.map.borrow().links.get(name).cloned().ok_or(StoreError::Away)?;
        match timeout(PATIENCE, link.ask(&question.into(), false)).await {
            Ok(Some(answer)) => answer.map_err(|error| told(&error)),
            Ok(None) => Err(StoreError::Away),
            Err(_) => Err(StoreError::Timeout),
        }
    }
}

/// What the caller learns of an error.
fn told(error: &RedisError) -> StoreError {
    use ServerErrorKind::{BusyLoading, ClusterDown, MasterDown, ReadOnly, TryAgain};
    match error.kind() {
        // It is there, but not fit to answer yet; a demoted master's successor is being looked for.
        ErrorKind::Server(BusyLoading | ClusterDown | MasterDown | ReadOnly | TryAgain) => StoreError::Away,
        ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::AuthenticationFailed => {
            StoreError::Refused(error.to_string())
        }
        _ if error.is_timeout() => StoreError::Timeout,
        // It broke off; a change may have taken place.
        _ if error.is_io_error() || error.is_connection_dropped() => StoreError::Timeout,
        _ => StoreError::Refused(error.to_string()),
    }
}

async fn survey(fleet: Weak<Fleet>, seeds: Vec<Host>, settings: Arc<RedisSettings>, pulse: Arc<Pulse>) {
    let mut failed = false;
    loop {
        let Some(fleet) = fleet.upgrade() else { return };
        let found = look(&fleet, &seeds, &settings).await;
        let mut all_up = false;
        match found {
            Ok(ranges) if !ranges.is_empty() => {
                failed = false;
                all_up = fleet.redraw(ranges, &settings, &pulse);
            }
            Ok(_) => {}
            Err(error) => {
                pulse.failed(&error);
                if !failed {
                    tracing::warn!(%error, "no server of the Redis Cluster says where its keys are");
                }
                failed = true;
            }
        }
        let doubt = Arc::clone(&fleet.doubt);
        drop(fleet);
        // However loud the alarm, not without a pause.
        let pause = ALARM.mul_f64(rand::rng().random_range(0.5..1.0));
        sleep(pause).await;
        if all_up {
            tokio::select! {
                () = sleep(CALM) => {}
                () = doubt.notified() => {}
                () = pulse.changed.notified() => {}
            }
        }
    }
}

impl Fleet {
    /// Takes a new map; says whether all its servers are connected to.
    fn redraw(
        &self,
        ranges: Vec<(u16, u16, Host)>,
        settings: &Arc<RedisSettings>,
        pulse: &Arc<Pulse>,
    ) -> bool {
        let old = self.map.borrow().clone();
        let mut map = Map::default();
        for (first, last, host) in ranges {
            let name = host.to_string();
            map.links.entry(name.clone()).or_insert_with(|| match old.links.get(&name) {
                Some(link) => Arc::clone(link),
                None => {
                    let (settings, pulse) = (Arc::clone(settings), Arc::clone(pulse));
                    Arc::new(Link::start(name.clone(), Target::Fixed(host), settings, pulse))
                }
            });
            map.ranges.push((first, last, name));
        }
        let all_up = map.links.values().all(|link| link.is_up());
        if map.ranges != old.ranges {
            self.map.send_replace(Arc::new(map));
        }
        all_up
    }
}

/// Asks any server for the map: those that are connected first.
async fn look(fleet: &Fleet, seeds: &[Host], settings: &RedisSettings) -> RedisResult<Vec<(u16, u16, Host)>> {
    let question = || -> Question {
        let mut command = redis::cmd("CLUSTER");
        command.arg("SLOTS");
        command.into()
    };
    let links: Vec<(String, Arc<Link>)> =
        fleet.map.borrow().links.iter().map(|(name, link)| (name.clone(), Arc::clone(link))).collect();
    let mut last = RedisError::from((ErrorKind::Client, "no server of the Cluster is connected"));
    for (name, link) in links {
        match timeout(PATIENCE, link.ask(&question(), false)).await {
            Ok(Some(Ok(value))) => return Ok(slot::parse_map(&value, &name)),
            Ok(Some(Err(error))) => last = error,
            Ok(None) | Err(_) => {}
        }
    }
    for seed in seeds {
        let asked = async {
            let mut connection = connect_briefly(seed, settings).await?;
            question().command.query_async::<Value>(&mut connection).await
        };
        match deadline(asked).await {
            Ok(value) => return Ok(slot::parse_map(&value, &seed.to_string())),
            Err(error) => last = error,
        }
    }
    Err(last)
}
