//! RTCP in both directions: what peers report and ask for, and what they are told.
//!
//! Reports go out as compound packets that start with SR or RR and carry SDES (RFC 3550, section 6.1); feedback goes out
//! alone (reduced size, RFC 5506), as every WebRTC endpoint accepts.

use std::time::{Duration, Instant};

use rtc::rtcp::{self, DlrrReport, FirEntry, NtpTime, Packet, ReportBlock, SenderInfo, XrBlock};
use rtc::rtp::{SeqNo, Ssrc};
use rtc::stream::recv::KeyFrameRequest;
use worker_protocol::wire::{direct_transport, notification, rtp_parameters as rtp};

use crate::consumer::layers::Forwarding;
use crate::consumer::rtcp_interval;
use crate::params::CodecKind;
use crate::table::{ConsumerIdx, ProducerIdx, TransportIdx};
use crate::transport::TransportKind;
use crate::transport::bwe::PROBATION_SSRC;
use crate::transport::close::{RTCP_INTERVAL, RTCP_STEP};
use crate::worker::Worker;

/// A compound packet is sent when it has grown to this size; with SRTCP and UDP it must fit an MTU.
const COMPOUND_BYTES: usize = 1_100;

/// How long nobody looks at a Transport on which there is nothing to report.
const LONGEST_INTERVAL: Duration = Duration::from_secs(5);

/// The sender of our feedback and receiver reports: we have no media of our own to name. mediasoup uses 0 as well.
const OUR_SSRC: Ssrc = Ssrc(0);

impl Worker {
    /// A plaintext RTCP datagram of a Transport.
    pub fn receive_rtcp(&mut self, index: TransportIdx, datagram: &[u8], now: Instant) {
        let wall = self.clock.ntp(now);
        for packet in rtcp::parse(datagram) {
            let Ok(packet) = packet else {
                self.counters.rtcp_malformed += 1;
                return;
            };
            match packet {
                Packet::SenderReport(report) => {
                    self.on_sender_report(index, &report.info, now);
                    for block in report.blocks {
                        self.on_report_block(index, &block, wall, now);
                    }
                }
                Packet::ReceiverReport(report) => {
                    for block in report.blocks {
                        self.on_report_block(index, &block, wall, now);
                    }
                }
                Packet::Nack(nack) => self.on_nack(index, nack.media_ssrc, nack.sequences(), now),
                Packet::Pli(pli) => {
                    self.on_key_frame_request(index, pli.media_ssrc, KeyFrameRequest::Pli, now)
                }
                Packet::Fir(fir) => {
                    for entry in fir.entries() {
                        self.on_key_frame_request(
                            index,
                            entry.ssrc,
                            KeyFrameRequest::Fir(entry.command),
                            now,
                        );
                    }
                }
                Packet::Xr(xr) => {
                    for block in xr.blocks() {
                        self.on_extended_report(index, xr.ssrc, block, wall, now);
                    }
                }
                Packet::Remb(remb) => self.on_remb(index, remb.bitrate, now),
                Packet::TransportFeedback(feedback) => self.on_transport_feedback(index, &feedback, now),
                Packet::Sdes(_) | Packet::Bye(_) | Packet::Unknown { .. } => {}
            }
        }
    }

    fn on_sender_report(&mut self, index: TransportIdx, info: &SenderInfo, now: Instant) {
        let Some(producer) = self.transports[index].listener.find_ssrc(info.ssrc.0) else {
            self.counters.rtcp_unknown_ssrc += 1;
            return;
        };
        let streams = &mut self.producers[producer].streams;
        if let Some(stream) = streams.iter_mut().find(|stream| stream.ssrc == info.ssrc.0) {
            stream.recv.on_sender_report(info.ntp, info.rtp_timestamp, now);
            let rtt = stream.recv.rtt();
            self.learn_sender_clock(index, producer, info.ntp, rtt, now);
            self.trace_producer_sender_report(producer, info, now);
            self.service_producer(producer, now);
        } else if let Some(stream) = streams
            .iter_mut()
            .find(|stream| stream.recv.params().rtx.is_some_and(|rtx| rtx.ssrc == info.ssrc))
        {
            stream.recv.on_rtx_sender_report(info.ntp, info.rtp_timestamp, now);
        }
    }

