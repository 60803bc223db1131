//! `cargo xtask test`: what a tool can check first, then every test. A failed step does not hide the ones after it.

use anyhow::{Result, bail};

use crate::node::Node;
use crate::steps::Steps;
use crate::{arrows, debian, disk, fuzz, node_tests, process, python, tools, web, workspace};

/// The steps by name, in their order.
const STEPS: &[&str] =
    &["format", "arrows", "licences", "web", "clippy", "build", "rust", "doc", "fuzz", "node-tests"];

/// Runs the named steps, or all; `rest` goes to nextest.
pub(crate) fn test(named: &[&str], rest: &[String]) -> Result<()> {
    if let Some(unknown) = named.iter().find(|name| !STEPS.contains(name)) {
        bail!("no step `{unknown}`; there are: {}", STEPS.join(" "));
    }
    let wanted = |step: &str| named.is_empty() || named.contains(&step);
    let compiles = ["clippy", "build", "rust", "doc", "fuzz", "node-tests"].into_iter().any(wanted);
    let mut steps = Steps::new();

    if compiles {
        steps.require("disk", || disk::ensure(disk::TO_TEST))?;
    }
    if wanted("format") {
        steps.attempt("format", || cargo(&["fmt", "--all", "--check"]));
    }
    if wanted("arrows") {
        steps.attempt("arrows", arrows::check);
    }
    if compiles || wanted("web") {
        steps.require("Debian packages", || debian::ensure(debian::TO_TEST))?;
    }
    if wanted("licences") {
        steps.attempt("licences", || {
            process::run(tools::deny()?.args(["check", "licenses", "bans", "sources"]))
        });
    }
    // The server embeds the page, so it is built before any Rust that embeds it.
    if compiles || wanted("web") {
        let node = steps.require("Node", Node::for_web)?;
        steps.require("page packages", || web::packages(&node))?;
        if wanted("web") {
            steps.attempt("web", || web::check(&node));
        }
        steps.require("page build", || web::build(&node))?;
    }
    if wanted("clippy") {
        steps.attempt("clippy", || {
            cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "--deny", "warnings"])
        });
    }
    if ["build", "rust", "node-tests"].into_iter().any(wanted) {
        steps.require("build", || cargo(&["build", "--workspace", "--bins", "--locked"]))?;
    }
    if wanted("rust") {
        steps.attempt("rust", || rust(rest));
    }
    if wanted("doc") {
        steps.attempt("doc", || cargo(&["test", "--workspace", "--doc", "--locked", "--quiet"]));
    }
    if wanted("fuzz") {
        steps.attempt("fuzz", || fuzz::test(fuzz::SECONDS_IN_TEST));
    }
    if wanted("node-tests") {
        steps.attempt("node-tests", || node_tests::run(&workspace::target()?.join("debug/tureen-worker")));
    }
    steps.finish()
}

/// All Rust tests, unit and end to end, under nextest. What the end-to-end tests start is named to them.
fn rust(rest: &[String]) -> Result<()> {
    let node = Node::for_web()?;
    web::packages_of(&node, &workspace::root().join("tests/browser"))?;
    let binaries = workspace::target()?.join("debug");
    let mut nextest = tools::nextest()?;
    nextest.args(["run", "--workspace", "--locked"]);
    if std::env::var_os("CI").is_some() {
        nextest.args(["--profile", "ci"]);
    }
    process::run(
        nextest
            .args(rest)
            // A test's error says what it was about; where it was made up helps nobody.
            .env("RUST_LIB_BACKTRACE", "0")
            .env("TUREEN_TEST_BIN", binaries.join("tureen"))
            .env("TUREEN_TEST_WORKER_BIN", binaries.join("tureen-worker"))
            .env("TUREEN_TEST_NODE", node.program()?)
            .env("TUREEN_TEST_PYTHON", python::environment()?)
            .env("TUREEN_TEST_MEDIASOUP", node_tests::packages()?),
    )
}

fn cargo(words: &[&str]) -> Result<()> {
    process::run(process::cargo().current_dir(workspace::root()).args(words))
}
