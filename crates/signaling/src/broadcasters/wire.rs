//! What broadcasters write, in the spelling of either dialect.

use std::net::IpAddr;
use std::sync::Arc;

use ortc::{DtlsParameters, MediaKind, RtpCapabilities, RtpParameters, SctpStreamParameters};
use room::{DataProducerId, Device, ProducerId, Receives, Request, TransportId};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::dialect::Dialect;

/// How the classic dialect calls a broadcaster's software, whatever it is.
const FLAG: &str = "broadcaster";

/// The body of a new broadcaster: `id` in the classic dialect, `peerId` in the newer one.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewBroadcaster {
    id: Option<String>,
    peer_id: Option<String>,
    display_name: String,
    #[serde(default)]
    device: NewDevice,
    rtp_capabilities: Option<RtpCapabilities>,
}

#[derive(Debug, Default, Deserialize)]
struct NewDevice {
    flag: Option<String>,
    name: Option<String>,
    version: Option<String>,
}

impl NewBroadcaster {
    /// Which dialect it speaks, its id, and its join.
    pub(super) fn read(self) -> Result<(Dialect, String, Request), &'static str> {
        let (dialect, id) = match (self.peer_id, self.id) {
            (Some(id), _) => (Dialect::TypeScript, id),
            (None, Some(id)) => (Dialect::Classic, id),
            (None, None) => return Err("missing body.id (or body.peerId)"),
        };
        let flag = if dialect == Dialect::Classic { Some(FLAG.to_owned()) } else { self.device.flag };
        let cut = |text: Option<String>| text.map(|text| text.chars().take(64).collect());
        let device =
            Device { flag: cut(flag), name: cut(self.device.name), version: cut(self.device.version) };
        let join = Request::Join {
            display_name: self.display_name,
            device,
            rtp_capabilities: self.rtp_capabilities.map(Arc::new),
            remote_address: None,
            receives: Receives::OnRequest,
            migrates: false,
        };
        Ok((dialect, id, join))
    }
}

/// The body of a new transport. The classic dialect names a type, the newer one knows only plain ones.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewTransport {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    rtcp_mux: Option<bool>,
    #[serde(default)]
    comedia: Option<bool>,
    #[serde(default)]
    sctp_capabilities: Value,
}

impl NewTransport {
    pub(super) fn read(self, dialect: Dialect) -> Result<Request, &'static str> {
        match (self.kind.as_deref(), dialect) {
            (Some("webrtc"), _) => Ok(Request::CreateWebRtcTransport {
                force_tcp: false,
                producing: true,
                consuming: true,
                data: self.sctp_capabilities.is_object(),
                bandwidth: false,
            }),
            (Some("plain"), _) => Ok(Request::CreatePlainTransport {
                rtcp_mux: self.rtcp_mux == Some(true),
                comedia: self.comedia != Some(false),
            }),
            // mediasoup's own defaults.
            (None, Dialect::TypeScript) => Ok(Request::CreatePlainTransport {
                rtcp_mux: self.rtcp_mux != Some(false),
                comedia: self.comedia == Some(true),
            }),
            _ => Err("invalid type: plain or webrtc"),
        }
    }
}

/// The body of a connect: DTLS parameters for a WebRtcTransport, an address for a PlainTransport.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Connect {
    dtls_parameters: Option<DtlsParameters>,
    ip: Option<IpAddr>,
    port: Option<u16>,
    rtcp_port: Option<u16>,
}

impl Connect {
    pub(super) fn read(self, transport: TransportId) -> Result<Request, &'static str> {
        match self {
            Self { dtls_parameters: Some(dtls_parameters), .. } => {
                Ok(Request::ConnectWebRtcTransport { transport, dtls_parameters })
            }
            Self { ip: Some(ip), port: Some(port), rtcp_port, .. } => {
                Ok(Request::ConnectPlainTransport { transport, ip: Some(ip), port: Some(port), rtcp_port })
            }
            _ => Err("missing body.dtlsParameters, or body.ip and body.port"),
        }
    }
}

/// The body of a new producer. The classic dialect has the transport in the path.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewProducer {
    transport_id: Option<String>,
    kind: MediaKind,
    rtp_parameters: RtpParameters,
    #[serde(default)]
    app_data: Value,
}

impl NewProducer {
    pub(super) fn read(self, transport: Option<TransportId>) -> Result<Request, &'static str> {
        let transport = transport.or_else(|| self.transport_id.map(TransportId::new));
        Ok(Request::Produce {
            transport: transport.ok_or("missing body.transportId")?,
            kind: self.kind,
            rtp_parameters: Box::new(self.rtp_parameters),
            app_data: object(self.app_data)?,
            replaces: None,
        })
    }
}

/// The body of a new consumer, in the newer dialect.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewConsumer {
    transport_id: String,
    producer_id: String,
    #[serde(default)]
    paused: Option<bool>,
    rtp_capabilities: Option<RtpCapabilities>,
}

impl NewConsumer {
    pub(super) fn read(self) -> Request {
        Request::Consume {
            transport: TransportId::new(self.transport_id),
            producer: ProducerId::new(self.producer_id),
            rtp_capabilities: self.rtp_capabilities.map(Arc::new),
            paused: self.paused == Some(true),
        }
    }
}

/// The body of a new data consumer.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewDataConsumer {
    data_producer_id: String,
}

impl NewDataConsumer {
    pub(super) fn read(self, transport: TransportId) -> Request {
        Request::ConsumeData { transport, data_producer: DataProducerId::new(self.data_producer_id) }
    }
}

/// The body of a new data producer.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewDataProducer {
    #[serde(default)]
    label: Option<String>,
    #[serde(default)]
    protocol: Option<String>,
    sctp_stream_parameters: SctpStreamParameters,
    #[serde(default)]
    app_data: Value,
}

impl NewDataProducer {
    pub(super) fn read(self, transport: TransportId) -> Result<Request, &'static str> {
        Ok(Request::ProduceData {
            transport,
            stream: self.sctp_stream_parameters,
            label: self.label.unwrap_or_default(),
            protocol: self.protocol.unwrap_or_default(),
            app_data: object(self.app_data)?,
            replaces: None,
        })
    }
}

fn object(app_data: Value) -> Result<Value, &'static str> {
    match app_data {
        Value::Null => Ok(json!({})),
        Value::Object(_) => Ok(app_data),
        _ => Err("body.appData must be an object"),
    }
}
