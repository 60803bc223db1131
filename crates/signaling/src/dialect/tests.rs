//! A classic client's whole session, sentence by sentence: what it sends is understood, what it is told has the
//! fields it reads. Written from the facts of the wire, not from what the code does.

use std::sync::Arc;

use proptest::prelude::*;
use room::{
    ConsumerId, Device, Layers, Notification, PeerId, PeerInfo, ProducerId, Receives, Reply, Request,
    ServerRequest, TransportId, TransportInfo,
};
use serde_json::{Value, json};

use super::*;

fn ask(method: &str, data: Value) -> Result<Request, DialectError> {
    parse_request(method, data, &mut Dialect::Classic)
}

fn opus() -> Value {
    json!({
        "codecs": [{ "mimeType": "audio/opus", "payloadType": 111, "clockRate": 48000, "channels": 2,
            "parameters": { "minptime": 10, "useinbandfec": 1 }, "rtcpFeedback": [{ "type": "transport-cc", "parameter": "" }] }],
        "headerExtensions": [{ "uri": "urn:ietf:params:rtp-hdrext:sdes:mid", "id": 4, "encrypt": false, "parameters": {} }],
        "encodings": [{ "ssrc": 1234, "dtx": false }],
        "rtcp": { "cname": "c", "reducedSize": true },
        "mid": "0",
    })
}

fn contains(actual: &Value, expected: &Value) {
    for (key, value) in expected.as_object().expect("object") {
        assert_eq!(actual.get(key), Some(value), "{key} in {actual}");
    }
}

#[test]
fn a_classic_client_is_understood_from_start_to_end() {
    assert_eq!(ask("getRouterRtpCapabilities", json!({})), Ok(Request::RouterRtpCapabilities));
    // Android sends an empty string for SCTP.
    let create = json!({ "forceTcp": false, "producing": true, "consuming": false, "sctpCapabilities": "" });
    assert_eq!(
        ask("createWebRtcTransport", create),
        Ok(Request::CreateWebRtcTransport {
            force_tcp: false,
            producing: true,
            consuming: false,
            data: false,
            bandwidth: false,
        })
    );
    let fingerprint = json!({ "algorithm": "sha-256", "value": "AB:CD" });
    let connect =
        json!({ "transportId": "t1", "dtlsParameters": { "role": "client", "fingerprints": [fingerprint] } });
    let Ok(Request::ConnectWebRtcTransport { transport, dtls_parameters }) =
        ask("connectWebRtcTransport", connect)
    else {
        panic!("not understood");
    };
    assert_eq!((transport.as_str(), dtls_parameters.fingerprints.len()), ("t1", 1));
    let join = json!({
        "displayName": "Ann", "device": { "flag": "chrome", "name": "Chrome", "version": 120, "os": "x" },
        "rtpCapabilities": { "codecs": [], "headerExtensions": [] }, "sctpCapabilities": { "numStreams": { "OS": 1, "MIS": 1 } },
    });
    let Ok(Request::Join {
        display_name,
        device,
        rtp_capabilities,
        remote_address: None,
        receives: Receives::Offered,
        migrates: false,
    }) = ask("join", join)
    else {
        panic!("not understood");
    };
    let expected = Device { flag: Some("chrome".into()), name: Some("Chrome".into()), version: None };
    assert_eq!((display_name.as_str(), device), ("Ann", expected));
    assert!(rtp_capabilities.is_some());
    // A broadcaster or an old device says little.
    let Ok(Request::Join { rtp_capabilities: None, .. }) = ask("join", json!({ "displayName": "B" })) else {
        panic!("not understood");
    };
    let produce = json!({ "transportId": "t1", "kind": "audio", "rtpParameters": opus(), "appData": { "source": "mic" } });
    assert!(matches!(ask("produce", produce), Ok(Request::Produce { app_data: Value::Object(_), .. })));
    for (method, data, expected) in [
        (
            "restartIce",
            json!({ "transportId": "t" }),
            Request::RestartIce { transport: TransportId::new("t") },
        ),
        ("closeProducer", json!({ "producerId": "p" }), Request::CloseProducer(ProducerId::new("p"))),
        ("pauseProducer", json!({ "producerId": "p" }), Request::PauseProducer(ProducerId::new("p"))),
        ("resumeProducer", json!({ "producerId": "p" }), Request::ResumeProducer(ProducerId::new("p"))),
        ("pauseConsumer", json!({ "consumerId": "c" }), Request::PauseConsumer(ConsumerId::new("c"))),
        ("resumeConsumer", json!({ "consumerId": "c" }), Request::ResumeConsumer(ConsumerId::new("c"))),
        (
            "requestConsumerKeyFrame",
            json!({ "consumerId": "c" }),
            Request::RequestConsumerKeyFrame(ConsumerId::new("c")),
        ),
        (
            "setConsumerPreferredLayers",
            json!({ "consumerId": "c", "spatialLayer": 1, "temporalLayer": null }),
            Request::SetConsumerPreferredLayers(ConsumerId::new("c"), Layers { spatial: 1, temporal: None }),
        ),
        (
            "setConsumerPriority",
            json!({ "consumerId": "c", "priority": 255 }),
            Request::SetConsumerPriority(ConsumerId::new("c"), 255),
        ),
        ("changeDisplayName", json!({ "displayName": "Z" }), Request::ChangeDisplayName("Z".to_owned())),
        ("getTransportStats", json!({ "transportId": "t" }), Request::TransportStats(TransportId::new("t"))),
        ("getProducerStats", json!({ "producerId": "p" }), Request::ProducerStats(ProducerId::new("p"))),
        ("getConsumerStats", json!({ "consumerId": "c" }), Request::ConsumerStats(ConsumerId::new("c"))),
    ] {
        assert_eq!(ask(method, data), Ok(expected), "{method}");
    }
}

