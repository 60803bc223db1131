//! How media gets from one of a room's sites to another: a pair of PipeTransports between two sites (a *pipe*), and on
//! it a producer's way to a site that wants it (a *branch*). A site gets a producer once, however many receive it
//! there, from a site that has it and has few branches to serve, of its own region where there is one: so a wide room
//! is a tree. What nobody at a site receives is not piped to it. When a site is to end, those that have something by
//! way of it get it another way beside that one, until their receivers have gone over.
//!
//! This knows neither peers nor what they may receive. It is told which session wants what where, and says through
//! [`Pipes::poll`] what is to be done, what has arrived, and what was lost. Work at a live site is never called back:
//! when its result comes and nobody needs it any more, it is undone.

mod growth;
mod tree;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeBounds;

use serde::{Deserialize, Serialize};

use super::snapshot::pairs;
use crate::event::{MediaDone, MediaFailure, MediaOp, PipeEnd, Place};
use crate::id::{SessionId, SiteId};
use tree::{Branch, Sender, State, Tree};
pub(super) use tree::{Flow, Spot, data_producer_at, producer_at};

/// What the room is to do or to know, in this order.
#[derive(Debug)]
pub(super) enum Output {
    /// Work; its result is handed to [`Pipes::done`].
    Work { site: SiteId, what: MediaOp, step: Step },
    /// Work whose result does not matter.
    Undo { site: SiteId, what: MediaOp },
    /// The flow can be consumed at this site.
    Arrived(Flow, Spot),
    /// The flow cannot be brought to this site. These wanted it there.
    Failed(Flow, Spot, BTreeSet<SessionId>),
    /// What was on its way or at this site is gone, with all that consumed it. These wanted it, and may want it again.
    Lost(Flow, Spot, BTreeSet<SessionId>),
}

/// A piece of work, as its result comes back.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Step {
    /// One end of a pipe.
    End { between: Between, pipe: u64, at: SiteId },
    /// One end told of the other.
    Connect { between: Between, pipe: u64 },
    /// What sends the flow at `from`.
    Send { flow: Flow, from: Spot, to: Spot },
    /// What receives it at `to`.
    Receive { flow: Flow, to: Spot },
}

