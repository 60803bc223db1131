//! Observers through the channel: requests in, RTP in through a DirectTransport, notifications out, on virtual time.

use mio::Poll;
use worker_protocol::framing::{self, Decoder, Encoder};
use worker_protocol::wire::{
    direct_transport, message, producer, router as router_wire, rtp_observer, transport,
    worker as worker_wire,
};

use super::*;
use crate::settings::Settings;

const ROUTER: &str = "router";
const TRANSPORT: &str = "transport";
const VOLUMES: &str = "volumes";
const SPEAKER: &str = "speaker";

/// The header extension that carries levels.
const LEVEL_ID: u8 = 10;
const PAYLOAD_TYPE: u8 = 100;

/// What the driver read, as far as these tests ask.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Volumes(Vec<(String, i8)>),
    Silence,
    Dominant(String),
}

struct Driver {
    worker: Worker,
    decoder: Decoder,
    now: Instant,
    request_id: u32,
    heard: Vec<Heard>,
    sequence: u16,
    _poll: Poll,
}

impl Driver {
    /// A Router with a DirectTransport and an observer of either kind, that watch these audio Producers.
    fn new(producers: &[&str]) -> Self {
        let poll = Poll::new().unwrap();
        let registry = poll.registry().try_clone().unwrap();
        let worker = Worker::new(&Settings::default(), registry, 1, "test").unwrap();
        let mut driver = Self {
            worker,
            decoder: Decoder::default(),
            now: Instant::now(),
            request_id: 0,
            heard: Vec::new(),
            sequence: 0,
            _poll: poll,
        };
        let router = worker_wire::CreateRouterRequest { router_id: ROUTER.to_owned() };
        driver.ask(
            "",
            Method::WorkerCreateRouter,
            request::Body::WorkerCreateRouterRequest(Box::new(router)),
        );
        let transport = router_wire::CreateDirectTransportRequest {
            transport_id: TRANSPORT.to_owned(),
            options: Box::new(direct_transport::DirectTransportOptions {
                base: Box::new(transport::Options {
                    direct: true,
                    initial_available_outgoing_bitrate: None,
                    enable_sctp: false,
                    max_send_message_size: 0,
                    max_receive_message_size: 0,
                    sctp_send_buffer_size: 0,
                    sctp_per_stream_send_queue_limit: 0,
                    sctp_max_receiver_window_buffer_size: 0,
                    sctp_default_stream_buffered_amount_low_threshold: 0,
                    is_data_channel: false,
                }),
            }),
        };
        let body = request::Body::RouterCreateDirectTransportRequest(Box::new(transport));
        driver.ask(ROUTER, Method::RouterCreateDirectTransport, body);
        driver.create_level_observer(-80).unwrap();
        driver.create_speaker_observer().unwrap();
        for (position, producer) in producers.iter().enumerate() {
            driver.produce(producer, position, rtp::MediaKind::Audio);
            driver.add(VOLUMES, producer).unwrap();
            driver.add(SPEAKER, producer).unwrap();
        }
        driver
    }

    fn try_ask(
        &mut self,
        handler: &str,
        method: Method,
        body: Option<request::Body>,
    ) -> Result<Option<response::Body>, (String, String)> {
        self.request_id += 1;
        let id = self.request_id;
        let request = request::Request { id, method, handler_id: handler.to_owned(), body };
        self.send(message::Body::Request(Box::new(request)));
        let response = self.read().expect("every request is answered");
        assert_eq!(response.id, id);
        if response.accepted {
            return Ok(response.body);
        }
        Err((response.error.unwrap(), response.reason.unwrap()))
    }

    fn ask(&mut self, handler: &str, method: Method, body: request::Body) {
        self.try_ask(handler, method, Some(body)).unwrap();
    }

    fn send(&mut self, body: message::Body) {
        let mut bytes = Vec::new();
        Encoder::default().append(message::Message { data: body }, &mut bytes);
        self.worker.handle_message(&bytes[framing::PREFIX_BYTES..], self.now);
    }

    /// Reads what the worker said; returns the response among it.
    fn read(&mut self) -> Option<response::Response> {
        self.decoder.push(&std::mem::take(&mut self.worker.outbox.pending));
        let mut answer = None;
        while let Some(bytes) = self.decoder.poll().unwrap() {
            let message = message::Message::try_from(framing::read(bytes).unwrap()).unwrap();
            match message.data {
                message::Body::Response(response) => answer = Some(*response),
                message::Body::Notification(notification) => self.heard.extend(heard(*notification)),
                _ => {}
            }
        }
        answer
    }

