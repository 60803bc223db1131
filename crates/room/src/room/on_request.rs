//! Peers that are not offered what they receive, but ask for it: broadcasters, which come by HTTP and have no
//! connection on which they could be asked. They have transports of plain RTP, or several to browsers' standards.

use std::sync::Arc;

use ortc::RtpCapabilities;
use serde::{Deserialize, Serialize};

use super::data::DataConsumer;
use super::link::Link;
use super::pipe::Flow;
use super::{Consumer, Direction, Pending, Room, Transport};
use crate::error::RoomError;
use crate::event::{ConsumerCreated, DataConsumerCreated, MediaOp};
use crate::id::{DataProducerId, OpId, ProducerId, RequestId, SessionId, SiteId, TransportId};
use crate::message::{Consumed, PeerProducers, PlainTransportInfo, ProducerInfo, Reply};

/// Who asks to receive what, on which transport.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Asking<Of> {
    pub(super) session: SessionId,
    pub(super) request: RequestId,
    pub(super) transport: TransportId,
    pub(super) of: Of,
    pub(super) paused: bool,
}

/// With what it can receive.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Asked<Of> {
    pub(super) asking: Asking<Of>,
    pub(super) rtp_capabilities: Arc<RtpCapabilities>,
}

impl Room {
    /// Takes a place for one more transport of a broadcaster.
    pub(super) fn one_more_transport(&mut self, session: SessionId) -> Result<(), RoomError> {
        let limit = self.limits.transports_per_broadcaster;
        let peer = self.peer_mut(session)?;
        if peer.transports.len() + peer.transports_coming.len() >= limit {
            return Err(RoomError::Limit { what: "transports of one broadcaster".into(), limit });
        }
        peer.transports_coming.push(Transport { direction: Direction::Both, site: peer.site });
        Ok(())
    }

    pub(super) fn create_plain_transport(
        &mut self,
        session: SessionId,
        request: RequestId,
        rtcp_mux: bool,
        comedia: bool,
    ) -> Result<Option<Reply>, RoomError> {
        self.one_more_transport(session)?;
        let pending = Pending::Transport { session, request, direction: Direction::Both };
        self.media_of(session, pending, MediaOp::CreatePlainTransport { rtcp_mux, comedia });
        Ok(None)
    }

    pub(super) fn plain_transport_created(
        &mut self,
        site: SiteId,
        session: SessionId,
        request: RequestId,
        info: PlainTransportInfo,
    ) {
        let Some(peer) = self.peers.get_mut(&session) else {
            self.media(site, Pending::Silent, MediaOp::CloseTransport(info.id));
            return;
        };
        peer.transports.insert(info.id.clone(), Transport { direction: Direction::Both, site });
        self.reply(session, request, Ok(Reply::PlainTransport(info)));
    }

    /// Who else is here and sends what.
    pub(super) fn peer_producers(&self, session: SessionId) -> Result<Option<Reply>, RoomError> {
        let joined = self.peers.get(&session).and_then(|peer| peer.joined.as_ref());
        let capabilities = joined.ok_or(RoomError::NotJoined)?.rtp_capabilities.as_ref();
        let fits = |consumable| capabilities.is_none_or(|able| ortc::can_consume(consumable, able));
        let others = self.peers.iter().filter(|(other, _)| **other != session);
        let of = |owner: SessionId| {
            let sent = self.producers.iter().filter(move |(_, producer)| producer.owner == owner);
            sent.filter(|(_, producer)| fits(&producer.consumable)).map(|(id, producer)| ProducerInfo {
                id: id.clone(),
                kind: producer.kind,
                source: producer.source.to_string(),
                consumable: producer.consumable.clone(),
            })
        };
        let all = others.filter_map(|(other, peer)| {
            Some(PeerProducers { peer: peer.info()?, producers: of(*other).collect() })
        });
        Ok(Some(Reply::PeerProducers(all.collect())))
    }

