//! The worker's objects and the dispatch of what its driver asks.
//!
//! Every object lives in a table of its kind and is addressed by a typed index; ids are looked up once per request.
//! What an entity does with its requests is in that entity's module.

use std::time::{Duration, Instant};

use mio::Registry;
use rtc::certificate::Certificate;
use rtc::dtls::{DtlsContext, DtlsTimers};
use rustc_hash::FxHashMap;
use worker_protocol::framing;
use worker_protocol::wire::request::{self, Method};
use worker_protocol::wire::{message, notification, response, web_rtc_transport, worker as wire};

use crate::clock::Clock;
use crate::consumer::Consumer;
use crate::counters::{Counters, CountersFile};
use crate::data::{DataConsumer, DataProducer};
use crate::error::{RequestError, RequestResult};
use crate::method::method_name;
use crate::observer::RtpObserver;
use crate::outbox::Outbox;
use crate::producer::Producer;
use crate::producer::held::Held;
use crate::relief::Relief;
use crate::router::Router;
use crate::scratch::Scratch;
use crate::settings::{LogLevel, LogTag, LogTags, Settings};
use crate::sockets::Sockets;
use crate::table::{
    ConsumerIdx, DataConsumerIdx, DataProducerIdx, ProducerIdx, RouterIdx, RtpObserverIdx, Table,
    TransportIdx, WebRtcServerIdx,
};
use crate::timers::{TimerKey, Timers};
use crate::transport::close::RTCP_STEP;
use crate::transport::web_rtc::PathOwner;
use crate::transport::web_rtc::create::wire_fingerprint;
use crate::transport::{Path, Transport};
use crate::web_rtc_server::WebRtcServer;

/// What a request's handler id names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handler {
    /// A WebRtcServer.
    WebRtcServer(WebRtcServerIdx),
    /// A Router.
    Router(RouterIdx),
    /// A Transport.
    Transport(TransportIdx),
    /// A Producer.
    Producer(ProducerIdx),
    /// A Consumer.
    Consumer(ConsumerIdx),
    /// A DataProducer.
    DataProducer(DataProducerIdx),
    /// A DataConsumer.
    DataConsumer(DataConsumerIdx),
    /// An RtpObserver.
    RtpObserver(RtpObserverIdx),
}

/// What a timer wakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timer {
    /// A Transport's reports are due.
    Rtcp(TransportIdx),
    /// A Transport's transport-wide feedback is due.
    Feedback(TransportIdx),
    /// A Transport's probe goes on.
    Probe(TransportIdx),
    /// ICE or DTLS of a Transport want attention.
    WebRtc(TransportIdx),
    /// A Producer's streams want attention.
    Producer(ProducerIdx),
    /// An RtpObserver's interval ended.
    RtpObserver(RtpObserverIdx),
    /// An SCTP association wants attention.
    Sctp(TransportIdx),
    /// The counters file is due.
    Counters,
    /// TCP connections are to be looked through.
    Connections,
    /// Held packets have been waited with for long enough.
    Held,
    /// A crowd has left.
    Relief,
}

impl Timer {
    /// How long before its time it may come, in a turn that something else brought about.
    fn lead(self) -> Duration {
        match self {
            Self::Rtcp(_) => RTCP_STEP,
            _ => Duration::ZERO,
        }
    }
}

/// What is done once the response to the current request is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deferred {
    /// A Consumer was made on a Transport that is connected.
    ConsumerConnected(ConsumerIdx),
    /// A Transport got its peer.
    TransportConnected(TransportIdx),
    /// A Consumer's layers may change.
    ConsumerLayers(ConsumerIdx),
    /// A Transport has something to say by SCTP.
    Sctp(TransportIdx),
}

