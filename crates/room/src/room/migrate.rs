//! Peers that leave a site which drains, within their sessions and make-before-break: a peer is asked to (`migrate`), makes
//! new transports at its new site, produces on them what it produces on the old ones, and is offered there what it
//! receives. When it says that it has all, and those who receive it have what takes the place of the old, the old
//! transports are closed. Meanwhile it is at two sites: whatever is not at [`super::Peer::site`] is old.
//!
//! Some are asked at a time. Who cannot, or has not done it in time, is sent to join again.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::link::{Link, MediaLink};
use super::pipe::Flow;
use super::{Peer, Room};
use crate::error::RoomError;
use crate::event::Counter;
use crate::id::{ConsumerId, DataProducerId, ProducerId, RequestId, SessionId, SiteId, TransportId};
use crate::message::{Layers, Notification, Receives, Reply, close_code};

/// Peers of one room that migrate at once: each is a join's worth of work for workers and links.
const AT_ONCE: usize = 32;
/// Of these, so many begin in one round, and as many are sent away: the beginning is most of the work, and what others ask of
/// the room waits for it.
const A_ROUND: usize = 8;
/// How often it is looked who is next, and who is late.
const ROUND: Duration = Duration::from_millis(250);
/// How long what is replaced is kept once what takes its place was accepted, a producer by all who receive it: until the new
/// one's key frame is surely shown…
pub(super) const SETTLES: Duration = Duration::from_millis(1000);
/// …and a producer, for one of them that does not answer, so long at most.
const SETTLES_AT_MOST: Duration = Duration::from_secs(4);

/// A peer on its way from one site to another. Its times are not part of its serde form: [`MigrationLeft`] is.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Migration {
    /// When the peer must have said that it has all.
    #[serde(skip)]
    until: Option<Instant>,
    /// What said so, and waits for an answer.
    done: Option<RequestId>,
    /// Since when those who receive it have all of it, too.
    #[serde(skip)]
    settled: Option<Instant>,
    /// When it ends in any case.
    #[serde(skip)]
    by: Option<Instant>,
}

/// The times of a migration, as ages and what is left of them.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct MigrationLeft {
    until: Option<Duration>,
    settled_for: Option<Duration>,
    by: Option<Duration>,
}

impl Migration {
    pub(super) fn left(&self, now: Instant) -> MigrationLeft {
        let left = |until: Instant| until.saturating_duration_since(now);
        MigrationLeft {
            until: self.until.map(left),
            settled_for: self.settled.map(|since| now.saturating_duration_since(since)),
            by: self.by.map(left),
        }
    }

    pub(super) fn restore(&mut self, left: &MigrationLeft, now: Instant) {
        let within = |left: Option<Duration>| left.and_then(|left| now.checked_add(left));
        self.until = within(left.until);
        self.settled = left.settled_for.and_then(|age| now.checked_sub(age));
        self.by = within(left.by);
    }
}

/// What a new consumer has from the one that it takes the place of.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    pub(super) replaces: Option<ConsumerId>,
    pub(super) paused_by_client: bool,
    pub(super) preferred: Option<Layers>,
    pub(super) priority: Option<u8>,
}

impl Room {
    /// When the next round is due.
    pub(super) fn next_migration(&self) -> Option<Instant> {
        self.migrate_at
    }

    /// A round, if it is time for one.
    pub(super) fn migrate_some(&mut self, now: Instant) {
        if self.migrate_at.is_none_or(|at| at > now) {
            return;
        }
        self.end_migrations(now);
        let under_way = self.held().migrating;
        let drains = |peer: &Peer| self.is_draining(peer.site) && peer.migration.is_none();
        let there: Vec<_> = self.peers.iter().filter(|(_, peer)| drains(peer)).map(|(id, _)| *id).collect();
        for session in there.into_iter().take(AT_ONCE.saturating_sub(under_way).min(A_ROUND)) {
            self.have_leave(session, now);
        }
        let goes_on = self.held().migrating > 0 || self.any_draining();
        self.migrate_at = goes_on.then(|| now.checked_add(ROUND)).flatten();
    }

