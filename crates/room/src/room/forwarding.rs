//! Who receives whom: one consumer per producer and allowed receiver, from the moment both are there until
//! either is gone. Each is created paused, offered to the client, and resumed when the client accepts.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::link::{Link, MediaLink};
use super::migrate::Inherited;
use super::pipe::{Flow, Spot, producer_at};
use super::{Asked, Consumer, Pending, Room, Transport};
use crate::event::{ConsumerCreated, Counter, MediaOp};
use crate::id::{AskId, ConsumerId, OpId, ProducerId, SessionId, SiteId, TransportId};
use crate::message::{Layers, Notification, ServerRequest};

/// How long after a worker had no consumer to give it is asked again. Doubled with each time in a row…
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// …so many times. By then a worker that does not answer has been replaced.
const DOUBLED_AT_MOST: u32 = 5;

/// When consumers are asked for again that a worker did not make, though the two fit.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Again {
    #[serde(skip)]
    pub(super) at: Option<Instant>,
    /// How often in a row.
    times: u32,
}

impl Again {
    pub(super) fn failed(&mut self, now: Instant) {
        if self.at.is_none() {
            self.at = now.checked_add(AGAIN_AFTER * 2_u32.pow(self.times.min(DOUBLED_AT_MOST)));
            self.times = self.times.saturating_add(1);
        }
    }

    fn succeeded(&mut self) {
        self.times = 0;
    }
}

impl Room {
    /// Whoever misses something is brought it, if it is time to try.
    pub(super) fn forward_again(&mut self, now: Instant) {
        if self.again.at.is_some_and(|at| at <= now) {
            self.again.at = None;
            let receivers: Vec<_> = self.joined_sessions().collect();
            for receiver in receivers {
                self.forward_all_to(receiver);
            }
        }
    }

    /// Brings what is in the room to a receiver that has just become able to receive.
    pub(super) fn forward_all_to(&mut self, receiver: SessionId) {
        let producers: Vec<_> = self.producers.keys().cloned().collect();
        for producer in producers {
            self.forward(&producer, receiver);
        }
        self.forward_all_data_to(receiver);
    }

    /// Brings a new producer to everyone who may have it.
    pub(super) fn forward_to_all(&mut self, producer: &ProducerId) {
        let receivers: Vec<_> = self.joined_sessions().collect();
        for receiver in receivers {
            self.forward(producer, receiver);
        }
    }

    /// Starts a consumer if there should be one and there is none. Safe to call at any time.
    pub(super) fn forward(&mut self, producer_id: &ProducerId, receiver: SessionId) {
        let Some(producer) = self.producers.get(producer_id) else { return };
        if producer.owner == receiver || producer.receivers.contains_key(&receiver) {
            return;
        }
        let (Some(owner), Some(peer)) = (self.peers.get(&producer.owner), self.peers.get(&receiver)) else {
            return;
        };
        if peer.asks_for_what_it_receives() {
            return;
        }
        let able = peer.joined.as_ref().is_some_and(|joined| joined.rtp_capabilities.is_some())
            && peer.receive_transport().is_some();
        if !able || !self.room_type.may_receive(&owner.role, &peer.role, producer.kind, &producer.source) {
            return;
        }
        if peer.consumers.len() + peer.consumers_coming >= self.limits.consumers_per_peer {
            self.count(Counter::ConsumerOverLimit);
            return;
        }
        let (home, site) = (producer.site, peer.receiving);
        if let Some(peer) = self.peers.get_mut(&receiver) {
            peer.consumers_coming += 1;
        }
        if let Some(producer) = self.producers.get_mut(producer_id) {
            producer.receivers.insert(receiver, Link::Waiting);
        }
        if home == site || self.pipes.want(&Flow::Media(producer_id.clone()), home, site, receiver) {
            self.consume(producer_id, receiver);
        }
    }

    /// Makes the consumer of one who waited for it: the producer is at its site.
    pub(super) fn consume(&mut self, producer_id: &ProducerId, receiver: SessionId) {
        let Some(peer) = self.peers.get(&receiver) else { return };
        let site = peer.receiving;
        let capabilities = peer.joined.as_ref().and_then(|joined| joined.rtp_capabilities.clone());
        let offered = capabilities.zip(peer.receive_transport().cloned());
        let Some(producer) = self.producers.get_mut(producer_id) else { return };
        let (pending, transport, rtp_capabilities) = match (producer.receivers.remove(&receiver), offered) {
            (Some(Link::Asked(asked)), _) => {
                let transport = asked.asking.transport.clone();
                (Pending::ConsumeOnRequest(asked.asking), transport, asked.rtp_capabilities)
            }
            (Some(_), Some((capabilities, transport))) => {
                let producer = producer_id.clone();
                let pending = Pending::Consume { receiver, producer, transport: transport.clone() };
                (pending, transport, capabilities)
            }
            (Some(link), None) => {
                // Its transport closed meanwhile. The next one brings the two together.
                producer.receivers.insert(receiver, link);
                self.unlink(producer_id, receiver, site);
                return;
            }
            (None, _) => return,
        };
        // At its home there is only one.
        let nth = self.pipes.nth_at(&Flow::Media(producer_id.clone()), site).unwrap_or_default();
        let what = MediaOp::Consume { transport, producer: producer_at(producer_id, nth), rtp_capabilities };
        let op = self.media(site, pending, what);
        if let (Some(op), Some(producer)) = (op, self.producers.get_mut(producer_id)) {
            producer.receivers.insert(receiver, Link::Creating(op, nth));
        }
    }

