//! What became of one producer, or data producer, for one receiver: the same steps for both.

use serde::{Deserialize, Serialize};

use super::on_request::{Asked, Asking};
use crate::id::{ConsumerId, DataConsumerId, DataProducerId, OpId, ProducerId};

/// A producer's for a receiver.
pub(super) type MediaLink = Link<Asked<ProducerId>, ConsumerId>;
/// A data producer's.
pub(super) type DataLink = Link<Asking<DataProducerId>, DataConsumerId>;

/// How far it is: `A` is what somebody asked for, `C` names what he has at last.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Link<A, C> {
    /// Until the producer is piped to the receiver's site.
    Waiting,
    /// As `Waiting`, for one who asked.
    Asked(Box<A>),
    /// With which of the producer's spots at the receiver's site it is of.
    Creating(OpId, u32),
    Consumer(C),
    /// The two do not fit, or the client said no. Not tried again on this transport.
    Refused,
}

impl<A, C> Link<A, C> {
    /// Whether the producer is to come to the receiver's site first.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self, Self::Waiting | Self::Asked(_))
    }

    /// What the receiver has.
    pub(super) fn consumer(&self) -> Option<&C> {
        match self {
            Self::Consumer(consumer) => Some(consumer),
            Self::Waiting | Self::Asked(_) | Self::Creating(..) | Self::Refused => None,
        }
    }

    /// With which spot the consumer is made that this work is to bring.
    pub(super) fn creating(&self, op: OpId) -> Option<u32> {
        match self {
            Self::Creating(creating, nth) if *creating == op => Some(*nth),
            _ => None,
        }
    }

    /// Of which spot the receiver has it, or is about to; `nth_of` tells a consumer's.
    pub(super) fn nth(&self, nth_of: impl FnOnce(&C) -> Option<u32>) -> Option<u32> {
        match self {
            Self::Creating(_, nth) => Some(*nth),
            Self::Consumer(consumer) => nth_of(consumer),
            Self::Waiting | Self::Asked(_) | Self::Refused => None,
        }
    }
}
