//! A camera as an encoder sends it: three streams of VP8, or three spatial layers of VP9 or AV1 in one; two temporal
//! layers, of AV1 three; key frames on demand.

use std::time::Duration;

use testkit::random::Random;
use worker_protocol::wire::rtp_parameters as rtp;

use crate::harness::*;

const PACKET: usize = 1_100;
/// Bit/s of the three streams, or of the three layers by themselves.
pub(crate) const LAYERS: [u64; 3] = [120_000, 350_000, 1_500_000];
/// What AV1's pictures carry instead of more: a layer costs about so much less for those below.
const ON_TOP: [u64; 3] = [120_000, 230_000, 1_150_000];
/// Of header extensions.
const DEPENDENCY_DESCRIPTOR: u8 = 8;
const AV1: &str = include_str!("../../../../rtc/src/codec/captures/av1-l3t3.txt");

/// How a camera is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sends {
    /// VP8 in three streams, SSRCs 1 to 3.
    Simulcast,
    /// VP9, each layer depending on the one below it (L3T2).
    Vp9,
    /// VP9, depending on it in key frames only (L3T2_KEY).
    Vp9Key,
    /// AV1 with dependency descriptors as Chromium writes them (L3T3).
    Av1,
}

impl Sends {
    pub(crate) fn streams(self) -> u32 {
        if self == Self::Simulcast { 3 } else { 1 }
    }

    pub(crate) fn codec(self, payload_type: u8) -> rtp::RtpCodecParameters {
        let mime_type = match self {
            Self::Simulcast => "video/VP8",
            Self::Vp9 | Self::Vp9Key => "video/VP9",
            Self::Av1 => "video/AV1",
        };
        rtp::RtpCodecParameters { mime_type: mime_type.to_owned(), ..vp8(payload_type) }
    }

    pub(crate) fn consumed_mode(self) -> &'static str {
        match self {
            Self::Simulcast | Self::Vp9 => "L3T2",
            Self::Vp9Key => "L3T2_KEY",
            Self::Av1 => "L3T3",
        }
    }

    pub(crate) fn parameters(self, camera: Camera) -> rtp::RtpParameters {
        let mode = match (self, camera.temporal_layers) {
            (Self::Simulcast, 2) => "L1T2",
            (Self::Simulcast, _) => "L1T3",
            _ => self.consumed_mode(),
        };
        let encodings = (1..=self.streams()).map(|ssrc| rtp::RtpEncodingParameters {
            scalability_mode: Some(mode.to_owned()),
            ..encoding(ssrc, None)
        });
        let mut parameters = parameters(vec![self.codec(96)], encodings.collect());
        if self == Self::Av1 {
            parameters.header_extensions.push(rtp::RtpHeaderExtensionParameters {
                uri: rtp::RtpHeaderExtensionUri::DependencyDescriptor,
                id: DEPENDENCY_DESCRIPTOR,
                encrypt: false,
                parameters: None,
            });
        }
        parameters
    }
}

/// What a camera's streams of VP8 are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Camera {
    /// Bit/s of each.
    pub(crate) rates: [u64; 3],
    /// From a picture to the next.
    pub(crate) interval: Duration,
    /// Of each stream: two, each with half of the bits; or three as libwebrtc has them, with 40, 20 and 40%.
    pub(crate) temporal_layers: u8,
}

impl Camera {
    /// 30 pictures/s, two temporal layers.
    pub(crate) const USUAL: Self =
        Self { rates: LAYERS, interval: Duration::from_millis(33), temporal_layers: 2 };
    /// As Chromium sends what the call page asks of it, on a machine with little to spare: L1T3, 15 pictures/s.
    pub(crate) const CHROMIUM: Self = Self {
        rates: [150_000, 500_000, 1_300_000],
        interval: Duration::from_millis(67),
        temporal_layers: 3,
    };

    /// The temporal layer of a picture, and its size relative to the mean.
    fn temporal(self, picture: u32) -> (u8, f64) {
        match (self.temporal_layers, picture % 4) {
            (2, _) => (u8::from(picture.is_multiple_of(2)), 1.0),
            (_, 0) => (0, 1.6),
            (_, 2) => (1, 0.8),
            _ => (2, 0.8),
        }
    }
}

