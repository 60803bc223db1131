//! Hostile frames on WebSockets: damaged JSON, wrong types, wrong order, wrong frames.
//!
//! A session may be closed for what it sends, and a request may be refused; nothing else may happen, and a request
//! whose id can be read is never left without an answer.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Map, Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::mutate::Mutator;
use crate::router::Media;
use crate::{peer, protoo};

/// Frames of one session. The server allows bursts of a few hundred.
const FRAMES: usize = 40;
/// How long the server may take to answer a session's requests, or to close it.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);
/// The largest id that a server must read: what a JavaScript number holds exactly.
const MAX_ID: u64 = (1 << 53) - 1;
/// Deeper nesting than any method needs need not be read, and so not answered.
const MAX_DEPTH: usize = 32;
/// More than any protoo server takes in one frame.
const OVERSIZE: usize = 1_200_000;

/// What became of the attack's sessions.
#[derive(Debug, Default, Clone, serde::Serialize)]
pub struct Outcome {
    /// WebSockets that were opened.
    pub sessions: u64,
    /// Of those, how many the server closed.
    pub closed_by_server: u64,
    /// Frames sent.
    pub frames: u64,
    /// Requests that were granted: not every mutant is wrong.
    pub granted: u64,
    /// Requests that were refused.
    pub refused: u64,
}

/// A request of every method, as a well-behaved client would send it.
pub fn templates() -> Vec<Value> {
    let dtls = json!({ "role": "client", "fingerprints": [{ "algorithm": "sha-256", "value": "00:11:22" }] });
    let video = peer::rtp_parameters(Media::Video, 1_234, 0);
    let transport = "00000000-0000-4000-8000-000000000000";
    let by_consumer = json!({ "consumerId": transport });
    let by_producer = json!({ "producerId": transport });
    let by_transport = json!({ "transportId": transport });
    let layers = json!({ "consumerId": transport, "spatialLayer": 1, "temporalLayer": 1 });
    let device = json!({ "flag": "bench", "name": "bench", "version": "1" });
    let join = json!({ "displayName": "x", "device": device, "rtpCapabilities": peer::capabilities() });
    let produce = json!({ "transportId": transport, "kind": "video", "rtpParameters": video, "appData": {} });
    [
        ("getRouterRtpCapabilities", json!({})),
        ("createWebRtcTransport", json!({ "forceTcp": false, "producing": true, "consuming": false })),
        ("connectWebRtcTransport", json!({ "transportId": transport, "dtlsParameters": dtls })),
        ("join", join),
        ("restartIce", by_transport.clone()),
        ("produce", produce),
        ("produceData", json!({ "transportId": transport, "label": "chat", "protocol": "", "appData": {} })),
        ("closeProducer", by_producer.clone()),
        ("pauseProducer", by_producer.clone()),
        ("resumeProducer", by_producer.clone()),
        ("pauseConsumer", by_consumer.clone()),
        ("resumeConsumer", by_consumer.clone()),
        ("requestConsumerKeyFrame", by_consumer.clone()),
        ("setConsumerPreferredLayers", layers),
        ("setConsumerPriority", json!({ "consumerId": transport, "priority": 2 })),
        ("changeDisplayName", json!({ "displayName": "y" })),
        ("getTransportStats", by_transport),
        ("getProducerStats", by_producer),
        ("getConsumerStats", by_consumer),
        ("applyNetworkThrottle", json!({ "secret": "x", "uplink": 1, "downlink": 1, "rtt": 1 })),
    ]
    .into_iter()
    .map(|(method, data)| json!({ "request": true, "id": 1, "method": method, "data": data }))
    .collect()
}

