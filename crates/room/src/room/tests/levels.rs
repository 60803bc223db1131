//! What the media side measures, told to whom it is about: speakers and bandwidth.

use super::*;
use crate::event::Volume;

#[test]
fn the_loudest_joined_peer_is_the_active_speaker_and_changes_are_told_once() {
    let mut world = World::open();
    let ann = world.peer(1, "ann");
    world.peer(2, "bob");
    let producer = world.produce(1, &ann, MediaKind::Audio);
    world.told(2);
    let volumes = vec![Volume { producer, dbov: -30 }];
    world.tell(SiteEvent::Volumes(volumes.clone()));
    world.tell(SiteEvent::Volumes(volumes));
    let speaker = (PeerId::parse("ann").expect("id"), -30);
    assert_eq!(world.told(2), [Notification::Speakers(vec![speaker])]);
    world.event(Event::Disconnected(SessionId(1)));
    assert!(world.told(2).contains(&Notification::Speakers(Vec::new())));
}

#[test]
fn a_peer_with_two_microphones_speaks_once() {
    let mut world = World::open();
    let (ann, bob) = (world.peer(1, "ann"), world.peer(2, "bob"));
    let producers = [(1, &ann, -20), (2, &bob, -25), (1, &ann, -30)];
    let volumes = producers.map(|(session, transport, dbov)| Volume {
        producer: world.produce(session, transport, MediaKind::Audio),
        dbov,
    });
    world.told(1);
    world.tell(SiteEvent::Volumes(volumes.to_vec()));
    let of = |name: &str, dbov| (PeerId::parse(name).expect("id"), dbov);
    assert_eq!(world.told(1), [Notification::Speakers(vec![of("ann", -20), of("bob", -25)])]);
}

#[test]
fn bandwidth_is_told_to_the_peer_whose_transport_it_is_about() {
    let mut world = World::open();
    let ann = world.peer(1, "ann");
    world.peer(2, "bob");
    world.told(1);
    world.told(2);
    let bandwidth = DownlinkBandwidth { desired: 3, effective_desired: 2, available: 1 };
    world.tell(SiteEvent::DownlinkBandwidth(ann, bandwidth));
    world.tell(SiteEvent::DownlinkBandwidth(TransportId::new("gone"), bandwidth));
    assert_eq!(world.told(1), [Notification::DownlinkBandwidth(bandwidth)]);
    assert!(world.told(2).is_empty());
}