    /// What a sender report says of its sender's clock goes for all streams of the same CNAME.
    fn learn_sender_clock(
        &mut self,
        index: TransportIdx,
        producer: ProducerIdx,
        theirs: NtpTime,
        rtt: Option<Duration>,
        now: Instant,
    ) {
        let ours = self.clock.ntp(now);
        let transport = &mut self.transports[index];
        let cname = &self.producers[producer].parameters.cname;
        let Some(offset) = transport.sender_clocks.on_sender_report(cname, theirs, ours, rtt) else { return };
        for &other in &transport.producers {
            if self.producers[other].parameters.cname != self.producers[producer].parameters.cname {
                continue;
            }
            for stream in &mut self.producers[other].streams {
                let next = stream.recv.newest_seq().map_or(0, |newest| newest + 1);
                stream.elements.set_offset(offset, next, now);
            }
        }
    }

    fn consumer_of(&self, index: TransportIdx, ssrc: Ssrc) -> Option<ConsumerIdx> {
        self.transports[index].ssrc_consumers.get(&ssrc.0).copied()
    }

    fn on_report_block(&mut self, index: TransportIdx, block: &ReportBlock, wall: NtpTime, now: Instant) {
        let Some(consumer_idx) = self.consumer_of(index, block.ssrc) else {
            if block.ssrc.0 == PROBATION_SSRC {
                return;
            }
            // Reports about repair streams tell nothing that those about the media do not.
            if !self.transports[index].rtx_ssrc_consumers.contains_key(&block.ssrc.0) {
                self.counters.rtcp_unknown_ssrc += 1;
            }
            return;
        };
        let Some(stream) = self.consumers[consumer_idx].stream_mut(block.ssrc.0) else { return };
        stream.send.on_receiver_report(block, wall, now);
        if let Some(bwe) = &mut self.transports[index].bwe {
            bwe.estimator.on_loss(f32::from(block.fraction_lost) / 256.0);
        }
        if stream.send.poll_score_change().is_some() {
            self.notify_consumer_score(consumer_idx);
        }
    }

    fn on_nack(&mut self, index: TransportIdx, ssrc: Ssrc, seqs: impl Iterator<Item = SeqNo>, now: Instant) {
        let Some(consumer_idx) = self.consumer_of(index, ssrc) else {
            // Nothing is repeated of what only probes.
            self.counters.rtcp_unknown_ssrc += u64::from(ssrc.0 != PROBATION_SSRC);
            return;
        };
        let consumer = &mut self.consumers[consumer_idx];
        if !consumer.is_active() {
            return;
        }
        let Some(position) = consumer.streams.iter().position(|stream| stream.ssrc == ssrc.0) else { return };
        let most = self.transports[index].bwe.as_mut().map_or(usize::MAX, |bwe| bwe.repeats_affordable(now));
        let mut repeats = std::mem::take(&mut self.scratch.repeats);
        repeats.clear();
        consumer.streams[position].send.on_nack(seqs.map(|seq| seq.0), most, now, &mut repeats);
        self.trace_consumer_nack(consumer_idx, now);
        self.repeat(consumer_idx, position, &repeats, now);
        self.scratch.repeats = repeats;
    }

    fn on_key_frame_request(
        &mut self,
        index: TransportIdx,
        ssrc: Ssrc,
        request: KeyFrameRequest,
        now: Instant,
    ) {
        let Some(consumer_idx) = self.consumer_of(index, ssrc) else {
            // Nothing is repeated of what only probes.
            self.counters.rtcp_unknown_ssrc += u64::from(ssrc.0 != PROBATION_SSRC);
            return;
        };
        let consumer = &mut self.consumers[consumer_idx];
        if consumer.kind != rtp::MediaKind::Video {
            return;
        }
        // Behind a pipe it is one of many who asks; the others go on with what they have.
        let cannot_go_on = !matches!(consumer.forwarding, Forwarding::Pipe);
        let Some(stream) = consumer.stream_mut(ssrc.0) else { return };
        stream.send.on_key_frame_request(request);
        if cannot_go_on {
            // Repeats of what it lacks would be in the key frame's way.
            stream.send.forget_sent();
        }
        self.trace_consumer_key_frame_request(consumer_idx, ssrc.0, request, now);
        if self.consumers[consumer_idx].is_active() {
            self.request_consumer_key_frames(consumer_idx, now);
        }
    }

    fn on_extended_report(
        &mut self,
        index: TransportIdx,
        from: Ssrc,
        block: XrBlock<'_>,
        wall: NtpTime,
        now: Instant,
    ) {
        match block {
            XrBlock::ReceiverReferenceTime(ntp) => {
                for consumer in &self.transports[index].consumers {
                    for stream in &mut self.consumers[*consumer].streams {
                        stream.send.on_receiver_reference_time(ntp, now);
                    }
                }
            }
            XrBlock::DelaySinceLastRr(reports) => {
                for report in reports {
                    // A report names whom it answers, which is us (RFC 3611 section 4.5); stock's Consumers name their stream.
                    let ssrc = if report.ssrc == OUR_SSRC { from } else { report.ssrc };
                    let producer = self.transports[index].listener.find_ssrc(ssrc.0);
                    let stream = producer.and_then(|producer| {
                        let mut streams = self.producers[producer].streams.iter_mut();
                        streams.find(|stream| stream.ssrc == ssrc.0)
                    });
                    if let Some(stream) = stream {
                        stream.recv.on_delay_since_last_rr(report.last_rr, report.delay_since_last_rr, wall);
                    }
                }
            }
            XrBlock::Other { .. } => {}
        }
    }

