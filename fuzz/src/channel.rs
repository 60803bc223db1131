//! The worker's channel: a byte stream cut anywhere gives the same messages, a message that can be read is written and
//! read back the same, and a worker that is told anything answers every request once and is empty when all is closed.

use std::cell::RefCell;
use std::time::Instant;

use worker_protocol::framing::{self, Decoder, Encoder, PREFIX_BYTES};
use worker_protocol::wire::message::{self, Message};
use worker_protocol::wire::request::Method;

use crate::session::Session;

thread_local! {
    static SESSION: RefCell<Option<Session>> = const { RefCell::new(None) };
}

/// The first byte says how the stream is cut, the rest is the stream: messages, each after its length.
pub fn run(data: &[u8]) {
    let Some((&cut, stream)) = data.split_first() else { return };
    let whole = messages(stream, stream.len().max(1));
    assert_eq!(messages(stream, usize::from(cut) + 1), whole, "cuts change nothing");
    SESSION.with_borrow_mut(|session| {
        let session = session.get_or_insert_with(Session::new);
        let now = Instant::now();
        for bytes in &whole {
            let Ok(message) = framing::read(bytes).and_then(|message| Ok(Message::try_from(message)?)) else {
                session.deliver(bytes, now);
                continue;
            };
            same_after_writing(&message);
            // Ports and addresses that a fuzzer chooses are not opened on the machine that it runs on.
            if is_harmless(&message) {
                session.deliver(bytes, now);
            }
        }
        session.turn(now);
        if session.worker.closed {
            *session = Session::new();
        }
        session.clear(true, now);
        session.assert_empty(0);
    });
}

fn messages(stream: &[u8], chunk: usize) -> Vec<Vec<u8>> {
    let mut decoder = Decoder::default();
    let mut messages = Vec::new();
    for bytes in stream.chunks(chunk) {
        decoder.push(bytes);
        loop {
            match decoder.poll() {
                Ok(Some(message)) => messages.push(message.to_vec()),
                Ok(None) => break,
                Err(_) => return messages,
            }
        }
    }
    messages
}

fn same_after_writing(message: &Message) {
    let write = |message: &Message| {
        let mut bytes = Vec::new();
        Encoder::default().append(message, &mut bytes);
        bytes
    };
    let bytes = write(message);
    let again = framing::read(&bytes[PREFIX_BYTES..]).expect("what is written can be read");
    let again = Message::try_from(again).expect("what is written is whole");
    assert_eq!(write(&again), bytes);
}

fn is_harmless(message: &Message) -> bool {
    let message::Body::Request(request) = &message.data else { return true };
    !matches!(
        request.method,
        Method::WorkerCreateWebRtcServer
            | Method::RouterCreateWebRtcTransport
            | Method::RouterCreatePlainTransport
            | Method::RouterCreatePipeTransport
    )
}
