//! Who comes, in what order of steps, who is refused, and who takes whose place.

use super::*;

#[test]
fn two_requests_for_one_direction_in_flight_make_one_transport() {
    let mut world = World::open();
    world.connect(1, "ann");
    world.settle();
    world.ask(1, create(true, false));
    world.ask(1, create(true, false));
    world.settle();
    assert_eq!(world.transports.len(), 1);
}

#[test]
fn a_second_transport_of_one_direction_is_refused_with_the_first_ones_id() {
    let mut world = World::open();
    world.connect(1, "ann");
    let send = world.transport(1, true);
    let error = world.reply(1, create(true, false)).expect_err("refused");
    assert!(error.to_string().contains(send.as_str()) && error.code() == 409);
    world.transport(1, false);
    assert!(world.reply(1, create(true, true)).is_err());
    assert!(world.reply(1, create(false, false)).is_err());
    assert_eq!(world.transports.len(), 2);
}

#[test]
fn requests_before_the_router_is_there_wait_for_it() {
    let mut world = World::open();
    world.connect(1, "ann");
    let request = world.ask(1, Request::RouterRtpCapabilities);
    assert!(world.replies.is_empty());
    world.settle();
    assert!(matches!(world.replies.get(&request), Some(Ok(Reply::RouterRtpCapabilities(_)))));
}

#[test]
fn joining_twice_and_producing_before_joining_are_refused() {
    let mut world = World::open();
    world.connect(1, "ann");
    let send = world.transport(1, true);
    let request = produce(&send, MediaKind::Audio, json!({}));
    assert_eq!(world.reply(1, request), Err(RoomError::NotJoined));
    assert!(world.reply(1, join("ann")).is_ok());
    assert_eq!(world.reply(1, join("ann")), Err(RoomError::AlreadyJoined));
}

#[test]
fn what_belongs_to_another_peer_is_not_found() {
    let mut world = World::open();
    let ann = world.peer(1, "ann");
    world.peer(2, "bob");
    let producer = world.produce(1, &ann, MediaKind::Audio);
    let consumer = world.asks[0].2.clone();
    for request in [
        Request::CloseProducer(producer.clone()),
        Request::PauseProducer(producer.clone()),
        Request::ProducerStats(producer),
        Request::RestartIce { transport: ann.clone() },
        Request::TransportStats(ann.clone()),
        produce(&ann, MediaKind::Audio, json!({})),
    ] {
        assert_eq!(world.reply(2, request).expect_err("refused").code(), 404);
    }
    for request in [Request::PauseConsumer(consumer.clone()), Request::ConsumerStats(consumer)] {
        assert_eq!(world.reply(1, request).expect_err("refused").code(), 404);
    }
}

#[test]
fn limits_are_named_when_reached() {
    let limits = Limits { peers_per_room: 2, producers_per_peer: 1, app_data_bytes: 20, ..Limits::default() };
    let mut world = World::new(RoomType::open(), limits);
    let ann = world.peer(1, "ann");
    let big = produce(&ann, MediaKind::Audio, json!({ "x": "y".repeat(50) }));
    assert_eq!(world.reply(1, big).expect_err("refused").code(), 429);
    world.produce(1, &ann, MediaKind::Audio);
    let error = world.reply(1, produce(&ann, MediaKind::Video, json!({}))).expect_err("refused");
    assert_eq!(error.to_string(), "producers of one peer: the limit is 1");
    world.peer(2, "bob");
    world.connect(3, "eve");
    assert_eq!(world.closed, [(SessionId(3), close_code::FINAL)]);
    // A full room still lets a peer of its own come back.
    world.connect(4, "bob");
    assert_eq!(world.closed[1], (SessionId(2), close_code::FINAL));
    assert_eq!(world.room.held().peers, 2);
}

#[test]
fn who_has_shown_a_key_is_replaced_by_who_shows_it_again() {
    let key = |text: &str| Some(PeerKey::parse(text).expect("a key"));
    let (own, guess) = (key("0123456789abcdef"), key("0123456789abcdee"));
    for keyless in [true, false] {
        let mut world =
            World::new(RoomType::open(), Limits { replace_without_key: keyless, ..Limits::default() });
        world.connect_with(1, "ann", own.clone());
        for (session, shown) in [(2, None), (3, guess.clone())] {
            world.connect_with(session, "ann", shown);
            assert_eq!(world.closed.pop(), Some((SessionId(session), close_code::TAKEN)));
            assert_eq!(world.room.held().peers, 1);
        }
        world.connect_with(4, "ann", own.clone());
        assert_eq!(world.closed.pop(), Some((SessionId(1), close_code::FINAL)));
        // With its session, a peer's key is forgotten.
        world.event(Event::Disconnected(SessionId(4)));
        world.connect(5, "ann");
        // Who has shown none is replaced by anybody, or by nobody.
        world.connect(6, "ann");
        let closed = if keyless { (5, close_code::FINAL) } else { (6, close_code::TAKEN) };
        assert_eq!(world.closed.pop(), Some((SessionId(closed.0), closed.1)));
        assert_eq!((world.room.held().peers, world.closed.len()), (1, 0));
    }
}

#[test]
fn a_second_connection_of_a_peer_replaces_the_first_and_frees_what_it_held() {
    let mut world = World::open();
    let ann = world.peer(1, "ann");
    world.peer(2, "bob");
    world.produce(1, &ann, MediaKind::Audio);
    world.accept_all();
    world.told(2);
    world.connect(3, "ann");
    world.settle();
    assert_eq!(world.closed, [(SessionId(1), close_code::FINAL)]);
    let told = world.told(2);
    assert!(matches!(&told[..], [Notification::ConsumerClosed(_), Notification::PeerClosed(_)]), "{told:?}");
    assert_eq!((world.transports.len(), world.producers.len(), world.consumers.len()), (2, 0, 0));
    // The old session's late goodbye does not touch the new one.
    world.event(Event::Disconnected(SessionId(1)));
    assert_eq!(world.room.held().peers, 2);
}

#[test]
fn a_new_name_is_told_to_the_others() {
    let mut world = World::open();
    world.peer(1, "ann");
    world.peer(2, "bob");
    world.told(1);
    assert_eq!(world.reply(2, Request::ChangeDisplayName("Bobby".to_owned())), Ok(Reply::Done));
    let told = world.told(1);
    assert!(
        matches!(&told[..], [Notification::PeerDisplayNameChanged { display_name, old_display_name, .. }]
            if display_name == "Bobby" && old_display_name == "bob")
    );
}

#[test]
fn the_table_of_the_room_type_decides_who_receives_and_who_sends() {
    let mut world = World::new(stage(), Limits::default());
    let peer = PeerId::parse("ann").expect("id");
    world.event(Event::Connected {
        session: SessionId(1),
        comer: Comer { role: Some(Role::new("speaker")), ..Comer::new(peer) },
    });
    let ann = world.transport(1, true);
    assert!(world.reply(1, join("ann")).is_ok());
    let bob = world.peer(2, "bob");
    world.produce(1, &ann, MediaKind::Audio);
    world.produce(1, &ann, MediaKind::Video);
    assert_eq!(world.asks.len(), 1, "audio only");
    let error = world.reply(2, produce(&bob, MediaKind::Audio, json!({}))).expect_err("refused");
    assert_eq!(error.code(), 403);
}
