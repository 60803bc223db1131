//! A node that alone does not reach the store, while others whom it hears do. It may let nobody into its rooms then (its lease
//! may have been given to another, which it could not learn), so it offers them to those others, as a node that drains does:
//! who is in a room does not notice, its media stays here. The store is asked by the one who takes the room, whose claim
//! replaces this node's lease or fails.

use std::time::Instant;

use tracing::{info, warn};

use super::Control;
use super::drain::Handed;

impl Control {
    /// To be called with each ping.
    pub(super) fn look_at_store(&mut self) {
        let now = Instant::now();
        let alone = !self.store_answers && self.view.has_majority(now) && !self.view.store_is_away(now);
        match (alone, self.parted) {
            (true, None) => {
                warn!("the store answers others, but not this node: rooms that it has will go to them");
                metrics::counter!("tureen_cluster_parted_from_store_total").increment(1);
                self.parted = Some(now);
            }
            (false, Some(_)) => {
                info!("this node reaches the store again, or nobody does");
                self.parted = None;
            }
            _ => {}
        }
    }

    /// Whether its rooms are to go: no lease counts as confirmed any more. Where one could not be handed over, the others stay
    /// until that one's lease is released.
    pub(super) fn must_give_up(&self, now: Instant) -> bool {
        let since =
            self.parted.filter(|_| !self.handed.values().any(|of| matches!(of, Handed::Unreleased(_))));
        since.is_some_and(|since| now.saturating_duration_since(since) >= self.settings.timing.confirmed)
    }
}
