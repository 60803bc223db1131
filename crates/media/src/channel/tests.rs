use std::sync::Arc;

use tokio::{
    io::{DuplexStream, duplex},
    task::JoinHandle,
};
use worker_protocol::wire::{notification, producer, request::Method, transport};

use super::*;
use crate::{
    event::{EventReceiver, MediaEvent, ProducerEvent, ProducerScore, event_queue},
    object::Roots,
};

const DEADLINE: Duration = Duration::from_secs(10);

/// The other end of a channel, as a worker holds it.
struct FakeWorker {
    reads: DuplexStream,
    writes: DuplexStream,
    decoder: Decoder,
}

impl FakeWorker {
    async fn next(&mut self) -> Option<message::Body> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(bytes) = self.decoder.poll().unwrap() {
                return Some(message::Message::try_from(framing::read(bytes).unwrap()).unwrap().data);
            }
            let length = self.reads.read(&mut buffer).await.unwrap();
            if length == 0 {
                return None;
            }
            self.decoder.push(&buffer[..length]);
        }
    }

    async fn next_request(&mut self) -> request::Request {
        let Some(message::Body::Request(request)) = self.next().await else { panic!("no request") };
        *request
    }

    async fn send(&mut self, data: message::Body) {
        let mut bytes = Vec::new();
        Encoder::default().append(message::Message { data }, &mut bytes);
        self.writes.write_all(&bytes).await.unwrap();
    }

    async fn answer(&mut self, answer: response::Response) {
        self.send(message::Body::Response(Box::new(answer))).await;
    }

    async fn accept(&mut self, id: u32) {
        self.answer(response::Response { id, accepted: true, body: None, error: None, reason: None }).await;
    }

    async fn tell(&mut self, handler_id: &str, event: notification::Event, body: Option<notification::Body>) {
        let told = notification::Notification { handler_id: handler_id.to_owned(), event, body };
        self.send(message::Body::Notification(Box::new(told))).await;
    }
}

fn open() -> (Channel, FakeWorker, JoinHandle<()>) {
    let (to_worker, reads) = duplex(1 << 16);
    let (from_worker, writes) = duplex(1 << 16);
    let (channel, writing, reading) = Channel::open(from_worker, to_worker, DEADLINE);
    tokio::spawn(writing);
    let reading = tokio::spawn(reading);
    (channel, FakeWorker { reads, writes, decoder: Decoder::default() }, reading)
}

fn router_with_transport(channel: &Channel) -> (Arc<Object>, Arc<Object>, EventReceiver) {
    let (events, receiver) = event_queue(64);
    let roots = Roots { channel: channel.clone(), census: Arc::default(), transports: 100 };
    let router = Object::root(roots, Kind::Router, "router".into(), Some(events));
    let transport = Object::child(&router, Kind::Transport, "transport".into()).unwrap();
    (router, transport, receiver)
}