    pub(super) fn consume_on_request(
        &mut self,
        asking: Asking<ProducerId>,
        rtp_capabilities: Option<Arc<RtpCapabilities>>,
    ) -> Result<Option<Reply>, RoomError> {
        let session = asking.session;
        let peer = self.asker(session, &asking.transport)?;
        let limit = self.limits.consumers_per_peer;
        if peer.consumers.len() + peer.consumers_coming >= limit {
            return Err(RoomError::Limit { what: "consumers of one peer".into(), limit });
        }
        let given = rtp_capabilities.map(|mut capabilities| {
            ortc::normalize_rtp_capabilities(Arc::make_mut(&mut capabilities));
            capabilities
        });
        let joined = peer.joined.as_ref().and_then(|joined| joined.rtp_capabilities.clone());
        let Some(rtp_capabilities) = given.or(joined) else {
            return Err(RoomError::Invalid("whoever consumes has to give rtpCapabilities".to_owned()));
        };
        let (role, site) = (peer.role.clone(), peer.site);
        let Some(producer) = self.producers.get_mut(&asking.of) else {
            return Err(RoomError::not_here("producer", asking.of.as_str()));
        };
        let from = self.peers.get(&producer.owner).map(|owner| &owner.role);
        let may = |from| self.room_type.may_receive(from, &role, producer.kind, &producer.source);
        if producer.owner == session || !from.is_some_and(may) {
            return Err(RoomError::not_here("producer", asking.of.as_str()));
        }
        if producer.receivers.contains_key(&session) {
            let text = format!("producer {} is being consumed already", asking.of);
            return Err(RoomError::Invalid(text));
        }
        let (id, home) = (asking.of.clone(), producer.site);
        let asked = Asked { asking, rtp_capabilities };
        producer.receivers.insert(session, Link::Asked(Box::new(asked)));
        if let Some(peer) = self.peers.get_mut(&session) {
            peer.consumers_coming += 1;
        }
        if home == site || self.pipes.want(&Flow::Media(id.clone()), home, site, session) {
            self.consume(&id, session);
        }
        Ok(None)
    }

    pub(super) fn consumer_created_on_request(
        &mut self,
        site: SiteId,
        op: OpId,
        asking: Asking<ProducerId>,
        created: ConsumerCreated,
    ) {
        let Asking { session, request, transport, of, paused } = asking;
        let nth = self.link_of(&of, session).and_then(|link| link.creating(op));
        let mut peer = self.peers.get_mut(&session);
        if let Some(peer) = &mut peer {
            peer.consumers_coming = peer.consumers_coming.saturating_sub(1);
        }
        let peer = peer.filter(|peer| peer.transports.contains_key(&transport));
        let (Some(nth), Some(peer), Some(producer)) = (nth, peer, self.producers.get_mut(&of)) else {
            if nth.is_some() {
                self.unlink(&of, session, site);
            }
            self.media(site, Pending::Silent, MediaOp::CloseConsumer(created.id));
            let gone = "the transport or the producer closed meanwhile".to_owned();
            self.reply(session, request, Err(RoomError::Unavailable(gone)));
            return;
        };
        peer.consumers.insert(created.id.clone());
        producer.receivers.insert(session, Link::Consumer(created.id.clone()));
        let consumer = Consumer {
            producer: of.clone(),
            receiver: session,
            transport,
            site,
            nth,
            accepted: true,
            paused_by_client: paused,
            told_producer_paused: producer.paused,
            preferred: None,
            priority: None,
            score: created.score,
            layers: None,
        };
        let consumed = Consumed {
            id: created.id.clone(),
            producer: of,
            kind: producer.kind,
            rtp_parameters: created.rtp_parameters,
            consumer_type: created.consumer_type,
        };
        self.consumers.insert(created.id.clone(), consumer);
        if !paused {
            self.media(site, Pending::Silent, MediaOp::ResumeConsumer(created.id));
        }
        self.reply(session, request, Ok(Reply::Consumed(Box::new(consumed))));
    }

    pub(super) fn consume_on_request_failed(&mut self, site: SiteId, op: OpId, asking: &Asking<ProducerId>) {
        if let Some(peer) = self.peers.get_mut(&asking.session) {
            peer.consumers_coming = peer.consumers_coming.saturating_sub(1);
        }
        if self.is_creating(&asking.of, asking.session, op) {
            self.unlink(&asking.of, asking.session, site);
        }
    }

