//! A flow's way through a room: where it is piped to, from where, and for whom. A site has a flow once; only while one
//! way there takes the place of another it has it twice, each time under an id of its own, and receivers go over.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeBounds;

use serde::{Deserialize, Serialize};

use crate::event::MediaOp;
use crate::id::{ConsumerId, DataConsumerId, DataProducerId, ProducerId, SessionId, SiteId};
use crate::room::snapshot::pairs;

/// What is piped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(in crate::room) enum Flow {
    Media(ProducerId),
    Data(DataProducerId),
}

/// A flow at a site. At its home, and where it is for the first time, `nth` is 0; what takes the place of another has a
/// higher one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(in crate::room) struct Spot {
    pub(in crate::room) site: SiteId,
    pub(in crate::room) nth: u32,
}

/// From its home to the sites that want it, some by way of others.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Tree {
    pub(super) home: SiteId,
    #[serde(with = "pairs")]
    pub(super) branches: BTreeMap<Spot, Branch>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Branch {
    pub(super) from: Spot,
    pub(super) state: State,
    /// Who wants it there; at a site with two, those who are to go over want both.
    pub(super) receivers: BTreeSet<SessionId>,
    /// What it hangs on is gone while work for it is under way: to be undone when that ends.
    pub(super) doomed: bool,
    /// Another takes its place: it serves those who have not gone over, and grows no more.
    pub(super) retired: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum State {
    /// For the pipe, or for the branch that it grows from.
    Waiting,
    Sending,
    Receiving(Sender),
    Ready(Sender),
}

/// What sends into a pipe.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Sender {
    Consumer(ConsumerId),
    DataConsumer(DataConsumerId),
}

impl Flow {
    /// Its id at this spot: a router has no two of one id.
    fn id_at(id: &str, nth: u32) -> String {
        if nth == 0 { id.to_owned() } else { format!("{id}~{nth}") }
    }

    pub(super) fn close_at(&self, nth: u32) -> MediaOp {
        match self {
            Self::Media(id) => MediaOp::CloseProducer(producer_at(id, nth)),
            Self::Data(id) => MediaOp::CloseDataProducer(data_producer_at(id, nth)),
        }
    }
}

/// The id of a producer's `nth` copy at a site.
pub(in crate::room) fn producer_at(id: &ProducerId, nth: u32) -> ProducerId {
    ProducerId::new(Flow::id_at(id.as_str(), nth))
}

/// As [`producer_at`].
pub(in crate::room) fn data_producer_at(id: &DataProducerId, nth: u32) -> DataProducerId {
    DataProducerId::new(Flow::id_at(id.as_str(), nth))
}

impl Spot {
    pub(super) fn first(site: SiteId) -> Self {
        Self { site, nth: 0 }
    }
}

impl Tree {
    pub(super) fn new(home: SiteId) -> Self {
        Self { home, branches: BTreeMap::new() }
    }

    /// The branch that whoever comes to a site is given.
    pub(super) fn current(&self, site: SiteId) -> Option<Spot> {
        self.at(site, ..).find(|(_, branch)| !branch.retired).map(|(spot, _)| spot)
    }

    /// Those at a site, the oldest first.
    pub(super) fn at(
        &self,
        site: SiteId,
        nth: impl RangeBounds<u32>,
    ) -> impl DoubleEndedIterator<Item = (Spot, &Branch)> {
        let range = Spot::first(site)..=Spot { site, nth: u32::MAX };
        let all = self.branches.range(range).map(|(spot, branch)| (*spot, branch));
        all.filter(move |(spot, _)| nth.contains(&spot.nth))
    }

    /// Where one more can be at a site.
    pub(super) fn next(&self, site: SiteId) -> Spot {
        let last = self.at(site, ..).next_back();
        Spot { site, nth: last.map_or(0, |(last, _)| last.nth.saturating_add(1)) }
    }

    /// The spots that have the flow from this one.
    pub(super) fn children(&self, spot: Spot) -> Vec<Spot> {
        let from = |(at, branch): (&Spot, &Branch)| (branch.from == spot).then_some(*at);
        self.branches.iter().filter_map(from).collect()
    }

    /// The spots that have the flow from a site, or were about to.
    pub(super) fn fed_from(&self, site: SiteId) -> Vec<Spot> {
        let from = |(at, branch): (&Spot, &Branch)| (branch.from.site == site).then_some(*at);
        self.branches.iter().filter_map(from).collect()
    }

    /// All that have the flow by way of a site, those nearer to it first.
    pub(super) fn behind(&self, site: SiteId) -> Vec<Spot> {
        let mut behind: Vec<Spot> = self.at(site, ..).flat_map(|(spot, _)| self.children(spot)).collect();
        let mut seen = 0;
        while let Some(next) = behind.get(seen).map(|spot| self.children(*spot)) {
            behind.extend(next);
            seen += 1;
        }
        behind
    }

    /// Whether anybody receives the flow here, or by way of it.
    pub(super) fn needs(&self, spot: Spot) -> bool {
        let here = self.branches.get(&spot).is_some_and(|branch| !branch.receivers.is_empty());
        here || self.branches.values().any(|branch| branch.from == spot)
    }

    /// How many pipes lie between the flow's home and this spot.
    pub(super) fn depth(&self, mut spot: Spot) -> usize {
        let mut depth = 0;
        while let Some(branch) = self.branches.get(&spot) {
            spot = branch.from;
            depth += 1;
        }
        depth
    }
}

impl Branch {
    pub(super) fn new(from: Spot, receivers: BTreeSet<SessionId>) -> Self {
        Self { from, state: State::Waiting, receivers, doomed: false, retired: false }
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready(_)) && !self.doomed
    }
}
