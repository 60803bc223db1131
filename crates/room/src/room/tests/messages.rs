//! Data producers and consumers: who is offered messages, what is refused, what ends with whom.

use super::*;

#[test]
fn messages_reach_who_accepts_them_until_either_end_is_gone() {
    let mut world = World::open();
    let send = world.peer(1, "ann");
    world.peer(2, "bob");
    assert!(matches!(world.reply(1, produce_data(&send, "chat")), Ok(Reply::DataProduced(_))));
    assert!(world.reply(1, produce_data(&send, "bot")).is_ok(), "taken, and offered to nobody");
    world.peer(3, "eve");
    let offered: Vec<_> = world.data_asks.iter().map(|(to, .., label)| (to.0, label.as_str())).collect();
    assert_eq!(offered, [(2, "chat"), (3, "chat")]);
    assert!(world.data_consumers.values().all(|(.., resumed)| !resumed), "not before the client is ready");
    for (session, ask, ..) in std::mem::take(&mut world.data_asks) {
        world.event(Event::Answered { session, ask, accepted: session.0 == 2 });
        world.settle();
    }
    let left: Vec<_> = world.data_consumers.values().map(|(.., resumed)| *resumed).collect();
    assert_eq!(left, [true], "bob's; eve refused hers");
    world.event(Event::Disconnected(SessionId(1)));
    world.settle();
    assert!(world.told(2).iter().any(|told| matches!(told, Notification::DataConsumerClosed(_))));
    assert!(!world.told(3).iter().any(|told| matches!(told, Notification::DataConsumerClosed(_))));
    assert_eq!((world.data_producers.len(), world.data_consumers.len()), (0, 0));
    let held = world.room.held();
    assert_eq!((held.data_producers, held.data_consumers), (0, 0));
}

#[test]
fn messages_are_limited_and_need_a_transport_that_sends() {
    let mut world = World::new(RoomType::open(), Limits { data_producers_per_peer: 2, ..Limits::default() });
    let send = world.peer(1, "ann");
    let unknown = TransportId::new("no such transport");
    assert!(matches!(world.reply(1, produce_data(&unknown, "chat")), Err(RoomError::NotFound { .. })));
    for _ in 0..2 {
        assert!(world.reply(1, produce_data(&send, "chat")).is_ok());
    }
    assert!(matches!(world.reply(1, produce_data(&send, "chat")), Err(RoomError::Limit { limit: 2, .. })));
}
