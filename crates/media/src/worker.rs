//! One worker process: how it is started, watched and ended.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream as StdUnixStream},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use command_fds::{CommandFdExt, FdMapping};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::UnixStream,
    process::{Child, Command},
    sync::{Notify, watch},
    time::timeout,
};
use worker_protocol::wire::{
    notification,
    request::{self, Method},
    response::Body,
    worker as wire,
};

use crate::{
    channel::{Channel, ChannelCounters},
    error::{MediaError, SpawnError, WorkerExit},
    id::{RouterId, WebRtcServerId},
    object::{CloseOnDrop, Kind, Object, ObjectCounts, Roots},
    router::{Router, RouterOptions},
    settings::{ListenInfo, WorkerLogLevel, WorkerSettings},
    web_rtc_server::WebRtcServer,
};

/// The exit status by which a worker says that its settings are wrong.
const WRONG_SETTINGS: i32 = 42;

/// The version whose protocol we speak; a stock worker wants to be told.
const MEDIASOUP_VERSION: &str = "3.27.1";

/// The longest line of a worker's stdout or stderr that is logged whole, in bytes.
const MAX_LINE_BYTES: usize = 4096;

/// A worker process. Clones are handles of the same one; it is killed when the last is dropped.
#[derive(Debug, Clone)]
pub struct Worker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pid: u32,
    roots: Roots,
    exit: watch::Receiver<Option<Ending>>,
    orders: Arc<Orders>,
    close_deadline: Duration,
}

/// How a process ended, and what went with it.
#[derive(Debug, Clone, Copy)]
struct Ending {
    exit: WorkerExit,
    lost: ObjectCounts,
}

/// What the task that watches the process is asked to do.
#[derive(Debug, Default)]
struct Orders {
    kill: Notify,
    /// The end is wanted: nobody needs to hear of it.
    closing: std::sync::atomic::AtomicBool,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.orders.kill.notify_one();
    }
}

impl Worker {
    /// Starts a process, and waits until it says that it runs.
    ///
    /// # Errors
    /// [`SpawnError`].
    pub async fn spawn(settings: &WorkerSettings) -> Result<Self, SpawnError> {
        let binary = settings.binary.display().to_string();
        let (to_worker, worker_reads) = socket_pair().map_err(SpawnError::Channel)?;
        let (from_worker, worker_writes) = socket_pair().map_err(SpawnError::Channel)?;
        let mut child = start(settings, worker_reads, worker_writes)
            .map_err(|source| SpawnError::Start { binary: binary.clone(), source })?;
        let pid = child.id().unwrap_or_default();

        let (channel, writing, reading) = Channel::open(from_worker, to_worker, settings.request_deadline);
        channel.set_pid(pid);
        tokio::spawn(writing);
        tokio::spawn(reading);
        if let Some(stdout) = child.stdout.take() {
            tokio::spawn(log_lines(stdout, move |line| tracing::debug!(target: "worker", pid, "{line}")));
        }
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(log_lines(stderr, move |line| tracing::error!(target: "worker", pid, "{line}")));
        }
        let orders = Arc::new(Orders::default());
        let (exit_sender, mut exit) = watch::channel(None);
        let roots =
            Roots { channel: channel.clone(), census: Arc::default(), transports: settings.transports };
        let watching =
            watch_process(child, roots.clone(), Arc::clone(&orders), exit_sender, settings.close_deadline);
        tokio::spawn(watching);
        // From here on, giving up kills the process.
        let worker = Self(Arc::new(Inner {
            pid,
            roots,
            exit: exit.clone(),
            orders,
            close_deadline: settings.close_deadline,
        }));
        let started = tokio::select! {
            () = channel.running() => return Ok(worker),
            exited = exit.wait_for(Option::is_some) => exited.ok().and_then(|ending| *ending),
            () = tokio::time::sleep(settings.start_deadline) => None,
        };
        Err(match started.map(|ending| ending.exit) {
            Some(WorkerExit::Exited(status)) if status.code() == Some(WRONG_SETTINGS) => {
                SpawnError::WrongSettings { binary }
            }
            Some(status) => SpawnError::Exited { binary, status },
            None => SpawnError::Silent { binary, deadline: settings.start_deadline },
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.pid
    }

    /// Whether it still runs. One that has shut its channel is at its end, though its process may not know it yet.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.0.exit.borrow().is_none() && !self.0.roots.channel.has_ended()
    }

