//! In the room's words: what an operation made, whose handle is kept, and what a worker tells by itself.

use std::sync::Arc;

use media::{ConsumerEvent, DtlsState, MediaEvent, ProducerEvent, TransportEvent};
use room::{
    ConsumerCreated, ConsumerId, DataConsumerCreated, DataConsumerId, DataProducerId, DownlinkBandwidth,
    Layers, MediaDone, PipedDataOut, PipedOut, PlainTransportInfo, ProducerCreated, ProducerId, SiteEvent,
    TransportId, TransportInfo, Volume,
};
use tracing::warn;

use super::{MediaSide, Outcome, json, pipe};
use crate::objects::AnyTransport;

impl MediaSide {
    /// What the room is to be told of a worker's event.
    pub(crate) fn translate(&mut self, event: MediaEvent) -> Option<SiteEvent> {
        match event {
            MediaEvent::Transport {
                id,
                event: TransportEvent::DtlsState(DtlsState::Closed | DtlsState::Failed),
            } => Some(SiteEvent::TransportClosed(TransportId::new(id.as_str()))),
            MediaEvent::Transport { id, event: TransportEvent::Bandwidth(told) } => {
                let bandwidth = DownlinkBandwidth {
                    desired: told.desired_bitrate,
                    effective_desired: told.effective_desired_bitrate,
                    available: told.available_bitrate,
                };
                Some(SiteEvent::DownlinkBandwidth(TransportId::new(id.as_str()), bandwidth))
            }
            MediaEvent::Producer { id, event: ProducerEvent::Score(score) } => {
                Some(SiteEvent::ProducerScore(ProducerId::new(id.as_str()), json(&score)))
            }
            MediaEvent::Consumer { id, event: ConsumerEvent::Score(score) } => {
                Some(SiteEvent::ConsumerScore(ConsumerId::new(id.as_str()), json(&score)))
            }
            MediaEvent::Consumer { id, event: ConsumerEvent::LayersChange(layers) } => {
                let layers = layers.map(|l| Layers { spatial: l.spatial_layer, temporal: l.temporal_layer });
                Some(SiteEvent::ConsumerLayers(ConsumerId::new(id.as_str()), layers))
            }
            MediaEvent::Volumes { volumes, .. } => {
                let volumes = volumes.into_iter().map(|volume| Volume {
                    producer: ProducerId::new(volume.producer_id.as_str()),
                    dbov: volume.volume,
                });
                Some(SiteEvent::Volumes(volumes.collect()))
            }
            MediaEvent::WorkerDied { id, .. } => {
                let ours = self.home.as_ref().is_some_and(|home| *home.router.id() == id);
                ours.then_some(SiteEvent::Lost)
            }
            MediaEvent::Lagged { lost } => {
                warn!(lost, "worker events were lost: the room is overloaded");
                let dead = self.home.as_ref().is_some_and(|home| home.router.is_closed());
                dead.then_some(SiteEvent::Lost)
            }
            // The room knows these by its own hand, or has no use for them.
            MediaEvent::Transport { .. }
            | MediaEvent::Producer { .. }
            | MediaEvent::Consumer { .. }
            | MediaEvent::DominantSpeaker { .. } => None,
        }
    }

    /// Keeps what was made.
    pub(super) fn keep(&mut self, outcome: Outcome) -> MediaDone {
        match outcome {
            Outcome::Plain(done) => done,
            Outcome::Home(home) => {
                let rtp_capabilities = Arc::new(home.router.rtp_capabilities().clone());
                self.home = Some(home);
                MediaDone::Router { rtp_capabilities, place: self.surroundings.place.clone() }
            }
            Outcome::Transport(transport) => {
                let id = TransportId::new(transport.transport().id().as_str());
                let beginning = transport.beginning();
                let info = TransportInfo {
                    id: id.clone(),
                    ice_parameters: beginning.ice_parameters.clone(),
                    ice_candidates: beginning.ice_candidates.clone(),
                    dtls_parameters: beginning.dtls_parameters.clone(),
                    sctp_parameters: beginning.sctp_parameters,
                };
                self.objects.add_transport(id, AnyTransport::WebRtc(transport));
                MediaDone::Transport(Box::new(info))
            }
            Outcome::PlainTransport(transport) => {
                let id = TransportId::new(transport.id().as_str());
                let beginning = transport.beginning();
                let info = PlainTransportInfo {
                    id: id.clone(),
                    ip: beginning.tuple.local_address.clone(),
                    port: beginning.tuple.local_port,
                    rtcp_port: beginning.rtcp_tuple.as_ref().map(|tuple| tuple.local_port),
                };
                self.objects.add_transport(id, AnyTransport::Plain(transport));
                MediaDone::PlainTransport(info)
            }
            Outcome::Pipe(pipe) => {
                let end = pipe::end(&pipe);
                self.objects.add_transport(end.id.clone(), AnyTransport::Pipe(pipe));
                MediaDone::Pipe(Box::new(end))
            }
            Outcome::PipedOut(consumer, transport, producer) => {
                let id = ConsumerId::new(consumer.id().as_str());
                let (kind, rtp_parameters) = (consumer.kind(), Box::new(consumer.rtp_parameters().clone()));
                self.objects.add_consumer(id.clone(), transport, producer, consumer);
                MediaDone::PipedOut(Box::new(PipedOut { consumer: id, kind, rtp_parameters }))
            }
            Outcome::PipedDataOut(consumer, transport, of, producer) => {
                let id = DataConsumerId::new(consumer.id().as_str());
                let stream = *consumer.sctp_stream_parameters();
                self.objects.add_data_consumer(id.clone(), transport, producer, consumer);
                let (label, protocol) = (of.label().to_owned(), of.protocol().to_owned());
                MediaDone::PipedDataOut(PipedDataOut { consumer: id, stream, label, protocol })
            }
            Outcome::Producer(producer, transport) => {
                let id = ProducerId::new(producer.id().as_str());
                let consumable = Arc::new(producer.consumable_rtp_parameters().clone());
                self.objects.add_producer(id.clone(), transport, producer);
                MediaDone::Producer(ProducerCreated { id, consumable })
            }
            Outcome::Consumer(consumer, transport, producer) => {
                let id = ConsumerId::new(consumer.id().as_str());
                let created = ConsumerCreated {
                    id: id.clone(),
                    consumer_type: consumer.consumer_type(),
                    rtp_parameters: Arc::new(consumer.rtp_parameters().clone()),
                    score: json(&consumer.beginning().score),
                };
                self.objects.add_consumer(id, transport, producer, consumer);
                MediaDone::Consumer(Box::new(created))
            }
            Outcome::DataProducer(producer, transport) => {
                let id = DataProducerId::new(producer.id().as_str());
                self.objects.add_data_producer(id.clone(), transport, producer);
                MediaDone::DataProducer(id)
            }
            Outcome::DataConsumer(consumer, transport, producer) => {
                let id = DataConsumerId::new(consumer.id().as_str());
                let stream = *consumer.sctp_stream_parameters();
                self.objects.add_data_consumer(id.clone(), transport, producer, consumer);
                MediaDone::DataConsumer(DataConsumerCreated { id, stream })
            }
        }
    }
}
