//! This node's own rooms: what the keeper decides about them, carried out.

use std::time::{Instant, SystemTime};

use cluster::keeper::{Action, Answer, Event, Refusal, Ticket};
use cluster::lease::{Lease, Term};
use cluster::node::NodeId;
use futures_util::StreamExt;
use room::RoomId;
use store::{RoomFacts, Round, ServerFacts, Store};
use tokio::sync::oneshot;
use tracing::{debug, info, warn};

use super::{Admitted, Control, EMPTY_BEATS, Input, NodeSettings};

/// Confirmations under way at once.
const CONFIRMATIONS: usize = 64;

impl Control {
    pub(super) fn asked(
        &mut self,
        from: NodeId,
        room: RoomId,
        floor: Option<Term>,
        answer: oneshot::Sender<Answer>,
    ) {
        let has = self.keeper.term(&room).is_some();
        // What was offered to another node is that one's, or about to be released.
        let leaves = self.draining.is_some() || self.handed.contains_key(&room);
        if self.host.is_none() || leaves && !has {
            let _ = answer.send(Answer::NotNow(Refusal::NotHere));
            return;
        }
        self.asks.entry((from.clone(), room.clone())).or_default().push(answer);
        self.keep(Event::Ask { from, room, floor });
    }

    pub(super) fn admit(&mut self, room: RoomId, answer: oneshot::Sender<Result<Admitted, Refusal>>) {
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        self.tickets.insert(ticket, answer);
        self.keep(Event::Admit { room, ticket });
    }

    /// A peer that was let in is in its room, or is not coming.
    pub(super) fn opened(&mut self, room: &RoomId) {
        if let Some(count) = self.opening.get_mut(room) {
            *count -= 1;
            if *count == 0 {
                self.opening.remove(room);
            }
        }
        // It may have opened a room that was taken from this node meanwhile.
        if self.keeper.term(room).is_none() && !self.handed.contains_key(room) {
            self.close(room);
        }
    }

    /// A room's task has ended.
    pub(super) fn room_ended(&mut self, room: RoomId) {
        if !self.is_in_use(&room) {
            self.keep(Event::Ended(room));
        }
    }

    fn is_in_use(&self, room: &RoomId) -> bool {
        self.opening.contains_key(room) || self.host.as_ref().is_some_and(|host| host.has(room))
    }

    /// Confirms what this node has, and gives up what nobody came to.
    pub(super) fn beat(&mut self) {
        let owned: Vec<RoomId> = self.keeper.owned().map(|(room, _)| room.clone()).collect();
        self.created.retain(|room, _| self.claiming > 0 || owned.contains(room));
        self.empty.retain(|room, _| owned.contains(room));
        for room in owned {
            if self.is_in_use(&room) {
                self.empty.remove(&room);
                continue;
            }
            let beats = self.empty.entry(room.clone()).or_default();
            *beats += 1;
            if *beats >= EMPTY_BEATS {
                self.keep(Event::Ended(room));
            }
        }
        if self.host.is_some() {
            let store = self.store.clone();
            self.beside(async move { Input::Round(store.begin_round().await.ok()) });
        }
        self.terms.forget_unwatched();
        self.directory.forget_unused(|room| self.terms.has(room));
    }

    /// A round of confirmations begins: of all rooms that this node has by now. Once the store has answered for each, it may
    /// count this node among those whose rooms it knows.
    pub(super) fn confirm_all(&mut self, round: Option<Round>) {
        self.store_answers = round.is_some();
        let Some(round) = round else { return };
        let mut leases = Vec::new();
        for action in self.keeper.handle(Event::Beat, &mut self.view, Instant::now()) {
            match action {
                Action::Confirm { room, own } => leases.push((room, own)),
                other => self.carry_out(other),
            }
        }
        // A claim under way is something that this node may have: it says nothing until it knows.
        let complete = self.claiming == 0;
        let leases: Vec<_> = leases.into_iter().map(|(room, own)| (self.facts(&room), room, own)).collect();
        let (store, inputs, identity) =
            (self.store.clone(), self.inputs.clone(), self.settings.identity.clone());
        tokio::spawn(async move {
            let confirmed = futures_util::stream::iter(leases).map(|(facts, room, own)| {
                let (store, inputs) = (&store, &inputs);
                async move {
                    let (event, answered) = confirm(store.clone(), room, own, facts, Instant::now()).await;
                    if let Some(inputs) = inputs.upgrade() {
                        let _ = inputs.send(Input::Keeper { event, store_answered: answered }).await;
                    }
                    answered
                }
            });
            let all = confirmed
                .buffer_unordered(CONFIRMATIONS)
                .fold(complete, |all, answered| std::future::ready(all && answered))
                .await;
            if all && let Err(error) = store.registered(&identity, &round).await {
                debug!(%error, "not registered this time");
            }
        });
    }

