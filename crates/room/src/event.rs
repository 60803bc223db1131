//! The two alphabets of a room: what happens to it, and what it wants done. What a room and its sites say to each other
//! has a serde form, because a site may be on another node.

use std::net::IpAddr;
use std::sync::Arc;

use ortc::{
    ConsumerType, DtlsParameters, IceParameters, MediaKind, RtpCapabilities, RtpParameters,
    SctpStreamParameters, SrtpParameters,
};

use serde::{Deserialize, Serialize};

use crate::error::RoomError;
use crate::id::{
    AskId, ConsumerId, DataConsumerId, DataProducerId, OpId, PeerId, ProducerId, Region, RequestId,
    SessionId, SiteId, TransportId,
};
use crate::key::PeerKey;
use crate::message::{
    DownlinkBandwidth, Layers, Notification, PlainTransportInfo, Reply, Request, ServerRequest, TransportInfo,
};
use crate::policy::Role;

/// Something happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A client opened a session. One with the same peer id is replaced, if it may be.
    Connected {
        /// The new session.
        session: SessionId,
        /// Whose.
        comer: Comer,
    },
    /// A session ended, whatever the reason.
    Disconnected(SessionId),
    /// The way to a session's client broke; it may come back until [`crate::Limits::resume_ms`] later.
    Detached(SessionId),
    /// It came back.
    Attached(SessionId),
    /// A client asks.
    Request {
        /// Who.
        session: SessionId,
        /// The tag of its answer.
        request: RequestId,
        /// What.
        message: Request,
    },
    /// A client answered an [`Action::Ask`], or did not in time (`accepted` is false then).
    Answered {
        /// Who.
        session: SessionId,
        /// Which question.
        ask: AskId,
        /// Yes or no.
        accepted: bool,
    },
    /// Work of an [`Action::Media`] ended.
    MediaDone {
        /// Which.
        op: OpId,
        /// How.
        result: Result<MediaDone, MediaFailure>,
    },
    /// A site tells of something that it was not asked for.
    Site {
        /// Which.
        site: SiteId,
        /// What.
        what: SiteEvent,
    },
    /// The time that `poll_timeout` gave has come.
    Timeout,
    /// The server stops.
    Shutdown,
}

/// Who comes to a room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comer {
    /// Who it says it is.
    pub peer: PeerId,
    /// The role it was given; the room type's default otherwise.
    pub role: Option<Role>,
    /// What proves that it is the peer that was here before, and what another must show to take its place.
    #[serde(default)]
    pub key: Option<PeerKey>,
    /// Where it came in; a site there is preferred.
    #[serde(default)]
    pub region: Option<Region>,
}

impl Comer {
    /// A peer of whom nothing else is known.
    pub fn new(peer: PeerId) -> Self {
        Self { peer, role: None, key: None, region: None }
    }
}

/// What a site tells unasked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum SiteEvent {
    /// The worker sees the score of a producer change.
    ProducerScore(ProducerId, serde_json::Value),
    /// The worker sees the score of a consumer change.
    ConsumerScore(ConsumerId, serde_json::Value),
    /// The worker forwards other layers now.
    ConsumerLayers(ConsumerId, Option<Layers>),
    /// The loudest audio producers of this site, loudest first; empty on silence.
    Volumes(Vec<Volume>),
    /// What congestion control thinks of the way to the transport's client.
    DownlinkBandwidth(TransportId, DownlinkBandwidth),
    /// A transport ended for good: its client closed DTLS, or DTLS failed.
    TransportClosed(TransportId),
    /// The worker has as much to do as it can (or has less again): new peers go elsewhere.
    Busy(bool),
    /// The site's node is to be empty soon (or not any more): new peers go elsewhere, and those who are there, too.
    Draining(bool),
    /// The worker or its node is gone, and the router and everything in it with it. The site's last event; work
    /// under way there is not answered any more.
    Lost,
}

/// The level of one audio producer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Which.
    pub producer: ProducerId,
    /// In dBov, -127 (silent) to 0.
    pub dbov: i8,
}

