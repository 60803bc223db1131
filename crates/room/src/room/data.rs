//! Messages between peers: one data consumer per data producer and allowed receiver, as with media, from the moment both
//! are there until either is gone. Created paused, offered to the client, resumed when it accepts.

use std::collections::BTreeMap;
use std::sync::Arc;

use ortc::SctpStreamParameters;
use serde::{Deserialize, Serialize};

use super::link::DataLink;
use super::pipe::{Flow, Spot, data_producer_at};
use super::snapshot::pairs;
use super::{Asked, Peer, Pending, Room, Transport};
use crate::error::RoomError;
use crate::event::{Action, Counter, DataConsumerCreated, MediaOp};
use crate::id::{AskId, DataConsumerId, DataProducerId, OpId, RequestId, SessionId, SiteId, TransportId};
use crate::message::{Notification, Reply, ServerRequest};

/// Bytes of a label or subprotocol: what the open message of a data channel can hold (RFC 8832 section 5.1).
const NAME_BYTES: usize = 65_535;

/// What a peer sends messages with.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct DataProducer {
    pub(super) owner: SessionId,
    pub(super) site: SiteId,
    transport: TransportId,
    stream: SctpStreamParameters,
    label: String,
    protocol: String,
    app_data: Arc<serde_json::Value>,
    /// Meant for mediasoup-demo's bot, and so for no peer. There is none here: the messages end in the worker.
    for_bot: bool,
    #[serde(with = "pairs")]
    pub(super) receivers: BTreeMap<SessionId, DataLink>,
    /// What receivers that migrate have of it at the site that they leave.
    #[serde(with = "pairs")]
    pub(super) old: BTreeMap<SessionId, DataConsumerId>,
    /// The one that it takes the place of; it may have ended.
    replaces: Option<DataProducerId>,
}

/// What a peer receives messages with.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct DataConsumer {
    pub(super) producer: DataProducerId,
    pub(super) receiver: SessionId,
    pub(super) transport: TransportId,
    pub(super) site: SiteId,
    /// Which of the data producer's spots there it consumes.
    pub(super) nth: u32,
    pub(super) accepted: bool,
}

impl DataProducer {
    pub(super) fn new(
        owner: SessionId,
        (site, transport): (SiteId, TransportId),
        stream: SctpStreamParameters,
        (label, protocol): (String, String),
        app_data: serde_json::Value,
        replaces: Option<DataProducerId>,
    ) -> Self {
        let channel = app_data.get("channel").and_then(serde_json::Value::as_str).unwrap_or(&label);
        let for_bot = channel == "bot";
        let app_data = Arc::new(app_data);
        let (receivers, old) = (BTreeMap::new(), BTreeMap::new());
        Self { owner, site, transport, stream, label, protocol, app_data, for_bot, receivers, old, replaces }
    }
}

impl Room {
    pub(super) fn produce_data(
        &mut self,
        session: SessionId,
        request: RequestId,
        at: Transport,
        coming: DataProducer,
    ) -> Result<Option<Reply>, RoomError> {
        if !at.direction.sends() {
            return Err(RoomError::NotASendTransport { id: coming.transport.to_string() });
        }
        let (limits, room_type) = (self.limits.clone(), self.room_type.clone());
        // What it leaves behind is not counted.
        let old = self.data_producers.values();
        let old = old.filter(|old| old.owner == session && old.site != at.site).count();
        let peer = self.joined_mut(session)?;
        if !peer.data_transports.contains(&coming.transport) {
            let text = "produceData needs a transport that was created with sctpCapabilities";
            return Err(RoomError::Invalid(text.to_owned()));
        }
        let limit = limits.data_producers_per_peer;
        if peer.data_producers.len() + peer.data_producers_coming >= limit + old {
            return Err(RoomError::Limit { what: "data producers of one peer".into(), limit });
        }
        if coming.label.len().max(coming.protocol.len()) > NAME_BYTES {
            return Err(RoomError::Limit { what: "bytes of label or protocol".into(), limit: NAME_BYTES });
        }
        if coming.app_data.to_string().len() > limits.app_data_bytes {
            return Err(RoomError::Limit { what: "bytes of appData".into(), limit: limits.app_data_bytes });
        }
        if !room_type.may_produce_data(&peer.role) {
            let role = peer.role.as_str().to_owned();
            return Err(RoomError::NotAllowed { role, kind: "data".into(), source_name: coming.label });
        }
        peer.data_producers_coming += 1;
        let op = MediaOp::ProduceData {
            transport: coming.transport.clone(),
            stream: coming.stream,
            label: coming.label.clone(),
            protocol: coming.protocol.clone(),
        };
        self.media(at.site, Pending::ProduceData { session, request, coming: Box::new(coming) }, op);
        Ok(None)
    }

