//! A client whose connection breaks comes back to its session on another one: it misses nothing, nothing comes twice, and
//! the others notice nothing.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::client::{Client, Said};
use crate::server::Server;

/// Joins as a client that can come back; its token.
async fn join(server: &Server, room: &str, peer: &str) -> Result<(Client, String)> {
    let mut client = Client::open(server, &format!("/?roomId={room}&peerId={peer}&resumable=1")).await?;
    let capabilities = client.ask("getRouterRtpCapabilities", json!({})).await?;
    let joined = client.join(peer, &capabilities).await?;
    let token = joined["resume"]["token"].as_str().context("a token")?.to_owned();
    Ok((client, token))
}

fn back(room: &str, peer: &str, token: &str, received: u64) -> String {
    format!("/?roomId={room}&peerId={peer}&resume={token}&received={received}")
}

#[tokio::test]
async fn what_a_client_missed_follows_once_and_in_order() -> Result<()> {
    let server = Server::start(&[], &[]).await?;
    let (mut ann, token) = join(&server, "r", "ann").await?;
    let send = ann.transport(true).await?;
    let receive = ann.transport(false).await?;
    let mut bob = Client::connect(&server, "r", "bob").await?;
    let capabilities = bob.ask("getRouterRtpCapabilities", json!({})).await?;
    bob.join("Bob", &capabilities).await?;
    ann.told("newPeer").await?;
    let bobs = bob.transport(true).await?;
    bob.transport(false).await?;
    let first = ann.produce(&send, 1111).await?;
    let offer = bob.asked("newConsumer").await?;
    let received = ann.last_seq;
    assert!(received > 5, "{received}");
    let request = ann.last_id;
    drop(ann);

    for name in ["one", "two", "three"] {
        bob.ask("changeDisplayName", json!({ "displayName": name })).await?;
    }
    let second = bob.produce(&bobs, 2222).await?;
    // The worker answers in the order in which it is asked: before this it has made ann's consumer.
    bob.ask("restartIce", json!({ "transportId": bobs })).await?;
    let mut ann = Client::open(&server, &back("r", "ann", &token, received)).await?;
    ann.last_id = request;
    assert_eq!(ann.told("resumed").await?["asks"].as_array().map(Vec::len), Some(1));
    for name in ["one", "two", "three"] {
        assert_eq!(ann.told("peerDisplayNameChanged").await?["displayName"], name);
    }
    let offered = ann.asked("newConsumer").await?;
    assert_eq!((&offered["producerId"], &offered["transportId"]), (&json!(second), &json!(receive)));
    assert_eq!(ann.seqs, (received + 1..=ann.last_seq).collect::<Vec<_>>(), "each once, in order");

    // A request that is said again is done once.
    ann.last_id += 1;
    let again = json!({ "request": true, "id": ann.last_id, "method": "changeDisplayName", "data": { "displayName": "A" } });
    for _ in 0..2 {
        ann.text(&again.to_string()).await?;
    }
    // Objects of before the break are there, and its counters go on.
    ann.ask("pauseProducer", json!({ "producerId": first })).await?;
    assert_eq!(bob.told("consumerPaused").await?["consumerId"], offer["id"]);
    assert_eq!(bob.told("peerDisplayNameChanged").await?["displayName"], "A");
    bob.ask("changeDisplayName", json!({ "displayName": "last" })).await?;
    assert_eq!(ann.told("peerDisplayNameChanged").await?["displayName"], "last");
    let unexpected = |said: &Said| match said {
        Said::Told { method, .. } => {
            ["newPeer", "peerClosed", "peerDisplayNameChanged"].contains(&method.as_str())
        }
        _ => false,
    };
    assert!(!bob.kept().any(unexpected), "bob noticed something");
    let metrics = server.metrics().await?;
    assert!(metrics.contains("tureen_signaling_resumes_total{result=\"resumed\"} 1"), "{metrics}");
    assert!(metrics.contains("tureen_sessions_repeated_requests_total 1"), "{metrics}");

    // Who says goodbye has left.
    ann.close().await?;
    assert_eq!(bob.told("peerClosed").await?["peerId"], "ann");
    Ok(())
}

