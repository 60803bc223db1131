//! A cluster whose nodes are on machines of their own: each in the namespace of a network's client, or at the hub between them
//! (the network's server), where Redis is. Whoever starts it, or calls a node, must be at the hub ([`Namespace::within`]).
//!
//! [`Namespace::within`]: crate::Namespace::within

use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{Cluster, Network, Redis, ServerOptions, binaries};

/// The address of a node on the machine of this number, which begin with 1; of none, at the hub.
#[must_use]
pub fn machine_address(machine: Option<u8>) -> Ipv4Addr {
    machine.map_or(Network::SERVER, |number| Network::client_address(number - 1))
}

impl Cluster {
    /// As [`Cluster::start_with`], each node where `machine_of` has it, with certificates for its links.
    pub fn start_on_machines(
        network: &Network,
        signal: usize,
        media: usize,
        machine_of: impl Fn(&str) -> Option<u8> + 'static,
        adjust: impl Fn(&str, ServerOptions) -> ServerOptions + 'static,
    ) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let certificates = folder.path().to_str().context("UTF-8")?.to_owned();
        certificate(&["ca", "--out", &certificates])?;
        let names = (1..=media).map(|n| format!("m{n}")).chain((1..=signal).map(|n| format!("s{n}")));
        for name in names {
            let san = machine_address(machine_of(&name)).to_string();
            certificate(&["node", &name, "--ca", &certificates, "--out", &certificates, "--san", &san])?;
        }
        let machines: Vec<String> =
            network.clients().iter().map(|machine| machine.name().to_owned()).collect();
        let placed = move |name: &str, node: ServerOptions| {
            let machine = machine_of(name);
            let ip = machine_address(machine);
            let node = match machine {
                Some(number) => node.in_namespace_named(&machines[usize::from(number) - 1]),
                None => node,
            };
            let node = node
                .set("--listen", format!("{ip}:0"))
                .set("--link-listen", format!("{ip}:0"))
                .set("--link-tls-dir", folder.path())
                .arg("--insecure-listen-anywhere")
                .arg("--insecure-no-tokens");
            adjust(name, node)
        };
        Self::start_on(Redis::start_at(Network::SERVER)?, signal, media, placed)
    }
}

fn certificate(arguments: &[&str]) -> Result<()> {
    let made = Command::new(binaries::tureen()?).arg("cert").args(arguments).output()?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Ok(())
}
