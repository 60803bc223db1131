//! DataProducers and DataConsumers of direct transports: messages that the driver hands in and gets out. Those over SCTP
//! are not built yet and refused by name.

use std::time::Instant;

use worker_protocol::wire::request::{self, Method};
use worker_protocol::wire::{
    data_consumer as consumer, data_producer as producer, notification, response, transport,
};

use crate::error::{RequestError, RequestResult};
use crate::table::{DataConsumerIdx, DataProducerIdx, RouterIdx, TransportIdx};
use crate::worker::{Handler, Worker};

/// Subchannels that one DataConsumer may be subscribed to: as many as there are.
const MAX_SUBCHANNELS: usize = 65_536;

/// A DataProducer.
#[derive(Debug)]
pub struct DataProducer {
    /// Its id.
    pub id: String,
    transport: TransportIdx,
    router: RouterIdx,
    label: String,
    protocol: String,
    paused: bool,
    messages_received: u64,
    bytes_received: u64,
    /// Who gets its messages.
    pub data_consumers: Vec<DataConsumerIdx>,
}

/// A DataConsumer.
#[derive(Debug)]
pub struct DataConsumer {
    /// Its id.
    pub id: String,
    transport: TransportIdx,
    producer: DataProducerIdx,
    producer_id: String,
    label: String,
    protocol: String,
    paused: bool,
    producer_paused: bool,
    subchannels: Vec<u16>,
    messages_sent: u64,
    bytes_sent: u64,
}

impl DataProducer {
    fn dump(&self) -> producer::DumpResponse {
        producer::DumpResponse {
            id: self.id.clone(),
            type_: producer::Type::Direct,
            sctp_stream_parameters: None,
            label: self.label.clone(),
            protocol: self.protocol.clone(),
            paused: self.paused,
        }
    }
}

impl DataConsumer {
    fn dump(&self) -> consumer::DumpResponse {
        consumer::DumpResponse {
            id: self.id.clone(),
            data_producer_id: self.producer_id.clone(),
            type_: consumer::Type::Direct,
            sctp_stream_parameters: None,
            label: self.label.clone(),
            protocol: self.protocol.clone(),
            buffered_amount: 0,
            buffered_amount_low_threshold: 0,
            paused: self.paused,
            data_producer_paused: self.producer_paused,
            subchannels: self.subchannels.clone(),
        }
    }

    /// Whether a message for these subchannels is for this one.
    fn wants(&self, message: &producer::SendNotification) -> bool {
        let subscribed = |subchannel: &u16| self.subchannels.contains(subchannel);
        let required = message.required_subchannel.as_ref().is_none_or(subscribed);
        let ignored = message.ignored_subchannel.as_ref().is_some_and(subscribed);
        let matched = match message.subchannels.as_deref() {
            None | Some([]) => true,
            Some(subchannels) => subchannels.iter().any(subscribed),
        };
        required && !ignored && matched
    }

    fn subscribe(&mut self, subchannel: u16) {
        if !self.subchannels.contains(&subchannel) && self.subchannels.len() < MAX_SUBCHANNELS {
            self.subchannels.push(subchannel);
        }
    }
}

impl Worker {
    /// Answers `transport.produceData()`.
    pub fn produce_data(
        &mut self,
        index: TransportIdx,
        request: transport::ProduceDataRequest,
    ) -> RequestResult<response::Body> {
        let transport = &self.transports[index];
        self.check_data(index, request.type_ == producer::Type::Direct, Method::TransportProduceData)?;
        self.check_no_handler(&request.data_producer_id, "DataProducer")?;
        let router = transport.router;
        let created = DataProducer {
            id: request.data_producer_id.clone(),
            transport: index,
            router,
            label: request.label.unwrap_or_default(),
            protocol: request.protocol.unwrap_or_default(),
            paused: request.paused,
            messages_received: 0,
            bytes_received: 0,
            data_consumers: Vec::new(),
        };
        let dump = created.dump();
        let producer = self.data_producers.insert(created);
        self.transports[index].data_producers.push(producer);
        self.routers[router].data_producers.insert(request.data_producer_id.clone(), producer);
        self.register(request.data_producer_id, Handler::DataProducer(producer));
        Ok(response::Body::DataProducerDumpResponse(Box::new(dump)))
    }