/// Two sites, the lower first.
type Between = (SiteId, SiteId);

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Pipes {
    fan_out: usize,
    #[serde(with = "pairs")]
    places: BTreeMap<SiteId, Place>,
    #[serde(with = "pairs")]
    pipes: BTreeMap<Between, Pipe>,
    #[serde(with = "pairs")]
    trees: BTreeMap<Flow, Tree>,
    /// Sites that hand nothing on, because they are to end.
    leaving: BTreeSet<SiteId>,
    last_pipe: u64,
    #[serde(skip)]
    out: VecDeque<Output>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Pipe {
    /// Tells it from one that was between the same sites before.
    id: u64,
    #[serde(with = "pairs")]
    ends: BTreeMap<SiteId, PipeEnd>,
    connected: usize,
    branches: BTreeSet<(Flow, Spot)>,
}

impl Pipes {
    pub(super) fn new(fan_out: usize) -> Self {
        Self {
            fan_out: fan_out.max(1),
            places: BTreeMap::new(),
            pipes: BTreeMap::new(),
            trees: BTreeMap::new(),
            leaving: BTreeSet::new(),
            last_pipe: 0,
            out: VecDeque::new(),
        }
    }

    /// Another limit from now on.
    pub(super) fn set_fan_out(&mut self, fan_out: usize) {
        self.fan_out = fan_out.max(1);
    }

    /// The next thing to do or to know.
    pub(super) fn poll(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// A site can be used from now on.
    pub(super) fn site_ready(&mut self, site: SiteId, place: Place) {
        self.places.insert(site, place);
    }

    /// A site is to end soon, or is not any more. From one that is, other sites get nothing but what has its home there; those
    /// who got more from it are brought that another way, beside the one that they have, until nobody receives by that.
    pub(super) fn set_leaving(&mut self, site: SiteId, leaving: bool) {
        if !leaving {
            self.leaving.remove(&site);
            return;
        }
        self.leaving.insert(site);
        for flow in self.trees.keys().cloned().collect::<Vec<_>>() {
            self.reroute(&flow, site);
        }
    }

    /// Whether a site is to end soon.
    pub(super) fn is_leaving(&self, site: SiteId) -> bool {
        self.leaving.contains(&site)
    }

    /// Where a site is that can be used.
    pub(super) fn place(&self, site: SiteId) -> Option<&Place> {
        self.places.get(&site)
    }

    /// Pipes that end at this site, and branches that come to it or leave it.
    pub(super) fn at(&self, site: SiteId) -> (usize, usize) {
        let pipes = self.pipes.keys().filter(|between| between.0 == site || between.1 == site).count();
        let touches =
            |(to, branch): (&Spot, &Branch)| usize::from(to.site == site || branch.from.site == site);
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

    /// Where besides its home a flow can be consumed.
    pub(super) fn spots_of(&self, flow: &Flow) -> Vec<Spot> {
        let ready = |(spot, branch): (&Spot, &Branch)| branch.is_ready().then_some(*spot);
        self.trees.get(flow).map(|tree| tree.branches.iter().filter_map(ready).collect()).unwrap_or_default()
    }

    /// Which of a flow's spots at a site is to be consumed, if any can be. At its home this is asked for nobody.
    pub(super) fn nth_at(&self, flow: &Flow, site: SiteId) -> Option<u32> {
        let tree = self.trees.get(flow)?;
        let spot = tree.current(site)?;
        tree.branches.get(&spot).filter(|branch| branch.is_ready()).map(|_| spot.nth)
    }

    /// Whether the flow is being brought to a site for this session.
    pub(super) fn is_coming(&self, flow: &Flow, site: SiteId, session: SessionId) -> bool {
        let Some(tree) = self.trees.get(flow) else { return false };
        let branch = tree.current(site).and_then(|spot| tree.branches.get(&spot));
        branch.is_some_and(|branch| branch.receivers.contains(&session))
    }

    /// A session at `at` wants a flow whose home is another site. Whether it is there already; if not,
    /// [`Output::Arrived`] will say so, or [`Output::Failed`] or [`Output::Lost`] will name the session.
    pub(super) fn want(&mut self, flow: &Flow, home: SiteId, at: SiteId, session: SessionId) -> bool {
        let tree = self.trees.entry(flow.clone()).or_insert_with(|| Tree::new(home));
        if let Some(branch) = tree.current(at).and_then(|spot| tree.branches.get_mut(&spot)) {
            branch.receivers.insert(session);
            return branch.is_ready();
        }
        self.grow(flow, at, BTreeSet::from([session]));
        false
    }

    /// A session does not want a flow at these of its spots at a site any more. Says nothing to a session that never did.
    pub(super) fn release(
        &mut self,
        flow: &Flow,
        site: SiteId,
        nth: impl RangeBounds<u32>,
        session: SessionId,
    ) {
        let Some(tree) = self.trees.get(flow) else { return };
        for spot in tree.at(site, nth).map(|(spot, _)| spot).collect::<Vec<_>>() {
            if self.branch_mut(flow, spot).is_some_and(|branch| branch.receivers.remove(&session)) {
                self.prune(flow, spot);
            }
        }
    }

    /// A session is gone: it wants nothing any more.
    pub(super) fn forget(&mut self, session: SessionId) {
        for flow in self.trees.keys().cloned().collect::<Vec<_>>() {
            let Some(tree) = self.trees.get_mut(&flow) else { continue };
            let released =
                tree.branches.iter_mut().filter_map(|(at, b)| b.receivers.remove(&session).then_some(*at));
            for at in released.collect::<Vec<_>>() {
                self.prune(&flow, at);
            }
        }
    }

    /// A flow has ended at its home.
    pub(super) fn close(&mut self, flow: &Flow) {
        let Some(tree) = self.trees.get_mut(flow) else { return };
        let spots: Vec<_> = tree.branches.keys().copied().collect();
        tree.branches.values_mut().for_each(|branch| branch.receivers.clear());
        for at in spots {
            self.cut(flow, at);
        }
    }

    /// A site is gone, with all that was there; work under way there will not be heard of. Flows whose home it was
    /// must have been closed before.
    pub(super) fn site_lost(&mut self, site: SiteId) {
        self.places.remove(&site);
        self.leaving.remove(&site);
        let ended: Vec<_> =
            self.pipes.keys().filter(|between| between.0 == site || between.1 == site).copied().collect();
        for between in ended {
            self.drop_pipe(between);
        }
        for flow in self.trees.keys().cloned().collect::<Vec<_>>() {
            let Some(tree) = self.trees.get_mut(&flow) else { continue };
            let there: Vec<_> = tree.at(site, ..).map(|(spot, _)| spot).collect();
            let had_from: Vec<_> = there
                .iter()
                .filter_map(|spot| tree.branches.remove(spot))
                .map(|branch| branch.from)
                .collect();
            // Those as well whose spot there has ended before.
            for at in tree.fed_from(site) {
                // Its producer went with the transport: what is left is to say so, unless work for it is under way.
                if let Some(branch) = self.branch_mut(&flow, at)
                    && matches!(branch.state, State::Sending | State::Ready(_))
                {
                    branch.state = State::Waiting;
                }
                self.lose(&flow, at);
            }
            // The sites that it had the flow from may have had it for nobody else.
            for from in had_from {
                self.prune(&flow, from);
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

    fn sending(&mut self, flow: &Flow, from: Spot, to: Spot, result: Result<MediaDone, MediaFailure>) {
        let pipe = self.pipes.get(&between(from.site, to.site));
        let transport = pipe.and_then(|pipe| pipe.ends.get(&to.site)).map(|end| end.id.clone());
        let needed = self.trees.get(flow).is_some_and(|tree| tree.needs(to));
        let ours = |branch: &&mut Branch| branch.from == from && matches!(branch.state, State::Sending);
        let branch = self.trees.get_mut(flow).and_then(|tree| tree.branches.get_mut(&to)).filter(ours);
        let (sender, what) = match (result, transport) {
            (Ok(MediaDone::PipedOut(out)), Some(transport)) => {
                let Flow::Media(producer) = flow else { return };
                let what = MediaOp::PipeIn {
                    transport,
                    producer: producer_at(producer, to.nth),
                    kind: out.kind,
                    rtp_parameters: out.rtp_parameters,
                };
                (Sender::Consumer(out.consumer), what)
            }
            (Ok(MediaDone::PipedDataOut(out)), Some(transport)) => {
                let Flow::Data(data_producer) = flow else { return };
                let what = MediaOp::PipeDataIn {
                    transport,
                    data_producer: data_producer_at(data_producer, to.nth),
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
                self.out.push_back(Output::Work { site: to.site, what, step });
            }
            Some(_) => {
                self.undo_sender(from.site, sender);
                self.regrow(flow, to);
            }
            None => self.undo_sender(from.site, sender),
        }
    }

    fn receiving(&mut self, flow: &Flow, to: Spot, result: Result<MediaDone, MediaFailure>) {
        let branch = self.trees.get_mut(flow).and_then(|tree| tree.branches.get_mut(&to));
        let Some(branch) = branch else {
            if result.is_ok() {
                self.undo(to.site, flow.close_at(to.nth));
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
                    self.undo(to.site, flow.close_at(to.nth));
                }
                self.undo_sender(from.site, sender);
                self.regrow(flow, to);
            }
            (false, false) => {
                self.undo_sender(from.site, sender);
                self.branch_failed(flow, to, false);
            }
        }
    }

    fn branch_mut(&mut self, flow: &Flow, at: Spot) -> Option<&mut Branch> {
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

fn between(one: SiteId, other: SiteId) -> Between {
    (one.min(other), one.max(other))
}
