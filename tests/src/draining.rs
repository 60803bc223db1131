//! `tureen drain` while it runs, for tests that look at the cluster meanwhile. [`crate::Cluster::drain`] waits for its end.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::{Cluster, binaries};

/// It is killed where its owner ends first: it may wait for a node that is dead.
#[derive(Debug)]
pub struct Draining {
    child: Child,
    says: BufReader<ChildStderr>,
}

impl Draining {
    /// Starts it.
    pub fn begin(cluster: &Cluster, node: &str) -> Result<Self> {
        let mut command = Command::new(binaries::tureen()?);
        command.args(["drain", node, "--redis", &cluster.redis.url(), "--deadline", "60s"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let says = BufReader::new(child.stderr.take().context("piped")?);
        Ok(Self { child, says })
    }

    /// The next line that it says.
    pub fn says(&mut self) -> Result<String> {
        let mut line = String::new();
        self.says.read_line(&mut line)?;
        Ok(line)
    }

    /// Waits until it has found the node. The first that it says.
    pub fn finds(&mut self, node: &str) -> Result<()> {
        let line = self.says()?;
        ensure!(line.trim() == format!("asking {node}"), "it says {line}");
        Ok(())
    }

    /// Waits until it has ended: whether well, and what else it said.
    pub fn end(mut self) -> Result<(bool, String)> {
        let mut said = String::new();
        self.says.read_to_string(&mut said)?;
        Ok((self.child.wait()?.success(), said))
    }
}

impl Drop for Draining {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
