//! The node's one task: takes what happens (questions of gateways and of other nodes, answers of the store, pings, time),
//! hands it to the pure decisions of `cluster`, and carries out what they say.

mod drain;
mod owner;
mod parted;
mod places;
mod search;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use cluster::directory::Directory;
use cluster::fence::Stale;
use cluster::keeper::{Answer, Event, Keeper, Refusal, Ticket};
use cluster::lease::{Lease, Term};
use cluster::neighbourhood::{Neighbourhood, Ping};
use cluster::node::{Node as Identity, NodeId};
use cluster::timing::Timing;
use host::{Host, Prepared};
use links::{LinkError, LinkSettings, Links, Me, Security};
use room::RoomId;
use store::membership::View;
use store::{Round, Store, StoreEvent};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;

pub use self::drain::Remaining;
use self::drain::{Handed, Offer};
use self::search::Search;
use crate::serve::LastPing;
use crate::sites::ClusterSites;
use crate::terms::Terms;

/// Inputs that wait for the task. Senders wait when it is full.
const INPUTS: usize = 4096;
/// Pings to one node that may be on their way at once: beyond that its link hangs, and one more would not help.
const MAX_PINGS: u8 = 4;
/// A room that this node has, without anybody in it for so many beats, is over.
const EMPTY_BEATS: u8 = 5;

/// What a node is.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    /// Who it is, where, and what it can carry.
    pub identity: Identity,
    /// The cluster's name.
    pub cluster: String,
    /// The clocks; the same in the whole cluster.
    pub timing: Timing,
    /// The room type that `room:<id>` names.
    pub room_type: String,
    /// Where clients reach this node's media, for the record of its rooms.
    pub media_ip: IpAddr,
}

impl NodeSettings {
    /// Who this node is on its links.
    pub fn me(&self) -> Me {
        let Identity { id, incarnation, .. } = &self.identity;
        Me { id: id.clone(), incarnation: *incarnation, cluster: self.cluster.clone() }
    }
}

/// The rooms of a media node.
#[derive(Debug)]
pub struct Media {
    /// Those that it runs.
    pub host: Host,
    /// Where their media is, and that of other nodes' rooms here.
    pub sites: Arc<ClusterSites>,
    /// Tells of rooms of `host` that have ended.
    pub ended: mpsc::UnboundedReceiver<RoomId>,
}

/// A node at work. Clones share it.
#[derive(Debug, Clone)]
pub struct Node(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) me: NodeId,
    pub(crate) inputs: mpsc::Sender<Input>,
    pub(crate) region: room::Region,
    pub(crate) host: Option<Host>,
    pub(crate) sites: Option<Arc<ClusterSites>>,
    pub(crate) links: Links,
    pub(crate) store: Store,
    pub(crate) members: watch::Receiver<View>,
    pub(crate) last_ping: LastPing,
    standing: watch::Receiver<Standing>,
}

/// What wakes the task.
pub(crate) enum Input {
    /// A gateway wants to know who has a room. `turned_away`: whoever was known does not have it.
    Find { room: RoomId, turned_away: bool, answer: oneshot::Sender<Result<Term, Refusal>> },
    /// A session was opened under this term: whether it is to be believed, and what comes after it.
    Accept { room: RoomId, term: Term, answer: oneshot::Sender<Result<watch::Receiver<Term>, Stale>> },
    /// A signal node asks this one to have a room.
    Asked { from: NodeId, room: RoomId, floor: Option<Term>, answer: oneshot::Sender<Answer> },
    /// A peer wants into a room of this node.
    Admit { room: RoomId, answer: oneshot::Sender<Result<Admitted, Refusal>> },
    /// A client wants its session back: under which term this node has the room.
    Has { room: RoomId, answer: oneshot::Sender<Option<Term>> },
    /// It is in, or has given up.
    Opened(RoomId),
    /// A room of this node has peers in another region: under which term it has the room, and who there may take a site.
    Edges { room: RoomId, region: room::Region, answer: oneshot::Sender<Vec<(Identity, Term)>> },
    /// Another node says what it hears.
    Heard(Ping),
    /// A ping of ours arrived, or did not.
    Pinged { node: NodeId, result: Result<(), LinkError> },
    /// Somebody has seen a higher term.
    Fenced { room: RoomId, newest: Term },
    /// The store, or another node, answered a question of this node's.
    Keeper { event: Event, store_answered: bool },
    /// The store has said which memory a round of confirmations is for.
    Round(Option<Round>),
    /// A claim came back from the store.
    Claimed(Event),
    /// From now on this node takes no room, and gives up those that it has until then; or not any more.
    Drain(Option<Instant>),
    /// The store released a lease that was given up, or did not answer.
    Released { room: RoomId, term: Term, released: bool },
    /// Another node has claimed a room that was given up, or nobody has.
    Rehomed { room: RoomId, moved: bool },
    /// Another node offers a room of its own.
    Offered {
        room: RoomId,
        lease: Lease,
        prepared: Box<Prepared>,
        answer: oneshot::Sender<Result<Term, String>>,
    },
    /// A room that was offered to these nodes goes on here; to none, where it cannot move any more.
    NotMoved { room: RoomId, lease: Lease, asked: Vec<NodeId> },
    /// What is left to give up.
    Remaining(oneshot::Sender<Remaining>),
    /// The store answered a search.
    Read { room: RoomId, search: u64, found: Option<Option<Lease>> },
    /// A node answered a search.
    Answered { room: RoomId, search: u64, asked: NodeId, answer: Option<Answer> },
    /// A peer that was let in found no place in this node, and its room not begun.
    NoPlace(RoomId),
}

