//! What the HTTP port answers: the call page, the WebSocket on the same path as classic clients expect it, the API for
//! broadcasters, health, metrics.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{ConnectInfo, Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use media::WorkerState;
use serde_json::json;
use signaling::Gateway;

use crate::media_node::MediaNode;
use crate::metrics::Metrics;
use crate::page;

/// What the endpoints need. Clones share it.
#[derive(Clone)]
pub(crate) struct Served {
    /// Where this process takes clients in.
    pub(crate) gateway: Option<Gateway>,
    /// Where it runs rooms.
    pub(crate) media: Option<MediaNode>,
    pub(crate) metrics: Metrics,
}

/// All endpoints of the HTTP port.
pub(crate) fn endpoints(served: Served) -> Router {
    let broadcasters = served.gateway.clone().map(signaling::broadcaster_endpoints).unwrap_or_default();
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
    from: ConnectInfo<SocketAddr>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    headers: HeaderMap,
    query: RawQuery,
) -> Response {
    if headers.contains_key(header::UPGRADE) {
        open(served, from, upgrade, &headers, query).await
    } else {
        page::file(page::INDEX)
    }
}

async fn socket(
    State(served): State<Served>,
    from: ConnectInfo<SocketAddr>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    headers: HeaderMap,
    query: RawQuery,
) -> Response {
    open(served, from, upgrade, &headers, query).await
}

async fn open(
    served: Served,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    headers: &HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    let Some(gateway) = &served.gateway else {
        let text = "this node runs rooms and takes no clients in: connect to one with the role signal";
        return (StatusCode::MISDIRECTED_REQUEST, text).into_response();
    };
    match upgrade {
        Ok(upgrade) => {
            let query = query.as_deref().unwrap_or_default();
            gateway.accept(upgrade, from.ip(), headers, query).await
        }
        Err(rejection) => rejection.into_response(),
    }
}

async fn file(Path(path): Path<String>) -> Response {
    page::file(&path)
}

/// 200 while this node can do its work, else 503: what a load balancer asks. One with media needs a worker that runs.
async fn health(State(served): State<Served>) -> Response {
    let mut body = json!({ "version": env!("CARGO_PKG_VERSION") });
    let mut ready = true;
    if let Some(media) = &served.media {
        let workers = media.pool.status();
        let running = workers.iter().filter(|worker| worker.state == WorkerState::Running).count();
        let totals = media.host.totals();
        ready = running > 0;
        body["workers"] = json!({ "running": running, "configured": workers.len() });
        body["rooms"] = json!(totals.rooms);
        body["peers"] = json!(totals.held.joined);
    }
    body["status"] = json!(if ready { "ready" } else { "alive" });
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, axum::Json(body)).into_response()
}

async fn metrics(State(served): State<Served>) -> Response {
    let text = served.metrics.render(served.media.as_ref());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
