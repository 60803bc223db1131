//! What the room says, in the words of both dialects at once.

use room::{Notification, PeerInfo, Reply, ServerRequest, TransportInfo};
use serde_json::{Value, json};

use super::Dialect;

/// The protocol that clients are told the server speaks: the pinned mediasoup.
const MEDIASOUP_VERSION: &str = "3.27.1";

/// The data of a response.
pub(crate) fn reply(reply: Reply, dialect: Dialect) -> Value {
    match reply {
        Reply::Done => json!({}),
        Reply::RouterRtpCapabilities(capabilities) => json!({
            "codecs": capabilities.codecs,
            "headerExtensions": capabilities.header_extensions,
            "routerRtpCapabilities": *capabilities,
        }),
        Reply::Transport(info) => transport(&info),
        Reply::IceParameters(ice) => json!({
            "usernameFragment": ice.username_fragment,
            "password": ice.password,
            "iceLite": ice.ice_lite,
            "iceParameters": ice,
        }),
        Reply::Joined(peers) => json!({ "peers": peers.iter().map(peer).collect::<Vec<_>>() }),
        Reply::Produced(id) => json!({ "id": id.as_str(), "producerId": id.as_str() }),
        Reply::DataProduced(id) => json!({ "id": id.as_str(), "dataProducerId": id.as_str() }),
        Reply::Stats(stats) => match dialect {
            Dialect::Classic => stats,
            Dialect::TypeScript => json!({ "stats": stats }),
        },
    }
}

fn transport(info: &TransportInfo) -> Value {
    let mut data = json!({
        "id": info.id.as_str(),
        "transportId": info.id.as_str(),
        "iceParameters": info.ice_parameters,
        "iceCandidates": info.ice_candidates,
        "dtlsParameters": info.dtls_parameters,
    });
    if let (Some(sctp), Some(fields)) = (&info.sctp_parameters, data.as_object_mut()) {
        fields.insert("sctpParameters".to_owned(), json!(sctp));
    }
    data
}

fn peer(info: &PeerInfo) -> Value {
    json!({
        "id": info.id.as_str(),
        "peerId": info.id.as_str(),
        "displayName": info.display_name,
        "device": info.device,
    })
}

/// Method and data of a request to the client.
pub(crate) fn server_request(request: &ServerRequest) -> (&'static str, Value) {
    match request {
        ServerRequest::NewConsumer {
            peer,
            producer,
            id,
            transport,
            kind,
            rtp_parameters,
            consumer_type,
            app_data,
            source,
            producer_paused,
        } => {
            // The newer dialect finds sender and source in appData; the sender's own fields win.
            let mut app_data = (**app_data).clone();
            if let Some(fields) = app_data.as_object_mut() {
                fields.entry("source").or_insert_with(|| json!(source));
                fields.entry("peerId").or_insert_with(|| json!(peer.as_str()));
            }
            let data = json!({
                "peerId": peer.as_str(),
                "producerId": producer.as_str(),
                "id": id.as_str(),
                "consumerId": id.as_str(),
                "transportId": transport.as_str(),
                "kind": kind,
                "rtpParameters": **rtp_parameters,
                "type": consumer_type,
                "appData": app_data,
                "producerPaused": producer_paused,
            });
            ("newConsumer", data)
        }
        ServerRequest::NewDataConsumer {
            peer,
            data_producer,
            id,
            transport,
            stream,
            label,
            protocol,
            app_data,
        } => {
            let mut app_data = (**app_data).clone();
            if let Some(fields) = app_data.as_object_mut() {
                fields.entry("peerId").or_insert_with(|| json!(peer.as_str()));
                // The newer dialect tells its channels apart by this, the older by the label.
                fields.entry("channel").or_insert_with(|| json!(label));
            }
            let data = json!({
                "peerId": peer.as_str(),
                "dataProducerId": data_producer.as_str(),
                "id": id.as_str(),
                "dataConsumerId": id.as_str(),
                "transportId": transport.as_str(),
                "sctpStreamParameters": stream,
                "label": label,
                "protocol": protocol,
                "appData": app_data,
            });
            ("newDataConsumer", data)
        }
    }
}

/// Methods and data of the notifications to the client: some news has a different name in each dialect.
pub(crate) fn notification(notification: &Notification, dialect: Dialect) -> Vec<(&'static str, Value)> {
    let one = |method, data| vec![(method, data)];
    match notification {
        Notification::NewPeer(info) => {
            let mut data = peer(info);
            let nested = data.clone();
            if let Some(fields) = data.as_object_mut() {
                fields.insert("peer".to_owned(), nested);
            }
            one("newPeer", data)
        }
        Notification::PeerClosed(peer) => one("peerClosed", json!({ "peerId": peer.as_str() })),
        Notification::PeerDisplayNameChanged { peer, display_name, old_display_name } => one(
            "peerDisplayNameChanged",
            json!({ "peerId": peer.as_str(), "displayName": display_name, "oldDisplayName": old_display_name }),
        ),
        Notification::ProducerScore { producer, score } => {
            one("producerScore", json!({ "producerId": producer.as_str(), "score": score }))
        }
        Notification::ConsumerClosed(id) => one("consumerClosed", json!({ "consumerId": id.as_str() })),
        Notification::DataConsumerClosed(id) => {
            one("dataConsumerClosed", json!({ "dataConsumerId": id.as_str() }))
        }
        Notification::ConsumerPaused(id) => one("consumerPaused", json!({ "consumerId": id.as_str() })),
        Notification::ConsumerResumed(id) => one("consumerResumed", json!({ "consumerId": id.as_str() })),
        Notification::ConsumerScore { consumer, score } => {
            one("consumerScore", json!({ "consumerId": consumer.as_str(), "score": score }))
        }
        Notification::ConsumerLayersChanged { consumer, layers } => {
            let mut data = json!({
                "consumerId": consumer.as_str(),
                "spatialLayer": layers.map(|layers| layers.spatial),
                "temporalLayer": layers.and_then(|layers| layers.temporal),
            });
            if let (Some(layers), Some(fields)) = (layers, data.as_object_mut()) {
                let nested = json!({ "spatialLayer": layers.spatial, "temporalLayer": layers.temporal });
                fields.insert("layers".to_owned(), nested);
            }
            one("consumerLayersChanged", data)
        }
        Notification::ActiveSpeaker(speaker) => active_speaker(speaker.as_ref(), dialect),
    }
}

fn active_speaker(speaker: Option<&(room::PeerId, i8)>, dialect: Dialect) -> Vec<(&'static str, Value)> {
    let data = match (speaker, dialect) {
        (Some((peer, volume)), _) => json!({ "peerId": peer.as_str(), "volume": volume }),
        (None, Dialect::Classic) => json!({ "peerId": null }),
        (None, Dialect::TypeScript) => json!({}),
    };
    let mut all = vec![("activeSpeaker", data)];
    if dialect == Dialect::TypeScript {
        let volumes = speaker.map(|(peer, volume)| json!({ "peerId": peer.as_str(), "volume": volume }));
        all.push(("speakingPeers", json!({ "peerVolumes": volumes.into_iter().collect::<Vec<_>>() })));
    }
    all
}

/// The notification that names the server's mediasoup version.
pub(crate) fn version(dialect: Dialect) -> (&'static str, Value) {
    let method = match dialect {
        Dialect::Classic => "mediasoup-version",
        Dialect::TypeScript => "mediasoupVersion",
    };
    (method, json!({ "version": MEDIASOUP_VERSION }))
}
