//! Everything outside a room: clients, and a media side that does its work when it is told to.

use super::*;
use crate::message::ServerRequest;

/// Everything outside the room: completes media work when told to, and remembers what it holds.
pub(super) struct World {
    pub(super) room: Room,
    pub(super) now: Instant,
    pub(super) work: VecDeque<(OpId, MediaOp)>,
    /// Where each piece of work was to be done, and where each object is.
    pub(super) work_at: BTreeMap<OpId, SiteId>,
    pub(super) at: BTreeMap<String, SiteId>,
    /// PipeTransports, and whether they are connected.
    pub(super) ends: BTreeMap<String, bool>,
    /// (Site, producer or data producer) that is piped there -> its PipeTransport.
    pub(super) copies: BTreeMap<(SiteId, String), String>,
    /// What feeds each copy of a producer that there ever was: what sends into the pipe.
    pub(super) fed_by: BTreeMap<(SiteId, String), String>,
    /// What sends into a pipe -> (its PipeTransport, what it sends).
    pub(super) senders: BTreeMap<String, (String, String)>,
    /// Where a site of this order is: node and region. Beyond the list all are one node.
    pub(super) places: Vec<(&'static str, &'static str)>,
    pub(super) next: u64,
    pub(super) transports: BTreeSet<String>,
    pub(super) producers: BTreeMap<String, String>,
    /// Consumer -> (its transport, its producer, resumed).
    pub(super) consumers: BTreeMap<String, (String, String, bool)>,
    pub(super) routers: usize,
    pub(super) asks: Vec<(SessionId, AskId, ConsumerId, PeerId)>,
    /// What each consumer that was offered takes the place of.
    pub(super) offered: BTreeMap<String, Option<ConsumerId>>,
    pub(super) data_asks: Vec<(SessionId, AskId, DataConsumerId, String)>,
    pub(super) data_producers: BTreeMap<String, String>,
    /// Data consumer -> (its transport, its data producer, resumed).
    pub(super) data_consumers: BTreeMap<String, (String, String, bool)>,
    pub(super) told: Vec<(SessionId, Notification)>,
    pub(super) replies: BTreeMap<RequestId, Result<Reply, RoomError>>,
    pub(super) closed: Vec<(SessionId, u16)>,
    pub(super) room_closed: bool,
    pub(super) refuse_consumers: bool,
    pub(super) requests: u64,
    pub(super) events: usize,
    /// The room moves to another node before each event of so many; 0: never.
    pub(super) moves_every: usize,
}

