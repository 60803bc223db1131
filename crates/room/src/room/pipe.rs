//! How media gets from one of a room's sites to another: a pair of PipeTransports between two sites (a *pipe*), and on
//! it a producer's way to a site that wants it (a *branch*). A site gets a producer once, however many receive it
//! there, from a site that has it and has few branches to serve, of its own region where there is one: so a wide room
//! is a tree. What nobody at a site receives is not piped to it.
//!
//! This knows neither peers nor what they may receive. It is told which session wants what where, and says through
//! [`Pipes::poll`] what is to be done, what has arrived, and what was lost. Work at a live site is never called back:
//! when its result comes and nobody needs it any more, it is undone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::event::{MediaDone, MediaFailure, MediaOp, PipeEnd, Place};
use crate::id::{ConsumerId, DataConsumerId, DataProducerId, ProducerId, Region, SessionId, SiteId};

/// What is piped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Flow {
    Media(ProducerId),
    Data(DataProducerId),
}

/// What the room is to do or to know, in this order.
#[derive(Debug)]
pub(super) enum Output {
    /// Work; its result is handed to [`Pipes::done`].
    Work { site: SiteId, what: MediaOp, step: Step },
    /// Work whose result does not matter.
    Undo { site: SiteId, what: MediaOp },
    /// The flow can be consumed at this site.
    Arrived(Flow, SiteId),
    /// The flow cannot be brought there. These wanted it.
    Failed(Flow, BTreeSet<SessionId>),
    /// What was on its way or there is gone, with all that consumed it. These wanted it, and may want it again.
    Lost(Flow, BTreeSet<SessionId>),
}

/// A piece of work, as its result comes back.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// One end of a pipe.
    End { between: Between, pipe: u64, at: SiteId },
    /// One end told of the other.
    Connect { between: Between, pipe: u64 },
    /// What sends the flow at `from`.
    Send { flow: Flow, from: SiteId, to: SiteId },
    /// What receives it at `to`.
    Receive { flow: Flow, to: SiteId },
}

/// Two sites, the lower first.
type Between = (SiteId, SiteId);

#[derive(Debug)]
pub(super) struct Pipes {
    fan_out: usize,
    places: BTreeMap<SiteId, Place>,
    pipes: BTreeMap<Between, Pipe>,
    trees: BTreeMap<Flow, Tree>,
    last_pipe: u64,
    out: VecDeque<Output>,
}

#[derive(Debug)]
struct Pipe {
    /// Tells it from one that was between the same sites before.
    id: u64,
    ends: BTreeMap<SiteId, PipeEnd>,
    connected: usize,
    branches: BTreeSet<(Flow, SiteId)>,
}

/// A flow's way through the room: from its home to the sites that want it, some by way of others.
#[derive(Debug)]
struct Tree {
    home: SiteId,
    branches: BTreeMap<SiteId, Branch>,
}

#[derive(Debug)]
struct Branch {
    from: SiteId,
    state: State,
    receivers: BTreeSet<SessionId>,
    /// What it hangs on is gone while work for it is under way: to be undone when that ends.
    doomed: bool,
}

#[derive(Debug)]
enum State {
    /// For the pipe, or for the branch that it grows from.
    Waiting,
    Sending,
    Receiving(Sender),
    Ready(Sender),
}

/// What sends into a pipe.
#[derive(Debug, Clone)]
enum Sender {
    Consumer(ConsumerId),
    DataConsumer(DataConsumerId),
}

impl Pipes {
    pub(super) fn new(fan_out: usize) -> Self {
        Self {
            fan_out: fan_out.max(1),
            places: BTreeMap::new(),
            pipes: BTreeMap::new(),
            trees: BTreeMap::new(),
            last_pipe: 0,
            out: VecDeque::new(),
        }
    }