    fn create_level_observer(&mut self, threshold: i8) -> Result<Option<response::Body>, (String, String)> {
        let options = level_wire::AudioLevelObserverOptions { max_entries: 2, threshold, interval: 1000 };
        let body = router_wire::CreateAudioLevelObserverRequest {
            rtp_observer_id: VOLUMES.to_owned(),
            options: Box::new(options),
        };
        let body = request::Body::RouterCreateAudioLevelObserverRequest(Box::new(body));
        self.try_ask(ROUTER, Method::RouterCreateAudioLevelObserver, Some(body))
    }

    fn create_speaker_observer(&mut self) -> Result<Option<response::Body>, (String, String)> {
        let body = router_wire::CreateActiveSpeakerObserverRequest {
            rtp_observer_id: SPEAKER.to_owned(),
            options: Box::new(speaker_wire::ActiveSpeakerObserverOptions { interval: 300 }),
        };
        let body = request::Body::RouterCreateActiveSpeakerObserverRequest(Box::new(body));
        self.try_ask(ROUTER, Method::RouterCreateActiveSpeakerObserver, Some(body))
    }

    fn produce(&mut self, id: &str, position: usize, kind: rtp::MediaKind) {
        let ssrc = ssrc(position);
        let (mime_type, clock_rate, channels) = match kind {
            rtp::MediaKind::Audio => ("audio/opus", 48_000, Some(2)),
            rtp::MediaKind::Video => ("video/VP8", 90_000, None),
        };
        let parameters = rtp::RtpParameters {
            mid: None,
            codecs: vec![rtp::RtpCodecParameters {
                mime_type: mime_type.to_owned(),
                payload_type: PAYLOAD_TYPE,
                clock_rate,
                channels,
                parameters: None,
                rtcp_feedback: None,
            }],
            header_extensions: vec![rtp::RtpHeaderExtensionParameters {
                uri: rtp::RtpHeaderExtensionUri::SsrcAudioLevel,
                id: LEVEL_ID,
                encrypt: false,
                parameters: None,
            }],
            encodings: vec![rtp::RtpEncodingParameters {
                ssrc: Some(ssrc),
                rid: None,
                codec_payload_type: None,
                rtx: None,
                dtx: false,
                scalability_mode: None,
                max_bitrate: None,
            }],
            rtcp: Box::new(rtp::RtcpParameters { cname: Some("cname".to_owned()), reduced_size: true }),
            msid: None,
        };
        let mapping = rtp::RtpMapping {
            codecs: vec![rtp::CodecMapping { payload_type: PAYLOAD_TYPE, mapped_payload_type: PAYLOAD_TYPE }],
            encodings: vec![rtp::EncodingMapping { rid: None, ssrc: Some(ssrc), mapped_ssrc: ssrc + 1 }],
        };
        let body = transport::ProduceRequest {
            producer_id: id.to_owned(),
            kind,
            rtp_parameters: Box::new(parameters),
            rtp_mapping: Box::new(mapping),
            paused: false,
            key_frame_request_delay: 0,
            enable_mediasoup_packet_id_header_extension: false,
        };
        self.ask(TRANSPORT, Method::TransportProduce, request::Body::TransportProduceRequest(Box::new(body)));
    }

    fn add(&mut self, observer: &str, producer: &str) -> Result<Option<response::Body>, (String, String)> {
        let body = rtp_observer::AddProducerRequest { producer_id: producer.to_owned() };
        let body = request::Body::RtpObserverAddProducerRequest(Box::new(body));
        self.try_ask(observer, Method::RtpObserverAddProducer, Some(body))
    }

    fn remove(&mut self, observer: &str, producer: &str) -> Result<Option<response::Body>, (String, String)> {
        let body = rtp_observer::RemoveProducerRequest { producer_id: producer.to_owned() };
        let body = request::Body::RtpObserverRemoveProducerRequest(Box::new(body));
        self.try_ask(observer, Method::RtpObserverRemoveProducer, Some(body))
    }

    fn command(&mut self, handler: &str, method: Method) {
        self.try_ask(handler, method, None).unwrap();
    }

    fn close_producer(&mut self, producer: &str) {
        let body = transport::CloseProducerRequest { producer_id: producer.to_owned() };
        let body = request::Body::TransportCloseProducerRequest(Box::new(body));
        self.ask(TRANSPORT, Method::TransportCloseProducer, body);
    }

    fn close_observer(&mut self, observer: &str) -> Result<Option<response::Body>, (String, String)> {
        let body = router_wire::CloseRtpObserverRequest { rtp_observer_id: observer.to_owned() };
        let body = request::Body::RouterCloseRtpObserverRequest(Box::new(body));
        self.try_ask(ROUTER, Method::RouterCloseRtpObserver, Some(body))
    }

    fn router_dump(&mut self) -> router_wire::DumpResponse {
        match self.try_ask(ROUTER, Method::RouterDump, None) {
            Ok(Some(response::Body::RouterDumpResponse(dump))) => *dump,
            other => panic!("no dump but {other:?}"),
        }
    }

