//! Which node runs which room.
//!
//! Decisions only: what nodes know of each other ([`neighbourhood`]), who should have a room ([`placement`]), who has it
//! ([`lease`]), how a media node gets, keeps and gives up rooms ([`keeper`]), how a signal node finds them
//! ([`directory`]) and whom it believes ([`fence`]). Nothing here opens a socket or reads a clock, so that all of it
//! runs in a simulation (`tests/partitions.rs`).

pub mod directory;
pub mod fence;
pub mod keeper;
pub mod lease;
pub mod neighbourhood;
pub mod node;
pub mod placement;
pub mod timing;
