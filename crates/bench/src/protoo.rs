//! A protoo client (WebSocket subprotocol `protoo`, one JSON text a frame), just as much as a synthetic peer needs.
//!
//! Requests are answered through a map of pending ids; what the server asks or tells arrives in one queue.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::line::Line;

/// How long the server may take to answer a request.
const REQUEST_DEADLINE: Duration = Duration::from_secs(15);

pub(crate) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;
pub(crate) type Pending = Arc<Mutex<HashMap<u32, oneshot::Sender<Result<Value, ProtooError>>>>>;

/// A server's refusal of a request.
#[derive(Debug, Clone)]
pub struct ProtooError {
    /// protoo's `errorCode`.
    pub code: i64,
    /// protoo's `errorReason`.
    pub reason: String,
}

/// What the server sends of its own accord.
#[derive(Debug)]
pub enum Incoming {
    /// A request, to be answered with [`Protoo::accept`] or [`Protoo::reject`].
    Request {
        /// The id to answer.
        id: u32,
        /// The method.
        method: String,
        /// Its data.
        data: Value,
    },
    /// A notification.
    Notification {
        /// The method.
        method: String,
        /// Its data.
        data: Value,
    },
    /// The WebSocket is closed; nothing follows. The close code, where one was given.
    Closed(Option<u16>),
}

/// One protoo session. Dropping it closes the TCP connection without a close frame.
#[derive(Debug)]
pub struct Protoo {
    asker: Asker,
    tasks: Vec<JoinHandle<()>>,
    resumed: Arc<AtomicU32>,
}

impl Protoo {
    /// Opens a session: `url` is the server's WebSocket URL with `roomId` and `peerId` in its query.
    ///
    /// # Errors
    /// Where the server is away or refuses the handshake.
    pub async fn connect(url: &str) -> Result<(Self, mpsc::Receiver<Incoming>)> {
        let (sink, stream) = open(url).await?.split();
        let (asker, outgoing_queue, incoming_queue, incoming) = queues();
        let tasks = vec![
            tokio::spawn(write(sink, outgoing_queue)),
            tokio::spawn(read(stream, Arc::clone(&asker.pending), incoming_queue)),
        ];
        Ok((Self { asker, tasks, resumed: Arc::default() }, incoming))
    }

    /// Opens a session that outlives its connection, as the call page's does (docs/clients.md): [`Incoming::Closed`] comes when the
    /// session is over, and not when a connection breaks that can be made anew. Requests wait meanwhile.
    ///
    /// # Errors
    /// Where the server is away or refuses the handshake.
    pub async fn connect_resumable(url: &str) -> Result<(Self, mpsc::Receiver<Incoming>)> {
        let socket = open(&format!("{url}&resumable=1")).await?;
        let (asker, outgoing, incoming_queue, incoming) = queues();
        let resumed = Arc::default();
        let line =
            Line::new(url.to_owned(), Arc::clone(&asker.pending), incoming_queue, Arc::clone(&resumed));
        let tasks = vec![tokio::spawn(line.run(socket, outgoing))];
        Ok((Self { asker, tasks, resumed }, incoming))
    }

    /// How often the session went on over another connection.
    pub fn resumed(&self) -> u32 {
        self.resumed.load(Ordering::Relaxed)
    }

    /// A handle that asks from another task.
    pub fn asker(&self) -> Asker {
        self.asker.clone()
    }

    /// Sends a request and waits for its answer's data.
    ///
    /// # Errors
    /// The server's refusal, a closed connection, or no answer within 15 s.
    pub async fn request(&mut self, method: &str, data: Value) -> Result<Value> {
        self.asker.request(method, data).await
    }

    /// Answers a server's request.
    ///
    /// # Errors
    /// Where the connection is closed.
    pub async fn accept(&self, id: u32, data: Value) -> Result<()> {
        self.send(json!({ "response": true, "id": id, "ok": true, "data": data })).await
    }

    /// A handle that answers from another task.
    pub fn answers(&self) -> Answers {
        Answers(self.asker.outgoing.clone())
    }

    /// Refuses a server's request.
    ///
    /// # Errors
    /// Where the connection is closed.
    pub async fn reject(&self, id: u32, code: i64, reason: &str) -> Result<()> {
        self.send(
            json!({ "response": true, "id": id, "ok": false, "errorCode": code, "errorReason": reason }),
        )
        .await
    }

    /// Sends any text frame as it is: for hostile tests only.
    ///
    /// # Errors
    /// Where the connection is closed.
    pub async fn send_text(&self, text: String) -> Result<()> {
        self.asker.send(text).await
    }

    /// Says goodbye: a close frame with code 1000, then waits until both directions are done.
    pub async fn close(mut self) {
        // A connection that is gone already needs no goodbye.
        let _ = self.asker.outgoing.send(Message::Close(None)).await;
        let ended = futures_util::future::join_all(&mut self.tasks);
        let _ = tokio::time::timeout(REQUEST_DEADLINE, ended).await;
    }

