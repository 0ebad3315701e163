//! The aggregator: takes what nodes say, stores it, merges and matches it, and answers questions about it.
//!
//! A roof: it wires the gRPC service to the picture of the fleet, the store, the advisory database and the web. All decisions about nodes,
//! layers and stacks are the fleet's, which is plain data; this does what it says.

pub mod advisories;
mod answers;
mod fleet;
mod joining;
mod keeping;
mod matching;
mod memory;
mod merging;
mod owner;
mod pods;
mod rbac;
mod service;
pub mod tokens;
mod who_has;

use std::collections::{BTreeSet, HashMap};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::{Duration, Instant};

use outcrop_proto::Digest;
use outcrop_proto::clock;
use outcrop_proto::wire::v1::collector_server::CollectorServer;
use outcrop_proto::wire::{MAX_MESSAGE, v1};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tonic::Status;
use tonic::codec::CompressionEncoding;
use tonic::transport::Server;

pub use advisories::{AdvisoriesError, Policy, Refusal};
pub use tokens::{TokenError, make_token};

use crate::authority::{self, AuthorityError};
use crate::cluster::{Policy as Rego, PolicyError, Reviews, Selection, Watch, keep_published};
use crate::lock::lock;
use crate::offline::Offline;
use crate::store::{ClusterIdentity, Options, RematchRow, Run, Sqlite, Store, StoreError};
use crate::web;
use crate::web::listen::{self, Certificate, Incoming, Limits, Protocol};
use advisories::Advisories;
use fleet::{Distrusted, Fleet, Now, Rules};
use matching::Matchmaker;
use tokens::{Identify, Speaker, TokenFile};

/// How often leases that have ended, nodes that are silent and files that may have changed are looked at.
const TICK: Duration = Duration::from_secs(1);

/// Bytes that a node may send before they are taken: HTTP/2's own first window.
const WINDOW: u32 = 65_535;

/// Inventories that are decoded, and stacks that are merged, at a time: each may take a hundred megabytes.
const DECODED_AT_ONCE: usize = 2;

/// What the operator chose.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster that it is for.
    pub cluster: String,
    /// Where its store lies.
    pub data: PathBuf,
    /// The advisory database to watch.
    pub database: Option<PathBuf>,
    /// What is demanded of databases.
    pub policy: Policy,
    /// The file of nodes and their tokens; without it nodes are known by their pods.
    pub tokens: Option<PathBuf>,
    /// The Kubernetes cluster that it is in, if it is in one.
    pub kubernetes: Option<Kubernetes>,
    /// What was left to this process to connect to, where it runs offline.
    pub offline: Option<Offline>,
    /// Where nodes are listened to.
    pub listen: SocketAddr,
    /// Certificate chain and key for nodes, PEM; without them nodes are spoken to in the clear.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Names of the certificate that it makes itself, for nodes and for the API, where it is brought none.
    pub tls_names: Vec<String>,
    /// The authority of that certificate, PEM, where it is to be published and is not our own.
    pub tls_ca: Option<PathBuf>,
    /// Where questions are answered.
    pub api: SocketAddr,
    /// Names by which the API is asked for.
    pub api_hosts: Vec<String>,
    /// The file of those who may ask; without it everybody may, on loopback.
    pub api_tokens: Option<PathBuf>,
    /// Certificate chain and key for the API, PEM.
    pub api_tls: Option<(PathBuf, PathBuf)>,
    /// Share of the layers on several nodes that another node reads as well, of 1.
    pub verify_share: f64,
    /// Layers below more containers than this are read by another node in any case.
    pub verify_containers: u32,
    /// Within what time after the first reading.
    pub verify_within: Duration,
    /// A node that is silent for longer is forgotten.
    pub forget_after: Duration,
    /// How long packages and inventories are kept that nobody runs.
    pub keep_unused: Duration,
    /// How long it is kept who ran what.
    pub keep_history: Duration,
}

/// What the operator chose for Kubernetes.
#[derive(Clone, Debug, Default)]
pub struct Kubernetes {
    /// The file that says where the API server is; without it `KUBECONFIG`, the home directory's, or the pod's own service account.
    pub kubeconfig: Option<PathBuf>,
    /// Namespaces that are watched; all where none is named.
    pub namespaces: BTreeSet<String>,
    /// Namespaces that are out of view.
    pub excluded_namespaces: BTreeSet<String>,
    /// Namespaces whose workloads may take themselves out of view.
    pub annotations_in: BTreeSet<String>,
    /// A policy of what is in view, in Rego.
    pub policy: Option<PathBuf>,
    /// Labels or annotations that name a workload's owner, best first.
    pub owner_keys: Vec<String>,
    /// The service account of agents, namespace and name, where these are known by their pods.
    pub agent_account: Option<(String, String)>,
    /// The ConfigMap, namespace and name, in which the authority's certificate is published.
    pub publish_ca: Option<(String, String)>,
}

