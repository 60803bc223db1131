//! `tureen-bench`: load and measurement of a worker or a server. Data goes to stdout, talk to stderr.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bench::forward::fan_out::{self, Content, Hearing};
use bench::forward::table::{Table, Target};
use bench::forward::{capacity, memory, requests};
use bench::hostile::cases::{self, Case};
use bench::server::Server;
use bench::{forward, hostile, joins, load, record};
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
    /// `video` under AES_CM_128_HMAC_SHA1_80.
    CmSha1_80,
    /// `video` with transport-cc and real feedback, against the same without: all receivers read.
    TransportCc,
    /// Packets a second before any loss, and the latency at half of that.
    Capacity,
    /// Bytes a transport, before and after its handshake, and a consumer.
    Memory,
    /// CPU a request, 50 in flight.
    Requests,
}

/// Everything, in the order of the table.
const ALL: [Scenario; 9] = [
    Scenario::Video,
    Scenario::Chromium,
    Scenario::Audio,
    Scenario::Speakers,
    Scenario::CmSha1_80,
    Scenario::TransportCc,
    Scenario::Capacity,
    Scenario::Memory,
    Scenario::Requests,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Suite {
    Gcm256,
    Gcm128,
    CmSha1_80,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What a worker costs: CPU per forwarded packet in units of a bare sendto, packets a second, latency, memory.
    #[command(
        after_help = "Examples:\n  tureen-bench forward --all\n  tureen-bench forward video chromium\n  tureen-bench forward audio --receivers 500\n  \
        tureen-bench forward --worker-bin ./mediasoup-worker --worker-bin target/release/tureen-worker"
    )]
    Forward {
        /// What is measured, one after the other. Default: video audio.
        #[arg(value_enum)]
        scenario: Vec<Scenario>,
        /// The whole table.
        #[arg(long, conflicts_with = "scenario")]
        all: bool,
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
        /// Consumers carry transport-wide sequence numbers (without feedback).
        #[arg(long)]
        transport_cc: bool,
        /// Objects and requests of a kind, for memory and requests.
        #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u16).range(10..=5000))]
        objects: u16,
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
    /// Many peers in rooms of mixed size against a running deployment: passes only when every expected stream at every
    /// client moves. `cargo xtask bench load` starts a cluster for it.
    #[command(
        after_help = "Examples:\n  tureen-bench load --url ws://127.0.0.1:4443/ --watch tureen=$(pidof tureen)\n  \
        tureen-bench load --url ws://call.example.org/ --phase phase-2 --peers 1500 --rate 10 --seconds 30"
    )]
    Load {
        /// Where clients join: a WebSocket URL without query
        #[arg(long, value_name = "URL")]
        url: String,
        /// A process whose CPU and memory are measured; may be repeated
        #[arg(long, value_name = "NAME=PID", value_parser = watched)]
        watch: Vec<load::Watched>,
        #[command(flatten)]
        options: load::Options,
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
    /// Hostile bytes at everything a running server listens on, while bystanders talk; or one named attack on a worker.
    #[command(
        after_help = "Examples:\n  tureen-bench hostile --address 127.0.0.1:4443 --pid $(pidof tureen)\n  \
        tureen-bench hostile --case half-open"
    )]
    Hostile {
        /// host:port of the server, without TLS.
        #[arg(long, required_unless_present = "case")]
        address: Option<String>,
        /// Process id of the server.
        #[arg(long, required_unless_present = "case")]
        pid: Option<u32>,
        /// A named attack on a worker of its own, instead of all at once on a server.
        #[arg(long, value_parser = case, conflicts_with_all = ["address", "pid", "seconds", "seed"])]
        case: Vec<Case>,
        /// Connections or handshakes of the case, where it has a number of them.
        #[arg(long, requires = "case")]
        size: Option<usize>,
        /// The worker's executable for --case. Default: tureen-worker beside this program.
        #[arg(long, requires = "case")]
        worker_bin: Option<PathBuf>,
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
        Command::Forward {
            mut scenario,
            all,
            worker_bin,
            receivers,
            seconds,
            suite,
            transport_cc,
            objects,
        } => {
            let workers = if worker_bin.is_empty() { vec![default_worker()?] } else { worker_bin };
            if all {
                scenario = ALL.to_vec();
            } else if scenario.is_empty() {
                scenario = vec![Scenario::Video, Scenario::Audio];
            }
            let mut table = Table::default();
            for scenario in scenario {
                for worker in &workers {
                    forward::worker_exists(worker)?;
                    eprintln!("measuring {}: {scenario:?} …", worker.display());
                    let run = Forward {
                        worker: worker.clone(),
                        receivers: receivers.map(usize::from),
                        windows: usize::from(seconds),
                        profile: profile(suite),
                        transport_cc,
                        objects: usize::from(objects),
                    };
                    run.measure(scenario, &mut table)?;
                }
            }
            if cli.output == Output::Json {
                println!("{}", serde_json::to_string_pretty(&table)?);
            } else {
                print!("{}", table.to_text());
            }
            if !table.is_valid() {
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
        Command::Load { url, mut watch, options } => {
            watch.push(load::Watched { name: "all clients".into(), pid: std::process::id() });
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            let report = runtime.block_on(load::run(&url, &options, || Ok(watch)))?;
            if cli.output == Output::Json {
                println!("{}", serde_json::to_string_pretty(&report)?);
            } else {
                print!("{}", report.to_text());
            }
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
        Command::Hostile { case, size, worker_bin, .. } if !case.is_empty() => {
            let worker = worker_bin.map_or_else(default_worker, Ok)?;
            let mut reports = Vec::new();
            for case in case {
                eprintln!("{} …", case.name());
                reports.push(cases::run(case, &worker, size.unwrap_or(case.default_size()))?);
            }
            println!("{}", serde_json::to_string_pretty(&reports)?);
            Ok(())
        }
        Command::Hostile { address, pid, seconds, seed, .. } => {
            let (Some(address), Some(pid)) = (address, pid) else { bail!("whom to attack?") };
            eprintln!("attacking {address} for {seconds} s with seed {seed} …");
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            let options = hostile::Options { duration: Duration::from_secs(seconds.into()), seed };
            let report = runtime.block_on(hostile::run(&Server { address, pid }, &options))?;
            println!("{}", serde_json::to_string_pretty(&report)?);
            Ok(())
        }
    }
}

/// A process to watch.
fn watched(text: &str) -> Result<load::Watched, String> {
    let pid = text.split_once('=').and_then(|(name, pid)| Some((name, pid.parse().ok()?)));
    let (name, pid) = pid.ok_or("NAME=PID was expected")?;
    Ok(load::Watched { name: name.to_owned(), pid })
}

/// A case by its name.
fn case(name: &str) -> Result<Case, String> {
    let names = || Case::ALL.map(Case::name).join(", ");
    Case::ALL.into_iter().find(|case| case.name() == name).ok_or_else(|| format!("there are: {}", names()))
}

fn profile(suite: Suite) -> Profile {
    match suite {
        Suite::Gcm256 => Profile::AeadAes256Gcm,
        Suite::Gcm128 => Profile::AeadAes128Gcm,
        Suite::CmSha1_80 => Profile::AesCm128HmacSha1_80,
    }
}

/// One worker's measurements.
struct Forward {
    worker: PathBuf,
    receivers: Option<usize>,
    windows: usize,
    profile: Profile,
    transport_cc: bool,
    objects: usize,
}

impl Forward {
    fn measure(self, scenario: Scenario, table: &mut Table) -> Result<()> {
        let Self { worker, profile, .. } = self;
        let fan_out = fan_out::Options {
            worker: worker.clone(),
            content: Content::Video,
            receivers: self.receivers.unwrap_or(200),
            windows: self.windows,
            profile,
            transport_cc: self.transport_cc,
            hearing: Hearing::Few,
        };
        match scenario {
            Scenario::Video => {
                let most = if profile == Profile::AesCm128HmacSha1_80 { 0.80 } else { 0.55 };
                table.fan_out(&fan_out::run(&fan_out)?, Some(Target::AtMost(most)), "2.6-2.9");
            }
            Scenario::CmSha1_80 => {
                let options = fan_out::Options { profile: Profile::AesCm128HmacSha1_80, ..fan_out };
                table.fan_out(&fan_out::run(&options)?, Some(Target::AtMost(0.80)), "2.6-2.9");
            }
            Scenario::Chromium => {
                let options = fan_out::Options { content: Content::Chromium, ..fan_out };
                table.fan_out(&fan_out::run(&options)?, Some(Target::AtMost(0.90)), "");
            }
            Scenario::Audio => {
                let options = fan_out::Options { content: Content::Audio, ..fan_out };
                table.fan_out(&fan_out::run(&options)?, Some(Target::AtMost(1.25)), "3.0-3.3");
            }
            Scenario::Speakers => {
                // So many that the packet rate is like that of the others.
                let receivers = self.receivers.unwrap_or(40);
                let options = fan_out::Options { content: Content::Speakers, receivers, ..fan_out };
                table.fan_out(&fan_out::run(&options)?, Some(Target::AtMost(1.10)), "");
            }
            Scenario::TransportCc => {
                let plain = fan_out::Options { transport_cc: false, hearing: Hearing::All, ..fan_out };
                let without = fan_out::run(&plain)?;
                let hearing = Hearing::AllWithFeedback;
                let with = fan_out::run(&fan_out::Options { transport_cc: true, hearing, ..plain })?;
                table.feedback(&without, &with);
            }
            Scenario::Capacity => {
                let receivers = fan_out.receivers;
                table.capacity(&capacity::run(&capacity::Options { worker, receivers, profile })?);
            }
            Scenario::Memory => {
                let objects = self.objects;
                table.memory(&memory::run(&memory::Options { worker, objects, profile })?);
            }
            Scenario::Requests => {
                let requests = self.objects;
                table.requests(&requests::run(&requests::Options { worker, requests })?);
            }
        }
        Ok(())
    }
}

fn default_worker() -> Result<PathBuf> {
    let own = std::env::current_exe().context("this program does not know where it lies")?;
    Ok(own.with_file_name("tureen-worker"))
}
