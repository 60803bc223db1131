//! The association: handshake, end, and the order in which what is due goes into packets (RFC 9260 sections 5, 6 and 9).
//!
//! The passive side of a handshake keeps nothing until the cookie comes back, and when both sides begin at once, both
//! answer with the tag that they began with, so that one association comes of it whichever packet wins (section 5.2).
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod established;
mod handshake;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;

use self::established::Established;
use super::packet::{self, Chunk, Header, PacketWriter, kind};
use super::queue::SendQueue;
use super::{
    DEFAULT_PORT, OutgoingMessage, SctpCounts, SctpEnd, SctpEvent, SctpOptions, SctpState, SendError,
};

/// Packets that answer others and wait to be sent. More at a time are not answered.
const MAX_REPLIES: usize = 16;

/// T1-init and T1-cookie: first interval, and repeats.
const T1: Duration = Duration::from_secs(1);
const T1_REPEATS: u32 = 8;

/// Cause code of an ABORT by the user (RFC 9260 section 3.3.10.12), of the lack of memory, and of broken protocol.
const CAUSE_OUT_OF_RESOURCE: u16 = 4;
const CAUSE_USER: u16 = 12;
const CAUSE_VIOLATION: u16 = 13;

/// How far the handshake is.
#[derive(Debug)]
enum Stage {
    New,
    CookieWait,
    /// With the cookie that is sent until it is acknowledged.
    CookieEchoed(Vec<u8>),
    Established,
    /// Failed or closed.
    Ended(SctpState),
}

/// A handshake message that is repeated.
#[derive(Debug, Clone, Copy)]
struct Repeat {
    at: Instant,
    interval: Duration,
    sent: u32,
}

/// One end of an association.
///
/// After each call that takes `now`: [`Self::poll_transmit`] and [`Self::poll_event`] until they are empty, and
/// [`Self::next_timeout`] for when to call [`Self::handle_timeout`].
#[derive(Debug)]
pub struct SctpAssociation {
    options: SctpOptions,
    stage: Stage,
    /// When it was first used: what cookies count from.
    epoch: Option<Instant>,
    key: Option<hmac::Key>,
    local_port: u16,
    remote_port: u16,
    /// Zero while there is none.
    local_tag: u32,
    local_tsn: u32,
    repeat: Option<Repeat>,
    /// From the peer's INIT ACK or cookie on.
    peer: Option<Box<Established>>,
    queue: SendQueue,
    replies: VecDeque<Vec<u8>>,
    events: VecDeque<SctpEvent>,
    counts: SctpCounts,
}

impl SctpAssociation {
    /// An association that waits, for the peer or for [`Self::connect`].
    pub fn new(options: SctpOptions) -> Self {
        Self {
            options,
            stage: Stage::New,
            epoch: None,
            key: None,
            local_port: DEFAULT_PORT,
            remote_port: DEFAULT_PORT,
            local_tag: 0,
            local_tsn: 0,
            repeat: None,
            peer: None,
            queue: SendQueue::default(),
            replies: VecDeque::new(),
            events: VecDeque::new(),
            counts: SctpCounts::default(),
        }
    }

    /// What it was made with.
    pub fn options(&self) -> &SctpOptions {
        &self.options
    }

    /// Where it stands.
    pub fn state(&self) -> SctpState {
        match &self.stage {
            Stage::New => SctpState::New,
            Stage::CookieWait | Stage::CookieEchoed(_) => SctpState::Connecting,
            Stage::Established => SctpState::Connected,
            Stage::Ended(state) => *state,
        }
    }

    /// Outbound and inbound streams that both sides agreed on; zero before.
    pub fn negotiated_streams(&self) -> (u16, u16) {
        match (&self.stage, &self.peer) {
            (Stage::Established, Some(peer)) => peer.streams,
            _ => (0, 0),
        }
    }

    /// What was counted since the last call.
    pub fn take_counts(&mut self) -> SctpCounts {
        std::mem::take(&mut self.counts)
    }

    /// What happened next.
    pub fn poll_event(&mut self) -> Option<SctpEvent> {
        self.events.pop_front()
    }

    /// Payload bytes that wait to be sent on a stream; what is on its way does not count.
    pub fn buffered_amount(&self, stream: u16) -> usize {
        self.queue.buffered(stream)
    }

