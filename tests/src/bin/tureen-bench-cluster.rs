//! `cargo xtask bench load` and `cargo xtask bench failover`: what is measured of a whole cluster, which is started here: nginx,
//! signal nodes, Redis, media nodes, all on this machine. Tables go to stdout, progress to stderr.

use anyhow::Result;
use bench::load;
use clap::{Parser, Subcommand};

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
    }
}
