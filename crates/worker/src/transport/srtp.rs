//! The SRTP of a Transport: both directions of one session, and the keys that Plain and Pipe transports exchange in
//! the driver's hands.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rtc::srtp::{Profile, SrtpReceiver, SrtpSender};
use worker_protocol::wire::srtp_parameters::{SrtpCryptoSuite, SrtpParameters};

use crate::error::{RequestError, RequestResult};

/// Both directions.
#[derive(Debug)]
pub struct Srtp {
    /// What we send.
    pub send: SrtpSender,
    /// What we receive.
    pub recv: Box<SrtpReceiver>,
}

/// Our side of SRTP whose keys travel in parameters.
#[derive(Debug)]
pub struct LocalKey {
    profile: Profile,
    key_and_salt: Vec<u8>,
}

impl LocalKey {
    /// A fresh key.
    ///
    /// # Errors
    /// `Error` where the system has no randomness.
    pub fn generate(profile: Profile) -> RequestResult<Self> {
        let mut key_and_salt = vec![0; profile.key_len() + profile.salt_len()];
        getrandom::fill(&mut key_and_salt)
            .map_err(|error| RequestError::error(format!("no randomness for an SRTP key: {error}")))?;
        Ok(Self { profile, key_and_salt })
    }

    /// What the peer must be told.
    pub fn parameters(&self) -> SrtpParameters {
        SrtpParameters { crypto_suite: suite(self.profile), key_base64: STANDARD.encode(&self.key_and_salt) }
    }

    /// The session with a peer that told its key. Its profile wins; ours gets a new key then.
    ///
    /// # Errors
    /// `TypeError` where the peer's key is not one of its profile.
    pub fn connect(&mut self, remote: &SrtpParameters) -> RequestResult<Srtp> {
        let profile = profile(remote.crypto_suite);
        let remote = STANDARD
            .decode(&remote.key_base64)
            .map_err(|_| RequestError::type_error("invalid base64 in srtpParameters.keyBase64"))?;
        if remote.len() != profile.key_len() + profile.salt_len() {
            return Err(RequestError::type_error("invalid decoded SRTP key length"));
        }
        if profile != self.profile {
            *self = Self::generate(profile)?;
        }
        let (local_key, local_salt) = self.key_and_salt.split_at(profile.key_len());
        let (remote_key, remote_salt) = remote.split_at(profile.key_len());
        let failed = |error| RequestError::error(format!("error creating SRTP session: {error}"));
        Ok(Srtp {
            send: SrtpSender::new(profile, local_key, local_salt).map_err(failed)?,
            recv: Box::new(SrtpReceiver::new(profile, remote_key, remote_salt).map_err(failed)?),
        })
    }
}

/// The profile that the schema names.
pub fn profile(suite: SrtpCryptoSuite) -> Profile {
    match suite {
        SrtpCryptoSuite::AeadAes256Gcm => Profile::AeadAes256Gcm,
        SrtpCryptoSuite::AeadAes128Gcm => Profile::AeadAes128Gcm,
        SrtpCryptoSuite::AesCm128HmacSha180 => Profile::AesCm128HmacSha1_80,
        SrtpCryptoSuite::AesCm128HmacSha132 => Profile::AesCm128HmacSha1_32,
    }
}

fn suite(profile: Profile) -> SrtpCryptoSuite {
    match profile {
        Profile::AeadAes256Gcm => SrtpCryptoSuite::AeadAes256Gcm,
        Profile::AeadAes128Gcm => SrtpCryptoSuite::AeadAes128Gcm,
        Profile::AesCm128HmacSha1_80 => SrtpCryptoSuite::AesCm128HmacSha180,
        Profile::AesCm128HmacSha1_32 => SrtpCryptoSuite::AesCm128HmacSha132,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sides_understand_each_other() {
        for profile in Profile::PREFERENCE {
            let mut a = LocalKey::generate(profile).unwrap();
            let mut b = LocalKey::generate(profile).unwrap();
            let (a_parameters, b_parameters) = (a.parameters(), b.parameters());
            let mut a = a.connect(&b_parameters).unwrap();
            let mut b = b.connect(&a_parameters).unwrap();
            let plain = [0x80, 201, 0, 1, 0, 0, 0, 1];
            let mut datagram = [0; 64];
            let len = a.send.protect_rtcp(&plain, &mut datagram).unwrap();
            let len = b.recv.unprotect_rtcp(&mut datagram[..len]).unwrap();
            assert_eq!(datagram[..len], plain);
        }
    }

    #[test]
    fn the_peers_profile_wins() {
        let mut ours = LocalKey::generate(Profile::AeadAes256Gcm).unwrap();
        let theirs = LocalKey::generate(Profile::AesCm128HmacSha1_80).unwrap();
        ours.connect(&theirs.parameters()).unwrap();
        assert_eq!(ours.parameters().crypto_suite, SrtpCryptoSuite::AesCm128HmacSha180);
        let short =
            SrtpParameters { crypto_suite: SrtpCryptoSuite::AeadAes128Gcm, key_base64: "AAAA".to_owned() };
        assert!(matches!(ours.connect(&short), Err(RequestError::Type(_))));
    }
}
