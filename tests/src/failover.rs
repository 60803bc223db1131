//! What people notice when a part of a cluster dies: the time without sound, the time without an answer, and the packets that never
//! come.
//!
//! Two or three peers, or a crowd, talk in one room through nginx and signal nodes, and come back as mediasoup-demo's client does, or as ours.

mod bed;
mod crowd;
mod member;

use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::Serialize;

use crate::Network;
use bed::Bed;
pub use member::{Client, Habits, Heard, Member};

/// Sound comes every 20 ms: a pause that is longer than this is one.
const PAUSE: Duration = Duration::from_millis(200);
/// How much longer than the control's a silence may be that is to be none.
const NO_GAP_MS: u64 = 200;
/// By when a node must be empty, where one is drained.
const DRAINED_WITHIN: Duration = Duration::from_secs(30);
/// Each media node has a machine of its own in [`Case::MediaNodeCutOff`].
const MACHINES: u8 = 3;

/// What dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Case {
    /// The worker that has the room, by SIGKILL.
    WorkerKill,
    /// The media node that has the room, with its workers.
    MediaNodeKill,
    /// The network of the media node that has the room: silently, as when a cable is cut.
    MediaNodeCutOff,
    /// The signal node that the room's clients are at.
    SignalNodeKill,
    /// Nothing dies: the media node that has the room is drained.
    Drain,
    /// The node is drained where one of two has its media, of a room in another region.
    EdgeDrain,
    /// The media node is drained that has a room of many.
    CrowdDrain,
    /// Redis is killed, and comes back empty.
    RedisAway,
    /// Redis answers 200 ms late, from the beginning.
    RedisLate,
    /// The master behind Sentinels.
    SentinelFailover,
    /// The master of a Redis Cluster that has the room's key.
    ClusterFailover,
}

impl Case {
    /// Whether it is about Redis: running calls must not notice.
    pub fn spares_calls(self) -> bool {
        matches!(self, Self::RedisAway | Self::SentinelFailover | Self::ClusterFailover | Self::RedisLate)
    }

    /// Whether a replica takes a master's place.
    pub fn promotes(self) -> bool {
        matches!(self, Self::SentinelFailover | Self::ClusterFailover)
    }

    /// Whether a node is to be empty.
    pub fn drains(self) -> bool {
        matches!(self, Self::Drain | Self::EdgeDrain | Self::CrowdDrain)
    }

    /// How many are in the call.
    pub fn people(self, extent: Extent) -> usize {
        if self == Self::CrowdDrain { extent.people } else { 2 }
    }

    /// Its name on the command line.
    pub fn name(self) -> String {
        name_of(&self)
    }

    /// What is promised to these clients; nothing where the sessions of unmodified ones end with their signal node.
    pub fn limit(self, client: Client) -> Option<Limit> {
        let (says, holds): (&'static str, fn(&Outcome) -> bool) = match (self, client) {
            (Self::WorkerKill, _) => ("media <= 1 s", |run| run.silent_ms <= 1_000),
            (Self::MediaNodeKill | Self::MediaNodeCutOff, Client::Own) => {
                ("media <= 3 s", |run| run.silent_ms <= 3_000)
            }
            (Self::MediaNodeKill | Self::MediaNodeCutOff, Client::Demo) => {
                ("media <= 6 s", |run| run.silent_ms <= 6_000)
            }
            (Self::SignalNodeKill, Client::Own) => {
                ("no gap, answers <= 1 s", |run| run.has_no_gap() && run.unanswered_ms <= 1_000)
            }
            (Self::SignalNodeKill, Client::Demo) => return None,
            (Self::Drain | Self::EdgeDrain | Self::CrowdDrain, Client::Own) => {
                ("no gap, no packet and no answer lost, in time", |run| {
                    let lost = run.lost_ppm > run.control_lost_ppm;
                    run.has_no_gap() && !lost && run.refused == 0 && run.is_drained_in_time()
                })
            }
            (Self::Drain | Self::EdgeDrain | Self::CrowdDrain, Client::Demo) => {
                ("in time", Outcome::is_drained_in_time)
            }
            (Self::RedisAway | Self::RedisLate | Self::SentinelFailover | Self::ClusterFailover, _) => {
                ("loss as the control's, new room <= 5 s", |run| {
                    run.lost_ppm <= run.control_lost_ppm && run.new_room_ms.is_some_and(|took| took <= 5_000)
                })
            }
        };
        Some(Limit { says, holds })
    }
}