    /// Waits for its end.
    pub async fn exited(&self) -> WorkerExit {
        let mut exit = self.0.exit.clone();
        let exit = exit.wait_for(Option::is_some).await;
        exit.ok().and_then(|ending| *ending).map_or(WorkerExit::Unknown, |ending| ending.exit)
    }

    /// What it held when it ended; nothing while it runs.
    #[must_use]
    pub fn lost(&self) -> ObjectCounts {
        self.0.exit.borrow().map(|ending| ending.lost).unwrap_or_default()
    }

    /// How many objects it holds.
    #[must_use]
    pub fn object_counts(&self) -> ObjectCounts {
        self.0.roots.census.counts()
    }

    /// What went over its channel.
    #[must_use]
    pub fn channel_counters(&self) -> ChannelCounters {
        self.0.roots.channel.counters()
    }

    /// Opens sockets that WebRtcTransports share.
    ///
    /// # Errors
    /// As every request; the worker refuses where an address or port cannot be bound.
    pub async fn create_web_rtc_server(&self, listen: &[ListenInfo]) -> Result<WebRtcServer, MediaError> {
        let id = WebRtcServerId::random();
        let object = CloseOnDrop(Object::root(self.0.roots.clone(), Kind::WebRtcServer, id.shared(), None));
        let body = wire::CreateWebRtcServerRequest {
            web_rtc_server_id: id.as_str().to_owned(),
            listen_infos: Some(listen.iter().map(ListenInfo::to_wire).collect()),
        };
        let body = request::Body::WorkerCreateWebRtcServerRequest(Box::new(body));
        object
            .created(self.0.roots.channel.request(Method::WorkerCreateWebRtcServer, "", Some(body)).await)?;
        Ok(WebRtcServer::new(object, id))
    }

    /// Opens a Router.
    ///
    /// # Errors
    /// [`MediaError::Negotiation`] where a codec is not supported, and as every request.
    pub async fn create_router(&self, options: RouterOptions) -> Result<Router, MediaError> {
        let rtp_capabilities = ortc::generate_router_rtp_capabilities(&options.media_codecs)?;
        let id = options.id.unwrap_or_else(RouterId::random);
        let events = Some(options.events);
        let object = CloseOnDrop(Object::root(self.0.roots.clone(), Kind::Router, id.shared(), events));
        let body = wire::CreateRouterRequest { router_id: id.as_str().to_owned() };
        let body = request::Body::WorkerCreateRouterRequest(Box::new(body));
        object.created(self.0.roots.channel.request(Method::WorkerCreateRouter, "", Some(body)).await)?;
        Ok(Router::new(object, rtp_capabilities))
    }

    /// The worker's own view of what it holds.
    ///
    /// # Errors
    /// As every request: see [`MediaError`].
    pub async fn dump(&self) -> Result<wire::DumpResponse, MediaError> {
        match self.0.roots.channel.request(Method::WorkerDump, "", None).await? {
            Some(Body::WorkerDumpResponse(dump)) => Ok(*dump),
            _ => Err(MediaError::UnexpectedAnswer(Method::WorkerDump)),
        }
    }

    /// What it used of the machine (getrusage(2)).
    ///
    /// # Errors
    /// As every request: see [`MediaError`].
    pub async fn resource_usage(&self) -> Result<wire::ResourceUsageResponse, MediaError> {
        match self.0.roots.channel.request(Method::WorkerGetResourceUsage, "", None).await? {
            Some(Body::WorkerResourceUsageResponse(usage)) => Ok(*usage),
            _ => Err(MediaError::UnexpectedAnswer(Method::WorkerGetResourceUsage)),
        }
    }

