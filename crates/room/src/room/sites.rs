//! Where a room lives: its sites, each a router on some worker. A peer is given a site when it connects and stays
//! there: the first that has room for it, of its own region where there is one; where all are full, a new one. Only when
//! its site's node is to be empty it is given another (`migrate`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ortc::RtpCapabilities;
use serde::{Deserialize, Serialize};

use super::pipe::{Flow, Output};
use super::requests::TRANSPORTS_PER_PEER;
use super::{Pending, Room};
use crate::error::RoomError;
use crate::event::{Counter, MediaDone, MediaFailure, MediaOp, Place, SiteEvent};
use crate::id::{OpId, PeerId, Region, SessionId, SiteId};
use crate::message::close_code;

/// Where no router could be had, none is asked for again for so long.
const SITE_RETRY: Duration = Duration::from_secs(5);

/// One of a room's routers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Site {
    /// The region that it was asked for, and the one where it is: its own, where the other has no node.
    regions: [Option<Region>; 2],
    router: Router,
    busy: bool,
    /// Who speaks among those who send here, loudest first.
    loudest: Vec<(PeerId, i8)>,
    /// Work that is under way here.
    pub(super) working: usize,
}

#[derive(Debug, Serialize, Deserialize)]
enum Router {
    Creating,
    Ready(Arc<RtpCapabilities>),
}

/// How much a site bears.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Load {
    transports: usize,
    streams: usize,
}

impl Room {
    /// How many routers the room has, on their way included.
    pub fn sites(&self) -> usize {
        self.sites.len()
    }

    /// What the router of a session's site can forward, once it is there.
    pub(super) fn router_of(&self, session: SessionId) -> Option<Arc<RtpCapabilities>> {
        match &self.sites.get(&self.peers.get(&session)?.site)?.router {
            Router::Ready(capabilities) => Some(capabilities.clone()),
            Router::Creating => None,
        }
    }

    /// A session that waits for its router: if its site could not be made, it gets another.
    pub(super) fn want_router(&mut self, session: SessionId) {
        let Some(peer) = self.peers.get(&session) else { return };
        if !self.sites.contains_key(&peer.site) {
            let region = peer.region.clone();
            // One that could not be made is not tried again as long as there are others.
            let site = self.place(region.as_ref(), None);
            let Some(peer) = self.peers.get_mut(&session) else { return };
            let receives_there = peer.receiving == peer.site;
            peer.site = site;
            if receives_there {
                self.receive_at(session, site);
            }
            self.stay(session);
        }
    }

    /// The site for one more peer. Without `now`, none is opened as long as there is one.
    pub(super) fn place(&mut self, region: Option<&Region>, now: Option<Instant>) -> SiteId {
        let limits = self.limits.router;
        let loads: BTreeMap<SiteId, Load> = self.sites.keys().map(|site| (*site, self.load(*site))).collect();
        // Who joins brings its transports, and receives what there is.
        let fits = |load: &Load| {
            load.transports == 0
                || (load.transports + TRANSPORTS_PER_PEER <= limits.transports
                    && load.streams + self.producers.len() <= limits.streams)
        };
        let near = |site: &Site| region.is_none() || site.regions.iter().any(|of| of.as_ref() == region);
        let has_room = |site: &SiteId| loads.get(site).is_some_and(fits);
        let fit = |(id, site): &(&SiteId, &Site)| !site.busy && !self.is_draining(**id) && has_room(id);
        let mut candidates = self.sites.iter().filter(fit);
        if let Some((id, _)) = candidates.find(|(_, site)| near(site)) {
            return *id;
        }
        let tried = |now: Instant| self.failed_sites.get(&region.cloned()).is_some_and(|until| now < *until);
        let may_open = self.sites.is_empty() || now.is_some_and(|now| !tried(now));
        if may_open && self.sites.len() < limits.per_room.max(1) {
            return self.open_site(region.cloned());
        }
        // What is left is not what was wished for: better far away than where it is full, and full than about to end.
        let key = |id: &SiteId| (self.is_draining(*id), !has_room(id), loads.get(id).copied());
        let chosen = self.sites.keys().copied().min_by_key(key);
        if chosen.is_some_and(|site| !has_room(&site)) {
            self.count(Counter::RouterOverLimit);
        }
        chosen.unwrap_or(SiteId(self.last_site))
    }

    fn open_site(&mut self, region: Option<Region>) -> SiteId {
        self.last_site += 1;
        let or_elsewhere = self.sites.keys().all(|site| self.is_draining(*site));
        let id = SiteId(self.last_site);
        let regions = [region.clone(), None];
        let (router, loudest) = (Router::Creating, Vec::new());
        self.sites.insert(id, Site { regions, router, busy: false, loudest, working: 0 });
        self.media(id, Pending::Router, MediaOp::CreateRouter { region, or_elsewhere });
        id
    }

    /// Whether a site's node is to be empty soon.
    pub(super) fn is_draining(&self, site: SiteId) -> bool {
        self.pipes.is_leaving(site)
    }

    pub(super) fn any_draining(&self) -> bool {
        self.sites.keys().any(|site| self.is_draining(*site))
    }