    pub(super) fn data_producer_created(
        &mut self,
        site: SiteId,
        session: SessionId,
        request: RequestId,
        id: DataProducerId,
        coming: DataProducer,
    ) {
        let peer = self.peers.get_mut(&session);
        let Some(peer) = peer.filter(|peer| peer.transports.contains_key(&coming.transport)) else {
            self.media(site, Pending::Silent, MediaOp::CloseDataProducer(id));
            let gone = "the transport closed meanwhile".to_owned();
            self.reply(session, request, Err(RoomError::Unavailable(gone)));
            return;
        };
        peer.data_producers.insert(id.clone());
        self.data_producers.insert(id.clone(), coming);
        self.reply(session, request, Ok(Reply::DataProduced(id.clone())));
        let receivers: Vec<_> = self.joined_sessions().collect();
        for receiver in receivers {
            self.forward_data(&id, receiver);
        }
    }

    /// Brings all messages of the room to a receiver that has just become able to receive.
    pub(super) fn forward_all_data_to(&mut self, receiver: SessionId) {
        let producers: Vec<_> = self.data_producers.keys().cloned().collect();
        for producer in producers {
            self.forward_data(&producer, receiver);
        }
    }

    /// Starts a data consumer if there should be one and there is none. Safe to call at any time.
    pub(super) fn forward_data(&mut self, id: &DataProducerId, receiver: SessionId) {
        let Some(producer) = self.data_producers.get_mut(id) else { return };
        if producer.for_bot || producer.owner == receiver || producer.receivers.contains_key(&receiver) {
            return;
        }
        let Some(owner) = self.peers.get(&producer.owner) else { return };
        let (from, home) = (owner.role.clone(), producer.site);
        let Some(peer) = self.peers.get_mut(&receiver).filter(|peer| peer.joined.is_some()) else { return };
        if peer.asks_for_what_it_receives() {
            return;
        }
        if peer.data_receive_transport().is_none() || !self.room_type.may_receive_data(&from, &peer.role) {
            return;
        }
        if peer.data_consumers.len() + peer.data_consumers_coming >= self.limits.data_consumers_per_peer {
            self.count(Counter::ConsumerOverLimit);
            return;
        }
        peer.data_consumers_coming += 1;
        let site = peer.receiving;
        producer.receivers.insert(receiver, DataLink::Waiting);
        if home == site || self.pipes.want(&Flow::Data(id.clone()), home, site, receiver) {
            self.consume_data(id, receiver);
        }
    }

