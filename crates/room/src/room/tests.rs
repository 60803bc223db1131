//! A room against a model of the media side: what happens in order, what is said to whom, and that nothing is left.

mod wide;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ortc::{ConsumerType, MediaKind, RtpParameters, SctpParameters, SctpStreamParameters};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::event::{
    ConsumerCreated, DataConsumerCreated, MediaDone, MediaFailure, PipeEnd, PipedDataOut, PipedOut, Place,
    ProducerCreated, SiteEvent, Volume,
};
use crate::message::{PlainTransportInfo, ServerRequest, TransportInfo};
use crate::policy::{MediaMatch, RolePolicy};

/// Everything outside the room: completes media work when told to, and remembers what it holds.
struct World {
    room: Room,
    now: Instant,
    work: VecDeque<(OpId, MediaOp)>,
    /// Where each piece of work was to be done, and where each object is.
    work_at: BTreeMap<OpId, SiteId>,
    at: BTreeMap<String, SiteId>,
    /// PipeTransports, and whether they are connected.
    ends: BTreeMap<String, bool>,
    /// (Site, producer or data producer) that is piped there -> its PipeTransport.
    copies: BTreeMap<(SiteId, String), String>,
    /// What sends into a pipe -> (its PipeTransport, what it sends).
    senders: BTreeMap<String, (String, String)>,
    /// Where a site of this order is: node and region. Beyond the list all are one node.
    places: Vec<(&'static str, &'static str)>,
    next: u64,
    transports: BTreeSet<String>,
    producers: BTreeMap<String, String>,
    /// Consumer -> (its transport, its producer, resumed).
    consumers: BTreeMap<String, (String, String, bool)>,
    routers: usize,
    asks: Vec<(SessionId, AskId, ConsumerId, PeerId)>,
    data_asks: Vec<(SessionId, AskId, DataConsumerId, String)>,
    data_producers: BTreeMap<String, String>,
    /// Data consumer -> (its transport, its data producer, resumed).
    data_consumers: BTreeMap<String, (String, String, bool)>,
    told: Vec<(SessionId, Notification)>,
    replies: BTreeMap<RequestId, Result<Reply, RoomError>>,
    closed: Vec<(SessionId, u16)>,
    room_closed: bool,
    refuse_consumers: bool,
    requests: u64,
}

impl World {
    fn new(room_type: RoomType, limits: Limits) -> Self {
        let now = Instant::now();
        let id = RoomId::parse("r").expect("id");
        Self {
            room: Room::new(id, Arc::new(room_type), Arc::new(limits), now),
            now,
            work: VecDeque::new(),
            work_at: BTreeMap::new(),
            at: BTreeMap::new(),
            ends: BTreeMap::new(),
            copies: BTreeMap::new(),
            senders: BTreeMap::new(),
            places: Vec::new(),
            next: 0,
            transports: BTreeSet::new(),
            producers: BTreeMap::new(),
            consumers: BTreeMap::new(),
            routers: 0,
            asks: Vec::new(),
            data_asks: Vec::new(),
            data_producers: BTreeMap::new(),
            data_consumers: BTreeMap::new(),
            told: Vec::new(),
            replies: BTreeMap::new(),
            closed: Vec::new(),
            room_closed: false,
            refuse_consumers: false,
            requests: 0,
        }
    }

    fn open() -> Self {
        Self::new(RoomType::open(), Limits::default())
    }

    fn event(&mut self, event: Event) {
        for action in self.room.handle(event, self.now) {
            match action {
                Action::Reply { request, result, .. } => {
                    assert!(self.replies.insert(request, result).is_none(), "answered twice");
                }
                Action::Notify { session, notification } => self.told.push((session, notification)),
                Action::Ask { session, ask, request } => match request {
                    ServerRequest::NewConsumer { id, peer, .. } => self.asks.push((session, ask, id, peer)),
                    ServerRequest::NewDataConsumer { id, label, .. } => {
                        self.data_asks.push((session, ask, id, label));
                    }
                },
                Action::CloseSession { session, code, .. } => self.closed.push((session, code)),
                Action::Media { site, op, what } => {
                    self.work_at.insert(op, site);
                    self.work.push_back((op, what));
                }
                Action::Count(_) => {}
                Action::CloseRoom => self.room_closed = true,
            }
        }
    }

    fn step(&mut self) -> bool {
        let Some((op, what)) = self.work.pop_front() else { return false };
        let result = self.perform_at(self.work_at[&op], what);
        self.event(Event::MediaDone { op, result });
        true
    }

    /// The oldest work of one of the sites that have some: between sites there is no order.
    fn step_at(&mut self, site: usize) -> bool {
        let sites: BTreeSet<_> = self.work.iter().map(|(op, _)| self.work_at[op]).collect();
        let Some(site) = sites.iter().nth(site % sites.len().max(1)).copied() else { return false };
        let at = self.work.iter().position(|(op, _)| self.work_at[op] == site).expect("just seen");
        let (op, what) = self.work.remove(at).expect("just found");
        let result = self.perform_at(site, what);
        self.event(Event::MediaDone { op, result });
        true
    }

    /// The worker of this site dies.
    fn kill(&mut self, site: SiteId) {
        let work_at = &self.work_at;
        self.work.retain(|(op, _)| work_at[op] != site);
        let at = self.at.clone();
        let alive = |id: &String| at[id] != site;
        self.transports.retain(alive);
        self.producers.retain(|id, _| alive(id));
        self.consumers.retain(|id, _| alive(id));
        self.data_producers.retain(|id, _| alive(id));
        self.data_consumers.retain(|id, _| alive(id));
        self.ends.retain(|id, _| alive(id));
        self.senders.retain(|id, _| alive(id));
        self.copies.retain(|(at, _), _| *at != site);
        self.site_event(site, SiteEvent::Lost);
    }

    fn site_event(&mut self, site: SiteId, what: SiteEvent) {
        self.event(Event::Site { site, what });
    }

    /// The room's only site.
    fn home(&self) -> SiteId {
        assert_eq!(self.room.sites.len(), 1);
        *self.room.sites.keys().next().expect("one")
    }

    /// Something at the home that is there alone.
    fn tell(&mut self, what: SiteEvent) {
        let home = self.home();
        self.site_event(home, what);
    }

    fn settle(&mut self) {
        while self.step() {}
    }

    fn name(&mut self, prefix: &str) -> String {
        self.next += 1;
        format!("{prefix}{}", self.next)
    }

    /// At the room's only site.
    fn perform(&mut self, what: MediaOp) -> Result<MediaDone, MediaFailure> {
        self.perform_at(self.home(), what)
    }

    fn perform_at(&mut self, site: SiteId, what: MediaOp) -> Result<MediaDone, MediaFailure> {
        let before = self.next;
        let result = self.carry_out(site, what);
        for prefix in ["t", "p", "c", "dp", "dc", "e", "s"] {
            if self.next > before {
                self.at.insert(format!("{prefix}{}", self.next), site);
            }
        }
        result
    }

    /// Whether a producer or data producer can be consumed at a site.
    fn has(&self, site: SiteId, id: &str) -> bool {
        let home = self.producers.contains_key(id) || self.data_producers.contains_key(id);
        (home && self.at[id] == site) || self.copies.contains_key(&(site, id.to_owned()))
    }

