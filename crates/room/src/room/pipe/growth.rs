//! How a flow's tree grows and shrinks: which site a branch grows from, what makes it, and what goes when nobody needs it
//! or what it hangs on is gone. A site that is to end keeps what it hands on until those behind it have it another way.

use std::collections::{BTreeMap, BTreeSet};

use super::tree::{Branch, Flow, Spot, State, Tree, data_producer_at, producer_at};
use super::{Between, Output, Pipe, Pipes, Step, between};
use crate::event::MediaOp;
use crate::id::{Region, SessionId, SiteId};

impl Pipes {
    /// Starts a branch to a site that has none, or none but such as have retired.
    pub(super) fn grow(&mut self, flow: &Flow, site: SiteId, receivers: BTreeSet<SessionId>) {
        let Some(from) = self.parent_for(flow, site) else { return };
        let Some(tree) = self.trees.get_mut(flow) else { return };
        let at = tree.next(site);
        tree.branches.insert(at, Branch::new(from, receivers));
        self.pipe_between(from.site, site).branches.insert((flow.clone(), at));
        self.advance(flow, at);
    }

    /// Brings what came by way of a site that is to end another way to those behind it. What they have stays as long as
    /// somebody receives it; what was only on its way comes the other way at once.
    pub(super) fn reroute(&mut self, flow: &Flow, site: SiteId) {
        let Some(tree) = self.trees.get_mut(flow) else { return };
        let behind = tree.behind(site);
        let (mut detached, mut again) = (Vec::new(), Vec::new());
        for spot in &behind {
            let Some(branch) = tree.branches.get_mut(spot) else { continue };
            match branch.state {
                State::Ready(_) if branch.retired => {}
                State::Ready(_) => {
                    branch.retired = true;
                    again.push((spot.site, branch.receivers.clone()));
                }
                // It grows again when that ends.
                State::Sending | State::Receiving(_) => branch.doomed = true,
                State::Waiting => {
                    again.extend(tree.branches.remove(spot).map(|branch| {
                        detached.push((branch.from, *spot));
                        (spot.site, branch.receivers)
                    }));
                }
            }
        }
        for (from, at) in detached {
            self.detach(flow, from, at);
        }
        for (at, receivers) in again.into_iter().filter(|(_, receivers)| !receivers.is_empty()) {
            self.grow(flow, at, receivers);
        }
        // The farthest first: what only handed on is needed no more.
        for spot in behind.into_iter().rev() {
            self.prune(flow, spot);
        }
        let here = |tree: &Tree| tree.at(site, ..).map(|(spot, _)| spot).collect::<Vec<_>>();
        for spot in self.trees.get(flow).map(here).unwrap_or_default() {
            self.prune(flow, spot);
        }
        self.forget_empty(flow);
    }

