//! One synthetic transport as a tokio task: a UDP socket, an [`Endpoint`], and the streams it sends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::endpoint::{Endpoint, Identity};
use crate::reception::Reception;
use crate::router::RemoteTransport;
use crate::source::Source;

/// The longest datagram that anybody sends here.
const MAX_DATAGRAM: usize = 2_048;

/// A handle on the task. Dropping it drops the socket without a word to the server.
#[derive(Debug)]
pub struct Link {
    transport_id: String,
    remote: SocketAddr,
    connected: watch::Receiver<bool>,
    sources: mpsc::Sender<(Source, Instant)>,
    key_frame_requests: Arc<AtomicU64>,
    task: JoinHandle<Result<()>>,
}

impl Link {
    /// Binds a socket next to `remote` and starts ICE; DTLS follows by itself.
    ///
    /// # Errors
    /// Where no socket can be bound.
    pub async fn open(
        identity: &Arc<Identity>,
        remote: &RemoteTransport,
        reception: Arc<Reception>,
    ) -> Result<Self> {
        let local = match remote.address.ip() {
            ip if ip.is_loopback() => ip,
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((local, 0)).await.with_context(|| format!("cannot bind {local}"))?;
        let endpoint = Endpoint::new(identity, remote, Instant::now())?;
        let (connected_sender, connected) = watch::channel(false);
        let (sources, source_queue) = mpsc::channel(4);
        let key_frame_requests = Arc::new(AtomicU64::new(0));
        let driver = Driver {
            key_frame_requests: Arc::clone(&key_frame_requests),
            socket,
            endpoint,
            reception,
            connected: connected_sender,
        };
        let task = tokio::spawn(driver.run(source_queue));
        let (transport_id, remote) = (remote.id.clone(), remote.address);
        Ok(Self { transport_id, remote, connected, sources, key_frame_requests, task })
    }

    /// The server's id of this transport.
    pub fn transport_id(&self) -> &str {
        &self.transport_id
    }

    /// The server's end.
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// Waits for ICE and DTLS.
    ///
    /// # Errors
    /// Where they take longer than `patience`, or failed.
    pub async fn wait_connected(&self, patience: Duration) -> Result<()> {
        let mut connected = self.connected.clone();
        match tokio::time::timeout(patience, connected.wait_for(|&c| c)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => bail!("transport {} failed", self.transport_id),
            Err(_) => bail!("transport {} not connected after {patience:?}", self.transport_id),
        }
    }

    /// How often the server asked for a key frame so far.
    pub fn key_frame_requests(&self) -> u64 {
        self.key_frame_requests.load(Ordering::Relaxed)
    }

    /// Sends a stream, whose frames are due from `begun` on.
    ///
    /// # Errors
    /// Where the transport has failed.
    pub async fn add_source(&self, source: Source, begun: Instant) -> Result<()> {
        self.sources
            .send((source, begun))
            .await
            .ok()
            .with_context(|| format!("transport {} failed", self.transport_id))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Driver {
    socket: UdpSocket,
    endpoint: Endpoint,
    reception: Arc<Reception>,
    key_frame_requests: Arc<AtomicU64>,
    connected: watch::Sender<bool>,
}

impl Driver {
    async fn run(mut self, mut queue: mpsc::Receiver<(Source, Instant)>) -> Result<()> {
        let mut sources: Vec<(Source, Instant)> = Vec::new();
        let mut buffer = vec![0; MAX_DATAGRAM];
        loop {
            self.flush().await?;
            let wake = sources
                .iter()
                .map(|(source, start)| *start + source.due())
                .chain([self.endpoint.next_timeout()])
                .min();
            let wake = wake.unwrap_or_else(Instant::now);
            tokio::select! {
                received = self.socket.recv_from(&mut buffer) => {
                    // A refused send of before shows here; the server may be between two lives.
                    if let Ok((length, _)) = received {
                        self.receive(&mut buffer[..length]);
                    }
                }
                () = tokio::time::sleep_until(wake.into()) => self.wake(&mut sources).await?,
                source = queue.recv() => match source {
                    Some(source) => sources.push(source),
                    None => return Ok(()),
                },
            }
        }
    }

    fn receive(&mut self, datagram: &mut [u8]) {
        let reception = &self.reception;
        let mut heard = false;
        self.endpoint.handle_datagram(Instant::now(), datagram, |rtp| {
            reception.received(rtp.ssrc, rtp.payload);
            heard = true;
        });
        if heard {
            self.reception.progressed();
        }
        self.key_frame_requests.store(self.endpoint.key_frame_request_count(), Ordering::Relaxed);
        let connected = self.endpoint.profile().is_some();
        self.connected.send_if_modified(|was| std::mem::replace(was, connected) != connected);
    }

    async fn wake(&mut self, sources: &mut [(Source, Instant)]) -> Result<()> {
        let now = Instant::now();
        self.endpoint.handle_timeout(now)?;
        for (source, _) in sources.iter_mut().filter(|(source, start)| *start + source.due() <= now) {
            if self.endpoint.take_key_frame_request(source.ssrc()) {
                source.request_key_frame();
            }
            for packet in source.frame() {
                let remote = self.endpoint.remote();
                let datagram = self.endpoint.protect_rtp(&packet.header, &packet.payload, packet.index)?;
                // Lost like any other datagram where the server is away.
                let _ = self.socket.send_to(datagram, remote).await;
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        let now = Instant::now();
        let mut datagram = Vec::with_capacity(MAX_DATAGRAM);
        while self.endpoint.poll_transmit(now, &mut datagram) {
            let _ = self.socket.send_to(&datagram, self.endpoint.remote()).await;
        }
        Ok(())
    }
}
