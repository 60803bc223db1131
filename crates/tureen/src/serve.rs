//! `tureen serve`: starts workers, rooms and the HTTP port, in this order of dependence, and ends them in the reverse.

use std::io::IsTerminal;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;

use ::cluster::node::NodeId;
use anyhow::{Context, Result, bail, ensure};
use axum_server::accept::NoDelayAcceptor;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use host::PlainListen;
use hyper_util::rt::TokioTimer;
use node::Rooms;
use room::{Place, Region};
use signaling::{Gateway, GatewayLimits};
use token::Verifier;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use crate::accept::Door;
use crate::cluster::Joined;
use crate::config::{Checked, ClusterSettings};
use crate::endpoints::{Served, endpoints};
use crate::load::LoadMeter;
use crate::media_node::{MediaNode, ROOMS_DEADLINE};
use crate::metrics::Metrics;

/// How long a client may take to send the head of an HTTP request.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// A connection on which nothing moves for this long ends, unless sessions are allowed a longer silence.
const IDLE_DEADLINE: Duration = Duration::from_secs(20);
/// Connections beside those of sessions: for the page, health, metrics and handshakes.
const OTHER_CONNECTIONS: usize = 1024;
/// How long open connections may take to end after that.
const CONNECTIONS_DEADLINE: Duration = Duration::from_secs(2);