    /// Has one peer leave its site.
    fn have_leave(&mut self, session: SessionId, now: Instant) {
        let Some(peer) = self.peers.get(&session) else { return };
        let has_nothing = peer.transports.is_empty() && peer.transports_coming.is_empty();
        let joined = peer.joined.as_ref();
        let can = joined.is_some_and(|joined| joined.migrates && joined.receives == Receives::Offered);
        if !has_nothing && !can {
            self.count(Counter::NotMigrating);
            self.send_away(session, "the node with your media is about to end: join again", now);
            return;
        }
        let region = peer.region.clone();
        let to = self.place(region.as_ref(), Some(now));
        let Some(peer) = self.peers.get_mut(&session) else { return };
        if has_nothing {
            peer.site = to;
            self.receive_at(session, to);
            return;
        }
        if to == peer.site {
            // There is nowhere to go, yet.
            return;
        }
        peer.site = to;
        let until = now.checked_add(self.limits.migrate());
        peer.migration = Some(Migration { until, done: None, settled: None, by: None });
        self.count(Counter::Migrating);
        self.notify(session, Notification::Migrate { within_ms: self.limits.migrate_ms });
    }

    fn send_away(&mut self, session: SessionId, reason: &'static str, now: Instant) {
        self.leave(session, now);
        self.close_session(session, close_code::MOVED, reason);
    }

    /// A client has at its new site what it had at the old one.
    pub(super) fn migrated(
        &mut self,
        session: SessionId,
        request: RequestId,
        now: Instant,
    ) -> Result<Option<Reply>, RoomError> {
        let peer = self.joined_mut(session)?;
        let Some(migration) = &mut peer.migration else { return Ok(Some(Reply::Done)) };
        if migration.done.is_some() {
            let text = "migrated was said before: its answer comes when the old transports are closed";
            return Err(RoomError::Invalid(text.to_owned()));
        }
        migration.done = Some(request);
        migration.by = now.checked_add(SETTLES_AT_MOST);
        self.migrate_at = Some(now);
        Ok(None)
    }

    /// Those that are over, and those that are late.
    fn end_migrations(&mut self, now: Instant) {
        let under_way = self.peers.iter().filter(|(_, peer)| peer.migration.is_some());
        for session in under_way.map(|(session, _)| *session).collect::<Vec<_>>() {
            let is_settled = self.is_settled(session);
            let Some(migration) = self.peers.get_mut(&session).and_then(|peer| peer.migration.as_mut())
            else {
                continue;
            };
            let is_over = match migration.done {
                Some(_) if migration.by.is_none_or(|by| by <= now) => true,
                Some(_) => match is_settled {
                    Settled::Nobody => true,
                    Settled::All => {
                        let since = *migration.settled.get_or_insert(now);
                        now.saturating_duration_since(since) >= SETTLES
                    }
                    Settled::NotYet => {
                        migration.settled = None;
                        false
                    }
                },
                None if migration.until.is_none_or(|until| until <= now) => {
                    self.count(Counter::MigrationOverdue);
                    self.send_away(session, "the media did not move in time: join again", now);
                    false
                }
                None => false,
            };
            if is_over {
                self.end_migration(session);
            }
        }
    }

    fn end_migration(&mut self, session: SessionId) {
        let Some(peer) = self.peers.get_mut(&session) else { return };
        let (site, migration) = (peer.site, peer.migration.take());
        self.receive_at(session, site);
        for transport in self.old_transports(session, |at| at != site) {
            self.transport_closed(&transport);
        }
        self.count(Counter::Migrated);
        if let Some(request) = migration.and_then(|migration| migration.done) {
            self.reply(session, request, Ok(Reply::Done));
        }
    }

    /// A peer that was to go to another site is at its old one after all.
    pub(super) fn stay(&mut self, session: SessionId) {
        if let Some(peer) = self.peers.get_mut(&session)
            && peer.site == peer.receiving
            && let Some(migration) = peer.migration.take()
            && let Some(request) = migration.done
        {
            let nowhere = "no worker has place for its media now".to_owned();
            self.reply(session, request, Err(RoomError::Unavailable(nowhere)));
        }
    }

    /// The site that peers were leaving is gone: those who migrate have only what is at the new one.
    pub(super) fn leave_lost(&mut self, lost: SiteId) {
        let here = self.peers.iter().filter(|(_, peer)| {
            peer.receiving == lost || peer.transports.values().any(|transport| transport.site == lost)
        });
        for session in here.map(|(session, _)| *session).collect::<Vec<_>>() {
            if let Some(site) = self.peers.get(&session).map(|peer| peer.site) {
                self.receive_at(session, site);
            }
            for transport in self.old_transports(session, |at| at == lost) {
                self.transport_closed(&transport);
            }
        }
    }

