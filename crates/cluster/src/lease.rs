//! Who has a room: a lease in the store, with the term that everybody compares.

use serde::{Deserialize, Serialize};

use crate::node::{Incarnation, NodeId};

/// Orders the owners of a room: a new one's is above all that the store and the live nodes know of, of whatever room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u64);

/// One node's ownership of one room. Terms of a room are in order: by epoch, and where a store that forgot let two nodes
/// claim the same epoch, by name, so that everybody holds the same one for the loser.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Term {
    /// Compared first.
    pub epoch: Epoch,
    /// The owner.
    pub node: NodeId,
}

/// What the store knows of a room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Whose it is.
    pub term: Term,
    /// In which of the owner's lives: an owner that restarted has nothing any more.
    pub incarnation: Incarnation,
}

/// What the store answers to a change that another was quicker at: what it holds instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict(pub Option<Lease>);

/// Applies a claim to what the store holds: every store does this as one atomic step.
///
/// # Errors
/// [`Conflict`] when the store does not hold what the claimant saw, or the new term would not be above it.
pub fn claim(held: &mut Option<Lease>, seen: Option<&Lease>, new: Lease) -> Result<(), Conflict> {
    if held.as_ref() != seen || held.as_ref().is_some_and(|held| held.term >= new.term) {
        return Err(Conflict(held.clone()));
    }
    *held = Some(new);
    Ok(())
}

/// What a confirmation found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmation {
    /// The store held this very lease.
    Kept,
    /// The store had forgotten it, or held an older one, and holds it now.
    Restored,
}

/// Applies a confirmation: the owner says that it still has the room. It puts back what a store forgot. One atomic step.
///
/// # Errors
/// [`Conflict`] when the store knows a higher term.
pub fn confirm(held: &mut Option<Lease>, own: &Lease) -> Result<Confirmation, Conflict> {
    match held {
        Some(held) if held.term > own.term => Err(Conflict(Some(held.clone()))),
        Some(held) if held == own => Ok(Confirmation::Kept),
        _ => {
            *held = Some(own.clone());
            Ok(Confirmation::Restored)
        }
    }
}

/// Applies a release: the room is over. Another's lease stays. One atomic step.
pub fn release(held: &mut Option<Lease>, term: &Term) {
    if held.as_ref().is_some_and(|held| held.term == *term) {
        *held = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(epoch: u64, node: &str) -> Lease {
        Lease {
            term: Term { epoch: Epoch(epoch), node: node.parse().expect("name") },
            incarnation: Incarnation(1),
        }
    }

    #[test]
    fn a_claim_needs_what_was_seen_and_a_higher_term() {
        let mut held = None;
        assert_eq!(claim(&mut held, None, lease(1, "a")), Ok(()));
        assert_eq!(claim(&mut held, None, lease(2, "b")), Err(Conflict(Some(lease(1, "a")))));
        assert_eq!(claim(&mut held, Some(&lease(1, "a")), lease(1, "a")), Err(Conflict(Some(lease(1, "a")))));
        assert_eq!(claim(&mut held, Some(&lease(1, "a")), lease(2, "b")), Ok(()));
        assert_eq!(held, Some(lease(2, "b")));
    }

    #[test]
    fn a_confirmation_restores_what_was_forgotten_and_yields_to_higher_terms() {
        let mut held = None;
        assert_eq!(confirm(&mut held, &lease(3, "a")), Ok(Confirmation::Restored));
        assert_eq!(confirm(&mut held, &lease(3, "a")), Ok(Confirmation::Kept));
        assert_eq!(confirm(&mut held, &lease(2, "z")), Err(Conflict(Some(lease(3, "a")))));
        assert_eq!(
            confirm(&mut held, &lease(3, "b")),
            Ok(Confirmation::Restored),
            "of one epoch the higher name wins"
        );
        assert_eq!(confirm(&mut held, &lease(3, "a")), Err(Conflict(Some(lease(3, "b")))));
    }

    #[test]
    fn only_the_owner_releases() {
        let mut held = Some(lease(2, "b"));
        release(&mut held, &lease(1, "b").term);
        release(&mut held, &lease(2, "a").term);
        assert!(held.is_some());
        release(&mut held, &lease(2, "b").term);
        assert_eq!(held, None);
    }
}
