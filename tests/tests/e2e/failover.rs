//! A call while the store is in trouble: nobody loses a packet or a session, who comes finds the room, and new rooms open
//! soon after. And a room of many whose media node is drained. `cargo xtask bench failover` measures the same, more often.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::failover::{Case, Client, Extent, series};

/// How long Redis is away, and as long a time before it is the control.
const AWAY: Duration = Duration::from_secs(6);
/// Beyond the control's, in millionths: a packet or two of a busy machine's.
const LOST_PPM: u64 = 5_000;
/// From Redis' return, or for a failover from the master's death: the servers themselves take 2.5 s of it.
const NEW_ROOM_MS: u64 = 10_000;

/// In the room that is to move: all of them migrate at once.
const PEOPLE: usize = 16;

fn spares_the_call(case: Case) -> Result<()> {
    let outcome = series(case, Client::Own, Extent { runs: 1, away: AWAY, people: PEOPLE }, |_, _| {})?
        .pop()
        .context("a run")??;
    println!("{}", serde_json::to_string(&outcome)?);
    ensure!(outcome.lost_ppm <= outcome.control_lost_ppm + LOST_PPM, "packets were lost");
    ensure!(outcome.silent_ms < 1_000, "the call was silent");
    ensure!(outcome.known_room_ms.is_some_and(|ms| ms < 5_000), "a known room takes nobody in");
    ensure!(outcome.new_room_ms.is_some_and(|ms| ms < NEW_ROOM_MS), "new rooms do not open");
    Ok(())
}

#[test]
fn a_call_does_not_notice_that_redis_is_away() -> Result<()> {
    spares_the_call(Case::RedisAway)
}

#[test]
fn a_call_does_not_notice_that_a_sentinel_promotes_the_replica() -> Result<()> {
    spares_the_call(Case::SentinelFailover)
}

#[test]
fn a_call_does_not_notice_that_a_redis_cluster_loses_a_master() -> Result<()> {
    spares_the_call(Case::ClusterFailover)
}

#[test]
fn a_call_does_not_notice_that_redis_answers_late() -> Result<()> {
    spares_the_call(Case::RedisLate)
}

/// The run itself fails where somebody's session ends, a stream stands still afterwards, anything is left at the old node, or
/// `tureen drain` is not done in time.
#[test]
fn a_room_of_many_leaves_a_drained_node_within_its_sessions() -> Result<()> {
    let extent = Extent { runs: 1, away: AWAY, people: PEOPLE };
    let outcome = series(Case::CrowdDrain, Client::Own, extent, |_, _| {})?.pop().context("a run")??;
    println!("{}", serde_json::to_string(&outcome)?);
    ensure!(outcome.refused == 0, "questions were refused");
    ensure!(outcome.lost_ppm <= outcome.control_lost_ppm + LOST_PPM, "packets were lost");
    ensure!(outcome.silent_ms < 1_000, "a stream was silent");
    ensure!(outcome.unanswered_ms < 2_000, "a question was not answered for long");
    Ok(())
}
