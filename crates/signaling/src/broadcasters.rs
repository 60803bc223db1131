//! Broadcasters: peers without a WebSocket, that come by HTTP and send or receive plain RTP (ffmpeg, GStreamer), or are
//! clients of several transports. Each is a session of its room like any other, held by a task here instead of by a
//! connection; HTTP requests become the session's requests.
//!
//! A broadcaster lives until it is deleted, its room ends its session, or nothing has been heard of it for
//! [`GatewayLimits::broadcaster_silence_ms`]: no HTTP request, and no byte on any of its transports.

mod api;
mod wire;

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use host::{Session, ToClient};
use node::{ConnectError, Messages, Rooms};
use room::{Comer, PeerId, Reply, Request, RequestId, Role, RoomError, RoomId, TransportId};
use tokio::sync::{mpsc, oneshot};
use tracing::debug;

use crate::dialect::Dialect;
use crate::limits::{Bucket, GatewayLimits};

pub use api::endpoints;

/// HTTP requests that wait for one broadcaster's task.
const WAITING: usize = 16;

/// The broadcasters of this node. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Broadcasters(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    all: Mutex<HashMap<(RoomId, PeerId), Broadcaster>>,
    limit: usize,
    limits: Arc<GatewayLimits>,
}

/// One of them, as HTTP requests reach it.
#[derive(Debug, Clone)]
pub(crate) struct Broadcaster {
    /// Which spelling it speaks.
    pub(crate) dialect: Dialect,
    /// What it will be called once it joins.
    pub(crate) introduced: Arc<Request>,
    asks: mpsc::Sender<Ask>,
}

/// What an HTTP request wants.
#[derive(Debug)]
enum Ask {
    Room(Box<Request>, oneshot::Sender<Result<Reply, RoomError>>),
    /// To be gone; answered when it is.
    Leave(oneshot::Sender<()>),
}

/// Why a broadcaster could not be taken in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AddError {
    #[error("there is a broadcaster of this id in the room already: DELETE it first, or choose another id")]
    Exists,
    #[error("this server has its limit of {0} broadcasters: try again later")]
    Limit(usize),
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

impl Broadcasters {
    /// At most `limit` of them at once.
    pub(crate) fn new(limit: usize, limits: Arc<GatewayLimits>) -> Self {
        Self(Arc::new(Shared { all: Mutex::default(), limit, limits }))
    }

    /// Whether there are any at all.
    pub(crate) fn are_served(&self) -> bool {
        self.0.limit > 0
    }

    pub(crate) fn find(&self, room: &RoomId, peer: &PeerId) -> Option<Broadcaster> {
        lock(&self.0.all).get(&(room.clone(), peer.clone())).cloned()
    }

    /// Opens a session for a new broadcaster. `introduced` is its join.
    pub(crate) async fn add(
        &self,
        rooms: &Rooms,
        (room, peer): (RoomId, PeerId),
        role: Option<Role>,
        dialect: Dialect,
        introduced: Request,
    ) -> Result<Broadcaster, AddError> {
        let (asks, inbox) = mpsc::channel(WAITING);
        let broadcaster = Broadcaster { dialect, introduced: Arc::new(introduced), asks };
        let key = (room.clone(), peer.clone());
        {
            let mut all = lock(&self.0.all);
            let (count, limit) = (all.len(), self.0.limit);
            match all.entry(key.clone()) {
                Place::Occupied(_) => return Err(AddError::Exists),
                Place::Vacant(_) if count >= limit => return Err(AddError::Limit(limit)),
                Place::Vacant(place) => place.insert(broadcaster.clone()),
            };
        }
        // From here on the place is freed whatever happens, even when this future is dropped.
        let place = Taken { broadcasters: self.clone(), key };
        let (session, messages) = rooms.connect(room, Comer { role, ..Comer::new(peer) }).await?;
        let task = Task::new(place, session, inbox, self.0.limits.clone());
        tokio::spawn(task.run(messages));
        Ok(broadcaster)
    }
}

impl Broadcaster {
    /// Asks the room on behalf of the broadcaster.
    pub(crate) async fn ask(&self, request: Request, within: Duration) -> Result<Reply, RoomError> {
        let (answer, reply) = oneshot::channel();
        let gone = || RoomError::Unavailable("the broadcaster is gone".to_owned());
        let asking = async {
            self.asks.send(Ask::Room(Box::new(request), answer)).await.map_err(|_| gone())?;
            reply.await.map_err(|_| gone())?
        };
        let late = || RoomError::Unavailable("the server did not answer in time".to_owned());
        tokio::time::timeout(within, asking).await.unwrap_or_else(|_| Err(late()))
    }

    /// Ends it, and waits until its place is free.
    pub(crate) async fn leave(&self) {
        let (answer, left) = oneshot::channel();
        if self.asks.send(Ask::Leave(answer)).await.is_ok() {
            let _ = left.await;
        }
    }
}

/// A broadcaster's place among the others, freed when dropped.
#[derive(Debug)]
struct Taken {
    broadcasters: Broadcasters,
    key: (RoomId, PeerId),
}

impl Drop for Taken {
    fn drop(&mut self) {
        lock(&self.broadcasters.0.all).remove(&self.key);
    }
}

