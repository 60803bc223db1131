use std::time::Duration;

use axum::Router;
use axum::extract::WebSocketUpgrade;
use axum::routing::get;
use room::{Notification, PeerId, SessionId};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_tungstenite::MaybeTlsStream;
use tokio_tungstenite::tungstenite::protocol::Message as Frame;

use super::*;
use crate::address::AddressCounts;

const PATIENCE: Duration = Duration::from_secs(10);

type Socket = tokio_tungstenite::WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>;

/// A client's end of a connection that carries this session, and what serves the other end.
async fn connected(session: (Session, Messages), line: Option<Line>) -> (Socket, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("ws://{}/", listener.local_addr().expect("bound"));
    let limits = Arc::new(GatewayLimits::default());
    let client = Client { limits, name: None, dialect: Dialect::of_query(""), line };
    let place = AddressCounts::default().take([127, 0, 0, 1].into(), 1).expect("the first");
    let parts = Arc::new(std::sync::Mutex::new(Some((session, client, place))));
    let endpoint = get(move |upgrade: WebSocketUpgrade| async move {
        let ((session, messages), client, place) =
            parts.lock().expect("no panic").take().expect("one connection");
        upgrade.on_upgrade(move |socket| run(socket, 1, session, messages, client, place))
    });
    let server = tokio::spawn(async move {
        axum::serve(listener, Router::new().route("/", endpoint)).await.expect("it serves");
    });
    let (socket, _) = tokio_tungstenite::connect_async(url).await.expect("connected");
    (socket, server)
}

/// A client says something just as its room has moved: the room's side is closed before the gateway has read why. What the client is
/// told is the room's last word all the same, since only after [`close_code::MOVED`] it keeps the old node's media.
#[tokio::test]
async fn what_a_client_says_to_a_session_that_has_ended_does_not_hide_why() {
    let (session, far) = Session::far(SessionId(1), 1);
    let (room, from_room) = mpsc::channel(8);
    let (mut socket, server) = connected((session, from_room), None).await;

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

/// A client that can come back closes its socket behind its goodbye, with something for it on its way: what is written to it breaks
/// the connection before the goodbye is read, now and then. It has left all the same, and is not waited for.
#[tokio::test]
async fn a_goodbye_is_heard_though_nothing_can_be_written_any_more() {
    // A close frame without a code, as a client sends it: masked, by zeros.
    const GOODBYE: [u8; 6] = [0x88, 0x80, 0, 0, 0, 0];
    let other = PeerId::parse("other").expect("an id");
    for _ in 0..16 {
        let (session, mut far) = Session::far(SessionId(1), 1);
        let (room, from_room) = mpsc::channel(8);
        let line = Line { token: None, last: 0, resumed: None };
        let (socket, server) = connected((session, from_room), Some(line)).await;
        let MaybeTlsStream::Plain(socket) = socket.into_inner() else { panic!("no TLS was asked for") };
        // The gateway waits for either now, and finds both.
        socket.set_zero_linger().expect("a live socket");
        assert_eq!(socket.try_write(&GOODBYE).expect("there is place for it"), GOODBYE.len());
        drop(socket);
        room.try_send(ToClient::Notify(Notification::PeerClosed(other.clone())))
            .expect("there is place for it");
        let said = tokio::time::timeout(PATIENCE, far.recv()).await.expect("in time");
        assert_eq!(said, Some(FromClient::Leave));
        server.abort();
    }
}
