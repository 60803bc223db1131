//! One datagram of a Consumer's: its header, its payload with what is rewritten, encrypted into the send arena. Nothing here
//! allocates, locks, logs or formats per packet.

use std::time::Instant;

use rtc::codec::vp8;
use rtc::rtp::{EgressHeader, ExtensionKind, SeqNo, Ssrc, abs_send_time_from_epoch, rtx, write_header};
use rtc::stream::send::{OutgoingPacket, Repeat};
use rtc::stream::sent::SentPacket;
use worker_protocol::wire::{consumer as wire, notification};

use super::Consumer;
use super::egress::{Admission, Incoming};
use super::layers::Forwarding;
use crate::clock::Clock;
use crate::counters::Counters;
use crate::outbox::Outbox;
use crate::sockets::Sockets;
use crate::transport::{MediaSent, Transport, TransportKind};

/// The longest header that is written: twelve bytes, fifteen sources, and extensions.
const MAX_HEADER: usize = 512;

/// What the writing of datagrams needs of the worker.
pub(super) struct Egress<'w> {
    pub(super) sockets: &'w mut Sockets,
    pub(super) outbox: &'w mut Outbox,
    pub(super) counters: &'w mut Counters,
    pub(super) payload: &'w mut Vec<u8>,
    pub(super) clock: Clock,
    pub(super) now: Instant,
}

impl Consumer {
    /// Whether its receiver may get packets with a little padding: browsers skip it; what the other end of a pipe or a
    /// plain transport makes of it is not ours to say.
    fn takes_padding(&self, transport: &Transport) -> bool {
        matches!(transport.kind, TransportKind::WebRtc(_)) && !matches!(self.forwarding, Forwarding::Pipe)
    }
}

impl Egress<'_> {
    /// Sends a packet that was let through, and adds it to the tally of what its Transport sent.
    pub(super) fn forward_one(
        &mut self,
        consumer: &mut Consumer,
        transport: &mut Transport,
        incoming: &Incoming<'_>,
        admission: &Admission,
        tally: &mut MediaSent,
    ) {
        let picture = admission.picture.unwrap_or_default();
        let [high, low] = picture.picture_id.to_be_bytes();
        let sent = SentPacket {
            seq: admission.seq,
            origin: incoming.encoding,
            origin_seq: incoming.seq,
            timestamp_offset: admission.timestamp_offset,
            codec: [high, low, picture.tl0_picture_index],
            transport_seq: if consumer.ids.transport_wide_cc == 0 {
                0
            } else {
                transport.next_transport_seq()
            },
            abs_send_time: if consumer.ids.abs_send_time == 0 {
                0
            } else {
                abs_send_time_from_epoch(self.clock.unix(self.now))
            },
            marker: admission.marker,
            padding: if consumer.takes_padding(transport) { incoming.evening } else { 0 },
        };
        let payload_len = incoming.payload.len();
        let outgoing = OutgoingPacket {
            sent,
            timestamp: incoming.header.timestamp.wrapping_add(sent.timestamp_offset),
            len: usize::from(incoming.header.header_len) + payload_len + usize::from(sent.padding),
            payload_len,
        };
        let Some(stream) = consumer.streams.get_mut(admission.stream) else { return };
        if !stream.send.sent(&outgoing, self.now) {
            self.counters.egress_late += 1;
            return;
        }
        let target = Target {
            ssrc: stream.ssrc,
            payload_type: incoming.payload_type,
            index: sent.seq,
            osn: None,
            rewrites_picture: admission.picture.is_some(),
        };
        if let Some((plain, written)) = self.transmit(consumer, transport, incoming, &sent, target) {
            tally.packets += 1;
            tally.plain_bytes += plain;
            tally.datagram_bytes += written;
            if consumer.ids.transport_wide_cc != 0 {
                transport.note_sent(sent.transport_seq, plain, self.now);
            }
        }
        if consumer.traces.rtp || consumer.traces.key_frame {
            self.trace(consumer, incoming, &sent, false);
        }
    }

    /// Sends a packet again, on the repair stream if there is one.
    pub(super) fn repeat_one(
        &mut self,
        consumer: &Consumer,
        position: usize,
        transport: &mut Transport,
        incoming: &Incoming<'_>,
        repeat: &Repeat,
    ) {
        let Some(stream) = consumer.streams.get(position) else { return };
        let rewrites_picture = consumer.forwarding.rewrites_pictures();
        let mut sent = repeat.packet;
        let target = match (repeat.rtx_seq, stream.rtx) {
            (Some(rtx_seq), Some(rtx)) => {
                // A packet of its own: it gets its own stamps, and needs no neighbours' length.
                sent.padding = 0;
                if consumer.ids.transport_wide_cc != 0 {
                    sent.transport_seq = transport.next_transport_seq();
                }
                if consumer.ids.abs_send_time != 0 {
                    sent.abs_send_time = abs_send_time_from_epoch(self.clock.unix(self.now));
                }
                Target {
                    ssrc: rtx.ssrc.0,
                    payload_type: rtx.payload_type,
                    index: rtx_seq,
                    osn: Some(SeqNo::from_extended(sent.seq)),
                    rewrites_picture,
                }
            }
            // The very packet again, stamps included: its SRTP index was used with these bytes and no others.
            _ => Target {
                ssrc: stream.ssrc,
                payload_type: incoming.payload_type,
                index: sent.seq,
                osn: None,
                rewrites_picture,
            },
        };
        if let Some((plain, written)) = self.transmit(consumer, transport, incoming, &sent, target) {
            transport.stats.rtx_send.add(plain, self.now);
            transport.data_sent(written, self.now);
            transport.bwe.iter_mut().for_each(|bwe| bwe.repeats.spend(written));
            if consumer.ids.transport_wide_cc != 0 && target.osn.is_some() {
                transport.note_sent(sent.transport_seq, plain, self.now);
            }
        }
        if consumer.traces.rtp || consumer.traces.key_frame {
            self.trace(consumer, incoming, &sent, target.osn.is_some());
        }
    }

    /// Writes one datagram; returns the lengths of the plaintext packet and of the datagram.
    fn transmit(
        &mut self,
        consumer: &Consumer,
        transport: &mut Transport,
        incoming: &Incoming<'_>,
        sent: &SentPacket,
        target: Target,
    ) -> Option<(usize, usize)> {
        let mut header = [0; MAX_HEADER];
        let header = build_header(&mut header, consumer, incoming, sent, &target)?;
        let payload = rewritten_payload(self.payload, incoming, sent, &target);
        let plain_len = header.len() + payload.len();
        let Some(path) = transport.path else {
            if matches!(transport.kind, TransportKind::Direct) {
                let mut data = Vec::with_capacity(plain_len);
                data.extend_from_slice(header);
                data.extend_from_slice(payload);
                self.outbox.notify_media(
                    &consumer.id,
                    notification::Event::ConsumerRtp,
                    notification::Body::ConsumerRtpNotification(Box::new(wire::RtpNotification { data })),
                );
                return Some((plain_len, plain_len));
            }
            return None;
        };
        let written = match &transport.srtp {
            Some(srtp) => {
                let space =
                    self.sockets.reserve(path.socket, plain_len + srtp.send.profile().rtp_overhead())?;
                match srtp.send.protect_rtp(header, payload, target.index, space) {
                    Ok(written) => written,
                    Err(_) => {
                        self.counters.egress_errors += 1;
                        return None;
                    }
                }
            }
            None if matches!(transport.kind, TransportKind::WebRtc(_)) => {
                self.counters.egress_unprotected += 1;
                return None;
            }
            None => {
                let space = self.sockets.reserve(path.socket, plain_len)?;
                space.get_mut(..header.len())?.copy_from_slice(header);
                space.get_mut(header.len()..plain_len)?.copy_from_slice(payload);
                plain_len
            }
        };
        self.sockets.commit_to(path, written, &mut transport.run);
        Some((plain_len, written))
    }

    fn trace(&mut self, consumer: &Consumer, incoming: &Incoming<'_>, sent: &SentPacket, is_rtx: bool) {
        crate::trace::consumer_rtp(
            self.outbox,
            self.clock.unix_ms(self.now),
            consumer,
            incoming,
            sent,
            is_rtx,
        );
    }
}

