//! All rooms of this node: opened by the first who connects, ended by themselves.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use media::WorkerPool;
use room::{Comer, Held, Limits, PeerId, Place, RoomId, RoomType, SessionId};
use serde::{Deserialize, Serialize};
use token::ResumeClaims;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tracing::warn;

use crate::actor::{Arrival, RoomActor};
use crate::full;
use crate::media_side::MediaSettings;
use crate::moving::{Key, Moving, NotRestored, Written};
use crate::resume::{NotResumed, Passes, Resumed};
use crate::session::{Control, HandOver, Inbox, OUTBOX, Permit, Session, ToClient};
use crate::site::{LocalSites, Sites};

/// Messages that wait for one room. Senders wait when it is full, each holding at most one message.
const INBOX: usize = 256;
/// How often a connection is tried when rooms end under its hands. Each needs a room to end in that very moment.
const CONNECT_ATTEMPTS: usize = 5;
/// Nodes that a room has been at whose tokens are good: the latest.
const MAX_KEYS: usize = 8;

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
    /// Under which tokens of its sessions were made on other nodes.
    keys: Arc<Vec<Key>>,
}

/// A room of this host that stands still and is written down, until it is known whether another node has taken it up. Dropped,
/// it goes on here.
#[derive(Debug)]
pub struct Handing {
    /// What the other node is given.
    pub moving: Moving,
    outcome: oneshot::Sender<(u64, String)>,
}

impl Handing {
    /// It goes on at that node, under this epoch: here it ends, without a word to its clients.
    pub fn moved(self, epoch: u64, node: String) {
        // A room that did not wait so long goes on, and is ended by whoever sees the higher term.
        let _ = self.outcome.send((epoch, node));
    }
}

/// A room from another node, read, with a place for it.
#[derive(Debug)]
pub struct Prepared {
    written: Written,
    permits: Vec<Arc<Permit>>,
}