/// Something is to be done, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Answer a client.
    Reply {
        /// Whom.
        session: SessionId,
        /// Which request.
        request: RequestId,
        /// What.
        result: Result<Reply, RoomError>,
    },
    /// Tell a client.
    Notify {
        /// Whom.
        session: SessionId,
        /// What.
        notification: Notification,
    },
    /// Ask a client.
    Ask {
        /// Whom.
        session: SessionId,
        /// The tag of its answer.
        ask: AskId,
        /// What.
        request: ServerRequest,
    },
    /// End a session. The room has forgotten it already.
    CloseSession {
        /// Which.
        session: SessionId,
        /// See [`crate::close_code`].
        code: u16,
        /// For people.
        reason: &'static str,
    },
    /// Have media work done. Operations on one object take effect in the order given; those of different sites have
    /// no order.
    Media {
        /// Where. A site begins with [`MediaOp::CreateRouter`] and ends with [`MediaOp::CloseRouter`] or
        /// [`SiteEvent::Lost`].
        site: SiteId,
        /// The tag of its completion.
        op: OpId,
        /// What.
        what: MediaOp,
    },
    /// Count something that operators should see.
    Count(Counter),
    /// The room is over: close its router and forget it.
    CloseRoom,
}

/// Things worth a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counter {
    /// A peer joined.
    Joined,
    /// A connection took over from an older one of the same peer.
    Replaced,
    /// A connection wanted to take over from another of the same peer, and did not show its key.
    ReplacementRefused,
    /// The connection of a peer that can come back broke.
    Detached,
    /// Such a peer came back.
    Resumed,
    /// Such a peer did not come back in time.
    DetachedTooLong,
    /// A peer was asked to take its media to another site, because the one where it is drains.
    Migrating,
    /// It has.
    Migrated,
    /// It did not in time, and was sent to join again.
    MigrationOverdue,
    /// A peer was sent to join again, because it cannot take its media along.
    NotMigrating,
    /// A peer was not let in, because the room has as many as it may.
    RoomFull,
    /// A room lost a router.
    RouterLost,
    /// A room has one more router, because those it had were full, busy, or in other regions.
    Spread,
    /// A peer was given a router that was full, because the room may have no more.
    RouterOverLimit,
    /// A producer could not be brought to another site.
    PipeFailed,
    /// A consumer had another take its place, because what it received came by way of a site that drains.
    Rerouted,
    /// A producer was not forwarded to a peer, because that one has too many consumers.
    ConsumerOverLimit,
    /// A client refused a consumer, or did not answer.
    ConsumerRefused,
    /// A producer could not be consumed by a peer.
    ConsumeFailed,
    /// Media work failed.
    MediaFailed,
}

impl Counter {
    /// The metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Joined => "joined",
            Self::Replaced => "replaced",
            Self::ReplacementRefused => "replacement_refused",
            Self::Detached => "detached",
            Self::Resumed => "resumed",
            Self::DetachedTooLong => "detached_too_long",
            Self::Migrating => "migrating",
            Self::Migrated => "migrated",
            Self::MigrationOverdue => "migration_overdue",
            Self::NotMigrating => "not_migrating",
            Self::RoomFull => "room_full",
            Self::RouterLost => "router_lost",
            Self::Spread => "spread",
            Self::RouterOverLimit => "router_over_limit",
            Self::PipeFailed => "pipe_failed",
            Self::Rerouted => "rerouted",
            Self::ConsumerOverLimit => "consumer_over_limit",
            Self::ConsumerRefused => "consumer_refused",
            Self::ConsumeFailed => "consume_failed",
            Self::MediaFailed => "media_failed",
        }
    }
}

