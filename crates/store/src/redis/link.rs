//! The connection to one server: made, watched, made anew. Who asks while there is none is told so at once.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::RngExt as _;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, IntoConnectionInfo as _, ProtocolVersion,
    PushInfo, PushKind, RedisConnectionInfo, RedisError, RedisResult, ServerErrorKind, TlsCertificates,
    Value,
};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::pulse::Pulse;
use super::scripts::Question;
use super::settings::{Host, RedisSettings, Secret};

/// How long an answer may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// How long a connection with its handshakes may take.
const CONNECT: Duration = Duration::from_secs(1);
/// Between two looks at whether the server is still there.
const WATCH: Duration = Duration::from_secs(1);
/// Looks in a row without an answer until the connection is given up: a path that broke says nothing.
const MISSES: u32 = 2;
/// The longest wait between two attempts to connect.
const MAX_BACKOFF: Duration = Duration::from_secs(2);
/// Commands that wait to be written. More wait in line, within [`PATIENCE`].
const PIPELINE: usize = 512;
/// Where events travel.
pub(super) const CHANNEL: &str = "tureen:events";

/// Whom to connect to.
#[derive(Debug, Clone)]
pub(super) enum Target {
    /// This server.
    Fixed(Host),
    /// Whom the Sentinels call the master.
    Master {
        /// The Sentinels.
        sentinels: Vec<Host>,
        /// The master's name.
        name: String,
    },
}

/// A server, connected to or not.
pub(super) struct Link {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
    pulse: Arc<Pulse>,
}

struct Shared {
    name: String,
    connection: Mutex<Option<MultiplexedConnection>>,
    broken: Notify,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
        self.pulse.forget(&self.shared.name);
    }
}

impl Link {
    /// Begins to connect.
    pub(super) fn start(
        name: String,
        target: Target,
        settings: Arc<RedisSettings>,
        pulse: Arc<Pulse>,
    ) -> Self {
        pulse.add(&name);
        let shared = Arc::new(Shared { name, connection: Mutex::default(), broken: Notify::new() });
        let task = tokio::spawn(keep(Arc::clone(&shared), target, settings, Arc::clone(&pulse)));
        Self { shared, task, pulse }
    }

    /// Whether there is a connection.
    pub(super) fn is_up(&self) -> bool {
        self.shared.connection().is_some()
    }

    /// Asks; `None` when there is no connection. The caller limits how long it takes.
    pub(super) async fn ask(&self, question: &Question, asking: bool) -> Option<RedisResult<Value>> {
        let mut connection = self.shared.connection()?;
        let mut answer = send(&mut connection, &question.command, asking).await;
        if let (Err(error), Some(in_full)) = (&answer, &question.in_full)
            && error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
        {
            answer = send(&mut connection, in_full, asking).await;
        }
        if let Err(error) = &answer {
            let demoted = error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly);
            if error.is_unrecoverable_error() || error.is_connection_dropped() || demoted {
                self.shared.broken.notify_one();
            }
        }
        Some(answer)
    }
}

impl Shared {
    fn connection(&self) -> Option<MultiplexedConnection> {
        self.connection.lock().expect("nobody panics while holding this lock").clone()
    }

    fn set(&self, connection: Option<MultiplexedConnection>) {
        *self.connection.lock().expect("nobody panics while holding this lock") = connection;
    }
}

async fn send(
    connection: &mut MultiplexedConnection,
    command: &redis::Cmd,
    asking: bool,
) -> RedisResult<Value> {
    if !asking {
        return command.query_async(connection).await;
    }
    let mut both = redis::pipe();
    both.cmd("ASKING").ignore().add_command(command.clone());
    let mut answers: Vec<Value> = both.query_async(connection).await?;
    Ok(answers.pop().unwrap_or(Value::Nil))
}

async fn keep(shared: Arc<Shared>, target: Target, settings: Arc<RedisSettings>, pulse: Arc<Pulse>) {
    let mut failures: u32 = 0;
    loop {
        match open(&shared, &target, &settings, &pulse).await {
            Ok(connection) => {
                if failures > 0 {
                    tracing::info!(server = shared.name, "the store is back");
                }
                failures = 0;
                shared.set(Some(connection.clone()));
                pulse.set(&shared.name, true);
                watch(&shared, &target, connection).await;
                shared.set(None);
                pulse.set(&shared.name, false);
            }
            Err(error) => {
                // Once an outage, not once an attempt.
                if failures == 0 {
                    tracing::warn!(server = shared.name, %error, "cannot connect to the store, trying on");
                }
                pulse.failed(&error);
            }
        }
        sleep(backoff(failures)).await;
        failures = failures.saturating_add(1);
    }
}

/// Anything up to 50 ms, doubled with each failure: nodes that lost the same server do not come back in one instant.
fn backoff(failures: u32) -> Duration {
    let most = Duration::from_millis(50).saturating_mul(1 << failures.min(8)).min(MAX_BACKOFF);
    most.mul_f64(rand::rng().random_range(0.2..1.0))
}

