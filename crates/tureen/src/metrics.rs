//! Prometheus text: gauges read when asked, counters as the crates count them.

use std::sync::Arc;

use anyhow::{Context, Result};
use media::{ObjectCounts, WorkerState};
use metrics::{counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::media_node::MediaNode;
use crate::worker_counters::WorkerCounters;

/// The recorder of this process, and where its workers leave their counters.
#[derive(Clone)]
pub(crate) struct Metrics {
    recorder: PrometheusHandle,
    workers: Arc<WorkerCounters>,
}

impl Metrics {
    /// Takes the place of the process' metrics recorder; there can be one.
    pub(crate) fn install() -> Result<Self> {
        let handle =
            PrometheusBuilder::new().install_recorder().context("cannot install the metrics recorder")?;
        describe_gauge!("tureen_workers", "Media workers that run.");
        describe_gauge!("tureen_workers_configured", "Media workers that should run.");
        describe_counter!("tureen_worker_deaths_total", "Media workers that ended without being told to.");
        describe_gauge!("tureen_rooms", "Open rooms.");
        describe_gauge!("tureen_sessions", "Signaling sessions.");
        describe_gauge!("tureen_peers", "Peers that have joined a room.");
        describe_gauge!("tureen_routers", "Routers in media workers.");
        describe_gauge!("tureen_room_further_routers", "Routers of rooms beyond each room's first.");
        describe_gauge!("tureen_pipes", "Pairs of PipeTransports between routers of one room.");
        describe_gauge!("tureen_piped_producers", "Producers and data producers piped, per router piped to.");
        describe_gauge!("tureen_transports", "Transports in media workers.");
        describe_gauge!("tureen_producers", "Producers in media workers.");
        describe_gauge!("tureen_consumers", "Consumers in media workers.");
        describe_counter!("tureen_room_events_total", "What happened in rooms, by event.");
        describe_counter!(
            "tureen_sessions_too_slow_total",
            "Sessions closed because the client did not read."
        );
        describe_counter!(
            "tureen_media_refused_total",
            "Requests that a media worker had no room for, by what."
        );
        describe_counter!("tureen_http_connections_refused_total", "Connections beyond the limit of them.");
        describe_counter!("tureen_signaling_errors_total", "Frames and requests that were refused, by what.");
        describe_counter!("tureen_signaling_refused_total", "Connections that were refused, by why.");
        describe_counter!("tureen_signaling_sessions_ended_total", "Sessions that ended, by why.");
        // Those without labels are there from the beginning, so that what has not happened yet is 0 and not absent.
        for name in ["tureen_sessions_too_slow_total", "tureen_http_connections_refused_total"] {
            counter!(name).absolute(0);
        }
        Ok(Self { recorder: handle, workers: Arc::new(WorkerCounters::new()?) })
    }

    /// What workers must find in their environment, so that their counters are among the metrics.
    pub(crate) fn worker_environment(&self) -> (String, String) {
        self.workers.environment()
    }

    /// The workers' counters.
    pub(crate) fn workers(&self) -> Arc<WorkerCounters> {
        self.workers.clone()
    }

    /// All metrics of this moment.
    pub(crate) fn render(&self, media: Option<&MediaNode>) -> String {
        if let Some(media) = media {
            self.observe(media);
        }
        self.recorder.run_upkeep();
        self.recorder.render()
    }

    fn observe(&self, MediaNode { host, pool, .. }: &MediaNode) {
        let totals = host.totals();
        let workers = pool.status();
        let running = workers.iter().filter(|worker| worker.state == WorkerState::Running).count();
        let sum = |of: fn(&ObjectCounts) -> usize| workers.iter().map(|worker| of(&worker.objects)).sum();
        for (gauge, value) in [
            (gauge!("tureen_workers"), running),
            (gauge!("tureen_workers_configured"), workers.len()),
            (gauge!("tureen_rooms"), totals.rooms),
            (gauge!("tureen_sessions"), totals.sessions),
            (gauge!("tureen_peers"), totals.held.joined),
            (gauge!("tureen_room_further_routers"), totals.held.further_sites),
            (gauge!("tureen_pipes"), totals.held.pipes),
            (gauge!("tureen_piped_producers"), totals.held.piped),
            (gauge!("tureen_routers"), sum(|objects| objects.routers)),
            (gauge!("tureen_transports"), sum(|objects| objects.transports)),
            (gauge!("tureen_producers"), sum(|objects| objects.producers)),
            (gauge!("tureen_consumers"), sum(|objects| objects.consumers)),
        ] {
            gauge.set(u32::try_from(value).map_or(f64::MAX, f64::from));
        }
        counter!("tureen_worker_deaths_total").absolute(workers.iter().map(|worker| worker.deaths).sum());
        self.workers.collect(&workers);
    }
}
