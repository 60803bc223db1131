//! One site of a room: a router on a worker, and the task that carries out there what the room wants done.
//!
//! What goes in and out is plain data ([`SiteOp`], [`SiteNews`]), so that a room cannot tell a site on this node from
//! one on another: there the same task runs, and a link carries the data. The task ends, and frees everything, when it
//! is told [`MediaOp::CloseRouter`], when whoever drives it is gone, and when the worker dies. A site whose room moves to
//! another node is told to *park*: it goes on, keeps its news, and waits for a while for whoever takes it up.

use std::collections::{HashMap, VecDeque};
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use media::{EventReceiver, WorkerPool};
use room::{MediaDone, MediaFailure, MediaOp, OpId, Place, Region, RoomId, SiteEvent, SiteId};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::warn;

use crate::host::lock;
use crate::media_side::{MediaSettings, MediaSide, Surroundings, Work};
use crate::spread::Spread;

/// Operations that wait for one site. A peer that joins a room of 500 brings about a thousand; a site that does not take
/// 16 such crowds at once is lost to its room.
pub const SITE_OPS: usize = 16_384;

/// News of all sites of a room that wait for the room. Sites wait when it is full.
pub const SITE_NEWS: usize = 1024;

/// How long a parked site waits for whoever takes it up: longer than a room takes to move, or to be given up.
const PARKED: Duration = Duration::from_secs(12);
/// News that a parked site keeps. Beyond it the site ends, as one that nobody drives.
const PARKED_NEWS: usize = 16_384;

/// Work for a site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum SiteOp {
    /// For its media.
    Do {
        /// The tag of its completion.
        op: OpId,
        /// What.
        what: MediaOp,
    },
    /// Its room moves: what is said from now on waits for whoever takes the site up. Answered by [`SiteNews::Parked`]; nothing
    /// follows in either direction.
    Park,
}

/// What a site says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum SiteNews {
    /// Work ended.
    Done {
        /// Which.
        op: OpId,
        /// How.
        result: Result<MediaDone, MediaFailure>,
    },
    /// Something happened. [`SiteEvent::Lost`] is the last that is said.
    Event(SiteEvent),
    /// The site waits to be taken up. The last that is said.
    Parked,
}

/// Where a room's sites say what they have to say.
pub type NewsSender = mpsc::Sender<(SiteId, SiteNews)>;

/// Opens sites, on this node's workers or on another node.
pub trait Sites: Debug + Send + Sync {
    /// Begins a site. The first operation is [`MediaOp::CreateRouter`], which names the region, too. The site ends when
    /// the sender is dropped. Where the other end of the sender is gone before it was told
    /// [`MediaOp::CloseRouter`], the site must have said [`SiteEvent::Lost`], or that its router could not be made.
    fn open(
        &self,
        room: &RoomId,
        site: SiteId,
        region: Option<&Region>,
        news: NewsSender,
    ) -> mpsc::Sender<SiteOp>;

    /// Takes up a parked site that is on this node of the cluster, under the room's new term: an epoch, and whose. What it kept
    /// comes first. Where that cannot be, it says [`SiteEvent::Lost`].
    fn adopt(
        &self,
        room: &RoomId,
        site: SiteId,
        node: &str,
        term: (u64, &str),
        news: NewsSender,
    ) -> mpsc::Sender<SiteOp>;
}

/// Sites on this node's workers.
#[derive(Debug)]
pub struct LocalSites {
    pool: WorkerPool,
    settings: MediaSettings,
    place: Place,
    spread: Spread,
    parked: Parked,
    tasks: Mutex<JoinSet<()>>,
}

/// Who drives a site from now on.
#[derive(Debug)]
struct Driver {
    inbox: mpsc::Receiver<SiteOp>,
    news: NewsSender,
}

/// The parked sites of a node.
type Parked = Arc<Mutex<HashMap<(RoomId, SiteId), oneshot::Sender<Driver>>>>;

impl LocalSites {
    /// Sites on these workers. `place` is what they say of where they are.
    pub fn new(pool: WorkerPool, settings: MediaSettings, place: Place) -> Self {
        Self {
            pool,
            settings,
            place,
            spread: Spread::default(),
            parked: Parked::default(),
            tasks: Mutex::default(),
        }
    }

