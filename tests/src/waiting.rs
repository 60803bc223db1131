//! Looking again and again until something is so, and the runtime in which tasks do that. What can be told of is not looked
//! for: this is for what other processes say only when they are asked.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::runtime::{Builder, Runtime};
use tokio::task::block_in_place;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// A runtime of several threads, all of them in the network namespace of whoever makes it.
pub fn runtime() -> Result<Runtime> {
    Ok(Builder::new_multi_thread().enable_all().build()?)
}

/// Waits until it is so, at most for so long. A look may block: it is taken where that holds up no other task.
///
/// # Errors
/// When it is not so in time, or a look fails.
pub async fn until(within: Duration, what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !block_in_place(&mut is_so)? {
        ensure!(begun.elapsed() < within, "not in {within:?}: {what}");
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// As [`until`], outside a runtime.
///
/// # Errors
/// As [`until`].
pub fn blocking_until(within: Duration, what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !is_so()? {
        ensure!(begun.elapsed() < within, "not in {within:?}: {what}");
        std::thread::sleep(LOOK);
    }
    Ok(())
}
