//! What a token says, how it is signed, and what is looked at before it is believed.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use room::{PeerId, Role, RoomId};
use serde::{Deserialize, Serialize};

use crate::secret::Secret;

/// The longest token, in bytes. Ids of 128 bytes of any script, a role and a name take less than half.
pub(crate) const MAX_BYTES: usize = 4096;
/// How far an application's clock may be from the server's, in seconds.
const LEEWAY_S: u64 = 30;

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Which room may be joined.
    pub room: RoomId,
    /// As whom.
    pub peer: PeerId,
    /// In which role; none is the room type's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Until when, in seconds since 1970. It is looked at when the peer joins: who is in stays.
    pub exp: u64,
    /// From when on, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
    /// The peer's name, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// What a client asks for beside its token; what it leaves out, the token says.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked<'a> {
    /// Which room.
    pub room: Option<&'a RoomId>,
    /// As whom.
    pub peer: Option<&'a PeerId>,
}

/// Why a token is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// There is none.
    #[error("this server lets nobody in without a token: give one as token=… or as Authorization: Bearer …")]
    Missing,
    /// It is longer than any.
    #[error("the token is longer than 4096 bytes")]
    TooLong,
    /// It is no token.
    #[error("this is no token: three parts in base64url, with dots between, were expected")]
    Malformed,
    /// It is signed in another way, or not at all.
    #[error("the token's algorithm is not HS256")]
    Algorithm,
    /// It demands something of who reads it that is not done here (RFC 7515 section 4.1.11).
    #[error("the token has critical headers, and none are known here")]
    Critical,
    /// No secret of this server has signed it.
    #[error("the token is signed with another secret")]
    Signature,
    /// It does not say what it must.
    #[error("the token's claims are not room, peer and exp, with role, nbf and name if wanted")]
    Claims,
    /// Its time is over.
    #[error("the token has expired: ask the application for a new one")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet")]
    NotYet,
    /// It is for another room.
    #[error("the token is for another room")]
    OtherRoom,
    /// It is for somebody else.
    #[error("the token is for another peer")]
    OtherPeer,
}

impl TokenError {
    /// One word, for counters.
    pub fn why(self) -> &'static str {
        match self {
            Self::Missing => "token_missing",
            Self::TooLong => "token_too_long",
            Self::Malformed => "token_malformed",
            Self::Algorithm => "token_algorithm",
            Self::Critical => "token_critical",
            Self::Signature => "token_signature",
            Self::Claims => "token_claims",
            Self::Expired => "token_expired",
            Self::NotYet => "token_not_yet",
            Self::OtherRoom => "token_other_room",
            Self::OtherPeer => "token_other_peer",
        }
    }
}

/// The header that is written, and what is looked at of one that is read.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Header {
    pub(crate) alg: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) typ: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) crit: Option<serde_json::Value>,
}

/// Makes a token.
///
/// # Errors
/// When the claims cannot be written as JSON, which does not happen with ids that were parsed.
pub fn sign(claims: &Claims, secret: &Secret) -> Result<String, serde_json::Error> {
    let header = Header { alg: "HS256".to_owned(), typ: Some("JWT".to_owned()), crit: None };
    let part = |json: Vec<u8>| URL_SAFE_NO_PAD.encode(json);
    let signed = format!("{}.{}", part(serde_json::to_vec(&header)?), part(serde_json::to_vec(claims)?));
    let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&secret.0, signed.as_bytes()));
    Ok(format!("{signed}.{signature}"))
}

/// Tells tokens that this server's secrets have signed from others.
#[derive(Debug, Clone)]
pub struct Verifier(Vec<Secret>);

impl Verifier {
    /// Believes tokens of any of these secrets: of two while one is exchanged for the other.
    pub fn new(secrets: Vec<Secret>) -> Self {
        Self(secrets)
    }

    /// What a token says, if it is to be believed at this time, in seconds since 1970, by one who asks for this.
    ///
    /// # Errors
    /// [`TokenError`], the first reason found; nothing that the token says is looked at before its signature.
    pub fn verify(&self, token: &str, asked: Asked<'_>, now: u64) -> Result<Claims, TokenError> {
        let claims = self.verify_lasting(token, asked)?;
        if now >= claims.exp.saturating_add(LEEWAY_S) {
            return Err(TokenError::Expired);
        }
        if claims.nbf.is_some_and(|from| now.saturating_add(LEEWAY_S) < from) {
            return Err(TokenError::NotYet);
        }
        Ok(claims)
    }

