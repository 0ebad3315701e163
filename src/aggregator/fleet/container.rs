//! A container, as its node reports it and as the API server knows it.

use std::sync::Arc;

use outcrop_proto::wire::Seen;
use outcrop_proto::{ContainerKey, Coverage, CoverageState, Digest, ImageDetails, Pod, Runtime, Storage};

use super::Now;
use crate::cluster::{Place, Workload};

/// Maximum memory for a container and for a layer without their texts, in bytes.
const CONTAINER_WEIGHT: usize = 512;
const LAYER_WEIGHT: usize = 1024;

/// Maximum size of a reason that a node reports, in bytes.
pub(super) const MAX_REASON: usize = 1024;

/// Identity of a container on its node, as [`ContainerKey`] with shared texts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::aggregator) struct Key {
    /// The container runtime.
    pub(in crate::aggregator) runtime: Runtime,
    /// The runtime's namespace.
    pub(in crate::aggregator) namespace: Arc<str>,
    /// The runtime's ID of the container.
    pub(in crate::aggregator) id: Arc<str>,
}

impl Key {
    /// Returns the keys that a container of Kubernetes with this ID can have, one for each runtime of kubelets.
    pub(in crate::aggregator) fn of_kubernetes(id: &Arc<str>) -> impl Iterator<Item = Self> {
        Runtime::ALL.into_iter().filter_map(|runtime| {
            let namespace = runtime.kubernetes_namespace()?.into();
            Some(Self { runtime, namespace, id: Arc::clone(id) })
        })
    }
}

impl Key {
    /// Returns runtime and namespace as one text with the same order as keys.
    pub(in crate::aggregator) fn qualified_namespace(&self) -> String {
        format!("{}/{}", self.runtime, self.namespace)
    }
}

impl From<ContainerKey> for Key {
    fn from(key: ContainerKey) -> Self {
        Self { runtime: key.runtime, namespace: key.namespace.into(), id: key.id.into() }
    }
}

/// A container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::aggregator) struct Container {
    /// Its name in its pod, or its ID.
    pub(in crate::aggregator) name: Arc<str>,
    /// Its pod according to the API server; outside Kubernetes, according to its node.
    pub(in crate::aggregator) pod: Option<Arc<Pod>>,
    /// Its workload, if the API server knows it.
    pub(in crate::aggregator) workload: Option<Arc<Workload>>,
    /// Whether it belongs to a pod according to its node, where the API server does not know the container.
    pub(in crate::aggregator) is_stray: bool,
    /// Name of the image: as the pod asks for it, outside of Kubernetes as its runtime had it when the container was created.
    pub(in crate::aggregator) image: Arc<str>,
    /// The image that the kubelet resolved that name to, usually `NAME@DIGEST`.
    pub(in crate::aggregator) image_id: Option<Arc<str>>,
    /// The identity of its stack.
    pub(in crate::aggregator) stack: Option<Digest>,
    /// Properties of its image, if its node has the image's configuration.
    pub(super) details: Option<Arc<ImageDetails>>,
    /// How its runtime stores its files, if its node knows that.
    pub(in crate::aggregator) storage: Option<Storage>,
    /// Why it is not scanned.
    pub(in crate::aggregator) refused: Option<Arc<Coverage>>,
    /// Whether it is excluded. Then its layers were not recorded.
    pub(super) is_excluded: bool,
    /// When it was first reported, in seconds since 1970.
    pub(in crate::aggregator) since: i64,
    /// Memory for it, in bytes.
    pub(super) weight: usize,
}

impl Container {
    /// Creates a container from a node's report; the first argument is its name and the name of its image.
    pub(super) fn reported(
        (name, image): (Arc<str>, Arc<str>),
        pod: Option<Pod>,
        refused: Option<Arc<Coverage>>,
        weight: usize,
        now: Now,
    ) -> Self {
        let since = now.unix;
        let (workload, stack, is_stray, is_excluded) = (None, None, false, false);
        let (pod, storage, details) = (pod.map(Arc::new), None, None);
        let image_id = None;
        Self {
            name,
            pod,
            workload,
            is_stray,
            image,
            image_id,
            stack,
            details,
            storage,
            refused,
            is_excluded,
            since,
            weight,
        }
    }

    /// Sets pod and workload. The pod that the node reports counts only outside Kubernetes.
    pub(super) fn set_place(&mut self, placed: Placed) {
        self.is_excluded = false;
        match placed {
            Placed::AsReported => {}
            Placed::Unknown => (self.pod, self.workload, self.is_stray) = (None, None, true),
            Placed::NotWatched => {
                (self.pod, self.workload, self.is_stray) = (None, None, false);
                self.exclude("not in a watched namespace");
            }
            Placed::In(Place { pod, name, image, image_id, workload, excluded }) => {
                // A node's record has the name of any tag of the image, which another tenant may have chosen.
                (self.image, self.image_id) = (image, image_id);
                (self.pod, self.name, self.workload, self.is_stray) = (Some(pod), name, Some(workload), false);
                if let Some(reason) = excluded {
                    self.exclude(&reason);
                }
            }
        }
    }

    fn exclude(&mut self, reason: &str) {
        self.refused = Some(Arc::new(Coverage::new(CoverageState::Excluded, reason)));
        (self.stack, self.is_excluded) = (None, true);
    }

    /// Returns the properties of its image as its node reports them, which other nodes and other tenants cannot influence.
    pub(in crate::aggregator) fn details(&self) -> Option<&ImageDetails> {
        self.details.as_deref()
    }

    /// Returns the Kubernetes namespace of its pod, which decides who may read it.
    pub(in crate::aggregator) fn namespace(&self) -> Option<&str> {
        self.pod.as_ref().map(|pod| pod.namespace.as_str())
    }
}

/// The pod and workload of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::aggregator) enum Placed {
    /// There is no API server, or the container belongs to no pod: the node's report counts.
    AsReported,
    /// The API server knows the container.
    In(Place),
    /// The API server does not know the container on that node.
    Unknown,
    /// According to its node, the container is in a namespace that is not watched.
    NotWatched,
}

/// Returns the maximum memory for a container, if it shares no layer with other containers.
pub(super) fn weight_of(seen: &Seen) -> usize {
    let Seen { key, name, pod, image, storage: _, stack, refused, steps, details } = seen;
    let pod = pod.as_ref().map_or(0, |pod| pod.namespace.len() + pod.name.len() + pod.uid.len());
    let texts = key.namespace.len() + key.id.len() + name.len() + image.len() + pod;
    let reason = refused.as_ref().map_or(0, |refused| refused.reason.len().min(MAX_REASON));
    let layers = stack.as_ref().map_or(0, |(_, layers)| layers.len());
    let steps: usize = steps.iter().map(|step| step.keyword.len() + step.text.len()).sum();
    let details = details.as_ref().map_or(0, ImageDetails::weight);
    CONTAINER_WEIGHT + texts + reason + layers * LAYER_WEIGHT + steps + details
}

/// Shortens the reason to the maximum size.
pub(super) fn shortened(mut coverage: Coverage) -> Coverage {
    coverage.reason.truncate(coverage.reason.floor_char_boundary(MAX_REASON));
    coverage
}
