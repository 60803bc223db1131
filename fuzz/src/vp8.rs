//! VP8 payload descriptors: parsing against a plain reading of RFC 7741, writing, and the numbering of a consumer's
//! pictures over dropped layers and switches.

use rtc::codec::vp8::{Descriptor, MAX_DESCRIPTOR_LEN, Picture, Rewriter};
use rtc::codec::{CodecKind, inspect};

use crate::input::Input;

/// The first byte chooses between one payload and a stream of pictures.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    if input.flag() {
        stream(&mut input);
    } else {
        payload(input.rest());
    }
}

/// Length, picture number, TL0PICIDX, then TID and Y.
type Reading = (usize, Option<u16>, Option<u8>, Option<(u8, bool)>);

/// RFC 7741, section 4.2, read field by field.
fn plain_reading(payload: &[u8]) -> Option<Reading> {
    let mut bytes = payload.iter().copied();
    let (mut picture, mut tl0, mut layer) = (None, None, None);
    let first = bytes.next()?;
    if first >> 7 == 1 {
        let [i, l, t, k] = [7, 6, 5, 4].map(|bit| move |byte: u8| (byte >> bit) & 1 == 1);
        let flags = bytes.next()?;
        if i(flags) {
            let high = bytes.next()?;
            picture = Some(u16::from(high));
            if high >= 0x80 {
                picture = Some(u16::from(high - 0x80) * 256 + u16::from(bytes.next()?));
            }
        }
        if l(flags) {
            tl0 = Some(bytes.next()?);
        }
        if t(flags) || k(flags) {
            let indices = bytes.next()?;
            layer = t(flags).then_some((indices >> 6, (indices >> 5) & 1 == 1));
        }
    }
    Some((payload.len() - bytes.len(), picture, tl0, layer))
}

fn payload(payload: &[u8]) {
    let parsed = Descriptor::parse(payload);
    let expected = plain_reading(payload);
    assert_eq!(parsed.is_some(), expected.is_some());
    let info = inspect(CodecKind::Vp8, payload, true);
    let (Some(descriptor), Some((len, picture, tl0, layer))) = (parsed, expected) else {
        assert!(!info.key_frame && info.temporal_layer == 0);
        return;
    };
    assert_eq!(usize::from(descriptor.len), len);
    assert!(len <= MAX_DESCRIPTOR_LEN);
    assert_eq!((descriptor.picture_id, descriptor.tl0_picture_index), (picture, tl0));
    assert_eq!(descriptor.layers.map(|layers| (layers.temporal, layers.sync)), layer);
    let key = payload[0] & 0x17 == 0x10 && payload.get(len).is_some_and(|byte| byte & 1 == 0);
    assert_eq!((descriptor.key_frame, info.key_frame), (key, key));

    let number = Picture { picture_id: 0x1234, tl0_picture_index: 0x56 };
    let mut out = [0; MAX_DESCRIPTOR_LEN];
    let written = descriptor.write(payload, number, &mut out);
    let mut rewritten = out[..written].to_vec();
    rewritten.extend_from_slice(&payload[len..]);
    let again = Descriptor::parse(&rewritten).expect("what is written parses");
    assert_eq!(usize::from(again.len), written);
    assert_eq!(again.picture_id, descriptor.picture_id.map(|_| 0x1234));
    assert_eq!(again.tl0_picture_index, descriptor.tl0_picture_index.map(|_| 0x56));
    assert_eq!(
        (again.layers, again.start, again.partition, again.non_reference, again.key_frame),
        (
            descriptor.layers,
            descriptor.start,
            descriptor.partition,
            descriptor.non_reference,
            descriptor.key_frame
        )
    );
    let mut patched = payload.to_vec();
    if descriptor.patch(&mut patched, number) {
        assert_eq!(patched, rewritten, "both ways to write give the same");
    } else {
        assert!(patched == payload && descriptor.picture_id.is_some() && !descriptor.long_picture_id);
    }
}

/// A sender's pictures in their order, some lost on the way, some layers not wanted: the consumer's numbers rise by one
/// for each picture that it gets, plus one for each that got lost, and TL0PICIDX rises with base frames alone.
fn stream(input: &mut Input<'_>) {
    let mut rewriter = Rewriter::new();
    let mut picture_id = input.u16() & 0x7fff;
    let mut tl0 = input.u8();
    let mut sent: Option<u16> = None;
    let mut lost = 0_u16;
    rewriter.sync();
    for index in 0..400 {
        if input.is_empty() {
            return;
        }
        let step = input.u8();
        if step & 0x80 != 0 {
            rewriter.set_target_temporal_layer(step & 3);
        }
        let key = index == 0 || step & 0x40 != 0;
        if key && index > 0 && step & 0x20 != 0 {
            // Another stream goes on, under numbers of its own.
            rewriter.sync();
            picture_id = input.u16() & 0x7fff;
            tl0 = input.u8();
            lost = 0;
        } else {
            picture_id = (picture_id + 1) & 0x7fff;
        }
        let layer = if key { 0 } else { (step >> 2) & 3 };
        tl0 = tl0.wrapping_add(u8::from(layer == 0));
        // Of the pictures that a switch begins with, none gets lost here.
        if step & 0x10 != 0 && !key {
            lost += 1;
            if lost > 200 {
                return;
            }
            continue;
        }
        let [high, low] = picture_id.to_be_bytes();
        let packet = [0x90, 0xe0, 0x80 | high, low, tl0, (layer << 6) | (step & 0x20), u8::from(!key), 0, 0];
        let descriptor = Descriptor::parse(&packet).expect("a whole descriptor");
        let first = rewriter.process(&descriptor);
        let second = rewriter.process(&descriptor);
        assert_eq!(first, second, "all packets of a picture share its fate and its numbers");
        let Some(picture) = first else { continue };
        assert!(picture.picture_id < 0x8000);
        if let Some(before) = sent {
            let step = picture.picture_id.wrapping_sub(before) & 0x7fff;
            assert!(
                (1..=lost + 1).contains(&step),
                "the consumer's picture {} follows {before} with {lost} lost",
                picture.picture_id
            );
        }
        sent = Some(picture.picture_id);
        lost = 0;
    }
}