impl Prepared {
    /// Which room it is.
    pub fn room(&self) -> &RoomId {
        self.written.room.room()
    }
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
        let take = || {
            let permit = Permit::take(&self.0.sessions, limit).map(Arc::new);
            if permit.is_none() && full::SESSIONS.is_news(Instant::now()) {
                warn!(
                    limit,
                    "full: this node takes no more sessions; limits.sessions says how many, or add a node"
                );
            }
            permit.ok_or(ConnectError::Sessions(limit))
        };
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
        let entry = lock(&self.0.rooms).get(room).cloned();
        // One that was made before the room came here is good under the key that came with it.
        let own = self.0.passes.read(token).and_then(|claims| {
            let is_present = (claims.epoch, claims.node.as_str()) == term;
            if is_present { Ok(claims) } else { Err(NotResumed::StaleTerm) }
        });
        let claims = own.or_else(|why| {
            let keys = entry.iter().flat_map(|entry| entry.keys.iter());
            let of =
                |key: &Key, claims: &ResumeClaims| (key.epoch, &key.node) == (claims.epoch, &claims.node);
            let mut read = keys.filter_map(|key| key.read(token).ok().filter(|claims| of(key, claims)));
            read.next().ok_or(why)
        })?;
        if claims.room != *room {
            return Err(NotResumed::OtherRoom);
        }
        if claims.peer != *peer {
            return Err(NotResumed::OtherPeer);
        }
        let entry = entry.ok_or(NotResumed::Gone)?;
        let (id, attachment) = (claims.session, self.attachment());
        // From here on the client is away again by the session's being dropped, whatever happens to this future.
        let session = Session::new(id, entry.inbox, entry.control, attachment, true, None);
        let (outbox, messages) = mpsc::channel(OUTBOX);
        let (taken, answer) = oneshot::channel();
        let resume = Inbox::Resume { session: id, attachment, received, outbox, taken };
        // A room that went to another node while this waited drops the question. Whether it is over instead, the next one tells.
        if !session.connect(resume).await {
            return Err(NotResumed::Moving);
        }
        let resumed = answer.await.unwrap_or(Err(NotResumed::Moving))?;
        Ok((session, messages, resumed))
    }

    /// Brings a room to a stand and writes it down, for another node to go on with. `None`: it is not here, or cannot move now.
    pub async fn hand_over(&self, room: &RoomId, term: (u64, String)) -> Option<Handing> {
        let control = lock(&self.0.rooms).get(room)?.control.clone();
        let (written, moving) = oneshot::channel();
        let (outcome, ended) = oneshot::channel();
        control.send(Control::HandOver(HandOver { term, written, outcome: ended })).ok()?;
        let moving = moving.await.ok()?;
        Some(Handing { moving, outcome })
    }

    /// Reads a room that another node has written down, and takes a place for it.
    ///
    /// # Errors
    /// [`NotRestored`]; nothing has changed.
    pub fn prepare(&self, moving: &Moving) -> Result<Prepared, NotRestored> {
        let written = moving.read()?;
        let limit = self.0.settings.limits.sessions;
        let take = |_: &_| Permit::take(&self.0.sessions, limit).map(Arc::new);
        let permits: Option<Vec<_>> = written.seats.iter().map(take).collect();
        let permits = permits.ok_or(ConnectError::Sessions(limit))?;
        Ok(Prepared { written, permits })
    }

    /// Goes on with a room from another node, under this term. Whoever carries its sessions follows by [`Self::attach`].
    ///
    /// # Errors
    /// [`NotRestored`]; nothing has changed.
    pub fn restore(&self, prepared: Prepared, term: (u64, String)) -> Result<(), NotRestored> {
        let Prepared { mut written, permits } = prepared;
        // Session ids only grow, within a room, too.
        let highest = written.seats.iter().map(|seat| seat.session.0).max().unwrap_or(0);
        let highest = written.room.sessions().map(|session| session.0).max().unwrap_or(0).max(highest);
        self.0.last_session.fetch_max(highest, Ordering::Relaxed);
        let mut keys = std::mem::take(&mut written.keys);
        keys.drain(..keys.len().saturating_sub(MAX_KEYS));
        let keys = Arc::new(keys);
        let room = written.room.room().clone();
        let mut rooms = lock(&self.0.rooms);
        if rooms.get(&room).is_some_and(|entry| !entry.inbox.is_closed()) {
            return Err(NotRestored::Open);
        }
        self.may_open(&rooms, &room)?;
        let arrival = Arrival { written, permits, keys: keys.clone(), term };
        let (mut actor, entry) = self.actor(&room, keys);
        actor.arrive(arrival)?;
        self.0.spawn(actor);
        rooms.insert(room, entry);
        Ok(())
    }

    /// Carries on a session that came here with its room. The receiver goes on where the old node ended.
    ///
    /// # Errors
    /// [`NotResumed::Gone`]: there is none, or it is carried on already.
    pub async fn attach(
        &self,
        room: &RoomId,
        peer: PeerId,
        session: SessionId,
        stays: bool,
    ) -> Result<(Session, mpsc::Receiver<ToClient>), NotResumed> {
        let entry = lock(&self.0.rooms).get(room).cloned().ok_or(NotResumed::Gone)?;
        let attachment = self.attachment();
        // From here on its client is away, or leaves, by the session's being dropped, whatever happens to this future.
        let carried = Session::new(session, entry.inbox, entry.control, attachment, stays, None);
        let (outbox, messages) = mpsc::channel(OUTBOX);
        let (taken, answer) = oneshot::channel();
        if !carried.connect(Inbox::Attach { session, peer, attachment, outbox, taken }).await {
            return Err(NotResumed::Gone);
        }
        answer.await.unwrap_or(Err(NotResumed::Gone))?;
        Ok((carried, messages))
    }

    fn attachment(&self) -> u64 {
        self.0.last_attachment.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    /// Whether somebody could begin another room here, when it has, or is about to have, so many.
    pub fn has_place(&self, rooms: usize) -> bool {
        let HostLimits { rooms: most, sessions } = self.0.settings.limits;
        self.0.sessions.load(Ordering::Acquire) < sessions && lock(&self.0.rooms).len().max(rooms) < most
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
        self.may_open(&rooms, room)?;
        let (actor, entry) = self.actor(room, Arc::default());
        self.0.spawn(actor);
        rooms.insert(room.clone(), entry.clone());
        Ok(entry)
    }

    fn may_open(&self, rooms: &HashMap<RoomId, Entry>, room: &RoomId) -> Result<(), ConnectError> {
        // Read under the lock that shutdown takes next, so that no room opens behind its back.
        if self.0.closing.load(Ordering::Acquire) {
            return Err(ConnectError::ShuttingDown);
        }
        let limit = self.0.settings.limits.rooms;
        if rooms.len() >= limit && !rooms.contains_key(room) {
            if full::ROOMS.is_news(Instant::now()) {
                warn!(
                    limit,
                    "full: this node opens no more rooms; limits.rooms says how many, or add a node"
                );
            }
            return Err(ConnectError::Rooms(limit));
        }
        Ok(())
    }

    fn actor(&self, room: &RoomId, keys: Arc<Vec<Key>>) -> (RoomActor, Entry) {
        let generation = self.0.last_generation.fetch_add(1, Ordering::Relaxed) + 1;
        let (inbox, inbox_end) = mpsc::channel(INBOX);
        let (control, control_end) = mpsc::unbounded_channel();
        let held = Arc::new(Mutex::new(Held::default()));
        let actor =
            RoomActor::new(room.clone(), generation, self.0.clone(), inbox_end, control_end, held.clone());
        (actor, Entry { generation, inbox, control, held, keys })
    }
}

impl Shared {
    fn spawn(&self, actor: RoomActor) {
        let mut tasks = lock(&self.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(actor.run());
    }

    /// The key of the tokens that are made under this term.
    pub(crate) fn key(&self, term: (u64, String)) -> Option<Key> {
        self.passes.key(term)
    }

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
