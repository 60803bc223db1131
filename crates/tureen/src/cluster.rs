//! Joining a cluster and leaving it: store, links, membership and the node's task, begun in the order in which they need
//! each other and ended in the reverse.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use cluster::node::{Capacity, Counts, Incarnation, Load, Node as Identity, NodeId, Roles};
use cluster::timing::Timing;
use links::{LinkSettings, Security, TlsFiles};
use node::{Media, Node, NodeSettings, Remaining, Standing};
use room::RoomId;
use store::membership::Membership;
use store::{Host, Store};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tracing::info;

use crate::cert;
use crate::config::ClusterSettings;
use crate::load::LoadMeter;
use crate::media_node::MediaNode;

/// A router's transports, by the brief.
const TRANSPORTS_A_WORKER: u32 = 500;
/// A router's producers and consumers, by the brief.
const STREAMS_A_WORKER: u32 = 2_000;

/// How often it is looked at what a node that drains has left.
const DRAIN_LOOK: Duration = Duration::from_millis(50);
/// How long questions of other nodes that are under way may take when this one ends.
const LINKS_DEADLINE: Duration = Duration::from_secs(1);

/// This process as a node of a cluster.
pub(crate) struct Joined {
    node: Node,
    membership: Membership,
    server: links::Server,
}

impl Joined {
    /// Finds the store and the others, and lets itself be found. `listen`: where clients are served, if they are.
    pub(crate) async fn join(
        settings: ClusterSettings,
        roles: Roles,
        listen: SocketAddr,
        media_ip: IpAddr,
        media: Option<MediaNode>,
        rooms_ended: Option<mpsc::UnboundedReceiver<RoomId>>,
        meter: LoadMeter,
    ) -> Result<Self> {
        let security = match &settings.link_tls_dir {
            Some(folder) => Security::tls(files(folder, &settings.id)).with_context(|| {
                format!(
                    "link_tls_dir: tureen cert node {} --ca AUTHORITY --out {}",
                    settings.id,
                    folder.display()
                )
            })?,
            None => Security::plaintext(),
        };
        let servers = settings.redis.topology.hosts().to_vec();
        let store =
            Store::redis(settings.redis).await.with_context(|| format!("redis at {}", list(&servers)))?;
        let listener = TcpListener::bind(settings.link_listen).await.with_context(|| {
            format!("cannot listen for links on {}: choose another with --link-listen", settings.link_listen)
        })?;
        let link = match settings.link_address {
            Some(address) => address,
            None => reached_at(listener.local_addr().context("the link's address")?, &servers).await?,
        };
        let clients = match roles.signal {
            true => Some(reached_at(listen, &servers).await?),
            false => None,
        };
        info!(%link, "other nodes are told to reach this one there");
        let identity = Identity {
            id: settings.id,
            incarnation: incarnation(),
            roles,
            region: settings.region,
            link,
            capacity: capacity(media.as_ref()),
            clients,
            draining: false,
            full: false,
            protocol: links::PROTOCOL,
        };
        let timing = Timing::default();
        let load = {
            let media = media.clone();
            move || measure(&meter, media.as_ref())
        };
        let membership = Membership::start(store.clone(), identity.clone(), timing, load);
        let node_settings = NodeSettings {
            identity,
            cluster: settings.cluster,
            timing,
            room_type: "open".to_owned(),
            media_ip,
        };
        let me = node_settings.me();
        let node = Node::start(
            node_settings,
            store,
            security.clone(),
            media.zip(rooms_ended).map(|(media, ended)| Media {
                host: media.host,
                sites: media.sites,
                ended,
            }),
            membership.view(),
        );
        tokio::spawn(show(node.standing(), membership.updates()));
        let server =
            links::Server::start(listener, me, security, LinkSettings::default(), Arc::new(node.clone()))
                .context("cannot serve links")?;
        Ok(Self { node, membership, server })
    }

    /// The rooms of the whole cluster.
    pub(crate) fn node(&self) -> Node {
        self.node.clone()
    }

    /// Waits until another process has this node's name, or an operator has said goodbye for it: this one must end.
    pub(crate) async fn replaced(&self) {
        let mut view = self.membership.view();
        if view.wait_for(|view| view.replaced.is_some()).await.is_err() {
            std::future::pending().await
        }
    }

