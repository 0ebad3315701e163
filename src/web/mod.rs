//! The HTTP API, the metrics, the probes and the web page.
//!
//! [`routes()`] builds the router and [`serve()`] serves it. An [`Authorizer`] authenticates and authorizes callers, a [`Source`] provides the
//! data. Responses below `/api/v1` are JSON, described by `/api/v1/openapi.json`; errors are `application/problem+json`. Text from images and
//! feeds is not trusted: it is escaped in HTML and in metrics.

mod access;
mod api;
mod cursor;
mod escape;
mod exports;
mod guard;
mod health;
pub mod list;
pub mod listen;
mod metrics;
mod model;
mod openapi;
mod page;
mod probes;
mod problem;
mod query;
mod routes;
mod serve;
mod source;
mod throttle;
mod turns;
mod unsent;

use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{Uri, header};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{Html, IntoResponse as _, Response};
use axum::{Extension, Router};
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;

pub use access::{
    AccessError, Admission, Authorizer, Caller, Denied, Loopback, Permission, Right, TokenFile, make_api_token,
};
pub use health::{Health, Probe};
pub use model::{
    AdvisoryItem, AdvisoryPackage, AgentItem, AgentProblem, AskedVulnerability, AssessedCount, AssessedWord,
    ConnectionCounts, ContainerItem, ContainerRef, Coverage, CoverageCount, CoverageWord, DatabaseStatus,
    DeliveryChanged, DeliveryDetail, DeliveryItem, FindingItem, HasItem, HasPage, ImageItem, IssueItem, KubernetesNode,
    KubernetesStatus, LayerCounts, LayerItem, LayerWord, Lifetimes, NodeCounts, NodeItem, NodeStateWord, OfflineStatus,
    Open, PackageItem, Page, ProblemItem, ProblemWord, Pushed, ReasonCount, Rematch, ReportCounts, Requeued, RoleItem,
    RuntimeWord, SeverityWord, SourceStatus, Status, StatusWord, StepItem, StorageWord, TargetItem, TargetTest,
    WorkloadContainer, WorkloadDetail, WorkloadItem,
};
pub use outcrop_proto::escape::is_treacherous;
pub use probes::Probes;
pub use problem::Problem;
pub use serve::{serve, serve_probes};
pub use source::{Export, Failure, Future, List, RowSource, Scope, Source};

use crate::metrics::Metrics;
use cursor::Cursors;
use routes::{Document, Endpoint, router};
use throttle::Throttle;
use turns::{MAX_RUNNING, MAX_RUNNING_EACH, Turns};

/// Maximum number of refused requests that are audited within ten seconds: anyone with a token can cause them.
const AUDITS: u64 = 100;

/// Configuration of the API.
#[derive(Clone, Debug)]
pub struct Config {
    /// Whether the API listens on a loopback address. Then only requests for loopback names and addresses and for `hosts` are allowed.
    pub loopback: bool,
    /// Additional allowed host names on loopback, for example of a tunnel or a proxy.
    pub hosts: Vec<String>,
    /// The directory for pushed files.
    pub uploads: PathBuf,
    /// Maximum size of a pushed file, in bytes.
    pub max_upload: u64,
    /// Metrics that are exposed in addition to those of the status, and that count requests.
    pub metrics: Arc<Metrics>,
    /// Probes, which the API answers as well.
    pub probes: Probes,
}

/// The state that handlers share.
#[derive(Clone)]
struct Api {
    source: Arc<dyn Source>,
    authorizer: Arc<dyn Authorizer>,
    config: Arc<Config>,
    /// Turns of read requests.
    turns: Arc<Turns>,
    /// Allows one push at a time.
    push: Arc<Semaphore>,
    /// Seals the cursors of lists.
    cursors: Arc<Cursors>,
    document: Document,
    rejections: Arc<Throttle>,
    /// Bounds the audit of requests that changed nothing.
    audits: Arc<Throttle>,
}

/// Returns the router for `source`, for callers that `authorizer` authorizes.
pub fn routes(source: Arc<dyn Source>, authorizer: Arc<dyn Authorizer>, config: Config) -> Router {
    let api = Api {
        source,
        authorizer,
        config: Arc::new(config),
        turns: Turns::new(MAX_RUNNING, MAX_RUNNING_EACH),
        push: Arc::new(Semaphore::new(1)),
        cursors: Arc::new(Cursors::new()),
        document: Document::default(),
        rejections: Arc::new(Throttle::new(1)),
        audits: Arc::new(Throttle::new(AUDITS)),
    };
    api.config.probes.serve(Arc::clone(&api.source));
    let mut endpoints = api::endpoints();
    endpoints.extend(exports::endpoints());
    // A page and an exposition show counts of everything: the status.
    endpoints.push(Endpoint::page("/", Permission::get("status"), front));
    endpoints.push(Endpoint::page("/metrics", Permission::get("status"), exposition));
    endpoints.push(Endpoint::probe("/livez", live));
    endpoints.push(Endpoint::probe("/healthz", live));
    endpoints.push(Endpoint::probe("/readyz", ready));
    router(&api, endpoints)
        .layer(from_fn_with_state(api.clone(), guard::reject_forged))
        .layer(CatchPanicLayer::custom(Problem::panicked))
        .layer(from_fn(guard::headers))
        .with_state(api)
}

async fn live(State(api): State<Api>, uri: Uri) -> Response {
    api.config.probes.live(&uri)
}

async fn ready(State(api): State<Api>, uri: Uri) -> Response {
    api.config.probes.ready(&uri).await
}

async fn front(State(api): State<Api>, Extension(caller): Extension<Caller>) -> Result<Html<String>, Problem> {
    Ok(Html(page::front(api.source.as_ref(), &caller).await?))
}

async fn exposition(State(api): State<Api>, Extension(caller): Extension<Caller>) -> Result<Response, Problem> {
    let text = metrics::text(api.source.as_ref(), &caller.scope, &api.config.metrics).await?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}
