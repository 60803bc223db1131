//! What is in deploy/: read by those who would run it, as far as they are at hand.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tests::{python, root, tureen};

#[test]
fn deployments_are_well_formed_and_use_flags_that_exist() -> Result<()> {
    let checked = Command::new(python()?)
        .arg(root().join("tests/python/deploy.py"))
        .args([tureen()?, root().join("deploy")])
        .output()?;
    let said = String::from_utf8_lossy(&checked.stdout);
    println!("{said}");
    ensure!(checked.status.success(), "{said}{}", String::from_utf8_lossy(&checked.stderr));
    Ok(())
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let tureen = tureen()?;
    let tureen = tureen.to_str().context("a path in UTF-8")?;
    let mut units = 0;
    for entry in fs::read_dir(root().join("deploy/systemd"))? {
        let unit = entry?.path();
        let here = folder.path().join(unit.file_name().context("a name")?);
        // It looks for the programs, too.
        fs::write(&here, fs::read_to_string(&unit)?.replace("/usr/bin/tureen", tureen))?;
        let verified = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&here).output()?;
        let said = String::from_utf8_lossy(&verified.stderr);
        // Unknown words are only warned of.
        ensure!(verified.status.success() && said.is_empty(), "{}: {said}", unit.display());
        units += 1;
    }
    ensure!(units == 3, "{units} units");
    Ok(())
}
