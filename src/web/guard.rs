//! Middleware of all endpoints: rejects forged requests, authorizes callers, limits concurrency, and adds security headers.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use axum::RequestExt as _;
use axum::extract::{RawPathParams, Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tracing::{info, warn};

use super::access::{Caller, Denied, Right};
use super::problem::Problem;
use super::routes::Route;
use super::source::Scope;
use super::{Api, page, unsent};

/// Maximum time of a read request.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Maximum time that a read request waits for its turn.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(20);

/// Content types that are allowed for `POST`. A web page of another origin cannot send them without a CORS preflight request, which no
/// endpoint answers ([Fetch, CORS-safelisted request-header](https://fetch.spec.whatwg.org/#cors-safelisted-request-header)).
pub(super) const BODY_TYPES: [&str; 3] = ["application/octet-stream", "application/vnd.sqlite3", "application/json"];

/// Paths of the probes.
pub(super) const PROBES: [&str; 3] = ["/livez", "/readyz", "/healthz"];

/// Maximum size of a logged reason, in bytes.
const MAX_REASON: usize = 300;

/// Returns whether the path is a probe's. Probes need neither a token nor an allowed host name.
fn is_probe(path: &str) -> bool {
    PROBES.contains(&path)
}

/// Adds headers to every response that forbid a browser to run scripts, to show the response in a frame, and to guess its type.
pub(super) async fn headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, page::policy()),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
        (header::VARY, HeaderValue::from_static("Authorization")),
    ] {
        headers.insert(name, value);
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
    response
}

/// Rejects requests that a malicious web page can make a browser send: to a host name that its owner resolves to a loopback address (DNS
/// rebinding), or from another origin.
pub(super) async fn reject_forged(State(api): State<Api>, request: Request, next: Next) -> Response {
    match forged(&api, &request) {
        Some(problem) => {
            let response = problem.clone().into_response();
            rejected(&api, "any", response.status(), problem.detail());
            response
        }
        None => next.run(request).await,
    }
}

fn forged(api: &Api, request: &Request) -> Option<Problem> {
    let headers = request.headers();
    if !is_probe(request.uri().path()) && !is_allowed_host(api, request) {
        let detail = "the host of this request is not allowed; add it with --api-host";
        return Some(Problem::new(StatusCode::MISDIRECTED_REQUEST, detail));
    }
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return None;
    }
    if headers.contains_key(header::ORIGIN) {
        return Some(Problem::new(
            StatusCode::FORBIDDEN,
            "requests with an Origin header are not allowed to change anything",
        ));
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if *request.method() == Method::POST && !BODY_TYPES.iter().any(|known| known.eq_ignore_ascii_case(kind)) {
        let detail = format!("unsupported Content-Type: expected one of {}", BODY_TYPES.join(", "));
        return Some(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    None
}

/// Returns whether the requested host is this one. The check matters on loopback only: on other addresses every request needs a token.
fn is_allowed_host(api: &Api, request: &Request) -> bool {
    let config = &api.config;
    if !config.loopback {
        return true;
    }
    let named = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let authority = named.and_then(|host| host.parse::<Authority>().ok());
    let Some(authority) = authority.as_ref().or(request.uri().authority()) else { return false };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let is_loopback = host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    is_loopback || config.hosts.iter().any(|known| known.eq_ignore_ascii_case(host))
}

/// Authorizes the caller of an endpoint. Endpoints that change something check the right to do so as well.
pub(super) async fn authorize(State(route): State<Route>, mut request: Request, next: Next) -> Response {
    let Route { api, path, permission, action } = route;
    let target = match action {
        Some(_) => target(&mut request).await,
        None => String::new(),
    };
    let token = bearer(request.headers(), request.method());
    let (status, reason, response) = match api.authorizer.authorize(token.as_deref(), permission).await {
        Ok(caller) => {
            if permission.is_read()
                && let Err(problem) = caller.require(Right::Read)
            {
                return problem.into_response();
            }
            let who = caller.name.clone();
            request.extensions_mut().insert(caller);
            let response = next.run(request).await;
            audit_refused(&api, &who, action, &target, response.status()).await;
            return response;
        }
        Err(Denied::Unknown) => {
            let reason = if token.is_some() { "unknown token" } else { "no token" };
            let mut response = Problem::new(StatusCode::UNAUTHORIZED, api.authorizer.hint()).into_response();
            let headers = response.headers_mut();
            headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"outcrop\""));
            if path == "/" {
                headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"outcrop\""));
            }
            (StatusCode::UNAUTHORIZED, reason.to_owned(), response)
        }
        Err(Denied::Forbidden { name, detail }) => {
            audit_refused(&api, &name, action, &target, StatusCode::FORBIDDEN).await;
            let problem = Problem::new(StatusCode::FORBIDDEN, detail.clone());
            (StatusCode::FORBIDDEN, detail, problem.into_response())
        }
        Err(Denied::Unavailable(detail)) => {
            let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail.clone());
            (StatusCode::SERVICE_UNAVAILABLE, detail, problem.into_response())
        }
    };
    rejected(&api, path, status, &reason);
    response
}