/// Everything a worker has.
pub struct Worker {
    /// What it tells its driver.
    pub outbox: Outbox,
    /// Its clocks.
    pub clock: Clock,
    /// Its sockets.
    pub sockets: Sockets,
    /// Its timers.
    pub timers: Timers<Timer>,
    /// Ports of listeners that name none.
    pub port_range: (u16, u16),
    /// What ids name, with the order in which they came.
    pub handlers: FxHashMap<String, (u64, Handler)>,
    /// WebRtcServers.
    pub web_rtc_servers: Table<WebRtcServerIdx, WebRtcServer>,
    /// Routers.
    pub routers: Table<RouterIdx, Router>,
    /// Transports.
    pub transports: Table<TransportIdx, Transport>,
    /// Producers.
    pub producers: Table<ProducerIdx, Producer>,
    /// Consumers.
    pub consumers: Table<ConsumerIdx, Consumer>,
    /// DataProducers.
    pub data_producers: Table<DataProducerIdx, DataProducer>,
    /// DataConsumers.
    pub data_consumers: Table<DataConsumerIdx, DataConsumer>,
    /// RtpObservers.
    pub observers: Table<RtpObserverIdx, RtpObserver>,
    /// Which WebRtcTransport a path belongs to.
    pub tuples: FxHashMap<Path, PathOwner>,
    /// Transports whose SCTP associations are serviced at the end of the turn.
    pub touched_sctp: Vec<TransportIdx>,
    /// What waits for the current response.
    pub deferred: Vec<Deferred>,
    /// What DTLS associations are made from.
    pub dtls: DtlsContext,
    /// Our certificate's fingerprints.
    pub fingerprints: Vec<web_rtc_transport::Fingerprint>,
    /// What went wrong or was dropped.
    pub counters: Counters,
    /// Memory that packets pass through.
    pub scratch: Scratch,
    /// Whether it was asked to end.
    pub closed: bool,
    /// Whether notifications are held back because the driver closed the whole.
    pub quiet: bool,
    /// When TCP connections are looked through.
    pub connections_timer: TimerKey,
    /// Packets between Producers and Consumers.
    pub held: Held,
    /// When waiting with them ends.
    pub held_timer: TimerKey,
    /// When memory is given back.
    pub relief: Relief,
    handler_sequence: u64,
    pid: u32,
    counters_file: Option<(CountersFile, TimerKey)>,
}

/// How DTLS associations reach BoringSSL's timers.
const DTLS_TIMERS: DtlsTimers = DtlsTimers {
    prepare_context: net::dtls_timers::prepare_context,
    prepare_connection: net::dtls_timers::prepare_connection,
    set_now: net::dtls_timers::set_now,
    timeout: net::dtls_timers::timeout,
    handle_timeout: net::dtls_timers::handle_timeout,
    repeat_now: net::dtls_timers::repeat_now,
};

/// How often the counters file is written.
const COUNTERS_INTERVAL: Duration = Duration::from_secs(1);

