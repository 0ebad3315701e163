//! What every request passes before it is answered, and what every answer carries.

use std::net::IpAddr;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::access::{Asked, Caller, Denied, Right};
use super::list;
use super::problem::Problem;
use super::{Api, page};

/// How long a question may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a question waits for its turn.
const QUEUE: Duration = Duration::from_secs(5);

/// Types of content that a page of somebody else's cannot send here without asking first, which nobody answers
/// ([Fetch, CORS-safelisted request-header](https://fetch.spec.whatwg.org/#cors-safelisted-request-header)).
pub(super) const BODY_TYPES: [&str; 3] = ["application/octet-stream", "application/vnd.sqlite3", "application/json"];

/// Whether a request's path is asked for by who keeps the process alive, and shows nothing.
fn is_probe(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz")
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

/// Refuses what a browser was lured into: a name that somebody points at loopback, and a request that another page makes.
pub(super) async fn browsers(State(api): State<Api>, request: Request, next: Next) -> Response {
    match lured(&api, &request) {
        Some(problem) => problem.into_response(),
        None => next.run(request).await,
    }
}

fn lured(api: &Api, request: &Request) -> Option<Problem> {
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

/// Lets in who may come in. Who asks must be allowed to; what changes something asks for its own right later.
pub(super) async fn callers(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let token = bearer(request.headers(), request.method());
    match api.authorizer.authorize(token.as_deref(), asked(request.method(), request.uri().path())).await {
        Ok(caller) => {
            let reads = matches!(*request.method(), Method::GET | Method::HEAD);
            if reads && let Err(problem) = caller.may(Right::Read) {
                return problem.into_response();
            }
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(Denied::Unknown) => {
            let mut response = Problem::new(StatusCode::UNAUTHORIZED, api.authorizer.hint()).into_response();
            let headers = response.headers_mut();
            headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"outcrop\""));
            if request.uri().path() == "/" {
                headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"outcrop\""));
            }
            response
        }
        Err(Denied::Forbidden(detail)) => Problem::new(StatusCode::FORBIDDEN, detail).into_response(),
        Err(Denied::Unavailable(detail)) => Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).into_response(),
    }
}

/// What a request asks for. What is told of everything, as the page and the metrics do, is the status.
fn asked(method: &Method, path: &str) -> Asked {
    let mut words = path.strip_prefix("/api/v1/").unwrap_or_default().split('/');
    let (first, more) = (words.next().unwrap_or_default(), words.next().is_some());
    if !matches!(*method, Method::GET | Method::HEAD) {
        let is_database = first == "database";
        let (verb, resource) = if is_database { ("create", "databases") } else { ("update", "nodes") };
        return Asked { verb, resource };
    }
    let resource = list::RESOURCES.iter().map(|resource| resource.name).find(|name| *name == first);
    let resource = resource.unwrap_or(match first {
        "who-has" => "packages",
        "advisories" => "findings",
        _ => "status",
    });
    Asked { verb: if more || resource == "status" { "get" } else { "list" }, resource }
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
pub(super) async fn turns(State(api): State<Api>, request: Request, next: Next) -> Response {
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
