//! When two descriptions mean the same codec.

use crate::{
    h264,
    parameter_value::{ParameterMap, ParameterValue},
    rtp_capabilities::{MediaKind, RtpCodecCapability},
    rtp_parameters::RtpCodecParameters,
};

/// How closely two codecs are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strictness {
    /// Name, clock rate and channels.
    Loose,
    /// Also what a decoder must know: H264's packetization mode and profile, VP9's profile.
    Strict,
}

/// What two matching codecs agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Match {
    /// Nothing needs to change.
    AsIs,
    /// H264: the first one's `profile-level-id` becomes this, or goes where it is `None`.
    ProfileLevelId(Option<h264::ProfileLevelId>),
}

/// The part of a codec that counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CodecView<'a> {
    mime_type: &'a str,
    clock_rate: u32,
    channels: Option<u8>,
    parameters: &'a ParameterMap,
}

impl<'a> From<&'a RtpCodecCapability> for CodecView<'a> {
    fn from(codec: &'a RtpCodecCapability) -> Self {
        Self {
            mime_type: &codec.mime_type,
            clock_rate: codec.clock_rate,
            channels: codec.channels,
            parameters: &codec.parameters,
        }
    }
}

impl<'a> From<&'a RtpCodecParameters> for CodecView<'a> {
    fn from(codec: &'a RtpCodecParameters) -> Self {
        Self {
            mime_type: &codec.mime_type,
            clock_rate: codec.clock_rate,
            channels: codec.channels,
            parameters: &codec.parameters,
        }
    }
}

impl CodecView<'_> {
    /// Channels count in audio only, where none given means one.
    fn effective_channels(&self) -> u8 {
        match MediaKind::of_mime_type(self.mime_type) {
            Some(MediaKind::Audio) => self.channels.unwrap_or(1),
            Some(MediaKind::Video) | None => 0,
        }
    }

    /// A whole number, 0 where it is absent: the default of all parameters compared here.
    fn integer(&self, name: &str) -> i32 {
        self.parameters.get(name).and_then(ParameterValue::as_integer).unwrap_or(0)
    }
}

/// Whether `a` and `b` mean one codec, and what they agreed on.
pub(crate) fn match_codecs<'a>(
    a: impl Into<CodecView<'a>>,
    b: impl Into<CodecView<'a>>,
    strictness: Strictness,
) -> Option<Match> {
    let (a, b) = (a.into(), b.into());
    if !a.mime_type.eq_ignore_ascii_case(b.mime_type)
        || a.clock_rate != b.clock_rate
        || a.effective_channels() != b.effective_channels()
    {
        return None;
    }
    let same = |name| a.integer(name) == b.integer(name);
    let strict = strictness == Strictness::Strict;
    match a.mime_type.to_ascii_lowercase().as_str() {
        "audio/multiopus" => (same("num_streams") && same("coupled_streams")).then_some(Match::AsIs),
        "video/vp9" if strict => same("profile-id").then_some(Match::AsIs),
        "video/h264" if strict && !same("packetization-mode") => None,
        "video/h264" if strict => h264::answer(a.parameters, b.parameters).map(Match::ProfileLevelId),
        _ => Some(Match::AsIs),
    }
}
