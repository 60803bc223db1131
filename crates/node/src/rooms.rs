//! What gateways see: a room by its name, wherever it runs.

use std::time::{Duration, Instant};

use cluster::keeper::Refusal;
use cluster::lease::Term;
use cluster::node::{Node as Identity, NodeId};
use host::{Host, Session, ToClient};
use links::{OpenError, OpenRefused, OpenSession, OpenedSession};
use rand::RngExt;
use room::{Comer, RoomId};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::debug;

use crate::control::{Input, Node};
use crate::messages::Messages;

/// How long a peer waits for its room's owner: as long as it takes to replace one that fell silent, and a little.
const PATIENCE: Duration = Duration::from_secs(6);
/// Between two attempts: something in this range, so that a room's peers do not all come at once.
const PAUSE_MS: std::ops::Range<u64> = 50..200;

/// Why a client was not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The server that has the room is full, or ends.
    #[error(transparent)]
    Host(#[from] host::ConnectError),
    /// Nobody can have the room now.
    #[error("the room cannot be reached now: {0}; try again")]
    Unreachable(Refusal),
}

impl ConnectError {
    /// A label for counters.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Host(host::ConnectError::Sessions(_)) => "sessions",
            Self::Host(host::ConnectError::Rooms(_)) => "rooms",
            Self::Host(host::ConnectError::ShuttingDown) => "shutting_down",
            Self::Host(host::ConnectError::Busy) => "busy",
            Self::Unreachable(why) => why.name(),
        }
    }
}

/// All rooms that clients of this process can reach. Clones share them.
#[derive(Debug, Clone)]
pub enum Rooms {
    /// Those of this process, which is alone.
    Alone(Host),
    /// Those of a cluster.
    Cluster(Node),
}

impl Rooms {
    /// Opens a session in a room, wherever that is, and the room if it is nowhere.
    ///
    /// # Errors
    /// [`ConnectError`]: nothing was opened.
    pub async fn connect(&self, room: RoomId, comer: Comer) -> Result<(Session, Messages), ConnectError> {
        match self {
            Self::Alone(host) => {
                let (session, messages) = host.connect(room, comer).await?;
                Ok((session, Messages::alone(messages)))
            }
            Self::Cluster(node) => node.connect(room, comer).await,
        }
    }
}

impl Rooms {
    /// Whether a room is open somewhere, as far as can be told now.
    pub async fn has(&self, room: &RoomId) -> bool {
        match self {
            Self::Alone(host) => host.has(room),
            Self::Cluster(node) => matches!(node.0.store.read(room).await, Ok((Some(_), _))),
        }
    }
}

/// Why an owner did not open a session.
pub(crate) enum NotOpened {
    /// It is not the owner, is gone, or may not now: look again.
    Elsewhere(Option<Refusal>),
    /// It has no place.
    Refused(host::ConnectError),
}

impl Node {
    async fn connect(&self, room: RoomId, comer: Comer) -> Result<(Session, Messages), ConnectError> {
        let until = Instant::now() + PATIENCE;
        let mut turned_away = false;
        loop {
            let why = match self.find(&room, turned_away).await {
                Ok(term) => match self.open(&room, &comer, term).await {
                    Ok(opened) => return Ok(opened),
                    Err(NotOpened::Refused(error)) => return Err(error.into()),
                    Err(NotOpened::Elsewhere(why)) => why.unwrap_or(Refusal::NotHere),
                },
                Err(why) => why,
            };
            turned_away = true;
            if Instant::now() >= until {
                metrics::counter!("tureen_cluster_unreachable_total", "why" => why.name()).increment(1);
                return Err(ConnectError::Unreachable(why));
            }
            debug!(%room, %why, "looking for the room's owner again");
            let pause = rand::rng().random_range(PAUSE_MS);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    async fn find(&self, room: &RoomId, turned_away: bool) -> Result<Term, Refusal> {
        let (answer, found) = oneshot::channel();
        self.tell(Input::Find { room: room.clone(), turned_away, answer }).await;
        found.await.unwrap_or(Err(Refusal::CutOff))
    }

    async fn open(&self, room: &RoomId, comer: &Comer, term: Term) -> Result<(Session, Messages), NotOpened> {
        let (session, messages, term) = if term.node == self.0.me {
            self.open_here(room, comer.clone()).await?
        } else {
            self.open_there(room, comer, term).await?
        };
        match self.accept(room, &term).await {
            Some(newest) => Ok((session, Messages::of(messages, term, newest))),
            None => Err(NotOpened::Elsewhere(None)),
        }
    }

    async fn open_there(
        &self,
        room: &RoomId,
        comer: &Comer,
        term: Term,
    ) -> Result<(Session, mpsc::Receiver<ToClient>, Term), NotOpened> {
        let owner = self.known(&term.node).ok_or(NotOpened::Elsewhere(None))?;
        let open = OpenSession { room: room.clone(), comer: comer.clone(), term };
        match self.0.links.open(&owner, open).await {
            Ok(OpenedSession { session, messages, term }) => Ok((session, messages, term)),
            Err(error) => {
                debug!(%room, owner = %owner.id, %error, "the room's owner did not open a session");
                Err(match error {
                    OpenError::Refused(OpenRefused::Full(why)) => NotOpened::Refused(why),
                    OpenError::Refused(OpenRefused::NotNow(why)) => NotOpened::Elsewhere(Some(why)),
                    OpenError::Refused(OpenRefused::NotHere { .. }) | OpenError::Link(_) => {
                        NotOpened::Elsewhere(None)
                    }
                })
            }
        }
    }

    /// Lets a peer into a room of this node, if it has the room and may.
    pub(crate) async fn open_here(
        &self,
        room: &RoomId,
        comer: Comer,
    ) -> Result<(Session, mpsc::Receiver<ToClient>, Term), NotOpened> {
        let Some(host) = &self.0.host else { return Err(NotOpened::Elsewhere(None)) };
        let (answer, answered) = oneshot::channel();
        self.tell(Input::Admit { room: room.clone(), answer }).await;
        let admitted =
            answered.await.unwrap_or(Err(Refusal::CutOff)).map_err(|why| NotOpened::Elsewhere(Some(why)))?;
        let opened = host.connect(room.clone(), comer).await;
        let term = admitted.term.clone();
        drop(admitted);
        match opened {
            Ok((session, messages)) => Ok((session, messages, term)),
            Err(error) => Err(NotOpened::Refused(error)),
        }
    }

    async fn accept(&self, room: &RoomId, term: &Term) -> Option<watch::Receiver<Term>> {
        let (answer, accepted) = oneshot::channel();
        self.tell(Input::Accept { room: room.clone(), term: term.clone(), answer }).await;
        match accepted.await.ok()? {
            Ok(watched) => Some(watched),
            Err(stale) => {
                debug!(%room, %stale, "the owner's time is over");
                if let Some(owner) = self.known(&term.node) {
                    let _ = self.0.links.fenced(&owner, room.clone(), stale.newest).await;
                }
                None
            }
        }
    }

    fn known(&self, node: &NodeId) -> Option<Identity> {
        self.0.members.borrow().members.get(node).map(|known| known.node.clone())
    }

    pub(crate) async fn tell(&self, input: Input) {
        // The task ends with the last clone, and this is one.
        let _ = self.0.inputs.send(input).await;
    }
}
