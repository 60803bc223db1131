//! What a received stream tells of its layers: read once a packet, whatever the audience.
//!
//! It decides nothing: which layers a Consumer gets is the Consumer's business.

use rtc::codec::layers::Layering;
use rtc::codec::{self, PayloadInfo, dependency, vp8, vp9};
use rtc::rtp::RtpHeader;

use crate::params::{CodecKind, Encoding, RtpParameters};

/// How a stream's layers are read.
#[derive(Debug)]
pub enum LayerSource {
    /// They are not, or from the VP8 descriptor, which has no state.
    Payload,
    /// From VP9 payload descriptors.
    Vp9(vp9::LayerReader),
    /// From dependency descriptors with this header extension id.
    Descriptor(u8, dependency::LayerReader),
}

/// What a look at a packet found.
#[derive(Debug, Default)]
pub struct Found {
    /// What its payload says.
    pub info: PayloadInfo,
    /// Its VP8 descriptor.
    pub vp8: Option<vp8::Descriptor>,
    /// Its frame in a layered stream.
    pub layering: Layering,
    /// It announces what packets before it could not be read without.
    pub announces: bool,
}

impl LayerSource {
    /// The source that a stream with these parameters has.
    pub fn new(parameters: &RtpParameters, encoding: &Encoding) -> Self {
        let id = parameters.extensions.dependency_descriptor;
        match parameters.codec(encoding).kind {
            CodecKind::Vp9 => Self::Vp9(vp9::LayerReader::new(encoding.dependency)),
            CodecKind::Av1 | CodecKind::H264 if id != 0 => {
                Self::Descriptor(id, dependency::LayerReader::new())
            }
            _ => Self::Payload,
        }
    }

    /// Looks at a packet that comes for the first time.
    pub fn read(&mut self, codec: CodecKind, header: &RtpHeader, packet: &[u8], payload: &[u8]) -> Found {
        match self {
            Self::Payload => from_payload(codec, header, payload),
            Self::Vp9(reader) => {
                from_vp9(header, payload, |descriptor| reader.read(descriptor, header.timestamp))
            }
            Self::Descriptor(id, reader) => match header.extension(packet, *id) {
                Some(value) => from_descriptor(codec, header, payload, reader.read(value)),
                None => from_payload(codec, header, payload),
            },
        }
    }

    /// Looks at a packet again.
    pub fn look(&self, codec: CodecKind, header: &RtpHeader, packet: &[u8], payload: &[u8]) -> Found {
        match self {
            Self::Payload => from_payload(codec, header, payload),
            Self::Vp9(reader) => {
                from_vp9(header, payload, |descriptor| reader.look(descriptor, header.timestamp))
            }
            Self::Descriptor(id, reader) => match header.extension(packet, *id) {
                Some(value) => from_descriptor(codec, header, payload, reader.look(value)),
                None => from_payload(codec, header, payload),
            },
        }
    }
}

fn from_payload(codec: CodecKind, header: &RtpHeader, payload: &[u8]) -> Found {
    let vp8 = if codec == CodecKind::Vp8 { vp8::Descriptor::parse(payload) } else { None };
    let info = match &vp8 {
        Some(descriptor) => descriptor.info(header.marker),
        None => codec::inspect(codec.payload_kind(), payload, header.marker),
    };
    Found { info, vp8, ..Found::default() }
}

fn from_vp9(
    header: &RtpHeader,
    payload: &[u8],
    read: impl FnOnce(&vp9::Descriptor) -> codec::layers::LayerFrame,
) -> Found {
    let Some(descriptor) = vp9::Descriptor::parse(payload) else {
        return from_payload(CodecKind::Vp9, header, payload);
    };
    let layering = Layering::Frame(read(&descriptor));
    Found { info: descriptor.info(), layering, ..Found::default() }
}

fn from_descriptor(codec: CodecKind, header: &RtpHeader, payload: &[u8], read: dependency::Read) -> Found {
    let mut found = from_payload(codec, header, payload);
    if let Layering::Frame(frame) = &read.layering {
        found.info.spatial_layer = frame.spatial;
        found.info.temporal_layer = frame.temporal;
        found.info.start_of_frame = frame.start;
        found.info.end_of_frame = frame.end;
        if codec == CodecKind::Av1 {
            found.info.key_frame = read.key_frame;
        }
    }
    Found { layering: read.layering, announces: read.announces, ..found }
}

/// Which spatial layers of a stream flow at the moment: a sender takes the upper ones away when its link is short.
#[derive(Debug)]
pub struct Activity {
    timestamp: u32,
    /// Pictures since the layer was last seen, counted up to the limit.
    absent: [u8; 8],
    flowing: u8,
}

/// A layer that was in none of this many pictures does not flow: longer than a group of temporal layers, and short
/// enough for a Consumer that gets this layer only.
const ABSENT_PICTURES: u8 = 12;

impl Default for Activity {
    /// A new stream is taken to have every layer: its first picture is not told from one that lacks some.
    fn default() -> Self {
        Self { timestamp: 0, absent: [0; 8], flowing: u8::MAX }
    }
}

impl Activity {
    /// Takes note of a packet; `true` where other layers flow than before.
    pub fn note(&mut self, spatial: u8, timestamp: u32) -> bool {
        let before = self.flowing;
        let bit = 1_u8 << (spatial & 7);
        if timestamp != self.timestamp {
            self.timestamp = timestamp;
            for (layer, absent) in self.absent.iter_mut().enumerate() {
                *absent = absent.saturating_add(1);
                if *absent > ABSENT_PICTURES {
                    self.flowing &= !(1 << layer);
                }
            }
        }
        if let Some(absent) = self.absent.get_mut(usize::from(spatial & 7)) {
            *absent = 0;
        }
        self.flowing |= bit;
        self.flowing != before
    }

    /// Whether a spatial layer flows.
    pub fn flows(&self, spatial: u8) -> bool {
        self.flowing >> (spatial & 7) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_that_stays_away_stops_flowing_and_comes_back_at_once() {
        let mut activity = Activity::default();
        let changes: Vec<u32> = (1..=40)
            .filter(|&picture| {
                let lower = activity.note(0, picture);
                let upper = picture <= 20 && activity.note(1, picture);
                lower || upper
            })
            .collect();
        let limit = u32::from(ABSENT_PICTURES) + 1;
        assert_eq!(changes, [limit, 20 + limit], "layers that never came, then the one that stayed away");
        assert!(activity.flows(0) && !activity.flows(1) && !activity.flows(2));
        assert!(activity.note(1, 40));
        assert!(activity.flows(1));
    }
}
