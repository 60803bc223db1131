//! An outgoing RTP stream: what was sent, what its receiver reports, and which packets to repeat.
//!
//! Owns the statistics, the sender report (RFC 3550, section 6.4.1), NACK handling, the numbering of the
//! repair stream (RFC 4588) and the score. Keeps no packet: a repeat names the producer's stored packet and
//! how to write its header again (see [`super::sent`]).

use super::{
    BaseStats, NtpTime, ReportBlock, ScoreChange, SenderInfo, StreamParams, StreamStats,
    recv::KeyFrameRequest,
    round_trip,
    score::{Interval, MAX_SCORE, Score},
    sent::{Lookup, SentMap, SentPacket},
};
use std::any::Any;

use crate::{rate::RateCounter, rtcp::compact_delay};
use std::time::{Duration, Instant};

/// Packets are repeated for three round trips, for so long at least, and as long as the producer's are stored at most:
/// what comes later a decoder has given up.
const SHORTEST_WINDOW: Duration = Duration::from_secs(1);
const WINDOW_ROUND_TRIPS: u32 = 3;
/// Round trip assumed until one is measured.
const DEFAULT_RTT: Duration = Duration::from_millis(100);
/// A stream that sent nothing for so long cannot tell where its RTP timeline is: it makes no sender report.
const MAX_SENDER_REPORT_AGE: Duration = Duration::from_secs(2);
/// Reported loss, in 1/256, from which the path is taken for overloaded: no repeat goes out early there.
const MUCH_LOST: u8 = 38;
/// Repeats that may follow each other without new packets between them. Each new packet allows one more, up
/// to this many: enough for half of all packets (repeats included) being lost, and a limit on what a receiver
/// that asks for everything can make us send.
const MAX_REPEAT_CREDIT: u32 = 500;
/// Credit of a new stream.
const INITIAL_REPEAT_CREDIT: u32 = 50;

/// A packet that goes out.
#[derive(Clone, Copy, Debug, Default)]
pub struct OutgoingPacket {
    /// Its sequence number, origin and rewriting.
    pub sent: SentPacket,
    /// RTP timestamp as sent.
    pub timestamp: u32,
    /// Bytes of the whole RTP packet before encryption.
    pub len: usize,
    /// Bytes of payload, without padding.
    pub payload_len: usize,
}

/// A packet to send again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeat {
    /// What to send: fetch `origin_seq` from the store of `origin` and write its header again.
    pub packet: SentPacket,
    /// The extended sequence number in the repair stream, when there is one; else the packet goes out under
    /// its own number, byte for byte as before.
    pub rtx_seq: Option<u64>,
}

/// One outgoing stream.
#[derive(Clone, Debug)]
pub struct SendStream {
    sent: Option<SentMap>,
    repeat_credit: u32,
    rate: RateCounter,
    octets: u64,
    /// Newest timestamp and when it was sent.
    newest: Option<(u32, Instant)>,
    /// What sending a packet does not look at, so that what it does lies close together.
    rest: Box<Rest>,
}

#[derive(Clone, Debug)]
struct Rest {
    params: StreamParams,
    /// Extended number of the next packet of the repair stream.
    next_rtx_seq: u64,
    repeats_refused: u64,
    rtt: Option<Duration>,
    packets_lost: i32,
    fraction_lost: u8,
    jitter: u32,
    score: Score,
    scored: Scored,
    receiver_reference_time: Option<(NtpTime, Instant)>,
    packets_retransmitted: u64,
    packets_repaired: u64,
    nack_count: u64,
    nack_packet_count: u64,
    pli_count: u64,
    fir_count: u64,
}

/// Totals when the score was last updated.
#[derive(Clone, Copy, Debug, Default)]
struct Scored {
    sent: u64,
    lost: u64,
    repaired: u64,
    retransmitted: u64,
}

impl SendStream {
    /// A stream that starts with the best score. `first_rtx_seq` starts the repair stream's numbering and
    /// should be random (RFC 3550, section 5.1).
    #[must_use]
    pub fn new(params: StreamParams, first_rtx_seq: u16, now: Instant) -> Self {
        Self {
            sent: params.use_nack.then(|| SentMap::new(SHORTEST_WINDOW, params.rtx.is_none(), now)),
            repeat_credit: INITIAL_REPEAT_CREDIT,
            rate: RateCounter::new(RateCounter::MEDIA),
            octets: 0,
            newest: None,
            rest: Box::new(Rest {
                next_rtx_seq: u64::from(first_rtx_seq),
                repeats_refused: 0,
                rtt: None,
                packets_lost: 0,
                fraction_lost: 0,
                jitter: 0,
                score: Score::new(MAX_SCORE),
                scored: Scored::default(),
                receiver_reference_time: None,
                packets_retransmitted: 0,
                packets_repaired: 0,
                nack_count: 0,
                nack_packet_count: 0,
                pli_count: 0,
                fir_count: 0,
                params,
            }),
        }
    }