    /// As [`Self::verify`], whatever the time: who is in stays, also when his connection breaks after the token's time.
    ///
    /// # Errors
    /// As [`Self::verify`].
    pub fn verify_lasting(&self, token: &str, asked: Asked<'_>) -> Result<Claims, TokenError> {
        let Parts { header, claims, signed, signature } = signed_parts(token)?;
        // Compares in constant time.
        if !self.0.iter().any(|secret| hmac::verify(&secret.0, signed.as_bytes(), &signature).is_ok()) {
            return Err(TokenError::Signature);
        }
        // Whatever it says beside that: no token is of both kinds (RFC 8725 section 3.11).
        if header.typ.as_deref() == Some(crate::resume::TYPE) {
            return Err(TokenError::Claims);
        }
        let claims: Claims = serde_json::from_slice(&claims).map_err(|_| TokenError::Claims)?;
        if asked.room.is_some_and(|room| *room != claims.room) {
            return Err(TokenError::OtherRoom);
        }
        if asked.peer.is_some_and(|peer| *peer != claims.peer) {
            return Err(TokenError::OtherPeer);
        }
        Ok(claims)
    }
}

/// A token taken apart; nothing of it is believed yet but the algorithm's name.
pub(crate) struct Parts<'a> {
    pub(crate) header: Header,
    pub(crate) claims: Vec<u8>,
    pub(crate) signed: &'a str,
    pub(crate) signature: Vec<u8>,
}

