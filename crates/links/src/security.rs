//! How nodes know each other: TLS 1.3 with a certificate at both ends, from an authority of the cluster's own, with the
//! node's name as a DNS name. The files are read again when they change; connections that are open go on.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use cluster::node::NodeId;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tracing::{error, info};

use crate::error::Policy;

/// The three files of a node, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificates of the cluster's authority. Two while it is exchanged for another.
    pub ca: PathBuf,
    /// The node's own certificate, and what stands between it and the authority's.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Files that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    /// A file cannot be read, or is not what it should be.
    #[error("cannot read {path}: {why}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Certificate, key and authority do not make a TLS configuration.
    #[error("{cert} and its key cannot be used: {why}", cert = cert.display())]
    Tls {
        /// The certificate's file.
        cert: PathBuf,
        /// Why.
        why: String,
    },
}

/// How links are secured. Clones share it.
#[derive(Debug, Clone)]
pub struct Security(Arc<Kind>);

#[derive(Debug)]
enum Kind {
    Plaintext,
    Tls { files: TlsFiles, loaded: Mutex<Loaded> },
}

#[derive(Debug)]
struct Loaded {
    stamps: [Stamp; 3],
    configs: Configs,
}

/// When a file was changed, and how long it is.
type Stamp = Option<(SystemTime, u64)>;

/// What a handshake needs.
#[derive(Debug, Clone)]
pub(crate) struct Configs {
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) server: Arc<ServerConfig>,
}

impl Security {
    /// No TLS: between loopback addresses only, everything else is refused. For tests and a single machine.
    pub fn plaintext() -> Self {
        Self(Arc::new(Kind::Plaintext))
    }

    /// TLS with these files.
    ///
    /// # Errors
    /// [`SecurityError`] when they cannot be used now.
    pub fn tls(files: TlsFiles) -> Result<Self, SecurityError> {
        let stamps = stamps(&files);
        let configs = load(&files)?;
        Ok(Self(Arc::new(Kind::Tls { files, loaded: Mutex::new(Loaded { stamps, configs }) })))
    }

    /// What the next handshake uses; none is plaintext. Looks whether the files have changed; when the new ones cannot be
    /// used, the old ones are.
    pub(crate) fn configs(&self) -> Option<Configs> {
        let Kind::Tls { files, loaded } = &*self.0 else { return None };
        // Held while files are read: a handshake is rare, and they are small.
        let mut loaded = loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let now = stamps(files);
        if loaded.stamps != now {
            let began = Instant::now();
            match load(files) {
                Ok(configs) => {
                    info!(cert = %files.cert.display(), took = ?began.elapsed(), "link certificates read again");
                    loaded.configs = configs;
                }
                Err(error) => {
                    metrics::counter!("tureen_link_certificates_unusable_total").increment(1);
                    error!(%error, "the new link certificates cannot be used: going on with the old ones");
                }
            }
            // Of files that cannot be used, too: the same ones are not complained about twice.
            loaded.stamps = now;
        }
        Some(loaded.configs.clone())
    }
}

/// Whether a link to or from this address may do without TLS.
pub(crate) fn may_be_plain(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// The DNS names of a certificate, as written.
pub(crate) fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    match webpki::EndEntityCert::try_from(certificate) {
        Ok(certificate) => certificate.valid_dns_names().map(str::to_owned).collect(),
        Err(_) => Vec::new(),
    }
}

/// Whether a certificate with these names is this node's. DNS names know no case, node names do.
pub(crate) fn is_named(names: &[String], node: &NodeId) -> Result<(), Policy> {
    if names.iter().any(|name| name == node.as_str()) {
        return Ok(());
    }
    Err(Policy::Name { node: node.clone(), names: names.to_vec() })
}

/// What a failed handshake, or a connection that ended right after it, says about the other end's certificate or ours.
pub(crate) fn refused_by_tls(error: &(dyn std::error::Error + 'static)) -> Option<Policy> {
    use rustls::AlertDescription as Alert;
    let mut next = Some(error);
    while let Some(error) = next {
        // An error in an `io::Error` is no source of it, but inside it.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let tls = error
            .downcast_ref::<rustls::Error>()
            .or_else(|| inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()));
        match tls {
            Some(rustls::Error::InvalidCertificate(why)) => {
                return Some(Policy::Certificate(format!("theirs is not accepted here: {why:?}")));
            }
            Some(rustls::Error::NoCertificatesPresented) => {
                return Some(Policy::Certificate("they have shown none".to_owned()));
            }
            Some(rustls::Error::AlertReceived(
                alert @ (Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::CertificateRequired
                | Alert::UnknownCA
                | Alert::AccessDenied
                | Alert::DecryptError),
            )) => return Some(Policy::Certificate(format!("ours is not accepted there: {alert:?}"))),
            // The first bytes are no TLS: the other end speaks without.
            Some(rustls::Error::InvalidMessage(_)) => return Some(Policy::Plaintext),
            _ => {}
        }
        next = error.source();
    }
    None
}

fn stamps(files: &TlsFiles) -> [Stamp; 3] {
    [&files.ca, &files.cert, &files.key].map(|path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, SecurityError> {
    let failed = |why: String| SecurityError::File { path: path.to_owned(), why };
    let found = CertificateDer::pem_file_iter(path)
        .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>())
        .map_err(|error| failed(error.to_string()))?;
    if found.is_empty() {
        return Err(failed("it holds no certificate".to_owned()));
    }
    Ok(found)
}

fn load(files: &TlsFiles) -> Result<Configs, SecurityError> {
    let unusable = |why: String| SecurityError::Tls { cert: files.cert.clone(), why };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&files.ca)? {
        let failed =
            |error: rustls::Error| SecurityError::File { path: files.ca.clone(), why: error.to_string() };
        roots.add(certificate).map_err(failed)?;
    }
    let roots = Arc::new(roots);
    let chain = certificates(&files.cert)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| SecurityError::File { path: files.key.clone(), why: error.to_string() })?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = &[&rustls::version::TLS13];
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
        .build()
        .map_err(|error| unusable(error.to_string()))?;
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .and_then(|builder| {
            builder.with_client_cert_verifier(verifier).with_single_cert(chain.clone(), key.clone_key())
        })
        .map_err(|error| unusable(error.to_string()))?;
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .and_then(|builder| builder.with_root_certificates(roots).with_client_auth_cert(chain, key))
        .map_err(|error| unusable(error.to_string()))?;
    // Nothing is resumed: each connection shows certificates anew, so that exchanged ones count.
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    client.resumption = Resumption::disabled();
    server.alpn_protocols = vec![b"h2".to_vec()];
    client.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Configs { client: Arc::new(client), server: Arc::new(server) })
}
