//! Synthetic media: RTP packets that a worker takes for one VP8 or Opus stream.
//!
//! The payload descriptor is real (RFC 7741, RFC 7587); what follows it is a running number, a place for the time of
//! sending and the payload's length, so that a receiver can check what it decrypted against what was sent.

use std::sync::Arc;
use std::time::Duration;

use crate::recording::Recording;
use crate::router::Media;

/// Bytes of a payload before its running number: the longest descriptor here, rounded up.
pub const NUMBER_OFFSET: usize = 16;

/// Where the time of sending is, eight bytes; whoever sends may write it with [`Packet::stamp`].
const STAMP_OFFSET: usize = NUMBER_OFFSET + 8;

/// Where the payload's length is, two bytes.
const LENGTH_OFFSET: usize = STAMP_OFFSET + 8;

/// Where the filling begins; no payload is shorter.
const FILL_OFFSET: usize = LENGTH_OFFSET + 2;

const FILL: u8 = 0xa5;

/// A gap wider than a minute of any stream here is a forged number, not loss.
const MAX_GAP: u64 = 1 << 16;

/// The shape of a stream.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Video or audio.
    pub media: Media,
    /// Frames a second.
    pub frames_per_second: u32,
    /// Packets a frame.
    pub packets_per_frame: u32,
    /// Bytes of RTP payload a packet.
    pub payload_bytes: usize,
}

impl Shape {
    /// 30 frames/s of 6 x 1,100 B: the video of `anchors`.
    pub const VIDEO: Self =
        Self { media: Media::Video, frames_per_second: 30, packets_per_frame: 6, payload_bytes: 1_100 };
    /// 50 packets/s of 100 B: the audio of `anchors`.
    pub const AUDIO: Self =
        Self { media: Media::Audio, frames_per_second: 50, packets_per_frame: 1, payload_bytes: 100 };
    /// What a synthetic participant sends where only the flow matters: 10 frames/s of one packet.
    pub const THIN_VIDEO: Self =
        Self { media: Media::Video, frames_per_second: 10, packets_per_frame: 1, payload_bytes: 300 };

    /// Packets a second.
    pub fn packets_per_second(&self) -> u32 {
        self.frames_per_second * self.packets_per_frame
    }

    /// Time from frame to frame.
    pub fn interval(&self) -> Duration {
        Duration::from_secs(1) / self.frames_per_second
    }

    fn ticks_per_frame(&self) -> u32 {
        let clock_rate = if self.media == Media::Video { 90_000 } else { 48_000 };
        clock_rate / self.frames_per_second
    }
}

/// One packet, in the clear: header and payload apart, as SRTP takes them.
#[derive(Debug)]
pub struct Packet {
    /// The RTP header.
    pub header: Vec<u8>,
    /// The payload.
    pub payload: Vec<u8>,
    /// The 48-bit packet index (ROC and sequence number).
    pub index: u64,
}

impl Packet {
    /// Writes the time of sending, in a unit and from a zero that sender and receiver agree on.
    pub fn stamp(&mut self, time: u64) {
        self.payload[STAMP_OFFSET..LENGTH_OFFSET].copy_from_slice(&time.to_be_bytes());
    }
}

/// When packets of which size are due.
#[derive(Debug, Clone)]
enum Pattern {
    /// Frames of one size at one distance.
    Even(Shape),
    /// What a real sender sent, again and again.
    Recorded(Arc<Recording>),
}

/// Where a packet stands in its frame.
#[derive(Debug, Clone, Copy)]
struct Place {
    key: bool,
    first: bool,
    last: bool,
}

/// Makes a stream's packets in their order.
#[derive(Debug)]
pub struct Source {
    pattern: Pattern,
    media: Media,
    ssrc: u32,
    payload_type: u8,
    mid: Option<(u8, String)>,
    next_index: u64,
    /// Running numbers are ahead of packet indices by so many.
    ahead: u64,
    frame: u64,
    timestamp: u32,
    key_frame_due: bool,
}

