//! H.264 payloads against a plain reading of RFC 6184: which NAL units start in a packet.

use rtc::codec::h264::Contents;
use rtc::codec::{CodecKind, inspect};

/// The bytes are a payload.
pub fn run(payload: &[u8]) {
    let contents = Contents::of(payload);
    let units = plain_reading(payload);
    assert_eq!(contents.starts_unit, !units.is_empty());
    assert_eq!(contents.sequence_parameter_set, units.contains(&7));
    assert_eq!(contents.idr, units.contains(&5));
    let info = inspect(CodecKind::H264, payload, true);
    assert_eq!(info.key_frame, units.contains(&7));
    assert!(info.end_of_frame);
}

/// The types of the NAL units that start in a packet.
fn plain_reading(payload: &[u8]) -> Vec<u8> {
    let Some(&header) = payload.first() else { return Vec::new() };
    match header % 32 {
        28 | 29 => match payload.get(1) {
            Some(fragment) if fragment >= &0x80 => vec![fragment % 32],
            Some(_) => Vec::new(),
            None => vec![header % 32],
        },
        24 => {
            let mut units = Vec::new();
            let mut at = 1;
            while at + 2 < payload.len() {
                units.push(payload[at + 2] % 32);
                at += 2 + usize::from(payload[at]) * 256 + usize::from(payload[at + 1]);
            }
            units
        }
        unit => vec![unit],
    }
}
