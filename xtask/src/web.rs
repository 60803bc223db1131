//! The call page: its packages, its build, its checks. The server embeds what the build leaves in web/app/dist.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};

use crate::node::{self, Node};
use crate::process;
use crate::workspace;

/// The scripts of web/package.json that check the page, cheapest first.
const CHECKS: &[&str] = &["format:check", "lint", "types", "test"];

fn folder() -> PathBuf {
    workspace::root().join("web")
}

/// Builds the page when a source is newer than what was built.
pub(crate) fn build(node: &Node) -> Result<()> {
    let built = modified(&folder().join("app/dist/index.html"));
    let sources = newest(&folder())?;
    if built.is_some_and(|built| built >= sources) {
        eprintln!("    the page is up to date");
        return Ok(());
    }
    packages(node)?;
    process::run(node.command("npm")?.current_dir(folder()).args(["run", "--silent", "build"]))
}

/// Formatting, lints, types and unit tests of the page.
pub(crate) fn check(node: &Node) -> Result<()> {
    packages(node)?;
    for script in CHECKS {
        eprintln!("    npm run {script}");
        process::run(node.command("npm")?.current_dir(folder()).args(["run", "--silent", script]))?;
    }
    Ok(())
}

/// Installs what the lock names, unless that is what is installed.
pub(crate) fn packages(node: &Node) -> Result<()> {
    packages_of(node, &folder())
}

/// The same for any folder with a lock of its own, in place.
pub(crate) fn packages_of(node: &Node, folder: &Path) -> Result<()> {
    let lock = std::fs::read(folder.join("package-lock.json"))
        .with_context(|| format!("{} has no package-lock.json", folder.display()))?;
    let stamp = folder.join("node_modules/.tureen-lock");
    if std::fs::read(&stamp).is_ok_and(|installed| installed == lock) {
        return Ok(());
    }
    node::ci(&mut node.command("npm")?, folder, &[])?;
    std::fs::write(stamp, lock)?;
    Ok(())
}

fn modified(file: &Path) -> Option<SystemTime> {
    file.metadata().and_then(|metadata| metadata.modified()).ok()
}

/// The newest change among the sources: not what is installed, not what is built.
fn newest(folder: &Path) -> Result<SystemTime> {
    let mut latest = SystemTime::UNIX_EPOCH;
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        if name == "node_modules" || name == "dist" {
            continue;
        }
        let path = entry.path();
        let changed = if path.is_dir() { newest(&path)? } else { entry.metadata()?.modified()? };
        latest = latest.max(changed);
    }
    Ok(latest)
}
