//! A container, as its node told of it and as the API server knows it.

use std::sync::Arc;

use outcrop_proto::wire::Seen;
use outcrop_proto::{ContainerKey, Coverage, CoverageState, Digest, Pod, Runtime, Storage};

use super::Now;
use crate::cluster::{Place, Workload};

/// What a container and a layer take here besides their texts, at most, bytes.
const CONTAINER_WEIGHT: usize = 512;
const LAYER_WEIGHT: usize = 1024;

/// Longest reason that a node may give, bytes.
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
    /// Returns runtime and namespace in one text, which sorts as keys do.
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
    /// Its pod, as the API server knows it; where none is asked, as the node told of it.
    pub(in crate::aggregator) pod: Option<Arc<Pod>>,
    /// Whose that is, where the API server knows it.
    pub(in crate::aggregator) workload: Option<Arc<Workload>>,
    /// Its node says that it is of a pod, and the API server knows of no such container there.
    pub(in crate::aggregator) is_stray: bool,
    /// The image's name as it was.
    pub(in crate::aggregator) image: Arc<str>,
    /// The identity of its stack.
    pub(in crate::aggregator) stack: Option<Digest>,
    /// How its runtime stores its files, where its node knows that.
    pub(in crate::aggregator) storage: Option<Storage>,
    /// Why it is not looked into.
    pub(in crate::aggregator) refused: Option<Arc<Coverage>>,
    /// Whether that is since it is out of view: what its node told of its layers was not kept then.
    pub(super) is_excluded: bool,
    /// Since when it has been known, in seconds since 1970.
    pub(in crate::aggregator) since: i64,
    /// What it takes here, bytes.
    pub(super) weight: usize,
}

impl Container {
    /// What a node tells of, by its name and the image's.
    pub(super) fn told(
        (name, image): (Arc<str>, Arc<str>),
        pod: Option<Pod>,
        refused: Option<Arc<Coverage>>,
        weight: usize,
        now: Now,
    ) -> Self {
        let since = now.unix;
        let (workload, stack, is_stray, is_excluded) = (None, None, false, false);
        let (pod, storage) = (pod.map(Arc::new), None);
        Self { name, pod, workload, is_stray, image, stack, storage, refused, is_excluded, since, weight }
    }

    /// Takes up where it belongs. What its node said of its pod counts only where there is nobody to ask.
    pub(super) fn belong(&mut self, placed: Placed) {
        self.is_excluded = false;
        match placed {
            Placed::AsTold => {}
            Placed::Nowhere => (self.pod, self.workload, self.is_stray) = (None, None, true),
            Placed::Elsewhere => {
                (self.pod, self.workload, self.is_stray) = (None, None, false);
                self.exclude("not in a watched namespace");
            }
            Placed::In(Place { pod, name, workload, excluded }) => {
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

    /// The Kubernetes namespace of its pod: who may see it.
    pub(in crate::aggregator) fn namespace(&self) -> Option<&str> {
        self.pod.as_ref().map(|pod| pod.namespace.as_str())
    }
}

/// Where a container belongs, as far as somebody knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::aggregator) enum Placed {
    /// There is nobody to ask, or nothing to ask for: what its node says counts.
    AsTold,
    /// There.
    In(Place),
    /// The API server knows of no such container on that node.
    Nowhere,
    /// The API server knows of none in the namespaces that are watched, and its node says that it is in another.
    Elsewhere,
}

/// What a container takes here, at most: each of its layers may be nobody else's.
pub(super) fn weight_of(seen: &Seen) -> usize {
    let Seen { key, name, pod, image, storage: _, stack, refused, steps } = seen;
    let pod = pod.as_ref().map_or(0, |pod| pod.namespace.len() + pod.name.len() + pod.uid.len());
    let texts = key.namespace.len() + key.id.len() + name.len() + image.len() + pod;
    let reason = refused.as_ref().map_or(0, |refused| refused.reason.len().min(MAX_REASON));
    let layers = stack.as_ref().map_or(0, |(_, layers)| layers.len());
    let steps: usize = steps.iter().map(|step| step.keyword.len() + step.text.len()).sum();
    CONTAINER_WEIGHT + texts + reason + layers * LAYER_WEIGHT + steps
}

/// With a reason as long as it may be.
pub(super) fn shortened(mut coverage: Coverage) -> Coverage {
    coverage.reason.truncate(coverage.reason.floor_char_boundary(MAX_REASON));
    coverage
}
