//! A browser that publishes simulcast VP8: three streams of three temporal layers, repairs and key frames on demand.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rtc::rtcp::{self, NtpTime, Packet, SenderInfo};
use rtc::rtp::{SeqNo, Ssrc};
use testkit::random::Random;

/// SSRCs of the media streams; a stream's repairs come under the next number.
pub(crate) const STREAMS: [u32; 3] = [111, 121, 131];
pub(crate) const PAYLOAD_TYPE: u8 = 96;

/// Where a packet comes from: what a receiver can tell by its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Origin {
    pub(crate) stream: u8,
    pub(crate) frame: u32,
    pub(crate) index: u8,
    pub(crate) count: u8,
    pub(crate) key: bool,
    pub(crate) temporal: u8,
    /// The frame that this one needs besides, `u32::MAX` for none.
    pub(crate) needs: u32,
}

/// Bytes of an origin in the payload, behind the VP8 descriptor and the first byte of the VP8 header.
const ORIGIN_LEN: usize = 13;

impl Origin {
    fn to_bytes(self) -> [u8; ORIGIN_LEN] {
        let mut bytes = [0; ORIGIN_LEN];
        bytes[0] = self.stream;
        bytes[1..5].copy_from_slice(&self.frame.to_be_bytes());
        bytes[5..9].copy_from_slice(&[self.index, self.count, u8::from(self.key), self.temporal]);
        bytes[9..].copy_from_slice(&self.needs.to_be_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        Self {
            stream: bytes[0],
            frame: word(1),
            index: bytes[5],
            count: bytes[6],
            key: bytes[7] == 1,
            temporal: bytes[8],
            needs: word(9),
        }
    }
}

struct Stream {
    ssrc: u32,
    sequence: u16,
    repair_sequence: u16,
    timestamp: u32,
    picture: u16,
    tl0: u8,
    frame: u32,
    /// Frames since the last key frame; the pattern of temporal layers starts with it.
    since_key: u32,
    key_wanted: bool,
    history: HashMap<u16, Vec<u8>>,
    packets: u32,
}

pub(crate) struct Publisher {
    streams: Vec<Stream>,
    random: Random,
    next_frame: Instant,
    next_report: Instant,
    start: Instant,
    pub(crate) key_frames: u32,
}

impl Publisher {
    /// Numbers begin a little before they wrap.
    pub(crate) fn new(seed: u64, streams: usize, now: Instant) -> Self {
        let mut random = Random::new(seed);
        let streams = STREAMS[..streams]
            .iter()
            .map(|&ssrc| Stream {
                ssrc,
                sequence: 65_535 - random.below(400) as u16,
                repair_sequence: random.next() as u16,
                timestamp: u32::MAX - random.below(400_000) as u32,
                picture: 0x7fff - random.below(60) as u16,
                tl0: random.next() as u8,
                frame: 0,
                since_key: 0,
                key_wanted: true,
                history: HashMap::new(),
                packets: 0,
            })
            .collect();
        Self { streams, random, next_frame: now, next_report: now, start: now, key_frames: 0 }
    }

    /// What is to be sent by now.
    pub(crate) fn poll(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        if now >= self.next_frame {
            self.next_frame += Duration::from_millis(33);
            for index in 0..self.streams.len() {
                self.frame(index, &mut out);
            }
        }
        if now >= self.next_report {
            self.next_report += Duration::from_millis(500);
            for stream in &self.streams {
                let mut report = Vec::new();
                let info = SenderInfo {
                    ssrc: Ssrc(stream.ssrc),
                    ntp: NtpTime::from_unix(Duration::from_secs(1_700_000_000) + (now - self.start)),
                    rtp_timestamp: stream.timestamp,
                    packet_count: stream.packets,
                    octet_count: 0,
                };
                rtcp::write_sender_report(&mut report, &info, &[]);
                out.push(report);
            }
        }
        out
    }

