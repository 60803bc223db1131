//! Parameters between `ortc`'s types and the channel's. What the wire has no word for (unknown header extensions,
//! parameters that are neither numbers nor text) stays here.

use ortc::{
    ConsumerType, DtlsFingerprint, DtlsParameters, DtlsRole, FingerprintAlgorithm, IceCandidate,
    IceCandidateType, IceParameters, MediaKind, ParameterMap, ParameterValue, ProducerType, RtcpFeedback,
    RtpEncodingParameters, RtpMapping, RtpParameters, SctpParameters, SctpStreamParameters, SrtpCryptoSuite,
    SrtpParameters, TcpCandidateType, TransportProtocol, uri,
};
use worker_protocol::wire::{
    rtp_parameters as rtp, sctp_parameters as sctp, srtp_parameters as srtp, transport,
    web_rtc_transport as web,
};

pub(crate) fn kind_to_wire(kind: MediaKind) -> rtp::MediaKind {
    match kind {
        MediaKind::Audio => rtp::MediaKind::Audio,
        MediaKind::Video => rtp::MediaKind::Video,
    }
}

pub(crate) fn kind_from_wire(kind: rtp::MediaKind) -> MediaKind {
    match kind {
        rtp::MediaKind::Audio => MediaKind::Audio,
        rtp::MediaKind::Video => MediaKind::Video,
    }
}

pub(crate) fn protocol_from_wire(protocol: transport::Protocol) -> TransportProtocol {
    match protocol {
        transport::Protocol::Udp => TransportProtocol::Udp,
        transport::Protocol::Tcp => TransportProtocol::Tcp,
    }
}

pub(crate) fn consumer_type_to_wire(consumer_type: ConsumerType) -> rtp::Type {
    match consumer_type {
        ConsumerType::Simple => rtp::Type::Simple,
        ConsumerType::Simulcast => rtp::Type::Simulcast,
        ConsumerType::Svc => rtp::Type::Svc,
        ConsumerType::Pipe => rtp::Type::Pipe,
    }
}

/// `None` for `Pipe`, which no Producer is.
pub(crate) fn producer_type_from_wire(producer_type: rtp::Type) -> Option<ProducerType> {
    match producer_type {
        rtp::Type::Simple => Some(ProducerType::Simple),
        rtp::Type::Simulcast => Some(ProducerType::Simulcast),
        rtp::Type::Svc => Some(ProducerType::Svc),
        rtp::Type::Pipe => None,
    }
}

pub(crate) fn rtp_parameters_to_wire(parameters: &RtpParameters) -> rtp::RtpParameters {
    rtp::RtpParameters {
        mid: parameters.mid.clone(),
        codecs: parameters
            .codecs
            .iter()
            .map(|codec| rtp::RtpCodecParameters {
                mime_type: codec.mime_type.clone(),
                payload_type: codec.payload_type,
                clock_rate: codec.clock_rate,
                channels: codec.channels,
                parameters: Some(parameter_map_to_wire(&codec.parameters)),
                rtcp_feedback: Some(codec.rtcp_feedback.iter().map(feedback_to_wire).collect()),
            })
            .collect(),
        header_extensions: parameters
            .header_extensions
            .iter()
            .filter_map(|extension| {
                Some(rtp::RtpHeaderExtensionParameters {
                    uri: uri_to_wire(&extension.uri)?,
                    id: extension.id,
                    encrypt: extension.encrypt,
                    parameters: Some(parameter_map_to_wire(&extension.parameters)),
                })
            })
            .collect(),
        encodings: encodings_to_wire(&parameters.encodings),
        rtcp: Box::new(rtp::RtcpParameters {
            cname: parameters.rtcp.cname.clone(),
            reduced_size: parameters.rtcp.reduced_size,
        }),
        msid: parameters.msid.clone(),
    }
}

pub(crate) fn encodings_to_wire(encodings: &[RtpEncodingParameters]) -> Vec<rtp::RtpEncodingParameters> {
    encodings
        .iter()
        .map(|encoding| rtp::RtpEncodingParameters {
            ssrc: encoding.ssrc,
            rid: encoding.rid.clone(),
            codec_payload_type: encoding.codec_payload_type,
            rtx: encoding.rtx.map(|rtx| Box::new(rtp::Rtx { ssrc: rtx.ssrc })),
            dtx: encoding.dtx,
            scalability_mode: encoding.scalability_mode.clone(),
            max_bitrate: encoding.max_bitrate,
        })
        .collect()
}

