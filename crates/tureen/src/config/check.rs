//! From settings that can be read to settings that can work: certificate files, addresses, ports, the worker.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::cluster::node::Roles;
use media::{ListenAddress, PoolSettings, WorkerLogLevel, WorkerSettings};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use token::{Secret, Verifier};
use tracing_subscriber::EnvFilter;

use super::Config;
use super::cluster::{self, ClusterSettings};

/// Settings that were looked at: what is left can still fail, but not by being wrong.
pub(crate) struct Checked {
    pub(crate) config: Config,
    pub(crate) tls: Option<Arc<ServerConfig>>,
    pub(crate) tokens: Option<Verifier>,
    pub(crate) media_addresses: Vec<ListenAddress>,
    /// Where workers of other nodes reach this node's.
    pub(crate) pipe_address: Option<ListenAddress>,
    pub(crate) media_ports: RangeInclusive<u16>,
    pub(crate) workers: usize,
    pub(crate) worker_bin: PathBuf,
    pub(crate) worker_log_level: WorkerLogLevel,
    pub(crate) log: EnvFilter,
    pub(crate) roles: Roles,
    pub(crate) cluster: Option<ClusterSettings>,
}

impl Checked {
    /// Looks at everything; the errors are sentences, all there are.
    pub(crate) fn new(config: Config) -> Result<Self, Vec<String>> {
        let mut errors = Vec::new();
        let tls = keep(tls(&config), &mut errors);
        if let Err(error) = reach(&config) {
            errors.push(error);
        }
        let tokens = keep(tokens(&config), &mut errors);
        let media_addresses = keep(media_addresses(&config), &mut errors);
        let pipe_address = keep(pipe_address(&config, media_addresses.as_deref()), &mut errors);
        let workers = if config.workers == 0 { default_workers() } else { config.workers };
        if workers > 256 {
            errors.push(format!("workers: {workers} are more than the 256 that one server runs"));
        }
        let count = media_addresses.as_ref().map_or(1, Vec::len);
        let media_ports = keep(port_range(&config.media_ports, workers * count), &mut errors);
        let worker_bin = keep(worker_bin(config.worker_bin.as_deref()), &mut errors);
        let worker_log_level = keep(worker_log_level(&config.worker_log_level), &mut errors);
        let log = EnvFilter::try_new(&config.log).map_err(|error| format!("log: {error}"));
        let log = keep(log, &mut errors);
        let roles = keep(cluster::roles(&config), &mut errors);
        let cluster = keep(cluster::cluster(&config), &mut errors);
        errors.extend(zeros(&config));
        match (tls, tokens, media_addresses, media_ports, worker_bin, worker_log_level, log, roles, cluster) {
            (
                Some(tls),
                Some(tokens),
                Some(media_addresses),
                Some(media_ports),
                Some(worker_bin),
                Some(worker_log_level),
                Some(log),
                Some(roles),
                Some(cluster),
            ) if errors.is_empty() => Ok(Self {
                config,
                tls,
                tokens,
                media_addresses,
                pipe_address: pipe_address.flatten(),
                media_ports,
                workers,
                worker_bin,
                worker_log_level,
                log,
                roles,
                cluster,
            }),
            _ => Err(errors),
        }
    }

    /// How the media workers are to be run.
    pub(crate) fn pool(&self) -> PoolSettings {
        let mut worker = WorkerSettings::new(&self.worker_bin);
        worker.log_level = self.worker_log_level;
        worker.log_tags.clone_from(&self.config.worker_log_tags);
        worker.transports = self.config.limits.transports_per_worker;
        worker.rtc_ports = Some(self.media_ports.clone());
        PoolSettings {
            worker,
            workers: NonZeroUsize::new(self.workers),
            listen: self.media_addresses.clone(),
            base_port: None,
            tcp: true,
        }
    }
}

fn keep<T>(result: Result<T, String>, errors: &mut Vec<String>) -> Option<T> {
    result.map_err(|error| errors.push(error)).ok()
}

/// One core is left to the server. Two at least, even on a small machine: when one worker dies, its rooms move to
/// another that runs already, and nobody waits for a process to start. An idle one costs 10 MB.
fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).saturating_sub(1).max(2)
}

fn reach(config: &Config) -> Result<(), String> {
    let open = !config.listen.ip().is_loopback();
    if open && config.tls_cert.is_none() && config.tls_key.is_none() && !config.insecure_listen_anywhere {
        return Err(format!(
            "listen: {} can be reached by others, and without TLS everything said there can be read and changed; \
             browsers also give pages no camera over plain HTTP. Set tls_cert and tls_key, or listen on 127.0.0.1, or \
             allow it with insecure_listen_anywhere (behind a proxy that does TLS, or in a test)",
            config.listen
        ));
    }
    Ok(())
}

