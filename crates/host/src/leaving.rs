//! A room's task while its room moves to another node: it brings the room to a stand, writes it down, and waits for what
//! becomes of it. While it does, it does nothing that anybody would see; whatever happens, the room goes on in one place.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use room::{Event, Room, SessionId, SiteEvent, SiteId, close_code};
use tracing::{info, warn};

use crate::actor::RoomActor;
use crate::moving::{Key, Late, Move, Moving, Written};
use crate::session::{Control, FromClient, HandOver, Inbox, ToClient};
use crate::site::SiteNews;

/// How long gateways and sites may take to stand still: a way around the world and back, and a little. Whoever takes longer
/// is left behind.
const GATHER: Duration = Duration::from_millis(700);
/// How long it may take to be known whether another node has taken the room up. Sites wait a little longer.
const OUTCOME: Duration = Duration::from_secs(10);
/// What may happen while the room is brought to a stand. Beyond it, it does not move.
const LATE: usize = 65_536;
/// A room that takes more to write down does not move: its clients join again.
const MAX_BYTES: usize = 48 * 1024 * 1024;

/// What happened while the room was brought to a stand.
#[derive(Default)]
struct Gathered {
    late: Vec<Late>,
    /// They wait until it is known where the room is.
    comers: Vec<Inbox>,
    /// The room is to end here, and not to move.
    ends: bool,
}

impl RoomActor {
    pub(crate) async fn hand_over(&mut self, order: HandOver) {
        let HandOver { term, written, outcome } = order;
        if self.seats.values().any(|seat| seat.is_coming()) {
            // It has just come here itself, and not everybody has followed.
            return;
        }
        let begun = Instant::now();
        let Gathered { mut late, comers, mut ends } = self.gather().await;
        let mut moved = None;
        if !ends {
            let (moving, kept) = self.write(&term, late);
            late = kept;
            if let Some(moving) = moving {
                let (bytes, took) = (moving.bytes(), begun.elapsed());
                info!(room = %self.room.id(), bytes, ?took, "the room stands still and is written down");
                if written.send(moving).is_ok() {
                    moved = tokio::time::timeout(OUTCOME, outcome).await.ok().and_then(Result::ok);
                }
            }
        }
        let stood_ms = begun.elapsed().as_secs_f64() * 1000.0;
        metrics::histogram!("tureen_room_move_ms").record(stood_ms);
        if let Some((epoch, node)) = moved {
            info!(room = %self.room.id(), %node, epoch, stood_ms, "the room has moved");
            for seat in self.seats.values() {
                seat.tell_of_move(Move::To { epoch, node: node.clone() });
            }
            self.seats.clear();
            self.ended = true;
            return;
        }
        warn!(room = %self.room.id(), "the room does not move: it goes on here");
        self.adopt_sites(&term.1, (term.0, &term.1));
        for late in late {
            self.happened(late);
        }
        for seat in self.seats.values() {
            seat.tell_of_move(Move::Stay);
        }
        for comer in comers {
            self.message(comer);
        }
        ends |= self.ended;
        if ends {
            self.handle(Event::Shutdown);
        }
    }

