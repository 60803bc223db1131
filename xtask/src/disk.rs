//! Whether the disk can hold what is about to be built: said before the work begins, not by a linker half an hour later.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::sys::statvfs::statvfs;

use crate::workspace;

/// What `target` holds after `cargo xtask test` from nothing, and some air.
pub(crate) const TO_TEST: Bytes = Bytes::gigabytes(6);
/// The same after `cargo xtask run`.
pub(crate) const TO_RUN: Bytes = Bytes::gigabytes(2);

/// An amount of disk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Bytes(u64);

impl Bytes {
    const fn gigabytes(count: u64) -> Self {
        Self(count * 1_000_000_000)
    }
}

impl std::fmt::Display for Bytes {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}.{} GB", self.0 / 1_000_000_000, self.0 % 1_000_000_000 / 100_000_000)
    }
}

/// An error when the target folder's disk has less room than `whole`, less what an earlier build put there already.
pub(crate) fn ensure(whole: Bytes) -> Result<()> {
    let target = workspace::target()?;
    fs::create_dir_all(&target).with_context(|| format!("cannot make {}", target.display()))?;
    let disk =
        statvfs(&target).with_context(|| format!("cannot ask for the room at {}", target.display()))?;
    let free = Bytes(disk.blocks_available() * disk.fragment_size());
    let there = size(&target);
    let missing = Bytes(whole.0.saturating_sub(there.0));
    if free < missing {
        bail!(
            "{free} free at {}, and building needs another {missing}: make room there, or set CARGO_TARGET_DIR to a folder \
             on a larger disk",
            target.display()
        );
    }
    eprintln!("    {there} built before, {free} free");
    Ok(())
}

/// What lies below a folder; what vanishes meanwhile counts as nothing.
fn size(folder: &Path) -> Bytes {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size(&entry.path()).0,
        Ok(metadata) => metadata.len(),
        Err(_gone) => 0,
    });
    Bytes(sizes.sum())
}
