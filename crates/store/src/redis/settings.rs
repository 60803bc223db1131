//! Where Redis is and how to log in: one line of text, and what does not belong into it.

use std::fmt;
use std::str::FromStr;

/// The port of a Redis server, and of a Sentinel.
const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;
/// Servers named at most; others of a Cluster are found by themselves.
const MAX_HOSTS: usize = 64;

/// A password. Shows itself to nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a password.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// A server's address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host {
    /// Name or address; an IPv6 address without brackets.
    pub name: String,
    /// Port.
    pub port: u16,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.contains(':') {
            write!(f, "[{}]:{}", self.name, self.port)
        } else {
            write!(f, "{}:{}", self.name, self.port)
        }
    }
}

/// How the servers belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topology {
    /// One server.
    Standalone(Host),
    /// One at a time is the master; Sentinels know which.
    Sentinel {
        /// The Sentinels.
        hosts: Vec<Host>,
        /// What they call the master.
        master: String,
    },
    /// A Redis Cluster, found through any of these.
    Cluster(Vec<Host>),
}

impl Topology {
    /// The servers that are named: those to ask first.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        match self {
            Self::Standalone(host) => std::slice::from_ref(host),
            Self::Sentinel { hosts, .. } | Self::Cluster(hosts) => hosts,
        }
    }
}

/// How to reach Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisSettings {
    /// Which servers.
    pub topology: Topology,
    /// Whether connections are TLS, those to Sentinels included.
    pub tls: bool,
    /// The certificates to trust, as PEM; the system's when absent.
    pub ca: Option<Vec<u8>>,
    /// The user, for servers with ACLs.
    pub username: Option<String>,
    /// Its password, or the server's.
    pub password: Option<Secret>,
    /// The user at the Sentinels, which have their own.
    pub sentinel_username: Option<String>,
    /// Its password there.
    pub sentinel_password: Option<Secret>,
    /// Which of a server's databases.
    pub database: u16,
}

/// What is wrong with the text that names Redis. Never quotes it: it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The scheme is none of ours.
    #[error(
        "the store's address begins with none of redis://, rediss://, redis-sentinel://, rediss-sentinel://, redis-cluster://, rediss-cluster://"
    )]
    Scheme,
    /// A host or port cannot be read.
    #[error("host number {0} of the store's address is not HOST or HOST:PORT")]
    Host(usize),
    /// More than one host where one is meant, none, or too many.
    #[error("the store's address names {found} hosts: {wanted}")]
    Hosts {
        /// How many.
        found: usize,
        /// What would be right.
        wanted: &'static str,
    },
    /// `%` without two hexadecimal digits.
    #[error("user or password in the store's address has a % that two hexadecimal digits do not follow")]
    Escape,
    /// The database is no number.
    #[error("the store's address names a database that is not a number from 0 to 65535")]
    Database,
    /// Sentinels watch masters by name.
    #[error("the store's address does not name the master: redis-sentinel://HOST,HOST,HOST/MASTER")]
    Master,
    /// A Cluster has only database 0.
    #[error("a Redis Cluster has no database but 0: leave the number out of the store's address")]
    ClusterDatabase,
    /// What follows the path is not understood.
    #[error("the store's address has something after ? or #: everything else is set by options of their own")]
    Query,
}

impl FromStr for RedisSettings {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, SettingsError> {
        let (scheme, rest) = text.split_once("://").ok_or(SettingsError::Scheme)?;
        let (secure, kind) = match scheme.split_once('-') {
            Some((base, kind)) => (base, kind),
            None => (scheme, ""),
        };
        let tls = match secure {
            "redis" => false,
            "rediss" => true,
            _ => return Err(SettingsError::Scheme),
        };
        // A password may hold any of these only as %40 and so on.
        let (login, rest) = rest.rsplit_once('@').map_or((None, rest), |(login, rest)| (Some(login), rest));
        if rest.contains(['?', '#']) {
            return Err(SettingsError::Query);
        }
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (username, password) = login.map_or(Ok((None, None)), parse_login)?;
        let mut database = 0;
        let topology = match kind {
            "" => {
                database = parse_database(path)?;
                let mut hosts = parse_hosts(hosts, PORT)?;
                match (hosts.pop(), hosts.len()) {
                    (Some(host), 0) => Topology::Standalone(host),
                    (_, others) => {
                        let wanted = "one is meant, or redis-cluster:// or redis-sentinel://";
                        return Err(SettingsError::Hosts { found: others + 1, wanted });
                    }
                }
            }
            "sentinel" => {
                let hosts = parse_hosts(hosts, SENTINEL_PORT)?;
                let (master, number) = path.split_once('/').unwrap_or((path, ""));
                if master.is_empty() {
                    return Err(SettingsError::Master);
                }
                database = parse_database(number)?;
                Topology::Sentinel { hosts, master: master.to_owned() }
            }
            "cluster" => {
                if parse_database(path)? != 0 {
                    return Err(SettingsError::ClusterDatabase);
                }
                Topology::Cluster(parse_hosts(hosts, PORT)?)
            }
            _ => return Err(SettingsError::Scheme),
        };
        Ok(Self {
            topology,
            tls,
            ca: None,
            username,
            password,
            sentinel_username: None,
            sentinel_password: None,
            database,
        })
    }
}