    fn carry_out(&mut self, site: SiteId, what: MediaOp) -> Result<MediaDone, MediaFailure> {
        let gone = || MediaFailure::Internal("gone".to_owned());
        match what {
            MediaOp::CreateRouter { region, .. } => {
                self.routers += 1;
                let (node, place) = self.places.get(self.routers - 1).copied().unwrap_or_default();
                let fallback = (!place.is_empty()).then(|| Region::new(place));
                let place = Place { node: node.to_owned(), region: fallback.or(region) };
                Ok(MediaDone::Router { rtp_capabilities: Arc::default(), place })
            }
            MediaOp::CloseRouter => {
                let left: Vec<_> = self.held_at(site);
                assert!(left.is_empty(), "a router is closed that holds {left:?}");
                Ok(MediaDone::Done)
            }
            MediaOp::CreatePipe { .. } => {
                let id = self.name("e");
                self.ends.insert(id.clone(), false);
                let (ip, port) = (IpAddr::from([127, 0, 0, 1]), 1);
                let end = PipeEnd { id: TransportId::new(id), ip, port, srtp_parameters: None };
                Ok(MediaDone::Pipe(Box::new(end)))
            }
            MediaOp::ConnectPipe { transport, remote } => {
                assert_ne!(self.at[remote.id.as_str()], site);
                *self.ends.get_mut(transport.as_str()).ok_or_else(gone)? = true;
                Ok(MediaDone::Done)
            }
            MediaOp::PipeOut { transport, producer } => {
                let consumer = ConsumerId::new(self.send(site, &transport, producer.as_str())?);
                let (kind, rtp_parameters) = (MediaKind::Video, Box::default());
                Ok(MediaDone::PipedOut(Box::new(PipedOut { consumer, kind, rtp_parameters })))
            }
            MediaOp::PipeDataOut { transport, data_producer } => {
                let consumer = DataConsumerId::new(self.send(site, &transport, data_producer.as_str())?);
                let (label, protocol) = ("l".to_owned(), String::new());
                Ok(MediaDone::PipedDataOut(PipedDataOut { consumer, stream: stream(1), label, protocol }))
            }
            MediaOp::PipeIn { transport, producer, .. } => {
                self.receive(site, &transport, producer.as_str())?;
                Ok(MediaDone::Producer(ProducerCreated { id: producer, consumable: Arc::default() }))
            }
            MediaOp::PipeDataIn { transport, data_producer, .. } => {
                self.receive(site, &transport, data_producer.as_str())?;
                Ok(MediaDone::DataProducer(data_producer))
            }
            MediaOp::CreateTransport { data, .. } => {
                let id = self.name("t");
                self.transports.insert(id.clone());
                let ice = json!({ "usernameFragment": "u", "password": "p", "iceLite": true });
                let dtls = json!({ "role": "auto", "fingerprints": [] });
                Ok(MediaDone::Transport(Box::new(TransportInfo {
                    id: TransportId::new(id),
                    ice_parameters: serde_json::from_value(ice).expect("ice"),
                    ice_candidates: Vec::new(),
                    dtls_parameters: serde_json::from_value(dtls).expect("dtls"),
                    sctp_parameters: data.then(sctp_parameters),
                })))
            }
            MediaOp::CreatePlainTransport { rtcp_mux, .. } => {
                let id = self.name("t");
                self.transports.insert(id.clone());
                let rtcp_port = (!rtcp_mux).then_some(2);
                let info =
                    PlainTransportInfo { id: TransportId::new(id), ip: "ip".to_owned(), port: 1, rtcp_port };
                Ok(MediaDone::PlainTransport(info))
            }
            MediaOp::CloseTransport(id) => {
                let id = id.as_str();
                self.transports.remove(id);
                self.ends.remove(id);
                let homes = self.producers.iter().chain(&self.data_producers);
                let dead = homes.filter(|(_, transport)| *transport == id).map(|(p, _)| p.clone());
                let copies = self.copies.iter().filter(|(_, transport)| *transport == id);
                let dead: Vec<_> = dead.chain(copies.map(|((_, p), _)| p.clone())).collect();
                for producer in dead {
                    self.close_at(site, &producer);
                }
                self.consumers.retain(|_, (transport, ..)| transport != id);
                self.data_consumers.retain(|_, (transport, ..)| transport != id);
                self.senders.retain(|_, (transport, _)| transport != id);
                Ok(MediaDone::Done)
            }
            MediaOp::ProduceData { transport, .. } => {
                let id = self.name("dp");
                self.data_producers.insert(id.clone(), transport.to_string());
                Ok(MediaDone::DataProducer(DataProducerId::new(id)))
            }
            MediaOp::ConsumeData { transport, data_producer } => {
                let there =
                    self.transports.contains(transport.as_str()) && self.has(site, data_producer.as_str());
                if !there {
                    return Err(gone());
                }
                let id = self.name("dc");
                let entry = (transport.to_string(), data_producer.to_string(), false);
                self.data_consumers.insert(id.clone(), entry);
                let stream = stream(self.data_consumers.len() as u16);
                Ok(MediaDone::DataConsumer(DataConsumerCreated { id: DataConsumerId::new(id), stream }))
            }
            MediaOp::ResumeDataConsumer(id) => {
                let consumer = self.data_consumers.get_mut(id.as_str()).ok_or_else(gone)?;
                consumer.2 = true;
                Ok(MediaDone::Done)
            }
            MediaOp::CloseDataProducer(id) => {
                self.close_at(site, id.as_str());
                Ok(MediaDone::Done)
            }
            MediaOp::CloseDataConsumer(id) => {
                self.data_consumers.remove(id.as_str());
                self.senders.remove(id.as_str());
                Ok(MediaDone::Done)
            }
            MediaOp::Produce { transport, .. } => {
                if !self.transports.contains(transport.as_str()) {
                    return Err(gone());
                }
                let id = self.name("p");
                self.producers.insert(id.clone(), transport.to_string());
                Ok(MediaDone::Producer(ProducerCreated {
                    id: ProducerId::new(id),
                    consumable: Arc::default(),
                }))
            }
            MediaOp::CloseProducer(id) => {
                self.close_at(site, id.as_str());
                Ok(MediaDone::Done)
            }
            MediaOp::Consume { transport, producer, .. } => {
                if self.refuse_consumers {
                    return Err(MediaFailure::Refused("does not fit".to_owned()));
                }
                if !self.transports.contains(transport.as_str()) || !self.has(site, producer.as_str()) {
                    return Err(gone());
                }
                let id = self.name("c");
                self.consumers.insert(id.clone(), (transport.to_string(), producer.to_string(), false));
                Ok(MediaDone::Consumer(Box::new(ConsumerCreated {
                    id: ConsumerId::new(id),
                    consumer_type: ConsumerType::Simple,
                    rtp_parameters: Arc::default(),
                    score: json!({ "score": 10 }),
                })))
            }
            MediaOp::CloseConsumer(id) => {
                self.consumers.remove(id.as_str());
                self.senders.remove(id.as_str());
                Ok(MediaDone::Done)
            }
            MediaOp::ResumeConsumer(id) => {
                if let Some(consumer) = self.consumers.get_mut(id.as_str()) {
                    consumer.2 = true;
                }
                Ok(MediaDone::Done)
            }
            MediaOp::Stats(_) => Ok(MediaDone::Stats(json!([]))),
            _ => Ok(MediaDone::Done),
        }
    }

