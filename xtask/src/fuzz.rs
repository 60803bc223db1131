//! `cargo xtask fuzz`: coverage-guided fuzzing with libFuzzer, on the stable toolchain.
//!
//! The targets are built with LLVM's coverage instrumentation in the workspace's own crates only: while they are built,
//! this program stands between Cargo and rustc (`RUSTC_WORKSPACE_WRAPPER`) and adds the flags. Dependencies, BoringSSL
//! above all, are those of the ordinary build. See docs/decisions/0005.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::{debian, process, workspace};

/// Set where this program is to act as rustc.
const ACT_AS_RUSTC: &str = "TUREEN_XTASK_ACTS_AS_RUSTC";

/// What Cargo's fuzzing front end passes, for the pass as it is in the stable compiler.
const INSTRUMENTATION: &[&str] = &[
    "-Copt-level=3",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// Seconds that each target gets within `cargo xtask test`.
pub(crate) const SECONDS_IN_TEST: u64 = 30;

/// What chance begins with in `xtask test`, so that a change is judged by the same inputs as the one before; `cargo xtask
/// fuzz` goes new ways each time.
const SEED_IN_TEST: u32 = 1;

/// Longest input: a datagram is shorter, and longer stories teach the engine nothing.
const MAX_INPUT_BYTES: &str = "-max_len=1500";

/// Longest input that is kept in the repository.
const MAX_KEPT_BYTES: &str = "-max_len=700";

/// A single input that takes this long is a finding. Generous, as the machine may have more to do.
const TIMEOUT_S: &str = "-timeout=20";

/// An input that takes this much memory is a finding, in MB.
const MEMORY_MB: &str = "-rss_limit_mb=2048";

/// What `cargo xtask fuzz` was asked.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// Targets by name; none means all.
    pub(crate) targets: Vec<String>,
    /// How long each is run.
    pub(crate) seconds: Option<u64>,
    /// An input to run once instead.
    pub(crate) replay: Option<PathBuf>,
    /// Whether the kept corpus is replaced by the fewest inputs that cover as much as it and all found since.
    pub(crate) minimise: bool,
}

/// Whether this process was started in rustc's place.
pub(crate) fn acts_as_rustc() -> bool {
    std::env::var_os(ACT_AS_RUSTC).is_some()
}

/// Becomes rustc, with instrumentation for what is not run at build time. Returns only if that fails.
pub(crate) fn act_as_rustc() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let rustc = arguments.next().context("Cargo names rustc first")?;
    let arguments: Vec<OsString> = arguments.collect();
    let mut command = Command::new(rustc);
    command.args(&arguments);
    if is_instrumented(&arguments) {
        command.args(INSTRUMENTATION);
    }
    Err(command.exec().into())
}

/// Build scripts and procedural macros run in the build, where nothing takes their coverage.
fn is_instrumented(arguments: &[OsString]) -> bool {
    let after = |flag: &str| {
        let at = arguments.iter().position(|argument| argument == flag)?;
        arguments.get(at + 1)?.to_str()
    };
    match after("--crate-name") {
        None | Some("___") => false,
        Some(name) => !name.starts_with("build_script") && after("--crate-type") != Some("proc-macro"),
    }
}

/// `cargo xtask fuzz`.
pub(crate) fn command(options: &Options) -> Result<()> {
    debian::ensure(debian::TO_BUILD)?;
    let known = targets()?;
    if let Some(unknown) = options.targets.iter().find(|name| !known.contains(name)) {
        bail!("no fuzz target `{unknown}`; there are: {}", known.join(" "));
    }
    let chosen = if options.targets.is_empty() { known } else { options.targets.clone() };
    if let Some(file) = &options.replay {
        let [target] = chosen.as_slice() else { bail!("which target is the input for?") };
        build(&chosen)?;
        return process::run(process::command(program(target)?).arg(file));
    }
    build(&chosen)?;
    if options.minimise {
        return chosen.iter().try_for_each(|target| minimise(target));
    }
    fuzz(&chosen, options.seconds.unwrap_or(SECONDS_IN_TEST), None)
}

/// Runs all targets for `seconds` each; the step of `cargo xtask test`.
pub(crate) fn test(seconds: u64) -> Result<()> {
    let all = targets()?;
    build(&all)?;
    fuzz(&all, seconds, Some(SEED_IN_TEST))
}

/// The names of all targets: one file each.
fn targets() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(workspace::root().join("fuzz/targets")).context("fuzz/targets")? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

