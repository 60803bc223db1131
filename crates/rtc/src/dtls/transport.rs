//! One DTLS association: handshake, fingerprint, keys, application data, end.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use boring::srtp::SrtpProfileId;
use boring::ssl::{ErrorCode, SslRef, SslStream};

use super::link::DatagramLink;
use super::{
    DtlsConnection, DtlsContext, DtlsError, DtlsEvent, DtlsFailure, DtlsRole, DtlsState, INITIAL_TIMEOUT,
    SrtpKeys,
};
use crate::certificate::{Fingerprint, pem};
use crate::srtp::Profile;

/// RFC 5764 section 4.2.
const EXPORTER_LABEL: &str = "EXTRACTOR-dtls_srtp";

/// Datagrams kept that come before [`DtlsTransport::start`]: a browser that has set up its side sends its
/// ClientHello (two datagrams) before our `connect` request is through. Its repeats fill the rest.
const MAX_EARLY: usize = 4;

/// How long a handshake may take from [`DtlsTransport::start`] until BoringSSL is through with it. A peer that answers a
/// little now and then, or has sent no ClientHello at all, would else hold its memory for as long as it likes. As a client
/// we repeat for the last time after 36 s: a path that then works still brings a connection about.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(60);

/// How long a flight waits for its answer at most, before its first repeat, its second and so on. BoringSSL doubles from
/// [`super::INITIAL_TIMEOUT`] up to a minute, which RFC 6347 section 4.2.4.1 and RFC 9147 section 5.8.2 leave to whoever
/// implements them: what chance has lost seven times is then not sent again for 13 s. Repeats come once
/// a second instead, a flight being a few kilobytes, as long as chance may explain it, and then as late as leaves some of
/// BoringSSL's twelve for a path that works late only. After the last it gives up: together these are more than
/// [`HANDSHAKE_DEADLINE`].
const LONGEST_WAITS_MS: [u64; 13] =
    [100, 200, 400, 800, 1000, 1000, 1000, 1000, 2000, 4000, 8000, 16_000, 25_000];

/// Longest plaintext of a record (RFC 8446 section 5.1).
const MAX_RECORD: usize = 16 * 1024;

/// One end of a DTLS association.
///
/// Order of calls: [`Self::start`] once; then, after each call that takes `now`, [`Self::poll_transmit`] and
/// [`Self::poll_event`] until they are empty, and [`Self::next_timeout`] for when to call
/// [`Self::handle_timeout`]. [`Self::set_remote_fingerprint`] may come at any time.
#[derive(Debug)]
pub struct DtlsTransport {
    context: DtlsContext,
    state: DtlsState,
    role: Option<DtlsRole>,
    /// From start to end; what ended needs no memory.
    stream: Option<SslStream<DatagramLink>>,
    handshake_done: bool,
    remote_fingerprint: Option<Fingerprint>,
    early: Vec<Vec<u8>>,
    outgoing: VecDeque<Vec<u8>>,
    events: VecDeque<DtlsEvent>,
    deadline: Option<Instant>,
    /// When an unfinished handshake is given up.
    give_up: Option<Instant>,
    /// When the last flight has waited for as long as it may, whatever BoringSSL's timer says.
    repeat_by: Option<Instant>,
    /// How often it went out again without anything having moved on.
    repeats: usize,
    dropped: u64,
}

impl DtlsTransport {
    /// A transport in state [`DtlsState::New`]. Takes hardly any memory before it is started.
    pub fn new(context: &DtlsContext) -> Self {
        Self {
            context: context.clone(),
            state: DtlsState::New,
            role: None,
            stream: None,
            handshake_done: false,
            remote_fingerprint: None,
            early: Vec::new(),
            outgoing: VecDeque::new(),
            events: VecDeque::new(),
            deadline: None,
            give_up: None,
            repeat_by: None,
            repeats: 0,
            dropped: 0,
        }
    }

    /// The current state.
    pub fn state(&self) -> DtlsState {
        self.state
    }

