//! What simulations share: virtual time, seeded randomness and a link that loses, repeats and delays.
//!
//! Depends on no sibling, so that every crate can test with it. Nothing here reads a clock or sleeps: the
//! same seed gives the same run.

pub mod clock;
pub mod link;
pub mod random;