fn build(targets: &[String]) -> Result<()> {
    let mut cargo = process::cargo();
    cargo.current_dir(workspace::root()).args([
        "build",
        "--locked",
        "--package",
        "fuzz",
        "--features",
        "engine",
    ]);
    for target in targets {
        cargo.args(["--bin", &format!("fuzz-{target}")]);
    }
    process::run(cargo.env("RUSTC_WORKSPACE_WRAPPER", copy_of_this_program()?).env(ACT_AS_RUSTC, "1"))
}

/// A copy of this program that stays: an earlier step may have built it anew, and the file that was started is then gone.
fn copy_of_this_program() -> Result<PathBuf> {
    let folder = workspace::target()?.join("fuzz");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let (fresh, copy) = (folder.join("rustc.new"), folder.join("rustc"));
    fs::copy("/proc/self/exe", &fresh).with_context(|| format!("cannot write {}", fresh.display()))?;
    fs::rename(&fresh, &copy).with_context(|| format!("cannot write {}", copy.display()))?;
    Ok(copy)
}

fn program(target: &str) -> Result<PathBuf> {
    Ok(workspace::target()?.join("debug").join(format!("fuzz-{target}")))
}

/// Where inputs found on this machine are gathered.
fn found(target: &str) -> Result<PathBuf> {
    let folder = workspace::target()?.join("fuzz").join(target);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// What is kept in the repository.
fn kept(target: &str) -> PathBuf {
    workspace::root().join("fuzz/corpus").join(target)
}

/// One target's run under way.
struct Run {
    target: String,
    child: Child,
    log: PathBuf,
}

/// Runs as many targets at a time as there are cores, and prints what came of each.
fn fuzz(targets: &[String], seconds: u64, seed: Option<u32>) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let started = Instant::now();
    eprintln!("    {} targets, {seconds} s each, {cores} at a time", targets.len());
    println!(
        "{:<20} {:>12} {:>9} {:>16} {:>11} {:>9} {:>8}",
        "fuzz target", "executions", "per s", "edges covered", "new inputs", "inputs", "crashes"
    );
    let mut waiting: VecDeque<&String> = targets.iter().collect();
    let mut running: Vec<Run> = Vec::new();
    let mut crashes = Vec::new();
    while !waiting.is_empty() || !running.is_empty() {
        while running.len() < cores
            && let Some(target) = waiting.pop_front()
        {
            running.push(start(target, seconds, seed)?);
        }
        // Whichever ends first makes room; they all run for the same time, so the first one is.
        let mut run = running.remove(0);
        let status = run.child.wait()?;
        let log = fs::read_to_string(&run.log).unwrap_or_default();
        let report = Report::of(&log);
        let crash = (!status.success()).then(|| report.artifact.clone().unwrap_or_default());
        report.print(&run.target, crash.is_some());
        if let Some(artifact) = crash {
            eprintln!("{}", tail(&log));
            crashes.push(format!(
                "{} failed on {artifact}; replay: cargo xtask fuzz {} --replay {artifact}",
                run.target, run.target
            ));
        }
    }
    println!("{} targets in {:.0} s", targets.len(), started.elapsed().as_secs_f64());
    if crashes.is_empty() { Ok(()) } else { bail!("{}", crashes.join("\n")) }
}

fn start(target: &str, seconds: u64, seed: Option<u32>) -> Result<Run> {
    let found = found(target)?;
    let log = found.with_extension("log");
    let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let crashes = found.with_file_name("crashes");
    fs::create_dir_all(&crashes)?;
    let mut command = process::command(program(target)?);
    command.current_dir(workspace::root()).arg(&found);
    if kept(target).is_dir() {
        command.arg(kept(target));
    }
    if let Some(seed) = seed {
        command.arg(format!("-seed={seed}"));
    }
    let child = command
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/{target}-", crashes.display()))
        .args(["-print_final_stats=1", "-reload=0", MAX_INPUT_BYTES, TIMEOUT_S, MEMORY_MB])
        .env("RUST_BACKTRACE", "1")
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()
        .with_context(|| format!("cannot start fuzz-{target}"))?;
    Ok(Run { target: target.to_owned(), child, log })
}

