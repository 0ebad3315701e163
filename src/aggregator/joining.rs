//! Joins the containers that nodes report with the pods and workloads of the API server. Containers that only one of the two knows are counted
//! as well.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use outcrop_proto::wire::{Seen, v1};
use outcrop_proto::{ContainerKey, Coverage, CoverageState};

use super::fleet::{Picture, Placed, workload_key};
use super::{Aggregator, now};
use crate::cluster::{Changes, Cluster, Pod, PodContainer, Watch};
use crate::store::SubjectKey;
use crate::web::Scope;

/// Time after the first complete list of the API server at which stored runs of missing workloads end. By then nodes have reported their containers.
const SETTLED: Duration = Duration::from_secs(120);

/// A container that runs according to its kubelet and that no node has reported.
#[derive(Clone, Debug)]
pub(super) struct Missing<'c> {
    /// Its node.
    pub(super) node: &'c str,
    /// Its pod.
    pub(super) pod: &'c Pod,
    /// The container.
    pub(super) container: &'c PodContainer,
    /// Its coverage, with the reason.
    pub(super) coverage: Coverage,
}

/// Returns the running containers in `scope` that no node has reported.
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

/// Returns a pod's container if it is running and no node has reported it.
pub(super) fn missing_of<'c>(
    cluster: &'c Cluster,
    fleet: &Picture,
    pod: &'c Pod,
    container: &'c PodContainer,
) -> Option<Missing<'c>> {
    let node = pod.node.as_deref()?;
    let id = container.id.as_ref().filter(|_| container.running)?;
    // Pods outlive their node for a while; what they say of it is not true any more.
    if cluster.is_deleted_node(node) {
        return None;
    }
    if fleet.container(node, id).is_some() {
        return None;
    }
    Some(Missing { node, pod, container, coverage: unreported(cluster, fleet, pod, node) })
}

/// Returns the coverage of a container that no node has reported.
fn unreported(cluster: &Cluster, fleet: &Picture, pod: &Pod, node: &str) -> Coverage {
    if let Some(reason) = &pod.excluded {
        return Coverage::new(CoverageState::Excluded, &**reason);
    }
    if let Some(blind) = cluster.node(node).and_then(|node| node.blind) {
        return Coverage::unsupported(blind);
    }
    let reason = match fleet.node(node) {
        None => "no agent is attached on the node".to_owned(),
        Some(node) if !node.attached => "the agent on the node is silent".to_owned(),
        Some(node) => match node.problems().first() {
            Some(problem) => {
                format!("the node is degraded and its agent has not reported the container yet: {}", problem.message)
            }
            None => "the agent on the node has not reported the container yet".to_owned(),
        },
    };
    Coverage::new(CoverageState::Pending, reason)
}

impl Aggregator {
    /// Applies changes of pods and workloads to the fleet's containers, and removes the containers of nodes that were deleted.
    pub(super) async fn follow_cluster(self: Arc<Self>, watch: Arc<Watch>) {
        loop {
            let Changes { touched, deleted_nodes } = watch.changes().await;
            for node in deleted_nodes {
                self.remove_node(node).await;
            }
            let nodes: HashSet<Arc<str>> = touched.iter().map(|(node, _)| Arc::clone(node)).collect();
            let placing = Arc::clone(&watch);
            let again = self.fleet.call(move |fleet| {
                let place =
                    |node: &str, id: &str| placing.cluster().place(node, id).map_or(Placed::Unknown, Placed::In);
                fleet.relocate(touched, &place, now())
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

    /// Ends, once after the start, the stored runs of workloads that do not exist any more or run other images now.
    pub(super) async fn end_workloads(self: Arc<Self>, watch: Arc<Watch>) {
        while !watch.is_whole() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        tokio::time::sleep(SETTLED).await;
        let awaiting = Arc::clone(&watch);
        let ended = self.fleet.call(move |fleet| {
            let cluster = awaiting.cluster();
            let subject = |missing: Missing<'_>| SubjectKey::WorkloadContainer {
                workload: workload_key(&missing.pod.workload),
                container: missing.container.name.as_ref().into(),
            };
            let expected: HashSet<SubjectKey> = missing(&cluster, fleet, &Scope::All).map(subject).collect();
            fleet.end_workloads(|subject| expected.contains(subject), now());
        });
        ended.await;
        self.changed.notify_one();
        // The work is done, but a supervised task must not return.
        std::future::pending().await
    }
}

/// Returns the pod and workload of a container that a node reports.
pub(super) fn place_reported(watch: Option<&Watch>, node: &str, seen: &Seen) -> Placed {
    let (Some(watch), Some(pod)) = (watch, &seen.pod) else { return Placed::AsReported };
    match place(watch, node, &seen.key) {
        // The namespace is only a claim of the node, but the API server cannot know the container: it is watched in other namespaces only.
        Placed::Unknown if !watch.covers(&pod.namespace) => Placed::NotWatched,
        placed => placed,
    }
}

fn place(watch: &Watch, node: &str, key: &ContainerKey) -> Placed {
    let is_kubernetes = key.runtime.kubernetes_namespace() == Some(key.namespace.as_str());
    let place = is_kubernetes.then(|| watch.cluster().place(node, &key.id)).flatten();
    place.map_or(Placed::Unknown, Placed::In)
}
