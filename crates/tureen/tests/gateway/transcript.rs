//! Golden transcripts: what clients of each dialect send and are sent, frame by frame, replayed against a real server with
//! a real worker. A line begins with the client's name and a sign:
//!
//! - `ann + PATH` connects, `ann -` hangs up, `ann x CODE` is hung up on by the server;
//! - `ann > FRAME` says this;
//! - `ann < FRAME` is told this next. What differs from run to run stands in braces, numbered by first appearance.
//!
//! News that come by themselves, at their own time, are passed over unless they are waited for. With
//! `TUREEN_TEST_RENEW_TRANSCRIPTS=1` what was told is written into the files, and a person reads the difference.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Map, Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::server::Server;

const DEADLINE: Duration = Duration::from_secs(20);
const RENEW: &str = "TUREEN_TEST_RENEW_TRANSCRIPTS";
/// News that come when the worker has them.
const BY_THEMSELVES: [&str; 5] =
    ["consumerScore", "producerScore", "downlinkBwe", "activeSpeaker", "speakingPeers"];
/// Fields whose value is a random text, and its name in a transcript.
const RANDOM_TEXTS: [(&str, &str); 4] =
    [("usernameFragment", "ufrag"), ("password", "pwd"), ("cname", "cname"), ("value", "fingerprint")];
/// The same for numbers.
const RANDOM_NUMBERS: [(&str, &str); 2] = [("ssrc", "ssrc"), ("port", "port")];

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Replays one file; with the variable set, writes it anew.
pub(crate) async fn replay(name: &str) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts").join(format!("{name}.txt"));
    let script = std::fs::read_to_string(&path).with_context(|| format!("no {}", path.display()))?;
    let renew = std::env::var_os(RENEW).is_some();
    let server = Server::start(&[], &[("TUREEN_LIMITS__ROOM__LINGER_MS", "50")]).await?;
    let mut stage = Stage { server: &server, sockets: HashMap::new(), names: Names::default() };
    let mut renewed = String::new();
    let mut differences = String::new();
    for (at, line) in script.lines().enumerate() {
        let place = format!("{}:{}", path.file_name().unwrap_or_default().to_string_lossy(), at + 1);
        let told = stage.play(line).await.with_context(|| format!("{place}: {line:.120}"))?;
        let Some(told) = told else {
            renewed.push_str(line);
            renewed.push('\n');
            continue;
        };
        let (client, _, expected) = words(line);
        writeln!(renewed, "{client} < {told}")?;
        let expected: Value = serde_json::from_str(expected).unwrap_or_else(|_| json!(expected));
        let mut all = Vec::new();
        difference("", &expected, &told, &mut all);
        if !all.is_empty() {
            writeln!(differences, "{place}: {client} was told something else:\n    {}", all.join("\n    "))?;
        }
    }
    stage.rest().await?;
    if renew {
        return Ok(std::fs::write(PathBuf::from(&path), renewed)?);
    }
    ensure!(
        differences.is_empty(),
        "\n{differences}If it is meant so: {RENEW}=1, and look at the difference."
    );
    Ok(())
}

fn words(line: &str) -> (&str, &str, &str) {
    let (client, rest) = line.split_once(' ').unwrap_or((line, ""));
    let (sign, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    (client, sign, rest)
}

struct Stage<'a> {
    server: &'a Server,
    sockets: HashMap<String, Socket>,
    names: Names,
}

