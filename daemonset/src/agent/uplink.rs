//! The way to the aggregator: one stream, made again whenever it ends.

use std::sync::Arc;
use std::time::Duration;

use outcrop_proto::LayerId;
use outcrop_proto::wire::v1::collector_client::CollectorClient;
use outcrop_proto::wire::v1::report::Report;
use outcrop_proto::wire::{MAX_MESSAGE, PIECE, v1};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::CompressionEncoding;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::node::{Command, Commands};
use super::{Aggregator, say};
use crate::worker::Started;

/// Reports that wait for the network. Beyond them reading waits, so that memory stays bounded.
const WAITING_REPORTS: usize = 8;

/// The first pause before another attempt; twice as long after each failure, up to the longest.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Where reports go, for as long as one stream lives.
#[derive(Clone, Debug)]
pub(super) struct Outbox {
    cluster: Arc<str>,
    reports: Sender<v1::Report>,
    /// Inventories on their way, each a call of its own: a long stream would keep the memory of its longest message.
    deliveries: Sender<Receiver<v1::Piece>>,
}

/// What became of a report that could not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Yes,
    /// The network is slower than what is to say.
    Full,
    /// The stream has ended.
    Ended,
}

impl Outbox {
    /// Sends one report if there is room for it.
    pub(super) fn send(&self, report: Report) -> Sent {
        match self.reports.try_send(self.addressed(report)) {
            Ok(()) => Sent::Yes,
            Err(TrySendError::Full(_)) => Sent::Full,
            Err(TrySendError::Closed(_)) => Sent::Ended,
        }
    }

    /// Sends a report, and waits until there is room for it. Where the stream has ended nobody waits for it.
    pub(super) fn wait_and_send(&self, report: Report) {
        let _ = self.reports.blocking_send(self.addressed(report));
    }

    /// Hands over the inventory of a layer, compressed. Ends early with the stream.
    pub(super) fn deliver(&self, layer: LayerId, compressed: &[u8], started: Started) {
        let (pieces, receiver) = tokio::sync::mpsc::channel(1);
        if self.deliveries.blocking_send(receiver).is_err() {
            return;
        }
        for (number, bytes) in compressed.chunks(PIECE).enumerate() {
            let mut piece = v1::Piece { bytes: bytes.to_vec(), ..v1::Piece::default() };
            if number == 0 {
                piece.cluster = self.cluster.to_string();
                piece.layer = Some(layer.into());
                piece.cage = started.cage.to_string();
                piece.marks = started.marks;
            }
            if pieces.blocking_send(piece).is_err() {
                return;
            }
        }
    }

    fn addressed(&self, report: Report) -> v1::Report {
        v1::Report { cluster: self.cluster.to_string(), report: Some(report) }
    }
}

pub(super) struct Uplink {
    pub(super) aggregator: Aggregator,
    pub(super) cluster: String,
    pub(super) hello: v1::Hello,
    pub(super) commands: Commands,
}

impl Uplink {
    /// Attaches, again and again, until the node's thread has ended.
    pub(super) fn run(self) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build() {
            Ok(runtime) => runtime,
            // Without it the commands end, and with them the agent.
            Err(_) => return,
        };
        runtime.block_on(async {
            let mut pause = PAUSE;
            loop {
                let (attached, ended) = self.attach().await;
                if attached {
                    pause = PAUSE;
                    if !self.commands.send(Command::Detached) {
                        return;
                    }
                }
                match ended {
                    Ok(Ended::Node) => return,
                    Ok(Ended::Stream) => say("the aggregator ended the stream"),
                    Err(status) => say(&format!("the aggregator is not there: {}", cause(&status))),
                }
                tokio::time::sleep(jittered(pause)).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        });
    }

    /// One stream: whether it began, and how it ended.
    async fn attach(&self) -> (bool, Result<Ended, Status>) {
        let mut orders = match self.begin().await {
            Ok((orders, outbox)) => {
                say("attached to the aggregator");
                if !self.commands.send(Command::Attached(outbox)) {
                    return (true, Ok(Ended::Node));
                }
                orders
            }
            Err(status) => return (false, Err(status)),
        };
        loop {
            match orders.message().await {
                Ok(None) => return (true, Ok(Ended::Stream)),
                Err(status) => return (true, Err(status)),
                // An order of another cluster's aggregator, or of a kind that is not known here, is passed over.
                Ok(Some(order)) if !order.cluster.is_empty() && order.cluster != self.cluster => {}
                Ok(Some(v1::Order { order: None, .. })) => {}
                Ok(Some(v1::Order { order: Some(order), .. })) => {
                    if !self.commands.send(Command::Order(order)) {
                        return (true, Ok(Ended::Node));
                    }
                }
            }
        }
    }

    async fn begin(&self) -> Result<(tonic::Streaming<v1::Order>, Outbox), Status> {
        // Token and authority are replaced while the agent runs: they are read each time.
        let unusable = |error: super::AgentError| Status::failed_precondition(error.to_string());
        let endpoint = self.aggregator.endpoint().map_err(unusable)?;
        let bearer = format!("Bearer {}", self.aggregator.token().map_err(unusable)?).parse::<MetadataValue<Ascii>>();
        let bearer = bearer.map_err(|_| Status::invalid_argument("the token file does not contain a token"))?;
        let channel = endpoint.connect().await.map_err(|error| Status::from_error(error.into()))?;
        let mut client = CollectorClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
            .accept_compressed(CompressionEncoding::Zstd)
            .send_compressed(CompressionEncoding::Zstd);
        let (reports, receiver) = tokio::sync::mpsc::channel(WAITING_REPORTS);
        let (deliveries, waiting) = tokio::sync::mpsc::channel(1);
        let outbox = Outbox { cluster: self.cluster.as_str().into(), reports, deliveries };
        tokio::spawn(deliver(client.clone(), bearer.clone(), waiting));
        outbox.send(Report::Hello(self.hello.clone()));
        let mut request = Request::new(ReceiverStream::new(receiver));
        request.metadata_mut().insert("authorization", bearer);
        Ok((client.attach(request).await?.into_inner(), outbox))
    }
}

/// Makes the calls of deliveries, one after the other, until the stream's outbox is gone. What is not taken is the aggregator's to lease again.
async fn deliver(
    mut client: CollectorClient<Channel>,
    bearer: MetadataValue<Ascii>,
    mut waiting: Receiver<Receiver<v1::Piece>>,
) {
    while let Some(pieces) = waiting.recv().await {
        let mut request = Request::new(ReceiverStream::new(pieces));
        request.metadata_mut().insert("authorization", bearer.clone());
        if let Err(status) = client.deliver(request).await {
            say(&format!("the aggregator does not take an inventory: {}", cause(&status)));
        }
    }
}

/// What ended a stream.
enum Ended {
    /// The aggregator.
    Stream,
    /// The agent.
    Node,
}

/// The innermost reason: a transport's own words tell only that it is one.
fn cause(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        text = error.to_string();
        source = error.source();
    }
    text
}

/// Somewhere between half and all of `pause`, so that a thousand nodes do not come back at one moment.
pub(super) fn jittered(pause: Duration) -> Duration {
    use std::hash::{BuildHasher as _, RandomState};
    let random = RandomState::new().hash_one(0_u8) % 512;
    pause / 2 + pause * u32::try_from(random).unwrap_or(0) / 1024
}