/// Takes a token apart.
pub(crate) fn signed_parts(token: &str) -> Result<Parts<'_>, TokenError> {
    if token.is_empty() {
        return Err(TokenError::Missing);
    }
    if token.len() > MAX_BYTES {
        return Err(TokenError::TooLong);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
    let (header, claims) = signed.split_once('.').ok_or(TokenError::Malformed)?;
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed);
    let (header, claims, signature) = (decode(header)?, decode(claims)?, decode(signature)?);
    let header: Header = serde_json::from_slice(&header).map_err(|_| TokenError::Malformed)?;
    if header.alg != "HS256" {
        return Err(TokenError::Algorithm);
    }
    if header.crit.is_some() {
        return Err(TokenError::Critical);
    }
    Ok(Parts { header, claims, signed, signature })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn secret(byte: u8) -> Secret {
        Secret::new(&[byte; 32]).expect("long enough")
    }

    fn claims() -> Claims {
        Claims {
            room: RoomId::parse("会議室 7").expect("id"),
            peer: PeerId::parse("ann").expect("id"),
            role: Some(Role::new("judge")),
            exp: NOW + 3600,
            nbf: Some(NOW),
            name: None,
        }
    }

    fn verify(token: &str) -> Result<Claims, TokenError> {
        Verifier::new(vec![secret(2), secret(1)]).verify(token, Asked::default(), NOW)
    }

    /// A token of parts as they are, properly signed.
    fn forged(header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&secret(1).0, signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    #[test]
    fn a_token_of_any_of_the_secrets_is_believed() {
        for byte in [1, 2] {
            assert_eq!(verify(&sign(&claims(), &secret(byte)).expect("signed")), Ok(claims()));
        }
        assert_eq!(verify(&sign(&claims(), &secret(3)).expect("signed")), Err(TokenError::Signature));
        // The example of RFC 7515 appendix A.1, whose key and claims are known: the signature holds, the claims are others.
        let key = URL_SAFE_NO_PAD
            .decode("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow")
            .expect("key");
        let token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6\
                     Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        let verifier = Verifier::new(vec![Secret::new(&key).expect("long")]);
        assert_eq!(verifier.verify(token, Asked::default(), NOW), Err(TokenError::Claims));
    }

    #[test]
    fn each_wrong_token_is_refused_for_its_own_reason() {
        let good = sign(&claims(), &secret(1)).expect("signed");
        let (signed, _) = good.rsplit_once('.').expect("parts");
        let json = serde_json::to_string(&claims()).expect("json");
        let unsigned =
            format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), URL_SAFE_NO_PAD.encode(&json));
        let changed = Claims { room: RoomId::parse("other").expect("id"), ..claims() };
        let changed = URL_SAFE_NO_PAD.encode(serde_json::to_string(&changed).expect("json"));
        let (header, signature) =
            (good.split('.').next().expect("part"), good.rsplit('.').next().expect("part"));
        let with = |text: &str| forged(r#"{"alg":"HS256"}"#, text);
        for (token, error) in [
            (String::new(), TokenError::Missing),
            ("x".repeat(4097), TokenError::TooLong),
            ("undefined".to_owned(), TokenError::Malformed),
            ("a.b".to_owned(), TokenError::Malformed),
            (format!("{good}="), TokenError::Malformed),
            (format!("a.{good}"), TokenError::Malformed),
            (format!("{good}\u{0}"), TokenError::Malformed),
            ("..".to_owned(), TokenError::Malformed),
            (forged("[]", &json), TokenError::Malformed),
            (unsigned, TokenError::Algorithm),
            (forged(r#"{"alg":"none"}"#, &json), TokenError::Algorithm),
            (forged(r#"{"alg":"hs256"}"#, &json), TokenError::Algorithm),
            (forged(r#"{"alg":"RS256"}"#, &json), TokenError::Algorithm),
            (forged(r#"{"alg":"HS256","crit":["exp"],"exp":1}"#, &json), TokenError::Critical),
            (format!("{signed}."), TokenError::Signature),
            (format!("{signed}.AAAA"), TokenError::Signature),
            (format!("{header}.{changed}.{signature}"), TokenError::Signature),
            (with("{}"), TokenError::Claims),
            (with("7"), TokenError::Claims),
            (with(r#"{"room":"a/b","peer":"p","exp":9999999999}"#), TokenError::Claims),
            (with(r#"{"room":"r","peer":"p"}"#), TokenError::Claims),
            (with(r#"{"room":"r","peer":"p","exp":-1}"#), TokenError::Claims),
        ] {
            assert_eq!(verify(&token), Err(error), "{token:.80}");
        }
        assert_eq!(
            verify(&forged(r#"{"alg":"HS256","typ":"JWT","kid":"7"}"#, &json)),
            Ok(claims()),
            "more is no harm"
        );
    }

    #[test]
    fn times_count_with_leeway_for_clocks_that_differ() {
        let at = |now| {
            let token = sign(&claims(), &secret(1)).expect("signed");
            Verifier::new(vec![secret(1)]).verify(&token, Asked::default(), now).map(drop)
        };
        let Claims { exp, .. } = claims();
        assert_eq!(at(NOW - LEEWAY_S - 1), Err(TokenError::NotYet));
        assert_eq!(at(NOW - LEEWAY_S), Ok(()));
        assert_eq!(at(exp + LEEWAY_S - 1), Ok(()));
        assert_eq!(at(exp + LEEWAY_S), Err(TokenError::Expired));
        assert_eq!(at(u64::MAX), Err(TokenError::Expired));
    }

    #[test]
    fn a_token_is_for_one_peer_of_one_room() {
        let token = sign(&claims(), &secret(1)).expect("signed");
        let (room, peer) = (RoomId::parse("other").expect("id"), PeerId::parse("bob").expect("id"));
        let ask =
            |room, peer| Verifier::new(vec![secret(1)]).verify(&token, Asked { room, peer }, NOW).map(drop);
        let own = claims();
        assert_eq!(ask(Some(&own.room), Some(&own.peer)), Ok(()));
        assert_eq!(ask(Some(&room), Some(&own.peer)), Err(TokenError::OtherRoom));
        assert_eq!(ask(Some(&own.room), Some(&peer)), Err(TokenError::OtherPeer));
    }

    #[test]
    fn secrets_are_long_and_one_a_line() {
        assert!(Secret::new(&[0; 31]).is_err());
        let line = "s".repeat(32);
        assert_eq!(
            Secret::all(&format!("# old and new\n{line}\n\n  {line} \r\n")).map(|all| all.len()),
            Ok(2)
        );
        assert!(Secret::all("short").is_err());
        assert_eq!(format!("{:?}", secret(7)), "Secret");
    }
}
