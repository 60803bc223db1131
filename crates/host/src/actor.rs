//! One room's task: the only one that touches the room's state. Takes what happens from three sides (sessions that
//! leave, sites that have done what they were told or have news, sessions that ask), hands each to the room, carries out its actions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use room::{
    Action, Counter, Event, Heard, Held, RequestId, Room, RoomError, RoomId, SessionId, SiteEvent, SiteId,
    SnapshotError,
};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use crate::full;
use crate::host::{Shared, lock};
use crate::moving::{Key, Late, Written};
use crate::resume::{NotResumed, Resumed};
use crate::seat::{Seat, Told};
use crate::session::{Control, FromClient, Inbox, OUTBOX, Permit, ToClient};
use crate::site::{SiteNews, SitesOfRoom};

/// How long those who carry a room's sessions may take to follow it to this node: as long as they look for it.
const FOLLOW: Duration = Duration::from_secs(10);

pub(crate) struct RoomActor {
    pub(crate) room: Room,
    generation: u64,
    pub(crate) shared: Arc<Shared>,
    pub(crate) inbox: mpsc::Receiver<Inbox>,
    pub(crate) control: mpsc::UnboundedReceiver<Control>,
    held: Arc<Mutex<Held>>,
    pub(crate) seats: HashMap<SessionId, Seat>,
    /// The most messages that are kept for one client.
    kept: usize,
    pub(crate) sites: SitesOfRoom,
    pub(crate) news: mpsc::Receiver<(SiteId, SiteNews)>,
    /// Under which tokens of its sessions were made on other nodes.
    pub(crate) keys: Arc<Vec<Key>>,
    /// What happened on the way here.
    late: Vec<Late>,
    /// How long those who carry its sessions may take to follow it here.
    pub(crate) coming_until: Option<Instant>,
    pub(crate) ended: bool,
}

/// A room that came here from another node.
pub(crate) struct Arrival {
    pub(crate) written: Written,
    /// A place for each of its seats.
    pub(crate) permits: Vec<Arc<Permit>>,
    pub(crate) keys: Arc<Vec<Key>>,
    /// Under which it goes on: the epoch, and whose.
    pub(crate) term: (u64, String),
}

/// What woke the task.
enum Woken {
    Control(Option<Control>),
    News(Option<(SiteId, SiteNews)>),
    Inbox(Option<Inbox>),
    Timeout,
    NobodyComes,
}

impl RoomActor {
    pub(crate) fn new(
        id: RoomId,
        generation: u64,
        shared: Arc<Shared>,
        inbox: mpsc::Receiver<Inbox>,
        control: mpsc::UnboundedReceiver<Control>,
        held: Arc<Mutex<Held>>,
    ) -> Self {
        let settings = &shared.settings;
        let (sites, news) = SitesOfRoom::new(id.clone(), shared.sites.clone());
        let kept = settings.room_limits.resume_messages.min(OUTBOX);
        let (room_type, limits) = (settings.room_type.clone(), settings.room_limits.clone());
        let room = Room::new(id, room_type, limits, Instant::now());
        Self {
            room,
            generation,
            shared,
            inbox,
            control,
            held,
            seats: HashMap::new(),
            kept,
            sites,
            news,
            keys: Arc::default(),
            late: Vec::new(),
            coming_until: None,
            ended: false,
        }
    }

    /// Goes on with a room that came from another node.
    pub(crate) fn arrive(&mut self, arrival: Arrival) -> Result<(), SnapshotError> {
        let Arrival { written, permits, keys, term } = arrival;
        let Written { room, seats, late, keys: _, from } = written;
        let now = Instant::now();
        self.room = room.restore(self.shared.settings.room_limits.clone(), now)?;
        self.seats =
            seats.into_iter().zip(permits).map(|(seat, permit)| Seat::restored(seat, permit)).collect();
        (self.late, self.keys) = (late, keys);
        self.coming_until = now.checked_add(FOLLOW);
        self.adopt_sites(&from, (term.0, &term.1));
        *lock(&self.held) = self.room.held();
        Ok(())
    }

