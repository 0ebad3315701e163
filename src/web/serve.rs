//! Serves HTTP connections with timeouts, so that a client that sends or reads slowly cannot hold a connection. The listener limits the
//! number of connections.

use std::collections::VecDeque;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
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

/// Maximum number of connections for probes. A new one replaces the oldest, so that connections which send nothing keep no probe waiting.
const PROBE_CONNECTIONS: usize = 64;

/// Maximum time of a connection for a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum size of the head of a probe's request, in bytes: the smallest that hyper allows.
const MAX_PROBE_HEAD: usize = 8 << 10;

/// Pause after a connection could not be accepted, for example because the process has too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves probes until `stop` is canceled: one request on each connection.
pub async fn serve_probes(listener: TcpListener, routes: Router, stop: CancellationToken) {
    let mut connections: VecDeque<AbortOnDrop> = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        connections.retain(|connection| !connection.0.is_finished());
        if connections.len() >= PROBE_CONNECTIONS {
            connections.pop_front();
        }
        let routes = TowerToHyperService::new(routes.clone());
        let answer = async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .keep_alive(false)
                .max_buf_size(MAX_PROBE_HEAD)
                .max_headers(MAX_HEADERS)
                .serve_connection(TokioIo::new(stream), routes);
            // An error of a connection is not logged: any client can cause one.
            let _ = tokio::time::timeout(PROBE_TIMEOUT, connection).await;
        };
        connections.push_back(AbortOnDrop(tokio::spawn(answer)));
    }
}

/// A task that ends when this is dropped.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

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
