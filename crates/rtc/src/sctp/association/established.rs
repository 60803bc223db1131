//! An association with its peer: data, acknowledgements, heartbeats, and the packets that carry them.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::sctp::cookie::Cookie;
use crate::sctp::outstanding::{Outstanding, Progress};
use crate::sctp::packet::{
    Chunk, DATA_OVERHEAD, Data, FLAG_IMMEDIATE, ForwardTsn, HEADER_LEN, Header, PacketWriter, Sack, kind,
    write_chunk,
};
use crate::sctp::queue::SendQueue;
use crate::sctp::receiver::{Receiver, Taken};
use crate::sctp::reset::Resets;
use crate::sctp::{MAX_PACKET, SctpCounts, SctpEnd, SctpEvent, SctpOptions};

/// How long an acknowledgement may wait for more to acknowledge (RFC 9260 section 6.2).
const ACK_DELAY: Duration = Duration::from_millis(200);
/// RFC 9260 section 8.3.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(30);
/// Association.Max.Retrans of RFC 9260 section 16.
const MAX_ERRORS: u32 = 10;
/// Control chunks that wait. What is beyond is the peer's fault, and its loss.
const MAX_CONTROL: usize = 16;
/// Most that one message's fragment carries.
const MAX_FRAGMENT: usize = MAX_PACKET - HEADER_LEN - DATA_OVERHEAD;
/// What a heartbeat says, so that its answer is known.
const HEARTBEAT_PARAMETER: u16 = 1;

/// When the peer is told what came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Acknowledgement {
    None,
    At(Instant),
    Now,
}

/// What is known of the peer.
#[derive(Debug)]
pub(super) struct Established {
    pub(super) tag: u32,
    /// Outbound and inbound.
    pub(super) streams: (u16, u16),
    pub(super) reconfig: bool,
    pub(super) resets: Resets,
    forward_tsn: bool,
    receiver: Receiver,
    outstanding: Outstanding,
    control: VecDeque<Vec<u8>>,
    acknowledgement: Acknowledgement,
    /// DATA came in the packet that is read.
    data_came: bool,
    heartbeat_at: Option<Instant>,
    heartbeat_unanswered: bool,
    /// What went unanswered in a row.
    errors: u32,
}

impl Established {
    pub(super) fn new(cookie: &Cookie, options: &SctpOptions) -> Self {
        Self {
            tag: cookie.peer_tag,
            streams: (cookie.outbound_streams, cookie.inbound_streams),
            reconfig: cookie.reconfig,
            resets: Resets::new(cookie.local_tsn, cookie.peer_tsn),
            forward_tsn: cookie.forward_tsn,
            receiver: Receiver::new(cookie.peer_tsn, options),
            outstanding: Outstanding::new(cookie.local_tsn, cookie.peer_window, cookie.forward_tsn),
            control: VecDeque::new(),
            acknowledgement: Acknowledgement::None,
            data_came: false,
            heartbeat_at: None,
            heartbeat_unanswered: false,
            errors: 0,
        }
    }

    /// The handshake is through.
    pub(super) fn start(&mut self, now: Instant) {
        self.heartbeat_at = Some(now + HEARTBEAT_INTERVAL);
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let acknowledgement = match self.acknowledgement {
            Acknowledgement::At(at) => Some(at),
            _ => None,
        };
        let timers = [acknowledgement, self.outstanding.timer, self.heartbeat_at, self.resets.next_timeout()];
        timers.into_iter().flatten().min()
    }

    /// Does what is due; `false` where the peer is gone.
    pub(super) fn handle_timeout(
        &mut self,
        now: Instant,
        queue: &mut SendQueue,
        counts: &mut SctpCounts,
        events: &mut VecDeque<SctpEvent>,
    ) -> bool {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if matches!(self.acknowledgement, Acknowledgement::At(at) if at <= now) {
            self.acknowledgement = Acknowledgement::Now;
        }
        if due(self.outstanding.timer) {
            self.errors += 1;
            let progress = self.outstanding.time_out(now);
            give_up(progress, queue, counts, events);
        }
        if due(self.heartbeat_at) {
            self.errors += u32::from(self.heartbeat_unanswered);
            self.heartbeat_unanswered = true;
            self.heartbeat_at = Some(now + HEARTBEAT_INTERVAL);
            self.push_control(kind::HEARTBEAT, |out| {
                crate::sctp::packet::write_parameter(out, HEARTBEAT_PARAMETER, &[0; 4]);
            });
        }
        self.resets.handle_timeout(now) && self.errors <= MAX_ERRORS
    }

    #[cfg(test)]
    pub(crate) fn buffered(&self) -> usize {
        self.receiver.buffered()
    }

    fn push_control(&mut self, chunk: u8, fill: impl FnOnce(&mut Vec<u8>)) {
        if self.control.len() < MAX_CONTROL {
            let mut bytes = Vec::new();
            write_chunk(&mut bytes, chunk, 0, fill);
            self.control.push_back(bytes);
        }
    }

