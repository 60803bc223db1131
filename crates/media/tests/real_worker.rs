//! The handles against a real worker: tureen-worker, or the executable that `TUREEN_TEST_WORKER_BIN` names (a stock
//! mediasoup-worker passes as well).

#![expect(clippy::unwrap_used, reason = "what fails in a test may panic")]

use std::{num::NonZeroUsize, path::PathBuf, process::Command, sync::Arc, time::Duration};

use media::{
    AudioLevelObserverOptions, ConsumerEvent, ConsumerOptions, EventReceiver, ListenAddress, MediaError,
    MediaEvent, PoolEvent, PoolSettings, Producer, ProducerId, ProducerOptions, RefusalKind, Router,
    RouterOptions, WebRtcListen, WebRtcServer, WebRtcTransport, WebRtcTransportOptions, Worker, WorkerPool,
    WorkerSettings, event_queue,
};
use ortc::{DtlsParameters, DtlsRole, MediaKind, RtpCapabilities, RtpParameters, TransportProtocol};
use serde_json::json;

#[path = "real_worker/plain_and_pipe.rs"]
mod plain_and_pipe;

fn binary() -> PathBuf {
    std::env::var_os("TUREEN_TEST_WORKER_BIN").map(PathBuf::from).unwrap_or_else(|| {
        // target/debug/deps/this-test
        let test = std::env::current_exe().unwrap();
        let beside = test.ancestors().nth(2).unwrap().join("tureen-worker");
        assert!(
            beside.exists(),
            "build the worker first: cargo build -p worker (or set TUREEN_TEST_WORKER_BIN)"
        );
        beside
    })
}

fn one_worker(base_port: Option<u16>) -> PoolSettings {
    PoolSettings {
        worker: WorkerSettings::new(binary()),
        workers: NonZeroUsize::new(1),
        listen: vec![ListenAddress { ip: [127, 0, 0, 1].into(), announced_address: None }],
        base_port,
        tcp: true,
    }
}

/// One worker with a Router.
struct Stage {
    worker: Worker,
    server: WebRtcServer,
    router: Router,
    events: EventReceiver,
}

impl Stage {
    async fn new() -> Self {
        Self::with(&WorkerSettings::new(binary())).await
    }

    async fn with(settings: &WorkerSettings) -> Self {
        let worker = Worker::spawn(settings).await.unwrap();
        let listen = media::ListenInfo::new(TransportProtocol::Udp, [127, 0, 0, 1].into(), 0);
        let server = worker.create_web_rtc_server(&[listen]).await.unwrap();
        let (sender, events) = event_queue(256);
        let media_codecs = ortc::default_media_codecs();
        let options = RouterOptions { id: Some("the-router".into()), media_codecs, events: sender };
        let router = worker.create_router(options).await.unwrap();
        Self { worker, server, router, events }
    }

    async fn transport(&self) -> WebRtcTransport {
        let options = WebRtcTransportOptions::new(WebRtcListen::Server(self.server.clone()));
        self.router.create_web_rtc_transport(options).await.unwrap()
    }

    /// The next event of a Consumer that changes its state.
    async fn next_change(&mut self) -> ConsumerEvent {
        loop {
            match self.events.recv().await.unwrap() {
                MediaEvent::Consumer { event: ConsumerEvent::Score(_), .. } => {}
                MediaEvent::Consumer { event, .. } => return event,
                _ => {}
            }
        }
    }
}

fn opus() -> RtpParameters {
    serde_json::from_value(json!({
        "mid": "0",
        "codecs": [{ "mimeType": "audio/opus", "payloadType": 111, "clockRate": 48000, "channels": 2,
                     "parameters": { "useinbandfec": 1, "usedtx": 1 } }],
        "headerExtensions": [{ "uri": ortc::uri::MID, "id": 4 }, { "uri": "urn:unheard-of", "id": 5 }],
        "encodings": [{ "ssrc": 1111 }],
        "rtcp": { "cname": "somebody" }
    }))
    .unwrap()
}

