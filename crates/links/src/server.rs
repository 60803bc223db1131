//! What a node answers other nodes: takes connections in, checks who is there, passes on what they ask.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use cluster::keeper;
use cluster::lease::Term;
use cluster::neighbourhood::Ping;
use cluster::node::{Incarnation, NodeId};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, TryFutureExt};
use host::{Resumed, Session, ToClient};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use room::RoomId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tonic::Status;
use tonic::body::Body;
use tracing::{debug, info, warn};

use crate::codec::Json;
use crate::error::{OpenRefused, Policy};
use crate::hand_over::{self, HandOver, HandedOver};
use crate::incoming::Downward;
use crate::security::{Security, is_named, may_be_plain, names, refused_by_tls};
use crate::settings::{CONNECTION_WINDOW, LinkSettings, Me, OTHER_STREAMS, SEND_BUFFER};
use crate::sites::{OpenSite, SiteDown, SiteDownward, SiteRefused, SiteUp, TakenSite};
use crate::wire::{Ask, Down, Fenced, Hello, OpenSession, PROTOCOL, Up, Welcome, path};

/// Nodes whose latest life is remembered. More than any cluster has; beyond it, the earliest seen may come back.
const MAX_NODES: usize = 4096;
/// One log line about refused connections in this time; all are counted.
const LOG_INTERVAL: Duration = Duration::from_secs(1);
/// How long a refused connection is read to its end, so that the refusal is not lost in a reset.
const LINGER: Duration = Duration::from_millis(500);
/// How long to wait when the system has no more sockets to give.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// The node at the other end of a connection; what it says of itself was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// Its name.
    pub id: NodeId,
    /// In which life.
    pub incarnation: Incarnation,
}

/// A session that was let in.
#[derive(Debug)]
pub struct Admitted {
    /// Its end towards the room; dropped when the gateway or its client is gone.
    pub session: Session,
    /// What the room says.
    pub messages: mpsc::Receiver<ToClient>,
    /// Under which term. All that the room says on this session is said under it: the session ends when the term does.
    pub term: Term,
    /// By which the client can come back to the session.
    pub token: Option<String>,
    /// What the client finds that came back to it.
    pub resumed: Option<Resumed>,
}

/// What a node does for others.
pub trait Serve: Send + Sync + 'static {
    /// Another says what it knows; the answer is what this one does.
    fn pinged(&self, ping: Ping, from: &Guest) -> Ping;

    /// Another wants this one to have a room.
    fn ask(
        &self,
        from: &Guest,
        room: RoomId,
        floor: Option<Term>,
    ) -> impl Future<Output = keeper::Answer> + Send;

    /// A gateway of another wants a peer in.
    fn open(
        &self,
        from: &Guest,
        open: OpenSession,
    ) -> impl Future<Output = Result<Admitted, OpenRefused>> + Send;

    /// Another wants a site of its room here.
    fn site(
        &self,
        from: &Guest,
        open: OpenSite,
    ) -> impl Future<Output = Result<TakenSite, SiteRefused>> + Send;

    /// Another has a room that it wants to go on here.
    fn hand_over(&self, from: &Guest, offer: HandOver) -> impl Future<Output = HandedOver> + Send;

    /// Another has seen a higher term of a room.
    fn fenced(&self, from: &Guest, room: RoomId, newest: Term);
}

/// Takes in the links of other nodes.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared<S> {
    me: Me,
    security: Security,
    settings: LinkSettings,
    serve: Arc<S>,
    seen: Mutex<HashMap<NodeId, Life>>,
    complaint: Mutex<Option<Instant>>,
}

/// The latest life of a node.
#[derive(Debug)]
struct Life {
    incarnation: Incarnation,
    seen_at: Instant,
    /// Ends the connections of this life when a later one comes.
    over: Arc<Notify>,
}