#[test]
fn refusals_say_what_is_wrong() {
    for (method, data, code, words) in [
        ("produce", json!({ "transportId": "t", "kind": "audio" }), 400, "rtpParameters"),
        ("produce", json!({ "transportId": "t", "kind": "smell", "rtpParameters": opus() }), 400, "smell"),
        ("setConsumerPriority", json!({ "consumerId": "c", "priority": 0 }), 400, "1 to 255"),
        ("setConsumerPriority", json!({ "consumerId": "c", "priority": 300 }), 400, "300"),
        ("pauseProducer", json!([]), 400, "pauseProducer"),
        ("produceData", json!({}), 400, "transportId"),
        ("applyNetworkThrottle", json!({ "secret": "s" }), 403, "not allowed"),
        ("flyToTheMoon", json!({}), 404, "flyToTheMoon"),
    ] {
        let error = ask(method, data).expect_err(method);
        assert_eq!(error.code, code, "{method}");
        assert!(error.reason.contains(words), "{method}: {}", error.reason);
    }
}

#[test]
fn a_transport_with_a_direction_in_app_data_tells_the_newer_dialect() {
    let mut dialect = Dialect::Unknown;
    let data = json!({ "forceTcp": false, "appData": { "direction": "consumer" } });
    let request = parse_request("createWebRtcTransport", data, &mut dialect);
    assert_eq!(
        request,
        Ok(Request::CreateWebRtcTransport {
            force_tcp: false,
            producing: false,
            consuming: true,
            data: true,
            bandwidth: false,
        })
    );
    assert_eq!(dialect, Dialect::TypeScript);
    let stats = reply(Reply::Stats(json!([1])), dialect);
    assert_eq!(stats, json!({ "stats": [1] }));
    assert_eq!(reply(Reply::Stats(json!([1])), Dialect::Classic), json!([1]));
}

