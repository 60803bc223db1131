//! Protecting what we send: RFC 3711 section 3.3 and 3.4, RFC 7714 section 8 and 9.

use std::any::Any;

use super::cipher::{Associated, Kind, PacketCipher, PacketNonce};
use super::key_derivation::KeyDerivation;
use super::{Profile, SrtpError, read_u32, rtp_header_len};

/// Bytes of expanded AES-GCM keys, as the library allocates them.
pub const EXPANDED_KEY_BYTES: usize = 584;

/// The E bit: the packet is encrypted.
pub(super) const E_BIT: u32 = 1 << 31;

/// Protects RTP and RTCP packets of one direction under one master key.
pub struct SrtpSender {
    profile: Profile,
    rtp: PacketCipher,
    rtcp: PacketCipher,
    /// Index of the next SRTCP packet. One count for all SSRCs: they differ in the nonce anyway.
    next_rtcp_index: u32,
}

impl SrtpSender {
    /// Derives the session keys from master key and salt.
    ///
    /// # Errors
    /// [`SrtpError::KeyLength`] when a length is not the profile's.
    pub fn new(profile: Profile, key: &[u8], salt: &[u8]) -> Result<Self, SrtpError> {
        if key.len() != profile.key_len() || salt.len() != profile.salt_len() {
            return Err(SrtpError::KeyLength);
        }
        let derivation = KeyDerivation::new(key, salt)?;
        Ok(Self {
            profile,
            rtp: PacketCipher::new(profile, Kind::Rtp, &derivation)?,
            rtcp: PacketCipher::new(profile, Kind::Rtcp, &derivation)?,
            next_rtcp_index: 0,
        })
    }

    /// Shows where the keys of RTP are, so that they can be fetched ahead: right `here`, or [`EXPANDED_KEY_BYTES`] `behind`
    /// the pointer in what is shown.
    pub fn show_keys(&self, here: impl FnOnce(&dyn Any), behind: impl FnOnce(&dyn Any)) {
        self.rtp.show_keys(here, behind);
    }

    /// The profile in use.
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// Writes the protected packet into `out` (header, ciphertext, tag) and returns its length, which is
    /// that of header and payload plus [`Profile::rtp_overhead`]. Does not allocate.
    ///
    /// `header` is the whole RTP header with CSRCs and extensions. `index` is the packet's 48-bit index:
    /// rollover counter, then sequence number. One index must never be given with two different packets.
    ///
    /// # Errors
    /// [`SrtpError::Malformed`], [`SrtpError::IndexMismatch`], [`SrtpError::IndexExhausted`],
    /// [`SrtpError::NoSpace`]; `out` is then unspecified.
    pub fn protect_rtp(
        &self,
        header: &[u8],
        payload: &[u8],
        index: u64,
        out: &mut [u8],
    ) -> Result<usize, SrtpError> {
        if rtp_header_len(header) != Some(header.len()) {
            return Err(SrtpError::Malformed);
        }
        let ssrc = read_u32(header, 8).ok_or(SrtpError::Malformed)?;
        if header.get(2..4) != Some(&(index as u16).to_be_bytes()) {
            return Err(SrtpError::IndexMismatch);
        }
        if index >> 48 != 0 {
            return Err(SrtpError::IndexExhausted);
        }
        let (head, rest) = out.split_at_mut_checked(header.len()).ok_or(SrtpError::NoSpace)?;
        let (ciphertext, rest) = rest.split_at_mut_checked(payload.len()).ok_or(SrtpError::NoSpace)?;
        let tag = rest.get_mut(..self.rtp.tag_len()).ok_or(SrtpError::NoSpace)?;
        head.copy_from_slice(header);
        let roc = ((index >> 16) as u32).to_be_bytes();
        let associated = Associated { gcm: header, head: header, tail: roc };
        self.rtp.seal(PacketNonce { ssrc, index }, associated, payload, ciphertext, tag)?;
        Ok(head.len().saturating_add(ciphertext.len()).saturating_add(tag.len()))
    }

    /// Writes the protected form of a compound RTCP packet into `out` and returns its length, which is the
    /// packet's plus [`Profile::rtcp_overhead`]. Always encrypts; uses up one SRTCP index.
    ///
    /// # Errors
    /// [`SrtpError::Malformed`] below 8 bytes, [`SrtpError::NoSpace`], [`SrtpError::IndexExhausted`] after
    /// 2^31 packets.
    pub fn protect_rtcp(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, SrtpError> {
        let (header, payload) = plain.split_at_checked(8).ok_or(SrtpError::Malformed)?;
        let ssrc = read_u32(header, 4).ok_or(SrtpError::Malformed)?;
        if self.next_rtcp_index & E_BIT != 0 {
            return Err(SrtpError::IndexExhausted);
        }
        let trailer = (self.next_rtcp_index | E_BIT).to_be_bytes();
        let nonce = PacketNonce { ssrc, index: u64::from(self.next_rtcp_index) };
        let len = plain.len().saturating_add(self.profile.rtcp_overhead());
        let out = out.get_mut(..len).ok_or(SrtpError::NoSpace)?;

        let (head, rest) = out.split_at_mut_checked(header.len()).ok_or(SrtpError::NoSpace)?;
        let (ciphertext, rest) = rest.split_at_mut_checked(payload.len()).ok_or(SrtpError::NoSpace)?;
        head.copy_from_slice(header);
        let mut aad = [0; 12];
        let (aad_head, aad_tail) = aad.split_at_mut(8);
        aad_head.copy_from_slice(header);
        aad_tail.copy_from_slice(&trailer);
        let associated = Associated { gcm: &aad, head: header, tail: trailer };

        // GCM puts its tag before the trailer (RFC 7714 section 9.2), HMAC-SHA1 after it (RFC 3711 section 3.4).
        let (tag, word) = match self.rtcp {
            PacketCipher::Gcm { .. } => rest.split_at_mut_checked(16).ok_or(SrtpError::NoSpace)?,
            PacketCipher::Cm(_) => {
                let (word, tag) = rest.split_at_mut_checked(4).ok_or(SrtpError::NoSpace)?;
                (tag, word)
            }
        };
        word.copy_from_slice(&trailer);
        self.rtcp.seal(nonce, associated, payload, ciphertext, tag)?;
        self.next_rtcp_index = self.next_rtcp_index.saturating_add(1);
        Ok(len)
    }
}

impl std::fmt::Debug for SrtpSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SrtpSender").field("profile", &self.profile).finish_non_exhaustive()
    }
}