/// One frame of an attack.
pub fn frame(mutator: &mut Mutator, templates: &[Value]) -> Message {
    let id = u64::from(mutator.number());
    let mut message = mutator.pick(templates).cloned().unwrap_or_default();
    message["id"] = id.into();
    match mutator.below(20) {
        // Requests as they should be, in any order: nothing was made that they name.
        0..=3 => {}
        4..=8 => change_values(mutator, &mut message),
        9 => message["id"] = odd_id(mutator),
        10 => message["method"] = odd_method(mutator),
        11 => message["data"] = odd_value(mutator),
        12 => drop(remove_one(mutator, &mut message)),
        13 => return Message::text(nested(mutator)),
        14 => return Message::binary(mutator.random(0, 300)),
        15 => message = json!({ "notification": true, "method": message["method"], "data": message["data"] }),
        16 => {
            message =
                json!({ "response": true, "id": id, "ok": mutator.below(2) == 0, "data": odd_value(mutator) })
        }
        17 => return Message::binary(message.to_string().into_bytes()),
        _ => {
            let damaged = mutator.mutate(message.to_string().as_bytes());
            return Message::text(String::from_utf8_lossy(&damaged).into_owned());
        }
    }
    Message::text(message.to_string())
}

/// A frame that is longer than any server takes.
pub fn oversize() -> Message {
    let data = json!({ "displayName": "x".repeat(OVERSIZE) });
    Message::text(
        json!({ "request": true, "id": 1, "method": "changeDisplayName", "data": data }).to_string(),
    )
}

fn change_values(mutator: &mut Mutator, message: &mut Value) {
    for _ in 0..=mutator.below(3) {
        let odd = odd_value(mutator);
        put_somewhere(mutator, &mut message["data"], odd);
    }
}

/// Down a random path, to a value of any depth.
fn put_somewhere(mutator: &mut Mutator, place: &mut Value, odd: Value) {
    let stops = mutator.below(4) == 0;
    match place {
        Value::Object(map) if !stops && !map.is_empty() => {
            let at = mutator.below(map.len());
            if let Some(next) = map.values_mut().nth(at) {
                put_somewhere(mutator, next, odd);
            }
        }
        Value::Array(list) if !stops && !list.is_empty() => {
            let at = mutator.below(list.len());
            put_somewhere(mutator, &mut list[at], odd);
        }
        _ => *place = odd,
    }
}

fn remove_one(mutator: &mut Mutator, message: &mut Value) -> Option<Value> {
    let place = if mutator.below(2) == 0 { message } else { message.get_mut("data")? };
    let keys: Vec<String> = place.as_object()?.keys().cloned().collect();
    place.as_object_mut()?.remove(mutator.pick(&keys)?)
}

fn odd_id(mutator: &mut Mutator) -> Value {
    let odd = [
        json!(-1),
        json!(1.5),
        json!(1e300),
        json!(u64::MAX),
        json!("1"),
        json!(null),
        json!([1]),
        json!(MAX_ID),
    ];
    mutator.pick(&odd).cloned().unwrap_or_default()
}

fn odd_method(mutator: &mut Mutator) -> Value {
    let odd = [
        json!("noSuchMethod"),
        json!(""),
        json!("x".repeat(10_000)),
        json!(7),
        json!({}),
        json!("__proto__"),
        json!("join\u{0}"),
        json!("Join"),
    ];
    mutator.pick(&odd).cloned().unwrap_or_default()
}

fn odd_value(mutator: &mut Mutator) -> Value {
    let object: Map<String, Value> = (0..200).map(|i| (i.to_string(), json!(i))).collect();
    let odd = [
        json!(null),
        json!(true),
        json!(-1),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(1e308),
        json!(0.1),
        json!(""),
        json!("\u{0}\u{feff}\u{202e}\u{1f4a3}"),
        json!("x".repeat(5_000)),
        json!([]),
        json!({}),
        json!([[[[[[[[[[[[]]]]]]]]]]]]),
        json!(vec![0; 2_000]),
        Value::Object(object),
        json!("video/VP8"),
        json!(255),
        json!(256),
        json!(65_536),
        json!(4_294_967_296_u64),
    ];
    mutator.pick(&odd).cloned().unwrap_or_default()
}

