//! The routes below `/api/v1`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::{self, Extension, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use outcrop_proto::Digest;
use serde::Serialize;
use tokio::io::AsyncWriteExt as _;
use tokio_stream::StreamExt as _;

use super::Api;
use super::access::{Caller, Permission, Right};
use super::list::{CONTAINERS, FINDINGS, IMAGES, ISSUES, LAYERS, NODES, PACKAGES, WHO_HAS, WORKLOADS};
use super::model::{
    AdvisoryItem, ContainerItem, FindingItem, HasItem, ImageItem, IssueItem, LayerItem, NodeItem, PackageItem, Pushed,
    Requeued, Status, WorkloadDetail, WorkloadItem,
};
use super::openapi::{self, AnyDocument, flag, no_body, required, segment};
use super::problem::Problem;
use super::query::{self, Parameters};
use super::routes::Endpoint;
use super::source::Failure;

/// How long the next bytes of a file that is pushed may take to come.
const PUSH_PAUSE: Duration = Duration::from_secs(30);

/// How long the whole file may take to come.
const PUSH_WITHIN: Duration = Duration::from_secs(1800);

/// The header that carries the signature of a database that is pushed.
pub(super) const SIGNATURE: &str = "outcrop-signature";

/// Most bytes of a signature.
const MAX_SIGNATURE: usize = 4 << 10;

/// What an answer to a question is, or why there is none.
type Answer = Result<Response, Problem>;

/// An endpoint that lists a resource, by the method of the source of that name.
macro_rules! list {
    ($resource:ident, $method:ident, $item:ty) => {
        Endpoint::get(
            concat!("/api/v1/", stringify!($method)),
            Permission::list(stringify!($method)),
            openapi::list::<$item>(&$resource, Vec::new()),
            async |State(api): State<Api>,
                   Extension(caller): Extension<Caller>,
                   headers: HeaderMap,
                   uri: Uri|
                   -> Answer {
                let (list, _) = query::list(&$resource, &uri, &[])?;
                answer(&caller, &headers, &api.source.$method(&caller.scope, &list).await?)
            },
        )
    };
}

/// Returns the endpoints.
pub(super) fn endpoints() -> Vec<Endpoint> {
    let workload_path = vec![
        segment("namespace", "namespace of the workload"),
        segment("kind", "kind of the workload, as kubectl accepts it: `deploy`, `deployment.apps`"),
        segment("name", "name of the workload"),
    ];
    let question =
        "a package (log4j-core), a package URL (pkg:npm/lodash@<4.17.21) or a vulnerability (CVE-2021-44228)";
    let node = || vec![segment("name", "name of the node")];
    let node_errors = [StatusCode::NOT_FOUND, StatusCode::CONFLICT, StatusCode::UNSUPPORTED_MEDIA_TYPE];
    vec![
        Endpoint::get(
            "/api/v1/openapi.json",
            Permission::get("status"),
            openapi::get::<AnyDocument>("This document", Vec::new(), &[]),
            document,
        ),
        Endpoint::get(
            "/api/v1/status",
            Permission::get("status"),
            openapi::get::<Status>("The state of everything that the caller may read", Vec::new(), &[]),
            status,
        ),
        list!(WORKLOADS, workloads, WorkloadItem),
        Endpoint::get(
            "/api/v1/workloads/{namespace}/{kind}/{name}",
            Permission::get("workloads"),
            openapi::get::<WorkloadDetail>("A workload in full", workload_path, &[StatusCode::NOT_FOUND]),
            workload,
        ),
        list!(ISSUES, issues, IssueItem),
        list!(NODES, nodes, NodeItem),
        list!(CONTAINERS, containers, ContainerItem),
        list!(IMAGES, images, ImageItem),
        list!(LAYERS, layers, LayerItem),
        list!(PACKAGES, packages, PackageItem),
        list!(FINDINGS, findings, FindingItem),
        Endpoint::get(
            "/api/v1/advisories/{id}",
            Permission::get("findings"),
            openapi::get::<AdvisoryItem>(
                "A vulnerability, and the packages, images and nodes that it affects",
                vec![segment("id", "any of its identifiers: CVE-2021-44228")],
                &[StatusCode::NOT_FOUND],
            ),
            advisory,
        ),
        Endpoint::get(
            "/api/v1/who-has",
            Permission::list("packages"),
            openapi::list::<HasItem>(&WHO_HAS, vec![required("q", question)]),
            who_has,
        ),
        Endpoint::post(
            "/api/v1/database",
            Permission::create("databases"),
            openapi::post::<Pushed>(
                "Replace the advisory database; requires the right push-database",
                vec![
                    flag("allow-shrink", "accept a database in which a source has far fewer records than before"),
                    openapi::header(SIGNATURE, "content of the file's .minisig, in base64"),
                ],
                openapi::file("A database that outcrop db build created"),
                &[
                    StatusCode::REQUEST_TIMEOUT,
                    StatusCode::CONFLICT,
                    StatusCode::PAYLOAD_TOO_LARGE,
                    StatusCode::UNSUPPORTED_MEDIA_TYPE,
                    StatusCode::INSUFFICIENT_STORAGE,
                ],
            ),
            push_database,
        ),
        Endpoint::post(
            "/api/v1/nodes/{name}/distrust",
            Permission::update("nodes"),
            openapi::post::<Requeued>(
                "Discard what a node read, and have other nodes read it again; requires the right manage-nodes",
                node(),
                no_body(),
                &node_errors,
            ),
            distrust,
        ),
        Endpoint::post(
            "/api/v1/nodes/{name}/trust",
            Permission::update("nodes"),
            openapi::post::<Requeued>(
                "Trust a node again; requires the right manage-nodes",
                node(),
                no_body(),
                &node_errors,
            ),
            trust,
        ),
    ]
}

