//! How clients reach rooms: protoo frames over WebSocket, the methods of mediasoup-demo in both dialects, sessions; and
//! broadcasters by HTTP.
//!
//! Nothing here knows who may receive whom, and nothing here touches a media worker: frames become the room's
//! messages and back, within limits.

mod address;
mod broadcasters;
mod codec;
mod connection;
mod dialect;
#[doc(hidden)]
pub mod fuzzing;
mod gateway;
mod limits;

pub use address::{Network, NetworkError};
pub use broadcasters::endpoints as broadcaster_endpoints;
pub use gateway::{Gateway, SUBPROTOCOL};
pub use limits::GatewayLimits;
