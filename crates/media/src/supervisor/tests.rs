use std::num::NonZeroUsize;

use crate::settings::WorkerSettings;

use super::*;

fn settings(listen: &[(&str, Option<&str>)], workers: usize) -> PoolSettings {
    PoolSettings {
        worker: WorkerSettings::new("worker"),
        workers: NonZeroUsize::new(workers),
        listen: listen
            .iter()
            .map(|(ip, announced)| ListenAddress {
                ip: ip.parse().unwrap(),
                announced_address: announced.map(str::to_owned),
            })
            .collect(),
        base_port: Some(40_000),
        tcp: true,
    }
}

#[test]
fn every_worker_has_ports_of_its_own_on_every_address() {
    let settings =
        settings(&[("192.0.2.1", Some("a.example")), ("2001:db8::1", None), ("192.0.2.1", None)], 3);
    let mut bound = std::collections::HashSet::new();
    for index in 0..3 {
        let infos = settings.listen_infos(index).unwrap();
        assert_eq!(infos.len(), 6);
        assert_eq!(infos[0].announced_address.as_deref(), Some("a.example"));
        for info in infos {
            assert!(bound.insert((info.protocol, info.ip, info.port)), "bound twice: {info:?}");
        }
    }
}

#[test]
fn ports_beyond_the_last_are_an_error() {
    let settings = PoolSettings { base_port: Some(65_535), ..settings(&[("127.0.0.1", None)], 2) };
    assert!(settings.listen_infos(0).is_ok());
    assert!(matches!(settings.listen_infos(1), Err(PoolError::Ports { base: 65_535, workers: 2 })));
}

#[test]
fn the_least_loaded_worker_is_chosen_and_equals_take_turns() {
    let none = PlacementHint::default();
    assert_eq!(choose_index(&[], none, 0), None);
    assert_eq!(choose_index(&[(0, 5), (1, 2), (2, 9)], none, 7), Some(1));
    let turns = [0, 1, 2, 3].map(|turn| choose_index(&[(0, 4), (1, 4), (2, 5)], none, turn));
    assert_eq!(turns, [Some(0), Some(1), Some(0), Some(1)]);
}

#[test]
fn hints_are_followed_while_they_make_sense() {
    let avoid = PlacementHint { avoid: Some(1), prefer: None };
    assert_eq!(choose_index(&[(0, 5), (1, 2)], avoid, 0), Some(0));
    assert_eq!(choose_index(&[(1, 2)], avoid, 0), Some(1));
    let prefer = PlacementHint { avoid: None, prefer: Some(0) };
    assert_eq!(choose_index(&[(0, 60), (1, 2)], prefer, 0), Some(0));
    assert_eq!(choose_index(&[(0, 600), (1, 2)], prefer, 0), Some(1));
    assert_eq!(choose_index(&[(2, 600)], prefer, 0), Some(2));
}

#[test]
fn a_worker_that_is_seen_to_work_hard_counts_as_loaded() {
    let two = ObjectCounts { consumers: 2, ..ObjectCounts::default() };
    let many = ObjectCounts { consumers: 500, ..ObjectCounts::default() };
    assert!(load(two, 900) > load(many, 100));
    assert!(load(two, 0) < load(many, 0));
    let cpu = watch::Sender::new(0);
    for _ in 0..8 {
        measure(&cpu, Duration::from_secs(1), Duration::from_millis(900));
    }
    assert!((890..=900).contains(&*cpu.borrow()));
}