    /// Makes the data consumer of one who waited for it: the data producer is at its site.
    pub(super) fn consume_data(&mut self, id: &DataProducerId, receiver: SessionId) {
        let Some(peer) = self.peers.get(&receiver) else { return };
        let site = peer.receiving;
        let own = peer.data_receive_transport().cloned();
        let Some(producer) = self.data_producers.get_mut(id) else { return };
        let (pending, transport) = match (producer.receivers.remove(&receiver), own) {
            (Some(DataLink::Asked(asking)), _) => {
                let transport = asking.transport.clone();
                (Pending::ConsumeDataOnRequest(*asking), transport)
            }
            (Some(_), Some(transport)) => (
                Pending::ConsumeData { receiver, producer: id.clone(), transport: transport.clone() },
                transport,
            ),
            (Some(link), None) => {
                producer.receivers.insert(receiver, link);
                self.unlink_data(id, receiver, site);
                return;
            }
            (None, _) => return,
        };
        // At its home there is only one.
        let nth = self.pipes.nth_at(&Flow::Data(id.clone()), site).unwrap_or_default();
        let what = MediaOp::ConsumeData { transport, data_producer: data_producer_at(id, nth) };
        let op = self.media(site, pending, what);
        if let (Some(op), Some(producer)) = (op, self.data_producers.get_mut(id)) {
            producer.receivers.insert(receiver, DataLink::Creating(op, nth));
        }
    }

    /// A data producer was piped to a site: those who waited for it there receive it.
    pub(super) fn data_producer_arrived(&mut self, id: &DataProducerId, at: Spot) {
        let site = at.site;
        let Some(producer) = self.data_producers.get(id) else { return };
        let here = |session: &SessionId| self.peers.get(session).is_some_and(|peer| peer.receiving == site);
        let waiting = producer.receivers.iter().filter(|(session, link)| link.is_waiting() && here(session));
        for receiver in waiting.map(|(session, _)| *session).collect::<Vec<_>>() {
            self.consume_data(id, receiver);
        }
        self.go_over_with_data(id, at);
    }

    pub(super) fn forget_data_consumer(&mut self, id: &DataConsumerId, receiver: SessionId) {
        let Some(consumer) = self.data_consumers.remove(id) else { return };
        if let Some(peer) = self.peers.get_mut(&receiver) {
            peer.data_consumers.remove(id);
            peer.old_data_consumers.remove(id);
            if consumer.accepted {
                self.notify(receiver, Notification::DataConsumerClosed(id.clone()));
            }
        }
    }

    /// A data consumer exists: offer it, unless one of its ends left meanwhile.
    pub(super) fn data_consumer_created(
        &mut self,
        site: SiteId,
        op: OpId,
        receiver: SessionId,
        producer_id: &DataProducerId,
        transport: TransportId,
        created: DataConsumerCreated,
    ) {
        let nth = self.data_link_of(producer_id, receiver).and_then(|link| link.creating(op));
        let peer = self.peers.get_mut(&receiver).filter(|peer| peer.transports.contains_key(&transport));
        let (Some(nth), Some(peer), Some(producer)) = (nth, peer, self.data_producers.get_mut(producer_id))
        else {
            self.media(site, Pending::Silent, MediaOp::CloseDataConsumer(created.id));
            if nth.is_some() {
                self.unlink_data(producer_id, receiver, site);
                self.forward_data(producer_id, receiver);
            }
            return;
        };
        let mut replaces = producer.old.get(&receiver).cloned();
        producer.receivers.insert(receiver, DataLink::Consumer(created.id.clone()));
        let replaced = producer.replaces.clone().and_then(|replaced| self.data_producers.get(&replaced));
        if let (None, Some(replaced)) = (&replaces, replaced) {
            let current = replaced.receivers.get(&receiver).and_then(DataLink::consumer);
            replaces = current.or_else(|| replaced.old.get(&receiver)).cloned();
        }
        let Some(producer) = self.data_producers.get(producer_id) else { return };
        self.last_ask += 1;
        let ask = AskId(self.last_ask);
        peer.data_consumers.insert(created.id.clone());
        peer.asks.insert(ask, Asked::DataConsumer(created.id.clone()));
        let consumer = DataConsumer {
            producer: producer_id.clone(),
            receiver,
            transport: transport.clone(),
            site,
            nth,
            accepted: false,
        };
        self.data_consumers.insert(created.id.clone(), consumer);
        let Some(owner) = self.peers.get(&producer.owner).map(|owner| owner.id.clone()) else { return };
        let request = ServerRequest::NewDataConsumer {
            peer: owner,
            data_producer: producer_id.clone(),
            id: created.id,
            transport,
            stream: created.stream,
            label: producer.label.clone(),
            protocol: producer.protocol.clone(),
            app_data: producer.app_data.clone(),
            replaces,
        };
        self.out.push(Action::Ask { session: receiver, ask, request });
    }

