//! One node of a cluster at work: what `cluster` decides, carried out with the store and the links.
//!
//! [`Node::start`] runs one task ([`control`]) that alone holds what this node knows of the others, of the rooms that it
//! has and of those that it has to do with. Everything that waits (the store, other nodes) runs beside it and comes back
//! as an [`control::Input`]. [`Rooms`] is what gateways see: a room is reached by its name, wherever it runs.
//! Nothing here decides who gets a room (`cluster` does) or what happens in one (`room` does).

mod carrier;
mod control;
mod rooms;
mod serve;
mod sites;
mod terms;

pub use control::{Media, Node, NodeSettings, Remaining, Standing};
pub use rooms::{ConnectError, Entered, Messages, Rooms};
pub use sites::ClusterSites;
