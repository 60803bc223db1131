//! One site of a room: a router on a worker, and the task that carries out there what the room wants done.
//!
//! What goes in and out is plain data ([`SiteOp`], [`SiteNews`]), so that a room cannot tell a site on this node from
//! one on another: there the same task runs, and a link carries the data. The task ends, and frees everything, when it
//! is told [`MediaOp::CloseRouter`], when whoever drives it is gone, and when the worker dies.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use media::{EventReceiver, MediaEvent, WorkerPool};
use room::{MediaDone, MediaFailure, MediaOp, OpId, Place, Region, RoomId, SiteEvent, SiteId};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::warn;

use crate::host::lock;
use crate::media_side::{Finished, MediaSettings, MediaSide, Surroundings, Work};
use crate::spread::Spread;

/// Operations that wait for one site. A peer that joins a room of 500 brings about a thousand; a site that does not take
/// 16 such crowds at once is lost to its room.
pub const SITE_OPS: usize = 16_384;

/// News of all sites of a room that wait for the room. Sites wait when it is full.
pub const SITE_NEWS: usize = 1024;

/// Work for a site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SiteOp {
    /// The tag of its completion.
    pub op: OpId,
    /// What.
    pub what: MediaOp,
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
}

/// Sites on this node's workers.
#[derive(Debug)]
pub struct LocalSites {
    pool: WorkerPool,
    settings: MediaSettings,
    place: Place,
    spread: Spread,
    tasks: Mutex<JoinSet<()>>,
}

impl LocalSites {
    /// Sites on these workers. `place` is what they say of where they are.
    pub fn new(pool: WorkerPool, settings: MediaSettings, place: Place) -> Self {
        Self { pool, settings, place, spread: Spread::default(), tasks: Mutex::default() }
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
        };
        let mut tasks = lock(&self.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task.run());
        ops
    }
}

/// The sites of one room, as its actor sees them.
#[derive(Debug)]
pub(crate) struct SitesOfRoom {
    room: RoomId,
    sites: Arc<dyn Sites>,
    open: std::collections::HashMap<SiteId, mpsc::Sender<SiteOp>>,
    news: NewsSender,
}

impl SitesOfRoom {
    pub(crate) fn new(room: RoomId, sites: Arc<dyn Sites>) -> (Self, mpsc::Receiver<(SiteId, SiteNews)>) {
        let (news, receiver) = mpsc::channel(SITE_NEWS);
        (Self { room, sites, open: std::collections::HashMap::new(), news }, receiver)
    }

    /// Gives work to a site; the room's first work for a site opens it. `false`: the site is lost.
    pub(crate) fn start(&mut self, site: SiteId, op: OpId, what: MediaOp) -> bool {
        if let MediaOp::CreateRouter { region, .. } = &what {
            self.open.retain(|_, ops| !ops.is_closed());
            let ops = self.sites.open(&self.room, site, region.as_ref(), self.news.clone());
            self.open.insert(site, ops);
        }
        let last = matches!(what, MediaOp::CloseRouter);
        let sent = match self.open.get(&site).map(|ops| ops.try_send(SiteOp { op, what })) {
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
}

/// What woke the task.
enum Woken {
    Finished(Finished),
    Media(Option<MediaEvent>),
    Busy(bool),
    Op(Option<SiteOp>),
}

impl SiteTask {
    async fn run(mut self) {
        loop {
            let news = match self.wait().await {
                Woken::Finished(finished) => self.media.finish(finished),
                Woken::Media(event) => {
                    event.and_then(|event| self.media.translate(event)).map(SiteNews::Event)
                }
                Woken::Busy(busy) => Some(SiteNews::Event(SiteEvent::Busy(busy))),
                Woken::Op(Some(SiteOp { what: MediaOp::CloseRouter, .. }) | None) => break,
                Woken::Op(Some(SiteOp { op, what })) => {
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

    async fn wait(&mut self) -> Woken {
        // In this order: what frees things comes before what asks for more.
        tokio::select! {
            biased;
            Some(finished) = self.work.next(), if !self.work.is_empty() => Woken::Finished(finished),
            event = self.media_events.recv() => Woken::Media(event),
            busy = self.media.busy() => Woken::Busy(busy),
            op = self.inbox.recv() => Woken::Op(op),
        }
    }
}
