//! The streams of attached nodes, and the orders that are sent through them.
//!
//! A stream whose token has expired or was revoked is ended, independently of the store and the fleet, so that neither can delay it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outcrop_agent::logging::safe;
use outcrop_proto::wire::{Refusal, v1};
use tokio::sync::{mpsc, oneshot};
use tonic::Status;
use tracing::{debug, info, warn};

use super::owner::State;
use super::tokens::{Credential, Identify, Speaker};
use super::{Aggregator, now};
use crate::problems::ProblemKind;

/// Interval at which tokens are checked.
const EXPEL_INTERVAL: Duration = Duration::from_secs(1);

/// Time after which the replacement of a stream is forgotten. An agent whose stream was replaced attaches again within a third of it.
const TWICE: Duration = Duration::from_secs(15 * 60);

/// Maximum number of replaced agents that are remembered for each node.
const MAX_REPLACED: usize = 8;

/// A node's stream.
#[derive(Debug)]
struct Stream {
    /// Number of the stream, which increases with each stream of the node.
    number: u64,
    /// The process of the agent.
    instance: u64,
    /// The token that the node attached with.
    credential: Credential,
    orders: mpsc::Sender<Result<v1::Order, Status>>,
    /// Ends the task that listens to the node when it is dropped.
    _end: oneshot::Sender<()>,
}

/// A stream that begins.
struct NewStream {
    instance: u64,
    credential: Credential,
    orders: Orders,
    end: oneshot::Sender<()>,
}

/// The streams of all attached nodes, by node.
#[derive(Debug, Default)]
pub(super) struct Streams {
    streams: HashMap<String, Stream>,
    last: u64,
    /// By node, the agents whose stream was replaced by that of another agent, and when.
    replaced: HashMap<String, Vec<(u64, Instant)>>,
    /// Nodes that two agents attach in turn, and since when none has.
    twice: HashMap<String, Instant>,
}

impl State for Streams {
    /// Number of streams.
    type Snapshot = usize;

    fn snapshot(&self) -> usize {
        self.streams.len()
    }
}

impl Streams {
    /// Adds a stream and ends an earlier one of the same node. Returns its number, and whether it replaced the stream of another agent, which
    /// learns why.
    ///
    /// Two agents are proven where one attaches again after another has replaced it: an agent that was restarted never comes back.
    fn add(&mut self, node: String, new: NewStream, now: Instant) -> (u64, bool) {
        let NewStream { instance, credential, orders, end } = new;
        self.last += 1;
        let replaced = self.replaced.entry(node.clone()).or_default();
        replaced.retain(|(_, at)| now.duration_since(*at) < TWICE);
        if replaced.iter().any(|(former, _)| *former == instance) {
            self.twice.insert(node.clone(), now);
        }
        let stream = Stream { number: self.last, instance, credential, orders, _end: end };
        let former = self.streams.insert(node.clone(), stream);
        let other = former.filter(|former| former.instance != instance && !former.orders.is_closed());
        if let Some(former) = &other {
            let status = Refusal::Replaced.status(
                "another agent with this node's name attached; give each agent a --node and a token of its own, or stop one of them",
            );
            let _ = former.orders.try_send(Err(status));
            replaced.retain(|(known, _)| *known != former.instance);
            replaced.truncate(MAX_REPLACED - 1);
            replaced.insert(0, (former.instance, now));
        }
        if replaced.is_empty() {
            self.replaced.remove(&node);
        }
        (self.last, other.is_some())
    }

    /// Returns the nodes that two agents attach in turn.
    fn attached_twice(&mut self, now: Instant) -> Vec<String> {
        self.replaced.retain(|_, replaced| replaced.iter().any(|(_, at)| now.duration_since(*at) < TWICE));
        self.twice.retain(|_, last| now.duration_since(*last) < TWICE);
        self.twice.keys().cloned().collect()
    }

