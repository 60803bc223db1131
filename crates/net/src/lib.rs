//! The edge to the operating system, and the only hand-written `unsafe`: batched UDP, a fine alarm clock, what a process
//! asks of its kernel, and BoringSSL's DTLS timers.

pub mod alarm;
pub mod counting_allocator;
pub mod dtls_timers;
pub mod prefetch;
pub mod process;
pub mod udp;