    /// A producer was piped to a site: those who waited for it there receive it.
    pub(super) fn producer_arrived(&mut self, id: &ProducerId, at: Spot) {
        let Spot { site, nth } = at;
        let Some(producer) = self.producers.get(id) else { return };
        let here = |session: &SessionId| self.peers.get(session).is_some_and(|peer| peer.receiving == site);
        let waiting = producer.receivers.iter().filter(|(session, link)| link.is_waiting() && here(session));
        let waiting: Vec<_> = waiting.map(|(session, _)| *session).collect();
        if producer.paused {
            self.media(site, Pending::Silent, MediaOp::PauseProducer(producer_at(id, nth)));
        }
        for receiver in waiting {
            self.consume(id, receiver);
        }
        self.go_over(id, at);
    }

    /// A consumer is gone in the worker already: its client is told, if it knows it.
    pub(super) fn forget_consumer(&mut self, id: &ConsumerId, receiver: SessionId) {
        let Some(consumer) = self.consumers.remove(id) else { return };
        if let Some(peer) = self.peers.get_mut(&receiver) {
            peer.consumers.remove(id);
            peer.old_consumers.remove(id);
            if consumer.accepted {
                self.notify(receiver, Notification::ConsumerClosed(id.clone()));
            }
        }
    }

    /// A consumer exists: offer it, unless one of its ends left meanwhile.
    pub(super) fn consumer_created(
        &mut self,
        site: SiteId,
        op: OpId,
        receiver: SessionId,
        producer_id: &ProducerId,
        transport: TransportId,
        created: ConsumerCreated,
    ) {
        let nth = self.link_of(producer_id, receiver).and_then(|link| link.creating(op));
        let mut wanted = false;
        if let Some(peer) = self.peers.get_mut(&receiver) {
            peer.consumers_coming = peer.consumers_coming.saturating_sub(1);
            wanted = peer.transports.contains_key(&transport);
        }
        let producer = self.producers.get_mut(producer_id);
        let (Some(nth), true, Some(producer)) = (nth, wanted, producer) else {
            self.media(site, Pending::Silent, MediaOp::CloseConsumer(created.id));
            if nth.is_some() {
                self.unlink(producer_id, receiver, site);
                // The receiver may have another transport by now, which passed over this producer.
                self.forward(producer_id, receiver);
            }
            return;
        };
        self.again.succeeded();
        producer.receivers.insert(receiver, Link::Consumer(created.id.clone()));
        let (producer_paused, kind) = (producer.paused, producer.kind);
        let (app_data, source) = (producer.app_data.clone(), producer.source.to_string());
        let Some(owner) = self.peers.get(&producer.owner).map(|owner| owner.id.clone()) else { return };
        let Inherited { replaces, paused_by_client, preferred, priority } =
            self.inherited(producer_id, receiver);
        if let Some(layers) = preferred {
            let what = MediaOp::SetPreferredLayers(created.id.clone(), layers);
            self.media(site, Pending::Silent, what);
        }
        if let Some(priority) = priority {
            self.media(site, Pending::Silent, MediaOp::SetPriority(created.id.clone(), priority));
        }

        self.last_ask += 1;
        let ask = AskId(self.last_ask);
        if let Some(peer) = self.peers.get_mut(&receiver) {
            peer.consumers.insert(created.id.clone());
            peer.asks.insert(ask, Asked::Consumer(created.id.clone()));
        }
        self.consumers.insert(
            created.id.clone(),
            Consumer {
                producer: producer_id.clone(),
                receiver,
                transport: transport.clone(),
                site,
                nth,
                accepted: false,
                paused_by_client,
                told_producer_paused: producer_paused,
                preferred,
                priority,
                score: created.score.clone(),
                layers: None,
            },
        );
        let request = ServerRequest::NewConsumer {
            peer: owner,
            producer: producer_id.clone(),
            id: created.id,
            transport,
            kind,
            rtp_parameters: created.rtp_parameters,
            consumer_type: created.consumer_type,
            app_data,
            source,
            producer_paused,
            score: created.score,
            replaces,
        };
        self.out.push(crate::event::Action::Ask { session: receiver, ask, request });
    }

