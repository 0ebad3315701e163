//! Answers before there is a source: probes, and 503 for everything else.

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::middleware::from_fn;
use axum::response::Response;
use axum::routing::get;

use super::health::{Health, Probe};
use super::problem::Problem;
use super::{guard, probe};

/// Returns what can be requested while the aggregator starts. `health` says what it waits for.
pub fn startup_routes(health: Health) -> Router {
    Router::new()
        .route("/livez", get(live))
        .route("/healthz", get(live))
        .route("/readyz", get(ready))
        .fallback(starting)
        .layer(from_fn(guard::headers))
        .with_state(health)
}

async fn live(State(health): State<Health>, uri: Uri) -> Response {
    probe(uri.path().trim_start_matches('/'), &uri, &health.run(Probe::Live))
}

async fn ready(State(health): State<Health>, uri: Uri) -> Response {
    probe("readyz", &uri, &health.run(Probe::Ready))
}

async fn starting() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the aggregator is starting; /readyz names what it waits for")
}