/// Returns the parameters of a request's path: the name of the object to change.
async fn target(request: &mut Request) -> String {
    let Ok(parameters) = request.extract_parts::<RawPathParams>().await else { return String::new() };
    let values: Vec<&str> = parameters.iter().map(|(_, value)| value).collect();
    values.join("/")
}

/// Records that an authenticated caller tried to change something and failed. Successful changes are recorded where they are made.
async fn audit_refused(api: &Api, who: &str, action: Option<&'static str>, target: &str, status: StatusCode) {
    let Some(action) = action.filter(|_| !status.is_success() && api.audits.admit(Instant::now()).is_some()) else {
        return;
    };
    let target = target.get(..target.floor_char_boundary(MAX_REASON)).unwrap_or_default();
    if let Err(failure) = api.source.audit_refused(who, action, target, status == StatusCode::FORBIDDEN).await {
        warn!(who, action, ?failure, "refused request not audited");
    }
}

/// Logs a rejected request. Anyone can cause these events, so they are rate-limited, and the event counts those left out.
fn rejected(api: &Api, route: &'static str, status: StatusCode, reason: &str) {
    if let Some(left_out) = api.rejections.admit(Instant::now()) {
        let reason = reason.get(..reason.floor_char_boundary(MAX_REASON)).unwrap_or_default();
        info!(route, status = status.as_u16(), reason, left_out, "request rejected");
    }
}

/// Returns the request's token: a bearer token or, for requests that only read, the password of basic authentication, which browsers use.
fn bearer(headers: &HeaderMap, method: &Method) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = value.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().to_owned());
    }
    if scheme.eq_ignore_ascii_case("basic") && matches!(*method, Method::GET | Method::HEAD) {
        let pair = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
        return pair.split_once(':').map(|(_, password)| password.to_owned());
    }
    None
}

impl Caller {
    /// Returns an error if the caller does not have the right, or has it for some namespaces and it is cluster-wide.
    pub(super) fn require(&self, right: Right) -> Result<(), Problem> {
        let (name, word) = (&self.name, right.as_str());
        let detail = if !self.rights.contains(&right) {
            format!("{name} does not have the right {word}")
        } else if right.is_cluster_wide() && self.scope != Scope::All {
            format!(
                "{name} is limited to namespaces, and the right {word} is cluster-wide; use a token without namespaces"
            )
        } else {
            return Ok(());
        };
        Err(Problem::new(StatusCode::FORBIDDEN, detail))
    }
}

/// Runs read requests when it is their turn, and limits their time. Requests that change something have limits of their own.
pub(super) async fn limit(State(api): State<Api>, request: Request, next: Next) -> Response {
    let refuse = |status: StatusCode, detail: &str| Problem::new(status, detail).into_response();
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    let Some(share) = request.extensions().get::<Caller>().map(Caller::share) else {
        return Problem::defect().into_response();
    };
    let Ok(turn) = api.turns.request(share) else {
        return refuse(StatusCode::TOO_MANY_REQUESTS, "this caller has too many concurrent requests; retry later");
    };
    // If the client goes away, this future is dropped: with it the place in the queue, or the turn and the work.
    let Ok(Ok(turn)) = tokio::time::timeout(QUEUE_TIMEOUT, turn).await else {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "too many concurrent requests; retry later");
    };
    match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => unsent::send(response, turn).await,
        Err(_) => refuse(StatusCode::SERVICE_UNAVAILABLE, "the request timed out; use filters or a smaller limit"),
    }
}
