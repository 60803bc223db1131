//! `tureen serve` over a real WebSocket with real workers: what a classic protoo client sends and is sent, and what is
//! left when it goes. No media flows here; browsers do that elsewhere.

#[path = "gateway/broadcasters.rs"]
mod broadcasters;
#[path = "gateway/client.rs"]
mod client;
#[path = "gateway/resume.rs"]
mod resume;
#[path = "gateway/server.rs"]
mod server;
#[path = "gateway/transcript.rs"]
mod transcript;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;
use client::{Client, Said, refused, refused_from, status_for_page};
use serde_json::json;
use server::{Server, eventually};

#[tokio::test]
async fn a_classic_call_from_start_to_end_leaves_nothing() -> Result<()> {
    let server = Server::start(&[], &[]).await?;
    let mut ann = Client::connect(&server, "r1", "ann").await?;
    let mut bob = Client::connect(&server, "r1", "bob").await?;
    let capabilities = ann.ask("getRouterRtpCapabilities", json!({})).await?;
    assert!(capabilities["codecs"].as_array().is_some_and(|codecs| !codecs.is_empty()));
    let send = ann.transport(true).await?;
    bob.transport(false).await?;
    assert_eq!(ann.join("Ann", &capabilities).await?, json!({ "peers": [] }));
    let joined = bob.join("Bob", &capabilities).await?;
    assert_eq!(joined["peers"][0]["id"], "ann");
    assert_eq!(ann.told("newPeer").await?["displayName"], "Bob");

    let producer = ann.produce(&send, 1111).await?;
    let offer = bob.asked("newConsumer").await?;
    assert_eq!((&offer["peerId"], &offer["producerId"]), (&json!("ann"), &json!(producer)));
    assert_eq!((&offer["kind"], &offer["type"]), (&json!("audio"), &json!("simple")));
    assert_eq!((&offer["producerPaused"], &offer["appData"]["source"]), (&json!(false), &json!("mic")));
    assert!(offer["rtpParameters"]["encodings"][0]["ssrc"].is_u64());
    let consumer = offer["id"].as_str().expect("an id").to_owned();

    ann.ask("pauseProducer", json!({ "producerId": producer })).await?;
    assert_eq!(bob.told("consumerPaused").await?["consumerId"], consumer);
    ann.ask("resumeProducer", json!({ "producerId": producer })).await?;
    assert_eq!(bob.told("consumerResumed").await?["consumerId"], consumer);
    for method in ["pauseConsumer", "resumeConsumer", "requestConsumerKeyFrame"] {
        bob.ask(method, json!({ "consumerId": consumer })).await?;
    }
    bob.ask("setConsumerPriority", json!({ "consumerId": consumer, "priority": 2 })).await?;
    let stats = bob.ask("getConsumerStats", json!({ "consumerId": consumer })).await?;
    assert!(stats.is_array(), "{stats}");
    let stats = ann.ask("getTransportStats", json!({ "transportId": send })).await?;
    assert_eq!(stats[0]["transportId"], json!(send));
    let ice = ann.ask("restartIce", json!({ "transportId": send })).await?;
    assert!(ice["usernameFragment"].is_string() && ice["iceParameters"].is_object());
    bob.ask("changeDisplayName", json!({ "displayName": "Bobby" })).await?;
    assert_eq!(ann.told("peerDisplayNameChanged").await?["oldDisplayName"], "Bob");

    ann.ask("closeProducer", json!({ "producerId": producer })).await?;
    assert_eq!(bob.told("consumerClosed").await?["consumerId"], consumer);
    ann.produce(&send, 2222).await?;
    bob.asked("newConsumer").await?;
    // Without goodbye: the socket just ends.
    drop(ann);
    bob.told("consumerClosed").await?;
    assert_eq!(bob.told("peerClosed").await?["peerId"], "ann");
    bob.close().await?;
    eventually("everything freed", || async {
        let metrics = server.metrics().await?;
        Ok(["routers", "transports", "producers", "consumers", "rooms", "sessions", "peers"]
            .iter()
            .all(|name| metrics.contains(&format!("\ntureen_{name} 0\n"))))
    })
    .await
}