    fn frame(&mut self, index: usize, out: &mut Vec<Vec<u8>>) {
        let stream = &mut self.streams[index];
        let key = std::mem::take(&mut stream.key_wanted);
        if key {
            stream.since_key = 0;
            self.key_frames += 1;
        }
        // T0 T2 T1 T2; the second T2 needs T1, the others their T0.
        let (temporal, back, sync) = match stream.since_key % 4 {
            0 => (0, 4, false),
            1 => (2, 1, true),
            2 => (1, 2, true),
            _ => (2, 1, false),
        };
        let needs = if key { u32::MAX } else { stream.frame - back };
        stream.tl0 = stream.tl0.wrapping_add(u8::from(temporal == 0));
        let count = if key { 4 } else { 1 + self.random.below(3) as u8 };
        for packet in 0..count {
            let origin = Origin {
                stream: index as u8,
                frame: stream.frame,
                index: packet,
                count,
                key,
                temporal,
                needs,
            };
            let mut bytes = vec![0x80, PAYLOAD_TYPE | u8::from(packet + 1 == count) << 7];
            bytes.extend_from_slice(&stream.sequence.to_be_bytes());
            bytes.extend_from_slice(&stream.timestamp.to_be_bytes());
            bytes.extend_from_slice(&stream.ssrc.to_be_bytes());
            let [high, low] = stream.picture.to_be_bytes();
            let start = if packet == 0 { 0x90 } else { 0x80 };
            bytes.extend_from_slice(&[start, 0xe0, 0x80 | high, low, stream.tl0]);
            bytes.extend_from_slice(&[temporal << 6 | u8::from(sync) << 5, u8::from(!key)]);
            bytes.extend_from_slice(&origin.to_bytes());
            bytes.resize(bytes.len() + self.random.below(40) as usize, packet);
            stream.history.insert(stream.sequence, bytes.clone());
            stream.sequence = stream.sequence.wrapping_add(1);
            stream.packets += 1;
            out.push(bytes);
        }
        stream.frame += 1;
        stream.since_key += 1;
        stream.picture = (stream.picture + 1) & 0x7fff;
        stream.timestamp = stream.timestamp.wrapping_add(2970);
    }

    /// RTCP from the worker; what it asks for.
    pub(crate) fn receive(&mut self, datagram: &[u8]) -> Vec<Vec<u8>> {
        let mut repeats = Vec::new();
        for packet in rtcp::parse(datagram) {
            match packet.unwrap() {
                Packet::Nack(nack) => {
                    let Some(stream) = self.stream(nack.media_ssrc) else { continue };
                    for SeqNo(sequence) in nack.sequences() {
                        let Some(original) = stream.history.get(&sequence) else { continue };
                        let mut repeat = original[..12].to_vec();
                        repeat[1] = repeat[1] & 0x80 | (PAYLOAD_TYPE + 1);
                        repeat[2..4].copy_from_slice(&stream.repair_sequence.to_be_bytes());
                        repeat[8..12].copy_from_slice(&(stream.ssrc + 1).to_be_bytes());
                        repeat.extend_from_slice(&sequence.to_be_bytes());
                        repeat.extend_from_slice(&original[12..]);
                        stream.repair_sequence = stream.repair_sequence.wrapping_add(1);
                        repeats.push(repeat);
                    }
                }
                Packet::Pli(pli) => {
                    if let Some(stream) = self.stream(pli.media_ssrc) {
                        stream.key_wanted = true;
                    }
                }
                Packet::Fir(fir) => {
                    for entry in fir.entries() {
                        if let Some(stream) = self.stream(entry.ssrc) {
                            stream.key_wanted = true;
                        }
                    }
                }
                _ => {}
            }
        }
        repeats
    }

    fn stream(&mut self, ssrc: Ssrc) -> Option<&mut Stream> {
        self.streams.iter_mut().find(|stream| stream.ssrc == ssrc.0)
    }
}
