#![expect(clippy::arithmetic_side_effects, reason = "an overflow fails the test, as it should")]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::codec::{dependency, vp9};

/// A packet of a capture: one line of sequence number, timestamp, marker, dependency descriptor, start of the payload.
struct Captured {
    timestamp: u32,
    marker: bool,
    descriptor: Vec<u8>,
    payload: Vec<u8>,
}

fn capture(text: &str) -> Vec<Captured> {
    let hex = |text: &str| -> Vec<u8> {
        let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|d| d as u8).collect();
        digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    };
    text.lines()
        .map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            Captured {
                timestamp: fields[1].parse().unwrap(),
                marker: fields[2] == "1",
                descriptor: hex(fields[3]),
                payload: hex(fields[4]),
            }
        })
        .collect()
}

/// The frames of a capture in their order, one packet each where a frame has several.
fn vp9_frames(text: &str, dependency: vp9::SpatialDependency) -> Vec<(LayerFrame, u32)> {
    let mut reader = vp9::LayerReader::new(dependency);
    capture(text)
        .iter()
        .map(|packet| {
            let descriptor = vp9::Descriptor::parse(&packet.payload).unwrap();
            (reader.read(&descriptor, packet.timestamp), packet.timestamp)
        })
        .collect()
}

fn av1_frames(text: &str) -> Vec<(LayerFrame, u32)> {
    let mut reader = dependency::LayerReader::new();
    capture(text)
        .iter()
        .map(|packet| match reader.read(&packet.descriptor).layering {
            Layering::Frame(frame) => (frame, packet.timestamp),
            other => panic!("{other:?}"),
        })
        .collect()
}

const VP9_KEY: &str = include_str!("../captures/vp9-l3t3-key.txt");
const VP9_FULL: &str = include_str!("../captures/vp9-l3t3.txt");
const AV1_KEY: &str = include_str!("../captures/av1-l3t3-key.txt");
const AV1_FULL: &str = include_str!("../captures/av1-l3t3.txt");
const AV1_TEMPORAL: &str = include_str!("../captures/av1-l1t3.txt");
const AV1_SHIFT: &str = include_str!("../captures/av1-l2t2-key-shift.txt");

fn target(spatial: u8, temporal: u8) -> Option<Target> {
    Some(Target { spatial, temporal })
}

/// Of one picture: the layers of the frames that went out, and where the marker was.
type Forwarded = (Vec<(u8, u8)>, Vec<u8>);

/// What went out, picture by picture.
fn forwarded(frames: &[(LayerFrame, u32)], wishes: impl Fn(usize) -> Option<Target>) -> Vec<Forwarded> {
    let mut selector = Selector::new();
    let (mut pictures, mut newest): (Vec<Forwarded>, _) = (Vec::new(), None);
    for (frame, timestamp) in frames {
        if newest != Some(*timestamp) {
            newest = Some(*timestamp);
            selector.set_target(wishes(pictures.len()));
            pictures.push(<_>::default());
        }
        let picture = pictures.last_mut().unwrap();
        if let Selection::Forward { ends_picture } = selector.select(frame, *timestamp) {
            let layers = (frame.spatial, frame.temporal);
            if picture.0.last() != Some(&layers) {
                picture.0.push(layers);
            }
            if ends_picture {
                picture.1.push(frame.spatial);
            }
        }
    }
    pictures
}

#[test]
fn sets_of_targets() {
    let (low, high) = (Target { spatial: 0, temporal: 2 }, Target { spatial: 2, temporal: 1 });
    assert!(TargetSet::from(0, 1).has(low) && TargetSet::from(0, 1).has(high));
    assert!(!TargetSet::from(0, 2).has(high) && !TargetSet::from(1, 0).has(low));
    assert!(TargetSet::up_to(2, 1).has(high) && !TargetSet::up_to(2, 1).has(low));
    assert!(TargetSet::row(2, 1).has(high) && !TargetSet::row(2, 2).has(high));
    assert_eq!(TargetSet::up_to(2, 1).best(), Some(high));
    assert_eq!(TargetSet::up_to(7, 7), TargetSet::ALL);
    assert_eq!(TargetSet::from(0, 0), TargetSet::ALL);
    assert_eq!(TargetSet::NONE.best(), None);
}

