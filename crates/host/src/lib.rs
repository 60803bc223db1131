//! Runs rooms on this node: one task a room, which feeds the room's pure state with what happens and carries out
//! what it decides through media workers.
//!
//! A [`Host`] owns its rooms' tasks and ends them all in [`Host::shutdown`]. A session is opened by
//! [`Host::connect`]; dropping it is leaving, or, of one opened by [`Host::enter`], being away for a while. Nothing here decides who receives whom (`room` does) or knows how
//! clients spell things (`signaling` does).

mod actor;
mod host;
mod media_side;
mod objects;
mod resume;
mod seat;
mod session;
mod site;
mod spread;

pub use host::{ConnectError, Host, HostLimits, HostSettings, Totals};
pub use media_side::{MediaSettings, PlainListen};
pub use resume::{NotResumed, Resumed};
pub use session::{FarEnd, FromClient, Loss, Session, SessionGone, ToClient};
pub use site::{LocalSites, NewsSender, SITE_NEWS, SITE_OPS, SiteNews, SiteOp, Sites};