    /// What was negotiated.
    #[must_use]
    pub fn params(&self) -> &StreamParams {
        &self.rest.params
    }

    /// Shows the memory that the next packet will be remembered in, so that it can be fetched ahead.
    pub fn show_next(&self, show: impl FnOnce(&[u8])) {
        if let Some(sent) = &self.sent {
            sent.show_next(show);
        }
    }

    /// Shows what leads to that memory.
    pub fn show_index<'s>(&'s self, show: impl FnOnce(&'s dyn Any)) {
        if let Some(sent) = &self.sent {
            sent.show_index(show);
        }
    }

    /// Counts and remembers a packet that goes out. `false`: it went out before, do not send it.
    pub fn sent(&mut self, packet: &OutgoingPacket, now: Instant) -> bool {
        if let Some(sent) = &mut self.sent
            && !sent.insert(&packet.sent, now)
        {
            return false;
        }
        self.rate.add(if packet.payload_len == 0 { 0 } else { packet.len }, now);
        self.octets += packet.payload_len as u64;
        self.repeat_credit = (self.repeat_credit + 1).min(MAX_REPEAT_CREDIT);
        let newer = |&(newest, _): &(u32, Instant)| packet.timestamp.wrapping_sub(newest).cast_signed() > 0;
        if self.newest.as_ref().is_none_or(newer) {
            self.newest = Some((packet.timestamp, now));
        }
        true
    }

    /// A NACK packet asks for `seqs`: appends what to repeat now. Not again within a round trip, where little is lost
    /// once already after half of it; not more than ten times each, and not much more in all than was sent.
    ///
    /// A browser that only receives does not know the round trip and asks every 100 ms. On a longer path the second
    /// request comes before the first repeat can have arrived, and were it refused, a repeat that was lost would be
    /// missed for another 100 ms: a frozen picture, for the price of one packet more for each that was lost.
    ///
    /// `most` is what the path has room for now; the receiver will ask again for the rest.
    pub fn on_nack(
        &mut self,
        seqs: impl IntoIterator<Item = u16>,
        most: usize,
        now: Instant,
        out: &mut Vec<Repeat>,
    ) {
        self.rest.nack_count += 1;
        let rtt = self.rest.rtt.unwrap_or(DEFAULT_RTT);
        let first_wait = if self.rest.fraction_lost < MUCH_LOST { rtt / 2 } else { rtt };
        let most = out.len().saturating_add(most);
        for seq in seqs {
            self.rest.nack_packet_count += 1;
            let Some(sent) = &mut self.sent else { continue };
            if self.repeat_credit == 0 || out.len() >= most {
                self.rest.repeats_refused += 1;
                continue;
            }
            match sent.request(seq, first_wait, rtt, now) {
                Lookup::Repeat { packet, first } => {
                    self.repeat_credit -= 1;
                    self.rest.packets_retransmitted += 1;
                    self.rest.packets_repaired += u64::from(first);
                    let rtx_seq = self.rest.params.rtx.map(|_| self.take_rtx_seq());
                    out.push(Repeat { packet, rtx_seq });
                }
                Lookup::Refused => self.rest.repeats_refused += 1,
                Lookup::Unknown => {}
            }
        }
    }

    /// The next number of the repair stream, for what else goes out on it (probing, padding).
    pub fn take_rtx_seq(&mut self) -> u64 {
        let seq = self.rest.next_rtx_seq;
        self.rest.next_rtx_seq += 1;
        seq
    }

    /// Counts a key frame request of the receiver.
    pub fn on_key_frame_request(&mut self, request: KeyFrameRequest) {
        match request {
            KeyFrameRequest::Pli => self.rest.pli_count += 1,
            KeyFrameRequest::Fir(_) => self.rest.fir_count += 1,
        }
    }

    /// The receiver's report block about this stream; `wall` is the wall clock that our sender reports carry.
    pub fn on_receiver_report(&mut self, block: &ReportBlock, wall: NtpTime, now: Instant) {
        if let Some(rtt) = round_trip(wall, block.last_sr, block.delay_since_last_sr) {
            self.rest.rtt = Some(rtt);
            self.expect_round_trip(rtt);
        }
        self.rest.packets_lost = block.cumulative_lost;
        self.rest.fraction_lost = block.fraction_lost;
        self.rest.jitter = block.jitter;
        if self.rest.score.ends_interval(now) {
            self.update_score();
        }
    }

    /// So long it takes at the moment until a request can come: behind a queue that has just grown, longer than the reports of
    /// the receiver tell, of which the next one waits in that queue too.
    pub fn expect_round_trip(&mut self, rtt: Duration) {
        if let Some(sent) = &mut self.sent {
            let longest = self.rest.params.retransmission_window();
            sent.set_window((rtt * WINDOW_ROUND_TRIPS).clamp(SHORTEST_WINDOW, longest));
        }
    }

