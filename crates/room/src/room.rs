//! The room itself: its parts, its life, and who comes and goes. What clients ask for is in `requests`, what the
//! media side answers in `completions`, who receives whom in `forwarding`, where it all takes place in `sites`, how
//! media gets from one site to another in `pipe` and `reroute`, and how a peer does in `migrate`.

mod completions;
mod data;
mod detached;
mod forwarding;
mod link;
mod migrate;
mod on_request;
mod pipe;
mod requests;
mod reroute;
mod sites;
mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use indexmap::IndexMap;
use ortc::{MediaKind, RtpCapabilities, RtpParameters};
use serde::{Deserialize, Serialize};

use crate::error::RoomError;
use crate::event::{Action, Comer, Counter, Event, MediaOp};
use crate::id::{
    AskId, ConsumerId, DataConsumerId, DataProducerId, OpId, PeerId, ProducerId, Region, RequestId, RoomId,
    SessionId, SiteId, TransportId,
};
use crate::key::PeerKey;
use crate::limits::Limits;
use crate::message::{
    Device, DownlinkBandwidth, Layers, Notification, PeerInfo, Receives, Reply, Request, close_code,
};
use crate::policy::{Role, RoomType, Source};
use link::MediaLink;
use migrate::Migration;
use pipe::{Pipes, Step};
use sites::Site;
use snapshot::pairs;
pub use snapshot::{Snapshot, SnapshotError};

/// One room. Its serde form is part of a [`Snapshot`], which says what of it moves and what does not.
#[derive(Debug, Serialize, Deserialize)]
pub struct Room {
    id: RoomId,
    room_type: Arc<RoomType>,
    /// Those of the node where it is.
    #[serde(skip)]
    limits: Arc<Limits>,
    #[serde(with = "pairs")]
    sites: BTreeMap<SiteId, Site>,
    last_site: u64,
    /// Until when no router of these regions is asked for again, because there was none.
    #[serde(skip)]
    failed_sites: BTreeMap<Option<Region>, Instant>,
    pipes: Pipes,
    /// In order of arrival, because session ids only grow.
    #[serde(with = "pairs")]
    peers: BTreeMap<SessionId, Peer>,
    #[serde(with = "pairs")]
    sessions: BTreeMap<PeerId, SessionId>,
    #[serde(with = "pairs")]
    producers: IndexMap<ProducerId, Producer>,
    #[serde(with = "pairs")]
    consumers: BTreeMap<ConsumerId, Consumer>,
    #[serde(with = "pairs")]
    data_producers: IndexMap<DataProducerId, data::DataProducer>,
    #[serde(with = "pairs")]
    data_consumers: BTreeMap<DataConsumerId, data::DataConsumer>,
    /// With the site where it is done.
    #[serde(with = "pairs")]
    pending: BTreeMap<OpId, (SiteId, Pending)>,
    deferred: VecDeque<(SessionId, RequestId, Request)>,
    speakers: Vec<(PeerId, i8)>,
    again: forwarding::Again,
    /// Consumers whose place another has taken at the same site, and when they end.
    #[serde(skip)]
    replaced: VecDeque<(Instant, ConsumerId)>,
    /// When it is looked next whether peers are to leave their sites.
    #[serde(skip)]
    migrate_at: Option<Instant>,
    #[serde(skip)]
    empty_since: Option<Instant>,
    last_op: u64,
    last_ask: u64,
    #[serde(skip)]
    out: Vec<Action>,
}

/// How much a room holds; all zero after the last peer left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Connected peers.
    pub peers: usize,
    /// Those that have joined.
    pub joined: usize,
    /// Transports.
    pub transports: usize,
    /// Producers.
    pub producers: usize,
    /// Consumers.
    pub consumers: usize,
    /// Data producers.
    pub data_producers: usize,
    /// Data consumers.
    pub data_consumers: usize,
    /// Requests that wait for a router.
    pub deferred: usize,
    /// Peers that take their media from one site to another.
    pub migrating: usize,
    /// Routers beyond the first.
    pub further_sites: usize,
    /// Pairs of PipeTransports between routers.
    pub pipes: usize,
    /// Producers and data producers that are piped, once for each router that they are piped to.
    pub piped: usize,
}

