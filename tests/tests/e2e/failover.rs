//! A call while the store is in trouble: nobody loses a packet or a session, who comes finds the room, and new rooms open
//! soon after. `cargo xtask bench failover` measures the same, more often.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::failover::{Bed, Case};

/// How long Redis is away, and as long a time before it is the control.
const AWAY: Duration = Duration::from_secs(6);
/// Beyond the control's, in millionths: a packet or two of a busy machine's.
const LOST_PPM: u64 = 5_000;
/// From Redis' return, or for a failover from the master's death: the servers themselves take 2.5 s of it.
const NEW_ROOM_MS: u64 = 10_000;

fn spares_the_call(case: Case) -> Result<()> {
    let mut bed = Bed::start(case)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(bed.run(AWAY))?;
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
