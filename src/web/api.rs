//! The routes below `/api/v1`.

use std::borrow::Cow;
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
use outcrop_proto::escape::escape_json;
use serde::Serialize;
use tokio::io::AsyncWriteExt as _;
use tokio_stream::StreamExt as _;

use super::Api;
use super::access::{Caller, Permission, Right};
use super::cursor::Binding;
use super::list::{
    CONTAINERS, DELIVERIES, FINDINGS, IMAGES, ISSUES, LAYERS, NODES, PACKAGES, TARGETS, WHO_HAS, WORKLOADS,
};
use super::model::{
    AdvisoryItem, ContainerItem, DeliveryChanged, DeliveryDetail, DeliveryItem, FindingItem, HasPage, ImageItem,
    IssueItem, LayerItem, NodeItem, PackageItem, Pushed, Requeued, Status, TargetItem, TargetTest, WorkloadDetail,
    WorkloadItem,
};
use super::openapi::{self, AnyDocument, flag, no_body, required, segment};
use super::problem::Problem;
use super::query::{self, Parameters};
use super::routes::Endpoint;
use super::source::Failure;
use crate::store::check_room;

/// Maximum time between two chunks of a pushed file.
const PUSH_PAUSE: Duration = Duration::from_secs(30);

/// Maximum time to receive a whole pushed file.
const PUSH_WITHIN: Duration = Duration::from_secs(1800);

/// Request header with the signature of a pushed database.
pub(super) const SIGNATURE: &str = "outcrop-signature";

/// Maximum size of a signature, in bytes.
const MAX_SIGNATURE: usize = 4 << 10;

/// The result of a handler.
type Answer = Result<Response, Problem>;

/// Declares the endpoint that lists a resource. The [`Source`](super::source::Source) method of the same name returns the items.
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
                let (mut list, _) = query::list(&$resource, &uri, &[])?;
                let binding = Binding::new(&caller, &$resource, &list, "")?;
                api.cursors.open(&binding, &mut list.cursor)?;
                let mut page = api.source.$method(&caller.scope, &list).await?;
                api.cursors.seal(&binding, &mut page.next)?;
                answer(&caller, &headers, &page)
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
    let question = "a package (log4j-core), a range of its versions (lodash<4.17.21), a package URL (pkg:npm/lodash@^4) or a vulnerability (CVE-2021-44228)";
    let node = || vec![segment("name", "name of the node")];
    let of_target = || vec![segment("name", "name of the target")];
    let of_delivery = || vec![segment("id", "number of the delivery")];
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
            openapi::list_of::<HasPage>(&WHO_HAS, vec![required("q", question)]),
            who_has,
        ),
        Endpoint::post(
            "/api/v1/database",
            Permission::create("databases"),
            "push-database",
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
            "distrust-node",
            openapi::post::<Requeued>(
                "Discard a node's inventories and let other nodes read its layers again; requires the right manage-nodes",
                node(),
                no_body(),
                &node_errors,
            ),
            distrust,
        ),
        list!(TARGETS, targets, TargetItem),
        list!(DELIVERIES, deliveries, DeliveryItem),
        Endpoint::get(
            "/api/v1/deliveries/{id}",
            Permission::get("deliveries"),
            openapi::get::<DeliveryDetail>("A delivery with its content", of_delivery(), &[StatusCode::NOT_FOUND]),
            delivery,
        ),
        Endpoint::post(
            "/api/v1/deliveries/{id}/replay",
            Permission::update("deliveries"),
            "replay-delivery",
            openapi::post::<DeliveryChanged>(
                "Send a refused delivery again; requires the right manage-deliveries",
                of_delivery(),
                no_body(),
                &node_errors,
            ),
            async |state: State<Api>, caller: Extension<Caller>, id: Segment, uri: Uri| -> Answer {
                settle(state, caller, id, uri, true).await
            },
        ),
        Endpoint::post(
            "/api/v1/deliveries/{id}/drop",
            Permission::update("deliveries"),
            "drop-delivery",
            openapi::post::<DeliveryChanged>(
                "Remove a refused delivery; requires the right manage-deliveries",
                of_delivery(),
                no_body(),
                &node_errors,
            ),
            async |state: State<Api>, caller: Extension<Caller>, id: Segment, uri: Uri| -> Answer {
                settle(state, caller, id, uri, false).await
            },
        ),
        Endpoint::post(
            "/api/v1/targets/{name}/resync",
            Permission::update("targets"),
            "resync-target",
            openapi::post::<DeliveryChanged>(
                "Send everything to a target again; requires the right manage-deliveries",
                of_target(),
                no_body(),
                &node_errors,
            ),
            resync,
        ),
        Endpoint::post(
            "/api/v1/targets/{name}/test",
            Permission::update("targets"),
            "test-target",
            openapi::post::<TargetTest>(
                "Send a sample to a target, and return its answer; requires the right manage-deliveries",
                of_target(),
                no_body(),
                &node_errors,
            ),
            test,
        ),
        Endpoint::post(
            "/api/v1/nodes/{name}/trust",
            Permission::update("nodes"),
            "trust-node",
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

/// Serializes a value as JSON. Characters that could mislead whoever reads the response itself are escaped; the value stays the same.
fn json(value: &impl Serialize) -> Result<Vec<u8>, Problem> {
    let text = serde_json::to_string(value)
        .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("writing the response: {error}")))?;
    let escaped = match escape_json(&text) {
        Cow::Borrowed(_) => None,
        Cow::Owned(escaped) => Some(escaped),
    };
    Ok(escaped.unwrap_or(text).into_bytes())
}

