//! Endpoints: path, permission, document and handler are one declaration.
//!
//! An [`Endpoint`] cannot be constructed without a permission, so no route inherits the permission of another one. A path without an
//! endpoint is answered with 404 without authorization.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{Request, State};
use axum::handler::Handler;
use axum::http::{StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{MethodRouter, get, post};
use tracing::{Instrument as _, debug, info_span};
use utoipa::openapi::path::{HttpMethod, Paths};
use utoipa_axum::router::OpenApiRouter;

use super::access::Permission;
use super::openapi::{self, Documented};
use super::problem::Problem;
use super::{Api, guard};

/// The name under which requests to unknown paths are counted.
const UNKNOWN: &str = "unknown";

/// The callers that may request an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// Anyone, without a token: probes, which reveal no data.
    Anybody,
    /// Callers with this permission.
    Permission(Permission),
}

/// An endpoint of the API.
pub(super) struct Endpoint {
    /// The path, as a template: `/api/v1/advisories/{id}`.
    path: &'static str,
    method: HttpMethod,
    access: Access,
    /// The word for what it changes; none where it changes nothing.
    action: Option<&'static str>,
    /// The description in the OpenAPI document. Pages, metrics and probes have none.
    documented: Option<Documented>,
    handler: MethodRouter<Api>,
}

impl Endpoint {
    /// Declares `GET path` as an endpoint of the API.
    pub(super) fn get<T: 'static>(
        path: &'static str,
        permission: Permission,
        documented: Documented,
        handler: impl Handler<T, Api>,
    ) -> Self {
        let access = Access::Permission(permission);
        let documented = Some(documented);
        Self { path, method: HttpMethod::Get, access, action: None, documented, handler: get(handler) }
    }

    /// Declares `POST path` as an endpoint of the API. `action` is the word for what it changes, as the audit has it.
    pub(super) fn post<T: 'static>(
        path: &'static str,
        permission: Permission,
        action: &'static str,
        documented: Documented,
        handler: impl Handler<T, Api>,
    ) -> Self {
        let access = Access::Permission(permission);
        let (documented, action) = (Some(documented), Some(action));
        Self { path, method: HttpMethod::Post, access, action, documented, handler: post(handler) }
    }

    /// Declares `GET path` as a page or an exposition, which the OpenAPI document does not describe.
    pub(super) fn page<T: 'static>(path: &'static str, permission: Permission, handler: impl Handler<T, Api>) -> Self {
        let access = Access::Permission(permission);
        Self { path, method: HttpMethod::Get, access, action: None, documented: None, handler: get(handler) }
    }

    /// Declares `GET path` as a probe, which needs no token and is not limited by [`guard::limit`].
    pub(super) fn probe<T: 'static>(path: &'static str, handler: impl Handler<T, Api>) -> Self {
        let access = Access::Anybody;
        Self { path, method: HttpMethod::Get, access, action: None, documented: None, handler: get(handler) }
    }
}

/// An endpoint as its middleware sees it.
#[derive(Clone)]
pub(super) struct Route {
    pub(super) api: Api,
    /// The template of the path.
    pub(super) path: &'static str,
    pub(super) permission: Permission,
    /// The word for what it changes; none where it changes nothing.
    pub(super) action: Option<&'static str>,
}

/// Returns the router of the endpoints.
pub(super) fn router(api: &Api, endpoints: Vec<Endpoint>) -> Router<Api> {
    let mut router = OpenApiRouter::with_openapi(openapi::empty());
    for Endpoint { path, method, access, action, documented, handler } in endpoints {
        // Only the endpoint's own method is authorized: any other one is answered with 405.
        let handler = match access {
            Access::Anybody => handler,
            Access::Permission(permission) => {
                let route = Route { api: api.clone(), path, permission, action };
                handler
                    .route_layer(from_fn_with_state(api.clone(), guard::limit))
                    .route_layer(from_fn_with_state(route, guard::authorize))
            }
        };
        let handler = handler.route_layer(from_fn_with_state((api.clone(), path), observe));
        router = match documented {
            Some(Documented { operation, schemas }) => {
                let mut paths = Paths::new();
                paths.add_path_operation(path, vec![method], operation);
                router.routes((schemas, paths, handler))
            }
            None => router.route(path, handler),
        };
    }
    let (router, document) = router.split_for_parts();
    // Setting it fails only if it is set already, and this is the only place that sets it.
    let _ = api.document.set(openapi::finish(document));
    router.fallback(unknown).method_not_allowed_fallback(not_allowed)
}

async fn unknown(State(api): State<Api>, uri: Uri) -> Problem {
    api.config.metrics.request(UNKNOWN, StatusCode::NOT_FOUND.as_u16(), 0.0);
    Problem::new(StatusCode::NOT_FOUND, format!("path {} not found", uri.path()))
}

async fn not_allowed(State(api): State<Api>) -> Problem {
    api.config.metrics.request(UNKNOWN, StatusCode::METHOD_NOT_ALLOWED.as_u16(), 0.0);
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed; see the Allow header")
}

/// Measures how long a request takes. The template of the path is recorded, never the path: it may contain any text.
async fn observe(State((api, path)): State<(Api, &'static str)>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let span = info_span!("request", method = %request.method(), route = path);
    let answer = async {
        let response = next.run(request).await;
        let (status, seconds) = (response.status().as_u16(), started.elapsed().as_secs_f64());
        debug!(status, seconds, "request answered");
        api.config.metrics.request(path, status, seconds);
        response
    };
    answer.instrument(span).await
}

/// The OpenAPI document, which is set when the router is complete.
pub(super) type Document = Arc<std::sync::OnceLock<utoipa::openapi::OpenApi>>;