/// Media work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum MediaOp {
    /// A router on a live worker that has none of this room yet. Answered by [`MediaDone::Router`]; where that fails, the
    /// site is over.
    CreateRouter {
        /// Of this region.
        region: Option<Region>,
        /// Of another, or on any worker, where that cannot be: the room has no other router.
        or_elsewhere: bool,
    },
    /// The site is over: close its router and forget it.
    CloseRouter,
    /// Answered by [`MediaDone::Transport`].
    CreateTransport {
        /// TCP candidates only.
        force_tcp: bool,
        /// With an SCTP association for data channels.
        data: bool,
        /// With [`Event::DownlinkBandwidth`] about it.
        bandwidth: bool,
    },
    /// Answered by [`MediaDone::PlainTransport`].
    CreatePlainTransport {
        /// RTP and RTCP on one port.
        rtcp_mux: bool,
        /// The other side's address is learnt from its first packet.
        comedia: bool,
    },
    /// Where a PlainTransport sends to.
    ConnectPlainTransport {
        /// Which.
        transport: TransportId,
        /// The other side's address.
        ip: Option<IpAddr>,
        /// Its port for RTP.
        port: Option<u16>,
        /// Its port for RTCP.
        rtcp_port: Option<u16>,
    },
    /// The client's side of DTLS.
    ConnectTransport {
        /// Which.
        transport: TransportId,
        /// Role and fingerprints.
        dtls_parameters: DtlsParameters,
    },
    /// Answered by [`MediaDone::IceParameters`].
    RestartIce(TransportId),
    /// Close it and everything on it.
    CloseTransport(TransportId),
    /// Answered by [`MediaDone::Producer`].
    Produce {
        /// On which transport.
        transport: TransportId,
        /// What.
        kind: MediaKind,
        /// How.
        rtp_parameters: Box<RtpParameters>,
    },
    /// Report this audio producer in [`Event::Volumes`].
    ObserveVolume(ProducerId),
    /// Close it, and all its consumers.
    CloseProducer(ProducerId),
    /// Let it send nothing.
    PauseProducer(ProducerId),
    /// Let it send.
    ResumeProducer(ProducerId),
    /// Consume, paused. Answered by [`MediaDone::Consumer`]; refused when the capabilities do not fit.
    Consume {
        /// On which transport.
        transport: TransportId,
        /// What.
        producer: ProducerId,
        /// What the receiver can do.
        rtp_capabilities: Arc<RtpCapabilities>,
    },
    /// Close it.
    CloseConsumer(ConsumerId),
    /// Let it receive nothing.
    PauseConsumer(ConsumerId),
    /// Let it receive.
    ResumeConsumer(ConsumerId),
    /// Ask the sender for a key frame.
    RequestKeyFrame(ConsumerId),
    /// The highest layers wanted.
    SetPreferredLayers(ConsumerId, Layers),
    /// 1 to 255.
    SetPriority(ConsumerId, u8),
    /// Answered by [`MediaDone::Stats`].
    Stats(StatsOf),
    /// Answered by [`MediaDone::DataProducer`].
    ProduceData {
        /// On which transport.
        transport: TransportId,
        /// On which stream, and how reliably.
        stream: SctpStreamParameters,
        /// The data channel's label.
        label: String,
        /// The data channel's subprotocol.
        protocol: String,
    },
    /// Consume messages, paused. Answered by [`MediaDone::DataConsumer`].
    ConsumeData {
        /// On which transport.
        transport: TransportId,
        /// What.
        data_producer: DataProducerId,
    },
    /// Close it.
    CloseDataConsumer(DataConsumerId),
    /// Close it, and all its data consumers.
    CloseDataProducer(DataProducerId),
    /// Let it send.
    ResumeDataConsumer(DataConsumerId),
    /// One end of a pipe to another site. Answered by [`MediaDone::Pipe`].
    CreatePipe {
        /// The other site is on another node: reach it, encrypt what goes there, and send again what gets lost.
        leaves_node: bool,
    },
    /// The other end is there.
    ConnectPipe {
        /// Which transport.
        transport: TransportId,
        /// The other end.
        remote: Box<PipeEnd>,
    },
    /// Send a producer into a pipe. Answered by [`MediaDone::PipedOut`].
    PipeOut {
        /// On which transport.
        transport: TransportId,
        /// What.
        producer: ProducerId,
    },
    /// Receive a producer from a pipe, under the id that it has at the other end. Answered by
    /// [`MediaDone::Producer`].
    PipeIn {
        /// On which transport.
        transport: TransportId,
        /// What.
        producer: ProducerId,
        /// Audio or video.
        kind: MediaKind,
        /// What comes.
        rtp_parameters: Box<RtpParameters>,
    },
    /// Send messages into a pipe. Answered by [`MediaDone::PipedDataOut`].
    PipeDataOut {
        /// On which transport.
        transport: TransportId,
        /// What.
        data_producer: DataProducerId,
    },
    /// Receive messages from a pipe, under the id of the data producer at the other end. Answered by
    /// [`MediaDone::DataProducer`].
    PipeDataIn {
        /// On which transport.
        transport: TransportId,
        /// What.
        data_producer: DataProducerId,
        /// On which stream of the pipe, and how reliably.
        stream: SctpStreamParameters,
        /// The data channel's label.
        label: String,
        /// The data channel's subprotocol.
        protocol: String,
    },
}

