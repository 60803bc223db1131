//! Damaged requests on the worker's channel: each is answered or discarded, the worker goes on.

use std::time::Duration;

use anyhow::Result;
use bench::channel::Worker;
use bench::endpoint::Identity;
use bench::hostile::channel::{Requests, framed};
use bench::hostile::mutate::Mutator;
use bench::router::{Media, Router};
use rtc::srtp::Profile;
use worker_protocol::framing::{Encoder, MAX_MESSAGE_BYTES};
use worker_protocol::wire::message::{self, Message};
use worker_protocol::wire::request::{self, Method, Request};
use worker_protocol::wire::response;

use crate::support::{PATIENCE, VIDEO, seed, worker};

/// Ids of requests that nobody waits for: far above those that the driver counts up.
const STRAY_ID: u32 = 0xf000_0000;

/// The worker answers a valid request, and answers it rightly.
fn still_serves(worker: &mut Worker) -> Result<()> {
    let pid = worker.pid();
    match worker.request(Method::WorkerDump, "", None)? {
        Some(response::Body::WorkerDumpResponse(dump)) => assert_eq!(dump.pid, pid),
        other => panic!("worker.dump answered {other:?}"),
    }
    Ok(())
}

/// A router with one of everything; every request that made it becomes a template.
fn router_and_templates() -> Result<(Router, Requests)> {
    let mut requests = Requests::default();
    let mut router = Router::new(worker(&[])?, true)?;
    requests.learn(router.worker.last_request());
    let identity = Identity::new(&[Profile::AeadAes128Gcm])?;
    let transport = router.web_rtc_transport()?.id;
    requests.learn(router.worker.last_request());
    router.connect_web_rtc(&transport, identity.fingerprint())?;
    requests.learn(router.worker.last_request());
    let producer = router.produce(&transport, Media::Video, VIDEO, Some(VIDEO + 1))?;
    requests.learn(router.worker.last_request());
    let consumer = router.consume(&transport, &producer, Media::Video, VIDEO, 5_000, Some(5_001))?;
    requests.learn(router.worker.last_request());
    for (method, id) in [
        (Method::TransportDump, &transport),
        (Method::TransportGetStats, &transport),
        (Method::ProducerPause, &producer),
        (Method::ProducerResume, &producer),
        (Method::ConsumerGetStats, &consumer),
        (Method::ConsumerRequestKeyFrame, &consumer),
    ] {
        router.worker.request(method, id, None)?;
        requests.learn(router.worker.last_request());
    }
    Ok((router, requests))
}

#[test]
fn damaged_requests_leave_the_worker_serving() -> Result<()> {
    let mut mutator = Mutator::new(seed(1));
    let (mut router, requests) = router_and_templates()?;
    for _ in 0..400 {
        let mut batch = Vec::new();
        for _ in 0..50 {
            batch.extend(framed(&requests.mutant(&mut mutator)));
        }
        router.worker.write_raw(&batch)?;
        still_serves(&mut router.worker)?;
    }
    Ok(())
}

#[test]
fn a_method_with_any_handler_and_any_body_is_refused_or_served() -> Result<()> {
    let (mut router, requests) = router_and_templates()?;
    assert!(!requests.templates().is_empty());
    let handlers =
        ["", "router", "webrtc-server", "transport-1", "producer-2", "consumer-3", "\u{0}", "nobody"];
    let mut encoder = Encoder::default();
    let bodies: Vec<Option<request::Body>> = requests.bodies().map(Some).chain([None]).collect();
    let mut id = STRAY_ID;
    for method in (0..=u8::MAX).filter_map(|number| Method::try_from(number).ok()) {
        // These are orders, not faults.
        if matches!(method, Method::WorkerCloseRouter | Method::WorkerWebRtcServerClose) {
            continue;
        }
        let mut batch = Vec::new();
        for handler in handlers {
            for body in &bodies {
                id += 1;
                let request = Request { id, method, handler_id: handler.into(), body: body.clone() };
                encoder.append(Message { data: message::Body::Request(Box::new(request)) }, &mut batch);
            }
        }
        router.worker.write_raw(&batch)?;
        still_serves(&mut router.worker)?;
    }
    Ok(())
}

#[test]
fn what_is_refused_names_the_kind_of_error() -> Result<()> {
    let mut worker = worker(&[])?;
    let refusal = |worker: &mut Worker, method, handler: &str, body| {
        let error = worker.request(method, handler, body).expect_err("refused");
        error.to_string()
    };
    let error = refusal(&mut worker, Method::TransportDump, "nobody", None);
    assert!(error.contains("NotFoundError") && error.contains("nobody"), "{error}");
    let error = refusal(&mut worker, Method::WorkerCreateRouter, "", None);
    assert!(error.contains("TypeError"), "{error}");
    let settings = worker_protocol::wire::worker::UpdateSettingsRequest { log_level: None, log_tags: None };
    let body = request::Body::WorkerUpdateSettingsRequest(Box::new(settings));
    let error = refusal(&mut worker, Method::WorkerCreateRouter, "", Some(body));
    assert!(error.contains("TypeError"), "{error}");
    Ok(())
}

#[test]
fn an_absurd_length_ends_the_worker_with_an_error() -> Result<()> {
    for length in [u32::MAX, MAX_MESSAGE_BYTES as u32 + 1] {
        let mut worker = worker(&[])?;
        worker.write_raw(&length.to_le_bytes())?;
        // The stream cannot be trusted any further, nor read past: mediasoup's worker gives up too.
        assert_eq!(worker.wait_for_exit(PATIENCE)?.code(), Some(40));
    }
    Ok(())
}

#[test]
fn a_message_that_never_ends_keeps_nobody_waiting() -> Result<()> {
    let mut worker = worker(&[])?;
    worker.write_raw(&(MAX_MESSAGE_BYTES as u32).to_le_bytes())?;
    worker.write_raw(&[0; 100_000])?;
    worker.close_channel()?;
    assert_eq!(
        worker.wait_for_exit(Duration::from_secs(3))?.code(),
        Some(0),
        "the driver went away, as it may"
    );
    Ok(())
}
