#![expect(clippy::arithmetic_side_effects, reason = "an overflow fails the test, as it should")]

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeSet, HashMap};

#[test]
fn order_goes_the_shorter_way_round() {
    assert!(SeqNo(0).is_newer_than(SeqNo(65_535)));
    assert!(SeqNo(65_535).is_older_than(SeqNo(0)));
    assert!(SeqNo(10).is_newer_than(SeqNo(9)));
    assert!(!SeqNo(10).is_newer_than(SeqNo(10)));
    assert_eq!(SeqNo(2).distance_from(SeqNo(65_534)), 4);
    assert_eq!(SeqNo(65_535).next(), SeqNo(0));
    assert_eq!(SeqNo(0).minus(1), SeqNo(65_535));
}

#[test]
fn extender_keeps_the_low_bits_and_counts_turns() {
    let mut extender = SequenceExtender::new();
    let first = extender.extend(SeqNo(65_534));
    assert_eq!(extender.extend(SeqNo(65_533)), first - 1);
    assert_eq!(extender.extend(SeqNo(1)), first + 3);
    assert_eq!(extender.extend(SeqNo(65_535)), first + 1);
    assert_eq!(extender.newest(), Some(first + 3));
    assert_eq!(extender.newest_for_report(), 65_537);
}

#[test]
fn extender_has_room_below_its_first_number() {
    let mut extender = SequenceExtender::new();
    let first = extender.extend(SeqNo(0));
    assert_eq!(extender.extend(SeqNo(65_535)), first - 1);
}

#[test]
fn mapper_starts_at_its_first_output_and_counts_on_over_a_switch() {
    let mut mapper = SeqMapper::new(1000);
    assert_eq!(mapper.map(70_000), Some(1000));
    assert_eq!(mapper.map(70_001), Some(1001));
    mapper.sync(5);
    assert_eq!(mapper.map(5), Some(1002));
    assert_eq!(mapper.map(4), None, "from before the switch");
    assert_eq!(mapper.map(7), Some(1004), "the lost one keeps its place");
    assert_eq!(mapper.map(6), Some(1003));
}

#[test]
fn mapper_closes_the_gaps_that_drops_leave() {
    let mut mapper = SeqMapper::new(0);
    assert_eq!(mapper.map(10), Some(0));
    mapper.drop_input(11);
    mapper.drop_input(12);
    assert_eq!(mapper.map(13), Some(1));
    assert_eq!(mapper.map(12), None);
    assert_eq!(mapper.input_of(1), Some(13));
    assert_eq!(mapper.input_of(0), Some(10));
    assert_eq!(mapper.input_of(2), None);
}

#[test]
fn mapper_ignores_a_drop_below_what_it_has_sent() {
    let mut mapper = SeqMapper::new(0);
    mapper.map(10);
    mapper.drop_input(13);
    assert_eq!(mapper.map(12), Some(2));
    mapper.drop_input(11);
    assert_eq!(mapper.map(14), Some(3), "12 has its number, so 11 must keep its place");
}

#[test]
fn mapper_refuses_what_lies_below_its_window() {
    let mut mapper = Mapper::<1>::new(0);
    mapper.map(0);
    mapper.map(100);
    assert_eq!(mapper.map(36), None);
    assert_eq!(mapper.map(37), Some(37));
    assert_eq!(mapper.input_of(36), None);
}

#[derive(Clone, Debug)]
enum Step {
    Map(u64),
    Drop(u64),
    Sync(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0_u64..400).prop_map(Step::Map),
        4 => (0_u64..400).prop_map(Step::Drop),
        1 => (0_u64..400).prop_map(Step::Sync),
    ]
}

/// The mapper's contract, told with sets and without a window.
struct Model {
    next_output: u64,
    first_input: Option<u64>,
    first_output: u64,
    newest_mapped: Option<u64>,
    newest: u64,
    dropped: BTreeSet<u64>,
}

impl Model {
    fn sync(&mut self, input: u64) {
        self.first_input = Some(input);
        self.first_output = self.next_output;
        self.newest_mapped = None;
        self.newest = input;
        self.dropped.clear();
    }

