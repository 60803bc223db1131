//! The HTTP side: paths, status codes and words of mediasoup-demo's API for broadcasters, of both its dialects. The one
//! that created the broadcaster decides which: the classic one answers 200, 400 and 500, the newer one is finer.

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use node::ConnectError;
use room::{ConsumerId, PeerId, ProducerId, Reply, Request, RoomError, RoomId, TransportId};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::wire::{
    Connect, NewBroadcaster, NewConsumer, NewDataConsumer, NewDataProducer, NewProducer, NewTransport,
};
use super::{AddError, Broadcaster};
use crate::codec::MAX_FRAME_BYTES;
use crate::dialect::{self, Dialect};
use crate::gateway::{Gateway, Refusal};

/// The paths of the API. They answer 404 where [`Gateway::with_broadcasters`] says 0.
pub fn endpoints(gateway: Gateway) -> Router {
    Router::new()
        .route("/rooms/{room}", get(capabilities))
        .route("/rooms/{room}/broadcasters", post(create))
        .route("/rooms/{room}/broadcasters/{peer}", delete(remove))
        .route("/rooms/{room}/broadcasters/{peer}/join", post(join))
        .route("/rooms/{room}/broadcasters/{peer}/transports", post(create_transport))
        .route("/rooms/{room}/broadcasters/{peer}/transports/{transport}/connect", post(connect))
        .route("/rooms/{room}/broadcasters/{peer}/transports/{transport}/producers", post(produce_on))
        .route("/rooms/{room}/broadcasters/{peer}/transports/{transport}/consume", post(consume_on))
        .route("/rooms/{room}/broadcasters/{peer}/transports/{transport}/consume/data", post(consume_data))
        .route("/rooms/{room}/broadcasters/{peer}/transports/{transport}/produce/data", post(produce_data))
        .route("/rooms/{room}/broadcasters/{peer}/producers", post(produce))
        .route("/rooms/{room}/broadcasters/{peer}/peerProducersInfos", get(peer_producers))
        .route("/rooms/{room}/broadcasters/{peer}/consumers", post(consume))
        .route("/rooms/{room}/broadcasters/{peer}/consumers/{consumer}/resume", post(resume))
        .layer(DefaultBodyLimit::max(MAX_FRAME_BYTES))
        .with_state(gateway)
}

/// An answer that says why not.
#[derive(Debug)]
struct Fault {
    status: StatusCode,
    text: String,
}

impl Fault {
    fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    /// What JavaScript would have called a TypeError.
    fn wrong(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    fn of(error: &RoomError, dialect: Dialect) -> Self {
        let status = match (dialect, error.code()) {
            (_, 400) => StatusCode::BAD_REQUEST,
            (Dialect::TypeScript, code) => {
                StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
            }
            (Dialect::Classic | Dialect::Unknown, _) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        (self.status, format!("Error: {}", self.text)).into_response()
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.status, refusal.text)
    }
}

impl From<ConnectError> for Fault {
    fn from(error: ConnectError) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

/// A request about a room, let through by whoever guards it.
struct Asked {
    gateway: Gateway,
    room: RoomId,
    headers: HeaderMap,
    query: String,
}

type Guarded = (State<Gateway>, HeaderMap, RawQuery);

impl Asked {
    /// Whether there is such a room, and the request may come from where it comes.
    fn new((State(gateway), headers, RawQuery(query)): Guarded, room: &str) -> Result<Self, Fault> {
        if !gateway.broadcasters().are_served() {
            return Err(Fault::new(StatusCode::NOT_FOUND, "there is no API for broadcasters on this server"));
        }
        gateway.check_origin(&headers)?;
        let room = RoomId::parse(room).map_err(|error| Fault::wrong(error.to_string()))?;
        Ok(Self { gateway, room, headers, query: query.unwrap_or_default() })
    }

    async fn room_must_exist(&self) -> Result<(), Fault> {
        if self.gateway.rooms().has(&self.room).await {
            return Ok(());
        }
        let text = format!("room with id \"{}\" not found", self.room);
        Err(Fault::new(StatusCode::NOT_FOUND, text))
    }

    /// The broadcaster of this id, if whoever asks may be it.
    async fn broadcaster(self, peer: &str) -> Result<Found, Fault> {
        let peer = PeerId::parse(peer).map_err(|error| Fault::wrong(error.to_string()))?;
        self.gateway.authorize(&self.headers, &self.query, &self.room, Some(&peer))?;
        self.room_must_exist().await?;
        let broadcaster = self.gateway.broadcasters().find(&self.room, &peer);
        let text = || format!("broadcaster with id \"{peer}\" does not exist");
        let broadcaster = broadcaster.ok_or_else(|| Fault::new(StatusCode::NOT_FOUND, text()))?;
        Ok(Found { gateway: self.gateway, room: self.room, peer, broadcaster })
    }
}

/// A broadcaster that is there.
struct Found {
    gateway: Gateway,
    room: RoomId,
    peer: PeerId,
    broadcaster: Broadcaster,
}

impl Found {
    async fn ask(&self, request: Request) -> Result<Reply, Fault> {
        let dialect = self.broadcaster.dialect;
        let reply = self.broadcaster.ask(request, self.gateway.limits().request_timeout()).await;
        reply.map_err(|error| Fault::of(&error, dialect))
    }