    /// A producer or data producer ends at a site, and what consumes it there.
    fn close_at(&mut self, site: SiteId, id: &str) {
        if self.at[id] == site {
            self.producers.remove(id);
            self.data_producers.remove(id);
        }
        self.copies.remove(&(site, id.to_owned()));
        let at = &self.at;
        self.consumers.retain(|consumer, (_, of, _)| of != id || at[consumer] != site);
        self.data_consumers.retain(|consumer, (_, of, _)| of != id || at[consumer] != site);
        self.senders.retain(|sender, (_, of)| of != id || at[sender] != site);
    }

    fn send(&mut self, site: SiteId, end: &TransportId, id: &str) -> Result<String, MediaFailure> {
        let connected = self.ends.get(end.as_str()).copied();
        if !self.has(site, id) || connected.is_none() {
            return Err(MediaFailure::Unavailable("gone".to_owned()));
        }
        assert_eq!(connected, Some(true), "piped before the pipe is connected");
        assert_eq!(self.at[end.as_str()], site);
        let sender = self.name("s");
        self.senders.insert(sender.clone(), (end.to_string(), id.to_owned()));
        Ok(sender)
    }

    fn receive(&mut self, site: SiteId, end: &TransportId, id: &str) -> Result<(), MediaFailure> {
        if !self.ends.contains_key(end.as_str()) {
            return Err(MediaFailure::Unavailable("gone".to_owned()));
        }
        assert_eq!(self.at[end.as_str()], site);
        assert!(!self.has(site, id), "{id} is at {site:?} twice");
        self.copies.insert((site, id.to_owned()), end.to_string());
        Ok(())
    }

    fn held_at(&self, site: SiteId) -> Vec<String> {
        let all = self.transports.iter().chain(self.producers.keys()).chain(self.consumers.keys());
        let all = all.chain(self.ends.keys()).chain(self.senders.keys());
        let here = all.filter(|id| self.at[*id] == site).cloned();
        here.chain(self.copies.keys().filter(|(at, _)| *at == site).map(|(_, id)| id.clone())).collect()
    }

    fn connect(&mut self, session: u64, peer: &str) {
        self.connect_with(session, peer, None);
    }

    fn connect_with(&mut self, session: u64, peer: &str, key: Option<PeerKey>) {
        let peer = PeerId::parse(peer).expect("id");
        self.event(Event::Connected {
            session: SessionId(session),
            comer: Comer { key, ..Comer::new(peer) },
        });
    }

    fn connect_from(&mut self, session: u64, peer: &str, region: Option<&str>) {
        let peer = PeerId::parse(peer).expect("id");
        let region = region.map(Region::new);
        self.event(Event::Connected {
            session: SessionId(session),
            comer: Comer { region, ..Comer::new(peer) },
        });
    }

    fn ask(&mut self, session: u64, message: Request) -> RequestId {
        self.requests += 1;
        let request = RequestId(self.requests);
        self.event(Event::Request { session: SessionId(session), request, message });
        request
    }

    /// Asks, lets all work end, and returns the answer.
    fn reply(&mut self, session: u64, message: Request) -> Result<Reply, RoomError> {
        let request = self.ask(session, message);
        self.settle();
        self.replies.remove(&request).expect("answered")
    }

    fn transport(&mut self, session: u64, producing: bool) -> TransportId {
        let message = create(producing, !producing);
        match self.reply(session, message) {
            Ok(Reply::Transport(info)) => info.id,
            other => panic!("{other:?}"),
        }
    }

    fn produce(&mut self, session: u64, transport: &TransportId, kind: MediaKind) -> ProducerId {
        match self.reply(session, produce(transport, kind, json!({}))) {
            Ok(Reply::Produced(id)) => id,
            other => panic!("{other:?}"),
        }
    }

    /// The first peer produces; the work stops where a consumer is to be made.
    fn produce_until_consume(&mut self, transport: &TransportId) -> (OpId, MediaOp) {
        self.ask(1, produce(transport, MediaKind::Audio, json!({})));
        while !matches!(self.work.front(), Some((_, MediaOp::Consume { .. }))) {
            assert!(self.step(), "nobody consumes");
        }
        self.work.pop_front().expect("just seen")
    }

    /// A peer that is connected, joined, and can receive and send.
    fn peer(&mut self, session: u64, name: &str) -> TransportId {
        self.connect(session, name);
        let send = self.transport(session, true);
        self.transport(session, false);
        assert!(self.reply(session, join(name)).is_ok());
        send
    }

    fn accept_all(&mut self) {
        for (session, ask, ..) in std::mem::take(&mut self.asks) {
            self.event(Event::Answered { session, ask, accepted: true });
            self.settle();
        }
    }

    fn told(&mut self, session: u64) -> Vec<Notification> {
        let (mine, others) =
            std::mem::take(&mut self.told).into_iter().partition(|(to, _)| *to == SessionId(session));
        self.told = others;
        let mine: Vec<(SessionId, Notification)> = mine;
        mine.into_iter().map(|(_, notification)| notification).collect()
    }
}

fn sctp_parameters() -> SctpParameters {
    SctpParameters {
        port: 5000,
        os: 65_535,
        mis: 65_535,
        max_message_size: 262_144,
        max_send_message_size: 262_144,
        max_receive_message_size: 262_144,
        send_buffer_size: 2_000_000,
        per_stream_send_queue_limit: 2_000_000,
        max_receiver_window_buffer_size: 5_242_880,
        is_data_channel: true,
    }
}

fn stream(stream_id: u16) -> SctpStreamParameters {
    SctpStreamParameters { stream_id, ordered: Some(true), max_packet_life_time: None, max_retransmits: None }
}

fn produce_data(transport: &TransportId, label: &str) -> Request {
    Request::ProduceData {
        transport: transport.clone(),
        stream: stream(0),
        label: label.to_owned(),
        protocol: String::new(),
        app_data: json!({ "channel": label }),
    }
}

fn create(producing: bool, consuming: bool) -> Request {
    Request::CreateWebRtcTransport { force_tcp: false, producing, consuming, data: true, bandwidth: false }
}

fn join(name: &str) -> Request {
    Request::Join {
        display_name: name.to_owned(),
        device: Device::default(),
        rtp_capabilities: Some(Arc::default()),
        remote_address: None,
        receives: Receives::Offered,
    }
}

fn produce(transport: &TransportId, kind: MediaKind, app_data: Value) -> Request {
    Request::Produce {
        transport: transport.clone(),
        kind,
        rtp_parameters: Box::new(RtpParameters::default()),
        app_data,
    }
}

#[test]
fn messages_reach_who_accepts_them_until_either_end_is_gone() {
    let mut world = World::open();
    let send = world.peer(1, "ann");
    world.peer(2, "bob");
    assert!(matches!(world.reply(1, produce_data(&send, "chat")), Ok(Reply::DataProduced(_))));
    assert!(world.reply(1, produce_data(&send, "bot")).is_ok(), "taken, and offered to nobody");
    world.peer(3, "eve");
    let offered: Vec<_> = world.data_asks.iter().map(|(to, .., label)| (to.0, label.as_str())).collect();
    assert_eq!(offered, [(2, "chat"), (3, "chat")]);
    assert!(world.data_consumers.values().all(|(.., resumed)| !resumed), "not before the client is ready");
    for (session, ask, ..) in std::mem::take(&mut world.data_asks) {
        world.event(Event::Answered { session, ask, accepted: session.0 == 2 });
        world.settle();
    }
    let left: Vec<_> = world.data_consumers.values().map(|(.., resumed)| *resumed).collect();
    assert_eq!(left, [true], "bob's; eve refused hers");
    world.event(Event::Disconnected(SessionId(1)));
    world.settle();
    assert!(world.told(2).iter().any(|told| matches!(told, Notification::DataConsumerClosed(_))));
    assert!(!world.told(3).iter().any(|told| matches!(told, Notification::DataConsumerClosed(_))));
    assert_eq!((world.data_producers.len(), world.data_consumers.len()), (0, 0));
    let held = world.room.held();
    assert_eq!((held.data_producers, held.data_consumers), (0, 0));
}

