//! One contract, kept by the memory store and by real Redis servers: standalone, with TLS and ACLs, behind Sentinels, and
//! as a Cluster of six; while they are flushed, frozen, killed and replaced.

#[path = "contract/random.rs"]
mod random;
#[path = "contract/suite.rs"]
mod suite;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cluster::lease::{Confirmation, Conflict};
use cluster::node::{Counts, Load};
use store::{RedisSettings, Store, StoreError, StoreEvent};
use suite::{facts, heard, lease, node, register, room, until_back};
use testkit::proxy;
use testkit::redis::{Clustered, Guarded, Server, Watched};

fn settings(url: &str) -> RedisSettings {
    url.parse().expect("settings")
}

fn trusting(guarded: &Guarded, password: &str) -> RedisSettings {
    RedisSettings { ca: Some(guarded.ca().to_vec()), ..settings(&guarded.url(password)) }
}

async fn connect(settings: RedisSettings) -> Store {
    Store::redis(settings).await.expect("the servers are ready")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_keeps_the_contract() {
    let store = Store::memory();
    suite::all(&store, &store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standalone_server_keeps_the_contract() {
    let server = Server::start(&[]);
    let (one, other) = (connect(settings(&server.url())).await, connect(settings(&server.url())).await);
    suite::all(&one, &other).await;
    what_people_read(&server, &one).await;
    suite::metrics_expire(&one).await;
    assert!(server.cli(&["hget", "server:metrics", "node"]).contains("\"id\":\"metrics\""));
    assert_eq!(server.cli(&["exists", "server:metrics:metrics"]), "0");
}

/// A room's key and a server's metrics, field by field, as docs/store.md has them.
async fn what_people_read(server: &Server, store: &Store) {
    let hash = |key: &str| {
        let lines: Vec<String> = server.cli(&["hgetall", key]).lines().map(str::to_owned).collect();
        lines.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect::<BTreeMap<_, _>>()
    };
    let own = lease(41, "m1");
    store.claim(&room("Besprechung 8"), None, &own, &facts("m1")).await.expect("answered").expect("free");
    let mut found = hash("room:Besprechung 8");
    let about: serde_json::Value =
        serde_json::from_str(&found.remove("server").expect("a server")).expect("JSON");
    let expected = serde_json::json!({ "serverId": "m1", "ip": "203.0.113.7", "port": 4443, "load": 125 });
    assert_eq!(about, expected);
    let fields = [
        ("created", "1795000000000"),
        ("epoch", "41"),
        ("incarnation", "1"),
        ("node", "m1"),
        ("type", "open"),
    ];
    assert_eq!(found, fields.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    assert_eq!(server.cli(&["pttl", "room:Besprechung 8"]), "-1", "leases do not expire");

    let counts =
        Counts { workers: 1, routers: 2, transports: 3, producers: 4, consumers: 5, rooms: 6, peers: 7 };
    store.beat(&node("counted"), &Load::default(), &counts).await.expect("answered");
    let fields = [
        ("workers", "1"),
        ("routers", "2"),
        ("transports", "3"),
        ("producers", "4"),
        ("consumers", "5"),
        ("rooms", "6"),
        ("peers", "7"),
        ("incarnation", "1"),
    ];
    let expected: BTreeMap<_, _> =
        fields.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect();
    assert_eq!(hash("server:counted:metrics"), expected);
    let left_ms: i64 = server.cli(&["pttl", "server:counted:metrics"]).parse().expect("a number");
    assert!((1..=10_000).contains(&left_ms), "{left_ms} ms are left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_and_a_user_with_no_more_rights_than_needed_keep_the_contract() {
    let guarded = Guarded::start();
    let settings = trusting(&guarded, "open%3as%40same");
    let (one, other) = (connect(settings.clone()).await, connect(settings.clone()).await);
    suite::all(&one, &other).await;

    let wrong = Store::redis(trusting(&guarded, "sesame-street")).await.expect_err("a wrong password");
    let text = format!("{wrong} {wrong:?}");
    assert!(matches!(wrong, StoreError::Refused(_)) && !text.contains("sesame"), "{text}");
    let stranger = Store::redis(RedisSettings { ca: None, ..settings }).await;
    assert!(
        matches!(stranger, Err(StoreError::Unreachable(_))),
        "a certificate that nobody vouches for: {stranger:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_behind_sentinels_keeps_the_contract_over_a_failover() {
    let mut watched = Watched::start();
    let (one, other) = (connect(settings(&watched.url())).await, connect(settings(&watched.url())).await);
    suite::all(&one, &other).await;
    failover(&one, &other, || watched.servers[0].kill()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_keeps_the_contract_over_a_failover() {
    let mut cluster = Clustered::start();
    let (one, other) = (connect(settings(&cluster.url())).await, connect(settings(&cluster.url())).await);
    suite::all(&one, &other).await;

    // One shard forgets; the rooms of the others are none the worse.
    let (mine, kept) = (room("shard"), room_elsewhere(&mut cluster, "shard"));
    let own = lease(900, "m1");
    for id in [&mine, &kept] {
        one.claim(id, None, &own, &facts("m1")).await.expect("answered").expect("free");
    }
    register(&one, "m1").await;
    cluster.master_of("room:shard").cli(&["flushall"]);
    let (held, registered) = one.read(&mine).await.expect("answered");
    assert!(held.is_none() && !registered.contains(&node("m1").id), "{held:?} {registered:?}");
    let (held, _) = one.read(&kept).await.expect("answered");
    assert_eq!(held.as_ref(), Some(&own));
    let restored = one.confirm(&mine, &own, &facts("m1")).await.expect("answered").expect("nobody else's");
    assert_eq!(restored.0, Confirmation::Restored);

    failover(&one, &other, || cluster.master_of("room:lasting").kill()).await;
    let (held, _) = one.read(&kept).await.expect("answered");
    assert_eq!(held, Some(own));
}

/// A room whose key another server has.
fn room_elsewhere(cluster: &mut Clustered, than: &str) -> room::RoomId {
    let here = cluster.master_of(&format!("room:{than}")).port;
    let mut names = (0..).map(|number| format!("elsewhere {number}"));
    room(&names.find(|name| cluster.master_of(&format!("room:{name}")).port != here).expect("one of many"))
}

/// The server that has room `lasting` dies and another takes its place.
async fn failover(one: &Store, other: &Store, kill: impl FnOnce()) {
    let (id, own) = (room("lasting"), lease(1_000, "m1"));
    one.claim(&id, None, &own, &facts("m1")).await.expect("answered").expect("free");
    register(one, "m1").await;
    let mut events = [one.events(), other.events()];
    kill();
    let begun = Instant::now();
    for events in &mut events {
        heard(events, &StoreEvent::Disconnected).await;
        heard(events, &StoreEvent::Connected).await;
    }
    let answered = until_back(one, &id).await;
    until_back(other, &id).await;
    println!("the store answers again after {:?}", begun.elapsed());

    // Whatever the new server knows of the room, it is a new memory: nobody has registered with it.
    let (held, registered) = answered;
    assert!(held.is_none_or(|held| held == own));
    assert!(registered.is_empty(), "{registered:?}");
    one.confirm(&id, &own, &facts("m1")).await.expect("answered").expect("nobody has a higher term");
    register(one, "m1").await;
    let (held, registered) = other.read(&id).await.expect("answered");
    assert_eq!(held, Some(own.clone()));
    assert!(registered.contains(&node("m1").id));
    let low = lease(999, "m2");
    let refused = other.claim(&id, None, &low, &facts("m2")).await.expect("answered");
    assert_eq!(refused, Err(Conflict(Some(own))));
    suite::events_arrive(one, other, "after the failover").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_is_noticed_and_what_nodes_have_comes_back() {
    let server = Server::start(&[]);
    let (one, other) = (connect(settings(&server.url())).await, connect(settings(&server.url())).await);
    suite::forgetting(&one, &other, || {
        server.cli(&["flushall"]);
    })
    .await;

    let store = Store::memory();
    let Store::Memory(memory) = &store else { unreachable!("made so") };
    suite::forgetting(&store, &store, || memory.forget_everything()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_without_a_snapshot_is_noticed() {
    let mut server = Server::start(&[]);
    let (one, other) = (connect(settings(&server.url())).await, connect(settings(&server.url())).await);
    let mut events = one.events();
    suite::forgetting(&one, &other, || {
        server.kill();
        server.run();
    })
    .await;
    heard(&mut events, &StoreEvent::Disconnected).await;
    heard(&mut events, &StoreEvent::Connected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_snapshot_is_not_taken_for_the_memory_of_before() {
    let mut server = Server::start(&[]);
    let store = connect(settings(&server.url())).await;
    register(&store, "m1").await;
    assert_eq!(server.cli(&["save"]), "OK");
    let (id, own) = (room("after the snapshot"), lease(7, "m1"));
    store.claim(&id, None, &own, &facts("m1")).await.expect("answered").expect("free");
    server.kill();
    server.run();
    let (held, registered) = until_back(&store, &id).await;
    assert_eq!(held, None, "the claim was not in the snapshot");
    assert!(registered.is_empty(), "the registration was, and must not count: {registered:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_costs_a_second_and_is_back_when_it_wakes() {
    let server = Server::start(&[]);
    let store = connect(settings(&server.url())).await;
    let (id, own) = (room("frozen"), lease(1, "m1"));
    store.claim(&id, None, &own, &facts("m1")).await.expect("answered").expect("free");
    let mut events = store.events();
    server.freeze();
    let begun = Instant::now();
    let answer = store.read(&id).await;
    let took = begun.elapsed();
    assert_eq!(answer, Err(StoreError::Timeout));
    assert!(took < Duration::from_secs(3), "{took:?}");
    heard(&mut events, &StoreEvent::Disconnected).await;
    let begun = Instant::now();
    assert_eq!(store.read(&id).await, Err(StoreError::Away), "known to be away: no waiting");
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    server.resume();
    heard(&mut events, &StoreEvent::Connected).await;
    assert_eq!(store.read(&id).await.expect("answered").0, Some(own));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_answers_come_late_serves_many_at_once() {
    let server = Server::start(&[]);
    let late = Duration::from_millis(200);
    let proxy = proxy::late(server.host(), late);
    let store = connect(format!("redis://{proxy}").parse().expect("settings")).await;
    let mut events = store.events();
    let begun = Instant::now();
    let claims: Vec<_> = (0..100)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move {
                store.claim(&room(&format!("late {number}")), None, &lease(1, "m1"), &facts("m1")).await
            })
        })
        .collect();
    for claim in claims {
        assert_eq!(claim.await.expect("no panic"), Ok(Ok(())));
    }
    let took = begun.elapsed();
    assert!(took >= late && took < late * 50, "{took:?}");
    let disconnected =
        std::iter::from_fn(|| events.try_recv().ok()).any(|event| event == StoreEvent::Disconnected);
    assert!(!disconnected, "late is not away");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_there_is_told_and_a_database_in_a_cluster_refused() {
    let mut server = Server::start(&[]);
    let settings = settings(&server.url());
    server.kill();
    assert!(matches!(Store::redis(settings).await, Err(StoreError::Unreachable(_))));
    let numbered = RedisSettings {
        database: 1,
        ..format!("redis-cluster://{}", server.host()).parse().expect("settings")
    };
    let refused = Store::redis(numbered).await.expect_err("no such thing");
    assert!(refused.to_string().contains("no database but 0"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_and_redis_answer_the_same_to_the_same() {
    let server = Server::start(&[]);
    let redis = connect(settings(&server.url())).await;
    for seed in random::seeds() {
        server.cli(&["flushall"]);
        random::compare(seed, &Store::memory(), &redis, || {
            server.cli(&["flushall"]);
        })
        .await;
    }
}
