//! Where the sites of this node's rooms are opened: on its own workers, or, for peers who come in elsewhere, on a media
//! node of their region. A site there is driven over a link, and is lost with it.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use cluster::lease::Term;
use cluster::node::Node as Identity;
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
    tasks: Mutex<JoinSet<()>>,
}

impl ClusterSites {
    /// `local` are this node's own, `region` is its region. Until the node is started, all sites are local.
    pub fn new(local: LocalSites, region: Region) -> Self {
        Self { local: Arc::new(local), region, node: OnceLock::new(), tasks: Mutex::default() }
    }

    pub(crate) fn bind(&self, node: &Arc<Inner>) {
        // A second node would be another process' business.
        let _ = self.node.set(Arc::downgrade(node));
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
        // A plain set, whole at every instruction.
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(far.run());
        ops
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
        let MediaOp::CreateRouter { or_elsewhere, .. } = first.what else { return };
        for (edge, term) in self.node.edges(&self.room, &self.region).await {
            match tokio::time::timeout(ROUTER_DEADLINE, self.begin(&edge, term, &first)).await {
                Ok(Ok((opened, news))) => {
                    let (room, edge) = (&self.room, &edge.id);
                    info!(%room, site = self.site.0, %edge, "a room has a site on another node");
                    metrics::counter!("tureen_far_sites_total", "result" => "opened").increment(1);
                    return self.carry(opened, news).await;
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
        let _ = self.news.send((self.site, SiteNews::Done { op: first.op, result })).await;
    }

    /// Opens the site and has its router made. What comes of that is the site's first news.
    async fn begin(
        &self,
        edge: &Identity,
        term: Term,
        first: &SiteOp,
    ) -> Result<(OpenedSite, SiteNews), String> {
        let open = OpenSite { room: self.room.clone(), site: self.site, term };
        let opened = self.node.0.links.open_site(edge, open).await;
        let mut opened = match opened {
            Ok(opened) => opened,
            Err(SiteError::Refused(why)) => return Err(why.to_string()),
            Err(SiteError::Link(why)) => return Err(why.to_string()),
        };
        let gone = || "the way to it broke".to_owned();
        opened.ops.send(first.clone()).await.map_err(|_| gone())?;
        let news = opened.news.recv().await.ok_or_else(gone)?;
        match failure(&news, first.op) {
            Some(failure) => Err(format!("{failure:?}")),
            None => Ok((opened, news)),
        }
    }

    fn not_there(&self, edge: &Identity, why: &str) {
        metrics::counter!("tureen_far_sites_total", "result" => "failed").increment(1);
        warn!(room = %self.room, edge = %edge.id, why, "a media node takes no site of a room");
    }

    /// Carries work there and news back, until either side ends.
    async fn carry(mut self, opened: OpenedSite, first: SiteNews) {
        let OpenedSite { ops, mut news } = opened;
        if self.news.send((self.site, first)).await.is_err() {
            return;
        }
        let mut next = None;
        let mut up = true;
        loop {
            tokio::select! {
                biased;
                told = news.recv() => {
                    let told = told.unwrap_or(SiteNews::Event(SiteEvent::Lost));
                    let lost = matches!(told, SiteNews::Event(SiteEvent::Lost));
                    if lost {
                        warn!(room = %self.room, site = self.site.0, "a site on another node is lost: its peers join again");
                        metrics::counter!("tureen_far_sites_total", "result" => "lost").increment(1);
                    }
                    if self.news.send((self.site, told)).await.is_err() || lost {
                        return;
                    }
                }
                place = ops.reserve(), if up && next.is_some() => match (place, next.take()) {
                    (Ok(place), Some(op)) => place.send(op),
                    // The way up has ended: so will the way down.
                    _ => up = false,
                },
                op = self.inbox.recv(), if up && next.is_none() => match op {
                    Some(SiteOp { what: MediaOp::CloseRouter, .. }) | None => return,
                    Some(op) => next = Some(op),
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