#[derive(Debug, Serialize, Deserialize)]
struct Peer {
    id: PeerId,
    role: Role,
    key: Option<PeerKey>,
    region: Option<Region>,
    /// Where its transports are made. Those at another site are old: it migrates.
    site: SiteId,
    /// Where its consumers are made: at `site`, unless it migrates and has no transport there to receive on yet.
    receiving: SiteId,
    migration: Option<Migration>,
    joined: Option<Joined>,
    #[serde(with = "pairs")]
    transports: BTreeMap<TransportId, Transport>,
    transports_coming: Vec<Transport>,
    producers: BTreeSet<ProducerId>,
    producers_coming: usize,
    consumers: BTreeSet<ConsumerId>,
    consumers_coming: usize,
    /// Consumers at the site that it leaves or by ways that are about to end, which others take the place of.
    old_consumers: BTreeSet<ConsumerId>,
    /// Transports with an association for data channels.
    data_transports: BTreeSet<TransportId>,
    data_producers: BTreeSet<DataProducerId>,
    data_producers_coming: usize,
    data_consumers: BTreeSet<DataConsumerId>,
    data_consumers_coming: usize,
    old_data_consumers: BTreeSet<DataConsumerId>,
    #[serde(with = "pairs")]
    asks: BTreeMap<AskId, Asked>,
    /// Since when nobody reaches its client, which may come back.
    #[serde(skip)]
    detached: Option<Instant>,
}

/// What a client was asked to receive.
#[derive(Debug, Serialize, Deserialize)]
enum Asked {
    Consumer(ConsumerId),
    DataConsumer(DataConsumerId),
}

#[derive(Debug, Serialize, Deserialize)]
struct Joined {
    display_name: String,
    device: Device,
    rtp_capabilities: Option<Arc<RtpCapabilities>>,
    remote_address: Option<IpAddr>,
    receives: Receives,
    migrates: bool,
}

/// One of a peer's transports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Transport {
    direction: Direction,
    site: SiteId,
}

/// Which way a transport was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Direction {
    Send,
    Receive,
    Both,
}

impl Direction {
    fn sends(self) -> bool {
        matches!(self, Self::Send | Self::Both)
    }

