//! The named attacks of `tureen-bench hostile --case`, the large ones smaller than there.

use anyhow::Result;
use bench::hostile::cases::{self, Case, Report};

use crate::support::worker_binary;

fn run(case: Case, size: usize) -> Result<Report> {
    let report = cases::run(case, &worker_binary()?, size)?;
    println!("{report:#?}");
    assert!(report.bystanders.packets > 0);
    Ok(report)
}

#[test]
fn replayed_srtp_and_srtcp_are_counted_and_dropped() -> Result<()> {
    run(Case::Replay, 0).map(drop)
}

#[test]
fn an_ssrc_that_is_taken_is_refused_or_another_stream() -> Result<()> {
    run(Case::Collision, 0).map(drop)
}

#[test]
fn rollover_counters_survive_outages_across_wraps() -> Result<()> {
    let report = run(Case::Wrap, 0)?;
    assert!(report.figures["turns"] >= 5);
    Ok(())
}

#[test]
fn a_call_goes_on_where_its_peers_move_and_strangers_move_nobody() -> Result<()> {
    run(Case::Roam, 0).map(drop)
}

#[test]
fn a_flood_of_tcp_connections_is_limited_and_dries_up() -> Result<()> {
    run(Case::TcpFlood, 4_800).map(drop)
}

#[test]
fn half_open_handshakes_cost_little_are_given_up_and_leave_nothing() -> Result<()> {
    let report = run(Case::HalfOpen, 2_000)?;
    assert_eq!(report.figures["handshakes"], 2_000);
    assert_eq!(report.figures["dtls_timeouts"], 2_000);
    Ok(())
}
