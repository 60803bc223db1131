//! What clients and rooms say to each other, without the spelling of any dialect: signaling translates. Its serde form is
//! what nodes of a cluster send each other, and nobody else's.

use std::net::IpAddr;
use std::sync::Arc;

use ortc::{
    ConsumerType, DtlsParameters, IceCandidate, IceParameters, MediaKind, RtpCapabilities, RtpParameters,
    SctpParameters, SctpStreamParameters,
};
use serde::{Deserialize, Serialize};

use crate::id::{ConsumerId, DataConsumerId, DataProducerId, PeerId, ProducerId, TransportId};

/// WebSocket close codes that protoo clients meet. Any code but [`close_code::FINAL`] makes them reconnect and join
/// again at once.
pub mod close_code {
    /// Do not come back: another connection of the same peer took over, or the peer was removed.
    pub const FINAL: u16 = 4000;
    /// The media worker died; a new one is ready for the re-join.
    pub const MEDIA_LOST: u16 = 4001;
    /// The client does not read as fast as the room talks.
    pub const TOO_SLOW: u16 = 4002;
    /// The server stops; another may answer.
    pub const SHUTDOWN: u16 = 4003;
    /// The client breaks the protocol again and again.
    pub const PROTOCOL: u16 = 4004;
    /// The client was connected for long and did not join.
    pub const NOT_JOINED: u16 = 4005;
    /// Another connection has this peer id, and the client may not take its place: it is free once that one has gone.
    pub const TAKEN: u16 = 4006;
    /// The session that the client wanted back cannot be had: connect again without asking for it.
    pub const NOT_RESUMED: u16 = 4007;
    /// Another node has the room now, or the one with the peer's media is to be empty: join again. Media goes on here for a while, so that a client may take it up
    /// there before it lets go of it here.
    pub const MOVED: u16 = 4009;
    /// The client's connection broke, and it did not come back in time. Nobody hears this.
    pub const GONE: u16 = 4008;
}

/// The software that a peer uses, by its own account.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    /// Short and stable, for example `chrome`.
    pub flag: Option<String>,
    /// For people.
    pub name: Option<String>,
    /// For people.
    pub version: Option<String>,
}

/// A joined peer, as others see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerInfo {
    /// Its id.
    pub id: PeerId,
    /// Its name, for people.
    pub display_name: String,
    /// Its software.
    pub device: Device,
    /// Where it connects from, if the others may know.
    pub remote_address: Option<IpAddr>,
}

/// Preferred or current layers of a Consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layers {
    /// The spatial layer, from 0.
    pub spatial: u8,
    /// The temporal layer, from 0; `None` is the highest.
    pub temporal: Option<u8>,
}

/// How a peer comes to receive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Receives {
    /// It is offered everything that it may receive.
    #[default]
    Offered,
    /// It asks for what it wants: a broadcaster, which has no connection to be offered something on. It may have more
    /// transports than one for each direction.
    OnRequest,
}

