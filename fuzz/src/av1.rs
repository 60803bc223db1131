//! AV1 payloads against a plain reading of the RTP payload format, section 4.4: aggregation header and OBU headers.

use rtc::codec::av1::Contents;
use rtc::codec::{CodecKind, inspect};

/// The bytes are a payload.
pub fn run(payload: &[u8]) {
    let contents = Contents::of(payload);
    let obus = plain_reading(payload);
    assert_eq!(contents.sequence_header, obus.iter().any(|obu| (obu[0] >> 3) % 16 == 1));
    let layers =
        obus.iter().find(|obu| obu[0] & 4 != 0 && obu.len() > 1).map(|obu| (obu[1] >> 5, (obu[1] >> 3) % 4));
    assert_eq!(contents.layers, layers);
    let info = inspect(CodecKind::Av1, payload, true);
    let new_sequence = payload.first().is_some_and(|first| first & 8 != 0);
    assert_eq!(info.key_frame, new_sequence || contents.sequence_header);
    assert_eq!((info.temporal_layer, info.spatial_layer), layers.unwrap_or((0, 0)));
}

/// The OBUs, none empty, that start in a packet.
fn plain_reading(payload: &[u8]) -> Vec<&[u8]> {
    let mut obus = Vec::new();
    let Some(&aggregation) = payload.first() else { return obus };
    let count = usize::from(aggregation / 16 % 4);
    let mut at = 1;
    let mut index = 0;
    while at < payload.len() {
        index += 1;
        let element = if index == count {
            &payload[at..]
        } else {
            // At most four bytes of LEB128.
            let Some(width) = payload[at..].iter().take(4).position(|byte| byte < &0x80) else { break };
            let len = payload[at..=at + width]
                .iter()
                .rev()
                .fold(0, |value, byte| value * 128 + usize::from(byte % 128));
            at += width + 1;
            let Some(element) = payload.get(at..at + len) else { break };
            element
        };
        at += element.len();
        let continues = index == 1 && aggregation >= 0x80;
        if !element.is_empty() && !continues {
            obus.push(element);
        }
    }
    obus
}
