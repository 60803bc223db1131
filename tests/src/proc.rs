//! What the kernel tells of processes, from /proc.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

/// Whether a process runs; a zombie does not.
pub fn alive(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != 'Z' && state != 'X')
}

/// The running direct children of a process.
pub fn children(parent: u32) -> Result<BTreeSet<u32>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if stat(pid).is_some_and(|(state, of)| of == parent && state != 'Z' && state != 'X') {
            found.insert(pid);
        }
    }
    Ok(found)
}

/// Sends a signal by its name (`TERM`, `KILL`, …).
pub fn kill(pid: u32, signal: &str) -> Result<()> {
    let status =
        Command::new("kill").arg(format!("-{signal}")).arg(pid.to_string()).stderr(Stdio::null()).status()?;
    if !status.success() {
        bail!("process {pid} takes no signal {signal}");
    }
    Ok(())
}

/// Ends a process by SIGTERM, waits for it, and kills those of its children that it left.
pub fn end(process: &mut Child) {
    let left = children(process.id()).unwrap_or_default();
    // It may have ended by itself, and its children with it.
    let _ = kill(process.id(), "TERM");
    let _ = process.wait();
    for child in left.into_iter().filter(|child| alive(*child)) {
        let _ = kill(child, "KILL");
    }
}

/// How many file descriptors a process holds.
pub fn open_descriptors(pid: u32) -> Result<usize> {
    let folder = format!("/proc/{pid}/fd");
    Ok(fs::read_dir(&folder).with_context(|| format!("process {pid} is gone"))?.count())
}

/// The resident set of a process.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("process {pid} is gone"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS line")?;
    let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kibibytes * 1024)
}

/// A socket that takes what strangers send: a listening TCP one, or an unconnected UDP one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listening {
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// Where it is bound.
    pub address: SocketAddr,
}

/// All such sockets of a process.
pub fn listening(pid: u32) -> Result<BTreeSet<Listening>> {
    let own = socket_inodes(pid)?;
    let mut found = BTreeSet::new();
    for (protocol, table, waiting) in
        [("tcp", "tcp", "0A"), ("tcp", "tcp6", "0A"), ("udp", "udp", "07"), ("udp", "udp6", "07")]
    {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [_, local, _, state, ..] = fields.as_slice() else { continue };
            if *state == waiting && fields.get(9).is_some_and(|inode| own.contains_key(*inode)) {
                found.insert(Listening { protocol, address: kernel_address(local)? });
            }
        }
    }
    Ok(found)
}

/// State and parent of a process.
fn stat(pid: u32) -> Option<(char, u32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command, in brackets, may hold anything.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn socket_inodes(pid: u32) -> Result<BTreeMap<String, ()>> {
    let mut inodes = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).with_context(|| format!("process {pid} is gone"))? {
        let Ok(target) = fs::read_link(entry?.path()) else { continue };
        let target = target.to_string_lossy();
        if let Some(inode) = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')) {
            inodes.insert(inode.to_owned(), ());
        }
    }
    Ok(inodes)
}

/// `0100007F:1F90`: each group of four bytes in the machine's order, the port in hexadecimal.
fn kernel_address(text: &str) -> Result<SocketAddr> {
    let (address, port) = text.split_once(':').context("an address without a port")?;
    let words: Vec<u32> = (0..address.len() / 8)
        .map(|at| u32::from_str_radix(&address[at * 8..at * 8 + 8], 16))
        .collect::<Result<_, _>>()?;
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let ip: IpAddr = match bytes.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes.as_slice())?).into(),
        16 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes.as_slice())?).into(),
        _ => bail!("{text} is no address"),
    };
    Ok(SocketAddr::new(ip, u16::from_str_radix(port, 16)?))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn own_sockets_are_found_where_they_are_bound() {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let found = listening(std::process::id()).expect("this process runs");
        assert!(found.contains(&Listening { protocol: "tcp", address: tcp.local_addr().unwrap() }));
        assert!(found.contains(&Listening { protocol: "udp", address: udp.local_addr().unwrap() }));
    }

    #[test]
    fn a_killed_child_is_not_alive_even_before_it_is_reaped() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().expect("cat starts");
        assert!(children(std::process::id()).unwrap().contains(&child.id()));
        kill(child.id(), "KILL").unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while alive(child.id()) {
            assert!(std::time::Instant::now() < deadline);
            std::thread::yield_now();
        }
        child.wait().unwrap();
    }
}
