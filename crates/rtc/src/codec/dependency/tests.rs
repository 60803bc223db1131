use proptest::prelude::*;

use super::*;

fn first_descriptor(capture: &str) -> Vec<u8> {
    let field = capture.lines().next().unwrap().split(' ').nth(3).unwrap();
    let digits: Vec<u8> = field.chars().map(|c| c.to_digit(16).unwrap() as u8).collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

const L3T3: &str = include_str!("../captures/av1-l3t3.txt");
const L3T3_KEY: &str = include_str!("../captures/av1-l3t3-key.txt");
const L1T3: &str = include_str!("../captures/av1-l1t3.txt");
const S3T3: &str = include_str!("../captures/av1-s3t3.txt");

#[test]
fn chromium_s_structures_are_read_to_their_end() {
    for (capture, layers) in [(L3T3, (3, 3)), (L3T3_KEY, (3, 3)), (L1T3, (1, 3)), (S3T3, (3, 3))] {
        let value = first_descriptor(capture);
        let descriptor = Descriptor::parse(&value, None).unwrap();
        let structure = descriptor.structure.unwrap();
        let expected: Vec<(u8, u8)> = (0..layers.0)
            .flat_map(|spatial| (0..layers.1).map(move |temporal| (spatial, temporal)))
            .collect();
        assert_eq!(structure.target_layers.as_slice(), expected);
        assert_eq!(structure.chain_count, layers.0);
        assert_eq!(structure.resolutions.last(), Some(&(1280, 720)), "what comes last was read right");
        assert_eq!(structure.resolutions.len(), usize::from(layers.0));
        assert_eq!(descriptor.active_targets, Some(structure.all_targets()));
        assert!(descriptor.start && descriptor.end && descriptor.frame_number == 1);
        assert!(descriptor.references.is_empty() && descriptor.spatial == 0);
        assert_eq!(descriptor.indications.of(0), Indication::Switch);
    }
}

#[test]
fn independent_layers_have_a_chain_and_targets_each() {
    let structure = Descriptor::parse(&first_descriptor(S3T3), None).unwrap().structure.unwrap();
    assert_eq!(structure.protected_by.as_slice(), [0, 0, 0, 1, 1, 1, 2, 2, 2]);
    let lowest = &structure.templates[0];
    assert_eq!(
        (lowest.indications.of(0), lowest.indications.of(3)),
        (Indication::Switch, Indication::NotPresent)
    );
    assert_eq!(structure.targets_within(1, 1), 0b011_011);
}

#[test]
fn without_the_structure_a_template_is_unknown() {
    let mut reader = LayerReader::new();
    assert_eq!(reader.read(&[0xc5, 0, 2]).layering, Layering::Unknown);
    assert!(reader.read(&first_descriptor(L3T3_KEY)).announces);
    let read = reader.read(&[0xc5, 0, 2]);
    let frame = read.layering.frame().unwrap();
    assert_eq!((frame.spatial, frame.temporal, frame.references.as_slice()), (1, 0, [1].as_slice()));
    assert!(!read.key_frame);
    assert_eq!(reader.read(&[0x3f, 0, 3]).layering, Layering::Unknown, "no template has this number");
}

#[test]
fn a_mask_says_what_is_produced_until_the_next() {
    let mut reader = LayerReader::new();
    reader.read(&first_descriptor(L1T3));
    let active = |reader: &mut LayerReader, value: &[u8]| reader.read(value).layering.frame().unwrap().active;
    assert_eq!(active(&mut reader, &[0xc3, 0, 2]), TargetSet::up_to(0, 2));
    // Active targets present: 0 1 0 0 0, then three bits of mask.
    assert_eq!(active(&mut reader, &[0xc3, 0, 3, 0b0100_0011]), TargetSet::up_to(0, 1));
    assert_eq!(active(&mut reader, &[0xc3, 0, 4]), TargetSet::up_to(0, 1));
    assert_eq!(active(&mut reader, &first_descriptor(L1T3)), TargetSet::up_to(0, 2));
}

#[test]
fn own_references_and_chains_take_the_template_s_place() {
    let structure = Descriptor::parse(&first_descriptor(L1T3), None).unwrap().structure.unwrap();
    // Flags: custom references and chains. References: 4 bits (5-1), 8 bits (18-1), end. Chain: 8 bits.
    let bits = "00011 01 0100 10 00010001 00 00001001".replace(' ', "");
    let mut value = vec![0xc1, 0, 9];
    value.extend(bits.as_bytes().chunks(8).map(|chunk| {
        chunk.iter().enumerate().fold(0, |byte, (at, bit)| byte | u8::from(*bit == b'1') << (7 - at))
    }));
    let descriptor = Descriptor::parse(&value, Some(&structure)).unwrap();
    assert_eq!(descriptor.references.as_slice(), [5, 18]);
    assert_eq!(descriptor.chains.as_slice(), [9]);
}

#[test]
fn a_structure_that_comes_late_does_not_replace_its_successor() {
    let mut reader = LayerReader::new();
    let mut newer = first_descriptor(L3T3);
    newer[2] = 9;
    reader.read(&newer);
    reader.read(&first_descriptor(L1T3));
    assert_eq!(reader.structure().unwrap().target_count(), 9);
}

#[test]
fn a_sender_may_number_anew() {
    let mut reader = LayerReader::new();
    let mut far = first_descriptor(L1T3);
    far[1] = 0x40;
    let before = reader.read(&far).layering.frame().unwrap().number;
    let after = reader.read(&first_descriptor(L3T3)).layering.frame().unwrap().number;
    assert!(after < before && reader.structure().unwrap().target_count() == 9);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(
        values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..120), 1..8),
        damage in prop::collection::vec((0..90_usize, any::<u8>()), 0..6),
    ) {
        let mut reader = LayerReader::new();
        let mut structure = first_descriptor(L3T3);
        for (at, byte) in damage {
            if let Some(slot) = structure.get_mut(at) {
                *slot = byte;
            }
        }
        reader.read(&structure);
        for value in values {
            let first = reader.read(&value);
            prop_assert!(first.layering != Layering::Unknown || !first.announces);
            let _ = reader.look(&value);
        }
    }
}
