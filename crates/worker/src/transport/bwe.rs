//! What a Transport may send: the estimate from its subscriber's feedback, the giving out of it to the Consumers, and
//! the padding that probes for more.
//!
//! Media is not paced: it leaves in the turn in which it came, as it does from mediasoup, since a publisher's pacing has
//! spread it already and to hold it back adds delay. Only probes are paced, by a timer: the few packets of one turn
//! are of equal length and leave as one run, which is still a hundredth of a cluster.
//!
//! With most feedback nothing is decided: it moves the estimate. Bandwidth is given out again where the estimate fell
//! below what is given out, else a few times a second, and not at all where no Consumer has layers.

use std::time::{Duration, Instant};

use rtc::bwe::{BandwidthEstimator, BweMode, Demand};
use rtc::rate::RateCounter;
use rtc::rtcp::TransportFeedback;
use rtc::rtp::{
    Bitrate, EgressHeader, ExtensionIds, ExtensionKind, SeqNo, Ssrc, abs_send_time_from_epoch, write_header,
};
use worker_protocol::wire::{common, notification, rtp_parameters as rtp, transport as wire};

use super::{MIN_OUTGOING_BITRATE, TransportKind};
use crate::consumer::allocation::{Plan, Share, allocate};
use crate::consumer::layers::{Forwarding, Layers};
use crate::table::{ConsumerIdx, TransportIdx};
use crate::timers::TimerKey;
use crate::worker::{Timer, Worker};

/// SSRC of what probes: mediasoup's, which its clients expect and announce in a media section of its own…
pub const PROBATION_SSRC: u32 = 1234;
/// …with this identifier…
const PROBATION_MID: &str = "probator";
/// …and this payload type.
const PROBATION_PAYLOAD_TYPE: u8 = 127;
/// Padding packets of one turn: more would only make up for a turn that was late.
const PROBATION_BURST: usize = 8;
/// The longest of them.
const PROBATION_BYTES: usize = 1_200;
/// Ticks of the probation's timestamps from one packet to the next, as mediasoup's.
const PROBATION_TICKS: u32 = 20;
/// How often bandwidth is given out while the estimate does not fall.
const DISTRIBUTION_INTERVAL: Duration = Duration::from_millis(250);
/// A fall of the estimate by this share since then is acted on at once.
const FALL: f64 = 0.95;
/// How often the driver is told, where it asked for it: as often as mediasoup does…
const TRACE_INTERVAL: Duration = Duration::from_secs(1);
/// …and at once where the estimate left these bounds, relative to what it was told.
const TRACE_BOUNDS: (f64, f64) = (0.75, 1.5);

/// Repeats get this share of the estimate over time…
const REPEAT_SHARE: u64 = 2;
/// …of which so much may go out at once, and always so many bytes: a burst of losses is repaired without a pause.
const REPEAT_BURST: Duration = Duration::from_millis(250);
const LEAST_REPEAT_BURST: u64 = 12_000;

/// The bandwidth estimation of one Transport.
#[derive(Debug)]
pub struct Bwe {
    /// What it may send.
    pub estimator: BandwidthEstimator,
    /// What repeats may take.
    pub repeats: RepeatBudget,
    /// When the next padding packet is due.
    pub timer: TimerKey,
    /// The subscriber's identifiers of what padding packets carry.
    ids: ExtensionIds,
    /// Extended sequence number of the next padding packet, which is its SRTP index too.
    probation_seq: u64,
    probation_timestamp: u32,
    probation: RateCounter,
    plan: Plan,
    distributed: Option<(Instant, u64)>,
    traced: Option<(Instant, u64)>,
}

/// What statistics show.
#[derive(Debug, Clone, Copy)]
pub struct BweStats {
    /// The estimate in bit/s.
    pub available_bitrate: u64,
    /// Share of packets lost, 0 to 1.
    pub packet_loss: f64,
    /// Bytes of padding packets.
    pub probation_bytes: u64,
    /// Bit/s of padding packets.
    pub probation_bitrate: u64,
}

