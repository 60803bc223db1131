//! The handles of one room's media objects, by id, with who hangs on whom: closing one forgets all that the worker
//! closes with it.

use std::collections::{HashMap, HashSet};

use media::{
    Consumer, DataConsumer, DataProducer, PipeTransport, PlainTransport, Producer, Transport, WebRtcTransport,
};
use room::{ConsumerId, DataConsumerId, DataProducerId, ProducerId, TransportId};

#[derive(Debug, Default)]
pub(crate) struct Objects {
    transports: HashMap<TransportId, TransportEntry>,
    producers: HashMap<ProducerId, ProducerEntry>,
    consumers: HashMap<ConsumerId, ConsumerEntry>,
    data_producers: HashMap<DataProducerId, (DataProducer, TransportId)>,
    data_consumers: HashMap<DataConsumerId, (DataConsumer, TransportId, DataProducerId)>,
}

/// A transport of any sort.
#[derive(Debug, Clone)]
pub(crate) enum AnyTransport {
    WebRtc(WebRtcTransport),
    Plain(PlainTransport),
    Pipe(PipeTransport),
}

impl AnyTransport {
    /// What all transports do.
    pub(crate) fn common(&self) -> &Transport {
        match self {
            Self::WebRtc(transport) => transport.transport(),
            Self::Plain(transport) => transport,
            Self::Pipe(transport) => transport,
        }
    }
}

/// An object that is to be closed, and what the worker closes with it. The latter is to be dropped only after that:
/// a handle dropped before would ask the worker to close it, too.
#[derive(Debug)]
pub(crate) struct Removed<T> {
    pub(crate) handle: T,
    producers: Vec<Producer>,
    consumers: Vec<Consumer>,
    data_producers: Vec<DataProducer>,
    data_consumers: Vec<DataConsumer>,
}

impl<T> Removed<T> {
    fn new(handle: T) -> Self {
        Self {
            handle,
            producers: Vec::new(),
            consumers: Vec::new(),
            data_producers: Vec::new(),
            data_consumers: Vec::new(),
        }
    }

    /// Closes the object itself, then lets go of the rest.
    pub(crate) async fn close_by<F>(self, close: impl FnOnce(T) -> F) -> F::Output
    where
        F: Future,
    {
        let closed = close(self.handle).await;
        drop((self.producers, self.consumers, self.data_producers, self.data_consumers));
        closed
    }
}

#[derive(Debug)]
struct TransportEntry {
    handle: AnyTransport,
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
    pub(crate) fn transport(&self, id: &TransportId) -> Option<AnyTransport> {
        self.transports.get(id).map(|entry| entry.handle.clone())
    }

    pub(crate) fn pipe(&self, id: &TransportId) -> Option<PipeTransport> {
        match &self.transports.get(id)?.handle {
            AnyTransport::Pipe(transport) => Some(transport.clone()),
            AnyTransport::WebRtc(_) | AnyTransport::Plain(_) => None,
        }
    }

    pub(crate) fn producer(&self, id: &ProducerId) -> Option<Producer> {
        self.producers.get(id).map(|entry| entry.handle.clone())
    }

    pub(crate) fn consumer(&self, id: &ConsumerId) -> Option<Consumer> {
        self.consumers.get(id).map(|entry| entry.handle.clone())
    }

    pub(crate) fn add_transport(&mut self, id: TransportId, handle: AnyTransport) {
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

    pub(crate) fn data_producer(&self, id: &DataProducerId) -> Option<DataProducer> {
        self.data_producers.get(id).map(|(handle, _)| handle.clone())
    }

    pub(crate) fn data_consumer(&self, id: &DataConsumerId) -> Option<DataConsumer> {
        self.data_consumers.get(id).map(|(handle, ..)| handle.clone())
    }

    /// Without its transport, which closed meanwhile, a data producer is dropped.
    pub(crate) fn add_data_producer(
        &mut self,
        id: DataProducerId,
        transport: TransportId,
        handle: DataProducer,
    ) {
        if self.transports.contains_key(&transport) {
            self.data_producers.insert(id, (handle, transport));
        }
    }

    /// Without its transport or data producer, which closed meanwhile, a data consumer is dropped.
    pub(crate) fn add_data_consumer(
        &mut self,
        id: DataConsumerId,
        transport: TransportId,
        producer: DataProducerId,
        handle: DataConsumer,
    ) {
        if self.transports.contains_key(&transport) && self.data_producers.contains_key(&producer) {
            self.data_consumers.insert(id, (handle, transport, producer));
        }
    }

    pub(crate) fn remove_data_producer(&mut self, id: &DataProducerId) -> Option<Removed<DataProducer>> {
        let (handle, _) = self.data_producers.remove(id)?;
        let mut removed = Removed::new(handle);
        let data_consumers = self.data_consumers.extract_if(|_, (.., of)| of == id);
        removed.data_consumers.extend(data_consumers.map(|(_, (handle, ..))| handle));
        Some(removed)
    }

    pub(crate) fn remove_data_consumer(&mut self, id: &DataConsumerId) -> Option<DataConsumer> {
        self.data_consumers.remove(id).map(|(handle, ..)| handle)
    }

    pub(crate) fn remove_transport(&mut self, id: &TransportId) -> Option<Removed<AnyTransport>> {
        let entry = self.transports.remove(id)?;
        let mut removed = Removed::new(entry.handle);
        for producer in &entry.producers {
            if let Some(below) = self.remove_producer(producer) {
                removed.producers.push(below.handle);
                removed.consumers.extend(below.consumers);
            }
        }
        removed.consumers.extend(entry.consumers.iter().filter_map(|id| self.remove_consumer(id)));
        let data_producers: Vec<_> =
            self.data_producers.iter().filter(|(_, (_, on))| on == id).map(|(id, _)| id.clone()).collect();
        for producer in &data_producers {
            if let Some(below) = self.remove_data_producer(producer) {
                removed.data_producers.push(below.handle);
                removed.data_consumers.extend(below.data_consumers);
            }
        }
        let data_consumers = self.data_consumers.extract_if(|_, (_, on, _)| on == id);
        removed.data_consumers.extend(data_consumers.map(|(_, (handle, ..))| handle));
        Some(removed)
    }

    pub(crate) fn remove_producer(&mut self, id: &ProducerId) -> Option<Removed<Producer>> {
        let entry = self.producers.remove(id)?;
        if let Some(transport) = self.transports.get_mut(&entry.transport) {
            transport.producers.remove(id);
        }
        let consumers = entry.consumers.iter().filter_map(|id| self.remove_consumer(id)).collect();
        Some(Removed { consumers, ..Removed::new(entry.handle) })
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
