//! The tree of a worker's objects as the driver knows it: what is open, what it belongs to, how it is closed.
//!
//! Closing an object closes what belongs to it, here as in the worker, with one request. An object whose last handle
//! is dropped is closed in the background, so that nothing is left behind in the worker.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use worker_protocol::wire::{request, router, transport, worker};

use crate::{
    channel::{Channel, lock},
    error::{MediaError, RefusalKind},
    event::{EventSender, MediaEvent},
    producer::ProducerData,
};

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    WebRtcServer,
    Router,
    Transport,
    Producer,
    Consumer,
    DataProducer,
    DataConsumer,
    RtpObserver,
}

/// How many objects a worker holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectCounts {
    /// Routers.
    pub routers: usize,
    /// Transports of all sorts.
    pub transports: usize,
    /// Producers.
    pub producers: usize,
    /// Consumers.
    pub consumers: usize,
}

/// The live count of a worker's objects.
#[derive(Debug, Default)]
pub(crate) struct Census {
    routers: AtomicUsize,
    transports: AtomicUsize,
    producers: AtomicUsize,
    consumers: AtomicUsize,
}

impl Census {
    pub(crate) fn counts(&self) -> ObjectCounts {
        ObjectCounts {
            routers: self.routers.load(Ordering::Relaxed),
            transports: self.transports.load(Ordering::Relaxed),
            producers: self.producers.load(Ordering::Relaxed),
            consumers: self.consumers.load(Ordering::Relaxed),
        }
    }

    fn gauge(&self, kind: Kind) -> Option<&AtomicUsize> {
        match kind {
            Kind::Router => Some(&self.routers),
            Kind::Transport => Some(&self.transports),
            Kind::Producer => Some(&self.producers),
            Kind::Consumer => Some(&self.consumers),
            Kind::WebRtcServer | Kind::DataProducer | Kind::DataConsumer | Kind::RtpObserver => None,
        }
    }
}

/// The open Producers of a Router.
#[derive(Debug, Default)]
pub(crate) struct ProducerIndex(Mutex<HashMap<Arc<str>, Arc<ProducerData>>>);

impl ProducerIndex {
    pub(crate) fn find(&self, id: &str) -> Option<Arc<ProducerData>> {
        lock(&self.0).get(id).cloned()
    }

    pub(crate) fn insert(&self, id: Arc<str>, data: Arc<ProducerData>) {
        lock(&self.0).insert(id, data);
    }

    pub(crate) fn remove(&self, id: &str) {
        lock(&self.0).remove(id);
    }
}

/// What all objects of one worker share.
#[derive(Debug, Clone)]
pub(crate) struct Roots {
    pub(crate) channel: Channel,
    pub(crate) census: Arc<Census>,
    /// Transports that the worker may hold.
    pub(crate) transports: usize,
}

/// One object.
#[derive(Debug)]
pub(crate) struct Object {
    id: Arc<str>,
    kind: Kind,
    roots: Roots,
    parent: Option<Weak<Object>>,
    parent_id: Arc<str>,
    children: Mutex<HashMap<Arc<str>, Arc<Object>>>,
    closed: AtomicBool,
    events: Option<EventSender>,
    producers: Option<Arc<ProducerIndex>>,
}

impl Object {
    /// A child of the worker itself.
    pub(crate) fn root(roots: Roots, kind: Kind, id: Arc<str>, events: Option<EventSender>) -> Arc<Self> {
        let producers = (kind == Kind::Router).then(Arc::default);
        let object = Arc::new(Self {
            id,
            kind,
            roots,
            parent: None,
            parent_id: Arc::from(""),
            children: Mutex::default(),
            closed: AtomicBool::new(false),
            events,
            producers,
        });
        object.open();
        object
    }

    /// A child of `parent`, which must be open and must not have another child of this id. It hears notifications
    /// from now on: make it before the request that creates it is sent.
    pub(crate) fn child(parent: &Arc<Self>, kind: Kind, id: Arc<str>) -> Result<Arc<Self>, MediaError> {
        let object = Arc::new(Self {
            id: Arc::clone(&id),
            kind,
            roots: parent.roots.clone(),
            parent: Some(Arc::downgrade(parent)),
            parent_id: Arc::clone(&parent.id),
            children: Mutex::default(),
            closed: AtomicBool::new(false),
            events: parent.events.clone(),
            producers: parent.producers.clone(),
        });
        {
            let mut siblings = lock(&parent.children);
            parent.check_open()?;
            if siblings.contains_key(&id) {
                return Err(MediaError::DuplicateId(id.as_ref().to_owned()));
            }
            // Within the lock, so that the parent cannot be closed in between and miss this child.
            object.open();
            siblings.insert(id, Arc::clone(&object));
        }
        Ok(object)
    }

    fn open(self: &Arc<Self>) {
        if let Some(gauge) = self.roots.census.gauge(self.kind) {
            gauge.fetch_add(1, Ordering::Relaxed);
        }
        self.roots.channel.subscribe(self);
    }