/// What repeats may take of a link. A link that has become narrow loses most of what it is sent; were all of it repeated,
/// the repeats alone would keep its queue full, and nothing that matters would get through.
#[derive(Debug, Clone, Copy)]
pub struct RepeatBudget {
    /// Bytes; below zero after a packet that was larger than what was left.
    left: i64,
    filled: Instant,
}

impl RepeatBudget {
    fn fill(&mut self, estimate: u64, now: Instant) {
        let bytes = |time: Duration, bitrate: u64| (time.as_secs_f64() * bitrate as f64 / 8.0) as u64;
        let most = bytes(REPEAT_BURST, estimate).max(LEAST_REPEAT_BURST).cast_signed();
        let more = bytes(now.saturating_duration_since(self.filled), estimate / REPEAT_SHARE);
        self.left = self.left.saturating_add_unsigned(more).min(most);
        self.filled = now;
    }

    /// A repeat of so many bytes went out.
    pub fn spend(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub_unsigned(bytes as u64);
    }
}

impl Bwe {
    /// Repeats that may go out now.
    pub fn repeats_affordable(&mut self, now: Instant) -> usize {
        self.repeats.fill(self.estimator.estimate().0, now);
        usize::try_from(self.repeats.left).unwrap_or(0).div_ceil(PROBATION_BYTES)
    }

    /// What statistics show.
    pub fn stats(&mut self, now: Instant) -> BweStats {
        BweStats {
            available_bitrate: self.estimator.estimate().0,
            packet_loss: self.estimator.packet_loss(),
            probation_bytes: self.probation.total_bytes(),
            probation_bitrate: self.probation.bitrate(now),
        }
    }
}

impl Worker {
    /// Starts estimating with the first Consumer of video whose subscriber tells about congestion.
    pub fn start_bwe(&mut self, index: TransportIdx, consumer: ConsumerIdx, now: Instant) {
        let consumer = &self.consumers[consumer];
        let codecs = &consumer.parameters.codecs;
        let ids = &consumer.ids;
        let mode = if ids.transport_wide_cc != 0 && codecs.iter().any(|codec| codec.use_transport_cc) {
            BweMode::TransportWide
        } else if ids.abs_send_time != 0 && codecs.iter().any(|codec| codec.use_remb) {
            BweMode::Remb
        } else {
            return;
        };
        let transport = &self.transports[index];
        // Two streams with one SSRC under one SRTP key would use its nonces twice.
        let taken = transport.ssrc_consumers.contains_key(&PROBATION_SSRC)
            || transport.rtx_ssrc_consumers.contains_key(&PROBATION_SSRC);
        if consumer.kind != rtp::MediaKind::Video || transport.bwe.is_some() || taken {
            return;
        }
        let mut probation_ids = ExtensionIds::default();
        for kind in [ExtensionKind::Mid, ExtensionKind::AbsSendTime, ExtensionKind::TransportWideCc] {
            probation_ids.set(kind, ids.id(kind));
        }
        let random = getrandom::u32().unwrap_or(0x1234_5678);
        let timer = self.timers.create(Timer::Probe(index));
        let transport = &mut self.transports[index];
        let initial = Bitrate(transport.options.initial_outgoing_bitrate);
        transport.bwe = Some(Box::new(Bwe {
            estimator: BandwidthEstimator::new(mode, initial, now),
            repeats: RepeatBudget { left: LEAST_REPEAT_BURST.cast_signed(), filled: now },
            timer,
            ids: probation_ids,
            // As with media, in the lower half: no receiver sees a rollover before it has settled.
            probation_seq: u64::from(random & 0x7fff),
            probation_timestamp: random,
            probation: RateCounter::default(),
            plan: Plan::default(),
            distributed: None,
            traced: None,
        }));
        self.limit_outgoing(index, now);
    }

