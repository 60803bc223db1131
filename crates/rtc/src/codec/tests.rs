#![expect(clippy::arithmetic_side_effects, reason = "an overflow fails the test, as it should")]

use super::*;
use crate::codec::vp8::{Descriptor, MAX_DESCRIPTOR_LEN, Picture, Rewriter};
use proptest::prelude::*;

#[test]
fn mime_types_name_codecs_whatever_their_case() {
    assert_eq!(CodecKind::from_mime("video/vp8"), Some(CodecKind::Vp8));
    assert_eq!(CodecKind::from_mime("AUDIO/OPUS"), Some(CodecKind::Opus));
    assert_eq!(CodecKind::from_mime("video/rtx"), Some(CodecKind::Rtx));
    assert_eq!(CodecKind::from_mime("audio/PCMU"), Some(CodecKind::OtherAudio));
    assert_eq!(CodecKind::from_mime("video/H265"), Some(CodecKind::OtherVideo));
    assert_eq!(CodecKind::from_mime("application/x"), None);
    assert_eq!(CodecKind::from_mime("opus"), None);
}

#[test]
fn opus_silence_is_told_from_sound() {
    assert!(opus::is_dtx(&[0x78]), "code 0, no frame");
    assert!(opus::is_dtx(&[0x7a, 0x00]), "code 2, two empty frames");
    assert!(!opus::is_dtx(&[0x78, 0x00]));
    assert!(!opus::is_dtx(&[0x7b]));
    assert!(!opus::is_dtx(&[]));
    assert!(inspect(CodecKind::Opus, &[0x78], false).dtx);
}

/// X, S, PID 0; I, L, T, K; 15-bit picture 0x1234; TL0PICIDX 9; TID 1, Y, KEYIDX 3; a key frame's
/// payload header.
const VP8_FULL: &[u8] = &[0x90, 0xf0, 0x92, 0x34, 0x09, 0x63, 0x50, 0x01, 0x00];

#[test]
fn vp8_descriptor_is_read() {
    let found = Descriptor::parse(VP8_FULL).unwrap();
    assert_eq!(found.len, 6);
    assert_eq!(found.picture_id, Some(0x1234));
    assert!(found.long_picture_id);
    assert_eq!(found.tl0_picture_index, Some(9));
    assert_eq!(found.layers, Some(vp8::LayerIndices { temporal: 1, sync: true }));
    assert!(found.key_frame);
    let mut delta_frame = VP8_FULL.to_vec();
    delta_frame[6] |= 1;
    assert!(!Descriptor::parse(&delta_frame).unwrap().key_frame);
    let mut continued = VP8_FULL.to_vec();
    continued[0] = 0x80;
    assert!(!Descriptor::parse(&continued).unwrap().key_frame);
    for len in 0..6 {
        assert_eq!(Descriptor::parse(&VP8_FULL[..len]), None, "{len} bytes");
    }
    let short = Descriptor::parse(&[0x10, 0x00]).unwrap();
    assert_eq!((short.len, short.key_frame, short.picture_id), (1, true, None));
}

#[test]
fn vp8_descriptor_is_rewritten() {
    let found = Descriptor::parse(VP8_FULL).unwrap();
    let picture = Picture { picture_id: 5, tl0_picture_index: 200 };
    let mut out = [0; MAX_DESCRIPTOR_LEN];
    assert_eq!(found.write(VP8_FULL, picture, &mut out), 6);
    assert_eq!(out, [0x90, 0xf0, 0x80, 0x05, 200, 0x63]);
    let mut copy = VP8_FULL.to_vec();
    assert!(found.patch(&mut copy, picture));
    assert_eq!(copy, [&out[..], &VP8_FULL[6..]].concat());
}

#[test]
fn vp8_short_picture_id_becomes_long() {
    let payload = [0x90, 0x80, 0x7f, 0x01, 0x02];
    let found = Descriptor::parse(&payload).unwrap();
    assert_eq!((found.len, found.picture_id), (3, Some(0x7f)));
    let picture = Picture { picture_id: 0x1234, tl0_picture_index: 0 };
    let mut out = [0; MAX_DESCRIPTOR_LEN];
    assert_eq!(found.write(&payload, picture, &mut out), 4);
    assert_eq!(&out[..4], &[0x90, 0x80, 0x92, 0x34]);
    assert!(!found.patch(&mut payload.clone(), picture));
}

