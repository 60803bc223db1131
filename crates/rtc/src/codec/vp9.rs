//! VP9 payload descriptors (RFC 9628, section 4.2), and what they say of a stream's layers.

use arrayvec::ArrayVec;

use super::PayloadInfo;
use super::layers::{LayerFrame, MAX_LAYERS, References, TargetSet};
use crate::sequence::Unwrapper;

/// Reference indices that a picture has at most (section 4.2: up to three P_DIFF).
pub const MAX_REFERENCES: usize = 3;

/// The layer indices of a packet (the descriptor's L part).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerIndices {
    /// Temporal layer, TID.
    pub temporal: u8,
    /// Switching up point, U: later frames of higher temporal layers do not depend on earlier ones of
    /// those layers.
    pub switching_up_point: bool,
    /// Spatial layer, SID.
    pub spatial: u8,
    /// Inter-layer dependency, D: the frame depends on the spatial layer below it.
    pub inter_layer_dependency: bool,
    /// Index of the last base frame, TL0PICIDX; only in non-flexible mode.
    pub tl0_picture_index: Option<u8>,
}

/// A picture of a picture group, as the scalability structure announces it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupPicture {
    /// Its temporal layer.
    pub temporal: u8,
    /// Whether it is a switching up point.
    pub switching_up_point: bool,
    /// How many pictures back those lie that it is predicted from.
    pub reference_diffs: ArrayVec<u8, MAX_REFERENCES>,
}

/// A scalability structure (section 4.2.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScalabilityStructure {
    /// Spatial layers, 1 to 8.
    pub spatial_layers: u8,
    /// Width and height of each spatial layer, where given.
    pub resolutions: ArrayVec<(u16, u16), { MAX_LAYERS as usize }>,
    /// The pictures of a group, where given.
    pub pictures: ArrayVec<GroupPicture, MAX_GROUP>,
}

/// Longer groups than any encoder makes are cut: only their first pictures are kept.
pub const MAX_GROUP: usize = 8;

/// A parsed descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The frame number, 7 or 15 bits.
    pub picture_id: Option<u16>,
    /// Whether the picture number has 15 bits.
    pub long_picture_id: bool,
    /// Inter-picture predicted layer frame, P.
    pub inter_predicted: bool,
    /// Flexible mode, F.
    pub flexible: bool,
    /// First packet of a layer frame, B.
    pub start: bool,
    /// Last packet of a layer frame, E.
    pub end: bool,
    /// Not a reference for upper spatial layers of the same picture, Z.
    pub not_reference_for_upper: bool,
    /// The layer indices, where the stream has layers.
    pub layers: Option<LayerIndices>,
    /// How many pictures back those lie that this one is predicted from; only in flexible mode.
    pub reference_diffs: ArrayVec<u8, MAX_REFERENCES>,
    /// The scalability structure, where it is announced.
    pub structure: Option<ScalabilityStructure>,
    /// The descriptor's length: the VP9 frame starts here.
    pub len: usize,
}

impl Descriptor {
    /// Parses the start of a payload; `None` where it ends too early or contradicts itself.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let mut bytes = payload.iter().copied();
        let first = bytes.next()?;
        let has = |bit: u8| first & bit != 0;
        let mut descriptor = Self {
            picture_id: None,
            long_picture_id: false,
            inter_predicted: has(0x40),
            flexible: has(0x10),
            start: has(0x08),
            end: has(0x04),
            not_reference_for_upper: has(0x01),
            layers: None,
            reference_diffs: ArrayVec::new(),
            structure: None,
            len: 0,
        };
        if has(0x80) {
            let high = bytes.next()?;
            descriptor.long_picture_id = high & 0x80 != 0;
            descriptor.picture_id = Some(if descriptor.long_picture_id {
                u16::from_be_bytes([high & 0x7f, bytes.next()?])
            } else {
                u16::from(high)
            });
        }
        if has(0x20) {
            let indices = bytes.next()?;
            let tl0_picture_index = if descriptor.flexible { None } else { Some(bytes.next()?) };
            descriptor.layers = Some(LayerIndices {
                temporal: indices >> 5,
                switching_up_point: indices & 0x10 != 0,
                spatial: (indices >> 1) & 0x07,
                inter_layer_dependency: indices & 0x01 != 0,
                tl0_picture_index,
            });
        }
        if descriptor.flexible && descriptor.inter_predicted {
            loop {
                let diff = bytes.next()?;
                descriptor.reference_diffs.try_push(diff >> 1).ok()?;
                if diff & 0x01 == 0 {
                    break;
                }
            }
        }
        if has(0x02) {
            descriptor.structure = Some(ScalabilityStructure::parse(&mut bytes)?);
        }
        descriptor.len = payload.len().saturating_sub(bytes.len());
        Some(descriptor)
    }

    /// Whether the packet starts a key picture: a base spatial layer frame without inter-picture prediction.
    #[must_use]
    pub fn is_key_frame(&self) -> bool {
        self.start && !self.inter_predicted && self.layers.is_none_or(|layers| layers.spatial == 0)
    }

    /// The codec-independent summary.
    #[must_use]
    pub fn info(&self) -> PayloadInfo {
        PayloadInfo {
            key_frame: self.is_key_frame(),
            start_of_frame: self.start,
            end_of_frame: self.end,
            spatial_layer: self.layers.map_or(0, |layers| layers.spatial),
            temporal_layer: self.layers.map_or(0, |layers| layers.temporal),
            switch_up: self.layers.is_some_and(|layers| layers.switching_up_point),
            dtx: false,
        }
    }
}