#[test]
fn messages_are_limited_and_need_a_transport_that_sends() {
    let mut world = World::new(RoomType::open(), Limits { data_producers_per_peer: 2, ..Limits::default() });
    let send = world.peer(1, "ann");
    let unknown = TransportId::new("no such transport");
    assert!(matches!(world.reply(1, produce_data(&unknown, "chat")), Err(RoomError::NotFound { .. })));
    for _ in 0..2 {
        assert!(world.reply(1, produce_data(&send, "chat")).is_ok());
    }
    assert!(matches!(world.reply(1, produce_data(&send, "chat")), Err(RoomError::Limit { limit: 2, .. })));
}

#[test]
fn two_peers_are_offered_each_other_and_flow_starts_on_acceptance() {
    let mut world = World::open();
    let ann = world.peer(1, "ann");
    let bob = world.peer(2, "bob");
    assert!(matches!(&world.told(1)[..], [Notification::NewPeer(info)] if info.display_name == "bob"));
    world.produce(1, &ann, MediaKind::Audio);
    world.produce(2, &bob, MediaKind::Video);
    let offered: Vec<_> = world.asks.iter().map(|(to, .., from)| (to.0, from.to_string())).collect();
    assert_eq!(offered, [(2, "ann".to_owned()), (1, "bob".to_owned())]);
    assert!(world.consumers.values().all(|(.., resumed)| !resumed));
    world.accept_all();
    assert_eq!(world.consumers.values().filter(|(.., resumed)| *resumed).count(), 2);
    assert!(matches!(&world.told(1)[..], [Notification::ConsumerScore { .. }]));
}

#[test]
fn a_late_joiner_gets_what_is_there_whatever_the_order_of_its_steps() {
    let mut world = World::open();
    let ann = world.peer(1, "ann");
    world.produce(1, &ann, MediaKind::Audio);
    // Joins first, creates its receive transport afterwards.
    world.connect(2, "bob");
    let Ok(Reply::Joined(here)) = world.reply(2, join("bob")) else { panic!("not joined") };
    assert_eq!(here.len(), 1);
    assert!(world.asks.is_empty());
    world.transport(2, false);
    assert_eq!(world.asks.len(), 1);
}

#[test]
fn requests_before_the_router_is_there_wait_for_it() {
    let mut world = World::open();
    world.connect(1, "ann");
    let request = world.ask(1, Request::RouterRtpCapabilities);
    assert!(world.replies.is_empty());
    world.settle();
    assert!(matches!(world.replies.get(&request), Some(Ok(Reply::RouterRtpCapabilities(_)))));
}

#[test]
fn without_any_worker_clients_are_told_and_the_next_request_tries_again() {
    let mut world = World::open();
    world.connect(1, "ann");
    let first = world.ask(1, Request::RouterRtpCapabilities);
    let (op, _) = world.work.pop_front().expect("router");
    let failure = MediaFailure::Unavailable("no media worker is running".to_owned());
    world.event(Event::MediaDone { op, result: Err(failure) });
    assert_eq!(world.replies.remove(&first).expect("answered").expect_err("refused").code(), 503);
    assert!(world.reply(1, Request::RouterRtpCapabilities).is_ok());
}

#[test]
fn a_second_transport_of_one_direction_is_refused_with_the_first_ones_id() {
    let mut world = World::open();
    world.connect(1, "ann");
    let send = world.transport(1, true);
    let error = world.reply(1, create(true, false)).expect_err("refused");
    assert!(error.to_string().contains(send.as_str()) && error.code() == 409);
    world.transport(1, false);
    assert!(world.reply(1, create(true, true)).is_err());
    assert!(world.reply(1, create(false, false)).is_err());
    assert_eq!(world.transports.len(), 2);
}

#[test]
fn two_requests_for_one_direction_in_flight_make_one_transport() {
    let mut world = World::open();
    world.connect(1, "ann");
    world.settle();
    world.ask(1, create(true, false));
    world.ask(1, create(true, false));
    world.settle();
    assert_eq!(world.transports.len(), 1);
}

#[test]
fn what_belongs_to_another_peer_is_not_found() {
    let mut world = World::open();
    let ann = world.peer(1, "ann");
    world.peer(2, "bob");
    let producer = world.produce(1, &ann, MediaKind::Audio);
    let consumer = world.asks[0].2.clone();
    for request in [
        Request::CloseProducer(producer.clone()),
        Request::PauseProducer(producer.clone()),
        Request::ProducerStats(producer),
        Request::RestartIce { transport: ann.clone() },
        Request::TransportStats(ann.clone()),
        produce(&ann, MediaKind::Audio, json!({})),
    ] {
        assert_eq!(world.reply(2, request).expect_err("refused").code(), 404);
    }
    for request in [Request::PauseConsumer(consumer.clone()), Request::ConsumerStats(consumer)] {
        assert_eq!(world.reply(1, request).expect_err("refused").code(), 404);
    }
}

#[test]
fn joining_twice_and_producing_before_joining_are_refused() {
    let mut world = World::open();
    world.connect(1, "ann");
    let send = world.transport(1, true);
    let request = produce(&send, MediaKind::Audio, json!({}));
    assert_eq!(world.reply(1, request), Err(RoomError::NotJoined));
    assert!(world.reply(1, join("ann")).is_ok());
    assert_eq!(world.reply(1, join("ann")), Err(RoomError::AlreadyJoined));
}

#[test]
fn limits_are_named_when_reached() {
    let limits = Limits { peers_per_room: 2, producers_per_peer: 1, app_data_bytes: 20, ..Limits::default() };
    let mut world = World::new(RoomType::open(), limits);
    let ann = world.peer(1, "ann");
    let big = produce(&ann, MediaKind::Audio, json!({ "x": "y".repeat(50) }));
    assert_eq!(world.reply(1, big).expect_err("refused").code(), 429);
    world.produce(1, &ann, MediaKind::Audio);
    let error = world.reply(1, produce(&ann, MediaKind::Video, json!({}))).expect_err("refused");
    assert_eq!(error.to_string(), "producers of one peer: the limit is 1");
    world.peer(2, "bob");
    world.connect(3, "eve");
    assert_eq!(world.closed, [(SessionId(3), close_code::FINAL)]);
    // A full room still lets a peer of its own come back.
    world.connect(4, "bob");
    assert_eq!(world.closed[1], (SessionId(2), close_code::FINAL));
    assert_eq!(world.room.held().peers, 2);
}

