//! A site that hands on what it has from others drains: nobody behind it is without what is sent.

use proptest::prelude::*;

use super::wide::room_of;
use super::*;

impl World {
    /// Whether what a producer's owner sends comes to its copy of this id at a site.
    fn is_fed(&self, site: SiteId, id: &str) -> bool {
        if !self.has(site, id) || self.at.get(id) == Some(&site) {
            return self.has(site, id);
        }
        let sender = &self.fed_by[&(site, id.to_owned())];
        self.senders.get(sender).is_some_and(|(_, of)| self.is_fed(self.at[sender], of))
    }

    /// Who of these receives nothing of a producer, though it has accepted it.
    fn without(&self, receivers: &[u64], producer: &ProducerId) -> Option<u64> {
        let of = |id: &ConsumerId, consumer: &Consumer| {
            let held = self.consumers.get(id.as_str());
            consumer.producer == *producer
                && held.is_some_and(|(_, of, open)| *open && self.is_fed(self.at[id.as_str()], of))
        };
        let has = |session: &&u64| {
            let mut all = self.room.consumers.iter();
            all.any(|(id, consumer)| consumer.receiver == SessionId(**session) && of(id, consumer))
        };
        receivers.iter().find(|session| !has(session)).copied()
    }

    /// The sites that hand on what they have from others.
    fn relays(&self) -> Vec<SiteId> {
        let senders = self.senders.iter().map(|(sender, (_, of))| (self.at[sender], of));
        let mut relays: Vec<_> =
            senders.filter(|(site, of)| self.at.get(*of) != Some(site)).map(|(site, _)| site).collect();
        relays.sort();
        relays.dedup();
        relays
    }
}

/// One who sends and so many who receive, each at a site of its own, all of it accepted.
fn audience(receivers: u64) -> (World, ProducerId) {
    let mut world = room_of(1);
    let sends = world.peer(1, "ann");
    for n in 0..receivers {
        world.peer(2 + n, &format!("viewer{n}"));
    }
    let video = world.produce(1, &sends, MediaKind::Video);
    world.accept_all();
    world.check_pipes();
    (world, video)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn while_a_relay_drains_nobody_behind_it_is_without_a_consumer_that_is_fed(
        receivers in 3_u64..9,
        which in any::<usize>(),
        steps in proptest::collection::vec((0_u8..8, any::<usize>()), 1..150),
    ) {
        let (mut world, video) = audience(receivers);
        let relays = world.relays();
        let drained = relays[which % relays.len()];
        let others: Vec<u64> = (2..2 + receivers).filter(|n| world.site_of(*n) != drained).collect();
        prop_assert_eq!(world.without(&others, &video), None);
        world.drain(drained, true);
        let mut steps = steps.into_iter().chain((0..).map(|n| ((n % 8) as u8, n)));
        let mut calm = 0;
        while calm < 40 {
            let (what, which) = steps.next().expect("endless");
            match what {
                0..4 => calm = if world.step_at(which) { 0 } else { calm + 1 },
                4 | 5 if !world.asks.is_empty() => {
                    let (session, ask, ..) = world.asks.remove(which % world.asks.len());
                    world.event(Event::Answered { session, ask, accepted: true });
                    calm = 0;
                }
                6 => world.migrate(which),
                _ => {
                    // In so long a time workers do what they have to.
                    while world.step_at(which) {
                        prop_assert_eq!(world.without(&others, &video), None);
                    }
                    world.now += Duration::from_millis(100);
                    world.event(Event::Timeout);
                }
            }
            prop_assert_eq!(world.without(&others, &video), None);
        }
        world.settle_migrations(&mut (0..));
        prop_assert_eq!(world.without(&others, &video), None);
        world.check_settled();
        world.check_pipes();
        prop_assert!(!world.room.sites.contains_key(&drained), "nothing is left there");
    }
}

#[test]
fn who_cannot_replace_a_consumer_is_offered_another_once_it_can_flow() {
    let mut world = room_of(1);
    let sends = world.peer(1, "ann");
    for n in 2..=4 {
        world.connect(n, &format!("viewer{n}"));
        world.transport(n, false);
        let Request::Join { display_name, device, rtp_capabilities, remote_address, receives, .. } =
            join("v")
        else {
            panic!("it joins");
        };
        let migrates = false;
        let joins =
            Request::Join { display_name, device, rtp_capabilities, remote_address, receives, migrates };
        assert!(world.reply(n, joins).is_ok());
    }
    let video = world.produce(1, &sends, MediaKind::Video);
    world.accept_all();
    let relay = world.relays()[0];
    let behind =
        (2..=4).find(|n| world.source(world.site_of(*n), video.as_str()) == relay).expect("somebody");
    world.told(behind);
    world.drain(relay, true);
    while world.without(&[behind], &video).is_none() {
        assert!(world.step(), "it is given up at last");
    }
    world.settle();
    let (session, _, id, _) = world.asks.last().expect("it is offered another").clone();
    assert_eq!((session, &world.offered[id.as_str()]), (SessionId(behind), &None));
    let told = world.told(behind);
    assert!(told.iter().any(|told| matches!(told, Notification::ConsumerClosed(_))), "{told:?}");
    assert!(world.is_fed(world.site_of(behind), &format!("{video}~1")), "by another way");
    world.accept_all();
    world.check_settled();
    world.check_pipes();
}

/// Bob's site has Ann's messages from hers and hands them to Joe's; the world stands where that is about to begin.
fn about_to_be_handed_on() -> World {
    let mut world = room_of(1);
    let ann = world.peer_from(1, "ann", "eu");
    world.peer_from(2, "bob", "us");
    assert!(world.reply(1, produce_data(&ann, "chat")).is_ok());
    world.connect_from(3, "joe", Some("us"));
    world.transport(3, false);
    world.ask(3, join("joe"));
    let bobs = world.site_of(2);
    world.step_until(bobs, |what| matches!(what, MediaOp::PipeDataOut { .. }));
    world
}

#[test]
fn what_a_relay_was_about_to_hand_on_ends_first_and_then_the_relay() {
    let mut world = about_to_be_handed_on();
    let relay = world.site_of(2);
    world.event(Event::Disconnected(SessionId(1)));
    world.kill(relay);
    world.settle();
    world.check_pipes();
    assert!(world.copies.is_empty() && world.ends.is_empty());
}

#[test]
fn who_leaves_a_site_behind_a_relay_that_drains_and_dies_has_nothing_brought_there_any_more() {
    let mut world = about_to_be_handed_on();
    world.settle();
    let (relay, left) = (world.site_of(2), world.site_of(3));
    world.drain(left, true);
    world.transport(3, false);
    assert_ne!(world.site_of(3), left, "joe goes elsewhere");
    world.drain(relay, true);
    world.kill(relay);
    world.settle();
    world.check_pipes();
    assert!(world.copies.keys().all(|(site, _)| *site != left), "{:?}", world.copies);
}
