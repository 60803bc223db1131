//! Accepting what others send: RFC 3711 sections 3.3 and 3.4 and appendix A, RFC 7714 section 8 and 9.
//!
//! State of a stream is made, and changed, only by packets whose tag is right: an attacker without the key
//! can neither move an index nor fill the table.

use std::collections::hash_map::Entry;

use rustc_hash::FxHashMap;

use super::cipher::{Associated, Kind, PacketCipher, PacketNonce};
use super::key_derivation::KeyDerivation;
use super::replay::ReplayWindow;
use super::sender::E_BIT;
use super::{Profile, SrtpError, read_u32, rtp_header_len};

/// SSRCs that one receiver follows unless told otherwise, RTP and RTCP each. A peer with the key could use
/// one SSRC per packet; 150 bytes each make this 300 kB at most.
pub const DEFAULT_MAX_SSRCS: usize = 1024;

/// Packets of a stream refused in a row until we take it that more than 2^15 were lost, so that RFC 3711's estimate of the
/// index (section 3.3.1) names a wrong rollover counter, and would for ever.
const LOST_AFTER: u16 = 16;

/// Rollovers ahead that are tried then, one a packet: 2^18 packets are twenty minutes of video.
const ROLLOVERS_AHEAD: u16 = 4;

/// What is known of one RTP stream.
struct Stream {
    window: ReplayWindow,
    /// Packets refused since the last that was good. An attacker without the key can make it grow: then a second guess
    /// costs us one more look a packet.
    refused: u16,
}

/// Checks and decrypts RTP and RTCP packets of one direction under one master key.
pub struct SrtpReceiver {
    profile: Profile,
    rtp: PacketCipher,
    rtcp: PacketCipher,
    rtp_streams: FxHashMap<u32, Stream>,
    rtcp_streams: FxHashMap<u32, ReplayWindow>,
    max_ssrcs: usize,
}

