//! The addresses on which the aggregator listens, and the threads that serve the API and answer probes.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
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

/// Open files that a process may have by default ([setrlimit(2)](https://man7.org/linux/man-pages/man2/setrlimit.2.html)).
pub(super) const DEFAULT_FILES: u64 = 1024;

/// Maximum number of agents' connections, unless the process may open too few files.
const AGENTS: usize = 20_000;

/// Maximum number of the API's connections, unless the process may open too few files.
const API: usize = 1024;

/// Maximum number of the API's connections from one address.
const API_OF_ADDRESS: usize = 256;

/// Open files that connections leave to the store, the advisory database, the API server and the probes.
const OTHER_FILES: usize = 256;

/// Returns the limits for connections of agents and of the API if the process may open `files` files: were they exhausted, it could not answer probes
/// either.
pub(super) fn limits(files: u64) -> (Limits, Limits) {
    let files = usize::try_from(files).unwrap_or(usize::MAX).saturating_sub(OTHER_FILES);
    let api = API.min(files / 4).max(16);
    let agents = AGENTS.min(files.saturating_sub(api)).max(16);
    let of_agents = Limits { connections: agents, per_address: (agents / 2).max(8), ..Limits::default() };
    // A request carries its credentials; the connection has none.
    let of_api = Limits {
        connections: api,
        per_address: API_OF_ADDRESS.min(api / 4).max(8),
        identify_within: None,
        ..Limits::default()
    };
    (of_agents, of_api)
}

/// The end of a server, with the reason if that is an error.
pub(super) type Served = oneshot::Receiver<std::io::Result<()>>;

/// Serves the API in separate threads until `stop` is canceled, so that requests do not wait while thousands of nodes attach.
pub(super) fn serve_api(
    listener: std::net::TcpListener,
    certificate: Option<(Arc<Certificate>, Protocol)>,
    limits: Limits,
    routes: axum::Router,
    stop: CancellationToken,
) -> std::io::Result<Served> {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    serve_apart("api", runtime, async move || {
        let incoming = Incoming::new(TcpListener::from_std(listener)?, certificate, limits)?;
        web::serve(incoming, routes, stop).await;
        Ok(())
    })
}

/// Answers probes in a thread of their own until `stop` is canceled, so that they do not wait for anything else.
pub(super) fn answer_probes(
    listener: std::net::TcpListener,
    routes: axum::Router,
    stop: CancellationToken,
) -> std::io::Result<Served> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    serve_apart("probes", runtime, async move || {
        web::serve_probes(TcpListener::from_std(listener)?, routes, stop).await;
        Ok(())
    })
}

/// Runs a server on its runtime, in a thread of its own.
fn serve_apart(
    name: &str,
    runtime: Runtime,
    server: impl AsyncFnOnce() -> std::io::Result<()> + Send + 'static,
) -> std::io::Result<Served> {
    let (end, ended) = oneshot::channel();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let _ = end.send(runtime.block_on(server()));
    })?;
    Ok(ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_open_files_to_everything_else() {
        for (files, agents, api) in
            [(1 << 20, 20_000, 1024), (32_768, 20_000, 1024), (4096, 2880, 960), (1024, 576, 192)]
        {
            let (of_agents, of_api) = limits(files);
            assert_eq!((of_agents.connections, of_api.connections), (agents, api), "{files}");
            assert!(of_agents.per_address <= agents / 2 && of_api.per_address <= api / 4, "{files}");
            assert!((agents + api + OTHER_FILES) as u64 <= files, "{files}");
        }
    }
}
