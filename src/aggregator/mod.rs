//! The aggregator: a few services that each own their state.
//!
//! ```text
//! agents ─ service ─┬─ streams    attached nodes, their tokens and orders
//!                   ├─ fleet      containers, layers, stacks; publishes snapshots, which lists and status read without a lock
//!                   ├─ leasing    which node reads which layer
//!                   ├─ merges     inventories → packages in the store
//!                   ├─ rematch    packages → findings in the store
//!                   ├─ housekeeping: history, the store's health, retention, problems, certificates
//!                   ├─ conditions  problems and configuration issues → events in the outbox
//!                   └─ delivering  outbox → targets outside
//! ```
//!
//! Every service is a [supervised](crate::supervise) task: if one ends unexpectedly, the process ends. The fleet, which is plain data, decides about
//! nodes, layers and stacks; the other services execute its decisions. [`run`] starts them.

pub mod advisories;
mod answers;
mod conditions;
mod config;
mod delivering;
mod documents;
mod fleet;
mod housekeeping;
mod in_flight;
mod intake;
mod joining;
mod leasing;
mod listening;
mod matching;
mod memory;
mod merges;
mod merging;
mod notifying;
mod owner;
mod pods;
mod rbac;
mod rematch;
mod service;
mod starting;
mod streams;
pub mod tokens;
pub(crate) mod trial;

use std::collections::HashMap;
use std::io::Error as IoError;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use outcrop_proto::wire;
use outcrop_proto::wire::MAX_MESSAGE;
use outcrop_proto::wire::v1::collector_server::CollectorServer;
use outcrop_proto::{Digest, clock};
use tokio::net::TcpListener;
use tokio::sync::{Notify, RwLock, mpsc};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tracing::{info, warn};

pub use advisories::{AdvisoriesError, Policy, Refusal};
pub use config::{AggregatorError, Config, Kubernetes};
pub use tokens::{TokenError, make_token};

use crate::authority::{self, Authority, AuthorityError};
use crate::cluster::{PolicyFile, Reviews, Selection, Watch};
use crate::metrics::Metrics;
use crate::private;
use crate::problems::{ProblemKind, Problems};
use crate::store::{CorrectedTimes, Store, StoreError};
use crate::supervise::{Liveness, Tasks};
use crate::web::listen::{self, Certificate, Incoming, Protocol};
use crate::web::{self, Probes};
use advisories::Advisories;
use delivering::Delivering;
use fleet::{Distrusted, Fleet, Now, Picture, Rules};
use in_flight::InFlight;
use intake::Intake;
use listening::{DEFAULT_FILES, Served, answer_probes, bind, limits, serve_api};
use merges::MergeJob;
use owner::{Handle, Owner};
use rematch::Matching;
use starting::{Signals, open_store};
use streams::Streams;
use tokens::{Identify, TokenFile};

/// Maximum time between two passes of the leasing service.
const TICK: Duration = Duration::from_secs(1);

/// The check that fails until requests are answered.
const START: &str = "start";

/// No aggregator ran before 2026. A clock that shows less is behind, and nothing can be compared with it.
const EARLIEST: i64 = 1_767_225_600;

/// HTTP/2 window for agents, in bytes: the default of the protocol.
const WINDOW: u32 = 65_535;

/// Maximum number of inventories that are decoded, and of stacks that are merged, at the same time. Each may need a hundred megabytes.
const DECODED_AT_ONCE: usize = 2;