impl Server {
    /// Answers on this socket from now on. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the socket has no address, or one beyond loopback without TLS.
    pub fn start<S: Serve>(
        listener: TcpListener,
        me: Me,
        security: Security,
        settings: LinkSettings,
        serve: Arc<S>,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        if security.configs().is_none() && !may_be_plain(address.ip()) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, Policy::Plaintext));
        }
        let (stop, stopped) = watch::channel(false);
        let shared = Arc::new(Shared {
            me,
            security,
            settings,
            serve,
            seen: Mutex::default(),
            complaint: Mutex::default(),
        });
        let task = tokio::spawn(accept(listener, shared, stopped));
        Ok(Self { address, stop, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes in nobody any more, waits at most `deadline` for what is under way, then ends everything.
    pub async fn stop(mut self, deadline: Duration) {
        let _ = self.stop.send(true);
        if tokio::time::timeout(deadline, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The connections' tasks are the task's own, and end with it.
        self.task.abort();
    }
}

async fn accept<S: Serve>(listener: TcpListener, shared: Arc<Shared<S>>, mut stopped: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(shared.settings.connections));
    let mut connections = JoinSet::new();
    loop {
        let (stream, from) = tokio::select! {
            biased;
            () = is_stopped(&mut stopped) => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    debug!(%error, "cannot accept a link");
                    tokio::time::sleep(ACCEPT_REST).await;
                    continue;
                }
            },
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            metrics::counter!("tureen_link_refused_total", "why" => "connections").increment(1);
            continue;
        };
        let (shared, stopped) = (shared.clone(), stopped.clone());
        connections.spawn(async move {
            let _place = place;
            secure(stream, from, shared, stopped).await;
        });
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn is_stopped(stopped: &mut watch::Receiver<bool>) {
    // Without a server, too.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

async fn secure<S: Serve>(
    mut stream: TcpStream,
    from: SocketAddr,
    shared: Arc<Shared<S>>,
    stopped: watch::Receiver<bool>,
) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let Some(configs) = shared.security.configs() else {
        if may_be_plain(from.ip()) {
            serve(stream, from, None, shared, stopped).await;
        } else {
            shared.refuse(from, &Policy::Plaintext);
        }
        return;
    };
    let accepting = TlsAcceptor::from(configs.server).accept(&mut stream);
    match tokio::time::timeout(shared.settings.handshake, accepting).await {
        Err(_) => shared.complain(from, "silent", "nothing is said on it"),
        Ok(Err(error)) => {
            match refused_by_tls(&error) {
                Some(policy) => shared.refuse(from, &policy),
                None => shared.complain(from, "tls", &error.to_string()),
            }
            let mut rest = [0; 1024];
            let reading = async { while matches!(stream.read(&mut rest).await, Ok(1..)) {} };
            let _ = tokio::time::timeout(LINGER, reading).await;
        }
        Ok(Ok(secured)) => {
            let shown = secured.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let names = shown.map(names).unwrap_or_default();
            serve(secured, from, Some(names), shared, stopped).await;
        }
    }
}

/// One connection, to its end.
async fn serve<S, T>(
    stream: T,
    from: SocketAddr,
    names: Option<Vec<String>>,
    shared: Arc<Shared<S>>,
    mut stopped: watch::Receiver<bool>,
) where
    S: Serve,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let settings = shared.settings;
    let connection =
        Arc::new(Connection { names, from, known: OnceLock::new(), over: Notify::new().into(), shared });
    let served = connection.clone();
    let service = service_fn(move |request| {
        let connection = served.clone();
        async move { Ok::<_, Infallible>(connection.answer(request).await) }
    });
    let serving = Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(settings.session_window)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(settings.sessions.saturating_add(OTHER_STREAMS))
        .keep_alive_interval(settings.keep_alive)
        .keep_alive_timeout(settings.keep_alive_timeout)
        .max_send_buf_size(SEND_BUFFER)
        // See `link`.
        .max_local_error_reset_streams(None)
        .max_pending_accept_reset_streams(usize::try_from(settings.sessions).unwrap_or(usize::MAX))
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let mut unknown = std::pin::pin!(tokio::time::sleep(settings.handshake));
    let (mut stopping, mut greeted) = (false, false);
    loop {
        tokio::select! {
            ended = &mut serving => {
                if let Err(error) = ended {
                    match refused_by_tls(&error) {
                        Some(policy) => connection.shared.refuse(from, &policy),
                        None => debug!(%from, %error, "a link ended"),
                    }
                }
                break;
            }
            () = connection.over.notified() => break,
            () = &mut unknown, if !greeted => {
                greeted = true;
                if connection.known.get().is_none() {
                    connection.shared.complain(from, "silent", "nobody says hello on it");
                    break;
                }
            }
            () = is_stopped(&mut stopped), if !stopping => {
                stopping = true;
                serving.as_mut().graceful_shutdown();
            }
        }
    }
}