#[test]
fn who_has_shown_a_key_is_replaced_by_who_shows_it_again() {
    let key = |text: &str| Some(PeerKey::parse(text).expect("a key"));
    let (own, guess) = (key("0123456789abcdef"), key("0123456789abcdee"));
    for keyless in [true, false] {
        let mut world =
            World::new(RoomType::open(), Limits { replace_without_key: keyless, ..Limits::default() });
        world.connect_with(1, "ann", own.clone());
        for (session, shown) in [(2, None), (3, guess.clone())] {
            world.connect_with(session, "ann", shown);
            assert_eq!(world.closed.pop(), Some((SessionId(session), close_code::TAKEN)));
            assert_eq!(world.room.held().peers, 1);
        }
        world.connect_with(4, "ann", own.clone());
        assert_eq!(world.closed.pop(), Some((SessionId(1), close_code::FINAL)));
        // With its session, a peer's key is forgotten.
        world.event(Event::Disconnected(SessionId(4)));
        world.connect(5, "ann");
        // Who has shown none is replaced by anybody, or by nobody.
        world.connect(6, "ann");
        let closed = if keyless { (5, close_code::FINAL) } else { (6, close_code::TAKEN) };
        assert_eq!(world.closed.pop(), Some((SessionId(closed.0), closed.1)));
        assert_eq!((world.room.held().peers, world.closed.len()), (1, 0));
    }
}

#[test]
fn a_second_connection_of_a_peer_replaces_the_first_and_frees_what_it_held() {
    let mut world = World::open();
    let ann = world.peer(1, "ann");
    world.peer(2, "bob");
    world.produce(1, &ann, MediaKind::Audio);
    world.accept_all();
    world.told(2);
    world.connect(3, "ann");
    world.settle();
    assert_eq!(world.closed, [(SessionId(1), close_code::FINAL)]);
    let told = world.told(2);
    assert!(matches!(&told[..], [Notification::ConsumerClosed(_), Notification::PeerClosed(_)]), "{told:?}");
    assert_eq!((world.transports.len(), world.producers.len(), world.consumers.len()), (2, 0, 0));
    // The old session's late goodbye does not touch the new one.
    world.event(Event::Disconnected(SessionId(1)));
    assert_eq!(world.room.held().peers, 2);
}

#[test]
fn a_producer_that_ends_before_the_offer_is_answered_is_taken_back_afterwards() {
    let mut world = World::open();
    let ann = world.peer(1, "ann");
    world.peer(2, "bob");
    let producer = world.produce(1, &ann, MediaKind::Video);
    world.told(2);
    assert!(world.reply(1, Request::CloseProducer(producer)).is_ok());
    assert!(world.told(2).is_empty(), "the client does not know the consumer yet");
    let consumer = world.asks[0].2.clone();
    world.accept_all();
    assert_eq!(world.told(2), [Notification::ConsumerClosed(consumer)]);
}

#[test]
fn pause_and_resume_reach_receivers_once_and_only_after_acceptance() {
    let mut world = World::open();
    let ann = world.peer(1, "ann");
    world.peer(2, "bob");
    let producer = world.produce(1, &ann, MediaKind::Video);
    world.told(2);
    assert!(world.reply(1, Request::PauseProducer(producer.clone())).is_ok());
    assert!(world.told(2).is_empty());
    let consumer = world.asks[0].2.clone();
    world.accept_all();
    assert_eq!(world.told(2)[0], Notification::ConsumerPaused(consumer.clone()));
    assert!(world.reply(1, Request::PauseProducer(producer.clone())).is_ok());
    assert!(world.told(2).is_empty());
    assert!(world.reply(1, Request::ResumeProducer(producer)).is_ok());
    assert_eq!(world.told(2), [Notification::ConsumerResumed(consumer)]);
}

#[test]
fn a_refused_offer_closes_the_consumer_and_is_not_repeated() {
    let mut world = World::open();
    let ann = world.peer(1, "ann");
    world.peer(2, "bob");
    world.produce(1, &ann, MediaKind::Video);
    let (session, ask, ..) = world.asks.remove(0);
    world.event(Event::Answered { session, ask, accepted: false });
    world.settle();
    assert_eq!((world.consumers.len(), world.room.held().consumers), (0, 0));
    world.peer(3, "eve");
    assert_eq!(world.asks.len(), 1, "only eve is offered");
}

#[test]
fn a_producer_that_a_peer_cannot_decode_is_left_out() {
    let mut world = World::open();
    let ann = world.peer(1, "ann");
    world.peer(2, "bob");
    world.refuse_consumers = true;
    world.produce(1, &ann, MediaKind::Video);
    assert!(world.asks.is_empty());
    assert_eq!(world.room.held().consumers, 0);
}

#[test]
fn a_consumer_that_comes_too_late_for_its_transport_is_made_on_the_next() {
    for made_in_time in [true, false] {
        let mut world = World::open();
        let ann = world.peer(1, "ann");
        world.connect(2, "bob");
        let receive = world.transport(2, false);
        assert!(world.reply(2, join("bob")).is_ok());
        let (op, what) = world.produce_until_consume(&ann);
        let in_time = made_in_time.then(|| world.perform(what.clone()));
        world.tell(SiteEvent::TransportClosed(receive));
        world.transport(2, false);
        assert!(world.asks.is_empty());
        let result = in_time.unwrap_or_else(|| world.perform(what));
        assert_eq!(result.is_ok(), made_in_time);
        world.event(Event::MediaDone { op, result });
        world.settle();
        assert_eq!((world.asks.len(), world.consumers.len()), (1, 1));
    }
}

#[test]
fn capabilities_are_put_in_order_once_and_shared_by_all_consumers() {
    let mut world = World::open();
    let ann = world.peer(1, "ann");
    world.connect(2, "bob");
    world.transport(2, false);
    let codecs = json!([{ "kind": "audio", "mimeType": "nonsense", "clockRate": 1 }]);
    let capabilities = serde_json::from_value(json!({ "codecs": codecs })).expect("capabilities");
    let rtp_capabilities: Option<Arc<RtpCapabilities>> = Some(Arc::new(capabilities));
    let (display_name, device) = ("bob".to_owned(), Device::default());
    assert!(
        world
            .reply(
                2,
                Request::Join {
                    display_name,
                    device,
                    rtp_capabilities,
                    remote_address: None,
                    receives: Receives::Offered
                }
            )
            .is_ok()
    );
    let mut shared = || match world.produce_until_consume(&ann) {
        (_, MediaOp::Consume { rtp_capabilities, .. }) => rtp_capabilities,
        other => panic!("{other:?}"),
    };
    let (one, two) = (shared(), shared());
    assert!(one.codecs.is_empty() && Arc::ptr_eq(&one, &two));
}

#[test]
fn only_a_refusal_is_remembered_not_that_the_worker_was_late() {
    let late = || MediaFailure::Unavailable("no answer in time".to_owned());
    let unfit = || MediaFailure::Refused("does not fit".to_owned());
    for (failure, links) in [(late(), 0), (unfit(), 1)] {
        let mut world = World::open();
        let ann = world.peer(1, "ann");
        world.peer(2, "bob");
        let (op, _) = world.produce_until_consume(&ann);
        world.event(Event::MediaDone { op, result: Err(failure) });
        world.settle();
        assert!(world.room.producers.values().all(|producer| producer.receivers.len() == links));
        assert_eq!(world.room.peers.values().map(|peer| peer.consumers_coming).sum::<usize>(), 0);
    }
}

#[test]
fn a_client_that_pauses_before_it_accepts_stays_paused() {
    let mut world = World::open();
    let ann = world.peer(1, "ann");
    world.peer(2, "bob");
    world.produce(1, &ann, MediaKind::Video);
    let consumer = world.asks[0].2.clone();
    assert!(world.reply(2, Request::PauseConsumer(consumer)).is_ok());
    world.accept_all();
    assert!(world.consumers.values().all(|(.., resumed)| !resumed));
}

