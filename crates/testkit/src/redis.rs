//! Real Redis servers, started by a test on loopback addresses of its own and gone with it: alone, with TLS, behind Sentinels,
//! as a Cluster; and a way to one on which answers take long.
//!
//! Unlike the rest of this crate, this starts processes and sleeps between two looks at them.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long servers may take to be ready, to elect, to replicate, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// An address that no other test process uses.
fn address() -> Ipv4Addr {
    let [high, low, ..] = (std::process::id() as u16).to_be_bytes();
    Ipv4Addr::new(127, 1 + high % 250, low, 1)
}

/// A port that is free, and that no other server of this process was given.
fn free_port() -> u16 {
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    loop {
        let listener = TcpListener::bind((address(), 0)).expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        if GIVEN.swap(port, Ordering::Relaxed) != port {
            return port;
        }
    }
}

/// One server process, in a folder of its own. Ends with the thread that started it, whatever happens to that.
#[derive(Debug)]
pub struct Server {
    folder: TempDir,
    options: Vec<String>,
    sentinel: bool,
    /// Where it listens.
    pub port: u16,
    child: Option<Child>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Server {
    /// Starts one with these options.
    pub fn start(options: &[&str]) -> Self {
        Self::begin(options.iter().map(ToString::to_string).collect(), false)
    }

    fn begin(options: Vec<String>, sentinel: bool) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut server = Self { folder, options, sentinel, port: free_port(), child: None };
        server.run();
        server
    }

    /// Starts it, or starts it again, and waits until it says that it is ready.
    pub fn run(&mut self) {
        let (address, port) = (address().to_string(), self.port.to_string());
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "redis-server"]);
        if self.sentinel {
            let file = self.folder.path().join("sentinel.conf");
            if !file.exists() {
                let text = self.options.join("\n");
                std::fs::write(
                    &file,
                    format!(
                        "port {port}\nbind {address}\nbind-source-addr {address}\nprotected-mode no\n{text}\n"
                    ),
                )
                .expect("written");
            }
            command.arg(file).arg("--sentinel");
        } else {
            // TLS servers serve nothing else.
            let tls = self.options.iter().any(|option| option == "--tls-cert-file");
            let (plain, secure) = if tls { ("0", &*port) } else { (&*port, "0") };
            command.args(["--port", plain, "--tls-port", secure, "--bind", &address]);
            // Others take it to be where it calls from; protected mode knows one loopback address only.
            command.args(["--bind-source-addr", &address, "--protected-mode", "no"]);
            command.args(["--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"]);
            command.args(&self.options);
        }
        let mut child = command
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("setpriv and redis-server: apt-get install redis-server");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let ready = lines
            .by_ref()
            .map_while(Result::ok)
            .any(|line| line.contains("Ready to accept connections") || line.contains("Sentinel ID is"));
        assert!(ready, "redis-server ended at once, with {:?}", self.options);
        // What it says later must go somewhere, or it would stop at a full pipe.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        self.child = Some(child);
    }

    /// Kills it, as a crash does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.as_ref().expect("it runs").id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().expect("kill").success());
    }

    /// Stops it without a word; [`Self::resume`] wakes it.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Ends a [`Self::freeze`].
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    /// Its address and port.
    pub fn host(&self) -> String {
        format!("{}:{}", address(), self.port)
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("redis://{}", self.host())
    }

    /// What redis-cli prints; for servers without TLS.
    pub fn cli(&self, arguments: &[&str]) -> String {
        cli(self.port, arguments)
    }
}

fn cli(port: u16, arguments: &[&str]) -> String {
    let output = Command::new("redis-cli")
        .args(["-h", &address().to_string(), "-p", &port.to_string()])
        .args(arguments)
        .output()
        .expect("redis-cli: apt-get install redis-tools");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Looks again and again until it holds.
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what} does not happen");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What the store's user must be allowed; docs/store.md has the same line.
pub const ACL: &str = "resetkeys ~room:* ~{room:* ~server:* ~servers ~registered resetchannels &tureen:events \
     -@all +@connection +eval +evalsha +info +time +hget +hmget +hgetall +hset +hdel +del +persist +pexpire \
     +sadd +srem +smembers +scan +publish +subscribe +role +cluster|slots";

/// A server with TLS and a user who may do what is needed and no more, and its certificate.
#[derive(Debug)]
pub struct Guarded {
    /// The server.
    pub server: Server,
    _folder: TempDir,
    ca: Vec<u8>,
}

impl Guarded {
    /// Starts it, and waits until it is ready.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let [authority, certificate, key] = certificates(folder.path());
        let users = folder.path().join("users.acl");
        let text = format!("user default off\nuser tureen on >open:s@same {ACL}\n");
        std::fs::write(&users, text).expect("written");
        let mut options = vec!["--tls-cert-file", &certificate, "--tls-key-file", &key];
        options.extend(["--tls-ca-cert-file", &authority, "--tls-auth-clients", "no"]);
        options.extend(["--aclfile", users.to_str().expect("text")]);
        let server = Server::start(&options);
        let ca = std::fs::read(&authority).expect("the certificate");
        Self { server, _folder: folder, ca }
    }

    /// Where it is, for the user `tureen`; the right password is `open%3as%40same`.
    pub fn url(&self, password: &str) -> String {
        format!("rediss://tureen:{password}@{}/0", self.server.host())
    }

    /// The authority that vouches for it, in PEM.
    pub fn ca(&self) -> &[u8] {
        &self.ca
    }
}

