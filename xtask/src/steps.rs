//! Progress as a person wants it: a line when a step begins, its seconds when it ends, a table of all at the end.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// The steps taken so far, with what became of each.
pub(crate) struct Steps {
    started: Instant,
    taken: Vec<Step>,
}

struct Step {
    name: String,
    took: Duration,
    passed: bool,
}

impl Steps {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), taken: Vec::new() }
    }

    /// Takes a step that the following ones need: its failure is handed on.
    pub(crate) fn require<T>(&mut self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        eprintln!("==> {name}");
        let started = Instant::now();
        let outcome = work();
        let took = started.elapsed();
        let word = if outcome.is_ok() { "done" } else { "FAILED" };
        eprintln!("==> {name}: {word} in {:.1} s", took.as_secs_f64());
        self.taken.push(Step { name: name.to_owned(), took, passed: outcome.is_ok() });
        outcome
    }

    /// Takes a step whose failure is told and remembered, but does not keep the others from running.
    pub(crate) fn attempt(&mut self, name: &str, work: impl FnOnce() -> Result<()>) {
        if let Err(error) = self.require(name, work) {
            eprintln!("error: {name}: {error:#}");
        }
    }

    /// Prints the table of durations, and fails when a step did.
    pub(crate) fn finish(self) -> Result<()> {
        eprintln!("\n{:<34} {:>9}", "step", "seconds");
        for step in &self.taken {
            let mark = if step.passed { "" } else { "  FAILED" };
            eprintln!("{:<34} {:>9.1}{mark}", step.name, step.took.as_secs_f64());
        }
        eprintln!("{:<34} {:>9.1}\n", "all", self.started.elapsed().as_secs_f64());
        let failed: Vec<&str> =
            self.taken.iter().filter(|step| !step.passed).map(|step| step.name.as_str()).collect();
        if !failed.is_empty() {
            bail!("failed: {}", failed.join(", "));
        }
        Ok(())
    }
}