impl Source {
    /// A stream that begins at sequence number 1 with a key frame. `mid` is the header extension's id and value.
    pub fn new(shape: Shape, ssrc: u32, payload_type: u8, mid: Option<(u8, String)>) -> Self {
        Self::of(Pattern::Even(shape), shape.media, ssrc, payload_type, mid)
    }

    /// A stream as it was recorded; at its end it begins anew. It does not answer PLIs: each round begins with a key
    /// frame.
    pub fn replay(recording: Arc<Recording>, ssrc: u32, payload_type: u8) -> Self {
        Self::of(Pattern::Recorded(recording), Media::Video, ssrc, payload_type, None)
    }

    /// The stream that began so long ago, sent once more from its next frame on under another SSRC: the same numbers at the same
    /// times, beginning with a key frame.
    pub fn again(shape: Shape, ssrc: u32, payload_type: u8, begun_for: Duration) -> Self {
        let frame = (begun_for.as_secs_f64() * f64::from(shape.frames_per_second)).ceil() as u64;
        let ahead = frame * u64::from(shape.packets_per_frame);
        let timestamp = (frame as u32).wrapping_mul(shape.ticks_per_frame());
        Self { ahead, frame, timestamp, ..Self::new(shape, ssrc, payload_type, None) }
    }

    fn of(pattern: Pattern, media: Media, ssrc: u32, payload_type: u8, mid: Option<(u8, String)>) -> Self {
        Self {
            pattern,
            media,
            ssrc,
            payload_type,
            mid,
            next_index: 1,
            ahead: 0,
            frame: 0,
            timestamp: 0,
            key_frame_due: true,
        }
    }

    /// The stream's SSRC.
    pub fn ssrc(&self) -> u32 {
        self.ssrc
    }

    /// Packets made so far.
    pub fn packets(&self) -> u64 {
        self.next_index - 1
    }

    /// Answers a PLI: the next frame is a key frame.
    pub fn request_key_frame(&mut self) {
        self.key_frame_due = true;
    }

    /// When [`Source::frame`] is due, counted from the stream's beginning.
    pub fn due(&self) -> Duration {
        match &self.pattern {
            Pattern::Even(shape) => {
                Duration::from_secs_f64(self.frame as f64 / f64::from(shape.frames_per_second))
            }
            Pattern::Recorded(recording) => recording.due(self.packets()),
        }
    }

    /// The packets that are due together next: a frame, of a recorded stream one packet.
    pub fn frame(&mut self) -> Vec<Packet> {
        match &self.pattern {
            &Pattern::Even(shape) => {
                let key = std::mem::take(&mut self.key_frame_due) && self.media == Media::Video;
                let count = shape.packets_per_frame;
                let place = |i| Place { key, first: i == 0, last: i + 1 == count };
                let packets = (0..count).map(|i| self.packet(place(i), shape.payload_bytes)).collect();
                self.frame += 1;
                self.timestamp = self.timestamp.wrapping_add(shape.ticks_per_frame());
                packets
            }
            Pattern::Recorded(recording) => {
                let recorded = recording.packet(self.packets());
                let place = Place {
                    key: recorded.starts_key_frame,
                    first: recorded.starts_frame,
                    last: recorded.marker,
                };
                if place.first {
                    self.frame += 1;
                    self.timestamp = self.timestamp.wrapping_add(recorded.ticks);
                }
                vec![self.packet(place, recorded.payload_bytes.into())]
            }
        }
    }

