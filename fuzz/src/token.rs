//! Tokens that clients show: as they come, of which none is believed, and with a right signature under whatever was signed. What
//! is believed says the same when it is signed anew, and one kind is never taken for the other.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use token::{Asked, Secret, Verifier, read_resume, sign, sign_resume, verify_resume};

const SECRET: &[u8] = &[7; 32];

/// The bytes are a token; or a line that is its header, and behind it its claims, to be signed as they are.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Some((header, claims)) = text.split_once('\n') else { return show(text) };
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
    let signature = hmac::sign(&key, signed.as_bytes());
    show(&format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)));
}

fn show(token: &str) {
    let secret = Secret::new(SECRET).expect("long enough");
    let verifier = Verifier::new(vec![secret.clone()]);
    let join = verifier.verify_lasting(token, Asked::default());
    let resume = verify_resume(token, &secret);
    assert!(join.is_err() || resume.is_err(), "no token is of both kinds");
    if let Ok(claims) = join {
        let again = sign(&claims, &secret).expect("ids that were parsed");
        assert_eq!(verifier.verify_lasting(&again, Asked::default()).as_ref(), Ok(&claims));
        let now = claims.exp.max(claims.nbf.unwrap_or(0)).saturating_add(31);
        assert!(now == u64::MAX || verifier.verify(token, Asked::default(), now).is_err(), "it has expired");
        let asked = Asked { room: Some(&claims.room), peer: Some(&claims.peer) };
        assert_eq!(verifier.verify_lasting(token, asked).as_ref(), Ok(&claims));
        let stranger = Secret::new(&[8; 32]).expect("long enough");
        assert!(Verifier::new(vec![stranger]).verify_lasting(token, Asked::default()).is_err());
    }
    if let Ok(claims) = resume {
        assert_eq!(read_resume(token).as_ref(), Some(&claims), "whoever leads there reads the same");
        let again = sign_resume(&claims, &secret).expect("ids that were parsed");
        assert_eq!(verify_resume(&again, &secret), Ok(claims));
    }
}