/// What a value is in JSON.
fn json(value: &impl Serialize) -> Result<Vec<u8>, Problem> {
    serde_json::to_vec(value)
        .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("writing the response: {error}")))
}

/// What changes something is done whole, also when who asked for it goes away.
async fn whole<T: Send + 'static>(
    work: impl Future<Output = Result<T, Failure>> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::spawn(work).await {
        Ok(outcome) => outcome.map_err(Problem::from),
        Err(_) => Err(Problem::defect()),
    }
}

/// What came of what was done.
fn done(value: &impl Serialize) -> Answer {
    Ok(([(header::CONTENT_TYPE, "application/json")], json(value)?).into_response())
}

/// An answer in JSON. Its tag is of its bytes and of whom it is for; who has that already is told so.
fn answer(caller: &Caller, headers: &HeaderMap, value: &impl Serialize) -> Answer {
    let body = json(value)?;
    let mut tagged = format!("{:?}\n", caller.scope).into_bytes();
    tagged.extend_from_slice(&body);
    let digest = Digest::of(&tagged).to_string();
    let tag = format!("\"{}\"", digest.trim_start_matches("sha256:"));
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let has = known.flat_map(|value| value.split(',')).map(|value| value.trim().trim_start_matches("W/"));
    let mut response = if has.into_iter().any(|value| value == tag || value == "*") {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, "application/json")], body).into_response()
    };
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    Ok(response)
}

async fn document(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    uri: Uri,
) -> Answer {
    Parameters::of(&uri, &[])?;
    answer(&caller, &headers, &api.document.get())
}

async fn status(State(api): State<Api>, Extension(caller): Extension<Caller>, headers: HeaderMap, uri: Uri) -> Answer {
    Parameters::of(&uri, &[])?;
    answer(&caller, &headers, &api.source.status(&caller.scope).await?)
}

/// A word of the path.
type Word = Result<extract::Path<String>, extract::rejection::PathRejection>;

fn word(word: Word) -> Result<String, Problem> {
    word.map(|extract::Path(word)| word).map_err(|error| Problem::question(error.body_text()))
}

async fn workload(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    named: Result<extract::Path<[String; 3]>, extract::rejection::PathRejection>,
    headers: HeaderMap,
    uri: Uri,
) -> Answer {
    Parameters::of(&uri, &[])?;
    let extract::Path(named) = named.map_err(|error| Problem::question(error.body_text()))?;
    answer(&caller, &headers, &api.source.workload(&caller.scope, named.each_ref().map(String::as_str)).await?)
}

async fn advisory(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    id: Word,
    headers: HeaderMap,
    uri: Uri,
) -> Answer {
    Parameters::of(&uri, &[])?;
    answer(&caller, &headers, &api.source.advisory(&caller.scope, &word(id)?).await?)
}

