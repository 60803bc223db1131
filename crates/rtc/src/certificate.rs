//! The DTLS certificate: made for the occasion, or given as PEM; its fingerprints; those that peers announce.
//!
//! WebRTC certificates are self-signed: what vouches for one is its fingerprint in the signaling (RFC 8122,
//! RFC 8827 section 6.5), not its issuer, name or dates. Reading files is the caller's business.

use std::fmt::Write as _;
use std::str::FromStr;

use boring::asn1::{Asn1Integer, Asn1Time};
use boring::bn::{BigNum, MsbOption};
use boring::ec::{EcGroup, EcKey};
use boring::error::ErrorStack;
use boring::hash::MessageDigest;
use boring::nid::Nid;
use boring::pkey::{PKey, Private};
use boring::x509::{X509, X509Name, X509Ref};

/// Days that a generated certificate is valid. A worker process is expected to live shorter; nobody checks.
const VALID_DAYS: u32 = 365 * 10;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The certificate file holds no PEM certificate.
    #[error("cannot read the dtls certificate, it must be an X.509 certificate in PEM form: {0}")]
    Certificate(#[source] ErrorStack),
    /// The key file holds no unencrypted PEM private key.
    #[error("cannot read the dtls private key, it must be an unencrypted RSA or EC key in PEM form: {0}")]
    PrivateKey(#[source] ErrorStack),
    /// Certificate and key do not belong together.
    #[error("the dtls private key does not belong to the dtls certificate")]
    Mismatch,
    /// BoringSSL could not make one.
    #[error("cannot generate a dtls certificate: {0}")]
    Generate(#[source] ErrorStack),
}

/// A certificate and its private key.
#[derive(Clone)]
pub struct Certificate {
    pub(crate) x509: X509,
    pub(crate) private_key: PKey<Private>,
}

impl Certificate {
    /// Makes a self-signed ECDSA certificate on P-256, with a name that says nothing.
    ///
    /// # Errors
    /// [`CertificateError::Generate`].
    pub fn generate() -> Result<Self, CertificateError> {
        Self::try_generate().map_err(CertificateError::Generate)
    }

    fn try_generate() -> Result<Self, ErrorStack> {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
        let private_key = PKey::from_ec_key(EcKey::generate(&group)?)?;

        let mut serial = BigNum::new()?;
        serial.rand(127, MsbOption::MAYBE_ZERO, false)?;
        let serial: Asn1Integer = serial.to_asn1_integer()?;

        let mut name = X509Name::builder()?;
        name.append_entry_by_nid(Nid::COMMONNAME, "WebRTC")?;
        let name = name.build();

        let mut builder = X509::builder()?;
        builder.set_version(2)?;
        builder.set_serial_number(&serial)?;
        builder.set_subject_name(&name)?;
        builder.set_issuer_name(&name)?;
        let not_before = Asn1Time::days_from_now(0)?;
        let not_after = Asn1Time::days_from_now(VALID_DAYS)?;
        builder.set_not_before(&not_before)?;
        builder.set_not_after(&not_after)?;
        builder.set_pubkey(&private_key)?;
        builder.sign(&private_key, MessageDigest::sha256())?;
        Ok(Self { x509: builder.build(), private_key })
    }

    /// Takes certificate and private key (RSA or EC) in PEM form.
    ///
    /// # Errors
    /// All but [`CertificateError::Generate`].
    pub fn from_pem(certificate: &[u8], private_key: &[u8]) -> Result<Self, CertificateError> {
        let x509 = X509::from_pem(certificate).map_err(CertificateError::Certificate)?;
        let private_key = PKey::private_key_from_pem(private_key).map_err(CertificateError::PrivateKey)?;
        let public_key = x509.public_key().map_err(CertificateError::Certificate)?;
        if !public_key.public_eq(&private_key) {
            return Err(CertificateError::Mismatch);
        }
        Ok(Self { x509, private_key })
    }

    /// The certificate in PEM form.
    pub fn to_pem(&self) -> String {
        pem(&self.x509)
    }

    /// The certificate's fingerprints by all five hash functions, in the order of [`FingerprintAlgorithm::ALL`].
    pub fn fingerprints(&self) -> Vec<Fingerprint> {
        FingerprintAlgorithm::ALL
            .into_iter()
            .filter_map(|algorithm| Fingerprint::of(&self.x509, algorithm))
            .collect()
    }
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate").finish_non_exhaustive()
    }
}

/// The certificate in PEM form; empty where BoringSSL cannot write it.
pub(crate) fn pem(x509: &X509Ref) -> String {
    x509.to_pem().ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
}

/// A hash function for fingerprints, those of mediasoup (RFC 8122 section 5 has more, which nobody uses).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FingerprintAlgorithm {
    /// SHA-1.
    Sha1,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl FingerprintAlgorithm {
    /// All of them, weakest first.
    pub const ALL: [Self; 5] = [Self::Sha1, Self::Sha224, Self::Sha256, Self::Sha384, Self::Sha512];

    /// The name in SDP and in mediasoup's parameters, such as `sha-256`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha-1",
            Self::Sha224 => "sha-224",
            Self::Sha256 => "sha-256",
            Self::Sha384 => "sha-384",
            Self::Sha512 => "sha-512",
        }
    }

    fn digest(self) -> MessageDigest {
        match self {
            Self::Sha1 => MessageDigest::sha1(),
            Self::Sha224 => MessageDigest::sha224(),
            Self::Sha256 => MessageDigest::sha256(),
            Self::Sha384 => MessageDigest::sha384(),
            Self::Sha512 => MessageDigest::sha512(),
        }
    }
}

