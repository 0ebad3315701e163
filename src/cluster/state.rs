//! The state of the cluster, as the API server reports it: plain data, updated by reflectors.
//!
//! A container is joined to its pod by the container's ID on the pod's node, and by nothing else: names, labels and digests are chosen by images and
//! nodes. The workload of a pod, and whether it is excluded, are computed when an object changes, so that queries only look them up.

mod containers;
mod decisions;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::RandomState;
use std::sync::Arc;

use outcrop_proto::Pod as PodName;

pub use containers::{ContainerKind, PodContainer};
pub(super) use decisions::PolicyInput;

use super::checks::{self, Issues};
use super::objects::{KubeNode, KubePod, Marks};
use super::selection::Selection;
use super::{ObjectMeta, Workload, workload};
use containers::containers;
use decisions::{Decision, Subject};

/// The UID of an object.
pub type Uid = Arc<str>;

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Namespace, name and UID.
    pub name: Arc<PodName>,
    /// Node, once the pod was scheduled.
    pub node: Option<Arc<str>>,
    /// Whether it has ended: none of its containers runs or will run again.
    pub over: bool,
    /// Containers, in the order of the specification.
    pub containers: Vec<PodContainer>,
    /// Labels and annotations.
    pub marks: Marks,
    /// Configuration issues.
    pub issues: Arc<Issues>,
    /// Workload.
    pub workload: Arc<Workload>,
    /// Why it is excluded, if it is.
    pub excluded: Option<Arc<str>>,
    meta: ObjectMeta,
}

impl Pod {
    /// Returns the node and ID of each container.
    fn ids(&self) -> impl Iterator<Item = (Arc<str>, Arc<str>)> {
        let node = self.node.iter();
        node.flat_map(|node| {
            self.containers.iter().filter_map(|of| Some((Arc::clone(node), Arc::clone(of.id.as_ref()?))))
        })
    }

    /// Returns whether node, workload, exclusion and containers are the same as in another state of the pod.
    fn is_where(&self, other: &Self) -> bool {
        let of =
            |pod: &Self| (pod.node.clone(), Arc::clone(&pod.name), Arc::clone(&pod.workload), pod.excluded.clone());
        let has = |of: &PodContainer, other: &PodContainer| {
            (&of.id, &of.name, &of.image, &of.image_id) == (&other.id, &other.name, &other.image, &other.image_id)
        };
        of(self) == of(other)
            && self.containers.len() == other.containers.len()
            && self.containers.iter().zip(&other.containers).all(|(of, other)| has(of, other))
    }
}

/// The pods of a workload.
#[derive(Clone, Debug)]
pub struct Pods {
    /// The workload.
    pub workload: Arc<Workload>,
    /// UIDs of its pods.
    pub pods: BTreeSet<Uid>,
}

/// An object that may own pods, or their owners.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owner {
    meta: ObjectMeta,
    marks: Marks,
}

/// A node, as its kubelet reports it to the API server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// UID: a node that was deleted and comes back has another one.
    pub uid: String,
    /// Version of the kubelet.
    pub kubelet: String,
    /// Container runtime and its version: `containerd://2.1.4`.
    pub runtime: String,
    /// `linux` or `windows`.
    pub system: String,
    /// `amd64`, `arm64`, …
    pub architecture: String,
    /// Name of the operating system.
    pub image: String,
    /// Version of the kernel.
    pub kernel: String,
    /// Why no agent can run on it, if none can.
    pub blind: Option<&'static str>,
}

/// The pod and the workload of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Pod.
    pub pod: Arc<PodName>,
    /// Name in the pod.
    pub name: Arc<str>,
    /// Image name, as the pod asks for it.
    pub image: Arc<str>,
    /// The image that the kubelet resolved that name to, usually `NAME@DIGEST`.
    pub image_id: Option<Arc<str>>,
    /// Workload.
    pub workload: Arc<Workload>,
    /// Why it is excluded, if it is.
    pub excluded: Option<Arc<str>>,
}

/// A pod as its reflector receives it, with everything computed that takes time, so that the lock of the cluster is held only briefly.
#[derive(Debug)]
pub(super) struct PodTold {
    meta: ObjectMeta,
    node: String,
    over: bool,
    containers: Vec<PodContainer>,
    marks: Marks,
    issues: Issues,
}

