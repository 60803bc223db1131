//! H.264 payloads (RFC 6184, section 5): which NAL units a packet carries or starts.

use super::PayloadInfo;

const IDR_SLICE: u8 = 5;
const SEQUENCE_PARAMETER_SET: u8 = 7;
const STAP_A: u8 = 24;
const FU_A: u8 = 28;
const FU_B: u8 = 29;

/// What a packet carries, as far as forwarding cares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// A sequence parameter set, or the start of one.
    pub sequence_parameter_set: bool,
    /// A slice of an IDR picture, or the start of one.
    pub idr: bool,
    /// The packet starts a NAL unit rather than continuing one.
    pub starts_unit: bool,
}

impl Contents {
    /// Looks into a payload: single units, STAP-A aggregates, and the first fragment of FU-A and FU-B.
    #[must_use]
    pub fn of(payload: &[u8]) -> Self {
        let mut contents = Self::default();
        match payload {
            [unit, header, ..] if matches!(unit & 0x1f, FU_A | FU_B) => {
                if header & 0x80 != 0 {
                    contents.add(*header);
                }
            }
            [unit, aggregate @ ..] if unit & 0x1f == STAP_A => {
                let mut rest = aggregate;
                while let [high, low, after @ ..] = rest {
                    let len = usize::from(u16::from_be_bytes([*high, *low]));
                    let Some(&unit) = after.first() else { break };
                    contents.add(unit);
                    let Some(following) = after.get(len..) else { break };
                    rest = following;
                }
            }
            [unit, ..] => contents.add(*unit),
            [] => {}
        }
        contents
    }

    fn add(&mut self, unit_header: u8) {
        self.starts_unit = true;
        match unit_header & 0x1f {
            SEQUENCE_PARAMETER_SET => self.sequence_parameter_set = true,
            IDR_SLICE => self.idr = true,
            _ => {}
        }
    }

    /// The codec-independent summary. A key frame starts at its sequence parameter set, not at its IDR
    /// slices: a receiver that joined between the two could not decode.
    #[must_use]
    pub fn info(&self, marker: bool) -> PayloadInfo {
        PayloadInfo {
            key_frame: self.sequence_parameter_set,
            start_of_frame: self.starts_unit,
            end_of_frame: marker,
            ..PayloadInfo::default()
        }
    }
}
