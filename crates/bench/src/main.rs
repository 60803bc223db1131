//! `tureen-bench`: load and measurement of a worker or a server. Data goes to stdout, talk to stderr.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bench::forward;
use bench::hostile;
use bench::joins;
use bench::router::Media;
use bench::server::Server;
use bench::source::Shape;
use clap::{Parser, Subcommand, ValueEnum};
use rtc::srtp::Profile;

#[derive(Debug, Parser)]
#[command(
    name = "tureen-bench",
    version,
    about = "Measures media workers and conference servers",
    arg_required_else_help = true
)]
struct Cli {
    /// How the result is printed.
    #[arg(long, value_enum, default_value = "text", global = true)]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum MediaArgument {
    Video,
    Audio,
    Both,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Suite {
    Gcm256,
    Gcm128,
    CmSha1_80,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// CPU per forwarded packet, in units of a bare sendto of the same bytes.
    #[command(
        after_help = "Examples:\n  tureen-bench forward\n  tureen-bench forward --media audio --receivers 500\n  \
        tureen-bench forward --worker-bin ./mediasoup-worker --worker-bin target/release/tureen-worker"
    )]
    Forward {
        /// A worker's executable; give it several times to compare. Default: tureen-worker beside this program.
        #[arg(long)]
        worker_bin: Vec<PathBuf>,
        /// Receivers, each with a transport and a consumer of its own.
        #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(8..=2000))]
        receivers: u16,
        /// Seconds of forwarding that are measured.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=600))]
        seconds: u16,
        /// What is sent.
        #[arg(long, value_enum, default_value = "both")]
        media: MediaArgument,
        /// What protects it.
        #[arg(long, value_enum, default_value = "gcm256")]
        suite: Suite,
        /// Consumers carry transport-wide sequence numbers.
        #[arg(long)]
        transport_cc: bool,
    },
    /// Real joins and leaves against a running server, half of the leaves without goodbye.
    #[command(
        after_help = "Example:\n  tureen-bench joins --address 127.0.0.1:4443 --pid $(pidof tureen) --count 1000"
    )]
    Joins {
        /// host:port of the server, without TLS.
        #[arg(long)]
        address: String,
        /// Process id of the server.
        #[arg(long)]
        pid: u32,
        /// Joins.
        #[arg(long, default_value_t = 1000)]
        count: usize,
        /// Rooms (of four) that are filled at the same time.
        #[arg(long, default_value_t = 5)]
        rooms_at_once: usize,
    },
    /// Hostile bytes at everything a running server listens on, while bystanders talk.
    #[command(after_help = "Example:\n  tureen-bench hostile --address 127.0.0.1:4443 --pid $(pidof tureen)")]
    Hostile {
        /// host:port of the server, without TLS.
        #[arg(long)]
        address: String,
        /// Process id of the server.
        #[arg(long)]
        pid: u32,
        /// How long the attacks last.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=3600))]
        seconds: u16,
        /// Replays the attack of a report with this seed.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tureen-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Forward { worker_bin, receivers, seconds, media, suite, transport_cc } => {
            let workers = if worker_bin.is_empty() { vec![default_worker()?] } else { worker_bin };
            let shapes: &[Shape] = match media {
                MediaArgument::Video => &[Shape::VIDEO],
                MediaArgument::Audio => &[Shape::AUDIO],
                MediaArgument::Both => &[Shape::VIDEO, Shape::AUDIO],
            };
            let mut reports = Vec::new();
            for &shape in shapes {
                for worker in &workers {
                    forward::worker_exists(worker)?;
                    eprintln!("measuring {} for {seconds} s …", worker.display());
                    let options = forward::Options {
                        worker: worker.clone(),
                        receivers: usize::from(receivers),
                        windows: usize::from(seconds),
                        shape,
                        profile: profile(suite),
                        transport_cc,
                    };
                    reports.push(forward::run(&options)?);
                }
            }
            if cli.output == Output::Json {
                println!("{}", serde_json::to_string_pretty(&reports)?);
            } else {
                print_forward(&reports);
            }
            if reports.iter().any(|r| !r.is_valid()) {
                bail!("packets were lost or damaged on the way: these figures are not valid");
            }
            Ok(())
        }
        Command::Joins { address, pid, count, rooms_at_once } => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            let options = joins::Options { count, rooms_at_once };
            let report = runtime.block_on(joins::run(&Server { address, pid }, &options))?;
            println!("{}", serde_json::to_string_pretty(&report)?);
            Ok(())
        }
        Command::Hostile { address, pid, seconds, seed } => {
            eprintln!("attacking {address} for {seconds} s with seed {seed} …");
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            let options = hostile::Options { duration: Duration::from_secs(seconds.into()), seed };
            let report = runtime.block_on(hostile::run(&Server { address, pid }, &options))?;
            println!("{}", serde_json::to_string_pretty(&report)?);
            Ok(())
        }
    }
}

fn profile(suite: Suite) -> Profile {
    match suite {
        Suite::Gcm256 => Profile::AeadAes256Gcm,
        Suite::Gcm128 => Profile::AeadAes128Gcm,
        Suite::CmSha1_80 => Profile::AesCm128HmacSha1_80,
    }
}

fn default_worker() -> Result<PathBuf> {
    let own = std::env::current_exe().context("this program does not know where it lies")?;
    Ok(own.with_file_name("tureen-worker"))
}

fn print_forward(reports: &[forward::Report]) {
    println!(
        "CPU per forwarded packet; unit: one bare, unconnected sendto of the same bytes to the same addresses on the"
    );
    println!("same core, in turns. Receivers do not read: the kernel drops at their full buffers.");
    println!();
    println!(
        "{:<24} {:>6} {:>5} {:>24} {:>8} {:>9} {:>9} {:>6} {:>8}",
        "worker", "media", "N", "suite", "bytes", "worker ns", "sendto ns", "units", "stock *"
    );
    for r in reports {
        let name = r
            .worker
            .file_name()
            .map_or_else(|| r.worker.display().to_string(), |n| n.to_string_lossy().into());
        let media = if r.media == "video" { Media::Video } else { Media::Audio };
        println!(
            "{name:<24} {:>6} {:>5} {:>24} {:>8} {:>9.0} {:>9.0} {:>6.2} {:>8}{}",
            r.media,
            r.receivers,
            r.profile,
            r.datagram_bytes,
            r.worker_ns,
            r.sendto_ns,
            r.units,
            forward::stock_units(media),
            if r.is_valid() { "" } else { "  NOT VALID: packets missing" }
        );
        println!(
            "{:<24} forwarded {} packets; of {} checked, {} missing, {} damaged",
            "", r.forwarded, r.checked, r.missing, r.damaged
        );
    }
    println!();
    println!(
        "* stock mediasoup-worker 3.27.1, 200 receivers, as measured elsewhere on a like machine; to measure it here:"
    );
    println!("  --worker-bin PATH");
}
