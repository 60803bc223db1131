//! Cargo's plug-ins that the tests need. One that is already installed is used; a missing one is built once, in the
//! cache, and touches nobody's own cargo folder.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::{process, workspace};

/// The version that is built when the machine has none.
const DENY: (&str, &str) = ("cargo-deny", "0.20.2");
const NEXTEST: (&str, &str) = ("cargo-nextest", "0.9.143");

/// `cargo deny`, in the workspace's root.
pub(crate) fn deny() -> Result<Command> {
    plug_in(DENY, "deny")
}

/// `cargo nextest`, in the workspace's root.
pub(crate) fn nextest() -> Result<Command> {
    plug_in(NEXTEST, "nextest")
}

fn plug_in((package, version): (&str, &str), subcommand: &str) -> Result<Command> {
    let program = match process::find(package) {
        Some(program) => program,
        None => cached(package, version)?,
    };
    let mut command = process::command(program);
    command.arg(subcommand).current_dir(workspace::root());
    Ok(command)
}

fn cached(package: &str, version: &str) -> Result<PathBuf> {
    let root = workspace::cache()?.join("tools").join(format!("{package}-{version}"));
    let program = root.join("bin").join(package);
    if !program.is_file() {
        build(package, version, &root)?;
    }
    Ok(program)
}

/// Without optimisation: it builds in a third of the time, and it runs for a second or two.
fn build(package: &str, version: &str, root: &Path) -> Result<()> {
    eprintln!("    building {package} {version}, once");
    let scratch = root.join("build");
    process::run(
        process::cargo()
            .args(["install", package, "--version", version, "--locked", "--profile", "dev", "--quiet"])
            .arg("--root")
            .arg(root)
            .env("CARGO_TARGET_DIR", &scratch)
            .env("CARGO_PROFILE_DEV_DEBUG", "0"),
    )?;
    std::fs::remove_dir_all(&scratch)?;
    Ok(())
}
