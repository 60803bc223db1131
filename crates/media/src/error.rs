//! Why something asked of a worker did not happen.

use std::{process::ExitStatus, time::Duration};

use ortc::OrtcError;
use worker_protocol::wire::request::Method;

/// Why a request failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MediaError {
    /// The worker process is gone; everything that it held is gone with it.
    #[error("the worker has exited")]
    WorkerGone,
    /// The object was closed before, or something that it belongs to was.
    #[error("the object is closed")]
    Closed,
    /// The worker did not answer in time. The request may still take effect.
    #[error("the worker did not answer {method:?} within {} ms", .deadline.as_millis())]
    Timeout {
        /// What was asked.
        method: Method,
        /// How long the answer was waited for.
        deadline: Duration,
    },
    /// The worker refused.
    #[error("the worker refused {method:?}: {reason}")]
    Refused {
        /// What was asked.
        method: Method,
        /// The class that the worker gives its errors.
        kind: RefusalKind,
        /// The worker's words.
        reason: String,
    },
    /// The worker's answer cannot be read, or is the answer to another question.
    #[error("the worker's answer to {0:?} makes no sense")]
    UnexpectedAnswer(Method),
    /// The request is longer than the channel allows.
    #[error("the request {0:?} is longer than the channel allows")]
    TooLong(Method),
    /// No Producer of this id is open on the Router.
    #[error("there is no Producer \"{0}\" on this Router")]
    NoSuchProducer(String),
    /// All streams of the transport's SCTP association are in use.
    #[error("all SCTP streams of the transport are in use")]
    NoFreeStream,
    /// The worker holds as many of these as it may ([`crate::WorkerSettings`]).
    #[error("this media worker has its limit of {limit} {what}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// The most allowed.
        limit: usize,
    },
    /// An object of this id exists already.
    #[error("the id \"{0}\" is in use")]
    DuplicateId(String),
    /// The parameters cannot be negotiated.
    #[error(transparent)]
    Negotiation(#[from] OrtcError),
}

/// The class of a worker's refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// The request makes no sense (`TypeError`).
    Type,
    /// It names something that does not exist (`NotFoundError`).
    NotFound,
    /// Anything else (`Error`).
    Other,
}

impl RefusalKind {
    pub(crate) fn of_error_name(name: Option<&str>) -> Self {
        match name {
            Some("TypeError") => Self::Type,
            Some("NotFoundError") => Self::NotFound,
            _ => Self::Other,
        }
    }
}

/// Why no worker could be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// There is no such file, or it cannot be executed.
    #[error("cannot start the worker {binary}: {source} (check the setting of the worker binary)")]
    Start {
        /// The path.
        binary: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The channel's sockets cannot be made.
    #[error("cannot open the worker's channel: {0} (check the limit of open files)")]
    Channel(std::io::Error),
    /// The worker says that its arguments are wrong.
    #[error(
        "the worker {binary} refuses its settings (exit status 42); see its lines in the log above: port range, \
         log tags and certificate files are the settings to check"
    )]
    WrongSettings {
        /// The path.
        binary: String,
    },
    /// The worker ended before it said that it runs.
    #[error("the worker {binary} ended before it ran ({status}); see its lines in the log above")]
    Exited {
        /// The path.
        binary: String,
        /// How it ended.
        status: WorkerExit,
    },
    /// The worker did not say that it runs.
    #[error("the worker {binary} did not say within {} ms that it runs; is it a mediasoup worker?", .deadline.as_millis())]
    Silent {
        /// The path.
        binary: String,
        /// How long was waited.
        deadline: Duration,
    },
}

/// How a worker process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerExit {
    /// With a status, or by a signal.
    Exited(ExitStatus),
    /// Nobody knows: the system would not say.
    Unknown,
}

impl std::fmt::Display for WorkerExit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(status) => status.fmt(f),
            Self::Unknown => f.write_str("exit status unknown"),
        }
    }
}