    pub(super) fn keep(&mut self, event: Event) {
        let actions = self.keeper.handle(event, &mut self.view, Instant::now());
        for action in actions {
            self.carry_out(action);
        }
    }

    pub(super) fn carry_out(&mut self, action: Action) {
        match action {
            Action::Read(room) => {
                let store = self.store.clone();
                self.beside(async move {
                    let found = store.read(&room).await.ok();
                    Input::Keeper { store_answered: found.is_some(), event: Event::Read { room, found } }
                });
            }
            Action::Claim { room, seen, new } => {
                self.claiming += 1;
                self.created.insert(room.clone(), now_ms());
                let (store, facts) = (self.store.clone(), self.facts(&room));
                self.beside(async move {
                    let result = store.claim(&room, seen.as_ref(), &new, &facts).await.ok();
                    Input::Claimed(Event::Claimed { room, result })
                });
            }
            Action::Confirm { room, own } => {
                let (store, facts) = (self.store.clone(), self.facts(&room));
                // Asked from now on: whoever waits already is served by the answer.
                let confirming = confirm(store, room, own, facts, Instant::now());
                self.beside(async move {
                    let (event, store_answered) = confirming.await;
                    Input::Keeper { event, store_answered }
                });
            }
            Action::Release { room, term } => {
                info!(%room, epoch = term.epoch.0, "the room is over: its lease is released");
                let store = self.store.clone();
                tokio::spawn(async move {
                    // Unheard, the lease stays: whoever asks for the room next comes here, and it is claimed anew.
                    let _ = store.release(&room, &term).await;
                });
            }
            Action::Answer { to, room, answer } => {
                for asker in self.asks.remove(&(to, room)).unwrap_or_default() {
                    let _ = asker.send(answer.clone());
                }
            }
            Action::Open { room, term } => {
                info!(%room, epoch = term.epoch.0, "the room is this node's");
                self.arrive(&room, &term);
            }
            // Whoever offers a room does it by `offer`.
            Action::Offer { room, lease } => self.release(room, lease.term),
            Action::StepDown { room } => {
                warn!(%room, "another node has the room now: ending it here");
                metrics::counter!("tureen_cluster_rooms_lost_total").increment(1);
                self.close(&room);
            }
            Action::Admitted { ticket, room, term } => {
                let Some(answer) = self.tickets.remove(&ticket) else { return };
                *self.opening.entry(room.clone()).or_default() += 1;
                // If nobody waits any more, it comes back as opened at once.
                let _ = answer.send(Ok(Admitted { term, room, inputs: self.inputs.clone() }));
            }
            Action::Refused { ticket, why } => {
                metrics::counter!("tureen_cluster_admissions_refused_total", "why" => why.name())
                    .increment(1);
                if let Some(answer) = self.tickets.remove(&ticket) {
                    let _ = answer.send(Err(why));
                }
            }
        }
    }

    pub(super) fn close(&self, room: &RoomId) {
        if let Some(host) = &self.host {
            host.close(room);
        }
    }

    fn facts(&self, room: &RoomId) -> RoomFacts {
        let NodeSettings { identity, room_type, media_ip, .. } = &self.settings;
        let load = self.members.borrow().members.get(&identity.id).map_or(0, |me| me.load.highest());
        RoomFacts {
            room_type: room_type.clone(),
            server: ServerFacts {
                server_id: identity.id.clone(),
                ip: *media_ip,
                port: identity.link.port(),
                load,
            },
            created_ms: self.created.get(room).copied().unwrap_or_else(now_ms),
        }
    }
}

/// Confirms a lease: what the keeper is to know of it, and whether the store answered.
async fn confirm(
    store: Store,
    room: RoomId,
    own: Lease,
    facts: RoomFacts,
    asked_at: Instant,
) -> (Event, bool) {
    let result = store.confirm(&room, &own, &facts).await.ok();
    let answered = result.is_some();
    (Event::Confirmed { room, term: own.term, asked_at, result }, answered)
}

/// Milliseconds since 1970, for records that people read.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
