//! A worker in the test's own process, with real sockets on loopback.
#![expect(clippy::unwrap_used, reason = "what a helper cannot do fails its test")]

mod allocations;
mod bandwidth;
mod data;
mod forwarding;
mod harness;
mod hostile;
mod identities;
mod layers;
mod reports;
mod silence;
mod traces;
mod web_rtc;
