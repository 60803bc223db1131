//! What a peer receives of the others: offered once, flowing when it is accepted, and taken back when either end is gone.

use super::*;

#[test]
fn two_peers_are_offered_each_other_and_flow_starts_on_acceptance() {
    let mut world = World::open();
    let ann = world.peer(1, "ann");
    let bob = world.peer(2, "bob");
    assert!(matches!(&world.told(1)[..], [Notification::NewPeer(info)] if info.display_name == "bob"));
    world.produce(1, &ann, MediaKind::Audio);
    world.produce(2, &bob, MediaKind::Video);
    let offered: Vec<_> = world.asks.iter().map(|(to, .., from)| (to.0, from.to_string())).collect();
    assert_eq!(offered, [(2, "ann".to_owned()), (1, "bob".to_owned())]);
    assert!(world.consumers.values().all(|(.., resumed)| !resumed));
    world.accept_all();
    assert_eq!(world.consumers.values().filter(|(.., resumed)| *resumed).count(), 2);
    assert!(matches!(&world.told(1)[..], [Notification::ConsumerScore { .. }]));
}

#[test]
fn a_late_joiner_gets_what_is_there_whatever_the_order_of_its_steps() {
    let mut world = World::open();
    let ann = world.peer(1, "ann");
    world.produce(1, &ann, MediaKind::Audio);
    // Joins first, creates its receive transport afterwards.
    world.connect(2, "bob");
    let Ok(Reply::Joined(here)) = world.reply(2, join("bob")) else { panic!("not joined") };
    assert_eq!(here.len(), 1);
    assert!(world.asks.is_empty());
    world.transport(2, false);
    assert_eq!(world.asks.len(), 1);
}

#[test]
fn a_producer_that_ends_before_the_offer_is_answered_is_taken_back_afterwards() {
    let mut world = World::open();
    let ann = world.peer(1, "ann");
    world.peer(2, "bob");
    let producer = world.produce(1, &ann, MediaKind::Video);
    world.told(2);
    assert!(world.reply(1, Request::CloseProducer(producer)).is_ok());
    assert!(world.told(2).is_empty(), "the client does not know the consumer yet");
    let consumer = world.asks[0].2.clone();
    world.accept_all();
    assert_eq!(world.told(2), [Notification::ConsumerClosed(consumer)]);
}

#[test]
fn pause_and_resume_reach_receivers_once_and_only_after_acceptance() {
    let mut world = World::open();
    let ann = world.peer(1, "ann");
    world.peer(2, "bob");
    let producer = world.produce(1, &ann, MediaKind::Video);
    world.told(2);
    assert!(world.reply(1, Request::PauseProducer(producer.clone())).is_ok());
    assert!(world.told(2).is_empty());
    let consumer = world.asks[0].2.clone();
    world.accept_all();
    assert_eq!(world.told(2)[0], Notification::ConsumerPaused(consumer.clone()));
    assert!(world.reply(1, Request::PauseProducer(producer.clone())).is_ok());
    assert!(world.told(2).is_empty());
    assert!(world.reply(1, Request::ResumeProducer(producer)).is_ok());
    assert_eq!(world.told(2), [Notification::ConsumerResumed(consumer)]);
}

#[test]
fn a_client_that_pauses_before_it_accepts_stays_paused() {
    let mut world = World::open();
    let ann = world.peer(1, "ann");
    world.peer(2, "bob");
    world.produce(1, &ann, MediaKind::Video);
    let consumer = world.asks[0].2.clone();
    assert!(world.reply(2, Request::PauseConsumer(consumer)).is_ok());
    world.accept_all();
    assert!(world.consumers.values().all(|(.., resumed)| !resumed));
}

#[test]
fn a_refused_offer_closes_the_consumer_and_is_not_repeated() {
    let mut world = World::open();
    let ann = world.peer(1, "ann");
    world.peer(2, "bob");
    world.produce(1, &ann, MediaKind::Video);
    let (session, ask, ..) = world.asks.remove(0);
    world.event(Event::Answered { session, ask, accepted: false });
    world.settle();
    assert_eq!((world.consumers.len(), world.room.held().consumers), (0, 0));
    world.peer(3, "eve");
    assert_eq!(world.asks.len(), 1, "only eve is offered");
}

