//! What a worker tells without being asked, and the queue that carries it to whoever runs a Router.
//!
//! Many objects share one bounded queue, so that a room of thousands costs one. Events of two ranks go through it:
//! a *sample* (scores, volumes, bandwidth) is outdated by the next one and is dropped once the queue is three
//! quarters full; a *state* event is dropped only when the queue is full to the brim, and then
//! [`MediaEvent::Lagged`] says how many were, so that the reader can look at the state itself. Both are counted.

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use serde::Serialize;
use tokio::sync::mpsc;

use crate::{
    error::WorkerExit,
    id::{ConsumerId, ProducerId, RouterId, RtpObserverId, TransportId},
    stats::TransportTuple,
};

/// One event. Events about an object may come before the call that created it returns; they never come before the
/// call is made, and choosing the id oneself (the `id` of the options) removes the doubt.
#[derive(Debug, Clone, PartialEq)]
pub enum MediaEvent {
    /// About a transport.
    Transport {
        /// Which.
        id: TransportId,
        /// What.
        event: TransportEvent,
    },
    /// About a Producer.
    Producer {
        /// Which.
        id: ProducerId,
        /// What.
        event: ProducerEvent,
    },
    /// About a Consumer.
    Consumer {
        /// Which.
        id: ConsumerId,
        /// What.
        event: ConsumerEvent,
    },
    /// From an [`crate::AudioLevelObserver`], loudest first; empty when all fell silent.
    Volumes {
        /// Which observer.
        id: RtpObserverId,
        /// Who is how loud.
        volumes: Vec<Volume>,
    },
    /// From an [`crate::ActiveSpeakerObserver`].
    DominantSpeaker {
        /// Which observer.
        id: RtpObserverId,
        /// Who speaks.
        producer_id: ProducerId,
    },
    /// The Router's worker ended and the Router with it.
    WorkerDied {
        /// Which Router.
        id: RouterId,
        /// How the worker ended.
        exit: WorkerExit,
    },
    /// State events were lost because this queue was full.
    Lagged {
        /// How many.
        lost: u64,
    },
}

/// A transport's change of state.
#[derive(Debug, Clone, PartialEq)]
pub enum TransportEvent {
    /// ICE went on.
    IceState(IceState),
    /// Media now comes from and goes to another address.
    IceSelectedTuple(TransportTuple),
    /// DTLS went on.
    DtlsState(DtlsState),
    /// A PlainTransport with `comedia` learnt its remote address.
    Tuple(TransportTuple),
    /// The same for RTCP.
    RtcpTuple(TransportTuple),
    /// What congestion control towards the endpoint thinks, where
    /// [`crate::WebRtcTransport::trace_bandwidth`] asked for it: about once a second.
    Bandwidth(Bandwidth),
}

/// What congestion control thinks of the way to one endpoint, in bit/s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bandwidth {
    /// What all Consumers would take at their best.
    pub desired_bitrate: u64,
    /// The same, as far as limits allow.
    pub effective_desired_bitrate: u64,
    /// What the way is thought to bear.
    pub available_bitrate: u64,
}

/// Where ICE stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum IceState {
    /// Nothing came yet.
    New,
    /// A pair is in use.
    Connected,
    /// A nominated pair is in use.
    Completed,
    /// The client went silent.
    Disconnected,
}

/// Where DTLS stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DtlsState {
    /// Not begun.
    New,
    /// The handshake runs.
    Connecting,
    /// Media can flow.
    Connected,
    /// The handshake failed.
    Failed,
    /// The client ended it.
    Closed,
}

/// What happened to a Producer.
#[derive(Debug, Clone, PartialEq)]
pub enum ProducerEvent {
    /// How well its streams arrive.
    Score(Vec<ProducerScore>),
    /// The camera was turned.
    VideoOrientation(VideoOrientation),
}

/// How well one stream of a Producer arrives, 0 (not at all) to 10.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProducerScore {
    /// Which of its encodings.
    pub encoding_idx: u32,
    /// Its SSRC.
    pub ssrc: u32,
    /// Its RID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rid: Option<String>,
    /// The score.
    pub score: u8,
}

/// How a camera is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct VideoOrientation {
    /// Whether the source is a camera.
    pub camera: bool,
    /// Whether it is mirrored.
    pub flip: bool,
    /// Degrees clockwise: 0, 90, 180 or 270.
    pub rotation: u16,
}

/// What happened to a Consumer.
#[derive(Debug, Clone, PartialEq)]
pub enum ConsumerEvent {
    /// How well it is received.
    Score(ConsumerScore),
    /// Which layers it is sent now; `None` for nothing.
    LayersChange(Option<ConsumerLayers>),
    /// Its Producer was paused.
    ProducerPause,
    /// Its Producer was resumed.
    ProducerResume,
    /// Its Producer is closed, and the Consumer with it.
    ProducerClose,
}

