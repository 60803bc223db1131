//! What every transport does: produce, consume, statistics. Negotiation happens here, as in mediasoup's Node library.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU32, Ordering},
};

use ortc::{ConsumerSsrcs, ConsumerType, RtpCapabilities, RtpEncodingParameters, RtpParameters};
use worker_protocol::wire::{
    request::{self, Method},
    response::Body,
    transport as wire,
};

use crate::{
    channel::lock,
    consumer::{Consumer, ConsumerBeginning, ConsumerOptions},
    data::DataStreams,
    error::MediaError,
    event::{ConsumerLayers, ConsumerScore},
    id::{ConsumerId, ProducerId, TransportId},
    object::{CloseOnDrop, Kind, Object},
    producer::{Producer, ProducerData, ProducerOptions},
    wire_parameters::{
        consumer_type_to_wire, encodings_to_wire, kind_to_wire, mapping_to_wire, producer_type_from_wire,
        rtp_parameters_to_wire,
    },
};

/// A `mid` has eight bytes at most.
const MID_LIMIT: u32 = 100_000_000;

/// The common part of all transports.
#[derive(Debug, Clone)]
pub struct Transport(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    object: CloseOnDrop,
    id: TransportId,
    router_capabilities: Arc<RtpCapabilities>,
    /// All that comes from one endpoint has one canonical name: the first that it gave, or a random one.
    cname: Mutex<Option<String>>,
    next_mid: AtomicU32,
    data_streams: DataStreams,
}

impl Transport {
    pub(crate) fn new(object: CloseOnDrop, router_capabilities: Arc<RtpCapabilities>) -> Self {
        let id = Arc::clone(object.0.id()).into();
        Self(Arc::new(Inner {
            object,
            id,
            router_capabilities,
            cname: Mutex::default(),
            next_mid: AtomicU32::new(0),
            data_streams: DataStreams::default(),
        }))
    }

    pub(crate) fn object(&self) -> &Arc<Object> {
        &self.0.object.0
    }

    pub(crate) fn data_streams(&self) -> &DataStreams {
        &self.0.data_streams
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &TransportId {
        &self.0.id
    }

    /// Whether it, or what it belongs to, is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.object().is_closed()
    }

    /// Receives media from the endpoint.
    ///
    /// # Errors
    /// [`MediaError::Negotiation`] where the Router does not offer what is sent, [`MediaError::DuplicateId`], and as
    /// every request.
    pub async fn produce(&self, options: ProducerOptions) -> Result<Producer, MediaError> {
        self.produce_with(options, Cname::OfTransport).await
    }

    pub(crate) async fn produce_with(
        &self,
        options: ProducerOptions,
        cname: Cname,
    ) -> Result<Producer, MediaError> {
        let ProducerOptions { id, kind, mut rtp_parameters, paused, key_frame_request_delay_ms } = options;
        ortc::validate_rtp_parameters(&mut rtp_parameters)?;
        ortc::validate_kind(kind, &rtp_parameters)?;
        if rtp_parameters.encodings.is_empty() {
            rtp_parameters.encodings.push(RtpEncodingParameters::default());
        }
        rtp_parameters.rtcp.cname = Some(match cname {
            Cname::OfTransport => self.cname(rtp_parameters.rtcp.cname.take()),
            Cname::OfProducer => rtp_parameters.rtcp.cname.take().unwrap_or_else(random_cname),
        });
        let capabilities = &self.0.router_capabilities;
        let mapping =
            ortc::producer_rtp_parameters_mapping(&mut rtp_parameters, capabilities, random_ssrc())?;
        let consumable_rtp_parameters =
            ortc::consumable_rtp_parameters(kind, &rtp_parameters, capabilities, &mapping)?;

        let id = id.unwrap_or_else(ProducerId::random);
        let index = self.object().producers().ok_or(MediaError::Closed)?;
        if index.find(id.as_str()).is_some() {
            return Err(MediaError::DuplicateId(id.into()));
        }
        let object = CloseOnDrop(Object::child(self.object(), Kind::Producer, id.shared())?);
        let body = wire::ProduceRequest {
            producer_id: id.as_str().to_owned(),
            kind: kind_to_wire(kind),
            rtp_parameters: Box::new(rtp_parameters_to_wire(&rtp_parameters)),
            rtp_mapping: Box::new(mapping_to_wire(&mapping)),
            paused,
            key_frame_request_delay: key_frame_request_delay_ms,
            enable_mediasoup_packet_id_header_extension: false,
        };
        let body = request::Body::TransportProduceRequest(Box::new(body));
        let answer = object.created(self.object().request(Method::TransportProduce, Some(body)).await)?;
        let producer_type = match answer {
            Some(Body::TransportProduceResponse(answer)) => producer_type_from_wire(answer.type_),
            _ => None,
        };
        let producer_type = producer_type.ok_or(MediaError::UnexpectedAnswer(Method::TransportProduce))?;
        let data =
            Arc::new(ProducerData { id, kind, producer_type, rtp_parameters, consumable_rtp_parameters });
        index.insert(data.id.shared(), Arc::clone(&data));
        if object.0.is_closed() {
            // Closed while the worker was answering: whoever closed it looked for the entry before it was there.
            index.remove(data.id.as_str());
            return Err(MediaError::Closed);
        }
        Ok(Producer::new(object, data))
    }

