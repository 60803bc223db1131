//! RTP parameters as the schema carries them, checked once and turned into what the media path looks up.
//!
//! The checks and defaults are those of mediasoup's worker: the driver's library relies on both.

use rtc::codec::vp9::SpatialDependency;
use rtc::rtp::{ExtensionIds, ExtensionKind};
use worker_protocol::packed::PackedRtpParameters;
use worker_protocol::wire::rtp_parameters as wire;

use crate::error::{RequestError, RequestResult};

/// What a codec's MIME type means to the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the codecs' names")]
pub enum CodecKind {
    Opus,
    MultiOpus,
    Vp8,
    Vp9,
    H264,
    Av1,
    /// Audio without any structure that the worker would look at.
    OtherAudio,
    /// Comfort noise and telephone events.
    Complementary,
    Rtx,
    /// FEC and RED.
    OtherFeature,
}

impl CodecKind {
    /// Whether it carries media by itself.
    pub fn is_media(self) -> bool {
        !matches!(self, Self::Complementary | Self::Rtx | Self::OtherFeature)
    }

    /// Whether its packets tell key frames apart, so that a stream can be started on one.
    pub fn has_key_frames(self) -> bool {
        matches!(self, Self::Vp8 | Self::Vp9 | Self::H264 | Self::Av1)
    }

    /// Whether streams of this type may carry it.
    pub fn is_valid_for(self, kind: wire::Type) -> bool {
        match kind {
            wire::Type::Simple | wire::Type::Pipe => true,
            wire::Type::Simulcast => matches!(self, Self::Vp8 | Self::H264),
            wire::Type::Svc => matches!(self, Self::Vp8 | Self::Vp9 | Self::H264 | Self::Av1),
        }
    }
}

/// One codec.
#[derive(Debug, Clone)]
pub struct Codec {
    /// What it is.
    pub kind: CodecKind,
    /// `type/subtype` in its canonical spelling.
    pub mime_type: String,
    /// RTP payload type.
    pub payload_type: u8,
    /// RTP clock rate in Hz.
    pub clock_rate: u32,
    /// The payload type that an RTX codec repairs.
    pub apt: Option<u8>,
    /// Generic NACK is negotiated.
    pub use_nack: bool,
    /// PLI is negotiated.
    pub use_pli: bool,
    /// FIR is negotiated.
    pub use_fir: bool,
    /// transport-cc feedback is negotiated.
    pub use_transport_cc: bool,
    /// REMB is negotiated.
    pub use_remb: bool,
    /// Opus carries in-band FEC.
    pub use_in_band_fec: bool,
    /// Opus may stop sending in silence.
    pub use_dtx: bool,
}

/// One encoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoding {
    /// Its SSRC, where signalled.
    pub ssrc: Option<u32>,
    /// Its RID, where signalled.
    pub rid: Option<String>,
    /// Its media codec's payload type.
    pub payload_type: u8,
    /// An RTX stream is signalled, with this SSRC (0 where only its existence is known).
    pub rtx_ssrc: Option<u32>,
    /// DTX is in use.
    pub dtx: bool,
    /// Spatial layers, at least 1.
    pub spatial_layers: u8,
    /// Temporal layers, at least 1.
    pub temporal_layers: u8,
    /// How the spatial layers depend on each other.
    pub dependency: SpatialDependency,
    /// Bitrate limit in bit/s, 0 for none.
    pub max_bitrate: u64,
}

/// Checked RTP parameters.
#[derive(Debug, Clone)]
pub struct RtpParameters {
    /// As dumps show them: defaults filled in.
    pub wire: PackedRtpParameters,
    /// The MID, where there is one.
    pub mid: Option<String>,
    /// At least one, with at least one media codec among them.
    pub codecs: Vec<Codec>,
    /// At least one.
    pub encodings: Vec<Encoding>,
    /// Negotiated header extensions.
    pub extensions: ExtensionIds,
    /// RTCP CNAME, empty where not given.
    pub cname: String,
}