impl From<KubePod> for PodTold {
    fn from(mut kube: KubePod) -> Self {
        let containers = containers(&kube);
        let over = matches!(kube.status.phase.as_deref(), Some("Succeeded" | "Failed"));
        // The checks read all annotations; fewer may be stored.
        let issues = checks::check(kube.metadata.annotations.as_ref().unwrap_or(&BTreeMap::new()), &kube.spec);
        let marks = Marks::of(&mut kube.metadata);
        Self { meta: kube.metadata.into(), node: kube.spec.node_name, over, containers, marks, issues }
    }
}

/// Why a workload is excluded that the policy does not select.
const NOT_SELECTED: &str = "the policy does not select it";

/// Containers whose pod or workload may have changed: their nodes and IDs.
pub type Touched = BTreeSet<(Arc<str>, Arc<str>)>;

/// The state of the cluster.
#[derive(Debug, Default)]
pub struct Cluster {
    selection: Selection,
    pods: HashMap<Uid, Pod>,
    /// Pods by node and container ID: the report of a kubelet counts for its own node only.
    containers: HashMap<Arc<str>, HashMap<Arc<str>, Uid>>,
    owners: HashMap<Uid, Owner>,
    /// Pods and owners, by the UID of each of their owners.
    below: HashMap<Uid, BTreeSet<Uid>>,
    workloads: HashMap<Arc<Workload>, Pods>,
    namespaces: BTreeMap<String, Marks>,
    nodes: BTreeMap<String, Node>,
    /// Whether nodes are watched: one has been listed.
    knows_nodes: bool,
    /// Nodes that were deleted, or replaced by another one of the same name, since they were taken.
    deleted_nodes: Vec<String>,
    texts: HashSet<Arc<str>>,
    decisions: HashMap<Subject, Decision>,
    /// Subjects of which the policy has not decided, or which changed since it did.
    undecided: HashSet<Subject>,
    /// The number of times that the policy was replaced.
    policy_version: u64,
    /// Keys the hash of policy inputs, so that nobody can construct two inputs with the same version.
    hasher: RandomState,
}

impl Cluster {
    /// Creates the state of a cluster of which nothing is known yet.
    pub fn new(selection: Selection) -> Self {
        Self { selection, ..Self::default() }
    }

    /// Returns the pod and workload of the container with this ID on `node`; `None` if the API server knows of none there.
    pub fn place(&self, node: &str, id: &str) -> Option<Place> {
        let pod = self.pods.get(self.containers.get(node)?.get(id)?)?;
        let container = pod.containers.iter().find(|container| container.id.as_deref() == Some(id))?;
        Some(Place {
            pod: Arc::clone(&pod.name),
            name: Arc::clone(&container.name),
            image: Arc::clone(&container.image),
            image_id: container.image_id.clone(),
            workload: Arc::clone(&pod.workload),
            excluded: pod.excluded.clone(),
        })
    }

    /// Returns a pod by its UID.
    pub fn pod(&self, uid: &str) -> Option<&Pod> {
        self.pods.get(uid)
    }

