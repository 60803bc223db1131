//! One site's media: carries out a room's operations on a worker, and turns what the worker tells into the room's
//! events. Holds the handles; decides nothing.

mod pipe;

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::Arc;

use media::{
    AudioLevelObserver, AudioLevelObserverOptions, Consumer, ConsumerEvent, ConsumerLayers, ConsumerOptions,
    DataConsumer, DataProducer, DataProducerOptions, DtlsState, EventReceiver, EventSender, ListenAddress,
    ListenInfo, MediaError, MediaEvent, PipeTransport, PlainRemote, PlainTransport, PlainTransportOptions,
    Producer, ProducerEvent, ProducerOptions, RefusalKind, Router, RouterOptions, TransportEvent,
    WebRtcListen, WebRtcServer, WebRtcTransport, WebRtcTransportOptions, WorkerPool,
};
use ortc::{RtpCodecCapability, TransportProtocol};
use room::{
    ConsumerCreated, ConsumerId, DataConsumerCreated, DataConsumerId, DataProducerId, DownlinkBandwidth,
    Layers, MediaDone, MediaFailure, MediaOp, OpId, PipedDataOut, PipedOut, Place, PlainTransportInfo,
    ProducerCreated, ProducerId, RoomId, SiteEvent, StatsOf, TransportId, TransportInfo, Volume,
};
use serde::Serialize;
use tokio::sync::watch;
use tracing::warn;

use crate::objects::{AnyTransport, Objects};
use crate::site::SiteNews;
use crate::spread::{Claim, Spread};

/// Events of one room that wait to be read.
const EVENTS: usize = 1024;
/// Who speaks is told this often at most: quick enough to follow a talk, rare enough for big rooms.
const VOLUME_INTERVAL_MS: u16 = 800;
/// So many of the loudest are told.
const SPEAKERS: u16 = 8;
/// Below this there is silence, in dBov.
const VOLUME_THRESHOLD: i8 = -80;

/// How many workers are tried that die while they are asked for a router.
const PLACE_ATTEMPTS: usize = 4;

/// From this much of a core on a worker is busy: new peers go elsewhere. What is left is for those it has, whose pictures
/// grow and change.
const BUSY_PERMILLE: u32 = 800;
/// Below this it is not busy any more.
const IDLE_PERMILLE: u32 = 600;

const WORKER_DIED: &str = "the media worker died";

/// What routers and transports are like.
#[derive(Debug, Clone)]
pub struct MediaSettings {
    /// What routers forward.
    pub codecs: Vec<RtpCodecCapability>,
    /// What congestion control towards a client begins with, in bit/s.
    pub initial_outgoing_bitrate: u64,
    /// How long after a client's last sign of life its ICE is called disconnected, in seconds.
    pub ice_consent_timeout_s: u8,
    /// Where PlainTransports are reached; there are none without it.
    pub plain_listen: Option<PlainListen>,
    /// Where workers of other nodes reach this node's. Pipes within the node go over loopback.
    pub pipe_address: ListenAddress,
}

/// Where PlainTransports are reached, each at ports of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlainListen {
    /// The address to bind.
    pub ip: IpAddr,
    /// What broadcasters are told instead.
    pub announced: Option<String>,
}

impl Default for MediaSettings {
    fn default() -> Self {
        Self {
            codecs: ortc::default_media_codecs(),
            initial_outgoing_bitrate: 1_000_000,
            ice_consent_timeout_s: 30,
            plain_listen: None,
            pipe_address: ListenAddress { ip: Ipv4Addr::LOCALHOST.into(), announced_address: None },
        }
    }
}

/// Media work under way.
pub(crate) type Work = Pin<Box<dyn Future<Output = Finished> + Send>>;

type Outcomes = Pin<Box<dyn Future<Output = Result<Outcome, Failed>> + Send>>;

/// Media work that ended. Given back to [`MediaSide::finish`], which keeps the handles in it.
pub(crate) struct Finished {
    op: OpId,
    result: Result<Outcome, Failed>,
}

