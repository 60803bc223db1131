//! Rooms of several sites: producers are piped to where they are received, once, on demand, and nowhere else.

use super::*;
use crate::event::Volume;
use crate::limits::RouterLimits;

/// A room whose routers bear this many peers each.
pub(super) fn room_of(peers_per_router: usize) -> World {
    let router = RouterLimits { transports: 2 * peers_per_router + 1, fan_out: 2, ..RouterLimits::default() };
    World::new(RoomType::open(), Limits { router, ..Limits::default() })
}

impl World {
    pub(super) fn site_of(&self, session: u64) -> SiteId {
        self.room.peers[&SessionId(session)].site
    }

    /// A peer that comes in through a region.
    pub(super) fn peer_from(&mut self, session: u64, name: &str, region: &str) -> TransportId {
        self.connect_from(session, name, Some(region));
        let send = self.transport(session, true);
        self.transport(session, false);
        assert!(self.reply(session, join(name)).is_ok());
        send
    }

    /// What must hold at every moment: nothing is consumed where it is not.
    pub(super) fn check_always(&self) {
        for (id, (_, producer, _)) in self.consumers.iter().chain(&self.data_consumers) {
            assert!(self.has(self.at[id], producer), "{id} consumes {producer}, which is not at its site");
        }
    }

    /// What must hold once no work is under way: pipes where they are needed, and nowhere else.
    pub(super) fn check_pipes(&self) {
        self.check_always();
        let (pipes, branches) = self.room.pipes.count();
        assert_eq!(self.ends.len(), 2 * pipes, "{:?}", self.room.pipes);
        assert!(self.ends.values().all(|connected| *connected));
        assert_eq!((self.copies.len(), self.senders.len()), (branches, branches));
        for (site, producer) in self.copies.keys() {
            let consumed = self
                .consumers
                .iter()
                .chain(&self.data_consumers)
                .any(|(id, (_, of, _))| of == producer && self.at[id] == *site);
            let ends: Vec<_> =
                self.senders.iter().filter(|(id, (_, of))| of == producer && self.at[*id] == *site).collect();
            assert!(consumed || !ends.is_empty(), "{producer} is piped to {site:?} for nobody");
            // Who migrates keeps what it has where it was, with all that brings it there.
            let goes_on = self.somebody_goes_over() || self.room.held().migrating > 0;
            assert!(
                consumed || goes_on || !self.room.is_draining(*site),
                "{site:?} is to be empty, and hands {producer} on"
            );
        }
        assert!(
            self.room.sites.len() <= 1
                || self.room.sites.keys().all(|site| !self.held_at(*site).is_empty()
                    || self.room.peers.values().any(|peer| [peer.site, peer.receiving].contains(site)))
        );
    }

    /// The site that a site has a producer from.
    pub(super) fn source(&self, site: SiteId, producer: &str) -> SiteId {
        let end = &self.copies[&(site, producer.to_owned())];
        let mut senders = self.senders.iter().filter(|(_, (_, of))| of == producer);
        let between = |one: SiteId, other: SiteId| self.room.pipes.ends(one, other);
        let found = senders.find(|(sender, (from, _))| {
            between(self.at[*sender], site).is_some_and(|ends| ends.contains(from) && ends.contains(end))
        });
        self.at[found.expect("somebody sends it").0]
    }
}

#[test]
fn a_room_that_outgrows_its_router_takes_another_and_everybody_receives_everybody() {
    let mut world = room_of(2);
    let transports: Vec<_> = (1..=4).map(|n| world.peer(n, &format!("peer{n}"))).collect();
    assert_eq!((world.routers, world.site_of(2), world.site_of(3)), (2, SiteId(1), SiteId(2)));
    assert!(world.ends.is_empty(), "nobody sends anything yet");
    for (n, transport) in (1..).zip(&transports) {
        world.produce(n, transport, MediaKind::Video);
        assert!(world.reply(n, produce_data(transport, "chat")).is_ok());
    }
    world.accept_all();
    world.check_pipes();
    assert_eq!((world.consumers.len(), world.data_consumers.len()), (12, 12));
    let held = world.room.held();
    assert_eq!((held.further_sites, held.pipes, held.piped), (1, 1, 8), "each producer crosses once");
    for n in [3, 4] {
        world.event(Event::Disconnected(SessionId(n)));
    }
    world.settle();
    world.check_pipes();
    assert_eq!((world.room.sites.len(), world.ends.len(), world.consumers.len()), (1, 0, 2));
}