fn vp8_simulcast() -> RtpParameters {
    serde_json::from_value(json!({
        "mid": "1",
        "codecs": [
            { "mimeType": "video/VP8", "payloadType": 96, "clockRate": 90000,
              "rtcpFeedback": [{ "type": "nack" }, { "type": "nack", "parameter": "pli" }] },
            { "mimeType": "video/rtx", "payloadType": 97, "clockRate": 90000, "parameters": { "apt": 96 } }
        ],
        "headerExtensions": [{ "uri": ortc::uri::MID, "id": 4 }, { "uri": ortc::uri::RTP_STREAM_ID, "id": 10 }],
        "encodings": [{ "rid": "r0", "scalabilityMode": "L1T3" }, { "rid": "r1", "scalabilityMode": "L1T3" }]
    }))
    .unwrap()
}

fn dtls() -> DtlsParameters {
    serde_json::from_value(json!({
        "role": "client",
        "fingerprints": [{
            "algorithm": "sha-256",
            "value": "82:5A:68:3D:36:C3:0A:DE:AF:E7:32:43:D2:88:83:57:AC:2D:65:E5:80:C4:B6:FB:AF:1A:A0:21:9F:6D:0C:AD"
        }]
    }))
    .unwrap()
}

fn capabilities(router: &Router) -> Arc<RtpCapabilities> {
    Arc::new(router.rtp_capabilities().clone())
}

async fn produce_audio(transport: &WebRtcTransport) -> Producer {
    transport.produce(ProducerOptions::new(MediaKind::Audio, opus())).await.unwrap()
}

#[tokio::test]
async fn a_full_worker_takes_no_more_browsers_until_one_has_left() {
    let mut settings = WorkerSettings::new(binary());
    settings.transports = 3;
    let stage = Stage::with(&settings).await;
    let open = async || {
        let options = WebRtcTransportOptions::new(WebRtcListen::Server(stage.server.clone()));
        stage.router.create_web_rtc_transport(options).await
    };
    let mut transports = Vec::new();
    for _ in 0..3 {
        transports.push(open().await.unwrap());
    }
    for _ in 0..2 {
        let refused = open().await.unwrap_err();
        assert!(matches!(refused, MediaError::Limit { limit: 3, .. }), "{refused}");
    }
    assert_eq!(stage.worker.object_counts().transports, 3);
    transports.pop().unwrap().transport().close().await.unwrap();
    open().await.unwrap();
}

#[tokio::test]
async fn a_worker_says_what_it_holds() {
    let stage = Stage::new().await;
    let dump = stage.worker.dump().await.unwrap();
    assert_eq!(dump.pid, stage.worker.pid());
    assert_eq!(dump.router_ids, ["the-router"]);
    assert_eq!(dump.web_rtc_server_ids, [stage.server.id().as_str()]);
    assert_eq!(stage.server.dump().await.unwrap().udp_sockets.len(), 1);
    assert!(stage.worker.resource_usage().await.unwrap().ru_maxrss > 0);
    stage.worker.close().await;
}

#[tokio::test]
async fn a_transport_connects_restarts_and_closes() {
    let stage = Stage::new().await;
    let transport = stage.transport().await;
    let beginning = transport.beginning();
    assert_eq!(beginning.ice_candidates.len(), 1);
    assert_eq!(beginning.ice_candidates[0].address, "127.0.0.1");
    assert!(beginning.ice_parameters.ice_lite);
    assert!(!beginning.dtls_parameters.fingerprints.is_empty());
    assert_eq!(transport.connect(&dtls()).await.unwrap(), DtlsRole::Server);
    let again = transport.connect(&dtls()).await.unwrap_err();
    assert!(matches!(again, MediaError::Refused { .. }), "{again}");
    let restarted = transport.restart_ice().await.unwrap();
    assert_ne!(restarted.username_fragment, beginning.ice_parameters.username_fragment);
    transport.set_max_incoming_bitrate(1_500_000).await.unwrap();
    let dump = transport.dump().await.unwrap();
    assert_eq!(dump.base.id, transport.id().as_str());
    assert_eq!(transport.stats().await.unwrap().transport_id, transport.id().as_str());
    transport.close().await.unwrap();
    transport.close().await.unwrap();
    assert!(matches!(transport.dump().await, Err(MediaError::Closed)));
    assert!(stage.router.dump().await.unwrap().transport_ids.is_empty());
    stage.worker.close().await;
}

