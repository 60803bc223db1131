//! What this node does for others: their questions become inputs of its task.

use std::sync::{Arc, Mutex, PoisonError};

use cluster::keeper::{Answer, Refusal};
use cluster::lease::Term;
use cluster::neighbourhood::Ping;
use host::{SITE_NEWS, Sites};
use links::{
    Admitted, Guest, OpenRefused, OpenSession, OpenSite, OpenedSession, Serve, SiteRefused, TakenSite,
};
use room::RoomId;
use tokio::sync::{mpsc, oneshot};

use crate::control::{Input, Node};
use crate::rooms::NotOpened;

/// What this node says of itself, as its task said last.
#[derive(Debug, Clone)]
pub(crate) struct LastPing(Arc<Mutex<Ping>>);

impl LastPing {
    pub(crate) fn new(ping: Ping) -> Self {
        Self(Arc::new(Mutex::new(ping)))
    }

    pub(crate) fn set(&self, ping: Ping) {
        // A plain value, whole at every instruction.
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = ping;
    }

    fn get(&self) -> Ping {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Serve for Node {
    /// The answer may be as old as a ping's interval: nobody counts it as one.
    fn pinged(&self, ping: Ping, from: &Guest) -> Ping {
        // Whoever speaks can be spoken to: no rest after attempts that failed.
        self.0.links.wake(&from.id);
        if self.0.inputs.try_send(Input::Heard(ping)).is_err() {
            metrics::counter!("tureen_cluster_pings_dropped_total").increment(1);
        }
        self.0.last_ping.get()
    }

    async fn ask(&self, from: &Guest, room: RoomId, floor: Option<Term>) -> Answer {
        let (answer, answered) = oneshot::channel();
        self.tell(Input::Asked { from: from.id.clone(), room, floor, answer }).await;
        answered.await.unwrap_or(Answer::NotNow(Refusal::CutOff))
    }

    async fn open(&self, _: &Guest, open: OpenSession) -> Result<Admitted, OpenRefused> {
        let OpenSession { room, comer, term, stays, resume } = open;
        let opened = match resume {
            // The term is what the client's token says, which nobody has looked at: it proves nothing about the room.
            Some(resume) => {
                self.resume_here(&room, &comer.peer, &resume, term).await.map_err(NotOpened::NotResumed)
            }
            None => {
                // Whoever comes under a higher term knows more than this node.
                self.tell(Input::Fenced { room: room.clone(), newest: term }).await;
                self.open_here(&room, comer, stays).await
            }
        };
        match opened {
            Ok(OpenedSession { session, messages, term, token, resumed }) => {
                Ok(Admitted { session, messages, term, token, resumed })
            }
            Err(NotOpened::NotResumed(why)) => Err(OpenRefused::NotResumed(why)),
            Err(NotOpened::Refused(error)) => Err(OpenRefused::Full(error)),
            Err(NotOpened::Elsewhere(Some(Refusal::NotHere) | None)) => {
                Err(OpenRefused::NotHere { newest: None })
            }
            Err(NotOpened::Elsewhere(Some(why))) => Err(OpenRefused::NotNow(why)),
        }
    }

    async fn site(&self, from: &Guest, open: OpenSite) -> Result<TakenSite, SiteRefused> {
        let OpenSite { room, site, term } = open;
        let draining = self.known(&self.0.me).is_some_and(|me| me.draining);
        let sites = self.0.sites.as_ref().filter(|_| !draining && term.node == from.id);
        let Some(sites) = sites else { return Err(SiteRefused::NotNow) };
        let (answer, accepted) = oneshot::channel();
        self.tell(Input::Accept { room: room.clone(), term: term.clone(), answer }).await;
        let mut newest = match accepted.await {
            Ok(Ok(newest)) => newest,
            Ok(Err(stale)) => return Err(SiteRefused::Stale { newest: stale.newest }),
            Err(_) => return Err(SiteRefused::NotNow),
        };
        let (news, told) = mpsc::channel(SITE_NEWS);
        let ops = sites.local.open(&room, site, None, news);
        let over = async move {
            let _ = newest.wait_for(|newest| *newest > term).await;
        };
        Ok(TakenSite { ops, news: told, over: Box::pin(over) })
    }

    fn fenced(&self, _: &Guest, room: RoomId, newest: Term) {
        let node = self.clone();
        tokio::spawn(async move { node.tell(Input::Fenced { room, newest }).await });
    }
}