#[test]
fn replies_carry_what_both_dialects_read() {
    let capabilities: ortc::RtpCapabilities =
        serde_json::from_value(json!({ "codecs": [], "headerExtensions": [] })).expect("capabilities");
    let data = reply(Reply::RouterRtpCapabilities(Arc::new(capabilities)), Dialect::Classic);
    contains(&data, &json!({ "codecs": [], "headerExtensions": [] }));
    assert!(data["routerRtpCapabilities"]["codecs"].is_array());

    let ice: ortc::IceParameters =
        serde_json::from_value(json!({ "usernameFragment": "u", "password": "p", "iceLite": true }))
            .expect("ice");
    let data = reply(Reply::IceParameters(ice.clone()), Dialect::Classic);
    contains(&data, &json!({ "usernameFragment": "u", "password": "p", "iceLite": true }));
    contains(&data["iceParameters"], &json!({ "usernameFragment": "u" }));

    let dtls = serde_json::from_value(json!({ "role": "auto", "fingerprints": [] })).expect("dtls");
    let info = TransportInfo {
        id: TransportId::new("t"),
        ice_parameters: ice,
        ice_candidates: Vec::new(),
        dtls_parameters: dtls,
        sctp_parameters: None,
    };
    let data = reply(Reply::Transport(Box::new(info)), Dialect::Classic);
    contains(&data, &json!({ "id": "t", "transportId": "t", "iceCandidates": [] }));
    assert!(data["iceParameters"].is_object() && data["dtlsParameters"].is_object());

    let data = reply(Reply::Produced(ProducerId::new("p")), Dialect::Classic);
    assert_eq!(data, json!({ "id": "p", "producerId": "p" }));
    let data = reply(Reply::Joined(vec![ann()]), Dialect::Classic);
    contains(&data["peers"][0], &json!({ "id": "ann", "peerId": "ann", "displayName": "Ann" }));
    assert_eq!(reply(Reply::Done, Dialect::Classic), json!({}));
}

fn ann() -> PeerInfo {
    PeerInfo {
        id: PeerId::parse("ann").expect("id"),
        display_name: "Ann".to_owned(),
        device: Device { flag: Some("firefox".to_owned()), name: None, version: None },
        remote_address: None,
    }
}

#[test]
fn a_new_consumer_is_offered_as_clients_expect() {
    let rtp: ortc::RtpParameters = serde_json::from_value(opus()).expect("parameters");
    let request = ServerRequest::NewConsumer {
        peer: ann().id,
        producer: ProducerId::new("p"),
        id: ConsumerId::new("c"),
        transport: TransportId::new("t"),
        kind: ortc::MediaKind::Audio,
        rtp_parameters: Arc::new(rtp),
        consumer_type: ortc::ConsumerType::Simple,
        app_data: Arc::new(json!({ "share": true })),
        source: "screen".to_owned(),
        producer_paused: false,
        score: json!({ "score": 10 }),
        replaces: Some(ConsumerId::new("c0")),
    };
    let (method, data) = server_request(&request, Dialect::Classic);
    assert_eq!(method, "newConsumer");
    contains(
        &data,
        &json!({
            "peerId": "ann", "producerId": "p", "id": "c", "consumerId": "c", "transportId": "t", "kind": "audio",
            "type": "simple", "producerPaused": false, "replaces": "c0", "consumerScore": { "score": 10 },
            "appData": { "share": true, "source": "screen", "peerId": "ann" },
        }),
    );
    assert_eq!(data["rtpParameters"]["codecs"][0]["mimeType"], "audio/opus");
    let (_, data) = server_request(&request, Dialect::TypeScript);
    assert_eq!(data["appData"]["source"], "screensharing");
}

#[test]
fn news_has_the_names_and_fields_of_both_dialects() {
    let one = |n: Notification| notification(&n, Dialect::Classic).into_iter().next().expect("one");
    let (method, data) = one(Notification::NewPeer(ann()));
    assert_eq!(method, "newPeer");
    contains(&data, &json!({ "id": "ann", "displayName": "Ann" }));
    contains(&data["peer"], &json!({ "peerId": "ann", "displayName": "Ann" }));
    let layers = Some(Layers { spatial: 2, temporal: Some(1) });
    let (method, data) = one(Notification::ConsumerLayersChanged { consumer: ConsumerId::new("c"), layers });
    assert_eq!(method, "consumerLayersChanged");
    contains(&data, &json!({ "consumerId": "c", "spatialLayer": 2, "temporalLayer": 1 }));
    let (_, data) = one(Notification::ConsumerLayersChanged { consumer: ConsumerId::new("c"), layers: None });
    contains(&data, &json!({ "spatialLayer": null, "temporalLayer": null }));
    assert!(data.get("layers").is_none());
}

