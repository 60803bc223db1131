//! Fills in what mediasoup defaults, and refuses what contradicts itself.
//!
//! Capabilities of an endpoint are only put in order: what makes no sense in them is dropped. Parameters of a
//! Producer are refused when wrong, because media would flow by them.

use crate::{
    error::OrtcError,
    parameter_value::{ParameterMap, ParameterValue},
    rtp_capabilities::{MediaKind, RtpCapabilities, RtpCodecCapability},
    rtp_parameters::RtpParameters,
    transport_parameters::SctpStreamParameters,
};

/// Puts capabilities in order: the kind follows the MIME type, audio has one channel unless it says otherwise, video
/// has none, empty parameters are empty text. Codecs that are neither audio nor video, and RTX codecs that say not
/// whom they repair, are dropped.
pub fn normalize_rtp_capabilities(capabilities: &mut RtpCapabilities) {
    capabilities.codecs.retain_mut(|codec| normalize_codec_capability(codec).is_ok());
}

/// Puts a Producer's parameters in order, as [`normalize_rtp_capabilities`] does, and sets `rtcp.reducedSize`.
///
/// # Errors
/// [`OrtcError::NoCodecs`], [`OrtcError::InvalidMimeType`], [`OrtcError::InvalidParameter`] (an `apt` that is no
/// payload type).
pub fn validate_rtp_parameters(parameters: &mut RtpParameters) -> Result<(), OrtcError> {
    if parameters.codecs.is_empty() {
        return Err(OrtcError::NoCodecs);
    }
    for codec in &mut parameters.codecs {
        let kind = normalize_codec(&codec.mime_type, &mut codec.parameters)?;
        normalize_channels(kind, &mut codec.channels);
    }
    parameters.rtcp.reduced_size = true;
    Ok(())
}

/// Checks that every codec is of the Producer's kind, so that nobody sends video where only audio is allowed.
///
/// # Errors
/// [`OrtcError::KindMismatch`].
pub fn validate_kind(kind: MediaKind, parameters: &RtpParameters) -> Result<(), OrtcError> {
    match parameters.codecs.iter().find(|codec| MediaKind::of_mime_type(&codec.mime_type) != Some(kind)) {
        None => Ok(()),
        Some(codec) => {
            Err(OrtcError::KindMismatch { mime_type: codec.mime_type.clone(), kind: kind.as_str() })
        }
    }
}

/// Puts the parameters of an SCTP stream in order: ordered, unless a limit of partial reliability is given.
///
/// # Errors
/// [`OrtcError::ConflictingReliability`], [`OrtcError::OrderedWithLimits`].
pub fn validate_sctp_stream_parameters(parameters: &mut SctpStreamParameters) -> Result<(), OrtcError> {
    // Zero is as good as absent, as in JavaScript.
    let life_time = parameters.max_packet_life_time.is_some_and(|value| value > 0);
    let retransmits = parameters.max_retransmits.is_some_and(|value| value > 0);
    if life_time && retransmits {
        return Err(OrtcError::ConflictingReliability);
    }
    let limited = life_time || retransmits;
    match parameters.ordered {
        Some(true) if limited => Err(OrtcError::OrderedWithLimits),
        Some(_) => Ok(()),
        None => {
            parameters.ordered = Some(!limited);
            Ok(())
        }
    }
}

pub(crate) fn normalize_codec_capability(codec: &mut RtpCodecCapability) -> Result<(), OrtcError> {
    codec.kind = normalize_codec(&codec.mime_type, &mut codec.parameters)?;
    normalize_channels(codec.kind, &mut codec.channels);
    Ok(())
}

fn normalize_codec(mime_type: &str, parameters: &mut ParameterMap) -> Result<MediaKind, OrtcError> {
    let kind =
        MediaKind::of_mime_type(mime_type).ok_or_else(|| OrtcError::InvalidMimeType(mime_type.to_owned()))?;
    for (name, value) in parameters.iter_mut() {
        if *value == ParameterValue::Other(serde_json::Value::Null) {
            *value = ParameterValue::Text(String::new());
        }
        if name == "apt" && value.as_integer().and_then(|apt| u8::try_from(apt).ok()).is_none() {
            return Err(OrtcError::InvalidParameter { mime_type: mime_type.to_owned(), name: name.clone() });
        }
    }
    Ok(kind)
}

fn normalize_channels(kind: MediaKind, channels: &mut Option<u8>) {
    *channels = match kind {
        MediaKind::Audio => Some(channels.unwrap_or(1)),
        MediaKind::Video => None,
    };
}
