//! One client's WebSocket: reads its frames within limits, writes what the room says, notices when it is gone.
//!
//! The task owns the session: when it ends, for whatever reason, the peer has left its room. Only who can come back, and
//! did not say goodbye, keeps its place there for a while.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use host::{FromClient, Loss, NotResumed, Resumed, Session, SessionGone, ToClient};
use node::{Entered, Messages};
use rand::RngExt;
use room::{AskId, Reply, Request, RequestId, close_code};
use serde_json::{Value, json};
use tracing::debug;

use crate::address::AddressPlace;
use crate::codec::{self, CodecError, Frame};
use crate::dialect::{self, Dialect};
use crate::limits::{Bucket, GatewayLimits};

/// How long the network may take to accept what is written. A client that stalls longer is gone.
const SEND_DEADLINE: Duration = Duration::from_secs(10);
/// Messages written per flush.
const WRITE_BATCH: usize = 64;
/// The first question's id is drawn below this.
const FIRST_ASKS: u64 = 1 << 31;
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_secs(1);

/// Why a connection ended.
#[derive(Debug)]
enum End {
    /// The client closed it.
    Left,
    /// The network did.
    Gone,
    /// Nothing came from the client, or nothing could be sent to it.
    Silent,
    /// We close it.
    Close { code: u16, reason: Cow<'static, str> },
    /// The room has ended the session. Why is among what it said, which may not be read yet.
    Room,
}

impl From<SessionGone> for End {
    fn from(_: SessionGone) -> Self {
        Self::Room
    }
}

/// What is known of a client before it says anything.
pub(crate) struct Client {
    pub(crate) limits: Arc<GatewayLimits>,
    /// The peer's name by its token.
    pub(crate) name: Option<String>,
    pub(crate) dialect: Dialect,
    /// Of a client that can come back.
    pub(crate) line: Option<Line>,
}

/// What a client needs to come back to its session, and where it is in it. The room numbers what it says; since all of it
/// passes here in order, counting gives the same numbers.
pub(crate) struct Line {
    token: Option<String>,
    /// The number of the last message.
    last: u64,
    resumed: Option<Resumed>,
}

impl Line {
    /// The parts of a session whose client has all messages up to `received`.
    pub(crate) fn new(entered: Entered, received: u64) -> (Session, Messages, Option<Self>) {
        let Entered { session, messages, token, resumed } = entered;
        (session, messages, Some(Self { token, last: received, resumed }))
    }
}

struct Connection {
    session: Session,
    name: Option<String>,
    limits: Arc<GatewayLimits>,
    dialect: Dialect,
    line: Option<Line>,
    bucket: Bucket,
    /// What is borne of a client beyond its rate and of answers that nobody asked for.
    patience: Bucket,
    malformed: u32,
    last_request: u64,
    requests: HashMap<RequestId, Waiting>,
    last_ask: u64,
    asks: HashMap<u64, (AskId, Instant)>,
    last_seen: Instant,
    last_ping: Instant,
    /// Until when the client must have joined; `None` once it has.
    join_by: Option<Instant>,
    out: Vec<Message>,
}

/// A client's request that the room has not answered yet.
struct Waiting {
    /// `None` for a notification: nobody waits for the answer.
    id: Option<u64>,
    since: Instant,
}

/// Serves one client until it is over.
pub(crate) async fn run(
    socket: WebSocket,
    id: u64,
    session: Session,
    mut messages: Messages,
    client: Client,
    place: AddressPlace,
) {
    let (mut sink, mut stream) = socket.split();
    let mut connection = Connection::new(session, client, Instant::now());
    let end = connection.serve(&mut sink, &mut stream, &mut messages).await;
    debug!(connection = id, ?end, "session ended");
    let why = match &end {
        End::Left => "left",
        End::Gone => "gone",
        End::Silent => "silent",
        End::Close { .. } | End::Room => "closed",
    };
    metrics::counter!("tureen_signaling_sessions_ended_total", "why" => why).increment(1);
    // The room is told before the goodbye is written: a client that does not read holds nothing.
    connection.leave(&end, &mut messages).await;
    drop(place);
    if let End::Close { code, reason } = end {
        let frame = Message::Close(Some(CloseFrame { code, reason: reason.as_ref().into() }));
        let goodbye = async {
            // Written, then the client's own close frame awaited, so that the code is not lost in a reset.
            if sink.send(frame).await.is_ok() {
                while let Some(Ok(_)) = stream.next().await {}
            }
        };
        let _ = tokio::time::timeout(TICK, goodbye).await;
    }
}

/// Tells a client that it cannot have its session back: it connects again without asking for it.
pub(crate) async fn not_resumed(socket: WebSocket, why: NotResumed) {
    let (mut sink, mut stream) = socket.split();
    let frame = CloseFrame { code: close_code::NOT_RESUMED, reason: why.to_string().into() };
    let goodbye = async {
        if sink.send(Message::Close(Some(frame))).await.is_ok() {
            while let Some(Ok(_)) = stream.next().await {}
        }
    };
    let _ = tokio::time::timeout(TICK, goodbye).await;
}

impl Connection {
    fn new(session: Session, client: Client, now: Instant) -> Self {
        let Client { limits, name, dialect, mut line } = client;
        let resumed = line.as_mut().and_then(|line| line.resumed.take());
        let mut connection = Self {
            session,
            name,
            bucket: Bucket::new(&limits, now),
            patience: Bucket::new(&limits, now),
            join_by: limits.join_timeout().and_then(|timeout| now.checked_add(timeout)),
            limits,
            dialect,
            line,
            malformed: 0,
            last_request: 0,
            requests: HashMap::new(),
            // protoo's clients may send answers to an older connection's questions over this one: those must fit none.
            last_ask: rand::rng().random_range(0..FIRST_ASKS),
            asks: HashMap::new(),
            last_seen: now,
            last_ping: now,
            out: Vec::new(),
        };
        if let Some(resumed) = resumed {
            connection.resumed(resumed, now);
        }
        connection
    }

