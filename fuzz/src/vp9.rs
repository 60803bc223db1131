//! VP9 payload descriptors against a plain reading of RFC 9628, section 4.2.

use rtc::codec::vp9::Descriptor;
use rtc::codec::{CodecKind, inspect};

/// The bytes are a payload.
pub fn run(payload: &[u8]) {
    let parsed = Descriptor::parse(payload);
    let expected = plain_reading(payload);
    assert_eq!(parsed.is_some(), expected.is_some());
    let info = inspect(CodecKind::Vp9, payload, false);
    let (Some(descriptor), Some((picture, layer, diffs, len))) = (parsed, expected) else {
        assert!(!info.key_frame && info.spatial_layer == 0);
        return;
    };
    assert_eq!(descriptor.picture_id, picture);
    assert_eq!((descriptor.reference_diffs.as_slice(), descriptor.len), (&diffs[..], len));
    let told = descriptor.layers.map(|layers| (layers.temporal, layers.spatial, layers.tl0_picture_index));
    assert_eq!(told, layer);
    let spatial = layer.map_or(0, |(_, spatial, _)| spatial);
    assert_eq!(info.spatial_layer, spatial);
    let bit = |mask| payload[0] & mask != 0;
    assert_eq!((info.start_of_frame, info.end_of_frame), (bit(0x08), bit(0x04)));
    assert_eq!(info.key_frame, bit(0x08) && !bit(0x40) && spatial == 0);
}

/// Picture number; temporal layer, spatial layer and TL0PICIDX; reference differences; length.
type Reading = (Option<u16>, Option<(u8, u8, Option<u8>)>, Vec<u8>, usize);

fn plain_reading(payload: &[u8]) -> Option<Reading> {
    let mut bytes = payload.iter().copied();
    let first = bytes.next()?;
    let [i, l, f] = [7, 5, 4].map(|bit| (first >> bit) & 1 == 1);
    let mut picture = None;
    if i {
        let high = bytes.next()?;
        picture = Some(u16::from(high));
        if high >= 0x80 {
            picture = Some(u16::from(high - 0x80) * 256 + u16::from(bytes.next()?));
        }
    }
    let mut layer = None;
    if l {
        let indices = bytes.next()?;
        let tl0 = if f { None } else { Some(bytes.next()?) };
        layer = Some((indices / 32, (indices % 16) / 2, tl0));
    }
    let mut diffs = Vec::new();
    if f && first & 0x40 != 0 {
        let mut more = true;
        while more {
            // At most three follow each other (section 4.2).
            let diff = bytes.next().filter(|_| diffs.len() < 3)?;
            diffs.push(diff / 2);
            more = diff % 2 == 1;
        }
    }
    if first & 2 != 0 {
        let structure = bytes.next()?;
        let mut skip = if structure & 0x10 != 0 { (usize::from(structure >> 5) + 1) * 4 } else { 0 };
        while skip > 0 {
            bytes.next()?;
            skip -= 1;
        }
        if structure & 8 != 0 {
            for _ in 0..bytes.next()? {
                for _ in 0..(bytes.next()? >> 2) % 4 {
                    bytes.next()?;
                }
            }
        }
    }
    Some((picture, layer, diffs, payload.len() - bytes.len()))
}
