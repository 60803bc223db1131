//! What a node knows of the others through its links: who is heard, who hears, who is suspected by how many.
//!
//! Members come from the store (whoever registered) and stay until they say goodbye: a node that falls silent is a
//! suspect, not a stranger, or else a cut-off half would take itself for the whole.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::lease::Epoch;
use crate::node::NodeId;
use crate::timing::Timing;

/// What nodes tell each other on their links, every [`Timing::ping`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    /// Who says it.
    pub from: NodeId,
    /// Whom it does not suspect, itself aside.
    pub hears: BTreeSet<NodeId>,
    /// Whether it reaches the store.
    pub store: bool,
    /// The highest epoch of any room that it knows of.
    pub epoch: Epoch,
}

/// The other nodes, as one sees them.
#[derive(Debug)]
pub struct Neighbourhood {
    me: NodeId,
    timing: Timing,
    members: BTreeMap<NodeId, Member>,
    /// Since when it has a majority without a break, as of the last ping.
    majority_since: Option<Instant>,
    /// The highest epoch of any room that anybody whom this node heard knows of. A store may forget a room, and who asks
    /// for it may never have seen it: a claim above this is still above whatever it had.
    epoch: Epoch,
}

#[derive(Debug)]
struct Member {
    media: bool,
    /// When it was heard last; a member that never was counts from when it became one.
    heard_at: Instant,
    /// Since when it says that it hears me, and when it last did.
    heard_me: Option<(Instant, Instant)>,
    /// Whom it hears.
    hears: BTreeSet<NodeId>,
    store: bool,
    /// Its end of the link said that nobody is there any more: the process is dead.
    gone: bool,
    /// Since when enough nodes suspect it.
    condemned_at: Option<Instant>,
}

impl Neighbourhood {
    /// A node that knows nobody yet.
    pub fn new(me: NodeId, timing: Timing) -> Self {
        Self { me, timing, members: BTreeMap::new(), majority_since: None, epoch: Epoch(0) }
    }

    /// The node whose view this is.
    pub fn me(&self) -> &NodeId {
        &self.me
    }

    /// Somebody registered, or did so again after a restart. `media`: whether it can have rooms.
    pub fn add(&mut self, node: NodeId, media: bool, now: Instant) {
        if node == self.me {
            return;
        }
        self.members.entry(node).or_insert_with(|| Member {
            media,
            heard_at: now,
            heard_me: None,
            hears: BTreeSet::new(),
            store: false,
            gone: false,
            condemned_at: None,
        });
    }

    /// Somebody said goodbye.
    pub fn remove(&mut self, node: &NodeId) {
        self.members.remove(node);
    }

    /// All members, whatever is known of them.
    pub fn members(&self) -> impl Iterator<Item = &NodeId> {
        self.members.keys()
    }

    /// A ping arrived. One from a stranger is dropped: he registers first.
    pub fn heard(&mut self, ping: Ping, now: Instant) {
        let Some(member) = self.members.get_mut(&ping.from) else { return };
        member.heard_at = now;
        let fresh = self.timing.fresh;
        member.heard_me = ping.hears.contains(&self.me).then(|| match member.heard_me {
            Some((since, last)) if now.saturating_duration_since(last) < fresh => (since, now),
            _ => (now, now),
        });
        member.hears = ping.hears;
        member.store = ping.store;
        member.gone = false;
        self.epoch = self.epoch.max(ping.epoch);
    }

    /// The other end of a link refused: its process is dead. Unlike silence, that is proof.
    pub fn refused(&mut self, node: &NodeId) {
        if let Some(member) = self.members.get_mut(node) {
            member.gone = true;
            member.heard_me = None;
        }
    }

    /// What this node says of itself now. To be called every [`Timing::ping`]: it is what notices that a majority is lost,
    /// which lasts at least [`Timing::settle`].
    pub fn ping(&mut self, store: bool, now: Instant) -> Ping {
        self.majority_since = self.has_majority(now).then(|| self.majority_since.unwrap_or(now));
        let hears = self.members.keys().filter(|node| !self.is_suspect(node, now)).cloned().collect();
        Ping { from: self.me.clone(), hears, store, epoch: self.epoch }
    }

    /// Takes note of an epoch that was met.
    pub fn note_epoch(&mut self, epoch: Epoch) {
        self.epoch = self.epoch.max(epoch);
    }

    /// The highest epoch of any room that is known of.
    pub fn highest_epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether this node itself has not heard another for [`Timing::suspect`].
    pub fn is_suspect(&self, node: &NodeId, now: Instant) -> bool {
        *node != self.me
            && self.members.get(node).is_none_or(|member| {
                member.gone || now.saturating_duration_since(member.heard_at) >= self.timing.suspect
            })
    }

    /// Whether this node and more than half of all members hear each other.
    pub fn has_majority(&self, now: Instant) -> bool {
        self.links(now) * 2 + 2 > self.members.len() + 1
    }

    /// How many others this node hears and is heard by.
    pub fn links(&self, now: Instant) -> usize {
        self.linked(now).count()
    }

    /// Since when that is so without a break.
    pub fn majority_since(&self, now: Instant) -> Option<Instant> {
        self.majority_since.filter(|_| self.has_majority(now))
    }

    /// Whether nobody whom this node hears reaches the store.
    pub fn store_is_away(&self, now: Instant) -> bool {
        !self.linked(now).any(|(_, member)| member.store)
    }

    /// Whether a node that this one hears, and is heard by, reaches the store.
    pub fn reaches_store(&self, node: &NodeId, now: Instant) -> bool {
        self.linked(now).any(|(linked, member)| linked == node && member.store)
    }

