//! RTP parameters and capabilities as mediasoup's JSON has them, and the negotiation between them.
//!
//! Pure types and functions: no clock, no socket, no randomness (SSRCs are handed in). Parsing is tolerant, because
//! endpoints send what their browser knows: unknown fields, codecs and header extensions are accepted and play no part
//! in negotiation. What is built here follows mediasoup 3.27's rules, so that its clients need no change.

mod codec_matching;
mod error;
mod h264;
mod lenient;
mod negotiation;
mod parameter_value;
mod rtp_capabilities;
mod rtp_parameters;
mod scalability_mode;
mod supported;
mod transport_parameters;
mod validation;

pub use crate::{
    error::{ErrorKind, OrtcError},
    h264::{H264Level, H264Profile, ProfileLevelId},
    negotiation::{
        CodecMapping, ConsumerSsrcs, EncodingMapping, RtpMapping, can_consume, consumable_rtp_parameters,
        consumer_rtp_parameters, generate_router_rtp_capabilities, pipe_consumer_rtp_parameters,
        producer_rtp_parameters_mapping,
    },
    parameter_value::{ParameterMap, ParameterValue},
    rtp_capabilities::{
        MediaKind, RtcpFeedback, RtpCapabilities, RtpCodecCapability, RtpHeaderExtension,
        RtpHeaderExtensionDirection,
    },
    rtp_parameters::{
        ConsumerType, ProducerType, RtcpParameters, RtpCodecParameters, RtpEncodingParameters,
        RtpHeaderExtensionParameters, RtpParameters, Rtx,
    },
    scalability_mode::ScalabilityMode,
    supported::{default_media_codecs, supported_rtp_capabilities, uri},
    transport_parameters::{
        DtlsFingerprint, DtlsParameters, DtlsRole, FingerprintAlgorithm, IceCandidate, IceCandidateType,
        IceParameters, NumSctpStreams, SctpCapabilities, SctpParameters, SctpStreamParameters,
        SrtpCryptoSuite, SrtpParameters, TcpCandidateType, TransportProtocol,
    },
    validation::{
        normalize_rtp_capabilities, validate_kind, validate_rtp_parameters, validate_sctp_stream_parameters,
    },
};
