//! What happened in the store: hints. Whoever misses one finds the truth by looking.

use std::time::Duration;

use cluster::lease::{Epoch, Term};
use cluster::node::{Incarnation, NodeId};
use room::RoomId;
use serde::{Deserialize, Serialize};

/// Something happened, or is asked for. All but the last three travel to all nodes; those are about this node's own connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreEvent {
    /// A node registered, or did so again after a restart or after the store had forgotten it.
    NodeCame(NodeId),
    /// A node said goodbye.
    NodeLeft(NodeId),
    /// A room has a new owner.
    RoomClaimed(RoomId, Term),
    /// A room is over.
    RoomReleased(RoomId, Term),
    /// A node is asked to drain.
    Drain(NodeId, Drain),
    /// A node is asked not to drain any more.
    DrainCancelled(NodeId),
    /// The store can be reached, for the first time or again: confirm what this node has.
    Connected,
    /// The store cannot be reached.
    Disconnected,
    /// The store's memory, or a part of it, began anew: confirm what this node has, at once.
    MemoryLost,
}

/// How a node is asked to drain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    /// The life of it that is meant; `None`: whichever.
    pub incarnation: Option<Incarnation>,
    /// Within what time.
    pub within: Duration,
    /// Whoever asks says it again until it is heard: by this number, drawn at random, it is heard once. `None`: each time.
    pub request: Option<u64>,
}

impl Drain {
    /// Asks this life of a node.
    pub fn new(incarnation: Incarnation, within: Duration) -> Self {
        Self { incarnation: Some(incarnation), within, request: Some(rand::random()) }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "camelCase")]
enum Wire {
    NodeCame {
        node: NodeId,
    },
    NodeLeft {
        node: NodeId,
    },
    RoomClaimed {
        room: String,
        epoch: u64,
        node: NodeId,
    },
    RoomReleased {
        room: String,
        epoch: u64,
        node: NodeId,
    },
    Drain {
        node: NodeId,
        /// Who asks is of an earlier version where it is missing.
        #[serde(default)]
        incarnation: Option<Incarnation>,
        within_ms: u64,
        #[serde(default)]
        request: Option<u64>,
    },
    DrainCancelled {
        node: NodeId,
    },
}

impl StoreEvent {
    /// What is sent to other nodes; `None` for what concerns this one only.
    pub(crate) fn to_wire(&self) -> Option<String> {
        let room = |room: &RoomId| room.as_str().to_owned();
        let wire = match self {
            Self::NodeCame(node) => Wire::NodeCame { node: node.clone() },
            Self::NodeLeft(node) => Wire::NodeLeft { node: node.clone() },
            Self::RoomClaimed(id, Term { epoch, node }) => {
                Wire::RoomClaimed { room: room(id), epoch: epoch.0, node: node.clone() }
            }
            Self::RoomReleased(id, Term { epoch, node }) => {
                Wire::RoomReleased { room: room(id), epoch: epoch.0, node: node.clone() }
            }
            Self::Drain(node, Drain { incarnation, within, request }) => Wire::Drain {
                node: node.clone(),
                incarnation: *incarnation,
                within_ms: u64::try_from(within.as_millis()).unwrap_or(u64::MAX),
                request: *request,
            },
            Self::DrainCancelled(node) => Wire::DrainCancelled { node: node.clone() },
            Self::Connected | Self::Disconnected | Self::MemoryLost => return None,
        };
        serde_json::to_string(&wire).ok()
    }

    /// What another node sent; `None` when it is of a version that this one does not know.
    pub(crate) fn from_wire(text: &str) -> Option<Self> {
        let term = |epoch, node| Term { epoch: Epoch(epoch), node };
        Some(match serde_json::from_str(text).ok()? {
            Wire::NodeCame { node } => Self::NodeCame(node),
            Wire::NodeLeft { node } => Self::NodeLeft(node),
            Wire::RoomClaimed { room, epoch, node } => {
                Self::RoomClaimed(RoomId::parse(&room).ok()?, term(epoch, node))
            }
            Wire::RoomReleased { room, epoch, node } => {
                Self::RoomReleased(RoomId::parse(&room).ok()?, term(epoch, node))
            }
            Wire::Drain { node, incarnation, within_ms, request } => {
                Self::Drain(node, Drain { incarnation, within: Duration::from_millis(within_ms), request })
            }
            Wire::DrainCancelled { node } => Self::DrainCancelled(node),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_for_others_survive_the_way_and_nonsense_does_not() {
        let node: NodeId = "m1".parse().expect("name");
        let room = RoomId::parse("会議 7:a").expect("id");
        let within = Duration::from_millis(60_000);
        let drain = Drain { incarnation: Some(Incarnation(7)), within, request: Some(u64::MAX) };
        let term = Term { epoch: Epoch(u64::MAX), node: node.clone() };
        for event in [
            StoreEvent::NodeCame(node.clone()),
            StoreEvent::NodeLeft(node.clone()),
            StoreEvent::Drain(node.clone(), drain),
            StoreEvent::DrainCancelled(node.clone()),
            StoreEvent::RoomClaimed(room.clone(), term.clone()),
            StoreEvent::RoomReleased(room, term),
        ] {
            let wire = event.to_wire().expect("is for others");
            assert_eq!(StoreEvent::from_wire(&wire), Some(event), "{wire}");
        }
        let earlier = r#"{"event":"drain","node":"m1","within_ms":9}"#;
        let drain = Drain { incarnation: None, within: Duration::from_millis(9), request: None };
        assert_eq!(StoreEvent::from_wire(earlier), Some(StoreEvent::Drain(node, drain)));
        assert_eq!(StoreEvent::MemoryLost.to_wire(), None);
        for bad in ["", "{}", r#"{"event":"memoryLost"}"#, r#"{"event":"nodeCame","node":"a:b"}"#] {
            assert_eq!(StoreEvent::from_wire(bad), None, "{bad}");
        }
    }
}