impl SrtpReceiver {
    /// Derives the session keys from master key and salt. Follows [`DEFAULT_MAX_SSRCS`] streams.
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
            rtp_streams: FxHashMap::default(),
            rtcp_streams: FxHashMap::default(),
            max_ssrcs: DEFAULT_MAX_SSRCS,
        })
    }

    /// Changes the number of SSRCs that are followed: a pipe between workers carries many.
    #[must_use]
    pub fn with_max_ssrcs(mut self, max_ssrcs: usize) -> Self {
        self.max_ssrcs = max_ssrcs;
        self
    }

    /// The profile in use.
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// Number of SSRCs followed for RTP.
    pub fn ssrcs(&self) -> usize {
        self.rtp_streams.len()
    }

    /// Forgets a stream that has ended, making room for another. Its packets could be replayed from then
    /// on, so this is for SSRCs that nothing listens to any more.
    pub fn remove_ssrc(&mut self, ssrc: u32) {
        self.rtp_streams.remove(&ssrc);
        self.rtcp_streams.remove(&ssrc);
    }

    /// Decrypts an SRTP packet in place and returns the length of the RTP packet that `datagram` now
    /// begins with. Does not allocate for a known SSRC.
    ///
    /// # Errors
    /// Any but the sender's. `datagram` is then unspecified, and no state has changed.
    pub fn unprotect_rtp(&mut self, datagram: &mut [u8]) -> Result<usize, SrtpError> {
        let header_len = rtp_header_len(datagram).ok_or(SrtpError::Malformed)?;
        let ssrc = read_u32(datagram, 8).ok_or(SrtpError::Malformed)?;
        let sequence = (read_u32(datagram, 0).ok_or(SrtpError::Malformed)? & 0xffff) as u16;
        let len = datagram.len().checked_sub(self.rtp.tag_len()).ok_or(SrtpError::Malformed)?;
        let (packet, tag) = datagram.split_at_mut_checked(len).ok_or(SrtpError::Malformed)?;
        let (header, payload) = packet.split_at_mut_checked(header_len).ok_or(SrtpError::Malformed)?;

        let known = self.rtp_streams.len();
        let stream = self.rtp_streams.entry(ssrc);
        let index = match &stream {
            Entry::Occupied(stream) => {
                let stream = stream.get();
                let estimate = estimate_index(stream.window.highest(), sequence).ok_or(SrtpError::TooOld);
                match estimate.and_then(|index| stream.window.check(index).map(|()| index)) {
                    Ok(index) if stream.refused < LOST_AFTER => index,
                    estimate => return self.unprotect_after_refusals(estimate, datagram),
                }
            }
            Entry::Vacant(_) => u64::from(sequence),
        };
        let roc = ((index >> 16) as u32).to_be_bytes();
        let associated = Associated { gcm: header, head: header, tail: roc };
        let opened = self.rtp.open(PacketNonce { ssrc, index }, associated, payload, tag);
        match stream {
            Entry::Occupied(mut stream) => stream.get_mut().note(index, opened)?,
            Entry::Vacant(vacant) => {
                opened?;
                if known >= self.max_ssrcs {
                    return Err(SrtpError::TooManySsrcs);
                }
                vacant.insert(Stream { window: ReplayWindow::starting_at(index), refused: 0 });
            }
        }
        Ok(len)
    }

    /// The rare way of a packet whose index is not to be believed: it, or many before it, were refused. Where it is not what
    /// `estimate` says, it may be one that many thousands of lost ones lie before.
    #[cold]
    fn unprotect_after_refusals(
        &mut self,
        estimate: Result<u64, SrtpError>,
        datagram: &mut [u8],
    ) -> Result<usize, SrtpError> {
        let ssrc = read_u32(datagram, 8).ok_or(SrtpError::Malformed)?;
        let sequence = u64::from(read_u32(datagram, 0).ok_or(SrtpError::Malformed)? & 0xffff);
        let stream = self.rtp_streams.get_mut(&ssrc).ok_or(SrtpError::Malformed)?;
        let refused = stream.refused;
        let ahead = (refused >= LOST_AFTER).then(|| {
            let rollover =
                (stream.window.highest() >> 16).checked_add(u64::from(refused % (ROLLOVERS_AHEAD + 1)))?;
            let index = rollover.checked_mul(1 << 16)?.checked_add(sequence)?;
            // Nearer ones are what the estimate names.
            (index >> 48 == 0 && index > stream.window.highest()).then_some(index)
        });
        let mut opened = estimate.and_then(|index| {
            // A failed attempt leaves nothing to try again with.
            let mut copy = datagram.to_vec();
            let len = open_rtp(&self.rtp, index, &mut copy)?;
            datagram.copy_from_slice(&copy);
            Ok((index, len))
        });
        if let (Err(_), Some(Some(index))) = (&opened, ahead) {
            opened = open_rtp(&self.rtp, index, datagram).map(|len| (index, len)).or(opened);
        }
        match opened {
            Ok((index, len)) => stream.note(index, Ok(())).map(|()| len),
            Err(error) => stream.note(0, Err(error)).map(|()| 0),
        }
    }

    /// Decrypts an SRTCP packet in place and returns the length of the compound RTCP packet that `datagram`
    /// now begins with. A packet that is only authenticated (E bit zero) is accepted as such.
    ///
    /// # Errors
    /// Any but the sender's. `datagram` is then unspecified, and no state has changed.
    pub fn unprotect_rtcp(&mut self, datagram: &mut [u8]) -> Result<usize, SrtpError> {
        let len = datagram.len().checked_sub(self.profile.rtcp_overhead()).ok_or(SrtpError::Malformed)?;
        let ssrc = read_u32(datagram, 4).ok_or(SrtpError::Malformed)?;
        if datagram.first().is_none_or(|first| first >> 6 != 2) {
            return Err(SrtpError::Malformed);
        }
        let (packet, trailer) = datagram.split_at_mut_checked(len).ok_or(SrtpError::Malformed)?;
        let (tag, word) = match self.rtcp {
            PacketCipher::Gcm { .. } => trailer.split_at_checked(16).ok_or(SrtpError::Malformed)?,
            PacketCipher::Cm(_) => {
                let (word, tag) = trailer.split_at_checked(4).ok_or(SrtpError::Malformed)?;
                (tag, word)
            }
        };
        let tail: [u8; 4] = word.try_into().map_err(|_| SrtpError::Malformed)?;
        let word = u32::from_be_bytes(tail);
        let index = u64::from(word & !E_BIT);
        if let Some(window) = self.rtcp_streams.get(&ssrc) {
            window.check(index)?;
        }

        let nonce = PacketNonce { ssrc, index };
        let (header, payload) = packet.split_at_mut_checked(8).ok_or(SrtpError::Malformed)?;
        if word & E_BIT != 0 {
            let mut aad = [0; 12];
            let (aad_head, aad_tail) = aad.split_at_mut(8);
            aad_head.copy_from_slice(header);
            aad_tail.copy_from_slice(&tail);
            self.rtcp.open(nonce, Associated { gcm: &aad, head: header, tail }, payload, tag)?;
        } else if let PacketCipher::Cm(_) = self.rtcp {
            self.rtcp.verify(Associated { gcm: &[], head: header, tail }, payload, tag)?;
        } else {
            // RFC 7714 section 9.3: packet and word are authenticated as one; the tag lies between them.
            let tag: [u8; 16] = tag.try_into().map_err(|_| SrtpError::Malformed)?;
            trailer.get_mut(..4).ok_or(SrtpError::Malformed)?.copy_from_slice(&tail);
            let aad = datagram.get(..len.saturating_add(4)).ok_or(SrtpError::Malformed)?;
            self.rtcp.open(nonce, Associated { gcm: aad, head: &[], tail }, &mut [], &tag)?;
        }
        let known = self.rtcp_streams.len();
        match self.rtcp_streams.entry(ssrc) {
            Entry::Occupied(mut window) => window.get_mut().accept(index),
            Entry::Vacant(_) if known >= self.max_ssrcs => return Err(SrtpError::TooManySsrcs),
            Entry::Vacant(vacant) => {
                vacant.insert(ReplayWindow::starting_at(index));
            }
        }
        Ok(len)
    }
}

