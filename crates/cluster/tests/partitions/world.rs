//! The simulated cluster: five nodes, links with delays, a store with the weaknesses of an asynchronously replicated one.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::{Duration, Instant};

use cluster::directory::{Directory, Step};
use cluster::keeper::{Action, Answer, Event, Keeper, Refusal, Ticket};
use cluster::lease::{Confirmation, Conflict, Lease, Term, claim, confirm, release};
use cluster::neighbourhood::{Neighbourhood, Ping};
use cluster::node::{Incarnation, NodeId};
use cluster::timing::Timing;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use room::RoomId;

const NODES: [&str; 5] = ["g0", "g1", "m0", "m1", "m2"];
const SIGNAL: std::ops::Range<usize> = 0..2;
const MEDIA: std::ops::Range<usize> = 2..5;
const ROOMS: usize = 3;
/// Faults happen until then; the rest of the time heals.
const TROUBLE: u64 = 40_000;
const END: u64 = 58_000;
/// How long a question to another node or to the store waits for its answer.
const PATIENCE: u64 = 1_000;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Faults {
    /// Nothing.
    None,
    /// Everything, at random.
    All,
    /// Everything, and owners that let in whoever comes, whatever they know.
    AllAndReckless,
    /// Everything, and owners that hand their rooms to others all the time.
    AllAndMoving,
    /// Everything, and media nodes that are full half of the time.
    AllAndFull,
    /// One media node falls silent, and stays so.
    OneSilentDeath,
    /// Nobody reaches the store for half of the time.
    StoreAway,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) violations: Vec<String>,
    pub(crate) accepted: u64,
    pub(crate) turned_away: u64,
    pub(crate) stale: u64,
    pub(crate) takeovers: u64,
    pub(crate) offers: u64,
    pub(crate) full: u64,
    pub(crate) late: u64,
    pub(crate) latest: Duration,
    pub(crate) longest_gap: Duration,
}

impl Outcome {
    pub(crate) fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.turned_away += other.turned_away;
        self.stale += other.stale;
        self.takeovers += other.takeovers;
        self.offers += other.offers;
        self.full += other.full;
        self.late += other.late;
        self.latest = self.latest.max(other.latest);
    }
}

#[derive(Debug, Clone)]
enum Message {
    Ping(Ping),
    Ask {
        room: usize,
        floor: Option<Term>,
    },
    Answer {
        room: usize,
        answer: Answer,
    },
    Admit {
        room: usize,
    },
    /// A room's owner gives it away.
    Offer {
        room: usize,
        lease: Lease,
    },
    /// A peer was let in: to the signal node that brought it, and to the others, whose peers hear of it.
    Admission {
        room: usize,
        term: Term,
        yours: bool,
    },
    Refusal {
        room: usize,
    },
    Fenced {
        room: usize,
        newest: Term,
    },
    Refused,
}

#[derive(Debug, Clone)]
enum Question {
    Read,
    Claim {
        seen: Option<Lease>,
        new: Lease,
    },
    Confirm {
        own: Lease,
    },
    Release {
        term: Term,
    },
    /// After a beat's confirmations.
    Register,
}

#[derive(Debug, Clone)]
enum Reply {
    Read(Option<Lease>, BTreeSet<NodeId>),
    Changed(Result<(), Conflict>),
    Confirmed(Result<(Confirmation, BTreeSet<NodeId>), Conflict>),
}

#[derive(Debug, Clone)]
enum Happening {
    Tick(usize, u64),
    Beat(usize, u64),
    Arrives {
        from: usize,
        to: usize,
        message: Message,
    },
    /// A question reaches the store.
    AtStore {
        node: usize,
        life: u64,
        room: usize,
        question: Question,
        asked: u64,
    },
    /// Its answer, or nothing, reaches who asked.
    FromStore {
        node: usize,
        life: u64,
        room: usize,
        question: Question,
        asked: u64,
        reply: Option<Reply>,
    },
    /// A peer comes to a signal node.
    Peer,
    /// A signal node's patience with a search ends.
    Impatient {
        signal: usize,
        room: usize,
        search: u64,
        asked: usize,
    },
    /// Some media node is full from now on, or not any more.
    Full,
    /// Some owner hands a room to another media node.
    HandOver,
    /// It does not know that it was taken, and is not to hand it on any more.
    Stays {
        node: usize,
        life: u64,
        room: RoomId,
        lease: Lease,
    },
    Fault,
    Heal,
}

