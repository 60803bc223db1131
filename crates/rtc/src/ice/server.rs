//! The state machine: Binding requests in, responses and events out.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;

use super::{IceEvent, IceState, Tuple};
use crate::stun::{Class, IntegrityKey, Method, StunBuilder, StunMessage};

/// Valid tuples at a time. A peer has a few addresses and protocols; more is roaming, or a game.
pub const MAX_TUPLES: usize = 8;

/// How long a peer may be silent before its consent expires, unless configured (RFC 7675 section 5.1).
pub const DEFAULT_CONSENT_TIMEOUT: Duration = Duration::from_secs(30);
/// The shortest consent timeout that can be configured, as in mediasoup.
pub const MIN_CONSENT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest consent timeout that can be configured, as in mediasoup.
pub const MAX_CONSENT_TIMEOUT: Duration = Duration::from_secs(60);

/// Counters of one server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IceStats {
    /// Binding requests that were granted.
    pub requests: u64,
    /// Requests that were refused with an error response.
    pub refused: u64,
    /// Error responses not sent, as they would have been longer than the request.
    pub suppressed: u64,
    /// Indications and responses, which have no meaning here.
    pub ignored: u64,
}

/// A username fragment with its password's key.
#[derive(Debug)]
struct Credentials {
    username_fragment: String,
    password: String,
    key: IntegrityKey,
}

impl Credentials {
    fn new(username_fragment: String, password: String) -> Self {
        let key = IntegrityKey::new(&password);
        Self { username_fragment, password, key }
    }

    fn vouch_for(&self, request: &StunMessage<'_>) -> bool {
        request.local_username_fragment() == Some(&self.username_fragment)
            && request.check_integrity(&self.key)
    }
}

/// An ICE lite agent in the controlled role.
///
/// After each call, [`Self::poll_event`] until it is empty; [`Self::next_timeout`] says when to call
/// [`Self::handle_timeout`].
#[derive(Debug)]
pub struct IceServer {
    credentials: Credentials,
    /// From a restart until the peer uses the new ones. Boxed: it is rare, and holds a kilobyte of HMAC state.
    old_credentials: Option<Box<Credentials>>,
    state: IceState,
    /// Oldest first.
    tuples: ArrayVec<Tuple, MAX_TUPLES>,
    selected: Option<Tuple>,
    /// Highest counter of a renomination in this session.
    nomination: u32,
    consent_timeout: Option<Duration>,
    consent_deadline: Option<Instant>,
    events: VecDeque<IceEvent>,
    stats: IceStats,
}

impl IceServer {
    /// A server with its first credentials. A consent timeout of zero means that consent never expires;
    /// others are brought into [`MIN_CONSENT_TIMEOUT`] to [`MAX_CONSENT_TIMEOUT`].
    pub fn new(username_fragment: String, password: String, consent_timeout: Duration) -> Self {
        let consent_timeout = (!consent_timeout.is_zero())
            .then(|| consent_timeout.clamp(MIN_CONSENT_TIMEOUT, MAX_CONSENT_TIMEOUT));
        let events = VecDeque::from([IceEvent::UsernameFragmentAdded(username_fragment.clone())]);
        Self {
            credentials: Credentials::new(username_fragment, password),
            old_credentials: None,
            state: IceState::New,
            tuples: ArrayVec::new(),
            selected: None,
            nomination: 0,
            consent_timeout,
            consent_deadline: None,
            events,
            stats: IceStats::default(),
        }
    }

    /// The current username fragment.
    pub fn username_fragment(&self) -> &str {
        &self.credentials.username_fragment
    }

    /// The current password.
    pub fn password(&self) -> &str {
        &self.credentials.password
    }

    /// The current state.
    pub fn state(&self) -> IceState {
        self.state
    }

    /// Where to send.
    pub fn selected_tuple(&self) -> Option<Tuple> {
        self.selected
    }

    /// All valid tuples, oldest first.
    pub fn tuples(&self) -> &[Tuple] {
        &self.tuples
    }