/// The state that the services share.
#[derive(Debug)]
pub(crate) struct Aggregator {
    cluster: String,
    started: Instant,
    identify: Arc<dyn Identify>,
    store: Arc<dyn Store>,
    /// The state of the API server; `None` outside Kubernetes.
    watch: Option<Arc<Watch>>,
    fleet: Handle<Fleet>,
    streams: Handle<Streams>,
    merges: mpsc::UnboundedSender<MergeJob>,
    matching: Matching,
    advisories: Arc<Advisories>,
    problems: Problems,
    metrics: Arc<Metrics>,
    recent_status: answers::Latest<web::Status>,
    liveness: Liveness,
    /// Locks by the first byte of a stack's identity: one task at a time writes the packages and findings of a stack.
    stripes: [tokio::sync::Mutex<()>; 16],
    /// Held for reading while a task refers to rows of the store, and for writing while rows are removed.
    numbers: RwLock<()>,
    /// Wakes the leasing service.
    changed: Notify,
    counters: Counters,
    intake: Intake,
    in_flight: InFlight,
    deliveries: Vec<Arc<Delivering>>,
    /// Certificates that agents and API clients receive.
    certificates: Vec<Arc<Certificate>>,
    config: Config,
}

/// Metrics and problems: what every part of the aggregator reports to.
#[derive(Debug)]
struct Telemetry {
    metrics: Arc<Metrics>,
    problems: Problems,
}

/// Counts of accepted and refused reports since the start.
#[derive(Debug, Default)]
struct Counters {
    /// Stored inventories.
    inventories: AtomicU64,
    /// Cross-reads with an equal inventory.
    verified: AtomicU64,
    /// Cross-reads with a different inventory.
    contradicted: AtomicU64,
    /// Inventories and answers that were not requested.
    unasked: AtomicU64,
    /// Refused calls and streams, in the order of [`wire::Refusal::ALL`].
    refused: [AtomicU64; wire::Refusal::ALL.len()],
}

