//! What clients ask for: who may, within which limits, and which media work it takes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use ortc::RtpParameters;

use super::data::DataProducer;
use super::link::Link;
use super::on_request::Asking;
use super::pipe::{Flow, Spot, producer_at};
use super::{Consumer, Direction, Joined, Peer, Pending, Producer, Room, Transport};
use crate::error::RoomError;
use crate::event::{Counter, MediaOp, StatsOf};
use crate::id::{ConsumerId, ProducerId, RequestId, SessionId, SiteId, TransportId};
use crate::message::{Notification, Reply, Request};
use crate::policy::Source;

/// One send, one receive.
pub(super) const TRANSPORTS_PER_PEER: usize = 2;

impl Room {
    pub(super) fn request(&mut self, session: SessionId, request: RequestId, message: Request, now: Instant) {
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
        match self.serve(session, request, message, now) {
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
        now: Instant,
    ) -> Result<Option<Reply>, RoomError> {
        let then_reply = Pending::Reply { session, request };
        let (site, op) = match message {
            Request::RouterRtpCapabilities => {
                let capabilities = self.router_of(session);
                let none = || RoomError::Internal("no router".to_owned());
                return capabilities.map(|found| Some(Reply::RouterRtpCapabilities(found))).ok_or_else(none);
            }
            Request::CreateWebRtcTransport { force_tcp, producing, consuming, data, bandwidth } => {
                let op = MediaOp::CreateTransport { force_tcp, data, bandwidth };
                return self.create_transport(session, request, op, producing, consuming);
            }
            Request::Join { display_name, device, rtp_capabilities, remote_address, receives, migrates } => {
                let joining =
                    Joined { display_name, device, rtp_capabilities, remote_address, receives, migrates };
                return self.join(session, request, joining);
            }
            Request::Produce { transport, kind, rtp_parameters, app_data, replaces } => {
                let at = self.own_transport(session, &transport)?;
                // One that has ended meanwhile is nobody's any more, and nothing to refuse.
                let replaces = replaces.filter(|replaced| self.own_producer(session, replaced).is_ok());
                let source = Source::from_app_data(kind, &app_data);
                let coming = Producer {
                    owner: session,
                    site: at.site,
                    transport,
                    kind,
                    source,
                    app_data: Arc::new(app_data),
                    consumable: Arc::default(),
                    paused: false,
                    receivers: BTreeMap::new(),
                    old: BTreeMap::new(),
                    replaces,
                };
                return self.produce(request, at, coming, rtp_parameters);
            }
            Request::ProduceData { transport, stream, label, protocol, app_data, replaces } => {
                let at = self.own_transport(session, &transport)?;
                let replaces = replaces.filter(|replaced| self.own_data_producer(session, replaced).is_ok());
                let coming = DataProducer::new(
                    session,
                    (at.site, transport),
                    stream,
                    (label, protocol),
                    app_data,
                    replaces,
                );
                return self.produce_data(session, request, at, coming);
            }
            Request::Migrated => return self.migrated(session, request, now),
            Request::CreatePlainTransport { rtcp_mux, comedia } => {
                return self.create_plain_transport(session, request, rtcp_mux, comedia);
            }
            Request::ConnectPlainTransport { transport, ip, port, rtcp_port } => (
                self.own_transport(session, &transport)?.site,
                MediaOp::ConnectPlainTransport { transport, ip, port, rtcp_port },
            ),
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
            Request::ConnectWebRtcTransport { transport, dtls_parameters } => (
                self.own_transport(session, &transport)?.site,
                MediaOp::ConnectTransport { transport, dtls_parameters },
            ),
            Request::RestartIce { transport } => {
                (self.own_transport(session, &transport)?.site, MediaOp::RestartIce(transport))
            }
            Request::PauseConsumer(id) => {
                let consumer = self.own_consumer(session, &id)?;
                consumer.paused_by_client = true;
                (consumer.site, MediaOp::PauseConsumer(id))
            }
            Request::ResumeConsumer(id) => {
                let consumer = self.own_consumer(session, &id)?;
                consumer.paused_by_client = false;
                (consumer.site, MediaOp::ResumeConsumer(id))
            }
            Request::RequestConsumerKeyFrame(id) => {
                (self.own_consumer(session, &id)?.site, MediaOp::RequestKeyFrame(id))
            }
            Request::SetConsumerPreferredLayers(id, layers) => {
                let consumer = self.own_consumer(session, &id)?;
                consumer.preferred = Some(layers);
                (consumer.site, MediaOp::SetPreferredLayers(id, layers))
            }
            Request::SetConsumerPriority(id, priority) => {
                let consumer = self.own_consumer(session, &id)?;
                consumer.priority = Some(priority);
                (consumer.site, MediaOp::SetPriority(id, priority))
            }
            Request::TransportStats(id) => {
                (self.own_transport(session, &id)?.site, MediaOp::Stats(StatsOf::Transport(id)))
            }
            Request::ProducerStats(id) => {
                (self.own_producer(session, &id)?, MediaOp::Stats(StatsOf::Producer(id)))
            }
            Request::ConsumerStats(id) => {
                (self.own_consumer(session, &id)?.site, MediaOp::Stats(StatsOf::Consumer(id)))
            }
            Request::DataProducerStats(id) => {
                (self.own_data_producer(session, &id)?, MediaOp::Stats(StatsOf::DataProducer(id)))
            }
            Request::DataConsumerStats(id) => {
                (self.own_data_consumer(session, &id)?, MediaOp::Stats(StatsOf::DataConsumer(id)))
            }
        };
        // Without its site there is nothing left of it, and its peer has been told.
        self.media(site, then_reply, op);
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
        let coming = Transport { direction, site: peer.site };
        let twin = peer.transports.iter().find(|(_, known)| **known == coming).map(|(id, _)| id.to_string());
        // A peer that migrates has as many at its new site as at the old one.
        let here = peer.transports.values().chain(&peer.transports_coming);
        let count = here.filter(|known| known.site == coming.site).count();
        if twin.is_some() || peer.transports_coming.contains(&coming) || count >= TRANSPORTS_PER_PEER {
            let id = twin.unwrap_or_else(|| "being created".to_owned());
            let direction = match direction {
                Direction::Send => "send",
                Direction::Receive => "receive",
                Direction::Both => "send and receive",
            };
            return Err(RoomError::TransportExists { direction: direction.into(), id });
        }
        peer.transports_coming.push(coming);
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
        request: RequestId,
        at: Transport,
        coming: Producer,
        rtp_parameters: Box<RtpParameters>,
    ) -> Result<Option<Reply>, RoomError> {
        let (session, transport, kind) = (coming.owner, coming.transport.clone(), coming.kind);
        if at.direction == Direction::Receive {
            return Err(RoomError::NotASendTransport { id: transport.to_string() });
        }
        let limits = self.limits.clone();
        let room_type = self.room_type.clone();
        // What it leaves behind is not counted.
        let old = self.producers.values().filter(|old| old.owner == session && old.site != at.site).count();
        let peer = self.joined_mut(session)?;
        if peer.producers.len() + peer.producers_coming >= limits.producers_per_peer + old {
            return Err(RoomError::Limit {
                what: "producers of one peer".into(),
                limit: limits.producers_per_peer,
            });
        }
        if coming.app_data.to_string().len() > limits.app_data_bytes {
            return Err(RoomError::Limit { what: "bytes of appData".into(), limit: limits.app_data_bytes });
        }
        if !room_type.may_produce(&peer.role, kind, &coming.source) {
            let (role, kind, source_name) =
                (peer.role.as_str().to_owned(), kind.as_str().into(), coming.source.to_string());
            return Err(RoomError::NotAllowed { role, kind, source_name });
        }
        peer.producers_coming += 1;
        let pending =
            Pending::Produce { session, request, transport: transport.clone(), coming: Box::new(coming) };
        self.media(at.site, pending, MediaOp::Produce { transport, kind, rtp_parameters });
        Ok(None)
    }

    fn close_producer(
        &mut self,
        session: SessionId,
        request: RequestId,
        producer: &ProducerId,
    ) -> Result<Option<Reply>, RoomError> {
        let site = self.own_producer(session, producer)?;
        self.drop_producer(producer);
        if let Some(peer) = self.peers.get_mut(&session) {
            peer.producers.remove(producer);
        }
        self.media(site, Pending::Reply { session, request }, MediaOp::CloseProducer(producer.clone()));
        Ok(None)
    }

    fn pause_producer(
        &mut self,
        session: SessionId,
        request: RequestId,
        id: &ProducerId,
        paused: bool,
    ) -> Result<Option<Reply>, RoomError> {
        let site = self.own_producer(session, id)?;
        let op = |id| if paused { MediaOp::PauseProducer(id) } else { MediaOp::ResumeProducer(id) };
        self.media(site, Pending::Reply { session, request }, op(id.clone()));
        for Spot { site, nth } in self.pipes.spots_of(&Flow::Media(id.clone())) {
            self.media(site, Pending::Silent, op(producer_at(id, nth)));
        }
        let Some(producer) = self.producers.get_mut(id) else { return Ok(None) };
        producer.paused = paused;
        let consumers: Vec<_> = producer
            .receivers
            .values()
            .filter_map(Link::consumer)
            .chain(producer.old.values())
            .cloned()
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

    /// Gives work to the site where a peer's transports are made.
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

    pub(super) fn own_transport(&self, session: SessionId, id: &TransportId) -> Result<Transport, RoomError> {
        let own = self.peers.get(&session).and_then(|peer| peer.transports.get(id));
        own.copied().ok_or_else(|| RoomError::not_found("transport", id.as_str()))
    }

    /// Where it is, if it is this peer's.
    pub(super) fn own_producer(&self, session: SessionId, id: &ProducerId) -> Result<SiteId, RoomError> {
        match self.producers.get(id) {
            Some(producer) if producer.owner == session => Ok(producer.site),
            _ => Err(RoomError::not_found("producer", id.as_str())),
        }
    }

    fn own_consumer(&mut self, session: SessionId, id: &ConsumerId) -> Result<&mut Consumer, RoomError> {
        match self.consumers.get_mut(id) {
            Some(consumer) if consumer.receiver == session => Ok(consumer),
            _ => Err(RoomError::not_found("consumer", id.as_str())),
        }
    }
}
