//! What gateways see: a room by its name, wherever it runs.

use std::time::{Duration, Instant};

use cluster::keeper::Refusal;
use cluster::lease::{Epoch, Term};
use cluster::node::{Node as Identity, NodeId};
use host::{Host, NotResumed, Resumed, Session};
use links::{OpenError, OpenRefused, OpenSession, OpenedSession, Resume};
use rand::RngExt;
use room::{Comer, PeerId, RoomId};
use tokio::sync::{oneshot, watch};
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
            Self::Cluster(node) => {
                let entered = node.connect(room, comer, false).await?;
                Ok((entered.session, entered.messages))
            }
        }
    }

    /// The same for a client that can come back to its session when its connection breaks.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn enter(&self, room: RoomId, comer: Comer) -> Result<Entered, ConnectError> {
        match self {
            Self::Alone(host) => {
                let peer = comer.peer.clone();
                let (session, messages) = host.enter(room.clone(), comer).await?;
                let token = host.resume_token(room, peer, session.id(), (ALONE.0, ALONE.1.to_owned()));
                Ok(Entered { session, messages: Messages::alone(messages), token, resumed: None })
            }
            Self::Cluster(node) => node.connect(room, comer, true).await,
        }
    }

    /// Brings a client back to its session. It has all messages up to `received`, what it missed comes first.
    ///
    /// # Errors
    /// [`NotResumed`]; nothing has changed.
    pub async fn resume(
        &self,
        room: &RoomId,
        peer: &PeerId,
        token: String,
        received: u64,
    ) -> Result<Entered, NotResumed> {
        match self {
            Self::Alone(host) => {
                let term = (ALONE.0, ALONE.1);
                let (session, messages, resumed) = host.resume(room, peer, &token, term, received).await?;
                let messages = Messages::alone(messages);
                Ok(Entered { session, messages, token: Some(token), resumed: Some(resumed) })
            }
            Self::Cluster(node) => node.resume(room, peer, Resume { token, received }).await,
        }
    }
}

/// The term of rooms without a cluster.
const ALONE: (u64, &str) = (0, "");

/// A session of a client that can come back to it.
#[derive(Debug)]
pub struct Entered {
    /// The client's end. Dropping it leaves its place for a while.
    pub session: Session,
    /// What the room says.
    pub messages: Messages,
    /// By which the client comes back; it is a secret. `None` where that cannot be.
    pub token: Option<String>,
    /// What it finds, if it came back.
    pub resumed: Option<Resumed>,
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
    /// The session cannot be had back.
    NotResumed(NotResumed),
}