    /// The client is back: it is told which of its answers were not heard, and then what it missed.
    fn resumed(&mut self, Resumed { joined, asks }: Resumed, now: Instant) {
        if joined {
            self.join_by = None;
        }
        let due = now + self.limits.request_timeout();
        let open: Vec<_> = asks.iter().map(|ask| ask.0).collect();
        self.asks.extend(asks.into_iter().map(|ask| (ask.0, (ask, due))));
        self.say(codec::notification("resumed", &json!({ "asks": open })));
    }

    /// The end of the session, or of this connection to it.
    async fn leave(self, end: &End, messages: &mut Messages) {
        // Who goes to the room's new owner takes its media along there before it lets go of it here.
        let is_away = matches!(end, End::Gone | End::Silent | End::Close { code: close_code::MOVED, .. });
        if self.line.is_none() || is_away {
            return;
        }
        let left = async {
            self.session.leave().await;
            let mut rest = Vec::new();
            while messages.recv_many(&mut rest, WRITE_BATCH).await > 0 {
                rest.clear();
            }
        };
        // Unheard, it is away, and has left when its time is over.
        let _ = tokio::time::timeout(TICK, left).await;
    }

    async fn serve(
        &mut self,
        sink: &mut SplitSink<WebSocket, Message>,
        stream: &mut SplitStream<WebSocket>,
        messages: &mut Messages,
    ) -> End {
        let mut tick = tokio::time::interval(TICK.min(self.limits.ping_interval()));
        let mut batch = Vec::with_capacity(WRITE_BATCH);
        loop {
            let step = tokio::select! {
                frame = stream.next() => self.incoming(frame).await,
                count = messages.recv_many(&mut batch, WRITE_BATCH) => {
                    self.outgoing(&mut batch, count)
                }
                _ = tick.tick() => self.tick(Instant::now()).await,
            };
            // What was said before the end is still written.
            let written = self.write(sink).await;
            match step.and(written) {
                Ok(()) => {}
                Err(End::Room) => return self.last_words(sink, messages).await,
                Err(End::Gone) => return Self::gone(stream).await,
                Err(end) => return end,
            }
        }
    }

    /// A connection that broke while something was written: before that the client may have said goodbye, which is not read yet.
    async fn gone(stream: &mut SplitStream<WebSocket>) -> End {
        let by = tokio::time::Instant::now() + TICK;
        while let Ok(Some(Ok(message))) = tokio::time::timeout_at(by, stream.next()).await {
            if matches!(message, Message::Close(_)) {
                return End::Left;
            }
        }
        End::Gone
    }

    /// Why the room has ended the session: clients do different things about a room that has moved and one that is no more.
    async fn last_words(&mut self, sink: &mut SplitSink<WebSocket, Message>, messages: &mut Messages) -> End {
        let by = tokio::time::Instant::now() + TICK;
        let mut batch = Vec::with_capacity(WRITE_BATCH);
        while let Ok(count @ 1..) =
            tokio::time::timeout_at(by, messages.recv_many(&mut batch, WRITE_BATCH)).await
        {
            let step = self.outgoing(&mut batch, count);
            let written = self.write(sink).await;
            if let Err(end) = step.and(written) {
                return end;
            }
        }
        End::Close { code: close_code::SHUTDOWN, reason: "the room has ended".into() }
    }

