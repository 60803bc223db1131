//! The driver's end of a worker channel: requests matched with their answers, notifications sorted to the objects
//! that they are about.
//!
//! It must not know what requests mean. Whatever a worker sends is counted when it makes no sense, and logged once;
//! a length that cannot be true ends the channel, because nothing after it can be trusted.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{Semaphore, mpsc, oneshot, watch},
};
use worker_protocol::{
    framing::{self, Decoder, Encoder, MAX_MESSAGE_BYTES},
    wire::{log, message, notification, request, response},
};

use crate::{
    error::{MediaError, RefusalKind, WorkerExit},
    event::MediaEvent,
    object::{Kind, Object},
    routing,
};

/// Requests in flight at most; later ones wait for their turn, within their deadline. A worker answers tens of
/// thousands a second, so that more would only mean memory.
const MAX_OUTSTANDING: usize = 1024;

/// Messages waiting for the pipe: every request in flight, and some notifications.
const OUTGOING_QUEUE: usize = MAX_OUTSTANDING + 64;

/// Messages written with one system call at most.
const WRITE_BATCH: usize = 64;

/// A worker's channel. Clones are handles of the same channel.
#[derive(Debug, Clone)]
pub(crate) struct Channel(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    encoder: Mutex<Encoder>,
    outgoing: Mutex<Option<mpsc::Sender<Vec<u8>>>>,
    turns: Semaphore,
    pending: Mutex<Pending>,
    subscriptions: Mutex<HashMap<Arc<str>, Arc<Object>>>,
    request_deadline: Duration,
    running: watch::Sender<bool>,
    ended: watch::Sender<bool>,
    counters: Counters,
    pid: AtomicU64,
}

#[derive(Debug, Default)]
struct Pending {
    last_id: u32,
    answers: HashMap<u32, oneshot::Sender<response::Response>>,
    ended: bool,
}

#[derive(Debug, Default)]
struct Counters {
    malformed: AtomicU64,
    malformed_logged: AtomicBool,
    unmatched_answers: AtomicU64,
    unmatched_notifications: AtomicU64,
    timeouts: AtomicU64,
    requests: AtomicU64,
}

/// What went over a channel, and what went wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChannelCounters {
    /// Requests sent.
    pub requests: u64,
    /// Requests that were not answered in time.
    pub timeouts: u64,
    /// Messages from the worker that could not be read.
    pub malformed: u64,
    /// Answers to requests that nobody waits for any more.
    pub unmatched_answers: u64,
    /// Notifications about objects that are closed or never were.
    pub unmatched_notifications: u64,
}

