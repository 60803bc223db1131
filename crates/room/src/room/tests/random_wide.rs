//! Whatever happens and fails at many sites, in any order between them: everyone is reached once, at one place, and nothing is
//! left behind.

use proptest::prelude::*;

use super::random::{Step, calm_step};
use super::wide::room_of;
use super::*;

#[derive(Debug, Clone)]
pub(super) enum WideStep {
    Any(Step),
    From(u64, usize),
    ProduceData(usize),
    Busy(usize, bool),
    Drain(usize, bool),
    /// A peer makes what a migration takes, as far as there is something to do.
    Migrate(usize),
    Migrated(usize),
    /// So many pieces of work, each at one of the sites that have some.
    Work(Vec<usize>),
}

pub(super) fn wide_step() -> impl Strategy<Value = WideStep> {
    prop_oneof![
        8 => calm_step().prop_map(WideStep::Any),
        3 => (0_u64..8, 0_usize..3).prop_map(|(peer, region)| WideStep::From(peer, region)),
        1 => any::<usize>().prop_map(WideStep::ProduceData),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(site, busy)| WideStep::Busy(site, busy)),
        2 => (any::<usize>(), prop::bool::weighted(0.7)).prop_map(|(site, drains)| WideStep::Drain(site, drains)),
        4 => any::<usize>().prop_map(WideStep::Migrate),
        3 => any::<usize>().prop_map(WideStep::Migrated),
        8 => proptest::collection::vec(any::<usize>(), 1..12).prop_map(WideStep::Work),
    ]
}

impl World {
    pub(super) fn random_wide(&mut self, step: WideStep, sessions: &mut Vec<u64>, last_session: &mut u64) {
        match step {
            WideStep::Any(step) => self.random(step, sessions, last_session),
            WideStep::From(peer, region) => {
                *last_session += 1;
                sessions.push(*last_session);
                self.connect_from(*last_session, &format!("peer{peer}"), Some(["eu", "us", "asia"][region]));
                for message in [create(true, false), create(false, true), join("x")] {
                    self.ask(*last_session, message);
                }
            }
            WideStep::ProduceData(at) => {
                let Some(peer) = (!sessions.is_empty()).then(|| sessions[at % sessions.len()]) else {
                    return;
                };
                let Some(held) = self.room.peers.get(&SessionId(peer)) else { return };
                let Some(transport) = held.data_transports.first().cloned() else { return };
                self.ask(peer, produce_data(&transport, "chat"));
            }
            WideStep::Busy(at, busy) => {
                let sites: Vec<_> = self.room.sites.keys().copied().collect();
                if !sites.is_empty() {
                    self.site_event(sites[at % sites.len()], SiteEvent::Busy(busy));
                }
            }
            WideStep::Drain(at, drains) => {
                let sites: Vec<_> = self.room.sites.keys().copied().collect();
                if !sites.is_empty() {
                    self.site_event(sites[at % sites.len()], SiteEvent::Draining(drains));
                }
            }
            WideStep::Migrate(at) => self.migrate(at),
            WideStep::Migrated(at) => {
                let migrating = self.room.peers.iter().filter(|(_, peer)| peer.migration.is_some());
                let migrating: Vec<_> = migrating.map(|(session, _)| session.0).collect();
                // Now and then one says so that was never asked.
                if let Some(session) = migrating.get(at % (migrating.len() + 1)).or(sessions.first()) {
                    self.ask(*session, Request::Migrated);
                }
            }
            WideStep::Work(sites) => sites.into_iter().for_each(|site| {
                self.step_at(site);
            }),
        }
    }

    /// One step of one of those who migrate: transports, else what is produced anew.
    pub(super) fn migrate(&mut self, at: usize) {
        let migrating = self.room.peers.iter().filter(|(_, peer)| peer.migration.is_some());
        let migrating: Vec<_> = migrating.map(|(session, _)| *session).collect();
        let Some(session) = (!migrating.is_empty()).then(|| migrating[at % migrating.len()]) else { return };
        let peer = &self.room.peers[&session];
        let here = |(_, transport): &(&TransportId, &Transport)| transport.site == peer.site;
        let sends = peer.transports.iter().filter(here).find(|(_, transport)| transport.direction.sends());
        let sends = sends.map(|(id, _)| id.clone());
        let receives =
            peer.transports.iter().filter(here).any(|(_, transport)| transport.direction.receives());
        let old: Vec<_> =
            peer.producers.iter().filter(|id| self.room.producers[*id].site != peer.site).collect();
        match (sends, old.get(at % old.len().max(1))) {
            (Some(transport), Some(old)) if receives || at.is_multiple_of(2) => {
                let (rtp_parameters, app_data) = (Box::default(), json!({}));
                let (kind, replaces) = (self.room.producers[*old].kind, Some((*old).clone()));
                let message = Request::Produce { transport, kind, rtp_parameters, app_data, replaces };
                self.ask(session.0, message);
            }
            (None, _) if at.is_multiple_of(2) => {
                self.ask(session.0, create(true, false));
            }
            _ => {
                self.ask(session.0, create(false, true));
            }
        }
    }

