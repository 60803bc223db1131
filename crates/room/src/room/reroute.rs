//! Receivers whose way to a producer ends because a site on it drains: they go over to what has come another way, as a
//! peer does that migrates, on the transport that they have. The new consumer is offered as one that takes the place
//! of the old, and that one stays until the new one's first picture is surely there. Who does not read what is
//! replaced has the old one closed first.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Instant;

use super::link::{Link, MediaLink};
use super::migrate::SETTLES;
use super::pipe::{Flow, Spot};
use super::{Consumer, Pending, Room};
use crate::event::{Counter, MediaOp};
use crate::id::{ConsumerId, DataConsumerId, DataProducerId, ProducerId, SessionId, SiteId};
use crate::message::{Notification, Receives};

impl Room {
    /// A producer has come to a site: whoever receives it there by an older way goes over to this one.
    pub(super) fn go_over(&mut self, id: &ProducerId, to: Spot) {
        let flow = Flow::Media(id.clone());
        let Some(producer) = self.producers.get(id) else { return };
        let nth_of = |id: &ConsumerId| self.consumers.get(id).map(|consumer| consumer.nth);
        let leaves = self.leaving(to.site, &producer.old);
        let receivers = self.receiving_older(to, &producer.receivers, nth_of);
        for session in leaves {
            self.pipes.release(&flow, to.site, to.nth.., session);
        }
        for receiver in receivers {
            self.go_over_as(id, receiver, to);
        }
    }

    /// Who is about to leave a site: what comes there now he has where he goes.
    fn leaving<C>(&self, site: SiteId, old: &BTreeMap<SessionId, C>) -> Vec<SessionId> {
        old.keys().copied().filter(|session| !self.is_receiving_at(*session, site)).collect()
    }

    /// Who has, or is about to have, by an older way what has come to his site by this one.
    fn receiving_older<A, C>(
        &self,
        to: Spot,
        receivers: &BTreeMap<SessionId, Link<A, C>>,
        nth_of: impl Fn(&C) -> Option<u32>,
    ) -> Vec<SessionId> {
        let is_older = |(session, link): &(&SessionId, &Link<A, C>)| {
            self.is_receiving_at(**session, to.site) && link.nth(&nth_of).is_some_and(|nth| nth < to.nth)
        };
        receivers.iter().filter(is_older).map(|(session, _)| *session).collect()
    }

    fn go_over_as(&mut self, id: &ProducerId, receiver: SessionId, to: Spot) {
        let joined = self.peers.get(&receiver).and_then(|peer| peer.joined.as_ref());
        let can_replace =
            joined.is_some_and(|joined| joined.migrates && joined.receives == Receives::Offered);
        let is_shown = |id: &ConsumerId| self.consumers.get(id).is_some_and(|consumer| consumer.accepted);
        let replaces = |link: &MediaLink| matches!(link, Link::Consumer(id) if can_replace && is_shown(id));
        let producer = self.producers.get(id);
        let replaces = producer.and_then(|producer| producer.receivers.get(&receiver)).is_some_and(replaces);
        let link = self.producers.get_mut(id).and_then(|producer| producer.receivers.remove(&receiver));
        self.count(Counter::Rerouted);
        match link {
            Some(Link::Consumer(consumer)) if replaces => {
                if let Some(peer) = self.peers.get_mut(&receiver) {
                    peer.consumers.remove(&consumer);
                    peer.old_consumers.insert(consumer.clone());
                }
                self.set_consumer_aside(id, receiver, consumer);
            }
            link => {
                // Of work that is under way the result is not wanted any more.
                if let Some(Link::Consumer(consumer)) = link {
                    self.close_consumer(&consumer, receiver);
                }
                let (after, _) = self.beside_old(id, receiver, to.site);
                let older = (after, Bound::Excluded(to.nth));
                self.pipes.release(&Flow::Media(id.clone()), to.site, older, receiver);
            }
        }
        self.forward(id, receiver);
        // It may receive no more than it does: then it has nothing that takes the old one's place.
        if self.producers.get(id).is_some_and(|producer| !producer.receivers.contains_key(&receiver)) {
            self.close_replaced(id, receiver);
            self.pipes.release(&Flow::Media(id.clone()), to.site, .., receiver);
        }
    }