    /// What was asked for is at another site, and stays there.
    pub(super) fn cannot_be_brought(&mut self, session: SessionId, request: RequestId) {
        let reason = "it ended, or could not be brought to this peer's worker: ask again";
        self.reply(session, request, Err(RoomError::Unavailable(reason.to_owned())));
    }

    pub(super) fn consume_data_on_request(
        &mut self,
        asking: Asking<DataProducerId>,
    ) -> Result<Option<Reply>, RoomError> {
        let session = asking.session;
        let peer = self.asker(session, &asking.transport)?;
        if !peer.data_transports.contains(&asking.transport) {
            let text = "consuming messages needs a transport that was created with sctpCapabilities";
            return Err(RoomError::Invalid(text.to_owned()));
        }
        let limit = self.limits.data_consumers_per_peer;
        if peer.data_consumers.len() + peer.data_consumers_coming >= limit {
            return Err(RoomError::Limit { what: "data consumers of one peer".into(), limit });
        }
        let (role, site) = (peer.role.clone(), peer.site);
        let Some(producer) = self.data_producers.get_mut(&asking.of) else {
            return Err(RoomError::not_here("data producer", asking.of.as_str()));
        };
        let home = producer.site;
        let owner = self.peers.get(&producer.owner);
        let may = owner.is_some_and(|owner| self.room_type.may_receive_data(&owner.role, &role));
        if !may || producer.owner == session {
            return Err(RoomError::not_here("data producer", asking.of.as_str()));
        };
        if producer.receivers.contains_key(&session) {
            let text = format!("data producer {} is being consumed already", asking.of);
            return Err(RoomError::Invalid(text));
        }
        let id = asking.of.clone();
        producer.receivers.insert(session, Link::Asked(Box::new(asking)));
        if let Some(peer) = self.peers.get_mut(&session) {
            peer.data_consumers_coming += 1;
        }
        if home == site || self.pipes.want(&Flow::Data(id.clone()), home, site, session) {
            self.consume_data(&id, session);
        }
        Ok(None)
    }

    pub(super) fn data_consumer_created_on_request(
        &mut self,
        site: SiteId,
        op: OpId,
        asking: Asking<DataProducerId>,
        created: DataConsumerCreated,
    ) {
        let Asking { session, request, transport, of, .. } = asking;
        let DataConsumerCreated { id, stream } = created;
        let nth = self.data_link_of(&of, session).and_then(|link| link.creating(op));
        let peer = self.peers.get_mut(&session).filter(|peer| peer.transports.contains_key(&transport));
        let (Some(nth), Some(peer), Some(producer)) = (nth, peer, self.data_producers.get_mut(&of)) else {
            if nth.is_some() {
                self.unlink_data(&of, session, site);
            }
            self.media(site, Pending::Silent, MediaOp::CloseDataConsumer(id));
            let gone = "the transport or the data producer closed meanwhile".to_owned();
            self.reply(session, request, Err(RoomError::Unavailable(gone)));
            return;
        };
        peer.data_consumers.insert(id.clone());
        producer.receivers.insert(session, Link::Consumer(id.clone()));
        let consumer = DataConsumer { producer: of, receiver: session, transport, site, nth, accepted: true };
        self.data_consumers.insert(id.clone(), consumer);
        self.media(site, Pending::Silent, MediaOp::ResumeDataConsumer(id.clone()));
        self.reply(session, request, Ok(Reply::DataConsumed(id, stream)));
    }

    /// The peer that asks to receive on a transport of its own.
    fn asker(&self, session: SessionId, transport: &TransportId) -> Result<&super::Peer, RoomError> {
        self.own_transport(session, transport)?;
        let peer = self.peers.get(&session).filter(|peer| peer.joined.is_some());
        let peer = peer.ok_or(RoomError::NotJoined)?;
        if peer.asks_for_what_it_receives() {
            return Ok(peer);
        }
        let text = "this peer is offered what it may receive: it cannot ask for it";
        Err(RoomError::Invalid(text.to_owned()))
    }
}