    /// The limits of what may be sent changed.
    pub fn limit_outgoing(&mut self, index: TransportIdx, now: Instant) {
        let transport = &mut self.transports[index];
        let limits = transport.bitrates;
        let Some(bwe) = &mut transport.bwe else { return };
        let least = limits.min_outgoing.max(MIN_OUTGOING_BITRATE);
        let most = Some(limits.max_outgoing).filter(|most| *most != 0).unwrap_or(u64::MAX);
        bwe.estimator.set_limits(Bitrate(least), Bitrate(most), now);
        self.distribute_bitrate(index, now);
    }

    /// A subscriber tells what arrived.
    pub fn on_transport_feedback(
        &mut self,
        index: TransportIdx,
        feedback: &TransportFeedback<'_>,
        now: Instant,
    ) {
        let Some(bwe) = &mut self.transports[index].bwe else { return };
        bwe.estimator.on_feedback(feedback, now);
        self.estimate_moved(index, now);
    }

    /// A subscriber tells what it can receive.
    pub fn on_remb(&mut self, index: TransportIdx, bitrate: Bitrate, now: Instant) {
        let Some(bwe) = &mut self.transports[index].bwe else { return };
        bwe.estimator.on_remb(bitrate, now);
        self.estimate_moved(index, now);
    }

    /// Looks after the estimate where nothing is heard of the subscriber.
    pub fn check_bwe(&mut self, index: TransportIdx, now: Instant) {
        let Some(bwe) = &mut self.transports[index].bwe else { return };
        bwe.estimator.handle_timeout(now);
        self.estimate_moved(index, now);
    }

    fn estimate_moved(&mut self, index: TransportIdx, now: Instant) {
        let Some(bwe) = &mut self.transports[index].bwe else { return };
        let estimate = bwe.estimator.estimate().0;
        let due = bwe.distributed.is_none_or(|(at, before)| {
            now.saturating_duration_since(at) >= DISTRIBUTION_INTERVAL
                || (estimate as f64) < before as f64 * FALL
        });
        if due {
            self.distribute_bitrate(index, now);
        } else {
            self.schedule_probation(index, now);
        }
        self.trace_bwe(index, now);
    }

    /// Gives the estimate out to a Transport's Consumers, and tells the estimator what more could be used.
    pub fn distribute_bitrate(&mut self, index: TransportIdx, now: Instant) {
        let transport = &mut self.transports[index];
        let Some(bwe) = &mut transport.bwe else { return };
        let estimate = bwe.estimator.estimate().0;
        bwe.distributed = Some((now, estimate));
        let (mode, round_trip) = (bwe.estimator.mode(), bwe.estimator.round_trip());
        let mut shares = std::mem::take(&mut self.scratch.shares);
        shares.clear();
        // What goes out whatever is decided.
        let mut fixed = transport.stats.rtx_send.bitrate(now).min(estimate / 4);
        for &consumer_idx in &transport.consumers {
            let Some(consumer) = self.consumers.get_mut(consumer_idx) else { continue };
            if !consumer.is_active() {
                continue;
            }
            if consumer.is_adaptive() {
                if let Some(round_trip) = round_trip {
                    let streams = consumer.streams.iter_mut();
                    streams.for_each(|stream| stream.send.expect_round_trip(round_trip));
                }
                let ladder = consumer.forwarding.ladder(&mut self.producers[consumer.producer].streams, now);
                let current = Share::place(&ladder, consumer.forwarding.target());
                let held = consumer.patience.held(now);
                shares.push(Share {
                    consumer: consumer_idx,
                    priority: consumer.priority,
                    ladder,
                    current,
                    held,
                    rung: None,
                });
            } else if mode == BweMode::Remb || consumer.ids.transport_wide_cc != 0 {
                fixed += consumer.streams.iter_mut().map(|stream| stream.send.bitrate(now)).sum::<u64>();
            }
        }
        let plan = allocate(&mut shares, estimate.saturating_sub(fixed));
        let above = |bitrate: u64| if bitrate == 0 { 0 } else { bitrate.saturating_add(fixed) };
        let demand = Demand { next: Bitrate(above(plan.next)), most: Bitrate(above(plan.most)) };
        if let Some(bwe) = &mut self.transports[index].bwe {
            bwe.plan = Plan { spent: above(plan.spent), next: demand.next.0, most: demand.most.0 };
            bwe.estimator.set_demand(demand, now);
        }
        for share in &shares {
            let (before, after) = (self.consumers[share.consumer].forwarding.target(), share.layers());
            if share.current.is_some() && share.rung != share.current {
                let consumer = &mut self.consumers[share.consumer];
                consumer.patience.moved(before, after, now);
                if let Forwarding::Simulcast(simulcast) = &mut consumer.forwarding
                    && share.rung < share.current
                {
                    simulcast.give_way();
                }
            }
            let left = estimate.saturating_sub(fixed + plan.spent) + share.bitrate();
            if self.is_left_behind(share.consumer, after, left, now) {
                self.leave_stream(share.consumer);
            }
            self.aim(share.consumer, after, now);
        }
        self.scratch.shares = shares;
        self.schedule_probation(index, now);
    }

