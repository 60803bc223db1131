//! An incoming RTP stream: what was received, lost, asked for and repaired, and what reports say about it.
//!
//! Owns the statistics, the receiver report (RFC 3550, section 6.4 and appendices A.3 and A.8), NACK, the
//! repair stream (RFC 4588) and the score. Keeps no packet: that is [`super::store::PacketStore`]. Decides no
//! key frame requests but those that too much loss forces: the rest is [`super::key_frame::KeyFrameRequests`].
//!
//! Call order: [`RecvStream::receive`] or [`RecvStream::receive_rtx`] for each packet; then, once a loop turn
//! and at [`RecvStream::next_timeout`], [`RecvStream::handle_timeout`], [`RecvStream::poll_nack`] and
//! [`RecvStream::poll_event`] until it returns `None`.

mod layers;
mod packet;
mod quality;

use self::layers::LayerRates;
pub use self::packet::{Accepted, IncomingPacket, KeyFrameRequest, RecvEvent, SenderReportMapping, Verdict};
use self::quality::{FrameRate, Jitter, LossReport};
use super::{
    BaseStats, NtpTime, ReportBlock, StreamParams, StreamStats,
    nack::{self, NackGenerator, NackOutcome},
    placement::{Place, Placement},
    round_trip,
    score::{Interval, MAX_SCORE, Score},
};
use crate::{rate::RateCounter, rtcp::compact_delay, rtp::Ssrc};
use std::time::{Duration, Instant};

/// Silence after which a simulcast stream's score is 0.
pub const INACTIVITY_TIMEOUT: Duration = Duration::from_millis(1500);
/// The same with discontinuous transmission.
pub const INACTIVITY_TIMEOUT_DTX: Duration = Duration::from_millis(5000);
/// Window of the bit rates with discontinuous transmission.
const DTX_RATE_WINDOW: Duration = Duration::from_millis(6000);

/// One incoming stream.
#[derive(Clone, Debug)]
pub struct RecvStream {
    params: StreamParams,
    placement: Placement,
    nack: Option<NackGenerator>,
    rtx: Option<RtxRecv>,
    loss: LossReport,
    jitter: Jitter,
    sender_report: Option<SenderReportMapping>,
    rtt: Option<Duration>,
    score: Score,
    scored: Scored,
    inactivity: Option<Inactivity>,
    paused: bool,
    key_frame_needed: bool,
    layers: LayerRates,
    /// Packets that came by themselves, not through the repair stream.
    media_packets: u64,
    newest_timestamp: Option<u32>,
    frame_rate: FrameRate,
    last_packet_at: Option<Instant>,
    stats: Counters,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    packets_discarded: u64,
    packets_retransmitted: u64,
    packets_repaired: u64,
    nack_count: u64,
    nack_packet_count: u64,
    pli_count: u64,
    fir_count: u64,
    fir_sequence: u8,
}

impl RecvStream {
    /// A stream that starts with the best score.
    ///
    /// `inactivity_check`: whether silence sets the score to 0. mediasoup checks streams of simulcast
    /// producers only: there another layer can take over.
    #[must_use]
    pub fn new(params: StreamParams, inactivity_check: bool, now: Instant) -> Self {
        let (timeout, window) = if params.use_dtx {
            (INACTIVITY_TIMEOUT_DTX, DTX_RATE_WINDOW)
        } else {
            (INACTIVITY_TIMEOUT, RateCounter::MEDIA)
        };
        Self {
            placement: Placement::new(),
            nack: params.use_nack.then(|| NackGenerator::new(nack::DEFAULT_DELAY)),
            rtx: params.rtx.map(|rtx| RtxRecv::new(rtx.ssrc)),
            loss: LossReport::default(),
            jitter: Jitter::default(),
            sender_report: None,
            rtt: None,
            score: Score::new(MAX_SCORE),
            scored: Scored::default(),
            inactivity: inactivity_check.then_some(Inactivity {
                timeout,
                at: Some(now + timeout),
                silent: false,
            }),
            paused: false,
            key_frame_needed: false,
            layers: LayerRates::new(params.spatial_layers, params.temporal_layers, window),
            media_packets: 0,
            newest_timestamp: None,
            frame_rate: FrameRate::default(),
            last_packet_at: None,
            stats: Counters::default(),
            params,
        }
    }

