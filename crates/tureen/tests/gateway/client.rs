//! A classic protoo client over a real WebSocket. It reads only while it waits for something; what comes meanwhile
//! and is not waited for is kept, and offers are accepted.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::server::Server;

const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    pub(crate) last_id: u64,
    /// The id of the server's last question.
    pub(crate) last_asked: u64,
    kept: VecDeque<Said>,
    /// The numbers of messages, as they came, and the last of them.
    pub(crate) seqs: Vec<u64>,
    pub(crate) last_seq: u64,
}

/// What the server said.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Said {
    Asked { method: String, data: Value },
    Told { method: String, data: Value },
    Reply { id: u64, data: Value },
    Error { id: u64, code: u64, reason: String },
    Closed(u16),
}

/// The HTTP status that a handshake is refused with.
pub(crate) async fn refused(server: &Server, path: &str, protocol: Option<&str>) -> Result<u16> {
    let mut request = format!("ws://{}{path}", server.authority).into_client_request()?;
    if let Some(protocol) = protocol {
        request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_str(protocol)?);
    }
    match connect_async(request).await {
        Err(Error::Http(response)) => Ok(response.status().as_u16()),
        Ok(_) => bail!("was let in"),
        Err(error) => Err(error.into()),
    }
}

/// The HTTP status that a client is refused with whom a proxy forwards from there.
pub(crate) async fn refused_from(server: &Server, forwarded_for: &str) -> Result<u16> {
    let path = format!("ws://{}/?roomId=r&peerId=p", server.authority);
    let mut request = path.into_client_request()?;
    request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("protoo"));
    request.headers_mut().insert("X-Forwarded-For", HeaderValue::from_str(forwarded_for)?);
    match connect_async(request).await {
        Err(Error::Http(response)) => Ok(response.status().as_u16()),
        Ok(_) => bail!("was let in"),
        Err(error) => Err(error.into()),
    }
}

/// The HTTP status of the handshake of a page of this origin.
pub(crate) async fn status_for_page(server: &Server, path: &str, origin: &str) -> Result<u16> {
    let mut request = format!("ws://{}{path}", server.authority).into_client_request()?;
    request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("protoo"));
    request.headers_mut().insert("Origin", HeaderValue::from_str(origin)?);
    match connect_async(request).await {
        Err(Error::Http(response)) => Ok(response.status().as_u16()),
        Ok((_, response)) => Ok(response.status().as_u16()),
        Err(error) => Err(error.into()),
    }
}

impl Client {
    pub(crate) async fn connect(server: &Server, room: &str, peer: &str) -> Result<Self> {
        Self::connect_with(server, room, peer, &[]).await
    }

    pub(crate) async fn open(server: &Server, path: &str) -> Result<Self> {
        Self::open_with(server, path, &[]).await
    }