impl Stream {
    /// Takes note of what became of a packet.
    fn note(&mut self, index: u64, opened: Result<(), SrtpError>) -> Result<(), SrtpError> {
        match opened {
            Ok(()) => {
                self.refused = 0;
                self.window.accept(index);
            }
            Err(_) => self.refused = self.refused.saturating_add(1),
        }
        opened
    }
}

impl std::fmt::Debug for SrtpReceiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SrtpReceiver").field("profile", &self.profile).finish_non_exhaustive()
    }
}

/// Decrypts an RTP packet of a known index in place; its length.
fn open_rtp(cipher: &PacketCipher, index: u64, datagram: &mut [u8]) -> Result<usize, SrtpError> {
    let header_len = rtp_header_len(datagram).ok_or(SrtpError::Malformed)?;
    let ssrc = read_u32(datagram, 8).ok_or(SrtpError::Malformed)?;
    let len = datagram.len().checked_sub(cipher.tag_len()).ok_or(SrtpError::Malformed)?;
    let (packet, tag) = datagram.split_at_mut_checked(len).ok_or(SrtpError::Malformed)?;
    let (header, payload) = packet.split_at_mut_checked(header_len).ok_or(SrtpError::Malformed)?;
    let roc = ((index >> 16) as u32).to_be_bytes();
    let associated = Associated { gcm: header, head: header, tail: roc };
    cipher.open(PacketNonce { ssrc, index }, associated, payload, tag)?;
    Ok(len)
}

/// The index nearest to the highest seen one that ends in `sequence` (RFC 3711 section 3.3.1). `None` when
/// that would lie before index zero.
fn estimate_index(highest: u64, sequence: u16) -> Option<u64> {
    let distance = sequence.wrapping_sub(highest as u16) as i16;
    highest.checked_add_signed(i64::from(distance)).filter(|index| index >> 48 == 0)
}
