//! What the media side answers. A completion may come after whoever wanted it has left: then what was created is
//! closed again, so that nothing stays behind.

use std::time::Instant;

use super::{Pending, Producer, Room, Transport};
use crate::error::RoomError;
use crate::event::{Counter, MediaDone, MediaFailure, MediaOp};
use crate::id::{OpId, ProducerId, RequestId, SessionId, SiteId, TransportId};
use crate::message::{Reply, TransportInfo};

impl Room {
    pub(super) fn media_done(&mut self, op: OpId, result: Result<MediaDone, MediaFailure>, now: Instant) {
        // Unknown: the site it ran on is lost, and what it made is lost with it.
        let Some((site, pending)) = self.pending.remove(&op) else { return };
        if let Some(site) = self.sites.get_mut(&site) {
            site.working = site.working.saturating_sub(1);
        }
        self.work_ended(site, op, pending, result, now);
    }

    pub(super) fn work_ended(
        &mut self,
        site: SiteId,
        op: OpId,
        pending: Pending,
        result: Result<MediaDone, MediaFailure>,
        now: Instant,
    ) {
        if result.is_err() {
            self.count(Counter::MediaFailed);
        }
        match pending {
            Pending::Silent => {}
            Pending::Router => self.router_done(site, result, now),
            Pending::Pipe(step) => self.pipes.done(step, result),
            Pending::Transport { session, request, direction } => {
                let came = Transport { direction, site };
                if let Some(peer) = self.peers.get_mut(&session)
                    && let Some(at) = peer.transports_coming.iter().position(|coming| *coming == came)
                {
                    peer.transports_coming.swap_remove(at);
                }
                match result {
                    Ok(MediaDone::Transport(info)) => {
                        self.transport_created(session, request, came, info);
                    }
                    Ok(MediaDone::PlainTransport(info)) => {
                        self.plain_transport_created(site, session, request, info);
                    }
                    other => self.reply(session, request, unexpected(other)),
                }
            }
            Pending::Produce { session, request, transport, coming } => {
                if let Some(peer) = self.peers.get_mut(&session) {
                    peer.producers_coming = peer.producers_coming.saturating_sub(1);
                }
                match result {
                    Ok(MediaDone::Producer(created)) => {
                        let coming = Producer { consumable: created.consumable, ..*coming };
                        self.producer_created(site, session, request, &transport, created.id, coming);
                    }
                    other => self.reply(session, request, unexpected(other)),
                }
            }
            Pending::Consume { receiver, producer, transport } => match result {
                Ok(MediaDone::Consumer(created)) => {
                    self.consumer_created(site, op, receiver, &producer, transport, *created);
                }
                other => {
                    let refused = matches!(other, Err(MediaFailure::Refused(_)));
                    self.consume_failed((site, op), receiver, &producer, &transport, refused);
                    if !refused {
                        self.again.failed(now);
                    }
                }
            },
            Pending::ProduceData { session, request, coming } => {
                if let Some(peer) = self.peers.get_mut(&session) {
                    peer.data_producers_coming = peer.data_producers_coming.saturating_sub(1);
                }
                match result {
                    Ok(MediaDone::DataProducer(id)) => {
                        self.data_producer_created(site, session, request, id, *coming);
                    }
                    other => self.reply(session, request, unexpected(other)),
                }
            }
            Pending::ConsumeData { receiver, producer, transport } => {
                if let Some(peer) = self.peers.get_mut(&receiver) {
                    peer.data_consumers_coming = peer.data_consumers_coming.saturating_sub(1);
                }
                match result {
                    Ok(MediaDone::DataConsumer(created)) => {
                        self.data_consumer_created(site, op, receiver, &producer, transport, created);
                    }
                    _ => self.data_consume_failed((site, op), receiver, &producer, &transport),
                }
            }
            Pending::ConsumeOnRequest(asking) => match result {
                Ok(MediaDone::Consumer(created)) => {
                    self.consumer_created_on_request(site, op, asking, *created);
                }
                other => {
                    self.consume_on_request_failed(site, op, &asking);
                    self.reply(asking.session, asking.request, unexpected(other));
                }
            },
            Pending::ConsumeDataOnRequest(asking) => {
                if let Some(peer) = self.peers.get_mut(&asking.session) {
                    peer.data_consumers_coming = peer.data_consumers_coming.saturating_sub(1);
                }
                match result {
                    Ok(MediaDone::DataConsumer(created)) => {
                        self.data_consumer_created_on_request(site, op, asking, created);
                    }
                    other => {
                        if self.is_creating_data(&asking.of, asking.session, op) {
                            self.unlink_data(&asking.of, asking.session, site);
                        }
                        self.reply(asking.session, asking.request, unexpected(other));
                    }
                }
            }
            Pending::Reply { session, request } => {
                let reply = match result {
                    Ok(MediaDone::Done) => Ok(Reply::Done),
                    Ok(MediaDone::IceParameters(ice)) => Ok(Reply::IceParameters(ice)),
                    Ok(MediaDone::Stats(stats)) => Ok(Reply::Stats(stats)),
                    other => unexpected(other),
                };
                self.reply(session, request, reply);
            }
        }
    }

    fn transport_created(
        &mut self,
        session: SessionId,
        request: RequestId,
        transport: Transport,
        info: Box<TransportInfo>,
    ) {
        let Some(peer) = self.peers.get_mut(&session) else {
            self.media(transport.site, Pending::Silent, MediaOp::CloseTransport(info.id));
            return;
        };
        if transport.site != peer.site && peer.migration.is_none() {
            // It comes too late: the peer has left this site.
            self.media(transport.site, Pending::Silent, MediaOp::CloseTransport(info.id));
            let late = "the peer's media is at another worker now".to_owned();
            self.reply(session, request, Err(RoomError::Unavailable(late)));
            return;
        }
        peer.transports.insert(info.id.clone(), transport);
        if info.sctp_parameters.is_some() {
            peer.data_transports.insert(info.id.clone());
        }
        self.reply(session, request, Ok(Reply::Transport(info)));
        if transport.direction.receives() {
            self.receive_at(session, transport.site);
            self.forward_all_to(session);
        }
    }

    fn producer_created(
        &mut self,
        site: SiteId,
        session: SessionId,
        request: RequestId,
        transport: &TransportId,
        id: ProducerId,
        mut coming: Producer,
    ) {
        // Whoever is muted stays so.
        coming.paused =
            coming.replaces.as_ref().and_then(|old| self.producers.get(old)).is_some_and(|old| old.paused);
        let peer = self.peers.get_mut(&session).filter(|peer| peer.transports.contains_key(transport));
        let Some(peer) = peer else {
            self.media(site, Pending::Silent, MediaOp::CloseProducer(id));
            let gone = "the transport closed meanwhile".to_owned();
            self.reply(session, request, Err(RoomError::Unavailable(gone)));
            return;
        };
        peer.producers.insert(id.clone());
        if coming.kind == ortc::MediaKind::Audio {
            self.media(site, Pending::Silent, MediaOp::ObserveVolume(id.clone()));
        }
        if coming.paused {
            self.media(site, Pending::Silent, MediaOp::PauseProducer(id.clone()));
        }
        self.producers.insert(id.clone(), coming);
        self.reply(session, request, Ok(Reply::Produced(id.clone())));
        self.forward_to_all(&id);
    }
}

fn unexpected(result: Result<MediaDone, MediaFailure>) -> Result<Reply, RoomError> {
    match result {
        Err(failure) => Err(failure.into()),
        Ok(_) => Err(RoomError::Internal("unexpected completion".to_owned())),
    }
}