#[derive(Debug, Default, Clone)]
struct Search {
    number: u64,
    waiting: u64,
    active: bool,
    /// Who was asked, and is full.
    full: Vec<usize>,
}

#[derive(Debug)]
struct Node {
    life: u64,
    alive: bool,
    view: Neighbourhood,
    store_answered: bool,
    full: bool,
    keeper: Keeper,
    directory: Directory,
    searches: Vec<Search>,
    sessions: [u64; ROOMS],
    accepted: [Option<Term>; ROOMS],
    tickets: BTreeMap<u64, (usize, usize)>,
}

pub(crate) struct World {
    rng: StdRng,
    faults: Faults,
    start: Instant,
    now: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    next: u64,
    nodes: Vec<Node>,
    link: [[bool; 5]; 5],
    store_link: [bool; 5],
    store: [Option<Lease>; ROOMS],
    registered: BTreeSet<NodeId>,
    /// What each write replaced, for a failover that loses the last ones.
    writes: Vec<(u64, usize, Option<Lease>)>,
    /// Who opened a room, when, and in which life.
    opened: [Vec<(u64, Term, u64)>; ROOMS],
    gap_since: [Option<u64>; ROOMS],
    outcome: Outcome,
}

fn room_id(room: usize) -> RoomId {
    RoomId::parse(&format!("room {room}")).expect("id")
}

fn index(room: &RoomId) -> usize {
    room.as_str().rsplit(' ').next().and_then(|text| text.parse().ok()).expect("one of ours")
}

fn name(node: usize) -> NodeId {
    NODES[node].parse().expect("name")
}

fn number(node: &NodeId) -> usize {
    NODES.iter().position(|name| *name == node.as_str()).expect("one of ours")
}

