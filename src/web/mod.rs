//! The API, metrics and the page for people: plain answers to plain questions, of whoever can answer them.
//!
//! [`routes`] is everything that can be asked, [`serve`] the connections that it is asked over. Who may ask what is [`Authorizer`]'s, what is
//! answered [`Source`]'s. Below `/api/v1` everything is JSON, described by `/api/v1/openapi.json`; errors are `application/problem+json`. Strings
//! from images and feeds are plain data there, and escaped in HTML and in metrics.

mod access;
mod api;
mod escape;
mod guard;
pub mod list;
pub mod listen;
mod metrics;
mod model;
mod openapi;
mod page;
mod problem;
mod query;
mod serve;
mod source;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing::get;
use axum::{Extension, Router};
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;

pub use access::{
    AccessError, Admission, Asked, Authorizer, Caller, Denied, Loopback, Right, TokenFile, make_api_token,
};
pub use escape::is_treacherous;
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
}

/// What every handler stands on.
#[derive(Clone)]
struct Api {
    source: Arc<dyn Source>,
    authorizer: Arc<dyn Authorizer>,
    config: Arc<Config>,
    turns: Arc<Semaphore>,
    push: Arc<Semaphore>,
    /// When it was last seen that questions are answered.
    answered: Arc<tokio::sync::Mutex<Option<Instant>>>,
}

/// Everything that can be asked of `source`, by whom `authorizer` lets in.
pub fn routes(source: Arc<dyn Source>, authorizer: Arc<dyn Authorizer>, config: Config) -> Router {
    let api = Api {
        source,
        authorizer,
        config: Arc::new(config),
        turns: Arc::new(Semaphore::new(TURNS)),
        push: Arc::new(Semaphore::new(1)),
        answered: Arc::default(),
    };
    let asked = api::routes()
        .route("/", get(front))
        .route("/metrics", get(measures))
        .fallback(async |uri: Uri| Problem::new(StatusCode::NOT_FOUND, format!("path {} not found", uri.path())))
        .method_not_allowed_fallback(not_done)
        .layer(from_fn_with_state(api.clone(), guard::turns))
        .layer(from_fn_with_state(api.clone(), guard::callers));
    // Those who keep the process alive are let in without a token, and wait for nobody.
    let probes = Router::new().route("/healthz", get(async || "ok\n")).route("/readyz", get(ready));
    let probes = probes.method_not_allowed_fallback(not_done);
    Router::new()
        .merge(asked)
        .merge(probes)
        .layer(from_fn_with_state(api.clone(), guard::browsers))
        .layer(CatchPanicLayer::custom(Problem::panicked))
        .layer(from_fn(guard::headers))
        .with_state(api)
}

async fn not_done() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed; see the Allow header")
}

/// Ready is who can answer a question. Anybody may ask that, so that it is tried once a second at most.
async fn ready(State(api): State<Api>) -> Result<&'static str, Problem> {
    let try_once = async {
        let mut answered = api.answered.lock().await;
        if answered.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
            let list = List { limit: 1, ..List::default() };
            api.source.nodes(&Scope::All, &list).await?;
            *answered = Some(Instant::now());
        }
        Ok::<_, Failure>("ok\n")
    };
    let answer = tokio::time::timeout(Duration::from_secs(5), try_once).await;
    let late = |_| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not ready: no response within five seconds");
    Ok(answer.map_err(late)??)
}

async fn front(State(api): State<Api>, Extension(caller): Extension<Caller>) -> Result<Html<String>, Problem> {
    Ok(Html(page::front(api.source.as_ref(), &caller).await?))
}

async fn measures(State(api): State<Api>, Extension(caller): Extension<Caller>) -> Result<Response, Problem> {
    let text = metrics::text(api.source.as_ref(), &caller.scope).await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}
