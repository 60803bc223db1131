//! RTP capabilities and parameters as clients send them, through the whole negotiation: whatever was let in is written
//! and read back unchanged, and what comes out of the negotiation is let in again.

use ortc::{ConsumerSsrcs, MediaKind, RtpCapabilities, RtpCodecCapability, RtpParameters};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The bytes are a JSON object: `rtpParameters` of a producer, `rtpCapabilities` of a receiver, `mediaCodecs` of a
/// router (by default Tureen's own).
pub fn run(data: &[u8]) {
    let Ok(Value::Object(mut given)) = serde_json::from_slice::<Value>(data) else { return };
    let mut take = |name: &str| given.remove(name).unwrap_or_default();
    let media_codecs =
        read::<Vec<RtpCodecCapability>>(take("mediaCodecs")).unwrap_or_else(ortc::default_media_codecs);
    let Ok(router) = ortc::generate_router_rtp_capabilities(&media_codecs) else { return };
    same_after_writing(&router);
    let receiver = read::<RtpCapabilities>(take("rtpCapabilities")).map(|mut capabilities| {
        ortc::normalize_rtp_capabilities(&mut capabilities);
        let once = capabilities.clone();
        ortc::normalize_rtp_capabilities(&mut capabilities);
        assert_eq!(capabilities, once, "in order is in order");
        capabilities
    });
    let Some(mut parameters) = read::<RtpParameters>(take("rtpParameters")) else { return };
    if ortc::validate_rtp_parameters(&mut parameters).is_err() {
        return;
    }
    let kinds = [MediaKind::Audio, MediaKind::Video];
    let Some(kind) = kinds.into_iter().find(|kind| ortc::validate_kind(*kind, &parameters).is_ok()) else {
        return;
    };
    let Ok(mapping) = ortc::producer_rtp_parameters_mapping(&mut parameters, &router, 1000) else { return };
    assert_eq!(mapping.encodings.len(), parameters.encodings.len());
    assert_eq!(mapping.codecs.len(), parameters.codecs.len());
    let consumable =
        ortc::consumable_rtp_parameters(kind, &parameters, &router, &mapping).expect("its own mapping");
    assert_eq!(consumable.encodings.len(), parameters.encodings.len());
    let ssrcs = ConsumerSsrcs { ssrc: 5000, rtx_ssrc: Some(6000) };
    let mut piped = ortc::pipe_consumer_rtp_parameters(&consumable, ssrcs);
    ortc::validate_rtp_parameters(&mut piped).expect("what a pipe sends is valid");
    for capabilities in [Some(router), receiver].into_iter().flatten() {
        let possible = ortc::can_consume(&consumable, &capabilities);
        let Ok(mut sent) = ortc::consumer_rtp_parameters(&consumable, &capabilities, ssrcs) else {
            assert!(!possible || consumable.codecs.is_empty(), "it can be consumed, and it cannot");
            continue;
        };
        assert!(possible);
        assert_eq!(sent.encodings.len(), 1);
        assert!(!sent.codecs[0].is_rtx());
        same_after_writing(&sent);
        ortc::validate_rtp_parameters(&mut sent).expect("what is sent is valid");
    }
}

fn read<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(value: Value) -> Option<T> {
    let read = serde_json::from_value(value).ok()?;
    same_after_writing(&read);
    Some(read)
}

fn same_after_writing<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(value: &T) {
    let written = serde_json::to_value(value).expect("it can be written");
    let again: T =
        serde_json::from_value(written.clone()).unwrap_or_else(|error| panic!("{error}: {written}"));
    assert_eq!(&again, value, "what is written reads the same");
}