/// One end of a pipe, as the other end is told of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PipeEnd {
    /// The PipeTransport's id.
    pub id: TransportId,
    /// Where it is reached.
    pub ip: IpAddr,
    /// Where it is reached.
    pub port: u16,
    /// Its key, where the pipe leaves the node.
    pub srtp_parameters: Option<SrtpParameters>,
}

/// Where a site is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The node, by whatever name its cluster gives it. Between sites of one node nothing is encrypted.
    pub node: String,
    /// The node's region.
    pub region: Option<Region>,
}

/// A producer goes into a pipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PipedOut {
    /// What sends it.
    pub consumer: ConsumerId,
    /// Audio or video.
    pub kind: MediaKind,
    /// What it sends.
    pub rtp_parameters: Box<RtpParameters>,
}

/// Messages go into a pipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PipedDataOut {
    /// What sends them.
    pub consumer: DataConsumerId,
    /// On which stream of the pipe, and how reliably.
    pub stream: SctpStreamParameters,
    /// The data channel's label.
    pub label: String,
    /// The data channel's subprotocol.
    pub protocol: String,
}

/// What numbers are asked about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StatsOf {
    /// A transport.
    Transport(TransportId),
    /// A producer.
    Producer(ProducerId),
    /// A consumer.
    Consumer(ConsumerId),
    /// A data producer.
    DataProducer(DataProducerId),
    /// A data consumer.
    DataConsumer(DataConsumerId),
}

/// Media work that succeeded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum MediaDone {
    /// Nothing more to say.
    Done,
    /// There is a router now.
    Router {
        /// What it can forward.
        rtp_capabilities: Arc<RtpCapabilities>,
        /// Where it is.
        place: Place,
    },
    /// There is a transport now.
    Transport(Box<TransportInfo>),
    /// There is a PlainTransport now.
    PlainTransport(PlainTransportInfo),
    /// New ICE credentials.
    IceParameters(IceParameters),
    /// There is a producer now.
    Producer(ProducerCreated),
    /// There is a consumer now.
    Consumer(Box<ConsumerCreated>),
    /// Numbers.
    Stats(serde_json::Value),
    /// There is a data producer now.
    DataProducer(DataProducerId),
    /// There is a data consumer now.
    DataConsumer(DataConsumerCreated),
    /// There is one end of a pipe now.
    Pipe(Box<PipeEnd>),
    /// A producer goes into a pipe now.
    PipedOut(Box<PipedOut>),
    /// Messages go into a pipe now.
    PipedDataOut(PipedDataOut),
}

/// A new producer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProducerCreated {
    /// Its id.
    pub id: ProducerId,
    /// What consumers of it can be sent.
    pub consumable: Arc<RtpParameters>,
}

/// A new data consumer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataConsumerCreated {
    /// Its id.
    pub id: DataConsumerId,
    /// The stream that it was given, and how reliable it is.
    pub stream: SctpStreamParameters,
}

/// A new consumer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConsumerCreated {
    /// Its id.
    pub id: ConsumerId,
    /// simple, simulcast, svc.
    pub consumer_type: ConsumerType,
    /// What it sends.
    pub rtp_parameters: Arc<RtpParameters>,
    /// Its first score, as the worker gave it.
    pub score: serde_json::Value,
}

/// Media work that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MediaFailure {
    /// What was asked cannot be: the client's doing.
    Refused(String),
    /// No worker, or no answer in time.
    Unavailable(String),
    /// Ours.
    Internal(String),
}
