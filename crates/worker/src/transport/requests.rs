//! What a driver asks of a Router's Transports, and of the Producers and Consumers on them.

use std::time::Instant;

use worker_protocol::wire::request::{self, Method};
use worker_protocol::wire::{consumer, producer, response, transport as wire, web_rtc_transport};

use super::{MAX_BITRATE, MIN_OUTGOING_BITRATE, TransportKind, TransportOptions, TransportTraces};
use crate::consumer::ConsumerTraces;
use crate::error::{RequestError, RequestResult};
use crate::method::method_name;
use crate::producer::ProducerTraces;
use crate::table::{ConsumerIdx, ProducerIdx, RouterIdx, TransportIdx};
use crate::worker::{Deferred, Handler, Worker, not_found};

type Answer = RequestResult<Option<response::Body>>;

impl Worker {
    /// What a Router is asked.
    pub fn dispatch_router(
        &mut self,
        router: RouterIdx,
        method: Method,
        body: Option<request::Body>,
        now: Instant,
    ) -> Answer {
        use request::Body;
        let created = match (method, body) {
            (Method::RouterDump, _) => return Ok(Some(self.dump_router(router))),
            (
                Method::RouterCreateWebRtcTransport | Method::RouterCreateWebRtcTransportWithServer,
                Some(Body::RouterCreateWebRtcTransportRequest(body)),
            ) => {
                self.check_no_handler(&body.transport_id, "Transport")?;
                self.create_web_rtc_transport(router, body.transport_id, *body.options, now)?
            }
            (Method::RouterCreatePlainTransport, Some(Body::RouterCreatePlainTransportRequest(body))) => {
                self.check_no_handler(&body.transport_id, "Transport")?;
                self.create_plain_transport(router, body.transport_id, *body.options)?
            }
            (Method::RouterCreatePipeTransport, Some(Body::RouterCreatePipeTransportRequest(body))) => {
                self.check_no_handler(&body.transport_id, "Transport")?;
                self.create_pipe_transport(router, body.transport_id, *body.options)?
            }
            (Method::RouterCreateDirectTransport, Some(Body::RouterCreateDirectTransportRequest(body))) => {
                self.check_no_handler(&body.transport_id, "Transport")?;
                let options = TransportOptions::parse(&body.options.base)?;
                let index = self.insert_transport(router, body.transport_id, TransportKind::Direct, options);
                self.deferred.push(Deferred::TransportConnected(index));
                index
            }
            (Method::RouterCloseTransport, Some(Body::RouterCloseTransportRequest(body))) => {
                let index = self.transport_of(router, &body.transport_id, method_name(method))?;
                self.close_transport(index);
                return Ok(None);
            }
            (
                Method::RouterCreateAudioLevelObserver
                | Method::RouterCreateActiveSpeakerObserver
                | Method::RouterCloseRtpObserver,
                Some(body),
            ) => return self.dispatch_router_observers(router, method, body, now),
            (
                Method::RouterCreateWebRtcTransport
                | Method::RouterCreateWebRtcTransportWithServer
                | Method::RouterCreatePlainTransport
                | Method::RouterCreatePipeTransport
                | Method::RouterCreateDirectTransport
                | Method::RouterCloseTransport
                | Method::RouterCreateAudioLevelObserver
                | Method::RouterCreateActiveSpeakerObserver
                | Method::RouterCloseRtpObserver,
                _,
            ) => return Err(RequestError::missing_body(method)),
            _ => return Err(RequestError::unknown_method(method)),
        };
        Ok(Some(self.dump_transport(created)))
    }