impl FromStr for FingerprintAlgorithm {
    type Err = UnknownFingerprintAlgorithm;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name().eq_ignore_ascii_case(name))
            .ok_or(UnknownFingerprintAlgorithm)
    }
}

/// The name is none of [`FingerprintAlgorithm`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown fingerprint algorithm")]
pub struct UnknownFingerprintAlgorithm;

/// A certificate's hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// The hash function.
    pub algorithm: FingerprintAlgorithm,
    /// The hash as hexadecimal bytes with colons, upper case where we made it.
    pub value: String,
}

impl Fingerprint {
    /// The fingerprint of a certificate; `None` where BoringSSL fails to hash.
    pub(crate) fn of(x509: &X509Ref, algorithm: FingerprintAlgorithm) -> Option<Self> {
        let digest = x509.digest(algorithm.digest()).ok()?;
        let mut value = String::with_capacity(digest.len().saturating_mul(3));
        for (position, byte) in digest.iter().enumerate() {
            let separator = if position == 0 { "" } else { ":" };
            // Writing to a String cannot fail.
            let _ = write!(value, "{separator}{byte:02X}");
        }
        Some(Self { algorithm, value })
    }

    /// Whether this is the certificate's fingerprint. Case does not matter (RFC 8122 section 5).
    pub(crate) fn matches(&self, x509: &X509Ref) -> bool {
        Self::of(x509, self.algorithm).is_some_and(|own| own.value.eq_ignore_ascii_case(&self.value))
    }
}

#[cfg(test)]
mod tests {
    use boring::rsa::Rsa;

    use super::*;

    #[test]
    fn generated_certificate_survives_pem() {
        let certificate = Certificate::generate().unwrap();
        let key = certificate.private_key.private_key_to_pem_pkcs8().unwrap();
        let again = Certificate::from_pem(certificate.to_pem().as_bytes(), &key).unwrap();
        assert_eq!(certificate.fingerprints(), again.fingerprints());
        assert!(certificate.fingerprints().iter().all(|fingerprint| fingerprint.matches(&again.x509)));
    }

    #[test]
    fn fingerprints_have_the_form_of_sdp() {
        let certificate = Certificate::generate().unwrap();
        let lengths = [20, 28, 32, 48, 64];
        for (fingerprint, length) in certificate.fingerprints().iter().zip(lengths) {
            let bytes: Vec<&str> = fingerprint.value.split(':').collect();
            assert_eq!(bytes.len(), length);
            assert!(bytes.iter().all(|byte| byte.len() == 2
                && byte.chars().all(|c| c.is_ascii_digit() || ('A'..='F').contains(&c))));
        }
    }

    #[test]
    fn two_generated_certificates_differ() {
        assert_ne!(
            Certificate::generate().unwrap().fingerprints(),
            Certificate::generate().unwrap().fingerprints()
        );
    }

    #[test]
    fn wrong_files_are_told_apart() {
        let one = Certificate::generate().unwrap();
        let other = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
        let key = other.private_key_to_pem_pkcs8().unwrap();
        let pem = one.to_pem();
        assert!(matches!(Certificate::from_pem(pem.as_bytes(), &key), Err(CertificateError::Mismatch)));
        assert!(matches!(Certificate::from_pem(b"", &key), Err(CertificateError::Certificate(_))));
        assert!(matches!(Certificate::from_pem(pem.as_bytes(), b"x"), Err(CertificateError::PrivateKey(_))));
    }

    #[test]
    fn algorithms_have_names() {
        for algorithm in FingerprintAlgorithm::ALL {
            assert_eq!(algorithm.name().parse(), Ok(algorithm));
        }
        assert_eq!("md5".parse::<FingerprintAlgorithm>(), Err(UnknownFingerprintAlgorithm));
    }
}
