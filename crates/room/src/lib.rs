//! Rooms as pure state.
//!
//! A [`Room`] is told what happened ([`Event`]) and when, and says what to do about it ([`Action`]). It owns who is
//! in the room, what each peer sends and receives, who may receive whom ([`RoomType`]), and the limits on all of
//! it. It never reads a clock, opens a socket, spawns a task or draws a random number, so that the whole of a
//! room's life can be replayed from a list of events.
//!
//! The order of calls: `handle` for each event as it comes, its actions carried out in their order; between events
//! `poll_timeout` says when [`Event::Timeout`] is due. Each [`Action::Media`] is answered by exactly one
//! [`Event::MediaDone`] with the same [`OpId`], each [`Action::Ask`] by one [`Event::Answered`], unless the
//! session or the site it belongs to is gone by then.
//!
//! A room lives at one *site*, a router on a worker, or at several: when one is full, or for peers of another region. A
//! peer is at one site with all its transports; what is produced at other sites is piped to it on demand.

mod error;
mod event;
mod id;
mod key;
mod limits;
mod message;
mod outgoing;
mod policy;
mod room;

pub use error::RoomError;
pub use event::{
    Action, Comer, ConsumerCreated, Counter, DataConsumerCreated, Event, MediaDone, MediaFailure, MediaOp,
    PipeEnd, PipedDataOut, PipedOut, Place, ProducerCreated, SiteEvent, StatsOf, Volume,
};
pub use id::{
    AskId, ConsumerId, DataConsumerId, DataProducerId, IdError, OpId, PeerId, ProducerId, Region, RequestId,
    RoomId, SessionId, SiteId, TransportId,
};
pub use key::{PeerKey, PeerKeyError};
pub use limits::{Limits, RouterLimits};
pub use message::{
    Consumed, Device, DownlinkBandwidth, Layers, Notification, PeerInfo, PeerProducers, PlainTransportInfo,
    ProducerInfo, Receives, Reply, Request, ServerRequest, TransportInfo, close_code,
};
pub use outgoing::{Heard, NotKept, Outgoing};
pub use policy::{MediaMatch, PolicyError, Role, RolePolicy, RoomType, Source};
pub use room::{Held, Room, Snapshot, SnapshotError};
