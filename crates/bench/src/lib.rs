//! Load and measurement: synthetic WebRTC endpoints with real ICE, DTLS and SRTP, and what is measured with them.
//!
//! Nothing here is part of the server. The binary `tureen-bench` is a thin shell over these modules.

pub mod arrival;
pub mod channel;
pub mod cpu;
pub mod endpoint;
pub mod forward;
pub mod hostile;
pub mod joins;
pub mod line;
pub mod link;
pub mod load;
mod migration;
pub mod party;
pub mod peer;
pub mod protoo;
pub mod reception;
pub mod record;
pub mod recording;
pub mod router;
pub mod sendto;
pub mod server;
pub mod source;
