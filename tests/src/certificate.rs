//! A certificate that a test makes for itself, with the openssl command.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

/// A self-signed certificate for 127.0.0.1 and localhost, with its key, in a folder of its own.
pub struct Certificate {
    folder: TempDir,
}

impl Certificate {
    /// Makes one (ECDSA, P-256).
    pub fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let certificate = Self { folder };
        let status = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
            .args(["-days", "2", "-subj", "/CN=localhost"])
            .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
            .arg("-keyout")
            .arg(certificate.key())
            .arg("-out")
            .arg(certificate.path())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .context("cannot start openssl: apt-get install openssl")?;
        if !status.success() {
            bail!("openssl made no certificate: {status}");
        }
        Ok(certificate)
    }

    /// The PEM file of the certificate.
    pub fn path(&self) -> PathBuf {
        self.file("certificate.pem")
    }

    /// The PEM file of its key.
    pub fn key(&self) -> PathBuf {
        self.file("key.pem")
    }

    fn file(&self, name: &str) -> PathBuf {
        Path::join(self.folder.path(), name)
    }
}
