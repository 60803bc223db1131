//! The ways to all other nodes, and what can be asked of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use cluster::fence::Stale;
use cluster::keeper;
use cluster::lease::Term;
use cluster::neighbourhood::Ping;
use cluster::node::{Incarnation, Node, NodeId};
use host::{Resumed, Session, ToClient};
use room::RoomId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::error::{LinkError, OpenError};
use crate::hand_over::{self, HandOver, HandedOver};
use crate::link::{Common, Link};
use crate::outgoing;
use crate::security::Security;
use crate::settings::{LinkSettings, Me};
use crate::sites::{self, OpenSite, OpenedSite, SiteError};
use crate::wire::{Ask, Fenced, OpenSession, PROTOCOL, path};

/// Whom a node believes: asked about each message of an owner, before anybody sees it.
pub trait Believe: Send + Sync + 'static {
    /// Takes note of a term, and says whether who speaks under it is to be believed: `Directory::accept`.
    ///
    /// # Errors
    /// [`Stale`] when a higher term of the room was seen.
    fn believe(&self, room: &RoomId, term: &Term) -> Result<(), Stale>;
}

/// What another node said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// The words.
    pub ping: Ping,
    /// In which life it said them.
    pub incarnation: Incarnation,
}

/// A session with a room on another node.
#[derive(Debug)]
pub struct OpenedSession {
    /// The client's end, as that of a room in this process.
    pub session: Session,
    /// What the client is to be told, in order. Ends with [`ToClient::Close`] or [`ToClient::Lost`]; when it ends without
    /// either, the client did not read fast enough.
    pub messages: mpsc::Receiver<ToClient>,
    /// Under which term the room takes it in.
    pub term: Term,
    /// By which the client can come back to the session.
    pub token: Option<String>,
    /// What the client finds that came back to it.
    pub resumed: Option<Resumed>,
}

/// The ways to all other nodes. Clones share them; when the last is dropped, all connections end.
#[derive(Clone)]
pub struct Links {
    common: Arc<Common>,
    believe: Arc<dyn Believe>,
    links: Arc<Mutex<HashMap<NodeId, Arc<Link>>>>,
}

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Links").field("me", &self.common.me).finish_non_exhaustive()
    }
}

impl Links {
    /// No way to anybody yet: each is made when it is needed first.
    pub fn new(me: Me, security: Security, settings: LinkSettings, believe: Arc<dyn Believe>) -> Self {
        let common = Arc::new(Common { me, security, settings, protocol: PROTOCOL });
        Self { common, believe, links: Arc::default() }
    }

    /// Tells a node what this one knows, and learns what that one does.
    ///
    /// # Errors
    /// [`LinkError::Refused`] is proof that the node's process is dead; all others are silence.
    pub async fn ping(&self, node: &Node, ping: Ping) -> Result<Heard, LinkError> {
        let deadline = self.common.settings.ping;
        let (ping, incarnation) = self.call(node, path::PING, ping, deadline).await?;
        Ok(Heard { ping, incarnation })
    }

    /// Asks a media node to have a room.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn ask(
        &self,
        node: &Node,
        room: RoomId,
        floor: Option<Term>,
    ) -> Result<keeper::Answer, LinkError> {
        let ask = Ask { room, floor };
        let deadline = self.common.settings.answer;
        self.call(node, path::ASK, ask, deadline).await.map(|(answer, _)| answer)
    }

    /// Tells an owner that somebody has seen a higher term of its room.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn fenced(&self, node: &Node, room: RoomId, newest: Term) -> Result<(), LinkError> {
        let fenced = Fenced { room, newest };
        let deadline = self.common.settings.answer;
        self.call(node, path::FENCED, fenced, deadline).await.map(|((), _)| ())
    }

    /// Opens a session with a room on another node.
    ///
    /// # Errors
    /// [`OpenError::Refused`] when the node said no; it may have taken the peer in when the way to it broke.
    pub async fn open(&self, node: &Node, open: OpenSession) -> Result<OpenedSession, OpenError> {
        let link = self.link(node);
        outgoing::open(link, self.clone(), self.believe.clone(), self.common.settings, open).await
    }

    /// Opens a site of a room of this node on another.
    ///
    /// # Errors
    /// [`SiteError::Refused`] when the node said no; it may have opened the site when the way to it broke.
    pub async fn open_site(&self, node: &Node, open: OpenSite) -> Result<OpenedSite, SiteError> {
        let opened = sites::open(self.link(node), self.common.settings, open).await;
        if let Err(SiteError::Link(error)) = &opened {
            metrics::counter!("tureen_link_errors_total", "why" => error.why()).increment(1);
        }
        opened
    }

    /// Offers another node a room of this one.
    ///
    /// # Errors
    /// [`LinkError`]: whether it took the room is not known.
    pub async fn hand_over(&self, node: &Node, offer: HandOver) -> Result<HandedOver, LinkError> {
        let link = self.link(node);
        let asking = async {
            let channel = link.channel().await?.with(hand_over::settings(self.common.settings));
            channel.ask(path::HAND_OVER, offer, hand_over::ANSWER).await
        };
        tokio::time::timeout(hand_over::ANSWER, asking).await.unwrap_or(Err(LinkError::Silent))
    }

    /// The node has just been heard, whoever began: a failed attempt to reach it before does not count any more.
    pub fn wake(&self, node: &NodeId) {
        if let Some(link) = self.all().get(node) {
            link.wake();
        }
    }

    /// Ends the connection to a node that said goodbye, and all sessions on it.
    pub fn forget(&self, node: &NodeId) {
        if let Some(link) = self.all().remove(node) {
            link.close();
        }
    }

    /// Ends all connections.
    pub fn close(&self) {
        for (_, link) in self.all().drain() {
            link.close();
        }
    }

    async fn call<Q, A>(
        &self,
        node: &Node,
        path: &'static str,
        question: Q,
        deadline: std::time::Duration,
    ) -> Result<(A, Incarnation), LinkError>
    where
        Q: Serialize + Clone + Send + Sync + 'static,
        A: DeserializeOwned + Send + Sync + 'static,
    {
        let link = self.link(node);
        let calls = async {
            let channel = link.channel().await?;
            match channel.ask(path, question.clone(), deadline).await {
                // It broke under this question. Whether that is because the process died, a new attempt tells.
                Err(LinkError::Broken(_)) if channel.is_closed() => {
                    let channel = link.channel().await?;
                    Ok((channel.ask(path, question, deadline).await?, channel.incarnation))
                }
                answer => Ok((answer?, channel.incarnation)),
            }
        };
        let result = tokio::time::timeout(deadline, calls).await.unwrap_or(Err(LinkError::Silent));
        if let Err(error) = &result {
            metrics::counter!("tureen_link_errors_total", "why" => error.why()).increment(1);
        }
        result
    }

    /// The way to a node as it is now: a new life or address of it is another way.
    fn link(&self, node: &Node) -> Arc<Link> {
        let mut links = self.all();
        if let Some(link) = links.get(&node.id) {
            if link.node.link == node.link && link.node.incarnation >= node.incarnation {
                return link.clone();
            }
            link.close();
        }
        let link = Arc::new(Link::new(node.clone(), self.common.clone()));
        links.insert(node.id.clone(), link.clone());
        link
    }

    fn all(&self) -> std::sync::MutexGuard<'_, HashMap<NodeId, Arc<Link>>> {
        // A plain map, whole at every instruction.
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
