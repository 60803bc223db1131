//! What an endpoint or a Router can do: codecs and header extensions (W3C WebRTC `RTCRtpCapabilities`, with
//! mediasoup's field names).

use serde::{Deserialize, Serialize};

use crate::{
    lenient,
    parameter_value::{ParameterMap, ParameterValue},
};

/// Audio or video.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MediaKind {
    /// Audio.
    Audio,
    /// Video.
    Video,
}

impl MediaKind {
    /// The kind that a MIME type begins with, in any case; `None` where that is neither `audio/` nor `video/`.
    #[must_use]
    pub fn of_mime_type(mime_type: &str) -> Option<Self> {
        let (kind, subtype) = mime_type.split_once('/')?;
        if subtype.is_empty() {
            None
        } else if kind.eq_ignore_ascii_case("audio") {
            Some(Self::Audio)
        } else if kind.eq_ignore_ascii_case("video") {
            Some(Self::Video)
        } else {
            None
        }
    }

    /// `audio` or `video`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Audio => "audio",
            Self::Video => "video",
        }
    }
}

/// Codecs and header extensions that can be received (an endpoint) or forwarded (a Router).
///
/// Entries of a foreign shape are left out when parsing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RtpCapabilities {
    /// Media and RTX codecs, in order of preference.
    #[serde(default, deserialize_with = "lenient::known_entries")]
    pub codecs: Vec<RtpCodecCapability>,
    /// Header extensions by kind.
    #[serde(default, deserialize_with = "lenient::known_entries")]
    pub header_extensions: Vec<RtpHeaderExtension>,
}

/// One codec of [`RtpCapabilities`], or one that a Router is asked to support.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RtpCodecCapability {
    /// Follows from `mime_type`, which wins when the two differ (see [`crate::normalize_rtp_capabilities`]).
    pub kind: MediaKind,
    /// For example `audio/opus`. Compared without regard to case.
    pub mime_type: String,
    /// Optional in what a Router is asked to support; present in what it then offers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_payload_type: Option<u8>,
    /// In Hz.
    pub clock_rate: u32,
    /// Audio only; 1 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<u8>,
    /// Format parameters.
    #[serde(default, deserialize_with = "lenient::null_as_default")]
    pub parameters: ParameterMap,
    /// RTCP feedback that the codec is used with.
    #[serde(default, deserialize_with = "lenient::known_entries")]
    pub rtcp_feedback: Vec<RtcpFeedback>,
}

impl RtpCodecCapability {
    /// Whether this is the repair codec of RFC 4588.
    #[must_use]
    pub fn is_rtx(&self) -> bool {
        is_rtx(&self.mime_type)
    }

    /// The payload type that an RTX codec repairs.
    #[must_use]
    pub fn associated_payload_type(&self) -> Option<u8> {
        associated_payload_type(&self.parameters)
    }
}

/// One kind of RTCP feedback (RFC 4585 section 4.2): `nack`, `nack pli`, `ccm fir`, `goog-remb`, `transport-cc`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RtcpFeedback {
    /// For example `nack`.
    #[serde(rename = "type")]
    pub feedback_type: String,
    /// For example `pli`; empty when there is none.
    #[serde(default, deserialize_with = "lenient::null_as_default")]
    pub parameter: String,
}

impl RtcpFeedback {
    /// Feedback of this type and parameter (empty: none).
    #[must_use]
    pub fn new(feedback_type: &str, parameter: &str) -> Self {
        Self { feedback_type: feedback_type.to_owned(), parameter: parameter.to_owned() }
    }

    /// Whether this is `feedback_type` with this very parameter.
    #[must_use]
    pub fn is(&self, feedback_type: &str, parameter: &str) -> bool {
        self.feedback_type == feedback_type && self.parameter == parameter
    }
}

/// A header extension that can be used (RFC 8285).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RtpHeaderExtension {
    /// The kind it is used with.
    pub kind: MediaKind,
    /// Its name.
    pub uri: String,
    /// Its number in a packet.
    pub preferred_id: u8,
    /// Whether it is sent encrypted (RFC 6904).
    #[serde(default, deserialize_with = "lenient::only_true")]
    pub preferred_encrypt: bool,
    /// Seen from the Router: `recvonly` is never offered to Consumers. Endpoints leave it out.
    #[serde(default, deserialize_with = "lenient::null_as_default")]
    pub direction: RtpHeaderExtensionDirection,
}

/// Which way a header extension is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RtpHeaderExtensionDirection {
    /// Both ways.
    #[default]
    SendRecv,
    /// Towards Consumers only.
    SendOnly,
    /// From Producers only.
    RecvOnly,
    /// Not at all; also what an unknown word is read as.
    #[serde(other)]
    Inactive,
}

impl RtpHeaderExtensionDirection {
    /// Whether Consumers may use it.
    #[must_use]
    pub fn sends(self) -> bool {
        matches!(self, Self::SendRecv | Self::SendOnly)
    }
}

pub(crate) fn is_rtx(mime_type: &str) -> bool {
    mime_type
        .split_once('/')
        .is_some_and(|(kind, subtype)| !kind.is_empty() && subtype.eq_ignore_ascii_case("rtx"))
}

pub(crate) fn associated_payload_type(parameters: &ParameterMap) -> Option<u8> {
    parameters.get("apt").and_then(ParameterValue::as_integer).and_then(|apt| u8::try_from(apt).ok())
}
