//! Data messages between endpoints: DataProducers and DataConsumers over SCTP.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use ortc::SctpStreamParameters;
use serde::Serialize;
use worker_protocol::wire::{
    data_consumer, data_producer,
    request::{self, Method},
    response::Body,
    transport as wire,
};

use crate::{
    channel::lock,
    error::MediaError,
    id::{DataConsumerId, DataProducerId},
    object::{CloseOnDrop, Kind, Object},
    transport::Transport,
    wire_parameters::{sctp_stream_parameters_from_wire, sctp_stream_parameters_to_wire},
};

/// Streams that DataConsumers of one transport may use: all but the last, which data channels leave out.
const STREAMS: u16 = 65_535;

/// How a DataProducer is made.
#[derive(Debug, Clone)]
pub struct DataProducerOptions {
    /// Its id; `None` for a random one.
    pub id: Option<DataProducerId>,
    /// The stream that the endpoint sends on, and how.
    pub sctp_stream_parameters: SctpStreamParameters,
    /// The data channel's label.
    pub label: String,
    /// The data channel's subprotocol.
    pub protocol: String,
    /// Whether it starts paused.
    pub paused: bool,
}

/// A DataProducer. Clones are handles of the same one; it is closed when the last is dropped.
#[derive(Debug, Clone)]
pub struct DataProducer(Arc<ProducerInner>);

#[derive(Debug)]
struct ProducerInner {
    object: CloseOnDrop,
    id: DataProducerId,
    sctp_stream_parameters: SctpStreamParameters,
    label: String,
    protocol: String,
}

/// A DataConsumer. Clones are handles of the same one; it is closed when the last is dropped.
#[derive(Debug, Clone)]
pub struct DataConsumer(Arc<ConsumerInner>);

#[derive(Debug)]
struct ConsumerInner {
    object: CloseOnDrop,
    id: DataConsumerId,
    sctp_stream_parameters: SctpStreamParameters,
    /// Given back when the last handle is gone.
    _stream: StreamLease,
}

/// Numbers about a DataProducer, as mediasoup documents them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "mediasoup's names")]
pub struct DataProducerStats {
    #[serde(rename = "type")]
    pub stats_type: &'static str,
    pub timestamp: u64,
    pub label: String,
    pub protocol: String,
    pub messages_received: u64,
    pub bytes_received: u64,
}

/// Numbers about a DataConsumer, as mediasoup documents them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "mediasoup's names")]
pub struct DataConsumerStats {
    #[serde(rename = "type")]
    pub stats_type: &'static str,
    pub timestamp: u64,
    pub label: String,
    pub protocol: String,
    pub messages_sent: u64,
    pub bytes_sent: u64,
    pub buffered_amount: u32,
}

impl Transport {
    /// Receives messages from the endpoint.
    ///
    /// # Errors
    /// [`MediaError::Negotiation`] where the stream's parameters contradict each other, and as every request.
    pub async fn produce_data(&self, options: DataProducerOptions) -> Result<DataProducer, MediaError> {
        let DataProducerOptions { id, mut sctp_stream_parameters, label, protocol, paused } = options;
        ortc::validate_sctp_stream_parameters(&mut sctp_stream_parameters)?;
        let id = id.unwrap_or_else(DataProducerId::random);
        let object = CloseOnDrop(Object::child(self.object(), Kind::DataProducer, id.shared())?);
        let body = wire::ProduceDataRequest {
            data_producer_id: id.as_str().to_owned(),
            type_: data_producer::Type::Sctp,
            sctp_stream_parameters: Some(Box::new(sctp_stream_parameters_to_wire(&sctp_stream_parameters))),
            label: Some(label.clone()),
            protocol: Some(protocol.clone()),
            paused,
        };
        let body = request::Body::TransportProduceDataRequest(Box::new(body));
        object.created(self.object().request(Method::TransportProduceData, Some(body)).await)?;
        Ok(DataProducer(Arc::new(ProducerInner { object, id, sctp_stream_parameters, label, protocol })))
    }

    /// Sends a DataProducer's messages to the endpoint, on a free stream and as reliably as they come.
    ///
    /// # Errors
    /// As every request: see [`MediaError`].
    pub async fn consume_data(&self, of: &DataProducer, paused: bool) -> Result<DataConsumer, MediaError> {
        let stream = self.data_streams().lease().ok_or(MediaError::NoFreeStream)?;
        let id = DataConsumerId::random();
        let object = CloseOnDrop(Object::child(self.object(), Kind::DataConsumer, id.shared())?);
        let parameters = SctpStreamParameters { stream_id: stream.id, ..of.0.sctp_stream_parameters };
        let body = wire::ConsumeDataRequest {
            data_consumer_id: id.as_str().to_owned(),
            data_producer_id: of.id().as_str().to_owned(),
            type_: data_consumer::Type::Sctp,
            sctp_stream_parameters: Some(Box::new(sctp_stream_parameters_to_wire(&parameters))),
            label: Some(of.0.label.clone()),
            protocol: Some(of.0.protocol.clone()),
            paused,
            subchannels: None,
        };
        let body = request::Body::TransportConsumeDataRequest(Box::new(body));
        let answer = object.created(self.object().request(Method::TransportConsumeData, Some(body)).await)?;
        let Some(Body::DataConsumerDumpResponse(answer)) = answer else {
            return Err(MediaError::UnexpectedAnswer(Method::TransportConsumeData));
        };
        let sctp_stream_parameters =
            answer.sctp_stream_parameters.as_deref().map_or(parameters, sctp_stream_parameters_from_wire);
        Ok(DataConsumer(Arc::new(ConsumerInner { object, id, sctp_stream_parameters, _stream: stream })))
    }
}

