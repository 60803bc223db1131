//! Sans-IO protocol state of a conference: STUN and ICE, DTLS, SRTP, SCTP, RTP and RTCP, codecs, streams.
//!
//! Nothing here opens a socket or reads a clock: bytes and instants are passed in, bytes and decisions come
//! out. This crate depends on no sibling.

pub mod bwe;
pub mod certificate;
pub mod clock_offset;
pub mod codec;
pub mod dtls;
pub mod ice;
pub mod rate;
pub mod remb;
pub mod rtcp;
pub mod rtp;
pub mod sctp;
pub mod sequence;
pub mod srtp;
pub mod stream;
pub mod stun;
pub mod twcc;