    /// At how much waiting a stream's [`SctpEvent::BufferedAmountLow`] comes.
    pub fn buffered_amount_low_threshold(&self, stream: u16) -> usize {
        self.queue.low_threshold(stream, self.options.default_low_threshold)
    }

    /// Sets at how much waiting a stream's [`SctpEvent::BufferedAmountLow`] comes.
    pub fn set_buffered_amount_low_threshold(&mut self, stream: u16, bytes: usize) {
        self.queue.set_low_threshold(stream, bytes, &mut self.events);
    }

    /// Takes a message to be sent, now or when there is an association.
    ///
    /// # Errors
    /// [`SendError`]; nothing was taken then.
    pub fn send(&mut self, message: OutgoingMessage, now: Instant) -> Result<(), SendError> {
        if message.data.is_empty() {
            return Err(SendError::Empty);
        }
        if message.data.len() > self.options.max_send_message_size {
            return Err(SendError::TooLong);
        }
        if let Stage::Ended(_) = self.stage {
            return Err(SendError::Closed);
        }
        self.queue.push(message, &self.options, now)
    }

    /// Ends an outgoing stream: what has not begun to be sent is dropped, and the peer is told. The stream may be used
    /// again at once; what is sent on it then waits for the peer's answer.
    pub fn reset_stream(&mut self, stream: u16) {
        self.queue.prepare_reset(stream, &mut self.events);
        match (&self.stage, &mut self.peer) {
            (Stage::Established, Some(peer)) if peer.reconfig => peer.resets.want(stream),
            _ => self.queue.reset_done(stream, true),
        }
    }

    /// Ends the association with an ABORT, which [`Self::poll_transmit`] gives out. No event tells of it.
    pub fn close(&mut self) {
        if let (Stage::Established | Stage::CookieEchoed(_), Some(peer)) = (&self.stage, &self.peer) {
            let mut writer = PacketWriter::new(self.header(peer.tag));
            write_abort(&mut writer, CAUSE_USER);
            self.replies.clear();
            self.replies.push_back(writer.finish());
        }
        self.forget(SctpState::Closed);
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn next_timeout(&self) -> Option<Instant> {
        let repeat = self.repeat.map(|repeat| repeat.at);
        let peer = match self.stage {
            Stage::Established => self.peer.as_ref().and_then(|peer| peer.next_timeout()),
            _ => None,
        };
        repeat.into_iter().chain(peer).min()
    }

    /// Does what is due by `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some(repeat) = &mut self.repeat
            && repeat.at <= now
        {
            if repeat.sent > T1_REPEATS {
                return self.end(SctpEnd::Timeout);
            }
            repeat.interval *= 2;
            repeat.at = now + repeat.interval;
            repeat.sent += 1;
            self.send_handshake();
        }
        if let (Stage::Established, Some(peer)) = (&self.stage, &mut self.peer) {
            let alive = peer.handle_timeout(now, &mut self.queue, &mut self.counts, &mut self.events);
            if !alive {
                self.abort(SctpEnd::Timeout);
            }
        }
    }

    /// Takes one packet of the peer.
    pub fn handle_packet(&mut self, packet: &[u8], now: Instant) {
        self.epoch.get_or_insert(now);
        let Some((header, chunks)) = packet::parse(packet) else {
            self.counts.malformed += 1;
            return;
        };
        for (position, chunk) in chunks.enumerate() {
            if !self.tag_fits(header, chunk, position) {
                self.counts.wrong_tag += 1;
                return;
            }
            match chunk.kind {
                kind::INIT => return self.handle_init(header, chunk.value, now),
                kind::INIT_ACK => self.handle_init_ack(header, chunk.value, now),
                kind::COOKIE_ECHO => {
                    if !self.handle_cookie_echo(header, chunk.value, now) {
                        return;
                    }
                }
                kind::COOKIE_ACK => self.handle_cookie_ack(now),
                kind::ABORT => return self.end(SctpEnd::Aborted),
                kind::SHUTDOWN => return self.handle_shutdown(),
                kind::SHUTDOWN_COMPLETE => return self.end(SctpEnd::ShutDown),
                // RFC 9260 section 3.2: the highest bit says whether the rest is to be read all the same.
                unknown if !is_known(unknown) && unknown & 0x80 == 0 => break,
                _ => {
                    if let Err(end) = self.handle_established(chunk, now) {
                        self.counts.violations += 1;
                        return self.abort(end);
                    }
                }
            }
        }
        if let Some(peer) = &mut self.peer {
            peer.finish_packet(now);
        }
    }

