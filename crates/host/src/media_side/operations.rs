//! A room's operations, as requests to the worker. Handles are looked up and what closes is forgotten when one begins.

use std::future::Future;
use std::sync::Arc;

use media::{
    Consumer, ConsumerLayers, ConsumerOptions, DataProducerOptions, ListenInfo, MediaError, PlainRemote,
    PlainTransportOptions, Producer, ProducerOptions, WebRtcListen, WebRtcTransport, WebRtcTransportOptions,
};
use ortc::TransportProtocol;
use room::{ConsumerId, MediaDone, MediaOp, ProducerId, StatsOf, TransportId};

use super::settings::PlainListen;
use super::{MediaSide, Outcome, Outcomes, done, failure, gone, json, nothing_to_do, plain, refused};
use crate::objects::AnyTransport;

impl MediaSide {
    pub(super) fn work(&mut self, what: MediaOp) -> Outcomes {
        match what {
            MediaOp::CreateRouter { .. } => self.create_router(),
            // The task that holds this ends by it.
            MediaOp::CloseRouter => nothing_to_do(),
            MediaOp::CreateTransport { force_tcp, data, bandwidth } => {
                self.create_transport(force_tcp, data, bandwidth)
            }
            MediaOp::CreatePlainTransport { rtcp_mux, comedia } => {
                self.create_plain_transport(rtcp_mux, comedia)
            }
            MediaOp::ConnectPlainTransport { transport, ip, port, rtcp_port } => {
                let remote = PlainRemote { ip, port, rtcp_port, srtp_parameters: None };
                match self.objects.transport(&transport) {
                    Some(AnyTransport::Plain(transport)) => {
                        done(async move { transport.connect(&remote).await })
                    }
                    Some(_) => refused("only a PlainTransport is connected by address"),
                    None => gone("transport"),
                }
            }
            MediaOp::ConnectTransport { transport, dtls_parameters } => self
                .on_web_rtc_transport(&transport, |transport| async move {
                    transport.connect(&dtls_parameters).await.map(|_| MediaDone::Done)
                }),
            MediaOp::RestartIce(transport) => self.on_web_rtc_transport(&transport, |transport| async move {
                transport.restart_ice().await.map(MediaDone::IceParameters)
            }),
            MediaOp::CloseTransport(id) => match self.objects.remove_transport(&id) {
                Some(removed) => {
                    done(removed.close_by(|transport| async move { transport.common().close().await }))
                }
                None => nothing_to_do(),
            },
            MediaOp::Produce { transport, kind, rtp_parameters } => {
                let Some(handle) = self.objects.transport(&transport) else { return gone("transport") };
                Box::pin(async move {
                    let options = ProducerOptions::new(kind, *rtp_parameters);
                    let producer = handle.common().produce(options).await.map_err(failure)?;
                    Ok(Outcome::Producer(producer, transport))
                })
            }
            MediaOp::ObserveVolume(id) => {
                let volumes = self.home.as_ref().and_then(|home| home.volumes.clone());
                match (volumes, self.objects.producer(&id)) {
                    (Some(volumes), Some(producer)) => {
                        done(async move { volumes.add_producer(producer.id()).await })
                    }
                    _ => nothing_to_do(),
                }
            }
            MediaOp::CloseProducer(id) => match self.objects.remove_producer(&id) {
                Some(removed) => done(removed.close_by(|producer| async move { producer.close().await })),
                None => nothing_to_do(),
            },
            MediaOp::PauseProducer(id) => {
                self.on_producer(&id, |producer| async move { producer.pause().await })
            }
            MediaOp::ResumeProducer(id) => {
                self.on_producer(&id, |producer| async move { producer.resume().await })
            }
            MediaOp::Consume { transport, producer, rtp_capabilities } => {
                self.consume(transport, producer, rtp_capabilities)
            }
            MediaOp::CloseConsumer(id) => match self.objects.remove_consumer(&id) {
                Some(consumer) => done(async move { consumer.close().await }),
                None => nothing_to_do(),
            },
            MediaOp::PauseConsumer(id) => {
                self.on_consumer(&id, |consumer| async move { consumer.pause().await })
            }
            MediaOp::ResumeConsumer(id) => {
                self.on_consumer(&id, |consumer| async move { consumer.resume().await })
            }
            MediaOp::RequestKeyFrame(id) => {
                self.on_consumer(&id, |consumer| async move { consumer.request_key_frame().await })
            }
            MediaOp::SetPreferredLayers(id, layers) => {
                let layers =
                    ConsumerLayers { spatial_layer: layers.spatial, temporal_layer: layers.temporal };
                self.on_consumer(&id, move |consumer| async move {
                    consumer.set_preferred_layers(layers).await.map(drop)
                })
            }
            MediaOp::SetPriority(id, priority) => {
                self.on_consumer(&id, move |consumer| async move { consumer.set_priority(priority).await })
            }
            MediaOp::Stats(of) => self.stats(of),
            MediaOp::ProduceData { transport, stream, label, protocol } => {
                let Some(handle) = self.objects.transport(&transport) else { return gone("transport") };
                let options = DataProducerOptions {
                    id: None,
                    sctp_stream_parameters: stream,
                    label,
                    protocol,
                    paused: false,
                };
                Box::pin(async move {
                    let producer = handle.common().produce_data(options).await.map_err(failure)?;
                    Ok(Outcome::DataProducer(producer, transport))
                })
            }
            MediaOp::ConsumeData { transport, data_producer } => {
                let handles =
                    (self.objects.transport(&transport), self.objects.data_producer(&data_producer));
                let (Some(handle), Some(of)) = handles else { return gone("transport or data producer") };
                Box::pin(async move {
                    let consumer = handle.common().consume_data(&of, true).await.map_err(failure)?;
                    Ok(Outcome::DataConsumer(consumer, transport, data_producer))
                })
            }
            MediaOp::ResumeDataConsumer(id) => match self.objects.data_consumer(&id) {
                Some(consumer) => done(async move { consumer.resume().await }),
                None => gone("data consumer"),
            },
            MediaOp::CloseDataProducer(id) => match self.objects.remove_data_producer(&id) {
                Some(removed) => done(removed.close_by(|producer| async move { producer.close().await })),
                None => nothing_to_do(),
            },
            MediaOp::CloseDataConsumer(id) => match self.objects.remove_data_consumer(&id) {
                Some(consumer) => done(async move { consumer.close().await }),
                None => nothing_to_do(),
            },
            MediaOp::CreatePipe { leaves_node } => self.create_pipe(leaves_node),
            MediaOp::ConnectPipe { transport, remote } => {
                let Some(pipe) = self.objects.pipe(&transport) else { return gone("pipe") };
                done(
                    async move { pipe.connect(remote.ip, remote.port, remote.srtp_parameters.as_ref()).await },
                )
            }
            MediaOp::PipeOut { transport, producer } => self.pipe_out(transport, producer),
            MediaOp::PipeIn { transport, producer, kind, rtp_parameters } => {
                self.pipe_in(transport, &producer, kind, *rtp_parameters)
            }
            MediaOp::PipeDataOut { transport, data_producer } => {
                let handles =
                    (self.objects.transport(&transport), self.objects.data_producer(&data_producer));
                let (Some(handle), Some(of)) = handles else { return gone("pipe or data producer") };
                Box::pin(async move {
                    let consumer = handle.common().consume_data(&of, false).await.map_err(failure)?;
                    Ok(Outcome::PipedDataOut(consumer, transport, of, data_producer))
                })
            }
            MediaOp::PipeDataIn { transport, data_producer, stream, label, protocol } => {
                self.pipe_data_in(transport, &data_producer, stream, label, protocol)
            }
        }
    }