/// Whether new rooms go to a node, as it says itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// It gives up its rooms, and takes no others.
    pub draining: bool,
    /// It has as much as it may.
    pub full: bool,
}

/// A peer's leave to enter a room of this node. Kept until it is in, or has given up: until then the room is not over.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) term: Term,
    room: RoomId,
    inputs: mpsc::WeakSender<Input>,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let Some(inputs) = self.inputs.upgrade() else { return };
        let opened = Input::Opened(self.room.clone());
        if let Err(mpsc::error::TrySendError::Full(opened)) = inputs.try_send(opened) {
            tokio::spawn(async move { inputs.send(opened).await });
        }
    }
}

pub(crate) struct Control {
    settings: NodeSettings,
    /// Its own end: the task lives as long as others hold one.
    inputs: mpsc::WeakSender<Input>,
    store: Store,
    links: Links,
    host: Option<Host>,
    members: watch::Receiver<View>,
    view: Neighbourhood,
    keeper: Keeper,
    directory: Directory,
    /// Whether the store answered the last question.
    store_answers: bool,
    /// Since when it alone does not answer this node.
    parted: Option<Instant>,
    pings: HashMap<NodeId, u8>,
    searches: HashMap<RoomId, Search>,
    last_search: u64,
    asks: HashMap<(NodeId, RoomId), Vec<oneshot::Sender<Answer>>>,
    tickets: HashMap<Ticket, oneshot::Sender<Result<Admitted, Refusal>>>,
    last_ticket: u64,
    /// Peers that were let in and are not in the room yet.
    opening: HashMap<RoomId, u32>,
    /// For how many beats a room of this node has been empty.
    empty: HashMap<RoomId, u8>,
    /// What sessions of this node's gateways watch.
    terms: Terms,
    last_ping: LastPing,
    /// When each room of this node was opened, in milliseconds since 1970.
    created: HashMap<RoomId, u64>,
    /// Claims on their way to the store and back.
    claiming: usize,
    /// It gives up its rooms, until then, and takes no others.
    draining: Option<Instant>,
    drain_requests: drain::Requests,
    standing: watch::Sender<Standing>,
    /// Rooms of other nodes, on their way here.
    offers: HashMap<RoomId, Offer>,
    /// The rooms that it has given up, while something of them is here.
    handed: HashMap<RoomId, Handed>,
    /// Those of them that somebody was told of: nobody had taken them.
    homeless: HashSet<RoomId>,
    /// Its workers' sites, if it has workers.
    sites: Option<Arc<ClusterSites>>,
}