    /// Whether no worker that runs takes another transport.
    pub fn is_full(&self) -> bool {
        self.pool.is_full()
    }

    /// Takes up a parked site; `None` where there is none, or somebody was quicker.
    pub fn take_up(&self, room: &RoomId, site: SiteId, news: NewsSender) -> Option<mpsc::Sender<SiteOp>> {
        let waiting = lock(&self.parked).remove(&(room.clone(), site))?;
        let (ops, inbox) = mpsc::channel(SITE_OPS);
        waiting.send(Driver { inbox, news }).ok().map(|()| ops)
    }
}

impl Sites for LocalSites {
    fn open(
        &self,
        room: &RoomId,
        site: SiteId,
        _region: Option<&Region>,
        news: NewsSender,
    ) -> mpsc::Sender<SiteOp> {
        let (ops, inbox) = mpsc::channel(SITE_OPS);
        let home = Surroundings {
            pool: self.pool.clone(),
            spread: self.spread.clone(),
            room: room.clone(),
            place: self.place.clone(),
        };
        let (media, media_events) = MediaSide::new(home, self.settings.clone());
        let task = SiteTask {
            room: room.clone(),
            site,
            media,
            media_events,
            inbox,
            news,
            work: FuturesUnordered::new(),
            router: None,
            parked: self.parked.clone(),
        };
        let mut tasks = lock(&self.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task.run());
        ops
    }

    fn adopt(
        &self,
        room: &RoomId,
        site: SiteId,
        _node: &str,
        _term: (u64, &str),
        news: NewsSender,
    ) -> mpsc::Sender<SiteOp> {
        self.take_up(room, site, news.clone()).unwrap_or_else(|| lost(site, news))
    }
}

/// A site that is not there.
fn lost(site: SiteId, news: NewsSender) -> mpsc::Sender<SiteOp> {
    // Ends when the room has heard it, or is gone.
    tokio::spawn(async move { news.send((site, SiteNews::Event(SiteEvent::Lost))).await });
    mpsc::channel(1).0
}

/// The sites of one room, as its actor sees them.
#[derive(Debug)]
pub(crate) struct SitesOfRoom {
    room: RoomId,
    sites: Arc<dyn Sites>,
    open: HashMap<SiteId, mpsc::Sender<SiteOp>>,
    news: NewsSender,
}

impl SitesOfRoom {
    pub(crate) fn new(room: RoomId, sites: Arc<dyn Sites>) -> (Self, mpsc::Receiver<(SiteId, SiteNews)>) {
        let (news, receiver) = mpsc::channel(SITE_NEWS);
        (Self { room, sites, open: HashMap::new(), news }, receiver)
    }

    /// Gives work to a site; the room's first work for a site opens it. `false`: the site is lost.
    pub(crate) fn start(&mut self, site: SiteId, op: OpId, what: MediaOp) -> bool {
        if let MediaOp::CreateRouter { region, .. } = &what {
            self.open.retain(|_, ops| !ops.is_closed());
            let ops = self.sites.open(&self.room, site, region.as_ref(), self.news.clone());
            self.open.insert(site, ops);
        }
        let last = matches!(what, MediaOp::CloseRouter);
        let sent = match self.open.get(&site).map(|ops| ops.try_send(SiteOp::Do { op, what })) {
            Some(Ok(())) => true,
            // It has ended, and has said so.
            Some(Err(mpsc::error::TrySendError::Closed(_))) | None => true,
            Some(Err(mpsc::error::TrySendError::Full(_))) => false,
        };
        if last || !sent {
            self.open.remove(&site);
        }
        sent
    }

    /// Parks all sites that can take it; they say so.
    pub(crate) fn park(&mut self) -> Vec<SiteId> {
        let parks = self.open.drain().filter(|(_, ops)| ops.try_send(SiteOp::Park).is_ok());
        parks.map(|(site, _)| site).collect()
    }

    /// Takes up a site that the room had before it moved, or that it parked.
    pub(crate) fn adopt(&mut self, site: SiteId, node: &str, term: (u64, &str)) {
        let ops = self.sites.adopt(&self.room, site, node, term, self.news.clone());
        self.open.insert(site, ops);
    }
}

