//! The command line. A flag that is given becomes the setting of the same name.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;
use serde_json::{Map, Value};

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
  tureen serve --listen 0.0.0.0:443 --tls-cert fullchain.pem --tls-key privkey.pem
      for everyone
  tureen serve --listen 0.0.0.0:443 --tls-cert c.pem --tls-key k.pem --media-address 10.0.0.5=203.0.113.7
      behind NAT, with a public address
  tureen serve --config tureen.toml --workers 4")]
    Serve(Settings),
    /// Check or print the settings
    #[command(subcommand)]
    Config(ConfigCommand),
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
    /// What workers log: debug, warn, error, none [default: error]
    #[arg(long, value_name = "LEVEL")]
    worker_log_level: Option<String>,
    /// A topic that workers log at debug and warn; may be repeated
    #[arg(long = "worker-log-tag", value_name = "TAG")]
    worker_log_tags: Vec<String>,
    /// What the server logs: a level, or directives like info,signaling=debug [default: info]
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
}

impl Settings {
    /// The settings that were given, by name.
    pub(crate) fn given(&self) -> Map<String, Value> {
        let all = serde_json::to_value(self).unwrap_or_default();
        let Value::Object(all) = all else { return Map::new() };
        let left_out = |value: &Value| match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(values) => values.is_empty(),
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
            "--worker-log-level",
            "warn",
            "--worker-log-tag",
            "ice",
            "--log",
            "debug",
        ]);
        let Command::Serve(settings) = cli.command else { panic!("not serve") };
        let given = settings.given();
        assert_eq!(given.len(), 11);
        let config = config::load(None, &given).expect("read");
        assert_eq!((config.workers, config.media_addresses.len()), (3, 2));
    }
}
