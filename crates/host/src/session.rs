//! The two ends of a session within the server: what a gateway holds, and what a room's task holds.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use room::{
    AskId, Comer, Notification, PeerId, Reply, Request, RequestId, RoomError, ServerRequest, SessionId,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::moving::{Move, Moving};
use crate::resume::{NotResumed, Resumed};

/// Messages that wait for one client. A peer that joins a room of 500 is offered about a thousand consumers at
/// once; beyond four times that the client does not read, and its session is closed.
pub(crate) const OUTBOX: usize = 4096;

/// What the room says to a client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
        reason: Cow<'static, str>,
    },
    /// The session is over without a word of its room, which is on another node; nothing follows. Whoever serves the
    /// client looks for the room's owner anew.
    Lost(Loss),
    /// The room moves. Of no concern to clients: whoever carries the session between nodes sees to it.
    Move(Move),
}

/// How a session with a room on another node ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Loss {
    /// The node died, or the way to it broke.
    #[error("the node of the room cannot be reached any more")]
    Unreachable,
    /// The node is not the room's owner any more.
    #[error("another node has the room now")]
    Superseded,
}

/// What a room's task takes in, in order and with back pressure.
#[derive(Debug)]
pub(crate) enum Inbox {
    Connect {
        session: SessionId,
        comer: Comer,
        /// Which of the session's connections this is.
        attachment: u64,
        outbox: mpsc::Sender<ToClient>,
        /// For a client that can come back: its place, which it keeps while it is away.
        stays: Option<Arc<Permit>>,
        /// Dropped unanswered when the room is ending: connect again, to a new one.
        taken: oneshot::Sender<()>,
    },
    /// Another connection for a session, whose client has all messages up to `received`.
    Resume {
        session: SessionId,
        attachment: u64,
        received: u64,
        outbox: mpsc::Sender<ToClient>,
        taken: oneshot::Sender<Result<Resumed, NotResumed>>,
    },
    /// The connection of a session goes on that came here with its room.
    Attach {
        session: SessionId,
        peer: PeerId,
        attachment: u64,
        outbox: mpsc::Sender<ToClient>,
        taken: oneshot::Sender<Result<(), NotResumed>>,
    },
    Said {
        session: SessionId,
        attachment: u64,
        message: FromClient,
    },
}

/// A room is to be written down, and to stand still until it is known what becomes of it.
#[derive(Debug)]
pub(crate) struct HandOver {
    /// Its present term: the epoch, and whose.
    pub(crate) term: (u64, String),
    pub(crate) written: oneshot::Sender<Moving>,
    /// Dropped, the room stays.
    pub(crate) outcome: oneshot::Receiver<(u64, String)>,
}

/// What a room's task must hear of even when its inbox is full. At most one per session, and one shutdown.
#[derive(Debug)]
pub(crate) enum Control {
    /// The client leaves by this connection of the session.
    Leave(SessionId, u64),
    /// This connection of the session is gone, and its client may come back.
    Detach(SessionId, u64),
    Shutdown,
    HandOver(HandOver),
}

/// The room has ended the session; the reason is in its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the room has ended")]
pub struct SessionGone;

/// One client's connection to a room. Dropping it is leaving: everything that its peer held is freed. But the client that
/// can come back keeps its place for a while, unless it leaves by [`Session::leave`].
#[derive(Debug)]
pub struct Session {
    id: SessionId,
    way: Way,
}

/// Where a session's messages go.
#[derive(Debug)]
enum Way {
    /// To the room's task.
    Room {
        inbox: mpsc::Sender<Inbox>,
        control: mpsc::UnboundedSender<Control>,
        attachment: u64,
        /// Whether its client can come back.
        stays: bool,
        _permit: Option<Arc<Permit>>,
    },
    /// To whoever holds the [`FarEnd`].
    Far(mpsc::Sender<FromClient>),
}

/// What a client says to its room.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FromClient {
    /// See [`Session::request`].
    Request {
        /// The tag of the reply.
        request: RequestId,
        /// What.
        message: Request,
    },
    /// See [`Session::answer`].
    Answer {
        /// The question's tag.
        ask: AskId,
        /// Whether the client did as it was asked.
        accepted: bool,
    },
    /// The client has all messages up to this number.
    Received(u64),
    /// The client leaves, and will not come back to this session. Nothing follows.
    Leave,
    /// The answer to [`Move::Freeze`]: nothing follows until the room has moved, or stays.
    Held,
}