    /// Peers count with all the transports that they may have, so that those who come together are spread, too.
    fn load(&self, site: SiteId) -> Load {
        let here = || self.peers.values().filter(|peer| peer.site == site);
        let (pipes, branches) = self.pipes.at(site);
        let streams = here()
            .map(|peer| peer.producers.len() + peer.consumers.len() + peer.consumers_coming)
            .sum::<usize>();
        let transports = here().map(|peer| peer.transports.len().max(TRANSPORTS_PER_PEER)).sum::<usize>();
        Load { transports: transports + pipes, streams: streams + branches }
    }

    pub(super) fn router_done(
        &mut self,
        site: SiteId,
        result: Result<MediaDone, MediaFailure>,
        now: Instant,
    ) {
        match result {
            Ok(MediaDone::Router { rtp_capabilities, place }) => {
                self.site_ready(site, rtp_capabilities, place, now);
            }
            Ok(_) => {
                let failure = MediaFailure::Internal("unexpected completion".to_owned());
                self.router_failed(site, &failure, now);
            }
            Err(failure) => self.router_failed(site, &failure, now),
        }
    }

    fn site_ready(&mut self, id: SiteId, capabilities: Arc<RtpCapabilities>, place: Place, now: Instant) {
        let others = self.sites.len() > 1;
        let Some(site) = self.sites.get_mut(&id) else { return };
        site.router = Router::Ready(capabilities);
        site.regions[1].clone_from(&place.region);
        self.failed_sites.remove(&site.regions[0]);
        if others {
            self.count(Counter::Spread);
        }
        self.pipes.site_ready(id, place);
        self.serve_deferred(now);
    }

    /// Those who waited for it go to another site, if there is one.
    fn router_failed(&mut self, site: SiteId, failure: &MediaFailure, now: Instant) {
        let Some(failed) = self.sites.remove(&site) else { return };
        self.pipes.set_leaving(site, false);
        if !self.sites.is_empty() {
            let [wished, _] = failed.regions;
            self.failed_sites.retain(|_, until| now < *until);
            self.failed_sites.insert(wished, now + SITE_RETRY);
            self.serve_deferred(now);
            return;
        }
        let reason = match failure {
            MediaFailure::Refused(reason)
            | MediaFailure::Unavailable(reason)
            | MediaFailure::Internal(reason) => reason.clone(),
        };
        for (session, request, _) in std::mem::take(&mut self.deferred) {
            self.reply(session, request, Err(RoomError::Unavailable(reason.clone())));
        }
    }

    fn serve_deferred(&mut self, now: Instant) {
        for (session, request, message) in std::mem::take(&mut self.deferred) {
            self.request(session, request, message, now);
        }
    }

    pub(super) fn site_event(&mut self, site: SiteId, what: SiteEvent, now: Instant) {
        if !self.sites.contains_key(&site) {
            return;
        }
        match what {
            SiteEvent::ProducerScore(producer, score) => self.producer_score(site, producer, score),
            SiteEvent::ConsumerScore(consumer, score) => self.consumer_score(&consumer, score),
            SiteEvent::ConsumerLayers(consumer, layers) => self.consumer_layers(&consumer, layers),
            SiteEvent::Volumes(volumes) => self.volumes(site, &volumes),
            SiteEvent::DownlinkBandwidth(transport, bandwidth) => {
                self.downlink_bandwidth(&transport, bandwidth);
            }
            SiteEvent::TransportClosed(transport) => {
                let owner = self.peers.iter().find(|(_, peer)| peer.transports.contains_key(&transport));
                let owner = owner.map(|(session, _)| *session);
                self.transport_closed(&transport);
                self.leave_abandoned(owner, now);
            }
            SiteEvent::Busy(busy) => {
                if let Some(site) = self.sites.get_mut(&site) {
                    site.busy = busy;
                }
            }
            SiteEvent::Draining(draining) => {
                self.pipes.set_leaving(site, draining);
                self.migrate_at = Some(now);
            }
            SiteEvent::Lost => self.site_lost(site, now),
        }
    }

    /// Every object there is gone with the router. Clients that are sent away with any code but the final one come
    /// back at once and join again, at a site that is alive: so nobody's client needs to know about this. Peers at
    /// other sites stay; what they received by way of this one is brought to them another way, and those who were about
    /// to leave it go on at the site that they go to.
    fn site_lost(&mut self, site: SiteId, now: Instant) {
        self.count(Counter::RouterLost);
        self.sites.remove(&site);
        let (unheard, pending) =
            std::mem::take(&mut self.pending).into_iter().partition(|(_, (at, _))| *at == site);
        self.pending = pending;
        let (gone, left) =
            std::mem::take(&mut self.peers).into_iter().partition(|(_, peer)| peer.site == site);
        self.peers = left;
        let gone: BTreeMap<SessionId, super::Peer> = gone;
        if self.sites.is_empty() {
            // Before anybody asks.
            self.open_site(None);
        }
        for session in gone.keys() {
            self.close_session(*session, close_code::MEDIA_LOST, "the media worker died: join again");
        }
        for (session, peer) in gone {
            self.bury(session, peer, now);
        }
        self.leave_lost(site);
        self.pipes.site_lost(site);
        self.not_heard_of(site, unheard, now);
    }