#[tokio::test]
async fn a_producer_is_consumed_paused_resumed_and_closed() {
    let mut stage = Stage::new().await;
    let (sending, receiving) = (stage.transport().await, stage.transport().await);
    let producer = produce_audio(&sending).await;
    let endpoint = capabilities(&stage.router);
    assert!(stage.router.can_consume(producer.id(), &endpoint));
    let consumer = receiving.consume(ConsumerOptions::new(producer.id().clone(), endpoint)).await.unwrap();
    assert!(consumer.beginning().paused);
    assert_eq!(consumer.rtp_parameters().mid.as_deref(), Some("0"));
    assert_eq!(consumer.rtp_parameters().rtcp.cname.as_deref(), Some("somebody"));
    consumer.resume().await.unwrap();
    producer.pause().await.unwrap();
    assert_eq!(stage.next_change().await, ConsumerEvent::ProducerPause);
    producer.resume().await.unwrap();
    assert_eq!(stage.next_change().await, ConsumerEvent::ProducerResume);
    assert_eq!(consumer.dump().await.unwrap().base.producer_id, producer.id().as_str());
    assert!(producer.stats().await.unwrap().is_empty(), "nothing has arrived");
    producer.close().await.unwrap();
    assert_eq!(stage.next_change().await, ConsumerEvent::ProducerClose);
    assert!(consumer.is_closed());
    assert!(!stage.router.can_consume(producer.id(), &capabilities(&stage.router)));
    let counts = stage.worker.object_counts();
    assert_eq!((counts.transports, counts.producers, counts.consumers), (2, 0, 0));
    stage.worker.close().await;
}

#[tokio::test]
async fn simulcast_has_layers_to_prefer() {
    let stage = Stage::new().await;
    let (sending, receiving) = (stage.transport().await, stage.transport().await);
    let producer = sending.produce(ProducerOptions::new(MediaKind::Video, vp8_simulcast())).await.unwrap();
    assert_eq!(producer.producer_type(), ortc::ProducerType::Simulcast);
    let options = ConsumerOptions::new(producer.id().clone(), capabilities(&stage.router));
    let consumer = receiving.consume(options).await.unwrap();
    assert_eq!(consumer.rtp_parameters().encodings[0].scalability_mode.as_deref(), Some("L2T3"));
    let low = media::ConsumerLayers { spatial_layer: 0, temporal_layer: Some(1) };
    assert_eq!(consumer.set_preferred_layers(low).await.unwrap(), Some(low));
    consumer.set_priority(2).await.unwrap();
    consumer.request_key_frame().await.unwrap();
    stage.worker.close().await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let stage = Stage::new().await;
    let transport = stage.transport().await;
    let producer = produce_audio(&transport).await;
    let again =
        ProducerOptions { id: Some(producer.id().clone()), ..ProducerOptions::new(MediaKind::Audio, opus()) };
    assert!(matches!(transport.produce(again).await, Err(MediaError::DuplicateId(_))));
    // Two streams of one SSRC cannot be told apart: the worker says so, and nothing is left of the attempt.
    let same_ssrc = transport.produce(ProducerOptions::new(MediaKind::Audio, opus())).await.unwrap_err();
    assert!(matches!(same_ssrc, MediaError::Refused { .. }), "{same_ssrc}");
    assert_eq!(stage.worker.object_counts().producers, 1);
    let unknown = ConsumerOptions::new(ProducerId::random(), capabilities(&stage.router));
    assert!(matches!(transport.consume(unknown).await, Err(MediaError::NoSuchProducer(_))));
    let deaf = ConsumerOptions::new(producer.id().clone(), Arc::default());
    assert!(matches!(transport.consume(deaf).await, Err(MediaError::Negotiation(_))));
    assert!(matches!(
        transport.produce(ProducerOptions::new(MediaKind::Audio, vp8_simulcast())).await,
        Err(MediaError::Negotiation(_))
    ));
    stage.worker.close().await;
}

