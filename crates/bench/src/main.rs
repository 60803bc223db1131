//! `tureen-bench`: load and measurement of a worker or a server. Data goes to stdout, talk to stderr.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bench::forward::fan_out::{self, Content};
use bench::server::Server;
use bench::{forward, hostile, joins, record};
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

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// 30 frames/s of 6 x 1,100 B to every receiver.
    Video,
    /// A real Chromium's VP8 at 1280x720, its packet sizes and times, to every receiver.
    Chromium,
    /// 50 packets/s of 100 B to every receiver.
    Audio,
    /// Six such audio streams, each at moments of its own, to 40 listeners (or --receivers).
    Speakers,
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
        after_help = "Examples:\n  tureen-bench forward\n  tureen-bench forward audio --receivers 500\n  \
        tureen-bench forward --worker-bin ./mediasoup-worker --worker-bin target/release/tureen-worker"
    )]
    Forward {
        /// What is measured, one after the other. Default: video audio.
        #[arg(value_enum)]
        scenario: Vec<Scenario>,
        /// A worker's executable; give it several times to compare. Default: tureen-worker beside this program.
        #[arg(long)]
        worker_bin: Vec<PathBuf>,
        /// Receivers, each with a transport of its own and a consumer per stream. Default: 200, for speakers 40.
        #[arg(long, value_parser = clap::value_parser!(u16).range(8..=2000))]
        receivers: Option<u16>,
        /// Seconds of forwarding that are measured.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=600))]
        seconds: u16,
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
    /// Writes down a video that somebody sends in a room of a running server: its packets' sizes and times.
    #[command(
        after_help = "Example:\n  tureen-bench record --address 127.0.0.1:4443 --room r --file chromium-vp8-720p.txt"
    )]
    Record {
        /// host:port of the server, without TLS.
        #[arg(long)]
        address: String,
        /// The room in which somebody sends video.
        #[arg(long)]
        room: String,
        /// Where to write it.
        #[arg(long)]
        file: PathBuf,
        /// The sender, for the file's first line.
        #[arg(long)]
        sender: String,
        /// How long to record.
        #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u16).range(10..=60))]
        seconds: u16,
        /// How long the sender has to find its rate.
        #[arg(long, default_value_t = 15)]
        warm_up_seconds: u16,
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
        Command::Forward { mut scenario, worker_bin, receivers, seconds, suite, transport_cc } => {
            let workers = if worker_bin.is_empty() { vec![default_worker()?] } else { worker_bin };
            if scenario.is_empty() {
                scenario = vec![Scenario::Video, Scenario::Audio];
            }
            let mut reports = Vec::new();
            for &scenario in &scenario {
                let content = content(scenario);
                for worker in &workers {
                    forward::worker_exists(worker)?;
                    eprintln!("measuring {}: {} for {seconds} s …", worker.display(), content.name());
                    let options = fan_out::Options {
                        worker: worker.clone(),
                        content,
                        receivers: receivers.map_or(default_receivers(content), usize::from),
                        windows: usize::from(seconds),
                        profile: profile(suite),
                        transport_cc,
                    };
                    reports.push((content, fan_out::run(&options)?));
                }
            }
            if cli.output == Output::Json {
                let reports: Vec<_> = reports.iter().map(|(_, report)| report).collect();
                println!("{}", serde_json::to_string_pretty(&reports)?);
            } else {
                print_forward(&reports);
            }
            if reports.iter().any(|(_, report)| !report.is_valid()) {
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
        Command::Record { address, room, file, sender, seconds, warm_up_seconds } => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            let options = record::Options {
                url: format!("ws://{address}/"),
                room,
                warm_up: Duration::from_secs(warm_up_seconds.into()),
                duration: Duration::from_secs(seconds.into()),
                size: [1280, 720],
            };
            let recording = runtime.block_on(record::run(&options))?;
            let talk = format!(
                "VP8 at 1280x720 as {sender} sent it through tureen-worker, written by `cargo xtask bench record-video`.\n\
                 A packet a line: microseconds since the packet before, bytes of RTP payload; K begins a key frame, F another\n\
                 frame, M has the marker; after K or F the 90 kHz clock's ticks since the frame before."
            );
            std::fs::write(&file, recording.to_text(&talk)).context("cannot write the recording")?;
            eprintln!("{} packets in {:.1} s", recording.packets().len(), recording.round().as_secs_f64());
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

fn content(scenario: Scenario) -> Content {
    match scenario {
        Scenario::Video => Content::Video,
        Scenario::Chromium => Content::Chromium,
        Scenario::Audio => Content::Audio,
        Scenario::Speakers => Content::Speakers,
    }
}

/// So many that the packet rates are alike.
fn default_receivers(content: Content) -> usize {
    if content == Content::Speakers { 40 } else { 200 }
}

fn default_worker() -> Result<PathBuf> {
    let own = std::env::current_exe().context("this program does not know where it lies")?;
    Ok(own.with_file_name("tureen-worker"))
}

fn print_forward(reports: &[(Content, fan_out::Report)]) {
    println!(
        "CPU per forwarded packet; unit: one bare, unconnected sendto of the same bytes to the same addresses on the"
    );
    println!("same core, in turns. Receivers do not read: the kernel drops at their full buffers.");
    println!();
    println!(
        "{:<16} {:>8} {:>4} {:>3} {:>24} {:>6} {:>9} {:>9} {:>6} {:>8}",
        "worker", "stream", "N", "x", "suite", "bytes", "worker ns", "sendto ns", "units", "stock *"
    );
    for (content, r) in reports {
        let name = r
            .worker
            .file_name()
            .map_or_else(|| r.worker.display().to_string(), |n| n.to_string_lossy().into());
        println!(
            "{name:<16} {:>8} {:>4} {:>3} {:>24} {:>6.0} {:>9.0} {:>9.0} {:>6.2} {:>8}{}",
            r.content,
            r.receivers,
            r.streams,
            r.profile,
            r.datagram_bytes,
            r.worker_ns,
            r.sendto_ns,
            r.units,
            fan_out::stock_units(*content),
            if r.is_valid() { "" } else { "  NOT VALID: packets missing" }
        );
        println!(
            "{:<16} forwarded {} packets; of {} checked, {} missing, {} damaged",
            "", r.forwarded, r.checked, r.missing, r.damaged
        );
    }
    println!();
    println!("N receivers of x streams each.");
    println!(
        "* stock mediasoup-worker 3.27.1, 200 receivers, as measured elsewhere on a like machine; to measure it here:"
    );
    println!("  --worker-bin PATH");
}
