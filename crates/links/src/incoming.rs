//! The room's end of a session whose gateway is on another node.

use std::pin::Pin;
use std::task::{Context, Poll};

use cluster::lease::Epoch;
use futures_util::Stream;
use host::{FromClient, Resumed, Session, ToClient};
use room::SessionId;
use tokio::sync::{mpsc, oneshot};
use tonic::{Status, Streaming};

use crate::error::OpenRefused;
use crate::server::Admitted;
use crate::wire::{Down, Up};

/// What comes down to the gateway. HTTP/2 asks for the next message when there is room for it; until then they wait in the
/// room's queue of the session.
#[derive(Debug)]
pub(crate) struct Downward(State);

#[derive(Debug)]
enum State {
    Refused(OpenRefused),
    Open {
        opened: Option<(SessionId, Option<String>, Option<Resumed>)>,
        epoch: Epoch,
        messages: mpsc::Receiver<ToClient>,
        /// Tells [`upward`] that the gateway is gone.
        _gone: oneshot::Sender<()>,
        _counted: Counted,
    },
    Over,
}

/// Counts a session while it lives.
#[derive(Debug)]
struct Counted;

impl Counted {
    fn new() -> Self {
        metrics::gauge!("tureen_link_sessions", "side" => "room").increment(1);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::gauge!("tureen_link_sessions", "side" => "room").decrement(1);
    }
}

impl Downward {
    pub(crate) fn refused(why: OpenRefused) -> Self {
        Self(State::Refused(why))
    }

    /// Carries a session that was let in. What its client says is read by a task that ends with the stream.
    pub(crate) fn open(admitted: Admitted, up: Streaming<Up>) -> Self {
        let Admitted { session, messages, term, token, resumed } = admitted;
        let (gone, is_gone) = oneshot::channel();
        let opened = Some((session.id(), token, resumed));
        tokio::spawn(upward(session, up, is_gone));
        Self(State::Open { opened, epoch: term.epoch, messages, _gone: gone, _counted: Counted::new() })
    }
}

impl Stream for Downward {
    type Item = Result<Down, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let (message, over) = match &mut self.0 {
            State::Refused(why) => (Down::Refused(why.clone()), true),
            State::Open { opened, epoch, messages, .. } => match opened.take() {
                Some((session, token, resumed)) => {
                    (Down::Opened { session, epoch: *epoch, token, resumed }, false)
                }
                None => match std::task::ready!(messages.poll_recv(cx)) {
                    Some(message) => {
                        let last = matches!(message, ToClient::Close { .. } | ToClient::Lost(_));
                        (Down::Say { epoch: *epoch, message }, last)
                    }
                    None => (Down::TooSlow, true),
                },
            },
            State::Over => return Poll::Ready(None),
        };
        if over {
            self.0 = State::Over;
        }
        Poll::Ready(Some(Ok(message)))
    }
}

/// Hands the room what the client says, one message at a time: while the room is busy, no more are read, and the gateway
/// waits. Dropping the session at the end is leaving, or being
/// away for a client that can come back and did not say that it leaves.
async fn upward(session: Session, mut up: Streaming<Up>, mut gone: oneshot::Receiver<()>) {
    loop {
        let next = tokio::select! {
            biased;
            _ = &mut gone => return,
            next = up.message() => next,
        };
        // Anything but a word of the client is the end of the stream.
        let Ok(Some(Up::Say(message))) = next else { return };
        if matches!(message, FromClient::Leave) {
            return session.leave().await;
        }
        if session.say(message).await.is_err() {
            return;
        }
    }
}