    /// Answers `transport.consumeData()`.
    pub fn consume_data(
        &mut self,
        index: TransportIdx,
        request: transport::ConsumeDataRequest,
    ) -> RequestResult<response::Body> {
        self.check_data(index, request.type_ == consumer::Type::Direct, Method::TransportConsumeData)?;
        self.check_no_handler(&request.data_consumer_id, "DataConsumer")?;
        let router = self.transports[index].router;
        let producers = &self.routers[router].data_producers;
        let producer = producers.get(&request.data_producer_id).copied().ok_or_else(|| {
            RequestError::not_found(format!(
                "DataProducer not found [dataProducerId:{}]",
                request.data_producer_id
            ))
        })?;
        let mut created = DataConsumer {
            id: request.data_consumer_id.clone(),
            transport: index,
            producer,
            producer_id: request.data_producer_id,
            label: request.label.unwrap_or_default(),
            protocol: request.protocol.unwrap_or_default(),
            paused: request.paused,
            producer_paused: self.data_producers[producer].paused,
            subchannels: Vec::new(),
            messages_sent: 0,
            bytes_sent: 0,
        };
        for subchannel in request.subchannels.unwrap_or_default() {
            created.subscribe(subchannel);
        }
        let dump = created.dump();
        let consumer = self.data_consumers.insert(created);
        self.data_producers[producer].data_consumers.push(consumer);
        self.transports[index].data_consumers.push(consumer);
        self.register(request.data_consumer_id, Handler::DataConsumer(consumer));
        Ok(response::Body::DataConsumerDumpResponse(Box::new(dump)))
    }

    fn check_data(&self, index: TransportIdx, direct: bool, method: Method) -> RequestResult<()> {
        let options = &self.transports[index].options;
        match (direct, options.direct, options.sctp.is_some()) {
            (_, false, false) => Err(RequestError::error("SCTP not enabled and not a direct Transport")),
            (true, true, _) => Ok(()),
            (true, false, _) => {
                Err(RequestError::type_error("cannot use type 'direct', not a direct Transport"))
            }
            (false, _, false) => {
                Err(RequestError::type_error("cannot use type 'sctp', SCTP not enabled in this Transport"))
            }
            (false, _, true) => Err(RequestError::unsupported("data over SCTP", method)),
        }
    }

    /// Closes a DataProducer: its DataConsumers are told and close too.
    pub fn close_data_producer(&mut self, index: DataProducerIdx) {
        let Some(producer) = self.data_producers.get_mut(index) else { return };
        for consumer in std::mem::take(&mut producer.data_consumers) {
            let id = self.data_consumers[consumer].id.clone();
            self.notify(&id, notification::Event::DataConsumerDataProducerClose, None);
            self.forget_data_consumer(consumer);
        }
        let Some(producer) = self.data_producers.remove(index) else { return };
        self.handlers.remove(&producer.id);
        if let Some(transport) = self.transports.get_mut(producer.transport) {
            transport.data_producers.retain(|other| *other != index);
        }
        if let Some(router) = self.routers.get_mut(producer.router) {
            router.data_producers.remove(&producer.id);
        }
    }

    /// Closes a DataConsumer whose DataProducer goes on.
    pub fn close_data_consumer(&mut self, index: DataConsumerIdx) {
        let Some(consumer) = self.data_consumers.get(index) else { return };
        if let Some(producer) = self.data_producers.get_mut(consumer.producer) {
            producer.data_consumers.retain(|other| *other != index);
        }
        self.forget_data_consumer(index);
    }

    fn forget_data_consumer(&mut self, index: DataConsumerIdx) {
        let Some(consumer) = self.data_consumers.remove(index) else { return };
        self.handlers.remove(&consumer.id);
        if let Some(transport) = self.transports.get_mut(consumer.transport) {
            transport.data_consumers.retain(|other| *other != index);
        }
    }

    /// What a DataProducer is asked.
    pub fn dispatch_data_producer(
        &mut self,
        index: DataProducerIdx,
        method: Method,
        now: Instant,
    ) -> RequestResult<Option<response::Body>> {
        let timestamp = self.clock.unix_ms(now);
        let producer = &mut self.data_producers[index];
        let (paused, event) = match method {
            Method::DataProducerDump => {
                return Ok(Some(response::Body::DataProducerDumpResponse(Box::new(producer.dump()))));
            }
            Method::DataProducerGetStats => {
                let stats = producer::GetStatsResponse {
                    timestamp,
                    label: producer.label.clone(),
                    protocol: producer.protocol.clone(),
                    messages_received: producer.messages_received,
                    bytes_received: producer.bytes_received,
                    buffered_amount: 0,
                };
                return Ok(Some(response::Body::DataProducerGetStatsResponse(Box::new(stats))));
            }
            Method::DataProducerPause => (true, notification::Event::DataConsumerDataProducerPause),
            Method::DataProducerResume => (false, notification::Event::DataConsumerDataProducerResume),
            _ => return Err(RequestError::unknown_method(method)),
        };
        if std::mem::replace(&mut producer.paused, paused) != paused {
            for consumer in producer.data_consumers.clone() {
                let consumer = &mut self.data_consumers[consumer];
                consumer.producer_paused = paused;
                self.outbox.notify(&consumer.id, event, None);
            }
        }
        Ok(None)
    }