#[test]
fn a_transport_that_ends_takes_its_media_along_and_may_be_made_anew() {
    let mut world = World::open();
    let ann = world.peer(1, "ann");
    world.peer(2, "bob");
    world.produce(1, &ann, MediaKind::Video);
    world.accept_all();
    world.told(2);
    let receive = world.room.peers[&SessionId(2)].receive_transport().expect("there").clone();
    world.tell(SiteEvent::TransportClosed(receive));
    world.settle();
    assert!(matches!(&world.told(2)[..], [Notification::ConsumerClosed(_)]));
    world.transport(2, false);
    assert_eq!(world.asks.len(), 1, "offered again on the new transport");
    world.tell(SiteEvent::TransportClosed(ann));
    world.settle();
    assert_eq!(world.room.held().producers, 0);
    assert_eq!(world.producers.len(), 0);
}

#[test]
fn when_the_worker_dies_everyone_is_sent_to_join_again_and_a_new_router_is_ready() {
    let mut world = World::open();
    let ann = world.peer(1, "ann");
    world.peer(2, "bob");
    world.produce(1, &ann, MediaKind::Audio);
    // Work that was under way never ends.
    world.ask(1, produce(&ann, MediaKind::Video, json!({})));
    let lost: Vec<_> = world.work.drain(..).collect();
    world.tell(SiteEvent::Lost);
    assert_eq!(
        world.closed,
        [(SessionId(1), close_code::MEDIA_LOST), (SessionId(2), close_code::MEDIA_LOST)]
    );
    assert!(
        matches!(world.work.front(), Some((_, MediaOp::CreateRouter { .. }))),
        "at once, before anyone asks"
    );
    // A late answer from the grave is ignored.
    let ghost = ProducerCreated { id: ProducerId::new("ghost"), consumable: Arc::default() };
    let result = Ok(MediaDone::Producer(ghost));
    world.event(Event::MediaDone { op: lost[0].0, result });
    world.settle();
    assert_eq!(world.room.held(), Held::default());
    world.closed.clear();
    let ann = world.peer(3, "ann");
    world.peer(4, "bob");
    world.asks.clear();
    world.produce(3, &ann, MediaKind::Audio);
    assert_eq!((world.routers, world.asks.len(), world.closed.len()), (2, 1, 0));
}

#[test]
fn the_loudest_joined_peer_is_the_active_speaker_and_changes_are_told_once() {
    let mut world = World::open();
    let ann = world.peer(1, "ann");
    world.peer(2, "bob");
    let producer = world.produce(1, &ann, MediaKind::Audio);
    world.told(2);
    let volumes = vec![Volume { producer, dbov: -30 }];
    world.tell(SiteEvent::Volumes(volumes.clone()));
    world.tell(SiteEvent::Volumes(volumes));
    let speaker = (PeerId::parse("ann").expect("id"), -30);
    assert_eq!(world.told(2), [Notification::Speakers(vec![speaker])]);
    world.event(Event::Disconnected(SessionId(1)));
    assert!(world.told(2).contains(&Notification::Speakers(Vec::new())));
}

#[test]
fn a_peer_with_two_microphones_speaks_once() {
    let mut world = World::open();
    let (ann, bob) = (world.peer(1, "ann"), world.peer(2, "bob"));
    let producers = [(1, &ann, -20), (2, &bob, -25), (1, &ann, -30)];
    let volumes = producers.map(|(session, transport, dbov)| Volume {
        producer: world.produce(session, transport, MediaKind::Audio),
        dbov,
    });
    world.told(1);
    world.tell(SiteEvent::Volumes(volumes.to_vec()));
    let of = |name: &str, dbov| (PeerId::parse(name).expect("id"), dbov);
    assert_eq!(world.told(1), [Notification::Speakers(vec![of("ann", -20), of("bob", -25)])]);
}

#[test]
fn bandwidth_is_told_to_the_peer_whose_transport_it_is_about() {
    let mut world = World::open();
    let ann = world.peer(1, "ann");
    world.peer(2, "bob");
    world.told(1);
    world.told(2);
    let bandwidth = DownlinkBandwidth { desired: 3, effective_desired: 2, available: 1 };
    world.tell(SiteEvent::DownlinkBandwidth(ann, bandwidth));
    world.tell(SiteEvent::DownlinkBandwidth(TransportId::new("gone"), bandwidth));
    assert_eq!(world.told(1), [Notification::DownlinkBandwidth(bandwidth)]);
    assert!(world.told(2).is_empty());
}

#[test]
fn an_empty_room_lingers_then_closes_and_one_who_returns_keeps_it() {
    let mut world = World::open();
    world.peer(1, "ann");
    world.event(Event::Disconnected(SessionId(1)));
    let due = world.room.poll_timeout().expect("empty");
    world.event(Event::Timeout);
    assert!(!world.room_closed, "too early");
    world.peer(2, "ann");
    assert_eq!((world.room.poll_timeout(), world.routers), (None, 1));
    world.event(Event::Disconnected(SessionId(2)));
    world.now = due + Duration::from_secs(60);
    world.event(Event::Timeout);
    assert!(world.room_closed);
}

#[test]
fn a_new_name_is_told_to_the_others() {
    let mut world = World::open();
    world.peer(1, "ann");
    world.peer(2, "bob");
    world.told(1);
    assert_eq!(world.reply(2, Request::ChangeDisplayName("Bobby".to_owned())), Ok(Reply::Done));
    let told = world.told(1);
    assert!(
        matches!(&told[..], [Notification::PeerDisplayNameChanged { display_name, old_display_name, .. }]
            if display_name == "Bobby" && old_display_name == "bob")
    );
}

#[test]
fn a_detached_peer_that_closes_its_last_transport_has_left() {
    let mut world = World::open();
    world.peer(1, "ann");
    world.peer(2, "bob");
    let transports: Vec<_> = world.room.peers[&SessionId(1)].transports.keys().cloned().collect();
    world.event(Event::Detached(SessionId(1)));
    for (left, transport) in (0..transports.len()).rev().zip(transports) {
        assert_eq!(world.room.held().peers, 2, "{left}");
        world.tell(SiteEvent::TransportClosed(transport));
    }
    assert_eq!((world.room.held().peers, &world.closed[..]), (1, &[(SessionId(1), close_code::GONE)][..]));
}

#[test]
fn a_peer_whose_connection_broke_stays_until_its_time_is_over() {
    let mut world = World::open();
    let ann = world.peer(1, "ann");
    let bob = world.peer(2, "bob");
    world.produce(1, &ann, MediaKind::Audio);
    world.accept_all();
    world.event(Event::Detached(SessionId(1)));
    let due = world.room.poll_timeout().expect("a time is set");
    assert_eq!(due - world.now, Duration::from_millis(Limits::default().resume_ms));
    // What comes meanwhile is offered all the same.
    world.produce(2, &bob, MediaKind::Video);
    assert_eq!(world.room.open_asks(SessionId(1)).map(|asks| asks.len()), Some(1));
    assert!(world.told(2).iter().all(|told| !matches!(told, Notification::PeerClosed(_))));
    // Again at a later time: it counts from the first.
    world.now += Duration::from_secs(5);
    world.event(Event::Detached(SessionId(1)));
    assert_eq!(world.room.poll_timeout(), Some(due));
    world.event(Event::Attached(SessionId(1)));
    assert_eq!(world.room.poll_timeout(), None);
    world.event(Event::Detached(SessionId(1)));
    world.now = world.room.poll_timeout().expect("a time is set");
    world.event(Event::Timeout);
    world.settle();
    assert!(matches!(&world.told(2)[..], [.., Notification::PeerClosed(id)] if id.as_str() == "ann"));
    assert_eq!(world.closed, [(SessionId(1), close_code::GONE)]);
    assert_eq!((world.room.held().peers, world.room.open_asks(SessionId(1))), (1, None));
    assert!(!world.room_closed);
}

