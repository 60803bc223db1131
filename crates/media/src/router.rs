//! A Router: the transports that media can cross.

use std::sync::Arc;

use ortc::{RtpCapabilities, RtpCodecCapability};
use worker_protocol::wire::{
    active_speaker_observer, audio_level_observer,
    request::{self, Method},
    response::Body,
    router as wire,
};

use crate::{
    error::MediaError,
    event::EventSender,
    id::{ProducerId, RouterId, RtpObserverId, TransportId},
    object::{CloseOnDrop, Kind, Object},
    pipe_transport::{PipeTransport, PipeTransportOptions},
    plain_transport::{PlainTransport, PlainTransportOptions},
    rtp_observer::{ActiveSpeakerObserver, AudioLevelObserver, AudioLevelObserverOptions, RtpObserver},
    transport::Transport,
    web_rtc_transport::{WebRtcListen, WebRtcTransport, WebRtcTransportOptions},
};

/// How a Router is made.
#[derive(Debug, Clone)]
pub struct RouterOptions {
    /// Its id; `None` for a random one.
    pub id: Option<RouterId>,
    /// What it forwards; [`ortc::default_media_codecs`] is a good choice.
    pub media_codecs: Vec<RtpCodecCapability>,
    /// Where its events go (see [`crate::event_queue`]).
    pub events: EventSender,
}

/// A Router. Clones are handles of the same one; it is closed, with all it has, when the last is dropped.
#[derive(Debug, Clone)]
pub struct Router(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    object: CloseOnDrop,
    id: RouterId,
    rtp_capabilities: Arc<RtpCapabilities>,
}

impl Router {
    pub(crate) fn new(object: CloseOnDrop, rtp_capabilities: RtpCapabilities) -> Self {
        let id = Arc::clone(object.0.id()).into();
        Self(Arc::new(Inner { object, id, rtp_capabilities: Arc::new(rtp_capabilities) }))
    }

    fn object(&self) -> &Arc<Object> {
        &self.0.object.0
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &RouterId {
        &self.0.id
    }

    /// What endpoints are told that it can forward.
    #[must_use]
    pub fn rtp_capabilities(&self) -> &RtpCapabilities {
        &self.0.rtp_capabilities
    }

    /// Whether it is closed, or its worker gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.object().is_closed()
    }

    /// Whether an endpoint of these capabilities can receive this Producer; `false` where there is none.
    #[must_use]
    pub fn can_consume(&self, producer_id: &ProducerId, capabilities: &RtpCapabilities) -> bool {
        self.object()
            .producers()
            .and_then(|producers| producers.find(producer_id.as_str()))
            .is_some_and(|producer| ortc::can_consume(&producer.consumable_rtp_parameters, capabilities))
    }

    /// Opens a transport to a browser.
    ///
    /// # Errors
    /// [`MediaError::Limit`], [`MediaError::DuplicateId`], and as every request.
    pub async fn create_web_rtc_transport(
        &self,
        options: WebRtcTransportOptions,
    ) -> Result<WebRtcTransport, MediaError> {
        let method = match options.listen {
            WebRtcListen::Server(_) => Method::RouterCreateWebRtcTransportWithServer,
            WebRtcListen::Individual(_) => Method::RouterCreateWebRtcTransport,
        };
        let wire = options.to_wire();
        let (transport, answer) = self
            .create_transport(options.id, method, |transport_id| {
                let body = wire::CreateWebRtcTransportRequest { transport_id, options: Box::new(wire) };
                request::Body::RouterCreateWebRtcTransportRequest(Box::new(body))
            })
            .await?;
        match answer {
            Some(Body::WebRtcTransportDumpResponse(dump)) => Ok(WebRtcTransport::new(transport, *dump)),
            _ => Err(MediaError::UnexpectedAnswer(method)),
        }
    }

    /// Opens a transport of plain RTP.
    ///
    /// # Errors
    /// [`MediaError::DuplicateId`], and as every request.
    pub async fn create_plain_transport(
        &self,
        options: PlainTransportOptions,
    ) -> Result<PlainTransport, MediaError> {
        let method = Method::RouterCreatePlainTransport;
        let wire = options.to_wire();
        let (transport, answer) = self
            .create_transport(options.id, method, |transport_id| {
                let body = wire::CreatePlainTransportRequest { transport_id, options: Box::new(wire) };
                request::Body::RouterCreatePlainTransportRequest(Box::new(body))
            })
            .await?;
        match answer {
            Some(Body::PlainTransportDumpResponse(dump)) => Ok(PlainTransport::new(transport, *dump)),
            _ => Err(MediaError::UnexpectedAnswer(method)),
        }
    }

