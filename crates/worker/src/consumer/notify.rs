//! What a Consumer tells its driver.

use worker_protocol::wire::{consumer as wire, notification};

use super::Consumer;
use crate::producer::Producer;
use crate::table::ConsumerIdx;
use crate::worker::Worker;

/// The score of a Consumer, its Producer's current stream, and all of its Producer's streams.
pub fn score(consumer: &Consumer, producer: &Producer) -> wire::ConsumerScore {
    let producer_scores = producer.scores();
    if matches!(consumer.forwarding, super::layers::Forwarding::Pipe) {
        return wire::ConsumerScore { score: 10, producer_score: 10, producer_scores };
    }
    wire::ConsumerScore {
        score: consumer.streams.first().map_or(0, |stream| stream.send.score()),
        producer_score: consumer
            .forwarding
            .current_encoding()
            .and_then(|encoding| producer.stream(encoding))
            .map_or(0, |stream| stream.recv.score()),
        producer_scores,
    }
}

impl Worker {
    /// Tells the driver a Consumer's score.
    pub fn notify_consumer_score(&mut self, index: ConsumerIdx) {
        let consumer = &self.consumers[index];
        if matches!(consumer.forwarding, super::layers::Forwarding::Pipe) {
            return;
        }
        let score = Box::new(score(consumer, &self.producers[consumer.producer]));
        self.outbox.notify_media(
            &consumer.id,
            notification::Event::ConsumerScore,
            notification::Body::ConsumerScoreNotification(Box::new(wire::ScoreNotification { score })),
        );
    }

    /// Tells the driver which layers a Consumer gets.
    pub fn notify_consumer_layers(&mut self, index: ConsumerIdx) {
        let consumer = &self.consumers[index];
        let current = consumer.forwarding.current();
        let layers = (current.spatial >= 0).then(|| Box::new(current.to_wire()));
        self.outbox.notify_media(
            &consumer.id,
            notification::Event::ConsumerLayersChange,
            notification::Body::ConsumerLayersChangeNotification(Box::new(wire::LayersChangeNotification {
                layers,
            })),
        );
    }
}