#[tokio::test]
async fn an_answer_that_was_lost_with_its_connection_is_said_again() -> Result<()> {
    let server = Server::start(&[], &[]).await?;
    let (mut ann, token) = join(&server, "r", "ann").await?;
    let (mut bob, _) = join(&server, "r", "bob").await?;
    ann.told("newPeer").await?;
    let received = ann.last_seq;
    ann.last_id += 1;
    let asked = ann.last_id;
    let change = json!({ "request": true, "id": asked, "method": "changeDisplayName", "data": { "displayName": "A" } });
    ann.text(&change.to_string()).await?;
    // Said to the old connection, and not read there: bob hears that it was done.
    bob.told("peerDisplayNameChanged").await?;
    drop(ann);
    let mut ann = Client::open(&server, &back("r", "ann", &token, received)).await?;
    ann.text(&change.to_string()).await?;
    let answered = |said: &Said| matches!(said, Said::Reply { id, .. } if *id == asked);
    loop {
        if answered(&ann.next().await?) {
            break;
        }
    }
    ann.last_id = asked;
    ann.ask("changeDisplayName", json!({ "displayName": "B" })).await?;
    assert!(!ann.kept().any(answered), "answered twice");
    assert_eq!(bob.told("peerDisplayNameChanged").await?["displayName"], "B", "A was done once");
    Ok(())
}

#[tokio::test]
async fn a_token_is_good_for_its_own_session_while_that_lasts() -> Result<()> {
    let server = Server::start(&[], &[("TUREEN_LIMITS__ROOM__RESUME_MS", "300")]).await?;
    let (ann, token) = join(&server, "r", "ann").await?;
    let (mut bob, bobs) = join(&server, "r", "bob").await?;
    let refused = |path: String| {
        let server = &server;
        async move { anyhow::Ok(Client::open(server, &path).await?.closed().await?) }
    };
    let changed = token.replacen('.', ".A", 1);
    let wrong: Vec<(String, &str)> = vec![
        (back("r", "ann", "nonsense", 0), "token"),
        (back("r", "ann", &changed, 0), "token"),
        (back("other", "ann", &token, 0), "other_room"),
        (back("r", "eve", &token, 0), "other_peer"),
        (back("r", "ann", &token, 1_000_000), "missed"),
        ("/?roomId=r&peerId=ann&resume=".to_owned() + &token, "missed"),
    ];
    for (path, why) in &wrong {
        let before = resumes(&server, why).await?;
        assert_eq!(refused(path.clone()).await?, 4007, "{path}");
        assert_eq!(resumes(&server, why).await?, before + 1, "{path}");
    }
    // Nobody was disturbed by that.
    bob.ask("changeDisplayName", json!({ "displayName": "B" })).await?;

    // The connection that was there ends for good when its session goes on elsewhere.
    let received = bob.last_seq;
    let mut again = Client::open(&server, &back("r", "bob", &bobs, received)).await?;
    assert_eq!(bob.closed().await?, 4000);
    again.ask("changeDisplayName", json!({ "displayName": "B2" })).await?;

    // Too late.
    drop(ann);
    assert_eq!(again.told("peerClosed").await?["peerId"], "ann");
    assert_eq!(refused(back("r", "ann", &token, 0)).await?, 4007);
    assert_eq!(resumes(&server, "gone").await?, 1);
    // A client as there have always been leaves at once, and is told nothing new.
    let mut eve = Client::connect(&server, "r", "eve").await?;
    let capabilities = eve.ask("getRouterRtpCapabilities", json!({})).await?;
    let joined: Value = eve.join("Eve", &capabilities).await?;
    assert_eq!((joined.get("resume"), eve.last_seq), (None, 0));
    Ok(())
}

async fn resumes(server: &Server, result: &str) -> Result<u64> {
    let metrics = server.metrics().await?;
    let line = format!("tureen_signaling_resumes_total{{result=\"{result}\"}} ");
    Ok(metrics.lines().find_map(|text| text.strip_prefix(&line)?.parse().ok()).unwrap_or(0))
}
