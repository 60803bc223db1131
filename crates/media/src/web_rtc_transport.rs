//! A transport to a browser: ICE, DTLS, SRTP.

use std::{ops::Deref, sync::Arc};

use ortc::{DtlsParameters, DtlsRole, IceCandidate, IceParameters, SctpParameters};
use worker_protocol::wire::{
    request::{self, Method},
    response::Body,
    transport::{EnableTraceEventRequest, TraceEventType},
    web_rtc_transport as wire,
};

use crate::{
    error::MediaError,
    event::{DtlsState, IceState},
    id::TransportId,
    settings::ListenInfo,
    stats::{TransportStats, TransportTuple, WebRtcStats},
    transport::{Transport, base_options},
    web_rtc_server::WebRtcServer,
    wire_parameters::{
        dtls_parameters_from_wire, dtls_parameters_to_wire, dtls_role_from_wire, ice_candidate_from_wire,
        ice_parameters_from_wire, sctp_parameters_from_wire,
    },
};

/// Where a WebRtcTransport is reached.
#[derive(Debug, Clone)]
pub enum WebRtcListen {
    /// At its worker's shared sockets: what Tureen does.
    Server(WebRtcServer),
    /// At sockets of its own.
    Individual(Vec<ListenInfo>),
}

/// How a WebRtcTransport is made.
#[derive(Debug, Clone)]
pub struct WebRtcTransportOptions {
    /// Its id; `None` for a random one.
    pub id: Option<TransportId>,
    /// Where it is reached.
    pub listen: WebRtcListen,
    /// Whether UDP candidates are offered.
    pub enable_udp: bool,
    /// Whether TCP candidates are offered.
    pub enable_tcp: bool,
    /// Where both are, which of them is preferred: UDP unless TCP is asked for.
    pub prefer_tcp: bool,
    /// What the congestion control towards the endpoint begins with, in bit/s.
    pub initial_available_outgoing_bitrate: u64,
    /// How long after the endpoint's last sign of life ICE is called disconnected, in s; 0 for never.
    pub ice_consent_timeout_s: u8,
    /// Whether data channels are offered.
    pub enable_sctp: bool,
}

impl WebRtcTransportOptions {
    /// mediasoup's defaults: UDP before TCP, 600 kbit/s to begin with, 30 s of consent, no data channels.
    #[must_use]
    pub fn new(listen: WebRtcListen) -> Self {
        Self {
            id: None,
            listen,
            enable_udp: true,
            enable_tcp: true,
            prefer_tcp: false,
            initial_available_outgoing_bitrate: 600_000,
            ice_consent_timeout_s: 30,
            enable_sctp: false,
        }
    }

    pub(crate) fn to_wire(&self) -> wire::WebRtcTransportOptions {
        let mut base = base_options(Some(self.initial_available_outgoing_bitrate), true);
        base.enable_sctp = self.enable_sctp;
        wire::WebRtcTransportOptions {
            base: Box::new(base),
            listen: match &self.listen {
                WebRtcListen::Server(server) => wire::Listen::ListenServer(Box::new(wire::ListenServer {
                    web_rtc_server_id: server.id().as_str().to_owned(),
                })),
                WebRtcListen::Individual(infos) => {
                    wire::Listen::ListenIndividual(Box::new(wire::ListenIndividual {
                        listen_infos: infos.iter().map(ListenInfo::to_wire).collect(),
                    }))
                }
            },
            enable_udp: self.enable_udp,
            enable_tcp: self.enable_tcp,
            prefer_udp: !self.prefer_tcp,
            prefer_tcp: self.prefer_tcp,
            ice_consent_timeout: self.ice_consent_timeout_s,
        }
    }
}

/// A WebRtcTransport. Clones are handles of the same one; it is closed when the last is dropped. What all transports
/// do is [`Transport`]'s.
#[derive(Debug, Clone)]
pub struct WebRtcTransport {
    transport: Transport,
    beginning: Arc<WebRtcBeginning>,
}

/// What the endpoint is told of a new transport.
#[derive(Debug, Clone, PartialEq)]
pub struct WebRtcBeginning {
    /// Our ICE credentials.
    pub ice_parameters: IceParameters,
    /// Where we can be reached.
    pub ice_candidates: Vec<IceCandidate>,
    /// Our DTLS role and certificate.
    pub dtls_parameters: DtlsParameters,
    /// SCTP, where it is enabled.
    pub sctp_parameters: Option<SctpParameters>,
}