/// Runs a change to its end, even if the client disconnects meanwhile.
async fn run_to_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Failure>> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::spawn(work).await {
        Ok(outcome) => outcome.map_err(Problem::from),
        Err(_) => Err(Problem::defect()),
    }
}

/// Returns the response to a change. It has no `ETag`.
fn changed(value: &impl Serialize) -> Answer {
    Ok(([(header::CONTENT_TYPE, "application/json")], json(value)?).into_response())
}

/// Returns a JSON response. Its `ETag` is a digest of the body and of the caller's scope; if `If-None-Match` names it, the response is 304.
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

/// One segment of the path.
type Segment = Result<extract::Path<String>, extract::rejection::PathRejection>;

fn text(segment: Segment) -> Result<String, Problem> {
    segment.map(|extract::Path(text)| text).map_err(|error| Problem::bad_request(error.body_text()))
}

async fn workload(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    named: Result<extract::Path<[String; 3]>, extract::rejection::PathRejection>,
    headers: HeaderMap,
    uri: Uri,
) -> Answer {
    Parameters::of(&uri, &[])?;
    let extract::Path(named) = named.map_err(|error| Problem::bad_request(error.body_text()))?;
    answer(&caller, &headers, &api.source.workload(&caller.scope, named.each_ref().map(String::as_str)).await?)
}

async fn advisory(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    id: Segment,
    headers: HeaderMap,
    uri: Uri,
) -> Answer {
    Parameters::of(&uri, &[])?;
    answer(&caller, &headers, &api.source.advisory(&caller.scope, &text(id)?).await?)
}

async fn who_has(State(api): State<Api>, Extension(caller): Extension<Caller>, headers: HeaderMap, uri: Uri) -> Answer {
    let (mut list, mut parameters) = query::list(&WHO_HAS, &uri, &["q"])?;
    let question = parameters.take("q").filter(|question| !question.trim().is_empty());
    let question = question.ok_or_else(|| {
        Problem::bad_request(
            "the parameter q is missing: expected a package (log4j-core), a range of its versions (lodash<4.17.21), a package URL (pkg:npm/lodash@^4) or a vulnerability (CVE-2021-44228)",
        )
    })?;
    let binding = Binding::new(&caller, &WHO_HAS, &list, &question)?;
    api.cursors.open(&binding, &mut list.cursor)?;
    let mut page = api.source.who_has(&caller.scope, &question, &list).await?;
    api.cursors.seal(&binding, &mut page.next)?;
    answer(&caller, &headers, &page)
}

async fn push_database(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    uri: Uri,
    body: Body,
) -> Answer {
    caller.require(Right::PushDatabase)?;
    let allow_shrink = match Parameters::of(&uri, &["allow-shrink"])?.take("allow-shrink").as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => {
            return Err(Problem::bad_request(format!(
                "invalid value {other:?} for allow-shrink: expected true or false"
            )));
        }
    };
    let Ok(permit) = Arc::clone(&api.push).try_acquire_owned() else {
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "another database is being pushed; retry later"));
    };
    let signature = signature(&headers)?;
    let place = tempfile::TempDir::new_in(&api.config.uploads).map_err(|error| not_stored(&api, &error))?;
    let file = place.path().join("advisories.db");
    let received = tokio::time::timeout(PUSH_WITHIN, receive(&api, body, &file)).await;
    received.map_err(|_| Problem::new(StatusCode::REQUEST_TIMEOUT, "timed out receiving the file"))??;
    if let Some(signature) = signature {
        let path = place.path().join("advisories.db.minisig");
        tokio::fs::write(path, signature).await.map_err(|error| not_stored(&api, &error))?;
    }
    let pushed = run_to_end(async move {
        // Both live until the push has ended: no second push starts, and the directory is not removed.
        let _held = (permit, place);
        api.source.push_database(&caller.name, file, allow_shrink).await
    });
    changed(&pushed.await?)
}