    /// Returns all pods.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values()
    }

    /// Returns the workloads that have pods.
    pub fn workloads(&self) -> impl Iterator<Item = &Pods> {
        self.workloads.values()
    }

    /// Returns a node by its name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// Returns whether nodes are watched and none has this name: what runs there has ended, whatever its pods say.
    pub fn is_deleted_node(&self, name: &str) -> bool {
        self.knows_nodes && !self.nodes.contains_key(name)
    }

    /// Takes the names of the nodes that were deleted since the last call.
    pub(super) fn take_deleted_nodes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.deleted_nodes)
    }

    /// Returns the nodes with their names, sorted by name.
    pub fn nodes(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(name, node)| (name.as_str(), node))
    }

    /// Returns the names of the namespaces.
    pub fn namespaces(&self) -> impl Iterator<Item = &str> {
        self.namespaces.keys().map(String::as_str)
    }

    /// Returns the labels and annotations of a workload, or those of one of its pods if its kind is not watched.
    pub fn marks(&self, of: &Pods) -> Option<&Marks> {
        let owner = self.owner(&of.workload.uid, Some(&of.workload.namespace)).map(|owner| &owner.marks);
        owner.or_else(|| of.pods.iter().filter_map(|pod| self.pods.get(pod)).map(|pod| &pod.marks).next())
    }

    /// Returns the labels and annotations of a namespace.
    pub fn namespace_marks(&self, name: &str) -> Option<&Marks> {
        self.namespaces.get(name)
    }

    /// Adds or updates a pod.
    pub(super) fn set_pod(&mut self, told: PodTold) -> Touched {
        let PodTold { meta, node, over, mut containers, marks, issues } = told;
        self.share_images(&meta, &mut containers);
        let node = (!node.is_empty()).then(|| self.text(&node));
        let uid: Uid = meta.uid.as_str().into();
        let issues = match self.pods.get(&uid) {
            Some(before) if *before.issues == issues => Arc::clone(&before.issues),
            _ => self.shared(&meta, issues),
        };
        let name = PodName {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone(),
            uid: meta.uid.clone(),
        };
        let before = self.take_pod(&uid);
        if let Some(node) = &node {
            for id in containers.iter().filter_map(|container| container.id.as_ref()) {
                self.containers.entry(Arc::clone(node)).or_default().insert(Arc::clone(id), Arc::clone(&uid));
            }
        }
        self.tie(&uid, &meta, true);
        let found = Arc::new(workload(&meta, |_| None));
        let pod =
            Pod { name: Arc::new(name), node, over, containers, marks, issues, workload: found, excluded: None, meta };
        self.pods.insert(Arc::clone(&uid), pod);
        self.assign(&uid);
        if let Some(before) = &before {
            self.forget_decision(&before.workload);
        }
        match (before, self.pods.get(&uid)) {
            (Some(before), Some(now)) if before.is_where(now) => Touched::new(),
            (before, now) => before.iter().chain(now).flat_map(Pod::ids).collect(),
        }
    }

    /// Adds or updates an object that may own others.
    pub(super) fn set_owner(&mut self, marks: Marks, meta: ObjectMeta) -> Touched {
        let uid: Uid = meta.uid.as_str().into();
        let owner = Owner { meta, marks };
        if self.owners.get(&uid) == Some(&owner) {
            return Touched::new();
        }
        if let Some(before) = self.owners.remove(&uid) {
            self.tie(&uid, &before.meta, false);
        }
        self.tie(&uid, &owner.meta, true);
        self.owners.insert(Arc::clone(&uid), owner);
        self.assign_below(&uid)
    }

    /// Adds or updates a namespace.
    pub(super) fn set_namespace(&mut self, name: String, marks: Marks) -> Touched {
        if self.namespaces.get(&name) == Some(&marks) {
            return Touched::new();
        }
        let pods = self.pods.iter().filter(|(_, pod)| pod.name.namespace == name);
        let pods: Vec<Uid> = pods.map(|(uid, _)| Arc::clone(uid)).collect();
        self.namespaces.insert(name, marks);
        self.assign_all(pods)
    }

    /// Adds or updates a node.
    pub(super) fn set_node(&mut self, kube: KubeNode) {
        let name = kube.metadata.name.clone().unwrap_or_default();
        let info = kube.status.node_info.clone().unwrap_or_default();
        let node = Node {
            uid: kube.metadata.uid.clone().unwrap_or_default(),
            blind: blind(&kube),
            kubelet: info.kubelet_version,
            runtime: info.container_runtime_version,
            system: info.operating_system,
            architecture: info.architecture,
            image: info.os_image,
            kernel: info.kernel_version,
        };
        self.knows_nodes = true;
        let uid = node.uid.clone();
        // The deletion of the former one may not have been watched.
        if self.nodes.insert(name.clone(), node).is_some_and(|former| former.uid != uid) {
            self.deleted_nodes.push(name);
        }
    }

    /// Removes a pod.
    pub(super) fn remove_pod(&mut self, uid: &str) -> Touched {
        let gone = self.take_pod(uid);
        if let Some(gone) = &gone {
            self.forget_decision(&gone.workload);
            let subject = Subject::Pod(uid.into());
            self.decisions.remove(&subject);
            self.undecided.remove(&subject);
        }
        if let Some(node) = gone.as_ref().and_then(|pod| pod.node.as_ref()) {
            // Two references are left: this one, and the one in `texts`. Anybody who may create pods may name nodes that do not exist.
            if Arc::strong_count(node) == 2 {
                self.texts.remove(node);
            }
        }
        gone.iter().flat_map(Pod::ids).collect()
    }

    fn take_pod(&mut self, uid: &str) -> Option<Pod> {
        let (uid, pod) = self.pods.remove_entry(uid)?;
        if let Some((node, on_node)) = pod.node.as_ref().and_then(|node| Some((node, self.containers.get_mut(node)?))) {
            for id in pod.containers.iter().filter_map(|container| container.id.as_ref()) {
                if on_node.get(id) == Some(&uid) {
                    on_node.remove(id);
                }
            }
            if on_node.is_empty() {
                self.containers.remove(node);
            }
        }
        self.tie(&uid, &pod.meta, false);
        self.dismiss(&uid, &pod.workload);
        Some(pod)
    }

    /// Removes an owner.
    pub(super) fn remove_owner(&mut self, uid: &str) -> Touched {
        let Some((uid, owner)) = self.owners.remove_entry(uid) else { return Touched::new() };
        self.tie(&uid, &owner.meta, false);
        self.assign_below(&uid)
    }

    /// Removes a namespace.
    pub(super) fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    /// Removes a node.
    pub(super) fn remove_node(&mut self, name: &str) {
        if let Some((name, _)) = self.nodes.remove_entry(name) {
            self.deleted_nodes.push(name);
        }
    }

    /// Returns the shared copy of a text.
    fn text(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return Arc::clone(known);
        }
        let text: Arc<str> = text.into();
        self.texts.insert(Arc::clone(&text));
        text
    }

    /// Returns the issues of another pod of the same owner if they are equal, so that a thousand replicas share one copy.
    fn shared(&self, meta: &ObjectMeta, issues: Issues) -> Arc<Issues> {
        let siblings = owners(meta).filter_map(|owner| self.below.get(owner)).flatten();
        let known = siblings.take(8).filter_map(|uid| self.pods.get(uid)).find(|pod| *pod.issues == issues);
        known.map_or_else(|| Arc::new(issues), |pod| Arc::clone(&pod.issues))
    }

    /// Uses the texts of a sibling's images where they are equal.
    fn share_images(&self, meta: &ObjectMeta, containers: &mut [PodContainer]) {
        let siblings = owners(meta).filter_map(|owner| self.below.get(owner)).flatten();
        let Some(sibling) = siblings.take(1).find_map(|uid| self.pods.get(uid)) else { return };
        for (container, known) in containers.iter_mut().zip(&sibling.containers) {
            if container.image == known.image {
                container.image = Arc::clone(&known.image);
            }
            if container.image_id == known.image_id {
                container.image_id.clone_from(&known.image_id);
            }
        }
    }

    /// Returns an owner in this namespace. An object in another namespace owns nothing here, whatever its UID.
    fn owner(&self, uid: &str, namespace: Option<&str>) -> Option<&Owner> {
        self.owners.get(uid).filter(|owner| owner.meta.namespace.as_deref() == namespace)
    }

    /// Records, or removes, the relation of an object to its owners.
    fn tie(&mut self, uid: &Uid, meta: &ObjectMeta, tied: bool) {
        for owner in owners(meta) {
            if tied {
                self.below.entry(owner.into()).or_default().insert(Arc::clone(uid));
            } else if let Some(below) = self.below.get_mut(owner) {
                below.remove(uid);
                if below.is_empty() {
                    self.below.remove(owner);
                }
            }
        }
    }

    /// Computes the workload of every pod below an owner again.
    fn assign_below(&mut self, owner: &Uid) -> Touched {
        let (mut pods, mut seen, mut waiting) = (Vec::new(), HashSet::new(), vec![Arc::clone(owner)]);
        while let Some(uid) = waiting.pop() {
            for below in self.below.get(&uid).into_iter().flatten() {
                // Owner references may form a cycle.
                if seen.insert(Arc::clone(below)) {
                    if self.pods.contains_key(below) {
                        pods.push(Arc::clone(below));
                    }
                    waiting.push(Arc::clone(below));
                }
            }
        }
        self.assign_all(pods)
    }

    fn assign_all(&mut self, pods: Vec<Uid>) -> Touched {
        let mut touched = Touched::new();
        for uid in pods {
            if self.assign(&uid) {
                touched.extend(self.pods.get(&uid).into_iter().flat_map(Pod::ids));
            }
        }
        touched
    }

    /// Assigns a pod to its workload, and determines whether that is excluded. Returns whether either has changed.
    ///
    /// The policy is not evaluated here, since the caller holds the lock of the cluster: a workload that it has not decided about stays included,
    /// one that has changed since keeps the decision about what it was, and both are queued for [`Self::take_undecided`].
    fn assign(&mut self, uid: &Uid) -> bool {
        let Some(pod) = self.pods.get(uid) else { return false };
        let namespace = pod.meta.namespace.as_deref();
        let found = workload(&pod.meta, |owner| self.owner(&owner.uid, namespace).map(|owner| &owner.meta));
        let owner = self.owner(&found.uid, namespace);
        let found = match self.workloads.get_key_value(&found) {
            Some((known, _)) => Arc::clone(known),
            None => Arc::new(found),
        };
        let marks = owner.map_or(&pod.marks, |owner| &owner.marks);
        let mut excluded = self.selection.excluded(&found, marks, self.namespaces.get(&found.namespace));
        if excluded.is_none() && self.selection.policy.is_some() {
            let subject = match owner {
                Some(_) => Subject::Workload(Arc::clone(&found)),
                None => Subject::Pod(Arc::clone(uid)),
            };
            let decision = self.decisions.get(&subject);
            if decision.is_some_and(|decision| decision.selected == Some(false)) {
                excluded = Some(NOT_SELECTED.into());
            }
            if decision.is_none_or(|decision| decision.version != self.input_version(&found, marks)) {
                self.undecided.insert(subject);
            }
        }
        let changed = pod.workload != found || pod.excluded != excluded;
        let before = Arc::clone(&pod.workload);
        if before != found {
            self.dismiss(uid, &before);
        }
        let none = || Pods { workload: Arc::clone(&found), pods: BTreeSet::new() };
        self.workloads.entry(Arc::clone(&found)).or_insert_with(none).pods.insert(Arc::clone(uid));
        if let Some(pod) = self.pods.get_mut(uid) {
            (pod.workload, pod.excluded) = (found, excluded);
        }
        self.forget_decision(&before);
        changed
    }

    /// Removes a pod from its workload.
    fn dismiss(&mut self, uid: &Uid, from: &Workload) {
        if let Some(entry) = self.workloads.get_mut(from) {
            entry.pods.remove(uid);
            if entry.pods.is_empty() {
                self.workloads.remove(from);
            }
        }
    }
}

/// Returns the UIDs of an object's owners.
fn owners(meta: &ObjectMeta) -> impl Iterator<Item = &str> {
    meta.owner_references.iter().flatten().map(|owner| owner.uid.as_str())
}

/// Returns why no agent can run on a node, if none can.
fn blind(kube: &KubeNode) -> Option<&'static str> {
    let labels = kube.metadata.labels.as_ref();
    let label = |key: &str| labels.and_then(|labels| labels.get(key)).map(String::as_str);
    let info = kube.status.node_info.as_ref();
    let tainted = |key: &str| kube.spec.taints.iter().flatten().any(|taint| taint.key == key);
    if label("eks.amazonaws.com/compute-type") == Some("fargate") || tainted("eks.amazonaws.com/compute-type") {
        return Some("no agent can run on Fargate");
    }
    if label("type") == Some("virtual-kubelet") || tainted("virtual-kubelet.io/provider") {
        return Some("no agent can run on a virtual kubelet");
    }
    let windows = info.is_some_and(|info| info.operating_system == "windows");
    (windows || label("kubernetes.io/os") == Some("windows")).then_some("no agent can run on Windows")
}

#[cfg(test)]
mod tests;
