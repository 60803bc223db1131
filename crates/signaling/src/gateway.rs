//! The door: an HTTP upgrade becomes a session, or an HTTP error that says why not.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::ws::WebSocketUpgrade;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use host::ToClient;
use node::{ConnectError, Rooms};
use rand::RngExt;
use room::{
    Comer, IdError, PeerId, PeerKey, PeerKeyError, Reply, Request, RequestId, Role, RoomError, RoomId,
};
use token::{Asked, TokenError, Verifier};
use tracing::debug;

use crate::address::{AddressCounts, client_address};
use crate::broadcasters::Broadcasters;
use crate::codec::MAX_FRAME_BYTES;
use crate::connection::{self, Client, Line};
use crate::dialect::Dialect;
use crate::limits::GatewayLimits;

/// The WebSocket subprotocol that clients must ask for.
pub const SUBPROTOCOL: &str = "protoo";

/// Numbers connections, for logs.
static CONNECTIONS: AtomicU64 = AtomicU64::new(1);

/// Takes clients in. Clones share everything.
#[derive(Debug, Clone)]
pub struct Gateway {
    rooms: Rooms,
    limits: Arc<GatewayLimits>,
    tokens: Option<Arc<Verifier>>,
    broadcasters: Broadcasters,
    addresses: AddressCounts,
}

/// Who comes in, and where.
struct Visitor {
    room: RoomId,
    peer: PeerId,
    role: Option<Role>,
    /// The name that its token gives it, whatever it says itself.
    name: Option<String>,
    /// What proves that it was here before.
    key: Option<PeerKey>,
}

/// How a client comes.
enum Coming {
    /// As protoo's clients do: when its connection breaks, it has left.
    Once,
    /// It can come back to its session.
    ToStay,
    /// It comes back, and has all messages up to this number.
    Back { token: String, received: u64 },
}

impl Coming {
    fn of(pairs: &[(String, String)]) -> Self {
        let find = |key: &str| pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
        match (find("resume"), find("resumable")) {
            (Some(token), _) => {
                // What is no number fits nothing that was said.
                let received = find("received").and_then(|number| number.parse().ok()).unwrap_or(u64::MAX);
                Self::Back { token: token.to_owned(), received }
            }
            (None, Some("1" | "true")) => Self::ToStay,
            (None, _) => Self::Once,
        }
    }
}

/// Why a client is not let in by what it says of itself.
enum Unwanted {
    Id(IdError),
    Key(PeerKeyError),
    Token(TokenError),
}

impl Gateway {
    /// A gateway to these rooms.
    pub fn new(rooms: Rooms, limits: GatewayLimits) -> Self {
        let limits = Arc::new(limits);
        let broadcasters = Broadcasters::new(0, limits.clone());
        Self { rooms, tokens: None, broadcasters, addresses: AddressCounts::default(), limits }
    }

    /// Takes in so many broadcasters at once; 0, as without a call of this, is none, and no API for them.
    #[must_use]
    pub fn with_broadcasters(mut self, count: usize) -> Self {
        self.broadcasters = Broadcasters::new(count, self.limits.clone());
        self
    }

    /// Lets in only who has a token.
    #[must_use]
    pub fn requiring(self, tokens: Verifier) -> Self {
        Self { tokens: Some(Arc::new(tokens)), ..self }
    }