/// What a client asks of its room.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// What the room can forward.
    RouterRtpCapabilities,
    /// A WebRtcTransport. Neither direction set means either.
    CreateWebRtcTransport {
        /// TCP candidates only.
        force_tcp: bool,
        /// The client will send on it.
        producing: bool,
        /// The client will receive on it.
        consuming: bool,
        /// The client knows data channels.
        data: bool,
        /// The client wants [`Notification::DownlinkBandwidth`].
        #[serde(default)]
        bandwidth: bool,
    },
    /// The client's side of DTLS.
    ConnectWebRtcTransport {
        /// Which transport.
        transport: TransportId,
        /// Role and fingerprints.
        dtls_parameters: DtlsParameters,
    },
    /// New ICE credentials for a transport.
    RestartIce {
        /// Which transport.
        transport: TransportId,
    },
    /// Become visible to the others and start receiving.
    Join {
        /// For people.
        display_name: String,
        /// The client's software.
        device: Device,
        /// What the client can receive; one that gives nothing receives nothing.
        rtp_capabilities: Option<Arc<RtpCapabilities>>,
        /// Where it connects from, if the others may know.
        remote_address: Option<IpAddr>,
        /// How it comes to receive.
        #[serde(default)]
        receives: Receives,
        /// It understands [`Notification::Migrate`].
        #[serde(default)]
        migrates: bool,
    },
    /// Start to send.
    Produce {
        /// On which transport.
        transport: TransportId,
        /// What.
        kind: MediaKind,
        /// How.
        rtp_parameters: Box<RtpParameters>,
        /// Handed to receivers as it is.
        app_data: serde_json::Value,
        /// A producer of this peer that this one takes the place of, in a migration.
        #[serde(default)]
        replaces: Option<ProducerId>,
    },
    /// Start to send messages.
    ProduceData {
        /// On which transport.
        transport: TransportId,
        /// On which stream, and how reliably.
        stream: SctpStreamParameters,
        /// The data channel's label.
        label: String,
        /// The data channel's subprotocol.
        protocol: String,
        /// Handed to receivers as it is.
        app_data: serde_json::Value,
        /// A data producer of this peer that this one takes the place of, in a migration.
        #[serde(default)]
        replaces: Option<DataProducerId>,
    },
    /// The peer has at its new site all that it had at the old one ([`Notification::Migrate`]). Answered when the old
    /// transports are closed; until then the client lets them send and receive.
    Migrated,
    /// Stop to send.
    CloseProducer(ProducerId),
    /// Send nothing for a while.
    PauseProducer(ProducerId),
    /// Send again.
    ResumeProducer(ProducerId),
    /// Receive nothing for a while.
    PauseConsumer(ConsumerId),
    /// Receive again.
    ResumeConsumer(ConsumerId),
    /// Ask the sender for a key frame.
    RequestConsumerKeyFrame(ConsumerId),
    /// The highest layers wanted.
    SetConsumerPreferredLayers(ConsumerId, Layers),
    /// 1 (least) to 255.
    SetConsumerPriority(ConsumerId, u8),
    /// A new name, for people.
    ChangeDisplayName(String),
    /// A transport of plain RTP, for a broadcaster.
    CreatePlainTransport {
        /// RTP and RTCP on one port.
        rtcp_mux: bool,
        /// The other side's address is learnt from its first packet.
        comedia: bool,
    },
    /// Where a PlainTransport sends to; nothing of it with `comedia`.
    ConnectPlainTransport {
        /// Which transport.
        transport: TransportId,
        /// The other side's address.
        ip: Option<IpAddr>,
        /// Its port for RTP.
        port: Option<u16>,
        /// Its port for RTCP, where that has one of its own.
        rtcp_port: Option<u16>,
    },
    /// Receive this; only of a peer that joined with [`Receives::OnRequest`].
    Consume {
        /// On which transport.
        transport: TransportId,
        /// What.
        producer: ProducerId,
        /// What the client can receive; what it joined with otherwise.
        rtp_capabilities: Option<Arc<RtpCapabilities>>,
        /// Nothing flows until [`Request::ResumeConsumer`].
        paused: bool,
    },
    /// Receive these messages; only of a peer that joined with [`Receives::OnRequest`].
    ConsumeData {
        /// On which transport.
        transport: TransportId,
        /// What.
        data_producer: DataProducerId,
    },
    /// Who else is here and sends what; of those that gave capabilities, what they can receive.
    PeerProducers,
    /// Numbers about a transport.
    TransportStats(TransportId),
    /// Numbers about a producer of this peer.
    ProducerStats(ProducerId),
    /// Numbers about a consumer of this peer.
    ConsumerStats(ConsumerId),
    /// Numbers about a data producer of this peer.
    DataProducerStats(DataProducerId),
    /// Numbers about a data consumer of this peer.
    DataConsumerStats(DataConsumerId),
}

/// The server's side of a WebRtcTransport.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TransportInfo {
    /// Its id.
    pub id: TransportId,
    /// ICE credentials.
    pub ice_parameters: IceParameters,
    /// Where to reach it.
    pub ice_candidates: Vec<IceCandidate>,
    /// Role and fingerprints.
    pub dtls_parameters: DtlsParameters,
    /// The association for data channels, where the client knows them.
    pub sctp_parameters: Option<SctpParameters>,
}

/// The server's side of a PlainTransport.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlainTransportInfo {
    /// Its id.
    pub id: TransportId,
    /// Where to reach it: an address, or a name that is announced.
    pub ip: String,
    /// For RTP.
    pub port: u16,
    /// For RTCP, where that has a port of its own.
    pub rtcp_port: Option<u16>,
}

/// A consumer that was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Consumed {
    /// Its id.
    pub id: ConsumerId,
    /// What is consumed.
    pub producer: ProducerId,
    /// Audio or video.
    pub kind: MediaKind,
    /// What will arrive.
    pub rtp_parameters: Arc<RtpParameters>,
    /// simple, simulcast, svc.
    pub consumer_type: ConsumerType,
}

/// A peer and what it sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerProducers {
    /// Who.
    pub peer: PeerInfo,
    /// What.
    pub producers: Vec<ProducerInfo>,
}

/// What a peer sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProducerInfo {
    /// Its id.
    pub id: ProducerId,
    /// Audio or video.
    pub kind: MediaKind,
    /// The sender's `appData.source`, read.
    pub source: String,
    /// What consumers of it can be sent.
    pub consumable: Arc<RtpParameters>,
}