impl World {
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        let start = Instant::now();
        let mut world = Self {
            rng: StdRng::seed_from_u64(seed),
            faults,
            start,
            now: 0,
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            next: 0,
            nodes: (0..5).map(|node| fresh(node, 1, start)).collect(),
            link: [[true; 5]; 5],
            store_link: [true; 5],
            store: Default::default(),
            registered: BTreeSet::new(),
            writes: Vec::new(),
            opened: Default::default(),
            gap_since: [None; ROOMS],
            outcome: Outcome::default(),
        };
        for node in 0..5 {
            world.begin(node);
        }
        world.after(8_000, Happening::Peer);
        match faults {
            Faults::None => {}
            Faults::All | Faults::AllAndReckless | Faults::AllAndMoving | Faults::AllAndFull => {
                for _ in 0..world.rng.random_range(1..7) {
                    let at = world.rng.random_range(9_000..TROUBLE);
                    world.after(at, Happening::Fault);
                }
            }
            Faults::OneSilentDeath | Faults::StoreAway => world.after(20_000, Happening::Fault),
        }
        world.after(TROUBLE, Happening::Heal);
        if faults == Faults::AllAndMoving {
            world.after(9_000, Happening::HandOver);
        }
        if faults == Faults::AllAndFull {
            world.after(7_000, Happening::Full);
        }
        world
    }

    pub(crate) fn run(mut self) -> Outcome {
        while let Some(Reverse((at, id))) = self.queue.pop() {
            if at > END {
                break;
            }
            self.now = at;
            if let Some(happening) = self.happenings.remove(&id) {
                self.happen(happening);
            }
        }
        self.check_convergence();
        self.outcome
    }

    fn after(&mut self, delay: u64, happening: Happening) {
        self.queue.push(Reverse((self.now + delay, self.next)));
        self.happenings.insert(self.next, happening);
        self.next += 1;
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    fn instant(&self) -> Instant {
        self.at(self.now)
    }

    /// A node's timers start, each at its own phase.
    fn begin(&mut self, node: usize) {
        let life = self.nodes[node].life;
        let (ping, beat) = (self.rng.random_range(0..250), self.rng.random_range(0..2_000));
        self.after(ping, Happening::Tick(node, life));
        self.after(beat, Happening::Beat(node, life));
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Tick(node, life) => self.tick(node, life),
            Happening::Beat(node, life) => self.beat(node, life),
            Happening::Arrives { from, to, message } => {
                if self.nodes[to].alive {
                    self.arrives(from, to, message);
                }
            }
            Happening::AtStore { node, life, room, question, asked } => {
                self.at_store(node, life, room, question, asked);
            }
            Happening::FromStore { node, life, room, question, asked, reply } => {
                if self.nodes[node].alive && self.nodes[node].life == life {
                    self.store_answered(node, room, question, asked, reply);
                }
            }
            Happening::Peer => self.peer(),
            Happening::Impatient { signal, room, search, asked } => {
                let waiting = &self.nodes[signal].searches[room];
                if waiting.active && waiting.number == search {
                    self.answered(signal, asked, room, None);
                }
            }
            Happening::Full => self.fill(),
            Happening::HandOver => self.hand_over(),
            Happening::Stays { node, life, room, lease } => {
                if self.nodes[node].alive && self.nodes[node].life == life {
                    self.keep(node, Event::Stays { room, lease });
                }
            }
            Happening::Fault => self.fault(),
            Happening::Heal => self.heal(),
        }
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        let delay = if self.rng.random_bool(0.02) { 150 } else { 20 };
        let delay = self.rng.random_range(1..=delay);
        if self.link[from][to] {
            self.after(delay, Happening::Arrives { from, to, message });
        }
    }

    fn tick(&mut self, node: usize, life: u64) {
        if !self.nodes[node].alive || self.nodes[node].life != life {
            return;
        }
        let now = self.instant();
        let store = self.nodes[node].store_answered;
        let ping = self.nodes[node].view.ping(store, now);
        for other in 0..5 {
            if other != node {
                self.nodes[node].view.is_condemned(&name(other), now);
                self.send(node, other, Message::Ping(ping.clone()));
            }
        }
        if SIGNAL.contains(&node) {
            for room in 0..ROOMS {
                let lost = self.nodes[node]
                    .directory
                    .newest(&room_id(room))
                    .is_none_or(|term| self.nodes[node].view.is_suspect(&term.node, now));
                if self.nodes[node].sessions[room] > 0 && lost && !self.nodes[node].searches[room].active {
                    self.search(node, room, 0);
                }
            }
        }
        self.after(250, Happening::Tick(node, life));
    }

    fn beat(&mut self, node: usize, life: u64) {
        if !self.nodes[node].alive || self.nodes[node].life != life {
            return;
        }
        self.nodes[node].store_answered &= self.store_link[node];
        if MEDIA.contains(&node) {
            self.keep(node, Event::Beat);
        }
        // On one connection, so behind the confirmations.
        if self.store_link[node] {
            let register =
                Happening::AtStore { node, life, room: 0, question: Question::Register, asked: self.now };
            self.after(21, register);
        }
        self.after(2_000, Happening::Beat(node, life));
    }

    fn arrives(&mut self, from: usize, to: usize, message: Message) {
        let now = self.instant();
        match message {
            Message::Ping(ping) => self.nodes[to].view.heard(ping, now),
            Message::Refused => self.nodes[to].view.refused(&name(from)),
            Message::Ask { room, floor } => {
                self.keep(to, Event::Ask { from: name(from), room: room_id(room), floor });
            }
            Message::Answer { room, answer } => {
                if self.nodes[to].searches[room].active {
                    self.answered(to, from, room, Some(answer));
                }
            }
            Message::Admit { room } => {
                if self.faults == Faults::AllAndReckless
                    && let Some(term) = self.nodes[to].keeper.term(&room_id(room)).cloned()
                {
                    self.admit(to, from, room, &term);
                    return;
                }
                let ticket = self.next;
                self.next += 1;
                self.nodes[to].tickets.insert(ticket, (from, room));
                self.keep(to, Event::Admit { room: room_id(room), ticket: Ticket(ticket) });
            }
            Message::Offer { room, lease } => self.keep(to, Event::Offered { room: room_id(room), lease }),
            Message::Admission { room, term, yours } => self.admission(from, to, room, term, yours),
            Message::Refusal { room } => self.refusal(to, room),
            Message::Fenced { room, newest } => self.keep(to, Event::Fenced { room: room_id(room), newest }),
        }
    }

    fn admit(&mut self, owner: usize, asker: usize, room: usize, term: &Term) {
        for signal in SIGNAL {
            let admission = Message::Admission { room, term: term.clone(), yours: signal == asker };
            self.send(owner, signal, admission);
        }
    }

    /// A signal node hears of a peer that an owner let in.
    fn admission(&mut self, from: usize, to: usize, room: usize, term: Term, yours: bool) {
        let node = &mut self.nodes[to];
        if let Err(stale) = node.directory.accept(&room_id(room), &term, &mut node.view) {
            self.outcome.stale += 1;
            self.send(to, from, Message::Fenced { room, newest: stale.newest });
            return;
        }
        self.outcome.accepted += u64::from(yours);
        if self.nodes[to].accepted[room].as_ref().is_some_and(|before| *before > term) {
            let text = format!("{} accepted {term:?} after a higher one at {}", NODES[to], self.now);
            self.outcome.violations.push(text);
        }
        self.nodes[to].accepted[room] = Some(term.clone());
        self.nodes[to].sessions[room] += u64::from(yours);
        let id = room_id(room);
        let replaced = self.opened[room].iter().find(|(_, other, life)| {
            let node = &self.nodes[number(&other.node)];
            *other > term && node.alive && node.life == *life && node.keeper.term(&id) == Some(other)
        });
        if let Some((opened, ..)) = replaced {
            let late = Duration::from_millis(self.now - opened);
            self.outcome.late += 1;
            self.outcome.latest = self.outcome.latest.max(late);
            if late > Timing::default().overlap() && self.faults != Faults::AllAndReckless {
                let text = format!(
                    "{} accepted {term:?} {late:?} after it was replaced, at {}",
                    NODES[to], self.now
                );
                self.outcome.violations.push(text);
            }
        }
        if let Some(since) = self.gap_since[room].take() {
            self.outcome.longest_gap = self.outcome.longest_gap.max(Duration::from_millis(self.now - since));
        }
    }

    /// An owner let nobody in: its signal node looks again.
    fn refusal(&mut self, signal: usize, room: usize) {
        self.outcome.turned_away += 1;
        if !self.nodes[signal].searches[room].active {
            let step = self.nodes[signal].directory.search(&room_id(room));
            self.step(signal, room, step);
        }
    }

    fn peer(&mut self) {
        let signal = self.rng.random_range(SIGNAL);
        let room = self.rng.random_range(0..ROOMS);
        if self.nodes[signal].alive {
            self.search(signal, room, 1);
        }
        let pause = self.rng.random_range(20..200);
        self.after(pause, Happening::Peer);
    }

    fn search(&mut self, signal: usize, room: usize, peers: u64) {
        let now = self.instant();
        let node = &mut self.nodes[signal];
        node.searches[room].waiting += peers;
        if node.searches[room].active {
            return;
        }
        let step = node.directory.find(&room_id(room), &node.view, now);
        self.step(signal, room, step);
    }

    fn step(&mut self, signal: usize, room: usize, step: Step) {
        let search = &mut self.nodes[signal].searches[room];
        search.number += 1;
        search.active = true;
        match step {
            Step::Owner(term) => {
                search.active = false;
                search.full.clear();
                // The sessions that are there register with a new owner, and the peers that wait come in.
                let peers = std::mem::take(&mut search.waiting).max(1);
                for _ in 0..peers.min(3) {
                    self.send(signal, number(&term.node), Message::Admit { room });
                }
            }
            Step::Read => self.ask_store(signal, room, Question::Read),
            Step::Ask { node, floor } => {
                let search = search.number;
                let asked = number(&node);
                self.send(signal, asked, Message::Ask { room, floor });
                self.after(PATIENCE, Happening::Impatient { signal, room, search, asked });
            }
            Step::NotNow(_) => {
                search.active = false;
                search.full.clear();
                self.outcome.turned_away += std::mem::take(&mut search.waiting);
            }
        }
    }

    fn keep(&mut self, node: usize, event: Event) {
        let now = self.instant();
        let keeping = &mut self.nodes[node];
        let actions = keeping.keeper.handle(event, &mut keeping.view, now);
        for action in actions {
            self.act(node, action);
        }
    }

    fn act(&mut self, node: usize, action: Action) {
        match action {
            Action::Read(room) => self.ask_store(node, index(&room), Question::Read),
            Action::Claim { room, seen, new } => {
                let is_own = seen.as_ref().is_some_and(|seen| number(&seen.term.node) == node);
                if self.nodes[node].full && !is_own {
                    self.outcome.violations.push(format!("{} claimed {room} though full", NODES[node]));
                }
                self.ask_store(node, index(&room), Question::Claim { seen, new });
            }
            Action::Confirm { room, own } => self.ask_store(node, index(&room), Question::Confirm { own }),
            Action::Release { room, term } => self.ask_store(node, index(&room), Question::Release { term }),
            Action::Answer { to, room, answer } => {
                self.send(node, number(&to), Message::Answer { room: index(&room), answer });
            }
            Action::Admitted { ticket, room, term } => {
                if let Some((signal, _)) = self.nodes[node].tickets.remove(&ticket.0) {
                    self.admit(node, signal, index(&room), &term);
                }
            }
            Action::Refused { ticket, .. } => {
                if let Some((signal, room)) = self.nodes[node].tickets.remove(&ticket.0) {
                    self.send(node, signal, Message::Refusal { room });
                }
            }
            Action::Open { room, term } => {
                let opened = (self.now, term, self.nodes[node].life);
                self.opened[index(&room)].push(opened);
            }
            // What nobody takes is claimed anew by whoever is asked for it.
            Action::Offer { room, lease } => {
                let heirs: Vec<_> = MEDIA.filter(|heir| *heir != node).collect();
                let heir = heirs[self.rng.random_range(0..heirs.len())];
                self.outcome.offers += 1;
                if self.rng.random_bool(0.5) {
                    let (life, pause) = (self.nodes[node].life, self.rng.random_range(1..3_000));
                    let (room, lease) = (room.clone(), lease.clone());
                    self.after(pause, Happening::Stays { node, life, room, lease });
                }
                self.send(node, heir, Message::Offer { room: index(&room), lease });
            }
            Action::StepDown { .. } => {}
        }
    }

    fn hand_over(&mut self) {
        let (node, room) = (self.rng.random_range(MEDIA), self.rng.random_range(0..ROOMS));
        if self.nodes[node].alive {
            self.keep(node, Event::HandOver(room_id(room)));
        }
        // Until all is healed, so that it converges.
        if self.now < TROUBLE {
            let pause = self.rng.random_range(100..1_000);
            self.after(pause, Happening::HandOver);
        }
    }

    fn ask_store(&mut self, node: usize, room: usize, question: Question) {
        let life = self.nodes[node].life;
        let asked = self.now;
        let delay = self.rng.random_range(1..=20);
        if self.store_link[node] {
            self.after(delay, Happening::AtStore { node, life, room, question, asked });
        } else {
            let nothing = Happening::FromStore { node, life, room, question, asked, reply: None };
            self.after(PATIENCE, nothing);
        }
    }

    fn at_store(&mut self, node: usize, life: u64, room: usize, question: Question, asked: u64) {
        let before = self.store[room].clone();
        let reply = match &question {
            Question::Read => Reply::Read(before.clone(), self.registered.clone()),
            Question::Claim { seen, new } => {
                let result = claim(&mut self.store[room], seen.as_ref(), new.clone());
                if result.is_ok() {
                    self.outcome.takeovers +=
                        u64::from(seen.as_ref().is_some_and(|s| s.term.node != new.term.node));
                }
                Reply::Changed(result)
            }
            Question::Confirm { own } => {
                let found = confirm(&mut self.store[room], own);
                Reply::Confirmed(found.map(|found| (found, self.registered.clone())))
            }
            Question::Register => {
                self.registered.insert(name(node));
                Reply::Changed(Ok(()))
            }
            Question::Release { term } => {
                release(&mut self.store[room], term);
                if SIGNAL.into_iter().any(|signal| self.nodes[signal].sessions[room] > 0) {
                    self.outcome.violations.push(format!("a live room was released at {}", self.now));
                }
                Reply::Changed(Ok(()))
            }
        };
        if self.store[room] != before {
            self.writes.push((self.now, room, before));
        }
        let delay = self.rng.random_range(1..=20);
        let answered = self.store_link[node];
        let (delay, reply) = if answered { (delay, Some(reply)) } else { (PATIENCE, None) };
        self.after(delay, Happening::FromStore { node, life, room, question, asked, reply });
    }

    fn store_answered(
        &mut self,
        node: usize,
        room: usize,
        question: Question,
        asked: u64,
        reply: Option<Reply>,
    ) {
        self.nodes[node].store_answered = reply.is_some();
        let asked_at = self.at(asked);
        if SIGNAL.contains(&node) {
            if matches!(question, Question::Read) && self.nodes[node].searches[room].active {
                self.signal_read(node, room, reply);
            }
            return;
        }
        let room = room_id(room);
        let event = match (question, reply) {
            (Question::Read, Some(Reply::Read(held, registered))) => {
                Event::Read { room, found: Some((held, registered)) }
            }
            (Question::Read, _) => Event::Read { room, found: None },
            (Question::Claim { .. }, Some(Reply::Changed(result))) => {
                Event::Claimed { room, result: Some(result) }
            }
            (Question::Claim { .. }, _) => Event::Claimed { room, result: None },
            (Question::Confirm { own }, Some(Reply::Confirmed(result))) => {
                Event::Confirmed { room, term: own.term, asked_at, result: Some(result) }
            }
            (Question::Confirm { own }, _) => {
                Event::Confirmed { room, term: own.term, asked_at, result: None }
            }
            (Question::Release { .. } | Question::Register, _) => return,
        };
        self.keep(node, event);
    }

    fn signal_read(&mut self, signal: usize, room: usize, reply: Option<Reply>) {
        let now = self.instant();
        let found = match reply {
            Some(Reply::Read(held, _)) => Some(held),
            _ => None,
        };
        let placed = self.place(signal, &[]);
        let node = &mut self.nodes[signal];
        let step = node.directory.read(&room_id(room), found, || placed, &node.view, now);
        self.step(signal, room, step);
    }

    /// Any media node will do here that is not suspected, nor has said that it is full: placement has tests of its own.
    fn place(&mut self, signal: usize, full: &[usize]) -> Result<NodeId, Refusal> {
        let now = self.instant();
        let first = self.rng.random_range(MEDIA);
        let view = &self.nodes[signal].view;
        let mut order = (0..3).map(|i| 2 + (first - 2 + i) % 3);
        let placed = order.find(|media| !full.contains(media) && !view.is_suspect(&name(*media), now));
        placed.map(name).ok_or(if full.is_empty() { Refusal::CutOff } else { Refusal::Full })
    }

    /// A media node answered a search, or did not in time.
    fn answered(&mut self, signal: usize, asked: usize, room: usize, answer: Option<Answer>) {
        let next = match answer {
            Some(Answer::NotNow(Refusal::Full)) => {
                self.outcome.full += 1;
                let search = &mut self.nodes[signal].searches[room];
                search.full.push(asked);
                let full = search.full.clone();
                self.place(signal, &full)
            }
            _ => Err(Refusal::Full),
        };
        let directory = &mut self.nodes[signal].directory;
        let step = directory.answered(&room_id(room), &name(asked), answer, |_| next);
        self.step(signal, room, step);
    }

    /// Each media node is full for half of the time; until all is healed, so that it converges.
    fn fill(&mut self) {
        let healed = self.now >= TROUBLE;
        for node in MEDIA {
            let full = !healed && self.rng.random();
            self.nodes[node].full = full;
            self.keep(node, Event::Full(full));
        }
        if !healed {
            let pause = self.rng.random_range(100..1_000);
            self.after(pause, Happening::Full);
        }
    }

    fn fault(&mut self) {
        match self.faults {
            Faults::None => {}
            Faults::OneSilentDeath => {
                let victim = self.rng.random_range(MEDIA);
                for room in 0..ROOMS {
                    if self.nodes[victim].keeper.term(&room_id(room)).is_some() {
                        self.gap_since[room] = Some(self.now);
                    }
                }
                self.nodes[victim].alive = false;
            }
            Faults::StoreAway => self.store_link = [false; 5],
            Faults::All | Faults::AllAndReckless | Faults::AllAndMoving | Faults::AllAndFull => {
                self.any_fault();
            }
        }
    }

    fn any_fault(&mut self) {
        let node = self.rng.random_range(0..5);
        match self.rng.random_range(0..10) {
            // A partition: some nodes on the one side, the others and perhaps the store on the other.
            0 | 1 => {
                let sides: [bool; 5] = std::array::from_fn(|_| self.rng.random());
                for (from, to) in (0..5).flat_map(|from| (0..5).map(move |to| (from, to))) {
                    self.link[from][to] = sides[from] == sides[to];
                }
                let store: bool = self.rng.random();
                self.store_link = std::array::from_fn(|node| sides[node] == store);
            }
            // One direction of one link.
            2 => {
                let to = self.rng.random_range(0..5);
                self.link[node][to] = false;
            }
            // A node is deaf, or mute, or both.
            3 => {
                let (deaf, mute): (bool, bool) = (self.rng.random(), self.rng.random());
                for other in 0..5 {
                    self.link[other][node] &= !deaf;
                    self.link[node][other] &= !mute;
                }
            }
            4 => self.store_link[node] = false,
            5 => self.store_link = [false; 5],
            // A failover that loses the last writes.
            6 => {
                let lost = self.rng.random_range(0..1_500);
                while let Some((at, room, before)) = self.writes.pop() {
                    if at + lost < self.now {
                        break;
                    }
                    self.store[room] = before;
                }
            }
            7 => {
                self.store = Default::default();
                self.registered.clear();
                self.writes.clear();
            }
            8 => self.restart(node, true),
            _ => self.restart(node, false),
        }
    }

    /// A node dies and comes back as somebody who knows nothing.
    fn restart(&mut self, node: usize, with_a_word: bool) {
        let life = self.nodes[node].life + 1;
        self.nodes[node] = fresh(node, life, self.instant());
        if with_a_word {
            for other in 0..5 {
                self.send(node, other, Message::Refused);
            }
        }
        self.begin(node);
    }

    fn heal(&mut self) {
        self.link = [[true; 5]; 5];
        if self.faults != Faults::OneSilentDeath {
            self.store_link = [true; 5];
        }
    }

    fn check_convergence(&mut self) {
        for room in 0..ROOMS {
            let alive = |node: &usize| self.nodes[*node].alive;
            let id = room_id(room);
            let has_sessions = SIGNAL.filter(alive).any(|signal| self.nodes[signal].sessions[room] > 0);
            if !has_sessions {
                continue;
            }
            let owners: Vec<_> =
                MEDIA.filter(alive).filter_map(|node| self.nodes[node].keeper.term(&id)).collect();
            let stored = self.store[room].as_ref().map(|lease| &lease.term);
            let believed: Vec<_> = SIGNAL
                .filter(alive)
                .filter(|signal| self.nodes[*signal].sessions[room] > 0)
                .map(|signal| self.nodes[signal].directory.newest(&id))
                .collect();
            let agreed = owners.len() == 1
                && stored == owners.first().copied()
                && believed.iter().all(|term| *term == stored);
            if !agreed {
                let text = format!("room {room}: owned {owners:?}, stored {stored:?}, believed {believed:?}");
                self.outcome.violations.push(text);
            }
            if let Some(since) = self.gap_since[room] {
                self.outcome.longest_gap = self.outcome.longest_gap.max(Duration::from_millis(END - since));
            }
        }
    }
}

fn fresh(node: usize, life: u64, now: Instant) -> Node {
    let mut view = Neighbourhood::new(name(node), Timing::default());
    for other in 0..5 {
        view.add(name(other), MEDIA.contains(&other), now);
    }
    Node {
        life,
        alive: true,
        view,
        store_answered: true,
        full: false,
        keeper: Keeper::new(name(node), Incarnation(life), Timing::default()),
        directory: Directory::default(),
        searches: vec![Search::default(); ROOMS],
        sessions: [0; ROOMS],
        accepted: Default::default(),
        tickets: BTreeMap::new(),
    }
}
