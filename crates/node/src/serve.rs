//! What this node does for others: their questions become inputs of its task.

use std::sync::{Arc, Mutex, PoisonError};

use cluster::keeper::{Answer, Refusal};
use cluster::lease::Term;
use cluster::neighbourhood::Ping;
use host::{SITE_NEWS, Sites};
use links::{
    Admitted, Guest, HandOver, HandedOver, OpenRefused, OpenSession, OpenSite, OpenedSession, Serve,
    SiteRefused, TakenSite,
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
        // Whoever comes under a higher term knows more than this node. But the term of one who comes back is what the client's token
        // says, which nobody has looked at: it proves nothing about the room.
        if open.resume.is_none() && open.attach.is_none() {
            self.tell(Input::Fenced { room: open.room.clone(), newest: open.term.clone() }).await;
        }
        match self.serve_here(open).await {
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
        let OpenSite { room, site, term, adopt } = open;
        let draining = self.known(&self.0.me).is_some_and(|me| me.draining);
        let sites = self.0.sites.as_ref().filter(|_| (adopt || !draining) && term.node == from.id);
        let Some(sites) = sites else { return Err(SiteRefused::NotNow) };
        let (answer, accepted) = oneshot::channel();
        self.tell(Input::Accept { room: room.clone(), term: term.clone(), answer }).await;
        let mut newest = match accepted.await {
            Ok(Ok(newest)) => newest,
            Ok(Err(stale)) => return Err(SiteRefused::Stale { newest: stale.newest }),
            Err(_) => return Err(SiteRefused::NotNow),
        };
        let (news, told) = mpsc::channel(SITE_NEWS);
        let ops = if adopt {
            sites.local.take_up(&room, site, news).ok_or(SiteRefused::NotThere)?
        } else {
            sites.local.open(&room, site, None, news)
        };
        let place = sites.taken.take();
        let over = async move {
            let _place = place;
            let _ = newest.wait_for(|newest| *newest > term).await;
        };
        Ok(TakenSite { ops, news: told, over: Box::pin(over) })
    }

    async fn hand_over(&self, from: &Guest, offer: HandOver) -> HandedOver {
        let refused = |why: &str| HandedOver::Refused(why.to_owned());
        let HandOver { room, lease, moving } = offer;
        let Some(host) = &self.0.host else { return refused("the node has no workers") };
        let prepared = match host.prepare(&moving) {
            Ok(prepared) if *prepared.room() == room && lease.term.node == from.id => prepared,
            Ok(_) => return refused("it is another room, or another node's"),
            Err(error) => return HandedOver::Refused(error.to_string()),
        };
        let (answer, answered) = oneshot::channel();
        self.tell(Input::Offered { room, lease, prepared: Box::new(prepared), answer }).await;
        match answered.await {
            Ok(Ok(term)) => HandedOver::Taken(term),
            Ok(Err(why)) => HandedOver::Refused(why),
            Err(_) => refused("the node ends"),
        }
    }

    fn fenced(&self, _: &Guest, room: RoomId, newest: Term) {
        let node = self.clone();
        tokio::spawn(async move { node.tell(Input::Fenced { room, newest }).await });
    }
}