impl Node {
    /// Starts the node's task. It ends with the last clone.
    pub fn start(
        settings: NodeSettings,
        store: Store,
        security: Security,
        media: Option<Media>,
        members: watch::Receiver<View>,
    ) -> Self {
        let (host, sites, ended) = match media {
            Some(Media { host, sites, ended }) => (Some(host), Some(sites), Some(ended)),
            None => (None, None, None),
        };
        let region = room::Region::new(settings.identity.region.as_str());
        let (inputs, inbox) = mpsc::channel(INPUTS);
        let me = settings.identity.id.clone();
        let terms = Terms::default();
        let links = Links::new(settings.me(), security, LinkSettings::default(), Arc::new(terms.clone()));
        let mut view = Neighbourhood::new(me.clone(), settings.timing);
        let last_ping = LastPing::new(view.ping(true, Instant::now()));
        let (says, standing) = watch::channel(Standing::default());
        let shared = store.clone();
        let control = Control {
            inputs: inputs.downgrade(),
            view,
            keeper: Keeper::new(me.clone(), settings.identity.incarnation, settings.timing),
            directory: Directory::default(),
            store,
            links: links.clone(),
            host: host.clone(),
            members: members.clone(),
            store_answers: true,
            parted: None,
            pings: HashMap::new(),
            searches: HashMap::new(),
            last_search: 0,
            asks: HashMap::new(),
            tickets: HashMap::new(),
            last_ticket: 0,
            opening: HashMap::new(),
            empty: HashMap::new(),
            terms,
            last_ping: last_ping.clone(),
            created: HashMap::new(),
            claiming: 0,
            draining: None,
            drain_requests: drain::Requests::default(),
            standing: says,
            offers: HashMap::new(),
            handed: HashMap::new(),
            homeless: HashSet::new(),
            sites: sites.clone(),
            settings,
        };
        tokio::spawn(control.run(inbox, ended));
        let inner =
            Inner { me, region, inputs, host, sites, links, store: shared, members, last_ping, standing };
        let inner = Arc::new(inner);
        if let Some(sites) = &inner.sites {
            sites.bind(&inner);
        }
        Self(inner)
    }

    /// From now on this node takes no room that it does not have, and hands over those that it has: their clients find them
    /// elsewhere, while media goes on here. At `until`, what is left is closed.
    pub async fn drain(&self, until: Instant) {
        self.tell(Input::Drain(Some(until))).await;
    }

    /// Whether this node drains, or is full.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.0.standing.clone()
    }

    /// What is left to hand over.
    pub async fn remaining(&self) -> Remaining {
        let (answer, answered) = oneshot::channel();
        self.tell(Input::Remaining(answer)).await;
        answered.await.unwrap_or(Remaining { owned: 0, running_out: 0, edges: 0, can_move: false })
    }
}

