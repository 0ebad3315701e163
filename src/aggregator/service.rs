//! The gRPC service for agents: receives reports and inventories, and sends orders.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use outcrop_agent::logging::safe;
use outcrop_proto::wire::v1::collector_server::Collector;
use outcrop_proto::wire::{Refusal, Seen, WireError, check_version, digest, v1};
use outcrop_proto::{ContainerKey, Coverage, CoverageState, DecodeError, Digest, LayerId};
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, error, info, warn};

use super::fleet::{Answered, Fleet, LEASE, RefusedReport, Verified};
use super::in_flight::{SET_ASIDE, Work};
use super::intake::{Call, Delay, Room, STALLED};
use super::joining::place_reported;
use super::memory::{give_back, in_background};
use super::merges::MergeJob;
use super::merging::{Checked, CheckedInventory, check_inventory};
use super::tokens::{Denied, Speaker};
use super::trial::Trial;
use super::{Aggregator, now};
use crate::store::{Layer, LayerRow, StoreError};
use crate::supervise::panic_message;
use crate::web::listen::{OpenCall, Peer};

/// Maximum number of orders that wait for a node. A node with more is detached.
const WAITING_ORDERS: usize = 64;

/// Number of containers in a report that count as one more report.
const CONTAINERS_OF_A_REPORT: u32 = 20;

/// Number of layers of these containers that count as one more report.
const LAYERS_OF_A_REPORT: u32 = 100;

/// Size of a report that counts as one more report, in bytes: for build steps, labels and other text.
const BYTES_OF_A_REPORT: u32 = 16 << 10;

/// Cost of a report from which on its memory is returned to the system.
const LARGE: f64 = 100.0;

/// Maximum size of the name of a sandbox, in bytes.
const MAX_CAGE: usize = 100;

/// The service of an aggregator.
#[derive(Debug)]
pub(super) struct Service(pub(super) Arc<Aggregator>);

#[tonic::async_trait]
impl Collector for Service {
    type AttachStream = ReceiverStream<Result<v1::Order, Status>>;

    async fn attach(&self, request: Request<Streaming<v1::Report>>) -> Result<Response<Self::AttachStream>, Status> {
        let opened = run_to_end(Self(Arc::clone(&self.0)).open(request)).await;
        opened.inspect_err(|status| self.0.counters.refuse(status))
    }

    async fn deliver(&self, request: Request<Streaming<v1::Piece>>) -> Result<Response<v1::Stored>, Status> {
        let delivered = run_to_end(Self(Arc::clone(&self.0)).receive(request)).await;
        delivered.inspect_err(|status| self.0.counters.refuse(status))
    }
}

/// Runs a call to its end, even if the node disconnects: a call that is dropped before its end could have leased layers without sending the
/// order.
async fn run_to_end<T: Send + 'static>(
    call: impl Future<Output = Result<T, Status>> + Send + 'static,
) -> Result<T, Status> {
    tokio::spawn(call).await.unwrap_or_else(|error| Err(Status::internal(panic_message(error))))
}

impl Service {
    /// Authenticates the node that sent a request. The connection of the request may stay open as long as the second value lives.
    async fn identify<T>(&self, request: &Request<T>) -> Result<(Speaker, Option<OpenCall>), Status> {
        let authorization = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let token = authorization.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        let speaker = self.0.identify.node(token).await.map_err(|denied| match denied {
            Denied::Unknown | Denied::Refused(_) => Refusal::Token.status(denied.to_string()),
            Denied::Unavailable(_) => Status::unavailable(denied.to_string()),
        })?;
        let call = request.extensions().get::<Peer>().map(|peer| peer.begin(&speaker.node));
        Ok((speaker, call))
    }

    async fn open(
        self,
        request: Request<Streaming<v1::Report>>,
    ) -> Result<Response<ReceiverStream<Result<v1::Order, Status>>>, Status> {
        let (speaker, call) = self.identify(&request).await?;
        let node = speaker.node.clone();
        let opened = self.open_stream(speaker, call, request.into_inner()).await;
        opened.inspect_err(|status| log_refused(&node, "Attach", status))
    }