#[test]
fn a_producer_that_a_peer_cannot_decode_is_left_out() {
    let mut world = World::open();
    let ann = world.peer(1, "ann");
    world.peer(2, "bob");
    world.refuse_consumers = true;
    world.produce(1, &ann, MediaKind::Video);
    assert!(world.asks.is_empty());
    assert_eq!(world.room.held().consumers, 0);
}

#[test]
fn a_consumer_that_comes_too_late_for_its_transport_is_made_on_the_next() {
    for made_in_time in [true, false] {
        let mut world = World::open();
        let ann = world.peer(1, "ann");
        world.connect(2, "bob");
        let receive = world.transport(2, false);
        assert!(world.reply(2, join("bob")).is_ok());
        let (op, what) = world.produce_until_consume(&ann);
        let in_time = made_in_time.then(|| world.perform(what.clone()));
        world.tell(SiteEvent::TransportClosed(receive));
        world.transport(2, false);
        assert!(world.asks.is_empty());
        let result = in_time.unwrap_or_else(|| world.perform(what));
        assert_eq!(result.is_ok(), made_in_time);
        world.event(Event::MediaDone { op, result });
        world.settle();
        assert_eq!((world.asks.len(), world.consumers.len()), (1, 1));
    }
}

#[test]
fn capabilities_are_put_in_order_once_and_shared_by_all_consumers() {
    let mut world = World::open();
    let ann = world.peer(1, "ann");
    world.connect(2, "bob");
    world.transport(2, false);
    let codecs = json!([{ "kind": "audio", "mimeType": "nonsense", "clockRate": 1 }]);
    let capabilities = serde_json::from_value(json!({ "codecs": codecs })).expect("capabilities");
    let rtp_capabilities: Option<Arc<RtpCapabilities>> = Some(Arc::new(capabilities));
    let (display_name, device) = ("bob".to_owned(), Device::default());
    assert!(
        world
            .reply(
                2,
                Request::Join {
                    display_name,
                    device,
                    rtp_capabilities,
                    remote_address: None,
                    receives: Receives::Offered,
                    migrates: false,
                }
            )
            .is_ok()
    );
    let mut shared = || match world.produce_until_consume(&ann) {
        (_, MediaOp::Consume { rtp_capabilities, .. }) => rtp_capabilities,
        other => panic!("{other:?}"),
    };
    let (one, two) = (shared(), shared());
    assert!(one.codecs.is_empty() && Arc::ptr_eq(&one, &two));
}

#[test]
fn only_a_refusal_is_remembered_not_that_the_worker_was_late() {
    let late = || MediaFailure::Unavailable("no answer in time".to_owned());
    let unfit = || MediaFailure::Refused("does not fit".to_owned());
    for (failure, links) in [(late(), 0), (unfit(), 1)] {
        let mut world = World::open();
        let ann = world.peer(1, "ann");
        world.peer(2, "bob");
        let (op, _) = world.produce_until_consume(&ann);
        world.event(Event::MediaDone { op, result: Err(failure) });
        world.settle();
        assert!(world.room.producers.values().all(|producer| producer.receivers.len() == links));
        assert_eq!(world.room.peers.values().map(|peer| peer.consumers_coming).sum::<usize>(), 0);
    }
}

#[test]
fn a_consumer_that_a_worker_did_not_make_is_asked_for_again_later_and_later() {
    let mut world = World::open();
    let ann = world.peer(1, "ann");
    world.peer(2, "bob");
    world.ask(1, produce(&ann, MediaKind::Audio, json!({})));
    while !matches!(world.work.front(), Some((_, MediaOp::Consume { .. }))) {
        assert!(world.step(), "bob is to receive it");
    }
    let start = world.now;
    let mut tried = Vec::new();
    for _ in 0..8 {
        let (op, what) = world.work.pop_front().expect("tried");
        assert!(matches!(what, MediaOp::Consume { .. }), "{what:?}");
        tried.push((world.now - start).as_secs());
        let result = Err(MediaFailure::Unavailable("no answer".to_owned()));
        world.event(Event::MediaDone { op, result });
        assert!(world.work.is_empty(), "not at once");
        world.now = world.room.poll_timeout().expect("later");
        world.event(Event::Timeout);
    }
    assert_eq!(tried, [0, 1, 3, 7, 15, 31, 63, 95]);
    world.settle();
    assert_eq!((world.consumers.len(), world.asks.len(), world.room.again.at), (1, 1, None));
}