    /// The next thing to do or to know.
    pub(super) fn poll(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// A site can be used from now on.
    pub(super) fn site_ready(&mut self, site: SiteId, place: Place) {
        self.places.insert(site, place);
    }

    /// Pipes that end at this site, and branches that come to it or leave it.
    pub(super) fn at(&self, site: SiteId) -> (usize, usize) {
        let pipes = self.pipes.keys().filter(|between| between.0 == site || between.1 == site).count();
        let touches = |(to, branch): (&SiteId, &Branch)| usize::from(*to == site || branch.from == site);
        let branches = self.trees.values().flat_map(|tree| &tree.branches).map(touches).sum();
        (pipes, branches)
    }

    /// Pipes and branches in all.
    pub(super) fn count(&self) -> (usize, usize) {
        (self.pipes.len(), self.trees.values().map(|tree| tree.branches.len()).sum())
    }

    /// The PipeTransports between two sites.
    #[cfg(test)]
    pub(super) fn ends(&self, one: SiteId, other: SiteId) -> Option<Vec<String>> {
        let pipe = self.pipes.get(&between(one, other))?;
        Some(pipe.ends.values().map(|end| end.id.to_string()).collect())
    }

    /// The sites besides its home where a flow can be consumed.
    pub(super) fn sites_of(&self, flow: &Flow) -> Vec<SiteId> {
        let ready = |(site, branch): (&SiteId, &Branch)| branch.is_ready().then_some(*site);
        self.trees.get(flow).map(|tree| tree.branches.iter().filter_map(ready).collect()).unwrap_or_default()
    }

    /// A session at `at` wants a flow whose home is another site. Whether it is there already; if not,
    /// [`Output::Arrived`] will say so, or [`Output::Failed`] or [`Output::Lost`] will name the session.
    pub(super) fn want(&mut self, flow: &Flow, home: SiteId, at: SiteId, session: SessionId) -> bool {
        let tree = self.trees.entry(flow.clone()).or_insert_with(|| Tree { home, branches: BTreeMap::new() });
        if let Some(branch) = tree.branches.get_mut(&at) {
            branch.receivers.insert(session);
            return branch.is_ready();
        }
        self.grow(flow, at, BTreeSet::from([session]));
        false
    }

    /// A session does not want a flow any more. Says nothing to a session that never did.
    pub(super) fn release(&mut self, flow: &Flow, session: SessionId) {
        let Some(tree) = self.trees.get_mut(flow) else { return };
        let released =
            tree.branches.iter_mut().filter_map(|(at, b)| b.receivers.remove(&session).then_some(*at));
        for at in released.collect::<Vec<_>>() {
            self.prune(flow, at);
        }
    }

    /// A session is gone: it wants nothing any more.
    pub(super) fn forget(&mut self, session: SessionId) {
        for flow in self.trees.keys().cloned().collect::<Vec<_>>() {
            self.release(&flow, session);
        }
    }

    /// A flow has ended at its home.
    pub(super) fn close(&mut self, flow: &Flow) {
        let Some(tree) = self.trees.get_mut(flow) else { return };
        let sites: Vec<_> = tree.branches.keys().copied().collect();
        tree.branches.values_mut().for_each(|branch| branch.receivers.clear());
        for at in sites {
            self.cut(flow, at);
        }
    }

    /// A site is gone, with all that was there; work under way there will not be heard of. Flows whose home it was
    /// must have been closed before.
    pub(super) fn site_lost(&mut self, site: SiteId) {
        self.places.remove(&site);
        let ended: Vec<_> =
            self.pipes.keys().filter(|between| between.0 == site || between.1 == site).copied().collect();
        for between in ended {
            self.drop_pipe(between);
        }
        for flow in self.trees.keys().cloned().collect::<Vec<_>>() {
            let Some(tree) = self.trees.get_mut(&flow) else { continue };
            let gone = tree.branches.remove(&site);
            for at in tree.children(site) {
                // Its producer went with the transport: what is left is to say so, unless work for it is under way.
                if let Some(branch) = self.branch_mut(&flow, at)
                    && matches!(branch.state, State::Sending | State::Ready(_))
                {
                    branch.state = State::Waiting;
                }
                self.lose(&flow, at);
            }
            // The site that it had the flow from may have had it for nobody else.
            if let Some(branch) = gone {
                self.prune(&flow, branch.from);
            }
            self.forget_empty(&flow);
        }
    }

    /// The result of a [`Output::Work`].
    pub(super) fn done(&mut self, step: Step, result: Result<MediaDone, MediaFailure>) {
        match step {
            Step::End { between, pipe, at } => self.end_created(between, pipe, at, result),
            Step::Connect { between, pipe } => self.end_connected(between, pipe, result.is_ok()),
            Step::Send { flow, from, to } => self.sending(&flow, from, to, result),
            Step::Receive { flow, to } => self.receiving(&flow, to, result),
        }
    }

    fn end_created(
        &mut self,
        between: Between,
        id: u64,
        at: SiteId,
        result: Result<MediaDone, MediaFailure>,
    ) {
        let pipe = self.pipes.get_mut(&between).filter(|pipe| pipe.id == id);
        match (result, pipe) {
            (Ok(MediaDone::Pipe(end)), None) => self.undo(at, MediaOp::CloseTransport(end.id)),
            (_, None) => {}
            (Ok(MediaDone::Pipe(end)), Some(pipe)) => {
                pipe.ends.insert(at, *end);
                let (Some(low), Some(high)) = (pipe.ends.get(&between.0), pipe.ends.get(&between.1)) else {
                    return;
                };
                let (low, high) = (low.clone(), high.clone());
                for (site, local, remote) in [(between.0, &low, &high), (between.1, &high, &low)] {
                    let what = MediaOp::ConnectPipe {
                        transport: local.id.clone(),
                        remote: Box::new(remote.clone()),
                    };
                    self.out.push_back(Output::Work {
                        site,
                        what,
                        step: Step::Connect { between, pipe: id },
                    });
                }
            }
            (_, Some(_)) => self.pipe_failed(between),
        }
    }

    fn end_connected(&mut self, between: Between, id: u64, connected: bool) {
        let Some(pipe) = self.pipes.get_mut(&between).filter(|pipe| pipe.id == id) else { return };
        if !connected {
            self.pipe_failed(between);
            return;
        }
        pipe.connected += 1;
        for (flow, at) in pipe.branches.clone() {
            self.advance(&flow, at);
        }
    }

    fn sending(&mut self, flow: &Flow, from: SiteId, to: SiteId, result: Result<MediaDone, MediaFailure>) {
        let between = between(from, to);
        let transport =
            self.pipes.get(&between).and_then(|pipe| pipe.ends.get(&to)).map(|end| end.id.clone());
        let needed = self.trees.get(flow).is_some_and(|tree| tree.needs(to));
        let ours = |branch: &&mut Branch| branch.from == from && matches!(branch.state, State::Sending);
        let branch = self.trees.get_mut(flow).and_then(|tree| tree.branches.get_mut(&to)).filter(ours);
        let (sender, what) = match (result, transport) {
            (Ok(MediaDone::PipedOut(out)), Some(transport)) => {
                let Flow::Media(producer) = flow else { return };
                let what = MediaOp::PipeIn {
                    transport,
                    producer: producer.clone(),
                    kind: out.kind,
                    rtp_parameters: out.rtp_parameters,
                };
                (Sender::Consumer(out.consumer), what)
            }
            (Ok(MediaDone::PipedDataOut(out)), Some(transport)) => {
                let Flow::Data(data_producer) = flow else { return };
                let what = MediaOp::PipeDataIn {
                    transport,
                    data_producer: data_producer.clone(),
                    stream: out.stream,
                    label: out.label,
                    protocol: out.protocol,
                };
                (Sender::DataConsumer(out.consumer), what)
            }
            (result, _) => {
                // Without its pipe nothing that was made on it is left.
                if branch.is_some() {
                    self.branch_failed(flow, to, result.is_ok());
                }
                return;
            }
        };
        match branch {
            Some(branch) if !branch.doomed && needed => {
                branch.state = State::Receiving(sender);
                let step = Step::Receive { flow: flow.clone(), to };
                self.out.push_back(Output::Work { site: to, what, step });
            }
            Some(_) => {
                self.undo_sender(from, sender);
                self.regrow(flow, to);
            }
            None => self.undo_sender(from, sender),
        }
    }

    fn receiving(&mut self, flow: &Flow, to: SiteId, result: Result<MediaDone, MediaFailure>) {
        let branch = self.trees.get_mut(flow).and_then(|tree| tree.branches.get_mut(&to));
        let Some(branch) = branch else {
            if result.is_ok() {
                self.undo(to, close_of(flow));
            }
            return;
        };
        let State::Receiving(sender) = &branch.state else { return };
        let (sender, from, doomed) = (sender.clone(), branch.from, branch.doomed);
        match (result.is_ok(), doomed) {
            (true, false) => {
                branch.state = State::Ready(sender);
                self.out.push_back(Output::Arrived(flow.clone(), to));
                let children = self.trees.get(flow).map(|tree| tree.children(to)).unwrap_or_default();
                for at in children {
                    self.advance(flow, at);
                }
                // Everybody may have left meanwhile.
                self.prune(flow, to);
            }
            (received, true) => {
                if received {
                    self.undo(to, close_of(flow));
                }
                self.undo_sender(from, sender);
                self.regrow(flow, to);
            }
            (false, false) => {
                self.undo_sender(from, sender);
                self.branch_failed(flow, to, false);
            }
        }
    }

    /// Starts a branch to a site that has none.
    fn grow(&mut self, flow: &Flow, at: SiteId, receivers: BTreeSet<SessionId>) {
        let Some(from) = self.parent_for(flow, at) else { return };
        let branch = Branch { from, state: State::Waiting, receivers, doomed: false };
        if let Some(tree) = self.trees.get_mut(flow) {
            tree.branches.insert(at, branch);
        }
        self.pipe_between(from, at).branches.insert((flow.clone(), at));
        self.advance(flow, at);
    }

    /// A site that has the flow, or will, and serves fewer branches of it than it may: of the region of `at`, and near
    /// the flow's home, and of few branches.
    fn parent_for(&self, flow: &Flow, at: SiteId) -> Option<SiteId> {
        let tree = self.trees.get(flow)?;
        let region = |site: SiteId| self.places.get(&site).and_then(|place| place.region.as_ref());
        let wanted: Option<&Region> = region(at);
        let living = tree.branches.iter().filter(|(_, branch)| !branch.doomed).map(|(site, _)| *site);
        std::iter::once(tree.home)
            .chain(living)
            .filter(|site| *site != at)
            .map(|site| (site, tree.children(site).len()))
            .filter(|(_, children)| *children < self.fan_out)
            .min_by_key(|(site, children)| (region(*site) != wanted, tree.depth(*site), *children, *site))
            .map(|(site, _)| site)
            .or(Some(tree.home))
    }

    fn pipe_between(&mut self, one: SiteId, other: SiteId) -> &mut Pipe {
        let between = between(one, other);
        if !self.pipes.contains_key(&between) {
            self.last_pipe += 1;
            let pipe = self.last_pipe;
            let node = |site: SiteId| self.places.get(&site).map(|place| &place.node);
            let leaves_node = node(one) != node(other);
            for at in [between.0, between.1] {
                let step = Step::End { between, pipe, at };
                let what = MediaOp::CreatePipe { leaves_node };
                self.out.push_back(Output::Work { site: at, what, step });
            }
        }
        self.pipes.entry(between).or_insert_with(|| Pipe {
            id: self.last_pipe,
            ends: BTreeMap::new(),
            connected: 0,
            branches: BTreeSet::new(),
        })
    }

    /// Sends the flow, once the pipe is connected and the flow is where it is to come from.
    fn advance(&mut self, flow: &Flow, at: SiteId) {
        let Some(tree) = self.trees.get_mut(flow) else { return };
        let Some(from) = tree
            .branches
            .get(&at)
            .filter(|branch| matches!(branch.state, State::Waiting))
            .map(|branch| branch.from)
        else {
            return;
        };
        let there = from == tree.home || tree.branches.get(&from).is_some_and(Branch::is_ready);
        let pipe = self.pipes.get(&between(from, at)).filter(|pipe| pipe.connected == 2);
        let (true, Some(end)) = (there, pipe.and_then(|pipe| pipe.ends.get(&from))) else { return };
        let transport = end.id.clone();
        let what = match flow {
            Flow::Media(producer) => MediaOp::PipeOut { transport, producer: producer.clone() },
            Flow::Data(producer) => MediaOp::PipeDataOut { transport, data_producer: producer.clone() },
        };
        if let Some(branch) = tree.branches.get_mut(&at) {
            branch.state = State::Sending;
        }
        let step = Step::Send { flow: flow.clone(), from, to: at };
        self.out.push_back(Output::Work { site: from, what, step });
    }

    /// Ends a branch that nobody needs, and those on its way that are needed for nothing else.
    fn prune(&mut self, flow: &Flow, at: SiteId) {
        let Some(tree) = self.trees.get(flow) else { return };
        let Some(branch) = tree.branches.get(&at) else { return };
        // What is under way ends first; then this is asked again.
        if tree.needs(at) || matches!(branch.state, State::Sending | State::Receiving(_)) {
            return;
        }
        self.cut(flow, at);
    }

    /// Ends a branch, and with it those that grow from it.
    fn cut(&mut self, flow: &Flow, at: SiteId) {
        let Some(tree) = self.trees.get_mut(flow) else { return };
        let Some(branch) = tree.branches.get_mut(&at) else { return };
        let from = branch.from;
        match &branch.state {
            State::Sending | State::Receiving(_) => branch.doomed = true,
            State::Ready(sender) => {
                let sender = sender.clone();
                tree.branches.remove(&at);
                self.undo(at, close_of(flow));
                self.undo_sender(from, sender);
                self.detach(flow, from, at);
            }
            State::Waiting => {
                tree.branches.remove(&at);
                self.detach(flow, from, at);
            }
        }
        let children = self.trees.get(flow).map(|tree| tree.children(at)).unwrap_or_default();
        for child in children {
            self.lose(flow, child);
        }
        self.prune(flow, from);
        self.forget_empty(flow);
    }

    /// Ends a branch whose receivers would rather keep it.
    fn lose(&mut self, flow: &Flow, at: SiteId) {
        let Some(branch) = self.branch_mut(flow, at) else { return };
        let receivers = std::mem::take(&mut branch.receivers);
        self.cut(flow, at);
        if !receivers.is_empty() {
            self.out.push_back(Output::Lost(flow.clone(), receivers));
        }
    }

    /// A doomed branch has ended at last. Those who came meanwhile get a new one.
    fn regrow(&mut self, flow: &Flow, at: SiteId) {
        let Some(tree) = self.trees.get_mut(flow) else { return };
        let Some(branch) = tree.branches.remove(&at) else { return };
        self.detach(flow, branch.from, at);
        if !branch.receivers.is_empty() {
            self.grow(flow, at, branch.receivers);
        }
        self.prune(flow, branch.from);
        self.forget_empty(flow);
    }

    fn branch_failed(&mut self, flow: &Flow, at: SiteId, again: bool) {
        let Some(tree) = self.trees.get_mut(flow) else { return };
        let Some(branch) = tree.branches.get_mut(&at) else { return };
        if branch.doomed || again {
            self.regrow(flow, at);
            return;
        }
        let receivers = std::mem::take(&mut branch.receivers);
        branch.state = State::Waiting;
        self.cut(flow, at);
        self.out.push_back(Output::Failed(flow.clone(), receivers));
    }

    fn pipe_failed(&mut self, between: Between) {
        let Some(pipe) = self.pipes.get(&between) else { return };
        let branches = pipe.branches.clone();
        self.drop_pipe(between);
        for (flow, at) in branches {
            self.branch_failed(&flow, at, false);
        }
    }

    fn detach(&mut self, flow: &Flow, from: SiteId, at: SiteId) {
        let between = between(from, at);
        let Some(pipe) = self.pipes.get_mut(&between) else { return };
        pipe.branches.remove(&(flow.clone(), at));
        if pipe.branches.is_empty() {
            self.drop_pipe(between);
        }
    }

    fn drop_pipe(&mut self, between: Between) {
        let Some(pipe) = self.pipes.remove(&between) else { return };
        for (site, end) in pipe.ends {
            self.undo(site, MediaOp::CloseTransport(end.id));
        }
    }

    fn branch_mut(&mut self, flow: &Flow, at: SiteId) -> Option<&mut Branch> {
        self.trees.get_mut(flow)?.branches.get_mut(&at)
    }

    fn forget_empty(&mut self, flow: &Flow) {
        if self.trees.get(flow).is_some_and(|tree| tree.branches.is_empty()) {
            self.trees.remove(flow);
        }
    }

    fn undo(&mut self, site: SiteId, what: MediaOp) {
        self.out.push_back(Output::Undo { site, what });
    }

    fn undo_sender(&mut self, from: SiteId, sender: Sender) {
        let what = match sender {
            Sender::Consumer(id) => MediaOp::CloseConsumer(id),
            Sender::DataConsumer(id) => MediaOp::CloseDataConsumer(id),
        };
        self.undo(from, what);
    }
}

impl Tree {
    /// The sites that have the flow from this one.
    fn children(&self, site: SiteId) -> Vec<SiteId> {
        let from = |(at, branch): (&SiteId, &Branch)| (branch.from == site).then_some(*at);
        self.branches.iter().filter_map(from).collect()
    }

    /// Whether anybody receives the flow at this site, or by way of it.
    fn needs(&self, site: SiteId) -> bool {
        let here = self.branches.get(&site).is_some_and(|branch| !branch.receivers.is_empty());
        here || self.branches.values().any(|branch| branch.from == site)
    }

    /// How many pipes lie between the flow's home and this site.
    fn depth(&self, mut site: SiteId) -> usize {
        let mut depth = 0;
        while let Some(branch) = self.branches.get(&site) {
            site = branch.from;
            depth += 1;
        }
        depth
    }
}

impl Branch {
    fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready(_)) && !self.doomed
    }
}

fn between(one: SiteId, other: SiteId) -> Between {
    (one.min(other), one.max(other))
}

/// What ends a flow where it was piped to.
fn close_of(flow: &Flow) -> MediaOp {
    match flow {
        Flow::Media(id) => MediaOp::CloseProducer(id.clone()),
        Flow::Data(id) => MediaOp::CloseDataProducer(id.clone()),
    }
}
