#![expect(clippy::arithmetic_side_effects, reason = "test arithmetic on small numbers")]

use std::time::{Duration, Instant};

use super::*;
use crate::stun::{Class, IntegrityKey, Method, StunBuilder, StunMessage};

const ID: [u8; 12] = [7; 12];

fn tuple(number: u16) -> Tuple {
    Tuple { protocol: Protocol::Udp, local: 1, remote: SocketAddr::from(([127, 0, 0, 1], 1000 + number)) }
}

/// A peer's request, with what a test changes.
struct Request {
    username_fragment: &'static str,
    password: Option<&'static str>,
    use_candidate: bool,
    nomination: Option<u32>,
    controlled: bool,
    priority: bool,
}

const CHECK: Request = Request {
    username_fragment: "ufrag",
    password: Some("password"),
    use_candidate: false,
    nomination: None,
    controlled: false,
    priority: true,
};
const NOMINATE: Request = Request { use_candidate: true, ..CHECK };

impl Request {
    fn bytes(&self) -> Vec<u8> {
        let mut out = [0; 256];
        let mut builder = StunBuilder::new(&mut out, Class::Request, Method::BINDING, &ID);
        builder = builder.username(self.username_fragment, "peer");
        if self.priority {
            builder = builder.priority(1);
        }
        builder = if self.controlled { builder.ice_controlled(5) } else { builder.ice_controlling(5) };
        if self.use_candidate {
            builder = builder.use_candidate();
        }
        if let Some(counter) = self.nomination {
            builder = builder.nomination(counter);
        }
        let len = builder.finish(self.password.map(IntegrityKey::new).as_ref()).unwrap();
        out[..len].to_vec()
    }
}

struct Bed {
    server: IceServer,
    now: Instant,
}

impl Bed {
    fn new() -> Self {
        let mut bed = Self {
            server: IceServer::new("ufrag".into(), "password".into(), DEFAULT_CONSENT_TIMEOUT),
            now: Instant::now(),
        };
        assert_eq!(bed.events(), [IceEvent::UsernameFragmentAdded("ufrag".into())]);
        bed
    }

    fn send(&mut self, request: &Request, tuple: Tuple) -> Option<Vec<u8>> {
        self.send_bytes(&request.bytes(), tuple)
    }

    fn send_bytes(&mut self, bytes: &[u8], tuple: Tuple) -> Option<Vec<u8>> {
        let mut out = [0; 128];
        let message = StunMessage::parse(bytes).unwrap();
        let len = self.server.handle_message(&message, tuple, self.now, &mut out)?;
        Some(out[..len].to_vec())
    }

    /// Sends a request that must be granted.
    fn granted(&mut self, request: &Request, tuple: Tuple) {
        let response = self.send(request, tuple).unwrap();
        let response = StunMessage::parse(&response).unwrap();
        assert_eq!(response.class(), Class::SuccessResponse);
        assert_eq!(response.transaction_id(), &ID);
        assert_eq!(response.xor_mapped_address(), Some(tuple.remote));
        assert!(response.has_fingerprint());
        assert!(response.check_integrity(&IntegrityKey::new(request.password.unwrap())));
    }

    fn refused(&mut self, request: &Request, code: u16) {
        let bytes = request.bytes();
        let response = self.send_bytes(&bytes, tuple(1)).unwrap();
        let response = StunMessage::parse(&response).unwrap();
        assert_eq!(response.class(), Class::ErrorResponse);
        assert_eq!(response.error_code().unwrap().0, code);
        assert!(response.len() <= bytes.len());
        assert_eq!(self.server.state(), IceState::New);
        assert_eq!(self.events(), []);
    }

    fn events(&mut self) -> Vec<IceEvent> {
        std::iter::from_fn(|| self.server.poll_event()).collect()
    }
}