impl RtpParameters {
    /// Checks what came over the channel.
    ///
    /// # Errors
    /// A `TypeError` naming the first thing that is wrong.
    pub fn parse(mut data: wire::RtpParameters) -> RequestResult<Self> {
        let codecs = data.codecs.iter_mut().map(parse_codec).collect::<RequestResult<Vec<_>>>()?;
        if codecs.is_empty() {
            return Err(RequestError::type_error("empty codecs"));
        }
        check_codecs(&codecs)?;
        if data.encodings.is_empty() {
            return Err(RequestError::type_error("empty encodings"));
        }
        let first_media = codecs
            .iter()
            .find(|codec| codec.kind.is_media())
            .ok_or_else(|| RequestError::type_error("no media codecs found"))?
            .payload_type;
        let many = data.encodings.len() > 1;
        let mut encodings = Vec::with_capacity(data.encodings.len());
        for encoding in &mut data.encodings {
            let payload_type = *encoding.codec_payload_type.get_or_insert(first_media);
            match codecs.iter().find(|codec| codec.payload_type == payload_type) {
                None => return Err(RequestError::type_error("unknown codecPayloadType")),
                Some(codec) if !codec.kind.is_media() => {
                    return Err(RequestError::type_error("invalid codecPayloadType"));
                }
                Some(_) => {}
            }
            let parsed = parse_encoding(encoding, payload_type);
            if many && parsed.spatial_layers > 1 {
                return Err(RequestError::type_error(
                    "cannot use both simulcast and encodings with multiple SVC spatial layers",
                ));
            }
            encodings.push(parsed);
        }
        let mut extensions = ExtensionIds::default();
        for extension in &data.header_extensions {
            if extension.id == 0 {
                return Err(RequestError::type_error("RTP extension id cannot be 0"));
            }
            let kind = extension_kind(extension.uri);
            if extensions.id(kind) == 0 {
                extensions.set(kind, extension.id);
            }
        }
        let mid = data.mid.clone().filter(|mid| !mid.is_empty());
        let cname = data.rtcp.cname.clone().unwrap_or_default();
        Ok(Self { mid, cname, codecs, encodings, extensions, wire: PackedRtpParameters::new(&data) })
    }

    /// The media codec of an encoding.
    pub fn codec(&self, encoding: &Encoding) -> &Codec {
        self.codecs
            .iter()
            .find(|codec| codec.payload_type == encoding.payload_type)
            .expect("parse() made sure that each encoding has a codec")
    }

    /// The RTX codec of an encoding, if negotiated.
    pub fn rtx_codec(&self, encoding: &Encoding) -> Option<&Codec> {
        self.codecs
            .iter()
            .find(|codec| codec.kind == CodecKind::Rtx && codec.apt == Some(encoding.payload_type))
    }

    /// Whether these streams are one simple stream, simulcast, or layers in one stream.
    ///
    /// # Errors
    /// A `TypeError` for layers in a codec that has none.
    pub fn stream_type(&self) -> RequestResult<wire::Type> {
        let Some((first, [])) = self.encodings.split_first() else { return Ok(wire::Type::Simulcast) };
        if first.spatial_layers <= 1 && first.temporal_layers <= 1 {
            return Ok(wire::Type::Simple);
        }
        let codec = self.codec(first).kind;
        if codec.is_valid_for(wire::Type::Svc) {
            Ok(wire::Type::Svc)
        } else if codec.is_valid_for(wire::Type::Simulcast) {
            Ok(wire::Type::Simulcast)
        } else {
            Err(RequestError::type_error("invalid RTP parameters"))
        }
    }
}

/// The header extension that the schema's enumeration names.
pub fn extension_kind(uri: wire::RtpHeaderExtensionUri) -> ExtensionKind {
    match uri {
        wire::RtpHeaderExtensionUri::Mid => ExtensionKind::Mid,
        wire::RtpHeaderExtensionUri::RtpStreamId => ExtensionKind::Rid,
        wire::RtpHeaderExtensionUri::RepairRtpStreamId => ExtensionKind::RepairedRid,
        wire::RtpHeaderExtensionUri::AbsSendTime => ExtensionKind::AbsSendTime,
        wire::RtpHeaderExtensionUri::TransportWideCcDraft01 => ExtensionKind::TransportWideCc,
        wire::RtpHeaderExtensionUri::SsrcAudioLevel => ExtensionKind::SsrcAudioLevel,
        wire::RtpHeaderExtensionUri::DependencyDescriptor => ExtensionKind::DependencyDescriptor,
        wire::RtpHeaderExtensionUri::VideoOrientation => ExtensionKind::VideoOrientation,
        wire::RtpHeaderExtensionUri::TimeOffset => ExtensionKind::TimeOffset,
        wire::RtpHeaderExtensionUri::AbsCaptureTime => ExtensionKind::AbsCaptureTime,
        wire::RtpHeaderExtensionUri::PlayoutDelay => ExtensionKind::PlayoutDelay,
        wire::RtpHeaderExtensionUri::MediasoupPacketId => ExtensionKind::MediasoupPacketId,
    }
}

