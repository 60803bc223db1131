//! `cargo xtask run`: from a clone to a server that answers, with one command.

use std::os::unix::process::CommandExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::node::Node;
use crate::server::Server;
use crate::steps::Steps;
use crate::{debian, disk, process, web, workspace};

pub(crate) fn run(time_to_page: bool, rest: &[String]) -> Result<()> {
    let before = since_typed().unwrap_or_default();
    let started = Instant::now();
    let mut steps = Steps::new();
    build(&mut steps, &["tureen", "worker"])?;
    if time_to_page {
        steps.require("first answer", || Server::start(rest)?.page())?;
        println!("{:.1} seconds to the page", (before + started.elapsed()).as_secs_f64());
        return Ok(());
    }
    eprintln!("==> tureen serve (built in {:.1} s; Ctrl-C ends it)", started.elapsed().as_secs_f64());
    let program = workspace::target()?.join("release/tureen");
    Err(process::command(program).arg("serve").args(rest).exec()).context("cannot start the server")
}

/// Installs what is missing, builds the page and then these packages in release.
pub(crate) fn build(steps: &mut Steps, packages: &[&str]) -> Result<Node> {
    steps.require("disk", || disk::ensure(disk::TO_RUN))?;
    steps.require("Debian packages", || debian::ensure(debian::TO_BUILD))?;
    let node = steps.require("Node", Node::for_web)?;
    steps.require("page", || web::build(&node))?;
    steps.require("release build", || {
        let mut cargo = process::cargo();
        cargo.current_dir(workspace::root()).args(["build", "--release", "--locked", "--bins"]);
        process::run(cargo.args(packages.iter().flat_map(|package| ["--package", package])))
    })?;
    Ok(node)
}

/// How long ago this process began. Cargo replaces itself by us, so this counts cargo's own compiling of us, too.
fn since_typed() -> Option<Duration> {
    const TICKS_A_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let began: f64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let uptime: f64 =
        std::fs::read_to_string("/proc/uptime").ok()?.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(uptime - began / TICKS_A_SECOND).ok()
}