    /// What a Transport is asked.
    pub fn dispatch_transport(
        &mut self,
        index: TransportIdx,
        method: Method,
        body: Option<request::Body>,
        now: Instant,
    ) -> Answer {
        use request::Body;
        match (method, body) {
            (Method::TransportDump, _) => Ok(Some(self.dump_transport(index))),
            (Method::TransportGetStats, _) => Ok(Some(self.transport_stats(index, now))),
            (Method::TransportRestartIce, _) => self.restart_ice(index, now).map(Some),
            (Method::WebRtcTransportConnect, Some(Body::WebRtcTransportConnectRequest(body))) => {
                let dtls_local_role = self.connect_web_rtc_transport(index, &body.dtls_parameters, now)?;
                Ok(Some(response::Body::WebRtcTransportConnectResponse(Box::new(
                    web_rtc_transport::ConnectResponse { dtls_local_role },
                ))))
            }
            (Method::PlainTransportConnect, Some(Body::PlainTransportConnectRequest(body))) => {
                let response = self.connect_plain_transport(index, &body)?;
                if self.transports[index].path.is_some() {
                    self.deferred.push(Deferred::TransportConnected(index));
                }
                Ok(Some(response::Body::PlainTransportConnectResponse(Box::new(response))))
            }
            (Method::PipeTransportConnect, Some(Body::PipeTransportConnectRequest(body))) => {
                let response = self.connect_pipe_transport(index, &body)?;
                self.deferred.push(Deferred::TransportConnected(index));
                Ok(Some(response::Body::PipeTransportConnectResponse(Box::new(response))))
            }
            (Method::TransportProduce, Some(Body::TransportProduceRequest(body))) => {
                let id = body.producer_id.clone();
                self.check_no_handler(&id, "Producer")?;
                let producer = self.producers.next_index();
                let response = self.produce(index, *body)?;
                self.register(id, Handler::Producer(producer));
                Ok(Some(response::Body::TransportProduceResponse(Box::new(response))))
            }
            (Method::TransportConsume, Some(Body::TransportConsumeRequest(body))) => {
                let id = body.consumer_id.clone();
                self.check_no_handler(&id, "Consumer")?;
                let consumer = self.consumers.next_index();
                let response = self.consume(index, *body, now)?;
                self.register(id, Handler::Consumer(consumer));
                Ok(Some(response::Body::TransportConsumeResponse(Box::new(response))))
            }
            (Method::TransportProduceData, Some(Body::TransportProduceDataRequest(body))) => {
                self.produce_data(index, *body).map(Some)
            }
            (Method::TransportConsumeData, Some(Body::TransportConsumeDataRequest(body))) => {
                self.consume_data(index, *body).map(Some)
            }
            (Method::TransportCloseProducer, Some(Body::TransportCloseProducerRequest(body))) => {
                let found = self.transports[index].producers.iter().copied();
                let producer =
                    found.into_iter().find(|producer| self.producers[*producer].id == body.producer_id);
                self.close_producer(producer.ok_or_else(|| not_found("Producer", method))?);
                Ok(None)
            }
            (Method::TransportCloseConsumer, Some(Body::TransportCloseConsumerRequest(body))) => {
                let found = self.transports[index].consumers.iter().copied();
                let consumer =
                    found.into_iter().find(|consumer| self.consumers[*consumer].id == body.consumer_id);
                self.close_consumer(consumer.ok_or_else(|| not_found("Consumer", method))?);
                Ok(None)
            }
            (Method::TransportCloseDataProducer, Some(Body::TransportCloseDataProducerRequest(body))) => {
                let mut found = self.transports[index].data_producers.iter().copied();
                let producer =
                    found.find(|producer| self.data_producers[*producer].id == body.data_producer_id);
                self.close_data_producer(producer.ok_or_else(|| not_found("DataProducer", method))?);
                Ok(None)
            }
            (Method::TransportCloseDataConsumer, Some(Body::TransportCloseDataConsumerRequest(body))) => {
                let mut found = self.transports[index].data_consumers.iter().copied();
                let consumer =
                    found.find(|consumer| self.data_consumers[*consumer].id == body.data_consumer_id);
                self.close_data_consumer(consumer.ok_or_else(|| not_found("DataConsumer", method))?);
                Ok(None)
            }
            (Method::TransportEnableTraceEvent, Some(Body::TransportEnableTraceEventRequest(body))) => {
                self.transports[index].traces = TransportTraces {
                    probation: body.events.contains(&wire::TraceEventType::Probation),
                    bwe: body.events.contains(&wire::TraceEventType::Bwe),
                };
                Ok(None)
            }
            (method, body) => self.set_bitrates(index, method, body, now),
        }
    }

    fn set_bitrates(
        &mut self,
        index: TransportIdx,
        method: Method,
        body: Option<request::Body>,
        now: Instant,
    ) -> Answer {
        use request::Body;
        let limits = &mut self.transports[index].bitrates;
        match (method, body) {
            (
                Method::TransportSetMaxIncomingBitrate,
                Some(Body::TransportSetMaxIncomingBitrateRequest(body)),
            ) => {
                check_bitrate(body.max_incoming_bitrate, 0)?;
                limits.max_incoming = body.max_incoming_bitrate;
                self.limit_incoming(index);
                self.announce_incoming_limit(index, now);
            }
            (
                Method::TransportSetMaxOutgoingBitrate,
                Some(Body::TransportSetMaxOutgoingBitrateRequest(body)),
            ) => {
                let bitrate = body.max_outgoing_bitrate;
                check_bitrate(bitrate, MIN_OUTGOING_BITRATE)?;
                if bitrate > 0 && bitrate < limits.min_outgoing {
                    return Err(RequestError::type_error(format!(
                        "bitrate must be >= current min outgoing bitrate ({}) or 0 (unlimited)",
                        limits.min_outgoing
                    )));
                }
                limits.max_outgoing = bitrate;
                self.limit_outgoing(index, now);
            }
            (
                Method::TransportSetMinOutgoingBitrate,
                Some(Body::TransportSetMinOutgoingBitrateRequest(body)),
            ) => {
                let bitrate = body.min_outgoing_bitrate;
                check_bitrate(bitrate, MIN_OUTGOING_BITRATE)?;
                if bitrate > 0 && limits.max_outgoing > 0 && bitrate > limits.max_outgoing {
                    return Err(RequestError::type_error(format!(
                        "bitrate must be <= current max outgoing bitrate ({}) or 0 (unlimited)",
                        limits.max_outgoing
                    )));
                }
                limits.min_outgoing = bitrate;
                self.limit_outgoing(index, now);
            }
            _ => return Err(RequestError::unknown_method(method)),
        }
        Ok(None)
    }

