//! What a datagram is, from its first bytes: RFC 7983 tells the protocols on one port apart, RFC 5761
//! tells RTCP from RTP.

/// The protocol of a datagram that came to a port shared by all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatagramKind {
    /// STUN (RFC 8489).
    Stun,
    /// ZRTP (RFC 6189).
    Zrtp,
    /// DTLS (RFC 9147).
    Dtls,
    /// TURN channel data (RFC 8656).
    TurnChannel,
    /// RTP or SRTP.
    Rtp,
    /// RTCP or SRTCP.
    Rtcp,
    /// None of these, or empty.
    Unknown,
}

impl DatagramKind {
    /// Sorts a datagram by its first byte (RFC 7983, section 7), and RTP from RTCP by its second.
    #[must_use]
    pub fn of(datagram: &[u8]) -> Self {
        match datagram.first() {
            Some(0..=3) => Self::Stun,
            Some(16..=19) => Self::Zrtp,
            Some(20..=63) => Self::Dtls,
            Some(64..=79) => Self::TurnChannel,
            Some(128..=191) if is_rtcp(datagram) => Self::Rtcp,
            Some(128..=191) => Self::Rtp,
            _ => Self::Unknown,
        }
    }
}

/// Whether a datagram of version 2 is RTCP rather than RTP: its packet type lies in 192..=223, which no
/// RTP payload type may map to where both share a port (RFC 5761, section 4).
#[must_use]
pub fn is_rtcp(datagram: &[u8]) -> bool {
    matches!(datagram, [128..=191, 192..=223, ..])
}