async fn who_has(State(api): State<Api>, Extension(caller): Extension<Caller>, headers: HeaderMap, uri: Uri) -> Answer {
    let (list, mut parameters) = query::list(&WHO_HAS, &uri, &["q"])?;
    let question = parameters.take("q").filter(|question| !question.trim().is_empty());
    let question = question.ok_or_else(|| {
        Problem::question(
            "the parameter q is missing: expected a package (log4j-core), a package URL (pkg:npm/lodash@<4.17.21) or a vulnerability (CVE-2021-44228)",
        )
    })?;
    answer(&caller, &headers, &api.source.who_has(&caller.scope, &question, &list).await?)
}

async fn push_database(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    uri: Uri,
    body: Body,
) -> Answer {
    caller.may(Right::PushDatabase)?;
    let allow_shrink = match Parameters::of(&uri, &["allow-shrink"])?.take("allow-shrink").as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => {
            return Err(Problem::question(format!("invalid value {other:?} for allow-shrink: expected true or false")));
        }
    };
    let Ok(one) = Arc::clone(&api.push).try_acquire_owned() else {
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "another database is being pushed; retry later"));
    };
    let signature = signature(&headers)?;
    let place = tempfile::TempDir::new_in(&api.config.uploads).map_err(|error| unkept(&api, &error))?;
    let file = place.path().join("advisories.db");
    let received = tokio::time::timeout(PUSH_WITHIN, receive(&api, body, &file)).await;
    received.map_err(|_| Problem::new(StatusCode::REQUEST_TIMEOUT, "timed out receiving the file"))??;
    if let Some(signature) = signature {
        let path = place.path().join("advisories.db.minisig");
        tokio::fs::write(path, signature).await.map_err(|error| unkept(&api, &error))?;
    }
    let pushed = whole(async move {
        let _held = (one, place);
        api.source.push_database(&caller.name, file, allow_shrink).await
    });
    done(&pushed.await?)
}

/// The signature that is pushed with a database: what its `.minisig` holds, in base64.
fn signature(headers: &HeaderMap) -> Result<Option<Vec<u8>>, Problem> {
    let Some(value) = headers.get(SIGNATURE) else { return Ok(None) };
    let signature = STANDARD.decode(value.as_bytes()).ok().filter(|signature| signature.len() <= MAX_SIGNATURE);
    let wrong = || {
        Problem::question(format!(
            "invalid header {SIGNATURE}: expected a base64-encoded signature of at most {MAX_SIGNATURE} bytes"
        ))
    };
    signature.map(Some).ok_or_else(wrong)
}

/// What is pushed could not be kept.
fn unkept(api: &Api, error: &std::io::Error) -> Problem {
    let detail = format!("storing the file in {}: {error}", api.config.uploads.display());
    Problem::new(StatusCode::INSUFFICIENT_STORAGE, detail)
}

/// Writes a body into a file, as it comes.
async fn receive(api: &Api, body: Body, path: &Path) -> Result<(), Problem> {
    let limit = api.config.max_upload;
    let fail = |error: std::io::Error| unkept(api, &error);
    let too_large =
        || Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the file is larger than the limit of {limit} bytes"));
    if body.size_hint().lower() > limit {
        return Err(too_large());
    }
    let mut file = tokio::fs::File::create_new(path).await.map_err(fail)?;
    let mut size = 0;
    let mut pieces = body.into_data_stream();
    loop {
        let piece = tokio::time::timeout(PUSH_PAUSE, pieces.next()).await;
        let piece =
            piece.map_err(|_| Problem::new(StatusCode::REQUEST_TIMEOUT, "timed out waiting for more of the file"))?;
        let Some(piece) = piece else { break };
        let bytes = piece.map_err(|error| Problem::question(format!("receiving the file: {error}")))?;
        size += bytes.len() as u64;
        if size > limit {
            return Err(too_large());
        }
        file.write_all(&bytes).await.map_err(fail)?;
    }
    file.flush().await.map_err(fail)?;
    if size == 0 {
        return Err(Problem::question("the request body is empty: expected an advisory database"));
    }
    Ok(())
}

async fn distrust(state: State<Api>, caller: Extension<Caller>, name: Word, uri: Uri) -> Answer {
    believe(state, caller, name, uri, true).await
}

async fn trust(state: State<Api>, caller: Extension<Caller>, name: Word, uri: Uri) -> Answer {
    believe(state, caller, name, uri, false).await
}

async fn believe(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    name: Word,
    uri: Uri,
    distrusted: bool,
) -> Answer {
    caller.may(Right::ManageNodes)?;
    Parameters::of(&uri, &[])?;
    let name = word(name)?;
    let layers = whole(async move { api.source.distrust(&name, distrusted).await }).await?;
    done(&Requeued { layers })
}
