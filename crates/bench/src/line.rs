//! A session that goes on over another connection, as web/client's does: what the server said is acknowledged, and after a break
//! answers and questions are said again (docs/clients.md, "A session that outlives its connection").
//!
//! It decides nothing about media: transports are left alone meanwhile.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::protocol::Message;

use crate::protoo::{Incoming, Pending, Socket, open, sort};

/// web/client's: the first attempt at once, then quick, never more than two seconds apart.
const FIRST_PAUSE: Duration = Duration::from_millis(150);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// The server keeps a session for so long.
const RESUME_WITHIN: Duration = Duration::from_secs(15);
/// An address that does not answer in this time is tried anew.
const CONNECT_DEADLINE: Duration = Duration::from_secs(4);
/// The server is told what has arrived after so many messages, or so long after.
const TELL_AFTER: u64 = 64;
const TELL_EVERY: Duration = Duration::from_secs(1);
/// Answers that are kept until the server has surely heard them.
const MOST_ANSWERS: usize = 4_096;
/// Close codes by which a session is over.
const OVER: std::ops::RangeInclusive<u16> = 4000..=4099;

/// How long to wait before an attempt, web/client's way: at random, so that not all come at once.
pub fn pause(attempt: u32) -> Duration {
    if attempt == 0 {
        return Duration::ZERO;
    }
    let most = FIRST_PAUSE.mul_f64(1.5_f64.powi(attempt.min(16) as i32 - 1)).min(LONGEST_PAUSE);
    most.mul_f64(rand::random_range(0.5..1.0))
}

/// What a session has beyond its connection.
pub(crate) struct Line {
    url: String,
    pending: Pending,
    incoming: mpsc::Sender<Incoming>,
    resumed: Arc<AtomicU32>,
    /// Given with the join; there is nothing to come back to before.
    token: Option<String>,
    received: u64,
    told: u64,
    /// Attempts since the session last went on, and until when they make sense.
    attempts: u32,
    resume_by: Option<Instant>,
    /// Own questions without an answer, by their ids, which rise.
    asked: BTreeMap<u64, String>,
    /// Own answers that the server may not have heard.
    answers: BTreeMap<u64, String>,
}

impl Line {
    pub(crate) fn new(
        url: String,
        pending: Pending,
        incoming: mpsc::Sender<Incoming>,
        resumed: Arc<AtomicU32>,
    ) -> Self {
        let (asked, answers) = (BTreeMap::new(), BTreeMap::new());
        let (token, resume_by) = (None, None);
        Self {
            url,
            pending,
            incoming,
            resumed,
            token,
            received: 0,
            told: 0,
            attempts: 0,
            resume_by,
            asked,
            answers,
        }
    }

    /// Carries the session until it is over.
    pub(crate) async fn run(mut self, mut socket: Socket, mut outgoing: mpsc::Receiver<Message>) {
        let code = loop {
            let code = self.carry(&mut socket, &mut outgoing).await;
            let over = outgoing.is_closed() || code.is_some_and(|code| OVER.contains(&code));
            if over || self.token.is_none() {
                break code;
            }
            match self.reconnect().await {
                Some(again) => socket = again,
                None => break code,
            }
        };
        // Waiting requests learn it by their dropped senders; a receiver that is gone needs no telling.
        self.pending.lock().expect("no one panics while holding this lock").clear();
        let _ = self.incoming.send(Incoming::Closed(code)).await;
    }

