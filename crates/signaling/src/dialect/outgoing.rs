//! What the room says, in the words of both dialects at once.

use room::{Notification, PeerInfo, PeerProducers, Reply, ServerRequest, TransportInfo};
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
        Reply::PlainTransport(info) => {
            let mut data = json!({
                "id": info.id.as_str(),
                "transportId": info.id.as_str(),
                "ip": info.ip,
                "port": info.port,
            });
            if let (Some(port), Some(fields)) = (info.rtcp_port, data.as_object_mut()) {
                fields.insert("rtcpPort".to_owned(), json!(port));
            }
            data
        }
        Reply::Consumed(consumed) => json!({
            "id": consumed.id.as_str(),
            "consumerId": consumed.id.as_str(),
            "producerId": consumed.producer.as_str(),
            "kind": consumed.kind,
            "rtpParameters": *consumed.rtp_parameters,
            "type": consumed.consumer_type,
        }),
        Reply::DataConsumed(id, stream) => json!({
            "id": id.as_str(),
            "dataConsumerId": id.as_str(),
            "streamId": stream.stream_id,
        }),
        Reply::PeerProducers(peers) if dialect == Dialect::TypeScript => {
            json!({ "peerProducersInfos": peers.iter().map(producers_info).collect::<Vec<_>>() })
        }
        Reply::PeerProducers(peers) => {
            json!({ "peers": peers.iter().map(peer_and_producers).collect::<Vec<_>>() })
        }
        Reply::Stats(stats) => match dialect {
            Dialect::Classic | Dialect::Unknown => stats,
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
        "remoteAddress": info.remote_address.map(|address| address.to_string()).unwrap_or_default(),
    })
}

/// For a broadcaster of the classic dialect.
fn peer_and_producers(peer: &PeerProducers) -> Value {
    let producers = peer.producers.iter();
    let producers = producers.map(|producer| json!({ "id": producer.id.as_str(), "kind": producer.kind }));
    json!({
        "id": peer.peer.id.as_str(),
        "displayName": peer.peer.display_name,
        "device": peer.peer.device,
        "producers": producers.collect::<Vec<_>>(),
    })
}

/// For one of the newer dialect.
fn producers_info(peer: &PeerProducers) -> Value {
    let producers = peer.producers.iter().map(|producer| {
        json!({
            "producerId": producer.id.as_str(),
            "kind": producer.kind,
            "source": newer_source(&producer.source).unwrap_or(&producer.source),
            "consumableCodecs": producer.consumable.codecs,
        })
    });
    json!({ "peerId": peer.peer.id.as_str(), "producers": producers.collect::<Vec<_>>() })
}

/// Method and data of a request to the client.
pub(crate) fn server_request(request: &ServerRequest, dialect: Dialect) -> (&'static str, Value) {
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
            score,
            replaces,
        } => {
            // The newer dialect finds sender and source in appData, and knows three words for the latter; else the
            // sender's own fields win.
            let mut app_data = (**app_data).clone();
            if let Some(fields) = app_data.as_object_mut() {
                match newer_source(source) {
                    Some(source) if dialect == Dialect::TypeScript => {
                        fields.insert("source".to_owned(), json!(source));
                    }
                    _ => {
                        fields.entry("source").or_insert_with(|| json!(source));
                    }
                }
                fields.entry("peerId").or_insert_with(|| json!(peer.as_str()));
                // The classic one tells a screen from a camera by this.
                if source == "screen" {
                    fields.entry("share").or_insert(json!(true));
                }
            }
            let mut data = json!({
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
            if let (false, Some(fields)) = (score.is_null(), data.as_object_mut()) {
                fields.insert("consumerScore".to_owned(), score.clone());
            }
            if let (Some(replaced), Some(fields)) = (replaces, data.as_object_mut()) {
                fields.insert("replaces".to_owned(), json!(replaced.as_str()));
            }
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
            replaces,
        } => {
            let mut app_data = (**app_data).clone();
            if let Some(fields) = app_data.as_object_mut() {
                fields.entry("peerId").or_insert_with(|| json!(peer.as_str()));
                // The newer dialect tells its channels apart by this, the older by the label.
                fields.entry("channel").or_insert_with(|| json!(label));
            }
            let mut data = json!({
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
            if let (Some(replaced), Some(fields)) = (replaces, data.as_object_mut()) {
                fields.insert("replaces".to_owned(), json!(replaced.as_str()));
            }
            ("newDataConsumer", data)
        }
    }
}

/// The newer dialect's word for a source, where it has one.
fn newer_source(source: &str) -> Option<&'static str> {
    match source {
        "microphone" => Some("audio"),
        "camera" => Some("video"),
        "screen" => Some("screensharing"),
        _ => None,
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
        // Only clients hear this that said they know it.
        Notification::Migrate { within_ms } => one("migrate", json!({ "withinMs": within_ms })),
        Notification::Speakers(speakers) => active_speaker(speakers, dialect),
        // The newer dialect has no word for it.
        Notification::DownlinkBandwidth(_) if dialect == Dialect::TypeScript => Vec::new(),
        Notification::DownlinkBandwidth(bandwidth) => one(
            "downlinkBwe",
            json!({
                "desiredBitrate": bandwidth.desired,
                "effectiveDesiredBitrate": bandwidth.effective_desired,
                "availableBitrate": bandwidth.available,
            }),
        ),
    }
}

/// The loudest for both; the newer dialect hears of all that speak, too, and takes a peer that is left out for silence.
fn active_speaker(speakers: &[(room::PeerId, i8)], dialect: Dialect) -> Vec<(&'static str, Value)> {
    let volume = |(peer, volume): &(room::PeerId, i8)| json!({ "peerId": peer.as_str(), "volume": volume });
    let loudest = match (speakers.first(), dialect) {
        (Some(speaker), _) => volume(speaker),
        (None, Dialect::Classic | Dialect::Unknown) => json!({ "peerId": null }),
        (None, Dialect::TypeScript) => json!({}),
    };
    let mut all = vec![("activeSpeaker", loudest)];
    if dialect == Dialect::TypeScript {
        let volumes: Vec<_> = speakers.iter().map(volume).collect();
        all.push(("speakingPeers", json!({ "peerVolumes": volumes })));
    }
    all
}

/// The notifications that name the server's mediasoup version: one, or both while the dialect is not known. Clients pass
/// over notifications that they do not know.
pub(crate) fn versions(dialect: Dialect) -> Vec<(&'static str, Value)> {
    let methods: &[&str] = match dialect {
        Dialect::Classic => &["mediasoup-version"],
        Dialect::TypeScript => &["mediasoupVersion"],
        Dialect::Unknown => &["mediasoup-version", "mediasoupVersion"],
    };
    methods.iter().map(|method| (*method, json!({ "version": MEDIASOUP_VERSION }))).collect()
}
