//! DataProducers and DataConsumers: how they are made and closed, and what the driver asks of them. Their messages come
//! and go in `data/messages.rs`, over SCTP by `transport/sctp.rs`.

pub mod messages;
pub mod parameters;
pub mod subchannels;

use std::time::Instant;

use worker_protocol::wire::request::{self, Method};
use worker_protocol::wire::{
    data_consumer as consumer, data_producer as producer, notification, response, transport,
};

use self::parameters::StreamParameters;
use self::subchannels::Subscriptions;
use crate::error::{RequestError, RequestResult};
use crate::table::{DataConsumerIdx, DataProducerIdx, RouterIdx, TransportIdx};
use crate::worker::{Deferred, Handler, Worker};

/// A DataProducer.
#[derive(Debug)]
pub struct DataProducer {
    /// Its id.
    pub id: String,
    transport: TransportIdx,
    router: RouterIdx,
    /// Its SCTP stream; direct ones have none.
    stream: Option<StreamParameters>,
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
    /// Its SCTP stream; direct ones have none.
    stream: Option<StreamParameters>,
    /// The peer closed its data channel: nothing is sent any more, and the stream is no longer this one's.
    detached: bool,
    label: String,
    protocol: String,
    paused: bool,
    producer_paused: bool,
    subscriptions: Subscriptions,
    messages_sent: u64,
    bytes_sent: u64,
}

impl DataProducer {
    fn dump(&self) -> producer::DumpResponse {
        producer::DumpResponse {
            id: self.id.clone(),
            type_: if self.stream.is_some() { producer::Type::Sctp } else { producer::Type::Direct },
            sctp_stream_parameters: self.stream.map(|stream| Box::new(stream.dump())),
            label: self.label.clone(),
            protocol: self.protocol.clone(),
            paused: self.paused,
        }
    }
}

impl DataConsumer {
    /// Whether messages are sent.
    fn is_active(&self) -> bool {
        !self.paused && !self.producer_paused && !self.detached
    }

    /// The peer closed its data channel.
    pub fn detach(&mut self) {
        self.detached = true;
    }
}

impl Worker {
    /// Answers `transport.produceData()`.
    pub fn produce_data(
        &mut self,
        index: TransportIdx,
        request: transport::ProduceDataRequest,
    ) -> RequestResult<response::Body> {
        let direct = request.type_ == producer::Type::Direct;
        self.check_data(index, direct)?;
        self.check_no_handler(&request.data_producer_id, "DataProducer")?;
        let stream = StreamParameters::parse(direct, request.sctp_stream_parameters.as_deref())?;
        let transport = &mut self.transports[index];
        let router = transport.router;
        let producer = self.data_producers.next_index();
        if let (Some(stream), Some(sctp)) = (stream, &mut transport.sctp) {
            if sctp.producers.contains_key(&stream.id) {
                return Err(RequestError::error(format!("streamId {} is another DataProducer's", stream.id)));
            }
            sctp.producers.insert(stream.id, producer);
        }
        transport.data_producers.push(producer);
        let created = DataProducer {
            id: request.data_producer_id.clone(),
            transport: index,
            router,
            stream,
            label: request.label.unwrap_or_default(),
            protocol: request.protocol.unwrap_or_default(),
            paused: request.paused,
            messages_received: 0,
            bytes_received: 0,
            data_consumers: Vec::new(),
        };
        let dump = created.dump();
        self.data_producers.insert(created);
        self.routers[router].data_producers.insert(request.data_producer_id.clone(), producer);
        self.register(request.data_producer_id, Handler::DataProducer(producer));
        self.deferred.push(Deferred::Sctp(index));
        Ok(response::Body::DataProducerDumpResponse(Box::new(dump)))
    }