#[test]
fn everything_goes_to_who_wants_everything() {
    for text in [VP9_FULL, AV1_FULL] {
        let frames =
            if text == VP9_FULL { vp9_frames(text, vp9::SpatialDependency::Full) } else { av1_frames(text) };
        for (picture, markers) in forwarded(&frames, |_| target(2, 2)) {
            let spatial: Vec<u8> = picture.iter().map(|layers| layers.0).collect();
            assert!(spatial == [0, 1, 2] || picture == [(0, 0)] || spatial.len() < 3, "{picture:?}");
            assert!(markers.len() <= 1, "{markers:?}");
        }
    }
}

#[test]
fn of_key_only_layers_one_is_forwarded_after_the_key_picture() {
    for frames in [vp9_frames(VP9_KEY, vp9::SpatialDependency::KeyOnly), av1_frames(AV1_KEY)] {
        for wanted in 0..=2 {
            let pictures = forwarded(&frames, |_| target(wanted, 2));
            let lower: Vec<u8> = pictures[0].0.iter().map(|layers| layers.0).collect();
            assert_eq!(lower, (0..=wanted).collect::<Vec<_>>());
            assert_eq!(pictures[0].1, [wanted], "the marker is on the last of what is forwarded");
            for (picture, markers) in &pictures[1..pictures.len() - 1] {
                assert!(matches!(picture[..], [(spatial, _)] if spatial == wanted), "{picture:?}");
                assert_eq!(markers[..], [wanted]);
            }
        }
    }
}

#[test]
fn temporal_layers_go_down_at_once_and_up_at_a_switching_point() {
    for frames in [
        vp9_frames(VP9_FULL, vp9::SpatialDependency::Full),
        vp9_frames(VP9_KEY, vp9::SpatialDependency::KeyOnly),
        av1_frames(AV1_FULL),
        av1_frames(AV1_KEY),
        av1_frames(AV1_TEMPORAL),
    ] {
        let spatial = frames.iter().map(|(frame, _)| frame.spatial).max().unwrap();
        let pictures = forwarded(&frames, |at| target(spatial, if (3..8).contains(&at) { 0 } else { 2 }));
        let temporal: Vec<Option<u8>> =
            pictures.iter().map(|(frames, _)| frames.first().map(|layers| layers.1)).collect();
        let down = &temporal[3..8];
        assert!(down.iter().all(|layer| matches!(layer, None | Some(0))), "{temporal:?}");
        assert!(down.contains(&Some(0)), "{temporal:?}");
        assert!(temporal[8..].iter().flatten().any(|layer| *layer == 2), "{temporal:?}");
    }
}

#[test]
fn full_svc_goes_down_at_once_and_up_at_a_key_picture_only() {
    for frames in [vp9_frames(VP9_FULL, vp9::SpatialDependency::Full), av1_frames(AV1_FULL)] {
        let pictures = forwarded(&frames, |at| target(if at < 3 { 2 } else { 0 }, 2));
        assert_eq!(pictures[3].0.len(), 1, "{:?}", pictures[3]);
        assert_eq!(pictures[3].1, [0]);
        let pictures = forwarded(&frames, |at| target(if at < 3 { 0 } else { 2 }, 2));
        assert!(pictures.iter().all(|(frames, _)| frames.iter().all(|layers| layers.0 == 0)));
    }
}

#[test]
fn key_only_layers_wait_for_the_key_picture_in_both_directions() {
    for frames in [vp9_frames(VP9_KEY, vp9::SpatialDependency::KeyOnly), av1_frames(AV1_KEY)] {
        let pictures = forwarded(&frames, |at| target(if at < 6 { 2 } else { 0 }, 2));
        assert!(pictures[1..].iter().all(|(frames, _)| frames.iter().all(|layers| layers.0 == 2)));
        let mut selector = Selector::new();
        selector.set_target(target(2, 2));
        assert!(selector.needs_key_frame());
        for (frame, timestamp) in &frames {
            selector.select(frame, *timestamp);
        }
        assert!(!selector.needs_key_frame());
        selector.set_target(target(0, 2));
        assert!(selector.needs_key_frame());
    }
}

