//! mediasoup's own Node tests, unmodified from its npm package, against tureen-worker.
//!
//! The package is fetched by its exact version and its hash is compared with the one in the repository. Each test
//! file runs by itself with a deadline, so that a missing feature costs its own tests and does not hang the run.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::node::{self, Node};
use crate::steps::Steps;
use crate::{debian, process, workspace};

const PACKAGE: &str = "mediasoup@3.27.1";
/// The tests that the package holds.
const ALL: usize = 202;
/// Files none of whose tests may fail.
const MUST_PASS: &[&str] =
    &["test-Worker", "test-Router", "test-WebRtcServer", "test-ortc", "test-mediasoup"];
/// One file takes stock's worker a second or two.
const FILE_DEADLINE: Duration = Duration::from_secs(90);

/// The command: builds the worker unless one is named, then runs the tests.
pub(crate) fn command(worker: Option<PathBuf>) -> Result<()> {
    let mut steps = Steps::new();
    steps.require("Debian packages", || debian::ensure(debian::TO_NODE_TEST))?;
    let worker = match worker {
        Some(worker) => {
            worker.canonicalize().with_context(|| format!("no worker at {}", worker.display()))?
        }
        None => {
            let build = ["build", "--package", "worker", "--bins"];
            steps.require("worker", || {
                process::run(process::cargo().current_dir(workspace::root()).args(build))
            })?;
            workspace::target()?.join("debug/tureen-worker")
        }
    };
    steps.attempt("node-tests", || run(&worker));
    steps.finish()
}

/// Runs all files against a worker and compares the number that passes with the number recorded.
pub(crate) fn run(worker: &Path) -> Result<()> {
    let sources = workspace::root().join("tests/node");
    let recorded: usize = std::fs::read_to_string(sources.join("passing.txt"))?
        .trim()
        .parse()
        .context("tests/node/passing.txt holds something else than a number")?;
    let folder = folder()?;
    prepare(&sources, &folder)?;

    let node = Node::installed_in(&folder)?;
    let mut results = Vec::new();
    for file in files(&folder)? {
        let result = run_file(&node, &folder, &file, worker)?;
        eprintln!("    {:<28} {:>3} of {:>3}{}", file, result.passed, result.total, result.remark());
        for name in &result.failed {
            eprintln!("        failed: {name}");
        }
        results.push(result);
    }
    eprintln!("    what each file said is in {}/test-*.log", folder.display());
    judge(&results, recorded)
}

/// Where it all lies.
fn folder() -> Result<PathBuf> {
    Ok(workspace::target()?.join("node-tests"))
}

/// Installs mediasoup's npm package and the Node that it needs; returns the folder whose `node_modules` has both.
pub(crate) fn packages() -> Result<PathBuf> {
    let folder = folder()?;
    std::fs::create_dir_all(&folder)?;
    node::install(&workspace::root().join("tests/node"), &folder)?;
    Ok(folder)
}

/// Lays out what the tests need: pinned packages, the verified mediasoup, the key pair it does not ship.
fn prepare(sources: &Path, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    node::install(sources, folder)?;
    std::fs::copy(sources.join("jest.config.json"), folder.join("jest.config.json"))?;
    let unpacked = folder.join("mediasoup");
    if !unpacked.join("node/lib/test/data/dtls-key.pem").is_file() {
        unpack(sources, folder, &unpacked)?;
        key_pair(&unpacked.join("node/lib/test/data"))?;
    }
    Ok(())
}

/// Fetches the package's archive, compares its hash with the one recorded here, and unpacks it: outside of
/// node_modules, where jest would not look for tests.
fn unpack(sources: &Path, folder: &Path, unpacked: &Path) -> Result<()> {
    let node = Node::installed_in(folder)?;
    let name =
        process::read(node.command("npm")?.current_dir(folder).args(["pack", PACKAGE, "--loglevel=error"]))?;
    let archive = folder.join(name.lines().last().context("npm pack named no file")?.trim());
    let printed = process::read(process::command("sha512sum").arg(&archive))?;
    let hash = printed.split_whitespace().next().context("sha512sum printed nothing")?;
    let expected = std::fs::read_to_string(sources.join("mediasoup.sha512"))?;
    if hash != expected.trim() {
        bail!("{PACKAGE} is not the one that was recorded: its SHA-512 is {hash}");
    }
    if unpacked.exists() {
        std::fs::remove_dir_all(unpacked)?;
    }
    std::fs::create_dir_all(unpacked)?;
    process::run(
        process::command("tar").arg("-xzf").arg(&archive).args(["--strip-components=1", "-C"]).arg(unpacked),
    )
}

/// The certificate and key that the tests read and the package does not hold.
fn key_pair(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut openssl = process::command("openssl");
    openssl
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=tureen-test"])
        .arg("-keyout")
        .arg(folder.join("dtls-key.pem.new"))
        .arg("-out")
        .arg(folder.join("dtls-cert.pem"))
        .stderr(Stdio::null());
    process::run(&mut openssl)?;
    std::fs::rename(folder.join("dtls-key.pem.new"), folder.join("dtls-key.pem"))?;
    Ok(())
}

