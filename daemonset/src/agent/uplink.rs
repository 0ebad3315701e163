//! The connection to the aggregator: one stream, opened again whenever it ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use outcrop_proto::LayerId;
use outcrop_proto::wire::v1::collector_client::CollectorClient;
use outcrop_proto::wire::v1::report::Report;
use outcrop_proto::wire::{MAX_MESSAGE, PIECE, Refusal, v1};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::Aggregator;
use super::node::{Command, Commands, DRAIN};
use super::reading::cost;
use crate::logging::safe;
use crate::worker::ReadStats;

/// Maximum number of reports that wait for the network. Reading waits for room, so memory stays bounded.
const WAITING_REPORTS: usize = 8;

/// The first pause before another attempt; it doubles after each failure, up to the longest.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The pause after the aggregator refused this agent's version of the interface.
const REFUSED_PAUSE: Duration = Duration::from_secs(120);

/// The first pause after another agent attached as this node; it doubles each time, up to the longest, so that the two do not replace each other all the
/// time. The aggregator reports a problem until neither was replaced for three times the longest.
const REPLACED_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_REPLACED_PAUSE: Duration = Duration::from_secs(300);

/// Queue of reports of one stream.
#[derive(Clone, Debug)]
pub(super) struct Outbox {
    cluster: Arc<str>,
    reports: Sender<v1::Report>,
    /// Inventories to deliver, each in a separate call: a long stream would keep the memory of its longest message.
    deliveries: Sender<Receiver<v1::Piece>>,
}

/// Result of sending a report without waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Yes,
    /// The queue is full.
    Full,
    /// The stream has ended.
    Ended,
}

impl Outbox {
    /// Sends a report if the queue has room.
    pub(super) fn send(&self, report: Report) -> Sent {
        match self.reports.try_send(self.addressed(report)) {
            Ok(()) => Sent::Yes,
            Err(TrySendError::Full(_)) => Sent::Full,
            Err(TrySendError::Closed(_)) => Sent::Ended,
        }
    }

    /// Sends a report and waits for room in the queue. If the stream has ended, the report is dropped.
    pub(super) fn wait_and_send(&self, report: Report) {
        let _ = self.reports.blocking_send(self.addressed(report));
    }

    /// Delivers the compressed inventory of a layer. Returns early if the stream ends.
    pub(super) fn deliver(&self, layer: LayerId, compressed: &[u8], stats: &ReadStats) {
        let (pieces, receiver) = tokio::sync::mpsc::channel(1);
        if self.deliveries.blocking_send(receiver).is_err() {
            return;
        }
        for (number, bytes) in compressed.chunks(PIECE).enumerate() {
            let mut piece = v1::Piece { bytes: bytes.to_vec(), ..v1::Piece::default() };
            if number == 0 {
                piece.cluster = self.cluster.to_string();
                piece.layer = Some(layer.into());
                piece.cage = stats.started.cage.to_string();
                piece.marks = stats.started.marks;
                piece.cost = Some(cost(stats));
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
    /// Ends the uplink once its deliveries are done.
    pub(super) stop: CancellationToken,
}

impl Uplink {
    /// Attaches to the aggregator, and again whenever the stream ends, until the agent stops.
    pub(super) fn run(self) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(reason = %safe(&error.to_string()), "starting the connection to the aggregator failed");
                return;
            }
        };
        runtime.block_on(async {
            let too_late = async {
                self.stop.cancelled().await;
                tokio::time::sleep(DRAIN).await;
            };
            tokio::select! {
                // After a stop it returns as soon as everything is delivered.
                () = self.attach_until_stopped() => {}
                () = too_late => {}
            }
        });
    }

