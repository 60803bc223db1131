//! Messages on their way: from a DataProducer, by SCTP or the driver, to its DataConsumers.

use std::sync::Arc;
use std::time::Instant;

use rtc::sctp::{OutgoingMessage, SendError};
use worker_protocol::wire::{data_consumer as consumer, data_producer as producer, notification};

use super::subchannels::Audience;
use crate::error::{RequestError, RequestResult};
use crate::table::{DataConsumerIdx, DataProducerIdx};
use crate::transport::TransportKind;
use crate::worker::Worker;

/// Why a message was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unsent {
    BufferFull,
    Otherwise,
}

impl Worker {
    /// A message that the driver hands in.
    pub fn direct_data(&mut self, index: DataProducerIdx, message: producer::SendNotification, now: Instant) {
        let len = message.data.len();
        let transport = &mut self.transports[self.data_producers[index].transport];
        let longest = transport.options.max_receive_message_size as usize;
        if len > longest {
            self.outbox.error(|| format!("notification failed: message of {len} bytes exceeds {longest}"));
            return;
        }
        transport.data_received(len, now);
        let audience = Audience {
            subchannels: message.subchannels.unwrap_or_default(),
            required: message.required_subchannel,
            ignored: message.ignored_subchannel,
        };
        self.forward_data(index, message.ppid, message.data.into(), &audience, now);
    }

    /// A message that came over SCTP.
    pub fn sctp_data(&mut self, index: DataProducerIdx, ppid: u32, data: Vec<u8>, now: Instant) {
        let Some(producer) = self.data_producers.get(index) else { return };
        let pipe = matches!(self.transports[producer.transport].kind, TransportKind::Pipe(_));
        match Audience::decode(&data).filter(|_| pipe) {
            Some((audience, payload)) => self.forward_data(index, ppid, payload.into(), &audience, now),
            None => self.forward_data(index, ppid, data.into(), &Audience::default(), now),
        }
    }

    /// What a DataProducer received goes to its DataConsumers.
    fn forward_data(
        &mut self,
        index: DataProducerIdx,
        ppid: u32,
        data: Arc<[u8]>,
        audience: &Audience,
        now: Instant,
    ) {
        let producer = &mut self.data_producers[index];
        producer.messages_received += 1;
        producer.bytes_received += data.len() as u64;
        if producer.paused {
            return;
        }
        for position in 0..producer.data_consumers.len() {
            let Some(consumer) = self.data_producers[index].data_consumers.get(position).copied() else {
                break;
            };
            // Who is behind, or wants nothing of it, goes without; the buffer being full, the driver was told.
            let _ = self.deliver_data(consumer, ppid, &data, audience, now);
        }
    }

    /// A message that the driver sends to one DataConsumer.
    pub fn send_to_data_consumer(
        &mut self,
        index: DataConsumerIdx,
        ppid: u32,
        data: Vec<u8>,
        now: Instant,
    ) -> RequestResult<()> {
        let transport = &self.transports[self.data_consumers[index].transport];
        let longest = transport.options.max_send_message_size as usize;
        if data.len() > longest {
            return Err(RequestError::type_error(format!(
                "given message of {} bytes exceeds maxMessageSize {longest}",
                data.len()
            )));
        }
        let sent = self.deliver_data(index, ppid, &data.into(), &Audience::default(), now);
        // The driver is told what waits after this message, not what waits for the end of the turn.
        self.service_sctp(now);
        sent.map_err(|unsent| match unsent {
            // The name by which applications know it.
            Unsent::BufferFull => RequestError::error("sctpsendbufferfull"),
            Unsent::Otherwise => RequestError::error("message send failed"),
        })
    }

    fn deliver_data(
        &mut self,
        index: DataConsumerIdx,
        ppid: u32,
        data: &Arc<[u8]>,
        audience: &Audience,
        now: Instant,
    ) -> Result<(), Unsent> {
        let data_consumer = &mut self.data_consumers[index];
        let transport = &mut self.transports[data_consumer.transport];
        let pipe = matches!(transport.kind, TransportKind::Pipe(_));
        if !data_consumer.is_active() || !data_consumer.subscriptions.want(audience, pipe) {
            return Err(Unsent::Otherwise);
        }
        let encoded = if pipe { data_consumer.subscriptions.encode(audience, data) } else { None };
        let data = encoded.map_or_else(|| data.clone(), Arc::from);
        let len = data.len();
        if len > transport.options.max_send_message_size as usize {
            self.counters.data_too_long += 1;
            return Err(Unsent::Otherwise);
        }
        match (data_consumer.stream, &mut transport.sctp) {
            (Some(stream), Some(sctp)) => {
                let message = OutgoingMessage { stream: stream.id, ppid, data, delivery: stream.delivery };
                if let Err(error) = sctp.association.send(message, now) {
                    self.counters.data_refused += 1;
                    if error != SendError::BufferFull {
                        return Err(Unsent::Otherwise);
                    }
                    let event = notification::Event::DataConsumerSctpSendBufferFull;
                    self.outbox.notify_talk(&data_consumer.id, event, None);
                    return Err(Unsent::BufferFull);
                }
                let transport = data_consumer.transport;
                self.touch_sctp(transport);
            }
            _ => {
                transport.data_sent(len, now);
                let body = consumer::MessageNotification { ppid, data: data.to_vec() };
                self.outbox.notify_media(
                    &data_consumer.id,
                    notification::Event::DataConsumerMessage,
                    notification::Body::DataConsumerMessageNotification(Box::new(body)),
                );
            }
        }
        let data_consumer = &mut self.data_consumers[index];
        data_consumer.messages_sent += 1;
        data_consumer.bytes_sent += len as u64;
        Ok(())
    }
}