    /// Hands its rooms to other nodes, and waits until nothing of them is left here, nobody can take them, or `within` is over.
    pub(crate) async fn drain(&self, within: Duration) {
        let until = Instant::now() + within;
        self.node.drain(until).await;
        while Instant::now() < until {
            let Remaining { owned, running_out, edges, can_move } = self.node.remaining().await;
            let is_stuck = owned > 0 && !can_move;
            if running_out == 0 && edges == 0 && (owned == 0 || is_stuck) {
                return;
            }
            tokio::time::sleep(DRAIN_LOOK).await;
        }
    }

    /// Says goodbye. Rooms must have ended before.
    pub(crate) async fn leave(self) {
        self.membership.stop().await;
        self.server.stop(LINKS_DEADLINE).await;
    }
}

/// Lets the others see whether this node takes rooms. Ends with the node.
async fn show(
    mut standing: watch::Receiver<Standing>,
    update: impl Fn(&dyn Fn(&mut Identity)) + Send + 'static,
) {
    while standing.changed().await.is_ok() {
        let Standing { draining, full } = *standing.borrow_and_update();
        update(&|me| (me.draining, me.full) = (draining, full));
    }
}

/// The files that `tureen cert node` makes for a node of this name.
fn files(folder: &Path, id: &NodeId) -> TlsFiles {
    TlsFiles {
        ca: folder.join(cert::CA),
        cert: folder.join(cert::certificate(id)),
        key: folder.join(cert::key(id)),
    }
}

fn list(servers: &[Host]) -> String {
    let names: Vec<String> = servers.iter().map(ToString::to_string).collect();
    names.join(", ")
}

/// Where others reach what is bound to `bound`. Of all this machine's addresses, the one that its packets to the store come
/// from: whoever shares the store is likely to reach it.
async fn reached_at(bound: SocketAddr, servers: &[Host]) -> Result<SocketAddr> {
    if !bound.ip().is_unspecified() {
        return Ok(bound);
    }
    let found = async {
        let server = servers.first().context("no host is named")?;
        let mut addresses = tokio::net::lookup_host((server.name.as_str(), server.port)).await?;
        let same_family = |address: &SocketAddr| bound.is_ipv6() || address.is_ipv4();
        let address = addresses.find(same_family).context("the store has no address of this family")?;
        // Sends nothing: it only asks the kernel for the route.
        let probe = UdpSocket::bind(match address {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        })?;
        probe.connect(address)?;
        Ok::<_, anyhow::Error>(probe.local_addr()?.ip())
    };
    let ip = found.await.with_context(|| {
        format!("cannot tell by which address others reach {bound}: listen on one address, or say so with --link-address")
    })?;
    Ok(SocketAddr::new(ip, bound.port()))
}

/// A life that is later than all before it, as far as the clock goes forward.
fn incarnation() -> Incarnation {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Incarnation(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn capacity(media: Option<&MediaNode>) -> Capacity {
    let workers = media.map_or(0, |media| u32::try_from(media.pool.size()).unwrap_or(u32::MAX));
    Capacity {
        weight: workers,
        transports: workers.saturating_mul(TRANSPORTS_A_WORKER),
        streams: workers.saturating_mul(STREAMS_A_WORKER),
    }
}

fn measure(meter: &LoadMeter, media: Option<&MediaNode>) -> (Load, Counts) {
    let Some(media) = media else { return (meter.measure(&[]), Counts::default()) };
    let workers = media.pool.status();
    let load = meter.measure(&workers);
    let totals = media.host.totals();
    let small = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let sum =
        |of: fn(&media::ObjectCounts) -> usize| small(workers.iter().map(|worker| of(&worker.objects)).sum());
    let counts = Counts {
        workers: small(workers.iter().filter(|worker| worker.state == media::WorkerState::Running).count()),
        routers: sum(|objects| objects.routers),
        transports: sum(|objects| objects.transports),
        producers: sum(|objects| objects.producers),
        consumers: sum(|objects| objects.consumers),
        rooms: small(totals.rooms),
        peers: small(totals.held.joined),
    };
    (load, counts)
}