#[test]
fn speakers_are_told_to_each_dialect_in_its_own_way() {
    let told = |speakers: &[(&str, i8)], dialect| {
        let of = |(name, volume): &(&str, i8)| (PeerId::parse(name).expect("id"), *volume);
        notification(&Notification::Speakers(speakers.iter().map(of).collect()), dialect)
    };
    let speakers = [("ann", -40), ("bob", -50)];
    let loudest = ("activeSpeaker", json!({ "peerId": "ann", "volume": -40 }));
    assert_eq!(told(&speakers, Dialect::Classic), std::slice::from_ref(&loudest));
    let volumes = json!([{ "peerId": "ann", "volume": -40 }, { "peerId": "bob", "volume": -50 }]);
    let all = ("speakingPeers", json!({ "peerVolumes": volumes }));
    assert_eq!(told(&speakers, Dialect::TypeScript), [loudest, all]);
    assert_eq!(told(&[], Dialect::Classic), [("activeSpeaker", json!({ "peerId": null }))]);
    let silence = [("activeSpeaker", json!({})), ("speakingPeers", json!({ "peerVolumes": [] }))];
    assert_eq!(told(&[], Dialect::TypeScript), silence);
}

#[test]
fn what_only_one_dialect_knows_is_told_to_that_one() {
    let bandwidth = room::DownlinkBandwidth { desired: 3, effective_desired: 2, available: 1 };
    let news = Notification::DownlinkBandwidth(bandwidth);
    let data = json!({ "desiredBitrate": 3, "effectiveDesiredBitrate": 2, "availableBitrate": 1 });
    assert_eq!(notification(&news, Dialect::Classic), [("downlinkBwe", data)]);
    assert!(notification(&news, Dialect::TypeScript).is_empty());
    let names = |dialect| versions(dialect).into_iter().map(|(method, _)| method).collect::<Vec<_>>();
    assert_eq!(names(Dialect::Classic), ["mediasoup-version"]);
    assert_eq!(names(Dialect::TypeScript), ["mediasoupVersion"]);
    assert_eq!(names(Dialect::Unknown), ["mediasoup-version", "mediasoupVersion"]);
}

#[test]
fn the_dialect_shows_in_the_url_or_in_the_first_transport_and_stays() {
    assert_eq!(Dialect::of_query("roomId=r&peerId=p&usePipeTransports=false"), Dialect::TypeScript);
    assert_eq!(Dialect::of_query("roomId=usePipeTransports&peerId=p"), Dialect::Unknown);
    let mut dialect = Dialect::Unknown;
    let classic = json!({ "producing": false, "consuming": true, "sctpCapabilities": "" });
    let request = parse_request("createWebRtcTransport", classic, &mut dialect);
    assert!(matches!(request, Ok(Request::CreateWebRtcTransport { bandwidth: true, data: false, .. })));
    assert_eq!(dialect, Dialect::Classic);
    dialect.learn(Dialect::TypeScript);
    assert_eq!(dialect, Dialect::Classic);
}

#[test]
fn app_data_may_come_as_text_or_not_at_all() {
    for (sent, read) in [
        (json!({ "source": "mic" }), json!({ "source": "mic" })),
        (json!("{\"source\":\"mic\"}"), json!({ "source": "mic" })),
        (json!(""), json!({})),
        (json!("null"), json!({})),
        (Value::Null, json!({})),
    ] {
        let data = json!({ "transportId": "t", "kind": "audio", "rtpParameters": opus(), "appData": sent });
        let Ok(Request::Produce { app_data, .. }) = ask("produce", data) else { panic!("{sent}") };
        assert_eq!(app_data, read, "{sent}");
    }
    for wrong in [json!(1), json!("[]"), json!("{"), json!([])] {
        let data = json!({ "transportId": "t", "kind": "audio", "rtpParameters": opus(), "appData": wrong });
        assert_eq!(ask("produce", data).map_err(|error| error.code), Err(400), "{wrong}");
    }
}

proptest! {
    #[test]
    fn any_method_with_any_data_is_answered_without_a_panic(
        method in prop_oneof![
            Just("join"), Just("produce"), Just("createWebRtcTransport"), Just("connectWebRtcTransport"),
            Just("setConsumerPreferredLayers"), Just("setConsumerPriority"), Just("restartIce"), Just("x"),
        ],
        data in any_json(),
    ) {
        let _ = ask(method, data);
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    let key = prop_oneof![
        Just("transportId".to_owned()),
        Just("kind".to_owned()),
        Just("rtpParameters".to_owned()),
        Just("codecs".to_owned()),
        Just("encodings".to_owned()),
        Just("dtlsParameters".to_owned()),
        Just("device".to_owned()),
        Just("appData".to_owned()),
        "[a-z]{1,8}",
    ];
    leaf.prop_recursive(4, 48, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::btree_map(key.clone(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}
