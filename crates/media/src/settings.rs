//! How workers are started and where they listen.

use std::{net::IpAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use ortc::TransportProtocol;
use worker_protocol::wire::transport as wire;

/// Transports of one worker: two each for 5,000 peers, which is more than a core serves.
pub const DEFAULT_TRANSPORTS: usize = 10_000;

/// How one worker process is started. Only flags that a stock mediasoup worker knows are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerSettings {
    /// The executable: `tureen-worker`, or a stock `mediasoup-worker`.
    pub binary: PathBuf,
    /// How much the worker logs.
    pub log_level: WorkerLogLevel,
    /// What it logs at `Debug` and `Warn` (`ice`, `dtls`, `rtp`, …); empty for the worker's default.
    pub log_tags: Vec<String>,
    /// Ports for sockets that are given none; `None` for the worker's default.
    pub rtc_ports: Option<RangeInclusive<u16>>,
    /// The DTLS certificate, in PEM; a worker makes its own without it.
    pub dtls_certificate: Option<DtlsCertificateFiles>,
    /// Transports that it may hold; no WebRtcTransport beyond them is asked for ([`crate::MediaError::Limit`]).
    pub transports: usize,
    /// Environment variables beside those of this process.
    pub environment: Vec<(String, String)>,
    /// How long a start may take.
    pub start_deadline: Duration,
    /// How long an answer may take.
    pub request_deadline: Duration,
    /// How long a worker may take to end after it was told to, before it is killed.
    pub close_deadline: Duration,
}

impl WorkerSettings {
    /// Default settings for this executable: errors logged, deadlines of 10 s, and 2 s to end.
    #[must_use]
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            log_level: WorkerLogLevel::Error,
            log_tags: Vec::new(),
            rtc_ports: None,
            dtls_certificate: None,
            transports: DEFAULT_TRANSPORTS,
            environment: Vec::new(),
            start_deadline: Duration::from_secs(10),
            request_deadline: Duration::from_secs(10),
            close_deadline: Duration::from_secs(2),
        }
    }

    pub(crate) fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![format!("--logLevel={}", self.log_level.as_str())];
        arguments.extend(self.log_tags.iter().map(|tag| format!("--logTag={tag}")));
        if let Some(ports) = &self.rtc_ports {
            arguments.push(format!("--rtcMinPort={}", ports.start()));
            arguments.push(format!("--rtcMaxPort={}", ports.end()));
        }
        if let Some(files) = &self.dtls_certificate {
            arguments.push(format!("--dtlsCertificateFile={}", files.certificate.display()));
            arguments.push(format!("--dtlsPrivateKeyFile={}", files.private_key.display()));
        }
        arguments
    }
}

/// Where a worker's DTLS certificate lies, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DtlsCertificateFiles {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub private_key: PathBuf,
}

/// How much a worker logs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WorkerLogLevel {
    /// Everything that the log tags select.
    Debug,
    /// Warnings that the log tags select, and errors.
    Warn,
    /// Errors.
    #[default]
    Error,
    /// Nothing.
    None,
}

impl WorkerLogLevel {
    /// The worker's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Warn => "warn",
            Self::Error => "error",
            Self::None => "none",
        }
    }
}

/// One socket that a worker opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenInfo {
    /// UDP or TCP.
    pub protocol: TransportProtocol,
    /// The address to bind.
    pub ip: IpAddr,
    /// What clients are told instead of `ip`: an address or a host name, for servers behind NAT.
    pub announced_address: Option<String>,
    /// Whether clients are told `ip` as well.
    pub expose_internal_ip: bool,
    /// The port; 0 leaves it to the worker.
    pub port: u16,
    /// Where the worker chooses when `port` is 0; `None` for its `--rtcMinPort` and `--rtcMaxPort`.
    pub port_range: Option<RangeInclusive<u16>>,
    /// The socket's send buffer in bytes; 0 for the system's default.
    pub send_buffer_size: u32,
    /// The socket's receive buffer in bytes; 0 for the system's default.
    pub recv_buffer_size: u32,
}

impl ListenInfo {
    /// A socket of this protocol at this address and port, announced as it is.
    #[must_use]
    pub fn new(protocol: TransportProtocol, ip: IpAddr, port: u16) -> Self {
        Self {
            protocol,
            ip,
            announced_address: None,
            expose_internal_ip: false,
            port,
            port_range: None,
            send_buffer_size: 0,
            recv_buffer_size: 0,
        }
    }

    pub(crate) fn to_wire(&self) -> wire::ListenInfo {
        let (min, max) = self.port_range.as_ref().map_or((0, 0), |range| (*range.start(), *range.end()));
        wire::ListenInfo {
            protocol: match self.protocol {
                TransportProtocol::Udp => wire::Protocol::Udp,
                TransportProtocol::Tcp => wire::Protocol::Tcp,
            },
            ip: self.ip.to_string(),
            announced_address: self.announced_address.clone(),
            expose_internal_ip: self.expose_internal_ip,
            port: self.port,
            port_range: Box::new(wire::PortRange { min, max }),
            // A socket bound to `::` must not take IPv4's port with it: IPv4 has a socket of its own.
            flags: Box::new(wire::SocketFlags { ipv6_only: self.ip.is_ipv6(), udp_reuse_port: false }),
            send_buffer_size: self.send_buffer_size,
            recv_buffer_size: self.recv_buffer_size,
        }
    }
}
