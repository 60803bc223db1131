//! The door: an HTTP upgrade becomes a session, or an HTTP error that says why not.

use std::sync::Arc;

use axum::extract::ws::WebSocketUpgrade;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use host::{ConnectError, Host};
use rand::RngExt;
use room::{IdError, PeerId, RoomId};
use tracing::debug;

use crate::codec::MAX_FRAME_BYTES;
use crate::connection;
use crate::limits::GatewayLimits;

/// The WebSocket subprotocol that clients must ask for.
pub const SUBPROTOCOL: &str = "protoo";

/// Takes clients in. Clones share everything.
#[derive(Debug, Clone)]
pub struct Gateway {
    host: Host,
    limits: Arc<GatewayLimits>,
}

impl Gateway {
    /// A gateway to the rooms of this host.
    pub fn new(host: Host, limits: GatewayLimits) -> Self {
        Self { host, limits: Arc::new(limits) }
    }

    /// Answers an upgrade request. `query` is the raw query string of its URL; `roomId` and `peerId` are read from it.
    pub async fn accept(&self, upgrade: WebSocketUpgrade, headers: &HeaderMap, query: &str) -> Response {
        if !asks_for_protoo(headers) {
            refused("subprotocol");
            let text = "the WebSocket subprotocol must be \"protoo\"";
            return (StatusCode::FORBIDDEN, text).into_response();
        }
        if !from_allowed_page(headers, &self.limits.allowed_origins) {
            refused("origin");
            let text = "pages of this origin may not connect: the server's operator can add it to \
                        limits.session.allowed_origins";
            return (StatusCode::FORBIDDEN, text).into_response();
        }
        let (room, peer) = match ids(query) {
            Ok(ids) => ids,
            Err(error) => {
                refused("id");
                return (StatusCode::BAD_REQUEST, error.to_string()).into_response();
            }
        };
        let (session, messages) = match self.host.connect(room.clone(), peer.clone(), None).await {
            Ok(opened) => opened,
            Err(error) => {
                refused(match error {
                    ConnectError::Sessions(_) => "sessions",
                    ConnectError::Rooms(_) => "rooms",
                    ConnectError::ShuttingDown => "shutting_down",
                    ConnectError::Busy => "busy",
                });
                return (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response();
            }
        };
        debug!(%room, %peer, session = session.id().0, "session opened");
        let limits = self.limits.clone();
        upgrade
            .protocols([SUBPROTOCOL])
            .max_message_size(MAX_FRAME_BYTES)
            .max_frame_size(MAX_FRAME_BYTES)
            .on_upgrade(move |socket| connection::run(socket, session, messages, limits))
    }
}

fn refused(why: &'static str) {
    metrics::counter!("tureen_signaling_refused_total", "why" => why).increment(1);
}

fn asks_for_protoo(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|protocol| protocol.trim() == SUBPROTOCOL)
}

/// Whether the page that connects, if it is one, came from this host or is allowed by name (RFC 6455 section 10.2).
/// Ports may differ: a page may be served beside the server.
fn from_allowed_page(headers: &HeaderMap, allowed: &[String]) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let Ok(origin) = origin.to_str() else { return false };
    if allowed.iter().any(|allowed| allowed.trim_end_matches('/').eq_ignore_ascii_case(origin)) {
        return true;
    }
    let page = origin.parse::<Uri>().ok();
    let own = headers.get(header::HOST).and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
    match (page.as_ref().and_then(Uri::host), &own) {
        (Some(page), Some(own)) => page.eq_ignore_ascii_case(own.host()),
        _ => false,
    }
}

/// Reads both ids. Clients of the classic web application send the word `undefined` for what they were not given.
fn ids(query: &str) -> Result<(RoomId, PeerId), IdError> {
    let pairs: Vec<(String, String)> =
        axum::extract::Query::try_from_uri(&format!("/?{query}").parse().unwrap_or_default())
            .map(|axum::extract::Query(pairs)| pairs)
            .unwrap_or_default();
    let find = |key: &str| {
        let found = pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
        found.filter(|value| !value.is_empty() && *value != "undefined")
    };
    let room = find("roomId").map_or_else(|| RoomId::parse(&random_id()), RoomId::parse)?;
    let peer = find("peerId").map_or_else(|| PeerId::parse(&random_id()), PeerId::parse)?;
    Ok((room, peer))
}

/// Twelve characters as mediasoup-demo makes them: 62 bits.
fn random_id() -> String {
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut rng = rand::rng();
    (0..12).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_or_made() {
        let (room, peer) = ids("roomId=my%20room&peerId=p1&consumerReplicas=undefined").expect("valid");
        assert_eq!((room.as_str(), peer.as_str()), ("my room", "p1"));
        let (room, peer) = ids("roomId=undefined&peerId=").expect("made");
        assert_eq!((room.as_str().len(), peer.as_str().len()), (12, 12));
        assert_ne!(ids("").expect("made").0, ids("").expect("made").0);
        assert!(ids("roomId=a%2Fb").is_err());
        assert!(ids(&format!("roomId={}", "x".repeat(200))).is_err());
    }

    #[test]
    fn pages_come_from_this_host_or_are_allowed_by_name() {
        let allowed = vec!["https://App.example.org/".to_owned(), "null".to_owned()];
        let passes = |origin: &str, host: &str, allowed: &[String]| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ORIGIN, origin.parse().expect("header"));
            headers.insert(header::HOST, host.parse().expect("header"));
            from_allowed_page(&headers, allowed)
        };
        assert!(from_allowed_page(&HeaderMap::new(), &[]));
        assert!(passes("http://127.0.0.1:3000", "127.0.0.1:4443", &[]));
        assert!(passes("https://Call.example.org", "call.example.org", &[]));
        assert!(passes("http://[::1]:3000", "[::1]:4443", &[]));
        for other in ["https://evil.example", "http://localhost:4443", "null", ""] {
            assert!(!passes(other, "127.0.0.1:4443", &[]), "{other}");
        }
        assert!(passes("https://app.example.org", "127.0.0.1:4443", &allowed));
        assert!(passes("null", "127.0.0.1:4443", &allowed));
        assert!(!passes("http://app.example.org", "127.0.0.1:4443", &allowed));
    }

    #[test]
    fn the_subprotocol_is_found_among_others() {
        let mut headers = HeaderMap::new();
        assert!(!asks_for_protoo(&headers));
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, "chat, protoo".parse().expect("header"));
        assert!(asks_for_protoo(&headers));
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, "protoo2".parse().expect("header"));
        assert!(!asks_for_protoo(&headers));
    }
}