    fn create_transport(&mut self, force_tcp: bool, data: bool, bandwidth: bool) -> Outcomes {
        let Some(home) = &self.home else { return gone("router") };
        let router = home.router.clone();
        let options = WebRtcTransportOptions {
            enable_udp: !force_tcp,
            enable_sctp: data,
            initial_available_outgoing_bitrate: self.settings.initial_outgoing_bitrate,
            ice_consent_timeout_s: self.settings.ice_consent_timeout_s,
            ..WebRtcTransportOptions::new(WebRtcListen::Server(home.server.clone()))
        };
        Box::pin(async move {
            let transport = router.create_web_rtc_transport(options).await.map_err(failure)?;
            if bandwidth {
                transport.trace_bandwidth().await.map_err(failure)?;
            }
            Ok(Outcome::Transport(transport))
        })
    }

    fn create_plain_transport(&mut self, rtcp_mux: bool, comedia: bool) -> Outcomes {
        let Some(home) = &self.home else { return gone("router") };
        let Some(PlainListen { ip, announced }) = self.settings.plain_listen.clone() else {
            return refused("this server takes in no plain RTP");
        };
        let router = home.router.clone();
        let listen =
            ListenInfo { announced_address: announced, ..ListenInfo::new(TransportProtocol::Udp, ip, 0) };
        let rtcp_listen = (!rtcp_mux).then(|| listen.clone());
        let options = PlainTransportOptions { rtcp_listen, comedia, ..PlainTransportOptions::new(listen) };
        Box::pin(async move {
            router.create_plain_transport(options).await.map(Outcome::PlainTransport).map_err(failure)
        })
    }

