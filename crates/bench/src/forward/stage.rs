//! What every measurement begins with: a worker on a core of its own, a Router in it, and peers that connect to it.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rtc::srtp::Profile;

use super::client::Client;
use crate::channel::Worker;
use crate::endpoint::{Endpoint, Identity};
use crate::router::{RemoteTransport, Router};
use crate::sendto::{Sendto, SendtoCost};
use crate::{arrival, cpu};

/// The longest datagram that is sent bare.
const MAX_DATAGRAM: usize = 1_500;
/// Requests in flight where many are made.
pub const IN_FLIGHT: usize = 50;
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
        let client = self.handshake(&remote)?;
        Ok((client, remote.id))
    }

    /// New WebRtcTransports that nobody has connected to, made with requests in flight.
    ///
    /// # Errors
    /// The worker's refusal.
    pub fn transports(&mut self, count: usize) -> Result<Vec<RemoteTransport>> {
        let (ids, asks): (Vec<_>, Vec<_>) = (0..count).map(|_| self.router.web_rtc_transport_ask()).unzip();
        let answers = self.router.worker.pipeline(asks, IN_FLIGHT)?;
        ids.into_iter().zip(answers).map(|(id, answer)| RemoteTransport::of(id, answer)).collect()
    }

    /// Connects a peer to a transport.
    ///
    /// # Errors
    /// As [`Stage::connect`].
    pub fn handshake(&mut self, remote: &RemoteTransport) -> Result<Client> {
        let socket = UdpSocket::bind("127.0.0.1:0").context("cannot bind a loopback socket")?;
        self.router.connect_web_rtc(&remote.id, self.identity.fingerprint())?;
        let mut endpoint = Endpoint::new(&self.identity, remote, Instant::now())?;
        endpoint.connect_blocking(&socket, CONNECT_DEADLINE).context("a synthetic peer could not connect")?;
        ensure!(endpoint.profile() == Some(self.profile), "another SRTP profile came out");
        arrival::prepare(&socket)?;
        Ok(Client::new(socket, endpoint))
    }

    /// The SHA-256 fingerprint of the certificate that all peers here share.
    pub fn fingerprint(&self) -> &str {
        self.identity.fingerprint()
    }

    /// Lets the kernel prefer the worker and the bench to everything else on the machine, for figures that are about
    /// time and not about CPU time. `false` where that is not permitted.
    pub fn prefer(&self) -> bool {
        // Where sessions share a machine (autogroup), theirs is the priority that counts.
        let session = fs::write("/proc/self/autogroup", "-19");
        let tasks = [std::process::id(), self.pid].map(|pid| fs::read_dir(format!("/proc/{pid}/task")));
        let threads = tasks.into_iter().flatten().flatten().flatten().map(|task| task.file_name());
        let threads = Command::new("renice").args(["-n", "-19", "-p"]).args(threads).output();
        let has_no_sessions = !Path::new("/proc/self/autogroup").exists();
        (session.is_ok() || has_no_sessions) && threads.is_ok_and(|output| output.status.success())
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
        self.on_worker_core(|| Sendto::new(MAX_DATAGRAM)?.window(addresses, sizes))
    }

    /// Does something on the worker's core, on a thread of its own.
    ///
    /// # Errors
    /// Its own.
    pub fn on_worker_core<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let core = self.measured_core;
        super::on_a_thread(|| {
            cpu::pin_current_thread(core)?;
            work()
        })
    }
}
