//! CPU time as the kernel accounts it, and pinning to cores.
//!
//! Figures come from `/proc/…/schedstat` (first field: nanoseconds on a CPU), which counts a process' own time only:
//! what other processes do on the same core in the meantime is not in it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// CPU time spent so far by all threads of a process.
///
/// # Errors
/// Where the process is gone, or the kernel has no schedstat.
pub fn process_time(pid: u32) -> Result<Duration> {
    let tasks = format!("/proc/{pid}/task");
    let mut total = Duration::ZERO;
    for task in fs::read_dir(&tasks).with_context(|| format!("process {pid} is gone"))? {
        total += schedstat(&task?.path().join("schedstat"))?;
    }
    Ok(total)
}

/// CPU time spent so far by the calling thread.
///
/// # Errors
/// Where the kernel has no schedstat.
pub fn thread_time() -> Result<Duration> {
    schedstat(Path::new("/proc/thread-self/schedstat"))
}

/// Pins every thread of a process to one core.
///
/// # Errors
/// Where the core is not among those the process may use, or the process is gone.
pub fn pin_process(pid: u32, core: usize) -> Result<()> {
    for task in fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid} is gone"))? {
        let name = task?.file_name();
        let tid: i32 = name.to_str().and_then(|n| n.parse().ok()).context("a task's name is its id")?;
        pin(Pid::from_raw(tid), core)?;
    }
    Ok(())
}

/// Pins the calling thread to one core.
///
/// # Errors
/// Where the core is not among those that this process may use.
pub fn pin_current_thread(core: usize) -> Result<()> {
    pin(Pid::from_raw(0), core)
}

/// The cores this process may use, in ascending order; at least one.
///
/// # Errors
/// Where the kernel does not tell.
pub fn allowed_cores() -> Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0)).context("cannot read the CPU affinity")?;
    let cores: Vec<usize> = (0..CpuSet::count()).filter(|&core| set.is_set(core).unwrap_or(false)).collect();
    ensure!(!cores.is_empty(), "the kernel allows this process no CPU at all");
    Ok(cores)
}

fn pin(thread: Pid, core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core).with_context(|| format!("there is no core {core}"))?;
    sched_setaffinity(thread, &set).with_context(|| format!("cannot pin thread {thread} to core {core}"))
}

fn schedstat(path: &Path) -> Result<Duration> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let ns = text.split_whitespace().next().and_then(|field| field.parse().ok());
    Ok(Duration::from_nanos(ns.with_context(|| format!("{} has no first field", path.display()))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_shows_in_the_threads_own_time() {
        let before = thread_time().unwrap();
        let mut sum = 0_u64;
        while thread_time().unwrap() - before < Duration::from_millis(5) {
            sum = sum.wrapping_add(std::hint::black_box(1));
        }
        assert!(process_time(std::process::id()).unwrap() >= Duration::from_millis(5), "{sum}");
    }
}
