//! The media part of a node: its workers and its rooms.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use host::{Host, HostLimits, HostSettings, LocalSites, MediaSettings, PlainListen};
use media::{ListenAddress, PoolSettings, WorkerPool};
use node::ClusterSites;
use room::{Limits, Place, Region, RoomId, RoomType};
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::config::Config;

/// How long rooms may take to say goodbye to their clients.
pub(crate) const ROOMS_DEADLINE: Duration = Duration::from_secs(3);
/// How long workers may take to end, their own deadline included.
const WORKERS_DEADLINE: Duration = Duration::from_secs(5);

/// Workers, and the rooms on them. Clones share both.
#[derive(Clone)]
pub(crate) struct MediaNode {
    pub(crate) host: Host,
    pub(crate) pool: WorkerPool,
    pub(crate) sites: Arc<ClusterSites>,
}

impl MediaNode {
    /// Starts the workers. The receiver tells of rooms that have ended.
    pub(crate) async fn start(
        pool: PoolSettings,
        config: &Config,
        plain_listen: Option<PlainListen>,
        pipe_address: Option<ListenAddress>,
        place: Place,
    ) -> Result<(Self, mpsc::UnboundedReceiver<RoomId>)> {
        let pool = WorkerPool::start(pool).await.context("cannot start the media workers")?;
        info!(workers = pool.size(), "media workers run");
        let (ended, rooms_ended) = mpsc::unbounded_channel();
        let defaults = MediaSettings::default();
        let media = MediaSettings {
            initial_outgoing_bitrate: config.initial_outgoing_bitrate,
            ice_consent_timeout_s: config.ice_consent_timeout_s,
            plain_listen,
            pipe_address: pipe_address.unwrap_or(defaults.pipe_address),
            ..defaults
        };
        let region = place.region.clone().unwrap_or_else(|| Region::new(config.region.as_str()));
        let local = LocalSites::new(pool.clone(), media.clone(), place);
        let sites = Arc::new(ClusterSites::new(local, region));
        let host = Host::with_sites(
            sites.clone(),
            HostSettings {
                room_type: Arc::new(RoomType::open()),
                room_limits: Arc::new(Limits { router: config.limits.router, ..config.limits.room.clone() }),
                limits: HostLimits { rooms: config.limits.rooms, sessions: config.limits.sessions },
                media,
                ended: Some(ended),
            },
        );
        Ok((Self { host, pool, sites }, rooms_ended))
    }

    /// Sends every client away and ends every room.
    pub(crate) async fn end_rooms(&self) {
        if !self.host.shutdown(ROOMS_DEADLINE).await {
            warn!("some rooms did not end in time");
        }
    }

    /// Ends the workers.
    pub(crate) async fn end_workers(&self) {
        if tokio::time::timeout(WORKERS_DEADLINE, self.pool.close()).await.is_err() {
            warn!("some media workers did not end in time");
        }
    }
}
