//! The way to one other node: a connection that is made when it is needed, shared by all who need it, and made anew when
//! it broke, with a rest after attempts that failed.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use cluster::node::{Incarnation, Node};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use http::uri::PathAndQuery;
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use rand::RngExt;
use rustls::pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tonic::body::Body;
use tonic::client::Grpc;
use tracing::{info, warn};

use crate::codec::Json;
use crate::error::{LinkError, Policy};
use crate::security::{Security, is_named, may_be_plain, names, refused_by_tls};
use crate::settings::{CONNECTION_WINDOW, LinkSettings, Me, SEND_BUFFER};
use crate::stream::{Remembering, Tasks};
use crate::wire::{Hello, Welcome, path};

/// What all links of a node share.
#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) me: Me,
    pub(crate) security: Security,
    pub(crate) settings: LinkSettings,
    /// The version that is said to be spoken here: [`crate::PROTOCOL`], except in a test.
    pub(crate) protocol: u32,
}

/// The way to one node, in one of its lives, at one address.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) node: Node,
    /// Sessions on it.
    pub(crate) sessions: Arc<AtomicU32>,
    common: Arc<Common>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    failures: u32,
    /// What the last attempt failed of, so that it is said once.
    complaint: Option<&'static str>,
    now: Now,
}

#[derive(Debug)]
enum Now {
    Resting(Option<Instant>),
    Dialling(Shared<BoxFuture<'static, Result<Channel, LinkError>>>),
    Up(Box<Channel>),
}

/// A connection on which both ends know each other.
#[derive(Clone)]
pub(crate) struct Channel {
    sender: Sender,
    origin: Uri,
    settings: LinkSettings,
    /// In which life the other end is.
    pub(crate) incarnation: Incarnation,
    over: Arc<watch::Sender<bool>>,
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("origin", &self.origin).finish_non_exhaustive()
    }
}

/// hyper's end of a connection, as tonic wants it.
#[derive(Clone)]
pub(crate) struct Sender(SendRequest<Body>);

impl tower_service::Service<Request<Body>> for Sender {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

impl Channel {
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.0.is_closed()
    }

    /// tonic's client on this connection.
    pub(crate) fn grpc(&self) -> Grpc<Sender> {
        Grpc::with_origin(self.sender.clone(), self.origin.clone())
            .max_encoding_message_size(self.settings.message_up)
            .max_decoding_message_size(self.settings.message_down)
    }

    /// The same, with other limits.
    pub(crate) fn with(self, settings: LinkSettings) -> Self {
        Self { settings, ..self }
    }

    /// One question, one answer.
    pub(crate) async fn ask<Q, A>(
        &self,
        path: &'static str,
        question: Q,
        deadline: Duration,
    ) -> Result<A, LinkError>
    where
        Q: Serialize + Send + Sync + 'static,
        A: DeserializeOwned + Send + Sync + 'static,
    {
        let mut grpc = self.grpc();
        let call = async {
            grpc.ready().await.map_err(|error| LinkError::Broken(error.to_string()))?;
            let path = PathAndQuery::from_static(path);
            let answer = grpc.unary(tonic::Request::new(question), path, Json::<Q, A>::new()).await;
            answer.map(tonic::Response::into_inner).map_err(|status| LinkError::Broken(status.to_string()))
        };
        tokio::time::timeout(deadline, call).await.unwrap_or(Err(LinkError::Silent))
    }

    /// Ends it, and all that is on it.
    pub(crate) fn close(&self) {
        let _ = self.over.send(true);
    }
}

impl Link {
    pub(crate) fn new(node: Node, common: Arc<Common>) -> Self {
        let state = State { failures: 0, complaint: None, now: Now::Resting(None) };
        Self { node, sessions: Arc::default(), common, state: Mutex::new(state) }
    }

    /// The connection to the node, made now if there is none. All who ask while it is made share what comes of it.
    pub(crate) async fn channel(self: &Arc<Self>) -> Result<Channel, LinkError> {
        let dialling = {
            let mut state = self.state();
            match &state.now {
                Now::Up(channel) if !channel.is_closed() => return Ok(Channel::clone(channel)),
                Now::Resting(Some(until)) if Instant::now() < *until => return Err(LinkError::Resting),
                Now::Dialling(dialling) if dialling.peek().is_none() => dialling.clone(),
                Now::Up(_) | Now::Resting(_) | Now::Dialling(_) => {
                    let link = self.clone();
                    // A task of its own: whoever asks may give up waiting. It ends by its deadlines.
                    let task: JoinHandle<_> = tokio::spawn(async move {
                        let result = dial(&link.node, &link.common).await;
                        link.dialled(&result);
                        result
                    });
                    let dialling = task
                        .map(|ended| ended.unwrap_or_else(|error| Err(LinkError::Broken(error.to_string()))))
                        .boxed()
                        .shared();
                    state.now = Now::Dialling(dialling.clone());
                    dialling
                }
            }
        };
        dialling.await
    }

    /// The next attempt need not wait: the node was heard.
    pub(crate) fn wake(&self) {
        let mut state = self.state();
        if matches!(state.now, Now::Resting(_)) {
            state.now = Now::Resting(None);
        }
    }

    /// Ends the connection, if there is one.
    pub(crate) fn close(&self) {
        let state = self.state();
        if let Now::Up(channel) = &state.now {
            channel.close();
        }
    }

