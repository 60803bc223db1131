//! Bytes that nobody should send: the worker counts them, answers nothing larger, and goes on serving the others.

use std::cell::RefCell;
use std::net::SocketAddr;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rtc::stun::{Class, Method as StunMethod, StunBuilder};
use worker_protocol::wire::request::{self, Method};
use worker_protocol::wire::rtp_parameters::MediaKind;
use worker_protocol::wire::{message, transport, worker};

use crate::harness::*;

/// First bytes of all protocols that share a port, and some of none.
fn datagram() -> impl Strategy<Value = Vec<u8>> {
    let first = prop::sample::select(vec![0_u8, 1, 20, 22, 23, 63, 64, 128, 129, 144, 160, 191, 200, 255]);
    let second = prop::sample::select(vec![0_u8, 1, 96, 97, 200, 201, 205, 206, 207, 224]);
    (first, second, prop::collection::vec(any::<u8>(), 0..200)).prop_map(|(first, second, rest)| {
        let mut datagram = vec![first, second];
        datagram.extend_from_slice(&rest);
        datagram
    })
}

/// A valid packet with some bytes changed.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let valid = vp8_packet(111, 96, 7, 1000, 3, true);
    let changes = prop::collection::vec((0..valid.len(), any::<u8>()), 1..6);
    (changes, 0..valid.len()).prop_map(move |(changes, cut)| {
        let mut packet = valid.clone();
        for (position, byte) in changes {
            packet[position] = byte;
        }
        packet.truncate(packet.len() - cut / 4);
        packet
    })
}

#[test]
fn arbitrary_datagrams_leave_a_call_unbroken() {
    let mut harness = Harness::new();
    harness.router("router");
    let (publisher, subscriber, stranger) = (socket(), socket(), socket());
    let publisher_at = harness.plain_transport("router", "in", true);
    harness.plain_transport("router", "out", false);
    harness.connect_plain("out", subscriber.local_addr().unwrap());
    harness.produce("in", "producer", MediaKind::Video, parameters(vec![vp8(96)], vec![encoding(111, None)]));
    let sink = parameters(vec![vp8(97)], vec![encoding(222, None)]);
    harness.consume("out", "consumer", "producer", MediaKind::Video, sink, 1);
    let mut seq = 0;
    let mut check = |harness: &mut Harness| {
        while receive(&subscriber).is_some() {}
        seq += 1;
        // A mutated packet may have moved the stream's numbering; a sender that goes on is followed again.
        harness.wait("the bystander's packet", |_| {
            publisher
                .send_to(&vp8_packet(111, 96, seq, u32::from(seq) * 3000, seq, true), publisher_at)
                .unwrap();
            seq += 1;
            receive(&subscriber)
        });
    };
    check(&mut harness);
    let harness = RefCell::new(harness);
    let mut runner = TestRunner::new(Config { cases: 400, ..Config::default() });
    runner
        .run(&prop_oneof![datagram(), mutated()], |datagram| {
            // From the peer itself, and from somebody else.
            publisher.send_to(&datagram, publisher_at).unwrap();
            stranger.send_to(&datagram, publisher_at).unwrap();
            harness.borrow_mut().turn();
            Ok(())
        })
        .unwrap();
    let mut harness = harness.into_inner();
    check(&mut harness);
    assert!(harness.counter("foreign_datagrams") > 0 && harness.counter("unknown_datagrams") > 0);
}

#[test]
fn strangers_get_no_more_than_they_send() {
    let mut harness = Harness::new();
    let infos = vec![listen_info(transport::Protocol::Udp)];
    let body = worker::CreateWebRtcServerRequest {
        web_rtc_server_id: "server".to_owned(),
        listen_infos: Some(infos),
    };
    let body = request::Body::WorkerCreateWebRtcServerRequest(Box::new(body));
    harness.request(Method::WorkerCreateWebRtcServer, "", Some(body));
    let entry = harness.worker.web_rtc_servers.iter().next().unwrap().1.entries[0].socket;
    let at: SocketAddr = harness.worker.sockets.local(entry);
    let stranger = socket();
    let harness = RefCell::new(harness);
    let mut runner = TestRunner::new(Config { cases: 200, ..Config::default() });
    runner
        .run(&datagram(), |datagram| {
            stranger.send_to(&datagram, at).unwrap();
            harness.borrow_mut().turn();
            let answered: usize = std::iter::from_fn(|| receive(&stranger)).map(|answer| answer.len()).sum();
            prop_assert!(answered <= datagram.len());
            Ok(())
        })
        .unwrap();
    let mut harness = harness.into_inner();
    // A well-formed request for nobody.
    let mut request = [0; 128];
    let len = StunBuilder::new(&mut request, Class::Request, StunMethod::BINDING, &[1; 12])
        .username("nobody", "stranger")
        .finish(None)
        .unwrap();
    stranger.send_to(&request[..len], at).unwrap();
    harness.wait("the request to be counted", |harness| {
        (harness.counter("stun_unknown_username") > 0).then_some(())
    });
    assert!(receive(&stranger).is_none());
}