impl Worker {
    /// A worker without objects, whose sockets wake the poll of `registry`.
    pub fn new(
        settings: &Settings,
        registry: Registry,
        pid: u32,
        version: &str,
    ) -> Result<Self, WorkerError> {
        let mut timers = Timers::default();
        let connections_timer = timers.create(Timer::Connections);
        let held_timer = timers.create(Timer::Held);
        let relief = Relief::new(&mut timers);
        let counters_file = CountersFile::from_environment().map(|file| {
            let timer = timers.create(Timer::Counters);
            timers.set(timer, Some(Instant::now() + COUNTERS_INTERVAL));
            (file, timer)
        });
        let failed = |error: &dyn std::fmt::Display| WorkerError::Certificate(error.to_string());
        let certificate = match &settings.dtls_files {
            None => Certificate::generate().map_err(|error| failed(&error))?,
            Some((certificate, private_key)) => {
                let certificate = std::fs::read(certificate).map_err(|error| failed(&error))?;
                let private_key = std::fs::read(private_key).map_err(|error| failed(&error))?;
                Certificate::from_pem(&certificate, &private_key).map_err(|error| failed(&error))?
            }
        };
        let dtls = DtlsContext::new(&certificate, DTLS_TIMERS).map_err(|error| failed(&error))?;
        let fingerprints = certificate.fingerprints().iter().map(wire_fingerprint).collect();
        let mut outbox = Outbox::default();
        (outbox.log_level, outbox.log_tags) = (settings.log_level, settings.log_tags);
        outbox.debug(LogTag::Info, || format!("starting tureen-worker [version:{version}]"));
        outbox.debug(LogTag::Info, || format!("{settings:?}"));
        Ok(Self {
            outbox,
            clock: Clock::default(),
            sockets: Sockets::new(registry),
            timers,
            port_range: (settings.rtc_min_port, settings.rtc_max_port),
            handlers: FxHashMap::default(),
            web_rtc_servers: Table::default(),
            routers: Table::default(),
            transports: Table::default(),
            producers: Table::default(),
            consumers: Table::default(),
            data_producers: Table::default(),
            data_consumers: Table::default(),
            observers: Table::default(),
            tuples: FxHashMap::default(),
            touched_sctp: Vec::new(),
            deferred: Vec::new(),
            dtls,
            fingerprints,
            counters: Counters::default(),
            scratch: Scratch::default(),
            closed: false,
            quiet: false,
            connections_timer,
            held: Held::default(),
            held_timer,
            relief,
            handler_sequence: 0,
            pid,
            counters_file,
        })
    }
}

/// Why a worker cannot start.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum WorkerError {
    #[error("DTLS certificate: {0}")]
    Certificate(String),
}

impl Worker {
    /// Tells the driver that requests are served now.
    pub fn announce(&mut self) {
        let pid = self.pid.to_string();
        self.outbox.notify(&pid, notification::Event::WorkerRunning, None);
    }