    /// Until the connection ends: the close code, where one was given.
    async fn carry(&mut self, socket: &mut Socket, outgoing: &mut mpsc::Receiver<Message>) -> Option<u16> {
        let mut tell = tokio::time::interval(TELL_EVERY);
        // Of a session that is to go on, the server's first word says whether it does.
        let mut open = self.token.is_none();
        loop {
            tokio::select! {
                said = socket.next() => match said {
                    Some(Ok(Message::Text(text))) => {
                        let Ok(value) = serde_json::from_str::<Value>(&text) else { return None };
                        open = true;
                        if self.hear(socket, value).await.is_break() {
                            return None;
                        }
                    }
                    Some(Ok(Message::Close(frame))) => return frame.map(|frame| frame.code.into()),
                    // Pings are answered by the library itself.
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return None,
                },
                message = outgoing.recv(), if open => {
                    let message = message?;
                    let last = message.is_close();
                    if let Message::Text(text) = &message {
                        self.note(text);
                    }
                    let sent = socket.send(message).await;
                    if last {
                        outgoing.close();
                    }
                    if sent.is_err() || last {
                        return None;
                    }
                }
                _ = tell.tick(), if open => {
                    if self.tell(socket).await.is_break() {
                        return None;
                    }
                }
            }
        }
    }

    /// Keeps what may have to be said again.
    fn note(&mut self, text: &str) {
        let Ok(value) = serde_json::from_str::<Value>(text) else { return };
        let Some(id) = value["id"].as_u64() else { return };
        if value["request"] == true {
            self.asked.insert(id, text.to_owned());
        } else if value["response"] == true {
            self.answers.insert(id, text.to_owned());
            if self.answers.len() > MOST_ANSWERS {
                self.answers.pop_first();
            }
        }
    }

    async fn hear(&mut self, socket: &mut Socket, value: Value) -> ControlFlow<()> {
        let seq = value["seq"].as_u64();
        if value["response"] == true {
            if let Some(id) = value["id"].as_u64() {
                self.asked.remove(&id);
            }
            if let Some(token) = value["data"]["resume"]["token"].as_str() {
                self.token = Some(token.to_owned());
            }
        }
        if value["notification"] == true && value["method"] == "resumed" {
            self.go_on(socket, &value["data"]["asks"]).await?;
        } else if let Some(event) = sort(value, &self.pending)
            && self.incoming.send(event).await.is_err()
        {
            return ControlFlow::Break(());
        }
        if let Some(seq) = seq {
            self.received = seq;
            if self.received - self.told >= TELL_AFTER {
                return self.tell(socket).await;
            }
        }
        ControlFlow::Continue(())
    }

    /// The session is back. `asks` are the questions whose answers the server has not heard.
    async fn go_on(&mut self, socket: &mut Socket, asks: &Value) -> ControlFlow<()> {
        self.resumed.fetch_add(1, Ordering::Relaxed);
        (self.attempts, self.resume_by) = (0, None);
        let open =
            |id: &u64| asks.as_array().is_some_and(|asks| asks.iter().any(|ask| ask.as_u64() == Some(*id)));
        self.answers.retain(|id, _| open(id));
        for text in self.answers.values().chain(self.asked.values()) {
            if socket.send(Message::text(text.clone())).await.is_err() {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    /// Tells the server what has arrived.
    async fn tell(&mut self, socket: &mut Socket) -> ControlFlow<()> {
        if self.told == self.received {
            return ControlFlow::Continue(());
        }
        self.told = self.received;
        let text = json!({ "notification": true, "method": "received", "data": { "seq": self.told } });
        if socket.send(Message::text(text.to_string())).await.is_err() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    /// Another connection, while the server keeps the session.
    async fn reconnect(&mut self) -> Option<Socket> {
        let until = *self.resume_by.get_or_insert_with(|| Instant::now() + RESUME_WITHIN);
        let token = self.token.as_ref()?;
        let url = format!("{}&resume={token}&received={}", self.url, self.received);
        loop {
            tokio::time::sleep(pause(self.attempts)).await;
            self.attempts += 1;
            if Instant::now() >= until || self.incoming.is_closed() {
                return None;
            }
            if let Ok(Ok(socket)) = tokio::time::timeout(CONNECT_DEADLINE, open(&url)).await {
                return Some(socket);
            }
        }
    }
}