    async fn write(&mut self, sink: &mut SplitSink<WebSocket, Message>) -> Result<(), End> {
        if self.out.is_empty() {
            return Ok(());
        }
        let messages = std::mem::take(&mut self.out);
        let send = async {
            for message in messages {
                sink.feed(message).await?;
            }
            sink.flush().await
        };
        match tokio::time::timeout(SEND_DEADLINE, send).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => Err(End::Silent),
        }
    }

    async fn incoming(&mut self, frame: Option<Result<Message, axum::Error>>) -> Result<(), End> {
        let Some(Ok(message)) = frame else { return Err(End::Gone) };
        let now = Instant::now();
        self.last_seen = now;
        match message {
            Message::Text(text) => match codec::parse(text.as_str()) {
                Ok(Frame::Response { id, result }) => match self.asks.remove(&id) {
                    Some((ask, _)) => Ok(self.session.answer(ask, result.is_ok()).await?),
                    None => {
                        count("unknown_answer");
                        self.bear(now)
                    }
                },
                Ok(Frame::Request { id, method, data }) => self.request(Some(id), &method, data, now).await,
                Ok(Frame::Notification { method, data }) => self.request(None, &method, data, now).await,
                Err(error) => self.malformed(&error),
            },
            Message::Binary(_) => {
                self.malformed(&CodecError::Shape { what: "protoo frames are text", id: None })
            }
            Message::Ping(_) | Message::Pong(_) => Ok(()),
            Message::Close(_) => Err(End::Left),
        }
    }

    async fn request(&mut self, id: Option<u64>, method: &str, data: Value, now: Instant) -> Result<(), End> {
        if !self.bucket.take(now) {
            count("rate_limited");
            self.refuse(id, 429, "too many messages: slow down");
            return self.bear(now);
        }
        if self.requests.len() >= self.limits.requests_in_flight {
            count("too_many_in_flight");
            self.refuse(id, 429, "too many requests without an answer: wait for some");
            return Ok(());
        }
        if let (Some(id), Some(answer)) = (id, dialect::answer_without_room(method)) {
            self.say(codec::response(id, &answer));
            return Ok(());
        }
        if id.is_none() && method == "received" && self.line.is_some() {
            if let Some(up_to) = data.get("seq").and_then(Value::as_u64) {
                self.session.say(FromClient::Received(up_to)).await?;
            }
            return Ok(());
        }
        if id.is_none() {
            self.dialect.learn(Dialect::TypeScript);
        }
        match dialect::parse_request(method, data, &mut self.dialect) {
            Ok(mut message) => {
                if let (
                    Some(name),
                    Request::Join { display_name: said, .. } | Request::ChangeDisplayName(said),
                ) = (&self.name, &mut message)
                {
                    said.clone_from(name);
                }
                self.last_request += 1;
                let request = match id {
                    // Its own number, by which the room knows a request that is repeated.
                    Some(id) if self.line.is_some() => RequestId(id),
                    None if self.line.is_some() => RequestId::unanswered(self.last_request),
                    _ => RequestId(self.last_request),
                };
                self.requests.insert(request, Waiting { id, since: now });
                self.session.request(request, message).await?;
            }
            Err(error) => {
                count("bad_request");
                self.refuse(id, error.code, &error.reason);
            }
        }
        Ok(())
    }

    /// Bears with one more message that should not have come, or no longer.
    fn bear(&mut self, now: Instant) -> Result<(), End> {
        if self.patience.take(now) {
            return Ok(());
        }
        count("flood");
        Err(End::Close {
            code: close_code::PROTOCOL,
            reason: "too many messages, in spite of refusals".into(),
        })
    }

    fn malformed(&mut self, error: &CodecError) -> Result<(), End> {
        count("malformed");
        self.malformed = self.malformed.saturating_add(1);
        self.refuse(error.request_id(), 400, &error.to_string());
        if self.malformed >= self.limits.malformed_frames {
            let reason = "too many frames that are no protoo messages";
            return Err(End::Close { code: close_code::PROTOCOL, reason: reason.into() });
        }
        Ok(())
    }

    fn refuse(&mut self, id: Option<u64>, code: u16, reason: &str) {
        if let Some(id) = id {
            self.say(codec::error_response(id, code, reason));
        }
    }