#[test]
fn shifted_temporal_layers_do_not_confuse_the_marker() {
    let pictures = forwarded(&av1_frames(AV1_SHIFT), |_| target(1, 1));
    for (frames, markers) in &pictures[1..pictures.len() - 1] {
        assert!(frames.iter().all(|layers| layers.0 == 1), "{frames:?}");
        assert!(markers.len() <= 1);
    }
}

#[test]
fn the_sender_s_own_marker_agrees_with_the_end_of_the_highest_layer() {
    for (text, vp9) in [(VP9_FULL, true), (VP9_KEY, true), (AV1_FULL, false), (AV1_KEY, false)] {
        let dependency = vp9::SpatialDependency::Full;
        let frames = if vp9 { vp9_frames(text, dependency) } else { av1_frames(text) };
        for ((frame, _), packet) in frames.iter().zip(capture(text)) {
            assert_eq!(packet.marker, frame.end && frame.spatial == 2);
        }
    }
}

/// A publisher of VP9 in three spatial and three temporal layers, two packets a layer frame.
#[derive(Debug)]
struct Publisher {
    full: bool,
    flexible: bool,
    picture: u64,
    since_key: u64,
}

/// A packet as the publisher made it, and what its frame needs.
#[derive(Clone, Debug)]
struct Made {
    payload: Vec<u8>,
    timestamp: u32,
    frame: (u64, u8),
    needs: Vec<(u64, u8)>,
    marker: bool,
}

impl Publisher {
    fn next(&mut self, key: bool) -> Vec<Made> {
        self.picture += 1;
        let key = key || self.since_key == u64::MAX;
        self.since_key = if key { 0 } else { self.since_key + 1 };
        let (temporal, diff) = [(0_u8, 4_u8), (2, 1), (1, 2), (2, 1)][(self.since_key % 4) as usize];
        let mut packets = Vec::new();
        for spatial in 0..3_u8 {
            let inter_layer = spatial > 0 && (key || self.full);
            let not_reference = spatial == 2 || !(key || self.full);
            let mut needs = Vec::new();
            if inter_layer {
                needs.push((self.picture, spatial - 1));
            }
            if !key {
                needs.push((self.picture - u64::from(diff), spatial));
            }
            for part in 0..2 {
                let mut payload = vec![
                    0xa0 | u8::from(!key) << 6
                        | u8::from(self.flexible) << 4
                        | u8::from(part == 0) << 3
                        | u8::from(part == 1) << 2
                        | u8::from(not_reference),
                ];
                payload.extend((0x8000 | (self.picture & 0x7fff) as u16).to_be_bytes());
                payload.push(temporal << 5 | 0x10 | spatial << 1 | u8::from(inter_layer));
                if !self.flexible {
                    payload.push((self.picture / 4) as u8);
                } else if !key {
                    payload.push(diff << 1);
                }
                payload.push(0);
                packets.push(Made {
                    payload,
                    timestamp: (self.picture as u32).wrapping_mul(3000),
                    frame: (self.picture, spatial),
                    needs: needs.clone(),
                    marker: spatial == 2 && part == 1,
                });
            }
        }
        packets
    }
}

/// What is wished when, and what comes late.
#[derive(Clone, Debug)]
struct Course {
    full: bool,
    flexible: bool,
    /// The number before the first picture's.
    first: u64,
    /// Layers, and for how many pictures.
    wishes: Vec<(u8, u8, usize)>,
    /// Pictures that are key pictures, beside the first.
    keys: BTreeSet<usize>,
    /// Packets that come late, and by how many.
    late: BTreeMap<usize, usize>,
}