    /// Sends the reports of a Transport's Producers and Consumers that are due.
    pub fn send_reports(&mut self, index: TransportIdx, now: Instant) {
        let Some(transport) = self.transports.get(index) else { return };
        if !transport.connected {
            return;
        }
        self.check_bwe(index, now);
        let mut place = 0;
        while let Some(consumer) = self.transports.get(index).and_then(|t| t.consumers.get(place).copied()) {
            self.send_sender_reports(index, consumer, now);
            place += 1;
        }
        let mut blocks = std::mem::take(&mut self.scratch.blocks);
        blocks.clear();
        let mut place = 0;
        while let Some(producer) = self.transports.get(index).and_then(|t| t.producers.get(place).copied()) {
            self.collect_report_blocks(producer, &mut blocks, now);
            place += 1;
        }
        for blocks in blocks.chunks(rtcp::MAX_REPORT_BLOCKS) {
            let mut rtcp = std::mem::take(&mut self.scratch.rtcp);
            rtcp.clear();
            rtcp::write_receiver_report(&mut rtcp, OUR_SSRC, blocks);
            rtcp::write_xr_rrtr(&mut rtcp, OUR_SSRC, self.clock.ntp(now));
            self.send_rtcp(index, &rtcp, now);
            self.scratch.rtcp = rtcp;
        }
        self.scratch.blocks = blocks;
        self.schedule_reports(index, now);
    }

    /// Looks again when the first report is due. Who has not reported yet, or has had nothing to report, is looked at in the
    /// shortest interval: its first report is what puts sound and picture together.
    fn schedule_reports(&mut self, index: TransportIdx, now: Instant) {
        let transport = &self.transports[index];
        let due = |last: Option<Instant>, kind| last.map_or(now, |last| last + rtcp_interval(kind));
        let consumers = transport.consumers.iter().map(|index| &self.consumers[*index]);
        let producers = transport.producers.iter().map(|index| &self.producers[*index]);
        let first = consumers
            .map(|consumer| due(consumer.last_rtcp_at, consumer.kind))
            .chain(producers.map(|producer| due(producer.last_rtcp_at, producer.kind)))
            .chain(transport.bwe.iter().map(|_| now))
            .min()
            .unwrap_or(now + LONGEST_INTERVAL);
        let due = self.clock.next_step(first.max(now + RTCP_INTERVAL), RTCP_STEP);
        self.timers.set(transport.rtcp_timer, Some(due));
    }

    /// Something on a Transport that sends may have a first report to make.
    pub fn expect_reports(&mut self, index: TransportIdx, now: Instant) {
        let transport = &self.transports[index];
        if transport.connected {
            let due = self.clock.next_step(now + RTCP_INTERVAL, RTCP_STEP);
            self.timers.set_no_later_than(transport.rtcp_timer, due);
        }
    }

    fn send_sender_reports(&mut self, index: TransportIdx, consumer_idx: ConsumerIdx, now: Instant) {
        let wall = self.clock.ntp(now);
        let consumer = &mut self.consumers[consumer_idx];
        if !is_due(consumer.last_rtcp_at, rtcp_interval(consumer.kind), now) {
            return;
        }
        let mut rtcp = std::mem::take(&mut self.scratch.rtcp);
        rtcp.clear();
        for position in 0..consumer.streams.len() {
            let consumer = &mut self.consumers[consumer_idx];
            let stream = &consumer.streams[position];
            let Some(info) = stream.send.sender_report(wall, now) else { continue };
            rtcp::write_sender_report(&mut rtcp, &info, &[]);
            rtcp::write_sdes_cname(&mut rtcp, info.ssrc, &consumer.parameters.cname);
            if let Some((last_rr, delay_since_last_rr)) = stream.send.delay_since_last_rr(now) {
                let report = DlrrReport { ssrc: OUR_SSRC, last_rr, delay_since_last_rr };
                rtcp::write_xr_dlrr(&mut rtcp, info.ssrc, &[report]);
            }
            consumer.last_rtcp_at = Some(now);
            if rtcp.len() > COMPOUND_BYTES {
                self.send_rtcp(index, &rtcp, now);
                rtcp.clear();
            }
        }
        if !rtcp.is_empty() {
            self.send_rtcp(index, &rtcp, now);
        }
        self.scratch.rtcp = rtcp;
    }

