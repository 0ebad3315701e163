//! The API, metrics and the page for people: plain answers to plain questions, of whoever can answer them.
//!
//! [`routes`] is everything that can be asked, [`serve`] the connections that it is asked over. Who may ask what is [`Authorizer`]'s, what is
//! answered [`Source`]'s. Below `/api/v1` everything is JSON, described by `/api/v1/openapi.json`; errors are `application/problem+json`. Strings
//! from images and feeds are plain data there, and escaped in HTML and in metrics.

mod access;
mod api;
mod escape;
mod guard;
mod health;
pub mod list;
pub mod listen;
mod metrics;
mod model;
mod openapi;
mod page;
mod problem;
mod query;
mod routes;
mod serve;
mod source;
mod throttle;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{Html, IntoResponse as _, Response};
use axum::{Extension, Router};
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;

pub use access::{
    AccessError, Admission, Authorizer, Caller, Denied, Loopback, Permission, Right, TokenFile, make_api_token,
};
pub use escape::is_treacherous;
pub use health::{Health, Probe};
pub use model::{
    AdvisoryItem, AdvisoryPackage, AgentItem, AssessedCount, AssessedWord, ContainerItem, ContainerRef, Coverage,
    CoverageCount, CoverageWord, DatabaseStatus, FindingItem, HasItem, ImageItem, IssueItem, KubernetesNode,
    KubernetesStatus, LayerCounts, LayerItem, LayerWord, Lifetimes, NodeCounts, NodeItem, OfflineStatus, Open,
    PackageItem, Page, Pushed, ReasonCount, Rematch, ReportCounts, Requeued, RoleItem, RuntimeWord, SeverityWord,
    SourceStatus, Status, StatusWord, StepItem, StorageWord, WorkloadContainer, WorkloadDetail, WorkloadItem,
};
pub use problem::Problem;
pub use serve::serve;
pub use source::{Failure, Future, List, Scope, Source};

use crate::metrics::Metrics;
use health::Outcome;
use routes::{Document, Endpoint, router};
use throttle::Throttle;

/// Questions that are answered at a time.
const TURNS: usize = 64;

/// What the operator chose.
#[derive(Clone, Debug)]
pub struct Config {
    /// Whether it is bound to loopback: requests for loopback names and addresses, and for `hosts`, are answered then, and no others.
    pub loopback: bool,
    /// Names that it is asked for by there, through a tunnel or a proxy.
    pub hosts: Vec<String>,
    /// The directory in which a pushed file lies until it is taken.
    pub uploads: PathBuf,
    /// Most bytes of a pushed file.
    pub max_upload: u64,
    /// Metrics that are exposed besides those of the status, and into which requests are counted.
    pub metrics: Arc<Metrics>,
    /// Checks behind `/livez` and `/readyz`.
    pub health: Health,
}

/// What every handler stands on.
#[derive(Clone)]
struct Api {
    source: Arc<dyn Source>,
    authorizer: Arc<dyn Authorizer>,
    config: Arc<Config>,
    turns: Arc<Semaphore>,
    push: Arc<Semaphore>,
    /// When the source last answered a readiness probe.
    answered: Arc<tokio::sync::Mutex<Option<Instant>>>,
    document: Document,
    rejections: Arc<Throttle>,
}

/// Returns everything that can be requested of `source`, by callers whom `authorizer` admits.
pub fn routes(source: Arc<dyn Source>, authorizer: Arc<dyn Authorizer>, config: Config) -> Router {
    let api = Api {
        source,
        authorizer,
        config: Arc::new(config),
        turns: Arc::new(Semaphore::new(TURNS)),
        push: Arc::new(Semaphore::new(1)),
        answered: Arc::default(),
        document: Document::default(),
        rejections: Arc::default(),
    };
    let mut endpoints = api::endpoints();
    // A page and an exposition show counts of everything: the status.
    endpoints.push(Endpoint::page("/", Permission::get("status"), front));
    endpoints.push(Endpoint::page("/metrics", Permission::get("status"), measures));
    endpoints.push(Endpoint::probe("/livez", live));
    endpoints.push(Endpoint::probe("/healthz", live));
    endpoints.push(Endpoint::probe("/readyz", ready));
    router(&api, endpoints)
        .layer(from_fn_with_state(api.clone(), guard::reject_forged))
        .layer(CatchPanicLayer::custom(Problem::panicked))
        .layer(from_fn(guard::headers))
        .with_state(api)
}

/// Answers whether the process works, and need not be restarted.
async fn live(State(api): State<Api>, uri: Uri) -> Response {
    probe(uri.path().trim_start_matches('/'), &uri, &api.config.health.run(Probe::Live))
}

/// Answers whether requests can be answered. Anybody may ask, so the source is asked at most once a second.
async fn ready(State(api): State<Api>, uri: Uri) -> Response {
    let mut outcomes = api.config.health.run(Probe::Ready);
    let request = async {
        let mut answered = api.answered.lock().await;
        if answered.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
            let list = List { limit: 1, ..List::default() };
            api.source.nodes(&Scope::All, &list).await.map_err(|failure| format!("{failure:?}"))?;
            *answered = Some(Instant::now());
        }
        Ok(())
    };
    let late = |_| Err("no answer within five seconds".to_owned());
    let result = tokio::time::timeout(Duration::from_secs(5), request).await.unwrap_or_else(late);
    outcomes.push(api.config.health.note("api", result));
    probe("readyz", &uri, &outcomes)
}

fn probe(name: &str, uri: &Uri, outcomes: &[Outcome]) -> Response {
    let verbose = uri.query().unwrap_or_default().split('&').any(|part| matches!(part, "verbose" | "verbose=true"));
    let passed = outcomes.iter().all(|outcome| outcome.passed);
    let status = if passed { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-store")];
    (status, headers, health::text(name, outcomes, verbose)).into_response()
}

async fn front(State(api): State<Api>, Extension(caller): Extension<Caller>) -> Result<Html<String>, Problem> {
    Ok(Html(page::front(api.source.as_ref(), &caller).await?))
}

async fn measures(State(api): State<Api>, Extension(caller): Extension<Caller>) -> Result<Response, Problem> {
    let text = metrics::text(api.source.as_ref(), &caller.scope, &api.config.metrics).await?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}