    /// What was negotiated.
    #[must_use]
    pub const fn params(&self) -> &StreamParams {
        &self.params
    }

    /// Adds a repair stream that was learnt after the stream was made.
    pub fn set_rtx(&mut self, rtx: super::RtxParams) {
        self.params.rtx = Some(rtx);
        self.rtx = Some(RtxRecv::new(rtx.ssrc));
    }

    /// A packet of the media stream itself.
    pub fn receive(&mut self, packet: &IncomingPacket, now: Instant) -> Verdict {
        let place = self.placement.place(packet.seq);
        let (seq, newest, restarted) = match place {
            Place::Newest(seq) => (seq, true, false),
            Place::Reordered(seq) => (seq, false, false),
            Place::Restarted(seq) => (seq, true, true),
            Place::Duplicate => return Verdict::Duplicate,
            Place::TooOld | Place::Jump => {
                self.stats.packets_discarded += 1;
                return if place == Place::TooOld { Verdict::TooOld } else { Verdict::Invalid };
            }
        };
        if restarted {
            self.jitter = Jitter::default();
            if let Some(nack) = &mut self.nack {
                nack.reset();
            }
        }
        self.media_packets += 1;
        // With a repair stream, whatever comes here was only late.
        let asked_for = self.note_for_nack(seq, packet.key_frame, now);
        let repaired = asked_for && self.rtx.is_none();
        if repaired {
            self.stats.packets_retransmitted += 1;
            self.stats.packets_repaired += 1;
        } else {
            self.jitter.add(packet.timestamp, self.params.clock_rate, now);
        }
        self.count(packet, newest, now);
        Verdict::Accepted(Accepted { seq, newest, repaired, restarted })
    }

    /// A packet of the repair stream: `rtx_seq` and `payload_type` are those of the RTX header, `packet` is
    /// what it carries, its sequence number the original one (OSN). A packet without payload but the OSN is
    /// not to be passed here.
    pub fn receive_rtx(
        &mut self,
        rtx_seq: u16,
        payload_type: u8,
        packet: &IncomingPacket,
        now: Instant,
    ) -> Verdict {
        let Some(rtx) = &mut self.rtx else { return Verdict::Invalid };
        if self.params.rtx.is_none_or(|rtx| rtx.payload_type != payload_type) {
            rtx.discarded += 1;
            return Verdict::Invalid;
        }
        match rtx.placement.place(rtx_seq) {
            Place::Newest(_) | Place::Reordered(_) | Place::Restarted(_) => rtx.packets += 1,
            Place::Duplicate => return Verdict::Duplicate,
            Place::TooOld | Place::Jump => {
                rtx.discarded += 1;
                return Verdict::TooOld;
            }
        }
        let place = self.placement.place_repaired(packet.seq);
        let (seq, newest) = match place {
            Place::Newest(seq) => (seq, true),
            Place::Reordered(seq) => (seq, false),
            Place::Duplicate => {
                self.stats.packets_retransmitted += 1;
                return Verdict::Duplicate;
            }
            Place::Restarted(_) | Place::TooOld | Place::Jump => {
                self.stats.packets_discarded += 1;
                return if place == Place::TooOld { Verdict::TooOld } else { Verdict::Invalid };
            }
        };
        self.stats.packets_retransmitted += 1;
        self.stats.packets_repaired += 1;
        self.note_for_nack(seq, packet.key_frame, now);
        self.count(packet, newest, now);
        Verdict::Accepted(Accepted { seq, newest, repaired: true, restarted: false })
    }