    /// What a DataConsumer is asked.
    pub fn dispatch_data_consumer(
        &mut self,
        index: DataConsumerIdx,
        method: Method,
        body: Option<request::Body>,
        now: Instant,
    ) -> RequestResult<Option<response::Body>> {
        use request::Body;
        let timestamp = self.clock.unix_ms(now);
        let consumer = &mut self.data_consumers[index];
        let body = match (method, body) {
            (Method::DataConsumerDump, _) => {
                response::Body::DataConsumerDumpResponse(Box::new(consumer.dump()))
            }
            (Method::DataConsumerGetStats, _) => {
                response::Body::DataConsumerGetStatsResponse(Box::new(consumer::GetStatsResponse {
                    timestamp,
                    label: consumer.label.clone(),
                    protocol: consumer.protocol.clone(),
                    messages_sent: consumer.messages_sent,
                    bytes_sent: consumer.bytes_sent,
                    buffered_amount: 0,
                }))
            }
            (Method::DataConsumerPause, _) => {
                consumer.paused = true;
                return Ok(None);
            }
            (Method::DataConsumerResume, _) => {
                consumer.paused = false;
                return Ok(None);
            }
            (
                Method::DataConsumerGetBufferedAmount
                | Method::DataConsumerSetBufferedAmountLowThreshold
                | Method::DataConsumerSend,
                _,
            ) => return Err(RequestError::type_error("invalid DataConsumer type")),
            (Method::DataConsumerSetSubchannels, Some(Body::DataConsumerSetSubchannelsRequest(body))) => {
                consumer.subchannels.clear();
                for subchannel in body.subchannels {
                    consumer.subscribe(subchannel);
                }
                let subchannels = consumer.subchannels.clone();
                let response = consumer::SetSubchannelsResponse { subchannels };
                response::Body::DataConsumerSetSubchannelsResponse(Box::new(response))
            }
            (Method::DataConsumerAddSubchannel, Some(Body::DataConsumerAddSubchannelRequest(body))) => {
                consumer.subscribe(body.subchannel);
                let subchannels = consumer.subchannels.clone();
                let response = consumer::AddSubchannelResponse { subchannels };
                response::Body::DataConsumerAddSubchannelResponse(Box::new(response))
            }
            (Method::DataConsumerRemoveSubchannel, Some(Body::DataConsumerRemoveSubchannelRequest(body))) => {
                consumer.subchannels.retain(|subchannel| *subchannel != body.subchannel);
                let subchannels = consumer.subchannels.clone();
                let response = consumer::RemoveSubchannelResponse { subchannels };
                response::Body::DataConsumerRemoveSubchannelResponse(Box::new(response))
            }
            _ => return Err(RequestError::unknown_method(method)),
        };
        Ok(Some(body))
    }

    /// A message that the driver hands in.
    pub fn direct_data(
        &mut self,
        index: DataProducerIdx,
        message: &producer::SendNotification,
        now: Instant,
    ) {
        let producer = &mut self.data_producers[index];
        let len = message.data.len();
        let transport = &mut self.transports[producer.transport];
        let longest = transport.options.max_receive_message_size as usize;
        if len > longest {
            self.outbox.error(|| format!("notification failed: message of {len} bytes exceeds {longest}"));
            return;
        }
        transport.data_received(len, now);
        producer.messages_received += 1;
        producer.bytes_received += len as u64;
        if producer.paused {
            return;
        }
        for consumer in &producer.data_consumers {
            let consumer = &mut self.data_consumers[*consumer];
            let transport = &mut self.transports[consumer.transport];
            let fits = len <= transport.options.max_send_message_size as usize;
            if consumer.paused || !fits || !consumer.wants(message) {
                continue;
            }
            consumer.messages_sent += 1;
            consumer.bytes_sent += len as u64;
            transport.data_sent(len, now);
            let body = consumer::MessageNotification { ppid: message.ppid, data: message.data.clone() };
            self.outbox.notify_media(
                &consumer.id,
                notification::Event::DataConsumerMessage,
                notification::Body::DataConsumerMessageNotification(Box::new(body)),
            );
        }
    }
}