    /// With headers besides.
    pub(crate) async fn connect_with(
        server: &Server,
        room: &str,
        peer: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Self> {
        let path = format!("/?roomId={room}&peerId={peer}&consumerReplicas=undefined");
        Self::open_with(server, &path, headers).await
    }

    async fn open_with(server: &Server, path: &str, headers: &[(&'static str, &str)]) -> Result<Self> {
        let url = format!("ws://{}{path}", server.authority);
        let mut request = url.into_client_request()?;
        request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("protoo"));
        for (name, value) in headers {
            request.headers_mut().insert(*name, HeaderValue::from_str(value)?);
        }
        let (socket, response) = connect_async(request).await?;
        let chosen = response.headers().get("Sec-WebSocket-Protocol");
        if chosen.is_none_or(|chosen| chosen != "protoo") {
            bail!("the server did not take up the subprotocol");
        }
        Ok(Self { socket, last_id: 0, last_asked: 0, kept: VecDeque::new(), seqs: Vec::new(), last_seq: 0 })
    }

    pub(crate) async fn text(&mut self, text: &str) -> Result<()> {
        Ok(self.socket.send(Message::text(text)).await?)
    }

    /// The next thing the server says, in the order said.
    pub(crate) async fn next(&mut self) -> Result<Said> {
        match self.kept.pop_front() {
            Some(said) => Ok(said),
            None => self.read().await,
        }
    }

    /// What came and was not waited for.
    pub(crate) fn kept(&self) -> impl Iterator<Item = &Said> {
        self.kept.iter()
    }

    async fn read(&mut self) -> Result<Said> {
        loop {
            let message =
                tokio::time::timeout(DEADLINE, self.socket.next()).await.context("nothing in time")?;
            match message.context("the connection ended without a close frame")?? {
                Message::Text(text) => return self.said(serde_json::from_str(text.as_str())?).await,
                Message::Close(frame) => {
                    return Ok(Said::Closed(frame.map_or(1005, |frame| frame.code.into())));
                }
                Message::Ping(_) | Message::Pong(_) => {}
                other => bail!("unexpected {other:?}"),
            }
        }
    }

    async fn said(&mut self, mut message: Value) -> Result<Said> {
        if let Some(seq) = message["seq"].as_u64() {
            self.seqs.push(seq);
            self.last_seq = seq;
        }
        let method = message["method"].as_str().unwrap_or_default().to_owned();
        let data = message["data"].take();
        let id = message["id"].as_u64().unwrap_or_default();
        if message["request"] == json!(true) {
            self.last_asked = id;
            let answer = json!({ "response": true, "id": id, "ok": true, "data": {} });
            self.text(&answer.to_string()).await?;
            Ok(Said::Asked { method, data })
        } else if message["notification"] == json!(true) {
            Ok(Said::Told { method, data })
        } else if message["ok"] == json!(true) {
            Ok(Said::Reply { id, data })
        } else {
            let code = message["errorCode"].as_u64().context("errorCode")?;
            let reason = message["errorReason"].as_str().context("errorReason")?.to_owned();
            Ok(Said::Error { id, code, reason })
        }
    }

    async fn wait<T>(&mut self, wanted: impl Fn(&Said) -> Option<T>) -> Result<T> {
        if let Some(at) = self.kept.iter().position(|said| wanted(said).is_some()) {
            let said = self.kept.remove(at).context("just seen")?;
            return wanted(&said).context("just wanted");
        }
        loop {
            let said = self.read().await?;
            match wanted(&said) {
                Some(found) => return Ok(found),
                None if matches!(said, Said::Closed(_)) => bail!("{said:?} instead"),
                None => self.kept.push_back(said),
            }
        }
    }

    pub(crate) async fn ask(&mut self, method: &str, data: Value) -> Result<Value> {
        self.last_id += 1;
        let asked = self.last_id;
        let text = json!({ "request": true, "id": asked, "method": method, "data": data }).to_string();
        self.text(&text).await?;
        self.wait(|said| match said {
            Said::Reply { id, data } if *id == asked => Some(Ok(data.clone())),
            Said::Error { id, code, reason } if *id == asked => Some(Err(anyhow!("{code} {reason}"))),
            _ => None,
        })
        .await?
    }

    pub(crate) async fn told(&mut self, wanted: &str) -> Result<Value> {
        let found = self.wait(|said| match said {
            Said::Told { method, data } if method == wanted => Some(data.clone()),
            _ => None,
        });
        found.await.with_context(|| format!("waiting for {wanted}"))
    }

    pub(crate) async fn asked(&mut self, wanted: &str) -> Result<Value> {
        let found = self.wait(|said| match said {
            Said::Asked { method, data } if method == wanted => Some(data.clone()),
            _ => None,
        });
        found.await.with_context(|| format!("waiting for {wanted}"))
    }

    pub(crate) async fn closed(&mut self) -> Result<u16> {
        self.wait(|said| match said {
            Said::Closed(code) => Some(*code),
            _ => None,
        })
        .await
    }

    pub(crate) async fn close(mut self) -> Result<()> {
        Ok(self.socket.close(None).await?)
    }

    /// A transport for sending or for receiving, connected as far as signaling goes.
    pub(crate) async fn transport(&mut self, producing: bool) -> Result<String> {
        let data = json!({ "forceTcp": false, "producing": producing, "consuming": !producing, "sctpCapabilities": "" });
        let transport = self.ask("createWebRtcTransport", data).await?;
        let id = transport["id"].as_str().context("id")?.to_owned();
        let candidates = transport["iceCandidates"].as_array().context("iceCandidates")?;
        if candidates.iter().all(|candidate| candidate["protocol"] != "udp") {
            bail!("no UDP candidate in {candidates:?}");
        }
        let value = vec!["AB"; 32].join(":");
        let dtls = json!({ "role": "client", "fingerprints": [{ "algorithm": "sha-256", "value": value }] });
        self.ask("connectWebRtcTransport", json!({ "transportId": id, "dtlsParameters": dtls })).await?;
        Ok(id)
    }

    pub(crate) async fn join(&mut self, name: &str, capabilities: &Value) -> Result<Value> {
        let device = json!({ "flag": "test", "name": "Test", "version": "1" });
        self.ask("join", json!({ "displayName": name, "device": device, "rtpCapabilities": capabilities }))
            .await
    }

    /// Opus, as a browser's offer would have it.
    pub(crate) async fn produce(&mut self, transport: &str, ssrc: u32) -> Result<String> {
        let rtp = json!({
            "mid": ssrc.to_string(),
            "codecs": [{ "mimeType": "audio/opus", "payloadType": 111, "clockRate": 48000, "channels": 2,
                "parameters": { "minptime": 10, "useinbandfec": 1 },
                "rtcpFeedback": [{ "type": "transport-cc", "parameter": "" }] }],
            "headerExtensions": [{ "uri": "urn:ietf:params:rtp-hdrext:sdes:mid", "id": 4, "encrypt": false,
                "parameters": {} }],
            "encodings": [{ "ssrc": ssrc, "dtx": false }],
            "rtcp": { "cname": "test", "reducedSize": true },
        });
        let data = json!({ "transportId": transport, "kind": "audio", "rtpParameters": rtp,
            "appData": { "source": "mic" } });
        let reply = self.ask("produce", data).await?;
        Ok(reply["id"].as_str().context("id")?.to_owned())
    }
}
