//! Network namespaces: hosts of a test's own on one machine, which nothing else can reach.
//!
//! Made with iproute2, so root is needed. Names carry the maker's process id: what a killed test left behind is
//! removed by the next one.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

use crate::{Link, proc};

const PREFIX: &str = "tureen-";

/// One namespace, with its loopback up; removed when dropped, together with its links.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one.
    pub fn new() -> Result<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        if number == 0 {
            remove_orphans()?;
        }
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        ip(&["netns", "add", &name])?;
        let namespace = Self { name };
        namespace.run("ip", &["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Its name, for `ip netns exec`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that runs inside.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Tells what runs inside other namespaces' names, as /etc/hosts does: for commands that start from now on.
    pub fn name_hosts<'a>(&self, hosts: impl IntoIterator<Item = (&'a str, Ipv4Addr)>) -> Result<()> {
        let lines: String = hosts.into_iter().map(|(name, address)| format!("{address} {name}\n")).collect();
        // iproute2 puts what it finds there over the files of the same names in /etc.
        let folder = own_etc(&self.name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        fs::write(folder.join("hosts"), format!("127.0.0.1 localhost\n{lines}"))?;
        Ok(())
    }

    /// Does some work in a thread that is inside, and whose own threads are, too.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = format!("/run/netns/{}", self.name);
        let namespace = File::open(&path).with_context(|| format!("no namespace at {path}"))?;
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                setns(namespace, CloneFlags::CLONE_NEWNET).context("cannot enter a namespace")?;
                work()
            });
            inside.join().ok().context("the thread in the namespace panicked")?
        })
    }

    /// Drops every UDP datagram that comes in or goes out, until [`Self::restore_udp`].
    pub fn drop_udp(&self) -> Result<()> {
        self.cut(&["meta l4proto udp"])
    }

    /// Drops what comes in or goes out and is one of these (in nft's words), with no word to anybody, until [`Self::restore`].
    pub fn cut(&self, what: &[&str]) -> Result<()> {
        self.run("nft", &["add table inet tureen_cut"])?;
        for hook in ["input", "output"] {
            self.run(
                "nft",
                &[&format!("add chain inet tureen_cut {hook} {{ type filter hook {hook} priority 0; }}")],
            )?;
            for what in what {
                self.run("nft", &[&format!("add rule inet tureen_cut {hook} {what} counter drop")])?;
            }
        }
        Ok(())
    }

    /// Lets UDP flow again.
    pub fn restore_udp(&self) -> Result<()> {
        self.restore()
    }

    /// Lets everything flow again.
    pub fn restore(&self) -> Result<()> {
        self.run("nft", &["delete table inet tureen_cut"])
    }

    /// A UDP socket of this process inside.
    pub fn udp_socket(&self, address: SocketAddrV4) -> Result<UdpSocket> {
        self.within(|| Ok(UdpSocket::bind(address)?))
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<()> {
        succeed(self.command(program).args(arguments))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = ip(&["netns", "delete", &self.name]) {
            eprintln!("{} stays behind: {error:#}", self.name);
        }
        let _ = fs::remove_dir_all(own_etc(&self.name));
    }
}

/// A server's namespace with one for each client beside it. A client reaches the server and, routed by it, the others.
#[derive(Debug)]
pub struct Network {
    /// Taken down before the namespaces that they join.
    links: Vec<Link>,
    clients: Vec<Namespace>,
    server: Namespace,
}