    fn outgoing(&mut self, batch: &mut Vec<ToClient>, count: usize) -> Result<(), End> {
        if count == 0 {
            // The room hung up without a word: its queue to this client overflowed.
            let reason = "this client does not keep up";
            return Err(End::Close { code: close_code::TOO_SLOW, reason: reason.into() });
        }
        for message in batch.drain(..) {
            let before = self.out.len();
            match message {
                ToClient::Reply { request, result } => self.reply(request, result),
                ToClient::Notify(notification) => {
                    for (method, data) in dialect::notification(&notification, self.dialect) {
                        self.say(codec::notification(method, &data));
                    }
                }
                ToClient::Ask { ask, request } => {
                    let (method, data) = dialect::server_request(&request, self.dialect);
                    self.last_ask += 1;
                    // Who can come back answers on another connection what it was asked on this one.
                    let id = if self.line.is_some() { ask.0 } else { self.last_ask };
                    let due = Instant::now() + self.limits.request_timeout();
                    self.asks.insert(id, (ask, due));
                    self.say(codec::request(id, method, &data));
                }
                // Whoever carries the session sees to it.
                ToClient::Move(_) => {}
                ToClient::Close { code, reason } => return Err(End::Close { code, reason }),
                // The client comes back at once, and is led to the room's new owner.
                ToClient::Lost(loss) => {
                    let code = match loss {
                        Loss::Superseded => close_code::MOVED,
                        Loss::Unreachable => close_code::MEDIA_LOST,
                    };
                    return Err(End::Close { code, reason: loss.to_string().into() });
                }
            }
            self.number(before);
        }
        Ok(())
    }

    /// Numbers a message of the room for a client that counts. Of several frames the last bears the number: who has it has
    /// them all.
    fn number(&mut self, before: usize) {
        let Some(line) = &mut self.line else { return };
        line.last = line.last.saturating_add(1);
        if self.out.len() > before
            && let Some(Message::Text(text)) = self.out.last_mut()
        {
            *text = codec::numbered(text.as_str(), line.last).into();
        }
    }

    fn reply(&mut self, request: RequestId, result: Result<Reply, room::RoomError>) {
        let id = match self.requests.remove(&request) {
            Some(Waiting { id, .. }) => id,
            // It came by an earlier connection of the client.
            None if self.line.is_some() && !request.is_unanswered() => Some(request.0),
            // It was answered with a timeout.
            None => return,
        };
        let joined = matches!(result, Ok(Reply::Joined(_)));
        if let Some(id) = id {
            let text = match result {
                Ok(reply) => {
                    let mut data = dialect::reply(reply, self.dialect);
                    let token = self.line.as_ref().and_then(|line| line.token.as_ref());
                    if let (true, Some(token), Some(fields)) = (joined, token, data.as_object_mut()) {
                        fields.insert("resume".to_owned(), json!({ "token": token }));
                    }
                    codec::response(id, &data)
                }
                Err(error) => codec::error_response(id, error.code(), &error.to_string()),
            };
            self.say(text);
        }
        if joined {
            self.join_by = None;
            for (method, data) in dialect::versions(self.dialect) {
                self.say(codec::notification(method, &data));
            }
        }
    }

    async fn tick(&mut self, now: Instant) -> Result<(), End> {
        if now.saturating_duration_since(self.last_seen) >= self.limits.silence() {
            return Err(End::Silent);
        }
        if self.join_by.is_some_and(|by| by <= now) {
            count("join_timeout");
            let reason = "not joined in time: connect again to join".into();
            return Err(End::Close { code: close_code::NOT_JOINED, reason });
        }
        if now.saturating_duration_since(self.last_ping) >= self.limits.ping_interval() {
            self.last_ping = now;
            self.out.push(Message::Ping(axum::body::Bytes::new()));
        }
        let timeout = self.limits.request_timeout();
        let late: Vec<_> = self.asks.iter().filter(|(_, (_, due))| *due <= now).map(|(id, _)| *id).collect();
        for id in late {
            if let Some((ask, _)) = self.asks.remove(&id) {
                count("ask_timeout");
                self.session.answer(ask, false).await?;
            }
        }
        let mut unanswered = Vec::new();
        self.requests.retain(|_, waiting| {
            let keep = now.saturating_duration_since(waiting.since) < timeout;
            if !keep {
                unanswered.push(waiting.id);
            }
            keep
        });
        for id in unanswered {
            count("request_timeout");
            self.refuse(id, 504, "the server did not answer in time: try again, or reconnect");
        }
        Ok(())
    }

    fn say(&mut self, text: String) {
        self.out.push(Message::Text(text.into()));
    }
}

fn count(what: &'static str) {
    metrics::counter!("tureen_signaling_errors_total", "what" => what).increment(1);
}

#[cfg(test)]
mod tests;
