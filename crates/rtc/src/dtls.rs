//! DTLS as WebRTC uses it (RFC 8827 section 6.5, RFC 5764, RFC 6347, RFC 9147), on BoringSSL.
//!
//! Owns handshakes, the check of the peer's certificate against its announced fingerprint, and the export of
//! SRTP keys. It does not own a socket: datagrams go in by [`DtlsTransport::handle_datagram`] and come out by
//! [`DtlsTransport::poll_transmit`].
//!
//! A transport answers whatever it is given, and a server's flight is larger than the ClientHello that asks
//! for it. So it must only be given datagrams from addresses that ICE has validated: that they can be
//! answered there without amplification is what the STUN check with its password has shown.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod context;
mod link;
#[cfg(test)]
mod tests;
mod transport;

use std::time::{Duration, Instant};

use boring::error::ErrorStack;
use boring::ssl::{SslContextBuilder, SslRef};

pub use context::{DtlsContext, DtlsVersions};
pub use transport::{DtlsTransport, HANDSHAKE_DEADLINE};

use crate::srtp::Profile;

/// Largest datagram that is sent, in bytes of UDP payload: fits every path that WebRTC runs over.
pub const MTU: usize = 1200;

/// How long the first flight waits for its answer. A round trip across the world takes longer, and then costs
/// a needless repeat; a lost datagram costs this much time, which matters more.
pub const INITIAL_TIMEOUT: Duration = Duration::from_millis(100);

/// Whether a datagram is DTLS, by first byte (RFC 7983 section 7).
pub fn is_dtls(datagram: &[u8]) -> bool {
    datagram.len() >= 13 && datagram.first().is_some_and(|first| (20..64).contains(first))
}

/// Which side a transport takes in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DtlsRole {
    /// Begins the handshake.
    Client,
    /// Waits for it.
    Server,
}

/// The state of a transport, as in mediasoup's `DtlsState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DtlsState {
    /// Not started.
    New,
    /// In the handshake, or through it and waiting for the fingerprint.
    Connecting,
    /// Through it, and the peer is who it should be.
    Connected,
    /// It never came to a connection.
    Failed,
    /// There was a connection, and one side ended it.
    Closed,
}

/// What BoringSSL needs and its safe bindings lack: `net::dtls_timers` has these functions.
#[derive(Clone, Copy, Debug)]
pub struct DtlsTimers {
    /// Prepares a new context; `net::dtls_timers::prepare_context`.
    pub prepare_context: fn(&mut SslContextBuilder),
    /// Prepares a new connection; `net::dtls_timers::prepare_connection`.
    pub prepare_connection: fn(&mut SslRef, Duration),
    /// Sets the clock of this thread; `net::dtls_timers::set_now`.
    pub set_now: fn(Instant),
    /// Time until the next timer; `net::dtls_timers::timeout`.
    pub timeout: fn(&SslRef) -> Option<Duration>,
    /// Does what is due, `false` on failure; `net::dtls_timers::handle_timeout`.
    pub handle_timeout: fn(&mut SslRef) -> bool,
    /// Repeats a flight before it is due, `false` on failure; `net::dtls_timers::repeat_now`.
    pub repeat_now: fn(&mut SslRef, Duration) -> bool,
}

/// The SRTP keys of a connection (RFC 5764 section 4.2).
#[derive(Clone, PartialEq, Eq)]
pub struct SrtpKeys {
    /// The profile that both sides speak.
    pub profile: Profile,
    /// Master key of what we send.
    pub local_key: Vec<u8>,
    /// Master salt of what we send.
    pub local_salt: Vec<u8>,
    /// Master key of what the peer sends.
    pub remote_key: Vec<u8>,
    /// Master salt of what the peer sends.
    pub remote_salt: Vec<u8>,
}

impl std::fmt::Debug for SrtpKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SrtpKeys").field("profile", &self.profile).finish_non_exhaustive()
    }
}

/// A connection that has come about.
#[derive(Clone, Debug)]
pub struct DtlsConnection {
    /// The SRTP keys; `None` when the peer does not speak SRTP (data channels alone).
    pub srtp: Option<SrtpKeys>,
    /// The peer's certificate in PEM form.
    pub remote_certificate: String,
    /// The protocol version, such as `DTLSv1.2`.
    pub version: &'static str,
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DtlsFailure {
    /// The handshake broke down; BoringSSL says how.
    #[error("dtls handshake failed: {0}")]
    Handshake(String),
    /// The peer answered none of our repeats, or was not through in time.
    #[error("dtls handshake timed out")]
    Timeout,
    /// The peer ended the connection before it was usable.
    #[error("dtls connection was closed by the peer during the handshake")]
    Closed,
    /// The peer's certificate is not the announced one.
    #[error("the fingerprint of the peer's certificate is not the announced one")]
    Fingerprint,
    /// SRTP keys could not be exported.
    #[error("cannot export srtp keys")]
    Export,
}

/// What a transport has to tell.
#[derive(Clone, Debug)]
pub enum DtlsEvent {
    /// State is now [`DtlsState::Connected`].
    Connected(Box<DtlsConnection>),
    /// State is now [`DtlsState::Failed`].
    Failed(DtlsFailure),
    /// State is now [`DtlsState::Closed`], by the peer.
    Closed,
    /// The peer sent this (SCTP, where there are data channels).
    ApplicationData(Vec<u8>),
}

/// An operation that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum DtlsError {
    /// BoringSSL refused.
    #[error("boringssl: {0}")]
    Boring(#[from] ErrorStack),
    /// The transport was started before.
    #[error("dtls transport was started already")]
    Started,
    /// The transport is not connected.
    #[error("dtls transport is not connected")]
    NotConnected,
    /// The data do not fit into one record, or BoringSSL could not send them.
    #[error("cannot send application data: {0}")]
    Send(String),
}
