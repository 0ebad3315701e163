//! The gRPC service: what nodes say comes in, what they are to do goes out.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use outcrop_proto::inventory::{Inventory, decompress};
use outcrop_proto::wire::v1::collector_server::Collector;
use outcrop_proto::wire::{MAX_INVENTORY, Seen, WireError, digest, v1};
use outcrop_proto::{Digest, LayerId};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Aggregator;
use super::fleet::Gap;
use crate::store::LayerRow;

/// Orders that wait for a node. One that does not take them is as good as gone.
const WAITING_ORDERS: usize = 64;

/// Most bytes of a compressed inventory; a table of a million paths has five.
const MAX_COMPRESSED: usize = 64 << 20;

/// Serves the nodes of an aggregator.
#[derive(Debug)]
pub(super) struct Service(pub(super) Arc<Aggregator>);

#[tonic::async_trait]
impl Collector for Service {
    type AttachStream = ReceiverStream<Result<v1::Order, Status>>;

    async fn attach(&self, request: Request<Streaming<v1::Report>>) -> Result<Response<Self::AttachStream>, Status> {
        let opened = self.open(request).await;
        if opened.is_err() {
            self.0.counters.refused.fetch_add(1, Relaxed);
        }
        opened
    }
}

impl Service {
    async fn open(
        &self,
        request: Request<Streaming<v1::Report>>,
    ) -> Result<Response<ReceiverStream<Result<v1::Order, Status>>>, Status> {
        let authorization = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let token = authorization.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        let node = self.0.tokens.node(token).ok_or_else(|| {
            Status::unauthenticated("the token is none of this aggregator's: make one with outcrop token new NODE")
        })?;
        let mut reports = request.into_inner();
        let first = reports.message().await?.ok_or_else(|| Status::invalid_argument("nothing was said"))?;
        let hello = self.0.hello(&node, first)?;
        let (orders, receiver) = mpsc::channel(WAITING_ORDERS);
        let welcome = v1::Welcome { aggregator_version: env!("CARGO_PKG_VERSION").to_owned() };
        let _ = orders.try_send(Ok(order(v1::order::Order::Welcome(welcome))));
        let aggregator = Arc::clone(&self.0);
        let stream = aggregator.attach(&node, &hello, orders.clone());
        tokio::spawn(async move {
            let mut assembly = Assembly { cataloguers: hello.cataloguers, ..Assembly::default() };
            loop {
                let outcome = match reports.message().await {
                    Ok(Some(report)) => aggregator.report(&node, report, &mut assembly).await,
                    Ok(None) | Err(_) => break,
                };
                if let Err(status) = outcome {
                    aggregator.counters.refused.fetch_add(1, Relaxed);
                    let _ = orders.try_send(Err(status));
                    break;
                }
            }
            aggregator.detach(&node, stream);
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// Pieces of an inventory that are on their way.
#[derive(Debug, Default)]
struct Assembly {
    cataloguers: u32,
    layer: Option<LayerId>,
    bytes: Vec<u8>,
}

pub(super) fn order(order: v1::order::Order) -> v1::Order {
    v1::Order { order: Some(order), cluster: String::new() }
}

fn malformed(error: WireError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn layer(id: Option<&v1::LayerId>) -> Result<LayerId, Status> {
    id.ok_or_else(|| Status::invalid_argument("a layer's identity is missing"))?.try_into().map_err(malformed)
}

impl Aggregator {
    /// Checks who is speaking: a node speaks for itself only, and in the cluster that this aggregator is for.
    fn hello(&self, node: &str, report: v1::Report) -> Result<v1::Hello, Status> {
        if report.cluster != self.cluster {
            let message = format!("this aggregator is for cluster {:?}, not {:?}", self.cluster, report.cluster);
            return Err(Status::failed_precondition(message));
        }
        match report.report {
            Some(v1::report::Report::Hello(hello)) if hello.node == node => Ok(hello),
            Some(v1::report::Report::Hello(hello)) => {
                Err(Status::permission_denied(format!("the token is for node {node:?}, not {:?}", hello.node)))
            }
            _ => Err(Status::invalid_argument("the first report has to be a Hello")),
        }
    }

    async fn report(self: &Arc<Self>, node: &str, report: v1::Report, assembly: &mut Assembly) -> Result<(), Status> {
        use v1::report::Report;
        self.fleet().heard(node, Instant::now());
        match report.report {
            Some(Report::Containers(containers)) => self.containers(node, containers)?,
            Some(Report::Piece(piece)) => self.piece(node, piece, assembly).await?,
            Some(Report::Unreadable(unreadable)) => {
                let layer = layer(unreadable.layer.as_ref())?;
                self.fleet().unreadable_by(node, layer, unreadable.reason, Instant::now());
            }
            Some(Report::Answers(answers)) => {
                let stack: Digest = digest(&answers.stack, "a stack's identity").map_err(malformed)?;
                // An answer that nobody asked for is not listened to.
                if self.fleet().was_asked(node, &stack) {
                    self.fleet().merging(stack);
                    self.merge(stack, answers);
                } else {
                    self.counters.unasked.fetch_add(1, Relaxed);
                }
            }
            // A second Hello, or a report of a newer agent.
            Some(Report::Hello(_) | Report::Verified(_) | Report::Metrics(_)) | None => {}
        }
        self.advance(node);
        Ok(())
    }

    fn containers(&self, node: &str, report: v1::Containers) -> Result<(), Status> {
        let containers =
            report.containers.into_iter().map(Seen::try_from).collect::<Result<Vec<_>, _>>().map_err(malformed)?;
        let gone: Vec<(String, String)> =
            report.gone.into_iter().map(|key| (key.containerd_namespace, key.id)).collect();
        let told = self.fleet().containers(node, report.sequence, report.full, containers, &gone);
        if told == Err(Gap) {
            self.send(node, v1::order::Order::Resync(v1::Resync {}));
        }
        Ok(())
    }

    async fn piece(&self, node: &str, piece: v1::Piece, assembly: &mut Assembly) -> Result<(), Status> {
        let layer = layer(piece.layer.as_ref())?;
        if assembly.layer != Some(layer) {
            (assembly.layer, assembly.bytes) = (Some(layer), Vec::new());
        }
        if assembly.bytes.len() + piece.bytes.len() > MAX_COMPRESSED {
            assembly.bytes = Vec::new();
            return Err(Status::resource_exhausted(format!("an inventory of more than {MAX_COMPRESSED} bytes")));
        }
        assembly.bytes.extend_from_slice(&piece.bytes);
        if !piece.last {
            return Ok(());
        }
        assembly.layer = None;
        let compressed = std::mem::take(&mut assembly.bytes);
        // Only what this node was asked for, and only the first of two answers.
        if !self.fleet().is_leased(node, &layer) {
            self.counters.unasked.fetch_add(1, Relaxed);
            return Ok(());
        }
        let checked = tokio::task::spawn_blocking(move || {
            let encoding = decompress(&compressed, MAX_INVENTORY).map_err(|error| error.to_string())?;
            let inventory = Inventory::decode(&encoding).map_err(|error| error.to_string())?;
            Ok::<_, String>((compressed, Digest::of(&encoding), inventory.cataloguers))
        });
        let (inventory, digest, cataloguers) = match checked.await {
            Ok(Ok(checked)) => checked,
            Ok(Err(error)) => return Err(Status::invalid_argument(format!("the inventory of {layer}: {error}"))),
            Err(error) => return Err(Status::internal(error.to_string())),
        };
        if cataloguers != assembly.cataloguers {
            return Err(Status::invalid_argument("the inventory is of other cataloguers than the agent said"));
        }
        let row = LayerRow {
            id: layer,
            inventory,
            digest,
            cataloguers,
            node: node.to_owned(),
            cage: piece.cage,
            marks: piece.marks,
            read_at: jiff::Timestamp::now().as_second(),
        };
        self.store.put_layer(&row).await.map_err(|error| Status::unavailable(error.to_string()))?;
        self.fleet().known(layer);
        self.counters.inventories.fetch_add(1, Relaxed);
        Ok(())
    }
}
