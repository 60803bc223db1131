//! A worker binary that keeps dying must not keep the machine busy, and the log must say what to do.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use tests::{Server, kill, tureen_worker};

/// A worker that lives the first `lives` times it is started, and dies at once every time after. It notes its starts.
struct DyingWorker {
    folder: tempfile::TempDir,
}

impl DyingWorker {
    fn new(lives: usize) -> Result<Self> {
        let worker = Self { folder: tempfile::tempdir()? };
        let script = format!(
            "#!/bin/sh\necho started >> '{starts}'\n\
             [ $(wc -l < '{starts}') -le {lives} ] && exec '{real}' \"$@\"\nexit 1\n",
            starts = worker.notes().display(),
            real = tureen_worker()?.display(),
        );
        std::fs::write(worker.path(), script)?;
        std::fs::set_permissions(worker.path(), std::fs::Permissions::from_mode(0o755))?;
        Ok(worker)
    }

    fn path(&self) -> PathBuf {
        Path::join(self.folder.path(), "dying-worker")
    }

    fn notes(&self) -> PathBuf {
        Path::join(self.folder.path(), "starts")
    }

    fn starts(&self) -> Result<usize> {
        Ok(std::fs::read_to_string(self.notes())?.lines().count())
    }
}

#[test]
fn a_worker_that_keeps_dying_is_not_started_in_a_tight_loop_and_the_log_says_what_to_do() -> Result<()> {
    let worker = DyingWorker::new(1)?;
    let server = Server::options().set("--workers", "1").worker(worker.path()).start()?;
    for pid in server.workers()? {
        kill(pid, "KILL")?;
    }
    // The advice names the program to look at.
    let name = worker.path().display().to_string();
    server.wait_for_log(Duration::from_secs(60), |line| {
        (line.contains("keeps dying") && line.contains(&name)).then_some(())
    })?;
    let starts = worker.starts()?;
    assert_eq!(starts, 5, "the first death was ours, four more starts make five deaths");
    let status = server.stop()?;
    assert!(status.success(), "a server without a worker still ends when told: {status}");
    assert_eq!(worker.starts()?, starts, "it was left alone");
    Ok(())
}

#[test]
fn a_worker_that_never_starts_keeps_the_server_from_starting() -> Result<()> {
    let worker = DyingWorker::new(0)?;
    let server = Server::options().set("--workers", "1").worker(worker.path()).spawn()?;
    let name = worker.path().display().to_string();
    server.wait_for_log(Duration::from_secs(20), |line| line.contains(&name).then_some(()))?;
    let status = server.wait(Duration::from_secs(10))?;
    assert!(!status.success());
    assert_eq!(worker.starts()?, 1);
    Ok(())
}