    /// Whether the stream or the spatial layer that a Consumer is being forwarded lies above what it is to get, and even its
    /// base takes more than is `left` for it.
    fn is_left_behind(&mut self, index: ConsumerIdx, after: Layers, left: u64, now: Instant) -> bool {
        let consumer = &self.consumers[index];
        let current = consumer.forwarding.current();
        let descends = after != Layers::NONE
            && after.spatial < current.spatial
            && consumer.streams.iter().all(|stream| !stream.sync_required);
        let Ok(spatial) = u8::try_from(current.spatial) else { return false };
        let (encoding, layer) = match consumer.forwarding {
            Forwarding::Simulcast(_) => (spatial, 0),
            Forwarding::Svc(_) => (0, spatial),
            Forwarding::Simple | Forwarding::Pipe => return false,
        };
        descends
            && self.producers[consumer.producer]
                .stream_mut(encoding)
                .is_some_and(|stream| stream.layer_bitrate(layer, 0, now) > left)
    }

    fn schedule_probation(&mut self, index: TransportIdx, now: Instant) {
        let Some(bwe) = &self.transports[index].bwe else { return };
        if let Some(at) = bwe.estimator.next_probe() {
            self.timers.set(bwe.timer, Some(at.max(now)));
        }
    }

    /// Sends the padding that a probe wants by now.
    pub fn send_probation(&mut self, index: TransportIdx, now: Instant) {
        for _ in 0..PROBATION_BURST {
            let Some(transport) = self.transports.get_mut(index) else { return };
            let Some(bwe) = &mut transport.bwe else { return };
            let Some(len) = bwe.estimator.poll_probe(now) else { break };
            // What cannot be sent is counted all the same: the cluster ends, and finds nothing.
            let seq = transport.next_transport_seq();
            transport.note_sent(seq, len, now);
            if transport.connected && self.send_padding(index, seq, len, now).is_some() {
                self.trace_probation(index, now);
            }
        }
        let Some(bwe) = &self.transports[index].bwe else { return };
        let next = bwe.estimator.next_probe().map(|at| at.max(now + Duration::from_millis(1)));
        self.timers.set(bwe.timer, next);
    }