/// Speakers hear each other; listeners hear speakers' audio and send nothing.
fn stage() -> RoomType {
    let (speaker, listener) = (Role::new("speaker"), Role::new("listener"));
    let audio = MediaMatch { kind: Some(MediaKind::Audio), source: None };
    let speakers = RolePolicy {
        produces: vec![MediaMatch::ANY],
        receives: BTreeMap::from([(speaker.clone(), vec![MediaMatch::ANY])]),
    };
    let listeners =
        RolePolicy { produces: Vec::new(), receives: BTreeMap::from([(speaker.clone(), vec![audio])]) };
    RoomType {
        name: "stage".to_owned(),
        default_role: listener.clone(),
        roles: BTreeMap::from([(speaker, speakers), (listener, listeners)]),
    }
}

#[test]
fn the_table_of_the_room_type_decides_who_receives_and_who_sends() {
    let mut world = World::new(stage(), Limits::default());
    let peer = PeerId::parse("ann").expect("id");
    world.event(Event::Connected {
        session: SessionId(1),
        comer: Comer { role: Some(Role::new("speaker")), ..Comer::new(peer) },
    });
    let ann = world.transport(1, true);
    assert!(world.reply(1, join("ann")).is_ok());
    let bob = world.peer(2, "bob");
    world.produce(1, &ann, MediaKind::Audio);
    world.produce(1, &ann, MediaKind::Video);
    assert_eq!(world.asks.len(), 1, "audio only");
    let error = world.reply(2, produce(&bob, MediaKind::Audio, json!({}))).expect_err("refused");
    assert_eq!(error.code(), 403);
}

#[derive(Debug, Clone)]
enum Step {
    Connect(u64),
    Drop(usize),
    Join(usize),
    Transport(usize, bool, bool),
    Produce(usize, bool),
    CloseProducer(usize),
    PauseProducer(usize, bool),
    CloseTransport(usize),
    Answer(usize, bool),
    Work(usize),
    Fail,
    KillWorker(usize),
    Detach(usize),
    Attach(usize),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0_u64..6).prop_map(Step::Connect),
        1 => any::<usize>().prop_map(Step::Drop),
        4 => any::<usize>().prop_map(Step::Join),
        5 => (any::<usize>(), any::<bool>(), any::<bool>()).prop_map(|(s, p, c)| Step::Transport(s, p, c)),
        6 => (any::<usize>(), any::<bool>()).prop_map(|(s, v)| Step::Produce(s, v)),
        1 => any::<usize>().prop_map(Step::CloseProducer),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(p, on)| Step::PauseProducer(p, on)),
        1 => any::<usize>().prop_map(Step::CloseTransport),
        4 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(a, yes)| Step::Answer(a, yes)),
        12 => (1_usize..6).prop_map(Step::Work),
        1 => Just(Step::Fail),
        1 => any::<usize>().prop_map(Step::KillWorker),
        2 => any::<usize>().prop_map(Step::Detach),
        2 => any::<usize>().prop_map(Step::Attach),
        1 => (0_u64..10_000).prop_map(Step::Wait),
    ]
}

impl World {
    fn random(&mut self, step: Step, sessions: &mut Vec<u64>, last_session: &mut u64) {
        let pick = |all: &[u64], at: usize| (!all.is_empty()).then(|| all[at % all.len()]);
        match step {
            Step::Connect(peer) => {
                *last_session += 1;
                sessions.push(*last_session);
                self.connect(*last_session, &format!("peer{peer}"));
            }
            Step::Drop(at) => {
                if let Some(session) = pick(sessions, at) {
                    sessions.retain(|s| *s != session);
                    self.event(Event::Disconnected(SessionId(session)));
                }
            }
            Step::Join(at) => {
                if let Some(session) = pick(sessions, at) {
                    self.ask(session, join("x"));
                }
            }
            Step::Transport(at, producing, consuming) => {
                if let Some(session) = pick(sessions, at) {
                    self.ask(session, create(producing, consuming));
                }
            }
            Step::Produce(at, video) => {
                let Some(session) = pick(sessions, at) else { return };
                let Some(peer) = self.room.peers.get(&SessionId(session)) else { return };
                let Some(transport) = peer.transports.keys().next().cloned() else { return };
                let kind = if video { MediaKind::Video } else { MediaKind::Audio };
                self.ask(session, produce(&transport, kind, json!({})));
            }
            Step::CloseProducer(at) => {
                if let Some((id, owner)) = self.a_producer(at) {
                    self.ask(owner.0, Request::CloseProducer(id));
                }
            }
            Step::PauseProducer(at, on) => {
                if let Some((id, owner)) = self.a_producer(at) {
                    let message = if on { Request::PauseProducer(id) } else { Request::ResumeProducer(id) };
                    self.ask(owner.0, message);
                }
            }
            Step::CloseTransport(at) => {
                let all: Vec<_> = self.transports.iter().cloned().collect();
                if !all.is_empty() {
                    let id = &all[at % all.len()];
                    let closed = SiteEvent::TransportClosed(TransportId::new(id.as_str()));
                    self.site_event(self.at[id], closed);
                }
            }
            Step::Answer(at, accepted) => {
                if !self.asks.is_empty() {
                    let at = at % self.asks.len();
                    let (session, ask, ..) = self.asks.remove(at);
                    self.event(Event::Answered { session, ask, accepted });
                }
            }
            Step::Work(count) => (0..count).for_each(|_| {
                self.step();
            }),
            Step::Fail => {
                if let Some((op, what)) = self.work.pop_front() {
                    // Closing does not fail: a worker that does not close is a worker that died.
                    let closes = matches!(
                        what,
                        MediaOp::CloseTransport(_)
                            | MediaOp::CloseProducer(_)
                            | MediaOp::CloseConsumer(_)
                            | MediaOp::CloseDataProducer(_)
                            | MediaOp::CloseDataConsumer(_)
                            | MediaOp::CloseRouter
                    );
                    let result = if closes {
                        self.perform_at(self.work_at[&op], what)
                    } else {
                        Err(MediaFailure::Unavailable("injected".to_owned()))
                    };
                    self.event(Event::MediaDone { op, result });
                }
            }
            Step::KillWorker(at) => {
                let sites: Vec<_> = self.room.sites.keys().copied().collect();
                if !sites.is_empty() {
                    self.kill(sites[at % sites.len()]);
                }
            }
            Step::Detach(at) => {
                if let Some(session) = pick(sessions, at) {
                    self.event(Event::Detached(SessionId(session)));
                }
            }
            Step::Attach(at) => {
                if let Some(session) = pick(sessions, at) {
                    self.event(Event::Attached(SessionId(session)));
                }
            }
            Step::Wait(ms) => {
                self.now += Duration::from_millis(ms);
                self.event(Event::Timeout);
            }
        }
    }

    fn a_producer(&self, at: usize) -> Option<(ProducerId, SessionId)> {
        let count = self.room.producers.len();
        if count == 0 {
            return None;
        }
        self.room.producers.get_index(at % count).map(|(id, producer)| (id.clone(), producer.owner))
    }

