//! Who has a room: gateways' questions, answered by what is known, the store, and those who may have it.

use std::time::Instant;

use cluster::directory::{Directory, Step};
use cluster::keeper::{Answer, Refusal};
use cluster::lease::{Lease, Term};
use cluster::node::{Node as Identity, NodeId};
use cluster::placement::{BUSY, Candidate, order};
use room::RoomId;
use tokio::sync::oneshot;
use tracing::{debug, info};

use super::{Control, Input};

/// One room that is looked for, and who waits for it.
#[derive(Debug)]
pub(super) struct Search {
    number: u64,
    waiting: Vec<oneshot::Sender<Result<Term, Refusal>>>,
}

impl Control {
    pub(super) fn find(
        &mut self,
        room: RoomId,
        turned_away: bool,
        answer: oneshot::Sender<Result<Term, Refusal>>,
    ) {
        if let Some(search) = self.searches.get_mut(&room) {
            search.waiting.push(answer);
            return;
        }
        let step = if turned_away {
            self.directory.search(&room)
        } else {
            self.directory.find(&room, &self.view, Instant::now())
        };
        if let Step::Owner(term) = step {
            let _ = answer.send(Ok(term));
            return;
        }
        self.last_search += 1;
        self.searches.insert(room.clone(), Search { number: self.last_search, waiting: vec![answer] });
        self.go(room, step);
    }

    /// The store answered a search.
    pub(super) fn read(&mut self, room: RoomId, search: u64, found: Option<Option<Lease>>) {
        self.store_answers = found.is_some();
        if !self.is_current(&room, search) {
            return;
        }
        self.decide(room, |directory, control, room| {
            directory.read(room, found, || control.place(room, &[]), &control.view, Instant::now())
        });
    }

    /// A node answered a search.
    pub(super) fn answered(&mut self, room: RoomId, search: u64, asked: &NodeId, answer: Option<Answer>) {
        if !self.is_current(&room, search) {
            return;
        }
        self.decide(room, |directory, control, room| {
            directory.answered(room, asked, answer, |full| control.place(room, full))
        });
    }

    /// Goes on as the directory says. It may want the room placed, which looks at everything but the directory, and is not done
    /// otherwise.
    fn decide(&mut self, room: RoomId, step: impl FnOnce(&mut Directory, &Self, &RoomId) -> Step) {
        let mut directory = std::mem::take(&mut self.directory);
        let step = step(&mut directory, self, &room);
        self.directory = directory;
        self.go(room, step);
    }

    fn is_current(&self, room: &RoomId, search: u64) -> bool {
        self.searches.get(room).is_some_and(|current| current.number == search)
    }

    fn go(&mut self, room: RoomId, step: Step) {
        let Some(search) = self.searches.get(&room).map(|search| search.number) else { return };
        debug!(%room, ?step, "search");
        match step {
            Step::Owner(term) => {
                self.view.note_epoch(term.epoch);
                self.terms.saw(&room, &term);
                self.end(&room, &Ok(term));
            }
            Step::NotNow(why) => self.end(&room, &Err(why)),
            Step::Read => {
                let store = self.store.clone();
                self.beside(async move {
                    let found = store.read(&room).await.ok().map(|(lease, _)| lease);
                    Input::Read { room, search, found }
                });
            }
            Step::Ask { node, floor } => self.ask(room, search, node, floor),
        }
    }

    fn ask(&mut self, room: RoomId, search: u64, node: NodeId, floor: Option<Term>) {
        let me = self.settings.identity.id.clone();
        if node == me {
            let (answer, answered) = oneshot::channel();
            let question = room.clone();
            let asked = me.clone();
            self.beside(async move { Input::Answered { room, search, asked, answer: answered.await.ok() } });
            self.asked(me, question, floor, answer);
            return;
        }
        let known = self.members.borrow().members.get(&node).cloned();
        let links = self.links.clone();
        self.beside(async move {
            let answer = match known {
                Some(known) => links.ask(&known.node, room.clone(), floor).await.ok(),
                None => None,
            };
            Input::Answered { room, search, asked: node, answer }
        });
    }

    fn end(&mut self, room: &RoomId, result: &Result<Term, Refusal>) {
        let Some(search) = self.searches.remove(room) else { return };
        for waiting in search.waiting {
            let _ = waiting.send(result.clone());
        }
    }

    /// The media nodes of a region that may take a site of a room, best first.
    pub(super) fn edges(&self, room: &RoomId, region: &str) -> Vec<Identity> {
        let candidates = self.candidates(Instant::now());
        let near = candidates.iter().filter(|candidate| {
            let is_there = candidate.region.as_str() == region && candidate.id != self.settings.identity.id;
            let takes_it = candidate.available && candidate.measured.highest() <= BUSY;
            if is_there && !takes_it {
                let Candidate { id, measured, available, .. } = candidate;
                info!(%room, edge = %id, ?measured, available, "a media node is passed over for a site of a room");
            }
            is_there && takes_it
        });
        let view = self.members.borrow();
        let known = |candidate: &Candidate| Some(view.members.get(&candidate.id)?.node.clone());
        order(room, near).into_iter().filter_map(known).collect()
    }

    pub(super) fn candidates(&self, now: Instant) -> Vec<Candidate> {
        let view = self.members.borrow();
        // This node knows it before the store does.
        let is_leaving = |known: &store::membership::Known| {
            self.draining.is_some() && known.node.id == self.settings.identity.id
        };
        let media = view.members.values().filter(|known| known.node.roles.media);
        media
            .map(|known| Candidate {
                id: known.node.id.clone(),
                region: known.node.region.clone(),
                weight: known.node.capacity.weight,
                load: known
                    .counts
                    .map_or(0, |counts| u64::from(counts.producers) + u64::from(counts.consumers)),
                measured: known.load,
                available: !(known.node.draining
                    || is_leaving(known)
                    || self.view.is_suspect(&known.node.id, now)),
                // Of itself it knows more than the others do.
                full: match known.node.id == self.settings.identity.id {
                    true => self.is_full(),
                    false => known.node.full,
                },
            })
            .collect()
    }
}
