use cluster::lease::Term;
use cluster::node::{Capacity, Roles};
use room::RoomId;

use super::*;
use crate::{RoomFacts, ServerFacts};

fn node(name: &str, incarnation: u64) -> Node {
    Node {
        id: name.parse().expect("name"),
        incarnation: Incarnation(incarnation),
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

fn start(store: &Store, name: &str, incarnation: u64) -> Membership {
    let measure = || (Load::default(), Counts { rooms: 7, ..Counts::default() });
    Membership::start(store.clone(), node(name, incarnation), Timing::default(), measure)
}

fn names(view: &View) -> Vec<&str> {
    view.members.keys().map(NodeId::as_str).collect()
}

async fn until(membership: &Membership, wanted: impl FnMut(&View) -> bool) -> View {
    membership.view().wait_for(wanted).await.expect("the task runs").clone()
}

fn lease(epoch: u64, node: &str, incarnation: u64) -> Lease {
    let term = Term { epoch: Epoch(epoch), node: node.parse().expect("name") };
    Lease { term, incarnation: Incarnation(incarnation) }
}

async fn claim(store: &Store, room: &str, lease: &Lease) {
    let server_id = lease.term.node.clone();
    let facts = RoomFacts {
        room_type: "open".to_owned(),
        server: ServerFacts { server_id, ip: [127, 0, 0, 1].into(), port: 1, load: 0 },
        created_ms: 1,
    };
    let id = RoomId::parse(room).expect("id");
    store.claim(&id, None, lease, &facts).await.expect("memory answers").expect("free");
}

fn forget(store: &Store) {
    let Store::Memory(memory) = store else { unreachable!("made so") };
    memory.forget_everything();
}

#[tokio::test(start_paused = true)]
async fn members_find_each_other_and_only_a_goodbye_or_a_day_ends_it() {
    let store = Store::memory();
    let a = start(&store, "a", 1);
    let (b, c) = (start(&store, "b", 1), start(&store, "c", 1));
    let view = until(&a, |view| names(view) == ["a", "b", "c"]).await;
    assert!(view.store);
    assert_eq!(view.members.values().next_back().and_then(|known| known.counts).map(|c| c.rooms), Some(7));

    // C dies without a word, and then the store forgets it: it is a member all the same.
    drop(c);
    forget(&store);
    until(&a, |view| {
        view.members.values().filter(|known| known.beat_at.elapsed() < Duration::from_secs(3)).count() == 2
    })
    .await;
    sleep(MEMBER_LIFE - Duration::from_secs(60)).await;
    assert_eq!(names(&a.view().borrow()), ["a", "b", "c"]);
    until(&a, |view| names(view) == ["a", "b"]).await;

    let before = Instant::now();
    b.stop().await;
    until(&a, |view| names(view) == ["a"]).await;
    assert!(before.elapsed() < Timing::default().beat, "events make it look at once: {:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_a_node_says_of_itself_is_known_at_once() {
    let store = Store::memory();
    let (a, b) = (start(&store, "a", 1), start(&store, "b", 1));
    until(&a, |view| names(view) == ["a", "b"]).await;
    b.update(|node| node.draining = true);
    let drains = |view: &View| view.members.values().any(|known| known.node.draining);
    let before = Instant::now();
    until(&a, drains).await;
    // Looked for with a's own beat: it is no event.
    assert!(before.elapsed() <= Timing::default().beat + LOOK_PAUSE, "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_node_learns_that_another_has_its_name() {
    let store = Store::memory();
    let old = start(&store, "a", 1);
    until(&old, |view| names(view) == ["a"]).await;
    let new = start(&store, "a", 2);
    until(&old, |view| view.replaced == Some(Incarnation(2))).await;
    // Its goodbye comes too late to hurt.
    old.stop().await;
    sleep(Timing::default().beat * 3).await;
    let view = until(&new, |view| names(view) == ["a"]).await;
    assert_eq!((view.members.len(), view.replaced), (1, None));
}

#[tokio::test(start_paused = true)]
async fn only_leases_of_nodes_that_are_no_more_are_swept_and_not_soon_after_a_loss() {
    let store = Store::memory();
    let (a, b) = (start(&store, "a", 1), start(&store, "b", 5));
    until(&a, |view| names(view) == ["a", "b"]).await;
    // Silent, and a member still.
    drop(b);
    for (room, lease) in [
        ("lives", lease(1, "b", 5)),
        ("of an earlier life", lease(2, "b", 4)),
        ("of nobody", lease(9, "gone", 1)),
    ] {
        claim(&store, room, &lease).await;
    }
    let held = async |room: &str| {
        let id = RoomId::parse(room).expect("id");
        store.read(&id).await.expect("memory answers").0.is_some()
    };
    sleep(SWEEP - Duration::from_secs(1)).await;
    assert!(held("of nobody").await);
    let view = until(&a, |view| view.swept > Epoch(0)).await;
    assert_eq!(view.swept, Epoch(9));
    assert!(held("lives").await && !held("of nobody").await && !held("of an earlier life").await);

    // A store that forgot may know too few nodes: no sweep believes it for a while.
    drop(a);
    let a = start(&store, "a", 2);
    until(&a, |view| names(view) == ["a", "b"]).await;
    for _ in 0..(3 * SWEEP.as_secs() / 300) {
        forget(&store);
        claim(&store, "restored", &lease(10, "unheard", 1)).await;
        sleep(Duration::from_secs(300)).await;
    }
    assert!(held("restored").await);
}
