//! A viewer of VP8 or VP9 as libwebrtc is one: asks for what is missing (its NackRequester's times), decodes what is whole and
//! has its base, asks for a key frame when nothing could be decoded for three seconds, and reports.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use rtc::codec::{vp8, vp9};
use rtc::rtcp::{self, Packet, ReportBlock};
use rtc::rtp::{RtpHeader, SeqNo, Ssrc, rtx};

/// A receiver that sends nothing knows no round trip and takes this one.
const ASSUMED_RTT: Duration = Duration::from_millis(100);
/// One packet is asked for so often.
const TRIES: u32 = 10;
/// Requests are looked at so often.
const REQUEST_INTERVAL: Duration = Duration::from_millis(20);
/// Nothing decoded for so long: a key frame is asked for.
const LONGEST_WAIT: Duration = Duration::from_secs(3);
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Pictures of VP9 remembered, for those that are predicted from them.
const REMEMBERED: usize = 16;

/// A packet of media, repaired or not.
#[derive(Clone)]
struct Part {
    timestamp: u32,
    descriptor: Descriptor,
    marker: bool,
}

#[derive(Clone)]
enum Descriptor {
    Vp8(vp8::Descriptor),
    Vp9(vp9::Descriptor),
}

/// What a frame needs: its base, or the pictures and layers that it is predicted from.
#[derive(Default)]
struct Decoded {
    /// The last packet of the newest.
    last: Option<u64>,
    /// TL0PICIDX of VP8's newest.
    base: Option<u8>,
    /// Picture and spatial layer of VP9's latest frames.
    frames: VecDeque<(u16, u8)>,
}

impl Decoded {
    /// Whether the picture in these packets can be decoded. If so, it is.
    fn decode(&mut self, picture: &[(u64, Part)]) -> bool {
        match &picture[0].1.descriptor {
            Descriptor::Vp8(first) => {
                let base = first.tl0_picture_index.expect("a base");
                let due = self.base.map(|decoded| match first.temporal_layer() {
                    0 => decoded.wrapping_add(1),
                    _ => decoded,
                });
                if !first.key_frame && due != Some(base) {
                    return false;
                }
                self.base = Some(base);
            }
            Descriptor::Vp9(_) => {
                let kept = self.frames.len();
                for (_, part) in picture {
                    let Descriptor::Vp9(frame) = &part.descriptor else { panic!("another codec") };
                    if frame.start && !self.decode_vp9(frame) {
                        self.frames.truncate(kept);
                        return false;
                    }
                }
                self.frames.drain(..self.frames.len().saturating_sub(REMEMBERED * 3));
            }
        }
        self.last = picture.last().map(|(index, _)| *index);
        true
    }

    /// One layer's frame: it needs those before it, and the layer below where it says so.
    fn decode_vp9(&mut self, frame: &vp9::Descriptor) -> bool {
        let picture = frame.picture_id.expect("numbered");
        let layers = frame.layers.expect("layers");
        let below = !layers.inter_layer_dependency || self.frames.contains(&(picture, layers.spatial - 1));
        let before = frame.reference_diffs.iter().all(|diff| {
            let number = picture.wrapping_sub(u16::from(*diff)) & 0x7fff;
            self.frames.contains(&(number, layers.spatial))
        });
        self.frames.push_back((picture, layers.spatial));
        below && before
    }
}

/// Packets of one stream with a repair stream, whose SSRC is the next.
pub(crate) struct Viewer {
    ssrc: u32,
    newest: Option<u64>,
    parts: BTreeMap<u64, Part>,
    missing: BTreeMap<u64, (Instant, u32)>,
    vp9: bool,
    decoded: Decoded,
    /// When frames were decoded.
    pub(crate) pictures: Vec<Instant>,
    pub(crate) key_frames_asked: u32,
    /// Media and repairs that came, and requests sent, since the last look.
    pub(crate) repaired: u64,
    pub(crate) requested: u64,
    waits_since: Instant,
    next_request: Instant,
    next_report: Instant,
    last_sender_report: Option<(u32, Instant)>,
    expected: (u64, u64),
    first: Option<u64>,
    received: u64,
}

impl Part {
    /// Whether a picture begins with it. `ended`: whether the packet before it, where that came, was the last of one.
    fn begins_picture(&self, ended: Option<bool>) -> bool {
        match &self.descriptor {
            Descriptor::Vp8(descriptor) => descriptor.start && descriptor.partition == 0,
            // Which layer is a picture's lowest is the sender's choice, but for one that needs nothing.
            Descriptor::Vp9(frame) => {
                let lowest = frame.layers.is_some_and(|layers| layers.spatial == 0);
                frame.start && ended.unwrap_or(lowest && !frame.inter_predicted)
            }
        }
    }
}

impl Viewer {
    pub(crate) fn new(ssrc: u32, vp9: bool, now: Instant) -> Self {
        Self {
            ssrc,
            newest: None,
            parts: BTreeMap::new(),
            missing: BTreeMap::new(),
            vp9,
            decoded: Decoded::default(),
            pictures: Vec::new(),
            key_frames_asked: 0,
            repaired: 0,
            requested: 0,
            waits_since: now,
            next_request: now,
            next_report: now + REPORT_INTERVAL,
            last_sender_report: None,
            expected: (0, 0),
            first: None,
            received: 0,
        }
    }

