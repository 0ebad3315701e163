//! The start: identifies the cluster and opens the store. Probes are answered while either takes long, and signals end the process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use kube::Client;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::config::{AggregatorError, Config};
use super::listening::{bind, serve_apart};
use crate::cluster::{IdentityError, cluster_uid};
use crate::metrics::Metrics;
use crate::store::{ClusterIdentity, Options, Sqlite, needs_migration};
use crate::web::listen::{Certificate, Protocol};
use crate::web::{self, Health, Probe};

/// Longest time between two attempts to identify the cluster.
const IDENTIFY: Duration = Duration::from_secs(10);

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

/// Opens the store of the cluster that the aggregator is for. `client` is the API server's, in a cluster; `certificate` the API's.
///
/// # Errors
/// When the cluster cannot be identified, the address of the API is in use, or the store cannot be opened.
pub(super) async fn open_store(
    config: &Config,
    client: Option<&Client>,
    certificate: Option<Arc<Certificate>>,
    metrics: &Metrics,
) -> Result<Sqlite, AggregatorError> {
    let probes = Probes { address: config.api, certificate };
    let key = match client {
        Some(client) => identify(client, &probes).await?,
        None => config.cluster.clone(),
    };
    let cluster = ClusterIdentity { key, name: config.cluster.clone() };
    let path = config.data.join("outcrop.db");
    let options = Options { cluster, outbox: config.outbox, write_duration: Some(metrics.store_write.clone()) };
    if !needs_migration(&path)? {
        return Ok(Sqlite::open(&path, options).await?);
    }
    let server = probes.serve("migration", "the store of version 1 is being migrated")?;
    let store = Sqlite::open(&path, options).await;
    server.stop().await;
    Ok(store?)
}

/// Returns the UID of the cluster. Waits for as long as the API server does not answer: without it nobody can authenticate.
async fn identify(client: &Client, probes: &Probes) -> Result<String, AggregatorError> {
    let mut pauses = ExponentialBuilder::new().with_max_delay(IDENTIFY).without_max_times().with_jitter().build();
    let mut server = None;
    let outcome = loop {
        match cluster_uid(client).await {
            Ok(uid) => break Ok(uid),
            Err(IdentityError::Refused(reason)) => break Err(AggregatorError::Cluster(reason)),
            Err(IdentityError::Unavailable(reason)) => warn!(reason, "cluster not identified; retried"),
        }
        if server.is_none() {
            server = Some(probes.serve("cluster", "the API server has not returned the namespace kube-system yet")?);
        }
        tokio::time::sleep(pauses.next().unwrap_or(IDENTIFY)).await;
    };
    if let Some(server) = server {
        server.stop().await;
    }
    outcome
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