/// Whose tokens are believed; none where everybody may come in.
fn tokens(config: &Config) -> Result<Option<Verifier>, String> {
    let mut secrets = Vec::new();
    for secret in &config.auth.secrets {
        secrets.push(Secret::new(secret.0.as_bytes()).map_err(|error| format!("auth.secrets: {error}"))?);
    }
    if let Some(path) = &config.auth.secret_file {
        secrets.extend(secrets_of(path).map_err(|error| format!("auth.secret_file: {error}"))?);
    }
    match (secrets.is_empty(), config.insecure_no_tokens) {
        (false, false) => Ok(Some(Verifier::new(secrets))),
        (false, true) => {
            Err("insecure_no_tokens: there are secrets in auth, too: remove one or the other".to_owned())
        }
        (true, false) if !config.listen.ip().is_loopback() => Err(format!(
            "auth: {} can be reached by others, and without tokens all of them can join any room. Put a secret into a \
             file (openssl rand -base64 48 > secret), name it in auth.secret_file, and let your application sign join \
             tokens with it (tureen token makes one by hand), or listen on 127.0.0.1, or let everybody in with \
             insecure_no_tokens",
            config.listen
        )),
        (true, _) => Ok(None),
    }
}

/// The secrets of a file; at least one.
pub(crate) fn secrets_of(path: &Path) -> Result<Vec<Secret>, String> {
    let failed = |why: &dyn std::fmt::Display| format!("cannot use {}: {why}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
    let secrets = Secret::all(&text).map_err(|error| failed(&error))?;
    if secrets.is_empty() { Err(failed(&"it holds no secret")) } else { Ok(secrets) }
}

fn tls(config: &Config) -> Result<Option<Arc<ServerConfig>>, String> {
    let (cert, key) = match (&config.tls_cert, &config.tls_key) {
        (None, None) => return Ok(None),
        (Some(cert), Some(key)) => (cert, key),
        (Some(_), None) => return Err("tls_cert is set and tls_key is not: set both".to_owned()),
        (None, Some(_)) => return Err("tls_key is set and tls_cert is not: set both".to_owned()),
    };
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>())
        .map_err(|error| format!("tls_cert: cannot read {}: {error}", cert.display()))?;
    if chain.is_empty() {
        return Err(format!("tls_cert: {} holds no certificate", cert.display()));
    }
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| format!("tls_key: cannot read {}: {error}", key.display()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private))
        .map_err(|error| format!("tls_cert and tls_key: {error}"))?;
    // WebSockets are opened over HTTP/1.1 here.
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(Arc::new(server)))
}

fn media_addresses(config: &Config) -> Result<Vec<ListenAddress>, String> {
    if config.media_addresses.is_empty() {
        return default_media_addresses(config.listen);
    }
    config.media_addresses.iter().map(|text| media_address(text)).collect()
}

fn media_address(text: &str) -> Result<ListenAddress, String> {
    let (ip, announced) = match text.split_once('=') {
        Some((ip, announced)) => (ip.trim(), Some(announced.trim().to_owned())),
        None => (text.trim(), None),
    };
    let ip: IpAddr = ip.parse().map_err(|_| {
        format!("media_addresses: {text:?} is not IP or IP=ANNOUNCED, for example 0.0.0.0=203.0.113.7")
    })?;
    match &announced {
        None if ip.is_unspecified() => Err(format!(
            "media_addresses: clients cannot reach {ip}: say where they can, for example {ip}=203.0.113.7"
        )),
        Some(announced) if announced.is_empty() || announced.chars().any(char::is_whitespace) => {
            Err(format!("media_addresses: {text:?} announces nothing"))
        }
        _ => Ok(ListenAddress { ip, announced_address: announced }),
    }
}

/// A pipe's end is told as an IP address: no worker resolves a name.
fn pipe_address(config: &Config, media: Option<&[ListenAddress]>) -> Result<Option<ListenAddress>, String> {
    let address = match &config.pipe_address {
        Some(text) => {
            Some(media_address(text).map_err(|error| error.replace("media_addresses", "pipe_address"))?)
        }
        None => media.and_then(<[_]>::first).cloned(),
    };
    let name = address.as_ref().and_then(|address| address.announced_address.as_ref());
    let name = name.filter(|announced| announced.parse::<IpAddr>().is_err());
    match name {
        Some(name) if config.redis.is_some() || config.pipe_address.is_some() => Err(format!(
            "pipe_address: workers of other nodes need an IP address, and {name} is none: name one, as IP=ANNOUNCED"
        )),
        _ => Ok(address),
    }
}

