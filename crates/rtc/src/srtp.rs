//! SRTP and SRTCP: RFC 3711 with AES counter mode and HMAC-SHA1, RFC 7714 with AES-GCM, on aws-lc-rs.
//!
//! Owns session keys, packet and replay indexes of received streams, and the SRTCP index of the sender. It
//! does not own the sender's RTP index: the caller's stream state knows it, and gives it with every packet.
//! Keys come from `dtls` (RFC 5764) or from the application; MKI and key renewal are not supported.
//!
//! A packet index must never be used for two different packets: with AES-GCM that gives the key away. Giving
//! the same index with the same bytes is fine, it yields the same datagram, and is how a packet is repeated.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod cipher;
mod hmac_sha1;
mod key_derivation;
mod receiver;
mod replay;
mod sender;
#[cfg(test)]
mod tests;

pub use receiver::{DEFAULT_MAX_SSRCS, SrtpReceiver};
pub use sender::{EXPANDED_KEY_BYTES, SrtpSender};

/// Largest number of bytes that protection adds to a packet, over all profiles, RTP and RTCP.
pub const MAX_OVERHEAD: usize = 20;

/// An SRTP protection profile: ciphers and tag lengths (RFC 5764 section 4.1.2, RFC 7714 section 14.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Profile {
    /// AES-256 in Galois/counter mode, 16-byte tags.
    AeadAes256Gcm,
    /// AES-128 in Galois/counter mode, 16-byte tags.
    AeadAes128Gcm,
    /// AES-128 in counter mode with HMAC-SHA1, 10-byte tags.
    AesCm128HmacSha1_80,
    /// AES-128 in counter mode with HMAC-SHA1, 4-byte tags on RTP, 10-byte tags on RTCP.
    AesCm128HmacSha1_32,
}

impl Profile {
    /// All profiles, in the order in which a server prefers them (mediasoup's order).
    pub const PREFERENCE: [Self; 4] =
        [Self::AeadAes256Gcm, Self::AeadAes128Gcm, Self::AesCm128HmacSha1_80, Self::AesCm128HmacSha1_32];

    /// Length of the master key in bytes.
    pub const fn key_len(self) -> usize {
        match self {
            Self::AeadAes256Gcm => 32,
            Self::AeadAes128Gcm | Self::AesCm128HmacSha1_80 | Self::AesCm128HmacSha1_32 => 16,
        }
    }

    /// Length of the master salt in bytes.
    pub const fn salt_len(self) -> usize {
        match self {
            Self::AeadAes256Gcm | Self::AeadAes128Gcm => 12,
            Self::AesCm128HmacSha1_80 | Self::AesCm128HmacSha1_32 => 14,
        }
    }

    /// Bytes that protection adds to an RTP packet.
    pub const fn rtp_overhead(self) -> usize {
        match self {
            Self::AeadAes256Gcm | Self::AeadAes128Gcm => 16,
            Self::AesCm128HmacSha1_80 => 10,
            Self::AesCm128HmacSha1_32 => 4,
        }
    }

    /// Bytes that protection adds to an RTCP packet: the tag and the word of E bit and index.
    pub const fn rtcp_overhead(self) -> usize {
        match self {
            Self::AeadAes256Gcm | Self::AeadAes128Gcm => 20,
            // RFC 5764 section 4.1.2: both profiles have an 80-bit tag on SRTCP.
            Self::AesCm128HmacSha1_80 | Self::AesCm128HmacSha1_32 => 14,
        }
    }

    /// mediasoup's name of the profile, as in its `SrtpParameters.cryptoSuite`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AeadAes256Gcm => "AEAD_AES_256_GCM",
            Self::AeadAes128Gcm => "AEAD_AES_128_GCM",
            Self::AesCm128HmacSha1_80 => "AES_CM_128_HMAC_SHA1_80",
            Self::AesCm128HmacSha1_32 => "AES_CM_128_HMAC_SHA1_32",
        }
    }

    /// The profile of the given mediasoup name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::PREFERENCE.into_iter().find(|profile| profile.name() == name)
    }
}

/// Why a packet was not protected or not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SrtpError {
    /// Master key or salt has not the length that the profile wants.
    #[error("srtp master key or salt has the wrong length for its profile")]
    KeyLength,
    /// The bytes are no RTP or RTCP packet, or too short to be a protected one.
    #[error("malformed packet")]
    Malformed,
    /// The output slice is too short for the protected packet.
    #[error("output slice too short")]
    NoSpace,
    /// The given index does not end in the sequence number of the given header.
    #[error("packet index does not match the sequence number")]
    IndexMismatch,
    /// All indexes of the key have been used: a new key is due.
    #[error("packet indexes are used up")]
    IndexExhausted,
    /// The packet was accepted before.
    #[error("replayed packet")]
    Replayed,
    /// The packet is older than the replay window reaches.
    #[error("packet is older than the replay window")]
    TooOld,
    /// The authentication tag is wrong.
    #[error("authentication failed")]
    Authentication,
    /// The packet is genuine, but as many SSRCs as allowed are known already.
    #[error("too many ssrcs")]
    TooManySsrcs,
    /// The cryptographic library refused.
    #[error("cryptographic library failure")]
    Crypto,
}

/// Length of an RTP packet's header with CSRCs and extension (RFC 3550 section 5.1), if it fits.
fn rtp_header_len(packet: &[u8]) -> Option<usize> {
    let first = *packet.first()?;
    if first >> 6 != 2 {
        return None;
    }
    let mut len = 12_usize.checked_add(usize::from(first & 0x0f).checked_mul(4)?)?;
    if first & 0x10 != 0 {
        let words = packet.get(len.checked_add(2)?..len.checked_add(4)?)?;
        let words = u16::from_be_bytes(words.try_into().ok()?);
        len = len.checked_add(4)?.checked_add(usize::from(words).checked_mul(4)?)?;
    }
    (packet.len() >= len).then_some(len)
}

/// Reads a big-endian word at `offset`.
fn read_u32(bytes: &[u8], offset: usize) -> Option<u32> {
    let word = bytes.get(offset..offset.checked_add(4)?)?;
    Some(u32::from_be_bytes(word.try_into().ok()?))
}