/// Keeps the smallest set of inputs that covers what all together cover.
fn minimise(target: &str) -> Result<()> {
    let (found, kept) = (found(target)?, kept(target));
    let merged = found.with_extension("merged");
    let _ = fs::remove_dir_all(&merged);
    fs::create_dir_all(&merged)?;
    let mut command = process::command(program(target)?);
    command.args(["-set_cover_merge=1", MAX_KEPT_BYTES]).arg(&merged).arg(&found);
    if kept.is_dir() {
        command.arg(&kept);
    }
    process::run(
        command.stdout(File::create(found.with_extension("log"))?).stderr(std::process::Stdio::null()),
    )?;
    let _ = fs::remove_dir_all(&kept);
    fs::create_dir_all(&kept)?;
    let (mut files, mut bytes) = (0, 0);
    for entry in fs::read_dir(&merged)? {
        let path = entry?.path();
        bytes += fs::copy(&path, kept.join(path.file_name().context("a file has a name")?))?;
        files += 1;
    }
    println!("{target:<20} {files:>6} inputs, {bytes:>8} bytes");
    Ok(())
}

/// What the engine says of a run.
#[derive(Debug, Default, PartialEq)]
struct Report {
    executions: u64,
    per_second: u64,
    covered: u64,
    edges: u64,
    new_inputs: u64,
    inputs: u64,
    artifact: Option<String>,
}

impl Report {
    fn of(log: &str) -> Self {
        let mut report = Self::default();
        for line in log.lines() {
            if let Some(rest) = line.strip_prefix("stat::") {
                let (name, value) = rest.split_once(':').unwrap_or((rest, ""));
                let value = value.trim().parse().unwrap_or(0);
                match name {
                    "number_of_executed_units" => report.executions = value,
                    "average_exec_per_sec" => report.per_second = value,
                    "new_units_added" => report.new_inputs = value,
                    _ => {}
                }
            } else if let Some(at) = line.find("Test unit written to ") {
                let path = line.get(at..).unwrap_or_default().trim_start_matches("Test unit written to ");
                report.artifact = Some(path.trim().to_owned());
            } else if line.contains("inline 8-bit counters)") {
                report.edges = number_after(line, "(").unwrap_or(report.edges);
            } else if line.starts_with('#') {
                report.covered = number_after(line, " cov: ").unwrap_or(report.covered);
                report.inputs = number_after(line, " corp: ").unwrap_or(report.inputs);
            }
        }
        report
    }

    fn print(&self, target: &str, crashed: bool) {
        let edges = format!("{}/{}", self.covered, self.edges);
        println!(
            "{target:<20} {:>12} {:>9} {edges:>16} {:>11} {:>9} {:>8}",
            self.executions,
            self.per_second,
            self.new_inputs,
            self.inputs,
            u8::from(crashed)
        );
    }
}

fn number_after(line: &str, label: &str) -> Option<u64> {
    let rest = line.split_once(label)?.1;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest.get(..digits)?.parse().ok()
}

/// The end of a log, where the panic is.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let panic = ["panicked at", "ERROR: libFuzzer"]
        .into_iter()
        .find_map(|sign| lines.iter().position(|line| line.contains(sign)));
    let from = panic.unwrap_or(lines.len().saturating_sub(40));
    lines.iter().skip(from).take(60).copied().collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_figures_are_read() {
        let log = "INFO: Loaded 1 modules   (4711 inline 8-bit counters): 4711 [0x1, 0x2),\n\
            #12\tINITED cov: 10 ft: 11 corp: 2/9b exec/s: 0 rss: 30Mb\n\
            #9000\tREDUCE cov: 120 ft: 300 corp: 45/2Kb lim: 8 exec/s: 9 rss: 31Mb L: 2/3 MS: 1 X-\n\
            artifact_prefix='a'; Test unit written to a/crash-1\n\
            stat::number_of_executed_units: 12345\nstat::average_exec_per_sec:     678\nstat::new_units_added:          9\n";
        let expected = Report {
            executions: 12_345,
            per_second: 678,
            covered: 120,
            edges: 4711,
            new_inputs: 9,
            inputs: 45,
            artifact: Some("a/crash-1".to_owned()),
        };
        assert_eq!(Report::of(log), expected);
    }

    #[test]
    fn what_runs_at_build_time_is_not_instrumented() {
        let arguments = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        assert!(is_instrumented(&arguments(&["--crate-name", "rtc", "--crate-type", "lib"])));
        assert!(!is_instrumented(&arguments(&["--crate-name", "build_script_build", "--crate-type", "bin"])));
        assert!(!is_instrumented(&arguments(&["--crate-name", "derive", "--crate-type", "proc-macro"])));
        assert!(!is_instrumented(&arguments(&["-vV"])));
    }
}
