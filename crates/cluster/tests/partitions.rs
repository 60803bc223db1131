//! The control plane in a simulation: two signal nodes, three media nodes and a store, in virtual time, while links
//! break in one direction or both, nodes die with and without a word, and the store is away, forgets its last seconds
//! or everything.
//!
//! What must hold, for every seed:
//! - a receiver never accepts a term below one that it has accepted;
//! - nobody accepts anything of an owner while another has had the room under a higher term for [`Timing::overlap`];
//! - when all is healed, every room that has sessions comes to one owner, and store, media and signal nodes agree on it;
//! - a room that has sessions is not released.
//!
//! `TUREEN_SEEDS=FIRST..LAST` runs others; a failure prints its seed.

#[path = "partitions/world.rs"]
mod world;

use std::time::Duration;

use cluster::timing::Timing;
use world::{Faults, Outcome, World};

/// Seeds of a plain run.
const SEEDS: std::ops::Range<u64> = 0..10_000;

fn seeds() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("TUREEN_SEEDS") else { return SEEDS };
    let (first, last) = text.split_once("..").expect("TUREEN_SEEDS is FIRST..LAST");
    first.parse().expect("a number")..last.parse().expect("a number")
}

#[test]
fn every_seed_converges_and_no_fenced_owner_is_believed() {
    let mut sum = Outcome::default();
    for seed in seeds() {
        let outcome = World::new(seed, Faults::All).run();
        assert!(outcome.violations.is_empty(), "seed {seed}: {:#?}", outcome.violations);
        sum.add(&outcome);
    }
    println!(
        "{} admissions accepted, {} takeovers, {} by an owner already replaced (the latest after {:?})",
        sum.accepted, sum.takeovers, sum.late, sum.latest
    );
    assert!(sum.latest <= Timing::default().overlap());
    // The simulation must have tried what it is about.
    assert!(sum.takeovers > 0 && sum.accepted > 0);
}

#[test]
fn even_owners_that_ignore_their_authority_are_fenced() {
    let mut sum = Outcome::default();
    for seed in 0..1_000 {
        let outcome = World::new(seed, Faults::AllAndReckless).run();
        assert!(outcome.violations.is_empty(), "seed {seed}: {:#?}", outcome.violations);
        sum.add(&outcome);
    }
    println!("{} admissions accepted, {} refused as stale", sum.accepted, sum.stale);
    assert!(sum.stale > 0);
}

#[test]
fn rooms_that_are_handed_over_have_one_owner_whatever_breaks() {
    let mut sum = Outcome::default();
    for seed in 0..2_000 {
        let outcome = World::new(seed, Faults::AllAndMoving).run();
        assert!(outcome.violations.is_empty(), "seed {seed}: {:#?}", outcome.violations);
        sum.add(&outcome);
    }
    println!(
        "{} rooms offered, {} takeovers, {} admissions accepted",
        sum.offers, sum.takeovers, sum.accepted
    );
    assert!(sum.takeovers > sum.offers / 2, "most go over: {} of {}", sum.takeovers, sum.offers);
}

#[test]
fn full_nodes_claim_nothing_and_rooms_still_come_to_one_owner() {
    let mut sum = Outcome::default();
    for seed in 0..2_000 {
        let outcome = World::new(seed, Faults::AllAndFull).run();
        assert!(outcome.violations.is_empty(), "seed {seed}: {:#?}", outcome.violations);
        sum.add(&outcome);
    }
    println!("{} times full, {} takeovers, {} admissions accepted", sum.full, sum.takeovers, sum.accepted);
    assert!(sum.full > 0 && sum.takeovers > 0 && sum.accepted > 0);
}

#[test]
fn without_faults_everybody_is_let_in_and_nothing_moves() {
    for seed in 0..20 {
        let outcome = World::new(seed, Faults::None).run();
        assert!(outcome.violations.is_empty(), "seed {seed}: {:#?}", outcome.violations);
        assert_eq!((outcome.turned_away, outcome.takeovers, outcome.stale), (0, 0, 0), "seed {seed}");
        assert!(outcome.accepted > 100, "seed {seed}: {}", outcome.accepted);
    }
}

#[test]
fn a_silent_media_node_is_replaced_within_three_seconds() {
    let mut worst = Duration::ZERO;
    for seed in 0..200 {
        let outcome = World::new(seed, Faults::OneSilentDeath).run();
        assert!(outcome.violations.is_empty(), "seed {seed}: {:#?}", outcome.violations);
        worst = worst.max(outcome.longest_gap);
    }
    println!("the longest time without an owner: {worst:?}");
    assert!(worst <= Duration::from_secs(3), "{worst:?}");
}

#[test]
fn a_store_outage_keeps_running_rooms_open() {
    for seed in 0..50 {
        let outcome = World::new(seed, Faults::StoreAway).run();
        assert!(outcome.violations.is_empty(), "seed {seed}: {:#?}", outcome.violations);
        assert_eq!((outcome.turned_away, outcome.takeovers), (0, 0), "seed {seed}");
    }
}