    /// The answer to what makes a thing: in the newer dialect with its place.
    async fn make(&self, request: Request, things: &str, id: &str) -> Result<Response, Fault> {
        let dialect = self.broadcaster.dialect;
        let data = dialect::reply(self.ask(request).await?, dialect);
        if dialect != Dialect::TypeScript {
            return Ok(Json(data).into_response());
        }
        let id = data.get(id).and_then(serde_json::Value::as_str).unwrap_or_default();
        let place = [(header::LOCATION, format!("{}/{things}/{id}", place(&self.room, &self.peer)))];
        Ok((StatusCode::CREATED, place, Json(data)).into_response())
    }

    /// The answer to what makes nothing: words in the newer dialect, nothing in the classic one.
    async fn tell(&self, request: Request, words: &'static str) -> Result<Response, Fault> {
        self.ask(request).await?;
        Ok(if self.broadcaster.dialect == Dialect::TypeScript {
            words.into_response()
        } else {
            StatusCode::OK.into_response()
        })
    }
}

fn place(room: &RoomId, peer: &PeerId) -> String {
    format!("/rooms/{}/broadcasters/{}", escaped(room.as_str()), escaped(peer.as_str()))
}

/// Percent-encoded but for RFC 3986's unreserved characters.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Fault> {
    serde_json::from_slice(body).map_err(|error| Fault::wrong(format!("body: {error}")))
}

async fn capabilities(Path(room): Path<String>, guarded: Guarded) -> Result<Response, Fault> {
    let asked = Asked::new(guarded, &room)?;
    asked.gateway.authorize(&asked.headers, &asked.query, &asked.room, None)?;
    asked.room_must_exist().await?;
    let reply = asked.gateway.ask_once(asked.room.clone(), Request::RouterRtpCapabilities).await?;
    let reply = reply.map_err(|error| Fault::of(&error, Dialect::Unknown))?;
    Ok(Json(dialect::reply(reply, Dialect::Unknown)).into_response())
}

async fn create(Path(room): Path<String>, guarded: Guarded, body: Bytes) -> Result<Response, Fault> {
    let asked = Asked::new(guarded, &room)?;
    let (dialect, id, mut introduced) = read::<NewBroadcaster>(&body)?.read().map_err(Fault::wrong)?;
    let peer = PeerId::parse(&id).map_err(|error| Fault::wrong(error.to_string()))?;
    let (role, name) = asked.gateway.authorize(&asked.headers, &asked.query, &asked.room, Some(&peer))?;
    if let (Some(name), Request::Join { display_name, .. }) = (name, &mut introduced) {
        *display_name = name;
    }
    asked.room_must_exist().await?;
    let Asked { gateway, room, .. } = asked;
    let key = (room.clone(), peer.clone());
    let added = gateway.broadcasters().add(gateway.rooms(), key, role, dialect, introduced.clone()).await;
    let broadcaster = added.map_err(|error| match (error, dialect) {
        (AddError::Connect(error), _) => Fault::from(error),
        (error @ AddError::Exists, Dialect::TypeScript) => {
            Fault::new(StatusCode::CONFLICT, error.to_string())
        }
        (error @ AddError::Limit(_), Dialect::TypeScript) => {
            Fault::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
        }
        (error, _) => Fault::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    })?;
    let place = place(&room, &peer);
    if dialect == Dialect::TypeScript {
        let headers = [(header::LOCATION, place)];
        return Ok((StatusCode::CREATED, headers, "BroadcasterPeer created").into_response());
    }
    let receives = matches!(&introduced, Request::Join { rtp_capabilities: Some(_), .. });
    let found = Found { gateway, room, peer, broadcaster };
    if let Err(fault) = found.ask(introduced).await {
        found.broadcaster.leave().await;
        return Err(fault);
    }
    // Who cannot receive is not told what there is.
    let peers =
        if receives { found.ask(Request::PeerProducers).await? } else { Reply::PeerProducers(Vec::new()) };
    Ok(Json(dialect::reply(peers, dialect)).into_response())
}

async fn remove(Path((room, peer)): Path<(String, String)>, guarded: Guarded) -> Result<Response, Fault> {
    let found = Asked::new(guarded, &room)?.broadcaster(&peer).await?;
    found.broadcaster.leave().await;
    Ok(if found.broadcaster.dialect == Dialect::TypeScript {
        StatusCode::NO_CONTENT.into_response()
    } else {
        "broadcaster deleted".into_response()
    })
}

async fn join(Path((room, peer)): Path<(String, String)>, guarded: Guarded) -> Result<Response, Fault> {
    let found = Asked::new(guarded, &room)?.broadcaster(&peer).await?;
    let introduced = (*found.broadcaster.introduced).clone();
    found.tell(introduced, "BroadcasterPeer joined").await
}

async fn create_transport(
    Path((room, peer)): Path<(String, String)>,
    guarded: Guarded,
    body: Bytes,
) -> Result<Response, Fault> {
    let found = Asked::new(guarded, &room)?.broadcaster(&peer).await?;
    let request = read::<NewTransport>(&body)?.read(found.broadcaster.dialect).map_err(Fault::wrong)?;
    found.make(request, "transports", "transportId").await
}

async fn connect(
    Path((room, peer, transport)): Path<(String, String, String)>,
    guarded: Guarded,
    body: Bytes,
) -> Result<Response, Fault> {
    let found = Asked::new(guarded, &room)?.broadcaster(&peer).await?;
    let request = read::<Connect>(&body)?.read(TransportId::new(transport)).map_err(Fault::wrong)?;
    found.tell(request, "PlainTransport connected").await
}

async fn produce_on(
    Path((room, peer, transport)): Path<(String, String, String)>,
    guarded: Guarded,
    body: Bytes,
) -> Result<Response, Fault> {
    let found = Asked::new(guarded, &room)?.broadcaster(&peer).await?;
    let transport = Some(TransportId::new(transport));
    let request = read::<NewProducer>(&body)?.read(transport).map_err(Fault::wrong)?;
    found.make(request, "producers", "producerId").await
}

async fn produce(
    Path((room, peer)): Path<(String, String)>,
    guarded: Guarded,
    body: Bytes,
) -> Result<Response, Fault> {
    let found = Asked::new(guarded, &room)?.broadcaster(&peer).await?;
    let request = read::<NewProducer>(&body)?.read(None).map_err(Fault::wrong)?;
    found.make(request, "producers", "producerId").await
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wanted {
    producer_id: String,
}

async fn consume_on(
    Path((room, peer, transport)): Path<(String, String, String)>,
    Query(wanted): Query<Wanted>,
    guarded: Guarded,
) -> Result<Response, Fault> {
    let found = Asked::new(guarded, &room)?.broadcaster(&peer).await?;
    let request = Request::Consume {
        transport: TransportId::new(transport),
        producer: ProducerId::new(wanted.producer_id),
        rtp_capabilities: None,
        paused: false,
    };
    found.make(request, "consumers", "consumerId").await
}

async fn consume(
    Path((room, peer)): Path<(String, String)>,
    guarded: Guarded,
    body: Bytes,
) -> Result<Response, Fault> {
    let found = Asked::new(guarded, &room)?.broadcaster(&peer).await?;
    found.make(read::<NewConsumer>(&body)?.read(), "consumers", "consumerId").await
}

async fn resume(
    Path((room, peer, consumer)): Path<(String, String, String)>,
    guarded: Guarded,
) -> Result<Response, Fault> {
    let found = Asked::new(guarded, &room)?.broadcaster(&peer).await?;
    found.tell(Request::ResumeConsumer(ConsumerId::new(consumer)), "Consumer resumed").await
}

async fn consume_data(
    Path((room, peer, transport)): Path<(String, String, String)>,
    guarded: Guarded,
    body: Bytes,
) -> Result<Response, Fault> {
    let found = Asked::new(guarded, &room)?.broadcaster(&peer).await?;
    let request = read::<NewDataConsumer>(&body)?.read(TransportId::new(transport));
    found.make(request, "dataConsumers", "dataConsumerId").await
}

async fn produce_data(
    Path((room, peer, transport)): Path<(String, String, String)>,
    guarded: Guarded,
    body: Bytes,
) -> Result<Response, Fault> {
    let found = Asked::new(guarded, &room)?.broadcaster(&peer).await?;
    let request = read::<NewDataProducer>(&body)?.read(TransportId::new(transport)).map_err(Fault::wrong)?;
    found.make(request, "dataProducers", "dataProducerId").await
}

async fn peer_producers(
    Path((room, peer)): Path<(String, String)>,
    guarded: Guarded,
) -> Result<Response, Fault> {
    let found = Asked::new(guarded, &room)?.broadcaster(&peer).await?;
    let reply = found.ask(Request::PeerProducers).await?;
    Ok(Json(dialect::reply(reply, found.broadcaster.dialect)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_escaped() {
        let (room, peer) = (RoomId::parse("Räume 7?").expect("id"), PeerId::parse("a-b_c.d~e").expect("id"));
        assert_eq!(place(&room, &peer), "/rooms/R%C3%A4ume%207%3F/broadcasters/a-b_c.d~e");
    }

    #[test]
    fn the_classic_dialect_knows_two_faults_the_newer_one_more() {
        let full = RoomError::Limit { what: "x".into(), limit: 1 };
        let wrong = RoomError::Invalid("x".to_owned());
        let of = |error: &RoomError, dialect| Fault::of(error, dialect).status.as_u16();
        assert_eq!([of(&full, Dialect::Classic), of(&wrong, Dialect::Classic)], [500, 400]);
        assert_eq!([of(&full, Dialect::TypeScript), of(&wrong, Dialect::TypeScript)], [429, 400]);
    }
}
