//! The worker channel's wire format: mediasoup 3.27.1's FlatBuffers schema and its size-prefixed framing. No logic.
//!
//! [`wire`] is generated from `schema/*.fbs` by planus: an owned struct per table (`Request`), a lazy reader over
//! received bytes (`RequestRef`), enums and unions. [`framing`] puts messages on the pipe and takes them off it.

pub mod framing;
pub mod packed;

/// The generated types, one module per entity (`wire::transport::Tuple`). Names and layout are the schema's.
#[allow(
    warnings,
    unsafe_code,
    clippy::undocumented_unsafe_blocks,
    clippy::all,
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::allow_attributes_without_reason,
    reason = "generated code is held to planus's standards, not to ours"
)]
pub mod wire {
    include!(concat!(env!("OUT_DIR"), "/wire.rs"));
}
