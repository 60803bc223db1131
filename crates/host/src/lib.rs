//! Runs rooms on this node: one task a room, which feeds the room's pure state with what happens and carries out
//! what it decides through media workers.
//!
//! A [`Host`] owns its rooms' tasks and ends them all in [`Host::shutdown`]. A session is opened by
//! [`Host::connect`]; dropping it is leaving, or, of one opened by [`Host::enter`], being away for a while. Nothing here decides who receives whom (`room` does) or knows how
//! clients spell things (`signaling` does).

mod actor;
mod full;
mod host;
mod leaving;
mod media_side;
mod moving;
mod objects;
mod resume;
mod seat;
mod session;
mod site;
mod spread;
#[cfg(test)]
mod tests;

pub use host::{ConnectError, Handing, Host, HostLimits, HostSettings, Prepared, Totals};
pub use media_side::{MediaSettings, PlainListen};
pub use moving::{Move, Moving, NotRestored};
pub use resume::{NotResumed, Resumed};
pub use session::{FarEnd, FromClient, Loss, Ready, Session, SessionGone, ToClient};
pub use site::{LocalSites, NewsSender, SITE_NEWS, SITE_OPS, SiteNews, SiteOp, Sites};
