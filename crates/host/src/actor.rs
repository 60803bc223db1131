//! One room's task: the only one that touches the room's state. Takes what happens from four sides (sessions that
//! leave, media work that ended, worker events, sessions that ask), hands each to the room, carries out its actions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use media::{EventReceiver, MediaEvent};
use room::{Action, Event, Held, Room, RoomId, SessionId};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use crate::host::{Shared, lock};
use crate::media_side::{Finished, MediaSide, Work};
use crate::session::{Control, FromClient, Inbox, ToClient};

pub(crate) struct RoomActor {
    room: Room,
    generation: u64,
    shared: Arc<Shared>,
    inbox: mpsc::Receiver<Inbox>,
    control: mpsc::UnboundedReceiver<Control>,
    held: Arc<Mutex<Held>>,
    outboxes: HashMap<SessionId, mpsc::Sender<ToClient>>,
    media: MediaSide,
    media_events: EventReceiver,
    /// Polled in the order of the room's actions, so that requests reach the worker in that order.
    work: FuturesUnordered<Work>,
    ended: bool,
}

/// What woke the task.
enum Woken {
    Control(Option<Control>),
    Finished(Finished),
    Media(Option<MediaEvent>),
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
        let (media, media_events) = MediaSide::new(shared.pool.clone(), settings.media.clone());
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
            media,
            media_events,
            work: FuturesUnordered::new(),
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
        self.media.close();
        // Work under way ends at once, because its router is closed; what it would have created is closed with it.
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
            Some(finished) = self.work.next(), if !self.work.is_empty() => Woken::Finished(finished),
            event = self.media_events.recv() => Woken::Media(event),
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
            Woken::Finished(finished) => {
                if let Some(event) = self.media.finish(finished) {
                    self.handle(event);
                }
            }
            Woken::Media(Some(event)) => {
                if let Some(event) = self.media.translate(event) {
                    self.handle(event);
                }
            }
            // The media side keeps a sender of its own, so this does not happen while the room lives.
            Woken::Media(None) => {}
            Woken::Inbox(Some(message)) => self.message(message),
            Woken::Timeout => self.handle(Event::Timeout),
        }
    }

    fn message(&mut self, message: Inbox) {
        match message {
            Inbox::Connect { session, peer, role, key, outbox, taken } => {
                // Its Leave may have come already, if the client gave up while waiting.
                if outbox.is_closed() || taken.send(()).is_err() {
                    return;
                }
                debug!(room = %self.room.id(), %peer, session = session.0, "peer connected");
                self.outboxes.insert(session, outbox);
                self.handle(Event::Connected { session, peer, role, key });
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
        if matches!(event, Event::RouterLost) {
            warn!(room = %self.room.id(), "the room's worker died: re-homing the room, clients join again");
        }
        let mut too_slow = Vec::new();
        let actions = self.room.handle(event, Instant::now());
        self.carry_out(actions, &mut too_slow);
        while let Some(session) = too_slow.pop() {
            let actions = self.room.handle(Event::Disconnected(session), Instant::now());
            self.carry_out(actions, &mut too_slow);
        }
        *lock(&self.held) = self.room.held();
    }

    fn carry_out(&mut self, actions: Vec<Action>, too_slow: &mut Vec<SessionId>) {
        for action in actions {
            match action {
                Action::Reply { session, request, result } => {
                    self.tell(session, ToClient::Reply { request, result }, too_slow);
                }
                Action::Notify { session, notification } => {
                    self.tell(session, ToClient::Notify(notification), too_slow);
                }
                Action::Ask { session, ask, request } => {
                    self.tell(session, ToClient::Ask { ask, request }, too_slow);
                }
                Action::CloseSession { session, code, reason } => {
                    self.tell(session, ToClient::Close { code, reason: reason.into() }, too_slow);
                    self.outboxes.remove(&session);
                }
                Action::Media { op, what } => {
                    let work = self.media.start(op, what);
                    self.work.push(work);
                }
                Action::Count(counter) => {
                    metrics::counter!("tureen_room_events_total", "event" => counter.name()).increment(1);
                }
                Action::CloseRoom => self.ended = true,
            }
        }
    }

    /// Never waits: a client that leaves this many messages unread loses its session, not the room its pace.
    fn tell(&mut self, session: SessionId, message: ToClient, too_slow: &mut Vec<SessionId>) {
        let Some(outbox) = self.outboxes.get(&session) else { return };
        match outbox.try_send(message) {
            Ok(()) => {}
            // Its Leave is on the way.
            Err(mpsc::error::TrySendError::Closed(_)) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                metrics::counter!("tureen_sessions_too_slow_total").increment(1);
                self.outboxes.remove(&session);
                too_slow.push(session);
            }
        }
    }
}
