//! AV1 payloads (RTP Payload Format for AV1, section 4.4): the aggregation header, and from the OBU
//! headers the sequence header and layer ids. What the [dependency descriptor](super::dependency) tells is not read here.

use super::PayloadInfo;

const SEQUENCE_HEADER: u8 = 1;

/// What a packet carries, as far as forwarding cares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// The packet starts a coded video sequence (the aggregation header's N bit).
    pub new_sequence: bool,
    /// A sequence header OBU starts in the packet.
    pub sequence_header: bool,
    /// The first OBU continues one of the packet before (the Z bit).
    pub continues: bool,
    /// Temporal and spatial ids of the first OBU that tells them.
    pub layers: Option<(u8, u8)>,
}

impl Contents {
    /// Looks into a payload.
    #[must_use]
    pub fn of(payload: &[u8]) -> Self {
        let Some((&aggregation, mut rest)) = payload.split_first() else { return Self::default() };
        let element_count = (aggregation >> 4) & 0x03;
        let mut contents = Self {
            new_sequence: aggregation & 0x08 != 0,
            continues: aggregation & 0x80 != 0,
            ..Self::default()
        };
        let mut index = 0_u8;
        while !rest.is_empty() {
            index = index.saturating_add(1);
            // With W > 0 there are W elements and the last has no length; with W = 0 each has one.
            let element = if index == element_count {
                std::mem::take(&mut rest)
            } else {
                let Some((len, after)) = leb128(rest) else { break };
                let Some((element, after)) = after.split_at_checked(len) else { break };
                rest = after;
                element
            };
            if !(index == 1 && contents.continues) {
                contents.add(element);
            }
        }
        contents
    }

    fn add(&mut self, obu: &[u8]) {
        let Some(&header) = obu.first() else { return };
        if (header >> 3) & 0x0f == SEQUENCE_HEADER {
            self.sequence_header = true;
        }
        if header & 0x04 != 0
            && self.layers.is_none()
            && let Some(&extension) = obu.get(1)
        {
            self.layers = Some((extension >> 5, (extension >> 3) & 0x03));
        }
    }

    /// The codec-independent summary. The ends of layer frames are only in the dependency descriptor:
    /// `end_of_frame` is that of the whole temporal unit.
    #[must_use]
    pub fn info(&self, marker: bool) -> PayloadInfo {
        let (temporal_layer, spatial_layer) = self.layers.unwrap_or((0, 0));
        PayloadInfo {
            key_frame: self.new_sequence || self.sequence_header,
            start_of_frame: !self.continues,
            end_of_frame: marker,
            spatial_layer,
            temporal_layer,
            ..PayloadInfo::default()
        }
    }
}

/// Reads a LEB128 number (AV1 specification, section 4.10.5) of at most four bytes: no packet is longer.
fn leb128(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0_usize;
    let mut rest = bytes;
    for shift in [0_u32, 7, 14, 21] {
        let (&byte, after) = rest.split_first()?;
        rest = after;
        value |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value, rest));
        }
    }
    None
}