impl Network {
    /// The server's address, which all clients reach.
    pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 231, 0, 1);

    /// Makes one with this many clients.
    pub fn new(clients: u8) -> Result<Self> {
        let mut network = Self::empty()?;
        for number in 1..=clients {
            network.attach(number)?;
        }
        Ok(network)
    }

    /// The same, but each client reaches the server by a link whose profile can be set.
    pub fn with_links(clients: u8, seed: u64) -> Result<Self> {
        let mut network = Self::empty()?;
        for number in 1..=clients {
            network.attach_by_link(number, seed.wrapping_add(number.into()))?;
        }
        Ok(network)
    }

    fn empty() -> Result<Self> {
        let server = Namespace::new()?;
        server.run("ip", &["address", "add", &format!("{}/32", Self::SERVER), "dev", "lo"])?;
        server.run("sh", &["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])?;
        Ok(Self { links: Vec::new(), clients: Vec::new(), server })
    }

    /// The namespace for the server.
    pub fn server(&self) -> &Namespace {
        &self.server
    }

    /// The address of a client, counted from 0.
    #[must_use]
    pub fn client_address(client: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 231, client + 1, 2)
    }

    /// The namespaces for the clients.
    pub fn clients(&self) -> &[Namespace] {
        &self.clients
    }

    /// The clients' links, in the clients' order, where they have such.
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    fn attach(&mut self, number: u8) -> Result<()> {
        let client = Namespace::new()?;
        let far = format!("to{number}");
        ip(&[
            "link",
            "add",
            "up0",
            "netns",
            client.name(),
            "type",
            "veth",
            "peer",
            "name",
            &far,
            "netns",
            self.server.name(),
        ])?;
        self.server.run("ip", &["link", "set", &far, "up"])?;
        client.run("ip", &["link", "set", "up0", "up"])?;
        self.number(client, number, &far)
    }

    fn attach_by_link(&mut self, number: u8, seed: u64) -> Result<()> {
        let client = Namespace::new()?;
        let far = format!("to{number}");
        self.links.push(Link::new([(client.name(), "up0"), (self.server.name(), &far)], seed)?);
        self.number(client, number, &far)
    }

    /// Gives the devices at both ends of a client's link their addresses and routes.
    fn number(&mut self, client: Namespace, number: u8, far: &str) -> Result<()> {
        let (own, gateway) = (format!("10.231.{number}.2"), format!("10.231.{number}.1"));
        self.server.run("ip", &["address", "add", &format!("{gateway}/24"), "dev", far])?;
        client.run("ip", &["address", "add", &format!("{own}/24"), "dev", "up0"])?;
        client.run("ip", &["route", "add", "default", "via", &gateway])?;
        self.clients.push(client);
        Ok(())
    }
}

/// Files for /etc of what runs in a namespace.
fn own_etc(name: &str) -> PathBuf {
    Path::new("/etc/netns").join(name)
}

/// Removes namespaces whose maker no longer runs.
fn remove_orphans() -> Result<()> {
    let output = Command::new("ip")
        .args(["netns", "list"])
        .output()
        .context("cannot start ip: apt-get install iproute2")?;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        let maker = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next())
            .and_then(|pid| pid.parse().ok());
        if maker.is_some_and(|pid| !proc::alive(pid)) {
            ip(&["netns", "delete", name])?;
            let _ = fs::remove_dir_all(own_etc(name));
        }
    }
    Ok(())
}

/// Runs iproute2's `ip`.
pub(crate) fn ip(arguments: &[&str]) -> Result<()> {
    succeed(Command::new("ip").args(arguments))
}

fn succeed(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .context("cannot start ip: namespaces need the packages iproute2 and nftables")?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} failed (namespaces need root): {}", why.trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_reach_the_server_and_one_another_and_a_cut_stops_udp() {
        let network = Network::new(2).expect("a network");
        // A program in a namespace sends; what arrived is counted by the kernel of the receiving namespace.
        let received = |namespace: &Namespace| -> u64 {
            let output = namespace.command("cat").arg("/proc/net/snmp").output().expect("cat runs");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let line = text.lines().filter(|line| line.starts_with("Udp:")).nth(1).expect("two lines on UDP");
            // "NoPorts": nobody listens, but it arrived.
            line.split_whitespace().nth(2).expect("a second figure").parse().expect("a number")
        };
        let send = |from: &Namespace, to: &str| {
            let script = format!("echo x > /dev/udp/{to}/9");
            from.command("bash").args(["-c", &script]).stderr(Stdio::null()).status().expect("bash runs");
        };
        let [first, second] = network.clients() else { panic!("two clients were asked for") };
        send(first, &Network::SERVER.to_string());
        assert_eq!(received(network.server()), 1);
        send(first, "10.231.2.2");
        assert_eq!(received(second), 1);
        first.drop_udp().expect("a cut");
        send(first, "10.231.2.2");
        first.restore_udp().expect("the cut ends");
        send(first, "10.231.2.2");
        assert_eq!(received(second), 2);
    }
}