#[tokio::test]
async fn wrong_requests_are_refused_with_words() -> Result<()> {
    let server = Server::start(&[], &[]).await?;
    let mut ann = Client::connect(&server, "r", "ann").await?;
    for (method, data, code) in [
        ("nonsense", json!({}), 404),
        ("produceData", json!({}), 400),
        ("applyNetworkThrottle", json!({ "secret": "x" }), 403),
        ("produce", json!({ "transportId": "t" }), 400),
        ("pauseConsumer", json!({ "consumerId": "c" }), 404),
        ("createWebRtcTransport", json!({ "forceTcp": false }), 400),
    ] {
        let error = ann.ask(method, data).await.expect_err(method).to_string();
        assert!(error.starts_with(&code.to_string()) && error.len() > 8, "{method}: {error}");
    }
    // An unparsable capability set and an unproducible codec are the client's fault.
    let send = ann.transport(true).await?;
    ann.join("Ann", &json!({ "codecs": [], "headerExtensions": [] })).await?;
    let rtp = json!({ "codecs": [{ "mimeType": "audio/none", "payloadType": 100, "clockRate": 1 }],
        "encodings": [{ "ssrc": 5 }] });
    let data = json!({ "transportId": send, "kind": "audio", "rtpParameters": rtp, "appData": {} });
    let error = ann.ask("produce", data).await.expect_err("refused").to_string();
    assert!(error.starts_with("400"), "{error}");
    Ok(())
}

#[tokio::test]
async fn the_door_says_why_it_stays_shut() -> Result<()> {
    let server = Server::start(&[], &[("TUREEN_LIMITS__SESSIONS", "1")]).await?;
    assert_eq!(refused(&server, "/?roomId=r&peerId=p", None).await?, 403);
    assert_eq!(refused(&server, "/ws?roomId=r&peerId=p", Some("chat")).await?, 403);
    assert_eq!(refused(&server, "/?roomId=a%7Bb&peerId=p", Some("protoo")).await?, 400);
    let _ann = Client::connect(&server, "r", "ann").await?;
    assert_eq!(refused(&server, "/?roomId=r&peerId=bob", Some("protoo")).await?, 503);
    Ok(())
}

#[tokio::test]
async fn where_tokens_are_wanted_only_who_has_one_comes_in_and_as_it_says() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (secrets, other) = (folder.path().join("secrets"), folder.path().join("other"));
    std::fs::write(&secrets, format!("# new, old\n{}\n{}\n", "n".repeat(32), "o".repeat(32)))?;
    std::fs::write(&other, "x".repeat(32))?;
    let server = Server::start(&["--auth-secret-file", secrets.to_str().expect("text")], &[]).await?;
    let ann = token(&secrets, "ann", &["--name", "Ann of the token"])?;
    let mut client = Client::open(&server, &format!("/?roomId=r&peerId=ann&token={ann}")).await?;
    let mut bob = Client::open(&server, &format!("/?token={}", token(&secrets, "bob", &[])?)).await?;
    bob.join("Bob", &json!({ "codecs": [], "headerExtensions": [] })).await?;
    client.join("Eve", &json!({ "codecs": [], "headerExtensions": [] })).await?;
    let told = bob.told("newPeer").await?;
    assert_eq!((&told["id"], &told["displayName"]), (&json!("ann"), &json!("Ann of the token")));

    let wrong = token(&other, "ann", &[])?;
    for (path, why) in [
        ("/?roomId=r&peerId=ann".to_owned(), "token_missing"),
        (format!("/?roomId=r&peerId=ann&token={wrong}"), "token_signature"),
        ("/?roomId=r&peerId=ann&token=nonsense".to_owned(), "token_malformed"),
        (format!("/?roomId=r2&peerId=ann&token={ann}"), "token_other_room"),
        (format!("/?roomId=r&peerId=eve&token={ann}"), "token_other_peer"),
    ] {
        assert_eq!(refused(&server, &path, Some("protoo")).await?, 401, "{why}");
        let counted = format!("tureen_signaling_refused_total{{why=\"{why}\"}} 1\n");
        assert!(server.metrics().await?.contains(&counted), "{why}");
    }
    Ok(())
}

/// A token for room r.
fn token(secrets: &Path, peer: &str, more: &[&str]) -> Result<String> {
    let file = secrets.to_str().expect("text");
    let arguments = ["token", "--secret-file", file, "--room", "r", "--peer", peer, "--expires", "1h"];
    let made = Command::new(env!("CARGO_BIN_EXE_tureen")).args(arguments).args(more).output()?;
    assert!(made.status.success(), "{made:?}");
    Ok(String::from_utf8(made.stdout)?.trim().to_owned())
}

