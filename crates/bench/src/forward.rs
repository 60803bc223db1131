//! What a worker costs, in units of a bare `sendto` (see [`crate::sendto`]).
//!
//! The worker and the bare sender are pinned to one core and take turns on it, window by window, so that both see the
//! same machine; publishers and listeners live on another core. Streams are checked number by number at listeners that
//! read: a figure in which they missed anything is marked as not valid.
//!
//! What each measurement does precisely is said at the head of its module.

pub mod capacity;
pub mod client;
pub mod fan_out;
pub mod floor;
pub mod listeners;
pub mod memory;
pub mod publishers;
pub mod requests;
pub mod stage;
pub mod table;

use std::path::Path;
use std::thread;

use anyhow::{Result, anyhow, ensure};

/// Runs a measurement on a thread of its own, so that its pinning ends with it.
fn on_a_thread<T: Send>(measure: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| scope.spawn(measure).join().map_err(|_| anyhow!("the measurement panicked"))?)
}

/// Whether a path is an executable file, with a message that says what to do where it is not.
///
/// # Errors
/// Where there is no such file.
pub fn worker_exists(path: &Path) -> Result<()> {
    ensure!(
        path.is_file(),
        "there is no worker at {}: build it with `cargo build --release -p worker`",
        path.display()
    );
    Ok(())
}
