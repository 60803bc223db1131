//! A receiver of one stream: asks for what is missing, and at the end can say whether all it got makes sense.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use rtc::codec::vp8::Descriptor;
use rtc::rtcp;
use rtc::rtp::{RtpHeader, SeqNo, Ssrc};

use crate::publisher::Origin;

/// How long a packet may be late before it is asked for.
const PATIENCE: Duration = Duration::from_millis(20);
/// Between two requests for one packet: longer than the round trip that the worker assumes.
const RETRY: Duration = Duration::from_millis(110);
/// A packet is asked for so often, within the two seconds that the worker keeps it. With a fifth lost each way, one of a
/// hundred million is still missing then.
const TRIES: u32 = 17;

/// A packet as a receiver understands it.
#[derive(Debug, Clone)]
pub(crate) struct Media {
    pub(crate) timestamp: u32,
    pub(crate) picture: u16,
    pub(crate) origin: Origin,
    bytes: Vec<u8>,
}

pub(crate) struct Receiver {
    pub(crate) ssrc: u32,
    /// Whether repairs come on a stream of their own, the next SSRC.
    rtx: bool,
    /// Extended sequence number of the newest packet, by what has come and by what was sent.
    newest: [Option<u64>; 2],
    /// What has come, and what the worker sent, by extended sequence number.
    pub(crate) received: BTreeMap<u64, Media>,
    pub(crate) sent: BTreeMap<u64, Media>,
    /// The number that came first: of those before it, a receiver misses none.
    first: Option<u64>,
    missing: BTreeMap<u64, (Instant, u32)>,
    pub(crate) given_up: u32,
    pub(crate) repeats: u32,
    /// What the worker did that it must not do.
    pub(crate) wrong: Vec<String>,
}

impl Receiver {
    pub(crate) fn new(ssrc: u32, rtx: bool) -> Self {
        Self {
            ssrc,
            rtx,
            newest: [None; 2],
            received: BTreeMap::new(),
            sent: BTreeMap::new(),
            first: None,
            missing: BTreeMap::new(),
            given_up: 0,
            repeats: 0,
            wrong: Vec::new(),
        }
    }

    /// What the worker sends, as it leaves: every repeat is what was sent before.
    pub(crate) fn tap(&mut self, datagram: &[u8]) {
        if rtc::rtp::is_rtcp(datagram) {
            return;
        }
        let Some((sequence, media)) = self.read(datagram) else {
            self.wrong.push(format!("no packet of ours: {datagram:?}"));
            return;
        };
        let index = extend(&mut self.newest[1], sequence);
        let repair = RtpHeader::parse(datagram).unwrap().ssrc.0 != self.ssrc;
        match self.sent.get(&index) {
            None if repair => self.wrong.push(format!("a repair of {index}, which was never sent")),
            None => {
                self.sent.insert(index, media);
            }
            Some(before) => {
                self.repeats += 1;
                let same = if self.rtx {
                    repair && before.bytes[12..] == media.bytes[12..] && before.timestamp == media.timestamp
                } else {
                    before.bytes == media.bytes
                };
                if !same {
                    self.wrong.push(format!("{index} went out twice, and not the same"));
                }
            }
        }
    }

    /// What came over the link.
    pub(crate) fn receive(&mut self, datagram: &[u8], now: Instant) {
        if rtc::rtp::is_rtcp(datagram) {
            return;
        }
        let Some((sequence, media)) = self.read(datagram) else { return };
        let before = self.newest[0];
        // Both counts begin at the same turn of the numbers.
        if before.is_none() {
            self.newest[0] = self.newest[1].map(|newest| {
                newest.wrapping_add_signed(i64::from(sequence.wrapping_sub(newest as u16).cast_signed()))
            });
        }
        let index = extend(&mut self.newest[0], sequence);
        self.first.get_or_insert(index);
        for gap in before.map_or(index, |before| before + 1)..index {
            self.missing.insert(gap, (now + PATIENCE, 0));
        }
        self.missing.remove(&index);
        self.received.entry(index).or_insert(media);
    }