    pub(super) fn handle_chunk(
        &mut self,
        chunk: Chunk<'_>,
        now: Instant,
        queue: &mut SendQueue,
        counts: &mut SctpCounts,
        events: &mut VecDeque<SctpEvent>,
    ) -> Result<(), SctpEnd> {
        match chunk.kind {
            kind::DATA => {
                let Some(data) = Data::parse(chunk) else {
                    counts.malformed += 1;
                    return Ok(());
                };
                self.handle_data(data, counts, events)?;
            }
            kind::SACK => match Sack::parse(chunk.value) {
                Some(sack) => {
                    let progress = self.outstanding.acknowledge(sack, now);
                    if progress.acked {
                        self.errors = 0;
                    }
                    give_up(progress, queue, counts, events);
                }
                None => counts.malformed += 1,
            },
            kind::FORWARD_TSN => match ForwardTsn::parse(chunk.value) {
                Some(forward) => {
                    self.receiver.forward(forward, events);
                    self.data_came = true;
                    self.acknowledgement = Acknowledgement::Now;
                }
                None => counts.malformed += 1,
            },
            kind::RECONFIG => {
                let (answer, reset) = self.resets.handle(chunk.value, &mut self.receiver, queue);
                if let Some(answer) = answer {
                    self.push_control(kind::RECONFIG, |out| out.extend(answer));
                }
                if let Some(streams) = reset {
                    events.push_back(SctpEvent::StreamsReset(streams));
                }
            }
            // An answer longer than a packet could not be sent.
            kind::HEARTBEAT if chunk.value.len() <= MAX_FRAGMENT => {
                self.push_control(kind::HEARTBEAT_ACK, |out| out.extend_from_slice(chunk.value));
            }
            kind::HEARTBEAT_ACK => {
                self.heartbeat_unanswered = false;
                self.errors = 0;
            }
            _ => {}
        }
        Ok(())
    }

    fn handle_data(
        &mut self,
        data: Data<'_>,
        counts: &mut SctpCounts,
        events: &mut VecDeque<SctpEvent>,
    ) -> Result<(), SctpEnd> {
        self.data_came = true;
        let immediate = data.flags & FLAG_IMMEDIATE != 0;
        let taken = self.receiver.data(data, events)?;
        match taken {
            Taken::New => {}
            Taken::Duplicate => counts.data_duplicate += 1,
            Taken::NoRoom => counts.data_dropped += 1,
        }
        if immediate || taken != Taken::New {
            self.acknowledgement = Acknowledgement::Now;
        }
        Ok(())
    }

    /// A packet was read: every second one with DATA is acknowledged, and each while something is missing.
    pub(super) fn finish_packet(&mut self, now: Instant) {
        if !std::mem::take(&mut self.data_came) {
            return;
        }
        self.acknowledgement = match self.acknowledgement {
            Acknowledgement::None if !self.receiver.has_gaps() => Acknowledgement::At(now + ACK_DELAY),
            _ => Acknowledgement::Now,
        };
    }

    /// The next packet, if one is due.
    pub(super) fn poll_transmit(
        &mut self,
        header: Header,
        now: Instant,
        queue: &mut SendQueue,
        counts: &mut SctpCounts,
        events: &mut VecDeque<SctpEvent>,
    ) -> Option<Vec<u8>> {
        let mut writer = PacketWriter::new(header);
        if self.acknowledgement == Acknowledgement::Now {
            self.acknowledgement = Acknowledgement::None;
            let receiver = &self.receiver;
            writer.chunk(kind::SACK, 0, |out| receiver.write_sack(out));
        }
        while let Some(chunk) = self.control.pop_front_if(|chunk| chunk.len() <= writer.room()) {
            writer.bytes().extend(chunk);
        }
        let rto = self.outstanding.rto();
        if writer.is_empty()
            && let Some(request) = self.resets.poll(queue, self.outstanding.last_tsn(), rto, now)
        {
            writer.chunk(kind::RECONFIG, 0, |out| out.extend(request));
        }
        if self.forward_tsn && self.outstanding.forward_due() && writer.is_empty() {
            let outstanding = &mut self.outstanding;
            writer.chunk(kind::FORWARD_TSN, 0, |out| outstanding.write_forward_tsn(out, now));
        }
        let room = writer.room();
        if self.outstanding.repeat(writer.bytes(), room, now) {
            counts.retransmissions += 1;
        }
        self.write_new_data(&mut writer, now, queue, counts, events);
        if writer.is_empty() {
            return None;
        }
        self.heartbeat_at = Some(now + HEARTBEAT_INTERVAL);
        Some(writer.finish())
    }

    fn write_new_data(
        &mut self,
        writer: &mut PacketWriter,
        now: Instant,
        queue: &mut SendQueue,
        counts: &mut SctpCounts,
        events: &mut VecDeque<SctpEvent>,
    ) {
        while let Some(left) = queue.next_len(now, &mut counts.messages_abandoned, events) {
            let room = writer.room().saturating_sub(DATA_OVERHEAD);
            let whole = left.next_multiple_of(4) <= room;
            let len = if whole { left } else { MAX_FRAGMENT.min(left) };
            // A message is cut where a packet ends, not to fill one up.
            if len.next_multiple_of(4) > room || !self.outstanding.may_send(len) {
                break;
            }
            let Some(fragment) = queue.take(len, events) else { break };
            self.outstanding.send(fragment, writer.bytes(), now);
        }
    }
}

/// Messages of which a part was sent are not sent to their end.
fn give_up(
    progress: Progress,
    queue: &mut SendQueue,
    counts: &mut SctpCounts,
    events: &mut VecDeque<SctpEvent>,
) {
    for (stream, message) in progress.abandoned {
        counts.messages_abandoned += 1;
        queue.give_up(stream, message, events);
    }
}
