//! Serves HTTP connections with timeouts, so that a client that sends or reads slowly cannot hold a connection. The listener limits the
//! number of connections.

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

/// Maximum time to receive the head of a request, and maximum idle time of a connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);

/// Maximum time in which a client reads nothing of a response.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum size of a request's head, in bytes.
const MAX_HEAD: usize = 64 << 10;

/// Maximum number of headers of a request.
const MAX_HEADERS: usize = 64;

/// Time for active requests to end after `stop`.
const DRAIN: Duration = Duration::from_secs(2);

/// Serves connections until `stop` is canceled. Then it accepts no further connection, and active requests get two seconds to end.
pub async fn serve(mut listener: impl Listener, routes: Router, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            (stream, _) = listener.accept() => {
                // An error of a connection is not logged: any client can cause one.
                connections.spawn(serve_connection(stream, routes.clone(), stop.clone()));
            }
            Some(_) = connections.join_next() => {}
            () = stop.cancelled() => break,
        }
    }
    let _ = tokio::time::timeout(DRAIN, async { while connections.join_next().await.is_some() {} }).await;
}

async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Send + 'static,
    routes: Router,
    stop: CancellationToken,
) {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(routes));
    let mut connection = pin!(connection);
    tokio::select! {
        _ = &mut connection => return,
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}
