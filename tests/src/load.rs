//! The brief's phases against a cluster as the brief draws it: nginx, two signal nodes, Redis, three media nodes.

use anyhow::Result;
use bench::load::{self, Options, Report, Watched};

use crate::{Cluster, Nginx, runtime};

const SIGNAL: usize = 2;
const MEDIA: usize = 3;

/// Starts the cluster with so many workers a media node, and lets the peers in through nginx.
pub fn run(options: &Options, workers: usize) -> Result<Report> {
    let workers = workers.to_string();
    let cluster = Cluster::start_with(SIGNAL, MEDIA, move |_, node| node.set("--workers", &workers))?;
    let upstreams: Result<Vec<_>> =
        (1..=SIGNAL).map(|number| Ok(cluster.node(&format!("s{number}")).authority().parse()?)).collect();
    let nginx = Nginx::start(&upstreams?)?;
    let watched = || {
        let mut all = cluster.processes()?;
        all.extend(nginx.processes()?.into_iter().map(|pid| ("nginx".to_owned(), pid)));
        all.push(("all clients".to_owned(), std::process::id()));
        Ok(all.into_iter().map(|(name, pid)| Watched { name, pid }).collect())
    };
    runtime()?.block_on(load::run(&format!("ws://{}/", nginx.address()), options, watched))
}
