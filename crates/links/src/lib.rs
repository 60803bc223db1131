//! What the nodes of a cluster say to each other, and how they know whom they say it to.
//!
//! A [`Server`] answers other nodes with what a [`Serve`] says; [`Links`] ask them. Between two nodes there is one
//! connection a direction: HTTP/2 over mutually authenticated TLS 1.3, gRPC with messages in JSON, one stream a session.
//! HTTP/2's flow control of that stream is the session's bounded queue; the connection's window is so wide that no
//! session ever takes another's share. Nothing here decides who has a room (`cluster` does) or runs one (`host` does).

pub mod authority;
mod codec;
mod error;
mod hand_over;
mod incoming;
mod link;
mod links;
mod outgoing;
mod security;
mod server;
mod settings;
mod sites;
mod stream;
mod wire;

pub use error::{LinkError, OpenError, OpenRefused, Policy};
pub use hand_over::{HandOver, HandedOver};
pub use links::{Believe, Heard, Links, OpenedSession};
pub use security::{Security, SecurityError, TlsFiles};
pub use server::{Admitted, Guest, Serve, Server};
pub use settings::{LinkSettings, Me};
pub use sites::{OpenSite, OpenedSite, SiteError, SiteRefused, TakenSite};
pub use wire::{OpenSession, PROTOCOL, Resume};

#[cfg(test)]
mod tests;
