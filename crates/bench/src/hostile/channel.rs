//! Damaged requests for a worker's channel. The frames around them are right, so that each reaches the parser.

use worker_protocol::framing::{self, PREFIX_BYTES};
use worker_protocol::wire::message::{self, BodyRef, Message};
use worker_protocol::wire::notification::Event;
use worker_protocol::wire::request::{self, Method};

use super::mutate::Mutator;

/// Valid requests, as they are on the pipe, and what can be made of them.
#[derive(Debug, Default)]
pub struct Requests {
    templates: Vec<Vec<u8>>,
}

impl Requests {
    /// Takes a request as it was written to the channel, prefix included.
    pub fn learn(&mut self, framed: &[u8]) {
        if let Some(message) = framed.get(PREFIX_BYTES..) {
            self.templates.push(message.to_vec());
        }
    }

    /// The known ones, without their prefixes.
    pub fn templates(&self) -> &[Vec<u8>] {
        &self.templates
    }

    /// The bodies of the known requests, of whatever method.
    pub fn bodies(&self) -> impl Iterator<Item = request::Body> {
        self.templates.iter().filter_map(|bytes| {
            match Message::try_from(framing::read(bytes).ok()?).ok()?.data {
                message::Body::Request(request) => request.body,
                _ => None,
            }
        })
    }

    /// One damaged or random message without its prefix. Never one that asks the worker to end, or that closes what
    /// the driver still wants: that would be no damage but an order.
    pub fn mutant(&self, mutator: &mut Mutator) -> Vec<u8> {
        loop {
            let bytes = match (mutator.below(8), mutator.pick(&self.templates)) {
                (1.., Some(template)) => mutator.mutate(template),
                _ => mutator.random(0, 512),
            };
            if !is_order_to_end(&bytes) {
                return bytes;
            }
        }
    }
}

/// The message with the prefix that its length wants.
pub fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a mutant is far shorter than 4 GiB");
    [&length.to_le_bytes(), message].concat()
}

fn is_order_to_end(bytes: &[u8]) -> bool {
    match framing::read(bytes).ok().and_then(|message| message.data().ok()) {
        Some(BodyRef::Notification(notification)) => matches!(notification.event(), Ok(Event::WorkerClose)),
        Some(BodyRef::Request(request)) => {
            matches!(request.method(), Ok(Method::WorkerCloseRouter | Method::WorkerWebRtcServerClose))
        }
        _ => false,
    }
}
