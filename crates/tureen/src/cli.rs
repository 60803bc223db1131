//! The command line. A flag that is given becomes the setting of the same name.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use cluster::node::NodeId;
use room::{IdError, PeerId, RoomId};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::front::{KeepalivedSettings, NginxSettings};

/// A conferencing server: signaling, rooms and media workers in one command.
#[derive(Debug, Parser)]
#[command(name = "tureen", version, about, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server
    #[command(after_help = "Examples:
  tureen serve
      on this machine only: open http://localhost:4443/ in two browsers
  tureen serve --listen 0.0.0.0:443 --tls-cert fullchain.pem --tls-key privkey.pem --auth-secret-file secret
      for everyone to whom your application gives a token
  tureen serve --listen 0.0.0.0:443 --tls-cert c.pem --tls-key k.pem --insecure-no-tokens
      for everyone
  tureen serve --listen 0.0.0.0:443 … --media-address 10.0.0.5=203.0.113.7
      behind NAT, with a public address
  tureen serve --config tureen.toml --workers 4
  tureen serve --redis redis://10.0.0.9 --node-id m1 --roles media --link-listen 10.0.0.5:7000 --link-tls-dir /etc/tureen/link
      as a media node of a cluster")]
    Serve(Settings),
    /// Check or print the settings
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Make the certificates by which the nodes of a cluster know each other
    #[command(subcommand)]
    Cert(CertCommand),
    /// See a cluster's nodes, and say goodbye for those that died for good
    #[command(subcommand)]
    Nodes(NodesCommand),
    /// Move a node's rooms to others, and let it take no new ones, before it is ended
    #[command(
        after_help = "Its calls go on meanwhile. It ends by itself as soon as all rooms have moved: with status 0 then, with 1 where
some had to be closed. The node lives on and stays empty, until it is ended or this is cancelled.

Examples:
  tureen drain media-3 --redis redis://10.0.0.9 --deadline 60s && ssh media-3 systemctl stop tureen
  tureen drain media-3 --redis redis://10.0.0.9 --cancel"
    )]
    Drain(DrainArguments),
    /// Make a join token, as an application does for its users
    #[command(after_help = "Examples:
  openssl rand -base64 48 > secret
  tureen serve --auth-secret-file secret
  tureen token --secret-file secret --room stage --peer ann --expires 1h
      then open http://127.0.0.1:4443/?roomId=stage&token=…")]
    Token(TokenArguments),
}

/// What to do with a cluster's nodes.
#[derive(Debug, Subcommand)]
pub(crate) enum NodesCommand {
    /// Print who is there, how busy, and who is missing
    #[command(after_help = "Examples:
  tureen nodes list --redis redis://10.0.0.9
  tureen nodes list --redis redis://10.0.0.9 --output json | jq '.[].id'")]
    List {
        /// The store that the cluster shares
        #[arg(long, value_name = "URL", env = "TUREEN_REDIS", hide_env_values = true)]
        redis: String,
        /// A table for people, or JSON for programs
        #[arg(long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Say goodbye for a node that died and will not come back under its name
    #[command(
        after_help = "Until somebody does, or a day has passed, it counts among those of whom a room's owner must hear a majority.

Example:
  tureen nodes forget media-3 --redis redis://10.0.0.9"
    )]
    Forget {
        /// Its name
        name: NodeId,
        /// The store that the cluster shares
        #[arg(long, value_name = "URL", env = "TUREEN_REDIS", hide_env_values = true)]
        redis: String,
        /// Even if it was heard a moment ago: a node that lives ends when it learns of it
        #[arg(long)]
        force: bool,
    },
}