fn frame(picture_id: u16, tl0: u8, temporal: u8, sync: bool, key_frame: bool) -> Descriptor {
    Descriptor {
        len: 6,
        start: true,
        partition: 0,
        non_reference: false,
        picture_id: Some(picture_id & 0x7fff),
        long_picture_id: true,
        tl0_picture_index: Some(tl0),
        layers: Some(vp8::LayerIndices { temporal, sync }),
        key_frame,
    }
}

#[test]
fn pictures_are_contiguous_over_a_switch() {
    let mut rewriter = Rewriter::new();
    let first = rewriter.process(&frame(0x7fff, 255, 0, false, true)).unwrap();
    let second = rewriter.process(&frame(0, 0, 0, false, false)).unwrap();
    assert_eq!(second.picture_id, first.picture_id + 1);
    assert_eq!(second.tl0_picture_index, first.tl0_picture_index + 1);
    rewriter.sync();
    let third = rewriter.process(&frame(77, 12, 0, false, true)).unwrap();
    assert_eq!(third.picture_id, second.picture_id + 1);
    assert_eq!(third.tl0_picture_index, second.tl0_picture_index + 1);
    assert_eq!(rewriter.process(&frame(76, 11, 0, false, false)), None, "from before the switch");
    assert_eq!(rewriter.process(&frame(77, 12, 0, false, false)), Some(third), "next packet of the frame");
}

#[test]
fn temporal_layers_are_dropped_and_come_back_at_a_sync_point() {
    let mut rewriter = Rewriter::new();
    let base = rewriter.process(&frame(10, 1, 0, false, true)).unwrap();
    assert!(rewriter.process(&frame(11, 1, 1, true, false)).is_some());
    assert_eq!(rewriter.current_temporal_layer(), 1);
    rewriter.set_target_temporal_layer(0);
    assert_eq!(rewriter.current_temporal_layer(), 0);
    let next = rewriter.process(&frame(12, 2, 0, false, false)).unwrap();
    assert_eq!(next.picture_id, base.picture_id + 2);
    assert_eq!(rewriter.process(&frame(13, 2, 1, false, false)), None);
    let next = rewriter.process(&frame(14, 3, 0, false, false)).unwrap();
    assert_eq!(next.picture_id, base.picture_id + 3);
    rewriter.set_target_temporal_layer(1);
    assert_eq!(rewriter.process(&frame(15, 3, 1, false, false)), None, "it may depend on what was dropped");
    let next = rewriter.process(&frame(16, 4, 0, false, false)).unwrap();
    assert_eq!(next.picture_id, base.picture_id + 4);
    let up = rewriter.process(&frame(17, 4, 1, true, false)).unwrap();
    assert_eq!(up.picture_id, base.picture_id + 5);
    assert_eq!(up.tl0_picture_index, next.tl0_picture_index);
    assert!(rewriter.process(&frame(18, 5, 0, false, false)).is_some());
    assert!(rewriter.process(&frame(19, 5, 1, false, false)).is_some());
    assert_eq!(rewriter.current_temporal_layer(), 1);
}

#[test]
fn layer_above_a_broken_one_waits_for_its_own_sync_point() {
    let mut rewriter = Rewriter::new();
    rewriter.set_target_temporal_layer(0);
    rewriter.process(&frame(1, 1, 0, false, true));
    assert_eq!(rewriter.process(&frame(2, 1, 2, true, false)), None);
    assert_eq!(rewriter.process(&frame(3, 1, 1, true, false)), None);
    rewriter.set_target_temporal_layer(2);
    assert_eq!(rewriter.process(&frame(4, 1, 2, false, false)), None);
    assert!(rewriter.process(&frame(5, 2, 0, false, false)).is_some());
    assert!(rewriter.process(&frame(6, 2, 2, true, false)).is_some(), "depends on the base only");
    assert!(rewriter.process(&frame(7, 2, 1, false, false)).is_none());
    assert!(rewriter.process(&frame(8, 2, 2, false, false)).is_none(), "may depend on layer 1");
}

