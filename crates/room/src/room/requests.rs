//! What clients ask for: who may, within which limits, and which media work it takes.

use std::collections::BTreeMap;
use std::sync::Arc;

use ortc::{MediaKind, RtpParameters};

use super::data::DataProducer;
use super::on_request::Asking;
use super::pipe::Flow;
use super::{Direction, Joined, Link, Peer, Pending, Producer, Room};
use crate::error::RoomError;
use crate::event::{Counter, MediaOp, StatsOf};
use crate::id::{ConsumerId, ProducerId, RequestId, SessionId, TransportId};
use crate::message::{Notification, Reply, Request};
use crate::policy::Source;

/// One send, one receive.
pub(super) const TRANSPORTS_PER_PEER: usize = 2;

impl Room {
    pub(super) fn request(&mut self, session: SessionId, request: RequestId, message: Request) {
        if !self.peers.contains_key(&session) {
            return;
        }
        let needs_router = matches!(
            message,
            Request::RouterRtpCapabilities
                | Request::CreateWebRtcTransport { .. }
                | Request::CreatePlainTransport { .. }
        );
        if needs_router {
            self.want_router(session);
            if self.router_of(session).is_none() {
                self.defer(session, request, message);
                return;
            }
        }
        match self.serve(session, request, message) {
            // The answer comes with the completion.
            Ok(None) => {}
            Ok(Some(reply)) => self.reply(session, request, Ok(reply)),
            Err(error) => self.reply(session, request, Err(error)),
        }
    }

    fn defer(&mut self, session: SessionId, request: RequestId, message: Request) {
        let limit = self.limits.deferred_requests;
        if self.deferred.len() >= limit {
            let what = "requests waiting for a media worker";
            self.reply(session, request, Err(RoomError::Limit { what: what.into(), limit }));
            return;
        }
        self.deferred.push_back((session, request, message));
    }

    fn serve(
        &mut self,
        session: SessionId,
        request: RequestId,
        message: Request,
    ) -> Result<Option<Reply>, RoomError> {
        let then_reply = Pending::Reply { session, request };
        let op = match message {
            Request::RouterRtpCapabilities => {
                let capabilities = self.router_of(session);
                let none = || RoomError::Internal("no router".to_owned());
                return capabilities.map(|found| Some(Reply::RouterRtpCapabilities(found))).ok_or_else(none);
            }
            Request::CreateWebRtcTransport { force_tcp, producing, consuming, data, bandwidth } => {
                let op = MediaOp::CreateTransport { force_tcp, data, bandwidth };
                return self.create_transport(session, request, op, producing, consuming);
            }
            Request::Join { display_name, device, rtp_capabilities, remote_address, receives } => {
                let joining = Joined { display_name, device, rtp_capabilities, remote_address, receives };
                return self.join(session, request, joining);
            }
            Request::Produce { transport, kind, rtp_parameters, app_data } => {
                return self.produce(session, request, transport, kind, rtp_parameters, app_data);
            }
            Request::ProduceData { transport, stream, label, protocol, app_data } => {
                let coming = DataProducer::new(session, transport, stream, label, protocol, app_data);
                return self.produce_data(session, request, coming);
            }
            Request::CreatePlainTransport { rtcp_mux, comedia } => {
                return self.create_plain_transport(session, request, rtcp_mux, comedia);
            }
            Request::ConnectPlainTransport { transport, ip, port, rtcp_port } => {
                self.own_transport(session, &transport)?;
                MediaOp::ConnectPlainTransport { transport, ip, port, rtcp_port }
            }
            Request::Consume { transport, producer, rtp_capabilities, paused } => {
                let asking = Asking { session, request, transport, of: producer, paused };
                return self.consume_on_request(asking, rtp_capabilities);
            }
            Request::ConsumeData { transport, data_producer } => {
                let asking = Asking { session, request, transport, of: data_producer, paused: false };
                return self.consume_data_on_request(asking);
            }
            Request::PeerProducers => return self.peer_producers(session),
            Request::CloseProducer(producer) => return self.close_producer(session, request, &producer),
            Request::PauseProducer(producer) => {
                return self.pause_producer(session, request, &producer, true);
            }
            Request::ResumeProducer(producer) => {
                return self.pause_producer(session, request, &producer, false);
            }
            Request::ChangeDisplayName(display_name) => return self.change_name(session, display_name),
            Request::ConnectWebRtcTransport { transport, dtls_parameters } => {
                self.own_transport(session, &transport)?;
                MediaOp::ConnectTransport { transport, dtls_parameters }
            }
            Request::RestartIce { transport } => {
                self.own_transport(session, &transport)?;
                MediaOp::RestartIce(transport)
            }
            Request::PauseConsumer(consumer) => {
                self.own_consumer(session, &consumer)?;
                self.set_client_pause(&consumer, true);
                MediaOp::PauseConsumer(consumer)
            }
            Request::ResumeConsumer(consumer) => {
                self.own_consumer(session, &consumer)?;
                self.set_client_pause(&consumer, false);
                MediaOp::ResumeConsumer(consumer)
            }
            Request::RequestConsumerKeyFrame(consumer) => {
                self.own_consumer(session, &consumer)?;
                MediaOp::RequestKeyFrame(consumer)
            }
            Request::SetConsumerPreferredLayers(consumer, layers) => {
                self.own_consumer(session, &consumer)?;
                MediaOp::SetPreferredLayers(consumer, layers)
            }
            Request::SetConsumerPriority(consumer, priority) => {
                self.own_consumer(session, &consumer)?;
                MediaOp::SetPriority(consumer, priority)
            }
            Request::TransportStats(transport) => {
                self.own_transport(session, &transport)?;
                MediaOp::Stats(StatsOf::Transport(transport))
            }
            Request::ProducerStats(producer) => {
                self.own_producer(session, &producer)?;
                MediaOp::Stats(StatsOf::Producer(producer))
            }
            Request::ConsumerStats(consumer) => {
                self.own_consumer(session, &consumer)?;
                MediaOp::Stats(StatsOf::Consumer(consumer))
            }
            Request::DataProducerStats(producer) => {
                self.own_data_producer(session, &producer)?;
                MediaOp::Stats(StatsOf::DataProducer(producer))
            }
            Request::DataConsumerStats(consumer) => {
                self.own_data_consumer(session, &consumer)?;
                MediaOp::Stats(StatsOf::DataConsumer(consumer))
            }
        };
        self.media_of(session, then_reply, op);
        Ok(None)
    }