/// Turns one encoding of the schema into ours. `payload_type` is what it uses.
pub fn parse_encoding(encoding: &wire::RtpEncodingParameters, payload_type: u8) -> Encoding {
    let mode = encoding.scalability_mode.as_deref().unwrap_or_default();
    let (spatial_layers, temporal_layers) = scalability_layers(mode).unwrap_or((1, 1));
    Encoding {
        ssrc: encoding.ssrc.filter(|ssrc| *ssrc != 0),
        rid: encoding.rid.clone().filter(|rid| !rid.is_empty()),
        payload_type,
        rtx_ssrc: encoding.rtx.as_ref().map(|rtx| rtx.ssrc),
        dtx: encoding.dtx,
        spatial_layers,
        temporal_layers,
        dependency: spatial_dependency(mode),
        max_bitrate: encoding.max_bitrate.unwrap_or(0),
    }
}

/// Layers of either kind that a stream has at most; each costs memory, and no codec has more.
const MAX_LAYERS: u8 = 8;

/// `L3T2_KEY` is three spatial and two temporal layers.
pub fn scalability_layers(mode: &str) -> Option<(u8, u8)> {
    let rest = mode.strip_prefix(['L', 'S'])?;
    let (spatial, rest) = leading_number(rest)?;
    let (temporal, _) = leading_number(rest.strip_prefix('T')?)?;
    Some((spatial.min(MAX_LAYERS), temporal.min(MAX_LAYERS)))
}

/// `L3T3_KEY` has spatial layers that depend on each other in key frames only, `S3T3` has independent ones.
fn spatial_dependency(mode: &str) -> SpatialDependency {
    if mode.starts_with('S') || mode.contains("_KEY") {
        SpatialDependency::KeyOnly
    } else {
        SpatialDependency::Full
    }
}

/// One or two digits, the first not zero.
fn leading_number(text: &str) -> Option<(u8, &str)> {
    let digits = text.bytes().take(2).take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at_checked(digits)?;
    number.parse().ok().filter(|number| *number > 0).map(|number| (number, rest))
}

fn parse_codec(data: &mut wire::RtpCodecParameters) -> RequestResult<Codec> {
    let (kind, mime_type) = parse_mime(&data.mime_type)?;
    data.mime_type.clone_from(&mime_type);
    data.channels = data.channels.filter(|channels| *channels > 1);
    let parameters = data.parameters.get_or_insert_default();
    let integer = |name: &str| {
        parameters.iter().find(|parameter| parameter.name == name).and_then(|parameter| {
            match &parameter.value {
                wire::Value::Integer32(value) => Some(value.value),
                _ => None,
            }
        })
    };
    let apt = integer("apt");
    if kind == CodecKind::Rtx && apt.is_none_or(|apt| apt < 0) {
        return Err(RequestError::type_error("missing apt parameter in RTX codec"));
    }
    let use_in_band_fec = integer("useinbandfec") == Some(1);
    let use_dtx = integer("usedtx") == Some(1);
    let feedback = data.rtcp_feedback.get_or_insert_default();
    for entry in feedback.iter_mut() {
        entry.parameter = entry.parameter.take().filter(|parameter| !parameter.is_empty());
    }
    let has = |kind: &str, parameter: &str| {
        feedback
            .iter()
            .any(|entry| entry.type_ == kind && entry.parameter.as_deref().unwrap_or("") == parameter)
    };
    Ok(Codec {
        kind,
        mime_type,
        payload_type: data.payload_type,
        clock_rate: data.clock_rate,
        apt: apt.and_then(|apt| u8::try_from(apt).ok()),
        use_nack: has("nack", ""),
        use_pli: has("nack", "pli"),
        use_fir: has("ccm", "fir"),
        use_transport_cc: feedback.iter().any(|entry| entry.type_ == "transport-cc"),
        use_remb: feedback.iter().any(|entry| entry.type_ == "goog-remb"),
        use_in_band_fec,
        use_dtx,
    })
}