    /// A receiver's consumer becomes its old one, which another will take the place of. If there is an old one
    /// already, the one is kept that the client has.
    pub(super) fn set_consumer_aside(&mut self, id: &ProducerId, receiver: SessionId, consumer: ConsumerId) {
        let accepted = self.consumers.get(&consumer).is_some_and(|consumer| consumer.accepted);
        let Some(producer) = self.producers.get_mut(id) else { return };
        let Some(before) = producer.old.get(&receiver).cloned() else {
            producer.old.insert(receiver, consumer);
            return;
        };
        let Some(site) = self.consumers.get(&consumer).map(|consumer| consumer.site) else { return };
        if accepted {
            self.close_old(&before, receiver);
            if let Some(producer) = self.producers.get_mut(id) {
                producer.old.insert(receiver, consumer);
            }
        } else {
            self.close_consumer(&consumer, receiver);
            let others = self.beside_old(id, receiver, site);
            self.pipes.release(&Flow::Media(id.clone()), site, others, receiver);
        }
    }

    /// Whether a receiver has accepted what takes the place of something that it has at the same site: that ends soon.
    pub(super) fn has_gone_over(&mut self, id: &ProducerId, receiver: SessionId, now: Instant) {
        if let Some(old) = self.replaced_consumer(id, receiver)
            && let Some(at) = now.checked_add(SETTLES)
        {
            self.replaced.push_back((at, old));
        }
    }

