//! Whatever peers and workers do, in any order: media reaches everyone once, and nothing is left behind.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
pub(super) enum Step {
    Connect(u64),
    Drop(usize),
    Join(usize),
    Transport(usize, bool, bool),
    Produce(usize, bool),
    CloseProducer(usize),
    PauseProducer(usize, bool),
    CloseTransport(usize),
    Answer(usize, bool),
    Work(usize),
    Fail,
    KillWorker(usize),
    Detach(usize),
    Attach(usize),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        32 => calm_step(),
        12 => (1_usize..6).prop_map(Step::Work),
        1 => Just(Step::Fail),
    ]
}

/// What peers and workers do, but for the work itself and its failures.
pub(super) fn calm_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0_u64..6).prop_map(Step::Connect),
        1 => any::<usize>().prop_map(Step::Drop),
        4 => any::<usize>().prop_map(Step::Join),
        5 => (any::<usize>(), any::<bool>(), any::<bool>()).prop_map(|(s, p, c)| Step::Transport(s, p, c)),
        6 => (any::<usize>(), any::<bool>()).prop_map(|(s, v)| Step::Produce(s, v)),
        1 => any::<usize>().prop_map(Step::CloseProducer),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(p, on)| Step::PauseProducer(p, on)),
        1 => any::<usize>().prop_map(Step::CloseTransport),
        4 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(a, yes)| Step::Answer(a, yes)),
        1 => any::<usize>().prop_map(Step::KillWorker),
        2 => any::<usize>().prop_map(Step::Detach),
        2 => any::<usize>().prop_map(Step::Attach),
        1 => (0_u64..10_000).prop_map(Step::Wait),
    ]
}

impl World {
    pub(super) fn random(&mut self, step: Step, sessions: &mut Vec<u64>, last_session: &mut u64) {
        let pick = |all: &[u64], at: usize| (!all.is_empty()).then(|| all[at % all.len()]);
        match step {
            Step::Connect(peer) => {
                *last_session += 1;
                sessions.push(*last_session);
                self.connect(*last_session, &format!("peer{peer}"));
            }
            Step::Drop(at) => {
                if let Some(session) = pick(sessions, at) {
                    sessions.retain(|s| *s != session);
                    self.event(Event::Disconnected(SessionId(session)));
                }
            }
            Step::Join(at) => {
                if let Some(session) = pick(sessions, at) {
                    self.ask(session, join("x"));
                }
            }
            Step::Transport(at, producing, consuming) => {
                if let Some(session) = pick(sessions, at) {
                    self.ask(session, create(producing, consuming));
                }
            }
            Step::Produce(at, video) => {
                let Some(session) = pick(sessions, at) else { return };
                let Some(peer) = self.room.peers.get(&SessionId(session)) else { return };
                let Some(transport) = peer.transports.keys().next().cloned() else { return };
                let kind = if video { MediaKind::Video } else { MediaKind::Audio };
                self.ask(session, produce(&transport, kind, json!({})));
            }
            Step::CloseProducer(at) => {
                if let Some((id, owner)) = self.a_producer(at) {
                    self.ask(owner.0, Request::CloseProducer(id));
                }
            }
            Step::PauseProducer(at, on) => {
                if let Some((id, owner)) = self.a_producer(at) {
                    let message = if on { Request::PauseProducer(id) } else { Request::ResumeProducer(id) };
                    self.ask(owner.0, message);
                }
            }
            Step::CloseTransport(at) => {
                let all: Vec<_> = self.transports.iter().cloned().collect();
                if !all.is_empty() {
                    let id = &all[at % all.len()];
                    let closed = SiteEvent::TransportClosed(TransportId::new(id.as_str()));
                    self.site_event(self.at[id], closed);
                }
            }
            Step::Answer(at, accepted) => {
                if !self.asks.is_empty() {
                    let at = at % self.asks.len();
                    let (session, ask, ..) = self.asks.remove(at);
                    self.event(Event::Answered { session, ask, accepted });
                }
            }
            Step::Work(count) => (0..count).for_each(|_| {
                self.step();
            }),
            Step::Fail => {
                if let Some((op, what)) = self.work.pop_front() {
                    // Closing does not fail: a worker that does not close is a worker that died.
                    let closes = matches!(
                        what,
                        MediaOp::CloseTransport(_)
                            | MediaOp::CloseProducer(_)
                            | MediaOp::CloseConsumer(_)
                            | MediaOp::CloseDataProducer(_)
                            | MediaOp::CloseDataConsumer(_)
                            | MediaOp::CloseRouter
                    );
                    let result = if closes {
                        self.perform_at(self.work_at[&op], what)
                    } else {
                        Err(MediaFailure::Unavailable("injected".to_owned()))
                    };
                    self.event(Event::MediaDone { op, result });
                }
            }
            Step::KillWorker(at) => {
                let sites: Vec<_> = self.room.sites.keys().copied().collect();
                if !sites.is_empty() {
                    self.kill(sites[at % sites.len()]);
                }
            }
            Step::Detach(at) => {
                if let Some(session) = pick(sessions, at) {
                    self.event(Event::Detached(SessionId(session)));
                }
            }
            Step::Attach(at) => {
                if let Some(session) = pick(sessions, at) {
                    self.event(Event::Attached(SessionId(session)));
                }
            }
            Step::Wait(ms) => {
                self.now += Duration::from_millis(ms);
                self.event(Event::Timeout);
            }
        }
    }