    fn consume(
        &mut self,
        transport: TransportId,
        producer: ProducerId,
        rtp_capabilities: Arc<ortc::RtpCapabilities>,
    ) -> Outcomes {
        let (Some(handle), Some(of)) = (self.objects.transport(&transport), self.objects.producer(&producer))
        else {
            return gone("transport or producer");
        };
        let options =
            ConsumerOptions { paused: true, ..ConsumerOptions::new(of.id().clone(), rtp_capabilities) };
        Box::pin(async move {
            let consumer = handle.common().consume(options).await.map_err(failure)?;
            Ok(Outcome::Consumer(consumer, transport, producer))
        })
    }

    fn stats(&mut self, of: StatsOf) -> Outcomes {
        match of {
            StatsOf::Transport(id) => {
                let Some(transport) = self.objects.transport(&id) else { return gone("transport") };
                plain(async move {
                    let stats = match transport {
                        AnyTransport::WebRtc(transport) => transport.stats().await,
                        AnyTransport::Plain(transport) => transport.stats().await,
                        AnyTransport::Pipe(transport) => transport.stats().await,
                    };
                    stats.map(|stats| MediaDone::Stats(json(&[stats])))
                })
            }
            StatsOf::Producer(id) => {
                let Some(producer) = self.objects.producer(&id) else { return gone("producer") };
                plain(async move { producer.stats().await.map(|stats| MediaDone::Stats(json(&stats))) })
            }
            StatsOf::Consumer(id) => {
                let Some(consumer) = self.objects.consumer(&id) else { return gone("consumer") };
                plain(async move { consumer.stats().await.map(|stats| MediaDone::Stats(json(&stats))) })
            }
            StatsOf::DataProducer(id) => {
                let Some(producer) = self.objects.data_producer(&id) else { return gone("data producer") };
                plain(async move { producer.stats().await.map(|stats| MediaDone::Stats(json(&[stats]))) })
            }
            StatsOf::DataConsumer(id) => {
                let Some(consumer) = self.objects.data_consumer(&id) else { return gone("data consumer") };
                plain(async move { consumer.stats().await.map(|stats| MediaDone::Stats(json(&[stats]))) })
            }
        }
    }

    fn on_web_rtc_transport<F, A>(&self, id: &TransportId, ask: F) -> Outcomes
    where
        F: FnOnce(WebRtcTransport) -> A,
        A: Future<Output = Result<MediaDone, MediaError>> + Send + 'static,
    {
        match self.objects.transport(id) {
            Some(AnyTransport::WebRtc(transport)) => plain(ask(transport)),
            Some(_) => refused("only a WebRtcTransport has ICE and DTLS"),
            None => gone("transport"),
        }
    }

    fn on_producer<F, A>(&self, id: &ProducerId, ask: F) -> Outcomes
    where
        F: FnOnce(Producer) -> A,
        A: Future<Output = Result<(), MediaError>> + Send + 'static,
    {
        self.objects.producer(id).map_or_else(|| gone("producer"), |producer| done(ask(producer)))
    }

    fn on_consumer<F, A>(&self, id: &ConsumerId, ask: F) -> Outcomes
    where
        F: FnOnce(Consumer) -> A,
        A: Future<Output = Result<(), MediaError>> + Send + 'static,
    {
        self.objects.consumer(id).map_or_else(|| gone("consumer"), |consumer| done(ask(consumer)))
    }
}
