//! How a pool of workers is made: how many, with which settings, on which addresses and ports.

use std::{net::IpAddr, num::NonZeroUsize};

use ortc::TransportProtocol;

use crate::{
    error::{MediaError, SpawnError},
    settings::{ListenInfo, WorkerSettings},
};

/// How a pool of workers is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSettings {
    /// How each worker is started.
    pub worker: WorkerSettings,
    /// How many; `None` for one per core that this process may use, less one for the server, at least one.
    pub workers: Option<NonZeroUsize>,
    /// Where they listen.
    pub listen: Vec<ListenAddress>,
    /// The first worker's port, for UDP and TCP; the others take those that follow. `None` lets each worker choose
    /// from its port range.
    pub base_port: Option<u16>,
    /// Whether clients without UDP may come by TCP.
    pub tcp: bool,
}

/// An address that workers listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenAddress {
    /// What is bound. To announce one address by several names, list it several times: each gets ports of its own.
    pub ip: IpAddr,
    /// What clients are told instead.
    pub announced_address: Option<String>,
}

impl PoolSettings {
    /// The number of workers that these settings mean on this machine.
    #[must_use]
    pub fn worker_count(&self) -> usize {
        let allowed = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        self.workers.map_or_else(|| allowed.saturating_sub(1).max(1), NonZeroUsize::get)
    }

    /// What the worker of this index binds.
    pub(super) fn listen_infos(&self, index: usize) -> Result<Vec<ListenInfo>, PoolError> {
        let mut infos = Vec::new();
        for (position, address) in self.listen.iter().enumerate() {
            let same_before =
                self.listen.iter().take(position).filter(|other| other.ip == address.ip).count();
            let offset = same_before * self.worker_count() + index;
            let port = match self.base_port {
                None => 0,
                Some(base) => u16::try_from(usize::from(base) + offset)
                    .map_err(|_too_high| PoolError::Ports { base, workers: self.worker_count() })?,
            };
            let udp = ListenInfo {
                announced_address: address.announced_address.clone(),
                ..ListenInfo::new(TransportProtocol::Udp, address.ip, port)
            };
            let tcp = self.tcp.then(|| ListenInfo { protocol: TransportProtocol::Tcp, ..udp.clone() });
            infos.push(udp);
            infos.extend(tcp);
        }
        Ok(infos)
    }
}

/// Why there is no pool, or no worker in it.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// No address to listen on was given.
    #[error("no address to listen on is set for media")]
    NoListenAddress,
    /// There are not enough ports above the first.
    #[error("{workers} workers do not find ports from {base} on; set a lower one")]
    Ports {
        /// The first port.
        base: u16,
        /// How many workers there are.
        workers: usize,
    },
    /// A worker did not start.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// A worker started, but cannot listen.
    #[error(
        "worker {index} cannot listen for media: {source} (check the listen addresses and ports of media)"
    )]
    Listen {
        /// Which.
        index: usize,
        /// What it said.
        source: MediaError,
    },
    /// No worker is alive, and none came to life in time.
    #[error("no media worker is running; the log says why they ended")]
    NoWorker,
    /// All live workers are among those that were to be avoided.
    #[error("no other media worker is running: start more with --workers, or add a media node")]
    NoOtherWorker,
}