#[test]
fn what_nobody_receives_at_a_site_is_not_piped_there() {
    let mut world = World::new(stage(), room_of(1).room.limits.as_ref().clone());
    let peer = PeerId::parse("ann").expect("id");
    let role = Some(Role::new("speaker"));
    world.event(Event::Connected { session: SessionId(1), comer: Comer { role, ..Comer::new(peer) } });
    let ann = world.transport(1, true);
    assert!(world.reply(1, join("ann")).is_ok());
    world.peer(2, "listener");
    let video = world.produce(1, &ann, MediaKind::Video);
    assert!(world.copies.is_empty(), "listeners get no video");
    let audio = world.produce(1, &ann, MediaKind::Audio);
    assert_eq!(world.copies.keys().map(|(_, id)| id.as_str()).collect::<Vec<_>>(), [audio.as_str()]);
    // A client that refuses it does not receive it either.
    let (session, ask, ..) = world.asks.remove(0);
    world.event(Event::Answered { session, ask, accepted: false });
    world.settle();
    assert!(world.copies.is_empty() && world.ends.is_empty());
    assert!(world.has(SiteId(1), video.as_str()));
}

#[test]
fn a_paused_producer_is_paused_wherever_it_is() {
    let mut world = room_of(1);
    let ann = world.peer(1, "ann");
    world.peer(2, "bob");
    let producer = world.produce(1, &ann, MediaKind::Video);
    let paused = |world: &World| -> Vec<SiteId> {
        let pauses = world.work.iter().filter(|(_, what)| matches!(what, MediaOp::PauseProducer(_)));
        pauses.map(|(op, _)| world.work_at[op]).collect()
    };
    world.ask(1, Request::PauseProducer(producer));
    assert_eq!(paused(&world), [SiteId(1), SiteId(2)]);
    world.settle();
    world.peer(3, "eve");
    // It was paused before it came to eve's site.
    world.check_pipes();
    world.event(Event::Disconnected(SessionId(3)));
    world.settle();
    world.connect(4, "zoe");
    world.transport(4, false);
    world.ask(4, join("zoe"));
    let mut at_last = Vec::new();
    while world.step() {
        at_last.extend(paused(&world));
    }
    assert!(at_last.contains(&world.site_of(4)));
}

#[test]
fn many_sites_are_a_tree_within_regions_first() {
    let mut world = room_of(1);
    let regions = ["eu", "us", "us", "us", "asia", "us", "asia", "asia"];
    let ann = world.peer_from(1, "ann", regions[0]);
    for (n, region) in (2..).zip(&regions[1..]) {
        world.peer_from(n, &format!("peer{n}"), region);
    }
    let producer = world.produce(1, &ann, MediaKind::Video);
    world.check_pipes();
    assert_eq!(world.copies.len(), regions.len() - 1);
    let mut children = BTreeMap::<SiteId, usize>::new();
    let mut ocean = 0;
    for n in 2..=8 {
        let source = world.source(world.site_of(n), producer.as_str());
        *children.entry(source).or_default() += 1;
        let from = (1..=8).find(|m| world.site_of(*m) == source).expect("somebody's");
        ocean += usize::from(regions[from as usize - 1] != regions[n as usize - 1]);
    }
    assert!(children.values().all(|children| *children <= 2), "{children:?}");
    assert_eq!(ocean, 2, "once to the US, once to Asia");
}