/// What is known of a connection.
#[derive(Debug)]
struct Connection<S> {
    /// Of the certificate that was shown; none without TLS.
    names: Option<Vec<String>>,
    from: SocketAddr,
    known: OnceLock<Guest>,
    over: Arc<Notify>,
    shared: Arc<Shared<S>>,
}

impl<S: Serve> Connection<S> {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let settings = self.shared.settings;
        let to = request.uri().path().to_owned();
        if to == path::HELLO {
            return unary(settings, request, move |hello| async move { Ok(self.hello(hello)) }).await;
        }
        let Some(guest) = self.known.get().cloned() else {
            self.shared.refuse(self.from, &Policy::Hello);
            return Status::failed_precondition(Policy::Hello.to_string()).into_http();
        };
        let serve = self.shared.serve.clone();
        match to.as_str() {
            path::PING => {
                let ping = move |ping: Ping| async move {
                    if ping.from != guest.id {
                        return Err(Status::permission_denied("a ping in another's name"));
                    }
                    Ok(serve.pinged(ping, &guest))
                };
                unary(settings, request, ping).await
            }
            path::ASK => {
                let ask = move |Ask { room, floor }| async move { Ok(serve.ask(&guest, room, floor).await) };
                unary(settings, request, ask).await
            }
            path::FENCED => {
                let fenced = move |Fenced { room, newest }: Fenced| async move {
                    let (by, epoch, owner) = (&guest.id, newest.epoch.0, &newest.node);
                    warn!(%room, %by, epoch, %owner, "told that this node's term is stale");
                    serve.fenced(&guest, room, newest);
                    Ok(())
                };
                unary(settings, request, fenced).await
            }
            path::HAND_OVER => {
                let hand_over =
                    move |offer: HandOver| async move { Ok(serve.hand_over(&guest, offer).await) };
                unary(hand_over::settings(settings), request, hand_over).await
            }
            path::SESSION => {
                let open = move |mut up: tonic::Streaming<Up>| async move {
                    let first = tokio::time::timeout(settings.answer, up.message()).await;
                    let Ok(Ok(Some(Up::Open(open)))) = first else {
                        return Err(Status::invalid_argument("a session begins with its opening"));
                    };
                    Ok(match serve.open(&guest, open).await {
                        Ok(admitted) => Downward::open(admitted, up),
                        Err(why) => {
                            metrics::counter!("tureen_link_sessions_refused_total").increment(1);
                            Downward::refused(why)
                        }
                    })
                };
                grpc::<Up, Down>(settings).streaming(Handler(open), request).await
            }
            path::SITE => {
                let open = move |mut up: tonic::Streaming<SiteUp>| async move {
                    let first = tokio::time::timeout(settings.answer, up.message()).await;
                    let Ok(Ok(Some(SiteUp::Open(open)))) = first else {
                        return Err(Status::invalid_argument("a site begins with its opening"));
                    };
                    Ok(match serve.site(&guest, open.clone()).await {
                        Ok(taken) => SiteDownward::open(taken, up),
                        Err(why) => SiteDownward::refused(&guest.id, &open, why),
                    })
                };
                grpc::<SiteUp, SiteDown>(settings).streaming(Handler(open), request).await
            }
            _ => Status::unimplemented("no such question").into_http(),
        }
    }

    fn hello(&self, hello: Hello) -> Welcome {
        let Me { id, incarnation, .. } = &self.shared.me;
        match self.check(hello) {
            Ok(guest) => {
                info!(node = %guest.id, from = %self.from, "linked from");
                Welcome::Here { node: id.clone(), incarnation: *incarnation }
            }
            Err(policy) => {
                self.shared.refuse(self.from, &policy);
                Welcome::Refused(policy)
            }
        }
    }

    fn check(&self, hello: Hello) -> Result<Guest, Policy> {
        let Hello { protocol, cluster, node, incarnation } = hello;
        if protocol != PROTOCOL {
            return Err(Policy::Protocol { ours: PROTOCOL, theirs: protocol });
        }
        if cluster != self.shared.me.cluster {
            return Err(Policy::Cluster { ours: self.shared.me.cluster.clone(), theirs: cluster });
        }
        if let Some(names) = &self.names {
            is_named(names, &node)?;
        }
        let guest = Guest { id: node, incarnation };
        self.known.set(guest.clone()).map_err(|_| Policy::Hello)?;
        self.shared.note_life(&guest, &self.over)?;
        Ok(guest)
    }
}