impl Client {
    /// Its name on the command line.
    pub fn name(self) -> String {
        name_of(&self)
    }
}

fn name_of(value: &impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// What is promised of every run.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// In words.
    pub says: &'static str,
    holds: fn(&Outcome) -> bool,
}

impl Limit {
    /// Whether a run kept it.
    pub fn holds(&self, outcome: &Outcome) -> bool {
        (self.holds)(outcome)
    }
}

/// What one run measured.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Outcome {
    /// The longest time without a packet, over all who listened before the harm; where sessions must last, of any stream of theirs.
    pub silent_ms: u64,
    /// The same in a time before it.
    pub control_silent_ms: u64,
    /// The longest time in which one of them, who asks all the time, was not answered.
    pub unanswered_ms: u64,
    /// How many of their questions were refused, or not answered as their session ended.
    pub refused: u64,
    /// From the harm until the last of those whose session ended had joined again.
    pub joined_again_ms: Option<u64>,
    /// How many sessions went on over another connection.
    pub resumed: u32,
    /// How often somebody's media went elsewhere within its session.
    pub migrated: u32,
    /// From the harm until the last of them had done so.
    pub migrated_ms: Option<u64>,
    /// How long the node took until it was empty.
    pub drained_ms: Option<u64>,
    /// Packets lost during the harm, in millionths of those sent, where sessions last.
    pub lost_ppm: u64,
    /// The same in as long a time before it.
    pub control_lost_ppm: u64,
    /// How long somebody took to join the known room while Redis was harmed.
    pub known_room_ms: Option<u64>,
    /// From Redis' return (for a failover: from the master's death) until a room that nobody knew was opened.
    pub new_room_ms: Option<u64>,
}

impl Outcome {
    fn has_no_gap(&self) -> bool {
        self.silent_ms <= self.control_silent_ms + NO_GAP_MS
    }

    fn is_drained_in_time(&self) -> bool {
        self.drained_ms.is_some_and(|took| u128::from(took) <= DRAINED_WITHIN.as_millis())
    }
}

/// How far a series goes.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// How many runs.
    pub runs: u16,
    /// How long Redis is gone, or slowness lasts.
    pub away: Duration,
    /// How many are in a crowd.
    pub people: usize,
}

/// Runs of one case, one after the other, for clients of one kind; `told` hears of each as it is done.
pub fn series(
    case: Case,
    client: Client,
    extent: Extent,
    mut told: impl FnMut(u16, &Result<Outcome>) + Send,
) -> Result<Vec<Result<Outcome>>> {
    if case != Case::MediaNodeCutOff {
        return run_all(case, client, None, extent, &mut told);
    }
    let network = Network::new(MACHINES)?;
    network.server().within(|| run_all(case, client, Some(&network), extent, &mut told))
}

fn run_all(
    case: Case,
    client: Client,
    network: Option<&Network>,
    extent: Extent,
    told: &mut (dyn FnMut(u16, &Result<Outcome>) + Send),
) -> Result<Vec<Result<Outcome>>> {
    let runtime = crate::runtime()?;
    let mut bed = None;
    let mut outcomes = Vec::new();
    for run in 1..=extent.runs {
        // Who was promoted stays it: each failover begins with servers of its own.
        if case.promotes() {
            bed = None;
        }
        let mut ready = match bed.take() {
            Some(ready) => ready,
            None => Bed::start(case, client, extent, network).context("cannot start a cluster")?,
        };
        let outcome = runtime.block_on(ready.run());
        // Nobody knows what a run that failed has left.
        bed = outcome.is_ok().then_some(ready);
        told(run, &outcome);
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
