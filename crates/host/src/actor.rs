//! One room's task: the only one that touches the room's state. Takes what happens from three sides (sessions that
//! leave, sites that have done what they were told or have news, sessions that ask), hands each to the room, carries out its actions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use room::{Action, Event, Held, Room, RoomId, SessionId, SiteEvent, SiteId};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use crate::host::{Shared, lock};
use crate::session::{Control, FromClient, Inbox, ToClient};
use crate::site::{SiteNews, SitesOfRoom};

pub(crate) struct RoomActor {
    room: Room,
    generation: u64,
    shared: Arc<Shared>,
    inbox: mpsc::Receiver<Inbox>,
    control: mpsc::UnboundedReceiver<Control>,
    held: Arc<Mutex<Held>>,
    outboxes: HashMap<SessionId, mpsc::Sender<ToClient>>,
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
        let (room_type, limits) = (settings.room_type.clone(), settings.room_limits.clone());
        let room = Room::new(id, room_type, limits, Instant::now());
        Self {
            room,
            generation,
            shared,
            inbox,
            control,
            held,
            outboxes: HashMap::new(),
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
            Woken::Control(Some(Control::Leave(session))) => {
                self.outboxes.remove(&session);
                self.handle(Event::Disconnected(session));
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
            Inbox::Connect { session, comer, outbox, taken } => {
                // Its Leave may have come already, if the client gave up while waiting.
                if outbox.is_closed() || taken.send(()).is_err() {
                    return;
                }
                debug!(room = %self.room.id(), peer = %comer.peer, session = session.0, "peer connected");
                self.outboxes.insert(session, outbox);
                self.handle(Event::Connected { session, comer });
            }
            Inbox::Said { session, message: FromClient::Request { request, message } } => {
                self.handle(Event::Request { session, request, message });
            }
            Inbox::Said { session, message: FromClient::Answer { ask, accepted } } => {
                self.handle(Event::Answered { session, ask, accepted });
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
                    self.tell(session, ToClient::Reply { request, result }, events);
                }
                Action::Notify { session, notification } => {
                    self.tell(session, ToClient::Notify(notification), events);
                }
                Action::Ask { session, ask, request } => {
                    self.tell(session, ToClient::Ask { ask, request }, events);
                }
                Action::CloseSession { session, code, reason } => {
                    self.tell(session, ToClient::Close { code, reason: reason.into() }, events);
                    self.outboxes.remove(&session);
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
    fn tell(&mut self, session: SessionId, message: ToClient, events: &mut Vec<Event>) {
        let Some(outbox) = self.outboxes.get(&session) else { return };
        match outbox.try_send(message) {
            Ok(()) => {}
            // Its Leave is on the way.
            Err(mpsc::error::TrySendError::Closed(_)) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                metrics::counter!("tureen_sessions_too_slow_total").increment(1);
                self.outboxes.remove(&session);
                events.push(Event::Disconnected(session));
            }
        }
    }
}
