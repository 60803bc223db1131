//! The two ends of a session within the server: what a gateway holds, and what a room's task holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use room::{
    AskId, Notification, PeerId, Reply, Request, RequestId, Role, RoomError, ServerRequest, SessionId,
};
use tokio::sync::{mpsc, oneshot};

/// Messages that wait for one client. A peer that joins a room of 500 is offered about a thousand consumers at
/// once; beyond four times that the client does not read, and its session is closed.
pub(crate) const OUTBOX: usize = 4096;

/// What the room says to a client.
#[derive(Debug, Clone, PartialEq)]
pub enum ToClient {
    /// The answer to its request.
    Reply {
        /// Which.
        request: RequestId,
        /// What.
        result: Result<Reply, RoomError>,
    },
    /// News.
    Notify(Notification),
    /// A question; answer it with [`Session::answer`].
    Ask {
        /// The tag of the answer.
        ask: AskId,
        /// What.
        request: ServerRequest,
    },
    /// The session is over; nothing follows.
    Close {
        /// See [`room::close_code`].
        code: u16,
        /// For people.
        reason: &'static str,
    },
}

/// What a room's task takes in, in order and with back pressure.
#[derive(Debug)]
pub(crate) enum Inbox {
    Connect {
        session: SessionId,
        peer: PeerId,
        role: Option<Role>,
        outbox: mpsc::Sender<ToClient>,
        /// Dropped unanswered when the room is ending: connect again, to a new one.
        taken: oneshot::Sender<()>,
    },
    Request {
        session: SessionId,
        request: RequestId,
        message: Request,
    },
    Answer {
        session: SessionId,
        ask: AskId,
        accepted: bool,
    },
}

/// What a room's task must hear of even when its inbox is full. At most one per session, and one shutdown.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Control {
    Leave(SessionId),
    Shutdown,
}

/// The room has ended the session; the reason is in its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the room has ended")]
pub struct SessionGone;

/// One client's place in a room. Dropping it is leaving: everything that its peer held is freed.
#[derive(Debug)]
pub struct Session {
    pub(crate) id: SessionId,
    pub(crate) inbox: mpsc::Sender<Inbox>,
    pub(crate) control: mpsc::UnboundedSender<Control>,
    pub(crate) _permit: Permit,
}

impl Session {
    /// The session's id, for logs.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Asks the room. The answer comes as [`ToClient::Reply`] with the same `request`. Waits while the room is busy.
    pub async fn request(&self, request: RequestId, message: Request) -> Result<(), SessionGone> {
        let message = Inbox::Request { session: self.id, request, message };
        self.inbox.send(message).await.map_err(|_| SessionGone)
    }

    /// Answers a [`ToClient::Ask`].
    pub async fn answer(&self, ask: AskId, accepted: bool) -> Result<(), SessionGone> {
        let message = Inbox::Answer { session: self.id, ask, accepted };
        self.inbox.send(message).await.map_err(|_| SessionGone)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // A room that is gone has forgotten the session already.
        let _ = self.control.send(Control::Leave(self.id));
    }
}

/// One of a limited number of places.
#[derive(Debug)]
pub(crate) struct Permit(Arc<AtomicUsize>);

impl Permit {
    pub(crate) fn take(places: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        places
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |taken| (taken < limit).then_some(taken + 1))
            .ok()
            .map(|_| Self(places.clone()))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