    /// Has everybody stand still.
    async fn gather(&mut self) -> Gathered {
        let mut gathered = Gathered::default();
        let attached = self.seats.iter().filter(|(_, seat)| seat.is_attached());
        let mut unheld: HashSet<SessionId> = attached.map(|(session, _)| *session).collect();
        for seat in self.seats.values() {
            // Whoever cannot be told does not answer.
            seat.tell_of_move(Move::Freeze);
        }
        let mut unparked: HashSet<SiteId> = self.sites.park().into_iter().collect();
        let until = tokio::time::sleep(GATHER);
        tokio::pin!(until);
        while !(unheld.is_empty() && unparked.is_empty() || gathered.ends) {
            tokio::select! {
                biased;
                control = self.control.recv() => match control {
                    Some(Control::Leave(session, attachment)) => {
                        if self.seats.get(&session).is_none_or(|seat| seat.is_latest(attachment)) {
                            unheld.remove(&session);
                            gathered.late.push(Late::Left(session));
                        }
                    }
                    Some(Control::Detach(session, attachment)) => {
                        if self.seats.get(&session).is_some_and(|seat| seat.is_latest(attachment)) {
                            unheld.remove(&session);
                            gathered.late.push(Late::Away(session));
                        }
                    }
                    // One move at a time.
                    Some(Control::HandOver(_)) => {}
                    Some(Control::Shutdown) | None => gathered.ends = true,
                },
                Some((site, news)) = self.news.recv() => match news {
                    SiteNews::Parked => {
                        unparked.remove(&site);
                    }
                    news => {
                        if news == SiteNews::Event(SiteEvent::Lost) {
                            unparked.remove(&site);
                        }
                        gathered.late.push(Late::News(site, news));
                    }
                },
                message = self.inbox.recv() => match message {
                    Some(Inbox::Said { session, attachment, message }) => {
                        if !self.seats.get(&session).is_some_and(|seat| seat.is(attachment)) {
                            continue;
                        }
                        if message == FromClient::Held {
                            unheld.remove(&session);
                        } else {
                            gathered.late.push(Late::Said(session, message));
                        }
                    }
                    Some(comer) => gathered.comers.push(comer),
                    None => gathered.ends = true,
                },
                () = &mut until => break,
            }
            gathered.ends |= gathered.late.len() > LATE;
        }
        for session in unheld {
            metrics::counter!("tureen_sessions_left_behind_total").increment(1);
            if let Some(mut seat) = self.seats.remove(&session) {
                let reason = "the room has moved: join again".into();
                seat.tell(None, ToClient::Close { code: close_code::MOVED, reason });
            }
            gathered.late.push(Late::Left(session));
        }
        for site in unparked {
            gathered.late.push(Late::News(site, SiteNews::Event(SiteEvent::Lost)));
        }
        gathered
    }

    /// Writes the room down; it is as it was afterwards.
    fn write(&mut self, (epoch, node): &(u64, String), late: Vec<Late>) -> (Option<Moving>, Vec<Late>) {
        let now = Instant::now();
        let settings = &self.shared.settings;
        let limits = settings.room_limits.clone();
        let empty = Room::new(self.room.id().clone(), settings.room_type.clone(), limits.clone(), now);
        let snapshot = std::mem::replace(&mut self.room, empty).into_snapshot(now);
        let seats = self.seats.iter().map(|(session, seat)| seat.write(*session)).collect();
        let own: Option<Key> = self.shared.key((*epoch, node.clone()));
        let keys = self.keys.iter().cloned().chain(own).collect();
        let written = Written { room: &snapshot, seats, late, keys, from: node.clone() };
        let moving = Moving::write(&written).ok().filter(|moving| moving.bytes() <= MAX_BYTES);
        let late = written.late;
        self.room = snapshot.restore(limits, now).expect("it was written a moment ago by this program");
        (moving, late)
    }

    /// Takes up the room's sites, wherever they are; those without a place yet are on the node that had the room.
    pub(crate) fn adopt_sites(&mut self, from: &str, term: (u64, &str)) {
        let places: Vec<_> = self
            .room
            .places()
            .map(|(site, place)| (site, place.map_or_else(|| from.to_owned(), |place| place.node.clone())))
            .collect();
        for (site, node) in places {
            self.sites.adopt(site, &node, term);
        }
    }

    /// What happened while the room stood still.
    pub(crate) fn happened(&mut self, late: Late) {
        match late {
            Late::Said(session, message) => self.said(session, message),
            Late::News(site, news) => self.told(site, news),
            Late::Left(session) => {
                self.seats.remove(&session);
                self.handle(Event::Disconnected(session));
            }
            Late::Away(session) => {
                if let Some(seat) = self.seats.get_mut(&session) {
                    seat.go_away();
                    self.handle(Event::Detached(session));
                }
            }
        }
    }

    /// Whoever has not followed the room here until now does not.
    pub(crate) fn nobody_else_comes(&mut self) {
        self.coming_until = None;
        let late = self.seats.iter_mut().filter(|(_, seat)| seat.is_coming());
        let late: Vec<_> = late.map(|(session, seat)| (*session, seat.go_away())).collect();
        for (session, can_come_back) in late {
            metrics::counter!("tureen_sessions_left_behind_total").increment(1);
            if can_come_back {
                self.handle(Event::Detached(session));
            } else {
                self.seats.remove(&session);
                self.handle(Event::Disconnected(session));
            }
        }
    }
}