    /// Lets time pass until nobody migrates any more, nor has anything twice. Each is at one place then, and at none that
    /// drains.
    pub(super) fn settle_migrations(&mut self, order: &mut impl Iterator<Item = usize>) {
        for _ in 0..100 {
            for (session, ask, ..) in std::mem::take(&mut self.asks) {
                self.event(Event::Answered { session, ask, accepted: true });
            }
            while self.step_at(order.next().expect("endless")) {
                self.check_always();
            }
            let is_late = self.room.migrate_at.is_some_and(|at| at <= self.now);
            let stays = |peer: &Peer| !self.room.is_draining(peer.site);
            let all_stay = self.room.held().migrating == 0 && self.room.peers.values().all(stays);
            if all_stay && !is_late && !self.somebody_goes_over() {
                break;
            }
            self.now += Duration::from_millis(500);
            self.event(Event::Timeout);
        }
        assert_eq!(self.room.held().migrating, 0);
        assert!(!self.somebody_goes_over());
        for (session, peer) in &self.room.peers {
            assert!(!self.room.is_draining(peer.site), "{session:?} is where it cannot stay");
        }
    }

    pub(super) fn check_data_settled(&self) {
        let mut reached = BTreeSet::new();
        for (id, consumer) in &self.room.data_consumers {
            if self.room.peers[&consumer.receiver].old_data_consumers.contains(id) {
                continue;
            }
            assert!(reached.insert((consumer.producer.clone(), consumer.receiver)), "twice");
        }
        assert_eq!(self.room.data_consumers.len(), self.data_consumers.len());
        for (id, producer) in &self.room.data_producers {
            for (session, peer) in &self.room.peers {
                let able = peer.joined.is_some() && peer.data_receive_transport().is_some();
                let refused = producer.receivers.get(session) == Some(&Link::Refused);
                if able && *session != producer.owner && !refused {
                    assert!(reached.contains(&(id.clone(), *session)), "{id} does not reach {session:?}");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn whatever_happens_at_many_sites_everyone_is_reached_once_and_nothing_is_left_behind(
        steps in proptest::collection::vec(wide_step(), 1..100),
        order in proptest::collection::vec(any::<usize>(), 1..40),
        peers_per_router in 1_usize..3,
    ) {
        let mut world = room_of(peers_per_router);
        let (mut sessions, mut last_session) = (Vec::new(), 0);
        for step in steps {
            world.random_wide(step, &mut sessions, &mut last_session);
            world.check_always();
        }
        let mut order = order.into_iter().cycle();
        while world.step_at(order.next().expect("endless")) {
            world.check_always();
        }
        world.check_settled();
        world.check_data_settled();
        world.check_pipes();
        world.settle_migrations(&mut order);
        world.check_settled();
        world.check_data_settled();
        world.check_pipes();
        world.all_leave(sessions);
        while world.step_at(order.next().expect("endless")) {}
        world.check_settled();
        world.check_pipes();
        prop_assert_eq!(world.room.held(), Held::default());
        prop_assert!(world.transports.is_empty() && world.ends.is_empty() && world.copies.is_empty());
        prop_assert!(world.senders.is_empty() && world.consumers.is_empty() && world.producers.is_empty());
        prop_assert!(world.room.sites.len() <= 1);
    }

    #[test]
    fn whatever_fails_at_many_sites_nothing_is_left_behind(
        steps in proptest::collection::vec((wide_step(), prop::bool::weighted(0.2)), 1..80),
    ) {
        let mut world = room_of(1);
        let (mut sessions, mut last_session) = (Vec::new(), 0);
        for (step, fail) in steps {
            world.random_wide(step, &mut sessions, &mut last_session);
            if fail {
                world.random(Step::Fail, &mut sessions, &mut last_session);
            }
            world.check_always();
        }
        world.settle();
        world.check_pipes();
        world.settle_migrations(&mut std::iter::repeat(0));
        world.check_pipes();
        world.all_leave(sessions);
        world.settle();
        prop_assert_eq!(world.room.held(), Held::default());
        prop_assert!(world.room.pending.is_empty());
        prop_assert!(world.transports.is_empty() && world.ends.is_empty() && world.copies.is_empty());
        prop_assert!(world.senders.is_empty() && world.consumers.is_empty() && world.producers.is_empty());
    }
}
