//! Who receives whom: one consumer per producer and allowed receiver, from the moment both are there until
//! either is gone. Each is created paused, offered to the client, and resumed when the client accepts.

use super::{Asked, Consumer, Link, Pending, Room};
use crate::event::{ConsumerCreated, Counter, MediaOp};
use crate::id::{AskId, ConsumerId, ProducerId, SessionId, TransportId};
use crate::message::{Layers, Notification, ServerRequest};

impl Room {
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
        let Some(capabilities) = peer.joined.as_ref().and_then(|joined| joined.rtp_capabilities.clone())
        else {
            return;
        };
        let Some(transport) = peer.receive_transport().cloned() else { return };
        if !self.room_type.may_receive(&owner.role, &peer.role, producer.kind, &producer.source) {
            return;
        }
        if peer.consumers.len() + peer.consumers_coming >= self.limits.consumers_per_peer {
            self.count(Counter::ConsumerOverLimit);
            return;
        }
        if let Some(peer) = self.peers.get_mut(&receiver) {
            peer.consumers_coming += 1;
        }
        if let Some(producer) = self.producers.get_mut(producer_id) {
            producer.receivers.insert(receiver, Link::Creating);
        }
        self.media(
            Pending::Consume { receiver, producer: producer_id.clone(), transport: transport.clone() },
            MediaOp::Consume { transport, producer: producer_id.clone(), rtp_capabilities: capabilities },
        );
    }

    /// A consumer exists: offer it, unless one of its ends left meanwhile.
    pub(super) fn consumer_created(
        &mut self,
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
        let producer = self.producers.get_mut(producer_id);
        let (true, Some(producer)) = (wanted, producer) else {
            self.unlink(producer_id, receiver);
            self.media(Pending::Silent, MediaOp::CloseConsumer(created.id));
            // The receiver may have another transport by now, which passed over this producer.
            self.forward(producer_id, receiver);
            return;
        };
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

    /// There is no consumer. Where the two do not fit, that is final for this transport.
    pub(super) fn consume_failed(
        &mut self,
        receiver: SessionId,
        producer: &ProducerId,
        transport: &TransportId,
        refused: bool,
    ) {
        self.count(Counter::ConsumeFailed);
        let Some(peer) = self.peers.get_mut(&receiver) else { return };
        peer.consumers_coming = peer.consumers_coming.saturating_sub(1);
        if !peer.transports.contains_key(transport) {
            // It failed with its transport; there may be another by now.
            self.unlink(producer, receiver);
            self.forward(producer, receiver);
        } else if refused {
            let producer = self.producers.get_mut(producer);
            if let Some(link) = producer.and_then(|producer| producer.receivers.get_mut(&receiver)) {
                *link = Link::Refused;
            }
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
            self.media(Pending::Silent, MediaOp::ResumeConsumer(id.clone()));
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
        if let Some(producer) = self.producers.get_mut(&consumer.producer) {
            producer.receivers.insert(consumer.receiver, Link::Refused);
        }
        self.media(Pending::Silent, MediaOp::CloseConsumer(id.clone()));
    }

    /// Forgets a producer and its consumers, and tells their clients. Its media object goes with its transport or
    /// by the caller's hand; the worker closes the consumers with it.
    pub(super) fn drop_producer(&mut self, id: &ProducerId) {
        let Some(producer) = self.producers.shift_remove(id) else { return };
        for (receiver, link) in producer.receivers {
            let Link::Consumer(id) = link else { continue };
            let Some(consumer) = self.consumers.remove(&id) else { continue };
            if let Some(peer) = self.peers.get_mut(&receiver) {
                peer.consumers.remove(&id);
                if consumer.accepted {
                    self.notify(receiver, Notification::ConsumerClosed(id));
                }
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
        self.media(Pending::Silent, MediaOp::CloseTransport(id.clone()));
        self.forward_all_to(session);
    }

    pub(super) fn unlink(&mut self, producer: &ProducerId, receiver: SessionId) {
        if let Some(producer) = self.producers.get_mut(producer) {
            producer.receivers.remove(&receiver);
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

    pub(super) fn producer_score(&mut self, producer: ProducerId, score: serde_json::Value) {
        if let Some(owner) = self.producers.get(&producer).map(|producer| producer.owner) {
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
