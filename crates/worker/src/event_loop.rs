//! The process: start, event loop, end. One thread does everything; what a turn decided to send leaves at its end, in
//! one flush.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};
use std::{io, process};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use net::alarm::Alarm;
use net::process as os;

use crate::channel::{ChannelError, ChannelReader, ChannelWriter};
use crate::outbox::HARD_LIMIT;
use crate::settings::Settings;
use crate::table::SocketIdx;
use crate::worker::Worker;

/// Descriptor that the driver writes requests to.
const READ_FD: i32 = 3;

/// Descriptor that the driver reads from.
const WRITE_FD: i32 = 4;

/// Exit code where `MEDIASOUP_VERSION` is not set: nobody drives this process.
const EXIT_NO_DRIVER: i32 = 41;

/// Exit code for settings that are wrong.
const EXIT_SETTINGS: i32 = 42;

/// Exit code for everything else that keeps a worker from working.
const EXIT_FAILURE: i32 = 40;

const CHANNEL_READ: Token = Token(0);
const CHANNEL_WRITE: Token = Token(1);
const SIGNALS: Token = Token(2);
const ALARM: Token = Token(3);

/// Events taken from the kernel at a time.
const EVENTS: usize = 256;

/// How a worker ended.
#[derive(Debug)]
pub struct Exit {
    /// The process' exit code.
    pub code: i32,
    /// What to say about it, where it did not end as asked.
    pub message: Option<String>,
}

/// Runs a worker until its driver ends it.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let failed = |code, message: String| Exit { code, message: Some(message) };
    let Some(version) = std::env::var_os("MEDIASOUP_VERSION") else {
        return failed(
            EXIT_NO_DRIVER,
            "this is the media worker that tureen and mediasoup start; it does nothing by itself (MEDIASOUP_VERSION is \
             not set)"
                .to_owned(),
        );
    };
    let settings = match Settings::parse(arguments) {
        Ok(settings) => settings,
        Err(error) => return failed(EXIT_SETTINGS, format!("settings error: {error}")),
    };
    let descriptors = os::inherited_fd(READ_FD).and_then(|read| Ok((read, os::inherited_fd(WRITE_FD)?)));
    let (read, write) = match descriptors {
        Ok(descriptors) => descriptors,
        Err(error) => {
            return failed(EXIT_FAILURE, format!("the driver's descriptors 3 and 4 are not open: {error}"));
        }
    };
    os::ignore_signals();
    match serve(settings, read, write, &version.to_string_lossy()) {
        Ok(()) => Exit { code: 0, message: None },
        Err(error) => failed(EXIT_FAILURE, error.to_string()),
    }
}

/// Runs a worker on the calling thread, driven over these two pipes, until its driver ends it.
///
/// # Errors
/// Where it cannot start, or its channel fails.
pub fn serve(settings: Settings, read: OwnedFd, write: OwnedFd, version: &str) -> Result<(), ChannelError> {
    EventLoop::new(settings, read, write, version)?.run()
}

struct EventLoop {
    poll: Poll,
    signals: OwnedFd,
    /// Wakes for what cannot wait until the next whole millisecond.
    alarm: Alarm,
    /// What the alarm is set to.
    alarm_at: Option<Instant>,
    reader: ChannelReader,
    writer: ChannelWriter,
    worker: Worker,
    /// Sockets that may have more to read than a turn took.
    readable: Vec<SocketIdx>,
}

