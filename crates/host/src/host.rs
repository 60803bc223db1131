//! All rooms of this node: opened by the first who connects, ended by themselves.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use media::WorkerPool;
use room::{Comer, Held, Limits, PeerId, Place, RoomId, RoomType, SessionId};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::actor::RoomActor;
use crate::media_side::MediaSettings;
use crate::resume::{NotResumed, Passes, Resumed};
use crate::session::{Control, Inbox, OUTBOX, Permit, Session, ToClient};
use crate::site::{LocalSites, Sites};

/// Messages that wait for one room. Senders wait when it is full, each holding at most one message.
const INBOX: usize = 256;
/// How often a connection is tried when rooms end under its hands. Each needs a room to end in that very moment.
const CONNECT_ATTEMPTS: usize = 5;

/// How many of what a host takes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostLimits {
    /// Rooms open at once.
    pub rooms: usize,
    /// Sessions at once, over all rooms.
    pub sessions: usize,
}

/// How a host runs its rooms.
#[derive(Debug, Clone)]
pub struct HostSettings {
    /// The type of every room.
    pub room_type: Arc<RoomType>,
    /// The limits of every room.
    pub room_limits: Arc<Limits>,
    /// The limits of all rooms together.
    pub limits: HostLimits,
    /// What routers and transports are like.
    pub media: MediaSettings,
    /// Who is told of rooms that have ended.
    pub ended: Option<mpsc::UnboundedSender<RoomId>>,
}

/// Sums over all rooms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Open rooms.
    pub rooms: usize,
    /// Sessions, in rooms or on the way in.
    pub sessions: usize,
    /// What the rooms hold.
    pub held: Held,
}

/// Why a client was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ConnectError {
    /// The server's limit of sessions.
    #[error("this server has its limit of {0} sessions: try again later")]
    Sessions(usize),
    /// The server's limit of rooms.
    #[error("this server has its limit of {0} rooms: try again later, or join an existing one")]
    Rooms(usize),
    /// The server is on its way down.
    #[error("this server is shutting down")]
    ShuttingDown,
    /// The room ended again and again.
    #[error("the room is busy ending: try again")]
    Busy,
}

/// The rooms of this node. Clones share them.
#[derive(Debug, Clone)]
pub struct Host(Arc<Shared>);

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) settings: HostSettings,
    pub(crate) sites: Arc<dyn Sites>,
    rooms: Mutex<HashMap<RoomId, Entry>>,
    tasks: Mutex<JoinSet<()>>,
    sessions: Arc<AtomicUsize>,
    last_session: AtomicU64,
    last_generation: AtomicU64,
    last_attachment: AtomicU64,
    passes: Passes,
    closing: AtomicBool,
}

#[derive(Debug, Clone)]
struct Entry {
    generation: u64,
    inbox: mpsc::Sender<Inbox>,
    control: mpsc::UnboundedSender<Control>,
    held: Arc<Mutex<Held>>,
}

impl Host {
    /// A host without rooms, on these workers. Must be called within a tokio runtime.
    pub fn new(pool: WorkerPool, settings: HostSettings) -> Self {
        let sites = LocalSites::new(pool, settings.media.clone(), Place::default());
        Self::with_sites(Arc::new(sites), settings)
    }

    /// As [`Host::new`], its rooms at sites that are opened by `sites`.
    pub fn with_sites(sites: Arc<dyn Sites>, settings: HostSettings) -> Self {
        Self(Arc::new(Shared {
            settings,
            sites,
            rooms: Mutex::default(),
            tasks: Mutex::default(),
            sessions: Arc::default(),
            last_session: AtomicU64::new(0),
            last_generation: AtomicU64::new(0),
            last_attachment: AtomicU64::new(0),
            passes: Passes::new(),
            closing: AtomicBool::new(false),
        }))
    }

    /// Opens a session in a room, and the room if it is not there. The receiver is what the client is to be told,
    /// in order; when it ends without [`ToClient::Close`], the client did not read fast enough.
    pub async fn connect(
        &self,
        room: RoomId,
        comer: Comer,
    ) -> Result<(Session, mpsc::Receiver<ToClient>), ConnectError> {
        self.open(room, comer, false).await
    }

