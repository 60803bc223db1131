use std::time::Duration;

use axum::Router;
use axum::extract::WebSocketUpgrade;
use axum::routing::get;
use room::SessionId;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::protocol::Message as Frame;

use super::*;
use crate::address::AddressCounts;

const PATIENCE: Duration = Duration::from_secs(10);

/// A client says something just as its room has moved: the room's side is closed before the gateway has read why. What the client is
/// told is the room's last word all the same, since only after [`close_code::MOVED`] it keeps the old node's media.
#[tokio::test]
async fn what_a_client_says_to_a_session_that_has_ended_does_not_hide_why() {
    let (session, far) = Session::far(SessionId(1), 1);
    let (room, from_room) = mpsc::channel(8);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("ws://{}/", listener.local_addr().expect("bound"));
    let limits = Arc::new(GatewayLimits::default());
    let client = Client { limits, name: None, dialect: Dialect::of_query(""), line: None };
    let place = AddressCounts::default().take([127, 0, 0, 1].into(), 1).expect("the first");
    let parts = std::sync::Mutex::new(Some((session, from_room, client, place)));
    let parts = Arc::new(parts);
    let endpoint = get(move |upgrade: WebSocketUpgrade| async move {
        let (session, messages, client, place) =
            parts.lock().expect("no panic").take().expect("one connection");
        upgrade.on_upgrade(move |socket| run(socket, 1, session, messages, client, place))
    });
    let server = tokio::spawn(async move {
        axum::serve(listener, Router::new().route("/", endpoint)).await.expect("it serves");
    });
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.expect("connected");

    drop(far);
    let ask = r#"{"request":true,"id":7,"method":"changeDisplayName","data":{"displayName":"x"}}"#;
    socket.send(Frame::text(ask)).await.expect("sent");
    // It has taken that when it would have hung up.
    let hung_up = tokio::time::timeout(TICK / 5, room.closed()).await;
    assert!(hung_up.is_err(), "the gateway does not wait for the room's last word");
    let word = ToClient::Close { code: close_code::MOVED, reason: "moved".into() };
    room.send(word).await.expect("the gateway still listens");
    let told = tokio::time::timeout(PATIENCE, async {
        loop {
            match socket.next().await {
                Some(Ok(Frame::Close(frame))) => return frame.map(|frame| u16::from(frame.code)),
                Some(Ok(_)) => {}
                other => panic!("no close frame: {other:?}"),
            }
        }
    });
    assert_eq!(told.await.expect("in time"), Some(close_code::MOVED));
    server.abort();
}