    /// There is no consumer. Where the two do not fit, that is final for this transport; else it is tried again later.
    pub(super) fn consume_failed(
        &mut self,
        (site, op): (SiteId, OpId),
        receiver: SessionId,
        producer: &ProducerId,
        transport: &TransportId,
        refused: bool,
    ) {
        self.count(Counter::ConsumeFailed);
        let Some(peer) = self.peers.get_mut(&receiver) else { return };
        peer.consumers_coming = peer.consumers_coming.saturating_sub(1);
        let same_transport = peer.transports.contains_key(transport);
        if !self.is_creating(producer, receiver, op) {
            return;
        }
        if !same_transport {
            // It failed with its transport; there may be another by now.
            self.unlink(producer, receiver, site);
            self.forward(producer, receiver);
        } else if refused {
            self.refuse(producer, receiver, site);
        } else {
            self.unlink(producer, receiver, site);
        }
    }

    pub(super) fn answered(&mut self, session: SessionId, ask: AskId, accepted: bool, now: Instant) {
        let id = match self.peers.get_mut(&session).and_then(|peer| peer.asks.remove(&ask)) {
            Some(Asked::Consumer(id)) => id,
            Some(Asked::DataConsumer(id)) => return self.data_answered(session, id, accepted),
            None => return,
        };
        let Some(consumer) = self.consumers.get_mut(&id) else {
            // Its producer ended before the client answered; only now does the client know the id.
            if accepted {
                self.notify(session, Notification::ConsumerClosed(id));
            }
            return;
        };
        if !accepted {
            self.count(Counter::ConsumerRefused);
            self.refuse_consumer(&id);
            return;
        }
        consumer.accepted = true;
        let (score, layers) = (consumer.score.clone(), consumer.layers);
        let (resume, producer, site) = (!consumer.paused_by_client, consumer.producer.clone(), consumer.site);
        if resume {
            self.media(site, Pending::Silent, MediaOp::ResumeConsumer(id.clone()));
        }
        if let Some(paused) = self.producers.get(&producer).map(|producer| producer.paused) {
            self.tell_producer_pause(&id, paused);
        }
        if !score.is_null() {
            self.notify(session, Notification::ConsumerScore { consumer: id.clone(), score });
        }
        if let Some(layers) = layers {
            self.notify(session, Notification::ConsumerLayersChanged { consumer: id.clone(), layers });
        }
        if self.link_of(&producer, session).and_then(Link::consumer) == Some(&id) {
            self.has_gone_over(&producer, session, now);
        }
    }

    fn refuse_consumer(&mut self, id: &ConsumerId) {
        let Some(consumer) = self.consumers.remove(id) else { return };
        let (receiver, site) = (consumer.receiver, consumer.site);
        self.media(site, Pending::Silent, MediaOp::CloseConsumer(id.clone()));
        let Some(peer) = self.peers.get_mut(&receiver) else { return };
        if peer.old_consumers.remove(id) {
            self.forget_old(&consumer);
            return;
        }
        peer.consumers.remove(id);
        self.refuse(&consumer.producer, receiver, site);
    }

    fn refuse(&mut self, producer_id: &ProducerId, receiver: SessionId, site: SiteId) {
        if let Some(producer) = self.producers.get_mut(producer_id) {
            producer.receivers.insert(receiver, Link::Refused);
        }
        self.close_replaced(producer_id, receiver);
        self.pipes.release(&Flow::Media(producer_id.clone()), site, .., receiver);
    }

    pub(super) fn link_of(&self, producer: &ProducerId, receiver: SessionId) -> Option<&MediaLink> {
        self.producers.get(producer)?.receivers.get(&receiver)
    }

    /// Whether this is the work that the receiver's consumer is to come of.
    pub(super) fn is_creating(&self, producer: &ProducerId, receiver: SessionId, op: OpId) -> bool {
        self.link_of(producer, receiver).is_some_and(|link| link.creating(op).is_some())
    }

    /// Forgets a producer and its consumers, and tells their clients. Its media object goes with its transport or
    /// by the caller's hand; the worker closes the consumers with it.
    pub(super) fn drop_producer(&mut self, id: &ProducerId) {
        let Some(producer) = self.producers.shift_remove(id) else { return };
        self.pipes.close(&Flow::Media(id.clone()));
        for (receiver, link) in producer.receivers {
            match link {
                Link::Consumer(id) => self.forget_consumer(&id, receiver),
                link => self.stop_waiting(receiver, link),
            }
        }
        for (receiver, id) in producer.old {
            self.forget_consumer(&id, receiver);
        }
    }