#[test]
fn a_site_that_dies_takes_its_own_peers_along_and_the_others_get_its_share_another_way() {
    let mut world = room_of(1);
    let ann = world.peer_from(1, "ann", "eu");
    for n in 2..=4 {
        world.peer_from(n, &format!("peer{n}"), "us");
    }
    let producer = world.produce(1, &ann, MediaKind::Video);
    world.accept_all();
    let middle = world.site_of(2);
    assert_eq!(world.source(world.site_of(3), producer.as_str()), middle);
    let (count, known) = (world.routers, world.consumers.len());
    for n in [1, 3, 4] {
        world.told(n);
    }
    world.kill(middle);
    assert_eq!(world.closed, [(SessionId(2), close_code::MEDIA_LOST)]);
    world.settle();
    world.check_pipes();
    // The two behind it are offered the producer again.
    assert_eq!((world.asks.len(), world.consumers.len(), world.routers), (2, known - 1, count));
    for n in [3, 4] {
        let told = world.told(n);
        assert!(
            matches!(&told[..], [Notification::PeerClosed(_), Notification::ConsumerClosed(_)]),
            "{told:?}"
        );
    }
    assert!(matches!(&world.told(1)[..], [Notification::PeerClosed(_)]), "ann notices nothing else");
    let zoe = world.peer_from(5, "peer2", "us");
    world.produce(5, &zoe, MediaKind::Video);
    world.accept_all();
    world.check_pipes();
    assert_eq!(world.consumers.len(), 6);
}

#[test]
fn a_site_that_only_passed_something_on_to_one_that_died_has_it_no_more() {
    let mut world = room_of(1);
    let ann = world.peer_from(1, "ann", "eu");
    world.peer_from(2, "bob", "us");
    world.produce(1, &ann, MediaKind::Video);
    world.accept_all();
    world.connect_from(3, "joe", Some("us"));
    world.transport(3, false);
    world.ask(3, join("joe"));
    let last = world.site_of(3);
    world.step_until(last, |what| matches!(what, MediaOp::PipeIn { .. }));
    world.event(Event::Disconnected(SessionId(2)));
    world.kill(last);
    world.settle();
    world.check_pipes();
    assert!(world.copies.is_empty() && world.ends.is_empty());
}

#[test]
fn a_busy_or_faraway_site_gets_no_new_peers_while_there_may_be_another() {
    let mut world = World::new(
        RoomType::open(),
        Limits { router: RouterLimits { per_room: 3, ..RouterLimits::default() }, ..Limits::default() },
    );
    world.peer_from(1, "ann", "eu");
    world.peer_from(2, "bob", "eu");
    world.peer_from(3, "joe", "us");
    assert_eq!((world.site_of(1), world.site_of(2), world.site_of(3)), (SiteId(1), SiteId(1), SiteId(2)));
    world.site_event(SiteId(1), SiteEvent::Busy(true));
    world.peer_from(4, "eve", "eu");
    assert_eq!(world.site_of(4), SiteId(3));
    world.site_event(SiteId(3), SiteEvent::Busy(true));
    world.peer_from(5, "max", "eu");
    assert_eq!(world.routers, 3, "no more than there may be");
    world.site_event(SiteId(1), SiteEvent::Busy(false));
    world.peer_from(6, "mia", "eu");
    assert_eq!(world.site_of(6), SiteId(1));
}

#[test]
fn a_region_without_nodes_is_served_by_the_site_that_it_was_given() {
    let mut world = World::open();
    world.places = vec![("n1", "eu"), ("n2", "eu")];
    world.peer_from(1, "ann", "eu");
    world.peer_from(2, "joe", "us");
    world.peer_from(3, "jim", "us");
    assert_eq!((world.routers, world.site_of(3)), (2, world.site_of(2)));
}

#[test]
fn pipes_between_nodes_are_encrypted() {
    let mut world = room_of(1);
    world.places = vec![("n1", "eu"), ("n1", "eu"), ("n2", "eu")];
    let ann = world.peer(1, "ann");
    world.peer(2, "bob");
    world.peer(3, "eve");
    world.ask(1, produce(&ann, MediaKind::Video, json!({})));
    let mut pipes = Vec::new();
    while world.step() {
        for (op, what) in &world.work {
            if let MediaOp::CreatePipe { leaves_node } = what {
                pipes.push((world.work_at[op], *leaves_node));
            }
        }
    }
    pipes.sort_unstable();
    pipes.dedup();
    assert_eq!(pipes, [(SiteId(1), false), (SiteId(1), true), (SiteId(2), false), (SiteId(3), true)]);
}

