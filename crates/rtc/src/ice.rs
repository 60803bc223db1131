//! The ICE lite side of a WebRtcTransport: RFC 8445 section 2.5 and 7.3, consent by RFC 7675, renomination by
//! draft-thatcher-ice-renomination, behaviour as mediasoup's IceServer.
//!
//! Owns the local credentials, the valid tuples and which of them is selected. It answers Binding requests
//! and sends none: the peer is the controlling full agent. It owns no socket and no clock.
//!
//! What it answers before the peer has shown that it knows the password is never longer than the request.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod server;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;

pub use server::{
    DEFAULT_CONSENT_TIMEOUT, IceServer, IceStats, MAX_CONSENT_TIMEOUT, MAX_TUPLES, MIN_CONSENT_TIMEOUT,
};

/// The transport protocol of a tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// UDP.
    Udp,
    /// TCP with the framing of RFC 4571; a tuple is one connection.
    Tcp,
}

/// A path between us and the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The caller's number of the local socket or connection.
    pub local: usize,
    /// The peer's address.
    pub remote: SocketAddr,
}

/// The state of the ICE transport, as in mediasoup's `IceState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IceState {
    /// No valid request yet.
    New,
    /// There is a selected tuple.
    Connected,
    /// There is one, and the peer nominated it.
    Completed,
    /// There was one, and none is left or the peer's consent has expired.
    Disconnected,
}

/// What an [`IceServer`] has to tell, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IceEvent {
    /// Requests with this username fragment are for this server.
    UsernameFragmentAdded(String),
    /// They no longer are.
    UsernameFragmentRemoved(String),
    /// Datagrams on this tuple are for this server.
    TupleAdded(Tuple),
    /// They no longer are; a TCP connection may be closed.
    TupleRemoved(Tuple),
    /// What is sent goes to this tuple from now on.
    TupleSelected(Tuple),
    /// The state changed to this.
    StateChanged(IceState),
}
