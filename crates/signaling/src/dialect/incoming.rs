//! Method and data to a request of the room. Every refusal says which method, which field, what was expected.

use std::sync::Arc;

use ortc::{DtlsParameters, MediaKind, RtpCapabilities, RtpParameters, SctpStreamParameters};
use room::{
    ConsumerId, DataConsumerId, DataProducerId, Device, Layers, ProducerId, Receives, Request, TransportId,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Dialect, DialectError};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CreateTransport {
    #[serde(default)]
    force_tcp: Option<bool>,
    #[serde(default)]
    producing: Option<bool>,
    #[serde(default)]
    consuming: Option<bool>,
    /// An object where the client has a data channel; some clients write "".
    #[serde(default)]
    sctp_capabilities: Value,
    #[serde(default)]
    app_data: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConnectTransport {
    transport_id: String,
    dtls_parameters: DtlsParameters,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OfTransport {
    transport_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OfProducer {
    producer_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OfConsumer {
    consumer_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Join {
    #[serde(default)]
    display_name: Option<String>,
    #[serde(default)]
    device: Option<Value>,
    #[serde(default)]
    rtp_capabilities: Option<RtpCapabilities>,
    /// An addition of ours: it understands `migrate`.
    #[serde(default)]
    migrate: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Produce {
    transport_id: String,
    kind: MediaKind,
    rtp_parameters: RtpParameters,
    #[serde(default)]
    app_data: Value,
    /// An addition of ours, as that of `produceData`.
    #[serde(default)]
    replaces: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProduceData {
    transport_id: String,
    sctp_stream_parameters: SctpStreamParameters,
    #[serde(default)]
    label: Option<String>,
    #[serde(default)]
    protocol: Option<String>,
    #[serde(default)]
    app_data: Value,
    #[serde(default)]
    replaces: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OfDataProducer {
    data_producer_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OfDataConsumer {
    data_consumer_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PreferredLayers {
    consumer_id: String,
    spatial_layer: u8,
    #[serde(default)]
    temporal_layer: Option<u8>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Priority {
    consumer_id: String,
    priority: u8,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DisplayName {
    display_name: String,
}

/// The answer to what needs no room: a service of the newer web application that this server does not offer, which is
/// said by an empty answer.
pub(crate) fn answer_without_room(method: &str) -> Option<Value> {
    (method == "getRtcStatsUrl").then(|| json!({}))
}

/// Reads a request (or a notification that changes something, which the newer dialect sends instead). The dialect
/// is learnt on the way.
pub(crate) fn parse_request(
    method: &str,
    data: Value,
    dialect: &mut Dialect,
) -> Result<Request, DialectError> {
    let fields = Fields { method, data };
    Ok(match method {
        "getRouterRtpCapabilities" => Request::RouterRtpCapabilities,
        "createWebRtcTransport" => create_transport(fields.read()?, dialect),
        "connectWebRtcTransport" => {
            let ConnectTransport { transport_id, dtls_parameters } = fields.read()?;
            Request::ConnectWebRtcTransport { transport: TransportId::new(transport_id), dtls_parameters }
        }
        "restartIce" => Request::RestartIce { transport: fields.transport()? },
        "join" => join(fields.read()?),
        "produce" => {
            let Produce { transport_id, kind, rtp_parameters, app_data, replaces } = fields.read()?;
            Request::Produce {
                transport: TransportId::new(transport_id),
                kind,
                rtp_parameters: Box::new(rtp_parameters),
                app_data: app_data_object(method, app_data)?,
                replaces: replaces.map(ProducerId::new),
            }
        }
        "produceData" => {
            let wire: ProduceData = fields.read()?;
            Request::ProduceData {
                transport: TransportId::new(wire.transport_id),
                stream: wire.sctp_stream_parameters,
                label: wire.label.unwrap_or_default(),
                protocol: wire.protocol.unwrap_or_default(),
                app_data: app_data_object(method, wire.app_data)?,
                replaces: wire.replaces.map(DataProducerId::new),
            }
        }
        "getDataProducerStats" => {
            Request::DataProducerStats(DataProducerId::new(fields.read::<OfDataProducer>()?.data_producer_id))
        }
        "getDataConsumerStats" => {
            Request::DataConsumerStats(DataConsumerId::new(fields.read::<OfDataConsumer>()?.data_consumer_id))
        }
        "migrated" => Request::Migrated,
        "closeProducer" => Request::CloseProducer(fields.producer()?),
        "pauseProducer" => Request::PauseProducer(fields.producer()?),
        "resumeProducer" => Request::ResumeProducer(fields.producer()?),
        "pauseConsumer" => Request::PauseConsumer(fields.consumer()?),
        "resumeConsumer" => Request::ResumeConsumer(fields.consumer()?),
        "requestConsumerKeyFrame" => Request::RequestConsumerKeyFrame(fields.consumer()?),
        "setConsumerPreferredLayers" => {
            let PreferredLayers { consumer_id, spatial_layer, temporal_layer } = fields.read()?;
            let layers = Layers { spatial: spatial_layer, temporal: temporal_layer };
            Request::SetConsumerPreferredLayers(ConsumerId::new(consumer_id), layers)
        }
        "setConsumerPriority" => {
            let Priority { consumer_id, priority } = fields.read()?;
            if priority == 0 {
                return Err(bad(method, "priority must be 1 to 255"));
            }
            Request::SetConsumerPriority(ConsumerId::new(consumer_id), priority)
        }
        "changeDisplayName" => Request::ChangeDisplayName(fields.read::<DisplayName>()?.display_name),
        "getTransportStats" => Request::TransportStats(fields.transport()?),
        "getProducerStats" => Request::ProducerStats(fields.producer()?),
        "getConsumerStats" => Request::ConsumerStats(fields.consumer()?),
        "applyNetworkThrottle" | "resetNetworkThrottle" | "stopNetworkThrottle" => {
            let reason = format!("{method}: throttling the network is not allowed on this server");
            return Err(DialectError { code: 403, reason });
        }
        _ => return Err(DialectError { code: 404, reason: format!("no method {method:?} is known here") }),
    })
}

fn create_transport(wire: CreateTransport, dialect: &mut Dialect) -> Request {
    let direction = wire.app_data.get("direction").and_then(Value::as_str);
    let (producing, consuming) = match (wire.producing, wire.consuming) {
        (None, None) if direction.is_some() => {
            dialect.learn(Dialect::TypeScript);
            (direction == Some("producer"), direction == Some("consumer"))
        }
        (None, None) => (false, false),
        (producing, consuming) => {
            dialect.learn(Dialect::Classic);
            (producing == Some(true), consuming == Some(true))
        }
    };
    // The newer dialect says nothing: its clients all know data channels.
    let data = *dialect == Dialect::TypeScript || wire.sctp_capabilities.is_object();
    let bandwidth = consuming && *dialect == Dialect::Classic;
    Request::CreateWebRtcTransport {
        force_tcp: wire.force_tcp == Some(true),
        producing,
        consuming,
        data,
        bandwidth,
    }
}

/// An object. libmediasoupclient hands `appData` to Android applications as text, and they send that: JSON, or "".
fn app_data_object(method: &str, app_data: Value) -> Result<Value, DialectError> {
    match app_data {
        Value::Null => Ok(json!({})),
        Value::Object(_) => Ok(app_data),
        Value::String(text) if text.trim().is_empty() => Ok(json!({})),
        Value::String(text) => match serde_json::from_str(&text) {
            Ok(object @ Value::Object(_)) => Ok(object),
            Ok(Value::Null) => Ok(json!({})),
            _ => Err(bad(method, "appData must be an object, or one as text")),
        },
        _ => Err(bad(method, "appData must be an object")),
    }
}

fn join(wire: Join) -> Request {
    // A device is for show: what cannot be read is left out rather than refused.
    let text = |device: &Value, key: &str| {
        device.get(key).and_then(Value::as_str).map(|text| text.chars().take(64).collect::<String>())
    };
    let device = wire.device.map_or_else(Device::default, |device| Device {
        flag: text(&device, "flag"),
        name: text(&device, "name"),
        version: text(&device, "version"),
    });
    Request::Join {
        display_name: wire.display_name.unwrap_or_default(),
        device,
        rtp_capabilities: wire.rtp_capabilities.map(Arc::new),
        remote_address: None,
        receives: Receives::Offered,
        migrates: wire.migrate == Some(true),
    }
}

struct Fields<'a> {
    method: &'a str,
    data: Value,
}

impl Fields<'_> {
    fn read<T: DeserializeOwned>(self) -> Result<T, DialectError> {
        serde_json::from_value(self.data).map_err(|error| bad(self.method, &error.to_string()))
    }

    fn transport(self) -> Result<TransportId, DialectError> {
        Ok(TransportId::new(self.read::<OfTransport>()?.transport_id))
    }

    fn producer(self) -> Result<ProducerId, DialectError> {
        Ok(ProducerId::new(self.read::<OfProducer>()?.producer_id))
    }

    fn consumer(self) -> Result<ConsumerId, DialectError> {
        Ok(ConsumerId::new(self.read::<OfConsumer>()?.consumer_id))
    }
}

fn bad(method: &str, what: &str) -> DialectError {
    DialectError { code: 400, reason: format!("{method}: {what}") }
}
