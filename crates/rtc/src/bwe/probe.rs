//! Probing: a short burst above the estimate, which tells whether the link carries more than is sent on it.
//!
//! What is sent anyway counts too; padding fills up to the rate. Who pads, and with what, is the caller's.

use std::any::Any;

use super::sent::Sent;

/// How long a cluster is: long enough that some jitter does not decide it, short enough that a link which fails it has
/// a queue of no more than that.
const CLUSTER_US: i64 = 80_000;
/// Packets of a cluster at least, and what each has at least and at most.
const LEAST_PACKETS: u32 = 8;
const PACKET_LEN: (u64, u64) = (200, 1_200);
/// A result needs so much of what was sent.
const LEAST_RECEIVED: f64 = 0.7;
/// Feedback on a cluster that is this late will not come.
const RESULT_US: i64 = 2_000_000;
/// The link is taken for full where less than this share of the sent rate arrives…
const FULL: f64 = 0.9;
/// …and then this share of what arrived is used.
const FULL_SHARE: f64 = 0.95;
/// Time between a cluster and the next, after one that succeeded, and at most after many that did not.
const INTERVAL_US: (i64, i64) = (1_000_000, 8_000_000);

/// One burst.
#[derive(Clone, Copy, Debug)]
struct Cluster {
    bitrate: u64,
    started: i64,
    packet_len: u64,
    first_seq: u16,
    last_seq: u16,
    sent_packets: u32,
    sent_bytes: u64,
    sending: bool,
    received_packets: u32,
    received_bytes: u64,
    missing_packets: u32,
    /// Sent and arrived: the earliest and the latest, each with its length.
    first_sent: (i64, u64),
    last_sent: (i64, u64),
    first_arrival: (i64, u64),
    last_arrival: (i64, u64),
}

/// What a cluster told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProbeResult {
    /// The link carried so many bit/s.
    Carried {
        /// What arrived.
        bitrate: u64,
        /// What was tried.
        tried: u64,
    },
    /// Too much of it was lost, or it was stretched and squeezed beyond use.
    Useless,
    /// Nobody reported on it.
    Unreported,
}

/// The clusters of one transport, one at a time.
#[derive(Clone, Debug)]
pub(super) struct Prober {
    cluster: Option<Cluster>,
    ended_at: Option<i64>,
    interval_us: i64,
}

impl Prober {
    pub(super) const fn new() -> Self {
        Self { cluster: None, ended_at: None, interval_us: INTERVAL_US.0 }
    }

    /// Whether another cluster may start.
    pub(super) fn is_ready(&self, now_us: i64) -> bool {
        self.cluster.is_none() && self.ended_at.is_none_or(|ended| now_us - ended >= self.interval_us)
    }

    /// Starts a cluster. `next_seq` is the transport-wide number of the next packet that goes out.
    pub(super) fn start(&mut self, bitrate: u64, next_seq: u16, now_us: i64) {
        let bytes = bitrate / 8 * CLUSTER_US.unsigned_abs() / 1_000_000;
        let packet_len = (bytes / u64::from(LEAST_PACKETS + 2)).clamp(PACKET_LEN.0, PACKET_LEN.1);
        self.cluster = Some(Cluster {
            bitrate,
            started: now_us,
            packet_len,
            first_seq: next_seq,
            last_seq: next_seq.wrapping_sub(1),
            sent_packets: 0,
            sent_bytes: 0,
            sending: true,
            received_packets: 0,
            received_bytes: 0,
            missing_packets: 0,
            first_sent: (0, 0),
            last_sent: (0, 0),
            first_arrival: (0, 0),
            last_arrival: (0, 0),
        });
    }

    /// A packet goes out, whatever it is.
    pub(super) fn sent(&mut self, seq: u16, len: usize) {
        if let Some(cluster) = &mut self.cluster
            && cluster.sending
        {
            cluster.last_seq = seq;
            cluster.sent_packets += 1;
            cluster.sent_bytes += len as u64;
        }
    }

    /// What [`Self::is_sending`] looks at.
    pub(super) fn hot(&self) -> &dyn Any {
        &self.cluster
    }

    /// Whether a cluster is being sent.
    pub(super) fn is_sending(&self) -> bool {
        self.cluster.is_some_and(|cluster| cluster.sending)
    }

    /// The length of a padding packet that is due now.
    pub(super) fn poll(&mut self, now_us: i64) -> Option<usize> {
        let cluster = self.cluster.as_mut().filter(|cluster| cluster.sending)?;
        let elapsed = now_us - cluster.started;
        let enough = cluster.sent_packets >= LEAST_PACKETS && elapsed >= CLUSTER_US;
        if enough || elapsed > 5 * CLUSTER_US {
            cluster.sending = false;
            return None;
        }
        (now_us >= cluster.due()).then_some(cluster.packet_len as usize)
    }

    /// When [`Self::poll`] has something to say.
    pub(super) fn next_us(&self) -> Option<i64> {
        self.cluster.filter(|cluster| cluster.sending).map(|cluster| cluster.due())
    }

    /// A packet is acknowledged; `sent` and `arrival` in microseconds.
    pub(super) fn acknowledged(&mut self, seq: u16, packet: &Sent, sent: i64, arrival: i64) {
        let Some(cluster) = self.cluster.as_mut().filter(|cluster| cluster.contains(seq)) else { return };
        let len = u64::from(packet.len);
        if cluster.received_packets == 0 {
            (cluster.first_sent, cluster.last_sent) = ((sent, len), (sent, len));
            (cluster.first_arrival, cluster.last_arrival) = ((arrival, len), (arrival, len));
        }
        cluster.received_packets += 1;
        cluster.received_bytes += len;
        if sent < cluster.first_sent.0 {
            cluster.first_sent = (sent, len);
        }
        if sent >= cluster.last_sent.0 {
            cluster.last_sent = (sent, len);
        }
        if arrival < cluster.first_arrival.0 {
            cluster.first_arrival = (arrival, len);
        }
        if arrival >= cluster.last_arrival.0 {
            cluster.last_arrival = (arrival, len);
        }
    }