    /// A site that has the flow, or will, and serves fewer branches of it than it may: of the region of `at`, and near
    /// the flow's home, and of few branches.
    fn parent_for(&self, flow: &Flow, at: SiteId) -> Option<Spot> {
        let tree = self.trees.get(flow)?;
        let region = |site: SiteId| self.places.get(&site).and_then(|place| place.region.as_ref());
        let wanted: Option<&Region> = region(at);
        let stays = |(spot, branch): &(&Spot, &Branch)| {
            !branch.doomed && !branch.retired && !self.leaving.contains(&spot.site)
        };
        let living = tree.branches.iter().filter(stays).map(|(spot, _)| *spot);
        let home = Spot::first(tree.home);
        std::iter::once(home)
            .chain(living)
            .filter(|spot| spot.site != at)
            .map(|spot| (spot, tree.children(spot).len()))
            .filter(|(_, children)| *children < self.fan_out)
            .min_by_key(|(spot, children)| {
                let leaves = self.leaving.contains(&spot.site);
                (leaves, region(spot.site) != wanted, tree.depth(*spot), *children, *spot)
            })
            .map(|(spot, _)| spot)
            .or(Some(home))
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
    pub(super) fn advance(&mut self, flow: &Flow, at: Spot) {
        let Some(tree) = self.trees.get_mut(flow) else { return };
        let Some(from) = tree
            .branches
            .get(&at)
            .filter(|branch| matches!(branch.state, State::Waiting))
            .map(|branch| branch.from)
        else {
            return;
        };
        let there = from.site == tree.home || tree.branches.get(&from).is_some_and(Branch::is_ready);
        let pipe = self.pipes.get(&between(from.site, at.site)).filter(|pipe| pipe.connected == 2);
        let (true, Some(end)) = (there, pipe.and_then(|pipe| pipe.ends.get(&from.site))) else { return };
        let transport = end.id.clone();
        let what = match flow {
            Flow::Media(id) => MediaOp::PipeOut { transport, producer: producer_at(id, from.nth) },
            Flow::Data(id) => {
                MediaOp::PipeDataOut { transport, data_producer: data_producer_at(id, from.nth) }
            }
        };
        if let Some(branch) = tree.branches.get_mut(&at) {
            branch.state = State::Sending;
        }
        let step = Step::Send { flow: flow.clone(), from, to: at };
        self.out.push_back(Output::Work { site: from.site, what, step });
    }

    /// Ends a branch that nobody needs, and those on its way that are needed for nothing else.
    pub(super) fn prune(&mut self, flow: &Flow, at: Spot) {
        let Some(tree) = self.trees.get(flow) else { return };
        let Some(branch) = tree.branches.get(&at) else { return };
        // What is under way ends first; then this is asked again.
        if tree.needs(at) || matches!(branch.state, State::Sending | State::Receiving(_)) {
            return;
        }
        self.cut(flow, at);
    }

    /// Ends a branch, and with it those that grow from it.
    pub(super) fn cut(&mut self, flow: &Flow, at: Spot) {
        let Some(tree) = self.trees.get_mut(flow) else { return };
        let Some(branch) = tree.branches.get_mut(&at) else { return };
        let from = branch.from;
        match &branch.state {
            State::Sending | State::Receiving(_) => branch.doomed = true,
            State::Ready(sender) => {
                let sender = sender.clone();
                tree.branches.remove(&at);
                self.undo(at.site, flow.close_at(at.nth));
                self.undo_sender(from.site, sender);
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
    pub(super) fn lose(&mut self, flow: &Flow, at: Spot) {
        let Some(branch) = self.branch_mut(flow, at) else { return };
        let receivers = std::mem::take(&mut branch.receivers);
        self.cut(flow, at);
        if !receivers.is_empty() {
            self.out.push_back(Output::Lost(flow.clone(), at, receivers));
        }
    }

    /// A doomed branch has ended at last. Those who came meanwhile get a new one.
    pub(super) fn regrow(&mut self, flow: &Flow, at: Spot) {
        let Some(tree) = self.trees.get_mut(flow) else { return };
        let Some(branch) = tree.branches.remove(&at) else { return };
        self.detach(flow, branch.from, at);
        if !branch.receivers.is_empty() {
            self.grow(flow, at.site, branch.receivers);
        }
        self.prune(flow, branch.from);
        self.forget_empty(flow);
    }

    pub(super) fn branch_failed(&mut self, flow: &Flow, at: Spot, again: bool) {
        let Some(tree) = self.trees.get_mut(flow) else { return };
        let Some(branch) = tree.branches.get_mut(&at) else { return };
        if branch.doomed || again {
            self.regrow(flow, at);
            return;
        }
        let receivers = std::mem::take(&mut branch.receivers);
        branch.state = State::Waiting;
        self.cut(flow, at);
        self.out.push_back(Output::Failed(flow.clone(), at, receivers));
        // Whoever was to go over to it gets the flow as one whose way is gone: by a new one, with a gap.
        let elder = |tree: &Tree| tree.at(at.site, ..at.nth).map(|(spot, _)| spot).collect::<Vec<_>>();
        for spot in self.trees.get(flow).map(elder).unwrap_or_default() {
            self.lose(flow, spot);
        }
    }

    pub(super) fn pipe_failed(&mut self, between: Between) {
        let Some(pipe) = self.pipes.get(&between) else { return };
        let branches = pipe.branches.clone();
        self.drop_pipe(between);
        for (flow, at) in branches {
            self.branch_failed(&flow, at, false);
        }
    }

    fn detach(&mut self, flow: &Flow, from: Spot, at: Spot) {
        let between = between(from.site, at.site);
        let Some(pipe) = self.pipes.get_mut(&between) else { return };
        pipe.branches.remove(&(flow.clone(), at));
        if pipe.branches.is_empty() {
            self.drop_pipe(between);
        }
    }

    pub(super) fn drop_pipe(&mut self, between: Between) {
        let Some(pipe) = self.pipes.remove(&between) else { return };
        for (site, end) in pipe.ends {
            self.undo(site, MediaOp::CloseTransport(end.id));
        }
    }
}
