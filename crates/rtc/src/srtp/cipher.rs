//! The packet transforms: RFC 3711 section 4.1.1 and 4.2 (counter mode, HMAC-SHA1), RFC 7714 section 8 and 9
//! (GCM). Keys are expanded once; no transform allocates.

use std::any::Any;

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{AES_128, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::constant_time::verify_slices_are_equal;

use super::hmac_sha1::HmacSha1;
use super::key_derivation::{KeyDerivation, Label};
use super::{Profile, SrtpError};

/// Which of the two session key sets of a master key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Rtp,
    Rtcp,
}

/// One key set of one direction.
pub(super) enum PacketCipher {
    Gcm {
        key: LessSafeKey,
        salt: [u8; 12],
    },
    /// Boxed, as the expanded keys are fifty times the size of GCM's.
    Cm(Box<CmKeys>),
}

/// What counter mode with HMAC-SHA1 needs.
pub(super) struct CmKeys {
    pub(super) key: EncryptingKey,
    pub(super) salt: [u8; 14],
    pub(super) authentication: HmacSha1,
    pub(super) tag_len: usize,
}

impl PacketCipher {
    /// Derives the session keys of `kind`.
    pub(super) fn new(profile: Profile, kind: Kind, derivation: &KeyDerivation) -> Result<Self, SrtpError> {
        let (encryption, authentication, salting) = match kind {
            Kind::Rtp => (Label::RtpEncryption, Label::RtpAuthentication, Label::RtpSalt),
            Kind::Rtcp => (Label::RtcpEncryption, Label::RtcpAuthentication, Label::RtcpSalt),
        };
        let gcm = |algorithm, key: &[u8]| {
            let mut salt = [0; 12];
            derivation.derive(salting, &mut salt)?;
            let key = LessSafeKey::new(UnboundKey::new(algorithm, key).map_err(|_| SrtpError::Crypto)?);
            Ok(Self::Gcm { key, salt })
        };
        match profile {
            Profile::AeadAes256Gcm => {
                let mut key = [0; 32];
                derivation.derive(encryption, &mut key)?;
                gcm(&AES_256_GCM, &key)
            }
            Profile::AeadAes128Gcm => {
                let mut key = [0; 16];
                derivation.derive(encryption, &mut key)?;
                gcm(&AES_128_GCM, &key)
            }
            Profile::AesCm128HmacSha1_80 | Profile::AesCm128HmacSha1_32 => {
                let mut key = [0; 16];
                derivation.derive(encryption, &mut key)?;
                let mut salt = [0; 14];
                derivation.derive(salting, &mut salt)?;
                let mut auth = [0; 20];
                derivation.derive(authentication, &mut auth)?;
                let unbound = UnboundCipherKey::new(&AES_128, &key).map_err(|_| SrtpError::Crypto)?;
                let short = kind == Kind::Rtp && profile == Profile::AesCm128HmacSha1_32;
                Ok(Self::Cm(Box::new(CmKeys {
                    key: EncryptingKey::ctr(unbound).map_err(|_| SrtpError::Crypto)?,
                    salt,
                    authentication: HmacSha1::new(&auth),
                    tag_len: if short { 4 } else { 10 },
                })))
            }
        }
    }

    /// Shows where the expanded keys are: right `here`, or `behind` the pointer in what is shown.
    pub(super) fn show_keys(&self, here: impl FnOnce(&dyn Any), behind: impl FnOnce(&dyn Any)) {
        match self {
            Self::Gcm { key, .. } => behind(key),
            Self::Cm(keys) => here(keys.as_ref()),
        }
    }

    /// Length of the authentication tag.
    pub(super) fn tag_len(&self) -> usize {
        match self {
            Self::Gcm { .. } => 16,
            Self::Cm(keys) => keys.tag_len,
        }
    }

