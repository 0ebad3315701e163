//! Connections: none that only pretends to talk or to listen. How many there may be is their listener's to say.

use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_io_timeout::TimeoutStream;

/// How long the head of a request may take to come; also how long a connection may do nothing.
const HEAD: Duration = Duration::from_secs(15);

/// How long somebody may take none of an answer.
const STALLED: Duration = Duration::from_secs(30);

/// Most bytes of a request's head.
const MAX_HEAD: usize = 64 << 10;

/// Most headers of a request.
const MAX_HEADERS: usize = 64;

/// Answers what comes in; returns never.
pub async fn serve(mut listener: impl Listener, routes: Router) {
    loop {
        let (stream, _) = listener.accept().await;
        // What goes wrong with a connection is the peer's to see; there is nobody else to tell.
        tokio::spawn(talk(stream, routes.clone()));
    }
}

async fn talk(stream: impl AsyncRead + AsyncWrite + Send + 'static, routes: Router) {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(STALLED));
    let talk = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(routes));
    let _ = talk.await;
}