    /// What must hold once no work is under way.
    fn check_settled(&self) {
        assert!(self.room.pending.is_empty());
        let held = self.room.held();
        assert_eq!(held.transports, self.transports.len(), "transports here and in the worker");
        assert_eq!(held.producers, self.producers.len());
        assert_eq!(held.consumers, self.consumers.len());
        let mut reached = BTreeSet::new();
        for (id, consumer) in &self.room.consumers {
            let producer = &self.room.producers[&consumer.producer];
            assert_ne!(producer.owner, consumer.receiver, "nobody receives himself");
            assert!(reached.insert((consumer.producer.clone(), consumer.receiver)), "twice");
            assert!(self.room.peers[&consumer.receiver].consumers.contains(id));
        }
        for (id, producer) in &self.room.producers {
            assert!(self.room.peers[&producer.owner].producers.contains(id));
            for (session, peer) in &self.room.peers {
                let able = peer.joined.is_some() && peer.receive_transport().is_some();
                let refused = matches!(producer.receivers.get(session), Some(Link::Refused));
                if able && *session != producer.owner && !refused {
                    assert!(reached.contains(&(id.clone(), *session)), "{id} does not reach {session:?}");
                }
            }
        }
        for peer in self.room.peers.values() {
            assert_eq!(
                (peer.producers_coming, peer.consumers_coming, peer.transports_coming.len()),
                (0, 0, 0)
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_happens_media_reaches_everyone_once_and_nothing_is_left_behind(
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let mut world = World::open();
        let (mut sessions, mut last_session) = (Vec::new(), 0);
        for step in steps {
            world.random(step, &mut sessions, &mut last_session);
        }
        world.settle();
        // What a worker did not make is asked for again, and now nothing fails.
        while let Some(at) = world.room.again.at {
            world.now = world.now.max(at);
            world.event(Event::Timeout);
            world.settle();
        }
        world.check_settled();
        for session in sessions {
            world.event(Event::Disconnected(SessionId(session)));
        }
        world.settle();
        world.check_settled();
        prop_assert_eq!(world.room.held(), Held::default());
        prop_assert!(world.transports.is_empty() && world.producers.is_empty() && world.consumers.is_empty());
        prop_assert!(world.room.poll_timeout().is_some());
        prop_assert!(world.room.sessions.is_empty());
    }
}

#[test]
fn a_consumer_that_a_worker_did_not_make_is_asked_for_again_later_and_later() {
    let mut world = World::open();
    let ann = world.peer(1, "ann");
    world.peer(2, "bob");
    world.ask(1, produce(&ann, MediaKind::Audio, json!({})));
    while !matches!(world.work.front(), Some((_, MediaOp::Consume { .. }))) {
        assert!(world.step(), "bob is to receive it");
    }
    let start = world.now;
    let mut tried = Vec::new();
    for _ in 0..8 {
        let (op, what) = world.work.pop_front().expect("tried");
        assert!(matches!(what, MediaOp::Consume { .. }), "{what:?}");
        tried.push((world.now - start).as_secs());
        let result = Err(MediaFailure::Unavailable("no answer".to_owned()));
        world.event(Event::MediaDone { op, result });
        assert!(world.work.is_empty(), "not at once");
        world.now = world.room.poll_timeout().expect("later");
        world.event(Event::Timeout);
    }
    assert_eq!(tried, [0, 1, 3, 7, 15, 31, 63, 95]);
    world.settle();
    assert_eq!((world.consumers.len(), world.asks.len(), world.room.again.at), (1, 1, None));
}

/// A broadcaster with a PlainTransport.
fn broadcaster(world: &mut World, session: u64, id: &str) -> TransportId {
    world.connect(session, id);
    let Request::Join { display_name, device, .. } = join(id) else { unreachable!() };
    let (rtp_capabilities, receives) = (None, Receives::OnRequest);
    let joining = Request::Join { display_name, device, rtp_capabilities, remote_address: None, receives };
    world.reply(session, joining).expect("joined");
    match world.reply(session, Request::CreatePlainTransport { rtcp_mux: false, comedia: true }) {
        Ok(Reply::PlainTransport(info)) => info.id,
        other => panic!("{other:?}"),
    }
}

fn consume(transport: &TransportId, producer: &ProducerId, paused: bool) -> Request {
    let (transport, producer) = (transport.clone(), producer.clone());
    Request::Consume { transport, producer, rtp_capabilities: Some(Arc::default()), paused }
}

#[test]
fn a_broadcaster_is_seen_and_received_but_offered_nothing() {
    let mut world = World::open();
    let ann = world.peer(1, "ann");
    world.told(1);
    world.produce(1, &ann, MediaKind::Audio);
    let plain = broadcaster(&mut world, 2, "camera");
    assert!(matches!(&world.told(1)[..], [Notification::NewPeer(info)] if info.id.as_str() == "camera"));
    assert!(world.asks.is_empty(), "it has no connection to be asked on");
    world.produce(2, &plain, MediaKind::Video);
    world.settle();
    assert_eq!(world.asks.len(), 1, "ann is offered its video");
    world.event(Event::Disconnected(SessionId(2)));
    world.settle();
    assert_eq!((world.transports.len(), world.producers.len()), (2, 1), "only ann's are left");
}

#[test]
fn a_broadcaster_gets_what_it_asks_for_once_and_flowing_unless_paused() {
    let mut world = World::open();
    let ann = world.peer(1, "ann");
    let (audio, video) = (world.produce(1, &ann, MediaKind::Audio), world.produce(1, &ann, MediaKind::Video));
    let plain = broadcaster(&mut world, 2, "recorder");
    let Ok(Reply::PeerProducers(peers)) = world.reply(2, Request::PeerProducers) else { panic!("no list") };
    assert_eq!((peers.len(), peers[0].producers.len()), (1, 2));
    let Ok(Reply::Consumed(first)) = world.reply(2, consume(&plain, &audio, false)) else { panic!("no") };
    let Ok(Reply::Consumed(second)) = world.reply(2, consume(&plain, &video, true)) else { panic!("no") };
    world.settle();
    let flowing = |world: &World, id: &ConsumerId| world.consumers[id.as_str()].2;
    assert!(flowing(&world, &first.id) && !flowing(&world, &second.id));
    assert_eq!(world.reply(2, consume(&plain, &audio, false)).map_err(|error| error.code()), Err(400));
    let ghost = ProducerId::new("ghost");
    assert_eq!(world.reply(2, consume(&plain, &ghost, false)).map_err(|error| error.code()), Err(404));
    // Who is offered things does not ask, and nobody asks on another's transport.
    assert_eq!(world.reply(1, consume(&ann, &audio, false)).map_err(|error| error.code()), Err(400));
    assert_eq!(world.reply(1, consume(&plain, &audio, false)).map_err(|error| error.code()), Err(404));
    world.reply(2, Request::ResumeConsumer(second.id.clone())).expect("resumed");
    assert!(flowing(&world, &second.id));
    world.event(Event::Disconnected(SessionId(1)));
    world.settle();
    assert!(world.consumers.is_empty());
    assert_eq!(world.room.held().consumers, 0);
}

#[test]
fn a_broadcaster_s_transports_are_limited() {
    let limits = Limits { transports_per_broadcaster: 2, ..Limits::default() };
    let mut world = World::new(RoomType::open(), limits);
    broadcaster(&mut world, 1, "camera");
    world.reply(1, create(true, true)).expect("the second");
    let third = world.reply(1, Request::CreatePlainTransport { rtcp_mux: true, comedia: false });
    assert_eq!(third.map_err(|error| error.code()), Err(429));
}