    /// The role, once started.
    pub fn role(&self) -> Option<DtlsRole> {
        self.role
    }

    /// Datagrams thrown away: too early, too late, or too many at a time.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether the peer began a handshake as client that waits for [`Self::start`].
    pub fn has_client_hello(&self) -> bool {
        // Behind the record's 13 bytes is the type of the handshake message; every fragment has it.
        self.early.iter().any(|datagram| datagram.get(13) == Some(&1))
    }

    /// Begins the handshake: a client sends, a server takes up what has come already. State is then
    /// [`DtlsState::Connecting`], or beyond it.
    ///
    /// # Errors
    /// [`DtlsError::Started`] the second time, [`DtlsError::Boring`] when BoringSSL has no memory.
    pub fn start(&mut self, role: DtlsRole, now: Instant) -> Result<(), DtlsError> {
        if self.role.is_some() {
            return Err(DtlsError::Started);
        }
        (self.context.timers.set_now)(now);
        let mut stream = SslStream::new(self.context.connection()?, DatagramLink::default())?;
        // Takes the role, and begins. What an error means the next read says again.
        let _ = match role {
            DtlsRole::Client => stream.connect(),
            DtlsRole::Server => stream.accept(),
        };
        self.stream = Some(stream);
        self.role = Some(role);
        self.state = DtlsState::Connecting;
        self.give_up = now.checked_add(HANDSHAKE_DEADLINE);
        self.repeat_by = longest_wait(0, now);
        self.drive(now);
        for datagram in std::mem::take(&mut self.early) {
            if role == DtlsRole::Server {
                self.handle_datagram(&datagram, now);
            }
        }
        Ok(())
    }

    /// Sets what the peer's certificate must hash to. When the handshake is through already, this is what
    /// leads to [`DtlsEvent::Connected`] or [`DtlsEvent::Failed`]. Once connected it has no effect.
    pub fn set_remote_fingerprint(&mut self, fingerprint: Fingerprint, now: Instant) {
        self.remote_fingerprint = Some(fingerprint);
        (self.context.timers.set_now)(now);
        self.check_handshake();
        self.settle(now);
    }