impl Course {
    /// Each frame that went out whole has all that it needs, as far as the publisher's packets arrived at all, and each
    /// picture ends with one marker.
    fn check(self) -> Result<(), TestCaseError> {
        let Self { full, flexible, first, wishes, keys, late } = self;
        let mut publisher = Publisher { full, flexible, picture: first, since_key: u64::MAX };
        let dependency = if full { vp9::SpatialDependency::Full } else { vp9::SpatialDependency::KeyOnly };
        let mut made: Vec<Made> = Vec::new();
        let count: usize = wishes.iter().map(|wish| wish.2).sum();
        for at in 0..count {
            made.extend(publisher.next(keys.contains(&at)));
        }
        // Packets that come late; the first picture is on time, or the consumer would not have started.
        let mut order: Vec<(usize, usize)> = (0..made.len())
            .map(|at| (at + late.get(&at).filter(|_| at >= 6).copied().unwrap_or(0), at))
            .collect();
        order.sort();
        let mut wish_of_picture = BTreeMap::new();
        let mut picture = first + 1;
        for (spatial, temporal, pictures) in wishes {
            wish_of_picture.insert(picture, target(spatial, temporal));
            picture += pictures as u64;
        }
        let mut reader = vp9::LayerReader::new(dependency);
        let mut selector = Selector::new();
        let mut parts: BTreeMap<(u64, u8), usize> = BTreeMap::new();
        let mut markers: BTreeMap<u64, BTreeSet<u8>> = BTreeMap::new();
        let mut wish = None;
        for (_, at) in order {
            let packet = &made[at];
            if let Some((_, wished)) = wish_of_picture.range(..=packet.frame.0).next_back()
                && wish != Some(*wished)
            {
                wish = Some(*wished);
                selector.set_target(*wished);
            }
            let descriptor = vp9::Descriptor::parse(&packet.payload).unwrap();
            let frame = reader.read(&descriptor, packet.timestamp);
            if let Selection::Forward { ends_picture } = selector.select(&frame, packet.timestamp) {
                *parts.entry(packet.frame).or_default() += 1;
                if packet.marker || ends_picture {
                    markers.entry(packet.frame.0).or_default().insert(packet.frame.1);
                }
            }
        }
        let needs: BTreeMap<_, _> = made.iter().map(|packet| (packet.frame, &packet.needs)).collect();
        for (frame, count) in &parts {
            prop_assert_eq!(*count, 2, "frame {:?} went out in part", frame);
            for needed in needs[frame] {
                prop_assert!(parts.contains_key(needed), "{:?} went out without {:?}", frame, needed);
            }
        }
        if late.is_empty() {
            let pictures: BTreeSet<u64> = parts.keys().map(|frame| frame.0).collect();
            for picture in pictures {
                let top = parts.keys().filter(|frame| frame.0 == picture).map(|frame| frame.1).max();
                let expected: BTreeSet<u8> = top.into_iter().collect();
                prop_assert_eq!(markers.get(&picture), Some(&expected));
            }
        }
        Ok(())
    }
}

/// The base layer of key-only layers was whole, though not forwarded, since the key picture; its next frame was late,
/// behind the switch to it.
#[test]
fn a_base_frame_that_is_late_follows_a_switch_down_to_it() {
    for flexible in [false, true] {
        let course = Course {
            full: false,
            flexible,
            first: 1,
            wishes: vec![(2, 0, 5), (0, 0, 4)],
            keys: BTreeSet::new(),
            late: BTreeMap::from([(24, 7), (25, 6)]),
        };
        course.check().unwrap();
    }
}

proptest! {
    /// Whatever is wished when, and whatever comes late.
    #[test]
    fn what_goes_out_can_be_decoded(
        full: bool,
        flexible: bool,
        first in prop_oneof![Just(1_u64), 32_700..32_768_u64],
        wishes in prop::collection::vec((0..3_u8, 0..3_u8, 1..20_usize), 1..12),
        keys in prop::collection::btree_set(1..150_usize, 0..6),
        late in prop::collection::btree_map(0..900_usize, 1..40_usize, 0..30),
    ) {
        Course { full, flexible, first, wishes, keys, late }.check()?;
    }
}