impl Deref for WebRtcTransport {
    type Target = Transport;

    fn deref(&self) -> &Transport {
        &self.transport
    }
}

impl WebRtcTransport {
    pub(crate) fn new(transport: Transport, dump: wire::DumpResponse) -> Self {
        let beginning = WebRtcBeginning {
            ice_parameters: ice_parameters_from_wire(*dump.ice_parameters),
            ice_candidates: dump.ice_candidates.into_iter().map(ice_candidate_from_wire).collect(),
            dtls_parameters: dtls_parameters_from_wire(*dump.dtls_parameters),
            sctp_parameters: dump.base.sctp_parameters.as_deref().map(sctp_parameters_from_wire),
        };
        Self { transport, beginning: Arc::new(beginning) }
    }

    /// The part that all transports share.
    #[must_use]
    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// What the endpoint is told.
    #[must_use]
    pub fn beginning(&self) -> &WebRtcBeginning {
        &self.beginning
    }

    /// Takes the endpoint's certificate and role, and says which role is ours.
    ///
    /// # Errors
    /// As every request; a second call is refused.
    pub async fn connect(&self, dtls_parameters: &DtlsParameters) -> Result<DtlsRole, MediaError> {
        let method = Method::WebRtcTransportConnect;
        let body =
            wire::ConnectRequest { dtls_parameters: Box::new(dtls_parameters_to_wire(dtls_parameters)) };
        let body = request::Body::WebRtcTransportConnectRequest(Box::new(body));
        match self.object().request(method, Some(body)).await? {
            Some(Body::WebRtcTransportConnectResponse(answer)) => {
                Ok(dtls_role_from_wire(answer.dtls_local_role))
            }
            _ => Err(MediaError::UnexpectedAnswer(method)),
        }
    }

    /// Takes new ICE credentials (RFC 8445 section 2.4), and returns them.
    ///
    /// # Errors
    /// As every request: see [`MediaError`].
    pub async fn restart_ice(&self) -> Result<IceParameters, MediaError> {
        match self.object().request(Method::TransportRestartIce, None).await? {
            Some(Body::TransportRestartIceResponse(answer)) => Ok(IceParameters {
                username_fragment: answer.username_fragment,
                password: answer.password,
                ice_lite: answer.ice_lite,
            }),
            _ => Err(MediaError::UnexpectedAnswer(Method::TransportRestartIce)),
        }
    }

    /// Asks for [`crate::TransportEvent::Bandwidth`].
    ///
    /// # Errors
    /// As every request: see [`MediaError`].
    pub async fn trace_bandwidth(&self) -> Result<(), MediaError> {
        let body = EnableTraceEventRequest { events: vec![TraceEventType::Bwe] };
        let body = request::Body::TransportEnableTraceEventRequest(Box::new(body));
        self.object().request(Method::TransportEnableTraceEvent, Some(body)).await.map(drop)
    }

    /// The worker's own view of it.
    ///
    /// # Errors
    /// As every request: see [`MediaError`].
    pub async fn dump(&self) -> Result<wire::DumpResponse, MediaError> {
        match self.object().request(Method::TransportDump, None).await? {
            Some(Body::WebRtcTransportDumpResponse(dump)) => Ok(*dump),
            _ => Err(MediaError::UnexpectedAnswer(Method::TransportDump)),
        }
    }

    /// Its statistics.
    ///
    /// # Errors
    /// As every request: see [`MediaError`].
    pub async fn stats(&self) -> Result<TransportStats, MediaError> {
        let Some(Body::WebRtcTransportGetStatsResponse(answer)) =
            self.object().request(Method::TransportGetStats, None).await?
        else {
            return Err(MediaError::UnexpectedAnswer(Method::TransportGetStats));
        };
        Ok(TransportStats {
            web_rtc: Some(WebRtcStats {
                ice_role: "controlled",
                ice_state: IceState::from(answer.ice_state),
                ice_selected_tuple: answer.ice_selected_tuple.map(|tuple| TransportTuple::from_wire(*tuple)),
                dtls_state: DtlsState::from(answer.dtls_state),
            }),
            ..TransportStats::from_wire("webrtc-transport", *answer.base)
        })
    }
}