    /// Our report block about the stream (RFC 3550, section 6.4.1). `worst_remote_fraction_lost` is the
    /// worst that consumers report of an Opus stream with in-band error correction, so that its encoder
    /// protects for them too; zero otherwise.
    pub fn receiver_report_block(&mut self, worst_remote_fraction_lost: u8, now: Instant) -> ReportBlock {
        let block =
            self.loss.report(self.placement.expected(), self.media_packets, worst_remote_fraction_lost);
        let (last_sr, delay_since_last_sr) = since(self.sender_report, now);
        ReportBlock {
            ssrc: self.params.ssrc,
            fraction_lost: block.fraction,
            cumulative_lost: block.cumulative,
            highest_sequence: self.placement.highest_for_report(),
            jitter: self.jitter.value(),
            last_sr,
            delay_since_last_sr,
        }
    }

    /// Our report block about the repair stream, once a packet of it came.
    pub fn rtx_receiver_report_block(&mut self, now: Instant) -> Option<ReportBlock> {
        let rtx = self.rtx.as_mut().filter(|rtx| rtx.packets > 0)?;
        let block = rtx.loss.report(rtx.placement.expected(), rtx.packets, 0);
        let (last_sr, delay_since_last_sr) = since(rtx.sender_report, now);
        Some(ReportBlock {
            ssrc: rtx.ssrc,
            fraction_lost: block.fraction,
            cumulative_lost: block.cumulative,
            highest_sequence: rtx.placement.highest_for_report(),
            jitter: 0,
            last_sr,
            delay_since_last_sr,
        })
    }

    /// The publisher's sender report about the stream. The score is brought up to date with it,
    /// unless it was just now.
    pub fn on_sender_report(&mut self, ntp: NtpTime, rtp_timestamp: u32, now: Instant) {
        // A sender without a wall clock reports zero, which maps nothing.
        if ntp.0 != 0 {
            self.sender_report = Some(SenderReportMapping { ntp, rtp_timestamp, received_at: now });
        }
        if self.score.ends_interval(now) {
            self.update_score();
        }
    }

    /// The publisher's sender report about the repair stream.
    pub fn on_rtx_sender_report(&mut self, ntp: NtpTime, rtp_timestamp: u32, now: Instant) {
        if let Some(rtx) = &mut self.rtx {
            rtx.sender_report = Some(SenderReportMapping { ntp, rtp_timestamp, received_at: now });
        }
    }

    /// The publisher answered our receiver reference time (RFC 3611, section 4.5): the round trip.
    pub fn on_delay_since_last_rr(&mut self, last_rr: u32, delay: u32, wall: NtpTime) {
        let Some(rtt) = round_trip(wall, last_rr, delay) else { return };
        self.set_rtt(rtt);
    }

    /// The round trip to the publisher, when the owner knows it by other means (ICE checks, other streams).
    pub fn set_rtt(&mut self, rtt: Duration) {
        self.rtt = Some(rtt);
        if let Some(nack) = &mut self.nack {
            nack.set_rtt(rtt);
        }
    }

    /// Appends the sequence numbers to ask for now, in order; one NACK packet is expected to carry them.
    pub fn poll_nack(&mut self, now: Instant, out: &mut Vec<u16>) {
        let Some(nack) = &mut self.nack else { return };
        let before = out.len();
        nack.poll(now, out);
        let asked = out.len() - before;
        if asked > 0 {
            self.stats.nack_count += 1;
            self.stats.nack_packet_count += asked as u64;
        }
    }