impl EventLoop {
    fn new(settings: Settings, read: OwnedFd, write: OwnedFd, version: &str) -> Result<Self, ChannelError> {
        let poll = Poll::new()?;
        let reader = ChannelReader::new(read)?;
        let writer = ChannelWriter::new(write)?;
        let signals = os::termination_fd()?;
        let alarm = Alarm::new()?;
        let registry = poll.registry();
        registry.register(&mut SourceFd(&reader.as_raw_fd()), CHANNEL_READ, Interest::READABLE)?;
        registry.register(&mut SourceFd(&writer.as_raw_fd()), CHANNEL_WRITE, Interest::WRITABLE)?;
        registry.register(&mut SourceFd(&signals.as_raw_fd()), SIGNALS, Interest::READABLE)?;
        registry.register(&mut SourceFd(&alarm.as_raw_fd()), ALARM, Interest::READABLE)?;
        let worker = Worker::new(&settings, registry.try_clone()?, process::id(), version)
            .map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Self { poll, signals, alarm, alarm_at: None, reader, writer, worker, readable: Vec::new() })
    }

    fn run(mut self) -> Result<(), ChannelError> {
        let mut events = Events::with_capacity(EVENTS);
        self.worker.announce();
        loop {
            self.write_channel()?;
            if self.worker.closed {
                return Ok(());
            }
            let now = Instant::now();
            self.set_alarm(now)?;
            let timeout = if self.readable.is_empty() {
                self.worker
                    .timers
                    .next_deadline()
                    .map(|deadline| round_up(deadline.saturating_duration_since(now)))
            } else {
                Some(Duration::ZERO)
            };
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            }
            let mut channel_readable = false;
            for event in &events {
                match event.token() {
                    CHANNEL_READ => channel_readable = true,
                    // The queue is written at the start of each turn anyway.
                    CHANNEL_WRITE => {}
                    // The timers know what it was set for.
                    ALARM => self.alarm_at = None,
                    SIGNALS => {
                        // Which of the two signals it was makes no difference, so it is left unread.
                        let _ = &self.signals;
                        self.worker.close();
                    }
                    token => {
                        let Some(socket) = self.worker.sockets.by_token(token) else { continue };
                        if event.is_writable() {
                            self.worker.sockets.flush_socket(socket);
                        }
                        if event.is_readable() && !self.readable.contains(&socket) {
                            self.readable.push(socket);
                        }
                    }
                }
            }
            let now = Instant::now();
            self.read_sockets(now);
            self.worker.forward_held(now);
            self.worker.fire_timers(now);
            if channel_readable {
                self.read_channel(now)?;
            }
            self.worker.end_turn(now);
        }
    }

    /// Sets the alarm for held packets, the only ones that need one finer than the poll's milliseconds.
    fn set_alarm(&mut self, now: Instant) -> io::Result<()> {
        match self.worker.timers.deadline(self.worker.held_timer) {
            // Where the deadline only moved away, the alarm rings early and is set again: that is cheaper.
            Some(at) if self.alarm_at.is_none_or(|set| at < set) => {
                self.alarm.set(at.saturating_duration_since(now))?;
                self.alarm_at = Some(at);
            }
            None if self.alarm_at.is_some() => {
                self.alarm.clear()?;
                self.alarm_at = None;
            }
            _ => {}
        }
        Ok(())
    }

    /// Gives each readable socket its share of the turn; who has more stays readable.
    fn read_sockets(&mut self, now: Instant) {
        let mut sockets = std::mem::take(&mut self.readable);
        sockets.retain(|socket| self.worker.read_socket(*socket, now));
        self.readable = sockets;
    }

    fn read_channel(&mut self, now: Instant) -> Result<(), ChannelError> {
        self.reader.fill()?;
        while let Some(message) = self.reader.poll()? {
            self.worker.handle_message(message, now);
            if self.worker.closed {
                return Ok(());
            }
        }
        if self.reader.ended() {
            self.worker.close();
        }
        Ok(())
    }

    fn write_channel(&mut self) -> Result<(), ChannelError> {
        match self.writer.write(&mut self.worker.outbox.pending) {
            Ok(()) if self.worker.outbox.pending.len() > HARD_LIMIT => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "the driver does not read its channel").into())
            }
            Ok(()) => Ok(()),
            // The driver closed its end while we had something to say: that is the end, not a failure.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
            {
                self.worker.close();
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// epoll counts in milliseconds: rounding down would spin until the deadline has passed.
fn round_up(duration: Duration) -> Duration {
    let millis = duration.as_nanos().div_ceil(1_000_000);
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}
