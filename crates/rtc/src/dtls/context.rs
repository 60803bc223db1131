//! What all DTLS transports of a worker share: certificate, algorithms, timers.

use boring::ssl::{Ssl, SslContext, SslMethod, SslOptions, SslSessionCacheMode, SslVerifyMode, SslVersion};

use super::{DtlsError, DtlsTimers, INITIAL_TIMEOUT, MTU};
use crate::certificate::Certificate;
use crate::srtp::Profile;

/// BoringSSL's names of SRTP profiles, as a list in the order of preference.
fn profile_list(profiles: &[Profile]) -> String {
    let name = |profile: &Profile| match profile {
        Profile::AeadAes256Gcm => "SRTP_AEAD_AES_256_GCM",
        Profile::AeadAes128Gcm => "SRTP_AEAD_AES_128_GCM",
        Profile::AesCm128HmacSha1_80 => "SRTP_AES128_CM_SHA1_80",
        Profile::AesCm128HmacSha1_32 => "SRTP_AES128_CM_SHA1_32",
    };
    profiles.iter().map(name).collect::<Vec<_>>().join(":")
}

/// For DTLS 1.2 (those of 1.3 are fixed): forward secret ones. AES in CBC mode is there for old peers.
const CIPHERS: &str = "ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES";

/// Browsers send a key share for the first, and split their ClientHello for it.
const GROUPS: &str = "X25519MLKEM768:X25519:P-256:P-384";

/// Which versions of the protocol are spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DtlsVersions {
    /// 1.2 and 1.3, the peer's best.
    #[default]
    All,
    /// Only 1.2.
    Only12,
    /// Only 1.3.
    Only13,
}

/// Certificate and settings, shared by all transports of a worker. Cheap to clone.
#[derive(Clone)]
pub struct DtlsContext {
    context: SslContext,
    pub(super) timers: DtlsTimers,
}

impl DtlsContext {
    /// A context that speaks all versions.
    ///
    /// # Errors
    /// [`DtlsError::Boring`] when BoringSSL does not like the certificate.
    pub fn new(certificate: &Certificate, timers: DtlsTimers) -> Result<Self, DtlsError> {
        Self::with_versions(certificate, timers, DtlsVersions::All)
    }

    /// A context that speaks the given versions.
    ///
    /// # Errors
    /// [`DtlsError::Boring`] when BoringSSL does not like the certificate.
    pub fn with_versions(
        certificate: &Certificate,
        timers: DtlsTimers,
        versions: DtlsVersions,
    ) -> Result<Self, DtlsError> {
        Self::with_profiles(certificate, timers, versions, &Profile::PREFERENCE)
    }

    /// A context that speaks the given versions and offers, or chooses from, the given SRTP profiles in this order.
    ///
    /// # Errors
    /// [`DtlsError::Boring`] when BoringSSL does not like the certificate, or there is no profile.
    pub fn with_profiles(
        certificate: &Certificate,
        timers: DtlsTimers,
        versions: DtlsVersions,
        profiles: &[Profile],
    ) -> Result<Self, DtlsError> {
        let mut builder = SslContext::builder(SslMethod::dtls())?;
        // Said aloud rather than left to BoringSSL's default, which has not always included 1.3.
        let (min, max) = match versions {
            DtlsVersions::All => (SslVersion::DTLS1_2, SslVersion::DTLS1_3),
            DtlsVersions::Only12 => (SslVersion::DTLS1_2, SslVersion::DTLS1_2),
            DtlsVersions::Only13 => (SslVersion::DTLS1_3, SslVersion::DTLS1_3),
        };
        builder.set_min_proto_version(Some(min))?;
        builder.set_max_proto_version(Some(max))?;
        builder.set_certificate(&certificate.x509)?;
        builder.set_private_key(&certificate.private_key)?;
        builder.check_private_key()?;
        // Nobody resumes a WebRTC session: tickets and cache would be dead weight. The MTU is ours to say.
        builder.set_options(SslOptions::NO_TICKET | SslOptions::NO_QUERY_MTU);
        builder.set_session_cache_mode(SslSessionCacheMode::OFF);
        builder.set_cipher_list(CIPHERS)?;
        builder.set_curves_list(GROUPS)?;
        builder.set_tlsext_use_srtp(&profile_list(profiles))?;
        // Any certificate is let in here. The fingerprint says whether it is the right one, and it may come
        // later than the handshake.
        let mode = SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT;
        builder.set_custom_verify_callback(mode, |_| Ok(()));
        (timers.prepare_context)(&mut builder);
        Ok(Self { context: builder.build(), timers })
    }

    /// A connection's state, before it has a role.
    pub(super) fn connection(&self) -> Result<Ssl, DtlsError> {
        let mut ssl = Ssl::new(&self.context)?;
        ssl.set_mtu(MTU as u32)?;
        (self.timers.prepare_connection)(&mut ssl, INITIAL_TIMEOUT);
        Ok(ssl)
    }
}

impl std::fmt::Debug for DtlsContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DtlsContext").finish_non_exhaustive()
    }
}
