//! What every measurement begins with: a worker on a core of its own, a Router in it, and peers that connect to it.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rtc::srtp::Profile;

use super::client::Client;
use crate::channel::Worker;
use crate::endpoint::{Endpoint, Identity};
use crate::router::Router;
use crate::sendto::{Sendto, SendtoCost};
use crate::{arrival, cpu};

/// The longest datagram that is sent bare.
const MAX_DATAGRAM: usize = 1_500;
/// How long ICE and DTLS may take on loopback.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// A worker to be measured.
#[derive(Debug)]
pub struct Stage {
    /// The Router in it.
    pub router: Router,
    /// Its process.
    pub pid: u32,
    /// The core for everybody else.
    pub other_core: usize,
    measured_core: usize,
    identity: Identity,
    profile: Profile,
}

impl Stage {
    /// Starts a worker on a core of its own, and pins the calling thread to another.
    ///
    /// # Errors
    /// Where the machine has only one core, or the worker does not start.
    pub fn new(worker: &Path, profile: Profile, transport_cc: bool) -> Result<Self> {
        let cores = cpu::allowed_cores()?;
        let (&measured_core, &other_core) = match cores.as_slice() {
            [first, .., last] => (last, first),
            _ => bail!("two cores are needed: one for the worker, one for who feeds it"),
        };
        cpu::pin_current_thread(other_core)?;
        let worker = Worker::spawn(worker, &["--logLevel=error"], &[])?;
        let pid = worker.pid();
        cpu::pin_process(pid, measured_core)?;
        let router = Router::new(worker, transport_cc)?;
        Ok(Self { router, pid, other_core, measured_core, identity: Identity::new(&[profile])?, profile })
    }

    /// A new WebRtcTransport, its peer connected to it, and its id.
    ///
    /// # Errors
    /// Where the worker refuses, the handshake fails, or another SRTP profile comes out.
    pub fn connect(&mut self) -> Result<(Client, String)> {
        let remote = self.router.web_rtc_transport()?;
        let socket = UdpSocket::bind("127.0.0.1:0").context("cannot bind a loopback socket")?;
        self.router.connect_web_rtc(&remote.id, self.identity.fingerprint())?;
        let mut endpoint = Endpoint::new(&self.identity, &remote, Instant::now())?;
        endpoint.connect_blocking(&socket, CONNECT_DEADLINE).context("a synthetic peer could not connect")?;
        ensure!(endpoint.profile() == Some(self.profile), "another SRTP profile came out");
        arrival::prepare(&socket)?;
        Ok((Client::new(socket, endpoint), remote.id))
    }

    /// CPU time that the worker has used so far.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn worker_time(&self) -> Result<Duration> {
        cpu::process_time(self.pid)
    }

    /// Sends bare on the worker's core, on a thread of its own, while the worker has nothing to do.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn bare_window(&self, addresses: &[SocketAddr], sizes: &[usize]) -> Result<SendtoCost> {
        let core = self.measured_core;
        thread::scope(|scope| {
            let window = scope.spawn(|| {
                cpu::pin_current_thread(core)?;
                Sendto::new(MAX_DATAGRAM)?.window(addresses, sizes)
            });
            window.join().map_err(|_| anyhow!("the bare sender panicked"))?
        })
    }
}