/// How well a Consumer is received, 0 (not at all) to 10.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConsumerScore {
    /// Of what it is sent.
    pub score: u8,
    /// Of the Producer's stream that it is sent.
    pub producer_score: u8,
    /// Of all of the Producer's streams.
    pub producer_scores: Vec<u8>,
}

/// A choice of layers, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConsumerLayers {
    /// The resolution.
    pub spatial_layer: u8,
    /// The frame rate; the highest where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temporal_layer: Option<u8>,
}

/// How loud a Producer is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    /// Which.
    pub producer_id: ProducerId,
    /// In dBov, -127 (silence) to 0.
    pub volume: i8,
}

/// The receiving end of an event queue.
pub type EventReceiver = mpsc::Receiver<MediaEvent>;

/// The sending end of an event queue; several Routers may share one.
#[derive(Debug, Clone)]
pub struct EventSender(std::sync::Arc<Queue>);

#[derive(Debug)]
struct Queue {
    sender: mpsc::Sender<MediaEvent>,
    samples_dropped: AtomicU64,
    states_lost: AtomicU64,
    /// Lost, and not yet told of.
    untold: Mutex<u64>,
}

/// A queue for `capacity` events (at least 8). 1,024 is ample for a room: state events come at the pace of people.
#[must_use]
pub fn event_queue(capacity: usize) -> (EventSender, EventReceiver) {
    let (sender, receiver) = mpsc::channel(capacity.max(8));
    let queue = Queue {
        sender,
        samples_dropped: AtomicU64::new(0),
        states_lost: AtomicU64::new(0),
        untold: Mutex::new(0),
    };
    (EventSender(std::sync::Arc::new(queue)), receiver)
}

impl EventSender {
    /// Samples dropped because the queue was three quarters full.
    #[must_use]
    pub fn samples_dropped(&self) -> u64 {
        self.0.samples_dropped.load(Ordering::Relaxed)
    }

    /// State events lost because the queue was full.
    #[must_use]
    pub fn states_lost(&self) -> u64 {
        self.0.states_lost.load(Ordering::Relaxed)
    }

    pub(crate) fn send(&self, event: MediaEvent) {
        let queue = &self.0;
        if event.is_sample() {
            if queue.sender.capacity() <= queue.sender.max_capacity() / 4
                || queue.sender.try_send(event).is_err()
            {
                queue.samples_dropped.fetch_add(1, Ordering::Relaxed);
            }
            return;
        }
        let mut untold = queue.untold.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *untold > 0 && queue.sender.try_send(MediaEvent::Lagged { lost: *untold }).is_ok() {
            *untold = 0;
        }
        if let Err(mpsc::error::TrySendError::Full(_)) = queue.sender.try_send(event) {
            if *untold == 0 {
                tracing::error!(
                    "a room's event queue is full: state events are being lost, the room is overloaded"
                );
            }
            *untold += 1;
            queue.states_lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl MediaEvent {
    /// Whether a later event of the same object makes this one worthless.
    fn is_sample(&self) -> bool {
        match self {
            Self::Producer { event, .. } => matches!(event, ProducerEvent::Score(_)),
            Self::Consumer { event, .. } => matches!(event, ConsumerEvent::Score(_)),
            Self::Volumes { .. } | Self::Transport { event: TransportEvent::Bandwidth(_), .. } => true,
            Self::Transport { .. }
            | Self::DominantSpeaker { .. }
            | Self::WorkerDied { .. }
            | Self::Lagged { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(id: usize) -> MediaEvent {
        MediaEvent::Consumer { id: id.to_string().into(), event: ConsumerEvent::ProducerPause }
    }

    fn sample() -> MediaEvent {
        MediaEvent::Consumer { id: "sample".into(), event: ConsumerEvent::Score(ConsumerScore::default()) }
    }

    #[test]
    fn samples_leave_a_quarter_of_the_queue_to_state_events() {
        let (sender, mut receiver) = event_queue(8);
        for _ in 0..20 {
            sender.send(sample());
        }
        assert_eq!(sender.samples_dropped(), 14);
        sender.send(state(1));
        sender.send(state(2));
        assert_eq!(sender.states_lost(), 0);
        let received = std::iter::from_fn(|| receiver.try_recv().ok()).collect::<Vec<_>>();
        assert_eq!(received.len(), 8);
        assert_eq!(received[6..], [state(1), state(2)]);
    }

    #[test]
    fn the_loss_of_state_events_is_told_when_there_is_room_again() {
        let (sender, mut receiver) = event_queue(8);
        for id in 0..11 {
            sender.send(state(id));
        }
        assert_eq!(sender.states_lost(), 3);
        while receiver.try_recv().is_ok() {}
        sender.send(state(11));
        assert_eq!(receiver.try_recv(), Ok(MediaEvent::Lagged { lost: 3 }));
        assert_eq!(receiver.try_recv(), Ok(state(11)));
    }
}
