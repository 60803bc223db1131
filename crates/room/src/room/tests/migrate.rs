//! Peers leave a site that drains within their sessions: what they send and receive goes over without a break, and
//! wherever it is interrupted each ends at one place.

use super::wide::room_of;
use super::*;

impl World {
    pub(super) fn drain(&mut self, site: SiteId, drains: bool) {
        self.site_event(site, SiteEvent::Draining(drains));
    }

    fn wait(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
        self.event(Event::Timeout);
        self.settle();
    }

    /// Whether a client was asked to migrate since this was asked last.
    fn is_asked(&mut self, session: u64) -> bool {
        self.told(session).iter().any(|told| matches!(told, Notification::Migrate { within_ms: 10_000 }))
    }

    /// What this peer consumes, and where: the model's side of the story.
    fn received(&self, session: u64) -> Vec<(String, SiteId)> {
        let of = |id: &&ConsumerId| self.room.consumers[*id].receiver == SessionId(session);
        let ids = self.room.consumers.keys().filter(of);
        let mut received: Vec<_> =
            ids.map(|id| (self.consumers[id.as_str()].1.clone(), self.at[id.as_str()])).collect();
        received.sort();
        received
    }

    fn replace(&mut self, session: u64, transport: &TransportId, old: &ProducerId) -> ProducerId {
        let Request::Produce { transport, rtp_parameters, app_data, .. } =
            produce(transport, MediaKind::Video, json!({}))
        else {
            panic!("it produces");
        };
        let replaces = Some(old.clone());
        let kind = self.room.producers[old].kind;
        match self.reply(session, Request::Produce { transport, kind, rtp_parameters, app_data, replaces }) {
            Ok(Reply::Produced(id)) => id,
            other => panic!("{other:?}"),
        }
    }

    fn transports_of(&self, session: u64) -> Vec<SiteId> {
        let transports = self.room.peers[&SessionId(session)].transports.values();
        let mut sites: Vec<_> = transports.map(|transport| transport.site).collect();
        sites.sort();
        sites
    }

    /// Lets rounds pass until nobody migrates any more: who is not done is sent away.
    fn end_migrations(&mut self) {
        for _ in 0..100 {
            if self.room.held().migrating == 0 {
                return;
            }
            self.wait(500);
        }
        panic!("somebody migrates forever");
    }
}

/// Ann and Bob at one site, each sends video and messages, each receives the other.
fn pair() -> (World, TransportId, ProducerId) {
    let mut world = room_of(2);
    let (ann, bob) = (world.peer(1, "ann"), world.peer(2, "bob"));
    let video = world.produce(1, &ann, MediaKind::Video);
    world.produce(2, &bob, MediaKind::Video);
    assert!(world.reply(1, produce_data(&ann, "chat")).is_ok());
    world.accept_all();
    for (session, ask, ..) in std::mem::take(&mut world.data_asks) {
        world.event(Event::Answered { session, ask, accepted: true });
    }
    world.settle();
    (world, ann, video)
}

#[test]
fn a_peer_takes_its_media_to_another_site_and_both_sides_lose_nothing_meanwhile() {
    let (mut world, _, video) = pair();
    let (old, new) = (SiteId(1), SiteId(2));
    assert!(world.reply(1, Request::PauseProducer(video.clone())).is_ok());
    let Link::Consumer(bobs) = &world.room.producers[&video].receivers[&SessionId(2)] else {
        panic!("bob receives it");
    };
    let bobs = bobs.clone();
    let bobs_data = world.room.data_consumers.keys().next().expect("and her messages").clone();
    for message in [
        Request::SetConsumerPreferredLayers(bobs.clone(), Layers { spatial: 1, temporal: None }),
        Request::SetConsumerPriority(bobs.clone(), 9),
        Request::PauseConsumer(bobs.clone()),
    ] {
        assert!(world.reply(2, message).is_ok());
    }
    world.drain(old, true);
    assert!(world.is_asked(1) && world.is_asked(2));

    let send = world.transport(1, true);
    assert!(world.reply(1, create(true, false)).is_err(), "one of each direction, there as here");
    world.transport(1, false);
    assert_eq!(world.transports_of(1), [old, old, new, new]);
    assert_eq!(world.received(1), [("p7".to_owned(), old), ("p7".to_owned(), new)], "bob, at both sites");
    let (_, _, id, _) = world.asks.last().expect("the new consumer is offered").clone();
    assert!(world.offered[id.as_str()].is_some(), "and it is said what it replaces");

    let moved = world.replace(1, &send, &video);
    assert!(world.room.producers[&moved].paused, "muted as before");
    let offered = world.asks.last().expect("bob is offered the new one").clone();
    assert_eq!(world.offered[offered.2.as_str()], Some(bobs.clone()));
    let inherited = &world.room.consumers[&offered.2];
    assert!(inherited.paused_by_client && inherited.priority == Some(9) && inherited.preferred.is_some());
    let Request::ProduceData { stream, label, protocol, app_data, .. } = produce_data(&send, "chat") else {
        panic!("it produces data");
    };
    let replaces = world.room.data_producers.keys().next().cloned();
    let again = Request::ProduceData { transport: send, stream, label, protocol, app_data, replaces };
    assert!(world.reply(1, again).is_ok());
    assert_eq!(world.data_consumers.len(), 2, "bob has messages by both");
    assert!(world.told(2).iter().all(|told| !matches!(told, Notification::ConsumerClosed(_))));

    // She has all; bob has not accepted hers yet.
    let migrated = world.ask(1, Request::Migrated);
    world.wait(2000);
    assert!(!world.replies.contains_key(&migrated) && world.producers.contains_key(video.as_str()));
    world.accept_all();
    world.wait(250);
    assert!(!world.replies.contains_key(&migrated), "its first picture is on the way");
    world.wait(1000);
    assert_eq!(world.replies.remove(&migrated), Some(Ok(Reply::Done)));
    let mut told = world.told(2);
    told.retain(|told| !matches!(told, Notification::ConsumerScore { .. }));
    assert_eq!(told, [Notification::ConsumerClosed(bobs), Notification::DataConsumerClosed(bobs_data)]);
    assert_eq!(world.transports_of(1), [new, new]);
    assert_eq!(world.received(1), [("p7".to_owned(), new)]);
    world.check_settled();
    world.check_pipes();
    // Bob did nothing in all that time, and is sent to join again.
    world.wait(10_000);
    assert_eq!(world.closed, [(SessionId(2), close_code::MOVED)]);
    assert_eq!(world.room.sites(), 1, "the old site is empty and gone");
    world.check_settled();
    world.check_pipes();
}

