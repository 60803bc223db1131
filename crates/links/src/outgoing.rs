//! The gateway's end of a session with a room on another node.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use cluster::lease::Term;
use cluster::node::Node;
use futures_util::stream;
use futures_util::{Stream, StreamExt};
use host::{FarEnd, Loss, Move, Session, ToClient};
use http::uri::PathAndQuery;
use room::RoomId;
use tokio::sync::{mpsc, oneshot};
use tonic::Streaming;
use tracing::{debug, warn};

use crate::codec::Json;
use crate::error::{LinkError, OpenError};
use crate::link::{Channel, Link};
use crate::links::{Believe, Links, OpenedSession};
use crate::settings::LinkSettings;
use crate::wire::{Down, OpenSession, Up, path};

/// Messages of a client that wait for HTTP/2 to take them. Then the gateway reads no more of its frames.
const UP: usize = 16;
/// Messages for a client that were read and wait for its gateway. Then no more are read, the stream's window closes, and
/// the room's own queue of the session fills.
const DOWN: usize = 64;

pub(crate) async fn open(
    link: Arc<Link>,
    links: Links,
    believe: Arc<dyn Believe>,
    settings: LinkSettings,
    open: OpenSession,
) -> Result<OpenedSession, OpenError> {
    let place = Place::take(&link.sessions, settings.sessions)?;
    let room = open.room.clone();
    let broken = |status: tonic::Status| LinkError::Broken(status.to_string());
    let (far, up) = mpsc::channel(1);
    let (over, is_over) = oneshot::channel();
    let opening = async {
        let channel = link.channel().await?;
        let mut grpc = channel.grpc();
        grpc.ready().await.map_err(|error| LinkError::Broken(error.to_string()))?;
        let path = PathAndQuery::from_static(path::SESSION);
        let up = tonic::Request::new(ups(open, up, is_over));
        let answer = grpc.streaming(up, path, Json::<Up, Down>::new()).await.map_err(broken)?;
        let mut down = answer.into_inner();
        match down.message().await.map_err(broken)? {
            Some(Down::Opened { session, epoch, token, resumed }) => {
                Ok(((session, token, resumed), epoch, down, channel))
            }
            Some(Down::Refused(why)) => Err(OpenError::Refused(why)),
            _ => Err(LinkError::Broken("the answer is none".to_owned()).into()),
        }
    };
    let opened = tokio::time::timeout(settings.answer, opening).await;
    let ((id, token, resumed), epoch, down, channel) = opened.unwrap_or(Err(LinkError::Silent.into()))?;
    let term = Term { epoch, node: link.node.id.clone() };
    let (session, end) = Session::far(id, UP);
    // The stream waits for it: it cannot be full.
    let _ = far.try_send(end);
    let (out, messages) = mpsc::channel(DOWN);
    let node = link.node.clone();
    let relay = Relay { room, node, out, believe, links, _place: place, over, _channel: channel };
    // Ends with the stream, which ends with the connection, or with the receiver.
    tokio::spawn(relay.run(down));
    Ok(OpenedSession { session, messages, term, token, resumed })
}

/// What goes up: the opening, and then, once the session is there, what its client says until it leaves or [`Relay`] ends.
fn ups(
    open: OpenSession,
    far: mpsc::Receiver<FarEnd>,
    is_over: oneshot::Receiver<()>,
) -> impl Stream<Item = Up> + Send + 'static {
    let said = stream::unfold((far, None, is_over), |(mut far, end, mut is_over)| async move {
        let mut end: FarEnd = match end {
            Some(end) => end,
            None => far.recv().await?,
        };
        let message = tokio::select! {
            biased;
            _ = &mut is_over => return None,
            message = end.recv() => message?,
        };
        Some((Up::Say(message), (far, Some(end), is_over)))
    });
    stream::once(std::future::ready(Up::Open(open))).chain(said)
}

/// Brings down what the room says.
struct Relay {
    room: RoomId,
    node: Node,
    out: mpsc::Sender<ToClient>,
    believe: Arc<dyn Believe>,
    links: Links,
    _place: Place,
    /// Dropped, it ends what goes up: the gateway's end says that it is gone, and the room's node that the client left.
    over: oneshot::Sender<()>,
    /// Kept: a connection that takes nothing new goes on for those that are on it.
    _channel: Channel,
}

impl Relay {
    async fn run(self, mut down: Streaming<Down>) {
        let loss = loop {
            let next = tokio::select! {
                biased;
                () = self.out.closed() => return,
                next = down.message() => next,
            };
            match next {
                Ok(Some(Down::Say { epoch, message })) => {
                    let term = Term { epoch, node: self.node.id.clone() };
                    // Where its room has gone on says the one who had it, after it was seen there.
                    let is_farewell = matches!(message, ToClient::Move(Move::To { .. }));
                    if !is_farewell && self.is_stale(&term) {
                        break Loss::Superseded;
                    }
                    let last = matches!(message, ToClient::Close { .. } | ToClient::Lost(_));
                    if self.out.send(message).await.is_err() || last {
                        return;
                    }
                }
                Ok(Some(Down::TooSlow)) => return,
                Ok(Some(Down::Opened { .. } | Down::Refused(_)) | None) => break Loss::Unreachable,
                Err(status) => {
                    debug!(room = %self.room, node = %self.node.id, %status, "a session's stream broke");
                    break Loss::Unreachable;
                }
            }
        };
        let why = match loss {
            Loss::Unreachable => "unreachable",
            Loss::Superseded => "superseded",
        };
        metrics::counter!("tureen_link_sessions_lost_total", "why" => why).increment(1);
        // Dropped before: the room's node hears of the end even while the client does not read.
        drop((down, self.over));
        let _ = self.out.send(ToClient::Lost(loss)).await;
    }

    /// Whether the owner's time is over; if so, it is told.
    fn is_stale(&self, term: &Term) -> bool {
        let Err(stale) = self.believe.believe(&self.room, term) else { return false };
        let (room, node) = (&self.room, &self.node.id);
        metrics::counter!("tureen_link_fenced_total").increment(1);
        warn!(%room, %node, epoch = term.epoch.0, "message refused: {stale}");
        let (links, node, room) = (self.links.clone(), self.node.clone(), self.room.clone());
        // Ends by its deadline.
        tokio::spawn(async move { links.fenced(&node, room, stale.newest).await });
        true
    }
}

/// One of a link's places for sessions.
#[derive(Debug)]
struct Place(Arc<AtomicU32>);

impl Place {
    fn take(places: &Arc<AtomicU32>, limit: u32) -> Result<Self, LinkError> {
        let more = |taken: u32| (taken < limit).then(|| taken.saturating_add(1));
        match places.fetch_update(Ordering::AcqRel, Ordering::Acquire, more) {
            Ok(_) => {
                metrics::gauge!("tureen_link_sessions", "side" => "gateway").increment(1);
                Ok(Self(places.clone()))
            }
            Err(_) => Err(LinkError::Sessions(limit)),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        metrics::gauge!("tureen_link_sessions", "side" => "gateway").decrement(1);
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