    pub(super) fn data_consume_failed(
        &mut self,
        (site, op): (SiteId, OpId),
        receiver: SessionId,
        producer: &DataProducerId,
        transport: &TransportId,
    ) {
        self.count(Counter::ConsumeFailed);
        if !self.is_creating_data(producer, receiver, op) {
            return;
        }
        let same = self.peers.get(&receiver).is_some_and(|peer| peer.transports.contains_key(transport));
        if same {
            self.refuse_data(producer, receiver, site);
        } else {
            // It failed with its transport; there may be another by now.
            self.unlink_data(producer, receiver, site);
            self.forward_data(producer, receiver);
        }
    }

    pub(super) fn data_answered(&mut self, session: SessionId, id: DataConsumerId, accepted: bool) {
        let Some(consumer) = self.data_consumers.get_mut(&id) else {
            // Its producer ended before the client answered; only now does the client know the id.
            if accepted {
                self.notify(session, Notification::DataConsumerClosed(id));
            }
            return;
        };
        if accepted {
            consumer.accepted = true;
            let site = consumer.site;
            self.media(site, Pending::Silent, MediaOp::ResumeDataConsumer(id));
            return;
        }
        self.count(Counter::ConsumerRefused);
        let Some(consumer) = self.data_consumers.remove(&id) else { return };
        let (of, site) = (&consumer.producer, consumer.site);
        self.media(site, Pending::Silent, MediaOp::CloseDataConsumer(id.clone()));
        let Some(peer) = self.peers.get_mut(&session) else { return };
        if peer.old_data_consumers.remove(&id) {
            self.forget_old_data(of, session, site);
            return;
        }
        peer.data_consumers.remove(&id);
        self.refuse_data(of, session, site);
    }

    fn forget_old_data(&mut self, id: &DataProducerId, receiver: SessionId, site: SiteId) {
        if let Some(producer) = self.data_producers.get_mut(id) {
            producer.old.remove(&receiver);
        }
        self.pipes.release(&Flow::Data(id.clone()), site, .., receiver);
    }

    fn refuse_data(&mut self, id: &DataProducerId, receiver: SessionId, site: SiteId) {
        if let Some(producer) = self.data_producers.get_mut(id) {
            producer.receivers.insert(receiver, DataLink::Refused);
        }
        self.pipes.release(&Flow::Data(id.clone()), site, .., receiver);
    }

    pub(super) fn data_link_of(&self, producer: &DataProducerId, receiver: SessionId) -> Option<&DataLink> {
        self.data_producers.get(producer)?.receivers.get(&receiver)
    }

    /// Whether this is the work that the receiver's data consumer is to come of.
    pub(super) fn is_creating_data(&self, producer: &DataProducerId, receiver: SessionId, op: OpId) -> bool {
        self.data_link_of(producer, receiver).is_some_and(|link| link.creating(op).is_some())
    }

    /// Forgets a data producer and its data consumers, and tells their clients. The worker closes them with its transport.
    fn drop_data_producer(&mut self, id: &DataProducerId) {
        let Some(producer) = self.data_producers.shift_remove(id) else { return };
        self.pipes.close(&Flow::Data(id.clone()));
        for (receiver, link) in producer.receivers {
            match link {
                DataLink::Consumer(id) => self.forget_data_consumer(&id, receiver),
                link => self.stop_waiting_for_data(receiver, link),
            }
        }
        for (receiver, id) in producer.old {
            self.forget_data_consumer(&id, receiver);
        }
    }