    fn create_transport(
        &mut self,
        session: SessionId,
        request: RequestId,
        op: MediaOp,
        producing: bool,
        consuming: bool,
    ) -> Result<Option<Reply>, RoomError> {
        let direction = match (producing, consuming) {
            (true, false) => Direction::Send,
            (false, true) => Direction::Receive,
            (true, true) => Direction::Both,
            (false, false) => {
                let text =
                    "createWebRtcTransport needs producing:true or consuming:true (or appData.direction)";
                return Err(RoomError::Invalid(text.to_owned()));
            }
        };
        if self.peers.get(&session).is_some_and(Peer::asks_for_what_it_receives) {
            self.one_more_transport(session)?;
            self.media_of(session, Pending::Transport { session, request, direction }, op);
            return Ok(None);
        }
        let peer = self.peer_mut(session)?;
        let twin = peer.transports.iter().find(|(_, d)| **d == direction).map(|(id, _)| id.to_string());
        let count = peer.transports.len() + peer.transports_coming.len();
        if twin.is_some() || peer.transports_coming.contains(&direction) || count >= TRANSPORTS_PER_PEER {
            let id = twin.unwrap_or_else(|| "being created".to_owned());
            let direction = match direction {
                Direction::Send => "send",
                Direction::Receive => "receive",
                Direction::Both => "send and receive",
            };
            return Err(RoomError::TransportExists { direction: direction.into(), id });
        }
        peer.transports_coming.push(direction);
        self.media_of(session, Pending::Transport { session, request, direction }, op);
        Ok(None)
    }

    fn join(
        &mut self,
        session: SessionId,
        request: RequestId,
        mut joining: Joined,
    ) -> Result<Option<Reply>, RoomError> {
        self.check_name(&joining.display_name)?;
        let peer = self.peer_mut(session)?;
        if peer.joined.is_some() {
            return Err(RoomError::AlreadyJoined);
        }
        // Put in order here, once, and shared by everything that the peer will receive.
        if let Some(capabilities) = &mut joining.rtp_capabilities {
            ortc::normalize_rtp_capabilities(Arc::make_mut(capabilities));
        }
        peer.joined = Some(joining);
        let info = peer.info();
        let here = self.peers.iter().filter(|(other, _)| **other != session);
        let here = here.filter_map(|(_, peer)| peer.info()).collect();
        // Answered before anything else is said: clients learn who is here before they are offered media.
        self.reply(session, request, Ok(Reply::Joined(here)));
        if let Some(info) = info {
            self.tell_others(session, &Notification::NewPeer(info));
        }
        self.count(Counter::Joined);
        self.forward_all_to(session);
        Ok(None)
    }

    fn produce(
        &mut self,
        session: SessionId,
        request: RequestId,
        transport: TransportId,
        kind: MediaKind,
        rtp_parameters: Box<RtpParameters>,
        app_data: serde_json::Value,
    ) -> Result<Option<Reply>, RoomError> {
        let direction = self.own_transport(session, &transport)?;
        if direction == Direction::Receive {
            return Err(RoomError::NotASendTransport { id: transport.to_string() });
        }
        let limits = self.limits.clone();
        let room_type = self.room_type.clone();
        let peer = self.joined_mut(session)?;
        if peer.producers.len() + peer.producers_coming >= limits.producers_per_peer {
            return Err(RoomError::Limit {
                what: "producers of one peer".into(),
                limit: limits.producers_per_peer,
            });
        }
        if app_data.to_string().len() > limits.app_data_bytes {
            return Err(RoomError::Limit { what: "bytes of appData".into(), limit: limits.app_data_bytes });
        }
        let source = Source::from_app_data(kind, &app_data);
        if !room_type.may_produce(&peer.role, kind, &source) {
            let (role, kind, source_name) =
                (peer.role.as_str().to_owned(), kind.as_str().into(), source.to_string());
            return Err(RoomError::NotAllowed { role, kind, source_name });
        }
        peer.producers_coming += 1;
        let coming = Box::new(Producer {
            owner: session,
            site: peer.site,
            transport: transport.clone(),
            kind,
            source,
            app_data: Arc::new(app_data),
            consumable: Arc::default(),
            paused: false,
            receivers: BTreeMap::new(),
        });
        self.media_of(
            session,
            Pending::Produce { session, request, transport: transport.clone(), coming },
            MediaOp::Produce { transport, kind, rtp_parameters },
        );
        Ok(None)
    }

