//! The aggregator: takes what nodes say, stores it, merges and matches it, and answers questions about it.
//!
//! A roof: it wires the gRPC service to the picture of the fleet, the store, the advisory database and the web. All decisions are
//! the fleet's, which is plain data; this does what it says.

pub mod advisories;
mod fleet;
pub mod incoming;
mod merging;
mod service;
mod stamp;
mod status;
pub mod tls;
pub mod tokens;
mod who_has;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use outcrop_agent::catalog;
use outcrop_proto::inventory::{Inventory, decompress};
use outcrop_proto::wire::v1::collector_server::CollectorServer;
use outcrop_proto::wire::{MAX_INVENTORY, MAX_MESSAGE, v1};
use outcrop_proto::{Coverage, CoverageState, Digest, LayerId};
use tokio::sync::{Notify, mpsc};
use tonic::Status;
use tonic::codec::CompressionEncoding;
use tonic::transport::{Identity, Server, ServerTlsConfig};

pub use tokens::{TokenError, Tokens, make_token};

use crate::advisory::{Database, DatabaseError, SourceInfo};
use crate::store::{Store, StoreError};
use crate::web;
use fleet::{Fleet, Ready};
use merging::{Outcome, Stack, merge_stack};

/// How often leases that have ended, nodes that are silent and the database's file are looked at.
const TICK: Duration = Duration::from_secs(2);

/// What the operator chose.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster that it is for.
    pub cluster: String,
    /// Where its store lies.
    pub data: PathBuf,
    /// The advisory database.
    pub database: Option<PathBuf>,
    /// The file of nodes and their tokens.
    pub tokens: PathBuf,
    /// Where nodes are listened to.
    pub listen: SocketAddr,
    /// Where questions are answered.
    pub api: SocketAddr,
    /// Certificate chain and key, PEM; without them nodes are spoken to in the clear.
    pub tls: Option<(PathBuf, PathBuf)>,
}

/// Why the aggregator could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum AggregatorError {
    /// A file that the operator named.
    #[error("{path}: {source}", path = .path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What is the matter.
        source: std::io::Error,
    },
    /// An address that cannot be listened at.
    #[error("listening at {address}: {source}")]
    Listen {
        /// Which one.
        address: SocketAddr,
        /// What is the matter.
        source: std::io::Error,
    },
    /// The gRPC server.
    #[error("serving nodes: {0}")]
    Serve(#[from] tonic::transport::Error),
    /// The web server.
    #[error("serving the API: {0}")]
    Api(#[source] std::io::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The advisory database.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The tokens.
    #[error(transparent)]
    Tokens(#[from] TokenError),
}

/// A stream of orders to a node, and which of its streams it is.
type Stream = (u64, mpsc::Sender<Result<v1::Order, Status>>);

/// The advisory database that is matched against, and the time of its file.
#[derive(Debug)]
struct Loaded {
    database: Database,
    modified: Option<SystemTime>,
}

/// A running aggregator.
#[derive(Debug)]
pub(crate) struct Aggregator {
    cluster: String,
    started: Instant,
    tokens: Tokens,
    store: Store,
    fleet: Mutex<Fleet>,
    streams: Mutex<HashMap<String, Stream>>,
    database_path: Option<PathBuf>,
    database: Mutex<Option<Loaded>>,
    /// How often the database was changed: what was matched against an older one is matched again.
    generation: AtomicU64,
    /// What is wrong with the database's file, if anything is.
    database_error: Mutex<Option<String>>,
    changed: Notify,
    counters: Counters,
}

/// What was taken from nodes and what was not, since the start.
#[derive(Debug, Default)]
struct Counters {
    /// Inventories that are in the store.
    inventories: AtomicU64,
    /// Inventories and answers that nobody had asked for.
    unasked: AtomicU64,
    /// Streams that were ended for what was said in them, or not begun.
    refused: AtomicU64,
}

/// A lock whose data stays right when somebody panics with it: every change of it is one assignment or call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
    std::fs::create_dir_all(&config.data).map_err(file(&config.data))?;
    let store = Store::open(&config.data.join("outcrop.db")).await?;
    let tokens = Tokens::read(&config.tokens)?;
    let database = config.database.as_ref().map(|path| load(path)).transpose()?;
    let fleet = Fleet::new(store.layers(catalog::VERSION).await?, store.stacks().await?);
    let aggregator = Arc::new(Aggregator {
        cluster: config.cluster,
        started: Instant::now(),
        tokens,
        store,
        fleet: Mutex::new(fleet),
        streams: Mutex::default(),
        database_path: config.database,
        database: Mutex::new(database),
        generation: AtomicU64::new(0),
        database_error: Mutex::default(),
        changed: Notify::new(),
        counters: Counters::default(),
    });

    let mut server = Server::builder();
    if let Some((certificate, key)) = &config.tls {
        let certificate = std::fs::read(certificate).map_err(file(certificate))?;
        let key = std::fs::read(key).map_err(file(key))?;
        server = server.tls_config(ServerTlsConfig::new().identity(Identity::from_pem(certificate, key)))?;
    }
    let collector = CollectorServer::new(service::Service(Arc::clone(&aggregator)))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE)
        .accept_compressed(CompressionEncoding::Zstd)
        .send_compressed(CompressionEncoding::Zstd);
    let server = server
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .add_service(collector);
    let listen = |address| async move {
        let listener = tokio::net::TcpListener::bind(address).await;
        listener.map_err(|source| AggregatorError::Listen { address, source })
    };
    let nodes = tonic::transport::server::TcpIncoming::from(listen(config.listen).await?);
    let api = listen(config.api).await?;
    let web = web::Config {
        loopback: config.api.ip().is_loopback(),
        hosts: Vec::new(),
        uploads: config.data.clone(),
        max_upload: 1 << 30,
    };
    let routes = web::routes(Arc::clone(&aggregator) as Arc<dyn web::Source>, Arc::new(web::Loopback), web);

    tokio::spawn(Arc::clone(&aggregator).tick());
    aggregator.rematch();
    tokio::select! {
        served = server.serve_with_incoming(nodes) => Ok(served?),
        () = web::serve(api, routes) => Ok(()),
    }
}

