//! The codecs and header extensions that a worker knows, with mediasoup's numbers, and a Router's default codecs.

use crate::{
    parameter_value::{ParameterMap, ParameterValue},
    rtp_capabilities::{
        MediaKind, RtcpFeedback, RtpCapabilities, RtpCodecCapability, RtpHeaderExtension,
        RtpHeaderExtensionDirection,
    },
};

/// Names of the header extensions that a worker knows.
pub mod uri {
    /// RFC 8843 section 15.
    pub const MID: &str = "urn:ietf:params:rtp-hdrext:sdes:mid";
    /// RFC 8852.
    pub const RTP_STREAM_ID: &str = "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id";
    /// RFC 8852.
    pub const REPAIRED_RTP_STREAM_ID: &str = "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id";
    /// When a packet was sent.
    pub const ABS_SEND_TIME: &str = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time";
    /// Transport-wide sequence numbers.
    pub const TRANSPORT_WIDE_CC: &str =
        "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";
    /// RFC 6464.
    pub const SSRC_AUDIO_LEVEL: &str = "urn:ietf:params:rtp-hdrext:ssrc-audio-level";
    /// AV1's dependency descriptor.
    pub const DEPENDENCY_DESCRIPTOR: &str =
        "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension";
    /// 3GPP TS 26.114.
    pub const VIDEO_ORIENTATION: &str = "urn:3gpp:video-orientation";
    /// RFC 5450.
    pub const TIME_OFFSET: &str = "urn:ietf:params:rtp-hdrext:toffset";
    /// When a frame was captured.
    pub const ABS_CAPTURE_TIME: &str = "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time";
    /// How long a receiver may buffer.
    pub const PLAYOUT_DELAY: &str = "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay";
    /// mediasoup's own packet numbers.
    pub const PACKET_ID: &str = "urn:mediasoup:params:rtp-hdrext:packet-id";
}

/// Everything that a Router may be asked to support. Codecs with a static payload type (RFC 3551) carry it.
#[must_use]
pub fn supported_rtp_capabilities() -> RtpCapabilities {
    RtpCapabilities { codecs: supported_codecs(), header_extensions: supported_header_extensions() }
}

/// What a Router offers unless told otherwise: Opus, VP8, VP9 (profiles 0 and 2), H264 (Main and Constrained
/// Baseline) and AV1, in the order in which clients choose.
#[must_use]
pub fn default_media_codecs() -> Vec<RtpCodecCapability> {
    // Publishers start at 1 Mbit/s instead of libwebrtc's 300 kbit/s; the estimate takes over within a second.
    let with_start_bitrate = |pairs: &[(&str, ParameterValue)]| {
        let mut parameters = parameters(pairs);
        parameters.insert("x-google-start-bitrate".to_owned(), ParameterValue::Integer(1000));
        parameters
    };
    let h264 = |profile_level_id: &str| {
        with_start_bitrate(&[
            ("packetization-mode", 1.into()),
            ("profile-level-id", profile_level_id.into()),
            ("level-asymmetry-allowed", 1.into()),
        ])
    };
    let video = |subtype: &str, parameters| RtpCodecCapability {
        kind: MediaKind::Video,
        mime_type: format!("video/{subtype}"),
        preferred_payload_type: None,
        clock_rate: 90_000,
        channels: None,
        parameters,
        rtcp_feedback: Vec::new(),
    };
    vec![
        RtpCodecCapability {
            kind: MediaKind::Audio,
            mime_type: "audio/opus".to_owned(),
            preferred_payload_type: None,
            clock_rate: 48_000,
            channels: Some(2),
            parameters: ParameterMap::new(),
            rtcp_feedback: Vec::new(),
        },
        video("VP8", with_start_bitrate(&[])),
        video("VP9", with_start_bitrate(&[("profile-id", 0.into())])),
        video("VP9", with_start_bitrate(&[("profile-id", 2.into())])),
        video("H264", h264("4d0032")),
        video("H264", h264("42e01f")),
        video("AV1", with_start_bitrate(&[])),
    ]
}