/// Media goes where signaling goes: to the address listened on, or to the machine's own when that is all of them.
fn default_media_addresses(listen: SocketAddr) -> Result<Vec<ListenAddress>, String> {
    let plain = |ip| ListenAddress { ip, announced_address: None };
    let ip = listen.ip();
    if !ip.is_unspecified() {
        return Ok(vec![plain(ip)]);
    }
    let mut own: Vec<_> = own_address(false).into_iter().collect();
    if ip.is_ipv6() {
        own.extend(own_address(true));
    }
    if own.is_empty() {
        return Err("media_addresses: this machine has no address but loopback: name one".to_owned());
    }
    Ok(own.into_iter().map(plain).collect())
}

/// The address that this machine would send from. Connecting a UDP socket asks the routing table and sends nothing;
/// the addresses are of the blocks for documentation.
fn own_address(ipv6: bool) -> Option<IpAddr> {
    let (any, far) = if ipv6 {
        (IpAddr::from(Ipv6Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)))
    } else {
        (IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv4Addr::new(192, 0, 2, 1)))
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((far, 9)).ok()?;
    socket
        .local_addr()
        .ok()
        .map(|address| address.ip())
        .filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

fn port_range(text: &str, needed: usize) -> Result<RangeInclusive<u16>, String> {
    let parsed = text.split_once('-').and_then(|(min, max)| {
        let range = min.trim().parse::<u16>().ok()?..=max.trim().parse::<u16>().ok()?;
        (*range.start() > 0 && range.start() <= range.end()).then_some(range)
    });
    let range =
        parsed.ok_or_else(|| format!("media_ports: {text:?} is not MIN-MAX, for example 40000-49999"))?;
    let count = usize::from(range.end() - range.start()) + 1;
    if count < needed {
        return Err(format!(
            "media_ports: {text} has {count} ports, and {needed} are needed: one per worker and media address"
        ));
    }
    Ok(range)
}

fn worker_bin(set: Option<&Path>) -> Result<PathBuf, String> {
    let path = match set {
        Some(path) => path.to_owned(),
        None => std::env::current_exe()
            .map_err(|error| format!("worker_bin: cannot tell where this executable is: {error}"))?
            .with_file_name("tureen-worker"),
    };
    if path.is_file() {
        Ok(path)
    } else {
        let path = path.display();
        Err(format!(
            "worker_bin: there is no file {path}: build it with cargo build -p worker, or name a media worker"
        ))
    }
}

fn worker_log_level(text: &str) -> Result<WorkerLogLevel, String> {
    match text {
        "debug" => Ok(WorkerLogLevel::Debug),
        "warn" => Ok(WorkerLogLevel::Warn),
        "error" => Ok(WorkerLogLevel::Error),
        "none" => Ok(WorkerLogLevel::None),
        _ => Err(format!("worker_log_level: {text:?} is none of debug, warn, error, none")),
    }
}