#[test]
fn where_others_can_come_in_the_server_wants_to_know_who_may() -> Result<()> {
    let open = ["config", "check", "--listen", "0.0.0.0:0", "--insecure-listen-anywhere", "--worker-bin"];
    let tureen = env!("CARGO_BIN_EXE_tureen");
    let refused = Command::new(tureen).args(open).arg(tureen).output()?;
    let said = String::from_utf8(refused.stderr)?;
    assert!(!refused.status.success() && said.contains("auth.secret_file"), "{said}");
    let allowed = Command::new(tureen).args(open).args([tureen, "--insecure-no-tokens"]).output()?;
    let said = String::from_utf8(allowed.stderr)?;
    assert!(allowed.status.success(), "{said}");
    Ok(())
}

#[test]
fn certificates_are_made_for_their_owner_alone_and_never_over_others() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (authority, node) = (folder.path().join("ca"), folder.path().join("m1"));
    let make = |arguments: &[&std::ffi::OsStr]| -> Result<bool> {
        let made = Command::new(env!("CARGO_BIN_EXE_tureen")).arg("cert").args(arguments).output()?;
        eprintln!("{}", String::from_utf8_lossy(&made.stderr));
        Ok(made.status.success())
    };
    let [out, force] = ["--out", "--force"].map(std::ffi::OsStr::new);
    let ca = [std::ffi::OsStr::new("ca"), out, authority.as_os_str()];
    let m1 = ["node", "m1", "--san", "10.0.0.1", "--ca"].map(std::ffi::OsStr::new);
    let m1 = [&m1[..], &[authority.as_os_str(), out, node.as_os_str()]].concat();
    assert!(!make(&m1)?, "there is no authority yet");
    assert!(make(&ca)? && make(&m1)?);
    for (file, mode) in
        [("ca/ca.pem", 0o644), ("ca/ca-key.pem", 0o600), ("m1/m1.pem", 0o644), ("m1/m1-key.pem", 0o600)]
    {
        let found = std::fs::metadata(folder.path().join(file))?.permissions();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&found) & 0o777, mode, "{file}");
    }
    let key = std::fs::read(node.join("m1-key.pem"))?;
    assert!(!make(&ca)? && !make(&m1)?, "never over others");
    assert_eq!(std::fs::read(node.join("m1-key.pem"))?, key);
    assert!(make(&[&m1[..], &[force]].concat())?);
    assert_ne!(std::fs::read(node.join("m1-key.pem"))?, key);
    // What was made can be used, and by the node of that name.
    let [ca, cert, key] = ["ca.pem", "m1.pem", "m1-key.pem"].map(|file| node.join(file));
    links::Security::tls(links::TlsFiles { ca, cert, key })?;
    Ok(())
}

#[tokio::test]
async fn who_does_not_join_in_time_is_sent_away_and_may_come_again() -> Result<()> {
    let server = Server::start(&[], &[("TUREEN_LIMITS__SESSION__JOIN_TIMEOUT_MS", "300")]).await?;
    let mut bob = Client::connect(&server, "r", "bob").await?;
    bob.join("Bob", &json!({ "codecs": [], "headerExtensions": [] })).await?;
    let mut ann = Client::connect(&server, "r", "ann").await?;
    ann.transport(true).await?;
    assert_eq!(ann.closed().await?, 4005);
    // Who has joined stays, and who comes again is let in.
    let mut ann = Client::connect(&server, "r", "ann").await?;
    ann.join("Ann", &json!({ "codecs": [], "headerExtensions": [] })).await?;
    assert_eq!(bob.told("newPeer").await?["displayName"], "Ann");
    // Long after their time would have been over.
    let mut carl = Client::connect(&server, "r", "carl").await?;
    assert_eq!(carl.closed().await?, 4005);
    ann.ask("getRouterRtpCapabilities", json!({})).await?;
    bob.ask("getRouterRtpCapabilities", json!({})).await?;
    let metrics = server.metrics().await?;
    assert!(metrics.contains("tureen_signaling_errors_total{what=\"join_timeout\"} 2\n"), "{metrics}");
    assert!(metrics.contains("\ntureen_transports 0\n"), "{metrics}");
    Ok(())
}

