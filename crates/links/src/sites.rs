//! A room's site on another node: what the room wants done there goes up, what the site says comes down, one stream a site.
//! Flow control is HTTP/2's: an edge that is busy takes no more, a room that is busy reads no more. The stream's end is the
//! site's end, whichever side it comes from.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use cluster::lease::Term;
use cluster::node::NodeId;
use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt, stream};
use host::{SiteNews, SiteOp};
use http::uri::PathAndQuery;
use room::{RoomId, SiteId};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tonic::{Status, Streaming};
use tracing::{debug, warn};

use crate::codec::Json;
use crate::error::LinkError;
use crate::link::{Channel, Link};
use crate::settings::LinkSettings;
use crate::wire::path;

/// Operations that wait for HTTP/2 to take them. Behind it is the room's own queue of the site.
const UP: usize = 64;
/// News that were read and wait for the room.
const DOWN: usize = 64;

/// A site, asked of a node near those who will be there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenSite {
    /// Of which room.
    pub room: RoomId,
    /// Its number in the room.
    pub site: SiteId,
    /// The term under which the asker has the room.
    pub term: Term,
    /// It is there, parked, and is taken up.
    #[serde(default)]
    pub adopt: bool,
}

/// Why a node takes in no site.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum SiteRefused {
    /// A higher term of the room was seen there.
    #[error("the room has another owner, {} with epoch {}", newest.node, newest.epoch.0)]
    Stale {
        /// The highest.
        newest: Term,
    },
    /// The node has no workers, or drains.
    #[error("the node takes in no media now")]
    NotNow,
    /// There is no such site that waits to be taken up.
    #[error("the site is not there, or was taken up already")]
    NotThere,
}

impl SiteRefused {
    /// A label for counters.
    fn name(&self) -> &'static str {
        match self {
            Self::Stale { .. } => "stale",
            Self::NotNow => "not_now",
            Self::NotThere => "not_there",
        }
    }
}

/// Why there is no site.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SiteError {
    /// The node said no.
    #[error(transparent)]
    Refused(#[from] SiteRefused),
    /// It was not reached.
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// A site on another node.
#[derive(Debug)]
pub struct OpenedSite {
    /// What it is to do. Dropped, the site ends.
    pub ops: mpsc::Sender<SiteOp>,
    /// What it says. Ends with the site, or with the way to it.
    pub news: mpsc::Receiver<SiteNews>,
}

/// A site that a node took in.
pub struct TakenSite {
    /// Where its work goes. Dropped, the site ends.
    pub ops: mpsc::Sender<SiteOp>,
    /// What it says.
    pub news: mpsc::Receiver<(SiteId, SiteNews)>,
    /// Comes when the owner's time is over.
    pub over: BoxFuture<'static, ()>,
}

/// What goes up a site's stream, from the room to the site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum SiteUp {
    /// First, and only then.
    Open(OpenSite),
    Op(SiteOp),
}

/// What comes down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum SiteDown {
    /// First, if the site was taken in.
    Opened,
    /// First and last, if not.
    Refused(SiteRefused),
    News(SiteNews),
}

pub(crate) async fn open(
    link: Arc<Link>,
    settings: LinkSettings,
    open: OpenSite,
) -> Result<OpenedSite, SiteError> {
    let broken = |status: Status| LinkError::Broken(status.to_string());
    let (ops, waiting) = mpsc::channel(UP);
    let (over, is_over) = oneshot::channel();
    let opening = async {
        let channel = link.channel().await?;
        let mut grpc = channel.grpc();
        grpc.ready().await.map_err(|error| LinkError::Broken(error.to_string()))?;
        let to = PathAndQuery::from_static(path::SITE);
        let up = tonic::Request::new(ups(open, waiting, is_over));
        let answer = grpc.streaming(up, to, Json::<SiteUp, SiteDown>::new()).await.map_err(broken)?;
        let mut down = answer.into_inner();
        match down.message().await.map_err(broken)? {
            Some(SiteDown::Opened) => Ok((down, channel)),
            Some(SiteDown::Refused(why)) => Err(SiteError::Refused(why)),
            _ => Err(LinkError::Broken("the answer is none".to_owned()).into()),
        }
    };
    let opened = tokio::time::timeout(settings.answer, opening).await;
    let (down, channel) = opened.unwrap_or(Err(LinkError::Silent.into()))?;
    let (out, news) = mpsc::channel(DOWN);
    // Ends with the stream, which ends with the connection, or with the receiver.
    tokio::spawn(bring_down(down, out, over, channel, Counted::new("owner")));
    Ok(OpenedSite { ops, news })
}