    /// Opens a transport to another Router.
    ///
    /// # Errors
    /// [`MediaError::DuplicateId`], and as every request.
    pub async fn create_pipe_transport(
        &self,
        options: PipeTransportOptions,
    ) -> Result<PipeTransport, MediaError> {
        let method = Method::RouterCreatePipeTransport;
        let wire = options.to_wire();
        let (transport, answer) = self
            .create_transport(options.id, method, |transport_id| {
                let body = wire::CreatePipeTransportRequest { transport_id, options: Box::new(wire) };
                request::Body::RouterCreatePipeTransportRequest(Box::new(body))
            })
            .await?;
        match answer {
            Some(Body::PipeTransportDumpResponse(dump)) => Ok(PipeTransport::new(transport, *dump)),
            _ => Err(MediaError::UnexpectedAnswer(method)),
        }
    }

    /// Observes how loud Producers are.
    ///
    /// # Errors
    /// As every request: see [`MediaError`].
    pub async fn create_audio_level_observer(
        &self,
        options: AudioLevelObserverOptions,
    ) -> Result<AudioLevelObserver, MediaError> {
        let observer = self
            .create_observer(Method::RouterCreateAudioLevelObserver, |rtp_observer_id| {
                let options = Box::new(audio_level_observer::AudioLevelObserverOptions {
                    max_entries: options.max_entries,
                    threshold: options.threshold,
                    interval: options.interval_ms,
                });
                let body = wire::CreateAudioLevelObserverRequest { rtp_observer_id, options };
                request::Body::RouterCreateAudioLevelObserverRequest(Box::new(body))
            })
            .await?;
        Ok(AudioLevelObserver::new(observer))
    }

    /// Observes who speaks, looking every `interval_ms` (mediasoup's default: 300).
    ///
    /// # Errors
    /// As every request: see [`MediaError`].
    pub async fn create_active_speaker_observer(
        &self,
        interval_ms: u16,
    ) -> Result<ActiveSpeakerObserver, MediaError> {
        let observer = self
            .create_observer(Method::RouterCreateActiveSpeakerObserver, |rtp_observer_id| {
                let options = active_speaker_observer::ActiveSpeakerObserverOptions { interval: interval_ms };
                let body =
                    wire::CreateActiveSpeakerObserverRequest { rtp_observer_id, options: Box::new(options) };
                request::Body::RouterCreateActiveSpeakerObserverRequest(Box::new(body))
            })
            .await?;
        Ok(ActiveSpeakerObserver::new(observer))
    }

    /// The worker's own view of it.
    ///
    /// # Errors
    /// As every request: see [`MediaError`].
    pub async fn dump(&self) -> Result<wire::DumpResponse, MediaError> {
        match self.object().request(Method::RouterDump, None).await? {
            Some(Body::RouterDumpResponse(dump)) => Ok(*dump),
            _ => Err(MediaError::UnexpectedAnswer(Method::RouterDump)),
        }
    }

    /// Closes it, with all it has. Closing twice is no error.
    ///
    /// # Errors
    /// As every request: see [`MediaError`].
    pub async fn close(&self) -> Result<(), MediaError> {
        self.object().close().await
    }

    async fn create_transport(
        &self,
        id: Option<TransportId>,
        method: Method,
        body: impl FnOnce(String) -> request::Body,
    ) -> Result<(Transport, Option<Body>), MediaError> {
        let id = id.unwrap_or_else(TransportId::random);
        let object = CloseOnDrop(Object::child(self.object(), Kind::Transport, id.shared())?);
        // Only browsers come in any number: the others connect what the server itself has chosen to connect.
        if let Method::RouterCreateWebRtcTransportWithServer | Method::RouterCreateWebRtcTransport = method {
            object.0.check_transports().inspect_err(|_| {
                object.0.mark_closed();
            })?;
        }
        let answer = object.created(self.object().request(method, Some(body(id.into()))).await)?;
        Ok((Transport::new(object, Arc::clone(&self.0.rtp_capabilities)), answer))
    }

    async fn create_observer(
        &self,
        method: Method,
        body: impl FnOnce(String) -> request::Body,
    ) -> Result<RtpObserver, MediaError> {
        let id = RtpObserverId::random();
        let object = CloseOnDrop(Object::child(self.object(), Kind::RtpObserver, id.shared())?);
        object.created(self.object().request(method, Some(body(id.as_str().to_owned()))).await)?;
        Ok(RtpObserver::new(object, id))
    }
}
