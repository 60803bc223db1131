//! The room itself: its parts, its life, and who comes and goes. What clients ask for is in `requests`, what the
//! media side answers in `completions`, who receives whom in `forwarding`, where it all takes place in `sites`, and how
//! media gets from one site to another in `pipe`.

mod completions;
mod data;
mod detached;
mod forwarding;
mod on_request;
mod pipe;
mod requests;
mod sites;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use indexmap::IndexMap;
use ortc::{MediaKind, RtpCapabilities, RtpParameters};

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
use pipe::{Pipes, Step};
use sites::Site;

/// One room.
#[derive(Debug)]
pub struct Room {
    id: RoomId,
    room_type: Arc<RoomType>,
    limits: Arc<Limits>,
    sites: BTreeMap<SiteId, Site>,
    last_site: u64,
    /// Until when no router of these regions is asked for again, because there was none.
    failed_sites: BTreeMap<Option<Region>, Instant>,
    pipes: Pipes,
    /// In order of arrival, because session ids only grow.
    peers: BTreeMap<SessionId, Peer>,
    sessions: BTreeMap<PeerId, SessionId>,
    producers: IndexMap<ProducerId, Producer>,
    consumers: BTreeMap<ConsumerId, Consumer>,
    data_producers: IndexMap<DataProducerId, data::DataProducer>,
    data_consumers: BTreeMap<DataConsumerId, data::DataConsumer>,
    /// With the site where it is done.
    pending: BTreeMap<OpId, (SiteId, Pending)>,
    deferred: VecDeque<(SessionId, RequestId, Request)>,
    speakers: Vec<(PeerId, i8)>,
    again: forwarding::Again,
    empty_since: Option<Instant>,
    last_op: u64,
    last_ask: u64,
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
    /// Routers beyond the first.
    pub further_sites: usize,
    /// Pairs of PipeTransports between routers.
    pub pipes: usize,
    /// Producers and data producers that are piped, once for each router that they are piped to.
    pub piped: usize,
}

#[derive(Debug)]
struct Peer {
    id: PeerId,
    role: Role,
    key: Option<PeerKey>,
    region: Option<Region>,
    /// Where all its transports are.
    site: SiteId,
    joined: Option<Joined>,
    transports: BTreeMap<TransportId, Direction>,
    transports_coming: Vec<Direction>,
    producers: BTreeSet<ProducerId>,
    producers_coming: usize,
    consumers: BTreeSet<ConsumerId>,
    consumers_coming: usize,
    /// Transports with an association for data channels.
    data_transports: BTreeSet<TransportId>,
    data_producers: BTreeSet<DataProducerId>,
    data_producers_coming: usize,
    data_consumers: BTreeSet<DataConsumerId>,
    data_consumers_coming: usize,
    asks: BTreeMap<AskId, Asked>,
    /// Since when nobody reaches its client, which may come back.
    detached: Option<Instant>,
}

/// What a client was asked to receive.
#[derive(Debug)]
enum Asked {
    Consumer(ConsumerId),
    DataConsumer(DataConsumerId),
}

#[derive(Debug)]
struct Joined {
    display_name: String,
    device: Device,
    rtp_capabilities: Option<Arc<RtpCapabilities>>,
    remote_address: Option<IpAddr>,
    receives: Receives,
}

/// Which way a transport was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

#[derive(Debug)]
struct Producer {
    owner: SessionId,
    site: SiteId,
    transport: TransportId,
    kind: MediaKind,
    source: Source,
    app_data: Arc<serde_json::Value>,
    consumable: Arc<RtpParameters>,
    paused: bool,
    receivers: BTreeMap<SessionId, Link>,
}

/// What became of one producer for one receiver.
#[derive(Debug)]
enum Link {
    /// Until the producer is piped to the receiver's site.
    Waiting,
    /// As `Waiting`, for one who asked.
    Asked(Box<on_request::Asked<ProducerId>>),
    Creating(OpId),
    Consumer(ConsumerId),
    /// The two do not fit, or the client said no. Not tried again on this transport.
    Refused,
}

#[derive(Debug)]
struct Consumer {
    producer: ProducerId,
    receiver: SessionId,
    transport: TransportId,
    /// Until the client accepts, nothing else is said about a consumer: it would not know the id yet.
    accepted: bool,
    paused_by_client: bool,
    told_producer_paused: bool,
    score: serde_json::Value,
    layers: Option<Option<Layers>>,
}

/// Media work under way, with what is needed to go on afterwards.
#[derive(Debug)]
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
            Event::Request { session, request, message } => self.request(session, request, message),
            Event::Answered { session, ask, accepted } => self.answered(session, ask, accepted),
            Event::MediaDone { op, result } => self.media_done(op, result, now),
            Event::Site { site, what } => self.site_event(site, what, now),
            Event::Timeout => self.timeout(now),
            Event::Shutdown => {
                self.close_sessions(close_code::SHUTDOWN, "the server is shutting down", now);
                self.out.push(Action::CloseRoom);
            }
        }
        self.serve_pipes();
        self.tidy_sites();
        std::mem::take(&mut self.out)
    }

    /// When [`Event::Timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let empty = self.empty_since.map(|since| since + self.limits.linger());
        [empty, self.next_detached(), self.again.at].into_iter().flatten().min()
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
            self.close_session(session, close_code::FINAL, "the room is full");
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
        for consumer in &peer.consumers {
            if let Some(consumer) = self.consumers.remove(consumer)
                && let Some(producer) = self.producers.get_mut(&consumer.producer)
            {
                producer.receivers.remove(&session);
            }
        }
        self.leave_data(session, &peer);
        // Links that are being created or were refused have no consumer that leads to them.
        for producer in self.producers.values_mut() {
            producer.receivers.remove(&session);
        }
        self.pipes.forget(session);
        for transport in peer.transports.into_keys() {
            self.media(peer.site, Pending::Silent, MediaOp::CloseTransport(transport));
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
        self.empty_since = Some(now);
    }

    fn timeout(&mut self, now: Instant) {
        self.leave_overdue(now);
        self.forward_again(now);
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
            joined: None,
            transports: BTreeMap::new(),
            transports_coming: Vec::new(),
            producers: BTreeSet::new(),
            producers_coming: 0,
            consumers: BTreeSet::new(),
            consumers_coming: 0,
            data_transports: BTreeSet::new(),
            data_producers: BTreeSet::new(),
            data_producers_coming: 0,
            data_consumers: BTreeSet::new(),
            data_consumers_coming: 0,
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
        let of = |wanted| self.transports.iter().find(|(_, d)| **d == wanted).map(|(id, _)| id);
        of(Direction::Receive).or_else(|| of(Direction::Both))
    }
}