    fn receives(self) -> bool {
        matches!(self, Self::Receive | Self::Both)
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Producer {
    owner: SessionId,
    site: SiteId,
    transport: TransportId,
    kind: MediaKind,
    source: Source,
    app_data: Arc<serde_json::Value>,
    consumable: Arc<RtpParameters>,
    paused: bool,
    #[serde(with = "pairs")]
    receivers: BTreeMap<SessionId, MediaLink>,
    /// What receivers that migrate have of it at the site that they leave, and others by a way that is about to end.
    #[serde(with = "pairs")]
    old: BTreeMap<SessionId, ConsumerId>,
    /// The one that it takes the place of; it may have ended.
    replaces: Option<ProducerId>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Consumer {
    producer: ProducerId,
    receiver: SessionId,
    transport: TransportId,
    site: SiteId,
    /// Which of the producer's spots there it consumes.
    nth: u32,
    /// Until the client accepts, nothing else is said about a consumer: it would not know the id yet.
    accepted: bool,
    paused_by_client: bool,
    told_producer_paused: bool,
    /// What the client set.
    preferred: Option<Layers>,
    priority: Option<u8>,
    score: serde_json::Value,
    #[serde(with = "snapshot::nested")]
    layers: Option<Option<Layers>>,
}

/// Media work under way, with what is needed to go on afterwards.
#[derive(Debug, Serialize, Deserialize)]
enum Pending {
    Router,
    Transport {
        session: SessionId,
        request: RequestId,
        direction: Direction,
    },
    Produce {
        session: SessionId,
        request: RequestId,
        transport: TransportId,
        coming: Box<Producer>,
    },
    Consume {
        receiver: SessionId,
        producer: ProducerId,
        transport: TransportId,
    },
    ProduceData {
        session: SessionId,
        request: RequestId,
        coming: Box<data::DataProducer>,
    },
    ConsumeData {
        receiver: SessionId,
        producer: DataProducerId,
        transport: TransportId,
    },
    /// As `Consume`, asked for by the receiver.
    ConsumeOnRequest(on_request::Asking<ProducerId>),
    ConsumeDataOnRequest(on_request::Asking<DataProducerId>),
    Pipe(Step),
    Reply {
        session: SessionId,
        request: RequestId,
    },
    Silent,
}

impl Room {
    /// An empty room. `room_type` must be valid.
    pub fn new(id: RoomId, room_type: Arc<RoomType>, limits: Arc<Limits>, now: Instant) -> Self {
        let pipes = Pipes::new(limits.router.fan_out);
        Self {
            id,
            room_type,
            limits,
            sites: BTreeMap::new(),
            last_site: 0,
            failed_sites: BTreeMap::new(),
            pipes,
            peers: BTreeMap::new(),
            sessions: BTreeMap::new(),
            producers: IndexMap::new(),
            consumers: BTreeMap::new(),
            data_producers: IndexMap::new(),
            data_consumers: BTreeMap::new(),
            pending: BTreeMap::new(),
            deferred: VecDeque::new(),
            speakers: Vec::new(),
            again: forwarding::Again::default(),
            replaced: VecDeque::new(),
            migrate_at: None,
            empty_since: Some(now),
            last_op: 0,
            last_ask: 0,
            out: Vec::new(),
        }
    }

    /// The room's id.
    pub fn id(&self) -> &RoomId {
        &self.id
    }

    /// Takes one event and says what to do, in order.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        match event {
            Event::Connected { session, comer } => self.connected(session, comer, now),
            Event::Disconnected(session) => self.leave(session, now),
            Event::Detached(session) => self.detached(session, now),
            Event::Attached(session) => self.attached(session),
            Event::Request { session, request, message } => self.request(session, request, message, now),
            Event::Answered { session, ask, accepted } => self.answered(session, ask, accepted, now),
            Event::MediaDone { op, result } => self.media_done(op, result, now),
            Event::Site { site, what } => self.site_event(site, what, now),
            Event::Timeout => self.timeout(now),
            Event::Shutdown => {
                self.close_sessions(close_code::SHUTDOWN, "the server is shutting down", now);
                self.out.push(Action::CloseRoom);
            }
        }
        self.migrate_some(now);
        self.serve_pipes();
        self.tidy_sites();
        std::mem::take(&mut self.out)
    }

    /// When [`Event::Timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let empty = self.empty_since.map(|since| since + self.limits.linger());
        let replaced = self.replaced.front().map(|(at, _)| *at);
        let next = [empty, self.next_detached(), self.again.at, self.next_migration(), replaced];
        next.into_iter().flatten().min()
    }

    /// How much the room holds.
    pub fn held(&self) -> Held {
        let (pipes, piped) = self.pipes.count();
        Held {
            peers: self.peers.len(),
            joined: self.peers.values().filter(|peer| peer.joined.is_some()).count(),
            transports: self.peers.values().map(|peer| peer.transports.len()).sum(),
            producers: self.producers.len(),
            consumers: self.consumers.len(),
            data_producers: self.data_producers.len(),
            data_consumers: self.data_consumers.len(),
            deferred: self.deferred.len(),
            migrating: self.peers.values().filter(|peer| peer.migration.is_some()).count(),
            further_sites: self.sites.len().saturating_sub(1),
            pipes,
            piped,
        }
    }

