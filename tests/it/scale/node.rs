//! Simulated nodes: each uses the real protocol over its own TLS connection, and reads the layers that the world assigns to it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use outcrop_agent::catalog;
use outcrop_proto::wire::v1::collector_client::CollectorClient;
use outcrop_proto::wire::{MAX_MESSAGE, PIECE, Seen, VERSION, v1};
use outcrop_proto::{ContainerKey, LayerId, Pod, Runtime, Storage};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status, Streaming};

use super::service::{Service, token};
use super::world::{World, mix};

/// Nodes that connect at a time: as with real ones, whose starts are spread.
const CONNECTING: usize = 128;

/// What each node says that a layer cost: milliseconds, and bytes of evidence.
pub(crate) const READ_MILLISECONDS: u64 = 250;
pub(crate) const READ_BYTES: u64 = 2 << 20;

/// What all nodes share, and what came of it.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) world: Arc<World>,
    /// Number of its first node.
    first: usize,
    endpoint: Endpoint,
    connecting: Semaphore,
    making: Semaphore,
    stopped: AtomicBool,
    /// The time between two changes of a node's containers; zero for none.
    churn: Mutex<Duration>,
    /// The longest time that a layer takes to be read.
    reading: Mutex<Duration>,
    pub(crate) counts: Counts,
    /// How long each delivery took.
    pub(crate) deliveries: Mutex<Vec<Duration>>,
    /// Which of the aggregator's lives it is.
    life: AtomicU64,
    /// Layers of which the aggregator said that they are in its store, and in which of its lives.
    stored: Mutex<HashMap<LayerId, u64>>,
    /// Layers that were asked for although they had been said to be in the store.
    pub(crate) lost: Mutex<Vec<LayerId>>,
    /// Containers by node, as the nodes tell of them: number of the container, and how often it was replaced.
    containers: Mutex<HashMap<usize, BTreeMap<String, usize>>>,
}

#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) attached: AtomicU64,
    pub(crate) attaches: AtomicU64,
    pub(crate) failures: AtomicU64,
    pub(crate) read: AtomicU64,
    pub(crate) read_bytes: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) verified: AtomicU64,
    pub(crate) checks: AtomicU64,
    pub(crate) resyncs: AtomicU64,
    pub(crate) foreign: AtomicU64,
    pub(crate) changes: AtomicU64,
}

impl Counts {
    pub(crate) fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

pub(crate) fn node_name(number: usize) -> String {
    format!("node-{number:04}")
}

/// Where an aggregator is spoken to by nodes.
pub(crate) fn endpoint(service: &Service) -> Endpoint {
    let certificate = std::fs::read(service.at("cert.pem")).unwrap();
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(certificate));
    endpoint_at(service.listen, tls)
}

fn endpoint_at(listen: SocketAddr, tls: ClientTlsConfig) -> Endpoint {
    let endpoint = Endpoint::from_shared(format!("https://{listen}")).unwrap();
    endpoint.tls_config(tls).unwrap().connect_timeout(Duration::from_secs(60)).tcp_nodelay(true)
}

pub(crate) fn report(report: v1::report::Report) -> v1::Report {
    v1::Report { cluster: "scale".to_owned(), report: Some(report) }
}

fn with_token<T>(message: T, node: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {}", token(node)).parse().unwrap());
    request
}

/// The Hello of a node with all rights.
pub(crate) fn hello(node: &str) -> v1::Hello {
    v1::Hello {
        node: node.to_owned(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        catalogers: catalog::VERSION,
        cage: "landlock+seccomp".to_owned(),
        marks: true,
        wire_version: VERSION,
        ..v1::Hello::default()
    }
}

/// A stream of one node.
#[derive(Debug)]
pub(crate) struct Stream {
    client: CollectorClient<Channel>,
    node: String,
    pub(crate) reports: mpsc::Sender<v1::Report>,
    pub(crate) orders: Streaming<v1::Order>,
}

impl Stream {
    /// Attaches as `node`.
    pub(crate) async fn attach(endpoint: &Endpoint, node: &str) -> Result<Self, Status> {
        Self::attach_with(endpoint, hello(node)).await
    }

    /// Attaches with this Hello.
    pub(crate) async fn attach_with(endpoint: &Endpoint, hello: v1::Hello) -> Result<Self, Status> {
        let channel = endpoint.connect().await.map_err(|error| Status::unavailable(format!("{error:?}")))?;
        let mut client =
            CollectorClient::new(channel).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE);
        let (reports, outbox) = mpsc::channel(4);
        let node = hello.node.clone();
        let _ = reports.send(report(v1::report::Report::Hello(hello))).await;
        let orders = client.attach(with_token(ReceiverStream::new(outbox), &node)).await?.into_inner();
        Ok(Self { client, node, reports, orders })
    }

    /// Hands over an inventory; returns when the aggregator says that it has it.
    pub(crate) async fn deliver(
        &self,
        pieces: impl Iterator<Item = v1::Piece> + Send + 'static,
    ) -> Result<v1::Stored, Status> {
        let request = with_token(tokio_stream::iter(pieces), &self.node);
        Ok(self.client.clone().deliver(request).await?.into_inner())
    }

    /// Begins to hand over an inventory: what is sent into the channel is said.
    pub(crate) fn begin(&self) -> (mpsc::Sender<v1::Piece>, tokio::task::JoinHandle<Result<v1::Stored, Status>>) {
        let (pieces, outbox) = mpsc::channel(1);
        let request = with_token(ReceiverStream::new(outbox), &self.node);
        let mut client = self.client.clone();
        (pieces, tokio::spawn(async move { Ok(client.deliver(request).await?.into_inner()) }))
    }

    /// Says something; an error once the stream has ended.
    pub(crate) async fn say(&self, what: v1::report::Report) -> Result<(), Status> {
        self.reports.send(report(what)).await.map_err(|_| Status::cancelled("the stream has ended"))
    }

    pub(crate) async fn order(&mut self) -> Result<Option<v1::order::Order>, Status> {
        Ok(self.orders.message().await?.and_then(|order| order.order))
    }
}

