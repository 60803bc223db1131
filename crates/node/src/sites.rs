//! Where the sites of this node's rooms are opened: on its own workers, or, for peers who come in elsewhere, on a media
//! node of their region. A site there is driven over a link, and is lost with it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use cluster::lease::{Epoch, Term};
use cluster::node::{Node as Identity, NodeId};
use host::{LocalSites, NewsSender, SITE_OPS, SiteNews, SiteOp, Sites};
use links::{OpenSite, OpenedSite, SiteError};
use room::{MediaFailure, MediaOp, OpId, Region, RoomId, SiteEvent, SiteId};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::control::{Inner, Input, Node};

/// How long a node may take until it has a router for a site.
const ROUTER_DEADLINE: Duration = Duration::from_secs(5);

/// The sites of a cluster's node.
#[derive(Debug)]
pub struct ClusterSites {
    pub(crate) local: Arc<LocalSites>,
    region: Region,
    node: OnceLock<Weak<Inner>>,
    /// Of other nodes' rooms, here.
    pub(crate) taken: Taken,
    tasks: Mutex<JoinSet<()>>,
}

impl ClusterSites {
    /// `local` are this node's own, `region` is its region. Until the node is started, all sites are local.
    pub fn new(local: LocalSites, region: Region) -> Self {
        let (node, taken) = (OnceLock::new(), Taken::default());
        Self { local: Arc::new(local), region, node, taken, tasks: Mutex::default() }
    }

    pub(crate) fn bind(&self, node: &Arc<Inner>) {
        // A second node would be another process' business.
        let _ = self.node.set(Arc::downgrade(node));
    }

    fn spawn(&self, site: impl Future<Output = ()> + Send + 'static) {
        // A plain set, whole at every instruction.
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(site);
    }
}

impl Sites for ClusterSites {
    fn open(
        &self,
        room: &RoomId,
        site: SiteId,
        region: Option<&Region>,
        news: NewsSender,
    ) -> mpsc::Sender<SiteOp> {
        let elsewhere = region.filter(|region| **region != self.region);
        let node = self.node.get().and_then(Weak::upgrade);
        let (Some(region), Some(node)) = (elsewhere, node) else {
            return self.local.open(room, site, region, news);
        };
        let (ops, inbox) = mpsc::channel(SITE_OPS);
        let (room, region, local) = (room.clone(), region.clone(), self.local.clone());
        let far = FarSite { node: Node(node), local, room, site, region, inbox, news };
        self.spawn(far.run());
        ops
    }

    fn adopt(
        &self,
        room: &RoomId,
        site: SiteId,
        on: &str,
        (epoch, owner): (u64, &str),
        news: NewsSender,
    ) -> mpsc::Sender<SiteOp> {
        let node = self.node.get().and_then(Weak::upgrade).map(Node);
        let (Some(node), Ok(edge), Ok(owner)) = (node, on.parse::<NodeId>(), owner.parse()) else {
            return self.local.adopt(room, site, on, (epoch, owner), news);
        };
        if edge == node.0.me {
            return self.local.adopt(room, site, on, (epoch, on), news);
        }
        let term = Term { epoch: Epoch(epoch), node: owner };
        let (ops, inbox) = mpsc::channel(SITE_OPS);
        let (room, region, local) = (room.clone(), self.region.clone(), self.local.clone());
        let far = FarSite { node, local, room, site, region, inbox, news };
        self.spawn(far.take_up(edge, term));
        ops
    }
}

/// How many sites of other nodes' rooms are here. Clones count together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Taken(Arc<AtomicUsize>);

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct TakenPlace(Taken);

