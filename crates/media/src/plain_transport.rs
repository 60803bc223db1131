//! A transport of plain RTP: to recorders, encoders and other servers.

use std::{net::IpAddr, ops::Deref, sync::Arc};

use ortc::{SrtpCryptoSuite, SrtpParameters};
use worker_protocol::wire::{
    plain_transport as wire,
    request::{self, Method},
    response::Body,
};

use crate::{
    error::MediaError,
    id::TransportId,
    settings::ListenInfo,
    stats::{TransportStats, TransportTuple},
    transport::{Transport, base_options},
    wire_parameters::{crypto_suite_to_wire, srtp_parameters_from_wire, srtp_parameters_to_wire},
};

/// How a PlainTransport is made.
#[derive(Debug, Clone)]
pub struct PlainTransportOptions {
    /// Its id; `None` for a random one.
    pub id: Option<TransportId>,
    /// Where RTP is received.
    pub listen: ListenInfo,
    /// Where RTCP is received; `None` for the same port.
    pub rtcp_listen: Option<ListenInfo>,
    /// Whether the other side's address is learnt from its first packet.
    pub comedia: bool,
    /// Encrypts with this suite.
    pub srtp: Option<SrtpCryptoSuite>,
}

impl PlainTransportOptions {
    /// RTP and RTCP on one port, to an address that will be told, without encryption.
    #[must_use]
    pub fn new(listen: ListenInfo) -> Self {
        Self { id: None, listen, rtcp_listen: None, comedia: false, srtp: None }
    }

    pub(crate) fn to_wire(&self) -> wire::PlainTransportOptions {
        wire::PlainTransportOptions {
            base: Box::new(base_options(None, false)),
            listen_info: Box::new(self.listen.to_wire()),
            rtcp_listen_info: self.rtcp_listen.as_ref().map(|listen| Box::new(listen.to_wire())),
            rtcp_mux: self.rtcp_listen.is_none(),
            comedia: self.comedia,
            enable_srtp: self.srtp.is_some(),
            srtp_crypto_suite: self.srtp.map(crypto_suite_to_wire),
        }
    }
}

/// Where a PlainTransport sends to.
#[derive(Debug, Clone, Default)]
pub struct PlainRemote {
    /// The other side's address; nothing with `comedia`.
    pub ip: Option<IpAddr>,
    /// Its RTP port; nothing with `comedia`.
    pub port: Option<u16>,
    /// Its RTCP port, where RTCP has one of its own.
    pub rtcp_port: Option<u16>,
    /// Its SRTP key.
    pub srtp_parameters: Option<SrtpParameters>,
}

/// A PlainTransport. Clones are handles of the same one; it is closed when the last is dropped. What all transports
/// do is [`Transport`]'s.
#[derive(Debug, Clone)]
pub struct PlainTransport {
    transport: Transport,
    beginning: Arc<PlainBeginning>,
}

/// What is known of a new PlainTransport.
#[derive(Debug, Clone, PartialEq)]
pub struct PlainBeginning {
    /// Where RTP goes.
    pub tuple: TransportTuple,
    /// Where RTCP goes, where it has a port of its own.
    pub rtcp_tuple: Option<TransportTuple>,
    /// Our SRTP key.
    pub srtp_parameters: Option<SrtpParameters>,
}

impl Deref for PlainTransport {
    type Target = Transport;

    fn deref(&self) -> &Transport {
        &self.transport
    }
}

impl PlainTransport {
    pub(crate) fn new(transport: Transport, dump: wire::DumpResponse) -> Self {
        let beginning = PlainBeginning {
            tuple: TransportTuple::from_wire(*dump.tuple),
            rtcp_tuple: dump.rtcp_tuple.map(|tuple| TransportTuple::from_wire(*tuple)),
            srtp_parameters: dump.srtp_parameters.map(|parameters| srtp_parameters_from_wire(*parameters)),
        };
        Self { transport, beginning: Arc::new(beginning) }
    }

    /// What was known when it began.
    #[must_use]
    pub fn beginning(&self) -> &PlainBeginning {
        &self.beginning
    }

    /// Takes the other side's address.
    ///
    /// # Errors
    /// As every request: see [`MediaError`].
    pub async fn connect(&self, remote: &PlainRemote) -> Result<(), MediaError> {
        let body = wire::ConnectRequest {
            ip: remote.ip.map(|ip| ip.to_string()),
            port: remote.port,
            rtcp_port: remote.rtcp_port,
            srtp_parameters: remote
                .srtp_parameters
                .as_ref()
                .map(|key| Box::new(srtp_parameters_to_wire(key))),
        };
        let body = request::Body::PlainTransportConnectRequest(Box::new(body));
        self.object().request(Method::PlainTransportConnect, Some(body)).await.map(drop)
    }

    /// Its statistics.
    ///
    /// # Errors
    /// As every request: see [`MediaError`].
    pub async fn stats(&self) -> Result<TransportStats, MediaError> {
        match self.object().request(Method::TransportGetStats, None).await? {
            Some(Body::PlainTransportGetStatsResponse(answer)) => Ok(TransportStats {
                tuple: Some(TransportTuple::from_wire(*answer.tuple)),
                ..TransportStats::from_wire("plain-rtp-transport", *answer.base)
            }),
            _ => Err(MediaError::UnexpectedAnswer(Method::TransportGetStats)),
        }
    }
}