impl Stage<'_> {
    /// Does what a line says. What a client was told, where the line says that it is told something.
    async fn play(&mut self, line: &str) -> Result<Option<Value>> {
        if line.is_empty() || line.starts_with('#') {
            return Ok(None);
        }
        let (client, sign, rest) = words(line);
        match sign {
            "+" => {
                let mut request = format!("ws://{}{rest}", self.server.authority).into_client_request()?;
                let protocol = HeaderValue::from_static("protoo");
                request.headers_mut().insert("Sec-WebSocket-Protocol", protocol);
                self.sockets.insert(client.to_owned(), connect_async(request).await?.0);
            }
            "-" => {
                self.sockets.remove(client).context("not connected")?.close(None).await?;
            }
            "x" => {
                let code = self.next(client, None).await?;
                ensure!(code == Next::Closed(rest.parse()?), "instead of {rest}: {code:?}");
                self.sockets.remove(client);
            }
            ">" => {
                let frame: Value = serde_json::from_str(rest).context("not JSON")?;
                let text = self.names.spelt_out(frame)?.to_string();
                self.socket(client)?.send(Message::text(text)).await?;
            }
            "<" => {
                // A short line of a new script names the method only, or is `response`.
                let expected: Value =
                    serde_json::from_str(rest).unwrap_or_else(|_| json!({ "method": rest }));
                match self.next(client, expected.get("method").and_then(Value::as_str)).await? {
                    Next::Frame(frame) => return Ok(Some(frame)),
                    Next::Closed(code) => bail!("hung up with {code}"),
                }
            }
            _ => bail!("no line of a transcript"),
        }
        Ok(None)
    }

    fn socket(&mut self, client: &str) -> Result<&mut Socket> {
        self.sockets.get_mut(client).context("not connected")
    }

    /// What comes next, but for news that come by themselves and are not `wanted`.
    async fn next(&mut self, client: &str, wanted: Option<&str>) -> Result<Next> {
        loop {
            let message = tokio::time::timeout(DEADLINE, self.socket(client)?.next()).await;
            let frame: Value =
                match message.context("nothing in time")?.context("ended without a close frame")?? {
                    Message::Text(text) => serde_json::from_str(text.as_str())?,
                    Message::Close(frame) => {
                        return Ok(Next::Closed(frame.map_or(1005, |frame| frame.code.into())));
                    }
                    _ => continue,
                };
            let method = frame.get("method").and_then(Value::as_str).unwrap_or_default();
            if BY_THEMSELVES.contains(&method) && wanted != Some(method) {
                continue;
            }
            return Ok(Next::Frame(self.names.anonymous(frame)));
        }
    }

    /// Nobody was told more than the script says: the answer to a last question comes next for everyone.
    async fn rest(&mut self) -> Result<()> {
        let clients: Vec<String> = self.sockets.keys().cloned().collect();
        for client in clients {
            // The room itself answers, after all that it had to say.
            let data = json!({ "consumerId": "none" });
            let last = json!({ "request": true, "id": 9_999_999, "method": "pauseConsumer", "data": data });
            self.socket(&client)?.send(Message::text(last.to_string())).await?;
            let next = self.next(&client, None).await?;
            let answered = matches!(&next, Next::Frame(frame) if frame["id"] == json!(9_999_999));
            ensure!(answered, "{client} was told more than the script says: {next:?}");
        }
        Ok(())
    }
}

#[derive(Debug, PartialEq)]
enum Next {
    Frame(Value),
    Closed(u16),
}

/// What differs from run to run, by its name in the transcript.
#[derive(Default)]
struct Names {
    by_value: HashMap<String, String>,
    by_name: HashMap<String, Value>,
    /// What clients said themselves is the same in every run.
    said: Vec<Value>,
    counts: HashMap<&'static str, usize>,
}

impl Names {
    fn name(&mut self, kind: &'static str, value: &Value) -> Value {
        if self.said.contains(value) {
            return value.clone();
        }
        let key = format!("{kind} {value}");
        if let Some(name) = self.by_value.get(&key) {
            return json!(name);
        }
        let count = self.counts.entry(kind).or_default();
        *count += 1;
        let name = format!("{{{kind} {count}}}");
        self.by_value.insert(key, name.clone());
        self.by_name.insert(name.clone(), value.clone());
        json!(name)
    }

    /// A frame of the server with names in place of what differs.
    fn anonymous(&mut self, mut frame: Value) -> Value {
        let asks = frame["request"] == json!(true);
        if asks {
            frame["id"] = self.name("ask", &frame["id"].clone());
        }
        if frame["response"] == json!(true) && is_stats(&frame["data"]) {
            frame["data"] = shape(&frame["data"]);
            return frame;
        }
        self.walk("", frame)
    }