    /// Whether the tuple is valid: what comes on it may be DTLS or SRTP of the peer's.
    pub fn is_valid_tuple(&self, tuple: &Tuple) -> bool {
        self.selected.as_ref() == Some(tuple) || self.tuples.contains(tuple)
    }

    /// The counters.
    pub fn stats(&self) -> IceStats {
        self.stats
    }

    /// Takes a STUN message that came on `tuple`. Writes the response, which is to be sent back there, into
    /// `out` (128 bytes do) and returns its length; `None` when there is none.
    pub fn handle_message(
        &mut self,
        message: &StunMessage<'_>,
        tuple: Tuple,
        now: Instant,
        out: &mut [u8],
    ) -> Option<usize> {
        if message.class() != Class::Request {
            self.stats.ignored = self.stats.ignored.saturating_add(1);
            return None;
        }
        if message.method() != Method::BINDING {
            return self.refuse(message, 400, "unknown method", out);
        }
        if !message.has_fingerprint() {
            return self.refuse(message, 400, "no FINGERPRINT", out);
        }
        if message.priority().is_none() {
            return self.refuse(message, 400, "no PRIORITY", out);
        }
        if !message.has_integrity() || message.username().is_none() {
            return self.refuse(message, 400, "no credentials", out);
        }
        let Some(key) = self.authenticate(message) else {
            return self.refuse(message, 401, "", out);
        };
        if message.ice_controlled().is_some() {
            // RFC 8445 section 7.3.1.1: a lite agent stays controlled whatever the peer thinks.
            self.stats.refused = self.stats.refused.saturating_add(1);
            return StunBuilder::new(out, Class::ErrorResponse, message.method(), message.transaction_id())
                .error_code(487, "role conflict")
                .finish(Some(&key))
                .ok();
        }
        let response =
            StunBuilder::new(out, Class::SuccessResponse, message.method(), message.transaction_id())
                .xor_mapped_address(tuple.remote)
                .finish(Some(&key));
        self.stats.requests = self.stats.requests.saturating_add(1);
        self.take_tuple(tuple, message);
        if matches!(self.state, IceState::Connected | IceState::Completed) {
            self.renew_consent(now);
        }
        response.ok()
    }

    /// Gives out new credentials. The old ones are good until the first request that uses the new.
    pub fn restart(&mut self, username_fragment: String, password: String, now: Instant) {
        let new = Credentials::new(username_fragment.clone(), password);
        let old = std::mem::replace(&mut self.credentials, new);
        if let Some(older) = self.old_credentials.replace(Box::new(old)) {
            self.events.push_back(IceEvent::UsernameFragmentRemoved(older.username_fragment));
        }
        self.events.push_back(IceEvent::UsernameFragmentAdded(username_fragment));
        self.nomination = 0;
        if self.consent_deadline.is_some() {
            self.renew_consent(now);
        }
    }

    /// Takes out a tuple that is no more, such as a closed TCP connection. Where it was the selected one,
    /// the newest of the others takes its place; if there is none, the state is
    /// [`IceState::Disconnected`].
    pub fn remove_tuple(&mut self, tuple: &Tuple, now: Instant) {
        if !self.forget(tuple) || self.selected.as_ref() != Some(tuple) {
            return;
        }
        self.selected = None;
        match self.tuples.last().copied() {
            Some(next) => {
                self.select(next);
                self.renew_consent(now);
            }
            None => self.disconnect(),
        }
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.consent_deadline
    }