    fn send_padding(
        &mut self,
        index: TransportIdx,
        transport_seq: u16,
        len: usize,
        now: Instant,
    ) -> Option<()> {
        static ZEROES: [u8; PROBATION_BYTES] = [0; PROBATION_BYTES];
        let transport = &mut self.transports[index];
        let (path, bwe) = (transport.path?, transport.bwe.as_mut()?);
        let mut header = [0; 64];
        let seq = bwe.probation_seq;
        let written = write_header(
            &mut header,
            &EgressHeader {
                marker: false,
                payload_type: PROBATION_PAYLOAD_TYPE,
                sequence: SeqNo::from_extended(seq),
                timestamp: bwe.probation_timestamp,
                ssrc: Ssrc(PROBATION_SSRC),
                csrcs: &[],
                ids: &bwe.ids,
                padding: false,
                mid: PROBATION_MID,
                forwarded: &[],
            },
        )
        .ok()?;
        written.stamp_abs_send_time(&mut header, abs_send_time_from_epoch(self.clock.unix(now)));
        written.stamp_transport_wide_cc(&mut header, transport_seq);
        let header = header.get(..written.len)?;
        let payload = ZEROES.get(..len.saturating_sub(header.len()).min(PROBATION_BYTES))?;
        let plain_len = header.len() + payload.len();
        let written = match &transport.srtp {
            Some(srtp) => {
                let space =
                    self.sockets.reserve(path.socket, plain_len + srtp.send.profile().rtp_overhead())?;
                srtp.send.protect_rtp(header, payload, seq, space).ok()?
            }
            None if matches!(transport.kind, TransportKind::WebRtc(_)) => return None,
            None => {
                let space = self.sockets.reserve(path.socket, plain_len)?;
                space.get_mut(..header.len())?.copy_from_slice(header);
                space.get_mut(header.len()..plain_len)?.copy_from_slice(payload);
                plain_len
            }
        };
        self.sockets.commit(path, written);
        bwe.probation_seq += 1;
        bwe.probation_timestamp = bwe.probation_timestamp.wrapping_add(PROBATION_TICKS);
        bwe.probation.add(plain_len, now);
        transport.data_sent(written, now);
        Some(())
    }

    fn trace_probation(&mut self, index: TransportIdx, now: Instant) {
        if self.transports[index].traces.probation {
            self.notify_transport_trace(index, wire::TraceEventType::Probation, None, now);
        }
    }

    fn trace_bwe(&mut self, index: TransportIdx, now: Instant) {
        let transport = &mut self.transports[index];
        if !transport.traces.bwe {
            return;
        }
        let (limits, initial) = (transport.bitrates, transport.options.initial_outgoing_bitrate);
        let Some(bwe) = &mut transport.bwe else { return };
        let estimate = bwe.estimator.estimate().0;
        let due = bwe.traced.is_none_or(|(at, before)| {
            let ratio = estimate as f64 / before.max(1) as f64;
            now.saturating_duration_since(at) >= TRACE_INTERVAL
                || ratio < TRACE_BOUNDS.0
                || ratio > TRACE_BOUNDS.1
        });
        if !due {
            return;
        }
        bwe.traced = Some((now, estimate));
        let unlimited = Some(limits.max_outgoing).filter(|most| *most != 0);
        let info = wire::BweTraceInfo {
            bwe_type: match bwe.estimator.mode() {
                BweMode::TransportWide => wire::BweType::TransportCc,
                BweMode::Remb => wire::BweType::Remb,
            },
            desired_bitrate: bwe.plan.most,
            effective_desired_bitrate: bwe.plan.most,
            min_bitrate: limits.min_outgoing.max(MIN_OUTGOING_BITRATE),
            max_bitrate: unlimited.unwrap_or_else(|| bwe.plan.most.max(initial)),
            start_bitrate: initial,
            max_padding_bitrate: bwe.plan.next,
            available_bitrate: estimate,
        };
        let info = wire::TraceInfo::BweTraceInfo(Box::new(info));
        self.notify_transport_trace(index, wire::TraceEventType::Bwe, Some(info), now);
    }

    fn notify_transport_trace(
        &mut self,
        index: TransportIdx,
        type_: wire::TraceEventType,
        info: Option<wire::TraceInfo>,
        now: Instant,
    ) {
        let timestamp = self.clock.unix_ms(now);
        let direction = common::TraceDirection::Out;
        let body = wire::TraceNotification { type_, timestamp, direction, info };
        self.outbox.notify_media(
            &self.transports[index].id,
            notification::Event::TransportTrace,
            notification::Body::TransportTraceNotification(Box::new(body)),
        );
    }
}