impl Counters {
    /// Counts a call that failed with `status`, under the reason for which it was refused.
    fn refuse(&self, status: &tonic::Status) {
        let reason = wire::Refusal::classify(status);
        if let Some((_, count)) =
            wire::Refusal::ALL.iter().zip(&self.refused).find(|(refusal, _)| Some(**refusal) == reason)
        {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Discards the inventories of a distrusted node in the store.
async fn discard(store: &dyn Store, node: &str, outcome: &Distrusted) -> Result<(), StoreError> {
    for (layer, other) in &outcome.attributed {
        store.attribute(layer, node, other).await?;
    }
    store.forget_layers(&outcome.forgotten, node).await
}

/// Returns the current time.
fn now() -> Now {
    Now { instant: Instant::now(), unix: clock::timestamp().as_second() }
}

/// Runs an aggregator until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start, because of a file, an address or the store; and when a task ends that should not.
pub async fn run(config: Config) -> Result<(), AggregatorError> {
    // First of all, because the first process of a container has no default action for signals.
    let mut signals = Signals::listen();
    memory::return_large_blocks();
    // One stream per node and some more. A lower limit is sufficient for smaller fleets.
    let (agent_limits, api_limits) = limits(listen::allow_files(32_768).unwrap_or(DEFAULT_FILES));
    let listen = |address| move |source| AggregatorError::Listen { address, source };
    let mut tasks = Tasks::default();
    let stop = tasks.stop_token();
    // Before anything that can take long: the process lives from now on, and is ready once the API answers.
    let probes = Probes::default();
    probes.health().register(START, web::Probe::Ready, || Err("the aggregator is starting".to_owned()));
    let probed = bind(config.probes).and_then(|listener| answer_probes(listener, probes.routes(), stop.clone()));
    spawn_server(&mut tasks, "probes", probed.map_err(listen(config.probes))?);
    private::restrict_new_files();
    private::prepare_directory(&config.data, crate::store::is_own_entry)?;
    crate::store::check_local(&config.data)?;
    crate::store::check_writable(&config.data)?;
    let client = match &config.kubernetes {
        Some(kubernetes) => {
            let connected = crate::cluster::connect(kubernetes.kubeconfig.as_deref(), None).await;
            Some(connected.map_err(AggregatorError::Kubernetes)?)
        }
        None => None,
    };
    let problems = Problems::default();
    let own = match config.tls_names.as_slice() {
        [] => None,
        names => Some(certify(&config.data.join("tls"), names, &problems)?),
    };
    let open = |tls: &Option<(PathBuf, PathBuf)>| {
        let own = own.as_ref().map(|own| (own.certificate.clone(), own.key.clone()));
        tls.clone().or(own).map(|(certificate, key)| Certificate::open(&certificate, &key)).transpose()
    };
    let (certificate, api_certificate) = (open(&config.tls)?, open(&config.api_tls)?);
    let certificates = certificate.iter().chain(&api_certificate).cloned().collect();
    let watch = config.kubernetes.as_ref().map(watch).transpose()?;
    let metrics = Arc::<Metrics>::default();
    // Killed in the middle of it, a migration begins anew at the next start.
    let store = tokio::select! {
        store = open_store(&config, client.as_ref(), api_certificate.clone(), &probes, &metrics) => Arc::new(store?),
        () = signals.received() => {
            info!(version = env!("CARGO_PKG_VERSION"), "aggregator stopped");
            return Ok(());
        }
    };
    check_store(&*store).await?;
    let uploads = config.data.join("uploads");
    // This process holds the lock of the store, so that no other one uses the uploads.
    empty_directory(&uploads).map_err(|source| AggregatorError::File { path: uploads.clone(), source })?;
    // Reviews for agents and for users are separate, so that neither delays the other.
    let [reviews, of_agents] = [client.clone(), client.clone()].map(|client| client.map(Reviews::new));
    let identify = identify(&config, of_agents.zip(watch.clone()), &problems)?;
    for task in watch.iter().zip(&client).flat_map(|(watch, client)| watch.tasks(client)) {
        tasks.spawn_loop("watch", task);
    }
    let telemetry = Telemetry { metrics, problems };
    let aggregator = Aggregator::open(config, store, identify, certificates, watch, telemetry, &mut tasks).await?;
    // First, since agents wait for it.
    let authority = own.map(|own| own.authority).or(aggregator.config.tls_ca.clone());
    let publish = aggregator.config.kubernetes.as_ref().and_then(|kubernetes| kubernetes.publish_ca.clone());
    if let (Some(client), Some(authority), Some(publish)) = (client, authority, publish) {
        tasks.spawn_loop("authority", Arc::clone(&aggregator).keep_authority(client, publish, authority));
    }
    let config = &aggregator.config;

    let certificate = certificate.map(|certificate| (certificate, Protocol::Http2));
    let listener = bind(config.listen).and_then(TcpListener::from_std);
    let nodes = listener.and_then(|listener| Incoming::new(listener, certificate, agent_limits));
    let nodes = nodes.map_err(listen(config.listen))?;
    aggregator.intake.set_connections(nodes.counts());
    let api = bind(config.api).map_err(listen(config.api))?;
    let authorizer: Arc<dyn web::Authorizer> = match (&config.api_tokens, reviews, &aggregator.watch) {
        (Some(path), ..) => Arc::new(web::TokenFile::open(path, aggregator.problems.clone())?),
        // Also on loopback: a port-forward arrives from there, whoever made it.
        (None, Some(reviews), Some(watch)) => Arc::new(rbac::Rbac::new(reviews, Arc::clone(watch))),
        // Outside Kubernetes the API is on loopback then, and users of this machine are trusted.
        _ => Arc::new(web::Loopback),
    };
    // Only now, when each was read as what it is: another file in its place keeps its mode.
    let secrets = [&config.tls, &config.api_tls].into_iter().flatten().map(|(_, key)| key);
    secrets.chain(&config.tokens).chain(&config.api_tokens).for_each(|path| private::restrict_secret(path));
    let web_config = web::Config {
        loopback: config.api.ip().is_loopback(),
        hosts: config.api_hosts.clone(),
        uploads,
        max_upload: config.policy.max_size,
        metrics: Arc::clone(&aggregator.metrics),
        probes: probes.clone(),
    };
    aggregator.register_checks(probes.health());
    let routes = web::routes(Arc::new(answers::Answers(Arc::clone(&aggregator))), authorizer, web_config);

    aggregator.load_advisories().await;
    aggregator.spawn_services(&mut tasks);
    let server = collector(&aggregator);
    let stopped = stop.clone().cancelled_owned();
    tasks.spawn("grpc", async move { server.serve_with_incoming_shutdown(nodes, stopped).await });
    let api_certificate = api_certificate.map(|certificate| (certificate, Protocol::Http1));
    let served = serve_api(api, api_certificate, api_limits, routes, stop);
    spawn_server(&mut tasks, "api", served.map_err(listen(config.api))?);
    probes.health().remove(START);
    aggregator.log_start();

    let ended = tasks.run(signals.received()).await;
    info!(version = env!("CARGO_PKG_VERSION"), "aggregator stopped");
    Ok(ended?)
}

/// Issues the aggregator's own certificate. If it cannot be stored, for example because the volume is full, the previous one stays in use.
fn certify(dir: &Path, names: &[String], problems: &Problems) -> Result<Authority, AggregatorError> {
    match (authority::certify(dir, names), Authority::existing(dir)) {
        (Err(error @ AuthorityError::File { .. }), Some(existing)) => {
            problems.raise(ProblemKind::Certificate, "renewal", format!("{error}; the one in use stays"));
            Ok(existing)
        }
        (outcome, _) => Ok(outcome?),
    }
}

/// Creates a directory, or removes what is in it: incomplete uploads of an aggregator that was killed. The directory itself stays, because a full volume
/// may have no room for another one.
fn empty_directory(path: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(path)?;
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => std::fs::remove_dir_all(entry.path())?,
            false => std::fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

/// Writes to the store, so that a volume which is full from the start on is a problem from the start on, and corrects times that a clock which was ahead
/// has written: layers would not be verified until then, and findings be first seen in the future.
async fn check_store(store: &dyn Store) -> Result<(), StoreError> {
    if let Err(error) = store.probe().await {
        warn!(%error, "store does not accept writes");
    }
    let now = now().unix;
    if now < EARLIEST {
        warn!(
            now,
            "times in the store not checked: the clock of this machine is behind; set it and restart the aggregator"
        );
        return Ok(());
    }
    match store.correct_times(now).await {
        Ok(CorrectedTimes { rows: 0, .. }) => {}
        Ok(CorrectedTimes { rows, latest }) => {
            let latest = jiff::Timestamp::from_second(latest).map(|latest| latest.to_string()).unwrap_or_default();
            warn!(rows, latest, "times in the future corrected: the clock of this machine was ahead");
        }
        // The store's health says that it accepts no writes.
        Err(error) if !store.health().is_accepting() => warn!(%error, "times in the store not checked"),
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Supervises a server that runs in threads of its own.
fn spawn_server(tasks: &mut Tasks, name: &'static str, served: Served) {
    tasks.spawn(name, async move { served.await.unwrap_or_else(|_| Err(IoError::other("its threads panicked"))) });
}

/// Returns the gRPC server for agents.
fn collector(aggregator: &Arc<Aggregator>) -> tonic::transport::server::Router {
    let collector = CollectorServer::new(service::Service(Arc::clone(aggregator)))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let refusing = Arc::clone(aggregator);
    let collector = InterceptedService::new(collector, move |request: tonic::Request<()>| {
        // Otherwise tonic refuses it below the service, where nobody counts it.
        match request.metadata().get("grpc-encoding") {
            Some(encoding) if encoding != "identity" => {
                let status = wire::Refusal::Malformed.status("compressed messages are not accepted");
                refusing.counters.refuse(&status);
                Err(status)
            }
            _ => Ok(request),
        }
    });
    Server::builder()
        // Limits unread data per node, because thousands of nodes wait for one disk.
        .initial_stream_window_size(Some(WINDOW))
        .initial_connection_window_size(Some(WINDOW))
        .max_concurrent_streams(Some(8))
        .http2_max_header_list_size(Some(16 << 10))
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .add_service(collector)
}

/// Returns a watch of the API server, whose tasks are started later.
fn watch(kubernetes: &Kubernetes) -> Result<Arc<Watch>, AggregatorError> {
    let policy = kubernetes.policy.as_deref().map(PolicyFile::open).transpose()?.map(Arc::new);
    let selection = Selection {
        included_namespaces: kubernetes.included_namespaces.clone(),
        excluded_namespaces: kubernetes.excluded_namespaces.clone(),
        annotations_in: kubernetes.annotations_in.clone(),
        policy,
    };
    Ok(Watch::new(selection, &kubernetes.namespaces))
}

/// Returns the authentication of nodes: the token file, or else the API server.
fn identify(
    config: &Config,
    asked: Option<(Reviews, Arc<Watch>)>,
    problems: &Problems,
) -> Result<Arc<dyn Identify>, AggregatorError> {
    if let Some(path) = &config.tokens {
        return Ok(Arc::new(TokenFile::open(path, problems.clone())?));
    }
    let account = config.kubernetes.as_ref().and_then(|kubernetes| kubernetes.agent_account.as_ref());
    let (Some((namespace, name)), Some((reviews, watch))) = (account, asked) else {
        return Err(AggregatorError::Agents);
    };
    Ok(Arc::new(pods::Pods::new(reviews, watch, namespace, name)))
}

impl Aggregator {
    /// Restores the state from the store and starts the owners of states.
    async fn open(
        config: Config,
        store: Arc<dyn Store>,
        identify: Arc<dyn Identify>,
        certificates: Vec<Arc<Certificate>>,
        watch: Option<Arc<Watch>>,
        telemetry: Telemetry,
        tasks: &mut Tasks,
    ) -> Result<Arc<Self>, AggregatorError> {
        let Telemetry { metrics, problems } = telemetry;
        let advisories = Advisories::open(&config.data.join("advisories"), config.policy.clone())?;
        let path = config.data.join("in-flight");
        let in_flight = InFlight::open(&path).map_err(|source| AggregatorError::File { path, source })?;
        let rules = Rules {
            verify_share: config.verify_share,
            verify_containers: config.verify_containers,
            verify_within: config.verify_within,
            forget_after: config.forget_after,
            catalogers: outcrop_agent::catalog::VERSION,
        };
        let deliveries: Vec<_> = config.deliver.targets.iter().map(Delivering::new).collect();
        if let Err(error) = Delivering::register(&deliveries, &*store).await {
            warn!(%error, "targets of deliveries not stored; retried");
        }
        let last_rematch = store.last_rematch().await?.and_then(|(database, ended)| Some((database, ended?)));
        let fleet = restore_fleet(&*store, rules).await?;
        let (fleet_owner, fleet) = Owner::new(fleet);
        let (streams_owner, streams) = Owner::new(Streams::default());
        tasks.spawn_background("fleet", fleet_owner.run());
        tasks.spawn_background("streams", streams_owner.run());
        let (merges, jobs) = mpsc::unbounded_channel();
        let aggregator = Arc::new(Self {
            cluster: config.cluster.clone(),
            started: Instant::now(),
            identify,
            store,
            watch,
            fleet,
            streams,
            merges,
            matching: Matching::new(last_rematch),
            advisories: Arc::new(advisories),
            problems,
            metrics,
            recent_status: answers::Latest::default(),
            liveness: tasks.liveness(),
            stripes: Default::default(),
            numbers: RwLock::default(),
            changed: Notify::new(),
            counters: Counters::default(),
            intake: Intake::default(),
            in_flight,
            deliveries,
            certificates,
            config,
        });
        tasks.spawn_loop("merges", Arc::clone(&aggregator).merge_stacks(jobs));
        Ok(aggregator)
    }

    /// Starts the services.
    fn spawn_services(self: &Arc<Self>, tasks: &mut Tasks) {
        let stop = tasks.stop_token();
        tasks.spawn_until_stopped("tokens", Arc::clone(self).keep_streams(stop.clone()));
        tasks.spawn_until_stopped("history", Arc::clone(self).keep_history(stop));
        tasks.spawn_loop("leasing", Arc::clone(self).keep_leasing());
        tasks.spawn_loop("advisories", Arc::clone(self).keep_advisories());
        tasks.spawn_loop("matching", Arc::clone(self).keep_matching());
        tasks.spawn_loop("store", Arc::clone(self).keep_store());
        tasks.spawn_loop("tidy", Arc::clone(self).keep_tidy());
        tasks.spawn_loop("days", Arc::clone(self).keep_days());
        tasks.spawn_loop("problems", Arc::clone(self).keep_problems());
        if self.config.has_outbox() {
            tasks.spawn_loop("conditions", Arc::clone(self).keep_conditions());
        }
        for to in &self.deliveries {
            tasks.spawn_loop("delivering", Arc::clone(self).deliver_to(Arc::clone(to)));
        }
        if !self.deliveries.is_empty() {
            tasks.spawn_loop("outbox", Arc::clone(self).keep_outbox());
        }
        if !self.config.tls_names.is_empty() {
            tasks.spawn_loop("certificate", Arc::clone(self).renew_certificate());
        }
        if let Some(watch) = &self.watch {
            tasks.spawn_loop("cluster", Arc::clone(self).follow_cluster(Arc::clone(watch)));
            tasks.spawn_loop("workloads", Arc::clone(self).end_workloads(Arc::clone(watch)));
        }
    }

    /// Adds the checks of `/livez` and `/readyz`. A store that accepts no writes does not fail them, because the API still answers and shows the
    /// reason.
    fn register_checks(&self, health: &web::Health) {
        let liveness = self.liveness.clone();
        health.register("tasks", web::Probe::Live, move || match liveness.ended() {
            Some(task) => Err(format!("task {task} ended")),
            None => Ok(()),
        });
    }

    /// Logs version, addresses and data directory in one line.
    fn log_start(&self) {
        let Config { listen, api, probes, data, .. } = &self.config;
        let database = self.advisories.current();
        let age = database.as_ref().and_then(|current| current.age_days(self.config.judged_on()));
        info!(
            version = env!("CARGO_PKG_VERSION"),
            cluster = self.cluster,
            cluster_uid = self.config.kubernetes.is_some().then(|| &*self.store.cluster().key),
            %listen,
            %api,
            %probes,
            data = %data.display(),
            database = database.map(|current| current.digest.to_string()),
            database_age_days = age,
            "aggregator started"
        );
    }

    /// Returns the latest snapshot of the fleet.
    fn picture(&self) -> Arc<Picture> {
        self.fleet.snapshot()
    }

    /// Returns the lock for writing the packages and findings of a stack.
    fn stripe(&self, stack: &Digest) -> &tokio::sync::Mutex<()> {
        let [first, ..] = stack.0;
        let [stripe, rest @ ..] = &self.stripes;
        rest.get((usize::from(first) % self.stripes.len()).wrapping_sub(1)).unwrap_or(stripe)
    }
}

/// Returns the fleet with the contents of the store.
async fn restore_fleet(store: &dyn Store, rules: Rules) -> Result<Fleet, StoreError> {
    let stacks = store.stacks().await?;
    let chains: HashMap<i64, Digest> = stacks.iter().map(|summary| (summary.id, summary.chain)).collect();
    let distrusted = store.distrusted().await?;
    let mut fleet = Fleet::new(rules, store.layers().await?, stacks, distrusted.clone());
    // After a crash between the two steps of distrusting a node, its inventories are still stored.
    for node in &distrusted {
        let outcome = fleet.distrust(node);
        discard(store, node, &outcome).await?;
    }
    let runs = store.open_runs().await?.into_iter();
    fleet.restore_runs(runs.filter_map(|run| Some((run.subject, *chains.get(&run.package_set)?, run.package_set))));
    Ok(fleet)
}