    fn packet(&mut self, place: Place, payload_bytes: usize) -> Packet {
        let index = self.next_index;
        self.next_index += 1;
        let mut header = Vec::with_capacity(24);
        let extension = if self.mid.is_some() { 0x10 } else { 0 };
        let marker = if place.last && self.media == Media::Video { 0x80 } else { 0 };
        header.push(0x80 | extension);
        header.push(marker | self.payload_type);
        header.extend_from_slice(&(index as u16).to_be_bytes());
        header.extend_from_slice(&self.timestamp.to_be_bytes());
        header.extend_from_slice(&self.ssrc.to_be_bytes());
        if let Some((id, mid)) = &self.mid {
            // RFC 8285, one-byte form: element of 1..=16 bytes, padded to words.
            let words = (1 + mid.len()).div_ceil(4);
            header.extend_from_slice(&[0xbe, 0xde]);
            header.extend_from_slice(&(words as u16).to_be_bytes());
            header.push(id << 4 | (mid.len() as u8 - 1));
            header.extend_from_slice(mid.as_bytes());
            header.resize(16 + words * 4, 0);
        }
        let mut payload = match self.media {
            Media::Video => vp8_start(self.frame as u16, place.key, place.first),
            Media::Audio => vec![0x78], // Opus TOC: CELT fullband, 20 ms, mono, one frame.
        };
        let length = payload_bytes.max(FILL_OFFSET);
        payload.resize(NUMBER_OFFSET, 0);
        payload.extend_from_slice(&(self.ahead + index).to_be_bytes());
        payload.resize(LENGTH_OFFSET, 0);
        payload.extend_from_slice(&(length as u16).to_be_bytes());
        payload.resize(length, FILL);
        Packet { header, payload, index }
    }
}

/// VP8 payload descriptor (with a 15-bit picture id) and, in a frame's first packet, the frame header's first bytes.
fn vp8_start(picture_id: u16, key: bool, first: bool) -> Vec<u8> {
    let [high, low] = (picture_id & 0x7fff | 0x8000).to_be_bytes();
    let mut bytes = vec![0x80 | if first { 0x10 } else { 0 }, 0x80, high, low];
    if first {
        // RFC 6386 section 9.1: bit 0 clear in a key frame, which goes on with the start code and 640x480.
        bytes.extend_from_slice(if key {
            &[0x10, 0, 0, 0x9d, 0x01, 0x2a, 0x80, 0x02, 0xe0, 0x01]
        } else {
            &[0x11, 0, 0]
        });
    }
    bytes
}

/// The running number that [`Source`] wrote into a payload; `None` where the payload is too short.
pub fn number(payload: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(payload.get(NUMBER_OFFSET..STAMP_OFFSET)?.try_into().ok()?))
}

/// The time that [`Packet::stamp`] wrote; `None` where nobody did.
pub fn stamp(payload: &[u8]) -> Option<u64> {
    let time = u64::from_be_bytes(payload.get(STAMP_OFFSET..LENGTH_OFFSET)?.try_into().ok()?);
    (time != 0).then_some(time)
}

fn is_intact(payload: &[u8]) -> bool {
    let length = payload.get(LENGTH_OFFSET..FILL_OFFSET).and_then(|bytes| bytes.try_into().ok());
    length.is_some_and(|length| usize::from(u16::from_be_bytes(length)) == payload.len())
        && payload.get(FILL_OFFSET..).is_some_and(|rest| rest.iter().all(|&byte| byte == FILL))
}

/// What one receiver saw of one stream.
#[derive(Debug, Clone, Default)]
pub struct StreamCheck {
    /// Packets received, repeats not counted.
    pub received: u64,
    /// Numbers left out so far; a late arrival is subtracted again.
    pub missing: u64,
    /// Packets seen before.
    pub repeated: u64,
    /// Packets whose payload was not what the source wrote.
    pub damaged: u64,
    first: Option<u64>,
    highest: u64,
    missing_numbers: std::collections::BTreeSet<u64>,
}

impl StreamCheck {
    /// Takes note of one decrypted payload.
    pub fn note(&mut self, payload: &[u8]) {
        let Some(number) = number(payload).filter(|_| is_intact(payload)) else {
            self.damaged += 1;
            return;
        };
        match self.first {
            None => (self.first, self.highest) = (Some(number), number),
            Some(_) if number > self.highest.saturating_add(MAX_GAP) => {
                self.damaged += 1;
                return;
            }
            Some(_) if number > self.highest => {
                self.missing_numbers.extend(self.highest + 1..number);
                self.highest = number;
            }
            Some(_) => {
                if !self.missing_numbers.remove(&number) {
                    self.repeated += 1;
                    return;
                }
            }
        }
        self.received += 1;
        self.missing = self.missing_numbers.len() as u64;
    }