impl Taken {
    pub(crate) fn take(&self) -> TakenPlace {
        self.0.fetch_add(1, Ordering::Relaxed);
        TakenPlace(self.clone())
    }

    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for TakenPlace {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A site that is to be near its peers.
struct FarSite {
    node: Node,
    local: Arc<LocalSites>,
    room: RoomId,
    site: SiteId,
    region: Region,
    inbox: mpsc::Receiver<SiteOp>,
    news: NewsSender,
}

impl FarSite {
    async fn run(mut self) {
        let Some(first) = self.inbox.recv().await else { return };
        let SiteOp::Do { op, what: MediaOp::CreateRouter { or_elsewhere, .. } } = first else { return };
        for (edge, term) in self.node.edges(&self.room, &self.region).await {
            match tokio::time::timeout(ROUTER_DEADLINE, self.begin(&edge, term, op, &first)).await {
                Ok(Ok((opened, news))) => {
                    let (room, edge) = (&self.room, &edge.id);
                    info!(%room, site = self.site.0, %edge, "a room has a site on another node");
                    metrics::counter!("tureen_far_sites_total", "result" => "opened").increment(1);
                    return self.carry(edge, opened, Some(news)).await;
                }
                Ok(Err(why)) => self.not_there(&edge, &why),
                Err(_) => self.not_there(&edge, "it does not answer in time"),
            }
        }
        metrics::counter!("tureen_far_sites_total", "result" => "nowhere").increment(1);
        if or_elsewhere {
            return self.at_home(first).await;
        }
        let why = format!("no media node of region {} takes a site of the room", self.region.as_str());
        let result = Err(MediaFailure::Unavailable(why));
        let _ = self.news.send((self.site, SiteNews::Done { op, result })).await;
    }

    /// Opens the site and has its router made. What comes of that is the site's first news.
    async fn begin(
        &self,
        edge: &Identity,
        term: Term,
        op: OpId,
        first: &SiteOp,
    ) -> Result<(OpenedSite, SiteNews), String> {
        let open = OpenSite { room: self.room.clone(), site: self.site, term, adopt: false };
        let mut opened = self.open(edge, open).await?;
        let gone = || "the way to it broke".to_owned();
        opened.ops.send(first.clone()).await.map_err(|_| gone())?;
        let news = opened.news.recv().await.ok_or_else(gone)?;
        match failure(&news, op) {
            Some(failure) => Err(format!("{failure:?}")),
            None => Ok((opened, news)),
        }
    }

    async fn open(&self, edge: &Identity, open: OpenSite) -> Result<OpenedSite, String> {
        self.node.0.links.open_site(edge, open).await.map_err(|error| match error {
            SiteError::Refused(why) => why.to_string(),
            SiteError::Link(why) => why.to_string(),
        })
    }

    /// Takes up the site, which waits on that node, for its room under this term.
    async fn take_up(self, edge: NodeId, term: Term) {
        let open = OpenSite { room: self.room.clone(), site: self.site, term, adopt: true };
        let opened = match self.node.known(&edge) {
            Some(edge) => self.open(&edge, open).await,
            None => Err("the node is not known any more".to_owned()),
        };
        match opened {
            Ok(opened) => {
                info!(room = %self.room, site = self.site.0, %edge, "took up a room's site on another node");
                metrics::counter!("tureen_far_sites_total", "result" => "taken_up").increment(1);
                self.carry(&edge, opened, None).await;
            }
            Err(why) => {
                warn!(room = %self.room, site = self.site.0, %edge, why, "a room's site cannot be taken up");
                metrics::counter!("tureen_far_sites_total", "result" => "lost").increment(1);
                let _ = self.news.send((self.site, SiteNews::Event(SiteEvent::Lost))).await;
            }
        }
    }

    fn not_there(&self, edge: &Identity, why: &str) {
        metrics::counter!("tureen_far_sites_total", "result" => "failed").increment(1);
        warn!(room = %self.room, edge = %edge.id, why, "a media node takes no site of a room");
    }

    /// Carries work there and news back, until either side ends. That the edge drains is news, too: it is to be empty.
    async fn carry(mut self, edge: &NodeId, opened: OpenedSite, first: Option<SiteNews>) {
        let OpenedSite { ops, mut news } = opened;
        // A site that was taken up may have been told otherwise by whoever had it before.
        let mut draining = first.is_some().then_some(false);
        if let Some(first) = first
            && self.news.send((self.site, first)).await.is_err()
        {
            return;
        }
        let mut next = None;
        let (mut up, mut parks) = (true, false);
        let mut members = self.node.0.members.clone();
        members.mark_changed();
        loop {
            tokio::select! {
                biased;
                Ok(()) = members.changed() => {
                    let now = members.borrow_and_update().members.get(edge).is_some_and(|known| known.node.draining);
                    if draining != Some(now) {
                        draining = Some(now);
                        let told = SiteNews::Event(SiteEvent::Draining(now));
                        if self.news.send((self.site, told)).await.is_err() {
                            return;
                        }
                    }
                }
                told = news.recv() => {
                    let told = told.unwrap_or(SiteNews::Event(SiteEvent::Lost));
                    let lost = matches!(told, SiteNews::Event(SiteEvent::Lost));
                    if lost {
                        warn!(room = %self.room, site = self.site.0, "a site on another node is lost: its peers join again");
                        metrics::counter!("tureen_far_sites_total", "result" => "lost").increment(1);
                    }
                    // Parked, it is another's to drive.
                    let last = lost || told == SiteNews::Parked;
                    if self.news.send((self.site, told)).await.is_err() || last {
                        return;
                    }
                }
                place = ops.reserve(), if up && next.is_some() => match (place, next.take()) {
                    (Ok(place), Some(op)) => place.send(op),
                    // The way up has ended: so will the way down.
                    _ => up = false,
                },
                op = self.inbox.recv(), if up && !parks && next.is_none() => match op {
                    Some(SiteOp::Do { what: MediaOp::CloseRouter, .. }) | None => return,
                    Some(op) => {
                        // Nothing follows, and the answer is waited for.
                        parks = op == SiteOp::Park;
                        next = Some(op);
                    }
                },
            }
        }
    }

    /// On this node's workers after all.
    async fn at_home(mut self, first: SiteOp) {
        debug!(room = %self.room, region = %self.region.as_str(), "no media node near a room's first peer");
        let ops = self.local.open(&self.room, self.site, None, self.news);
        let mut next = Some(first);
        while let Some(op) = next {
            if ops.send(op).await.is_err() {
                return;
            }
            next = self.inbox.recv().await;
        }
    }
}

/// Why an operation failed, if this is the news of it.
fn failure(news: &SiteNews, of: OpId) -> Option<&MediaFailure> {
    match news {
        SiteNews::Done { op, result: Err(failure) } if *op == of => Some(failure),
        _ => None,
    }
}

impl Node {
    /// Which media nodes of a region may take a site of a room, best first, and under which term this node has it. None when
    /// it does not.
    async fn edges(&self, room: &RoomId, region: &Region) -> Vec<(Identity, Term)> {
        let (answer, answered) = oneshot::channel();
        self.tell(Input::Edges { room: room.clone(), region: region.clone(), answer }).await;
        answered.await.unwrap_or_default()
    }
}