struct SiteTask {
    room: RoomId,
    site: SiteId,
    media: MediaSide,
    media_events: EventReceiver,
    inbox: mpsc::Receiver<SiteOp>,
    news: NewsSender,
    /// Polled in the order of the room's operations, so that requests reach the worker in that order.
    work: FuturesUnordered<Work>,
    /// The operation that makes the router. Without a router there is no site.
    router: Option<OpId>,
    parked: Parked,
}

/// What woke the task.
enum Woken {
    Own(Option<SiteNews>),
    Op(Option<SiteOp>),
}

impl SiteTask {
    async fn run(mut self) {
        loop {
            let news = match self.wait().await {
                Woken::Own(news) => news,
                Woken::Op(Some(SiteOp::Do { what: MediaOp::CloseRouter, .. }) | None) => break,
                Woken::Op(Some(SiteOp::Park)) => {
                    if !self.park().await {
                        break;
                    }
                    continue;
                }
                Woken::Op(Some(SiteOp::Do { op, what })) => {
                    if matches!(what, MediaOp::CreateRouter { .. }) {
                        self.router = Some(op);
                    }
                    self.work.push(self.media.start(op, what));
                    None
                }
            };
            let Some(news) = news else { continue };
            let lost = matches!(news, SiteNews::Event(SiteEvent::Lost));
            let stillborn =
                matches!(&news, SiteNews::Done { op, result: Err(_) } if Some(*op) == self.router);
            if lost {
                warn!(room = %self.room, site = self.site.0, "a room's worker died: its peers there join again");
            }
            // Whoever drives the site may have gone.
            if self.news.send((self.site, news)).await.is_err() || lost || stillborn {
                break;
            }
        }
        // The router closes with its last handle, and all it has with it; work under way ends at once.
    }

    /// Waits for a new driver, and tells it what happened meanwhile. `false`: nobody came, or there is nothing to drive.
    async fn park(&mut self) -> bool {
        let (waiting, mut waiting_ends) = oneshot::channel();
        let key = (self.room.clone(), self.site);
        lock(&self.parked).insert(key.clone(), waiting);
        // Whoever parks the site may be gone already.
        let _ = self.news.send((self.site, SiteNews::Parked)).await;
        let until = Instant::now() + PARKED;
        let mut kept = VecDeque::new();
        let taken = loop {
            let news = tokio::select! {
                biased;
                taken = &mut waiting_ends => break taken.ok(),
                () = tokio::time::sleep_until(until) => break None,
                news = own(&mut self.work, &mut self.media_events, &mut self.media) => news,
            };
            kept.extend(news);
            let is_over = kept.back() == Some(&SiteNews::Event(SiteEvent::Lost));
            if is_over || kept.len() > PARKED_NEWS {
                break None;
            }
        };
        waiting_ends.close();
        let taken = taken.or_else(|| waiting_ends.try_recv().ok());
        // A room of the same name may have parked its own since.
        lock(&self.parked).retain(|of, waiting| *of != key || !waiting.is_closed());
        let Some(Driver { inbox, news }) = taken else {
            warn!(room = %self.room, site = self.site.0, "nobody took up a site of a room that moved");
            return false;
        };
        (self.inbox, self.news) = (inbox, news);
        for news in kept {
            if self.news.send((self.site, news)).await.is_err() {
                return false;
            }
        }
        true
    }

    async fn wait(&mut self) -> Woken {
        // In this order: what frees things comes before what asks for more.
        tokio::select! {
            biased;
            news = own(&mut self.work, &mut self.media_events, &mut self.media) => Woken::Own(news),
            op = self.inbox.recv() => Woken::Op(op),
        }
    }
}

/// What happens at a site by itself. Dropped before it is done, nothing of it is lost.
async fn own(
    work: &mut FuturesUnordered<Work>,
    events: &mut EventReceiver,
    media: &mut MediaSide,
) -> Option<SiteNews> {
    tokio::select! {
        biased;
        Some(finished) = work.next(), if !work.is_empty() => media.finish(finished),
        event = events.recv() => event.and_then(|event| media.translate(event)).map(SiteNews::Event),
        busy = media.busy() => Some(SiteNews::Event(SiteEvent::Busy(busy))),
    }
}
