//! Negotiation as clients of mediasoup meet it: what Routers offer, and what becomes of a Producer on its way to
//! Consumers. The fixtures are what mediasoup-client makes of Chromium.

#![expect(clippy::unwrap_used, reason = "what fails in a test may panic")]

use ortc::{
    ConsumerSsrcs, ErrorKind, MediaKind, OrtcError, RtcpFeedback, RtpCapabilities, RtpCodecCapability,
    RtpParameters, Rtx, can_consume, consumable_rtp_parameters, consumer_rtp_parameters,
    default_media_codecs, generate_router_rtp_capabilities, normalize_rtp_capabilities,
    pipe_consumer_rtp_parameters, producer_rtp_parameters_mapping, uri, validate_kind,
    validate_rtp_parameters, validate_sctp_stream_parameters,
};
use serde_json::{Value, json};

const SSRCS: ConsumerSsrcs = ConsumerSsrcs { ssrc: 5000, rtx_ssrc: Some(5001) };

fn codecs(value: Value) -> Vec<RtpCodecCapability> {
    serde_json::from_value(value).unwrap()
}

fn capabilities(value: Value) -> RtpCapabilities {
    let mut capabilities = serde_json::from_value(value).unwrap();
    normalize_rtp_capabilities(&mut capabilities);
    capabilities
}

fn parameters(value: Value) -> RtpParameters {
    let mut parameters = serde_json::from_value(value).unwrap();
    validate_rtp_parameters(&mut parameters).unwrap();
    parameters
}

