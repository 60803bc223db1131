//! A room that is written down and goes on elsewhere does what it would have done where it was.

use proptest::prelude::*;

use super::random::Step;
use super::random_wide::wide_step;
use super::wide::room_of;
use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_room_that_moves_does_what_it_would_have_done_where_it_was(
        steps in proptest::collection::vec((wide_step(), prop::bool::weighted(0.05)), 1..60),
        moves_every in 1_usize..12,
    ) {
        let mut world = room_of(2);
        world.moves_every = moves_every;
        let (mut sessions, mut last_session) = (Vec::new(), 0);
        for (step, fail) in steps {
            world.random_wide(step, &mut sessions, &mut last_session);
            if fail {
                world.random(Step::Fail, &mut sessions, &mut last_session);
            }
            world.now += Duration::from_millis(70);
        }
        world.settle();
        world.check_pipes();
        world.all_leave(sessions);
        world.settle();
        prop_assert_eq!(world.room.held(), Held::default());
    }
}

#[test]
fn a_room_of_another_version_is_not_gone_on_with() {
    let world = World::open();
    let mut written = serde_json::to_value(world.room.into_snapshot(world.now)).expect("plain data");
    written["version"] = json!(Snapshot::VERSION + 1);
    let read: Snapshot = serde_json::from_value(written).expect("a snapshot");
    let refused = read.restore(Arc::new(Limits::default()), world.now).err();
    assert_eq!(refused, Some(SnapshotError::Version(Snapshot::VERSION + 1)));
}
