//! Errors as `application/problem+json` ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)).

use std::any::Any;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use outcrop_proto::escape::escape_json;
use serde::Serialize;
use utoipa::ToSchema;

use super::source::Failure;

/// Content type of every error.
pub(super) const CONTENT_TYPE: &str = "application/problem+json";

/// An error, as RFC 9457 defines it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Problem {
    /// A URI that names the kind of error; always `about:blank`, which means that the status is the kind.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The name of the status.
    title: &'static str,
    /// The HTTP status of the response.
    status: u16,
    /// The cause, and a hint.
    detail: String,
}

impl Problem {
    /// Creates an error. `detail` may contain any text; it is sent as JSON.
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: detail.into(),
        }
    }

    /// Returns the cause and the hint.
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    /// Creates the error for a request that is malformed.
    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// Creates the error for a handler that panicked. The panic's message is in the log and not in the response.
    pub(super) fn defect() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error; see the log of the aggregator")
    }

    /// Returns [`Self::defect`] as a response, with the signature that `CatchPanicLayer` requires.
    pub(super) fn panicked(_: Box<dyn Any + Send>) -> Response {
        Self::defect().into_response()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = escape_json(&serde_json::to_string(&self).unwrap_or_default()).into_owned();
        let mut response = (status, [(header::CONTENT_TYPE, CONTENT_TYPE)], body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Invalid(detail) => Self::bad_request(detail),
            Failure::Missing(detail) => Self::new(StatusCode::NOT_FOUND, detail),
            Failure::Refused(detail) => Self::new(StatusCode::CONFLICT, detail),
            Failure::NotStored(detail) => Self::new(StatusCode::INSUFFICIENT_STORAGE, detail),
            Failure::Store(detail) | Failure::Unavailable(detail) => Self::new(StatusCode::SERVICE_UNAVAILABLE, detail),
        }
    }
}