fn load(path: &std::path::Path) -> Result<Loaded, DatabaseError> {
    let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    Ok(Loaded { database: Database::open(path)?, modified })
}

impl Aggregator {
    fn fleet(&self) -> MutexGuard<'_, Fleet> {
        lock(&self.fleet)
    }

    /// A node's stream begins; the number tells it from a later one of the same node.
    fn attach(&self, node: &str, hello: &v1::Hello, orders: mpsc::Sender<Result<v1::Order, Status>>) -> u64 {
        let mut streams = lock(&self.streams);
        let number = streams.get(node).map_or(0, |(number, _)| number + 1);
        self.fleet().detach(node);
        self.fleet().attach(node, &hello.agent_version, Instant::now());
        streams.insert(node.to_owned(), (number, orders));
        number
    }

    fn detach(&self, node: &str, stream: u64) {
        let mut streams = lock(&self.streams);
        if streams.get(node).is_some_and(|(number, _)| *number == stream) {
            streams.remove(node);
            self.fleet().detach(node);
        }
        drop(streams);
        self.changed.notify_one();
    }

    /// Orders something of a node. One that does not take its orders loses its stream, and with it its leases.
    fn send(&self, node: &str, order: v1::order::Order) {
        let mut streams = lock(&self.streams);
        let sent = streams.get(node).is_some_and(|(_, orders)| orders.try_send(Ok(service::order(order))).is_ok());
        if !sent && streams.remove(node).is_some() {
            self.fleet().detach(node);
        }
    }

    /// Leases to `node` what it has and nobody reads, and merges the stacks whose layers are known.
    fn advance(self: &Arc<Self>, node: &str) {
        let now = Instant::now();
        let layers = self.fleet().lease(node, now);
        if !layers.is_empty() {
            let seconds = u32::try_from(fleet::LEASE.as_secs()).unwrap_or(u32::MAX);
            let lease = v1::Lease { layers: layers.into_iter().map(Into::into).collect(), seconds };
            self.send(node, v1::order::Order::Lease(lease));
        }
        let ready = self.fleet().ready(now);
        for Ready { stack, layers } in ready {
            self.merge_layers(stack, layers, None);
        }
    }

    async fn tick(self: Arc<Self>) {
        loop {
            let _ = tokio::time::timeout(TICK, self.changed.notified()).await;
            let nodes: Vec<String> = lock(&self.streams).keys().cloned().collect();
            nodes.iter().for_each(|node| self.advance(node));
            self.fleet().tidy();
            self.reload();
        }
    }

    /// Takes a database that was put in the place of the one that is used. A bad one is refused, and the good one kept.
    fn reload(self: &Arc<Self>) {
        let Some(path) = &self.database_path else { return };
        let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        if lock(&self.database).as_ref().is_some_and(|loaded| loaded.modified == modified) {
            return;
        }
        match load(path) {
            Ok(loaded) => {
                *lock(&self.database) = Some(loaded);
                *lock(&self.database_error) = None;
                self.generation.fetch_add(1, Ordering::SeqCst);
                self.rematch();
            }
            Err(error) => *lock(&self.database_error) = Some(error.to_string()),
        }
    }

    /// Matches every stack again, against the database as it is now. No node reads anything for it.
    fn rematch(self: &Arc<Self>) {
        let aggregator = Arc::clone(self);
        tokio::spawn(async move {
            // A stack that cannot be read from the store keeps what it had; status tells of the store.
            for (stack, _) in aggregator.store.stacks().await.unwrap_or_default() {
                if let Ok(Some((layers, answers))) = aggregator.store.stack(&stack).await {
                    let answers = answers.and_then(|bytes| prost::Message::decode(bytes.as_slice()).ok());
                    Arc::clone(&aggregator).merge_now(stack, layers, answers).await;
                }
            }
        });
    }

    /// Merges a stack that a node has answered about.
    fn merge(self: &Arc<Self>, stack: Digest, answers: v1::Answers) {
        let layers = self.fleet().layers_of(&stack);
        if let Some(layers) = layers {
            self.merge_layers(stack, layers, Some(answers));
        }
    }

    fn merge_layers(self: &Arc<Self>, stack: Digest, layers: Vec<LayerId>, answers: Option<v1::Answers>) {
        let aggregator = Arc::clone(self);
        tokio::spawn(async move { aggregator.merge_now(stack, layers, answers).await });
    }

    /// Merges until the result is of the database that is used now.
    async fn merge_now(self: Arc<Self>, stack: Digest, layers: Vec<LayerId>, answers: Option<v1::Answers>) {
        loop {
            let generation = self.generation.load(Ordering::SeqCst);
            Arc::clone(&self).merge_once(stack, layers.clone(), answers.clone()).await;
            if generation == self.generation.load(Ordering::SeqCst) {
                return;
            }
        }
    }

    async fn merge_once(self: Arc<Self>, stack: Digest, layers: Vec<LayerId>, answers: Option<v1::Answers>) {
        let mut compressed = Vec::with_capacity(layers.len());
        for layer in &layers {
            match self.store.inventory(layer).await {
                Ok(Some(row)) => compressed.push(row),
                Ok(None) => return self.fleet().done(stack, Coverage::failed(format!("{layer} is not in the store"))),
                Err(error) => return self.fleet().done(stack, Coverage::failed(error.to_string())),
            }
        }
        let aggregator = Arc::clone(&self);
        let merged = tokio::task::spawn_blocking(move || {
            let marks = compressed.iter().all(|(_, marks)| *marks);
            let decode = |(bytes, _): (Vec<u8>, bool)| Inventory::decode(&decompress(&bytes, MAX_INVENTORY)?);
            let inventories: Vec<Inventory> =
                compressed.into_iter().map(decode).collect::<Result<_, _>>().map_err(|error| error.to_string())?;
            let job = Stack { id: stack, layers: &layers, inventories: &inventories, marks, answers: answers.as_ref() };
            let loaded = lock(&aggregator.database);
            let database = loaded.as_ref().map(|loaded| &loaded.database);
            merge_stack(&job, database, jiff::Zoned::now().date()).map_err(|error| error.to_string())
        });
        match merged.await {
            Ok(Ok(Outcome::Ask(check))) => {
                let asked = self.fleet().ask(stack, Instant::now());
                if let Some(node) = asked {
                    self.send(&node, v1::order::Order::Check(check));
                }
            }
            Ok(Ok(Outcome::Done(row))) => {
                let coverage = match self.store.put_stack(&row).await {
                    Ok(()) => row.coverage.clone(),
                    Err(error) => Coverage::new(CoverageState::Failed, error.to_string()),
                };
                self.fleet().done(stack, coverage);
            }
            Ok(Err(error)) => self.fleet().done(stack, Coverage::failed(error)),
            Err(error) => self.fleet().done(stack, Coverage::failed(error.to_string())),
        }
    }

    /// What the database holds.
    fn sources(&self) -> Option<(String, Result<Vec<SourceInfo>, DatabaseError>)> {
        let loaded = lock(&self.database);
        let database = &loaded.as_ref()?.database;
        Some((database.path().display().to_string(), database.sources()))
    }
}