    fn collect_report_blocks(
        &mut self,
        producer_idx: ProducerIdx,
        blocks: &mut Vec<ReportBlock>,
        now: Instant,
    ) {
        let producer = &mut self.producers[producer_idx];
        if !is_due(producer.last_rtcp_at, rtcp_interval(producer.kind), now) || producer.streams.is_empty() {
            return;
        }
        producer.last_rtcp_at = Some(now);
        let consumers = &self.consumers;
        for stream in &mut producer.streams {
            // An Opus encoder that adds redundancy does so for the worst path of those that it reaches.
            let worst = if stream.codec == CodecKind::Opus && stream.recv.params().use_in_band_fec {
                producer
                    .consumers
                    .iter()
                    .map(|consumer| &consumers[*consumer])
                    .filter(|consumer| consumer.is_active())
                    .flat_map(|consumer| &consumer.streams)
                    .map(|stream| stream.send.fraction_lost())
                    .max()
                    .unwrap_or(0)
            } else {
                0
            };
            blocks.push(stream.recv.receiver_report_block(worst, now));
            blocks.extend(stream.recv.rtx_receiver_report_block(now));
        }
    }

    /// Asks a publisher for packets.
    pub fn send_nack(&mut self, index: TransportIdx, ssrc: u32, seqs: &[u16], now: Instant) {
        let mut rtcp = std::mem::take(&mut self.scratch.rtcp);
        rtcp.clear();
        rtcp::write_nack(&mut rtcp, OUR_SSRC, Ssrc(ssrc), seqs.iter().copied().map(SeqNo));
        self.send_rtcp(index, &rtcp, now);
        self.scratch.rtcp = rtcp;
    }

    /// Asks a publisher for a key frame.
    pub fn send_key_frame_request(
        &mut self,
        index: TransportIdx,
        ssrc: u32,
        request: KeyFrameRequest,
        now: Instant,
    ) {
        let mut rtcp = std::mem::take(&mut self.scratch.rtcp);
        rtcp.clear();
        match request {
            KeyFrameRequest::Pli => rtcp::write_pli(&mut rtcp, OUR_SSRC, Ssrc(ssrc)),
            KeyFrameRequest::Fir(sequence) => {
                rtcp::write_fir(&mut rtcp, OUR_SSRC, &[FirEntry { ssrc: Ssrc(ssrc), command: sequence }]);
            }
        }
        self.send_rtcp(index, &rtcp, now);
        self.scratch.rtcp = rtcp;
    }

    /// Sends plaintext RTCP the way of its Transport.
    pub fn send_rtcp(&mut self, index: TransportIdx, plain: &[u8], now: Instant) {
        let Some(transport) = self.transports.get_mut(index) else { return };
        if !transport.connected {
            return;
        }
        let path = match &transport.kind {
            TransportKind::Direct => {
                let body = direct_transport::RtcpNotification { data: plain.to_vec() };
                self.outbox.notify_media(
                    &transport.id,
                    notification::Event::DirectTransportRtcp,
                    notification::Body::DirectTransportRtcpNotification(Box::new(body)),
                );
                transport.data_sent(plain.len(), now);
                return;
            }
            TransportKind::Plain(plain) if !plain.rtcp_mux() => plain.rtcp_path,
            _ => transport.path,
        };
        let Some(path) = path else { return };
        let written = match &mut transport.srtp {
            Some(srtp) => {
                let len = plain.len() + srtp.send.profile().rtcp_overhead();
                let Some(space) = self.sockets.reserve(path.socket, len) else { return };
                match srtp.send.protect_rtcp(plain, space) {
                    Ok(written) => written,
                    Err(_) => {
                        self.counters.egress_errors += 1;
                        return;
                    }
                }
            }
            None if matches!(transport.kind, TransportKind::WebRtc(_)) => {
                self.counters.egress_unprotected += 1;
                return;
            }
            None => {
                let Some(space) = self.sockets.reserve(path.socket, plain.len()) else { return };
                let Some(space) = space.get_mut(..plain.len()) else { return };
                space.copy_from_slice(plain);
                plain.len()
            }
        };
        self.sockets.commit(path, written);
        self.transports[index].data_sent(written, now);
    }
}

/// Reports keep their distance with the tolerance that a timer of half the interval needs.
fn is_due(last: Option<Instant>, interval: Duration, now: Instant) -> bool {
    last.is_none_or(|last| now.saturating_duration_since(last).mul_f32(1.15) >= interval)
}