impl Channel {
    /// A channel over these halves. The two futures are its life: the first writes, the second reads; both end when
    /// the other side goes away or [`Channel::end`] is called.
    pub(crate) fn open<R, W>(
        reader: R,
        writer: W,
        request_deadline: Duration,
    ) -> (Self, impl Future<Output = ()> + Send, impl Future<Output = ()> + Send)
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let (outgoing, queue) = mpsc::channel(OUTGOING_QUEUE);
        let channel = Self(Arc::new(Inner {
            encoder: Mutex::default(),
            outgoing: Mutex::new(Some(outgoing)),
            turns: Semaphore::new(MAX_OUTSTANDING),
            pending: Mutex::default(),
            subscriptions: Mutex::default(),
            request_deadline,
            running: watch::Sender::new(false),
            ended: watch::Sender::new(false),
            counters: Counters::default(),
            pid: AtomicU64::new(0),
        }));
        (channel.clone(), write_messages(writer, queue, channel.clone()), read_messages(reader, channel))
    }

    /// Says whose channel this is, for the log.
    pub(crate) fn set_pid(&self, pid: u32) {
        self.0.pid.store(u64::from(pid), Ordering::Relaxed);
    }

    /// Asks, and waits for the answer.
    pub(crate) async fn request(
        &self,
        method: request::Method,
        handler_id: &str,
        body: Option<request::Body>,
    ) -> Result<Option<response::Body>, MediaError> {
        let deadline = self.0.request_deadline;
        let exchange = self.exchange(method, handler_id, body);
        let Ok(answer) = tokio::time::timeout(deadline, exchange).await else {
            self.0.counters.timeouts.fetch_add(1, Ordering::Relaxed);
            return Err(MediaError::Timeout { method, deadline });
        };
        let answer = answer?;
        if answer.accepted {
            Ok(answer.body)
        } else {
            Err(MediaError::Refused {
                method,
                kind: RefusalKind::of_error_name(answer.error.as_deref()),
                reason: answer.reason.unwrap_or_else(|| "no reason given".to_owned()),
            })
        }
    }

    async fn exchange(
        &self,
        method: request::Method,
        handler_id: &str,
        body: Option<request::Body>,
    ) -> Result<response::Response, MediaError> {
        let _turn = self.0.turns.acquire().await.map_err(|_closed| MediaError::WorkerGone)?;
        let (id, answer) = self.expect_answer()?;
        let _forget = ForgetOnDrop { channel: self, id };
        let request = request::Request { id, method, handler_id: handler_id.to_owned(), body };
        let bytes = self.encode(message::Body::Request(Box::new(request)));
        if bytes.len() > MAX_MESSAGE_BYTES {
            return Err(MediaError::TooLong(method));
        }
        self.0.counters.requests.fetch_add(1, Ordering::Relaxed);
        let outgoing = lock(&self.0.outgoing).clone().ok_or(MediaError::WorkerGone)?;
        outgoing.send(bytes).await.map_err(|_closed| MediaError::WorkerGone)?;
        answer.await.map_err(|_closed| MediaError::WorkerGone)
    }

    /// Tells without expecting an answer.
    pub(crate) async fn notify(
        &self,
        event: notification::Event,
        handler_id: &str,
    ) -> Result<(), MediaError> {
        let told = notification::Notification { handler_id: handler_id.to_owned(), event, body: None };
        let bytes = self.encode(message::Body::Notification(Box::new(told)));
        let outgoing = lock(&self.0.outgoing).clone().ok_or(MediaError::WorkerGone)?;
        outgoing.send(bytes).await.map_err(|_closed| MediaError::WorkerGone)
    }

    /// Sends notifications about this object to its event queue from now on.
    pub(crate) fn subscribe(&self, object: &Arc<Object>) {
        let mut subscriptions = lock(&self.0.subscriptions);
        if !*self.0.ended.borrow() {
            subscriptions.insert(Arc::clone(object.id()), Arc::clone(object));
        }
    }

    /// Ends what [`Channel::subscribe`] began.
    pub(crate) fn unsubscribe(&self, id: &str) {
        lock(&self.0.subscriptions).remove(id);
    }

    /// Waits until the worker said that it runs.
    pub(crate) async fn running(&self) {
        let mut running = self.0.running.subscribe();
        // The sender lives as long as `self`.
        let _ = running.wait_for(|running| *running).await;
    }

    /// Waits until nothing more will be read.
    pub(crate) async fn ended(&self) {
        let mut ended = self.0.ended.subscribe();
        let _ = ended.wait_for(|ended| *ended).await;
    }

    /// Whether nothing more will be read.
    pub(crate) fn has_ended(&self) -> bool {
        *self.0.ended.borrow()
    }

    /// Lets the queue run empty, then closes the pipe towards the worker.
    pub(crate) fn finish(&self) {
        lock(&self.0.outgoing).take();
    }

    /// Fails every request in flight and all later ones. Objects are closed; Routers' queues hear `died`, if given.
    pub(crate) fn end(&self, died: Option<WorkerExit>) {
        self.finish();
        {
            let mut pending = lock(&self.0.pending);
            pending.ended = true;
            pending.answers.clear();
        }
        self.0.turns.close();
        let objects = {
            let mut subscriptions = lock(&self.0.subscriptions);
            self.0.ended.send_replace(true);
            std::mem::take(&mut *subscriptions)
        };
        for object in objects.into_values() {
            object.mark_closed();
            if let (Some(exit), Kind::Router) = (died, object.kind()) {
                object.emit(MediaEvent::WorkerDied { id: Arc::clone(object.id()).into(), exit });
            }
        }
    }

    pub(crate) fn counters(&self) -> ChannelCounters {
        let Counters { malformed, unmatched_answers, unmatched_notifications, timeouts, requests, .. } =
            &self.0.counters;
        ChannelCounters {
            requests: requests.load(Ordering::Relaxed),
            timeouts: timeouts.load(Ordering::Relaxed),
            malformed: malformed.load(Ordering::Relaxed),
            unmatched_answers: unmatched_answers.load(Ordering::Relaxed),
            unmatched_notifications: unmatched_notifications.load(Ordering::Relaxed),
        }
    }

    fn expect_answer(&self) -> Result<(u32, oneshot::Receiver<response::Response>), MediaError> {
        let (sender, answer) = oneshot::channel();
        let mut pending = lock(&self.0.pending);
        if pending.ended {
            return Err(MediaError::WorkerGone);
        }
        // Ids start at 1 and wrap around; one that is still in flight after 2^32 requests is passed over.
        loop {
            pending.last_id = pending.last_id.checked_add(1).unwrap_or(1);
            let id = pending.last_id;
            if let std::collections::hash_map::Entry::Vacant(entry) = pending.answers.entry(id) {
                entry.insert(sender);
                return Ok((id, answer));
            }
        }
    }

    fn encode(&self, data: message::Body) -> Vec<u8> {
        let mut bytes = Vec::new();
        lock(&self.0.encoder).append(message::Message { data }, &mut bytes);
        bytes
    }

    fn handle(&self, bytes: &[u8]) {
        if self.try_handle(bytes).is_err() {
            self.count_malformed();
        }
    }

    fn try_handle(&self, bytes: &[u8]) -> Result<(), framing::FramingError> {
        match framing::read(bytes)?.data()? {
            message::BodyRef::Response(answer) => self.handle_answer(answer)?,
            message::BodyRef::Notification(notification) => self.handle_notification(notification)?,
            message::BodyRef::Log(line) => self.handle_log(line)?,
            message::BodyRef::Request(_) => self.count_malformed(),
        }
        Ok(())
    }

    fn handle_answer(&self, answer: response::ResponseRef<'_>) -> Result<(), planus::Error> {
        let waiting = lock(&self.0.pending).answers.remove(&answer.id()?);
        let Some(waiting) = waiting else {
            self.0.counters.unmatched_answers.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        };
        let answer = match response::Response::try_from(answer) {
            Ok(answer) => answer,
            Err(error) => {
                // Whoever asked must not wait in vain: an answer without a body says that it made no sense.
                let id = answer.id()?;
                let accepted = answer.accepted().unwrap_or(false);
                let reason = Some("the worker's answer cannot be read".to_owned());
                let _ = waiting.send(response::Response { id, accepted, body: None, error: None, reason });
                return Err(error);
            }
        };
        // Nobody waits any more where the deadline has passed.
        let _ = waiting.send(answer);
        Ok(())
    }

    fn handle_notification(&self, told: notification::NotificationRef<'_>) -> Result<(), planus::Error> {
        if told.event()? == notification::Event::WorkerRunning {
            self.0.running.send_replace(true);
            return Ok(());
        }
        let object = lock(&self.0.subscriptions).get(told.handler_id()?).cloned();
        match object {
            Some(object) => routing::dispatch(&object, told),
            None => {
                self.0.counters.unmatched_notifications.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    fn handle_log(&self, line: log::LogRef<'_>) -> Result<(), planus::Error> {
        let pid = self.0.pid.load(Ordering::Relaxed);
        let line = line.data()?;
        let mut rest = line.chars();
        match rest.next() {
            Some('E') => tracing::error!(target: "worker", pid, "{}", rest.as_str()),
            Some('W') => tracing::warn!(target: "worker", pid, "{}", rest.as_str()),
            Some('X') => tracing::info!(target: "worker", pid, "{}", rest.as_str()),
            Some('D') => tracing::debug!(target: "worker", pid, "{}", rest.as_str()),
            _ => tracing::debug!(target: "worker", pid, "{line}"),
        }
        Ok(())
    }

    fn count_malformed(&self) {
        self.0.counters.malformed.fetch_add(1, Ordering::Relaxed);
        if !self.0.counters.malformed_logged.swap(true, Ordering::Relaxed) {
            let pid = self.0.pid.load(Ordering::Relaxed);
            tracing::warn!(pid, "the worker sent a message that cannot be read; later ones are only counted");
        }
    }
}

/// Takes a request out of the pending ones, whether it was answered, timed out or was given up.
struct ForgetOnDrop<'a> {
    channel: &'a Channel,
    id: u32,
}

impl Drop for ForgetOnDrop<'_> {
    fn drop(&mut self) {
        lock(&self.channel.0.pending).answers.remove(&self.id);
    }
}