/// Which node to drain, and how.
#[derive(Debug, Args)]
pub(crate) struct DrainArguments {
    /// Its name
    pub(crate) name: NodeId,
    /// The store that the cluster shares
    #[arg(long, value_name = "URL", env = "TUREEN_REDIS", hide_env_values = true)]
    pub(crate) redis: String,
    /// When what has not moved is closed: a number and s, m, h or d
    #[arg(long, value_name = "TIME", value_parser = parse_time, default_value = "60s")]
    pub(crate) deadline: Duration,
    /// Have it take rooms again; those that have moved stay where they are
    #[arg(long)]
    pub(crate) cancel: bool,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Which certificate to make.
#[derive(Debug, Subcommand)]
pub(crate) enum CertCommand {
    /// An authority for a cluster that has none
    #[command(after_help = "Example:\n  tureen cert ca --out authority")]
    Ca {
        /// The folder for ca.pem and ca-key.pem; made if it is not there
        #[arg(long, value_name = "FOLDER")]
        out: PathBuf,
        /// Write over what is there: nodes with certificates of the old authority are then refused
        #[arg(long)]
        force: bool,
    },
    /// A node's certificate
    #[command(after_help = "Example:\n  tureen cert node media-1 --ca authority --out media-1")]
    Node {
        /// The node's name, as its settings have it
        name: NodeId,
        /// The folder with the authority's ca.pem and ca-key.pem
        #[arg(long, value_name = "FOLDER")]
        ca: PathBuf,
        /// Another name or IP address for the certificate; may be repeated
        #[arg(long = "san", value_name = "NAME")]
        sans: Vec<String>,
        /// How long it is valid
        #[arg(long, value_name = "DAYS", default_value_t = 365)]
        days: u32,
        /// The folder for ca.pem, NAME.pem and NAME-key.pem; made if it is not there
        #[arg(long, value_name = "FOLDER")]
        out: PathBuf,
        /// Write over what is there: a running node reads it by itself
        #[arg(long)]
        force: bool,
    },
}

/// What a token shall say.
#[derive(Debug, Args)]
pub(crate) struct TokenArguments {
    /// The file with the secret; of several, the first signs
    #[arg(long, value_name = "FILE")]
    pub(crate) secret_file: PathBuf,
    /// Which room may be joined
    #[arg(long, value_parser = parse_room)]
    pub(crate) room: RoomId,
    /// As whom
    #[arg(long, value_parser = parse_peer)]
    pub(crate) peer: PeerId,
    /// In which role [default: the room type's]
    #[arg(long)]
    pub(crate) role: Option<String>,
    /// The name that others see, whatever the client says
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// For how long: a number and s, m, h or d
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) expires: Duration,
}

fn parse_room(text: &str) -> Result<RoomId, IdError> {
    RoomId::parse(text)
}

fn parse_peer(text: &str) -> Result<PeerId, IdError> {
    PeerId::parse(text)
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let unit = |unit| match unit {
        's' => Some(1),
        'm' => Some(60),
        'h' => Some(3600),
        'd' => Some(86_400),
        _ => None,
    };
    let seconds = text.chars().last().and_then(unit).and_then(|unit: u64| {
        let number: u64 = text.get(..text.len() - 1)?.parse().ok()?;
        number.checked_mul(unit).filter(|seconds| *seconds > 0)
    });
    seconds.map(Duration::from_secs).ok_or_else(|| "not like 90s, 30m, 12h or 7d".to_owned())
}

/// What to do with the settings.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Say everything that is wrong with the settings, and start nothing
    #[command(after_help = "Example:\n  tureen config check --config tureen.toml")]
    Check(Settings),
    /// Print all settings as TOML, with defaults, file, environment and flags taken together
    #[command(after_help = "Example:\n  tureen config print > tureen.toml")]
    Print(Settings),
    /// Print an nginx configuration that spreads clients over these servers, a room's clients to one of them
    #[command(after_help = "Example:
  tureen config nginx --upstream 10.0.0.1:4443 --upstream 10.0.0.2:4443 \\
      --server-name call.example.org --tls-cert /etc/ssl/call.pem --tls-key /etc/ssl/call.key \\
      > /etc/nginx/conf.d/tureen.conf
  tureen config nginx --redis redis://10.0.0.9 --region eu > /etc/nginx/conf.d/tureen.conf")]
    Nginx(NginxSettings),
    /// Print a keepalived configuration for one of two nginx machines that share an address
    #[command(after_help = "Example:
  tureen config keepalived --address 10.0.0.2 --peer 10.0.0.3 --virtual-address 203.0.113.10/24 \\
      --interface eth0 --priority 150 > /etc/keepalived/keepalived.conf")]
    Keepalived(KeepalivedSettings),
}

