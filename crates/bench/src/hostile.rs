//! Hostile bytes against everything that listens, while bystanders talk: nothing may die, nobody may notice.
//!
//! Everything random comes from a seed, which the report repeats. Attackers pace themselves by answers, never by the
//! clock: what is tested is what the bytes do, not how many of them a machine can take.

pub mod channel;
pub mod insider;
pub mod mutate;
pub mod outsider;