    /// Changes how much it logs.
    ///
    /// # Errors
    /// As every request: see [`MediaError`].
    pub async fn set_log(&self, level: WorkerLogLevel, tags: &[String]) -> Result<(), MediaError> {
        let body = wire::UpdateSettingsRequest {
            log_level: Some(level.as_str().to_owned()),
            log_tags: Some(tags.to_vec()),
        };
        let body = request::Body::WorkerUpdateSettingsRequest(Box::new(body));
        self.0.roots.channel.request(Method::WorkerUpdateSettings, "", Some(body)).await.map(drop)
    }

    /// Ends it in order: it is told, and killed when it does not end in time.
    pub async fn close(&self) -> WorkerExit {
        self.0.orders.closing.store(true, std::sync::atomic::Ordering::Release);
        let channel = &self.0.roots.channel;
        if timeout(self.0.close_deadline, channel.notify(notification::Event::WorkerClose, "")).await.is_ok()
        {
            channel.finish();
            if let Ok(exit) = timeout(self.0.close_deadline, self.exited()).await {
                return exit;
            }
            tracing::warn!(pid = self.0.pid, "the worker does not end by itself and is killed");
        }
        self.kill();
        self.exited().await
    }

    /// Ends it at once.
    pub fn kill(&self) {
        self.0.orders.kill.notify_one();
    }
}

/// Our end, ready for the runtime, and the worker's.
fn socket_pair() -> io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = StdUnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs.into()))
}

/// Starts the process with the channel on its descriptors 3 (it reads) and 4 (it writes).
fn start(settings: &WorkerSettings, worker_reads: OwnedFd, worker_writes: OwnedFd) -> io::Result<Child> {
    let mut command = std::process::Command::new(&settings.binary);
    command
        .args(settings.arguments())
        .env("MEDIASOUP_VERSION", MEDIASOUP_VERSION)
        .envs(settings.environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
        .fd_mappings(vec![
            FdMapping { parent_fd: worker_reads, child_fd: 3 },
            FdMapping { parent_fd: worker_writes, child_fd: 4 },
        ])
        .map_err(io::Error::other)?;
    let mut command = Command::from(command);
    // A process group of its own: Ctrl-C is for the server, which then ends its workers in order.
    command.process_group(0).kill_on_drop(true);
    command.spawn()
}

/// Waits for the end of the process, or brings it about, then tells everyone.
async fn watch_process(
    mut child: Child,
    roots: Roots,
    orders: Arc<Orders>,
    exit: watch::Sender<Option<Ending>>,
    close_deadline: Duration,
) {
    let ended_by_itself = tokio::select! {
        status = child.wait() => Some(status),
        () = orders.kill.notified() => None,
        // A worker that shuts its channel is of no use, whatever else it does.
        () = roots.channel.ended() => timeout(close_deadline, child.wait()).await.ok(),
    };
    let status = match ended_by_itself {
        Some(status) => status,
        None => {
            // An error means that it has just ended by itself.
            let _ = child.start_kill();
            child.wait().await
        }
    };
    let status = status.map_or(WorkerExit::Unknown, WorkerExit::Exited);
    let wanted = orders.closing.load(std::sync::atomic::Ordering::Acquire);
    // First the word that it has ended, so that nobody who hears of lost Routers is given this worker again.
    exit.send_replace(Some(Ending { exit: status, lost: roots.census.counts() }));
    roots.channel.end((!wanted).then_some(status));
}

/// Hands on what a worker prints, line by line; what exceeds [`MAX_LINE_BYTES`] comes in pieces.
async fn log_lines<R: AsyncRead + Unpin>(mut output: R, mut log: impl FnMut(&str)) {
    let mut line = Vec::with_capacity(MAX_LINE_BYTES);
    let mut buffer = [0; MAX_LINE_BYTES];
    let mut hand_on = |line: &mut Vec<u8>| {
        if !line.is_empty() {
            log(&String::from_utf8_lossy(line));
            line.clear();
        }
    };
    while let Ok(length @ 1..) = output.read(&mut buffer).await {
        for byte in buffer.iter().take(length) {
            if *byte == b'\n' || line.len() == MAX_LINE_BYTES {
                hand_on(&mut line);
            }
            if *byte != b'\n' {
                line.push(*byte);
            }
        }
    }
    hand_on(&mut line);
}
