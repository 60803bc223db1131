//! Peers whose connection broke: they stay, with all they send and receive, until they come back or their time is over.

use std::time::Instant;

use super::Room;
use crate::event::Counter;
use crate::id::{AskId, SessionId};
use crate::message::close_code;

impl Room {
    /// The way to a client broke. What it holds stays, and media goes on.
    pub(super) fn detached(&mut self, session: SessionId, now: Instant) {
        if let Some(peer) = self.peers.get_mut(&session) {
            peer.detached.get_or_insert(now);
            self.count(Counter::Detached);
        }
    }

    /// It is back.
    pub(super) fn attached(&mut self, session: SessionId) {
        if let Some(peer) = self.peers.get_mut(&session) {
            peer.detached = None;
            self.count(Counter::Resumed);
        }
    }

    /// When the first detached peer's time is over.
    pub(super) fn next_detached(&self) -> Option<Instant> {
        let since = self.peers.values().filter_map(|peer| peer.detached).min()?;
        since.checked_add(self.limits.resume())
    }

    /// Those leave whose time is over.
    pub(super) fn leave_overdue(&mut self, now: Instant) {
        if self.next_detached().is_none_or(|due| due > now) {
            return;
        }
        let resume = self.limits.resume();
        let overdue = |since: Instant| since.checked_add(resume).is_some_and(|due| due <= now);
        let detached = self.peers.iter().filter(|(_, peer)| peer.detached.is_some_and(overdue));
        let sessions: Vec<_> = detached.map(|(session, _)| *session).collect();
        for session in sessions {
            self.count(Counter::DetachedTooLong);
            self.leave(session, now);
            self.close_session(session, close_code::GONE, "not back in time");
        }
    }

    /// A detached peer leaves whose client has closed its last transport: it took its media elsewhere, and does not come back.
    pub(super) fn leave_abandoned(&mut self, owner: Option<SessionId>, now: Instant) {
        let Some((session, peer)) = owner.and_then(|session| Some((session, self.peers.get(&session)?)))
        else {
            return;
        };
        if peer.detached.is_some() && peer.transports.is_empty() && peer.transports_coming.is_empty() {
            self.leave(session, now);
            self.close_session(session, close_code::GONE, "all its transports are closed");
        }
    }

    /// The questions that a client has not answered; `None` where there is no such session.
    pub fn open_asks(&self, session: SessionId) -> Option<Vec<AskId>> {
        self.peers.get(&session).map(|peer| peer.asks.keys().copied().collect())
    }

    /// Whether the peer of this session has joined.
    pub fn has_joined(&self, session: SessionId) -> bool {
        self.peers.get(&session).is_some_and(|peer| peer.joined.is_some())
    }
}