    /// Takes one datagram of the peer, from an address that ICE has validated.
    pub fn handle_datagram(&mut self, datagram: &[u8], now: Instant) {
        match &mut self.stream {
            Some(stream) => {
                stream.get_mut().incoming = Some(datagram.to_vec());
                self.drive(now);
            }
            // 22: a handshake record.
            None if self.state == DtlsState::New
                && self.early.len() < MAX_EARLY
                && datagram.first() == Some(&22) =>
            {
                self.early.push(datagram.to_vec());
            }
            None => self.dropped = self.dropped.saturating_add(1),
        }
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    /// Does what is due by `now`: repeats of lost flights, acknowledgements, the end of what takes too long.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        let Some(stream) = &mut self.stream else {
            self.deadline = None;
            return;
        };
        (self.context.timers.set_now)(now);
        let given_up = self.give_up.is_some_and(|end| end <= now);
        let alive = !given_up
            && if self.repeat_by.is_some_and(|end| end <= now) {
                // Where nothing comes of it, BoringSSL's timer is waited for.
                self.repeat_by = None;
                (self.context.timers.repeat_now)(stream.ssl_mut(), INITIAL_TIMEOUT)
            } else {
                (self.context.timers.handle_timeout)(stream.ssl_mut())
            };
        if alive {
            let link = stream.get_mut();
            if !link.outgoing.is_empty() {
                self.repeats = self.repeats.saturating_add(1);
                self.repeat_by = longest_wait(self.repeats, now);
            }
            self.drive(now);
        } else {
            self.fail(DtlsFailure::Timeout);
            self.settle(now);
        }
    }

    /// Writes the next datagram for the peer into `out`, which must hold [`super::MTU`] bytes, and returns
    /// its length.
    pub fn poll_transmit(&mut self, out: &mut [u8]) -> Option<usize> {
        loop {
            let datagram = self.outgoing.pop_front()?;
            match out.get_mut(..datagram.len()) {
                Some(slot) => {
                    slot.copy_from_slice(&datagram);
                    return Some(datagram.len());
                }
                None => self.dropped = self.dropped.saturating_add(1),
            }
        }
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<DtlsEvent> {
        self.events.pop_front()
    }

    /// Sends application data, as one record in one datagram.
    ///
    /// # Errors
    /// [`DtlsError::NotConnected`], [`DtlsError::Send`].
    pub fn send(&mut self, data: &[u8], now: Instant) -> Result<(), DtlsError> {
        let Some(stream) = self.stream.as_mut().filter(|_| self.state == DtlsState::Connected) else {
            return Err(DtlsError::NotConnected);
        };
        (self.context.timers.set_now)(now);
        let result = match stream.ssl_write(data) {
            Ok(_) => Ok(()),
            Err(error) => Err(DtlsError::Send(error.to_string())),
        };
        self.settle(now);
        result
    }

    /// Ends the association: sends close_notify if there is one to end. No event tells of it.
    pub fn close(&mut self, now: Instant) {
        if matches!(self.state, DtlsState::Connecting | DtlsState::Connected) {
            (self.context.timers.set_now)(now);
            self.end(DtlsState::Closed);
            self.settle(now);
        }
    }

    /// Lets BoringSSL work on what came in.
    fn drive(&mut self, now: Instant) {
        (self.context.timers.set_now)(now);
        let waiting = self.stream.as_ref().map(|stream| stream.get_ref().outgoing.len());
        let mut record = [0; MAX_RECORD];
        while let Some(stream) = &mut self.stream {
            // Reading goes on with the handshake as far as it can.
            let result = stream.ssl_read(&mut record);
            let finished = stream.ssl().is_init_finished();
            if finished && !self.handshake_done {
                self.handshake_done = true;
                self.check_handshake();
            }
            match result {
                Ok(len) => self.deliver(record.get(..len).unwrap_or_default()),
                Err(error) if error.would_block() => break,
                Err(error) if error.code() == ErrorCode::ZERO_RETURN => self.peer_closed(),
                Err(_) if self.state == DtlsState::Connected => self.peer_closed(),
                Err(error) => self.fail(DtlsFailure::Handshake(error.to_string())),
            }
        }
        if self.stream.as_ref().map(|stream| stream.get_ref().outgoing.len()) > waiting {
            // Something to answer came: what goes out now is the next flight.
            self.repeats = 0;
            self.repeat_by = longest_wait(0, now);
        }
        self.settle(now);
    }

    /// Application data count from a peer only that has proved who it is.
    fn deliver(&mut self, data: &[u8]) {
        if self.state == DtlsState::Connected {
            self.events.push_back(DtlsEvent::ApplicationData(data.to_vec()));
        } else {
            self.dropped = self.dropped.saturating_add(1);
        }
    }

    /// With handshake and fingerprint both there, decides on the connection.
    fn check_handshake(&mut self) {
        if self.state != DtlsState::Connecting || !self.handshake_done {
            return;
        }
        let (Some(stream), Some(role), Some(fingerprint)) =
            (&self.stream, self.role, &self.remote_fingerprint)
        else {
            return;
        };
        let certificate = stream.ssl().peer_certificate();
        let Some(certificate) = certificate.filter(|certificate| fingerprint.matches(certificate)) else {
            return self.fail(DtlsFailure::Fingerprint);
        };
        match export_keys(stream.ssl(), role) {
            Ok(srtp) => {
                let connection = DtlsConnection {
                    srtp,
                    remote_certificate: pem(&certificate),
                    version: stream.ssl().version_str(),
                };
                self.state = DtlsState::Connected;
                self.events.push_back(DtlsEvent::Connected(Box::new(connection)));
            }
            Err(failure) => self.fail(failure),
        }
    }

    fn peer_closed(&mut self) {
        if self.state == DtlsState::Connected {
            self.end(DtlsState::Closed);
            self.events.push_back(DtlsEvent::Closed);
        } else {
            self.fail(DtlsFailure::Closed);
        }
    }

    fn fail(&mut self, failure: DtlsFailure) {
        if self.state == DtlsState::Connecting {
            self.end(DtlsState::Failed);
            self.events.push_back(DtlsEvent::Failed(failure));
        }
    }

    /// Says goodbye as far as the handshake allows, and frees the connection.
    fn end(&mut self, state: DtlsState) {
        if let Some(mut stream) = self.stream.take() {
            // In the middle of a handshake BoringSSL has nothing to say, and says so by an error.
            let _ = stream.shutdown();
            self.take_outgoing(stream.get_mut());
        }
        self.state = state;
    }

    /// After each operation: datagrams and deadline out of the stream.
    fn settle(&mut self, now: Instant) {
        let Some(mut stream) = self.stream.take() else {
            self.deadline = None;
            return;
        };
        self.take_outgoing(stream.get_mut());
        if self.handshake_done {
            self.give_up = None;
        }
        let repeat = (self.context.timers.timeout)(stream.ssl()).and_then(|left| now.checked_add(left));
        let repeat = repeat.map(|at| self.repeat_by.map_or(at, |by| at.min(by)));
        self.deadline = repeat.into_iter().chain(self.give_up).min();
        self.stream = Some(stream);
    }

    fn take_outgoing(&mut self, link: &mut DatagramLink) {
        self.outgoing.append(&mut link.outgoing);
        self.dropped = self.dropped.saturating_add(std::mem::take(&mut link.dropped));
        // What a handshake has left would be a kilobyte a transport.
        if self.handshake_done {
            link.outgoing.shrink_to_fit();
        }
    }
}