    /// Answers an upgrade request that came over a connection from `from`. `query` is the raw query string of its URL;
    /// `roomId`, `peerId`, `peerKey`, `token`, `resumable`, `resume` and `received` are read from it, the token also from the
    /// header `Authorization: Bearer`.
    pub async fn accept(
        &self,
        upgrade: WebSocketUpgrade,
        from: IpAddr,
        headers: &HeaderMap,
        query: &str,
    ) -> Response {
        if !asks_for_protoo(headers) {
            refused("subprotocol");
            let text = "the WebSocket subprotocol must be \"protoo\"";
            return (StatusCode::FORBIDDEN, text).into_response();
        }
        if let Err(refusal) = self.check_origin(headers) {
            return (refusal.status, refusal.text).into_response();
        }
        let pairs = pairs(query);
        let coming = Coming::of(&pairs);
        // Who is in stays, also when the connection breaks after the token's time.
        let now = if matches!(coming, Coming::Back { .. }) { None } else { Some(unix_now()) };
        let visitor = match visitor(&pairs, headers, self.tokens.as_deref(), now) {
            Ok(visitor) => visitor,
            Err(Unwanted::Id(error)) => {
                refused("id");
                return (StatusCode::BAD_REQUEST, error.to_string()).into_response();
            }
            Err(Unwanted::Key(error)) => {
                refused("key");
                return (StatusCode::BAD_REQUEST, error.to_string()).into_response();
            }
            Err(Unwanted::Token(error)) => {
                refused(error.why());
                return (StatusCode::UNAUTHORIZED, error.to_string()).into_response();
            }
        };
        let limit = self.limits.sessions_per_address;
        let client = client_address(from, headers, &self.limits.trusted_proxies);
        let Some(place) = self.addresses.take(client, limit) else {
            refused("address");
            let text =
                format!("your address has its limit of {limit} sessions: close one, or try again later");
            return (StatusCode::TOO_MANY_REQUESTS, text).into_response();
        };
        let Visitor { room, peer, role, name, key } = visitor;
        let upgrade = upgrade
            .protocols([SUBPROTOCOL])
            .max_message_size(MAX_FRAME_BYTES)
            .max_frame_size(MAX_FRAME_BYTES);
        let comer = Comer { role, key, ..Comer::new(peer.clone()) };
        let opened = match coming {
            Coming::Once => {
                let opened = self.rooms.connect(room.clone(), comer).await;
                opened.map(|(session, messages)| (session, messages, None))
            }
            Coming::ToStay => {
                let opened = self.rooms.enter(room.clone(), comer).await;
                opened.map(|entered| Line::new(entered, 0))
            }
            Coming::Back { token, received } => {
                let resumed = self.rooms.resume(&room, &peer, token, received).await;
                resumes(resumed.as_ref().map_or_else(|why| why.name(), |_| "resumed"));
                match resumed {
                    Ok(entered) => Ok(Line::new(entered, received)),
                    // A page is told nothing of a refused handshake, so it is told after it.
                    Err(why) => {
                        debug!(%room, %peer, %why, "session not resumed");
                        return upgrade.on_upgrade(move |socket| connection::not_resumed(socket, why));
                    }
                }
            }
        };
        let (session, messages, line) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                refused(error.name());
                return (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response();
            }
        };
        let connection = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        debug!(%room, %peer, connection, "session opened");
        let limits = self.limits.clone();
        let dialect = Dialect::of_query(query);
        let client = Client { limits, name, dialect, line };
        upgrade
            .on_upgrade(move |socket| connection::run(socket, connection, session, messages, client, place))
    }
}

/// Why a request over HTTP is not served.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) text: String,
}

/// What requests over HTTP need, beside WebSockets.
impl Gateway {
    pub(crate) fn rooms(&self) -> &Rooms {
        &self.rooms
    }

    pub(crate) fn limits(&self) -> &GatewayLimits {
        &self.limits
    }

    pub(crate) fn broadcasters(&self) -> &Broadcasters {
        &self.broadcasters
    }

    pub(crate) fn check_origin(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        if from_allowed_page(headers, &self.limits.allowed_origins) {
            return Ok(());
        }
        refused("origin");
        let text = "pages of this origin may not connect: the server's operator can add it to \
                    limits.session.allowed_origins";
        Err(Refusal { status: StatusCode::FORBIDDEN, text: text.to_owned() })
    }

    /// Whether somebody may do this in a room, as this peer if one is meant: by a token where those are required. The
    /// role and the name that the token gives.
    pub(crate) fn authorize(
        &self,
        headers: &HeaderMap,
        query: &str,
        room: &RoomId,
        peer: Option<&PeerId>,
    ) -> Result<(Option<Role>, Option<String>), Refusal> {
        let Some(tokens) = &self.tokens else { return Ok((None, None)) };
        let pairs = pairs(query);
        let in_query = pairs.iter().find(|(name, _)| name == "token").map(|(_, value)| value.as_str());
        let token = bearer(headers).or(in_query).unwrap_or_default();
        match tokens.verify(token, Asked { room: Some(room), peer }, unix_now()) {
            Ok(claims) => Ok((claims.role, claims.name)),
            Err(error) => {
                refused(error.why());
                Err(Refusal { status: StatusCode::UNAUTHORIZED, text: error.to_string() })
            }
        }
    }

    /// One question to a room that is open, by nobody in particular.
    pub(crate) async fn ask_once(
        &self,
        room: RoomId,
        request: Request,
    ) -> Result<Result<Reply, RoomError>, ConnectError> {
        let Ok(nobody) = PeerId::parse(&random_id()) else { return Err(host::ConnectError::Busy.into()) };
        let (session, mut messages) = self.rooms.connect(room, Comer::new(nobody)).await?;
        let late = || RoomError::Unavailable("the server did not answer in time".to_owned());
        if session.request(RequestId(1), request).await.is_err() {
            return Ok(Err(late()));
        }
        let answer = async {
            while let Some(message) = messages.recv().await {
                if let ToClient::Reply { result, .. } = message {
                    return result;
                }
            }
            Err(late())
        };
        Ok(tokio::time::timeout(self.limits.request_timeout(), answer).await.unwrap_or_else(|_| Err(late())))
    }
}