#[test]
fn check_connects_and_nomination_completes() {
    let mut bed = Bed::new();
    bed.granted(&CHECK, tuple(1));
    assert_eq!(
        bed.events(),
        [
            IceEvent::TupleAdded(tuple(1)),
            IceEvent::TupleSelected(tuple(1)),
            IceEvent::StateChanged(IceState::Connected)
        ]
    );
    bed.granted(&CHECK, tuple(2));
    assert_eq!(bed.events(), [IceEvent::TupleAdded(tuple(2))]);
    assert_eq!(bed.server.selected_tuple(), Some(tuple(1)));
    bed.granted(&NOMINATE, tuple(2));
    assert_eq!(
        bed.events(),
        [IceEvent::TupleSelected(tuple(2)), IceEvent::StateChanged(IceState::Completed)]
    );
    bed.granted(&NOMINATE, tuple(2));
    assert_eq!(bed.events(), []);
    assert!(bed.server.is_valid_tuple(&tuple(1)));
    assert!(!bed.server.is_valid_tuple(&tuple(3)));
    assert!(!bed.server.is_valid_tuple(&Tuple { protocol: Protocol::Tcp, ..tuple(1) }));
}

#[test]
fn aggressive_nomination_completes_at_once_and_may_move() {
    let mut bed = Bed::new();
    bed.granted(&NOMINATE, tuple(1));
    assert_eq!(bed.server.state(), IceState::Completed);
    bed.granted(&NOMINATE, tuple(2));
    assert_eq!(bed.server.selected_tuple(), Some(tuple(2)));
    assert_eq!(bed.server.state(), IceState::Completed);
}

#[test]
fn renomination_moves_by_higher_counters_only() {
    let mut bed = Bed::new();
    let renominate = |counter| Request { nomination: Some(counter), ..CHECK };
    bed.granted(&renominate(2), tuple(1));
    assert_eq!(bed.server.state(), IceState::Completed);
    bed.granted(&renominate(1), tuple(2));
    assert_eq!(bed.server.selected_tuple(), Some(tuple(1)));
    bed.granted(&renominate(3), tuple(2));
    assert_eq!(bed.server.selected_tuple(), Some(tuple(2)));
}

#[test]
fn stale_nomination_does_not_complete() {
    let mut bed = Bed::new();
    bed.granted(&CHECK, tuple(1));
    bed.granted(&Request { nomination: Some(0), ..CHECK }, tuple(2));
    assert_eq!(bed.server.state(), IceState::Connected);
    assert_eq!(bed.server.selected_tuple(), Some(tuple(1)));
}

#[test]
fn faulty_requests_are_refused() {
    let mut bed = Bed::new();
    bed.refused(&Request { priority: false, ..CHECK }, 400);
    bed.refused(&Request { password: None, ..CHECK }, 400);
    bed.refused(&Request { password: Some("wrong"), ..CHECK }, 401);
    bed.refused(&Request { username_fragment: "ufra", ..CHECK }, 401);
    bed.refused(&Request { username_fragment: "ufragg", ..CHECK }, 401);
    bed.refused(&Request { controlled: true, ..CHECK }, 487);
    assert_eq!(bed.server.stats().refused, 6);
    assert_eq!(bed.server.stats().requests, 0);
}

#[test]
fn request_without_fingerprint_is_refused() {
    let mut bed = Bed::new();
    let mut bytes = CHECK.bytes();
    bytes.truncate(bytes.len() - 8);
    let length = (bytes.len() - 20) as u16;
    bytes[2..4].copy_from_slice(&length.to_be_bytes());
    let response = bed.send_bytes(&bytes, tuple(1)).unwrap();
    assert_eq!(StunMessage::parse(&response).unwrap().error_code().unwrap().0, 400);
}

#[test]
fn unauthenticated_responses_never_exceed_the_request() {
    let mut bed = Bed::new();
    let mut bytes = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    bytes.extend(ID);
    // An unknown attribute of growing length.
    for words in 0..20_u16 {
        let mut padded = bytes.clone();
        if words > 0 {
            padded.extend([0x7f, 0xff]);
            padded.extend(((words - 1) * 4).to_be_bytes());
            padded.resize(20 + usize::from(words) * 4, 0);
        }
        padded[2..4].copy_from_slice(&(words * 4).to_be_bytes());
        let response = bed.send_bytes(&padded, tuple(1));
        assert!(response.as_ref().is_none_or(|response| response.len() <= padded.len()));
        assert_eq!(response.is_some(), words >= 4);
    }
    assert_eq!(bed.server.stats().suppressed, 4);
    assert_eq!(bed.events(), []);
}