    /// A transport is gone for good: so is all that ran on it. Its peer may create another.
    pub(super) fn transport_closed(&mut self, id: &TransportId) {
        let owner = self.peers.iter_mut().find(|(_, peer)| peer.transports.contains_key(id));
        let Some((&session, peer)) = owner else { return };
        let Some(Transport { site, .. }) = peer.transports.remove(id) else { return };
        let is_current = site == peer.receiving;
        let on_it = |producer: &ProducerId| self.producers.get(producer).is_some_and(|p| p.transport == *id);
        let producers: Vec<_> = peer.producers.iter().filter(|p| on_it(p)).cloned().collect();
        let consumers: Vec<_> = peer
            .consumers
            .iter()
            .chain(&peer.old_consumers)
            .filter(|consumer| self.consumers.get(*consumer).is_some_and(|c| c.transport == *id))
            .cloned()
            .collect();
        for producer in &producers {
            peer.producers.remove(producer);
        }
        let mut old = Vec::new();
        for consumer in &consumers {
            peer.consumers.remove(consumer);
            if peer.old_consumers.remove(consumer) {
                old.push(consumer.clone());
            }
        }
        for producer in &producers {
            self.drop_producer(producer);
        }
        for id in consumers {
            let Some(consumer) = self.consumers.remove(&id) else { continue };
            if old.contains(&id) {
                self.forget_old(&consumer);
            } else {
                self.unlink(&consumer.producer, session, site);
            }
            if consumer.accepted {
                self.notify(session, Notification::ConsumerClosed(id));
            }
        }
        self.data_transport_closed(session, id, is_current);
        // What did not fit the old transport may fit the next.
        for producer in self.producers.values_mut().filter(|_| is_current) {
            if matches!(producer.receivers.get(&session), Some(Link::Refused)) {
                producer.receivers.remove(&session);
            }
        }
        self.media(site, Pending::Silent, MediaOp::CloseTransport(id.clone()));
        self.forward_all_to(session);
    }

    /// A receiver has nothing of a producer any more, or is to get it anew. `site` is where it had it, or was to.
    pub(super) fn unlink(&mut self, producer_id: &ProducerId, receiver: SessionId, site: SiteId) {
        let Some(producer) = self.producers.get_mut(producer_id) else { return };
        if let Some(link) = producer.receivers.remove(&receiver) {
            self.stop_waiting(receiver, link);
        }
        let others = self.beside_old(producer_id, receiver, site);
        self.pipes.release(&Flow::Media(producer_id.clone()), site, others, receiver);
    }

    pub(super) fn stop_waiting(&mut self, receiver: SessionId, link: MediaLink) {
        if !link.is_waiting() {
            return;
        }
        if let Some(peer) = self.peers.get_mut(&receiver) {
            peer.consumers_coming = peer.consumers_coming.saturating_sub(1);
        }
        if let Link::Asked(asked) = link {
            self.cannot_be_brought(receiver, asked.asking.request);
        }
    }

    /// Tells the receiver that the sender fell silent or is back, once per change, and only of what it knows.
    pub(super) fn tell_producer_pause(&mut self, id: &ConsumerId, paused: bool) {
        let Some(consumer) = self.consumers.get_mut(id) else { return };
        if !consumer.accepted || consumer.told_producer_paused == paused {
            return;
        }
        consumer.told_producer_paused = paused;
        let session = consumer.receiver;
        let notification = if paused {
            Notification::ConsumerPaused(id.clone())
        } else {
            Notification::ConsumerResumed(id.clone())
        };
        self.notify(session, notification);
    }

    /// Its sender is told what its own site says. What another says of the same producer is about the pipe.
    pub(super) fn producer_score(&mut self, site: SiteId, producer: ProducerId, score: serde_json::Value) {
        let here = self.producers.get(&producer).filter(|producer| producer.site == site);
        if let Some(owner) = here.map(|producer| producer.owner) {
            self.notify(owner, Notification::ProducerScore { producer, score });
        }
    }

    pub(super) fn consumer_score(&mut self, id: &ConsumerId, score: serde_json::Value) {
        let Some(consumer) = self.consumers.get_mut(id) else { return };
        consumer.score.clone_from(&score);
        if consumer.accepted {
            let session = consumer.receiver;
            self.notify(session, Notification::ConsumerScore { consumer: id.clone(), score });
        }
    }

    pub(super) fn consumer_layers(&mut self, id: &ConsumerId, layers: Option<Layers>) {
        let Some(consumer) = self.consumers.get_mut(id) else { return };
        consumer.layers = Some(layers);
        if consumer.accepted {
            let session = consumer.receiver;
            self.notify(session, Notification::ConsumerLayersChanged { consumer: id.clone(), layers });
        }
    }
}