#[tokio::test]
async fn an_address_has_so_many_sessions_by_the_word_of_a_trusted_proxy_only() -> Result<()> {
    let limits = [
        ("TUREEN_LIMITS__SESSION__SESSIONS_PER_ADDRESS", "2"),
        ("TUREEN_LIMITS__SESSION__TRUSTED_PROXIES", r#"["127.0.0.0/8"]"#),
    ];
    let server = Server::start(&[], &limits).await?;
    let forwarded =
        async |peer, from| Client::connect_with(&server, "r", peer, &[("X-Forwarded-For", from)]).await;
    let _first = forwarded("a", "192.0.2.1").await?;
    // A proxy's own entry is passed over; so is what the client wrote before the proxies' entries.
    let second = forwarded("b", "192.0.2.1, 127.0.0.9").await?;
    assert_eq!(refused_from(&server, "8.8.8.8, 192.0.2.1").await?, 429);
    let _other = forwarded("c", "192.0.2.2").await?;
    second.close().await?;
    eventually("the place is free", || async { Ok(refused_from(&server, "192.0.2.1").await.is_err()) })
        .await?;
    assert!(server.metrics().await?.contains("tureen_signaling_refused_total{why=\"address\"}"));

    // Without trust the header is anybody's word, and this machine is not counted.
    let server = Server::start(&[], &limits[..1]).await?;
    let mut all = Vec::new();
    for peer in ["a", "b", "c"] {
        all.push(Client::connect_with(&server, "r", peer, &[("X-Forwarded-For", "192.0.2.1")]).await?);
    }
    Ok(())
}

#[tokio::test]
async fn pages_of_other_hosts_stay_outside_unless_allowed() -> Result<()> {
    let allowed = [("TUREEN_LIMITS__SESSION__ALLOWED_ORIGINS", r#"["https://app.example.org"]"#)];
    let server = Server::start(&[], &allowed).await?;
    let path = "/?roomId=r&peerId=p";
    for (origin, status) in [
        ("https://evil.example", 403),
        ("null", 403),
        ("http://app.example.org", 403),
        // Another port of this host, and what is allowed: let in.
        ("http://127.0.0.1:3000", 101),
        ("https://app.example.org", 101),
    ] {
        assert_eq!(status_for_page(&server, path, origin).await?, status, "{origin}");
    }
    assert!(server.metrics().await?.contains("tureen_signaling_refused_total{why=\"origin\"} 3\n"));
    Ok(())
}

#[tokio::test]
async fn who_goes_on_after_refusals_or_answers_what_nobody_asked_is_shown_the_door() -> Result<()> {
    let limits = [
        ("TUREEN_LIMITS__SESSION__MESSAGES_PER_SECOND", "1"),
        ("TUREEN_LIMITS__SESSION__MESSAGE_BURST", "20"),
    ];
    let server = Server::start(&[], &limits).await?;
    let asking = r#"{"request":true,"id":1,"method":"nonsense","data":{}}"#;
    let answering = r#"{"response":true,"id":1,"ok":true,"data":{}}"#;
    for (peer, text, times) in [("ann", asking, 60), ("bob", answering, 40)] {
        let mut client = Client::connect(&server, "r", peer).await?;
        for _ in 0..times {
            // The server may have hung up before the last.
            if client.text(text).await.is_err() {
                break;
            }
        }
        assert_eq!(client.closed().await?, 4004, "{peer}");
    }
    assert!(server.metrics().await?.contains("tureen_signaling_errors_total{what=\"flood\"} 2\n"));
    Ok(())
}

#[tokio::test]
async fn answers_meant_for_an_older_connection_fit_no_question_of_the_new_one() -> Result<()> {
    let server = Server::start(&[], &[]).await?;
    let mut ann = Client::connect(&server, "r", "ann").await?;
    let capabilities = ann.ask("getRouterRtpCapabilities", json!({})).await?;
    let send = ann.transport(true).await?;
    ann.join("Ann", &capabilities).await?;
    ann.produce(&send, 1).await?;
    let mut first_asks = std::collections::BTreeSet::new();
    for _ in 0..4 {
        let mut bob = Client::connect(&server, "r", "bob").await?;
        bob.transport(false).await?;
        bob.join("Bob", &capabilities).await?;
        bob.asked("newConsumer").await?;
        first_asks.insert(bob.last_asked);
    }
    assert_eq!(first_asks.len(), 4);
    Ok(())
}

#[tokio::test]
async fn a_request_that_a_dying_worker_leaves_unanswered_is_no_error_but_a_call_to_rejoin() -> Result<()> {
    let server = Server::start(&[], &[]).await?;
    let mut ann = Client::connect(&server, "r", "ann").await?;
    ann.ask("getRouterRtpCapabilities", json!({})).await?;
    let worker = server.workers()?.into_iter().next().expect("a worker");
    server::stop(worker)?;
    let data = json!({ "forceTcp": false, "producing": true, "consuming": false, "sctpCapabilities": "" });
    let create = json!({ "request": true, "id": 77, "method": "createWebRtcTransport", "data": data });
    ann.text(&create.to_string()).await?;
    // Answered by the room itself, after it has passed the first on.
    let error =
        ann.ask("pauseConsumer", json!({ "consumerId": "c" })).await.expect_err("no such").to_string();
    assert!(error.starts_with("404"), "{error}");
    server::kill(worker)?;
    assert_eq!(ann.next().await?, Said::Closed(4001));
    Ok(())
}

#[tokio::test]
async fn a_second_connection_of_a_peer_ends_the_first_for_good() -> Result<()> {
    let server = Server::start(&[], &[]).await?;
    let mut first = Client::connect(&server, "r", "ann").await?;
    first.transport(true).await?;
    let mut second = Client::connect(&server, "r", "ann").await?;
    assert_eq!(first.closed().await?, 4000);
    second.transport(true).await?;
    let metrics = server.metrics().await?;
    assert!(metrics.contains("\ntureen_transports 1\n"), "{metrics}");
    Ok(())
}

#[tokio::test]
async fn who_knows_a_peer_id_but_not_its_key_takes_nobodys_place() -> Result<()> {
    let server = Server::start(&[], &[]).await?;
    let ann = "ann&peerKey=0123456789abcdef0123456789abcdef";
    let mut first = Client::connect(&server, "r", ann).await?;
    first.transport(true).await?;
    for guess in ["ann", "ann&peerKey=0123456789abcdef0123456789abcdee"] {
        let mut other = Client::connect(&server, "r", guess).await?;
        assert_eq!(other.closed().await?, 4006, "{guess}");
    }
    assert_eq!(refused(&server, "/?roomId=r&peerId=ann&peerKey=short", Some("protoo")).await?, 400);
    first.ask("getRouterRtpCapabilities", json!({})).await?;
    let mut second = Client::connect(&server, "r", ann).await?;
    assert_eq!(first.closed().await?, 4000);
    second.transport(true).await?;
    Ok(())
}

#[tokio::test]
async fn when_a_worker_is_killed_clients_are_sent_to_rejoin_and_find_a_live_one() -> Result<()> {
    let server = Server::start(&["--workers", "2"], &[]).await?;
    let mut ann = Client::connect(&server, "r", "ann").await?;
    let mut bob = Client::connect(&server, "r", "bob").await?;
    ann.transport(true).await?;
    bob.transport(false).await?;
    // A worker without a room dies unnoticed; the room's own is found by trying both, the second after the first is back.
    let started = Instant::now();
    let mut victims = server.workers()?.into_iter();
    let mut killed = 0;
    loop {
        let victim = victims.next().expect("the room's worker was among them");
        server::kill(victim)?;
        killed += 1;
        eventually("the death is counted", || async {
            Ok(server.metrics().await?.contains(&format!("\ntureen_worker_deaths_total {killed}\n")))
        })
        .await?;
        // The room hears of it a moment later than the count; without a room, nothing comes until the worker is back.
        let rehomed = "event=\"router_lost\"} 1";
        eventually("a room is lost, or the worker is back", || async {
            let metrics = server.metrics().await?;
            Ok(metrics.contains(rehomed) || metrics.contains("\ntureen_workers 2\n"))
        })
        .await?;
        if server.metrics().await?.contains(rehomed) {
            break;
        }
        eventually("the worker is back", || async {
            Ok(server.metrics().await?.contains("\ntureen_workers 2\n"))
        })
        .await?;
    }
    assert_eq!((ann.closed().await?, bob.closed().await?), (4001, 4001));
    let rejoin = Instant::now();
    let mut ann = Client::connect(&server, "r", "ann").await?;
    let mut bob = Client::connect(&server, "r", "bob").await?;
    let capabilities = ann.ask("getRouterRtpCapabilities", json!({})).await?;
    let send = ann.transport(true).await?;
    bob.transport(false).await?;
    ann.join("Ann", &capabilities).await?;
    bob.join("Bob", &capabilities).await?;
    ann.produce(&send, 1).await?;
    bob.asked("newConsumer").await?;
    eprintln!("killed {killed}, re-joined in {:?}, all in {:?}", rejoin.elapsed(), started.elapsed());
    assert!(rejoin.elapsed() < Duration::from_secs(2), "{:?}", rejoin.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_client_that_vanishes_is_noticed_by_its_silence() -> Result<()> {
    let quick = [
        ("TUREEN_LIMITS__SESSION__PING_INTERVAL_MS", "100"),
        ("TUREEN_LIMITS__SESSION__SILENCE_MS", "500"),
        ("TUREEN_LIMITS__ROOM__LINGER_MS", "50"),
    ];
    let server = Server::start(&[], &quick).await?;
    let mut ann = Client::connect(&server, "r", "ann").await?;
    ann.transport(true).await?;
    let mut bob = Client::connect(&server, "r", "bob").await?;
    bob.join("Bob", &json!({ "codecs": [], "headerExtensions": [] })).await?;
    ann.join("Ann", &json!({ "codecs": [], "headerExtensions": [] })).await?;
    bob.told("newPeer").await?;
    // Ann's connection stays open, but nobody reads it: no pong comes. Bob's is read while he waits.
    assert_eq!(bob.told("peerClosed").await?["peerId"], "ann");
    drop(ann);
    Ok(())
}

#[tokio::test]
async fn who_talks_nonsense_is_shown_the_door_and_others_are_not_disturbed() -> Result<()> {
    let server = Server::start(&[], &[]).await?;
    let mut bob = Client::connect(&server, "r", "bob").await?;
    let mut ann = Client::connect(&server, "r", "ann").await?;
    // A request with an id is answered even if it is wrong.
    ann.text(r#"{"request":true,"id":77,"method":1}"#).await?;
    assert!(matches!(ann.next().await?, Said::Error { id: 77, code: 400, .. }));
    for _ in 0..9 {
        ann.text("{nonsense").await?;
    }
    assert_eq!(ann.closed().await?, 4004);
    bob.ask("getRouterRtpCapabilities", json!({})).await?;
    assert!(server.metrics().await?.contains("tureen_signaling_errors_total{what=\"malformed\"} 10"));
    Ok(())
}

#[tokio::test]
async fn who_floods_is_slowed_down() -> Result<()> {
    let limits = [
        ("TUREEN_LIMITS__SESSION__MESSAGES_PER_SECOND", "1"),
        ("TUREEN_LIMITS__SESSION__MESSAGE_BURST", "5"),
    ];
    let server = Server::start(&[], &limits).await?;
    let mut ann = Client::connect(&server, "r", "ann").await?;
    for _ in 0..5 {
        ann.ask("getRouterRtpCapabilities", json!({})).await?;
    }
    let error = ann.ask("getRouterRtpCapabilities", json!({})).await.expect_err("too many").to_string();
    assert!(error.starts_with("429"), "{error}");
    Ok(())
}

#[tokio::test]
async fn sigterm_says_goodbye_and_ends_with_status_0() -> Result<()> {
    let mut server = Server::start(&[], &[]).await?;
    let mut ann = Client::connect(&server, "r", "ann").await?;
    ann.transport(true).await?;
    server.terminate()?;
    assert_eq!(ann.closed().await?, 4003);
    assert!(server.ended().await?.success());
    Ok(())
}

#[tokio::test]
async fn page_health_and_metrics_are_served_beside_the_socket() -> Result<()> {
    let server = Server::start(&["--workers", "2"], &[]).await?;
    let page = server.get("/").await?;
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("<!doctype html"), "{page:.300}");
    let health = server.get("/health").await?;
    assert!(health.starts_with("HTTP/1.1 200") && health.contains("\"status\":\"ready\""), "{health}");
    assert!(health.contains("\"running\":2"), "{health}");
    assert!(server.get("/nothing").await?.starts_with("HTTP/1.1 404"));
    assert!(server.metrics().await?.contains("\ntureen_workers 2\n"));
    Ok(())
}

#[tokio::test]
async fn the_classic_web_application_is_told_what_it_always_was() -> Result<()> {
    transcript::replay("classic").await
}

#[tokio::test]
async fn the_newer_web_application_is_told_what_it_expects() -> Result<()> {
    transcript::replay("typescript").await
}

#[tokio::test]
async fn android_applications_are_understood_with_their_quirks() -> Result<()> {
    transcript::replay("android").await
}

#[tokio::test]
async fn flutter_applications_are_understood_with_their_quirks() -> Result<()> {
    transcript::replay("flutter").await
}

#[tokio::test]
async fn clients_of_both_dialects_meet_in_one_room() -> Result<()> {
    transcript::replay("both").await
}
