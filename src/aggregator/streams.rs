//! The streams of attached nodes, and the orders that are sent through them.
//!
//! A stream whose token has expired or was revoked is ended, independently of the store and the fleet, so that neither can delay it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use outcrop_agent::logging::safe;
use outcrop_proto::wire::{Refusal, v1};
use tokio::sync::{mpsc, oneshot};
use tonic::Status;
use tracing::{debug, info, warn};

use super::owner::State;
use super::tokens::{Credential, Identify, Speaker};
use super::{Aggregator, now};

/// Interval at which tokens are checked.
const EXPEL_INTERVAL: Duration = Duration::from_secs(1);

/// A node's stream.
#[derive(Debug)]
struct Stream {
    /// Number of the stream, which increases with each stream of the node.
    number: u64,
    /// The token that the node attached with.
    credential: Credential,
    orders: mpsc::Sender<Result<v1::Order, Status>>,
    /// Ends the task that listens to the node when it is dropped.
    _end: oneshot::Sender<()>,
}

/// The streams of all attached nodes, by node.
#[derive(Debug, Default)]
pub(super) struct Streams {
    streams: HashMap<String, Stream>,
    last: u64,
}

impl State for Streams {
    /// Number of streams.
    type Snapshot = usize;

    fn snapshot(&self) -> usize {
        self.streams.len()
    }
}

impl Streams {
    /// Adds a stream and ends an earlier one of the same node. Returns its number.
    fn add(&mut self, node: String, credential: Credential, orders: Orders, end: oneshot::Sender<()>) -> u64 {
        self.last += 1;
        self.streams.insert(node, Stream { number: self.last, credential, orders, _end: end });
        self.last
    }

    /// Removes a stream, unless another one has replaced it.
    fn remove(&mut self, node: &str, number: u64) {
        if self.streams.get(node).is_some_and(|stream| stream.number == number) {
            self.streams.remove(node);
        }
    }

    /// Sends an order. If too many orders of the node wait, its stream is removed, and the number of the stream is returned.
    fn send(&mut self, node: &str, order: v1::Order) -> Option<u64> {
        let stream = self.streams.get(node)?;
        stream.orders.try_send(Ok(order)).err()?;
        self.streams.remove(node).map(|stream| stream.number)
    }

    /// Ends the streams whose token is no longer valid. Returns their nodes and numbers.
    fn expel(&mut self, identify: &dyn Identify) -> Vec<(String, u64)> {
        let is_invalid = |node: &String, stream: &mut Stream| !identify.still_valid(node, &stream.credential);
        let expelled = self.streams.extract_if(is_invalid).map(|(node, stream)| {
            let _ = stream.orders.try_send(Err(Refusal::Token.status("the token is no longer valid")));
            (node, stream.number)
        });
        expelled.collect()
    }

    /// Ends all streams when the aggregator stops. Agents attach again after its restart.
    fn end_all(&mut self) {
        for (_, stream) in self.streams.drain() {
            let _ = stream.orders.try_send(Err(Status::unavailable("the aggregator stops; attach again")));
        }
    }
}

/// The sender of a node's orders.
type Orders = mpsc::Sender<Result<v1::Order, Status>>;

impl Aggregator {
    /// Attaches a node, and ends an earlier stream of it. Returns the number of the stream, and a receiver that resolves when the stream has to end.
    pub(super) async fn attach(
        &self,
        speaker: &Speaker,
        hello: v1::Hello,
        orders: Orders,
    ) -> (u64, oneshot::Receiver<()>) {
        let Speaker { node, credential } = speaker.clone();
        let (end, ended) = oneshot::channel();
        let name = node.clone();
        let number = self.streams.call(move |streams| streams.add(name, credential, orders, end)).await;
        let (agent, cage) = (safe(&hello.agent_version), safe(&hello.cage));
        info!(node, %agent, catalogers = hello.catalogers, %cage, "node attached");
        self.fleet.call(move |fleet| fleet.attach(&node, &hello, number, now())).await;
        (number, ended)
    }

