//! Who should run a room: weighted rendezvous hashing with bounded load.
//!
//! Every node that asks gets the same answer from the same facts, and facts that differ a little give answers that
//! differ seldom: a room has an order of preference over the nodes that depends on nothing but names and weights, and
//! goes to the first node of that order that may have it. A node that joins takes its share of rooms from all others
//! and moves no room between those. The lease is the truth; this says whom to ask first.
//!
//! Sources: Thaler and Ravishankar, "Using name-based mappings to increase hit rates" (rendezvous hashing); Schindelhauer
//! and Schomaker, "Weighted distributed hash tables" (the logarithmic weight); Mirrokni, Thorup and Zadimoghaddam,
//! "Consistent hashing with bounded loads".

use std::cmp::Ordering;

use room::RoomId;
use siphasher::sip::SipHasher13;

use crate::node::{Load, NodeId, Region};

/// No node takes a room that brings it above this many hundredths of its share of all load.
pub const BOUND_PERCENT: u64 = 125;

/// A node that measures more than this, in thousandths of what it can do, takes no new room.
pub const BUSY: u16 = 850;

/// A node, as placement sees it.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Its name.
    pub id: NodeId,
    /// Where it is.
    pub region: Region,
    /// Its share relative to others'; a node of weight 0 takes nothing.
    pub weight: u32,
    /// What its rooms weigh together, in the unit of [`Demand::load`].
    pub load: u64,
    /// How busy it measures itself.
    pub measured: Load,
    /// It answers, and is not on its way out.
    pub available: bool,
    /// It says that a limit of its own keeps it from another room.
    pub full: bool,
}

/// What a room needs.
#[derive(Debug, Clone, Copy)]
pub struct Demand<'a> {
    /// The room.
    pub room: &'a RoomId,
    /// Where its first peer is; nodes elsewhere come after all nodes there.
    pub region: Option<&'a Region>,
    /// What it is expected to weigh on one node: streams, in and out. A room wider than a node's share is spread over
    /// several by relays, so this is what its owner carries of it.
    pub load: u64,
}

/// Why no node takes a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// Nobody is there.
    #[error("no media node is available: start one with --roles media, or wait for one to come back")]
    NoNode,
    /// All who are there have as much as their limits let them have.
    #[error("all {available} media nodes are full: add one, or raise the limits")]
    Full {
        /// Nodes that answer.
        available: usize,
    },
    /// Who is there and not full is busy: it may be over with the next measurement.
    #[error("all {available} media nodes that are not full are too busy: add one")]
    Busy {
        /// Nodes that answer and are not full.
        available: usize,
    },
}

/// The node that should run a room.
///
/// Nodes of the demanded region come first, then the others; within each group, the room's own order of preference
/// decides among those that are not full, measure no more than [`BUSY`] and stay within [`BOUND_PERCENT`] of their share of the
/// group's load. Where none stays within it (a room that alone is more than a share), the one that will be the least
/// over it takes the room.
///
/// # Errors
/// [`PlacementError`], when nobody may take it.
pub fn place<'a>(demand: Demand<'_>, candidates: &'a [Candidate]) -> Result<&'a Candidate, PlacementError> {
    let available = || candidates.iter().filter(|candidate| candidate.available && candidate.weight > 0);
    if available().next().is_none() {
        return Err(PlacementError::NoNode);
    }
    let near = |candidate: &Candidate| demand.region.is_none_or(|region| *region == candidate.region);
    for wanted in [true, false] {
        let group = || available().filter(|candidate| near(candidate) == wanted);
        let total = group().map(|candidate| candidate.load).sum::<u64>().saturating_add(demand.load);
        let share = Share { total, weights: group().map(|candidate| u64::from(candidate.weight)).sum() };
        let here = || group().filter(|candidate| !candidate.full && candidate.measured.highest() <= BUSY);
        let within = here().filter(|candidate| share.has_place(candidate, demand.load));
        let preferred = within.max_by(|a, b| compare(demand.room, a, b));
        // Of equals, as all are in a cluster that nobody uses yet, the room's own preference decides: else one node would take
        // every room that comes before the next news of loads.
        let least_over = || {
            here()
                .min_by(|a, b| share.compare_fill(a, b, demand.load).then_with(|| compare(demand.room, b, a)))
        };
        if let Some(chosen) = preferred.or_else(least_over) {
            return Ok(chosen);
        }
    }
    match available().filter(|candidate| !candidate.full).count() {
        0 => Err(PlacementError::Full { available: available().count() }),
        available => Err(PlacementError::Busy { available }),
    }
}

