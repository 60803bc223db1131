//! What is sent on one stream: the parameters of a Producer or of a Consumer (W3C ORTC `RTCRtpParameters`, with
//! mediasoup's field names).

use serde::{Deserialize, Serialize};

use crate::{
    lenient,
    parameter_value::ParameterMap,
    rtp_capabilities::{self, RtcpFeedback},
};

/// How a Producer's encodings relate; the worker decides it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProducerType {
    /// One encoding.
    Simple,
    /// Several, in a stream each.
    Simulcast,
    /// One stream with several spatial or temporal layers.
    Svc,
}

/// What a Consumer does with the Producer's encodings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConsumerType {
    /// Forwards the only one.
    Simple,
    /// Forwards one of several streams.
    Simulcast,
    /// Forwards some layers of one stream.
    Svc,
    /// Forwards all of them, to another Router.
    Pipe,
}

impl From<ProducerType> for ConsumerType {
    fn from(value: ProducerType) -> Self {
        match value {
            ProducerType::Simple => Self::Simple,
            ProducerType::Simulcast => Self::Simulcast,
            ProducerType::Svc => Self::Svc,
        }
    }
}

/// Everything that describes one RTP sender.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RtpParameters {
    /// The media identification (RFC 8843), unique among the senders of one transport.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "lenient::optional_string")]
    pub mid: Option<String>,
    /// Media codecs, each followed by its RTX codec where it has one.
    pub codecs: Vec<RtpCodecParameters>,
    /// Header extensions in use.
    #[serde(default, deserialize_with = "lenient::null_as_default")]
    pub header_extensions: Vec<RtpHeaderExtensionParameters>,
    /// One entry a stream.
    #[serde(default, deserialize_with = "lenient::null_as_default")]
    pub encodings: Vec<RtpEncodingParameters>,
    /// RTCP settings.
    #[serde(default, deserialize_with = "lenient::null_as_default")]
    pub rtcp: RtcpParameters,
    /// The MediaStream and its track (RFC 8830).
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "lenient::optional_string")]
    pub msid: Option<String>,
}

/// One codec in use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RtpCodecParameters {
    /// For example `video/VP8`. Compared without regard to case.
    pub mime_type: String,
    /// The number in a packet.
    pub payload_type: u8,
    /// In Hz.
    pub clock_rate: u32,
    /// Audio only; 1 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<u8>,
    /// Format parameters.
    #[serde(default, deserialize_with = "lenient::null_as_default")]
    pub parameters: ParameterMap,
    /// RTCP feedback in use.
    #[serde(default, deserialize_with = "lenient::known_entries")]
    pub rtcp_feedback: Vec<RtcpFeedback>,
}

impl RtpCodecParameters {
    /// Whether this is the repair codec of RFC 4588.
    #[must_use]
    pub fn is_rtx(&self) -> bool {
        rtp_capabilities::is_rtx(&self.mime_type)
    }

    /// The payload type that an RTX codec repairs.
    #[must_use]
    pub fn associated_payload_type(&self) -> Option<u8> {
        rtp_capabilities::associated_payload_type(&self.parameters)
    }
}

/// A header extension in use (RFC 8285).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RtpHeaderExtensionParameters {
    /// Its name.
    pub uri: String,
    /// Its number in a packet.
    pub id: u8,
    /// Whether it is sent encrypted (RFC 6904).
    #[serde(default, deserialize_with = "lenient::only_true")]
    pub encrypt: bool,
    /// Extension parameters; nobody defines any today.
    #[serde(default, deserialize_with = "lenient::null_as_default")]
    pub parameters: ParameterMap,
}

/// One stream: named by SSRC or by RID.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RtpEncodingParameters {
    /// The stream's SSRC, where known beforehand.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "lenient::optional_ssrc")]
    pub ssrc: Option<u32>,
    /// The stream's RID (RFC 8852), where SSRCs are not signalled.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "lenient::optional_string")]
    pub rid: Option<String>,
    /// The codec of this stream, where it is not the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codec_payload_type: Option<u8>,
    /// The repair stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtx: Option<Rtx>,
    /// Whether the sender stays silent when there is nothing to say.
    #[serde(default, skip_serializing_if = "std::ops::Not::not", deserialize_with = "lenient::only_true")]
    pub dtx: bool,
    /// Layers, as W3C WebRTC-SVC names them; see [`crate::ScalabilityMode`].
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "lenient::optional_string")]
    pub scalability_mode: Option<String>,
    /// In bit/s.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient::optional_bitrate"
    )]
    pub max_bitrate: Option<u64>,
}

/// The repair stream of an encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rtx {
    /// Its SSRC.
    pub ssrc: u32,
}

/// RTCP settings of a sender.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RtcpParameters {
    /// The canonical name (RFC 3550 section 6.5.1).
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "lenient::optional_string")]
    pub cname: Option<String>,
    /// Whether RTCP packets may be short (RFC 5506). mediasoup always sets it.
    #[serde(default = "reduced_size_by_default")]
    pub reduced_size: bool,
}

impl Default for RtcpParameters {
    fn default() -> Self {
        Self { cname: None, reduced_size: true }
    }
}

fn reduced_size_by_default() -> bool {
    true
}