    /// `ms` pass, in which each of these Producers sends a packet of this level, in -dBov, every 20 ms.
    fn pass(&mut self, ms: u64, levels: &[(&str, usize, u8)]) -> Vec<Heard> {
        let end = self.now + Duration::from_millis(ms);
        while self.now < end {
            self.now += Duration::from_millis(20);
            self.sequence += 1;
            for (producer, position, level) in levels {
                let data = rtp_packet(ssrc(*position), self.sequence, *level);
                let notification = notification::Notification {
                    handler_id: (*producer).to_owned(),
                    event: notification::Event::ProducerSend,
                    body: Some(notification::Body::ProducerSendNotification(Box::new(
                        producer::SendNotification { data },
                    ))),
                };
                self.send(message::Body::Notification(Box::new(notification)));
            }
            self.worker.fire_timers(self.now);
        }
        self.read();
        std::mem::take(&mut self.heard)
    }
}

fn ssrc(position: usize) -> u32 {
    1000 + 10 * u32::try_from(position).unwrap()
}

fn heard(notification: notification::Notification) -> Option<Heard> {
    match (notification.event, notification.body) {
        (
            notification::Event::AudioLevelObserverVolumes,
            Some(notification::Body::AudioLevelObserverVolumesNotification(body)),
        ) => {
            assert_eq!(notification.handler_id, VOLUMES);
            Some(Heard::Volumes(
                body.volumes.into_iter().map(|entry| (entry.producer_id, entry.volume)).collect(),
            ))
        }
        (notification::Event::AudioLevelObserverSilence, None) => {
            assert_eq!(notification.handler_id, VOLUMES);
            Some(Heard::Silence)
        }
        (
            notification::Event::ActiveSpeakerObserverDominantSpeaker,
            Some(notification::Body::ActiveSpeakerObserverDominantSpeakerNotification(body)),
        ) => {
            assert_eq!(notification.handler_id, SPEAKER);
            Some(Heard::Dominant(body.producer_id))
        }
        _ => None,
    }
}

/// An Opus packet with the level in a one-byte header extension (RFC 8285).
fn rtp_packet(ssrc: u32, sequence: u16, level: u8) -> Vec<u8> {
    let mut packet = vec![0x90, PAYLOAD_TYPE];
    packet.extend(sequence.to_be_bytes());
    packet.extend((u32::from(sequence) * 960).to_be_bytes());
    packet.extend(ssrc.to_be_bytes());
    packet.extend([0xbe, 0xde, 0, 1, LEVEL_ID << 4, 0x80 | level, 0, 0]);
    packet.extend([0xfc; 40]);
    packet
}

fn volumes(of: &[(&str, i8)]) -> Heard {
    Heard::Volumes(of.iter().map(|(producer, volume)| ((*producer).to_owned(), *volume)).collect())
}

fn dominant(producer: &str) -> Heard {
    Heard::Dominant(producer.to_owned())
}

#[test]
fn levels_in_rtp_become_volumes_and_a_dominant_speaker() {
    let mut driver = Driver::new(&["ann", "bob"]);
    let heard = driver.pass(1000, &[("ann", 0, 110), ("bob", 1, 110)]);
    assert_eq!(heard, [dominant("ann")], "too quiet for volumes");
    let heard = driver.pass(1000, &[("ann", 0, 110), ("bob", 1, 20)]);
    assert_eq!(heard, [dominant("bob"), volumes(&[("bob", -20)])]);
    let heard = driver.pass(1000, &[("ann", 0, 60), ("bob", 1, 20)]);
    assert_eq!(heard, [volumes(&[("bob", -20), ("ann", -60)])]);
    let heard = driver.pass(2000, &[]);
    assert_eq!(heard, [Heard::Silence], "silence is told once, and dethrones nobody");
}

#[test]
fn packets_of_a_paused_producer_are_not_heard() {
    let mut driver = Driver::new(&["ann", "bob"]);
    driver.pass(1000, &[("ann", 0, 110), ("bob", 1, 110)]);
    driver.command("bob", Method::ProducerPause);
    assert_eq!(driver.pass(2000, &[("ann", 0, 110), ("bob", 1, 20)]), []);
    driver.command("bob", Method::ProducerResume);
    let heard = driver.pass(2000, &[("ann", 0, 110), ("bob", 1, 20)]);
    assert!(heard.contains(&volumes(&[("bob", -20)])), "{heard:?}");
    assert!(heard.contains(&dominant("bob")), "{heard:?}");
}