    async fn send(&self, message: Value) -> Result<()> {
        self.send_text(message.to_string()).await
    }
}

/// Asks the server.
#[derive(Debug, Clone)]
pub struct Asker {
    outgoing: mpsc::Sender<Message>,
    pending: Pending,
    next_id: Arc<AtomicU32>,
}

impl Asker {
    /// As [`Protoo::request`].
    ///
    /// # Errors
    /// As there.
    pub async fn request(&self, method: &str, data: Value) -> Result<Value> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (answer_sender, answer) = oneshot::channel();
        self.lock_pending().insert(id, answer_sender);
        let text = json!({ "request": true, "id": id, "method": method, "data": data }).to_string();
        self.send(text).await?;
        match tokio::time::timeout(REQUEST_DEADLINE, answer).await {
            Ok(Ok(Ok(data))) => Ok(data),
            Ok(Ok(Err(error))) => Err(anyhow!("{method} refused with {}: {}", error.code, error.reason)),
            Ok(Err(_)) => bail!("the connection closed before {method} was answered"),
            Err(_) => {
                self.lock_pending().remove(&id);
                bail!("{method} was not answered within {REQUEST_DEADLINE:?}")
            }
        }
    }

    async fn send(&self, text: String) -> Result<()> {
        self.outgoing.send(Message::text(text)).await.map_err(|_| anyhow!("the connection is closed"))
    }

    fn lock_pending(
        &self,
    ) -> std::sync::MutexGuard<'_, HashMap<u32, oneshot::Sender<Result<Value, ProtooError>>>> {
        self.pending.lock().expect("no one panics while holding this lock")
    }
}

/// Both queues are bounded: a peer that is not served makes its own socket back up, no one's memory.
fn queues() -> (Asker, mpsc::Receiver<Message>, mpsc::Sender<Incoming>, mpsc::Receiver<Incoming>) {
    let (outgoing, outgoing_queue) = mpsc::channel(64);
    let (incoming_queue, incoming) = mpsc::channel(1024);
    let asker = Asker { outgoing, pending: Pending::default(), next_id: Arc::new(AtomicU32::new(1)) };
    (asker, outgoing_queue, incoming_queue, incoming)
}

/// The WebSocket of a session.
pub(crate) async fn open(url: &str) -> Result<Socket> {
    let mut request = url.into_client_request().with_context(|| format!("{url} is no WebSocket URL"))?;
    request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("protoo"));
    let connected = tokio_tungstenite::connect_async(request).await;
    Ok(connected.with_context(|| format!("cannot connect to {url}"))?.0)
}

/// Sends answers from the task that reads what the server asks.
#[derive(Debug, Clone)]
pub struct Answers(mpsc::Sender<Message>);

impl Answers {
    /// Accepts a request with empty data. A closed session needs no answer.
    pub async fn accept(&self, id: u32) {
        let text = json!({ "response": true, "id": id, "ok": true, "data": {} }).to_string();
        let _ = self.0.send(Message::text(text)).await;
    }
}

impl Drop for Protoo {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn write(mut sink: SplitSink<Socket, Message>, mut queue: mpsc::Receiver<Message>) {
    while let Some(message) = queue.recv().await {
        let last = message.is_close();
        if sink.send(message).await.is_err() || last {
            return;
        }
    }
}

async fn read(mut stream: SplitStream<Socket>, pending: Pending, incoming: mpsc::Sender<Incoming>) {
    let mut code = None;
    while let Some(Ok(message)) = stream.next().await {
        match message {
            Message::Text(text) => {
                let Ok(value) = serde_json::from_str::<Value>(&text) else { break };
                if let Some(event) = sort(value, &pending)
                    && incoming.send(event).await.is_err()
                {
                    break;
                }
            }
            // Pings are answered by the library itself.
            Message::Close(frame) => code = frame.map(|f| u16::from(f.code)),
            _ => {}
        }
    }
    // Waiting requests learn it by their dropped senders; a receiver that is gone needs no telling.
    pending.lock().expect("no one panics while holding this lock").clear();
    let _ = incoming.send(Incoming::Closed(code)).await;
}

/// Hands a response to whoever waits for it; anything else becomes an [`Incoming`].
pub(crate) fn sort(mut value: Value, pending: &Pending) -> Option<Incoming> {
    let flag = |name: &str| value.get(name).and_then(Value::as_bool).unwrap_or(false);
    let id = value.get("id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    if flag("response") {
        let waiting = pending.lock().expect("no one panics while holding this lock").remove(&id?)?;
        let answer = if flag("ok") {
            Ok(value["data"].take())
        } else {
            let code = value.get("errorCode").and_then(Value::as_i64).unwrap_or(500);
            Err(ProtooError { code, reason: text("errorReason") })
        };
        let _ = waiting.send(answer); // The asker may have given up.
        return None;
    }
    let method = text("method");
    if flag("request") {
        return Some(Incoming::Request { id: id?, method, data: value["data"].take() });
    }
    flag("notification").then(|| Incoming::Notification { method, data: value["data"].take() })
}