/// Returns the signature in the request header: the content of the `.minisig` file, decoded from base64.
fn signature(headers: &HeaderMap) -> Result<Option<Vec<u8>>, Problem> {
    let Some(value) = headers.get(SIGNATURE) else { return Ok(None) };
    let signature = STANDARD.decode(value.as_bytes()).ok().filter(|signature| signature.len() <= MAX_SIGNATURE);
    let wrong = || {
        Problem::bad_request(format!(
            "invalid header {SIGNATURE}: expected a base64-encoded signature of at most {MAX_SIGNATURE} bytes"
        ))
    };
    signature.map(Some).ok_or_else(wrong)
}

/// Returns the error for a pushed file that could not be written.
fn not_stored(api: &Api, error: &std::io::Error) -> Problem {
    let detail = format!("storing the file in {}: {error}", api.config.uploads.display());
    Problem::new(StatusCode::INSUFFICIENT_STORAGE, detail)
}

/// Writes the request body into a file, chunk by chunk.
async fn receive(api: &Api, body: Body, path: &Path) -> Result<(), Problem> {
    let limit = api.config.max_upload;
    let fail = |error: std::io::Error| not_stored(api, &error);
    let too_large =
        || Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the file is larger than the limit of {limit} bytes"));
    // The file is stored twice while it is checked: here and, if it is accepted, in the directory of advisory databases.
    let check = |spooled: u64, more: u64| {
        let needed = spooled.saturating_add(more).saturating_add(more);
        check_room(&api.config.uploads, needed).map_err(|error| fail(error.into()))
    };
    let announced = body.size_hint().lower();
    if announced > limit {
        return Err(too_large());
    }
    check(0, announced)?;
    let mut file = tokio::fs::File::create_new(path).await.map_err(fail)?;
    let mut size: u64 = 0;
    let mut pieces = body.into_data_stream();
    loop {
        let piece = tokio::time::timeout(PUSH_PAUSE, pieces.next()).await;
        let piece =
            piece.map_err(|_| Problem::new(StatusCode::REQUEST_TIMEOUT, "timed out waiting for more of the file"))?;
        let Some(piece) = piece else { break };
        let bytes = piece.map_err(|error| Problem::bad_request(format!("receiving the file: {error}")))?;
        let more = bytes.len() as u64;
        if size + more > limit {
            return Err(too_large());
        }
        check(size, more)?;
        size += more;
        file.write_all(&bytes).await.map_err(fail)?;
    }
    file.flush().await.map_err(fail)?;
    if size == 0 {
        return Err(Problem::bad_request("the request body is empty: expected an advisory database"));
    }
    Ok(())
}

async fn distrust(state: State<Api>, caller: Extension<Caller>, name: Segment, uri: Uri) -> Answer {
    set_trust(state, caller, name, uri, true).await
}

async fn trust(state: State<Api>, caller: Extension<Caller>, name: Segment, uri: Uri) -> Answer {
    set_trust(state, caller, name, uri, false).await
}

async fn set_trust(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    name: Segment,
    uri: Uri,
    distrusted: bool,
) -> Answer {
    caller.require(Right::ManageNodes)?;
    Parameters::of(&uri, &[])?;
    let name = text(name)?;
    let layers = run_to_end(async move { api.source.distrust(&caller.name, &name, distrusted).await }).await?;
    changed(&Requeued { layers })
}

/// Returns the number in a path.
fn number(segment: Segment) -> Result<i64, Problem> {
    let text = text(segment)?;
    text.parse().map_err(|_| Problem::bad_request(format!("invalid delivery {text:?}: expected a number")))
}

async fn delivery(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    id: Segment,
    headers: HeaderMap,
    uri: Uri,
) -> Answer {
    Parameters::of(&uri, &[])?;
    answer(&caller, &headers, &api.source.delivery(&caller.scope, number(id)?).await?)
}

async fn settle(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    id: Segment,
    uri: Uri,
    again: bool,
) -> Answer {
    caller.require(Right::ManageDeliveries)?;
    Parameters::of(&uri, &[])?;
    let id = number(id)?;
    changed(&run_to_end(async move { api.source.settle_delivery(&caller.name, id, again).await }).await?)
}

async fn resync(State(api): State<Api>, Extension(caller): Extension<Caller>, name: Segment, uri: Uri) -> Answer {
    caller.require(Right::ManageDeliveries)?;
    Parameters::of(&uri, &[])?;
    let name = text(name)?;
    changed(&run_to_end(async move { api.source.resync_target(&caller.name, &name).await }).await?)
}

async fn test(State(api): State<Api>, Extension(caller): Extension<Caller>, name: Segment, uri: Uri) -> Answer {
    caller.require(Right::ManageDeliveries)?;
    Parameters::of(&uri, &[])?;
    let name = text(name)?;
    changed(&run_to_end(async move { api.source.test_target(&caller.name, &name).await }).await?)
}
