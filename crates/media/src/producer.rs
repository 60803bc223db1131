//! Media that an endpoint sends to a Router.

use std::sync::Arc;

use ortc::{MediaKind, ProducerType, RtpParameters};
use worker_protocol::wire::{producer, request::Method, response::Body};

use crate::{
    error::MediaError,
    id::ProducerId,
    object::{CloseOnDrop, Object},
    stats::RtpStreamStats,
};

/// What Consumers need to know of a Producer, beyond its handle's life.
#[derive(Debug)]
pub(crate) struct ProducerData {
    pub(crate) id: ProducerId,
    pub(crate) kind: MediaKind,
    pub(crate) producer_type: ProducerType,
    pub(crate) rtp_parameters: RtpParameters,
    pub(crate) consumable_rtp_parameters: RtpParameters,
}

/// How a Producer is made.
#[derive(Debug, Clone)]
pub struct ProducerOptions {
    /// Its id; `None` for a random one.
    pub id: Option<ProducerId>,
    /// Audio or video; every codec must be of this kind.
    pub kind: MediaKind,
    /// What the endpoint sends.
    pub rtp_parameters: RtpParameters,
    /// Whether it starts paused.
    pub paused: bool,
    /// The least time between two requests for key frames, in ms; 0 for the worker's default.
    pub key_frame_request_delay_ms: u32,
}

impl ProducerOptions {
    /// A Producer that is not paused, with a random id.
    #[must_use]
    pub fn new(kind: MediaKind, rtp_parameters: RtpParameters) -> Self {
        Self { id: None, kind, rtp_parameters, paused: false, key_frame_request_delay_ms: 0 }
    }
}

/// A Producer. Clones are handles of the same one; it is closed when the last is dropped.
#[derive(Debug, Clone)]
pub struct Producer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    object: CloseOnDrop,
    data: Arc<ProducerData>,
}

impl Producer {
    pub(crate) fn new(object: CloseOnDrop, data: Arc<ProducerData>) -> Self {
        Self(Arc::new(Inner { object, data }))
    }

    fn object(&self) -> &Object {
        &self.0.object.0
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &ProducerId {
        &self.0.data.id
    }

    /// Audio or video.
    #[must_use]
    pub fn kind(&self) -> MediaKind {
        self.0.data.kind
    }

    /// Simple, simulcast or SVC.
    #[must_use]
    pub fn producer_type(&self) -> ProducerType {
        self.0.data.producer_type
    }

    /// What the endpoint sends, in order.
    #[must_use]
    pub fn rtp_parameters(&self) -> &RtpParameters {
        &self.0.data.rtp_parameters
    }

    /// What Consumers can get, in the Router's numbers.
    #[must_use]
    pub fn consumable_rtp_parameters(&self) -> &RtpParameters {
        &self.0.data.consumable_rtp_parameters
    }

    /// Whether it, or what it belongs to, is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.object().is_closed()
    }

    /// Stops forwarding; its Consumers hear of it.
    ///
    /// # Errors
    /// As every request: see [`MediaError`].
    pub async fn pause(&self) -> Result<(), MediaError> {
        self.object().request(Method::ProducerPause, None).await.map(drop)
    }

    /// Forwards again; its Consumers hear of it.
    ///
    /// # Errors
    /// As every request: see [`MediaError`].
    pub async fn resume(&self) -> Result<(), MediaError> {
        self.object().request(Method::ProducerResume, None).await.map(drop)
    }

    /// Statistics of its streams.
    ///
    /// # Errors
    /// As every request: see [`MediaError`].
    pub async fn stats(&self) -> Result<Vec<RtpStreamStats>, MediaError> {
        match self.object().request(Method::ProducerGetStats, None).await? {
            Some(Body::ProducerGetStatsResponse(answer)) => {
                Ok(answer.stats.into_iter().filter_map(RtpStreamStats::from_wire).collect())
            }
            _ => Err(MediaError::UnexpectedAnswer(Method::ProducerGetStats)),
        }
    }

    /// The worker's own view of it.
    ///
    /// # Errors
    /// As every request: see [`MediaError`].
    pub async fn dump(&self) -> Result<producer::DumpResponse, MediaError> {
        match self.object().request(Method::ProducerDump, None).await? {
            Some(Body::ProducerDumpResponse(dump)) => Ok(*dump),
            _ => Err(MediaError::UnexpectedAnswer(Method::ProducerDump)),
        }
    }

    /// Closes it; its Consumers close and hear of it. Closing twice is no error.
    ///
    /// # Errors
    /// As every request: see [`MediaError`].
    pub async fn close(&self) -> Result<(), MediaError> {
        self.object().close().await
    }
}