/// Brackets within brackets: deep enough to exhaust a stack that follows them all.
fn nested(mutator: &mut Mutator) -> String {
    let depth = [33, 130, 1_000, 100_000][mutator.below(4)];
    let (open, close) = if mutator.below(2) == 0 { ("[", "]") } else { (r#"{"a":"#, "}") };
    let open = open.repeat(depth);
    match mutator.below(3) {
        0 => open,
        1 => format!("{open}0{}", close.repeat(depth)),
        _ => format!(r#"{{"request":true,"id":1,"method":"join","data":{open}0{}}}"#, close.repeat(depth)),
    }
}

/// Opens session after session until `end`, and sends what should not be sent.
///
/// # Errors
/// Where the server takes no connection any more, answers what is no protoo, or leaves a request unanswered.
pub async fn attack(websocket_url: &str, seed: u64, end: Instant) -> Result<Outcome> {
    let mut mutator = Mutator::new(seed);
    let templates = templates();
    let mut outcome = Outcome::default();
    while Instant::now() < end {
        let url = format!("{websocket_url}?roomId=hostile-{}&peerId=p{}", mutator.below(3), mutator.below(4));
        session(&url, &mut mutator, &templates, &mut outcome).await?;
    }
    Ok(outcome)
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn open(url: &str) -> Result<Socket> {
    let mut request = url.into_client_request()?;
    request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("protoo"));
    let connect = tokio_tungstenite::connect_async(request);
    let (socket, _) = tokio::time::timeout(ANSWER_DEADLINE, connect)
        .await
        .context("the server does not answer the WebSocket handshake")?
        .context("the server refuses a WebSocket")?;
    Ok(socket)
}

async fn session(url: &str, mutator: &mut Mutator, templates: &[Value], outcome: &mut Outcome) -> Result<()> {
    let mut socket = open(url).await?;
    outcome.sessions += 1;
    let mut unanswered = HashSet::new();
    let oversize_at = if mutator.below(10) == 0 { mutator.below(FRAMES) } else { FRAMES };
    for i in 0..FRAMES {
        let message = if i == oversize_at { oversize() } else { frame(mutator, templates) };
        if let Some(id) = answerable(&message) {
            unanswered.insert(id);
        }
        // A session that was closed for what it sent has got its answer.
        if socket.send(message).await.is_err() {
            break;
        }
        outcome.frames += 1;
    }
    // The last request is one that is always granted: what comes after its answer was not going to come.
    let last = MAX_ID - 1;
    let goodbye = json!({ "request": true, "id": last, "method": "getRouterRtpCapabilities", "data": {} });
    // Where it cannot be sent, the session is closed, as reading will show.
    let _ = socket.send(Message::text(goodbye.to_string())).await;
    unanswered.insert(last);
    let answers = read_answers(&mut socket, &mut unanswered, outcome);
    match tokio::time::timeout(ANSWER_DEADLINE, answers).await {
        Ok(outcome) => outcome,
        Err(_) => bail!("requests {unanswered:?} were neither answered nor was their session closed"),
    }
}

/// Reads until every request is answered or the server has closed the session.
async fn read_answers(
    socket: &mut Socket,
    unanswered: &mut HashSet<u64>,
    outcome: &mut Outcome,
) -> Result<()> {
    while !unanswered.is_empty() {
        let text = match socket.next().await {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Close(_)) | Err(_)) | None => {
                outcome.closed_by_server += 1;
                return Ok(());
            }
            Some(Ok(_)) => continue,
        };
        let value: Value = serde_json::from_str(&text).context("the server sent what is not JSON")?;
        if value["response"] != true {
            continue;
        }
        let id = value["id"].as_u64().context("the server sent a response without an id")?;
        ensure!(value["ok"].is_boolean(), "the server sent a response without ok");
        if value["ok"] == true {
            outcome.granted += 1;
        } else {
            outcome.refused += 1;
        }
        unanswered.remove(&id);
    }
    Ok(())
}

/// The id that the server must answer to, where the frame is a whole request.
fn answerable(message: &Message) -> Option<u64> {
    let Message::Text(text) = message else { return None };
    if text.len() > 100_000 {
        return None;
    }
    let value: Value = serde_json::from_str(text).ok()?;
    if depth(&value) > MAX_DEPTH {
        return None;
    }
    let is_request = value.get("request")? == true && value.get("method")?.is_string();
    value.get("id")?.as_u64().filter(|id| is_request && *id <= MAX_ID)
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Asks for everything that names somebody else's things; returns how many requests were refused.
///
/// # Errors
/// The first that was granted.
pub async fn use_foreign_ids(protoo: &mut protoo::Protoo, theirs: &peer::Held) -> Result<u64> {
    let dtls = json!({ "role": "client", "fingerprints": [{ "algorithm": "sha-256", "value": vec!["AB"; 32].join(":") }] });
    let mut requests = Vec::new();
    for id in &theirs.transports {
        let video = peer::rtp_parameters(Media::Video, 77_000, 9);
        requests.push(("connectWebRtcTransport", json!({ "transportId": id, "dtlsParameters": dtls })));
        requests.push(("restartIce", json!({ "transportId": id })));
        requests.push(("getTransportStats", json!({ "transportId": id })));
        requests.push((
            "produce",
            json!({ "transportId": id, "kind": "video", "rtpParameters": video, "appData": {} }),
        ));
    }
    for id in &theirs.producers {
        for method in ["pauseProducer", "resumeProducer", "getProducerStats", "closeProducer"] {
            requests.push((method, json!({ "producerId": id })));
        }
    }
    for id in &theirs.consumers {
        for method in ["pauseConsumer", "resumeConsumer", "requestConsumerKeyFrame", "getConsumerStats"] {
            requests.push((method, json!({ "consumerId": id })));
        }
        requests.push((
            "setConsumerPreferredLayers",
            json!({ "consumerId": id, "spatialLayer": 0, "temporalLayer": 0 }),
        ));
        requests.push(("setConsumerPriority", json!({ "consumerId": id, "priority": 1 })));
    }
    let mut refused = 0;
    for (method, data) in requests {
        ensure!(
            protoo.request(method, data.clone()).await.is_err(),
            "{method} was granted with somebody else's {data}"
        );
        refused += 1;
    }
    // Still a session: it was refused, not cut off.
    protoo.request("getRouterRtpCapabilities", json!({})).await.context("after being refused")?;
    Ok(refused)
}

/// What comes at the wrong time: before joining, or for the second time.
///
/// # Errors
/// The first that was granted.
pub async fn use_wrong_order(websocket_url: &str) -> Result<u64> {
    let url = format!("{websocket_url}?roomId=hostile-order&peerId=early");
    let (mut protoo, _incoming) = protoo::Protoo::connect(&url).await?;
    let mut refused = 0;
    for message in templates() {
        let method = message["method"].as_str().unwrap_or_default();
        if matches!(method, "getRouterRtpCapabilities" | "createWebRtcTransport" | "join") {
            continue;
        }
        let answer = protoo.request(method, message["data"].clone()).await;
        ensure!(answer.is_err(), "{method} was granted before anything was made");
        refused += 1;
    }
    let device = json!({ "flag": "bench", "name": "bench", "version": "1" });
    let join = json!({ "displayName": "early", "device": device, "rtpCapabilities": peer::capabilities() });
    protoo.request("join", join.clone()).await.context("a first join after all that")?;
    ensure!(protoo.request("join", join).await.is_err(), "a second join was granted");
    protoo.close().await;
    Ok(refused + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_of_every_kind_and_repeat_with_their_seed() {
        let frames = |seed| -> Vec<Message> {
            let mut mutator = Mutator::new(seed);
            (0..500).map(|_| frame(&mut mutator, &templates())).collect()
        };
        let once = frames(1);
        assert_eq!(once, frames(1));
        let count = |accept: fn(&&Message) -> bool| once.iter().filter(accept).count();
        assert!(count(|m| m.is_binary()) > 10 && count(|m| answerable(m).is_some()) > 100);
        assert!(count(|m| m.to_text().is_ok_and(|t| t.contains("[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["))) > 1);
        assert!(oversize().len() > 960_000);
    }
}
