//! What a client shows to prove that it is the one that connected before.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The shortest key: 128 bits in hexadecimal have 32 characters, in base64 22.
const MIN_BYTES: usize = 16;
/// The longest, which is stored with its peer.
const MAX_BYTES: usize = 128;

/// A secret that a client made up, shows whenever it connects, and nobody else knows: who has not shown it cannot take
/// over its peer's place. It lives as long as the peer's session.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PeerKey(Arc<str>);

/// A text that is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("peerKey must have 16 to 128 printable ASCII characters: make one of 128 random bits")]
pub struct PeerKeyError;

impl PeerKey {
    /// Checks a key that a client sent.
    pub fn parse(text: &str) -> Result<Self, PeerKeyError> {
        let fits = (MIN_BYTES..=MAX_BYTES).contains(&text.len());
        if fits && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Self(text.into()))
        } else {
            Err(PeerKeyError)
        }
    }
}

impl TryFrom<String> for PeerKey {
    type Error = PeerKeyError;

    fn try_from(text: String) -> Result<Self, PeerKeyError> {
        Self::parse(&text)
    }
}

impl From<PeerKey> for String {
    fn from(key: PeerKey) -> Self {
        key.0.as_ref().to_owned()
    }
}

/// Takes as long for a key that is nearly right as for any other of its length.
impl PartialEq for PeerKey {
    fn eq(&self, other: &Self) -> bool {
        let difference = self.0.bytes().zip(other.0.bytes()).fold(0, |sum, (a, b)| sum | (a ^ b));
        self.0.len() == other.0.len() && std::hint::black_box(difference) == 0
    }
}

impl Eq for PeerKey {}

/// It is a secret: nothing of it is shown.
impl fmt::Debug for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_long_printable_and_secret() {
        let key = PeerKey::parse("0123456789abcdef").expect("a key");
        assert_eq!(key, PeerKey::parse("0123456789abcdef").expect("a key"));
        for other in ["0123456789abcdeg", "1123456789abcdef", "0123456789abcdef0"] {
            assert_ne!(key, PeerKey::parse(other).expect("a key"));
        }
        assert_eq!(format!("{key:?}"), "PeerKey");
        for wrong in ["", "0123456789abcde", "0123456789abcde ", "0123456789abcdé", &"x".repeat(129)] {
            assert!(PeerKey::parse(wrong).is_err(), "{wrong}");
        }
    }
}