/// How it went with a client that wanted its session back.
fn resumes(result: &'static str) {
    metrics::counter!("tureen_signaling_resumes_total", "result" => result).increment(1);
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

/// Reads who comes. Clients of the classic web application send the word `undefined` for what they were not given.
/// Without a time, tokens are believed whatever it is.
fn visitor(
    pairs: &[(String, String)],
    headers: &HeaderMap,
    tokens: Option<&Verifier>,
    now: Option<u64>,
) -> Result<Visitor, Unwanted> {
    let find = |key: &str| {
        let found = pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
        found.filter(|value| !value.is_empty() && *value != "undefined")
    };
    let room = find("roomId").map(RoomId::parse).transpose().map_err(Unwanted::Id)?;
    let peer = find("peerId").map(PeerId::parse).transpose().map_err(Unwanted::Id)?;
    let key = find("peerKey").map(PeerKey::parse).transpose().map_err(Unwanted::Key)?;
    let Some(tokens) = tokens else {
        let room = room.map_or_else(|| RoomId::parse(&random_id()), Ok).map_err(Unwanted::Id)?;
        let peer = peer.map_or_else(|| PeerId::parse(&random_id()), Ok).map_err(Unwanted::Id)?;
        return Ok(Visitor { room, peer, role: None, name: None, key });
    };
    let token = bearer(headers).or_else(|| find("token")).unwrap_or_default();
    let asked = Asked { room: room.as_ref(), peer: peer.as_ref() };
    let claims = match now {
        Some(now) => tokens.verify(token, asked, now),
        None => tokens.verify_lasting(token, asked),
    }
    .map_err(Unwanted::Token)?;
    Ok(Visitor { room: claims.room, peer: claims.peer, role: claims.role, name: claims.name, key })
}

fn pairs(query: &str) -> Vec<(String, String)> {
    axum::extract::Query::try_from_uri(&format!("/?{query}").parse().unwrap_or_default())
        .map(|axum::extract::Query(pairs)| pairs)
        .unwrap_or_default()
}

/// The token of `Authorization: Bearer` (RFC 6750 section 2.1), which programs can send and browsers' WebSockets cannot.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Seconds since 1970, which tokens count in.
fn unix_now() -> u64 {
    // A clock before 1970 finds every token not valid yet.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
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

    fn ids(query: &str) -> Option<(String, String)> {
        let visitor = visitor(&pairs(query), &HeaderMap::new(), None, Some(0)).ok()?;
        Some((visitor.room.to_string(), visitor.peer.to_string()))
    }

    #[test]
    fn ids_are_read_or_made() {
        let (room, peer) = ids("roomId=my%20room&peerId=p1&consumerReplicas=undefined").expect("valid");
        assert_eq!((room.as_str(), peer.as_str()), ("my room", "p1"));
        let (room, peer) = ids("roomId=undefined&peerId=").expect("made");
        assert_eq!((room.len(), peer.len()), (12, 12));
        assert_ne!(ids("").expect("made").0, ids("").expect("made").0);
        assert!(ids("roomId=a%2Fb").is_none());
        assert!(ids(&format!("roomId={}", "x".repeat(200))).is_none());
    }

    #[test]
    fn a_token_stands_in_the_query_or_in_the_header_and_says_who_comes() {
        let secret = token::Secret::new(&[7; 32]).expect("long enough");
        let (room, peer) = (RoomId::parse("r").expect("id"), PeerId::parse("ann").expect("id"));
        let claims = token::Claims {
            room,
            peer,
            role: Some(Role::new("judge")),
            exp: 100,
            nbf: None,
            name: Some("A".into()),
        };
        let text = token::sign(&claims, &secret).expect("signed");
        let tokens = Verifier::new(vec![secret]);
        let mut with_header = HeaderMap::new();
        with_header.insert(header::AUTHORIZATION, format!("bearer {text}").parse().expect("header"));
        let none = HeaderMap::new();
        let come =
            |query: &str, headers: &HeaderMap| match visitor(&pairs(query), headers, Some(&tokens), Some(50))
            {
                Ok(visitor) => {
                    let role = visitor.role.map(|role| role.as_str().to_owned());
                    Ok((visitor.room.to_string(), visitor.peer.to_string(), role, visitor.name))
                }
                Err(Unwanted::Token(error)) => Err(error.why()),
                Err(Unwanted::Id(_)) => Err("id"),
                Err(Unwanted::Key(_)) => Err("key"),
            };
        let ann = ("r".to_owned(), "ann".to_owned(), Some("judge".to_owned()), Some("A".to_owned()));
        for (query, headers) in [
            (format!("roomId=r&peerId=ann&token={text}"), &none),
            (format!("token={text}"), &none),
            ("roomId=r&peerId=undefined".to_owned(), &with_header),
        ] {
            assert_eq!(come(&query, headers), Ok(ann.clone()), "{query}");
        }
        assert_eq!(come("roomId=r&peerId=ann", &none), Err("token_missing"));
        assert_eq!(come(&format!("roomId=x&token={text}"), &none), Err("token_other_room"));
        assert_eq!(come("peerId=bob", &with_header), Err("token_other_peer"));
        assert_eq!(come("roomId=a%2Fb", &with_header), Err("id"));
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