    pub(crate) async fn run(mut self) {
        info!(room = %self.room.id(), "room opened");
        for late in std::mem::take(&mut self.late) {
            self.happened(late);
        }
        while !self.ended {
            match self.wait().await {
                Woken::Control(Some(Control::HandOver(order))) => self.hand_over(order).await,
                woken => self.take(woken),
            }
        }
        self.shared.forget(self.room.id(), self.generation);
        self.inbox.close();
        // Whoever connects in this moment finds his `taken` dropped, and connects again to a new room.
        while self.inbox.recv().await.is_some() {}
        // The room's sites end when nobody drives them any more.
        drop(self.sites);
        info!(room = %self.room.id(), "room closed");
    }

    async fn wait(&mut self) -> Woken {
        // In this order: what frees things comes before what asks for more.
        tokio::select! {
            biased;
            control = self.control.recv() => Woken::Control(control),
            news = self.news.recv() => Woken::News(news),
            message = self.inbox.recv() => Woken::Inbox(message),
            () = at(self.room.poll_timeout()) => Woken::Timeout,
            () = at(self.coming_until) => Woken::NobodyComes,
        }
    }

    fn take(&mut self, woken: Woken) {
        match woken {
            Woken::Control(Some(Control::Leave(session, attachment))) => {
                // Who is back by another connection has not left.
                if self.seats.get(&session).is_none_or(|seat| seat.is_latest(attachment)) {
                    self.seats.remove(&session);
                    self.handle(Event::Disconnected(session));
                }
            }
            Woken::Control(Some(Control::Detach(session, attachment))) => {
                if self.seats.get_mut(&session).is_some_and(|seat| seat.detach(attachment)) {
                    self.handle(Event::Detached(session));
                }
            }
            // Without senders nobody can reach this room any more.
            Woken::Control(Some(Control::Shutdown) | None) | Woken::Inbox(None) => {
                self.handle(Event::Shutdown);
            }
            // The loop has taken it.
            Woken::Control(Some(Control::HandOver(_))) => {}
            Woken::News(Some((site, news))) => self.told(site, news),
            // The sites keep a sender for those to come, so this does not happen while the room lives.
            Woken::News(None) => {}
            Woken::Inbox(Some(message)) => self.message(message),
            Woken::Timeout => self.handle(Event::Timeout),
            Woken::NobodyComes => self.nobody_else_comes(),
        }
    }

    pub(crate) fn told(&mut self, site: SiteId, news: SiteNews) {
        match news {
            SiteNews::Done { op, result } => self.handle(Event::MediaDone { op, result }),
            SiteNews::Event(what) => self.handle(Event::Site { site, what }),
            // It was parked too late to move with the room, which has given it up.
            SiteNews::Parked => {}
        }
    }

    pub(crate) fn message(&mut self, message: Inbox) {
        match message {
            Inbox::Connect { session, comer, attachment, outbox, stays, taken } => {
                // Its Leave may have come already, if the client gave up while waiting.
                if outbox.is_closed() || taken.send(()).is_err() {
                    return;
                }
                debug!(room = %self.room.id(), peer = %comer.peer, session = session.0, "peer connected");
                self.seats.insert(session, Seat::new(attachment, outbox, stays, self.kept));
                self.handle(Event::Connected { session, comer });
            }
            Inbox::Resume { session, attachment, received, outbox, taken } => {
                if outbox.is_closed() {
                    return;
                }
                let resumed = self.resume(session, attachment, received, outbox);
                let is_back = resumed.is_ok();
                // Who gave up while waiting is away again: its Detach is on the way.
                let _ = taken.send(resumed);
                if is_back {
                    debug!(room = %self.room.id(), session = session.0, "session resumed");
                    self.handle(Event::Attached(session));
                }
            }
            Inbox::Attach { session, peer, attachment, outbox, taken } => {
                let is_its = self.room.peers().any(|(of, id)| of == session && *id == peer);
                let seat = self.seats.get_mut(&session).filter(|_| is_its && !outbox.is_closed());
                let result = seat.map_or(Err(NotResumed::Gone), |seat| seat.come(attachment, outbox));
                // Who gave up while waiting is away: its Leave or Detach is on the way.
                let _ = taken.send(result);
            }
            Inbox::Said { session, attachment, message } => {
                match self.seats.get(&session) {
                    Some(seat) if seat.is(attachment) => self.said(session, message),
                    // An older connection's last words: its client says them again on the new one.
                    _ => metrics::counter!("tureen_sessions_late_words_total").increment(1),
                }
            }
        }
    }

