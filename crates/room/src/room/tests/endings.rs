//! What ends with a transport, a worker, a connection, and the last peer of a room.

use super::*;
use crate::event::ProducerCreated;

#[test]
fn a_transport_that_ends_takes_its_media_along_and_may_be_made_anew() {
    let mut world = World::open();
    let ann = world.peer(1, "ann");
    world.peer(2, "bob");
    world.produce(1, &ann, MediaKind::Video);
    world.accept_all();
    world.told(2);
    let receive = world.room.peers[&SessionId(2)].receive_transport().expect("there").clone();
    world.tell(SiteEvent::TransportClosed(receive));
    world.settle();
    assert!(matches!(&world.told(2)[..], [Notification::ConsumerClosed(_)]));
    world.transport(2, false);
    assert_eq!(world.asks.len(), 1, "offered again on the new transport");
    world.tell(SiteEvent::TransportClosed(ann));
    world.settle();
    assert_eq!(world.room.held().producers, 0);
    assert_eq!(world.producers.len(), 0);
}

#[test]
fn when_the_worker_dies_everyone_is_sent_to_join_again_and_a_new_router_is_ready() {
    let mut world = World::open();
    let ann = world.peer(1, "ann");
    world.peer(2, "bob");
    world.produce(1, &ann, MediaKind::Audio);
    // Work that was under way never ends.
    world.ask(1, produce(&ann, MediaKind::Video, json!({})));
    let lost: Vec<_> = world.work.drain(..).collect();
    world.tell(SiteEvent::Lost);
    assert_eq!(
        world.closed,
        [(SessionId(1), close_code::MEDIA_LOST), (SessionId(2), close_code::MEDIA_LOST)]
    );
    assert!(
        matches!(world.work.front(), Some((_, MediaOp::CreateRouter { .. }))),
        "at once, before anyone asks"
    );
    // A late answer from the grave is ignored.
    let ghost = ProducerCreated { id: ProducerId::new("ghost"), consumable: Arc::default() };
    let result = Ok(MediaDone::Producer(ghost));
    world.event(Event::MediaDone { op: lost[0].0, result });
    world.settle();
    assert_eq!(world.room.held(), Held::default());
    world.closed.clear();
    let ann = world.peer(3, "ann");
    world.peer(4, "bob");
    world.asks.clear();
    world.produce(3, &ann, MediaKind::Audio);
    assert_eq!((world.routers, world.asks.len(), world.closed.len()), (2, 1, 0));
}

#[test]
fn without_any_worker_clients_are_told_and_the_next_request_tries_again() {
    let mut world = World::open();
    world.connect(1, "ann");
    let first = world.ask(1, Request::RouterRtpCapabilities);
    let (op, _) = world.work.pop_front().expect("router");
    let failure = MediaFailure::Unavailable("no media worker is running".to_owned());
    world.event(Event::MediaDone { op, result: Err(failure) });
    assert_eq!(world.replies.remove(&first).expect("answered").expect_err("refused").code(), 503);
    assert!(world.reply(1, Request::RouterRtpCapabilities).is_ok());
}

#[test]
fn a_detached_peer_that_closes_its_last_transport_has_left() {
    let mut world = World::open();
    world.peer(1, "ann");
    world.peer(2, "bob");
    let transports: Vec<_> = world.room.peers[&SessionId(1)].transports.keys().cloned().collect();
    world.event(Event::Detached(SessionId(1)));
    for (left, transport) in (0..transports.len()).rev().zip(transports) {
        assert_eq!(world.room.held().peers, 2, "{left}");
        world.tell(SiteEvent::TransportClosed(transport));
    }
    assert_eq!((world.room.held().peers, &world.closed[..]), (1, &[(SessionId(1), close_code::GONE)][..]));
}

#[test]
fn a_peer_whose_connection_broke_stays_until_its_time_is_over() {
    let mut world = World::open();
    let ann = world.peer(1, "ann");
    let bob = world.peer(2, "bob");
    world.produce(1, &ann, MediaKind::Audio);
    world.accept_all();
    world.event(Event::Detached(SessionId(1)));
    let due = world.room.poll_timeout().expect("a time is set");
    assert_eq!(due - world.now, Duration::from_millis(Limits::default().resume_ms));
    // What comes meanwhile is offered all the same.
    world.produce(2, &bob, MediaKind::Video);
    assert_eq!(world.room.open_asks(SessionId(1)).map(|asks| asks.len()), Some(1));
    assert!(world.told(2).iter().all(|told| !matches!(told, Notification::PeerClosed(_))));
    // Again at a later time: it counts from the first.
    world.now += Duration::from_secs(5);
    world.event(Event::Detached(SessionId(1)));
    assert_eq!(world.room.poll_timeout(), Some(due));
    world.event(Event::Attached(SessionId(1)));
    assert_eq!(world.room.poll_timeout(), None);
    world.event(Event::Detached(SessionId(1)));
    world.now = world.room.poll_timeout().expect("a time is set");
    world.event(Event::Timeout);
    world.settle();
    assert!(matches!(&world.told(2)[..], [.., Notification::PeerClosed(id)] if id.as_str() == "ann"));
    assert_eq!(world.closed, [(SessionId(1), close_code::GONE)]);
    assert_eq!((world.room.held().peers, world.room.open_asks(SessionId(1))), (1, None));
    assert!(!world.room_closed);
}

#[test]
fn an_empty_room_lingers_then_closes_and_one_who_returns_keeps_it() {
    let mut world = World::open();
    world.peer(1, "ann");
    world.event(Event::Disconnected(SessionId(1)));
    let due = world.room.poll_timeout().expect("empty");
    world.event(Event::Timeout);
    assert!(!world.room_closed, "too early");
    world.peer(2, "ann");
    assert_eq!((world.room.poll_timeout(), world.routers), (None, 1));
    world.event(Event::Disconnected(SessionId(2)));
    world.now = due + Duration::from_secs(60);
    world.event(Event::Timeout);
    assert!(world.room_closed);
}
