//! The start: opens the store. Probes are answered while it is migrated, and signals end the process.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::config::{AggregatorError, Config};
use super::listening::{bind, serve_apart};
use crate::store::{ClusterIdentity, Options, Sqlite, needs_migration};
use crate::web::listen::{Certificate, Protocol};
use crate::web::{self, Health, Probe};

/// The signals that end the process.
pub(super) struct Signals([std::io::Result<Signal>; 2]);

impl Signals {
    /// Receives signals from now on.
    pub(super) fn listen() -> Self {
        Self([SignalKind::terminate(), SignalKind::interrupt()].map(signal))
    }

    /// Waits for a signal, and logs it.
    pub(super) async fn received(&mut self) {
        let received = async |signal: &mut std::io::Result<Signal>| match signal {
            Ok(signal) => signal.recv().await,
            Err(_) => std::future::pending().await,
        };
        let Self([terminate, interrupt]) = self;
        tokio::select! {
            _ = received(terminate) => info!(signal = "SIGTERM", "aggregator stopping"),
            _ = received(interrupt) => info!(signal = "SIGINT", "aggregator stopping"),
        }
    }
}

/// Opens the store. `certificate` is the API's.
///
/// # Errors
/// When the address of the API is in use, or the store cannot be opened.
pub(super) async fn open_store(
    config: &Config,
    certificate: Option<Arc<Certificate>>,
) -> Result<Sqlite, AggregatorError> {
    let probes = Probes { address: config.api, certificate };
    let cluster = ClusterIdentity { key: config.cluster.clone(), name: config.cluster.clone() };
    let path = config.data.join("outcrop.db");
    let options = Options { cluster, outbox: false };
    if !needs_migration(&path)? {
        return Ok(Sqlite::open(&path, options).await?);
    }
    let server = probes.serve("migration", "the store of version 1 is being migrated")?;
    let store = Sqlite::open(&path, options).await;
    server.stop().await;
    Ok(store?)
}

/// Where probes are answered.
struct Probes {
    address: SocketAddr,
    certificate: Option<Arc<Certificate>>,
}

impl Probes {
    /// Answers probes, and nothing else: the process lives, and is not ready because `check` fails.
    fn serve(&self, check: &'static str, reason: &'static str) -> Result<ProbeServer, AggregatorError> {
        let failed = |source| AggregatorError::Listen { address: self.address, source };
        let health = Health::default();
        health.register(check, Probe::Ready, move || Err(reason.to_owned()));
        let certificate = self.certificate.clone().map(|certificate| (certificate, Protocol::Http1));
        let stop = CancellationToken::new();
        let listener = bind(self.address).map_err(failed)?;
        let routes = web::startup_routes(health);
        let ended = serve_apart(listener, certificate, routes, stop.clone()).map_err(failed)?;
        Ok(ProbeServer { stop, ended })
    }
}

/// A server of probes. Dropping it stops it.
struct ProbeServer {
    stop: CancellationToken,
    ended: oneshot::Receiver<std::io::Result<()>>,
}

impl ProbeServer {
    /// Stops the server, and waits until its address is free.
    async fn stop(mut self) {
        self.stop.cancel();
        if let Ok(Err(error)) = (&mut self.ended).await {
            warn!(%error, "probes were not answered");
        }
    }
}

impl Drop for ProbeServer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