impl World {
    pub(super) fn new(room_type: RoomType, limits: Limits) -> Self {
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
            fed_by: BTreeMap::new(),
            senders: BTreeMap::new(),
            places: Vec::new(),
            next: 0,
            transports: BTreeSet::new(),
            producers: BTreeMap::new(),
            consumers: BTreeMap::new(),
            routers: 0,
            asks: Vec::new(),
            offered: BTreeMap::new(),
            data_asks: Vec::new(),
            data_producers: BTreeMap::new(),
            data_consumers: BTreeMap::new(),
            told: Vec::new(),
            replies: BTreeMap::new(),
            closed: Vec::new(),
            room_closed: false,
            refuse_consumers: false,
            requests: 0,
            events: 0,
            moves_every: 0,
        }
    }

    pub(super) fn open() -> Self {
        Self::new(RoomType::open(), Limits::default())
    }

    pub(super) fn event(&mut self, event: Event) {
        self.events += 1;
        let moves = self.moves_every > 0 && self.events.is_multiple_of(self.moves_every);
        let actions = if moves { self.move_with(event) } else { self.room.handle(event, self.now) };
        for action in actions {
            match action {
                Action::Reply { request, result, .. } => {
                    assert!(self.replies.insert(request, result).is_none(), "answered twice");
                }
                Action::Notify { session, notification } => self.told.push((session, notification)),
                Action::Ask { session, ask, request } => match request {
                    ServerRequest::NewConsumer { id, peer, replaces, .. } => {
                        self.offered.insert(id.to_string(), replaces);
                        self.asks.push((session, ask, id, peer));
                    }
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

    /// The room goes on elsewhere, by another clock, and does what it would have done here.
    fn move_with(&mut self, event: Event) -> Vec<Action> {
        let limits = self.room.limits.clone();
        let empty = Room::new(self.room.id.clone(), self.room.room_type.clone(), limits.clone(), self.now);
        let restore = |snapshot: Snapshot, now| snapshot.restore(limits.clone(), now).expect("this version");
        let read = |text: &str| serde_json::from_str::<Snapshot>(text).expect("what was written");
        let write = |room: Room, now| serde_json::to_string(&room.into_snapshot(now)).expect("plain data");
        let due = |room: &Room, now: Instant| room.poll_timeout().map(|at| at.saturating_duration_since(now));

        let snapshot = std::mem::replace(&mut self.room, empty).into_snapshot(self.now);
        let text = serde_json::to_string(&snapshot).expect("plain data");
        let mut stays = restore(snapshot, self.now);
        let elsewhere = self.now + Duration::from_secs(100_000);
        let mut moved = restore(read(&text), elsewhere);
        let (here, there) = (stays.handle(event.clone(), self.now), moved.handle(event, elsewhere));
        assert_eq!(here, there);
        assert_eq!(due(&stays, self.now), due(&moved, elsewhere));
        let moved = write(moved, elsewhere);
        assert_eq!(write(stays, self.now), moved);
        self.room = restore(read(&moved), self.now);
        there
    }

    pub(super) fn step(&mut self) -> bool {
        let Some((op, what)) = self.work.pop_front() else { return false };
        let result = self.perform_at(self.work_at[&op], what);
        self.event(Event::MediaDone { op, result });
        true
    }

    /// The oldest work of one of the sites that have some: between sites there is no order.
    pub(super) fn step_at(&mut self, site: usize) -> bool {
        let sites: BTreeSet<_> = self.work.iter().map(|(op, _)| self.work_at[op]).collect();
        let Some(site) = sites.iter().nth(site % sites.len().max(1)).copied() else { return false };
        let at = self.work.iter().position(|(op, _)| self.work_at[op] == site).expect("just seen");
        let (op, what) = self.work.remove(at).expect("just found");
        let result = self.perform_at(site, what);
        self.event(Event::MediaDone { op, result });
        true
    }

    /// Work is done until such work waits at a site.
    pub(super) fn step_until(&mut self, site: SiteId, is: impl Fn(&MediaOp) -> bool) {
        while !self.work.iter().any(|(op, what)| is(what) && self.work_at[op] == site) {
            assert!(self.step(), "it does not come to that");
        }
    }

    /// The worker of this site dies.
    pub(super) fn kill(&mut self, site: SiteId) {
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

    pub(super) fn site_event(&mut self, site: SiteId, what: SiteEvent) {
        self.event(Event::Site { site, what });
    }

    /// The room's only site.
    pub(super) fn home(&self) -> SiteId {
        assert_eq!(self.room.sites.len(), 1);
        *self.room.sites.keys().next().expect("one")
    }

    /// Something at the home that is there alone.
    pub(super) fn tell(&mut self, what: SiteEvent) {
        let home = self.home();
        self.site_event(home, what);
    }

    pub(super) fn settle(&mut self) {
        while self.step() {}
    }

    pub(super) fn name(&mut self, prefix: &str) -> String {
        self.next += 1;
        format!("{prefix}{}", self.next)
    }

    pub(super) fn connect(&mut self, session: u64, peer: &str) {
        self.connect_with(session, peer, None);
    }

    pub(super) fn connect_with(&mut self, session: u64, peer: &str, key: Option<PeerKey>) {
        let peer = PeerId::parse(peer).expect("id");
        self.event(Event::Connected {
            session: SessionId(session),
            comer: Comer { key, ..Comer::new(peer) },
        });
    }

    pub(super) fn all_leave(&mut self, sessions: Vec<u64>) {
        for session in sessions {
            self.event(Event::Disconnected(SessionId(session)));
        }
    }

    pub(super) fn connect_from(&mut self, session: u64, peer: &str, region: Option<&str>) {
        let peer = PeerId::parse(peer).expect("id");
        let region = region.map(Region::new);
        self.event(Event::Connected {
            session: SessionId(session),
            comer: Comer { region, ..Comer::new(peer) },
        });
    }

    pub(super) fn ask(&mut self, session: u64, message: Request) -> RequestId {
        self.requests += 1;
        let request = RequestId(self.requests);
        self.event(Event::Request { session: SessionId(session), request, message });
        request
    }

    /// Asks, lets all work end, and returns the answer.
    pub(super) fn reply(&mut self, session: u64, message: Request) -> Result<Reply, RoomError> {
        let request = self.ask(session, message);
        self.settle();
        self.replies.remove(&request).expect("answered")
    }

    pub(super) fn transport(&mut self, session: u64, producing: bool) -> TransportId {
        let message = create(producing, !producing);
        match self.reply(session, message) {
            Ok(Reply::Transport(info)) => info.id,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn produce(&mut self, session: u64, transport: &TransportId, kind: MediaKind) -> ProducerId {
        match self.reply(session, produce(transport, kind, json!({}))) {
            Ok(Reply::Produced(id)) => id,
            other => panic!("{other:?}"),
        }
    }

    /// The first peer produces; the work stops where a consumer is to be made.
    pub(super) fn produce_until_consume(&mut self, transport: &TransportId) -> (OpId, MediaOp) {
        self.ask(1, produce(transport, MediaKind::Audio, json!({})));
        while !matches!(self.work.front(), Some((_, MediaOp::Consume { .. }))) {
            assert!(self.step(), "nobody consumes");
        }
        self.work.pop_front().expect("just seen")
    }

    /// A peer that is connected, joined, and can receive and send.
    pub(super) fn peer(&mut self, session: u64, name: &str) -> TransportId {
        self.connect(session, name);
        let send = self.transport(session, true);
        self.transport(session, false);
        assert!(self.reply(session, join(name)).is_ok());
        send
    }

    pub(super) fn accept_all(&mut self) {
        for (session, ask, ..) in std::mem::take(&mut self.asks) {
            self.event(Event::Answered { session, ask, accepted: true });
            self.settle();
        }
    }

    pub(super) fn told(&mut self, session: u64) -> Vec<Notification> {
        let (mine, others) =
            std::mem::take(&mut self.told).into_iter().partition(|(to, _)| *to == SessionId(session));
        self.told = others;
        let mine: Vec<(SessionId, Notification)> = mine;
        mine.into_iter().map(|(_, notification)| notification).collect()
    }
}