/// The camera.
pub(crate) struct Source {
    sends: Sends,
    camera: Camera,
    random: Random,
    picture: u32,
    /// Pictures since the last key picture, by stream where there are several.
    since_key: [u32; 3],
    key_wanted: [bool; 3],
    sequence: [u16; 3],
    base: [u8; 3],
    /// AV1's frames, each spatial layer of a picture being one.
    frame: u16,
    /// The dependency descriptors of a capture, by picture: one for each spatial layer.
    descriptors: Vec<Vec<Vec<u8>>>,
}

/// A frame to be cut into packets.
struct Frame {
    stream: usize,
    bytes: usize,
    /// Whether the picture ends with it.
    last: bool,
}

impl Source {
    pub(crate) fn new(sends: Sends, camera: Camera, seed: u64) -> Self {
        Self {
            sends,
            camera,
            random: Random::new(seed),
            picture: 0,
            since_key: [0; 3],
            key_wanted: [true; 3],
            sequence: [100; 3],
            base: [0; 3],
            frame: 0,
            descriptors: captured(),
        }
    }

    /// A receiver asked for one.
    pub(crate) fn key_frame(&mut self, ssrc: u32) {
        self.key_wanted[ssrc as usize - 1] = true;
    }

    /// The packets of the next picture of each stream or layer.
    pub(crate) fn picture(&mut self) -> Vec<Vec<u8>> {
        self.picture += 1;
        let mut out = Vec::new();
        if self.sends == Sends::Simulcast {
            for stream in 0..3 {
                let key = std::mem::take(&mut self.key_wanted[stream]);
                self.vp8(stream, key, &mut out);
            }
            return out;
        }
        let key = std::mem::take(&mut self.key_wanted[0]);
        self.since_key[0] = if key { 0 } else { self.since_key[0] + 1 };
        for spatial in 0..3 {
            match self.sends {
                Sends::Av1 => self.av1(spatial, key, &mut out),
                _ => self.vp9(spatial, key, &mut out),
            }
        }
        out
    }

    /// By up to a third more or less than the mean; a key frame is some frames long.
    fn bytes(&mut self, bitrate: u64, key: bool) -> usize {
        let share = 667 + self.random.below(667);
        (bitrate / 8 * self.camera.interval.as_millis() as u64 / 1000 * share / 1000) as usize
            * if key { 5 } else { 1 }
    }

    fn vp8(&mut self, stream: usize, key: bool, out: &mut Vec<Vec<u8>>) {
        let (temporal, size) = if key { (0, 1.0) } else { self.camera.temporal(self.picture) };
        self.base[stream] = self.base[stream].wrapping_add(u8::from(temporal == 0));
        let bytes = (self.bytes(self.camera.rates[stream], key) as f64 * size) as usize;
        let [high, low] = (self.picture as u16).to_be_bytes();
        let base = self.base[stream];
        self.cut(Frame { stream, bytes, last: true }, out, |_, _| {
            // X, S; then I, L and T with what they announce; then the payload header's P bit.
            (Vec::new(), vec![0x90, 0xe0, 0x80 | high, low, base, temporal << 6 | 0x20, u8::from(!key)])
        });
    }

    /// RFC 9628, section 4.2, flexible mode as Chromium uses it.
    fn vp9(&mut self, spatial: u8, key: bool, out: &mut Vec<Vec<u8>>) {
        let temporal = u8::from(!self.since_key[0].is_multiple_of(2));
        let full = self.sends == Sends::Vp9;
        let between_layers = spatial > 0 && (key || full);
        let rates = if full { ON_TOP } else { LAYERS };
        let bytes = self.bytes(rates[usize::from(spatial)], key);
        let [high, low] = (self.picture as u16).to_be_bytes();
        self.cut(Frame { stream: 0, bytes, last: spatial == 2 }, out, |begins, ends| {
            let announces = key && spatial == 0 && begins;
            // I, P, L, F, B, E, V, and Z where no upper layer needs it.
            let alone = spatial == 2 || !key && !full;
            let flags = 0xb0
                | u8::from(!key) << 6
                | u8::from(begins) << 3
                | u8::from(ends) << 2
                | u8::from(announces) << 1
                | u8::from(alone);
            // Each upper temporal layer needs nothing but the base before it: all may be switched to.
            let layers = temporal << 5 | 0x10 | spatial << 1 | u8::from(between_layers);
            let mut payload = vec![flags, 0x80 | high, low, layers];
            if !key {
                // How many pictures back, and that there is no further one.
                payload.push(if temporal == 0 { 2 << 1 } else { 1 << 1 });
            }
            if announces {
                // Three spatial layers; neither their sizes nor a group of pictures.
                payload.push(2 << 5);
            }
            (Vec::new(), payload)
        });
    }