/// Why the aggregator could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum AggregatorError {
    /// A file or directory that the operator named.
    #[error("reading {path}: {source}", path = .path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What is the matter.
        source: std::io::Error,
    },
    /// An address that cannot be listened at.
    #[error("listening on {address}: {source}; choose another address with --listen or --api")]
    Listen {
        /// Which one.
        address: SocketAddr,
        /// What is the matter.
        source: std::io::Error,
    },
    /// The volume that the store lies on.
    #[error(transparent)]
    Volume(#[from] crate::store::VolumeError),
    /// The gRPC server.
    #[error("serving agents: {0}")]
    Serve(#[from] tonic::transport::Error),
    /// A certificate.
    #[error(transparent)]
    Tls(#[from] listen::TlsError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The advisory databases.
    #[error(transparent)]
    Advisories(#[from] AdvisoriesError),
    /// The tokens of nodes.
    #[error(transparent)]
    Tokens(#[from] TokenError),
    /// The tokens of the API.
    #[error(transparent)]
    Access(#[from] web::AccessError),
    /// Where the API server is, or how it is spoken to.
    #[error(
        "connecting to the Kubernetes API server: {0}; pass --kubeconfig FILE, or run in a pod with a service account"
    )]
    Kubernetes(String),
    /// The policy of what is in view.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The own authority.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// Nobody can tell who speaks for a node.
    #[error(
        "agent authentication is not configured: pass --tokens FILE, or --kubernetes with --agent-account NAMESPACE/NAME"
    )]
    Agents,
}

/// A node's stream.
#[derive(Debug)]
struct Stream {
    /// Which of the node's streams it is.
    number: u64,
    /// The token that it was let in with.
    token: Digest,
    orders: mpsc::Sender<Result<v1::Order, Status>>,
    /// Dropped with this, it ends the task that listens to the node.
    _end: oneshot::Sender<()>,
}

/// A running aggregator.
#[derive(Debug)]
pub(crate) struct Aggregator {
    cluster: String,
    started: Instant,
    identify: Box<dyn Identify>,
    store: Arc<dyn Store>,
    /// What the API server knows, in a cluster.
    watch: Option<Arc<Watch>>,
    fleet: Mutex<Fleet>,
    streams: Mutex<HashMap<String, Stream>>,
    advisories: Advisories,
    /// What stacks are matched with; `None` while there is no database.
    matchmaker: RwLock<Option<Arc<Matchmaker>>>,
    /// What matching everything came to the last time, and against which database; `None` also where that did not end.
    last_rematch: Mutex<Option<(Digest, RematchRow)>>,
    /// One at a time matches everything.
    rematching: tokio::sync::Mutex<()>,
    /// Matching everything has failed, and has to be done again.
    unmatched: AtomicBool,
    /// What a stack holds and what is found in it are kept together: by the first byte of its identity, one at a time.
    keeping: [tokio::sync::Mutex<()>; 16],
    /// Runs that the store could not take yet.
    runs: Mutex<Option<(Vec<Run>, Vec<Run>)>>,
    /// Why agents cannot find the own authority, if so.
    unpublished: Mutex<Option<String>>,
    changed: Notify,
    counters: Counters,
    /// Memory of inventories that are on their way, in [permits](service::PERMIT).
    memory: Arc<Semaphore>,
    decoding: Semaphore,
    merging: Semaphore,
    /// What is shown to nodes and to those who ask.
    certificates: Vec<Arc<Certificate>>,
    config: Config,
}

/// What was taken from nodes and what was not, since the start.
#[derive(Debug, Default)]
struct Counters {
    /// Inventories that are in the store.
    inventories: AtomicU64,
    /// Cross-reads that came to the same.
    verified: AtomicU64,
    /// Cross-reads that came to something else.
    contradicted: AtomicU64,
    /// Inventories and answers that nobody had asked for.
    unasked: AtomicU64,
    /// Streams that were ended for what was said in them, or not begun.
    refused: AtomicU64,
}

/// Discards in the store what a node read that is not believed any more.
async fn discard(store: &dyn Store, node: &str, outcome: &Distrusted) -> Result<(), StoreError> {
    for (layer, other) in &outcome.attributed {
        store.attribute(layer, node, other).await?;
    }
    store.forget_layers(&outcome.forgotten, node).await
}

/// The time.
fn now() -> Now {
    Now { instant: Instant::now(), unix: clock::timestamp().as_second() }
}

/// Runs an aggregator; returns only when it cannot go on.
///
/// # Errors
/// When it cannot start: a file, an address, the store.
pub async fn run(config: Config) -> Result<(), AggregatorError> {
    let file = |path: &PathBuf| {
        let path = path.clone();
        move |source| AggregatorError::File { path, source }
    };
    memory::return_large_blocks();
    // A stream a node, and some; what cannot be had is not needed by smaller fleets.
    let _ = listen::allow_files(32_768);
    std::fs::create_dir_all(&config.data).map_err(file(&config.data))?;
    crate::store::check_local(&config.data)?;
    let uploads = config.data.join("uploads");
    // What was being pushed when an aggregator was killed is of no use to anybody.
    let _ = std::fs::remove_dir_all(&uploads);
    std::fs::create_dir_all(&uploads).map_err(file(&uploads))?;
    let client = match &config.kubernetes {
        Some(kubernetes) => {
            let connected = crate::cluster::connect(kubernetes.kubeconfig.as_deref(), None).await;
            Some(connected.map_err(AggregatorError::Kubernetes)?)
        }
        None => None,
    };
    let own = match config.tls_names.as_slice() {
        [] => None,
        names => Some(authority::certify(&config.data.join("tls"), names)?),
    };
    let open = |tls: &Option<(PathBuf, PathBuf)>| {
        let own = own.as_ref().map(|own| (own.certificate.clone(), own.key.clone()));
        tls.clone().or(own).map(|(certificate, key)| Certificate::open(&certificate, &key)).transpose()
    };
    let (certificate, api_certificate) = (open(&config.tls)?, open(&config.api_tls)?);
    let certificates = certificate.iter().chain(&api_certificate).cloned().collect();
    let watch = match (&config.kubernetes, &client) {
        (Some(kubernetes), Some(client)) => Some(watch(client, kubernetes)?),
        _ => None,
    };
    // Of agents and of people apart: neither waits for the other.
    let [reviews, of_agents] = [client.clone(), client.clone()].map(|client| client.map(Reviews::new));
    let identify = identify(&config, of_agents.zip(watch.clone()))?;
    let aggregator = Arc::new(Aggregator::open(config, identify, certificates, watch).await?);
    // First, since agents wait for it.
    let authority = own.map(|own| own.authority).or(aggregator.config.tls_ca.clone());
    if let Some((client, authority)) = client.zip(authority) {
        aggregator.publish_authority(client, authority);
    }
    aggregator.renew_certificate();
    let config = &aggregator.config;

    let collector = CollectorServer::new(service::Service(Arc::clone(&aggregator)))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE)
        // Orders are small: compressing them would cost each stream more memory than it saves bytes.
        .accept_compressed(CompressionEncoding::Zstd);
    let server = Server::builder()
        // What a node may send before it is taken; thousands of them wait for one disk.
        .initial_stream_window_size(Some(WINDOW))
        .initial_connection_window_size(Some(WINDOW))
        .max_concurrent_streams(Some(8))
        .http2_max_header_list_size(Some(16 << 10))
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .add_service(collector);
    let listen = |address| move |source| AggregatorError::Listen { address, source };
    let certificate = certificate.map(|certificate| (certificate, Protocol::Http2));
    let listener = bind(config.listen).and_then(TcpListener::from_std);
    let nodes = listener.and_then(|listener| Incoming::new(listener, certificate, Limits::default()));
    let nodes = nodes.map_err(listen(config.listen))?;
    let api = bind(config.api).map_err(listen(config.api))?;
    let authorizer: Arc<dyn web::Authorizer> = match (&config.api_tokens, reviews, &aggregator.watch) {
        (Some(path), ..) => Arc::new(web::TokenFile::open(path)?),
        // On loopback whoever is on the machine is trusted, as they are without a cluster.
        (None, Some(reviews), Some(watch)) if !config.api.ip().is_loopback() => {
            Arc::new(rbac::Rbac::new(reviews, Arc::clone(watch)))
        }
        _ => Arc::new(web::Loopback),
    };
    let web_config = web::Config {
        loopback: config.api.ip().is_loopback(),
        hosts: config.api_hosts.clone(),
        uploads,
        max_upload: config.policy.max_size,
    };
    let routes = web::routes(Arc::new(answers::Answers(Arc::clone(&aggregator))), authorizer, web_config);

    aggregator.take_up_advisories().await;
    tokio::spawn(Arc::clone(&aggregator).tick());
    tokio::spawn(Arc::clone(&aggregator).keep_advisories());
    tokio::spawn(Arc::clone(&aggregator).keep_tidy());
    if let Some(watch) = &aggregator.watch {
        tokio::spawn(Arc::clone(&aggregator).follow_cluster(Arc::clone(watch)));
        tokio::spawn(Arc::clone(&aggregator).end_workloads(Arc::clone(watch)));
    }
    let api_certificate = api_certificate.map(|certificate| (certificate, Protocol::Http1));
    let ended = serve_apart(api, api_certificate, routes).map_err(listen(config.api))?;
    tokio::select! {
        served = server.serve_with_incoming(nodes) => Ok(served?),
        ended = ended => Err(listen(config.api)(ended.unwrap_or_else(std::io::Error::other))),
    }
}

