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

/// An object that is to be closed, and what the worker closes with it. The latter is to be dropped only after that:
/// a handle dropped before would ask the worker to close it, too.
#[derive(Debug)]
pub(crate) struct Removed<T> {
    pub(crate) handle: T,
    producers: Vec<Producer>,
    consumers: Vec<Consumer>,
}

impl<T> Removed<T> {
    /// Closes the object itself, then lets go of the rest.
    pub(crate) async fn close_by<F>(self, close: impl FnOnce(T) -> F) -> F::Output
    where
        F: Future,
    {
        let closed = close(self.handle).await;
        drop((self.producers, self.consumers));
        closed
    }
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

    pub(crate) fn remove_transport(&mut self, id: &TransportId) -> Option<Removed<WebRtcTransport>> {
        let entry = self.transports.remove(id)?;
        let mut removed = Removed { handle: entry.handle, producers: Vec::new(), consumers: Vec::new() };
        for producer in &entry.producers {
            if let Some(below) = self.remove_producer(producer) {
                removed.producers.push(below.handle);
                removed.consumers.extend(below.consumers);
            }
        }
        removed.consumers.extend(entry.consumers.iter().filter_map(|id| self.remove_consumer(id)));
        Some(removed)
    }

    pub(crate) fn remove_producer(&mut self, id: &ProducerId) -> Option<Removed<Producer>> {
        let entry = self.producers.remove(id)?;
        if let Some(transport) = self.transports.get_mut(&entry.transport) {
            transport.producers.remove(id);
        }
        let consumers = entry.consumers.iter().filter_map(|id| self.remove_consumer(id)).collect();
        Some(Removed { handle: entry.handle, producers: Vec::new(), consumers })
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