    fn dialled(&self, result: &Result<Channel, LinkError>) {
        let node = &self.node.id;
        let mut state = self.state();
        match result {
            Ok(channel) => {
                info!(%node, address = %self.node.link, "linked");
                metrics::counter!("tureen_link_dials_total", "result" => "linked").increment(1);
                *state = State { failures: 0, complaint: None, now: Now::Up(Box::new(channel.clone())) };
            }
            Err(error) => {
                metrics::counter!("tureen_link_dials_total", "result" => error.why()).increment(1);
                if state.complaint.replace(error.why()) != Some(error.why()) {
                    match error {
                        LinkError::Policy(policy) => {
                            warn!(%node, address = %self.node.link, why = policy.why(), "link refused: {policy}");
                        }
                        _ => warn!(%node, address = %self.node.link, why = error.why(), "no link: {error}"),
                    }
                }
                let settings = &self.common.settings;
                let rest =
                    settings.rest.saturating_mul(1 << state.failures.min(16)).min(settings.longest_rest);
                state.failures = state.failures.saturating_add(1);
                let rest = rest.mul_f64(rand::rng().random_range(0.5..=1.0));
                state.now = Now::Resting(Some(Instant::now() + rest));
            }
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Plain values, whole at every instruction.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.close();
    }
}

async fn dial(node: &Node, common: &Common) -> Result<Channel, LinkError> {
    let settings = &common.settings;
    let configs = common.security.configs();
    if configs.is_none() && !may_be_plain(node.link.ip()) {
        return Err(Policy::Plaintext.into());
    }
    let stream = match tokio::time::timeout(settings.handshake, TcpStream::connect(node.link)).await {
        Err(_) => return Err(LinkError::Silent),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => return Err(LinkError::Refused),
        Ok(Err(error)) => return Err(LinkError::Broken(error.to_string())),
        Ok(Ok(stream)) => stream,
    };
    // Without it pings would wait for acknowledgements of what is before them.
    stream.set_nodelay(true).map_err(|error| LinkError::Broken(error.to_string()))?;
    let Some(configs) = configs else {
        return greet(stream, "http", node, common).await;
    };
    let name = ServerName::try_from(node.id.as_str().to_owned())
        .map_err(|_| Policy::Certificate(format!("{} is no name that certificates can have", node.id)))?;
    let connecting = TlsConnector::from(configs.client).connect(name, stream);
    match tokio::time::timeout(settings.handshake, connecting).await {
        Err(_) => Err(LinkError::Silent),
        Ok(Err(error)) => {
            Err(refused_by_tls(&error)
                .map_or_else(|| LinkError::Broken(error.to_string()), LinkError::Policy))
        }
        Ok(Ok(stream)) => {
            let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            is_named(&shown.map(names).unwrap_or_default(), &node.id)?;
            greet(stream, "https", node, common).await
        }
    }
}

/// HTTP/2 on a stream, and the first words on it.
async fn greet<S>(stream: S, scheme: &str, node: &Node, common: &Common) -> Result<Channel, LinkError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |error: &dyn fmt::Display| LinkError::Broken(error.to_string());
    let Common { me, settings, .. } = common;
    let (stream, refused) = Remembering::new(stream);
    let (tasks, over) = Tasks::new();
    let (sender, connection) = Builder::new(tasks.clone())
        .timer(TokioTimer::new())
        .initial_stream_window_size(settings.session_window)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(settings.keep_alive)
        .keep_alive_timeout(settings.keep_alive_timeout)
        .keep_alive_while_idle(true)
        .max_send_buf_size(SEND_BUFFER)
        // Clients leave by the thousand, with news for them on its way. That is no attack: both ends know each other.
        .max_concurrent_reset_streams(usize::try_from(settings.sessions).unwrap_or(usize::MAX))
        .max_local_error_reset_streams(None)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(&error))?;
    tasks.run(connection);
    let origin = Uri::builder().scheme(scheme).authority(node.link.to_string()).path_and_query("/").build();
    let channel = Channel {
        sender: Sender(sender),
        origin: origin.map_err(|error| broken(&error))?,
        settings: *settings,
        incarnation: node.incarnation,
        over,
    };
    let hello = Hello {
        protocol: common.protocol,
        cluster: me.cluster.clone(),
        node: me.id.clone(),
        incarnation: me.incarnation,
    };
    let refuse = |error: LinkError| {
        channel.close();
        Err(error)
    };
    match channel.ask(path::HELLO, hello, settings.handshake).await {
        Ok(Welcome::Here { node: found, .. }) if found != node.id => {
            refuse(Policy::Node { wanted: node.id.clone(), found }.into())
        }
        Ok(Welcome::Here { incarnation, .. }) if incarnation < node.incarnation => {
            let (node, seen) = (node.id.clone(), node.incarnation);
            refuse(Policy::Incarnation { node, theirs: incarnation, seen }.into())
        }
        Ok(Welcome::Here { incarnation, .. }) => Ok(Channel { incarnation, ..channel }),
        Ok(Welcome::Refused(policy)) => refuse(policy.into()),
        // In TLS 1.3 a server refuses a certificate when the client thinks that all is well.
        Err(error) => refuse(refused.get().cloned().map_or(error, LinkError::Policy)),
    }
}