    /// Closes those whose successors have had their time.
    pub(super) fn end_replaced(&mut self, now: Instant) {
        while self.replaced.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, id)) = self.replaced.pop_front() else { return };
            let Some(consumer) = self.consumers.get(&id) else { continue };
            let (of, receiver) = (consumer.producer.clone(), consumer.receiver);
            if self.replaced_consumer(&of, receiver) == Some(id) {
                self.close_replaced(&of, receiver);
            }
        }
    }

    /// Closes what a receiver has at its site of a producer that something else took the place of, or will not.
    pub(super) fn close_replaced(&mut self, id: &ProducerId, receiver: SessionId) {
        if let Some(old) = self.replaced_consumer(id, receiver) {
            self.close_old(&old, receiver);
        }
    }

    /// What a receiver still has of a producer by an older way to the site where it receives.
    fn replaced_consumer(&self, id: &ProducerId, receiver: SessionId) -> Option<ConsumerId> {
        let old = self.producers.get(id)?.old.get(&receiver)?;
        self.is_receiving_at(receiver, self.consumers.get(old)?.site).then(|| old.clone())
    }

    fn is_receiving_at(&self, session: SessionId, site: SiteId) -> bool {
        self.peers.get(&session).is_some_and(|peer| peer.receiving == site)
    }

    /// Which of a producer's spots at a site a receiver has to do with, but for the one that its old consumer is of.
    pub(super) fn beside_old(
        &self,
        id: &ProducerId,
        receiver: SessionId,
        site: SiteId,
    ) -> (Bound<u32>, Bound<u32>) {
        let old = self.producers.get(id).and_then(|producer| producer.old.get(&receiver));
        let old = old.and_then(|old| self.consumers.get(old)).filter(|old| old.site == site);
        beyond(old.map(|old| old.nth))
    }

    /// As [`Room::beside_old`].
    fn beside_old_data(
        &self,
        id: &DataProducerId,
        receiver: SessionId,
        site: SiteId,
    ) -> (Bound<u32>, Bound<u32>) {
        let old = self.data_producers.get(id).and_then(|producer| producer.old.get(&receiver));
        let old = old.and_then(|old| self.data_consumers.get(old)).filter(|old| old.site == site);
        beyond(old.map(|old| old.nth))
    }

    fn close_old(&mut self, id: &ConsumerId, receiver: SessionId) {
        let Some(consumer) = self.consumers.remove(id) else { return };
        self.media(consumer.site, Pending::Silent, MediaOp::CloseConsumer(id.clone()));
        if let Some(peer) = self.peers.get_mut(&receiver) {
            peer.old_consumers.remove(id);
            if consumer.accepted {
                self.notify(receiver, Notification::ConsumerClosed(id.clone()));
            }
        }
        self.forget_old(&consumer);
    }

    fn close_consumer(&mut self, id: &ConsumerId, receiver: SessionId) {
        if let Some(site) = self.consumers.get(id).map(|consumer| consumer.site) {
            self.media(site, Pending::Silent, MediaOp::CloseConsumer(id.clone()));
        }
        self.forget_consumer(id, receiver);
    }

    /// A receiver's old consumer of a producer is gone.
    pub(super) fn forget_old(&mut self, consumer: &Consumer) {
        let Consumer { producer: id, receiver, site, nth, .. } = consumer;
        let Some(producer) = self.producers.get_mut(id) else { return };
        producer.old.remove(receiver);
        // Who receives at that site may have to do with a newer one.
        let stays = self.is_receiving_at(*receiver, *site);
        let until = if stays { Bound::Included(*nth) } else { Bound::Unbounded };
        self.pipes.release(&Flow::Media(id.clone()), *site, (Bound::Unbounded, until), *receiver);
    }

    /// What a receiver got, or was to get, by a way that is gone, is brought to it another way.
    pub(super) fn producer_lost(&mut self, id: &ProducerId, lost: Spot, receiver: SessionId) {
        let is_of = |consumer: &ConsumerId| {
            self.consumers.get(consumer).is_some_and(|c| (c.site, c.nth) == (lost.site, lost.nth))
        };
        let old = self.producers.get(id).and_then(|producer| producer.old.get(&receiver));
        if let Some(old) = old.filter(|old| is_of(old)).cloned() {
            self.forget_consumer(&old, receiver);
            if let Some(producer) = self.producers.get_mut(id) {
                producer.old.remove(&receiver);
            }
        }
        // Who is about to leave that site gets it where it goes, and there nothing more.
        if !self.is_receiving_at(receiver, lost.site) {
            let newer = self.beside_old(id, receiver, lost.site);
            self.pipes.release(&Flow::Media(id.clone()), lost.site, newer, receiver);
            return;
        }
        let Some(producer) = self.producers.get(id) else { return };
        let (flow, home) = (Flow::Media(id.clone()), producer.site);
        let Some(link) = producer.receivers.get(&receiver) else { return };
        let consumer = link.consumer().cloned();
        let nth_of = |id: &ConsumerId| self.consumers.get(id).map(|consumer| consumer.nth);
        let Some(nth) = self.losing(&flow, link, nth_of, lost, receiver) else { return };
        if !self.loses_all(&flow, home, nth, lost, receiver) {
            return;
        }
        if let Some(consumer) = consumer {
            self.forget_consumer(&consumer, receiver);
        }
        self.unlink(id, receiver, lost.site);
        self.forward(id, receiver);
    }

    /// Of which spot a receiver has, or is to have next, a flow of which a way is lost: `Some(None)` if that is gone as well,
    /// `None` if the loss is nothing to him.
    fn losing<A, C>(
        &self,
        flow: &Flow,
        link: &Link<A, C>,
        nth_of: impl Fn(&C) -> Option<u32>,
        lost: Spot,
        receiver: SessionId,
    ) -> Option<Option<u32>> {
        match link {
            Link::Waiting | Link::Asked(_) => {
                let is_coming = self.pipes.is_coming(flow, lost.site, receiver);
                (!is_coming).then_some(Some(lost.nth))
            }
            Link::Creating(..) | Link::Consumer(_) => Some(link.nth(nth_of)),
            Link::Refused => None,
        }
    }

    /// Whether a receiver has nothing of a flow any more, or soon, now that this is lost. `nth`: what it has, or is to have next.
    fn loses_all(
        &mut self,
        flow: &Flow,
        home: SiteId,
        nth: Option<u32>,
        lost: Spot,
        receiver: SessionId,
    ) -> bool {
        let older = nth.is_some_and(|nth| nth < lost.nth);
        if older {
            // It was to go over to what is lost: that comes anew.
            self.pipes.want(flow, home, lost.site, receiver);
        }
        !older && nth.is_none_or(|nth| nth == lost.nth)
    }

    /// What was on its way to a receiver cannot be brought.
    pub(super) fn producer_failed(&mut self, id: &ProducerId, at: Spot, receiver: SessionId) {
        let waits = self.link_of(id, receiver).is_some_and(Link::is_waiting);
        let is_coming = self.pipes.is_coming(&Flow::Media(id.clone()), at.site, receiver);
        if waits && self.is_receiving_at(receiver, at.site) && !is_coming {
            self.unlink(id, receiver, at.site);
        }
    }

    /// As [`Room::go_over`], without the time beside each other: messages that come twice are worse than those that a
    /// client misses while it is offered the new data consumer.
    pub(super) fn go_over_with_data(&mut self, id: &DataProducerId, to: Spot) {
        let flow = Flow::Data(id.clone());
        let Some(producer) = self.data_producers.get(id) else { return };
        let nth_of = |id: &DataConsumerId| self.data_consumers.get(id).map(|consumer| consumer.nth);
        let leaves = self.leaving(to.site, &producer.old);
        let receivers = self.receiving_older(to, &producer.receivers, nth_of);
        for session in leaves {
            self.pipes.release(&flow, to.site, to.nth.., session);
        }
        for receiver in receivers {
            let Some(producer) = self.data_producers.get_mut(id) else { return };
            let link = producer.receivers.remove(&receiver);
            self.count(Counter::Rerouted);
            if let Some(Link::Consumer(consumer)) = link {
                self.media(to.site, Pending::Silent, MediaOp::CloseDataConsumer(consumer.clone()));
                self.forget_data_consumer(&consumer, receiver);
            }
            self.pipes.release(&flow, to.site, ..to.nth, receiver);
            self.forward_data(id, receiver);
        }
    }

    /// As [`Room::producer_lost`].
    pub(super) fn data_producer_lost(&mut self, id: &DataProducerId, lost: Spot, receiver: SessionId) {
        let is_of = |consumer: &DataConsumerId| {
            self.data_consumers.get(consumer).is_some_and(|c| (c.site, c.nth) == (lost.site, lost.nth))
        };
        let old = self.data_producers.get(id).and_then(|producer| producer.old.get(&receiver));
        if let Some(old) = old.filter(|old| is_of(old)).cloned() {
            self.forget_data_consumer(&old, receiver);
            if let Some(producer) = self.data_producers.get_mut(id) {
                producer.old.remove(&receiver);
            }
        }
        if !self.is_receiving_at(receiver, lost.site) {
            let newer = self.beside_old_data(id, receiver, lost.site);
            self.pipes.release(&Flow::Data(id.clone()), lost.site, newer, receiver);
            return;
        }
        let Some(producer) = self.data_producers.get(id) else { return };
        let (flow, home) = (Flow::Data(id.clone()), producer.site);
        let Some(link) = producer.receivers.get(&receiver) else { return };
        let consumer = link.consumer().cloned();
        let nth_of = |id: &DataConsumerId| self.data_consumers.get(id).map(|consumer| consumer.nth);
        let Some(nth) = self.losing(&flow, link, nth_of, lost, receiver) else { return };
        if !self.loses_all(&flow, home, nth, lost, receiver) {
            return;
        }
        if let Some(consumer) = consumer {
            self.forget_data_consumer(&consumer, receiver);
        }
        self.unlink_data(id, receiver, lost.site);
        self.forward_data(id, receiver);
    }

    /// As [`Room::producer_failed`].
    pub(super) fn data_producer_failed(&mut self, id: &DataProducerId, at: Spot, receiver: SessionId) {
        let waits = self.data_link_of(id, receiver).is_some_and(Link::is_waiting);
        let is_coming = self.pipes.is_coming(&Flow::Data(id.clone()), at.site, receiver);
        if waits && self.is_receiving_at(receiver, at.site) && !is_coming {
            self.unlink_data(id, receiver, at.site);
        }
    }
}

/// Those behind this one; all, if there is none.
fn beyond(nth: Option<u32>) -> (Bound<u32>, Bound<u32>) {
    (nth.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)
}
