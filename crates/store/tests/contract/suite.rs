//! What every store must do, through two handles of the same one.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use cluster::lease::{Confirmation, Conflict, Epoch, Lease, Term};
use cluster::node::{Capacity, Counts, Incarnation, Load, Node, NodeId, Roles};
use room::RoomId;
use serde_json::json;
use store::{
    METRICS_LIFE, Registered, RoomFacts, RoomState, ServerFacts, StateConflict, Store, StoreError, StoreEvent,
};
use tokio::sync::broadcast::Receiver;
use tokio::time::timeout;

/// How long anything may take to arrive on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn room(name: &str) -> RoomId {
    RoomId::parse(name).expect("id")
}

pub(crate) fn lease(epoch: u64, node: &str) -> Lease {
    Lease {
        term: Term { epoch: Epoch(epoch), node: node.parse().expect("name") },
        incarnation: Incarnation(1),
    }
}

pub(crate) fn facts(node: &str) -> RoomFacts {
    RoomFacts {
        room_type: "open".to_owned(),
        server: ServerFacts {
            server_id: node.parse().expect("name"),
            ip: [203, 0, 113, 7].into(),
            port: 4443,
            load: 125,
        },
        created_ms: 1_795_000_000_000,
    }
}

pub(crate) fn node(name: &str) -> Node {
    Node {
        id: name.parse().expect("name"),
        incarnation: Incarnation(1),
        roles: Roles { media: true, ..Roles::default() },
        region: "eu".parse().expect("name"),
        link: ([127, 0, 0, 1], 7000).into(),
        capacity: Capacity { weight: 4, transports: 500, streams: 2_000 },
        clients: None,
        draining: false,
        full: false,
        protocol: 1,
    }
}

/// A whole round of a node that has nothing to confirm.
pub(crate) async fn register(store: &Store, name: &str) {
    let round = store.begin_round().await.expect("answered");
    store.registered(&node(name), &round).await.expect("answered");
}

/// Waits for an event, past others.
pub(crate) async fn heard(events: &mut Receiver<StoreEvent>, wanted: &StoreEvent) {
    let waited =
        timeout(PATIENCE, async { while events.recv().await.expect("the store lives") != *wanted {} });
    waited.await.unwrap_or_else(|_| panic!("{wanted:?} was not heard of"));
}

