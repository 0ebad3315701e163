//! The API: plain answers to plain questions, of whoever can answer them.
//!
//! `GET /api/v1/status`, `/api/v1/containers`, `/api/v1/findings`, `/api/v1/who-has?q=…`, `/metrics`, `/healthz`. Errors are `application/problem+json`
//! ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)).

pub mod list;
mod metrics;
pub mod model;
pub mod source;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use outcrop_proto::{Coverage, CoverageState};
use serde::Serialize;

use crate::store::{FindingRow, PackageRow, StoreError};

/// An answer that takes time.
pub type Future<'a, T> = Pin<Box<dyn std::future::Future<Output = Result<T, Failure>> + Send + 'a>>;

/// Who can answer: the aggregator.
pub trait Source: Send + Sync {
    /// The state of everything.
    fn status(&self) -> Future<'_, Status>;
    /// Every container.
    fn containers(&self) -> Future<'_, Vec<ContainerItem>>;
    /// Who has a package or a problem.
    fn who_has<'a>(&'a self, question: &'a str) -> Future<'a, Vec<HasItem>>;
    /// Every finding of every container.
    fn findings(&self) -> Future<'_, Vec<FindingItem>>;
}

/// A question could not be answered.
#[derive(Debug)]
pub enum Failure {
    /// It is none.
    Question(String),
    /// The store could not be read.
    Store(String),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error.to_string())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Problem {
            title: &'static str,
            status: u16,
            detail: String,
        }
        let (status, detail) = match self {
            Self::Question(detail) => (StatusCode::BAD_REQUEST, detail),
            Self::Store(detail) => (StatusCode::INTERNAL_SERVER_ERROR, detail),
        };
        let problem = Problem { title: "the question could not be answered", status: status.as_u16(), detail };
        (status, [(header::CONTENT_TYPE, "application/problem+json")], Json(problem)).into_response()
    }
}

/// The state of everything.
#[derive(Debug, Serialize)]
pub struct Status {
    /// The aggregator's version.
    pub version: &'static str,
    /// The cluster that it is for.
    pub cluster: String,
    /// How long it has run.
    pub uptime_seconds: u64,
    /// Nodes that attached since then.
    pub nodes: Vec<NodeStatus>,
    /// How many containers there are; the sum of `coverage`.
    pub containers: usize,
    /// Every state, with how many containers have it.
    pub coverage: Vec<CoverageCount>,
    /// Why.
    pub reasons: Vec<ReasonCount>,
    /// What matching was worth, by ecosystem.
    pub assessed: Vec<AssessedCount>,
    /// The layers that the nodes have.
    pub layers: LayerCounts,
    /// What was taken from nodes, and what was not, since the start.
    pub reports: ReportCounts,
    /// The advisory database.
    pub database: Option<DatabaseStatus>,
    /// Findings of containers, by severity.
    pub findings: BTreeMap<String, usize>,
    /// Findings left to the distribution.
    pub withheld: usize,
}

/// A node.
#[derive(Debug, Serialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Its agent's version.
    pub agent_version: String,
    /// Whether its stream lives.
    pub attached: bool,
    /// How long nothing was heard of it.
    pub silent_seconds: u64,
    /// How many containers it has.
    pub containers: usize,
}

/// How many containers have a state.
#[derive(Debug, Serialize)]
pub struct CoverageCount {
    /// The state.
    pub state: CoverageState,
    /// How many.
    pub containers: usize,
}

/// How many containers have a state for a reason.
#[derive(Debug, Serialize)]
pub struct ReasonCount {
    /// The state.
    pub state: CoverageState,
    /// Why.
    pub reason: String,
    /// How many.
    pub containers: usize,
}

/// What matching was worth for an ecosystem, in how many containers.
#[derive(Debug, Serialize)]
pub struct AssessedCount {
    /// OSV's name for it.
    pub ecosystem: String,
    /// matched, stale, unmatched
    pub state: String,
    /// Why.
    pub reason: String,
    /// How many.
    pub containers: usize,
}

/// Layers by how far they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LayerCounts {
    /// Read.
    pub known: usize,
    /// Being read.
    pub leased: usize,
    /// Not read yet.
    pub waiting: usize,
    /// Could not be read.
    pub failed: usize,
}

/// What was taken from nodes, and what was not.
#[derive(Debug, Serialize)]
pub struct ReportCounts {
    /// Inventories that were asked for, and are in the store.
    pub inventories: u64,
    /// Inventories and answers that nobody had asked for.
    pub unasked: u64,
    /// Streams that were ended for what was said in them, or not begun.
    pub refused: u64,
}

/// The advisory database.
#[derive(Debug, Serialize)]
pub struct DatabaseStatus {
    /// Its file.
    pub path: String,
    /// What is wrong with the file that was put in its place, if anything is.
    pub error: Option<String>,
    /// What is in it.
    pub sources: Vec<SourceStatus>,
}

/// A source of advisories.
#[derive(Debug, Serialize)]
pub struct SourceStatus {
    /// OSV's name for it.
    pub ecosystem: String,
    /// How many records.
    pub records: u64,
    /// When the newest was changed.
    pub newest: String,
}

/// A container.
#[derive(Clone, Debug, Serialize)]
pub struct ContainerItem {
    /// Its node.
    pub node: String,
    /// The runtime's namespace.
    pub containerd_namespace: String,
    /// The runtime's ID.
    pub id: String,
    /// Its name in its pod.
    pub name: String,
    /// Its pod's namespace.
    pub namespace: Option<String>,
    /// Its pod.
    pub pod: Option<String>,
    /// The image's name as it was.
    pub image: String,
    /// The identity of its stack.
    pub stack: Option<String>,
    /// How far it was seen.
    pub coverage: Coverage,
}

/// A finding of a container.
#[derive(Clone, Debug, Serialize)]
pub struct FindingItem {
    /// The container.
    pub container: ContainerItem,
    /// The finding.
    #[serde(flatten)]
    pub finding: FindingRow,
}

/// A package of a container.
#[derive(Clone, Debug, Serialize)]
pub struct HasItem {
    /// The container.
    pub container: ContainerItem,
    /// The package.
    pub package: PackageRow,
    /// The layer that brought it.
    pub layer_id: Option<String>,
}

/// The question of `/api/v1/who-has`.
#[derive(Debug, serde::Deserialize)]
struct Question {
    #[serde(default)]
    q: String,
}

type Shared = Arc<dyn Source>;

/// The API of `source`.
pub fn routes(source: Shared) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/metrics", get(metrics))
        .route("/api/v1/status", get(async |State(source): State<Shared>| source.status().await.map(Json)))
        .route("/api/v1/containers", get(async |State(source): State<Shared>| source.containers().await.map(Json)))
        .route("/api/v1/findings", get(async |State(source): State<Shared>| source.findings().await.map(Json)))
        .route("/api/v1/who-has", get(who_has))
        .with_state(source)
}

async fn who_has(
    State(source): State<Shared>,
    Query(question): Query<Question>,
) -> Result<Json<Vec<HasItem>>, Failure> {
    source.who_has(&question.q).await.map(Json)
}

async fn metrics(State(source): State<Shared>) -> Result<Response, Failure> {
    let text = metrics::text(&source.status().await?);
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}
