//! What simulations share: virtual time, seeded randomness and a link that loses, repeats and delays. And what tests of
//! several crates start: Redis servers.
//!
//! Depends on no sibling, so that every crate can test with it. But for `redis`, nothing here reads a clock or sleeps: the
//! same seed gives the same run.

pub mod clock;
pub mod gate;
pub mod link;
pub mod proxy;
pub mod random;
pub mod redis;