    /// Ends the worker: what is open says goodbye, and the event loop stops.
    pub fn close(&mut self) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        self.quiet = true;
        while let Some(router) = self.routers.first() {
            self.close_router(router);
        }
        while let Some(server) = self.web_rtc_servers.first() {
            self.close_web_rtc_server(server);
        }
        self.flush();
    }

    /// A notification to the driver, unless the driver closed what it is about.
    pub fn notify(&mut self, id: &str, event: notification::Event, body: Option<notification::Body>) {
        if !self.quiet {
            self.outbox.notify(id, event, body);
        }
    }

    /// Does something of which the driver is not told.
    pub fn quietly(&mut self, action: impl FnOnce(&mut Self)) {
        let before = std::mem::replace(&mut self.quiet, true);
        action(self);
        self.quiet = before;
    }

    /// One message off the channel.
    pub fn handle_message(&mut self, bytes: &[u8], now: Instant) {
        let parsed = framing::read(bytes).and_then(|message| Ok(message::Message::try_from(message)?));
        match parsed {
            Ok(message::Message { data: message::Body::Request(request) }) => {
                self.handle_request(*request, now)
            }
            Ok(message::Message { data: message::Body::Notification(notification) }) => {
                self.handle_notification(*notification, now);
            }
            Ok(_) => {
                self.counters.channel_malformed += 1;
                self.outbox.error(|| {
                    "discarding a channel message that is neither request nor notification".to_owned()
                });
            }
            Err(error) => {
                self.counters.channel_malformed += 1;
                self.outbox.error(|| format!("discarding a malformed channel message: {error}"));
                self.refuse_malformed(bytes, &error);
            }
        }
    }

    /// A request whose body is malformed is answered if its id can be read, so that nobody waits for it.
    fn refuse_malformed(&mut self, bytes: &[u8], error: &framing::FramingError) {
        let id = framing::read(bytes).ok().and_then(|message| match message.data().ok()? {
            message::BodyRef::Request(request) => request.id().ok(),
            _ => None,
        });
        if let Some(id) = id {
            self.counters.requests_refused += 1;
            self.outbox.reject(id, &RequestError::type_error(format!("malformed request: {error}")));
        }
    }

    fn handle_request(&mut self, request: request::Request, now: Instant) {
        let id = request.id;
        match self.dispatch(request, now) {
            Ok(body) => self.outbox.accept(id, body),
            Err(error) => {
                self.counters.requests_refused += 1;
                self.outbox.reject(id, &error);
            }
        }
        for deferred in std::mem::take(&mut self.deferred) {
            match deferred {
                Deferred::ConsumerConnected(consumer) => self.consumer_transport_connected(consumer, now),
                Deferred::TransportConnected(transport) => self.transport_connected(transport, now),
                Deferred::ConsumerLayers(consumer) => self.update_layers(consumer, now),
                Deferred::Sctp(transport) => self.may_connect_sctp(transport, now),
            }
        }
    }

    fn dispatch(&mut self, request: request::Request, now: Instant) -> RequestResult<Option<response::Body>> {
        let method = request.method;
        match method {
            Method::WorkerDump
            | Method::WorkerGetResourceUsage
            | Method::WorkerUpdateSettings
            | Method::WorkerCreateWebRtcServer
            | Method::WorkerCreateRouter
            | Method::WorkerWebRtcServerClose
            | Method::WorkerCloseRouter => return self.dispatch_worker(method, request.body),
            _ => {}
        }
        let Some(&(_, handler)) = self.handlers.get(&request.handler_id) else {
            return Err(RequestError::not_found(format!(
                "Channel request handler with ID {} not found [method:{}]",
                request.handler_id,
                method_name(method)
            )));
        };
        match handler {
            Handler::WebRtcServer(index) => match method {
                Method::WebRtcServerDump => Ok(Some(self.dump_web_rtc_server(index))),
                _ => Err(RequestError::unknown_method(method)),
            },
            Handler::Router(index) => self.dispatch_router(index, method, request.body, now),
            Handler::Transport(index) => self.dispatch_transport(index, method, request.body, now),
            Handler::Producer(index) => self.dispatch_producer(index, method, request.body, now),
            Handler::Consumer(index) => self.dispatch_consumer(index, method, request.body, now),
            Handler::DataProducer(index) => self.dispatch_data_producer(index, method, now),
            Handler::DataConsumer(index) => self.dispatch_data_consumer(index, method, request.body, now),
            Handler::RtpObserver(index) => self.dispatch_observer(index, method, request.body, now),
        }
    }

    fn dispatch_worker(
        &mut self,
        method: Method,
        body: Option<request::Body>,
    ) -> RequestResult<Option<response::Body>> {
        match (method, body) {
            (Method::WorkerDump, _) => Ok(Some(response::Body::WorkerDumpResponse(Box::new(self.dump())))),
            (Method::WorkerGetResourceUsage, _) => Ok(Some(resource_usage()?)),
            (Method::WorkerUpdateSettings, Some(request::Body::WorkerUpdateSettingsRequest(body))) => {
                if let Some(level) = &body.log_level {
                    self.outbox.log_level = LogLevel::parse(level)
                        .map_err(|error| RequestError::type_error(error.to_string()))?;
                }
                if let Some(tags) = &body.log_tags {
                    self.outbox.log_tags = LogTags::parse(tags.iter().map(String::as_str));
                }
                Ok(None)
            }
            (
                Method::WorkerCreateWebRtcServer,
                Some(request::Body::WorkerCreateWebRtcServerRequest(body)),
            ) => {
                let id = body.web_rtc_server_id;
                self.check_no_handler(&id, "WebRtcServer")?;
                let index = self.web_rtc_servers.next_index();
                self.create_web_rtc_server(id.clone(), body.listen_infos.as_deref().unwrap_or_default())?;
                self.register(id, Handler::WebRtcServer(index));
                Ok(None)
            }
            (Method::WorkerWebRtcServerClose, Some(request::Body::WorkerCloseWebRtcServerRequest(body))) => {
                match self.handlers.get(&body.web_rtc_server_id) {
                    Some(&(_, Handler::WebRtcServer(index))) => {
                        self.handlers.remove(&body.web_rtc_server_id);
                        self.close_web_rtc_server(index);
                        Ok(None)
                    }
                    _ => Err(not_found("WebRtcServer", method)),
                }
            }
            (Method::WorkerCreateRouter, Some(request::Body::WorkerCreateRouterRequest(body))) => {
                self.check_no_handler(&body.router_id, "Router")?;
                let index = self.routers.next_index();
                self.create_router(body.router_id.clone());
                self.register(body.router_id, Handler::Router(index));
                Ok(None)
            }
            (Method::WorkerCloseRouter, Some(request::Body::WorkerCloseRouterRequest(body))) => {
                match self.handlers.get(&body.router_id) {
                    Some(&(_, Handler::Router(index))) => {
                        self.handlers.remove(&body.router_id);
                        self.close_router(index);
                        Ok(None)
                    }
                    _ => Err(not_found("Router", method)),
                }
            }
            _ => Err(RequestError::missing_body(method)),
        }
    }

    fn handle_notification(&mut self, notification: notification::Notification, now: Instant) {
        if notification.event == notification::Event::WorkerClose {
            self.close();
            return;
        }
        let handler = self.handlers.get(&notification.handler_id).map(|(_, handler)| *handler);
        match (handler, notification.event, notification.body) {
            (
                Some(Handler::Transport(index)),
                notification::Event::TransportSendRtcp,
                Some(notification::Body::TransportSendRtcpNotification(mut body)),
            ) => self.direct_rtcp(index, &mut body.data, now),
            (
                Some(Handler::Producer(index)),
                notification::Event::ProducerSend,
                Some(notification::Body::ProducerSendNotification(mut body)),
            ) => self.direct_rtp(index, &mut body.data, now),
            (
                Some(Handler::DataProducer(index)),
                notification::Event::DataProducerSend,
                Some(notification::Body::DataProducerSendNotification(body)),
            ) => self.direct_data(index, *body, now),
            (_, event, _) => {
                self.counters.channel_malformed += 1;
                self.outbox.error(|| {
                    format!("notification failed: nothing handles {event:?} of {}", notification.handler_id)
                });
            }
        }
    }

    /// Refuses an id that something has already.
    pub fn check_no_handler(&self, id: &str, what: &str) -> RequestResult<()> {
        if self.handlers.contains_key(id) {
            return Err(RequestError::error(format!(
                "a {what} (or something else) with the same id already exists"
            )));
        }
        Ok(())
    }

    /// Makes an id known.
    pub fn register(&mut self, id: String, handler: Handler) {
        self.handler_sequence += 1;
        self.handlers.insert(id, (self.handler_sequence, handler));
    }

    fn dump(&self) -> wire::DumpResponse {
        let mut handlers: Vec<_> = self.handlers.iter().collect();
        handlers.sort_by_key(|(_, (sequence, _))| *sequence);
        let ids = |wanted: fn(&Handler) -> bool| {
            handlers.iter().filter(|(_, (_, handler))| wanted(handler)).map(|(id, _)| (*id).clone()).collect()
        };
        wire::DumpResponse {
            pid: self.pid,
            web_rtc_server_ids: ids(|handler| matches!(handler, Handler::WebRtcServer(_))),
            router_ids: ids(|handler| matches!(handler, Handler::Router(_))),
            channel_message_handlers: Box::new(wire::ChannelMessageHandlers {
                channel_request_handlers: ids(|_| true),
                channel_notification_handlers: ids(|handler| {
                    matches!(handler, Handler::Transport(_) | Handler::Producer(_) | Handler::DataProducer(_))
                }),
            }),
        }
    }

    /// Everything that is due by now.
    pub fn fire_timers(&mut self, now: Instant) {
        while let Some(timer) = self.timers.poll(now, Timer::lead) {
            match timer {
                Timer::Rtcp(index) => self.send_reports(index, now),
                Timer::Feedback(index) => self.send_transport_feedback(index, now),
                Timer::Probe(index) => self.send_probation(index, now),
                Timer::WebRtc(index) => self.service_web_rtc(index, now),
                Timer::Producer(index) => self.service_producer(index, now),
                Timer::RtpObserver(index) => self.observer_interval(index, now),
                Timer::Sctp(index) => self.sctp_timeout(index, now),
                Timer::Counters => self.write_counters(now),
                Timer::Connections => self.close_unproven_connections(now),
                // The end of the turn forwards what is due.
                Timer::Held => {}
                Timer::Relief => self.give_memory_back(),
            }
        }
    }

    fn write_counters(&mut self, now: Instant) {
        let Some((file, timer)) = &self.counters_file else { return };
        let sockets = self.sockets.counters;
        let entries = self.counters.entries().chain([
            ("tcp_backlog_drops", sockets.tcp_backlog_drops),
            ("tcp_malformed", sockets.tcp_malformed),
            ("tcp_refused", sockets.tcp_refused),
            ("receive_errors", sockets.receive_errors),
            ("send_errors", sockets.send_errors),
            ("send_overflow", sockets.send_overflow),
            ("datagrams_sent", sockets.datagrams_sent),
            ("octets_sent", sockets.octets_sent),
            ("messages_sent", sockets.messages_sent),
            ("runs_refused", sockets.runs_refused),
            ("dropped_talk", self.outbox.dropped_talk),
            ("now_sockets", self.sockets.len() as u64),
            ("now_routers", self.routers.len() as u64),
            ("now_transports", self.transports.len() as u64),
            ("now_producers", self.producers.len() as u64),
            ("now_consumers", self.consumers.len() as u64),
            ("now_tuples", self.tuples.len() as u64),
            ("now_handlers", self.handlers.len() as u64),
        ]);
        if let Err(error) = file.write(entries) {
            self.outbox.error(|| format!("writing the counters file failed: {error}"));
        }
        self.timers.set(*timer, Some(now + COUNTERS_INTERVAL));
    }

    /// The end of a turn of the event loop: everything decided in it leaves.
    pub fn end_turn(&mut self, now: Instant) {
        self.forward_held(now);
        self.service_sctp(now);
        self.sockets.end_turn();
    }

    /// Hands queued datagrams to the kernel.
    pub fn flush(&mut self) {
        self.sockets.flush();
    }
}

/// A named entity that is not there.
pub fn not_found(what: &str, method: Method) -> RequestError {
    RequestError::not_found(format!("{what} not found [method:{}]", method_name(method)))
}

fn resource_usage() -> RequestResult<response::Body> {
    let usage = net::process::resource_usage()
        .map_err(|error| RequestError::error(format!("resource usage is not to be had: {error}")))?;
    Ok(response::Body::WorkerResourceUsageResponse(Box::new(wire::ResourceUsageResponse {
        ru_utime: usage.utime_ms,
        ru_stime: usage.stime_ms,
        ru_maxrss: usage.maxrss,
        ru_ixrss: usage.ixrss,
        ru_idrss: usage.idrss,
        ru_isrss: usage.isrss,
        ru_minflt: usage.minflt,
        ru_majflt: usage.majflt,
        ru_nswap: usage.nswap,
        ru_inblock: usage.inblock,
        ru_oublock: usage.oublock,
        ru_msgsnd: usage.msgsnd,
        ru_msgrcv: usage.msgrcv,
        ru_nsignals: usage.nsignals,
        ru_nvcsw: usage.nvcsw,
        ru_nivcsw: usage.nivcsw,
    })))
}
