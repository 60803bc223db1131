//! Seeded simulation of loss, disorder and layer switching: publisher, the worker's own objects, receivers, over links
//! that lose, duplicate, reorder and delay, with sequence numbers, timestamps and picture numbers about to wrap.
//!
//! What must hold: what was lost and can be repaired is; no packet goes out under two numbers; no number is missing that
//! nobody dropped; repeats are the same bytes; a switch begins with a key frame, and nothing is sent whose base was held
//! back. `TUREEN_SIMULATION_SEEDS` sets how many seeds are run, `TUREEN_SEED` runs one alone.
#![expect(clippy::unwrap_used, reason = "what a helper cannot do fails its test")]

#[expect(dead_code, reason = "the harness of the media tests has more than the simulation needs")]
#[path = "../media/harness.rs"]
mod harness;
mod publisher;
mod receiver;
mod world;

use world::{Outcome, Scenario, run};

/// Seeds that every run of the tests covers.
const SEEDS: u64 = 48;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn loss_and_switching_by_seed() {
    let seeds = match number("TUREEN_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("TUREEN_SIMULATION_SEEDS").unwrap_or(SEEDS),
    };
    let mut failed = Vec::new();
    let mut total = Outcome::default();
    let count = seeds.end - seeds.start;
    for seed in seeds {
        match run(&Scenario::by_seed(seed)) {
            Ok(outcome) => {
                total.sent += outcome.sent;
                total.repeats += outcome.repeats;
                total.lost += outcome.lost;
                total.switches += outcome.switches;
            }
            Err(error) => failed.push(format!("TUREEN_SEED={seed}: {error}")),
        }
    }
    println!(
        "{count} seeds: {} packets to receivers, {} lost on all links, {} repeated, {} switches",
        total.sent, total.lost, total.repeats, total.switches
    );
    assert!(failed.is_empty(), "{} of {count} seeds failed:\n{}", failed.len(), failed.join("\n"));
    assert!(total.repeats > 0 && total.lost > 0);
}