    /// Ends the connection when the peer's consent has expired by `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.consent_deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        for tuple in std::mem::take(&mut self.tuples) {
            self.events.push_back(IceEvent::TupleRemoved(tuple));
        }
        self.selected = None;
        self.disconnect();
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<IceEvent> {
        self.events.pop_front()
    }

    /// Gives up everything, so that the events say what the owner must take from its tables.
    pub fn close(&mut self) {
        for tuple in std::mem::take(&mut self.tuples) {
            self.events.push_back(IceEvent::TupleRemoved(tuple));
        }
        self.selected = None;
        self.consent_deadline = None;
        if let Some(old) = self.old_credentials.take() {
            self.events.push_back(IceEvent::UsernameFragmentRemoved(old.username_fragment));
        }
        let current = self.credentials.username_fragment.clone();
        self.events.push_back(IceEvent::UsernameFragmentRemoved(current));
    }

    /// The key that the request was made with, of the current or the old credentials.
    fn authenticate(&mut self, request: &StunMessage<'_>) -> Option<IntegrityKey> {
        if self.credentials.vouch_for(request) {
            if let Some(old) = self.old_credentials.take() {
                self.events.push_back(IceEvent::UsernameFragmentRemoved(old.username_fragment));
            }
            return Some(self.credentials.key.clone());
        }
        self.old_credentials.as_ref().filter(|old| old.vouch_for(request)).map(|old| old.key.clone())
    }

    /// Writes an error response to a request that nobody vouches for: shorter than the request, or not at
    /// all, so that a forged sender's address gets no more than was spent on it.
    fn refuse(
        &mut self,
        request: &StunMessage<'_>,
        code: u16,
        reason: &str,
        out: &mut [u8],
    ) -> Option<usize> {
        let most = request.len().min(out.len());
        let out = out.get_mut(..most)?;
        for reason in [reason, ""] {
            let builder =
                StunBuilder::new(out, Class::ErrorResponse, request.method(), request.transaction_id());
            if let Ok(len) = builder.error_code(code, reason).finish(None) {
                self.stats.refused = self.stats.refused.saturating_add(1);
                return Some(len);
            }
        }
        self.stats.suppressed = self.stats.suppressed.saturating_add(1);
        None
    }

    /// Notes the tuple of a granted request, and selects it where that is called for.
    fn take_tuple(&mut self, tuple: Tuple, request: &StunMessage<'_>) {
        self.add(tuple);
        let nomination = request.nomination();
        let newer = nomination.filter(|&counter| counter > self.nomination);
        let connected = matches!(self.state, IceState::Connected | IceState::Completed);
        if !request.use_candidate() && nomination.is_none() {
            // Until the peer nominates, the first tuple does.
            if !connected {
                self.select(tuple);
                self.change_state(IceState::Connected);
            }
            return;
        }
        // Before completion a stale counter outweighs USE-CANDIDATE; afterwards either is enough. That is
        // mediasoup's rule, and clients have been tried against it.
        let nominated = match self.state {
            IceState::Completed => newer.is_some() || request.use_candidate(),
            _ => newer.is_some() || nomination.is_none(),
        };
        if !nominated {
            return;
        }
        self.nomination = newer.unwrap_or(self.nomination);
        self.select(tuple);
        self.change_state(IceState::Completed);
    }

    fn add(&mut self, tuple: Tuple) {
        if self.tuples.contains(&tuple) {
            return;
        }
        if self.tuples.is_full() {
            let oldest = self.tuples.iter().copied().find(|old| Some(*old) != self.selected);
            if let Some(oldest) = oldest {
                self.forget(&oldest);
            }
        }
        if self.tuples.try_push(tuple).is_ok() {
            self.events.push_back(IceEvent::TupleAdded(tuple));
        }
    }

    fn forget(&mut self, tuple: &Tuple) -> bool {
        let Some(position) = self.tuples.iter().position(|other| other == tuple) else {
            return false;
        };
        self.tuples.remove(position);
        self.events.push_back(IceEvent::TupleRemoved(*tuple));
        true
    }

    fn select(&mut self, tuple: Tuple) {
        if self.selected != Some(tuple) {
            self.selected = Some(tuple);
            self.events.push_back(IceEvent::TupleSelected(tuple));
        }
    }

    fn change_state(&mut self, state: IceState) {
        if self.state != state {
            self.state = state;
            self.events.push_back(IceEvent::StateChanged(state));
        }
    }

    fn disconnect(&mut self) {
        self.nomination = 0;
        self.consent_deadline = None;
        self.change_state(IceState::Disconnected);
    }

    fn renew_consent(&mut self, now: Instant) {
        self.consent_deadline = self.consent_timeout.and_then(|timeout| now.checked_add(timeout));
    }
}
