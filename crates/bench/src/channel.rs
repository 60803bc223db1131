//! A synchronous driver of one worker process over its channel (file descriptors 3 and 4).
//!
//! It speaks nothing but mediasoup's worker channel, so that any worker which speaks it can be measured: ours, or a
//! stock one. Server code uses the `media` crate instead; this one exists to measure without a runtime in the way.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use command_fds::{CommandFdExt, FdMapping};
use worker_protocol::framing::{self, Decoder, Encoder};
use worker_protocol::wire::message::{self, Message};
use worker_protocol::wire::notification::{Event, Notification};
use worker_protocol::wire::request::{self, Method, Request};
use worker_protocol::wire::response::{self, Response};

/// How long a request may take before the worker counts as hung.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);

/// A request that is still to be sent.
#[derive(Debug, Clone)]
pub struct Ask {
    /// What is asked for.
    pub method: Method,
    /// The id of whom it is for; empty for the worker itself.
    pub handler_id: String,
    /// With what.
    pub body: Option<request::Body>,
}

/// A running worker process, killed and reaped when dropped.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    channel: UnixStream,
    encoder: Encoder,
    outgoing: Vec<u8>,
    responses: Receiver<Response>,
    notifications: Receiver<Notification>,
    next_id: u32,
}

impl Worker {
    /// Starts `binary` with `args` and `env` and waits until it reports that it runs.
    ///
    /// # Errors
    /// Where the process cannot be started, or does not say within 10 s that it is running.
    pub fn spawn(binary: &Path, args: &[&str], env: &[(&str, &str)]) -> Result<Self> {
        let (to_worker, worker_reads) =
            UnixStream::pair().context("cannot make the channel's first socket pair")?;
        let (from_worker, worker_writes) =
            UnixStream::pair().context("cannot make the channel's second socket pair")?;
        let mut command = Command::new(binary);
        command.args(args).env("MEDIASOUP_VERSION", "3.27.1").envs(env.iter().copied()).stdin(Stdio::null());
        command.fd_mappings(vec![
            FdMapping { parent_fd: OwnedFd::from(worker_reads), child_fd: 3 },
            FdMapping { parent_fd: OwnedFd::from(worker_writes), child_fd: 4 },
        ])?;
        let child =
            command.spawn().with_context(|| format!("cannot start the worker {}", binary.display()))?;
        drop(command); // Closes our copies of the worker's ends, so that its exit closes the channel.

        let (response_queue, responses) = mpsc::channel();
        let (notification_queue, notifications) = mpsc::channel();
        let reader = move || read_channel(from_worker, &response_queue, &notification_queue);
        std::thread::Builder::new().name("worker-channel".into()).spawn(reader)?;
        let worker = Self {
            child,
            channel: to_worker,
            encoder: Encoder::default(),
            outgoing: Vec::new(),
            responses,
            notifications,
            next_id: 1,
        };
        worker.wait_for("worker-running", REQUEST_DEADLINE, |n| n.event == Event::WorkerRunning)?;
        Ok(worker)
    }

    /// The process id, under which `/proc` accounts for the worker.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether the process still runs.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a request and waits for its response's body.
    ///
    /// # Errors
    /// The worker's own error and reason, or that it did not answer within 10 s.
    pub fn request(
        &mut self,
        method: Method,
        handler_id: &str,
        body: Option<request::Body>,
    ) -> Result<Option<response::Body>> {
        let id = self.send(Ask { method, handler_id: handler_id.to_owned(), body })?;
        let deadline = Instant::now() + REQUEST_DEADLINE;
        loop {
            match self.next_response(method, deadline)? {
                response if response.id == id => return outcome(method, response),
                _ => {} // An answer to a request that was given up on.
            }
        }
    }

    /// Sends requests so that `in_flight` of them wait for their answers at any time, and returns the answers' bodies in
    /// the requests' order.
    ///
    /// # Errors
    /// The first refusal, or that an answer did not come within 10 s.
    pub fn pipeline(&mut self, asks: Vec<Ask>, in_flight: usize) -> Result<Vec<Option<response::Body>>> {
        let mut answers = vec![None; asks.len()];
        let mut waiting = HashMap::new();
        let mut asks = asks.into_iter().enumerate();
        loop {
            while waiting.len() < in_flight
                && let Some((i, ask)) = asks.next()
            {
                let method = ask.method;
                waiting.insert(self.send(ask)?, (i, method));
            }
            let Some(&(_, method)) = waiting.values().next() else { return Ok(answers) };
            let response = self.next_response(method, Instant::now() + REQUEST_DEADLINE)?;
            if let Some((i, method)) = waiting.remove(&response.id) {
                answers[i] = outcome(method, response)?;
            }
        }
    }

