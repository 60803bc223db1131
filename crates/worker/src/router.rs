//! A Router: the set of Transports that media can cross, and its part of the requests.

use rustc_hash::FxHashMap;
use worker_protocol::wire::common::{StringString, StringStringArray};
use worker_protocol::wire::{response, router as wire};

use crate::error::{RequestError, RequestResult};
use crate::table::{DataProducerIdx, ProducerIdx, RouterIdx, RtpObserverIdx, TransportIdx};
use crate::worker::Worker;

/// A Router.
#[derive(Debug, Default)]
pub struct Router {
    /// Its id.
    pub id: String,
    /// Its Transports, oldest first.
    pub transports: Vec<TransportIdx>,
    /// Its RtpObservers, oldest first.
    pub observers: Vec<RtpObserverIdx>,
    /// Its Producers by id.
    pub producers: FxHashMap<String, ProducerIdx>,
    /// Its DataProducers by id.
    pub data_producers: FxHashMap<String, DataProducerIdx>,
}

impl Worker {
    /// Adds a Router.
    pub fn create_router(&mut self, id: String) {
        self.routers.insert(Router { id, ..Router::default() });
    }

    /// Closes a Router with all that it holds. Nobody is told: the driver closed it.
    pub fn close_router(&mut self, index: RouterIdx) {
        while let Some(observer) = self.routers.get(index).and_then(|router| router.observers.last().copied())
        {
            self.close_observer(observer);
        }
        self.quietly(|worker| {
            while let Some(transport) =
                worker.routers.get(index).and_then(|router| router.transports.last().copied())
            {
                worker.close_transport(transport);
            }
        });
        self.routers.remove(index);
    }

    /// A Transport of this Router, by id.
    pub fn transport_of(&self, router: RouterIdx, id: &str, method: &str) -> RequestResult<TransportIdx> {
        self.routers[router]
            .transports
            .iter()
            .copied()
            .find(|index| self.transports[*index].id == id)
            .ok_or_else(|| RequestError::not_found(format!("Transport not found [method:{method}]")))
    }

    /// Answers `router.dump()`.
    pub fn dump_router(&self, index: RouterIdx) -> response::Body {
        let router = &self.routers[index];
        let producers = || {
            router
                .transports
                .iter()
                .flat_map(|transport| &self.transports[*transport].producers)
                .map(|producer| &self.producers[*producer])
        };
        let data_producers = || {
            router
                .transports
                .iter()
                .flat_map(|transport| &self.transports[*transport].data_producers)
                .map(|producer| &self.data_producers[*producer])
        };
        response::Body::RouterDumpResponse(Box::new(wire::DumpResponse {
            id: router.id.clone(),
            transport_ids: router.transports.iter().map(|index| self.transports[*index].id.clone()).collect(),
            rtp_observer_ids: router
                .observers
                .iter()
                .map(|index| self.observers[*index].id.clone())
                .collect(),
            map_producer_id_consumer_ids: producers()
                .map(|producer| StringStringArray {
                    key: producer.id.clone(),
                    values: producer
                        .consumers
                        .iter()
                        .map(|index| self.consumers[*index].id.clone())
                        .collect(),
                })
                .collect(),
            map_consumer_id_producer_id: producers()
                .flat_map(|producer| {
                    producer.consumers.iter().map(|index| StringString {
                        key: self.consumers[*index].id.clone(),
                        value: producer.id.clone(),
                    })
                })
                .collect(),
            map_producer_id_observer_ids: producers()
                .map(|producer| StringStringArray {
                    key: producer.id.clone(),
                    values: producer
                        .observers
                        .iter()
                        .map(|index| self.observers[*index].id.clone())
                        .collect(),
                })
                .collect(),
            map_data_producer_id_data_consumer_ids: data_producers()
                .map(|producer| StringStringArray {
                    key: producer.id.clone(),
                    values: producer
                        .data_consumers
                        .iter()
                        .map(|index| self.data_consumers[*index].id.clone())
                        .collect(),
                })
                .collect(),
            map_data_consumer_id_data_producer_id: data_producers()
                .flat_map(|producer| {
                    producer.data_consumers.iter().map(|index| StringString {
                        key: self.data_consumers[*index].id.clone(),
                        value: producer.id.clone(),
                    })
                })
                .collect(),
        }))
    }
}