#[test]
fn others_than_requests_are_ignored() {
    let mut bed = Bed::new();
    for class in [Class::Indication, Class::SuccessResponse, Class::ErrorResponse] {
        let mut out = [0; 64];
        let len = StunBuilder::new(&mut out, class, Method::BINDING, &ID).finish(None).unwrap();
        assert_eq!(bed.send_bytes(&out[..len], tuple(1)), None);
    }
    assert_eq!(bed.server.stats().ignored, 3);
}

#[test]
fn tuples_are_bounded_and_the_selected_one_stays() {
    let mut bed = Bed::new();
    for number in 0..20 {
        bed.granted(&CHECK, tuple(number));
    }
    assert_eq!(bed.server.tuples().len(), MAX_TUPLES);
    assert_eq!(bed.server.selected_tuple(), Some(tuple(0)));
    assert!(bed.server.is_valid_tuple(&tuple(0)));
    let expected: Vec<Tuple> = [0, 13, 14, 15, 16, 17, 18, 19].map(tuple).to_vec();
    assert_eq!(bed.server.tuples(), expected);
    let events = bed.events();
    let added = events.iter().filter(|event| matches!(event, IceEvent::TupleAdded(_))).count();
    let removed = events.iter().filter(|event| matches!(event, IceEvent::TupleRemoved(_))).count();
    assert_eq!((added, removed), (20, 12));
}

#[test]
fn consent_expires_and_comes_back() {
    let mut bed = Bed::new();
    bed.granted(&NOMINATE, tuple(1));
    bed.granted(&CHECK, tuple(2));
    bed.events();
    let deadline = bed.server.next_timeout().unwrap();
    assert_eq!(deadline, bed.now + DEFAULT_CONSENT_TIMEOUT);
    bed.now += Duration::from_secs(20);
    bed.granted(&CHECK, tuple(1));
    bed.server.handle_timeout(deadline);
    assert_eq!(bed.server.state(), IceState::Completed);
    bed.now = bed.server.next_timeout().unwrap();
    bed.server.handle_timeout(bed.now);
    assert_eq!(
        bed.events(),
        [
            IceEvent::TupleRemoved(tuple(1)),
            IceEvent::TupleRemoved(tuple(2)),
            IceEvent::StateChanged(IceState::Disconnected)
        ]
    );
    assert_eq!(bed.server.next_timeout(), None);
    assert_eq!(bed.server.selected_tuple(), None);
    bed.granted(&NOMINATE, tuple(3));
    assert_eq!(bed.server.state(), IceState::Completed);
    assert!(bed.server.next_timeout().is_some());
}

#[test]
fn consent_timeout_is_clamped_and_zero_disables_it() {
    for (asked, given) in [(1, 10), (10, 10), (30, 30), (600, 60)] {
        let mut server = IceServer::new("ufrag".into(), "password".into(), Duration::from_secs(asked));
        let now = Instant::now();
        let bytes = CHECK.bytes();
        server.handle_message(&StunMessage::parse(&bytes).unwrap(), tuple(1), now, &mut [0; 128]);
        assert_eq!(server.next_timeout(), Some(now + Duration::from_secs(given)));
    }
    let mut server = IceServer::new("ufrag".into(), "password".into(), Duration::ZERO);
    let bytes = CHECK.bytes();
    server.handle_message(&StunMessage::parse(&bytes).unwrap(), tuple(1), Instant::now(), &mut [0; 128]);
    assert_eq!(server.state(), IceState::Connected);
    assert_eq!(server.next_timeout(), None);
}