pub(crate) fn mapping_to_wire(mapping: &RtpMapping) -> rtp::RtpMapping {
    rtp::RtpMapping {
        codecs: mapping
            .codecs
            .iter()
            .map(|entry| rtp::CodecMapping {
                payload_type: entry.payload_type,
                mapped_payload_type: entry.mapped_payload_type,
            })
            .collect(),
        encodings: mapping
            .encodings
            .iter()
            .map(|entry| rtp::EncodingMapping {
                rid: entry.rid.clone(),
                ssrc: entry.ssrc,
                mapped_ssrc: entry.mapped_ssrc,
            })
            .collect(),
    }
}

fn feedback_to_wire(feedback: &RtcpFeedback) -> rtp::RtcpFeedback {
    rtp::RtcpFeedback { type_: feedback.feedback_type.clone(), parameter: Some(feedback.parameter.clone()) }
}

fn parameter_map_to_wire(parameters: &ParameterMap) -> Vec<rtp::Parameter> {
    parameters
        .iter()
        .filter_map(|(name, value)| {
            let value = match value {
                ParameterValue::Boolean(value) => {
                    rtp::Value::Boolean(Box::new(rtp::Boolean { value: u8::from(*value) }))
                }
                ParameterValue::Integer(value) => {
                    rtp::Value::Integer32(Box::new(rtp::Integer32 { value: *value }))
                }
                ParameterValue::Number(value) => rtp::Value::Double(Box::new(rtp::Double { value: *value })),
                ParameterValue::Text(value) => {
                    rtp::Value::String(Box::new(rtp::String { value: value.clone() }))
                }
                ParameterValue::Integers(value) => {
                    rtp::Value::Integer32Array(Box::new(rtp::Integer32Array { value: Some(value.clone()) }))
                }
                ParameterValue::Other(_) => return None,
            };
            Some(rtp::Parameter { name: name.clone(), value })
        })
        .collect()
}

fn uri_to_wire(uri: &str) -> Option<rtp::RtpHeaderExtensionUri> {
    use rtp::RtpHeaderExtensionUri as Wire;
    Some(match uri {
        uri::MID => Wire::Mid,
        uri::RTP_STREAM_ID => Wire::RtpStreamId,
        uri::REPAIRED_RTP_STREAM_ID => Wire::RepairRtpStreamId,
        uri::ABS_SEND_TIME => Wire::AbsSendTime,
        uri::TRANSPORT_WIDE_CC => Wire::TransportWideCcDraft01,
        uri::SSRC_AUDIO_LEVEL => Wire::SsrcAudioLevel,
        uri::DEPENDENCY_DESCRIPTOR => Wire::DependencyDescriptor,
        uri::VIDEO_ORIENTATION => Wire::VideoOrientation,
        uri::TIME_OFFSET => Wire::TimeOffset,
        uri::ABS_CAPTURE_TIME => Wire::AbsCaptureTime,
        uri::PLAYOUT_DELAY => Wire::PlayoutDelay,
        uri::PACKET_ID => Wire::MediasoupPacketId,
        _ => return None,
    })
}

pub(crate) fn dtls_parameters_to_wire(parameters: &DtlsParameters) -> web::DtlsParameters {
    web::DtlsParameters {
        fingerprints: parameters
            .fingerprints
            .iter()
            .map(|fingerprint| web::Fingerprint {
                algorithm: match fingerprint.algorithm {
                    FingerprintAlgorithm::Sha1 => web::FingerprintAlgorithm::Sha1,
                    FingerprintAlgorithm::Sha224 => web::FingerprintAlgorithm::Sha224,
                    FingerprintAlgorithm::Sha256 => web::FingerprintAlgorithm::Sha256,
                    FingerprintAlgorithm::Sha384 => web::FingerprintAlgorithm::Sha384,
                    FingerprintAlgorithm::Sha512 => web::FingerprintAlgorithm::Sha512,
                },
                value: fingerprint.value.clone(),
            })
            .collect(),
        role: match parameters.role {
            DtlsRole::Auto => web::DtlsRole::Auto,
            DtlsRole::Client => web::DtlsRole::Client,
            DtlsRole::Server => web::DtlsRole::Server,
        },
    }
}

pub(crate) fn dtls_parameters_from_wire(parameters: web::DtlsParameters) -> DtlsParameters {
    DtlsParameters {
        role: dtls_role_from_wire(parameters.role),
        fingerprints: parameters
            .fingerprints
            .into_iter()
            .map(|fingerprint| DtlsFingerprint {
                algorithm: match fingerprint.algorithm {
                    web::FingerprintAlgorithm::Sha1 => FingerprintAlgorithm::Sha1,
                    web::FingerprintAlgorithm::Sha224 => FingerprintAlgorithm::Sha224,
                    web::FingerprintAlgorithm::Sha256 => FingerprintAlgorithm::Sha256,
                    web::FingerprintAlgorithm::Sha384 => FingerprintAlgorithm::Sha384,
                    web::FingerprintAlgorithm::Sha512 => FingerprintAlgorithm::Sha512,
                },
                value: fingerprint.value,
            })
            .collect(),
    }
}

