//! Settings: defaults, below a TOML file, below `TUREEN_*` in the environment, below flags. Read, checked and reported
//! whole before anything is started: all that is wrong is said at once.

mod check;
mod cluster;
mod layers;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use room::{Limits, RouterLimits};
use serde::{Deserialize, Serialize};
use signaling::GatewayLimits;

use crate::load::NodeLimits;

pub(crate) use check::{Checked, secrets_of};
pub(crate) use cluster::ClusterSettings;
pub(crate) use layers::load;

/// Every setting. The names are those of the TOML file; in the environment `TUREEN_` and capitals, where a dot of a
/// nested name is written as two underscores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Where HTTP and WebSocket are served.
    pub(crate) listen: SocketAddr,
    /// A certificate chain in PEM, for HTTPS. Together with `tls_key`.
    pub(crate) tls_cert: Option<PathBuf>,
    /// Its private key in PEM.
    pub(crate) tls_key: Option<PathBuf>,
    /// Allows plain HTTP on an address that others can reach, for example behind a TLS proxy.
    pub(crate) insecure_listen_anywhere: bool,
    /// Where media is received, as `IP` or `IP=ANNOUNCED`. Empty: chosen by `listen`.
    pub(crate) media_addresses: Vec<String>,
    /// The UDP and TCP ports of media workers, as `MIN-MAX`.
    pub(crate) media_ports: String,
    /// Media worker processes. 0: one per core that this process may use, less one, but at least two.
    pub(crate) workers: usize,
    /// The media worker's executable. Not set: `tureen-worker` beside this executable.
    pub(crate) worker_bin: Option<PathBuf>,
    /// What workers log: debug, warn, error, none.
    pub(crate) worker_log_level: String,
    /// Topics that workers log at debug and warn, for example ice, dtls, rtp.
    pub(crate) worker_log_tags: Vec<String>,
    /// What the server logs: a level, or directives like `info,signaling=debug`.
    pub(crate) log: String,
    /// What congestion control towards a client begins with, in bit/s.
    pub(crate) initial_outgoing_bitrate: u64,
    /// Seconds after a client's last sign of life until its ICE is called disconnected.
    pub(crate) ice_consent_timeout_s: u8,
    /// Lets everybody in who can reach `listen`, where that is not loopback, without a token.
    pub(crate) insecure_no_tokens: bool,
    /// Who may join.
    pub(crate) auth: Auth,
    /// Broadcasters at once: peers that come by HTTP and send or receive plain RTP, such as ffmpeg. 0: no API for them.
    /// Not set: 200 where `listen` is loopback, else 0, because plain RTP is neither encrypted nor authenticated.
    pub(crate) broadcasters: Option<usize>,
    /// What this process does: `signal` takes clients' WebSockets, `media` runs rooms and workers. Separated by commas.
    pub(crate) roles: String,
    /// The shared store of a cluster, as a URL. Not set: this process is alone and needs none.
    pub(crate) redis: Option<String>,
    /// The cluster's name. Nodes of another are refused.
    pub(crate) cluster: String,
    /// This node's name in the cluster, unique and kept over restarts.
    pub(crate) node_id: Option<String>,
    /// Where this node is; rooms begin in the region of their first peer.
    pub(crate) region: String,
    /// Where other nodes reach this one.
    pub(crate) link_listen: SocketAddr,
    /// What they are told when that differs, as behind NAT. Not set, and all addresses are listened on: this machine's own,
    /// as its packets to the store have it.
    pub(crate) link_address: Option<SocketAddr>,
    /// A folder with ca.pem, and NAME.pem and NAME-key.pem of the node's name, as `tureen cert` makes them. Needed where
    /// links leave this machine.
    pub(crate) link_tls_dir: Option<PathBuf>,
    /// Where workers of other nodes reach this node's, as IP or IP=ANNOUNCED; the first of `media_addresses` otherwise.
    pub(crate) pipe_address: Option<String>,
    /// How long SIGTERM hands rooms, and peers' media, to other nodes, in milliseconds, before what is left is closed. Ends as
    /// soon as all has moved, or nobody could take it.
    pub(crate) drain_on_stop_ms: u64,
    /// How many of everything.
    pub(crate) limits: AllLimits,
}

/// Who may join: with a secret, whoever has a token that was signed with it. With several, with any of them, so that one can
/// be exchanged for another.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Auth {
    /// A file with secrets, one a line.
    pub(crate) secret_file: Option<PathBuf>,
    /// Secrets.
    pub(crate) secrets: Vec<Hidden>,
}

/// A text that is not shown where settings are shown for debugging.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Hidden(pub(crate) String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// How many of everything.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AllLimits {
    /// Rooms open at once.
    pub(crate) rooms: usize,
    /// Sessions at once, over all rooms.
    pub(crate) sessions: usize,
    /// What this node's network can carry.
    pub(crate) node: NodeLimits,
    /// Transports of one media worker; a client that asks for one beyond is told to try again.
    pub(crate) transports_per_worker: usize,
    /// Of one room.
    pub(crate) room: Limits,
    /// Of one router, before its room takes another.
    pub(crate) router: RouterLimits,
    /// Of one session.
    pub(crate) session: GatewayLimits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 4443)),
            tls_cert: None,
            tls_key: None,
            insecure_listen_anywhere: false,
            media_addresses: Vec::new(),
            media_ports: "40000-49999".to_owned(),
            workers: 0,
            worker_bin: None,
            worker_log_level: "error".to_owned(),
            worker_log_tags: Vec::new(),
            log: "info".to_owned(),
            initial_outgoing_bitrate: 1_000_000,
            ice_consent_timeout_s: 30,
            insecure_no_tokens: false,
            auth: Auth::default(),
            broadcasters: None,
            roles: "signal,media".to_owned(),
            redis: None,
            cluster: "tureen".to_owned(),
            node_id: None,
            region: "default".to_owned(),
            link_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            link_address: None,
            link_tls_dir: None,
            pipe_address: None,
            drain_on_stop_ms: 8_000,
            limits: AllLimits {
                rooms: 10_000,
                sessions: 15_000,
                node: NodeLimits::default(),
                transports_per_worker: media::DEFAULT_TRANSPORTS,
                room: Limits::default(),
                router: RouterLimits::default(),
                session: GatewayLimits::default(),
            },
        }
    }
}

/// Broadcasters where nobody else reaches the server.
const LOOPBACK_BROADCASTERS: usize = 200;

impl Config {
    /// How many broadcasters are taken in.
    pub(crate) fn broadcasters(&self) -> usize {
        let here = if self.listen.ip().is_loopback() { LOOPBACK_BROADCASTERS } else { 0 };
        self.broadcasters.unwrap_or(here)
    }

    /// As TOML, every setting with its value.
    pub(crate) fn to_toml(&self) -> anyhow::Result<String> {
        Ok(toml::to_string(self)?)
    }
}
