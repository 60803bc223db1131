//! The ICE lite server: requests right and wrong from several addresses, restarts, timeouts. Its events and its state
//! tell the same story, and strangers get no more than they sent (RFC 8445, RFC 7675).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rtc::ice::{IceEvent, IceServer, IceState, MAX_TUPLES, Protocol, Tuple};
use rtc::stun::{Class, IntegrityKey, Method, StunBuilder, StunMessage};

use crate::input::Input;

/// A story of requests.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut now = Instant::now();
    let consent = Duration::from_secs(u64::from(input.u8()));
    let mut credentials = vec![("frag0".to_owned(), "pass0".to_owned())];
    let mut server = IceServer::new("frag0".into(), "pass0".into(), consent);
    let mut story = Story::default();
    story.hear(&mut server);
    for _ in 0..200 {
        if input.is_empty() {
            break;
        }
        let step = input.u8();
        let tuple = tuple_of(input.below(24));
        match step & 7 {
            6 => {
                let next = credentials.len();
                credentials.push((format!("frag{next}"), format!("pass{next}")));
                server.restart(format!("frag{next}"), format!("pass{next}"), now);
            }
            7 => {
                now += Duration::from_secs(u64::from(step >> 3));
                server.handle_timeout(now);
            }
            5 => server.remove_tuple(&tuple, now),
            4 => {
                let bytes = input.short();
                if let Ok(message) = StunMessage::parse(bytes) {
                    let mut out = [0; 256];
                    let before = server.stats().requests;
                    let answer = server.handle_message(&message, tuple, now, &mut out);
                    let granted = server.stats().requests > before;
                    assert!(granted || answer.is_none_or(|len| len <= bytes.len()), "an amplified answer");
                }
            }
            _ => {
                let back = input.below(3).min(credentials.len() - 1);
                let (fragment, password) = &credentials[credentials.len() - 1 - back];
                let flags = input.u8();
                let mut out = [0; 256];
                let mut builder = StunBuilder::new(&mut out, Class::Request, Method::BINDING, &[step; 12])
                    .username(fragment, "peer")
                    .priority(1);
                if flags & 1 != 0 {
                    builder = builder.use_candidate();
                }
                if flags & 2 != 0 {
                    builder = builder.nomination(u32::from(flags >> 4));
                }
                builder = if flags & 4 != 0 { builder.ice_controlled(1) } else { builder.ice_controlling(1) };
                let key = IntegrityKey::new(if flags & 8 != 0 { "wrong" } else { password });
                let len = builder.finish(Some(&key)).expect("room");
                let message = StunMessage::parse(&out[..len]).expect("a request");
                let mut answer = [0; 128];
                let before = server.stats().requests;
                let answered = server.handle_message(&message, tuple, now, &mut answer);
                let granted = server.stats().requests > before;
                // The newest credentials are always good, the ones before until the newest are used.
                let right = flags & 12 == 0;
                assert!(!granted || (right && back <= 1));
                assert!(granted || !right || back > 0, "a right request was refused");
                if granted {
                    let answer = StunMessage::parse(&answer[..answered.expect("an answer")]).expect("STUN");
                    assert_eq!(answer.class(), Class::SuccessResponse);
                    assert_eq!(answer.xor_mapped_address(), Some(tuple.remote));
                    assert!(answer.check_integrity(&key) && server.is_valid_tuple(&tuple));
                }
            }
        }
        story.hear(&mut server);
        story.check_state(&server);
    }
    server.close();
    story.hear(&mut server);
    assert!(
        story.tuples.is_empty() && story.fragments.is_empty(),
        "a close leaves nothing in the owner's tables"
    );
}

fn tuple_of(index: usize) -> Tuple {
    let port = 1000 + u16::try_from(index / 2).unwrap_or(0);
    Tuple {
        protocol: if index.is_multiple_of(2) { Protocol::Udp } else { Protocol::Tcp },
        local: index % 2,
        remote: SocketAddr::from(([127, 0, 0, 1], port)),
    }
}

/// What the owner of a server knows by its events.
#[derive(Default)]
struct Story {
    tuples: BTreeSet<String>,
    fragments: BTreeSet<String>,
    selected: Option<Tuple>,
    state: Option<IceState>,
}

impl Story {
    fn hear(&mut self, server: &mut IceServer) {
        while let Some(event) = server.poll_event() {
            match event {
                IceEvent::UsernameFragmentAdded(name) => assert!(self.fragments.insert(name), "added twice"),
                IceEvent::UsernameFragmentRemoved(name) => {
                    assert!(self.fragments.remove(&name), "removed twice")
                }
                IceEvent::TupleAdded(tuple) => {
                    assert!(self.tuples.insert(format!("{tuple:?}")), "added twice")
                }
                IceEvent::TupleRemoved(tuple) => {
                    assert!(self.tuples.remove(&format!("{tuple:?}")), "removed twice")
                }
                IceEvent::TupleSelected(tuple) => self.selected = Some(tuple),
                IceEvent::StateChanged(state) => {
                    assert_ne!(self.state, Some(state), "no change");
                    self.state = Some(state);
                }
            }
        }
        assert!(self.fragments.len() <= 2, "the current credentials, and those before");
        let known: BTreeSet<String> = server.tuples().iter().map(|tuple| format!("{tuple:?}")).collect();
        assert_eq!(self.tuples, known);
        assert!(known.len() <= MAX_TUPLES);
        if let Some(selected) = server.selected_tuple() {
            assert!(server.tuples().contains(&selected), "the selected tuple is a valid one");
            assert_eq!(self.selected, Some(selected));
        }
    }

    fn check_state(&self, server: &IceServer) {
        let connected = matches!(server.state(), IceState::Connected | IceState::Completed);
        assert_eq!(connected, server.selected_tuple().is_some());
    }
}
