//! From what endpoints can do to what is sent: a Router's capabilities, how a Producer's numbers become the
//! Router's, and what a Consumer receives. The rules are those of mediasoup 3.27's Node library.

use serde::{Deserialize, Serialize};

use crate::{
    codec_matching::{Match, Strictness, match_codecs},
    error::OrtcError,
    parameter_value::{ParameterMap, ParameterValue},
    rtp_capabilities::{MediaKind, RtcpFeedback, RtpCapabilities, RtpCodecCapability},
    rtp_parameters::{
        RtcpParameters, RtpCodecParameters, RtpEncodingParameters, RtpHeaderExtensionParameters,
        RtpParameters, Rtx,
    },
    scalability_mode::ScalabilityMode,
    supported::{supported_rtp_capabilities, uri},
    validation,
};

/// Dynamic payload types in the order in which mediasoup hands them out: 100 to 127, then 96 to 99.
fn dynamic_payload_types() -> Vec<u8> {
    (100..=127).chain(96..=99).collect()
}

/// How a Producer's payload types and streams are numbered within the Router.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RtpMapping {
    /// Media codecs first, then RTX codecs.
    pub codecs: Vec<CodecMapping>,
    /// In the order of the Producer's encodings.
    pub encodings: Vec<EncodingMapping>,
}

/// One payload type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CodecMapping {
    /// The Producer's.
    pub payload_type: u8,
    /// The Router's.
    pub mapped_payload_type: u8,
}

/// One stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EncodingMapping {
    /// The Producer's RID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rid: Option<String>,
    /// The Producer's SSRC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssrc: Option<u32>,
    /// The Router's SSRC.
    pub mapped_ssrc: u32,
}

/// The SSRCs that a Consumer sends with; the caller draws them at random.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsumerSsrcs {
    /// Of the first media stream; further ones follow it.
    pub ssrc: u32,
    /// Of the first RTX stream; `None` turns RTX and NACK off.
    pub rtx_ssrc: Option<u32>,
}

/// What a Router that forwards `media_codecs` offers its endpoints: each with mediasoup's feedback and, for video, an
/// RTX codec, under payload types of the Router's own.
///
/// # Errors
/// [`OrtcError::UnsupportedMediaCodec`], [`OrtcError::InvalidMimeType`], [`OrtcError::InvalidParameter`],
/// [`OrtcError::DuplicatePayloadType`], [`OrtcError::PayloadTypesExhausted`].
pub fn generate_router_rtp_capabilities(
    media_codecs: &[RtpCodecCapability],
) -> Result<RtpCapabilities, OrtcError> {
    let supported = supported_rtp_capabilities();
    let mut free = dynamic_payload_types().into_iter().collect::<std::collections::VecDeque<_>>();
    let mut codecs: Vec<RtpCodecCapability> = Vec::new();
    for media_codec in media_codecs {
        let mut media_codec = media_codec.clone();
        validation::normalize_codec_capability(&mut media_codec)?;
        let mut codec = supported
            .codecs
            .iter()
            .find(|known| match_codecs(&media_codec, *known, Strictness::Loose).is_some())
            .cloned()
            .ok_or_else(|| OrtcError::UnsupportedMediaCodec {
                mime_type: media_codec.mime_type.clone(),
                clock_rate: media_codec.clock_rate,
            })?;
        let payload_type = if let Some(wanted) = media_codec.preferred_payload_type {
            free.retain(|payload_type| *payload_type != wanted);
            wanted
        } else if let Some(fixed) = codec.preferred_payload_type {
            fixed
        } else {
            free.pop_front().ok_or(OrtcError::PayloadTypesExhausted)?
        };
        if codecs.iter().any(|other| other.preferred_payload_type == Some(payload_type)) {
            return Err(OrtcError::DuplicatePayloadType(payload_type));
        }
        codec.preferred_payload_type = Some(payload_type);
        codec.parameters.append(&mut media_codec.parameters);
        let rtx = match codec.kind {
            MediaKind::Audio => None,
            MediaKind::Video => Some(rtx_capability(
                &codec,
                payload_type,
                free.pop_front().ok_or(OrtcError::PayloadTypesExhausted)?,
            )),
        };
        codecs.push(codec);
        codecs.extend(rtx);
    }
    Ok(RtpCapabilities { codecs, header_extensions: supported.header_extensions })
}