    /// Answers `transport.consumeData()`.
    pub fn consume_data(
        &mut self,
        index: TransportIdx,
        request: transport::ConsumeDataRequest,
    ) -> RequestResult<response::Body> {
        let direct = request.type_ == consumer::Type::Direct;
        self.check_data(index, direct)?;
        self.check_no_handler(&request.data_consumer_id, "DataConsumer")?;
        let stream = StreamParameters::parse(direct, request.sctp_stream_parameters.as_deref())?;
        let router = self.transports[index].router;
        let producers = &self.routers[router].data_producers;
        let producer = producers.get(&request.data_producer_id).copied().ok_or_else(|| {
            RequestError::not_found(format!(
                "DataProducer not found [dataProducerId:{}]",
                request.data_producer_id
            ))
        })?;
        let transport = &mut self.transports[index];
        let consumer = self.data_consumers.next_index();
        if let (Some(stream), Some(sctp)) = (stream, &mut transport.sctp) {
            if sctp.consumers.contains_key(&stream.id) {
                return Err(RequestError::error(format!("streamId {} is another DataConsumer's", stream.id)));
            }
            sctp.consumers.insert(stream.id, consumer);
        }
        transport.data_consumers.push(consumer);
        self.data_consumers.insert(DataConsumer {
            id: request.data_consumer_id.clone(),
            transport: index,
            producer,
            producer_id: request.data_producer_id,
            stream,
            detached: false,
            label: request.label.unwrap_or_default(),
            protocol: request.protocol.unwrap_or_default(),
            paused: request.paused,
            producer_paused: self.data_producers[producer].paused,
            subscriptions: request.subchannels.unwrap_or_default().into_iter().collect(),
            messages_sent: 0,
            bytes_sent: 0,
        });
        let dump = self.dump_data_consumer(consumer);
        self.data_producers[producer].data_consumers.push(consumer);
        self.register(request.data_consumer_id, Handler::DataConsumer(consumer));
        self.deferred.push(Deferred::Sctp(index));
        Ok(response::Body::DataConsumerDumpResponse(Box::new(dump)))
    }

    fn check_data(&self, index: TransportIdx, direct: bool) -> RequestResult<()> {
        let transport = &self.transports[index];
        match (direct, transport.options.direct, transport.sctp.is_some()) {
            (_, false, false) => Err(RequestError::error("SCTP not enabled and not a direct Transport")),
            (true, true, _) | (false, _, true) => Ok(()),
            (true, false, _) => {
                Err(RequestError::type_error("cannot use type 'direct', not a direct Transport"))
            }
            (false, _, false) => {
                Err(RequestError::type_error("cannot use type 'sctp', SCTP not enabled in this Transport"))
            }
        }
    }

    fn dump_data_consumer(&self, index: DataConsumerIdx) -> consumer::DumpResponse {
        let data_consumer = &self.data_consumers[index];
        let (buffered_amount, buffered_amount_low_threshold) = self.buffered(index);
        consumer::DumpResponse {
            id: data_consumer.id.clone(),
            data_producer_id: data_consumer.producer_id.clone(),
            type_: if data_consumer.stream.is_some() { consumer::Type::Sctp } else { consumer::Type::Direct },
            sctp_stream_parameters: data_consumer.stream.map(|stream| Box::new(stream.dump())),
            label: data_consumer.label.clone(),
            protocol: data_consumer.protocol.clone(),
            buffered_amount,
            buffered_amount_low_threshold,
            paused: data_consumer.paused,
            data_producer_paused: data_consumer.producer_paused,
            subchannels: data_consumer.subscriptions.list(),
        }
    }

