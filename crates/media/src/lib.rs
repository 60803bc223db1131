//! Drives media workers: starts and watches the processes, speaks their channel, and offers what they hold as handles.
//!
//! Workers are `tureen-worker` or stock `mediasoup-worker`: nothing here relies on more than mediasoup 3.27.1's
//! protocol. This crate knows no rooms and no peers. Parameters are negotiated here, by `ortc`'s rules, as mediasoup's
//! Node library does it.
//!
//! Every handle is cheap to clone. Closing one closes what belongs to it; dropping the last clone closes in the
//! background. Every request has a deadline, and fails with [`MediaError::WorkerGone`] when the process dies.

mod channel;
mod consumer;
mod crash_budget;
mod data;
mod error;
mod event;
mod id;
mod object;
mod pipe_transport;
mod plain_transport;
mod producer;
mod router;
mod routing;
mod rtp_observer;
mod settings;
mod stats;
mod supervisor;
mod transport;
mod web_rtc_server;
mod web_rtc_transport;
mod wire_parameters;
mod worker;

pub use worker_protocol::wire::request::Method;

pub use crate::{
    channel::ChannelCounters,
    consumer::{Consumer, ConsumerBeginning, ConsumerOptions},
    data::{DataConsumer, DataConsumerStats, DataProducer, DataProducerOptions, DataProducerStats},
    error::{MediaError, RefusalKind, SpawnError, WorkerExit},
    event::{
        Bandwidth, ConsumerEvent, ConsumerLayers, ConsumerScore, DtlsState, EventReceiver, EventSender,
        IceState, MediaEvent, ProducerEvent, ProducerScore, TransportEvent, VideoOrientation, Volume,
        event_queue,
    },
    id::{
        ConsumerId, DataConsumerId, DataProducerId, ProducerId, RouterId, RtpObserverId, TransportId,
        WebRtcServerId,
    },
    object::ObjectCounts,
    pipe_transport::{PipeBeginning, PipeTransport, PipeTransportOptions},
    plain_transport::{PlainBeginning, PlainRemote, PlainTransport, PlainTransportOptions},
    producer::{Producer, ProducerOptions},
    router::{Router, RouterOptions},
    rtp_observer::{ActiveSpeakerObserver, AudioLevelObserver, AudioLevelObserverOptions},
    settings::{DEFAULT_TRANSPORTS, DtlsCertificateFiles, ListenInfo, WorkerLogLevel, WorkerSettings},
    stats::{RtpStreamStats, TransportStats, TransportTuple, WebRtcStats},
    supervisor::{
        ListenAddress, Placed, PlacementHint, PoolError, PoolEvent, PoolSettings, WorkerPool, WorkerState,
        WorkerStatus,
    },
    transport::Transport,
    web_rtc_server::WebRtcServer,
    web_rtc_transport::{WebRtcBeginning, WebRtcListen, WebRtcTransport, WebRtcTransportOptions},
    worker::Worker,
};
