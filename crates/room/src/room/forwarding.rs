//! Who receives whom: one consumer per producer and allowed receiver, from the moment both are there until
//! either is gone. Each is created paused, offered to the client, and resumed when the client accepts.

use std::time::{Duration, Instant};

use super::pipe::Flow;
use super::{Asked, Consumer, Link, Pending, Room};
use crate::event::{ConsumerCreated, Counter, MediaOp};
use crate::id::{AskId, ConsumerId, OpId, ProducerId, SessionId, SiteId, TransportId};
use crate::message::{Layers, Notification, ServerRequest};

/// How long after a worker had no consumer to give it is asked again. Doubled with each time in a row…
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// …so many times. By then a worker that does not answer has been replaced.
const DOUBLED_AT_MOST: u32 = 5;

/// When consumers are asked for again that a worker did not make, though the two fit.
#[derive(Debug, Default)]
pub(super) struct Again {
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
    fn forward(&mut self, producer_id: &ProducerId, receiver: SessionId) {
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
        let (home, site) = (producer.site, peer.site);
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
        let site = peer.site;
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
                self.unlink(producer_id, receiver);
                return;
            }
            (None, _) => return,
        };
        let what = MediaOp::Consume { transport, producer: producer_id.clone(), rtp_capabilities };
        let op = self.media(site, pending, what);
        if let (Some(op), Some(producer)) = (op, self.producers.get_mut(producer_id)) {
            producer.receivers.insert(receiver, Link::Creating(op));
        }
    }

    /// A producer was piped to a site: those who waited for it there receive it.
    pub(super) fn producer_arrived(&mut self, id: &ProducerId, site: SiteId) {
        let Some(producer) = self.producers.get(id) else { return };
        let here = |session: &SessionId| self.peers.get(session).is_some_and(|peer| peer.site == site);
        let waiting = producer
            .receivers
            .iter()
            .filter(|(session, link)| matches!(link, Link::Waiting | Link::Asked(_)) && here(session));
        let waiting: Vec<_> = waiting.map(|(session, _)| *session).collect();
        if producer.paused {
            self.media(site, Pending::Silent, MediaOp::PauseProducer(id.clone()));
        }
        for receiver in waiting {
            self.consume(id, receiver);
        }
    }

    /// What a receiver got, or was to get, by way of a site that is gone, is brought to it another way.
    pub(super) fn producer_lost(&mut self, id: &ProducerId, receiver: SessionId) {
        let link = self.producers.get(id).and_then(|producer| producer.receivers.get(&receiver));
        if let Some(Link::Consumer(consumer)) = link {
            let consumer = consumer.clone();
            self.forget_consumer(&consumer, receiver);
        }
        self.unlink(id, receiver);
        self.forward(id, receiver);
    }

    /// A consumer is gone in the worker already: its client is told, if it knows it.
    fn forget_consumer(&mut self, id: &ConsumerId, receiver: SessionId) {
        let Some(consumer) = self.consumers.remove(id) else { return };
        if let Some(peer) = self.peers.get_mut(&receiver) {
            peer.consumers.remove(id);
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
        let mut wanted = false;
        if let Some(peer) = self.peers.get_mut(&receiver) {
            peer.consumers_coming = peer.consumers_coming.saturating_sub(1);
            wanted = peer.transports.contains_key(&transport);
        }
        let current = self.is_creating(producer_id, receiver, op);
        let producer = self.producers.get_mut(producer_id);
        let (true, true, Some(producer)) = (current, wanted, producer) else {
            self.media(site, Pending::Silent, MediaOp::CloseConsumer(created.id));
            if current {
                self.unlink(producer_id, receiver);
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
                accepted: false,
                paused_by_client: false,
                told_producer_paused: producer_paused,
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
        };
        self.out.push(crate::event::Action::Ask { session: receiver, ask, request });
    }

    /// There is no consumer. Where the two do not fit, that is final for this transport; else it is tried again later.
    pub(super) fn consume_failed(
        &mut self,
        op: OpId,
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
            self.unlink(producer, receiver);
            self.forward(producer, receiver);
        } else if refused {
            self.refuse(producer, receiver);
        } else {
            self.unlink(producer, receiver);
        }
    }

    pub(super) fn answered(&mut self, session: SessionId, ask: AskId, accepted: bool) {
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
        let (resume, producer) = (!consumer.paused_by_client, consumer.producer.clone());
        if resume {
            self.media_of(session, Pending::Silent, MediaOp::ResumeConsumer(id.clone()));
        }
        if let Some(paused) = self.producers.get(&producer).map(|producer| producer.paused) {
            self.tell_producer_pause(&id, paused);
        }
        if !score.is_null() {
            self.notify(session, Notification::ConsumerScore { consumer: id.clone(), score });
        }
        if let Some(layers) = layers {
            self.notify(session, Notification::ConsumerLayersChanged { consumer: id, layers });
        }
    }

    fn refuse_consumer(&mut self, id: &ConsumerId) {
        let Some(consumer) = self.consumers.remove(id) else { return };
        if let Some(peer) = self.peers.get_mut(&consumer.receiver) {
            peer.consumers.remove(id);
        }
        self.media_of(consumer.receiver, Pending::Silent, MediaOp::CloseConsumer(id.clone()));
        self.refuse(&consumer.producer, consumer.receiver);
    }

    fn refuse(&mut self, producer_id: &ProducerId, receiver: SessionId) {
        if let Some(producer) = self.producers.get_mut(producer_id) {
            producer.receivers.insert(receiver, Link::Refused);
        }
        self.pipes.release(&Flow::Media(producer_id.clone()), receiver);
    }

    /// Whether this is the work that the receiver's consumer is to come of.
    pub(super) fn is_creating(&self, producer: &ProducerId, receiver: SessionId, op: OpId) -> bool {
        let link = self.producers.get(producer).and_then(|producer| producer.receivers.get(&receiver));
        matches!(link, Some(Link::Creating(current)) if *current == op)
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
    }

    /// A transport is gone for good: so is all that ran on it. Its peer may create another.
    pub(super) fn transport_closed(&mut self, id: &TransportId) {
        let owner = self.peers.iter_mut().find(|(_, peer)| peer.transports.contains_key(id));
        let Some((&session, peer)) = owner else { return };
        peer.transports.remove(id);
        let on_it = |producer: &ProducerId| self.producers.get(producer).is_some_and(|p| p.transport == *id);
        let producers: Vec<_> = peer.producers.iter().filter(|p| on_it(p)).cloned().collect();
        let consumers: Vec<_> = peer
            .consumers
            .iter()
            .filter(|consumer| self.consumers.get(*consumer).is_some_and(|c| c.transport == *id))
            .cloned()
            .collect();
        for producer in &producers {
            peer.producers.remove(producer);
        }
        for consumer in &consumers {
            peer.consumers.remove(consumer);
        }
        for producer in &producers {
            self.drop_producer(producer);
        }
        for id in consumers {
            let Some(consumer) = self.consumers.remove(&id) else { continue };
            self.unlink(&consumer.producer, session);
            if consumer.accepted {
                self.notify(session, Notification::ConsumerClosed(id));
            }
        }
        self.data_transport_closed(session, id);
        // What did not fit the old transport may fit the next.
        for producer in self.producers.values_mut() {
            if matches!(producer.receivers.get(&session), Some(Link::Refused)) {
                producer.receivers.remove(&session);
            }
        }
        self.media_of(session, Pending::Silent, MediaOp::CloseTransport(id.clone()));
        self.forward_all_to(session);
    }

    pub(super) fn unlink(&mut self, producer_id: &ProducerId, receiver: SessionId) {
        let Some(producer) = self.producers.get_mut(producer_id) else { return };
        if let Some(link) = producer.receivers.remove(&receiver) {
            self.stop_waiting(receiver, link);
        }
        self.pipes.release(&Flow::Media(producer_id.clone()), receiver);
    }

    fn stop_waiting(&mut self, receiver: SessionId, link: Link) {
        if !matches!(link, Link::Waiting | Link::Asked(_)) {
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