async fn write_messages<W: AsyncWrite + Unpin>(
    mut writer: W,
    mut queue: mpsc::Receiver<Vec<u8>>,
    channel: Channel,
) {
    let mut batch = Vec::with_capacity(WRITE_BATCH);
    let mut bytes = Vec::new();
    loop {
        batch.clear();
        let taken = tokio::select! {
            taken = queue.recv_many(&mut batch, WRITE_BATCH) => taken,
            () = channel.ended() => 0,
        };
        if taken == 0 {
            break;
        }
        bytes.clear();
        for message in &batch {
            bytes.extend_from_slice(message);
        }
        let written = tokio::select! {
            written = writer.write_all(&bytes) => written,
            () = channel.ended() => break,
        };
        if written.is_err() {
            // The reader meets the end as well, and ends the channel.
            break;
        }
    }
    let _ = writer.shutdown().await;
}

async fn read_messages<R: AsyncRead + Unpin>(mut reader: R, channel: Channel) {
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; 64 * 1024];
    'reading: loop {
        let read = tokio::select! {
            read = reader.read(&mut buffer) => read,
            () = channel.ended() => break,
        };
        let Ok(length @ 1..) = read else { break };
        decoder.push(buffer.get(..length).unwrap_or_default());
        loop {
            match decoder.poll() {
                Ok(Some(bytes)) => channel.handle(bytes),
                Ok(None) => break,
                Err(_) => {
                    channel.count_malformed();
                    break 'reading;
                }
            }
        }
    }
    channel.0.ended.send_replace(true);
    let mut pending = lock(&channel.0.pending);
    pending.ended = true;
    pending.answers.clear();
}

/// Locks; what a panicking holder left behind is whole, because every change under these locks is one step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