/// Makes an authority and a certificate that it vouches for; returns the files: authority, certificate, key.
fn certificates(folder: &Path) -> [String; 3] {
    let file = |name: &str| folder.join(name).to_str().expect("text").to_owned();
    let make = |subject: &str, certificate: &str, key: &str, more: &[&str]| {
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
            .args(["-days", "2", "-subj", subject, "-keyout", key, "-out", certificate])
            .args(more)
            .stderr(Stdio::null())
            .status();
        assert!(made.expect("openssl: apt-get install openssl").success());
    };
    let (authority, authority_key) = (file("authority.pem"), file("authority-key.pem"));
    let (certificate, key) = (file("certificate.pem"), file("key.pem"));
    make("/CN=Test authority", &authority, &authority_key, &[]);
    let name = format!("subjectAltName=IP:{}", address());
    let mut more = vec!["-CA", &*authority, "-CAkey", &authority_key, "-addext", &name];
    more.extend(["-addext", "basicConstraints=critical,CA:FALSE"]);
    make("/CN=redis", &certificate, &key, &more);
    [authority, certificate, key]
}

/// A master, a replica, three Sentinels.
#[derive(Debug)]
pub struct Watched {
    /// The master, the replica.
    pub servers: Vec<Server>,
    sentinels: Vec<Server>,
}

impl Watched {
    /// Starts it, and waits until it is ready.
    pub fn start() -> Self {
        let master = Server::start(&[]);
        let (host, port) = (address().to_string(), master.port.to_string());
        let replica = Server::start(&["--replicaof", &host, &port]);
        wait_until("replication", || replica.cli(&["info", "replication"]).contains("master_link_status:up"));
        let options = [
            format!("sentinel monitor mymaster {host} {port} 2"),
            "sentinel down-after-milliseconds mymaster 1000".to_owned(),
            "sentinel failover-timeout mymaster 5000".to_owned(),
        ];
        let sentinels: Vec<_> = (0..3).map(|_| Server::begin(options.to_vec(), true)).collect();
        for sentinel in &sentinels {
            wait_until("the Sentinels' acquaintance", || {
                let known = sentinel.cli(&["sentinel", "master", "mymaster"]);
                let field =
                    |name: &str| known.lines().skip_while(|line| *line != name).nth(1).map(str::to_owned);
                field("num-other-sentinels").as_deref() == Some("2")
                    && field("num-slaves").as_deref() == Some("1")
            });
        }
        Self { servers: vec![master, replica], sentinels }
    }

    /// Where its Sentinels are.
    pub fn url(&self) -> String {
        let hosts: Vec<String> = self.sentinels.iter().map(Server::host).collect();
        format!("redis-sentinel://{}/mymaster", hosts.join(","))
    }
}

/// Three masters with a replica each.
#[derive(Debug)]
pub struct Clustered {
    /// All six.
    pub servers: Vec<Server>,
}

impl Clustered {
    /// Starts it, and waits until it is ready.
    pub fn start() -> Self {
        // redis-cli must be told where they talk to each other, and so must they.
        let (servers, hosts): (Vec<Server>, Vec<String>) = (0..6)
            .map(|_| {
                let bus = free_port().to_string();
                let server = Server::start(&[
                    "--cluster-enabled",
                    "yes",
                    "--cluster-config-file",
                    "nodes.conf",
                    "--cluster-node-timeout",
                    "1000",
                    "--cluster-port",
                    &bus,
                ]);
                let host = format!("{}@{bus}", server.host());
                (server, host)
            })
            .unzip();
        let mut create = vec!["--cluster", "create"];
        create.extend(hosts.iter().map(String::as_str));
        create.extend(["--cluster-replicas", "1", "--cluster-yes"]);
        let said = servers[0].cli(&create);
        for (index, server) in servers.iter().enumerate() {
            // redis-cli makes masters of the first three.
            let role = if index < 3 { "connected_slaves:1" } else { "master_link_status:up" };
            wait_until(&format!("the Cluster's beginning ({said})"), || {
                let ready = server.cli(&["cluster", "info"]).contains("cluster_state:ok");
                ready && server.cli(&["info", "replication"]).contains(role)
            });
        }
        Self { servers }
    }

    /// Where it is.
    pub fn url(&self) -> String {
        // One that does not answer must not matter.
        let hosts: Vec<String> = self.servers.iter().take(3).map(Server::host).collect();
        format!("redis-cluster://{}", hosts.join(","))
    }

    /// The server that has a key.
    pub fn master_of(&mut self, key: &str) -> &mut Server {
        let slot: u16 = self.servers[0].cli(&["cluster", "keyslot", key]).parse().expect("a slot");
        let nodes = self.servers[0].cli(&["cluster", "nodes"]);
        let owner = nodes.lines().find(|line| {
            line.contains("master")
                && line.split(' ').skip(8).any(|range| {
                    let (first, last) = range.split_once('-').unwrap_or((range, range));
                    let bound = |text: &str| text.parse::<u16>().ok();
                    bound(first).zip(bound(last)).is_some_and(|(first, last)| (first..=last).contains(&slot))
                })
        });
        let owner = owner.expect("every slot has an owner").split(' ').nth(1).expect("an address").to_owned();
        self.servers
            .iter_mut()
            .find(|server| owner.starts_with(&format!("{}@", server.host())))
            .expect("ours")
    }
}
