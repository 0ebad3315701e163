//! Connections of the API: so many at a time and of one address, none that only pretends to talk or to listen.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio_io_timeout::TimeoutStream;
use tokio_stream::StreamExt as _;

use super::listen::{Certificate, Connection, Incoming, Limits, Protocol};

/// How many are listened to. Who asks says who they are with each request, and not with the connection.
const LIMITS: Limits = Limits {
    connections: 1024,
    per_address: 256,
    handshakes: 64,
    handshakes_per_address: 32,
    handshake_within: HEAD,
    identify_within: None,
};

/// How long a greeting, or the head of a request, may take to come; also how long a connection may do nothing.
const HEAD: Duration = Duration::from_secs(15);

/// How long somebody may take none of an answer.
const STALLED: Duration = Duration::from_secs(30);

/// Most bytes of a request's head.
const MAX_HEAD: usize = 64 << 10;

/// Most headers of a request.
const MAX_HEADERS: usize = 64;

/// Answers what comes to `listener`, over TLS if there is a certificate; returns only when it cannot begin.
///
/// # Errors
/// When the listener has no address, or TLS cannot be spoken.
pub async fn serve(listener: TcpListener, routes: Router, tls: Option<Arc<Certificate>>) -> io::Result<()> {
    let certificate = tls.map(|certificate| (certificate, Protocol::Http1));
    let mut incoming = Incoming::new(listener, certificate, LIMITS)?;
    while let Some(Ok(connection)) = incoming.next().await {
        tokio::spawn(talk(connection, routes.clone()));
    }
    Ok(())
}

/// What goes wrong with a connection is the peer's to see; there is nobody else to tell.
async fn talk(connection: Connection, routes: Router) {
    let mut stream = TimeoutStream::new(connection);
    stream.set_write_timeout(Some(STALLED));
    let talk = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(routes));
    let _ = talk.await;
}