/// Why media work came to nothing.
enum Failed {
    /// The worker has ended, and all that the room had on it.
    WorkerGone,
    /// Anything else.
    Otherwise(MediaFailure),
}

enum Outcome {
    /// Nothing to keep.
    Plain(MediaDone),
    Home(Home),
    Transport(WebRtcTransport),
    PlainTransport(PlainTransport),
    Pipe(PipeTransport),
    PipedOut(Consumer, TransportId, ProducerId),
    PipedDataOut(DataConsumer, TransportId, DataProducer, DataProducerId),
    Producer(Producer, TransportId),
    Consumer(Consumer, TransportId, ProducerId),
    DataProducer(DataProducer, TransportId),
    DataConsumer(DataConsumer, TransportId, DataProducerId),
}

/// Where a room lives: a router on one worker.
#[derive(Debug)]
struct Home {
    router: Router,
    server: WebRtcServer,
    /// `None` where the worker could not make one: then nobody is told who speaks.
    volumes: Option<AudioLevelObserver>,
    cpu: watch::Receiver<u32>,
    _claim: Claim,
}

/// What a site may have a router on.
pub(crate) struct Surroundings {
    pub(crate) pool: WorkerPool,
    pub(crate) spread: Spread,
    pub(crate) room: RoomId,
    pub(crate) place: Place,
}

pub(crate) struct MediaSide {
    surroundings: Surroundings,
    settings: MediaSettings,
    events: EventSender,
    home: Option<Home>,
    busy: bool,
    objects: Objects,
}

impl MediaSide {
    pub(crate) fn new(surroundings: Surroundings, settings: MediaSettings) -> (Self, EventReceiver) {
        let (events, receiver) = media::event_queue(EVENTS);
        let objects = Objects::default();
        (Self { surroundings, settings, events, home: None, busy: false, objects }, receiver)
    }

    /// Begins an operation. Handles are looked up now; what closes is forgotten now.
    pub(crate) fn start(&mut self, op: OpId, what: MediaOp) -> Work {
        let work = self.work(what);
        Box::pin(async move { Finished { op, result: work.await } })
    }

    /// Returns when the worker has become busy, or is so no more.
    pub(crate) async fn busy(&mut self) -> bool {
        let busy = self.busy;
        let turned =
            |permille: &u32| if busy { *permille < IDLE_PERMILLE } else { *permille >= BUSY_PERMILLE };
        let watched = match &mut self.home {
            Some(home) => home.cpu.wait_for(turned).await.is_ok(),
            None => false,
        };
        if !watched {
            // No worker yet, or none any more: then something else will be heard of.
            std::future::pending::<()>().await;
        }
        self.busy = !busy;
        self.busy
    }

    /// Keeps what an operation made, and says what the room is to be told. Nothing, if the router is lost or about to be:
    /// then [`SiteEvent::Lost`] speaks for all, and a client that is told to join again must not hear of an error before.
    pub(crate) fn finish(&mut self, finished: Finished) -> Option<SiteNews> {
        let Finished { op, result } = finished;
        let result = match result {
            // Its WorkerDied came before it was ours, and was not taken for ours.
            Ok(Outcome::Home(home)) if home.router.is_closed() => {
                Err(MediaFailure::Unavailable(WORKER_DIED.to_owned()))
            }
            Ok(outcome) => Ok(self.keep(outcome)),
            Err(Failed::WorkerGone) if self.home.is_some() => return None,
            Err(_) if self.home.as_ref().is_some_and(|home| home.router.is_closed()) => return None,
            Err(Failed::WorkerGone) => Err(MediaFailure::Unavailable(WORKER_DIED.to_owned())),
            Err(Failed::Otherwise(failure)) => Err(failure),
        };
        if let Err(failure) = &result {
            warn!(?failure, "media work failed");
        }
        Some(SiteNews::Done { op, result })
    }

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

