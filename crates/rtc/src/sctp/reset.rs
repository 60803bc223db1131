//! Resetting streams (RFC 6525): ours towards the peer, one request at a time, and the peer's.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::packet::{Parameters, Reader, write_parameter};
use super::queue::SendQueue;
use super::receiver::Receiver;

const OUTGOING_REQUEST: u16 = 13;
const INCOMING_REQUEST: u16 = 14;
const TSN_REQUEST: u16 = 15;
const RESPONSE: u16 = 16;
const ADD_OUTGOING: u16 = 17;
const ADD_INCOMING: u16 = 18;

const NOTHING_TO_DO: u32 = 0;
const PERFORMED: u32 = 1;
const DENIED: u32 = 2;
const BAD_SEQUENCE: u32 = 5;
const IN_PROGRESS: u32 = 6;

/// Streams in one request; the rest follows with the next.
const MAX_STREAMS: usize = 200;
/// Repeats of a request that nobody answers.
const MAX_REPEATS: u8 = 10;

/// A request that the peer has not answered.
#[derive(Debug)]
struct Request {
    number: u32,
    last_tsn: u32,
    streams: Vec<u16>,
    repeats: u8,
    due: Option<Instant>,
}

/// Where resets stand in both directions.
#[derive(Debug)]
pub(super) struct Resets {
    /// Streams whose reset is wanted and not asked for yet.
    wanted: BTreeSet<u16>,
    request: Option<Request>,
    next_number: u32,
    /// The number that the peer's next request has, and what its last one was answered.
    peer_next_number: u32,
    last_answer: u32,
}

impl Resets {
    pub(super) fn new(local_tsn: u32, peer_tsn: u32) -> Self {
        Self {
            wanted: BTreeSet::new(),
            request: None,
            next_number: local_tsn,
            peer_next_number: peer_tsn,
            last_answer: NOTHING_TO_DO,
        }
    }

    pub(super) fn want(&mut self, stream: u16) {
        self.wanted.insert(stream);
    }

    /// When a request is to be repeated.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.request.as_ref()?.due
    }

    /// Makes a request that is due again go out; `false` where it was repeated too often.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> bool {
        if let Some(request) = &mut self.request
            && request.due.is_some_and(|due| due <= now)
        {
            request.due = None;
            request.repeats = request.repeats.saturating_add(1);
            return request.repeats <= MAX_REPEATS;
        }
        true
    }

    /// The request that is to go out now, as the value of a RE-CONFIG chunk.
    pub(super) fn poll(
        &mut self,
        queue: &SendQueue,
        last_tsn: u32,
        rto: Duration,
        now: Instant,
    ) -> Option<Vec<u8>> {
        if self.request.is_none() {
            let ready = self.wanted.iter().copied().filter(|stream| queue.may_reset(*stream));
            let streams: Vec<u16> = ready.take(MAX_STREAMS).collect();
            if streams.is_empty() {
                return None;
            }
            for stream in &streams {
                self.wanted.remove(stream);
            }
            let number = self.next_number;
            self.next_number = number.wrapping_add(1);
            self.request = Some(Request { number, last_tsn, streams, repeats: 0, due: None });
        }
        let request = self.request.as_mut().filter(|request| request.due.is_none())?;
        request.due = now.checked_add(rto);
        let mut value = Vec::new();
        value.extend(request.number.to_be_bytes());
        value.extend(self.peer_next_number.wrapping_sub(1).to_be_bytes());
        value.extend(request.last_tsn.to_be_bytes());
        for stream in &request.streams {
            value.extend(stream.to_be_bytes());
        }
        let mut chunk = Vec::new();
        write_parameter(&mut chunk, OUTGOING_REQUEST, &value);
        Some(chunk)
    }

    /// Takes a RE-CONFIG chunk. Returns what is to be answered, and the streams that the peer reset (`Some(None)`: all).
    pub(super) fn handle(
        &mut self,
        value: &[u8],
        receiver: &mut Receiver,
        queue: &mut SendQueue,
    ) -> (Option<Vec<u8>>, Option<Option<Vec<u16>>>) {
        let (mut answer, mut reset) = (None, None);
        // RFC 6525 section 3.1: a chunk has two parameters at most.
        for (parameter, value) in Parameters(Reader(value)).take(2) {
            let mut reader = Reader(value);
            let Some(number) = reader.u32() else { continue };
            match parameter {
                OUTGOING_REQUEST => {
                    let (Some(_), Some(last_tsn)) = (reader.u32(), reader.u32()) else { continue };
                    let (result, streams) = self.peer_request(number, last_tsn, reader, receiver);
                    write_answer(answer.get_or_insert_default(), number, result);
                    reset = streams.or(reset);
                }
                INCOMING_REQUEST | TSN_REQUEST | ADD_OUTGOING | ADD_INCOMING => {
                    let result = if number == self.peer_next_number {
                        self.peer_next_number = number.wrapping_add(1);
                        self.last_answer = DENIED;
                        DENIED
                    } else {
                        BAD_SEQUENCE
                    };
                    write_answer(answer.get_or_insert_default(), number, result);
                }
                RESPONSE => {
                    if let Some(result) = reader.u32() {
                        self.answered(number, result, queue);
                    }
                }
                _ => {}
            }
        }
        (answer, reset)
    }

    /// RFC 6525 section 5.2.2.
    fn peer_request(
        &mut self,
        number: u32,
        last_tsn: u32,
        mut streams: Reader<'_>,
        receiver: &mut Receiver,
    ) -> (u32, Option<Option<Vec<u16>>>) {
        if number == self.peer_next_number.wrapping_sub(1) {
            return (self.last_answer, None);
        }
        if number != self.peer_next_number {
            return (BAD_SEQUENCE, None);
        }
        if !receiver.has_all_until(last_tsn) {
            // Asked again, it may be otherwise: the number is not used up.
            return (IN_PROGRESS, None);
        }
        self.peer_next_number = number.wrapping_add(1);
        self.last_answer = PERFORMED;
        let listed: Vec<u16> = std::iter::from_fn(|| streams.u16()).collect();
        let listed = if listed.is_empty() { None } else { Some(listed) };
        receiver.reset(listed.as_deref());
        (PERFORMED, Some(listed))
    }

    /// The peer answered a request of ours.
    fn answered(&mut self, number: u32, result: u32, queue: &mut SendQueue) {
        if result == IN_PROGRESS || self.request.as_ref().is_none_or(|request| request.number != number) {
            return;
        }
        let Some(request) = self.request.take() else { return };
        for stream in request.streams {
            queue.reset_done(stream, matches!(result, NOTHING_TO_DO | PERFORMED));
        }
    }
}

fn write_answer(out: &mut Vec<u8>, number: u32, result: u32) {
    let mut value = [0; 8];
    let (first, second) = value.split_at_mut(4);
    first.copy_from_slice(&number.to_be_bytes());
    second.copy_from_slice(&result.to_be_bytes());
    write_parameter(out, RESPONSE, &value);
}
