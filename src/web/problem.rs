//! Errors as `application/problem+json` ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)).

use std::any::Any;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::source::Failure;

/// The type of content of every error.
pub(super) const CONTENT_TYPE: &str = "application/problem+json";

/// An error: what kind it is, and what it is this time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Problem {
    /// A URI that names the kind of error. `about:blank`: the status says it.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The kind of error in words.
    title: &'static str,
    /// The status of the answer.
    status: u16,
    /// What is the matter, and what to do about it.
    detail: String,
}

impl Problem {
    /// An error of this status. Its detail may hold any text.
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: detail.into(),
        }
    }

    /// Returns what is wrong and what to do about it.
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    /// What cannot be understood of a question.
    pub(super) fn question(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// What is answered where a handler panicked. The panic's words go to whoever watches the process, and to nobody else.
    pub(super) fn defect() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error; see the log of the aggregator")
    }

    /// The same, as the layer that catches panics asks for it.
    pub(super) fn panicked(_: Box<dyn Any + Send>) -> Response {
        Self::defect().into_response()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, [(header::CONTENT_TYPE, CONTENT_TYPE)], body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Question(detail) => Self::question(detail),
            Failure::Missing(detail) => Self::new(StatusCode::NOT_FOUND, detail),
            Failure::Refused(detail) => Self::new(StatusCode::CONFLICT, detail),
            Failure::Store(detail) | Failure::Unavailable(detail) => Self::new(StatusCode::SERVICE_UNAVAILABLE, detail),
        }
    }
}