async fn open(
    shared: &Arc<Shared>,
    target: &Target,
    settings: &RedisSettings,
    pulse: &Arc<Pulse>,
) -> RedisResult<MultiplexedConnection> {
    let host = match target {
        Target::Fixed(host) => host.clone(),
        Target::Master { sentinels, name } => find_master(sentinels, name, settings).await?,
    };
    let (listener, listening) = (Arc::clone(pulse), Arc::clone(shared));
    let pushes = move |push: PushInfo| -> Result<(), ()> {
        match push.kind {
            PushKind::Disconnection => listening.broken.notify_one(),
            PushKind::Message => listener.heard(&listening.name, &push.data),
            _ => {}
        }
        Ok(())
    };
    // A note of an earlier connection's end says nothing about this one.
    let _ = timeout(Duration::ZERO, shared.broken.notified()).await;
    let login = Login {
        username: settings.username.as_deref(),
        password: settings.password.as_ref(),
        database: settings.database,
    };
    let config = connection_config().set_push_sender(pushes);
    let mut connection = connect(&host, settings, &login, &config).await?;
    if matches!(target, Target::Master { .. }) && !is_master(&mut connection).await? {
        return Err(RedisError::from((
            ErrorKind::Client,
            "the Sentinels name a server that is not the master",
        )));
    }
    deadline(connection.subscribe(CHANNEL)).await?;
    Ok(connection)
}

/// Returns when the connection is of no use any more.
async fn watch(shared: &Shared, target: &Target, mut connection: MultiplexedConnection) {
    let mut misses = 0;
    loop {
        tokio::select! {
            () = shared.broken.notified() => return,
            () = sleep(WATCH) => {}
        }
        let alive = match target {
            Target::Fixed(_) => {
                deadline(async {
                    redis::cmd("PING").query_async::<Value>(&mut connection).await.map(|_| true)
                })
                .await
            }
            Target::Master { .. } => deadline(is_master(&mut connection)).await,
        };
        match alive {
            Ok(true) => misses = 0,
            Ok(false) => return,
            Err(error) if error.is_timeout() => {
                misses += 1;
                if misses >= MISSES {
                    return;
                }
            }
            // It answers, if only that it is busy.
            Err(error) if matches!(error.kind(), ErrorKind::Server(_)) => misses = 0,
            Err(_) => return,
        }
    }
}

struct Login<'a> {
    username: Option<&'a str>,
    password: Option<&'a Secret>,
    database: u16,
}

fn connection_config() -> AsyncConnectionConfig {
    // Answers are waited for here, by whoever asks, so that one limit holds for all there is to do.
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT))
        .set_response_timeout(None)
        .set_pipeline_buffer_size(PIPELINE)
}

async fn connect(
    host: &Host,
    settings: &RedisSettings,
    login: &Login<'_>,
    config: &AsyncConnectionConfig,
) -> RedisResult<MultiplexedConnection> {
    let mut handshake = RedisConnectionInfo::default()
        .set_protocol(ProtocolVersion::RESP3)
        .set_db(i64::from(login.database))
        .set_skip_set_lib_name();
    if let Some(username) = login.username {
        handshake = handshake.set_username(username);
    }
    if let Some(password) = login.password {
        handshake = handshake.set_password(password.reveal());
    }
    let (name, port) = (host.name.clone(), host.port);
    let client = if settings.tls {
        let address = ConnectionAddr::TcpTls { host: name, port, insecure: false, tls_params: None };
        let info = address.into_connection_info()?.set_redis_settings(handshake);
        Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert: settings.ca.clone() })?
    } else {
        Client::open(ConnectionAddr::Tcp(name, port).into_connection_info()?.set_redis_settings(handshake))?
    };
    deadline(client.get_multiplexed_async_connection_with_config(config)).await
}

/// Connects for one question.
pub(super) async fn connect_briefly(
    host: &Host,
    settings: &RedisSettings,
) -> RedisResult<MultiplexedConnection> {
    let login =
        Login { username: settings.username.as_deref(), password: settings.password.as_ref(), database: 0 };
    connect(host, settings, &login, &connection_config()).await
}

async fn find_master(sentinels: &[Host], name: &str, settings: &RedisSettings) -> RedisResult<Host> {
    let login = Login {
        username: settings.sentinel_username.as_deref(),
        password: settings.sentinel_password.as_ref(),
        database: 0,
    };
    let mut last = RedisError::from((ErrorKind::Client, "no Sentinel is named"));
    for sentinel in sentinels {
        let asked = async {
            let mut connection = connect(sentinel, settings, &login, &connection_config()).await?;
            let mut question = redis::cmd("SENTINEL");
            question.arg("get-master-addr-by-name").arg(name);
            let answer: Option<(String, u16)> = question.query_async(&mut connection).await?;
            answer.ok_or(RedisError::from((ErrorKind::MasterNameNotFoundBySentinel, "no such master")))
        };
        match deadline(asked).await {
            Ok((name, port)) => return Ok(Host { name, port }),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn is_master(connection: &mut MultiplexedConnection) -> RedisResult<bool> {
    let role: Vec<Value> = redis::cmd("ROLE").query_async(connection).await?;
    Ok(matches!(role.first(), Some(Value::BulkString(role)) if role == b"master"))
}

pub(super) async fn deadline<T>(work: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    match timeout(PATIENCE, work).await {
        Ok(result) => result,
        Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
    }
}