    /// Detaches a node whose stream has ended.
    pub(super) async fn detach(&self, node: String, number: u64) {
        let name = node.clone();
        self.streams.call(move |streams| streams.remove(&name, number)).await;
        self.release(node, number, "its stream ended").await;
    }

    /// Sends an order to a node. If too many orders of the node wait, its stream and its leases end.
    pub(super) async fn send(&self, node: &str, order: v1::order::Order) {
        let (name, order) = (node.to_owned(), self.order(order));
        if let Some(number) = self.streams.call(move |streams| streams.send(&name, order)).await {
            self.release(node.to_owned(), number, "it does not take its orders").await;
        }
    }

    /// Leases the layers that a node had to read to other nodes.
    async fn release(&self, node: String, number: u64, reason: &str) {
        let name = node.clone();
        if self.fleet.call(move |fleet| fleet.detach(&name, number)).await {
            info!(node, reason, "node detached");
        }
        self.changed.notify_one();
    }

    /// Ends streams whose tokens are no longer valid once per second, and all streams when the aggregator stops.
    pub(super) async fn keep_streams(self: Arc<Self>, stop: tokio_util::sync::CancellationToken) {
        while tokio::time::timeout(EXPEL_INTERVAL, stop.cancelled()).await.is_err() {
            self.identify.refresh();
            let identify = Arc::clone(&self.identify);
            for (node, number) in self.streams.call(move |streams| streams.expel(&*identify)).await {
                warn!(node, "node expelled: its token is not valid any more");
                self.release(node, number, "its token is not valid any more").await;
            }
        }
        self.streams.call(Streams::end_all).await;
        debug!("streams ended");
    }
}

#[cfg(test)]
mod tests {
    use outcrop_proto::Digest;

    use super::super::tokens::{Denied, Identified};
    use super::*;

    #[derive(Debug)]
    struct OnlyA;

    impl Identify for OnlyA {
        fn node<'a>(&'a self, _: &'a str) -> Identified<'a> {
            Box::pin(async { Err(Denied::Unknown) })
        }

        fn still_valid(&self, node: &str, _: &Credential) -> bool {
            node == "a"
        }
    }

    fn add(streams: &mut Streams, node: &str, room: usize) -> (u64, mpsc::Receiver<Result<v1::Order, Status>>) {
        let (orders, receiver) = mpsc::channel(room);
        (streams.add(node.to_owned(), Credential::listed(Digest([0; 32])), orders, oneshot::channel().0), receiver)
    }

    #[test]
    fn a_stream_that_ended_does_not_end_the_one_that_took_its_place() {
        let mut streams = Streams::default();
        let (first, _one) = add(&mut streams, "a", 1);
        let (second, _other) = add(&mut streams, "a", 1);
        streams.remove("a", first);
        assert_eq!(streams.snapshot(), 1);
        streams.remove("a", second);
        assert_eq!(streams.snapshot(), 0);
        let (third, _third) = add(&mut streams, "a", 1);
        assert!(first < second && second < third, "a number is never given again");
    }

    #[test]
    fn a_node_that_does_not_take_its_orders_loses_its_stream() {
        let mut streams = Streams::default();
        let (number, _receiver) = add(&mut streams, "a", 1);
        assert_eq!(streams.send("a", v1::Order::default()), None);
        assert_eq!(streams.send("a", v1::Order::default()), Some(number));
        assert_eq!(streams.send("a", v1::Order::default()), None);
    }

    #[test]
    fn streams_of_invalid_tokens_end_with_the_reason() {
        let mut streams = Streams::default();
        let (_, _a) = add(&mut streams, "a", 1);
        let (number, mut b) = add(&mut streams, "b", 1);
        assert_eq!(streams.expel(&OnlyA), [("b".to_owned(), number)]);
        assert_eq!(b.try_recv().unwrap().unwrap_err().code(), tonic::Code::Unauthenticated);
        assert_eq!(streams.snapshot(), 1);
    }
}