/// The pieces of a compressed inventory.
pub(crate) fn pieces(layer: LayerId, compressed: &[u8]) -> impl Iterator<Item = v1::Piece> {
    let first = v1::Piece {
        cluster: "scale".to_owned(),
        layer: Some(layer.into()),
        bytes: Vec::new(),
        cage: "landlock+seccomp".to_owned(),
        marks: true,
        cost: Some(v1::ReadCost {
            milliseconds: READ_MILLISECONDS,
            paths: 3_000,
            evidence_files: 40,
            evidence_bytes: READ_BYTES,
        }),
    };
    let more = compressed.chunks(PIECE).map(|bytes| v1::Piece { bytes: bytes.to_vec(), ..v1::Piece::default() });
    std::iter::once(first).chain(more)
}

/// The key of a container of Kubernetes in containerd.
pub(crate) fn kubernetes_key(id: String) -> ContainerKey {
    ContainerKey { runtime: Runtime::Containerd, namespace: "k8s.io".to_owned(), id }
}

/// A container of an image, on a node.
pub(crate) fn seen(world: &World, id: &str, image: usize) -> v1::Container {
    let number = mix(&[5, image as u64]);
    let image = world.image(image);
    let namespace = format!("team-{:02}", number % 40);
    let pod = Pod { name: format!("app-{}", &id[..id.len().min(10)]), uid: id.to_owned(), namespace };
    let seen = Seen {
        key: kubernetes_key(id.to_owned()),
        storage: Some(Storage::LayerDirectories),
        name: "app".to_owned(),
        pod: Some(pod),
        image: image.name.clone(),
        stack: Some((image.stack, image.ids.clone())),
        refused: None,
        steps: Vec::new(),
        details: None,
    };
    (&seen).into()
}

impl Fleet {
    pub(crate) fn new(world: Arc<World>, service: &Service) -> Arc<Self> {
        let shape = world.shape;
        let mut containers: HashMap<usize, BTreeMap<String, usize>> = HashMap::new();
        for number in 0..shape.containers {
            let id = container_id(shape.seed, number, 0);
            containers.entry(number % shape.nodes).or_default().insert(id, world.image_of(number));
        }
        Self::with(world, service, containers)
    }

    /// A fleet whose nodes are numbered from `first` on, beside others, and each run every image.
    pub(crate) fn beside(world: Arc<World>, service: &Service, first: usize) -> Arc<Self> {
        let shape = world.shape;
        let all = |node| (0..shape.images).map(|image| (container_id(shape.seed, node, image as u64), image)).collect();
        let containers = (0..shape.nodes).map(|node| (node, all(node))).collect();
        Self::from_parts(world, service, containers, first)
    }

    /// A fleet with these containers: by node, container ID and number of the image.
    pub(crate) fn with(
        world: Arc<World>,
        service: &Service,
        containers: HashMap<usize, BTreeMap<String, usize>>,
    ) -> Arc<Self> {
        Self::from_parts(world, service, containers, 0)
    }

    fn from_parts(
        world: Arc<World>,
        service: &Service,
        containers: HashMap<usize, BTreeMap<String, usize>>,
        first: usize,
    ) -> Arc<Self> {
        Arc::new(Self {
            first,
            endpoint: endpoint(service),
            connecting: Semaphore::new(CONNECTING),
            making: Semaphore::new(4),
            stopped: AtomicBool::new(false),
            churn: Mutex::default(),
            reading: Mutex::default(),
            counts: Counts::default(),
            deliveries: Mutex::default(),
            life: AtomicU64::new(0),
            stored: Mutex::default(),
            lost: Mutex::default(),
            containers: Mutex::new(containers),
            world,
        })
    }