/// A room that runs, as [`rebalance`] sees it.
#[derive(Debug, Clone)]
pub struct Placed {
    /// The room.
    pub room: RoomId,
    /// Who has it.
    pub owner: NodeId,
    /// What it weighs there.
    pub load: u64,
}

/// Which rooms should move, and where, after nodes joined: those that would rather be on a new node and find a place
/// there, and as many of an overloaded node's as it takes to bring it within its bound. Rooms do not move between nodes
/// that were there before and have no more than they may; a running room is worth more than a perfect order.
///
/// `candidates` carry the loads as they are, all `rooms` included; rooms of nodes that are not among them stay out of it.
pub fn rebalance(rooms: &[Placed], candidates: &[Candidate], joined: &[NodeId]) -> Vec<(RoomId, NodeId)> {
    let mut nodes: Vec<Candidate> =
        candidates.iter().filter(|candidate| candidate.available && candidate.weight > 0).cloned().collect();
    let total = nodes.iter().map(|node| node.load).sum();
    let share = Share { total, weights: nodes.iter().map(|node| u64::from(node.weight)).sum() };
    let mut moves = Vec::new();
    for placed in rooms {
        let Some(owner) = nodes.iter().position(|node| node.id == placed.owner) else { continue };
        let overloaded = !share.has_place(&nodes[owner], 0);
        let region = &nodes[owner].region;
        let better = nodes.iter().enumerate().filter(|(at, node)| {
            *at != owner
                && node.region == *region
                && !node.full
                && node.measured.highest() <= BUSY
                && share.has_place(node, placed.load)
                && (overloaded
                    || joined.contains(&node.id)
                        && compare(&placed.room, node, &nodes[owner]) == Ordering::Greater)
        });
        let Some((to, _)) = better.max_by(|(_, a), (_, b)| compare(&placed.room, a, b)) else { continue };
        nodes[owner].load = nodes[owner].load.saturating_sub(placed.load);
        nodes[to].load = nodes[to].load.saturating_add(placed.load);
        moves.push((placed.room.clone(), nodes[to].id.clone()));
    }
    moves
}

/// The room's order of preference over the candidates, most preferred first.
pub fn order<'a>(room: &RoomId, candidates: impl Iterator<Item = &'a Candidate>) -> Vec<&'a Candidate> {
    let mut ordered: Vec<_> = candidates.filter(|candidate| candidate.weight > 0).collect();
    ordered.sort_by(|a, b| compare(room, b, a));
    ordered
}

/// What a group of nodes carries together, and what a node's part of it is.
#[derive(Debug, Clone, Copy)]
struct Share {
    total: u64,
    weights: u64,
}

impl Share {
    fn has_place(self, candidate: &Candidate, more: u64) -> bool {
        // load + more <= bound * total * weight / weights, without division and in a width that holds it.
        let wants = u128::from(candidate.load.saturating_add(more)) * u128::from(self.weights) * 100;
        let may = u128::from(self.total) * u128::from(candidate.weight) * u128::from(BOUND_PERCENT);
        wants <= may
    }

    fn compare_fill(self, a: &Candidate, b: &Candidate, more: u64) -> Ordering {
        let fill = |own: &Candidate, other: &Candidate| {
            u128::from(own.load.saturating_add(more)) * u128::from(other.weight)
        };
        fill(a, b).cmp(&fill(b, a))
    }
}

fn compare(room: &RoomId, a: &Candidate, b: &Candidate) -> Ordering {
    score(room, a).total_cmp(&score(room, b)).then_with(|| a.id.cmp(&b.id))
}

/// How much a room prefers a node: -weight / ln(u), with u uniform in (0, 1) by the hash of both names. The greatest of
/// several is a node's with probability weight / sum of weights.
fn score(room: &RoomId, candidate: &Candidate) -> f64 {
    // The upper 53 bits, as many as a double holds, moved off both ends of the interval.
    let node = SipHasher13::new().hash(candidate.id.as_str().as_bytes());
    let hash = SipHasher13::new_with_keys(node, 0).hash(room.as_str().as_bytes());
    let uniform = ((hash >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -f64::from(candidate.weight) / uniform.ln()
}

#[cfg(test)]
mod tests;
