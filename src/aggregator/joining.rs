//! Containers become workloads: what nodes tell is joined with what the API server knows, and what only one of them knows is counted too.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use outcrop_proto::wire::{Seen, v1};
use outcrop_proto::{ContainerKey, Coverage, CoverageState};

use super::fleet::{Picture, Placed, workload_key};
use super::{Aggregator, now};
use crate::cluster::{Cluster, Pod, PodContainer, Watch};
use crate::store::SubjectKey;
use crate::web::Scope;

/// How long after the API server was listed it is looked for workloads that went while nobody looked: by then nodes have told what they run.
const SETTLED: Duration = Duration::from_secs(120);

/// A container that the kubelet says runs, and that no node has told of.
#[derive(Clone, Debug)]
pub(super) struct Missing<'c> {
    /// Its node.
    pub(super) node: &'c str,
    /// Its pod.
    pub(super) pod: &'c Pod,
    /// The container.
    pub(super) container: &'c PodContainer,
    /// Why nothing is known of it.
    pub(super) coverage: Coverage,
}

/// Containers that run and that no node has told of, as far as `scope` sees them.
pub(super) fn missing<'c>(
    cluster: &'c Cluster,
    fleet: &'c Picture,
    scope: &'c Scope,
) -> impl Iterator<Item = Missing<'c>> {
    let seen = cluster.pods().filter(|pod| !pod.over && scope.sees(Some(&pod.name.namespace)));
    seen.flat_map(move |pod| {
        pod.containers.iter().filter_map(move |container| missing_of(cluster, fleet, pod, container))
    })
}

/// A pod's container, if it runs and no node has told of it.
pub(super) fn missing_of<'c>(
    cluster: &'c Cluster,
    fleet: &Picture,
    pod: &'c Pod,
    container: &'c PodContainer,
) -> Option<Missing<'c>> {
    let node = pod.node.as_deref()?;
    let id = container.id.as_ref().filter(|_| container.running)?;
    if fleet.container(node, id).is_some() {
        return None;
    }
    Some(Missing { node, pod, container, coverage: unseen(cluster, fleet, pod, node) })
}

/// Why nothing is known of a container of a pod.
fn unseen(cluster: &Cluster, fleet: &Picture, pod: &Pod, node: &str) -> Coverage {
    if let Some(reason) = &pod.excluded {
        return Coverage::new(CoverageState::Excluded, &**reason);
    }
    if let Some(blind) = cluster.node(node).and_then(|node| node.blind) {
        return Coverage::unsupported(blind);
    }
    let reason = match fleet.node(node) {
        None => "no agent is attached on the node",
        Some(node) if !node.attached => "the agent on the node is silent",
        Some(_) => "the agent on the node has not reported the container yet",
    };
    Coverage::new(CoverageState::Pending, reason)
}

impl Aggregator {
    /// Follows the API server: what changes there moves containers at once.
    pub(super) async fn follow_cluster(self: Arc<Self>, watch: Arc<Watch>) {
        loop {
            let touched = watch.touched().await;
            let nodes: HashSet<Arc<str>> = touched.iter().map(|(node, _)| Arc::clone(node)).collect();
            let placing = Arc::clone(&watch);
            let again = self.fleet.call(move |fleet| {
                let place =
                    |node: &str, id: &str| placing.cluster().place(node, id).map_or(Placed::Nowhere, Placed::In);
                fleet.place_again(touched, &place, now())
            });
            for node in again.await {
                self.send(&node, v1::order::Order::Resync(v1::Resync {})).await;
            }
            for node in nodes {
                self.advance(&node).await;
            }
            self.changed.notify_one();
        }
    }

    /// Ends, once, what the store knows of workloads that are not there any more, or that run something else by now.
    pub(super) async fn end_workloads(self: Arc<Self>, watch: Arc<Watch>) {
        while !watch.is_whole() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        tokio::time::sleep(SETTLED).await;
        let awaiting = Arc::clone(&watch);
        let ended = self.fleet.call(move |fleet| {
            let cluster = awaiting.cluster();
            let subject = |of: Missing<'_>| SubjectKey::WorkloadContainer {
                workload: workload_key(&of.pod.workload),
                container: of.container.name.as_ref().into(),
            };
            let awaited: HashSet<SubjectKey> = missing(&cluster, fleet, &Scope::All).map(subject).collect();
            fleet.end_workloads(|subject| awaited.contains(subject), now());
        });
        ended.await;
        self.changed.notify_one();
        // It is done once; a supervised task goes on.
        std::future::pending().await
    }
}

/// Where a container belongs that a node reports.
pub(super) fn place_reported(watch: Option<&Watch>, node: &str, seen: &Seen) -> Placed {
    let (Some(watch), Some(pod)) = (watch, &seen.pod) else { return Placed::AsTold };
    match place(watch, node, &seen.key) {
        // Where a node lies, or an image that labels its containers, the API server will say so.
        Placed::Nowhere if !watch.covers(&pod.namespace) => Placed::Elsewhere,
        placed => placed,
    }
}

fn place(watch: &Watch, node: &str, key: &ContainerKey) -> Placed {
    let is_kubernetes = key.runtime.kubernetes_namespace() == Some(key.namespace.as_str());
    let place = is_kubernetes.then(|| watch.cluster().place(node, &key.id)).flatten();
    place.map_or(Placed::Nowhere, Placed::In)
}
