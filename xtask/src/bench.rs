//! `cargo xtask bench NAME`: the measurements, always in release, always of binaries built from this tree.
//!
//! `tureen-bench` does most of them; those that want a server get one here, and those that want browsers run a
//! scenario of tests/browser.

use anyhow::{Result, bail};
use serde_json::json;

use crate::node::Node;
use crate::server::Server;
use crate::steps::Steps;
use crate::{debian, process, run, web, workspace};

/// What `bench record-video` writes and `bench forward chromium` replays.
const RECORDING: &str = "crates/bench/recordings/chromium-vp8-720p.txt";

pub(crate) fn bench(name: &str, mut arguments: Vec<String>) -> Result<()> {
    let mut steps = Steps::new();
    match name {
        "load" | "failover" if !has(&arguments, "--url") && !has(&arguments, "--browser") => {
            steps.require("nginx and Redis", || debian::ensure(debian::TO_TEST))?;
            let node = run::build(&mut steps, &["tureen", "worker", "tests"])?;
            cluster(&node, name, &arguments)
        }
        "failover" | "join-time" => {
            arguments.retain(|argument| argument != "--browser");
            if let Some(unknown) = arguments.first() {
                bail!("`bench {name}` takes no arguments, not `{unknown}`");
            }
            steps.require("browser", || debian::ensure(debian::TO_TEST))?;
            let node = run::build(&mut steps, &["tureen", "worker"])?;
            let mut arguments = listen_anywhere().to_vec();
            // Twenty kills of two workers in a row would be a crash loop.
            arguments.extend(["--workers".to_owned(), "8".to_owned()]);
            let server = Server::start(&arguments)?;
            let run = json!({ "serverPid": server.pid() });
            scenario(&node, &server, if name == "failover" { "worker-kill" } else { name }, &run)
        }
        "record-video" => {
            if let Some(unknown) = arguments.first() {
                bail!("`bench {name}` takes no arguments, not `{unknown}`");
            }
            steps.require("browser", || debian::ensure(debian::TO_TEST))?;
            let node = run::build(&mut steps, &["tureen", "worker", "bench"])?;
            let server = Server::start(&listen_anywhere())?;
            let run = json!({
                "recorder": workspace::target()?.join("release/tureen-bench"),
                "file": workspace::root().join(RECORDING),
            });
            scenario(&node, &server, name, &run)
        }
        "loss" => {
            steps.require("browser", || debian::ensure(debian::TO_TEST))?;
            let node = run::build(&mut steps, &["tureen", "worker", "tests"])?;
            web::packages_of(&node, &workspace::root().join("tests/browser"))?;
            let binaries = workspace::target()?.join("release");
            process::run(
                process::command(binaries.join("tureen-bench-loss"))
                    .args(&arguments)
                    .env("TUREEN_TEST_BIN", binaries.join("tureen"))
                    .env("TUREEN_TEST_WORKER_BIN", binaries.join("tureen-worker"))
                    .env("TUREEN_TEST_NODE", node.program()?),
            )
        }
        "joins" | "hostile" if !has(&arguments, "--address") && !has(&arguments, "--case") => {
            run::build(&mut steps, &["tureen", "worker", "bench"])?;
            let server = Server::start(&listen_anywhere())?;
            let pid = server.pid().to_string();
            arguments.extend(["--address".into(), server.authority().to_owned(), "--pid".into(), pid]);
            tureen_bench(name, &arguments)
        }
        _ => {
            run::build(&mut steps, &["tureen", "worker", "bench"])?;
            tureen_bench(name, &arguments)
        }
    }
}

/// What starts a cluster of its own, from the binaries just built.
fn cluster(node: &Node, name: &str, arguments: &[String]) -> Result<()> {
    let binaries = workspace::target()?.join("release");
    process::run(
        process::command(binaries.join("tureen-bench-cluster"))
            .arg(name)
            .args(arguments)
            .env("TUREEN_TEST_BIN", binaries.join("tureen"))
            .env("TUREEN_TEST_WORKER_BIN", binaries.join("tureen-worker"))
            .env("TUREEN_TEST_NODE", node.program()?),
    )
}

/// Whether an option is given, as `--option value` or `--option=value`.
fn has(arguments: &[String], option: &str) -> bool {
    arguments.iter().any(|argument| argument.split('=').next() == Some(option))
}

/// On loopback, at a port that is free.
fn listen_anywhere() -> [String; 2] {
    ["--listen".to_owned(), "127.0.0.1:0".to_owned()]
}

fn tureen_bench(name: &str, arguments: &[String]) -> Result<()> {
    let program = workspace::target()?.join("release/tureen-bench");
    process::run(process::command(program).arg(name).args(arguments).current_dir(workspace::root()))
}

fn scenario(node: &Node, server: &Server, name: &str, options: &serde_json::Value) -> Result<()> {
    let folder = workspace::root().join("tests/browser");
    web::packages_of(node, &folder)?;
    process::run(
        node.command("node")?
            .arg(format!("{name}.mjs"))
            .current_dir(folder)
            .env("TUREEN_URL", format!("http://{}", server.authority()))
            .env("TUREEN_SCENARIO_ARGS", options.to_string()),
    )
}