    /// Takes note of one decrypted payload that came another way as well: it counts only where it was missing.
    pub fn fill(&mut self, payload: &[u8]) {
        if number(payload).is_some_and(|number| self.missing_numbers.contains(&number)) {
            self.note(payload);
        }
    }

    /// The highest running number seen.
    pub fn highest(&self) -> u64 {
        self.highest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payloads(count: usize) -> Vec<Vec<u8>> {
        let mut source = Source::new(Shape::AUDIO, 1, 100, None);
        (0..count).flat_map(|_| source.frame()).map(|p| p.payload).collect()
    }

    #[test]
    fn a_gap_is_missing_until_it_is_filled() {
        let payloads = payloads(5);
        let mut check = StreamCheck::default();
        for i in [0, 1, 4] {
            check.note(&payloads[i]);
        }
        assert_eq!((check.received, check.missing), (3, 2));
        check.note(&payloads[2]);
        check.note(&payloads[2]);
        assert_eq!((check.received, check.missing, check.repeated), (4, 1, 1));
    }

    #[test]
    fn a_changed_byte_is_damage() {
        let mut payload = payloads(1).remove(0);
        *payload.last_mut().unwrap() ^= 1;
        let mut check = StreamCheck::default();
        check.note(&payload);
        assert_eq!((check.received, check.damaged), (0, 1));
        let [first, mut second] = <[_; 2]>::try_from(payloads(2)).unwrap();
        check.note(&first);
        second[NUMBER_OFFSET] = 0x7f;
        check.note(&second);
        assert_eq!((check.received, check.missing, check.damaged), (1, 0, 2), "a number from nowhere");
    }

    #[test]
    fn a_payload_that_lost_its_end_is_damage() {
        let mut payload = payloads(1).remove(0);
        payload.pop();
        let mut check = StreamCheck::default();
        check.note(&payload);
        assert_eq!((check.received, check.damaged), (0, 1));
    }

    #[test]
    fn a_stream_that_is_sent_again_has_the_same_numbers_at_the_same_times() {
        for shape in [Shape::VIDEO, Shape::AUDIO] {
            let mut source = Source::new(shape, 1, 100, None);
            let numbers = |source: &mut Source| -> Vec<_> {
                source.frame().iter().map(|packet| number(&packet.payload)).collect()
            };
            (0..7).for_each(|_| drop(source.frame()));
            let just_before = source.due() - Duration::from_millis(1);
            let mut again = Source::again(shape, 2, 100, just_before);
            assert_eq!(again.due(), source.due());
            assert_eq!(numbers(&mut again), numbers(&mut source));
            let [first, other] = [again.frame().remove(0), source.frame().remove(0)];
            assert_eq!(first.header[4..8], other.header[4..8], "the same time");
            assert_eq!(first.index, u64::from(shape.packets_per_frame) + 1, "a stream of its own");
        }
    }

    #[test]
    fn a_stamp_does_not_damage() {
        let mut packet = Source::new(Shape::AUDIO, 1, 100, None).frame().remove(0);
        assert_eq!(stamp(&packet.payload), None);
        packet.stamp(7);
        let mut check = StreamCheck::default();
        check.note(&packet.payload);
        assert_eq!((check.received, stamp(&packet.payload)), (1, Some(7)));
    }

    #[test]
    fn a_frame_ends_with_the_marker_and_only_the_first_is_a_key_frame() {
        let mut source = Source::new(Shape::VIDEO, 1, 101, Some((1, "0".into())));
        let frame = source.frame();
        let markers: Vec<bool> = frame.iter().map(|p| p.header[1] & 0x80 != 0).collect();
        assert_eq!(markers, [false, false, false, false, false, true]);
        assert_eq!(frame[0].payload[4] & 1, 0, "key frame");
        assert_eq!(source.frame()[0].payload[4] & 1, 1, "delta frame");
        source.request_key_frame();
        assert_eq!(source.frame()[0].payload[4] & 1, 0, "key frame on request");
    }
}
