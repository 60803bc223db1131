//! A node that has as many sessions, rooms or transports as it may: it claims no room that nobody has, is offered none, and says so
//! to all, so that placement passes it over. The rooms that it has stay, and others' sites are still taken.
//!
//! It says that it is full at once, that it is not any more only with a beat: one session that comes and goes is no news. Who has
//! not heard it is told when it asks.

use std::time::Instant;

use cluster::keeper::{Event, Refusal};
use cluster::node::NodeId;
use cluster::placement::{Candidate, Demand, PlacementError, place};
use room::RoomId;
use tracing::info;

use super::{Control, Standing};

/// What a room is taken to need before anybody is in it, in streams: a call of four.
const EXPECTED_STREAMS: u64 = 32;

impl Control {
    /// Whether this node may not have another room now.
    pub(super) fn is_full(&self) -> bool {
        let no_rooms = self.host.as_ref().is_some_and(|host| !host.has_place(self.keeper.count()));
        no_rooms || self.sites.as_ref().is_some_and(|sites| sites.local.is_full())
    }

    /// Tells the keeper, and all others if it is news. `beat`: it may be said that there is place again.
    pub(super) fn look_at_places(&mut self, beat: bool) {
        if self.host.is_none() {
            return;
        }
        let full = self.is_full();
        self.keep(Event::Full(full));
        let changed = self.standing.send_if_modified(|Standing { full: said, .. }| {
            let news = *said != full && (full || beat);
            if news {
                *said = full;
            }
            news
        });
        if changed && full {
            info!("this node has no place for another room: new rooms go to others");
        } else if changed {
            info!("this node has place for rooms again");
        }
    }

    /// How many media nodes say that they are full, as far as this one knows.
    pub(super) fn count_full(&self) {
        let view = self.members.borrow();
        let full = view.members.values().filter(|known| known.node.roles.media && known.node.full).count();
        // Exact below 2^53 nodes.
        metrics::gauge!("tureen_cluster_nodes_full").set(full as f64);
    }

    /// The node that is to have a room which nobody has. These were asked, and are full.
    pub(super) fn place(&self, room: &RoomId, full: &[NodeId]) -> Result<NodeId, Refusal> {
        let mut candidates = self.candidates(Instant::now());
        for candidate in &mut candidates {
            candidate.full |= full.contains(&candidate.id);
        }
        self.choose(room, &candidates).map_err(|why| match why {
            PlacementError::NoNode => Refusal::CutOff,
            PlacementError::Full { .. } => Refusal::Full,
            PlacementError::Busy { .. } => Refusal::Busy,
        })
    }

    /// The best of these for a room of this node's region.
    pub(super) fn choose(&self, room: &RoomId, candidates: &[Candidate]) -> Result<NodeId, PlacementError> {
        let demand = Demand { room, region: Some(&self.settings.identity.region), load: EXPECTED_STREAMS };
        place(demand, candidates).map(|candidate| candidate.id.clone())
    }
}