fn parse_login(login: &str) -> Result<(Option<String>, Option<Secret>), SettingsError> {
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let (user, password) = (unescape(user)?, unescape(password)?);
    Ok(((!user.is_empty()).then_some(user), (!password.is_empty()).then_some(Secret(password))))
}

fn parse_database(path: &str) -> Result<u16, SettingsError> {
    if path.is_empty() { Ok(0) } else { path.parse().map_err(|_| SettingsError::Database) }
}

fn parse_hosts(text: &str, port: u16) -> Result<Vec<Host>, SettingsError> {
    let hosts: Vec<&str> = text.split(',').collect();
    if text.is_empty() || hosts.len() > MAX_HOSTS {
        let found = if text.is_empty() { 0 } else { hosts.len() };
        return Err(SettingsError::Hosts { found, wanted: "1 to 64 can be given" });
    }
    let numbered = hosts.into_iter().enumerate();
    numbered
        .map(|(index, text)| parse_host(text.trim(), port).ok_or(SettingsError::Host(index + 1)))
        .collect()
}

fn parse_host(text: &str, default_port: u16) -> Option<Host> {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (name, after) = rest.split_once(']')?;
            (name, if after.is_empty() { None } else { Some(after.strip_prefix(':')?) })
        }
        None => match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        },
    };
    let port = port.map_or(Some(default_port), |port| port.parse().ok().filter(|port| *port != 0))?;
    let bad = |c: char| c.is_whitespace() || c.is_control();
    (!name.is_empty() && !name.contains(bad)).then(|| Host { name: name.to_owned(), port })
}

fn unescape(text: &str) -> Result<String, SettingsError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        let (high, low) = digit().zip(digit()).ok_or(SettingsError::Escape)?;
        bytes.push(u8::try_from(high * 16 + low).map_err(|_| SettingsError::Escape)?);
    }
    String::from_utf8(bytes).map_err(|_| SettingsError::Escape)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, port: u16) -> Host {
        Host { name: name.to_owned(), port }
    }

    #[test]
    fn every_topology_is_written_in_one_line() {
        let one: RedisSettings = "redis://user:p%40ss%3a@db.example:7000/3".parse().expect("fine");
        assert_eq!(one.topology, Topology::Standalone(host("db.example", 7000)));
        assert_eq!((one.username.as_deref(), one.password), (Some("user"), Some(Secret::new("p@ss:"))));
        assert_eq!((one.database, one.tls), (3, false));

        let secure: RedisSettings = "rediss://:only@[::1]".parse().expect("fine");
        assert_eq!(secure.topology, Topology::Standalone(host("::1", 6379)));
        assert_eq!((secure.username, secure.password, secure.tls), (None, Some(Secret::new("only")), true));

        let watched: RedisSettings = "redis-sentinel://a,b:1,c/mymaster/2".parse().expect("fine");
        let hosts = vec![host("a", 26379), host("b", 1), host("c", 26379)];
        assert_eq!(watched.topology, Topology::Sentinel { hosts, master: "mymaster".to_owned() });
        assert_eq!(watched.database, 2);

        let cluster: RedisSettings = "rediss-cluster://u:p@a,b:7/0".parse().expect("fine");
        assert_eq!(cluster.topology, Topology::Cluster(vec![host("a", 6379), host("b", 7)]));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_reason() {
        let refused = |text: &str| text.parse::<RedisSettings>().expect_err(text);
        for text in ["", "h", "http://h", "redis-x://h", "redisx://h"] {
            assert_eq!(refused(text), SettingsError::Scheme, "{text}");
        }
        assert_eq!(refused("redis-cluster://a,b/1"), SettingsError::ClusterDatabase);
        assert_eq!(refused("redis-sentinel://a,b"), SettingsError::Master);
        assert_eq!(refused("redis://h/x"), SettingsError::Database);
        assert_eq!(refused("redis://h:0"), SettingsError::Host(1));
        assert_eq!(refused("redis-cluster://a,,b"), SettingsError::Host(2));
        assert_eq!(refused("redis://u:%4@h"), SettingsError::Escape);
        assert_eq!(refused("redis://h?x=1"), SettingsError::Query);
        assert!(matches!(refused("redis://a,b"), SettingsError::Hosts { found: 2, .. }));
        assert!(matches!(refused("redis://"), SettingsError::Hosts { found: 0, .. }));
    }

    #[test]
    fn passwords_stay_out_of_debug_output_and_errors() {
        let settings: RedisSettings = "redis://user:sesame@h".parse().expect("fine");
        assert!(!format!("{settings:?}").contains("sesame"));
        for text in ["redis://user:sesame@h:x", "redis://user:sesame%@h", "bad://user:sesame@h"] {
            let error = text.parse::<RedisSettings>().expect_err(text);
            assert!(!format!("{error} {error:?}").contains("sesame"), "{error}");
        }
    }
}
