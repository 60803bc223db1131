//! Join tokens: who may join which room, as whom, in which role, until when. An application signs one with a secret that it
//! shares with the servers, and hands it to its user's page. And resume tokens, by which a client has its session back.
//!
//! A token is a JSON Web Token (RFC 7519) in compact form, signed by HMAC with SHA-256 (RFC 7515, RFC 7518 section 3.2):
//! HS256 and nothing else, whatever its header says. Reads no clock: the time is an argument.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::unwrap_used, clippy::expect_used)]

mod claims;
mod resume;
mod secret;

pub use claims::{Asked, Claims, TokenError, Verifier, sign};
pub use resume::{ResumeClaims, read_resume, sign_resume, verify_resume};
pub use secret::{Secret, SecretError};