/// How a Producer with these parameters is numbered within a Router of these capabilities. Encodings get
/// `first_mapped_ssrc` and those after it. The parameters' H264 `profile-level-id` becomes the negotiated one.
///
/// # Errors
/// [`OrtcError::UnsupportedCodec`], [`OrtcError::OrphanRtxCodec`], [`OrtcError::NoRouterRtxCodec`].
pub fn producer_rtp_parameters_mapping(
    parameters: &mut RtpParameters,
    router_capabilities: &RtpCapabilities,
    first_mapped_ssrc: u32,
) -> Result<RtpMapping, OrtcError> {
    let mut codecs = Vec::with_capacity(parameters.codecs.len());
    for codec in parameters.codecs.iter_mut().filter(|codec| !codec.is_rtx()) {
        let (mapped_payload_type, agreed) = router_capabilities
            .codecs
            .iter()
            .find_map(|capability| {
                let agreed = match_codecs(&*codec, capability, Strictness::Strict)?;
                Some((capability.preferred_payload_type?, agreed))
            })
            .ok_or_else(|| OrtcError::UnsupportedCodec {
                mime_type: codec.mime_type.clone(),
                payload_type: codec.payload_type,
            })?;
        if let Match::ProfileLevelId(agreed) = agreed {
            match agreed {
                Some(id) => codec.parameters.insert("profile-level-id".to_owned(), id.to_string().into()),
                None => codec.parameters.remove("profile-level-id"),
            };
        }
        codecs.push(CodecMapping { payload_type: codec.payload_type, mapped_payload_type });
    }
    let media_codecs = codecs.len();
    for codec in parameters.codecs.iter().filter(|codec| codec.is_rtx()) {
        let repaired = codecs
            .iter()
            .take(media_codecs)
            .find(|mapping| Some(mapping.payload_type) == codec.associated_payload_type())
            .ok_or(OrtcError::OrphanRtxCodec(codec.payload_type))?
            .mapped_payload_type;
        let mapped_payload_type = rtx_codec_for(router_capabilities, repaired)
            .and_then(|capability| capability.preferred_payload_type)
            .ok_or(OrtcError::NoRouterRtxCodec(repaired))?;
        codecs.push(CodecMapping { payload_type: codec.payload_type, mapped_payload_type });
    }
    let encodings = parameters
        .encodings
        .iter()
        .zip(consecutive(first_mapped_ssrc))
        .map(|(encoding, mapped_ssrc)| EncodingMapping {
            rid: encoding.rid.clone(),
            ssrc: encoding.ssrc,
            mapped_ssrc,
        })
        .collect();
    Ok(RtpMapping { codecs, encodings })
}

