//! `cargo xtask bench load` and `cargo xtask bench failover`: what is measured of a whole cluster, which is started here: nginx,
//! signal nodes, Redis, media nodes, all on this machine. Tables go to stdout, progress to stderr.

use std::time::Duration;

use anyhow::{Context, Result};
use bench::load;
use clap::{Parser, Subcommand, ValueEnum};
use tests::failover::{Bed, Case, Outcome};

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
    /// What people notice when a part of the cluster dies: a row a case, with the median and the worst of its runs. The clients are
    /// synthetic and come back as mediasoup-demo's does
    #[command(after_help = "Examples:
  cargo xtask bench failover
  cargo xtask bench failover --case media-node-kill --runs 20
  cargo xtask bench failover --case redis-away --away 120 --runs 3
  cargo xtask bench failover --browser      the call page in Chromium, and a killed worker")]
    Failover {
        /// What dies; may be repeated [default: everything]
        #[arg(long, value_enum)]
        case: Vec<Case>,
        /// Runs of each
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
        runs: u16,
        /// How long Redis is away, and how long a call is watched where it is not
        #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u16).range(5..=600))]
        away: u16,
    },
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
        Command::Failover { case, runs, away } => failover(case, runs, Duration::from_secs(away.into())),
    }
}

fn failover(cases: Vec<Case>, runs: u16, away: Duration) -> Result<()> {
    let cases = if cases.is_empty() { Case::value_variants().to_vec() } else { cases };
    println!(
        "| case | runs | longest silence, median / worst | joined again, median / worst | lost, worst (control) | known room, worst | \
         new room, worst |\n|---|---|---|---|---|---|---|"
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    for case in cases {
        let mut bed = Bed::start(case)?;
        let mut outcomes = Vec::new();
        for run in 1..=runs {
            // Who was promoted stays it: each failover begins with servers of its own.
            if run > 1 && case.promotes() {
                bed = Bed::start(case)?;
            }
            let outcome =
                runtime.block_on(bed.run(away)).with_context(|| format!("{}, run {run}", case.name()))?;
            eprintln!("{}, run {run} of {runs}: {}", case.name(), serde_json::to_string(&outcome)?);
            outcomes.push(outcome);
        }
        println!("{}", row(case, &outcomes));
    }
    Ok(())
}

fn row(case: Case, outcomes: &[Outcome]) -> String {
    let sorted = |of: fn(&Outcome) -> u64| {
        let mut values: Vec<u64> = outcomes.iter().map(of).collect();
        values.sort_unstable();
        values
    };
    let seconds = |ms: u64| format!("{:.2} s", ms as f64 / 1000.0);
    let both = |of| {
        let values = sorted(of);
        let worst = values.last().copied().unwrap_or_default();
        format!("{} / {}", seconds(values[values.len() / 2]), seconds(worst))
    };
    let worst = |of: fn(&Outcome) -> Option<u64>| {
        outcomes.iter().filter_map(of).max().map_or_else(|| "-".to_owned(), seconds)
    };
    let lost = if case.spares_calls() {
        let percent = |ppm: u64| ppm as f64 / 10_000.0;
        let worst = outcomes.iter().max_by_key(|outcome| outcome.lost_ppm);
        worst.map_or_else(String::new, |worst| {
            format!("{:.3}% ({:.3}%)", percent(worst.lost_ppm), percent(worst.control_lost_ppm))
        })
    } else {
        "-".to_owned()
    };
    format!(
        "| {} | {} | {} | {} | {lost} | {} | {} |",
        case.name(),
        outcomes.len(),
        both(|outcome| outcome.silent_ms),
        both(|outcome| outcome.joined_again_ms),
        worst(|outcome| outcome.known_room_ms),
        worst(|outcome| outcome.new_room_ms),
    )
}