    async fn attach_until_stopped(&self) {
        let mut pause = PAUSE;
        let mut replaced_pause = REPLACED_PAUSE;
        let mut reported = String::new();
        loop {
            let began = Instant::now();
            let (attached, ended) = self.attach().await;
            if began.elapsed() > 2 * LONGEST_REPLACED_PAUSE {
                replaced_pause = REPLACED_PAUSE;
            }
            if attached {
                pause = PAUSE;
                reported.clear();
                if !self.commands.send(Command::Detached) {
                    return;
                }
            }
            let (reason, refusal) = match ended {
                Ok(Ended::Agent) => return,
                Ok(Ended::Stream) => ("the aggregator ended the stream".to_owned(), None),
                Err(status) => (cause(&status), Refusal::of(&status)),
            };
            if self.stop.is_cancelled() {
                return;
            }
            if refusal == Some(Refusal::WireVersion) {
                // Only an upgrade of one side helps, which starts new processes.
                pause = REFUSED_PAUSE;
            }
            if refusal == Some(Refusal::Replaced) {
                pause = replaced_pause;
                replaced_pause = (replaced_pause * 2).min(LONGEST_REPLACED_PAUSE);
            }
            let wait = jittered(pause);
            // One event per change: a reason that was reported is not reported again at each attempt.
            let refused = refusal.map_or("", Refusal::as_str);
            let (retry_seconds, text) = (wait.as_secs_f64(), safe(&reason));
            match (refusal, reported == reason) {
                (_, true) => tracing::debug!(reason = %text, refused, retry_seconds, "attach failed again"),
                (Some(_), false) => tracing::error!(reason = %text, refused, retry_seconds, "agent refused"),
                (None, false) if attached => tracing::warn!(reason = %text, retry_seconds, "detached"),
                (None, false) => tracing::warn!(reason = %text, hint = hint(&reason), retry_seconds, "attach failed"),
            }
            reported = reason;
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.stop.cancelled() => return,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Holds one stream. Returns whether it began, and how it ended.
    async fn attach(&self) -> (bool, Result<Ended, Status>) {
        // Tasks of this stream end with it.
        let mut tasks = JoinSet::new();
        let begun = tokio::select! {
            begun = self.begin(&mut tasks) => begun,
            () = self.stop.cancelled() => return (false, Ok(Ended::Agent)),
        };
        let mut orders = match begun {
            Ok((orders, outbox)) => {
                tracing::info!("attached");
                if !self.commands.send(Command::Attached(outbox)) {
                    return (true, Ok(Ended::Agent));
                }
                orders
            }
            Err(status) => return (false, Err(status)),
        };
        loop {
            let message = tokio::select! {
                message = orders.message() => message,
                Some(ended) = tasks.join_next() => match ended {
                    // The agent stops, and everything is delivered.
                    Ok(()) if self.stop.is_cancelled() => return (true, Ok(Ended::Agent)),
                    Ok(()) => continue,
                    // A panic ends the thread, and with it the agent: no task dies quietly.
                    Err(error) => match error.try_into_panic() {
                        Ok(panic) => std::panic::resume_unwind(panic),
                        Err(_) => continue,
                    },
                },
            };
            match message {
                Ok(None) => return (true, Ok(Ended::Stream)),
                Err(status) => return (true, Err(status)),
                // An order of another cluster's aggregator, or of a kind that is not known here, is ignored.
                Ok(Some(order)) if !order.cluster.is_empty() && order.cluster != self.cluster => {}
                Ok(Some(v1::Order { order: None, .. })) => {}
                Ok(Some(v1::Order { order: Some(order), .. })) => {
                    if let v1::order::Order::Welcome(welcome) = &order {
                        tracing::debug!(aggregator_version = %safe(&welcome.aggregator_version), "welcome received");
                    }
                    if !self.commands.send(Command::Order(order)) {
                        return (true, Ok(Ended::Agent));
                    }
                }
            }
        }
    }

    async fn begin(&self, tasks: &mut JoinSet<()>) -> Result<(tonic::Streaming<v1::Order>, Outbox), Status> {
        // Token and certificate authority are replaced while the agent runs: they are read each time.
        let unusable = |error: super::AgentError| Status::failed_precondition(error.to_string());
        let endpoint = self.aggregator.endpoint().map_err(unusable)?;
        let bearer = format!("Bearer {}", self.aggregator.token().map_err(unusable)?).parse::<MetadataValue<Ascii>>();
        let mut bearer = bearer.map_err(|_| Status::invalid_argument("the token file does not contain a token"))?;
        bearer.set_sensitive(true);
        let channel = endpoint.connect().await.map_err(|error| Status::from_error(error.into()))?;
        let mut client =
            CollectorClient::new(channel).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE);
        let (reports, receiver) = tokio::sync::mpsc::channel(WAITING_REPORTS);
        let (deliveries, waiting) = tokio::sync::mpsc::channel(1);
        let outbox = Outbox { cluster: self.cluster.as_str().into(), reports, deliveries };
        tasks.spawn(deliver(client.clone(), bearer.clone(), waiting, self.stop.clone()));
        outbox.send(Report::Hello(self.hello.clone()));
        let mut request = Request::new(ReceiverStream::new(receiver));
        request.metadata_mut().insert("authorization", bearer);
        Ok((client.attach(request).await?.into_inner(), outbox))
    }
}

/// Makes the calls of deliveries, one after the other, until the stream's outbox is gone or `stop` is cancelled. The aggregator leases
/// again what it did not accept.
async fn deliver(
    mut client: CollectorClient<Channel>,
    bearer: MetadataValue<Ascii>,
    mut waiting: Receiver<Receiver<v1::Piece>>,
    stop: CancellationToken,
) {
    loop {
        let pieces = tokio::select! {
            biased;
            pieces = waiting.recv() => pieces,
            // What waits already is still delivered.
            () = stop.cancelled(), if !waiting.is_closed() => {
                waiting.close();
                continue;
            }
        };
        let Some(pieces) = pieces else { return };
        let mut request = Request::new(ReceiverStream::new(pieces));
        request.metadata_mut().insert("authorization", bearer.clone());
        match client.deliver(request).await {
            Ok(_) => tracing::debug!("inventory stored"),
            Err(status) => {
                let refused = Refusal::of(&status).map_or("", Refusal::as_str);
                tracing::warn!(reason = %safe(&cause(&status)), refused, "delivery failed");
            }
        }
    }
}

/// The reason for the end of a stream.
enum Ended {
    /// The aggregator.
    Stream,
    /// The agent.
    Agent,
}

/// Returns the innermost cause: the outer text of a transport error does not name it.
fn cause(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        text = error.to_string();
        source = error.source();
    }
    text
}