    /// Encrypts `plaintext` into `ciphertext`, which has its length, and fills `tag`.
    pub(super) fn seal(
        &self,
        nonce: PacketNonce,
        associated: Associated<'_>,
        plaintext: &[u8],
        ciphertext: &mut [u8],
        tag: &mut [u8],
    ) -> Result<(), SrtpError> {
        match self {
            Self::Gcm { key, salt } => {
                let nonce = Nonce::assume_unique_for_key(nonce.gcm(salt));
                key.seal_out_of_place_scatter(
                    nonce,
                    Aad::from(associated.gcm),
                    plaintext,
                    ciphertext,
                    &[],
                    tag,
                )
                .map_err(|_| SrtpError::Crypto)
            }
            Self::Cm(keys) => {
                let CmKeys { key, salt, authentication, .. } = keys.as_ref();
                ciphertext.copy_from_slice(plaintext);
                let iv = EncryptionContext::Iv128(nonce.cm(salt).into());
                key.less_safe_encrypt(ciphertext, iv).map_err(|_| SrtpError::Crypto)?;
                let full = authenticate(authentication, &associated, ciphertext);
                let short = full.get(..tag.len()).ok_or(SrtpError::Crypto)?;
                tag.copy_from_slice(short);
                Ok(())
            }
        }
    }

    /// Checks `tag`, and decrypts `data` in place. What `data` holds after an error is of no use.
    pub(super) fn open(
        &self,
        nonce: PacketNonce,
        associated: Associated<'_>,
        data: &mut [u8],
        tag: &[u8],
    ) -> Result<(), SrtpError> {
        match self {
            Self::Gcm { key, salt } => {
                let nonce = Nonce::assume_unique_for_key(nonce.gcm(salt));
                key.open_in_place_separate_tag(nonce, Aad::from(associated.gcm), tag, data)
                    .map(|_| ())
                    .map_err(|_| SrtpError::Authentication)
            }
            Self::Cm(keys) => {
                self.verify(associated, data, tag)?;
                let iv = EncryptionContext::Iv128(nonce.cm(&keys.salt).into());
                keys.key.less_safe_encrypt(data, iv).map(|_| ()).map_err(|_| SrtpError::Crypto)
            }
        }
    }

    /// Checks the HMAC tag of a packet that is not encrypted, or before it is decrypted.
    pub(super) fn verify(
        &self,
        associated: Associated<'_>,
        data: &[u8],
        tag: &[u8],
    ) -> Result<(), SrtpError> {
        let Self::Cm(keys) = self else {
            return Err(SrtpError::Authentication);
        };
        let full = authenticate(&keys.authentication, &associated, data);
        let short = full.get(..tag.len()).ok_or(SrtpError::Authentication)?;
        verify_slices_are_equal(short, tag).map_err(|_| SrtpError::Authentication)
    }
}

/// What is authenticated beside the ciphertext.
pub(super) struct Associated<'a> {
    /// GCM's associated data.
    pub(super) gcm: &'a [u8],
    /// What HMAC-SHA1 covers before the ciphertext: the header.
    pub(super) head: &'a [u8],
    /// What HMAC-SHA1 covers after it: ROC, or the word of E bit and SRTCP index.
    pub(super) tail: [u8; 4],
}

fn authenticate(key: &HmacSha1, associated: &Associated<'_>, ciphertext: &[u8]) -> [u8; 20] {
    key.sign([associated.head, ciphertext, &associated.tail])
}

/// From what a packet's initialisation vector is made.
#[derive(Clone, Copy)]
pub(super) struct PacketNonce {
    pub(super) ssrc: u32,
    /// 48 bits: ROC and sequence number for RTP, the 31-bit index for RTCP.
    pub(super) index: u64,
}

impl PacketNonce {
    /// RFC 7714 sections 8.1 and 9.1: two zero bytes, SSRC, 48 bits of index; xor the salt.
    fn gcm(self, salt: &[u8; 12]) -> [u8; 12] {
        let value = (u128::from(self.ssrc) << 48) | u128::from(self.index);
        let [_, _, _, _, iv @ ..] = (value ^ wide(salt)).to_be_bytes();
        iv
    }

    /// RFC 3711 section 4.1.1: salt·2^16 xor SSRC·2^64 xor index·2^16.
    fn cm(self, salt: &[u8; 14]) -> [u8; 16] {
        let value = (u128::from(self.ssrc) << 64) | (u128::from(self.index) << 16);
        (value ^ (wide(salt) << 16)).to_be_bytes()
    }
}

/// Big-endian bytes as a number.
fn wide(bytes: &[u8]) -> u128 {
    bytes.iter().fold(0, |value, &byte| (value << 8) | u128::from(byte))
}