    /// Starts every node on the runtime that this is called on.
    pub(crate) fn start(self: &Arc<Self>) {
        self.start_nodes(0..self.world.shape.nodes);
    }

    pub(crate) fn start_nodes(self: &Arc<Self>, nodes: Range<usize>) {
        for node in nodes {
            let fleet = Arc::clone(self);
            tokio::spawn(async move { fleet.live(node).await });
        }
    }

    /// Replaces a container of each node now and then.
    pub(crate) fn churn(&self, every: Duration) {
        *self.churn.lock().unwrap() = every;
    }

    /// Lets each layer take up to `most` to be read.
    pub(crate) fn reading(&self, most: Duration) {
        *self.reading.lock().unwrap() = most;
    }

    /// The aggregator has ended, and will begin again: what it asks for on streams from now on, it does not have.
    pub(crate) fn next_life(&self) {
        self.life.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(crate) fn containers(&self, node: usize) -> BTreeMap<String, usize> {
        self.containers.lock().unwrap().get(&node).cloned().unwrap_or_default()
    }

    pub(crate) fn stored(&self) -> HashSet<LayerId> {
        self.stored.lock().unwrap().keys().copied().collect()
    }

    async fn live(&self, node: usize) {
        let mut pause = 0;
        for turn in 0_u64.. {
            if self.stopped.load(Ordering::Relaxed) {
                return;
            }
            let spread = mix(&[node as u64, turn]) % (200 + pause);
            tokio::time::sleep(Duration::from_millis(spread)).await;
            pause = if self.attach(node).await.is_ok() { 0 } else { (pause + 200).min(2_000) };
            self.counts.failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn attach(&self, node: usize) -> Result<(), Status> {
        let permit = self.connecting.acquire().await.map_err(|_| Status::cancelled("the end"))?;
        let mut stream = Stream::attach(&self.endpoint, &node_name(self.first + node)).await?;
        // Welcome.
        stream.order().await?;
        drop(permit);
        self.counts.attaches.fetch_add(1, Ordering::Relaxed);
        self.counts.attached.fetch_add(1, Ordering::Relaxed);
        let ended = self.follow(node, &mut stream).await;
        self.counts.attached.fetch_sub(1, Ordering::Relaxed);
        // An attachment that worked at all starts the pauses anew.
        let _ = ended;
        Ok(())
    }

    async fn follow(&self, node: usize, stream: &mut Stream) -> Result<(), Status> {
        let life = self.life.load(Ordering::SeqCst);
        let mut sequence = 1;
        self.tell_all(node, stream, sequence).await?;
        let role =
            |name: &str, resident_bytes| v1::Role { name: name.to_owned(), resident_bytes, ..v1::Role::default() };
        let roles = vec![role("runtime", 8 << 20), role("reader", 12 << 20), role("worker", 20 << 20)];
        stream.say(v1::report::Report::Metrics(v1::Metrics { roles, ..v1::Metrics::default() })).await?;
        let mut turn = 0;
        loop {
            let churn = *self.churn.lock().unwrap();
            let wait = if churn.is_zero() { Duration::from_secs(5) } else { churn };
            let wait = wait / 2 + wait.mul_f64((mix(&[node as u64, turn]) % 1000) as f64 / 1000.0);
            turn += 1;
            tokio::select! {
                order = stream.order() => match order? {
                    Some(order) => self.obey(node, stream, order, &mut sequence, life).await?,
                    None => return Ok(()),
                },
                () = tokio::time::sleep(wait) => {
                    if self.stopped.load(Ordering::Relaxed) {
                        return Ok(());
                    }
                    if !self.churn.lock().unwrap().is_zero() {
                        sequence += 1;
                        self.replace(node, stream, sequence).await?;
                    }
                }
            }
        }
    }

    async fn tell_all(&self, node: usize, stream: &Stream, sequence: u64) -> Result<(), Status> {
        let containers = self.containers(node);
        let containers = containers.iter().map(|(id, image)| seen(&self.world, id, *image)).collect();
        let all = v1::Containers { sequence, full: true, containers, ..v1::Containers::default() };
        stream.say(v1::report::Report::Containers(all)).await
    }

    /// A container ends, and one of another image that the node has or gets begins.
    async fn replace(&self, node: usize, stream: &Stream, sequence: u64) -> Result<(), Status> {
        // Never the same twice, whatever lives the aggregator has: an ID that was given before would replace a container that runs.
        let random = mix(&[7, node as u64, self.counts.changes.fetch_add(1, Ordering::Relaxed)]);
        let shape = self.world.shape;
        let (gone, id, image) = {
            let mut all = self.containers.lock().unwrap();
            let Some(containers) = all.get_mut(&node) else { return Ok(()) };
            let Some(gone) = containers.keys().nth(random as usize % containers.len().max(1)).cloned() else {
                return Ok(());
            };
            // Images never go altogether: else what is known of them may be forgotten.
            let image = containers.remove(&gone).unwrap();
            let id = container_id(shape.seed, node, random);
            containers.insert(id.clone(), image);
            (gone, id, image)
        };
        let gone = vec![(&kubernetes_key(gone)).into()];
        let containers = vec![seen(&self.world, &id, image)];
        let changes = v1::Containers { sequence, containers, gone, ..v1::Containers::default() };
        stream.say(v1::report::Report::Containers(changes)).await
    }

    async fn obey(
        &self,
        node: usize,
        stream: &mut Stream,
        order: v1::order::Order,
        sequence: &mut u64,
        life: u64,
    ) -> Result<(), Status> {
        use v1::order::Order;
        match order {
            Order::Resync(_) => {
                self.counts.resyncs.fetch_add(1, Ordering::Relaxed);
                *sequence += 1;
                self.tell_all(node, stream, *sequence).await?;
            }
            Order::Lease(lease) => {
                for id in self.offered(node, &lease.layers) {
                    if self.stored.lock().unwrap().get(&id).is_some_and(|stored| *stored < life) {
                        self.lost.lock().unwrap().push(id);
                    }
                    let slow =
                        self.reading.lock().unwrap().mul_f64((mix(&[node as u64, *sequence]) % 1000) as f64 / 1000.0);
                    tokio::time::sleep(slow).await;
                    let compressed = self.make(&id).await;
                    self.counts.read.fetch_add(1, Ordering::Relaxed);
                    self.counts.read_bytes.fetch_add(compressed.len() as u64, Ordering::Relaxed);
                    let pieces: Vec<v1::Piece> = pieces(id, &compressed).collect();
                    let start = Instant::now();
                    let delivered = stream.deliver(pieces.into_iter()).await;
                    self.deliveries.lock().unwrap().push(start.elapsed());
                    match delivered {
                        Ok(_) => drop(self.stored.lock().unwrap().entry(id).or_insert(life)),
                        Err(_) => drop(self.counts.refused.fetch_add(1, Ordering::Relaxed)),
                    }
                }
            }
            Order::CrossRead(cross_read) => {
                for id in self.offered(node, &cross_read.layers) {
                    let layer = self.world.layer(&id).unwrap();
                    let world = Arc::clone(&self.world);
                    let permit = self.making.acquire().await;
                    let digest = tokio::task::spawn_blocking(move || world.digest(layer)).await.unwrap();
                    drop(permit);
                    self.counts.verified.fetch_add(1, Ordering::Relaxed);
                    let verified = v1::Verified {
                        layer: Some(id.into()),
                        digest: digest.0.to_vec(),
                        catalogers: catalog::VERSION,
                        cage: "landlock+seccomp".to_owned(),
                        marks: !cross_read.without_marks,
                        cost: None,
                    };
                    stream.say(v1::report::Report::Verified(verified)).await?;
                }
            }
            Order::Check(check) => {
                self.counts.checks.fetch_add(1, Ordering::Relaxed);
                let answers = v1::Answers { stack: check.stack, ..v1::Answers::default() };
                stream.say(v1::report::Report::Answers(answers)).await?;
            }
            Order::Welcome(_) => {}
        }
        Ok(())
    }

    /// Those of the layers that the node has offered; the others are counted: nobody may ask for them.
    fn offered(&self, node: usize, layers: &[v1::LayerId]) -> Vec<LayerId> {
        let has: HashSet<LayerId> =
            self.containers(node).values().flat_map(|image| self.world.image(*image).ids.clone()).collect();
        let asked: Vec<LayerId> = layers.iter().filter_map(|id| LayerId::try_from(id).ok()).collect();
        let (offered, foreign): (Vec<LayerId>, Vec<LayerId>) = asked.into_iter().partition(|id| has.contains(id));
        self.counts.foreign.fetch_add(foreign.len() as u64, Ordering::Relaxed);
        offered
    }

    async fn make(&self, id: &LayerId) -> Arc<Vec<u8>> {
        let layer = self.world.layer(id).unwrap();
        let world = Arc::clone(&self.world);
        let _permit = self.making.acquire().await;
        tokio::task::spawn_blocking(move || world.compressed(layer)).await.unwrap()
    }
}

fn container_id(seed: u64, number: usize, turn: u64) -> String {
    let part = |salt| mix(&[seed, 4, number as u64, turn, salt]);
    format!("{:016x}{:016x}{:016x}{:016x}", part(0), part(1), part(2), part(3))
}
