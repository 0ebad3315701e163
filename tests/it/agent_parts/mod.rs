//! A test aggregator: it records every message of an agent, and sends the orders of a test.

pub(crate) mod relay;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use outcrop_proto::Budget;
use outcrop_proto::LayerId;
use outcrop_proto::inventory::decompress;
use outcrop_proto::wire::v1::collector_server::{Collector, CollectorServer};
use outcrop_proto::wire::v1::report::Report;
use outcrop_proto::wire::{MAX_MESSAGE, Refusal, v1};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::ports::free;
use crate::runtime_parts::Containerd;

/// Where orders go.
type Orders = tokio::sync::mpsc::Sender<Result<v1::Order, Status>>;

/// What was told, and by whom orders are given.
#[derive(Clone, Default)]
pub(crate) struct Told {
    reports: Arc<Mutex<Vec<v1::Report>>>,
    pieces: Arc<Mutex<Vec<v1::Piece>>>,
    /// Inventories that were delivered whole, compressed.
    delivered: Arc<Mutex<BTreeMap<LayerId, Vec<u8>>>>,
    orders: Arc<Mutex<Option<Orders>>>,
    tokens: Arc<Mutex<Vec<String>>>,
    attached: Arc<AtomicUsize>,
    /// Whether each layer that a node offers is asked for, once.
    leases: Arc<AtomicBool>,
    /// Why every attach is refused, if so.
    refusal: Arc<Mutex<Option<Refusal>>>,
    /// How long a delivery waits before it is read, and how many have begun.
    delay: Arc<Mutex<Duration>>,
    delivering: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl Collector for Told {
    type AttachStream = ReceiverStream<Result<v1::Order, Status>>;

    async fn attach(&self, request: Request<Streaming<v1::Report>>) -> Result<Response<Self::AttachStream>, Status> {
        let token = request.metadata().get("authorization").unwrap().to_str().unwrap().to_owned();
        self.tokens.lock().unwrap().push(token);
        self.attached.fetch_add(1, Ordering::SeqCst);
        if let Some(refusal) = *self.refusal.lock().unwrap() {
            return Err(refusal.status("for the test"));
        }
        let (orders, receiver) = tokio::sync::mpsc::channel(256);
        *self.orders.lock().unwrap() = Some(orders.clone());
        let told = self.clone();
        let mut reports = request.into_inner();
        let mut asked = BTreeSet::new();
        tokio::spawn(async move {
            while let Ok(Some(report)) = reports.message().await {
                let offered = match &report.report {
                    Some(Report::Containers(containers)) => &containers.containers[..],
                    _ => &[],
                };
                let offered: BTreeSet<Vec<u8>> =
                    offered.iter().flat_map(|container| &container.layers).map(prost::Message::encode_to_vec).collect();
                told.reports.lock().unwrap().push(report);
                if told.leases.load(Ordering::SeqCst) {
                    let new: Vec<v1::LayerId> = offered
                        .into_iter()
                        .filter(|layer| asked.insert(layer.clone()))
                        .map(|layer| prost::Message::decode(layer.as_slice()).unwrap())
                        .collect();
                    let _ = orders.send(Ok(order(lease(new)))).await;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn deliver(&self, request: Request<Streaming<v1::Piece>>) -> Result<Response<v1::Stored>, Status> {
        let mut pieces = request.into_inner();
        self.delivering.fetch_add(1, Ordering::SeqCst);
        let delay = *self.delay.lock().unwrap();
        tokio::time::sleep(delay).await;
        let (mut layer, mut bytes) = (None, Vec::new());
        while let Some(piece) = pieces.message().await? {
            bytes.extend_from_slice(&piece.bytes);
            layer = layer.or_else(|| piece.layer.clone());
            self.pieces.lock().unwrap().push(piece);
        }
        self.delivered.lock().unwrap().insert(LayerId::try_from(layer.as_ref().unwrap()).unwrap(), bytes);
        Ok(Response::new(v1::Stored { cluster: "test".to_owned(), layer }))
    }
}

pub(crate) fn lease(layers: Vec<v1::LayerId>) -> v1::order::Order {
    v1::order::Order::Lease(v1::Lease { layers, seconds: 60 })
}

pub(crate) fn order(order: v1::order::Order) -> v1::Order {
    v1::Order { order: Some(order), cluster: "test".to_owned() }
}

/// A recording aggregator that listens, in an async runtime of its own.
pub(crate) struct Recorder {
    pub(crate) told: Told,
    pub(crate) dir: tempfile::TempDir,
    listen: SocketAddr,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Recorder {
    /// One that asks for every layer, once.
    pub(crate) fn start() -> Self {
        let recorder = Self::quiet();
        recorder.told.leases.store(true, Ordering::SeqCst);
        recorder
    }

    /// One that asks for nothing.
    pub(crate) fn quiet() -> Self {
        let listen = free();
        let mut recorder = Self { told: Told::default(), dir: tempfile::tempdir().unwrap(), listen, runtime: None };
        fs::write(recorder.at("token"), "first\n").unwrap();
        recorder.listen();
        recorder
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn listen(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let collector = CollectorServer::new(self.told.clone()).max_decoding_message_size(MAX_MESSAGE);
        let listen = self.listen;
        runtime.spawn(async move {
            tonic::transport::Server::builder().add_service(collector).serve(listen).await.unwrap();
        });
        self.runtime = Some(runtime);
    }

    /// Goes away, with every stream.
    pub(crate) fn hang_up(&mut self) {
        *self.told.orders.lock().unwrap() = None;
        self.runtime.take().unwrap().shutdown_timeout(Duration::from_secs(1));
    }

    pub(crate) fn order(&self, what: v1::order::Order) {
        self.send(order(what));
    }

    pub(crate) fn send(&self, order: v1::Order) {
        let orders = self.told.orders.lock().unwrap().clone().unwrap();
        orders.blocking_send(Ok(order)).unwrap();
    }

    /// Ends the stream of the agent.
    pub(crate) fn end(&self, status: Status) {
        let orders = self.told.orders.lock().unwrap().take().unwrap();
        orders.blocking_send(Err(status)).unwrap();
    }

    /// Refuses every attach from now on.
    pub(crate) fn refuse(&self, refusal: Refusal) {
        *self.told.refusal.lock().unwrap() = Some(refusal);
    }

    /// Makes every delivery wait from now on.
    pub(crate) fn delay_deliveries(&self, delay: Duration) {
        *self.told.delay.lock().unwrap() = delay;
    }

    /// Returns how many deliveries have begun.
    pub(crate) fn delivering(&self) -> usize {
        self.told.delivering.load(Ordering::SeqCst)
    }

    /// Returns what the agent has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.at("agent.log")).unwrap()
    }

    pub(crate) fn attached(&self) -> usize {
        self.told.attached.load(Ordering::SeqCst)
    }

    pub(crate) fn tokens(&self) -> Vec<String> {
        self.told.tokens.lock().unwrap().clone()
    }

    pub(crate) fn reports(&self) -> Vec<v1::Report> {
        self.told.reports.lock().unwrap().clone()
    }

    pub(crate) fn forget(&self) {
        self.told.reports.lock().unwrap().clear();
        self.told.delivered.lock().unwrap().clear();
    }

    /// What of a kind was told.
    pub(crate) fn all<T>(&self, of_kind: impl Fn(Report) -> Option<T>) -> Vec<T> {
        self.reports().into_iter().filter_map(|report| of_kind(report.report.unwrap())).collect()
    }

    pub(crate) fn containers(&self) -> Vec<v1::Containers> {
        self.all(|report| match report {
            Report::Containers(containers) => Some(containers),
            _ => None,
        })
    }

    /// The containers as they were told of last, without those that are gone: by ID.
    pub(crate) fn here(&self) -> BTreeMap<String, v1::Container> {
        let mut here = BTreeMap::new();
        for report in self.containers() {
            if report.full {
                here.clear();
            }
            here.extend(report.containers.into_iter().map(|one| (one.key.clone().unwrap().id, one)));
            report.gone.iter().for_each(|key| drop(here.remove(&key.id)));
        }
        here
    }

    /// The encodings of the layers that were read whole.
    pub(crate) fn inventories(&self) -> BTreeMap<LayerId, Vec<u8>> {
        let delivered = self.told.delivered.lock().unwrap();
        delivered.iter().map(|(id, bytes)| (*id, decompress(bytes, &mut Budget::job()).unwrap())).collect()
    }

    pub(crate) fn pieces(&self) -> Vec<v1::Piece> {
        self.told.pieces.lock().unwrap().clone()
    }

    pub(crate) fn unreadable(&self) -> Vec<v1::Unreadable> {
        self.all(|report| match report {
            Report::Unreadable(unreadable) => Some(unreadable),
            _ => None,
        })
    }

    pub(crate) fn metrics(&self) -> Vec<v1::Metrics> {
        self.all(|report| match report {
            Report::Metrics(metrics) => Some(metrics),
            _ => None,
        })
    }

    /// The problems that the agent reported last.
    pub(crate) fn problems(&self) -> Vec<String> {
        let last = self.metrics().pop().map(|metrics| metrics.problems).unwrap_or_default();
        last.into_iter().map(|problem| problem.message).collect()
    }

    /// The command of an agent of this aggregator, `run` or `reader`.
    pub(crate) fn command(&self, name: &str) -> Command {
        let mut command = agent();
        command.arg(name).args(["--cluster", "test", "--node", "one", "--aggregator"]);
        // By a name: resolving it has to be possible in the cage.
        command.arg(format!("http://localhost:{}", self.listen.port())).arg("--token-file").arg(self.at("token"));
        command
    }

    /// An agent on a containerd, with more arguments.
    pub(crate) fn agent(&self, containerd: &Containerd, more: &[&str]) -> Running {
        let mut command = self.command("run");
        self.run(
            command.args(["--interval", "3600"]).arg("--containerd").arg(containerd.socket()).args(more),
            "agent.log",
        )
    }

    pub(crate) fn run(&self, command: &mut Command, log: &str) -> Running {
        let log = fs::File::create(self.at(log)).unwrap();
        let child = command.stdin(Stdio::null()).stderr(log).spawn();
        Running(child.unwrap_or_else(|error| panic!("{command:?}: {error} (build with --workspace)")))
    }

    #[track_caller]
    pub(crate) fn until(&self, what: &str, done: impl FnMut() -> bool) {
        let log = || fs::read_to_string(self.at("agent.log")).unwrap_or_default();
        let told = || {
            let brief = |list: &[v1::Container]| list.iter().map(|one| one.key.clone().unwrap().id).collect::<Vec<_>>();
            let told = |report: &v1::Containers| {
                format!(
                    "{} full {}: {:?}, gone {:?}",
                    report.sequence,
                    report.full,
                    brief(&report.containers),
                    report.gone
                )
            };
            self.containers().iter().map(told).collect::<Vec<_>>().join("\n")
        };
        assert!(in_time(done), "waited in vain for {what}; told was:\n{}\nthe agent's log:\n{}", told(), log());
    }
}

/// The agent's program.
pub(crate) fn agent() -> Command {
    Command::new(Path::new(env!("CARGO_BIN_EXE_outcrop")).with_file_name("outcrop-agent"))
}

pub(crate) fn in_time(mut done: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(30) {
        if done() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

/// A child that is killed when it is dropped.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    /// Sends it a signal; `None` when it has not ended afterwards.
    pub(crate) fn end_by(&mut self, signal: rustix::process::Signal) -> Option<i32> {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.0), signal).unwrap();
        let mut code = None;
        in_time(|| {
            code = self.0.try_wait().unwrap();
            code.is_some()
        });
        code?.code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