    fn keep(&mut self, outcome: Outcome) -> MediaDone {
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

    fn work(&mut self, what: MediaOp) -> Outcomes {
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

    fn create_router(&mut self) -> Outcomes {
        let Surroundings { pool, spread, room, .. } = &self.surroundings;
        let (pool, spread, room) = (pool.clone(), spread.clone(), room.clone());
        let (events, media_codecs) = (self.events.clone(), self.settings.codecs.clone());
        Box::pin(async move {
            for attempt in 1..=PLACE_ATTEMPTS {
                let last = attempt == PLACE_ATTEMPTS;
                let (placed, claim) = spread
                    .place(&pool, &room)
                    .await
                    .map_err(|error| Failed::Otherwise(MediaFailure::Unavailable(error.to_string())))?;
                let options =
                    RouterOptions { id: None, media_codecs: media_codecs.clone(), events: events.clone() };
                let router = match placed.worker.create_router(options).await {
                    Ok(router) => router,
                    // It died under our hands: the pool knows by now, and has others.
                    Err(MediaError::WorkerGone) if !last => continue,
                    // It lives but does not answer: it is of no use to anyone.
                    Err(MediaError::Timeout { .. }) if !last => {
                        placed.worker.kill();
                        continue;
                    }
                    Err(error) => return Err(failure(error)),
                };
                let volumes = match router.create_audio_level_observer(volume_options()).await {
                    Ok(volumes) => Some(volumes),
                    Err(MediaError::WorkerGone | MediaError::Closed) if !last => continue,
                    Err(error) => {
                        warn!(%error, "no audio level observer: nobody is told who speaks");
                        None
                    }
                };
                if router.is_closed() && !last {
                    continue;
                }
                let cpu = placed.cpu_permille();
                return Ok(Outcome::Home(Home {
                    router,
                    server: placed.web_rtc_server,
                    volumes,
                    cpu,
                    _claim: claim,
                }));
            }
            Err(Failed::WorkerGone)
        })
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

fn volume_options() -> AudioLevelObserverOptions {
    AudioLevelObserverOptions {
        max_entries: SPEAKERS,
        threshold: VOLUME_THRESHOLD,
        interval_ms: VOLUME_INTERVAL_MS,
    }
}

fn plain(ask: impl Future<Output = Result<MediaDone, MediaError>> + Send + 'static) -> Outcomes {
    Box::pin(async move { ask.await.map(Outcome::Plain).map_err(failure) })
}

fn done(ask: impl Future<Output = Result<(), MediaError>> + Send + 'static) -> Outcomes {
    plain(async move { ask.await.map(|()| MediaDone::Done) })
}

fn nothing_to_do() -> Outcomes {
    Box::pin(std::future::ready(Ok(Outcome::Plain(MediaDone::Done))))
}

fn gone(what: &'static str) -> Outcomes {
    let text = format!("the {what} is gone");
    Box::pin(std::future::ready(Err(Failed::Otherwise(MediaFailure::Unavailable(text)))))
}

fn refused(why: &str) -> Outcomes {
    Box::pin(std::future::ready(Err(Failed::Otherwise(MediaFailure::Refused(why.to_owned())))))
}

fn failure(error: MediaError) -> Failed {
    let text = error.to_string();
    Failed::Otherwise(match error {
        MediaError::WorkerGone => return Failed::WorkerGone,
        MediaError::Negotiation(_)
        | MediaError::Refused { kind: RefusalKind::Type, .. }
        | MediaError::NoSuchProducer(_)
        | MediaError::TooLong(_) => MediaFailure::Refused(text),
        MediaError::Limit { what, .. } => {
            metrics::counter!("tureen_media_refused_total", "what" => what).increment(1);
            MediaFailure::Unavailable(text)
        }
        MediaError::Closed | MediaError::Timeout { .. } => MediaFailure::Unavailable(text),
        MediaError::NoFreeStream => MediaFailure::Refused(text),
        MediaError::Refused { .. } | MediaError::UnexpectedAnswer(_) | MediaError::DuplicateId(_) => {
            MediaFailure::Internal(text)
        }
    })
}

/// Statistics and scores are plain structs of numbers and text: they have a JSON form.
fn json<T: Serialize + ?Sized>(value: &T) -> serde_json::Value {
    serde_json::to_value(value).unwrap_or_default()
}
