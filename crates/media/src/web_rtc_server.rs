//! The sockets that a worker's WebRtcTransports share.

use std::sync::Arc;

use worker_protocol::wire::{request::Method, response::Body, web_rtc_server as wire};

use crate::{
    error::MediaError,
    id::WebRtcServerId,
    object::{CloseOnDrop, Object},
};

/// A WebRtcServer. Clones are handles of the same one; it is closed, with its transports, when the last is dropped.
#[derive(Debug, Clone)]
pub struct WebRtcServer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    object: CloseOnDrop,
    id: WebRtcServerId,
}

impl WebRtcServer {
    pub(crate) fn new(object: CloseOnDrop, id: WebRtcServerId) -> Self {
        Self(Arc::new(Inner { object, id }))
    }

    fn object(&self) -> &Object {
        &self.0.object.0
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &WebRtcServerId {
        &self.0.id
    }

    /// The worker's own view of it, with the ports that it listens on.
    ///
    /// # Errors
    /// As every request: see [`MediaError`].
    pub async fn dump(&self) -> Result<wire::DumpResponse, MediaError> {
        match self.object().request(Method::WebRtcServerDump, None).await? {
            Some(Body::WebRtcServerDumpResponse(dump)) => Ok(*dump),
            _ => Err(MediaError::UnexpectedAnswer(Method::WebRtcServerDump)),
        }
    }

    /// Closes it, and its transports in the worker. Closing twice is no error.
    ///
    /// # Errors
    /// As every request: see [`MediaError`].
    pub async fn close(&self) -> Result<(), MediaError> {
        self.object().close().await
    }
}
