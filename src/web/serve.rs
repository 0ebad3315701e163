//! Connections: so many at a time and of one address, none that only pretends to talk or to listen.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;

use super::tls::Certificates;

/// Connections at a time.
const MAX_CONNECTIONS: usize = 1024;

/// Connections of one address at a time.
const MAX_OF_ONE: usize = 256;

/// How long a greeting, or the head of a request, may take to come; also how long a connection may do nothing.
const HEAD: Duration = Duration::from_secs(15);

/// How long somebody may take none of an answer.
const STALLED: Duration = Duration::from_secs(30);

/// Most bytes of a request's head.
const MAX_HEAD: usize = 64 << 10;

/// Most headers of a request.
const MAX_HEADERS: usize = 64;

/// How many connections each address has.
type Peers = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// A connection of an address, counted until it is dropped.
struct Counted {
    peers: Peers,
    address: IpAddr,
}

impl Counted {
    fn new(peers: &Peers, address: IpAddr) -> Option<Self> {
        let mut counts = peers.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        (*count < MAX_OF_ONE).then(|| {
            *count += 1;
            Self { peers: Arc::clone(peers), address }
        })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

/// Answers what comes to `listener`, over TLS if there are certificates; returns never.
pub async fn serve(listener: TcpListener, routes: Router, tls: Option<Certificates>) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let peers = Peers::default();
    loop {
        let Ok(connection) = Arc::clone(&connections).acquire_owned().await else { return };
        let Ok((stream, address)) = listener.accept().await else {
            // Too many open files, or a peer that went before it was greeted: neither is for ever.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Some(counted) = Counted::new(&peers, address.ip()) else { continue };
        let (routes, tls) = (routes.clone(), tls.clone());
        tokio::spawn(async move {
            let _held = (connection, counted);
            // What goes wrong with a connection is the peer's to see; there is nobody else to tell.
            match tls {
                None => talk(stream, routes).await,
                Some(tls) => greet(stream, routes, &tls).await,
            }
        });
    }
}

async fn greet(stream: TcpStream, routes: Router, tls: &Certificates) {
    if let Ok(Ok(stream)) = tokio::time::timeout(HEAD, tls.acceptor().accept(stream)).await {
        talk(stream, routes).await;
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