pub(crate) fn dtls_role_from_wire(role: web::DtlsRole) -> DtlsRole {
    match role {
        web::DtlsRole::Auto => DtlsRole::Auto,
        web::DtlsRole::Client => DtlsRole::Client,
        web::DtlsRole::Server => DtlsRole::Server,
    }
}

pub(crate) fn ice_parameters_from_wire(parameters: web::IceParameters) -> IceParameters {
    IceParameters {
        username_fragment: parameters.username_fragment,
        password: parameters.password,
        ice_lite: parameters.ice_lite,
    }
}

pub(crate) fn ice_candidate_from_wire(candidate: web::IceCandidate) -> IceCandidate {
    IceCandidate {
        foundation: candidate.foundation,
        priority: candidate.priority,
        ip: candidate.address.clone(),
        address: candidate.address,
        protocol: protocol_from_wire(candidate.protocol),
        port: candidate.port,
        candidate_type: match candidate.type_ {
            web::IceCandidateType::Host => IceCandidateType::Host,
        },
        tcp_type: candidate.tcp_type.map(|tcp_type| match tcp_type {
            web::IceCandidateTcpType::Passive => TcpCandidateType::Passive,
        }),
    }
}

pub(crate) fn sctp_stream_parameters_to_wire(
    parameters: &SctpStreamParameters,
) -> sctp::SctpStreamParameters {
    sctp::SctpStreamParameters {
        stream_id: parameters.stream_id,
        ordered: parameters.ordered,
        max_packet_life_time: parameters.max_packet_life_time,
        max_retransmits: parameters.max_retransmits,
    }
}

pub(crate) fn sctp_stream_parameters_from_wire(
    parameters: &sctp::SctpStreamParameters,
) -> SctpStreamParameters {
    SctpStreamParameters {
        stream_id: parameters.stream_id,
        ordered: parameters.ordered,
        max_packet_life_time: parameters.max_packet_life_time,
        max_retransmits: parameters.max_retransmits,
    }
}

pub(crate) fn sctp_parameters_from_wire(parameters: &sctp::SctpParameters) -> SctpParameters {
    SctpParameters {
        port: parameters.port,
        // Older clients want stream counts; all WebRTC endpoints have this many.
        os: u16::MAX,
        mis: u16::MAX,
        max_message_size: parameters.max_receive_message_size,
        max_send_message_size: parameters.max_send_message_size,
        max_receive_message_size: parameters.max_receive_message_size,
        send_buffer_size: parameters.send_buffer_size,
        per_stream_send_queue_limit: parameters.per_stream_send_queue_limit,
        max_receiver_window_buffer_size: parameters.max_receiver_window_buffer_size,
        is_data_channel: parameters.is_data_channel,
    }
}

pub(crate) fn crypto_suite_to_wire(suite: SrtpCryptoSuite) -> srtp::SrtpCryptoSuite {
    match suite {
        SrtpCryptoSuite::AeadAes256Gcm => srtp::SrtpCryptoSuite::AeadAes256Gcm,
        SrtpCryptoSuite::AeadAes128Gcm => srtp::SrtpCryptoSuite::AeadAes128Gcm,
        SrtpCryptoSuite::AesCm128HmacSha1_80 => srtp::SrtpCryptoSuite::AesCm128HmacSha180,
        SrtpCryptoSuite::AesCm128HmacSha1_32 => srtp::SrtpCryptoSuite::AesCm128HmacSha132,
    }
}

pub(crate) fn srtp_parameters_to_wire(parameters: &SrtpParameters) -> srtp::SrtpParameters {
    srtp::SrtpParameters {
        crypto_suite: crypto_suite_to_wire(parameters.crypto_suite),
        key_base64: parameters.key_base64.clone(),
    }
}

pub(crate) fn srtp_parameters_from_wire(parameters: srtp::SrtpParameters) -> SrtpParameters {
    SrtpParameters {
        crypto_suite: match parameters.crypto_suite {
            srtp::SrtpCryptoSuite::AeadAes256Gcm => SrtpCryptoSuite::AeadAes256Gcm,
            srtp::SrtpCryptoSuite::AeadAes128Gcm => SrtpCryptoSuite::AeadAes128Gcm,
            srtp::SrtpCryptoSuite::AesCm128HmacSha180 => SrtpCryptoSuite::AesCm128HmacSha1_80,
            srtp::SrtpCryptoSuite::AesCm128HmacSha132 => SrtpCryptoSuite::AesCm128HmacSha1_32,
        },
        key_base64: parameters.key_base64,
    }
}