/// Returns what to check for a failed connection, by the text of its cause: the libraries below have no error types for it.
fn hint(reason: &str) -> &'static str {
    let is = |words: &[&str]| words.iter().any(|word| reason.contains(word));
    if is(&["NoApplicationProtocol", "frame with invalid size", "InvalidContentType", "corrupt message"]) {
        "something else listens there: the address of --aggregator is the one of the aggregator's --listen, by default port 7443, with https unless it runs with --insecure"
    } else if is(&["UnknownIssuer", "no CRLs", "BadSignature"]) {
        "--ca is not the CA of the aggregator's certificate: copy its ca.crt again"
    } else if is(&["NotValidForName"]) {
        "the certificate has no such host name: use one that it has, or start the aggregator with --tls-name HOST"
    } else if is(&["refused", "timed out", "deadline"]) {
        "check that the aggregator runs, and that its address and a firewall let this node connect"
    } else if is(&["lookup", "dns", "resolve"]) {
        "check the host name of --aggregator"
    } else {
        "run outcrop-agent doctor on this node"
    }
}

/// Returns a random time between half of `pause` and `pause`, so that a thousand nodes do not return at the same moment.
pub(super) fn jittered(pause: Duration) -> Duration {
    pause / 2 + pause * u32::try_from(random() % 512).unwrap_or(0) / 1024
}

/// Returns a number that differs from process to process.
pub(super) fn random() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(0_u8)
}
