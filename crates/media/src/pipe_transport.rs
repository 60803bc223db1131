//! A transport between two Routers, on one host or two.

use std::{net::IpAddr, ops::Deref, sync::Arc};

use ortc::{ConsumerSsrcs, ConsumerType, SrtpParameters};
use worker_protocol::wire::{
    pipe_transport as wire,
    request::{self, Method},
    response::Body,
    transport as wire_transport,
};

use crate::{
    consumer::Consumer,
    error::MediaError,
    id::{ConsumerId, ProducerId, TransportId},
    producer::{Producer, ProducerOptions},
    settings::ListenInfo,
    stats::{TransportStats, TransportTuple},
    transport::{Cname, Consuming, Transport, base_options, random_ssrc},
    wire_parameters::{srtp_parameters_from_wire, srtp_parameters_to_wire},
};

/// How a PipeTransport is made.
#[derive(Debug, Clone)]
pub struct PipeTransportOptions {
    /// Its id; `None` for a random one.
    pub id: Option<TransportId>,
    /// Where it is reached.
    pub listen: ListenInfo,
    /// Whether lost packets are sent again: off where nothing gets lost, as within one host.
    pub enable_rtx: bool,
    /// Whether packets are encrypted: on wherever they leave the host.
    pub enable_srtp: bool,
    /// Whether it carries messages of data channels, too.
    pub enable_sctp: bool,
}

impl PipeTransportOptions {
    pub(crate) fn to_wire(&self) -> wire::PipeTransportOptions {
        wire::PipeTransportOptions {
            base: Box::new(wire_transport::Options {
                enable_sctp: self.enable_sctp,
                ..base_options(None, false)
            }),
            listen_info: Box::new(self.listen.to_wire()),
            enable_rtx: self.enable_rtx,
            enable_srtp: self.enable_srtp,
        }
    }
}

/// A PipeTransport. Clones are handles of the same one; it is closed when the last is dropped. What all transports do
/// is [`Transport`]'s, but [`PipeTransport::pipe`] takes the place of `consume`, and [`PipeTransport::produce`] keeps
/// each Producer's canonical name.
#[derive(Debug, Clone)]
pub struct PipeTransport {
    transport: Transport,
    beginning: Arc<PipeBeginning>,
}

/// What the other side is told of a new PipeTransport.
#[derive(Debug, Clone, PartialEq)]
pub struct PipeBeginning {
    /// Where it is reached.
    pub tuple: TransportTuple,
    /// Its SRTP key.
    pub srtp_parameters: Option<SrtpParameters>,
    /// Whether lost packets are sent again.
    pub rtx: bool,
}

impl Deref for PipeTransport {
    type Target = Transport;

    fn deref(&self) -> &Transport {
        &self.transport
    }
}

impl PipeTransport {
    pub(crate) fn new(transport: Transport, dump: wire::DumpResponse) -> Self {
        let beginning = PipeBeginning {
            tuple: TransportTuple::from_wire(*dump.tuple),
            srtp_parameters: dump.srtp_parameters.map(|parameters| srtp_parameters_from_wire(*parameters)),
            rtx: dump.rtx,
        };
        Self { transport, beginning: Arc::new(beginning) }
    }

    /// What the other side is told.
    #[must_use]
    pub fn beginning(&self) -> &PipeBeginning {
        &self.beginning
    }

    /// Takes the other side's address and key.
    ///
    /// # Errors
    /// As every request: see [`MediaError`].
    pub async fn connect(
        &self,
        ip: IpAddr,
        port: u16,
        srtp_parameters: Option<&SrtpParameters>,
    ) -> Result<(), MediaError> {
        let body = wire::ConnectRequest {
            ip: ip.to_string(),
            port: Some(port),
            srtp_parameters: srtp_parameters.map(|key| Box::new(srtp_parameters_to_wire(key))),
        };
        let body = request::Body::PipeTransportConnectRequest(Box::new(body));
        self.object().request(Method::PipeTransportConnect, Some(body)).await.map(drop)
    }

    /// Sends a Producer of this Router to the other one. There, a Producer of the same id, kind and of this
    /// Consumer's parameters receives it.
    ///
    /// # Errors
    /// [`MediaError::NoSuchProducer`], and as every request.
    pub async fn pipe(&self, producer_id: &ProducerId) -> Result<Consumer, MediaError> {
        let producer = self.find_producer(producer_id)?;
        let ssrcs = ConsumerSsrcs { ssrc: random_ssrc(), rtx_ssrc: self.beginning.rtx.then(random_ssrc) };
        let consuming = Consuming {
            id: ConsumerId::random(),
            consumer_type: ConsumerType::Pipe,
            rtp_parameters: ortc::pipe_consumer_rtp_parameters(&producer.consumable_rtp_parameters, ssrcs),
            paused: false,
            preferred_layers: None,
            ignore_dtx: false,
        };
        self.send_consume(&producer, consuming).await
    }

    /// Receives what the other side pipes.
    ///
    /// # Errors
    /// As [`Transport::produce`].
    pub async fn produce(&self, options: ProducerOptions) -> Result<Producer, MediaError> {
        self.produce_with(options, Cname::OfProducer).await
    }

    /// Its statistics.
    ///
    /// # Errors
    /// As every request: see [`MediaError`].
    pub async fn stats(&self) -> Result<TransportStats, MediaError> {
        match self.object().request(Method::TransportGetStats, None).await? {
            Some(Body::PipeTransportGetStatsResponse(answer)) => Ok(TransportStats {
                tuple: Some(TransportTuple::from_wire(*answer.tuple)),
                ..TransportStats::from_wire("pipe-transport", *answer.base)
            }),
            _ => Err(MediaError::UnexpectedAnswer(Method::TransportGetStats)),
        }
    }
}