    /// Frees what a peer that left had of messages.
    pub(super) fn leave_data(&mut self, session: SessionId, peer: &Peer) {
        for producer in &peer.data_producers {
            self.drop_data_producer(producer);
        }
        for consumer in peer.data_consumers.iter().chain(&peer.old_data_consumers) {
            self.data_consumers.remove(consumer);
        }
        for producer in self.data_producers.values_mut() {
            producer.receivers.remove(&session);
            producer.old.remove(&session);
        }
    }

    /// A transport is gone for good, and all messages that ran on it. What was refused on it may fit the next.
    pub(super) fn data_transport_closed(&mut self, session: SessionId, id: &TransportId, is_current: bool) {
        let Some(peer) = self.peers.get_mut(&session) else { return };
        peer.data_transports.remove(id);
        let of =
            |producer: &DataProducerId| self.data_producers.get(producer).is_some_and(|p| p.transport == *id);
        let producers: Vec<_> = peer.data_producers.iter().filter(|producer| of(producer)).cloned().collect();
        for producer in &producers {
            peer.data_producers.remove(producer);
        }
        let on = |consumer: &DataConsumer| consumer.receiver == session && consumer.transport == *id;
        let consumers: Vec<_> = self
            .data_consumers
            .iter()
            .filter(|(_, consumer)| on(consumer))
            .map(|(id, _)| id.clone())
            .collect();
        let mut old = Vec::new();
        for consumer in &consumers {
            peer.data_consumers.remove(consumer);
            if peer.old_data_consumers.remove(consumer) {
                old.push(consumer.clone());
            }
        }
        for producer in &producers {
            self.drop_data_producer(producer);
        }
        for id in consumers {
            let Some(consumer) = self.data_consumers.remove(&id) else { continue };
            if old.contains(&id) {
                self.forget_old_data(&consumer.producer, session, consumer.site);
            } else {
                self.unlink_data(&consumer.producer, session, consumer.site);
            }
            if consumer.accepted {
                self.notify(session, Notification::DataConsumerClosed(id));
            }
        }
        for producer in self.data_producers.values_mut().filter(|_| is_current) {
            if producer.receivers.get(&session) == Some(&DataLink::Refused) {
                producer.receivers.remove(&session);
            }
        }
    }

    pub(super) fn unlink_data(&mut self, id: &DataProducerId, receiver: SessionId, site: SiteId) {
        let Some(producer) = self.data_producers.get_mut(id) else { return };
        if let Some(link) = producer.receivers.remove(&receiver) {
            self.stop_waiting_for_data(receiver, link);
        }
        self.pipes.release(&Flow::Data(id.clone()), site, .., receiver);
    }

    pub(super) fn stop_waiting_for_data(&mut self, receiver: SessionId, link: DataLink) {
        if !link.is_waiting() {
            return;
        }
        if let Some(peer) = self.peers.get_mut(&receiver) {
            peer.data_consumers_coming = peer.data_consumers_coming.saturating_sub(1);
        }
        if let DataLink::Asked(asking) = link {
            self.cannot_be_brought(receiver, asking.request);
        }
    }

    /// Where it is, if it is this peer's.
    pub(super) fn own_data_producer(
        &self,
        session: SessionId,
        id: &DataProducerId,
    ) -> Result<SiteId, RoomError> {
        match self.data_producers.get(id) {
            Some(producer) if producer.owner == session => Ok(producer.site),
            _ => Err(RoomError::not_found("data producer", id.as_str())),
        }
    }

    /// Where it is, if it is this peer's.
    pub(super) fn own_data_consumer(
        &self,
        session: SessionId,
        id: &DataConsumerId,
    ) -> Result<SiteId, RoomError> {
        match self.data_consumers.get(id) {
            Some(consumer) if consumer.receiver == session => Ok(consumer.site),
            _ => Err(RoomError::not_found("data consumer", id.as_str())),
        }
    }
}
