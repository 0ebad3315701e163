//! The start: identifies the cluster and opens the store. The API answers while either takes long, and signals end the process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use kube::Client;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::config::{AggregatorError, Config};
use super::listening::{DEFAULT_FILES, Served, bind, limits, serve_api};
use crate::cluster::{IdentityError, cluster_uid};
use crate::metrics::Metrics;
use crate::store::{ClusterIdentity, Options, Sqlite, needs_migration};
use crate::web::listen::{Certificate, Protocol};
use crate::web::{Probe, Probes};

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

/// Opens the store of the cluster that the aggregator is for. `client` is the API server's, in a cluster; `certificate` the API's. While it takes long, a
/// check of `probes` fails.
///
/// # Errors
/// When the cluster cannot be identified, the address of the API is in use, or the store cannot be opened.
pub(super) async fn open_store(
    config: &Config,
    client: Option<&Client>,
    certificate: Option<Arc<Certificate>>,
    probes: &Probes,
    metrics: &Metrics,
) -> Result<Sqlite, AggregatorError> {
    let waiting = Waiting { address: config.api, certificate, probes: probes.clone() };
    let key = match client {
        Some(client) => identify(client, &waiting).await?,
        None => config.cluster.clone(),
    };
    let cluster = ClusterIdentity { key, name: config.cluster.clone() };
    let path = config.data.join("outcrop.db");
    let options = Options { cluster, outbox: config.has_outbox(), write_duration: Some(metrics.store_write.clone()) };
    if !needs_migration(&path)? {
        return Ok(Sqlite::open(&path, options).await?);
    }
    let server = waiting.serve("migration", "the store of version 1 is being migrated")?;
    let store = Sqlite::open(&path, options).await;
    server.stop().await;
    Ok(store?)
}

/// Returns the UID of the cluster. Waits for as long as the API server does not answer: without it nobody can authenticate.
async fn identify(client: &Client, waiting: &Waiting) -> Result<String, AggregatorError> {
    let mut pauses = ExponentialBuilder::new().with_max_delay(IDENTIFY).without_max_times().with_jitter().build();
    let mut server = None;
    let outcome = loop {
        match cluster_uid(client).await {
            Ok(uid) => break Ok(uid),
            Err(IdentityError::Refused(reason)) => break Err(AggregatorError::Cluster(reason)),
            Err(IdentityError::Unavailable(reason)) => warn!(reason, "cluster not identified; retried"),
        }
        if server.is_none() {
            server = Some(waiting.serve("cluster", "the API server has not returned the namespace kube-system yet")?);
        }
        tokio::time::sleep(pauses.next().unwrap_or(IDENTIFY)).await;
    };
    if let Some(server) = server {
        server.stop().await;
    }
    outcome
}

/// Answers requests while the start takes long.
struct Waiting {
    /// The address of the API.
    address: SocketAddr,
    certificate: Option<Arc<Certificate>>,
    probes: Probes,
}

impl Waiting {
    /// Has the API answer probes, and 503 to everything else: the process lives, and is not ready because `check` fails.
    fn serve(&self, check: &'static str, reason: &'static str) -> Result<StartupServer, AggregatorError> {
        let failed = |source| AggregatorError::Listen { address: self.address, source };
        self.probes.health().register(check, Probe::Ready, move || Err(reason.to_owned()));
        let certificate = self.certificate.clone().map(|certificate| (certificate, Protocol::Http1));
        let stop = CancellationToken::new();
        let listener = bind(self.address).map_err(failed)?;
        let (_, limits) = limits(DEFAULT_FILES);
        let served = serve_api(listener, certificate, limits, self.probes.startup_routes(), stop.clone());
        Ok(StartupServer { stop, check, probes: self.probes.clone(), ended: served.map_err(failed)? })
    }
}

/// The API during the start. Dropping it stops it.
struct StartupServer {
    stop: CancellationToken,
    check: &'static str,
    probes: Probes,
    ended: Served,
}

impl StartupServer {
    /// Stops the server, and waits until its address is free.
    async fn stop(mut self) {
        self.stop.cancel();
        if let Ok(Err(error)) = (&mut self.ended).await {
            warn!(%error, "requests were not answered during the start");
        }
    }
}

impl Drop for StartupServer {
    fn drop(&mut self) {
        self.stop.cancel();
        self.probes.health().remove(self.check);
    }
}
