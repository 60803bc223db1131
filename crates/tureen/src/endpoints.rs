//! What the HTTP port answers: the call page, the WebSocket on the same path as classic clients expect it, the API for
//! broadcasters, health, metrics.

use axum::Router;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use host::Host;
use media::{WorkerPool, WorkerState};
use serde_json::json;
use signaling::Gateway;

use crate::metrics::Metrics;
use crate::page;

/// What the endpoints need. Clones share it.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) gateway: Gateway,
    pub(crate) host: Host,
    pub(crate) pool: WorkerPool,
    pub(crate) metrics: Metrics,
}

/// All endpoints of the HTTP port.
pub(crate) fn endpoints(served: Served) -> Router {
    let broadcasters = signaling::broadcaster_endpoints(served.gateway.clone());
    Router::new()
        .route("/", get(root))
        .route("/ws", get(socket))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/{*path}", get(file))
        .with_state(served)
        .merge(broadcasters)
}

/// The page for browsers, the WebSocket for those who ask to upgrade.
async fn root(
    State(served): State<Served>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    headers: HeaderMap,
    query: RawQuery,
) -> Response {
    if headers.contains_key(header::UPGRADE) {
        open(served, upgrade, &headers, query).await
    } else {
        page::file(page::INDEX)
    }
}

async fn socket(
    State(served): State<Served>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    headers: HeaderMap,
    query: RawQuery,
) -> Response {
    open(served, upgrade, &headers, query).await
}

async fn open(
    served: Served,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    headers: &HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    match upgrade {
        Ok(upgrade) => served.gateway.accept(upgrade, headers, query.as_deref().unwrap_or_default()).await,
        Err(rejection) => rejection.into_response(),
    }
}

async fn file(Path(path): Path<String>) -> Response {
    page::file(&path)
}

/// 200 while at least one media worker runs, else 503: what a load balancer asks.
async fn health(State(served): State<Served>) -> Response {
    let running = served.pool.status().iter().filter(|worker| worker.state == WorkerState::Running).count();
    let totals = served.host.totals();
    let status = if running > 0 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "status": if running > 0 { "ready" } else { "alive" },
        "version": env!("CARGO_PKG_VERSION"),
        "workers": { "running": running, "configured": served.pool.size() },
        "rooms": totals.rooms,
        "peers": totals.held.joined,
    });
    (status, axum::Json(body)).into_response()
}

async fn metrics(State(served): State<Served>) -> Response {
    let text = served.metrics.render(&served.host, &served.pool);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
