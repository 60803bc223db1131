//! Processes: how they are started, watched, ended, and replaced. The worker is a shell script, so that it can
//! misbehave on request.

#![expect(clippy::unwrap_used, reason = "what fails in a test may panic")]

use std::{num::NonZeroUsize, path::Path, process::Command, time::Duration};

use media::{
    ListenAddress, MediaError, PoolError, PoolEvent, PoolSettings, SpawnError, Worker, WorkerExit,
    WorkerPool, WorkerSettings, WorkerState,
};
use worker_protocol::{
    framing::Encoder,
    wire::{message, notification, response},
};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake_worker.sh");

/// Files that a fake worker writes to its channel.
struct Lines(tempfile::TempDir);

impl Lines {
    fn new() -> Self {
        let lines = Self(tempfile::tempdir().unwrap());
        let running = notification::Notification {
            handler_id: "1".to_owned(),
            event: notification::Event::WorkerRunning,
            body: None,
        };
        lines.write("running", message::Body::Notification(Box::new(running)));
        let accepted = response::Response { id: 1, accepted: true, body: None, error: None, reason: None };
        lines.write("accepted", message::Body::Response(Box::new(accepted)));
        std::fs::write(lines.0.path().join("garbage"), [0xff; 100]).unwrap();
        lines
    }

