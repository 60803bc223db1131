//! What is the same for all sites of a node: codecs, addresses, congestion control.

use std::net::{IpAddr, Ipv4Addr};

use media::ListenAddress;
use ortc::RtpCodecCapability;

/// What routers and transports are like.
#[derive(Debug, Clone)]
pub struct MediaSettings {
    /// What routers forward.
    pub codecs: Vec<RtpCodecCapability>,
    /// What congestion control towards a client begins with, in bit/s.
    pub initial_outgoing_bitrate: u64,
    /// How long after a client's last sign of life its ICE is called disconnected, in seconds.
    pub ice_consent_timeout_s: u8,
    /// Where PlainTransports are reached; there are none without it.
    pub plain_listen: Option<PlainListen>,
    /// Where workers of other nodes reach this node's. Pipes within the node go over loopback.
    pub pipe_address: ListenAddress,
}

/// Where PlainTransports are reached, each at ports of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlainListen {
    /// The address to bind.
    pub ip: IpAddr,
    /// What broadcasters are told instead.
    pub announced: Option<String>,
}

impl Default for MediaSettings {
    fn default() -> Self {
        Self {
            codecs: ortc::default_media_codecs(),
            initial_outgoing_bitrate: 1_000_000,
            ice_consent_timeout_s: 30,
            plain_listen: None,
            pipe_address: ListenAddress { ip: Ipv4Addr::LOCALHOST.into(), announced_address: None },
        }
    }
}