#[test]
fn frame_in_progress_keeps_its_fate_when_the_target_moves() {
    let mut rewriter = Rewriter::new();
    rewriter.process(&frame(1, 1, 0, false, true));
    let sent = rewriter.process(&frame(2, 1, 1, true, false));
    assert!(sent.is_some());
    rewriter.set_target_temporal_layer(0);
    assert_eq!(rewriter.process(&frame(2, 1, 1, true, false)), sent);
    assert_eq!(rewriter.process(&frame(3, 1, 1, true, false)), None);
    rewriter.set_target_temporal_layer(1);
    assert_eq!(rewriter.process(&frame(3, 1, 1, true, false)), None);
}

#[test]
fn sender_that_numbers_anew_is_followed_from_its_key_frame() {
    let mut rewriter = Rewriter::new();
    let before = rewriter.process(&frame(5000, 100, 0, false, true)).unwrap();
    let after = rewriter.process(&frame(3, 7, 0, false, true)).unwrap();
    assert_eq!(after.picture_id, before.picture_id + 1);
    assert_eq!(after.tl0_picture_index, before.tl0_picture_index + 1);
    assert!(rewriter.process(&frame(4, 8, 0, false, false)).is_some());
}

#[test]
fn stream_without_picture_ids_passes() {
    let mut rewriter = Rewriter::new();
    let plain = Descriptor::parse(&[0x10, 0x00]).unwrap();
    assert_eq!(rewriter.process(&plain), Some(Picture::default()));
    let mut out = [0; MAX_DESCRIPTOR_LEN];
    assert_eq!(plain.write(&[0x10, 0x00], Picture::default(), &mut out), 1);
    assert_eq!(out[0], 0x10);
}

#[test]
fn vp9_descriptor_is_read() {
    // I, L, B, E; 15-bit picture 1; TID 2, U, SID 1, D; TL0PICIDX 7.
    let found = vp9::Descriptor::parse(&[0xac, 0x80, 0x01, 0x53, 0x07, 0xff]).unwrap();
    assert_eq!(found.picture_id, Some(1));
    let layers = found.layers.unwrap();
    assert_eq!((layers.temporal, layers.spatial, layers.tl0_picture_index), (2, 1, Some(7)));
    assert!(layers.switching_up_point && layers.inter_layer_dependency);
    assert!(!found.is_key_frame(), "not the base spatial layer");
    let info = inspect(CodecKind::Vp9, &[0x8c, 0x05, 0xff], false);
    assert!(info.key_frame && info.start_of_frame && info.end_of_frame);
    assert!(!inspect(CodecKind::Vp9, &[0xcc, 0x05, 0xff], false).key_frame, "inter-predicted");
    assert_eq!(vp9::Descriptor::parse(&[0xac, 0x80]), None);
    let flexible = vp9::Descriptor::parse(&[0x38, 0x00]).unwrap();
    assert_eq!(flexible.layers.unwrap().tl0_picture_index, None);
}

#[test]
fn h264_parameter_sets_are_found_in_every_packet_form() {
    let key = |payload: &[u8]| inspect(CodecKind::H264, payload, false).key_frame;
    assert!(key(&[0x67, 0x42]), "single unit");
    assert!(key(&[0x78, 0x00, 0x02, 0x67, 0x42, 0x00, 0x01, 0x68]), "first of a STAP-A");
    assert!(key(&[0x78, 0x00, 0x01, 0x68, 0x00, 0x02, 0x67, 0x42]), "second of a STAP-A");
    assert!(key(&[0x7c, 0x87, 0x00]), "start of an FU-A");
    assert!(!key(&[0x7c, 0x07, 0x00]), "middle of an FU-A");
    assert!(!key(&[0x65, 0x88]), "IDR alone");
    assert!(h264::Contents::of(&[0x7c, 0x85, 0x00]).idr);
    assert!(!key(&[0x78, 0xff]));
    assert!(!key(&[]));
}

