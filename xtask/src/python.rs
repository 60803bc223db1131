//! Python for the tests: a virtual environment in the cache, with the packages that tests/python/requirements.txt pins.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::{process, workspace};

/// The environment's `python`. Made anew when the requirements are others than those that are installed.
pub(crate) fn environment() -> Result<PathBuf> {
    let requirements = workspace::root().join("tests/python/requirements.txt");
    let wanted = std::fs::read(&requirements).context("cannot read tests/python/requirements.txt")?;
    let folder = workspace::cache()?.join("python");
    let (python, stamp) = (folder.join("bin/python"), folder.join(".tureen-requirements"));
    if std::fs::read(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    eprintln!("    installing Python packages, once");
    process::run(process::command("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    process::run(
        process::command(&python)
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--only-binary",
                ":all:",
            ])
            .arg("--requirement")
            .arg(&requirements),
    )?;
    std::fs::write(stamp, wanted)?;
    Ok(python)
}