/// What Consumers of this Producer can get, in the Router's numbers: its codecs with the Router's feedback, the
/// header extensions that the Router sends, and its encodings under their mapped SSRCs.
///
/// # Errors
/// [`OrtcError::UnmappedPayloadType`] where `mapping` belongs to other parameters.
pub fn consumable_rtp_parameters(
    kind: MediaKind,
    parameters: &RtpParameters,
    router_capabilities: &RtpCapabilities,
    mapping: &RtpMapping,
) -> Result<RtpParameters, OrtcError> {
    let mut codecs = Vec::new();
    for codec in parameters.codecs.iter().filter(|codec| !codec.is_rtx()) {
        let unmapped = OrtcError::UnmappedPayloadType(codec.payload_type);
        let Some(mapped) = mapping.codecs.iter().find(|entry| entry.payload_type == codec.payload_type)
        else {
            return Err(unmapped);
        };
        let payload_type = mapped.mapped_payload_type;
        let capability = router_capabilities
            .codecs
            .iter()
            .find(|capability| capability.preferred_payload_type == Some(payload_type))
            .ok_or(unmapped)?;
        codecs.push(RtpCodecParameters {
            parameters: codec.parameters.clone(),
            ..codec_parameters(capability, payload_type)
        });
        if let Some(rtx) = rtx_codec_for(router_capabilities, payload_type)
            && let Some(rtx_payload_type) = rtx.preferred_payload_type
        {
            codecs.push(codec_parameters(rtx, rtx_payload_type));
        }
    }
    let header_extensions = router_capabilities
        .header_extensions
        .iter()
        .filter(|extension| extension.kind == kind && extension.direction.sends())
        // The capture time is passed on, never made up: without it coming in, a receiver would wait for it in vain.
        .filter(|extension| {
            let is_sent = || parameters.header_extensions.iter().any(|sent| sent.uri == extension.uri);
            match extension.uri.as_str() {
                uri::ABS_CAPTURE_TIME => is_sent(),
                uri::DEPENDENCY_DESCRIPTOR => is_sent() && needs_dependency_descriptor(parameters),
                _ => true,
            }
        })
        .map(|extension| RtpHeaderExtensionParameters {
            uri: extension.uri.clone(),
            id: extension.preferred_id,
            encrypt: extension.preferred_encrypt,
            parameters: ParameterMap::new(),
        })
        .collect();
    let encodings = parameters
        .encodings
        .iter()
        .zip(&mapping.encodings)
        .map(|(encoding, mapped)| RtpEncodingParameters {
            ssrc: Some(mapped.mapped_ssrc),
            rid: None,
            rtx: None,
            codec_payload_type: None,
            ..encoding.clone()
        })
        .collect();
    Ok(RtpParameters {
        mid: None,
        codecs,
        header_extensions,
        encodings,
        rtcp: RtcpParameters { cname: parameters.rtcp.cname.clone(), reduced_size: true },
        msid: parameters.msid.clone(),
    })
}

/// Whether an endpoint of these capabilities can receive at least one media codec of a Producer.
#[must_use]
pub fn can_consume(consumable: &RtpParameters, capabilities: &RtpCapabilities) -> bool {
    consumable.codecs.iter().any(|codec| !codec.is_rtx() && capability_for(codec, capabilities).is_some())
}

/// What an endpoint of these capabilities is sent: the codecs and header extensions that it knows, in one encoding.
/// Congestion control is by transport-wide feedback where possible, else by REMB, else none.
///
/// # Errors
/// [`OrtcError::NoCompatibleMediaCodecs`].
pub fn consumer_rtp_parameters(
    consumable: &RtpParameters,
    capabilities: &RtpCapabilities,
    ssrcs: ConsumerSsrcs,
) -> Result<RtpParameters, OrtcError> {
    let enable_rtx = ssrcs.rtx_ssrc.is_some();
    let mut codecs: Vec<RtpCodecParameters> = Vec::new();
    for codec in consumable.codecs.iter().filter(|codec| enable_rtx || !codec.is_rtx()) {
        let Some(capability) = capability_for(codec, capabilities) else { continue };
        let rtcp_feedback = capability
            .rtcp_feedback
            .iter()
            .filter(|feedback| enable_rtx || !feedback.is("nack", ""))
            .cloned()
            .collect();
        codecs.push(RtpCodecParameters { rtcp_feedback, ..codec.clone() });
    }
    drop_orphan_rtx(&mut codecs);
    if codecs.first().is_none_or(RtpCodecParameters::is_rtx) {
        return Err(OrtcError::NoCompatibleMediaCodecs);
    }
    let header_extensions: Vec<_> = consumable
        .header_extensions
        .iter()
        .filter(|extension| {
            let known = &capabilities.header_extensions;
            known.iter().any(|known| known.preferred_id == extension.id && known.uri == extension.uri)
        })
        .cloned()
        .collect();
    let useless = useless_feedback(&header_extensions);
    for codec in &mut codecs {
        codec.rtcp_feedback.retain(|feedback| !useless.contains(&feedback.feedback_type.as_str()));
    }
    let rtx_ssrc = ssrcs.rtx_ssrc.filter(|_| codecs.iter().any(RtpCodecParameters::is_rtx));
    Ok(RtpParameters {
        mid: None,
        codecs,
        header_extensions,
        encodings: vec![RtpEncodingParameters {
            ssrc: Some(ssrcs.ssrc),
            rtx: rtx_ssrc.map(|ssrc| Rtx { ssrc }),
            scalability_mode: consumer_scalability_mode(&consumable.encodings),
            max_bitrate: consumable.encodings.iter().filter_map(|encoding| encoding.max_bitrate).max(),
            ..RtpEncodingParameters::default()
        }],
        rtcp: consumable.rtcp.clone(),
        msid: consumable.msid.clone(),
    })
}

