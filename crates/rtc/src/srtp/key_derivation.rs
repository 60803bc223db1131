//! Session keys from master key and salt: RFC 3711 section 4.3, for AES-256 RFC 6188 section 3, for AEAD
//! RFC 7714 section 11. The key derivation rate is always zero: keys are derived once.

use aws_lc_rs::cipher::{AES_128, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};

use super::SrtpError;

/// What a derived key is for (RFC 3711 section 4.3.1 and 4.3.2).
#[derive(Clone, Copy)]
pub(super) enum Label {
    RtpEncryption = 0,
    RtpAuthentication = 1,
    RtpSalt = 2,
    RtcpEncryption = 3,
    RtcpAuthentication = 4,
    RtcpSalt = 5,
}

/// The pseudo-random function of RFC 3711 section 4.3.3 under one master key.
pub(super) struct KeyDerivation {
    prf: EncryptingKey,
    salt: [u8; 14],
}

impl KeyDerivation {
    /// Takes a 16- or 32-byte master key, and a salt of up to 14 bytes, a shorter one being padded with
    /// zeros on the right (RFC 7714 section 11).
    pub(super) fn new(key: &[u8], salt: &[u8]) -> Result<Self, SrtpError> {
        let algorithm = match key.len() {
            16 => &AES_128,
            32 => &AES_256,
            _ => return Err(SrtpError::KeyLength),
        };
        let mut padded = [0; 14];
        padded.get_mut(..salt.len()).ok_or(SrtpError::KeyLength)?.copy_from_slice(salt);
        let unbound = UnboundCipherKey::new(algorithm, key).map_err(|_| SrtpError::KeyLength)?;
        let prf = EncryptingKey::ctr(unbound).map_err(|_| SrtpError::Crypto)?;
        Ok(Self { prf, salt: padded })
    }

    /// Fills `out` with the key of the given label.
    pub(super) fn derive(&self, label: Label, out: &mut [u8]) -> Result<(), SrtpError> {
        let mut iv = [0; 16];
        let (block, _counter) = iv.split_at_mut(14);
        block.copy_from_slice(&self.salt);
        if let Some(byte) = iv.get_mut(7) {
            *byte ^= label as u8;
        }
        out.fill(0);
        self.prf
            .less_safe_encrypt(out, EncryptionContext::Iv128(iv.into()))
            .map(|_| ())
            .map_err(|_| SrtpError::Crypto)
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "test arithmetic on small numbers")]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
    }

    #[test]
    fn rfc_3711_b3_key_derivation() {
        let derivation = KeyDerivation::new(
            &hex("E1F97A0D3E018BE0D64FA32C06DE4139"),
            &hex("0EC675AD498AFEEBB6960B3AABE6"),
        )
        .unwrap();
        let mut key = [0; 16];
        derivation.derive(Label::RtpEncryption, &mut key).unwrap();
        assert_eq!(key.to_vec(), hex("C61E7A93744F39EE10734AFE3FF7A087"));
        let mut salt = [0; 14];
        derivation.derive(Label::RtpSalt, &mut salt).unwrap();
        assert_eq!(salt.to_vec(), hex("30CBBC08863D8C85D49DB34A9AE1"));
        let mut auth = [0; 94];
        derivation.derive(Label::RtpAuthentication, &mut auth).unwrap();
        let expected = "CEBE321F6FF7716B6FD4AB49AF256A156D38BAA48F0A0ACF3C34E2359E6CDBCE\
                        E049646C43D9327AD175578EF72270986371C10C9A369AC2F94A8C5FBCDDDC25\
                        6D6E919A48B610EF17C2041E474035766B68642C59BBFC2F34DB60DBDFB2";
        assert_eq!(auth.to_vec(), hex(expected));
    }

    #[test]
    fn rfc_6188_key_derivation_for_aes_256() {
        let derivation = KeyDerivation::new(
            &hex("f0f04914b513f2763a1b1fa130f10e2998f6f6e43e4309d1e622a0e332b9f1b6"),
            &hex("3b04803de51ee7c96423ab5b78d2"),
        )
        .unwrap();
        let mut key = [0; 32];
        derivation.derive(Label::RtpEncryption, &mut key).unwrap();
        assert_eq!(key.to_vec(), hex("5ba1064e30ec51613cad926c5a28ef731ec7fb397f70a960653caf06554cd8c4"));
        let mut salt = [0; 14];
        derivation.derive(Label::RtpSalt, &mut salt).unwrap();
        assert_eq!(salt.to_vec(), hex("fa31791685ca444a9e07c6c64e93"));
    }

    #[test]
    fn lengths_are_checked() {
        assert_eq!(KeyDerivation::new(&[0; 17], &[0; 14]).err(), Some(SrtpError::KeyLength));
        assert_eq!(KeyDerivation::new(&[0; 16], &[0; 15]).err(), Some(SrtpError::KeyLength));
    }
}