    fn old_transports(&self, session: SessionId, of: impl Fn(SiteId) -> bool) -> Vec<TransportId> {
        let transports = self.peers.get(&session).into_iter().flat_map(|peer| &peer.transports);
        transports.filter(|(_, transport)| of(transport.site)).map(|(id, _)| id.clone()).collect()
    }

    /// From now on a peer receives at the site where its transports are made. What it receives elsewhere goes on until
    /// that is closed; what was about to be received there is brought to it here.
    pub(super) fn receive_at(&mut self, session: SessionId, to: SiteId) {
        let Some(peer) = self.peers.get_mut(&session) else { return };
        if peer.receiving == to || peer.site != to {
            return;
        }
        let from = std::mem::replace(&mut peer.receiving, to);
        let consumers = std::mem::take(&mut peer.consumers);
        peer.old_consumers.extend(consumers);
        let consumers = std::mem::take(&mut peer.data_consumers);
        peer.old_data_consumers.extend(consumers);
        for id in self.producers.keys().cloned().collect::<Vec<_>>() {
            self.set_aside(&id, session, from);
        }
        for id in self.data_producers.keys().cloned().collect::<Vec<_>>() {
            self.set_data_aside(&id, session, from);
        }
    }

    fn set_aside(&mut self, id: &ProducerId, session: SessionId, from: SiteId) {
        let Some(producer) = self.producers.get_mut(id) else { return };
        match producer.receivers.remove(&session) {
            Some(Link::Consumer(consumer)) => self.set_consumer_aside(id, session, consumer),
            Some(link) => {
                self.stop_waiting(session, link);
                let others = self.beside_old(id, session, from);
                self.pipes.release(&Flow::Media(id.clone()), from, others, session);
            }
            None => {}
        }
    }

    fn set_data_aside(&mut self, id: &DataProducerId, session: SessionId, from: SiteId) {
        let Some(producer) = self.data_producers.get_mut(id) else { return };
        match producer.receivers.remove(&session) {
            Some(Link::Consumer(consumer)) => {
                producer.old.insert(session, consumer);
            }
            Some(link) => {
                self.stop_waiting_for_data(session, link);
                self.pipes.release(&Flow::Data(id.clone()), from, .., session);
            }
            None => {}
        }
    }

    /// What a consumer that is about to be offered takes the place of: what its receiver has of the same producer at the
    /// site that it leaves, or has of the producer that this one replaces.
    pub(super) fn inherited(&self, id: &ProducerId, receiver: SessionId) -> Inherited {
        let Some(producer) = self.producers.get(id) else { return Inherited::default() };
        let replaced = producer.replaces.as_ref().and_then(|replaced| self.producers.get(replaced));
        let current = replaced.and_then(|replaced| {
            let current = replaced.receivers.get(&receiver).and_then(Link::consumer);
            current.or_else(|| replaced.old.get(&receiver))
        });
        let Some(before) = producer.old.get(&receiver).or(current) else { return Inherited::default() };
        let Some(consumer) = self.consumers.get(before) else { return Inherited::default() };
        // A client that does not read what is replaced would not know that it has to resume it.
        let joined = self.peers.get(&receiver).and_then(|peer| peer.joined.as_ref());
        Inherited {
            replaces: Some(before.clone()),
            paused_by_client: consumer.paused_by_client && joined.is_some_and(|joined| joined.migrates),
            preferred: consumer.preferred,
            priority: consumer.priority,
        }
    }

    /// Whether those who receive what a peer has replaced receive what replaces it.
    fn is_settled(&self, session: SessionId) -> Settled {
        let mut settled = Settled::Nobody;
        let accepted = |link: Option<&MediaLink>| match link {
            Some(Link::Consumer(id)) => self.consumers.get(id).is_some_and(|consumer| consumer.accepted),
            Some(Link::Refused) => true,
            _ => false,
        };
        for (id, replacing) in &self.producers {
            let Some(replaced) = replacing.replaces.as_ref().filter(|_| replacing.owner == session) else {
                continue;
            };
            let Some(old) = self.producers.get(replaced) else { continue };
            let receivers = old.receivers.iter().filter(|(_, link)| link.consumer().is_some());
            for receiver in receivers.map(|(receiver, _)| receiver).chain(old.old.keys()) {
                if !accepted(self.producers.get(id).and_then(|new| new.receivers.get(receiver))) {
                    return Settled::NotYet;
                }
                settled = Settled::All;
            }
        }
        settled
    }
}

/// Whether those who receive a peer that migrates have what it has replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settled {
    /// Nobody receives anything of it.
    Nobody,
    All,
    NotYet,
}