    fn close_producer(
        &mut self,
        session: SessionId,
        request: RequestId,
        producer: &ProducerId,
    ) -> Result<Option<Reply>, RoomError> {
        self.own_producer(session, producer)?;
        self.drop_producer(producer);
        if let Some(peer) = self.peers.get_mut(&session) {
            peer.producers.remove(producer);
        }
        self.media_of(session, Pending::Reply { session, request }, MediaOp::CloseProducer(producer.clone()));
        Ok(None)
    }

    fn pause_producer(
        &mut self,
        session: SessionId,
        request: RequestId,
        id: &ProducerId,
        paused: bool,
    ) -> Result<Option<Reply>, RoomError> {
        self.own_producer(session, id)?;
        let op =
            || if paused { MediaOp::PauseProducer(id.clone()) } else { MediaOp::ResumeProducer(id.clone()) };
        self.media_of(session, Pending::Reply { session, request }, op());
        for site in self.pipes.sites_of(&Flow::Media(id.clone())) {
            self.media(site, Pending::Silent, op());
        }
        let Some(producer) = self.producers.get_mut(id) else { return Ok(None) };
        producer.paused = paused;
        let consumers: Vec<_> = producer
            .receivers
            .values()
            .filter_map(|link| match link {
                Link::Consumer(consumer) => Some(consumer.clone()),
                Link::Waiting | Link::Asked(_) | Link::Creating(_) | Link::Refused => None,
            })
            .collect();
        for consumer in consumers {
            self.tell_producer_pause(&consumer, paused);
        }
        Ok(None)
    }

    fn change_name(&mut self, session: SessionId, display_name: String) -> Result<Option<Reply>, RoomError> {
        self.check_name(&display_name)?;
        let peer = self.joined_mut(session)?;
        let id = peer.id.clone();
        let joined = peer.joined.as_mut().ok_or(RoomError::NotJoined)?;
        let old_display_name = std::mem::replace(&mut joined.display_name, display_name.clone());
        // The answer first, as clients expect.
        let told = Notification::PeerDisplayNameChanged { peer: id, display_name, old_display_name };
        self.tell_others(session, &told);
        Ok(Some(Reply::Done))
    }

    fn check_name(&self, name: &str) -> Result<(), RoomError> {
        let limit = self.limits.display_name_bytes;
        if name.len() > limit {
            return Err(RoomError::Limit { what: "bytes of displayName".into(), limit });
        }
        Ok(())
    }

    fn set_client_pause(&mut self, consumer: &ConsumerId, paused: bool) {
        if let Some(consumer) = self.consumers.get_mut(consumer) {
            consumer.paused_by_client = paused;
        }
    }

    /// Gives work to the site of a peer.
    pub(super) fn media_of(&mut self, session: SessionId, pending: Pending, what: MediaOp) {
        if let Some(site) = self.peers.get(&session).map(|peer| peer.site) {
            self.media(site, pending, what);
        }
    }

    pub(super) fn peer_mut(&mut self, session: SessionId) -> Result<&mut Peer, RoomError> {
        self.peers.get_mut(&session).ok_or_else(|| RoomError::Internal("no such session".to_owned()))
    }

    pub(super) fn joined_mut(&mut self, session: SessionId) -> Result<&mut Peer, RoomError> {
        let peer = self.peer_mut(session)?;
        if peer.joined.is_some() { Ok(peer) } else { Err(RoomError::NotJoined) }
    }

    pub(super) fn own_transport(&self, session: SessionId, id: &TransportId) -> Result<Direction, RoomError> {
        let own = self.peers.get(&session).and_then(|peer| peer.transports.get(id));
        own.copied().ok_or_else(|| RoomError::not_found("transport", id.as_str()))
    }

    fn own_producer(&self, session: SessionId, id: &ProducerId) -> Result<(), RoomError> {
        match self.producers.get(id) {
            Some(producer) if producer.owner == session => Ok(()),
            _ => Err(RoomError::not_found("producer", id.as_str())),
        }
    }

    fn own_consumer(&self, session: SessionId, id: &ConsumerId) -> Result<(), RoomError> {
        match self.consumers.get(id) {
            Some(consumer) if consumer.receiver == session => Ok(()),
            _ => Err(RoomError::not_found("consumer", id.as_str())),
        }
    }
}
