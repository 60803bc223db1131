//! One room's task: the only one that touches the room's state. Takes what happens from three sides (sessions that
//! leave, sites that have done what they were told or have news, sessions that ask), hands each to the room, carries out its actions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use room::{Action, Event, Heard, Held, RequestId, Room, RoomError, RoomId, SessionId, SiteEvent, SiteId};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use crate::host::{Shared, lock};
use crate::resume::{NotResumed, Resumed};
use crate::seat::{Seat, Told};
use crate::session::{Control, FromClient, Inbox, OUTBOX, ToClient};
use crate::site::{SiteNews, SitesOfRoom};

pub(crate) struct RoomActor {
    room: Room,
    generation: u64,
    shared: Arc<Shared>,
    inbox: mpsc::Receiver<Inbox>,
    control: mpsc::UnboundedReceiver<Control>,
    held: Arc<Mutex<Held>>,
    seats: HashMap<SessionId, Seat>,
    /// The most messages that are kept for one client.
    kept: usize,
    sites: SitesOfRoom,
    news: mpsc::Receiver<(SiteId, SiteNews)>,
    ended: bool,
}

/// What woke the task.
enum Woken {
    Control(Option<Control>),
    News(Option<(SiteId, SiteNews)>),
    Inbox(Option<Inbox>),
    Timeout,
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
            ended: false,
        }
    }

    pub(crate) async fn run(mut self) {
        info!(room = %self.room.id(), "room opened");
        while !self.ended {
            let woken = self.wait().await;
            self.take(woken);
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
        let timeout = self.room.poll_timeout();
        let timer = async {
            match timeout {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        // In this order: what frees things comes before what asks for more.
        tokio::select! {
            biased;
            control = self.control.recv() => Woken::Control(control),
            news = self.news.recv() => Woken::News(news),
            message = self.inbox.recv() => Woken::Inbox(message),
            () = timer => Woken::Timeout,
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
            Woken::News(Some((_, SiteNews::Done { op, result }))) => {
                self.handle(Event::MediaDone { op, result });
            }
            Woken::News(Some((site, SiteNews::Event(what)))) => self.handle(Event::Site { site, what }),
            // The sites keep a sender for those to come, so this does not happen while the room lives.
            Woken::News(None) => {}
            Woken::Inbox(Some(message)) => self.message(message),
            Woken::Timeout => self.handle(Event::Timeout),
        }
    }

    fn message(&mut self, message: Inbox) {
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

    fn said(&mut self, session: SessionId, message: FromClient) {
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
            FromClient::Leave => {
                self.seats.remove(&session);
                self.handle(Event::Disconnected(session));
            }
        }
    }

    fn handle(&mut self, event: Event) {
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
                    metrics::counter!("tureen_room_events_total", "event" => counter.name()).increment(1);
                }
                Action::CloseRoom => self.ended = true,
            }
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
