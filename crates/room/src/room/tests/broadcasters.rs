//! Peers without a connection: they ask for what they receive, and are offered nothing.

use super::*;

#[test]
fn a_broadcaster_is_seen_and_received_but_offered_nothing() {
    let mut world = World::open();
    let ann = world.peer(1, "ann");
    world.told(1);
    world.produce(1, &ann, MediaKind::Audio);
    let plain = broadcaster(&mut world, 2, "camera");
    assert!(matches!(&world.told(1)[..], [Notification::NewPeer(info)] if info.id.as_str() == "camera"));
    assert!(world.asks.is_empty(), "it has no connection to be asked on");
    world.produce(2, &plain, MediaKind::Video);
    world.settle();
    assert_eq!(world.asks.len(), 1, "ann is offered its video");
    world.event(Event::Disconnected(SessionId(2)));
    world.settle();
    assert_eq!((world.transports.len(), world.producers.len()), (2, 1), "only ann's are left");
}

#[test]
fn a_broadcaster_gets_what_it_asks_for_once_and_flowing_unless_paused() {
    let mut world = World::open();
    let ann = world.peer(1, "ann");
    let (audio, video) = (world.produce(1, &ann, MediaKind::Audio), world.produce(1, &ann, MediaKind::Video));
    let plain = broadcaster(&mut world, 2, "recorder");
    let Ok(Reply::PeerProducers(peers)) = world.reply(2, Request::PeerProducers) else { panic!("no list") };
    assert_eq!((peers.len(), peers[0].producers.len()), (1, 2));
    let Ok(Reply::Consumed(first)) = world.reply(2, consume(&plain, &audio, false)) else { panic!("no") };
    let Ok(Reply::Consumed(second)) = world.reply(2, consume(&plain, &video, true)) else { panic!("no") };
    world.settle();
    let flowing = |world: &World, id: &ConsumerId| world.consumers[id.as_str()].2;
    assert!(flowing(&world, &first.id) && !flowing(&world, &second.id));
    assert_eq!(world.reply(2, consume(&plain, &audio, false)).map_err(|error| error.code()), Err(400));
    let ghost = ProducerId::new("ghost");
    assert_eq!(world.reply(2, consume(&plain, &ghost, false)).map_err(|error| error.code()), Err(404));
    // Who is offered things does not ask, and nobody asks on another's transport.
    assert_eq!(world.reply(1, consume(&ann, &audio, false)).map_err(|error| error.code()), Err(400));
    assert_eq!(world.reply(1, consume(&plain, &audio, false)).map_err(|error| error.code()), Err(404));
    world.reply(2, Request::ResumeConsumer(second.id.clone())).expect("resumed");
    assert!(flowing(&world, &second.id));
    world.event(Event::Disconnected(SessionId(1)));
    world.settle();
    assert!(world.consumers.is_empty());
    assert_eq!(world.room.held().consumers, 0);
}

#[test]
fn a_broadcaster_s_transports_are_limited() {
    let limits = Limits { transports_per_broadcaster: 2, ..Limits::default() };
    let mut world = World::new(RoomType::open(), limits);
    broadcaster(&mut world, 1, "camera");
    world.reply(1, create(true, true)).expect("the second");
    let third = world.reply(1, Request::CreatePlainTransport { rtcp_mux: true, comedia: false });
    assert_eq!(third.map_err(|error| error.code()), Err(429));
}