fn check_codecs(codecs: &[Codec]) -> RequestResult<()> {
    for (position, codec) in codecs.iter().enumerate() {
        if codecs.iter().take(position).any(|other| other.payload_type == codec.payload_type) {
            return Err(RequestError::type_error("duplicated payloadType"));
        }
        if codec.kind != CodecKind::Rtx {
            continue;
        }
        match codecs.iter().find(|other| Some(other.payload_type) == codec.apt) {
            None => return Err(RequestError::type_error("apt in RTX codec points to a non existing codec")),
            Some(other) if matches!(other.kind, CodecKind::Rtx | CodecKind::OtherFeature) => {
                return Err(RequestError::type_error(format!(
                    "apt in RTX codec points to a codec without media ({})",
                    other.mime_type
                )));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn parse_mime(text: &str) -> RequestResult<(CodecKind, String)> {
    let (kind, subtype) = text
        .split_once('/')
        .filter(|(kind, subtype)| !kind.is_empty() && !subtype.is_empty())
        .ok_or_else(|| RequestError::type_error("wrong codec MIME"))?;
    let kind = kind.to_ascii_lowercase();
    if kind != "audio" && kind != "video" {
        return Err(RequestError::type_error(format!("unknown codec MIME type '{kind}'")));
    }
    let (codec, canonical) = match subtype.to_ascii_lowercase().as_str() {
        "opus" => (CodecKind::Opus, "opus"),
        "multiopus" => (CodecKind::MultiOpus, "multiopus"),
        "pcma" => (CodecKind::OtherAudio, "PCMA"),
        "pcmu" => (CodecKind::OtherAudio, "PCMU"),
        "isac" => (CodecKind::OtherAudio, "ISAC"),
        "g722" => (CodecKind::OtherAudio, "G722"),
        "ilbc" => (CodecKind::OtherAudio, "iLBC"),
        "silk" => (CodecKind::OtherAudio, "SILK"),
        "vp8" => (CodecKind::Vp8, "VP8"),
        "vp9" => (CodecKind::Vp9, "VP9"),
        "h264" => (CodecKind::H264, "H264"),
        "av1" => (CodecKind::Av1, "AV1"),
        "cn" => (CodecKind::Complementary, "CN"),
        "telephone-event" => (CodecKind::Complementary, "telephone-event"),
        "rtx" => (CodecKind::Rtx, "rtx"),
        "ulpfec" => (CodecKind::OtherFeature, "ulpfec"),
        "flexfec" => (CodecKind::OtherFeature, "flexfec"),
        "x-ulpfecuc" => (CodecKind::OtherFeature, "x-ulpfecuc"),
        "red" => (CodecKind::OtherFeature, "red"),
        other => return Err(RequestError::type_error(format!("unknown codec MIME subtype '{other}'"))),
    };
    Ok((codec, format!("{kind}/{canonical}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codec(mime: &str, payload_type: u8, apt: Option<i32>) -> wire::RtpCodecParameters {
        wire::RtpCodecParameters {
            mime_type: mime.to_owned(),
            payload_type,
            clock_rate: 90_000,
            channels: None,
            parameters: apt.map(|apt| {
                vec![wire::Parameter {
                    name: "apt".to_owned(),
                    value: wire::Value::Integer32(Box::new(wire::Integer32 { value: apt })),
                }]
            }),
            rtcp_feedback: None,
        }
    }

    fn parameters(codecs: Vec<wire::RtpCodecParameters>, encodings: usize) -> wire::RtpParameters {
        wire::RtpParameters {
            codecs,
            encodings: vec![wire::RtpEncodingParameters::default(); encodings],
            ..wire::RtpParameters::default()
        }
    }

    #[test]
    fn scalability_modes() {
        for (mode, layers) in [
            ("L1T3", Some((1, 3))),
            ("S3T3h", Some((3, 3))),
            ("L12T2_KEY_SHIFT", Some((8, 2))),
            ("L99T99", Some((8, 8))),
            ("L0T1", None),
            ("3T3", None),
            ("LT", None),
        ] {
            assert_eq!(scalability_layers(mode), layers, "{mode}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (data, expected) in [
            (parameters(vec![], 1), "empty codecs"),
            (parameters(vec![codec("video/VP8", 96, None)], 0), "empty encodings"),
            (parameters(vec![codec("VP8", 96, None)], 1), "wrong codec MIME"),
            (parameters(vec![codec("video/h265000", 96, None)], 1), "unknown codec MIME subtype 'h265000'"),
            (parameters(vec![codec("video/rtx", 97, None)], 1), "missing apt"),
            (
                parameters(vec![codec("video/vp8", 96, None), codec("video/rtx", 97, Some(98))], 1),
                "non existing",
            ),
            (parameters(vec![codec("video/vp8", 96, None), codec("video/vp9", 96, None)], 1), "duplicated"),
        ] {
            let error = RtpParameters::parse(data).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn defaults_are_filled_in() {
        let data = parameters(vec![codec("video/vp8", 96, None), codec("video/RTX", 97, Some(96))], 2);
        let parsed = RtpParameters::parse(data).unwrap();
        assert_eq!(parsed.wire.unpack().codecs[0].mime_type, "video/VP8");
        assert_eq!(parsed.wire.unpack().encodings[1].codec_payload_type, Some(96));
        assert_eq!(parsed.rtx_codec(&parsed.encodings[0]).unwrap().payload_type, 97);
        assert_eq!(parsed.stream_type().unwrap(), wire::Type::Simulcast);
    }
}
