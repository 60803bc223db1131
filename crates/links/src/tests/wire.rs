//! Every message survives the way over the wire.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use cluster::keeper::Refusal;
use cluster::lease::{Epoch, Term};
use cluster::node::Incarnation;
use host::{ConnectError, FromClient, Loss, Move, NotResumed, Resumed, ToClient};
use ortc::{ConsumerType, MediaKind, ParameterValue, RtpParameters, SctpStreamParameters};
use room::{
    AskId, Comer, Consumed, ConsumerId, DataConsumerId, DataProducerId, Device, DownlinkBandwidth, Layers,
    Notification, PeerId, PeerInfo, PeerProducers, PlainTransportInfo, ProducerId, ProducerInfo, Receives,
    Reply, Request, RequestId, RoomError, ServerRequest, SessionId, TransportId, TransportInfo,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::fake::{id, room};
use crate::error::{OpenRefused, Policy};
use crate::wire::{Down, Hello, OpenSession, Resume, Up, Welcome};

fn survives<T: Serialize + DeserializeOwned + PartialEq + Debug>(message: T) {
    let text = serde_json::to_string(&message).expect("written");
    assert_eq!(serde_json::from_str::<T>(&text).expect(&text), message, "{text}");
}

/// Fails to compile when the enum has a variant that is not listed here, and to pass when one is not made below.
macro_rules! all {
    ($made:expr, $enum:ident { $($variant:ident),+ $(,)? }) => {{
        let made = $made;
        let name = |message: &$enum| match message { $($enum::$variant { .. } => stringify!($variant)),+ };
        for variant in [$(stringify!($variant)),+] {
            assert!(made.iter().any(|message| name(message) == variant), "{variant} is not made");
        }
        made
    }};
}

/// What a client may send, of each shape.
fn app_data() -> Value {
    json!({ "source": "mic", "null": null, "n": -1, "big": u64::MAX, "f": 0.1, "list": [1, "a", [], {}], "": { "ü": "\u{0}" } })
}

fn rtp() -> RtpParameters {
    let mut rtp: RtpParameters = serde_json::from_value(json!({
        "mid": "0", "msid": "a b",
        "codecs": [
            { "mimeType": "video/H264", "payloadType": 107, "clockRate": 90000, "parameters": {
                "packetization-mode": 1, "profile-level-id": "42e01f" },
              "rtcpFeedback": [{ "type": "nack" }, { "type": "nack", "parameter": "pli" }] },
            { "mimeType": "video/rtx", "payloadType": 108, "clockRate": 90000, "parameters": { "apt": 107 } }],
        "headerExtensions": [{ "uri": "urn:x", "id": 4, "encrypt": true, "parameters": {} }],
        "encodings": [{ "ssrc": 5, "rtx": { "ssrc": 6 }, "scalabilityMode": "L1T3", "maxBitrate": 300000, "dtx": true },
            { "rid": "r1", "codecPayloadType": 107 }],
        "rtcp": { "cname": "c", "reducedSize": false },
    }))
    .expect("parameters");
    rtp.codecs[0].parameters = BTreeMap::from([
        ("boolean".to_owned(), ParameterValue::Boolean(true)),
        ("integer".to_owned(), ParameterValue::Integer(-7)),
        ("number".to_owned(), ParameterValue::Number(0.25)),
        ("whole".to_owned(), ParameterValue::Number(3.0)),
        ("large".to_owned(), ParameterValue::Number(1e12)),
        ("text".to_owned(), ParameterValue::Text("1".to_owned())),
        ("integers".to_owned(), ParameterValue::Integers(vec![1, 2])),
        ("other".to_owned(), ParameterValue::Other(json!({ "a": [null] }))),
        ("null".to_owned(), ParameterValue::Other(Value::Null)),
    ]);
    rtp
}

fn stream() -> SctpStreamParameters {
    serde_json::from_value(json!({ "streamId": 3, "ordered": false, "maxRetransmits": 2 }))
        .expect("parameters")
}

fn peer() -> PeerInfo {
    let device = Device { flag: Some("chrome".to_owned()), name: None, version: Some(String::new()) };
    PeerInfo {
        id: PeerId::parse("ann@example.org").expect("id"),
        display_name: "Ann 会".to_owned(),
        device,
        remote_address: "fe80::1".parse().ok(),
    }
}

fn transport() -> TransportInfo {
    serde_json::from_value(json!({
        "id": "t", "ice_parameters": { "usernameFragment": "u", "password": "p", "iceLite": true },
        "ice_candidates": [
            { "foundation": "f", "priority": 1, "ip": "::1", "address": "::1", "protocol": "udp", "port": 9, "type": "host" },
            { "foundation": "f", "priority": 1, "ip": "a.b", "address": "a.b", "protocol": "tcp", "port": 9, "type": "host",
              "tcpType": "passive" }],
        "dtls_parameters": { "role": "auto", "fingerprints": [{ "algorithm": "sha-256", "value": "AA:BB" }] },
        "sctp_parameters": null,
    }))
    .expect("transport")
}

#[test]
fn every_request() {
    let transport = TransportId::new("t");
    let (producer, consumer) = (ProducerId::new("p"), ConsumerId::new("c"));
    let capabilities = Arc::new(ortc::supported_rtp_capabilities());
    let made = all!(
        vec![
            Request::RouterRtpCapabilities,
            Request::CreateWebRtcTransport {
                force_tcp: true,
                producing: false,
                consuming: true,
                data: true,
                bandwidth: true
            },
            Request::ConnectWebRtcTransport {
                transport: transport.clone(),
                dtls_parameters: self::transport().dtls_parameters
            },
            Request::RestartIce { transport: transport.clone() },
            Request::Join {
                display_name: "a".into(),
                device: Device::default(),
                rtp_capabilities: Some(capabilities.clone()),
                remote_address: None,
                receives: Receives::Offered,
                migrates: true,
            },
            Request::Join {
                display_name: String::new(),
                device: peer().device,
                rtp_capabilities: None,
                remote_address: peer().remote_address,
                receives: Receives::OnRequest,
                migrates: false,
            },
            Request::CreatePlainTransport { rtcp_mux: true, comedia: false },
            Request::ConnectPlainTransport {
                transport: transport.clone(),
                ip: "192.0.2.1".parse().ok(),
                port: Some(5000),
                rtcp_port: None,
            },
            Request::Consume {
                transport: transport.clone(),
                producer: producer.clone(),
                rtp_capabilities: Some(capabilities),
                paused: true,
            },
            Request::ConsumeData { transport: transport.clone(), data_producer: DataProducerId::new("d") },
            Request::PeerProducers,
            Request::Produce {
                transport: transport.clone(),
                kind: MediaKind::Video,
                rtp_parameters: Box::new(rtp()),
                app_data: app_data(),
                replaces: Some(producer.clone()),
            },
            Request::ProduceData {
                transport: transport.clone(),
                stream: stream(),
                label: "l".into(),
                protocol: String::new(),
                app_data: Value::Null,
                replaces: None,
            },
            Request::Migrated,
            Request::CloseProducer(producer.clone()),
            Request::PauseProducer(producer.clone()),
            Request::ResumeProducer(producer.clone()),
            Request::PauseConsumer(consumer.clone()),
            Request::ResumeConsumer(consumer.clone()),
            Request::RequestConsumerKeyFrame(consumer.clone()),
            Request::SetConsumerPreferredLayers(consumer.clone(), Layers { spatial: 2, temporal: None }),
            Request::SetConsumerPriority(consumer.clone(), 255),
            Request::ChangeDisplayName("b".into()),
            Request::TransportStats(transport),
            Request::ProducerStats(producer),
            Request::ConsumerStats(consumer),
            Request::DataProducerStats(DataProducerId::new("d")),
            Request::DataConsumerStats(DataConsumerId::new("e")),
        ],
        Request {
            RouterRtpCapabilities,
            CreateWebRtcTransport,
            ConnectWebRtcTransport,
            RestartIce,
            Join,
            CreatePlainTransport,
            ConnectPlainTransport,
            Consume,
            ConsumeData,
            PeerProducers,
            Produce,
            ProduceData,
            Migrated,
            CloseProducer,
            PauseProducer,
            ResumeProducer,
            PauseConsumer,
            ResumeConsumer,
            RequestConsumerKeyFrame,
            SetConsumerPreferredLayers,
            SetConsumerPriority,
            ChangeDisplayName,
            TransportStats,
            ProducerStats,
            ConsumerStats,
            DataProducerStats,
            DataConsumerStats,
        }
    );
    for message in made {
        survives(Up::Say(FromClient::Request { request: RequestId(u64::MAX), message }));
    }
    survives(Up::Say(FromClient::Answer { ask: AskId(1), accepted: false }));
    let term = Term { epoch: Epoch(u64::MAX), node: id("m1") };
    let peer = peer().id;
    survives(Up::Say(FromClient::Received(u64::MAX)));
    survives(Up::Say(FromClient::Leave));
    let resume = Some(Resume { token: "t".into(), received: u64::MAX });
    let open =
        OpenSession { room: room("R 7"), comer: Comer::new(peer), term, stays: true, resume, attach: None };
    survives(Up::Open(OpenSession { resume: None, attach: Some(SessionId(u64::MAX)), ..open.clone() }));
    survives(Up::Open(open));
    survives(Up::Say(FromClient::Held));
}

#[test]
fn everything_a_room_says() {
    let replies = all!(
        vec![
            Reply::Done,
            Reply::RouterRtpCapabilities(Arc::new(ortc::supported_rtp_capabilities())),
            Reply::Transport(Box::new(transport())),
            Reply::IceParameters(transport().ice_parameters),
            Reply::Joined(vec![peer(), peer()]),
            Reply::Joined(Vec::new()),
            Reply::Produced(ProducerId::new("p")),
            Reply::DataProduced(DataProducerId::new("d")),
            Reply::Stats(json!([{ "bitrate": 1.5 }])),
            Reply::PlainTransport(PlainTransportInfo {
                id: TransportId::new("t"),
                ip: "a.b".into(),
                port: 1,
                rtcp_port: Some(2)
            }),
            Reply::Consumed(Box::new(Consumed {
                id: ConsumerId::new("c"),
                producer: ProducerId::new("p"),
                kind: MediaKind::Audio,
                rtp_parameters: Arc::new(rtp()),
                consumer_type: ConsumerType::Simulcast,
            })),
            Reply::DataConsumed(DataConsumerId::new("e"), stream()),
            Reply::PeerProducers(vec![PeerProducers {
                peer: peer(),
                producers: vec![ProducerInfo {
                    id: ProducerId::new("p"),
                    kind: MediaKind::Video,
                    source: "screen".into(),
                    consumable: Arc::new(rtp()),
                }],
            }]),
        ],
        Reply {
            Done,
            RouterRtpCapabilities,
            Transport,
            IceParameters,
            Joined,
            Produced,
            DataProduced,
            Stats,
            PlainTransport,
            Consumed,
            DataConsumed,
            PeerProducers,
        }
    );
    let errors = all!(
        vec![
            RoomError::NotJoined,
            RoomError::AlreadyJoined,
            RoomError::NotFound { what: "producer".into(), id: "p".into() },
            RoomError::NotHere { what: "producer".into(), id: "p".into() },
            RoomError::TransportExists { direction: "send".into(), id: "t".into() },
            RoomError::NotASendTransport { id: "t".into() },
            RoomError::NotAllowed { role: "r".into(), kind: "audio".into(), source_name: "mic".into() },
            RoomError::Limit { what: "x".into(), limit: 3 },
            RoomError::Invalid("x".into()),
            RoomError::Unsupported("x".into()),
            RoomError::Unavailable("x".into()),
            RoomError::Internal("x".into()),
        ],
        RoomError {
            NotJoined,
            AlreadyJoined,
            NotFound,
            NotHere,
            TransportExists,
            NotASendTransport,
            NotAllowed,
            Limit,
            Invalid,
            Unsupported,
            Unavailable,
            Internal,
        }
    );
    let (producer, consumer, peer_id) = (ProducerId::new("p"), ConsumerId::new("c"), peer().id);
    let (data_producer, data_consumer) = (DataProducerId::new("d"), DataConsumerId::new("e"));
    let news = all!(
        vec![
            Notification::NewPeer(peer()),
            Notification::PeerClosed(peer_id.clone()),
            Notification::PeerDisplayNameChanged {
                peer: peer_id.clone(),
                display_name: "a".into(),
                old_display_name: "b".into()
            },
            Notification::ProducerScore { producer: producer.clone(), score: json!([{ "score": 10 }]) },
            Notification::ConsumerClosed(consumer.clone()),
            Notification::DataConsumerClosed(data_consumer.clone()),
            Notification::ConsumerPaused(consumer.clone()),
            Notification::ConsumerResumed(consumer.clone()),
            Notification::ConsumerScore {
                consumer: consumer.clone(),
                score: json!({ "producerScores": [1, 2] })
            },
            Notification::ConsumerLayersChanged { consumer: consumer.clone(), layers: None },
            Notification::ConsumerLayersChanged {
                consumer: consumer.clone(),
                layers: Some(Layers { spatial: 1, temporal: Some(0) })
            },
            Notification::Migrate { within_ms: 10_000 },
            Notification::Speakers(Vec::new()),
            Notification::Speakers(vec![(peer_id.clone(), -127)]),
            Notification::DownlinkBandwidth(DownlinkBandwidth {
                desired: u64::MAX,
                effective_desired: 1,
                available: 0
            }),
        ],
        Notification {
            NewPeer,
            PeerClosed,
            PeerDisplayNameChanged,
            ProducerScore,
            ConsumerClosed,
            DataConsumerClosed,
            ConsumerPaused,
            ConsumerResumed,
            ConsumerScore,
            ConsumerLayersChanged,
            Speakers,
            DownlinkBandwidth,
            Migrate,
        }
    );
    let asks = all!(
        vec![
            ServerRequest::NewConsumer {
                peer: peer_id.clone(),
                producer,
                id: consumer,
                transport: TransportId::new("t"),
                kind: MediaKind::Audio,
                rtp_parameters: Arc::new(rtp()),
                consumer_type: ConsumerType::Svc,
                app_data: Arc::new(app_data()),
                source: "mic".into(),
                producer_paused: true,
                score: json!({ "score": 10 }),
                replaces: Some(ConsumerId::new("c0")),
            },
            ServerRequest::NewDataConsumer {
                peer: peer_id,
                data_producer,
                id: data_consumer,
                transport: TransportId::new("t"),
                stream: stream(),
                label: "l".into(),
                protocol: "p".into(),
                app_data: Arc::new(Value::Null),
                replaces: None,
            },
        ],
        ServerRequest { NewConsumer, NewDataConsumer }
    );
    let mut all_said = vec![
        ToClient::Close { code: 4000, reason: "enough".into() },
        ToClient::Lost(Loss::Unreachable),
        ToClient::Lost(Loss::Superseded),
    ];
    let reply = |result| ToClient::Reply { request: RequestId(1), result };
    all_said.extend(replies.into_iter().map(|done| reply(Ok(done))));
    all_said.extend(errors.into_iter().map(|error| reply(Err(error))));
    let to = Move::To { epoch: u64::MAX, node: "m2".to_owned() };
    all_said.extend([Move::Freeze, Move::Stay, to].map(ToClient::Move));
    all_said.extend(news.into_iter().map(ToClient::Notify));
    all_said.extend(asks.into_iter().map(|request| ToClient::Ask { ask: AskId(2), request }));
    for message in all!(all_said, ToClient { Reply, Notify, Ask, Close, Lost, Move }) {
        survives(Down::Say { epoch: Epoch(1), message });
    }
    survives(Down::Opened { session: SessionId(1), epoch: Epoch(2), token: None, resumed: None });
    let resumed = Some(Resumed { joined: true, asks: vec![AskId(1), AskId(2)] });
    survives(Down::Opened { session: SessionId(1), epoch: Epoch(2), token: Some("t".into()), resumed });
    for why in [
        NotResumed::Token,
        NotResumed::OtherRoom,
        NotResumed::OtherPeer,
        NotResumed::StaleTerm,
        NotResumed::Gone,
        NotResumed::Missed,
        NotResumed::Unreachable,
    ] {
        survives(Down::Refused(OpenRefused::NotResumed(why)));
    }
    survives(Down::TooSlow);
}

#[test]
fn every_refusal() {
    let term = Term { epoch: Epoch(1), node: id("m1") };
    for refused in [
        OpenRefused::NotHere { newest: Some(term) },
        OpenRefused::NotHere { newest: None },
        OpenRefused::NotNow(Refusal::CutOff),
        OpenRefused::Full(ConnectError::Rooms(3)),
        OpenRefused::Full(ConnectError::ShuttingDown),
    ] {
        survives(Down::Refused(refused));
    }
    let (node, seen) = (id("m1"), Incarnation(1));
    for policy in [
        Policy::Certificate("x".to_owned()),
        Policy::Name { node: node.clone(), names: vec!["a".to_owned()] },
        Policy::Node { wanted: node.clone(), found: node.clone() },
        Policy::Cluster { ours: "a".to_owned(), theirs: "b".to_owned() },
        Policy::Protocol { ours: 1, theirs: 0 },
        Policy::Incarnation { node: node.clone(), theirs: seen, seen },
        Policy::Plaintext,
        Policy::Hello,
    ] {
        survives(Welcome::Refused(policy));
    }
    // What a later version adds to a hello does not keep an earlier from reading which version it is.
    let later = json!({ "protocol": 9, "cluster": "c", "node": "n", "incarnation": 1, "more": { "x": 1 } });
    assert_eq!(serde_json::from_value::<Hello>(later).map(|hello| hello.protocol).ok(), Some(9));
}