#[test]
fn arbitrary_channel_messages_are_survived() {
    let mut harness = Harness::new();
    harness.router("router");
    let harness = RefCell::new(harness);
    let mut runner = TestRunner::new(Config { cases: 300, ..Config::default() });
    let mut valid = Vec::new();
    let body =
        request::Request { id: 77, method: Method::RouterDump, handler_id: "router".to_owned(), body: None };
    let data = message::Body::Request(Box::new(body));
    worker_protocol::framing::Encoder::default().append(message::Message { data }, &mut valid);
    let valid = valid.split_off(4);
    let mutation = prop::collection::vec((0..valid.len(), any::<u8>()), 0..8);
    runner
        .run(&(mutation, prop::collection::vec(any::<u8>(), 0..300)), |(changes, arbitrary)| {
            let mut bytes = valid.clone();
            for (position, byte) in changes {
                bytes[position] = byte;
            }
            let now = std::time::Instant::now();
            let worker = &mut harness.borrow_mut().worker;
            worker.handle_message(&bytes, now);
            worker.handle_message(&arbitrary, now);
            worker.outbox.pending.clear();
            Ok(())
        })
        .unwrap();
    let mut harness = harness.into_inner();
    assert!(harness.counter("channel_malformed") > 0);
    assert!(harness.request(Method::RouterDump, "router", None).is_some());
}

/// A video Producer on `in` and a Consumer of it, with SSRC 222 and RTX SSRC 223, on `out`.
fn one_consumer(harness: &mut Harness) {
    harness.router("router");
    harness.plain_transport("router", "in", true);
    harness.plain_transport("router", "out", false);
    harness.produce("in", "producer", MediaKind::Video, parameters(vec![vp8(96)], vec![encoding(111, None)]));
    let sink = parameters(vec![vp8(97), rtx(98, 97)], vec![encoding(222, Some(223))]);
    harness.consume("out", "consumer", "producer", MediaKind::Video, sink, 1);
}

#[test]
fn an_ssrc_goes_out_for_one_stream_only() {
    let mut harness = Harness::new();
    one_consumer(&mut harness);
    for (ssrc, rtx_ssrc) in [(222, 300), (223, 300), (300, 222), (300, 223), (300, 300)] {
        let sink = parameters(vec![vp8(97), rtx(98, 97)], vec![encoding(ssrc, Some(rtx_ssrc))]);
        let error = harness.try_consume("out", "second", "producer", MediaKind::Video, sink, 1).unwrap_err();
        assert!(error.starts_with("TypeError"), "{error}");
    }
    assert_eq!(harness.worker.consumers.len(), 1);
    let sink = parameters(vec![vp8(97), rtx(98, 97)], vec![encoding(300, Some(301))]);
    harness.consume("out", "second", "producer", MediaKind::Video, sink, 1);
}

#[test]
fn what_peers_cause_is_not_piled_up_for_a_driver_that_does_not_read() {
    let mut harness = Harness::new();
    one_consumer(&mut harness);
    let consumer = harness.worker.consumers.iter().next().unwrap().0;
    harness.worker.outbox.pending.resize(::worker::outbox::TALK_LIMIT + 1, 0);
    harness.worker.notify_consumer_score(consumer);
    harness.worker.notify_consumer_layers(consumer);
    assert_eq!(harness.worker.outbox.dropped_talk, 2);
    assert_eq!(harness.worker.outbox.pending.len(), ::worker::outbox::TALK_LIMIT + 1);
    harness.worker.outbox.pending.clear();
}