/// What another Router is sent: all codecs and encodings, with key frame requests (and NACK and RTX where
/// `ssrcs.rtx_ssrc` is given) as the only feedback, and without MID and congestion control.
#[must_use]
pub fn pipe_consumer_rtp_parameters(consumable: &RtpParameters, ssrcs: ConsumerSsrcs) -> RtpParameters {
    let enable_rtx = ssrcs.rtx_ssrc.is_some();
    let kept = |feedback: &RtcpFeedback| {
        feedback.is("nack", "pli") || feedback.is("ccm", "fir") || (enable_rtx && feedback.is("nack", ""))
    };
    let codecs: Vec<_> = consumable
        .codecs
        .iter()
        .filter(|codec| enable_rtx || !codec.is_rtx())
        .map(|codec| RtpCodecParameters {
            rtcp_feedback: codec.rtcp_feedback.iter().filter(|feedback| kept(feedback)).cloned().collect(),
            ..codec.clone()
        })
        .collect();
    let mut header_extensions: Vec<_> = consumable
        .header_extensions
        .iter()
        .filter(|extension| {
            ![uri::MID, uri::ABS_SEND_TIME, uri::TRANSPORT_WIDE_CC].contains(&extension.uri.as_str())
        })
        .cloned()
        .collect();
    // Whatever endpoints are offered, the next Router needs the dependency descriptor to choose layers.
    let is_descriptor = |uri: &str| uri == uri::DEPENDENCY_DESCRIPTOR;
    let offered = header_extensions.iter().any(|extension| is_descriptor(&extension.uri));
    let descriptor = supported_rtp_capabilities()
        .header_extensions
        .into_iter()
        .find(|extension| !offered && is_descriptor(&extension.uri));
    header_extensions.extend(descriptor.map(|extension| RtpHeaderExtensionParameters {
        uri: extension.uri,
        id: extension.preferred_id,
        encrypt: extension.preferred_encrypt,
        parameters: ParameterMap::new(),
    }));
    header_extensions.sort_by_key(|extension| extension.id);
    let first_rtx_ssrc = ssrcs.rtx_ssrc.filter(|_| codecs.iter().any(RtpCodecParameters::is_rtx));
    let encodings = consumable
        .encodings
        .iter()
        .zip(consecutive(0))
        .map(|(encoding, offset)| RtpEncodingParameters {
            ssrc: Some(ssrcs.ssrc.wrapping_add(offset)),
            rtx: first_rtx_ssrc.map(|first| Rtx { ssrc: first.wrapping_add(offset) }),
            ..encoding.clone()
        })
        .collect();
    RtpParameters {
        mid: None,
        codecs,
        header_extensions,
        encodings,
        rtcp: consumable.rtcp.clone(),
        msid: consumable.msid.clone(),
    }
}