    /// What a Producer is asked.
    pub fn dispatch_producer(
        &mut self,
        index: ProducerIdx,
        method: Method,
        body: Option<request::Body>,
        now: Instant,
    ) -> Answer {
        match (method, body) {
            (Method::ProducerDump, _) => {
                Ok(Some(response::Body::ProducerDumpResponse(Box::new(self.producers[index].dump()))))
            }
            (Method::ProducerGetStats, _) => {
                let timestamp = self.clock.unix_ms(now);
                let producer = &mut self.producers[index];
                producer.streams.sort_by_key(|stream| stream.encoding_idx);
                let streams = producer.streams.iter_mut();
                let stats = streams
                    .map(|stream| crate::producer::stats::recv_stats(stream, timestamp, now))
                    .collect();
                Ok(Some(response::Body::ProducerGetStatsResponse(Box::new(producer::GetStatsResponse {
                    stats,
                }))))
            }
            (Method::ProducerPause, _) => {
                self.pause_producer(index);
                Ok(None)
            }
            (Method::ProducerResume, _) => {
                self.resume_producer(index, now);
                Ok(None)
            }
            (
                Method::ProducerEnableTraceEvent,
                Some(request::Body::ProducerEnableTraceEventRequest(body)),
            ) => {
                self.producers[index].traces = ProducerTraces::parse(&body.events);
                Ok(None)
            }
            _ => Err(RequestError::unknown_method(method)),
        }
    }

    /// What a Consumer is asked.
    pub fn dispatch_consumer(
        &mut self,
        index: ConsumerIdx,
        method: Method,
        body: Option<request::Body>,
        now: Instant,
    ) -> Answer {
        use request::Body;
        match (method, body) {
            (Method::ConsumerDump, _) => {
                Ok(Some(response::Body::ConsumerDumpResponse(Box::new(self.consumers[index].dump()))))
            }
            (Method::ConsumerGetStats, _) => {
                let stats = self.consumer_stats(index, now);
                Ok(Some(response::Body::ConsumerGetStatsResponse(Box::new(stats))))
            }
            (Method::ConsumerPause, _) => {
                self.pause_consumer(index);
                Ok(None)
            }
            (Method::ConsumerResume, _) => {
                self.resume_consumer(index, now);
                Ok(None)
            }
            (Method::ConsumerRequestKeyFrame, _) => {
                if self.consumers[index].is_active() {
                    self.request_consumer_key_frames(index, now);
                }
                Ok(None)
            }
            (Method::ConsumerSetPreferredLayers, Some(Body::ConsumerSetPreferredLayersRequest(body))) => {
                let response = self.set_preferred_layers(index, &body.preferred_layers);
                Ok(Some(response::Body::ConsumerSetPreferredLayersResponse(Box::new(response))))
            }
            (Method::ConsumerSetPriority, Some(Body::ConsumerSetPriorityRequest(body))) => {
                if body.priority < 1 {
                    return Err(RequestError::type_error("wrong priority (must be higher than 0)"));
                }
                self.consumers[index].priority = body.priority;
                self.deferred.push(Deferred::ConsumerLayers(index));
                let response = consumer::SetPriorityResponse { priority: body.priority };
                Ok(Some(response::Body::ConsumerSetPriorityResponse(Box::new(response))))
            }
            (Method::ConsumerEnableTraceEvent, Some(Body::ConsumerEnableTraceEventRequest(body))) => {
                self.consumers[index].traces = ConsumerTraces::parse(&body.events);
                Ok(None)
            }
            _ => Err(RequestError::unknown_method(method)),
        }
    }
}

fn check_bitrate(bitrate: u64, least: u64) -> RequestResult<()> {
    if bitrate > MAX_BITRATE {
        return Err(RequestError::type_error(format!("bitrate must be <= {MAX_BITRATE} or 0 (unlimited)")));
    }
    if bitrate > 0 && bitrate < least {
        return Err(RequestError::type_error(format!("bitrate must be >= {least} or 0 (unlimited)")));
    }
    Ok(())
}
