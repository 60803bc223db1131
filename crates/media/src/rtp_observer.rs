//! Observers of audio: how loud Producers are, and who speaks. What they observe comes as [`crate::MediaEvent`]s.

use std::sync::Arc;

use worker_protocol::wire::{
    request::{self, Method},
    rtp_observer as wire,
};

use crate::{
    error::MediaError,
    id::{ProducerId, RtpObserverId},
    object::{CloseOnDrop, Object},
};

/// How an [`AudioLevelObserver`] observes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AudioLevelObserverOptions {
    /// How many of the loudest are told.
    pub max_entries: u16,
    /// What counts as sound, in dBov (-127 to 0).
    pub threshold: i8,
    /// How often they are told, in ms.
    pub interval_ms: u16,
}

impl Default for AudioLevelObserverOptions {
    /// mediasoup's: the loudest one above -80 dBov, once a second.
    fn default() -> Self {
        Self { max_entries: 1, threshold: -80, interval_ms: 1000 }
    }
}

/// Tells who is how loud. Clones are handles of the same one; it is closed when the last is dropped.
#[derive(Debug, Clone)]
pub struct AudioLevelObserver(RtpObserver);

/// Tells who speaks. Clones are handles of the same one; it is closed when the last is dropped.
#[derive(Debug, Clone)]
pub struct ActiveSpeakerObserver(RtpObserver);

#[derive(Debug, Clone)]
pub(crate) struct RtpObserver(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    object: CloseOnDrop,
    id: RtpObserverId,
}

impl RtpObserver {
    pub(crate) fn new(object: CloseOnDrop, id: RtpObserverId) -> Self {
        Self(Arc::new(Inner { object, id }))
    }

    fn object(&self) -> &Object {
        &self.0.object.0
    }

    async fn add_producer(&self, id: &ProducerId) -> Result<(), MediaError> {
        let body = wire::AddProducerRequest { producer_id: id.as_str().to_owned() };
        let body = request::Body::RtpObserverAddProducerRequest(Box::new(body));
        self.object().request(Method::RtpObserverAddProducer, Some(body)).await.map(drop)
    }

    async fn remove_producer(&self, id: &ProducerId) -> Result<(), MediaError> {
        let body = wire::RemoveProducerRequest { producer_id: id.as_str().to_owned() };
        let body = request::Body::RtpObserverRemoveProducerRequest(Box::new(body));
        self.object().request(Method::RtpObserverRemoveProducer, Some(body)).await.map(drop)
    }
}

macro_rules! observer_methods {
    ($name:ident) => {
        impl $name {
            pub(crate) fn new(observer: RtpObserver) -> Self {
                Self(observer)
            }

            /// Its id.
            #[must_use]
            pub fn id(&self) -> &RtpObserverId {
                &self.0.0.id
            }

            /// Observes this audio Producer of its Router, too. A closed Producer leaves by itself.
            ///
            /// # Errors
            /// As every request: see [`MediaError`].
            pub async fn add_producer(&self, id: &ProducerId) -> Result<(), MediaError> {
                self.0.add_producer(id).await
            }

            /// Observes this Producer no more.
            ///
            /// # Errors
            /// As every request: see [`MediaError`].
            pub async fn remove_producer(&self, id: &ProducerId) -> Result<(), MediaError> {
                self.0.remove_producer(id).await
            }

            /// Rests.
            ///
            /// # Errors
            /// As every request: see [`MediaError`].
            pub async fn pause(&self) -> Result<(), MediaError> {
                self.0.object().request(Method::RtpObserverPause, None).await.map(drop)
            }

            /// Observes again.
            ///
            /// # Errors
            /// As every request: see [`MediaError`].
            pub async fn resume(&self) -> Result<(), MediaError> {
                self.0.object().request(Method::RtpObserverResume, None).await.map(drop)
            }

            /// Closes it. Closing twice is no error.
            ///
            /// # Errors
            /// As every request: see [`MediaError`].
            pub async fn close(&self) -> Result<(), MediaError> {
                self.0.object().close().await
            }
        }
    };
}

observer_methods!(AudioLevelObserver);
observer_methods!(ActiveSpeakerObserver);
