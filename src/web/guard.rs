//! What every request passes before it is answered, and what every answer carries.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tracing::info;

use super::access::{Caller, Denied, Right};
use super::problem::Problem;
use super::routes::Route;
use super::{Api, page};

/// How long a question may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a question waits for its turn.
const QUEUE: Duration = Duration::from_secs(5);

/// Types of content that a page of somebody else's cannot send here without asking first, which nobody answers
/// ([Fetch, CORS-safelisted request-header](https://fetch.spec.whatwg.org/#cors-safelisted-request-header)).
pub(super) const BODY_TYPES: [&str; 3] = ["application/octet-stream", "application/vnd.sqlite3", "application/json"];

/// Paths of the probes.
pub(super) const PROBES: [&str; 3] = ["/livez", "/readyz", "/healthz"];

/// Longest reason of a rejection that is logged, in bytes.
const MAX_REASON: usize = 300;

/// Whether a request's path is asked for by who keeps the process alive, and shows nothing.
fn is_probe(path: &str) -> bool {
    PROBES.contains(&path)
}

/// Answers carry what a browser has to know: run nothing, frame nothing, guess nothing.
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

/// Rejects what a browser can be tricked into: a host name that somebody resolves to loopback, and a request that a page of another origin sends.
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
    if !is_probe(request.uri().path()) && !is_for_us(api, request) {
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

/// Whether the host that is asked for is this one. Only loopback needs it: elsewhere nobody comes in without a token.
fn is_for_us(api: &Api, request: &Request) -> bool {
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
    let Route { api, path, permission } = route;
    let token = bearer(request.headers(), request.method());
    let (status, reason, response) = match api.authorizer.authorize(token.as_deref(), permission).await {
        Ok(caller) => {
            if permission.is_read()
                && let Err(problem) = caller.may(Right::Read)
            {
                return problem.into_response();
            }
            request.extensions_mut().insert(caller);
            return next.run(request).await;
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
        Err(Denied::Forbidden(detail)) => {
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

/// Logs a request that was rejected. Anybody can cause these events, so that most of a flood are left out and counted.
fn rejected(api: &Api, route: &'static str, status: StatusCode, reason: &str) {
    if let Some(left_out) = api.rejections.admit(Instant::now()) {
        let reason = reason.get(..reason.floor_char_boundary(MAX_REASON)).unwrap_or_default();
        info!(route, status = status.as_u16(), reason, left_out, "request rejected");
    }
}

/// The token that a request shows. A browser shows it as a password, and that counts for reading only.
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
    /// Whether the caller has a right.
    pub(super) fn may(&self, right: Right) -> Result<(), Problem> {
        if self.rights.contains(&right) {
            return Ok(());
        }
        let detail = format!("{} does not have the right {}", self.name, right.as_str());
        Err(Problem::new(StatusCode::FORBIDDEN, detail))
    }
}

/// Answers so many questions at a time, and none for ever. What changes something is bounded by its own rules.
pub(super) async fn limit(State(api): State<Api>, request: Request, next: Next) -> Response {
    let late = |detail: &str| Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).into_response();
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    let Ok(Ok(_turn)) = tokio::time::timeout(QUEUE, api.turns.acquire()).await else {
        return late("too many concurrent requests; retry later");
    };
    match tokio::time::timeout(PATIENCE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => late("the request timed out; use filters or a smaller limit"),
    }
}