    pub(super) fn a_producer(&self, at: usize) -> Option<(ProducerId, SessionId)> {
        let count = self.room.producers.len();
        if count == 0 {
            return None;
        }
        self.room.producers.get_index(at % count).map(|(id, producer)| (id.clone(), producer.owner))
    }

    /// What must hold once no work is under way.
    pub(super) fn check_settled(&self) {
        assert!(self.room.pending.is_empty());
        let held = self.room.held();
        assert_eq!(held.transports, self.transports.len(), "transports here and in the worker");
        assert_eq!(held.producers, self.producers.len());
        assert_eq!(held.consumers, self.consumers.len());
        let mut reached = BTreeSet::new();
        for (id, consumer) in &self.room.consumers {
            let producer = &self.room.producers[&consumer.producer];
            assert_ne!(producer.owner, consumer.receiver, "nobody receives himself");
            if self.room.peers[&consumer.receiver].old_consumers.contains(id) {
                assert_eq!(producer.old.get(&consumer.receiver), Some(id));
                continue;
            }
            assert!(reached.insert((consumer.producer.clone(), consumer.receiver)), "twice");
            assert!(self.room.peers[&consumer.receiver].consumers.contains(id));
        }
        for (id, producer) in &self.room.producers {
            assert!(self.room.peers[&producer.owner].producers.contains(id));
            for (session, peer) in &self.room.peers {
                let able = peer.joined.is_some() && peer.receive_transport().is_some();
                let refused = matches!(producer.receivers.get(session), Some(Link::Refused));
                if able && *session != producer.owner && !refused {
                    assert!(reached.contains(&(id.clone(), *session)), "{id} does not reach {session:?}");
                }
            }
        }
        for peer in self.room.peers.values() {
            assert_eq!(
                (peer.producers_coming, peer.consumers_coming, peer.transports_coming.len()),
                (0, 0, 0)
            );
            if peer.migration.is_none() {
                assert!(peer.transports.values().all(|transport| transport.site == peer.site));
                assert!(peer.old_data_consumers.is_empty());
                peer.old_consumers.iter().for_each(|old| self.check_replaced(old));
                assert_eq!(peer.site, peer.receiving);
            }
        }
    }

    /// What another takes the place of at the same site ends: when that was accepted, and has had its time.
    fn check_replaced(&self, id: &ConsumerId) {
        let old = &self.room.consumers[id];
        let peer = &self.room.peers[&old.receiver];
        assert_eq!(old.site, peer.receiving);
        let link = self.room.producers[&old.producer].receivers.get(&old.receiver);
        let Some(Link::Consumer(new)) = link else { panic!("nothing takes the place of {id}: {link:?}") };
        assert!(old.nth < self.room.consumers[new].nth);
        let is_asked = peer.asks.values().any(|asked| matches!(asked, Asked::Consumer(of) if of == new));
        assert!(is_asked || self.room.replaced.iter().any(|(_, of)| of == id), "{id} has no end");
    }

    /// Whether somebody has two consumers of one producer at one site, of which one ends soon.
    pub(super) fn somebody_goes_over(&self) -> bool {
        let mut peers = self.room.peers.values();
        peers.any(|peer| peer.old_consumers.iter().any(|old| self.room.consumers[old].site == peer.receiving))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_happens_media_reaches_everyone_once_and_nothing_is_left_behind(
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let mut world = World::open();
        let (mut sessions, mut last_session) = (Vec::new(), 0);
        for step in steps {
            world.random(step, &mut sessions, &mut last_session);
        }
        world.settle();
        // What a worker did not make is asked for again, and now nothing fails.
        while let Some(at) = world.room.again.at {
            world.now = world.now.max(at);
            world.event(Event::Timeout);
            world.settle();
        }
        world.check_settled();
        world.all_leave(sessions);
        world.settle();
        world.check_settled();
        prop_assert_eq!(world.room.held(), Held::default());
        prop_assert!(world.transports.is_empty() && world.producers.is_empty() && world.consumers.is_empty());
        prop_assert!(world.room.poll_timeout().is_some());
        prop_assert!(world.room.sessions.is_empty());
    }
}