    /// Sends a Producer's media to the endpoint.
    ///
    /// # Errors
    /// [`MediaError::NoSuchProducer`], [`MediaError::Negotiation`] where the endpoint cannot receive it, and as every
    /// request.
    pub async fn consume(&self, options: ConsumerOptions) -> Result<Consumer, MediaError> {
        let producer = self.find_producer(&options.producer_id)?;
        let enable_rtx = options.enable_rtx.unwrap_or(producer.kind == ortc::MediaKind::Video);
        let ssrc = random_ssrc();
        let ssrcs = ConsumerSsrcs { ssrc, rtx_ssrc: enable_rtx.then_some(ssrc + 1) };
        let mut rtp_parameters = ortc::consumer_rtp_parameters(
            &producer.consumable_rtp_parameters,
            &options.rtp_capabilities,
            ssrcs,
        )?;
        rtp_parameters.mid = Some(options.mid.unwrap_or_else(|| self.next_mid()));
        let consuming = Consuming {
            id: options.id.unwrap_or_else(ConsumerId::random),
            consumer_type: producer.producer_type.into(),
            rtp_parameters,
            paused: options.paused,
            preferred_layers: options.preferred_layers,
            ignore_dtx: options.ignore_dtx,
        };
        self.send_consume(&producer, consuming).await
    }

    pub(crate) async fn send_consume(
        &self,
        producer: &ProducerData,
        consuming: Consuming,
    ) -> Result<Consumer, MediaError> {
        let Consuming { id, consumer_type, rtp_parameters, paused, preferred_layers, ignore_dtx } = consuming;
        let object = CloseOnDrop(Object::child(self.object(), Kind::Consumer, id.shared())?);
        let body = wire::ConsumeRequest {
            consumer_id: id.as_str().to_owned(),
            producer_id: producer.id.as_str().to_owned(),
            kind: kind_to_wire(producer.kind),
            rtp_parameters: Box::new(rtp_parameters_to_wire(&rtp_parameters)),
            type_: consumer_type_to_wire(consumer_type),
            consumable_rtp_encodings: encodings_to_wire(&producer.consumable_rtp_parameters.encodings),
            paused,
            preferred_layers: preferred_layers.map(|layers| Box::new(layers.into())),
            ignore_dtx,
        };
        let body = request::Body::TransportConsumeRequest(Box::new(body));
        let answer = object.created(self.object().request(Method::TransportConsume, Some(body)).await)?;
        let Some(Body::TransportConsumeResponse(answer)) = answer else {
            return Err(MediaError::UnexpectedAnswer(Method::TransportConsume));
        };
        let beginning = ConsumerBeginning {
            producer_id: producer.id.clone(),
            kind: producer.kind,
            consumer_type,
            rtp_parameters,
            paused: answer.paused,
            producer_paused: answer.producer_paused,
            score: ConsumerScore::from(*answer.score),
            preferred_layers: answer.preferred_layers.map(|layers| ConsumerLayers::from(*layers)),
        };
        Ok(Consumer::new(object, id, beginning))
    }