/// Settings that have a flag. All others can be set in the file or the environment.
#[derive(Debug, Args, Serialize)]
pub(crate) struct Settings {
    /// A TOML file with settings; `tureen config print` shows all there are
    #[arg(long, value_name = "FILE", env = "TUREEN_CONFIG")]
    #[serde(skip)]
    pub(crate) config: Option<PathBuf>,
    /// Where HTTP and WebSocket are served [default: 127.0.0.1:4443]
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
    /// Certificate chain in PEM, for HTTPS
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Its private key in PEM
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Allow plain HTTP on an address that others can reach
    #[arg(long)]
    insecure_listen_anywhere: bool,
    /// Let everybody in, without tokens, on an address that others can reach
    #[arg(long)]
    insecure_no_tokens: bool,
    #[command(flatten)]
    auth: AuthFlags,
    /// Where media is received, and what clients are told when that differs; may be repeated
    /// [default: the address of --listen]
    #[arg(long = "media-address", value_name = "IP[=ANNOUNCED]")]
    media_addresses: Vec<String>,
    /// Ports of media workers: one UDP and one TCP a worker and address [default: 40000-49999]
    #[arg(long, value_name = "MIN-MAX")]
    media_ports: Option<String>,
    /// Media worker processes [default: one a core, less one, at least two]
    #[arg(long, value_name = "COUNT")]
    workers: Option<usize>,
    /// The media worker: tureen-worker, or a stock mediasoup-worker [default: beside this executable]
    #[arg(long, value_name = "FILE")]
    worker_bin: Option<PathBuf>,
    /// Broadcasters at once, which send plain RTP and come by HTTP; 0 for none
    /// [default: 200 where --listen is loopback, else none]
    #[arg(long, value_name = "COUNT")]
    broadcasters: Option<usize>,
    /// What workers log: debug, warn, error, none [default: error]
    #[arg(long, value_name = "LEVEL")]
    worker_log_level: Option<String>,
    /// A topic that workers log at debug and warn; may be repeated
    #[arg(long = "worker-log-tag", value_name = "TAG")]
    worker_log_tags: Vec<String>,
    /// What this process does: signal takes clients in, media runs rooms [default: signal,media]
    #[arg(long, value_name = "ROLES")]
    roles: Option<String>,
    /// The store that a cluster shares, for example redis://10.0.0.9:6379; without it this process is alone
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// This node's name in the cluster, kept over restarts
    #[arg(long, value_name = "NAME")]
    node_id: Option<String>,
    /// Where this node is: what lies close together has one name [default: default]
    #[arg(long, value_name = "NAME")]
    region: Option<String>,
    /// Where other nodes of the cluster reach this one [default: a free port on 127.0.0.1]
    #[arg(long, value_name = "IP:PORT")]
    link_listen: Option<SocketAddr>,
    /// What they are told when that differs [default: with 0.0.0.0, this machine's address towards Redis]
    #[arg(long, value_name = "IP:PORT")]
    link_address: Option<SocketAddr>,
    /// Certificates of the cluster's links, as `tureen cert` makes them; needed beyond loopback
    #[arg(long, value_name = "DIR")]
    link_tls_dir: Option<PathBuf>,
    /// How long SIGTERM hands rooms to other nodes before what is left is closed, for example 60000 [default: 8000]
    #[arg(long, value_name = "MS")]
    drain_on_stop_ms: Option<u64>,
    /// What the server logs: a level, or directives like info,signaling=debug [default: info]
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
}

/// Flags of the settings below `auth`.
#[derive(Debug, Args, Serialize)]
pub(crate) struct AuthFlags {
    /// A file with secrets, one a line: only who has a token signed with one of them may join
    #[arg(long = "auth-secret-file", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_file: Option<PathBuf>,
}

impl Settings {
    /// The settings that were given, by name.
    pub(crate) fn given(&self) -> Map<String, Value> {
        let all = serde_json::to_value(self).unwrap_or_default();
        let Value::Object(all) = all else { return Map::new() };
        let left_out = |value: &Value| match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(values) => values.is_empty(),
            Value::Object(values) => values.is_empty(),
            _ => false,
        };
        all.into_iter().filter(|(_, value)| !left_out(value)).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::config;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_have_a_unit() {
        let seconds = |text| parse_time(text).map(|time| time.as_secs()).ok();
        assert_eq!(["90s", "2m", "1h", "7d"].map(seconds), [Some(90), Some(120), Some(3600), Some(604_800)]);
        assert_eq!(["", "h", "1", "0s", "-1h", "1 h", "1ä", "99999999999999999999d"].map(seconds), [None; 8]);
    }

    #[test]
    fn every_flag_is_a_setting() {
        let cli = Cli::parse_from([
            "tureen",
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--tls-cert",
            "c",
            "--tls-key",
            "k",
            "--insecure-listen-anywhere",
            "--insecure-no-tokens",
            "--auth-secret-file",
            "s",
            "--media-address",
            "10.0.0.1",
            "--media-address",
            "::=x",
            "--media-ports",
            "1-2",
            "--workers",
            "3",
            "--worker-bin",
            "w",
            "--broadcasters",
            "5",
            "--worker-log-level",
            "warn",
            "--worker-log-tag",
            "ice",
            "--log",
            "debug",
            "--roles",
            "media",
            "--redis",
            "redis://h",
            "--node-id",
            "m1",
            "--region",
            "eu",
            "--link-listen",
            "10.0.0.1:1",
            "--link-address",
            "10.0.0.2:1",
            "--link-tls-dir",
            "d",
            "--drain-on-stop-ms",
            "60000",
        ]);
        let Command::Serve(settings) = cli.command else { panic!("not serve") };
        let given = settings.given();
        assert_eq!(given.len(), 22);
        let config = config::load(None, &given).expect("read");
        assert_eq!((config.workers, config.media_addresses.len()), (3, 2));
    }
}
