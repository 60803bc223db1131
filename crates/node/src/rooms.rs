//! What gateways see: a room by its name, wherever it runs.

use std::time::{Duration, Instant};

use cluster::keeper::Refusal;
use cluster::lease::{Epoch, Term};
use cluster::node::{Node as Identity, NodeId};
use host::{Host, NotResumed, Resumed, Session, ToClient};
use links::{OpenError, OpenRefused, OpenSession, OpenedSession, Resume};
use rand::RngExt;
use room::{Comer, PeerId, RoomId, SessionId};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::debug;

use crate::carrier::Carrier;
use crate::control::{Input, Node};

/// How long a peer waits for its room's owner: as long as it takes to replace one that fell silent, and a little.
const PATIENCE: Duration = Duration::from_secs(6);
/// Between two attempts: something in this range, so that a room's peers do not all come at once.
const PAUSE_MS: std::ops::Range<u64> = 50..200;
/// How long a client that comes back waits for a room that moves.
const RESUMES: Duration = Duration::from_secs(3);

/// Why a client was not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The server that has the room is full, or ends.
    #[error(transparent)]
    Host(#[from] host::ConnectError),
    /// Nobody has the room, and no node has place for another.
    #[error("all media nodes of this cluster are full: try again later")]
    Full,
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
            Self::Full => "full",
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
            Self::Alone(host) => Ok(host.connect(room, comer).await?),
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
                Ok(Entered { session, messages, token, resumed: None })
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
                Ok(Entered { session, messages, token: Some(token), resumed: Some(resumed) })
            }
            Self::Cluster(node) => node.resume(room, peer, Resume { token, received }).await,
        }
    }
}