    /// Limits what the endpoint sends, in bit/s; 0 lifts the limit.
    ///
    /// # Errors
    /// As every request: see [`MediaError`].
    pub async fn set_max_incoming_bitrate(&self, max_incoming_bitrate: u64) -> Result<(), MediaError> {
        let body = wire::SetMaxIncomingBitrateRequest { max_incoming_bitrate };
        let body = request::Body::TransportSetMaxIncomingBitrateRequest(Box::new(body));
        self.object().request(Method::TransportSetMaxIncomingBitrate, Some(body)).await.map(drop)
    }

    /// Limits what the endpoint is sent, in bit/s; 0 lifts the limit.
    ///
    /// # Errors
    /// As every request: see [`MediaError`].
    pub async fn set_max_outgoing_bitrate(&self, max_outgoing_bitrate: u64) -> Result<(), MediaError> {
        let body = wire::SetMaxOutgoingBitrateRequest { max_outgoing_bitrate };
        let body = request::Body::TransportSetMaxOutgoingBitrateRequest(Box::new(body));
        self.object().request(Method::TransportSetMaxOutgoingBitrate, Some(body)).await.map(drop)
    }

    /// Closes it, with its Producers and Consumers. Closing twice is no error.
    ///
    /// # Errors
    /// As every request: see [`MediaError`].
    pub async fn close(&self) -> Result<(), MediaError> {
        self.object().close().await
    }

    pub(crate) fn find_producer(&self, id: &ProducerId) -> Result<Arc<ProducerData>, MediaError> {
        let index = self.object().producers().ok_or(MediaError::Closed)?;
        index.find(id.as_str()).ok_or_else(|| MediaError::NoSuchProducer(id.as_str().to_owned()))
    }

    fn cname(&self, given: Option<String>) -> String {
        lock(&self.0.cname).get_or_insert_with(|| given.unwrap_or_else(random_cname)).clone()
    }

    fn next_mid(&self) -> String {
        (self.0.next_mid.fetch_add(1, Ordering::Relaxed) % MID_LIMIT).to_string()
    }
}

/// Where a Producer's canonical name comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cname {
    /// All Producers of the transport share one.
    OfTransport,
    /// Every Producer keeps its own: they come from many endpoints, over a pipe.
    OfProducer,
}

/// A Consumer whose parameters are negotiated.
pub(crate) struct Consuming {
    pub(crate) id: ConsumerId,
    pub(crate) consumer_type: ConsumerType,
    pub(crate) rtp_parameters: RtpParameters,
    pub(crate) paused: bool,
    pub(crate) preferred_layers: Option<ConsumerLayers>,
    pub(crate) ignore_dtx: bool,
}

/// Nine digits, as mediasoup's: it stays clear of 0 and leaves room for those that follow.
pub(crate) fn random_ssrc() -> u32 {
    rand::random_range(100_000_000..=999_999_999)
}

fn random_cname() -> String {
    format!("{:08x}", rand::random::<u32>())
}

/// SCTP's part of the options: off, with mediasoup's numbers.
pub(crate) fn base_options(
    initial_available_outgoing_bitrate: Option<u64>,
    is_data_channel: bool,
) -> wire::Options {
    wire::Options {
        direct: false,
        initial_available_outgoing_bitrate,
        enable_sctp: false,
        max_send_message_size: 262_144,
        max_receive_message_size: 262_144,
        sctp_send_buffer_size: 2_000_000,
        sctp_per_stream_send_queue_limit: 2_000_000,
        sctp_max_receiver_window_buffer_size: 5_242_880,
        sctp_default_stream_buffered_amount_low_threshold: 1024,
        is_data_channel,
    }
}