    /// Sequence number and content of a media packet or of a repair, which is taken apart.
    fn read(&self, datagram: &[u8]) -> Option<(u16, Media)> {
        let header = RtpHeader::parse(datagram).ok()?;
        let mut bytes = datagram.to_vec();
        let mut sequence = header.sequence;
        if header.ssrc.0 == self.ssrc + 1 && self.rtx {
            sequence = rtc::rtp::rtx::original_sequence(&header, datagram)?;
            bytes.drain(12..14);
        } else if header.ssrc.0 != self.ssrc {
            return None;
        }
        let payload = &bytes[usize::from(header.header_len)..];
        let descriptor = Descriptor::parse(payload)?;
        let origin = Origin::from_bytes(payload.get(usize::from(descriptor.len) + 1..)?);
        let media = Media { timestamp: header.timestamp, picture: descriptor.picture_id?, origin, bytes };
        Some((sequence.0, media))
    }

    /// A NACK, where it is time for one.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Vec<u8>> {
        let mut wanted = Vec::new();
        let mut given_up = 0;
        self.missing.retain(|index, (due, tries)| {
            if *due > now {
                return true;
            }
            if *tries == TRIES {
                given_up += 1;
                return false;
            }
            wanted.push(SeqNo(*index as u16));
            (*due, *tries) = (now + RETRY, *tries + 1);
            true
        });
        self.given_up += given_up;
        let mut out = Vec::new();
        rtcp::write_nack(&mut out, Ssrc(1), Ssrc(self.ssrc), wanted);
        (!out.is_empty()).then_some(out)
    }

    /// Everything that must hold of a whole run. `arrived` is what the worker got of the publisher, `late` what of it came
    /// after newer packets, `explained` how many numbers may be missing for another reason.
    pub(crate) fn verify(
        &self,
        arrived: &HashSet<Origin>,
        late: &HashSet<Origin>,
        explained: usize,
    ) -> Result<(), String> {
        if let Some(wrong) = self.wrong.first() {
            return Err(format!("{wrong} (and {} more)", self.wrong.len() - 1));
        }
        let (Some((&first, _)), Some((&last, _))) = (self.sent.first_key_value(), self.sent.last_key_value())
        else {
            return Err("nothing was sent at all".to_owned());
        };
        // What was sent and lost was repaired.
        let known = self.first.unwrap_or(last);
        let lost: Vec<_> = self
            .sent
            .range(known..)
            .map(|(index, _)| index)
            .filter(|index| !self.received.contains_key(index))
            .collect();
        if !lost.is_empty() {
            let (count, given_up) = (lost.len(), self.given_up);
            return Err(format!("{count} packets were lost for good, {given_up} given up: {lost:?}"));
        }
        // Numbers that were never sent.
        let gaps: Vec<u64> = (first..=last).filter(|index| !self.sent.contains_key(index)).collect();
        // Whether a missing packet will be of a layer that is wanted shows when it comes: its number was kept till then.
        let sent: HashSet<Origin> = self.sent.values().map(|media| media.origin).collect();
        let explained = explained + late.iter().filter(|origin| !sent.contains(origin)).count();
        if gaps.len() > explained {
            return Err(format!("{} gaps, {explained} explained: {gaps:?}", gaps.len()));
        }
        self.verify_order()?;
        self.verify_frames(arrived, late)
    }

    /// One packet of the publisher goes out once; timestamps and pictures go forward with the numbers.
    fn verify_order(&self) -> Result<(), String> {
        let mut seen: HashMap<Origin, u64> = HashMap::new();
        let mut previous: Option<(&u64, &Media)> = None;
        for (index, media) in &self.sent {
            if let Some(before) = seen.insert(media.origin, *index) {
                return Err(format!("{:?} went out as {before} and as {index}", media.origin));
            }
            if let Some((before, earlier)) = previous {
                let (step, turn) = (
                    media.timestamp.wrapping_sub(earlier.timestamp).cast_signed(),
                    media.picture.wrapping_sub(earlier.picture) & 0x7fff,
                );
                let same = (media.origin.stream, media.origin.frame)
                    == (earlier.origin.stream, earlier.origin.frame);
                let right =
                    if same { step == 0 && turn == 0 } else { step > 0 && (1..0x4000).contains(&turn) };
                if !right {
                    return Err(format!(
                        "{before} {:?} ts {} picture {} is followed by {index} {:?} ts {} picture {}",
                        earlier.origin,
                        earlier.timestamp,
                        earlier.picture,
                        media.origin,
                        media.timestamp,
                        media.picture
                    ));
                }
            }
            previous = Some((index, media));
        }
        Ok(())
    }

    /// A switch starts with a key frame, and what a frame needs was sent before it, unless the worker never got it, or got
    /// it when it was not wanted any more.
    fn verify_frames(&self, arrived: &HashSet<Origin>, late: &HashSet<Origin>) -> Result<(), String> {
        let mut whole: HashMap<(u8, u32), usize> = HashMap::new();
        for origin in arrived {
            *whole.entry((origin.stream, origin.frame)).or_default() += 1;
        }
        let counts: HashMap<(u8, u32), usize> =
            arrived.iter().map(|origin| ((origin.stream, origin.frame), usize::from(origin.count))).collect();
        let late: HashSet<(u8, u32)> = late.iter().map(|origin| (origin.stream, origin.frame)).collect();
        let in_time = |frame: (u8, u32)| {
            !late.contains(&frame) && counts.get(&frame).is_some_and(|count| whole[&frame] == *count)
        };
        let mut current = None;
        let mut sent: HashMap<(u8, u32), usize> = HashMap::new();
        let mut last_frame = None;
        for (index, media) in &self.sent {
            let Origin { stream, frame, key, needs, count, .. } = media.origin;
            if last_frame != Some((stream, frame)) {
                if current != Some(stream) {
                    if !key {
                        return Err(format!(
                            "{index} switches with {:?}, which is no key frame",
                            media.origin
                        ));
                    }
                    current = Some(stream);
                    // What comes after a switch can only lean on what comes after it.
                    sent.clear();
                }
                let missing = needs != u32::MAX && !sent.contains_key(&(stream, needs));
                if missing && in_time((stream, needs)) {
                    return Err(format!(
                        "{index} {:?} needs a frame that came and was not sent",
                        media.origin
                    ));
                }
                last_frame = Some((stream, frame));
            }
            let packets = sent.entry((stream, frame)).or_default();
            *packets += 1;
            if *packets > usize::from(count) {
                return Err(format!("{index} {:?} is one too many", media.origin));
            }
        }
        Ok(())
    }

    /// Stream and highest temporal layer of what was sent since an extended number.
    pub(crate) fn latest(&self, packets: usize) -> Option<(u8, u8)> {
        let latest: Vec<_> = self.sent.values().rev().take(packets).map(|media| media.origin).collect();
        let stream = latest.first()?.stream;
        let temporal =
            latest.iter().filter(|origin| origin.stream == stream).map(|origin| origin.temporal).max()?;
        latest.iter().all(|origin| origin.stream == stream).then_some((stream, temporal))
    }
}

/// The extended number nearest to the newest one.
fn extend(newest: &mut Option<u64>, sequence: u16) -> u64 {
    let index = match *newest {
        None => u64::from(sequence) + (1 << 32),
        Some(newest) => {
            newest.wrapping_add_signed(i64::from(sequence.wrapping_sub(newest as u16).cast_signed()))
        }
    };
    *newest = Some(newest.map_or(index, |newest| newest.max(index)));
    index
}
