//! Leases: which node reads which layer, and which stacks are ready to be merged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use outcrop_proto::LayerId;
use outcrop_proto::wire::v1;
use tracing::debug;

use super::fleet::{LEASE_SECONDS, Witness};
use super::merges::MergeJob;
use super::{Aggregator, TICK, now};

/// Minimum time between two passes of [`Aggregator::keep_leasing`].
const PAUSE: Duration = Duration::from_millis(50);

/// Interval at which silent nodes and unused stacks and layers are removed from memory.
const SWEEP: Duration = Duration::from_secs(10);

impl Aggregator {
    /// Leases layers to `node`, and merges the stacks that have become ready.
    pub(super) async fn advance(&self, node: &str) {
        if self.store.health().is_accepting() {
            let name = node.to_owned();
            let layers = self.fleet.call(move |fleet| fleet.lease(&name, now())).await;
            self.order_lease(node, layers).await;
        }
        self.merge_ready().await;
    }

    async fn order_lease(&self, node: &str, layers: Vec<LayerId>) {
        if !layers.is_empty() {
            debug!(node, layers = layers.len(), "layers leased");
            let lease = v1::Lease { layers: layers.into_iter().map(Into::into).collect(), seconds: LEASE_SECONDS };
            self.send(node, v1::order::Order::Lease(lease)).await;
        }
    }

    /// Merges the stacks that have become ready.
    pub(super) async fn merge_ready(&self) {
        for ready in self.fleet.call(|fleet| fleet.ready(now())).await {
            self.merge(MergeJob { stack: ready.stack, layers: ready.layers, answers: None });
        }
    }

    /// Handles what no report announces, every second and after each change: expired leases, cross-reads, checks without an answer, and silent
    /// nodes.
    pub(super) async fn keep_leasing(self: Arc<Self>) {
        let mut swept = Instant::now();
        loop {
            // Limits the number of passes if changes arrive continuously.
            tokio::time::sleep(PAUSE).await;
            let _ = tokio::time::timeout(TICK, self.changed.notified()).await;
            if self.store.health().is_accepting() {
                for (node, layers) in self.fleet.call(|fleet| fleet.lease_again(now())).await {
                    self.order_lease(&node, layers).await;
                }
                for Witness { node, layer, marks } in self.fleet.call(|fleet| fleet.cross_reads(now())).await {
                    let layers = vec![layer.into()];
                    let cross_read = v1::CrossRead { layers, seconds: LEASE_SECONDS, without_marks: !marks };
                    self.send(&node, v1::order::Order::CrossRead(cross_read)).await;
                }
            }
            self.fleet.call(|fleet| fleet.retry_checks(now())).await;
            self.merge_ready().await;
            if swept.elapsed() >= SWEEP {
                self.fleet.call(|fleet| fleet.tidy(now())).await;
                swept = Instant::now();
            }
        }
    }
}
