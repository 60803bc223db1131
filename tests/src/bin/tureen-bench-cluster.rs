//! `cargo xtask bench load` and `cargo xtask bench failover`: what is measured of a whole cluster, which is started here: nginx,
//! signal nodes, Redis, media nodes, all on this machine. Tables go to stdout, progress to stderr.

use std::time::Duration;

use anyhow::{Result, bail};
use bench::load;
use clap::{Parser, Subcommand, ValueEnum};
use tests::failover::{Case, Client, Extent, Outcome, series};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", about = "Measures a cluster", arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Peers in rooms of mixed size through nginx, two signal nodes and three media nodes. Passes only when every expected
    /// stream at every client moves
    #[command(after_help = "Examples:
  cargo xtask bench load
  cargo xtask bench load --phase 3
  cargo xtask bench load --phase phase-2 --peers 1500 --rate 5 --seconds 30 --json")]
    Load {
        #[command(flatten)]
        options: load::Options,
        /// Workers a media node: the brief allows each about 500 transports and 2,000 streams
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=16))]
        workers: u8,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// What people notice when a part of the cluster dies: a row a case and kind of client, with the median and the worst of its
    /// runs, and whether all kept what is promised. The clients are synthetic. A run that fails makes the exit status 1
    #[command(after_help = "Examples:
  cargo xtask bench failover
  cargo xtask bench failover --case media-node-kill --runs 20 --client own
  cargo xtask bench failover --case redis-away --away 120 --runs 3
  cargo xtask bench failover --browser      the call page in Chromium, and a killed worker")]
    Failover {
        /// What dies; may be repeated [default: everything]
        #[arg(long, value_enum)]
        case: Vec<Case>,
        /// Which client, by how it comes back: demo, as mediasoup-demo's; own, as web/client; may be repeated [default: both]
        #[arg(long, value_enum)]
        client: Vec<Kind>,
        /// Runs of each
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
        runs: u16,
        /// How long Redis is away, and how long a call is watched where it is not
        #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u16).range(5..=600))]
        away: u16,
        /// How many are in the room of crowd-drain
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(2..=100))]
        people: u16,
    },
}

/// Kinds of clients.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    Demo,
    Own,
    Both,
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Load { options, workers, json } => {
            let report = tests::load::run(&options, workers.into())?;
            if json {
                println!("{}", serde_json::to_string_pretty(&report)?);
            } else {
                print!("{}", report.to_text());
            }
            Ok(())
        }
        Command::Failover { case, client, runs, away, people } => {
            let away = Duration::from_secs(away.into());
            failover(&case, &client, Extent { runs, away, people: people.into() })
        }
    }
}

fn failover(cases: &[Case], clients: &[Kind], extent: Extent) -> Result<()> {
    let runs = extent.runs;
    let cases = if cases.is_empty() { Case::value_variants() } else { cases };
    let asked = |client| {
        clients.is_empty()
            || clients.iter().any(|kind| match kind {
                Kind::Demo => client == Client::Demo,
                Kind::Own => client == Client::Own,
                Kind::Both => true,
            })
    };
    println!(
        "| case | client | runs | silence, median / worst (control) | no answer, median / worst | refused, worst | \
         joined again, worst | lost, worst (control) | known room | new room | asked | kept |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|"
    );
    let mut failed = 0;
    for &case in cases {
        for &client in Client::value_variants().iter().filter(|client| asked(**client)) {
            let what = format!("{}, {}", case.name(), client.name());
            let told = |run, outcome: &Result<Outcome>| match outcome {
                Ok(outcome) => eprintln!(
                    "{what}, run {run} of {runs}: {}",
                    serde_json::to_string(outcome).unwrap_or_default()
                ),
                Err(error) => eprintln!("{what}, run {run} of {runs} FAILED: {error:#}"),
            };
            match series(case, client, extent, told) {
                Ok(outcomes) => {
                    let done: Vec<Outcome> = outcomes.into_iter().flatten().collect();
                    let lost = usize::from(runs) - done.len();
                    failed += lost;
                    println!("{}", row(case, client, &done, lost));
                }
                Err(error) => {
                    failed += usize::from(runs);
                    eprintln!("{what} FAILED: {error:#}");
                    println!("{}", row(case, client, &[], usize::from(runs)));
                }
            }
        }
    }
    if failed > 0 {
        bail!("{failed} runs failed");
    }
    Ok(())
}

fn row(case: Case, client: Client, outcomes: &[Outcome], failed: usize) -> String {
    let seconds = |ms: u64| format!("{:.2} s", ms as f64 / 1000.0);
    let worst = |of: fn(&Outcome) -> Option<u64>| outcomes.iter().filter_map(of).max();
    let slowest = |of| worst(of).map_or_else(|| "-".to_owned(), seconds);
    let both = |of: fn(&Outcome) -> u64| {
        let mut values: Vec<u64> = outcomes.iter().map(of).collect();
        values.sort_unstable();
        let middle = values.get(values.len() / 2).copied().map_or_else(|| "-".to_owned(), seconds);
        format!("{middle} / {}", values.last().copied().map_or_else(|| "-".to_owned(), seconds))
    };
    let lost = outcomes
        .iter()
        .filter(|_| case.spares_calls() || case.drains())
        .max_by_key(|outcome| outcome.lost_ppm);
    let lost = lost.map_or_else(
        || "-".to_owned(),
        |worst| {
            let percent = |ppm: u64| ppm as f64 / 10_000.0;
            format!("{:.3}% ({:.3}%)", percent(worst.lost_ppm), percent(worst.control_lost_ppm))
        },
    );
    let runs = if failed == 0 {
        outcomes.len().to_string()
    } else {
        format!("{} and {failed} FAILED", outcomes.len())
    };
    let (asked, kept) = case.limit(client).map_or(("-", "-".to_owned()), |limit| {
        let kept = outcomes.iter().filter(|outcome| limit.holds(outcome)).count();
        let all = kept == outcomes.len() + failed;
        (
            limit.says,
            if all { "yes".to_owned() } else { format!("NO: {kept} of {}", outcomes.len() + failed) },
        )
    });
    let drained = slowest(|outcome| outcome.drained_ms);
    let asked = if drained == "-" { asked.to_owned() } else { format!("{asked} (empty: {drained})") };
    format!(
        "| {} | {} | {runs} | {} ({}) | {} | {} | {} | {lost} | {} | {} | {asked} | {kept} |",
        case.name(),
        client.name(),
        both(|outcome| outcome.silent_ms),
        slowest(|outcome| Some(outcome.control_silent_ms)),
        both(|outcome| outcome.unanswered_ms),
        worst(|outcome| Some(outcome.refused)).unwrap_or_default(),
        slowest(|outcome| outcome.joined_again_ms),
        slowest(|outcome| outcome.known_room_ms),
        slowest(|outcome| outcome.new_room_ms),
    )
}