impl Node {
    async fn connect(&self, room: RoomId, mut comer: Comer, stays: bool) -> Result<Entered, ConnectError> {
        comer.region.get_or_insert_with(|| self.0.region.clone());
        let until = Instant::now() + PATIENCE;
        let mut turned_away = false;
        loop {
            let why = match self.find(&room, turned_away).await {
                Ok(term) => match self.open(&room, &comer, stays, term).await {
                    Ok(opened) => return Ok(opened),
                    Err(NotOpened::Refused(error)) => return Err(error.into()),
                    Err(NotOpened::Elsewhere(why)) => why.unwrap_or(Refusal::NotHere),
                    // Nobody asked for it.
                    Err(NotOpened::NotResumed(_)) => Refusal::NotHere,
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

    async fn open(
        &self,
        room: &RoomId,
        comer: &Comer,
        stays: bool,
        term: Term,
    ) -> Result<Entered, NotOpened> {
        let opened = if term.node == self.0.me {
            self.open_here(room, comer.clone(), stays).await?
        } else {
            let owner = self.known(&term.node).ok_or(NotOpened::Elsewhere(None))?;
            let open = OpenSession { room: room.clone(), comer: comer.clone(), term, stays, resume: None };
            self.open_there(owner, open).await?
        };
        self.entered(room, opened).await.ok_or(NotOpened::Elsewhere(None))
    }

    /// An opened session, if its owner is to be believed.
    async fn entered(&self, room: &RoomId, opened: OpenedSession) -> Option<Entered> {
        let OpenedSession { session, messages, term, token, resumed } = opened;
        let newest = self.accept(room, &term).await?;
        Some(Entered { session, messages: Messages::of(messages, term, newest), token, resumed })
    }

    async fn open_there(&self, owner: Identity, open: OpenSession) -> Result<OpenedSession, NotOpened> {
        let room = open.room.clone();
        self.0.links.open(&owner, open).await.map_err(|error| {
            debug!(%room, owner = %owner.id, %error, "the room's owner did not open a session");
            match error {
                OpenError::Refused(OpenRefused::Full(why)) => NotOpened::Refused(why),
                OpenError::Refused(OpenRefused::NotResumed(why)) => NotOpened::NotResumed(why),
                OpenError::Refused(OpenRefused::NotNow(why)) => NotOpened::Elsewhere(Some(why)),
                OpenError::Refused(OpenRefused::NotHere { .. }) | OpenError::Link(_) => {
                    NotOpened::Elsewhere(None)
                }
            }
        })
    }

    /// The session is where its token says, or nowhere: nobody is asked who has the room.
    async fn resume(&self, room: &RoomId, peer: &PeerId, resume: Resume) -> Result<Entered, NotResumed> {
        let claims = token::read_resume(&resume.token).ok_or(NotResumed::Token)?;
        let node: NodeId = claims.node.parse().map_err(|_| NotResumed::Token)?;
        let term = Term { epoch: Epoch(claims.epoch), node };
        let opened = if term.node == self.0.me {
            self.resume_here(room, peer, &resume, term).await?
        } else {
            let owner = self.known(&term.node).ok_or(NotResumed::Unreachable)?;
            let (room, comer) = (room.clone(), Comer::new(peer.clone()));
            let open = OpenSession { room, comer, term, stays: true, resume: Some(resume) };
            self.open_there(owner, open).await.map_err(|why| match why {
                NotOpened::NotResumed(why) => why,
                NotOpened::Refused(_) | NotOpened::Elsewhere(_) => NotResumed::Unreachable,
            })?
        };
        self.entered(room, opened).await.ok_or(NotResumed::StaleTerm)
    }

    /// Brings a client back to a session of this node, if the node has the room under this very term.
    pub(crate) async fn resume_here(
        &self,
        room: &RoomId,
        peer: &PeerId,
        Resume { token, received }: &Resume,
        term: Term,
    ) -> Result<OpenedSession, NotResumed> {
        let host = self.0.host.as_ref().ok_or(NotResumed::Token)?;
        let (answer, answered) = oneshot::channel();
        self.tell(Input::Has { room: room.clone(), answer }).await;
        let own = answered.await.ok().flatten().ok_or(NotResumed::StaleTerm)?;
        if own != term {
            return Err(NotResumed::StaleTerm);
        }
        let under = (own.epoch.0, own.node.as_str());
        let (session, messages, resumed) = host.resume(room, peer, token, under, *received).await?;
        let token = Some(token.clone());
        Ok(OpenedSession { session, messages, term: own, token, resumed: Some(resumed) })
    }

    /// Lets a peer into a room of this node, if it has the room and may.
    pub(crate) async fn open_here(
        &self,
        room: &RoomId,
        comer: Comer,
        stays: bool,
    ) -> Result<OpenedSession, NotOpened> {
        let Some(host) = &self.0.host else { return Err(NotOpened::Elsewhere(None)) };
        let (answer, answered) = oneshot::channel();
        self.tell(Input::Admit { room: room.clone(), answer }).await;
        let admitted =
            answered.await.unwrap_or(Err(Refusal::CutOff)).map_err(|why| NotOpened::Elsewhere(Some(why)))?;
        let peer = comer.peer.clone();
        let opened = match stays {
            true => host.enter(room.clone(), comer).await,
            false => host.connect(room.clone(), comer).await,
        };
        let term = admitted.term.clone();
        drop(admitted);
        let (session, messages) = opened.map_err(NotOpened::Refused)?;
        let under = (term.epoch.0, term.node.as_str().to_owned());
        let token = stays.then(|| host.resume_token(room.clone(), peer, session.id(), under)).flatten();
        Ok(OpenedSession { session, messages, term, token, resumed: None })
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

    pub(crate) fn known(&self, node: &NodeId) -> Option<Identity> {
        self.0.members.borrow().members.get(node).map(|known| known.node.clone())
    }

    pub(crate) async fn tell(&self, input: Input) {
        // The task ends with the last clone, and this is one.
        let _ = self.0.inputs.send(input).await;
    }
}
