//! The media worker: one thread, one event loop, every media object of a process that speaks mediasoup's channel.
//!
//! [`run`] is the whole process behind `tureen-worker`; the modules are public so that tests can drive the pieces.

pub mod channel;
pub mod clock;
pub mod consumer;
pub mod counters;
pub mod data;
pub mod error;
pub mod event_loop;
pub mod frames;
pub mod method;
pub mod observer;
pub mod outbox;
pub mod params;
pub mod ports;
pub mod producer;
pub mod receive;
pub mod relief;
pub mod reports;
pub mod router;
pub mod rtp_listener;
pub mod scratch;
pub mod settings;
pub mod sockets;
pub mod table;
pub mod timers;
pub mod trace;
pub mod transport;
pub mod web_rtc_server;
pub mod worker;

pub use event_loop::{Exit, run};
