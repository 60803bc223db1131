//! The project's automation: `cargo xtask run | test | bench | fuzz | node-tests`.
//!
//! It must build in seconds on a machine that has only Rust, because it is what installs everything else; so it
//! depends on next to nothing and on no sibling. Talk goes to stderr, figures to stdout.

mod arrows;
mod bench;
mod debian;
mod disk;
mod fuzz;
mod node;
mod node_tests;
mod process;
mod python;
mod run;
mod server;
mod steps;
mod test;
mod tools;
mod web;
mod workspace;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use lexopt::ValueExt;

const HELP: &str = "\
Usage: cargo xtask <COMMAND> [ARGUMENTS]

Commands:
  run [--time-to-page] [-- ARGS]   build the page, the server and the worker, then run `tureen serve ARGS`;
                                   --time-to-page stops once the page answers and prints the seconds it took
  test [STEP…] [-- ARGS]           run every check and test, or only the steps named; ARGS go to nextest
  bench NAME [OPTIONS]             measure in release: forward (CPU a packet), joins, hostile, join-time;
                                   failover [--case NAME]… [--runs N] parts of a whole cluster die; with --browser, a worker;
                                   record-video makes Chromium's recording for `forward chromium` anew;
                                   load [--phase 1|2|3] peers in rooms of mixed size through nginx and a whole cluster;
                                   loss [--case NAME]… [--minutes N] calls of browsers over bad links
  fuzz [TARGET…] [--seconds N]     fuzz parsers and the transport, 30 s each unless told otherwise; --replay FILE runs
                                   one input of one target, --minimise renews the corpus that is kept
  node-tests [--worker-bin PATH]   run mediasoup's own Node tests against tureen-worker, or against another worker
  help                             print this

Steps of `test`, in their order:
  format arrows licences web clippy build rust doc fuzz node-tests

Missing Debian packages are installed with apt-get when that needs no password; otherwise the command to type is
printed. Tools and Node are kept in $XDG_CACHE_HOME/tureen (by default ~/.cache/tureen).

Examples:
  cargo xtask run
  cargo xtask run -- --help
  cargo xtask test
  cargo xtask test format clippy
  cargo xtask test rust -- -p rtc
  cargo xtask bench forward audio --receivers 500
  cargo xtask fuzz transport --seconds 600
";

fn main() -> ExitCode {
    let outcome = if fuzz::acts_as_rustc() { fuzz::act_as_rustc() } else { dispatch() };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch() -> Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [command, name, options @ ..] = arguments.as_slice()
        && command == "bench"
        && !name.starts_with('-')
    {
        let options: Vec<String> = options.iter().filter(|option| *option != "--").cloned().collect();
        return bench::bench(name, options);
    }
    let rest = match arguments.iter().position(|argument| argument == "--") {
        Some(at) => arguments.split_off(at).into_iter().skip(1).collect(),
        None => Vec::new(),
    };
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut options = Options::default();
    while let Some(argument) = parser.next()? {
        match argument {
            lexopt::Arg::Long("help") | lexopt::Arg::Short('h') => options.help = true,
            lexopt::Arg::Long("time-to-page") => options.time_to_page = true,
            lexopt::Arg::Long("seconds") => options.fuzz.seconds = Some(parser.value()?.parse()?),
            lexopt::Arg::Long("replay") => options.fuzz.replay = Some(parser.value()?.into()),
            lexopt::Arg::Long("minimise") => options.fuzz.minimise = true,
            lexopt::Arg::Long("worker-bin") => options.worker = Some(parser.value()?.into()),
            lexopt::Arg::Value(word) => options.words.push(word.to_string_lossy().into_owned()),
            other => bail!("{}; `cargo xtask help` lists what there is", other.unexpected()),
        }
    }
    let mut words = options.words.iter().map(String::as_str);
    let command = words.next().unwrap_or("help");
    let words: Vec<&str> = words.collect();
    if options.help || command == "help" {
        print!("{HELP}");
        return Ok(());
    }
    match (command, words.as_slice()) {
        ("run", []) => run::run(options.time_to_page, &rest),
        ("test", steps) => test::test(steps, &rest),
        ("bench", _) => bail!("which measurement? for example: cargo xtask bench forward"),
        ("fuzz", targets) => fuzz::command(&fuzz::Options {
            targets: targets.iter().map(|&name| name.into()).collect(),
            ..options.fuzz
        }),
        ("node-tests", []) => node_tests::command(options.worker),
        (known @ ("run" | "node-tests"), [word, ..]) => {
            bail!("`{known}` does not take `{word}`; arguments for the server go after `--`")
        }
        _ => bail!("no command `{command}`; `cargo xtask help` lists what there is"),
    }
}

#[derive(Default)]
struct Options {
    help: bool,
    time_to_page: bool,
    worker: Option<PathBuf>,
    fuzz: fuzz::Options,
    words: Vec<String>,
}