#[test]
fn old_credentials_are_good_until_the_new_are_used() {
    let mut bed = Bed::new();
    let new = Request { username_fragment: "ufrag2", password: Some("password2"), ..CHECK };
    bed.granted(&NOMINATE, tuple(1));
    bed.events();
    bed.now += Duration::from_secs(10);
    bed.server.restart("ufrag2".into(), "password2".into(), bed.now);
    assert_eq!(bed.events(), [IceEvent::UsernameFragmentAdded("ufrag2".into())]);
    assert_eq!(bed.server.next_timeout(), Some(bed.now + DEFAULT_CONSENT_TIMEOUT));
    assert_eq!((bed.server.username_fragment(), bed.server.password()), ("ufrag2", "password2"));
    bed.granted(&CHECK, tuple(1));
    bed.granted(&new, tuple(2));
    assert_eq!(
        bed.events(),
        [IceEvent::UsernameFragmentRemoved("ufrag".into()), IceEvent::TupleAdded(tuple(2))]
    );
    let response = bed.send(&CHECK, tuple(1)).unwrap();
    assert_eq!(StunMessage::parse(&response).unwrap().error_code().unwrap().0, 401);
    assert_eq!(bed.server.selected_tuple(), Some(tuple(1)));
}

#[test]
fn second_restart_drops_the_oldest_credentials() {
    let mut bed = Bed::new();
    bed.server.restart("ufrag2".into(), "password2".into(), bed.now);
    bed.server.restart("ufrag3".into(), "password3".into(), bed.now);
    assert_eq!(
        bed.events(),
        [
            IceEvent::UsernameFragmentAdded("ufrag2".into()),
            IceEvent::UsernameFragmentRemoved("ufrag".into()),
            IceEvent::UsernameFragmentAdded("ufrag3".into())
        ]
    );
    bed.granted(&Request { username_fragment: "ufrag2", password: Some("password2"), ..CHECK }, tuple(1));
    assert!(bed.send(&CHECK, tuple(1)).is_some());
}

#[test]
fn restart_resets_the_renomination_counter() {
    let mut bed = Bed::new();
    bed.granted(&Request { nomination: Some(9), ..CHECK }, tuple(1));
    bed.server.restart("ufrag2".into(), "password2".into(), bed.now);
    let again =
        Request { username_fragment: "ufrag2", password: Some("password2"), nomination: Some(1), ..CHECK };
    bed.granted(&again, tuple(2));
    assert_eq!(bed.server.selected_tuple(), Some(tuple(2)));
}

#[test]
fn removed_selected_tuple_is_replaced_by_the_newest() {
    let mut bed = Bed::new();
    bed.granted(&NOMINATE, tuple(1));
    bed.granted(&CHECK, tuple(2));
    bed.granted(&CHECK, tuple(3));
    bed.events();
    bed.server.remove_tuple(&tuple(9), bed.now);
    assert_eq!(bed.events(), []);
    bed.server.remove_tuple(&tuple(1), bed.now);
    assert_eq!(bed.events(), [IceEvent::TupleRemoved(tuple(1)), IceEvent::TupleSelected(tuple(3))]);
    assert_eq!(bed.server.state(), IceState::Completed);
    bed.server.remove_tuple(&tuple(2), bed.now);
    bed.server.remove_tuple(&tuple(3), bed.now);
    assert_eq!(
        bed.events(),
        [
            IceEvent::TupleRemoved(tuple(2)),
            IceEvent::TupleRemoved(tuple(3)),
            IceEvent::StateChanged(IceState::Disconnected)
        ]
    );
    assert_eq!(bed.server.next_timeout(), None);
}

#[test]
fn close_gives_everything_back() {
    let mut bed = Bed::new();
    bed.granted(&NOMINATE, tuple(1));
    bed.server.restart("ufrag2".into(), "password2".into(), bed.now);
    bed.events();
    bed.server.close();
    assert_eq!(
        bed.events(),
        [
            IceEvent::TupleRemoved(tuple(1)),
            IceEvent::UsernameFragmentRemoved("ufrag".into()),
            IceEvent::UsernameFragmentRemoved("ufrag2".into())
        ]
    );
}
