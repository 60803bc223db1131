//! Which node runs which room.
//!
//! Decisions only: nodes and what is known of them ([`node`], [`membership`]), who should have a room ([`placement`]),
//! who has it and under which epoch ([`lease`]), and whom to believe ([`fence`]). Nothing here opens a socket or reads
//! a clock, so that all of it runs in a simulation.

pub mod node;
pub mod placement;