    /// Work that was under way at a site that is gone has failed for those who are still there.
    fn not_heard_of(&mut self, site: SiteId, work: BTreeMap<OpId, (SiteId, Pending)>, now: Instant) {
        for (op, (_, pending)) in work {
            if matches!(pending, Pending::Silent | Pending::Router | Pending::Pipe(_)) {
                continue;
            }
            let gone = MediaFailure::Unavailable("the media worker died".to_owned());
            self.work_ended(site, op, pending, Err(gone), now);
        }
    }

    /// Ends sites that serve nobody. The last one stays for as long as the room does.
    pub(super) fn tidy_sites(&mut self) {
        if self.sites.len() < 2 {
            return;
        }
        let used = self.peers.values().flat_map(|peer| {
            let transports = peer.transports.values().chain(&peer.transports_coming);
            transports.map(|transport| transport.site).chain([peer.site, peer.receiving])
        });
        let used: BTreeSet<SiteId> = used.collect();
        let idle = |(id, site): (&SiteId, &Site)| {
            let idle = site.working == 0 && !used.contains(id) && self.pipes.at(*id) == (0, 0);
            idle.then_some(*id)
        };
        let mut idle: Vec<SiteId> = self.sites.iter().filter_map(idle).collect();
        // The youngest first, so that of a room that nobody is in the oldest is left, but no draining one.
        idle.sort_by_key(|site| (self.is_draining(*site), *site));
        for site in idle.into_iter().rev() {
            if self.sites.len() < 2 {
                return;
            }
            self.media(site, Pending::Silent, MediaOp::CloseRouter);
            self.pending.retain(|_, (at, _)| *at != site);
            self.sites.remove(&site);
            self.pipes.site_lost(site);
        }
    }

    /// Does what the pipes want done, and tells receivers what became of what they wait for.
    pub(super) fn serve_pipes(&mut self) {
        while let Some(output) = self.pipes.poll() {
            match output {
                Output::Work { site, what, step } => {
                    self.media(site, Pending::Pipe(step), what);
                }
                Output::Undo { site, what } => {
                    self.media(site, Pending::Silent, what);
                }
                Output::Arrived(Flow::Media(producer), at) => self.producer_arrived(&producer, at),
                Output::Arrived(Flow::Data(producer), at) => self.data_producer_arrived(&producer, at),
                Output::Failed(flow, at, sessions) => {
                    self.count(Counter::PipeFailed);
                    for session in sessions {
                        match &flow {
                            Flow::Media(producer) => self.producer_failed(producer, at, session),
                            Flow::Data(producer) => self.data_producer_failed(producer, at, session),
                        }
                    }
                }
                Output::Lost(flow, at, sessions) => {
                    for session in sessions {
                        match &flow {
                            Flow::Media(producer) => self.producer_lost(producer, at, session),
                            Flow::Data(producer) => self.data_producer_lost(producer, at, session),
                        }
                    }
                }
            }
        }
    }

    /// A peer with several microphones is as loud as the loudest.
    fn volumes(&mut self, site: SiteId, volumes: &[crate::event::Volume]) {
        let mut loudest: Vec<(PeerId, i8)> = Vec::new();
        for volume in volumes {
            let owner = self.producers.get(&volume.producer).and_then(|p| self.peers.get(&p.owner));
            let Some(peer) = owner.filter(|peer| peer.joined.is_some()) else { continue };
            if !loudest.iter().any(|(speaker, _)| *speaker == peer.id) {
                loudest.push((peer.id.clone(), volume.dbov));
            }
        }
        if let Some(site) = self.sites.get_mut(&site) {
            site.loudest = loudest;
        }
        self.tell_speakers();
    }

    /// Somebody is not heard any more.
    pub(super) fn silence(&mut self, peer: &PeerId) {
        for site in self.sites.values_mut() {
            site.loudest.retain(|(speaker, _)| speaker != peer);
        }
        self.tell_speakers();
    }

    /// Each site knows the order of its own. A peer that migrates may be at two, and is as loud as where it is louder.
    fn tell_speakers(&mut self) {
        let here = self.sites.values().flat_map(|site| &site.loudest);
        let mut speakers: Vec<_> = here.cloned().collect();
        speakers.sort_by_key(|(_, dbov)| std::cmp::Reverse(*dbov));
        let mut seen = BTreeSet::new();
        speakers.retain(|(peer, _)| seen.insert(peer.clone()));
        self.set_speakers(speakers);
    }

    /// Gives work to a site, unless it is gone, and all that the work is about with it.
    pub(super) fn media(&mut self, site: SiteId, pending: Pending, what: MediaOp) -> Option<OpId> {
        self.sites.get_mut(&site)?.working += 1;
        self.last_op += 1;
        let op = OpId(self.last_op);
        self.pending.insert(op, (site, pending));
        self.out.push(crate::event::Action::Media { site, op, what });
        Some(op)
    }
}