    async fn open_stream(
        self,
        speaker: Speaker,
        call: Option<OpenCall>,
        mut reports: Streaming<v1::Report>,
    ) -> Result<Response<ReceiverStream<Result<v1::Order, Status>>>, Status> {
        let aggregator = Arc::clone(&self.0);
        let opening = aggregator.intake.enter(&speaker.node, Call::Attach).await?;
        let first = tokio::time::timeout(Duration::from_secs(20), reports.message()).await;
        let first = first.map_err(|_| Refusal::TimedOut.status("timed out waiting for the first message"))??;
        let first = first.ok_or_else(|| Refusal::Malformed.status("the stream ended before the first message"))?;
        let hello = aggregator.hello(&speaker.node, first)?;
        let (orders, receiver) = mpsc::channel(WAITING_ORDERS);
        let welcome = v1::Welcome { aggregator_version: env!("CARGO_PKG_VERSION").to_owned() };
        let _ = orders.try_send(Ok(aggregator.order(v1::order::Order::Welcome(welcome))));
        let node = speaker.node.clone();
        let (stream, ended) = aggregator.attach(&speaker, hello, orders.clone()).await;
        drop(opening);
        let listener = Arc::clone(&aggregator);
        let name = node.clone();
        tokio::spawn(async move {
            let listening = tokio::spawn(async move { listener.listen(&name, stream, reports, &orders, ended).await });
            // After a panic, the node is detached as well, and can attach again.
            if let Err(error) = listening.await {
                error!(node, reason = panic_message(error), "stream failed");
            }
            aggregator.detach(node, stream).await;
            drop(call);
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    /// Receives an inventory.
    async fn receive(self, request: Request<Streaming<v1::Piece>>) -> Result<Response<v1::Stored>, Status> {
        let (Speaker { node, .. }, _call) = self.identify(&request).await?;
        let received = self.receive_from(&node, request.into_inner()).await;
        received.inspect_err(|status| log_refused(&node, "Deliver", status))
    }

    async fn receive_from(&self, node: &str, mut pieces: Streaming<v1::Piece>) -> Result<Response<v1::Stored>, Status> {
        let _turn = self.0.intake.enter(node, Call::Deliver).await?;
        let next = async |pieces: &mut Streaming<v1::Piece>| {
            let next = tokio::time::timeout(STALLED, pieces.message()).await;
            next.map_err(|_| Refusal::TimedOut.status("timed out waiting for the next part of the inventory"))?
        };
        let first = next(&mut pieces).await?.ok_or_else(|| Refusal::Malformed.status("the inventory has no parts"))?;
        self.0.same_cluster(&first.cluster)?;
        let layer = layer(first.layer.as_ref())?;
        // Memory is reserved only for layers that are leased to this node.
        let Some(catalogers) = self.0.is_leased(node, layer).await else {
            self.0.counters.unasked.fetch_add(1, Relaxed);
            return Err(unleased(&layer));
        };
        let (mut cage, marks, cost) = (first.cage, first.marks, first.cost);
        cage.truncate(cage.floor_char_boundary(MAX_CAGE));
        let mut room = Room::default();
        let mut compressed = Vec::new();
        let mut piece = Some(first.bytes);
        let whole = async {
            while let Some(bytes) = piece {
                self.0.intake.make_room(&mut room, compressed.len(), bytes.len()).await?;
                compressed.extend_from_slice(&bytes);
                piece = next(&mut pieces).await?.map(|piece| piece.bytes);
            }
            Ok::<(), Status>(())
        };
        // A slow sender must not hold memory that others wait for.
        let whole = tokio::time::timeout(LEASE, whole).await;
        whole.map_err(|_| Refusal::TimedOut.status("the lease expired before the inventory was complete"))??;
        let delivered = Delivered { layer, catalogers, cage, marks, compressed };
        self.0.store_inventory(node, delivered).await?;
        drop(room);
        if let Some(cost) = cost {
            self.0.metrics.layer_read(&cost);
        }
        self.0.advance(node).await;
        Ok(Response::new(v1::Stored { cluster: self.0.cluster.clone(), layer: Some(layer.into()) }))
    }
}

/// An inventory as a node has delivered it.
struct Delivered {
    layer: LayerId,
    /// The version of the catalogers that the agent reported when it attached.
    catalogers: u32,
    cage: String,
    marks: bool,
    compressed: Vec<u8>,
}

/// Returns the cost of a report, in small reports: what it takes to handle and to keep grows with its containers, their layers and its size.
fn cost(report: &v1::Report) -> f64 {
    let per = |count: usize, one: u32| f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / f64::from(one);
    let containers = match &report.report {
        Some(v1::report::Report::Containers(list)) => {
            let layers = list.containers.iter().map(|container| container.layers.len()).sum();
            per(list.containers.len() + list.gone.len(), CONTAINERS_OF_A_REPORT) + per(layers, LAYERS_OF_A_REPORT)
        }
        _ => 0.0,
    };
    1.0 + containers + per(report.encoded_len(), BYTES_OF_A_REPORT)
}

/// Logs that a call of `node` was refused; one that failed through no fault of the node was not.
fn log_refused(node: &str, method: &str, status: &Status) {
    if Refusal::classify(status).is_some() {
        warn!(node, method, reason = %safe(status.message()), "call refused");
    }
}

fn unleased(layer: &LayerId) -> Status {
    Refusal::Unasked.status(format!("{layer} is not leased to this node"))
}

fn malformed(error: WireError) -> Status {
    Refusal::Malformed.status(error.to_string())
}

fn layer(id: Option<&v1::LayerId>) -> Result<LayerId, Status> {
    id.ok_or_else(|| Refusal::Malformed.status("a layer's identity is missing"))?.try_into().map_err(malformed)
}

impl Aggregator {
    /// Returns the version of the catalogers with which `node` reads the layer, or `None` if the layer is not leased to it.
    async fn is_leased(&self, node: &str, layer: LayerId) -> Option<u32> {
        let node = node.to_owned();
        self.fleet.call(move |fleet| fleet.is_leased(&node, &layer)).await
    }

    /// Records that `node` could not read a layer.
    async fn unreadable(&self, node: &str, layer: LayerId, coverage: Coverage, gone: bool) {
        debug!(node, %layer, reason = %safe(&coverage.reason), gone, "layer not read");
        let node = node.to_owned();
        self.fleet.call(move |fleet| fleet.unreadable(&node, &layer, coverage, gone, now())).await;
    }

    /// Returns the message for an order.
    pub(super) fn order(&self, order: v1::order::Order) -> v1::Order {
        v1::Order { order: Some(order), cluster: self.cluster.clone() }
    }

    /// Checks the first message of a stream: node, cluster and wire version must match.
    fn hello(&self, node: &str, report: v1::Report) -> Result<v1::Hello, Status> {
        self.same_cluster(&report.cluster)?;
        match report.report {
            Some(v1::report::Report::Hello(hello)) if hello.node == node => {
                check_version(&hello)?;
                Ok(hello)
            }
            Some(v1::report::Report::Hello(hello)) => {
                Err(Refusal::Node.status(format!("the token is for node {node:?}, not {:?}", hello.node)))
            }
            _ => Err(Refusal::Malformed.status("the first report must be a Hello")),
        }
    }

    fn same_cluster(&self, cluster: &str) -> Result<(), Status> {
        if cluster == self.cluster {
            return Ok(());
        }
        let message = format!("this aggregator is for cluster {:?}, not {cluster:?}", self.cluster);
        Err(Refusal::Cluster.status(message))
    }

    /// Handles the reports of a node until its stream ends, is refused, or is replaced (`ended`). A report that has arrived is handled completely.
    async fn listen(
        self: &Arc<Self>,
        node: &str,
        stream: u64,
        mut reports: Streaming<v1::Report>,
        orders: &mpsc::Sender<Result<v1::Order, Status>>,
        mut ended: oneshot::Receiver<()>,
    ) {
        loop {
            // Before the next report is read: a new stream does not give a node a new budget.
            tokio::select! {
                () = self.intake.afford(node) => {}
                _ = &mut ended => return,
            }
            let message = tokio::select! {
                message = reports.message() => message,
                _ = &mut ended => return,
            };
            let outcome = match message {
                Ok(Some(report)) => self.report(node, stream, report).await,
                Ok(None) => return,
                // The message was refused before or while it was decoded, or was not a message at all.
                Err(status)
                    if Refusal::of(&status).is_some()
                        || matches!(status.code(), tonic::Code::Internal | tonic::Code::OutOfRange) =>
                {
                    Err(status)
                }
                // The connection ended.
                Err(_) => return,
            };
            if let Err(status) = outcome {
                self.counters.refuse(&status);
                warn!(node, reason = %safe(status.message()), "stream refused");
                let _ = orders.try_send(Err(status));
                return;
            }
        }
    }

    /// Handles a report, after its cost was charged to the node.
    async fn report(self: &Arc<Self>, node: &str, stream: u64, report: v1::Report) -> Result<(), Status> {
        use v1::report::Report;
        let cost = cost(&report);
        if let Some(Delay { delay, is_new }) = self.intake.charge(node, cost) {
            self.metrics.reports_delayed.inc();
            if is_new {
                warn!(node, seconds = delay.as_secs(), "reports delayed: the node has used up its budget");
            }
        }
        self.same_cluster(&report.cluster)?;
        let name = node.to_owned();
        self.fleet.call(move |fleet| fleet.record_message(&name, now())).await;
        match report.report {
            Some(Report::Containers(containers)) => {
                let result = self.containers(node, stream, containers).await;
                if cost > LARGE {
                    give_back().await;
                }
                result?;
            }
            Some(Report::Verified(verified)) => self.verified(node, &verified).await?,
            Some(Report::Metrics(metrics)) => {
                let name = node.to_owned();
                self.fleet.call(move |fleet| fleet.metrics(&name, metrics)).await;
                return Ok(());
            }
            Some(Report::Unreadable(unreadable)) => {
                let layer = layer(unreadable.layer.as_ref())?;
                let reason = unreadable.reason;
                let coverage = match unreadable.state.as_str() {
                    "too-large" => Coverage::new(CoverageState::TooLarge, reason),
                    _ => Coverage::failed(reason),
                };
                self.unreadable(node, layer, coverage, unreadable.gone).await;
            }
            Some(Report::Answers(answers)) => {
                let stack: Digest = digest(&answers.stack, "a stack's identity").map_err(malformed)?;
                self.answers(node, stack, answers).await?;
            }
            // A second Hello, or a report of a newer agent.
            Some(Report::Hello(_)) | None => {}
        }
        self.advance(node).await;
        Ok(())
    }

    /// Takes up answers about a stack, if this node was asked. Others are dropped before they take anything.
    async fn answers(&self, node: &str, stack: Digest, answers: v1::Answers) -> Result<(), Status> {
        let name = node.to_owned();
        let mut answered = None;
        if self.fleet.call(move |fleet| fleet.is_checked_by(&name, &stack)).await {
            // They wait with others for their turn, and may be too late then.
            let held = self.intake.allow_answers(answers.encoded_len()).await?;
            let (name, claim) = (node.to_owned(), Checked::claim(&answers));
            let checked = self.fleet.call(move |fleet| fleet.check_answered(&name, &stack, claim, now())).await;
            answered = checked.map(|checked| (checked, held));
        }
        match answered {
            Some((Answered { layers, nodes, is_confirmed }, held)) => {
                let (hidden, undecided) = (answers.hidden.len(), answers.undecided.len());
                info!(node, %stack, hidden, undecided, is_confirmed, "paths checked");
                let checked = Checked { answers, nodes, is_confirmed };
                self.merge(MergeJob { stack, layers, answers: Some((checked, held)) });
            }
            None => {
                self.counters.unasked.fetch_add(1, Relaxed);
            }
        }
        Ok(())
    }

    async fn containers(&self, node: &str, stream: u64, report: v1::Containers) -> Result<(), Status> {
        let containers =
            report.containers.into_iter().map(Seen::try_from).collect::<Result<Vec<_>, _>>().map_err(malformed)?;
        let gone =
            report.gone.into_iter().map(ContainerKey::try_from).collect::<Result<Vec<_>, _>>().map_err(malformed)?;
        let unconfirmed = report.unconfirmed_namespaces;
        let report = super::fleet::Report {
            stream,
            sequence: report.sequence,
            full: report.full,
            containers,
            gone,
            unconfirmed,
        };
        let (name, watch) = (node.to_owned(), self.watch.clone());
        // Pods are looked up in the same call that adds the containers, so that no change of the cluster is missed in between.
        let result = self.fleet.call(move |fleet| {
            fleet.containers(&name, report, &|seen| place_reported(watch.as_deref(), &name, seen), now())
        });
        match result.await {
            Ok(()) | Err(RefusedReport::Replaced) => Ok(()),
            Err(RefusedReport::Gap) => {
                debug!(node, "report missed: all containers requested");
                self.send(node, v1::order::Order::Resync(v1::Resync {})).await;
                Ok(())
            }
            Err(RefusedReport::TooMany) => {
                Err(Refusal::TooLarge.status("the report exceeds the maximum number of containers per node"))
            }
        }
    }

    /// Checks and stores an inventory.
    async fn store_inventory(&self, node: &str, delivered: Delivered) -> Result<(), Status> {
        let Delivered { layer, catalogers, cage, marks, compressed } = delivered;
        let permit = self.intake.decode_turn().await?;
        let work = Work::layer(&layer);
        if self.in_flight.is_suspect(&work) {
            if let Err(reason) = Trial::of_inventory(&compressed, marks).run().await {
                let status = Refusal::SetAside.status(format!("the inventory of {layer}: {SET_ASIDE}: {reason}"));
                return Err(self.reject_inventory(node, layer, CoverageState::Failed, status).await);
            }
            self.in_flight.acquit(&work);
        }
        let mark = self.in_flight.begin(&work);
        let checked = in_background(move || check_inventory(&compressed, marks).map(|checked| (compressed, checked)));
        let checked = checked.await;
        drop(mark);
        let (inventory, checked) = match checked {
            Ok(Ok(checked)) => checked,
            Ok(Err(error)) => {
                let reason = format!("the inventory of {layer}: {error}");
                let (state, status) = match error {
                    DecodeError::OverBudget(_) => (CoverageState::TooLarge, Refusal::TooLarge.status(reason)),
                    _ => (CoverageState::Failed, Refusal::Malformed.status(reason)),
                };
                return Err(self.reject_inventory(node, layer, state, status).await);
            }
            Err(error) => return Err(Status::internal(error.to_string())),
        };
        let CheckedInventory { digest, without_marks, size, catalogers: read_by } = checked;
        drop(permit);
        if read_by != catalogers {
            let status = Refusal::Malformed
                .status("the inventory was read with another version of the catalogers than the agent reported");
            return Err(self.reject_inventory(node, layer, CoverageState::Failed, status).await);
        }
        let read = Layer {
            id: layer,
            digest,
            without_marks,
            size,
            catalogers,
            node: node.to_owned(),
            cage,
            marks,
            read_at: now().unix,
            verified_by: std::collections::BTreeSet::new(),
        };
        // Meanwhile the lease may have expired or the node may have been distrusted, and another node may have read the layer.
        let (name, candidate) = (node.to_owned(), read.clone());
        let checks = move |fleet: &mut Fleet| (fleet.is_leased(&name, &layer).is_some(), fleet.is_settled(&candidate));
        match self.fleet.call(checks).await {
            (false, _) => return Err(unleased(&layer)),
            (true, false) => {
                self.counters.contradicted.fetch_add(1, Relaxed);
                let reason = format!("the inventory of {layer} differs from the accepted one");
                let status = Status::failed_precondition(reason);
                return Err(self.reject_inventory(node, layer, CoverageState::Failed, status).await);
            }
            (true, true) => {}
        }
        if let Err(error) = self.store.put_layer(LayerRow { layer: read.clone(), inventory }).await {
            // The node is not at fault: the layer is leased again later.
            self.unreadable(node, layer, Coverage::failed(error.to_string()), true).await;
            return Err(Status::unavailable(error.to_string()));
        }
        if self.fleet.call(move |fleet| fleet.layer_stored(read)).await {
            self.counters.inventories.fetch_add(1, Relaxed);
            info!(node, %layer, bytes = size, "layer stored");
            return Ok(());
        }
        // The node was distrusted while its inventory was stored.
        let forgotten = self.store.forget_layers(&[layer], node).await;
        forgotten.map_err(|error| Status::unavailable(error.to_string()))?;
        Err(unleased(&layer))
    }

    /// Records that a node has delivered an unusable inventory, which counts as a failure to read the layer. Returns `status`.
    async fn reject_inventory(&self, node: &str, layer: LayerId, state: CoverageState, status: Status) -> Status {
        self.unreadable(node, layer, Coverage::new(state, status.message()), false).await;
        status
    }

    async fn verified(&self, node: &str, report: &v1::Verified) -> Result<(), Status> {
        let id = layer(report.layer.as_ref())?;
        let digest = digest(&report.digest, "an inventory's digest").map_err(malformed)?;
        let (name, catalogers, marks) = (node.to_owned(), report.catalogers, report.marks);
        let outcome = self.fleet.call(move |fleet| fleet.verified(&name, &id, digest, catalogers, marks)).await;
        if let Some(cost) = report.cost.filter(|_| outcome != Verified::NotRequested) {
            self.metrics.layer_read(&cost);
        }
        let stored: Result<(), StoreError> = match outcome {
            Verified::NotRequested => {
                self.counters.unasked.fetch_add(1, Relaxed);
                Ok(())
            }
            Verified::Inconclusive => Ok(()),
            Verified::Same(in_store) | Verified::Upheld(in_store) => {
                self.counters.verified.fetch_add(1, Relaxed);
                self.store.verified(&id, &in_store, node, now().unix).await
            }
            Verified::Disputed => {
                self.counters.contradicted.fetch_add(1, Relaxed);
                warn!(node, layer = %id, "layer disputed");
                self.changed.notify_one();
                Ok(())
            }
            Verified::Overturned(reader) => {
                self.counters.contradicted.fetch_add(1, Relaxed);
                warn!(node, layer = %id, "layer disputed");
                self.changed.notify_one();
                self.store.forget_layers(&[id], &reader).await
            }
        };
        // An error of the store raises a problem elsewhere. A cross-read that was not stored is repeated after a restart.
        if let Err(error) = stored {
            warn!(node, layer = %id, %error, "cross-read not stored");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use v1::report::Report;

    use super::*;

    fn report(containers: usize, layers: usize, step: usize) -> v1::Report {
        let layer = v1::LayerId::from(LayerId::Diff(Digest([1; 32])));
        let steps = vec![v1::Step { text: "x".repeat(step), ..v1::Step::default() }];
        let container = v1::Container { layers: vec![layer; layers], steps, ..v1::Container::default() };
        let list = v1::Containers { containers: vec![container; containers], ..v1::Containers::default() };
        v1::Report { cluster: String::new(), report: Some(Report::Containers(list)) }
    }

    #[test]
    fn a_report_costs_as_much_as_its_containers_their_layers_and_their_text() {
        let small = cost(&report(1, 30, 100));
        assert!((1.0..2.0).contains(&small), "{small}");
        // All containers of a usual node, many times within a burst.
        let usual = cost(&report(30, 30, 100));
        assert!(usual < 20.0, "{usual}");
        // Few containers, each with the most layers that an image may have, or with megabytes of text.
        for (containers, layers, step) in [(60, 500, 0), (2_000, 0, 0), (1, 0, 4 << 20)] {
            let cost = cost(&report(containers, layers, step));
            assert!(cost > LARGE && cost > 5.0 * usual, "{containers} of {layers} layers: {cost}");
        }
    }
}
