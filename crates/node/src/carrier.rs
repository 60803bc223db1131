//! Carries one session between a gateway and its room, wherever that is: when the room moves, the session goes on at the new
//! owner, and neither the gateway nor its client hears of it.
//!
//! The two ways do not wait for each other: a client that does not read must not keep the room from hearing it. While the room
//! moves nothing is carried; what the client says waits, and then it waits.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use cluster::lease::{Epoch, Term};
use host::{FarEnd, FromClient, Loss, Move, NotResumed, Session, ToClient};
use links::OpenedSession;
use rand::RngExt;
use room::{PeerId, RoomId};
use tokio::sync::{mpsc, watch};
use tracing::{debug, info};

use crate::control::{Inner, Node};
use crate::rooms::{Messages, NotOpened};

/// Messages of a client that wait for its room. Then the gateway reads no more of its frames.
const UP: usize = 16;
/// Messages for a client that wait for its gateway. Behind them is the room's own queue of the session.
const DOWN: usize = 64;
/// How long a room that stands still may take until it is known where it goes on: longer than its own node waits.
const STANDS: Duration = Duration::from_secs(12);
/// How long the new owner may take until it has the room.
const ATTACH: Duration = Duration::from_secs(3);
/// How long a room may take to hear that a client leaves.
const LEAVE: Duration = Duration::from_secs(2);
/// Between two attempts: something in this range, in milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 5..25;
/// The same where nobody has the room: until a dead owner may be replaced.
const SEARCH_PAUSE_MS: std::ops::Range<u64> = 50..150;

/// One session.
pub(crate) struct Carrier {
    node: Weak<Inner>,
    room: RoomId,
    peer: PeerId,
    /// Whether its client can come back.
    stays: bool,
    session: Session,
    messages: mpsc::Receiver<ToClient>,
    term: Term,
    newest: watch::Receiver<Term>,
    up: FarEnd,
    out: mpsc::Sender<ToClient>,
}

/// What woke it.
enum Woken {
    Superseded,
    Told(Option<ToClient>),
    Passed,
    Deaf,
    Said(Option<FromClient>),
    Heard(bool),
}

impl Carrier {
    /// Carries an opened session. The two are the gateway's end.
    pub(crate) fn start(
        node: &Node,
        room: RoomId,
        peer: PeerId,
        stays: bool,
        opened: OpenedSession,
        newest: watch::Receiver<Term>,
    ) -> (Session, Messages) {
        let OpenedSession { session, messages, term, .. } = opened;
        let (near, up) = Session::far(session.id(), UP);
        let (out, told) = mpsc::channel(DOWN);
        let node = Arc::downgrade(&node.0);
        let carrier = Self { node, room, peer, stays, session, messages, term, newest, up, out };
        // Ends with the gateway's end of the session, or the room's.
        tokio::spawn(carrier.run());
        (near, told)
    }

    async fn run(mut self) {
        let (mut down, mut said): (Option<ToClient>, Option<FromClient>) = (None, None);
        // A gateway that hears nothing any more may still have to say that its client leaves.
        let (mut hears, mut is_heard) = (true, true);
        loop {
            let woken = tokio::select! {
                biased;
                Ok(_) = self.newest.wait_for(|newest| *newest > self.term), if hears => Woken::Superseded,
                place = self.out.reserve(), if down.is_some() => match (place, down.take()) {
                    (Ok(place), Some(message)) => {
                        place.send(message);
                        Woken::Passed
                    }
                    _ => Woken::Deaf,
                },
                message = self.messages.recv(), if hears && down.is_none() => Woken::Told(message),
                place = self.session.ready(), if is_heard && said.is_some() => match (place, said.take()) {
                    (Ok(place), Some(message)) => {
                        place.say(message);
                        Woken::Heard(true)
                    }
                    _ => Woken::Heard(false),
                },
                message = self.up.recv(), if said.is_none() => Woken::Said(message),
            };
            match woken {
                Woken::Superseded => return self.lose(Loss::Superseded).await,
                Woken::Told(Some(ToClient::Move(Move::Freeze))) => {
                    if let Err(last) = self.follow().await {
                        if let Some(last) = last {
                            let _ = self.out.send(last).await;
                        }
                        return;
                    }
                    is_heard = true;
                }
                // It stays after all, or has not stood still.
                Woken::Told(Some(ToClient::Move(_))) | Woken::Passed => {}
                Woken::Told(Some(last @ (ToClient::Close { .. } | ToClient::Lost(_)))) => {
                    let _ = self.out.send(last).await;
                    return;
                }
                Woken::Told(Some(message)) => down = Some(message),
                Woken::Told(None) => return,
                Woken::Deaf => hears = false,
                Woken::Said(Some(FromClient::Leave)) => return self.leave().await,
                Woken::Said(None) => return,
                Woken::Said(message) => said = message.filter(|_| is_heard),
                // The reason is on its way down.
                Woken::Heard(heard) => is_heard = heard,
            }
        }
    }

