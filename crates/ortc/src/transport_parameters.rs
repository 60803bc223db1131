//! Parameters of transports that cross the signaling: ICE (RFC 8445), DTLS (RFC 8122), SCTP (RFC 8841) and SRTP keys.

use serde::{Deserialize, Serialize};

use crate::lenient;

/// ICE credentials of one side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IceParameters {
    /// The `ice-ufrag`.
    pub username_fragment: String,
    /// The `ice-pwd`. Never logged.
    pub password: String,
    /// Whether this side only answers checks (RFC 8445 section 2.5).
    #[serde(default, skip_serializing_if = "std::ops::Not::not", deserialize_with = "lenient::only_true")]
    pub ice_lite: bool,
}

/// An address where a transport can be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IceCandidate {
    /// Equal for candidates of one origin (RFC 8445 section 5.1.1.3).
    pub foundation: String,
    /// Higher is better.
    pub priority: u32,
    /// The same as `address`: what older clients read.
    pub ip: String,
    /// An IP address or a host name.
    pub address: String,
    /// UDP or TCP.
    pub protocol: TransportProtocol,
    /// The port.
    pub port: u16,
    /// Always `host`.
    #[serde(rename = "type")]
    pub candidate_type: IceCandidateType,
    /// TCP only (RFC 6544).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_type: Option<TcpCandidateType>,
}

/// Where a candidate comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IceCandidateType {
    /// An address of the server's own.
    Host,
}

/// Who opens a TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TcpCandidateType {
    /// The client does.
    Passive,
}

/// What datagrams travel in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TransportProtocol {
    /// UDP.
    Udp,
    /// TCP, framed as RFC 4571 says.
    Tcp,
}

/// The DTLS role and certificate fingerprints of one side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DtlsParameters {
    /// Who sends the ClientHello.
    #[serde(default, deserialize_with = "lenient::null_as_default")]
    pub role: DtlsRole,
    /// One entry a hash function; those with a hash unknown here are left out when parsing.
    #[serde(default, deserialize_with = "lenient::known_entries")]
    pub fingerprints: Vec<DtlsFingerprint>,
}

/// A DTLS role (RFC 5763 section 5).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DtlsRole {
    /// Left to the other side.
    #[default]
    Auto,
    /// Sends the ClientHello.
    Client,
    /// Waits for it.
    Server,
}

/// The hash of a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DtlsFingerprint {
    /// The hash function.
    pub algorithm: FingerprintAlgorithm,
    /// Pairs of hexadecimal digits with colons between.
    pub value: String,
}

/// A hash function of RFC 8122 section 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FingerprintAlgorithm {
    /// SHA-1.
    #[serde(rename = "sha-1")]
    Sha1,
    /// SHA-224.
    #[serde(rename = "sha-224")]
    Sha224,
    /// SHA-256: what browsers use.
    #[serde(rename = "sha-256")]
    Sha256,
    /// SHA-384.
    #[serde(rename = "sha-384")]
    Sha384,
    /// SHA-512.
    #[serde(rename = "sha-512")]
    Sha512,
}

/// What a client says about its SCTP stack. Newer clients send nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SctpCapabilities {
    /// Stream counts.
    pub num_streams: NumSctpStreams,
}

/// Stream counts, as RFC 4960 names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumSctpStreams {
    /// Outgoing streams.
    #[serde(rename = "OS")]
    pub os: u16,
    /// Incoming streams at most.
    #[serde(rename = "MIS")]
    pub mis: u16,
}

/// The SCTP association of a transport. Sizes are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SctpParameters {
    /// Always 5000.
    pub port: u16,
    /// Outgoing streams; what older clients read.
    #[serde(rename = "OS")]
    pub os: u16,
    /// Incoming streams at most; what older clients read.
    #[serde(rename = "MIS")]
    pub mis: u16,
    /// The same as `max_receive_message_size`: what older clients read.
    pub max_message_size: u32,
    /// The longest message sent.
    pub max_send_message_size: u32,
    /// The longest message received.
    pub max_receive_message_size: u32,
    /// The send buffer.
    pub send_buffer_size: u32,
    /// What one stream may queue.
    pub per_stream_send_queue_limit: u32,
    /// The receive window.
    pub max_receiver_window_buffer_size: u32,
    /// Whether WebRTC data channels run on it.
    pub is_data_channel: bool,
}

/// How one DataProducer or DataConsumer uses its SCTP stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SctpStreamParameters {
    /// The stream.
    pub stream_id: u16,
    /// Whether messages keep their order; see [`crate::validate_sctp_stream_parameters`] for the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordered: Option<bool>,
    /// In milliseconds; not together with `max_retransmits`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_packet_life_time: Option<u16>,
    /// Not together with `max_packet_life_time`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_retransmits: Option<u16>,
}

/// SRTP keys of a Plain or Pipe transport.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SrtpParameters {
    /// Cipher and authentication.
    pub crypto_suite: SrtpCryptoSuite,
    /// Key and salt together, in base64. Never logged.
    pub key_base64: String,
}

/// An SRTP protection profile, by mediasoup's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SrtpCryptoSuite {
    /// RFC 7714.
    #[serde(rename = "AEAD_AES_256_GCM")]
    AeadAes256Gcm,
    /// RFC 7714.
    #[serde(rename = "AEAD_AES_128_GCM")]
    AeadAes128Gcm,
    /// RFC 3711, authentication tag of 80 bits.
    #[serde(rename = "AES_CM_128_HMAC_SHA1_80")]
    AesCm128HmacSha1_80,
    /// RFC 3711, authentication tag of 32 bits.
    #[serde(rename = "AES_CM_128_HMAC_SHA1_32")]
    AesCm128HmacSha1_32,
}
