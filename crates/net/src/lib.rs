//! The edge to the operating system, and the only hand-written `unsafe`: batched UDP, what a process asks of its
//! kernel, and BoringSSL's DTLS timers.

pub mod dtls_timers;
pub mod process;
pub mod udp;