    pub(crate) fn id(&self) -> &Arc<str> {
        &self.id
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn producers(&self) -> Option<&Arc<ProducerIndex>> {
        self.producers.as_ref()
    }

    /// Whether the worker holds no more transports than it may, this one, if it is one, among them.
    pub(crate) fn check_transports(&self) -> Result<(), MediaError> {
        let limit = self.roots.transports;
        if self.roots.census.counts().transports > limit {
            return Err(MediaError::Limit { what: "transports", limit });
        }
        Ok(())
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(crate) fn emit(&self, event: MediaEvent) {
        if let Some(events) = &self.events {
            events.send(event);
        }
    }

    /// Asks the worker something about this object.
    pub(crate) async fn request(
        &self,
        method: request::Method,
        body: Option<request::Body>,
    ) -> Result<Option<worker_protocol::wire::response::Body>, MediaError> {
        self.check_open()?;
        self.roots.channel.request(method, &self.id, body).await
    }

    /// Closes here and in the worker. Closing twice is no error.
    pub(crate) async fn close(&self) -> Result<(), MediaError> {
        if !self.mark_closed() {
            return Ok(());
        }
        let (method, body) = self.close_request();
        match self.roots.channel.request(method, &self.parent_id, Some(body)).await {
            // It went with something else.
            Err(MediaError::Refused { kind: RefusalKind::NotFound, .. }) | Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Closes without waiting, for `Drop`.
    pub(crate) fn close_in_background(&self) {
        if !self.mark_closed() {
            return;
        }
        let (method, body) = self.close_request();
        let (channel, parent_id) = (self.roots.channel.clone(), Arc::clone(&self.parent_id));
        // Without a runtime the process is ending, and the worker with it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = channel.request(method, &parent_id, Some(body)).await {
                    tracing::debug!(%error, "an object that was dropped could not be closed");
                }
            });
        }
    }

    /// Closes here only, with everything that belongs to it. Says whether it was open.
    pub(crate) fn mark_closed(&self) -> bool {
        if self.closed.swap(true, Ordering::AcqRel) {
            return false;
        }
        if let Some(gauge) = self.roots.census.gauge(self.kind) {
            gauge.fetch_sub(1, Ordering::Relaxed);
        }
        self.roots.channel.unsubscribe(&self.id);
        if self.kind == Kind::Producer
            && let Some(producers) = &self.producers
        {
            producers.remove(&self.id);
        }
        if let Some(parent) = self.parent.as_ref().and_then(Weak::upgrade) {
            lock(&parent.children).remove(&self.id);
        }
        let children = std::mem::take(&mut *lock(&self.children));
        for child in children.into_values() {
            child.mark_closed();
        }
        true
    }

    fn check_open(&self) -> Result<(), MediaError> {
        if self.is_closed() { Err(MediaError::Closed) } else { Ok(()) }
    }

    fn close_request(&self) -> (request::Method, request::Body) {
        use request::{Body, Method};
        let id = self.id.as_ref().to_owned();
        match self.kind {
            Kind::WebRtcServer => {
                let body = worker::CloseWebRtcServerRequest { web_rtc_server_id: id };
                (Method::WorkerWebRtcServerClose, Body::WorkerCloseWebRtcServerRequest(Box::new(body)))
            }
            Kind::Router => {
                let body = worker::CloseRouterRequest { router_id: id };
                (Method::WorkerCloseRouter, Body::WorkerCloseRouterRequest(Box::new(body)))
            }
            Kind::Transport => {
                let body = router::CloseTransportRequest { transport_id: id };
                (Method::RouterCloseTransport, Body::RouterCloseTransportRequest(Box::new(body)))
            }
            Kind::Producer => {
                let body = transport::CloseProducerRequest { producer_id: id };
                (Method::TransportCloseProducer, Body::TransportCloseProducerRequest(Box::new(body)))
            }
            Kind::Consumer => {
                let body = transport::CloseConsumerRequest { consumer_id: id };
                (Method::TransportCloseConsumer, Body::TransportCloseConsumerRequest(Box::new(body)))
            }
            Kind::DataProducer => {
                let body = transport::CloseDataProducerRequest { data_producer_id: id };
                (Method::TransportCloseDataProducer, Body::TransportCloseDataProducerRequest(Box::new(body)))
            }
            Kind::DataConsumer => {
                let body = transport::CloseDataConsumerRequest { data_consumer_id: id };
                (Method::TransportCloseDataConsumer, Body::TransportCloseDataConsumerRequest(Box::new(body)))
            }
            Kind::RtpObserver => {
                let body = router::CloseRtpObserverRequest { rtp_observer_id: id };
                (Method::RouterCloseRtpObserver, Body::RouterCloseRtpObserverRequest(Box::new(body)))
            }
        }
    }
}

/// Closes its object when dropped: what every handle's shared part ends with.
#[derive(Debug)]
pub(crate) struct CloseOnDrop(pub(crate) Arc<Object>);

impl CloseOnDrop {
    /// Takes note of the answer to the request that creates the object, and hands it on. Where the worker refuses, there
    /// is nothing to close in it; where the answer does not come, there may be.
    pub(crate) fn created<T>(&self, answer: Result<T, MediaError>) -> Result<T, MediaError> {
        if let Err(MediaError::Refused { .. }) = answer {
            self.0.mark_closed();
        }
        answer
    }
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close_in_background();
    }
}