/// Runs until SIGTERM or SIGINT.
pub(crate) async fn serve(checked: Checked) -> Result<()> {
    let mut pool_settings = checked.pool();
    let broadcasters = checked.config.broadcasters();
    // Where the first media address is; without broadcasters, workers open no such ports.
    let plain_listen = checked
        .media_addresses
        .first()
        .filter(|_| broadcasters > 0)
        .map(|address| PlainListen { ip: address.ip, announced: address.announced_address.clone() });
    // What people read in the store; where a name is announced, the address behind it here.
    let media_ip = checked.media_addresses.first().map(|address| {
        address.announced_address.as_deref().and_then(|name| name.parse().ok()).unwrap_or(address.ip)
    });
    let Checked { config, tls, tokens, log, roles, cluster, pipe_address, .. } = checked;
    let node = cluster.as_ref().map(|settings| settings.id.clone());
    let drain_within = Duration::from_millis(config.drain_on_stop_ms);
    tracing_subscriber::fmt()
        .with_env_filter(log)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .init();
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;

    // The port first: that it is taken shall be said before any process is started.
    let listener = TcpListener::bind(config.listen).with_context(|| {
        format!("cannot listen on {}: choose another address with --listen", config.listen)
    })?;
    listener.set_nonblocking(true).context("cannot set up the listening socket")?;
    let address = listener.local_addr().context("cannot tell the listening address")?;

    let metrics = Metrics::install()?;
    pool_settings.worker.environment.push(metrics.worker_environment());
    let (media, rooms_ended) = match roles.media {
        true => {
            let (media, ended) =
                MediaNode::start(pool_settings, &config, plain_listen, pipe_address, place(cluster.as_ref()))
                    .await?;
            (Some(media), Some(ended))
        }
        false => (None, None),
    };
    let joined = match cluster {
        Some(settings) => {
            let meter = LoadMeter::start(config.limits.node, metrics.workers());
            Some(
                Joined::join(
                    settings,
                    roles,
                    address,
                    media_ip.unwrap_or(address.ip()),
                    media.clone(),
                    rooms_ended,
                    meter,
                )
                .await?,
            )
        }
        None => None,
    };
    let rooms = match (&joined, &media) {
        (Some(joined), _) => Rooms::Cluster(joined.node()),
        (None, Some(media)) => Rooms::Alone(media.host.clone()),
        (None, None) => bail!("a process without media needs a cluster"),
    };
    let silence = Duration::from_millis(config.limits.session.silence_ms);
    let idle = IDLE_DEADLINE.max(silence.saturating_add(Duration::from_secs(5)));
    let connections = config.limits.sessions.saturating_add(OTHER_CONNECTIONS);
    let door = Door::new(NoDelayAcceptor::new(), connections, idle);
    let gateway = roles
        .signal
        .then(|| gateway(rooms, config.limits.session, tokens, address).with_broadcasters(broadcasters));
    let served = Served { gateway, media: media.clone(), metrics };
    let app = endpoints(served).into_make_service_with_connect_info::<SocketAddr>();

    let handle = axum_server::Handle::new();
    let secure = tls.is_some();
    let plain = axum_server::from_tcp(listener).context("cannot serve")?.handle(handle.clone());
    let server = tokio::spawn(async move {
        match tls {
            Some(tls) => {
                let acceptor = RustlsAcceptor::new(RustlsConfig::from_config(tls));
                let mut server = plain.acceptor(acceptor.acceptor(door));
                server.http_builder().http1().timer(TokioTimer::new()).header_read_timeout(HEAD_DEADLINE);
                server.serve(app).await
            }
            None => {
                let mut server = plain.acceptor(door);
                server.http_builder().http1().timer(TokioTimer::new()).header_read_timeout(HEAD_DEADLINE);
                server.serve(app).await
            }
        }
    });
    greet(address, secure, roles.signal, node.as_ref());

    let mut failed = false;
    tokio::select! {
        _ = terminate.recv() => info!("SIGTERM: ending"),
        _ = interrupt.recv() => info!("SIGINT: ending"),
        () = replaced(joined.as_ref()) => {
            error!("another process has registered under this node's name, or said goodbye for it: ending");
            failed = true;
        }
        ended = server => {
            ended.context("the HTTP server panicked")?.context("the HTTP server ended")?;
        }
    }
    let stop = async {
        handle.graceful_shutdown(Some(ROOMS_DEADLINE + CONNECTIONS_DEADLINE));
        if let Some(joined) = &joined {
            joined.drain(drain_within).await;
        }
        if let Some(media) = &media {
            media.end_rooms().await;
        }
        if let Some(joined) = joined {
            joined.leave().await;
        }
        if let Some(media) = &media {
            media.end_workers().await;
        }
        let connections = async {
            while handle.connection_count() > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(CONNECTIONS_DEADLINE, connections).await.is_err() {
            info!("some clients did not close their connections in time");
        }
    };
    tokio::select! {
        () = stop => {}
        // Whoever asks twice means it.
        _ = terminate.recv() => warn!("second SIGTERM: ending at once"),
        _ = interrupt.recv() => warn!("second SIGINT: ending at once"),
    }
    ensure!(!failed, "this node's name is another's: give each its own with --node-id");
    Ok(())
}

/// Waits until this process must not be the node that it was; for ever when it is none.
async fn replaced(joined: Option<&Joined>) {
    match joined {
        Some(joined) => joined.replaced().await,
        None => std::future::pending().await,
    }
}

/// Where clients come in, and whether they need tokens.
fn gateway(rooms: Rooms, limits: GatewayLimits, tokens: Option<Verifier>, address: SocketAddr) -> Gateway {
    let gateway = Gateway::new(rooms, limits);
    match tokens {
        Some(tokens) => gateway.requiring(tokens),
        None => {
            if !address.ip().is_loopback() {
                warn!(
                    "whoever reaches {address} can join any room: there are no tokens (insecure_no_tokens)"
                );
            }
            gateway
        }
    }
}

/// The one line that a person waits for.
fn greet(address: SocketAddr, secure: bool, signal: bool, node: Option<&NodeId>) {
    let scheme = if secure { "https" } else { "http" };
    // An address and not `localhost`, which may mean ::1 first. Browsers trust both with a camera.
    let here: IpAddr = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    let name = SocketAddr::new(here, address.port());
    match node {
        Some(node) if !signal => {
            // Nobody but those who watch over it comes here.
            eprintln!(
                "Tureen is ready: media node {node}; clients come in by the cluster's signal nodes. Figures: \
                 {scheme}://{name}/metrics"
            );
            return;
        }
        Some(node) => eprintln!("Tureen is ready: node {node}, open {scheme}://{name}/ in two browsers"),
        None => eprintln!("Tureen is ready: open {scheme}://{name}/ in two browsers"),
    }
    match (secure, address.ip().is_loopback()) {
        (false, true) => eprintln!(
            "It is bound to loopback: only this machine reaches it. For others: --listen 0.0.0.0:443 with --tls-cert, \
             --tls-key and --auth-secret-file. (Firefox pairs with no loopback address: give it --media-address with this machine's own.)"
        ),
        (false, false) => eprintln!(
            "Warning: plain HTTP on {address}: anyone in between can listen in, and browsers give no camera. Use \
             --tls-cert and --tls-key"
        ),
        (true, _) => {}
    }
}

/// Where this process' media is, as its rooms' other sites know it.
fn place(cluster: Option<&ClusterSettings>) -> Place {
    cluster.map_or_else(Place::default, |settings| Place {
        node: settings.id.to_string(),
        region: Some(Region::new(settings.region.as_str())),
    })
}