/// What a room says to a client, in order. It ends without a word where the client did not read fast enough. A room that has
/// another owner now, to whom the session did not go with it, ends it with [`host::Loss::Superseded`], and nothing of the old
/// owner comes after that.
pub type Messages = mpsc::Receiver<ToClient>;

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
            Self::Cluster(node) => match node.0.store.read(room).await {
                Ok((held, _)) => held.is_some(),
                // What is known of it then: a room that nobody knows is not made without the store.
                Err(_) => node.find(room, false).await.is_ok(),
            },
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
                Err(Refusal::Full) => return Err(ConnectError::Full),
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

    /// Who has a room. `turned_away`: whoever was known does not have it, or does not answer.
    pub(crate) async fn find(&self, room: &RoomId, turned_away: bool) -> Result<Term, Refusal> {
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
        let (peer, comer) = (comer.peer.clone(), comer.clone());
        let open = OpenSession { room: room.clone(), comer, term, stays, resume: None, attach: None };
        let opened = self.open_at(open).await?;
        self.entered(room, peer, stays, opened).await.ok_or(NotOpened::Elsewhere(None))
    }

    /// An opened session, if its owner is to be believed.
    async fn entered(
        &self,
        room: &RoomId,
        peer: PeerId,
        stays: bool,
        mut opened: OpenedSession,
    ) -> Option<Entered> {
        let newest = self.accept(room, &opened.term).await?;
        let (token, resumed) = (opened.token.take(), opened.resumed.take());
        let (session, messages) = Carrier::start(self, room.clone(), peer, stays, opened, newest);
        Some(Entered { session, messages, token, resumed })
    }

    /// Carries on a session at the node that has its room under this term, and watches what comes after it.
    pub(crate) async fn attach(
        &self,
        room: &RoomId,
        peer: PeerId,
        session: SessionId,
        stays: bool,
        term: Term,
    ) -> Result<(OpenedSession, watch::Receiver<Term>), NotOpened> {
        let (of, comer) = (room.clone(), Comer::new(peer));
        let open = OpenSession { room: of, comer, term, stays, resume: None, attach: Some(session) };
        let opened = self.open_at(open).await?;
        let newest = self.accept(room, &opened.term).await.ok_or(NotOpened::Elsewhere(None))?;
        Ok((opened, newest))
    }

    /// The same at this node, if it has the room under this very term.
    async fn attach_here(
        &self,
        room: &RoomId,
        peer: PeerId,
        session: SessionId,
        stays: bool,
        term: Term,
    ) -> Result<OpenedSession, NotOpened> {
        let elsewhere = || NotOpened::Elsewhere(Some(Refusal::NotHere));
        let host = self.0.host.as_ref().ok_or_else(elsewhere)?;
        let own = self.own_term(room).await.filter(|own| *own == term).ok_or_else(elsewhere)?;
        let attached = host.attach(room, peer, session, stays).await;
        let (session, messages) = attached.map_err(NotOpened::NotResumed)?;
        Ok(OpenedSession { session, messages, term: own, token: None, resumed: None })
    }

    /// Under which term this node has a room.
    async fn own_term(&self, room: &RoomId) -> Option<Term> {
        let (answer, answered) = oneshot::channel();
        self.tell(Input::Has { room: room.clone(), answer }).await;
        answered.await.ok().flatten()
    }

    /// Opens a session at the node that its term names, which may be this one.
    async fn open_at(&self, open: OpenSession) -> Result<OpenedSession, NotOpened> {
        if open.term.node == self.0.me {
            return self.serve_here(open).await;
        }
        let owner = self.known(&open.term.node).ok_or(NotOpened::Elsewhere(None))?;
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

    /// Opens a session in a room of this node, whoever asks.
    pub(crate) async fn serve_here(&self, open: OpenSession) -> Result<OpenedSession, NotOpened> {
        let OpenSession { room, comer, term, stays, resume, attach } = open;
        match (resume, attach) {
            (Some(resume), _) => {
                self.resume_here(&room, &comer.peer, &resume, term).await.map_err(NotOpened::NotResumed)
            }
            (None, Some(session)) => self.attach_here(&room, comer.peer, session, stays, term).await,
            (None, None) => self.open_here(&room, comer, stays).await,
        }
    }

    /// The session is where its token says, or where its room has gone on since.
    async fn resume(&self, room: &RoomId, peer: &PeerId, resume: Resume) -> Result<Entered, NotResumed> {
        let claims = token::read_resume(&resume.token).ok_or(NotResumed::Token)?;
        let node: NodeId = claims.node.parse().map_err(|_| NotResumed::Token)?;
        let mut term = Term { epoch: Epoch(claims.epoch), node };
        let until = Instant::now() + RESUMES;
        let opened = loop {
            let why = match self.resume_at(room, peer, &resume, term.clone()).await {
                Ok(opened) => break opened,
                Err(why @ (NotResumed::StaleTerm | NotResumed::Unreachable | NotResumed::Moving)) => why,
                Err(why) => return Err(why),
            };
            let newest = self.0.store.read(room).await.ok().and_then(|(lease, _)| Some(lease?.term));
            match newest {
                Some(newest) if newest > term => term = newest,
                _ if why != NotResumed::Moving => return Err(why),
                _ => {}
            }
            if Instant::now() >= until {
                return Err(why);
            }
            let pause = rand::rng().random_range(PAUSE_MS);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        };
        self.entered(room, peer.clone(), true, opened).await.ok_or(NotResumed::StaleTerm)
    }

    async fn resume_at(
        &self,
        room: &RoomId,
        peer: &PeerId,
        resume: &Resume,
        term: Term,
    ) -> Result<OpenedSession, NotResumed> {
        let (room, comer) = (room.clone(), Comer::new(peer.clone()));
        let resume = Some(resume.clone());
        let open = OpenSession { room, comer, term, stays: true, resume, attach: None };
        self.open_at(open).await.map_err(|why| match why {
            NotOpened::NotResumed(why) => why,
            NotOpened::Refused(_) | NotOpened::Elsewhere(_) => NotResumed::Unreachable,
        })
    }

    /// Brings a client back to a session of this node, if the node has the room under this very term.
    async fn resume_here(
        &self,
        room: &RoomId,
        peer: &PeerId,
        Resume { token, received }: &Resume,
        term: Term,
    ) -> Result<OpenedSession, NotResumed> {
        let host = self.0.host.as_ref().ok_or(NotResumed::Token)?;
        let Some(own) = self.own_term(room).await else {
            // While it is here and nobody's, it is on its way to another.
            return Err(if host.has(room) { NotResumed::Moving } else { NotResumed::StaleTerm });
        };
        if own != term {
            return Err(NotResumed::StaleTerm);
        }
        if !host.has(room) {
            // It is on its way here, or has just ended, of which the store hears next.
            return Err(NotResumed::Moving);
        }
        let under = (own.epoch.0, own.node.as_str());
        let (session, messages, resumed) = host.resume(room, peer, token, under, *received).await?;
        let token = Some(token.clone());
        Ok(OpenedSession { session, messages, term: own, token, resumed: Some(resumed) })
    }

    /// Lets a peer into a room of this node, if it has the room and may.
    async fn open_here(&self, room: &RoomId, comer: Comer, stays: bool) -> Result<OpenedSession, NotOpened> {
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
        let (session, messages) = match opened {
            Ok(opened) => opened,
            // Others filled this node after it had claimed the room: it is anybody's again.
            Err(host::ConnectError::Sessions(_) | host::ConnectError::Rooms(_)) if !host.has(room) => {
                self.tell(Input::NoPlace(room.clone())).await;
                return Err(NotOpened::Elsewhere(Some(Refusal::Full)));
            }
            Err(why) => return Err(NotOpened::Refused(why)),
        };
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