    /// Whether one more peer of this id would be taken in: the room has a place, or the peer has one already.
    pub fn admits(&self, peer: &PeerId) -> Result<(), RoomError> {
        if self.peers.len() < self.limits.peers_per_room || self.sessions.contains_key(peer) {
            Ok(())
        } else {
            Err(RoomError::Limit { what: "the room is full".into(), limit: self.limits.peers_per_room })
        }
    }

    fn connected(&mut self, session: SessionId, comer: Comer, now: Instant) {
        let Comer { peer: id, role, key, region } = comer;
        if self.admits(&id).is_err() {
            self.count(Counter::RoomFull);
            let reason = "the room is full: come again when somebody has left";
            self.close_session(session, close_code::FINAL, reason);
            return;
        }
        if let Some(&older) = self.sessions.get(&id) {
            if !self.may_replace(older, key.as_ref()) {
                self.count(Counter::ReplacementRefused);
                self.close_session(session, close_code::TAKEN, "another connection has this peer id");
                return;
            }
            self.count(Counter::Replaced);
            self.leave(older, now);
            self.close_session(older, close_code::FINAL, "another connection of this peer took over");
        }
        let role = role
            .filter(|role| self.room_type.has_role(role))
            .unwrap_or_else(|| self.room_type.default_role.clone());
        self.sessions.insert(id.clone(), session);
        let site = self.place(region.as_ref(), Some(now));
        self.peers.insert(session, Peer::new(id, role, key, region, site));
        self.empty_since = None;
    }

    /// Whether who shows this key may take the place of an older session. protoo's own clients have none, and replace one
    /// another, unless that is forbidden.
    fn may_replace(&self, older: SessionId, key: Option<&PeerKey>) -> bool {
        match self.peers.get(&older).and_then(|peer| peer.key.as_ref()) {
            Some(own) => key == Some(own),
            None => self.limits.replace_without_key,
        }
    }

    /// Frees everything the peer of this session held. Knows nothing of why.
    fn leave(&mut self, session: SessionId, now: Instant) {
        if let Some(peer) = self.peers.remove(&session) {
            self.bury(session, peer, now);
        }
    }

    /// Frees what a peer held that is among the others no more.
    fn bury(&mut self, session: SessionId, peer: Peer, now: Instant) {
        if self.sessions.get(&peer.id) == Some(&session) {
            self.sessions.remove(&peer.id);
        }
        self.deferred.retain(|(waiting, ..)| *waiting != session);
        for producer in &peer.producers {
            self.drop_producer(producer);
        }
        for consumer in peer.consumers.iter().chain(&peer.old_consumers) {
            self.consumers.remove(consumer);
        }
        self.leave_data(session, &peer);
        for producer in self.producers.values_mut() {
            producer.receivers.remove(&session);
            producer.old.remove(&session);
        }
        self.pipes.forget(session);
        for (id, transport) in peer.transports {
            self.media(transport.site, Pending::Silent, MediaOp::CloseTransport(id));
        }
        if peer.joined.is_some() {
            self.tell_others(session, &Notification::PeerClosed(peer.id.clone()));
        }
        self.silence(&peer.id);
        if self.peers.is_empty() {
            self.empty_since = Some(now);
        }
    }

    fn close_sessions(&mut self, code: u16, reason: &'static str, now: Instant) {
        for session in std::mem::take(&mut self.peers).into_keys() {
            self.close_session(session, code, reason);
        }
        self.sessions.clear();
        self.producers.clear();
        self.consumers.clear();
        self.data_producers.clear();
        self.data_consumers.clear();
        self.deferred.clear();
        self.pending.clear();
        self.sites.clear();
        self.failed_sites.clear();
        self.pipes = Pipes::new(self.limits.router.fan_out);
        self.speakers.clear();
        self.replaced.clear();
        self.migrate_at = None;
        self.empty_since = Some(now);
    }