/// The answer to a [`Request`] that succeeded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// Done.
    Done,
    /// To [`Request::RouterRtpCapabilities`].
    RouterRtpCapabilities(Arc<RtpCapabilities>),
    /// To [`Request::CreateWebRtcTransport`].
    Transport(Box<TransportInfo>),
    /// To [`Request::RestartIce`].
    IceParameters(IceParameters),
    /// To [`Request::Join`]: who is here already.
    Joined(Vec<PeerInfo>),
    /// To [`Request::Produce`].
    Produced(ProducerId),
    /// To [`Request::ProduceData`].
    DataProduced(DataProducerId),
    /// To [`Request::CreatePlainTransport`].
    PlainTransport(PlainTransportInfo),
    /// To [`Request::Consume`].
    Consumed(Box<Consumed>),
    /// To [`Request::ConsumeData`]: which, and on which stream.
    DataConsumed(DataConsumerId, SctpStreamParameters),
    /// To [`Request::PeerProducers`].
    PeerProducers(Vec<PeerProducers>),
    /// To the requests for numbers: an array of objects as mediasoup documents them.
    Stats(serde_json::Value),
}

/// What the server asks of a client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ServerRequest {
    /// Receive this. Once accepted, the consumer is resumed.
    NewConsumer {
        /// Whose media it is.
        peer: PeerId,
        /// What is consumed.
        producer: ProducerId,
        /// The consumer.
        id: ConsumerId,
        /// On which of the client's transports.
        transport: TransportId,
        /// Audio or video.
        kind: MediaKind,
        /// What will arrive.
        rtp_parameters: Arc<RtpParameters>,
        /// simple, simulcast, svc.
        consumer_type: ConsumerType,
        /// The sender's `appData`.
        app_data: Arc<serde_json::Value>,
        /// The sender's `appData.source`, read.
        source: String,
        /// Whether the sender is silent now.
        producer_paused: bool,
        /// How well it is served: an object of scores, or null where nobody knows yet.
        #[serde(default)]
        score: serde_json::Value,
        /// A consumer of this client that this one takes the place of, in a migration of either side.
        #[serde(default)]
        replaces: Option<ConsumerId>,
    },
    /// Receive these messages. Once accepted, the data consumer is resumed.
    NewDataConsumer {
        /// Whose messages they are.
        peer: PeerId,
        /// What is consumed.
        data_producer: DataProducerId,
        /// The data consumer.
        id: DataConsumerId,
        /// On which of the client's transports.
        transport: TransportId,
        /// On which stream, and how reliably.
        stream: SctpStreamParameters,
        /// The data channel's label.
        label: String,
        /// The data channel's subprotocol.
        protocol: String,
        /// The sender's `appData`.
        app_data: Arc<serde_json::Value>,
        /// A data consumer of this client that this one takes the place of, in a migration of either side.
        #[serde(default)]
        replaces: Option<DataConsumerId>,
    },
}

/// What the server tells a client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Notification {
    /// Somebody joined.
    NewPeer(PeerInfo),
    /// Somebody left.
    PeerClosed(PeerId),
    /// Somebody has a new name.
    PeerDisplayNameChanged {
        /// Who.
        peer: PeerId,
        /// The new one.
        display_name: String,
        /// The one before.
        old_display_name: String,
    },
    /// How well the server receives a producer of this client.
    ProducerScore {
        /// Which.
        producer: ProducerId,
        /// An array of scores, one a stream.
        score: serde_json::Value,
    },
    /// A consumer is gone.
    ConsumerClosed(ConsumerId),
    /// A data consumer is gone.
    DataConsumerClosed(DataConsumerId),
    /// Its sender fell silent.
    ConsumerPaused(ConsumerId),
    /// Its sender is back.
    ConsumerResumed(ConsumerId),
    /// How well a consumer is served.
    ConsumerScore {
        /// Which.
        consumer: ConsumerId,
        /// An object of scores.
        score: serde_json::Value,
    },
    /// Which layers a consumer gets now.
    ConsumerLayersChanged {
        /// Which.
        consumer: ConsumerId,
        /// `None`: nothing flows.
        layers: Option<Layers>,
    },
    /// Who speaks, each with its level in dBov, the loudest first; nobody: silence.
    Speakers(Vec<(PeerId, i8)>),
    /// What congestion control thinks of the way to this client, where it asked to be told.
    DownlinkBandwidth(DownlinkBandwidth),
    /// The node that has this client's transports is to be empty: make new ones, produce on them what is produced on the
    /// old, and say [`Request::Migrated`] once all media is there. Only to who said at its join that it can.
    Migrate {
        /// Who takes longer is closed with [`close_code::MOVED`].
        within_ms: u64,
    },
}

/// What congestion control thinks of the way to one client, in bit/s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DownlinkBandwidth {
    /// What all its consumers would take at their best.
    pub desired: u64,
    /// The same, as far as limits allow.
    pub effective_desired: u64,
    /// What the way is thought to bear.
    pub available: u64,
}