/// The other end of a session whose room is not in this process. Once it is dropped, the session says [`SessionGone`].
#[derive(Debug)]
pub struct FarEnd(mpsc::Receiver<FromClient>);

impl FarEnd {
    /// What the client says next; `None` when it has left.
    pub async fn recv(&mut self) -> Option<FromClient> {
        self.0.recv().await
    }
}

impl Session {
    pub(crate) fn new(
        id: SessionId,
        inbox: mpsc::Sender<Inbox>,
        control: mpsc::UnboundedSender<Control>,
        attachment: u64,
        stays: bool,
        permit: Option<Arc<Permit>>,
    ) -> Self {
        Self { id, way: Way::Room { inbox, control, attachment, stays, _permit: permit } }
    }

    /// A session whose messages are taken by somebody else than a room of this process. Whoever says more than `waiting`
    /// messages that are not taken waits.
    pub fn far(id: SessionId, waiting: usize) -> (Self, FarEnd) {
        let (near, far) = mpsc::channel(waiting);
        (Self { id, way: Way::Far(near) }, FarEnd(far))
    }

    /// The session's id, for logs.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Asks the room. The answer comes as [`ToClient::Reply`] with the same `request`. Waits while the room is busy.
    pub async fn request(&self, request: RequestId, message: Request) -> Result<(), SessionGone> {
        self.say(FromClient::Request { request, message }).await
    }

    /// Answers a [`ToClient::Ask`].
    pub async fn answer(&self, ask: AskId, accepted: bool) -> Result<(), SessionGone> {
        self.say(FromClient::Answer { ask, accepted }).await
    }

    /// Says what a client said elsewhere.
    pub async fn say(&self, message: FromClient) -> Result<(), SessionGone> {
        match &self.way {
            Way::Room { inbox, attachment, .. } => {
                let message = Inbox::Said { session: self.id, attachment: *attachment, message };
                inbox.send(message).await.map_err(|_| SessionGone)
            }
            Way::Far(far) => far.send(message).await.map_err(|_| SessionGone),
        }
    }

    /// Waits until there is room for one message.
    ///
    /// # Errors
    /// [`SessionGone`].
    pub async fn ready(&self) -> Result<Ready<'_>, SessionGone> {
        let place = match &self.way {
            Way::Room { inbox, attachment, .. } => {
                let place = inbox.reserve().await.map_err(|_| SessionGone)?;
                Place::Room { place, session: self.id, attachment: *attachment }
            }
            Way::Far(far) => Place::Far(far.reserve().await.map_err(|_| SessionGone)?),
        };
        Ok(Ready(place))
    }

    /// Leaves for good. The session's messages end when that is known.
    pub async fn leave(mut self) {
        match &mut self.way {
            // Said by dropping it.
            Way::Room { stays, .. } => *stays = false,
            Way::Far(far) => {
                let _ = far.send(FromClient::Leave).await;
            }
        }
    }

    /// Hands the room a connection of this session.
    pub(crate) async fn connect(&self, connect: Inbox) -> bool {
        match &self.way {
            Way::Room { inbox, .. } => inbox.send(connect).await.is_ok(),
            Way::Far(_) => false,
        }
    }
}

/// Room for one message of a session.
#[derive(Debug)]
pub struct Ready<'a>(Place<'a>);

#[derive(Debug)]
enum Place<'a> {
    Room { place: mpsc::Permit<'a, Inbox>, session: SessionId, attachment: u64 },
    Far(mpsc::Permit<'a, FromClient>),
}

impl Ready<'_> {
    /// Says it.
    pub fn say(self, message: FromClient) {
        match self.0 {
            Place::Room { place, session, attachment } => {
                place.send(Inbox::Said { session, attachment, message });
            }
            Place::Far(place) => place.send(message),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Way::Room { control, attachment, stays, .. } = &self.way {
            let end = match stays {
                true => Control::Detach(self.id, *attachment),
                false => Control::Leave(self.id, *attachment),
            };
            // A room that is gone has forgotten the session already.
            let _ = control.send(end);
        }
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