#[test]
fn av1_sequences_are_found() {
    let key = |payload: &[u8]| inspect(CodecKind::Av1, payload, false).key_frame;
    assert!(key(&[0x18, 0x0a, 0x00]), "N bit");
    assert!(key(&[0x20, 0x02, 0x0a, 0x0b, 0x32, 0x00]), "W=2, sequence header first");
    assert!(key(&[0x00, 0x01, 0x12, 0x02, 0x0a, 0x0b]), "W=0, sequence header second");
    assert!(!key(&[0x10, 0x32, 0x00]), "W=1, a frame");
    assert!(!key(&[0x90, 0x0a, 0x00]), "Z: these bytes are no OBU header");
    let info = inspect(CodecKind::Av1, &[0x10, 0x36, 0x48, 0x00], true);
    assert_eq!((info.temporal_layer, info.spatial_layer, info.end_of_frame), (2, 1, true));
    assert!(!key(&[0x20, 0xff, 0xff, 0xff, 0xff, 0xff]));
}

proptest! {
    #[test]
    fn no_payload_panics(payload in prop::collection::vec(any::<u8>(), 0..80), marker: bool) {
        use CodecKind::{Av1, H264, Opus, OtherVideo, Vp8, Vp9};
        for kind in [Opus, Vp8, Vp9, H264, Av1, OtherVideo] {
            let _ = inspect(kind, &payload, marker);
        }
    }

    #[test]
    fn rewritten_descriptor_reads_back(
        payload in prop::collection::vec(any::<u8>(), 1..12),
        picture_id in 0_u16..0x8000,
        tl0: u8,
    ) {
        if let Some(before) = Descriptor::parse(&payload) {
            let picture = Picture { picture_id, tl0_picture_index: tl0 };
            let mut out = [0; MAX_DESCRIPTOR_LEN];
            let len = before.write(&payload, picture, &mut out);
            let rewritten = [&out[..len], &payload[usize::from(before.len)..]].concat();
            let after = Descriptor::parse(&rewritten).unwrap();
            prop_assert_eq!(usize::from(after.len), len);
            prop_assert_eq!(after.picture_id, before.picture_id.map(|_| picture_id));
            prop_assert_eq!(after.tl0_picture_index, before.tl0_picture_index.map(|_| tl0));
            prop_assert_eq!((after.layers, after.start), (before.layers, before.start));
            prop_assert_eq!(after.key_frame, before.key_frame);
        }
    }

    /// Whatever comes and however it is switched, a decoder sees picture numbers that rise by one from
    /// new frame to new frame where nothing was lost on the way in.
    #[test]
    fn pictures_rise_by_one_without_loss(
        first in 0_u16..0x8000,
        plan in prop::collection::vec((0_u8..3, any::<bool>(), 0_u8..3, prop::bool::weighted(0.1)), 1..300),
    ) {
        let mut rewriter = Rewriter::new();
        let mut picture_id = first;
        let mut tl0 = 0_u8;
        let mut newest: Option<Picture> = None;
        for (index, (temporal, sync, target, switch)) in plan.into_iter().enumerate() {
            let key_frame = index == 0 || switch;
            if switch {
                rewriter.sync();
                picture_id = picture_id.wrapping_mul(31).wrapping_add(17);
                tl0 = tl0.wrapping_mul(7);
            }
            rewriter.set_target_temporal_layer(target);
            picture_id = picture_id.wrapping_add(1);
            let temporal = if key_frame { 0 } else { temporal };
            if temporal == 0 {
                tl0 = tl0.wrapping_add(1);
            }
            let descriptor = frame(picture_id, tl0, temporal, sync, key_frame);
            let sent = rewriter.process(&descriptor);
            prop_assert!(sent.is_some() || temporal > 0, "base frames are always sent");
            prop_assert!(sent.is_none() || temporal <= target);
            if let Some(sent) = sent {
                if let Some(newest) = newest {
                    prop_assert_eq!(sent.picture_id, (newest.picture_id + 1) & 0x7fff);
                    let step = u8::from(temporal == 0);
                    prop_assert_eq!(sent.tl0_picture_index, newest.tl0_picture_index.wrapping_add(step));
                }
                prop_assert_eq!(rewriter.process(&descriptor), Some(sent), "the frame's next packet");
                newest = Some(sent);
            }
        }
    }
}