    /// Whether a node's rooms may be claimed: it is dead, or so many members suspect it that it has no majority, for as
    /// long as it takes the node itself to know that. To be called at least with each ping.
    pub fn is_condemned(&mut self, node: &NodeId, now: Instant) -> bool {
        if *node == self.me || !self.members.contains_key(node) {
            // A name that nobody knows any more belongs to a node that said goodbye.
            return *node != self.me;
        }
        let all = self.members.len() + 1;
        let suspecting = usize::from(self.is_suspect(node, now))
            + self
                .members
                .iter()
                .filter(|(other, member)| {
                    let fresh = now.saturating_duration_since(member.heard_at) < self.timing.fresh;
                    *other != node && fresh && !member.gone && !member.hears.contains(node)
                })
                .count();
        let enough = suspecting * 2 >= all;
        let grace = self.timing.grace;
        let Some(member) = self.members.get_mut(node) else { return true };
        if member.gone {
            return true;
        }
        if !enough {
            member.condemned_at = None;
            return false;
        }
        let since = *member.condemned_at.get_or_insert(now);
        now.saturating_duration_since(since) >= grace
    }

    /// Whether nobody can have a room that the store does not know: every other media node is condemned, or is linked and
    /// has told the store of its rooms since the store's memory began (`registered`).
    pub fn can_have_no_owner(&mut self, registered: &BTreeSet<NodeId>, now: Instant) -> bool {
        let linked: BTreeSet<NodeId> = self.linked(now).map(|(node, _)| node.clone()).collect();
        let open: Vec<NodeId> = self
            .members
            .iter()
            .filter(|(node, member)| member.media && !(linked.contains(node) && registered.contains(node)))
            .map(|(node, _)| node.clone())
            .collect();
        open.iter().all(|node| self.is_condemned(node, now))
    }

    /// Members that hear this node and that it hears, for long enough that nobody who counts votes still has one of theirs
    /// from before.
    fn linked(&self, now: Instant) -> impl Iterator<Item = (&NodeId, &Member)> {
        self.members.iter().filter(move |(_, member)| {
            !member.gone
                && member.heard_me.is_some_and(|(since, last)| {
                    now.saturating_duration_since(last) < self.timing.fresh
                        && now.saturating_duration_since(since) >= self.timing.settle
                })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn node(name: &str) -> NodeId {
        name.parse().expect("name")
    }

    fn ping(from: &str, hears: &[&str]) -> Ping {
        Ping {
            from: node(from),
            hears: hears.iter().map(|name| node(name)).collect(),
            store: true,
            epoch: Epoch(0),
        }
    }

    /// Says the same with every ping until links count as settled; returns when that is.
    fn talk(view: &mut Neighbourhood, pings: &[Ping], from: Instant) -> Instant {
        let timing = Timing::default();
        let mut at = from;
        while at < from + timing.settle + timing.ping {
            for ping in pings {
                view.heard(ping.clone(), at);
            }
            at += timing.ping;
        }
        at
    }

    fn five(now: Instant) -> Neighbourhood {
        let mut view = Neighbourhood::new(node("a"), Timing::default());
        for name in ["a", "b", "c", "d", "e"] {
            view.add(node(name), true, now);
        }
        view
    }

    #[test]
    fn a_majority_is_more_than_half_and_must_be_mutual() {
        let now = Instant::now();
        let mut view = five(now);
        assert!(!view.has_majority(now));
        let settled = talk(&mut view, &[ping("b", &["a"]), ping("c", &["b"])], now);
        assert!(!view.has_majority(settled), "c does not hear a");
        let settled = talk(&mut view, &[ping("b", &["a"]), ping("c", &["a"])], settled);
        assert!(view.has_majority(settled));
        let later = settled + Timing::default().fresh;
        assert!(!view.has_majority(later));
        for name in ["b", "c"] {
            view.heard(ping(name, &["a"]), later);
        }
        assert!(!view.has_majority(later), "a link that broke settles anew");
    }

    #[test]
    fn half_of_all_condemn_after_the_grace_and_one_voice_takes_it_back() {
        let start = Instant::now();
        let timing = Timing::default();
        let mut view = five(start);
        let silent = start + timing.suspect;
        for name in ["b", "c"] {
            view.heard(ping(name, &["a"]), silent);
        }
        assert!(view.is_suspect(&node("e"), silent));
        assert!(!view.is_condemned(&node("e"), silent), "the grace");
        let late = silent + timing.grace;
        for name in ["b", "c"] {
            view.heard(ping(name, &["a"]), late);
        }
        assert!(view.is_condemned(&node("e"), late));
        view.heard(ping("c", &["a", "e"]), late);
        assert!(!view.is_condemned(&node("e"), late), "two of five are not half");
        view.heard(ping("c", &["a"]), late);
        assert!(!view.is_condemned(&node("e"), late), "the grace begins anew");
    }

    #[test]
    fn a_dead_process_needs_no_grace_until_it_is_heard_again() {
        let now = Instant::now();
        let mut view = five(now);
        view.refused(&node("e"));
        assert!(view.is_condemned(&node("e"), now));
        view.heard(ping("e", &["a"]), now);
        assert!(!view.is_condemned(&node("e"), now));
    }

    #[test]
    fn the_store_is_away_when_nobody_who_is_heard_reaches_it() {
        let now = Instant::now();
        let mut view = five(now);
        let settled = talk(&mut view, &[Ping { store: false, ..ping("b", &["a"]) }], now);
        assert!(view.store_is_away(settled));
        let settled = talk(&mut view, &[ping("c", &["a"])], settled);
        assert!(!view.store_is_away(settled));
        assert!(view.store_is_away(settled + Duration::from_secs(1)), "c is not heard any more");
    }
}
