//! A cluster of a test's own: a Redis, signal nodes and media nodes, each a process of `tureen serve` on loopback.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bench::peer::Seat;

use crate::{Redis, Server, ServerOptions, binaries, proc};

/// How long nodes may take to know each other.
const ASSEMBLED_WITHIN: Duration = Duration::from_secs(20);

/// What a node is started with, by its name.
type Adjust = dyn Fn(&str, ServerOptions) -> ServerOptions;

/// Several nodes and what they share.
pub struct Cluster {
    /// What they share.
    pub redis: Redis,
    nodes: BTreeMap<String, Server>,
    adjust: Box<Adjust>,
}

impl Cluster {
    /// Starts `signal` nodes s1, s2, … and `media` nodes m1, m2, … with one worker each, and waits until all know all.
    pub fn start(signal: usize, media: usize) -> Result<Self> {
        Self::start_with(signal, media, |_, options| options)
    }

    /// As [`Self::start`], each node with more options, by its name; what is set among `--redis` and `--workers` is taken instead of
    /// the cluster's own Redis, and one.
    pub fn start_with(
        signal: usize,
        media: usize,
        adjust: impl Fn(&str, ServerOptions) -> ServerOptions + 'static,
    ) -> Result<Self> {
        Self::start_on(Redis::start()?, signal, media, adjust)
    }

    /// As [`Self::start_with`], with this Redis.
    pub fn start_on(
        redis: Redis,
        signal: usize,
        media: usize,
        adjust: impl Fn(&str, ServerOptions) -> ServerOptions + 'static,
    ) -> Result<Self> {
        let names = [('m', media), ('s', signal)]
            .into_iter()
            .flat_map(|(letter, count)| (1..=count).map(move |number| format!("{letter}{number}")));
        let names: Vec<_> = names.collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        Self::of(redis, &names, adjust)
    }

    /// As [`Self::start_on`], of these nodes: who begins with an s is a signal node, all others are media nodes.
    pub fn of(
        redis: Redis,
        names: &[&str],
        adjust: impl Fn(&str, ServerOptions) -> ServerOptions + 'static,
    ) -> Result<Self> {
        let mut cluster = Self { redis, nodes: BTreeMap::new(), adjust: Box::new(adjust) };
        for name in names {
            cluster.add(name, if name.starts_with('s') { "signal" } else { "media" })?;
        }
        cluster.wait_assembled()?;
        Ok(cluster)
    }

    /// Starts one more node, or one that ended anew.
    pub fn add(&mut self, name: &str, role: &str) -> Result<()> {
        let options = Server::options().set("--node-id", name).set("--roles", role);
        let options = (self.adjust)(name, options)
            .set_default("--redis", self.redis.url())
            .set_default("--workers", "1");
        let node = options.start()?;
        self.nodes.insert(name.to_owned(), node);
        Ok(())
    }

    /// A node by its name.
    ///
    /// # Panics
    /// When there is none.
    pub fn node(&self, name: &str) -> &Server {
        self.nodes.get(name).unwrap_or_else(|| panic!("no node {name}"))
    }

    /// Takes a node out of the cluster's hands: it runs on.
    ///
    /// # Panics
    /// When there is none of this name.
    pub fn take(&mut self, name: &str) -> Server {
        self.nodes.remove(name).unwrap_or_else(|| panic!("no node {name}"))
    }

    /// Where clients of a signal node connect.
    pub fn websocket_url(&self, signal: &str) -> String {
        format!("ws://{}/", self.node(signal).authority())
    }

    /// A client's place in a room, through this signal node.
    pub fn seat(&self, signal: &str, room: &str, peer: &str) -> Seat {
        Seat { url: self.websocket_url(signal), room_id: room.to_owned(), peer_id: peer.to_owned() }
    }

    /// Which node has a room, by the store; `None` when nobody has.
    pub fn owner(&self, room: &str) -> Result<Option<String>> {
        let fields = self.redis.command(&["HGETALL", &format!("room:{room}")])?;
        let server = fields.chunks(2).find(|pair| pair[0] == "server").map(|pair| pair[1].clone());
        let Some(server) = server else { return Ok(None) };
        let server: serde_json::Value = serde_json::from_str(&server)?;
        Ok(server["serverId"].as_str().map(str::to_owned))
    }

    /// The epoch of a room's lease, by the store.
    pub fn epoch(&self, room: &str) -> Result<Option<u64>> {
        let found = self.redis.command(&["HGET", &format!("room:{room}"), "epoch"])?;
        found.first().map(|epoch| Ok(epoch.parse()?)).transpose()
    }

    /// Kills a node's process and its workers as the kernel would, and returns its log.
    pub fn kill(&mut self, name: &str) -> Result<Vec<String>> {
        let node = self.nodes.remove(name).with_context(|| format!("no node {name}"))?;
        let workers = node.workers()?;
        proc::kill(node.pid(), "KILL")?;
        for worker in workers {
            // It may end by itself when its driver is gone.
            let _ = proc::kill(worker, "KILL");
        }
        Ok(node.log())
    }

    /// Ends a node by SIGTERM.
    pub fn stop(&mut self, name: &str) -> Result<()> {
        let node = self.nodes.remove(name).with_context(|| format!("no node {name}"))?;
        let status = node.stop()?;
        if !status.success() {
            bail!("{name} ended with {status}");
        }
        Ok(())
    }

    /// All processes by what they are: the nodes, their workers, Redis.
    pub fn processes(&self) -> Result<Vec<(String, u32)>> {
        let mut processes = vec![("redis".to_owned(), self.redis.pid())];
        for (name, node) in &self.nodes {
            processes.push((name.clone(), node.pid()));
            let workers = node.workers()?.into_iter().enumerate();
            processes.extend(workers.map(|(at, worker)| (format!("{name}, worker {at}"), worker)));
        }
        Ok(processes)
    }

    /// Runs `tureen drain` for a node: whether it went well, and what it said.
    pub fn drain(&self, node: &str, arguments: &[&str]) -> Result<(bool, String)> {
        let mut command = Command::new(binaries::tureen()?);
        let ended = command.args(["drain", node, "--redis", &self.redis.url()]).args(arguments).output()?;
        Ok((ended.status.success(), String::from_utf8_lossy(&ended.stderr).into_owned()))
    }

    /// The nodes' names.
    pub fn names(&self) -> Vec<String> {
        self.nodes.keys().cloned().collect()
    }

    /// The last of each node's log.
    pub fn logs(&self) -> String {
        let logs = self.nodes.iter().map(|(name, node)| format!("{name}:\n{}", node.log_tail()));
        logs.collect::<Vec<_>>().join("\n")
    }

    /// Waits until each node hears all others: their metrics say so.
    pub fn wait_assembled(&self) -> Result<()> {
        let deadline = Instant::now() + ASSEMBLED_WITHIN;
        let others = self.nodes.len().saturating_sub(1);
        for (name, node) in &self.nodes {
            loop {
                let heard = node.metric("tureen_cluster_nodes_linked")?;
                if heard == Some(others as f64) {
                    break;
                }
                if Instant::now() >= deadline {
                    bail!("{name} hears {heard:?} of {others} others:\n{}", node.log_tail());
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }
}