impl Control {
    async fn run(mut self, mut inbox: mpsc::Receiver<Input>, ended: Option<mpsc::UnboundedReceiver<RoomId>>) {
        // Without rooms none end.
        let mut ended = ended.unwrap_or_else(|| mpsc::unbounded_channel().1);
        let mut ping = tokio::time::interval(self.settings.timing.ping);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beat = tokio::time::interval(self.settings.timing.beat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut events = self.store.events();
        self.look_at_members();
        loop {
            tokio::select! {
                biased;
                _ = ping.tick() => {
                    self.ping();
                    self.look_at_store();
                    self.look_at_places(false);
                    self.hand_over();
                }
                _ = beat.tick() => {
                    self.look_at_places(true);
                    self.beat();
                }
                Ok(()) = self.members.changed() => self.look_at_members(),
                Some(room) = ended.recv() => self.room_ended(room),
                event = events.recv() => self.heard_of(event),
                input = inbox.recv() => match input {
                    Some(input) => self.take(input),
                    None => return,
                },
            }
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Find { room, turned_away, answer } => self.find(room, turned_away, answer),
            Input::Accept { room, term, answer } => {
                let _ = answer.send(self.accept(&room, term));
            }
            Input::Asked { from, room, floor, answer } => self.asked(from, room, floor, answer),
            Input::Admit { room, answer } => self.admit(room, answer),
            Input::Has { room, answer } => {
                let _ = answer.send(self.keeper.term(&room).cloned());
            }
            Input::Opened(room) => self.opened(&room),
            Input::Edges { room, region, answer } => {
                let edges = match self.keeper.term(&room).cloned() {
                    Some(term) => self
                        .edges(&room, region.as_str())
                        .into_iter()
                        .map(|edge| (edge, term.clone()))
                        .collect(),
                    None => Vec::new(),
                };
                let _ = answer.send(edges);
            }
            Input::Heard(ping) => self.view.heard(ping, Instant::now()),
            Input::Pinged { node, result } => self.pinged(&node, result),
            Input::Fenced { room, newest } => {
                self.view.note_epoch(newest.epoch);
                self.keep(Event::Fenced { room, newest });
            }
            Input::Keeper { event, store_answered } => {
                self.store_answers = store_answered;
                if matches!(event, Event::Read { .. }) {
                    self.look_at_places(false);
                }
                self.keep(event);
            }
            Input::Claimed(event) => {
                self.claiming -= 1;
                self.store_answers = !matches!(event, Event::Claimed { result: None, .. });
                let room = match &event {
                    Event::Claimed { room, .. } => Some(room.clone()),
                    _ => None,
                };
                self.keep(event);
                // Where the room has not become this node's, nothing comes of the offer.
                if let Some(offer) = room.and_then(|room| self.offers.remove(&room)) {
                    let _ = offer.answer.send(Err("the store holds another lease".to_owned()));
                }
            }
            Input::Offered { room, lease, prepared, answer } => {
                self.offered(room, lease, Offer { prepared, answer });
            }
            Input::NotMoved { room, lease, asked } => self.not_moved(room, lease, asked),
            Input::Round(round) => self.confirm_all(round),
            Input::Drain(until) => self.drain(until),
            Input::Released { room, term, released } => self.released(room, term, released),
            Input::Rehomed { room, moved } => self.rehomed(room, moved),
            Input::Remaining(answer) => {
                let _ = answer.send(self.remaining());
            }
            Input::Read { room, search, found } => self.read(room, search, found),
            Input::Answered { room, search, asked, answer } => self.answered(room, search, &asked, answer),
            Input::NoPlace(room) => self.room_ended(room),
        }
    }

    /// Says to all others whom this node hears, and looks at who has been silent for too long.
    fn ping(&mut self) {
        let now = Instant::now();
        let ping = self.view.ping(self.store_answers, now);
        self.last_ping.set(ping.clone());
        // Exact below 2^53 nodes.
        metrics::gauge!("tureen_cluster_nodes_linked").set(self.view.links(now) as f64);
        for known in self.members.borrow().members.values() {
            let node = &known.node;
            if node.id == self.settings.identity.id {
                continue;
            }
            // Said with each ping, so that the time of grace begins when it should.
            self.view.is_condemned(&node.id, now);
            let under_way = self.pings.entry(node.id.clone()).or_default();
            if *under_way >= MAX_PINGS {
                metrics::counter!("tureen_cluster_pings_held_back_total").increment(1);
                continue;
            }
            *under_way += 1;
            let (links, node, ping) = (self.links.clone(), node.clone(), ping.clone());
            beside(&self.inputs, async move {
                let result = links.ping(&node, ping).await.map(drop);
                Input::Pinged { node: node.id, result }
            });
        }
    }

    fn pinged(&mut self, node: &NodeId, result: Result<(), LinkError>) {
        if let Some(under_way) = self.pings.get_mut(node) {
            *under_way = under_way.saturating_sub(1);
        }
        if matches!(result, Err(LinkError::Refused)) {
            self.view.refused(node);
        }
    }

    fn look_at_members(&mut self) {
        let now = Instant::now();
        let view = self.members.borrow_and_update();
        for (id, known) in &view.members {
            self.view.add(id.clone(), known.node.roles.media, now);
        }
        let gone: Vec<NodeId> =
            self.view.members().filter(|id| !view.members.contains_key(*id)).cloned().collect();
        for gone in &gone {
            self.view.remove(gone);
            self.links.forget(gone);
            self.pings.remove(gone);
        }
        self.view.note_epoch(view.swept);
        self.store_answers = view.store;
        drop(view);
        self.count_full();
    }

    /// The store tells of something.
    fn heard_of(&mut self, event: Result<StoreEvent, broadcast::error::RecvError>) {
        match event {
            Ok(StoreEvent::RoomClaimed(room, term)) => {
                self.view.note_epoch(term.epoch);
                if self.terms.has(&room) && self.directory.accept(&room, &term, &mut self.view).is_ok() {
                    self.terms.saw(&room, &term);
                }
                self.keep(Event::Fenced { room, newest: term });
            }
            Ok(StoreEvent::Drain(node, drain)) if node == self.settings.identity.id => {
                self.asked_to_drain(&drain)
            }
            Ok(StoreEvent::DrainCancelled(node))
                if node == self.settings.identity.id && self.draining.is_some() =>
            {
                self.drain(None);
            }
            Ok(StoreEvent::Connected | StoreEvent::MemoryLost) => self.beat(),
            _ => {}
        }
    }

    /// Whether a session's owner is to be believed, and how the session learns of the next one.
    fn accept(&mut self, room: &RoomId, term: Term) -> Result<watch::Receiver<Term>, Stale> {
        self.directory.accept(room, &term, &mut self.view)?;
        Ok(self.terms.watch(room, &term))
    }

    fn beside(&self, work: impl Future<Output = Input> + Send + 'static) {
        beside(&self.inputs, work);
    }
}

/// Runs what waits beside the task; what comes of it is the task's next input.
fn beside(inputs: &mpsc::WeakSender<Input>, work: impl Future<Output = Input> + Send + 'static) {
    let inputs = inputs.clone();
    tokio::spawn(async move {
        let input = work.await;
        if let Some(inputs) = inputs.upgrade() {
            let _ = inputs.send(input).await;
        }
    });
}