#[test]
fn a_site_that_cannot_be_made_leaves_its_peers_to_the_others() {
    let mut world = room_of(1);
    world.peer(1, "ann");
    world.connect(2, "bob");
    let request = world.ask(2, Request::RouterRtpCapabilities);
    let (op, what) = world.work.pop_front().expect("the second router");
    assert!(matches!(what, MediaOp::CreateRouter { .. }));
    let failure = MediaFailure::Unavailable("no other worker".to_owned());
    world.event(Event::MediaDone { op, result: Err(failure) });
    assert!(matches!(world.replies.get(&request), Some(Ok(_))));
    assert_eq!((world.site_of(2), world.routers), (SiteId(1), 1));
    // It is not tried again at once, but later.
    world.connect(3, "eve");
    assert!(world.work.is_empty() && world.site_of(3) == SiteId(1));
    world.now += Duration::from_secs(6);
    world.peer(4, "zoe");
    assert_eq!((world.site_of(4), world.routers), (SiteId(3), 2));
}

#[test]
fn who_speaks_at_any_site_is_told_loudest_first() {
    let mut world = room_of(1);
    let (ann, bob) = (world.peer(1, "ann"), world.peer(2, "bob"));
    let (one, two) = (world.produce(1, &ann, MediaKind::Audio), world.produce(2, &bob, MediaKind::Audio));
    let mut speakers = |site: u64, volumes: Vec<Volume>| {
        world.site_event(SiteId(site), SiteEvent::Volumes(volumes));
        let speakers = world.room.speakers.iter();
        speakers.map(|(peer, dbov)| format!("{peer} {dbov}")).collect::<Vec<_>>()
    };
    assert_eq!(speakers(1, vec![Volume { producer: one.clone(), dbov: -50 }]), ["ann -50"]);
    assert_eq!(speakers(2, vec![Volume { producer: two, dbov: -40 }]), ["bob -40", "ann -50"]);
    assert_eq!(speakers(1, vec![Volume { producer: one, dbov: -30 }]), ["ann -30", "bob -40"]);
    assert_eq!(speakers(1, Vec::new()), ["bob -40"]);
    assert!(speakers(2, Vec::new()).is_empty());
}

#[test]
fn scores_of_a_piped_producer_come_from_its_own_site() {
    let mut world = room_of(1);
    let ann = world.peer(1, "ann");
    world.peer(2, "bob");
    let producer = world.produce(1, &ann, MediaKind::Audio);
    world.told(1);
    world.site_event(SiteId(2), SiteEvent::ProducerScore(producer.clone(), json!([1])));
    assert!(world.told(1).is_empty());
    world.site_event(SiteId(1), SiteEvent::ProducerScore(producer.clone(), json!([9])));
    assert_eq!(world.told(1), [Notification::ProducerScore { producer, score: json!([9]) }]);
}

#[test]
fn a_broadcaster_gets_what_is_at_another_site_and_is_told_when_it_does_not() {
    let mut world = room_of(1);
    let ann = world.peer(1, "ann");
    let (one, two) = (world.produce(1, &ann, MediaKind::Audio), world.produce(1, &ann, MediaKind::Video));
    assert!(world.reply(1, produce_data(&ann, "chat")).is_ok());
    let plain = broadcaster(&mut world, 2, "recorder");
    assert!(world.copies.is_empty(), "it has asked for nothing");
    let Ok(Reply::Consumed(consumed)) = world.reply(2, consume(&plain, &one, false)) else { panic!("no") };
    assert!(world.consumers[consumed.id.as_str()].2, "it flows");
    world.check_pipes();
    assert_eq!(world.room.held().piped, 1, "and nothing else was brought there");

    let refused = world.ask(2, consume(&plain, &two, false));
    world.ask(1, Request::CloseProducer(two));
    world.settle();
    assert_eq!(world.replies[&refused].as_ref().map_err(RoomError::code), Err(503));
    world.event(Event::Disconnected(SessionId(2)));
    world.settle();
    world.check_pipes();
    assert_eq!((world.copies.len(), world.consumers.len()), (0, 0));
}
