//! The secret that applications and servers share.

use std::fmt;

use aws_lc_rs::hmac;

/// The shortest secret, in bytes: as long as what the hash gives (RFC 7518 section 3.2).
const MIN_BYTES: usize = 32;

/// A secret that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a secret of {0} bytes is too short: at least 32 are needed, for example from openssl rand -base64 48"
)]
pub struct SecretError(usize);

/// A secret for HS256.
#[derive(Clone)]
pub struct Secret(pub(crate) hmac::Key);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// A secret of these bytes, as they are: no decoding.
    ///
    /// # Errors
    /// [`SecretError`] when they are fewer than 32.
    pub fn new(bytes: &[u8]) -> Result<Self, SecretError> {
        if bytes.len() < MIN_BYTES {
            return Err(SecretError(bytes.len()));
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, bytes)))
    }

    /// A secret that nobody else has; `None` when the system has no randomness to give.
    pub fn random() -> Option<Self> {
        Self::new(&Self::random_bytes()?).ok()
    }

    /// What a secret is made of that nobody else has; `None` when the system has no randomness to give.
    pub fn random_bytes() -> Option<[u8; MIN_BYTES]> {
        let mut bytes = [0; MIN_BYTES];
        aws_lc_rs::rand::fill(&mut bytes).ok()?;
        Some(bytes)
    }

    /// All secrets of a file: one a line, without the spaces around it; empty lines and those that begin with `#` are left
    /// out.
    ///
    /// # Errors
    /// [`SecretError`] for the first that is too short.
    pub fn all(text: &str) -> Result<Vec<Self>, SecretError> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.map(|line| Self::new(line.as_bytes())).collect()
    }
}