impl<S> Shared<S> {
    /// Takes note of a node's life; a later one ends what is left of an earlier.
    fn note_life(&self, guest: &Guest, connection: &Arc<Notify>) -> Result<(), Policy> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= MAX_NODES
            && !seen.contains_key(&guest.id)
            && let Some(earliest) = seen.iter().min_by_key(|(_, life)| life.seen_at).map(|(id, _)| id.clone())
        {
            seen.remove(&earliest);
        }
        let life = Life { incarnation: guest.incarnation, seen_at: Instant::now(), over: connection.clone() };
        if let Some(last) = seen.get(&guest.id) {
            if last.incarnation > guest.incarnation {
                let (node, theirs) = (guest.id.clone(), guest.incarnation);
                return Err(Policy::Incarnation { node, theirs, seen: last.incarnation });
            }
            // One connection a node: the one before is left over from an earlier life, or broke unnoticed.
            last.over.notify_one();
        }
        seen.insert(guest.id.clone(), life);
        Ok(())
    }

    fn refuse(&self, from: SocketAddr, policy: &Policy) {
        metrics::counter!("tureen_link_refused_total", "why" => policy.why()).increment(1);
        if self.may_log() {
            warn!(%from, why = policy.why(), "link refused: {policy}");
        }
    }

    fn complain(&self, from: SocketAddr, why: &'static str, text: &str) {
        metrics::counter!("tureen_link_refused_total", "why" => why).increment(1);
        if self.may_log() {
            warn!(%from, why, "link ended: {text}");
        }
    }

    /// Whoever is refused decides how often, so not each time is logged.
    fn may_log(&self) -> bool {
        let mut last = self.complaint.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if last.is_some_and(|last| now.saturating_duration_since(last) < LOG_INTERVAL) {
            return false;
        }
        *last = Some(now);
        true
    }
}

/// A function as tonic wants it.
struct Handler<F>(F);

impl<F, Q, A: 'static, Answering> tower_service::Service<tonic::Request<Q>> for Handler<F>
where
    F: Clone + FnOnce(Q) -> Answering,
    Answering: Future<Output = Result<A, Status>> + Send + 'static,
{
    type Response = tonic::Response<A>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<tonic::Response<A>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::Request<Q>) -> Self::Future {
        let answering = (self.0.clone())(request.into_inner());
        answering.map_ok(tonic::Response::new).boxed()
    }
}

fn grpc<Q, A>(settings: LinkSettings) -> tonic::server::Grpc<Json<A, Q>>
where
    Q: DeserializeOwned + Send + 'static,
    A: Serialize + Send + 'static,
{
    tonic::server::Grpc::new(Json::new())
        .max_decoding_message_size(settings.message_up)
        .max_encoding_message_size(settings.message_down)
}

async fn unary<Q, A, Answering>(
    settings: LinkSettings,
    request: Request<Incoming>,
    answer: impl Clone + FnOnce(Q) -> Answering,
) -> Response<Body>
where
    Q: DeserializeOwned + Send + 'static,
    A: Serialize + Send + 'static,
    Answering: Future<Output = Result<A, Status>> + Send + 'static,
{
    grpc::<Q, A>(settings).unary(Handler(answer), request).await
}