/// Who waits for an answer of the room.
#[derive(Debug)]
enum Waiting {
    Http(oneshot::Sender<Result<Reply, RoomError>>),
    /// The task itself: has anything come on this transport?
    Bytes(TransportId),
}

/// The task that holds a broadcaster's session.
struct Task {
    place: Taken,
    session: Session,
    inbox: mpsc::Receiver<Ask>,
    limits: Arc<GatewayLimits>,
    waiting: HashMap<RequestId, Waiting>,
    last_request: u64,
    /// Its transports, with how many bytes had come when they were last looked at.
    transports: HashMap<TransportId, u64>,
    last_sign: Instant,
    bucket: Bucket,
}

impl Task {
    fn new(place: Taken, session: Session, inbox: mpsc::Receiver<Ask>, limits: Arc<GatewayLimits>) -> Self {
        let waiting = HashMap::new();
        let last_sign = Instant::now();
        let bucket = Bucket::new(&limits, last_sign);
        let transports = HashMap::new();
        Self { place, session, inbox, limits, waiting, last_request: 0, transports, last_sign, bucket }
    }

    async fn run(mut self, mut messages: Messages) {
        let silence = self.limits.broadcaster_silence();
        let mut tick = tokio::time::interval((silence / 3).max(Duration::from_millis(50)));
        let mut left = None;
        let why = loop {
            tokio::select! {
                ask = self.inbox.recv() => match ask {
                    Some(Ask::Room(request, answer)) => {
                        self.last_sign = Instant::now();
                        if !self.bucket.take(self.last_sign) {
                            let limit = self.limits.messages_per_second as usize;
                            let _ = answer.send(Err(RoomError::Limit { what: "requests a second".into(), limit }));
                        } else if !self.request(*request, Waiting::Http(answer)).await {
                            break "closed";
                        }
                    }
                    Some(Ask::Leave(answer)) => {
                        left = Some(answer);
                        break "deleted";
                    }
                    None => break "closed",
                },
                message = messages.recv() => match message {
                    Some(ToClient::Reply { request, result }) => self.answered(request, result),
                    // It joined as one who is offered nothing, and nobody reads news.
                    Some(ToClient::Ask { ask, .. }) => {
                        if self.session.answer(ask, false).await.is_err() {
                            break "closed";
                        }
                    }
                    Some(ToClient::Notify(_) | ToClient::Move(_)) => {}
                    Some(_) | None => break "closed",
                },
                _ = tick.tick() => {
                    if self.last_sign.elapsed() >= silence {
                        break "silent";
                    }
                    if !self.look_for_bytes().await {
                        break "closed";
                    }
                }
            }
        };
        let (room, peer) = &self.place.key;
        debug!(%room, %peer, why, "broadcaster ended");
        metrics::counter!("tureen_broadcasters_ended_total", "why" => why).increment(1);
        drop(self);
        if let Some(left) = left {
            let _ = left.send(());
        }
    }

    /// Whether the room still takes requests.
    async fn request(&mut self, request: Request, waiting: Waiting) -> bool {
        self.last_request += 1;
        let id = RequestId(self.last_request);
        self.waiting.insert(id, waiting);
        self.session.request(id, request).await.is_ok()
    }

    async fn look_for_bytes(&mut self) -> bool {
        // Those who wait for nothing any more gave up: their answers never came.
        self.waiting.retain(|_, waiting| !matches!(waiting, Waiting::Http(answer) if answer.is_closed()));
        let asked = |id: &TransportId| {
            self.waiting.values().any(|waiting| matches!(waiting, Waiting::Bytes(of) if of == id))
        };
        let transports: Vec<_> = self.transports.keys().filter(|id| !asked(id)).cloned().collect();
        for id in transports {
            if !self.request(Request::TransportStats(id.clone()), Waiting::Bytes(id)).await {
                return false;
            }
        }
        true
    }

    fn answered(&mut self, request: RequestId, result: Result<Reply, RoomError>) {
        match self.waiting.remove(&request) {
            Some(Waiting::Http(answer)) => {
                match &result {
                    Ok(Reply::Transport(info)) => self.transports.insert(info.id.clone(), 0),
                    Ok(Reply::PlainTransport(info)) => self.transports.insert(info.id.clone(), 0),
                    _ => None,
                };
                let _ = answer.send(result);
            }
            Some(Waiting::Bytes(transport)) => match result {
                Ok(Reply::Stats(stats)) => {
                    let bytes = stats.get(0).and_then(|stats| stats.get("bytesReceived"));
                    let bytes = bytes.and_then(serde_json::Value::as_u64).unwrap_or_default();
                    if let Some(before) = self.transports.get_mut(&transport)
                        && std::mem::replace(before, bytes) != bytes
                    {
                        self.last_sign = Instant::now();
                    }
                }
                // It closed: a client of the broadcaster's ended DTLS.
                Err(RoomError::NotFound { .. }) => {
                    self.transports.remove(&transport);
                }
                Ok(_) | Err(_) => {}
            },
            None => {}
        }
    }
}

/// Guards a plain map, valid at every instruction: a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