#[test]
fn a_paused_observer_says_nothing_until_it_is_resumed() {
    let mut driver = Driver::new(&["ann"]);
    assert_eq!(driver.pass(1000, &[("ann", 0, 20)]), [dominant("ann"), volumes(&[("ann", -20)])]);
    driver.command(VOLUMES, Method::RtpObserverPause);
    driver.command(VOLUMES, Method::RtpObserverPause);
    assert_eq!(driver.pass(2000, &[("ann", 0, 20)]), [Heard::Silence]);
    driver.command(VOLUMES, Method::RtpObserverResume);
    driver.command(VOLUMES, Method::RtpObserverResume);
    assert_eq!(driver.pass(980, &[("ann", 0, 20)]), [], "the interval starts over");
    assert_eq!(driver.pass(20, &[("ann", 0, 20)]), [volumes(&[("ann", -20)])]);
}

#[test]
fn who_is_removed_is_not_heard() {
    let mut driver = Driver::new(&["ann"]);
    driver.remove(VOLUMES, "ann").unwrap();
    driver.remove(VOLUMES, "ann").unwrap();
    driver.remove(SPEAKER, "ann").unwrap();
    assert_eq!(driver.pass(2000, &[("ann", 0, 20)]), []);
}

#[test]
fn the_dominant_producers_end_makes_room_for_another_at_once() {
    let mut driver = Driver::new(&["ann", "bob"]);
    assert_eq!(driver.pass(300, &[]), [dominant("ann")]);
    driver.close_producer("ann");
    driver.read();
    assert_eq!(driver.heard, [dominant("bob")]);
    let dump = driver.router_dump();
    assert_eq!(dump.map_producer_id_observer_ids.len(), 1);
}

#[test]
fn the_router_dump_shows_who_watches_whom() {
    let mut driver = Driver::new(&["ann"]);
    let dump = driver.router_dump();
    assert_eq!(dump.rtp_observer_ids, [VOLUMES, SPEAKER]);
    let [entry] = dump.map_producer_id_observer_ids.as_slice() else { panic!("{dump:?}") };
    assert_eq!(
        (entry.key.as_str(), entry.values.as_slice()),
        ("ann", &[VOLUMES.to_owned(), SPEAKER.to_owned()][..])
    );
    driver.close_observer(VOLUMES).unwrap();
    let dump = driver.router_dump();
    assert_eq!(dump.rtp_observer_ids, [SPEAKER]);
    let [entry] = dump.map_producer_id_observer_ids.as_slice() else { panic!("{dump:?}") };
    assert_eq!(entry.values, [SPEAKER]);
    let heard = driver.pass(2000, &[("ann", 0, 20)]);
    assert_eq!(heard, [dominant("ann")], "the closed one is silent for good");
}

#[test]
fn wrong_requests_are_refused_and_change_nothing() {
    let mut driver = Driver::new(&["ann"]);
    let name = |result: Result<Option<response::Body>, (String, String)>| result.unwrap_err().0;
    assert_eq!(name(driver.add(VOLUMES, "nobody")), "NotFoundError");
    assert_eq!(name(driver.remove(VOLUMES, "nobody")), "NotFoundError");
    assert_eq!(name(driver.add(SPEAKER, "ann")), "Error", "twice");
    assert!(driver.add(VOLUMES, "ann").is_ok(), "twice is harmless here");
    driver.produce("screen", 7, rtp::MediaKind::Video);
    assert_eq!(name(driver.add(VOLUMES, "screen")), "TypeError");
    assert_eq!(name(driver.add(SPEAKER, "screen")), "TypeError");
    assert_eq!(name(driver.create_level_observer(-80)), "Error", "the id is taken");
    driver.close_observer(VOLUMES).unwrap();
    assert_eq!(name(driver.close_observer(VOLUMES)), "NotFoundError");
    assert_eq!(name(driver.create_level_observer(1)), "TypeError");
    let dump = driver.router_dump();
    assert_eq!(dump.rtp_observer_ids, [SPEAKER]);
    assert!(
        dump.map_producer_id_observer_ids.iter().all(|entry| entry.key == "ann" || entry.values.is_empty())
    );
}

#[test]
fn closing_the_router_leaves_no_observer_and_no_timer() {
    let mut driver = Driver::new(&["ann", "bob"]);
    driver.pass(1000, &[("ann", 0, 20), ("bob", 1, 20)]);
    let body = worker_wire::CloseRouterRequest { router_id: ROUTER.to_owned() };
    driver.ask("", Method::WorkerCloseRouter, request::Body::WorkerCloseRouterRequest(Box::new(body)));
    assert_eq!(driver.heard, [], "nobody is told: the driver closed it");
    assert!(driver.worker.observers.is_empty());
    assert!(driver.worker.handlers.is_empty());
    assert_eq!(driver.pass(2000, &[]), []);
    assert_eq!(driver.worker.timers.next_deadline(), None);
}