    /// When to call [`RecvStream::handle_timeout`] and [`RecvStream::poll_nack`] next.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        let nack = self.nack.as_ref().and_then(NackGenerator::next_timeout);
        let inactivity = self.inactivity.and_then(|inactivity| inactivity.at);
        [nack, inactivity].into_iter().flatten().min()
    }

    /// Notices silence.
    pub fn handle_timeout(&mut self, now: Instant) {
        let Some(inactivity) = &mut self.inactivity else { return };
        if inactivity.at.is_some_and(|at| now >= at) {
            inactivity.at = None;
            inactivity.silent = true;
            self.score.reset(0);
        }
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<RecvEvent> {
        if std::mem::take(&mut self.key_frame_needed) {
            return Some(RecvEvent::KeyFrameNeeded);
        }
        self.score.take_change().map(RecvEvent::Score)
    }

    /// Counts a key frame request and tells what to send for it: PLI where negotiated, else FIR, else `None`.
    pub fn request_key_frame(&mut self) -> Option<KeyFrameRequest> {
        if self.params.use_pli {
            self.stats.pli_count += 1;
            Some(KeyFrameRequest::Pli)
        } else if self.params.use_fir {
            self.stats.fir_count += 1;
            self.stats.fir_sequence = self.stats.fir_sequence.wrapping_add(1);
            Some(KeyFrameRequest::Fir(self.stats.fir_sequence))
        } else {
            None
        }
    }

    /// The producer is paused: what is missing is not asked for, silence is not noticed.
    pub fn pause(&mut self) {
        self.paused = true;
        self.jitter = Jitter::default();
        if let Some(nack) = &mut self.nack {
            nack.reset();
        }
        if let Some(inactivity) = &mut self.inactivity {
            inactivity.at = None;
        }
    }

    /// The producer goes on.
    pub fn resume(&mut self, now: Instant) {
        self.paused = false;
        if let Some(inactivity) = &mut self.inactivity
            && !inactivity.silent
        {
            inactivity.at = Some(now + inactivity.timeout);
        }
    }

    /// The score, 0 to 10.
    #[must_use]
    pub const fn score(&self) -> u8 {
        self.score.current()
    }

    /// Whether the inactivity check found the stream silent.
    #[must_use]
    pub fn is_inactive(&self) -> bool {
        self.inactivity.is_some_and(|inactivity| inactivity.silent)
    }

    /// Where the publisher's wall clock and the RTP timeline meet; lets consumers align the layers of
    /// simulcast.
    #[must_use]
    pub const fn sender_report(&self) -> Option<SenderReportMapping> {
        self.sender_report
    }

    /// The newest extended sequence number, `None` before the first packet.
    #[must_use]
    pub fn newest_seq(&self) -> Option<u64> {
        self.last_packet_at.map(|_| self.placement.highest())
    }

    /// Timestamp of the newest packet.
    #[must_use]
    pub const fn newest_timestamp(&self) -> Option<u32> {
        self.newest_timestamp
    }

    /// Frames a second, of all temporal layers together, as their timestamps tell; `None` before the second one.
    #[must_use]
    pub fn frame_rate(&self) -> Option<f64> {
        self.frame_rate.value(self.params.clock_rate)
    }

    /// When the last packet was accepted.
    #[must_use]
    pub const fn last_packet_at(&self) -> Option<Instant> {
        self.last_packet_at
    }

    /// Round trip to the publisher.
    #[must_use]
    pub const fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// Bits per second of the whole stream.
    pub fn bitrate(&mut self, now: Instant) -> u64 {
        self.layers.total(now)
    }

    /// Bits per second that a consumer of these layers gets: the lower spatial layers whole, and this one up
    /// to `temporal`. Zero when the layer itself does not flow or does not exist.
    pub fn layer_bitrate(&mut self, spatial: u8, temporal: u8, now: Instant) -> u64 {
        self.layers.up_to(spatial, temporal, now)
    }

    /// Bits per second that a consumer gets who is sent these layers and no more: of each spatial layer from `lowest`
    /// to `spatial`, the temporal layers up to `temporal`. Zero when the uppermost of these does not flow.
    pub fn target_bitrate(&mut self, lowest: u8, spatial: u8, temporal: u8, now: Instant) -> u64 {
        self.layers.target(lowest, spatial, temporal, now)
    }

    /// Bits per second of one spatial layer.
    pub fn spatial_layer_bitrate(&mut self, spatial: u8, now: Instant) -> u64 {
        self.layers.spatial(spatial, now)
    }

    /// Everything that is reported.
    pub fn stats(&mut self, now: Instant) -> StreamStats {
        StreamStats {
            base: BaseStats {
                packets_lost: self.loss.cumulative,
                fraction_lost: self.loss.fraction,
                jitter: self.jitter.value(),
                packets_discarded: self.stats.packets_discarded,
                packets_retransmitted: self.stats.packets_retransmitted,
                packets_repaired: self.stats.packets_repaired,
                nack_count: self.stats.nack_count,
                nack_packet_count: self.stats.nack_packet_count,
                pli_count: self.stats.pli_count,
                fir_count: self.stats.fir_count,
                rtx_packets_discarded: self.rtx.as_ref().map_or(0, |rtx| rtx.discarded),
                round_trip_time_ms: self.rtt.map_or(0.0, |rtt| rtt.as_secs_f32() * 1000.0),
                score: self.score.current(),
            },
            packet_count: self.layers.packets(),
            byte_count: self.layers.bytes(),
            bitrate: self.bitrate(now),
        }
    }

    /// Whether the packet had been asked for.
    fn note_for_nack(&mut self, seq: u64, key_frame: bool, now: Instant) -> bool {
        // A paused producer's packets are dropped: none is asked for again.
        if self.paused {
            return false;
        }
        match self.nack.as_mut().map(|nack| nack.received(seq, key_frame, now)) {
            Some(NackOutcome::Recovered) => true,
            Some(NackOutcome::KeyFrameNeeded) => {
                self.key_frame_needed = true;
                false
            }
            _ => false,
        }
    }

    fn count(&mut self, packet: &IncomingPacket, newest: bool, now: Instant) {
        let media_len = if packet.payload_len == 0 { 0 } else { packet.len };
        self.layers.add(packet.spatial_layer, packet.temporal_layer, media_len, now);
        self.last_packet_at = Some(now);
        if newest && let Some(before) = self.newest_timestamp.replace(packet.timestamp) {
            self.frame_rate.add(packet.timestamp.wrapping_sub(before), self.params.clock_rate);
        }
        // Padding alone proves no media.
        if packet.payload_len == 0 {
            return;
        }
        if let Some(inactivity) = &mut self.inactivity {
            if std::mem::take(&mut inactivity.silent) {
                self.score.reset(MAX_SCORE);
            }
            if !self.paused {
                inactivity.at = Some(now + inactivity.timeout);
            }
        }
    }

    /// Scores the interval since the last call.
    fn update_score(&mut self) {
        let total = Scored {
            expected: self.placement.expected(),
            received: self.media_packets,
            repaired: self.stats.packets_repaired,
            retransmitted: self.stats.packets_retransmitted,
        };
        let last = std::mem::replace(&mut self.scored, total);
        if self.is_inactive() {
            return;
        }
        let expected = total.expected - last.expected;
        let received = total.received - last.received;
        if expected == 0 {
            self.score.push(MAX_SCORE);
            return;
        }
        if received == 0 {
            self.score.push(0);
            return;
        }
        let mut lost = expected.saturating_sub(received).min(received);
        let mut repaired = total.repaired - last.repaired;
        if repaired > lost {
            if self.rtx.is_some() {
                repaired = lost;
            } else {
                // Without a repair stream a repaired packet counts as received: it was lost at first.
                lost = repaired;
            }
        }
        let retransmitted = total.retransmitted - last.retransmitted;
        self.score.push(Interval { delivered: received, lost, repaired, retransmitted }.score());
    }
}

/// Totals when the score was last updated.
#[derive(Clone, Copy, Debug, Default)]
struct Scored {
    expected: u64,
    received: u64,
    repaired: u64,
    retransmitted: u64,
}

#[derive(Clone, Copy, Debug)]
struct Inactivity {
    timeout: Duration,
    at: Option<Instant>,
    silent: bool,
}

/// The incoming repair stream.
#[derive(Clone, Debug)]
struct RtxRecv {
    ssrc: Ssrc,
    placement: Placement,
    loss: LossReport,
    packets: u64,
    discarded: u64,
    sender_report: Option<SenderReportMapping>,
}

impl RtxRecv {
    fn new(ssrc: Ssrc) -> Self {
        Self {
            ssrc,
            placement: Placement::new(),
            loss: LossReport::default(),
            packets: 0,
            discarded: 0,
            sender_report: None,
        }
    }
}

/// LSR and DLSR.
fn since(report: Option<SenderReportMapping>, now: Instant) -> (u32, u32) {
    report.map_or((0, 0), |report| {
        (report.ntp.compact(), compact_delay(now.saturating_duration_since(report.received_at)))
    })
}

#[cfg(test)]
mod tests;