#[tokio::test]
async fn observers_take_producers() {
    let stage = Stage::new().await;
    let transport = stage.transport().await;
    let producer = produce_audio(&transport).await;
    let observer =
        stage.router.create_audio_level_observer(AudioLevelObserverOptions::default()).await.unwrap();
    observer.add_producer(producer.id()).await.unwrap();
    assert_eq!(stage.router.dump().await.unwrap().rtp_observer_ids, [observer.id().as_str()]);
    observer.remove_producer(producer.id()).await.unwrap();
    observer.close().await.unwrap();
    stage.worker.close().await;
}

#[tokio::test]
async fn dropped_handles_leave_nothing_behind() {
    let stage = Stage::new().await;
    let transport = stage.transport().await;
    for _ in 0..20 {
        let receiving = stage.transport().await;
        let producer = produce_audio(&transport).await;
        let options = ConsumerOptions::new(producer.id().clone(), capabilities(&stage.router));
        receiving.consume(options).await.unwrap();
        producer.close().await.unwrap();
    }
    drop(transport);
    // Closing in the background ends with the worker's answer, of which nobody hears: it is asked until it is so.
    let emptied = async {
        while !stage.router.dump().await.unwrap().transport_ids.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), emptied).await.unwrap();
    assert_eq!(stage.worker.object_counts().transports, 0);
    stage.worker.close().await;
}

#[tokio::test]
async fn a_port_in_use_is_refused() {
    let stage = Stage::new().await;
    let port = stage.server.dump().await.unwrap().udp_sockets[0].port;
    let listen = media::ListenInfo::new(TransportProtocol::Udp, [127, 0, 0, 1].into(), port);
    let other = Worker::spawn(&WorkerSettings::new(binary())).await.unwrap();
    let refused = other.create_web_rtc_server(&[listen]).await.unwrap_err();
    assert!(
        matches!(refused, MediaError::Refused { kind: RefusalKind::Other | RefusalKind::Type, .. }),
        "{refused}"
    );
    other.close().await;
    stage.worker.close().await;
}

#[tokio::test]
async fn a_room_hears_of_its_workers_death_and_finds_another_place_within_a_second() {
    // A port that was free a moment ago: the respawned worker must bind it again.
    let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let pool = WorkerPool::start(one_worker(Some(port))).await.unwrap();
    let (events, mut received) = event_queue(64);
    let options =
        || RouterOptions { id: None, media_codecs: ortc::default_media_codecs(), events: events.clone() };
    let placed = pool.place().await.unwrap();
    let router = placed.worker.create_router(options()).await.unwrap();
    let transport = WebRtcTransportOptions::new(WebRtcListen::Server(placed.web_rtc_server.clone()));
    let lost = router.create_web_rtc_transport(transport).await.unwrap();

    let killed = std::time::Instant::now();
    let kill = Command::new("kill").args(["-9", &placed.worker.pid().to_string()]).status().unwrap();
    assert!(kill.success());
    let Some(MediaEvent::WorkerDied { id, exit }) = received.recv().await else {
        panic!("no word of the death")
    };
    assert_eq!((&id, exit.to_string().contains('9')), (router.id(), true));
    assert!(router.is_closed() && lost.is_closed());
    assert_eq!(placed.worker.lost().transports, 1);

    let next = pool.place().await.unwrap();
    next.worker.create_router(options()).await.unwrap();
    let absent = killed.elapsed();
    println!("from kill -9 to a Router on the next worker: {} ms", absent.as_millis());
    assert!(absent < Duration::from_secs(1), "{absent:?}");
    assert_eq!(next.web_rtc_server.dump().await.unwrap().udp_sockets[0].port, port);
    pool.close().await;
}

#[tokio::test]
async fn a_worker_that_lives_but_does_not_answer_is_replaced() {
    let pool = WorkerPool::start(one_worker(None)).await.unwrap();
    let mut events = pool.events();
    let stopped = pool.place().await.unwrap().worker.pid();
    assert!(Command::new("kill").args(["-STOP", &stopped.to_string()]).status().unwrap().success());
    let deaths = async {
        loop {
            if let PoolEvent::WorkerDied { pid, .. } = events.recv().await.unwrap() {
                return pid;
            }
        }
    };
    let died = tokio::time::timeout(Duration::from_secs(20), deaths).await.unwrap();
    assert_eq!(died, stopped);
    assert_ne!(pool.place().await.unwrap().worker.pid(), stopped);
    pool.close().await;
}