    fn walk(&mut self, key: &str, value: Value) -> Value {
        match value {
            Value::Object(fields) => {
                let walked = fields.into_iter().map(|(key, value)| {
                    let value = self.walk(&key, value);
                    (key, value)
                });
                Value::Object(walked.collect::<Map<_, _>>())
            }
            Value::Array(values) => values.into_iter().map(|value| self.walk(key, value)).collect(),
            Value::Number(_) => match RANDOM_NUMBERS.iter().find(|(field, _)| *field == key) {
                Some((_, kind)) => self.name(kind, &value),
                None => value,
            },
            Value::String(ref text) => match RANDOM_TEXTS.iter().find(|(field, _)| *field == key) {
                Some((_, kind)) => self.name(kind, &value),
                None if is_uuid(text) => self.name("id", &value),
                None => json!(self.without_ids(text)),
            },
            other => other,
        }
    }

    /// A sentence with names in place of the ids in it.
    fn without_ids(&mut self, text: &str) -> String {
        let mut without = text.to_owned();
        let mut at = 0;
        while let Some(window) = without.get(at..at + 36) {
            if is_uuid(window) {
                let name = self.name("id", &json!(window));
                without.replace_range(at..at + 36, name.as_str().unwrap_or_default());
            }
            at += 1;
            while at < without.len() && !without.is_char_boundary(at) {
                at += 1;
            }
        }
        without
    }

    /// A frame of a client with the values of this run in place of their names.
    fn spelt_out(&mut self, value: Value) -> Result<Value> {
        Ok(match value {
            Value::Object(fields) => {
                let fields = fields.into_iter().map(|(key, value)| Ok((key, self.spelt_out(value)?)));
                Value::Object(fields.collect::<Result<Map<_, _>>>()?)
            }
            Value::Array(values) => {
                Value::Array(values.into_iter().map(|value| self.spelt_out(value)).collect::<Result<_>>()?)
            }
            Value::String(text) if text.starts_with('{') && text.ends_with('}') && !text.contains('"') => {
                let known = self.by_name.get(&text).cloned();
                match known {
                    Some(value) => value,
                    None if text == "{}" => json!(text),
                    None => bail!("nothing was called {text} yet"),
                }
            }
            other => {
                self.said.push(other.clone());
                other
            }
        })
    }
}

fn is_uuid(text: &str) -> bool {
    let dashes = [8, 13, 18, 23];
    text.len() == 36
        && text
            .bytes()
            .enumerate()
            .all(|(at, byte)| if dashes.contains(&at) { byte == b'-' } else { byte.is_ascii_hexdigit() })
}

/// An array of statistics, bare or wrapped.
fn is_stats(data: &Value) -> bool {
    let list = data.get("stats").unwrap_or(data).as_array();
    list.is_some_and(|list| list.iter().all(|entry| entry.get("timestamp").is_some()))
}

/// Of statistics only which fields there are, and of which kind: the first of a list stands for all.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields.iter().map(|(key, value)| (key.clone(), shape(value))).collect(),
        Value::Array(values) => values.iter().take(1).map(shape).collect(),
        Value::Number(_) => json!("{number}"),
        Value::String(_) => json!("{text}"),
        other => other.clone(),
    }
}

/// Where two values differ, a line each.
fn difference(path: &str, expected: &Value, actual: &Value, all: &mut Vec<String>) {
    match (expected, actual) {
        (Value::Object(expected), Value::Object(actual)) => {
            for (key, value) in expected {
                match actual.get(key) {
                    Some(actual) => difference(&format!("{path}.{key}"), value, actual, all),
                    None => all.push(format!("{path}.{key}: {value} is missing")),
                }
            }
            for (key, value) in actual.iter().filter(|(key, _)| !expected.contains_key(*key)) {
                all.push(format!("{path}.{key}: {value} is new"));
            }
        }
        (Value::Array(expected), Value::Array(actual)) if expected.len() == actual.len() => {
            for (at, (expected, actual)) in expected.iter().zip(actual).enumerate() {
                difference(&format!("{path}[{at}]"), expected, actual, all);
            }
        }
        _ if expected == actual => {}
        _ => all.push(format!("{path}: {actual} instead of {expected}")),
    }
}

#[test]
fn a_difference_names_its_place() {
    let mut all = Vec::new();
    let (expected, actual) =
        (json!({ "a": [1, { "b": 2 }], "c": 3 }), json!({ "a": [1, { "b": 4 }], "d": 5 }));
    difference("", &expected, &actual, &mut all);
    assert_eq!(all, [".a[1].b: 4 instead of 2", ".c: 3 is missing", ".d: 5 is new"]);
}
