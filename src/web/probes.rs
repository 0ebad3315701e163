//! `/livez` and `/readyz`. The API answers them, and so does a listener of their own, which connections to the API cannot keep busy.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::middleware::from_fn;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;

use super::guard;
use super::health::{self, Health, Outcome, Probe};
use super::problem::Problem;
use super::source::{List, Scope, Source};

/// Maximum time in which the source answers a readiness probe.
const PATIENCE: Duration = Duration::from_secs(5);

/// Probes need no token, so the source is queried at most once in this time.
const INTERVAL: Duration = Duration::from_secs(1);

/// Answers the probes of a process. Clones share their state.
#[derive(Clone, Default)]
pub struct Probes(Arc<Inner>);

#[derive(Default)]
struct Inner {
    health: Health,
    /// The source of the API; unset until the API answers requests, and the process is not ready before.
    source: OnceLock<Arc<dyn Source>>,
    /// When the source last answered.
    answered: tokio::sync::Mutex<Option<Instant>>,
}

impl fmt::Debug for Probes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Probes").field(&self.0.health).finish()
    }
}

impl Probes {
    /// Returns the checks behind the probes.
    pub fn health(&self) -> &Health {
        &self.0.health
    }

    /// Returns the router of a listener that answers nothing but probes.
    pub fn routes(&self) -> Router {
        self.router().fallback(StatusCode::NOT_FOUND).layer(from_fn(guard::headers)).with_state(self.clone())
    }

    /// Returns what can be requested from the API while the aggregator starts.
    pub fn startup_routes(&self) -> Router {
        self.router().fallback(starting).layer(from_fn(guard::headers)).with_state(self.clone())
    }

    fn router(&self) -> Router<Self> {
        let live = get(async |State(probes): State<Self>, uri: Uri| probes.live(&uri));
        let ready = get(async |State(probes): State<Self>, uri: Uri| probes.ready(&uri).await);
        Router::new().route("/livez", live.clone()).route("/healthz", live).route("/readyz", ready)
    }

    /// The process is ready from now on, as long as `source` answers.
    pub(super) fn serve(&self, source: Arc<dyn Source>) {
        let _ = self.0.source.set(source);
    }

    /// Handles `/livez`: a failed check means that the process has to be restarted.
    pub(super) fn live(&self, uri: &Uri) -> Response {
        answer(uri, &self.0.health.run(Probe::Live))
    }

    /// Handles `/readyz`: a failed check means that requests cannot be answered now.
    pub(super) async fn ready(&self, uri: &Uri) -> Response {
        let mut outcomes = self.0.health.run(Probe::Ready);
        let timed_out = |_| Err(format!("no response within {} s", PATIENCE.as_secs()));
        let result = tokio::time::timeout(PATIENCE, self.query()).await.unwrap_or_else(timed_out);
        outcomes.push(self.0.health.note("api", result));
        answer(uri, &outcomes)
    }

    /// Queries the source, unless it answered just now.
    async fn query(&self) -> Result<(), String> {
        let source = self.0.source.get().ok_or("the aggregator is starting")?;
        let mut answered = self.0.answered.lock().await;
        if answered.is_none_or(|at| at.elapsed() >= INTERVAL) {
            let list = List { limit: 1, ..List::default() };
            source.nodes(&Scope::All, &list).await.map_err(|failure| format!("{failure:?}"))?;
            *answered = Some(Instant::now());
        }
        Ok(())
    }
}

fn answer(uri: &Uri, outcomes: &[Outcome]) -> Response {
    let name = uri.path().trim_start_matches('/');
    let verbose = uri.query().unwrap_or_default().split('&').any(|part| matches!(part, "verbose" | "verbose=true"));
    let passed = outcomes.iter().all(|outcome| outcome.passed);
    let status = if passed { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-store")];
    (status, headers, health::text(name, outcomes, verbose)).into_response()
}

async fn starting() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the aggregator is starting; /readyz names what it waits for")
}
