//! One site's media: carries out a room's operations on a worker, and turns what the worker tells into the room's
//! events. Holds the handles; decides nothing.

mod news;
mod operations;
mod pipe;
mod router;
mod settings;

use std::future::Future;
use std::pin::Pin;
use std::time::Instant;

use media::{
    Consumer, DataConsumer, DataProducer, EventReceiver, EventSender, MediaError, PipeTransport,
    PlainTransport, Producer, RefusalKind, WebRtcTransport, WorkerPool,
};
use room::{DataProducerId, MediaDone, MediaFailure, MediaOp, OpId, Place, ProducerId, RoomId, TransportId};
use serde::Serialize;
use tracing::warn;

use self::router::Home;
pub use self::settings::{MediaSettings, PlainListen};
use crate::full;
use crate::objects::Objects;
use crate::site::SiteNews;
use crate::spread::Spread;

/// Events of one room that wait to be read.
const EVENTS: usize = 1024;
/// From this much of a core on a worker is busy: new peers go elsewhere. What is left is for those it has, whose pictures
/// grow and change.
const BUSY_PERMILLE: u32 = 800;
/// Below this it is not busy any more.
const IDLE_PERMILLE: u32 = 600;

const WORKER_DIED: &str = "the media worker died";

/// Media work under way.
pub(crate) type Work = Pin<Box<dyn Future<Output = Finished> + Send>>;

type Outcomes = Pin<Box<dyn Future<Output = Result<Outcome, Failed>> + Send>>;

/// Media work that ended. Given back to [`MediaSide::finish`], which keeps the handles in it.
pub(crate) struct Finished {
    op: OpId,
    result: Result<Outcome, Failed>,
}

/// Why media work came to nothing.
enum Failed {
    /// The worker has as much as it may. Many clients may ask for more.
    Full(String),
    /// The worker has ended, and all that the room had on it.
    WorkerGone,
    /// Anything else.
    Otherwise(MediaFailure),
}

enum Outcome {
    /// Nothing to keep.
    Plain(MediaDone),
    Home(Home),
    Transport(WebRtcTransport),
    PlainTransport(PlainTransport),
    Pipe(PipeTransport),
    PipedOut(Consumer, TransportId, ProducerId),
    PipedDataOut(DataConsumer, TransportId, DataProducer, DataProducerId),
    Producer(Producer, TransportId),
    Consumer(Consumer, TransportId, ProducerId),
    DataProducer(DataProducer, TransportId),
    DataConsumer(DataConsumer, TransportId, DataProducerId),
}

/// What a site may have a router on.
pub(crate) struct Surroundings {
    pub(crate) pool: WorkerPool,
    pub(crate) spread: Spread,
    pub(crate) room: RoomId,
    pub(crate) place: Place,
}

pub(crate) struct MediaSide {
    surroundings: Surroundings,
    settings: MediaSettings,
    events: EventSender,
    home: Option<Home>,
    busy: bool,
    objects: Objects,
}

impl MediaSide {
    pub(crate) fn new(surroundings: Surroundings, settings: MediaSettings) -> (Self, EventReceiver) {
        let (events, receiver) = media::event_queue(EVENTS);
        let objects = Objects::default();
        (Self { surroundings, settings, events, home: None, busy: false, objects }, receiver)
    }

    /// Begins an operation. Handles are looked up now; what closes is forgotten now.
    pub(crate) fn start(&mut self, op: OpId, what: MediaOp) -> Work {
        let work = self.work(what);
        Box::pin(async move { Finished { op, result: work.await } })
    }

    /// Returns when the worker has become busy, or is so no more.
    pub(crate) async fn busy(&mut self) -> bool {
        let busy = self.busy;
        let turned =
            |permille: &u32| if busy { *permille < IDLE_PERMILLE } else { *permille >= BUSY_PERMILLE };
        let watched = match &mut self.home {
            Some(home) => home.cpu.wait_for(turned).await.is_ok(),
            None => false,
        };
        if !watched {
            // No worker yet, or none any more: then something else will be heard of.
            std::future::pending::<()>().await;
        }
        self.busy = !busy;
        self.busy
    }

    /// Keeps what an operation made, and says what the room is to be told. Nothing, if the router is lost or about to be:
    /// then [`SiteEvent::Lost`] speaks for all, and a client that is told to join again must not hear of an error before.
    pub(crate) fn finish(&mut self, finished: Finished) -> Option<SiteNews> {
        let Finished { op, result } = finished;
        let result = match result {
            // Its WorkerDied came before it was ours, and was not taken for ours.
            Ok(Outcome::Home(home)) if home.router.is_closed() => {
                Err(MediaFailure::Unavailable(WORKER_DIED.to_owned()))
            }
            Ok(outcome) => Ok(self.keep(outcome)),
            Err(Failed::Full(text)) => {
                if full::WORKER.is_news(Instant::now()) {
                    warn!(
                        "full: {text}; limits.transports_per_worker says how many transports, or add a worker or a node"
                    );
                }
                let result = Err(MediaFailure::Unavailable(text));
                return Some(SiteNews::Done { op, result });
            }
            Err(Failed::WorkerGone) if self.home.is_some() => return None,
            Err(_) if self.home.as_ref().is_some_and(|home| home.router.is_closed()) => return None,
            Err(Failed::WorkerGone) => Err(MediaFailure::Unavailable(WORKER_DIED.to_owned())),
            Err(Failed::Otherwise(failure)) => Err(failure),
        };
        if let Err(failure) = &result {
            warn!(?failure, "media work failed");
        }
        Some(SiteNews::Done { op, result })
    }
}

fn plain(ask: impl Future<Output = Result<MediaDone, MediaError>> + Send + 'static) -> Outcomes {
    Box::pin(async move { ask.await.map(Outcome::Plain).map_err(failure) })
}

fn done(ask: impl Future<Output = Result<(), MediaError>> + Send + 'static) -> Outcomes {
    plain(async move { ask.await.map(|()| MediaDone::Done) })
}

fn nothing_to_do() -> Outcomes {
    Box::pin(std::future::ready(Ok(Outcome::Plain(MediaDone::Done))))
}

fn gone(what: &'static str) -> Outcomes {
    let text = format!("the {what} is gone");
    Box::pin(std::future::ready(Err(Failed::Otherwise(MediaFailure::Unavailable(text)))))
}

fn refused(why: &str) -> Outcomes {
    Box::pin(std::future::ready(Err(Failed::Otherwise(MediaFailure::Refused(why.to_owned())))))
}

fn failure(error: MediaError) -> Failed {
    let text = error.to_string();
    Failed::Otherwise(match error {
        MediaError::WorkerGone => return Failed::WorkerGone,
        MediaError::Negotiation(_)
        | MediaError::Refused { kind: RefusalKind::Type, .. }
        | MediaError::NoSuchProducer(_)
        | MediaError::TooLong(_) => MediaFailure::Refused(text),
        MediaError::Limit { what, .. } => {
            metrics::counter!("tureen_media_refused_total", "what" => what).increment(1);
            return Failed::Full(text);
        }
        MediaError::Closed | MediaError::Timeout { .. } => MediaFailure::Unavailable(text),
        MediaError::NoFreeStream => MediaFailure::Refused(text),
        MediaError::Refused { .. } | MediaError::UnexpectedAnswer(_) | MediaError::DuplicateId(_) => {
            MediaFailure::Internal(text)
        }
    })
}

/// Statistics and scores are plain structs of numbers and text: they have a JSON form.
fn json<T: Serialize + ?Sized>(value: &T) -> serde_json::Value {
    serde_json::to_value(value).unwrap_or_default()
}
