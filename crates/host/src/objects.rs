//! The handles of one room's media objects, by id, with who hangs on whom: closing one forgets all that the worker
//! closes with it.

use std::collections::{HashMap, HashSet};

use media::{Consumer, Producer, WebRtcTransport};
use room::{ConsumerId, ProducerId, TransportId};

#[derive(Debug, Default)]
pub(crate) struct Objects {
    transports: HashMap<TransportId, TransportEntry>,
    producers: HashMap<ProducerId, ProducerEntry>,
    consumers: HashMap<ConsumerId, ConsumerEntry>,
}

#[derive(Debug)]
struct TransportEntry {
    handle: WebRtcTransport,
    producers: HashSet<ProducerId>,
    consumers: HashSet<ConsumerId>,
}

#[derive(Debug)]
struct ProducerEntry {
    handle: Producer,
    transport: TransportId,
    consumers: HashSet<ConsumerId>,
}

#[derive(Debug)]
struct ConsumerEntry {
    handle: Consumer,
    transport: TransportId,
    producer: ProducerId,
}

impl Objects {
    pub(crate) fn transport(&self, id: &TransportId) -> Option<WebRtcTransport> {
        self.transports.get(id).map(|entry| entry.handle.clone())
    }

    pub(crate) fn producer(&self, id: &ProducerId) -> Option<Producer> {
        self.producers.get(id).map(|entry| entry.handle.clone())
    }

    pub(crate) fn consumer(&self, id: &ConsumerId) -> Option<Consumer> {
        self.consumers.get(id).map(|entry| entry.handle.clone())
    }

    pub(crate) fn add_transport(&mut self, id: TransportId, handle: WebRtcTransport) {
        let entry = TransportEntry { handle, producers: HashSet::new(), consumers: HashSet::new() };
        self.transports.insert(id, entry);
    }

    /// Without its transport, which closed meanwhile, a producer is dropped.
    pub(crate) fn add_producer(&mut self, id: ProducerId, transport: TransportId, handle: Producer) {
        let Some(entry) = self.transports.get_mut(&transport) else { return };
        entry.producers.insert(id.clone());
        self.producers.insert(id, ProducerEntry { handle, transport, consumers: HashSet::new() });
    }

    /// Without its transport or producer, which closed meanwhile, a consumer is dropped.
    pub(crate) fn add_consumer(
        &mut self,
        id: ConsumerId,
        transport: TransportId,
        producer: ProducerId,
        handle: Consumer,
    ) {
        let (Some(on), Some(of)) = (self.transports.get_mut(&transport), self.producers.get_mut(&producer))
        else {
            return;
        };
        on.consumers.insert(id.clone());
        of.consumers.insert(id.clone());
        self.consumers.insert(id, ConsumerEntry { handle, transport, producer });
    }

    pub(crate) fn remove_transport(&mut self, id: &TransportId) -> Option<WebRtcTransport> {
        let entry = self.transports.remove(id)?;
        for producer in &entry.producers {
            self.remove_producer(producer);
        }
        for consumer in &entry.consumers {
            self.remove_consumer(consumer);
        }
        Some(entry.handle)
    }

    pub(crate) fn remove_producer(&mut self, id: &ProducerId) -> Option<Producer> {
        let entry = self.producers.remove(id)?;
        if let Some(transport) = self.transports.get_mut(&entry.transport) {
            transport.producers.remove(id);
        }
        for consumer in &entry.consumers {
            self.remove_consumer(consumer);
        }
        Some(entry.handle)
    }

    pub(crate) fn remove_consumer(&mut self, id: &ConsumerId) -> Option<Consumer> {
        let entry = self.consumers.remove(id)?;
        if let Some(transport) = self.transports.get_mut(&entry.transport) {
            transport.consumers.remove(id);
        }
        if let Some(producer) = self.producers.get_mut(&entry.producer) {
            producer.consumers.remove(id);
        }
        Some(entry.handle)
    }
}