    /// The same for a client that can come back to its session with [`Self::resume`] when its connection breaks.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn enter(
        &self,
        room: RoomId,
        comer: Comer,
    ) -> Result<(Session, mpsc::Receiver<ToClient>), ConnectError> {
        self.open(room, comer, true).await
    }

    async fn open(
        &self,
        room: RoomId,
        comer: Comer,
        stays: bool,
    ) -> Result<(Session, mpsc::Receiver<ToClient>), ConnectError> {
        let limit = self.0.settings.limits.sessions;
        let take =
            || Permit::take(&self.0.sessions, limit).map(Arc::new).ok_or(ConnectError::Sessions(limit));
        let mut permit = take()?;
        for _ in 0..CONNECT_ATTEMPTS {
            let entry = self.entry(&room)?;
            let id = SessionId(self.0.last_session.fetch_add(1, Ordering::Relaxed) + 1);
            // From here on the session leaves by being dropped, whatever happens to this future.
            let attachment = self.attachment();
            let place = Some(permit.clone());
            let session = Session::new(id, entry.inbox, entry.control, attachment, stays, place);
            let (outbox, messages) = mpsc::channel(OUTBOX);
            let (taken, answer) = oneshot::channel();
            let connect = Inbox::Connect {
                session: id,
                comer: comer.clone(),
                attachment,
                outbox,
                stays: stays.then_some(permit),
                taken,
            };
            if session.connect(connect).await && answer.await.is_ok() {
                return Ok((session, messages));
            }
            drop(session);
            permit = take()?;
        }
        Err(ConnectError::Busy)
    }

    /// The token by which a client can have its session back; `term` is the epoch of the room's lease and its node's name.
    /// `None` where that cannot be.
    pub fn resume_token(
        &self,
        room: RoomId,
        peer: PeerId,
        session: SessionId,
        term: (u64, String),
    ) -> Option<String> {
        self.0.passes.sign(room, peer, session, term)
    }

    /// Gives a client its session back that has all messages up to `received`, and shows the token that it was given under
    /// this term. The receiver goes on where the client was.
    ///
    /// # Errors
    /// [`NotResumed`]; nothing has changed.
    pub async fn resume(
        &self,
        room: &RoomId,
        peer: &PeerId,
        token: &str,
        term: (u64, &str),
        received: u64,
    ) -> Result<(Session, mpsc::Receiver<ToClient>, Resumed), NotResumed> {
        let claims = self.0.passes.read(token)?;
        if claims.room != *room {
            return Err(NotResumed::OtherRoom);
        }
        if claims.peer != *peer {
            return Err(NotResumed::OtherPeer);
        }
        if (claims.epoch, claims.node.as_str()) != term {
            return Err(NotResumed::StaleTerm);
        }
        let entry = lock(&self.0.rooms).get(room).cloned().ok_or(NotResumed::Gone)?;
        let (id, attachment) = (claims.session, self.attachment());
        // From here on the client is away again by the session's being dropped, whatever happens to this future.
        let session = Session::new(id, entry.inbox, entry.control, attachment, true, None);
        let (outbox, messages) = mpsc::channel(OUTBOX);
        let (taken, answer) = oneshot::channel();
        let resume = Inbox::Resume { session: id, attachment, received, outbox, taken };
        if !session.connect(resume).await {
            return Err(NotResumed::Gone);
        }
        let resumed = answer.await.unwrap_or(Err(NotResumed::Gone))?;
        Ok((session, messages, resumed))
    }

    fn attachment(&self) -> u64 {
        self.0.last_attachment.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    /// Whether this room is open here.
    pub fn has(&self, room: &RoomId) -> bool {
        lock(&self.0.rooms).get(room).is_some_and(|entry| !entry.inbox.is_closed())
    }

    /// Ends a room: its clients are told to come back, wherever it is then.
    pub fn close(&self, room: &RoomId) {
        if let Some(entry) = lock(&self.0.rooms).get(room) {
            let _ = entry.control.send(Control::Shutdown);
        }
    }

    /// Sums over all rooms, for metrics.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals { sessions: self.0.sessions.load(Ordering::Acquire), ..Totals::default() };
        for entry in lock(&self.0.rooms).values() {
            let held = *lock(&entry.held);
            totals.rooms += 1;
            totals.held.peers += held.peers;
            totals.held.joined += held.joined;
            totals.held.transports += held.transports;
            totals.held.producers += held.producers;
            totals.held.consumers += held.consumers;
            totals.held.deferred += held.deferred;
            totals.held.further_sites += held.further_sites;
            totals.held.pipes += held.pipes;
            totals.held.piped += held.piped;
        }
        totals
    }

    /// Sends every client away, closes every room, and waits for that at most `deadline`. Whether all ended in time.
    pub async fn shutdown(&self, deadline: Duration) -> bool {
        self.0.closing.store(true, Ordering::Release);
        for entry in lock(&self.0.rooms).values() {
            let _ = entry.control.send(Control::Shutdown);
        }
        let mut tasks = std::mem::take(&mut *lock(&self.0.tasks));
        let all = async { while tasks.join_next().await.is_some() {} };
        tokio::time::timeout(deadline, all).await.is_ok()
    }

    fn entry(&self, room: &RoomId) -> Result<Entry, ConnectError> {
        let mut rooms = lock(&self.0.rooms);
        if let Some(entry) = rooms.get(room)
            && !entry.inbox.is_closed()
        {
            return Ok(entry.clone());
        }
        // Read under the lock that shutdown takes next, so that no room opens behind its back.
        if self.0.closing.load(Ordering::Acquire) {
            return Err(ConnectError::ShuttingDown);
        }
        let limit = self.0.settings.limits.rooms;
        if rooms.len() >= limit && !rooms.contains_key(room) {
            return Err(ConnectError::Rooms(limit));
        }
        let generation = self.0.last_generation.fetch_add(1, Ordering::Relaxed) + 1;
        let (inbox, inbox_end) = mpsc::channel(INBOX);
        let (control, control_end) = mpsc::unbounded_channel();
        let held = Arc::new(Mutex::new(Held::default()));
        let actor =
            RoomActor::new(room.clone(), generation, self.0.clone(), inbox_end, control_end, held.clone());
        let mut tasks = lock(&self.0.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(actor.run());
        let entry = Entry { generation, inbox, control, held };
        rooms.insert(room.clone(), entry.clone());
        Ok(entry)
    }
}

impl Shared {
    /// A room's last act before its inbox closes.
    pub(crate) fn forget(&self, room: &RoomId, generation: u64) {
        let mut rooms = lock(&self.rooms);
        if rooms.get(room).is_some_and(|entry| entry.generation == generation) {
            rooms.remove(room);
            if let Some(ended) = &self.settings.ended {
                let _ = ended.send(room.clone());
            }
        }
    }
}

/// These locks guard plain maps and counts, valid at every instruction: a panic elsewhere does not spoil them.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