    /// The client leaves for good. The session's messages end when its room knows; dropped before, a link could end without
    /// having said it, and the room would keep the client's place.
    async fn leave(self) {
        let Self { session, mut messages, .. } = self;
        let left = async {
            session.leave().await;
            while messages.recv().await.is_some() {}
        };
        // Unheard, it is away, and has left when its time is over.
        let _ = tokio::time::timeout(LEAVE, left).await;
    }

    async fn lose(self, loss: Loss) {
        let _ = self.out.send(ToClient::Lost(loss)).await;
    }

    /// The room stands still: waits until it is known where it goes on, and goes on there. The error is the last that the client
    /// is told.
    async fn follow(&mut self) -> Result<(), Option<ToClient>> {
        let begun = Instant::now();
        let until = tokio::time::Instant::now() + STANDS;
        let held = async {
            if let Ok(place) = self.session.ready().await {
                place.say(FromClient::Held);
            }
        };
        // The room takes all that it is told until it stands still.
        if tokio::time::timeout_at(until, held).await.is_err() {
            return Err(Some(ToClient::Lost(Loss::Unreachable)));
        }
        let mut ended = false;
        let target = loop {
            let (term, newest) = (&self.term, &mut self.newest);
            let higher =
                async { newest.wait_for(|newest| *newest > *term).await.map(|newest| newest.clone()) };
            let search = search(&self.node, &self.room, term);
            tokio::select! {
                biased;
                message = self.messages.recv(), if !ended => match message {
                    Some(ToClient::Move(Move::Stay)) => return Ok(()),
                    Some(ToClient::Move(Move::To { epoch, node })) => {
                        let Ok(node) = node.parse() else { return Err(Some(ToClient::Lost(Loss::Superseded))) };
                        break Term { epoch: Epoch(epoch), node };
                    }
                    Some(ToClient::Move(Move::Freeze)) => {}
                    Some(last @ ToClient::Close { .. }) => return Err(Some(last)),
                    // Its node is gone, and the room may not be: whoever was offered it may have it by now.
                    Some(ToClient::Lost(_)) | None => ended = true,
                    // It goes on where it was, and says so in a moment.
                    Some(message) => {
                        if self.out.send(message).await.is_err() {
                            return Err(None);
                        }
                    }
                },
                Ok(newest) = higher => break newest,
                // Nobody else may ask for the room, and whom nobody asks claims nothing.
                found = search, if ended => match found {
                    Some(found) => break found,
                    None => return Err(Some(ToClient::Lost(Loss::Unreachable))),
                },
                () = tokio::time::sleep_until(until) => {
                    return Err(Some(ToClient::Lost(Loss::Unreachable)));
                }
            }
        };
        self.attach(target).await.map_err(|loss| Some(ToClient::Lost(loss)))?;
        let took_ms = begun.elapsed().as_secs_f64() * 1000.0;
        metrics::histogram!("tureen_session_move_ms").record(took_ms);
        metrics::counter!("tureen_sessions_moved_total").increment(1);
        info!(room = %self.room, peer = %self.peer, owner = %self.term.node, took_ms, "a session went on with its room");
        Ok(())
    }

    /// Goes on at the new owner. Where that one dies before it has told of itself, another claims the room, which then has no such
    /// session: the client joins it anew.
    async fn attach(&mut self, mut target: Term) -> Result<(), Loss> {
        let until = Instant::now() + ATTACH;
        loop {
            let node = Node(self.node.upgrade().ok_or(Loss::Unreachable)?);
            let attached =
                node.attach(&self.room, self.peer.clone(), self.session.id(), self.stays, target.clone());
            match attached.await {
                Ok((opened, newest)) => {
                    let OpenedSession { session, messages, term, .. } = opened;
                    (self.session, self.messages) = (session, messages);
                    (self.term, self.newest) = (term, newest);
                    return Ok(());
                }
                // It is not ready yet, or another has it by now.
                Err(NotOpened::Elsewhere(why)) if Instant::now() < until => {
                    debug!(room = %self.room, owner = %target.node, ?why, "the new owner has not the room yet");
                }
                Err(NotOpened::NotResumed(NotResumed::Unreachable)) if Instant::now() < until => {}
                Err(_) => return Err(Loss::Superseded),
            }
            // Answered when it has the room; if it is dead, by whoever has the room instead.
            let found = node.find(&self.room, true).await;
            drop(node);
            pause(if found.is_ok() { PAUSE_MS } else { SEARCH_PAUSE_MS }).await;
            let newest = self.newest.borrow().clone();
            target = found.into_iter().chain([newest]).fold(target, Ord::max);
        }
    }
}

/// Looks for whoever has a room under a higher term than this, and has somebody claim it once its owner is known to be dead. `None`:
/// the owner lives and has it still.
async fn search(node: &Weak<Inner>, room: &RoomId, above: &Term) -> Option<Term> {
    loop {
        let found = Node(node.upgrade()?).find(room, true).await;
        if let Ok(term) = found {
            return (term > *above).then_some(term);
        }
        pause(SEARCH_PAUSE_MS).await;
    }
}

async fn pause(range_ms: std::ops::Range<u64>) {
    let pause = rand::rng().random_range(range_ms);
    tokio::time::sleep(Duration::from_millis(pause)).await;
}
