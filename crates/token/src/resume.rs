//! Resume tokens: a client that lost its connection shows one to have its session back. The node that has the room makes
//! and reads it; whoever leads the client there reads only the address in it.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use room::{PeerId, RoomId, SessionId};
use serde::{Deserialize, Serialize};

use crate::claims::{Header, MAX_BYTES, Parts, TokenError, signed_parts};
use crate::secret::Secret;

/// The token's type, so that no other token is taken for one.
pub(crate) const TYPE: &str = "tureen-resume";

/// What a resume token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumeClaims {
    /// In which room the session is.
    pub room: RoomId,
    /// Whose it is.
    pub peer: PeerId,
    /// Which.
    pub session: SessionId,
    /// The epoch of the room's lease; 0 on a server without a cluster.
    pub epoch: u64,
    /// The node that has the room; empty on a server without a cluster.
    pub node: String,
}

/// Makes a token.
///
/// # Errors
/// When the claims cannot be written as JSON, which does not happen with ids that were parsed.
pub fn sign_resume(claims: &ResumeClaims, secret: &Secret) -> Result<String, serde_json::Error> {
    let header = Header { alg: "HS256".to_owned(), typ: Some(TYPE.to_owned()), crit: None };
    let part = |json: Vec<u8>| URL_SAFE_NO_PAD.encode(json);
    let signed = format!("{}.{}", part(serde_json::to_vec(&header)?), part(serde_json::to_vec(claims)?));
    let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&secret.0, signed.as_bytes()));
    Ok(format!("{signed}.{signature}"))
}

/// What a token says, if this secret has signed it. It has no expiry: the session that it names has.
///
/// # Errors
/// [`TokenError`], the first reason found; nothing that the token says is looked at before its signature.
pub fn verify_resume(token: &str, secret: &Secret) -> Result<ResumeClaims, TokenError> {
    let Parts { header, claims, signed, signature } = signed_parts(token)?;
    // Compares in constant time.
    hmac::verify(&secret.0, signed.as_bytes(), &signature).map_err(|_| TokenError::Signature)?;
    if header.typ.as_deref() != Some(TYPE) {
        return Err(TokenError::Claims);
    }
    serde_json::from_slice(&claims).map_err(|_| TokenError::Claims)
}

/// Where a token says that its session is. Nothing of it is proven: good for asking there, and nothing else.
pub fn read_resume(token: &str) -> Option<ResumeClaims> {
    if token.len() > MAX_BYTES {
        return None;
    }
    let mut parts = token.split('.');
    let claims = parts.nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Asked, Claims, Verifier, sign};

    fn claims() -> ResumeClaims {
        ResumeClaims {
            room: RoomId::parse("会議室 7").expect("id"),
            peer: PeerId::parse("ann").expect("id"),
            session: SessionId(u64::MAX),
            epoch: 7,
            node: "m1".to_owned(),
        }
    }

    #[test]
    fn a_token_is_believed_by_who_made_it_and_read_by_anybody() {
        let secret = Secret::random().expect("randomness");
        let token = sign_resume(&claims(), &secret).expect("signed");
        assert_eq!(verify_resume(&token, &secret), Ok(claims()));
        assert_eq!(read_resume(&token), Some(claims()));
        let other = Secret::random().expect("randomness");
        assert_eq!(verify_resume(&token, &other), Err(TokenError::Signature));
    }

    #[test]
    fn a_changed_token_is_refused_and_a_join_token_is_none() {
        let secret = Secret::new(&[1; 32]).expect("long enough");
        let token = sign_resume(&claims(), &secret).expect("signed");
        for (at, byte) in token.bytes().enumerate() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if byte == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).expect("ASCII");
            assert!(verify_resume(&changed, &secret).is_err(), "{at}");
        }
        for wrong in ["", ".", "..", "a.b.c", &"x".repeat(MAX_BYTES + 1)] {
            assert!(verify_resume(wrong, &secret).is_err() && read_resume(wrong).is_none(), "{wrong:.20}");
        }
        let join = Claims {
            room: claims().room,
            peer: claims().peer,
            role: None,
            exp: u64::MAX,
            nbf: None,
            name: None,
        };
        let join = sign(&join, &secret).expect("signed");
        assert_eq!(verify_resume(&join, &secret), Err(TokenError::Claims));
        let verifier = Verifier::new(vec![secret]);
        assert_eq!(verifier.verify(&token, Asked::default(), 0), Err(TokenError::Claims));
    }
}
