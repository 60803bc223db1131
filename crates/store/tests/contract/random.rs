//! Two stores are given the same random questions and must give the same answers. `TUREEN_SEEDS=FIRST..LAST` runs others.

use std::ops::Range;

use cluster::lease::{Epoch, Lease, Term};
use cluster::node::{Counts, Incarnation, Load, Node};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;
use store::{Round, Store};

use crate::suite::{facts, node, room};

/// Seeds of a plain run, and questions of each.
const SEEDS: Range<u64> = 0..10;
const QUESTIONS: usize = 400;
const NAMES: [&str; 4] = ["a", "B", "a-1", "a.1"];

pub(crate) fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("TUREEN_SEEDS") else { return SEEDS };
    let (first, last) = text.split_once("..").expect("TUREEN_SEEDS is FIRST..LAST");
    first.parse().expect("a number")..last.parse().expect("a number")
}

struct Dice(StdRng);

impl Dice {
    fn name(&mut self) -> &'static str {
        NAMES[self.0.random_range(0..NAMES.len())]
    }

    fn incarnation(&mut self) -> Incarnation {
        Incarnation(self.0.random_range(1..4))
    }

    fn lease(&mut self) -> Lease {
        // Few epochs, so that they meet; some where doubles end.
        let epoch = self.0.random_range(1..6) + if self.0.random_bool(0.2) { 1 << 53 } else { 0 };
        Lease {
            term: Term { epoch: Epoch(epoch), node: self.name().parse().expect("name") },
            incarnation: self.incarnation(),
        }
    }

    fn node(&mut self) -> Node {
        Node {
            incarnation: self.incarnation(),
            draining: self.0.random(),
            full: self.0.random(),
            ..node(self.name())
        }
    }
}

/// Asks both the same; panics where they differ, with the seed.
pub(crate) async fn compare(seed: u64, memory: &Store, redis: &Store, flush: impl Fn()) {
    let mut dice = Dice(StdRng::seed_from_u64(seed));
    let mut rounds: Vec<(Round, Round)> = Vec::new();
    for number in 0..QUESTIONS {
        let id = room(["r", "r:state", "会議"][dice.0.random_range(0..3)]);
        let what = format!("seed {seed}, question {number}");
        // Both calls must be written out: they differ in nothing but the store.
        macro_rules! same {
            ($call:ident($($argument:expr),*)) => {{
                let (one, other) = (memory.$call($($argument),*).await, redis.$call($($argument),*).await);
                assert_eq!(one, other, "{what}: {}", stringify!($call));
                one
            }};
        }
        match dice.0.random_range(0..100) {
            0..20 => {
                let seen = match dice.0.random_range(0..3) {
                    0 => None,
                    1 => Some(dice.lease()),
                    _ => memory.read(&id).await.expect("memory answers").0,
                };
                let new = dice.lease();
                let _ = same!(claim(&id, seen.as_ref(), &new, &facts(new.term.node.as_str())));
            }
            20..38 => {
                let own = match memory.read(&id).await.expect("memory answers").0 {
                    Some(held) if dice.0.random() => held,
                    _ => dice.lease(),
                };
                let _ = same!(confirm(&id, &own, &facts(own.term.node.as_str())));
            }
            38..46 => {
                let term = match memory.read(&id).await.expect("memory answers").0 {
                    Some(held) if dice.0.random() => held.term,
                    _ => dice.lease().term,
                };
                let _ = same!(release(&id, &term));
            }
            46..58 => {
                let _ = same!(read(&id));
            }
            58..62 => {
                let _ = same!(facts(&id));
            }
            62..70 => {
                let both = (memory.begin_round().await, redis.begin_round().await);
                rounds.push((both.0.expect("memory answers"), both.1.expect("answered")));
            }
            70..78 => {
                let node = dice.node();
                let Some((one, other)) = rounds.get(dice.0.random_range(0..rounds.len().max(1))) else {
                    continue;
                };
                let (one, other) =
                    (memory.registered(&node, one).await, redis.registered(&node, other).await);
                assert_eq!(one, other, "{what}: registered");
            }
            78..84 => {
                let node = dice.node();
                let counts = Counts { rooms: dice.0.random(), ..Counts::default() };
                let _ = same!(beat(&node, &Load { cpu: 7, ..Load::default() }, &counts));
            }
            84..88 => {
                let (name, incarnation) = (dice.name().parse().expect("name"), dice.incarnation());
                let _ = same!(deregister(&name, incarnation));
            }
            88..92 => {
                let known = |members: Vec<store::Member>| -> Vec<_> {
                    members.into_iter().map(|m| (m.node, m.load, m.counts, m.left)).collect()
                };
                let (one, other) = (memory.members().await, redis.members().await);
                assert_eq!(one.map(known), other.map(known), "{what}: members");
            }
            92..98 => {
                let seen = dice.0.random_range(0..3);
                let _ = same!(set_room_state(&id, seen, &json!({ "at": number })));
                let _ = same!(room_state(&id));
            }
            98 => {
                let name = dice.name();
                let one =
                    memory.sweep(|lease| lease.term.node.as_str() == name).await.expect("memory answers");
                let other = redis.sweep(|lease| lease.term.node.as_str() == name).await.expect("answered");
                let sorted = |mut leases: Vec<Lease>| {
                    leases.sort_by(|a, b| a.term.cmp(&b.term).then(a.incarnation.cmp(&b.incarnation)));
                    leases
                };
                assert_eq!(sorted(one.leases), sorted(other.leases), "{what}: sweep");
            }
            _ => {
                let Store::Memory(held) = memory else { unreachable!("the first is the memory store") };
                held.forget_everything();
                flush();
            }
        }
    }
}