/// Asks until all parts of the store answer.
pub(crate) async fn until_back(store: &Store, id: &RoomId) -> (Option<Lease>, Registered) {
    let begun = Instant::now();
    loop {
        let everything = async {
            store.begin_round().await?;
            store.members().await?;
            store.read(id).await
        };
        match everything.await {
            Ok(answer) => return answer,
            Err(error @ (StoreError::Away | StoreError::Timeout)) => {
                assert!(begun.elapsed() < PATIENCE, "{error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Everything that needs no failure.
pub(crate) async fn all(one: &Store, other: &Store) {
    contention(one, other).await;
    leases(one, other).await;
    odd_names_and_numbers(one, other).await;
    registrations(one, other).await;
    members(one, other).await;
    states(one, other).await;
    sweeping(one, other).await;
    events_arrive(one, other, "in the beginning").await;
}

async fn contention(one: &Store, other: &Store) {
    let id = room("contended");
    for round in 1..=3_u64 {
        let (seen, _) = one.read(&id).await.expect("answered");
        let claims: Vec<_> = (0..40)
            .map(|number| {
                let store = if number % 2 == 0 { one.clone() } else { other.clone() };
                let (id, seen) = (id.clone(), seen.clone());
                tokio::spawn(async move {
                    let name = format!("n{number}");
                    let new = lease(round, &name);
                    let result =
                        store.claim(&id, seen.as_ref(), &new, &facts(&name)).await.expect("answered");
                    (new, result)
                })
            })
            .collect();
        let mut winners = Vec::new();
        let mut told = Vec::new();
        for claim in claims {
            match claim.await.expect("no panic") {
                (new, Ok(())) => winners.push(new),
                (_, Err(Conflict(held))) => told.push(held),
            }
        }
        assert_eq!(winners.len(), 1, "{winners:?}");
        assert_eq!(told.len(), 39);
        assert!(told.iter().all(|held| *held == Some(winners[0].clone())), "{told:?}");
        assert_eq!(other.read(&id).await.expect("answered").0, Some(winners[0].clone()));
    }
}

async fn leases(one: &Store, other: &Store) {
    let id = room("Besprechung 7: 会議室");
    let (first, second) = (lease(3, "a"), lease(5, "b"));
    assert_eq!(one.read(&id).await.expect("answered").0, None);
    assert_eq!(one.facts(&id).await, Ok(None));
    assert_eq!(one.claim(&id, Some(&second), &first, &facts("a")).await, Ok(Err(Conflict(None))));
    assert_eq!(one.claim(&id, None, &first, &facts("a")).await, Ok(Ok(())));
    assert_eq!(other.facts(&id).await, Ok(Some(facts("a"))));

    // Another's, an older, and the same term again are refused.
    assert_eq!(other.claim(&id, None, &second, &facts("b")).await, Ok(Err(Conflict(Some(first.clone())))));
    for low in [lease(2, "z"), lease(3, "a"), lease(3, "A")] {
        let refused = other.claim(&id, Some(&first), &low, &facts("z")).await;
        assert_eq!(refused, Ok(Err(Conflict(Some(first.clone())))), "{low:?}");
    }
    let reborn = Lease { incarnation: Incarnation(2), ..first.clone() };
    let refused = other.claim(&id, Some(&reborn), &second, &facts("b")).await;
    assert_eq!(refused, Ok(Err(Conflict(Some(first.clone())))), "another life's lease is another lease");
    assert_eq!(other.claim(&id, Some(&first), &second, &facts("b")).await, Ok(Ok(())));

    // The loser's confirmation is refused, the owner's is not, and a higher one replaces.
    assert_eq!(one.confirm(&id, &first, &facts("a")).await, Ok(Err(Conflict(Some(second.clone())))));
    let kept = other.confirm(&id, &second, &facts("b")).await.expect("answered").expect("its own");
    assert_eq!(kept.0, Confirmation::Kept);
    let high = lease(5, "c");
    let restored = one.confirm(&id, &high, &facts("c")).await.expect("answered").expect("the higher");
    assert_eq!(restored.0, Confirmation::Restored);
    let reborn = Lease { incarnation: Incarnation(2), ..high.clone() };
    let restored = one.confirm(&id, &reborn, &facts("c")).await.expect("answered").expect("not lower");
    assert_eq!(restored.0, Confirmation::Restored);

    // Only the owner of the moment releases.
    for term in [&first.term, &second.term, &lease(6, "c").term] {
        other.release(&id, term).await.expect("answered");
        assert_eq!(one.read(&id).await.expect("answered").0, Some(reborn.clone()));
    }
    one.release(&id, &high.term).await.expect("answered");
    assert_eq!(other.read(&id).await.expect("answered").0, None);
    assert_eq!(other.facts(&id).await, Ok(None));
    one.release(&id, &high.term).await.expect("nothing to do is no error");
}

/// Terms are compared as Rust does it: 64 bits, and byte by byte, not as a locale or a double would have it.
async fn odd_names_and_numbers(one: &Store, other: &Store) {
    let ordered = [
        lease(9, "m"),
        lease(10, "M"),
        lease(10, "a-b"),
        lease(10, "a.b"),
        lease(10, "aB"),
        lease(10, "a_b"),
        lease(10, "ab"),
        lease(1 << 53, "x"),
        lease((1 << 53) + 1, "x"),
        lease(u64::MAX - 1, "x"),
        lease(u64::MAX, "x"),
    ];
    assert!(ordered.is_sorted_by(|low, high| low.term < high.term));
    let id = room("a:b:state");
    let mut held: Option<Lease> = None;
    for new in &ordered {
        if let Some(held) = &held {
            let lower = one.claim(&id, Some(held), held, &facts("x")).await;
            assert_eq!(lower, Ok(Err(Conflict(Some(held.clone())))));
        }
        assert_eq!(one.claim(&id, held.as_ref(), new, &facts("x")).await, Ok(Ok(())), "{new:?}");
        for low in ordered.iter().filter(|low| low.term < new.term) {
            assert_eq!(other.confirm(&id, low, &facts("x")).await, Ok(Err(Conflict(Some(new.clone())))));
        }
        assert_eq!(other.read(&id).await.expect("answered").0, Some(new.clone()));
        held = Some(new.clone());
    }
    // Its neighbour, whose state's name would be this room's, has nothing to do with it.
    let neighbour = room("a:b");
    assert_eq!(one.set_room_state(&neighbour, 0, &json!({})).await, Ok(Ok(1)));
    assert_eq!(other.read(&id).await.expect("answered").0, held);
    assert_eq!(one.room_state(&id).await, Ok(None));
}

async fn registrations(one: &Store, other: &Store) {
    let id = room("nobody's");
    let name = |text: &str| text.parse::<NodeId>().expect("name");
    register(one, "r1").await;
    let (_, registered) = other.read(&id).await.expect("answered");
    assert!(registered.contains(&name("r1")) && !registered.contains(&name("r2")), "{registered:?}");
    register(other, "r2").await;
    let (_, registered) = one.read(&id).await.expect("answered");
    assert!(registered.is_superset(&BTreeSet::from([name("r1"), name("r2")])), "{registered:?}");

    // An older life's registration does not count over a newer one's.
    let round = one.begin_round().await.expect("answered");
    let reborn = Node { incarnation: Incarnation(2), ..node("r1") };
    one.registered(&reborn, &round).await.expect("answered");
    let refused = other.registered(&node("r1"), &round).await;
    assert_eq!(refused, Err(StoreError::Replaced { newest: Incarnation(2) }));
}

async fn members(one: &Store, other: &Store) {
    let counts =
        Counts { workers: 4, routers: 5, transports: 6, producers: 7, consumers: 8, rooms: 9, peers: 10 };
    let load = Load { cpu: 100, packets: 200, egress: 300, lag: 400 };
    let find = async |store: &Store, name: &str| {
        let members = store.members().await.expect("answered");
        assert!(members.is_sorted_by(|a, b| a.node.id < b.node.id));
        members.into_iter().find(|member| member.node.id.as_str() == name)
    };
    assert_eq!(find(one, "m-1").await, None);
    let old = Node { incarnation: Incarnation(1_795_000_000_000), ..node("m-1") };
    one.beat(&old, &load, &counts).await.expect("answered");
    let seen = find(other, "m-1").await.expect("it has registered");
    assert_eq!((&seen.node, seen.load, seen.counts, seen.left), (&old, load, Some(counts), false));
    assert!(seen.silent < METRICS_LIFE, "{:?}", seen.silent);

    // A new life takes over; what the old one still says is refused and changes nothing.
    let new = Node { incarnation: Incarnation(u64::MAX - 1), draining: true, ..old.clone() };
    other.beat(&new, &Load::default(), &Counts::default()).await.expect("answered");
    let replaced = Err(StoreError::Replaced { newest: new.incarnation });
    assert_eq!(one.beat(&old, &load, &counts).await, replaced);
    one.deregister(&old.id, old.incarnation).await.expect("answered");
    let seen = find(one, "m-1").await.expect("the new life lives");
    assert_eq!((seen.node, seen.counts, seen.left), (new.clone(), Some(Counts::default()), false));

    // Goodbye is for good; only a later life comes back.
    one.deregister(&new.id, new.incarnation).await.expect("answered");
    let seen = find(other, "m-1").await.expect("a goodbye is remembered");
    assert!(seen.left && seen.counts.is_none(), "{seen:?}");
    assert_eq!(one.beat(&new, &load, &counts).await, replaced);
    let last = Node { incarnation: Incarnation(u64::MAX), ..new };
    one.beat(&last, &load, &counts).await.expect("answered");
    let seen = find(other, "m-1").await.expect("back");
    assert_eq!((seen.node.incarnation, seen.counts, seen.left), (last.incarnation, Some(counts), false));
}

async fn states(one: &Store, other: &Store) {
    let id = room("stateful");
    let first = json!({ "type": "arena", "locked": true, "bans": ["会", "a\"b"], "f": 0.1 });
    assert_eq!(one.room_state(&id).await, Ok(None));
    assert_eq!(one.set_room_state(&id, 1, &first).await, Ok(Err(StateConflict(None))));
    assert_eq!(one.set_room_state(&id, 0, &first).await, Ok(Ok(1)));
    let held = RoomState { version: 1, value: first };
    assert_eq!(other.room_state(&id).await, Ok(Some(held.clone())));
    assert_eq!(other.set_room_state(&id, 0, &json!(2)).await, Ok(Err(StateConflict(Some(held)))));

    // Of many writers who saw the same, one has his way.
    let writers: Vec<_> = (0..20)
        .map(|number| {
            let (store, id) = (if number % 2 == 0 { one.clone() } else { other.clone() }, id.clone());
            tokio::spawn(async move { store.set_room_state(&id, 1, &json!(number)).await.expect("answered") })
        })
        .collect();
    let mut written = 0;
    for writer in writers {
        written += usize::from(writer.await.expect("no panic") == Ok(2));
    }
    assert_eq!(written, 1);

    // It outlives an owner.
    let owner = lease(1, "a");
    one.claim(&id, None, &owner, &facts("a")).await.expect("answered").expect("free");
    one.release(&id, &owner.term).await.expect("answered");
    assert_eq!(other.room_state(&id).await.expect("answered").map(|state| state.version), Some(2));

    let large = json!("x".repeat(store::MAX_STATE_BYTES));
    assert!(matches!(one.set_room_state(&id, 2, &large).await, Err(StoreError::TooLarge { .. })));
}

async fn sweeping(one: &Store, other: &Store) {
    let rooms: Vec<RoomId> = (0..30).map(|number| room(&format!("swept {number}"))).collect();
    for (number, id) in rooms.iter().enumerate() {
        let name = if number % 3 == 0 { "living" } else { "dead" };
        one.claim(id, None, &lease(40, name), &facts(name)).await.expect("answered").expect("free");
    }
    let swept = other.sweep(|lease| lease.term.node.as_str() == "dead").await.expect("answered");
    assert_eq!(swept.leases, vec![lease(40, "dead"); 20]);
    for (number, id) in rooms.iter().enumerate() {
        let held = one.read(id).await.expect("answered").0;
        assert_eq!(held.is_some(), number % 3 == 0, "{id}");
    }
}

/// Both handles hear of what the other does.
pub(crate) async fn events_arrive(one: &Store, other: &Store, when: &str) {
    let id = room(&format!("eventful {when}"));
    let (mut here, mut there) = (one.events(), other.events());
    let own = lease(2_000, "e1");
    let newcomer: NodeId = format!("e-{}", when.replace(' ', "-")).parse().expect("name");
    let node = Node { id: newcomer.clone(), ..node("e1") };
    one.claim(&id, None, &own, &facts("e1")).await.expect("answered").expect("free");
    other.release(&id, &own.term).await.expect("answered");
    one.beat(&node, &Load::default(), &Counts::default()).await.expect("answered");
    one.beat(&node, &Load::default(), &Counts::default()).await.expect("answered");
    other.deregister(&newcomer, node.incarnation).await.expect("answered");
    let said = StoreEvent::RoomClaimed(id.clone(), lease(1, "anybody").term);
    one.publish(&said).await;
    let wanted = [
        StoreEvent::RoomClaimed(id.clone(), own.term.clone()),
        StoreEvent::RoomReleased(id, own.term),
        StoreEvent::NodeCame(newcomer.clone()),
        StoreEvent::NodeLeft(newcomer),
        said,
    ];
    // In a Cluster two changes of two shards come in any order.
    for events in [&mut here, &mut there] {
        let mut missing: Vec<&StoreEvent> = wanted.iter().collect();
        let all = timeout(PATIENCE, async {
            while !missing.is_empty() {
                let event = events.recv().await.expect("the store lives");
                missing.retain(|wanted| **wanted != event);
            }
        });
        if all.await.is_err() {
            panic!("{when}, not heard of: {missing:?}");
        }
    }
}

/// Counters of a node that beats no more are gone after ten seconds; the node is not.
pub(crate) async fn metrics_expire(store: &Store) {
    let silent = node("metrics");
    store.beat(&silent, &Load::default(), &Counts::default()).await.expect("answered");
    let begun = Instant::now();
    loop {
        let members = store.members().await.expect("answered");
        let member = members.into_iter().find(|member| member.node.id == silent.id).expect("it stays");
        if member.counts.is_none() {
            break;
        }
        assert!(begun.elapsed() < METRICS_LIFE + PATIENCE, "they do not expire");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let took = begun.elapsed();
    assert!(took > METRICS_LIFE - Duration::from_secs(1), "{took:?}");
}

/// The store loses its memory in the midst of things.
pub(crate) async fn forgetting(one: &Store, other: &Store, forget: impl FnOnce()) {
    let (id, foreign) = (room("forgotten"), room("another's"));
    let (own, others) = (lease(70, "m1"), lease(71, "m2"));
    one.claim(&id, None, &own, &facts("m1")).await.expect("answered").expect("free");
    other.claim(&foreign, None, &others, &facts("m2")).await.expect("answered").expect("free");
    one.beat(&node("m1"), &Load::default(), &Counts::default()).await.expect("answered");
    register(one, "m1").await;
    register(other, "m2").await;
    let (_, registered) = one.read(&id).await.expect("answered");
    assert_eq!(registered.len(), 2);
    // A round that began before says nothing about what comes after.
    let stale = other.begin_round().await.expect("answered");

    let mut events = other.events();
    forget();
    until_back(one, &id).await;
    let (held, registered) = until_back(other, &id).await;
    assert_eq!((held, registered.len()), (None, 0));
    heard(&mut events, &StoreEvent::MemoryLost).await;
    other.registered(&node("m2"), &stale).await.expect("answered");
    let (_, registered) = other.read(&id).await.expect("answered");
    assert!(registered.is_empty(), "{registered:?}");

    // Each node brings back what it has, and registers; nobody's term is lower than before.
    let round = one.begin_round().await.expect("answered");
    let restored = one.confirm(&id, &own, &facts("m1")).await.expect("answered").expect("free");
    assert_eq!(restored, (Confirmation::Restored, BTreeSet::new()));
    one.registered(&node("m1"), &round).await.expect("answered");
    let kept = one.confirm(&id, &own, &facts("m1")).await.expect("answered").expect("its own");
    assert_eq!(kept, (Confirmation::Kept, BTreeSet::from([node("m1").id])));
    let (held, registered) = other.read(&foreign).await.expect("answered");
    assert_eq!((held, registered), (None, BTreeSet::from([node("m1").id])), "m2 has not said what it has");
    let round = other.begin_round().await.expect("answered");
    other.confirm(&foreign, &others, &facts("m2")).await.expect("answered").expect("free");
    other.registered(&node("m2"), &round).await.expect("answered");
    let (held, registered) = one.read(&foreign).await.expect("answered");
    assert_eq!((held, registered.len()), (Some(others), 2));
    let low = other.claim(&id, Some(&own), &lease(69, "m2"), &facts("m2")).await.expect("answered");
    assert_eq!(low, Err(Conflict(Some(own))));
}
