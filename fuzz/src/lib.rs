//! What the fuzzer runs: one function a parser, and one for the worker's transports. `cargo xtask fuzz` drives them with
//! libFuzzer; the corpus in `corpus/` is run by an ordinary test as well.
//!
//! Each target asserts more than that nothing panics: what parses is written and parsed again, or read by a second,
//! plain reading of the same RFC. Nothing here is part of the server.

pub mod av1;
pub mod channel;
pub mod dependency;
pub mod dtls;
pub mod frames;
pub mod h264;
pub mod ice;
pub mod input;
pub mod ortc;
pub mod protoo;
pub mod rtcp;
pub mod rtp;
pub mod sctp;
pub mod session;
pub mod srtp;
pub mod stun;
pub mod token;
pub mod transport;
pub mod transport_feedback;
pub mod vp8;
pub mod vp9;

/// Runs one input of a target.
pub type Target = fn(&[u8]);

/// Every target by its name, which is that of its folder in `corpus/`.
pub const TARGETS: &[(&str, Target)] = &[
    ("av1", av1::run),
    ("channel", channel::run),
    ("dependency", dependency::run),
    ("dtls", dtls::run),
    ("frames", frames::run),
    ("h264", h264::run),
    ("ice", ice::run),
    ("ortc", ortc::run),
    ("protoo", protoo::run),
    ("rtcp", rtcp::run),
    ("rtp", rtp::run),
    ("sctp", sctp::run),
    ("srtp", srtp::run),
    ("stun", stun::run),
    ("token", token::run),
    ("transport", transport::run),
    ("transport_feedback", transport_feedback::run),
    ("vp8", vp8::run),
    ("vp9", vp9::run),
];