    fn place(&mut self, input: u64, window: u64) -> Option<u64> {
        if self.first_input.is_none() {
            self.sync(input);
        }
        (input >= self.first_input? && self.newest.saturating_sub(input) < window).then_some(input)
    }

    fn drop_input(&mut self, input: u64, window: u64) {
        if self.place(input, window).is_some() && self.newest_mapped.is_none_or(|newest| input > newest) {
            self.newest = self.newest.max(input);
            self.dropped.insert(input);
        }
    }

    fn map(&mut self, input: u64, window: u64) -> Option<u64> {
        self.place(input, window)?;
        self.newest = self.newest.max(input);
        if self.dropped.contains(&input) {
            return None;
        }
        let first = self.first_input?;
        let kept = (first..input).filter(|earlier| !self.dropped.contains(earlier)).count() as u64;
        let output = self.first_output + kept;
        self.newest_mapped = Some(self.newest_mapped.map_or(input, |newest| newest.max(input)));
        self.next_output = self.next_output.max(output + 1);
        Some(output)
    }
}

proptest! {
    #[test]
    fn mapper_agrees_with_a_naive_model(
        steps in prop::collection::vec(step(), 1..120),
        base in prop_oneof![Just(0_u64), Just(65_500), 0..u64::MAX / 2],
    ) {
        const WINDOW: u64 = 128;
        let mut mapper = Mapper::<2>::new(7);
        let mut model = Model {
            next_output: 7,
            first_input: None,
            first_output: 0,
            newest_mapped: None,
            newest: 0,
            dropped: BTreeSet::new(),
        };
        let mut span = 0_u32;
        let mut given: HashMap<u64, (u32, u64)> = HashMap::new();
        for step in steps {
            match step {
                Step::Sync(input) => {
                    span += 1;
                    mapper.sync(base + input);
                    model.sync(base + input);
                }
                Step::Drop(input) => {
                    mapper.drop_input(base + input);
                    model.drop_input(base + input, WINDOW);
                }
                Step::Map(input) => {
                    let input = base + input;
                    let output = mapper.map(input);
                    prop_assert_eq!(output, model.map(input, WINDOW));
                    if let Some(output) = output {
                        let earlier = given.insert(output, (span, input));
                        let same = earlier.is_none_or(|earlier| earlier == (span, input));
                        prop_assert!(same, "one output, two inputs");
                        prop_assert_eq!(mapper.input_of(output), Some(input));
                    }
                }
            }
        }
        for (&output, &(of_span, input)) in &given {
            let in_window = mapper.newest_input().is_some_and(|newest| newest - input.min(newest) < WINDOW);
            let expected = (of_span == span && in_window).then_some(input);
            prop_assert_eq!(mapper.input_of(output), expected, "output {}", output);
        }
    }

    #[test]
    fn extender_follows_a_stream_with_reordering(
        start: u16,
        steps in prop::collection::vec(-200_i32..300, 1..200),
    ) {
        let mut extender = SequenceExtender::new();
        let mut true_number = i64::from(start) + 65_536;
        prop_assert_eq!(extender.extend(SeqNo(start)), true_number as u64);
        for step in steps {
            true_number = (true_number + i64::from(step)).max(i64::from(start) + 65_536 - 10_000);
            let near = extender.newest().is_none_or(|newest| (true_number - newest as i64).abs() < 32_768);
            if near {
                prop_assert_eq!(extender.extend(SeqNo(true_number as u16)), true_number as u64);
            }
        }
    }

    #[test]
    fn mapper_never_panics(steps in prop::collection::vec((0_u8..4, any::<u64>()), 0..60)) {
        let mut mapper = Mapper::<1>::new(u64::MAX - 3);
        for (kind, number) in steps {
            match kind {
                0 => { mapper.map(number); }
                1 => mapper.drop_input(number),
                2 => mapper.sync(number),
                _ => { let _ = mapper.input_of(number); }
            }
        }
    }
}
