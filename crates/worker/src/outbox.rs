//! What the worker tells its driver: responses, notifications and log lines, framed and queued in order.
//!
//! The queue is bounded. Past [`TALK_LIMIT`] log lines and what peers cause are dropped and counted; past
//! [`HARD_LIMIT`] the driver is taken for dead, and the event loop ends the worker.

use worker_protocol::framing::Encoder;
use worker_protocol::wire::{log, message, notification, response};

use crate::error::RequestError;
use crate::settings::{LogLevel, LogTag, LogTags};

/// Bytes queued from which talk is dropped: a driver this far behind has more urgent things to read.
pub const TALK_LIMIT: usize = 16 * 1024 * 1024;

/// Bytes queued from which the driver is taken for dead.
pub const HARD_LIMIT: usize = 256 * 1024 * 1024;

/// Longest log line; longer ones are cut.
const MAX_LOG_BYTES: usize = 50_000;

/// The queue to the driver.
#[derive(Debug, Default)]
pub struct Outbox {
    encoder: Encoder,
    /// Framed bytes that the pipe has not taken yet.
    pub pending: Vec<u8>,
    /// How much is logged.
    pub log_level: LogLevel,
    /// About what debug and warn lines are logged.
    pub log_tags: LogTags,
    /// Log lines and media notifications dropped for a slow driver.
    pub dropped_talk: u64,
}

impl Outbox {
    /// Answers a request with success.
    pub fn accept(&mut self, id: u32, body: Option<response::Body>) {
        self.push(message::Body::Response(Box::new(response::Response {
            id,
            accepted: true,
            body,
            error: None,
            reason: None,
        })));
    }

    /// Answers a request with an error.
    pub fn reject(&mut self, id: u32, error: &RequestError) {
        self.push(message::Body::Response(Box::new(response::Response {
            id,
            accepted: false,
            body: None,
            error: Some(error.wire_name().to_owned()),
            reason: Some(error.to_string()),
        })));
    }

    /// Tells the driver about a change of state. Never dropped.
    pub fn notify(&mut self, handler_id: &str, event: notification::Event, body: Option<notification::Body>) {
        self.push(message::Body::Notification(Box::new(notification::Notification {
            handler_id: handler_id.to_owned(),
            event,
            body,
        })));
    }

    /// Tells the driver what comes at the peers' pace: media and traces, scores, layers, orientation. Dropped where the
    /// driver does not keep up.
    pub fn notify_media(&mut self, handler_id: &str, event: notification::Event, body: notification::Body) {
        self.notify_talk(handler_id, event, Some(body));
    }

    /// As [`Self::notify_media`], for what may have nothing more to say than that it happened.
    pub fn notify_talk(
        &mut self,
        handler_id: &str,
        event: notification::Event,
        body: Option<notification::Body>,
    ) {
        if self.pending.len() > TALK_LIMIT {
            self.dropped_talk += 1;
            return;
        }
        self.notify(handler_id, event, body);
    }

    /// Logs what is only of interest to who debugs `tag`. The text is made only if it is wanted.
    pub fn debug(&mut self, tag: LogTag, text: impl FnOnce() -> String) {
        if self.log_level >= LogLevel::Debug && self.log_tags.contains(tag) {
            self.log('D', &text());
        }
    }

    /// Logs what is wrong outside of the worker.
    pub fn warn(&mut self, tag: LogTag, text: impl FnOnce() -> String) {
        if self.log_level >= LogLevel::Warn && self.log_tags.contains(tag) {
            self.log('W', &text());
        }
    }

    /// Logs what is wrong inside the worker.
    pub fn error(&mut self, text: impl FnOnce() -> String) {
        if self.log_level >= LogLevel::Error {
            self.log('E', &text());
        }
    }

    fn log(&mut self, level: char, text: &str) {
        if self.pending.len() > TALK_LIMIT {
            self.dropped_talk += 1;
            return;
        }
        let cut = text.floor_char_boundary(MAX_LOG_BYTES);
        let data = format!("{level}{}", text.get(..cut).unwrap_or_default());
        self.push(message::Body::Log(Box::new(log::Log { data })));
    }

    fn push(&mut self, data: message::Body) {
        self.encoder.append(message::Message { data }, &mut self.pending);
    }
}