    fn send(&mut self, ask: Ask) -> Result<u32> {
        let id = self.next_id;
        self.next_id += 1;
        let request = Request { id, method: ask.method, handler_id: ask.handler_id, body: ask.body };
        self.outgoing.clear();
        let message = Message { data: message::Body::Request(Box::new(request)) };
        self.encoder.append(message, &mut self.outgoing);
        self.channel.write_all(&self.outgoing).context("the worker closed its channel")?;
        Ok(id)
    }

    fn next_response(&mut self, method: Method, deadline: Instant) -> Result<Response> {
        let left = deadline.saturating_duration_since(Instant::now());
        self.responses.recv_timeout(left).map_err(|error| match error {
            RecvTimeoutError::Timeout => anyhow!("the worker did not answer {method:?} within 10 s"),
            RecvTimeoutError::Disconnected => anyhow!("the worker died before it answered {method:?}"),
        })
    }

    /// Writes bytes to the channel as they are, framing included: for hostile tests only.
    ///
    /// # Errors
    /// Where the worker has closed the channel.
    pub fn write_raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.channel.write_all(bytes).context("the worker closed its channel")
    }

    /// Closes the pipe to the worker, as a driver that dies does.
    ///
    /// # Errors
    /// Where it is closed already.
    pub fn close_channel(&mut self) -> Result<()> {
        self.channel.shutdown(std::net::Shutdown::Both).context("the channel is closed already")
    }

    /// The last request as it was written, framing included: a template for hostile tests.
    pub fn last_request(&self) -> &[u8] {
        &self.outgoing
    }

    /// Waits until the process has closed its channel, which it does by ending, and returns how it ended.
    ///
    /// # Errors
    /// Where it still runs when `patience` is over.
    pub fn wait_for_exit(&mut self, patience: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.responses.recv_timeout(left) {
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => bail!("the worker still runs after {patience:?}"),
                Err(RecvTimeoutError::Disconnected) => return Ok(self.child.wait()?),
            }
        }
    }

    /// Waits for a notification that `accept`s; others that come before it are dropped.
    ///
    /// # Errors
    /// Where none came within `patience`; `what` names it in the message.
    pub fn wait_for(
        &self,
        what: &str,
        patience: Duration,
        mut accept: impl FnMut(&Notification) -> bool,
    ) -> Result<Notification> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.notifications.recv_timeout(left) {
                Ok(notification) if accept(&notification) => return Ok(notification),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => bail!("no {what} notification within {patience:?}"),
                Err(RecvTimeoutError::Disconnected) => bail!("the worker died before it sent {what}"),
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Closing the channel asks the worker to end by itself; kill makes sure of it. Both may find it gone already.
        let _ = self.channel.shutdown(std::net::Shutdown::Both);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn outcome(method: Method, response: Response) -> Result<Option<response::Body>> {
    if response.accepted {
        return Ok(response.body);
    }
    let error = response.error.unwrap_or_else(|| "Error".into());
    let reason = response.reason.unwrap_or_else(|| "no reason given".into());
    Err(anyhow!("{method:?} refused: {error}: {reason}"))
}

/// Runs on its own thread until the worker closes its end.
fn read_channel(
    mut stream: UnixStream,
    responses: &mpsc::Sender<Response>,
    notifications: &mpsc::Sender<Notification>,
) {
    let mut decoder = Decoder::default();
    let mut chunk = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = stream.read(&mut chunk) {
        decoder.push(&chunk[..length]);
        loop {
            let bytes = match decoder.poll() {
                Ok(Some(bytes)) => bytes,
                Ok(None) => break,
                Err(error) => return eprintln!("worker channel: {error}"),
            };
            let message = framing::read(bytes).and_then(|m| Ok(Message::try_from(m)?));
            match message.map(|m| m.data) {
                // A closed queue means that the driver is gone: nothing is left to tell.
                Ok(message::Body::Response(response)) => drop(responses.send(*response)),
                Ok(message::Body::Notification(notification)) => drop(notifications.send(*notification)),
                Ok(message::Body::Log(log)) => eprintln!("worker: {}", log.data),
                Ok(message::Body::Request(_)) => eprintln!("worker channel: a worker sends no requests"),
                Err(error) => eprintln!("worker channel: {error}"),
            }
        }
    }
}