/// Until when a flight waits that goes out at `now` after so many repeats.
fn longest_wait(repeats: usize, now: Instant) -> Option<Instant> {
    LONGEST_WAITS_MS.get(repeats).and_then(|&ms| now.checked_add(Duration::from_millis(ms)))
}

/// RFC 5764 section 4.2: client's key, server's key, client's salt, server's salt.
fn export_keys(ssl: &SslRef, role: DtlsRole) -> Result<Option<SrtpKeys>, DtlsFailure> {
    let Some(selected) = ssl.selected_srtp_profile() else {
        return Ok(None);
    };
    let id = selected.id();
    let profile = if id == SrtpProfileId::SRTP_AEAD_AES_256_GCM {
        Profile::AeadAes256Gcm
    } else if id == SrtpProfileId::SRTP_AEAD_AES_128_GCM {
        Profile::AeadAes128Gcm
    } else if id == SrtpProfileId::SRTP_AES128_CM_SHA1_80 {
        Profile::AesCm128HmacSha1_80
    } else if id == SrtpProfileId::SRTP_AES128_CM_SHA1_32 {
        Profile::AesCm128HmacSha1_32
    } else {
        return Err(DtlsFailure::Export);
    };
    let (key_len, salt_len) = (profile.key_len(), profile.salt_len());
    let mut client_key = vec![0; key_len.saturating_add(salt_len).saturating_mul(2)];
    ssl.export_keying_material(&mut client_key, EXPORTER_LABEL, None).map_err(|_| DtlsFailure::Export)?;
    let mut server_key = client_key.split_off(key_len);
    let mut client_salt = server_key.split_off(key_len);
    let server_salt = client_salt.split_off(salt_len);
    let client = (client_key, client_salt);
    let server = (server_key, server_salt);
    let ((local_key, local_salt), (remote_key, remote_salt)) = match role {
        DtlsRole::Client => (client, server),
        DtlsRole::Server => (server, client),
    };
    Ok(Some(SrtpKeys { profile, local_key, local_salt, remote_key, remote_salt }))
}