#[tokio::test]
async fn answers_find_their_requests_whatever_their_order() {
    let (channel, mut worker, _) = open();
    let first = channel.request(Method::WorkerDump, "", None);
    let second = channel.request(Method::RouterDump, "router", None);
    let answering = async {
        let (one, two) = (worker.next_request().await, worker.next_request().await);
        assert_eq!((one.method, two.method), (Method::WorkerDump, Method::RouterDump));
        assert_eq!(two.handler_id, "router");
        let reason = Some("no such router".to_owned());
        let error = Some("NotFoundError".to_owned());
        worker.answer(response::Response { id: two.id, accepted: false, body: None, error, reason }).await;
        worker.accept(one.id).await;
    };
    let (first, second, ()) = tokio::join!(first, second, answering);
    assert!(matches!(first, Ok(None)));
    let Err(MediaError::Refused { kind: RefusalKind::NotFound, reason, .. }) = second else {
        panic!("{second:?}")
    };
    assert_eq!(reason, "no such router");
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_request_ends_at_its_deadline_and_the_late_answer_is_counted() {
    let (channel, mut worker, _) = open();
    let error = channel.request(Method::WorkerDump, "", None).await.unwrap_err();
    assert!(matches!(error, MediaError::Timeout { method: Method::WorkerDump, deadline: DEADLINE }));
    let late = worker.next_request().await.id;
    worker.accept(late).await;
    // The next exchange proves that the late answer was read.
    let (answered, ()) = tokio::join!(channel.request(Method::WorkerDump, "", None), async {
        let id = worker.next_request().await.id;
        worker.accept(id).await;
    });
    assert!(answered.is_ok());
    assert_eq!(
        channel.counters(),
        ChannelCounters { requests: 2, timeouts: 1, unmatched_answers: 1, ..ChannelCounters::default() }
    );
}

#[tokio::test(start_paused = true)]
async fn more_requests_than_allowed_wait_for_their_turn() {
    let (channel, mut worker, _) = open();
    let requests: Vec<_> = (0..MAX_OUTSTANDING + 10)
        .map(|_| {
            let channel = channel.clone();
            tokio::spawn(async move { channel.request(Method::WorkerDump, "", None).await })
        })
        .collect();
    let mut ids = Vec::new();
    for _ in 0..MAX_OUTSTANDING {
        ids.push(worker.next_request().await.id);
    }
    // Time stands still while anything can run: that it moves shows that no further request was sent.
    let further = tokio::time::timeout(Duration::from_millis(1), worker.next_request()).await;
    assert!(further.is_err());
    for id in ids {
        worker.accept(id).await;
    }
    for _ in 0..10 {
        let id = worker.next_request().await.id;
        worker.accept(id).await;
    }
    for request in requests {
        assert!(request.await.unwrap().is_ok());
    }
}

#[tokio::test]
async fn when_the_worker_goes_away_every_request_fails_at_once() {
    let (channel, mut worker, _) = open();
    let (failed, ()) = tokio::join!(channel.request(Method::WorkerDump, "", None), async {
        worker.next_request().await;
        drop(worker);
    });
    assert!(matches!(failed, Err(MediaError::WorkerGone)));
    assert!(matches!(channel.request(Method::WorkerDump, "", None).await, Err(MediaError::WorkerGone)));
}

#[tokio::test]
async fn garbage_is_counted_and_what_follows_is_understood() {
    let (channel, mut worker, _) = open();
    let mut garbage = vec![9, 0, 0, 0];
    garbage.extend([0xff; 9]);
    worker.writes.write_all(&garbage).await.unwrap();
    worker.writes.write_all(&[0, 0, 0, 0]).await.unwrap();
    let (answered, ()) = tokio::join!(channel.request(Method::WorkerDump, "", None), async {
        let id = worker.next_request().await.id;
        worker.accept(id).await;
    });
    assert!(answered.is_ok());
    assert_eq!(channel.counters().malformed, 2);
}

#[tokio::test]
async fn an_impossible_length_ends_the_channel() {
    let (channel, mut worker, reading) = open();
    worker.writes.write_all(&u32::MAX.to_le_bytes()).await.unwrap();
    reading.await.unwrap();
    channel.ended().await;
    assert_eq!(channel.counters().malformed, 1);
    assert!(matches!(channel.request(Method::WorkerDump, "", None).await, Err(MediaError::WorkerGone)));
}

#[tokio::test]
async fn notifications_reach_the_queue_of_their_objects_router() {
    let (channel, mut worker, _) = open();
    let (_router, transport, mut events) = router_with_transport(&channel);
    let _producer = Object::child(&transport, Kind::Producer, "producer".into()).unwrap();
    worker.tell("stranger", notification::Event::ProducerScore, None).await;
    let score = producer::Score { encoding_idx: 0, ssrc: 7, rid: Some(String::new()), score: 9 };
    let body = notification::Body::ProducerScoreNotification(Box::new(producer::ScoreNotification {
        scores: vec![score],
    }));
    worker.tell("producer", notification::Event::ProducerScore, Some(body)).await;
    let expected = ProducerScore { encoding_idx: 0, ssrc: 7, rid: None, score: 9 };
    let event = MediaEvent::Producer { id: "producer".into(), event: ProducerEvent::Score(vec![expected]) };
    assert_eq!(events.recv().await, Some(event));
    assert_eq!(channel.counters().unmatched_notifications, 1);
}

#[tokio::test]
async fn a_closed_producer_takes_its_consumers_with_it() {
    let (channel, mut worker, _) = open();
    let (_router, transport, mut events) = router_with_transport(&channel);
    let consumer = Object::child(&transport, Kind::Consumer, "consumer".into()).unwrap();
    worker.tell("consumer", notification::Event::ConsumerProducerClose, None).await;
    let event = crate::event::ConsumerEvent::ProducerClose;
    assert_eq!(events.recv().await, Some(MediaEvent::Consumer { id: "consumer".into(), event }));
    assert!(consumer.is_closed());
    // The worker has closed it: nothing is asked, so that this does not wait for an answer.
    consumer.close().await.unwrap();
}

#[tokio::test]
async fn closing_a_transport_closes_what_it_has_with_one_request() {
    let (channel, mut worker, _) = open();
    let (router, transport, _events) = router_with_transport(&channel);
    let producer = Object::child(&transport, Kind::Producer, "producer".into()).unwrap();
    assert!(matches!(
        Object::child(&transport, Kind::Producer, "producer".into()),
        Err(MediaError::DuplicateId(id)) if id == "producer"
    ));
    let (closed, request) = tokio::join!(transport.close(), async {
        let request = worker.next_request().await;
        worker.accept(request.id).await;
        request
    });
    closed.unwrap();
    assert_eq!((request.method, request.handler_id.as_str()), (Method::RouterCloseTransport, "router"));
    assert!(producer.is_closed() && !router.is_closed());
    assert!(matches!(producer.request(Method::ProducerPause, None).await, Err(MediaError::Closed)));
    assert!(matches!(Object::child(&transport, Kind::Producer, "late".into()), Err(MediaError::Closed)));
    assert_eq!(channel.counters().requests, 1);
}

#[tokio::test]
async fn the_death_of_a_worker_closes_everything_and_is_told_to_routers() {
    let (channel, _worker, _) = open();
    let (router, transport, mut events) = router_with_transport(&channel);
    channel.end(Some(WorkerExit::Unknown));
    assert!(router.is_closed() && transport.is_closed());
    let died = MediaEvent::WorkerDied { id: "router".into(), exit: WorkerExit::Unknown };
    assert_eq!(events.recv().await, Some(died));
    assert!(events.try_recv().is_err());
}

#[tokio::test]
async fn a_request_longer_than_the_channel_allows_is_not_sent() {
    let (channel, mut worker, _) = open();
    let body = transport::CloseProducerRequest { producer_id: "x".repeat(MAX_MESSAGE_BYTES) };
    let body = request::Body::TransportCloseProducerRequest(Box::new(body));
    let error = channel.request(Method::TransportCloseProducer, "transport", Some(body)).await.unwrap_err();
    assert!(matches!(error, MediaError::TooLong(Method::TransportCloseProducer)));
    channel.end(None);
    assert!(worker.next().await.is_none());
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_a_worker_sends_nothing_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..256)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (channel, mut worker, reading) = open();
            let (_router, _transport, _events) = router_with_transport(&channel);
            // Once as a message of its own, so that it is looked into, and once as it is.
            let mut framed = u32::try_from(bytes.len()).unwrap().to_le_bytes().to_vec();
            framed.extend(&bytes);
            framed.extend(&bytes);
            worker.writes.write_all(&framed).await.unwrap();
            drop(worker);
            reading.await.unwrap();
        });
    }
}