/// Begins to follow the API server.
fn watch(client: &kube::Client, kubernetes: &Kubernetes) -> Result<Arc<Watch>, AggregatorError> {
    let policy = kubernetes.policy.as_deref().map(Rego::read).transpose()?;
    let selection = Selection {
        excluded_namespaces: kubernetes.excluded_namespaces.clone(),
        annotations_in: kubernetes.annotations_in.clone(),
        policy,
    };
    Ok(Watch::start(client, selection, &kubernetes.namespaces))
}

/// Who tells which node somebody speaks for: a file, else the API server.
fn identify(config: &Config, asked: Option<(Reviews, Arc<Watch>)>) -> Result<Box<dyn Identify>, AggregatorError> {
    if let Some(path) = &config.tokens {
        return Ok(Box::new(TokenFile::open(path)?));
    }
    let account = config.kubernetes.as_ref().and_then(|kubernetes| kubernetes.agent_account.as_ref());
    let (Some((namespace, name)), Some((reviews, watch))) = (account, asked) else {
        return Err(AggregatorError::Agents);
    };
    Ok(Box::new(pods::Pods::new(reviews, watch, namespace, name)))
}

/// Listens at an address; at any of IPv4 where it is any of IPv6 and the kernel has none of these.
fn bind(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
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

/// Answers questions in threads of their own: where thousands of nodes attach at once, each would wait for its turn among theirs. What is
/// returned comes when it cannot go on.
fn serve_apart(
    listener: std::net::TcpListener,
    certificate: Option<(Arc<Certificate>, Protocol)>,
    routes: axum::Router,
) -> std::io::Result<oneshot::Receiver<std::io::Error>> {
    // Who asks says who they are with each request, and not with the connection.
    let limits = Limits { connections: 1024, per_address: 256, identify_within: None, ..Limits::default() };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (end, ended) = oneshot::channel();
    std::thread::Builder::new().name("api".to_owned()).spawn(move || {
        let served = runtime.block_on(async move {
            let incoming = Incoming::new(TcpListener::from_std(listener)?, certificate, limits)?;
            web::serve(incoming, routes).await;
            Ok(())
        });
        let _ = end.send(served.err().unwrap_or_else(|| std::io::Error::other("the API server task ended")));
    })?;
    Ok(ended)
}

impl Aggregator {
    async fn open(
        config: Config,
        identify: Box<dyn Identify>,
        certificates: Vec<Arc<Certificate>>,
        watch: Option<Arc<Watch>>,
    ) -> Result<Self, AggregatorError> {
        let cluster = ClusterIdentity { key: config.cluster.clone(), name: config.cluster.clone() };
        let store = Sqlite::open(&config.data.join("outcrop.db"), Options { cluster, outbox: false }).await?;
        let advisories = Advisories::open(&config.data.join("advisories"), config.policy.clone())?;
        let rules = Rules {
            verify_share: config.verify_share,
            verify_containers: config.verify_containers,
            verify_within: config.verify_within,
            forget_after: config.forget_after,
            cataloguers: outcrop_agent::catalog::VERSION,
        };
        let store: Arc<dyn Store> = Arc::new(store);
        let last_rematch = store.last_rematch().await?.and_then(|(database, ended)| Some((database, ended?)));
        let stacks = store.stacks().await?;
        let chains: HashMap<i64, Digest> = stacks.iter().map(|summary| (summary.id, summary.chain)).collect();
        let distrusted = store.distrusted().await?;
        let mut fleet = Fleet::new(rules, store.layers().await?, stacks, distrusted.clone());
        // A crash may have come between not believing a node and discarding what it read.
        for node in &distrusted {
            let outcome = fleet.distrust(node);
            discard(&*store, node, &outcome).await?;
        }
        let runs = store.open_runs().await?.into_iter();
        fleet.restore_runs(runs.filter_map(|run| Some((run.subject, *chains.get(&run.package_set)?, run.package_set))));
        Ok(Self {
            cluster: config.cluster.clone(),
            started: Instant::now(),
            identify,
            store,
            watch,
            fleet: Mutex::new(fleet),
            streams: Mutex::default(),
            advisories,
            matchmaker: RwLock::default(),
            last_rematch: Mutex::new(last_rematch),
            rematching: tokio::sync::Mutex::default(),
            unmatched: AtomicBool::new(false),
            keeping: Default::default(),
            runs: Mutex::default(),
            unpublished: Mutex::default(),
            changed: Notify::new(),
            counters: Counters::default(),
            memory: Arc::new(Semaphore::new(service::PERMITS)),
            decoding: Semaphore::new(DECODED_AT_ONCE),
            merging: Semaphore::new(DECODED_AT_ONCE),
            certificates,
            config,
        })
    }

    /// Keeps the authority of the certificate where agents find it, if it is to be published.
    fn publish_authority(self: &Arc<Self>, client: kube::Client, authority: PathBuf) {
        let Some((namespace, name)) = self.config.kubernetes.as_ref().and_then(|of| of.publish_ca.clone()) else {
            return;
        };
        let aggregator = Arc::clone(self);
        tokio::spawn(async move {
            let told = |problem| *lock(&aggregator.unpublished) = problem;
            keep_published(client, &namespace, &name, &authority, told).await;
        });
    }

    /// Keeps the own certificate fresh, where there is one.
    fn renew_certificate(&self) {
        let (dir, names) = (self.config.data.join("tls"), self.config.tls_names.clone());
        if names.is_empty() {
            return;
        }
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(authority::RENEWED).await;
                // One that could not be made leaves the one in use, and is tried again long before that ends.
                let _ = authority::certify(&dir, &names);
            }
        });
    }

    /// What is wrong with files that are read again when they change.
    fn problems(&self) -> Vec<String> {
        let certificates = self.certificates.iter().filter_map(|certificate| certificate.problem());
        let watched = self.watch.iter().flat_map(|watch| watch.problems());
        let unpublished = lock(&self.unpublished).clone();
        self.identify.problem().into_iter().chain(certificates).chain(watched).chain(unpublished).collect()
    }

    fn fleet(&self) -> MutexGuard<'_, Fleet> {
        lock(&self.fleet)
    }

    /// A node's stream begins, and an earlier one of the same node ends. The number tells it from others; what is returned beside it
    /// comes when it has to end.
    fn attach(
        &self,
        speaker: &Speaker,
        hello: &v1::Hello,
        orders: mpsc::Sender<Result<v1::Order, Status>>,
    ) -> (u64, oneshot::Receiver<()>) {
        let Speaker { node, token } = speaker;
        let mut streams = lock(&self.streams);
        let number = streams.get(node).map_or(0, |stream| stream.number + 1);
        let mut fleet = self.fleet();
        fleet.detach(node);
        fleet.attach(node, hello, now());
        drop(fleet);
        let (end, ended) = oneshot::channel();
        streams.insert(node.clone(), Stream { number, token: *token, orders, _end: end });
        (number, ended)
    }

    fn detach(&self, node: &str, number: u64) {
        let mut streams = lock(&self.streams);
        if streams.get(node).is_some_and(|stream| stream.number == number) {
            streams.remove(node);
            self.fleet().detach(node);
        }
        drop(streams);
        self.changed.notify_one();
    }

    /// Orders something of a node. One that does not take its orders loses its stream, and with it its leases.
    fn send(&self, node: &str, order: v1::order::Order) {
        let mut streams = lock(&self.streams);
        let Some(stream) = streams.get(node) else { return };
        if stream.orders.try_send(Ok(self.order(order))).is_err() {
            streams.remove(node);
            self.fleet().detach(node);
        }
    }

    /// Ends streams of tokens that are nobody's any more.
    fn expel(&self) {
        self.identify.refresh();
        let mut streams = lock(&self.streams);
        let invalid: Vec<String> = streams
            .iter()
            .filter(|(node, stream)| !self.identify.still_valid(node, &stream.token))
            .map(|(node, _)| node.clone())
            .collect();
        for node in invalid {
            if let Some(stream) = streams.remove(&node) {
                let _ = stream.orders.try_send(Err(Status::unauthenticated("the token is no longer valid")));
            }
            self.fleet().detach(&node);
        }
    }
}
