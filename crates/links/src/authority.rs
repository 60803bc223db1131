//! A certificate authority for a cluster that has none: makes one, and with it the certificates of nodes.
//!
//! Everything about the authority's certificate follows from its key, so that the key alone is enough to sign with.

use std::fmt;
use std::net::IpAddr;

use cluster::node::NodeId;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use time::{Duration, OffsetDateTime};

/// How long an authority's certificate is valid. It is exchanged by giving all nodes a file with the old and the new one.
const AUTHORITY_DAYS: u32 = 3650;

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct Pair {
    /// The certificate.
    pub cert: String,
    /// The private key: nobody else's business.
    pub key: String,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("cert", &self.cert).finish_non_exhaustive()
    }
}

/// Why no certificate was made.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The node's name is none that certificates can have.
    #[error("{0} is no DNS name, and only those are found in certificates: letters, digits and '-' are safe")]
    Name(NodeId),
    /// The additional name is neither.
    #[error("{0:?} is neither a DNS name nor an IP address")]
    San(String),
    /// The certificate is not the key's, or the authority is not one that was made here.
    #[error(
        "the authority's certificate and key do not belong together, or tureen cert did not make them: sign with the \
             tools that did, a certificate for server and client with the node's name as DNS name"
    )]
    NotOurs,
    /// The library does not want to.
    #[error("cannot make a certificate: {0}")]
    Library(#[from] rcgen::Error),
}

/// Makes an authority.
///
/// # Errors
/// When the system has no randomness to give.
pub fn make_authority() -> Result<Pair, AuthorityError> {
    let key = KeyPair::generate()?;
    let mut params = authority(&key);
    valid_for(&mut params, AUTHORITY_DAYS);
    let cert = params.self_signed(&key)?;
    Ok(Pair { cert: cert.pem(), key: key.serialize_pem() })
}

/// Makes a node's certificate with an authority's key, for so many days. Other names, for programs that look for them, may
/// be added.
///
/// # Errors
/// See [`AuthorityError`].
pub fn make_node(
    authority_pair: &Pair,
    node: &NodeId,
    sans: &[String],
    days: u32,
) -> Result<Pair, AuthorityError> {
    let authority_key = KeyPair::from_pem(&authority_pair.key)?;
    let issuer = Issuer::new(authority(&authority_key), authority_key);
    if !matches!(ServerName::try_from(node.as_str()), Ok(ServerName::DnsName(_))) {
        return Err(AuthorityError::Name(node.clone()));
    }
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = named(node.as_str());
    valid_for(&mut params, days);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.subject_alt_names = vec![SanType::DnsName(node.as_str().try_into()?)];
    for san in sans {
        params.subject_alt_names.push(match san.parse::<IpAddr>() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) if matches!(ServerName::try_from(san.as_str()), Ok(ServerName::DnsName(_))) => {
                SanType::DnsName(san.as_str().try_into()?)
            }
            Err(_) => return Err(AuthorityError::San(san.clone())),
        });
    }
    let cert = params.signed_by(&key, &issuer)?;
    if !is_signed_by(cert.der(), &authority_pair.cert) {
        return Err(AuthorityError::NotOurs);
    }
    Ok(Pair { cert: cert.pem(), key: key.serialize_pem() })
}

/// Whether who knows this authority believes this certificate.
fn is_signed_by(cert: &CertificateDer<'_>, authority: &str) -> bool {
    let verified = || {
        let authority = CertificateDer::from_pem_slice(authority.as_bytes()).ok()?;
        let anchors = [webpki::anchor_from_trusted_cert(&authority).ok()?];
        let cert = webpki::EndEntityCert::try_from(cert).ok()?;
        let usage = webpki::KeyUsage::client_auth();
        let all = webpki::ALL_VERIFICATION_ALGS;
        cert.verify_for_usage(all, &anchors, &[], UnixTime::now(), usage, None, None).ok().map(drop)
    };
    verified().is_some()
}

/// The certificate of the authority with this key.
fn authority(key: &KeyPair) -> CertificateParams {
    let mut params = CertificateParams::default();
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key.der_bytes());
    let id: String = hash.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name = named(&format!("Tureen cluster {id}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// From an hour ago, so that a clock that runs late does not refuse it.
fn valid_for(params: &mut CertificateParams, days: u32) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now.saturating_sub(Duration::HOUR);
    params.not_after = now.saturating_add(Duration::days(days.into()));
}

fn named(name: &str) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_names_its_node_and_what_else_was_asked_for() {
        let authority = make_authority().expect("made");
        let node: NodeId = "media_3.eu-west".parse().expect("name");
        let sans = ["10.0.0.1".to_owned(), "m3.example.org".to_owned()];
        let pair = make_node(&authority, &node, &sans, 1).expect("made");
        let cert = CertificateDer::from_pem_slice(pair.cert.as_bytes()).expect("PEM");
        assert_eq!(crate::security::names(&cert), ["media_3.eu-west", "m3.example.org"]);
        assert!(!format!("{pair:?}").contains("PRIVATE"));
    }

    #[test]
    fn what_nobody_would_believe_is_not_made() {
        let (ours, other) = (make_authority().expect("made"), make_authority().expect("made"));
        let node = |name: &str| name.parse::<NodeId>().expect("name");
        let mixed = Pair { cert: ours.cert.clone(), key: other.key };
        assert!(matches!(make_node(&mixed, &node("m1"), &[], 1), Err(AuthorityError::NotOurs)));
        for name in ["10.0.0.1", "-m", "a..b"] {
            assert!(matches!(make_node(&ours, &node(name), &[], 1), Err(AuthorityError::Name(_))), "{name}");
        }
        assert!(matches!(make_node(&ours, &node("m1"), &["a b".to_owned()], 1), Err(AuthorityError::San(_))));
    }
}