    /// A packet is reported missing.
    pub(super) fn missing(&mut self, seq: u16) {
        if let Some(cluster) = self.cluster.as_mut().filter(|cluster| cluster.contains(seq)) {
            cluster.missing_packets += 1;
        }
    }

    /// Feedback now reaches up to this number: the result, once it is there.
    pub(super) fn conclude(&mut self, newest_seq: Option<u16>, now_us: i64) -> Option<ProbeResult> {
        let cluster = self.cluster.filter(|cluster| !cluster.sending)?;
        let reported = newest_seq.is_some_and(|seq| seq.wrapping_sub(cluster.last_seq).cast_signed() >= 0);
        if !reported && now_us - cluster.started < RESULT_US {
            return None;
        }
        self.cluster = None;
        self.ended_at = Some(now_us);
        Some(cluster.result())
    }

    /// The last cluster found what was looked for, or did not: the next one may come soon, or later.
    pub(super) fn rate(&mut self, found: bool) {
        self.interval_us = if found { INTERVAL_US.0 } else { (self.interval_us * 3 / 2).min(INTERVAL_US.1) };
    }
}

impl Cluster {
    fn due(&self) -> i64 {
        let us = self.sent_bytes.saturating_mul(8_000_000) / self.bitrate.max(1);
        self.started.saturating_add(i64::try_from(us).unwrap_or(i64::MAX))
    }

    fn contains(&self, seq: u16) -> bool {
        seq.wrapping_sub(self.first_seq) <= self.last_seq.wrapping_sub(self.first_seq)
            && self.sent_packets > 0
    }

    fn result(&self) -> ProbeResult {
        let reported = self.received_packets + self.missing_packets;
        if f64::from(reported) < LEAST_RECEIVED * f64::from(self.sent_packets) {
            return ProbeResult::Unreported;
        }
        match self.carried() {
            Some(bitrate) => ProbeResult::Carried { bitrate, tried: self.bitrate },
            None => ProbeResult::Useless,
        }
    }

    fn carried(&self) -> Option<u64> {
        let enough = f64::from(self.received_packets) >= LEAST_RECEIVED * f64::from(self.sent_packets);
        let sent_us = u64::try_from(self.last_sent.0 - self.first_sent.0).ok().filter(|us| *us > 0)?;
        let arrival_us =
            u64::try_from(self.last_arrival.0 - self.first_arrival.0).ok().filter(|us| *us > 0)?;
        if !enough || self.received_packets < LEAST_PACKETS / 2 {
            return None;
        }
        // A span begins with the end of its first packet and ends with that of its last, as a link sends them; what
        // leaves us leaves at the beginning of the time it takes.
        let sent = (self.received_bytes - self.last_sent.1) * 8_000_000 / sent_us;
        let arrived = (self.received_bytes - self.first_arrival.1) * 8_000_000 / arrival_us;
        // Faster than it was sent by much: buffered on the way, and no measure of anything.
        if arrived > 2 * sent {
            return None;
        }
        let full = (arrived as f64) < FULL * sent as f64;
        Some(if full { (FULL_SHARE * arrived as f64) as u64 } else { sent.min(arrived) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends a cluster of `bitrate` over a link of `capacity`; what it told.
    fn probe(bitrate: u64, capacity: u64) -> u64 {
        let mut prober = Prober::new();
        prober.start(bitrate, 10, 0);
        let (mut seq, mut free_at, mut packets) = (10_u16, 0_i64, Vec::new());
        for now in (0..500_000).step_by(1000) {
            while let Some(len) = prober.poll(now) {
                prober.sent(seq, len);
                free_at = free_at.max(now) + (len as u64 * 8_000_000 / capacity).cast_signed();
                packets.push((seq, len, now, free_at));
                seq = seq.wrapping_add(1);
            }
        }
        for (seq, len, sent, arrival) in packets {
            let packet = Sent { age_us: 0, len: len as u16, was_missing: false };
            prober.acknowledged(seq, &packet, sent, arrival);
        }
        match prober.conclude(Some(seq.wrapping_sub(1)), 600_000) {
            Some(ProbeResult::Carried { bitrate, .. }) => bitrate,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_link_that_carries_it_is_believed() {
        let result = probe(1_000_000, 10_000_000);
        assert!((900_000..=1_050_000).contains(&result), "{result:?}");
    }

    #[test]
    fn a_link_that_does_not_is_measured() {
        let result = probe(2_000_000, 1_000_000);
        assert!((850_000..=1_000_000).contains(&result), "{result:?}");
    }

    #[test]
    fn clusters_that_find_nothing_get_rarer() {
        let mut prober = Prober::new();
        let mut now = 0;
        let mut intervals = Vec::new();
        for _ in 0..10 {
            let before = now;
            while !prober.is_ready(now) {
                now += 1000;
            }
            intervals.push(now - before);
            prober.start(1_000_000, 0, now);
            while prober.is_sending() {
                while let Some(len) = prober.poll(now) {
                    prober.sent(0, len);
                }
                now += 1000;
            }
            now += RESULT_US;
            assert_eq!(prober.conclude(None, now), Some(ProbeResult::Unreported));
            prober.rate(false);
        }
        assert!(intervals[1..].windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(*intervals.last().unwrap(), INTERVAL_US.1);
    }
}