    fn handle_established(&mut self, chunk: Chunk<'_>, now: Instant) -> Result<(), SctpEnd> {
        match (&self.stage, &mut self.peer) {
            (Stage::Established, Some(peer)) => {
                peer.handle_chunk(chunk, now, &mut self.queue, &mut self.counts, &mut self.events)
            }
            _ => Ok(()),
        }
    }

    /// RFC 9260 section 8.5.
    fn tag_fits(&self, header: Header, chunk: Chunk<'_>, position: usize) -> bool {
        let ours = self.local_tag != 0 && header.tag == self.local_tag;
        match chunk.kind {
            kind::INIT => header.tag == 0 && position == 0,
            // Its tag is in the cookie.
            kind::COOKIE_ECHO => position == 0,
            kind::ABORT | kind::SHUTDOWN_COMPLETE if chunk.flags & 1 == 1 => {
                self.peer.as_ref().is_some_and(|peer| peer.tag == header.tag)
            }
            _ => ours,
        }
    }

    /// A packet for the peer, if one is due.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Vec<u8>> {
        if let Some(reply) = self.replies.pop_front() {
            return Some(reply);
        }
        if !matches!(self.stage, Stage::Established) {
            return None;
        }
        let header = self.header(self.peer.as_ref()?.tag);
        let peer = self.peer.as_mut()?;
        peer.poll_transmit(header, now, &mut self.queue, &mut self.counts, &mut self.events)
    }

    fn header(&self, tag: u32) -> Header {
        Header { source_port: self.local_port, destination_port: self.remote_port, tag }
    }

    fn reply(&mut self, packet: Vec<u8>) {
        if self.replies.len() < MAX_REPLIES {
            self.replies.push_back(packet);
        }
    }

    /// RFC 9260 section 9.2: what is not acknowledged by now is lost, as it would be with the page that closes.
    fn handle_shutdown(&mut self) {
        if let Some(peer) = &self.peer {
            let mut writer = PacketWriter::new(self.header(peer.tag));
            writer.chunk(kind::SHUTDOWN_ACK, 0, |_| {});
            self.reply(writer.finish());
        }
        self.end(SctpEnd::ShutDown);
    }

    /// Ends the association because of the peer, and tells it so.
    fn abort(&mut self, end: SctpEnd) {
        let cause = if end == SctpEnd::Resources { CAUSE_OUT_OF_RESOURCE } else { CAUSE_VIOLATION };
        if let Some(peer) = &self.peer {
            let mut writer = PacketWriter::new(self.header(peer.tag));
            write_abort(&mut writer, cause);
            self.reply(writer.finish());
        }
        self.end(end);
    }

    fn end(&mut self, end: SctpEnd) {
        match self.stage {
            Stage::New | Stage::Ended(_) => {}
            Stage::CookieWait | Stage::CookieEchoed(_) => {
                self.forget(SctpState::Failed);
                self.events.push_back(SctpEvent::Failed(end));
            }
            Stage::Established => {
                self.forget(SctpState::Closed);
                self.events.push_back(SctpEvent::Closed(end));
            }
        }
    }

    fn forget(&mut self, state: SctpState) {
        self.stage = Stage::Ended(state);
        self.peer = None;
        self.repeat = None;
        self.local_tag = 0;
        self.queue.clear();
    }
}

#[cfg(test)]
impl SctpAssociation {
    pub(super) fn peer_is_none(&self) -> bool {
        self.peer.is_none()
    }

    pub(super) fn buffered(&self) -> usize {
        self.peer.as_ref().map_or(0, |peer| peer.buffered())
    }
}

fn write_abort(writer: &mut PacketWriter, cause: u16) {
    writer.chunk(kind::ABORT, 0, |out| packet::write_parameter(out, cause, &[]));
}

fn is_known(chunk: u8) -> bool {
    matches!(
        chunk,
        kind::DATA..=kind::COOKIE_ACK | kind::SHUTDOWN_COMPLETE | kind::RECONFIG | kind::FORWARD_TSN
    )
}
