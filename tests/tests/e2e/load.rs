//! Many joins, and what they leave behind: nothing.

use anyhow::{Result, ensure};
use bench::joins::{self, Options};
use tests::Server;

/// Resident memory that a join may leave behind, averaged over the last 500: less than a tenth of what a transport
/// takes, which is what an allocator's unevenness comes to.
const GROWTH_LIMIT_KB: f64 = 2.0;

#[test]
fn a_thousand_joins_leave_no_descriptor_and_no_memory_behind() -> Result<()> {
    let server = Server::options().set("--workers", "2").start()?;
    let workers = server.workers()?;
    let watched = bench::server::Server { address: server.authority().to_owned(), pid: server.pid() };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(joins::run(&watched, &Options { count: 1000, rooms_at_once: 5 }))?;
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