fn supported_codecs() -> Vec<RtpCodecCapability> {
    let both = [("nack", ""), ("transport-cc", "")];
    let cc = [("transport-cc", "")];
    let multiopus = |channels, mapping: &str, streams, coupled| {
        let layout = parameters(&[
            ("channel_mapping", mapping.into()),
            ("num_streams", ParameterValue::Integer(streams)),
            ("coupled_streams", ParameterValue::Integer(coupled)),
        ]);
        RtpCodecCapability { parameters: layout, ..audio("multiopus", 48_000, channels, None, &both) }
    };
    let mut codecs = vec![
        audio("opus", 48_000, 2, None, &both),
        multiopus(4, "0,1,2,3", 2, 2),
        multiopus(6, "0,4,1,2,3,5", 4, 2),
        multiopus(8, "0,6,1,2,3,4,5,7", 5, 3),
        audio("PCMU", 8_000, 1, Some(0), &cc),
        audio("PCMA", 8_000, 1, Some(8), &cc),
        audio("ISAC", 32_000, 1, None, &cc),
        audio("ISAC", 16_000, 1, None, &cc),
        audio("G722", 8_000, 1, Some(9), &cc),
        audio("iLBC", 8_000, 1, None, &cc),
    ];
    codecs.extend([24_000, 16_000, 12_000, 8_000].map(|rate| audio("SILK", rate, 1, None, &cc)));
    codecs.extend([32_000, 16_000, 8_000].map(|rate| audio("CN", rate, 1, Some(13), &[])));
    codecs.extend([48_000, 32_000, 16_000, 8_000].map(|rate| audio("telephone-event", rate, 1, None, &[])));
    codecs.extend([
        video("VP8", &[]),
        video("VP9", &[]),
        video("H264", &[("level-asymmetry-allowed", 1.into())]),
        video("AV1", &[]),
    ]);
    codecs
}

fn supported_header_extensions() -> Vec<RtpHeaderExtension> {
    use MediaKind::{Audio, Video};
    use RtpHeaderExtensionDirection::{RecvOnly, SendRecv};
    [
        (1, uri::MID, Audio, SendRecv),
        (1, uri::MID, Video, SendRecv),
        (2, uri::RTP_STREAM_ID, Video, RecvOnly),
        (3, uri::REPAIRED_RTP_STREAM_ID, Video, RecvOnly),
        (4, uri::ABS_SEND_TIME, Audio, SendRecv),
        (4, uri::ABS_SEND_TIME, Video, SendRecv),
        // Audio is measured on its way in only.
        (5, uri::TRANSPORT_WIDE_CC, Audio, RecvOnly),
        (5, uri::TRANSPORT_WIDE_CC, Video, SendRecv),
        (6, uri::SSRC_AUDIO_LEVEL, Audio, SendRecv),
        // mediasoup's Routers keep it to themselves; see `consumable_rtp_parameters`.
        (7, uri::DEPENDENCY_DESCRIPTOR, Video, SendRecv),
        (8, uri::VIDEO_ORIENTATION, Video, SendRecv),
        (9, uri::TIME_OFFSET, Video, SendRecv),
        (10, uri::ABS_CAPTURE_TIME, Audio, SendRecv),
        (10, uri::ABS_CAPTURE_TIME, Video, SendRecv),
        (11, uri::PLAYOUT_DELAY, Audio, SendRecv),
        (11, uri::PLAYOUT_DELAY, Video, SendRecv),
        (12, uri::PACKET_ID, Audio, SendRecv),
        (12, uri::PACKET_ID, Video, SendRecv),
    ]
    .into_iter()
    .map(|(preferred_id, uri, kind, direction)| RtpHeaderExtension {
        kind,
        uri: uri.to_owned(),
        preferred_id,
        preferred_encrypt: false,
        direction,
    })
    .collect()
}

fn audio(
    subtype: &str,
    clock_rate: u32,
    channels: u8,
    preferred_payload_type: Option<u8>,
    feedback: &[(&str, &str)],
) -> RtpCodecCapability {
    RtpCodecCapability {
        kind: MediaKind::Audio,
        mime_type: format!("audio/{subtype}"),
        preferred_payload_type,
        clock_rate,
        channels: Some(channels),
        parameters: ParameterMap::new(),
        rtcp_feedback: feedback.iter().map(|(kind, parameter)| RtcpFeedback::new(kind, parameter)).collect(),
    }
}

fn video(subtype: &str, format: &[(&str, ParameterValue)]) -> RtpCodecCapability {
    let feedback = [("nack", ""), ("nack", "pli"), ("ccm", "fir"), ("goog-remb", ""), ("transport-cc", "")];
    RtpCodecCapability {
        kind: MediaKind::Video,
        mime_type: format!("video/{subtype}"),
        preferred_payload_type: None,
        clock_rate: 90_000,
        channels: None,
        parameters: parameters(format),
        rtcp_feedback: feedback.iter().map(|(kind, parameter)| RtcpFeedback::new(kind, parameter)).collect(),
    }
}

fn parameters(pairs: &[(&str, ParameterValue)]) -> ParameterMap {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}