    /// The AV1 RTP payload format; the descriptors are those of a capture with other frame numbers.
    fn av1(&mut self, spatial: u8, key: bool, out: &mut Vec<Vec<u8>>) {
        let pictures = &self.descriptors;
        // The first is a key picture, the others repeat in fours.
        let place = match self.since_key[0] as usize {
            0 => 0,
            since => (since - 1) % 4 + 1,
        };
        let descriptor = pictures[place][usize::from(spatial)].clone();
        let bytes = self.bytes(ON_TOP[usize::from(spatial)], key);
        let number = self.frame.to_be_bytes();
        self.frame = self.frame.wrapping_add(1);
        self.cut(Frame { stream: 0, bytes, last: spatial == 2 }, out, |begins, ends| {
            let mut descriptor = descriptor.clone();
            if !begins {
                // What it announces, it announces once.
                descriptor.truncate(3);
            }
            descriptor[0] = descriptor[0] & 0x3f | u8::from(begins) << 7 | u8::from(ends) << 6;
            descriptor[1..3].copy_from_slice(&number);
            // Z, Y, one OBU, N.
            let aggregation = u8::from(!begins) << 7
                | u8::from(!ends) << 6
                | 0x10
                | u8::from(key && spatial == 0 && begins) << 3;
            (descriptor, vec![aggregation, 0x30])
        });
    }

    /// Packets of a frame; `head` gives the dependency descriptor and the payload's beginning, told whether the frame
    /// begins and whether it ends with the packet.
    fn cut(&mut self, frame: Frame, out: &mut Vec<Vec<u8>>, head: impl Fn(bool, bool) -> (Vec<u8>, Vec<u8>)) {
        let mut left = frame.bytes.max(20);
        let mut begins = true;
        while left > 0 {
            let len = left.min(PACKET);
            left -= len;
            let (descriptor, payload) = head(begins, left == 0);
            begins = false;
            let marker = if left == 0 && frame.last { 0x80 } else { 0 };
            let extended = if descriptor.is_empty() { 0x80 } else { 0x90 };
            let mut packet = vec![extended, marker | 96];
            packet.extend_from_slice(&self.sequence[frame.stream].to_be_bytes());
            packet.extend_from_slice(
                &(self.picture * self.camera.interval.as_millis() as u32 * 90).to_be_bytes(),
            );
            packet.extend_from_slice(&(frame.stream as u32 + 1).to_be_bytes());
            if !descriptor.is_empty() {
                // RFC 8285 in its two-byte form, as the key picture's descriptor is longer than 16 bytes.
                let mut elements = vec![DEPENDENCY_DESCRIPTOR, descriptor.len() as u8];
                elements.extend_from_slice(&descriptor);
                elements.resize(elements.len().next_multiple_of(4), 0);
                packet.extend_from_slice(&[0x10, 0, 0, (elements.len() / 4) as u8]);
                packet.extend_from_slice(&elements);
            }
            packet.extend_from_slice(&payload);
            packet.resize(packet.len() + len, 0xab);
            self.sequence[frame.stream] = self.sequence[frame.stream].wrapping_add(1);
            out.push(packet);
        }
    }
}

/// The dependency descriptors of the capture's first five pictures.
fn captured() -> Vec<Vec<Vec<u8>>> {
    let mut pictures: Vec<(&str, Vec<Vec<u8>>)> = Vec::new();
    for line in AV1.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let (timestamp, text) = (fields[1], fields[3]);
        let digits: Vec<u8> = text.chars().map(|digit| digit.to_digit(16).unwrap() as u8).collect();
        let descriptor: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
        if pictures.last().is_none_or(|(last, _)| *last != timestamp) {
            pictures.push((timestamp, Vec::new()));
        }
        // Of a frame in several packets, the first.
        if descriptor[0] & 0x80 != 0 {
            pictures.last_mut().unwrap().1.push(descriptor);
        }
    }
    pictures.into_iter().take(5).map(|(_, frames)| frames).collect()
}