/// The identity that a datagram gets.
#[derive(Debug, Clone, Copy)]
struct Target {
    ssrc: u32,
    payload_type: u8,
    /// Extended sequence number of that SSRC, which is the SRTP index.
    index: u64,
    /// The original sequence number, for RTX.
    osn: Option<SeqNo>,
    rewrites_picture: bool,
}

fn build_header<'o>(
    out: &'o mut [u8; MAX_HEADER],
    consumer: &Consumer,
    incoming: &Incoming<'_>,
    sent: &SentPacket,
    target: &Target,
) -> Option<&'o [u8]> {
    let rewritten;
    let forwarded: &[(ExtensionKind, &[u8])] = if incoming.values.is_empty() {
        &incoming.forwarded
    } else {
        rewritten = incoming.values.put(&incoming.forwarded);
        &rewritten
    };
    let written = write_header(
        out,
        &EgressHeader {
            marker: sent.marker,
            padding: sent.padding > 0,
            payload_type: target.payload_type,
            sequence: SeqNo::from_extended(target.index),
            timestamp: incoming.header.timestamp.wrapping_add(sent.timestamp_offset),
            ssrc: Ssrc(target.ssrc),
            csrcs: incoming.header.csrcs(incoming.packet),
            ids: &consumer.ids,
            mid: &consumer.mid,
            forwarded,
        },
    )
    .ok()?;
    written.stamp_abs_send_time(out, sent.abs_send_time);
    written.stamp_transport_wide_cc(out, sent.transport_seq);
    out.get(..written.len)
}

/// The payload as it goes out: the received one, unless its descriptor is rewritten or an original sequence number goes
/// before it.
fn rewritten_payload<'o>(
    buffer: &'o mut Vec<u8>,
    incoming: &Incoming<'o>,
    sent: &SentPacket,
    target: &Target,
) -> &'o [u8] {
    let descriptor = incoming.descriptor.as_ref().filter(|_| target.rewrites_picture);
    let as_it_came = descriptor.is_none() && target.osn.is_none();
    if as_it_came && sent.padding == 0 {
        return incoming.payload;
    }
    if as_it_came && sent.padding == incoming.evening {
        return incoming.evened;
    }
    buffer.clear();
    if let Some(osn) = target.osn {
        buffer.extend_from_slice(&rtx::osn(osn));
    }
    match descriptor {
        Some(descriptor) => {
            let [high, low, tl0_picture_index] = sent.codec;
            let picture = vp8::Picture { picture_id: u16::from_be_bytes([high, low]), tl0_picture_index };
            let mut written = [0; vp8::MAX_DESCRIPTOR_LEN];
            let len = descriptor.write(incoming.payload, picture, &mut written);
            buffer.extend_from_slice(written.get(..len).unwrap_or_default());
            buffer.extend_from_slice(incoming.payload.get(usize::from(descriptor.len)..).unwrap_or_default());
        }
        None => buffer.extend_from_slice(incoming.payload),
    }
    if let Some(zeros) = sent.padding.checked_sub(1) {
        buffer.resize(buffer.len() + usize::from(zeros), 0);
        buffer.push(sent.padding);
    }
    buffer
}