impl ScalabilityStructure {
    fn parse(bytes: &mut impl Iterator<Item = u8>) -> Option<Self> {
        let first = bytes.next()?;
        let spatial_layers = (first >> 5).saturating_add(1);
        let mut structure = Self { spatial_layers, ..Self::default() };
        if first & 0x10 != 0 {
            for _ in 0..spatial_layers {
                let width = u16::from_be_bytes([bytes.next()?, bytes.next()?]);
                let height = u16::from_be_bytes([bytes.next()?, bytes.next()?]);
                structure.resolutions.push((width, height));
            }
        }
        if first & 0x08 != 0 {
            for _ in 0..bytes.next()? {
                let head = bytes.next()?;
                let mut picture = GroupPicture {
                    temporal: head >> 5,
                    switching_up_point: head & 0x10 != 0,
                    reference_diffs: ArrayVec::new(),
                };
                for _ in 0..(head >> 2) & 0x03 {
                    picture.reference_diffs.push(bytes.next()?);
                }
                let _ = structure.pictures.try_push(picture);
            }
        }
        Some(structure)
    }
}

/// How the spatial layers of a stream depend on each other, as its scalability mode says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpatialDependency {
    /// In every picture.
    #[default]
    Full,
    /// In key pictures only (`_KEY`), or never (`S`): of other pictures, one layer's frame is enough.
    KeyOnly,
}

/// Reads the layers of one received stream, packet by packet.
#[derive(Clone, Debug, Default)]
pub struct LayerReader {
    dependency: SpatialDependency,
    long_ids: Unwrapper<15>,
    short_ids: Unwrapper<7>,
    timestamps: Unwrapper<32>,
    /// As announced last; 0 before.
    spatial_layers: u8,
}

/// A picture that is this much older than the newest is no late one: the sender numbers anew.
const PICTURE_WINDOW: u64 = 32;

impl LayerReader {
    /// A reader that has seen nothing.
    #[must_use]
    pub fn new(dependency: SpatialDependency) -> Self {
        Self { dependency, ..Self::default() }
    }

    /// Learns from a packet that comes for the first time, and tells what its frame is.
    pub fn read(&mut self, descriptor: &Descriptor, timestamp: u32) -> LayerFrame {
        if let Some(structure) = &descriptor.structure {
            self.spatial_layers = structure.spatial_layers;
        }
        let key = descriptor.is_key_frame();
        match descriptor.picture_id {
            Some(id) if descriptor.long_picture_id => note(&mut self.long_ids, id.into(), key),
            Some(id) => note(&mut self.short_ids, id.into(), key),
            None => note(&mut self.timestamps, timestamp.into(), false),
        }
        self.look(descriptor, timestamp)
    }

    /// What the frame of a packet is, which may have come before.
    #[must_use]
    pub fn look(&self, descriptor: &Descriptor, timestamp: u32) -> LayerFrame {
        let layers = descriptor.layers.unwrap_or(LayerIndices {
            temporal: 0,
            switching_up_point: false,
            spatial: 0,
            inter_layer_dependency: false,
            tl0_picture_index: None,
        });
        let (spatial, temporal) = (layers.spatial, layers.temporal);
        let picture = match descriptor.picture_id {
            Some(id) if descriptor.long_picture_id => self.long_ids.peek(id),
            Some(id) => self.short_ids.peek(id),
            None => self.timestamps.peek(timestamp),
        };
        // Layers of which only the upper one is decoded need the lower ones in key pictures. What is marked as no
        // reference for the upper layers serves its own layer only; but in full SVC that also marks the uppermost
        // layer of those that are left, which the targets above it then consist of.
        let own_layer_only = self.dependency == SpatialDependency::KeyOnly
            && descriptor.inter_predicted
            && descriptor.not_reference_for_upper;
        let present = if own_layer_only {
            TargetSet::row(spatial, temporal)
        } else {
            TargetSet::from(spatial, temporal)
        };
        let mut references = References::default();
        let switch = match (descriptor.inter_predicted, spatial) {
            (true, _) => TargetSet::NONE,
            (false, 0) => TargetSet::ALL,
            // An upper layer that needs nothing of what came before but the layer below it in the same picture.
            (false, _) => {
                let _ = layers.inter_layer_dependency && references.push(1);
                if temporal == 0 { TargetSet::row(spatial, 0) } else { TargetSet::NONE }
            }
        };
        let active = match (self.dependency, self.spatial_layers) {
            (SpatialDependency::Full, _) | (_, 0) => TargetSet::ALL,
            (SpatialDependency::KeyOnly, count) => TargetSet::up_to(count.saturating_sub(1), 7),
        };
        LayerFrame {
            number: picture.saturating_mul(u64::from(MAX_LAYERS)).saturating_add(u64::from(spatial)),
            spatial,
            temporal,
            present,
            switch,
            switching_up_point: layers.switching_up_point,
            needs_lower: spatial > 0 && (layers.inter_layer_dependency || !own_layer_only),
            references,
            active,
            start: descriptor.start,
            end: descriptor.end,
        }
    }
}

/// Takes note of a picture number. A key picture far behind the newest starts a new numbering.
fn note<const BITS: u32>(unwrapper: &mut Unwrapper<BITS>, id: u64, key: bool) {
    let behind = unwrapper.newest().map_or(0, |newest| newest.saturating_sub(unwrapper.peek(id)));
    if key && behind >= PICTURE_WINDOW {
        *unwrapper = Unwrapper::new();
    }
    unwrapper.extend(id);
}
