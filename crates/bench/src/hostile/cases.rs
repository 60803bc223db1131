//! Named attacks on one real worker process while two bystanders talk through it: what is refused is counted, limits
//! hold, memory and descriptors come back, and the bystanders' call goes on without a packet lost.
//!
//! `tureen-bench hostile --case NAME` runs them at full size, tests run them smaller.

mod bystanders;
mod flood;
mod half_open;
mod media;
mod stage;

use std::path::Path;

use anyhow::Result;
use serde::Serialize;

pub use bystanders::BystanderReport;
pub use stage::Figures;

use stage::Stage;

/// An attack by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    /// SRTP and SRTCP sent again, from the peer's address and from another.
    Replay,
    /// SSRCs that another Producer has, on the same transport and on others.
    Collision,
    /// Sequence numbers and timestamps that wrap, and outages across the wrap.
    Wrap,
    /// A publisher and a subscriber whose addresses change mid-call, and strangers who would like theirs.
    Roam,
    /// TCP connections beyond the limit: silent, half a frame each, a byte at a time, frames of nothing.
    TcpFlood,
    /// Handshakes that are begun and never finished.
    HalfOpen,
}

impl Case {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Replay, Self::Collision, Self::Wrap, Self::Roam, Self::TcpFlood, Self::HalfOpen];

    /// The name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Collision => "collision",
            Self::Wrap => "wrap",
            Self::Roam => "roam",
            Self::TcpFlood => "tcp-flood",
            Self::HalfOpen => "half-open",
        }
    }

    /// Connections or handshakes where nothing else is said; 0 where the case has no size.
    #[must_use]
    pub const fn default_size(self) -> usize {
        match self {
            Self::TcpFlood => 6_000,
            Self::HalfOpen => 20_000,
            _ => 0,
        }
    }
}

/// What was seen. There is a report only where everything held.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The case.
    pub case: &'static str,
    /// What was counted and measured, by name; the unit is the name's end.
    pub figures: Figures,
    /// What the bystanders saw meanwhile.
    pub bystanders: BystanderReport,
}

/// Runs one case against a worker of this executable.
///
/// # Errors
/// Whatever should not have happened, in words.
pub fn run(case: Case, worker: &Path, size: usize) -> Result<Report> {
    let mut stage = Stage::new(worker)?;
    match case {
        Case::Replay => media::replay(&mut stage)?,
        Case::Collision => media::collision(&mut stage)?,
        Case::Wrap => media::wrap(&mut stage)?,
        Case::Roam => media::roam(&mut stage)?,
        Case::TcpFlood => flood::run(&mut stage, size)?,
        Case::HalfOpen => half_open::run(&mut stage, size)?,
    }
    let (figures, bystanders) = stage.finish()?;
    Ok(Report { case: case.name(), figures, bystanders })
}