    /// Ends the stream of a node that was deleted. Returns its number.
    fn end(&mut self, node: &str) -> Option<u64> {
        self.replaced.remove(node);
        self.twice.remove(node);
        let stream = self.streams.remove(node)?;
        let _ = stream.orders.try_send(Err(Status::unavailable("the node was deleted from the cluster")));
        Some(stream.number)
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
            let _ = stream.orders.try_send(Err(Status::unavailable("the aggregator is shutting down; attach again")));
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
        let new = NewStream { instance: hello.instance, credential, orders, end };
        let (number, has_replaced) = self.streams.call(move |streams| streams.add(name, new, Instant::now())).await;
        if has_replaced {
            self.counters.refuse(&Refusal::Replaced.status(""));
            warn!(node, "stream replaced: another agent with the node's name attached");
        }
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

    /// Removes a node that was deleted from the cluster, with its stream and its containers.
    pub(super) async fn remove_node(&self, node: String) {
        let name = node.clone();
        let stream = self.streams.call(move |streams| streams.end(&name)).await;
        let name = node.clone();
        let removed = self.fleet.call(move |fleet| fleet.delete_node(&name, stream, now())).await;
        if let Some(containers) = removed {
            info!(node, containers, "node removed with its Node object");
            self.changed.notify_one();
        }
    }

    /// Sends an order to a node. If too many orders of the node wait, its stream and its leases end.
    pub(super) async fn send(&self, node: &str, order: v1::order::Order) {
        let (name, order) = (node.to_owned(), self.order(order));
        if let Some(number) = self.streams.call(move |streams| streams.send(&name, order)).await {
            self.release(node.to_owned(), number, "its queue of orders is full").await;
        }
    }

    /// Leases the layers that a node had to read to other nodes.
    async fn release(&self, node: String, number: u64, reason: &str) {
        let name = node.clone();
        if self.fleet.call(move |fleet| fleet.detach(&name, number, now())).await {
            info!(node, reason, "node detached");
        }
        self.changed.notify_one();
    }

    /// Ends streams whose tokens are no longer valid once per second, and all streams when the aggregator stops.
    pub(super) async fn keep_streams(self: Arc<Self>, stop: tokio_util::sync::CancellationToken) {
        while tokio::time::timeout(EXPEL_INTERVAL, stop.cancelled()).await.is_err() {
            let twice = self.streams.call(|streams| streams.attached_twice(Instant::now())).await;
            let problem = |node: String| {
                let message = format!(
                    "two agents attach alternately as node {node}, so its containers may be wrong; give each its own --node and token, or stop one of them"
                );
                (node, message)
            };
            self.problems.replace(ProblemKind::Agents, twice.into_iter().map(problem));
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

    fn new_stream(instance: u64, orders: Orders) -> NewStream {
        NewStream { instance, credential: Credential::listed(Digest([0; 32])), orders, end: oneshot::channel().0 }
    }

    fn add(streams: &mut Streams, node: &str, room: usize) -> (u64, mpsc::Receiver<Result<v1::Order, Status>>) {
        let (orders, receiver) = mpsc::channel(room);
        let (number, _) = streams.add(node.to_owned(), new_stream(0, orders), Instant::now());
        (number, receiver)
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
    fn a_replaced_stream_ends_with_the_reason_and_two_agents_of_one_node_are_noticed() {
        let (mut streams, start) = (Streams::default(), Instant::now());
        let attach = |streams: &mut Streams, instance: u64, seconds: u64| {
            let (orders, receiver) = mpsc::channel(1);
            let now = start + Duration::from_secs(seconds);
            let (_, has_replaced) = streams.add("a".to_owned(), new_stream(instance, orders), now);
            (receiver, has_replaced, streams.attached_twice(now))
        };
        let (_kept, has_replaced, twice) = attach(&mut streams, 1, 0);
        assert!(!has_replaced && twice.is_empty());
        // Its connection broke, and the old stream is still open here: that is the same agent.
        let (mut first, has_replaced, twice) = attach(&mut streams, 1, 1);
        assert!(!has_replaced && twice.is_empty());
        // It was restarted, and nobody has closed its stream.
        let (_second, has_replaced, twice) = attach(&mut streams, 2, 2);
        assert!(has_replaced && twice.is_empty());
        let status = first.try_recv().unwrap().unwrap_err();
        assert_eq!(Refusal::of(&status), Some(Refusal::Replaced));
        assert!(status.message().starts_with("another agent with this node's name attached"), "{status:?}");
        // The first one comes back: there are two.
        let (_third, has_replaced, twice) = attach(&mut streams, 1, 10);
        assert!(has_replaced && twice == ["a"]);
        let seconds = |seconds| start + TWICE + Duration::from_secs(seconds);
        assert_eq!(streams.attached_twice(seconds(9)), ["a"]);
        assert!(streams.attached_twice(seconds(10)).is_empty() && streams.replaced.is_empty());
    }

    #[test]
    fn a_node_that_is_restarted_again_and_again_is_remembered_within_a_bound() {
        let (mut streams, now) = (Streams::default(), Instant::now());
        let held: Vec<_> = (0..100)
            .map(|instance| {
                let (orders, receiver) = mpsc::channel(1);
                streams.add("a".to_owned(), new_stream(instance, orders), now);
                receiver
            })
            .collect();
        assert!(
            streams.replaced["a"].len() == MAX_REPLACED && streams.attached_twice(now).is_empty(),
            "{}",
            held.len()
        );
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