/// The names of the test files, without their endings.
fn files(folder: &Path) -> Result<BTreeSet<String>> {
    let tests = folder.join("mediasoup/node/lib/test");
    let mut files = BTreeSet::new();
    for entry in std::fs::read_dir(&tests)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some(stem) = name.strip_suffix(".js").filter(|stem| stem.starts_with("test-")) {
            files.insert(stem.to_owned());
        }
    }
    if files.is_empty() {
        bail!("{PACKAGE} holds no tests in {}", tests.display());
    }
    Ok(files)
}

#[derive(Debug, PartialEq)]
struct FileResult {
    file: String,
    passed: usize,
    total: usize,
    failed: Vec<String>,
    timed_out: bool,
}

impl FileResult {
    fn remark(&self) -> &'static str {
        if self.timed_out { "  (ended at its deadline)" } else { "" }
    }
}

fn run_file(node: &Node, folder: &Path, file: &str, worker: &Path) -> Result<FileResult> {
    let report: PathBuf = folder.join(format!("{file}.json"));
    let log = std::fs::File::create(folder.join(format!("{file}.log")))?;
    if report.exists() {
        std::fs::remove_file(&report)?;
    }
    let mut jest = node.command("node")?;
    jest.current_dir(folder)
        .args(["node_modules/jest/bin/jest.js", "--config", "jest.config.json", "--runInBand", "--forceExit"])
        .args(["--json", "--outputFile"])
        .arg(&report)
        .args(["--testPathPatterns", &format!("/{file}\\.js$")])
        .env("MEDIASOUP_WORKER_BIN", worker)
        .stdout(Stdio::null())
        .stderr(log);
    let timed_out = !ends_within(&mut jest, FILE_DEADLINE)?;
    match std::fs::read_to_string(&report) {
        Ok(text) => Ok(FileResult { timed_out, ..parse(file, &serde_json::from_str(&text)?) }),
        Err(_) => {
            Ok(FileResult { file: file.to_owned(), passed: 0, total: 0, failed: Vec::new(), timed_out: true })
        }
    }
}

/// Whether it ended by itself; at the deadline its whole process group, workers included, is killed.
fn ends_within(command: &mut Command, deadline: Duration) -> Result<bool> {
    let mut child = command.process_group(0).spawn().context("cannot start node")?;
    let until = Instant::now() + deadline;
    loop {
        if child.try_wait()?.is_some() {
            return Ok(true);
        }
        if Instant::now() >= until {
            process::succeeds(process::command("kill").args(["-KILL", "--", &format!("-{}", child.id())]));
            child.wait()?;
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// One file's part of jest's report.
fn parse(file: &str, report: &Value) -> FileResult {
    let tests = report["testResults"].as_array().into_iter().flatten();
    let mut result =
        FileResult { file: file.to_owned(), passed: 0, total: 0, failed: Vec::new(), timed_out: false };
    for test in tests.flat_map(|suite| suite["assertionResults"].as_array().into_iter().flatten()) {
        result.total += 1;
        if test["status"].as_str() == Some("passed") {
            result.passed += 1;
        } else {
            result.failed.push(test["fullName"].as_str().unwrap_or("a test without a name").to_owned());
        }
    }
    result
}

fn judge(results: &[FileResult], recorded: usize) -> Result<()> {
    let passed: usize = results.iter().map(|result| result.passed).sum();
    println!("mediasoup's Node tests: {passed} of {ALL}");
    for name in MUST_PASS {
        let result = results.iter().find(|result| result.file == *name);
        match result {
            Some(result) if result.passed > 0 && result.failed.is_empty() && !result.timed_out => {}
            Some(result) => bail!("all of {name} must pass; {} of {} did", result.passed, result.total),
            None => bail!("{name} did not run"),
        }
    }
    if passed < recorded {
        bail!("{passed} of {ALL} pass, but tests/node/passing.txt records {recorded}");
    }
    if passed > recorded {
        eprintln!("    more than the {recorded} on record: write {passed} into tests/node/passing.txt");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn result(file: &str, passed: usize, failed: &[&str]) -> FileResult {
        FileResult {
            file: file.to_owned(),
            passed,
            total: passed + failed.len(),
            failed: failed.iter().map(|name| (*name).to_owned()).collect(),
            timed_out: false,
        }
    }

    fn required() -> Vec<FileResult> {
        MUST_PASS.iter().map(|file| result(file, 2, &[])).collect()
    }

    #[test]
    fn jest_report_is_counted_by_test() {
        let report = json!({ "testResults": [ { "assertionResults": [
            { "status": "passed", "fullName": "one" }, { "status": "failed", "fullName": "two" } ] } ] });
        assert_eq!(parse("test-Router", &report), result("test-Router", 1, &["two"]));
    }

    #[test]
    fn fewer_than_recorded_fails() {
        assert!(judge(&required(), 10).is_ok());
        assert!(judge(&required(), 11).is_err());
    }

    #[test]
    fn a_required_file_may_not_fail_whatever_the_number() {
        let mut results = required();
        results[0] = result(MUST_PASS[0], 50, &["one that fails"]);
        assert!(judge(&results, 10).is_err());
    }
}