/// Limits that would let nobody in.
fn zeros(config: &Config) -> Vec<String> {
    let limits = &config.limits;
    [
        ("limits.rooms", limits.rooms as u64),
        ("limits.sessions", limits.sessions as u64),
        ("limits.transports_per_worker", limits.transports_per_worker as u64),
        ("limits.room.peers_per_room", limits.room.peers_per_room as u64),
        ("limits.router.transports", limits.router.transports as u64),
        ("limits.router.streams", limits.router.streams as u64),
        ("limits.router.fan_out", limits.router.fan_out as u64),
        ("limits.router.per_room", limits.router.per_room as u64),
        ("limits.session.messages_per_second", limits.session.messages_per_second.into()),
        ("limits.session.requests_in_flight", limits.session.requests_in_flight as u64),
        ("limits.session.malformed_frames", limits.session.malformed_frames.into()),
        ("limits.session.ping_interval_ms", limits.session.ping_interval_ms),
        ("limits.session.silence_ms", limits.session.silence_ms),
        ("limits.session.request_timeout_ms", limits.session.request_timeout_ms),
    ]
    .into_iter()
    .filter(|(_, value)| *value == 0)
    .map(|(name, _)| format!("{name}: 0 would let nobody in"))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Hidden;

    fn valid() -> Config {
        Config { worker_bin: std::env::current_exe().ok(), ..Config::default() }
    }

    #[test]
    fn the_defaults_work_where_there_is_a_worker() {
        let checked = Checked::new(valid()).map_err(|errors| errors.join("\n")).expect("valid");
        assert!(checked.workers >= 2 && checked.tls.is_none());
        assert_eq!(checked.media_addresses[0].ip, IpAddr::from([127, 0, 0, 1]));
        assert_eq!(checked.pool().workers.map(NonZeroUsize::get), Some(checked.workers));
    }

    #[test]
    fn plain_http_for_others_wants_a_word() {
        let mut config = Config { listen: "0.0.0.0:4443".parse().expect("address"), ..valid() };
        config.media_addresses = vec!["127.0.0.1".to_owned()];
        config.insecure_no_tokens = true;
        let errors = Checked::new(config.clone()).err().expect("refused");
        assert!(errors.len() == 1 && errors[0].contains("insecure_listen_anywhere"));
        config.insecure_listen_anywhere = true;
        assert!(Checked::new(config).is_ok());
    }

    #[test]
    fn where_others_can_come_in_they_need_tokens() {
        let mut config = Config { listen: "0.0.0.0:4443".parse().expect("address"), ..valid() };
        config.media_addresses = vec!["127.0.0.1".to_owned()];
        config.insecure_listen_anywhere = true;
        let refused = |config: &Config| Checked::new(config.clone()).err().expect("refused").join("\n");
        assert!(refused(&config).contains("auth.secret_file"));
        config.auth.secrets = vec![Hidden("short".to_owned())];
        assert!(refused(&config).contains("auth.secrets"));
        config.auth.secrets = vec![Hidden("s".repeat(32))];
        let checked = Checked::new(config.clone()).map_err(|errors| errors.join("\n")).expect("valid");
        assert!(checked.tokens.is_some());
        config.insecure_no_tokens = true;
        assert!(refused(&config).contains("insecure_no_tokens"));
        config.auth.secrets.clear();
        assert!(Checked::new(config.clone()).is_ok_and(|checked| checked.tokens.is_none()));
        config.insecure_no_tokens = false;
        config.auth.secret_file = Some("/nonexistent/secret".into());
        assert!(refused(&config).contains("auth.secret_file"));
        assert_eq!(format!("{:?}", Hidden("s".to_owned())), "…");
    }

    #[test]
    fn every_wrong_setting_is_named() {
        let config = Config {
            tls_cert: Some("only-one.pem".into()),
            media_addresses: vec!["0.0.0.0".to_owned()],
            media_ports: "9-2".to_owned(),
            worker_bin: Some("/nonexistent/worker".into()),
            worker_log_level: "loud".to_owned(),
            ..Config::default()
        };
        let errors = Checked::new(config).err().expect("refused");
        for name in ["tls_key", "media_addresses", "media_ports", "worker_bin", "worker_log_level"] {
            assert!(errors.iter().any(|error| error.contains(name)), "{name} in {errors:?}");
        }
    }

    #[test]
    fn media_addresses_are_read() {
        let read =
            |text| media_address(text).map(|address| (address.ip.to_string(), address.announced_address));
        assert_eq!(read("10.0.0.1"), Ok(("10.0.0.1".to_owned(), None)));
        assert_eq!(read("0.0.0.0=203.0.113.7"), Ok(("0.0.0.0".to_owned(), Some("203.0.113.7".to_owned()))));
        assert_eq!(read("::=media.example.org"), Ok(("::".to_owned(), Some("media.example.org".to_owned()))));
        assert!(read("::").is_err() && read("example.org").is_err() && read("0.0.0.0=").is_err());
    }

    #[test]
    fn pipes_are_reached_by_ip_address() {
        let of = |pipe: Option<&str>, media: &str, redis: bool| {
            let redis = redis.then(|| "redis://127.0.0.1".to_owned());
            let config = Config { pipe_address: pipe.map(str::to_owned), redis, ..Config::default() };
            let media = media_address(media).expect("an address");
            let read = pipe_address(&config, Some(&[media]));
            read.map(|address| address.map(|address| (address.ip.to_string(), address.announced_address)))
        };
        let named = Some(("0.0.0.0".to_owned(), Some("10.0.0.2".to_owned())));
        assert_eq!(of(Some("0.0.0.0=10.0.0.2"), "127.0.0.1", true), Ok(named));
        assert_eq!(of(None, "127.0.0.1", true), Ok(Some(("127.0.0.1".to_owned(), None))));
        assert!(of(None, "0.0.0.0=media.example.org", false).is_ok(), "alone it has no pipes");
        assert!(of(None, "0.0.0.0=media.example.org", true).is_err());
        assert!(of(Some("nonsense"), "127.0.0.1", false).expect_err("no address").contains("pipe_address"));
    }

    #[test]
    fn a_port_range_is_wide_enough() {
        assert_eq!(port_range("100-109", 10), Ok(100..=109));
        assert!(port_range("100-108", 10).is_err());
        assert!(
            port_range("0-5", 1).is_err() && port_range("5", 1).is_err() && port_range("1-70000", 1).is_err()
        );
    }
}
