//! VP9 payload descriptors (RFC 9628, section 4.2).

use super::PayloadInfo;

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

/// The parts of the descriptor that forwarding looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// A scalability structure follows, V.
    pub scalability_structure: bool,
    /// Not a reference for upper spatial layers of the same picture, Z.
    pub not_reference_for_upper: bool,
    /// The layer indices, where the stream has layers.
    pub layers: Option<LayerIndices>,
}

impl Descriptor {
    /// Parses the start of a payload; `None` where it ends too early.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let (&first, mut rest) = payload.split_first()?;
        let mut descriptor = Self {
            picture_id: None,
            long_picture_id: false,
            inter_predicted: first & 0x40 != 0,
            flexible: first & 0x10 != 0,
            start: first & 0x08 != 0,
            end: first & 0x04 != 0,
            scalability_structure: first & 0x02 != 0,
            not_reference_for_upper: first & 0x01 != 0,
            layers: None,
        };
        if first & 0x80 != 0 {
            let (&high, after) = rest.split_first()?;
            if high & 0x80 != 0 {
                let (&low, after) = after.split_first()?;
                descriptor.picture_id = Some(u16::from_be_bytes([high & 0x7f, low]));
                descriptor.long_picture_id = true;
                rest = after;
            } else {
                descriptor.picture_id = Some(u16::from(high));
                rest = after;
            }
        }
        if first & 0x20 != 0 {
            let (&indices, after) = rest.split_first()?;
            let tl0_picture_index = if descriptor.flexible { None } else { Some(*after.first()?) };
            descriptor.layers = Some(LayerIndices {
                temporal: indices >> 5,
                switching_up_point: indices & 0x10 != 0,
                spatial: (indices >> 1) & 0x07,
                inter_layer_dependency: indices & 0x01 != 0,
                tl0_picture_index,
            });
        }
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