/// Whether receivers need the dependency descriptor. Browsers tell AV1's spatial layers apart by nothing else. With
/// several streams to switch between it would have to be numbered anew, and other codecs do without.
fn needs_dependency_descriptor(parameters: &RtpParameters) -> bool {
    let is_av1 = |codec: &RtpCodecParameters| codec.mime_type.eq_ignore_ascii_case("video/AV1");
    parameters.encodings.len() == 1 && parameters.codecs.first().is_some_and(is_av1)
}

fn rtx_capability(codec: &RtpCodecCapability, apt: u8, payload_type: u8) -> RtpCodecCapability {
    RtpCodecCapability {
        kind: codec.kind,
        mime_type: format!("{}/rtx", codec.kind.as_str()),
        preferred_payload_type: Some(payload_type),
        clock_rate: codec.clock_rate,
        channels: None,
        parameters: ParameterMap::from([("apt".to_owned(), ParameterValue::Integer(i32::from(apt)))]),
        rtcp_feedback: Vec::new(),
    }
}

fn rtx_codec_for(capabilities: &RtpCapabilities, payload_type: u8) -> Option<&RtpCodecCapability> {
    capabilities
        .codecs
        .iter()
        .find(|codec| codec.is_rtx() && codec.associated_payload_type() == Some(payload_type))
}

fn codec_parameters(capability: &RtpCodecCapability, payload_type: u8) -> RtpCodecParameters {
    RtpCodecParameters {
        mime_type: capability.mime_type.clone(),
        payload_type,
        clock_rate: capability.clock_rate,
        channels: capability.channels,
        parameters: capability.parameters.clone(),
        rtcp_feedback: capability.rtcp_feedback.clone(),
    }
}

fn capability_for<'a>(
    codec: &RtpCodecParameters,
    capabilities: &'a RtpCapabilities,
) -> Option<&'a RtpCodecCapability> {
    capabilities
        .codecs
        .iter()
        .find(|capability| match_codecs(*capability, codec, Strictness::Strict).is_some())
}

/// Takes out RTX codecs whose media codec the endpoint does not know.
fn drop_orphan_rtx(codecs: &mut Vec<RtpCodecParameters>) {
    let media: Vec<u8> =
        codecs.iter().filter(|codec| !codec.is_rtx()).map(|codec| codec.payload_type).collect();
    codecs.retain(|codec| {
        !codec.is_rtx()
            || codec.associated_payload_type().is_some_and(|payload_type| media.contains(&payload_type))
    });
}

/// Feedback that congestion control will not use, given the header extensions in use.
fn useless_feedback(extensions: &[RtpHeaderExtensionParameters]) -> &'static [&'static str] {
    let uses = |uri| extensions.iter().any(|extension| extension.uri == uri);
    if uses(uri::TRANSPORT_WIDE_CC) {
        &["goog-remb"]
    } else if uses(uri::ABS_SEND_TIME) {
        &["transport-cc"]
    } else {
        &["transport-cc", "goog-remb"]
    }
}

/// All encodings are taken to have the temporal layers of the first that names any; simulcast streams count as
/// spatial layers.
fn consumer_scalability_mode(encodings: &[RtpEncodingParameters]) -> Option<String> {
    let named = encodings.iter().find_map(|encoding| encoding.scalability_mode.clone());
    if encodings.len() > 1 {
        let temporal_layers = ScalabilityMode::parse(named.as_deref().unwrap_or_default()).temporal_layers;
        Some(format!("L{}T{temporal_layers}", encodings.len()))
    } else {
        named
    }
}

/// `first`, and what follows it, around the end of the number space.
fn consecutive(first: u32) -> impl Iterator<Item = u32> {
    (0..=u32::MAX).map(move |offset| first.wrapping_add(offset))
}