impl DataProducer {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> &DataProducerId {
        &self.0.id
    }

    /// The data channel's label.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.0.label
    }

    /// The data channel's subprotocol.
    #[must_use]
    pub fn protocol(&self) -> &str {
        &self.0.protocol
    }

    /// Its statistics.
    ///
    /// # Errors
    /// As every request: see [`MediaError`].
    pub async fn stats(&self) -> Result<DataProducerStats, MediaError> {
        match self.0.object.0.request(Method::DataProducerGetStats, None).await? {
            Some(Body::DataProducerGetStatsResponse(answer)) => Ok(DataProducerStats {
                stats_type: "data-producer",
                timestamp: answer.timestamp,
                label: answer.label,
                protocol: answer.protocol,
                messages_received: answer.messages_received,
                bytes_received: answer.bytes_received,
            }),
            _ => Err(MediaError::UnexpectedAnswer(Method::DataProducerGetStats)),
        }
    }

    /// Closes it, and its DataConsumers. Closing twice is no error.
    ///
    /// # Errors
    /// As every request: see [`MediaError`].
    pub async fn close(&self) -> Result<(), MediaError> {
        self.0.object.0.close().await
    }
}

impl DataConsumer {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> &DataConsumerId {
        &self.0.id
    }

    /// The stream that the endpoint receives on, and how.
    #[must_use]
    pub fn sctp_stream_parameters(&self) -> &SctpStreamParameters {
        &self.0.sctp_stream_parameters
    }

    /// Sends messages from now on.
    ///
    /// # Errors
    /// As every request: see [`MediaError`].
    pub async fn resume(&self) -> Result<(), MediaError> {
        self.0.object.0.request(Method::DataConsumerResume, None).await.map(drop)
    }

    /// Its statistics.
    ///
    /// # Errors
    /// As every request: see [`MediaError`].
    pub async fn stats(&self) -> Result<DataConsumerStats, MediaError> {
        match self.0.object.0.request(Method::DataConsumerGetStats, None).await? {
            Some(Body::DataConsumerGetStatsResponse(answer)) => Ok(DataConsumerStats {
                stats_type: "data-consumer",
                timestamp: answer.timestamp,
                label: answer.label,
                protocol: answer.protocol,
                messages_sent: answer.messages_sent,
                bytes_sent: answer.bytes_sent,
                buffered_amount: answer.buffered_amount,
            }),
            _ => Err(MediaError::UnexpectedAnswer(Method::DataConsumerGetStats)),
        }
    }

    /// Closes it. Closing twice is no error.
    ///
    /// # Errors
    /// As every request: see [`MediaError`].
    pub async fn close(&self) -> Result<(), MediaError> {
        self.0.object.0.close().await
    }
}

/// Which streams of a transport DataConsumers use.
#[derive(Debug, Clone, Default)]
pub(crate) struct DataStreams(Arc<Mutex<Used>>);

#[derive(Debug, Default)]
struct Used {
    streams: BTreeSet<u16>,
    next: u16,
}

/// A stream that is in use until this is dropped.
#[derive(Debug)]
struct StreamLease {
    id: u16,
    streams: DataStreams,
}

impl DataStreams {
    /// The next free stream, in turn: the one that was given back last rests longest, while the peer resets it.
    fn lease(&self) -> Option<StreamLease> {
        let mut used = lock(&self.0);
        if used.streams.len() >= usize::from(STREAMS) {
            return None;
        }
        while used.streams.contains(&used.next) {
            used.next = (used.next + 1) % STREAMS;
        }
        let id = used.next;
        used.next = (id + 1) % STREAMS;
        used.streams.insert(id);
        Some(StreamLease { id, streams: self.clone() })
    }
}

impl Drop for StreamLease {
    fn drop(&mut self) {
        lock(&self.streams.0).streams.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_given_in_turn_and_given_back() {
        let streams = DataStreams::default();
        let leases: Vec<_> = (0..3).filter_map(|_| streams.lease()).collect();
        assert_eq!(leases.iter().map(|lease| lease.id).collect::<Vec<_>>(), [0, 1, 2]);
        drop(leases);
        assert_eq!(streams.lease().map(|lease| lease.id), Some(3));
        let all: Vec<_> = std::iter::from_fn(|| streams.lease()).collect();
        assert_eq!(all.len(), usize::from(STREAMS));
    }
}
