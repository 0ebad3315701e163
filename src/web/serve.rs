//! Connections: none that only pretends to talk or to listen. How many there may be is their listener's to say.

use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;

/// How long the head of a request may take to come; also how long a connection may do nothing.
const HEAD: Duration = Duration::from_secs(15);

/// How long somebody may take none of an answer.
const STALLED: Duration = Duration::from_secs(30);

/// Most bytes of a request's head.
const MAX_HEAD: usize = 64 << 10;

/// Most headers of a request.
const MAX_HEADERS: usize = 64;

/// How long requests that run may take to end after `stop`.
const DRAIN: Duration = Duration::from_secs(2);

/// Serves connections until `stop`. Then no connection is accepted any more, and requests that run get two seconds to end.
pub async fn serve(mut listener: impl Listener, routes: Router, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            (stream, _) = listener.accept() => {
                // An error of a connection is visible to its peer, and to nobody else.
                connections.spawn(talk(stream, routes.clone(), stop.clone()));
            }
            Some(_) = connections.join_next() => {}
            () = stop.cancelled() => break,
        }
    }
    let _ = tokio::time::timeout(DRAIN, async { while connections.join_next().await.is_some() {} }).await;
}

async fn talk(stream: impl AsyncRead + AsyncWrite + Send + 'static, routes: Router, stop: CancellationToken) {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(STALLED));
    let talk = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(routes));
    let mut talk = pin!(talk);
    tokio::select! {
        _ = &mut talk => return,
        () = stop.cancelled() => talk.as_mut().graceful_shutdown(),
    }
    let _ = talk.await;
}