    fn resume(
        &mut self,
        session: SessionId,
        attachment: u64,
        received: u64,
        outbox: mpsc::Sender<ToClient>,
    ) -> Result<Resumed, NotResumed> {
        let asks = self.room.open_asks(session).ok_or(NotResumed::Gone)?;
        let seat = self.seats.get_mut(&session).ok_or(NotResumed::Gone)?;
        seat.attach(attachment, outbox, received)?;
        Ok(Resumed { joined: self.room.has_joined(session), asks })
    }

    pub(crate) fn said(&mut self, session: SessionId, message: FromClient) {
        let Some(seat) = self.seats.get_mut(&session) else { return };
        match message {
            FromClient::Request { request, message } => match seat.hear(request) {
                Heard::New => self.handle(Event::Request { session, request, message }),
                Heard::Repeated => metrics::counter!("tureen_sessions_repeated_requests_total").increment(1),
                Heard::TooMany => {
                    let what = "requests without an answer";
                    let error = RoomError::Limit { what: what.into(), limit: self.kept };
                    let reply = ToClient::Reply { request, result: Err(error) };
                    let mut events = Vec::new();
                    self.tell(session, Some(request), reply, &mut events);
                    events.into_iter().for_each(|event| self.handle(event));
                }
            },
            FromClient::Answer { ask, accepted } => self.handle(Event::Answered { session, ask, accepted }),
            FromClient::Received(up_to) => seat.received(up_to),
            // Too late: the room has left it behind, or moves no more.
            FromClient::Held => {}
            FromClient::Leave => {
                self.seats.remove(&session);
                self.handle(Event::Disconnected(session));
            }
        }
    }

    pub(crate) fn handle(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let actions = self.room.handle(event, Instant::now());
            self.carry_out(actions, &mut events);
        }
        *lock(&self.held) = self.room.held();
    }

    /// What it brings about at once is added to `events`.
    fn carry_out(&mut self, actions: Vec<Action>, events: &mut Vec<Event>) {
        for action in actions {
            match action {
                Action::Reply { session, request, result } => {
                    self.tell(session, Some(request), ToClient::Reply { request, result }, events);
                }
                Action::Notify { session, notification } => {
                    self.tell(session, None, ToClient::Notify(notification), events);
                }
                Action::Ask { session, ask, request } => {
                    self.tell(session, None, ToClient::Ask { ask, request }, events);
                }
                Action::CloseSession { session, code, reason } => {
                    let close = ToClient::Close { code, reason: reason.into() };
                    self.tell(session, None, close, events);
                    self.seats.remove(&session);
                }
                Action::Media { site, op, what } => {
                    if !self.sites.start(site, op, what) {
                        warn!(room = %self.room.id(), site = site.0, "a site does not keep up: its peers join again");
                        metrics::counter!("tureen_sites_too_slow_total").increment(1);
                        events.push(Event::Site { site, what: SiteEvent::Lost });
                    }
                }
                Action::Count(counter) => {
                    self.tell_operator(counter);
                    metrics::counter!("tureen_room_events_total", "event" => counter.name()).increment(1);
                }
                Action::CloseRoom => self.ended = true,
            }
        }
    }

    /// What is full and lets somebody in no more, or lets everybody's media suffer.
    fn tell_operator(&self, counter: Counter) {
        let room = self.room.id();
        match counter {
            Counter::RoomFull if full::ROOM.is_news(Instant::now()) => {
                warn!(%room, "full: the room takes no more peers; limits.room.peers_per_room says how many");
            }
            Counter::RouterOverLimit if full::ROUTERS.is_news(Instant::now()) => {
                warn!(
                    %room,
                    "full: peers are given a router that has what it is to bear; add a media node, or see limits.router"
                );
            }
            _ => {}
        }
    }

    /// Never waits: a client that leaves this many messages unread loses its session, not the room its pace.
    fn tell(
        &mut self,
        session: SessionId,
        answers: Option<RequestId>,
        message: ToClient,
        events: &mut Vec<Event>,
    ) {
        let Some(seat) = self.seats.get_mut(&session) else { return };
        if let Told::Full = seat.tell(answers, message) {
            metrics::counter!("tureen_sessions_too_slow_total").increment(1);
            self.seats.remove(&session);
            events.push(Event::Disconnected(session));
        }
    }
}

/// Comes at that time, or never.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}