    fn write(&self, name: &str, data: message::Body) {
        let mut bytes = Vec::new();
        Encoder::default().append(message::Message { data }, &mut bytes);
        std::fs::write(self.0.path().join(name), bytes).unwrap();
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn settings(&self, environment: &[(&str, &str)]) -> WorkerSettings {
        let value = |value: &str| {
            if Path::new(&self.path(value)).exists() { self.path(value) } else { value.to_owned() }
        };
        WorkerSettings {
            environment: environment.iter().map(|(name, text)| ((*name).to_owned(), value(text))).collect(),
            close_deadline: Duration::from_millis(300),
            ..WorkerSettings::new(SCRIPT)
        }
    }

    /// A worker that runs, and listens where it is told.
    fn good(&self) -> WorkerSettings {
        self.settings(&[("FAKE_SAYS", "running"), ("FAKE_ANSWERS", "accepted")])
    }

    fn pool(&self, worker: WorkerSettings, workers: usize) -> PoolSettings {
        PoolSettings {
            worker,
            workers: NonZeroUsize::new(workers),
            listen: vec![ListenAddress { ip: [127, 0, 0, 1].into(), announced_address: None }],
            base_port: None,
            tcp: false,
        }
    }
}

fn kill_9(pid: u32) {
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
}

/// Whether the process is there, a zombie not counting.
fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

#[tokio::test]
async fn a_worker_runs_and_ends_when_told() {
    let lines = Lines::new();
    let worker = Worker::spawn(&lines.settings(&[("FAKE_SAYS", "running")])).await.unwrap();
    assert!(worker.is_running() && lives(worker.pid()));
    let WorkerExit::Exited(status) = worker.close().await else { panic!("no status") };
    assert!(status.success(), "it ended by itself: {status}");
    assert!(!worker.is_running() && !lives(worker.pid()));
    assert!(matches!(worker.dump().await, Err(MediaError::WorkerGone)));
}

#[tokio::test]
async fn a_worker_that_does_not_end_is_killed() {
    let lines = Lines::new();
    let worker =
        Worker::spawn(&lines.settings(&[("FAKE_SAYS", "running"), ("FAKE_DEAF", "1")])).await.unwrap();
    let WorkerExit::Exited(status) = worker.close().await else { panic!("no status") };
    assert!(!status.success());
    assert!(!lives(worker.pid()));
}

#[tokio::test]
async fn a_worker_that_shut_its_channel_does_not_count_as_running_though_it_lives() {
    let lines = Lines::new();
    // What makes no sense ends the channel; the process would stay until its deadline.
    let settings = WorkerSettings {
        close_deadline: Duration::from_secs(60),
        ..lines.settings(&[("FAKE_SAYS", "running"), ("FAKE_ANSWERS", "garbage"), ("FAKE_DEAF", "1")])
    };
    let worker = Worker::spawn(&settings).await.unwrap();
    assert!(worker.is_running());
    assert!(matches!(worker.dump().await, Err(MediaError::WorkerGone)));
    assert!(!worker.is_running() && lives(worker.pid()));
}

#[tokio::test]
async fn dropping_the_last_handle_ends_the_process() {
    let lines = Lines::new();
    let worker =
        Worker::spawn(&lines.settings(&[("FAKE_SAYS", "running"), ("FAKE_DEAF", "1")])).await.unwrap();
    let pid = worker.pid();
    drop(worker);
    // Nobody is left to be told of the end: it is looked for until it is there.
    let gone = async {
        while lives(pid) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.unwrap();
}

#[tokio::test]
async fn a_killed_worker_fails_its_requests() {
    let lines = Lines::new();
    let worker = Worker::spawn(&lines.settings(&[("FAKE_SAYS", "running")])).await.unwrap();
    let pid = worker.pid();
    let (dump, exit) = tokio::join!(worker.dump(), async {
        kill_9(pid);
        worker.exited().await
    });
    assert!(matches!(dump, Err(MediaError::WorkerGone)));
    assert!(exit.to_string().contains('9'), "{exit}");
}

#[tokio::test]
async fn a_worker_that_talks_nonsense_is_ended() {
    let lines = Lines::new();
    let settings = lines.settings(&[("FAKE_SAYS", "garbage"), ("FAKE_DEAF", "1")]);
    let error = Worker::spawn(&settings).await.unwrap_err();
    assert!(matches!(error, SpawnError::Exited { .. }), "{error}");
}

#[tokio::test]
async fn reasons_for_not_starting_are_told_apart() {
    let lines = Lines::new();
    let wrong = Worker::spawn(&lines.settings(&[("FAKE_EXIT", "42")])).await.unwrap_err();
    assert!(matches!(wrong, SpawnError::WrongSettings { .. }), "{wrong}");
    let exited = Worker::spawn(&lines.settings(&[("FAKE_EXIT", "1")])).await.unwrap_err();
    assert!(matches!(exited, SpawnError::Exited { .. }), "{exited}");
    let silent = WorkerSettings { start_deadline: Duration::from_millis(50), ..lines.settings(&[]) };
    let silent = Worker::spawn(&silent).await.unwrap_err();
    assert!(matches!(silent, SpawnError::Silent { .. }), "{silent}");
    let missing = Worker::spawn(&WorkerSettings::new("/nonexistent/worker")).await.unwrap_err();
    assert!(matches!(missing, SpawnError::Start { .. }), "{missing}");
    assert!(missing.to_string().contains("/nonexistent/worker"));
}

#[tokio::test]
async fn a_pool_replaces_a_dead_worker_at_once_and_never_hands_it_out() {
    let lines = Lines::new();
    let pool = WorkerPool::start(lines.pool(lines.good(), 2)).await.unwrap();
    let mut events = pool.events();
    let victim = pool.place().await.unwrap();
    let pid = victim.worker.pid();
    kill_9(pid);
    let died = events.recv().await.unwrap();
    let PoolEvent::WorkerDied { index, pid: dead, .. } = died else { panic!("{died:?}") };
    assert_eq!((index, dead), (victim.index, pid));
    for _ in 0..4 {
        assert_ne!(pool.place().await.unwrap().worker.pid(), pid);
    }
    let respawned = events.recv().await.unwrap();
    let PoolEvent::WorkerRespawned { index, absent, .. } = respawned else { panic!("{respawned:?}") };
    assert_eq!(index, victim.index);
    assert!(absent < Duration::from_secs(2), "{absent:?}");
    let status = &pool.status()[victim.index];
    assert_eq!((status.state, status.deaths), (WorkerState::Running, 1));
    pool.close().await;
    assert!(pool.status().iter().all(|worker| worker.state == WorkerState::Closed));
    assert!(matches!(pool.place().await, Err(PoolError::NoWorker)));
}

#[tokio::test]
async fn with_one_worker_placing_waits_for_the_next() {
    let lines = Lines::new();
    let pool = WorkerPool::start(lines.pool(lines.good(), 1)).await.unwrap();
    let victim = pool.place().await.unwrap().worker;
    kill_9(victim.pid());
    victim.exited().await;
    let next = pool.place().await.unwrap().worker;
    assert_ne!(next.pid(), victim.pid());
    assert!(next.is_running());
    pool.close().await;
    assert!(!lives(next.pid()));
}

#[tokio::test]
async fn a_worker_that_keeps_dying_is_left_alone() {
    let lines = Lines::new();
    let pool = WorkerPool::start(lines.pool(lines.good(), 1)).await.unwrap();
    let mut events = pool.events();
    let mut deaths = 0;
    kill_9(pool.place().await.unwrap().worker.pid());
    let pause = loop {
        match events.recv().await.unwrap() {
            PoolEvent::WorkerDied { .. } => deaths += 1,
            PoolEvent::WorkerRespawned { pid, .. } => kill_9(pid),
            PoolEvent::CrashLooping { pause, .. } => break pause,
        }
    };
    assert_eq!(deaths, 5);
    assert!(pause >= Duration::from_secs(30));
    assert_eq!(pool.status()[0].state, WorkerState::CrashLooping);
    assert!(matches!(pool.place().await, Err(PoolError::NoWorker)), "waiting would not help");
    pool.close().await;
}

#[tokio::test]
async fn a_pool_whose_workers_do_not_start_says_why() {
    let lines = Lines::new();
    let error = WorkerPool::start(lines.pool(lines.settings(&[("FAKE_EXIT", "42")]), 2)).await.unwrap_err();
    assert!(matches!(error, PoolError::Spawn(SpawnError::WrongSettings { .. })), "{error}");
    let nowhere = PoolSettings { listen: Vec::new(), ..lines.pool(lines.good(), 1) };
    assert!(matches!(WorkerPool::start(nowhere).await, Err(PoolError::NoListenAddress)));
}
