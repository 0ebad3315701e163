//! Documents for other tools, streamed: no more than a page of rows and a piece of the document are in memory.
//!
//! A document is written while its rows are read, page by page; each page is a turn of the caller like any other request. If a page cannot be
//! read, the connection is closed before the end of the body, so that no client takes a part for the whole.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{HeaderValue, Uri, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::Api;
use super::access::{Caller, Permission};
use super::guard::REQUEST_TIMEOUT;
use super::list::EXPORTS;
use super::openapi;
use super::problem::Problem;
use super::query;
use super::routes::Endpoint;
use super::source::{Export, Failure, RowSource};
use super::unsent::Streamed;
use crate::export::{Content, Exporter, Read, Rows};

/// Size of a piece of a document, in bytes. A page of rows may exceed it.
const PIECE: usize = 64 << 10;

/// Pause before a turn is requested again, if the caller has too many requests.
const PAUSE: Duration = Duration::from_millis(200);

/// Declares the endpoint of one content.
macro_rules! endpoint {
    ($path:literal, $content:expr, $about:literal) => {
        Endpoint::get(
            $path,
            Permission::get("exports"),
            openapi::download($about, &EXPORTS, $content.formats()),
            async |state: State<Api>, caller: Extension<Caller>, uri: Uri| -> Result<Response, Problem> {
                export(state, caller, uri, $content).await
            },
        )
    };
}

/// Returns the endpoints.
pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        endpoint!("/api/v1/exports/sbom", Content::Sbom, "Bill of materials of images; CycloneDX contains findings"),
        endpoint!(
            "/api/v1/exports/findings",
            Content::Findings,
            "Findings of images, for spreadsheets and other tools"
        ),
        endpoint!("/api/v1/exports/packages", Content::Packages, "Packages of images, for spreadsheets"),
        endpoint!("/api/v1/exports/vex", Content::Vex, "Statements of advisories about images"),
        endpoint!("/api/v1/exports/report", Content::Report, "Images with coverage, packages and findings"),
    ]
}

async fn export(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    content: Content,
) -> Result<Response, Problem> {
    let (list, mut more) = query::filters(&EXPORTS, &uri, &["format"])?;
    let formats = content.formats();
    let format = match more.take("format") {
        None => formats.first().copied(),
        Some(name) => formats.iter().copied().find(|format| format.as_str() == name),
    };
    let format = format.ok_or_else(|| {
        let known: Vec<&str> = formats.iter().map(|format| format.as_str()).collect();
        Problem::bad_request(format!("invalid value for format: expected one of {}", known.join(", ")))
    })?;
    let Export { document, images, rows } = api.source.export(&caller.scope, &list).await?;
    let name = format!("outcrop-{}.{}", content.as_str(), format.extension());
    let exporter = Exporter::new(format, document, images);
    let document = Streaming { api, caller, exporter, rows, read: None, ended: false };
    let body = stream::unfold(document, |mut document| async {
        let piece = document.next().await?;
        Some((piece, document))
    });
    let mut response = Body::from_stream(body).into_response();
    response.extensions_mut().insert(Streamed);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
    let disposition = HeaderValue::from_str(&format!("attachment; filename=\"{name}\""));
    headers.extend(disposition.ok().map(|disposition| (header::CONTENT_DISPOSITION, disposition)));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// A document that is being written.
struct Streaming {
    api: Api,
    caller: Caller,
    exporter: Exporter,
    rows: Box<dyn RowSource>,
    /// What is being read.
    read: Option<Read>,
    ended: bool,
}

impl Streaming {
    /// Returns the next piece; `None` after the last one, and after an error.
    async fn next(&mut self) -> Option<io::Result<String>> {
        if self.ended {
            return None;
        }
        let filled = self.fill().await;
        Some(match filled {
            Ok(()) => Ok(self.exporter.take()),
            Err(failure) => {
                self.ended = true;
                warn!(caller = self.caller.name, ?failure, "export aborted");
                Err(io::Error::other("the export failed"))
            }
        })
    }

    /// Writes until there is a piece, or the document is complete.
    async fn fill(&mut self) -> Result<(), Failure> {
        while self.exporter.size() < PIECE {
            let Some(read) = self.read else {
                self.read = self.exporter.next();
                self.ended = self.read.is_none();
                if self.ended {
                    return Ok(());
                }
                continue;
            };
            match self.page(read).await? {
                Some(rows) => self.exporter.write(rows),
                None => self.read = None,
            }
        }
        Ok(())
    }

    /// Reads a page when it is the caller's turn.
    async fn page(&mut self, read: Read) -> Result<Option<Rows>, Failure> {
        let busy = || Failure::Unavailable("too many concurrent requests".to_owned());
        let share = self.caller.share();
        let turns = Arc::clone(&self.api.turns);
        let turn = async {
            loop {
                match turns.request(share) {
                    Ok(turn) => return turn.await,
                    Err(_) => sleep(PAUSE).await,
                }
            }
        };
        let _turn = timeout(REQUEST_TIMEOUT, turn).await.map_err(|_| busy())?.map_err(|_| busy())?;
        timeout(REQUEST_TIMEOUT, self.rows.next(read)).await.map_err(|_| busy())?
    }
}