#[test]
fn who_cannot_migrate_joins_again_and_who_has_nothing_yet_notices_nothing() {
    let mut world = room_of(4);
    world.connect(1, "ann");
    world.transport(1, true);
    let Request::Join { display_name, device, rtp_capabilities, remote_address, receives, .. } = join("ann")
    else {
        panic!("she joins");
    };
    let migrates = false;
    let joins = Request::Join { display_name, device, rtp_capabilities, remote_address, receives, migrates };
    assert!(world.reply(1, joins).is_ok());
    world.connect(2, "bob");
    let plain = broadcaster(&mut world, 3, "recorder");
    assert_eq!(world.at[plain.as_str()], SiteId(1));
    world.drain(SiteId(1), true);
    world.settle();
    assert_eq!(world.closed, [(SessionId(1), close_code::MOVED), (SessionId(3), close_code::MOVED)]);
    let send = world.transport(2, true);
    assert_eq!((world.at[send.as_str()], world.room.sites()), (SiteId(2), 1));
    // Bob has not joined: nobody knows what he can.
    world.drain(SiteId(2), true);
    assert_eq!(world.closed.last(), Some(&(SessionId(2), close_code::MOVED)));
    world.settle();
    assert!(world.transports.is_empty());
}

#[test]
fn a_cancelled_drain_asks_nobody_any_more_and_new_peers_go_elsewhere_before() {
    let mut world = room_of(40);
    for n in 1..=40 {
        world.peer(n, &format!("peer{n}"));
    }
    world.drain(SiteId(1), true);
    let asked = |world: &mut World| (1..=40).filter(|n| world.is_asked(*n)).count();
    for _ in 0..4 {
        assert_eq!(asked(&mut world), 8, "a few each round");
        world.wait(250);
    }
    assert_eq!(asked(&mut world), 0, "some at a time");
    assert_eq!(world.reply(1, Request::Migrated), Ok(Reply::Done), "it has nothing that anybody receives");
    assert_eq!(asked(&mut world), 1, "and makes place for the next");
    let late = world.peer(41, "late");
    assert_eq!(world.at[late.as_str()], SiteId(2));
    world.drain(SiteId(1), false);
    for n in 2..=33 {
        assert_eq!(world.reply(n, Request::Migrated), Ok(Reply::Done));
    }
    world.wait(500);
    assert_eq!((asked(&mut world), world.closed.len()), (0, 0));
    assert_eq!(world.transports_of(40), [SiteId(1); 2]);
    world.check_settled();
}

#[test]
fn a_site_that_dies_under_a_migration_leaves_the_peer_at_the_other_or_nowhere() {
    for (dies, survives) in [(SiteId(1), true), (SiteId(2), false)] {
        let (mut world, _, video) = pair();
        let bobs = world.a_producer(1).expect("bob's").0;
        world.drain(SiteId(1), true);
        let send = world.transport(1, true);
        world.replace(1, &send, &video);
        let stats = world.ask(1, Request::ProducerStats(video.clone()));
        let receive = world.ask(1, create(false, true));
        world.kill(dies);
        world.settle();
        if survives {
            // Bob had nothing elsewhere yet, but goes on there as well.
            assert!(world.closed.is_empty() && !world.room.producers.contains_key(&bobs));
            assert_eq!(world.replies[&stats].as_ref().map_err(RoomError::code), Err(503));
            assert!(matches!(world.replies[&receive], Ok(Reply::Transport(_))));
            world.wait(1000);
            assert_eq!(world.reply(1, Request::Migrated), Ok(Reply::Done));
        } else {
            assert_eq!(
                world.closed,
                [(SessionId(1), close_code::MEDIA_LOST), (SessionId(2), close_code::MEDIA_LOST)]
            );
        }
        world.end_migrations();
        world.check_settled();
        world.check_data_settled();
        world.check_pipes();
    }
}

#[test]
fn where_no_other_worker_has_place_a_peer_stays_and_is_asked_again() {
    let (mut world, ..) = pair();
    world.drain(SiteId(1), true);
    let request = world.ask(1, create(true, false));
    let (op, what) = world.work.pop_front().expect("the new router");
    assert!(matches!(what, MediaOp::CreateRouter { or_elsewhere: true, .. }), "wherever there is one");
    world.is_asked(1);
    let failure = MediaFailure::Unavailable("no worker".to_owned());
    world.event(Event::MediaDone { op, result: Err(failure) });
    assert!(world.replies[&request].is_err(), "it has a transport there");
    assert_eq!((world.room.held().migrating, world.transports_of(1).len()), (1, 2), "bob is yet to see");
    world.wait(250);
    assert!(!world.is_asked(1), "not at once");
    world.wait(5000);
    assert!(world.is_asked(1));
    world.transport(1, true);
    assert_eq!(world.transports_of(1), [SiteId(1), SiteId(1), SiteId(3)]);
}
