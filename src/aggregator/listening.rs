//! The addresses on which the aggregator listens, and the threads that serve the API.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::web;
use crate::web::listen::{Certificate, Incoming, Limits, Protocol};

/// Listens on an address. If the address is the unspecified one of IPv6 and the kernel has no IPv6, listens on that of IPv4.
pub(super) fn bind(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let unsupported = |error: &std::io::Error| error.raw_os_error() == Some(libc::EAFNOSUPPORT);
    let listener = match std::net::TcpListener::bind(address) {
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && unsupported(&error) => {
            std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port()))?
        }
        bound => bound?,
    };
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves the API in separate threads until `stop` is canceled, so that requests do not wait while thousands of nodes attach. The receiver resolves when the
/// threads have ended, with the reason if that is an error.
pub(super) fn serve_apart(
    listener: std::net::TcpListener,
    certificate: Option<(Arc<Certificate>, Protocol)>,
    routes: axum::Router,
    stop: CancellationToken,
) -> std::io::Result<oneshot::Receiver<std::io::Result<()>>> {
    // A request carries its credentials; the connection has none.
    let limits = Limits { connections: 1024, per_address: 256, identify_within: None, ..Limits::default() };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (end, ended) = oneshot::channel();
    std::thread::Builder::new().name("api".to_owned()).spawn(move || {
        let served = runtime.block_on(async move {
            let incoming = Incoming::new(TcpListener::from_std(listener)?, certificate, limits)?;
            web::serve(incoming, routes, stop).await;
            Ok(())
        });
        let _ = end.send(served);
    })?;
    Ok(ended)
}