    /// What waits to be sent to a DataConsumer, and from what amount it is little; zero where nothing can wait.
    fn buffered(&self, index: DataConsumerIdx) -> (u32, u32) {
        let consumer = &self.data_consumers[index];
        let sctp = self.transports.get(consumer.transport).and_then(|transport| transport.sctp.as_ref());
        let (Some(stream), Some(sctp), false) = (consumer.stream, sctp, consumer.detached) else {
            return (0, 0);
        };
        let association = &sctp.association;
        let narrow = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        (
            narrow(association.buffered_amount(stream.id)),
            narrow(association.buffered_amount_low_threshold(stream.id)),
        )
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
            if let (Some(stream), Some(sctp)) = (producer.stream, &mut transport.sctp) {
                sctp.producers.remove(&stream.id);
                // RFC 8831 section 6.7: a data channel is closed by resetting the outgoing stream.
                if sctp.is_data_channel {
                    sctp.association.reset_stream(stream.id);
                    self.touch_sctp(producer.transport);
                }
            }
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
            if let (Some(stream), Some(sctp), false) =
                (consumer.stream, &mut transport.sctp, consumer.detached)
            {
                sctp.consumers.remove(&stream.id);
                sctp.association.reset_stream(stream.id);
                self.touch_sctp(consumer.transport);
            }
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
        let data_consumer = &mut self.data_consumers[index];
        let body = match (method, body) {
            (Method::DataConsumerDump, _) => {
                response::Body::DataConsumerDumpResponse(Box::new(self.dump_data_consumer(index)))
            }
            (Method::DataConsumerGetStats, _) => {
                let timestamp = self.clock.unix_ms(now);
                let stats = self.data_consumer_stats(index, timestamp);
                response::Body::DataConsumerGetStatsResponse(Box::new(stats))
            }
            (Method::DataConsumerPause, _) => {
                data_consumer.paused = true;
                return Ok(None);
            }
            (Method::DataConsumerResume, _) => {
                data_consumer.paused = false;
                return Ok(None);
            }
            (
                Method::DataConsumerGetBufferedAmount
                | Method::DataConsumerSetBufferedAmountLowThreshold
                | Method::DataConsumerSend,
                body,
            ) => return self.dispatch_buffered(index, method, body, now),
            (Method::DataConsumerSetSubchannels, Some(Body::DataConsumerSetSubchannelsRequest(body))) => {
                data_consumer.subscriptions = body.subchannels.into_iter().collect();
                let subchannels = data_consumer.subscriptions.list();
                let response = consumer::SetSubchannelsResponse { subchannels };
                response::Body::DataConsumerSetSubchannelsResponse(Box::new(response))
            }
            (Method::DataConsumerAddSubchannel, Some(Body::DataConsumerAddSubchannelRequest(body))) => {
                data_consumer.subscriptions.add(body.subchannel);
                let subchannels = data_consumer.subscriptions.list();
                let response = consumer::AddSubchannelResponse { subchannels };
                response::Body::DataConsumerAddSubchannelResponse(Box::new(response))
            }
            (Method::DataConsumerRemoveSubchannel, Some(Body::DataConsumerRemoveSubchannelRequest(body))) => {
                data_consumer.subscriptions.remove(body.subchannel);
                let subchannels = data_consumer.subscriptions.list();
                let response = consumer::RemoveSubchannelResponse { subchannels };
                response::Body::DataConsumerRemoveSubchannelResponse(Box::new(response))
            }
            _ => return Err(RequestError::unknown_method(method)),
        };
        Ok(Some(body))
    }

    fn data_consumer_stats(&self, index: DataConsumerIdx, timestamp: u64) -> consumer::GetStatsResponse {
        let data_consumer = &self.data_consumers[index];
        consumer::GetStatsResponse {
            timestamp,
            label: data_consumer.label.clone(),
            protocol: data_consumer.protocol.clone(),
            messages_sent: data_consumer.messages_sent,
            bytes_sent: data_consumer.bytes_sent,
            buffered_amount: self.buffered(index).0,
        }
    }

    /// What only a DataConsumer over SCTP can be asked.
    fn dispatch_buffered(
        &mut self,
        index: DataConsumerIdx,
        method: Method,
        body: Option<request::Body>,
        now: Instant,
    ) -> RequestResult<Option<response::Body>> {
        use request::Body;
        let data_consumer = &self.data_consumers[index];
        let Some(stream) = data_consumer.stream else {
            return Err(RequestError::type_error("invalid DataConsumer type"));
        };
        match (method, body) {
            (Method::DataConsumerGetBufferedAmount, _) => {
                let response =
                    consumer::GetBufferedAmountResponse { buffered_amount: self.buffered(index).0 };
                Ok(Some(response::Body::DataConsumerGetBufferedAmountResponse(Box::new(response))))
            }
            (
                Method::DataConsumerSetBufferedAmountLowThreshold,
                Some(Body::DataConsumerSetBufferedAmountLowThresholdRequest(body)),
            ) => {
                let transport = data_consumer.transport;
                if !data_consumer.detached
                    && let Some(sctp) = &mut self.transports[transport].sctp
                {
                    let bytes = body.threshold as usize;
                    sctp.association.set_buffered_amount_low_threshold(stream.id, bytes);
                    self.touch_sctp(transport);
                }
                Ok(None)
            }
            (Method::DataConsumerSend, Some(Body::DataConsumerSendRequest(body))) => {
                self.send_to_data_consumer(index, body.ppid, body.data, now)?;
                let response = consumer::SendResponse { buffered_amount: self.buffered(index).0 };
                Ok(Some(response::Body::DataConsumerSendResponse(Box::new(response))))
            }
            _ => Err(RequestError::missing_body(method)),
        }
    }
}