fn fixture(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn default_router() -> RtpCapabilities {
    generate_router_rtp_capabilities(&default_media_codecs()).unwrap()
}

fn chromium_device() -> RtpCapabilities {
    capabilities(fixture(include_str!("fixtures/chromium-device-capabilities.json")))
}

/// What a Producer's parameters become on this Router.
fn consumable(
    kind: MediaKind,
    mut sent: RtpParameters,
    router: &RtpCapabilities,
) -> Result<RtpParameters, OrtcError> {
    let mapping = producer_rtp_parameters_mapping(&mut sent, router, 1000)?;
    consumable_rtp_parameters(kind, &sent, router, &mapping)
}

fn h264_producer() -> Value {
    json!({
        "codecs": [
            {
                "mimeType": "video/H264", "payloadType": 111, "clockRate": 90000,
                "parameters": { "colour": 7, "packetization-mode": 1, "profile-level-id": "4d0032" },
                "rtcpFeedback": [{ "type": "nack" }, { "type": "nack", "parameter": "pli" }]
            },
            { "mimeType": "video/rtx", "payloadType": 112, "clockRate": 90000, "parameters": { "apt": 111 } }
        ],
        "headerExtensions": [{ "uri": uri::MID, "id": 1 }, { "uri": uri::VIDEO_ORIENTATION, "id": 2 }],
        "encodings": [
            { "ssrc": 11, "rtx": { "ssrc": 12 }, "maxBitrate": 100, "scalabilityMode": "L1T3" },
            { "ssrc": 21, "rtx": { "ssrc": 22 }, "maxBitrate": 300, "scalabilityMode": "L1T3" },
            { "rid": "high", "maxBitrate": 200, "scalabilityMode": "L1T3" }
        ],
        "rtcp": { "cname": "name" }
    })
}

fn opus_and_h264_router() -> RtpCapabilities {
    generate_router_rtp_capabilities(&codecs(json!([
        { "kind": "audio", "mimeType": "audio/opus", "clockRate": 48000, "channels": 2 },
        {
            "kind": "video", "mimeType": "video/h264", "clockRate": 90000,
            "parameters": { "packetization-mode": 1, "profile-level-id": "4d0032", "bar": "x" }
        }
    ])))
    .unwrap()
}

#[test]
fn a_router_offers_its_codecs_under_numbers_of_its_own_with_rtx_for_video() {
    let router = generate_router_rtp_capabilities(&codecs(json!([
        {
            "kind": "audio", "mimeType": "audio/opus", "clockRate": 48000, "channels": 2,
            "parameters": { "useinbandfec": 1 }
        },
        {
            "kind": "video", "mimeType": "video/VP8", "clockRate": 90000, "preferredPayloadType": 125,
            "rtcpFeedback": [{ "type": "ignored" }]
        },
        { "kind": "video", "mimeType": "video/H264", "clockRate": 90000, "parameters": { "foo": "bar" } },
        { "kind": "audio", "mimeType": "audio/PCMU", "clockRate": 8000 }
    ])))
    .unwrap();
    let value = serde_json::to_value(&router.codecs).unwrap();
    let feedback = json!([
        { "type": "nack", "parameter": "" }, { "type": "nack", "parameter": "pli" },
        { "type": "ccm", "parameter": "fir" }, { "type": "goog-remb", "parameter": "" },
        { "type": "transport-cc", "parameter": "" }
    ]);
    let rtx = |payload_type: u8, apt: u8| {
        json!({
            "kind": "video", "mimeType": "video/rtx", "preferredPayloadType": payload_type, "clockRate": 90000,
            "parameters": { "apt": apt }, "rtcpFeedback": []
        })
    };
    assert_eq!(
        value,
        json!([
            {
                "kind": "audio", "mimeType": "audio/opus", "preferredPayloadType": 100, "clockRate": 48000,
                "channels": 2, "parameters": { "useinbandfec": 1 },
                "rtcpFeedback": [{ "type": "nack", "parameter": "" }, { "type": "transport-cc", "parameter": "" }]
            },
            {
                "kind": "video", "mimeType": "video/VP8", "preferredPayloadType": 125, "clockRate": 90000,
                "parameters": {}, "rtcpFeedback": feedback
            },
            rtx(101, 125),
            {
                "kind": "video", "mimeType": "video/H264", "preferredPayloadType": 102, "clockRate": 90000,
                "parameters": { "level-asymmetry-allowed": 1, "foo": "bar" }, "rtcpFeedback": feedback
            },
            rtx(103, 102),
            {
                "kind": "audio", "mimeType": "audio/PCMU", "preferredPayloadType": 0, "clockRate": 8000,
                "channels": 1, "parameters": {}, "rtcpFeedback": [{ "type": "transport-cc", "parameter": "" }]
            }
        ])
    );
}

#[test]
fn the_default_codecs_fit_the_dynamic_payload_types_in_their_order() {
    let offered: Vec<_> = default_router()
        .codecs
        .into_iter()
        .map(|codec| (codec.mime_type, codec.preferred_payload_type.unwrap()))
        .collect();
    let expected = [
        ("audio/opus", 100),
        ("video/VP8", 101),
        ("video/rtx", 102),
        ("video/VP9", 103),
        ("video/rtx", 104),
        ("video/VP9", 105),
        ("video/rtx", 106),
        ("video/H264", 107),
        ("video/rtx", 108),
        ("video/H264", 109),
        ("video/rtx", 110),
        ("video/AV1", 111),
        ("video/rtx", 112),
    ];
    assert_eq!(offered, expected.map(|(name, number)| (name.to_owned(), number)));
}

#[test]
fn codecs_that_no_worker_knows_are_refused() {
    for codec in [
        json!({ "kind": "audio", "mimeType": "audio/chicken", "clockRate": 8000, "channels": 4 }),
        json!({ "kind": "audio", "mimeType": "audio/opus", "clockRate": 48000, "channels": 1 }),
        json!({ "kind": "audio", "mimeType": "audio/opus", "clockRate": 44100, "channels": 2 }),
    ] {
        let error = generate_router_rtp_capabilities(&codecs(json!([codec]))).unwrap_err();
        assert!(matches!(error, OrtcError::UnsupportedMediaCodec { .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
    let foreign = codecs(json!([{ "kind": "audio", "mimeType": "application/opus", "clockRate": 48000 }]));
    assert_eq!(
        generate_router_rtp_capabilities(&foreign),
        Err(OrtcError::InvalidMimeType("application/opus".to_owned()))
    );
}

#[test]
fn payload_types_can_collide_and_run_out() {
    let opus = json!({ "kind": "audio", "mimeType": "audio/opus", "clockRate": 48000, "channels": 2 });
    let many = codecs(Value::Array(vec![opus; 100]));
    assert_eq!(generate_router_rtp_capabilities(&many), Err(OrtcError::PayloadTypesExhausted));
    let same = codecs(json!([
        { "kind": "video", "mimeType": "video/VP8", "clockRate": 90000, "preferredPayloadType": 120 },
        { "kind": "video", "mimeType": "video/VP9", "clockRate": 90000, "preferredPayloadType": 120 }
    ]));
    assert_eq!(generate_router_rtp_capabilities(&same), Err(OrtcError::DuplicatePayloadType(120)));
}

#[test]
fn a_producer_is_renumbered_and_keeps_its_codec_parameters() {
    let router = opus_and_h264_router();
    let mut sent = parameters(h264_producer());
    let mapping = producer_rtp_parameters_mapping(&mut sent, &router, u32::MAX).unwrap();
    assert_eq!(
        serde_json::to_value(&mapping).unwrap(),
        json!({
            "codecs": [
                { "payloadType": 111, "mappedPayloadType": 101 }, { "payloadType": 112, "mappedPayloadType": 102 }
            ],
            "encodings": [
                { "ssrc": 11, "mappedSsrc": u32::MAX }, { "ssrc": 21, "mappedSsrc": 0 },
                { "rid": "high", "mappedSsrc": 1 }
            ]
        })
    );
    let consumable = consumable_rtp_parameters(MediaKind::Video, &sent, &router, &mapping).unwrap();
    let value = serde_json::to_value(&consumable).unwrap();
    assert_eq!(value["codecs"][0]["payloadType"], 101);
    assert_eq!(
        value["codecs"][0]["parameters"],
        json!({ "colour": 7, "packetization-mode": 1, "profile-level-id": "4d0032" })
    );
    assert_eq!(value["codecs"][1]["mimeType"], "video/rtx");
    assert_eq!(value["codecs"][1]["parameters"], json!({ "apt": 101 }));
    assert_eq!(
        value["encodings"],
        json!([
            { "ssrc": u32::MAX, "maxBitrate": 100, "scalabilityMode": "L1T3" },
            { "ssrc": 0, "maxBitrate": 300, "scalabilityMode": "L1T3" },
            { "ssrc": 1, "maxBitrate": 200, "scalabilityMode": "L1T3" }
        ])
    );
    assert_eq!(value["rtcp"], json!({ "cname": "name", "reducedSize": true }));
    let uris: Vec<_> = consumable.header_extensions.iter().map(|extension| extension.uri.as_str()).collect();
    for received_only in [uri::RTP_STREAM_ID, uri::REPAIRED_RTP_STREAM_ID, uri::DEPENDENCY_DESCRIPTOR] {
        assert!(!uris.contains(&received_only));
    }
    assert!(!uris.contains(&uri::ABS_CAPTURE_TIME), "the Producer does not send it");
}

#[test]
fn the_dependency_descriptor_is_offered_with_one_stream_of_av1() {
    let router = default_router();
    let offered = |codec: &str, encodings: Value, extensions: Value| {
        let sent = json!({
            "codecs": [{ "mimeType": format!("video/{codec}"), "payloadType": 45, "clockRate": 90000 }],
            "encodings": encodings,
            "headerExtensions": extensions,
        });
        let consumable = consumable(MediaKind::Video, parameters(sent), &router).unwrap();
        consumable.header_extensions.iter().any(|extension| extension.uri == uri::DEPENDENCY_DESCRIPTOR)
    };
    let (one, two) = (json!([{ "ssrc": 1 }]), json!([{ "ssrc": 1 }, { "ssrc": 2 }]));
    let descriptor = json!([{ "uri": uri::DEPENDENCY_DESCRIPTOR, "id": 12 }]);
    assert!(offered("AV1", one.clone(), descriptor.clone()));
    assert!(!offered("AV1", two, descriptor.clone()), "simulcast would need other frame numbers");
    assert!(!offered("AV1", one.clone(), json!([])), "the Producer does not send it");
    assert!(!offered("VP9", one, descriptor));
}

#[test]
fn the_capture_time_is_offered_when_the_producer_sends_it() {
    let mut sent = h264_producer();
    sent["headerExtensions"] = json!([{ "uri": uri::ABS_CAPTURE_TIME, "id": 9 }]);
    let consumable = consumable(MediaKind::Video, parameters(sent), &opus_and_h264_router()).unwrap();
    assert!(consumable.header_extensions.iter().any(|extension| extension.uri == uri::ABS_CAPTURE_TIME));
}

#[test]
fn a_consumer_gets_one_encoding_and_only_what_its_endpoint_knows() {
    let router = opus_and_h264_router();
    let consumable = consumable(MediaKind::Video, parameters(h264_producer()), &router).unwrap();
    let endpoint = capabilities(json!({
        "codecs": [
            { "kind": "audio", "mimeType": "audio/opus", "preferredPayloadType": 100, "clockRate": 48000, "channels": 2 },
            {
                "kind": "video", "mimeType": "video/H264", "preferredPayloadType": 101, "clockRate": 90000,
                "parameters": { "packetization-mode": 1, "profile-level-id": "4d0032", "baz": "LOLOL" },
                "rtcpFeedback": [
                    { "type": "nack" }, { "type": "nack", "parameter": "pli" }, { "type": "goog-remb" },
                    { "type": "transport-cc" }, { "type": "unknown" }
                ]
            },
            {
                "kind": "video", "mimeType": "video/rtx", "preferredPayloadType": 102, "clockRate": 90000,
                "parameters": { "apt": 101 }
            }
        ],
        "headerExtensions": [
            { "kind": "video", "uri": uri::MID, "preferredId": 1 },
            { "kind": "video", "uri": uri::ABS_SEND_TIME, "preferredId": 4 },
            { "kind": "video", "uri": uri::VIDEO_ORIENTATION, "preferredId": 8 },
            { "kind": "video", "uri": uri::TIME_OFFSET, "preferredId": 1 }
        ]
    }));
    assert!(can_consume(&consumable, &endpoint));
    let consumer = consumer_rtp_parameters(&consumable, &endpoint, SSRCS).unwrap();
    let ids: Vec<_> = consumer.header_extensions.iter().map(|extension| extension.id).collect();
    assert_eq!(ids, [1, 4, 8], "an extension under another number is another one");
    assert_eq!(
        consumer.codecs[0].rtcp_feedback,
        [
            RtcpFeedback::new("nack", ""),
            RtcpFeedback::new("nack", "pli"),
            RtcpFeedback::new("goog-remb", ""),
            RtcpFeedback::new("unknown", "")
        ],
        "REMB, because transport-wide numbers are not in use"
    );
    assert!(consumer.codecs[1].is_rtx());
    let encoding = &consumer.encodings[0];
    assert_eq!(consumer.encodings.len(), 1);
    assert_eq!((encoding.ssrc, encoding.rtx), (Some(5000), Some(Rtx { ssrc: 5001 })));
    assert_eq!(encoding.scalability_mode.as_deref(), Some("L3T3"));
    assert_eq!(encoding.max_bitrate, Some(300));
    assert_eq!(consumer.rtcp.cname.as_deref(), Some("name"));
}

#[test]
fn without_rtx_there_is_neither_nack_nor_a_repair_codec() {
    let router = default_router();
    let sent = parameters(fixture(include_str!("fixtures/chromium-simulcast-producer.json")));
    let consumable = consumable(MediaKind::Video, sent, &router).unwrap();
    let ssrcs = ConsumerSsrcs { rtx_ssrc: None, ..SSRCS };
    let consumer = consumer_rtp_parameters(&consumable, &chromium_device(), ssrcs).unwrap();
    assert_eq!(consumer.codecs.len(), 1);
    assert!(!consumer.codecs[0].rtcp_feedback.contains(&RtcpFeedback::new("nack", "")));
    assert!(consumer.codecs[0].rtcp_feedback.contains(&RtcpFeedback::new("nack", "pli")));
    assert_eq!(consumer.encodings[0].rtx, None);
}

#[test]
fn an_endpoint_without_the_rtx_codec_gets_none() {
    let consumable =
        consumable(MediaKind::Video, parameters(h264_producer()), &opus_and_h264_router()).unwrap();
    let endpoint = capabilities(json!({
        "codecs": [{
            "kind": "video", "mimeType": "video/H264", "preferredPayloadType": 101, "clockRate": 90000,
            "parameters": { "packetization-mode": 1, "profile-level-id": "4d0032" }
        }]
    }));
    let consumer = consumer_rtp_parameters(&consumable, &endpoint, SSRCS).unwrap();
    assert_eq!(consumer.codecs.len(), 1);
    assert_eq!(consumer.encodings[0].rtx, None);
}

#[test]
fn an_endpoint_without_the_media_codec_cannot_consume() {
    let consumable =
        consumable(MediaKind::Video, parameters(h264_producer()), &opus_and_h264_router()).unwrap();
    for codecs in [
        json!([]),
        json!([{ "kind": "audio", "mimeType": "audio/ISAC", "preferredPayloadType": 100, "clockRate": 32000 }]),
        // Repair without media is of no use.
        json!([{
            "kind": "video", "mimeType": "video/rtx", "preferredPayloadType": 102, "clockRate": 90000,
            "parameters": { "apt": 101 }
        }]),
        // Another packetization mode, another profile.
        json!([{
            "kind": "video", "mimeType": "video/H264", "preferredPayloadType": 101, "clockRate": 90000,
            "parameters": { "packetization-mode": 0, "profile-level-id": "4d0032" }
        }]),
        json!([{
            "kind": "video", "mimeType": "video/H264", "preferredPayloadType": 101, "clockRate": 90000,
            "parameters": { "packetization-mode": 1, "profile-level-id": "42e01f" }
        }]),
    ] {
        let endpoint = capabilities(json!({ "codecs": codecs }));
        assert!(!can_consume(&consumable, &endpoint));
        let refused = consumer_rtp_parameters(&consumable, &endpoint, SSRCS);
        assert_eq!(refused, Err(OrtcError::NoCompatibleMediaCodecs));
    }
}

#[test]
fn a_pipe_carries_all_encodings_and_no_congestion_control() {
    let consumable =
        consumable(MediaKind::Video, parameters(h264_producer()), &opus_and_h264_router()).unwrap();
    let quiet = ConsumerSsrcs { ssrc: 5000, rtx_ssrc: None };
    let piped = pipe_consumer_rtp_parameters(&consumable, quiet);
    assert_eq!(piped.codecs.len(), 1);
    let (pli, fir) = (RtcpFeedback::new("nack", "pli"), RtcpFeedback::new("ccm", "fir"));
    assert_eq!(piped.codecs[0].rtcp_feedback, [pli, fir]);
    let ssrcs: Vec<_> = piped.encodings.iter().map(|encoding| (encoding.ssrc, encoding.rtx)).collect();
    assert_eq!(ssrcs, [(Some(5000), None), (Some(5001), None), (Some(5002), None)]);
    assert_eq!(piped.encodings[1].max_bitrate, Some(300));
    let ids: Vec<_> = piped.header_extensions.iter().map(|extension| extension.id).collect();
    assert_eq!(
        ids,
        [7, 8, 9, 11, 12],
        "no mid, no send time, no transport-wide numbers; the dependency descriptor"
    );

    let ssrcs = ConsumerSsrcs { ssrc: 5000, rtx_ssrc: Some(7000) };
    let repaired = pipe_consumer_rtp_parameters(&consumable, ssrcs);
    assert_eq!(repaired.codecs.len(), 2);
    assert!(repaired.codecs[0].rtcp_feedback.contains(&RtcpFeedback::new("nack", "")));
    assert_eq!(repaired.encodings[2].rtx, Some(Rtx { ssrc: 7002 }));
}

#[test]
fn a_producer_with_codecs_unknown_to_the_router_is_refused() {
    let router = opus_and_h264_router();
    let refused = |codecs: Value| {
        let mut sent = parameters(json!({ "codecs": codecs }));
        producer_rtp_parameters_mapping(&mut sent, &router, 1).unwrap_err()
    };
    let h264 = json!({
        "mimeType": "video/H264", "payloadType": 111, "clockRate": 90000,
        "parameters": { "packetization-mode": 1, "profile-level-id": "4d0032" }
    });
    let error = refused(json!([{ "mimeType": "video/VP8", "payloadType": 120, "clockRate": 90000 }]));
    assert_eq!(error, OrtcError::UnsupportedCodec { mime_type: "video/VP8".to_owned(), payload_type: 120 });
    let error = refused(json!([{
        "mimeType": "video/H264", "payloadType": 120, "clockRate": 90000,
        "parameters": { "packetization-mode": 1, "profile-level-id": "nonsense" }
    }]));
    assert!(matches!(error, OrtcError::UnsupportedCodec { .. }));
    let orphan = json!({ "mimeType": "video/rtx", "payloadType": 99, "clockRate": 90000, "parameters": { "apt": 98 } });
    assert_eq!(refused(json!([h264.clone(), orphan.clone()])), OrtcError::OrphanRtxCodec(99));
    assert_eq!(refused(json!([orphan])), OrtcError::OrphanRtxCodec(99));
}

#[test]
fn vp9_profiles_and_multiopus_layouts_are_told_apart() {
    let router = default_router();
    for (profile, payload_type) in
        [(json!({}), 103), (json!({ "profile-id": 0 }), 103), (json!({ "profile-id": 2 }), 105)]
    {
        let codec =
            json!({ "mimeType": "video/VP9", "payloadType": 98, "clockRate": 90000, "parameters": profile });
        let mut sent = parameters(json!({ "codecs": [codec] }));
        let mapping = producer_rtp_parameters_mapping(&mut sent, &router, 1).unwrap();
        assert_eq!(mapping.codecs[0].mapped_payload_type, payload_type);
    }
    let six = json!({ "channel_mapping": "0,4,1,2,3,5", "num_streams": 4, "coupled_streams": 2 });
    let router = generate_router_rtp_capabilities(&codecs(json!([
        { "kind": "audio", "mimeType": "audio/multiopus", "clockRate": 48000, "channels": 6, "parameters": six }
    ])))
    .unwrap();
    let mapped = |layout: Value| {
        let codec = json!({
            "mimeType": "audio/multiopus", "payloadType": 120, "clockRate": 48000, "channels": 6, "parameters": layout
        });
        let mut sent = parameters(json!({ "codecs": [codec] }));
        producer_rtp_parameters_mapping(&mut sent, &router, 1)
            .map(|mapping| mapping.codecs[0].mapped_payload_type)
    };
    assert_eq!(mapped(six), Ok(100));
    assert!(mapped(json!({ "num_streams": 5, "coupled_streams": 2 })).is_err());
}

#[test]
fn the_h264_level_becomes_what_both_can_do() {
    let router = opus_and_h264_router();
    let mut sent = parameters(json!({
        "codecs": [{
            "mimeType": "video/H264", "payloadType": 111, "clockRate": 90000,
            "parameters": { "packetization-mode": 1, "profile-level-id": "4d001f" }
        }]
    }));
    producer_rtp_parameters_mapping(&mut sent, &router, 1).unwrap();
    assert_eq!(sent.codecs[0].parameters["profile-level-id"].as_text(), Some("4d001f"));
}

#[test]
fn chromium_publishes_simulcast_and_chromium_receives_it() {
    let router = default_router();
    let sent = parameters(fixture(include_str!("fixtures/chromium-simulcast-producer.json")));
    validate_kind(MediaKind::Video, &sent).unwrap();
    assert_eq!(sent.encodings[1].max_bitrate, Some(1_000_000), "a fraction of a bit is cut off");
    let consumable = consumable(MediaKind::Video, sent, &router).unwrap();
    let device = chromium_device();
    assert!(can_consume(&consumable, &device));
    let consumer = consumer_rtp_parameters(&consumable, &device, SSRCS).unwrap();
    let names: Vec<_> =
        consumer.codecs.iter().map(|codec| (codec.mime_type.as_str(), codec.payload_type)).collect();
    assert_eq!(names, [("video/VP8", 101), ("video/rtx", 102)]);
    let feedback = &consumer.codecs[0].rtcp_feedback;
    assert!(feedback.contains(&RtcpFeedback::new("transport-cc", "")));
    assert!(
        !feedback.contains(&RtcpFeedback::new("goog-remb", "")),
        "transport-wide feedback takes its place"
    );
    let ids: Vec<_> = consumer.header_extensions.iter().map(|extension| extension.id).collect();
    assert_eq!(ids, [1, 4, 5, 8, 9, 11]);
    assert_eq!(consumer.encodings[0].scalability_mode.as_deref(), Some("L3T3"));
    assert_eq!(consumer.msid.as_deref(), Some("9f0a camera"));
}

#[test]
fn everything_that_chromium_offers_can_be_parsed_and_the_unknown_is_ignored() {
    let native = capabilities(fixture(include_str!("fixtures/chromium-native-capabilities.json")));
    assert!(native.codecs.iter().any(|codec| codec.mime_type == "video/flexfec-03"));
    // Every codec of a default Router but H264 Main at level 5 (Chromium says 3.1) is among the browser's own.
    for codec in default_router().codecs.iter().filter(|codec| !codec.is_rtx()) {
        let sent = RtpParameters {
            codecs: vec![ortc::RtpCodecParameters {
                mime_type: codec.mime_type.clone(),
                payload_type: 96,
                clock_rate: codec.clock_rate,
                channels: codec.channels,
                parameters: codec.parameters.clone(),
                rtcp_feedback: codec.rtcp_feedback.clone(),
            }],
            encodings: vec![ortc::RtpEncodingParameters::default()],
            ..RtpParameters::default()
        };
        let consumable = consumable(codec.kind, sent, &default_router()).unwrap();
        assert!(can_consume(&consumable, &native), "{}", codec.mime_type);
    }
}

#[test]
fn what_makes_no_sense_in_capabilities_is_dropped_not_refused() {
    let parsed = capabilities(json!({
        "codecs": [
            { "kind": "audio", "mimeType": "audio/opus", "clockRate": 48000, "channels": null, "parameters": null },
            { "kind": "video", "mimeType": "audio/opus", "clockRate": 48000, "rtcpFeedback": [{ "type": 7 }, 5] },
            { "kind": "application", "mimeType": "application/x", "clockRate": 1 },
            { "kind": "audio", "mimeType": "application/x", "clockRate": 1 },
            { "kind": "video", "mimeType": "video/rtx", "clockRate": 90000, "parameters": { "apt": "x" } },
            { "kind": "video", "mimeType": "video/VP8", "clockRate": 90000, "channels": 3,
              "parameters": { "a": null, "b": { "c": [] }, "d": true, "e": 1.5 }, "surprise": {} },
            "nonsense", null, 5
        ],
        "headerExtensions": [
            { "kind": "video", "uri": "urn:unheard-of", "preferredId": 3, "direction": "upwards" },
            { "kind": "", "uri": uri::MID, "preferredId": 1 },
            { "kind": "audio", "uri": uri::MID, "preferredId": 1, "preferredEncrypt": null, "direction": null },
            { "kind": "audio", "uri": uri::MID, "preferredId": 4096 }
        ],
        "fecMechanisms": []
    }));
    let seen: Vec<_> = parsed.codecs.iter().map(|codec| (codec.kind, codec.channels)).collect();
    assert_eq!(seen, [(MediaKind::Audio, Some(1)), (MediaKind::Audio, Some(1)), (MediaKind::Video, None)]);
    assert_eq!(parsed.codecs[2].parameters["a"].as_text(), Some(""));
    assert_eq!(parsed.header_extensions.len(), 2);
    for empty in [json!({}), json!({ "codecs": null, "headerExtensions": "no" })] {
        assert_eq!(capabilities(empty), RtpCapabilities::default());
    }
}

#[test]
fn parameters_default_as_mediasoup_has_them() {
    let parsed = parameters(json!({
        "mid": "",
        "codecs": [{ "mimeType": "audio/opus", "payloadType": 111, "clockRate": 48000 }],
        "headerExtensions": null,
        "encodings": [{ "ssrc": 0, "rid": "", "dtx": "yes", "maxBitrate": null, "rtx": null, "active": true }],
        "rtcp": { "reducedSize": false, "mux": true }
    }));
    assert_eq!(parsed.mid, None);
    assert_eq!(parsed.codecs[0].channels, Some(1));
    assert_eq!(serde_json::to_value(&parsed.encodings).unwrap(), json!([{}]));
    assert!(parsed.rtcp.reduced_size);
}

#[test]
fn parameters_that_contradict_themselves_are_refused() {
    let checked = |value: Value| {
        let mut parsed: RtpParameters = serde_json::from_value(value).unwrap();
        validate_rtp_parameters(&mut parsed).unwrap_err()
    };
    assert_eq!(checked(json!({ "codecs": [] })), OrtcError::NoCodecs);
    let codec = |name: &str, format: Value| json!({ "codecs": [{ "mimeType": name, "payloadType": 1, "clockRate": 1, "parameters": format }] });
    assert_eq!(checked(codec("chicken", json!({}))), OrtcError::InvalidMimeType("chicken".to_owned()));
    let error = checked(codec("video/rtx", json!({ "apt": "ninety" })));
    assert_eq!(error.to_string(), "invalid value of codec parameter \"apt\" of \"video/rtx\"");
    assert_eq!(error.kind(), ErrorKind::Type);
    for broken in
        [json!({}), json!({ "codecs": 5 }), json!({ "codecs": [{ "mimeType": "audio/opus" }] }), json!(null)]
    {
        assert!(serde_json::from_value::<RtpParameters>(broken).is_err());
    }
}

#[test]
fn video_cannot_be_passed_off_as_audio() {
    let sent = parameters(h264_producer());
    let error = validate_kind(MediaKind::Audio, &sent).unwrap_err();
    assert_eq!(error.to_string(), "codec \"video/H264\" cannot be used by a Producer of kind audio");
}

#[test]
fn sctp_streams_are_ordered_unless_limited() {
    let checked = |value: Value| {
        let mut stream = serde_json::from_value(value).unwrap();
        validate_sctp_stream_parameters(&mut stream).map(|()| stream.ordered)
    };
    assert_eq!(checked(json!({ "streamId": 1 })), Ok(Some(true)));
    assert_eq!(checked(json!({ "streamId": 1, "maxRetransmits": 3 })), Ok(Some(false)));
    assert_eq!(checked(json!({ "streamId": 1, "ordered": false, "maxPacketLifeTime": 3 })), Ok(Some(false)));
    let both = json!({ "streamId": 1, "maxPacketLifeTime": 3, "maxRetransmits": 3 });
    assert_eq!(checked(both), Err(OrtcError::ConflictingReliability));
    let ordered = json!({ "streamId": 1, "ordered": true, "maxRetransmits": 3 });
    assert_eq!(checked(ordered), Err(OrtcError::OrderedWithLimits));
}

#[test]
fn transport_parameters_have_mediasoups_names() {
    let dtls: ortc::DtlsParameters = serde_json::from_value(json!({
        "fingerprints": [
            { "algorithm": "sha-256", "value": "AA:BB" }, { "algorithm": "md5", "value": "CC" }
        ]
    }))
    .unwrap();
    assert_eq!(
        serde_json::to_value(&dtls).unwrap(),
        json!({ "role": "auto", "fingerprints": [{ "algorithm": "sha-256", "value": "AA:BB" }] })
    );
    let candidate = ortc::IceCandidate {
        foundation: "udpcandidate".to_owned(),
        priority: 7,
        ip: "192.0.2.1".to_owned(),
        address: "192.0.2.1".to_owned(),
        protocol: ortc::TransportProtocol::Tcp,
        port: 4000,
        candidate_type: ortc::IceCandidateType::Host,
        tcp_type: Some(ortc::TcpCandidateType::Passive),
    };
    assert_eq!(
        serde_json::to_value(&candidate).unwrap(),
        json!({
            "foundation": "udpcandidate", "priority": 7, "ip": "192.0.2.1", "address": "192.0.2.1",
            "protocol": "tcp", "port": 4000, "type": "host", "tcpType": "passive"
        })
    );
}