    /// Our sender report: `None` until something was sent, and after two silent seconds.
    #[must_use]
    pub fn sender_report(&self, wall: NtpTime, now: Instant) -> Option<SenderInfo> {
        let (timestamp, sent_at) = self.newest?;
        let elapsed = now.saturating_duration_since(sent_at);
        if elapsed > MAX_SENDER_REPORT_AGE {
            return None;
        }
        let ticks = elapsed.as_micros() as u64 * u64::from(self.rest.params.clock_rate) / 1_000_000;
        Some(SenderInfo {
            ssrc: self.rest.params.ssrc,
            ntp: wall,
            rtp_timestamp: timestamp.wrapping_add(ticks as u32),
            packet_count: self.rate.total_packets() as u32,
            octet_count: self.octets as u32,
        })
    }

    /// The receiver told its reference time (RFC 3611, section 4.4).
    pub fn on_receiver_reference_time(&mut self, ntp: NtpTime, now: Instant) {
        self.rest.receiver_reference_time = Some((ntp, now));
    }

    /// LRR and DLRR of our answer to it (RFC 3611, section 4.5).
    #[must_use]
    pub fn delay_since_last_rr(&self, now: Instant) -> Option<(u32, u32)> {
        self.rest.receiver_reference_time.map(|(ntp, received_at)| {
            (ntp.compact(), compact_delay(now.saturating_duration_since(received_at)))
        })
    }

    /// The consumer is paused: what was sent is not repeated any more.
    pub fn pause(&mut self) {
        self.forget_sent();
        self.rest.jitter = 0;
    }

    /// What was sent until now is not repeated any more: a key frame will make it needless.
    pub fn forget_sent(&mut self) {
        if let Some(sent) = &mut self.sent {
            sent.clear();
        }
    }

    /// The score, 0 to 10.
    #[must_use]
    pub fn score(&self) -> u8 {
        self.rest.score.current()
    }

    /// The change of the score since the last call.
    pub fn poll_score_change(&mut self) -> Option<ScoreChange> {
        self.rest.score.take_change()
    }

    /// Round trip to the receiver.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        self.rest.rtt
    }

    /// Loss that the receiver reported last, in 1/256.
    #[must_use]
    pub fn fraction_lost(&self) -> u8 {
        self.rest.fraction_lost
    }

    /// Requests for repeats that were refused for their number.
    #[must_use]
    pub fn repeats_refused(&self) -> u64 {
        self.rest.repeats_refused
    }

    /// Bits per second, repeats not counted.
    pub fn bitrate(&mut self, now: Instant) -> u64 {
        self.rate.bitrate(now)
    }

    /// Everything that is reported.
    pub fn stats(&mut self, now: Instant) -> StreamStats {
        StreamStats {
            base: BaseStats {
                packets_lost: self.rest.packets_lost,
                fraction_lost: self.rest.fraction_lost,
                jitter: self.rest.jitter,
                packets_discarded: 0,
                packets_retransmitted: self.rest.packets_retransmitted,
                packets_repaired: self.rest.packets_repaired,
                nack_count: self.rest.nack_count,
                nack_packet_count: self.rest.nack_packet_count,
                pli_count: self.rest.pli_count,
                fir_count: self.rest.fir_count,
                rtx_packets_discarded: 0,
                round_trip_time_ms: self.rest.rtt.map_or(0.0, |rtt| rtt.as_secs_f32() * 1000.0),
                score: self.rest.score.current(),
            },
            packet_count: self.rate.total_packets(),
            byte_count: self.rate.total_bytes(),
            bitrate: self.rate.bitrate(now),
        }
    }

    /// Bytes of memory held beyond the struct itself.
    #[must_use]
    pub fn allocated_bytes(&self) -> usize {
        self.sent.as_ref().map_or(0, SentMap::allocated_bytes)
    }

    /// Scores the interval since the last report.
    fn update_score(&mut self) {
        let total = Scored {
            sent: self.rate.total_packets(),
            lost: u64::from(self.rest.packets_lost.max(0).unsigned_abs()),
            repaired: self.rest.packets_repaired,
            retransmitted: self.rest.packets_retransmitted,
        };
        let last = std::mem::replace(&mut self.rest.scored, total);
        let sent = total.sent - last.sent;
        if sent == 0 {
            self.rest.score.push(MAX_SCORE);
            return;
        }
        let lost = total.lost.saturating_sub(last.lost).min(sent);
        let interval = Interval {
            delivered: sent,
            lost,
            repaired: (total.repaired - last.repaired).min(lost),
            retransmitted: total.retransmitted - last.retransmitted,
        };
        self.rest.score.push(interval.score());
    }
}

#[cfg(test)]
mod tests;
