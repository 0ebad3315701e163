//! The way to the aggregator: one stream, made again whenever it ends.

use std::time::Duration;

use outcrop_proto::wire::v1::collector_client::CollectorClient;
use outcrop_proto::wire::{MAX_MESSAGE, v1};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::CompressionEncoding;
use tonic::transport::Endpoint;
use tonic::{Request, Status};

use super::node::{Command, Commands};
use super::say;
use crate::catalog;

/// Reports that wait for the network. Beyond them reading waits, so that memory stays bounded.
const WAITING_REPORTS: usize = 4;

/// The first pause before another attempt; twice as long after each failure, up to the longest.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

pub(super) struct Uplink {
    pub(super) endpoint: Endpoint,
    pub(super) token: String,
    pub(super) cluster: String,
    pub(super) node: String,
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
                match self.attach().await {
                    Ok(Ended::Node) => return,
                    Ok(Ended::Stream) => pause = PAUSE,
                    Err(status) => say(&format!("the aggregator is not there: {}", cause(&status))),
                }
                tokio::time::sleep(jittered(pause)).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        });
    }

    async fn attach(&self) -> Result<Ended, Status> {
        let channel = self.endpoint.connect().await.map_err(|error| Status::from_error(error.into()))?;
        let mut client = CollectorClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
            .accept_compressed(CompressionEncoding::Zstd)
            .send_compressed(CompressionEncoding::Zstd);
        let (reports, outbox) = tokio::sync::mpsc::channel(WAITING_REPORTS);
        let hello = v1::Hello {
            node: self.node.clone(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            cataloguers: catalog::VERSION,
            cage: String::new(),
            marks: false,
        };
        let hello = v1::Report { cluster: self.cluster.clone(), report: Some(v1::report::Report::Hello(hello)) };
        let _ = reports.send(hello).await;
        let mut request = Request::new(ReceiverStream::new(outbox));
        let bearer = format!("Bearer {}", self.token).parse();
        let bearer = bearer.map_err(|_| Status::invalid_argument("the token's file does not hold a token"))?;
        request.metadata_mut().insert("authorization", bearer);
        let mut orders = client.attach(request).await?.into_inner();
        say("attached to the aggregator");
        let (deliveries, mut waiting) = tokio::sync::mpsc::channel::<Vec<v1::Piece>>(1);
        let bearer = format!("Bearer {}", self.token);
        tokio::spawn(async move {
            while let Some(pieces) = waiting.recv().await {
                let mut request = Request::new(tokio_stream::iter(pieces));
                if let Ok(bearer) = bearer.parse() {
                    request.metadata_mut().insert("authorization", bearer);
                }
                if let Err(status) = client.deliver(request).await {
                    say(&format!("delivering: {}", cause(&status)));
                }
            }
        });
        if !self.commands.send(Command::Attached(reports, deliveries)) {
            return Ok(Ended::Node);
        }
        while let Some(order) = orders.message().await? {
            if let Some(order) = order.order
                && !self.commands.send(Command::Order(order))
            {
                return Ok(Ended::Node);
            }
        }
        Ok(Ended::Stream)
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
fn jittered(pause: Duration) -> Duration {
    use std::hash::{BuildHasher as _, RandomState};
    let random = RandomState::new().hash_one(0_u8) % 512;
    pause / 2 + pause * u32::try_from(random).unwrap_or(0) / 1024
}