/// What goes up: the opening, then what is to be done, until the site ends on either side.
fn ups(
    open: OpenSite,
    ops: mpsc::Receiver<SiteOp>,
    is_over: oneshot::Receiver<()>,
) -> impl Stream<Item = SiteUp> + Send + 'static {
    let work = stream::unfold((ops, is_over), |(mut ops, mut is_over)| async move {
        let op = tokio::select! {
            biased;
            _ = &mut is_over => return None,
            op = ops.recv() => op?,
        };
        Some((SiteUp::Op(op), (ops, is_over)))
    });
    stream::once(std::future::ready(SiteUp::Open(open))).chain(work)
}

/// `over` is dropped at the end, and ends what goes up; the channel is kept until then.
async fn bring_down(
    mut down: Streaming<SiteDown>,
    out: mpsc::Sender<SiteNews>,
    over: oneshot::Sender<()>,
    channel: Channel,
    counted: Counted,
) {
    loop {
        let next = tokio::select! {
            biased;
            () = out.closed() => break,
            next = down.message() => next,
        };
        match next {
            Ok(Some(SiteDown::News(news))) => {
                if out.send(news).await.is_err() {
                    break;
                }
            }
            Ok(_) => break,
            Err(status) => {
                debug!(%status, "a site's stream broke");
                break;
            }
        }
    }
    drop((down, over, channel, counted));
}

/// The edge's end of a site's stream.
#[derive(Debug)]
pub(crate) struct SiteDownward(State);

#[derive(Debug)]
enum State {
    Refused(SiteRefused),
    Open {
        said: bool,
        news: mpsc::Receiver<(SiteId, SiteNews)>,
        /// Tells [`take_up`] that the room is gone.
        _gone: oneshot::Sender<()>,
        _counted: Counted,
    },
    Over,
}

impl SiteDownward {
    /// Refuses what that node asked for. A node that takes nothing in now is no news: it was asked before that was known.
    pub(crate) fn refused(
        from: &NodeId,
        OpenSite { room, site, term, .. }: &OpenSite,
        why: SiteRefused,
    ) -> Self {
        metrics::counter!("tureen_link_sites_refused_total", "why" => why.name()).increment(1);
        let (site, epoch) = (site.0, term.epoch.0);
        match why {
            SiteRefused::NotNow => debug!(node = %from, %room, site, epoch, %why, "a room's site is refused"),
            _ => warn!(node = %from, %room, site, epoch, %why, "a room's site is refused"),
        }
        Self(State::Refused(why))
    }

    /// Carries a site that was taken in. What is to be done there is read by a task that ends with the stream.
    pub(crate) fn open(taken: TakenSite, up: Streaming<SiteUp>) -> Self {
        let TakenSite { ops, news, over } = taken;
        let (gone, is_gone) = oneshot::channel();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                _ = is_gone => {}
                () = over => {}
                () = take_up(ops, up) => {}
            }
        });
        Self(State::Open { said: false, news, _gone: gone, _counted: Counted::new("edge") })
    }
}

impl Stream for SiteDownward {
    type Item = Result<SiteDown, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let message = match &mut self.0 {
            State::Refused(why) => Some(SiteDown::Refused(why.clone())),
            State::Open { said, .. } if !*said => {
                *said = true;
                return Poll::Ready(Some(Ok(SiteDown::Opened)));
            }
            State::Open { news, .. } => match std::task::ready!(news.poll_recv(cx)) {
                Some((_, news)) => return Poll::Ready(Some(Ok(SiteDown::News(news)))),
                None => None,
            },
            State::Over => None,
        };
        self.0 = State::Over;
        Poll::Ready(message.map(Ok))
    }
}

/// Hands the site its work, in order. Anything else is the end of the stream.
async fn take_up(ops: mpsc::Sender<SiteOp>, mut up: Streaming<SiteUp>) {
    while let Ok(Some(SiteUp::Op(op))) = up.message().await {
        if ops.send(op).await.is_err() {
            return;
        }
    }
}

/// Counts a site while it lives.
#[derive(Debug)]
struct Counted(&'static str);

impl Counted {
    fn new(side: &'static str) -> Self {
        metrics::gauge!("tureen_link_sites", "side" => side).increment(1);
        Self(side)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::gauge!("tureen_link_sites", "side" => self.0).decrement(1);
    }
}
