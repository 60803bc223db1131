//! Media that a Router sends to an endpoint.

use std::sync::Arc;

use ortc::{ConsumerType, MediaKind, RtpCapabilities, RtpParameters};
use worker_protocol::wire::{
    consumer,
    request::{self, Method},
    response::Body,
};

use crate::{
    error::MediaError,
    event::{ConsumerLayers, ConsumerScore},
    id::{ConsumerId, ProducerId},
    object::{CloseOnDrop, Object},
    stats::RtpStreamStats,
};

/// How a Consumer is made.
#[derive(Debug, Clone)]
pub struct ConsumerOptions {
    /// Its id; `None` for a random one.
    pub id: Option<ConsumerId>,
    /// What it forwards.
    pub producer_id: ProducerId,
    /// What the endpoint can receive, put in order once by [`ortc::normalize_rtp_capabilities`] for all its Consumers.
    pub rtp_capabilities: Arc<RtpCapabilities>,
    /// Whether it starts paused. Start so, and resume once the endpoint is ready: nothing is lost on its way then.
    pub paused: bool,
    /// Its `mid`; `None` for the next free number of its transport.
    pub mid: Option<String>,
    /// Layers to begin with, for simulcast and SVC.
    pub preferred_layers: Option<ConsumerLayers>,
    /// Whether Opus packets that carry silence are left out.
    pub ignore_dtx: bool,
    /// Whether lost packets are sent again; `None` for mediasoup's habit: video yes, audio no.
    pub enable_rtx: Option<bool>,
}

impl ConsumerOptions {
    /// A paused Consumer with a random id and defaults.
    #[must_use]
    pub fn new(producer_id: ProducerId, rtp_capabilities: Arc<RtpCapabilities>) -> Self {
        Self {
            id: None,
            producer_id,
            rtp_capabilities,
            paused: true,
            mid: None,
            preferred_layers: None,
            ignore_dtx: false,
            enable_rtx: None,
        }
    }
}

/// A Consumer. Clones are handles of the same one; it is closed when the last is dropped.
#[derive(Debug, Clone)]
pub struct Consumer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    object: CloseOnDrop,
    id: ConsumerId,
    beginning: ConsumerBeginning,
}

/// What is known of a Consumer when it begins; what becomes of it later comes as [`crate::ConsumerEvent`]s.
#[derive(Debug, Clone, PartialEq)]
pub struct ConsumerBeginning {
    /// What it forwards.
    pub producer_id: ProducerId,
    /// Audio or video.
    pub kind: MediaKind,
    /// Simple, simulcast, SVC or pipe.
    pub consumer_type: ConsumerType,
    /// What the endpoint receives.
    pub rtp_parameters: RtpParameters,
    /// Whether it is paused.
    pub paused: bool,
    /// Whether its Producer is paused.
    pub producer_paused: bool,
    /// How well it is received.
    pub score: ConsumerScore,
    /// The layers it prefers.
    pub preferred_layers: Option<ConsumerLayers>,
}

impl Consumer {
    pub(crate) fn new(object: CloseOnDrop, id: ConsumerId, beginning: ConsumerBeginning) -> Self {
        Self(Arc::new(Inner { object, id, beginning }))
    }

    fn object(&self) -> &Object {
        &self.0.object.0
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &ConsumerId {
        &self.0.id
    }

    /// What was known when it began.
    #[must_use]
    pub fn beginning(&self) -> &ConsumerBeginning {
        &self.0.beginning
    }

    /// What it forwards.
    #[must_use]
    pub fn producer_id(&self) -> &ProducerId {
        &self.0.beginning.producer_id
    }

    /// Audio or video.
    #[must_use]
    pub fn kind(&self) -> MediaKind {
        self.0.beginning.kind
    }

    /// Simple, simulcast, SVC or pipe.
    #[must_use]
    pub fn consumer_type(&self) -> ConsumerType {
        self.0.beginning.consumer_type
    }

    /// What the endpoint receives.
    #[must_use]
    pub fn rtp_parameters(&self) -> &RtpParameters {
        &self.0.beginning.rtp_parameters
    }

    /// Whether it, or what it belongs to, is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.object().is_closed()
    }

    /// Stops forwarding.
    ///
    /// # Errors
    /// As every request: see [`MediaError`].
    pub async fn pause(&self) -> Result<(), MediaError> {
        self.object().request(Method::ConsumerPause, None).await.map(drop)
    }

    /// Forwards again; for video, a key frame is asked for.
    ///
    /// # Errors
    /// As every request: see [`MediaError`].
    pub async fn resume(&self) -> Result<(), MediaError> {
        self.object().request(Method::ConsumerResume, None).await.map(drop)
    }

    /// Prefers these layers, and says which it then prefers; `None` where there is nothing to choose.
    ///
    /// # Errors
    /// As every request: see [`MediaError`].
    pub async fn set_preferred_layers(
        &self,
        layers: ConsumerLayers,
    ) -> Result<Option<ConsumerLayers>, MediaError> {
        let method = Method::ConsumerSetPreferredLayers;
        let body = consumer::SetPreferredLayersRequest { preferred_layers: Box::new(layers.into()) };
        let body = request::Body::ConsumerSetPreferredLayersRequest(Box::new(body));
        match self.object().request(method, Some(body)).await? {
            Some(Body::ConsumerSetPreferredLayersResponse(answer)) => {
                Ok(answer.preferred_layers.map(|layers| ConsumerLayers::from(*layers)))
            }
            None => Ok(None),
            Some(_) => Err(MediaError::UnexpectedAnswer(method)),
        }
    }

    /// Gets bandwidth before Consumers of lower priority; 1 to 255, 1 at the beginning.
    ///
    /// # Errors
    /// As every request: see [`MediaError`].
    pub async fn set_priority(&self, priority: u8) -> Result<(), MediaError> {
        let body =
            request::Body::ConsumerSetPriorityRequest(Box::new(consumer::SetPriorityRequest { priority }));
        self.object().request(Method::ConsumerSetPriority, Some(body)).await.map(drop)
    }

    /// Asks the Producer for a key frame.
    ///
    /// # Errors
    /// As every request: see [`MediaError`].
    pub async fn request_key_frame(&self) -> Result<(), MediaError> {
        self.object().request(Method::ConsumerRequestKeyFrame, None).await.map(drop)
    }

    /// Statistics of what it sends, and of the Producer's stream that it sends.
    ///
    /// # Errors
    /// As every request: see [`MediaError`].
    pub async fn stats(&self) -> Result<Vec<RtpStreamStats>, MediaError> {
        match self.object().request(Method::ConsumerGetStats, None).await? {
            Some(Body::ConsumerGetStatsResponse(answer)) => {
                Ok(answer.stats.into_iter().filter_map(RtpStreamStats::from_wire).collect())
            }
            _ => Err(MediaError::UnexpectedAnswer(Method::ConsumerGetStats)),
        }
    }

    /// The worker's own view of it.
    ///
    /// # Errors
    /// As every request: see [`MediaError`].
    pub async fn dump(&self) -> Result<consumer::ConsumerDump, MediaError> {
        match self.object().request(Method::ConsumerDump, None).await? {
            Some(Body::ConsumerDumpResponse(dump)) => Ok(*dump.data),
            _ => Err(MediaError::UnexpectedAnswer(Method::ConsumerDump)),
        }
    }

    /// Closes it. Closing twice is no error.
    ///
    /// # Errors
    /// As every request: see [`MediaError`].
    pub async fn close(&self) -> Result<(), MediaError> {
        self.object().close().await
    }
}
