//! Many joins, and what they leave behind: nothing. Hostile bytes, and what they achieve: nothing.

use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use bench::load::{Options, Phase};
use bench::{hostile, joins};
use tests::{Server, load, runtime};

/// Resident memory that a join may leave behind, averaged over the last 500: less than a tenth of what a transport
/// takes, which is what an allocator's unevenness comes to.
const GROWTH_LIMIT_KB: f64 = 2.0;

#[test]
fn a_thousand_joins_leave_no_descriptor_and_no_memory_behind() -> Result<()> {
    let server = Server::options().set("--workers", "2").start()?;
    let workers = server.workers()?;
    let options = joins::Options { count: 1000, rooms_at_once: 5 };
    let report = runtime()?.block_on(joins::run(&watched(&server), &options))?;
    println!("{}", serde_json::to_string(&report)?);
    ensure!(report.joins >= 1000, "{} joins", report.joins);
    ensure!(
        report.growth_kb_per_join < GROWTH_LIMIT_KB,
        "the last 500 joins left {} kB each",
        report.growth_kb_per_join
    );
    ensure!(server.workers()? == workers, "a worker died on the way:\n{}", server.log_tail());
    Ok(())
}

#[test]
fn hostile_bytes_kill_no_process_and_disturb_no_bystander() -> Result<()> {
    let server = Server::options().set("--workers", "2").start()?;
    let workers = server.workers()?;
    let options = hostile::Options { duration: Duration::from_secs(20), seed: seed()? };
    println!("TUREEN_TEST_SEED={} replays this", options.seed);
    let report = runtime()?.block_on(hostile::run(&watched(&server), &options))?;
    println!("{}", serde_json::to_string(&report)?);
    ensure!(server.workers()? == workers, "a worker died:\n{}", server.log_tail());
    Ok(())
}

/// The low end of the brief's first phase, through nginx, two signal and three media nodes.
#[test]
fn every_stream_of_a_hundred_peers_moves() -> Result<()> {
    let options = Options { peers: Some(100), seconds: 5, ..Options::of(Phase::One) };
    let report = load::run(&options, 1)?;
    println!("{}", report.to_text());
    ensure!(report.streams_moving == report.streams_expected, "not every stream moves");
    ensure!(report.streams_expected > 500, "{} streams are no load", report.streams_expected);
    Ok(())
}

/// The seed that is asked for, else a new one each time.
fn seed() -> Result<u64> {
    match std::env::var("TUREEN_TEST_SEED") {
        Ok(text) => Ok(text.parse()?),
        Err(_) => Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_micros() as u64),
    }
}

fn watched(server: &Server) -> bench::server::Server {
    bench::server::Server { address: server.authority().to_owned(), pid: server.pid() }
}
