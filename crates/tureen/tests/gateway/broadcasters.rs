//! The HTTP API for broadcasters where join tokens are wanted: it lets in, and lets do, only who has the token of that very
//! broadcaster.

use anyhow::Result;
use serde_json::json;

use super::client::Client;
use super::server::{Server, eventually};
use super::token;

#[tokio::test]
async fn where_tokens_are_wanted_a_broadcaster_needs_its_own_for_everything() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let secrets = folder.path().join("secrets");
    std::fs::write(&secrets, "s".repeat(32))?;
    let file = secrets.to_str().expect("text");
    let server = Server::start(&["--auth-secret-file", file, "--broadcasters", "4"], &[]).await?;
    let [ann, cam, eve] = ["ann", "cam", "eve"].map(|peer| token(&secrets, peer, &[]));
    let [ann, cam, eve] = [ann?, cam?, eve?];
    let mut client = Client::open(&server, &format!("/?token={ann}")).await?;
    client.join("Ann", &json!({ "codecs": [], "headerExtensions": [] })).await?;

    let introduction = json!({ "id": "cam", "displayName": "Camera", "device": { "name": "x" } }).to_string();
    let transport = json!({ "type": "plain", "comedia": true, "rtcpMux": false }).to_string();
    let [of_cam, of_eve] = [&cam, &eve].map(|token| format!("Authorization: Bearer {token}"));
    let broadcasters = "/rooms/r/broadcasters";
    let of_the_room = [("GET", "/rooms/r", ""), ("POST", broadcasters, introduction.as_str())];
    for (method, path, body) in of_the_room {
        assert_eq!(status(&server, method, path, "", body).await?, 401, "{method} {path} without a token");
    }
    // A token is for one peer of one room.
    assert_eq!(status(&server, "POST", broadcasters, &of_eve, &introduction).await?, 401);
    assert_eq!(status(&server, "GET", "/rooms/other", &of_cam, "").await?, 401);
    assert_eq!(status(&server, "POST", broadcasters, &of_cam, &introduction).await?, 200);
    assert_eq!(client.told("newPeer").await?["id"], "cam");

    let what_it_does = [
        ("POST", "/rooms/r/broadcasters/cam/transports", transport.as_str()),
        ("GET", "/rooms/r/broadcasters/cam/peerProducersInfos", ""),
        ("DELETE", "/rooms/r/broadcasters/cam", ""),
    ];
    for (method, path, body) in what_it_does {
        assert_eq!(status(&server, method, path, "", body).await?, 401, "{method} {path} without a token");
        assert_eq!(status(&server, method, path, &of_eve, body).await?, 401, "{method} {path} of another");
        let in_the_address = format!("{path}?token={eve}");
        assert_eq!(
            status(&server, method, &in_the_address, "", body).await?,
            401,
            "{method} {path} of another"
        );
    }
    for (method, path, body) in what_it_does {
        assert_eq!(status(&server, method, path, &of_cam, body).await?, 200, "{method} {path} of its own");
    }
    assert_eq!(client.told("peerClosed").await?["peerId"], "cam");
    let counted = "tureen_signaling_refused_total{why=\"token_missing\"} 5\n";
    eventually("five came without a token", async || Ok(server.metrics().await?.contains(counted))).await
}

/// The status of the answer.
async fn status(server: &Server, method: &str, path: &str, header: &str, body: &str) -> Result<u16> {
    let headers = ["Content-Type: application/json", header];
    let headers: Vec<_> = headers.into_iter().filter(|line| !line.is_empty()).collect();
    let answer = server.request(method, path, &headers, body).await?;
    Ok(answer.split(' ').nth(1).unwrap_or_default().parse()?)
}