    fn timeout(&mut self, now: Instant) {
        self.leave_overdue(now);
        self.forward_again(now);
        self.end_replaced(now);
        if self.empty_since.is_some_and(|since| since + self.limits.linger() <= now) {
            self.out.push(Action::CloseRoom);
        }
    }

    fn set_speakers(&mut self, speakers: Vec<(PeerId, i8)>) {
        if self.speakers == speakers {
            return;
        }
        self.speakers.clone_from(&speakers);
        let joined: Vec<_> = self.joined_sessions().collect();
        for session in joined {
            self.notify(session, Notification::Speakers(speakers.clone()));
        }
    }

    fn downlink_bandwidth(&mut self, transport: &TransportId, bandwidth: DownlinkBandwidth) {
        let owner = self.peers.iter().find(|(_, peer)| peer.transports.contains_key(transport));
        if let Some((&session, _)) = owner {
            self.notify(session, Notification::DownlinkBandwidth(bandwidth));
        }
    }

    fn joined_sessions(&self) -> impl Iterator<Item = SessionId> {
        self.peers.iter().filter(|(_, peer)| peer.joined.is_some()).map(|(session, _)| *session)
    }

    fn tell_others(&mut self, except: SessionId, notification: &Notification) {
        let others: Vec<_> = self.joined_sessions().filter(|session| *session != except).collect();
        for session in others {
            self.notify(session, notification.clone());
        }
    }

    fn reply(&mut self, session: SessionId, request: RequestId, result: Result<Reply, RoomError>) {
        if self.peers.contains_key(&session) {
            self.out.push(Action::Reply { session, request, result });
        }
    }

    fn notify(&mut self, session: SessionId, notification: Notification) {
        self.out.push(Action::Notify { session, notification });
    }

    fn close_session(&mut self, session: SessionId, code: u16, reason: &'static str) {
        self.out.push(Action::CloseSession { session, code, reason });
    }

    fn count(&mut self, counter: Counter) {
        self.out.push(Action::Count(counter));
    }
}

impl Peer {
    fn new(id: PeerId, role: Role, key: Option<PeerKey>, region: Option<Region>, site: SiteId) -> Self {
        Self {
            id,
            role,
            key,
            region,
            site,
            receiving: site,
            migration: None,
            joined: None,
            transports: BTreeMap::new(),
            transports_coming: Vec::new(),
            producers: BTreeSet::new(),
            producers_coming: 0,
            consumers: BTreeSet::new(),
            consumers_coming: 0,
            old_consumers: BTreeSet::new(),
            data_transports: BTreeSet::new(),
            data_producers: BTreeSet::new(),
            data_producers_coming: 0,
            data_consumers: BTreeSet::new(),
            data_consumers_coming: 0,
            old_data_consumers: BTreeSet::new(),
            asks: BTreeMap::new(),
            detached: None,
        }
    }

    fn info(&self) -> Option<PeerInfo> {
        let joined = self.joined.as_ref()?;
        Some(PeerInfo {
            id: self.id.clone(),
            display_name: joined.display_name.clone(),
            device: joined.device.clone(),
            remote_address: joined.remote_address,
        })
    }

    /// Where data consumers go, if the client knows data channels.
    fn data_receive_transport(&self) -> Option<&TransportId> {
        self.receive_transport().filter(|id| self.data_transports.contains(*id))
    }

    fn asks_for_what_it_receives(&self) -> bool {
        self.joined.as_ref().is_some_and(|joined| joined.receives == Receives::OnRequest)
    }

    /// Where consumers go: the transport made for receiving, else one made for both.
    fn receive_transport(&self) -> Option<&TransportId> {
        let of = |direction| {
            let wanted = Transport { direction, site: self.receiving };
            self.transports.iter().find(|(_, transport)| **transport == wanted).map(|(id, _)| id)
        };
        of(Direction::Receive).or_else(|| of(Direction::Both))
    }
}