    /// A datagram arrived, not of a probe.
    pub(crate) fn receive(&mut self, packet: &[u8], now: Instant) {
        let header = RtpHeader::parse(packet).unwrap();
        let repair = header.ssrc.0 == self.ssrc + 1;
        let mut payload = header.payload(packet);
        let mut sequence = header.sequence.0;
        if repair {
            let Some(original) = rtx::original_sequence(&header, packet) else { return };
            sequence = original.0;
            payload = &payload[rtx::OSN_LEN..];
            self.repaired += 1;
        } else {
            self.received += 1;
        }
        let newest = *self.newest.get_or_insert(u64::from(sequence) + (1 << 32));
        self.first.get_or_insert(newest);
        let index = newest.wrapping_add_signed(i64::from(sequence.wrapping_sub(newest as u16).cast_signed()));
        for gap in newest + 1..index {
            self.missing.insert(gap, (now, 0));
        }
        self.newest = Some(newest.max(index));
        self.missing.remove(&index);
        if self.decoded.last.is_some_and(|last| index <= last) {
            return;
        }
        let descriptor = if self.vp9 {
            Descriptor::Vp9(vp9::Descriptor::parse(payload).expect("VP9"))
        } else {
            Descriptor::Vp8(vp8::Descriptor::parse(payload).expect("VP8"))
        };
        self.parts.insert(index, Part { timestamp: header.timestamp, descriptor, marker: header.marker });
        while self.decode(now) {}
    }

    /// RTCP arrived.
    pub(crate) fn receive_rtcp(&mut self, datagram: &[u8], now: Instant) {
        for packet in rtcp::parse(datagram) {
            if let Ok(Packet::SenderReport(report)) = packet
                && report.info.ssrc.0 == self.ssrc
            {
                self.last_sender_report = Some((report.info.ntp.compact(), now));
            }
        }
    }

    /// Decodes the first picture that is whole and has what it is predicted from.
    fn decode(&mut self, now: Instant) -> bool {
        let mut picture: Vec<(u64, Part)> = Vec::new();
        let mut found = false;
        let mut decoded = std::mem::take(&mut self.decoded);
        let mut before = decoded.last.map(|last| (last, true));
        for (&index, part) in &self.parts {
            let follows = before.filter(|(before, _)| *before == index - 1);
            if part.begins_picture(follows.map(|(_, ended)| ended)) {
                picture.clear();
                picture.push((index, part.clone()));
            } else if follows.is_some() && !picture.is_empty() {
                picture.push((index, part.clone()));
            } else {
                picture.clear();
            }
            before = Some((index, part.marker));
            let whole =
                part.marker && picture.first().is_some_and(|(_, first)| first.timestamp == part.timestamp);
            if whole && decoded.decode(&picture) {
                found = true;
                break;
            }
        }
        self.decoded = decoded;
        let Some(last) = self.decoded.last.filter(|_| found) else { return false };
        self.parts = self.parts.split_off(&(last + 1));
        self.missing = self.missing.split_off(&last);
        self.pictures.push(now);
        self.waits_since = now;
        true
    }

    /// RTCP that is to be sent now.
    pub(crate) fn poll(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        if now >= self.next_request {
            self.next_request = now + REQUEST_INTERVAL;
            let mut asked = Vec::new();
            self.missing.retain(|index, (due, tries)| {
                if now < *due {
                    return true;
                }
                asked.push(SeqNo(*index as u16));
                (*due, *tries) = (now + ASSUMED_RTT, *tries + 1);
                *tries < TRIES
            });
            self.requested += asked.len() as u64;
            let mut nack = Vec::new();
            rtcp::write_nack(&mut nack, Ssrc(1), Ssrc(self.ssrc), asked);
            if !nack.is_empty() {
                out.push(nack);
            }
        }
        if now - self.waits_since >= LONGEST_WAIT {
            self.waits_since = now;
            self.key_frames_asked += 1;
            let mut pli = Vec::new();
            rtcp::write_pli(&mut pli, Ssrc(1), Ssrc(self.ssrc));
            out.push(pli);
        }
        if now >= self.next_report {
            self.next_report += REPORT_INTERVAL;
            out.push(self.report(now));
        }
        out
    }

    fn report(&mut self, now: Instant) -> Vec<u8> {
        let newest = self.newest.unwrap_or(0);
        let expected = self.first.map_or(0, |first| newest + 1 - first);
        let before = std::mem::replace(&mut self.expected, (expected, self.received));
        let (due, came) = (expected - before.0, self.received - before.1);
        let fraction = (due.saturating_sub(came) * 256).checked_div(due).unwrap_or(0);
        let (last_sr, delay_since_last_sr) =
            self.last_sender_report.map_or((0, 0), |(last, at)| (last, rtcp::compact_delay(now - at)));
        let block = ReportBlock {
            ssrc: Ssrc(self.ssrc),
            fraction_lost: fraction.min(255) as u8,
            cumulative_lost: expected.saturating_sub(self.received) as i32,
            highest_sequence: newest as u32,
            jitter: 0,
            last_sr,
            delay_since_last_sr,
        };
        let mut report = Vec::new();
        rtcp::write_receiver_report(&mut report, Ssrc(1), &[block]);
        report
    }
}
